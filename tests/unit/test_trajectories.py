"""Trajectories: what is kept of them, when it is seen, how they are found, and what is refused with which words."""

from __future__ import annotations

import pickle
import threading
from datetime import timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hostile import Start
from trajectories import check_kept

import ntmem
from ntmem import (
    CorruptionError,
    NotOwner,
    ReadOnlyError,
    RelativeErrorJudge,
    SerializationError,
    StorageError,
    Trajectory,
    Verdict,
)
from ntmem.reasoningbank import ReasoningBank, TrajectoryTracker, state
from ntmem.reasoningbank.events import event_key, new_id
from ntmem.reasoningbank.ledger import Ledger
from ntmem.records import Change
from ntmem.tiers.guards import TRAJECTORIES, TRAJECTORY_INDEX, Situations

pytestmark = pytest.mark.usefixtures("engine")

SECOND = 1_000_000_000
START = 1_700_000_000 * SECOND


@pytest.fixture
def kept(memory: ntmem.MemorySystem) -> TrajectoryTracker:
    return memory.trajectories


def again(kept: TrajectoryTracker, trajectory: Trajectory, **more: Any) -> Trajectory:
    found = kept.get(trajectory.id, **more)
    assert found is not None
    return found


def ids(kept: TrajectoryTracker, **asked: Any) -> list[str]:
    return [it.id for it in kept.find(**asked).trajectories]


# ---- one trajectory ----


def test_the_seeds_example(memory: ntmem.MemorySystem) -> None:
    trajectory = Trajectory("agent_1")
    trajectory.add_observation({"price": 100.0}, [0.5, 0.5])
    assert trajectory.add_action("buy", {"quantity": 10}, predicted_outcome=110.0) == "a1"
    trajectory.add_outcome(105.0)
    assert (trajectory.id, trajectory.start, memory.stats().total_trajectories) == ("", None, 0)
    name = memory.track_trajectory(trajectory)
    assert memory.track_trajectory(trajectory) == name == trajectory.id
    assert memory.stats().total_trajectories == memory.trajectories.count() == 1
    found = again(memory.trajectories, trajectory)
    [seen], [action], [outcome] = found.observations, found.actions, found.outcomes
    assert (seen.data, seen.ts_event, seen.ts_known) == ({"price": 100.0}, START, START)
    assert seen.embedding is not None
    assert seen.embedding.tolist() == [0.5, 0.5]
    assert (action.id, action.type, action.parameters) == ("a1", "buy", {"quantity": 10})
    assert (action.predicted_outcome, action.reference, action.horizon) == (110.0, None, None)
    assert (outcome.value, outcome.action_id) == (105.0, "a1")
    assert (found.agent_id, found.task, found.status, found.start, found.end) == ("agent_1", "", "open", START, None)


def test_steps_are_kept_at_once(bank: ReasoningBank, kept: TrajectoryTracker, clock: ntmem.SimulatedClock) -> None:
    with bank.begin("a", "breakout") as trajectory:
        assert again(kept, trajectory).task == "breakout"
        trajectory.add_observation(("any", 1), np.array([1.0, 2.0]))
        assert len(again(kept, trajectory).observations) == 1
        clock.set(START + 5)
        trajectory.add_action("buy", {"n": Decimal("0.1")}, 2, reference=1, horizon=timedelta(seconds=60))
        [action] = again(kept, trajectory).actions
        assert (action.parameters, action.horizon, action.ts_event) == ({"n": Decimal("0.1")}, 60.0, START + 5)
    found = again(kept, trajectory)
    assert (found.status, found.end, found.observations[0].data) == ("complete", START + 5, ("any", 1))
    found.complete("failed")  # it is complete already
    assert again(kept, trajectory).status == "complete"
    with pytest.raises(ValueError, match="is complete: it takes outcomes only"):
        found.add_observation(1)
    found.add_outcome(3)
    assert again(kept, trajectory).unresolved == ()


def test_an_exception_marks_it_as_failed(bank: ReasoningBank, kept: TrajectoryTracker) -> None:
    with pytest.raises(RuntimeError), bank.begin("a") as trajectory:
        raise RuntimeError
    assert again(kept, trajectory).status == "failed"
    assert ids(kept, status="failed") == [trajectory.id]
    assert ids(kept, status="open") == []


