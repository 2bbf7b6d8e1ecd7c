"""Segments: a collection read from them is what it is read from the store, whatever happened to the files.

``NTMEM_SEGMENT_DAMAGE`` says how many files that were damaged at random are read.
"""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import struct
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from hostile import Start, ram_directory, remove_regions
from segments import (
    HEADER,
    PARTS,
    SLOTS,
    SQUARES,
    WHERES,
    agree,
    answers,
    chain,
    change,
    copied,
    fill,
    parts,
    segment,
    segments,
)
from vectors import Plain, locked, new_tail

import ntmem
from ntmem._core.log import crc32c
from ntmem._core.vectors import HEADER_BYTES, VectorTail
from ntmem.tiers import collection as collections
from ntmem.tiers import segments as files
from ntmem.tiers.points import POINTS, decode_point, point_key

DAMAGED = int(os.environ.get("NTMEM_SEGMENT_DAMAGE", "100"))
KINDS = ["shared", "lmdb"]


class Read:
    """How many records were read to make the memory of collections."""

    def __init__(self) -> None:
        self.count = 0

    def take(self) -> int:
        """Return it, and begin anew."""
        count, self.count = self.count, 0
        return count


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> Read:
    found, real = Read(), collections.Collection._follow

    def follow(*args: Any) -> None:
        found.count += 1
        real(*args)

    monkeypatch.setattr(collections.Collection, "_follow", follow)
    return found


@pytest.fixture(autouse=True)
def warned(caplog: pytest.LogCaptureFixture) -> Callable[[], list[str]]:
    """Return the warnings since the last call."""
    caplog.set_level(logging.WARNING, "ntmem")

    def take() -> list[str]:
        found = [said for said in caplog.messages if "its processes have died" not in said]
        caplog.clear()
        return found

    return take


Warned = Callable[[], list[str]]


@pytest.fixture(scope="module")
def base() -> Iterator[tuple[Path, list[Any], Plain]]:
    """A closed store with two segments and some more, what it answers without them, and what is in it."""
    with ram_directory() as directory:
        plain = Plain()
        for count in (SLOTS + 100, SLOTS, 50):
            with ntmem.open(directory / "s", engine="lmdb") as memory:
                fill(memory.vectors, plain, count)
        assert chain(directory / "s") == [(0, SLOTS), (SLOTS, 2 * SLOTS)]
        bare = copied(directory / "s", directory / "bare")
        shutil.rmtree(bare / "vectors")
        with ntmem.open(bare, engine="lmdb", read_only=True) as memory:
            agree(memory.vectors, plain)
            yield directory / "s", answers(memory.vectors), plain


def look(store: Path, right: list[Any], kind: str = "lmdb") -> None:
    """See that all answers are right, and that it can be written to."""
    with ntmem.open(store, engine=kind, read_only=True) as memory:
        assert answers(memory.vectors) == right


# -- written and read


@pytest.mark.parametrize("kind", KINDS)
def test_written_at_close_and_read_again(ram: Path, kind: str, read: Read, warned: Warned) -> None:
    plain, store = Plain(), ram / "s"
    for turn, count in enumerate((SLOTS + 300, SLOTS + 4, 2 * SLOTS, 0)):
        with ntmem.open(store, engine=kind) as memory:
            v = memory.vectors
            if turn:
                assert v.info("n").changes == len(plain.rows)
                assert read.take() == len(plain.rows) % SLOTS
                agree(v, plain, wheres=[{"t": "text 7"}] if count else WHERES)
            if count:
                fill(v, plain, count)
            if turn == 1:
                agree(v, plain, wheres=[{"n": {"$lt": 300}}])
    assert chain(store) == [(0, SLOTS), (SLOTS, 2 * SLOTS), (2 * SLOTS, 4 * SLOTS)]
    assert warned() == []
    fill_more = len(plain.rows)
    with ntmem.open(store, engine=kind) as memory:  # what is there goes on
        for number in range(20):
            memory.vectors.add("n", f"{number}", [number, 1, 1], {"n": -1, "own": number}, ts_event=0, ts_known=0)
            plain.add(f"{number}", [number, 1, 1], {"n": -1, "own": number}, 0, 0)
        assert memory.vectors.delete("n", "21", ts_known=0) in (0, 1)
        if memory.vectors.info("n").changes > len(plain.rows):
            plain.delete("21", 0)
        agree(memory.vectors, plain, wheres=[{"n": -1}, {"own": {"$gte": 0}}])
    assert len(plain.rows) > fill_more
    assert len(chain(store)) == 3


