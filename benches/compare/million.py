"""Graphs of ``memory.vectors`` beside hnswlib, faiss and usearch, up to a million vectors; beside writers; memory.

``python benches/compare/million.py [--data FILE.npz] [--count N] [--only search,ingest,memory,build] [--plot FILE]``:
tables, as Markdown. Peers that are not installed are left out. Queries one at a time, from Python, by one thread, in
turns. The store and the peers' graphs are built by two threads, and kept in ``--kept`` for the next time.

``search`` sweeps `ef`: who is sooner at equal recall. ``ingest`` searches beside a process that adds vectors one by
one. ``memory`` opens the store anew and says what that process takes, and what a second one takes more. ``build``
makes a graph of 50,000 anew, beside hnswlib, in turns.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from vectordata import DIMENSION, Array, Data, load
from vectorpeers import built, faiss_graph, hnswlib_graph, of_faiss, of_usearch, use_one_thread

import ntmem

K = 10
EFS = (32, 64, 100, 160, 250, 400, 600, 1000)
PEER = "hnswlib float32"
PARTS = ("search", "ingest", "memory", "build")
MEMORY = 4 << 30
START = 1_700_000_000 * 10**9  # of observations


class Swept(NamedTuple):
    """An engine that is searched with any `ef`."""

    name: str
    search: Callable[[Array, int], Any]
    numbers: Callable[[Any], Any]


class Point(NamedTuple):
    """What an engine comes to with an `ef`."""

    ef: int
    recall: float
    p50: float
    p95: float


def nearest(data: Data, path: Path) -> list[set[int]]:
    """Return the numbers of the K nearest of each query by float64, kept in a file."""
    if not path.exists():
        queries, best = data.queries.astype(np.float64), []
        for first in range(0, len(data.vectors), 50_000):
            products = queries @ data.vectors[first : first + 50_000].astype(np.float64).T
            found = np.argpartition(-products, K, axis=1)[:, :K]
            best.append((np.take_along_axis(products, found, 1), found + first))
        values, numbers = (np.concatenate(each, axis=1) for each in zip(*best, strict=True))
        np.save(path, np.take_along_axis(numbers, np.argsort(-values, axis=1)[:, :K], 1))
    return [set(row) for row in np.load(path).tolist()]


# -- who is searched


def store(data: Data, path: Path) -> Path:
    """Return a store with the vectors and one graph of them."""
    if not path.exists():
        began = time.perf_counter()
        with ntmem.open(path, max_memory_bytes=MEMORY, graph_share=0) as one:
            one.vectors.create("all", DIMENSION)
            metadata = data.metadata()
            for first in range(0, len(data.vectors), 100_000):
                rows = slice(first, first + 100_000)
                names = [str(number) for number in range(len(data.vectors))[rows]]
                one.vectors.add_many("all", names, data.vectors[rows], metadata[rows])
            added = time.perf_counter()
            one.vectors.compact("all")
            done = time.perf_counter()
            one.observations.extend("market", "BTCUSDT", history(len(data.vectors)), known_after=0)
            one.observations.distill()
        print(f"ntmem: added in {added - began:.0f} s, one graph in {done - added:.0f} s", flush=True)
    return path


def history(count: int) -> dict[str, Array]:
    """Return as many observations, one a second, of eight fields: prices in ticks, sizes in thousandths."""
    chance = np.random.default_rng(1)
    bid = np.round(60_000 + np.cumsum(chance.choice([-0.1, 0, 0, 0.1], count)), 1)
    sizes = np.round(chance.lognormal(0, 1, (4, count)), 3)
    columns = {"ts_event": np.arange(count) * 10**9 + START, "bid": bid, "ask": np.round(bid + 0.1, 1)}
    columns |= {f"size_{number}": each for number, each in enumerate(sizes)}
    return columns | {"trades": chance.poisson(5, count), "number": np.arange(count)}


def ours(vectors: Any) -> Swept:
    return Swept(
        "ntmem int8",
        lambda query, ef: vectors.search("all", query, K, ef=ef),
        lambda hits: [int(hit.id) for hit in hits],
    )


def with_hnswlib(data: Data, path: Path) -> Swept | None:
    try:
        import hnswlib
    except ImportError:
        return None
    graph = hnswlib_graph(hnswlib, data, path)

    def search(query: Array, ef: int) -> Any:
        graph.set_ef(ef)
        return graph.knn_query(query, K, num_threads=1)

    return Swept(PEER, search, lambda answer: answer[0][0].tolist())


def with_faiss(data: Data, path: Path) -> Swept | None:
    try:
        import faiss
    except ImportError:
        return None

    graph = faiss_graph(faiss, data, path)

    def search(query: Array, ef: int) -> Any:
        return graph.search(query[np.newaxis], K, params=faiss.SearchParametersHNSW(efSearch=ef))

    return Swept("faiss HNSW SQ 8 bit", search, of_faiss)


def with_usearch(data: Data, path: Path) -> Swept | None:
    try:
        from usearch.index import Index, MetricKind, ScalarKind
    except ImportError:
        return None
    how = {"ndim": DIMENSION, "metric": MetricKind.Cos, "dtype": ScalarKind.I8}

    def small(rows: Array) -> Array:
        return np.round(rows * (127 / np.abs(rows).max(axis=-1, keepdims=True))).astype(np.int8)

    def build() -> None:
        made = Index(**how, connectivity=16, expansion_add=200)
        for first in range(0, len(data.vectors), 50_000):
            rows = data.vectors[first : first + 50_000]
            made.add(np.arange(first, first + len(rows)), small(rows), threads=2)
        made.save(str(path))

    built("usearch", path, build)
    graph = Index(**how)
    graph.load(str(path))

    def search(query: Array, ef: int) -> Any:
        if graph.expansion_search != ef:
            graph.expansion_search = ef
        return graph.search(small(query), K, threads=1)

    return Swept("usearch int8", search, of_usearch)


# -- searching


def sweep(engines: list[Swept], queries: Array, right: list[set[int]], rounds: int) -> dict[str, list[Point]]:
    """Return what each engine comes to with each `ef`: so many queries of each, ten in a row of one engine."""
    found: dict[str, list[Point]] = {engine.name: [] for engine in engines}
    order = random.Random(384)
    for ef in EFS:
        times: dict[str, list[int]] = {engine.name: [] for engine in engines}
        hits = dict.fromkeys(times, 0)
        for first in range(0, rounds, 10):
            for engine in order.sample(engines, len(engines)):
                for number in np.arange(first, first + 10) % len(queries):
                    began = time.perf_counter_ns()
                    answer = engine.search(queries[number], ef)
                    times[engine.name].append(time.perf_counter_ns() - began)
                    hits[engine.name] += len(right[number] & set(engine.numbers(answer)))
        for name, each in times.items():
            p50, p95 = np.percentile(each, (50, 95)) / 1e3
            found[name].append(Point(ef, hits[name] / K / rounds, float(p50), float(p95)))
    return found


def at_recall(points: list[Point], recall: float) -> tuple[float, float] | None:
    """Return p50 and p95 at a recall, between the two points it lies between; None: it lies beyond all."""
    found = [point.recall for point in points]
    if not found[0] <= recall <= max(found):
        return None
    rising = np.maximum.accumulate(found)
    return tuple(float(np.interp(recall, rising, [point[place] for point in points])) for place in (2, 3))


def run_search(data: Data, kept: Path, stem: str, rounds: int, plot: Path | None) -> dict[str, float]:
    right = nearest(data, kept / f"{stem}-right.npy")
    path = store(data, kept / f"{stem}.store")
    peers = [with_hnswlib, with_faiss, with_usearch]
    names = ["hnswlib", "faiss", "usearch"]
    found = [peer(data, kept / f"{stem}.{name}") for peer, name in zip(peers, names, strict=True)]
    with ntmem.open(path, max_memory_bytes=MEMORY) as one:
        engines = [ours(one.vectors), *(engine for engine in found if engine is not None)]
        for engine in engines:  # each finds its pages
            for query in data.queries:
                engine.search(query, 200)
        time.sleep(5)  # what is done in the background after opening is done
        before = os.getloadavg()[0]
        points = sweep(engines, data.queries, right, rounds)
        taken = one.vectors.nbytes + sum(file.stat().st_size for file in (path / "vectors").glob("*.graph"))
    print(
        f"\n{len(data.vectors):,} x {DIMENSION}, k={K}; {rounds} queries each, p50 / p95 us, load {before:.1f} to "
        f"{os.getloadavg()[0]:.1f}\n"
    )
    print("| | " + " | ".join(f"ef {ef}" for ef in EFS) + " |\n|---" * 1 + "|---" * len(EFS) + "|")
    for name, each in points.items():
        print(f"| {name} | " + " | ".join(f"{it.recall:.3f}: {it.p50:,.0f} / {it.p95:,.0f}" for it in each) + " |")
    print("\n| at equal recall | " + " | ".join(points) + " |\n|---" + "|---" * len(points) + "|")
    for recall in (0.7, 0.8, 0.85, 0.9, 0.92, 0.94, 0.95, 0.96):
        cells = [at_recall(each, recall) for each in points.values()]
        print(
            f"| {recall} | " + " | ".join("" if it is None else f"{it[0]:,.0f} / {it[1]:,.0f}" for it in cells) + " |"
        )
    print(
        f"\nntmem: {taken / len(data.vectors):.0f} bytes a vector, with its id, two fields of metadata, and the graph",
        flush=True,
    )
    if plot is not None:
        draw(points, plot, f"{len(data.vectors):,} x {DIMENSION}")
    return at_wanted(points)


def at_wanted(points: dict[str, list[Point]]) -> dict[str, float]:
    """Return what is compared with the targets: p95 at a recall of .96, and to hnswlib's there."""
    mine, theirs = (at_recall(points[name], 0.96) if name in points else None for name in ("ntmem int8", PEER))
    notes = {} if mine is None else {"p95 us at .96": mine[1]}
    return notes if mine is None or theirs is None else notes | {"to hnswlib at .96": mine[1] / theirs[1]}


