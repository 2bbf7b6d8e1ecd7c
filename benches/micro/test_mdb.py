"""The native binding of LMDB against py-lmdb, on the same rows."""

import lmdb
import pytest

from ntmem._core.mdb import Environment

COUNT = 1000
KEYS = [b"key-%06d" % (number * 7919 % 100_000) for number in range(COUNT)]


@pytest.fixture(params=[64, 1024], ids=["64 B", "1 KiB"])
def pair(request, tmp_path):
    """An environment of each kind with its table, both of them full."""
    (tmp_path / "theirs").mkdir()
    ours = Environment(tmp_path / "ours", map_size=1 << 28)
    theirs = lmdb.open(str(tmp_path / "theirs"), map_size=1 << 28, max_dbs=16, max_spare_txns=0, lib_version=0)
    both = []
    for env in (ours, theirs):
        table = env.open_db(b"table")
        with env.begin(write=True) as txn:
            for number in range(100_000):
                txn.put(b"key-%06d" % number, b"v" * request.param, db=table, append=True)
        both.append((env, table))
    yield both
    for env, _ in both:
        env.close()


def gets(env, table):
    def run():
        with env.begin(buffers=True) as txn:
            for key in KEYS:
                txn.get(key, db=table)

    return run


def begins_and_gets(env, table):
    def run():
        for key in KEYS:
            with env.begin(buffers=True) as txn:
                txn.get(key, db=table)

    return run


def puts(env, table):
    def run():
        txn = env.begin(write=True)
        for key in KEYS:
            txn.put(key, b"w" * 64, db=table)
        txn.abort()  # the disk is not what is compared

    return run


def scans(env, table):
    def run():
        with env.begin(buffers=True) as txn:
            cursor = txn.cursor(table)
            found = cursor.set_range(KEYS[500])
            for _ in range(COUNT):
                assert found
                cursor.key()
                cursor.value()
                found = cursor.next()

    return run


@pytest.mark.parametrize("action", [gets, begins_and_gets, puts, scans])
def test_to_py_lmdb(ratio_to, pair, action):
    (ours, our_table), (theirs, their_table) = pair
    ratio_to(action(ours, our_table), action(theirs, their_table))
    for env, table in pair:
        with env.begin() as txn:
            assert txn.get(KEYS[0], db=table)
