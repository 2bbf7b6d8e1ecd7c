"""Processes that die at every step of adding, deleting and dropping: each vector is found, once, or never was.

``NTMEM_VECTOR_KILLS`` says how many random kills there are; above 10, every step is tried in every call.
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hostile import ram_directory
from logs import Nursery
from vectors import LAST, Plain, check

import ntmem
from ntmem.tiers.guards import COLLECTIONS, POINTS

pytestmark = pytest.mark.crash

KILLS = int(os.environ.get("NTMEM_VECTOR_KILLS", "10"))
ALL = KILLS > 10
LOG = [
    "locked",
    "checked",
    "reserved",
    "half_written",
    "written",
    "sealed",
    "linked",
    "numbered",
    "committed",
    "announced",
]
TAIL = ["vectors_locked", "vectors_valued", "vectors_staged", "vectors_kept"]
TAIL += ["vectors_replaced", "vectors_counted", "vectors_indexed"]
POINTS_OF = LOG + TAIL

DYING = """
import ntmem
from ntmem.tiers import collection, vectors
collection._GROUP, collection._FOLLOWED, vectors._DROPPED_AT_ONCE = 8, 3, 6
memory = ntmem.open({path!r}, log_bytes=65536, flush_interval={interval})
v = memory.vectors
{lines}
"""


@contextlib.contextmanager
def opened(directory: Path) -> Iterator[Any]:
    with ntmem.open(directory / "s", log_bytes=1 << 16, flush_interval=3600.0) as memory:
        yield memory


def script(directory: Path, *lines: str, interval: float = 3600.0) -> str:
    return DYING.format(path=str(directory / "s"), interval=interval, lines="\n".join(lines))


TIMES = "ts_event=0, ts_known=0"


def add(v: Any, plain: Plain, name: str, number: int = 1) -> None:
    v.add("n", name, [1, number], {"t": f"text {number}", "n": number}, ts_event=0, ts_known=0)
    plain.add(name, [1, number], {"t": f"text {number}", "n": number}, 0, 0)


def begin(memory: Any, plain: Plain) -> None:
    for number in range(12):
        add(memory.vectors, plain, f"old {number}", number)


def settle(v: Any, plain: Plain, changes: list[tuple[str, Any, Any]]) -> int:
    """See how many of the changes were done, from the first on, note them, and return how many."""
    facts = v.info("n")
    done = 0 if facts is None else facts.changes - len(plain.rows)
    assert 0 <= done <= len(changes)
    for name, vector, metadata in changes[:done]:
        plain.add(name, vector, metadata, 0, 0)
    check(v, plain)
    for row in plain.rows[-3:]:
        where = {"t": row.metadata.get("t", "none")}
        assert v.count("n", where=where) == len(plain.served(LAST, where))
    return done


def agree(memory: Any, plain: Plain) -> None:
    """Store and memory have the same changes, numbered without a gap, and the memory finds each of its ids."""
    v, engine = memory.vectors, memory._engine()
    collection = v._of(("n",))
    tail = collection.tail()
    keys = sorted(key for key, _ in engine.entries_of(POINTS, b"%08x" % collection.row.number))
    assert keys == [b"%08x%012x" % (collection.row.number, number) for number in range(tail.count)]
    assert tail.count == len(plain.rows)
    for slot, row in enumerate(plain.rows):
        assert tail.found(slot).id == row.id
    for row in plain.served():
        assert tail.find(row.id, LAST) == row.number


META = {"t": "new text", "own": [1]}
MANY = [("old 3", [1, 50], {"t": "a", "m": 1}), ("new", [1, 51], {"t": "b"}), ("old 3", [1, 52], {"t": "c", "k": 0.5})]
MANY += [(f"more {n}", [1, n], {"t": f"d {n}"}) for n in range(20)]
CALLS: dict[str, tuple[str, list[tuple[str, Any, Any]]]] = {
    "new": (f"v.add('n', 'new', [1, 40], {META!r}, {TIMES})", [("new", [1, 40], META)]),
    "replaced": (f"v.add('n', 'old 3', [1, 41], {META!r}, {TIMES})", [("old 3", [1, 41], META)]),
    "many": (
        f"v.add_many('n', {[it[0] for it in MANY]!r}, {[it[1] for it in MANY]!r}, {[it[2] for it in MANY]!r}, {TIMES})",
        MANY,
    ),
    "deleted": ("v.delete('n', 'old 5', ts_known=0)", [("old 5", None, None)]),
    "deleted by a filter": (
        "v.delete('n', where={'n': {'$gte': 2}}, ts_known=0)",
        [(f"old {n}", None, None) for n in range(2, 12)],
    ),
}


WAYS = [(point, call, beside) for point in POINTS_OF for call in CALLS for beside in (True, False)]
WAYS = [way for number, way in enumerate(WAYS) if ALL or number % 13 == number // 10 % 13]


@pytest.mark.parametrize(("point", "call", "beside"), WAYS)
def test_who_is_killed_in_a_call(nursery: Nursery, ram: Path, point: str, call: str, beside: bool) -> None:
    """In a store that others have open, or nobody; first of all it has done such a call, and so does it natively."""
    code, changes = CALLS[call]
    nth, fate = 0, ""
    while fate != 7:
        nth += 1
        assert nth < 80, "it never came through"
        if nth > 6 and nth % 7 and nth < 77:
            continue
        directory = ram / f"{nth}"
        directory.mkdir()
        plain = Plain()
        with opened(directory) as memory:
            begin(memory, plain)
            if not beside:
                memory.close()
            warm = f"v.add('n', 'warm', [1, 2], {{'t': 'warm', 'n': 1}}, {TIMES})"
            fate, _ = nursery.run(script(directory, warm, f"arm({point!r}, 'kill', {nth})", code, "os._exit(7)"))
            assert fate in ("killed", 7)
            plain.add("warm", [1, 2], {"t": "warm", "n": 1}, 0, 0)
            with contextlib.nullcontext(memory) if beside else opened(directory) as now:
                # First of all by search and get alone, which take no lock, where others had it open.
                seen = {hit.id: hit.metadata for hit in now.vectors.search("n", [1, 0], 10**6)}
                for name, metadata in seen.items():
                    assert now.vectors.get("n", name).metadata == metadata
                now.put("desk", "k", b"takes the mutex of the log from the dead, and finishes what they had sealed")
                add(now.vectors, plain_after(now.vectors, plain, changes, fate), "next", 60)
                check(now.vectors, plain)
                agree(now, plain)
                assert {hit.id for hit in now.vectors.search("n", [1, 0], 10**6)} == {row.id for row in plain.served()}
            if not beside:
                continue
        with opened(directory) as memory:
            check(memory.vectors, plain)
            agree(memory, plain)


def plain_after(v: Any, plain: Plain, changes: list[Any], fate: Any) -> Plain:
    """Apply what the dead had written: whoever writes next does, and finds how much that was."""
    v.add("n", "probe", [1, 59], None, ts_event=0, ts_known=0)
    done = v.info("n").changes - len(plain.rows) - 1
    assert 0 <= done <= len(changes)
    if fate == 7:
        assert done == len(changes)
    for name, vector, metadata in changes[:done]:
        plain.add(name, vector, metadata, 0, 0)
    plain.add("probe", [1, 59], None, 0, 0)
    check(v, plain)
    return plain


@pytest.mark.parametrize("point", POINTS_OF if ALL else ["written", "linked", *TAIL[3:]])
def test_what_was_acknowledged_before_the_kill(nursery: Nursery, ram: Path, point: str) -> None:
    """Others see it without writing anything."""
    plain = Plain()
    with opened(ram) as memory:
        begin(memory, plain)
        code, told = [], ram / "told"
        for number in range(6):
            code += [f"v.add('n', 'old {number}', [1, {number + 70}], {{'t': 'again'}}, {TIMES})"]
            code += [f"open({str(told)!r}, 'a').write('{number}\\n')"]
        fate, _ = nursery.run(script(ram, code[0], code[1], f"arm({point!r}, 'kill', 2)", *code[2:], "os._exit(7)"))
        assert fate in ("killed", 7)
        acknowledged = len(told.read_text().splitlines())
        hits = {hit.id: hit for hit in memory.vectors.search("n", [1, 0], 99)}
        assert len(hits) == 12
        for number in range(acknowledged):
            assert hits[f"old {number}"].metadata == {"t": "again"}
            assert memory.vectors.get("n", f"old {number}").metadata == {"t": "again"}
        for name, hit in hits.items():  # whatever a search says, get says
            assert memory.vectors.get("n", name).metadata == hit.metadata


@pytest.mark.parametrize("beside", [True, False], ids=["beside", "alone"])
@pytest.mark.parametrize("point", POINTS_OF if ALL else ["checked", "sealed", "vectors_kept", "vectors_counted"])
def test_the_first_vector_of_a_collection(nursery: Nursery, ram: Path, point: str, beside: bool) -> None:
    for nth in range(1, 30):
        directory = ram / f"{nth}"
        directory.mkdir()
        code = f"v.add('n', 'a', [1, 2], {META!r}, {TIMES})"
        with contextlib.ExitStack() as stack:
            if beside:
                memory = stack.enter_context(opened(directory))
                assert memory.vectors.count("n") == 0
            fate, _ = nursery.run(script(directory, f"arm({point!r}, 'kill', {nth})", code, "os._exit(7)"))
            assert fate in ("killed", 7)
            if not beside:
                memory = stack.enter_context(opened(directory))
            v = memory.vectors
            memory.put("desk", "k", b"")
            if fate == 7:
                assert v.get("n", "a") is not None
            v.add("n", "b", [1, 0], ts_event=0, ts_known=0)
            names = {hit.id for hit in v.search("n", [1, 0], 9)}
            assert names in ({"b"}, {"a", "b"})
            assert v.collections() == [("n",)]
        if fate == 7:
            assert nth > 1
            return
    raise AssertionError("it never came through")


@pytest.mark.parametrize("beside", [True, False], ids=["beside", "alone"])
@pytest.mark.parametrize(
    "point", [*LOG, "vectors_locked"] if ALL else ["written", "sealed", "committed", "vectors_locked"]
)
def test_who_is_killed_while_it_drops(nursery: Nursery, ram: Path, point: str, beside: bool) -> None:
    """All of it is there, or it is no collection any more, to everybody; the next one finishes."""
    for nth in range(1, 60) if ALL else (1, 2, 3, 8, 20, 59):
        directory = ram / f"{nth}"
        directory.mkdir()
        plain = Plain()
        with opened(directory) as memory:
            begin(memory, plain)
            if not beside:
                memory.close()
            fate, _ = nursery.run(script(directory, f"arm({point!r}, 'kill', {nth})", "v.drop('n')", "os._exit(7)"))
            assert fate in ("killed", 7)
            with contextlib.nullcontext(memory) if beside else opened(directory) as now, opened(directory) as other:
                now.put("desk", "k", b"")
                counts = {each.vectors.count("n") for each in (now, other)}
                is_there = counts == {12}
                assert is_there or counts == {0}, counts
                assert fate != 7 or not is_there
                if is_there:
                    check(now.vectors, plain)
                    assert other.vectors.drop("n") is True
                elif nth % 2:
                    assert now.vectors.drop("n") is False
                now.vectors.add("n", "new", [1, 2, 3], ts_event=0, ts_known=0)
                for each in (now, other):
                    assert [hit.id for hit in each.vectors.search("n", [1, 0, 0], 99)] == ["new"]
                assert len([*now._engine().entries_of(POINTS, b"")]) == 1
                assert len([*now._engine().entries_of(COLLECTIONS, b"")]) == 2
        if fate == 7:
            assert nth > 1 or point == "vectors_locked"
            return
    raise AssertionError("it never came through")


@pytest.mark.parametrize("point", TAIL)
def test_who_is_killed_while_it_reads_all_from_the_store(nursery: Nursery, ram: Path, point: str) -> None:
    """The first that comes makes the memory; another takes it over half made."""
    plain = Plain()
    with opened(ram) as memory:
        begin(memory, plain)
    with opened(ram) as memory:
        for nth in (1, 2, 5, 11, 12, 13):
            fate, _ = nursery.run(script(ram, f"arm({point!r}, 'kill', {nth})", "v.count('n')", "os._exit(7)"))
            assert fate in ("killed", 7)
        check(memory.vectors, plain)
        agree(memory, plain)
        add(memory.vectors, plain, "next")
        check(memory.vectors, plain)


@pytest.mark.parametrize("point", TAIL)
def test_who_stops_in_a_call(nursery: Nursery, ram: Path, point: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Searches go on; who writes is told; once it goes on, or is killed, so do they."""
    from ntmem.tiers import collection

    monkeypatch.setattr(collection, "PATIENCE", 0.05)
    for killed in (False, True):
        directory = ram / f"{killed}"
        directory.mkdir()
        plain = Plain()
        with opened(directory) as memory:
            begin(memory, plain)
            v = memory.vectors
            warm = f"v.add('n', 'warm', [1, 2], {{'t': 'warm'}}, {TIMES})"
            code, changes = CALLS["replaced"]
            fate, pid = nursery.run(script(directory, warm, f"arm({point!r}, 'stop')", code, "os._exit(7)"))
            plain.add("warm", [1, 2], {"t": "warm"}, 0, 0)
            assert fate == "stopped"
            with pytest.raises(ntmem.StorageError, match=f"process {pid} "):
                v.add("n", "mine", [1, 0])
            hits = {hit.id: hit.metadata for hit in v.search("n", [1, 0], 99)}
            assert len(hits) == 13
            for name, metadata in hits.items():
                assert v.get("n", name).metadata == metadata
            if killed:
                nursery.kill(pid)
            else:
                assert nursery.resume(pid)[0] == 7
            add(v, plain_after(v, plain, changes, "killed" if killed else 7), "next")
            check(v, plain)
            agree(memory, plain)


