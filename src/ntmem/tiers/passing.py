"""Which vectors of a collection pass a filter: its columns as filters ask for them, and answers that are kept."""

from __future__ import annotations

import threading

import numpy as np
from numpy.typing import NDArray

from .._core.vectors import VectorTail
from ..conditions import NoColumn
from ..filters import Where

_FILTERS = 16  # whose bits are kept


class Columns:
    """Metadata of a collection from a slot on, as filters ask for them."""

    def __init__(self, tail: VectorTail, first: int = 0) -> None:
        self.tail = tail
        self.first = first

    def column(self, name: str) -> tuple[NDArray[np.uint8], NDArray[np.uint64]] | None:
        """Return kinds and words of a field; None: nothing has it."""
        try:
            found = self.tail.column(name)
        except KeyError:
            raise NoColumn(name) from None
        return None if found is None else (found[0][self.first :], found[1][self.first :])

    def interned(self, name: str) -> list[tuple[int, bytes]]:
        """Return numbers and MessagePack of the distinct values of a field."""
        return self.tail.interned(name)

    def intern_number(self, name: str, data: bytes) -> int:
        """Return the number of a distinct value; -1: there is none such."""
        return self.tail.intern_number(name, data)


class Passing:
    """Which slots pass the filters that were asked lately.

    Metadata of a slot never change, so only those behind are asked when a filter comes again.
    """

    def __init__(self, tail: VectorTail) -> None:
        self.tail = tail
        self._lock = threading.Lock()
        self._known: dict[Where, tuple[int, NDArray[np.uint64]]] = {}  # the one asked last stands last

    def bits(self, where: Where, count: int) -> NDArray[np.uint64]:
        """Return a bit for each of the first `count` slots, not to be changed."""
        with self._lock:
            done, bits = found = self._known.pop(where, None) or (0, np.empty(0, np.uint64))
            self._known[where] = found
            if len(self._known) > _FILTERS:
                del self._known[next(iter(self._known))]
        if done == count:
            return bits
        first = min(done, count) // 64 * 64
        more = where.bits(Columns(self.tail, first), count - first)
        bits = np.concatenate((bits[: first // 64], more))
        bits.flags.writeable = False
        if count > done:
            with self._lock:
                if where in self._known:
                    self._known[where] = (count, bits)
        return bits
