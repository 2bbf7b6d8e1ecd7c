"""What agents expect as trajectories of the bank: kept when it is expected, resolved when the market is there, judged.

A prediction of every tenth step, if something was recalled for it, is two trajectories of its agent: what was expected
with memory, seen with the situation as its embedding, and what would have been without. Each has one action: the price
at the step is its reference, the price expected `horizon` steps later its prediction, the price then its outcome.

**Invariants**

1. A trajectory is kept whole, and an outcome added, before the step that does so is committed. A step that is done
   again finds what it kept among what is pending, and what it resolved no more: it does neither twice. The bank knows
   no fence: an agent is stopped behind both (``worker.py``).
2. What waits for its outcome is what the bank says is pending; what a process remembers of it is a cache.
3. No outcome is known before the step whose price it is.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from ..instants import NS
from ..reasoningbank import Trajectory, Verdict, VerdictResult
from ..system import MemorySystem
from .recalling import numbered
from .steps import Step

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

EVERY = 10
"""Steps from one prediction that is judged to the next: those between have mostly the same outcome."""
TASKS = {"predict with memory": "prediction", "predict without memory": "baseline"}
"""Tasks of trajectories, and what their predictions are called among an agent's own."""
_WITH_MEMORY = next(iter(TASKS))
_LARGEST = 50.0
"""A log return beyond it is taken for it: hardly a price can say more."""


def is_judged(number: int) -> bool:
    """Whether the predictions of a step become trajectories."""
    return number % EVERY == 0


class Judging:
    """The agent's part; `timed` is called for what the store does, and takes the time.

    Attributes
    ----------
    found : int
        How many trajectories waited for their outcome when the process began.
    """

    def __init__(self, memory: MemorySystem, name: str, horizon: int) -> None:
        self._memory, self._name, self._horizon = memory, name, horizon
        self._waiting = {
            (it.action.parameters["step"], it.task): it.trajectory_id
            for it in memory.bank.pending(agent_id=name)
            if it.task in TASKS
        }
        self.found = len(self._waiting)
        self._kept: list[tuple[str, float | None]] = []

    def expect(
        self,
        now: Step,
        situation: NDArray[np.float32],
        made: Mapping[str, Any],
        pace: float,
        timed: Callable[..., Any],
    ) -> None:
        """Keep what is expected in a step.

        Parameters
        ----------
        situation : ndarray of float32, shape (window,)
        made : mapping
            What the agent keeps of its prediction: log returns.
        pace : float
            Seconds that a step takes.
        """
        for task, field in TASKS.items():
            if (now.number, task) not in self._waiting:
                expected = Trajectory(self._name, task, ts_event=now.ts, ts_known=now.ts)
                is_seen = task == _WITH_MEMORY and situation.any()  # an embedding is a direction, and 0 has none
                market = {"step": now.number, "mid": now.mid}
                seen = situation if is_seen else None
                expected.add_observation(market, seen, ts_event=now.ts, ts_known=now.ts)
                expected.add_action(
                    "predict",
                    {"step": now.number},
                    _price(now.mid, made[field]),
                    reference=now.mid,
                    horizon=max(pace * self._horizon, 1 / NS),
                    ts_event=now.ts,
                    ts_known=now.ts,
                )
                expected.complete(ts_event=now.ts, ts_known=now.ts)
                trajectory_id = timed("track", self._memory.track_trajectory, expected)
                self._waiting[now.number, task] = trajectory_id
                self._kept.append((trajectory_id, None))

    def resolve(self, now: Step, timed: Callable[..., Any]) -> None:
        """Say what came of what was expected for this step."""
        for key in [key for key in self._waiting if key[0] + self._horizon <= now.number]:
            trajectory_id = self._waiting[key]
            timed("resolve", self._memory.bank.resolve, trajectory_id, now.mid, ts_event=now.ts, ts_known=now.ts)
            del self._waiting[key]
            self._kept.append((trajectory_id, now.mid))

    def take_kept(self) -> list[tuple[str, float | None]]:
        """Return what the bank has got since the last step: ids of trajectories, with the outcome or as new (None)."""
        taken, self._kept = self._kept, []
        return taken


def _price(reference: float, log_return: float) -> float:
    return reference * math.exp(max(-_LARGEST, min(log_return, _LARGEST)))


# -- the kill


def lost_trajectories(memory: MemorySystem, name: str, kept: Mapping[str, float | None]) -> list[str]:
    """Return what the bank lacks of the trajectories, and outcomes, that an agent had acknowledged.

    One whose outcome was not acknowledged has to be pending, or resolved by the step that was running.
    """
    pending = {it.trajectory_id for it in memory.bank.pending(agent_id=name)}
    lost = []
    for (trajectory_id, outcome), found in zip(kept.items(), memory.trajectories.get_many(kept), strict=True):
        came = [] if found is None else [each.value for each in found.outcomes]
        if found is None or (not came and trajectory_id not in pending) or (outcome is not None and came != [outcome]):
            lost.append(f"trajectory {trajectory_id}")
    return lost


# -- the end


class _Made(NamedTuple):
    """What a trajectory is about: at which price what was expected, and when; what came, and when (None: not yet)."""

    reference: float
    predicted: float
    acted: int
    outcome: float | None
    known: int | None

    def as_of(self, instant: int) -> _Made | None:
        if self.acted > instant:
            return None
        return self if self.known is not None and self.known <= instant else self._replace(outcome=None, known=None)


