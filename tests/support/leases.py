"""Leases beside a log on a RAM disk, and what must be true of them whoever died."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from hostile import HANG, ram_directory
from logs import IDENTITY

from ntmem._core.leases import Lease, LeaseTable
from ntmem._core.log import Log
from ntmem._core.region import Region

LONG = 3_600 * 10**9
"""Nanoseconds that no test takes."""

OPEN = """
from ntmem._core.leases import LeaseTable
log = open_log({path!r})
leases = LeaseTable(log)
"""
"""For a process of a Nursery."""


class Leases:
    """A table of leases and the log beside it."""

    def __init__(self, log: Log, table: LeaseTable) -> None:
        self.log = log
        self.table = table

    def __getattr__(self, name: str) -> Any:
        return getattr(self.table, name)


@contextlib.contextmanager
def new_leases(capacity: int = 1 << 14, slots: int = 64, *, first: int = 1, limit: int = 1 << 40) -> Iterator[Leases]:
    """Give the leases of a published region, which is gone after the block."""
    with ram_directory() as directory:
        sections = [*Log.sections(capacity, slots), *LeaseTable.sections()]
        region = Region.create(directory / "region", identity=IDENTITY, generation=1, sections=sections)
        log = Log.create(region)
        leases = Leases(log, LeaseTable.create(log, first, limit))
        region.publish()
        yield leases


def take(leases: Leases, name: bytes, ttl: int = LONG) -> Lease:
    """Acquire; fail if that is never granted."""
    lease = leases.acquire(name, b"test", ttl, HANG)
    assert lease is not None, "it was never granted"
    return lease


def check_sound(leases: Leases) -> None:
    """While nobody changes it, it says the same in all ways, and works."""
    rows = leases.list()
    assert leases.counts["held"] == sum(row[2] != 0 for row in rows)
    assert len({row[0] for row in rows}) == len(rows), "a name twice"
    numbers = [row[2] for row in rows if row[2]]
    assert len({*numbers}) == len(numbers), "a number twice"
    assert max(numbers, default=0) < leases.next_number
    for row in rows:
        found = leases.list(row[0])
        if row[2] or found:  # what is free, and waited for by the dead only, goes when they have not looked for a while
            assert found[0][:4] == row[:4]
        if row[2]:
            claim = leases.claim(row[0], row[2])
            assert claim is not None
            assert claim.is_current == (row[5] > 0)
    for number in range(3):
        name = b"sound %d" % number
        before = leases.next_number
        lease = take(leases, name)
        assert lease.number == before
        assert leases.acquire(name, b"another", LONG, 0.0) is None
        assert lease.release()
        assert not lease.is_current
