"""The cache of objects: a mapping, its limits, its figures, its callbacks."""

from __future__ import annotations

import collections
import copy
import gc
import logging
import os
import sys
import threading
import time
import weakref
from collections.abc import MutableMapping
from datetime import timedelta
from typing import Any

import pytest

from ntmem import CacheConfig, CacheError, CacheStats, HotCache

mapping_tests = pytest.importorskip("test.mapping_tests")


class Filled(HotCache[Any, Any]):
    """The arguments of a cache are its limits; those of a mapping are what is in it."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__()
        self.update(*args, **kwargs)

    def copy(self) -> Filled:
        return Filled(self)


class TestBasicMapping(mapping_tests.BasicTestMappingProtocol):
    type2test = HotCache


class TestMapping(mapping_tests.TestMappingProtocol):
    type2test = Filled


class TestHashMapping(mapping_tests.TestHashMappingProtocol):
    type2test = Filled


# ---- a mapping ----


def test_it_is_a_mutable_mapping_and_unhashable_as_a_dict() -> None:
    cache: HotCache[str, int] = HotCache()
    assert isinstance(cache, MutableMapping)
    with pytest.raises(TypeError):
        hash(cache)
    cache.update(a=1, b=2)
    assert cache == {"a": 1, "b": 2}
    assert repr(cache) == "{'a': 1, 'b': 2}"


def test_none_is_a_value() -> None:
    cache: HotCache[str, Any] = HotCache()
    cache.put("k", None)
    assert "k" in cache
    assert cache.get("k", 7) is None
    assert cache.setdefault("k", 7) is None
    assert cache.pop("k", 7) is None


def test_equal_keys_of_other_types_are_one_key_and_the_first_is_kept() -> None:
    cache: HotCache[Any, int] = HotCache()
    cache[1] = 1
    cache[1.0] = 2
    cache[True] = 3
    assert [*map(repr, cache)] == ["1"]
    assert cache[1] == 3


def test_iteration_is_in_order_of_insertion_and_replacing_is_no_change_of_keys() -> None:
    cache = HotCache.fromkeys("edcba", 0)
    for key in cache:
        cache[key] = 1
    assert list(cache.items()) == [(key, 1) for key in "edcba"]
    assert cache.popitem() == ("a", 1)
    walk = iter(cache)
    next(walk)
    del cache["e"]
    cache["f"] = 1  # as many as before
    for _ in range(2):
        with pytest.raises(RuntimeError, match="changed during iteration"):
            next(walk)


def test_a_long_repr_ends() -> None:
    assert repr(HotCache.fromkeys(range(1001))).endswith("999: None, and 1 more}")


def test_the_constructor_checks() -> None:
    assert HotCache(CacheConfig(max_entries=3), ttl=5).config == CacheConfig(max_entries=3, ttl=5)
    for wrong in ({"max_entries": 0}, {"max_bytes": 0}, {"ttl": 0}, {"ttl": -1}):
        with pytest.raises(ValueError, match="must be"):
            HotCache(**wrong)  # type: ignore[arg-type]
    for config in ({"a": 1}, 5):
        with pytest.raises(TypeError, match="CacheConfig"):
            HotCache(config)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="size_of"):
        HotCache(size_of=3)  # type: ignore[arg-type]


def test_a_subclass_that_forgets_to_initialise_is_a_cache_still() -> None:
    class Forgetful(HotCache[str, int]):
        def __init__(self) -> None:
            pass

    cache = Forgetful()
    cache["a"] = 1
    assert cache["a"] == 1


# ---- limits ----


def test_never_more_entries_than_allowed() -> None:
    cache: HotCache[int, int] = HotCache(max_entries=10)
    for number in range(1000):
        cache[number] = number
        assert cache[number] == number
        assert len(cache) == min(number + 1, 10)
    assert cache.stats().evictions == {"entries": 990, "bytes": 0, "expired": 0, "too_large": 0}


def test_never_more_bytes_than_allowed() -> None:
    cache: HotCache[int, bytes] = HotCache(max_bytes=1000)
    for number in range(200):
        cache[number % 37] = bytes(number * 7 % 400)
        assert cache[number % 37] == bytes(number * 7 % 400)
        assert sum(map(len, cache.values())) == cache.stats().bytes <= 1000
    cache.put(99, bytes(1000))
    assert list(cache) == [99]


def test_what_is_larger_than_the_budget_is_not_kept_and_neither_is_what_it_replaces() -> None:
    cache: HotCache[str, bytes] = HotCache(max_bytes=10)
    cache["a"], cache["b"] = b"1", b"2"
    cache["a"] = bytes(11)
    assert dict(cache) == {"b": b"2"}
    assert cache.stats().evictions["too_large"] == 1
    assert cache.setdefault("c", bytes(11)) == bytes(11)
    assert "c" not in cache


@pytest.mark.parametrize(
    ("value", "size"),
    [(b"12345", 5), (bytearray(7), 7), (memoryview(bytes(16)).cast("I"), 16), ("x", sys.getsizeof("x"))],
)
def test_the_size_of_values(value: Any, size: int) -> None:
    assert HotCache.fromkeys("k", value).stats().bytes == size


def test_a_size_of_ones_own() -> None:
    cache: HotCache[str, str] = HotCache(max_bytes=10, size_of=len)
    cache.put("a", "12345")
    cache.put("b", "123456")
    assert list(cache) == ["b"]
    for wrong in (-1, "5", None):
        bad: HotCache[str, str] = HotCache(size_of=lambda value, wrong=wrong: wrong)  # type: ignore[misc]
        with pytest.raises(ValueError, match="size_of must return"):
            bad.put("a", "")
        assert len(bad) == 0


def test_expired_is_never_served_by_anything() -> None:
    cache: HotCache[str, int] = HotCache(ttl=60)
    cache.put("gone", 1, ttl=1e-9)
    cache.put("stays", 2, ttl=timedelta(seconds=30))
    assert cache.get("gone") is None
    assert "gone" not in cache
    assert cache.entry("gone") is None
    assert not cache.delete("gone")
    assert cache.pop("gone", 7) == 7
    assert list(cache.items()) == [("stays", 2)]
    assert len(cache) == 1
    assert cache.setdefault("gone", 3) == 3
    assert cache.stats().evictions["expired"] == 1


def test_a_time_to_live_of_all() -> None:
    cache: HotCache[int, int] = HotCache(ttl=1e-9)
    for number in range(10):
        cache[number] = number
        assert number not in cache
    assert cache.stats().evictions["expired"] == 10
    assert not cache


def test_expiry_in_any_order() -> None:
    cache: HotCache[int, int] = HotCache()
    lives = [(number * 7919) % 1000 for number in range(300)]
    for number, life in enumerate(lives):
        cache.put(number, life, ttl=1e-9 if life < 500 else 1e5 + life)
        if number % 3 == 0:
            cache.pop(number - 1, None)
    assert all(life >= 500 for life in cache.values())


@pytest.mark.parametrize("wrong", [0, -1, float("nan"), float("inf")])
def test_a_wrong_time_to_live(wrong: float) -> None:
    with pytest.raises(ValueError, match="ttl"):
        HotCache[str, int]().put("a", 1, wrong)
    with pytest.raises(ValueError, match="ttl"):
        HotCache[str, int]().memoize(ttl=wrong)


# ---- figures ----


def test_figures() -> None:
    cache: HotCache[str, bytes] = HotCache()
    assert cache.hit_rate() == 0.0
    cache["a"] = b"123"
    cache.get("a"), cache.get("b"), cache["a"], cache.setdefault("a", b""), "zz" in cache
    cache.put("a", b"12345")
    assert cache.stats() == CacheStats(
        entries=1, bytes=5, hits=3, misses=1, hit_rate=0.75, puts=2, evictions=dict.fromkeys(CAUSES, 0)
    )
    assert cache.hit_rate() == 0.75
    assert cache.stats().to_dict()["puts"] == 2


def test_an_entry_tells_of_its_life() -> None:
    cache: HotCache[str, int] = HotCache(ttl=60)
    before = time.time_ns()
    cache.put("k", 1, ttl=5)
    assert cache.entry("missing") is None
    for _ in range(3):
        cache.get("k")
    entry = cache.entry("k")
    assert entry is not None
    assert entry.expires_at == entry.created_at + 5_000_000_000
    assert abs(entry.created_at - before) < 10_000_000_000
    assert entry.last_access >= entry.created_at
    assert (entry.value, entry.access_count) == (1, 3)
    assert cache.entry("k") == entry
    cache.put("k", 2)
    assert cache.entry("k").access_count == 0  # type: ignore[union-attr]
    untracked: HotCache[str, int] = HotCache(track_access=False)
    untracked["k"] = untracked.get("k", 1) or 0
    assert untracked["k"] == 1
    assert untracked.entry("k").access_count == 0  # type: ignore[union-attr]
    assert untracked.hit_rate() == 0.5


def test_a_copy_ends_when_the_original_does() -> None:
    cache: HotCache[str, int] = HotCache(max_entries=5)
    cache.put("a", 1, ttl=5)
    cache.put("b", 2)
    for other in (cache.copy(), copy.copy(cache)):
        assert other == cache
        assert other.config == cache.config
        for key in cache:
            mine, copied = cache.entry(key), other.entry(key)
            assert mine is not None
            assert copied is not None
            assert abs((mine.expires_at or 0) - (copied.expires_at or 0)) < 1_000_000_000
        other["c"] = 3
    assert "c" not in cache


CAUSES = ("entries", "bytes", "expired", "too_large")


# ---- what is kept ----


def hits(cache: Any, trace: list[int]) -> int:
    found = 0
    for key in trace:
        if cache.get(key) is None:
            cache[key] = key
        else:
            found += 1
    return found


def lru_hits(size: int, trace: list[int]) -> int:
    kept: collections.OrderedDict[int, int] = collections.OrderedDict()
    found = 0
    for key in trace:
        if key in kept:
            found += 1
            kept.move_to_end(key)
        else:
            kept[key] = key
            if len(kept) > size:
                kept.popitem(last=False)
    return found


def test_a_loop_longer_than_the_cache_hits() -> None:
    trace = list(range(1200)) * 20
    assert lru_hits(1000, trace) == 0
    assert hits(HotCache(max_entries=1000), trace) > 0.2 * len(trace)


def test_a_scan_evicts_little_that_is_read_again() -> None:
    trace = [number * number % 997 % 400 for number in range(8000)] + list(range(1000, 3000))
    again = list(range(400))
    cache: HotCache[int, int] = HotCache(max_entries=500)
    hits(cache, trace)
    seen = {key for key in again if key in cache}
    read = {number * number % 997 % 400 for number in range(8000)}
    assert len(seen) > 0.9 * len(read)


def test_better_than_lru_where_few_keys_are_hot() -> None:
    import numpy as np

    random = np.random.default_rng(1)
    weights = 1 / np.arange(1, 20_001) ** 0.8
    trace = random.choice(20_000, 150_000, p=weights / weights.sum()).tolist()
    assert hits(HotCache(max_entries=2000), trace) > lru_hits(2000, trace) + 0.04 * len(trace)


def test_as_good_as_lru_where_the_working_set_moves() -> None:
    import numpy as np

    random = np.random.default_rng(2)
    trace = (random.integers(0, 700, 100_000) + np.arange(100_000) // 5000 * 700).tolist()
    assert hits(HotCache(max_entries=1000), trace) > lru_hits(1000, trace) - 0.03 * len(trace)


# ---- reports ----


def test_callbacks_get_what_was_evicted_and_why_in_order() -> None:
    cache: HotCache[str, Any] = HotCache(max_entries=2, max_bytes=100, size_of=len)
    told: list[tuple[str, Any, str]] = []
    cache.on_evict(lambda *report: told.append(report))
    cache["a"], cache["b"], cache["c"] = "1", "2", "3"
    cache["c"] = "33"
    del cache["c"]
    cache.put("d", "4", ttl=1e-9)
    cache.purge()
    assert cache.flush_evictions(60)  # what waits for a report is bounded by max_bytes as well
    cache["f"] = "6" * 101
    assert cache.flush_evictions(60)
    cache.clear()
    cache["g"] = "7" * 60
    cache["h"] = "8" * 60
    assert cache.flush_evictions(60)
    assert told == [
        ("a", "1", "entries"),
        ("d", "4", "expired"),
        ("f", "6" * 101, "too_large"),
        ("g", "7" * 60, "bytes"),
    ]


def test_a_failing_callback_is_logged_and_stops_nobody(caplog: pytest.LogCaptureFixture) -> None:
    cache: HotCache[int, int] = HotCache(max_entries=1)
    told: list[int] = []
    cache.on_evict(lambda key, value, cause: 1 // 0)
    end = cache.on_evict(lambda key, value, cause: told.append(key))
    cache[1], cache[2] = 1, 2
    with caplog.at_level(logging.ERROR, "ntmem"):
        cache[3] = 3
        assert cache.flush_evictions(60)
    assert told == [1, 2]
    assert "ZeroDivisionError" in caplog.text
    end()
    end()
    cache[4] = 4
    assert cache.flush_evictions(60)
    assert told == [1, 2]
    with pytest.raises(TypeError, match="callable"):
        cache.on_evict(None)  # type: ignore[arg-type]


def test_slow_callbacks_lose_a_counted_number_and_memory_stays_bounded() -> None:
    class Value:
        pass

    cache: HotCache[int, Value] = HotCache(max_entries=1)
    go, told = threading.Event(), []
    started = threading.Event()
    cache.on_evict(lambda key, value, cause: (started.set(), go.wait(60), told.append(key)))
    cache[0], cache[1] = Value(), Value()
    assert started.wait(60)
    values = []
    for number in range(2, 15_000):
        value = Value()
        values.append(weakref.ref(value))
        cache[number] = value
    del value
    gc.collect()
    assert sum(value() is not None for value in values) <= 10_002
    go.set()
    assert cache.flush_evictions(60)
    assert len(told) + cache.stats().unreported == cache.stats().evictions["entries"] == 14_999
    assert told[1:] == sorted(told[1:])
    assert told[-1] == 14_998


def test_a_callback_may_use_the_cache_and_cannot_wait_for_itself() -> None:
    cache: HotCache[int, int] = HotCache(max_entries=1)
    errors: list[BaseException] = []

    def callback(key: int, value: int, cause: str) -> None:
        if key < 10:
            cache[key + 10] = value
            with pytest.raises(CacheError) as raised:
                cache.flush_evictions()
            errors.append(raised.value)

    cache.on_evict(callback)
    cache[1], cache[2] = 1, 2
    assert cache.flush_evictions(60)
    assert cache.flush_evictions(60)
    assert errors


def threads_of_reports() -> list[threading.Thread]:
    gc.collect()
    return [thread for thread in threading.enumerate() if thread.name == "ntmem-evictions"]


def test_the_thread_ends_with_the_cache_and_at_close() -> None:
    cache: HotCache[int, int] = HotCache(max_entries=1)
    others = threads_of_reports()
    for thread in others:
        thread.join(60)  # of caches of other tests, which are gone
    told: list[int] = []
    cache.on_evict(lambda key, value, cause: told.append(key))
    (thread,) = threads_of_reports()
    cache[1], cache[2] = 1, 2
    cache.close()
    cache.close()
    thread.join(60)
    assert not thread.is_alive()
    assert told == [1]
    cache[3] = 3
    cache.on_evict(cache.__setitem__)  # type: ignore[arg-type]  # a callback that refers to the cache
    (thread,) = threads_of_reports()
    del cache
    gc.collect()
    thread.join(60)
    assert not thread.is_alive()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork")
def test_a_forked_child_reports_again() -> None:
    cache: HotCache[int, int] = HotCache(max_entries=1)
    told: list[int] = []
    cache.on_evict(lambda key, value, cause: told.append(key))
    child = os.fork()
    if child == 0:
        try:
            cache[1], cache[2] = 1, 2
            done = cache.flush_evictions(30) and told == [1]
        finally:
            os._exit(0 if done else 1)
    assert os.waitpid(child, 0)[1] == 0
