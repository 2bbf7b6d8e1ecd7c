"""Databases of agentic-flow's ReasoningBank made by plain sqlite3, what is in them, and how it recalls.

Written from the facts of its schema and retrieval; nothing of ntmem is used.
"""

from __future__ import annotations

import json
import math
import random
import sqlite3
import struct
from contextlib import closing
from pathlib import Path
from typing import Any

DDL = """
CREATE TABLE patterns (
  id TEXT PRIMARY KEY, type TEXT NOT NULL, pattern_data TEXT NOT NULL, confidence REAL NOT NULL DEFAULT 0.5,
  usage_count INTEGER NOT NULL DEFAULT 0, created_at TEXT NOT NULL DEFAULT CURRENT_TIMESTAMP, last_used TEXT);
CREATE TABLE pattern_embeddings (
  id TEXT PRIMARY KEY, model TEXT NOT NULL, dims INTEGER NOT NULL, vector BLOB NOT NULL,
  created_at TEXT NOT NULL DEFAULT CURRENT_TIMESTAMP, FOREIGN KEY(id) REFERENCES patterns(id) ON DELETE CASCADE);
CREATE TABLE pattern_links (
  src_id TEXT NOT NULL, dst_id TEXT NOT NULL, relation TEXT NOT NULL, weight REAL NOT NULL DEFAULT 1.0,
  created_at TEXT NOT NULL DEFAULT CURRENT_TIMESTAMP, PRIMARY KEY(src_id, dst_id, relation),
  FOREIGN KEY(src_id) REFERENCES patterns(id) ON DELETE CASCADE,
  FOREIGN KEY(dst_id) REFERENCES patterns(id) ON DELETE CASCADE);
CREATE TABLE task_trajectories (
  task_id TEXT PRIMARY KEY, agent_id TEXT NOT NULL, query TEXT NOT NULL, trajectory_json TEXT NOT NULL,
  started_at TEXT, ended_at TEXT, judge_label TEXT, judge_conf REAL, judge_reasons TEXT, matts_run_id TEXT,
  created_at TEXT NOT NULL DEFAULT CURRENT_TIMESTAMP);
CREATE TABLE matts_runs (
  run_id TEXT PRIMARY KEY, task_id TEXT NOT NULL, mode TEXT NOT NULL, k INTEGER NOT NULL, status TEXT NOT NULL,
  summary TEXT, created_at TEXT NOT NULL DEFAULT CURRENT_TIMESTAMP);
CREATE TABLE consolidation_runs (
  run_id TEXT PRIMARY KEY, items_processed INTEGER NOT NULL, duplicates_found INTEGER NOT NULL,
  contradictions_found INTEGER NOT NULL, items_pruned INTEGER NOT NULL, duration_ms INTEGER NOT NULL,
  created_at TEXT NOT NULL DEFAULT CURRENT_TIMESTAMP);
CREATE TABLE metrics_log (
  id INTEGER PRIMARY KEY AUTOINCREMENT, metric_name TEXT NOT NULL, value REAL NOT NULL,
  timestamp TEXT NOT NULL DEFAULT CURRENT_TIMESTAMP);
CREATE INDEX idx_patterns_type ON patterns(type);
CREATE INDEX idx_patterns_confidence ON patterns(confidence DESC);
CREATE INDEX idx_patterns_created_at ON patterns(created_at DESC);
CREATE INDEX idx_pattern_links_relation ON pattern_links(relation);
CREATE INDEX idx_trajectories_agent ON task_trajectories(agent_id);
"""
TABLES = (
    *("patterns", "pattern_embeddings", "pattern_links", "task_trajectories"),
    *("matts_runs", "consolidation_runs", "metrics_log"),
)
DIMENSION = 6


def ulid(number: int) -> str:
    return f"01J{number:023d}"


def vector_of(*numbers: float) -> bytes:
    return struct.pack(f"<{len(numbers)}f", *numbers)


def data_of(
    title: str = "t", *, task: str = "task-1", agent: str = "agent-1", outcome: str = "Success", **more: Any
) -> str:
    """Return pattern_data, spaced as nobody would write it again by chance."""
    said = {
        "title": title,
        "description": f"when {title}",
        "content": f"do {title}",
        "source": {"task_id": task, "agent_id": agent, "outcome": outcome, "evidence": ["step 1", "step 2"]},
        "tags": ["a", "b"],
        "domain": "trading",
        "created_at": "2026-01-02T03:04:05.678Z",
        "confidence": 0.75,
        "n_uses": 0,
    }
    return json.dumps(said | more, indent=1, ensure_ascii=False)


def make(path: Path, script: str = DDL, *, wal: bool = False) -> None:
    """Make an empty database."""
    with closing(sqlite3.connect(path)) as database:
        if wal:
            database.execute("PRAGMA journal_mode = WAL")
        database.executescript(script)


def insert(path: Path, table: str, *rows: tuple[Any, ...]) -> None:
    """Put rows into it, with all columns."""
    with closing(sqlite3.connect(path)) as database, database:
        database.execute("PRAGMA synchronous = OFF")
        for row in rows:
            database.execute(f"INSERT INTO {table} VALUES ({', '.join('?' * len(row))})", row)


