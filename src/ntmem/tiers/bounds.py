"""How much of a namespace is kept: age, number and bytes of its current records.

A bound is a record in a namespace of the store's own, and is looked at by nobody who reads or writes: upkeep
(:mod:`ntmem.tiers.upkeep`) enforces it, by deletions like any other's.

**Invariants**

- A record is deleted only while it is the version that was judged: what is written meanwhile stays.
- What was written under a lock is not deleted, however old: who holds a lock relies on what it wrote under it.
- A namespace with history is not touched.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterator
from typing import NamedTuple

from ..errors import CorruptionError
from ..records import Change
from ..values import CODECS
from .engine import LmdbEngine
from .guards import RETENTION
from .layout import FENCED

_CODEC = CODECS["msgpack"]
_PAGE = 256  # records that are looked at in one step
_GROUP = 64  # that are deleted in one
_MOST = 16_384  # that are remembered as the oldest, of those that may be too many


class Bound(NamedTuple):
    """How much is kept; None: any."""

    max_age: int | None = None
    """Nanoseconds since it was known."""
    max_bytes: int | None = None
    """Of keys and values."""
    max_entries: int | None = None

    def __bool__(self) -> bool:
        return any(each is not None for each in self)


class Enforced(NamedTuple):
    """What a bound did: records that were deleted, and their bytes; what is left; how many of that locks guard."""

    records: int = 0
    bytes: int = 0
    left: int = 0
    left_bytes: int = 0
    guarded: int = 0


def set_bound(engine: LmdbEngine, key: bytes, bound: Bound) -> None:
    """Keep a bound; an empty one is deleted."""
    if bound:
        change = Change("put", RETENTION, key, _CODEC.encode(list(bound)), own=True)
    else:
        change = Change("delete", RETENTION, key, own=True)
    engine.commit([change])


def bounds(engine: LmdbEngine) -> dict[bytes, Bound]:
    """Return all bounds by key."""
    return {key.encode(): Bound(*_CODEC.decode(data)) for key, data in engine.scan(RETENTION, b"", b"", None)}


def bound_key(labels: tuple[str, ...]) -> bytes:
    """Return under what the bound of a namespace is kept. (A label holds no "/".)"""
    return "/".join(labels).encode()


def enforce(engine: LmdbEngine, labels: tuple[str, ...], bound: Bound, step: Callable[[], None]) -> Enforced:
    """Delete what is over the bound of a namespace: first what is too old, then the oldest written.

    `step` is called between small steps. O(records), and again for each 16,384 that are deleted for being too many.
    """
    deleted = freed = 0
    while True:
        seen = _looked(engine, labels, bound, step)
        left, size = seen.left, seen.left_bytes
        chosen = []
        for version, key, each in seen.oldest:
            too_many = bound.max_entries is not None and left > bound.max_entries
            if not too_many and (bound.max_bytes is None or size <= bound.max_bytes):
                break
            chosen.append((key, version))
            left, size = left - 1, size - each
        deleted += seen.deleted
        for some in _groups(chosen):
            step()
            deleted += engine.expire(labels, some)
        freed += seen.freed + seen.left_bytes - size
        if len(chosen) < _MOST:  # those that are left are within the bound, or guarded
            return Enforced(deleted, freed, left, size, seen.guarded)


class _Seen(NamedTuple):
    deleted: int
    freed: int
    oldest: list[tuple[int, bytes, int]]  # version, key, bytes
    left: int
    left_bytes: int
    guarded: int


def _looked(engine: LmdbEngine, labels: tuple[str, ...], bound: Bound, step: Callable[[], None]) -> _Seen:
    """Look at all records of a namespace once."""
    cutoff = None if bound.max_age is None else engine.now() - bound.max_age
    bounded = bound.max_bytes is not None or bound.max_entries is not None
    aged: list[tuple[bytes, int]] = []
    oldest: list[tuple[int, bytes, int]] = []  # a heap, the youngest of these first
    deleted = freed = left = left_bytes = guarded = 0
    for place, (key, stored) in enumerate(engine.entries_of(labels, b"")):
        if place % _PAGE == 0:
            step()
        size = len(key) + len(stored.value)
        if stored.flags & FENCED:
            guarded += 1
        elif cutoff is not None and stored.ts_known < cutoff:
            aged.append((key, stored.version))
            freed += size
            if len(aged) == _GROUP:
                deleted += engine.expire(labels, aged)
                aged = []
                step()
            continue
        elif bounded:
            heap_item = (-stored.version, key, size)
            if len(oldest) < _MOST:
                heapq.heappush(oldest, heap_item)
            else:
                heapq.heappushpop(oldest, heap_item)
        left, left_bytes = left + 1, left_bytes + size
    deleted += engine.expire(labels, aged) if aged else 0
    by_age = sorted((-version, key, size) for version, key, size in oldest)
    return _Seen(deleted, freed, by_age, left, left_bytes, guarded)


def _groups(items: list[tuple[bytes, int]]) -> Iterator[list[tuple[bytes, int]]]:
    return (items[begin : begin + _GROUP] for begin in range(0, len(items), _GROUP))


def sweep(engine: LmdbEngine, step: Callable[[], None]) -> int:
    """Give back the space of all records that have expired by now; return about how many they were."""
    swept = 0
    while True:
        step()
        try:
            found = engine.sweep()
        except CorruptionError:  # of no concern here: `verify` finds it
            return swept
        swept += found
        if not found:
            return swept
