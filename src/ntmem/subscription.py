"""What all subscriptions have in common: waiting for what comes, from threads and event loops.

**Invariants** (numbered as in the design)

- I5: who is followed does not wait, and is not waited for while it does nothing.
- What comes goes to one of those who receive, in order.
"""

from __future__ import annotations

import math
import threading
import time
from abc import ABC, abstractmethod
from collections import deque
from contextlib import suppress
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Generic, Self, TypeVar

from .errors import NtmemError, StoreClosed
from .instants import require_int, seconds_of

if TYPE_CHECKING:
    from concurrent.futures import ThreadPoolExecutor

T = TypeVar("T")

SLICE = 0.1
"""Seconds after which who waits looks whether the subscription or the store was closed."""


class Subscription(ABC, Generic[T]):
    """What comes, in order: an iterator, an asynchronous iterator and a context manager.

    Made by :meth:`ntmem.MemorySystem.watch` (changes) and :meth:`ntmem.MemorySystem.subscribe` (messages). It keeps its
    store open. ``for each in subscription`` waits until :meth:`close` is called, by whichever thread. After the store
    was closed, and in a forked child, it raises :class:`ntmem.StoreClosed`.

    Notes
    -----
    **Thread safety**: all methods may be called from any thread; what comes goes to one of them.
    """

    def __init__(self) -> None:
        self._lock = threading.RLock()  # of one thread at a time looks; a signal handler may interrupt it
        self._ready: deque[T] = deque()
        self._closed = False
        self._executor: ThreadPoolExecutor | None = None

    # -- what a subclass does

    @property
    @abstractmethod
    def lagged(self) -> int:
        """How much was missed."""

    @abstractmethod
    def _open(self) -> Any:
        """Raise :class:`ntmem.StoreClosed` if it was closed, or its store."""

    @abstractmethod
    def _look(self, end: float) -> None:
        """Bring on what is there (:attr:`_ready`), or wait for it: a :data:`SLICE` at most, and not beyond `end`."""

    def _pop(self, *, first: bool = True) -> T | None:
        """Take what comes next; None: there is nothing. Not the `first` of a call, it raises nothing."""
        try:
            return self._ready.popleft()
        except IndexError:  # another thread was faster
            return None

    # -- state

    @property
    def closed(self) -> bool:
        """Whether :meth:`close` was called."""
        return self._closed

    def close(self) -> None:
        """End it: who waits in it is released within a tenth of a second. Closing twice is fine."""
        self._closed = True
        executor, self._executor = self._executor, None
        if executor is not None:
            executor.shutdown(wait=False)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def __reduce__(self) -> tuple[Any, ...]:
        raise TypeError("a subscription cannot be pickled; pass the store, and subscribe there with since=resume_from")

    # -- receiving

    def recv(self, timeout: float | timedelta | None = None) -> T | None:
        """Return what comes next; None if nothing does in `timeout` seconds (None: wait for it, 0: only look).

        Raises
        ------
        StoreClosed
            The subscription or the store was closed, or this is a forked child.
        CorruptionError
            What is followed is damaged.
        """
        if not self._ready or self._closed:
            self._fill(seconds_of(timeout))
        return self._pop()

    def recv_many(self, limit: int = 1000, timeout: float | timedelta | None = None) -> list[T]:
        """Return what is there, at most `limit`; wait as :meth:`recv` does if there is nothing yet."""
        require_int(limit, "limit", 1)
        if not self._ready or self._closed:
            self._fill(seconds_of(timeout))
        found: list[T] = []
        while len(found) < limit and (each := self._pop(first=not found)) is not None:
            found.append(each)
            if not self._ready and len(found) < limit:
                with suppress(NtmemError):  # the next call raises it
                    self._fill(0.0)
        return found

    async def arecv(self, timeout: float | timedelta | None = None) -> T | None:
        """Do what :meth:`recv` does without holding up the event loop. When it is cancelled nothing is lost."""
        from asyncio import get_running_loop  # who awaits has imported it already
        from concurrent.futures import ThreadPoolExecutor

        end = deadline_of(seconds_of(timeout))
        loop = get_running_loop()
        while True:
            self._open()
            executor = self._executor
            if executor is None:
                executor = self._executor = ThreadPoolExecutor(1, "ntmem-watch")
            left = min(max(end - time.monotonic(), 0.0), SLICE)
            try:
                filled = loop.run_in_executor(executor, self._fill, left)
            except RuntimeError:  # closed meanwhile
                self._open()
                raise
            await filled
            found = self._pop()
            if found is not None or time.monotonic() >= end:
                return found

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> T:
        try:
            found = self.recv()
        except StoreClosed:
            if self._closed:
                raise StopIteration from None
            raise
        assert found is not None
        return found

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> T:
        try:
            found = await self.arecv()
        except StoreClosed:
            if self._closed:
                raise StopAsyncIteration from None
            raise
        assert found is not None
        return found

    def _fill(self, timeout: float | None) -> None:
        """Return when something is ready, or after `timeout` seconds."""
        end = deadline_of(timeout)
        while not self._ready or self._closed:
            self._open()
            if not self._lock.acquire(timeout=max(0.0, min(end - time.monotonic(), SLICE))):
                if time.monotonic() >= end:
                    return
                continue
            try:
                if not self._ready:
                    self._look(end)
            finally:
                self._lock.release()
            if time.monotonic() >= end:
                return


def deadline_of(timeout: float | None) -> float:
    """Return the end of a time-out on the monotonic clock."""
    return math.inf if timeout is None else time.monotonic() + timeout
