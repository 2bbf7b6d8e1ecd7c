"""Consolidation of memories: one of two that are one, what contradicts each other, what is of no use."""

from __future__ import annotations

import json
import math
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import agentic
import pytest

import ntmem
from ntmem.reasoningbank import ReasoningBank
from ntmem.tiers.guards import MEMORIES, Situations

SECOND = 1_000_000_000
DAY = 86_400 * SECOND
START = int(datetime(2026, 5, 1, tzinfo=UTC).timestamp()) * SECOND
EAST = [1.0, 0.0, 0.0]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    agentic.make(tmp_path / "memory.db")
    return tmp_path / "memory.db"


def at(cosine: float, other: int = 1) -> list[float]:
    """Return what has this cosine to the east."""
    numbers = [cosine, 0.0, 0.0]
    numbers[other] = math.sqrt(1 - cosine**2)
    return numbers


def put(path: Path, number: int, where: list[float], outcome: str = "Success", **more: Any) -> str:
    said = {"data": agentic.data_of(f"t{number}", outcome=outcome), "created_at": "2026-04-01 00:00:00"}
    return agentic.add(path, number, agentic.vector_of(*where), **(said | more))


def ids(bank: ReasoningBank, **options: Any) -> list[str]:
    return [it.id for it in bank.memories(**options)]


def tidied(bank: ReasoningBank) -> tuple[int, int, int]:
    found = bank.consolidate()
    return found.duplicates, found.contradictions, found.memories_pruned


@pytest.mark.usefixtures("engine")
def test_two_that_are_one(memory: Any, bank: ReasoningBank, path: Path, clock: ntmem.SimulatedClock) -> None:
    less = put(path, 1, EAST, usage_count=2, confidence=0.9)
    more = put(path, 2, at(0.871), usage_count=3, confidence=0.5)
    failed = put(path, 3, EAST, "Failure")
    far = put(path, 4, at(0.869, other=2))
    bank.import_sqlite(path)
    bank.feedback(less, 1)
    clock.set(START + DAY)
    assert tidied(bank)[0] == 1
    assert ids(bank) == [more, failed, far]
    [it] = [it for it in bank.recall(EAST, 9) if it.id == more]
    assert (it.metadata["usage_count"], it.metadata["uses"], it.metadata["right"], it.confidence) == (5, 1, 1, 0.5)
    assert ids(bank, as_of=START) == [less, more, failed, far]
    assert {it.id: it.metadata["usage_count"] for it in bank.recall(EAST, 9, as_of=START)}[more] == 3
    assert memory.vectors.count(Situations(3, MEMORIES)) == 3
    head = memory.bank._shelf.state()
    assert tidied(bank)[0] == 0
    assert memory.bank._shelf.state() == head, "nothing to do, nothing written"
    report = bank.import_sqlite(path)  # which does not let it come and go for ever
    assert (report.counts, report.left_out) == ({}, {"memories forgotten here": 1})
    assert tidied(bank)[0] == 0
    memory.flush()
    assert memory.verify().ok


def test_who_stays(bank: ReasoningBank, path: Path) -> None:
    """More uses, then more confidence, then the earlier; of each two, one is to stay."""
    put(path, 6, [0.0, 0.0, 1.0, 0.0])
    stay = [
        put(path, 1, [1.0, 0.0, 0.0, 0.0], usage_count=1, confidence=0.3),
        put(path, 3, [0.0, 1.0, 0.0, 0.0], confidence=0.8),
        put(path, 5, [0.0, 0.0, 1.0, 0.0], created_at="2026-03-31 23:59:59"),
        put(path, 7, [0.0, 0.0, 0.0, 1.0]),
    ]
    put(path, 2, [1.0, 0.0, 0.0, 0.0], confidence=0.9)
    put(path, 4, [0.0, 1.0, 0.0, 0.0], created_at="2026-01-01 00:00:00")
    put(path, 8, [0.0, 0.0, 0.0, 1.0])
    bank.import_sqlite(path)
    assert tidied(bank) == (4, 0, 0)
    assert ids(bank) == stay


