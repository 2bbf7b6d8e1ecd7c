"""The hot table alone: against a dict it may forget, and is never wrong; its limits; the order in which it forgets."""

from __future__ import annotations

import os
import random
import time
from itertools import islice

import pytest
from hashes import keys_alike
from hottables import present, table
from hypothesis import given, settings
from hypothesis import strategies as st

from ntmem._core.hot import CAUSES, HotTable

KEYS = [b"k%d" % number for number in range(60)]
SECOND = 1_000_000_000


def until(reached):
    """Wait for the coarse clock."""
    deadline = time.monotonic() + 60
    while not reached():
        assert time.monotonic() < deadline


# -- what is found


CHANGES = st.lists(
    st.tuples(
        st.sampled_from(["put", "put", "put", "get", "forget", "promote", "clear"]),
        st.integers(0, 59),
        st.one_of(st.integers(0, 40), st.integers(0, 1500), st.sampled_from([4000, 20_000])),
    ),
    max_size=300,
)


@settings(max_examples=150)
@given(
    CHANGES,
    st.sampled_from([1, 1 << 13, 1 << 16, 1 << 20]),
    st.sampled_from([1, 2, 14, 40, 1000]),
    st.sampled_from([1, 3, 64, 4096]),
)
def test_what_is_found_is_what_was_put(changes, max_bytes, max_entries, stripes):
    hot, oracle = table(max_bytes, max_entries, stripes), {}
    for version, (what, number, size) in enumerate(changes, 1):
        key, value = KEYS[number], b"%d/" % version + b"x" * size
        if what in ("put", "promote"):
            before = oracle.get(key)
            kept = hot.put(b"desk", key, value) if what == "put" else hot.promote(b"desk", key, value, version)
            oracle[key] = value
            if what == "promote" and not kept and before is not None and hot.get(b"desk", key) == before:
                oracle[key] = before  # what was put into the table alone is not replaced by what was seen
            else:
                assert hot.get(b"desk", key) == (value if kept else None)
        elif what == "forget":
            was_there = hot.get(b"desk", key) is not None
            assert hot.forget(b"desk", key) == was_there
            assert oracle.pop(key, None) is not None or not was_there
        elif what == "clear" and size < 8:
            hot.clear()
            assert (len(hot), hot.live_bytes) == (0, 0)
            oracle.clear()
        for other in [*KEYS[::7], key]:
            assert hot.get(b"desk", other) in (None, oracle.get(other))
        assert hot.get(b"other", key) is None
        assert hot.live_bytes <= hot.limits[0]
        assert len(hot) <= max_entries
    found = present(hot, KEYS)
    assert len(hot) == len(found) <= max_entries
    assert (hot.live_bytes == 0) == (not found)


@pytest.mark.parametrize("stripes", [1, 2, 63, 64, 4096])
def test_random_sizes_for_long(stripes):
    chance = random.Random(stripes)
    hot, oracle, hits = table(1 << 21, 500, stripes), {}, 0
    for version in range(1, 30_000):
        key = b"%d" % min(chance.randrange(700), chance.randrange(700))
        if chance.random() < 0.4:
            oracle[key] = b"%d/" % version + b"z" * chance.randrange(2000)
            hot.put(b"desk", key, oracle[key])
        found = hot.get(b"desk", key)
        assert found is None or found == oracle[key]
        hits += found is not None
    assert hits > 6_000
    assert len(present(hot, oracle)) == len(hot) <= 500


def test_namespaces_and_keys_are_compared_whole():
    hot = table()
    hot.put(b"a", b"bc", b"1")
    hot.put(b"ab", b"c", b"2")
    hot.put(b"abc", b"", b"3")
    assert [hot.get(b"a", b"bc"), hot.get(b"ab", b"c"), hot.get(b"abc", b""), hot.get(b"", b"abc")] == [
        *(b"1", b"2", b"3"),
        None,
    ]


@pytest.mark.parametrize("size", [0, 1, 7, 8, 15, 16, 17, 300])
def test_values_of_any_size(size):
    hot = table(1 << 20, 40)
    value = os.urandom(size)
    assert hot.put(b"desk", b"k" * (size + 1), value)
    assert hot.get(b"desk", b"k" * (size + 1)) == value


