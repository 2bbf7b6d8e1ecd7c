"""Processes that die at every step of adding to trajectories: a step is there with all that leads to it, or never was.

``NTMEM_TRAJECTORY_KILLS`` says how many rounds of random kills there are.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
import signal
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hostile import children, ram_directory
from logs import Nursery, build_with_failpoints
from trajectories import check_kept, events_of

import ntmem
from ntmem.reasoningbank.events import Acted, Begun, Completed, Event, Judged, Resolved, Seen
from ntmem.tiers.guards import Situations
from ntmem.values import CODECS

pytestmark = pytest.mark.crash

KILLS = int(os.environ.get("NTMEM_TRAJECTORY_KILLS", "8"))
BEFORE = ["locked", "checked", "reserved", "half_written", "written"]  # nothing of it is left
BETWEEN = ["sealed", "linked", "numbered"]  # finished by the next owner of the mutex
AFTER = ["committed", "announced"]
POINTS = BEFORE + BETWEEN + AFTER
TAIL = ["vectors_staged", "vectors_kept", "vectors_indexed"]  # while the vector of an embedding is added

DYING = """
import ntmem
memory = ntmem.open({path!r}, engine={engine!r}, log_bytes=65536, flush_interval={interval})
kept, bank = memory.trajectories, memory.bank
{lines}
"""


@contextlib.contextmanager
def opened(directory: Path, engine: str = "shared") -> Iterator[Any]:
    with ntmem.open(directory / "s", engine=engine, log_bytes=1 << 16, flush_interval=3600.0) as memory:
        yield memory


def script(directory: Path, *lines: str, engine: str = "shared", interval: float = 3600.0) -> str:
    return DYING.format(path=str(directory / "s"), engine=engine, interval=interval, lines="\n".join(lines))


@pytest.fixture(scope="module")
def nursery(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nursery]:
    """Processes with failpoints, and with what most of them would spend their time importing."""
    if shutil.which("cc") is None and shutil.which("gcc") is None:
        pytest.skip("there is no compiler to build the failpoints with")
    with children() as start:
        tree = build_with_failpoints(root, tmp_path_factory.mktemp("failpoints"))
        yield Nursery(start, tree, "import ntmem.reasoningbank, ntmem.tiers.vectors\n")


# ---- at every step of a group ----------------------------------------------------------------------------------------

WHOLE = """
t = ntmem.Trajectory("a", "whole")
t.add_observation(1, [0.6, 0.8]); t.add_action("buy"); t.add_outcome(1); t.add_action("sell", None, 2.0, reference=1.0)
t.complete()
arm({point!r}, "kill", {nth})
memory.track_trajectory(t)
"""
CALLS = {  # what is there before, what is done, and whether that is one group
    "begin": (0, "bank.begin('a', 'new')", True),
    "observation": (0, "t.add_observation({'x': 1})", True),
    "embedding": (0, "t.add_observation(1, [0.6, 0.8])", False),
    "first action": (0, "t.add_action('buy', None, 2.0)", True),
    "next action": (1, "t.add_action('buy', None, 2.0)", True),
    "last outcome": (1, "t.add_outcome(2.0)", True),
    "one of two outcomes": (2, "t.add_outcome(2.0, action_id='a1')", True),
    "complete": (1, "t.complete()", True),
    "verdict": (1, "bank.judge(t.id)", True),
    "whole": (0, WHOLE, False),
}


def check_fate(before: dict[str, Any], after: dict[str, Any], name: str, call: str) -> bool:
    """Check that one call at most was done, all of it, and return whether it was."""
    if call in ("begin", "whole"):
        [*new] = set(after) - set(before)
        assert {it: after[it] for it in before} == before
        assert [len(after[it]) for it in new] in ([], [1 if call == "begin" else 6])
        return bool(new)
    assert {it: its for it, its in after.items() if it != name} == {it: its for it, its in before.items() if it != name}
    assert after[name][: len(before[name])] == before[name]
    assert len(after[name]) - len(before[name]) in (0, 1)
    return after[name] != before[name]


@pytest.mark.parametrize(
    ("point", "beside"), [(it, True) for it in POINTS + TAIL] + [(it, False) for it in POINTS], ids=str
)
def test_who_is_killed_in_a_call(nursery: Nursery, ram: Path, point: str, beside: bool) -> None:
    """At each group and record of each call, until it comes through; in a store that others have open, or nobody."""
    calls = [*CALLS] if point in POINTS else ["embedding", "whole"]
    if not beside:  # opening takes longer: each point with some calls, each call with some points
        calls = [it for number, it in enumerate(calls) if (number + POINTS.index(point)) % 5 == 0]
    with contextlib.ExitStack() as stack:
        memory = stack.enter_context(opened(ram)) if beside else None
        for call in calls:
            actions, code, is_one_group = CALLS[call]
            for nth in (1, 2, 3, 5, 8, 13, 21, 34, 55):  # one point is come to with each record
                with contextlib.nullcontext(memory) if memory is not None else opened(ram) as now:
                    trajectory = now.bank.begin("a", "t")
                    for _ in range(actions):
                        trajectory.add_action("buy", None, 1.0, reference=2.0)
                    name, before = trajectory.id, events_of(now)
                lines = [f"t = kept.get({name!r})"]
                if call == "whole":
                    lines.append(code.format(point=point, nth=nth))
                else:
                    lines += [f"arm({point!r}, 'kill', {nth})", code]
                fate, _ = nursery.run(script(ram, *lines, "os._exit(7)"))
                assert fate in ("killed", 7)
                with contextlib.nullcontext(memory) if memory is not None else opened(ram) as now:
                    now.put("desk", "k", b"takes the mutex from the dead, and finishes what they had sealed")
                    done = check_fate(before, check_kept(now), name, call)
                    assert fate == "killed" or done
                    if is_one_group and fate == "killed":
                        assert done is (point not in BEFORE)
                    if nth > 1 and fate == "killed":
                        continue  # what follows is the same
                    went_on = trajectory if memory is not None else now.trajectories.get(name)  # may know less
                    if call != "complete" or not done:
                        went_on.add_observation("later", [0.8, 0.6])
                        went_on.add_action("sell")
                    went_on.add_outcome(3.0, action_id="a1")
                    now.bank.judge(name)
                    check_kept(now)
                if fate == 7:
                    break
            else:
                raise AssertionError("it never came through")
            assert nth > 1 or point in TAIL
        stack.close()
        with opened(ram) as now:
            check_kept(now)


@pytest.mark.parametrize("point", ["locked", "linked"])
def test_a_vector_whose_event_was_never_added(nursery: Nursery, ram: Path, point: str) -> None:
    """Others go on with another embedding, the same, or none; what died with its adder is not found."""
    with opened(ram) as memory:
        kept, names = memory.trajectories, [memory.bank.begin("a").id for _ in range(3)]
        begun = [kept.get(name) for name in names]
        for name in names:
            lines = f"t, ledger = kept.get({name!r}), kept.ledger", "put = ledger._put"
            die = f"ledger._put = lambda *args: (arm({point!r}, 'kill'), put(*args))"
            fate, _ = nursery.run(script(ram, *lines, die, "t.add_observation(1, [0.0, 1.0])", "os._exit(7)"))
            assert fate == "killed"
        whole = "t = ntmem.Trajectory('a'); t.add_observation(1, [0.0, 1.0])", "put = kept.ledger._put"
        die = f"kept.ledger._put = lambda *args: (arm({point!r}, 'kill'), put(*args))"
        assert nursery.run(script(ram, *whole, die, "memory.track_trajectory(t)", "os._exit(7)"))[0] == "killed"
        memory.put("desk", "k", b"")
        was_sealed = point == "linked"
        assert memory.vectors.count(Situations(2)) == 4
        assert kept.count() == 3 + was_sealed
        assert len(kept.similar([0.0, 1.0], 99)) == len(kept.similar([0.0, 1.0], 4)) == 4 * was_sealed
        check_kept(memory)
        for trajectory, vector in zip(begun, ([1.0, 0.0], [0.0, 1.0], None), strict=True):
            trajectory.add_observation(2, vector)
        hits = {it.id: score for it, score in kept.similar([0.0, 1.0], 99) if it.id in names}
        assert hits == pytest.approx(dict.fromkeys(names, 1.0) if was_sealed else {names[0]: 0.0, names[1]: 1.0})
        assert len(kept.similar([0.0, 1.0], 1)) == 1  # whatever else there is
        check_kept(memory)


# ---- at any time -----------------------------------------------------------------------------------------------------

WORK = """
from ntmem import Verdict, VerdictResult
chance = __import__("random").Random({seed})
told = os.open({told!r}, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
known = {known!r}
live = {{}}
kinds = ["begin", "embedding", "complete", "verdict", "whole"] + ["observation"] * 4 + ["action", "outcome"] * 2
for call in range({begin}, {begin} + 100_000):
    kind = chance.choice(kinds) if known else "begin"
    if kind == "begin":
        t = bank.begin(chance.choice("ab"), f"{{call}}")
        live[t.id] = t
        known = [*known[-5:], t.id]
    elif kind == "whole":
        t = ntmem.Trajectory("a", f"{{call}}")
        t.add_observation(call, [1, call % 9])
        t.add_action("buy", call)
        memory.track_trajectory(t)
    else:
        name = chance.choice(known)
        t = live.get(name) or live.setdefault(name, kept.get(name))
        try:
            if kind == "observation": t.add_observation(call)
            elif kind == "embedding": t.add_observation(call, [1, call % 9])
            elif kind == "action": t.add_action("buy", call, 1.0)
            elif kind == "outcome": t.add_outcome(call, action_id=chance.choice([it.id for it in t.actions] or [None]))
            elif kind == "complete" and chance.random() < 0.2: t.complete()
            elif kind == "verdict":
                bank.judge(name, judge=lambda case: VerdictResult(name, Verdict.CORRECT, None, None, 1.0, f"{{call}}"))
            else: continue
        except ValueError:
            continue  # it is complete
    os.write(told, (json.dumps([call, t.id, kind]) + "\\n").encode())
"""


def call_of(event: Event) -> int | None:
    """Return the number of the call that an event is of."""
    if isinstance(event, Begun):
        return int(event.task) if event.task else None
    if isinstance(event, Seen):
        return CODECS["msgpack"].decode(event.data)
    if isinstance(event, Acted):
        return CODECS["msgpack"].decode(event.parameters)
    if isinstance(event, Judged):
        return int(event.feedback)
    return int(event.value) if isinstance(event, Resolved) else None


@pytest.mark.only("shared", "lmdb")
def test_random_kills(nursery: Nursery, engine: str) -> None:
    """Two add to trajectories that they share, and are killed at any time: what was acknowledged is there, in order."""
    seed = random.randrange(1 << 32)
    chance = random.Random(seed)
    try:
        for begin in range(0, KILLS, 8):  # all of a store is looked at after each
            with ram_directory() as place:
                kill_at_any_time(nursery, engine, place, chance, min(8, KILLS - begin))
    except BaseException as error:
        error.add_note(f"seed {seed}")
        raise


def kill_at_any_time(nursery: Nursery, engine: str, place: Path, chance: random.Random, rounds: int) -> None:
    told = place / "told"
    with opened(place, engine) as memory:
        shared = [memory.bank.begin("a").id for _ in range(2)]
    for number in range(rounds):
        with contextlib.ExitStack() as stack:
            beside = stack.enter_context(opened(place, engine)) if number % 2 else None
            pids = []
            for row in range(2):
                begin = (2 * number + row + 1) * 100_000
                work = WORK.format(seed=chance.randrange(1 << 32), told=str(told), known=shared, begin=begin)
                fate, pid = nursery.run(script(place, work, engine=engine, interval=0.002), wait=False)
                assert fate == "started"
                pids.append(pid)
            time.sleep(chance.uniform(0.05, 0.3))
            for pid in chance.sample(pids, 2):
                os.kill(pid, signal.SIGKILL)
            for pid in pids:
                nursery.kill(pid)
            now = beside or stack.enter_context(opened(place, engine))
            now.put("desk", "k", b"")
            look(check_kept(now), told, 2 * (number + 1))
            fresh = []
            for name in shared:  # further steps of what the dead were adding to
                trajectory = now.trajectories.get(name)
                fresh.append(name if trajectory.status == "open" else now.bank.begin("a").id)
                trajectory.add_outcome(0, action_id=trajectory.actions[0].id if trajectory.actions else None)
            shared = fresh
            check_kept(now)
    assert told.exists()


def look(events: dict[str, list[Event]], told: Path, killed: int) -> None:
    """Hold the events against what was acknowledged: `killed` processes may each have been one call further."""
    lines = [json.loads(line) for line in told.read_text().split("\n")[:-1]] if told.exists() else []
    acknowledged = {call for call, _, _ in lines}
    places = {
        (name, call_of(event)): place
        for name, its in events.items()
        for place, event in enumerate(its)
        if not isinstance(event, Begun) or call_of(event) is not None
    }
    last: dict[tuple[str, int], int] = {}
    for call, name, kind in lines:
        if kind == "complete":
            assert any(isinstance(event, Completed) for event in events[name])
            continue
        assert (name, call) in places, f"call {call} ({kind}) is lost"
        place, who = places[name, call], (name, call // 100_000)
        assert place > last.get(who, -1) or kind in ("begin", "whole"), "out of order"
        last[who] = place
    numbered = [
        call for its in events.values() for it in its if (call := call_of(it)) and not isinstance(it, Completed)
    ]
    whole = {call for call, _, kind in lines if kind == "whole"}
    counts = Counter(numbered)
    assert all(count == (3 if call in whole else 1) for call, count in counts.items() if call in acknowledged)
    assert len(set(numbered) - acknowledged) <= killed
    statuses = Counter(name for name, its in events.items() for it in its if isinstance(it, Completed))
    assert set(statuses.values()) <= {1}
