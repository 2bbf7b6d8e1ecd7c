"""Patterns that are recalled, chosen by, credited with what came of it, and explained."""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

import numpy as np
import pytest
from patterns import Kept, check_learnt
from taught import EAST, decide, pattern, teach, two_kinds

import ntmem
from ntmem.reasoningbank import ReasoningBank

pytestmark = pytest.mark.usefixtures("engine", "in_order")

SECOND = 1_000_000_000
DAY = 86_400 * SECOND
START = 1_700_000_000 * SECOND


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
