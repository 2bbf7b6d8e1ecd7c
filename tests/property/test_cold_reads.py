"""What is only on disk, as the native look finds it: the same as Python's, be it there, gone, expired or damaged."""

from __future__ import annotations

import random
from contextlib import contextmanager

import pytest
from hostile import ram_directory
from hypothesis import given, settings
from hypothesis import strategies as st

import ntmem
from ntmem.tiers.layout import record_key
from ntmem.tiers.tables import Tables

pytestmark = [pytest.mark.usefixtures("engine"), pytest.mark.only("shared")]

SECOND = 1_000_000_000
SPACES = ("desk", "desk/a", ("desk", "b"), "d", "desk/" + "n" * 200)
KEYS = ("k", "kk", "", "ü", "l" * 479, "l" * 480, "l" * 480 + "a", "l" * 480 + "b", "l" * 60_000, "absent")
LOG = 1 << 14


@contextmanager
def opened():
    """A store with a clock that stands, and next to no cache."""
    clock = ntmem.SimulatedClock(1_000 * SECOND)
    with ram_directory() as place, ntmem.open(place / "store", engine="shared", log_bytes=LOG, clock=clock) as memory:
        yield memory, clock


def turn(memory):
    """Leave nothing of what was written before in the log, and nothing in the table."""
    memory.flush()
    log = memory._live.log
    until = log.committed + log.capacity
    while log.committed < until:
        memory.put("filler", "k", b"x" * 1000)
    memory.flush()
    memory._live.store.hot.clear()


def outcome(function, *arguments):
    try:
        return function(*arguments)
    except ntmem.NtmemError as error:
        return type(error)


def both(memory, space, key):
    """What is found natively and by Python; see that it was the disk's to answer."""
    table = memory._live.store.hot
    labels = tuple(space.split("/")) if isinstance(space, str) else space
    table.clear()
    before = table.counts()
    native = outcome(memory.get, space, key)
    after = table.counts()
    asked = {name for name in after if after[name] != before[name]} - {"promoted"}
    assert asked <= {"disk", "absent", "left"}
    assert after["promoted"] - before["promoted"] <= (native is not None)
    again = outcome(memory.get, space, key)  # from the table, if it was promoted
    assert again == native
    table.clear()
    many = outcome(lambda: memory.get_many(space, [key]).get(key))
    table.clear()
    return native, outcome(memory._live.get, labels, key.encode()), many


def scans(memory, space, most):
    """What a scan finds natively, in pages of so many, and by Python."""
    engine = memory._live
    labels = tuple(space.split("/")) if isinstance(space, str) else space
    found = []
    for read in (Tables.page, lambda *_: None):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Tables, "page", read)
            for prefix, start in ((b"", b""), (b"k", b""), (b"", b"l"), (b"l" * 480, b"l" * 480), (b"k", b"kk")):
                found.append(outcome(lambda: [*engine.scan(labels, prefix, start, None, page=most)]))  # noqa: B023
    half = len(found) // 2
    return found[:half], found[half:]


OPERATIONS = st.lists(
    st.tuples(
        st.sampled_from(["put", "put", "put", "delete", "ttl", "set", "large", "delete_namespace", "history"]),
        st.sampled_from(SPACES),
        st.sampled_from([key for key in KEYS if key]),
        st.integers(0, 3000),
    ),
    max_size=25,
)


