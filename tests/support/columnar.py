"""Columns as ntmem.conditions reads them, made from rows of metadata: slow and plain."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from msgspec import msgpack

from ntmem.conditions import NoColumn


def bits_to_rows(bits: Any, count: int) -> list[bool]:
    """Return a bitmap as one bool for each row; see that it has nothing beyond them."""
    assert bits.dtype == np.uint64
    assert len(bits) == (count + 63) // 64
    flags = [bool(int(bits[row // 64]) >> row % 64 & 1) for row in range(64 * len(bits))]
    assert not any(flags[count:])
    return flags[:count]


class RowColumns:
    """All fields of some rows; those of `without` have no column. Arrays are longer than the rows are many."""

    def __init__(self, rows: Sequence[Mapping[str, Any] | None], without: Iterable[str] = (), spare: int = 3) -> None:
        self.without = set(without)
        self.kinds: dict[str, Any] = {}
        self.words: dict[str, Any] = {}
        self.numbers: dict[str, dict[bytes, int]] = {}
        self.asked: list[tuple[str, bytes]] = []
        for row, metadata in enumerate(rows):
            for name, value in (metadata or {}).items():
                if name not in self.kinds:
                    self.kinds[name] = np.zeros(len(rows) + spare, np.uint8)
                    self.words[name] = np.full(len(rows) + spare, 7, np.uint64)
                    self.numbers[name] = {}
                self.kinds[name][row], self.words[name][row] = self._entry(name, value)

    def _entry(self, name: str, value: Any) -> tuple[int, Any]:
        if type(value) is int and -(2**63) <= value < 2**63:
            return 1, np.int64(value).view(np.uint64)
        if type(value) is float:
            return 2, np.float64(value).view(np.uint64)
        numbers = self.numbers[name]
        return 3, numbers.setdefault(msgpack.encode(value), len(numbers))

    def column(self, name: str) -> tuple[Any, Any] | None:
        if name in self.without:
            raise NoColumn(name)
        return (self.kinds[name], self.words[name]) if name in self.kinds else None

    def interned(self, name: str) -> list[tuple[int, bytes]]:
        return [(number, data) for data, number in self.numbers[name].items()]

    def intern_number(self, name: str, data: bytes) -> int:
        self.asked.append((name, data))
        return self.numbers[name].get(data, -1)
