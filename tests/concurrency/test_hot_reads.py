"""Readers beside a hostile writer, through the facade: checksummed values, none older than was acknowledged before.

``NTMEM_HOT_READS`` says how many reads; ``make hot`` (HOT_READS=) has 20 million.
"""

from __future__ import annotations

import os
import random
import time

import pytest
from hostile import HANG

import ntmem

pytestmark = [pytest.mark.usefixtures("engine"), pytest.mark.only("shared")]

READS = int(os.environ.get("NTMEM_HOT_READS", "300000"))
KEYS = 60
WORDS = 2 * KEYS  # of each key: what was acknowledged, and what was begun; version << 1 | whether it is deleted

COMMON = """
import mmap, random, zlib
place, words = sys.argv[1:3]
with open(words, "r+b") as file:
    words = memoryview(mmap.mmap(file.fileno(), 0)).cast("Q")
chance = random.Random(int(sys.argv[3]))
KEYS = [f"key {number}" for number in range(60)]
TRIO, SPACES = KEYS[:3], ["desk"] * 40 + ["desk/below"] * 20
def sealed(version):
    body = b"%d/" % version + bytes([version % 251]) * (version * 7 % 1500)
    return body + b"/%d" % zlib.crc32(body)
"""

WRITER = (
    COMMON
    + """
memory = ntmem.open(place)
version = 0
def begin(numbers, deleted=False):
    global version
    version += 1
    for number in numbers: words[60 + number] = version << 1 | deleted
def acknowledge(numbers):
    for number in numbers: words[number] = words[60 + number]
say("begun")
while not os.path.exists(place + "/stop"):
    number, how = min(chance.randrange(3, 60), chance.randrange(3, 60)), chance.random()
    space, key = SPACES[number], KEYS[number]
    if how < 0.7:
        begin([number]); memory.put(space, key, sealed(version)); acknowledge([number])
    elif how < 0.8:
        begin([number], True); memory.delete(space, key); acknowledge([number])
    elif how < 0.9:
        numbers = [0, 1, 2]
        begin(numbers)
        with memory.transaction() as t:
            for n in numbers: t.put(SPACES[n], KEYS[n], sealed(version))
        acknowledge(numbers)
    elif how < 0.94:
        numbers = range(10, 30)
        begin(numbers); memory.put_many("desk", {KEYS[n]: sealed(version) for n in numbers}); acknowledge(numbers)
    elif how < 0.96:
        begin([number]); memory.put(space, key, sealed(version), ttl=3600); acknowledge([number])
    elif how < 0.98:
        begin([number], True); memory.put(space, key, b"never", ttl=1e-9); acknowledge([number])
    elif how < 0.984:  # past the log
        numbers = range(20, 60)
        begin(numbers)
        with memory.transaction() as t:
            for n in numbers: t.put(SPACES[n], KEYS[n], sealed(version))
            for n in range(60): t.put("filler", f"{n}", bytes(1000))
        acknowledge(numbers)
    elif how < 0.988:
        numbers = range(40, 60)
        begin(numbers, True); memory.delete_namespace("desk/below"); acknowledge(numbers)
    elif how < 0.989:
        memory.retain("another", history=chance.random() < 0.5)
    else:
        for n in range(100): memory.put("filler", f"{n}", bytes(500))
say(version)
memory.close()
"""
)

READER = (
    COMMON
    + """
memory = ntmem.open(place, read_only=sys.argv[5] == "read_only")
reads, most, last = 0, int(sys.argv[4]), [0] * 3
def check(number, value, before):
    if value is None:
        assert before & 1 or not before or words[60 + number] != before, f"{KEYS[number]}: {before >> 1} is lost"
        return 0
    body, _, crc = value.rpartition(b"/")
    assert int(crc) == zlib.crc32(body), f"{KEYS[number]} is torn"
    version = int(body.split(b"/")[0])
    assert before <= version << 1 <= words[60 + number] | 1, f"{KEYS[number]}: {version}, and {before >> 1} was known"
    return version
say("begun")
while reads < most:
    how = chance.random()
    if how < 0.1:
        seen = []
        for n in (0, 1, 2):
            before = words[n]
            seen.append(check(n, memory.get("desk", KEYS[n]), before))
        assert seen == sorted(seen), f"a transaction in parts: {seen}"
        reads += 3
    elif how < 0.12:
        before = words[:60].tolist()
        numbers = chance.sample(range(40), 5)
        found = memory.get_many("desk", [KEYS[n] for n in numbers])
        for n in numbers: check(n, found.get(KEYS[n]), before[n])
        reads += 5
    else:
        number = min(chance.randrange(60), chance.randrange(60))
        before = words[number]
        check(number, memory.get(SPACES[number], KEYS[number]), before)
        reads += 1
say(reads)
memory.close()
"""
)


@pytest.fixture
def words(ram):
    (ram / "words").write_bytes(bytes(8 * WORDS))
    return ram / "words"


@pytest.mark.parametrize("cache", [1 << 14, 1 << 20])
def test_readers_beside_a_hostile_writer(ram, start, words, cache):
    config = ntmem.CacheConfig(max_bytes=cache, max_entries=50)
    with ntmem.open(ram / "store", log_bytes=1 << 16, flush_interval=0.001, cache_config=config) as memory:
        writer = start(WRITER, ram / "store", words, 1)
        readers = [
            start(READER, ram / "store", words, number, READS // 4, how) for number, how in ((2, ""), (3, "read_only"))
        ]
        for child in (writer, *readers):
            assert child.line() == "begun"
        for reader in readers:
            reader.process.wait(timeout=HANG + READS / 10_000)
            assert int(reader.end()) >= READS // 4
        (ram / "store/stop").touch()
        assert int(writer.end()) > 100
        counts = memory._live.store.hot.counts()
        assert counts["hot"] > READS // 20


@pytest.mark.crash
def test_readers_that_are_killed_beside_a_hostile_writer(ram, start, words):
    config = ntmem.CacheConfig(max_bytes=1 << 15, max_entries=50)
    chance = random.Random(5)
    with ntmem.open(ram / "store", log_bytes=1 << 16, flush_interval=0.001, cache_config=config) as memory:
        writer, reader = (
            start(WRITER, ram / "store", words, 1),
            start(READER, ram / "store", words, 2, READS // 4, ""),
        )
        assert writer.line() == reader.line() == "begun"
        for number in range(8):
            victim = start(READER, ram / "store", words, 10 + number, 1 << 60, "")
            assert victim.line() == "begun"
            until = sum(memory._live.store.hot.counts().values()) + chance.randrange(20_000)
            deadline = time.monotonic() + HANG
            while sum(memory._live.store.hot.counts().values()) < until:
                assert time.monotonic() < deadline
            victim.kill()
        reader.process.wait(timeout=HANG + READS / 10_000)
        assert int(reader.end()) >= READS // 4
        (ram / "store/stop").touch()
        assert int(writer.end()) > 100
        hot = memory._live.store.hot
        hot.clear()
        kept = [n for n in range(40) if hot.put(b"own", b"%d" % n, b"v")]
        assert len(hot) == len(kept) > 30
