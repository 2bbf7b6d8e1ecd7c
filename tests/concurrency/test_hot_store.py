"""A store that is read through its hot table: from there after some reads, never older than what was acknowledged."""

from __future__ import annotations

import random
from contextlib import contextmanager

import pytest
from hashes import hash_of

import ntmem
from ntmem.tiers.layout import encode_labels

pytestmark = [pytest.mark.usefixtures("engine"), pytest.mark.only("shared")]

SMALL = 1 << 15  # bytes of a log: a value has an eighth at most, a transaction half
SLOT = 64  # bytes of a log to a slot of its index
SECOND = 1_000_000_000


@contextmanager
def opened(ram, **options):
    with ntmem.open(ram / "store", **({"log_bytes": SMALL, "flush_interval": 0.001} | options)) as memory:
        yield memory


def table_of(memory):
    return memory._live.store.hot


def heat(memory, namespace="desk", key="k", reads=200):
    """Read until the value comes from shared memory, or the hand: from the log while it is new; return it."""
    values = {memory.get(namespace, key) for _ in range(reads)}
    assert len(values) == 1
    before = table_of(memory).counts()
    for _ in range(20):
        values.add(memory.get(namespace, key))
    after = table_of(memory).counts()
    assert len(values) == 1
    assert after["hot"] + after["log"] == before["hot"] + before["log"] + 20
    assert after | {"hot": 0, "log": 0, "promoted": 0} == before | {"hot": 0, "log": 0, "promoted": 0}
    return values.pop()


def turn(memory, laps=2):
    """Write until nothing of what was written before is in the log any more."""
    log = memory._live.log
    until = log.committed + laps * log.capacity
    number = 0
    while log.committed < until:
        memory.put("other", f"{number % 50}", b"x" * 200)
        number += 1
    memory.flush()


@pytest.fixture(params=["fresh", "flushed", "turned"])
def prepared(request, ram):
    """A store whose key was served from the table, and where its value has come from."""
    with opened(ram) as memory:
        memory.put("desk", "k", b"old")
        if request.param != "fresh":
            memory.flush()
        if request.param == "turned":
            turn(memory)
        assert heat(memory) == b"old"
        yield memory


# -- a change is seen at once


def delete_by_a_large_transaction(memory):
    with memory.transaction() as t:
        t.delete("desk", "k")
        for n in range(100):
            t.put("desk", f"large {n}", b"x" * 300)


def put_by_a_large_transaction(memory):
    with memory.transaction() as t:
        t.put("desk", "k", b"new")
        for n in range(100):
            t.put("desk", f"large {n}", b"x" * 300)


def put_by_a_transaction(memory):
    with memory.transaction() as t:
        t.put("desk", "j", b"first")
        t.put("desk", "k", b"new")


def expire(memory):
    memory.put("desk", "k", b"soon gone", ttl=0.001)
    while memory.exists("desk", "k"):
        pass


def expire_on_disk(memory):
    expire(memory)
    memory.flush()
    turn(memory)


def delete_and_put(memory):
    memory.delete("desk", "k")
    memory.put("desk", "k", b"new")


def keep_history(memory):
    memory.retain("desk", history=True)
    memory.put("desk", "k", b"new")


