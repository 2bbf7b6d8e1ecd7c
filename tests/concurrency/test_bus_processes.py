"""Publishers and subscribers in processes of their own: nothing torn, in order, and what is missed is counted exactly.

``NTMEM_BUS_MESSAGES`` says how many messages each of three publishers sends, ``NTMEM_BUS_KILLS`` how many processes are
killed at random.
"""

from __future__ import annotations

import os
import random
import signal
import time
from pathlib import Path

import pytest
from hostile import Child, Start

import ntmem

COUNT = int(os.environ.get("NTMEM_BUS_MESSAGES", "3000"))
KILLS = int(os.environ.get("NTMEM_BUS_KILLS", "8"))
SMALL, LARGE = 1 << 16, 1 << 25

OPEN = """
import random, struct, zlib, asyncio
memory = ntmem.open(sys.argv[1], engine="shared", agent_id=sys.argv[2])
def payload(row, number, size):
    body = struct.pack("<HI", row, number) + bytes([number % 251]) * size
    return body + zlib.crc32(body).to_bytes(4, "little")
"""

PUBLISH = (
    OPEN
    + """
row, count = int(sys.argv[2]), int(sys.argv[3])
chance = random.Random(row)
say("ready")
hear()
number = 0
while number < count:
    many = min(count - number, chance.choice([1, 1, 1, 2, 10, 50]))
    payloads = [payload(row, number + n, chance.choice([0, 8, 64, 300])) for n in range(many)]
    if many == 1:
        memory.publish(("of", str(row)), payloads[0])
    else:
        memory.publish_many(f"of/{row}", payloads)
    number += many
say("done")
"""
)

SUBSCRIBE = (
    OPEN
    + """
how = sys.argv[2]
messages = memory.subscribe(">")
print("ready", flush=True)
class State:
    received, seq, last = 0, None, {}
def take(message):
    assert State.seq is None or message.seq == State.seq + 1 + message.lagged, (State.seq, message)
    State.seq = message.seq
    State.received += 1
    if message.topic in ("begin", "end"):
        return message.topic == "end"
    body, crc = message.payload[:-4], int.from_bytes(message.payload[-4:], "little")
    assert zlib.crc32(body) == crc, f"torn: {message!r}"
    row, number = struct.unpack_from("<HI", body)
    assert message.topic == f"of/{row}" and message.sender == str(row), message
    assert number > State.last.get(row, -1), f"{number} of {row} after {State.last[row]}"
    State.last[row] = number
    return False
async def follow():
    async for message in messages:
        if take(message):
            return
if how == "many":
    while not any([take(message) for message in messages.recv_many(77)]):
        pass
elif how == "loop":
    asyncio.run(follow())
else:
    for message in messages:
        if take(message):
            break
say(State.received, messages.lagged)
"""
)


def begun(children: list[Child]) -> list[Child]:
    for child in children:
        assert child.line() == "ready"
    return children


@pytest.mark.parametrize("size", [SMALL, LARGE])
def test_publishers_and_subscribers(ram: Path, start: Start, size: int) -> None:
    path = ram / "s"
    with ntmem.open(path, engine="shared", bus_bytes=size) as memory:
        subscribers = begun([start(SUBSCRIBE, path, how) for how in ("one", "many", "loop")])
        publishers = begun([start(PUBLISH, path, row, COUNT) for row in range(3)])
        for publisher in publishers:
            publisher.tell()
        for publisher in publishers:
            assert publisher.line() == "done"
            publisher.end()
        memory.publish("end", b"")
        for subscriber in subscribers:
            received, lagged = map(int, subscriber.line().split())
            subscriber.end()
            assert received + lagged == 3 * COUNT + 1
            if size == LARGE and COUNT <= 3000:
                assert lagged == 0


def test_who_is_stopped_delays_nobody(ram: Path, start: Start) -> None:
    path = ram / "s"
    with ntmem.open(path, engine="shared", bus_bytes=SMALL) as memory:
        stopped = begun([start(SUBSCRIBE, path, how) for how in ("one", "many", "loop")])
        waiting = begun([start(SUBSCRIBE, path, "one")])
        for child in stopped:
            child.stop()
        publishers = begun([start(PUBLISH, path, row, COUNT) for row in range(3)])
        for publisher in publishers:
            publisher.tell()
        for publisher in publishers:
            assert publisher.line() == "done"
        memory.publish("end", b"")
        received, lagged = map(int, waiting[0].line().split())
        assert received + lagged == 3 * COUNT + 1
        for child in stopped:
            child.signal(signal.SIGCONT)
        for child in stopped:
            received, lagged = map(int, child.line().split())
            assert received + lagged == 3 * COUNT + 1
            assert lagged > 0
            child.end()


def test_a_quick_subscriber_gets_everything_beside_one_that_is_stopped(ram: Path, start: Start) -> None:
    """Each message is answered before the next is published."""
    code = """
with ntmem.open(sys.argv[1], engine="shared") as memory, memory.subscribe("ping") as pings:
    print("ready", flush=True)
    for ping in pings:
        memory.publish("pong", ping.payload)
"""
    path = ram / "s"
    with ntmem.open(path, engine="shared", bus_bytes=SMALL) as memory, memory.subscribe("pong") as pongs:
        quick, stopped = begun([start(code, path) for _ in range(2)])
        stopped.stop()
        for number in range(2000):
            memory.publish("ping", b"%d" % number + bytes(100))
            pong = pongs.recv()
            assert pong is not None
            assert pong.payload[:-100] == b"%d" % number
        assert pongs.lagged == 0
        quick.kill()


def test_random_kills(ram: Path, start: Start) -> None:
    """Publishers and subscribers are killed at any time; who lives sees whole messages, each number once or counted."""
    seed = random.randrange(1 << 32)
    chance = random.Random(seed)
    path = ram / "s"
    with ntmem.open(path, engine="shared", bus_bytes=SMALL) as memory:
        steady = begun([start(SUBSCRIBE, path, how) for how in ("one", "many", "loop")])
        before = memory.publish("begin", b"")
        doomed: list[Child] = []
        for number in range(KILLS):
            if number % 2:
                doomed += begun([start(SUBSCRIBE, path, chance.choice(["one", "many", "loop"]))])
            else:
                doomed += begun([start(PUBLISH, path, number, 10**7)])
                doomed[-1].tell()
            time.sleep(chance.uniform(0, 0.02))
            if len(doomed) > 3:
                doomed.pop(chance.randrange(len(doomed))).kill()
        for child in doomed:
            child.kill()
        last = memory.publish("end", b"")
        for child in steady:
            received, lagged = map(int, child.line().split())
            assert received + lagged == last - before + 1, f"seed {seed}"
            child.end()
