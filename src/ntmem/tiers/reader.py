"""A process that only reads: it maps the region when there is one, and makes none.

Without a region everything acknowledged is in LMDB. So a reader looks, before each read, whether one has come; the look
is two calls of the system, and over once the region is mapped. A reader removes no region: only who writes can note in
LMDB that it was drained.
"""

from __future__ import annotations

import os
import threading

from ..errors import StorageError
from .engine import LmdbEngine
from .log import LogEngine
from .region import AttachLock, region_path
from .shared import LoggedStore
from .sharing import opening

_RESERVE = 1 << 30  # the writers' reserves lie beyond their limit, too


class ReaderStore(LoggedStore):
    """A process's part in a store that it does not write to. Made by :func:`ntmem.tiers.sharing.attach`."""

    def __init__(self, directory: str, *, max_bytes: int) -> None:
        self.has_log = False
        self._finding = threading.Lock()
        super().__init__(directory, read_only=True, max_bytes=max_bytes, reserve=_RESERVE)
        self._path = region_path(directory)
        self.attached = self._others = AttachLock(directory)

    def find_log(self, *, is_opening: bool = False) -> bool:
        """Map the region if there is one; return whether there is. `is_opening`: the caller has ``open.lock``.

        Raises :class:`StorageError` if processes use one that this process cannot see.
        """
        if self.has_log or not (os.path.exists(self._path) or self._others.is_used()):
            return self.has_log
        assert self.directory is not None
        with self._finding:
            if is_opening:
                return self._map()
            with opening(self.directory, read_only=True):
                return self._map()

    def _map(self) -> bool:
        if not self.has_log:
            is_used = self._others.is_used()
            try:
                self._others.join(log=True)
                log = self.mapped_log()
                alone = self._others.is_alone()  # nobody lives who could vouch for it
                if alone:
                    self.settle_log(log, index=True)
                self.use_log(log, vouched=not alone)
            except FileNotFoundError as error:
                self._others.leave()
                if is_used and self._others.is_used():
                    raise StorageError(
                        f"{self.directory} is in use by processes whose shared memory this one cannot see ({error}); "
                        "read it where they run"
                    ) from error
                return False  # its last user has just gone
            except BaseException:
                self._others.leave()
                raise
            self.has_log = True
        return True


class QuietEngine(LmdbEngine):
    """Reads LMDB while nobody writes, and through the log from when somebody does."""

    store: ReaderStore

    def __init__(self, store: ReaderStore, writer: bytes, *, max_lag: float) -> None:
        super().__init__(store, writer, read_only=True)
        self.max_lag = max_lag
        self._awake: LogEngine | None = None

    def current(self) -> LmdbEngine:
        if self._awake is None and not self.store.closed and self.store.find_log():
            self._awake = LogEngine(self.store, self.writer, read_only=True, max_lag=self.max_lag)
        return self._awake or self

    def forget(self) -> None:
        super().forget()
        if self._awake is not None:
            self._awake.forget()

    def now(self) -> int:
        engine = self.current()
        return super().now() if engine is self else engine.now()
