"""A database of agentic-flow's, or one like it, into a bank: read only, from one snapshot, and whatever is in it."""

from __future__ import annotations

import os
import sqlite3
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import quote

import msgspec
from msgspec.structs import replace

from ..errors import SerializationError, StorageError
from ..tiers.guards import INTERCHANGE
from .agentic import EMBEDDINGS, LINKS, PATTERNS, RUNS, TABLES, TRAJECTORIES, BadRow, Table, check_cells
from .events import hashed
from .memories import Memories
from .memory import REASONING, Memory, instant_of, said_of
from .native import is_own, is_own_run
from .shelf import Shelf, is_pattern
from .taking import (
    BankImport,
    Known,
    OnError,
    Problems,
    Row,
    Taker,
    check_options,
    row_key,
    scrubbed_json,
    scrubbed_row,
)

if TYPE_CHECKING:
    from ..scrubbing import Scrubber
    from .ledger import Ledger

_MOST_ID = 255
_MOST_DIMENSIONS = 65_536
_LARGEST = sys.float_info.max
_BUSY = 5.0
_CAREFULLY = ("PRAGMA query_only = 1", "PRAGMA trusted_schema = 0", "PRAGMA cell_size_check = 1")


class Taken(NamedTuple):
    """A row that was read: of which table, what it is called, and what it is; one of this store's own is None."""

    table: str
    name: str
    what: Memory | Row | None


def import_sqlite(
    path: str | os.PathLike[str],
    ledger: Ledger,
    shelf: Shelf,
    memories: Memories,
    *,
    known: Known,
    on_error: OnError,
    scrubber: Scrubber | None,
) -> BankImport:
    """Do :meth:`ntmem.ReasoningBank.import_sqlite`."""
    began = time.monotonic()
    check_options(known, on_error)
    shelf.update(0)  # that it may be written to
    source = os.path.abspath(os.fsdecode(path))
    taker, problems = Taker(memories, shelf, known), Problems()
    with closing(_opened(source)) as database:
        try:
            reader = _Reader(database, ledger, scrubber)
            if not reader.tables:
                raise SerializationError(f"{source} has none of the tables of a ReasoningBank")
            for _ in reader.rows(problems.note):
                pass
            problems.check(source, on_error)
            for it in reader.rows(lambda where, error: None):
                if it.what is None or _is_marked(it, memories, shelf):
                    taker.left_out[f"{it.table} of this store"] += 1
                elif isinstance(it.what, Memory):
                    taker.memory(it.what)
                else:
                    size = sum(len(cell) for cell in it.what.cells if isinstance(cell, str | bytes))
                    taker.other(it.table, it.name, it.what, size)
            taker.flush()
        except sqlite3.OperationalError as error:
            raise StorageError(f"cannot read {source}: {error}") from error
        except (sqlite3.DatabaseError, UnicodeDecodeError) as error:  # that of a message which names what is damaged
            raise SerializationError(f"{source} is no database of SQLite, or damaged: {error}") from error
    return BankImport(
        source,
        dict(taker.counts),
        taker.unchanged,
        dict(taker.left_out),
        tuple(reader.ignored),
        tuple(problems.found),
        time.monotonic() - began,
    )


def _opened(path: str) -> sqlite3.Connection:
    if not os.path.isfile(path):
        raise StorageError(f"there is no file {path}")
    try:
        database = sqlite3.connect(f"file:{quote(path)}?mode=ro", uri=True, timeout=_BUSY, isolation_level=None)
    except sqlite3.Error as error:
        raise StorageError(f"cannot open {path}: {error}") from error
    database.text_factory = lambda data: data.decode(errors="surrogateescape")
    return database


