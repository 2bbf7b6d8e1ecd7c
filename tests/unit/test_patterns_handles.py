"""Patterns as others see them, learning in the background, and what is refused with which words."""

from __future__ import annotations

import math
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from patterns import Kept, check_learnt
from taught import EAST, NORTH, decide, pattern, teach

import ntmem
from ntmem import CorruptionError, DistilledPattern, ReadOnlyError, StorageError, VersionConflict
from ntmem.reasoningbank import ReasoningBank, distiller
from ntmem.records import Change
from ntmem.tiers.guards import DISTILLING, PATTERNS

pytestmark = pytest.mark.usefixtures("engine", "in_order")

SECOND = 1_000_000_000
DAY = 86_400 * SECOND
START = 1_700_000_000 * SECOND


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
