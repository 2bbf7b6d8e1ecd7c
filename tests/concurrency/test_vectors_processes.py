"""Processes that add, delete and search one collection at once: each sees what was acknowledged, once, at once.

``NTMEM_VECTOR_CALLS`` says how many calls each writer makes.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from hostile import Start
from vectors import Plain, check

import ntmem
from ntmem.tiers import collection
from ntmem.tiers.region import tail_path

CALLS = int(os.environ.get("NTMEM_VECTOR_CALLS", "800"))

# Each writer has ids of its own, of which it knows everything, and writes to some that all share. A vector's numbers
# say what its metadata say. What is told is behind an acknowledgement, and so visible to everybody.
WRITES = """
import numpy as np
path, writer, calls, log_bytes = sys.argv[1], *map(int, sys.argv[2:])
chance = __import__("random").Random(writer)
with ntmem.open(path, log_bytes=log_bytes) as memory:
    v, mine = memory.vectors, {}
    say("ready"); hear()
    for call in range(calls):
        kind, name = chance.randrange(40), f"{writer}-{chance.randrange(60)}"
        vector, metadata = [1, call % 7, writer], {"of": writer, "call": call}
        if kind == 0:
            names = [f"{writer}-{chance.randrange(60)}" for _ in range(30)]
            v.add_many("n", names, [vector] * 30, [metadata] * 30)
            mine.update(dict.fromkeys(names, call))
        elif kind < 6:
            assert v.delete("n", name) == (name in mine), name
            mine.pop(name, None)
        elif kind < 14:
            v.add("n", f"all-{call % 5}", vector, metadata)
            found = v.get("n", f"all-{call % 5}")
            assert found is not None and found.vector.tolist() == [1, found.metadata["call"] % 7, found.metadata["of"]]
        else:
            v.add("n", name, vector, metadata)
            mine[name] = call
        found = v.get("n", name)
        assert (found and found.metadata["call"]) == mine.get(name), (name, found, mine.get(name))
        if call % 9 == 0:
            hits = v.search("n", [1, 0, 0], 10**6, where={"of": writer})
            own = {hit.id: hit.metadata["call"] for hit in hits if hit.id.startswith(f"{writer}-")}
            assert own == mine, (own, mine)
            assert len({hit.id for hit in hits}) == len(hits)
        if call % 50 == 0:
            memory.put("told", f"{writer}", b"%d" % call)
    say(len(mine)); hear()
"""


def look(v: Any, seen: dict[str, int]) -> dict[str, int]:
    """See that a search has each id once, whole, and no version older than one that was seen."""
    hits = v.search("n", [1, 0, 0], 10**6)
    found = {hit.id: hit.metadata["call"] for hit in hits}
    assert len(found) == len(hits)
    assert {f"all-{n}" for n in range(5)} & seen.keys() <= found.keys()  # an upsert is never seen as none
    for name, call in found.items():
        if not name.startswith("all"):
            assert call >= seen.get(name, -1)
    return seen | found


@pytest.mark.parametrize("log_bytes", [1 << 14, 1 << 20], ids=["small log", "log"])
def test_every_vector_once(ram: Path, start: Start, log_bytes: int) -> None:
    """Three write, two handles of this process look."""
    store = ram / "s"
    with ntmem.open(store, log_bytes=log_bytes) as memory, ntmem.open(store, log_bytes=log_bytes) as other:
        memory.vectors.create("n", 3)
        children = [start(WRITES, store, writer, CALLS, log_bytes) for writer in range(3)]
        for child in children:
            assert child.line() == "ready"
        for child in children:
            child.tell()
        seen: dict[str, int] = {}
        looks = 0
        last = str((CALLS - 1) // 50 * 50).encode()
        while any(memory.get("told", f"{writer}") != last for writer in range(3)):
            assert all(child.process.poll() is None for child in children), [child.complaint() for child in children]
            seen = look((memory, other)[looks % 2].vectors, seen)
            looks += 1
        own = [int(child.line()) for child in children]
        for each in (memory, other):
            seen = look(each.vectors, seen)
            for writer in range(3):
                hits = each.vectors.search("n", [1, 0, 0], 10**6, where={"of": writer})
                assert sum(hit.id.startswith(f"{writer}-") for hit in hits) == own[writer]
        facts = memory.vectors.info("n")
        assert facts.count == sum(own) + 5
        for child in children:
            child.tell()
            child.end()
        for as_of in (None, ntmem.LATEST):
            assert memory.vectors.count("n", as_of=as_of) == facts.count
    with ntmem.open(store, log_bytes=log_bytes) as memory:
        again = memory.vectors.info("n")
        assert (again.count, again.changes) == (facts.count, facts.changes)
        look(memory.vectors, seen)
    assert ntmem.verify(store).ok


HANDS_OVER = """
path, number, of = sys.argv[1], *map(int, sys.argv[2:])
with ntmem.open(path) as memory:
    v = memory.vectors
    v.count("n")
    say("ready")
    while (told := hear()) != "end":
        turn = int(told)
        found = {hit.id: hit.metadata["turn"] for hit in v.search("n", [1, 0], 10**6)}
        assert found == {f"{n}": turn - 1 - (turn - 1 - n) % of for n in range(of) if turn - 1 >= n}, (turn, found)
        for name in found:
            assert v.get("n", name).metadata["turn"] == found[name]
        v.add("n", f"{number}", [1, turn], {"turn": turn})
        say("done")
