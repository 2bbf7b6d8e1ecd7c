"""What ``ntmem.delta`` takes, gives back and refuses; every bit over all kinds of numbers is in tests/property."""

import threading

import numpy as np
import pytest

from ntmem import delta
from ntmem._core import delta as core
from ntmem.errors import CorruptionError

DTYPES = ["bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64", "float32", "float64"]


def same(found, expected):
    return found.dtype == expected.dtype and found.shape == expected.shape and found.tobytes() == expected.tobytes()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("count", [0, 1, 2, 3, 8, 100, 1023, 1024, 1025, 65_536, 65_537, 131_073])
@pytest.mark.parametrize("level", ["fast", "best"])
def test_all_types_and_lengths(dtype, count, level):
    numbers = (np.random.default_rng(count).normal(0, 40, count)).astype("int64").astype(dtype)
    assert same(delta.decode(delta.encode(numbers, level=level)), numbers)


@pytest.mark.parametrize("level", ["fast", "best"])
def test_bits_that_arithmetic_would_lose(level):
    bits = np.array(
        [0x8000000000000000, 0x7FF0000000000000, 0xFFF0000000000000, 0x7FF8000000000001, 0xFFF4000000000002, 1, 0],
        dtype=np.uint64,
    )
    odd = bits.view(np.float64)
    prices = np.round(np.linspace(10, 20, 5000), 2)
    prices[::700] = np.resize(odd, len(prices[::700]))
    for numbers in (odd, prices, np.full(3000, np.nan), np.full(3000, -0.0)):
        assert same(delta.decode(delta.encode(numbers, level=level)), numbers)


@pytest.mark.parametrize("dtype", ["int64", "uint64", "float64"])
def test_the_whole_range(dtype):
    words = np.random.default_rng(3).integers(0, 2**64, 10_000, dtype=np.uint64)
    words[:4] = 0, 2**64 - 1, 2**63, 2**63 - 1
    data = delta.encode(words.view(dtype))
    assert same(delta.decode(data), words.view(dtype))
    assert len(data) <= words.nbytes + 33


def test_a_market_takes_few_bytes():
    generator = np.random.default_rng(1)
    prices = np.round(61_800 + np.cumsum(generator.choice([-0.1, 0.0, 0.0, 0.0, 0.1], 50_000)), 1)
    singles = (prices.astype(np.float32) / np.float32(1)).astype(np.float64)
    times = 1_723_161_255_000_000_000 + np.cumsum(generator.integers(1, 50, 50_000)) * 1_000_000
    assert len(delta.encode(prices)) * 30 < prices.nbytes
    assert len(delta.encode(singles)) * 30 < singles.nbytes  # printed from float32: the decimal is found behind it
    assert len(delta.encode(times)) * 10 < times.nbytes
    assert len(delta.encode(np.arange(50_000) * 60_000_000_000)) < 60


def kinds():
    """Series that every part of the decoder is needed for."""
    generator = np.random.default_rng(8)
    steps = generator.integers(-300, 301, 20_003)
    return {
        "constant": np.full(9000, 2.5),
        "bool": np.full(9000, True),
        "ramp": np.arange(9000) * 1000,
        "down": 5 - np.arange(9000, dtype=np.uint64) * 7,
        "runs": np.repeat(generator.normal(0, 1, 900), generator.integers(1, 30, 900)),
        "short": np.repeat(generator.integers(0, 99, 6000, dtype=np.int16), 3),
        "turns": np.cumsum(generator.random(9001) < 0.03) % 2 == 0,
        "bits": generator.choice(np.array([np.nan, -0.0]), 9001),
        "bytes": generator.choice(np.array([-1, 1], dtype=np.int8), 9001),
        "lanes": generator.normal(0, 1e6, 20_003).astype(np.int64),
        "contexts": generator.normal(0, np.where(np.arange(20_003) & 512, 5, 60)).astype(np.int64),
        "decimals": np.round(500 + np.cumsum(steps) / 100, 2),
        "singles": np.round(500 + np.cumsum(steps) / 100, 2).astype(np.float32),
        "twice": np.round(np.round(500 + np.cumsum(steps) / 100, 2).astype(np.float32).astype(np.float64), 6),
        "near": np.round(generator.normal(0, 900, 9000), 2) / 3 * 3.3 - 0.7,
        "table": np.log(generator.integers(1, 90, 9000) * 1.25) / 7,
        "mantissa": generator.normal(0, 1, 9000),
        "jitter": 10**18 + 10**9 * np.arange(9000) + generator.integers(-(10**6), 10**6, 9000),
    }


