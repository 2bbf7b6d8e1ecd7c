"""Distillation: rows that stand alone, and blocks that were coded quickly, become well coded blocks.

A step takes up to ``BLOCK_ROWS`` rows with consecutive numbers, codes them, and adds the block to the series in one
group. What the rows and blocks were before is swept away afterwards; until then it is left over and means nothing.
Whoever dies in between leaves it to the next step, of any process.

**Invariants**

- I2: a row is in a block or under its key in every state that a reader can see, and is read once.
- Two who distill the same series at once do some work twice, and change it once: a step is refused if what the store
  says of the series is not what it began with.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec
import numpy as np

from ..errors import StorageError, StoreClosed
from ..records import Change
from .layout import _HEADER
from .liverows import Gone, LivePart
from .series import (
    BEST,
    BLOCK_ROWS,
    BLOCKS,
    BULK,
    DROPPED,
    ROWS,
    SWEPT,
    VECTORS,
    Column,
    Rows,
    SeriesRow,
    block_entry,
    encode_block,
    row_key,
)
from .seriesstate import Changed, Series

if TYPE_CHECKING:
    from numpy.typing import NDArray

_log = logging.getLogger("ntmem")

_ATTEMPTS = 1000
_SWEPT_AT_ONCE = 256  # keys in a group: others may write in between
_STEPS = 256  # after which what they left over is swept
_LOOKED = 4096
_GIVEN_UP = 3600 * 10**9  # ns after which who was writing blocks is taken for dead
_RECORD_BYTES = _HEADER.size + 28  # of a row on disk, beside its value


class DistillReport(NamedTuple):
    """What distillation did.

    Attributes
    ----------
    series, rows, blocks : int
        How many series were changed, how many rows were coded, in how many blocks.
    bytes_before, bytes_after : int
        What they took in the store, on disk.
    raw_bytes : int
        What they take in arrays: eight bytes a number, times included.
    """

    series: int = 0
    rows: int = 0
    blocks: int = 0
    bytes_before: int = 0
    bytes_after: int = 0
    raw_bytes: int = 0

    @property
    def ratio(self) -> float:
        """Bytes in arrays for one on disk."""
        return self.raw_bytes / self.bytes_after if self.bytes_after else 1.0

    def plus(self, other: DistillReport) -> DistillReport:
        """Return the sum of both."""
        return DistillReport(*(a + b for a, b in zip(self, other, strict=True)))


class _Piece(NamedTuple):
    """Rows with consecutive numbers: of a block (its entry), or live (None)."""

    first: int
    end: int
    entry: Any = None


class _Plan(NamedTuple):
    """What one step is to code."""

    row: SeriesRow
    pieces: list[_Piece]
    parts: list[LivePart]

    @property
    def rows(self) -> int:
        return self.pieces[-1].end - self.pieces[0].first


def combined(tables: Sequence[tuple[NDArray[np.int64], Rows]]) -> Rows:
    """Return rows of several tables as one, by number."""
    numbers = np.concatenate([numbers for numbers, _ in tables])
    order = np.argsort(numbers, kind="stable")
    total = len(numbers)
    ends = np.cumsum([len(numbers) for numbers, _ in tables])
    places = [slice(int(end) - len(numbers), int(end)) for end, (numbers, _) in zip(ends, tables, strict=True)]
    columns: dict[str, Column] = {}
    for name in dict.fromkeys(name for _, rows in tables for name in rows.columns):
        values = np.zeros(total, np.float64 if name[0] == "f" else np.int64)
        present = np.zeros(total, np.bool_)
        for place, (_, rows) in zip(places, tables, strict=True):
            column = rows.columns.get(name)
            if column is not None:
                values[place] = column.values
                present[place] = True if column.present is None else column.present
        columns[name] = Column(values[order], None if present.all() else present[order])
    metadata = None
    if any(rows.metadata is not None for _, rows in tables):
        every = [it for numbers, rows in tables for it in rows.metadata or [b""] * len(numbers)]
        metadata = [every[place] for place in order.tolist()]
    embedded = None
    if any(rows.embedded is not None for _, rows in tables):
        embedded = np.concatenate(
            [np.zeros(len(numbers), np.bool_) if rows.embedded is None else rows.embedded for numbers, rows in tables]
        )[order]
    return Rows(
        np.concatenate([rows.ts_event for _, rows in tables])[order],
        np.concatenate([rows.ts_known for _, rows in tables])[order],
        columns,
        metadata,
        embedded,
    )


def distill(
    series: Series, horizon: int, now: int, *, least: int = 1, stopped: Callable[[], bool] = lambda: False
) -> DistillReport:
    """Distill the rows that the series has now and that were known up to `horizon`, or are known only after `now`.

    Rows loaded ahead of the clock came in bulk and are settled, too. Rows are left where they make no block of `least`
    rows, and all when `stopped` says so, which is asked between steps.
    """
    report = DistillReport()
    if series.row() is None:
        return report
    sweep(series, now)
    until, begin, failed, steps = series.end()[0], 0, 0, 0  # what comes from now on is for the next time
    while failed < _ATTEMPTS:
        try:
            plan = None if stopped() else _planned(series, horizon, now, least, begin, until)
            if plan is None:
                if steps:
                    sweep(series, now)
                return report._replace(series=1) if report.rows else report
            begin = plan.pieces[0].first
            report = report.plus(_step(series, plan))
        except (Changed, Gone):
            failed += 1
            continue
        failed, steps = 0, steps + 1
        if steps % _STEPS == 0:  # seldom: who reads a block that is swept away begins again
            sweep(series, now)
    raise StorageError(
        f"{series.key!r} could not be distilled in {_ATTEMPTS} attempts: others change it all the while, or it is "
        "damaged; try again, and verify the store"
    )


def _planned(series: Series, horizon: int, now: int, least: int, begin: int, until: int) -> _Plan | None:
    with series.working():
        row, parts = series.live()
        if row is None:
            return None
        live = _settled(parts, horizon, now, until)
    pieces = [piece for piece in _pieces(row, live) if begin <= piece.first < until]
    for group in _groups(pieces):
        rows = group[-1].end - group[0].first
        alone = rows < least and any(piece.entry is None for piece in group)
        for some in [[piece] for piece in group if piece.entry is not None] if alone else [group]:
            if any(piece.entry is None for piece in some):
                return _Plan(row, some, parts)
            quick = sum(piece.end - piece.first for piece in some if not piece.entry["flags"] & BEST)
            if (quick and 2 * quick >= least) or (least == 1 and len(some) > 1):
                return _Plan(row, some, parts)
    return None


def _settled(parts: Sequence[LivePart], horizon: int, now: int, until: int) -> NDArray[np.int64]:
    """Return the numbers of live rows that are to be distilled."""
    found = []
    for part in parts:
        known = part.ts_known
        found.append(part.numbers[((known <= horizon) | (known > now)) & (part.numbers < until)])
    return np.sort(np.concatenate(found)) if found else np.empty(0, np.int64)


def _pieces(row: SeriesRow, live: NDArray[np.int64]) -> list[_Piece]:
    pieces = [
        _Piece(int(entry["first"]), int(entry["first"]) + int(entry["rows"]), entry)
        for entry in row.entries
        if not entry["flags"] & DROPPED
    ]
    if len(live):
        for run in np.split(live, np.flatnonzero(np.diff(live) != 1) + 1):
            for first in range(int(run[0]), int(run[-1]) + 1, BLOCK_ROWS):
                pieces.append(_Piece(first, min(first + BLOCK_ROWS, int(run[-1]) + 1)))
    return sorted(pieces, key=lambda piece: piece.first)


def _groups(pieces: Iterable[_Piece]) -> Iterator[list[_Piece]]:
    """Yield pieces that follow each other and make one block at most; live ones are cut to fill it."""
    group: list[_Piece] = []
    for whole in pieces:
        rest = whole
        if group:
            room = BLOCK_ROWS - (group[-1].end - group[0].first)
            follows = rest.first == group[-1].end
            if not follows or rest.end - rest.first > room:
                if follows and rest.entry is None and room > 0:
                    group.append(_Piece(rest.first, rest.first + room))
                    rest = _Piece(rest.first + room, rest.end)
                yield group
                group = []
        group.append(rest)
    if group:
        yield group


def _step(series: Series, plan: _Plan) -> DistillReport:
    tables, before = [], 0
    kept = SWEPT if len(plan.pieces) > 1 else SWEPT | BULK  # what is true of all pieces; a leap is left before each
    for piece in plan.pieces:
        if piece.entry is not None:
            tables.append((np.arange(piece.first, piece.end), series.block(int(piece.entry["id"])).whole()))
            before += int(piece.entry["size"])
            kept &= int(piece.entry["flags"])
    ranges = [(piece.first, piece.end) for piece in plan.pieces if piece.entry is None]
    if ranges:
        kept = 0
        with series.working():
            for part in plan.parts:
                mask = np.zeros(part.count, np.bool_)
                for first, end in ranges:
                    mask |= (part.numbers >= first) & (part.numbers < end)
                if mask.any():
                    cut = part.cut(mask)
                    columns = cut.columns(cut.names)
                    rows = Rows(cut.ts_event, cut.ts_known, columns, cut.metadata(), cut.embedded)
                    tables.append((cut.numbers, rows))
                    before += int(mask.sum()) * (part.layout.dtype.itemsize + _RECORD_BYTES)
    rows = combined(tables)
    if len(rows.ts_event) != plan.rows:
        raise Changed
    data = encode_block(rows, "best")
    row = plan.row
    entry = block_entry(rows, plan.pieces[0].first, row.next_block, len(data), BEST | kept)
    removed = [int(piece.entry["id"]) for piece in plan.pieces if piece.entry is not None]
    new = msgspec.structs.replace(row.with_blocks(entry, removed), next_block=row.next_block + 1)
    key = row_key(row.id, row.next_block)
    added = series.update(
        lambda current: new if current is row else None, lambda _: [Change("put", BLOCKS, key, data, own=True)]
    )
    if not added:
        raise Changed
    raw = 8 * sum(int(it.present.sum()) if it.present is not None else plan.rows for it in rows.columns.values())
    return DistillReport(0, plan.rows, 1, before, len(data), raw + 16 * plan.rows)


# ---- what is left over -----------------------------------------------------------------------------------------------


def sweep(series: Series, now: int) -> None:
    """Delete what means nothing any more: blocks that others replaced, and rows under their keys that blocks have."""
    row = series.row()
    if row is None:
        return
    dead = [it for it in row.pending if it.since + _GIVEN_UP < now]
    if dead:

        def give_up(row: SeriesRow) -> SeriesRow | None:
            lost = [it for it in row.pending if it in dead]  # of the others the blocks are in the series by now
            blocks = [number for it in lost for number in range(it.first, it.first + it.blocks)]
            pending = tuple(it for it in row.pending if it not in lost)
            return msgspec.structs.replace(row, pending=pending, garbage=(*row.garbage, *blocks)) if lost else None

        series.update(give_up)
        row = series.ensure()
    gone = row.garbage
    for some in _chunks(gone, _SWEPT_AT_ONCE):
        series.engine.drop(BLOCKS, [row_key(row.id, number) for number in some])
    unswept = [entry for entry in row.entries if not entry["flags"] & SWEPT]
    for numbers in _left_over(unswept):
        for some in _chunks(sorted(series.fetch(numbers)), _SWEPT_AT_ONCE):
            series.engine.drop(ROWS, [row_key(row.id, number) for number in some])
    for numbers in _left_over(entry for entry in unswept if entry["flags"] & DROPPED):
        for some in _chunks(sorted(series.vectors(numbers)), _SWEPT_AT_ONCE):
            series.engine.drop(VECTORS, [row_key(row.id, number) for number in some])
    if gone or unswept:
        garbage, swept = set(gone), [int(entry["id"]) for entry in unswept]

        def note(row: SeriesRow) -> SeriesRow:
            entries = row.entries.copy()
            entries["flags"] |= np.where(np.isin(entries["id"], np.array(swept, np.uint64)), SWEPT, 0).astype(np.uint32)
            left = tuple(it for it in row.garbage if it not in garbage)
            return msgspec.structs.replace(row, blocks=entries.tobytes(), garbage=left)

        series.update(note)


def _left_over(entries: Iterable[Any]) -> Iterator[Sequence[int]]:
    """Yield numbers under which rows of these blocks, or leaps over them, may be left."""
    alone = []
    for entry in entries:
        first, end = int(entry["first"]), int(entry["first"]) + int(entry["rows"])
        if entry["flags"] & BULK:  # these never stood alone; only what leads to them did
            alone.append(first)
            continue
        for begin in range(first, end, _LOOKED):
            yield range(begin, min(begin + _LOOKED, end))
    yield from _chunks(alone, _LOOKED)


def _chunks(numbers: Sequence[int], size: int) -> Iterator[Sequence[int]]:
    return (numbers[begin : begin + size] for begin in range(0, len(numbers), size))


class Background:
    """Distills series on a thread of its own, which runs while there is any to distill.

    `work` is called with a series, and with what says whether it is to stop.

    **Thread safety**: all methods may be called from any thread, and from signal handlers.
    """

    def __init__(self, work: Callable[[Series, Callable[[], bool]], object]) -> None:
        self._work = work
        self._lock = threading.RLock()
        self._waiting: dict[Series, None] = {}
        self._thread: threading.Thread | None = None
        self._stopped = False
        self._process = os.getpid()

    def wake(self, series: Series) -> None:
        """Distill a series soon."""
        with self._lock:
            self._waiting[series] = None
            if self._thread is not None or self._stopped:
                return
            thread = self._thread = threading.Thread(target=self._run, name="ntmem-distill", daemon=True)
            try:
                thread.start()
            except RuntimeError:  # there are too many threads: what was written is there without it
                self._thread = None
                _log.warning("observations could not be distilled: no thread could be started", exc_info=True)

    def _run(self) -> None:
        while True:
            with self._lock:
                if not self._waiting or self._stopped:
                    self._thread = None
                    return
                series = next(iter(self._waiting))
                del self._waiting[series]
            try:
                self._work(series, lambda: self._stopped)
            except StoreClosed:
                continue
            except Exception:  # whatever it was, the next who crosses the threshold tries again
                _log.warning("a series of observations could not be distilled", exc_info=True)

    def close(self) -> None:
        """Wait for the step that is being done, and do no more."""
        if os.getpid() != self._process:
            return
        self._stopped = True
        with self._lock:
            self._waiting.clear()
            thread = self._thread
        if thread is not None and thread is not threading.current_thread() and thread.is_alive():
            thread.join()
