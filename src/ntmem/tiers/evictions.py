"""Reports of what a cache evicted: callbacks in batches, on a thread of their own.

A put only lists what it evicts and wakes the thread once for many; the table bounds that list and counts what it drops.
The thread knows the cache, and the callbacks, by weak references only, so it ends when the cache is collected.
"""

from __future__ import annotations

import logging
import threading
import weakref
from collections.abc import Callable
from functools import partial
from queue import SimpleQueue
from typing import Any, Protocol, TypeAlias

from ..errors import CacheError

Evicted: TypeAlias = "Callable[[Any, Any, str], object]"
"""callback(key, value, cause)"""

_log = logging.getLogger("ntmem")


class EvictingTable(Protocol):
    """What a cache's table offers to report its evictions."""

    def collect_evicted(self, wake: Callable[[], object] | None) -> None:
        """Keep what is evicted from now on, up to a bound, and call `wake` when there is some; None: keep nothing.

        `wake` comes in the middle of somebody's put; once it came, it need not come again before a `take_evicted`.
        """

    def take_evicted(self) -> list[tuple[Any, Any, str]]:
        """Return and forget (key, value, cause) of what was kept, oldest first."""


class Reporter:
    """Calls back with what one cache evicts; its thread runs while there is anybody to call.

    **Thread safety**: all methods may be called from any thread.
    """

    def __init__(self, table: EvictingTable) -> None:
        self._lock = threading.RLock()
        self._callbacks: tuple[Evicted, ...] = ()
        self._orders: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._thread: threading.Thread | None = None
        self._table = weakref.ref(table)

    def add(self, callback: Evicted) -> Callable[[], None]:
        """Call `callback` from now on; return what ends that."""
        if not callable(callback):
            raise TypeError(f"callback must be callable as callback(key, value, cause), was {type(callback).__name__}")
        with self._lock:
            self._callbacks = (*self._callbacks, callback)
            self._ensure_thread()
        return partial(self._remove, callback)

    def flush(self, timeout: float | None = None) -> bool:
        """Wait until all that was evicted before this call was reported; return whether it was, in time."""
        done = threading.Event()
        with self._lock:
            if not self._callbacks:
                return True
            if self._thread is threading.current_thread():
                raise CacheError("a callback on eviction cannot wait for callbacks; flush from another thread")
            self._ensure_thread()
            self._orders.put(done.set)
        return done.wait(timeout)

    def close(self) -> None:
        """Report what there is to report, and end; more evictions are not reported."""
        if self._thread is not threading.current_thread():
            self.flush()
        with self._lock:
            self._callbacks = ()
            self._end()

    def _remove(self, callback: Evicted) -> None:
        with self._lock:
            left = list(self._callbacks)
            if callback in left:
                left.remove(callback)
            self._callbacks = tuple(left)
            if not left:
                self._end()

    def _end(self) -> None:
        table = self._table()
        if table is not None:
            table.collect_evicted(None)
        self._orders.put(None)
        self._thread = None

    def _ensure_thread(self) -> None:
        """Start the thread unless it runs; in a forked child it does not."""
        table = self._table()
        if table is None or (self._thread is not None and self._thread.is_alive()):
            return
        self._orders = SimpleQueue()
        self._thread = threading.Thread(
            target=_run, args=(weakref.ref(self), self._orders), name="ntmem-evictions", daemon=True
        )
        self._thread.start()
        weakref.finalize(table, self._orders.put, None).atexit = False
        table.collect_evicted(partial(self._orders.put, _nothing))

    def report(self) -> None:
        """Call back with what there is; called by the thread."""
        table = self._table()
        if table is None:
            return
        batch = table.take_evicted()
        del table  # callbacks may be slow, and must not keep the cache alive
        callbacks = self._callbacks
        for key, value, cause in batch:
            for callback in callbacks:
                try:
                    callback(key, value, cause)
                except Exception:
                    _log.exception("a callback on eviction failed for the key %.200r; the others are called", key)


def _run(reporter: weakref.ref[Reporter], orders: SimpleQueue[Callable[[], None] | None]) -> None:
    while True:
        order = orders.get()
        live = reporter()
        if live is not None:
            live.report()
        del live
        if order is None:
            return
        order()


def _nothing() -> None:
    """The order to report, and nothing else."""
