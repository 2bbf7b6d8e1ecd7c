"""Waiting for what other threads and processes do."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from hostile import HANG


def until(condition: Callable[[], object]) -> None:
    """Return when `condition` is true; fail if it never is."""
    deadline = time.monotonic() + HANG
    while not condition():
        assert time.monotonic() < deadline, "it does not come true"
        time.sleep(0.001)


async def auntil(condition: Callable[[], object]) -> None:
    """Do what :func:`until` does in an event loop."""
    deadline = time.monotonic() + HANG
    while not condition():
        assert time.monotonic() < deadline, "it does not come true"
        await asyncio.sleep(0.001)
