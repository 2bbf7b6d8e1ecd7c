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
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec
import numpy as np

from ..errors import CorruptionError, NtmemError, StoreClosed
from ..records import Change
from .layout import _HEADER
from .liverows import Gone, LivePart
from .series import (
    BEST,
    BLOCK_ROWS,
    BLOCKS,
    BULK,
    ROWS,
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
_SWEPT = 256  # keys in a group: others may write in between
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


def distill(series: Series, horizon: int, now: int, *, least: int = 1) -> DistillReport:
    """Distill the rows of a series that were known up to `horizon`, or are known only after `now`.

    Rows loaded ahead of the clock came in bulk and are settled, too. Live rows are left where they make no block of
    `least` rows.
    """
    report = DistillReport()
    _sweep(series, now)
    begin = failed = 0
    while failed < _ATTEMPTS:
        try:
            plan = _planned(series, horizon, now, least, begin)
            if plan is None:
                return report._replace(series=1) if report.rows else report
            begin = plan.pieces[0].first
            report = report.plus(_step(series, plan))
        except (Changed, Gone):
            failed += 1
            continue
        failed = 0
        _sweep(series, now)
    raise CorruptionError(f"{series.key!r} has rows that cannot be read as it says they stand; restore a backup")


def _planned(series: Series, horizon: int, now: int, least: int, begin: int) -> _Plan | None:
    with series.lock:
        row, parts = series.live()
        if row is None:
            return None
        pieces = [piece for piece in _pieces(row, _settled(parts, horizon, now)) if piece.first >= begin]
    for group in _groups(pieces):
        alone = any(piece.entry is None for piece in group) and group[-1].end - group[0].first < least
        for some in [[piece] for piece in group if piece.entry is not None] if alone else [group]:
            if len(some) > 1 or some[0].entry is None or not some[0].entry["flags"] & BEST:
                return _Plan(row, some, parts)
    return None


def _settled(parts: Sequence[LivePart], horizon: int, now: int) -> NDArray[np.int64]:
    """Return the numbers of live rows that are to be distilled."""
    found = [part.numbers[(part.ts_known <= horizon) | (part.ts_known > now)] for part in parts]
    return np.sort(np.concatenate(found)) if found else np.empty(0, np.int64)


def _pieces(row: SeriesRow, live: NDArray[np.int64]) -> list[_Piece]:
    pieces = [_Piece(int(entry["first"]), int(entry["first"]) + int(entry["rows"]), entry) for entry in row.entries]
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
    bulk = BULK
    for piece in plan.pieces:
        if piece.entry is not None:
            tables.append((np.arange(piece.first, piece.end), series.block(int(piece.entry["id"])).whole()))
            before += int(piece.entry["size"])
            bulk &= int(piece.entry["flags"])
    ranges = [(piece.first, piece.end) for piece in plan.pieces if piece.entry is None]
    if ranges:
        bulk = 0
        with series.lock:
            for part in plan.parts:
                mask = np.zeros(part.count, np.bool_)
                for first, end in ranges:
                    mask |= (part.numbers >= first) & (part.numbers < end)
                if mask.any():
                    tables.append((part.numbers[mask], _live_rows(part, mask)))
                    before += int(mask.sum()) * (part.layout.dtype.itemsize + _RECORD_BYTES)
    rows = combined(tables)
    if len(rows.ts_event) != plan.rows:
        raise Changed
    data = encode_block(rows, "best")
    row = plan.row
    entry = block_entry(rows, plan.pieces[0].first, row.next_block, len(data), BEST | bulk)
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


def _live_rows(part: LivePart, mask: NDArray[np.bool_]) -> Rows:
    columns = {name: Column(it.values[mask]) for name, it in part.columns(part.names).items()}
    metadata, embedded = part.metadata(), part.embedded
    return Rows(
        part.ts_event[mask],
        part.ts_known[mask],
        columns,
        None if metadata is None else [metadata[place] for place in np.flatnonzero(mask)],
        None if embedded is None else embedded[mask],
    )


# ---- what is left over -----------------------------------------------------------------------------------------------


def _sweep(series: Series, now: int) -> None:
    """Delete what means nothing any more: blocks that others replaced, and rows under their keys that blocks have."""
    row = series.row()
    if row is None:
        return
    dead = [it for it in row.pending if it.since + _GIVEN_UP < now]
    if dead:
        lost = [number for it in dead for number in range(it.first, it.first + it.blocks)]

        def give_up(row: SeriesRow) -> SeriesRow:
            pending = tuple(it for it in row.pending if it not in dead)
            return msgspec.structs.replace(row, pending=pending, garbage=(*row.garbage, *lost))

        series.update(give_up)
        row = series.ensure()
    gone = row.garbage
    for some in _chunks(gone, _SWEPT):
        series.engine.drop(BLOCKS, [row_key(row.id, number) for number in some])
    clean = series.covered_from_zero(row)
    for numbers in _left_over(row):
        for some in _chunks(sorted(series.fetch(numbers)), _SWEPT):
            series.engine.drop(ROWS, [row_key(row.id, number) for number in some])
    if gone or clean != row.clean:
        garbage = set(gone)

        def note(row: SeriesRow) -> SeriesRow:
            left = tuple(it for it in row.garbage if it not in garbage)
            return msgspec.structs.replace(row, garbage=left, clean=max(clean, row.clean))

        series.update(note)


def _left_over(row: SeriesRow) -> Iterator[Sequence[int]]:
    """Yield numbers that blocks cover and under which rows may be left."""
    alone = []
    for entry in row.entries:
        first, end = int(entry["first"]), int(entry["first"]) + int(entry["rows"])
        if end <= row.clean:
            continue
        if entry["flags"] & BULK:  # these never stood alone; only what leads to them did
            alone.append(first)
            continue
        for begin in range(max(first, row.clean), end, _LOOKED):
            yield range(begin, min(begin + _LOOKED, end))
    yield from _chunks(alone, _LOOKED)


def _chunks(numbers: Sequence[int], size: int) -> Iterator[Sequence[int]]:
    return (numbers[begin : begin + size] for begin in range(0, len(numbers), size))


class Background:
    """Distills series on a thread of its own, which runs while there is any to distill.

    **Thread safety**: all methods may be called from any thread.
    """

    def __init__(self, work: Callable[[Series], object]) -> None:
        self._work = work
        self._lock = threading.Lock()
        self._waiting: dict[Series, None] = {}
        self._thread: threading.Thread | None = None

    def wake(self, series: Series) -> None:
        """Distill a series soon."""
        with self._lock:
            self._waiting[series] = None
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="ntmem-distill", daemon=True)
                self._thread.start()

    def _run(self) -> None:
        while True:
            with self._lock:
                if not self._waiting:
                    self._thread = None
                    return
                series = next(iter(self._waiting))
                del self._waiting[series]
            try:
                self._work(series)
            except StoreClosed:
                continue
            except (NtmemError, ValueError):  # the next who crosses the threshold tries again
                _log.warning("a series of observations could not be distilled", exc_info=True)

    def close(self) -> None:
        """Wait for the step that is being done, and do no more."""
        with self._lock:
            self._waiting.clear()
            thread = self._thread
        if thread is not None and thread is not threading.current_thread():
            thread.join()
