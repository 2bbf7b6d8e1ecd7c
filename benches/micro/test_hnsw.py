"""Graphs of neighbours: their search against the exact scan and other graphs, and how long they take to be built.

Peers have the same vectors, M = 16, 200 candidates while building and 100 while searching, one thread. Vectors are what
embeddings are like: of some 64 dimensions, with noise in all 384.
"""

import functools
import os
from time import perf_counter_ns

import numpy as np
import pytest
from figures import percentile

from ntmem._core.graph import Graph
from ntmem._core.hnsw import build
from ntmem._core.kernels import Kernels, quantize

DIMENSIONS = 384
THREADS = len(os.sched_getaffinity(0))
QUERIES = 200


@functools.cache
def vectors(count, seed=1):
    chance = np.random.default_rng(seed)
    inner = np.random.default_rng(0).standard_normal((64, DIMENSIONS)).astype(np.float32)
    made = chance.standard_normal((count, 64), dtype=np.float32) ** 3 @ inner
    made += 2 * chance.standard_normal((count, DIMENSIONS), dtype=np.float32)
    return made / np.linalg.norm(made, axis=1, keepdims=True)


@functools.cache
def graph(count):
    rows, steps = quantize(vectors(count))
    return Graph(build(rows, steps, threads=THREADS)), rows, steps


@functools.cache
def queries():
    asked = vectors(QUERIES, seed=2)
    numbers, steps = quantize(asked)
    return list(zip(asked, numbers, steps.tolist(), strict=True))


def by_graph(count, ef=100):
    made, rows, steps = graph(count)
    return lambda query: made.search(rows, steps, query[1], query[2], 10, ef=ef)[0]


def by_scan(count):
    _, rows, steps = graph(count)
    kernels = Kernels()
    return lambda query: kernels.scan(rows, steps, query[1], query[2], 10)[0]


def by_hnswlib(count):
    hnswlib = pytest.importorskip("hnswlib")
    index = hnswlib.Index("ip", DIMENSIONS)
    index.init_index(count, ef_construction=200, M=16)
    index.add_items(vectors(count), num_threads=THREADS)
    index.set_ef(100)
    index.set_num_threads(1)
    return lambda query: index.knn_query(query[0], 10)[0][0]


def by_faiss(count):
    """Bytes, and a graph of theirs."""
    faiss = pytest.importorskip("faiss")
    faiss.omp_set_num_threads(THREADS)
    index = faiss.IndexHNSWSQ(DIMENSIONS, faiss.ScalarQuantizer.QT_8bit, 16, faiss.METRIC_INNER_PRODUCT)
    index.hnsw.efConstruction, index.hnsw.efSearch = 200, 100
    index.train(vectors(count))
    index.add(vectors(count))
    faiss.omp_set_num_threads(1)
    return lambda query: index.search(query[0][None], 10)[1][0]


def by_usearch(count):
    """The same bytes as ours, without steps."""
    usearch = pytest.importorskip("usearch.index")
    index = usearch.Index(
        ndim=DIMENSIONS, metric="cos", dtype="i8", connectivity=16, expansion_add=200, expansion_search=100
    )
    index.add(np.arange(count), quantize(vectors(count))[0], threads=THREADS)
    return lambda query: index.search(query[1], 10, threads=1).keys


def recall(search, count):
    exact = by_scan(count)
    hits = [len({*map(int, search(query))} & {*exact(query).tolist()}) for query in queries()]
    return sum(hits) / (10 * QUERIES)


def in_turn(search, times):
    """One query after the other, and how long each took."""
    turn = iter([*queries()] * 1000)

    def run():
        query = next(turn)
        start = perf_counter_ns()
        search(query)
        times.append((perf_counter_ns() - start) / 1e3)

    return run


@pytest.mark.parametrize("peer", [by_scan, by_hnswlib, by_faiss, by_usearch])
def test_search_of_50_000(ratio_to, benchmark, peer):
    count = 50_000
    times = ([], [])
    ours, theirs = by_graph(count), peer(count)
    benchmark.extra_info["recalls"] = [round(recall(search, count), 4) for search in (ours, theirs)]
    benchmark.extra_info["bytes_a_vector"] = round(DIMENSIONS + 4 + graph(count)[0].nbytes / count, 1)
    assert benchmark.extra_info["recalls"][0] > 0.9
    ratio_to(in_turn(ours, times[0]), in_turn(theirs, times[1]), rounds=200, repeats=5)
    for name, each in zip(("ours", "theirs"), times, strict=True):
        benchmark.extra_info[name + "_p50_p95_us"] = [round(percentile(each, share), 1) for share in (0.5, 0.95)]
    print(f"\n{benchmark.name}: {benchmark.extra_info}")


@pytest.mark.parametrize("count", [1_000, 2_000, 5_000, 10_000, 20_000])
def test_search_to_scan(ratio_to, count):
    """From how many rows on the graph is sooner done than looking at all of them."""
    assert recall(by_graph(count), count) > 0.9
    ratio_to(in_turn(by_graph(count), []), in_turn(by_scan(count), []), rounds=100, repeats=5)


@pytest.mark.parametrize("share", [0.5, 0.1, 0.02])
def test_search_of_some_to_scan(ratio_to, share):
    """A bitmap of the rows that a filter leaves: walking through the others, to looking at each that is left."""
    made, rows, steps = graph(50_000)
    allowed = np.packbits(np.random.default_rng(3).random(50_048) < share, bitorder="little").view(np.uint64)[:782]
    kernels = Kernels()
    ratio_to(
        in_turn(lambda query: made.search(rows, steps, query[1], query[2], 10, allowed=allowed), []),
        in_turn(lambda query: kernels.scan(rows, steps, query[1], query[2], 10, allowed=allowed), []),
        rounds=50,
        repeats=4,
    )


@pytest.mark.parametrize("kind", [np.int8, np.float32])
@pytest.mark.parametrize("threads", sorted({1, THREADS}))
def test_build_to_hnswlib(ratio_to, kind, threads):
    """10,000 rows; hnswlib has float32, and kernels of its own."""
    hnswlib = pytest.importorskip("hnswlib")
    count = 10_000
    rows, steps = quantize(vectors(count)) if kind == np.int8 else (vectors(count), None)

    def theirs():
        index = hnswlib.Index("ip", DIMENSIONS)
        index.init_index(count, ef_construction=200, M=16)
        index.add_items(vectors(count), num_threads=threads)

    ratio_to(lambda: build(rows, steps, threads=threads), theirs, rounds=3, repeats=1, calls=count)


def test_check(benchmark):
    """What opening a graph costs: a look at every link."""
    rows, steps = quantize(vectors(50_000)[:5000])
    data = build(rows, steps, threads=THREADS)
    benchmark.pedantic(Graph, args=(data,), rounds=50)
