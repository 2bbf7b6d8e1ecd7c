"""The ring of messages when something is wrong: damage, no memory, a forked child, threads that share a reader."""

from __future__ import annotations

import errno
import os
import pickle
import struct
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from rings import IDENTITY, LEAST, MESSAGES, TAIL, WORDS, RingBytes, drain, follow, new_ring, whole

from ntmem._core.log import LogDamaged, WriterStalled
from ntmem._core.region import Region, RegionDamaged
from ntmem._core.ring import Pattern, PublisherStalled, Ring, RingDamaged, RingReader


@pytest.fixture
def ring() -> Ring:
    return new_ring()


# ---- damage -----------------------------------------------------------------------------------------------------

FIELDS = {"sequence": (0, "Q"), "size": (16, "I"), "payload": (20, "I"), "topic": (36, "H"), "sender": (38, "H")}
VALUES = [0, 1, 7, 8, 40, 48, 255, 256, 4096, 4097, 16384, 16392, 65535, 65536, 2**31, 2**32 - 8, 2**32 - 1, 2**63]


def damaged(at: int, data: bytes, *, laps: int = 0) -> Iterator[RingReader]:
    """Readers of a ring of ten messages, of which the fifth is changed."""
    for pattern, how in ((b">", {}), (b"t", {}), (b"*", {}), (b"t", {"capacity": 3}), (b">", {"since": 0})):
        ring = new_ring()
        if laps:
            ring.publish_many(b"t", [b"y" * 92] * (laps * LEAST // 136), b"s")
        begin = ring.last
        reader = follow(ring, pattern, **(how if not laps or "since" not in how else {"since": begin}))
        ring.publish_many(b"t", [b"x" * 92] * 10, b"s")
        place = (begin + 4) * whole(2, 92) + at
        RingBytes(ring).write(MESSAGES, place % LEAST, data)
        yield reader


def cases() -> Iterator[tuple[str, int]]:
    for field in FIELDS:
        for value in VALUES:
            names = 1 + value % 65536
            fills = field in ("topic", "sender") and whole(names, 92) == whole(2, 92)
            if not fills or (field, names) == ("topic", 1):
                yield field, value


@pytest.mark.parametrize("laps", [0, 3])
@pytest.mark.parametrize(("field", "value"), [*cases()])
def test_lengths_that_are_wrong(field, value, laps):
    at, kind = FIELDS[field]
    width = struct.calcsize(kind)
    data = (value % (1 << 8 * width)).to_bytes(width, "little")
    for reader in damaged(at, data, laps=laps):
        with pytest.raises(RingDamaged, match="no sound message"):
            assert len(reader.read(100)) <= 4
            reader.read(100)
        with pytest.raises(LogDamaged):
            reader.ready()


def test_a_size_at_the_end_that_is_wrong(ring):
    """Who walks back, or goes on at the end, sees it; who reads forward does not need it."""
    reader = follow(ring)
    ring.publish_many(b"t", [b"x" * 92] * 10, b"s")
    last = 10 * whole(2, 92) - TAIL
    for value in VALUES[:-1]:
        if value % 2**32 == whole(2, 92):
            continue
        RingBytes(ring).write(MESSAGES, last, (value % 2**32).to_bytes(4, "little"))
        for use in (lambda: follow(ring), lambda: ring.last, lambda: follow(ring, since=3)):
            with pytest.raises(RingDamaged):
                use()
        with pytest.raises(RingDamaged):
            ring.publish(b"t", b"", b"s")
    assert len(reader.read()) == 10


def test_words_that_are_wrong(ring):
    file = RingBytes(ring)
    ring.publish_many(b"t", [b"x" * 92] * 10, b"s")
    words = file.read(WORDS, 0, 1024)
    end = 10 * whole(2, 92)
    places = [at for at in range(64, 1024, 8) if words[at : at + 8] == end.to_bytes(8, "little")]
    assert len(places) == 2  # reserved, committed
    for place in places:
        for value in (1, 8, end - 8, end + 4, end + LEAST, 2**62, 2**64 - 8):
            reader = follow(ring)
            file.write(WORDS, place, value.to_bytes(8, "little"))
            with pytest.raises((RingDamaged, LogDamaged)):
                ring.publish(b"t", b"", b"s")
                reader.read()
                raise LogDamaged("a bound may be too high for a while")
            file.write(WORDS, place, end.to_bytes(8, "little"))
    assert ring.publish(b"t", b"", b"s") == 11
    for at in (0, 8, 16):  # what never changes
        region = Region.create(None, identity=b"", generation=1, sections=Ring.sections(LEAST))
        other = Ring.create(region, 1)
        RingBytes(other).write(WORDS, at, b"\x07")
        with pytest.raises(RingDamaged):
            Ring(region)


def test_a_region_without_a_ring():
    region = Region.create(None, identity=b"", generation=1, sections=[(1, 4096, 0)])
    with pytest.raises(RegionDamaged, match="no section of kind 7"):
        Ring(region)
    region = Region.create(None, identity=b"", generation=1, sections=Ring.sections(LEAST))
    with pytest.raises(RingDamaged):
        Ring(region)
    Ring.create(region)
    with pytest.raises(ValueError, match="a ring already"):
        Ring.create(region)


# ---- memory, others ---------------------------------------------------------------------------------------------


def test_memory_is_taken_by_the_first_publisher(ram):
    ring = new_ring(1 << 20, path=ram / "region")
    reader = RingReader(Ring(Region.attach(ram / "region", identity=IDENTITY)), Pattern(b">"))
    assert reader.read() == []
    assert not reader.wait(0)
    assert os.stat(ram / "region").st_blocks * 512 < 1 << 17
    ring.publish(b"t", b"x", b"s")
    assert os.stat(ram / "region").st_blocks * 512 > 1 << 20
    assert [m.payload for m in reader.read()] == [b"x"]


@pytest.fixture
def small_disk(ram: Path) -> Iterator[Path]:
    """A file system of 2 MiB."""
    if os.getuid() != 0:
        pytest.skip("mounting a file system needs root")
    path = ram / "disk"
    path.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", path]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("mount is not allowed here")
    try:
        yield path
    finally:
        subprocess.run(["umount", "-l", path], check=True)


def test_no_memory_is_an_error_and_nothing_was_done(small_disk):
    ring = new_ring(1 << 20, path=small_disk / "region")
    reader = follow(ring)
    (small_disk / "ballast").write_bytes(bytes(3 << 19))
    used = os.stat(small_disk / "region").st_blocks
    for _ in range(2):
        for publish in (lambda: ring.publish(b"t", b"x", b"s"), lambda: ring.publish_many(b"t", [b"x"] * 9000, b"s")):
            with pytest.raises(OSError, match=r"no room for 1048576 bytes of messages .* smaller bus_bytes") as caught:
                publish()
            assert caught.value.errno == errno.ENOSPC
        assert (ring.last, reader.read(), reader.wait(0.001)) == (0, [], False)
        assert os.stat(small_disk / "region").st_blocks == used
    (small_disk / "ballast").unlink()
    assert ring.publish(b"t", b"x", b"s") == 1
    assert len(reader.read()) == 1


def test_a_forked_child_has_no_ring(ring):
    reader = follow(ring)
    ring.publish(b"t", b"x", b"s")
    pid = os.fork()
    if pid == 0:
        refused = 0
        for use in (
            lambda: ring.publish(b"t", b"", b""),
            lambda: ring.publish_many(b"t", [b""], b""),
            lambda: ring.last,
            lambda: follow(ring),
            reader.read,
            reader.ready,
            lambda: reader.wait(0),
        ):
            try:
                use()
            except RuntimeError:
                refused += 1
        os._exit(refused)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 7
    assert len(reader.read()) == 1


def test_a_reader_is_for_one_thread_at_a_time(ring):
    reader = follow(ring)
    begun = threading.Event()
    found = []

    def wait():
        begun.set()
        found.append(reader.wait(60))

    thread = threading.Thread(target=wait)
    thread.start()
    begun.wait()
    refused = 0
    while not refused:  # until it has begun
        try:
            reader.ready()
        except RuntimeError as error:
            assert "another thread" in str(error)  # noqa: PT017 (it may not be raised yet)
            refused = 1
    for use in (reader.read, lambda: reader.wait(0)):
        with pytest.raises(RuntimeError, match="another thread"):
            use()
    ring.publish(b"t", b"x", b"s")
    thread.join()
    assert found == [True]
    assert len(reader.read()) == 1


def test_threads_that_share_a_reader_break_nothing(ring):
    reader = follow(ring, capacity=50)
    over = threading.Event()
    received = [0]

    def read():
        while not over.is_set():
            for use in (reader.read, reader.ready, lambda: reader.wait(0.0001)):
                try:
                    messages = use()
                except RuntimeError:
                    continue
                if isinstance(messages, list):
                    received[0] += len(messages)

    threads = [threading.Thread(target=read) for _ in range(3)]
    for thread in threads:
        thread.start()
    for _ in range(500):
        ring.publish_many(b"t", [b"x" * 100] * 20, b"s")
    over.set()
    for thread in threads:
        thread.join()
    received[0] += len(drain(reader))
    assert received[0] + reader.lagged == 10_000


def test_waiting_ends_when_there_is_something_or_time_is_over(ring):
    reader = follow(ring, b"a")
    assert not reader.wait(0)
    assert not reader.wait(0.06)
    ring.publish(b"b", b"", b"s")
    assert not reader.wait(0.001)
    ring.publish(b"a", b"", b"s")
    assert reader.wait(0)
    assert reader.wait(1000)
    assert len(reader.read()) == 1
    for wrong in (-1, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="timeout must be"):
            reader.wait(wrong)


def test_errors_travel():
    error = PublisherStalled(7, 1.5)
    assert isinstance(error, WriterStalled)
    assert "process 7 has kept the message ring locked for 1.5 s" in str(error)
    again = pickle.loads(pickle.dumps(error))
    assert (type(again), again.pid, again.seconds) == (PublisherStalled, 7, 1.5)
