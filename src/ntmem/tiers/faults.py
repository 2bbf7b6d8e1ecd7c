"""What LMDB and the disk report, as errors of ntmem."""

from __future__ import annotations

import errno
import os

import lmdb

from .._core.flusher import trouble_text
from .._core.logrecords import Trouble
from ..errors import CorruptionError, DiskFull, MapFull, NtmemError, SchemaError, StorageError

NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)  # the disk, the user's share of it, the process' limit
DAMAGE = (
    lmdb.CorruptedError,
    lmdb.PageNotFoundError,
    lmdb.InvalidError,
    lmdb.PageFullError,
    lmdb.CursorFullError,
    lmdb.BadTxnError,  # a transaction that has stumbled over a damaged page
)


def code_of(error: Exception) -> int | None:
    """Return the errno behind an error of LMDB, whose text is all that it tells."""
    text = str(error)
    for code in (*NO_ROOM, errno.EIO, errno.EACCES, errno.EROFS, errno.EPERM, errno.ENOMEM, errno.ENOENT):
        if os.strerror(code) in text:
            return code
    return getattr(error, "errno", None)


def open_error(directory: str, error: Exception) -> NtmemError:
    """Return what to raise when a directory could not be opened."""
    code = code_of(error)
    if code in (errno.EACCES, errno.EPERM, errno.EROFS) or isinstance(error, lmdb.ReadonlyError):
        return StorageError(
            f"{directory} is not accessible ({error}); check its owner and permissions, or that of its lock.mdb"
        )
    if code in NO_ROOM or isinstance(error, lmdb.DiskError):
        return DiskFull(f"no room to open a store in {directory}; free some space")
    if isinstance(error, lmdb.VersionMismatchError):
        return SchemaError(f"{directory} was written by another LMDB format ({error})")
    if isinstance(error, DAMAGE):
        return CorruptionError(f"the data file in {directory} is damaged ({error}); restore a backup of the directory")
    return StorageError(f"cannot open the store in {directory}: {error}")


def trouble_error(trouble: Trouble) -> NtmemError:
    """Return what to raise when the flusher cannot go on."""
    kinds: dict[int, type[NtmemError]] = {1: MapFull, 2: DiskFull}
    return kinds.get(trouble.kind, StorageError)(trouble_text(trouble.kind, trouble.code))
