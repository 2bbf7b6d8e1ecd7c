"""``nearest`` against numpy doing the same: squared distances, partition, sort of the k."""

import numpy as np
import pytest

from ntmem._core.distance import nearest


def nearest_by_numpy(vectors, query, k):
    difference = vectors - query
    distances = np.einsum("ij,ij->i", difference, difference)
    rows = np.argpartition(distances, k - 1)[:k]
    rows = rows[np.argsort(distances[rows])]
    return list(zip(rows.tolist(), distances[rows].tolist(), strict=True))


@pytest.mark.parametrize(("n", "dimension"), [(200, 16), (2_000, 128), (20_000, 384)])
def test_nearest_to_numpy(ratio_to, n, dimension):
    generator = np.random.default_rng(1)
    vectors = generator.standard_normal((n, dimension), dtype=np.float32)
    query = generator.standard_normal(dimension, dtype=np.float32)
    found = ratio_to(lambda: nearest(vectors, query, 10), lambda: nearest_by_numpy(vectors, query, 10))
    assert [row for row, _ in found] == [row for row, _ in nearest_by_numpy(vectors, query, 10)]
