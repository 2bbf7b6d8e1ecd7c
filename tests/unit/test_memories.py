"""Reasoning memories: recalled beside patterns, as of an instant, credited, and as agentic-flow recalls them."""

from __future__ import annotations

import math
import random
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import agentic
import numpy as np
import pytest

import ntmem
from ntmem.reasoningbank import ReasoningBank
from ntmem.tiers.guards import MEMORIES, Situations

pytestmark = pytest.mark.usefixtures("engine")

SECOND = 1_000_000_000
DAY = 86_400 * SECOND
START = int(datetime(2026, 5, 1, tzinfo=UTC).timestamp()) * SECOND
CREATED = "2026-03-17 00:00:00"  # 45 days before
EAST, NORTH, UP = [1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    agentic.make(tmp_path / "memory.db")
    return tmp_path / "memory.db"


def bring(bank: ReasoningBank, path: Path, number: int, where: list[float], **more: Any) -> str:
    """Let the bank have one more memory; return its id."""
    name = agentic.add(path, number, agentic.vector_of(*where), **({"created_at": CREATED} | more))
    bank.import_sqlite(path)
    return name


def learn(bank: ReasoningBank, where: list[float]) -> None:
    """Let there be patterns: who buys there earns."""
    for number in range(12):
        with bank.begin("a", "t") as it:
            it.add_observation(None, where)
            it.add_action("buy" if number % 2 else "hold")
        bank.resolve(it.id, 1.0 if number % 2 else 0.0)
    bank.distill()


# ---- recalling -------------------------------------------------------------------------------------------------------


def test_a_memory_is_a_pattern_without_an_action(bank: ReasoningBank, path: Path) -> None:
    failure = agentic.data_of("wait", outcome="Failure", task="task-9")
    name = bring(bank, path, 1, [3.0, 4.0, 0.0], data=failure, confidence=0.5)
    [it] = bank.recall(EAST)
    assert (it.id, it.action, it.pattern_type, it.trajectory_ids) == (name, "", "failure", ("task-9",))
    assert (it.title, it.description, it.content) == ("wait", "when wait", "do wait")
    assert (it.support, it.strength, it.confidence) == (0, 0.0, 0.5)
    assert math.isnan(it.outcome_mean)
    assert it.outcome_interval == (-math.inf, math.inf)
    assert it.similarity == pytest.approx(0.6)
    assert it.score == pytest.approx(0.65 * 0.6 + 0.15 * 0.5 + 0.20 * 0.5)  # 45 days are half of the recency
    assert it.centroid.tolist() == pytest.approx([0.6, 0.8, 0.0])
    assert (it.metadata["domain"], it.metadata["tags"], it.metadata["ts_last"]) == (
        "trading",
        ["a", "b"],
        START - 45 * DAY,
    )
    [whole] = bank.memories()
    assert whole.embedding is not None
    assert whole.embedding.tobytes() == agentic.vector_of(3.0, 4.0, 0.0)
    assert (whole.pattern_data, whole.evidence) == (failure, ("step 1", "step 2"))


def test_memories_stand_beside_patterns(bank: ReasoningBank, path: Path) -> None:
    learn(bank, EAST)
    near, far = bring(bank, path, 1, [1.0, 0.1, 0.0], confidence=0.9), bring(bank, path, 2, NORTH)
    found = bank.recall(EAST, 9)
    assert {it.action for it in found} == {"buy", "hold", ""}
    assert near in [it.id for it in found]
    assert far not in [it.id for it in found], "it is not similar"
    assert {it.id for it in bank.recall(EAST, 9, min_similarity=-1)} >= {near, far}
    assert "" not in {it.action for it in bank.recall(EAST, 9, min_support=1)}
    assert "" in {it.action for it in bank.recall(EAST, 9, min_support=0)}
    assert [it.id for it in bank.recall(EAST, 9, where={"domain": "trading"})] == [near]
    assert [it.id for it in bank.recall(EAST, 9, agent_id="agent-1")] == [near]
    assert {it.action for it in bank.recall(EAST, 9, agent_id="a")} == {"buy", "hold"}
    assert len(bank.recall(EAST, 2)) == 2
    assert bank.choose(EAST, ["buy", "hold"], seed=1).patterns[0].action


def test_memories_that_say_the_same_are_passed_over(bank: ReasoningBank, path: Path) -> None:
    """MMR is one of all: the second best of two that are one comes behind another that is worse by itself."""
    best, twin = bring(bank, path, 1, [0.94, 0.34, 0.0]), bring(bank, path, 2, [0.93, 0.36, 0.0])
    other = bring(bank, path, 3, [0.9, -0.43, 0.0])
    scores = {it.id: it.score for it in bank.recall(EAST, 3)}
    assert scores[best] > scores[twin] > scores[other]
    assert [it.id for it in bank.recall(EAST, 3)] == [best, other, twin]


def test_the_nearest_that_pass_are_found_among_many(bank: ReasoningBank, path: Path) -> None:
    chance = random.Random(3)
    for number in range(60):
        name = agentic.ulid(number)
        domain = "rare" if number == 59 else "usual"
        data = agentic.data_of(str(number), domain=domain)
        numbers = [1.0, chance.gauss(0, 0.1), 0.9 if number == 59 else chance.gauss(0, 0.1)]
        agentic.add(path, number, agentic.vector_of(*numbers), data=data, id=name)
    bank.import_sqlite(path)
    assert [it.title for it in bank.recall(EAST, 2, where={"domain": "rare"})] == ["59"]


def test_what_has_no_direction_or_another_dimension_is_not_recalled(bank: ReasoningBank, path: Path) -> None:
    bring(bank, path, 1, [0.0, 0.0, 0.0])
    four = bring(bank, path, 2, [1.0, 0.0, 0.0, 0.0])
    assert bank.recall(EAST, min_similarity=-1) == []
    assert [it.id for it in bank.recall([1.0, 0.0, 0.0, 0.0])] == [four]
    zero = bank.recall(EAST, 1, scoring="upstream")
    assert [it.similarity for it in zero] == [0.0]


def test_large_and_tiny_numbers_have_a_direction(bank: ReasoningBank, path: Path) -> None:
    largest = float(np.finfo(np.float32).max)
    bring(bank, path, 1, [largest, largest, 0.0])
    bring(bank, path, 2, [1e-45, 0.0, 1e-45])
    assert [round(it.similarity, 3) for it in bank.recall([1.0, 1.0, 1.0], 9)] == [0.816, 0.816]


# ---- time ------------------------------------------------------------------------------------------------------------


def test_nothing_is_known_before_it_was(bank: ReasoningBank, path: Path, clock: ntmem.SimulatedClock) -> None:
    name = bring(bank, path, 1, EAST, data=agentic.data_of("first"), confidence=0.8)
    clock.set(START + DAY)
    agentic.insert(path, "metrics_log", (1, "x", 1.0, "t"))
    assert bank.import_sqlite(path).unchanged == 1
    with_other(path, name, data=agentic.data_of("second"), confidence=0.4, vector=NORTH)
    report = bank.import_sqlite(path, known="created")  # what it says of its making does not change what was known
    assert report.counts == {"memories": 1}
    assert bank.recall(EAST, as_of=START - 1) == []
    [then] = bank.recall(EAST, as_of=START + DAY - 1)
    assert (then.title, then.confidence, then.similarity) == ("first", 0.8, 1.0)
    assert bank.recall(EAST) == []
    [now] = bank.recall(NORTH)
    assert (now.title, now.confidence, now.metadata["ts_known"]) == ("second", 0.4, START + DAY)
    assert bank.recall(NORTH, as_of=START + DAY - 1) == []
    assert [it.title for it in bank.memories(as_of=START)] == ["first"]
    assert [it.title for it in bank.recall(EAST, as_of=START, scoring="upstream")] == ["first"]
    assert bank.recall(EAST, as_of=START - 1, scoring="upstream") == []
    assert bank.recall(NORTH, as_of=ntmem.LATEST)[0].title == "second"


def with_other(path: Path, name: str, *, data: str, confidence: float, vector: list[float]) -> None:
    """Change a row, as its program would."""
    import sqlite3
    from contextlib import closing

    with closing(sqlite3.connect(path)) as database, database:
        database.execute("UPDATE patterns SET pattern_data = ?, confidence = ? WHERE id = ?", (data, confidence, name))
        numbers = (agentic.vector_of(*vector), name)
        database.execute("UPDATE pattern_embeddings SET vector = ? WHERE id = ?", numbers)


def test_known_since_it_was_made(bank: ReasoningBank, path: Path) -> None:
    agentic.add(path, 1, agentic.vector_of(*EAST), created_at=CREATED)
    agentic.add(path, 2, agentic.vector_of(*EAST), created_at="2026-04-01T00:00:00.250+02:00")
    bank.import_sqlite(path, known="created")
    assert bank.recall(EAST, 9, as_of=START - 45 * DAY - 1) == []
    assert len(bank.recall(EAST, 9, as_of=START - 45 * DAY)) == 1
    later = int(datetime(2026, 3, 31, 22, 0, 0, 250_000, UTC).timestamp() * 1000) * 1_000_000
    assert len(bank.recall(EAST, 9, as_of=later - 1)) == 1
    assert len(bank.recall(EAST, 9, as_of=later)) == 2
    assert bank.recall(EAST, 1, as_of=START - 45 * DAY)[0].score == pytest.approx(0.65 + 0.15 + 0.15)


def test_learning_from_the_past_is_as_it_was(bank: ReasoningBank, path: Path, clock: ntmem.SimulatedClock) -> None:
    """An import says nothing of when patterns are known."""
    clock.set(START + 10 * DAY)
    bring(bank, path, 1, NORTH)
    for number in range(6):
        it = ntmem.Trajectory("a", "t", ts_known=START)
        it.add_observation(None, EAST, ts_known=START)
        it.add_action("buy" if number % 2 else "hold", ts_known=START)
        it.add_outcome(float(number % 2), action_id=f"a{1}", ts_known=START + DAY)
        bank.trajectories.track(it)
    bank.distill(as_of=START + 2 * DAY)
    assert bank.recall(EAST, as_of=START + 2 * DAY)


# ---- credit ----------------------------------------------------------------------------------------------------------


def advised(bank: ReasoningBank, outcome: float | None) -> str:
    with bank.begin("b", "u") as it:
        assert bank.recall(EAST, 1, trajectory_id=it.id)
        it.add_observation(None, UP)
        it.add_action("buy")
    if outcome is not None:
        bank.resolve(it.id, outcome)
    return it.id


def test_outcomes_move_the_confidence_of_what_advised(
    bank: ReasoningBank, path: Path, memory: Any, clock: ntmem.SimulatedClock
) -> None:
    name = bring(bank, path, 1, EAST, confidence=0.75, usage_count=3)
    right = advised(bank, 1.0)
    [it] = bank.memories()
    assert (it.usage_count, it.last_used, it.confidence) == (4, "2026-05-01 00:00:00", 0.75)
    clock.set(START + SECOND)
    bank.distill()
    wrong, neither = advised(bank, -2.0), advised(bank, 0.0)
    bank.distill()
    bank.distill()
    [it] = bank.recall(EAST)
    assert it.confidence == pytest.approx(0.75 + 0.05 - 0.025)
    assert [it.metadata[each] for each in ("usage_count", "uses", "right", "wrong")] == [6, 3, 1, 1]
    assert not bank.feedback(name, 1, trajectory_id=right), "its outcome has said so"
    came = [bank.explain(each).patterns[0].was_right for each in (right, wrong, neither)]
    assert came == [True, False, None]
    used = bank.explain(right).patterns[0]
    assert used.pattern is not None
    assert (used.pattern_id, used.pattern.title, used.pattern.confidence) == (name, "t1", 0.75)
    assert "t1: score" in bank.explain(right).text
    assert bank.report(path.with_suffix(".html")).path.exists()
    assert memory.verify().ok


@pytest.mark.only("shared")
def test_uses_stop_where_sqlite_does(bank: ReasoningBank, path: Path, tmp_path: Path) -> None:
    bring(bank, path, 1, EAST, usage_count=2**63 - 1)
    advised(bank, None)
    bank.export_sqlite(tmp_path / "b.db")
    assert agentic.content(tmp_path / "b.db")["patterns"][0][4] == 2**63 - 1


def test_feedback(bank: ReasoningBank, path: Path, clock: ntmem.SimulatedClock) -> None:
    name = bring(bank, path, 1, EAST, confidence=0.5)
    decision = advised(bank, None)
    clock.set(START + SECOND)
    assert bank.feedback(name, 1, trajectory_id=decision)
    assert not bank.feedback(name, 1, trajectory_id=decision)
    bank.resolve(decision, -1.0)
    bank.distill()
    assert bank.recall(EAST)[0].confidence == pytest.approx(0.55)
    assert bank.recall(EAST, as_of=START)[0].confidence == 0.5
    for _ in range(30):
        bank.feedback(name, 1)
    assert bank.recall(EAST)[0].confidence == 1.0
    with pytest.raises(KeyError):
        bank.feedback(name, 1, trajectory_id="Z" * 26)
    with pytest.raises(ValueError, match="pattern_id must be an id"):
        bank.feedback("none", 1)


def test_who_is_wrong_again_and_again(bank: ReasoningBank, path: Path) -> None:
    name = bring(bank, path, 1, EAST)
    for number in range(8):
        assert len(bank.recall(EAST)) == 1, number
        bank.feedback(name, -1)
    assert bank.recall(EAST) == []
    assert bank.recall(EAST, scoring="upstream") == []
    assert bank.recall(EAST, with_quarantined=True)[0].metadata["quarantined"]
    for _ in range(3):
        bank.feedback(name, 1)
    assert len(bank.recall(EAST)) == 1, "seven of the last ten"


def test_use_is_kept_when_the_same_file_comes_again(bank: ReasoningBank, path: Path) -> None:
    name = bring(bank, path, 1, EAST, confidence=0.5, usage_count=1)
    advised(bank, 1.0)
    bank.distill()
    assert bank.import_sqlite(path).counts == {}
    assert [(it.usage_count, it.confidence) for it in bank.memories()] == [(2, pytest.approx(0.55))]
    with_other(path, name, data=agentic.data_of("new"), confidence=0.9, vector=EAST)
    assert bank.import_sqlite(path).counts == {"memories": 1}
    assert [(it.usage_count, it.confidence) for it in bank.memories()] == [(1, 0.9)], "what the file says now holds"


def test_the_past_goes_with_consolidation(
    bank: ReasoningBank, path: Path, clock: ntmem.SimulatedClock, memory: Any
) -> None:
    name = bring(bank, path, 1, EAST, confidence=0.5)
    for day in (1, 2, 91):
        clock.set(START + day * DAY)
        bank.feedback(name, 1)
    clock.set(START + 92 * DAY + 1)
    assert bank.consolidate().forgotten == 1  # that of the first day; that of the second was replaced yesterday
    assert bank.recall(EAST)[0].confidence == pytest.approx(0.65)
    assert bank.recall(EAST, as_of=START + 90 * DAY)[0].confidence == pytest.approx(0.6)
    assert memory.verify().ok


# ---- the namespaces --------------------------------------------------------------------------------------------------


def test_nobody_else_writes_there(memory: Any, bank: ReasoningBank, path: Path) -> None:
    bring(bank, path, 1, EAST)
    with pytest.raises(ntmem.NotOwner, match="belongs to the reasoning memories"):
        memory.put("ntmem/memories", "x", b"")
    with pytest.raises(ntmem.NotOwner):
        memory.vectors.add("ntmem/memories/3", "x", EAST)
    with pytest.raises(ntmem.NotOwner):
        memory.delete_namespace("ntmem")
    assert memory.vectors.count(Situations(3, MEMORIES)) == 1


@pytest.mark.only("shared")
def test_they_are_in_a_backup_and_named_by_an_export(tmp_path: Path, path: Path) -> None:
    agentic.varied(tmp_path / "varied.db")
    with ntmem.open(tmp_path / "s") as memory:
        memory.bank.import_sqlite(tmp_path / "varied.db")
        memory.bank.feedback(agentic.ulid(1), 1)
        memory.backup(tmp_path / "backup")
        left = memory.export(tmp_path / "all.jsonl").not_exported
        assert left == {"memories": 44, "interchange": 8, "vectors of memories": 41}
        before = [(it.id, it.confidence, it.pattern_data) for it in memory.bank.memories()]
        assert memory.verify().ok
    ntmem.restore(tmp_path / "backup", tmp_path / "again")
    with ntmem.open(tmp_path / "again") as again:
        assert [(it.id, it.confidence, it.pattern_data) for it in again.bank.memories()] == before
        assert again.bank.recall([1.0] * agentic.DIMENSION)
        assert ntmem.verify(tmp_path / "again").ok


def test_verify_sees_what_is_missing(memory: Any, bank: ReasoningBank, path: Path) -> None:
    name = bring(bank, path, 1, EAST)
    bank.feedback(name, 1)
    engine = memory._engine()
    [key] = [key for key, _ in engine.scan(MEMORIES, b"m", b"", None)]
    engine.drop(MEMORIES, [key.encode()])
    memory.flush()
    problems = " ".join(memory.verify().problems)
    assert "memories: there are 0, their head says 1" in problems
    assert "is of one that there is not" in problems


# ---- as agentic-flow does --------------------------------------------------------------------------------------------


def test_upstream_by_hand(bank: ReasoningBank, path: Path) -> None:
    """45 whole days: exp(-1), where 0.5 would be a half-life."""
    bring(bank, path, 1, [3.0, 4.0, 0.0], confidence=0.5, created_at="2026-03-16 00:00:01")  # not yet 46 days
    [it] = bank.recall(EAST, scoring="upstream")
    assert it.score == pytest.approx(0.65 * 0.6 + 0.15 * 0.36787944117144233 + 0.20 * 0.5, abs=1e-12)
    [ours] = bank.recall(EAST)
    assert ours.score == pytest.approx(0.65 * 0.6 + 0.15 * 0.5 ** (46 / 45) + 0.20 * 0.5, abs=1e-6)


def test_upstream_floor_order_and_diversity(bank: ReasoningBank, path: Path) -> None:
    low = bring(bank, path, 1, EAST, confidence=0.29)
    a = bring(bank, path, 2, NORTH, confidence=0.3)
    b = bring(bank, path, 3, EAST, confidence=0.8, usage_count=1)
    c = bring(bank, path, 4, EAST, confidence=0.8, usage_count=2)
    d = bring(bank, path, 5, UP, confidence=0.9)
    assert [it.id for it in bank.recall(EAST, 4, scoring="upstream")] == [d, c, b, a], "not sorted by score"
    assert [it.id for it in bank.recall(EAST, 99, scoring="upstream")] == [d, c, b, a]
    assert low in [it.id for it in bank.recall(EAST, 9)]
    # c is the best; b is like it, which counts 0.9; d has the better score of those that are not
    assert [it.id for it in bank.recall(EAST, 3, scoring="upstream")] == [c, d, a]
    assert [it.id for it in bank.recall(EAST, 1, scoring="upstream")] == [c]
    assert [it.id for it in bank.recall(EAST, 3, min_similarity=0.5, scoring="upstream")] == [c, b]
    with pytest.raises(ValueError, match="query must have numbers of float32"):
        bank.recall([1e39, 0.0, 0.0], scoring="upstream")
    with pytest.raises(ValueError, match="scoring must be 'ntmem' or 'upstream', was 'x'"):
        bank.recall(EAST, scoring="x")


def test_upstream_of_any_database(memory: Any, tmp_path: Path, clock: ntmem.SimulatedClock) -> None:
    """Whatever there is, ids, order and scores are those of SQL and Python's own arithmetic on what is exported."""
    bank = memory.bank
    agentic.varied(tmp_path / "a.db", 60)
    bank.import_sqlite(tmp_path / "a.db")
    learn(bank, [1.0, 0.5, 0.0, 0.0, 0.0, 0.2])
    advised_by = bank.begin("a")
    bank.recall([1.0] * 6, 5, trajectory_id=advised_by.id, scoring="upstream")
    chance = random.Random(5)
    for number, exported in enumerate(("b.db", "c.db")):
        clock.set(START + (1 + 37 * number) * DAY + 12_345_678_901)
        bank.export_sqlite(tmp_path / exported)
        now = datetime.fromtimestamp(clock.now() // SECOND, UTC).strftime("%Y-%m-%d %H:%M:%S") + ".345"
        for k in (1, 2, 5, 20, 1000):
            query = [chance.gauss(0, 1) for _ in range(6)]
            wanted = agentic.retrieved(tmp_path / exported, query, k, now)
            found = [(it.id, it.score) for it in bank.recall(query, k, scoring="upstream")]
            assert [score for _, score in found] == pytest.approx([score for _, score in wanted], abs=1e-12)
            known = {name for name, _ in wanted}
            assert [name for name, _ in found if name in known] == [n for n, _ in wanted if n in dict(found)]
            assert len({name for name, _ in wanted} - {name for name, _ in found}) <= 2, (
                "but patterns, whose ids differ"
            )
        by_domain = agentic.retrieved(tmp_path / exported, query, 7, now, "trading")
        assert [it.id for it in bank.recall(query, 7, where={"domain": "trading"}, scoring="upstream")] == [
            name for name, _ in by_domain
        ]
    assert bank.recall(query, 5, scoring="upstream") != bank.recall(query, 5)
