"""Graphs of a large collection: made of slots that are there, in files beside its segments, searched instead of all.

A graph is of the slots from one to before another, and says nothing but which of them are near each other. It is bound
to them by its name: the collection, the slots, and a digest of the store's record of the last one (``segments.py``
has the reason). Together they go on from slot 0; what comes behind the last one is scanned, and once that is much, one
process makes a graph of it, or puts it into the one before (:func:`next_range`).

**Invariants**

- I7: a graph is asked only as of an instant at which all that is in it was known: what came later does not steer a
  search. Else, and for filters that let few pass, the slots are scanned.
- A graph has all of its slots but those that something in it replaces or deletes: whenever it is asked, these are not
  served.
- A graph that is damaged or of another state of the store is not used, and made again.
"""

from __future__ import annotations

import logging
import mmap
import os
import time
from contextlib import suppress
from glob import escape, glob
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from .._core.graph import Graph
from .._core.hnsw import build, build_bytes
from .._core.region import RegionDamaged
from .._core.vectors import Over, VectorTail, WriterBusy
from ..instants import MAX_INSTANT
from .region import remove_file
from .segments import version_of, written_whole

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from .engine import LmdbEngine
    from .points import CollectionRow

_log = logging.getLogger("ntmem")

SLOTS = 64
"""A graph begins and ends at a multiple of it, a word of a bitmap."""
EF = 100
"""By default."""
MERGED, SMALL, EAGER = 32, 65_536, 4
"""A graph takes in what comes behind it if it is at most so many times as large, or of so many slots, whose file is
written in some ms; where it does, what comes is to be only this part of what would be worth a graph of its own."""
_STALE = 2  # a graph is made anew if more than one in so many of its nodes are not served
_BRIEF, _PATIENCE = 0.5, 30.0  # seconds for the lock: to claim a build, to tell of one
_POLL = 0.02  # seconds between two looks at whether somebody is still making one
_OVERHEAD = 5_000  # ns of a graph beside its walk
_LEAST_WORTH, _MOST = 4096, 1 << 24  # slots


class Part(NamedTuple):
    """A graph that is used."""

    first: int
    end: int
    newest: int
    """ts_known of any of its slots."""
    graph: Graph


class Range(NamedTuple):
    """Slots to make a graph of: all of them, or those from `base` on added to the graph of the ones before."""

    first: int
    base: int
    end: int


class Plan(NamedTuple):
    """By which graphs a search is done, each with its first slot; what they do not have is scanned."""

    graphs: Sequence[tuple[int, Graph]] = ()
    ef: int = 0


