"""The rows of a replay as numbers: what the feeder observes step by step, and what is found again is held against.

**Invariants**

1. Rows stand in the order in which they were known, of all files together: those of step `n` are the next
   ``step.rows`` after those of the steps before.
2. A number is the float64 nearest to the text of the file; NaN stands for an empty field and nothing else.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator, Sequence
from math import isnan
from typing import TYPE_CHECKING, Any

import numpy as np

from .market import MarketFile, Row

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from .steps import Step

Fields = dict[str, float | int]
Columns = dict[str, "NDArray[Any]"]

RECEIVED = "received"
"""The field that holds when a row was received, where the file says that beside when it happened."""
_FIELDS = {
    "quotes": {"bid": "bid", "ask": "ask", "bid_size": "bid_size", "ask_size": "ask_size", "last": "last"},
    "trades": {"price": "last", "quantity": "quantity"},
    "bars": {"open": "open", "high": "high", "low": "low", "close": "last", "volume": "quantity"},
}
_KINDS = tuple(_FIELDS)


class _Part:
    """Rows of one kind; eight bytes a number."""

    def __init__(self, kind: str, *, has_received: bool) -> None:
        self.names = tuple(_FIELDS[kind])
        self._places = [Row._fields.index(place) for place in _FIELDS[kind].values()]
        self._has_received = has_received
        self.events, self.received = array("q"), array("q")
        self.columns = [array("d") for _ in self.names]

    def keep(self, row: Row) -> None:
        self.events.append(row.ts_event)
        if self._has_received:
            self.received.append(row.ts_known)
        for column, place in zip(self.columns, self._places, strict=True):
            column.append(float(row[place] or "nan"))

    def fields(self, number: int) -> Fields:
        """Return what a row has, to be appended."""
        found: Fields = {}
        for name, column in zip(self.names, self.columns, strict=True):
            value = column[number]
            if not isnan(value):
                found[name] = value
        if self._has_received:
            found[RECEIVED] = self.received[number]
        return found

    def all(self) -> Columns:
        """Return everything as arrays."""
        found = {"ts_event": np.array(self.events, np.int64)}
        found |= {name: np.array(column) for name, column in zip(self.names, self.columns, strict=True)}
        if self._has_received:
            found[RECEIVED] = np.array(self.received, np.int64)
        return found


class Tape:
    """All rows of the files of a replay; some eight bytes a number."""

    def __init__(self, files: Sequence[MarketFile]) -> None:
        both = {file.kind for file in files if {"ts_event", "ts_known"} <= file.layout.positions.keys()}
        self._parts = [_Part(kind, has_received=kind in both) for kind in _KINDS]
        self._order = array("B")

    def keep(self, rows: Iterable[Row]) -> Iterator[Row]:
        """Yield rows as they come, and keep them."""
        for row in rows:
            kind = 2 if row.open else 0 if row.bid else 1
            self._order.append(kind)
            self._parts[kind].keep(row)
            yield row

    def play(self) -> Iterator[tuple[str, int, Fields]]:
        """Yield kind, `ts_event` and fields of all rows, as they were known."""
        numbers = [0] * len(_KINDS)
        for kind in self._order:
            part, number = self._parts[kind], numbers[kind]
            numbers[kind] += 1
            yield _KINDS[kind], part.events[number], part.fields(number)

    def shown(self, steps: Sequence[Step]) -> dict[str, Columns]:
        """Return all rows of these steps by kind, with the time of their step as ``ts_known``."""
        known = np.repeat(np.array([step.ts for step in steps], np.int64), [step.rows for step in steps])
        order = np.array(self._order[: len(known)])
        found = {}
        for number, (kind, part) in enumerate(zip(_KINDS, self._parts, strict=True)):
            times = known[order == number]
            if len(times):
                columns = {name: column[: len(times)] for name, column in part.all().items()}
                found[kind] = columns | {"ts_known": times}
        return found
