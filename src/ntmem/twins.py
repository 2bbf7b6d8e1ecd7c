"""Asynchronous twins: calls that may block, made in a thread for whoever must not be held up.

**Invariants**

- A twin does what its call does, with the same arguments, result and errors; it adds nothing but the thread.
- Who is cancelled stops waiting. A call that has not begun is not made; one that has goes on to its end, so a change is
  made whole or not at all.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Coroutine
from typing import Any, Concatenate, ParamSpec, TypeVar

S = TypeVar("S")
P = ParamSpec("P")
R = TypeVar("R")


def twin(method: Callable[Concatenate[S, P], R]) -> Callable[Concatenate[S, P], Coroutine[Any, Any, R]]:
    """Return the twin of a method, to be assigned to its name with an ``a`` before it.

    It runs in the event loop's default executor, whose threads are few: a call that waits for another process (for a
    lock, a message, a vote) must not take one, and has a coroutine of its own.
    """
    name = method.__name__
    own = f"a{name.rstrip('_')}"

    @functools.wraps(method)
    async def call(self: S, /, *args: P.args, **kwargs: P.kwargs) -> R:
        import asyncio  # who awaits has imported it already

        blocking: Callable[P, R] = getattr(self, name)  # a subclass may have its own
        return await asyncio.to_thread(blocking, *args, **kwargs)

    call.__name__, call.__qualname__ = own, method.__qualname__.removesuffix(name) + own
    call.__doc__ = f"Do :meth:`{name}` in a thread, without holding up the event loop."
    return call
