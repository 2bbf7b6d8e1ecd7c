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
@pytest.mark.parametrize("largest", [False, True])
def test_int8_products_of_every_length(name, largest):
    """Each rest that vectors of any width leave, beside bytes that do not belong to it."""
    chance = np.random.default_rng(largest)
    kernels = Kernels(name)
    around = chance.choice([-127, 127], (2, 400)) if largest else chance.integers(-127, 128, (2, 400))
    around = around.astype(np.int8)
    for n in [*range(1, 201), 255, 257, 383, 385]:
        a, b = around[0, 3 : 3 + n], around[1, 5 : 5 + n]
        wanted = int(a.astype(np.int64) @ b.astype(np.int64))
        assert kernels.dot(a, b) == wanted
        rows, values = kernels.scan(np.stack([a, -a, a]), None, b, 1.0, 3)
        assert values.tolist() == sorted([wanted, wanted, -wanted], reverse=True)
        assert rows.tolist() == sorted(range(3), key=lambda row: (-[wanted, -wanted, wanted][row], row))


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
    rows = every[: len(every) // 40 * 40].reshape(-1, 40)  # a place of a vector, and each of its rest
    for place in (0, 7, 15, 16, 33, 39):
        found, values = kernels.scan(rows, None, np.eye(1, 40, place, dtype=np.float32)[0], 1.0, len(rows))
        assert (values == rows[found, place].astype(np.float32)).all()
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


def best_by_sorting(products, query_step, k, steps=None, squares=None, allowed=None):
    """What a scan is to return: float32 in the order of its operations, a stable sort."""
    values = products.astype(np.float32)
    values = (values if steps is None else values * steps) * np.float32(query_step)
    values = values if squares is None else np.float32(2) * values - squares
    order = [row for row in np.argsort(-values, kind="stable").tolist() if allowed is None or row in allowed]
    return order[:k], [float(values[row]) for row in order[:k]]


def rows_of(chance, kind, count, dimension):
    """Rows of which some are equal, and a query; floats are small whole numbers, so that all sums are exact."""
    most = 127 if kind == np.int8 else 9
    rows = chance.integers(-most, most + 1, (count, dimension)).astype(kind)
    rows[chance.random(count) < 0.3] = rows[0] if count else 0
    return rows, chance.integers(-most, most + 1, dimension).astype(np.int8 if kind == np.int8 else np.float32)


def bits_of(chance, count, share):
    """A bitmap, by words of quite different shares; and the rows in it."""
    words = -(-count // 64)
    shares = np.clip(share * chance.choice([0, 0.5, 1, 1, 2], words), 0, 1)
    mask = chance.random(64 * words) < np.repeat(shares, 64)
    return np.packbits(mask, bitorder="little").view(np.uint64), {int(row) for row in np.flatnonzero(mask)}


@pytest.mark.parametrize("name", SETS)
@pytest.mark.parametrize("kind", [np.int8, np.float16, np.float32])
@given(data=st.data())
def test_the_scan_finds_the_best(name, kind, data):
    count, dimension = data.draw(st.integers(0, 700)), data.draw(st.integers(1, 70))
    chance = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    rows, query = rows_of(chance, kind, count, dimension)
    products = rows.astype(np.int32) @ query.astype(np.int32)
    steps, squares, allowed, words = None, None, None, None
    if data.draw(st.booleans()):
        steps = np.where(chance.random(count) < 0.5, 0.5, 0.25).astype(np.float32)
    if data.draw(st.booleans()):
        squares = chance.integers(0, 1000, count).astype(np.float32)
    if data.draw(st.booleans()):
        words, allowed = bits_of(chance, count, data.draw(st.sampled_from([0, 0.01, 0.05, 0.2, 0.3, 0.5, 0.9, 1])))
    k = data.draw(st.sampled_from([1, 2, 10, 100, 1000]))
    found, values = Kernels(name).scan(rows, steps, query, 0.125, k, squares=squares, allowed=words)
    wanted = best_by_sorting(products, 0.125, k, steps, squares, allowed)
    assert (found.tolist(), values.tolist()) == wanted


@pytest.mark.parametrize("name", SETS)
@pytest.mark.parametrize("share", [0.001, 0.05, 0.3, 0.5, 0.95, 1])
def test_bitmaps_of_many_rows(name, share):
    """More rows than are looked at together, by each way through a bitmap; all are wanted, so none may be lost."""
    chance = np.random.default_rng(int(share * 1000))
    rows, query = rows_of(chance, np.int8, 5003, 5)
    words, allowed = bits_of(chance, 5003, share)
    for k in (10, 5003):
        found, values = Kernels(name).scan(rows, None, query, 1.0, k, allowed=words)
        wanted = best_by_sorting(rows.astype(np.int32) @ query.astype(np.int32), 1.0, k, allowed=allowed)
        assert (found.tolist(), values.tolist()) == wanted


@pytest.mark.parametrize("name", SETS)
@given(data=st.data())
def test_a_scan_goes_on_where_another_ended(name, data):
    """Ranges of rows in any order, each with its number, are as all of them at once."""
    chance = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    base, count, k = data.draw(st.sampled_from([0, 2**32 - 400])), 400, data.draw(st.sampled_from([1, 7, 500]))
    rows, query = rows_of(chance, np.int8, count, 3)
    ends = sorted(data.draw(st.lists(st.integers(0, count), max_size=4)))
    ranges = list(zip([0, *ends], [*ends, count], strict=True))
    found = None
    for first, end in data.draw(st.permutations(ranges)):
        found = Kernels(name).scan(rows[first:end], None, query, 1.0, k, base=base + first, found=found)
    wanted = best_by_sorting(rows.astype(np.int32) @ query.astype(np.int32), 1.0, k)
    assert ((found[0] - np.uint32(base)).tolist(), found[1].tolist()) == wanted


@pytest.mark.parametrize("name", SETS)
@pytest.mark.parametrize("kind", [np.float16, np.float32])
def test_equal_rows_of_floats_are_equal_anywhere(name, kind):
    """Sums depend on the order of additions: it must not depend on where a row is, or ties would be broken by that."""
    chance = np.random.default_rng(4)
    for dimension in (1, 7, 37, 384, 391):
        rows = np.tile(chance.standard_normal(dimension).astype(kind), (211, 1))
        query = chance.standard_normal(dimension).astype(np.float32)
        words = np.packbits(chance.random(256) < 0.1, bitorder="little").view(np.uint64)
        found, values = Kernels(name).scan(rows, None, query, 1.0, 211)
        assert (found.tolist(), len(set(values.tolist()))) == (list(range(211)), 1)
        assert set(Kernels(name).scan(rows, None, query, 1.0, 211, allowed=words)[1].tolist()) == {values[0]}
        exact = float(rows[0].astype(np.float64) @ query.astype(np.float64))
        assert values[0] == pytest.approx(exact, abs=1e-5 * dimension)


@pytest.mark.parametrize("name", SETS)
def test_rows_that_are_no_numbers_are_the_last(name):
    rows = np.ones((9, 3), np.float32)
    rows[[0, 4, 5]] = math.nan
    found, values = Kernels(name).scan(rows, None, np.ones(3, np.float32), 1.0, 8)
    assert found.tolist() == [1, 2, 3, 6, 7, 8, 0, 4]
    assert values.tolist() == [3.0] * 6 + [-math.inf] * 2


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
        ({"base": 2**32 - 69}, "70 from 4294967227 do not"),
        ({"found": (np.ones(2, np.uint32), np.ones(1, np.float32))}, "had 2 and 1"),
        ({"rows": np.ones((140, 4), np.int8)[::2]}, "contiguous"),
    ],
)
def test_a_scan_of_what_does_not_fit_is_refused(change, says):
    what = {"rows": ROWS, "steps": STEPS, "query": QUERY, "query_step": 1.0, "k": 1} | change
    with pytest.raises(ValueError, match=says):
        Kernels().scan(**what)


@pytest.mark.parametrize(
    "change",
    [
        {"rows": np.ones((70, 4))},
        {"rows": np.ones(4, np.int8)},
        {"rows": [[1]]},
        {"query": np.ones(4, np.float32)},
        {"rows": np.ones((70, 4), np.float16), "query": np.ones(4, np.float16)},
        {"query": np.ones((1, 4), np.int8)},
    ],
)
def test_a_scan_of_other_types_is_refused(change):
    what = {"rows": ROWS, "steps": STEPS, "query": QUERY, "query_step": 1.0, "k": 1} | change
    with pytest.raises(TypeError, match=r"of (int8|float16)"):
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
