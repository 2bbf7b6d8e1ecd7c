"""Memories that are let go: seen as of before, with their past or without, and kept away from the next import."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import agentic
import pytest

import ntmem
from ntmem.reasoningbank import ReasoningBank
from ntmem.tiers.guards import INTERCHANGE, MEMORIES, Situations

pytestmark = pytest.mark.usefixtures("engine")

SECOND = 1_000_000_000
DAY = 86_400 * SECOND
START = int(datetime(2026, 5, 1, tzinfo=UTC).timestamp()) * SECOND
EAST, NORTH = [1.0, 0.0, 0.0], [0.0, 1.0, 0.0]
SECRET = "the secret lesson"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A database with the memories 1, in the east, and 2, in the north, and links between them."""
    path = tmp_path / "memory.db"
    agentic.make(path)
    agentic.add(path, 1, agentic.vector_of(*EAST), data=agentic.data_of(SECRET), confidence=0.5)
    agentic.add(path, 2, agentic.vector_of(*NORTH))
    agentic.insert(path, "pattern_links", (ONE, TWO, "entails", 1.0, "2026-03-03 00:00:00"))
    agentic.insert(path, "pattern_links", (TWO, TWO, "refines", 1.0, "2026-03-03 00:00:00"))
    return path


ONE, TWO = agentic.ulid(1), agentic.ulid(2)


def ids(bank: ReasoningBank, **options: Any) -> list[str]:
    return [it.id for it in bank.memories(**options)]


def stored(memory: Any, labels: tuple[str, ...] = MEMORIES) -> dict[str, bytes]:
    return dict(memory._engine().scan(labels, b"", b"", None))


def sound(memory: Any) -> bool:
    memory.flush()
    return bool(memory.verify().ok)


def changed(path: Path, **cells: Any) -> None:
    """Change the row of the first memory, as its program would."""
    import sqlite3
    from contextlib import closing

    with closing(sqlite3.connect(path)) as database, database:
        for column, value in cells.items():
            database.execute(f"UPDATE patterns SET {column} = ? WHERE id = ?", (value, ONE))


def test_it_is_gone_and_seen_as_of_before(
    memory: Any, bank: ReasoningBank, path: Path, tmp_path: Path, clock: ntmem.SimulatedClock
) -> None:
    bank.import_sqlite(path)
    clock.set(START + DAY)
    bank.feedback(ONE, 1)
    clock.set(START + 2 * DAY)
    assert bank.forget(ONE)
    assert not bank.forget(ONE)
    for scoring in ("ntmem", "upstream"):
        assert bank.recall(EAST, scoring=scoring, min_similarity=0.3) == []
        [it] = bank.recall(EAST, scoring=scoring, min_similarity=0.3, as_of=START + 2 * DAY - 1)
        assert (it.title, it.confidence) == (SECRET, pytest.approx(0.55))
        assert bank.recall(EAST, scoring=scoring, min_similarity=0.3, as_of=START)[0].confidence == 0.5
    assert ids(bank) == [TWO]
    assert ids(bank, as_of=START) == [ONE, TWO], "in the order in which they came"
    assert ids(bank, as_of=START - 1) == []
    bank.export_sqlite(tmp_path / "b.db")
    rows = agentic.content(tmp_path / "b.db")
    assert [row[0] for row in rows["patterns"]] == [row[0] for row in rows["pattern_embeddings"]] == [TWO]
    assert [row[:3] for row in rows["pattern_links"]] == [(TWO, TWO, "refines")]
    bank.export_jsonl(tmp_path / "b.jsonl")
    assert SECRET not in (tmp_path / "b.jsonl").read_text()
    assert memory.vectors.count(Situations(3, MEMORIES)) == 1
    assert sound(memory)
    with pytest.raises(ValueError, match="pattern_id must be an id"):
        bank.feedback(ONE, 1)


def test_what_it_advised_says_what_it_was(bank: ReasoningBank, path: Path, clock: ntmem.SimulatedClock) -> None:
    bank.import_sqlite(path)
    with bank.begin("a", "t") as it:
        bank.recall(EAST, 1, trajectory_id=it.id)
        it.add_action("buy")
    clock.set(START + DAY)
    bank.forget(ONE)
    bank.resolve(it.id, 1.0)
    bank.distill()
    used = bank.explain(it.id).patterns[0]
    assert used.pattern is not None
    assert (used.pattern.title, ids(bank)) == (SECRET, [TWO])
    bank.forget(ONE, past=True)
    assert bank.explain(it.id).patterns[0].pattern is None


