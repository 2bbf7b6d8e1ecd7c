"""Vectors where memory is bounded, is full, is lost or is wrong; filters that are kept."""

from __future__ import annotations

import os
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hostile import Start
from vectors import Plain, check, clustered, ids

import ntmem
from ntmem import VectorError
from ntmem.filters import compile_where
from ntmem.tiers import collection as collections
from ntmem.tiers.passing import Columns
from ntmem.tiers.region import tail_path

# -- memory


def test_a_budget_of_memory(ram: Path) -> None:
    log, most = 1 << 16, 12 << 20
    with ntmem.open(ram / "s", log_bytes=log, max_memory_bytes=most) as memory:
        v, kept = memory.vectors, 0
        with pytest.raises(VectorError, match="max_memory_bytes"):
            for number in range(100):
                v.add_many("n", [f"{number}-{n}" for n in range(500)], clustered(500, 64, seed=number))
                kept += 500
        assert kept > 0
        assert kept <= v.count("n") < kept + 500  # of the last ones, groups
        kept = v.count("n")
        part = memory.stats().memory["vectors"]
        assert part.used <= part.limit
        with pytest.raises(VectorError, match="or drop a collection"):
            v.add("other", "a", [1, 0])
        assert v.count("n") == kept
        v.drop("n")
        v.add("n", "a", np.ones(64))
        assert v.count("n") == 1


def test_one_group_keeps_to_the_budget(ram: Path) -> None:
    """Also a group as large as the budget."""
    with ntmem.open(ram / "s", max_memory_bytes=16 << 20, log_bytes=1 << 16) as memory:
        v = memory.vectors
        v.create("n", 1024, dtype="float32")
        v.add("n", "a", np.ones(1024))
        with pytest.raises((VectorError, ntmem.DiskFull)):
            for turn in range(6):
                v.add_many("n", [f"{turn}-{n}" for n in range(4000)], np.ones((4000, 1024), np.float32))
        part = memory.stats().memory["vectors"]
        assert part.used <= part.limit


FULL = """
import numpy as np
from ntmem.tiers import region
region.SHARED_MEMORY, what = sys.argv[1], sys.argv[3]
def fill():
    file = os.open(region.SHARED_MEMORY + "/ballast", os.O_CREAT | os.O_WRONLY)
    try:
        while True:
            os.write(file, bytes(4096))
    except OSError:
        os.close(file)
def attempt(use):
    try:
        use()
        return "done"
    except ntmem.DiskFull as error:
        assert "nothing of the change was kept" in str(error), error
        return "full"
memory = ntmem.open(sys.argv[2], log_bytes=1 << 16)
v, one = memory.vectors, [1, 0, 0, 0]
v.create("n", 4)
v.count("n")
if what != "empty":
    v.add("n", "first", one, {"n": 1})
fill()
begun = v.count("n")
assert begun == (what != "empty")
assert (v.get("n", "first") is not None) is (what != "empty")
assert v.get("n", "a") is None
for where in (None, {"n": 1}, {"n": "text"}, {"other": 1}, {"n": {"$prefix": "t"}}, {"n": {"$exists": True}}):
    assert len(v.search("n", one, where=where)) <= 1
    v.count("n", where=where)
assert v.info("n").count == begun
assert attempt(lambda: v.add("m", "a", one)) == "full"
kept = {"first"} if begun else set()
def add(n):
    name = f"{n}"
    fate = attempt(lambda: v.add("n", name, one, {"n": "text" * 100, f"f{n}": n}))
    if fate == "done": kept.add(name)
    return fate
fates = [add(n) for n in range(40)]
assert "full" in fates, fates
assert v.count("n") == len(kept)
for n in range(10):
    names = [f"{n}-{m}" for m in range(700)]
    metadata = [{f"k{n}": f"text{m}"} for m in range(700)] if what == "names" else [{"n": m} for m in range(700)]
    if attempt(lambda: v.add_many("n", names, np.ones((700, 4)), metadata)) == "done":
        kept.update(names)
    assert v.count("n") == len(kept), (n, v.count("n"), len(kept))
os.unlink(region.SHARED_MEMORY + "/ballast")
v.add("n", "last", one)
kept.add("last")
names = [f"again-{m}" for m in range(3000)]
v.add_many("n", names, np.ones((3000, 4)), [{"x": m} for m in range(3000)])
kept.update(names)
with ntmem.open(sys.argv[2], log_bytes=1 << 16) as other:
    for each in (v, other.vectors):
        assert {hit.id for hit in each.search("n", one, 10**6)} == kept
        assert each.count("n") == len(kept)
memory.close()
say("well")
"""


