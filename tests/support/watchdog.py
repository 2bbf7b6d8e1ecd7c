"""Whether an event loop is held up.

Time says nothing on a machine that has other work. A thread that waits in the kernel, be it for a futex, a sleep or a
disk, gives up its processor, and the kernel counts that: a callback of the loop during which it happened has blocked.
"""

from __future__ import annotations

import asyncio
import resource

import pytest


class Watchdog:
    """Sees the callbacks of this thread's loops. Those in `blocked` have waited in the kernel."""

    def __init__(self) -> None:
        self.callbacks = 0
        self.blocked: list[str] = []

    def watch(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Look from now on."""
        run = asyncio.Handle._run  # type: ignore[attr-defined]

        def watched(handle: asyncio.Handle) -> None:
            before = switches()
            run(handle)
            self.callbacks += 1
            if switches() != before:
                self.blocked.append(repr(handle))

        monkeypatch.setattr(asyncio.Handle, "_run", watched)


def switches() -> int:
    """Return how often this thread has given up its processor of its own accord."""
    return resource.getrusage(resource.RUSAGE_THREAD).ru_nvcsw
