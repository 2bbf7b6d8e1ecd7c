"""Hot tables without a log, for tests."""

from __future__ import annotations

from ntmem._core.hot import HotTable
from ntmem._core.region import Region


def table(max_bytes=1 << 16, max_entries=40, stripes=64, *, ttl=0, path=None):
    """Make a table in a region of its own."""
    sections = HotTable.sections(max_bytes, max_entries, stripes)
    region = Region.create(path, identity=b"a test", generation=0, sections=sections)
    return HotTable.create(region, max_bytes, max_entries, stripes, ttl=ttl)


def present(hot, keys, namespace=b"desk"):
    """Return those keys that the table has."""
    return [key for key in keys if hot.get(namespace, key) is not None]
