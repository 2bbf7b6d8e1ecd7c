"""What tests of locks wait for, and every way to write under one."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from hostile import HANG
from polling import until

import ntmem


def expired(lock: ntmem.Lock) -> None:
    """Return when a lock is lost."""
    until(lambda: lock.lost)


def waiting(memory: ntmem.MemorySystem, resource: str = "BTCUSDT") -> int:
    """Return how many wait for a lock."""
    return sum(info.waiting for info in memory.locks.list(resource))


def in_thread(function: Callable[[], Any]) -> Any:
    """Call it in another thread; return what it returns, or the exception that it raises."""
    told: list[Any] = []

    def run() -> None:
        try:
            told.append(function())
        except Exception as error:
            told.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join(HANG)
    return told[0]


def writes(memory: ntmem.MemorySystem, fence: Any) -> dict[str, Callable[[], Any]]:
    """Every way to write under a fence, each of it to the key of its name."""

    def transact() -> None:
        with memory.transaction(fence) as t:
            t.put("desk", "transaction", b"1")
            t.incr("desk", "transacted")

    view = memory.namespace("desk")
    return {
        "put": lambda: memory.put("desk", "put", b"1", fence=fence),
        "put ttl": lambda: memory.put("desk", "put ttl", b"1", ttl=60, fence=fence),
        "put durable": lambda: memory.put("desk", "put durable", b"1", durable=True, fence=fence),
        "add": lambda: memory.add("desk", "add", b"1", fence=fence),
        "incr": lambda: memory.incr("desk", "incr", fence=fence),
        "put_many": lambda: memory.put_many("desk", {"put_many": b"1", "other": b"2"}, fence=fence),
        "transaction": transact,
        "view put": lambda: view.put("view put", 1, fence=fence),
        "view add": lambda: view.add("view add", 1, fence=fence),
    }