CHANGES = {
    "put": (lambda m: m.put("desk", "k", b"new"), b"new"),
    "put of a subclass": (lambda m: m.put("desk", "k", bytearray(b"new")), b"new"),
    "put under a version": (lambda m: m.put("desk", "k", b"new", if_version=m.get_record("desk", "k").version), b"new"),
    "put with a life": (lambda m: m.put("desk", "k", b"new", ttl=3600), b"new"),
    "put of nothing": (lambda m: m.put("desk", "k", b""), b""),
    "put of much": (lambda m: m.put("desk", "k", b"n" * SMALL), b"n" * SMALL),
    "put, durable": (lambda m: m.put("desk", "k", b"new", durable=True), b"new"),
    "put_many": (lambda m: m.put_many("desk", {"j": b"1", "k": b"new", "l": b"2"}), b"new"),
    "put_many of much": (lambda m: m.put_many("desk", {f"{n}": b"x" * 300 for n in range(99)} | {"k": b"new"}), b"new"),
    "delete": (lambda m: m.delete("desk", "k"), None),
    "delete and put": (delete_and_put, b"new"),
    "transaction": (put_by_a_transaction, b"new"),
    "large transaction": (put_by_a_large_transaction, b"new"),
    "large transaction that deletes": (delete_by_a_large_transaction, None),
    "delete_namespace": (lambda m: m.delete_namespace("desk"), None),
    "expiry": (expire, None),
    "expiry on disk": (expire_on_disk, None),
    "with history": (keep_history, b"new"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_change_is_seen_by_the_next_read(prepared, change):
    act, expected = CHANGES[change]
    act(prepared)
    for _ in range(3):
        assert prepared.get("desk", "k") == expected
    assert prepared.get_many("desk", ["k"]) == ({} if expected is None else {"k": expected})
    prepared.flush()
    for _ in range(200):
        assert prepared.get("desk", "k") == expected
    turn(prepared)
    for _ in range(200):
        assert prepared.get("desk", "k") == expected
    assert prepared.get_many("desk", ["k"]) == ({} if expected is None else {"k": expected})


@pytest.mark.parametrize("change", CHANGES)
def test_a_change_of_another_handle_and_of_another_namespace(ram, change):
    """A handle of its own has values of its own at hand."""
    act, expected = CHANGES[change]
    with opened(ram) as memory, opened(ram) as other, opened(ram, read_only=True) as reading:
        for namespace in ("desk", "other/desk", "desk2"):
            memory.put(namespace, "k", b"old")
        for handle in (memory, other, reading):
            assert {heat(handle, namespace) for namespace in ("desk", "other/desk", "desk2")} == {b"old"}
        act(other)
        for handle in (memory, other, reading):
            assert handle.get("desk", "k") == expected
            assert [handle.get(namespace, "k") for namespace in ("other/desk", "desk2")] == [b"old", b"old"]


def test_a_counter(prepared):
    prepared.put("desk", "n", b"7")
    for number in range(8, 60):
        heat(prepared, "desk", "n")
        assert prepared.incr("desk", "n") == number
        assert prepared.get("desk", "n") == b"%d" % number


def test_children_of_a_namespace_are_deleted_with_it(ram):
    with opened(ram) as memory:
        for namespace in ("a", "a/b", "a/b/c", "ab"):
            memory.put(namespace, "k", b"v")
            heat(memory, namespace)
        memory.delete_namespace("a")
        assert [memory.get(namespace, "k") for namespace in ("a", "a/b", "a/b/c", "ab")] == [None, None, None, b"v"]


def test_a_version_that_is_ahead_does_not_replace_the_one_that_is_known(ram):
    clock = ntmem.SimulatedClock(1_000 * SECOND)
    with opened(ram, clock=clock) as memory:
        memory.put("desk", "k", b"old")
        assert heat(memory) == b"old"
        memory.retain("desk", history=True)
        memory.put("desk", "k", b"new", ts_known=2_000 * SECOND)
        for lap in range(2):
            assert {memory.get("desk", "k") for _ in range(100)} == {b"old"}
            if lap == 0:
                turn(memory)
        clock.set(2_000 * SECOND)
        for lap in range(2):
            assert {memory.get("desk", "k") for _ in range(100)} == {b"new"}
            if lap == 0:
                turn(memory)
        memory.retain("desk", history=False)
        assert {memory.get("desk", "k") for _ in range(100)} == {b"new"}
        memory.put("desk", "k", b"newer")
        assert memory.get("desk", "k") == b"newer"


@pytest.mark.parametrize("is_turned", [False, True])
def test_a_life_is_that_of_the_store_s_clock(ram, is_turned):
    clock = ntmem.SimulatedClock(1_000 * SECOND)
    with opened(ram, clock=clock) as memory:
        memory.put("desk", "k", b"v", ttl=100)
        memory.flush()
        if is_turned:
            turn(memory)
            heat(memory)
        clock.set(1_100 * SECOND - 1)
        assert {memory.get("desk", "k") for _ in range(100)} == {b"v"}
        clock.set(1_100 * SECOND)
        assert {memory.get("desk", "k") for _ in range(100)} == {None}
        assert memory.get_many("desk", ["k"]) == {}
        memory.put("desk", "k", b"w")
        assert memory.get("desk", "k") == b"w"


# -- what it takes in


@pytest.mark.parametrize("key", ["k", "k" * 479, "k" * 480, "k" * 4000, "ключ", "k\x7f", "\0"])
@pytest.mark.parametrize("value", [b"", b"v", b"v" * 4000, b"v" * (SMALL // 8 + 1), b"v" * 100_000])
def test_keys_and_values_of_any_size(ram, key, value):
    with opened(ram) as memory:
        memory.put("desk", key, value)
        memory.flush()
        turn(memory)
        assert heat(memory, "desk", key) == value
        memory.put("desk", key, b"new")
        assert memory.get("desk", key) == b"new"


def test_keys_that_are_alike_to_480_bytes(ram):
    with opened(ram) as memory:
        keys = ["k" * 480 + f"{n}" for n in range(20)]
        for key in keys:
            memory.put("desk", key, key[480:].encode())
        turn(memory)
        for key in keys:
            assert heat(memory, "desk", key, 40) == key[480:].encode()
        memory.delete("desk", keys[3])
        turn(memory)
        assert [memory.get("desk", key) for key in keys] == [None if n == 3 else b"%d" % n for n in range(20)]


# -- false alarms


def alike(log_bytes, namespace, count):
    """Keys that share a slot of the log's index."""
    mask, space, found = log_bytes // SLOT - 1, encode_labels((namespace,)), {}
    for number in range(1_000_000):
        group = found.setdefault(hash_of(space, b"%d" % number) & mask, [])
        group.append(f"{number}")
        if len(group) == count:
            return group
    raise AssertionError


def test_an_alarm_that_is_false_is_cleared(ram):
    with opened(ram) as memory:
        first, *others = alike(SMALL, "desk", 5)
        table, space = table_of(memory), encode_labels(("desk",))
        memory.put("desk", first, b"v")
        turn(memory)
        assert heat(memory, key=first) == b"v"
        newest, counts = table.newest(space, first.encode()), table.counts()
        for other in others:
            memory.put("desk", other, b"w")
            assert table.newest(space, first.encode()) > newest
            assert table.get(space, first.encode()) is None
            assert memory.get("desk", first) == b"v"
            assert table.get(space, first.encode()) == b"v"  # seen again, not read again
            heat(memory, key=first)
        assert table.counts()["disk"] == counts["disk"]


def test_an_alarm_is_not_cleared_by_a_log_that_has_turned(ram):
    """The log has nothing of the key, because what it had was overwritten: that is no reason to serve the older one."""
    with opened(ram) as memory:
        memory.put("desk", "k", b"old")
        memory.flush()
        assert heat(memory) == b"old"
        memory.put("desk", "k", b"new")
        turn(memory)
        assert memory.get("desk", "k") == b"new"
        assert heat(memory) == b"new"
        memory.delete("desk", "k")
        turn(memory, 5)
        assert [memory.get("desk", "k") for _ in range(100)] == [None] * 100


def test_few_slots_many_keys_many_laps(ram):
    """A log of 64 slots: nearly each look is a false alarm."""
    chance = random.Random(3)
    with opened(ram, log_bytes=4096) as memory:
        oracle = {}
        for number in range(30_000):
            key = f"{min(chance.randrange(300), chance.randrange(300))}"
            if chance.random() < 0.05:
                oracle[key] = b"%d" % number
                memory.put("desk", key, oracle[key])
            elif chance.random() < 0.01:
                oracle.pop(key, None)
                memory.delete("desk", key)
            assert memory.get("desk", key) == oracle.get(key)
        counts = table_of(memory).counts()
        assert counts["hot"] > 10_000
        assert memory._live.log.committed > 50 * 4096
