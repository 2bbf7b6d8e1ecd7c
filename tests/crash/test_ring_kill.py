"""Publishers and readers that die or stop at every step: what was acknowledged is there once, and nothing is torn.

``NTMEM_RING_KILLS`` says how many random kills there are.
"""

from __future__ import annotations

import os
import random
import struct
import time
import zlib
from collections.abc import Iterator
from pathlib import Path

import pytest
from hostile import Start
from logs import Nursery
from rings import LEAST, follow, published_ring, whole

from ntmem._core.ring import Message, PublisherStalled, Ring, RingReader

pytestmark = pytest.mark.crash

KILLS = int(os.environ.get("NTMEM_RING_KILLS", "40"))
BEFORE = ["ring_locked", "ring_reserved", "ring_half_written", "ring_written"]  # it was never published
AFTER = ["ring_committed", "ring_announced"]
POINTS = BEFORE + AFTER
READING = ["ring_headed", "ring_looked", "ring_half_copied", "ring_copied"]

OPEN = """
import random, struct, zlib
from ntmem._core.ring import *
ring = Ring(Region.attach({path!r}, identity=b"a test"))
def sealed(number, size):
    body = struct.pack("<Q", number) + bytes([number % 251]) * size
    return body + zlib.crc32(body).to_bytes(4, "little")
def number_of(message):
    body = message.payload[:-4]
    assert zlib.crc32(body).to_bytes(4, "little") == message.payload[-4:], f"torn: {{message!r}}"
    assert message.topic == "t" and message.sender in ("s", "dying"), message
    return struct.unpack_from("<Q", body)[0]
"""


def sealed(number: int, size: int) -> bytes:
    body = struct.pack("<Q", number) + bytes([number % 251]) * size
    return body + zlib.crc32(body).to_bytes(4, "little")


def number_of(message: Message) -> int:
    body = message.payload[:-4]
    assert zlib.crc32(body).to_bytes(4, "little") == message.payload[-4:], f"torn: {message!r}"
    assert message.topic == "t"
    return struct.unpack_from("<Q", body)[0]


@pytest.fixture(params=[0, 300, 1000], ids=["new", "half full", "turned"])
def ring(request: pytest.FixtureRequest) -> Iterator[Ring]:
    with published_ring() as ring:
        publish(ring, request.param)
        yield ring


def publish(ring: Ring, count: int, size: int = 40) -> None:
    """Numbers are those of the messages."""
    for _ in range(count):
        number = ring.last + 1
        assert ring.publish(b"t", sealed(number, size), b"s", timeout=0.01) == number


def code(ring: Ring, *lines: str) -> str:
    return "\n".join([OPEN.format(path=str(ring.region.path)), *lines])


def dying(ring: Ring, how: str, number: int) -> str:
    """Publish something; what is in it begins with `number`."""
    payloads = {
        "one": f"[sealed({number}, 100)]",
        "large": f"[sealed({number}, ring.limit - 100)]",
        "many": f"[sealed({number} + n, 40) for n in range(50)]",
    }
    return f"ring.publish_many(b't', {payloads[how]}, b'dying')"


COUNTS = {"one": 1, "large": 1, "many": 50}


def drain(reader: RingReader) -> list[int]:
    """Return the numbers of what is there, which has to be whole and without gaps."""
    found: list[int] = []
    while taken := reader.read():
        for message in taken:
            assert number_of(message) == message.seq
            assert not found or message.seq == found[-1] + message.lagged + 1
            found.append(message.seq)
    return found


# ---- publishers ----


@pytest.mark.parametrize("how", COUNTS)
@pytest.mark.parametrize("point", POINTS)
def test_who_is_killed_while_it_publishes(nursery: Nursery, ring: Ring, point: str, how: str) -> None:
    readers = [follow(ring), follow(ring, b"t"), follow(ring, b"*")]
    for again in range(4):
        before = ring.last
        script = code(ring, f"arm({point!r}, 'kill')", dying(ring, how, before + 1), "os._exit(7)")
        assert nursery.run(script)[0] == "killed"
        done = COUNTS[how] * (point in AFTER)
        assert ring.last == before + done
        expected = [*range(before + 1, before + 1 + done)]
        if again % 2:  # before anybody has taken the mutex, or behind it
            publish(ring, 3, size=again)
            expected += range(before + 1 + done, before + 4 + done)
        for reader in readers:
            assert drain(reader) == expected
    publish(ring, 2000)
    for reader in readers:
        found = drain(reader)
        assert found[-1] == ring.last
        assert len(found) + reader.lagged == 2000


