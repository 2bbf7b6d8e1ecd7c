"""A store and a dict with the same entries, all of them in the hot table."""

from contextlib import contextmanager
from typing import NamedTuple

import pytest
from loops import NS

import ntmem

RECORD = 160
"""Bytes of the table for an entry beside its value, generously: the record's header, the key, a share of a bucket."""


class Stock(NamedTuple):
    memory: ntmem.MemorySystem
    store: dict[str, bytes]
    keys: list[str]
    size: int

    @property
    def hot(self):
        """Return the hot table itself, for its accounts."""
        return self.memory._engine().store.hot

    @property
    def slice_size(self):
        """Return how many calls make a round: long enough to time, short enough to take turns."""
        return 5_000 if self.size <= 1024 else 500


def label(entries, size):
    return f"{entries:,} x {size} B" if size < 1024 else f"{entries:,} x {size >> 10} KiB"


def sized(entries, size, *marks):
    """Return the parameter of a fixture that opens a stock."""
    return pytest.param((entries, size), id=label(entries, size), marks=marks)


def value_of(number, size):
    return b"%d" % number + b"v" * (size - len(b"%d" % number))


@contextmanager
def open_stock(directory, entries, size):
    """Open a stock with room for twice as much. Each value is an object of its own, as it would be in a program."""
    config = ntmem.CacheConfig(max_entries=2 * entries, max_bytes=max(2 * entries * (RECORD + size), 1 << 20))
    keys = [f"key-{number:08d}" for number in range(entries)]
    store = {}
    budget = config.max_bytes + (64 << 20)
    with ntmem.open(directory, engine="shared", cache_config=config, max_memory_bytes=budget) as memory:
        for number, key in enumerate(keys):
            value = value_of(number, size)
            store[f"{NS}/{key}"] = value
            memory.put(NS, key, value)
        memory.flush()
        yield Stock(memory, store, keys, size)