@settings(max_examples=40)
@given(OPERATIONS)
def test_the_native_look_finds_what_python_finds(operations):
    with opened() as (memory, clock):
        for what, space, key, size in operations:
            value = bytes([size % 256]) * size
            if what == "put":
                memory.put(space, key, value)
            elif what == "delete":
                memory.delete(space, key)
            elif what == "ttl":
                memory.put(space, key, value, ttl=(size + 1) / 10)
            elif what == "set":
                clock.set(clock.now() + size * SECOND // 20)
            elif what == "large":
                memory.put(space, key, value * 10 + bytes(LOG))
            elif what == "delete_namespace":
                memory.delete_namespace(space)
            elif what == "history" and size < 300:
                memory.retain(space, history=True)
        turn(memory)
        for space in SPACES:
            for key in filter(None, KEYS):
                native, slow, many = both(memory, space, key)
                assert native == slow == many
            for most in (1, 2, 256):
                native, slow = scans(memory, space, most)
                assert native == slow
            assert native[0] == [
                (key, memory.get(space, key)) for key in sorted(KEYS) if key and key in dict(native[0])
            ]


def test_pages_end_where_they_are_full_and_go_on():
    with opened() as (memory, _):
        rows = {f"k{number:04}": b"v" * (number % 3) for number in range(700)}
        rows |= {f"large {number}": bytes(300_000) for number in range(8)}
        for key, value in rows.items():
            memory.put("desk", key, value)
        memory.put("desk0", "behind", b"")
        turn(memory)
        for most in (1, 2, 3, 255, 256, 257, 10_000):
            native, slow = scans(memory, "desk", most)
            assert native == slow
            assert native[0] == sorted(rows.items())


def rewrite(memory, space, key, change):
    """Change a row on disk, past everything."""

    def act(txn):
        store = memory._live.store
        row = Tables(store, txn).namespace((space,))
        where = record_key(row.id, key.encode())
        before = bytes(txn.get(where, db=store.databases["records"]))
        after = change(before)
        if after is None:
            txn.delete(where, db=store.databases["records"])
        else:
            txn.put(where, after, db=store.databases["records"])
        return before

    return memory._live.store.write(act)


def test_each_bit_of_a_record_that_is_flipped_is_damage():
    """Native reads serve nothing that Python would refuse, and Python says which key it is."""
    with opened() as (memory, _):
        memory.put("desk", "k", b"a value")
        turn(memory)
        assert both(memory, "desk", "k") == (b"a value",) * 3
        sound = rewrite(memory, "desk", "k", lambda row: row)
        for bit in range(8 * len(sound)):
            flipped = bytearray(sound)
            flipped[bit // 8] ^= 1 << bit % 8
            rewrite(memory, "desk", "k", lambda _, flipped=flipped: bytes(flipped))
            native, slow, many = both(memory, "desk", "k")
            assert native == slow == many == ntmem.CorruptionError, bit
            native, slow = scans(memory, "desk", 256)
            assert native == slow
            assert native[0] == ntmem.CorruptionError
        with pytest.raises(ntmem.CorruptionError, match="k"):
            memory.get("desk", "k")
        rewrite(memory, "desk", "k", lambda _: sound)
        assert both(memory, "desk", "k") == (b"a value",) * 3


@pytest.mark.parametrize("key", ["k", "l" * 500])
def test_a_record_that_is_cut_or_lengthened_is_damage(key):
    chance = random.Random(1)
    with opened() as (memory, _):
        memory.put("desk", key, b"a value")
        turn(memory)
        sound = rewrite(memory, "desk", key, lambda row: row)
        for size in range(len(sound)):
            rewrite(memory, "desk", key, lambda _, size=size: sound[:size])
            native, slow, many = both(memory, "desk", key)
            assert native == slow == many == ntmem.CorruptionError, size
        for _ in range(50):
            rewrite(memory, "desk", key, lambda _: sound + chance.randbytes(chance.randrange(1, 40)))
            native, slow, many = both(memory, "desk", key)
            assert native == slow == many == ntmem.CorruptionError


def test_a_record_of_another_key_is_damage():
    with opened() as (memory, _):
        for key in ("j", "k", "l" * 500, "m" * 500):
            memory.put("desk", key, key.encode())
        turn(memory)
        for other, key in (("j", "k"), ("l" * 500, "m" * 500), ("j", "l" * 500)):
            row = rewrite(memory, "desk", other, lambda row: row)
            before = rewrite(memory, "desk", key, lambda _, row=row: row)
            native, slow, many = both(memory, "desk", key)
            assert native == slow == many == ntmem.CorruptionError
            rewrite(memory, "desk", key, lambda _, before=before: before)
            assert both(memory, "desk", key) == (key.encode(),) * 3
