"""The native pass over a column, by every set of functions that runs here, against numpy and plain Python."""

import math
import struct
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from columnar import bits_to_rows
from hypothesis import given
from hypothesis import strategies as st

from ntmem._core.columns import FLOAT, INT, INTERNED, MISSING, available, match, match_any

SETS = available()
LEAST, MOST = -(2**63), 2**63 - 1
COUNTS = [0, 1, 2, 63, 64, 65, 127, 128, 129, 1000]
INTS = st.one_of(st.integers(LEAST, MOST), st.integers(-3, 3), st.sampled_from([LEAST, MOST, LEAST + 1, MOST - 1]))
FLOATS = st.one_of(st.floats(), st.sampled_from([0.0, -0.0, math.inf, -math.inf, math.nan, 5e-324, 1.0]))
NUMBERS = st.one_of(st.integers(0, 700), st.integers(0, 2**64 - 1))


def int_word(value):
    return value % 2**64


def float_word(value):
    return struct.unpack("<Q", struct.pack("<d", value))[0]


CELLS = st.one_of(
    st.tuples(st.just(MISSING), st.integers(0, 2**64 - 1)),
    st.tuples(st.just(INT), INTS.map(int_word)),
    st.tuples(st.just(FLOAT), FLOATS.map(float_word)),
    st.tuples(st.just(INTERNED), NUMBERS),
    st.tuples(st.sampled_from([4, 255]), st.integers(0, 2**64 - 1)),
)
COLUMNS = st.lists(CELLS, max_size=200) | st.sampled_from([INT, FLOAT, INTERNED]).flatmap(
    lambda kind: st.lists(CELLS.filter(lambda cell: cell[0] == kind), min_size=64, max_size=140)
)
MASKS = st.none() | st.lists(st.sampled_from([0, 0, 1, 2**63, 2**64 - 1, 0x0123456789ABCDEF]), max_size=20)


def arrays(cells):
    kinds, words = zip(*cells, strict=True) if cells else ((), ())
    return np.array(kinds, np.uint8), np.array(words, np.uint64)


def as_words(numbers):
    return None if numbers is None else np.array(numbers, np.uint64)


def signed(word):
    return word - 2**64 if word >= 2**63 else word