@pytest.mark.parametrize("how", COUNTS)
@pytest.mark.parametrize("point", BEFORE)
def test_what_the_dead_had_begun_is_written_over(nursery: Nursery, ring: Ring, point: str, how: str) -> None:
    """Messages of other sizes, several deaths in one place: what lies behind the end is never taken for a message."""
    chance = random.Random(point + how)
    reader = follow(ring)
    received = 0
    begin = ring.last
    for _ in range(12):
        other = chance.choice([*COUNTS])
        script = code(ring, f"arm({point!r}, 'kill')", dying(ring, other, ring.last + chance.choice([0, 1, 2])))
        assert nursery.run(script)[0] == "killed"
        publish(ring, chance.randrange(4), size=chance.choice([0, 36, 40, 100, 2000]))
        received += len(drain(reader))
    assert received + reader.lagged == ring.last - begin


@pytest.mark.parametrize("more", [0, 1])
@pytest.mark.parametrize("how", ["large", "many"])
@pytest.mark.parametrize("point", ["ring_reserved", "ring_half_written", "ring_written"])
def test_what_a_dead_publisher_has_overwritten_is_not_read(nursery: Nursery, point: str, how: str, more: int) -> None:
    """It had begun with bytes that a smaller message after it does not reach."""
    with published_ring() as ring:
        publish(ring, 3000)
        first = ring.last
        oldest = first - LEAST // whole(2, 52) + 1
        starts = [oldest + n for n in range(0, 60, 3)]
        readers = [(since, follow(ring, pattern, since=since)) for since in starts for pattern in (b">", b"t", b"*")]
        assert sum(reader.lagged for _, reader in readers) == 0
        script = code(ring, f"arm({point!r}, 'kill')", dying(ring, how, 1 << 40))
        assert nursery.run(script)[0] == "killed"
        publish(ring, more)
        for since, reader in readers:
            assert len(drain(reader)) + reader.lagged == first + more - since


@pytest.mark.parametrize("end_by", ["continued", "killed"])
@pytest.mark.parametrize("how", COUNTS)
@pytest.mark.parametrize("point", POINTS)
def test_who_is_stopped_while_it_publishes(nursery: Nursery, ring: Ring, point: str, how: str, end_by: str) -> None:
    """Up to the end of the copy it stops publishers, and nobody who reads."""
    reader = follow(ring)
    before = ring.last
    ended, pid = nursery.run(code(ring, f"arm({point!r}, 'stop')", dying(ring, how, before + 1)))
    assert ended == "stopped"
    done = COUNTS[how] * (point in AFTER)
    assert ring.last == before + done
    assert drain(reader) == [*range(before + 1, before + 1 + done)]
    if point != "ring_announced":
        for use in (ring.publish, lambda *args, **how: ring.publish_many(args[0], [args[1]] * 3, args[2], **how)):
            with pytest.raises(PublisherStalled, match=f"process {pid} has kept the message ring locked") as caught:
                use(b"t", b"", b"s", timeout=0.01)
            assert caught.value.pid == pid
        assert ring.last == before + done
    else:
        publish(ring, 5)
        assert len(drain(reader)) == 5
        before += 5
    if end_by == "continued":
        assert nursery.resume(pid)[0] == "done"
        rest = COUNTS[how] - done
    else:
        assert nursery.kill(pid)[0] == "killed"
        rest = 0
    assert drain(reader) == [*range(before + done + 1, before + done + rest + 1)]
    publish(ring, 10)
    assert len(drain(reader)) == 10
    assert reader.lagged == 0


def test_who_takes_over_dies_too(nursery: Nursery, ring: Ring) -> None:
    reader = follow(ring)
    begin = before = ring.last
    for point in POINTS[:-1]:
        assert nursery.run(code(ring, f"arm({point!r}, 'kill')", dying(ring, "many", before + 1)))[0] == "killed"
        before += 50 * (point in AFTER)
        for _ in range(3):
            script = code(ring, "arm('ring_repaired', 'kill')", dying(ring, "one", before + 1))
            assert nursery.run(script)[0] == "killed"
        ended, pid = nursery.run(code(ring, "arm('ring_repaired', 'stop')", dying(ring, "one", before + 1)))
        assert ended == "stopped"
        with pytest.raises(PublisherStalled):
            ring.publish(b"t", b"", b"s", timeout=0.01)
        assert nursery.resume(pid)[0] == "done"
        before += 1
        publish(ring, 3)
        before += 3
    assert drain(reader) == [*range(begin + 1, before + 1)]


WAITS = """
from ntmem._core.region import Region
from ntmem._core.ring import *
reader = RingReader(Ring(Region.attach(sys.argv[1], identity=b"a test")), Pattern(sys.argv[2].encode()))
say("waits")
assert reader.wait(3600)
say(len(reader.read()))
"""


