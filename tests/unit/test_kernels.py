"""Every set of kernels that this machine can run against numpy: products, distances, int8, the exact scan."""

import math
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from ntmem._core.kernels import Kernels, available, quantize

SETS = available()
DIMENSIONS = st.one_of(st.integers(1, 70), st.sampled_from([96, 127, 128, 384, 1000]))
INT8 = st.integers(-127, 127)


def both(dtype, elements):
    return DIMENSIONS.flatmap(
        lambda n: st.tuples(hnp.arrays(dtype, n, elements=elements), hnp.arrays(dtype, n, elements=elements))
    )


def halves():
    return st.floats(-100, 100, width=16)


@pytest.mark.parametrize("name", SETS)
@given(both(np.int8, INT8))
def test_int8_products_are_exact(name, pair):
    a, b = pair
    assert Kernels(name).dot(a, b) == int(a.astype(np.int64) @ b.astype(np.int64))


@pytest.mark.parametrize("name", SETS)
@pytest.mark.parametrize("n", [1, 31, 32, 33, 63, 64, 65, 384, 65_536])
def test_int8_products_at_their_largest(name, n):
    """Where sums of pairs come closest to what 16 bits hold."""
    full = np.full(n, 127, np.int8)
    assert Kernels(name).dot(full, full) == n * 127 * 127
    assert Kernels(name).dot(full, -full) == -n * 127 * 127


@pytest.mark.parametrize("name", SETS)
@pytest.mark.parametrize("dtype", [np.float16, np.float32])
@given(data=st.data())
def test_floats_are_accurate(name, dtype, data):
    a, b = data.draw(both(dtype, halves()))
    wide, other = a.astype(np.float64), b.astype(np.float64)
    rounded = (len(a) / 16 + 8) * 2.0**-23  # sums of a lane, those of the lanes, products: half of that, at worst
    room = rounded * float(np.abs(wide * other).sum()) + 1e-30
    assert Kernels(name).dot(a, b) == pytest.approx(float(wide @ other), abs=room)
    apart = float(((wide - other) ** 2).sum())
    assert Kernels(name).squared(a, b) == pytest.approx(apart, rel=rounded, abs=1e-30)


@pytest.mark.parametrize("name", SETS)
def test_every_float16_is_read(name):
    every = np.arange(1 << 16, dtype=np.uint16).view(np.float16)
    every = every[np.isfinite(every)]
    one = np.array([1], np.float16)
    kernels = Kernels(name)
    assert all(kernels.dot(every[i : i + 1], one) == float(every[i]) for i in range(0, len(every), 7))
    assert math.isnan(kernels.dot(np.full(40, np.nan, np.float16), np.ones(40, np.float16)))


@given(
    hnp.arrays(
        np.float32,
        st.tuples(st.integers(0, 5), st.integers(1, 40)),
        elements=st.floats(-(2.0**100), 2.0**100, width=32),
    )
)
def test_quantizing_is_off_by_half_a_step_at_most(vectors):
    numbers, steps = quantize(vectors)
    assert (numbers.dtype, numbers.shape, len(steps)) == (np.int8, vectors.shape, len(vectors))
    assert numbers.min(initial=0) >= -127
    back = numbers.astype(np.float64) * steps[:, None].astype(np.float64)
    assert (np.abs(back - vectors) <= 0.5001 * steps[:, None] + 1e-44).all()


@pytest.mark.parametrize("wrong", [math.nan, math.inf, -math.inf])
def test_quantizing_refuses_what_is_no_number(wrong):
    vectors = np.ones((3, 4), np.float32)
    vectors[1, 2] = wrong
    with pytest.raises(ValueError, match="row 1 has NaN or infinity"):
        quantize(vectors)


def best_by_sorting(rows, steps, query, query_step, k, squares, allowed):
    """What the scan is to return: float32 in the order of its operations, a stable sort."""
    products = (rows.astype(np.int32) @ query.astype(np.int32)).astype(np.float32) * steps * np.float32(query_step)
    values = products if squares is None else np.float32(2) * products - squares
    order = [row for row in np.argsort(-values, kind="stable").tolist() if allowed is None or row in allowed]
    return order[:k], [float(values[row]) for row in order[:k]]


