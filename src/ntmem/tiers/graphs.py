"""Graphs of a large collection: made of slots that are there, in files beside its segments, searched instead of all.

A graph is of the slots from one to before another, and says nothing but which of them are near each other. It is bound
to them by its name: the collection, the slots, and a digest of the store's record of the last one (``segments.py``
has the reason). What no graph has is scanned.

**Invariants**

- I7: a graph is asked only as of an instant at which all that is in it was known: what came later does not steer a
  search. Else, and for filters that let few pass, the slots are scanned.
- A graph that is damaged or of another state of the store is not used, and made again.
"""

from __future__ import annotations

import logging
import mmap
import os
from contextlib import suppress
from glob import escape, glob
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from .._core.graph import Graph
from .._core.hnsw import build
from .._core.region import RegionDamaged
from .._core.vectors import Over, VectorTail, WriterBusy
from .region import remove_file
from .segments import version_of, written_whole

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from .engine import LmdbEngine
    from .points import CollectionRow

_log = logging.getLogger("ntmem")

SLOTS = 64
"""A graph begins and ends at a multiple of it, a word of a bitmap."""
EF = 100
"""By default."""
_BRIEF, _PATIENCE = 0.5, 30.0  # seconds for the lock: to claim a build, to tell of one
_OVERHEAD = 80_000  # ns of Python around a graph


