"""What a worker began and what it was told, where it stands also when the worker is gone: a shared mapping.

A slot of 64 bytes an operation, in two halves of words that are stored whole. The word `begin` is the last of the first
half, `end` the last of the second, so a half without it does not count. What a worker writes says who wrote it: a value
is (writer, number of the operation, size, CRC-32) over and over, so torn and foreign bytes are known as such.
"""

from __future__ import annotations

import mmap
import os
import struct
import zlib
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from time import monotonic_ns
from typing import Final, NamedTuple

SLOT: Final = 8  # words: kind | key << 8 | extra << 32, delay, spare, begin; result, seen, delay, end
_VALUE: Final = struct.Struct("<IIII")
_ROW: Final = struct.Struct("@8q")

KINDS: Final = (
    "",
    "private put", "private delete", "private incr", "private add", "private cas", "private ttl", "private large",
    "history put", "history large", "transaction", "shared put", "shared delete", "shared cas", "count",
    "group", "past the log", "flush", "read history", "read transaction", "read private", "scan", "briefly",
    "rules", "put under rules",
)  # fmt: skip
(
    PUT, DELETE, INCR, ADD, CAS, TTL, LARGE,
    HISTORY, HISTORY_LARGE, TRANSACTION, SHARED, SHARED_DELETE, SHARED_CAS, COUNT,
    GROUP, PAST, FLUSH, READ_HISTORY, READ_TRANSACTION, READ_PRIVATE, SCAN, BRIEFLY,
    RULES, RULED,
) = range(1, len(KINDS))  # fmt: skip

VERSIONED: Final = frozenset(
    {PUT, CAS, TTL, LARGE, HISTORY, HISTORY_LARGE, TRANSACTION, SHARED, SHARED_CAS, PAST, RULED}
)
"""Their result is a version; 0 for a condition that did not hold."""
WAITS_FOR_DISK: Final = frozenset({LARGE, HISTORY_LARGE, GROUP, PAST, FLUSH, RULES})


class Torn(AssertionError):
    """Bytes that nobody has written."""


@lru_cache(256)
def value_of(writer: int, number: int, size: int) -> bytes:
    """Return the bytes of at least 16 that say who wrote them."""
    head = struct.pack("<III", writer, number, size)
    one = head + zlib.crc32(head).to_bytes(4, "little")
    return (one * (size // 16 + 1))[: max(size, 16)]


def origin_of(value: bytes) -> tuple[int, int]:
    """Return (writer, number of its operation); raise :class:`Torn`."""
    value = bytes(value)
    if len(value) >= 16:
        writer, number, size, _ = _VALUE.unpack_from(value)
        if max(size, 16) == len(value) and value == value_of(writer, number, size):
            return writer, number
    raise Torn(f"{len(value)} bytes that begin with {value[:32].hex()}")


class Operation(NamedTuple):
    """One call; without `end` nobody was told of it."""

    writer: int
    number: int
    kind: int
    key: int
    extra: int
    begin: int
    end: int
    result: int
    seen: int
    delay: int
    """Nanoseconds that the process has waited for a processor during the call."""

    @property
    def kind_is_versioned(self) -> bool:
        return self.kind in VERSIONED

    def __str__(self) -> str:
        told = f"-> {self.result}" if self.end else "not acknowledged"
        return f"{KINDS[self.kind]} {self.writer}/{self.number} of key {self.key} ({told})"


class Journal:
    """Written by one worker."""

    def __init__(self, path: Path, capacity: int) -> None:
        with open(path, "x+b") as file:
            file.truncate(capacity * SLOT * 8)
            self._words = memoryview(mmap.mmap(file.fileno(), capacity * SLOT * 8)).cast("q")
        self._schedule = os.open("/proc/self/schedstat", os.O_RDONLY)
        self.capacity = capacity
        self.number = 0
        self.delay = self._delay_now()

    def _delay_now(self) -> int:
        return int(os.pread(self._schedule, 64, 0).split()[1])

    def begin(self, kind: int, key: int = 0, extra: int = 0) -> int:
        """Note that a call is about to be made; return its number, 1 and up."""
        words, at = self._words, self.number * SLOT
        words[at] = kind | key << 8 | extra << 32
        words[at + 1] = self.delay
        words[at + 3] = monotonic_ns()
        self.number += 1
        return self.number

    def end(self, result: int = 0, seen: int = 0) -> None:
        """Note what it returned."""
        words, at, now = self._words, self.number * SLOT - 4, monotonic_ns()
        self.delay = self._delay_now()
        words[at] = result
        words[at + 1] = seen
        words[at + 2] = self.delay
        words[at + 3] = now

    @property
    def is_full(self) -> bool:
        return self.number >= self.capacity


def read_journal(path: Path) -> Iterator[Operation]:
    """Yield what a worker did; its file is named by its number."""
    writer = int(path.name)
    raw = path.read_bytes()
    for number, row in enumerate(_ROW.iter_unpack(raw[: len(raw) // 64 * 64]), 1):
        what, before, _, begin, result, seen, after, end = row
        if not begin:
            return
        delay = after - before if end else 0
        yield Operation(writer, number, what & 255, what >> 8 & 0xFFFFFF, what >> 32, begin, end, result, seen, delay)
