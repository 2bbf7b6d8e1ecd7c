"""Publishers of durable messages that die at every step: what was acknowledged is there once, under its number.

``NTMEM_STREAM_KILLS`` says how many random kills there are.
"""

from __future__ import annotations

import os
import random
import time
from pathlib import Path
from typing import Any

import pytest
from hostile import HANG, ram_directory
from logs import Nursery

import ntmem

pytestmark = pytest.mark.crash

KILLS = int(os.environ.get("NTMEM_STREAM_KILLS", "20"))
BEFORE = ["locked", "checked", "reserved", "half_written", "written"]  # nothing of it is left
AFTER = ["sealed", "linked", "numbered", "committed", "announced"]  # it is there, or the next owner finishes it
RING = ["ring_locked", "ring_reserved", "ring_half_written", "ring_written", "ring_committed", "ring_announced"]
POINTS = BEFORE + AFTER + RING

PUBLISHING = """
import ntmem
memory = ntmem.open({path!r}, engine="shared", log_bytes=65536, bus_bytes=65536, flush_interval={interval})
"""
PUBLISH = "memory.publish('a/b', b'dying', durable=True)"


def opened(place: Path) -> ntmem.MemorySystem:
    return ntmem.open(place / "s", engine="shared", log_bytes=1 << 16, bus_bytes=1 << 16, flush_interval=3600.0)


def script(place: Path, *lines: str, interval: float = 3600.0) -> str:
    return PUBLISHING.format(path=str(place / "s"), interval=interval) + "\n".join(lines)


def stream_of(memory: Any) -> list[bytes]:
    """All durable messages; their numbers have no gaps."""
    with memory.subscribe(">", durable=True, since=0) as messages:
        found = messages.recv_many(1 << 20, 0)
        assert [message.seq for message in found] == list(range(1, len(found) + 1))
        assert messages.lagged == 0
    assert memory.bus._stream().last == len(found)
    return [message.payload for message in found]


@pytest.mark.parametrize("held", [0, 2])
@pytest.mark.parametrize("point", POINTS)
def test_who_is_killed_while_it_publishes(nursery: Nursery, ram: Path, point: str, held: int) -> None:
    with opened(ram) as memory, memory.subscribe("a/*", durable=True) as waiting:
        before = [b"%d" % number for number in range(held)]
        for payload in before:
            memory.publish("a/b", payload, durable=True)
        ended, _ = nursery.run(script(ram, f"arm({point!r}, 'kill')", PUBLISH, "os._exit(7)"))
        assert ended == "killed"
        there = [b"dying"] * (point not in BEFORE)
        if point in RING or point in ("committed", "announced"):  # nobody has to finish it: it comes by itself
            assert [waiting.recv(HANG).payload for _ in before + there] == before + there  # type: ignore[union-attr]
        assert memory.publish("a/b", b"after", durable=True) == held + len(there) + 1
        assert stream_of(memory) == [*before, *there, b"after"]
        assert waiting.recv_many(1000, 0)[-1].payload == b"after"
    with opened(ram) as memory:
        assert stream_of(memory) == [*before, *there, b"after"]


@pytest.mark.parametrize("point", POINTS)
def test_all_die(nursery: Nursery, point: str) -> None:
    """The only process dies: who opens the store then has what was acknowledged, and goes on with the next number."""
    with ram_directory() as place:
        kept = [f"assert memory.publish('a', b'{number}', durable=True) == {number + 1}" for number in range(3)]
        ended, _ = nursery.run(script(place, *kept, f"arm({point!r}, 'kill')", PUBLISH, "os._exit(7)"))
        assert ended == "killed"
        there = [b"0", b"1", b"2"] + [b"dying"] * (point not in BEFORE)
        with opened(place) as memory:
            assert stream_of(memory) == there
            assert memory.publish("a", b"after", durable=True) == len(there) + 1
        with opened(place) as memory:
            assert stream_of(memory) == [*there, b"after"]


@pytest.mark.parametrize("point", ["half_written", "numbered", "committed"])
def test_who_acknowledges_or_trims_dies(nursery: Nursery, ram: Path, point: str) -> None:
    """The cursor is where it was or where it was going to be; of what is trimmed, all is gone or nothing."""
    done = point != "half_written"
    with opened(ram) as memory:
        for number in range(4):
            memory.publish("a", b"%d" % number, durable=True)
        line = "s = memory.subscribe('a', durable='x'); s.recv(); s.recv()"
        assert nursery.run(script(ram, line, f"arm({point!r}, 'kill')", "s.ack()"))[0] == "killed"
        memory.put("desk", "k", b"")  # takes the mutex from the dead
        with memory.subscribe("a", durable="x") as messages:
            assert messages.recv(0).payload == (b"2" if done else b"0")  # type: ignore[union-attr]
        assert nursery.run(script(ram, f"arm({point!r}, 'kill')", "memory.bus.trim(1e-9)"))[0] == "killed"
        assert memory.publish("a", b"4", durable=True) == 5
        with memory.subscribe("a", durable=True, since=0) as messages:
            assert [m.payload for m in messages.recv_many(9, 0)] == [b"0", b"1", b"2", b"3", b"4"][4 * done :]
            assert messages.lagged == 4 * done


WORK = """
n = {begin}
with open({told!r}, "ab", 0) as told:
    while True:
        number = memory.publish("of/{row}", b"%d" % n, durable=True)
        told.write(b"%d %d\\n" % (number, n))
        n += 1
"""


def test_random_kills(nursery: Nursery) -> None:
    """Two publish, and are killed at any time, with nobody else or beside one who follows."""
    seed = random.randrange(1 << 32)
    chance = random.Random(seed)
    with ram_directory() as place:
        opened(place).close()
        told = place / "told"
        told.touch()
        for number in range(KILLS):
            beside = opened(place) if number % 2 else None
            pids = []
            for row in range(2):
                begin = (2 * number + row) * 1_000_000  # payloads of its own
                fate, pid = nursery.run(
                    script(place, WORK.format(begin=begin, row=row, told=str(told)), interval=0.002), wait=False
                )
                assert fate == "started"
                pids.append(pid)
            time.sleep(chance.uniform(0.01, 0.06))
            chance.shuffle(pids)
            for pid in pids:
                nursery.kill(pid)
            if beside is not None:
                look(beside, told, seed)
                beside.close()
        with opened(place) as memory:
            look(memory, told, seed)


def look(memory: Any, told: Path, seed: int) -> None:
    found = stream_of(memory)
    assert len({*found}) == len(found), f"seed {seed}: one twice"
    for line in told.read_text().split("\n")[:-1]:
        number, payload = line.split()
        assert found[int(number) - 1 : int(number)] == [payload.encode()], f"seed {seed}: acknowledged and lost: {line}"