class Part(NamedTuple):
    """A graph that is used."""

    first: int
    end: int
    newest: int
    """ts_known of any of its slots."""
    graph: Graph

    @property
    def words(self) -> slice:
        """Its part of a bitmap of slots."""
        return slice(self.first // SLOTS, self.end // SLOTS)


class Plan(NamedTuple):
    """How a search is done: by which graphs, of which slots; `rest` are scanned."""

    parts: list[Part]
    ef: int
    slots: int
    limit: int
    bits: NDArray[np.uint64]
    rest: NDArray[np.uint64] | None


class Graphs:
    """The graphs of one collection, in the order of their slots; they do not overlap.

    **Thread safety**: all methods may be called from any thread. What is searched is a tuple that is replaced.
    """

    def __init__(self, engine: LmdbEngine, row: CollectionRow) -> None:
        self._engine = engine
        self._row = row
        self._seen = -1
        self._parts: tuple[Part, ...] = ()
        self._made: dict[tuple[int, int], Graph] = {}  # of a private store, which has no files
        self.stop = np.zeros(1, np.int32)
        """Set to end a build."""

    @property
    def directory(self) -> str | None:
        """Where files are; None: there are none."""
        directory = self._engine.store.directory
        return None if directory is None else os.path.join(directory, "vectors")

    def parts(self, tail: VectorTail) -> tuple[Part, ...]:
        """Return the graphs there are now."""
        told = tail.graphs
        if told != self._seen:
            self._parts = self._found(tail)
            self._seen = told
        return self._parts

    def _found(self, tail: VectorTail) -> tuple[Part, ...]:
        """Return those graphs that go on from each other, from slot 0; of two the larger."""
        names = self._names()
        parts: list[Part] = []
        while True:
            first = parts[-1].end if parts else 0
            for end in sorted((end for begin, end in names if begin == first and end <= tail.count), reverse=True):
                graph = self._loaded(tail, first, end, names[first, end])
                if graph is not None:
                    parts.append(Part(first, end, tail.newest(first, end), graph))
                    break
            else:
                return tuple(parts)

    def _names(self) -> dict[tuple[int, int], str]:
        if self.directory is None:
            return dict.fromkeys(self._made, "")
        found = {}
        for path in self._files():
            with suppress(ValueError):
                _, first, end, _ = os.path.basename(path).removesuffix(".graph").split("-")
                found[int(first, 16), int(end, 16)] = path
        return found

    def _files(self) -> list[str]:
        return [] if self.directory is None else glob(f"{escape(self.directory)}/{self._row.number:08x}-*.graph")

    def _loaded(self, tail: VectorTail, first: int, end: int, path: str) -> Graph | None:
        known = next((part for part in self._parts if part[:2] == (first, end)), None)
        if known is not None:
            return known.graph
        if not path:
            return self._made.get((first, end))
        version = version_of(self._engine, self._row.number, end - 1)
        if version is None or not path.endswith(f"-{version:016x}.graph"):
            return None
        try:
            with open(path, "rb") as file:
                graph = Graph(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
        except (OSError, ValueError) as error:
            if not isinstance(error, FileNotFoundError):  # else a larger one has come in its place
                _log.warning("%s cannot be used (%s); it is made again", path, error)
            return None
        row = self._row
        if (graph.count, graph.dimension, graph.dtype, graph.metric) != (
            end - first,
            row.dimension,
            np.dtype(row.dtype),
            row.metric,
        ):
            _log.warning("%s is a graph of something else; it is made again", path)
            return None
        return graph

    # -- making them

    def make(self, tail: VectorTail, threads: int) -> bool:
        """Make one graph of all slots; return whether that was done: not if there is one, or another is being made."""
        if not _claimed(tail):
            return False
        try:
            first, end = 0, tail.count // SLOTS * SLOTS
            if end == 0 or any(part[:2] == (first, end) for part in self.parts(tail)):
                return False
            rows, steps, squares = tail.arrays(first, end)
            data = build(
                rows,
                steps,
                squares if self._row.metric == "l2" else None,
                metric=self._row.metric,
                m=self._row.m,
                ef_construction=self._row.ef_construction,
                threads=threads,
                stop=self.stop,
            )
            return data is not None and self._kept(tail, first, end, data)
        finally:
            with suppress(WriterBusy, Over, RegionDamaged), tail.held(_BRIEF):
                tail.release_build()

    def _kept(self, tail: VectorTail, first: int, end: int, data: bytes) -> bool:
        """Put a graph where all processes find it, and take away those that it replaces."""
        if self.directory is None:
            self._made = {(first, end): Graph(data)}
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
                if other != path:
                    remove_file(other)
        with tail.held(_PATIENCE):
            tail.announce_graphs()
        return True

    # -- searching

    def plan(
        self, tail: VectorTail, k: int, count: int, limit: int, bits: NDArray[np.uint64] | None, ef: int | None
    ) -> Plan | None:
        """Return how to search the first `count` slots by graphs; None: a scan is to be preferred.

        `bits`: of the slots that are wanted, served or not.
        """
        parts = [part for part in self.parts(tail) if part.end <= count and part.newest <= limit]
        if not parts:
            return None
        bits, left = tail.served(count, limit, bits)
        wanted = max(ef or EF, k)
        row = self._row
        if not is_sooner(len(parts), wanted, row.m, row.dimension * np.dtype(row.dtype).itemsize, count, left):
            return None
        rest = bits.copy()
        for part in parts:
            rest[part.words] = 0
        return Plan(parts, wanted, count, limit, bits, rest if rest.any() else None)

    def search(
        self, tail: VectorTail, plan: Plan, query: NDArray[np.float32], k: int
    ) -> tuple[NDArray[np.uint32], NDArray[np.float32]]:
        """Return slots and scores of the best `k` for a query, as far as graphs lead to them."""
        numbers, step, square = tail.query(query)
        found = []
        for part in plan.parts:
            rows, steps, squares = tail.arrays(part.first, part.end)
            slots, values = part.graph.search(
                rows,
                steps,
                numbers,
                step,
                k,
                ef=plan.ef,
                squares=squares if self._row.metric == "l2" else None,
                allowed=plan.bits[part.words],
                base=part.first,
            )
            found.append((slots, values - np.float32(square)))
        if plan.rest is not None:
            best, scores = tail.search(query[np.newaxis], k, plan.slots, plan.limit, plan.rest)
            there = ~np.isnan(scores[0])
            found.append((best[0][there], scores[0][there]))
        slots, values = (np.concatenate(column) for column in zip(*found, strict=True))
        order = np.lexsort((slots, -values))[:k]
        return slots[order], values[order]


def is_sooner(parts: int, ef: int, m: int, row_bytes: int, count: int, left: int) -> bool:
    """Whether graphs are sooner done than a scan of the slots that are wanted, `left` of `count`.

    By what a row costs in each, of which a graph leads past those that are not wanted, too: about what rows of 64 and
    of 384 bytes cost on one machine.
    """
    scanned = (2 + 0.04 * row_bytes) * min(3 * left, count)
    reached = (40 + 0.08 * row_bytes) * ef * m * count / max(left, 1)
    return parts * (reached + _OVERHEAD) < scanned


def _claimed(tail: VectorTail) -> bool:
    try:
        with tail.held(_BRIEF):
            return tail.claim_build()
    except (WriterBusy, Over, RegionDamaged):
        return False


def _write(file: int, data: bytes) -> None:
    left = memoryview(data)
    while left:
        left = left[os.write(file, left) :]
    os.fsync(file)