def draw(points: dict[str, list[Point]], path: Path, title: str) -> None:
    """Plot p95 over recall, a line for each engine."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7, 4.5), layout="constrained")
    for name, each in points.items():
        axes.plot([it.recall for it in each], [it.p95 for it in each], "o-", label=name, markersize=4)
    axes.set(xlabel=f"recall@{K}", ylabel="p95, µs", title=title, yscale="log")
    axes.grid(alpha=0.3, which="both")
    axes.legend()
    figure.savefig(path, dpi=120)


# -- beside a writer


ADDING = """
import sys, time
import numpy as np, ntmem
path, rate, span = sys.argv[1], float(sys.argv[2]), float(sys.argv[3])
rows = np.load(sys.argv[4], mmap_mode="r")
with ntmem.open(path, max_memory_bytes=int(sys.argv[5])) as store:
    add, end, number = store.vectors.add, time.perf_counter() + span, 0
    began = time.perf_counter()
    while time.perf_counter() < end:
        add("all", f"new {number}", rows[number % len(rows)], {"rank": number % 1000, "symbol": "S01USDT"})
        number += 1
        time.sleep(max(0.0, began + number / rate - time.perf_counter()))
    print(number, flush=True)
"""


def run_ingest(data: Data, kept: Path, stem: str, rounds: int, rate: float, span: float) -> None:
    """Search a copy of the store, alone and while another process adds to it."""
    path = store(data, kept / f"{stem}.store")
    with tempfile.TemporaryDirectory(dir=kept) as name:
        copy, rows = Path(name) / "store", Path(name) / "rows.npy"
        subprocess.run(["cp", "-r", "--reflink=auto", str(path), str(copy)], check=True)
        np.save(rows, data.vectors[:: max(1, len(data.vectors) // 20_000)] * np.float32(0.5))
        with ntmem.open(copy, max_memory_bytes=MEMORY) as one:
            one.vectors.search("all", data.queries[0])
            time.sleep(5)
            alone = timed(one.vectors, data.queries, rounds)
            given = [str(copy), str(rate), str(span), str(rows), str(MEMORY)]
            adding = subprocess.Popen([sys.executable, "-c", ADDING, *given], stdout=subprocess.PIPE, text=True)
            beside, sizes = [], []
            while adding.poll() is None:
                beside += timed(one.vectors, data.queries, 200)
                sizes.append(unsearched(one.vectors))
            added = int(adding.communicate()[0])
            after = timed(one.vectors, data.queries, rounds)
            print(f"\n{len(data.vectors):,} vectors, {added:,} added in {span:.0f} s by another process\n")
            print("| | p50 us | p95 us |\n|---|---|---|")
            for title, times in (("alone", alone), ("beside it", beside), ("afterwards", after)):
                print(f"| {title} | {np.percentile(times, 50) / 1e3:,.0f} | {np.percentile(times, 95) / 1e3:,.0f} |")
            print(f"\nslots without a graph: {statistics.median(sizes):,.0f}, at most {max(sizes):,}", flush=True)


def timed(vectors: Any, queries: Array, rounds: int) -> list[int]:
    """Return ns of so many searches."""
    times = []
    for query in itertools.islice(itertools.cycle(queries), rounds):
        began = time.perf_counter_ns()
        vectors.search("all", query, K)
        times.append(time.perf_counter_ns() - began)
    return times


def unsearched(vectors: Any) -> int:
    info = vectors.info("all")
    return int(info.changes - info.graphed)


# -- memory


OPENED = """
import sys, time
from pathlib import Path
import numpy as np
sys.path.insert(0, sys.argv[3])
from vectorprocesses import memory
import ntmem
queries, before = np.load(sys.argv[2]), memory()
began = time.perf_counter()
with ntmem.open(sys.argv[1], max_memory_bytes=int(sys.argv[4]),
                cache_config=ntmem.CacheConfig(max_bytes=64 << 20)) as store:
    store.vectors.search("all", queries[0])
    first = time.perf_counter() - began
    for query in queries:
        store.vectors.search("all", query)
    start = int(sys.argv[5])
    assert len(store.observations.range("market", "BTCUSDT", start, start + 3_600 * 10**9)) == 3_600
    time.sleep(4)
    after = memory()
    print(first, *(after[name] for name in ("Rss", "Pss", "Pss_Anon", "Pss_File", "Pss_Shmem")), flush=True)
    sys.stdin.readline()
