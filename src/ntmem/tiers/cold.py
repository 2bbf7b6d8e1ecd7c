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
import itertools
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, TypeAlias, TypeVar

import lmdb

from ..clock import boot_id
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
from .datafile import DATA_FILE, LOCK_FILE, check_before_mapping, note_closed, was_touched

T = TypeVar("T")
Txn: TypeAlias = "lmdb.Transaction[memoryview]"

FIRST_MAP = 64 << 20
_DELETE_RESERVE = 16 << 20
"""How far deletions may grow a full store: freeing space must not need what it frees."""
_MAX_STEP = 1 << 30
_MAX_READERS = 1022
_LOCK_FILE_BYTES = 1 << 16  # what so many take
_ADOPT, _SHRINK = -1, -2
_LITTLE = 1 << 16
_PRIVATE = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
_OPEN_TIMEOUT = 10.0
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)  # the disk, the user's share of it, the process' limit
_DAMAGE = (lmdb.CorruptedError, lmdb.PageNotFoundError, lmdb.InvalidError, lmdb.PageFullError, lmdb.CursorFullError)
_DATABASES = ("meta", "namespaces", "records", "history", "expiry")

FORKED = (
    "this store was opened before a fork and belongs to the parent process; open it again in the child "
    "(or use the 'spawn' or 'forkserver' start method, which does so when the store is an argument)"
)


class _DeletionsGrewIt(Exception):
    """The map is larger than ``max_storage_bytes``: other changes must not take the room that deletions may need."""


class Gate:
    """Many may pass at once; one may shut it, after all inside have left.

    A caller holds a token of its own and does ``inside.pop(token, None)`` to leave: one C call, which an exception
    of a signal handler (Ctrl-C) comes before or behind, but not into; a forgotten caller would block every later
    shutting for ever. So whoever shuts the gate looks again and again rather than being told.
    """

    def __init__(self) -> None:
        self.inside: dict[object, int] = {}  # token: thread
        self._shutting = threading.RLock()
        self._shut_by: list[int] = []
        self._quieting = threading.Lock()
        self._quiet_for = 0

    def enter(self, token: object, write: bool) -> None:
        """Pass; wait while another thread has it shut, or wants no readers in."""
        me = threading.get_ident()
        while True:
            self.inside[token] = me
            quiet_for = self._quiet_for
            if self._shut_by and me not in self._shut_by:
                lock: Any = self._shutting
            elif quiet_for and not write and quiet_for != me:
                lock = self._quieting
            else:
                return
            self.inside.pop(token, None)
            with lock:
                pass

    def abort(self, txn: Txn) -> None:
        """Abort a write transaction, for which no new reader is let in.

        py-lmdb 3.0 waits in there, with the lock of all writers, for a moment at which no other thread is in any of
        its calls; two threads that read without a pause leave it none.
        """
        with self._quieting:
            self._quiet_for = threading.get_ident()
            try:
                txn.abort()
            finally:
                self._quiet_for = 0

    def holds_this_thread(self) -> bool:
        """Whether this thread is inside, or shutting it: signal handlers and finalizers come at any moment."""
        me = threading.get_ident()
        return me in list(self.inside.values()) or me in self._shut_by

    def shut(self) -> None:
        """Wait until nobody else is inside, and let nobody else in."""
        me = threading.get_ident()
        self._shutting.acquire()
        try:
            self._shut_by.append(me)
            while any(thread != me for thread in list(self.inside.values())):
                time.sleep(0.0002)
        except BaseException:
            self.open()
            raise

    def open(self) -> None:
        """Undo :meth:`shut`."""
        self._shut_by.pop()
        self._shutting.release()