@pytest.mark.parametrize("small_shm", [80], indirect=True)
@pytest.mark.parametrize("what", ["empty", "numbers", "names"])
def test_no_shared_memory_left(ram: Path, small_shm: Path, start: Start, what: str) -> None:
    """Nobody dies, reads go on, and what was refused is nowhere."""
    child = start(FULL, small_shm, ram / "s", what)
    assert child.line() == "well"
    child.end()


GROUP = """
import numpy as np
from ntmem.tiers import region
region.SHARED_MEMORY, room = sys.argv[1], int(sys.argv[3])
memory = ntmem.open(sys.argv[2], log_bytes=1 << 22)
v, kept = memory.vectors, {"first"}
v.add("n", "first", [1, 0, 0, 0])
file = os.open(region.SHARED_MEMORY + "/ballast", os.O_CREAT | os.O_WRONLY)
left = os.statvfs(region.SHARED_MEMORY)
os.posix_fallocate(file, 0, left.f_bavail * left.f_bsize - room * 65536)
for n in range(6):
    names = [f"{n}-{m}" for m in range(600)]
    metadata = [{f"k{n}-{m % 5}": f"text{m}" * 4} for m in range(600)]
    try:
        v.add_many("n", names, np.ones((600, 4)), metadata)
        kept.update(names)
    except ntmem.DiskFull:
        pass
    assert v.count("n") == len(kept), (n, v.count("n"), len(kept))
os.ftruncate(file, 0)
v.add("n", "last", [1, 0, 0, 0])
kept.add("last")
assert {hit.id for hit in v.search("n", [1, 0, 0, 0], 10**6)} == kept
with ntmem.open(sys.argv[2], log_bytes=1 << 22) as other:
    assert other.vectors.count("n") == len(kept)
say("well")
"""


@pytest.mark.parametrize("small_shm", [80], indirect=True)
def test_a_group_for_which_there_is_nearly_enough_memory(ram: Path, small_shm: Path, start: Start) -> None:
    """It is kept, or refused: whatever is short, it is found out before anything is written."""
    for room in (2, 7, 12, 17, 22):
        child = start(GROUP, small_shm, ram / f"s{room}", room)
        assert child.line() == "well", room
        child.end()
        for left in small_shm.iterdir():
            left.unlink()


# -- where its memory is lost or wrong


def test_its_memory_is_removed_under_its_users(ram: Path) -> None:
    with ntmem.open(ram / "s") as one, ntmem.open(ram / "s") as other:
        v, w, plain = one.vectors, other.vectors, Plain()
        for number in range(30):
            (v, w)[number % 2].add("n", str(number % 20), [1, number], ts_event=0, ts_known=0)
            plain.add(str(number % 20), [1, number], None, 0, 0)
            if number % 5 == 0:
                os.unlink(tail_path(str(ram / "s"), 1))
            check((w, v)[number % 2], plain)


@pytest.mark.parametrize("where", ["header", "control", "grown"])
def test_its_memory_is_damaged(ram: Path, where: str, caplog: pytest.LogCaptureFixture) -> None:
    """Who comes makes it anew."""
    with ntmem.open(ram / "s") as one:
        v, plain = one.vectors, Plain()
        for number in range(30):
            v.add("n", str(number), [1, number], ts_event=0, ts_known=0)
            plain.add(str(number), [1, number], None, 0, 0)
        path = tail_path(str(ram / "s"), 1)
        size = os.stat(path).st_size
        with open(path, "r+b") as file:
            if where == "header":
                file.write(b"\x07" * 64)
            elif where == "control":
                file.seek(4096)
                file.write(b"\x07" * 4096)
            else:
                file.truncate(size + 4096)
        with ntmem.open(ram / "s") as other:
            check(other.vectors, plain)
            assert "made anew" in caplog.text
            v.add("n", "last", [1, 0], ts_event=0, ts_known=0)
            plain.add("last", [1, 0], None, 0, 0)
            check(other.vectors, plain)
            check(v, plain)