def test_outcomes_belong_to_their_actions(bank: ReasoningBank, kept: TrajectoryTracker) -> None:
    trajectory = bank.begin("a")
    first, second, third = (trajectory.add_action(it, None, 1.0) for it in ("buy", "hold", "sell"))
    with pytest.raises(ValueError, match="a1, a2, a3 have no outcome yet; pass action_id"):
        trajectory.add_outcome(1)
    trajectory.add_outcome(3, action_id=third)
    bank.resolve(trajectory.id, 1, action_id=first)
    trajectory.add_outcome(2)  # the only one left, which it learns from the store
    found = again(kept, trajectory)
    assert [found.outcome_of(it) and found.outcome_of(it).value for it in (first, second, third)] == [1, 2, 3]
    with pytest.raises(ValueError, match="every action has an outcome"):
        trajectory.add_outcome(4)
    with pytest.raises(ValueError, match="there is no action 'a9'; there are a1, a2, a3"):
        trajectory.add_outcome(4, action_id="a9")
    with pytest.raises(TypeError, match="action_id must be a str"):
        trajectory.add_outcome(4, action_id=1)  # type: ignore[arg-type]
    alone = bank.begin("a")
    alone.add_outcome(7)
    assert alone.outcomes[0].action_id is None


def test_a_correction(bank: ReasoningBank, kept: TrajectoryTracker, clock: ntmem.SimulatedClock) -> None:
    def seen_by_another_at(instant: int) -> list[float]:
        other = Trajectory("a")
        other.add_action("buy", ts_known=instant)
        return [it.actual for it in kept.past(other, other.actions[0])]

    trajectory = bank.begin("a")
    action = trajectory.add_action("buy", None, 1.0)
    trajectory.add_outcome(5)
    clock.set(START + 10)
    trajectory.add_outcome(6, action_id=action)
    assert again(kept, trajectory).outcome_of(action).value == 6  # type: ignore[union-attr]
    assert again(kept, trajectory, as_of=START + 9).outcome_of(action).value == 5  # type: ignore[union-attr]
    assert seen_by_another_at(START + 9) == [5.0]
    assert seen_by_another_at(START + 10) == [6.0]
    trajectory.add_outcome(7, action_id=action)  # at the same instant: what was recorded last
    assert again(kept, trajectory).outcome_of(action).value == 7  # type: ignore[union-attr]
    assert seen_by_another_at(START + 10) == [7.0]
    assert kept.past(trajectory, trajectory.actions[0]) == ()  # not by itself


def test_corrections_from_before_the_action(bank: ReasoningBank, kept: TrajectoryTracker) -> None:
    trajectory = bank.begin("a")
    action = trajectory.add_action("buy", None, 1.0)
    trajectory.add_outcome(5, ts_known=START - 3)
    trajectory.add_outcome(6, action_id=action, ts_known=START - 7)  # both are seen with the action: the one said last
    other = bank.begin("a")
    other.add_action("buy")
    assert trajectory.latest_outcomes()[action].value == 6
    assert again(kept, trajectory, as_of=START).latest_outcomes()[action].value == 6
    assert [it.actual for it in kept.past(other, other.actions[0])] == [6.0]


def test_the_past_of_an_action(bank: ReasoningBank, kept: TrajectoryTracker, clock: ntmem.SimulatedClock) -> None:
    """What it is measured by: the latest 100 known when it was, each action once, never what came of itself."""
    trajectory = bank.begin("a", "t")
    for number in range(120):
        clock.set(START + number)
        name = trajectory.add_action("buy", None, 1.0)
        trajectory.add_outcome(number - 0.5)
        trajectory.add_outcome(number, action_id=name)
    last = trajectory.add_action("buy", ts_event=START + 5)
    trajectory.add_outcome(-1)
    trajectory.add_action("buy", None, 110.0, reference=100.0)
    trajectory.add_outcome(105.0)
    *_, before, own, of_returns = trajectory.actions
    assert [it.actual for it in kept.past(trajectory, own)] == [float(it) for it in range(119, 19, -1)]
    assert own.id == last
    assert kept.past(trajectory, own)[0] == (119.0, 1.0)
    assert kept.past(trajectory, before)[0].actual == -1  # known at the same instant
    assert kept.past(trajectory, trajectory.actions[50])[:2] == ((49.0, 1.0), (48.0, 1.0))
    assert kept.past(trajectory, of_returns) == ()
    other = Trajectory("a", "t")
    other.add_action("buy", reference=1.0, ts_known=START + 119)
    assert kept.past(other, other.actions[0]) == (pytest.approx((0.05, 0.1)),)