@pytest.mark.parametrize("name", SETS)
@given(data=st.data())
def test_the_scan_finds_the_best(name, data):
    count, dimension = data.draw(st.integers(0, 200)), data.draw(st.integers(1, 70))
    chance = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    rows = chance.integers(-127, 128, (count, dimension)).astype(np.int8)
    rows[chance.random(count) < 0.3] = rows[0] if count else 0  # equal ones
    steps = np.where(chance.random(count) < 0.5, 0.5, 0.25).astype(np.float32)
    query = chance.integers(-127, 128, dimension).astype(np.int8)
    squares, allowed, words = None, None, None
    if data.draw(st.booleans()):
        squares = chance.integers(0, 1000, count).astype(np.float32)
    if data.draw(st.booleans()):
        mask = chance.random(64 * -(-count // 64)) < data.draw(st.sampled_from([0, 0.01, 0.3, 0.9, 1]))
        allowed = {int(row) for row in np.flatnonzero(mask) if row < count}
        words = np.packbits(mask, bitorder="little").view(np.uint64)
    k = data.draw(st.integers(1, 250))
    found, values = Kernels(name).scan(rows, steps, query, 0.125, k, squares=squares, allowed=words)
    assert (found.tolist(), values.tolist()) == best_by_sorting(rows, steps, query, 0.125, k, squares, allowed)


def test_sets_are_chosen_by_name(monkeypatch):
    assert SETS[-1] == "scalar"
    monkeypatch.delenv("NTMEM_KERNELS", raising=False)
    assert Kernels().name == SETS[0]
    monkeypatch.setenv("NTMEM_KERNELS", "scalar")
    assert Kernels().name == "scalar"
    with pytest.raises(ValueError, match=r"there are no kernels 'abacus' on this machine; there are .*scalar"):
        Kernels("abacus")


ROWS, STEPS, QUERY = np.ones((70, 4), np.int8), np.ones(70, np.float32), np.ones(4, np.int8)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"k": 0}, "k must be 1 or more, was 0"),
        ({"query": np.ones(5, np.int8)}, "it has 5, they 4"),
        ({"steps": np.ones(69, np.float32)}, "as many as the 70 rows"),
        ({"squares": np.ones(71, np.float32)}, "as many as the 70 rows"),
        ({"allowed": np.ones(1, np.uint64)}, "must have 2 words for 70 rows, had 1"),
    ],
)
def test_a_scan_of_what_does_not_fit_is_refused(change, says):
    what = {"rows": ROWS, "steps": STEPS, "query": QUERY, "query_step": 1.0, "k": 1} | change
    with pytest.raises(ValueError, match=says):
        Kernels().scan(**what)


@pytest.mark.parametrize(
    ("a", "b", "error"),
    [
        (np.ones(3, np.int8), np.ones(4, np.int8), ValueError),
        (np.ones(3, np.int8), np.ones(3, np.float32), ValueError),
        (np.ones(0, np.float32), np.ones(0, np.float32), ValueError),
        (np.ones((2, 2), np.float32), np.ones((2, 2), np.float32), ValueError),
        (np.ones(3), np.ones(3), TypeError),
        ([1.0], [1.0], TypeError),
    ],
)
def test_pairs_that_do_not_go_together_are_refused(a, b, error):
    with pytest.raises(error, match="vectors"):
        Kernels().dot(a, b)


def test_threads_scan_at_the_same_time():
    chance = np.random.default_rng(3)
    rows = chance.integers(-127, 128, (5000, 64)).astype(np.int8)
    steps = np.ones(5000, np.float32)
    queries = chance.integers(-127, 128, (16, 64)).astype(np.int8)
    kernels = Kernels()
    one = [kernels.scan(rows, steps, query, 1.0, 5)[0].tolist() for query in queries]
    with ThreadPoolExecutor(4) as threads:
        assert [it[0].tolist() for it in threads.map(lambda q: kernels.scan(rows, steps, q, 1.0, 5), queries)] == one
