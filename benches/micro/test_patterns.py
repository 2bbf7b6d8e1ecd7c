"""Patterns: what recalling beside 100,000 of them costs, and what distilling trajectories does."""

import time

import numpy as np
import pytest
from figures import percentile

import ntmem
from ntmem.reasoningbank.evidence import Measure, Totals
from ntmem.reasoningbank.shelf import Cell, Cluster, Scope, Working, cluster_id, scope_id
from ntmem.tiers.guards import PATTERNS, Situations

DIMENSION, KINDS, ACTIONS = 384, 25_000, "abcd"
QUERIES = 2_000
START = 1_700_000_000 * 10**9


def directions(count, centres, noise, seed):
    """Return situations of length 1 around centres, float32 (count, 384), and the number of each one's centre."""
    chance = np.random.default_rng(seed)
    kinds = chance.integers(0, len(centres), count)
    rows = centres[kinds] + noise * chance.standard_normal((count, DIMENSION), np.float32)
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype("f4"), kinds


def centres_of(count, seed=7):
    return np.random.default_rng(seed).standard_normal((count, DIMENSION), np.float32)


@pytest.fixture(scope="module")
def patterns(tmp_path_factory):
    """Yield a store with 100,000 patterns, four actions in each of 25,000 kinds of situations, and those kinds."""
    chance = np.random.default_rng(1)
    rows, _ = directions(KINDS, centres_of(500), 0.7, 1)
    with ntmem.open(tmp_path_factory.mktemp("patterns") / "store", engine="shared") as memory:
        shelf, now = memory.distiller.shelf, time.time_ns()
        scope = scope_id("trade", DIMENSION, is_return=False)
        for first in range(0, KINDS, 1000):
            update = shelf.update()
            for number in range(first, first + 1000):
                cells = [
                    Cell(action, Measure(strength=0.9), 20, now - 10**15, now - 10**14, 1, 0.5 + 0.4 * chance.random())
                    for action in ACTIONS
                ]
                name = cluster_id(scope, number)
                centre = rows[number].tobytes()
                update.cluster(
                    Cluster(name, "trade", False, 0, 80, 0.5 / DIMENSION, 0.7, centre, cells), None, Working()
                )
            update.scope(Scope(scope, "trade", DIMENSION, False, Totals(), KINDS, 4 * KINDS))
            shelf.commit(update)
        memory.vectors.compact(Situations(DIMENSION, PATTERNS))
        assert shelf.head().cells == 100_000
        yield memory, rows


@pytest.mark.parametrize("k", [3, 5])
def test_recall_among_100000_patterns(benchmark, patterns, k):
    """Percentiles of single calls, and of the search among the 25,000 kinds that each of them does."""
    memory, rows = patterns
    queries = rows[np.random.default_rng(2).integers(0, KINDS, QUERIES)]
    queries += 0.01 * np.random.default_rng(3).standard_normal(queries.shape).astype("f4")
    taken = {"recall": [], "search": [], "choose": []}
    labels = Situations(DIMENSION, PATTERNS)

    def once():
        for number, query in enumerate(queries):
            begun = time.perf_counter_ns()
            found = memory.bank.recall(query, k)
            taken["recall"].append(time.perf_counter_ns() - begun)
            assert len(found) == k
            begun = time.perf_counter_ns()
            memory.vectors.search(labels, query, k + 4)
            taken["search"].append(time.perf_counter_ns() - begun)
            begun = time.perf_counter_ns()
            memory.bank.choose(query, list(ACTIONS), seed=number)
            taken["choose"].append(time.perf_counter_ns() - begun)

    benchmark.pedantic(once, rounds=1)
    for name, each in taken.items():
        benchmark.extra_info[f"{name} us"] = [round(percentile(sorted(each), share) / 1000, 1) for share in (0.5, 0.95)]
    print("\np50, p95:", dict(benchmark.extra_info))


@pytest.mark.parametrize("kinds", [200, 2000])
@pytest.mark.parametrize("count", [10_000, pytest.param(100_000, marks=pytest.mark.large)])
def test_distilling(benchmark, tmp_path, count, kinds):
    """So many trajectories at once, then 1,000 more; situations of 384 numbers, four actions."""
    centres, pays = centres_of(kinds), np.random.default_rng(5).standard_normal((kinds, 4))
    with ntmem.open(tmp_path / "store", engine="shared") as memory:

        def add(many, seed):
            rows, which = directions(many, centres, 1.0, seed)
            chance = np.random.default_rng(seed + 100)  # not that of the situations
            actions, noise = chance.integers(0, 4, many), chance.standard_normal(many)
            for number in range(many):
                it = ntmem.Trajectory(f"agent {number % 8}", "trade")
                it.add_observation({}, rows[number])
                it.add_action(ACTIONS[actions[number]])
                it.add_outcome(float(pays[which[number], actions[number]] + noise[number]))
                memory.track_trajectory(it)

        add(count, 11)
        begun = time.perf_counter()
        benchmark.pedantic(memory.bank.distill, rounds=1)
        benchmark.extra_info["all s"] = round(time.perf_counter() - begun, 2)
        benchmark.extra_info["kinds found"] = memory.distiller.shelf.head().clusters
        add(1000, 12)
        begun = time.perf_counter()
        memory.bank.distill()
        benchmark.extra_info["1,000 more s"] = round(time.perf_counter() - begun, 2)
        benchmark.extra_info["patterns"] = memory.distiller.shelf.head().cells
    print("\n", dict(benchmark.extra_info))
