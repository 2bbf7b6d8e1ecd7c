"""Every series comes back bit for bit: any bits, and what series look like."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as numbers

from ntmem import delta

DTYPES = ["bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64", "float32", "float64"]
LENGTHS = st.sampled_from([0, 1, 2, 3, 4, 7, 8, 9, 63, 64, 1023, 1024, 1025, 5000, 65_535, 65_536, 65_537])
LEVELS = st.sampled_from(["fast", "best"])


def check(series, level):
    found = delta.decode(delta.encode(series, level=level))
    assert found.dtype == series.dtype
    assert found.tobytes() == series.tobytes()


@settings(deadline=None, max_examples=300)
@given(st.data(), st.sampled_from(DTYPES), LEVELS)
def test_any_bits(data, dtype, level):
    check(data.draw(numbers.arrays(dtype, st.integers(0, 200))), level)


@settings(deadline=None, max_examples=300)
@given(st.lists(st.integers(0, 2**64 - 1), max_size=100), st.integers(1, 30), LEVELS)
def test_any_patterns_of_float64(patterns, repeats, level):
    check(np.tile(np.array(patterns, dtype=np.uint64), repeats).view(np.float64), level)


@settings(deadline=None, max_examples=200)
@given(st.lists(st.integers(0, 2**32 - 1), max_size=100), st.integers(1, 30), LEVELS)
def test_any_patterns_of_float32(patterns, repeats, level):
    check(np.tile(np.array(patterns, dtype=np.uint32), repeats).view(np.float32), level)


@st.composite
def series(draw):
    """Constants, ramps, walks, times with jitter, decimals, runs, with some of anything strewn in."""
    count = draw(LENGTHS)
    generator = np.random.default_rng(draw(st.integers(0, 2**32)))
    dtype = draw(st.sampled_from(DTYPES))
    base = draw(st.sampled_from([1, 2, 7, 10, 100, 1000, 86_400, 10**6, 10**9]))
    first = draw(st.integers(-(2**62), 2**62))
    spread = draw(st.sampled_from([1, 2, 5, 300, 70_000, 2**33]))
    shape = draw(st.sampled_from(["constant", "ramp", "walk", "jitter", "runs", "heavy", "mixed"]))
    rows = np.arange(count, dtype=np.int64)
    if shape == "constant":
        whole = np.full(count, first)
    elif shape == "ramp":
        whole = first + rows * base
    elif shape == "walk":
        whole = first // 4 + np.cumsum(generator.integers(-spread, spread + 1, count)) * base
    elif shape == "jitter":
        whole = first // 4 + rows * base * 1000 + generator.integers(0, spread, count)
    elif shape == "runs":
        whole = np.repeat(generator.integers(0, spread, count // 50 + 1), 50)[:count] * base
    elif shape == "heavy":
        whole = np.exp(generator.normal(0, 6, count)).astype(np.int64) * base
    else:
        whole = np.where(generator.random(count) < 0.9, rows * base, generator.integers(-(2**62), 2**62, count))
    if dtype.startswith("float"):
        digits = draw(st.integers(0, 9))
        found = (whole % 10**12 / 10**digits).astype(dtype)
        if draw(st.booleans()):
            found = np.round(found.astype(np.float32).astype(np.float64), 6).astype(dtype)
        if draw(st.sampled_from([0, 0, 1])):  # numbers on no grid that repeat; sums that are near one
            found = (np.log1p(np.abs(whole % 997)) if draw(st.booleans()) else found.cumsum() / 20).astype(dtype)
        odd = np.array([np.nan, -np.nan, np.inf, -np.inf, -0.0, 0.0, 5e-324, 1e-40, 1 / 3], dtype=dtype)
    else:
        found = whole.astype(dtype)
        odd = np.array([0, 1]).astype(dtype)
    strewn = generator.random(count) < draw(st.sampled_from([0, 0, 0.001, 0.3, 0.9]))
    found[strewn] = generator.choice(odd, int(strewn.sum()))
    return found


@settings(deadline=None, max_examples=300)
@given(series(), LEVELS)
def test_what_series_look_like(found, level):
    check(found, level)


@settings(deadline=None, max_examples=100)
@given(series(), st.integers(-70_000, 140_000), st.integers(-70_000, 140_000))
def test_parts(found, start, stop):
    part = delta.decode(delta.encode(found, level="fast"), start=start, stop=stop)
    assert part.tobytes() == found[start:stop].tobytes()


@settings(deadline=None, max_examples=60)
@given(series(), st.integers(0, 2**32), st.sampled_from([0, 1, 5]))
def test_columns_beside_each_other(found, seed, spread):
    generator = np.random.default_rng(seed)
    table = {"first": found}
    for name in ("second", "third"):
        near = found.copy()
        at = generator.integers(0, len(found), len(found) // 2) if len(found) else np.zeros(0, dtype=np.int64)
        if found.dtype == bool:
            near[at] = ~found[at]
        else:
            near.view(f"u{found.itemsize}")[at] ^= generator.integers(0, spread + 1, len(at)).astype("u1")
        table[name] = near
    back = delta.decode_columns(delta.encode_columns(table))
    assert list(back) == list(table)
    assert all(back[name].tobytes() == table[name].tobytes() for name in table)
