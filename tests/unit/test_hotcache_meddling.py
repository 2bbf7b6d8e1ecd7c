"""The cache of objects under code that comes in between: comparisons, finalizers, callbacks, threads."""

from __future__ import annotations

import gc
import sys
import threading
import weakref
from typing import Any

import pytest

from ntmem import HotCache


class Meddling:
    """A key whose comparison does something to the cache."""

    def __init__(self, number: int, action: Any = None) -> None:
        self.number = number
        self.action = action

    def __hash__(self) -> int:
        return 7

    def __eq__(self, other: object) -> bool:
        for key in (self, other):
            if isinstance(key, Meddling) and key.action is not None:
                action, key.action = key.action, None
                action()
        return isinstance(other, Meddling) and self.number == other.number


@pytest.mark.parametrize("action", ["clear", "fill", "delete", "put", "raise", "grow by replacing"])
@pytest.mark.parametrize("call", ["get", "put", "pop", "setdefault", "contains", "delete"])
def test_a_comparison_that_changes_the_cache(action: str, call: str) -> None:
    cache: HotCache[Any, Any] = HotCache(max_entries=100)
    keys = [Meddling(number) for number in range(50)]
    for key in keys:
        cache[key] = key.number

    def act() -> None:
        if action == "clear":
            cache.clear()
        elif action == "fill":
            cache.update({number: "x" * number for number in range(300)})
        elif action == "delete":
            for key in keys[:30]:
                cache.pop(key, None)
        elif action == "put":
            cache[Meddling(20)] = "meddled"
        elif action == "raise":
            raise LookupError("meddled")
        else:
            cache[keys[0]] = "replaced"

    key = Meddling(20, act)
    try:
        if call == "get":
            cache.get(key)
        elif call == "put":
            cache[key] = "new"
        elif call == "pop":
            cache.pop(key, None)
        elif call == "setdefault":
            cache.setdefault(key, "new")
        elif call == "contains":
            _ = key in cache
        else:
            cache.delete(key)
    except LookupError:
        assert action == "raise"
    if call == "put" and action != "raise":
        assert cache[Meddling(20)] == "new"
    check(cache)


def check(cache: HotCache[Any, Any]) -> None:
    """What has to hold between all parts of the structure."""
    cache.purge()  # of finalizers: what they do comes now
    keys = list(cache)
    assert len(keys) == len(cache) == len(set(map(id, keys)))
    assert all(cache.get(key, cache) is not cache for key in keys)
    stats = cache.stats()
    assert stats.entries == len(keys) <= cache.config.max_entries
    assert stats.bytes <= cache.config.max_bytes
    for key in keys:
        cache.pop(key)
    assert (len(cache), cache.stats().bytes) == (0, 0)
    cache["x"] = 1
    assert cache["x"] == 1


def test_finalizers_that_use_the_cache() -> None:
    class Value:
        def __init__(self, number: int) -> None:
            self.number = number

        def __del__(self) -> None:
            if is_over:
                return
            cache.get(self.number - 1)
            if self.number % 3:
                cache[("from", self.number)] = self.number
            cache.pop(self.number + 1, None)
            if self.number % 97 == 0:
                cache.clear()

    is_over = False
    cache: HotCache[Any, Any] = HotCache(max_entries=50)
    for number in range(3000):
        cache[number % 200] = Value(number)
        if number % 11 == 0:
            cache.put(number % 200, Value(number), ttl=1e-9)
    is_over = True
    check(cache)
    cache.clear()
    gc.collect()


@pytest.mark.parametrize("where", ["__hash__", "__eq__", "size_of"])
def test_what_raises_leaves_the_cache_whole(where: str) -> None:
    class Bad:
        def __hash__(self) -> int:
            if where == "__hash__":
                raise LookupError
            return hash(1)

        def __eq__(self, other: object) -> bool:
            raise LookupError

    def size_of(value: Any) -> int:
        if where == "size_of" and value == "bad":
            raise LookupError
        return 1

    cache: HotCache[Any, Any] = HotCache(max_entries=5, size_of=size_of)
    cache.update({number: number for number in range(5)})
    with pytest.raises(LookupError):
        cache.put(3, "bad") if where == "size_of" else cache.put(Bad(), "good")
    if where != "size_of":
        for call in (cache.get, cache.pop, cache.delete, cache.setdefault, cache.entry, cache.__contains__):
            with pytest.raises(LookupError):
                call(Bad())
    check(cache)


def test_cycles_through_the_cache_are_collected() -> None:
    class Value:
        pass

    cache: HotCache[Any, Any] = HotCache(max_entries=2)
    cache.on_evict(lambda key, value, cause: None)
    cache.close()
    for key in range(4):
        value = Value()
        value.cache = cache  # type: ignore[attr-defined]
        cache[key] = value
    cache["itself"] = cache
    gone = weakref.ref(cache), weakref.ref(value)
    del cache, value
    gc.collect()
    assert [ref() for ref in gone] == [None, None]


def test_nothing_leaks() -> None:
    cache: HotCache[Any, Any] = HotCache(max_entries=10)
    value, key = object(), (1, "key")
    before = sys.getrefcount(value), sys.getrefcount(key)
    for number in range(1000):
        cache[key] = value
        cache[number] = value
        cache.setdefault((1, number), value)
        cache.get(key), cache.pop(number, None), cache.entry(key), list(cache.items())
        cache.put((2, number), value, ttl=1e-9)
    cache.clear()
    assert (sys.getrefcount(value), sys.getrefcount(key)) == before
    other: HotCache[Any, Any] = HotCache(max_bytes=1)
    other[key] = value
    del other
    assert (sys.getrefcount(value), sys.getrefcount(key)) == before


def test_threads() -> None:
    cache: HotCache[Any, Any] = HotCache(max_entries=60)
    failed: list[BaseException] = []
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)

    class Key:
        def __init__(self, number: int) -> None:
            self.number = number

        def __hash__(self) -> int:
            return self.number % 5

        def __eq__(self, other: object) -> bool:
            return isinstance(other, Key) and self.number == other.number

    def run(seed: int) -> None:
        try:
            for number in range(1500):
                key = Key((number * seed) % 90)
                cache.put(key, key.number, 1e-9 if number % 7 == 0 else None)
                assert cache.get(key, key.number) == key.number
                if number % 5 == 0:
                    cache.pop(Key(number % 90), None)
                if number % 400 == 0:
                    cache.clear()
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=run, args=(seed,)) for seed in (1, 7, 11, 13)]
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(interval)
    assert not failed
    check(cache)
