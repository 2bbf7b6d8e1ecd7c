"""A series as this process knows it: what the store says of it, its live rows, where it ends, and how it is changed.

**Invariants**

- I1: what was acknowledged is seen. The row of the series is read anew when its key was written since; live rows are
  followed up to the first number that is not taken, and that counts only if no row was distilled meanwhile.
- I2: rows become visible by one group. Blocks are written before, as `pending`; the group that adds them to the series
  takes that away, and is refused if somebody did so before, who took their writer for dead.
- A number is given to one row. Who writes one does so on the condition that it is not taken and never was since this
  process looked: the log has everything since, or else the row of the series is as it was.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from itertools import takewhile
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec
import numpy as np

from .._core.logrecords import ValueTooLarge
from .._core.rows import RowLayout, RowLog, Tail
from ..errors import CorruptionError, NtmemError, StorageError, VersionConflict
from ..records import Change
from .engine import LmdbEngine
from .liverows import Budget, Gone, LivePart
from .log import LogEngine
from .logreads import encoded
from .series import (
    BLOCKS,
    JUMP,
    ROWS,
    SERIES,
    VECTORS,
    Pending,
    SeriesRow,
    StoredBlock,
    decode_series,
    encode_series,
    layout_number,
    row_key,
    series_key,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray

_FEW, _FOLLOWED = 8, 512  # rows at once: in the first look at the disk, in others
_PROBES = 32
_MOST = 1 << 48
_ATTEMPTS = 1000
_IDS = b"\0ids"  # no series has this key


class Draft(NamedTuple):
    """A row to be written: its value, and its embedding (None: it has none)."""

    value: bytes
    vector: bytes | None = None


class Cover(NamedTuple):
    """Which numbers of rows blocks cover: from `starts` to before `ends`, by number."""

    starts: NDArray[np.int64]
    ends: NDArray[np.int64]

    def has(self, numbers: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Return which of these numbers are covered."""
        if not len(self.starts):
            return np.zeros(len(numbers), np.bool_)
        place = self.starts.searchsorted(numbers, "right") - 1
        return (place >= 0) & (numbers < self.ends[place])

    def behind(self, number: int) -> int:
        """Return the first number from this one on that is not covered."""
        while True:
            place = int(self.starts.searchsorted(number, "right")) - 1
            if place < 0 or number >= self.ends[place]:
                return number
            number = int(self.ends[place])

    def gap(self, number: int, most: int) -> int:
        """Return how many numbers from this one on are not covered, `most` at most."""
        place = int(self.starts.searchsorted(number))
        return min(most, int(self.starts[place]) - number) if place < len(self.starts) else most

    @property
    def end(self) -> int:
        """Behind the last number that is covered."""
        return int(self.ends[-1]) if len(self.ends) else 0


_NOTHING = Cover(np.empty(0, np.int64), np.empty(0, np.int64))


class Changed(Exception):
    """The series was changed meanwhile: look again."""