# ---- at any time -----------------------------------------------------------------------------------------------------

WORK = """
chance = __import__("random").Random({seed})
told = os.open({told!r}, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
for call in range({begin}, {begin} + 1000):
    kind, name = chance.choice(["add"] * 8 + ["many", "delete"]), f"{row}-{{chance.randrange(20)}}"
    names = [name] if kind != "many" else [f"{row}-{{chance.randrange(20)}}" for _ in range(20)]
    os.write(told, f"{{call}} begins {{kind}} {{','.join(names)}}\\n".encode())
    if kind == "delete": v.delete("n", name)
    elif kind == "many": v.add_many("n", names, [[1, call % 9]] * 20, [{{"call": call}}] * 20)
    else: v.add("n", name, [1, call % 9], {{"call": call}})
    os.write(told, f"{{call}} done {{kind}} {{','.join(names)}}\\n".encode())
"""


def test_random_kills(nursery: Nursery) -> None:
    """Two work, each on ids of its own, and are killed at any time: what was acknowledged is there, nothing twice."""
    seed = random.randrange(1 << 32)
    random.seed(seed)
    with ram_directory() as place:
        with opened(place) as memory:
            memory.vectors.create("n", 2)
        for number in range(KILLS):
            with contextlib.ExitStack() as stack:
                beside = stack.enter_context(opened(place)) if number % 2 else None
                pids = []
                for row in range(2):
                    begins = (2 * number + row) * 1000
                    told = str(place / f"told{row}")
                    code = WORK.format(seed=random.randrange(1 << 32), told=told, begin=begins, row=row)
                    fate, pid = nursery.run(script(place, code, interval=0.002), wait=False)
                    assert fate == "started"
                    pids.append(pid)
                time.sleep(random.uniform(0.02, 0.25))
                for pid in random.sample(pids, 2):
                    os.kill(pid, signal.SIGKILL)
                for pid in pids:
                    nursery.kill(pid)
                try:
                    now = beside or stack.enter_context(opened(place))
                    look(now, place, number % 2 == 1)
                except BaseException as error:
                    error.add_note(f"seed {seed}")
                    raise


