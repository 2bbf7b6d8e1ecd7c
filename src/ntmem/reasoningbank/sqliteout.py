"""A bank as a database of agentic-flow's: exactly its schema, whole or not at all."""

from __future__ import annotations

import os
import sqlite3
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from typing import TYPE_CHECKING, Any

from ..errors import StorageError
from . import native
from .agentic import EMBEDDINGS, INDEXES, LINKS, PATTERNS, RUNS, TABLES, TRAJECTORIES
from .events import hashed
from .memories import Memories
from .memory import Memory, text_of
from .taking import BankExport, Row, count, kept

if TYPE_CHECKING:
    from .shelf import Shelf
    from .tracker import TrajectoryTracker

_ABOUT = {LINKS.name: 2, EMBEDDINGS.name: 1}
"""Tables of rows about memories, which go with them: how many of the first columns name one."""


def export_sqlite(
    path: str | os.PathLike[str], tracker: TrajectoryTracker, shelf: Shelf, memories: Memories, least: int
) -> BankExport:
    """Do :meth:`ntmem.ReasoningBank.export_sqlite`."""
    began = time.monotonic()
    counts: Counter[str] = Counter()

    def write(temporary: str) -> None:
        with closing(sqlite3.connect(temporary, isolation_level=None)) as database:
            database.execute("PRAGMA synchronous = FULL")
            database.execute("BEGIN")
            for table in TABLES.values():
                database.execute(table.sql)
            _write(database, counts, tracker, shelf, memories, least)
            for index in INDEXES:
                database.execute(index)
            database.execute("COMMIT")

    target = made_whole(path, write)
    left_out = count(shelf, "l") | count(shelf, "e")
    return BankExport(target, os.path.getsize(target), dict(+counts), left_out, time.monotonic() - began)


def made_whole(path: str | os.PathLike[str], write: Callable[[str], None]) -> str:
    """Let `write` make a file beside, and give it its name when it is whole; return the whole name.

    Raises
    ------
    StorageError
        There is a file of this name, which stays, or it cannot be written.
    """
    target = os.path.abspath(os.fsdecode(path))
    if os.path.lexists(target):
        raise StorageError(f"there is {target} already; remove it, or choose another name")
    temporary = f"{target}.{os.getpid()}-{os.urandom(8).hex()}"
    try:
        try:
            write(temporary)
            _sync(temporary)
            os.link(temporary, target)  # which replaces nothing
            _sync(os.path.dirname(target))
        finally:
            for name in (temporary, f"{temporary}-journal"):
                with suppress(FileNotFoundError):
                    os.unlink(name)
    except FileExistsError:
        raise StorageError(f"somebody else made {target} meanwhile; remove it, or choose another name") from None
    except (OSError, sqlite3.Error) as error:
        raise StorageError(f"cannot write {target}: {error}") from error
    return target


def _sync(path: str) -> None:
    file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(file)
    finally:
        os.close(file)


def rows_of(shelf: Shelf, memories: Memories, least: int) -> Iterator[tuple[Memory, dict[str, float], bool]]:
    """Yield all rows of ``patterns``, what contradicts them and how much, and whether they are this store's own."""
    limit = shelf.engine().now()
    for it in memories.all(limit):
        there = memories.latest(map(hashed, it.contradicts))
        yield it.now, {other: cosine for other, cosine in it.contradicts.items() if hashed(other) in there}, False
    for row, against in native.patterns_of(shelf, limit, least):
        if not memories.has(row.id):  # it went, was changed by another program, and came back as theirs
            yield row, dict.fromkeys(against, 1.0), True


def _write(
    database: sqlite3.Connection,
    counts: Counter[str],
    tracker: TrajectoryTracker,
    shelf: Shelf,
    memories: Memories,
    least: int,
) -> None:
    links = []
    for it, against, is_own in rows_of(shelf, memories, least):
        cells = (it.id, it.type, it.data, it.confidence, it.usage_count, it.created_at, it.last_used)
        database.execute(PATTERNS.insert, cells)
        counts["patterns" if is_own else "memories"] += 1
        if it.model is not None:
            database.execute(EMBEDDINGS.insert, (it.id, it.model, it.dimension, it.vector, it.embedded_at))
        links += [(it.id, other, "contradicts", weight, text_of(it.known)) for other, weight in against.items()]
    for name in TABLES:
        for row in kept(shelf, f"r{name}/", Row):
            if name not in _ABOUT or not memories.gone(map(hashed, row.cells[: _ABOUT[name]])):
                counts[name] += _insert(database, name, _filled(row))
    for link in links:
        counts[LINKS.name] += _insert(database, LINKS.name, link)
    for trajectory in native.trajectories_of(tracker):
        counts[TRAJECTORIES.name] += _insert(database, TRAJECTORIES.name, native.cells_of(trajectory))
    for run in native.runs_of(tracker):
        counts[RUNS.name] += _insert(database, RUNS.name, run)


def _insert(database: sqlite3.Connection, name: str, cells: Any) -> int:
    """Write a row unless one of its key, which came from elsewhere, is there; return how many were."""
    insert = TABLES[name].insert.replace("INSERT", "INSERT OR IGNORE", 1)
    return database.execute(insert, cells).rowcount


def _filled(row: Row) -> list[Any]:
    """Return the cells of a row, with the schema's defaults in the place of what it does not say."""
    defaults = {"0.5": 0.5, "0": 0, "1.0": 1.0, "CURRENT_TIMESTAMP": text_of(row.known), "": None}
    columns = TABLES[row.table].columns
    return [defaults[it.default] if cell is None else cell for it, cell in zip(columns, row.cells, strict=True)]
