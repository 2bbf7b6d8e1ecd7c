"""The bank to and from agentic-flow's SQLite and the paper's JSONL: bit for bit, again without harm, damaged or not."""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
import struct
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import agentic
import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest

import ntmem
from ntmem import SerializationError, StorageError
from ntmem.reasoningbank.jsonlines import items_of

pytestmark = pytest.mark.usefixtures("engine")

SECOND = 1_000_000_000
START = int(datetime(2026, 5, 1, tzinfo=UTC).timestamp()) * SECOND
EAST = [1.0, 0.0, 0.0]
once = pytest.mark.only("shared")


def learnt(**more: Any) -> Any:
    """Return a store with patterns that contradict each other's, trajectories, verdicts."""
    memory = ntmem.open(clock=ntmem.SimulatedClock(START), **more)
    bank = memory.bank
    for number in range(16):
        with bank.begin("agent_1", "breakout") as it:
            it.add_observation({"odd": float("nan"), "raw": b"\xff", 3: [1, None]}, EAST)
            it.add_action("buy" if number % 2 else "hold", {"quantity": number}, reference=100.0, horizon=60)
        bank.resolve(it.id, 101.0 + number / 100 if number % 2 else 100.0)
        verdict = [*ntmem.Verdict][number % 4]
        bank.judge(it.id, judge=lambda case, verdict=verdict: verdict)
    bank.distill()
    return memory


def lines(path: Path) -> list[Any]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def write(path: Path, *rows: Any) -> Path:
    path.write_text("".join((it if isinstance(it, str) else json.dumps(it)) + "\n" for it in rows))
    return path


# ---- SQLite ----------------------------------------------------------------------------------------------------------


def test_what_came_goes_as_it_came(tmp_path: Path) -> None:
    """Row for row and vector for vector, through a second store as well."""
    agentic.varied(tmp_path / "0.db")
    before = agentic.content(tmp_path / "0.db")
    for number in range(2):
        with ntmem.open(tmp_path / f"store{number}") as memory:
            bank = memory.bank
            report = bank.import_sqlite(tmp_path / f"{number}.db")
            assert report.counts == {
                **{"memories": 44, "pattern_links": 2, "task_trajectories": 2},
                **{"matts_runs": 1, "consolidation_runs": 1, "metrics_log": 2},
            }
            assert (report.unchanged, report.left_out, report.ignored, report.skipped) == (0, {}, (), ())
            again = bank.import_sqlite(tmp_path / f"{number}.db")
            assert (again.counts, again.unchanged) == ({}, 52)
            exported = bank.export_sqlite(tmp_path / f"{number + 1}.db")
            assert exported.counts == report.counts
            assert exported.bytes == (tmp_path / f"{number + 1}.db").stat().st_size
            assert bank.import_sqlite(tmp_path / f"{number + 1}.db").unchanged == 52, "what was exported is there"
        assert agentic.content(tmp_path / f"{number + 1}.db") == before
        assert agentic.schema(tmp_path / f"{number + 1}.db") == agentic.schema(tmp_path / "0.db")
    assert sorted(path.name for path in tmp_path.glob("*.db*")) == ["0.db", "1.db", "2.db"]


def test_what_a_bank_has_learnt_itself(tmp_path: Path) -> None:
    with learnt() as memory:
        bank = memory.bank
        report = bank.export_sqlite(tmp_path / "a.db")
        assert report.counts == {"patterns": 2, "task_trajectories": 16}
        patterns = {it.id: it for it in bank.patterns()}
        found = agentic.content(tmp_path / "a.db")
        for row, (_, model, dims, vector, _) in zip(found["patterns"], found["pattern_embeddings"], strict=True):
            name, kind, data, confidence, uses, created, _ = row
            said = json.loads(data)
            it = patterns[said["ntmem"]["pattern"]]
            assert (kind, len(name), created, uses) == ("reasoning_memory", 26, "2026-05-01 00:00:00", 0)
            assert [said[each] for each in ("title", "description", "content")] == [
                it.title,
                it.description,
                it.content,
            ]
            assert (said["domain"], said["tags"], said["confidence"]) == ("breakout", [it.action], confidence)
            assert said["source"]["evidence"] == list(it.trajectory_ids)
            assert said["created_at"] == "2026-05-01T00:00:00.000Z"
            assert model == f"distill-{it.pattern_type}"
            assert (dims, vector) == (3, it.centroid.astype("<f4").tobytes())
            for each in ("support", "strength", "outcome_mean", "metadata"):
                assert said["ntmem"][each] == getattr(it, each)
            assert tuple(said["ntmem"]["outcome_interval"]) == it.outcome_interval
        judged = {(row[6], row[7] is None, row[8] is None) for row in found["task_trajectories"]}
        assert judged == {("Success", False, False), ("Failure", False, False), (None, True, True)}
        row = found["task_trajectories"][0]
        place = json.loads(row[3])["steps"][2]["parameters"]["quantity"]
        assert row[0] == memory.trajectories.get(row[0]).id
        steps = json.loads(row[3])["steps"]
        assert [it["type"] for it in steps] == ["begin", "observation", "action", "complete", "outcome", "verdict"]
        assert steps[1]["data"] == {"odd": "nan", "raw": "b'\\xff'", "3": [1, None]}
        assert steps[1]["embedding"] == EAST
        assert (steps[2]["parameters"], steps[2]["horizon"]) == ({"quantity": place}, 60.0)
        assert (row[1], row[2], row[4]) == ("agent_1", "breakout", "2026-05-01T00:00:00.000000000Z")

        assert bank.import_sqlite(tmp_path / "a.db").left_out == {
            **{"patterns of this store": 2, "task_trajectories of this store": 16}
        }
        assert [*bank.memories()] == []
        with ntmem.open(tmp_path / "other", clock=ntmem.SimulatedClock(START)) as other:
            taken = other.bank.import_sqlite(tmp_path / "a.db")
            assert taken.counts == {"memories": 2, "task_trajectories": 16}
            assert {it.title for it in other.bank.recall(EAST, 9)} == {it.title for it in patterns.values()}
            other.bank.export_sqlite(tmp_path / "b.db")
            assert other.bank.import_sqlite(tmp_path / "b.db").counts == {}
        assert {t: sorted(rows) for t, rows in agentic.content(tmp_path / "b.db").items()} == {
            t: sorted(rows) for t, rows in found.items()
        }
        assert bank.import_sqlite(tmp_path / "b.db").counts == {}, "they come home"