def add(path: Path, number: int, vector: bytes, **more: Any) -> str:
    """Put one memory into it; return its id."""
    said = {"confidence": 0.75, "usage_count": 0, "created_at": "2026-01-02 03:04:05", "last_used": None} | more
    name = said.pop("id", ulid(number))
    data = said.pop("data", data_of(f"t{number}"))
    model = said.pop("model", "distill-success")
    insert(path, "patterns", (name, "reasoning_memory", data, *said.values()))
    insert(path, "pattern_embeddings", (name, model, len(vector) // 4, vector, said["created_at"]))
    return str(name)


def varied(path: Path, count: int = 40, seed: int = 1) -> None:
    """Make a database with rows of all kinds."""
    chance = random.Random(seed)
    make(path)
    for number in range(count):
        dimension = (DIMENSION, DIMENSION, 3)[number % 3]
        numbers = [chance.gauss(0, 1) for _ in range(dimension)]
        outcome = ("Success", "Failure")[number % 4 == 0]
        add(
            path,
            count - number,  # not in the order of the ids
            vector_of(*numbers),
            data=data_of(
                f"memory {number} \u2713 'quoted' \u0000 \U0001f4c8", outcome=outcome, agent=f"agent-{number % 3}"
            ),
            confidence=round(chance.uniform(0.1, 1.0), 3),
            usage_count=chance.randrange(5),
            created_at=f"2026-0{1 + number % 4}-11 0{number % 10}:00:00",
            last_used=None if number % 2 else "2026-04-01 10:11:12",
            model=f"distill-{outcome.lower()}",
        )
    insert(path, "patterns", (ulid(900), "reasoning_memory", data_of("no vector"), 0.6, 1, "2026-02-02 00:00:00", None))
    insert(path, "patterns", (ulid(901), "something_else", "not JSON at all", 0.25, 7, "2026-02-02 00:00:00", None))
    tiny = struct.unpack("<f", b"\x01\x00\x00\x00")[0]
    add(path, 902, vector_of(tiny, -0.0, 3.4028234663852886e38, 0.1, 0.0, 0.0), confidence=0.9)
    add(path, 903, vector_of(*[0.0] * DIMENSION))  # zero has no direction
    insert(path, "pattern_links", (ulid(1), ulid(2), "contradicts", 0.1 + 0.2, "2026-03-03 00:00:00"))
    insert(path, "pattern_links", (ulid(1), ulid(2), "entails", 1.0, "2026-03-03 00:00:00"))
    steps = '{"steps": [ {"a":1} ], "odd": "\u2713"}'
    row = ("task-1", "agent-1", "buy?", steps, "2026-01-01T00:00:00.000Z", None, "Success", 0.1, '["fine"]', "run-1")
    insert(
        path, "task_trajectories", (*row, "2026-01-02 00:00:00"), ("task-2", "a", "", "[]", *[None] * 6, "2026-01-01")
    )
    insert(path, "matts_runs", ("run-1", "task-1", "parallel", 6, "completed", None, "2026-01-01 00:00:00"))
    insert(path, "consolidation_runs", ("c-1", 1, 2, 3, 4, 5, "2026-01-01 00:00:00"))
    insert(path, "metrics_log", (7, "rb.retrieve.latency_ms", 1e-300, "2026-01-01 00:00:00"), (9, "x", -0.1, "t"))


def content(path: Path) -> dict[str, list[tuple[Any, ...]]]:
    """Return all rows of its tables, in their order."""
    with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as database:
        return {table: database.execute(f"SELECT * FROM {table} ORDER BY rowid").fetchall() for table in TABLES}


def schema(path: Path) -> Any:
    """Return its tables and indexes, column for column."""
    with closing(sqlite3.connect(path)) as database:
        found = {
            table: (
                database.execute("SELECT * FROM pragma_table_info(?)", (table,)).fetchall(),
                sorted(it[2:] for it in database.execute("SELECT * FROM pragma_foreign_key_list(?)", (table,))),
            )
            for table in TABLES
        }
        indexes = database.execute("SELECT name, tbl_name FROM sqlite_master WHERE type = 'index' ORDER BY 1, 2")
        return found, indexes.fetchall()


def retrieved(path: Path, query: list[float], k: int, now: str, domain: str | None = None) -> list[tuple[str, float]]:
    """Return ids and scores as agentic-flow would; `now` is what SQLite's clock would say."""
    select = """
      SELECT p.id, p.confidence, e.vector, CAST(julianday(?) - julianday(p.created_at) AS INTEGER)
      FROM patterns p JOIN pattern_embeddings e ON p.id = e.id
      WHERE p.type = 'reasoning_memory' AND p.confidence >= 0.3 AND e.dims = ?"""
    if domain is not None:
        select += " AND json_extract(p.pattern_data, '$.domain') = ?"
    arguments = (now, len(query), *([] if domain is None else [domain]))
    with closing(sqlite3.connect(path)) as database:
        rows = database.execute(f"{select} ORDER BY p.confidence DESC, p.usage_count DESC", arguments).fetchall()
    wanted = struct.unpack(f"<{len(query)}f", vector_of(*query))

    def cosine(one: tuple[float, ...], other: tuple[float, ...]) -> float:
        dot = sum(a * b for a, b in zip(one, other, strict=True))
        lengths = math.sqrt(sum(a * a for a in one)) * math.sqrt(sum(b * b for b in other))
        return dot / lengths if lengths else 0.0

    found = []
    for name, confidence, blob, days in rows:
        vector = struct.unpack(f"<{len(blob) // 4}f", blob)
        score = 0.65 * cosine(wanted, vector) + 0.15 * math.exp(-days / 45) + 0.20 * min(confidence, 1.0)
        found.append((name, score, vector))
    if k >= len(found):
        return [(name, score) for name, score, _ in found]
    found.sort(key=lambda it: -it[1])
    taken: list[tuple[str, float, tuple[float, ...]]] = []
    while len(taken) < k:
        best = max(found, key=lambda it: 0.1 * it[1] - 0.9 * max([0.0, *(cosine(it[2], other[2]) for other in taken)]))
        found.remove(best)
        taken.append(best)
    return [(name, score) for name, score, _ in taken]