def in_mask(mask, word):
    return mask is not None and word < 64 * len(mask) and bool(mask[word // 64] >> word % 64 & 1)


def real(word):
    return struct.unpack("<d", struct.pack("<Q", word))[0]


@pytest.mark.parametrize("name", SETS)
@given(
    cells=COLUMNS,
    ints=st.none() | st.tuples(INTS, INTS),
    floats=st.none() | st.tuples(FLOATS, FLOATS),
    mask=MASKS,
    missing=st.booleans(),
)
def test_ranges(name, cells, ints, floats, mask, missing):
    def expected(kind, word):
        return {
            MISSING: missing,
            INT: ints is not None and ints[0] <= signed(word) <= ints[1],
            FLOAT: floats is not None and floats[0] <= real(word) <= floats[1],
            INTERNED: in_mask(mask, word),
        }.get(kind, False)

    kinds, words = arrays(cells)
    bits = match(kinds, words, len(cells), ints=ints, floats=floats, mask=as_words(mask), missing=missing, kernels=name)
    assert bits_to_rows(bits, len(cells)) == [expected(*cell) for cell in cells]


@pytest.mark.parametrize("name", SETS)
def test_every_end_of_a_range(name):
    ints = [LEAST, LEAST + 1, -1, 0, 1, MOST - 1, MOST]
    floats = [-math.inf, -1.0, -5e-324, -0.0, 0.0, 5e-324, 1.0, math.inf, math.nan]
    for edges, kind, word in ((ints, INT, int_word), (floats, FLOAT, float_word)):
        kinds, words = arrays([(kind, word(value)) for value in edges])
        for low in edges:
            for high in edges:
                which = {"ints" if kind == INT else "floats": (low, high)}
                bits = match(kinds, words, len(edges), kernels=name, **which)
                assert bits_to_rows(bits, len(edges)) == [low <= value <= high for value in edges]


@pytest.mark.parametrize("name", SETS)
@pytest.mark.parametrize("size", [0, 1, 2, 3, 7, 8, 9, 63, 64, 65, 1000])
@given(cells=COLUMNS, mask=MASKS, data=st.data())
def test_members(name, size, cells, mask, data):
    """Below, at and beyond the sizes at which members are searched for, with members that rows have and others."""
    seed = data.draw(st.integers(0, 2**32))
    rng = np.random.default_rng(seed)
    there = [word for _, word in cells]
    kept = {kind: set(rng.choice(as_words(there), min(size, len(there) // 2)).tolist()) for kind in (INT, FLOAT)}
    members = {kind: [*some, *rng.integers(0, 2**64, size - len(some), np.uint64)] for kind, some in kept.items()}
    kinds, words = arrays(cells)
    bits = match_any(
        kinds,
        words,
        len(cells),
        ints=as_words(members[INT]),
        floats=as_words(members[FLOAT]),
        mask=as_words(mask),
        kernels=name,
    )
    expected = [word in members[kind] if kind in members else in_mask(mask, word) for kind, word in cells]
    allowed = [kind in (INT, FLOAT, INTERNED) for kind, _ in cells]
    assert bits_to_rows(bits, len(cells)) == [a and b for a, b in zip(expected, allowed, strict=True)]


@pytest.mark.parametrize("name", SETS)
@pytest.mark.parametrize("count", COUNTS)
def test_every_length(name, count):
    kinds, words = np.full(count + 5, INT, np.uint8), np.arange(count + 5, dtype=np.uint64)
    assert bits_to_rows(match(kinds, words, count, ints=(1, MOST), kernels=name), count) == [False] * (count > 0) + [
        True
    ] * (count - 1)
    assert not match(kinds, words, count, floats=(-math.inf, math.inf), missing=True, kernels=name).any()


@pytest.mark.parametrize("name", SETS)
@pytest.mark.parametrize("words_set", range(1, 12))
def test_masks_of_few_and_of_many_words(name, words_set):
    """A number matches if its own bit is set, wherever around it others are."""
    mask = np.zeros(40, np.uint64)
    mask[np.arange(words_set) * 3] = np.uint64(1 << 63 | 1 << 17 | 1)
    numbers = np.arange(64 * 45, dtype=np.uint64)
    bits = match(np.full(len(numbers), INTERNED, np.uint8), numbers, len(numbers), mask=mask, kernels=name)
    expected = [
        i < 64 * 40 and i // 64 % 3 == 0 and i // 192 < words_set and i % 64 in (0, 17, 63) for i in range(2880)
    ]
    assert bits_to_rows(bits, 2880) == expected


def test_sets_agree_on_many_rows():
    rng = np.random.default_rng(1)
    kinds = rng.integers(0, 4, 10_007).astype(np.uint8)
    words = rng.integers(0, 300, 10_007).astype(np.uint64)
    mask = rng.integers(0, 2**63, 5).astype(np.uint64)
    first, *others = [match(kinds, words, 10_007, ints=(5, 100), mask=mask, kernels=name) for name in SETS]
    expected = ((kinds == INT) & (words >= 5) & (words <= 100)) | (
        (kinds == INTERNED) & np.array([in_mask(mask.tolist(), word) for word in words.tolist()])
    )
    assert bits_to_rows(first, 10_007) == expected.tolist()
    assert all((first == other).all() for other in others)


def test_an_empty_range_and_an_empty_mask_match_nothing():
    kinds, words = np.full(70, INT, np.uint8), np.arange(70, dtype=np.uint64)
    assert not match(kinds, words, 70, ints=(3, 2)).any()
    assert not match(kinds, words, 70).any()
    assert not match(kinds + np.uint8(2), words, 70, mask=np.empty(0, np.uint64)).any()
    assert not match_any(kinds, words, 70, ints=np.empty(0, np.uint64)).any()


def test_read_only_arrays():
    kinds, words = np.full(70, INT, np.uint8), np.arange(70, dtype=np.uint64)
    for array in (kinds, words):
        array.flags.writeable = False
    assert bits_to_rows(match(kinds, words, 70, ints=(69, 69)), 70)[69]


def test_what_is_refused():
    kinds, words = np.zeros(10, np.uint8), np.zeros(9, np.uint64)
    with pytest.raises(ValueError, match=r"was 10; there are 10 kinds and 9 words"):
        match(kinds, words, 10)
    with pytest.raises(ValueError, match=r"was -1"):
        match_any(kinds, words, -1)
    with pytest.raises(OverflowError):
        match(kinds, words, 9, ints=(0, 2**63))
    with pytest.raises(ValueError, match=r"no kernels 'mmx' on this machine; there are .*scalar"):
        match(kinds, words, 9, kernels="mmx")
    with pytest.raises(ValueError, match=r"dtype mismatch"):
        match(kinds, words.astype(np.int64), 9)


def test_from_several_threads():
    rng = np.random.default_rng(2)
    kinds, words = np.full(50_000, INT, np.uint8), rng.integers(0, 1000, 50_000).astype(np.uint64)

    def matching(low):
        return match(kinds, words, 50_000, ints=(low, low + 100)).tolist()

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(matching, range(40))) == [matching(low) for low in range(40)]
