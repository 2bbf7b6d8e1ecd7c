"""Processes that publish and read at once: nothing torn, in order, and what was missed is counted to the message.

``NTMEM_RING_MESSAGES`` says how many messages each of three publishers sends, ``NTMEM_RING_ROUNDS`` how often two
processes wake each other.
"""

from __future__ import annotations

import os
import signal
import struct
import zlib

import pytest
from hostile import Start
from rings import LEAST, follow, published_ring

COUNT = int(os.environ.get("NTMEM_RING_MESSAGES", "10000"))
ROUNDS = int(os.environ.get("NTMEM_RING_ROUNDS", "20000"))
PUBLISHERS = 3

OPEN = """
import random, struct, zlib
from ntmem._core.region import Region
from ntmem._core.ring import *
ring = Ring(Region.attach(sys.argv[1], identity=b"a test"))
def payload(row, number, size):
    body = struct.pack("<HI", row, number) + bytes([number % 251]) * size
    return body + zlib.crc32(body).to_bytes(4, "little")
def check(message):
    body, crc = message.payload[:-4], int.from_bytes(message.payload[-4:], "little")
    assert zlib.crc32(body) == crc, f"torn: {message!r}"
    row, number = struct.unpack_from("<HI", body)
    assert message.topic == f"of/{row}" and message.sender == f"publisher {row}", message
    return row, number
"""

PUBLISH = (
    OPEN
    + """
row, count = int(sys.argv[2]), int(sys.argv[3])
chance = random.Random(row)
topic, sender = b"of\\0%d" % row, b"publisher %d" % row
say("ready")
hear()
number = 0
while number < count:
    many = min(count - number, chance.choice([1, 1, 1, 2, 10, 50]))
    sizes = [chance.choice([0, 8, 64, 300, 1500]) for _ in range(many)]
    payloads = [payload(row, number + n, size) for n, size in enumerate(sizes)]
    if many == 1:
        ring.publish(topic, payloads[0], sender, timeout=60)
    else:
        ring.publish_many(topic, payloads, sender, timeout=60)
    number += many
"""
)

READ = (
    OPEN
    + """
end, pattern, slow = int(sys.argv[2]), sys.argv[3].replace("/", "\\0").encode(), int(sys.argv[4])
reader = RingReader(ring, Pattern(pattern), since=0)
say("ready")
received, lagged, last, seq = 0, 0, {}, 0
while reader.position < end:
    reader.wait(1)
    for message in reader.read(5 if slow else 300):
        row, number = check(message)
        assert number > last.get(row, -1), f"{number} of {row} after {last[row]}"
        assert message.seq > seq
        last[row], seq = number, message.seq
        received += 1
        lagged += message.lagged
        if slow:
            time.sleep(0.0002)
reader.read(0)
assert lagged <= reader.lagged
say(received, reader.lagged)
"""
)


@pytest.mark.parametrize("size", [LEAST, 1 << 20, 1 << 26])
def test_publishers_and_readers(start: Start, size: int) -> None:
    total = PUBLISHERS * COUNT
    with published_ring(size) as ring:
        patterns = [">", "of/*", "of/1", ">"]
        readers = [
            start(READ, ring.region.path, total, pattern, int(n == 3 and size == LEAST))
            for n, pattern in enumerate(patterns)
        ]
        publishers = [start(PUBLISH, ring.region.path, row, COUNT) for row in range(PUBLISHERS)]
        for child in readers + publishers:
            assert child.line() == "ready"
        for publisher in publishers:
            publisher.tell()
        for publisher in publishers:
            publisher.end()
        assert ring.last == total
        for pattern, reader in zip(patterns, readers, strict=False):
            received, lagged = map(int, reader.line().split())
            reader.end()
            if pattern == "of/1":  # the lag may be of any topic
                assert COUNT - lagged <= received <= COUNT
            else:
                assert received + lagged == total
            if size == 1 << 26 and COUNT <= 10_000:
                assert lagged == 0


