"""Rows that stand alone in the store, gathered in arrays of this process: the part of a series that is hot.

A :class:`LivePart` holds rows of one layout, up to ``PART_ROWS``. The bytes of full ones may be given up and are
fetched again when they are needed; what they are selected by stays.

**Thread safety**: a part belongs to its series, under whose lock it is used.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from ..errors import CorruptionError
from .series import HAS_EMBEDDING, HAS_METADATA, Column, Layout, metadata_of

if TYPE_CHECKING:
    from numpy.typing import NDArray

PART_ROWS = 4096
_FIRST_ROOM = 64

Fetch = Callable[[Sequence[int]], dict[int, bytes]]
"""Returns rows by their numbers."""


class Gone(Exception):
    """Rows are not in the store any more: they were distilled."""


class _Data(NamedTuple):
    rows: NDArray[Any]
    metadata: dict[int, bytes]  # by number


class LivePart:
    """Some rows of a series, of one layout, by number."""

    def __init__(self, layout: Layout, fetch: Fetch, budget: Budget) -> None:
        self.layout = layout
        self._fetch = fetch
        self._budget = budget
        self._dtype = layout.dtype
        self._data: _Data | None = _Data(np.empty(_FIRST_ROOM, self._dtype), {})
        self._numbers = np.empty(_FIRST_ROOM, np.int64)
        self._metadata_bytes = 0
        self.count = 0
        self.is_sorted = True
        self.event_min = self.known_min = 2**63 - 1
        self.event_max = self.known_max = -1

    @property
    def is_full(self) -> bool:
        """Whether no row is to be added any more."""
        return self.count >= PART_ROWS

    @property
    def nbytes(self) -> int:
        """Bytes of rows that are in memory."""
        data = self._data
        return 0 if data is None else data.rows.nbytes + self._metadata_bytes

    def add(self, first: int, rows: Sequence[bytes]) -> None:
        """Add rows with consecutive numbers from `first` on."""
        end = self.count + len(rows)
        data = self._whole()
        if end > len(data.rows):
            more = max(2 * len(data.rows), end) - self.count
            data = data._replace(rows=np.concatenate((data.rows[: self.count], np.empty(more, self._dtype))))
            self._data = data
            self._numbers = np.concatenate((self._numbers[: self.count], np.empty(more, np.int64)))
        added = self._parsed(first, rows, data.metadata)
        data.rows[self.count : end] = added
        self._numbers[self.count : end] = np.arange(first, first + len(rows))
        event, known = added["ts_event"], added["ts_known"]
        self.is_sorted = self.is_sorted and int(event[0]) >= self.event_max and bool((event[1:] >= event[:-1]).all())
        self._bound(event, known)
        self.count = end
        self._budget.touch(self)

    def _bound(self, event: NDArray[np.int64], known: NDArray[np.int64]) -> None:
        if len(event) == 1:  # the one that was just appended
            only, then = int(event[0]), int(known[0])
            self.event_min, self.event_max = min(self.event_min, only), max(self.event_max, only)
            self.known_min, self.known_max = min(self.known_min, then), max(self.known_max, then)
        elif len(event):
            self.event_min = min(self.event_min, int(event.min()))
            self.event_max = max(self.event_max, int(event.max()))
            self.known_min = min(self.known_min, int(known.min()))
            self.known_max = max(self.known_max, int(known.max()))

    def _parsed(self, first: int, rows: Sequence[bytes], metadata: dict[int, bytes]) -> NDArray[Any]:
        size = self._dtype.itemsize
        data = b"".join(rows)
        if len(data) != size * len(rows):  # some have metadata
            for number, row in enumerate(rows, first):
                if len(row) < size:
                    raise CorruptionError(f"row {number} of a series is cut short; restore a backup")
                if len(row) > size:
                    metadata[number] = metadata_of(row)
                    self._metadata_bytes += len(row)
            data = b"".join(row[:size] for row in rows)
        return np.frombuffer(data, self._dtype)

    def _whole(self) -> _Data:
        data = self._data
        if data is None:
            numbers, metadata = self.numbers.tolist(), dict[int, bytes]()
            self._metadata_bytes = 0
            found = self._fetch(numbers)
            if len(found) < len(numbers):
                raise Gone
            rows = np.concatenate([self._parsed(number, [found[number]], metadata) for number in numbers])
            data = self._data = _Data(rows, metadata)
        self._budget.touch(self)
        return data

    def _array(self) -> NDArray[Any]:
        return self._whole().rows[: self.count]

    def give_up(self) -> None:
        """Keep the rows in the store only; in one step, as others may be reading them."""
        self._data = None

    def keep(self, wanted: NDArray[np.bool_]) -> None:
        """Forget all other rows."""
        data = self._whole()
        array = data.rows[: self.count][wanted]
        self._numbers = self.numbers[wanted]
        left = set(self._numbers.tolist())
        self._data = _Data(array, {number: it for number, it in data.metadata.items() if number in left})
        self.count = len(array)
        self.event_min = self.known_min = 2**63 - 1
        self.event_max = self.known_max = -1
        self._bound(array["ts_event"], array["ts_known"])

    # -- what selections ask for

    @property
    def numbers(self) -> NDArray[np.int64]:
        """Of the rows, rising."""
        return self._numbers[: self.count]

    @property
    def ts_event(self) -> NDArray[np.int64]:
        """Of the rows."""
        found: NDArray[np.int64] = self._array()["ts_event"]
        return found

    @property
    def ts_known(self) -> NDArray[np.int64]:
        """Of the rows."""
        found: NDArray[np.int64] = self._array()["ts_known"]
        return found

    def cut(self, rows: Any) -> LiveCut:
        """Return some rows, copied: others may be added meanwhile."""
        data = self._whole()
        array, numbers = data.rows[: self.count][rows].copy(), self.numbers[rows].copy()
        metadata = None
        if (array["flags"] & HAS_METADATA).any():
            metadata = [data.metadata.get(number, b"") for number in numbers.tolist()]
        return LiveCut(self.layout, array, numbers, metadata)


class LiveCut:
    """Rows of a part, as of one moment."""

    def __init__(
        self, layout: Layout, rows: NDArray[Any], numbers: NDArray[np.int64], metadata: list[bytes] | None
    ) -> None:
        self._layout = layout
        self._rows = rows
        self.numbers = numbers
        self._metadata = metadata

    @property
    def ts_event(self) -> NDArray[np.int64]:
        """Of the rows."""
        found: NDArray[np.int64] = self._rows["ts_event"]
        return found

    @property
    def ts_known(self) -> NDArray[np.int64]:
        """Of the rows."""
        found: NDArray[np.int64] = self._rows["ts_known"]
        return found

    @property
    def names(self) -> tuple[str, ...]:
        """Of the fields, each behind "f" or "i"."""
        return tuple(kind + name for kind, name in zip(self._layout.kinds, self._layout.names, strict=True))

    def columns(self, names: Iterable[str]) -> dict[str, Column]:
        """Return those columns of fields that there are."""
        places = {name: str(place) for place, name in enumerate(self.names)}
        return {name: Column(self._rows[places[name]]) for name in names if name in places}

    def table(self, wanted: np.dtype[Any]) -> NDArray[Any] | None:
        """Return the rows as of this type, if that is how they stand; else None."""
        named, size = self._layout.named, self._rows.dtype.itemsize
        if wanted != named:
            return None
        raw = self._rows.view(np.uint8).reshape(len(self._rows), size)
        return np.ascontiguousarray(raw[:, size - named.itemsize :]).view(named)[:, 0]

    def metadata(self) -> list[bytes] | None:
        """Return that of each row (empty: none); None: there is none at all."""
        return self._metadata

    @property
    def embedded(self) -> NDArray[np.bool_] | None:
        """Which rows have an embedding; None: none has."""
        flags = self._rows["flags"] & HAS_EMBEDDING
        return flags != 0 if flags.any() else None


class Budget:
    """How many bytes of live rows a handle keeps for a store: the parts used longest ago give theirs up.

    **Thread safety**: all methods may be called from any thread, and from signal handlers.
    """

    def __init__(self, most: int) -> None:
        self.most = most
        self.nbytes = 0
        self._lock = threading.RLock()
        self._used: OrderedDict[int, tuple[LivePart, int]] = OrderedDict()

    def touch(self, part: LivePart) -> None:
        """Note that a part is in use, and what it takes by now."""
        with self._lock:
            self.drop(part)
            self._used[id(part)] = part, part.nbytes
            self.nbytes += part.nbytes

    def drop(self, part: LivePart) -> None:
        """Forget a part."""
        with self._lock:
            self.nbytes -= self._used.pop(id(part), (part, 0))[1]

    def shrink(self) -> None:
        """Give up what is too much."""
        with self._lock:
            while self.nbytes > self.most and self._used:
                _, (part, size) = self._used.popitem(last=False)
                self.nbytes -= size
                part.give_up()
