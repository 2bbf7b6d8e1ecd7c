"""What ``vectors.py`` and ``million.py`` compare with ntmem: a name, a search for one query, numbers in its answer."""

from __future__ import annotations

import itertools
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from vectordata import DIMENSION, Array, Data

EF = 100
THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


class Engine(NamedTuple):
    name: str
    search: Callable[[Array], Any]
    numbers: Callable[[Any], Iterable[int]]


class Filter(NamedTuple):
    name: str
    where: dict[str, Any]
    flags: Callable[[], Array]  # computes which vectors pass
    passes: Callable[[int], bool]  # whether one does
    limit: int | None = None  # of the number


def filters(data: Data) -> list[Filter]:
    """Return filters by a number, and one by a text."""
    ranks, plain, symbols = data.ranks, data.ranks.tolist(), np.array(data.symbols)
    wanted = data.symbols[0]

    def ranked(limit: int) -> Filter:
        where = {"rank": {"$lt": limit}}
        return Filter(f"{limit / 10:g} %", where, lambda: ranks < limit, lambda number: plain[number] < limit, limit)

    by_text = Filter(
        "1 %, text", {"symbol": wanted}, lambda: symbols == wanted, lambda number: data.symbols[number] == wanted
    )
    return [*map(ranked, (500, 100, 10, 1)), by_text]


def ours(vectors: Any, space: str, k: int, where: dict[str, Any] | None = None) -> list[Engine]:
    """Return the ways to search a collection."""

    def of_hits(hits: Any) -> list[int]:
        return [int(hit.id) for hit in hits]

    def of_arrays(answer: Any) -> list[int]:
        return [int(each) for each in answer[0][0] if each is not None]

    return [
        Engine(f"ntmem {space}, search", lambda query: vectors.search(space, query, k, where=where), of_hits),
        Engine(
            f"ntmem {space}, search_arrays",
            lambda query: vectors.search_arrays(space, query[np.newaxis], k, where=where),
            of_arrays,
        ),
    ]


def never_seen(vectors: Any, space: str, k: int, one: Filter) -> list[Engine]:
    """Return a search with a filter that passes the same, and is another each time; none of texts."""
    if one.limit is None:
        return []
    search, _ = ours(vectors, space, k)
    limits = (one.limit - number * 1e-6 for number in itertools.count(1))
    return [
        Engine(
            f"ntmem {space}, a filter never seen",
            lambda query: vectors.search(space, query, k, where={"rank": {"$lt": next(limits)}}),
            search.numbers,
        )
    ]


def reranked(vectors: Any, space: str, k: int, count: int) -> Engine:
    """Return a search whose best are scored again by what is in the store."""
    search, _ = ours(vectors, space, k)
    return Engine(
        f"ntmem {space}, rerank={count}",
        lambda query: vectors.search(space, query, k, rerank=count),
        search.numbers,
    )


def with_numpy(data: Data, k: int, flags: Callable[[], Array] | None = None) -> Engine:
    """Return float32 products, and a part of a sort."""

    def search(query: Array) -> Array:
        if flags is None:
            which, products = None, query @ data.vectors.T
        else:
            which = np.flatnonzero(flags())
            products = data.vectors[which] @ query
        near = np.argpartition(products, -k)[-k:]
        near = near[np.argsort(-products[near])]
        return near if which is None else which[near]

    return Engine("numpy float32", search, np.ndarray.tolist)


def exact(data: Data, k: int) -> Iterator[Engine]:
    """Make what is installed and searches all vectors."""
    yield with_numpy(data, k)
    try:
        import faiss

        flat = flat_index(faiss, data)
        yield Engine("faiss SQ 8 bit, flat", lambda query: flat.search(query[np.newaxis], k), of_faiss)
    except ImportError:
        print("faiss is not installed")
    try:
        from usearch.index import MetricKind, search
    except ImportError:
        print("usearch is not installed")
        return
    small = np.round(data.vectors * (127 / np.abs(data.vectors).max(axis=1, keepdims=True))).astype(np.int8)

    def quantized(query: Array) -> Any:
        query = np.round(query * (127 / np.abs(query).max())).astype(np.int8)
        return search(small, query, k, MetricKind.Cos, exact=True, threads=1)

    def plain(query: Array) -> Any:
        return search(data.vectors, query, k, MetricKind.IP, exact=True, threads=1)

    yield Engine("usearch int8, exact", quantized, of_usearch)
    yield Engine("usearch float32, exact", plain, of_usearch)


def of_faiss(answer: Any) -> list[int]:
    return [each for each in answer[1][0].tolist() if each >= 0]


