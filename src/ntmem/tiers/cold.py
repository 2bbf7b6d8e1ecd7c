"""L3: one LMDB environment, shared by every thread and process that has the directory open.

Transactions are functions that :meth:`ColdStore.read` and :meth:`ColdStore.write` call: they begin, run and end
without user code in between, so none is ever left open, and a write whose map was too small is simply run again
in a larger one.

**Invariants**

1. The map is resized only while no transaction of this process is running: transactions pass a gate, resizing
   (and closing, and forking) shut it.
2. Always plain sync: a returned write is on disk. After an error of the disk the process refuses to write.
"""

from __future__ import annotations

import errno
import itertools
import os
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any, TypeAlias, TypeVar

import lmdb

from .. import clock as clocks
from .._core.meters import Meters
from ..errors import (
    CorruptionError,
    DiskFull,
    MapFull,
    NtmemError,
    ReadOnlyError,
    StorageError,
    StoreClosed,
)
from .datafile import DATA_FILE, LOCK_FILE, check_before_mapping, note_closed, was_touched
from .faults import DAMAGE, LITTLE, NO_ROOM, code_of, no_room, open_error
from .gate import Gate
from .region import AttachLock

T = TypeVar("T")
Txn: TypeAlias = "lmdb.Transaction[memoryview]"

FIRST_MAP = 64 << 20
_DELETE_RESERVE = 16 << 20
"""How far deletions may grow a full store: freeing space must not need what it frees."""
_MAX_STEP = 1 << 30
_MAX_READERS = 1022
_LOCK_FILE_BYTES = 1 << 16  # what so many take
_ADOPT, _SHRINK = -1, -2
_PRIVATE = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
_DATABASES = ("meta", "namespaces", "records", "history", "expiry")

FORKED = (
    "this store was opened before a fork and belongs to the parent process; open it again in the child "
    "(or use the 'spawn' or 'forkserver' start method, which does so when the store is an argument)"
)


class _DeletionsGrewIt(Exception):
    """The map is larger than ``max_storage_bytes``: other changes must not take the room that deletions may need."""


class ColdStore:
    """One open LMDB environment. Made by :func:`ntmem.tiers.sharing.attach`.

    **Thread safety**: all methods may be called from any thread; writers of all processes take turns.
    """

    def __init__(self, directory: str | None, *, read_only: bool, max_bytes: int) -> None:
        self.directory = directory
        self.read_only = read_only
        self.max_bytes = max_bytes
        self.users = 1
        self.boot = clocks.boot_id()
        self.clock: Callable[[], int] | None = None
        """What tells the store's time; None: its row in LMDB does."""
        self.attached: AttachLock | None = None
        self.meters = Meters()
        """What was called how often: of all processes where there is shared memory, else of this one."""
        self.prepared = False
        self.face: object = None
        """What this process has made of :class:`ntmem.tiers.storecache.StoreCache` for it."""
        self._gate = Gate()
        self._refusal: NtmemError | None = None  # why nothing at all works any more
        self._write_refusal: NtmemError | None = None
        # py-lmdb's environment; behind a log that of _core.mdb, which has the same methods.
        self.env: Any = self._open_private() if directory is None else self._open(directory)

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
            env = self._environment(directory, size)
        except (lmdb.Error, OSError) as error:
            if size == 0 and not self.read_only:  # on a full disk LMDB leaves half of a new file behind
                with suppress(OSError):
                    os.unlink(data_file)
            raise open_error(directory, error) from error
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
            raise open_error(directory, error) from error
        env.reader_check()
        return env

    def _environment(self, directory: str, size: int) -> lmdb.Environment:
        return lmdb.open(
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

    def _open_databases(self, env: lmdb.Environment) -> dict[str, Any]:
        """Open the databases, all made in one transaction; raise ``NotFoundError`` if the file is somebody else's."""
        with env.begin(buffers=True) as txn:
            found = {bytes(name) for name, _ in itertools.islice(txn.cursor(), 100)}
        if found:
            meta = env.open_db(b"meta", create=False)
            with env.begin() as txn:
                just_made = txn.stat(meta)["entries"] == 0 and found >= {name.encode() for name in _DATABASES}
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
                try:
                    if self.prepared and self.directory is not None and not self.read_only:
                        note_closed(self.directory)
                finally:  # Ctrl-C may come at any line
                    self.env.close()
        finally:
            self._gate.open()
            if self.attached is not None:
                self.attached.release()

    def holds_this_thread(self) -> bool:
        """Whether this thread is within a transaction."""
        return self._gate.holds_this_thread()

    @property
    def closed(self) -> bool:
        """Whether nothing can be read any more: closed, or inherited by a fork."""
        return self._refusal is not None

    def refuse(self) -> None:
        """Raise why nothing can be done any more, if so."""
        if self._refusal is not None:
            raise _again(self._refusal)

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
                self._close_in_child()
        if self.attached is not None:
            self.attached.release()  # the parent's own descriptor keeps the lock

    def _close_in_child(self) -> None:
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
                if write and not deletes and self._must_shrink(size):
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

    def _must_shrink(self, size: int) -> bool:
        return size > self.max_bytes and size > self._used()

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
        """Whether the disk, or what this process may write, is used up."""
        import resource

        most = resource.getrlimit(resource.RLIMIT_FSIZE)[0]
        used_up = most != resource.RLIM_INFINITY and self._used() + LITTLE > most
        return used_up or no_room(self.directory or _PRIVATE or "/tmp")

    def _translated(self, error: Exception, write: bool) -> NtmemError:
        code = code_of(error)
        if code in NO_ROOM or isinstance(error, lmdb.DiskError) or (write and code == errno.EIO and self._no_room()):
            return DiskFull(
                f"the disk is full ({error}): nothing of this change was kept; free some space and try again"
            )
        if isinstance(error, DAMAGE):
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


def _allocate_lock_file(path: str) -> None:
    # LMDB makes it sparse and maps it: on a full disk the first reader in a fresh page would die of SIGBUS. Others may
    # have it mapped, so it is never made longer. (This process has not: closing a descriptor would drop its locks.)
    if hasattr(os, "posix_fallocate"):
        file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            os.posix_fallocate(file, 0, os.fstat(file).st_size or _LOCK_FILE_BYTES)
        finally:
            os.close(file)
