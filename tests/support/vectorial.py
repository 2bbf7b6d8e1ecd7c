"""Rows for graphs and searches: of each type, as a collection keeps them."""

import numpy as np

from ntmem._core.kernels import quantize

KINDS = ("int8", "float16", "float32")
METRICS = ("cosine", "l2", "ip")


def uniform(count, dimension, seed):
    return np.random.default_rng(seed).standard_normal((count, dimension)).astype(np.float32)


def clustered(count, dimension, seed):
    """Some thirty heaps of different sizes, of which the centres are the same for every seed."""
    centres = np.random.default_rng(0).standard_normal((30, dimension))
    chance = np.random.default_rng(seed)
    heaps = np.minimum(chance.geometric(0.1, count), 30) - 1
    return (centres[heaps] + 0.2 * chance.standard_normal((count, dimension))).astype(np.float32)


def equal(count, dimension, seed):
    """Few different ones, many times each."""
    some = uniform(max(count // 50, 1), dimension, 7)
    return some[np.random.default_rng(seed).integers(0, len(some), count)]


def rows_of(vectors, kind, metric):
    """Return rows, steps and squares."""
    if metric == "cosine":
        vectors = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    rows, steps = quantize(vectors) if kind == "int8" else (vectors.astype(kind), np.ones(len(vectors), np.float32))
    wide = rows.astype(np.float64) * steps[:, None]
    squares = (wide**2).sum(axis=1)
    if metric == "cosine":
        steps = (steps / np.sqrt(squares)).astype(np.float32)
    return rows, steps, squares.astype(np.float32) if metric == "l2" else None


def query_of(vector, kind):
    """Return a query for rows of this type, and its step."""
    if kind != "int8":
        return vector, 1.0
    numbers, steps = quantize(vector[None])
    return numbers[0], float(steps[0])


def bits_of(mask):
    """A bitmap of which the rest of the last word is set, as nobody is to look at it."""
    full = np.ones(-(-len(mask) // 64) * 64, bool)
    full[: len(mask)] = mask
    return np.packbits(full, bitorder="little").view(np.uint64)