@pytest.mark.parametrize("kind", KINDS)
def test_how_many_are_worth_it(ram: Path, kind: str) -> None:
    plain, store = Plain(), ram / "s"
    for count, expected in ((SLOTS - 1, []), (1, [SLOTS]), (SLOTS - 1, [SLOTS]), (1, [SLOTS, 2 * SLOTS])):
        with ntmem.open(store, engine=kind) as memory:
            fill(memory.vectors, plain, count)
        assert [end for _, end in chain(store)] == expected
    assert segments(store) == [f"00000001-{first:012x}.segment" for first in (0, SLOTS)]
    with ntmem.open(store, engine=kind):
        pass
    with ntmem.open(store, engine=kind) as memory:
        memory.vectors.count("n")
    assert len(segments(store)) == 2


@pytest.mark.parametrize(("dtype", "metric"), [("float16", "l2"), ("float32", "ip")])
def test_other_types_and_metrics(ram: Path, dtype: str, metric: str, read: Read) -> None:
    plain = Plain(metric, dtype)
    for turn in range(2):
        with ntmem.open(ram / "s") as memory:
            if not turn:
                memory.vectors.create("n", 3, metric=metric, dtype=dtype)
                fill(memory.vectors, plain, SLOTS)
            agree(memory.vectors, plain, wheres=[{"flag": True}])
    assert read.take() == 0