def test_a_correction_that_was_known_before(
    bank: ReasoningBank, kept: TrajectoryTracker, clock: ntmem.SimulatedClock
) -> None:
    """Whichever was known last counts, not whichever was recorded last."""
    trajectory = bank.begin("a")
    action = trajectory.add_action("buy", None, 1.0)
    trajectory.add_outcome(5, ts_known=START + 10)
    trajectory.add_outcome(6, action_id=action, ts_known=START + 5)
    clock.set(START + 20)
    for when, value in ((5, 6), (9, 6), (10, 5), (20, 5)):
        then = again(kept, trajectory, as_of=START + when)
        assert [it.outcome.value for it in bank.case(then).pairs] == [then.latest_outcomes()[action].value] == [value]
    later = Trajectory("a")
    for when, value in ((5, 6), (9, 6), (10, 5)):
        later.add_action("buy", ts_known=START + when)
        assert [it.actual for it in kept.past(later, later.actions[-1])] == [value]


@pytest.mark.parametrize("number", [float("nan"), float("inf"), -float("inf"), 10**400, Decimal("sNaN")])
def test_what_is_no_number(bank: ReasoningBank, number: Any) -> None:
    trajectory = bank.begin("a")
    with pytest.raises(ValueError, match="predicted_outcome must be finite"):
        trajectory.add_action("buy", None, number)
    with pytest.raises(ValueError, match="reference must be finite"):
        trajectory.add_action("buy", None, 1.0, reference=number)
    with pytest.raises(ValueError, match="outcome must be finite"):
        trajectory.add_outcome(number)
    with pytest.raises(ValueError, match="outcome must be finite"):
        bank.resolve(trajectory.id, number)
    assert list(trajectory.events())[1:] == []


def test_what_is_refused(bank: ReasoningBank, kept: TrajectoryTracker, memory: ntmem.MemorySystem) -> None:
    trajectory = bank.begin("a")
    for wrong in (True, "1", None):
        with pytest.raises(TypeError, match="outcome must be a number"):
            trajectory.add_outcome(wrong)  # type: ignore[arg-type]
    for level in (0, -1.0):
        with pytest.raises(ValueError, match="reference must be more than 0"):
            trajectory.add_action("buy", None, 1.0, reference=level)
    with pytest.raises(ValueError, match="horizon must be more than 0"):
        trajectory.add_action("buy", None, 1.0, horizon=0)
    with pytest.raises(SerializationError):
        trajectory.add_observation(object())
    for vector, words in (([0.0, 0.0], "all zero"), ([1.0, np.nan], "finite"), ([[1.0]], "one dimension")):
        with pytest.raises(ValueError, match=words):
            trajectory.add_observation(1, vector)
    with pytest.raises(TypeError, match="array of numbers"):
        trajectory.add_observation(1, ["a"])  # type: ignore[list-item]
    with pytest.raises(ValueError, match="status must be"):
        trajectory.complete("done")
    for agent in ("", "x" * 256, "a\0b", "\ud800"):
        with pytest.raises(ValueError, match="agent_id"):
            Trajectory(agent)
    with pytest.raises(TypeError, match="agent_id must be a str"):
        bank.begin(1)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="must be a Trajectory"):
        memory.track_trajectory("a")  # type: ignore[arg-type]
    for wrong in ("nothing", "", "A" * 25, "A" * 27, "a" * 26, "U" * 26, "é" * 26):
        with pytest.raises(ValueError, match="must be an id that a trajectory has"):
            kept.get(wrong)
        with pytest.raises(ValueError, match="cursor must be"):
            kept.find(cursor="0" * 16 + wrong)
    assert kept.get(new_id(START)) is None
    with pytest.raises(KeyError, match="there is no trajectory"):
        bank.resolve(new_id(START), 1)
    for asked in ({"limit": 0}, {"cursor": "x"}, {"status": "done"}, {"verdict": "good"}):
        with pytest.raises(ValueError, match=r"limit|cursor|status|good"):
            kept.find(**asked)  # type: ignore[arg-type]
    for query in (1.0, [[1.0, 0.0]], "abc", None):
        with pytest.raises(ValueError, match=r"query must be one embedding of shape \(n,\), was of"):
            kept.similar(query)  # type: ignore[arg-type]
    for asked in ({"agent_id": 5}, {"task": {"$exists": True}}):
        with pytest.raises(TypeError, match="must be a str"):
            kept.similar([1.0, 0.0], **asked)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="was one str"):
        bank.judge_many(trajectory.id)
    with pytest.raises(TypeError, match="pass its id"):
        pickle.dumps(trajectory)
    with ntmem.open() as other, pytest.raises(ValueError, match="is kept already"):
        other.track_trajectory(trajectory)
    for space in ("trajectories", "trajectory_index"):
        with pytest.raises(NotOwner, match=r"memory\.bank"):
            memory.put(("ntmem", space), "key", b"")
    assert len(again(kept, trajectory).observations) == 0