def test_its_past_goes_with_it(memory: Any, bank: ReasoningBank, path: Path, clock: ntmem.SimulatedClock) -> None:
    bank.import_sqlite(path)
    for day, data in enumerate((SECRET + " 2", SECRET + " 3"), 1):
        clock.set(START + day * DAY)
        changed(path, pattern_data=agentic.data_of(data))
        bank.import_sqlite(path)
        bank.feedback(ONE, 1)
    clock.set(START + 3 * DAY)
    assert len([key for key in stored(memory) if key[0] in "pt"]) == 3
    assert bank.forget(ONE, past=True)
    found = stored(memory)
    assert sorted(key[0] for key in found) == ["g", "h", "m"]
    assert not any(SECRET.encode() in value or ONE.encode() in value for value in found.values())
    for day in range(4):
        assert ids(bank, as_of=START + day * DAY) == [TWO]
        assert bank.recall(EAST, as_of=START + day * DAY) == []
    assert not bank.forget(ONE, past=True)
    assert sound(memory)


def test_the_past_of_one_that_is_gone_goes(
    memory: Any, bank: ReasoningBank, path: Path, clock: ntmem.SimulatedClock
) -> None:
    bank.import_sqlite(path)
    clock.set(START + DAY)
    assert bank.forget(ONE)
    assert ids(bank, as_of=START) == [ONE, TWO]
    assert bank.forget(ONE, past=True)
    assert ids(bank, as_of=START) == [TWO]
    assert sound(memory)


def test_consolidation_lets_the_past_of_what_is_gone_go(
    memory: Any, bank: ReasoningBank, path: Path, clock: ntmem.SimulatedClock
) -> None:
    bank.import_sqlite(path)
    clock.set(START + DAY)
    bank.feedback(ONE, 1)
    clock.set(START + 2 * DAY)
    bank.forget(ONE)
    clock.set(START + 92 * DAY)
    assert bank.consolidate().forgotten == 0
    clock.set(START + 92 * DAY + 1)
    assert bank.consolidate().forgotten == 2, "what it said, and what its numbers were"
    assert [key[0] for key in stored(memory)] == ["g", "h", "m"]
    assert bank.import_sqlite(path).left_out == {"memories forgotten here": 1}, "still"


@pytest.mark.parametrize("past", [False, True])
def test_the_same_stays_away(memory: Any, bank: ReasoningBank, path: Path, past: bool) -> None:
    """Also with other numbers, as its program counts uses, and with another embedding."""
    bank.import_sqlite(path)
    bank.forget(ONE, past=past)
    changed(path, confidence=0.99, usage_count=7, last_used="2026-05-01 00:00:00")
    report = bank.import_sqlite(path)
    assert (report.counts, report.unchanged, report.left_out) == ({}, 3, {"memories forgotten here": 1})
    assert ids(bank) == [TWO]
    assert bank.recall(EAST) == []
    assert sound(memory)


def test_one_that_says_something_else_is_new(
    memory: Any, bank: ReasoningBank, path: Path, clock: ntmem.SimulatedClock
) -> None:
    bank.import_sqlite(path)
    bank.feedback(ONE, 1)
    bank.feedback(ONE, 1)
    clock.set(START + DAY)
    bank.forget(ONE)
    clock.set(START + 2 * DAY)
    changed(path, pattern_data=agentic.data_of("another"))
    report = bank.import_sqlite(path, known="created")  # it was gone yesterday, whenever it was made
    assert (report.counts, report.left_out) == ({"memories": 1}, {})
    clock.set(START + 3 * DAY)
    bank.feedback(ONE, 1)
    seen = {day: [(it.title, it.confidence) for it in bank.recall(EAST, as_of=START + day * DAY)] for day in range(4)}
    assert seen == {
        0: [(SECRET, pytest.approx(0.6))],
        1: [],
        2: [("another", 0.5)],
        3: [("another", pytest.approx(0.55))],
    }
    assert ids(bank, as_of=START + DAY) == [TWO]
    assert ids(bank) == [TWO, ONE]
    assert bank.recall(EAST)[0].metadata["uses"] == 1
    assert bank.import_sqlite(path).counts == {}
    assert sound(memory)
    assert bank.forget(ONE)
    assert bank.recall(EAST, as_of=START + 2 * DAY)[0].title == "another"
    assert sound(memory)


def test_when_all_are_gone_the_past_is_recalled_still(
    bank: ReasoningBank, path: Path, clock: ntmem.SimulatedClock
) -> None:
    bank.import_sqlite(path)
    clock.set(START + DAY)
    assert bank.forget(ONE)
    assert bank.forget(TWO)
    assert bank.recall(EAST) == []
    assert [it.id for it in bank.recall(EAST, as_of=START)] == [ONE]