@pytest.mark.parametrize("pattern", ["t", "*", ">"])
@pytest.mark.parametrize("point", ["ring_committed", "ring_announced"])
def test_who_waits_needs_nobody_to_wake_it(nursery: Nursery, start: Start, point: str, pattern: str) -> None:
    with published_ring() as ring:
        child = start(WAITS, ring.region.path, pattern)
        assert child.line() == "waits"
        lines = [f"arm({point!r}, 'kill')", "time.sleep(0.05)", dying(ring, "one", 1)]  # so that it may wait by then
        assert nursery.run(code(ring, *lines))[0] == "killed"
        assert child.line() == "1"
        child.end()


# ---- readers ----

READS = """
reader = RingReader(ring, Pattern({pattern!r}), since={since}, capacity={capacity})
arm({point!r}, "stop", {nth})
received = lagged = 0
while messages := reader.read({limit}):
    for message in messages:
        received += 1
        lagged += message.lagged
        assert number_of(message) == message.seq == {since} + received + lagged, (message, received, lagged)
assert received + reader.lagged == ring.last - {since}, (received, reader.lagged)
os._exit(8)
"""


@pytest.mark.parametrize("turned", ["just", "half", "laps", "by the dead"])
@pytest.mark.parametrize("pattern", [b"t", b"*", b">"])
@pytest.mark.parametrize("point", READING)
def test_a_reader_is_stopped_while_the_ring_turns(nursery: Nursery, point: str, pattern: bytes, turned: str) -> None:
    with published_ring() as ring:
        publish(ring, 900)
        for nth, capacity in ((1, None), (4, None), (2, 30)):
            since = ring.last - 100
            names = {"pattern": pattern, "since": since, "point": point, "nth": nth, "limit": 50}
            script = code(ring, READS.format(**names, capacity=capacity))
            ended, pid = nursery.run(script)
            assert ended == "stopped"
            size = whole(2, 52)
            left = LEAST // size - 100  # until the first one that it wants is overwritten
            if turned == "by the dead":
                publish(ring, left - 10)
                other = code(ring, "arm('ring_written', 'kill')", dying(ring, "large", 1 << 40))
                assert nursery.run(other)[0] == "killed"
            else:
                publish(ring, left + {"just": nth + 1, "half": LEAST // size // 2, "laps": 3 * LEAST // size}[turned])
            assert nursery.resume(pid)[0] == 8
            publish(ring, 200, size=41)
            publish(ring, LEAST // size)


# ---- at random ----

WORK = """
chance = random.Random({seed})
with open({told!r}, "ab", 0) as told:
    while True:
        many = chance.choice([1, 1, 1, 7, 40])
        body = struct.pack("<QQ", {row}, chance.getrandbits(60)) + bytes(chance.choice([0, 50, 3000]))
        payload = body + zlib.crc32(body).to_bytes(4, "little")
        last = ring.publish_many(b"t", [payload] * many, b"s") if many > 1 else ring.publish(b"t", payload, b"s")
        told.write(struct.pack("<QQI", last, many, zlib.crc32(payload)))
        time.sleep(0.0005)
"""


def test_random_kills(nursery: Nursery, tmp_path: Path) -> None:
    """Three publish, and are killed at any time; who follows gets all that was acknowledged, and each number once."""
    seed = random.randrange(1 << 32)
    chance = random.Random(seed)
    with published_ring(1 << 22) as ring:
        reader = follow(ring)
        received: dict[int, int] = {}

        def read() -> None:
            while taken := reader.read():
                for message in taken:
                    assert message.seq not in received
                    body, crc = message.payload[:-4], message.payload[-4:]
                    assert zlib.crc32(body).to_bytes(4, "little") == crc, f"seed {seed}: torn"
                    received[message.seq] = zlib.crc32(message.payload)

        told = tmp_path / "told"
        running: list[int] = []
        for number in range(KILLS):
            while len(running) < 3:
                names = {"seed": chance.getrandbits(32), "told": str(told), "row": number}
                running.append(nursery.run(code(ring, WORK.format(**names)), wait=False)[1])
            until = time.monotonic() + chance.uniform(0, 0.02)
            while time.monotonic() < until:
                read()
            assert nursery.kill(running.pop(chance.randrange(3)))[0] == "killed"
            read()
        for pid in running:
            nursery.kill(pid)
        read()
        assert ring.publish(b"t", sealed(0, 0), b"s") == ring.last
        read()
        assert len(received) + reader.lagged == ring.last
        acknowledged = 0
        for last, many, crc in struct.iter_unpack("<QQI", told.read_bytes()[: told.stat().st_size // 20 * 20]):
            for number in range(last - many + 1, last + 1):
                acknowledged += 1
                assert reader.lagged or number in received, f"seed {seed}: {number} is lost"
                assert received.get(number, crc) == crc, f"seed {seed}: {number} is another message"
        assert acknowledged > KILLS