"""


def test_what_was_acknowledged_is_seen_by_who_is_told(ram: Path, start: Start) -> None:
    """Each adds in its turn, and sees what those before it have, at once."""
    with ntmem.open(ram / "s") as memory:
        memory.vectors.create("n", 2)
        children = [start(HANDS_OVER, ram / "s", number, 3) for number in range(3)]
        for child in children:
            assert child.line() == "ready"
        for turn in range(300):
            children[turn % 3].tell(str(turn))
            assert children[turn % 3].line() == "done"
            if turn % 50 == 0:
                assert memory.vectors.get("n", str(turn % 3)).metadata == {"turn": turn}
        for child in children:
            child.tell("end")
            child.end()


DROPS = """
path, who, turns = sys.argv[1], sys.argv[2], int(sys.argv[3])
with ntmem.open(path) as memory:
    v = memory.vectors
    say("ready"); hear()
    for turn in range(turns):
        if who == "drops":
            v.drop("n")
        else:
            v.add("n", f"{who}-{turn}", [1, turn])
            v.add_many("n", [f"{who}-{turn}-{n}" for n in range(5)], [[1, n] for n in range(5)])
            hits = v.search("n", [1, 0], 10**6)
            assert len({hit.id for hit in hits}) == len(hits)
            v.get("n", f"{who}-{turn}"), v.count("n"), v.info("n")
    say("done"); hear()
"""


def test_drops_while_others_write(ram: Path, start: Start) -> None:
    with ntmem.open(ram / "s") as memory:
        children = [start(DROPS, ram / "s", who, turns) for who, turns in (("a", 250), ("b", 250), ("drops", 60))]
        for child in children:
            assert child.line() == "ready"
        for child in children:
            child.tell()
        for child in children:
            assert child.line() == "done"
        # Nothing is written any more: all agree.
        v = memory.vectors
        left = {hit.id for hit in v.search("n", [1, 0], 10**6)}
        v.add("n", "last", [1, 0])
        with ntmem.open(ram / "s") as other:
            assert {hit.id for hit in other.vectors.search("n", [1, 0], 10**6)} == left | {"last"}
        for child in children:
            child.tell()
            child.end()
        v.drop("n")
        assert not list(Path("/dev/shm").glob(Path(tail_path(str(ram / "s"), 0)).name[:-1] + "*"))
    assert ntmem.verify(ram / "s").ok


def test_handles_of_a_dropped_collection_agree(ram: Path, start: Start) -> None:
    code = """
with ntmem.open(sys.argv[1]) as memory:
    v = memory.vectors
    while (told := hear()) != "end":
        what, *args = told.split()
        if what == "add": v.add("n", args[0], [1.0] * int(args[1])); say("added")
        elif what == "drop": say(v.drop("n"))
        else: say(*sorted(hit.id for hit in v.search("n", [1.0] * int(args[0]), 99)), "end")