def test_lines_of_json_go_with_their_items(memory: Any, bank: ReasoningBank, tmp_path: Path) -> None:
    """The other items stay; the embedding of a task goes with its last line."""
    items = [{"title": SECRET, "description": "d", "content": "c"}, {"title": "fine", "description": "", "content": ""}]
    more = [{"title": "later", "description": "", "content": ""}]
    lines = [
        {"task_id": "t1", "query": "q", "status": "success", "memory_items": items},
        {"task_id": "t1", "query": "r", "status": "success", "memory_items": more},
        {"id": "t1", "text": "q", "embedding": EAST},
    ]
    came = tmp_path / "a.jsonl"
    came.write_text("".join(json.dumps(it) + "\n" for it in lines))
    bank.import_jsonl(came)
    secret, fine, later = ids(bank)
    assert bank.forget(secret, past=True)
    for number in range(2):
        bank.export_jsonl(tmp_path / f"b{number}.jsonl")
        written = (tmp_path / f"b{number}.jsonl").read_text()
        assert SECRET not in written
        assert json.dumps(lines[1]) in written
        assert written.count(f'"{fine}"') == 3, "as a row, and its embedding"
        assert not any(
            SECRET.encode() in it for labels in (MEMORIES, INTERCHANGE) for it in stored(memory, labels).values()
        )
        assert {it.title for it in bank.recall(EAST, 9)} == {"fine", "later"}
        report = bank.import_jsonl(came)  # and again
        assert (report.counts, report.left_out) == ({}, {"memories forgotten here": 1})
    assert ids(bank) == [fine, later]
    assert bank.forget(later)
    assert stored(memory, INTERCHANGE) == {}
    assert sound(memory)


def test_items_of_a_line_that_is_gone_get_their_embedding_later(bank: ReasoningBank, tmp_path: Path) -> None:
    items = [{"title": each, "description": "", "content": ""} for each in (SECRET, "fine")]
    line = json.dumps({"task_id": "t", "status": "success", "memory_items": items})
    (tmp_path / "a.jsonl").write_text(line)
    bank.import_jsonl(tmp_path / "a.jsonl")
    secret, fine = ids(bank)
    bank.forget(secret)
    (tmp_path / "e.jsonl").write_text(json.dumps({"id": "t", "text": "t", "embedding": EAST}))
    bank.import_jsonl(tmp_path / "a.jsonl", embeddings=tmp_path / "e.jsonl")
    assert [it.id for it in bank.recall(EAST, 9)] == [fine]
    bank.export_jsonl(tmp_path / "b.jsonl")
    assert (tmp_path / "b.jsonl").read_text().count(f'"{fine}"') == 3


def test_who_was_killed_forgets_again(
    memory: Any, bank: ReasoningBank, path: Path, clock: ntmem.SimulatedClock, monkeypatch: Any
) -> None:
    from ntmem.reasoningbank import forgetting

    bank.import_sqlite(path)
    clock.set(START + DAY)
    with monkeypatch.context() as it:
        it.setattr(forgetting, "let_vectors_go", lambda *_: None)
        assert bank.forget(ONE)
    assert bank.recall(EAST) == []
    assert memory.vectors.count(Situations(3, MEMORIES)) == 2
    assert not bank.forget(ONE)
    assert memory.vectors.count(Situations(3, MEMORIES)) == 1


def test_what_has_come_back_meanwhile_is_found(memory: Any, bank: ReasoningBank, path: Path, monkeypatch: Any) -> None:
    bank.import_sqlite(path)
    changed(path, pattern_data=agentic.data_of("another"))
    delete = memory.vectors.delete

    def late(*arguments: Any) -> Any:
        bank.import_sqlite(path)
        return delete(*arguments)

    monkeypatch.setattr(type(memory.vectors), "delete", lambda self, *arguments: late(*arguments))
    assert bank.forget(ONE)
    assert [it.title for it in bank.recall(EAST)] == ["another"]


def test_verify_sees_what_is_not_so(memory: Any, bank: ReasoningBank, path: Path) -> None:
    bank.import_sqlite(path)
    kept = {key: value for key, value in stored(memory).items() if key[0] == "m"}
    bank.forget(ONE)
    engine = memory._engine()
    [gone] = [key for key in stored(memory) if key[0] == "g"]
    one = f"m{gone[1:]}"
    from ntmem.records import Change

    engine.commit([Change("put", MEMORIES, one.encode(), kept[one], own=True)])
    memory.flush()
    assert "was let go, and is there" in " ".join(memory.verify().problems)
    engine.drop(MEMORIES, [one.encode(), gone.encode()])
    memory.flush()
    assert "memories: 0 were let go, their head says 1" in " ".join(memory.verify().problems)


@pytest.mark.only("shared")
def test_what_is_no_memory(bank: ReasoningBank, path: Path, tmp_path: Path) -> None:
    assert not bank.forget("none")
    assert not bank.forget("none", past=True)
    with pytest.raises(ValueError, match="is that of a pattern"):
        bank.forget(f"{'0' * 20}:buy")
    with pytest.raises(TypeError, match="memory_id must be a str, was int"):
        bank.forget(1)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="past must be a bool"):
        bank.forget("none", past=1)  # type: ignore[arg-type]
    with ntmem.open(tmp_path / "s") as memory:
        memory.bank.import_sqlite(path)
    with ntmem.open(tmp_path / "s", read_only=True) as memory, pytest.raises(ntmem.ReadOnlyError):
        memory.bank.forget(ONE)
