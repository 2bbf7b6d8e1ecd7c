"""A collection of vectors as one engine has it: the memory it is searched in, and how that follows the store.

``docs/design/vectors.md`` has the reasons. The store has the changes by number, all with their vectors as they were
given. What is searched is a projection of them (:class:`ntmem._core.vectors.VectorTail`), in memory that all processes
share and that lives as long as one of them has the store open; with the LMDB engine each has its own.

**Invariants**

- I1: a change is acknowledged when it is in the log and in shared memory, so the next search of any process sees it.
- I2: numbers have no gaps, and one is taken on the condition that nobody has it. Who writes holds the lock of the
  collection; whoever dies with it has left a record that the next one applies, or none.
- I6: memory is taken before a change is written, within ``max_memory_bytes``.
"""

from __future__ import annotations

import errno
import logging
import math
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, NamedTuple, NoReturn

import numpy as np

from .._core.logrecords import ValueTooLarge
from .._core.region import Region, RegionDamaged, RegionMismatch
from .._core.rows import RowLog
from .._core.vectors import Over, VectorTail, WriterBusy, sections, slot_bytes
from ..errors import CorruptionError, DiskFull, NtmemError, StorageError, VectorError, VersionConflict
from ..filters import Where
from ..records import Change
from .engine import LmdbEngine
from .log import LogEngine
from .logreads import encoded
from .passing import Passing
from .points import (
    COLLECTIONS,
    POINTS,
    CollectionRow,
    Point,
    decode_collection,
    decode_metadata,
    decode_point,
    point_key,
)
from .region import remove_file, tail_path
from .segments import LEAST, freeze, thaw

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from .graphs import Graphs

_log = logging.getLogger("ntmem")

PATIENCE = 30.0  # seconds for another writer: it may have to wait for the disk
_SHORT = 0.02
_ATTEMPTS = 100
_FOLLOWED = 1024  # changes at once, at most
_GROUP = 4096
_LEAST_SLOTS, _MOST_SLOTS = 1024, 1 << 24
_WORTH = 65_536  # changes that are written as a segment while the store is open
_ROOM_CHECKED = 512  # changes between two looks at what all memory comes to
_MOST_SPARE = 2 << 20  # that memory is taken ahead: vectors.h has VECTORS_SPARE for each of its sections


class NoRoom(VectorError):
    """Vectors take all the memory they may."""


class TooLarge(VectorError):
    """The log does not take so many vectors at once."""


class Limits(NamedTuple):
    """What collections of a store may take."""

    bytes: int
    """Of memory, all together."""
    share: float
    """Of one core, to make graphs in the background; 0: none are made."""


class Worker:
    """A thread that is begun again and again, and of which there is one."""

    def __init__(self, name: str, work: Callable[[], None]) -> None:
        self._name = name
        self._work = work
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._is_wanted = False

    def start(self) -> None:
        """Do the work; if it is being done, do it once more: it may have looked before there was something to do."""
        with self._lock:
            self._is_wanted = True
            if self._thread is None or not self._thread.is_alive():
                self._thread = threading.Thread(target=self._run, name=self._name, daemon=True)
                self._thread.start()

    def _run(self) -> None:
        while True:
            with self._lock:
                if not self._is_wanted:
                    self._thread = None
                    return
                self._is_wanted = False
            self._work()

    def join(self) -> None:
        """Wait until nothing is being done."""
        thread = self._thread
        if thread is not None:
            thread.join()


