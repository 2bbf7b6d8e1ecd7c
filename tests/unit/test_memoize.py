"""Memoize: which calls are the same, what is kept of them, and who computes when several ask."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest

import ntmem
from ntmem import CacheError, HotCache


def test_memoize_normalises_calls_and_keeps_none() -> None:
    cache: HotCache[Any, Any] = HotCache()
    calls: list[Any] = []

    @cache.memoize
    def f(a: Any, b: Any = 2, *, c: Any = 3) -> None:
        """Doc."""
        calls.append((a, b, c))

    for _ in range(2):
        f(1)
        f(1, 2)
        f(a=1)
        f(b=2, a=1, c=3)
    assert calls == [(1, 2, 3)]
    f(1.0)
    f(True)
    f(1, c=4)
    assert len(calls) == 4
    assert (f.__name__, f.__doc__) == ("f", "Doc.")
    f.invalidate(1, b=2)  # type: ignore[attr-defined]
    f(1)
    assert len(calls) == 5
    f.cache_clear()  # type: ignore[attr-defined]
    assert len(cache) == 0
    f.__wrapped__(1)  # type: ignore[attr-defined]
    assert len(cache) == 0
    with pytest.raises(TypeError, match="missing a required argument"):
        f()  # type: ignore[call-arg]
    with pytest.raises(TypeError, match="too many positional"):
        f(1, 2, 3)  # type: ignore[misc]


def test_memoize_tells_functions_arguments_and_packings_apart() -> None:
    cache: HotCache[Any, Any] = HotCache()

    @cache.memoize()
    def f(*args: Any, **kwargs: Any) -> Any:
        return ("f", args, kwargs)

    @cache.memoize()
    def g(*args: Any, **kwargs: Any) -> Any:
        return ("g", args, kwargs)

    calls: list[tuple[Any, dict[str, Any]]] = [((1,), {}), (((1,),), {}), ((), {"a": 1}), ((("a", 1),), {}), ((), {})]
    for _ in range(2):
        for args, kwargs in calls:
            assert f(*args, **kwargs) == ("f", args, kwargs)
            assert g(*args, **kwargs) == ("g", args, kwargs)
    assert cache.stats().hits == cache.stats().misses == 10


def test_memoize_keeps_no_exception_and_obeys_ttl_and_key() -> None:
    cache: HotCache[Any, Any] = HotCache()
    calls: list[int] = []

    @cache.memoize(ttl=1e-9, key=lambda x: x % 10)
    def f(x: int) -> int:
        calls.append(x)
        if x == 3:
            raise LookupError(x)
        return x

    for _ in range(2):
        with pytest.raises(LookupError):
            f(3)
    assert (f(4), f(14)) == (4, 14)

    @cache.memoize(key=lambda x: x % 10)
    def g(x: int) -> int:
        return x

    assert (g(4), g(14), g(5)) == (4, 4, 5)


def test_memoize_of_a_method_has_self_in_its_key() -> None:
    cache: HotCache[Any, Any] = HotCache()

    class Desk:
        def __init__(self, name: str) -> None:
            self.name = name

        @cache.memoize
        def of(self, symbol: str) -> str:
            return self.name + symbol

    a, b = Desk("a"), Desk("b")
    assert [a.of("x"), b.of("x"), a.of(symbol="x")] == ["ax", "bx", "ax"]
    assert cache.stats().hits == 1


def test_memoize_refuses_what_it_cannot_keep() -> None:
    cache: HotCache[Any, Any] = HotCache()

    def generator() -> Any:
        yield 1

    async def agenerator() -> Any:
        yield 1

    for function in (generator, agenerator):
        with pytest.raises(TypeError, match="generator"):
            cache.memoize(function)
    with pytest.raises(TypeError, match="decorates a function"):
        cache.memoize(5)  # type: ignore[call-overload]
    with pytest.raises(TypeError, match="unhashable"):
        cache.memoize(lambda x: x)([])


def test_of_several_threads_one_computes() -> None:
    cache: HotCache[Any, Any] = HotCache()
    calls: list[int] = []
    inside, go = threading.Event(), threading.Event()

    @cache.memoize(single_flight=True)
    def f(x: int) -> object:
        calls.append(x)
        inside.set()
        go.wait(60)
        if x < 0:
            raise LookupError(x)
        return object()

    for x in (1, -1):
        inside.clear()
        go.clear()
        calls.clear()
        got: list[Any] = []

        def run(x: int = x, got: list[Any] = got) -> None:
            try:
                got.append(f(x))
            except LookupError as error:
                got.append(error)

        threads = [threading.Thread(target=run) for _ in range(6)]
        for thread in threads:
            thread.start()
        assert inside.wait(60)
        go.set()
        for thread in threads:
            thread.join(60)
        assert len(got) == 6
        if x > 0:  # late threads find it in the cache; those that come after an exception compute again
            assert calls == [1]
            assert len(set(map(id, got))) == 1


def test_a_computation_that_waits_for_itself_is_an_error() -> None:
    cache: HotCache[Any, Any] = HotCache()

    @cache.memoize(single_flight=True)
    def f(x: int) -> Any:
        return f(x) if x == 0 else f(x - 1) if x == 1 else x

    for x in (0, 1):
        with pytest.raises(CacheError, match="its own result"):
            f(x)
    assert f(2) == 2


def test_two_computations_that_wait_for_each_other_are_an_error() -> None:
    cache: HotCache[Any, Any] = HotCache()
    both = threading.Barrier(2, timeout=60)

    @cache.memoize(single_flight=True)
    def f(x: int) -> Any:
        if both.n_waiting < 2 and threading.current_thread().name == str(x):
            both.wait()
        return f(1 - x)

    errors: list[BaseException] = []

    def run(x: int) -> None:
        try:
            f(x)
        except CacheError as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=(x,), name=str(x)) for x in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive()
    assert len(errors) == 2


def test_an_interrupted_computation_is_left_to_another() -> None:
    cache: HotCache[Any, Any] = HotCache()
    calls: list[int] = []
    inside, go = threading.Event(), threading.Event()

    @cache.memoize(single_flight=True)
    def f() -> int:
        calls.append(1)
        if len(calls) == 1:
            inside.set()
            go.wait(60)
            raise KeyboardInterrupt
        return 7

    def first() -> None:
        with pytest.raises(KeyboardInterrupt):
            f()

    got: list[int] = []
    threads = [threading.Thread(target=first), threading.Thread(target=lambda: got.append(f()))]
    threads[0].start()
    assert inside.wait(60)
    threads[1].start()
    go.set()
    for thread in threads:
        thread.join(60)
    assert got == [7]


def test_memoize_of_coroutine_functions() -> None:
    cache: HotCache[Any, Any] = HotCache()
    calls: list[int] = []

    @cache.memoize(single_flight=True)
    async def f(x: int) -> int:
        calls.append(x)
        await asyncio.sleep(0)
        if x == 5 and calls.count(5) == 1:
            await asyncio.Event().wait()
        if x == 3:
            raise LookupError(x)
        return await f(x) if x == 4 else x

    async def main() -> None:
        assert await asyncio.gather(*(f(1) for _ in range(5))) == [1] * 5
        assert await f(1) == 1
        failed = await asyncio.gather(*(f(3) for _ in range(3)), return_exceptions=True)
        assert [type(error) for error in failed] == [LookupError] * 3
        first = asyncio.ensure_future(f(5))
        await asyncio.sleep(0)
        second = asyncio.ensure_future(f(5))
        await asyncio.sleep(0)
        first.cancel()
        assert await second == 5
        with pytest.raises(CacheError, match="its own result"):
            await f(4)

    asyncio.run(main())
    assert calls == [1, 3, 5, 5, 4]


def test_memoize_of_a_namespace(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[Any] = []
    with ntmem.open() as memory:
        desk = memory.namespace("desk")

        @desk.memoize(ttl=60, name="f")
        def f(a: Any, b: Any = 2) -> Any:
            calls.append(a)
            return {"a": a, "b": None}

        for a in (1, 1.0, "1", (1, 2), {"x", "y", "z"}, {"p": 1, "q": 2}):
            assert f(a) == f(b=2, a=a) == {"a": a, "b": None}
        assert len(calls) == 6
        assert f({"q": 2, "p": 1}) == {"a": {"p": 1, "q": 2}, "b": None}
        assert len(calls) == 6
        desk["other"] = 1
        f.invalidate("1")  # type: ignore[attr-defined]
        assert len(desk) == 6
        with pytest.raises(ntmem.SerializationError):
            f(object())
        f.cache_clear()  # type: ignore[attr-defined]
        assert dict(desk) == {"other": 1}

        @desk.memoize(key=str, name="g")
        def g(x: Any) -> None:
            calls.append(x)

        assert g(7) is g(7) is None
        assert calls[6:] == [7]
