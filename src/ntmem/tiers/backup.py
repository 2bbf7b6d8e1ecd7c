"""A store as a directory of its own: one snapshot, copied while others write; and a store made of such a copy.

``docs/design/backup.md`` has the reasons.

**Invariants**

1. What stands under a backup's name is whole and on disk: it gets its name last.
2. A store that is there is never written over.
3. A restored store hands out no version, and no number of a lease, that the original handed out by then.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from glob import escape, glob
from hashlib import blake2b
from typing import Any, NoReturn

import lmdb
import msgspec

from .. import clock as clocks
from ..errors import CorruptionError, DiskFull, LockTimeout, SchemaError, StorageError
from .cold import ColdStore
from .datafile import DATA_FILE, LOCK_FILE
from .engine import LmdbEngine
from .faults import NO_ROOM, code_of
from .log import LogEngine
from .opening import SCHEMA
from .region import HAS_LOCKS, AttachLock, may_attach, region_path, remove_file, remove_tails
from .sharing import opening
from .tables import Tables
from .verification import verify_directory

MANIFEST = "manifest.json"
FORMAT = 1
_CHUNK = 1 << 20
_GENERATIONS, _LEAP = 1 << 20, 1 << 10
_FENCE_LEAP = 1 << 50
_SLICE = 0.5
_MAX_BYTES = 1 << 40

Progress = Callable[[int, int], None]
"""Is told how many bytes are done, and of how many."""


class Manifest(msgspec.Struct, frozen=True):
    """What a backup says of itself."""

    format: int
    ntmem: str
    schema: int
    generation: int
    last_version: int
    records: int
    taken_at: int
    size: int
    blake2b: str


class BackupReport(msgspec.Struct, frozen=True):
    """What :meth:`ntmem.MemorySystem.backup` has made."""

    path: str
    bytes: int
    last_version: int
    """Of the newest change that is in it."""
    records: int
    seconds: float


class RestoreReport(msgspec.Struct, frozen=True):
    """What :func:`ntmem.restore` has made."""

    path: str
    bytes: int
    records: int
    last_version: int
    """Of the newest change in the backup."""
    next_generation: int
    """All versions of the restored store are above ``next_generation << 44``."""
    notices: tuple[str, ...]
    seconds: float


# ---- taking one ----


def backup(engine: LmdbEngine, path: str | os.PathLike[str]) -> BackupReport:
    """Do :meth:`ntmem.MemorySystem.backup`."""
    began = time.monotonic()
    target = os.path.abspath(os.fsdecode(path))
    if os.path.lexists(target):
        raise StorageError(f"{target} is there already; a backup never replaces anything: choose another name")
    engine.check_process()
    settle(engine)
    with making(target) as temporary:
        os.mkdir(temporary, 0o700)
        with full_disk(target):
            data_file = os.path.join(temporary, DATA_FILE)
            copy_snapshot(engine.store, data_file)
            os.chmod(data_file, 0o600)
            found = described(temporary)
            size, digest = _digested(data_file)
            manifest = Manifest(
                *(FORMAT, package_version(), SCHEMA, found.generation, found.last_version, found.records),
                *(clocks.wall_ns(), size, digest),
            )
            with open(os.path.join(temporary, MANIFEST), "xb") as file:
                file.write(msgspec.json.format(msgspec.json.encode(manifest), indent=2) + b"\n")
            sync(data_file, os.path.join(temporary, MANIFEST), temporary)
        publish(temporary, target)
    return BackupReport(target, size, manifest.last_version, manifest.records, time.monotonic() - began)


def copy_snapshot(store: ColdStore, data_file: str) -> None:
    """Copy what is on disk into a file in an empty directory, without free pages."""

    def copy() -> Exception | None:
        remove_file(data_file)  # of an attempt before
        try:
            store.env.copy(os.path.dirname(data_file), compact=True)
        except (lmdb.Error, OSError) as error:
            return error  # of the copy's disk, not the store's
        return None

    # Within a transaction: until it ends nobody takes the environment away.
    failure = store.read(lambda txn: copy())
    if failure is not None:
        raise failure


def settle(engine: LmdbEngine) -> None:
    """Return when all that was acknowledged by now is on disk; raise if nobody is there who would bring it there."""
    attached = engine.store.attached
    while True:
        try:
            engine.flush(_SLICE if engine.read_only else None)
            return
        except LockTimeout:
            directory = engine.store.directory
            if directory is None or attached is None or not isinstance(engine, LogEngine):
                raise
            with opening(directory, read_only=True):
                alone = attached.is_alone()
            if alone and engine.log.flushed < engine.log.committed:
                raise StorageError(
                    f"processes that died have left changes of {directory} in shared memory, and this one only reads: "
                    "run 'ntmem doctor --flush', or open the store for writing once"
                ) from None


class Described(msgspec.Struct, frozen=True):
    """What a data file says of itself."""

    generation: int
    last_version: int
    records: int
    entries: dict[str, int]
    """By database."""


def described(directory: str) -> Described:
    """Return what the data file in a directory that nobody uses says of itself, and leave nothing beside it."""
    store = ColdStore(directory, read_only=True, max_bytes=_MAX_BYTES)
    try:
        sizes = store.sizes()
        head = store.read(lambda txn: Tables(store, txn).head())
    finally:
        store.close()
        _only_data(directory)
    entries = {name: sizes[name] for name in store.databases}
    return Described(head.generation, head.version, sizes["records"], entries)


def _only_data(directory: str) -> None:
    for name in (LOCK_FILE, "open.lock", "attach.lock", "closed"):
        with suppress(FileNotFoundError):
            os.unlink(os.path.join(directory, name))


def package_version() -> str:
    """Return the version of ntmem."""
    return str(sys.modules[__name__.partition(".")[0]].__version__)


# ---- files ----


@contextmanager
def making(target: str) -> Iterator[str]:
    """Give a name beside `target` for what is to become it, and remove what is left of it when the block fails."""
    parent = os.path.dirname(target)
    if not os.path.isdir(parent):
        raise StorageError(f"there is no directory {parent}; make it first")
    for left in glob(f"{escape(target)}.partial-*"):
        pid = left[len(target) :].split("-")[1]
        if pid.isdecimal() and not lives(pid):
            shutil.rmtree(left, ignore_errors=True)
    temporary = f"{target}.partial-{os.getpid()}-{os.urandom(4).hex()}"
    try:
        yield temporary
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def publish(temporary: str, target: str) -> None:
    """Give a directory its name; it must not be there, or be an empty directory."""
    try:
        os.rename(temporary, target)
    except OSError as error:
        if error.errno in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
            raise StorageError(f"{target} was made by somebody else meanwhile; choose another name") from error
        raise StorageError(f"cannot make {target}: {error.strerror}") from error
    sync(os.path.dirname(target))


@contextmanager
def full_disk(target: str) -> Iterator[None]:
    """Raise what a disk reports as errors of ntmem."""
    try:
        yield
    except (lmdb.Error, OSError) as error:
        _raise(target, error)


def _raise(target: str, error: Exception) -> NoReturn:
    if code_of(error) in NO_ROOM or isinstance(error, lmdb.DiskError):
        raise DiskFull(f"no room for {target} ({error}); nothing of it was kept: free some space") from error
    parent = os.statvfs(os.path.dirname(target))
    if code_of(error) == errno.EIO and parent.f_bavail * parent.f_frsize < _CHUNK:  # LMDB's name for a short write
        raise DiskFull(f"no room for {target}; nothing of it was kept: free some space") from error
    raise StorageError(f"cannot write {target}: {error}") from error


def lives(pid: str) -> bool:
    """Whether there is a process of this number."""
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return False
    except OSError:
        pass
    return True


def sync(*paths: str) -> None:
    """Bring files and directories to disk."""
    for path in paths:
        file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fsync(file)
        finally:
            os.close(file)


def _digested(path: str) -> tuple[int, str]:
    digest, size = blake2b(digest_size=32), 0
    with open(path, "rb", buffering=0) as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
            size += len(chunk)
    return size, digest.hexdigest()


# ---- putting one back ----


def restore(
    src: str | os.PathLike[str], dst: str | os.PathLike[str], *, progress: Progress | None = None
) -> RestoreReport:
    """Make a store of a backup, or of a copy of a store that nobody had open.

    Parameters
    ----------
    src : path
        The directory of the backup. It is only read.
    dst : path
        The directory of the new store; must not exist, or be empty.
    progress : callable, optional
        Called with bytes that are copied, and of how many.

    Returns
    -------
    RestoreReport
        `notices` says what could not be compared.

    Raises
    ------
    CorruptionError
        The copy is not what was backed up, or damaged.
    SchemaError
        It was made by a later version of ntmem.
    StorageError, DiskFull
        There is a store in `dst`; `src` is none, or is in use; the disk does not take it. There is nothing new then.

    Notes
    -----
    Versions and numbers of leases of the new store are above all that the original handed out before, and hands out
    until it has lost its shared memory a thousand times. **Complexity**: O(size), most of it checking.

    Examples
    --------
    >>> with ntmem.open("desk") as memory:
    ...     version = memory.put("desk", "target", b"3")
    ...     report = memory.backup("desk-backup")
    >>> made = ntmem.restore("desk-backup", "desk-again")
    >>> with ntmem.open("desk-again") as memory:
    ...     memory.get("desk", "target"), memory.put("desk", "target", b"4") > version
    (b'3', True)
    """
    began = time.monotonic()
    source, target = (os.path.abspath(os.fsdecode(path)) for path in (src, dst))
    data_file = os.path.join(source, DATA_FILE)
    if not os.path.isfile(data_file):
        raise StorageError(
            f"there is no backup in {source}: it has no {DATA_FILE}; give the directory that backup() made"
        )
    if os.path.isfile(os.path.join(target, DATA_FILE)):
        raise StorageError(
            f"there is a store in {target}; restoring never replaces one: close it in all processes, move it away, and "
            "restore again, or choose another directory"
        )
    if os.path.lexists(target) and not (os.path.isdir(target) and not os.listdir(target)):
        raise StorageError(f"{target} is there already and not an empty directory; choose another one")
    manifest, notices = _manifest_of(source), []
    if manifest is None:
        _refuse_used(source)
        notices.append(f"{source} has no {MANIFEST}: its content was checked, but not compared with what was backed up")
    with making(target) as temporary:
        os.mkdir(temporary, 0o700)
        with full_disk(target):
            copied = os.path.join(temporary, DATA_FILE)
            size, digest = _copied(data_file, copied, progress)
            if manifest is not None and (size, digest) != (manifest.size, manifest.blake2b):
                raise CorruptionError(
                    f"{data_file} is not what was backed up: it has {size} bytes with digest {digest[:16]}..., the "
                    f"manifest says {manifest.size} and {manifest.blake2b[:16]}...; use another backup"
                )
            report = verify_directory(temporary)
            if not report.ok:
                first, count = report.problems[0], len(report.problems)
                raise CorruptionError(f"{data_file} is damaged ({count} problems): {first}; use another backup")
            found = described(temporary)
            generation = _stamp(temporary)
            _only_data(temporary)
            sync(copied, temporary)
        remove_stale_region(temporary)
        publish(temporary, target)
    return RestoreReport(
        *(target, size, found.records, found.last_version, generation, tuple(notices), time.monotonic() - began)
    )


def _manifest_of(source: str) -> Manifest | None:
    try:
        with open(os.path.join(source, MANIFEST), "rb") as file:
            data = file.read()
    except FileNotFoundError:
        return None
    try:
        said: Any = json.loads(data)
        if said.get("format", 0) > FORMAT or said.get("schema", 0) > SCHEMA:
            raise SchemaError(
                f"{source} was backed up by ntmem {said.get('ntmem')} with schema {said.get('schema')}, this version "
                f"knows up to {SCHEMA}; upgrade ntmem"
            )
        return msgspec.convert(said, Manifest)
    except (ValueError, AttributeError, TypeError, msgspec.ValidationError) as error:
        raise CorruptionError(
            f"{os.path.join(source, MANIFEST)} is damaged ({error}); use another backup, or move it away to restore "
            f"{DATA_FILE} unseen"
        ) from error


def _refuse_used(source: str) -> None:
    """Raise if a directory without a manifest is a store that is not all in its data file."""
    if os.path.exists(region_path(source)):
        raise StorageError(
            f"{source} has changes in shared memory: it is open, or was killed; take a backup ('ntmem backup'), or "
            "bring them to disk first ('ntmem doctor --flush')"
        )
    if HAS_LOCKS and may_attach(source) and os.path.exists(os.path.join(source, "attach.lock")):
        with opening(source, read_only=True):
            attached = AttachLock(source)
            try:
                attached.join(log=True)
                alone = attached.is_alone()
            finally:
                attached.release()
        if not alone:
            raise StorageError(f"{source} is open in another process; take a backup of it instead ('ntmem backup')")


def _copied(source: str, target: str, progress: Progress | None) -> tuple[int, str]:
    digest, size, total = blake2b(digest_size=32), 0, os.path.getsize(source)
    with open(source, "rb", buffering=0) as file, open(target, "xb", opener=_private) as copy:
        while chunk := file.read(_CHUNK):
            copy.write(chunk)
            digest.update(chunk)
            size += len(chunk)
            if progress is not None:
                progress(size, total)
    return size, digest.hexdigest()


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


def _stamp(directory: str) -> int:
    """Let the store go on above its original; return its generation."""
    store = ColdStore(directory, read_only=False, max_bytes=_MAX_BYTES)

    def act(tables: Tables) -> int:
        head = tables.head()
        leap = max(1, min(_LEAP, (_GENERATIONS - head.generation) // 2))
        tables.put_head(head._replace(generation=head.generation + leap))
        tables.leap_fences(_FENCE_LEAP)
        return head.generation + leap

    try:
        return store.write(lambda txn: act(Tables(store, txn)))
    finally:
        store.close()


def remove_stale_region(directory: str) -> None:
    """Remove a region that has the name of a data file which was just made: its own file was deleted."""
    if HAS_LOCKS:
        path = region_path(directory)
        remove_tails(path)
        remove_file(path)