class Graphs:
    """The graphs of one collection, in the order of their slots; they do not overlap.

    Parameters
    ----------
    room : callable
        Returns how many bytes of memory making a graph in the background may take now.

    **Thread safety**: all methods may be called from any thread. What is searched is a tuple that is replaced.
    """

    def __init__(self, engine: LmdbEngine, row: CollectionRow, room: Callable[[], int]) -> None:
        self._engine = engine
        self._row = row
        self._room = room
        self._view: tuple[int, tuple[Part, ...]] = (-1, ())  # as of so many that were told of
        self._told = False
        self._made: dict[tuple[int, int], Graph] = {}  # of a private store, which has no files
        self.stop = np.zeros(1, np.int32)
        """Set to end a build."""
        self._row_bytes = row.dimension * np.dtype(row.dtype).itemsize
        self._planned: tuple[tuple[Any, ...], int, Plan] = ((), 0, Plan())  # asked what, if not as of before when
        self.worth = worth(row.m, self._row_bytes)
        """Slots without a graph from which on they are to have one."""

    @property
    def directory(self) -> str | None:
        """Where files are; None: there are none."""
        directory = self._engine.store.directory
        return None if directory is None else os.path.join(directory, "vectors")

    @property
    def nbytes(self) -> int:
        """Of those that are used."""
        return sum(part.graph.nbytes for part in self._view[1])

    def parts(self, tail: VectorTail) -> tuple[Part, ...]:
        """Return the graphs there are now."""
        told, (seen, parts) = tail.graphs, self._view
        if told != seen:
            parts = self._found(tail)
            self._view = told, parts
        return parts

    def _found(self, tail: VectorTail) -> tuple[Part, ...]:
        """Return those graphs that go on from each other, from slot 0; of two the larger."""
        names = self._names()
        parts: list[Part] = []
        while True:
            first = parts[-1].end if parts else 0
            fitting = ((end, path) for (begin, end), path in names if begin == first and end <= tail.count)
            for end, path in sorted(fitting, reverse=True):
                graph = self._loaded(tail, first, end, path)
                if graph is not None:
                    parts.append(Part(first, end, tail.newest(first, end), graph))
                    break
            else:
                return tuple(parts)

    def _names(self) -> list[tuple[tuple[int, int], str]]:
        """Return of which slots there are files, and these; of the same slots there may be one of another past."""
        if self.directory is None:
            return [(span, "") for span in self._made]
        return [(span, path) for path in self._files() if (span := _span(path)) is not None]

    def _files(self) -> list[str]:
        return [] if self.directory is None else glob(f"{escape(self.directory)}/{self._row.number:08x}-*.graph")

    def _loaded(self, tail: VectorTail, first: int, end: int, path: str) -> Graph | None:
        known = next((part for part in self._view[1] if part[:2] == (first, end)), None)
        if known is not None:
            return known.graph
        if not path:
            return self._made.get((first, end))
        version = version_of(self._engine, self._row.number, end - 1)
        if version is None or not path.endswith(f"-{version:016x}.graph"):
            return None
        try:
            graph = Graph(_mapped(path))
        except (OSError, ValueError) as error:
            if not isinstance(error, FileNotFoundError):  # else a larger one has come in its place
                _log.warning("%s cannot be used (%s); it is made again", path, error)
            return None
        row = self._row
        if (graph.count, graph.m, graph.dimension, graph.dtype, graph.metric) != (
            end - first,
            row.m,
            row.dimension,
            np.dtype(row.dtype),
            row.metric,
        ):
            _log.warning("%s is a graph of something else; it is made again", path)
            return None
        return graph

    # -- making them

    def compact(self, tail: VectorTail, threads: int) -> bool:
        """Make one graph of all slots, when nobody else is making one; return whether there was something to do."""
        while not self._claim(tail):
            if self.stop[0]:
                return False
            time.sleep(_POLL)
        return self._claimed(tail, lambda: self._compact(tail, threads))

    def grow(self, tail: VectorTail, share: float) -> bool:
        """Make a graph of what has none, if that is enough, with so much of one core; return whether that was done."""
        return self._claim(tail) and self._claimed(tail, lambda: self._grow(tail, share))

    def _claim(self, tail: VectorTail) -> bool:
        try:
            with tail.held(_BRIEF):
                return tail.claim_build()
        except WriterBusy:
            return False

    def _claimed(self, tail: VectorTail, make: Callable[[], bool]) -> bool:
        self._view = -1, self._view[1]  # whoever was killed may not have told of one
        try:
            return make()
        finally:
            with suppress(WriterBusy, Over, RegionDamaged), tail.held(_PATIENCE):
                tail.release_build()

    def _compact(self, tail: VectorTail, threads: int) -> bool:
        parts, end = self.parts(tail), tail.count // SLOTS * SLOTS
        stale = bool(parts) and self._is_stale(tail, parts[0])
        if end == 0 or (not stale and parts and parts[0].end == end):
            return False
        base = parts[0].end if parts and not stale else 0
        return self._make(tail, Range(0, base, end), threads=threads)

    def _grow(self, tail: VectorTail, share: float) -> bool:
        parts, count = self.parts(tail), tail.count
        most = max(0, self._room()) // (build_bytes(1 << 20, self._row.m) >> 20)
        ends = [part.end for part in parts]
        wanted = next_range(ends, count, self.worth, most)
        if wanted is None:
            if not self._told and next_range(ends, count, self.worth, _MOST) is not None:
                self._told = True
                _log.info("no graph of %d vectors is made: max_memory_bytes leaves no room for it", count)
            return False
        old = next((part for part in parts if part.end == wanted.base > wanted.first), None)
        if old is not None and self._is_stale(tail, old):
            wanted = wanted._replace(base=wanted.first)
        return self._make(tail, wanted, threads=1, share=share, background=True)

    def _is_stale(self, tail: VectorTail, part: Part) -> bool:
        """Whether much of what a graph has is not served any more."""
        bits, _ = tail.served(tail.count // SLOTS * SLOTS, MAX_INSTANT)
        served = int(np.unpackbits(bits[part.first // SLOTS : part.end // SLOTS].view(np.uint8)).sum())
        return (part.graph.linked - served) * _STALE > part.graph.linked

    def _make(self, tail: VectorTail, wanted: Range, **how: Any) -> bool:
        first, base, end = wanted
        old = next((part.graph for part in self.parts(tail) if part[:2] == (first, base)), None)
        rows, steps, squares = tail.arrays(first, end)
        data = build(
            rows,
            steps,
            squares,
            metric=self._row.metric,
            m=self._row.m,
            ef_construction=self._row.ef_construction,
            wanted=tail.served(end, MAX_INSTANT)[0][first // SLOTS :],
            base=old,
            stop=self.stop,
            **how,
        )
        return data is not None and self._kept(tail, first, end, data)

    def _kept(self, tail: VectorTail, first: int, end: int, data: bytes) -> bool:
        """Put a graph where all processes find it, and take away those that it replaces."""
        if self.directory is None:
            self._made = {span: it for span, it in self._made.items() if span[1] <= first or end <= span[0]}
            self._made[first, end] = Graph(data)
        else:
            version = version_of(self._engine, self._row.number, end - 1)
            if version is None:
                return False
            path = os.path.join(self.directory, f"{self._row.number:08x}-{first:012x}-{end:012x}-{version:016x}.graph")
            written_whole(path, lambda file: _write(file, data))
            if version_of(self._engine, self._row.number, end - 1) != version:  # it is dropped
                remove_file(path)
                return False
            for other in self._files():
                span = _span(other)
                if other != path and (span is None or (span[0] < end and first < span[1])):
                    with suppress(OSError):  # a directory, say: nobody uses it
                        remove_file(other)
        self._view = -1, tuple(part for part in self._view[1] if part[:2] != (first, end))  # it may be made anew
        with tail.held(_PATIENCE):
            tail.announce_graphs()
        _log.info("collection %d: a graph of %d vectors was made, %d bytes", self._row.number, end - first, len(data))
        return True

    # -- searching

    def plan(self, tail: VectorTail, k: int, count: int, limit: int, left: int, ef: int | None) -> Plan:
        """Return how to search the first `count` slots, of which `left` are wanted and served."""
        asked = (tail.graphs, k, count, left, ef)
        before, newest, plan = self._planned
        if asked == before and limit >= newest:
            return plan
        there = self.parts(tail)
        parts = [part for part in there if part.end <= count and part.newest <= limit]
        wanted = min(max(ef or EF, k), count)
        graphed = sum(part.end - part.first for part in parts)
        plan = Plan()
        if is_sooner(len(parts), wanted, self._row.m, self._row_bytes, count, left, graphed):
            plan = Plan([(part.first, part.graph) for part in parts], wanted)
        if len(parts) == len(there):
            self._planned = asked, max((part.newest for part in parts), default=0), plan
        return plan


def bytes_of(directory: str | None) -> int:
    """Return what all graphs of a store take; 0: it has no directory."""
    taken = 0
    for path in [] if directory is None else glob(f"{escape(directory)}/vectors/*.graph"):
        with suppress(OSError):
            taken += os.stat(path).st_size
    return taken


def next_range(ends: Sequence[int], count: int, worth: int, most: int) -> Range | None:
    """Return of what the next graph is to be made, given where the ones there are end; None: of nothing yet.

    What has no graph gets one once there is `worth` of it. It goes into the graph before it, with all between, if
    that is small, or not :data:`MERGED` times as large: so there are few graphs, each vector is put into each size of
    them once, and what is written anew for it is bounded. No graph is of more than `most` slots.
    """
    begins = [0, *ends]
    place, end = len(ends), count // SLOTS * SLOTS

    def goes_on() -> bool:
        first, behind = begins[place - 1], begins[place]
        return place > 0 and behind - first <= max(SMALL, MERGED * (end - behind)) and end - first <= most

    least = worth // EAGER if goes_on() else worth
    if end - begins[place] < least:
        return None
    while goes_on():
        place -= 1
    first = begins[place]
    base = ends[place] if place < len(ends) else first
    end = min(end, first + most // SLOTS * SLOTS)
    return Range(first, base, end) if end - base >= least else None


def _scan(row_bytes: int, count: float, left: float) -> float:
    """Return ns to look at `left` of `count` rows; few of many are where no processor guesses."""
    return (2 + 0.04 * row_bytes) * min(3 * left, count)


def _walk(row_bytes: int, m: int, ef: int) -> float:
    """Return ns that a graph takes."""
    return (40 + 0.08 * row_bytes) * ef * m + _OVERHEAD


def is_sooner(parts: int, ef: int, m: int, row_bytes: int, count: int, left: int, graphed: int) -> bool:
    """Whether graphs of `graphed` of the slots are sooner done than a scan of those wanted, `left` of `count`.

    By what a row costs in each, of which a graph leads past those that are not wanted, too: about what rows of 64 and
    of 384 bytes cost on one machine.
    """
    if not (parts and left):
        return False
    share, rest = left / count, count - graphed
    walks = parts * _walk(row_bytes, m, ef) / share
    return walks + _scan(row_bytes, rest, rest * share) < _scan(row_bytes, count, left)


def worth(m: int, row_bytes: int) -> int:
    """Return from how many rows on a graph is sooner done than a scan."""
    rows = _walk(row_bytes, m, EF) / _scan(row_bytes, 1, 1)
    return max(_LEAST_WORTH, int(rows) // SLOTS * SLOTS)


def _span(path: str) -> tuple[int, int] | None:
    """Return of which slots a file is; None: it has another name."""
    with suppress(ValueError):
        _, *numbers, _ = os.path.basename(path).removesuffix(".graph").split("-")
        first, end = (int(number, 16) for number in numbers)
        if 0 <= first < end and first % SLOTS == end % SLOTS == 0:
            return first, end
    return None


def _mapped(path: str) -> mmap.mmap:
    file = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)  # a FIFO is not waited for
    try:
        return mmap.mmap(file, 0, access=mmap.ACCESS_READ)
    finally:
        os.close(file)


def _write(file: int, data: bytes) -> None:
    left = memoryview(data)
    while left:
        left = left[os.write(file, left) :]
    os.fsync(file)