class Collection:
    """One collection of one engine.

    **Thread safety**: all methods may be called from any thread.
    """

    def __init__(self, engine: LmdbEngine, key: bytes, row: CollectionRow, limits: Limits) -> None:
        self.engine = engine
        self.row = row
        self._key = key
        self._limits = limits
        self._lock = threading.Lock()
        self._tail: VectorTail | None = None
        self._freezer = Worker("ntmem-segments", lambda: self._freeze(_WORTH))
        self._builder = Worker("ntmem-graphs", self._grow)
        self._compacting = threading.Lock()
        self._is_closed = False
        self._freezes_at = self._grows_at = 0  # changes with which to look whether there is something to do
        self._passing: Passing | None = None
        self._graphs: Graphs | None = None
        self._checked = 0
        self._rows: RowLog | None = None
        self.path: str | None = None
        """The name of its shared memory; None: this process has it alone."""
        if isinstance(engine, LogEngine):
            if engine.store.directory is not None:
                self.path = tail_path(engine.store.directory, row.number)
            writes = not engine.read_only
            self._rows = RowLog(engine.log, encoded(POINTS), engine.writer, writes=writes, max_lag=engine.max_lag)

    @property
    def nbytes(self) -> int:
        """Bytes of memory that it takes, of all processes together; 0 before it is used."""
        return 0 if self._tail is None else self._tail.nbytes

    # -- its memory

    def tail(self) -> VectorTail:
        """Return the memory it is searched in, with all that was acknowledged.

        Raises :class:`Over` if the collection was dropped.
        """
        tail = self._tail
        if tail is None or self._is_lost(tail):
            with self._lock:
                tail = self._found()
        if self._rows is None:  # others write, and tell nobody
            with patience(), tail.held(PATIENCE):
                self._catch_up(tail)
        return tail

    def passing(self, tail: VectorTail, where: Where, count: int) -> NDArray[np.uint64]:
        """Return which of the first slots pass a filter, not to be changed; raise :class:`NoColumn` if it has none."""
        found = self._passing
        if found is None or found.tail is not tail:
            found = self._passing = Passing(tail)
        return found.bits(where, count)

    def _is_lost(self, tail: VectorTail) -> bool:
        """Whether somebody has removed the name of this memory. Of a collection that was dropped, raise."""
        if tail.is_over:
            raise Over
        return self.path is not None and os.fstat(tail.region.fileno()).st_nlink == 0

    def _found(self) -> VectorTail:
        """Return the memory that others use, or make some."""
        for _ in range(_ATTEMPTS):
            tail = self._tail
            if tail is not None and not self._is_lost(tail):
                return tail
            tail = self._mapped()
            try:
                with patience(), tail.held(PATIENCE):
                    if not self._is_there():  # who drops it ends what has this name
                        tail.end()
                        remove_file(self.path)
                        raise Over
                    with _memory(self.path):
                        thaw(self.engine, self.row.number, tail)
                    self._catch_up(tail)
            except Over:
                if not self._is_there():
                    raise
                self._remove(tail)  # who wanted to drop it did not come to it
                continue
            self._tail = tail
            self._tend(tail)
            return tail
        raise StorageError(f"the memory of collection {self.row.number} is removed again and again; who does that?")

    def _mapped(self) -> VectorTail:
        for _ in range(_ATTEMPTS):
            with suppress(FileExistsError):
                return self._attached() or self._made()
        raise StorageError(f"the memory of collection {self.row.number} comes and goes; who does that?")

    def _remove(self, tail: VectorTail) -> None:
        """Take the name of this memory away, unless another has it by now."""
        with suppress(FileNotFoundError):
            if self.path is not None and os.stat(self.path).st_ino == os.fstat(tail.region.fileno()).st_ino:
                os.unlink(self.path)

    def _is_there(self) -> bool:
        """Whether the store still has this collection."""
        value = self.engine.get(COLLECTIONS, self._key)
        row = None if value is None else decode_collection(value)
        return row is not None and row.number == self.row.number and not row.is_dropped

    def end(self, drop: Callable[[], object]) -> None:
        """Let nobody write any more, and `drop` it from the store before anybody looks."""
        if self._rows is None:
            drop()
            return
        for _ in range(_ATTEMPTS):
            tail = self._tail or self._mapped()
            try:
                with patience(), tail.held(PATIENCE):
                    tail.end()
                    drop()
            except Over:
                if self._is_there():  # who wanted to drop it did not come to it
                    self._remove(tail)
                    self._tail = None
                    continue
            remove_file(self.path)
            return

    # -- what is made of it beside it

    @property
    def graphs(self) -> Graphs:
        """By which it is searched once it is large."""
        if self._graphs is None:
            from .graphs import Graphs

            self._graphs = Graphs(self.engine, self.row, lambda: self._limits.bytes - self._taken())
        return self._graphs

    def compact(self) -> bool:
        """Make one graph of all there is; return whether there was something to do."""
        tail, graphs = self.tail(), self.graphs
        with self._compacting:  # what is being made slowly in the background is part of it
            graphs.stop[0] = 1
            self._builder.join()
            graphs.stop[0] = self._is_closed
            with patience():
                return graphs.compact(tail, os.cpu_count() or 1)

    def close(self) -> None:
        """Write what no segment has as one, if there is enough; end a build."""
        self._is_closed = True
        if self._graphs is not None:
            self._graphs.stop[0] = 1
        self._builder.join()
        self._freezer.join()
        self._freeze(LEAST)

    def _tend(self, tail: VectorTail) -> None:
        """Begin what is to be made of what has come, unless it is being done."""
        count = tail.count
        if count >= self._freezes_at:
            self._freezes_at = tail.frozen + _WORTH
        if count >= self._freezes_at:
            self._freezes_at = count + _WORTH
            self._freezer.start()
        if count >= self._grows_at and self._limits.share > 0 and not self.engine.read_only:
            self._grows_at = count + self.graphs.worth // 8
            if not self._compacting.locked():
                self._builder.start()

    def _freeze(self, least: int) -> None:
        tail = self._tail
        with suppress(NtmemError, Over, RuntimeError):  # a shortcut; what was opened before a fork is refused, too
            if tail is not None and not tail.is_over:
                freeze(self.engine, self.row.number, tail, least)

    def _grow(self) -> None:
        tail = self._tail
        try:
            with suppress(NtmemError, Over, RegionDamaged, RuntimeError):
                if tail is not None and tail.count >= self.graphs.worth:
                    tail.collapse()
                while tail is not None and not tail.is_over and self.graphs.grow(tail, self._limits.share):
                    pass
        except (OSError, MemoryError) as error:
            _log.warning("no graph of collection %d was made (%s); what has none is scanned", self.row.number, error)

    def _attached(self) -> VectorTail | None:
        if self.path is None:
            return None
        try:
            return self._of(Region.attach(self.path, identity=self._identity), is_new=False)
        except FileNotFoundError:
            return None
        except (RegionDamaged, RegionMismatch) as error:
            _log.warning("%s; it is made anew from the store", error)
            with suppress(FileNotFoundError):
                os.unlink(self.path)
            return None

    def _made(self) -> VectorTail:
        row = self.row
        slots = max(_LEAST_SLOTS, min(self._limits.bytes // slot_bytes(row.dimension, row.dtype), _MOST_SLOTS))
        capacity = 1 << math.ceil(math.log2(slots))
        with _memory(self.path):
            region = Region.create(
                self.path, identity=self._identity, generation=0, sections=sections(row.dimension, row.dtype, capacity)
            )
            tail = self._of(region, is_new=True)
            if self.path is not None:
                region.publish()
        return tail

    @property
    def _identity(self) -> bytes:
        ours = self.engine.log.region.identity if isinstance(self.engine, LogEngine) else b""
        return ours + b"vectors %d" % self.row.number

    def _of(self, region: Region, *, is_new: bool) -> VectorTail:
        return VectorTail(region, self.row.dimension, self.row.dtype, self.row.metric, is_new=is_new)

    def _catch_up(self, tail: VectorTail) -> tuple[int, int] | None:
        """Apply what the store has behind the last change; return the mark of the log as of which there was no more."""
        many = 1
        while True:
            mark = self.engine.mark if isinstance(self.engine, LogEngine) else None
            first = tail.count
            found = self.engine.fetch(
                POINTS, [(number, point_key(self.row.number, number)) for number in range(first, first + many)]
            )
            for number in range(first, first + many):
                value = found.get(number)
                if value is None:
                    if mark is not None:
                        tail.settle(*mark)
                    return mark
                self._follow(tail, value)
            many = min(4 * many, _FOLLOWED)  # often there are few, and looking for what is not there costs, too

    def _follow(self, tail: VectorTail, value: bytes) -> None:
        """Apply a record."""
        try:
            is_done = tail.apply(value)
        except OSError as error:
            _refuse(self.path, error)
        if not is_done:
            self._apply(tail, decode_point(value))  # which says what is wrong with it

    def _apply(self, tail: VectorTail, point: Point) -> None:
        try:
            tail.stage(*point)
        except OSError as error:
            _refuse(self.path, error)
        tail.publish()

    # -- changing it

    def write(self, points: Sequence[Point], whole: bool = False) -> None:
        """Add changes, in order; those of a group all or none, and all are one group if it is to be `whole`."""
        if len(points) == 1 and self._rows is not None and self._write_one(self._rows, points[0]):
            return
        done, size = 0, len(points) if whole else _GROUP
        while done < len(points):
            try:
                done += self._write_group(points[done : done + size], done)
            except ValueTooLarge as error:
                if whole:
                    raise TooLarge(f"{len(points)} vectors are to be added all or none: {error}") from error
                size = max(1, min(size, len(points) - done) // 2)

    def _write_one(self, rows: RowLog, point: Point) -> bool:
        """Add a change the short way; return False if it is to be done the other."""
        tail = self.tail()
        self._require_room(tail)
        try:
            if tail.add(rows, self.row.number, *point, point.encode(), _SHORT) < 0:
                return False
        except (WriterBusy, RegionDamaged):
            return False  # the other way waits, or says what to do
        except OSError as error:
            _refuse(self.path, error)
        self._written(tail)
        return True

    def _write_group(self, points: Sequence[Point], done: int) -> int:
        """Write changes as one group; raise :class:`ValueTooLarge` if the log does not take so many at once."""
        for _ in range(_ATTEMPTS):
            tail = self.tail()
            self._require_room(tail, points)
            with patience(), tail.held(PATIENCE):
                mark = self._catch_up(tail)
                with _memory(self.path):
                    self._reserve(tail, points)
                if not self._put(tail.count, points, mark):
                    continue
                for point in points:
                    self._apply(tail, point)
                if mark is not None:
                    tail.settle(*mark)  # who has the lock writes all numbers, so the next was not there either
            self._written(tail)
            return len(points)
        raise StorageError(
            f"others wrote to the collection {_ATTEMPTS} times while this was to be written; {done} changes were kept"
        )

    @staticmethod
    def _reserve(tail: VectorTail, points: Sequence[Point]) -> None:
        size, values, names = 0, 0, {}
        for point in points:
            size += len(point.metadata) + len(point.id.encode())
            if point.metadata:
                fields = decode_metadata(point.metadata)
                values += len(fields)
                names.update(dict.fromkeys(fields))
        tail.reserve(len(points), size, names, values)

    def _put(self, first: int, points: Sequence[Point], mark: tuple[int, int] | None) -> bool:
        """Put changes into the store as one group; return False if the number of the first is taken."""
        values = [
            (POINTS, point_key(self.row.number, number), point.encode()) for number, point in enumerate(points, first)
        ]
        if isinstance(self.engine, LogEngine) and mark is not None:
            try:
                return self.engine.put_new(values, mark)
            except ValueTooLarge:
                if len(points) > 1:
                    raise
        try:
            self.engine.commit(
                [Change("put", space, key, value, if_version=0, own=True) for space, key, value in values]
            )
        except VersionConflict:
            return False
        return True

    def _written(self, tail: VectorTail) -> None:
        """See that what was written is seen, and kept as it is to be."""
        self._tend(tail)
        if self._is_lost(tail):  # its name was removed meanwhile: others look elsewhere
            self.tail()
        if isinstance(self.engine, LogEngine) and self.engine.waits_for_disk:
            self.engine.wait_durable(self.engine.last_version(), None)

    def _taken(self) -> int:
        """Return the bytes of memory that all collections take."""
        return memory_of(self.engine) if self.path is not None else self.nbytes

    def _require_room(self, tail: VectorTail, points: Sequence[Point] = ()) -> None:
        """Raise :class:`VectorError` if vectors take all the memory they may, or would with `points`."""
        if not points and tail.count - self._checked < _ROOM_CHECKED and self._checked:
            return
        taken, most = self._taken(), self._limits.bytes
        beside = sum(len(point.id) + len(point.metadata) for point in points)
        wanted = len(points) * slot_bytes(self.row.dimension, self.row.dtype) + beside
        spare = min((taken + wanted) // 8, max((taken + wanted) // 256, _MOST_SPARE))
        if taken + wanted + spare > most:
            raise NoRoom(
                f"vectors take {taken} bytes of memory and {wanted} more, with {spare} to spare, are wanted; "
                f"max_memory_bytes leaves {most} for them: open the store with more, or drop a collection"
            )
        self._checked = max(tail.count, 1)


def memory_of(engine: LmdbEngine) -> int:
    """Return the bytes of shared memory that all collections of a store take."""
    directory = engine.store.directory
    if directory is None or not isinstance(engine, LogEngine):
        return 0
    folder, stem = os.path.split(tail_path(directory, 0)[:-1])
    taken = 0
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith(stem):
                with suppress(FileNotFoundError):
                    taken += entry.stat().st_blocks * 512
    return taken


@contextmanager
def patience() -> Iterator[None]:
    """Say of a lock that cannot be taken what to do about it."""
    try:
        yield
    except RegionDamaged as error:
        raise CorruptionError(
            f"{error}; close the store in all processes: what is in it is made anew from the store by who opens it next"
        ) from error
    except WriterBusy as error:
        raise StorageError(f"{error}; is it stopped? End it, and its change is finished or undone") from error


@contextmanager
def _memory(path: str | None) -> Iterator[None]:
    """Name what is full when there is no memory."""
    try:
        yield
    except OSError as error:
        _refuse(path, error)


def _refuse(path: str | None, error: OSError) -> NoReturn:
    """Raise an error again; one that is for want of memory names what is full."""
    if error.errno not in (errno.ENOSPC, errno.ENOMEM, errno.EFBIG):
        raise error
    where = "this process" if path is None else os.path.dirname(path)
    raise DiskFull(
        f"there is no memory for more vectors in {where} ({error.strerror}), or the collection is as large as it "
        "may become; nothing of the change was kept. Free some, drop a collection, or open the store with more "
        "max_memory_bytes"
    ) from error
