"""The cache against a dict: random calls; what the cache has is right, and what it lacks it says it evicted."""

from __future__ import annotations

from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from ntmem import HotCache

keys = st.integers(0, 40) | st.sampled_from(["a", "b", "\0", "é", (1, 2), None, 1.0, 2.5, True, b"a", frozenset({1})])
sizes = st.integers(0, 130)
seconds = st.none() | st.sampled_from([1e-9, 1e5, 2e5, 5e6])


class CacheMachine(RuleBasedStateMachine):
    """`kept` is what a cache without limits would have; `gone` is what this one reported since."""

    @initialize(entries=st.integers(1, 30), size=st.sampled_from([100, 600, 1 << 20]))
    def start(self, entries: int, size: int) -> None:
        self.cache: HotCache[Any, bytes] = HotCache(max_entries=entries, max_bytes=size)
        self.cache.collect_evicted(lambda: None)
        self.kept: dict[Any, bytes] = {}
        self.dead: set[Any] = set()
        self.reads = self.hits = self.puts = self.evicted = 0
        self.number = 0

    def value(self, size: int) -> bytes:
        self.number += 1
        return self.number.to_bytes(4, "little") * (size // 4) if size >= 4 else b"x" * size

    def settle(self) -> None:
        """Take what was evicted out of the oracle: each was there, with that value."""
        for key, value, cause in self.cache.take_evicted():
            self.evicted += 1
            assert self.kept.pop(key) == value
            if cause == "expired":
                assert key in self.dead
            elif cause == "too_large":
                assert len(value) > self.cache.config.max_bytes
            self.dead.discard(key)

    def put_in(self, key: Any, value: bytes, ttl: float | None) -> None:
        # Of an expired key the old value is reported, of another one it is just replaced.
        old = self.kept.get(key) if key in self.dead else None
        self.cache.put(key, value, ttl)
        self.puts += 1
        for evicted_key, evicted, cause in self.cache.take_evicted():
            self.evicted += 1
            if evicted_key == key and cause == "expired" and old is not None and evicted is old:
                old = None
                self.dead.discard(key)
                self.kept.pop(key)
            elif evicted_key == key and cause == "too_large":
                assert evicted is value
                self.kept.pop(key, None)
                self.dead.discard(key)
                return
            else:
                assert evicted_key != key
                assert self.kept.pop(evicted_key) == evicted
                assert (evicted_key in self.dead) or cause != "expired"
                self.dead.discard(evicted_key)
        self.kept[key] = value
        self.dead.discard(key)
        if ttl == 1e-9:
            self.dead.add(key)

    @rule(key=keys, size=sizes, ttl=seconds)
    def put(self, key: Any, size: int, ttl: float | None) -> None:
        self.put_in(key, self.value(size), ttl)

    @rule(key=keys)
    def get(self, key: Any) -> None:
        expected = None if key in self.dead else self.kept.get(key)
        assert self.cache.get(key) == expected
        self.reads += 1
        self.hits += expected is not None

    @rule(key=keys, count=st.integers(1, 20))
    def get_or_put(self, key: Any, count: int) -> None:
        for number in range(count):
            at = (key, number)
            self.reads += 1
            if self.cache.get(at) is None:
                self.put_in(at, self.value(8), None)
            else:
                self.hits += 1

    @rule(key=keys)
    def pop(self, key: Any) -> None:
        expected = None if key in self.dead else self.kept.get(key)
        assert self.cache.pop(key, None) == expected
        if key not in self.dead:
            self.kept.pop(key, None)

    @rule(key=keys)
    def delete(self, key: Any) -> None:
        alive = key in self.kept and key not in self.dead
        assert (key in self.cache) is alive
        assert self.cache.delete(key) is alive
        if alive:
            del self.kept[key]

    @rule()
    def popitem(self) -> None:
        alive = [key for key in self.kept if key not in self.dead]
        if alive:
            key, value = self.cache.popitem()
            self.settle()
            assert self.kept.pop(key) == value

    @rule()
    def purge(self) -> None:
        self.cache.purge()
        self.settle()
        assert not self.dead

    @rule()
    def clear(self) -> None:
        self.cache.clear()
        self.kept.clear()
        self.dead.clear()

    @invariant()
    def says_what_it_has(self) -> None:
        if not hasattr(self, "cache"):
            return
        alive = {key: value for key, value in self.kept.items() if key not in self.dead}
        assert len(self.cache) == len(alive)
        assert dict(self.cache.items()) == alive
        stats = self.cache.stats()
        self.settle()
        assert dict(self.cache.items()) == alive
        assert (stats.entries, stats.bytes) == (len(alive), sum(map(len, alive.values())))
        assert stats.entries <= self.cache.config.max_entries
        assert stats.bytes <= self.cache.config.max_bytes
        assert (stats.hits, stats.hits + stats.misses, stats.puts) == (self.hits, self.reads, self.puts)
        assert sum(stats.evictions.values()) == self.evicted + stats.unreported == self.evicted


def test_the_cache_is_a_dict_that_forgets() -> None:
    run_state_machine_as_test(CacheMachine, settings=settings(max_examples=60, stateful_step_count=60))
