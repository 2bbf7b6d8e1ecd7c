"""Ratios and speeds of ``ntmem.delta`` beside pcodec, zstd and blosc2, column by column, in one run.

``python benches/compare/delta.py [--rounds N] [FILE.csv.gz ...]``: columns of the files, in which whole numbers are
int64 and others float64, then of synthetic series of other kinds. Peers that are not installed are left out. One
thread each; a time is the best of the rounds, which go through all codecs in turn. Every result is compared.
"""

from __future__ import annotations

import argparse
import csv
import gzip
import importlib
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ntmem import delta

Table = dict[str, np.ndarray]


class Codec(NamedTuple):
    name: str
    encode: Callable[[np.ndarray], bytes]
    decode: Callable[[bytes, np.ndarray], Any]  # the second tells the type and length


class Figures(NamedTuple):
    size: int
    encode: float
    decode: float


def plain(array: np.ndarray) -> np.ndarray:
    """`array`, bool as bytes: pcodec has no bool."""
    return array.view(np.uint8) if array.dtype == bool else array


def codecs() -> Iterator[Codec]:
    yield Codec("best", delta.encode, lambda data, _: delta.decode(data))
    yield Codec("fast", lambda array: delta.encode(array, level="fast"), lambda data, _: delta.decode(data))
    try:
        pcodec = importlib.import_module("pcodec")
        standalone = importlib.import_module("pcodec.standalone")
        for level in (12, 8):
            config = pcodec.ChunkConfig(compression_level=level, enable_8_bit=True)
            yield Codec(
                f"pcodec {level}",
                lambda array, config=config: standalone.simple_compress(plain(array), config),
                lambda data, array: standalone.simple_decompress(data).astype(array.dtype, copy=False),
            )
    except ImportError:
        print("pcodec is not installed")
    try:
        zstd = importlib.import_module("zstandard")
        yield Codec(
            "zstd 19",
            lambda array: zstd.ZstdCompressor(level=19).compress(array.tobytes()),
            lambda data, array: np.frombuffer(zstd.ZstdDecompressor().decompress(data), array.dtype),
        )
    except ImportError:
        print("zstandard is not installed")
    try:
        blosc = importlib.import_module("blosc2")
        blosc.set_nthreads(1)
        settings = {
            "codec": blosc.Codec.ZSTD,
            "clevel": 5,
            "filters": [blosc.Filter.SHUFFLE, blosc.Filter.BYTEDELTA],
            "filters_meta": [0, 0],
            "nthreads": 1,
        }

        def unpack(data: bytes, array: np.ndarray) -> np.ndarray:
            out = np.empty_like(array)
            blosc.decompress2(data, dst=out, nthreads=1)
            return out

        yield Codec("blosc2", lambda array: blosc.compress2(array, typesize=array.itemsize, **settings), unpack)
    except ImportError:
        print("blosc2 is not installed")


def read(path: Path) -> Table:
    with gzip.open(path, "rt", newline="") as file:
        rows = csv.reader(file)
        names = next(rows)
        columns = list(zip(*rows, strict=True))
    return {
        name: np.array(column, dtype=np.int64 if all(map(str.isdigit, column[:1000])) else np.float64)
        for name, column in zip(names, columns, strict=True)
    }


def synthetic(count: int = 200_000) -> dict[str, Table]:
    """Kinds of series that the files may not have."""
    generator = np.random.default_rng(20)
    steps = generator.normal(0, 1e-4, count)
    prices = np.round(250 * np.exp(np.cumsum(steps)), 2)
    returns = np.diff(np.log(prices), prepend=np.log(prices[0]))
    average = np.convolve(prices, np.ones(20) / 20, mode="full")[:count]
    start = 1_700_000_000_000_000_000
    return {
        "walks": {
            "price": prices,
            "quarters": np.round(np.cumsum(generator.normal(0, 0.3, count)) * 4) / 4 + 4_000,
            "coarse": np.round(np.cumsum(generator.choice([-5.0, 0.0, 0.0, 5.0], count))) + 42_000,
            "float32": prices.astype(np.float32),
        },
        "volumes": {
            "lognormal": np.round(generator.lognormal(3, 2, count), 3),
            "lots": 100.0 * generator.geometric(0.2, count),
            "trades": generator.poisson(30, count),
        },
        "features": {
            "gaussian": generator.normal(0, 1, count),
            "log_return": returns,
            "average": average,
            "spread": prices - average,
        },
        "times": {
            "regular": start + 1_000_000_000 * np.arange(count),
            "jitter": start + 1_000_000_000 * np.arange(count) + generator.integers(0, 2_000_000, count),
            "events": start + np.cumsum(generator.exponential(3e7, count).astype(np.int64)),
            "milliseconds": start + np.cumsum(generator.exponential(30, count).astype(np.int64)) * 1_000_000,
        },
        "flags": {
            "bool": np.cumsum(generator.random(count) < 0.02) % 2 == 0,
            "side": generator.choice(np.array([-1, 1], dtype=np.int8), count),
            "state": np.repeat(generator.integers(0, 12, count // 20), 20).astype(np.int16),
        },
    }


def measure(codec_list: list[Codec], array: np.ndarray, rounds: int) -> dict[str, Figures]:
    found: dict[str, Figures] = {}
    for number in range(rounds):
        for codec in codec_list:
            if codec.name == "zstd 19" and number:  # seconds a column, and only its ratio is asked for
                continue
            start = time.perf_counter()
            data = codec.encode(array)
            between = time.perf_counter()
            back = codec.decode(data, array)
            times = between - start, time.perf_counter() - between
            if number == 0 and back.tobytes() != array.tobytes():
                raise SystemExit(f"{codec.name} gave other numbers")
            before = found.get(codec.name, Figures(len(data), *times))
            found[codec.name] = Figures(len(data), min(before.encode, times[0]), min(before.decode, times[1]))
    return found


def row(name: str, size: int, figures: dict[str, Figures]) -> str:
    cells = []
    for found in figures.values():
        speeds = f"{size / found.encode / 1e6:.0f}/{size / found.decode / 1e6:.0f}"
        cells.append(f"{size / found.size:8.2f} {speeds:>10}")
    return f"{name:28}" + "".join(cells)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("files", nargs="*", type=Path, metavar="FILE.csv.gz")
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    tables = {path.name.removesuffix(".csv.gz"): read(path) for path in arguments.files} | synthetic()
    codec_list = list(codecs())
    print("ratio, then MB/s of encoding and decoding")
    print(f"{'':28}" + "".join(f"{codec.name:>19}" for codec in codec_list))
    for title, table in tables.items():
        total: dict[str, Figures] = {}
        for name, array in table.items():
            figures = measure(codec_list, array, arguments.rounds)
            print(row(f"{title[:17]} {name}", array.nbytes, figures), flush=True)
            for codec, found in figures.items():
                sums = zip(total.get(codec, Figures(0, 0.0, 0.0)), found, strict=True)
                total[codec] = Figures(*(a + b for a, b in sums))
        size = sum(array.nbytes for array in table.values())
        print(row(f"{title} in all", size, total))
        data = delta.encode_columns(table)
        back = delta.decode_columns(data)
        if any(back[name].tobytes() != table[name].tobytes() for name in table):
            raise SystemExit("encode_columns gave other numbers")
        print(f"{'':28}{size / len(data):8.2f} as columns that know each other\n", flush=True)


if __name__ == "__main__":
    main()
