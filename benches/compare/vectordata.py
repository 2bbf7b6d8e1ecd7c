"""Vectors, metadata and right answers for ``vectors.py``."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

DIMENSION = 384
Array = np.ndarray[Any, Any]


class Data(NamedTuple):
    vectors: Array  # float32, of length 1
    queries: Array
    ranks: Array  # 0 to 999, of which filters ask
    symbols: list[str]  # 100 of them

    def first(self, count: int) -> Data:
        """Return only so many of the vectors."""
        return Data(self.vectors[:count], self.queries, self.ranks[:count], self.symbols[:count])

    def metadata(self) -> list[dict[str, Any]]:
        """Return the two fields of each vector."""
        return [{"rank": int(rank), "symbol": symbol} for rank, symbol in zip(self.ranks, self.symbols, strict=True)]


def unit(rows: Array) -> Array:
    """Return rows of length 1, as float32."""
    return np.ascontiguousarray(rows / np.linalg.norm(rows, axis=1, keepdims=True), np.float32)


def load(path: Path | None, count: int) -> Data:
    """Return so many vectors, made from those of a file, or random ones; queries are of none of them."""
    generator = np.random.default_rng(384)
    if path is None:
        centres = unit(generator.normal(size=(256, DIMENSION)))
        places = centres[generator.integers(0, len(centres), count + 200)]
        rows = unit(places + generator.normal(0, 0.7 / DIMENSION**0.5, (count + 200, DIMENSION)))
        vectors, queries = rows[:count], rows[count:]
    else:
        with np.load(path) as file:
            given = unit(file["x8"] * file["scale"].reshape(-1, 1))
            queries = unit(file["q"].astype(np.float32))
        vectors = more_of(given, count, generator)
    symbols = [f"S{number:02}USDT" for number in generator.integers(0, 100, count)]
    return Data(vectors, queries, generator.integers(0, 1000, count), symbols)


def more_of(given: Array, count: int, generator: np.random.Generator) -> Array:
    """Return vectors between pairs of those given, nearer to one, with noise: no two are the same."""
    made = np.empty((count, DIMENSION), np.float32)
    for first in range(0, count, 10_000):
        size = min(10_000, count - first)
        one, other = generator.integers(0, len(given), (2, size))
        share = generator.uniform(0, 0.5, (size, 1))
        noise = generator.normal(0, 0.1 / DIMENSION**0.5, (size, DIMENSION))
        made[first : first + size] = unit(given[one] * (1 - share) + given[other] * share + noise)
    return made


def scores(data: Data) -> Array:
    """Return the products of all queries and vectors, in float64."""
    queries = data.queries.astype(np.float64)
    parts = [queries @ part.astype(np.float64).T for part in np.array_split(data.vectors, 20)]
    return np.concatenate(parts, axis=1)


def best(products: Array, k: int, allowed: Array | None = None) -> list[set[int]]:
    """Return the numbers of the `k` best vectors of each query, of those that are allowed."""
    shown = products if allowed is None else np.where(allowed, products, -np.inf)
    found = np.argpartition(-shown, k, axis=1)[:, :k]
    return [set(row.tolist()) for row in found]
