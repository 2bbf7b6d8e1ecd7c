"""Processes that die while they distil, credit or tidy up: every outcome is learnt from once, by whoever goes on.

``NTMEM_PATTERN_KILLS`` says how many rounds of random kills there are.
"""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hostile import children
from logs import Nursery, build_with_failpoints
from patterns import Kept, check_learnt

import ntmem
from ntmem.tiers.guards import PATTERNS, Situations

pytestmark = pytest.mark.crash

KILLS = int(os.environ.get("NTMEM_PATTERN_KILLS", "6"))
BEFORE = ["locked", "checked", "reserved", "half_written", "written"]  # nothing of it is left
BETWEEN = ["sealed", "linked", "numbered"]  # finished by the next owner of the mutex
AFTER = ["committed", "announced"]
POINTS = BEFORE + BETWEEN + AFTER
TAIL = ["vectors_staged", "vectors_kept", "vectors_indexed"]  # while kinds are put where they are found
EAST, NORTH = [1.0, 0.0, 0.0], [0.0, 1.0, 0.0]

DYING = """
import ntmem
memory = ntmem.open({path!r}, log_bytes=65536, flush_interval={interval})
bank, distiller = memory.bank, memory.distiller
{lines}
"""


@contextlib.contextmanager
def opened(directory: Path) -> Iterator[Any]:
    with ntmem.open(directory / "s", log_bytes=1 << 16, flush_interval=3600.0) as memory:
        yield memory


def script(directory: Path, *lines: str, interval: float = 3600.0) -> str:
    return DYING.format(path=str(directory / "s"), interval=interval, lines="\n".join(lines))


@pytest.fixture(scope="module")
def nursery(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nursery]:
    """Processes with failpoints, and with what most of them would spend their time importing."""
    if shutil.which("cc") is None and shutil.which("gcc") is None:
        pytest.skip("there is no compiler to build the failpoints with")
    with children() as start:
        tree = build_with_failpoints(root, tmp_path_factory.mktemp("failpoints"))
        first = "import ntmem.reasoningbank.distiller, ntmem.reasoningbank.recall, ntmem.tiers.vectors\n"
        yield Nursery(start, tree, first)


def decide(memory: Any, chance: random.Random, where: list[float], **more: Any) -> Any:
    """Return a decision with an outcome: in the east who buys earns, elsewhere who holds."""
    made = ntmem.Trajectory(chance.choice("ab"), "t", **more)
    made.add_observation(None, np.array(where) + [chance.gauss(0, 0.05) for _ in where])
    kind = chance.choice(["buy", "hold"])
    made.add_action(kind)
    made.add_outcome(chance.gauss(float((kind == "buy") == (where == EAST)), 0.1))
    memory.track_trajectory(made)
    return made


def outcomes(memory: Any) -> int:
    """Return how many outcomes were given, each of another action and with a situation."""
    return sum(len(it.outcomes) for it in memory.trajectories.find(limit=10_000).trajectories)


# ---- at every step of a group ----------------------------------------------------------------------------------------

CALLS = {
    "distil": "bank.distill()",
    "distil with credits": "bank.distill()",
    "divide": "bank.distill()",
    "feedback": "bank.feedback(next(bank.patterns(min_support=0)).id, -1, trajectory_id={name!r})",
    "merge": "distiller.configure(similarity_threshold=0.01); bank.consolidate()",
    "bound": "distiller.configure(max_patterns=1); bank.consolidate()",
}


def prepare(memory: Any, call: str, chance: random.Random) -> str:
    """Let there be something to do for a call; return the name of a decision."""
    if call == "distil with credits":
        asked = memory.bank.begin("a", "t")
        asked.add_observation(None, EAST)
        memory.bank.recall(EAST, trajectory_id=asked.id, min_support=0)
        asked.add_action("buy")
        asked.add_outcome(1.0)
        return asked.id
    if call == "divide":
        for _ in range(20):
            decide(memory, chance, NORTH)
            decide(memory, chance, [0.0, 0.0, -1.0])
    if call == "merge":
        for number in range(20):
            decide(memory, chance, [EAST, [0.3, 0.8, 0.0]][number % 2])
        memory.bank.distill()
    return decide(memory, chance, EAST).id


