"""The ring of a store: how large it is, who has it, and what becomes of a region that was made without one."""

from __future__ import annotations

import os
import signal
import struct
from pathlib import Path
from typing import Any

import pytest
from hostile import Start, regions

import ntmem
from ntmem._core.log import Log, crc32c
from ntmem._core.region import Region
from ntmem._core.ring import Pattern, Ring, RingReader
from ntmem.errors import CorruptionError
from ntmem.tiers.region import message_ring


def ring_of(memory: Any) -> Ring:
    return message_ring(memory._engine().store.log)


@pytest.mark.parametrize("value", [0, 1, 65535, 65537, 3 << 16, 1 << 33])
def test_sizes_that_cannot_be(value: int) -> None:
    with pytest.raises(ValueError, match="bus_bytes must be"):
        ntmem.MemoryConfig(bus_bytes=value)
    with pytest.raises(TypeError, match="bus_bytes"):
        ntmem.MemoryConfig(bus_bytes=float(value))  # type: ignore[arg-type]


def test_the_ring_is_as_large_as_it_was_opened_with(ram: Path) -> None:
    with ntmem.open(engine="shared") as memory:
        assert ring_of(memory).capacity == 8 << 20
    with ntmem.open(ram / "s", engine="shared", bus_bytes=1 << 17) as memory:
        assert ring_of(memory).capacity == 1 << 17
        with ntmem.open(ram / "s", engine="shared") as second:  # who comes first decides
            assert ring_of(second).capacity == 1 << 17
    with ntmem.open(None, engine="shared", bus_bytes=1 << 16) as memory:
        assert ring_of(memory).publish(b"t", b"x", b"s") == ring_of(memory).last


def test_a_store_that_nobody_publishes_in_takes_no_memory_for_messages(ram: Path) -> None:
    with ntmem.open(ram / "s", engine="shared", log_bytes=1 << 16, bus_bytes=1 << 26) as memory:
        (region,) = regions(ram)
        assert RingReader(ring_of(memory), Pattern(b">")).read() == []
        assert region.stat().st_blocks * 512 < 1 << 25
        ring_of(memory).publish(b"t", b"x", b"s")
        assert region.stat().st_blocks * 512 > 1 << 26


def test_another_process_has_the_same_ring_and_the_next_store_another(ram: Path, start: Start) -> None:
    with ntmem.open(ram / "s", engine="shared") as memory:
        reader = RingReader(ring_of(memory), Pattern(b"a\0*"))
        child = start(
            "from ntmem.tiers.region import message_ring\n"
            "with ntmem.open(sys.argv[1]) as memory:\n"
            "    say(message_ring(memory._engine().store.log).publish(b'a\\0b', b'from a child', b'child'))",
            ram / "s",
        )
        seq = int(child.line())
        child.end()
        assert [(m.seq, m.topic, m.payload) for m in reader.read()] == [(seq, "a/b", b"from a child")]
    with ntmem.open(ram / "s", engine="shared") as memory:
        ring = ring_of(memory)
        assert ring.first > seq
        late = RingReader(ring, Pattern(b">"), since=seq)
        assert ring.publish(b"a", b"new", b"s") == ring.first
        assert [(m.payload, m.lagged) for m in late.read()] == [(b"new", 0)]


def without_ring(region: Path) -> None:
    """Make it a region of layout 4: its sections of messages are of kinds that nobody knows."""
    with open(region, "r+b") as file:
        head = bytearray(file.read(4096))
        assert struct.unpack_from("<I", head, 8) == (5,)
        struct.pack_into("<II", head, 8, 4, 0)
        (count,) = struct.unpack_from("<I", head, 32)
        for at in range(40 + 256, 40 + 256 + 24 * count, 24):
            (kind,) = struct.unpack_from("<I", head, at)
            struct.pack_into("<I", head, at, kind + 100 * (kind in (7, 8)))
        struct.pack_into("<I", head, 12, crc32c(bytes(head)))
        file.seek(0)
        file.write(head)


def test_what_a_region_without_a_ring_holds_is_drained(ram: Path, start: Start) -> None:
    child = start(
        "memory = ntmem.open(sys.argv[1], engine='shared', flush_interval=3600.0)\n"
        "for n in range(100): memory.put('desk', f'k{n}', b'%d' % n)\n"
        "say('ready')\nhear()",
        ram / "s",
    )
    assert child.line() == "ready"
    child.signal(signal.SIGKILL)
    child.process.wait()
    (region,) = regions(ram)
    without_ring(region)
    with ntmem.open(ram / "s", engine="shared") as memory:
        assert [memory.get("desk", f"k{n}") for n in range(100)] == [b"%d" % n for n in range(100)]
        ring = ring_of(memory)
        assert ring.publish(b"t", b"x", b"s") == ring.first
        (region,) = regions(ram)
        assert os.path.getsize(region) > 8 << 20


def test_a_region_without_a_ring_that_others_use(ram: Path) -> None:
    with ntmem.open(ram / "s", engine="shared") as memory:
        (region,) = regions(ram)
        before = region.read_bytes()[:4096]
        without_ring(region)
        log = Log(Region.attach(region, identity=memory._engine().store.log.region.identity))
        with pytest.raises(CorruptionError, match="no section of kind 7"):
            message_ring(log)
        with open(region, "r+b") as file:
            file.write(before)