@once
def test_contradictions_are_links(tmp_path: Path) -> None:
    from ntmem.reasoningbank.shelf import copied

    with learnt() as memory:
        shelf = memory.bank.distiller.shelf
        update = shelf.update()
        [old] = shelf.all(2**63 - 1)
        new = copied(old)
        buy, hold = (next(it for it in new.cells if it.action == action) for action in ("buy", "hold"))
        buy.contradicts = [f"{new.id}:hold", f"{'0' * 20}:gone"]
        update.cluster(new, old, None)
        shelf.commit(update)
        memory.bank.export_sqlite(tmp_path / "a.db")
        found = agentic.content(tmp_path / "a.db")
        ids = {json.loads(row[2])["ntmem"]["action"]: row[0] for row in found["patterns"]}
        assert [row[:4] for row in found["pattern_links"]] == [(ids["buy"], ids["hold"], "contradicts", 1.0)]
        assert hold.contradicts == []
        report = memory.bank.import_sqlite(tmp_path / "a.db")
        assert report.left_out["pattern_links of this store"] == 1


@once
def test_an_export_is_whole_or_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with learnt() as memory:
        memory.bank.export_sqlite(tmp_path / "a.db")
        before = (tmp_path / "a.db").read_bytes()
        for export in (memory.bank.export_sqlite, memory.bank.export_jsonl):
            with pytest.raises(StorageError, match=r"there is .*a\.db already"):
                export(tmp_path / "a.db")
            with pytest.raises(StorageError, match="cannot write"):
                export(tmp_path / "missing" / "b.db")
        with pytest.raises(StorageError, match="already"):
            memory.bank.export_jsonl(tmp_path / "x.jsonl", embeddings=tmp_path / "a.db")
        monkeypatch.setattr("ntmem.reasoningbank.native.cells_of", lambda it: 1 / 0)
        monkeypatch.setattr("ntmem.reasoningbank.native.status_of", lambda it: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            memory.bank.export_sqlite(tmp_path / "b.db")
        with pytest.raises(ZeroDivisionError):
            memory.bank.export_jsonl(tmp_path / "b.jsonl", embeddings=tmp_path / "e.jsonl")
        assert [it.name for it in tmp_path.iterdir()] == ["a.db"]
        assert (tmp_path / "a.db").read_bytes() == before
        monkeypatch.setattr("ntmem.reasoningbank.native.cells_of", lambda it: (tmp_path / "b.db").write_text("mine"))
        monkeypatch.setattr("ntmem.reasoningbank.sqliteout._insert", lambda *of: 1)
        with pytest.raises(StorageError, match="somebody else made"):
            memory.bank.export_sqlite(tmp_path / "b.db")
        assert (tmp_path / "b.db").read_text() == "mine"


# ---- foreign databases -----------------------------------------------------------------------------------------------


@once
def test_an_older_schema_and_tables_of_others(tmp_path: Path) -> None:
    """What is missing takes the schema's default; what the schema does not have is named."""
    old = """
      CREATE TABLE patterns (id TEXT PRIMARY KEY, type TEXT, pattern_data TEXT, confidence REAL, extra TEXT);
      CREATE TABLE task_trajectories (task_id TEXT PRIMARY KEY, agent_id TEXT, query TEXT, trajectory_json TEXT);
      CREATE TABLE memory_entries (id INTEGER PRIMARY KEY, value TEXT);
      CREATE VIEW metrics_log AS SELECT 1 AS id;
    """
    agentic.make(tmp_path / "a.db", old)
    data = agentic.data_of("old")
    agentic.insert(tmp_path / "a.db", "patterns", ("not a ULID", "reasoning_memory", data, None, "x"))
    agentic.insert(tmp_path / "a.db", "task_trajectories", ("t", "a", "q", "{}"))
    with ntmem.open(clock=ntmem.SimulatedClock(START)) as memory:
        report = memory.bank.import_sqlite(tmp_path / "a.db")
        assert report.counts == {"memories": 1, "task_trajectories": 1}
        assert report.ignored == ("memory_entries", "metrics_log", "patterns.extra")
        [it] = memory.bank.memories()
        assert (it.id, it.confidence, it.usage_count, it.created_at, it.embedding) == (
            "not a ULID",
            0.5,
            0,
            START,
            None,
        )
        memory.bank.export_sqlite(tmp_path / "b.db")
        found = agentic.content(tmp_path / "b.db")
        now = "2026-05-01 00:00:00"
        assert found["patterns"] == [("not a ULID", "reasoning_memory", data, 0.5, 0, now, None)]
        assert found["task_trajectories"] == [("t", "a", "q", "{}", *[None] * 6, now)]
        assert memory.bank.import_sqlite(tmp_path / "b.db").counts == {"task_trajectories": 1}  # it has a time now
        assert memory.bank.import_sqlite(tmp_path / "a.db").counts == {"task_trajectories": 1}


@once
def test_tables_without_keys_without_rowids_and_orphans(tmp_path: Path) -> None:
    script = agentic.DDL.replace("last_used TEXT);", "last_used TEXT) WITHOUT ROWID;")
    agentic.make(tmp_path / "a.db", script)
    agentic.add(tmp_path / "a.db", 1, agentic.vector_of(*EAST))
    agentic.insert(tmp_path / "a.db", "pattern_embeddings", ("nobody", "m", 1, b"odd", "t"))
    with ntmem.open() as memory:
        assert memory.bank.import_sqlite(tmp_path / "a.db").counts == {"memories": 1, "pattern_embeddings": 1}
        memory.bank.export_sqlite(tmp_path / "b.db")
        assert ("nobody", "m", 1, b"odd", "t") in agentic.content(tmp_path / "b.db")["pattern_embeddings"]


@once
def test_a_database_that_is_in_use(tmp_path: Path) -> None:
    """Its WAL is read, its writer is not held up, and it stays as it is."""
    agentic.make(tmp_path / "a.db", wal=True)
    with closing(sqlite3.connect(tmp_path / "a.db", isolation_level=None)) as writer:
        writer.execute("INSERT INTO metrics_log VALUES (1, 'x', 1.0, 't')")
        assert (tmp_path / "a.db-wal").stat().st_size
        writer.execute("BEGIN IMMEDIATE")
        writer.execute("INSERT INTO metrics_log VALUES (2, 'x', 1.0, 't')")
        with ntmem.open() as memory:
            assert memory.bank.import_sqlite(tmp_path / "a.db").counts == {"metrics_log": 1}
        writer.execute("COMMIT")
    assert len(agentic.content(tmp_path / "a.db")["metrics_log"]) == 2


BAD = {
    "no id": ("patterns", (None, "reasoning_memory", "{}", 0.5, 0, "2026-01-01", None), "id is NULL"),
    "an id of no text": ("patterns", (b"\x01", "x", "{}", 0.5, 0, "2026-01-01", None), "id should be TEXT, is 1 bytes"),
    "an empty id": ("patterns", ("", "x", "{}", 0.5, 0, "2026-01-01", None), "an id has 1 to 255 bytes"),
    "an id like a pattern's": ("patterns", ("0" * 20 + ":buy", "x", "{}", 0.5, 0, "2026-01-01", None), "an id has 1"),
    "no data": ("patterns", ("b", "reasoning_memory", None, 0.5, 0, "2026-01-01", None), "pattern_data is NULL"),
    "no JSON": ("patterns", ("b", "reasoning_memory", "{title:", 0.5, 0, "2026-01-01", None), "pattern_data is not"),
    "a list": ("patterns", ("b", "reasoning_memory", "[]", 0.5, 0, "2026-01-01", None), "pattern_data is not"),
    "a title of no text": ("patterns", ("b", "reasoning_memory", '{"title": 3}', 0.5, 0, "2026-01-01", None), "title"),
    "a confidence of text": ("patterns", ("b", "x", "{}", "high", 0, "2026-01-01", None), "confidence should be REAL"),
    "infinity": ("patterns", ("b", "x", "{}", 9e999, 0, "2026-01-01", None), "confidence must be finite"),
    "half a use": ("patterns", ("b", "x", "{}", 0.5, 0.5, "2026-01-01", None), "usage_count must be a whole"),
    "no time": ("patterns", ("b", "x", "{}", 0.5, 0, "yesterday", None), "created_at is no time"),
    "long ago": ("patterns", ("b", "x", "{}", 0.5, 0, "1900-01-01", None), "created_at is no time"),
    "a short vector": ("pattern_embeddings", ("a", "m", 3, b"\0" * 8, "t"), "dims is 3.*and vector has 8 bytes"),
    "NaN": ("pattern_embeddings", ("a", "m", 1, struct.pack("<f", float("nan")), "t"), "vector has NaN or infinity"),
    "infinite": ("pattern_embeddings", ("a", "m", 1, struct.pack("<f", -float("inf")), "t"), "NaN or infinity"),
    "a vector of text": ("pattern_embeddings", ("a", "m", 1, "four", "t"), "vector should be BLOB, is 'four'"),
    "no model": ("pattern_embeddings", ("a", None, 0, b"", "t"), "model is NULL"),
    "no query": ("task_trajectories", ("b", "a", None, "{}", *[None] * 7), "query is NULL"),
    "a link to nowhere": ("pattern_links", ("a", None, "entails", 1.0, "t"), "dst_id is NULL"),
}


@once
@pytest.mark.parametrize("case", BAD)
def test_what_cannot_be_right(tmp_path: Path, case: str) -> None:
    """It is named, and nothing is written; or it alone is left out."""
    table, row, complaint = BAD[case]
    loose = agentic.DDL.replace("NOT NULL", "").replace("PRIMARY KEY(src_id, dst_id, relation),", "")
    agentic.make(tmp_path / "a.db", loose)
    good = ("a", "reasoning_memory", agentic.data_of(), 0.5, 0, "2026-01-01", None)
    agentic.insert(tmp_path / "a.db", "patterns", good)
    agentic.insert(tmp_path / "a.db", "metrics_log", (1, "x", 1.0, "t"))
    agentic.insert(tmp_path / "a.db", table, row)
    with ntmem.open() as memory:
        with pytest.raises(SerializationError, match=f"{table} .*{complaint}.*on_error='skip'") as raised:
            memory.bank.import_sqlite(tmp_path / "a.db")
        assert "nothing of it was" in str(raised.value)
        assert [*memory.bank.memories()] == []
        report = memory.bank.import_sqlite(tmp_path / "a.db", on_error="skip")
        assert len(report.skipped) == 1
        assert report.counts == {"memories": table != "pattern_embeddings", "metrics_log": 1} or table not in (
            "patterns",
            "pattern_links",
            "task_trajectories",
        )
        assert memory.verify().ok


@once
def test_text_that_is_no_utf8_and_keys_that_are_there_twice(tmp_path: Path) -> None:
    agentic.make(
        tmp_path / "a.db",
        agentic.DDL.replace("PRIMARY KEY", "")
        .replace(", (src_id, dst_id, relation)", "")
        .replace("AUTOINCREMENT", "")
        .replace("(src_id, dst_id, relation),", ""),
    )
    with closing(sqlite3.connect(tmp_path / "a.db")) as database, database:
        database.execute("INSERT INTO patterns VALUES ('x', 'y', CAST(X'ff' AS TEXT), 0.5, 0, '2026-01-01', NULL)")
    for _ in range(2):
        agentic.insert(tmp_path / "a.db", "patterns", ("twice", "t", "{}", 0.5, 0, "2026-01-01", None))
        agentic.insert(tmp_path / "a.db", "matts_runs", ("run", "t", "m", 1, "s", None, "t"))
    with ntmem.open() as memory:
        report = memory.bank.import_sqlite(tmp_path / "a.db", on_error="skip")
        assert report.counts == {"memories": 1, "matts_runs": 1}
        assert [it.partition(": ")[2] for it in report.skipped] == [
            "pattern_data is no UTF-8",
            "there is another row, or embedding, of this id",
            "there is another row of this key",
        ]


@once
def test_files_that_are_no_such_database(tmp_path: Path) -> None:
    agentic.varied(tmp_path / "a.db")
    whole = (tmp_path / "a.db").read_bytes()
    with ntmem.open(tmp_path / "s") as memory:
        bank = memory.bank
        with pytest.raises(StorageError, match="there is no file"):
            bank.import_sqlite(tmp_path / "none.db")
        assert not (tmp_path / "none.db").exists()
        with pytest.raises(StorageError, match="there is no file"):
            bank.import_sqlite(tmp_path)
        with pytest.raises(SerializationError, match="has none of the tables"):
            agentic.make(tmp_path / "empty.db", "CREATE TABLE t (x)")
            bank.import_sqlite(tmp_path / "empty.db")
        (tmp_path / "text.db").write_text("SQLite format 4\0" * 100)
        with pytest.raises(SerializationError, match="is no database of SQLite, or damaged"):
            bank.import_sqlite(tmp_path / "text.db")
        chance = np.random.default_rng(7)
        outcomes = set()
        for number in range(60):
            damaged = bytearray(whole if number % 3 else whole[: chance.integers(len(whole))])
            first = 8192 if number % 3 == 1 and len(damaged) > 8192 else 0  # behind the schema
            for place in chance.integers(first, len(damaged), size=1 + number):
                damaged[place] = chance.integers(256)
            odd = tmp_path / f"odd ?#%{number}.db"
            odd.write_bytes(damaged)
            try:
                outcomes.add(type(bank.import_sqlite(odd, on_error="skip")))
            except (SerializationError, StorageError) as error:
                outcomes.add(type(error))
        assert len(outcomes) > 1
        assert memory.verify().ok
        assert SerializationError in outcomes
        with pytest.raises(ValueError, match="known must be 'now' or 'created', was 'then'"):
            bank.import_sqlite(tmp_path / "a.db", known="then")
        with pytest.raises(ValueError, match="on_error must be 'raise' or 'skip'"):
            bank.import_sqlite(tmp_path / "a.db", on_error="ignore")
    with ntmem.open(tmp_path / "s", read_only=True) as memory:
        with pytest.raises(ntmem.ReadOnlyError):
            memory.bank.import_sqlite(tmp_path / "a.db")
        memory.bank.export_sqlite(tmp_path / "read-only.db")


@once
def test_runs_of_attempts_are_rows(tmp_path: Path) -> None:
    """The runs of a store go with their attempts, and are no rows of others when they come back."""
    with ntmem.open(tmp_path / "s") as memory:
        with memory.bank.matts("agent_1", "hedge", k=2) as run:
            for outcome in (1.0, -1.0):
                with run.begin() as attempt:
                    attempt.add_action("hedge")
                    attempt.add_outcome(outcome)
        running = memory.bank.matts("agent_1", "hedge", k=3, mode="sequential")
        memory.bank.export_sqlite(tmp_path / "a.db")
        report = memory.bank.import_sqlite(tmp_path / "a.db")
        assert not report.counts
        assert report.left_out == {"task_trajectories of this store": 2, "matts_runs of this store": 2}
        memory.bank.export_sqlite(tmp_path / "b.db")
        attempts = {it.id for it in run.attempts}
    found = agentic.content(tmp_path / "a.db")
    assert agentic.content(tmp_path / "b.db") == found
    rows = {row[0]: row for row in found["matts_runs"]}
    assert rows[run.id][1:5] == ("hedge", "parallel", 2, "completed")
    assert json.loads(rows[run.id][5])["success_rate"] == 0.5
    assert rows[running.id][1:6] == ("hedge", "sequential", 3, "running", None)
    assert {(row[0], row[9]) for row in found["task_trajectories"]} == {(name, run.id) for name in attempts}
    with ntmem.open(tmp_path / "t") as memory:
        memory.bank.import_sqlite(tmp_path / "a.db")
        memory.bank.export_sqlite(tmp_path / "c.db")
    assert agentic.content(tmp_path / "c.db") == found


@once
def test_what_comes_may_be_scrubbed(tmp_path: Path) -> None:
    secret = "ask ann@example.com"
    agentic.varied(tmp_path / "a.db", 4)
    data = agentic.data_of("mail", content=secret)
    name = agentic.add(tmp_path / "a.db", 99, agentic.vector_of(1, 0, 0), data=data)
    trajectory = ("t1", "agent", secret, json.dumps({"steps": [secret, 1.5]}), *[None] * 6, "2026-01-01 00:00:00")
    agentic.insert(tmp_path / "a.db", "task_trajectories", trajectory)
    write(tmp_path / "a.jsonl", paper([{"title": secret, "description": "", "content": secret}], query=secret))
    for scrub in (False, True):
        with ntmem.open(tmp_path / f"s{scrub}") as memory:
            bank = memory.bank
            bank.import_sqlite(tmp_path / "a.db", scrub=scrub)
            bank.import_jsonl(tmp_path / "a.jsonl", scrub=scrub)
            assert bank.import_sqlite(tmp_path / "a.db", scrub=scrub).counts == {}, "the same comes to the same"
            bank.export_sqlite(tmp_path / f"{scrub}.db")
            bank.export_jsonl(tmp_path / f"{scrub}.jsonl")
            with pytest.raises(TypeError, match="scrub must be"):
                bank.import_sqlite(tmp_path / "a.db", scrub=1)  # type: ignore[arg-type]
        found = agentic.content(tmp_path / f"{scrub}.db")
        everything = repr(found) + (tmp_path / f"{scrub}.jsonl").read_text()
        assert (secret in everything) is not scrub
        said = json.loads(next(row[2] for row in found["patterns"] if row[0] == name))
        assert said["content"] == ("ask [EMAIL]" if scrub else secret)
        [row] = [row for row in found["task_trajectories"] if row[0] == "t1"]
        assert (row[2], json.loads(row[3])["steps"]) == (said["content"], [said["content"], 1.5])


@once
def test_own_rows_that_others_have_changed(tmp_path: Path) -> None:
    """A row of this store that comes back without its mark is theirs, and the export goes on."""
    with learnt() as memory:
        memory.bank.export_sqlite(tmp_path / "a.db")
        with closing(sqlite3.connect(tmp_path / "a.db")) as database, database:
            database.execute("UPDATE patterns SET pattern_data = json_remove(pattern_data, '$.ntmem')")
        assert memory.bank.import_sqlite(tmp_path / "a.db").counts["memories"] > 0
        memory.bank.export_sqlite(tmp_path / "b.db")
        memory.bank.export_jsonl(tmp_path / "b.jsonl")
    there, back = (agentic.content(tmp_path / f"{name}.db")["patterns"] for name in "ab")
    assert sorted(back) == sorted(there)
    ids = [line["task_id"] for line in lines(tmp_path / "b.jsonl") if "memory_items" in line]
    assert len(ids) == len(set(ids))


DEEP = "[" * 100_000 + "]" * 100_000


@once
@pytest.mark.parametrize(
    "row",
    [
        ("x", "reasoning_memory", "{}", 0.5, 0, "9999-12-31T23:59:59-23:59", None),
        ("x", "reasoning_memory", "{}", 0.5, 0, "0001-01-01T00:00:00+23:59", None),
        ("x", "reasoning_memory", DEEP, 0.5, 0, "2026-01-01", None),
    ],
    ids=["late", "early", "deep"],
)
def test_rows_beyond_what_can_be(tmp_path: Path, row: tuple[Any, ...]) -> None:
    agentic.varied(tmp_path / "a.db", 3)
    agentic.insert(tmp_path / "a.db", "patterns", row)
    with ntmem.open() as memory:
        with pytest.raises(SerializationError, match="patterns 'x'"):
            memory.bank.import_sqlite(tmp_path / "a.db")
        assert [*memory.bank.memories()] == []
        assert len(memory.bank.import_sqlite(tmp_path / "a.db", on_error="skip").skipped) == 1


@once
def test_data_of_other_types_may_be_anything(tmp_path: Path) -> None:
    agentic.varied(tmp_path / "a.db", 2)
    for number, data in enumerate(['{"source": "manual", "title": 3}', DEEP, f'{{"ntmem": {DEEP}}}', "[]", "no JSON"]):
        agentic.insert(tmp_path / "a.db", "patterns", (f"x{number}", "other", data, 0.5, 0, "2026-01-01", None))
    trajectory = ("t1", "agent", "q", f'{{"a": {DEEP}, "ntmem": 1}}', *[None] * 6, "2026-01-01 00:00:00")
    agentic.insert(tmp_path / "a.db", "task_trajectories", trajectory)
    with ntmem.open() as memory:
        memory.bank.import_sqlite(tmp_path / "a.db")
        memory.bank.export_sqlite(tmp_path / "b.db")
        memory.bank.export_jsonl(tmp_path / "b.jsonl")
    assert agentic.content(tmp_path / "b.db") == agentic.content(tmp_path / "a.db")


@once
def test_what_is_too_deep_to_be_scrubbed_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    agentic.varied(tmp_path / "a.db", 300)
    deep = "[" * 200 + '"ann@example.com"' + "]" * 200
    trajectory = ("t1", "agent", "q", deep, *[None] * 6, "2026-01-01 00:00:00")
    agentic.insert(tmp_path / "a.db", "task_trajectories", trajectory)
    write(tmp_path / "a.jsonl", paper([]), f'{{"task_id": "x", "query": {deep}}}')
    with ntmem.open() as memory:
        with pytest.raises(SerializationError, match="task_trajectories 't1': it cannot be scrubbed"):
            memory.bank.import_sqlite(tmp_path / "a.db", scrub=True)
        with pytest.raises(SerializationError, match=r"line 2 of a\.jsonl: it cannot be scrubbed"):
            memory.bank.import_jsonl(tmp_path / "a.jsonl", scrub=True)
        assert [*memory.bank.memories()] == []
        report = memory.bank.import_sqlite(tmp_path / "a.db", scrub=True, on_error="skip")
        assert len(report.skipped) == 1


@once
def test_tasks_of_runs_are_text(tmp_path: Path) -> None:
    with ntmem.open(scrub=False) as memory:
        memory.bank.matts("agent_1", "call ann@example.com", k=2)
        memory.bank.export_sqlite(tmp_path / "a.db")
    with ntmem.open() as memory:
        memory.bank.import_sqlite(tmp_path / "a.db", scrub=True)
        memory.bank.export_sqlite(tmp_path / "b.db")
    assert agentic.content(tmp_path / "b.db")["matts_runs"][0][1] == "call [EMAIL]"


@once
def test_a_pipe_is_no_file_of_lines(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with ntmem.open() as memory, pytest.raises(StorageError, match="write a pipe to a file first"):
        memory.bank.import_jsonl(tmp_path / "pipe")


# ---- the paper's lines -----------------------------------------------------------------------------------------------

MARKDOWN = """# Memory Item 1
## Title
Wait for the close
## Description
Bars that are open say little.
## Content
Look at the bar before.
More of it.

# Memory Item 2
## Title Size down
## Description: In a storm
## Content
Half of it.
"""
PAPER = '{"task_id": "w.7", "query":"buy \\u00fc?",  "think_list": ["a"], "action_list": ["b", 1e2], "status": "fail", '


def paper(items: Any, **more: Any) -> str:
    """Return a line as the paper's programs write it, with odd spaces."""
    return PAPER + f'"memory_items": {json.dumps(items)}, "template_id": 3, "x": {json.dumps(more)}}}'


def test_lines_come_back_as_they_were(tmp_path: Path) -> None:
    numbers = [0.1, -0.0, 1, 3.4028234663852886e38, 1e-45, 0.30000001192092896]
    rows = [
        paper([MARKDOWN, {"title": "o", "description": "", "content": "c", "more": [1]}, "plain words\nsecond"]),
        paper([]),
        paper([]),  # a second rollout that said the same
        '{"task_id": 12, "query": "q", "status": "success", "memory_items": null}',
    ]
    vector = {"id": "w.7", "text": "buy?", "embedding": numbers, "odd": True}
    path = write(tmp_path / "a.jsonl", rows[0], vector, "", *rows[1:])
    with ntmem.open(tmp_path / "s0") as memory:
        bank = memory.bank
        report = bank.import_jsonl(path)
        assert report.counts == {"embeddings": 1, "lines": 4, "memories": 4}
        assert bank.import_jsonl(path).counts == {}
        items = {it.title: it for it in bank.memories()}
        assert [*items] == ["Wait for the close", "Size down", "o", "plain words"]
        assert items["Wait for the close"].content == "Look at the bar before.\nMore of it."
        assert items["Size down"].description == "In a storm"
        assert items["plain words"].content == "plain words\nsecond"
        it = items["o"]
        assert (it.task_id, it.outcome, it.confidence) == ("w.7", "Failure", 0.60)
        assert it.embedding is not None
        assert it.embedding.tobytes() == np.array(numbers, "<f4").tobytes()
        found = bank.recall([0.0, 0, 0, 1, 0, 0], 9)
        assert {each.pattern_type for each in found} == {"failure"}
        assert len(found) == 4
        exported = bank.export_jsonl(tmp_path / "b.jsonl", embeddings=tmp_path / "e.jsonl")
        assert exported.counts == {"lines": 4, "embeddings": 1}
        assert (tmp_path / "b.jsonl").read_text().splitlines() == rows
        [back] = lines(tmp_path / "e.jsonl")
        assert [*back] == [*vector]
        assert back | {"embedding": None} == vector | {"embedding": None}
        assert np.array(back["embedding"], "<f4").tobytes() == np.array(numbers, "<f4").tobytes()
        assert "[0.1, -0.0, 1.0, 3.4028235e+38, 1e-45, 0.3]" in (tmp_path / "e.jsonl").read_text()
        bank.export_sqlite(tmp_path / "a.db")
        assert [row[3] for row in agentic.content(tmp_path / "a.db")["patterns"]] == [0.6] * 4
        assert bank.import_sqlite(tmp_path / "a.db").counts == {}
        with closing(sqlite3.connect(tmp_path / "a.db")) as database, database:
            database.execute("UPDATE patterns SET confidence = 0.9")
        assert bank.import_sqlite(tmp_path / "a.db").counts == {"memories": 4}
        assert bank.export_jsonl(tmp_path / "d.jsonl").counts == exported.counts, "they are still items of their lines"
    with ntmem.open(tmp_path / "s1") as memory:
        memory.bank.import_jsonl(tmp_path / "b.jsonl", embeddings=tmp_path / "e.jsonl")
        memory.bank.export_jsonl(tmp_path / "c.jsonl")
    whole = (tmp_path / "b.jsonl").read_text() + (tmp_path / "e.jsonl").read_text()
    assert (tmp_path / "c.jsonl").read_text() == whole


@once
def test_embeddings_may_come_later(tmp_path: Path) -> None:
    items = write(tmp_path / "a.jsonl", paper([{"title": "t", "description": "d", "content": "c"}]))
    first = write(tmp_path / "e.jsonl", {"id": "w.7", "text": "x", "embedding": EAST})
    other = write(tmp_path / "f.jsonl", {"id": "w.7", "text": "x", "embedding": [0.0, 1.0]})
    clock = ntmem.SimulatedClock(START)
    with ntmem.open(clock=clock) as memory:
        bank = memory.bank
        bank.import_jsonl(items)
        assert bank.recall(EAST) == []
        clock.set(START + SECOND)
        assert bank.import_jsonl(first).counts == {"embeddings": 1, "memories": 1}
        assert len(bank.recall(EAST)) == 1
        assert bank.recall(EAST, as_of=START) == []
        assert bank.import_jsonl(items).counts == {}, "its embedding is not forgotten"
        assert bank.import_jsonl(other).counts == {"embeddings": 1, "memories": 1}
        assert (len(bank.recall(EAST)), len(bank.recall([0.0, 1.0]))) == (0, 1)


def test_memories_of_databases_as_lines(tmp_path: Path) -> None:
    """All that a row has goes through lines, bit for bit; patterns and trajectories come home."""
    agentic.varied(tmp_path / "a.db")
    before = agentic.content(tmp_path / "a.db")
    with learnt() as memory:
        bank = memory.bank
        bank.import_sqlite(tmp_path / "a.db")
        report = bank.export_jsonl(tmp_path / "a.jsonl")
        assert report.counts == {"memories": 44, "patterns": 2, "trajectories": 16, "embeddings": 44}
        assert report.left_out["pattern_links"] == 2
        again = bank.import_jsonl(tmp_path / "a.jsonl")
        assert (again.counts, again.unchanged) == ({}, 44)
        assert again.left_out == {"patterns of this store": 2, "trajectories of this store": 16}
        last = next(it for it in lines(tmp_path / "a.jsonl") if it.get("action_list") == ['buy {"quantity":15}'])
        assert last["think_list"] == ['{"odd":"nan","raw":"b\'\\\\xff\'","3":[1,null]}']
        assert {it["status"] for it in lines(tmp_path / "a.jsonl") if "status" in it} == {"success", "fail", None}
    with ntmem.open() as other:
        assert other.bank.import_jsonl(tmp_path / "a.jsonl").counts == {"memories": 46, "lines": 16}
        other.bank.export_sqlite(tmp_path / "b.db")
        other.bank.export_jsonl(tmp_path / "b.jsonl")
        after = agentic.content(tmp_path / "b.db")
        assert after["patterns"][:44] == before["patterns"]
        assert after["pattern_embeddings"][:42] == before["pattern_embeddings"]
        ours = (tmp_path / "a.jsonl").read_text().splitlines()
        assert sorted((tmp_path / "b.jsonl").read_text().splitlines()) == sorted(ours)


@once
def test_lines_that_are_none(tmp_path: Path) -> None:
    good = paper([{"title": "good"}])
    bad = {
        "{": "it is no JSON",
        "[]": "it is no object",
        '{"id": "x"}': "neither task_id, nor id and embedding",
        '{"task_id": null}': "task_id must be a text",
        '{"task_id": ""}': "task_id must be a text",
        '{"task_id": true}': "task_id must be a text",
        '{"id": "x", "embedding": [1, "2"]}': "embedding must be a list of numbers",
        '{"id": "x", "embedding": [1e39]}': "NaN or infinity",
        '{"id": "x", "embedding": 3}': "embedding must be a list",
        '{"task_id": "x", "ntmem": {"row": {"id": "a"}}}': "ntmem.row.type",
        '{"task_id": "x", "ntmem": {"row": {"id": "a", "type": "t", "pattern_data": "", "vector": "!"}}}': "base 64",
        '{"task_id": "x", "ntmem": {"row": {"id": "a", "type": "t", "pattern_data": "", "vector": "AAA="}}}': "2 bytes",
    }
    path = write(tmp_path / "a.jsonl", good, *bad)
    with ntmem.open() as memory:
        with pytest.raises(SerializationError, match=r"line 2 of a.jsonl: it is no JSON.*and 7 more"):
            memory.bank.import_jsonl(path)
        assert [*memory.bank.memories()] == []
        report = memory.bank.import_jsonl(path, on_error="skip")
        assert report.counts == {"lines": 1, "memories": 1}
        assert len(report.skipped) == len(bad)
        for said, complaint in zip(report.skipped, bad.values(), strict=True):
            assert complaint in said
        path.write_bytes(b'{"task_id": "\xff"}\n')
        with pytest.raises(SerializationError, match="no JSON"):
            memory.bank.import_jsonl(path)
        with pytest.raises(StorageError, match="cannot read"):
            memory.bank.import_jsonl(tmp_path / "none.jsonl")
        with pytest.raises(StorageError, match="cannot read"):
            memory.bank.import_jsonl(path, embeddings=tmp_path)


def test_items_of_all_kinds() -> None:
    assert [it.title for it in items_of(MARKDOWN)] == ["Wait for the close", "Size down"]
    assert items_of(None) == items_of([]) == items_of(["", 3, None]) == []
    assert items_of({"title": "x", "content": [1]})[0] == ("x", "", "[1]")


# ---- anything --------------------------------------------------------------------------------------------------------

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
floats = st.floats(width=32, allow_nan=False, allow_infinity=False)
json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=5,
)


@once
@hypothesis.settings(max_examples=25)
@hypothesis.given(data=st.data())
def test_anything_comes_back(data: st.DataObject, tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("any")
    agentic.make(folder / "a.db")
    draw = data.draw
    for name in draw(st.lists(texts.filter(bool), unique=True, max_size=4)):
        said = {"title": draw(texts), "content": draw(texts), "domain": draw(texts), "more": draw(json_values)}
        agentic.add(
            folder / "a.db",
            0,
            agentic.vector_of(*draw(st.lists(floats, max_size=4))),
            id=name,
            data=json.dumps(said, ensure_ascii=draw(st.booleans())),
            confidence=draw(st.floats(allow_nan=False, allow_infinity=False)),
            usage_count=draw(st.integers(-(2**63), 2**63 - 1)),
            last_used=draw(st.none() | texts),
            model=draw(texts),
        )
    cells = [draw(texts) for _ in range(3)], [draw(st.floats(allow_nan=False)), draw(texts)]
    agentic.insert(folder / "a.db", "pattern_links", (*cells[0], *cells[1]))
    kept = [paper(draw(st.lists(texts | json_values, max_size=3)), more=draw(json_values)) for _ in range(2)]
    write(folder / "a.jsonl", *kept)
    with ntmem.open() as memory:
        bank = memory.bank
        bank.import_sqlite(folder / "a.db")
        bank.import_jsonl(folder / "a.jsonl")
        bank.export_jsonl(folder / "b.jsonl")
        assert (folder / "b.jsonl").read_text().split("\n")[:2] == kept
    with ntmem.open() as memory:
        memory.bank.import_sqlite(folder / "a.db")
        memory.bank.export_sqlite(folder / "b.db")
    with ntmem.open() as memory:
        memory.bank.import_jsonl(folder / "b.jsonl")
        found = [it for it in memory.bank.memories() if not it.id.startswith("0000000000")]
        rows = agentic.content(folder / "a.db")
        assert [(it.id, it.pattern_data) for it in found] == [(row[0], row[2]) for row in rows["patterns"]]
    assert agentic.content(folder / "b.db") == rows
    shutil.rmtree(folder)
