"""L3: one LMDB environment, shared by every thread and process that has the directory open.

Transactions are functions that :meth:`ColdStore.read` and :meth:`ColdStore.write` call: they begin, run and end
without user code in between, so none is ever left open, and a write whose map was too small is simply run again
in a larger one.

**Invariants**

1. An environment is opened at most once per process (LMDB's rule): :func:`attach` hands out one shared object.
2. The map is resized only while no transaction of this process is running: transactions pass a gate, resizing
   (and closing, and forking) shut it.
3. Always plain sync: a returned write is on disk. After an error of the disk the process refuses to write.
"""

from __future__ import annotations

import errno
import fcntl
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeAlias, TypeVar

import lmdb

from ..errors import (
    CorruptionError,
    DiskFull,
    MapFull,
    NtmemError,
    ReadOnlyError,
    SchemaError,
    StorageError,
    StoreClosed,
)
from .datafile import DATA_FILE, check_before_mapping

T = TypeVar("T")
Txn: TypeAlias = "lmdb.Transaction[memoryview]"

FIRST_MAP = 64 << 20
_DELETE_RESERVE = 16 << 20
"""How far deletions may grow a full store: freeing space must not need what it frees."""
_MAX_STEP = 1 << 30
_MAX_READERS = 1022
_OPEN_TIMEOUT = 10.0
_DATABASES = ("meta", "namespaces", "records", "history", "expiry")

FORKED = (
    "this store was opened before a fork and belongs to the parent process; open it again in the child "
    "(or use the 'spawn' or 'forkserver' start method, which does so when the store is an argument)"
)


class Gate:
    """Many may pass at once; one may shut it, after all inside have left."""

    def __init__(self) -> None:
        self._condition = threading.Condition()
        self._inside = 0
        self._shut_by: int | None = None

    def enter(self) -> None:
        """Pass; wait while another thread has it shut."""
        with self._condition:
            while self._shut_by is not None and self._shut_by != threading.get_ident():
                self._condition.wait()
            self._inside += 1

    def leave(self) -> None:
        """Leave again."""
        with self._condition:
            self._inside -= 1
            if not self._inside:
                self._condition.notify_all()

    def shut(self) -> None:
        """Wait until nobody is inside, and let nobody else in."""
        with self._condition:
            while self._shut_by is not None:
                self._condition.wait()
            self._shut_by = threading.get_ident()
            while self._inside:
                self._condition.wait()

    def open(self) -> None:
        """Undo :meth:`shut`."""
        with self._condition:
            self._shut_by = None
            self._condition.notify_all()