"""
    one, two, three = (start(code, ram / "s") for _ in range(3))

    def ask(child: Any, order: str) -> str:
        child.tell(order)
        line: str = child.line()
        return line

    for turn in range(2, 8):
        for child, name in ((one, "a"), (two, "b"), (three, "c")):
            assert ask(child, f"add {name} {turn}") == "added"
        assert ask((one, two, three)[turn % 3], "drop") == "True"
        if turn % 2:
            assert ask((one, two, three)[(turn + 1) % 3], f"see {turn}") == "end"
        assert ask((one, two, three)[(turn + 2) % 3], f"add x {turn + 1}") == "added"
        for child in (one, two, three):
            assert ask(child, f"see {turn + 1}") == "x end"
        assert ask((one, two, three)[(turn + 1) % 3], "drop") == "True"
    for child in (one, two, three):
        child.tell("end")
        child.end()


STOPS = """
with ntmem.open(sys.argv[1]) as memory:
    v = memory.vectors
    v.add("n", "child", [1, 0])
    tail = v._of(("n",)).tail()
    tail.lock(5.0)
    say("locked"); hear()
    tail.unlock()
    say("unlocked"); hear()
    say(sorted(hit.id for hit in v.search("n", [1, 0], 99)))
"""


def test_a_writer_that_is_stopped(ram: Path, start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(collection, "PATIENCE", 0.1)
    with ntmem.open(ram / "s") as memory:
        v = memory.vectors
        v.add("n", "a", [1, 0])
        child = start(STOPS, ram / "s")
        assert child.line() == "locked"
        child.stop()
        uses = [lambda: v.add("n", "b", [1, 0]), lambda: v.add_many("n", ["b"], [[1, 0]]), lambda: v.delete("n", "a")]
        for use in uses:
            with pytest.raises(ntmem.StorageError, match=f"process {child.pid} "):
                use()
        assert {hit.id for hit in v.search("n", [1, 0])} == {"a", "child"}
        assert v.get("n", "child") is not None
        assert (v.count("n"), v.info("n").count, v.count("n", where={"x": 1})) == (2, 2, 0)
        v.add("other", "a", [1, 0])  # nobody holds that one
        child.signal(__import__("signal").SIGCONT)
        child.tell()
        assert child.line() == "unlocked"
        v.add("n", "b", [1, 0])
        child.tell()
        assert child.line() == "['a', 'b', 'child']"
        child.end()


def test_its_memory_is_removed_again_and_again(ram: Path, start: Start) -> None:
    """Somebody removes the file all the time while two write: nothing that was acknowledged is lost."""
    code = """
with ntmem.open(sys.argv[1]) as memory:
    v = memory.vectors
    say("ready"); hear()
    for n in range(300):
        v.add("n", f"{sys.argv[2]}-{n}", [1, n])
        assert v.get("n", f"{sys.argv[2]}-{n}") is not None, n
    say("done"); hear()
"""
    with ntmem.open(ram / "s") as memory:
        v = memory.vectors
        v.create("n", 2)
        path = Path(tail_path(str(ram / "s"), 1))
        children = [start(code, ram / "s", who) for who in "ab"]
        for child in children:
            assert child.line() == "ready"
        for child in children:
            child.tell()
        for _ in range(200):
            path.unlink(missing_ok=True)
            v.count("n")
        for child in children:
            assert child.line() == "done"
        assert v.count("n") == 600
        for child in children:
            child.tell()
            child.end()
        assert v.count("n") == 600


def test_processes_of_different_budgets_share_it(ram: Path, start: Start) -> None:
    """The one who makes it says how large it may become."""
    code = """
with ntmem.open(sys.argv[1], max_memory_bytes=int(sys.argv[2])) as memory:
    v = memory.vectors
    for n in range(100):
        v.add("n", f"{sys.argv[2]}-{n}", [1, n])
    say(v.count("n"))
"""
    plain = Plain()
    with ntmem.open(ram / "s", max_memory_bytes=1 << 26) as memory:
        memory.vectors.add("n", "a", [1, 0], ts_event=0, ts_known=0)
        plain.add("a", [1, 0], None, 0, 0)
        check(memory.vectors, plain)
        for number, size in enumerate([1 << 28, 1 << 32], 1):
            child = start(code, ram / "s", size)
            assert child.line() == str(1 + 100 * number)
            child.end()
            assert memory.vectors.count("n") == 1 + 100 * number