def test_a_stopped_reader_delays_nobody(start: Start) -> None:
    with published_ring() as ring:
        reader = start(READ, ring.region.path, COUNT, ">", 0)
        assert reader.line() == "ready"
        for number in range(COUNT):
            if number == COUNT // 3:
                reader.stop()
            body = struct.pack("<HI", 7, number) + bytes(100)
            whole = body + zlib.crc32(body).to_bytes(4, "little")
            assert ring.publish(b"of\x007", whole, b"publisher 7") == number + 1
        reader.signal(signal.SIGCONT)
        received, lagged = map(int, reader.line().split())
        assert received + lagged == COUNT
        assert lagged > 0
        reader.end()


PING = (
    OPEN
    + """
mine, yours, pattern = [word.replace("/", "\\0").encode() for word in sys.argv[2:5]]
rounds, first = int(sys.argv[5]), int(sys.argv[6])
reader = RingReader(ring, Pattern(pattern))
say("ready")
hear()
if first:
    ring.publish(yours, b"0", b"s")
for number in range(rounds):
    while not reader.wait(60): pass
    (message,) = reader.read()
    assert int(message.payload) == 2 * number + first, (message, number)
    ring.publish(yours, b"%d" % (2 * number + first + 1), b"s")
assert reader.lagged == 0
say("done")
"""
)


@pytest.mark.parametrize(("left", "right"), [("a/left", "a/right"), ("*/left", "*/right"), ("a/left", "b/>")])
def test_no_wake_up_is_lost(start: Start, left: str, right: str) -> None:
    """Each lost one would cost a slice of 50 ms, and all of them more than any test may take."""
    with published_ring() as ring:
        topics = [pattern.replace("*", "x").replace(">", "c/d") for pattern in (left, right)]
        first = start(PING, ring.region.path, topics[0], topics[1], left, ROUNDS, 1)
        second = start(PING, ring.region.path, topics[1], topics[0], right, ROUNDS, 0)
        for child in (first, second):
            assert child.line() == "ready"
        second.tell()
        first.tell()
        for child in (first, second):
            assert child.line() == "done"
            child.end()


WAIT = (
    OPEN
    + """
reader = RingReader(ring, Pattern(sys.argv[2].replace("/", "\\0").encode()))
say("ready")
for line in sys.stdin:
    while not reader.wait(60): pass
    say(*[message.payload.decode() for message in reader.read()])
"""
)


def test_those_who_wait_for_a_topic_are_woken(start: Start) -> None:
    with published_ring() as ring:
        topics = [f"t/{number}" for number in range(6)]
        children = [start(WAIT, ring.region.path, pattern) for pattern in [*topics, "t/*", ">"]]
        for child in children:
            assert child.line() == "ready"
        for number, topic in enumerate(topics):
            for child in (children[number], *children[6:]):
                child.tell()
            ring.publish(topic.replace("/", "\0").encode(), b"%d" % number, b"s")
            for child in (children[number], *children[6:]):
                assert child.line() == str(number)
        for child in children:
            child.end()


def test_signals_are_seen_while_waiting(start: Start) -> None:
    with published_ring() as ring:
        child = start(
            OPEN
            + """
signal.signal(signal.SIGINT, signal.default_int_handler)  # it may have been ignored by who started us
reader = RingReader(ring, Pattern(b"a"))
try:
    say("waits")
    reader.wait(1000)
except KeyboardInterrupt: say("interrupted")
""",
            ring.region.path,
        )
        assert child.line() == "waits"
        child.signal(signal.SIGINT)
        assert child.line() == "interrupted"
        child.end()


def test_a_reader_in_this_process_beside_others(start: Start) -> None:
    """The longest way: every message of three processes passes through one reader with a capacity."""
    with published_ring() as ring:
        reader = follow(ring, b"of\0>", capacity=20)
        publishers = [start(PUBLISH, ring.region.path, row, COUNT // 4) for row in range(PUBLISHERS)]
        for child in publishers:
            assert child.line() == "ready"
            child.tell()
        received = seq = 0
        while reader.position < COUNT // 4 * PUBLISHERS:
            reader.wait(1)
            for message in reader.read(7):
                body, crc = message.payload[:-4], message.payload[-4:]
                assert zlib.crc32(body) == int.from_bytes(crc, "little")
                assert message.seq > seq
                seq = message.seq
                received += 1
        assert received + reader.lagged == COUNT // 4 * PUBLISHERS
        for child in publishers:
            child.end()
