"""Giving back what is over: inside the data file while everybody goes on, and to the disk while nobody is there.

**Invariants**

1. Online, each step is a small transaction of its own; other writers come in between.
2. Offline, the data file is at every instant the old one or the new one, each whole; the new one was checked, and has
   as many rows of each kind as the old one.
3. Who has the store open is never written under: `open.lock` keeps others out, and who is there is found by its locks.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from glob import escape, glob
from typing import TYPE_CHECKING, Any

import msgspec

from ..errors import CorruptionError, ReadOnlyError, StorageError
from .backup import copy_snapshot, described, full_disk, lives, remove_stale_region, sync
from .cold import ColdStore
from .datafile import DATA_FILE, at_rest
from .engine import LmdbEngine
from .region import HAS_LOCKS, AttachLock, region_path
from .sharing import is_open_here, opening
from .verification import verify_directory

if TYPE_CHECKING:
    from .observations import Observations
    from .vectors import VectorStore

_MAX_BYTES = 1 << 40


class CompactReport(msgspec.Struct, frozen=True):
    """What compacting has gained; sizes in bytes."""

    bytes_before: int
    """Of the data file,"""
    bytes_after: int
    free_before: int
    """and of it free for what is written next."""
    free_after: int
    expired: int = 0
    """Records that were given back."""
    collections: int = 0
    """Collections of vectors of which a graph was made anew."""
    rows: int = 0
    """Rows of observations that were compressed."""
    seconds: float = 0.0


# ---- while everybody goes on ----


def compact_online(engine: LmdbEngine, observations: Observations | None, vectors: VectorStore) -> CompactReport:
    """Do :meth:`ntmem.MemorySystem.compact`; `observations` None: they are not to be compressed."""
    began = time.monotonic()
    engine.check_process()
    if engine.read_only:
        raise ReadOnlyError("this store was opened with read_only=True; open it for writing")
    engine.flush(None)
    size, free = _room(engine.store)
    expired = 0
    while given := engine.sweep():
        expired += given
    rows = 0 if observations is None else observations.distill().rows
    collections = sum(vectors.compact(labels) for labels in vectors.collections())
    engine.flush(None)
    size_after, free_after = _room(engine.store)
    return CompactReport(
        *(size, size_after, free, free_after, expired, collections, rows), seconds=time.monotonic() - began
    )


def _room(store: ColdStore) -> tuple[int, int]:
    """Return the bytes of the data file that are in use or free, and those that are free."""

    def look(txn: Any) -> tuple[int, int]:
        stats = [store.env.stat(), *(txn.stat(handle) for handle in store.databases.values())]
        used = sum(it["branch_pages"] + it["leaf_pages"] + it["overflow_pages"] for it in stats)
        page, total = stats[0]["psize"], store.env.info()["last_pgno"] + 1
        return total * page, max(total - used - 2, 0) * page  # two meta pages

    return store.read(look)


# ---- while nobody is there ----


def compact(path: str | os.PathLike[str]) -> CompactReport:
    """Write the data file of a store anew, without what is free in it, while nobody has the store open.

    What dead processes have left in shared memory is brought to disk first. Until the new file is whole and checked the
    old one stays; who is killed at any instant leaves one of the two.

    Raises
    ------
    StorageError
        There is no store, or a process has it open.
    CorruptionError
        The store is damaged.
    DiskFull
        There is no room for the copy, which is as large as what the file holds.

    Notes
    -----
    Who opens the store meanwhile waits for ten seconds, and gets an error then. **Complexity**: O(size of the store).

    Examples
    --------
    >>> with ntmem.open("desk") as memory:
    ...     version = memory.put("desk", "draft", bytes(1 << 20))
    ...     done = memory.delete("desk", "draft")
    >>> report = ntmem.compact("desk")
    >>> report.bytes_before - report.bytes_after > 1 << 19, report.free_after
    (True, 0)
    """
    began = time.monotonic()
    directory = os.path.abspath(os.fsdecode(path))
    data_file = os.path.join(directory, DATA_FILE)
    if not os.path.isfile(data_file):
        raise StorageError(f"there is no store in {directory}; check the path")
    _drain(directory)
    with _alone(directory):
        for left in glob(f"{escape(directory)}/compacted-*"):
            if not lives(left.rpartition("compacted-")[2]):
                shutil.rmtree(left, ignore_errors=True)
        temporary = os.path.join(directory, f"compacted-{os.getpid()}")
        with full_disk(data_file), _directory(temporary):
            before, entries = _copied(directory, temporary)
            made = os.path.join(temporary, DATA_FILE)
            report = verify_directory(temporary)
            found = described(temporary)
            if not report.ok or found.entries != entries:
                problem = report.problems[0] if report.problems else f"it has {found.entries}, the original {entries}"
                raise CorruptionError(
                    f"the copy of {data_file} is not whole ({problem}), so nothing was changed: run 'ntmem verify'"
                )
            os.chmod(made, os.stat(data_file).st_mode & 0o777)
            sync(made)
            remove_stale_region(temporary)
            os.rename(made, data_file)
            sync(directory)
        size = os.path.getsize(data_file)
    return CompactReport(before[0], size, before[1], 0, seconds=time.monotonic() - began)


def _drain(directory: str) -> None:
    """Bring to disk what dead processes have left; the living are refused then."""
    if HAS_LOCKS and os.path.exists(region_path(directory)) and not is_open_here(directory):
        from .doctor import flush

        flush(directory)


@contextmanager
def _alone(directory: str) -> Iterator[None]:
    """Keep everybody out, or raise that somebody is in."""
    if is_open_here(directory):
        raise StorageError(f"{directory} is open in this process; close it first, or call its compact()")
    with opening(directory, read_only=False):
        attached = AttachLock(directory) if HAS_LOCKS else None
        try:
            if attached is not None:
                attached.join(log=True)
            if (attached is not None and not attached.is_alone()) or not at_rest(directory):
                raise StorageError(
                    f"{directory} is open in another process; close it there first, or compact it from within by "
                    "memory.compact() ('ntmem compact --online')"
                )
            yield
        finally:
            if attached is not None:
                attached.release()


@contextmanager
def _directory(path: str) -> Iterator[None]:
    os.mkdir(path, 0o700)
    try:
        yield
    finally:
        shutil.rmtree(path, ignore_errors=True)


def _copied(directory: str, temporary: str) -> tuple[tuple[int, int], dict[str, int]]:
    """Copy the data file; return the room in it, and how many rows each database has."""
    store = ColdStore(directory, read_only=True, max_bytes=_MAX_BYTES)
    try:
        sizes = store.sizes()
        copy_snapshot(store, os.path.join(temporary, DATA_FILE))
        return _room(store), {name: sizes[name] for name in store.databases}
    finally:
        store.close()
