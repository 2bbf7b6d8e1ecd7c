"""Search of ``memory.vectors`` beside numpy, faiss, usearch and hnswlib, query by query; adding; more searchers.

``python benches/compare/vectors.py [--data FILE.npz] [--quick] [--only exact,filtered,add,together]``: tables, as
Markdown. Peers that are not installed are left out. One thread each, and one query at a time, from Python. The file has
int8 vectors ``x8`` with a ``scale`` each, and queries ``q``; without one, vectors are random, in clusters. Graphs are
built by two threads and kept in ``--kept``.

In turns, each finds its vectors where the others left the caches: in memory. ``--block`` queries in a row show what
they cost as they are asked for again and again.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import random
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from vectordata import DIMENSION, Array, Data, best, load, scores
from vectorpeers import Engine, Filtered, exact, filters, never_seen, ours, reranked, use_one_thread
from vectorprocesses import together

import ntmem

K = 10
PARTS = ("exact", "filtered", "add", "together")


def in_turns(engines: list[Engine], queries: Array, rounds: int, block: int) -> dict[str, tuple[list[int], list[Any]]]:
    """Return ns of each search and what the first ones found, by name."""
    taken: dict[str, tuple[list[int], list[Any]]] = {engine.name: ([], []) for engine in engines}
    order = random.Random(384)
    for engine in engines:
        engine.search(queries[0])
    gc.collect()
    gc.disable()
    for first in range(0, rounds, block):
        for engine in order.sample(engines, len(engines)):
            times, answers = taken[engine.name]
            for number in range(first, min(first + block, rounds)):
                query = queries[number % len(queries)]
                began = time.perf_counter_ns()
                answer = engine.search(query)
                times.append(time.perf_counter_ns() - began)
                if number < len(queries):
                    answers.append(set(engine.numbers(answer)))
    gc.enable()
    return taken


def percentiles(times: Iterable[int], *shares: float) -> str:
    return " | ".join(f"{value / 1e3:,.0f}" for value in np.percentile(np.fromiter(times, float), shares))


def compare(
    title: str, engines: list[Engine], queries: Array, right: list[set[int]], rounds: int, block: int
) -> dict[str, tuple[list[int], list[Any]]]:
    """Print percentiles and recall of each engine, and return what :func:`in_turns` does."""
    before = os.getloadavg()[0]
    taken = in_turns(engines, queries, rounds, block)
    print(f"\n{title}; {rounds} queries each, load {before:.1f} to {os.getloadavg()[0]:.1f}\n")
    print(f"| | p50 us | p95 us | recall@{K} |\n|---|---|---|---|")
    for name, (times, answers) in taken.items():
        shares = [len(found & wanted) / K for found, wanted in zip(answers, right, strict=False)]
        print(f"| {name} | {percentiles(times, 50, 95)} | {np.mean(shares):.4f} |", flush=True)
    return taken


def filled(path: Path, data: Data, types: tuple[str, ...]) -> Any:
    """Return a store with the vectors, as collections of some types."""
    store = ntmem.open(path, max_memory_bytes=4 << 30, graph_share=0)
    numbers = [str(number) for number in range(len(data.vectors))]
    for dtype in types:
        store.vectors.create(dtype, DIMENSION, dtype=dtype)
        store.vectors.add_many(dtype, numbers, data.vectors, data.metadata())
    return store


def run_exact(data: Data, directory: Path, rounds: int, block: int) -> None:
    count = len(data.vectors)
    with filled(directory / "exact", data, ("int8", "float32")) as store:
        vectors = store.vectors
        engines = [*ours(vectors, "int8", K), reranked(vectors, "int8", K, 3 * K), *ours(vectors, "float32", K)]
        engines += exact(data, K)
        right = best(scores(data), K)
        compare(f"{count:,} x {DIMENSION}, k={K}, exact, in turns", engines, data.queries, right, rounds, 1)
        compare(f"the same, {block} in a row each", engines, data.queries, right, rounds, block)
        for space in ("int8", "float32"):
            taken = vectors.info(space).memory_bytes
            print(f"\n{space}: {taken / count:.0f} bytes of memory a vector, with two fields of metadata")


def run_filtered(data: Data, directory: Path, rounds: int, block: int, kept: Path, stem: str) -> dict[str, float]:
    """Print how filters do, and return the p95 in turns of the one that lets 1 % pass, in us."""
    found = {}
    peers = Filtered(data, kept, f"{stem}-{len(data.vectors)}")
    products = scores(data)
    with filled(directory / "filtered", data, ("int8",)) as store:
        for one in filters(data):
            mine = [*ours(store.vectors, "int8", K, one.where), *never_seen(store.vectors, "int8", K, one)]
            engines = [*mine, *peers.engines(one, K)]
            title = f"{len(data.vectors):,} x {DIMENSION}, k={K}, of which {one.name} pass"
            right = best(products, K, one.flags())
            taken = compare(f"{title}, in turns", engines, data.queries, right, rounds, 1)
            if one.name == "1 %":
                found["1 % p95 us"] = float(np.percentile(taken[mine[0].name][0], 95)) / 1e3
            compare(f"ntmem alone, {one.name}", mine, data.queries, right, 4 * rounds, block)
    return found


def run_add(data: Data, directory: Path) -> None:
    metadata, count = data.metadata(), len(data.vectors)
    path = directory / "added"
    numbers = [str(number) for number in range(count)]
    with ntmem.open(path, max_memory_bytes=4 << 30, graph_share=0) as store:
        add, now, times = store.vectors.add, time.perf_counter_ns, []
        for number in range(min(count, 20_000)):
            began = now()
            add("one", numbers[number], data.vectors[number], metadata[number])
            times.append(now() - began)
        began = now()
        store.vectors.add_many("many", numbers, data.vectors, metadata)
        took = (now() - began) / 1e9
    rebuilt = rebuild(path, "many", data.queries)
    print(f"\n{DIMENSION} dimensions, two fields of metadata, int8, a store on a path, load {os.getloadavg()[0]:.1f}\n")
    print("| add, one by one, p50 us | p95 us | p99 us | add_many, rows a second | read again, ms for 1,000 rows |")
    print("|---|---|---|---|---|")
    print(f"| {percentiles(times, 50, 95, 99)} | {count / took:,.0f} | {rebuilt * 1e6 / count:.2f} |")


def rebuild(path: Path, space: str, queries: Array) -> float:
    """Return the seconds that the first search takes, beyond what the second does."""
    with ntmem.open(path, max_memory_bytes=4 << 30, graph_share=0) as store:
        vectors = store.vectors
        began = time.perf_counter()
        vectors.search(space, queries[0])
        between = time.perf_counter()
        vectors.search(space, queries[0])
        return 2 * between - began - time.perf_counter()


def run_together(data: Data, directory: Path, rounds: int) -> None:
    path = directory / "together"
    with filled(path, data, ("int8",)) as store:
        together(path, store.vectors, "int8", data.queries, rounds)


def main() -> None:
    use_one_thread()
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, metavar="FILE.npz")
    parser.add_argument("--quick", action="store_true", help="filter 20,000 vectors instead of 200,000")
    parser.add_argument("--only", default=",".join(PARTS), help=f"some of {','.join(PARTS)}")
    parser.add_argument("--rounds", type=int, default=400, help="queries of each engine")
    parser.add_argument("--block", type=int, default=50, help="queries in a row")
    parser.add_argument("--results", type=Path, metavar="FILE", help="for report.py --keep")
    parser.add_argument("--kept", type=Path, default=Path(tempfile.gettempdir()) / "ntmem-graphs")
    arguments = parser.parse_args()
    parts = arguments.only.split(",")
    large = 20_000 if arguments.quick else 200_000
    data = load(arguments.data, large if "filtered" in parts else 50_000)
    small = data.first(50_000)
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        if "exact" in parts:
            run_exact(small, directory, arguments.rounds, arguments.block)
        if "filtered" in parts:
            stem = "random" if arguments.data is None else arguments.data.stem
            notes = run_filtered(data, directory, arguments.rounds // 2, arguments.block, arguments.kept, stem)
            if arguments.results is not None:
                arguments.results.write_text(json.dumps({"program": "compare/vectors.py", "notes": notes}))
        if "add" in parts:
            run_add(small, directory)
        if "together" in parts:
            run_together(small, directory, max(3, arguments.rounds // 40))


if __name__ == "__main__":
    main()