@pytest.mark.parametrize("kind", kinds())
@pytest.mark.parametrize("level", ["fast", "best"])
def test_processors_agree(kind, level):
    """With vectors or without, the same bytes are made and read."""
    numbers = kinds()[kind]
    try:
        with_vectors = delta.encode(numbers, level=level)
        core.use_vectors(False)
        assert delta.encode(numbers, level=level) == with_vectors
        assert same(delta.decode(with_vectors), numbers)
    finally:
        core.use_vectors(True)
    assert same(delta.decode(with_vectors), numbers)


def test_what_repeats_takes_next_to_nothing():
    turns = np.cumsum(np.random.default_rng(4).random(50_000) < 0.01) % 2 == 0
    for level in ("fast", "best"):
        assert len(delta.encode(np.repeat(np.arange(99.0), 500), level=level)) < 150
        assert len(delta.encode(turns, level=level)) * 80 < turns.nbytes
        assert len(delta.encode(np.full(16_384, np.pi), level=level)) < 60
        assert len(delta.encode(np.arange(16_384) * 60_000_000_000, level=level)) < 60


@pytest.mark.parametrize("least", [-(2**63), -(2**63) + 1, 2**63 - 1 - 10**12])
def test_jitter_at_the_ends_of_the_range(least):
    numbers = 10**9 * np.arange(1000) + np.random.default_rng(6).integers(0, 10**6, 1000) + least
    assert same(delta.decode(delta.encode(numbers)), numbers)


def test_views_that_are_not_contiguous():
    numbers = np.arange(1000)[::3]
    assert same(delta.decode(delta.encode(numbers)), np.ascontiguousarray(numbers))


def test_numbers_that_are_not_aligned():
    raw = np.zeros(8001, dtype=np.uint8)
    numbers = raw[1:].view(np.float64)
    numbers[:] = np.arange(1000) / 8
    assert same(delta.decode(delta.encode(numbers)), numbers.copy())


def test_the_result_is_the_callers():
    numbers = np.arange(10)
    found = delta.decode(delta.encode(numbers))
    found[0] = 7
    assert found.flags.writeable
    assert found.flags.owndata


@pytest.mark.parametrize(
    ("start", "stop"),
    [(0, 0), (0, 1), (5, 5), (9, 3), (65_000, 66_500), (-3, None), (199_999, 200_000), (0, 10**9), (250_000, None)],
)
def test_a_part(start, stop):
    numbers = np.cumsum(np.random.default_rng(2).integers(-9, 9, 200_000))
    assert same(delta.decode(delta.encode(numbers), start=start, stop=stop), numbers[start:stop])


def test_a_part_does_not_read_other_blocks():
    numbers = np.arange(200_000) ** 2
    data = bytearray(delta.encode(numbers))
    data[-1] ^= 1  # the last block
    assert same(delta.decode(data, stop=1000), numbers[:1000])
    with pytest.raises(CorruptionError, match="block 3 of 4 is damaged"):
        delta.decode(data)


@pytest.mark.parametrize("value", [[1, 2], b"abc", None, 3.0])
def test_what_is_no_array(value):
    with pytest.raises(TypeError, match="array must be a numpy array"):
        delta.encode(value)


@pytest.mark.parametrize("dtype", ["float16", "complex128", "U3", "O", ">i8", "datetime64[ns]"])
def test_other_types(dtype):
    with pytest.raises(TypeError, match=r"array must be little-endian and of bool, .*, was of"):
        delta.encode(np.zeros(3, dtype=dtype))


