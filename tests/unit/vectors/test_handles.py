"""Vectors by several handles, in children, in what was pickled, and by threads."""

from __future__ import annotations

import glob
import os
import pickle
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
from hostile import Start
from vectors import Plain, check, check_get, check_search, clustered, ids

import ntmem
from ntmem.tiers.region import tail_path

# -- handles


def test_another_handle_sees_everything_at_once(ram: Path) -> None:
    for engine in ("shared", "lmdb"):
        with ntmem.open(ram / engine, engine=engine) as one, ntmem.open(ram / engine, engine=engine) as other:
            plain, handles = Plain(), (one, other)
            for number in range(80):
                mine, theirs = handles[number % 2].vectors, handles[1 - number % 2].vectors
                name, row = str(number % 30), [1, number]
                if number % 7 == 6:
                    assert mine.delete("n", name) == (plain.get(name) is not None)
                    if plain.get(name) is not None:
                        plain.delete(name, 0)
                else:
                    mine.add("n", name, row, ts_event=0, ts_known=0)
                    plain.add(name, row, None, 0, 0)
                for each in (theirs, mine):
                    check_search(each.search("n", [1, 3], 50), plain, [1, 3], 50)
                    check_get(each.get("n", name), plain.get(name))


def test_a_drop_is_seen_by_other_handles(ram: Path) -> None:
    for engine in ("shared", "lmdb"):
        with ntmem.open(ram / engine, engine=engine) as one, ntmem.open(ram / engine, engine=engine) as other:
            v, w = one.vectors, other.vectors
            for turn in range(4):
                v.add("n", "x", [1] * (turn + 2))
                assert w.count("n") == 1
                if turn % 2:
                    assert w.info("n").dimension == turn + 2
                v.drop("n")
                if turn != 2:
                    assert (w.count("n"), w.search("n", [1, 0]), w.get("n", "x")) == (0, [], None)
            w.add("n", "y", [1, 0])
            assert v.count("n") == 1
            v.drop("n")
            v.add("n", "z", [1, 0, 0])
            assert w.get("n", "z") is not None
            assert w.get("n", "y") is None
            w.add("n", "y", [1, 0, 0])
            assert ids(v.search("n", [1, 0, 0])) == ["z", "y"]


def test_it_is_kept(ram: Path) -> None:
    plain, rows = Plain("l2", "float16"), clustered(300, 6)
    for turn, engine in enumerate(["shared", "lmdb", "shared", "shared"]):
        with ntmem.open(ram / "s", engine=engine) as memory:
            v = memory.vectors
            if turn == 0:
                v.create("n", 6, metric="l2", dtype="float16")
            if turn:
                check(v, plain, queries=rows[:3])
            for number in range(turn, 300, 4):
                v.add("n", str(number % 100), rows[number], {"n": number}, ts_event=0, ts_known=number)
                plain.add(str(number % 100), rows[number], {"n": number}, 0, number)
            assert v.delete("n", str(turn), ts_known=400) == 1
            plain.delete(str(turn), 400)
            check(v, plain, queries=rows[:3])
            check(v, plain, as_of=150)
    assert ntmem.verify(ram / "s").ok
    assert not glob.glob("/dev/shm/" + os.path.basename(tail_path(str(ram / "s"), 1))[:-1] + "*")


WRITER = """
with ntmem.open(sys.argv[1], engine=sys.argv[2]) as memory:
    for number in range(40):
        hear()
        memory.vectors.add("n", str(number), [1, number], ts_event=0, ts_known=0)
        say("added")
    hear(); memory.vectors.drop("n"); say("dropped")
    hear(); memory.vectors.add("n", "new", [1, 2, 3]); say("added")
    hear()
"""


@pytest.mark.parametrize("kind", ["shared", "lmdb"])
def test_a_store_that_is_only_read(ram: Path, start: Start, kind: str) -> None:
    plain = Plain()
    with ntmem.open(ram / "s", engine=kind) as memory:
        memory.vectors.add("n", "a", [1, 0], {"x": 1}, ts_event=0, ts_known=0)
        plain.add("a", [1, 0], {"x": 1}, 0, 0)
    with ntmem.open(ram / "s", engine=kind, read_only=True) as reader:
        r = reader.vectors
        check(r, plain)
        assert r.count("n", where={"x": 1}) == 1
        uses = [lambda: r.add("n", "b", [1, 0]), lambda: r.add_many("n", ["b"], [[1, 0]]), lambda: r.delete("n", "a")]
        uses += [lambda: r.delete("n", where={"x": 1}), lambda: r.drop("n"), lambda: r.create("m", 2)]
        for use in uses:
            with pytest.raises(ntmem.ReadOnlyError, match="read_only=True"):
                use()
        writer = start(WRITER, ram / "s", kind)  # somebody comes who writes
        for number in range(40):
            writer.tell()
            assert writer.line() == "added"
            plain.add(str(number), [1, number], None, 0, 0)
            check_search(r.search("n", [1, 5], 100), plain, [1, 5], 100)
        writer.tell()
        assert writer.line() == "dropped"
        assert (r.count("n"), r.collections()) == (0, [])
        writer.tell()
        assert writer.line() == "added"
        assert r.get("n", "new") is not None
        writer.end()
        assert r.count("n") == 1