# ---- as of an instant ----


def test_nothing_is_seen_before_it_was_known(
    bank: ReasoningBank, kept: TrajectoryTracker, clock: ntmem.SimulatedClock
) -> None:
    clock.set(START + 10)
    trajectory = bank.begin("a")
    clock.set(START + 20)
    action = trajectory.add_action("buy", None, 1.0)
    trajectory.add_outcome(1.0, ts_event=START + 25, ts_known=START + 40)
    clock.set(START + 30)
    assert kept.get(trajectory.id, as_of=START + 9) is None
    assert again(kept, trajectory, as_of=START + 19).actions == ()
    assert len(again(kept, trajectory, as_of=START + 20).actions) == 1
    assert trajectory.outcomes == again(kept, trajectory).outcomes == ()
    assert bank.judge(trajectory.id).verdict is Verdict.INSUFFICIENT
    assert [it.action.id for it in bank.pending()] == [action]
    assert len(again(kept, trajectory, as_of=ntmem.LATEST).outcomes) == 1
    assert bank.pending(as_of=ntmem.LATEST) == []
    clock.set(START + 40)
    assert len(trajectory.outcomes) == len(again(kept, trajectory).outcomes) == 1
    assert bank.judge(trajectory.id).verdict is Verdict.CORRECT
    assert bank.judge(trajectory.id, as_of=START + 39).verdict is Verdict.INSUFFICIENT
    assert bank.pending() == []
    assert [it.action.id for it in bank.pending(as_of=START + 39)] == [action]
    assert bank.pending(as_of=START + 19) == bank.pending(as_of=START) == []
    with pytest.raises(KeyError, match="was not known then"):
        bank.judge(trajectory.id, as_of=START + 9)
    with pytest.raises(ValueError, match="get it without as_of to add"):
        again(kept, trajectory, as_of=START + 20).add_observation(1)


def test_the_past_is_loaded_with_when_it_was_known(kept: TrajectoryTracker) -> None:
    trajectory = Trajectory("a", ts_event=START - 50, ts_known=START - 40)
    trajectory.add_action("buy", None, 1.0, ts_event=START - 45, ts_known=START - 45)  # seen with the whole only
    trajectory.add_outcome(2.0, ts_known=START - 50)
    trajectory.add_observation("late")
    trajectory.complete("failed", ts_event=START - 30, ts_known=START - 20)
    kept.track(trajectory)
    assert [again(kept, trajectory, as_of=START - 20 - early).end for early in (1, 0)] == [None, START - 30]
    assert ids(kept, status="failed", as_of=START - 21) == []
    assert ids(kept, status="failed", as_of=START - 20) == [trajectory.id]
    assert kept.get(trajectory.id, as_of=START - 41) is None
    then = again(kept, trajectory, as_of=START - 40)
    assert (len(then.actions), len(then.outcomes), len(then.observations)) == (1, 1, 0)
    assert len(again(kept, trajectory, as_of=START).observations) == 1
    assert ids(kept, as_of=START - 41) == []
    assert ids(kept, start=START - 40, end=START - 39) == [trajectory.id]
    assert ids(kept, end=START - 40) == ids(kept, start=START - 39) == ids(kept, start=9, end=9) == []


# ---- finding ----


