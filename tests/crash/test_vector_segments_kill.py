"""Processes that die while they write a segment, and while they read one: nothing is lost, and nothing of them stays.

``NTMEM_SEGMENT_KILLS`` says how many are killed at any time.
"""

from __future__ import annotations

import os
import random
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hostile import Start, children
from logs import Nursery, build_with_failpoints
from segments import SLOTS, chain, segments

import ntmem

pytestmark = pytest.mark.crash

KILLS = int(os.environ.get("NTMEM_SEGMENT_KILLS", "8"))
STEPS = ["begun", "makedirs", "open", "written", "replaced", "fsync", "ended"]

DYING = """
from ntmem.tiers import segments
step = sys.argv[3]
memory = ntmem.open(sys.argv[1], engine=sys.argv[2])
v = memory.vectors
v.add_many("n", [f"new {n}" for n in range(5000)], [[1, n] for n in range(5000)], [{"n": n} for n in range(5000)])
def die(*args, **more):
    os.kill(os.getpid(), signal.SIGKILL)
def then_die(real):
    return lambda *args, **more: (real(*args, **more), die())
steps = dict(vars(os))
if step == "begun":
    segments._written = die
elif step == "ended":
    segments._written = then_die(segments._written)
else:
    steps |= {"makedirs": {"makedirs": die}, "open": {"open": then_die(os.open)}, "written": {"replace": die},
              "replaced": {"replace": then_die(os.replace)}, "fsync": {"fsync": then_die(os.fsync)}}[step]
    segments.os = type("os", (), {name: staticmethod(it) if callable(it) else it for name, it in steps.items()})
memory.close()
"""


@pytest.mark.parametrize("kind", ["shared", "lmdb"])
def test_who_is_killed_at_a_step(ram: Path, start: Start, kind: str, caplog: pytest.LogCaptureFixture) -> None:
    """Whoever else has the store open closes it next, or nobody; what is left half written goes with the next one."""
    store, total = ram / "s", 0
    for number, step in enumerate(STEPS):
        beside = ntmem.open(store, engine=kind) if number % 2 else None
        child = start(DYING, store, kind, step)
        child.process.wait(60)
        assert child.process.returncode == -9, step
        total += 5000
        if beside is not None:
            assert beside.vectors.info("n").changes == total
            beside.close()
        with ntmem.open(store, engine=kind) as memory:
            v = memory.vectors
            assert v.info("n").changes == total
            assert v.count("n") == v.count("n", where={"n": {"$gte": 0}}) == 5000
            assert len(v.search("n", [1, 0], 10**6)) == 5000
        assert chain(store)[-1][1] == total // SLOTS * SLOTS
        assert len(segments(store)) == len(chain(store)), step
    assert [message for message in caplog.messages if "its processes have died" not in message] == []


BUSY = """
import random
from ntmem.tiers import collection
collection._WORTH = 4096
chance = random.Random(int(sys.argv[2]))
while True:
    with ntmem.open(sys.argv[1]) as memory:
        v = memory.vectors
        for turn in range(3):
            first = v.count("n")
            rows = range(first, first + chance.randrange(1, 5000))
            v.add_many("n", [str(n) for n in rows], [[1, n] for n in rows], [{"n": n, "t": f"t{n % 50}"} for n in rows])
            say(rows.stop)
"""


def test_who_is_killed_at_any_time(ram: Path, start: Start, caplog: pytest.LogCaptureFixture) -> None:
    store = ram / "s"
    for seed in range(KILLS):
        child = start(BUSY, store, seed)
        child.line()
        time.sleep(random.Random(seed).random() * 0.4)
        child.kill()
        with ntmem.open(store) as memory:
            v = memory.vectors
            count = v.count("n")
            assert v.info("n").changes == count
            assert v.count("n", where={"n": {"$gte": 0}}) == count
            assert v.count("n", where={"t": "t7"}) == len(range(7, count, 50))
            assert np.unique(v.search_arrays("n", [[1, 0]], count)[0].astype(int)).tolist() == [*range(count)]
        assert len(segments(store)) == len(chain(store))
        if count > 60_000:
            shutil.rmtree(store)
    assert [message for message in caplog.messages if "its processes have died" not in message] == []


@pytest.fixture(scope="module")
def nursery(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nursery]:
    if shutil.which("cc") is None and shutil.which("gcc") is None:
        pytest.skip("there is no compiler to build the failpoints with")
    with children() as start:
        tree = build_with_failpoints(root, tmp_path_factory.mktemp("failpoints"))
        yield Nursery(start, tree, "import ntmem.tiers.vectors, ntmem.tiers.segments\n")


@pytest.mark.parametrize("point", ["vectors_replaced", "vectors_counted", "vectors_indexed"])
def test_who_is_killed_while_it_reads_one(nursery: Nursery, ram: Path, point: str) -> None:
    """The next one goes on where it ended, in the middle of a segment or before it."""
    store = ram / "s"
    for nth in (1, 700, SLOTS, SLOTS + 1, 2 * SLOTS):
        for first in (0, SLOTS):
            with ntmem.open(store) as memory:
                rows = range(first, first + SLOTS)
                extras = [{"n": n, "t": f"text {n % 70}"} for n in rows]
                memory.vectors.add_many("n", [str(n % 5000) for n in rows], [[1, n] for n in rows], extras)
        with ntmem.open(store) as memory:  # so that what the dead had is not removed
            code = f"import ntmem\nv = ntmem.open({str(store)!r}).vectors\narm({point!r}, 'kill', {nth})\nv.count('n')"
            assert nursery.run(code)[0] == "killed"
            v = memory.vectors
            assert (v.info("n").changes, v.count("n")) == (2 * SLOTS, 5000)
            assert v.count("n", where={"n": {"$gte": 0}}) == 5000
            there = [n for n in range(2 * SLOTS - 5000, 2 * SLOTS) if n % 70 == 3]
            assert v.count("n", where={"t": "text 3"}) == len(there)
            assert v.get("n", "100").metadata["n"] == 5100
            v.add("n", "probe", [1, 1], {"t": "text 3"}, ts_known=0, ts_event=0)
            assert v.get("n", "probe").metadata == {"t": "text 3"}
            v.delete("n", "probe")
        shutil.rmtree(store)