def facts(kept: Kept) -> dict[str, Any]:
    """Return what a call changes."""
    return {name: (it.known, it.cells, it.is_gone) for name, it in kept.clusters.items()}


@pytest.mark.parametrize("point", POINTS + TAIL)
def test_who_is_killed_in_a_call(nursery: Nursery, ram: Path, point: str) -> None:
    """At each group of each call, until it comes through; then others go on."""
    chance = random.Random(point)
    calls = [*CALLS] if point in TAIL else [it for n, it in enumerate(CALLS) if (n + POINTS.index(point)) % 2]
    with opened(ram) as memory:
        for call in calls:
            for _ in range(20):
                decide(memory, chance, EAST)
            memory.bank.distill()
            lost = outcomes(memory) - Kept(memory).support
            killed = 0
            for nth in (1, 2, 4, 8, 16, 32, 64):  # one point is come to with each record
                name = prepare(memory, call, chance)
                before = check_learnt(memory, lost=lost, is_placed=False) if call != "bound" else Kept(memory)
                waited = len(before.due)
                code = CALLS[call].format(name=name)
                fate, _ = nursery.run(script(ram, f"arm({point!r}, 'kill', {nth})", code, "os._exit(7)"))
                assert fate in ("killed", 7)
                memory.put("desk", "k", b"takes the mutex from the dead, and finishes what they had sealed")
                after = Kept(memory)
                if call in ("bound", "merge"):
                    lost = outcomes(memory) - len(after.due) - after.support if call == "bound" else lost
                else:
                    assert after.head.changes - before.head.changes in (0, 1)
                    is_done = after.head.changes > before.head.changes
                    assert is_done or facts(after) == facts(before)
                    assert len(after.due) == (waited if call == "feedback" or not is_done else 0)
                    assert fate == "killed" or is_done
                check_learnt(memory, lost=lost, is_placed=False)
                if fate == 7:
                    break
                killed += 1
                if call == "feedback":
                    again = memory.bank.feedback(next(memory.bank.patterns(min_support=0)).id, -1, trajectory_id=name)
                    assert again is not is_done
                if call in ("merge", "bound"):
                    continue
                if call == "distil with credits":
                    uses = [cell.uses for it in after.live.values() for cell in it.cells]
                    memory.bank.distill()
                    more = [cell.uses for it in Kept(memory).live.values() for cell in it.cells]
                    assert is_done or sum(more) > sum(uses)
                    assert not is_done or more == uses, "credited twice"
                memory.bank.distill()
                check_learnt(memory, lost=lost, is_placed=False)
            else:
                raise AssertionError("it never came through")
            assert killed or point in TAIL
            memory.bank.distill()
            memory.bank.consolidate()
            decide(memory, chance, EAST)
            memory.bank.distill()
            check_learnt(memory, lost=outcomes(memory) - Kept(memory).support, is_placed=False)
            assert memory.bank.recall(EAST, min_support=0)
    with opened(ram) as memory:
        check_learnt(memory, lost=outcomes(memory) - Kept(memory).support, is_placed=False)


@pytest.mark.parametrize("point", ["locked", "written", "linked"])
def test_a_kind_whose_change_was_never_written(nursery: Nursery, ram: Path, point: str) -> None:
    """It is put where it is found before it is there: who finds a place without a kind passes over it."""
    chance = random.Random(1)
    with opened(ram) as memory:
        for number in range(60):
            decide(memory, chance, [EAST, NORTH, [0.0, 0.0, 1.0]][number % 3])
        die = f"distiller.shelf._place = lambda *args: (place(*args), arm({point!r}, 'kill'))"
        fate, _ = nursery.run(script(ram, "place = distiller.shelf._place", die, "bank.distill()", "os._exit(7)"))
        assert fate == "killed"
        memory.put("desk", "k", b"")
        was_done = point == "linked"
        assert memory.vectors.count(Situations(3, PATTERNS)) == 3
        assert bool(memory.bank.recall(EAST)) is was_done
        assert memory.bank.choose(EAST, ["buy", "hold"]).is_known is was_done
        for number in range(30):
            decide(memory, chance, [EAST, NORTH, [0.0, 0.0, 1.0]][number % 3])
        memory.bank.distill()
        kept = check_learnt(memory)
        assert len(kept.live) == 3
        assert kept.support == 90
        for where in (EAST, NORTH):
            assert memory.bank.recall(where, 1)[0].similarity > 0.99