def test_a_thread_writes_while_it_is_open(ram: Path, read: Read, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(collections, "_WORTH", 2 * SLOTS)
    plain, store = Plain(), ram / "s"
    with ntmem.open(store) as memory:
        v = memory.vectors
        fill(v, plain, 2 * SLOTS - 1)
        assert segments(store) == []
        for number in range(1, 1000):
            v.add("n", "one more", [1, number, 1], ts_event=0, ts_known=0)  # it goes on beside the thread
            plain.add("one more", [1, number, 1], None, 0, 0)
        v._of(("n",))._freezer.join()
        assert chain(store) == [(0, 2 * SLOTS)]
        agree(v, plain, wheres=[{"t": "text 7"}])
        fill(v, plain, 2 * SLOTS)
        v._of(("n",))._freezer.join()
        assert len(chain(store)) == 2
        agree(v, plain, wheres=[{"t": "text 7"}])
    assert len(chain(store)) == 2
    with ntmem.open(store) as memory:
        agree(memory.vectors, plain, wheres=[{"t": "text 7"}])
        assert read.take() == len(plain.rows) - chain(store)[-1][1]


@pytest.mark.parametrize("private", [True, False])
def test_a_thread_that_comes_to_nothing_is_not_begun_each_time(
    ram: Path, private: bool, monkeypatch: pytest.MonkeyPatch, warned: Warned
) -> None:
    begun: list[int] = []
    monkeypatch.setattr(collections, "_WORTH", SLOTS)
    monkeypatch.setattr(collections, "freeze", lambda *_: begun.append(1) and False)
    with ntmem.open(None if private else ram / "s") as memory:
        fill(memory.vectors, Plain(), SLOTS)
        for number in range(SLOTS // 2):
            memory.vectors.add("n", f"{number}", [1, 1, 1])
        memory.vectors._of(("n",))._freezer.join()
        assert len(begun) == 1
    assert not (ram / "s" / "vectors").exists()


def test_who_only_reads(ram: Path, read: Read, warned: Warned) -> None:
    plain, store = Plain(), ram / "s"
    for kind in KINDS:
        with ntmem.open(store, engine=kind) as memory:
            fill(memory.vectors, plain, SLOTS)
    for beside in (False, True):
        with contextlib.ExitStack() as stack:
            if beside:
                writer = stack.enter_context(ntmem.open(store))
            reader = stack.enter_context(ntmem.open(store, read_only=True))
            assert reader.vectors.info("n").changes == 2 * SLOTS
            assert read.take() == 0
            agree(reader.vectors, plain, wheres=[{"t": "text 7"}])
            if beside:
                fill(writer.vectors, plain, 50)
                agree(reader.vectors, plain, wheres=[{"t": "text 7"}])
    shutil.rmtree(store / "vectors")
    with ntmem.open(store, read_only=True) as reader:
        agree(reader.vectors, plain, wheres=[])
    assert not (store / "vectors").exists()
    assert warned() == []


CLOSER = """
memory = ntmem.open(sys.argv[1], engine=sys.argv[2])
say(memory.vectors.info("n").changes); hear()
memory.close()
say("closed")
"""


@pytest.mark.parametrize("kind", KINDS)
def test_several_close_at_once(ram: Path, start: Start, kind: str, read: Read, warned: Warned) -> None:
    plain, store = Plain(), ram / "s"
    with ntmem.open(store, engine=kind) as memory:
        fill(memory.vectors, plain, SLOTS)
    handles = [ntmem.open(store, engine=kind) for _ in range(3)]
    fill(handles[0].vectors, plain, SLOTS + 100)
    others = [start(CLOSER, store, kind) for _ in range(2)]
    for each in handles:
        assert each.vectors.info("n").changes == len(plain.rows)
    for other in others:
        assert other.line() == str(len(plain.rows))
    threads = [threading.Thread(target=each.close) for each in handles]
    for other in others:
        other.tell()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for other in others:
        assert other.line() == "closed"
        other.end()
    assert chain(store) == [(0, SLOTS), (SLOTS, 2 * SLOTS)]
    assert len(segments(store)) == 2
    read.take()
    with ntmem.open(store, engine=kind) as memory:
        agree(memory.vectors, plain, wheres=[{"t": "text 7"}])
    assert (read.take(), warned()) == (100, [])


def test_threads_of_one_process_write_files_of_their_own(ram: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store, plain = ram / "s", Plain()
    one, other = ntmem.open(store, engine="lmdb"), ntmem.open(store, engine="lmdb")
    fill(one.vectors, plain, SLOTS)
    other.vectors.count("n")
    opened: list[str] = []
    real, both = os.replace, threading.Barrier(2)

    def replace(what: str, to: str) -> None:
        opened.append(what)
        with contextlib.suppress(threading.BrokenBarrierError):
            both.wait(10)
        real(what, to)

    monkeypatch.setattr(os, "replace", replace)
    threads = [threading.Thread(target=each.close) for each in (one, other)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({*opened}) == 2
    assert segments(store) == [segment(store, 0).name]


def test_a_forked_child_closes_what_it_has(ram: Path, start: Start) -> None:
    child = start(
        """
for kind in ("shared", "lmdb"):
    memory = ntmem.open(sys.argv[1] + kind, engine=kind)
    memory.vectors.add("n", "a", [1, 0])
    pid = os.fork()
    if pid == 0:
        memory.close()
        os._exit(7)
    say(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), memory.vectors.count("n"))
    memory.close()
""",
        ram / "s",
    )
    assert [child.line(), child.line()] == ["7 1"] * 2
    child.end()


# -- that cannot be written, or read


@pytest.fixture
def small_disk(ram: Path) -> Iterator[Path]:
    """A store whose segments have a file system of 64 KiB."""
    if os.getuid() != 0:
        pytest.skip("mounting a file system needs root")
    with ntmem.open(ram / "s"):
        pass
    path = ram / "s" / "vectors"
    path.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", path]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("mount is not allowed here")
    try:
        yield ram / "s"
    finally:
        subprocess.run(["umount", path], check=True)


def test_a_full_disk(small_disk: Path, warned: Warned) -> None:
    plain = Plain()
    for count in (SLOTS, 10):
        with ntmem.open(small_disk) as memory:
            fill(memory.vectors, plain, count)
            agree(memory.vectors, plain, wheres=[{"t": "text 7"}])
        [told] = warned()
        assert "no segment of vectors was written" in told
        assert "No space left" in told
        assert segments(small_disk) == []


def test_no_right_to_write(ram: Path, start: Start) -> None:
    ram.chmod(0o777)
    child = start(
        """
import logging
logging.basicConfig(stream=sys.stdout, format="%(message)s")
ntmem.open().vectors
become_nobody()
place = sys.argv[1] + "/vectors"
for turn in range(4):
    with ntmem.open(sys.argv[1]) as memory:
        v = memory.vectors
        if turn == 0:
            v.add_many("n", [str(n) for n in range(4096)], [[1, n] for n in range(4096)])
            os.mkdir(place); os.chmod(place, 0o500)
        if turn == 2:
            os.chmod(place + "/00000001-000000000000.segment", 0)
            os.chmod(place, 0o500)
        say(v.count("n"))
        if turn == 3:
            v.drop("n")
            v.add("n", "new", [1, 2, 3])
            say(v.count("n"), os.listdir(place))
    if turn == 0:
        os.chmod(place, 0o700)
""",
        ram / "s",
    )
    lines = child.end().splitlines()
    assert lines.pop(0) == "4096"
    assert "no segment of vectors was written" in lines.pop(0)
    assert lines.pop(0) == "4096"
    for _ in range(2):
        assert "cannot be read" in lines.pop(0)
        assert lines.pop(0) == "4096"
        if len(lines) > 2:
            assert "no segment" in lines.pop(0)
    assert lines == ["1 ['00000001-000000000000.segment']"]


@pytest.mark.parametrize("what", ["directory", "pipe", "link", "file"])
def test_something_else_has_its_name(ram: Path, what: str, warned: Warned) -> None:
    plain, store = Plain(), ram / "s"
    with ntmem.open(store) as memory:
        fill(memory.vectors, plain, 20)
        place = segment(store, 0)
        if what != "file":
            place.parent.mkdir()
        if what == "directory":
            (place / "more").mkdir(parents=True)
        elif what == "pipe":
            os.mkfifo(place)
        elif what == "link":
            place.symlink_to(place)
        else:
            place.parent.touch()
    with ntmem.open(store) as memory:
        agree(memory.vectors, plain, wheres=[])
        assert len(warned()) == 1
        assert memory.vectors.drop("n")
        assert memory.vectors.collections() == []


# -- damaged


def own_tail(first: int, store: Path) -> VectorTail:
    """Return memory that has the segments before this one."""
    tail = new_tail(3, metric="cosine", capacity=1 << 14)
    for before in range(0, first, SLOTS):
        assert is_taken(tail, segment(store, before))
    return tail


def is_taken(tail: VectorTail, path: Path) -> bool:
    """Whether memory takes a segment over; else it has nothing of it."""
    before = tail.count, tail.frozen
    with open(path, "rb") as file:
        header = file.read(HEADER_BYTES)
        is_so = len(header) == HEADER_BYTES and bool(locked(tail, lambda: tail.read_segment(file.fileno(), header)))
    after = tail.count, tail.frozen
    assert (after == before) is not is_so
    return is_so


@pytest.mark.parametrize("first", [0, SLOTS])
def test_each_part_is_damaged(
    base: tuple[Path, list[Any], Plain], ram: Path, first: int, read: Read, warned: Warned
) -> None:
    store, right, plain = base
    places: list[tuple[int, int]] = [(at, 1) for at in range(HEADER.size)]
    for part, (begin, size) in enumerate(parts(segment(store, first))):
        assert (size > 0) is (part != SQUARES), part
        places += [(HEADER.size + 24 * part + at, 1) for at in range(24)]
        if size:
            places += [(begin, 1), (begin, 0xFF), (begin + size - 1, 0x80), (begin + size // 2, 4)]
    assert HEADER.size + 24 * PARTS == HEADER_BYTES
    copy = copied(store, ram / "copy")
    tail, path = own_tail(first, store), segment(copy, first)
    pristine = path.read_bytes()
    for number, (at, mask) in enumerate(places):
        change(path, at, mask)
        assert not is_taken(tail, path), at
        if number % (10 if DAMAGED > 100 else 300) == 20:
            look(copy, right)
            told = warned()
            assert len(told) == 1, at
            assert f"{first:012x}.segment is damaged, or of another state" in told[0]
            assert read.take() == len(plain.rows) - first
        path.write_bytes(pristine)
    assert is_taken(tail, path)
    look(copy, right)
    assert (read.take(), warned()) == (len(plain.rows) - 2 * SLOTS, [])


def test_a_column_that_is_made_late_has_nothing_of_a_damaged_segment(ram: Path) -> None:
    """And names of the segments before stay what they are."""
    store = ram / "s"
    for first in (0, SLOTS):
        with ntmem.open(store, engine="lmdb") as memory:
            numbers = range(first, first + SLOTS)
            extras = [{f"late{first}": n} if n % SLOTS > 4000 else {} for n in numbers]
            memory.vectors.add_many("n", [str(n) for n in numbers], [[1, n] for n in numbers], extras)
    for first, what in ((SLOTS, "name"), (SLOTS, "kind"), (0, "name"), (0, "kind")):
        [*_, (names, _), _, (kinds, size), _] = parts(segment(store, first))
        last = kinds + (size // SLOTS - 1) * SLOTS  # of its columns
        change(segment(store, first), names if what == "name" else last + 5, 1)
        with ntmem.open(store, engine="lmdb", read_only=True) as memory:
            for late in (0, SLOTS):
                assert memory.vectors.count("n", where={f"late{late}": {"$gte": 0}}) == 95
        change(segment(store, first), names if what == "name" else last + 5, 1)


def test_a_segment_of_another_format(base: tuple[Path, list[Any], Plain], ram: Path, warned: Warned) -> None:
    store, right, _ = base
    copy = copied(store, ram / "copy")
    path = segment(copy, 0)
    data = bytearray(path.read_bytes())
    for form in (1, 3):
        struct.pack_into("<II", data, 8, form, 0)
        struct.pack_into("<I", data, 12, crc32c(bytes(data[:HEADER_BYTES])))
        path.write_bytes(data)
        assert not is_taken(own_tail(0, store), path)
        look(copy, right)
        [told] = warned()
        assert "is damaged, or of another state" in told
    with ntmem.open(copy, engine="lmdb") as memory:  # and is written anew
        memory.vectors.count("n")
    assert HEADER.unpack_from(path.read_bytes())[1] == 2
    warned()
    look(copy, right)
    assert warned() == []


def test_memory_after_segments_were_read(ram: Path, read: Read) -> None:
    """As much as is needed, and one level of the index for all of them."""
    with ntmem.open(ram / "s") as memory:
        memory.vectors.create("n", 64, dtype="float32")
    for first in range(0, 6 * SLOTS, SLOTS):
        with ntmem.open(ram / "s") as memory:
            rows = np.random.default_rng(first).normal(size=(SLOTS, 64))
            memory.vectors.add_many("n", [f"{n:08}" for n in range(first, first + SLOTS)], rows)
    assert len(chain(ram / "s")) == 6
    read.take()
    with ntmem.open(ram / "s") as memory:
        tail = memory.vectors._of(("n",)).tail()
        assert (tail.count, read.take()) == (6 * SLOTS, 0)
        used = tail.count * (256 + 4 + 8 + 8 + 8 + 8 + 8) + 4 * (1 << 16)
        assert used < tail.nbytes < used + 2**16
        assert [tail.find(f"{n:08}", 2**62) for n in range(0, 6 * SLOTS, 100)] == [*range(0, 6 * SLOTS, 100)]


@pytest.mark.parametrize("count", [0, 2**40, 2**64 - 1])
def test_a_last_segment_that_says_too_much(
    base: tuple[Path, list[Any], Plain], ram: Path, count: int, warned: Warned
) -> None:
    copy = copied(base[0], ram / "copy")
    with open(segment(copy, SLOTS), "r+b") as file:
        file.seek(40)
        file.write(struct.pack("<Q", count))
    look(copy, base[1])
    assert len(warned()) == 1


def test_lengths(base: tuple[Path, list[Any], Plain], ram: Path, warned: Warned) -> None:
    store, right, _ = base
    copy = copied(store, ram / "copy")
    for first in (0, SLOTS):
        path, tail = segment(copy, first), own_tail(first, store)
        data = path.read_bytes()
        last = sum(parts(path)[-1])
        ends = sorted({*(at for at, _ in parts(path)), *range(0, last, 50_000)})
        for size in [0, 1, 100, HEADER.size, HEADER_BYTES, 4095, *ends, last - 1]:
            path.write_bytes(data[:size])
            assert not is_taken(tail, path), size
            if size in (100, last - 1):
                look(copy, right, "shared" if size == 100 else "lmdb")
                assert len(warned()) == 1
        path.write_bytes(data + b"more" * 5000)
        look(copy, right)
        assert warned() == []


def test_segments_in_other_places(base: tuple[Path, list[Any], Plain], ram: Path, warned: Warned) -> None:
    store, right, plain = base
    copy = copied(store, ram / "copy")
    for first in (0, SLOTS):  # of another collection
        other = segment(store, first).read_bytes()
        change(segment(copy, first), 16, 3)
        look(copy, right)
        assert len(warned()) == 1
        segment(copy, first).write_bytes(other)
    one, two = segment(copy, 0), segment(copy, SLOTS)
    one.rename(ram / "x")
    two.rename(one)
    (ram / "x").rename(two)
    look(copy, right)
    assert len(warned()) == 1
    copy = copied(store, ram / "copy")
    one.unlink()  # the first is missing
    look(copy, right)
    assert warned() == []
    with ntmem.open(copy, engine="lmdb") as memory:  # and is written anew, over both
        memory.vectors.count("n")
    assert chain(copy) == [(0, 2 * SLOTS)]
    assert len(segments(copy)) == 1
    look(copy, right)
    assert warned() == []
    agree_after(copy, plain)


def agree_after(store: Path, plain: Plain) -> None:
    """See that it can be written to, and then is right."""
    more = Plain()
    more.rows = list(plain.rows)
    with ntmem.open(store, engine="lmdb") as memory:
        fill(memory.vectors, more, 100)
        agree(memory.vectors, more, wheres=[{"t": "text 7"}])


def test_a_first_one_that_was_made_anew(ram: Path, warned: Warned) -> None:
    """Of the same changes, and as long in all its parts; but its numbers stand for other values."""
    store, words = ram / "s", ("one", "two")
    written: list[list[bytes]] = []
    with ntmem.open(store, engine="lmdb") as memory:
        names, extras = [f"{n}" for n in range(2 * SLOTS)], [{"a": words[n % 3 == 0]} for n in range(2 * SLOTS)]
        memory.vectors.add_many("n", names, [[1, n] for n in range(2 * SLOTS)], extras)
        engine, collection = memory._engine(), memory.vectors._of(("n",))
        for word in words:
            tail = collection._made()
            with tail.held(1):  # a value that comes first, and its change to nothing
                tail.stage("x", np.ones(2, np.float32), 0, 0, msgspec.msgpack.encode({"a": word}))
                for number in range(2 * SLOTS):
                    value = engine.get(POINTS, point_key(1, number))
                    assert value is not None
                    collection._apply(tail, decode_point(value))
                    if number % SLOTS == SLOTS - 1:
                        tail.unlock()
                        assert files.freeze(engine, 1, tail)
                        tail.lock(1)
            assert chain(store) == [(0, SLOTS), (SLOTS, 2 * SLOTS)]
            written.append([segment(store, first).read_bytes() for first in (0, SLOTS)])
    right = [sum(n % 3 == 0 for n in range(2 * SLOTS)), sum(n % 3 != 0 for n in range(2 * SLOTS))]
    for which in ((0, 0), (1, 1), (0, 1), (1, 0)):
        for first in (0, 1):
            segment(store, first * SLOTS).write_bytes(written[which[first]][first])
        warned()
        with ntmem.open(store, engine="lmdb", read_only=True) as memory:
            assert [memory.vectors.count("n", where={"a": word}) for word in ("two", "one")] == right, which
        assert len(warned()) == (which[0] != which[1])


def test_a_middle_one_is_missing(ram: Path, read: Read, warned: Warned) -> None:
    plain, store = Plain(), ram / "s"
    for _ in range(3):
        with ntmem.open(store) as memory:
            fill(memory.vectors, plain, SLOTS)
    last = segment(store, 2 * SLOTS).read_bytes()
    segment(store, SLOTS).unlink()
    read.take()
    with ntmem.open(store, read_only=True) as memory:
        agree(memory.vectors, plain, wheres=[{"t": "text 7"}])
    assert (read.take(), warned()) == (2 * SLOTS, [])
    with ntmem.open(store) as memory:
        agree(memory.vectors, plain, wheres=[])
    assert chain(store) == [(0, SLOTS), (SLOTS, 3 * SLOTS)]
    assert len(segments(store)) == 2  # the last one is of no use any more
    segment(store, 2 * SLOTS).write_bytes(last)
    read.take()
    with ntmem.open(store) as memory:
        agree(memory.vectors, plain, wheres=[])
    assert (read.take(), warned()) == (0, [])


RANDOM = """
import logging, random, resource, shutil
from pathlib import Path
from segments import *
from vectors import locked, new_tail, search
from ntmem._core.vectors import HEADER_BYTES
store, place, first, last = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
logging.disable(logging.CRITICAL)
bare = copied(store, place / "bare")
shutil.rmtree(bare / "vectors")
with ntmem.open(bare, engine="lmdb", read_only=True) as memory:
    right = answers(memory.vectors)
copy = copied(store, place / "copy")
pristine = {begin: segment(copy, begin).read_bytes() for begin in (0, SLOTS)}
def damage(seed):
    rng = random.Random(seed)
    told = []
    for begin, data in pristine.items():
        data = bytearray(data)
        for _ in range(rng.choice([0, 1, 1, 3])):
            bounds = [(0, 512)] + parts(segment(store, begin))
            at, size = rng.choice([each for each in bounds if each[1]])
            at += rng.randrange(size)
            style = rng.randrange(6)
            if style == 0:
                data[at : at + 1] = bytes([data[at] ^ 1 << rng.randrange(8)]) if at < len(data) else b""
            elif style == 1:
                data[at : at + 8] = rng.choice([0, 1, 2**31, 2**32 - 1, 2**63, 2**64 - 1]).to_bytes(8, "little")
            elif style == 2:
                data[at : at + rng.randrange(5000)] = b""
            elif style == 3:
                del data[at:]
            elif style == 4:
                data[at:at] = rng.randbytes(rng.choice([1, 8, 4096]))
            else:
                data[at : at + 300] = rng.randbytes(300)
            told.append((begin, at, style))
        segment(copy, begin).write_bytes(data)
    return told
def facts(tail):
    names = ["n", "t", "x", "any", "w3", "era"]
    columns = [[each.tobytes() for each in tail.column(name) or ()] for name in names]
    texts = [tail.interned(name) for name in names] if tail.count else []
    found = [(it.id, it.metadata, it.ts_event, it.ts_known) for it in map(tail.found, range(tail.count))][::50]
    some = [each.tobytes() for each in search(tail, QUERIES, 50, tail.count, 2**62)]
    return columns, texts, found, some, tail.served(tail.count, 2**62)[1]
def taken(place, sure):
    tail = new_tail(3, metric="cosine", capacity=1 << 14)
    for begin in (0, SLOTS):
        with open(segment(place, begin), "rb") as file:
            header = file.read(HEADER_BYTES)
            if len(header) < HEADER_BYTES or not locked(tail, lambda: tail.read_segment(file.fileno(), header)):
                break
        assert tail.count == begin + SLOTS
        if not sure:
            assert facts(tail) == known[begin], begin
        else:
            known[begin] = facts(tail)
known = {}
taken(store, True)
for seed in range(first, last):
    told = damage(seed)
    if seed % 25:
        try:
            taken(copy, False)
        except AssertionError as error:
            say("seed", seed, "took over what is wrong", told, error)
        continue
    pid = os.fork()
    if pid == 0:
        signal.alarm(60)
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        try:
            with ntmem.open(copy, engine="lmdb", read_only=True) as memory:
                os._exit(0 if answers(memory.vectors) == right else 8)
        except BaseException:
            import traceback; traceback.print_exc()
            os._exit(9)
    _, status = os.waitpid(pid, 0)
    if status:
        say("seed", seed, "status", os.waitstatus_to_exitcode(status), told)
say("done")
"""


def test_random_damage(base: tuple[Path, list[Any], Plain], ram: Path, start: Start) -> None:
    bad = []
    for first in range(0, DAMAGED, 1000):  # a child has a minute
        child = start(RANDOM, base[0], ram, first, min(first + 1000, DAMAGED))
        while (line := child.line()) != "done":
            bad.append(line)
        child.end()
    assert bad == []


# -- of another state of the store


DYING = """
sys.path.insert(0, "")
from segments import *
from vectors import Plain
import numpy as np
how = {} if sys.argv[2] == "lmdb" else {"flush_interval": 3600.0, "log_bytes": 1 << 24}
memory = ntmem.open(sys.argv[1], engine=sys.argv[2], **how)
v, seed = memory.vectors, int(sys.argv[3])
rows = np.random.default_rng(seed).normal(size=(4096, 3)).astype("f4")
def add(v):
    v.add_many("n", [str(n) for n in range(4096)], rows, [{"seed": seed}] * 4096, ts_event=0, ts_known=0)
"""


@pytest.mark.parametrize(("kind", "times"), [("lmdb", 1), ("shared", 2)])
def test_a_backup_that_was_put_back(ram: Path, start: Start, kind: str, times: int, warned: Warned) -> None:
    """As often as one likes: the same numbers of changes, the same versions, other vectors."""
    store = ram / "s"
    with ntmem.open(store, engine=kind) as memory:
        memory.vectors.create("n", 3)
    shutil.copytree(store, ram / "backup")
    for turn in range(times):
        if times == 2:
            shutil.copyfile(ram / "backup" / "data.mdb", store / "data.mdb")
        child = start(DYING + "add(v); memory.close()", store, kind, turn)
        child.end()
        assert chain(store) == [(0, SLOTS)]
    shutil.copyfile(ram / "backup" / "data.mdb", store / "data.mdb")
    child = start(DYING + 'add(v); memory.flush(); say("added"); hear()', store, kind, times)
    assert child.line() == "added"
    child.kill()  # so that no segment is written
    with ntmem.open(store, engine=kind) as memory:
        v = memory.vectors
        assert v.count("n") == SLOTS
        assert [v.count("n", where={"seed": seed}) for seed in range(times + 1)] == [0] * times + [SLOTS]
        assert len(warned()) == 1
    with ntmem.open(store, engine=kind) as memory:
        assert memory.vectors.count("n", where={"seed": times}) == SLOTS
    assert warned() == []


@pytest.mark.parametrize("again", [True, False])
def test_power_is_lost(ram: Path, start: Start, again: bool, warned: Warned) -> None:
    """A segment has what the store has not: the log was not on disk yet."""
    store = ram / "s"
    with ntmem.open(store) as memory:
        memory.vectors.create("n", 3)
    child = start(DYING + "add(v); v.close(); say('written'); hear()", store, "shared", 1)
    assert child.line() == "written"
    assert chain(store) == [(0, SLOTS)]
    child.kill()
    remove_regions(ram)
    lost = 0
    with ntmem.open(store) as memory:
        v = memory.vectors
        lost = SLOTS - v.count("n")
        assert lost > 0, "it was flushed meanwhile"
        assert len(warned()) == 1
        assert len(v.search("n", [1, 0, 0], 10**6)) == SLOTS - lost
        if again:
            count = 2 * SLOTS - lost
            v.add_many("n", [f"{n}" for n in range(count)], [[1, n, 0] for n in range(count)], [{"seed": 2}] * count)
    with ntmem.open(store) as memory:
        assert memory.vectors.count("n", where={"seed": 2}) == (2 * SLOTS - lost if again else 0)
    assert len(warned()) == (0 if again else 1)


# -- dropped


@pytest.mark.parametrize("kind", KINDS)
def test_what_was_dropped(ram: Path, kind: str, read: Read, warned: Warned) -> None:
    store, plain, kept = ram / "s", Plain(), Plain()
    with ntmem.open(store, engine=kind) as memory:
        fill(memory.vectors, Plain(), SLOTS)
        fill(memory.vectors, kept, SLOTS, "kept")
    assert len(segments(store)) == 2
    segment(store, 0).with_suffix(".segment.999999999").touch()
    with ntmem.open(store, engine=kind) as memory:
        v = memory.vectors
        old = segment(store, 0).read_bytes()
        assert v.drop("n")
        assert segments(store) == [segment(store, 0, 2).name]
        v.add("n", "a", [1, 2])
        assert v.count("n") == 1
        v.drop("n")
        fill(v, plain, SLOTS)
        agree(v, plain, wheres=[])
        segment(store, 0).write_bytes(old)
    read.take()
    with ntmem.open(store, engine=kind) as memory:
        agree(memory.vectors, plain, wheres=[])
        agree(memory.vectors, kept, "kept", wheres=[])
    assert (read.take(), warned()) == (0, [])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("step", ["makedirs", "replace"])
def test_dropped_while_one_is_written(ram: Path, kind: str, step: str, monkeypatch: pytest.MonkeyPatch) -> None:
    store = ram / "s"
    one, other = ntmem.open(store, engine=kind), ntmem.open(store, engine=kind)
    fill(one.vectors, Plain(), SLOTS)
    other.vectors.count("n")
    real, dropped = getattr(os, step), []

    def drop(*args: Any, **more: Any) -> Any:
        if not dropped:
            dropped.append(other.vectors.drop("n"))
        return real(*args, **more)

    monkeypatch.setattr(os, step, drop)
    one.close()
    assert dropped == [True]
    assert segments(store) == []
    other.close()


def test_what_somebody_left_half_written(ram: Path) -> None:
    store, plain = ram / "s", Plain()
    with ntmem.open(store) as memory:
        fill(memory.vectors, plain, SLOTS)
        (store / "vectors").mkdir()
        for more in (".999999999-5", ".999999999", f".{os.getpid()}-1", ".else"):
            segment(store, 0).with_suffix(".segment" + more).touch()
    assert segments(store) == [segment(store, 0).name, segment(store, 0).name + f".{os.getpid()}-1"]
