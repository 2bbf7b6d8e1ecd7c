"""A store handle in another process, called like the one here."""

from __future__ import annotations

import multiprocessing
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from typing import Any

import ntmem


def run_transaction(memory: ntmem.MemorySystem, operations: list[tuple[Any, ...]]) -> None:
    """Commit operations of the oracle's form in one transaction."""
    with memory.transaction() as t:
        for kind, ns, key, value, options in operations:
            arguments = () if kind == "delete" else (value,)
            getattr(t, kind)(ns, key, *arguments, **options)


def call(memory: ntmem.MemorySystem, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Call a method of a store; iterators come back as lists."""
    if name == "run_transaction":
        return run_transaction(memory, *args)
    result = getattr(memory, name)(*args, **kwargs)
    return list(result) if name == "scan" else result


def _serve(pipe: Connection) -> None:
    memory: ntmem.MemorySystem | None = None
    while True:
        try:
            name, args, kwargs = pipe.recv()
        except EOFError:
            return
        try:
            if name == "open":
                memory = ntmem.open(*args, **kwargs)
                pipe.send((True, None))
            else:
                assert memory is not None
                pipe.send((True, call(memory, name, args, kwargs)))
        except Exception as error:
            pipe.send((False, error))


class Remote:
    """Calls a store in another process."""

    def __init__(self, pipe: Connection) -> None:
        self._pipe = pipe

    def call(self, name: str, *args: Any, **kwargs: Any) -> Any:
        """Call there; return what it returns, raise what it raises."""
        self._pipe.send((name, args, kwargs))
        fine, result = self._pipe.recv()
        if not fine:
            raise result
        return result


@contextmanager
def remote() -> Iterator[Remote]:
    """Start another process that opens stores and answers calls, until the block ends."""
    here, there = multiprocessing.get_context("spawn").Pipe()
    process = multiprocessing.get_context("spawn").Process(target=_serve, args=(there,), daemon=True)
    process.start()
    there.close()
    try:
        yield Remote(here)
    finally:
        here.close()
        process.join()
