"""Segments of a collection: what its memory has, in files of the store's directory, so that the next reads these.

Only a shortcut: all of it can be made from the records of the store, and is where a segment is missing or damaged. A
segment goes on where the one before it ended, and is bound to it, and to a digest of the last record it has, with its
version: records have numbers without gaps and do not change, so that says that all before are the same, too.

**Invariants**

- A segment has its name only when all of it is on disk. It is never changed, only replaced.
- Nothing of a segment counts before all its checksums were right.
"""

from __future__ import annotations

import logging
import os
import struct
from collections.abc import Callable
from contextlib import suppress
from glob import escape, glob
from hashlib import blake2b
from typing import TYPE_CHECKING, TypeVar

from .._core.region import RegionDamaged
from .._core.vectors import HEADER_BYTES, Over, VectorTail, WriterBusy, is_alive
from ..errors import CorruptionError
from .points import POINTS, point_key

if TYPE_CHECKING:
    from .engine import LmdbEngine

T = TypeVar("T")

_log = logging.getLogger("ntmem")

_HEAD = struct.Struct("<QIIQQQQ")  # magic format crc collection version first end
LEAST = 4096
"""Changes that are worth a segment; it has a multiple of them."""
_BRIEF = 0.5  # seconds for the lock


def _path(directory: str, collection: int, first: int) -> str:
    return os.path.join(directory, "vectors", f"{collection:08x}-{first:012x}.segment")


def thaw(engine: LmdbEngine, collection: int, tail: VectorTail) -> None:
    """Take over the segments that go on where the memory of a collection ends; for who has it locked."""
    directory = engine.store.directory
    slots = 0 if directory is None else _slots(directory, collection)
    while directory is not None and tail.frozen == tail.count < tail.capacity:
        path = _path(directory, collection, tail.count)
        try:
            file = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        except FileNotFoundError:
            return
        except OSError as error:
            _log.warning("%s cannot be read (%s); its vectors are taken from the store", path, error)
            return
        try:
            if not _thawed(engine, collection, tail, file, slots):
                _log.warning("%s is damaged, or of another state of the store; its vectors are taken from there", path)
                return
        finally:
            os.close(file)


def _slots(directory: str, collection: int) -> int:
    """Return up to which slot segments seem to go, so that room for all is taken at once; nothing depends on it."""
    with suppress(OSError, ValueError):
        last = max(_files(directory, collection, ".segment"))
        file = os.open(last, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            header = os.pread(file, HEADER_BYTES, 0)
        finally:
            os.close(file)
        if len(header) == HEADER_BYTES:
            return int(_HEAD.unpack_from(header)[-1])
    return 0


def _thawed(engine: LmdbEngine, collection: int, tail: VectorTail, file: int, slots: int) -> bool:
    header = b""
    with suppress(OSError):
        header = os.pread(file, HEADER_BYTES, 0)
    if len(header) < HEADER_BYTES:
        return False
    _, _, _, owner, version, _, end = _HEAD.unpack_from(header)
    if owner != collection or not 0 < end < 1 << 48 or version != version_of(engine, collection, end - 1):
        return False
    return tail.read_segment(file, header, slots)


def version_of(engine: LmdbEngine, collection: int, number: int) -> int | None:
    """Return what tells the record of a change from any other; None: there is none that can be read.

    Its version is not enough: of a backup that is put back twice both go on with the same ones.
    """
    try:
        record = engine.get_record(POINTS, point_key(collection, number), None)
    except CorruptionError:
        return None
    if record is None or record.value is None:
        return None
    facts = b"%d %d %s " % (record.version, record.ts_known, record.writer.encode())
    return int.from_bytes(blake2b(facts + record.value, digest_size=8).digest(), "little")


def freeze(engine: LmdbEngine, collection: int, tail: VectorTail, least: int = LEAST) -> bool:
    """Write the changes that no segment has yet as a segment, if there are enough; return whether that was done."""
    directory = engine.store.directory
    if directory is None or engine.read_only or tail.count - tail.frozen < least:
        return False
    try:
        with tail.held(_BRIEF):
            header = tail.begin_segment(collection, least)
    except (WriterBusy, Over, RegionDamaged):
        return False
    if header is None:
        return False
    written = None
    try:
        written = _written(engine, directory, collection, tail, header)
    except OSError as error:
        _log.warning("no segment of vectors was written to %s (%s); they are in the store", directory, error)
    finally:
        with suppress(WriterBusy, Over, RegionDamaged), tail.held(_BRIEF):
            tail.end_segment(written)
    return written is not None


def _written(engine: LmdbEngine, directory: str, collection: int, tail: VectorTail, header: bytes) -> bytes | None:
    *_, first, end = _HEAD.unpack_from(header)
    version = version_of(engine, collection, end - 1)
    if version is None:
        return None
    number, path = version, _path(directory, collection, first)
    written = written_whole(path, lambda file: tail.write_segment(file, header, number))
    if version_of(engine, collection, end - 1) != version:  # it is dropped, and who does has looked for segments
        _remove(path)
        return None
    for other in _files(directory, collection, ".segment"):  # of another chain: nobody comes to them
        if first < int(other[-20:-8], 16) < end:
            _remove(other)
    return written


def written_whole(path: str, write: Callable[[int], T]) -> T:
    """Do what :func:`replaced_whole` does with a file of a store, whose directory is made if it is not there."""
    os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
    _remove_leftovers(os.path.dirname(path))
    return replaced_whole(path, write, 0o600)


def replaced_whole(path: str, write: Callable[[int], T], mode: int) -> T:
    """Return what `write` returns, of a file that gets its name when that has written and synced all of it."""
    temporary = f"{path}.{os.getpid()}-{os.urandom(8).hex()}"
    file = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
    try:
        written = write(file)
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise
    finally:
        os.close(file)
    folder = os.open(os.path.dirname(path) or ".", os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
    return written


def _files(directory: str, collection: int, ending: str) -> list[str]:
    return glob(f"{escape(os.path.join(directory, 'vectors'))}/{collection:08x}-*{ending}")


def _remove(path: str) -> None:
    with suppress(OSError):
        os.unlink(path)


def _remove_leftovers(folder: str) -> None:
    """Remove what somebody has not finished who is gone."""
    for path in (*glob(f"{escape(folder)}/*.segment.*"), *glob(f"{escape(folder)}/*.graph.*")):
        pid = path.rpartition(".")[2].partition("-")[0]
        if not (pid.isdecimal() and is_alive(int(pid))):
            _remove(path)


def remove_segments(engine: LmdbEngine, collection: int) -> None:
    """Remove segments and graphs of a collection that was dropped, of which there are no records any more."""
    directory = engine.store.directory
    if directory is not None:
        for path in _files(directory, collection, ""):
            _remove(path)
