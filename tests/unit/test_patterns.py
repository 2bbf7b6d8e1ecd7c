"""Patterns: what is learnt of outcomes, recalled, chosen by and credited, and what is refused with which words."""

from __future__ import annotations

import itertools
import math
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from patterns import Kept, check_learnt, check_measures

import ntmem
from ntmem import CorruptionError, DistilledPattern, ReadOnlyError, StorageError, VersionConflict
from ntmem.reasoningbank import ReasoningBank, distiller, learning, tracker
from ntmem.records import Change
from ntmem.tiers.guards import DISTILLING, PATTERNS

pytestmark = pytest.mark.usefixtures("engine")

SECOND = 1_000_000_000
DAY = 86_400 * SECOND
START = 1_700_000_000 * SECOND
EAST, NORTH = [1.0, 0.0], [0.0, 1.0]


@pytest.fixture(autouse=True)
def in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let ids rise: outcomes of one instant are learnt in the order of nothing else."""
    numbers = itertools.count(1)
    monkeypatch.setattr(tracker, "new_id", lambda _: f"{next(numbers):026d}")


@pytest.fixture
def clock() -> ntmem.SimulatedClock:
    return ntmem.SimulatedClock(START)


@pytest.fixture
def memory(clock: ntmem.SimulatedClock) -> Iterator[ntmem.MemorySystem]:
    with ntmem.open(clock=clock) as memory:
        yield memory


@pytest.fixture
def bank(memory: ntmem.MemorySystem) -> ReasoningBank:
    return memory.bank


def decide(
    bank: ReasoningBank,
    action: str = "buy",
    outcome: float | None = None,
    where: Any = EAST,
    *,
    agent: str = "a",
    task: str = "t",
    reference: float | None = None,
    **known: Any,
) -> ntmem.Trajectory:
    """Return a decision, with what came of it if that is given."""
    made = bank.begin(agent, task, **known)
    if where is not None:
        made.add_observation(None, where, **known)
    made.add_action(action, reference=reference, **known)
    if outcome is not None:
        made.add_outcome(outcome, action_id="a1", **known)
    return made


def teach(bank: ReasoningBank, times: int = 12, where: Any = EAST, sign: float = 1.0, **more: Any) -> None:
    """Let "buy" earn 1 more than "hold" in a situation, give or take a tenth."""
    for number in range(times):
        noise = number % 3 / 10
        decide(bank, "buy", sign + noise, where, **more)
        decide(bank, "hold", noise, where, **more)


def pattern(bank: ReasoningBank, action: str = "buy", **asked: Any) -> DistilledPattern:
    [found] = bank.patterns(where={"action": action} | asked.pop("where", {}), min_support=0, **asked)
    return found


def two_kinds(memory: ntmem.MemorySystem, sign: float = 1.0, between: float = 0.6) -> None:
    """Teach two kinds of situations that are one by the usual threshold."""
    chance = np.random.default_rng(1)
    memory.distiller.configure(similarity_threshold=0.99)
    for number in range(30):
        for way, earned in ((1, 1.0), (-1, sign)):
            where = chance.normal([1.0, way * between / 2, 0.0], 0.01)
            decide(memory.bank, "buy", earned + number % 3 / 10, where)
            decide(memory.bank, "hold", -earned + number % 3 / 10, where)
    memory.bank.distill()
    assert len(Kept(memory).live) == 2
    memory.distiller.configure(similarity_threshold=0.8)


# ---- nothing is known yet ----


def test_nothing_is_known_at_first(bank: ReasoningBank, clock: ntmem.SimulatedClock) -> None:
    assert bank.recall(EAST) == []
    assert bank.distill() == [] == [*bank.patterns(min_support=0)]
    assert repr(bank.distiller) == "<Distiller patterns=0 clusters=0>"
    report = bank.consolidate()
    assert [getattr(report, name) for name in report.__struct_fields__] == [0] * 11
    taken = Counter(bank.choose(EAST, ["buy", "hold", "sell"], seed=seed).action for seed in range(300))
    assert min(taken.values()) > 70
    choice = bank.choose(EAST, ["buy"], seed=1)
    assert (choice.action, choice.is_known, choice.options, choice.patterns) == ("buy", False, (), ())
    asked = decide(bank)
    assert "No memory was asked." in bank.explain(asked.id).text
    assert bank.recall(EAST, trajectory_id=asked.id) == []
    told = bank.explain(asked.id)
    assert (told.was_asked, told.patterns) == (True, ())
    assert "Memory was asked, and knew nothing of such situations." in told.text
    assert bank.recall(NORTH, as_of=START - 1) == []


def test_too_few_outcomes_are_no_pattern(bank: ReasoningBank) -> None:
    decide(bank, "buy", 1.0), decide(bank, "buy", 2.0)
    assert bank.distill() == bank.recall(EAST) == [*bank.patterns()] == []
    assert [it.support for it in bank.recall(EAST, min_support=2)] == [2]
    decide(bank, "buy", 3.0)
    assert [it.support for it in bank.distill()] == [3]
    bank.distiller.configure(min_trajectories=4)
    assert bank.recall(EAST) == []


# ---- what is learnt ----


def test_what_pays_is_learnt(bank: ReasoningBank, memory: ntmem.MemorySystem, clock: ntmem.SimulatedClock) -> None:
    made = []
    for number in range(20):
        made.append(decide(bank, "buy", 1.0 + number % 3 / 10))
        clock.set(START + number + 1)
    clock.set(START + 50)
    for number in range(20):
        decide(bank, "hold", number % 3 / 10, agent="b")
    found = bank.distill()
    assert found[0].strength >= found[1].strength > 0.95
    buy, hold = sorted(found, key=lambda it: it.action)
    assert (buy.pattern_type, hold.pattern_type, buy.support, hold.support) == ("success", "failure", 20, 20)
    assert buy.trajectory_ids == tuple(it.id for it in made[-16:])
    assert buy.centroid.tolist() == EAST
    assert 0.9 < buy.outcome_mean < 1.1
    assert buy.outcome_interval[0] < buy.outcome_mean < buy.outcome_interval[1]
    assert sum(buy.outcome_interval) / 2 == pytest.approx(buy.outcome_mean)
    facts = {"task": "t", "agents": ["a"], "unit": "reward", "regime": 0, "regime_since": 0, "uses": 0, "right": 0}
    facts |= {"wrong": 0, "quarantined": False, "contradicts": [], "ts_first": START}
    assert {name: buy.metadata[name] for name in facts} == facts
    assert (buy.metadata["ts_known"], hold.metadata["ts_first"], hold.metadata["agents"]) == (START + 50,) * 2 + (
        ["b"],
    )
    assert (buy.metadata["ts_last"], hold.metadata["ts_last"]) == (START + 19, START + 50)
    assert buy.metadata["effect"] > 0 > hold.metadata["effect"]
    assert buy.title == "buy pays (t, kind 0)"
    assert hold.title == "avoid hold (t, kind 0)"
    assert "20 outcomes" in buy.content
    assert "more than chance" in buy.content
    assert repr(buy).startswith("<DistilledPattern 'buy pays")
    assert "outcome_interval" in buy._repr_html_()
    kept = check_learnt(memory)
    check_measures(kept, next(iter(kept.live)))


def test_what_does_not_matter_is_no_pattern(bank: ReasoningBank) -> None:
    chance = np.random.default_rng(3)
    for _ in range(60):
        decide(bank, chance.choice(["buy", "hold"]).item(), chance.normal(), chance.normal(size=4))
    found = bank.distill()
    assert max(it.strength for it in found) < 0.5
    assert [*bank.patterns(min_strength=0.5)] == []
    assert all(it.title.startswith("unproven: ") and "not more than chance" in it.content for it in found)


def test_nothing_is_learnt_twice(bank: ReasoningBank, memory: ntmem.MemorySystem) -> None:
    teach(bank, 3)
    assert len(bank.distill()) == 2
    before = [it.metadata for it in bank.patterns()]
    assert bank.distill() == []
    assert [it.metadata for it in bank.patterns()] == before
    decide(bank, "buy", 1.0)
    assert {it.action: it.support for it in bank.distill()} == {"buy": 4, "hold": 3}
    check_learnt(memory)


def test_settings_say_how_much_old_outcomes_count(
    bank: ReasoningBank,
    memory: ntmem.MemorySystem,
    clock: ntmem.SimulatedClock,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    memory.distiller.configure(keeps=0.5, window=16)
    for number in range(20):
        decide(bank, "buy", float(number % 3))
        clock.set(clock.now() + 1)
    bank.distill()
    found = pattern(bank)
    assert (found.support, found.metadata["count"]) == (20, pytest.approx(3.0, abs=0.01))  # (1 + k) / (1 - k)
    check_measures(Kept(memory), found.id.partition(":")[0], keeps=0.5)
    memory.distiller.configure(keeps=1.0)
    decide(bank, "buy", 1.0)
    bank.distill()
    assert (pattern(bank).support, pattern(bank).metadata["count"]) == (21, 21)
    monkeypatch.setattr(learning, "SAMPLE", 16)  # all are kept until so many were there to be divided
    decide(bank, "buy", 1.0)
    bank.distill()
    assert (pattern(bank).support, pattern(bank).metadata["count"]) == (22, 16)
    check_learnt(memory)


def test_what_pays_may_change(bank: ReasoningBank, clock: ntmem.SimulatedClock) -> None:
    teach(bank, 30)
    bank.distill()
    before = pattern(bank)
    clock.set(START + 7)
    for number in range(12):
        decide(bank, "buy", -1.0 + number % 3 / 10)
    bank.distill()
    after = pattern(bank)
    assert before.metadata["regime"] == 0
    assert after.metadata["regime"] == 1
    assert after.metadata["regime_since"] == START + 7
    assert (before.pattern_type, after.pattern_type, after.support) == ("success", "failure", 42)
    assert after.outcome_mean < -0.5
    assert "What pays here has changed once" in after.content
    assert "changed" not in before.content


def test_situations_are_told_apart(bank: ReasoningBank, memory: ntmem.MemorySystem) -> None:
    """Interleaved, so that the first kind has both before it is divided."""
    chance = np.random.default_rng(0)
    for number in range(40):
        for where, sign in ((EAST, 1.0), (NORTH, -1.0)):
            decide(bank, "buy", sign + number % 3 / 10, chance.normal(where, 0.1) * 10)
            decide(bank, "hold", number % 3 / 10, chance.normal(where, 0.1))
    bank.distill()
    assert len(Kept(memory).live) == 2
    for where, kind in ((EAST, "success"), (NORTH, "failure")):
        found = bank.recall(where, 1, where={"action": "buy"})[0]
        assert (found.pattern_type, found.support) == (kind, 40)
        assert found.strength > 0.9
        assert found.similarity > 0.99
        assert bank.choose(where, ["buy", "hold"], seed=1).action == ("buy" if kind == "success" else "hold")
    check_learnt(memory)


def test_tasks_dimensions_and_units_are_apart(bank: ReasoningBank, memory: ntmem.MemorySystem) -> None:
    teach(bank, 3)
    teach(bank, 4, task="u")
    teach(bank, 5, [1.0, 0.0, 0.0])
    for _ in range(6):
        decide(bank, "buy", 110.0, reference=100.0)
    found = bank.distill()
    assert len(found) == len({it.id for it in found}) == 7
    assert {(it.metadata["task"], len(it.centroid), it.metadata["unit"], it.support) for it in found} == {
        ("t", 2, "reward", 3),
        ("u", 2, "reward", 4),
        ("t", 3, "reward", 5),
        ("t", 2, "return", 6),
    }
    assert {it.support for it in bank.recall([1.0, 0.0, 0.0], 9)} == {5}
    assert {it.support for it in bank.recall(EAST, 9, where={"task": "u"})} == {4}
    assert pattern(bank, where={"unit": "return"}).outcome_mean == pytest.approx(0.1, abs=0.02)
    assert bank.recall([1.0] * 4) == []
    assert "%" in pattern(bank, where={"unit": "return"}).description
    assert "%" not in pattern(bank, where={"task": "u"}).description
    check_learnt(memory)


def test_who_sells_earns_what_the_price_loses(bank: ReasoningBank, memory: ntmem.MemorySystem) -> None:
    for number in range(12):
        for kind in ("buy", "sell", "quote"):
            decide(bank, kind, 90.0 + number % 3, reference=100.0)
            decide(bank, kind, -1.0 - number % 3 / 10, task="rewards")
    bank.distill()
    means = {it.action: it.outcome_mean for it in bank.patterns(where={"task": "t"})}
    assert means["sell"] > 0.05
    assert max(means["buy"], means["quote"]) < -0.05
    assert max(it.outcome_mean for it in bank.patterns(where={"task": "rewards"})) < -0.9
    memory.distiller.configure(direction={"quote": -2.0})
    for _ in range(3):
        decide(bank, "quote", 90.0, reference=100.0, task="other")
        decide(bank, "sell", 90.0, reference=100.0, task="other")
    bank.distill()
    other = {it.action: it.outcome_mean for it in bank.patterns(where={"task": "other"})}
    assert other["quote"] > 0.1 > 0 > other["sell"]


def test_several_actions_are_several_outcomes(bank: ReasoningBank, memory: ntmem.MemorySystem) -> None:
    """Each in the situation that was seen last before it."""
    for number in range(3):
        made = bank.begin("a", "t")
        made.add_action("early")  # before anything was seen
        made.add_observation(None, EAST)
        made.add_action("buy")
        made.add_action("buy")
        made.add_observation(None, [0.0, 0.0, 1.0])
        made.add_observation("without one")
        made.add_action("hold")
        made.add_observation(None, NORTH)
        for name, value in zip(("a1", "a2", "a3", "a4"), (7.0, 1.0, 2.0, 3.0), strict=True):
            bank.resolve(made.id, value + number / 10, action_id=name)
        made.add_observation(None, EAST, ts_known=START + DAY)  # nobody has seen it yet
        late = made.add_action("late")
        made.add_outcome(5.0, action_id=late)
    assert {(it.action, it.support, len(it.centroid)) for it in bank.distill()} == {
        ("buy", 6, 2),
        ("hold", 3, 3),
        ("late", 3, 2),
    }
    assert pattern(bank, "late").centroid == pytest.approx(np.array([2, 1]) / 5**0.5)  # six outcomes here, three there
    kept = check_learnt(memory)
    assert not kept.due


def test_without_a_situation_nothing_is_learnt(bank: ReasoningBank, memory: ntmem.MemorySystem) -> None:
    for _ in range(4):
        decide(bank, "buy", 1.0, None)
        bank.begin("a").add_outcome(1.0)  # of the whole
    assert bank.distill() == []
    kept = check_learnt(memory)
    assert (kept.due, kept.live) == (set(), {})


# ---- corrections ----


def test_a_correction_before_anything_was_learnt(bank: ReasoningBank, clock: ntmem.SimulatedClock) -> None:
    made = [decide(bank, "buy", 100.0) for _ in range(3)]
    clock.set(START + 9)
    for it in made:
        bank.resolve(it.id, 2.0, action_id="a1")
        bank.resolve(it.id, 55.0, action_id="a1", ts_known=START + 3)
    [found] = bank.distill()
    assert (found.support, found.metadata["ts_last"]) == (3, START + 9)
    assert found.outcome_mean == pytest.approx(2.0, abs=0.2)


def test_a_correction_of_what_was_learnt(
    bank: ReasoningBank, memory: ntmem.MemorySystem, clock: ntmem.SimulatedClock
) -> None:
    made = [decide(bank, "buy", 100.0) for _ in range(3)]
    teach(bank, 3, NORTH)
    bank.distill()
    assert pattern(bank, where={"support": 6}).metadata["effect"] > 10
    clock.set(START + 9)
    for it in made:
        bank.resolve(it.id, 1.0, action_id="a1")
        bank.resolve(it.id, 1.1, action_id="a1", ts_known=START + DAY)
    bank.distill()
    assert pattern(bank).support == 6
    assert pattern(bank).metadata["effect"] < 2
    kept = check_learnt(memory)
    [outcomes] = [kept.outcomes(name) for name in kept.live]
    assert Counter(outcomes["known"].tolist()) == {START + 9: 3, START: 6}
    clock.set(START + DAY)
    bank.distill()
    assert outcomes["value"].max() < 1.3
    check_learnt(memory)


def test_a_correction_known_before_what_was_learnt_is_none(
    bank: ReasoningBank, memory: ntmem.MemorySystem, clock: ntmem.SimulatedClock
) -> None:
    clock.set(START + 9)
    made = [decide(bank, "buy", 1.0) for _ in range(3)]
    bank.distill()
    for it in made:
        begun = memory.trajectories.get(it.id)
        assert begun is not None
        begun.add_outcome(99.0, action_id="a1", ts_known=START)  # as of when its action was, the first
    bank.distill()
    assert pattern(bank).outcome_mean > 50  # the last of one instant
    early = bank.begin("a", "t", ts_known=START)
    early.add_observation(None, EAST, ts_known=START)
    early.add_action("hold", ts_known=START)
    early.add_outcome(5.0, ts_known=START + 5)
    bank.distill()
    early.add_outcome(-5.0, action_id="a1", ts_known=START + 4)
    assert bank.distill() == [], "it teaches nothing"
    check_learnt(memory)
    assert pattern(bank, "hold").support == 1
    assert {float(each) for name in Kept(memory).live for each in Kept(memory).outcomes(name)["value"]} == {99.0, 5.0}


def test_a_correction_of_what_is_in_another_kind_by_now(bank: ReasoningBank, memory: ntmem.MemorySystem) -> None:
    """It is put where its outcome is, though its situation is nearer to another kind."""
    chance = np.random.default_rng(0)
    odd = decide(bank, "buy", 1.0, [0.72, 0.7])
    for number in range(40):
        decide(bank, "buy", 1.0 + number % 3 / 10, chance.normal(EAST, 0.05))
    bank.distill()
    for number in range(60):
        decide(bank, "buy", 1.0 + number % 3 / 10, chance.normal(NORTH, 0.2))
    bank.distill()
    assert len(Kept(memory).live) > 1
    for value in (3.0, 4.0, 5.0):
        bank.resolve(odd.id, value, action_id="a1")
        bank.distill()
        check_learnt(memory)
    assert max(Kept(memory).outcomes(name)["value"].max() for name in Kept(memory).live) == 5.0


@pytest.mark.parametrize("compared", [0, 2048])
def test_many_kinds_are_found_by_similarity(
    bank: ReasoningBank, memory: ntmem.MemorySystem, monkeypatch: pytest.MonkeyPatch, compared: int
) -> None:
    """Where they are too many to compare each, what is learnt is the same."""
    monkeypatch.setattr(distiller, "_COMPARED", compared)
    chance, made = np.random.default_rng(0), []
    places = np.eye(6)
    for number in range(60):
        for place, where in enumerate(places):
            found = decide(bank, "buy", place + number % 3 / 10, chance.normal(where, 0.05), task="tu"[number % 2])
            made.append(found)
        if number % 20 == 19:
            bank.distill()
    assert len(Kept(memory).live) == 12
    check_learnt(memory)
    for it in made[::50]:
        bank.resolve(it.id, 77.0, action_id="a1")
    bank.distill()
    kept = check_learnt(memory)
    values = np.concatenate([kept.outcomes(name)["value"] for name in kept.live])
    assert (values == 77.0).sum() == len(made[::50])
    for place, where in enumerate(places):
        found = bank.recall(where, 1, where={"task": "t"})
        assert found[0].similarity > 0.98
        assert place - 0.5 < found[0].outcome_mean


def test_a_correction_of_what_was_let_go_is_nothing(
    bank: ReasoningBank, memory: ntmem.MemorySystem, clock: ntmem.SimulatedClock
) -> None:
    made = decide(bank, "buy", 1.0)
    bank.distill()
    clock.set(START + 200 * DAY)
    assert bank.consolidate().pruned == 1
    bank.resolve(made.id, 2.0, action_id="a1")
    assert bank.distill() == []
    assert not Kept(memory).due
    teach(bank, 3)
    assert {it.support for it in bank.distill()} == {3}
    check_learnt(memory, lost=1)


# ---- when it is learnt ----


def test_what_was_known_before_is_passed_over(bank: ReasoningBank, clock: ntmem.SimulatedClock) -> None:
    old = [decide(bank, "buy", 1.0) for _ in range(3)]
    clock.set(START + 9)
    assert bank.distill(since=START + 5) == []
    for it in old:
        bank.resolve(it.id, 2.0, action_id="a1")
    assert bank.distill() == []
    for _ in range(3):
        decide(bank, "hold", 1.0)
        decide(bank, "late", 1.0, ts_known=START + 3)
    assert [(it.action, it.support) for it in bank.distill()] == [("hold", 3)]


def test_what_comes_later_and_was_known_before_is_passed_over(bank: ReasoningBank, clock: ntmem.SimulatedClock) -> None:
    clock.set(START + 9)
    assert bank.distill(since=START + 5) == []
    teach(bank, 3, ts_known=START + 4)
    assert bank.distill() == []
    teach(bank, 3, ts_known=START + 5)
    assert {it.support for it in bank.distill(since=START)} == {3}


def test_learning_as_of_the_past(bank: ReasoningBank, memory: ntmem.MemorySystem, clock: ntmem.SimulatedClock) -> None:
    teach(bank, 3)
    clock.set(START + 20)
    teach(bank, 4)
    assert {it.support for it in bank.distill(as_of=START + 10)} == {3}
    assert {it.metadata["ts_known"] for it in bank.patterns()} == {START + 10}
    assert bank.recall(EAST, as_of=START + 9) == []
    assert len(bank.recall(EAST, as_of=START + 10)) == 2
    assert {it.support for it in bank.distill()} == {7}
    assert {it.support for it in bank.recall(EAST, as_of=START + 19)} == {3}
    assert bank.distill(as_of=START + 5) == []
    check_learnt(memory)
    for when, error in ((START + 21, "must not be in the future"), (ntmem.LATEST, "would look ahead")):
        with pytest.raises(ValueError, match=error):
            bank.distill(as_of=when)


def test_latest_is_all_there_is(bank: ReasoningBank, clock: ntmem.SimulatedClock) -> None:
    teach(bank, 3)
    bank.distill()
    clock.set(START + 50)
    teach(bank, 3)
    bank.distill()
    for as_of, support in ((START + 49, 3), (START + 50, 6), (None, 6), (ntmem.LATEST, 6)):
        assert {it.support for it in bank.recall(EAST, as_of=as_of)} == {support}
        assert {it.support for it in bank.patterns(as_of=as_of)} == {support}
        [option] = bank.choose(EAST, ["buy"], as_of=as_of, seed=0).options
        assert option.support == pytest.approx(support, rel=0.1)
    assert bank.recall(EAST, as_of=ntmem.LATEST)[0].score == bank.recall(EAST)[0].score


def test_one_huge_outcome_does_not_end_learning(bank: ReasoningBank, memory: ntmem.MemorySystem) -> None:
    for value in (1e200, -1e308, 1e155):
        decide(bank, "buy", value)
        teach(bank, 3)
        decide(bank, "buy", 1e-300, reference=1e300)
        for it in bank.distill():
            assert all(map(math.isfinite, (it.strength, it.confidence, it.outcome_mean, *it.outcome_interval)))
    assert not Kept(memory).due
    bank.consolidate()
    assert bank.choose(EAST, ["buy", "hold"], seed=0).is_known


# ---- recall ----


def test_the_score(bank: ReasoningBank, clock: ntmem.SimulatedClock) -> None:
    teach(bank, 3, ts_known=START - 80 * DAY)  # recency is that of the latest
    teach(bank)
    bank.distill()
    clock.set(START + 90 * DAY)
    for where, cosine in ((EAST, 1.0), ([300.0, 400.0], 0.6), ([3, 4], 0.6)):
        for it in bank.recall(where, 9):
            assert it.similarity == pytest.approx(cosine, abs=1e-6)
            assert it.score == pytest.approx(0.65 * cosine + 0.15 / 4 + 0.20 * it.confidence, abs=1e-6)
    found = bank.recall(EAST, 9)
    assert [it.score for it in found] == sorted((it.score for it in found), reverse=True)
    again = bank.recall(EAST, 9, as_of=START)
    assert again[0].score == pytest.approx(0.65 + 0.15 + 0.2 * again[0].confidence)


def test_the_floor_of_similarity(bank: ReasoningBank) -> None:
    teach(bank)
    bank.distill()
    assert len(bank.recall([0.31, 0.95])) == 2
    assert bank.recall([0.28, 0.96]) == []  # 0.3 by default
    assert len(bank.recall([-1.0, 0.0], min_similarity=-1)) == 2
    assert bank.recall([0.9, 0.9], min_similarity=0.8) == []


def test_what_is_recalled_does_not_all_say_the_same(memory: ntmem.MemorySystem) -> None:
    """Of two kinds that are nearly one, another action is more worth than the same once more."""
    two_kinds(memory)
    for hold in [*memory.bank.patterns(where={"action": "hold"})]:
        for _ in range(7):
            memory.bank.feedback(hold.id, -1)
    found = memory.bank.recall([1.0, 0.0, 0.0], 4)
    by_score = sorted(found, key=lambda it: -it.score)
    assert [it.action for it in by_score] == ["buy", "buy", "hold", "hold"]
    assert [it.action for it in found[:2]] == ["buy", "hold"]
    assert len({it.id for it in found}) == 4
    assert [it.id for it in memory.bank.recall([1.0, 0.0, 0.0], 2)] == [it.id for it in found[:2]]
    aside = memory.bank.recall([1.0, 0.3, 0.0], 3, min_similarity=0.95)
    assert {it.id[:20] for it in aside} == {aside[0].id[:20]}


def test_filters(bank: ReasoningBank) -> None:
    teach(bank, 5, agent="a")
    teach(bank, 4, agent="b", task="u")
    bank.distill()

    def found(**asked: Any) -> set[tuple[str, str]]:
        return {(it.action, it.metadata["task"]) for it in bank.recall(EAST, 9, **asked)}

    everything = {("buy", "t"), ("hold", "t"), ("buy", "u"), ("hold", "u")}
    assert found() == everything
    assert found(agent_id="b") == {("buy", "u"), ("hold", "u")}
    assert found(agent_id="c") == set()
    assert found(where={"task": "t", "action": "buy"}) == {("buy", "t")}
    assert found(where={"pattern_type": "failure"}) == {("hold", "t"), ("hold", "u")}
    assert found(where={"support": {"$gt": 4}}) == found(min_support=5) == {("buy", "t"), ("hold", "t")}
    assert found(where={"outcome_mean": {"$gt": 0.5}}) == {("buy", "t"), ("buy", "u")}
    assert found(where={"strength": {"$gte": 0.0}, "confidence": {"$gte": 0.5}}) == everything
    assert found(where={"unit": "return"}) == set()
    assert {it.action for it in bank.patterns(where={"task": "u", "effect": {"$lt": 0}})} == {"hold"}
    assert len(bank.recall(EAST, 1)) == 1


def test_a_filter_that_few_pass_is_looked_for_far(bank: ReasoningBank, memory: ntmem.MemorySystem) -> None:
    """In more kinds than are looked at first."""
    for number in range(30):
        angle = number / 30
        for _ in range(3):
            decide(bank, "buy", 1.0, [math.cos(angle), math.sin(angle)], task=f"{number}")
    bank.distill()
    assert len(Kept(memory).live) == 30
    found = bank.recall(EAST, 1, where={"task": "29"})
    assert [it.metadata["task"] for it in found] == ["29"]
    assert len(bank.recall(EAST, 30)) == 30
    assert bank.recall(EAST, 1, where={"task": "30"}) == []


def test_text_wants_an_embedder(bank: ReasoningBank, clock: ntmem.SimulatedClock) -> None:
    with pytest.raises(TypeError, match="text needs an embedder"):
        bank.recall("a wide spread")
    with ntmem.open(clock=clock, embedder=ntmem.HashedTextEmbedder(32)) as memory:
        where = ntmem.HashedTextEmbedder(32).embed("a wide spread")
        teach(memory.bank, 4, where)
        memory.bank.distill()
        assert {it.action for it in memory.bank.recall("a wide spread")} == {"buy", "hold"}
        assert memory.bank.recall("a wide spread")[0].similarity > 0.999
        assert memory.bank.choose("a wide spread", ["buy"]).is_known


# ---- choice ----


def test_the_better_action_is_chosen(bank: ReasoningBank) -> None:
    teach(bank, 30)
    bank.distill()
    taken = Counter(bank.choose(EAST, ["hold", "buy"], seed=seed).action for seed in range(50))
    assert taken == {"buy": 50}
    choice = bank.choose(EAST, ["hold", "buy"], seed=3)
    assert [it.action for it in choice.options] == ["hold", "buy"]
    hold, buy = choice.options
    assert buy.mean - hold.mean == pytest.approx(1.0, abs=0.1)
    assert buy.support > 20
    assert buy.sampled > hold.sampled
    assert buy.deviation > 0
    assert [it.action for it in choice.patterns] == ["buy"]
    for seed in (3, np.random.default_rng(3)):
        assert bank.choose(EAST, ["hold", "buy"], seed=seed).options == choice.options
    assert bank.choose(EAST, ["hold", "buy"], seed=4).options != choice.options


def test_what_was_never_tried_is_tried(bank: ReasoningBank) -> None:
    chance = np.random.default_rng(1)
    for _ in range(12):
        decide(bank, "buy", chance.normal())
        decide(bank, "hold", chance.normal())
    bank.distill()
    taken = Counter(bank.choose(EAST, ["buy", "hold", "new"], seed=seed).action for seed in range(100))
    assert taken["new"] > 10
    option = bank.choose(EAST, ["new"], seed=1).options[0]
    known = bank.choose(EAST, ["buy"], seed=1).options[0]
    assert option.support == 0
    assert option.deviation > 2 * known.deviation


def test_a_choice_is_within_its_task(bank: ReasoningBank) -> None:
    teach(bank, 30, sign=1.0, task="t")
    teach(bank, 30, sign=-1.0, task="u")
    bank.distill()
    for task, best in (("t", "buy"), ("u", "hold")):
        asked = decide(bank, task=task, where=None)
        assert bank.choose(EAST, ["buy", "hold"], task=task, seed=1).action == best
        choice = bank.choose(EAST, ["buy", "hold"], trajectory_id=asked.id, seed=1)
        assert choice.action == best
        told = bank.explain(asked.id)
        assert [it.pattern_id for it in told.patterns] == [it.id for it in choice.patterns]
        assert choice.patterns
    assert not bank.choose(EAST, ["buy"], task="v").is_known
    assert not bank.choose(EAST, ["buy"], trajectory_id=bank.begin("a", "v").id).is_known


# ---- credit ----


def test_feedback_moves_confidence(bank: ReasoningBank, memory: ntmem.MemorySystem) -> None:
    chance = np.random.default_rng(0)
    for _ in range(8):
        decide(bank, "buy", 0.2 + chance.normal())
        decide(bank, "hold", chance.normal())
    bank.distill()
    name, before = pattern(bank).id, pattern(bank).confidence
    assert 0.5 < before < 0.9
    for reward, step in ((1, 0.05), (0.5, 0.025), (-1, -0.025), (-0.5, -0.0125), (0, 0)):
        before = pattern(bank).confidence
        assert bank.feedback(name, reward)
        assert pattern(bank).confidence == pytest.approx(before + step)
    assert [pattern(bank).metadata[each] for each in ("uses", "right", "wrong")] == [5, 2, 2]
    assert pattern(bank, "hold").metadata["uses"] == 0
    kept = pattern(bank).confidence
    decide(bank, "hold", 0.0)
    bank.distill()  # what credits have moved stays moved
    assert pattern(bank).confidence == pytest.approx(kept, abs=0.03)
    for _ in range(30):
        bank.feedback(name, 1)
    assert pattern(bank).confidence == 1.0
    bank.feedback(name, -1)
    assert pattern(bank).confidence == pytest.approx(0.975)
    for _ in range(50):
        bank.feedback(name, -1)
    assert pattern(bank).confidence == 0.0
    bank.feedback(name, 1)
    assert pattern(bank).confidence == pytest.approx(0.05)
    check_learnt(memory)


def test_feedback_of_a_decision_counts_once(bank: ReasoningBank, memory: ntmem.MemorySystem) -> None:
    teach(bank)
    bank.distill()
    name = pattern(bank).id
    asked = decide(bank, "buy")
    assert bank.recall(EAST, 1, trajectory_id=asked.id, where={"action": "buy"})
    assert bank.feedback(name, 0.5, trajectory_id=asked.id)
    assert not bank.feedback(name, 0.5, trajectory_id=asked.id)
    asked.add_outcome(1.0)
    bank.distill()
    assert [pattern(bank).metadata[each] for each in ("uses", "right", "wrong")] == [1, 1, 0]
    assert bank.feedback(pattern(bank, "hold").id, -0.5, trajectory_id=asked.id)  # another pattern
    other = decide(bank, "buy")
    bank.recall(EAST, 1, trajectory_id=other.id, where={"action": "buy"})
    other.add_outcome(1.0)
    bank.distill()
    assert not bank.feedback(name, 1, trajectory_id=other.id)  # the outcome has said so
    assert [pattern(bank).metadata[each] for each in ("uses", "right", "wrong")] == [2, 2, 0]
    never = decide(bank, "buy", 1.0)
    bank.distill()
    assert bank.feedback(name, 1, trajectory_id=never.id)  # it was not advised by it, so nothing has been said
    assert Kept(memory).said == 3


def test_outcomes_say_what_advice_was_worth(bank: ReasoningBank, memory: ntmem.MemorySystem) -> None:
    teach(bank)
    bank.distill()
    for action, outcome, facts in (
        ("buy", 1.5, {"buy": [1, 1, 0], "hold": [1, 0, 0]}),
        ("buy", -1.0, {"buy": [2, 1, 1], "hold": [2, 0, 0]}),
        ("hold", 0.0, {"buy": [3, 1, 1], "hold": [3, 1, 0]}),
        ("sell", 9.0, {"buy": [4, 1, 1], "hold": [4, 1, 0]}),
    ):
        asked = decide(bank, action)
        assert len(bank.recall(EAST, trajectory_id=asked.id, where={"action": {"$in": ["buy", "hold"]}})) == 2
        bank.recall(EAST, trajectory_id=asked.id, where={"action": {"$in": ["buy", "hold"]}})  # again
        asked.add_outcome(outcome)
        bank.distill()
        found = {it: [pattern(bank, it).metadata[each] for each in ("uses", "right", "wrong")] for it in facts}
        assert found == facts, action
        asked.add_outcome(outcome, action_id="a1")  # a correction moves nothing any more
        bank.distill()
        assert {it: pattern(bank, it).metadata["uses"] for it in facts} == {it: n[0] for it, n in facts.items()}
    unasked = decide(bank, "buy", 1.0)
    bank.recall(EAST, trajectory_id=unasked.id)  # afterwards
    bank.distill()
    assert pattern(bank).metadata["uses"] == 4


def test_advice_after_the_outcome_was_known_is_none(bank: ReasoningBank, clock: ntmem.SimulatedClock) -> None:
    teach(bank)
    bank.distill()
    asked = decide(bank, "buy")
    clock.set(START + 5)
    bank.recall(EAST, trajectory_id=asked.id)
    asked.add_outcome(1.0, ts_known=START + 2)  # told late
    bank.distill()
    assert pattern(bank).metadata["uses"] == 0
    assert pattern(bank).support == 13


def test_a_wrong_outcome_is_wrong_though_it_turns_the_pattern(bank: ReasoningBank, clock: ntmem.SimulatedClock) -> None:
    """What was advised is held against what came, not what is made of it afterwards."""
    for _ in range(3):
        decide(bank, "buy", 0.1)
        decide(bank, "hold", 0.0)
    bank.distill()
    assert pattern(bank).pattern_type == "success"
    asked = decide(bank, "buy")
    bank.recall(EAST, trajectory_id=asked.id)
    clock.set(START + 1)
    asked.add_outcome(-50.0)
    bank.distill()
    assert pattern(bank).pattern_type == "failure"
    assert [pattern(bank).metadata[each] for each in ("uses", "right", "wrong")] == [1, 0, 0], "it claims that no more"
    used = {it.pattern_id: it.was_right for it in bank.explain(asked.id).patterns}
    assert used[pattern(bank).id] is False


def test_credit_is_by_what_was_known_before(bank: ReasoningBank, clock: ntmem.SimulatedClock) -> None:
    """Not by what others earned meanwhile."""
    for number in range(12):
        decide(bank, "buy", 10.0 + number % 3)
        decide(bank, "hold", number % 3 / 10)
    bank.distill()
    asked = decide(bank, "buy")
    bank.recall(EAST, trajectory_id=asked.id)
    clock.set(START + 1)
    asked.add_outcome(1.5)
    for number in range(12):
        decide(bank, "hold", 3.0 + number % 3)
    bank.distill()
    found = pattern(bank)
    assert found.metadata["base"] > 1.5
    assert [found.metadata[each] for each in ("uses", "right", "wrong")] == [1, 1, 0]
    assert {it.pattern_id: it.was_right for it in bank.explain(asked.id).patterns}[found.id] is True


def test_quarantine_and_its_end(bank: ReasoningBank, memory: ntmem.MemorySystem, clock: ntmem.SimulatedClock) -> None:
    teach(bank, 20)
    bank.distill()
    name = pattern(bank).id
    for number in range(8):
        assert len(bank.recall(EAST)) == 2, number
        bank.feedback(name, 0.1 if number == 3 else -1)
    assert not pattern(bank).metadata["quarantined"]
    bank.feedback(name, -1)  # the eighth of the last ten
    assert pattern(bank).metadata["quarantined"]
    assert [it.action for it in bank.recall(EAST)] == ["hold"]
    assert len(bank.recall(EAST, with_quarantined=True)) == 2
    assert bank.consolidate().quarantined == 1
    choice = bank.choose(EAST, ["buy", "hold"], seed=1)
    assert (choice.action, choice.patterns) == ("buy", ())
    for number in range(9):
        decide(bank, "buy", 1.0 + number % 3 / 10)
    bank.distill()
    assert pattern(bank).metadata["quarantined"]
    decide(bank, "buy", 1.0)
    bank.distill()
    assert not pattern(bank).metadata["quarantined"]
    assert pattern(bank).strength > 0.5
    for _ in range(7):
        bank.feedback(name, -1)
    assert not pattern(bank).metadata["quarantined"], "what was before it came back counts no more"
    check_learnt(memory)


def test_who_claims_the_opposite_is_believed_anew(bank: ReasoningBank) -> None:
    teach(bank, 12)
    bank.distill()
    for _ in range(8):
        bank.feedback(pattern(bank).id, -1)
    assert pattern(bank).metadata["quarantined"]
    for number in range(30):
        decide(bank, "buy", -2.0 + number % 3 / 10)
    bank.distill()
    found = pattern(bank)
    assert (found.pattern_type, found.metadata["quarantined"]) == ("failure", False)
    assert found.confidence > 0.95


def test_only_contradiction_of_late_counts(bank: ReasoningBank) -> None:
    teach(bank)
    bank.distill()
    for number in range(60):
        bank.feedback(pattern(bank).id, -1 if number % 10 < 7 else 1)
        assert not pattern(bank).metadata["quarantined"]


# ---- why ----


def test_explain_shows_what_was_known_then(bank: ReasoningBank, clock: ntmem.SimulatedClock) -> None:
    teach(bank)
    bank.distill()
    asked = decide(bank, "buy")
    recalled = bank.recall(EAST, 2, trajectory_id=asked.id)
    clock.set(START + 5)
    teach(bank, 20, sign=-1.0)
    asked.add_outcome(0.9)
    bank.distill()
    bank.feedback(recalled[0].id, -1)
    told = bank.explain(asked.id)
    assert (told.trajectory_id, told.agent_id, told.task, told.was_asked) == (asked.id, "a", "t", True)
    assert [it.pattern_id for it in told.patterns] == [it.id for it in recalled]
    for used, was in zip(told.patterns, recalled, strict=True):
        assert used.pattern is not None
        assert (used.pattern.support, used.pattern.confidence) == (12, was.confidence)
        assert (used.score, used.similarity, used.reliability, used.ts) == (
            was.score,
            was.similarity,
            was.confidence,
            START,
        )
        assert used.score == pytest.approx(0.65 * used.similarity + 0.15 * used.recency + 0.2 * used.reliability)
        assert used.was_right is (True if was.action == "buy" else None)
        assert f"score {was.score:.3f}" in told.text
    assert told.outcomes["a1"].value == 0.9
    assert "buy: 0.9 came of it" in told.text
    assert "It was right." in told.text
    before = bank.explain(asked.id, as_of=START)
    assert (before.outcomes, {it.was_right for it in before.patterns}) == ({}, {None})
    assert "nothing came of it yet" in before.text
    assert repr(told) == f"<Explanation {asked.id} patterns=2>"
    assert asked.id in told._repr_html_()


def test_explain_and_credit_agree_on_who_sells(bank: ReasoningBank) -> None:
    for number in range(12):
        for kind in ("buy", "sell"):
            decide(bank, kind, 90.0 + number % 3, reference=100.0)
    bank.distill()
    for outcome, is_right in ((90.0, True), (120.0, False)):
        asked = decide(bank, "sell", reference=100.0)
        bank.recall(EAST, trajectory_id=asked.id, where={"action": "sell"})
        asked.add_outcome(outcome)
        [used] = bank.explain(asked.id).patterns
        assert used.was_right is is_right
        bank.distill()
    assert [pattern(bank, "sell").metadata[each] for each in ("right", "wrong")] == [1, 1]


# ---- tidying up ----


def test_kinds_that_are_one_are_merged(memory: ntmem.MemorySystem, clock: ntmem.SimulatedClock) -> None:
    bank = memory.bank
    two_kinds(memory)
    one, other = sorted(bank.patterns(where={"action": "buy"}), key=lambda it: it.id)
    for each, rewards in ((one, [1, 1]), (other, [-1])):
        for reward in rewards:
            bank.feedback(each.id, reward)
    clock.set(START + 5)
    report = bank.consolidate()
    assert (report.merged, report.clusters, report.patterns, report.contradictions) == (1, 1, 2, 0)
    found = pattern(bank)
    assert (found.id, found.support) == (one.id, one.support + other.support)
    assert [found.metadata[each] for each in ("uses", "right", "wrong")] == [3, 2, 1]
    assert found.centroid == pytest.approx([1, 0, 0], abs=0.02)
    kept = check_learnt(memory)
    check_measures(kept, found.id[:20])
    assert kept.clusters[other.id[:20]].into == one.id[:20]
    assert bank.feedback(other.id, 1)  # by its old name
    assert pattern(bank).metadata["uses"] == 4
    assert len([*bank.patterns(where={"action": "buy"}, as_of=START)]) == 2
    assert len(bank.recall([1.0, 0.0, 0.0], 9)) == 2
    again = bank.consolidate()
    assert (again.merged, again.aged, again.pruned, again.forgotten) == (0, 0, 0, 0)
    asked = decide(bank, "buy", where=[1.0, 0.0, 0.0])
    bank.recall([1.0, 0.0, 0.0], trajectory_id=asked.id)
    asked.add_outcome(1.0)
    bank.distill()
    assert pattern(bank).metadata["uses"] == 5
    check_learnt(memory)


def test_what_contradicts_is_not_merged(memory: ntmem.MemorySystem) -> None:
    bank = memory.bank
    two_kinds(memory, sign=-1.0)
    report = bank.consolidate()
    assert (report.merged, report.contradictions, report.clusters) == (0, 4, 2)
    one, other = bank.patterns(where={"action": "buy"})
    assert {one.pattern_type, other.pattern_type} == {"success", "failure"}
    assert (one.metadata["contradicts"], other.metadata["contradicts"]) == ([other.id], [one.id])
    head = Kept(memory).head
    bank.consolidate()
    assert Kept(memory).head == head, "nothing was left to do"
    memory.distiller.configure(similarity_threshold=0.99)
    assert bank.consolidate().contradictions == 0
    check_learnt(memory)


@pytest.mark.parametrize("way", [1, -1])
def test_merging_keeps_quarantine(memory: ntmem.MemorySystem, way: int) -> None:
    """Ten further outcomes end it, after a merger as well."""
    bank = memory.bank
    two_kinds(memory)
    for _ in range(2):
        decide(bank, "buy", 1.0, [1.0, way * 0.3, 0.0])
    bank.distill()
    larger = max(bank.patterns(where={"action": "buy"}), key=lambda it: it.support)
    for _ in range(8):
        bank.feedback(larger.id, -1)
    assert bank.consolidate().merged == 1
    assert pattern(bank).metadata["quarantined"]
    for number in range(10):
        assert pattern(bank).metadata["quarantined"], number
        decide(bank, "buy", 1.0 + number % 3 / 10, [1.0, 0.0, 0.0])
        bank.distill()
    assert not pattern(bank).metadata["quarantined"]


def test_dividing_keeps_quarantine(bank: ReasoningBank, memory: ntmem.MemorySystem) -> None:
    """Of the half that keeps the name, until ten further outcomes."""
    chance = np.random.default_rng(0)

    def more(times: int, *places: Any) -> None:
        for number in range(times):
            for where in places:
                decide(bank, "buy", 2.0 + number % 3 / 10, chance.normal(where, 0.02))
                decide(bank, "hold", number % 3 / 10, chance.normal(where, 0.02))

    more(12, EAST)
    bank.distill()
    name = pattern(bank).id
    for _ in range(8):
        bank.feedback(name, -1)
    more(6, NORTH)
    bank.distill()
    assert len(Kept(memory).live) == 2
    mine, other = sorted(bank.patterns(where={"action": "buy"}), key=lambda it: it.id)
    assert mine.id == name
    assert mine.metadata["quarantined"]
    assert mine.metadata["uses"] == 8
    assert not other.metadata["quarantined"]
    assert other.metadata["uses"] == 0
    check_learnt(memory)


def test_what_is_old_ages_and_goes(
    bank: ReasoningBank, memory: ntmem.MemorySystem, clock: ntmem.SimulatedClock
) -> None:
    teach(bank, 20)
    for _ in range(2):
        decide(bank, "luck", 0.5)
        decide(bank, "used", 0.5)
    bank.distill()
    bank.feedback(pattern(bank, "used").id, 0.5)
    assert pattern(bank).confidence > 0.99
    clock.set(START + 90 * DAY)
    report = bank.consolidate()
    assert (report.aged, report.pruned) == (1, 0)
    assert pattern(bank).confidence == pytest.approx(0.5 + 0.5 / math.sqrt(2), abs=0.01)
    clock.set(START + 180 * DAY)
    report = bank.consolidate()
    assert (report.aged, report.pruned, report.forgotten) == (1, 0, 0)
    assert pattern(bank).confidence == pytest.approx(0.75, abs=0.01)
    clock.set(START + 180 * DAY + 1)
    assert bank.consolidate().pruned == 1
    assert {it.action for it in bank.patterns(min_support=0)} == {"buy", "hold", "used"}
    then = bank.patterns(min_support=0, as_of=START + 180 * DAY)
    assert {it.action for it in then} == {"buy", "hold", "used", "luck"}
    check_learnt(memory, lost=2)
    assert {it.action for it in bank.recall(EAST, 9, min_support=0)} == {"buy", "hold", "used"}


def test_all_of_a_kind_may_go(bank: ReasoningBank, memory: ntmem.MemorySystem, clock: ntmem.SimulatedClock) -> None:
    decide(bank, "buy", 1.0)
    bank.distill()
    gone = pattern(bank).id
    clock.set(START + 200 * DAY)
    report = bank.consolidate()
    assert (report.pruned, report.clusters, report.patterns) == (1, 0, 0)
    assert bank.recall(EAST, min_support=0) == []
    assert not bank.choose(EAST, ["buy"]).is_known
    with pytest.raises(KeyError, match="it was pruned"):
        bank.feedback(gone, 1)
    teach(bank, 3)
    assert {it.support for it in bank.distill()} == {3}
    assert gone not in {it.id for it in bank.patterns()}
    check_learnt(memory, lost=1)


def test_the_past_is_let_go_after_90_days(
    bank: ReasoningBank, memory: ntmem.MemorySystem, clock: ntmem.SimulatedClock
) -> None:
    teach(bank, 3)
    bank.distill()
    asked = decide(bank)
    bank.recall(EAST, trajectory_id=asked.id)
    clock.set(START + DAY)
    teach(bank, 3)
    bank.distill()
    clock.set(START + 91 * DAY)
    assert bank.consolidate().forgotten == 0
    clock.set(START + 91 * DAY + 1)
    assert bank.consolidate().forgotten == 1
    assert bank.recall(EAST, as_of=START) == []
    assert {it.support for it in bank.recall(EAST, as_of=START + DAY)} == {6}
    told = bank.explain(asked.id)
    assert [it.pattern for it in told.patterns] == [None, None]
    assert told.patterns[0].pattern_id in told.text
    check_learnt(memory)


def test_not_more_patterns_than_are_allowed(
    bank: ReasoningBank, memory: ntmem.MemorySystem, clock: ntmem.SimulatedClock
) -> None:
    for number in range(30):
        decide(bank, f"{number}", 1.0, task=f"{number % 4}")
        clock.set(clock.now() + DAY)
    bank.distill()
    assert Kept(memory).head.cells == 30
    memory.distiller.configure(max_patterns=20)
    bank.distill()
    kept = check_learnt(memory, lost=11)  # one more than too many
    assert kept.head.cells == 19
    assert {it.action for it in bank.patterns(min_support=0)} == {str(it) for it in range(11, 30)}  # the older go first
    assert repr(bank.distiller) == "<Distiller patterns=19 clusters=4>"
    memory.distiller.configure(max_patterns=1)
    report = bank.consolidate()
    assert (report.pruned, report.patterns, report.clusters) == (18, 1, 1)
    check_learnt(memory, lost=29)


# ---- other words ----


def test_other_words(bank: ReasoningBank, memory: ntmem.MemorySystem) -> None:
    asked: list[str] = []

    def rewrite(it: DistilledPattern) -> tuple[str, str, str]:
        asked.append(it.action)
        return (f"Do {it.action}!", "It pays.", f"{it.support} outcomes say so.")

    memory.distiller.rewrite = rewrite
    teach(bank, 20)
    decide(bank, "luck", 0.5)
    found = bank.distill()
    assert sorted(asked) == ["buy", "hold"]
    assert {it.title for it in found} == {"Do buy!", "Do hold!"}
    assert pattern(bank).content == "20 outcomes say so."
    assert {it.title for it in bank.recall(EAST, 2)} == {"Do buy!", "Do hold!"}
    assert pattern(bank, "luck").title.startswith("unproven: ")
    bank.distill()
    assert len(asked) == 2
    memory.distiller.rewrite = None
    decide(bank, "buy", 1.0)
    bank.distill()
    assert pattern(bank).title == "buy pays (t, kind 0)", "other words are of other numbers"
    assert memory.distiller.rewrite_errors == []
    check_learnt(memory)


def fails(it: DistilledPattern) -> Any:
    raise OSError("the model is away")


@pytest.mark.parametrize(
    ("rewrite", "error"),
    [
        (lambda it: (it.title, it.description, it.content + " From 21 outcomes."), "keep to the numbers.* 21 is in"),
        (lambda it: (it.title, it.description.replace("+", "+1"), it.content), "keep to the numbers"),
        (lambda it: (it.title, it.description.replace("+", "-"), it.content), "keep to the numbers"),
        (lambda it: ("", "b", "c"), "the title that rewrite returned has 1 to 255 bytes"),
        (lambda it: ("a", "b"), r"must return \(title, description, content\), returned tuple"),
        (lambda it: "words", "returned str"),
        (lambda it: None, "returned NoneType"),
        (lambda it: ("a", b"b", "c"), "the description that rewrite returned must be a str"),
        (fails, "the model is away"),
    ],
)
def test_words_that_are_refused(bank: ReasoningBank, memory: ntmem.MemorySystem, rewrite: Any, error: str) -> None:
    memory.distiller.rewrite = rewrite
    teach(bank, 20)
    found = bank.distill()
    assert {it.title for it in found} == {"buy pays (t, kind 0)", "avoid hold (t, kind 0)"}
    assert len(memory.distiller.rewrite_errors) == 2
    for each, it in zip(memory.distiller.rewrite_errors, found, strict=True):
        assert each.startswith(f"{it.id}: ")
    with pytest.raises(AssertionError, match=error):
        raise AssertionError(memory.distiller.rewrite_errors[0])
    check_learnt(memory)


def test_words_of_what_has_changed_meanwhile_are_not_kept(
    bank: ReasoningBank, memory: ntmem.MemorySystem, clock: ntmem.SimulatedClock
) -> None:
    def rewrite(it: DistilledPattern) -> tuple[str, str, str]:
        if memory.distiller.rewrite is not None:
            memory.distiller.rewrite = None
            clock.set(clock.now() + 1)
            teach(bank, 2)
            bank.distill()
        return ("old words", "b", "c")

    memory.distiller.rewrite = rewrite
    teach(bank, 20)
    bank.distill()
    assert {it.support for it in bank.patterns()} == {22}
    assert "old words" not in {it.title for it in bank.patterns()}


# ---- others ----


def test_others_see_what_was_learnt(ram: Path, clock: ntmem.SimulatedClock) -> None:
    with ntmem.open(ram / "s", clock=clock) as one, ntmem.open(ram / "s", clock=clock) as other:
        teach(one.bank, 3)
        assert len(other.bank.distill()) == 2
        teach(other.bank, 3, NORTH)
        assert {it.support for it in one.bank.distill()} == {6}
        one.bank.feedback(pattern(other.bank).id, 1)
        assert pattern(other.bank).metadata["uses"] == 1
        check_learnt(one)
    with ntmem.open(ram / "s", clock=clock) as again:
        assert len(again.bank.recall(EAST)) == 2
        check_learnt(again)


def test_a_merger_in_the_midst_of_feedback(ram: Path, clock: ntmem.SimulatedClock) -> None:
    """Whatever has been read by then."""
    with ntmem.open(ram / "s", clock=clock) as one, ntmem.open(ram / "s", clock=clock) as other:
        for point in ("update", "latest", "working", "commit"):
            clock.set(clock.now() + DAY)
            two_kinds_of = f"task {point}"
            chance = np.random.default_rng(1)
            one.distiller.configure(similarity_threshold=0.99)
            for number in range(30):
                for way in (1, -1):
                    decide(
                        one.bank, "buy", number % 3 / 10, chance.normal([1.0, way * 0.3, 0.0], 0.01), task=two_kinds_of
                    )
            one.bank.distill()
            one.distiller.configure(similarity_threshold=0.8)
            first, second = sorted(one.bank.patterns(where={"task": two_kinds_of}), key=lambda it: it.id)
            shelf = one.distiller.shelf
            method = getattr(shelf, point)

            def meddled(*args: Any, shelf: Any = shelf, method: Any = method, point: str = point, **more: Any) -> Any:
                vars(shelf).pop(point, None)  # once
                assert other.bank.consolidate().merged == 1
                return method(*args, **more)

            setattr(shelf, point, meddled)
            assert one.bank.feedback(second.id, 1)
            found = pattern(one.bank, where={"task": two_kinds_of})
            assert (found.id, found.metadata["uses"], found.support) == (first.id, 1, 60)
            check_learnt(one)


def test_who_never_gets_a_turn_is_told(
    bank: ReasoningBank, memory: ntmem.MemorySystem, monkeypatch: pytest.MonkeyPatch
) -> None:
    teach(bank, 3)
    bank.distill()

    def refuse(_: Any) -> int:
        raise VersionConflict("somebody was faster", expected=1, found=2)

    monkeypatch.setattr(distiller, "_ATTEMPTS", 3)
    name = pattern(bank).id
    monkeypatch.setattr(bank.distiller.shelf, "commit", refuse)
    decide(bank, "buy", 1.0)
    for change in (bank.distill, lambda: bank.feedback(name, 1)):
        with pytest.raises(StorageError, match="others changed the patterns 3 times meanwhile; try again"):
            change()
    monkeypatch.undo()
    assert pattern(bank).support == 3
    bank.distill()
    assert pattern(bank).support == 4
    check_learnt(memory)


def test_who_only_reads(ram: Path, clock: ntmem.SimulatedClock) -> None:
    with ntmem.open(ram / "s", clock=clock) as memory:
        teach(memory.bank, 3)
        asked = decide(memory.bank)
        memory.bank.distill()
        memory.bank.recall(EAST, trajectory_id=asked.id)
        name = pattern(memory.bank).id
        decide(memory.bank, "buy", 1.0)
    with ntmem.open(ram / "s", clock=clock, read_only=True) as memory:
        bank = memory.bank
        assert len(bank.recall(EAST)) == len([*bank.patterns()]) == len(bank.explain(asked.id).patterns) == 2
        assert bank.choose(EAST, ["buy"]).is_known
        for change in (
            bank.distill,
            bank.consolidate,
            lambda: bank.feedback(name, 1),
            lambda: bank.recall(EAST, trajectory_id=asked.id),
            lambda: bank.choose(EAST, ["buy"], trajectory_id=asked.id),
        ):
            with pytest.raises(ReadOnlyError):
                change()


# ---- in the background ----


def test_learning_in_the_background(bank: ReasoningBank, memory: ntmem.MemorySystem) -> None:
    learnt = threading.Event()
    rewritten = threading.Event()

    def rewrite(it: DistilledPattern) -> tuple[str, str, str]:
        assert threading.current_thread().name == "ntmem-distiller"
        rewritten.set()
        return (it.title, it.description, it.content)

    memory.distiller.rewrite = rewrite
    teach(bank, 20)
    distil = memory.distiller.distill

    def watched(**asked: Any) -> Any:
        found = distil(**asked)
        learnt.set()
        return found

    memory.distiller.distill = watched  # type: ignore[method-assign]
    memory.distiller.start(0.001)
    memory.distiller.start(0.001)
    assert [it.name for it in threading.enumerate()].count("ntmem-distiller") == 1
    assert learnt.wait(60)
    assert rewritten.is_set()
    assert {it.support for it in bank.patterns()} == {20}
    memory.distiller.stop()
    assert "ntmem-distiller" not in [it.name for it in threading.enumerate()]
    memory.distiller.stop()
    decide(bank, "buy", 1.0)
    learnt.clear()
    memory.distiller.start(0.001)
    assert learnt.wait(60)
    assert memory.distiller.error is None


def test_closing_ends_learning_in_the_background(clock: ntmem.SimulatedClock) -> None:
    with ntmem.open(clock=clock) as memory:
        distiller = memory.distiller
        distiller.start(0.001)
    assert "ntmem-distiller" not in [it.name for it in threading.enumerate()]
    assert distiller.error is None


def test_what_ends_learning_in_the_background_is_shown(memory: ntmem.MemorySystem) -> None:
    ended = threading.Event()

    def distil() -> Any:
        ended.set()
        raise StorageError("the disk is full")

    memory.distiller.distill = distil  # type: ignore[method-assign, assignment]
    memory.distiller.start(0.001)
    assert ended.wait(60)
    memory.distiller.stop()
    assert str(memory.distiller.error) == "the disk is full"
    del memory.distiller.distill
    memory.distiller.start(10.0)
    assert memory.distiller.error is None
    memory.distiller.stop()


# ---- what is refused ----


def test_what_cannot_be_asked(bank: ReasoningBank) -> None:
    teach(bank, 3)
    bank.distill()
    name = pattern(bank).id
    refused: list[tuple[Any, type[Exception], str]] = [
        (lambda: bank.recall([0.0, 0.0]), ValueError, "must not be all zero"),
        (lambda: bank.recall([1.0, math.nan]), ValueError, "finite numbers only"),
        (lambda: bank.recall([[1.0]]), ValueError, r"of shape \(1, 1\)"),
        (lambda: bank.recall([]), ValueError, r"of shape \(0,\)"),
        (lambda: bank.recall([True, False]), TypeError, "an array of numbers, was of bool"),
        (lambda: bank.recall(["a"]), TypeError, "an array of numbers"),
        (lambda: bank.recall(EAST, 0), ValueError, "k must be"),
        (lambda: bank.recall(EAST, 1001), ValueError, "k must be"),
        (lambda: bank.recall(EAST, 1.5), TypeError, "k must be an int"),  # type: ignore[arg-type]
        (lambda: bank.recall(EAST, min_similarity=1.1), ValueError, "min_similarity must be at most 1"),
        (lambda: bank.recall(EAST, min_support=-1), ValueError, "min_support"),
        (lambda: bank.recall(EAST, where={"$bad": 1}), ValueError, "bad"),
        (lambda: bank.recall(EAST, agent_id=5), TypeError, "agent_id must be a str"),  # type: ignore[arg-type]
        (lambda: bank.choose(EAST, ["a"], task=5), TypeError, "task must be a str"),  # type: ignore[arg-type]
        (lambda: [*bank.patterns(min_strength=math.nan)], ValueError, "min_strength must be finite"),
        (lambda: [*bank.patterns(where={"$bad": 1})], ValueError, "bad"),
        (lambda: bank.recall(EAST, trajectory_id="Z" * 26), KeyError, "there is no trajectory"),
        (lambda: bank.choose(EAST, []), ValueError, "at least one, each of them once"),
        (lambda: bank.choose(EAST, ["a", "a"]), ValueError, "each of them once"),
        (lambda: bank.choose(EAST, "buy"), TypeError, "a sequence of str, was one str"),
        (lambda: bank.choose(EAST, [1]), TypeError, "an action must be a str"),  # type: ignore[list-item]
        (lambda: bank.choose(EAST, ["a"], k=0), ValueError, "k must be"),
        (lambda: bank.choose(EAST, ["a"], trajectory_id="Z" * 26), KeyError, "there is no trajectory"),
        (lambda: bank.choose("text", ["a"]), TypeError, "text needs an embedder"),
        (lambda: bank.feedback(name, 1.1), ValueError, "reward must be at most 1"),
        (lambda: bank.feedback(name, math.nan), ValueError, "reward must be finite"),
        (lambda: bank.feedback(name, "good"), TypeError, "reward must be a number"),  # type: ignore[arg-type]
        (lambda: bank.feedback(name, 1, trajectory_id="Z" * 26), KeyError, "there is no trajectory"),
        (lambda: bank.feedback("buy", 1), ValueError, "pattern_id must be an id that a pattern has, was 'buy'"),
        (lambda: bank.feedback(name[:20] + ":", 1), ValueError, "pattern_id must be an id"),
        (lambda: bank.feedback(name[:20].upper() + "x:buy", 1), ValueError, "pattern_id must be an id"),
        (lambda: bank.feedback(1, 1), TypeError, "pattern_id must be a str"),  # type: ignore[arg-type]
        (lambda: bank.feedback(name[:20] + ":never", 1), KeyError, "there is no pattern"),
        (lambda: bank.feedback("0" * 20 + ":buy", 1), KeyError, "there is no pattern"),
        (lambda: bank.explain("Z" * 26), KeyError, "there is no trajectory"),
        (lambda: bank.distill(since="now"), TypeError, "since must be"),  # type: ignore[arg-type]
        (lambda: bank.distiller.start(0), ValueError, "every must be more than 0"),
        (lambda: bank.distiller.start("often"), TypeError, "every must be a number"),  # type: ignore[arg-type]
        (lambda: bank.distiller.start(1e300), ValueError, "every must be at most"),
        (lambda: bank.distiller.configure(min_trajectories=0), ValueError, "min_trajectories"),
        (lambda: bank.distiller.configure(similarity_threshold=0), ValueError, "similarity_threshold must be more"),
        (lambda: bank.distiller.configure(keeps=1.1), ValueError, "keeps must be at most 1"),
        (lambda: bank.distiller.configure(window=15), ValueError, "window"),
        (lambda: bank.distiller.configure(max_patterns=0), ValueError, "max_patterns"),
        (lambda: bank.distiller.configure(direction={"sell": "down"}), TypeError, "a direction must be a number"),
        (lambda: bank.distiller.configure(direction=["sell"]), TypeError, "direction must be a mapping"),
        (lambda: bank.distiller.configure(unknown=1), TypeError, "unknown"),
    ]
    before = [it.metadata for it in bank.patterns()]
    settings = bank.distiller.settings
    for ask, kind, words in refused:
        with pytest.raises(kind, match=words):
            ask()
    assert [it.metadata for it in bank.patterns()] == before
    assert bank.distiller.settings == settings
    bank.distiller.configure(window=20)
    bank.distiller.configure(keeps=0.9)
    assert (bank.distiller.settings.window, bank.distiller.settings.keeps) == (20, 0.9)


def test_what_is_damaged_is_said(bank: ReasoningBank, memory: ntmem.MemorySystem) -> None:
    teach(bank, 3)
    bank.distill()
    [name] = Kept(memory).live
    engine = memory._engine()
    whole = {
        (PATTERNS, f"k{name}".encode()): lambda: bank.recall(EAST),
        (DISTILLING, f"w{name}".encode()): bank.distill,
        (DISTILLING, b"h"): bank.distill,
    }
    decide(bank, "buy", 1.0)
    for (space, key), ask in whole.items():
        value = engine.get(space, key)
        for damaged, words in ((b"\xff" + value[1:], "has the format"), (value[: len(value) // 2], "cannot be read")):
            engine.commit([Change("put", space, key, damaged, own=True)])
            with pytest.raises(CorruptionError, match=words):
                ask()
        engine.commit([Change("put", space, key, value, own=True)])
    bank.distill()
    check_learnt(memory)
