"""The hot table under several processes: never torn, never back in time, and no worse for a killed writer."""

from __future__ import annotations

import pytest
from hostile import ram_directory

from ntmem._core.hot import HotTable
from ntmem._core.region import Region

COMMON = """
import random, zlib
from ntmem._core.hot import HotTable
from ntmem._core.region import Region
hot = HotTable(Region.attach(sys.argv[1], identity=b"a test"))
chance = random.Random(int(sys.argv[2]))
KEYS = [b"key %d" % number for number in range(40)]
"""

WRITER = (
    COMMON
    + """
def sealed(version):
    body = b"%d/" % version + bytes([version % 251]) * chance.randrange(1200)
    return body + b"/%d" % zlib.crc32(body)
version = int(sys.argv[3])
say("begun")
for _ in range(int(sys.argv[4])):
    version += 1
    key = KEYS[chance.randrange(40)]
    if chance.random() < 0.1:
        hot.forget(b"desk", key, version)
    else:
        hot.put(b"desk", key, sealed(version), version)
say(version)
"""
)

READER = (
    COMMON
    + """
newest, hits, reads = {}, 0, 0
say("begun")
while hits < int(sys.argv[3]):
    key = KEYS[chance.randrange(40)]
    value = hot.get(b"desk", key)
    reads += 1
    if value is None:
        continue
    hits += 1
    body, _, crc = value.rpartition(b"/")
    assert int(crc) == zlib.crc32(body), "torn"
    version = int(body.split(b"/")[0])
    assert version >= newest.get(key, 0), "back in time"
    newest[key] = version
say(hits)
"""
)


@pytest.fixture
def hot():
    with ram_directory() as directory:
        sections = HotTable.sections(1 << 17, 60)
        region = Region.create(directory / "region", identity=b"a test", generation=0, sections=sections)
        table = HotTable.create(region, 1 << 17, 60)
        region.publish()
        yield table


def test_readers_beside_a_hostile_writer(start, hot):
    writer = start(WRITER, hot.region.path, 1, 0, 150_000)
    readers = [start(READER, hot.region.path, seed, 60_000) for seed in (2, 3)]
    for child in [writer, *readers]:
        assert child.line() == "begun"
    assert [int(reader.line()) for reader in readers] == [60_000, 60_000]
    assert int(writer.line()) == 150_000


@pytest.mark.crash
def test_a_killed_writer_leaves_a_table_that_goes_on(start, hot):
    reader = start(READER, hot.region.path, 9, 60_000)
    assert reader.line() == "begun"
    version = 0
    for number in range(12):
        writer = start(WRITER, hot.region.path, number, version, 1_000_000_000)
        assert writer.line() == "begun"
        while hot.changes(b"desk", b"key 1") < 500 * (number + 1):
            pass
        writer.process.kill()
        writer.process.wait()
        version += 10_000_000
        assert hot.put(b"desk", b"after", b"%d" % number, version)
        assert hot.get(b"desk", b"after") == b"%d" % number
    writer = start(WRITER, hot.region.path, 77, version, 200_000)
    assert writer.line() == "begun"
    assert int(reader.line()) == 60_000
