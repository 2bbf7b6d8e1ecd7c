"""Series that an earlier version wrote: every later one has to read them, bit for bit.

``python tests/format/test_delta_format.py`` adds files for samples that have none; what is there is never written
again. `expected.npz` holds what is in them.
"""

from pathlib import Path

import numpy as np
import pytest

from ntmem import delta

PLACE = Path(__file__).parent / "delta"
NAMES = sorted(path.stem for path in PLACE.glob("*.series"))


def samples():
    """A series for each form, order, kind of stream and type there is."""
    generator = np.random.default_rng(11)
    walk = np.cumsum(generator.integers(-4, 5, 1500))
    prices = np.round(walk / 100 + 80, 2)
    holes = prices.copy()
    holes[[3, 4, 900]] = np.nan, -0.0, np.inf
    made = {
        "constant": np.full(100, 7),
        "ramp": np.arange(500) * 60_000_000_000,
        "curve": np.cumsum(np.cumsum(generator.integers(-1, 2, 1500))),
        "walk": walk,
        "base": walk * 1000 + generator.choice([67, 68], 1500),
        "decimals": prices,
        "exceptions": holes,
        "single": np.cumsum(generator.normal(0, 1, 800)).astype(np.float32).astype(np.float64),
        "single_decimal": prices.astype(np.float32).astype(np.float64),
        "single_again": np.round(prices.astype(np.float32).astype(np.float64), 6),
        "mantissa": generator.normal(0, 1, 300),
        "near": np.round(generator.normal(0, 900, 1500), 2) / 3 * 3.3 - 0.7,
        "table": np.log(generator.integers(1, 90, 3000) * 1.25) / 7,
        "raw": generator.integers(-(2**63), 2**63 - 1, 100),
        "contexts": np.repeat(generator.integers(0, 9, 200), 20),
        "empty": np.zeros(0),
    }
    for dtype in ["bool", "int8", "int16", "int32", "uint8", "uint16", "uint32", "uint64", "float32"]:
        made[f"of_{dtype}"] = (walk[:600] % 50).astype(dtype)
    return made | samples_of_runs_and_lanes()


def samples_of_runs_and_lanes():
    generator = np.random.default_rng(13)
    few = np.array([3, 5, 8, -7])
    spread = np.where(np.arange(12_003) & 512, 5, 60)
    return {
        "runs": np.repeat(few[generator.integers(0, 4, 300)] / 4, generator.integers(1, 20, 300)),
        "turns": np.cumsum(generator.random(3000) < 0.03) % 2 == 0,
        "bits": generator.choice(np.array([-1, 1], dtype=np.int16), 1003),
        "lanes": generator.normal(0, 50, 12_003).astype(np.int64),  # the last row is not full
        "lanes_of_contexts": (generator.normal(0, 1, 12_003) * spread).astype(np.int64),
        "phase": 10**18 + 10**9 * np.arange(3000) + generator.integers(-(10**6), 10**6, 3000),
    }


@pytest.mark.parametrize("name", NAMES)
def test_series_of_before(name):
    with np.load(PLACE / "expected.npz") as stored:
        expected = stored[name]
    found = delta.decode((PLACE / f"{name}.series").read_bytes())
    assert found.dtype == expected.dtype
    assert found.tobytes() == expected.tobytes()


def test_a_table_of_before():
    found = delta.decode_columns((PLACE / "bars.table").read_bytes())
    with np.load(PLACE / "expected.npz") as stored:
        expected = {name.removeprefix("bars."): stored[name] for name in stored.files if name.startswith("bars.")}
    assert found.keys() == expected.keys()
    assert all(found[name].tobytes() == expected[name].tobytes() for name in expected)


def test_there_are_some():
    assert set(NAMES) == set(samples())


def write():
    path = PLACE / "expected.npz"
    PLACE.mkdir(exist_ok=True)
    expected = {}
    if path.exists():
        with np.load(path) as stored:
            expected = {name: stored[name] for name in stored.files}
    for name, array in samples().items():
        if name not in expected:
            (PLACE / f"{name}.series").write_bytes(delta.encode(array))
            expected[name] = array
    if "bars.open" not in expected:
        generator = np.random.default_rng(12)
        close = np.round(100 + np.cumsum(generator.normal(0, 0.05, 600)), 2)
        opened = np.concatenate((close[:1], close[:-1]))
        high = np.round(np.maximum(opened, close) + generator.exponential(0.02, 600), 2)
        low = np.round(np.minimum(opened, close) - generator.exponential(0.02, 600), 2)
        bars = {"open": opened, "high": high, "low": low, "close": close}
        (PLACE / "bars.table").write_bytes(delta.encode_columns(bars))
        expected |= {f"bars.{name}": column for name, column in bars.items()}
    np.savez_compressed(path, **expected)


if __name__ == "__main__":
    write()