def test_a_closed_store(ram: Path) -> None:
    memory = ntmem.open(ram / "s")
    v = memory.vectors
    v.add("n", "a", [1, 0])
    memory.close()
    uses = [
        lambda: v.add("n", "a", [1, 0]),
        lambda: v.search("n", [1, 0]),
        lambda: v.get("n", "a"),
        lambda: v.count("n"),
    ]
    uses += [
        lambda: v.info("n"),
        lambda: v.delete("n", "a"),
        lambda: v.drop("n"),
        v.collections,
        lambda: memory.vectors,
    ]
    uses += [lambda: v.create("n", 2), lambda: v.add_many("n", ["a"], [[1, 0]])]
    for use in uses:
        with pytest.raises(ntmem.StoreClosed):
            use()
    assert "VectorStore" in repr(v)
    with ntmem.open(ram / "s") as memory:
        assert memory.vectors.count("n") == 1


def test_it_is_not_pickled(v: Any) -> None:
    with pytest.raises(TypeError, match="pass the store"):
        pickle.dumps(v)


def test_a_store_that_was_pickled_has_its_vectors(ram: Path) -> None:
    with ntmem.open(ram / "s") as memory:
        memory.vectors.add("n", "a", [1, 0])
        with pickle.loads(pickle.dumps(memory)) as other:
            assert other.vectors.count("n") == 1


@pytest.mark.parametrize("kind", ["shared", "lmdb"])
def test_a_forked_child(ram: Path, start: Start, kind: str) -> None:
    child = start(
        """
memory = ntmem.open(sys.argv[1], engine=sys.argv[2])
v = memory.vectors
v.add("n", "a", [1, 0])
pid = os.fork()
if pid == 0:
    told = 0
    for use in (lambda: v.add("n", "b", [1, 0]), lambda: v.search("n", [1, 0]), lambda: v.get("n", "a"),
                lambda: v.count("n"), lambda: v.info("n"), lambda: v.drop("n"), lambda: v.delete("n", "a"),
                v.collections, lambda: repr(v) and 1 / 0):
        try:
            use()
        except (RuntimeError, ntmem.NtmemError, ZeroDivisionError):
            told += 1
    with ntmem.open(sys.argv[1], engine=sys.argv[2]) as own:
        own.vectors.add("n", "c", [1, 0])
    os._exit(told)
_, status = os.waitpid(pid, 0)
say(os.waitstatus_to_exitcode(status), v.count("n"), v.get("n", "c") is not None)
""",
        ram / "s",
        kind,
    )
    assert child.line() == "9 2 True"
    child.end()


def test_stats_say_what_vectors_take(memory: Any, v: Any) -> None:
    assert memory.stats().vector_bytes == 0
    v.add("n", "a", [1, 0])
    took = memory.stats().vector_bytes
    assert took > 0
    assert v.nbytes == took
    v.add("m", "a", [1, 0])
    assert memory.stats().vector_bytes > took
    v.drop("m")
    assert memory.stats().vector_bytes == took


# -- threads


@pytest.mark.parametrize("path", [True, False])
def test_threads_that_come_first_at_once(ram: Path, path: bool) -> None:
    """They share one collection, also where it is memory of this process alone."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        for turn in range(12):
            with ntmem.open(ram / f"s{turn}" if path else None) as memory:
                together, wrong = threading.Barrier(6), []

                def work(name: str, memory: Any = memory, together: Any = together, wrong: Any = wrong) -> None:
                    together.wait()
                    v = memory.vectors
                    v.add("n", name, [1, 0])
                    if v.get("n", name) is None:
                        wrong.append(name)

                threads = [threading.Thread(target=work, args=(str(n),)) for n in range(6)]
                for thread in threads:
                    thread.start()
                for thread in threads:
                    thread.join()
                assert wrong == []
                assert memory.vectors.count("n") == 6
    finally:
        sys.setswitchinterval(interval)


def test_threads_add_delete_and_search(v: Any) -> None:
    errors: list[BaseException] = []

    def work(which: int) -> None:
        try:
            for number in range(60):
                name = f"{which}-{number % 10}"
                v.add("n", name, [1, number], {"n": number, "of": which})
                assert v.get("n", name).metadata["n"] == number
                hits = v.search("n", [1, 0], 100, where={"of": which})
                assert len({*ids(hits)}) == len(hits) == min(number + 1, 10)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert v.count("n") == 40
