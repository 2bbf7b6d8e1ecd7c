"""Patterns: what is learnt of outcomes and of their corrections, and when."""

from __future__ import annotations

import math
from collections import Counter

import numpy as np
import pytest
from patterns import Kept, check_learnt, check_measures
from taught import EAST, NORTH, decide, pattern, teach

import ntmem
from ntmem.reasoningbank import ReasoningBank, distiller, learning

pytestmark = pytest.mark.usefixtures("engine", "in_order")

SECOND = 1_000_000_000
DAY = 86_400 * SECOND
START = 1_700_000_000 * SECOND


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
