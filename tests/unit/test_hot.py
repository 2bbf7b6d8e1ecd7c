"""The hot table against a dict: it may forget, and is never wrong."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ntmem._core.hot import HotTable
from ntmem._core.region import Region

KEYS = [b"k%d" % number for number in range(60)]


def table(max_bytes=1 << 16, max_entries=40):
    sections = HotTable.sections(max_bytes, max_entries)
    region = Region.create(None, identity=b"", generation=0, sections=sections)
    return HotTable.create(region, max_bytes, max_entries)


CHANGES = st.lists(
    st.tuples(st.sampled_from(["put", "put", "put", "get", "forget"]), st.integers(0, 59), st.integers(0, 1500)),
    max_size=300,
)


@settings(max_examples=200)
@given(CHANGES, st.sampled_from([1 << 13, 1 << 16, 1 << 20]), st.sampled_from([1, 40, 1000]))
def test_what_is_found_is_what_was_put(changes, max_bytes, max_entries):
    hot, oracle = table(max_bytes, max_entries), {}
    for version, (what, number, size) in enumerate(changes, 1):
        key = KEYS[number]
        if what == "put":
            value = b"%d/" % version + b"x" * size
            kept = hot.put(b"desk", key, value, version)
            oracle[key] = (value, version)
            assert hot.get(b"desk", key) == (value if kept else None)
        elif what == "forget":
            hot.forget(b"desk", key, version)
            oracle.pop(key, None)
            assert hot.get(b"desk", key) is None
        for other in [*KEYS[::7], key]:
            found = hot.get(b"desk", other)
            assert found is None or (found, hot.version(b"desk", other)) == oracle[other]
        assert hot.get(b"other", key) is None
    present = [key for key in KEYS if hot.get(b"desk", key) is not None]
    assert len(hot) == len(present)
    assert (hot.live_bytes == 0) == (not present)


def test_what_is_used_stays():
    hot = table(1 << 18, 400)
    for number in range(100):
        hot.put(b"desk", b"used %d" % number, b"v" * 200, 1)
    for number in range(20_000):  # a scan of keys that are asked for once
        hot.put(b"desk", b"scan %d" % number, b"v" * 200, 1)
        hot.get(b"desk", b"used %d" % (number % 100))
    assert sum(hot.get(b"desk", b"used %d" % number) is not None for number in range(100)) > 90


def test_updates_of_a_few_keys_do_not_empty_the_rest():
    hot = table(1 << 18, 2000)
    for number in range(300):
        hot.put(b"desk", b"quiet %d" % number, b"v" * 100, 1)
    for number in range(50_000):
        hot.put(b"desk", b"busy %d" % (number % 5), b"v" * 100, number + 2)
    assert sum(hot.get(b"desk", b"quiet %d" % number) is not None for number in range(300)) > 290


def test_an_older_version_does_not_replace_a_younger_one():
    hot = table()
    hot.put(b"desk", b"k", b"new", 7)
    assert not hot.put(b"desk", b"k", b"old", 6)
    assert hot.get(b"desk", b"k") == b"new"


@pytest.mark.parametrize("change", ["put", "forget", "clear"])
def test_nothing_is_promoted_that_was_looked_for_before_a_change(change):
    hot = table()
    before = hot.changes(b"desk", b"k")
    {
        "put": lambda: hot.put(b"desk", b"k", b"new", 2),
        "forget": lambda: hot.forget(b"desk", b"k", 2),
        "clear": hot.clear,
    }[change]()
    assert not hot.promote(b"desk", b"k", b"old", 1, before)
    assert hot.get(b"desk", b"k") == (b"new" if change == "put" else None)
    assert hot.promote(b"desk", b"k", b"newer", 3, hot.changes(b"desk", b"k"))
    assert hot.get(b"desk", b"k") == b"newer"


def test_expired_values_are_not_served():
    hot = table()
    hot.put(b"desk", b"k", b"v", 1, expires_at=10)
    assert [hot.get(b"desk", b"k", now) for now in (9, 10, 11)] == [b"v", None, None]


def test_what_is_too_large_is_not_kept_and_what_it_replaces_neither():
    hot = table(1 << 16, 40)
    hot.put(b"desk", b"k", b"small", 1)
    assert not hot.put(b"desk", b"k", b"x" * (1 << 16), 2)
    assert hot.get(b"desk", b"k") is None
    assert len(hot) == 0


def test_entries_are_bounded():
    hot = table(1 << 20, 100)
    for number in range(10_000):
        hot.put(b"desk", b"%d" % number, b"", number + 1)
    assert 60 < len(hot) <= 160  # by stripe, so uneven hashes take a quarter more


def test_random_sizes_for_long():
    chance = random.Random(5)
    hot, oracle, hits = table(1 << 17, 500), {}, 0
    for version in range(1, 100_000):
        key = b"%d" % min(chance.randrange(700), chance.randrange(700))
        if chance.random() < 0.4:
            oracle[key] = b"%d/" % version + b"z" * chance.randrange(2000)
            hot.put(b"desk", key, oracle[key], version)
        found = hot.get(b"desk", key)
        assert found is None or found == oracle[key]
        hits += found is not None
    assert hits > 20_000


def test_a_section_that_is_none_is_refused():
    region = Region.create(None, identity=b"", generation=0, sections=HotTable.sections(1 << 16, 10))
    with pytest.raises(ValueError, match="no sound hot table"):
        HotTable(region)
    HotTable.create(region, 1 << 16, 10)
    with pytest.raises(ValueError, match="has a table already"):
        HotTable.create(region, 1 << 16, 10)
    HotTable(region).put(b"a", b"b", b"c", 1)