def account_for_judging(
    memory: MemorySystem, root: str, agents: Sequence[Mapping[str, Any]], steps: Sequence[Step], fed: int
) -> tuple[dict[str, Any], list[str]]:
    """Judge what was expected and compare it with the market, as of half-time too; return figures, and what is wrong.

    Parameters
    ----------
    root : str
        Namespace below which the agents are.
    agents : sequence of mapping
        `name`, `horizon`, and how many `steps` each has done.
    steps : sequence of Step
        All steps of the replay.
    fed : int
        How many of them all agents have done.
    """
    half = steps[max(0, fed - 1) // 2].ts
    kept = {agent["name"]: list(_kept(memory, agent["name"])) for agent in agents}
    found = [it for each in kept.values() for it in each]
    resolved = [it.id for it in found if it.outcomes]
    verdicts = dict(zip(resolved, memory.bank.judge_many(resolved), strict=True))
    problems = []
    for agent in agents:
        name, done, horizon = agent["name"], agent["steps"], agent["horizon"]
        predictions = numbered(memory, (root, name), "predictions")
        expected, or_so = (_expected(predictions, steps[:count], horizon) for count in (done, done + 1))
        seen = {key: made for key, made in map(_made, kept[name]) if key in expected or key[0] != done}
        wrong = [key for key in {**expected, **seen} if seen.get(key) not in (expected.get(key), or_so.get(key))]
        said = [f"{task} at step {number} is not what was expected and came" for number, task in sorted(wrong)[:3]]
        problems += [f"{name}: of {len(wrong)} trajectories, {each}" for each in said]
        problems += [f"{name}: {each}" for each in _seen_wrongly(memory, name, kept[name], half)]
    known = [made for _, made in map(_made, found) if made.known is not None and made.known <= half]
    return {
        "every": EVERY,
        "trajectories": len(found),
        "judged": len(verdicts),
        "pending": len(found) - len(verdicts),
        "half_time": half,
        "outcomes_at_half_time": len(known),
        "exact": not problems,
        "tasks": [_summary(task, [it for it in found if it.task == task], verdicts) for task in TASKS],
    }, problems


def _seen_wrongly(memory: MemorySystem, name: str, found: Sequence[Trajectory], half: int) -> Iterator[str]:
    """Yield what the bank shows otherwise of an agent's trajectories than they are, now and as of half-time."""
    if len({_made(it)[0] for it in found}) < len(found):
        yield "a prediction is there twice"
    if _pending(memory, name) != {it.id for it in found if not it.outcomes}:
        yield "what is pending is not what has no outcome"
    early = memory.trajectories.get_many([it.id for it in found], as_of=half)
    if [None if it is None else _made(it)[1] for it in early] != [_made(it)[1].as_of(half) for it in found]:
        yield "as of half-time the bank shows other outcomes than were known by then"
    there = [it for it in early if it is not None]
    if any(it.verdicts for it in there):
        yield "as of half-time the bank shows verdicts of the end"
    if _pending(memory, name, half) != {it.id for it in there if not it.outcomes}:
        yield "as of half-time the bank has something else pending than was by then"


def _kept(memory: MemorySystem, name: str) -> Iterator[Trajectory]:
    cursor, is_first = None, True
    while is_first or cursor is not None:
        page, cursor = memory.trajectories.find(agent_id=name, cursor=cursor)
        yield from (it for it in page if it.task in TASKS)
        is_first = False


def _pending(memory: MemorySystem, name: str, as_of: int | None = None) -> set[str]:
    return {it.trajectory_id for it in memory.bank.pending(agent_id=name, as_of=as_of) if it.task in TASKS}


def _made(it: Trajectory) -> tuple[tuple[int, str], _Made]:
    """Return of which step and task a trajectory is, and what it is about."""
    (action,) = it.actions
    came = it.outcome_of(action.id)
    value, known = (None, None) if came is None else (came.value, came.ts_known)
    assert action.reference is not None
    assert action.predicted_outcome is not None
    made = _Made(action.reference, action.predicted_outcome, action.ts_known, value, known)
    return (action.parameters["step"], it.task), made


def _expected(
    predictions: Mapping[int, Mapping[str, Any]], steps: Sequence[Step], horizon: int
) -> dict[tuple[int, str], _Made]:
    """Return what the bank should have, by step and task, of predictions and the steps that were done."""
    expected = {}
    for number, made in predictions.items():
        if made["recalled"] and is_judged(number):
            now, later = steps[number], steps[number + horizon : number + horizon + 1]
            value, known = (later[0].mid, later[0].ts) if later else (None, None)
            for task, field in TASKS.items():
                expected[number, task] = _Made(now.mid, _price(now.mid, made[field]), now.ts, value, known)
    return expected


def _summary(task: str, found: Sequence[Trajectory], verdicts: Mapping[str, VerdictResult]) -> dict[str, Any]:
    judged = [verdicts[it.id] for it in found if it.id in verdicts]
    errors = [each.error for each in judged if each.error is not None]
    count = len(judged)
    return {
        "name": task,
        "trajectories": len(found),
        "judged": count,
        "shares": {it.value: sum(each.verdict is it for each in judged) / count for it in Verdict} if count else {},
        "error": math.fsum(errors) / len(errors) if errors else None,
        "confidence": math.fsum(each.confidence for each in judged) / count if count else None,
    }