def test_two_views_of_a_table_are_one():
    hot = table()
    other = HotTable(hot.region)
    hot.put(b"desk", b"k", b"v")
    assert (other.get(b"desk", b"k"), len(other), other.limits) == (b"v", 1, hot.limits)
    other.forget(b"desk", b"k")
    assert hot.get(b"desk", b"k") is None


# -- what was seen


def test_what_was_seen_earlier_does_not_replace_what_was_seen_later():
    hot = table()
    assert hot.promote(b"desk", b"k", b"new", 7)
    assert not hot.promote(b"desk", b"k", b"old", 6)
    assert hot.get(b"desk", b"k") == b"new"
    assert hot.promote(b"desk", b"k", b"newer", 7)
    assert hot.get(b"desk", b"k") == b"newer"


def test_below_the_floor_nothing_is_served():
    hot = table()
    hot.promote(b"desk", b"early", b"v", 99)
    hot.promote(b"desk", b"late", b"v", 100)
    hot.put(b"desk", b"own", b"v")
    hot.raise_floor(100)
    hot.raise_floor(50)  # it does not fall
    assert [hot.get(b"desk", key) for key in (b"early", b"late", b"own")] == [None, b"v", b"v"]
    hot.promote(b"desk", b"early", b"again", 98)  # who stood in between
    assert hot.get(b"desk", b"early") is None
    hot.promote(b"desk", b"early", b"again", 100)
    assert hot.get(b"desk", b"early") == b"again"


def test_without_a_log_nothing_is_newer():
    hot = table()
    hot.promote(b"desk", b"k", b"v", 1, 1)  # and nothing expires
    assert (hot.newest(b"desk", b"k"), hot.get(b"desk", b"k")) == (0, b"v")


# -- what stays


def test_what_is_used_stays():
    hot = table(1 << 18, 400)
    for number in range(100):
        hot.put(b"desk", b"used %d" % number, b"v" * 200)
    for number in range(20_000):  # a scan of keys that are asked for once
        hot.put(b"desk", b"scan %d" % number, b"v" * 200)
        hot.get(b"desk", b"used %d" % (number % 100))
    assert len(present(hot, [b"used %d" % number for number in range(100)])) > 90


def test_a_scan_does_not_evict_what_was_used_before_it():
    hot = table(1 << 18, 2000, 1)
    used = [b"used %d" % number for number in range(400)]
    for key in used:
        hot.put(b"desk", key, b"v" * 200)
    for number in range(3_000):  # until they have left probation
        hot.put(b"desk", b"first %d" % number, b"v" * 200)
        hot.get(b"desk", used[number % 400])
    assert len(present(hot, used)) > 380
    for number in range(100_000):
        hot.put(b"desk", b"scan %d" % number, b"v" * 200)
    assert len(present(hot, used)) > 350


def test_updates_of_a_few_keys_do_not_empty_the_rest():
    hot = table(1 << 18, 2000)
    quiet = [b"quiet %d" % number for number in range(300)]
    for key in quiet:
        hot.put(b"desk", key, b"v" * 100)
    for number in range(50_000):
        hot.put(b"desk", b"busy %d" % (number % 5), b"v" * 100)
    assert len(present(hot, quiet)) > 290


PAIR = 6 << 32
"""Bits of the hash that choose two buckets of eight."""


def test_seven_in_a_bucket_seven_next_door_then_one_has_to_go():
    hot = table(1 << 20, 24, 1)
    alike = list(islice(keys_alike(b"desk", PAIR), 15))
    for number, key in enumerate(alike[:14]):
        assert hot.put(b"desk", key, b"%d" % number)
    assert [hot.get(b"desk", key) for key in alike[:14]] == [b"%d" % number for number in range(14)]
    assert hot.put(b"desk", alike[14], b"14")
    assert hot.evictions() == dict.fromkeys(CAUSES, 0) | {"collision": 1}
    assert (len(present(hot, alike)), hot.get(b"desk", alike[14]), len(hot)) == (14, b"14", 14)


