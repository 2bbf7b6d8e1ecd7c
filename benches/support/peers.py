"""Other caches, each with its `get` and either items that are assigned to or `set`; one not installed is skipped."""

from contextlib import closing, contextmanager

import lmdb
import pytest


@contextmanager
def open_cachebox(entries, directory):
    yield pytest.importorskip("cachebox").LRUCache(entries)


@contextmanager
def open_cachetools(entries, directory):
    yield pytest.importorskip("cachetools").LRUCache(entries)


@contextmanager
def open_lru_dict(entries, directory):
    yield pytest.importorskip("lru").LRU(entries)


@contextmanager
def open_moka(entries, directory):
    yield pytest.importorskip("moka_py").Moka(entries)


@contextmanager
def open_theine(entries, directory):
    cache = pytest.importorskip("theine").Cache(entries)
    yield cache
    cache.close()


@contextmanager
def open_diskcache(entries, directory):
    with closing(pytest.importorskip("diskcache").Cache(str(directory), eviction_policy="none")) as cache:
        yield cache


class Lmdb:
    """LMDB alone: a transaction for each call, nothing else."""

    def __init__(self, env):
        self._begin = env.begin

    def get(self, key):
        with self._begin() as txn:
            return txn.get(key.encode())

    def fill(self, items):
        with self._begin(write=True) as txn:
            txn.cursor().putmulti((key.encode(), value) for key, value in items)


@contextmanager
def open_lmdb(entries, directory):
    with lmdb.open(str(directory), map_size=1 << 34, lib_version=0) as env:
        yield Lmdb(env)


IN_MEMORY = {
    "cachebox": open_cachebox,
    "cachetools": open_cachetools,
    "lru-dict": open_lru_dict,
    "moka-py": open_moka,
    "theine": open_theine,
}
ON_DISK = {"LMDB alone": open_lmdb, "diskcache": open_diskcache}


def fill(cache, items):
    """Put all of the items."""
    if hasattr(cache, "fill"):
        cache.fill(items)
    elif hasattr(cache, "__setitem__"):
        for key, value in items:
            cache[key] = value
    else:
        for key, value in items:
            cache.set(key, value)
