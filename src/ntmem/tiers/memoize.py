"""Memoizing functions in a cache: how calls become keys, and of several equal calls one computes.

A cache says where results are kept (:class:`Results`); everything else is here, for caches and namespaces alike.
"""

from __future__ import annotations

import functools
import os
import threading
from collections.abc import Callable
from hashlib import blake2b
from types import FunctionType
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from ..errors import CacheError
from ..values import CODECS

if TYPE_CHECKING:
    import asyncio

F = TypeVar("F", bound=Callable[..., Any])
MISSING: Any = type("Missing", (), {"__repr__": lambda self: "MISSING"})()


class Results(NamedTuple):
    """Where the results of memoized functions are kept."""

    key: Callable[[Any, Any], Any]
    """(name of a function, its arguments) -> key."""
    name: Callable[[Callable[..., Any]], Any]
    """A function's name, which no other function has."""
    read: Callable[[Any], Any]
    """Key -> result or MISSING."""
    write: Callable[[Any, Any], object]
    """Key and result -> kept, unless there is no room."""
    forget: Callable[[Any], object]
    """Key -> forgotten."""
    forget_all: Callable[[Any], object]
    """Name of a function -> all its results forgotten."""


class _Name:
    """The name of a function in the keys of one process: nothing else equals it."""

    __slots__ = ("text",)

    def __init__(self, function: Callable[..., Any]) -> None:
        self.text = getattr(function, "__qualname__", repr(function))

    def __repr__(self) -> str:
        return f"<memoized {self.text}>"


def object_name(function: Callable[..., Any]) -> _Name:
    """Return a name for keys that are objects."""
    return _Name(function)


def object_key(name: _Name, arguments: Any) -> tuple[Any, ...]:
    """Return a key that is a tuple of the arguments and their types: 1, 1.0 and True are different arguments."""
    if isinstance(arguments, tuple):
        return (name, arguments, tuple(map(type, arguments)))
    return (name, arguments, type(arguments))


def text_name(function: Callable[..., Any], given: str | None = None) -> str:
    """Return a name that is the same in every process: `given`, or where the function stands.

    Raises
    ------
    TypeError
        Where it stands does not say which one it is: it is made by another function, bound to an object, or callable
        without being a function.
    """
    if given is not None:
        return given
    code = getattr(function, "__code__", None)
    if type(function) is not FunctionType or code is None or code.co_freevars:
        raise TypeError(
            f"{function!r} is not told from others by its name (a closure, a method of an object, a partial), and its "
            "results are shared with other processes; give memoize(name=...) that says what they depend on"
        )
    where = function.__module__
    if where == "__main__":  # each program has one
        where = os.path.abspath(code.co_filename)
    name = f"{where}.{function.__qualname__}"
    return f"{name}@{code.co_firstlineno}" if "<" in function.__qualname__ else name


def text_key(name: str, arguments: Any) -> str:
    """Return a key that is text, the same in every process; of long or structured arguments it has a digest.

    Raises
    ------
    ntmem.SerializationError
        An argument is not of a type that the msgpack codec stores: give ``key=``.
    """
    return f"{name}:{blake2b(_digestible(arguments), digest_size=16).hexdigest()}"


def _digestible(value: Any) -> bytes:
    """Return bytes that equal values have in common in every process; sets and dicts have no order."""
    kind = type(value)
    if kind in (tuple, list):
        parts = [_digestible(member) for member in value]
    elif kind in (set, frozenset):
        parts = sorted(_digestible(member) for member in value)
    elif kind is dict:
        parts = sorted(_digestible(key) + _digestible(member) for key, member in value.items())
    else:
        parts = [CODECS["msgpack"].encode(value)]
    lengths = b"".join(len(part).to_bytes(8, "little") for part in parts)
    return kind.__name__.encode() + len(parts).to_bytes(8, "little") + lengths + b"".join(parts)


