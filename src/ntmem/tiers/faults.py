"""What LMDB and the disk report, as errors of ntmem."""

from __future__ import annotations

import errno
import os

import lmdb

from .._core.flusher import trouble_text
from .._core.logrecords import Trouble
from ..errors import CorruptionError, DiskFull, MapFull, NtmemError, SchemaError, StorageError

LITTLE = 1 << 16
"""So few bytes free are none."""
NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)  # the disk, the user's share of it, the process' limit
DAMAGE = (
    lmdb.CorruptedError,
    lmdb.PageNotFoundError,
    lmdb.InvalidError,
    lmdb.PageFullError,
    lmdb.CursorFullError,
    lmdb.BadTxnError,  # a transaction that has stumbled over a damaged page
)

_DAMAGE_CODES = (
    *(-30797, -30796, -30793, -30787, -30786, -30782),  # those of DAMAGE, as LMDB numbers them
    *(-31101, -31102),  # a row that describes the store, a large value on its way
    *(-1, -4),  # the log in shared memory
)


def code_of(error: Exception) -> int | None:
    """Return the errno behind an error of LMDB, whose text is all that it tells."""
    text = str(error)
    for code in (*NO_ROOM, errno.EIO, errno.EACCES, errno.EROFS, errno.EPERM, errno.ENOMEM, errno.ENOENT):
        if os.strerror(code) in text:
            return code
    return getattr(error, "errno", None)


def no_room(directory: str) -> bool:
    """Whether the disk is used up: LMDB says "I/O error" of a short write."""
    disk = os.statvfs(directory)
    return disk.f_bavail * disk.f_frsize < LITTLE


def open_error(directory: str, error: Exception) -> NtmemError:
    """Return what to raise when a directory could not be opened."""
    code = code_of(error)
    if code in (errno.EACCES, errno.EPERM, errno.EROFS) or isinstance(error, lmdb.ReadonlyError):
        return StorageError(
            f"{directory} is not accessible ({error}); check its owner and permissions, or that of its lock.mdb"
        )
    if code in NO_ROOM or isinstance(error, lmdb.DiskError) or (code == errno.EIO and no_room(directory)):
        return DiskFull(f"no room to open a store in {directory}; free some space")
    if isinstance(error, lmdb.VersionMismatchError):
        return SchemaError(f"{directory} was written by another LMDB format ({error})")
    if isinstance(error, DAMAGE):
        return CorruptionError(f"the data file in {directory} is damaged ({error}); restore a backup of the directory")
    return StorageError(f"cannot open the store in {directory}: {error}")


def trouble_error(trouble: Trouble) -> NtmemError:
    """Return what to raise when the flusher cannot go on."""
    kinds: dict[int, type[NtmemError]] = {1: MapFull, 2: DiskFull}
    kind = kinds.get(trouble.kind, CorruptionError if trouble.code in _DAMAGE_CODES else StorageError)
    if not 1 <= trouble.kind <= 3:  # it was over before it could be said
        return StorageError("the flusher could not go on for a moment; try again")
    return kind(trouble_text(trouble.kind, trouble.code))