class Series:
    """One series of one engine.

    **Thread safety**: all methods may be called from any thread.
    """

    def __init__(
        self, engine: LmdbEngine, rows: RowLog | None, labels: tuple[str, ...], symbol: bytes, budget: Budget
    ) -> None:
        self.engine = engine
        self.key = series_key(labels, symbol)
        self.lock = threading.RLock()
        self.tail: Tail | None = None
        self._rows = rows
        self._budget = budget
        self._row: SeriesRow | None = None
        self._version = 0
        self._token: tuple[int, int, int] | None = None
        self._cover = _NOTHING
        self._worker: int | None = None
        self._by_event: NDArray[Any] | None = None
        self._parts: list[LivePart] = []
        self._open: dict[int, LivePart] = {}  # those that are not full, by layout
        self._next = 0  # number of the first row that was not followed
        self._absent_at: tuple[int, int] | None = None  # mark of the log: it was not there before

    @property
    def waits_for_disk(self) -> bool:
        """Whether a change is acknowledged only when it is on disk. (LMDB's own are, without waiting.)"""
        return isinstance(self.engine, LogEngine) and self.engine.waits_for_disk

    # -- what the store says of it

    @contextmanager
    def working(self) -> Iterator[None]:
        """Keep others out. What an interruption or a failure left half done is forgotten."""
        with self.lock:
            outer, self._worker = self._worker, threading.get_ident()
            try:
                yield
            except (Changed, Gone, KeyError, ValueError):  # these come from a look, which leaves nothing half done
                raise
            except BaseException:
                self._forget()
                self._row, self._token, self._version = None, None, 0
                raise
            finally:
                self._worker = outer
                if outer is None:
                    self._budget.shrink()

    @property
    def is_interrupted(self) -> bool:
        """Whether this thread is at work on it: who asks is a signal handler, to whom it may look half done."""
        return self._worker == threading.get_ident()

    def row(self) -> SeriesRow | None:
        """Return what the store says of the series now; the same object while that does not change."""
        with self.working():
            token = None if self._rows is None else self._rows.newest(encoded(SERIES), self.key)
            if token is not None and token == self._token:
                return self._row
            record = self.engine.get_record(SERIES, self.key, None)
            if record is None or record.value is None:
                self._row, self._version = None, 0
            elif record.version != self._version:
                row = decode_series(record.value)
                if row != self._row:
                    self._take(row)
                self._version = record.version
            self._token = token
            return self._row

    def _take(self, row: SeriesRow) -> None:
        entries = row.entries
        self._row, self._by_event = row, None
        self._absent_at = None  # what was absent may have been distilled: that says nothing of the numbers behind it
        starts = entries["first"].astype(np.int64)
        self._cover = Cover(starts, starts + entries["rows"])
        for part in self._parts:
            covered = self._cover.has(part.numbers)
            if covered.all():
                self._budget.drop(part)
            elif covered.any():
                try:
                    part.keep(~covered)
                except Gone:
                    self._forget()
                    return
        self._parts = [part for part in self._parts if not self._cover.has(part.numbers).all()]
        self._open = {number: part for number, part in self._open.items() if part in self._parts}

    def _forget(self) -> None:
        """Follow the live rows from the first on."""
        for part in self._parts:
            self._budget.drop(part)
        self._parts, self._open, self._next, self._absent_at = [], {}, 0, None

    def by_event(self) -> NDArray[Any]:
        """Return the blocks' places, the one with the newest row first."""
        assert self._row is not None
        if self._by_event is None:
            self._by_event = np.argsort(self._row.entries["event_max"], kind="stable")[::-1]
        return self._by_event

    def update(
        self,
        change: Callable[[SeriesRow], SeriesRow | None],
        also: Callable[[SeriesRow], list[Change]] = lambda row: [],
        *,
        durable: bool = False,
    ) -> bool:
        """Change what the store says of the series, and with it, in one group, what `also` returns.

        `change` returns None to leave it; that is returned as False. `durable`: wait for the disk if the store's writes
        do. Raises :class:`Changed` where `also` does not fit.
        """
        for _ in range(_ATTEMPTS):
            row, version = self._current()
            new = change(row)
            if new is None:
                return False
            group = [Change("put", SERIES, self.key, encode_series(new), if_version=version, own=True), *also(new)]
            try:
                self.engine.commit(group, durable and self.waits_for_disk)
                return True
            except VersionConflict:
                if len(group) > 1 and self.row() is row:
                    raise Changed from None
        raise StorageError(f"others changed {self.key!r} {_ATTEMPTS} times while it was to be changed; try again")

    def _current(self) -> tuple[SeriesRow, int]:
        with self.lock:
            row = self.row()
            if row is not None:
                return row, self._version
        number = self.engine.commit([Change("incr", SERIES, _IDS, delta=1, own=True)])[0].number
        return SeriesRow(number), 0

    def ensure(self) -> SeriesRow:
        """Return what the store says of the series, which is made if there is none."""
        row = self.row()
        if row is None:
            self.update(lambda row: row)
            row = self.row()
        assert row is not None
        return row

    def block(self, number: int) -> StoredBlock:
        """Return a block; raise :class:`Changed` if it is gone."""
        row = self._row
        data = None if row is None else self.engine.get(BLOCKS, row_key(row.id, number))
        if data is None:
            raise Changed
        return StoredBlock(data)

    # -- its live rows

    def live(self) -> tuple[SeriesRow | None, list[LivePart]]:
        """Return what the store says of the series, and all rows that no block has, as of one moment."""
        with self.working():
            for _ in range(_ATTEMPTS):
                row = self.row()
                if row is None:
                    return None, []
                with suppress(Gone):  # rows that were given up, and distilled since: `row` says so next time
                    if self._follow(row) and self.row() is row:
                        return row, list(self._parts)
            raise CorruptionError(f"{self.key!r} has a row that leads to blocks which it does not have")

    def _follow(self, row: SeriesRow) -> bool:
        """Bring on what came; False: it leads to what `row` does not have yet."""
        batch = _FEW
        while True:
            self._next = self._cover.behind(self._next)
            most = self._cover.gap(self._next, _FOLLOWED)
            absent_at = self._mark()  # before anything is looked for
            found, absent = ([], False) if self._rows is None else self._rows.follow(row.id, self._next, most)
            if not found and not (absent and self._is_all_in_log()):
                numbers = range(self._next, self._next + min(most, batch))
                fetched = self.fetch(numbers)
                found = [fetched[number] for number in takewhile(fetched.__contains__, numbers)]
                batch = _FOLLOWED
            if not found:
                self._absent_at = absent_at
                return True
            if not self._take_rows(row, found):
                return False

    def _is_all_in_log(self) -> bool:
        """Whether the next row, if there is one, is in the log."""
        return self._rows is not None and self._absent_at is not None and self._rows.reaches(*self._absent_at)

    def _take_rows(self, row: SeriesRow, found: Sequence[bytes]) -> bool:
        """Add rows from `_next` on; False: they lead to blocks that `row` does not have yet."""
        begin = 0
        while begin < len(found):
            number = layout_number(found[begin])
            if number == JUMP or number >= len(row.layouts):
                return False
            end = begin + 1
            while end < len(found) and layout_number(found[end]) == number:
                end += 1
            self._add(row, number, found[begin:end])
            begin = end
        return True

    def _add(self, row: SeriesRow, number: int, rows: Sequence[bytes]) -> None:
        part = self._open.get(number)
        if part is None or part.is_full:
            part = self._open[number] = LivePart(row.layouts[number], self.fetch, self._budget)
            self._parts.append(part)
        part.add(self._next, rows)
        self._next += len(rows)

    def fetch(self, numbers: Sequence[int]) -> dict[int, bytes]:
        """Return the rows that stand under these numbers."""
        assert self._row is not None
        series = self._row.id
        return self.engine.fetch(ROWS, [(number, row_key(series, number)) for number in numbers])

    def vectors(self, numbers: Sequence[int]) -> dict[int, bytes]:
        """Return the embeddings of these rows."""
        assert self._row is not None
        series = self._row.id
        return self.engine.fetch(VECTORS, [(number, row_key(series, number)) for number in numbers])

    # -- writing rows

    def _mark(self) -> tuple[int, int]:
        return self.engine.mark if isinstance(self.engine, LogEngine) else (0, 0)

    def end(self) -> tuple[int, tuple[int, int]]:
        """Return the number that is not taken yet, and a mark of the log at which it was not.

        Complexity: a look at one key where nobody else has written, else a few looks at up to 49: O(log rows since).
        """
        absent_at = self._mark()
        known = self._next if self.tail is None else max(self._next, self.tail.next)
        cover = self._cover
        low = cover.behind(max(known - 1, cover.end))
        if not self.fetch([low]):  # `low` is taken, and `high` is not
            return low, absent_at
        doubling = [1 << power for power in range(_MOST.bit_length())]
        probes = [low + distance for distance in doubling]
        while True:
            taken = self.fetch(probes)
            low = max((low, *taken))
            high = min((probe for probe in probes if probe > low), default=0)
            if not high:  # others have written on meanwhile
                probes = [low + distance for distance in doubling]
                continue
            if high == low + 1:
                return high, absent_at
            step = max(1, (high - low) // _PROBES)
            probes = [*range(low + step, high, step), high]

    def write(self, make: Callable[[SeriesRow], Sequence[Draft]]) -> int:
        """Write live rows that follow each other; return the number of the first. They come as one group."""
        for _ in range(_ATTEMPTS):
            row = self.ensure()
            drafts = make(row)
            row = self.ensure()  # which has their layouts now
            first, absent_at = self.end()
            if self.row() is not row or not self._put(row, first, drafts, absent_at):
                continue
            self._settle(row, first + len(drafts), absent_at, layout_number(drafts[-1].value))
            return first
        raise StorageError(f"others changed {self.key!r} {_ATTEMPTS} times while it was to be written to; try again")

    def _put(self, row: SeriesRow, first: int, drafts: Sequence[Draft], absent_at: tuple[int, int]) -> bool:
        values = [(ROWS, row_key(row.id, number), draft.value) for number, draft in enumerate(drafts, first)]
        values += [
            (VECTORS, row_key(row.id, number), draft.vector)
            for number, draft in enumerate(drafts, first)
            if draft.vector is not None
        ]
        if isinstance(self.engine, LogEngine):
            with suppress(ValueTooLarge):
                return self.engine.put_new(values, absent_at)
        with self.lock:  # on the condition that others have not written there what was distilled meanwhile
            if self.row() is not row:
                return False
            whole = Change("put", SERIES, self.key, encode_series(row), if_version=self._version, own=True)
        changes = [Change("put", labels, key, value, if_version=0, own=True) for labels, key, value in values]
        try:
            self.engine.commit([whole, *changes], self.waits_for_disk)
        except VersionConflict:
            return False
        return True

    def _settle(self, row: SeriesRow, next_number: int, absent_at: tuple[int, int], used: int) -> None:
        if self._rows is None:
            return
        layouts = [
            RowLayout(layout.names, layout.kinds.encode(), number, layout.earliest)
            for number, layout in enumerate(row.layouts)
        ]
        layouts.insert(0, layouts.pop(used))
        with self.lock:
            self.tail = self.tail or Tail(row.id)
            self.tail.settle(next_number, *absent_at, layouts)

    def layout(self, names: tuple[str, ...], kinds: str, known: int) -> tuple[SeriesRow, int]:
        """Return what the store says of the series, and the number of a layout; its rows are known from `known` on."""
        row = self.ensure()
        number = row.layout_of(names, kinds, known)
        if number is None or known < row.layouts[number].earliest:
            self.update(lambda row: row.with_layout(names, kinds, known)[0])
            row = self.ensure()
            number = row.layout_of(names, kinds, known)
        assert number is not None
        return row, number

    # -- blocks

    def reserve_blocks(self, count: int, now: int) -> int:
        """Note that so many blocks are going to be written; return the number of the first."""
        first = 0

        def reserve(row: SeriesRow) -> SeriesRow:
            nonlocal first
            first = row.next_block
            pending = (*row.pending, Pending(first, count, now))
            return msgspec.structs.replace(row, next_block=first + count, pending=pending)

        self.update(reserve)
        return first

    def abandon_blocks(self, first: int, count: int) -> None:
        """Delete blocks that were to be written, unless the series has them; a full store takes that, too."""
        with suppress(NtmemError):
            row = self.ensure()
            if not np.isin(row.entries["id"], np.arange(first, first + count, dtype=np.uint64)).any():
                self.engine.drop(BLOCKS, [row_key(row.id, number) for number in range(first, first + count)])
                self.update(lambda row: without_pending(row, first))


def without_pending(row: SeriesRow, first: int) -> SeriesRow | None:
    """Return the same without the note on blocks from `first` on; None: there is none."""
    pending = tuple(it for it in row.pending if it.first != first)
    return None if len(pending) == len(row.pending) else msgspec.structs.replace(row, pending=pending)