def test_of_those_that_collide_one_that_was_not_used_goes():
    for unused in range(7):
        hot = table(1 << 20, 24, 1)
        door = 1 << 32
        alike = list(
            islice(keys_alike(b"desk", PAIR | door), 15)
        )  # all belong to one bucket: the first seven are in it
        for key in alike[:14]:
            hot.put(b"desk", key, b"v")
        present(hot, [key for key in alike[:14] if key != alike[unused]])
        hot.put(b"desk", alike[14], b"v")
        assert present(hot, alike) == [key for key in alike if key != alike[unused]]


# -- limits


@pytest.mark.parametrize("stripes", [1, 7, 64, 4096])
@pytest.mark.parametrize("most", [1, 2, 15, 16, 100, 1000])
def test_entries_are_bounded_strictly(most, stripes):
    hot = table(1 << 22, most, stripes)
    keys = [b"%d" % number for number in range(5 * most + 50)]
    for key in keys:
        hot.put(b"desk", key, b"")
        assert len(hot) <= most
    found = present(hot, keys)
    assert len(found) == len(hot) <= most
    assert len(found) > most * 0.9
    assert hot.evictions()["entries"] > 3 * most


def test_bytes_are_bounded():
    hot = table(1 << 20, 1 << 20, 4)
    for number in range(40_000):
        hot.put(b"desk", b"%d" % number, b"v" * 100)
        assert hot.live_bytes <= hot.limits[0] == 1 << 20
    assert hot.live_bytes > 1 << 19
    assert hot.evictions()["bytes"] > 30_000
    assert hot.evictions()["entries"] == 0


def test_what_is_too_large_is_not_kept_and_what_it_replaces_neither():
    hot = table(1 << 16, 40)
    hot.put(b"desk", b"k", b"small")
    assert not hot.put(b"desk", b"k", b"x" * (1 << 16))
    assert hot.get(b"desk", b"k") is None
    assert len(hot) == 0


def test_a_record_may_have_an_eighth_of_an_arena():
    hot = table(1 << 20, 10_000, 1)
    overhead = 48 + 4 + 1
    assert not hot.put(b"desk", b"k", bytes((1 << 17) - overhead + 1))
    for number in range(100):
        assert hot.put(b"desk", b"%d" % (number % 10), bytes((1 << 17) - overhead))


@pytest.mark.parametrize(
    "sizes", [(0, 1, 1), (1, 0, 1), (1, 1, 0), (1, 1, 4097), (1 << 45, 1, 1), (1, (1 << 32) + 1, 1)]
)
def test_sizes_that_are_none_are_refused(sizes):
    with pytest.raises(ValueError, match="there is no table of"):
        HotTable.sections(*sizes)


# -- age


def test_what_has_been_here_long_enough_is_not_served():
    hot = table()
    hot.put(b"desk", b"short", b"v", 1)
    hot.put(b"desk", b"long", b"v", 3600 * SECOND)
    hot.put(b"desk", b"for ever", b"v")
    until(lambda: hot.get(b"desk", b"short") is None)
    assert [hot.get(b"desk", key) for key in (b"long", b"for ever")] == [b"v", b"v"]


def test_the_shorter_of_two_lives_counts():
    hot = table(ttl=5_000_000)
    assert hot.put(b"desk", b"k", b"v", 3600 * SECOND)
    assert hot.promote(b"desk", b"seen", b"v", 1)
    until(lambda: hot.get(b"desk", b"k") is None)
    until(lambda: hot.get(b"desk", b"seen") is None)
    hot.put(b"desk", b"k", b"again")
    assert hot.get(b"desk", b"k") in (b"again", None)


def test_what_had_been_here_long_enough_counts_as_that():
    hot = table(1 << 20, 10, 1)
    hot.listen(lambda: None)
    for number in range(10):
        hot.put(b"desk", b"old %d" % number, b"v", 1)
    time.sleep(0.02)  # the coarse clock's ticks are shorter; who looks whether they are gone uses them
    for number in range(10):
        hot.put(b"desk", b"new %d" % number, b"v")
    assert hot.evictions() == dict.fromkeys(CAUSES, 0) | {"age": 10}
    assert {cause for *_, cause in hot.take_evicted()} == {"age"}


# -- who listens