def of_usearch(answer: Any) -> list[int]:
    found: list[int] = answer.keys.tolist()
    return found


def use_one_thread() -> None:
    """Begin anew with one thread in each library: they look at their first import."""
    if any(os.environ.get(name) != "1" for name in THREADS):
        os.environ.update(dict.fromkeys(THREADS, "1"))
        os.execv(sys.executable, [sys.executable, *sys.argv])


def built(name: str, path: Path, build: Callable[[], Any]) -> None:
    """Build what is not kept, and say how long that took."""
    if not path.exists():
        began = time.perf_counter()
        build()
        print(f"{name}: built in {time.perf_counter() - began:.0f} s", flush=True)


def hnswlib_graph(hnswlib: Any, data: Data, path: Path) -> Any:
    """Return a graph by hnswlib, built by two threads and kept."""
    count = len(data.vectors)

    def build() -> None:
        made = hnswlib.Index("ip", DIMENSION)
        made.init_index(count, M=16, ef_construction=200, random_seed=100)
        made.add_items(data.vectors, num_threads=2)
        made.save_index(str(path))

    built("hnswlib", path, build)
    graph = hnswlib.Index("ip", DIMENSION)
    graph.load_index(str(path), max_elements=count)
    return graph


def faiss_graph(faiss: Any, data: Data, path: Path) -> Any:
    """Return a graph of int8 by faiss, built by two threads and kept."""

    def build() -> None:
        made = faiss.IndexHNSWSQ(DIMENSION, faiss.ScalarQuantizer.QT_8bit, 16, faiss.METRIC_INNER_PRODUCT)
        made.hnsw.efConstruction = 200
        faiss.omp_set_num_threads(2)
        made.train(data.vectors[:200_000])
        made.add(data.vectors)
        faiss.write_index(made, str(path))

    built("faiss", path, build)
    faiss.omp_set_num_threads(1)
    return faiss.read_index(str(path))


def flat_index(faiss: Any, data: Data) -> Any:
    """Return a flat index of eight bits a number."""
    flat = faiss.IndexScalarQuantizer(DIMENSION, faiss.ScalarQuantizer.QT_8bit, faiss.METRIC_INNER_PRODUCT)
    flat.train(data.vectors)
    flat.add(data.vectors)
    return flat


class Filtered:
    """Peers that filter. Graphs are kept in a directory, as they take minutes to build."""

    def __init__(self, data: Data, kept: Path, stem: str) -> None:
        self.data = data
        kept.mkdir(parents=True, exist_ok=True)
        self._faiss: Any = None
        self._flat: Any = None
        self._graph: Any = None
        self._hnsw: Any = None
        try:
            import faiss

            self._faiss, self._flat = faiss, flat_index(faiss, data)
            self._graph = faiss_graph(faiss, data, kept / f"{stem}.faiss")
        except ImportError:
            print("faiss is not installed")
        try:
            import hnswlib

            self._hnsw = hnswlib_graph(hnswlib, data, kept / f"{stem}.hnswlib")
            self._hnsw.set_ef(EF)
        except ImportError:
            print("hnswlib is not installed")

    def engines(self, one: Filter, k: int) -> Iterator[Engine]:
        """Make the engines for a filter; all compute it for each query, one has it at hand."""
        yield with_numpy(self.data, k, one.flags)
        if self._faiss is not None:
            flat, graph, faiss = self._flat, self._graph, self._faiss
            ready = np.packbits(one.flags(), bitorder="little")

            def on(index: Any, query: Array, bits: Array | None) -> Any:
                bits = np.packbits(one.flags(), bitorder="little") if bits is None else bits
                chosen = faiss.IDSelectorBitmap(bits)
                if index is flat:
                    return index.search(query[np.newaxis], k, params=faiss.SearchParameters(sel=chosen))
                return index.search(query[np.newaxis], k, params=faiss.SearchParametersHNSW(sel=chosen, efSearch=EF))

            yield Engine("faiss SQ flat, bitmap", lambda query: on(flat, query, None), of_faiss)
            yield Engine("the same, bitmap at hand", lambda query: on(flat, query, ready), of_faiss)
            yield Engine("faiss HNSW SQ, bitmap", lambda query: on(graph, query, None), of_faiss)
        if self._hnsw is not None:
            yield Engine("hnswlib, function", lambda query: self._function(query, one, k), list)

    def _function(self, query: Array, one: Filter, k: int) -> list[int]:
        try:
            numbers, _ = self._hnsw.knn_query(query, k, num_threads=1, filter=one.passes)
        except RuntimeError:  # it found fewer
            return []
        return [int(number) for number in numbers[0]]
