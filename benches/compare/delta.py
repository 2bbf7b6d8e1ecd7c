"""Ratios and speeds of ``ntmem.delta`` beside pcodec, zstd, blosc2 and Gorilla, column by column, in one run.

``python benches/compare/delta.py [--rounds N] [--pictures DIRECTORY] [FILE.csv.gz ...]``: columns of the files, in
which whole numbers are int64 and others float64, then of synthetic series of other kinds. Peers that are not installed
are left out. One thread each; a time is the best of the rounds, which go through all codecs in turn; zstd 19 and blosc2
encode once. Every result is compared. Of Gorilla the size is counted, nothing is timed (``gorilla.py``); of blosc2
each column has the filters that suit it best.
"""

from __future__ import annotations

import argparse
import csv
import gzip
import json
import time
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from deltacodecs import Codec, Encode, codecs
from deltapictures import Point, draw

from ntmem import delta

Table = dict[str, np.ndarray]
TICKS = ("btcusdt-perp-quotes", "btcusdt-perp-trades")
PEERS = ("zstd 19", "pcodec 12")


class Figures(NamedTuple):
    size: int
    encode: float | None  # seconds
    decode: float | None

    def plus(self, other: Figures) -> Figures:
        """Return the sum of both."""
        times = (
            None if mine is None or theirs is None else mine + theirs
            for mine, theirs in ((self.encode, other.encode), (self.decode, other.decode))
        )
        return Figures(self.size + other.size, *times)


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
    encoders = {codec.name: shortest(codec.encoders, array) for codec in codec_list if codec.decode is not None}
    coded: dict[str, Any] = {}
    found: dict[str, Figures] = {}
    for number in range(rounds):
        for codec in codec_list:
            if codec.decode is None:
                found[codec.name] = found.get(codec.name) or Figures(codec.encoders[0](array), None, None)
                continue
            start = time.perf_counter()
            if number == 0 or not codec.is_slow:
                coded[codec.name] = encoders[codec.name](array)
            between = time.perf_counter()
            back = codec.decode(coded[codec.name], array)
            decode = time.perf_counter() - between
            if number == 0 and back.tobytes() != array.tobytes():
                raise SystemExit(f"{codec.name} gave other numbers")
            encode = between - start if number == 0 or not codec.is_slow else None
            before = found.get(codec.name)
            times = (encode, decode) if before is None else map(_least, before[1:], (encode, decode))
            found[codec.name] = Figures(len(coded[codec.name]), *times)
    return found


def measure_columns(table: Table, rounds: int) -> Figures:
    """Return the figures of columns that know each other."""
    found = []
    for _ in range(rounds):
        start = time.perf_counter()
        data = delta.encode_columns(table)
        between = time.perf_counter()
        back = delta.decode_columns(data)
        found.append((between - start, time.perf_counter() - between))
        if any(back[name].tobytes() != table[name].tobytes() for name in table):
            raise SystemExit("encode_columns gave other numbers")
    return Figures(len(data), *map(min, zip(*found, strict=True)))


def shortest(encoders: tuple[Encode, ...], array: np.ndarray) -> Encode:
    """Return the one that makes least of an array."""
    return encoders[0] if len(encoders) == 1 else min(encoders, key=lambda encode: len(encode(array)))


def _least(one: float | None, other: float | None) -> float | None:
    return min((time for time in (one, other) if time is not None), default=None)


def row(name: str, size: int, figures: dict[str, Figures]) -> str:
    cells = []
    for found in figures.values():
        ratio = size / found.size
        cells.append(f"{ratio:8.2f}" if ratio < 1000 else f"{ratio:8.0f}")
        if found.encode is not None and found.decode is not None:
            cells.append(f"{size / found.encode / 1e6:.0f}/{size / found.decode / 1e6:.0f}".rjust(11))
    return f"{name:28}" + "".join(cells)


def compare(title: str, table: Table, codec_list: list[Codec], rounds: int) -> dict[str, Point]:
    """Print the figures of each column of a table and of all together, and return the latter."""
    total: dict[str, Figures] = {}
    for name, array in table.items():
        figures = measure(codec_list, array, rounds)
        print(row(f"{title[:16]} {name}"[:27], array.nbytes, figures), flush=True)
        total = {codec: total[codec].plus(found) if total else found for codec, found in figures.items()}
    size = sum(array.nbytes for array in table.values())
    print(row(f"{title} in all", size, total))
    guessed = measure_columns(table, rounds)
    print(row("", size, {"": guessed}) + " as columns that know each other\n", flush=True)
    return {
        codec: Point(size / found.size, None if found.decode is None else size / found.decode / 1e6)
        for codec, found in [("columns", guessed), *total.items()]
    }


def of_ticks(tables: list[dict[str, Point]]) -> dict[str, float]:
    """Return the worst of several tables: bytes to the better of two peers', and the speed of decoding them."""
    to_peers = [max(found[peer].ratio for peer in PEERS if peer in found) / found["columns"].ratio for found in tables]
    speed = min(found["best"].decode or 0 for found in tables)
    return {"bytes to the best peer's": max(to_peers), "decode GB/s": speed / 1e3}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("files", nargs="*", type=Path, metavar="FILE.csv.gz")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--results", type=Path, metavar="FILE", help="for report.py --keep")
    parser.add_argument("--pictures", type=Path, metavar="DIRECTORY", help="draw them there, with matplotlib")
    arguments = parser.parse_args()
    tables = {path.name.removesuffix(".csv.gz"): read(path) for path in arguments.files} | synthetic()
    codec_list = list(codecs())
    print("ratio, then MB/s of encoding and decoding")
    print(f"{'':28}" + "".join(f"{one.name:>{8 if one.decode is None else 19}}" for one in codec_list))
    points = {title: compare(title, table, codec_list, arguments.rounds) for title, table in tables.items()}
    ticks = [found for title, found in points.items() if title in TICKS]
    if arguments.results is not None and ticks:
        arguments.results.write_text(json.dumps({"program": "compare/delta.py", "notes": of_ticks(ticks)}))
    if arguments.pictures is not None:
        try:
            print(*draw(points, arguments.pictures))
        except ImportError:
            print("matplotlib is not installed: no pictures")


if __name__ == "__main__":
    main()
