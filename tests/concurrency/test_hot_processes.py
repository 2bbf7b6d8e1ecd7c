"""The hot table beside a log, under several processes: never torn, never old, and no worse for who dies or stops."""

from __future__ import annotations

import mmap
import os
import random
import resource
import signal
import subprocess
import time

import pytest
from hostile import HANG, ram_directory

from ntmem._core.hot import HotBusy, HotTable
from ntmem._core.log import Log
from ntmem._core.region import Region

KEYS = 40
CAPACITY = 1 << 16

# Each key has a word in a file: its newest acknowledged version, and (bit 0) whether it is deleted. That is the disk,
# too: a value follows from its version.
COMMON = """
import mmap, random, zlib
from ntmem._core.hot import HotBusy, HotTable
from ntmem._core.log import Log
from ntmem._core.logrecords import KIND_DELETE, KIND_NOTICE, KIND_PUT
from ntmem._core.region import Region
region = Region.attach(sys.argv[1], identity=b"a test")
log = Log(region)
hot = HotTable(region, log)
with open(sys.argv[2], "r+b") as file:
    acknowledged = memoryview(mmap.mmap(file.fileno(), 0)).cast("Q")
chance = random.Random(int(sys.argv[3]))
KEYS = [b"key %d" % number for number in range(40)]
def sealed(version):
    body = b"%d/" % version + bytes([version % 251]) * (version * 7 % 1200)
    return body + b"/%d" % zlib.crc32(body)
def record(kind, key, version, value=b""):
    return (kind, 0, b"desk", key, b"w", value, version, version, 0)
"""

WRITER = (
    COMMON
    + """
version, most = int(sys.argv[4]), int(sys.argv[5])
def flush():
    log.advance_flushed(log.committed)  # what is acknowledged is on disk
say("begun")
for _ in range(most):
    version += 1
    number, how = chance.randrange(40), chance.random()
    word = version << 1 | (how < 0.1)
    if log.committed - log.flushed > log.capacity // 2:
        flush()
    if how < 0.1:
        log.append([record(KIND_DELETE, KEYS[number], version)])
        acknowledged[number] = word
    elif how < 0.99:
        log.append([record(KIND_PUT, KEYS[number], version, sealed(version))])
        acknowledged[number] = word
    else:  # past the log
        log.lock(10)
        flush()
        log.raise_barrier()
        hot.raise_floor(log.committed + 1)
        acknowledged[number] = word
        log.append([record(KIND_NOTICE, b"", version)], locked=True)
        log.unlock()
say(version)
"""
)

READER = (
    COMMON
    + """
most, hits, reads = int(sys.argv[4]), 0, 0
say("begun")
while hits < most:
    number = min(chance.randrange(40), chance.randrange(40))
    before = acknowledged[number]
    reads += 1
    value = hot.get(b"desk", KEYS[number])
    if value is not None:
        hits += 1
    else:
        seen = log.committed
        found = log.get(b"desk", KEYS[number])
        if found is not None:
            value = found.value if found.kind == KIND_PUT else None
            assert found.ts_event << 1 | (value is None) >= before, "the log is behind"
        else:
            word = acknowledged[number]
            value = None if word & 1 or not word else sealed(word >> 1)
        if value is not None:
            hot.promote(b"desk", KEYS[number], value, seen)
    if value is None:
        continue
    body, _, crc = value.rpartition(b"/")
    assert int(crc) == zlib.crc32(body), "torn"
    version = int(body.split(b"/")[0])
    assert version << 1 >= before, f"version {version} is older than {before >> 1}"
say(hits)
"""
)

PUTTER = (
    COMMON
    + """
say("begun")
number = 0
while True:
    number += 1
    hot.put(b"own", b"%d" % (number % 50), bytes([number % 251]) * int(sys.argv[4]))
"""
)


class Table:
    """A log, a hot table beside it, and the file of acknowledged words."""

    def __init__(self, directory, *, max_bytes=1 << 17, max_entries=35, stripes=4, slots=16):
        sections = [*Log.sections(CAPACITY, slots), *HotTable.sections(max_bytes, max_entries, stripes)]
        self.region = Region.create(directory / "region", identity=b"a test", generation=1, sections=sections)
        self.log = Log.create(self.region)
        self.hot = HotTable.create(self.region, max_bytes, max_entries, stripes, log=self.log)
        self.region.publish()
        self.file = directory / "acknowledged"
        self.file.write_bytes(bytes(8 * KEYS))
        with open(self.file, "r+b") as file:
            self.words = memoryview(mmap.mmap(file.fileno(), 0)).cast("Q")

    @property
    def places(self):
        return self.region.path, self.file

    @property
    def newest(self):
        return max(self.words) >> 1


