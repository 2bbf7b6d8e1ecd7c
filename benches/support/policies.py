"""Caches to play traces through, each as `(get, put)` that were given a capacity; ours also say how many they hold."""

import heapq
import importlib.util
from collections import OrderedDict

import numpy as np

import ntmem
from ntmem._core.hot import HotTable
from ntmem._core.region import Region

VALUE = b"v" * 64
KEY = "key-{:08d}"


def played(trace, get, put):
    """Return the hit ratio in percent of the second half of a trace: the first fills the cache."""
    names = [KEY.format(number) for number in range(int(trace.max()) + 1)]
    keys = [names[number] for number in trace.tolist()]
    half = len(keys) // 2
    hits = 0
    for part in (keys[:half], keys[half:]):
        hits = 0
        for key in part:
            if get(key) is None:
                put(key, VALUE)
            else:
                hits += 1
    return 100 * hits / half


def belady(trace, capacity):
    """Return the best ratio there is: who is asked for last goes, and that may be the newcomer."""
    order = np.argsort(trace, kind="stable")
    same = trace[order[1:]] == trace[order[:-1]]
    next_use = np.full(len(trace), len(trace))
    next_use[order[:-1][same]] = order[1:][same]
    held, last, hits, half = set(), [], 0, len(trace) // 2
    for place, (key, again) in enumerate(zip(trace.tolist(), next_use.tolist(), strict=True)):
        hits += place >= half and key in held
        held.add(key)
        heapq.heappush(last, (-again, key))  # what it has from earlier uses of the key lies in the past: never first
        if len(held) > capacity:
            held.remove(heapq.heappop(last)[1])
    return 100 * hits / half


def lru(capacity):
    held = OrderedDict()

    def get(key):
        if key not in held:
            return None
        held.move_to_end(key)
        return held[key]

    def put(key, value):
        held[key] = value
        if len(held) > capacity:
            held.popitem(last=False)

    return get, put


def theine(capacity):
    if not importlib.util.find_spec("theine"):
        return None
    cache = importlib.import_module("theine").Cache(capacity)
    return (lambda key: cache.get(key)[0]), cache.set


def moka(capacity):
    if not importlib.util.find_spec("moka_py"):
        return None
    cache = importlib.import_module("moka_py").Moka(capacity)
    return cache.get, cache.set


def open_table(max_bytes, max_entries):
    region = Region.create(None, identity=b"", generation=0, sections=HotTable.sections(max_bytes, max_entries))
    return HotTable.create(region, max_bytes, max_entries)


def record_bytes():
    """Return what one entry takes of a table's bytes."""
    table = open_table(1 << 20, 100)
    table.put(b"desk", KEY.format(1).encode(), VALUE)
    return table.live_bytes


def hot_table(max_bytes, max_entries):
    """Return the table of the shared engine, by itself."""
    table = open_table(max_bytes, max_entries)
    return (
        lambda key: table.get(b"desk", key.encode()),
        lambda key, value: table.put(b"desk", key.encode(), value),
        table.__len__,
    )


def hot_table_of_entries(capacity):
    return hot_table(4 * capacity * record_bytes(), capacity)


def hot_table_of_bytes(capacity):
    return hot_table(capacity * record_bytes(), 4 * capacity)


def object_cache(capacity):
    """Return the cache of objects of one process."""
    cache = ntmem.HotCache(ntmem.CacheConfig(max_entries=capacity))
    return cache.get, cache.put, cache.__len__


PEERS = {"LRU": lru, "moka-py": moka, "theine": theine}
OURS = {
    "hot table": hot_table_of_entries,
    "hot table, by bytes": hot_table_of_bytes,
    "HotCache": object_cache,
}