"""


def available() -> float:
    """Return MB that are neither used nor shared by anybody."""
    facts = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
    return float(facts["MemAvailable"].split()[0]) / 1e3


def run_memory(data: Data, kept: Path, stem: str) -> dict[str, float]:
    path = store(data, kept / f"{stem}.store")
    queries = kept / f"{stem}-queries.npy"
    np.save(queries, data.queries)
    given = [str(path), str(queries), str(Path(__file__).parent), str(MEMORY), str(START)]
    print(f"\n{len(data.vectors):,} vectors and observations; MB after 200 searches and a range of an hour\n")
    print("| process | open, first search, s | resident | its share | of it anonymous | files | shared | machine |")
    print("|---|---|---|---|---|---|---|---|")
    running = []
    for name in ("first", "second"):
        before = available()
        child = subprocess.Popen(
            [sys.executable, "-c", OPENED, *given], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert child.stdout is not None
        first, *facts = map(float, child.stdout.readline().split())
        cells = " | ".join(f"{each:,.0f}" for each in facts)
        print(f"| {name} | {first:.2f} | {cells} | {before - available():+,.0f} |", flush=True)
        running.append((child, facts[0]))
    for child, _ in running:
        child.communicate("\n")
    return {"resident bytes": 1e6 * running[0][1]}


# -- building


def run_build(data: Data, rounds: int) -> None:
    """Make graphs of the same vectors, in turns with hnswlib."""
    import hnswlib

    from ntmem._core.hnsw import build
    from ntmem._core.kernels import quantize

    rows, steps = quantize(data.vectors)
    ratios, both = [], []
    for _ in range(rounds):
        began = time.perf_counter()
        build(rows, steps, metric="cosine", m=16, ef_construction=200, threads=2)
        between = time.perf_counter()
        graph = hnswlib.Index("ip", DIMENSION)
        graph.init_index(len(rows), M=16, ef_construction=200)
        graph.add_items(data.vectors, num_threads=2)
        done = time.perf_counter()
        ratios.append((done - between) / (between - began))
        both.append((between - began, done - between))
    print(f"\nA graph of {len(rows):,} by two threads, load {os.getloadavg()[0]:.1f}: ntmem / hnswlib float32, s")
    print(", ".join(f"{a:.1f} / {b:.1f}" for a, b in both))
    print(f"rate to hnswlib's: {statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})", flush=True)


def main() -> None:
    use_one_thread()
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, metavar="FILE.npz")
    parser.add_argument("--count", type=int, default=1_000_000)
    parser.add_argument("--only", default=",".join(PARTS), help=f"some of {','.join(PARTS)}")
    parser.add_argument("--rounds", type=int, default=1000, help="queries of each engine and ef")
    parser.add_argument("--rate", type=float, default=500, help="vectors added a second")
    parser.add_argument("--span", type=float, default=60, help="seconds of adding")
    parser.add_argument("--results", type=Path, metavar="FILE", help="for report.py --keep")
    parser.add_argument("--plot", type=Path, metavar="FILE.png")
    parser.add_argument("--kept", type=Path, default=Path(tempfile.gettempdir()) / "ntmem-graphs")
    arguments = parser.parse_args()
    parts = arguments.only.split(",")
    arguments.kept.mkdir(parents=True, exist_ok=True)
    data = load(arguments.data, arguments.count)
    stem = f"{'random' if arguments.data is None else arguments.data.stem}-{arguments.count}"
    notes: dict[str, float] = {}
    if "search" in parts:
        notes |= run_search(data, arguments.kept, stem, arguments.rounds, arguments.plot)
    if "ingest" in parts:
        run_ingest(data, arguments.kept, stem, arguments.rounds, arguments.rate, arguments.span)
    if "memory" in parts:
        notes |= run_memory(data, arguments.kept, stem)
    if "build" in parts:
        run_build(data.first(min(50_000, arguments.count)), 3)
    if arguments.results is not None:
        arguments.results.write_text(json.dumps({"program": "compare/million.py", "notes": notes}))


if __name__ == "__main__":
    main()