class ColdStore:
    """One open LMDB environment. Made by :func:`attach`, shared within the process.

    **Thread safety**: all methods may be called from any thread; writers of all processes take turns.
    """

    def __init__(self, directory: str | None, *, read_only: bool, max_bytes: int) -> None:
        self.directory = directory
        self.read_only = read_only
        self.max_bytes = max_bytes
        self.users = 1
        self.boot = boot_id()
        self.prepared = False
        self._gate = Gate()
        self._refusal: NtmemError | None = None  # why nothing at all works any more
        self._write_refusal: NtmemError | None = None
        self.env = self._open_private() if directory is None else self._open(directory)

    # -- opening and closing

    def _open_private(self) -> lmdb.Environment:
        import shutil
        import tempfile

        # An unlinked directory on a RAM disk: nothing is left behind, whatever ends the process.
        directory = tempfile.mkdtemp(prefix="ntmem-", dir=_PRIVATE)
        try:
            return self._open(directory)
        finally:
            shutil.rmtree(directory, ignore_errors=True)

    def _open(self, directory: str) -> lmdb.Environment:
        check_before_mapping(directory)
        data_file = os.path.join(directory, DATA_FILE)
        size = os.path.getsize(data_file) if os.path.exists(data_file) else 0
        self.was_touched = size > 0 and not self.read_only and was_touched(directory)
        try:
            if not self.read_only:
                _allocate_lock_file(os.path.join(directory, LOCK_FILE))
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
            if size == 0 and not self.read_only:  # on a full disk LMDB leaves half of a new file behind
                with suppress(OSError):
                    os.unlink(data_file)
            raise _open_error(directory, error) from error
        try:
            while True:
                try:
                    self.databases = self._open_databases(env)
                    break
                except lmdb.MapResizedError:  # another process is just growing the file
                    env.set_mapsize(0)
        except (lmdb.NotFoundError, lmdb.IncompatibleError) as error:
            env.close()
            raise StorageError(f"{directory} holds an LMDB database but no ntmem store; check the path") from error
        except lmdb.Error as error:
            env.close()
            raise _open_error(directory, error) from error
        env.reader_check()
        return env

    def _open_databases(self, env: lmdb.Environment) -> dict[str, Any]:
        """Open the databases, all made in one transaction; raise ``NotFoundError`` if the file is somebody else's."""
        with env.begin(buffers=True) as txn:
            found = {bytes(name) for name, _ in itertools.islice(txn.cursor(), 100)}
        if found:
            meta = env.open_db(b"meta", create=False)
            with env.begin() as txn:
                just_made = txn.stat(meta)["entries"] == 0 and found == {name.encode() for name in _DATABASES}
                if txn.get(b"schema", db=meta) is None and not just_made:
                    raise lmdb.NotFoundError("no schema")
        if self.read_only:
            return {name: env.open_db(name.encode(), create=False) for name in _DATABASES}
        with env.begin(write=True) as txn:
            return {name: env.open_db(name.encode(), txn=txn) for name in _DATABASES}

    def close(self) -> None:
        """End all use: wait for running transactions, then close the environment."""
        self._gate.shut()
        try:
            if self._refusal is None:
                self._refusal = StoreClosed("the store is closed; open it again")
                if self.prepared and self.directory is not None and not self.read_only:
                    note_closed(self.directory)
                self.env.close()
        finally:
            self._gate.open()

    def holds_this_thread(self) -> bool:
        """Whether this thread is within a transaction."""
        return self._gate.holds_this_thread()

    @property
    def closed(self) -> bool:
        """Whether nothing can be read any more: closed, or inherited by a fork."""
        return self._refusal is not None

    # -- forking

    def before_fork(self) -> None:
        """Let running transactions end and no other begin, so that the child inherits a resting environment."""
        self._gate.shut()

    def after_fork_in_parent(self) -> None:
        """Go on."""
        self._gate.open()

    def after_fork_in_child(self) -> None:
        """Give up the inherited environment; LMDB's own process check leaves the parent's reader slots alone."""
        interrupted = (
            threading.get_ident() in self._gate.inside.values()
        )  # a signal handler forked: its transaction is on the stack
        self._gate = Gate()
        if self._refusal is None:
            self._refusal = StoreClosed(FORKED)
            if not interrupted:
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

    def _run(self, action: Callable[[Txn], T], *, write: bool, needs: int, deletes: bool, last: bool = False) -> T:
        if write and self._gate.holds_this_thread():
            raise StorageError(
                "a signal handler or finalizer interrupted this thread within a transaction and cannot write; "
                "let it set a flag or use another thread"
            )
        crowded = 0
        refreshed = last
        gate, token = self._gate, object()
        while True:
            broken: lmdb.PanicError | None = None
            full: DiskFull | None = None
            try:
                gate.enter(token, write)
                if self._refusal is not None:
                    raise _again(self._refusal)
                if write and self._write_refusal is not None:
                    raise _again(self._write_refusal)
                env = self.env
                size = env.info()["map_size"] if write else 0
                if write and not deletes and size > self.max_bytes and size > self._used():
                    raise _DeletionsGrewIt
                with env.begin(write=write, buffers=True) as txn:
                    try:
                        return action(txn)
                    except BaseException:
                        if write:
                            gate.abort(txn)
                        raise
            except lmdb.MapFullError:
                pass
            except _DeletionsGrewIt:
                size = _SHRINK
            except lmdb.MapResizedError:  # another process has grown the file
                size = _ADOPT
            except lmdb.PanicError as error:  # LMDB refuses even to read after a failed write of a meta page
                broken = error
            except lmdb.ReadersFullError as error:
                crowded += 1
                if crowded > 2 and not self.env.reader_check():
                    raise StorageError(
                        f"more than {_MAX_READERS} threads of all processes read this store at once; use fewer"
                    ) from error
                continue
            except lmdb.Error as error:
                failure = self._translated(error, write)
                if refreshed or not isinstance(failure, DiskFull):
                    raise failure from error
                full = failure
            finally:
                gate.inside.pop(token, None)
            if broken is not None:
                self._reopen(env, broken)
            elif full is None and (refreshed or deletes):
                self._grow(size, needs, deletes)
            else:
                try:
                    if full is not None:
                        raise full
                    self._grow(size, needs, deletes)
                except (DiskFull, MapFull):
                    refreshed = True
                    if not self._refreshed():
                        raise

    def _refreshed(self) -> bool:
        """Commit next to nothing: LMDB uses the pages that a commit frees from the second commit after it on."""

        def touch(txn: Txn) -> None:
            meta = self.databases["meta"]
            txn.put(b"schema", bytes(txn.get(b"schema", db=meta) or b""), db=meta)

        with suppress(NtmemError):
            self._run(touch, write=True, needs=0, deletes=True, last=True)
            return True
        return False

    def _reopen(self, env: lmdb.Environment, error: lmdb.PanicError) -> None:
        if self._gate.holds_this_thread():
            raise self._translated(error, write=True) from error
        self._gate.shut()
        try:
            if self._refusal is None and self.env is env:  # no other thread was faster
                env.close()
                if self.directory is None:
                    raise StorageError(f"the private store failed ({error}); open another")
                self.env = self._open(self.directory)
        except NtmemError as refusal:
            self._refusal = refusal
            raise
        finally:
            self._gate.open()

    def _grow(self, seen: int, needs: int, deletes: bool) -> None:
        if self._gate.holds_this_thread():
            raise StorageError("the map must grow, which a signal handler within a transaction cannot do; try later")
        self._gate.shut()
        try:
            if self._refusal is not None:
                return  # the next attempt reports it
            if seen == _ADOPT:
                self.env.set_mapsize(0)
                return
            if seen == _SHRINK:
                self.env.set_mapsize(max(self.max_bytes, self._used()))
                return
            now = self.env.info()["map_size"]
            if now != seen:
                return  # another thread has grown it
            if self.env.reader_check():
                return  # a dead reader kept old pages from being used again: perhaps there is room now
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

    def _used(self) -> int:
        return int((self.env.info()["last_pgno"] + 1) * self.env.stat()["psize"])

    def _no_room(self) -> bool:
        """Whether the disk, or what this process may write, is used up: LMDB says "I/O error" of a short write."""
        import resource

        free = os.statvfs(self.directory or _PRIVATE or "/tmp")
        most = resource.getrlimit(resource.RLIMIT_FSIZE)[0]
        used_up = most != resource.RLIM_INFINITY and self._used() + _LITTLE > most
        return used_up or free.f_bavail * free.f_frsize < _LITTLE

    def _translated(self, error: lmdb.Error, write: bool) -> NtmemError:
        code = _code_of(error)
        if code in _NO_ROOM or isinstance(error, lmdb.DiskError) or (write and code == errno.EIO and self._no_room()):
            return DiskFull(
                f"the disk is full ({error}): nothing of this change was kept; free some space and try again"
            )
        if isinstance(error, _DAMAGE):
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
    for code in (*_NO_ROOM, errno.EIO, errno.EACCES, errno.EROFS, errno.EPERM, errno.ENOMEM, errno.ENOENT):
        if os.strerror(code) in text:
            return code
    return getattr(error, "errno", None)


