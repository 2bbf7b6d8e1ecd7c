"""Patterns that are merged, divided, aged, let go, and put into other words."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from patterns import Kept, check_learnt, check_measures
from taught import EAST, NORTH, decide, pattern, teach, two_kinds

import ntmem
from ntmem import DistilledPattern
from ntmem.reasoningbank import ReasoningBank

pytestmark = pytest.mark.usefixtures("engine", "in_order")

SECOND = 1_000_000_000
DAY = 86_400 * SECOND
START = 1_700_000_000 * SECOND


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
