"""What more than one searcher comes to: threads of a process, and processes that share a store."""

from __future__ import annotations

import multiprocessing
import statistics
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
from vectordata import Array

import ntmem

SPAN = 0.7  # seconds
FACTS = ("Rss", "Pss", "Pss_Anon", "Pss_File", "Pss_Shmem")


def searches(vectors: Any, space: str, queries: Array, span: float = SPAN) -> int:
    """Search one query after the other for so many seconds; return how many it were."""
    count, end = 0, time.perf_counter() + span
    while time.perf_counter() < end:
        vectors.search_arrays(space, queries[count % len(queries)][np.newaxis])
        count += 1
    return count


def memory() -> dict[str, float]:
    """Return what this process takes of memory, in MB."""
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()[1:]
    found = {line.split(":")[0]: int(line.split()[1]) / 1e3 for line in lines}
    return {name: found.get(name, float("nan")) for name in FACTS}


def serve(path: Path, space: str, queries: Array, pipe: Any) -> None:
    """Be another process: search when asked to, after saying what memory 100 searches left it with."""
    before = memory()
    with ntmem.open(path, graph_share=0) as store:
        vectors = store.vectors
        for query in queries[:100]:
            vectors.search(space, query)
        pipe.send((before, memory()))
        while pipe.recv():
            pipe.send(searches(vectors, space, queries))


def in_two_threads(vectors: Any, space: str, queries: Array) -> int:
    """Return how many searches two threads make."""
    made: list[int] = []
    threads = [threading.Thread(target=lambda: made.append(searches(vectors, space, queries))) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sum(made)


def together(path: Path, vectors: Any, space: str, queries: Array, rounds: int) -> None:
    """Print ratios of throughputs in turns, and the memory of a second process."""
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    other = context.Process(target=serve, args=(path, space, queries, there))
    other.start()
    before, after = here.recv()
    alone, threads, processes = [], [], []
    for _ in range(rounds):
        alone.append(searches(vectors, space, queries))
        threads.append(in_two_threads(vectors, space, queries))
        here.send(True)
        mine = searches(vectors, space, queries)
        processes.append(mine + here.recv())
    here.send(False)
    other.join()
    print("\n| searches at once | a second | to one, median | least, most |\n|---|---|---|---|")
    for name, made in (("one thread", alone), ("two threads", threads), ("two processes", processes)):
        ratios = [each / one for each, one in zip(made, alone, strict=True)]
        rate = statistics.median(made) / SPAN
        print(f"| {name} | {rate:,.0f} | {statistics.median(ratios):.2f} | {min(ratios):.2f}, {max(ratios):.2f} |")
    print("\n| MB of a second process | " + " | ".join(FACTS) + " |\n|---" * 1 + "|---" * len(FACTS) + "|")
    for name, facts in (("with everything imported", before), ("after 100 searches", after)):
        print(f"| {name} | " + " | ".join(f"{facts[each]:.1f}" for each in FACTS) + " |")
