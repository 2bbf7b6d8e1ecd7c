"""The LMDB engine against bare py-lmdb doing one transaction for each call: what the semantics cost."""

import lmdb
import pytest

import ntmem

VALUE = b"v" * 64
KEYS = [f"key-{number}" for number in range(10_000)]


@pytest.fixture
def bare(tmp_path):
    with lmdb.open(str(tmp_path / "bare"), map_size=1 << 30, lib_version=0) as env:
        with env.begin(write=True) as txn:
            for key in KEYS:
                txn.put(key.encode(), VALUE)
        yield env


@pytest.fixture
def memory(tmp_path):
    with ntmem.open(tmp_path / "store", engine="lmdb") as memory:
        memory.put_many("desk", dict.fromkeys(KEYS, VALUE))
        yield memory


def test_get_to_bare_lmdb(ratio_to, memory, bare):
    def floor():
        with bare.begin() as txn:
            return txn.get(b"key-500")

    assert ratio_to(lambda: memory.get("desk", "key-500"), floor, repeats=200) == VALUE


def test_put_to_bare_lmdb(ratio_to, memory, bare):
    def floor():
        with bare.begin(write=True) as txn:
            txn.put(b"key-500", VALUE)

    ratio_to(lambda: memory.put("desk", "key-500", VALUE), floor, rounds=60, repeats=5)


def test_put_many_to_bare_lmdb(ratio_to, memory, bare):
    mapping = dict.fromkeys(KEYS[:100], VALUE)

    def floor():
        with bare.begin(write=True) as txn:
            for key in mapping:
                txn.put(key.encode(), VALUE)

    ratio_to(lambda: memory.put_many("desk", mapping), floor, rounds=60, repeats=2)


def test_scan_to_bare_lmdb(ratio_to, memory, bare):
    def floor():
        with bare.begin() as txn:
            return [(key.decode(), value) for key, value in txn.cursor()]

    assert len(ratio_to(lambda: list(memory.scan("desk")), floor, rounds=20, repeats=1)) == len(KEYS)