def _arguments_of(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return what turns the arguments of a call into one value, the same for all spellings of the call."""
    import inspect  # with what it imports 5 ms, for who memoizes

    signature = inspect.signature(function)
    parameters = list(signature.parameters.values())
    count = len(parameters)
    plain = all(parameter.kind is parameter.POSITIONAL_OR_KEYWORD for parameter in parameters)
    defaults = tuple(parameter.default for parameter in parameters)

    def arguments(*args: Any, **kwargs: Any) -> Any:
        if plain and not kwargs and len(args) <= count and inspect.Parameter.empty not in defaults[len(args) :]:
            return args + defaults[len(args) :]
        bound = signature.bind(*args, **kwargs)
        bound.apply_defaults()
        return tuple(
            tuple(sorted(bound.arguments[parameter.name].items()))
            if parameter.kind is parameter.VAR_KEYWORD
            else bound.arguments[parameter.name]
            for parameter in parameters
        )

    return arguments


def memoized(function: F, results: Results, *, key: Callable[..., Any] | None, single_flight: bool) -> F:
    """Return `function` with its results kept in `results`; see :meth:`ntmem.HotCache.memoize`."""
    import inspect

    if not callable(function):
        raise TypeError(f"memoize decorates a function, was given {type(function).__name__}")
    if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
        raise TypeError(f"{function.__qualname__} is a generator: its result can be read only once; return a list")
    name = results.name(function)
    arguments = _arguments_of(function) if key is None else key
    forgotten = [0]  # how often results were: what was computed from what was known before is not kept

    def key_of(*args: Any, **kwargs: Any) -> Any:
        return results.key(name, arguments(*args, **kwargs))

    flying: list[dict[Any, Any]] = []

    def forget() -> None:
        forgotten[0] += 1
        for flights in flying:  # who comes from now on does not join a computation that began before
            flights.clear()

    def invalidate(*args: Any, **kwargs: Any) -> Any:
        forget()
        return results.forget(key_of(*args, **kwargs))

    def cache_clear() -> None:
        forget()
        results.forget_all(name)

    wrapper: Any
    if inspect.iscoroutinefunction(function):
        flights: dict[Any, asyncio.Future[Any]] = {}
        flying.append(flights)

        @functools.wraps(function)
        async def wrapper(*args: Any, **kwargs: Any) -> Any:
            at = key_of(*args, **kwargs)
            found = results.read(at)
            if found is not MISSING:
                return found

            async def compute() -> Any:
                before = forgotten[0]
                result = await function(*args, **kwargs)
                if forgotten[0] == before:
                    results.write(at, result)
                return result

            return await (_fly_async(flights, at, compute) if single_flight else compute())

    else:
        threads: dict[Any, _Flight] = {}
        flying.append(threads)

        @functools.wraps(function)
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            at = key_of(*args, **kwargs)
            found = results.read(at)
            if found is not MISSING:
                return found

            def compute() -> Any:
                before = forgotten[0]
                result = function(*args, **kwargs)
                if forgotten[0] == before:
                    results.write(at, result)
                return result

            return _fly(threads, at, compute, results.read) if single_flight else compute()

    wrapper.cache_key = key_of
    wrapper.cache_clear = cache_clear
    wrapper.invalidate = invalidate
    memoizing: F = wrapper
    return memoizing


# ---- of several equal calls one computes ----


class _Flight:
    """One computation, and who waits for it."""

    def __init__(self) -> None:
        self.owner = threading.get_ident()
        self.landed = threading.Event()
        self.result: Any = MISSING
        self.error: Exception | None = None


_lock = threading.Lock()
_waits: dict[int, _Flight] = {}
"""Threads, and the computation that each waits for: those of all functions, which may call each other in a ring."""


def _board(flights: dict[Any, _Flight], key: Any, me: int) -> tuple[_Flight, bool]:
    """Return the computation of `key`, and whether this thread is to do it."""
    fresh = _Flight()
    flight = flights.setdefault(key, fresh)  # not under the lock: it runs the __eq__ of keys
    if flight is fresh:
        return flight, True
    with _lock:
        other: _Flight | None = flight
        while other is not None and not other.landed.is_set():
            if other.owner == me:
                raise CacheError(
                    "a memoized function with single_flight waits for its own result: it called itself with the same "
                    "arguments, perhaps through others and other threads; break the ring, or leave single_flight off"
                )
            other = _waits.get(other.owner)
        _waits[me] = flight
    return flight, False


def _fly(flights: dict[Any, _Flight], key: Any, compute: Callable[[], Any], read: Callable[[Any], Any]) -> Any:
    me = threading.get_ident()
    while True:
        flight, is_mine = _board(flights, key, me)
        if is_mine:
            try:
                found = read(key)  # another may have landed since this thread looked
                flight.result = compute() if found is MISSING else found
                return flight.result
            except Exception as error:
                flight.error = error
                raise
            finally:  # after a KeyboardInterrupt there is neither: one of those who wait tries again
                if flights.get(key) is flight:
                    del flights[key]
                flight.landed.set()
        try:
            flight.landed.wait()
        finally:
            _waits.pop(me, None)
        if flight.error is not None:
            raise flight.error
        if flight.result is not MISSING:
            return flight.result


async def _fly_async(flights: dict[Any, Any], key: Any, compute: Callable[[], Any]) -> Any:
    """The same for tasks of one event loop; loops do not wait for each other."""
    import asyncio

    loop, me = asyncio.get_running_loop(), asyncio.current_task()
    at = (loop, key)
    while at in flights:
        owner, landed = flights[at]
        if owner is me:
            raise CacheError("a memoized coroutine with single_flight awaits its own result; break the ring")
        outcome, result = await asyncio.shield(landed)
        if outcome == "raised":
            raise result
        if outcome == "returned":
            return result
    landed = loop.create_future()
    flights[at] = (me, landed)
    outcome, result = "cancelled", None
    try:
        result = await compute()
        outcome = "returned"
        return result
    except Exception as error:
        outcome, result = "raised", error
        raise
    finally:
        if flights.get(at) == (me, landed):
            del flights[at]
        landed.set_result((outcome, result))
