"""The lock of an agent's book, and the agent's place among those of the store.

Whoever holds the lock of an agent's book is that agent: its process holds it from its first look at the book to its
end, and writes everything that must not be done twice under its fence. So there may be two processes that believe to be
the same agent, one of them stopped for so long that it was replaced, and the book still has one writer.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from ..coordination import LockInfo
from ..errors import StaleFence
from ..records import Fence
from ..system import MemorySystem

CAPABILITIES = ("predict", "trade")
LEASE = 60.0
"""Seconds. A thread renews it, so only a process that is stopped or starved loses it; a dead one does at once."""
HEART = 30.0
"""Seconds in which an agent's heart has to beat; it beats at every step."""
_PATIENCE = 30.0
"""Seconds for which a process waits to become an agent."""


def resource_of(name: str) -> str:
    """Return the name of the lock of an agent's book."""
    return f"book/{name}"


def book_lock(memory: MemorySystem, name: str) -> LockInfo | None:
    """Return who holds the lock of an agent's book; None: nobody has it or waits for it."""
    return next(iter(memory.locks.list(resource_of(name))), None)


@dataclass(frozen=True, slots=True)
class Held:
    """The lock of a book, as this process was granted it."""

    memory: MemorySystem
    name: str
    symbol: str
    fence: Fence
    asked_at: int
    granted_at: int
    """By the machine's monotonic clock, ns."""

    def register(self, ttl: float = HEART) -> None:
        """Announce the agent, whose heart has to beat every `ttl` seconds from now on."""
        self.memory.agents.register(self.name, capabilities=CAPABILITIES, ttl=ttl, symbol=self.symbol)

    def fall_silent(self, ttl: float) -> None:
        """Announce the agent with a heart that has to beat so soon that it will not; later where that takes longer."""
        try:
            self.register(ttl)
        except StaleFence:
            self.fall_silent(2 * ttl)


@contextmanager
def held_book(memory: MemorySystem, name: str, symbol: str) -> Iterator[Held]:
    """Hold the lock of an agent's book and be registered as that agent meanwhile.

    Raises
    ------
    LockTimeout
        Another process is this agent, and goes on being it.
    """
    asked_at = time.monotonic_ns()
    with memory.lock(resource_of(name), timeout=_PATIENCE, ttl=LEASE, renew=True) as lock:
        assert lock.fence is not None
        held = Held(memory, name, symbol, lock.fence, asked_at, time.monotonic_ns())
        held.register()
        try:
            yield held
        finally:
            memory.agents.unregister()