# ---- at any time -----------------------------------------------------------------------------------------------------

WORK = """
chance = __import__("random").Random({seed})
import numpy as np
places = [[1.0, 0, 0], [0, 1.0, 0], [0, 0, 1.0]]
for call in range(100_000):
    kind = chance.choice(["decide"] * 6 + ["distil"] * 3 + ["feedback", "consolidate", "correct"])
    where = chance.choice(places)
    if kind == "decide":
        t = bank.begin("a", "t")
        t.add_observation(None, [it + chance.gauss(0, 0.1) for it in where])
        bank.recall(where, trajectory_id=t.id, min_support=0)
        t.add_action(chance.choice(["buy", "hold"]))
        t.add_outcome(chance.gauss(0, 1))
    elif kind == "distil": bank.distill()
    elif kind == "consolidate": bank.consolidate()
    elif kind == "feedback":
        for it in bank.recall(where, 1, min_support=0): bank.feedback(it.id, chance.uniform(-1, 1), trajectory_id=t.id)
    elif call: bank.resolve(t.id, chance.gauss(0, 1), action_id="a1")
"""


def test_random_kills(nursery: Nursery, ram: Path) -> None:
    """Two decide and distil at once, and are killed at any time, one after the other."""
    seed = random.randrange(1 << 32)
    chance = random.Random(seed)
    try:
        with opened(ram) as memory:
            decide(memory, chance, EAST)
        for number in range(KILLS):
            with contextlib.ExitStack() as stack:
                beside = stack.enter_context(opened(ram)) if number % 2 else None
                pids = []
                for _ in range(2):
                    work = "t = bank.begin('a')\n" + WORK.format(seed=chance.randrange(1 << 32))
                    work = work.replace("elif call: bank", "elif t.actions: bank")
                    pids.append(nursery.run(script(ram, work, interval=0.002), wait=False)[1])
                first, second = chance.sample(pids, 2)
                time.sleep(chance.uniform(0.1, 0.4))
                os.kill(first, signal.SIGKILL)
                time.sleep(chance.uniform(0.0, 0.2))
                os.kill(second, signal.SIGKILL)
                fates = {nursery.kill(pid)[0] for pid in pids}
                assert fates == {"killed"}, "it ended by itself"
                now = beside or stack.enter_context(opened(ram))
                now.put("desk", "k", b"")
                check_learnt(now, is_placed=False)
                now.bank.distill()
                kept = check_learnt(now, is_placed=False)
                assert not kept.due
                assert number == 0 or kept.support > 1
                decide(now, chance, EAST)
                assert len(Kept(now).due) == 1
                now.bank.distill()
                assert check_learnt(now, is_placed=False).support == kept.support + 1
        assert kept.support > 10 * KILLS
    except BaseException as error:
        error.add_note(f"seed {seed}")
        raise


def test_one_of_two_that_distil_is_killed(nursery: Nursery, ram: Path) -> None:
    """The one that stands still in the midst of its group, holding nothing back but itself."""
    chance = random.Random(3)
    with opened(ram) as memory:
        for point in ("locked", "written", "sealed", "committed"):
            for number in range(40):
                decide(memory, chance, [EAST, NORTH][number % 2])
            fate, pid = nursery.run(script(ram, f"arm({point!r}, 'stop')", "bank.distill()", "os._exit(7)"))
            assert fate == "stopped"
            fate, other = nursery.run(script(ram, "bank.distill()", "os._exit(7)"), wait=False)
            nursery.kill(pid)
            memory.bank.distill()  # a third, beside the second
            assert nursery.kill(other)[0] in (7, "killed")
            memory.bank.distill()
            kept = check_learnt(memory, is_placed=False)
            assert (kept.due, kept.support) == (set(), outcomes(memory))
