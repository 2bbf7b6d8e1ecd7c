"""One environment per process and directory: opening, sharing, giving back, forking.

**Invariants**

1. An environment is opened at most once per process (LMDB's rule): :func:`attach` hands out one shared object.
2. A directory is being opened by one process at a time, so none finds a store half made.
3. A forked child has no store: it inherits environments at rest, gives them up, and may open the directories again.
"""

from __future__ import annotations

import fcntl
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from logging import INFO
from typing import TypeVar

from ..errors import StorageError
from .cold import ColdStore
from .datafile import DATA_FILE
from .events import tell, tell_later
from .faults import open_error

S = TypeVar("S", bound=ColdStore)

_OPEN_TIMEOUT = 10.0

_open_stores: dict[tuple[int, int], ColdStore] = {}
_registry = threading.RLock()
_registrars: list[int] = []  # the thread that holds it, once for each time
_given_back: deque[ColdStore] = deque()


@contextmanager
def _registered() -> Iterator[None]:
    try:
        with _registry:
            _registrars.append(threading.get_ident())
            try:
                if len(_registrars) == 1:
                    _take_back()
                yield
            finally:
                _registrars.pop()
    finally:
        if threading.get_ident() not in _registrars:
            tell()


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
        raise open_error(directory, error) from error
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
    directory: str | None, *, read_only: bool, max_bytes: int, make: Callable[[], S], prepare: Callable[[S], None]
) -> ColdStore:
    """Return this process's store in `directory`; if it has none, one is made and then prepared."""
    with _registered():
        if directory is None:
            return _prepared(make(), prepare)
        _make_directory(directory, read_only)
        with opening(directory, read_only):
            known = _open_stores.get(_identity(directory))
            if known is not None:
                if known.read_only and not read_only:
                    raise StorageError(f"{directory} is open in this process with read_only=True; close that first")
                known.users += 1
                known.max_bytes = max(known.max_bytes, max_bytes)  # the roomiest limit of the process's handles
                return known
            return _prepared(make(), prepare)


def _prepared(store: S, prepare: Callable[[S], None]) -> S:
    try:
        prepare(store)
    except BaseException:
        store.close()
        raise
    store.prepared = True
    _open_stores[(0, id(store)) if store.directory is None else _identity(store.directory)] = store
    if store.directory is not None:
        tell_later(INFO, "%s: opened%s", store.directory, " for reading" if store.read_only else "")
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
            for key in [key for key, known in _open_stores.items() if known is store]:
                del _open_stores[key]
            try:
                store.close()
                if store.directory is not None:
                    tell_later(INFO, "%s: closed", store.directory)
            finally:
                if not store.closed:  # interrupted: the next one who comes by closes it
                    store.users += 1
                    _given_back.appendleft(store)


def is_open_here(directory: str) -> bool:
    """Whether this process has the store in a directory open."""
    with _registered():
        return _identity(directory) in _open_stores


def _make_directory(directory: str, read_only: bool) -> None:
    if read_only:
        try:
            size = os.stat(os.path.join(directory, DATA_FILE)).st_size
        except PermissionError as error:
            raise open_error(directory, error) from error
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
