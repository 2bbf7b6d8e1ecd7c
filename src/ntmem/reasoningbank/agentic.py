"""The schema of agentic-flow's ReasoningBank: tables, columns, and what a cell may be.

A column that is missing, or NULL, where the schema has a default is as one that says nothing; one without a default
must be there. What is refused is said in words.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

NOW = "CURRENT_TIMESTAMP"


class Column(NamedTuple):
    """A column; `default` is as SQL has it, "" is none."""

    name: str
    type: str
    is_required: bool = True
    default: str = ""

    @property
    def sql(self) -> str:
        default = f" DEFAULT {self.default}" if self.default else ""
        return f"{self.name} {self.type}{' NOT NULL' * self.is_required}{default}"


class Table(NamedTuple):
    """A table; the first `keys` columns are its key, `tail` are its other constraints."""

    name: str
    columns: tuple[Column, ...]
    keys: int = 1
    tail: tuple[str, ...] = ()

    @property
    def sql(self) -> str:
        parts = [it.sql for it in self.columns]
        if self.keys == 1:
            key = self.columns[0]
            rises = " AUTOINCREMENT" if key.type == "INTEGER" else ""
            parts[0] = f"{key.name} {key.type} PRIMARY KEY{rises}"
        return f"CREATE TABLE {self.name} ({', '.join([*parts, *self.tail])})"

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(it.name for it in self.columns)

    @property
    def insert(self) -> str:
        marks = ", ".join("?" * len(self.columns))
        return f"INSERT INTO {self.name} ({', '.join(self.names)}) VALUES ({marks})"


def _texts(*names: str) -> tuple[Column, ...]:
    return tuple(Column(name, "TEXT") for name in names)


def _numbers(*names: str) -> tuple[Column, ...]:
    return tuple(Column(name, "INTEGER") for name in names)


_CREATED = Column("created_at", "TEXT", default=NOW)
_REFERENCE = "FOREIGN KEY({}) REFERENCES patterns(id) ON DELETE CASCADE"
PATTERNS = Table(
    "patterns",
    (
        *_texts("id", "type", "pattern_data"),
        Column("confidence", "REAL", default="0.5"),
        Column("usage_count", "INTEGER", default="0"),
        _CREATED,
        Column("last_used", "TEXT", is_required=False),
    ),
)
EMBEDDINGS = Table(
    "pattern_embeddings",
    (*_texts("id", "model"), *_numbers("dims"), Column("vector", "BLOB"), _CREATED),
    tail=(_REFERENCE.format("id"),),
)
LINKS = Table(
    "pattern_links",
    (*_texts("src_id", "dst_id", "relation"), Column("weight", "REAL", default="1.0"), _CREATED),
    keys=3,
    tail=("PRIMARY KEY(src_id, dst_id, relation)", _REFERENCE.format("src_id"), _REFERENCE.format("dst_id")),
)
TRAJECTORIES = Table(
    "task_trajectories",
    (
        *_texts("task_id", "agent_id", "query", "trajectory_json"),
        *(Column(name, "TEXT", is_required=False) for name in ("started_at", "ended_at", "judge_label")),
        Column("judge_conf", "REAL", is_required=False),
        *(Column(name, "TEXT", is_required=False) for name in ("judge_reasons", "matts_run_id")),
        _CREATED,
    ),
)
RUNS = Table(
    "matts_runs",
    (
        *_texts("run_id", "task_id", "mode"),
        *_numbers("k"),
        *_texts("status"),
        Column("summary", "TEXT", is_required=False),
        _CREATED,
    ),
)
CONSOLIDATIONS = Table(
    "consolidation_runs",
    (
        *_texts("run_id"),
        *_numbers("items_processed", "duplicates_found", "contradictions_found", "items_pruned", "duration_ms"),
        _CREATED,
    ),
)
METRICS = Table(
    "metrics_log",
    (
        *_numbers("id"),
        *_texts("metric_name"),
        Column("value", "REAL"),
        Column("timestamp", "TEXT", default=NOW),
    ),
)
TABLES = {it.name: it for it in (PATTERNS, EMBEDDINGS, LINKS, TRAJECTORIES, RUNS, CONSOLIDATIONS, METRICS)}
INDEXES = (
    "CREATE INDEX idx_patterns_type ON patterns(type)",
    "CREATE INDEX idx_patterns_confidence ON patterns(confidence DESC)",
    "CREATE INDEX idx_patterns_created_at ON patterns(created_at DESC)",
    "CREATE INDEX idx_pattern_links_relation ON pattern_links(relation)",
    "CREATE INDEX idx_trajectories_agent ON task_trajectories(agent_id)",
)
_KINDS: dict[str, tuple[type, ...]] = {"TEXT": (str,), "INTEGER": (int, float), "REAL": (int, float), "BLOB": (bytes,)}


class BadRow(ValueError):
    """A row, or line, cannot be taken."""


def check_cells(table: Table, cells: Sequence[Any]) -> None:
    """Raise :class:`BadRow` if a cell is none that the schema has."""
    for column, cell in zip(table.columns, cells, strict=True):
        if cell is None:
            if column.is_required and not column.default:
                raise BadRow(f"{column.name} is NULL, or missing")
        elif not isinstance(cell, _KINDS[column.type]):
            raise BadRow(f"{column.name} should be {column.type}, is {_shown(cell)}")
        elif isinstance(cell, str):
            check_utf8(column.name, cell)


def check_utf8(name: str, text: str) -> None:
    """Raise :class:`BadRow` if a text was no UTF-8."""
    try:
        text.encode()
    except UnicodeEncodeError:
        raise BadRow(f"{name} is no UTF-8") from None


def _shown(cell: Any) -> str:
    return f"{len(cell)} bytes" if isinstance(cell, bytes) else repr(cell)[:64]
