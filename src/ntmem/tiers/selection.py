"""What a reader of a series asks for: which parts to look into, which rows of them, in which order, in which columns.

A part is a block or some live rows. What the series knows of a part (the bounds of its times) decides whether it is
read at all; then its times are, and only where a row is wanted the fields that are asked for.

**Invariant** (I7): with `as_of` nothing of a row known later has an influence: neither on which rows there are nor on
their order, nor on which fields there are and of which type.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import msgspec
import numpy as np

from ..errors import CorruptionError
from .liverows import Gone, LiveCut, LivePart
from .series import RESERVED, SORTED, TIMES, Column, Layout, SeriesRow, StoredBlock, widened
from .seriesstate import Changed, Series

if TYPE_CHECKING:
    from numpy.typing import NDArray

_ATTEMPTS = 1000


_SPECIAL = {"row": "i", "metadata": "o", "embedding": "o"}
_DTYPES = {"i": "<i8", "f": "<f8", "o": "O"}


class Field(NamedTuple):
    """A column of the result: "i" int64, "f" float64, "o" objects."""

    name: str
    kind: str


class Part(Protocol):
    """What rows are picked from."""

    @property
    def ts_event(self) -> NDArray[np.int64]:
        """Of all rows."""

    @property
    def ts_known(self) -> NDArray[np.int64]:
        """Of all rows."""

    def columns(self, names: Iterable[str]) -> dict[str, Column]:
        """Return those columns of fields that there are."""

    def metadata(self) -> list[bytes] | None:
        """Return that of each row."""

    @property
    def embedded(self) -> NDArray[np.bool_] | None:
        """Which rows have an embedding; None: none has."""


class Pick(NamedTuple):
    """Rows that may be in the result: their part, their places there, numbers and times."""

    part: LiveCut | StoredBlock
    places: Any
    numbers: NDArray[np.int64]
    ts_event: NDArray[np.int64]
    in_order: bool


class Shape(NamedTuple):
    """The columns of a result, its type, and what parts are asked for."""

    fields: tuple[Field, ...]
    dtype: np.dtype[Any]
    columns: tuple[str, ...]


@lru_cache(1024)
def shape_of(layouts: tuple[Layout, ...], wanted: tuple[str, ...] | None) -> Shape:
    """Return what a result of rows of these layouts is like, with all fields or those that are wanted.

    A field is of whole numbers if it is so in all the layouts; if one lacks it, it is float64.

    Raises
    ------
    KeyError
        There is no such field, though there are rows.
    """
    in_order = sorted(layouts, key=lambda it: (it.earliest, it.names, it.kinds))  # their numbers tell of later rows
    every = [dict(zip(it.names, it.kinds, strict=True)) for it in in_order]
    names = list(dict.fromkeys(name for layout in every for name in layout))
    kinds = {name: "i" if all(layout.get(name) == "i" for layout in every) else "f" for name in names}
    for name in wanted or ():
        if every and name not in kinds and name not in RESERVED:
            raise KeyError(f"there is no field {name!r}; there are {', '.join(names)}")
    chosen = names if wanted is None else [it for it in dict.fromkeys(wanted) if it not in ("ts_event", "ts_known")]
    fields = tuple(Field(name, _SPECIAL.get(name) or kinds.get(name, "f")) for name in chosen)
    dtype = np.dtype([*TIMES, *((field.name, _DTYPES[field.kind]) for field in fields)])
    return Shape(fields, dtype, tuple(kind + field.name for field in fields for kind in "fi" if field.kind != "o"))


class Query:
    """One question to a series, as of an instant, for some fields."""

    def __init__(self, series: Series, as_of: int, wanted: Sequence[str] | None) -> None:
        self._series = series
        self._as_of = as_of
        self._wanted = wanted

    def range(self, start: int, end: int) -> NDArray[Any]:
        """Return the rows with start <= ts_event < end, by ts_event and number."""
        return self._consistent(lambda view: view.take_range(start, end), lambda view: view.add_range(start, end))

    def recent(self, count: int) -> NDArray[Any]:
        """Return the last `count` rows by ts_event and number, in that order."""
        return self._consistent(lambda view: view.take_recent(count), lambda view: view.add_recent(count))

    def _consistent(self, take: Callable[[View], None], add: Callable[[View], NDArray[Any]]) -> NDArray[Any]:
        for _ in range(_ATTEMPTS):
            try:
                with self._series.working():  # live rows are copied before others may be added
                    row, live = self._series.live()
                    known = () if row is None else tuple(it for it in row.layouts if it.earliest <= self._as_of)
                    shape = shape_of(known, self._wanted)
                    if row is None:
                        return np.empty(0, shape.dtype)
                    view = View(self._series, row, live, self._as_of, shape)
                    take(view)
                return add(view)
            except (Changed, Gone):  # it was distilled meanwhile
                continue
        raise CorruptionError(f"{self._series.key!r} cannot be read as it says it stands; restore a backup")


class View:
    """A series as of one moment, and what is asked of it: taken from live rows first, then added from blocks."""

    def __init__(self, series: Series, row: SeriesRow, live: Sequence[LivePart], as_of: int, shape: Shape) -> None:
        self._series = series
        self._entries = row.entries
        self._live = [part for part in live if part.known_min <= as_of]
        self._as_of = as_of
        self._fields, self._dtype, self._columns = shape
        self._picks: list[Pick] = []
        self._newest_first: NDArray[Any] | None = None

    # -- which rows

    def take_range(self, start: int, end: int) -> None:
        """Take the live rows with start <= ts_event < end."""
        for part in self._live:
            if part.event_max >= start and part.event_min < end:
                self._take_live(part, start, end)

    def add_range(self, start: int, end: int) -> NDArray[Any]:
        """Return them with those of blocks."""
        it = self._entries
        for entry in it[(it["event_max"] >= start) & (it["event_min"] < end) & (it["known_min"] <= self._as_of)]:
            self._take_of_block(entry, start, end)
        return self._joined()

    def take_recent(self, count: int) -> None:
        """Take the live rows that may be among the last."""
        least = 0
        for part in sorted(self._live, key=lambda part: part.event_max, reverse=True):
            if part.event_max < least:
                break
            self._take_live(part, 0, None, count)
            least = self._least(count)
        self._newest_first = self._series.by_event()

    def add_recent(self, count: int) -> NDArray[Any]:
        """Return the last rows of these and of blocks."""
        assert self._newest_first is not None
        least = self._least(count)
        for place in self._newest_first:
            entry = self._entries[place]
            if entry["event_max"] < least:
                break
            if entry["known_min"] <= self._as_of:
                self._take_of_block(entry, 0, None, count)
                least = self._least(count)
        return self._joined(count)

    def _least(self, count: int) -> int:
        """Return the ts_event before which no row can be among the last, with what was taken so far."""
        found = sum(len(pick.numbers) for pick in self._picks)
        if found < count:
            return 0
        if len(self._picks) == 1 and self._picks[0].in_order:
            return int(self._picks[0].ts_event[-count])
        events = np.concatenate([pick.ts_event for pick in self._picks])
        return int(np.partition(events, found - count)[found - count])

    # -- what of them

    def _take_live(self, part: LivePart, start: int, end: int | None, last: int | None = None) -> None:
        self._take(part, part.numbers, part.is_sorted, part.known_max, start, end, last)

    def _take_of_block(self, entry: Any, start: int, end: int | None, last: int | None = None) -> None:
        block = self._series.block(int(entry["id"]))
        numbers = np.arange(int(entry["first"]), int(entry["first"]) + int(entry["rows"]))
        self._take(block, numbers, bool(entry["flags"] & SORTED), int(entry["known_max"]), start, end, last)

    def _take(
        self,
        part: LivePart | StoredBlock,
        numbers: NDArray[np.int64],
        is_sorted: bool,
        known_max: int,
        start: int,
        end: int | None,
        last: int | None,
    ) -> None:
        """Take the rows of a part in a range (`end` None: no end), or the last of them."""
        event = part.ts_event
        if is_sorted:
            high = len(event) if end is None else int(np.searchsorted(event, end))
            low = int(np.searchsorted(event, start)) if start else 0
            rows: Any = slice(low, high)
            if known_max > self._as_of:
                rows = low + np.flatnonzero(part.ts_known[low:high] <= self._as_of)
                if last is not None:
                    rows = rows[-last:]
            elif last is not None:
                rows = slice(max(low, high - last), high)
        else:
            mask = event >= start
            if end is not None:
                mask &= event < end
            if known_max > self._as_of:
                mask &= part.ts_known <= self._as_of
            rows = np.flatnonzero(mask)
            if last is not None:
                rows = _last(rows, event[rows], last)
        picked = numbers[rows]
        if not len(picked):
            return
        if isinstance(part, LivePart):
            cut = part.cut(rows)
            self._picks.append(Pick(cut, slice(None), cut.numbers, cut.ts_event, is_sorted))
        else:
            self._picks.append(Pick(part, rows, picked, event[rows], is_sorted))

    # -- the result

    def _joined(self, count: int | None = None) -> NDArray[Any]:
        """Return what was taken, or the last of it, by ts_event and number. Only these rows are read whole."""
        picks = sorted(self._picks, key=lambda pick: int(pick.numbers[0]))
        if not picks:
            return np.empty(0, self._dtype)
        if len(picks) == 1 and picks[0].in_order:
            chosen = slice(0 if count is None else max(0, len(picks[0].numbers) - count), None)
            return self._filled(picks[0], chosen)
        numbers = np.concatenate([pick.numbers for pick in picks])
        event = np.concatenate([pick.ts_event for pick in picks])
        ends = np.cumsum([len(pick.numbers) for pick in picks]).tolist()
        if not (event[1:] < event[:-1]).any() and not (numbers[1:] < numbers[:-1]).any():
            first = 0 if count is None else max(0, len(numbers) - count)
            table = np.empty(len(numbers) - first, self._dtype)
            for pick, begin, end in zip(picks, [0, *ends], ends, strict=False):
                if end > first:
                    table[max(begin - first, 0) : end - first] = self._filled(pick, slice(max(first - begin, 0), None))
            return table
        order = np.lexsort((numbers, event))[0 if count is None else -count :]
        table = np.empty(len(order), self._dtype)
        for pick, begin, end in zip(picks, [0, *ends], ends, strict=False):
            where = np.flatnonzero((order >= begin) & (order < end))
            if len(where):
                table[where] = self._filled(pick, order[where] - begin)
        return table

    def _filled(self, pick: Pick, chosen: Any) -> NDArray[Any]:
        """Return some rows of a pick as the result has them."""
        part = pick.part
        if isinstance(part, LiveCut) and (whole := part.table(self._dtype)) is not None:
            some: NDArray[Any] = whole[chosen]
            return some
        numbers = pick.numbers[chosen]
        rows = _part_of(pick.places, chosen, len(part.ts_event))
        table = np.empty(len(numbers), self._dtype)
        table["ts_event"], table["ts_known"] = part.ts_event[rows], part.ts_known[rows]
        columns = {
            name: Column(it.values[rows], None if it.present is None else it.present[rows])
            for name, it in part.columns(self._columns).items()
        }
        for name, kind in self._fields:
            if name == "row":
                table[name] = numbers
            elif name == "metadata":
                table[name] = _objects(_metadata(part, rows, len(numbers)))
            elif name == "embedding":
                table[name] = _objects(self._embeddings(part, numbers, rows))
            elif kind == "i":
                table[name] = columns["i" + name].values
            else:
                table[name] = widened(columns, len(numbers), name)
        return table

    def _embeddings(self, part: Part, numbers: NDArray[np.int64], rows: Any) -> list[Any]:
        embedded = part.embedded
        if embedded is None:
            return [None] * len(numbers)
        wanted = numbers[embedded[rows]].tolist()
        found = self._series.vectors(wanted)
        return [np.frombuffer(found[it], "<f4").copy() if it in found else None for it in numbers.tolist()]


def _part_of(places: Any, chosen: Any, count: int) -> Any:
    """Return which of `count` rows are `chosen` ones of those at `places`; a slice if both are."""
    if not isinstance(places, slice):
        return places[chosen]
    every = range(count)[places]
    if isinstance(chosen, slice):
        some = every[chosen]
        return slice(some.start, some.stop)
    return every.start + chosen


def _last(rows: NDArray[np.intp], event: NDArray[np.int64], count: int) -> NDArray[np.intp]:
    """Return the last of some rows, by ts_event and number; they come by number."""
    if len(rows) <= count:
        return rows
    least = np.partition(event, len(event) - count)[len(event) - count]
    later = rows[event > least]
    return np.sort(np.concatenate((later, rows[event == least][len(later) - count :])))


def _metadata(part: Part, rows: Any, count: int) -> list[Any]:
    every = part.metadata()
    if every is None:
        return [None] * count
    return [msgspec.msgpack.decode(every[i]) if every[i] else None for i in np.arange(len(every))[rows].tolist()]


def _objects(values: Sequence[Any]) -> NDArray[Any]:
    found = np.empty(len(values), object)  # filled one by one: arrays would make more dimensions of it
    for place, value in enumerate(values):
        found[place] = value
    return found