def test_who_listens_is_told_what_was_evicted_and_why():
    hot, oracle = table(1 << 16, 40, 1), {}
    hot.put(b"desk", b"before", b"nobody listens")
    hot.forget(b"desk", b"before")
    hot.listen(lambda: None)
    told = []
    for number in range(500):
        key = b"k%d" % number
        oracle[key] = b"%d/" % number + b"v" * (number % 50 * 100)
        if not hot.put(b"desk", key, oracle[key]):
            del oracle[key]
        if number % 3 == 0:
            told += hot.take_evicted()
    told += hot.take_evicted()
    assert all(namespace == b"desk" and oracle.pop(key) == value for namespace, key, value, _ in told)
    assert sorted(oracle) == sorted(present(hot, [b"k%d" % number for number in range(500)]))
    assert {cause for *_, cause in told} == {"entries", "bytes"}
    assert {cause: sum(1 for *_, it in told if it == cause) for cause in CAUSES} == hot.evictions()
    assert (hot.take_evicted(), hot.dropped) == ([], 0)


def test_what_is_forgotten_replaced_or_cleared_was_not_evicted():
    hot = table()
    hot.listen(lambda: None)
    hot.put(b"desk", b"k", b"v")
    hot.put(b"desk", b"k", b"w")
    hot.forget(b"desk", b"k")
    hot.put(b"desk", b"k", b"v")
    hot.clear()
    assert hot.take_evicted() == []
    hot.listen(None)
    for number in range(1000):
        hot.put(b"desk", b"%d" % number, b"v")
    assert hot.take_evicted() == []


def test_below_the_floor_is_no_loss():
    hot = table(1 << 16, 10, 1)
    hot.listen(lambda: None)
    for number in range(10):
        hot.promote(b"desk", b"old %d" % number, b"v", 1)
    hot.raise_floor(2)
    for number in range(10):
        hot.promote(b"desk", b"new %d" % number, b"v", 2)
    assert (hot.take_evicted(), sum(hot.evictions().values())) == ([], 0)
    assert len(present(hot, [b"new %d" % number for number in range(10)])) == 10


def test_of_too_many_at_once_it_is_told_how_many():
    hot = table(1 << 20, 1000, 1)
    hot.listen(lambda: None)
    for number in range(300):
        assert hot.put(b"desk", b"%d" % number, bytes(100_000))
    told = hot.take_evicted()
    assert hot.dropped > 50
    assert len(told) + hot.dropped == sum(hot.evictions().values()) > 250
    for number in range(300, 320):
        hot.put(b"desk", b"%d" % number, bytes(100_000))
    assert len(hot.take_evicted()) > 10


# -- accounts


def test_calls_are_counted_for_all_views():
    hot = table()
    hot.get(b"desk", b"k")
    hot.promote(b"desk", b"k", b"v", 1)
    HotTable(hot.region).get(b"desk", b"k")
    hot.promote(b"desk", b"k", b"older", 0)
    counted = {name: count for name, count in hot.counts().items() if count}
    assert counted == {"hot": 1, "absent": 1, "promoted": 1}
    assert hot.times() == {"get": [], "put": []}


def test_who_listens_is_woken_once_until_it_has_looked():
    hot, woken = table(1 << 16, 10, 1), []
    hot.listen(lambda: woken.append(len(woken)))
    for number in range(10):
        hot.put(b"desk", b"%d" % number, b"v")
    assert woken == []
    for number in range(10, 15):
        hot.put(b"desk", b"%d" % number, b"v")
    assert (woken, len(hot.take_evicted())) == ([0], 5)
    hot.promote(b"desk", b"seen", b"v", 1)
    assert (woken, len(hot.take_evicted())) == ([0, 1], 1)
    hot.listen(None)
    hot.put(b"desk", b"last", b"v")
    assert woken == [0, 1]


def test_live_bytes_are_those_of_records():
    hot = table(1 << 20, 40)
    hot.put(b"desk", b"key", b"v" * 100)
    assert hot.live_bytes == (48 + 4 + 3 + 100 + 15) // 16 * 16
    hot.put(b"desk", b"key", b"")
    assert hot.live_bytes == 64
    hot.forget(b"desk", b"key")
    assert hot.live_bytes == 0
