"""Kernels and the exact scan: against numpy's float32 and other exact searches, each set of kernels that runs here."""

import functools
import itertools
from time import perf_counter_ns

import numpy as np
import pytest
from figures import percentile

from ntmem._core.kernels import Kernels, available, quantize

DIMENSIONS = 384
COPIES = 6  # of 50,000 rows, more than the caches hold


def unit_vectors(count, seed=1):
    vectors = np.random.default_rng(seed).standard_normal((count, DIMENSIONS), dtype=np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def best_by_numpy(vectors, query):
    values = vectors @ query
    best = np.argpartition(-values, 10)[:10]
    return best[np.argsort(-values[best])]


@pytest.mark.parametrize("name", available())
@pytest.mark.parametrize("count", [1_000, 50_000, 200_000])
def test_scan_to_numpy(ratio_to, name, count):
    """1,000 rows are at hand in the caches, 200,000 come from memory; the ten best of each."""
    vectors, query = unit_vectors(count), unit_vectors(1, seed=2)
    rows, steps = quantize(vectors)
    bytes_of, step = quantize(query)
    kernels = Kernels(name)

    def ours():
        return kernels.scan(rows, steps, bytes_of[0], float(step[0]), 10)[0]

    assert len(set(ours().tolist()) & set(best_by_numpy(vectors, query[0]).tolist())) >= 8
    ratio_to(ours, lambda: best_by_numpy(vectors, query[0]), rounds=30, repeats=2, calls=count)


@pytest.mark.parametrize("kind", [np.float16, np.float32])
def test_scan_of_floats_to_numpy(ratio_to, kind):
    vectors, query = unit_vectors(50_000), unit_vectors(1, seed=2)[0]
    rows, kernels = vectors.astype(kind), Kernels()
    assert len({*kernels.scan(rows, None, query, 1.0, 10)[0].tolist()} & {*best_by_numpy(vectors, query).tolist()}) >= 8
    ratio_to(
        lambda: kernels.scan(rows, None, query, 1.0, 10),
        lambda: best_by_numpy(vectors, query),
        rounds=30,
        repeats=2,
        calls=len(rows),
    )


def peer_faiss(vectors, query):
    """Bytes of its own, decoded to float32 by the row; products; one thread."""
    faiss = pytest.importorskip("faiss")
    faiss.omp_set_num_threads(1)
    index = faiss.IndexScalarQuantizer(DIMENSIONS, faiss.ScalarQuantizer.QT_8bit, faiss.METRIC_INNER_PRODUCT)
    index.train(vectors)
    index.add(vectors)
    return lambda: index.search(query[None], 10)[1][0]


def peer_usearch(vectors, query):
    """The same bytes as ours, without steps, by cosine; one thread."""
    usearch = pytest.importorskip("usearch.index")
    rows, wanted = quantize(vectors)[0], quantize(query[None])[0]

    def search():
        found = usearch.search(rows, wanted, 10, usearch.MetricKind.Cos, exact=True, threads=1)
        return found.keys.ravel()

    return search


def peer_numpy(vectors, query):
    return lambda: best_by_numpy(vectors, query)


def peer_memory(vectors, query):
    """No search: the bytes are only added up, by words, which is as fast as numpy reads memory."""
    return quantize(vectors)[0].view(np.uint64).sum


def in_turn(searches, times):
    """Search the one and then the other, and note how long each took."""
    turn = itertools.cycle(searches)

    def run():
        search = next(turn)
        start = perf_counter_ns()
        search()
        times.append((perf_counter_ns() - start) / 1e6)

    return run


@pytest.mark.parametrize("peer", [peer_memory, peer_numpy, peer_faiss, peer_usearch])
@pytest.mark.parametrize("copies", [1, COPIES])
def test_search_of_50_000(ratio_to, benchmark, peer, copies):
    """The same rows again and again, or one copy of them after the other, so that they come from memory."""
    vectors, query = unit_vectors(50_000), unit_vectors(1, seed=2)[0]
    rows, steps = quantize(vectors)
    bytes_of, step = quantize(query[None])
    kernels, times = Kernels(), ([], [])

    def scan(copy):
        return kernels.scan(copy, steps, bytes_of[0], float(step[0]), 10)[0]

    ours = [functools.partial(scan, rows.copy()) for _ in range(copies)]
    theirs = [peer(vectors, query) for _ in range(copies)]
    if peer is not peer_memory:
        assert len({*ours[0]().tolist()} & {*theirs[0]().tolist()}) >= 8
    ratio_to(in_turn(ours, times[0]), in_turn(theirs, times[1]), rounds=60, repeats=2)
    for name, each in zip(("ours", "theirs"), times, strict=True):
        benchmark.extra_info[name + "_p50_p95_ms"] = [round(percentile(each, share), 3) for share in (0.5, 0.95)]
    print(f"\n{benchmark.name}: {benchmark.extra_info}")


@pytest.mark.parametrize("share", [0.9, 0.5, 0.1, 0.01, 0.001])
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


@pytest.mark.parametrize("name", available())
def test_dot_to_numpy(ratio_to, name):
    """One pair at hand, with the calls from Python; numpy's product of float32."""
    vectors = unit_vectors(2)
    (one, other), kernels = quantize(vectors)[0], Kernels(name)
    ratio_to(lambda: kernels.dot(one, other), lambda: vectors[0] @ vectors[1], rounds=50, repeats=1000)