def test_pages(bank: ReasoningBank, kept: TrajectoryTracker, clock: ntmem.SimulatedClock) -> None:
    made = []
    for number in range(25):
        clock.set(START + number // 2)  # two begin at a time
        made.append(bank.begin(f"agent_{number % 2}", f"task_{number % 3}"))
    order = [it.id for it in sorted(made, key=lambda it: (-(it.start or 0), it.id))]
    assert ids(kept) == order
    assert kept.find(limit=25).cursor is None
    found: list[str] = []
    cursor = None
    for size in (10, 10, 5):
        page = kept.find(limit=10, cursor=cursor)
        assert len(page.trajectories) == size
        found += [it.id for it in page.trajectories]
        cursor = page.cursor
        bank.begin("agent_0")  # on none of the pages that follow
    assert (found, cursor) == (order, None)
    whose = {it.id: (it.agent_id, it.task) for it in made}
    for agent in ("agent_0", "agent_1", "nobody"):
        expected = [it for it in order if whose[it][0] == agent]
        assert [it for it in ids(kept, agent_id=agent) if it in whose] == expected
        both = [it for it in expected if whose[it][1] == "task_1"]
        assert ids(kept, agent_id=agent, task="task_1") == both
        page = kept.find(agent_id=agent, task="task_1", limit=2)
        assert [it.id for it in page.trajectories] == both[:2]
        if page.cursor is not None:
            assert ids(kept, agent_id=agent, task="task_1", cursor=page.cursor) == both[2:]
    assert ids(kept, task="task_2", as_of=START + 3) == [
        it.id for it in sorted(made[2:8:3], key=lambda it: -(it.start or 0))
    ]
    assert kept.count() == 28


def test_by_verdict(bank: ReasoningBank, kept: TrajectoryTracker, clock: ntmem.SimulatedClock) -> None:
    judge = RelativeErrorJudge()
    trajectory = bank.begin("a", "t")
    action = trajectory.add_action("buy", None, 100.0)
    trajectory.add_outcome(101.0)
    assert bank.judge(trajectory.id, judge=judge) == bank.judge(trajectory.id, judge=judge)
    assert len(again(kept, trajectory).verdicts) == 1  # the same again is not kept
    assert ids(kept, verdict=Verdict.CORRECT) == ids(kept, verdict="correct", agent_id="a") == [trajectory.id]
    clock.set(START + 10)
    trajectory.add_outcome(500.0, action_id=action)
    assert bank.judge(trajectory.id, judge=judge, record=False).verdict is Verdict.VERY_WRONG
    assert bank.judge(trajectory.id, as_of=START + 9).verdict is Verdict.CORRECT  # by another judge, and not kept
    assert len(again(kept, trajectory).verdicts) == 1
    assert ids(kept, verdict="correct") == [trajectory.id]
    [result] = bank.judge_many([trajectory.id], judge=judge)
    assert result.verdict is Verdict.VERY_WRONG
    assert ids(kept, verdict="correct") == []
    assert ids(kept, verdict="very_wrong") == [trajectory.id]
    assert ids(kept, verdict="correct", as_of=START + 9) == [trajectory.id]
    with pytest.raises(ValueError, match="leave record out"):
        bank.judge(trajectory.id, as_of=START, record=True)


def test_what_cannot_be_asked(kept: TrajectoryTracker) -> None:
    with pytest.raises(ValueError, match=r"query must be one embedding of shape \(n,\), was of shape \(0,\)"):
        kept.similar([])
    for ask in (kept.find, lambda verdict: kept.similar([1.0], verdict=verdict)):
        with pytest.raises(ValueError, match="verdict must be one of correct, incorrect, very_wrong, insu"):
            ask(verdict="good")


def test_by_similarity(bank: ReasoningBank, kept: TrajectoryTracker, clock: ntmem.SimulatedClock) -> None:
    made = {}
    for name, vector in {"up": [1.0, 0.1], "down": [-1.0, 0.1], "flat": [0.1, 1.0]}.items():
        made[name] = bank.begin(name, "t")
        made[name].add_observation("nothing")
        made[name].add_observation(name, vector)
        made[name].add_observation("later", [0.5, 0.5])
    assert kept.ledger.vectors().count(Situations(2)) == 3  # others would never be found
    found = kept.similar([1.0, 0.0], 2)
    assert [it.agent_id for it, _ in found] == ["up", "flat"]
    assert found[0][1] == pytest.approx(1 / np.sqrt(1.01), abs=0.01)
    assert [it.agent_id for it, _ in kept.similar([1.0, 0.0], agent_id="down")] == ["down"]
    assert [it.agent_id for it, _ in kept.similar([1.0, 0.0], min_score=0.9)] == ["up"]
    assert kept.similar([1.0, 0.0], task="other") == kept.similar([1.0, 0.0, 0.0]) == []
    assert kept.similar([1.0, 0.0], as_of=START - 1) == []
    bank.judge(made["down"].id)
    assert [it.agent_id for it, _ in kept.similar([1.0, 0.0], 1, verdict="insufficient")] == ["down"]


def test_the_first_embedding_as_of_then(
    bank: ReasoningBank, kept: TrajectoryTracker, clock: ntmem.SimulatedClock
) -> None:
    trajectory = bank.begin("a")
    for vector, known in (([1.0, 0.0], 30), ([0.0, 1.0], 20), ([1.0, 0.0, 0.0], 10), ([0.6, 0.8], 5), ([0.8, 0.6], 40)):
        trajectory.add_observation(known, vector, ts_known=START + known)
    for when, vector in ((5, [0.6, 0.8]), (10, [1.0, 0.0, 0.0]), (20, [0.0, 1.0]), (30, [1.0, 0.0]), (40, [1.0, 0.0])):
        for query in ([0.6, 0.8], [0.0, 1.0], [1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 1.0, 0.0]):
            scores = [score for _, score in kept.similar(query, as_of=START + when)]
            assert scores == pytest.approx([np.dot(query, vector)] if len(query) == len(vector) else [], abs=0.01)
    assert kept.similar([0.6, 0.8]) == kept.similar([1.0, 0.0]) == []
    trajectory.add_observation(35, [0.0, -1.0], ts_known=START + 35)
    assert kept.ledger.vectors().count(Situations(2), as_of=ntmem.LATEST) == 3  # others are never the first
    clock.set(START + 7)
    assert [it.id for it, _ in kept.similar([1.0, 0.0])] == [trajectory.id]


@pytest.mark.parametrize("other_is_first", [True, False])
def test_two_add_the_first_embedding_at_once(
    bank: ReasoningBank, kept: TrajectoryTracker, other_is_first: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = bank.begin("a")
    two = again(kept, one)
    name = "_embed" if other_is_first else "_put"
    real = getattr(Ledger, name)

    def meanwhile(*args: Any) -> Any:
        monkeypatch.setattr(Ledger, name, real)
        two.add_observation("two", [0.0, 1.0])
        return real(*args)

    monkeypatch.setattr(Ledger, name, meanwhile)
    one.add_observation("one", [1.0, 0.0])
    assert [it.data for it in again(kept, one).observations] == ["two", "one"]
    for query in ([0.0, 1.0], [1.0, 0.0]):
        assert [score for _, score in kept.similar(query)] == pytest.approx([query[1]])


def test_an_embedding_whose_event_is_missing(
    bank: ReasoningBank, kept: TrajectoryTracker, monkeypatch: pytest.MonkeyPatch
) -> None:
    def dies(*args: Any) -> bool:
        raise StorageError

    begun, whole = bank.begin("a"), Trajectory("b")
    whole.add_observation(1, [1.0, 0.0])
    with monkeypatch.context() as patch:
        patch.setattr(Ledger, "_put", dies)
        for call in (lambda: begun.add_observation(1, [1.0, 0.0]), lambda: kept.track(whole)):
            with pytest.raises(StorageError):
                call()
    assert kept.similar([1.0, 0.0]) == []
    other = bank.begin("c")
    other.add_observation(1, [0.0, 1.0])
    assert [it.id for it, _ in kept.similar([1.0, 0.0], 1)] == [other.id]  # it is asked for more than is dead


def test_pending(bank: ReasoningBank, clock: ntmem.SimulatedClock) -> None:
    first, second = bank.begin("a", "t"), bank.begin("b")
    early = first.add_action("buy", None, 1.0, horizon=60, ts_event=START - SECOND)
    clock.set(START + 10 * SECOND)
    late = first.add_action("sell", None, 1.0)
    other = second.add_action("buy")
    named = [(it.trajectory_id, it.action.id) for it in bank.pending()]
    assert named[0] == (first.id, early)
    assert sorted(named[1:]) == sorted([(first.id, late), (second.id, other)])
    assert [(it.action.id, it.due) for it in bank.pending(older_than=10)] == [(early, START + 59 * SECOND)]
    assert bank.pending(older_than=11) == []
    assert [it.trajectory_id for it in bank.pending(agent_id="b")] == [second.id]
    bank.resolve(first.id, 1, action_id=early)
    assert [it.action.id for it in bank.pending(agent_id="a")] == [late]
    bank.resolve(first.id, 1)
    assert bank.pending(agent_id="a") == []
    third = first.add_action("again", ts_known=START - 50 * SECOND)  # it is open again
    assert [it.action.id for it in bank.pending(agent_id="a")] == [third]
    assert bank.pending(agent_id="a", older_than=11) == []  # it is known since its trajectory is
    assert [it.action.id for it in bank.pending(agent_id="a", older_than=10)] == [third]


def test_what_is_tracked_late_is_pending(
    bank: ReasoningBank, kept: TrajectoryTracker, memory: ntmem.MemorySystem
) -> None:
    done, open_again, left = Trajectory("a"), Trajectory("b"), Trajectory("c")
    for it in (done, open_again, left):
        it.add_action("buy", None, 1.0)
    done.add_outcome(1)
    open_again.add_outcome(1)
    open_again.add_action("sell")
    for it in (done, open_again, left):
        kept.track(it)
    assert {(it.agent_id, it.action.id) for it in bank.pending()} == {("b", "a2"), ("c", "a1")}
    check_kept(memory)  # nothing of the first is among what is open


# ---- many at once, and trouble ----


def test_long_and_large(bank: ReasoningBank, kept: TrajectoryTracker) -> None:
    trajectory = Trajectory("a")
    for number in range(100):
        trajectory.add_observation(number)
    kept.track(trajectory)
    for number in range(100, 300):
        trajectory.add_observation(number)
    assert [it.data for it in again(kept, trajectory).observations] == [*range(300)]
    assert len(kept.find().trajectories[0].observations) == 300
    trajectory.add_observation(bytes(10_000_000))
    assert len(again(kept, trajectory).observations[-1].data) == 10_000_000


def test_two_objects_of_one_trajectory(bank: ReasoningBank, kept: TrajectoryTracker) -> None:
    one = bank.begin("a")
    two = again(kept, one)
    assert [one.add_action("x"), two.add_action("y"), two.add_action("z"), one.add_action("w")] == [
        *("a1", "a2", "a3", "a4")
    ]
    two.complete()
    with pytest.raises(ValueError, match="is complete"):
        one.add_action("late")
    assert [it.type for it in one.actions] == ["x", "y", "z", "w"]


@pytest.mark.parametrize("what", ["a step", "all of it", "a look"])
def test_another_adds_right_behind(
    bank: ReasoningBank, kept: TrajectoryTracker, what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever is written behind what a trajectory knows, it does not write over."""
    engine = kept.ledger.engine()
    whose, name = (engine, "fetch") if what == "a look" else (Ledger, "_put")
    real = getattr(whose, name)

    def then(*args: Any) -> Any:
        done = real(*args)
        monkeypatch.setattr(whose, name, real)
        other = kept.get(kept.find().trajectories[0].id)
        assert other is not None
        other.add_observation("other")
        return done

    if what == "all of it":
        one = Trajectory("a")
        monkeypatch.setattr(whose, name, then)
        kept.track(one)
    else:
        one = bank.begin("a")
        monkeypatch.setattr(whose, name, then)
        if what == "a look":
            one = again(kept, one)
        else:
            one.add_observation("first")
    one.add_observation("last")
    expected = ["first"] * (what == "a step") + ["other", "last"]
    assert [it.data for it in again(kept, one).observations] == expected


def test_two_threads_begin_at_once(
    bank: ReasoningBank, kept: TrajectoryTracker, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = Ledger._put
    other = threading.Thread(target=bank.begin, args=["b"])

    def meanwhile(*args: Any) -> bool:
        monkeypatch.setattr(Ledger, "_put", real)
        other.start()
        other.join(0.1)  # it waits for this one; if it did not, it would be done by then
        return real(*args)

    monkeypatch.setattr(Ledger, "_put", meanwhile)
    bank.begin("a")
    other.join()
    assert kept.count() == len(kept.find().trajectories) == 2


@pytest.mark.parametrize("is_kept", [True, False])
def test_the_count_where_it_is_not_known_whether_it_was_kept(
    bank: ReasoningBank, kept: TrajectoryTracker, is_kept: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = Ledger._put

    def dies(*args: Any) -> bool:
        if is_kept:
            assert real(*args)
        raise StorageError

    bank.begin("a")
    with monkeypatch.context() as patch, pytest.raises(StorageError):
        patch.setattr(Ledger, "_put", dies)
        bank.begin("a")
    assert kept.count() == len(kept.find().trajectories) == 1 + is_kept
    bank.begin("a")
    assert kept.count() == len(kept.find().trajectories) == 2 + is_kept


def test_a_trajectory_has_so_many_steps(bank: ReasoningBank, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(state, "MOST_STEPS", 4)
    trajectory = bank.begin("a")
    trajectory.add_observation(1)
    trajectory.add_action("buy")
    for call in (lambda: trajectory.add_observation(2), lambda: trajectory.add_action("sell")):
        with pytest.raises(ValueError, match="has 4 steps at most"):
            call()
    trajectory.add_outcome(1)  # of what was done


def test_threads(bank: ReasoningBank, kept: TrajectoryTracker) -> None:
    shared = bank.begin("a")

    def work(number: int) -> None:
        mine = again(kept, shared)
        for step in range(20):
            mine.add_observation([number, step])
            bank.begin("b")

    threads = [threading.Thread(target=work, args=[number]) for number in range(4)]
    for it in threads:
        it.start()
    for it in threads:
        it.join()
    seen = [tuple(it.data) for it in again(kept, shared).observations]
    assert sorted(seen) == [(number, step) for number in range(4) for step in range(20)]
    assert all([step for who, step in seen if who == number] == [*range(20)] for number in range(4))
    assert kept.count() == len(kept.find(limit=1000).trajectories) == 81


@pytest.mark.only("shared")
def test_processes(ram: Path, start: Start) -> None:
    with ntmem.open(ram) as memory:
        shared = memory.bank.begin("a")
        code = """
memory = ntmem.open(sys.argv[1])
mine = memory.trajectories.get(sys.argv[2])
say("ready"); hear()
for step in range(100):
    mine.add_action("buy", [sys.argv[3], step])
memory.bank.begin("b")
say("done"); hear()
memory.close()
"""
        child_processes = [start(code, ram, shared.id, name) for name in "xy"]
        for child in child_processes:
            assert child.line() == "ready"
        for child in child_processes:
            child.tell("go")
        for step in range(100):
            shared.add_action("buy", ["z", step])
        for child in child_processes:
            assert child.line() == "done"
        found = again(memory.trajectories, shared)
        assert [it.id for it in found.actions] == [f"a{number}" for number in range(1, 301)]
        for name in "xyz":
            assert [it.parameters[1] for it in found.actions if it.parameters[0] == name] == [*range(100)]
        assert memory.stats().total_trajectories == 3


def test_it_lasts_and_is_read_only(ram: Path) -> None:
    with ntmem.open(ram) as memory:
        trajectory = memory.bank.begin("a")
        trajectory.add_action("buy", None, 1.0)
    with ntmem.open(ram, read_only=True) as memory:
        bank = memory.bank
        found = again(memory.trajectories, trajectory)
        assert (len(bank.pending()), memory.trajectories.count(), ids(memory.trajectories)) == (1, 1, [trajectory.id])
        assert bank.judge(trajectory.id).verdict is Verdict.INSUFFICIENT
        for call in (lambda: bank.begin("a"), lambda: found.add_observation(1), lambda: bank.resolve(found.id, 1)):
            with pytest.raises(ReadOnlyError, match="read_only"):
                call()
        with pytest.raises(ReadOnlyError):
            bank.judge(trajectory.id, record=True)
    with ntmem.open(ram) as memory:
        memory.bank.resolve(trajectory.id, 1.0)
        memory.bank.begin("a")
        assert (memory.bank.pending(), memory.trajectories.count()) == ([], 2)


def test_damaged_records(bank: ReasoningBank, kept: TrajectoryTracker, memory: ntmem.MemorySystem) -> None:
    def write(step: int, value: bytes | None) -> None:
        kind: Any = "delete" if value is None else "put"
        memory.commit([Change(kind, TRAJECTORIES, event_key(trajectory.id, step), value or b"", own=True)])

    trajectory = bank.begin("a")
    trajectory.add_observation(1)
    trajectory.add_observation(2)
    good = memory.get(TRAJECTORIES, event_key(trajectory.id, 1).decode())
    begun = memory.get(TRAJECTORIES, event_key(trajectory.id, 0).decode())
    for bad in (b"", b"\x02" + good[1:], good[:-1], b"\x01\x90", b"\x01\x91\xa4what", begun):
        write(1, bad)
        for look in (lambda: kept.get(trajectory.id), kept.find, lambda: bank.judge(trajectory.id)):
            with pytest.raises(CorruptionError, match="step 1 of trajectory"):
                look()
    write(1, None)
    for look in (lambda: kept.get(trajectory.id), kept.find):
        with pytest.raises(CorruptionError, match=r"step 1 of trajectory .* is missing"):
            look()
    write(1, good)
    assert len(again(kept, trajectory).observations) == 2
    for step in (2, 1, 0):
        write(step, None)
    with pytest.raises(CorruptionError, match="is in the index and nowhere else"):
        kept.find()
    [counter] = [key for key, _ in memory.scan(TRAJECTORY_INDEX, prefix="c")]
    memory.commit([Change("put", TRAJECTORY_INDEX, counter.encode(), b"\x01\xa1x", own=True)])
    with pytest.raises(CorruptionError, match="count of trajectories"):
        kept.count()


def test_it_shows_itself(bank: ReasoningBank, kept: TrajectoryTracker) -> None:
    trajectory = Trajectory("<a>")
    assert repr(trajectory) == "<Trajectory not tracked '<a>' open actions=0>"
    assert "&lt;a&gt;" in trajectory._repr_html_()
    kept.track(trajectory)
    assert repr(trajectory) == f"<Trajectory {trajectory.id} '<a>' open actions=0>"
    assert repr(kept) == "<TrajectoryTracker of a private store>"
    assert kept
    assert len(kept) == 1