@pytest.fixture
def table():
    with ram_directory() as directory:
        yield Table(directory)


def until(reached):
    deadline = time.monotonic() + HANG
    while not reached():
        assert time.monotonic() < deadline


def begun(*children):
    for child in children:
        assert child.line() == "begun"


def check_accounts(hot):
    """While nobody changes it, it has as many entries as it says, and no more than it may."""
    keys = [(b"desk", b"key %d" % number) for number in range(KEYS)] + [
        (b"own", b"%d" % number) for number in range(50)
    ]
    keys.append((b"probe", b"k"))  # of stopped_with_the_lock
    assert sum(hot.forget(*key) for key in keys) <= hot.limits[1]
    assert (len(hot), hot.live_bytes) == (0, 0)


def test_readers_beside_a_hostile_writer(start, table):
    writer = start(WRITER, *table.places, 1, 0, 60_000)
    readers = [start(READER, *table.places, seed, 30_000) for seed in (2, 3)]
    begun(writer, *readers)
    assert [int(reader.line()) for reader in readers] == [30_000, 30_000]
    assert int(writer.line()) == 60_000
    assert table.log.committed > 20 * CAPACITY
    check_accounts(table.hot)


@pytest.mark.crash
def test_killed_promoters_leave_a_table_that_goes_on(start, table):
    writer, reader = start(WRITER, *table.places, 1, 0, 1_000_000_000), start(READER, *table.places, 2, 100_000)
    chance = random.Random(7)
    begun(writer, reader)
    for number in range(12):
        promoter = start(READER, *table.places, 10 + number, 1_000_000_000)
        begun(promoter)
        newest = table.newest + chance.randrange(1000)
        until(lambda newest=newest: table.newest > newest)
        promoter.kill()
    for number in range(3):  # and those who put into the table alone
        putter = start(PUTTER, *table.places, number, 1500)
        begun(putter)
        until(lambda: table.hot.get(b"own", b"1") or table.hot.get(b"own", b"2"))
        putter.kill()
        assert table.hot.put(b"own", b"after", b"v")
        assert table.hot.get(b"own", b"after") == b"v"
        table.hot.forget(b"own", b"after")
        table.hot.clear()
    assert int(reader.line()) == 100_000
    writer.kill()
    table.hot.clear()
    assert table.hot.put(b"own", b"1", b"v")
    check_accounts(table.hot)


def stopped_with_the_lock(start, table):
    """A process that has been stopped while it had the lock of the only stripe."""
    child = start(PUTTER, *table.places, 1, 12_000)
    begun(child)
    until(lambda: table.hot.get(b"own", b"1") is not None)
    deadline = time.monotonic() + HANG
    while True:
        child.stop()
        if not table.hot.promote(b"probe", b"k", b"v", 1) and not table.hot.promote(b"probe", b"k", b"v", 1):
            return child
        child.signal(signal.SIGCONT)
        assert time.monotonic() < deadline