class _Reader:
    """Reads the tables of a database, as often as it is asked, from one snapshot."""

    def __init__(self, database: sqlite3.Connection, ledger: Ledger, scrubber: Scrubber | None) -> None:
        self._database = database
        self._ledger = ledger
        self._scrubber = scrubber
        self.ignored: list[str] = []
        """Tables and columns that are not of the schema."""
        self.tables: dict[str, list[str]] = {}
        """The columns that there are, of the tables that are."""
        for statement in (*_CAREFULLY, "BEGIN"):
            database.execute(statement)
        found = database.execute("SELECT name, type FROM sqlite_master WHERE type IN ('table', 'view') ORDER BY 1")
        for name, kind in found.fetchall():
            if name.startswith("sqlite_"):
                continue
            if name not in TABLES or kind != "table":
                self.ignored.append(name)
                continue
            columns = [each for (each,) in database.execute("SELECT name FROM pragma_table_info(?)", (name,))]
            self.tables[name] = columns
            self.ignored += [f"{name}.{each}" for each in columns if each not in TABLES[name].names]

    def rows(self, note: Callable[[str, BadRow], None]) -> Iterator[Taken]:
        """Yield all rows that are right, and `note` what is wrong with the others."""
        ours: set[str] = set()
        if PATTERNS.name in self.tables:
            yield from self._patterns(note, ours)
        for name in self.tables:
            if name not in (PATTERNS.name, EMBEDDINGS.name):
                yield from self._others(TABLES[name], "", note, ours)
        if EMBEDDINGS.name in self.tables:
            orphans = ""
            if PATTERNS.name in self.tables:
                orphans = "WHERE id NOT IN (SELECT id FROM patterns WHERE id IS NOT NULL)"
            yield from self._others(EMBEDDINGS, orphans, note, ours)

    def _select(self, table: Table, alias: str = "") -> str:
        """Return the columns of a table for a SELECT; those that are missing are NULL."""
        there = self.tables.get(table.name, [])
        return ", ".join(f"{alias}{name}" if name in there else "NULL" for name in table.names)

    def _execute(self, select: str, order: str) -> sqlite3.Cursor:
        try:
            return self._database.execute(f"{select} ORDER BY {order}")
        except sqlite3.OperationalError as error:
            if "no such column" not in str(error):
                raise
            return self._database.execute(select)  # a table WITHOUT ROWID has its own order

    def _patterns(self, note: Callable[[str, BadRow], None], ours: set[str]) -> Iterator[Taken]:
        names = self._select(PATTERNS, "p.")
        embedded, join = ", ".join(["NULL"] * len(EMBEDDINGS.columns)), ""
        if EMBEDDINGS.name in self.tables:
            embedded = self._select(EMBEDDINGS, "e.")
            join = " LEFT JOIN pattern_embeddings AS e ON e.id = p.id"
        width, seen = len(PATTERNS.columns), set[str]()
        for number, cells in enumerate(
            self._execute(f"SELECT {names}, {embedded} FROM patterns AS p{join}", "p.rowid"), 1
        ):
            where = f"patterns {_named(cells[0], number)}"
            try:
                check_cells(PATTERNS, cells[:width])
                memory = made_memory(*cells[:width])
                if memory.id in seen:
                    raise BadRow("there is another row, or embedding, of this id")
                seen.add(memory.id)
                where = f"pattern_embeddings {cells[0]!r}"
                made = _embedded(memory, cells[width:])
                if self._scrubber is not None:
                    made = replace(made, data=scrubbed_json(made.data, self._scrubber))
            except BadRow as error:
                note(where, error)
                continue
            is_ours = is_own(self._ledger, made.data)
            if is_ours:
                ours.add(made.id)
            yield Taken(PATTERNS.name, made.id, None if is_ours else made)

    def _others(self, table: Table, where: str, note: Callable[[str, BadRow], None], ours: set[str]) -> Iterator[Taken]:
        seen = set[str]()
        select = f"SELECT {self._select(table)} FROM {table.name} {where}"
        for number, cells in enumerate(self._execute(select, "rowid"), 1):
            key = cells[: table.keys]
            try:
                check_cells(table, cells)
                name = row_key(table.name, key)
                if name in seen:
                    raise BadRow("there is another row of this key")
                seen.add(name)
                row = Row(0, 0, table.name, list(cells))
                if self._scrubber is not None:
                    row = scrubbed_row(row, self._scrubber)
            except BadRow as error:
                note(f"{table.name} {' '.join(_named(each, number) for each in key)}", error)
                continue
            is_ours = (
                (table is TRAJECTORIES and is_own(self._ledger, cells[3]))
                or (table is RUNS and is_own_run(self._ledger, key[0]))
                or (table is LINKS and ours.issuperset(key[:2]))
            )
            yield Taken(table.name, name, None if is_ours else row)


def _is_marked(it: Taken, memories: Memories, shelf: Shelf) -> bool:
    """Whether a row is a link that this store exports by itself, since the memories contradict each other here."""
    if it.table != LINKS.name or not isinstance(it.what, Row) or it.what.cells[2] != "contradicts":
        return False
    one, other = it.what.cells[:2]
    kept = memories.latest([hashed(one)]).get(hashed(one))
    return (
        kept is not None
        and other in kept.contradicts
        and shelf.engine().get(INTERCHANGE, it.name.encode()) is None  # it came from elsewhere
    )


def _named(key: Any, number: int) -> str:
    return repr(key)[:80] if isinstance(key, str) else f"row {number} ({repr(key)[:40]})"


def _embedded(memory: Memory, cells: tuple[Any, ...]) -> Memory:
    """Return a memory with what a row of ``pattern_embeddings`` says, if there is one."""
    if all(each is None for each in cells):
        return memory
    check_cells(EMBEDDINGS, cells)
    _, model, dims, vector, embedded_at = cells
    check_vector(dims, vector)
    return replace(memory, model=model, vector=vector, embedded_at=embedded_at)


def made_memory(
    name: str,
    kind: str,
    data: str,
    confidence: float | None,
    usage_count: Any,
    created_at: str | None,
    last_used: str | None,
) -> Memory:
    """Return a memory of cells of the right types; raise :class:`BadRow` if they say what cannot be."""
    if not 0 < len(name.encode()) <= _MOST_ID or is_pattern(name):
        raise BadRow(f"an id has 1 to {_MOST_ID} bytes of UTF-8, and is not as that of a pattern of a store")
    if confidence is not None and not abs(confidence) <= _LARGEST:
        raise BadRow(f"confidence must be finite, and of float64, is {str(confidence)[:40]}")
    if usage_count is not None and not (isinstance(usage_count, int) and -(2**63) <= usage_count < 2**63):
        raise BadRow(f"usage_count must be a whole number of 64 bits, is {str(usage_count)[:40]}")
    try:
        created = 0 if created_at is None else instant_of(created_at)
    except ValueError:
        raise BadRow(f"created_at is no time from 1970 to 2262, is {created_at!r}") from None
    if kind == REASONING:
        try:
            said_of(data)
        except (msgspec.MsgspecError, RecursionError) as error:
            raise BadRow(f"pattern_data is not what a memory has: {error}") from None
    number = None if confidence is None else float(confidence)
    return Memory(name, 0, 0, created, kind, data, number, usage_count, created_at, last_used)


def check_vector(dims: Any, vector: bytes) -> None:
    """Raise :class:`BadRow` if bytes are no finite numbers of float32, as many as is said."""
    import numpy as np

    if len(vector) != 4 * dims or dims > _MOST_DIMENSIONS:
        raise BadRow(f"dims is {dims}, of at most {_MOST_DIMENSIONS}, and vector has {len(vector)} bytes")
    if not np.isfinite(np.frombuffer(vector, "<f4")).all():
        raise BadRow("vector has NaN or infinity")