def _open_error(directory: str, error: Exception) -> NtmemError:
    code = _code_of(error)
    if code in (errno.EACCES, errno.EPERM, errno.EROFS) or isinstance(error, lmdb.ReadonlyError):
        return StorageError(
            f"{directory} is not accessible ({error}); check its owner and permissions, or that of its lock.mdb"
        )
    if code in _NO_ROOM or isinstance(error, lmdb.DiskError):
        return DiskFull(f"no room to open a store in {directory}; free some space")
    if isinstance(error, lmdb.VersionMismatchError):
        return SchemaError(f"{directory} was written by another LMDB format ({error})")
    if isinstance(error, _DAMAGE):
        return CorruptionError(f"the data file in {directory} is damaged ({error}); restore a backup of the directory")
    return StorageError(f"cannot open the store in {directory}: {error}")


# -- one environment per process

_open_stores: dict[tuple[int, int], ColdStore] = {}
_registry = threading.RLock()
_registrars: list[int] = []  # the thread that holds it, once for each time
_given_back: deque[ColdStore] = deque()


@contextmanager
def _registered() -> Iterator[None]:
    with _registry:
        _registrars.append(threading.get_ident())
        try:
            if len(_registrars) == 1:
                _take_back()
            yield
        finally:
            _registrars.pop()


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
        with suppress(OSError):  # who it is only serves a message
            os.ftruncate(file, 0)
            os.pwrite(file, b"%d\n" % os.getpid(), 0)
        yield
    finally:
        os.close(file)