@pytest.mark.crash
@pytest.mark.parametrize("end", ["continued", "killed"])
def test_a_stopped_owner_of_a_lock_stops_nobody(start, end):
    with ram_directory() as directory:
        table = Table(directory, max_bytes=1 << 20, max_entries=60, stripes=1)
        hot = table.hot
        table.log.append([(1, 0, b"desk", b"key 1", b"w", b"old", 1, 1, 0)])
        hot.promote(b"desk", b"key 1", b"old", table.log.committed)
        owner = stopped_with_the_lock(start, table)
        before = resource.getrusage(resource.RUSAGE_THREAD)
        for number in range(1000):  # neither readers, nor promoters, nor writers of the log
            if number % 10 == 0:
                table.log.append([(1, 0, b"desk", b"key 1", b"w", b"%d" % number, 1, 1, 0)])
                assert hot.get(b"desk", b"key 1") is None  # the log knows a newer one
            assert hot.get(b"own", b"1") in (None, bytes([hot_byte(hot)]) * 12_000)
            assert not hot.promote(b"desk", b"key 1", b"%d" % number, table.log.committed)
        spent = resource.getrusage(resource.RUSAGE_THREAD)  # not by the clock: others are at work here
        assert spent.ru_nvcsw - before.ru_nvcsw < 100, "somebody has slept"
        assert spent.ru_utime - before.ru_utime < 5, "somebody has spun"
        who = f"{owner.pid}|unknown"  # or stopped before it said who it is
        with pytest.raises(HotBusy, match=f"process ({who}) has a lock"):
            hot.put(b"own", b"mine", b"v")
        with pytest.raises(HotBusy):
            hot.forget(b"own", b"mine")
        with pytest.raises(HotBusy):
            hot.clear()
        if end == "continued":
            owner.signal(signal.SIGCONT)
            until(lambda: hot.promote(b"desk", b"key 1", b"990", table.log.committed))
            owner.kill()
        else:
            owner.kill()
            assert hot.promote(b"desk", b"key 1", b"990", table.log.committed)
            assert (hot.get(b"desk", b"key 1"), len(hot)) == (b"990", 1)  # what was half done is gone, and all else
        assert hot.put(b"own", b"mine", b"v")
        assert hot.get(b"own", b"mine") == b"v"
        hot.forget(b"own", b"mine")
        check_accounts(hot)


def hot_byte(hot):
    value = hot.get(b"own", b"1")
    return value[0] if value else 0


def test_what_was_looked_for_before_a_change_is_not_served_after_it(table):
    log, hot = table.log, table.hot
    put = lambda value: (1, 0, b"desk", b"key 1", b"w", value, 1, 1, 0)  # noqa: E731
    log.append([put(b"old")])
    seen, value = log.committed, log.get(b"desk", b"key 1").value
    log.append([put(b"new")])
    assert hot.promote(b"desk", b"key 1", value, seen)  # it is in there
    assert hot.get(b"desk", b"key 1") is None
    hot.promote(b"desk", b"key 1", log.get(b"desk", b"key 1").value, log.committed)
    assert hot.get(b"desk", b"key 1") == b"new"
    assert not hot.promote(b"desk", b"key 1", value, seen)
    assert hot.get(b"desk", b"key 1") == b"new"


def test_expired_values_are_not_served_by_the_clock_of_the_log(table):
    table.log.set_clock(1_000)
    now = table.log.now()
    table.hot.promote(b"desk", b"past", b"v", 1, now)
    table.hot.promote(b"desk", b"to come", b"v", 1, now + 10**15)
    assert (table.hot.get(b"desk", b"past"), table.hot.get(b"desk", b"to come")) == (None, b"v")


# -- memory that is not to be had

FILLER = """
from ntmem._core.hot import HotTable
from ntmem._core.region import Region
from pathlib import Path
size = 64 << 20
region = Region.create(Path(sys.argv[1], "region"), identity=b"", generation=0, sections=HotTable.sections(size, 10**5))
hot = HotTable.create(region, size, 10**5)
say("made")
hear()
kept, oracle = 0, {}
for number in range(20_000):
    key = b"%d" % (number * 7 % 5000)
    oracle[key] = b"%d/" % number + bytes(number * 13 % 4000)
    kept += hot.put(b"desk", key, oracle[key])
found = sum(1 for key, value in oracle.items() if hot.get(b"desk", key) == value)
assert found == len(hot), (found, len(hot))
say(kept, found, hot.memory_bytes)
"""


@pytest.mark.parametrize("beside", [0, 5 << 20, 7 << 20])
def test_a_full_file_system_makes_it_smaller_and_ends_nobody(start, ram, beside):
    """Of a file system of 8 MiB others have so many bytes when the table, of 64 MiB, begins to take its own."""
    if os.getuid() != 0:
        pytest.skip("mounting a file system needs root")
    place = ram / "small"
    place.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", place], check=False).returncode:
        pytest.skip("mount is not allowed here")
    try:
        child = start(FILLER, place)
        assert child.line() == "made"
        (place / "others").write_bytes(bytes(beside))
        child.tell()
        kept, found, memory = map(int, child.line().split())
        left = os.statvfs(place)
        assert left.f_bavail >= left.f_blocks // 8 - 64 or beside == 7 << 20  # others can go on
        if beside < 7 << 20:
            assert kept > 100
            assert found > 0
            assert (1 << 18) < memory < 8 << 20
        else:
            assert (kept, found) == (0, 0)
        child.end()
    finally:
        subprocess.run(["umount", "-l", place], check=True)