def test_somebody_else_holds_it(ram: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(collections, "PATIENCE", 0.05)
    with ntmem.open(ram / "s") as memory, ntmem.open(ram / "s") as other:
        v = memory.vectors
        v.add("n", "a", [1, 0])
        tail = other.vectors._of(("n",)).tail()
        tail.lock(1.0)
        try:
            for use in (
                lambda: v.add("n", "b", [1, 0]),
                lambda: v.add_many("n", ["b"], [[1, 0]]),
                lambda: v.delete("n", "a"),
            ):
                with pytest.raises(ntmem.StorageError, match=f"process {os.getpid()} .* is it stopped"):
                    use()
            assert ids(v.search("n", [1, 0])) == ["a"]
            assert v.get("n", "a") is not None
        finally:
            tail.unlock()
        v.add("n", "b", [1, 0])
        assert v.count("n") == 2


def test_what_goes_past_the_log(ram: Path) -> None:
    """Vectors too large for it, or many at once, with others that are not."""
    with ntmem.open(ram / "s", log_bytes=4096) as one, ntmem.open(ram / "s", log_bytes=4096) as other:
        v, plain, rows = one.vectors, Plain(), clustered(300, 700)
        v.create("n", 700)
        at = 0
        for count in (1, 1, 40, 1, 100, 1, 1):
            names = [str(n % 90) for n in range(at, at + count)]
            (v if count % 3 else other.vectors).add_many("n", names, rows[at : at + count], ts_event=0, ts_known=0)
            for name, row in zip(names, rows[at : at + count], strict=True):
                plain.add(name, row, None, 0, 0)
            at += count
            check(other.vectors, plain)
            check(v, plain)


@pytest.mark.parametrize("durability", ["process", "disk"])
def test_however_durable(ram: Path, durability: Any) -> None:
    with ntmem.open(ram / "s", durability=durability) as memory:
        v = memory.vectors
        v.add("n", "a", [1, 0])
        v.add_many("n", ["b", "c"], [[1, 0], [1, 1]])
        v.delete("n", "c")
        assert ids(v.search("n", [1, 0])) == ["a", "b"]


# -- bits of filters that are kept


def test_what_passes_a_filter_is_the_same_kept_or_not() -> None:
    """Over adding, replacing, deleting, a field that comes late, fewer slots than before, and more filters than fit."""
    chance = random.Random(5)
    filters: list[dict[str, Any]] = [
        *({"a": {"$lt": 5}}, {"a": 3}, {"b": "x1"}, {"b": {"$prefix": "x"}}, {"late": {"$exists": False}}),
        *({"late": {"$gte": 2}}, {"$or": [{"a": 1}, {"late": {"$ne": 3}}]}, {"b": {"$nin": ["x1", "x2"]}}),
        *({"a": {"$gt": number}} for number in range(14)),
    ]
    with ntmem.open() as memory:
        v = memory.vectors
        for step in range(600):
            metadata = {"a": chance.randrange(10), "b": f"x{chance.randrange(4)}"}
            if step > 300:
                metadata["late"] = chance.randrange(5)
            v.add("n", str(chance.randrange(400)), [1, chance.random()], metadata)
            if chance.random() < 0.05:
                v.delete("n", str(chance.randrange(400)))
            where = compile_where(chance.choice(filters))
            assert where is not None
            collection = v._of(("n",))
            assert collection is not None
            tail = collection.tail()
            count = tail.count if chance.random() < 0.7 else chance.randrange(tail.count + 1)
            expected = where.bits(Columns(tail), count)
            assert np.array_equal(collection.passing(tail, where, count), expected), (where, count)


def test_a_drop_that_was_not_come_to_is_done_by_the_next(ram: Path) -> None:
    """Somebody ended the memory and died before the store said so."""
    with ntmem.open(ram / "s") as one, ntmem.open(ram / "s") as other:
        one.vectors.add("n", "a", [1, 0])
        tail = one.vectors._of(("n",)).tail()  # type: ignore[union-attr]
        with tail.held(1):
            tail.end()
        assert other.vectors.drop("n")
        assert other.vectors.collections() == []
        assert one.vectors.get("n", "a") is None
        one.vectors.add("n", "b", [1, 0, 0])
        assert other.vectors.count("n") == 1