def test_many_that_are_one(bank: ReasoningBank, path: Path) -> None:
    for number in range(40):
        put(path, number, EAST, usage_count=number)
    bank.import_sqlite(path)
    assert tidied(bank)[0] == 39
    [it] = bank.memories()
    assert it.usage_count == sum(range(40))


def test_what_is_not_compared(bank: ReasoningBank, path: Path, tmp_path: Path) -> None:
    """What does not say what came of it, other types and dimensions, items of one line of JSON, no direction."""
    put(path, 1, EAST, model="m", data=agentic.data_of("a", outcome=""))
    put(path, 2, EAST, model="m", data=agentic.data_of("b", outcome=""))
    put(path, 3, EAST, data=agentic.data_of("c", outcome=""))  # its model says success
    put(path, 4, [1.0, 0.0, 0.0, 0.0])
    put(path, 7, [0.869, math.sqrt(1 - 0.869**2), 0.0, 0.0])  # not similar enough
    put(path, 5, [0.0, 0.0, 0.0])
    put(path, 6, [0.0, 0.0, 0.0])
    agentic.insert(path, "patterns", ("o", "other", agentic.data_of(), 0.1, 0, "2020-01-01 00:00:00", None))
    vector = (agentic.vector_of(*EAST), "2020-01-01 00:00:00")
    agentic.insert(path, "pattern_embeddings", ("o", "distill-success", 3, *vector))
    bank.import_sqlite(path)
    items = [{"title": each, "description": "", "content": ""} for each in "xy"]
    lines = [{"task_id": "t", "status": "success", "memory_items": items}, {"id": "t", "text": "t", "embedding": EAST}]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(it) + "\n" for it in lines))
    bank.import_jsonl(tmp_path / "a.jsonl")
    before = ids(bank)
    assert len(before) == 10
    assert tidied(bank) == (0, 0, 0)
    assert ids(bank) == before


@pytest.mark.usefixtures("engine")
def test_what_contradicts(
    memory: Any, bank: ReasoningBank, path: Path, tmp_path: Path, clock: ntmem.SimulatedClock
) -> None:
    good, bad = put(path, 1, EAST), put(path, 2, at(0.61), "failure")
    put(path, 3, at(0.59, other=2), "Failure")
    put(path, 4, [0.7, -math.sqrt(0.51), 0.0])  # similar, and as good
    agentic.insert(path, "pattern_links", (good, bad, "entails", 0.5, "2026-03-03 00:00:00"))
    bank.import_sqlite(path)
    clock.set(START + DAY)
    assert tidied(bank) == (0, 2, 0)
    against = {it.id: it.metadata["contradicts"] for it in bank.recall(EAST, 9)}
    assert (against[good], against[bad], len(against)) == ([bad], [good], 4)
    assert not any(it.metadata["contradicts"] for it in bank.recall(EAST, 9, as_of=START))
    state = memory.bank._shelf.state()
    assert tidied(bank) == (0, 2, 0)
    assert memory.bank._shelf.state() == state
    bank.export_sqlite(tmp_path / "b.db")
    links = {row[:3]: row[3] for row in agentic.content(tmp_path / "b.db")["pattern_links"]}
    assert links == {
        (good, bad, "entails"): 0.5,
        (good, bad, "contradicts"): pytest.approx(0.61),
        (bad, good, "contradicts"): pytest.approx(0.61),
    }
    agentic.insert(tmp_path / "b.db", "pattern_links", (bad, good, "refines", 1.0, "2026-03-03 00:00:00"))
    report = bank.import_sqlite(tmp_path / "b.db")
    assert (report.counts, report.left_out) == ({"pattern_links": 1}, {"pattern_links of this store": 2})
    assert bank.import_sqlite(path).counts == {}
    bank.forget(bad)
    bank.export_sqlite(tmp_path / "c.db")
    assert agentic.content(tmp_path / "c.db")["pattern_links"] == []
    assert tidied(bank) == (0, 0, 0)
    assert bank.recall(EAST)[0].metadata["contradicts"] == []
    memory.flush()
    assert memory.verify().ok