class ColdStore:
    """One open LMDB environment. Made by :func:`attach`, shared within the process.

    **Thread safety**: all methods may be called from any thread; writers of all processes take turns.
    """

    def __init__(self, directory: str | None, *, read_only: bool, max_bytes: int) -> None:
        self.directory = directory
        self.read_only = read_only
        self.max_bytes = max_bytes
        self.users = 1
        self._gate = Gate()
        self._refusal: NtmemError | None = None  # why nothing at all works any more
        self._write_refusal: NtmemError | None = None
        self.env = self._open_private() if directory is None else self._open(directory)

    # -- opening and closing

    def _open_private(self) -> lmdb.Environment:
        import shutil
        import tempfile

        # An unlinked directory on a RAM disk: nothing is left behind, whatever ends the process.
        directory = tempfile.mkdtemp(prefix="ntmem-", dir="/dev/shm" if os.access("/dev/shm", os.W_OK) else None)
        try:
            return self._open(directory)
        finally:
            shutil.rmtree(directory, ignore_errors=True)

    def _open(self, directory: str) -> lmdb.Environment:
        check_before_mapping(directory)
        data_file = os.path.join(directory, DATA_FILE)
        size = os.path.getsize(data_file) if os.path.exists(data_file) else 0
        try:
            env = lmdb.open(
                directory,
                map_size=max(min(FIRST_MAP, self.max_bytes), size),
                readonly=self.read_only,
                create=not self.read_only,
                max_dbs=16,
                max_readers=_MAX_READERS,
                max_spare_txns=0,  # a spare one would own a reader slot across a fork
                mode=0o600,
                lib_version=0,  # the format of LMDB 0.9, the one every build of py-lmdb reads
            )
        except (lmdb.Error, OSError) as error:
            raise _open_error(directory, error) from error
        try:
            self.databases: dict[str, Any] = {
                name: env.open_db(name.encode(), create=not self.read_only) for name in _DATABASES
            }
        except lmdb.NotFoundError as error:
            env.close()
            raise StorageError(f"{directory} holds an LMDB database but no ntmem store; check the path") from error
        except lmdb.Error as error:
            env.close()
            raise _open_error(directory, error) from error
        env.reader_check()
        return env

    def close(self) -> None:
        """End all use: wait for running transactions, then close the environment."""
        self._gate.shut()
        try:
            if self._refusal is None:
                self._refusal = StoreClosed("the store is closed; open it again")
                self.env.close()
        finally:
            self._gate.open()

    # -- forking

    def before_fork(self) -> None:
        """Let running transactions end and no other begin, so that the child inherits a resting environment."""
        self._gate.shut()

    def after_fork_in_parent(self) -> None:
        """Go on."""
        self._gate.open()

    def after_fork_in_child(self) -> None:
        """Give up the inherited environment; LMDB's own process check leaves the parent's reader slots alone."""
        self._gate = Gate()
        if self._refusal is None:
            self._refusal = StoreClosed(FORKED)
            self.env.close()

    # -- transactions

    def read(self, action: Callable[[Txn], T]) -> T:
        """Run `action` on one snapshot and return its result."""
        return self._run(action, write=False, needs=0, deletes=False)

    def write(self, action: Callable[[Txn], T], *, needs: int = 0, deletes: bool = False) -> T:
        """Run `action` in a write transaction that is on disk when this returns; all of it or nothing.

        Parameters
        ----------
        action : callable
            May be called more than once (the first map may be too small), so it must not change anything else.
        needs : int
            About how many bytes it adds; spares growing the map in many steps.
        deletes : bool
            Whether it only frees space and so may exceed ``max_storage_bytes`` a little.
        """
        if self.read_only:
            raise ReadOnlyError("this store was opened with read_only=True; open it for writing")
        return self._run(action, write=True, needs=needs, deletes=deletes)

    def _run(self, action: Callable[[Txn], T], *, write: bool, needs: int, deletes: bool) -> T:
        crowded = 0
        while True:
            self._gate.enter()
            try:
                if self._refusal is not None:
                    raise _again(self._refusal)
                if write and self._write_refusal is not None:
                    raise _again(self._write_refusal)
                size = self.env.info()["map_size"] if write else 0
                with self.env.begin(write=write, buffers=True) as txn:
                    return action(txn)
            except lmdb.MapFullError:
                pass
            except lmdb.MapResizedError:  # another process has grown the file
                size = -1
            except lmdb.ReadersFullError as error:
                crowded += 1
                if crowded > 2 and not self.env.reader_check():
                    raise StorageError(
                        f"more than {_MAX_READERS} threads of all processes read this store at once; use fewer"
                    ) from error
                continue
            except lmdb.Error as error:
                raise self._translated(error, write) from error
            finally:
                self._gate.leave()
            self._grow(size, needs, deletes)

    def _grow(self, seen: int, needs: int, deletes: bool) -> None:
        self._gate.shut()
        try:
            if self._refusal is not None:
                return  # the next attempt reports it
            if seen < 0:
                self.env.set_mapsize(0)
                return
            now = self.env.info()["map_size"]
            if now != seen:
                return  # another thread has grown it
            self.env.reader_check()  # a dead reader keeps old pages from being used again
            limit = self.max_bytes + (_DELETE_RESERVE if deletes else 0)
            wanted = min(max(now + min(now, _MAX_STEP), now + 2 * needs), limit)
            if wanted <= now:
                raise MapFull(
                    f"the store holds its {self.max_bytes} bytes; delete something or raise max_storage_bytes"
                )
            self.env.set_mapsize(wanted)
        except lmdb.Error as error:
            raise self._translated(error, write=True) from error
        finally:
            self._gate.open()

    def _translated(self, error: lmdb.Error, write: bool) -> NtmemError:
        code = _code_of(error)
        if code == errno.ENOSPC or isinstance(error, lmdb.DiskError):
            return DiskFull("the disk is full: nothing of this change was kept; free some space and try again")
        if isinstance(error, lmdb.CorruptedError | lmdb.PageNotFoundError | lmdb.InvalidError | lmdb.PageFullError):
            return CorruptionError(f"the data file is damaged ({error}); restore a backup of the store's directory")
        if isinstance(error, lmdb.TxnFullError):
            return StorageError(f"too much for one transaction ({error}); split it")
        if isinstance(error, lmdb.BadValsizeError):
            return StorageError(f"a value is too large for the store ({error})")
        if write and (code == errno.EIO or isinstance(error, lmdb.PanicError)):
            self._write_refusal = StorageError(
                f"the disk failed to sync a change ({error}); this process refuses to write until the store is "
                "closed and opened again: check the disk first"
            )
            return self._write_refusal
        return StorageError(f"LMDB: {error}")

    # -- facts

    def sizes(self) -> dict[str, int]:
        """Return the sizes of file and map in bytes, and entries by database."""

        def look(txn: Txn) -> dict[str, int]:
            entries = {name: int(txn.stat(handle)["entries"]) for name, handle in self.databases.items()}
            info = self.env.info()
            page = int(txn.stat(self.databases["records"])["psize"])
            return entries | {"map": info["map_size"], "file": (info["last_pgno"] + 1) * page}

        return self.read(look)


