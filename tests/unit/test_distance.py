"""``nearest`` against numpy: same rows, same order, and errors that say what to do."""

import array
import math
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from ntmem._core.distance import nearest


def nearest_by_sorting(vectors, query, k):
    """Obviously right: all distances in float64, NaN dropped, a stable sort."""
    with np.errstate(invalid="ignore"):
        distances = ((vectors.astype(np.float64) - query.astype(np.float64)) ** 2).sum(axis=1)
    rows = [row for row in np.argsort(distances, kind="stable") if not math.isnan(distances[row])]
    return [(int(row), float(distances[row])) for row in rows[:k]]


def rows_and_query(elements, min_dimension=1):
    """Dimensions up to 40 have whole blocks of 16 lanes, remainders, and both together."""
    return st.tuples(st.integers(0, 40), st.integers(min_dimension, 40)).flatmap(
        lambda shape: st.tuples(
            hnp.arrays(np.float32, shape, elements=elements),
            hnp.arrays(np.float32, shape[1], elements=elements),
        )
    )


# Sums of squares of small integers are exact in float32, so results must be equal, ties included.
EXACT = st.integers(-4, 4).map(float)
SPECIAL = st.sampled_from([math.nan, math.inf, -math.inf, -0.0])


@given(rows_and_query(EXACT), st.integers(1, 60))
def test_same_rows_in_the_same_order(case, k):
    vectors, query = case
    assert nearest(vectors, query, k) == nearest_by_sorting(vectors, query, k)


@given(rows_and_query(st.one_of(EXACT, EXACT, EXACT, SPECIAL)), st.integers(1, 60))
def test_nan_is_left_out_and_infinity_is_not(case, k):
    vectors, query = case
    assert nearest(vectors, query, k) == nearest_by_sorting(vectors, query, k)


@given(rows_and_query(st.floats(-1e6, 1e6, width=32)), st.integers(1, 60))
def test_distances_are_accurate(case, k):
    vectors, query = case
    found = [distance for _, distance in nearest(vectors, query, k)]
    expected = [distance for _, distance in nearest_by_sorting(vectors, query, k)]
    assert found == sorted(found)
    # float32 sums of up to 40 terms; squares below float32's smallest normal lose all digits
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-36)


def test_the_lower_row_wins_a_tie():
    vectors = np.zeros((100, 3), np.float32)
    assert nearest(vectors, np.zeros(3, np.float32), 4) == [(0, 0.0), (1, 0.0), (2, 0.0), (3, 0.0)]


def test_no_rows_and_too_few_rows():
    query = np.zeros(5, np.float32)
    assert nearest(np.zeros((0, 5), np.float32), query, 3) == []
    assert nearest(np.ones((1, 5), np.float32), query, 2**62) == [(0, 5.0)]


def test_a_query_of_nan_finds_nothing():
    assert nearest(np.zeros((9, 2), np.float32), np.full(2, np.nan, np.float32), 3) == []


def test_any_float32_buffer_will_do():
    frozen = np.arange(6, dtype=np.float32).reshape(3, 2)
    frozen.flags.writeable = False
    assert nearest(frozen, array.array("f", [2.0, 3.0]), 1) == [(1, 0.0)]
    assert nearest(memoryview(frozen), memoryview(bytes(8)).cast("f"), 1) == [(0, 1.0)]


def test_threads_may_search_one_array():
    generator = np.random.default_rng(7)
    vectors = generator.standard_normal((2000, 33), dtype=np.float32)
    queries = generator.standard_normal((40, 33), dtype=np.float32)
    expected = [nearest(vectors, query, 10) for query in queries]
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(lambda query: nearest(vectors, query, 10), queries)) == expected


ROWS, QUERY = np.zeros((4, 3), np.float32), np.zeros(3, np.float32)


@pytest.mark.parametrize(
    ("vectors", "query", "k", "error", "message"),
    [
        (ROWS, QUERY, 0, ValueError, r"k must be 1 or more, was 0"),
        (ROWS, QUERY, -7, ValueError, r"k must be 1 or more, was -7"),
        (ROWS, QUERY, 1.0, TypeError, r"float"),
        (ROWS, QUERY[:2], 1, ValueError, r"query must have the 3 columns of vectors, had 2"),
        (ROWS[:, :0], QUERY[:0], 1, ValueError, r"at least one column, had shape \(4, 0\)"),
        (ROWS[0], QUERY, 1, ValueError, r"vectors must be .* shape \(n, d\), had shape \(3,\)"),
        (ROWS, ROWS, 1, ValueError, r"query must be .* shape \(d,\), had shape \(4, 3\)"),
        (ROWS[:, ::2], QUERY[:2], 1, ValueError, r"vectors .* not C-contiguous; pass numpy.ascontig"),
        (np.asfortranarray(ROWS), QUERY, 1, ValueError, r"vectors .* not C-contiguous"),
        (ROWS, np.zeros(6, np.float32)[::2], 1, ValueError, r"query .* not C-contiguous"),
        (ROWS.astype(np.float64), QUERY, 1, TypeError, r"vectors .* was ndarray of float64; pass numpy"),
        (ROWS, QUERY.astype(np.int32), 1, TypeError, r"query must be .* was ndarray of int32"),
        (ROWS.astype(">f4"), QUERY, 1, TypeError, r"vectors must be .* was ndarray of >f4"),
        (ROWS.astype("datetime64[s]"), QUERY, 1, TypeError, r"was ndarray of datetime64\[s\]"),
        ([[0.0]], QUERY, 1, TypeError, r"vectors must be .* was list; pass numpy"),
        (None, QUERY, 1, TypeError, r"vectors must be .* was NoneType"),
        (ROWS, None, 1, TypeError, r"query must be .* was NoneType"),
        (ROWS, b"123456789012", 1, TypeError, r"query must be .* was bytes of format 'B'"),
    ],
)
def test_wrong_input_is_refused_with_the_remedy(vectors, query, k, error, message):
    with pytest.raises(error, match=message):
        nearest(vectors, query, k)