def look(memory: Any, place: Path, beside: bool) -> None:
    v = memory.vectors
    for turn in range(2):
        hits = v.search("n", [1, 0], 10**6)
        found = {hit.id: hit.metadata["call"] for hit in hits if hit.id != "next"}
        assert len({hit.id for hit in hits}) == len(hits)
        for row in range(2):
            lines = (place / f"told{row}").read_text().split("\n")[:-1] if (place / f"told{row}").exists() else []
            certain: dict[str, set[int | None]] = {}
            for line in lines:
                call, state, kind, names = line.split()
                for name in names.split(","):
                    value = None if kind == "delete" else int(call)
                    if state == "done":
                        certain[name] = {value}
                    else:
                        certain.setdefault(name, {None}).add(value)
            for name in {f"{row}-{n}" for n in range(20)}:
                may = certain.get(name, {None})
                assert found.get(name) in may, (turn, beside, name, found.get(name), may)
                got = v.get("n", name)
                assert (got and got.metadata["call"]) == found.get(name), name
        v.add("n", "next", [1, 0], {"call": 0})
    collection = v._of(("n",))
    tail = collection.tail()
    keys = [key for key, _ in memory._engine().entries_of(POINTS, b"%08x" % collection.row.number)]
    assert sorted(keys) == [b"%08x%012x" % (collection.row.number, number) for number in range(tail.count)]
