"""Kernels and the exact scan: int8 against numpy's float32, each set of kernels that runs here."""

import numpy as np
import pytest

from ntmem._core.kernels import Kernels, available, quantize

DIMENSIONS = 384


def unit_vectors(count, seed=1):
    vectors = np.random.default_rng(seed).standard_normal((count, DIMENSIONS), dtype=np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


@pytest.mark.parametrize("name", available())
@pytest.mark.parametrize("count", [1_000, 50_000, 200_000])
def test_scan_to_numpy(ratio_to, name, count):
    """1,000 rows are at hand in the caches, the others come from memory; the ten best of each."""
    vectors, query = unit_vectors(count), unit_vectors(1, seed=2)
    rows, steps = quantize(vectors)
    bytes_of, step = quantize(query)
    kernels = Kernels(name)

    def ours():
        return kernels.scan(rows, steps, bytes_of[0], float(step[0]), 10)[0]

    def theirs():
        values = vectors @ query[0]
        best = np.argpartition(-values, 10)[:10]
        return best[np.argsort(-values[best])]

    assert len(set(ours().tolist()) & set(theirs().tolist())) >= 8
    ratio_to(ours, theirs, rounds=30, repeats=2, calls=count)


@pytest.mark.parametrize("share", [0.5, 0.1, 0.01, 0.001])
def test_scan_of_some_to_all(ratio_to, share):
    """A bitmap of the rows that a filter leaves, to no bitmap; 200,000 rows."""
    rows, steps = quantize(unit_vectors(200_000))
    bytes_of, step = quantize(unit_vectors(1, seed=2))
    allowed = np.packbits(np.random.default_rng(3).random(200_000) < share, bitorder="little").view(np.uint64)
    kernels = Kernels()
    ratio_to(
        lambda: kernels.scan(rows, steps, bytes_of[0], float(step[0]), 10, allowed=allowed),
        lambda: kernels.scan(rows, steps, bytes_of[0], float(step[0]), 10),
        rounds=20,
        repeats=2,
    )
