"""The clock of a store: what "now" means for expiry, ``ts_known`` and recency.

A store either follows the machine's clock or a simulated one that a replay drives. Which of the two is a property
of the store, kept in it and the same for every process that opens it; the clock never goes back. Leases and
time-outs do not use it: they run on real time.

The system clock is the boot clock (which counts suspended time) plus an offset kept in the store, so a wall clock
that is set back cannot let an expired value live again.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Protocol

from .instants import Instant, instant_ns

_BOOT_CLOCK = getattr(time, "CLOCK_BOOTTIME", None) or time.CLOCK_MONOTONIC


def wall_ns() -> int:
    """Return the wall clock, int ns UTC."""
    return time.time_ns()


def boot_ns() -> int:
    """Return nanoseconds since the machine was booted, suspended time included where the kernel counts it."""
    return time.clock_gettime_ns(_BOOT_CLOCK)


def boot_id() -> bytes:
    """Return what tells this boot of the machine from every other; empty where the kernel does not say."""
    try:
        with open("/proc/sys/kernel/random/boot_id", "rb") as file:
            return file.read().strip()
    except OSError:
        return b""


class ClockedStore(Protocol):
    """What a :class:`SimulatedClock` needs of a store."""

    read_only: bool

    @property
    def closed(self) -> bool:
        """Whether it can no longer be asked."""

    def now(self) -> int:
        """Return the store's time in ns."""

    def set_time(self, ns: int) -> None:
        """Move the store's time forward to `ns`."""


class SimulatedClock:
    """A clock that stands still until it is set: time for back-tests and replays.

    Pass it to :func:`ntmem.open`: the store keeps its time, so every process that opens the directory sees it.
    It drives time to live, ``ts_known`` and what "as of now" means. It never goes back.

    Parameters
    ----------
    start : int, datetime with zone or numpy.datetime64
        The time of a new store. Opening a simulated store that is already later keeps the later time.

    Notes
    -----
    **Thread safety**: all methods may be called from any thread. **Complexity**: :meth:`set` is one small
    transaction for each open store it drives, :meth:`now` one look into a store.

    Examples
    --------
    >>> import ntmem
    >>> clock = ntmem.SimulatedClock(1_000)
    >>> with ntmem.open(clock=clock) as memory:
    ...     _ = memory.put("desk", "quote", b"61800.3", ttl=1e-6)
    ...     clock.set(2_000)
    ...     memory.get("desk", "quote") is None
    True
    """

    def __init__(self, start: Instant) -> None:
        self._local_now = instant_ns(start, "start")
        self._stores: list[ClockedStore] = []

    def now(self) -> int:
        """Return the clock's time, int ns UTC: the store's once a store has been opened with it."""
        for store in self._open_stores():
            self._local_now = max(self._local_now, store.now())
        return self._local_now

    def set(self, ts: Instant) -> None:
        """Move the clock to `ts`; raise ``ValueError`` if that lies before its present time."""
        ns = instant_ns(ts, "ts")
        now = self.now()
        if ns < now:
            raise ValueError(f"a clock never goes back: ts was {ns}, the clock is at {now}")
        for store in self._open_stores():
            store.set_time(ns)
        self._local_now = ns

    def _open_stores(self) -> list[ClockedStore]:
        # After a fork the child has the clock, but the stores belong to its parent.
        self._stores = [store for store in self._stores if not store.closed]
        return self._stores

    def attach(self, store: ClockedStore) -> Callable[[], None]:
        """Let this clock drive `store`; return what ends that. Called by the store when it is opened."""
        self._stores.append(store)
        for other in self._open_stores():  # all that it drives live at one time
            if other.now() < self.now() and not other.read_only:
                other.set_time(self.now())

        def end() -> None:
            self._stores = [other for other in self._stores if other is not store]

        return end

    def __reduce__(self) -> tuple[type[SimulatedClock], tuple[int]]:
        return SimulatedClock, (self.now(),)

    def __repr__(self) -> str:
        return f"SimulatedClock({self.now()})"