def attach(
    directory: str | None, *, read_only: bool, max_bytes: int, prepare: Callable[[ColdStore], None]
) -> ColdStore:
    """Return this process's environment of `directory`, opened if it is not; `prepare` runs once, at the opening."""
    with _registered():
        if directory is None:
            return _prepared(ColdStore(None, read_only=False, max_bytes=max_bytes), prepare)
        _make_directory(directory, read_only)
        with opening(directory, read_only):
            known = _open_stores.get(_identity(directory))
            if known is not None:
                if known.read_only and not read_only:
                    raise StorageError(f"{directory} is open in this process with read_only=True; close that first")
                known.users += 1
                known.max_bytes = max(known.max_bytes, max_bytes)  # the roomiest limit of the process's handles
                return known
            return _prepared(ColdStore(directory, read_only=read_only, max_bytes=max_bytes), prepare)


def _prepared(store: ColdStore, prepare: Callable[[ColdStore], None]) -> ColdStore:
    try:
        prepare(store)
    except BaseException:
        store.close()
        raise
    store.prepared = True
    _open_stores[(0, id(store)) if store.directory is None else _identity(store.directory)] = store
    return store


def detach(store: ColdStore) -> None:
    """Give a store back; the last user closes it.

    Called by a finalizer or a signal handler in the middle of a transaction or of an opening, it cannot wait for
    what it interrupted: then the store is closed by the next opening or closing.
    """
    _given_back.append(store)
    interrupting = any(known.holds_this_thread() for known in list(_open_stores.values()))
    if interrupting or threading.get_ident() in _registrars:
        return
    with _registered():
        pass


def _take_back() -> None:
    while _given_back:
        store = _given_back.popleft()
        store.users -= 1
        if store.users == 0:
            store.close()
            for key in [key for key, known in _open_stores.items() if known is store]:
                del _open_stores[key]


def _allocate_lock_file(path: str) -> None:
    # LMDB makes it sparse and maps it: on a full disk the first reader in a fresh page would die of SIGBUS. Others may
    # have it mapped, so it is never made longer. (This process has not: closing a descriptor would drop its locks.)
    if hasattr(os, "posix_fallocate"):
        file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            os.posix_fallocate(file, 0, os.fstat(file).st_size or _LOCK_FILE_BYTES)
        finally:
            os.close(file)


def _make_directory(directory: str, read_only: bool) -> None:
    if read_only:
        try:
            size = os.stat(os.path.join(directory, DATA_FILE)).st_size
        except PermissionError as error:
            raise _open_error(directory, error) from error
        except OSError:
            size = 0
        if size == 0:
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
    _registrars.append(threading.get_ident())
    for store in _open_stores.values():
        store.before_fork()


def _after_fork_in_parent() -> None:
    for store in _open_stores.values():
        store.after_fork_in_parent()
    _registrars.pop()
    _registry.release()


def _after_fork_in_child() -> None:
    global _registry
    _registry = threading.RLock()
    _registrars.clear()
    _given_back.clear()
    for store in _open_stores.values():
        store.after_fork_in_child()
    _open_stores.clear()


os.register_at_fork(before=_before_fork, after_in_parent=_after_fork_in_parent, after_in_child=_after_fork_in_child)
