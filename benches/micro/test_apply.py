"""Groups of the log applied to LMDB, against py-lmdb's ``putmulti`` of the same rows, which are encoded already."""

import random
import struct

import lmdb
import pytest

from ntmem._core.apply import Applier, crc32
from ntmem._core.log import crc32c
from ntmem._core.mdb import Environment

KEYS, COUNT = 100_000, 20_000
SPACE = b"\4desk"
VALUE = b"v" * 64
WRITER = b"pid-12345"
START = 1_700_000_000_000_000_000
DATABASES = ("meta", "namespaces", "records", "history", "expiry")

_RECORD = struct.Struct("<IIHHBBHQqqqQII")
_GROUP = struct.Struct("<IIQQQqIII12x")
_ROW = struct.Struct("<BBHIQqqqI")


def checked(name, data):
    return crc32(data, crc32(name)).to_bytes(4, "little") + data


def group(version, keys):
    parts = []
    for number, key in enumerate(keys):
        sizes = len(key), len(VALUE), len(SPACE), len(WRITER)
        data = _RECORD.pack(*sizes, 1, 0, 0, version + number, START, START, 0, 0, 0, 0) + SPACE + key + WRITER + VALUE
        parts.append(data + bytes(-len(data) % 16))
    body = b"".join(parts)
    head = _GROUP.pack(0x50524721, 0, 0, version, 0, START, 64 + len(body), len(keys), 1)
    return head[:4] + crc32c(head[8:] + body).to_bytes(4, "little") + head[8:] + body


def row(key, version):
    where = struct.pack(">Q", 1) + key
    head = _ROW.pack(1, 0, len(WRITER), 0, version, START, START, 0, 0)[:-4]
    return where, head + crc32(WRITER + VALUE, crc32(head, crc32(where))).to_bytes(4, "little") + WRITER + VALUE


def keys(generator, count):
    return [b"key-%d" % generator.randrange(KEYS) for _ in range(count)]


@pytest.fixture
def store(tmp_path):
    env = Environment(tmp_path / "ours", map_size=1 << 30)
    databases = {name: env.open_db(name.encode()) for name in DATABASES}
    with env.begin(write=True) as txn:
        txn.put(b"head", checked(b"head", struct.pack("<QQQq", 0, 0, 1, 0)), db=databases["meta"])
        txn.put(b"clock", checked(b"clock", struct.pack("<Bq", 1, START)), db=databases["meta"])
    yield Applier(env, databases, bytes(16))
    env.close()


@pytest.fixture
def bare(tmp_path):
    with lmdb.open(str(tmp_path / "bare"), map_size=1 << 30, max_dbs=16, lib_version=0) as env:
        env.open_db(b"records")
        yield env


@pytest.mark.parametrize("records", [1, 20])
def test_apply_to_putmulti(ratio_to, store, bare, records):
    generator = random.Random(1)
    database = bare.open_db(b"records")
    everything = [b"key-%d" % number for number in range(KEYS)]
    position = 1

    def ours():
        nonlocal position
        position += 1
        store.apply(groups, position=position)

    def theirs():
        with bare.begin(write=True) as txn, txn.cursor(database) as cursor:
            cursor.putmulti(rows)

    store.apply(group(1, everything), position=position)
    with bare.begin(write=True) as txn, txn.cursor(database) as cursor:
        cursor.putmulti([row(key, 1) for key in everything])
    chosen = keys(generator, COUNT)
    groups = b"".join(group(KEYS + at, chosen[at : at + records]) for at in range(0, COUNT, records))
    rows = [row(key, KEYS) for key in chosen]
    ratio_to(ours, theirs, rounds=20, repeats=1)