def test_other_arguments():
    with pytest.raises(ValueError, match=r"one dimension, had shape \(2, 2\)"):
        delta.encode(np.zeros((2, 2)))
    with pytest.raises(ValueError, match="level must be 'fast' or 'best', was 'slow'"):
        delta.encode(np.zeros(2), level="slow")
    with pytest.raises(TypeError, match="data must be bytes or another buffer, was str"):
        delta.decode("NTD1")


def test_a_limit_of_memory():
    data = delta.encode(np.zeros(1_000_000))
    assert len(data) < 600
    with pytest.raises(ValueError, match="8000000 bytes, more than the limit of 1000000"):
        delta.decode(data, limit=1_000_000)
    assert len(delta.decode(data, limit=1_000_000, start=500_000, stop=500_010)) == 10


def test_a_length_that_the_data_cannot_have():
    data = bytearray(delta.encode(np.zeros(10)))
    data[8:16] = (2**40).to_bytes(8, "little")
    with pytest.raises(CorruptionError, match="too many for"):
        delta.decode(data)


@pytest.mark.parametrize("data", [b"", b"NTD1", b"\0" * 100, b"NTD1" + b"\xff" * 60])
def test_what_is_no_series(data):
    with pytest.raises(CorruptionError):
        delta.decode(data)
    with pytest.raises(CorruptionError):
        delta.decode_columns(data)


def bars(count=20_000):
    generator = np.random.default_rng(5)
    close = np.round(100 + np.cumsum(generator.normal(0, 0.05, count)), 2)
    opened = np.round(np.concatenate((close[:1], close[:-1])), 2)
    high = np.round(np.maximum(opened, close) + generator.exponential(0.02, count), 2)
    low = np.round(np.minimum(opened, close) - generator.exponential(0.02, count), 2)
    return {
        "ts": 60_000_000_000 * np.arange(count),
        "open": opened,
        "high": high,
        "low": low,
        "close": close,
        "odd": np.arange(7, dtype=np.int16),
        "none": np.array([], dtype=np.float32),
    }


def test_columns():
    table = bars()
    data = delta.encode_columns(table)
    found = delta.decode_columns(data)
    assert list(found) == list(table)
    assert all(same(found[name], table[name]) for name in table)
    alone = sum(len(delta.encode(column)) for column in table.values())
    assert len(data) < 0.7 * alone  # the opening price is the last closing price
    assert len(delta.encode_columns(table, level="fast")) >= len(data)


def test_some_columns():
    table = bars(3000)
    found = delta.decode_columns(delta.encode_columns(table), ["low", "ts"])
    assert list(found) == ["low", "ts"]
    assert all(same(found[name], table[name]) for name in found)
    with pytest.raises(KeyError, match="there is no column 'volume'; there are ts, open"):
        delta.decode_columns(delta.encode_columns(table), ["volume"])


def test_columns_with_holes_in_them():
    table = bars(3000)
    for name in ("open", "close"):
        table[name][100:110] = np.nan, -0.0, np.inf, 1e300, 1 / 3, -np.inf, 5e-324, np.pi, 0.0, -1.5
    found = delta.decode_columns(delta.encode_columns(table))
    assert all(same(found[name], table[name]) for name in table)


def test_no_columns():
    assert delta.decode_columns(delta.encode_columns({})) == {}


def test_wrong_columns():
    with pytest.raises(TypeError, match="names of columns must be str, one was int"):
        delta.encode_columns({1: np.zeros(2)})
    with pytest.raises(TypeError, match="column 'x' must be a numpy array"):
        delta.encode_columns({"x": [1]})
    with pytest.raises(ValueError, match="65535 bytes, one had 70000"):
        delta.encode_columns({"x" * 70_000: np.zeros(2)})


def test_threads_at_once():
    columns = list(bars().values())
    wrong = []

    def turn():
        for column in columns * 3:
            if not same(delta.decode(delta.encode(column, level="fast")), column):
                wrong.append(column)

    threads = [threading.Thread(target=turn) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