def test_links_that_came_stay_as_they_came(bank: ReasoningBank, path: Path, tmp_path: Path) -> None:
    good, bad = put(path, 1, EAST), put(path, 2, at(0.7), "Failure")
    came = (good, bad, "contradicts", 0.123, "2026-03-03 00:00:00")
    agentic.insert(path, "pattern_links", came)
    bank.import_sqlite(path)
    assert tidied(bank) == (0, 2, 0)
    bank.export_sqlite(tmp_path / "b.db")
    rows = agentic.content(tmp_path / "b.db")["pattern_links"]
    assert (rows[0], [row[:2] for row in rows]) == (came, [(good, bad), (bad, good)])
    report = bank.import_sqlite(path)
    assert (report.counts, report.left_out) == ({}, {})


def test_what_is_of_no_use(memory: Any, bank: ReasoningBank, path: Path, clock: ntmem.SimulatedClock) -> None:
    old = {"confidence": 0.29, "created_at": "2026-01-01 00:00:00"}
    where = [[float(number == place) for place in range(5)] for number in range(5)]
    names = [
        put(path, number, where[number], **(old | more))
        for number, more in enumerate(
            (
                {},
                {"confidence": 0.30},
                {"usage_count": 1},
                {"created_at": "2026-01-02 00:00:00"},
                {},
            )
        )
    ]
    put(path, 9, [1.0, 0.0], **old)
    bank.import_sqlite(path)
    bank.feedback(names[4], -1)
    clock.set(int(datetime(2026, 6, 30, tzinfo=UTC).timestamp()) * SECOND)
    assert tidied(bank) == (0, 0, 0)
    clock.set(clock.now() + 1)
    assert tidied(bank) == (0, 0, 2)
    assert ids(bank) == names[1:]
    assert [memory.vectors.count(Situations(each, MEMORIES)) for each in (5, 2)] == [4, 0]
    assert tidied(bank) == (0, 0, 0)
    assert bank.import_sqlite(path).left_out == {"memories forgotten here": 2}
    assert len(bank.recall(where[0], min_similarity=0.9, as_of=START)) == 1


def test_who_was_killed_goes_on(memory: Any, bank: ReasoningBank, path: Path, monkeypatch: Any) -> None:
    from ntmem.reasoningbank import tidying

    for number in range(6):
        put(path, number, EAST, usage_count=1)
    bank.import_sqlite(path)
    done = 0

    def die(*_: Any) -> None:
        nonlocal done
        done += 1
        if done == 3:
            raise KeyboardInterrupt

    with monkeypatch.context() as it, pytest.raises(KeyboardInterrupt):
        it.setattr(tidying, "let_vectors_go", die)
        bank.consolidate()
    left = len(ids(bank))
    assert 1 < left < 6
    assert sum(it.usage_count for it in bank.memories()) == 6
    assert tidied(bank)[0] == left - 1
    assert [it.usage_count for it in bank.memories()] == [6]
    assert memory.vectors.count(Situations(3, MEMORIES)) == 1


def test_what_is_being_imported_is_let_alone(memory: Any, bank: ReasoningBank, path: Path) -> None:
    """It has a vector before it has a record."""
    put(path, 1, EAST)
    bank.import_sqlite(path)
    memory.vectors.add(Situations(3, MEMORIES), "0" * 32, EAST)
    assert tidied(bank) == (0, 0, 0)
    assert memory.vectors.count(Situations(3, MEMORIES)) == 2


def test_upkeep_leaves_memories_as_they_came(tmp_path: Path, path: Path) -> None:
    """What was imported is tidied up when somebody asks for it, not in the background."""
    with ntmem.open(tmp_path / "s") as memory:
        names = [put(path, number, EAST) for number in range(2)]
        memory.bank.import_sqlite(path)
        with memory.bank.begin("agent_1", "breakout") as it:
            it.add_observation({}, EAST)
            it.add_action("buy")
            it.add_outcome(1.0)
        memory.bank.distill()
        assert memory.upkeep().consolidated
        assert memory.bank.consolidate(memories=False).duplicates == 0
        assert ids(memory.bank) == names
        assert memory.bank.consolidate().duplicates == 1
