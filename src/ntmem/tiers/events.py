"""What an operator wants to be told of a store: one line each, to the logger ``ntmem``.

Nothing is logged where values are put and got. What happens in native code, or in another process, is noticed by who
comes by: see :meth:`Events.look`. ``docs/guide/operations.md`` lists the messages.
"""

from __future__ import annotations

import logging
from collections import deque
from contextlib import suppress
from typing import Any

from .._core.flusher import Flusher, trouble_text
from .._core.log import Log

_SLOW = 1.0  # seconds of a pass of the flusher

log = logging.getLogger("ntmem")

_waiting: deque[tuple[Any, ...]] = deque()


def tell_later(level: int, message: str, *arguments: object) -> None:
    """Keep a message until :func:`tell`: for who holds a lock, which a handler of the program's might want as well."""
    _waiting.append((level, message, *arguments))


def tell() -> None:
    """Log what was kept."""
    with suppress(IndexError):  # another thread may have been faster
        while _waiting:
            log.log(*_waiting.popleft())


class Events:
    """What was noticed of one store, so that it is told once.

    **Thread safety**: any thread; of two who look at once both may tell. **Complexity**: O(1), a microsecond or two.
    """

    def __init__(self, where: str | None, shared: Log, flusher: Flusher | None) -> None:
        self._where = where or "a private store"
        self._log = shared
        self._flusher = flusher
        self._trouble: tuple[int, int] | None = None
        self._leader = shared.leader
        self._longest = _SLOW

    def look(self) -> None:
        """Tell what has changed since the last look: trouble of the disk and its end, another flusher, a slow one."""
        trouble, leader = self._log.trouble, self._log.leader
        if trouble != self._trouble:
            self._trouble = trouble
            if trouble is None:
                log.info("%s: takes writes again", self._where)
            else:
                log.error("%s: writes are refused: %s", self._where, trouble_text(*trouble))
        if leader not in (0, self._leader):
            if self._leader:
                log.info("%s: process %d brings changes to disk now, after %d", self._where, leader, self._leader)
            self._leader = leader
        longest = 0.0 if self._flusher is None else self._flusher.counts()["longest_pass"]
        if longest > self._longest:
            self._longest = longest
            log.warning("%s: a flush took %.1f s; the disk is slow, or a process was stopped", self._where, longest)