def _again(refusal: NtmemError) -> NtmemError:
    # A fresh object each time: raising one object twice would pile up its tracebacks.
    return type(refusal)(*refusal.args)


def _code_of(error: Exception) -> int | None:
    text = str(error)
    for code in (errno.ENOSPC, errno.EIO, errno.EACCES, errno.EROFS, errno.EPERM, errno.ENOMEM, errno.ENOENT):
        if os.strerror(code) in text:
            return code
    return getattr(error, "errno", None)


def _open_error(directory: str, error: Exception) -> NtmemError:
    code = _code_of(error)
    if code in (errno.EACCES, errno.EPERM, errno.EROFS) or isinstance(error, lmdb.ReadonlyError):
        return StorageError(
            f"{directory} is not accessible ({error}); check its owner and permissions, or that of its lock.mdb"
        )
    if code == errno.ENOSPC or isinstance(error, lmdb.DiskError):
        return DiskFull(f"no room to open a store in {directory}; free some space")
    if isinstance(error, lmdb.VersionMismatchError):
        return SchemaError(f"{directory} was written by another LMDB format ({error})")
    if isinstance(error, lmdb.InvalidError | lmdb.CorruptedError | lmdb.PageNotFoundError):
        return CorruptionError(f"the data file in {directory} is damaged ({error}); restore a backup of the directory")
    return StorageError(f"cannot open the store in {directory}: {error}")


# -- one environment per process

_open_stores: dict[tuple[int, int], ColdStore] = {}
_registry = threading.RLock()


@contextmanager
def opening(directory: str, read_only: bool) -> Iterator[None]:
    """Let one process at a time open a directory, so that none finds it half made.

    The lock is the kernel's (``flock``) and ends with its holder. Raises :class:`StorageError` naming the holder
    when it is not granted in ten seconds.
    """
    path = os.path.join(directory, "open.lock")
    try:
        file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        if read_only:  # a directory that cannot be written to is not being made by anybody either
            yield
            return
        raise _open_error(directory, error) from error
    try:
        deadline = time.monotonic() + _OPEN_TIMEOUT
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError as error:
                if time.monotonic() > deadline:
                    holder = os.pread(file, 32, 0).decode(errors="replace").strip() or "unknown"
                    raise StorageError(
                        f"process {holder} has been opening {directory} for over {_OPEN_TIMEOUT:.0f} s; "
                        "see whether it is stopped"
                    ) from error
                time.sleep(0.002)
        os.ftruncate(file, 0)
        os.pwrite(file, b"%d\n" % os.getpid(), 0)
        yield
    finally:
        os.close(file)


def attach(
    directory: str | None, *, read_only: bool, max_bytes: int, prepare: Callable[[ColdStore], None]
) -> ColdStore:
    """Return this process's environment of `directory`, opened if it is not; `prepare` runs once, at the opening."""
    with _registry:
        if directory is None:
            store = ColdStore(None, read_only=False, max_bytes=max_bytes)
            prepare(store)
            _open_stores[(0, id(store))] = store
            return store
        _make_directory(directory, read_only)
        with opening(directory, read_only):
            known = _open_stores.get(_identity(directory))
            if known is not None:
                if known.read_only and not read_only:
                    raise StorageError(f"{directory} is open in this process with read_only=True; close that first")
                known.users += 1
                return known
            store = ColdStore(directory, read_only=read_only, max_bytes=max_bytes)
            try:
                prepare(store)
            except BaseException:
                store.close()
                raise
            _open_stores[_identity(directory)] = store
            return store


def detach(store: ColdStore) -> None:
    """Give a store back; the last user closes it."""
    with _registry:
        store.users -= 1
        if store.users == 0:
            store.close()
            for key in [key for key, known in _open_stores.items() if known is store]:
                del _open_stores[key]


def _make_directory(directory: str, read_only: bool) -> None:
    if read_only:
        if not os.path.exists(os.path.join(directory, DATA_FILE)):
            raise StorageError(f"there is no store in {directory}; check the path, or open it for writing to make one")
        return
    try:
        os.makedirs(directory, mode=0o700, exist_ok=True)
    except OSError as error:
        raise StorageError(f"cannot make the directory {directory}: {error.strerror}; choose another path") from error


def _identity(directory: str) -> tuple[int, int]:
    try:
        stat = os.stat(os.path.join(directory, DATA_FILE))
    except FileNotFoundError:
        return (-1, -1)
    return stat.st_dev, stat.st_ino


def _before_fork() -> None:
    _registry.acquire()
    for store in _open_stores.values():
        store.before_fork()


def _after_fork_in_parent() -> None:
    for store in _open_stores.values():
        store.after_fork_in_parent()
    _registry.release()


def _after_fork_in_child() -> None:
    global _registry
    _registry = threading.RLock()
    for store in _open_stores.values():
        store.after_fork_in_child()
    _open_stores.clear()


os.register_at_fork(before=_before_fork, after_in_parent=_after_fork_in_parent, after_in_child=_after_fork_in_child)
