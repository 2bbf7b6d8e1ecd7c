"""The memory of a hot table: taken as it is needed, and refused when its first words are not sound."""

from __future__ import annotations

import os
import struct

import pytest
from hottables import table

from ntmem._core.hot import HotTable
from ntmem._core.region import Region


def taken(hot):
    return os.fstat(hot.region.fileno()).st_blocks * 512


def test_memory_is_taken_step_by_step():
    hot = table(64 << 20, 1000, 4)
    steps = [hot.memory_bytes]
    assert taken(hot) < 1 << 20
    for number in range(400):
        hot.put(b"desk", b"%d" % number, bytes(40_000))
        steps.append(hot.memory_bytes)
    assert steps == sorted(steps)
    assert steps[0] < 1 << 20
    assert len(set(steps)) > 50
    assert hot.live_bytes < steps[-1] < taken(hot) + (1 << 16) < hot.region.size + (1 << 16)
    for number in range(3000):
        hot.put(b"desk", b"%d" % number, bytes(40_000))
    assert steps[-1] < hot.memory_bytes <= hot.region.size


# -- what is no table


def words(hot):
    """Where the table's head stands in its file."""
    with open(hot.region.path, "rb") as file:
        header = file.read(4096)
    for number in range(16):
        kind, _, offset, _ = struct.unpack_from("<IIQQ", header, 40 + 256 + 24 * number)
        if kind == 3:
            return offset
    raise AssertionError("there is no such section")


@pytest.mark.parametrize(
    ("word", "value"),
    [
        (0, 0),
        (0, 0x3130746F682E746E),  # of the layout before
        (1, 0),
        (1, 4097),
        (1, 65),
        (1, (1 << 64) - 1),
        (2, 0),
        (2, 1),
        (2, 3),
        (2, 1 << 26),
        (2, 1 << 63),
        (2, (1 << 64) - 1),
        (3, 0),
        (3, 8191),
        (3, 1 << 34),
        (3, (1 << 64) - 64),
    ],
)
def test_a_head_that_is_not_sound_is_refused(word, value, ram):
    hot = table(1 << 21, 4000, path=ram / "region")
    hot.region.publish()
    assert hot.limits[2] == 64
    with open(ram / "region", "r+b") as file:
        file.seek(words(hot) + 8 * word)
        file.write(struct.pack("<Q", value))
    region = Region.attach(ram / "region", identity=b"a test")
    with pytest.raises(ValueError, match="no sound hot table"):
        HotTable(region)


def test_a_section_without_a_table_is_refused():
    region = Region.create(None, identity=b"", generation=0, sections=HotTable.sections(1 << 16, 10))
    with pytest.raises(ValueError, match="no sound hot table"):
        HotTable(region)
    HotTable.create(region, 1 << 16, 10)
    with pytest.raises(ValueError, match="has a table already"):
        HotTable.create(region, 1 << 16, 10)
    assert HotTable(region).put(b"a", b"b", b"c")


def test_a_region_without_the_section_is_refused():
    region = Region.create(None, identity=b"", generation=0, sections=[(9, 100, 0)])
    with pytest.raises(ValueError, match="has no section"):
        HotTable(region)
