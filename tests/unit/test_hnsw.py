"""Graphs of neighbours: what is found in them against the exact scan, and against hnswlib in the same graph."""

import mmap
import os
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from vectorial import KINDS, METRICS, bits_of, clustered, equal, query_of, rows_of, uniform

from ntmem._core.graph import Graph
from ntmem._core.hnsw import MOST_ROWS, Built, build, build_bytes
from ntmem._core.kernels import Kernels, available


def scanned(what, query, step, k, **other):
    rows, steps, squares = what
    return Kernels().scan(rows, steps, query, step, k, squares=squares, **other)


def searched(graph, what, query, step, k, **other):
    rows, steps, squares = what
    return graph.search(rows, steps, query, step, k, squares=squares, **other)


def recall(graph, what, kind, queries, *, k=10, ef=100, **other):
    hits = total = 0
    for vector in queries:
        query = query_of(vector, kind)
        wanted = scanned(what, *query, k, **other)
        found = searched(graph, what, *query, k, ef=ef, **other)
        # of equal values any will do: a row is a hit if it is no worse than the last one that was wanted
        hits += int((found[1] >= wanted[1][-1]).sum()) if len(wanted[1]) else 0
        total += len(wanted[0])
    return hits / total


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("made", [uniform, clustered])
def test_the_same_is_found_as_by_hnswlib(made, kind, metric):
    """In the graph just built, for the same ef: rows and values, in order; with a filter and without one."""
    what = rows_of(made(1500, 24, 1), kind, metric)
    built = Built(*what, metric=metric, ef_construction=60)
    graph = Graph(built.graph)
    chance = np.random.default_rng(3)
    for number, vector in enumerate(made(60, 24, 2)):
        query = query_of(vector, kind)
        share = [None, 0.5, 0.1, 0.01, 0.0][number % 5]
        allowed = None if share is None else bits_of(chance.random(1500) < share)
        for ef, k in ((1, 1), (10, 10), (40, 7), (200, 200)):
            rows, values = searched(graph, what, *query, k, ef=ef, allowed=allowed)
            their_rows, their_values = built.search(*query, k, ef=ef, allowed=allowed)
            assert values.tolist() == their_values.tolist()
            unique = np.isin(values, [value for value in values if (values == value).sum() == 1])
            assert rows[unique].tolist() == their_rows[unique].tolist()
            assert len(set(rows.tolist())) == len(rows)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("metric", METRICS)
def test_one_thread_makes_the_graph_of_hnswlib(kind, metric):
    """Link by link: by its own addPoint, and by ours, which has no labels."""
    what = rows_of(uniform(1200, 16, 4), kind, metric)
    built = Built(*what, metric=metric, ef_construction=80, m=6)
    assert built.graph == build(*what, metric=metric, ef_construction=80, m=6)
    assert built.graph != build(*what, metric=metric, ef_construction=80, m=6, seed=101)
    if not built.mended:
        assert built.graph == Built(*what, metric=metric, ef_construction=80, m=6, plain=True).graph


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize(
    ("made", "kind", "metric", "least"),
    [
        (clustered, "int8", "cosine", 0.99),
        (clustered, "float16", "l2", 0.99),
        (uniform, "float32", "l2", 0.95),
        (uniform, "int8", "l2", 0.95),
        (uniform, "int8", "ip", 0.9),
        (equal, "int8", "cosine", 0.95),
    ],
)
def test_what_is_found_is_nearly_the_best(made, kind, metric, least, threads):
    what = rows_of(made(2000, 32, 5), kind, metric)
    graph = Graph(build(*what, metric=metric, threads=threads))
    assert (graph.count, graph.dimension, graph.dtype, graph.metric) == (2000, 32, np.dtype(kind), metric)
    assert graph.verify() == 0
    queries = made(50, 32, 6)
    assert recall(graph, what, kind, queries) >= least
    assert recall(graph, what, kind, queries, ef=2000) == 1.0
    some = bits_of(np.random.default_rng(1).random(2000) < 0.2)
    assert recall(graph, what, kind, queries, allowed=some) >= least
    few = bits_of(np.arange(2000) % 499 == 5)
    assert recall(graph, what, kind, queries, allowed=few) == 1.0


def test_the_first_rows_are_one_threads():
    """Rows that come at the same time do not see each other: of few ones, some would be found by nobody."""
    what = rows_of(uniform(1000, 8, 3), "int8", "l2")
    alone = build(*what, metric="l2", threads=1)
    for _ in range(5):
        assert build(*what, metric="l2", threads=8) == alone


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("count", [0, 1, 2, 3, 17, 64, 65])
@pytest.mark.parametrize("m", [2, 16])
def test_few_rows(kind, count, m):
    """All are found, each once, in the order of the scan; k may be larger than there are rows."""
    what = rows_of(uniform(count, 5, 8), kind, "l2")
    data = build(*what, metric="l2", m=m)
    graph = Graph(data)
    assert (graph.count, graph.linked, graph.m, graph.nbytes, graph.verify()) == (count, count, m, len(data), 0)
    assert graph.levels[:1] == ((count,) if count else ())
    query = query_of(uniform(1, 5, 9)[0], kind)
    rows, values = searched(graph, what, *query, 100, base=1000)
    wanted = scanned(what, *query, 100, base=1000)
    assert (rows.tolist(), values.tolist()) == (wanted[0].tolist(), wanted[1].tolist())
    assert len(searched(graph, what, *query, 1, ef=1)[0]) == min(count, 1)
    none = np.zeros(-(-count // 64), np.uint64)
    assert len(searched(graph, what, *query, 100, allowed=none)[0]) == 0


@pytest.mark.parametrize("count", [1, 40, 3000])
@pytest.mark.parametrize("threads", [1, 2])
def test_rows_that_are_all_the_same(count, threads):
    """More than lists have places for: none is left without a link to it."""
    what = rows_of(np.ones((count, 8), np.float32), "int8", "cosine")
    graph = Graph(build(*what, threads=threads, m=4))
    assert graph.verify() == 0
    query = query_of(np.ones(8, np.float32), "int8")
    assert searched(graph, what, *query, count)[0].tolist() == list(range(count))


def test_what_choosing_neighbours_leaves_out_is_mended():
    """With few neighbours and few candidates for them, nobody links to some."""
    what = rows_of(uniform(2000, 16, 1), "int8", "l2")
    how = {"metric": "l2", "m": 4, "ef_construction": 4}
    assert Graph(Built(*what, **how, plain=True).graph).verify() > 0
    built = Built(*what, **how)
    assert (built.mended > 0, Graph(built.graph).verify()) == (True, 0)


def test_links_are_of_three_bytes():
    """All three are used."""
    what = rows_of(uniform(70_000, 4, 1), "float32", "l2")
    data = build(*what, metric="l2", m=4, ef_construction=12)
    graph = Graph(data)
    assert graph.verify() == 0
    assert len(data) < 70_000 * (3 * 8 + 3 * 4 / 3 + 3 / 4 + 0.1)
    assert max(int(graph.neighbours(node).max()) for node in range(100)) > 65_535
    for row in (0, 65_535, 65_536, 69_999):
        assert searched(graph, what, what[0][row], 1.0, 1)[0].tolist() == [row]


# -- rows that are left out


def wanted_of(count, share, seed=0):
    """Return which rows, and the bitmap of them."""
    mask = np.random.default_rng(seed).random(count) < share
    return mask, bits_of(mask)


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("share", [0.9, 0.3, 0.01])
@pytest.mark.parametrize(("made", "kind", "metric"), [(clustered, "int8", "cosine"), (equal, "float32", "l2")])
def test_rows_that_are_left_out_are_never_found(made, kind, metric, share, threads):
    what = rows_of(made(2500, 16, 5), kind, metric)
    mask, bits = wanted_of(2500, share)
    graph = Graph(build(*what, metric=metric, m=6, wanted=bits, threads=threads))
    assert (graph.count, graph.linked, graph.verify()) == (2500, mask.sum(), 0)
    lists = [graph.neighbours(node) for node in range(2500)]
    assert [len(each) > 0 for each in lists] == mask.tolist()
    assert mask[np.concatenate(lists)].all()
    for vector in made(20, 16, 6):
        query = query_of(vector, kind)
        rows, values = searched(graph, what, *query, 10, ef=2500)
        assert mask[rows].all()
        assert values.tolist() == scanned(what, *query, 10, allowed=bits)[1].tolist()
        assert sorted(searched(graph, what, *query, 2500)[0].tolist()) == np.flatnonzero(mask).tolist()


@pytest.mark.parametrize("one", [0, 63, 64, 299, None])
def test_one_row_or_none_is_wanted(one):
    what = rows_of(uniform(300, 8, 1), "int8", "l2")
    mask = np.arange(300) == (-1 if one is None else one)
    graph = Graph(build(*what, metric="l2", wanted=bits_of(mask)))
    assert (graph.count, graph.linked, graph.verify()) == (300, mask.sum(), 0)
    assert graph.levels[:1] == (300,)
    assert all(level <= graph.linked for level in graph.levels[1:])
    query = query_of(what[0][5].astype(np.float32), "int8")
    assert searched(graph, what, *query, 9)[0].tolist() == np.flatnonzero(mask).tolist()
    assert searched(graph, what, *query, 9, allowed=bits_of(~mask))[0].tolist() == []


def test_all_that_is_wanted_is_as_if_nobody_asked():
    what = rows_of(uniform(500, 8, 1), "int8", "cosine")
    assert build(*what, wanted=bits_of(np.ones(500, bool))) == build(*what)


# -- rows that are equal


def beside(count, kind, metric, seed=1):
    """Return ordinary rows and as many that are the same, in the middle of them, and which are ordinary."""
    vectors = uniform(count, 24, seed)
    same = np.random.default_rng(seed).permutation(count) < count // 2
    vectors[same] = 0.01 if metric == "l2" else vectors[~same].mean(axis=0)
    return rows_of(vectors, kind, metric), ~same


def own_first(graph, what, rows, **other):
    """The share of rows that are found first when they are what is searched for, or one of the same value."""
    hits = 0
    for row in rows:
        query, step = what[0][row], float(what[1][row]) if what[0].dtype == np.int8 else 1.0
        query = query if what[0].dtype == np.int8 else query.astype(np.float32)
        found, best = (by(what, query, step, 1, **other)[1] for by in (partial(searched, graph), scanned))
        hits += found[0] >= best[0]
    return hits / len(rows)


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize(("kind", "threads"), [("int8", 1), ("int8", 3), ("float16", 3), ("float32", 1)])
def test_equal_rows_are_in_nobodys_way(kind, metric, threads):
    """Not even where each search comes by."""
    what, ordinary = beside(2500, kind, metric)
    graph = Graph(build(*what, metric=metric, threads=threads))
    assert (graph.linked, graph.twins, graph.verify()) == (2500, 1249, 0)
    some = np.flatnonzero(ordinary)[::20]
    assert own_first(graph, what, some) >= 0.95
    queries = what[0][some].astype(np.float32)
    assert recall(graph, what, kind, queries) >= 0.95
    assert recall(graph, what, kind, queries, allowed=bits_of(ordinary)) >= 0.95
    but_the_first = bits_of(np.arange(2500) != np.flatnonzero(~ordinary)[0])
    few = bits_of(np.random.default_rng(1).random(2500) < 0.1)
    for allowed in (but_the_first, few):
        assert recall(graph, what, kind, queries, allowed=allowed) >= 0.95
    assert own_first(graph, what, some, allowed=but_the_first) >= 0.95


@pytest.mark.parametrize("metric", ["cosine", "l2"])
def test_equal_rows_are_found_as_the_scan_finds_them(metric):
    """The first of them, up to ef; all of them, if it is as large; and with a filter, be it the last one only."""
    what, ordinary = beside(3000, "int8", metric)
    graph, same = Graph(build(*what, metric=metric)), np.flatnonzero(~ordinary)
    query = what[0][same[0]], float(what[1][same[0]])
    for k, ef in ((1, 1), (10, 100), (100, 100), (3000, 3000)):
        assert searched(graph, what, *query, k, ef=ef)[0][:1500].tolist() == same[:k].tolist()
    masks = [np.isin(np.arange(3000), some) for some in (same[-1], same[700:703], same[1::2])]
    for mask in masks:
        rows, values = searched(graph, what, *query, 10, allowed=bits_of(mask))
        wanted = scanned(what, *query, 10, allowed=bits_of(mask))
        assert (rows.tolist(), values.tolist()) == (wanted[0].tolist(), wanted[1].tolist())
        rows, _ = searched(graph, what, *query, 10, allowed=bits_of(mask | ordinary))
        assert rows.tolist() == scanned(what, *query, 10, allowed=bits_of(mask | ordinary))[0].tolist()


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("copies", [2, 5, 100])
def test_many_groups_of_equal_rows(copies, threads):
    """Each with all of its rows, whether there is room in the list of the first one or not."""
    vectors = uniform(2000 // copies, 16, 3)
    group = np.random.default_rng(2).permutation(np.arange(2000) % len(vectors))
    what = rows_of(vectors[group], "int8", "l2")
    for m in (2, 4, 16):
        graph = Graph(build(*what, metric="l2", m=m, threads=threads, ef_construction=300))
        assert (graph.linked, graph.twins, graph.verify()) == (2000, 2000 - len(vectors), 0)
        for each in range(0, len(vectors), max(1, len(vectors) // 40)):
            mine = np.flatnonzero(group == each)
            query = what[0][mine[0]], float(what[1][mine[0]])
            found = searched(graph, what, *query, copies, ef=2000)[0]
            assert found.tolist() == mine.tolist()
            last = bits_of(np.arange(2000) == mine[-1])
            assert searched(graph, what, *query, 9, allowed=last)[0].tolist() == [mine[-1]]


@pytest.mark.parametrize("m", [2, 4, 16])
def test_the_graph_of_the_others_is_as_if_there_were_no_equal_rows(m):
    """A search in it takes the same way, whatever hangs on it."""
    vectors, copies = uniform(800, 12, 3), uniform(800, 12, 3)[::2].repeat(3, axis=0)
    alone, what = (rows_of(each, "int8", "l2") for each in (vectors, np.concatenate([vectors, copies])))
    how = {"metric": "l2", "m": m, "ef_construction": 50}
    graph, other = Graph(build(*what, **how)), Graph(build(*alone, **how))
    assert (graph.twins, other.twins, graph.levels[1:]) == (1200, 0, other.levels[1:])
    first = bits_of(np.arange(2000) < 800)
    for vector in uniform(100, 12, 4):
        found = searched(graph, what, *query_of(vector, "int8"), 20, ef=20, allowed=first)
        wanted = searched(other, alone, *query_of(vector, "int8"), 20, ef=20)
        assert (found[0].tolist(), found[1].tolist()) == (wanted[0].tolist(), wanted[1].tolist())


def test_rows_of_other_steps_or_squares_are_not_equal():
    rows = np.ones((300, 8), np.int8)
    steps, squares = np.arange(1, 301, dtype=np.float32), np.arange(1, 301, dtype=np.float32)
    ones = np.ones(300, np.float32)
    assert Graph(build(rows, ones)).twins == 299
    assert Graph(build(rows, None)).twins == 299
    assert Graph(build(rows, steps, metric="ip")).twins == 0
    assert Graph(build(rows, ones, squares, metric="l2")).twins == 0
    for some in (steps, steps // 4 * 4):  # beside those that are, which neighbours are not taken for
        for what, metric in (((rows, some, None), "ip"), ((rows, some, 8 * some**2), "l2")):
            graph = Graph(build(*what, metric=metric))
            assert graph.twins == 300 - len(set(some.tolist()))
            wanted = scanned(what, rows[0], 1.0, 300)
            found = searched(graph, what, rows[0], 1.0, 300)
            assert (found[0].tolist(), found[1].tolist()) == (wanted[0].tolist(), wanted[1].tolist())


@pytest.mark.parametrize("share", [0.8, 0.2])
def test_equal_rows_beside_those_that_are_left_out(share):
    """What is left out is nobody's twin, and nobody is its."""
    what, ordinary = beside(2000, "int8", "cosine")
    mask, bits = wanted_of(2000, share)
    graph, same = Graph(build(*what, wanted=bits)), np.flatnonzero(mask & ~ordinary)
    assert (graph.linked, graph.twins, graph.verify()) == (mask.sum(), len(same) - 1, 0)
    query = what[0][same[0]], float(what[1][same[0]])
    assert searched(graph, what, *query, len(same))[0].tolist() == same.tolist()
    assert own_first(graph, what, np.flatnonzero(mask & ordinary)[::5], allowed=bits) >= 0.95
    assert sorted(searched(graph, what, *query, 2000)[0].tolist()) == np.flatnonzero(mask).tolist()


@pytest.mark.parametrize("share", [None, 0.6])
@pytest.mark.parametrize(("kind", "metric"), [("int8", "cosine"), ("float16", "l2"), ("float32", "ip")])
def test_an_extended_graph_with_equal_rows_is_that_of_all_rows(kind, metric, share):
    """Bit for bit, as without them: chains are taken from the base, and go on."""
    vectors = uniform(600, 16, 4)
    chance = np.random.default_rng(1)
    vectors[chance.integers(0, 600, 160)] = vectors[7]
    vectors[chance.integers(0, 600, 120)] = vectors[chance.integers(0, 600, 120)]
    rows, steps, squares = rows_of(vectors, kind, metric)
    bits = None if share is None else wanted_of(600, share)[1]

    def made(count, base=None):
        part = (rows[:count], steps[:count], None if squares is None else squares[:count])
        how = {"metric": metric, "m": 12, "ef_construction": 90, "wanted": bits}
        return build(*part, **how, base=base and Graph(base))

    whole = made(600)
    assert Graph(whole).twins > 80
    for size in (0, 1, 8, 65, 400, 599, 600):
        assert made(600, made(size)) == whole
    grown = None
    for size in (0, 3, 64, 280, 281, 600):
        grown = made(size, grown)
    assert grown == whole


def test_a_base_that_was_made_without_a_look_at_equal_rows():
    """Its islands would stay. All that it had is there, whatever is wanted now."""
    what, _ = beside(2000, "int8", "l2")
    part = [each[:1500] for each in what]
    base = Graph(Built(*part, metric="l2", m=8, plain=True).graph)
    assert (base.twins, base.verify() > 0) == (0, True)
    assert build(*what, metric="l2", m=8, base=base) == build(*what, metric="l2", m=8)
    mask, _ = wanted_of(2000, 0.5)
    data = build(*what, metric="l2", m=8, base=base, wanted=bits_of(mask))
    mask[:1500] = True
    assert data == build(*what, metric="l2", m=8, wanted=bits_of(mask))


def test_what_is_equal_to_a_row_that_the_base_left_out():
    """Is inserted, as that is not there."""
    what = rows_of(np.concatenate([uniform(200, 8, 1), uniform(200, 8, 1)]), "int8", "cosine")
    none, bits = Graph(build(*(each[:200] for each in what[:2]), wanted=np.zeros(4, np.uint64))), wanted_of(400, 1)[1]
    graph = Graph(build(*what, base=none, wanted=bits))
    assert (graph.linked, graph.twins, graph.verify()) == (200, 0, 0)
    one = Graph(build(*(each[:200] for each in what[:2]), wanted=bits_of(np.arange(200) == 77)))
    graph = Graph(build(*what, base=one, wanted=bits))
    assert (graph.linked, graph.twins, graph.verify()) == (201, 1, 0)
    assert searched(graph, what, what[0][77], float(what[1][77]), 2)[0].tolist() == [77, 277]


# -- graphs that are extended


@pytest.mark.parametrize("share", [None, 0.6])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("metric", METRICS)
def test_an_extended_graph_is_that_of_all_rows(kind, metric, share):
    """Bit for bit with one thread, if hnswlib has left nothing to be mended on the way."""
    rows, steps, squares = rows_of(uniform(600, 16, 4), kind, metric)
    bits = None if share is None else wanted_of(600, share)[1]

    def made(count, base=None):
        part = (rows[:count], steps[:count], None if squares is None else squares[:count])
        return build(*part, metric=metric, m=12, ef_construction=90, wanted=bits, base=base and Graph(base))

    whole = made(600)
    assert len(Graph(whole).levels) > 2
    for size in (0, 1, 2, 65, 400, 599, 600):
        assert made(600, made(size)) == whole
    steps_of_it = None
    for size in (0, 3, 64, 280, 281, 600):
        steps_of_it = made(size, steps_of_it)
    assert steps_of_it == whole


def test_a_higher_level_may_come_with_any_row():
    """And a search begins at it."""
    what = rows_of(uniform(400, 8, 1), "int8", "l2")
    for seed in range(20):
        base = build(*(each[:40] for each in what), metric="l2", m=3, seed=seed)
        data = build(*what, metric="l2", m=3, seed=seed, base=Graph(base))
        assert Graph(data).verify() == 0
        other = build(*what, metric="l2", m=3, seed=seed + 1, base=Graph(base))
        assert Graph(other).verify() == 0
        query = query_of(what[0][399].astype(np.float32), "int8")
        assert len(searched(Graph(other), what, *query, 400)[0]) == 400


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize(
    ("made", "kind", "metric", "least"), [(clustered, "int8", "cosine", 0.99), (equal, "float32", "l2", 0.95)]
)
def test_what_is_found_in_an_extended_graph_is_nearly_the_best(made, kind, metric, least, threads):
    what = rows_of(made(4000, 32, 5), kind, metric)
    data = b""
    for count in (100, 1500, 4000):
        part = [None if each is None else each[:count] for each in what]
        base = Graph(data) if data else None
        data = build(*part, metric=metric, m=8, threads=threads, base=base, ef_construction=100 + count // 40)
        graph = Graph(data)
        assert (graph.count, graph.linked, graph.verify()) == (count, count, 0)
    queries = made(50, 32, 6)
    assert recall(graph, what, kind, queries) >= least
    assert recall(graph, what, kind, queries, ef=4000) == 1.0


def test_a_base_that_is_not_connected_is_mended():
    what = rows_of(uniform(2000, 16, 1), "int8", "l2")
    part = [each[:1800] for each in what]
    base = Graph(Built(*part, metric="l2", m=4, ef_construction=4, plain=True).graph)
    assert base.verify() > 0
    assert Graph(build(*what, metric="l2", m=4, base=base)).verify() == 0
    assert Graph(build(*part, metric="l2", m=4, base=base)).verify() == 0


def test_what_the_base_has_linked_stays_linked():
    """And what it has not stays away: `wanted` is asked about later rows only."""
    what = rows_of(uniform(900, 8, 1), "int8", "cosine")
    part = (what[0][:600], what[1][:600])
    first, bits = wanted_of(600, 0.5, seed=1)
    then, other = wanted_of(900, 0.5, seed=2)
    graph = Graph(build(*what, base=Graph(build(*part, wanted=bits)), wanted=other))
    linked = np.concatenate([first, then[600:]])
    query = query_of(uniform(1, 8, 2)[0], "int8")
    assert (graph.linked, graph.verify()) == (linked.sum(), 0)
    assert sorted(searched(graph, what, *query, 900)[0].tolist()) == np.flatnonzero(linked).tolist()
    none = Graph(build(*part, wanted=np.zeros(10, np.uint64)))
    graph = Graph(build(*what, base=none, wanted=other))
    assert (graph.linked, graph.verify()) == (then[600:].sum(), 0)
    assert searched(graph, what, *query, 900, ef=900)[0].min() >= 600


# -- how it is done


def test_work_of_a_share_of_the_time():
    """The processor's time is at most that share; whatever else the machine does can only make it less."""
    what = rows_of(uniform(1000, 16, 1), "int8", "cosine")
    wall, used = time.perf_counter(), time.process_time()
    data = build(*what, share=0.1)
    wall, used = time.perf_counter() - wall, time.process_time() - used
    assert data == build(*what)
    assert used / wall < 0.25


@pytest.mark.parametrize("background", [False, True])
def test_a_build_is_stopped_in_its_sleep(background):
    """Which would be of minutes."""
    what = rows_of(uniform(1000, 16, 1), "int8", "cosine")
    stop, made = np.zeros(1, np.int32), []
    awake = time.perf_counter()
    build(*what)
    awake = time.perf_counter() - awake
    how = {"stop": stop, "share": 1e-7, "threads": 2, "background": background}
    thread = threading.Thread(target=lambda: made.append(build(*what, **how)), daemon=True)
    thread.start()
    thread.join(5 * awake)
    assert thread.is_alive()
    stop[0] = 1
    thread.join(20)
    assert made == [None]


def niceness():
    """Of each thread of this process."""
    found = {}
    for path in Path("/proc/self/task").iterdir():
        try:
            found[int(path.name)] = int((path / "stat").read_text().rpartition(")")[2].split()[16])
        except OSError:  # it has ended
            continue
    return found


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="threads have priorities of their own on Linux only")
def test_in_the_background_all_threads_are_of_the_lowest_priority():
    what = rows_of(uniform(30_000, 64, 1), "int8", "cosine")
    stop = np.zeros(1, np.int32)
    with ThreadPoolExecutor(1) as threads:
        threads.submit(len, "").result()
        before = niceness()
        made = threads.submit(build, *what, stop=stop, threads=2, share=0.5, background=True)
        until = time.monotonic() + 60
        others = {}
        while sorted(others.values()) != [19, 19] and time.monotonic() < until and not made.done():
            others = {thread: nice for thread, nice in niceness().items() if thread not in before}
        stop[0] = 1
        assert made.result() is None
        assert sorted(others.values()) == [19, 19]
        assert niceness() == before


def test_in_the_background_the_caller_does_nothing():
    what = rows_of(uniform(3000, 16, 1), "int8", "cosine")
    own, all_of_it = time.thread_time(), time.process_time()
    data = build(*what, background=True)
    own, all_of_it = time.thread_time() - own, time.process_time() - all_of_it
    assert own < all_of_it / 4
    assert data == build(*what)


MEASURED = """
import sys
import numpy as np
from ntmem._core.hnsw import build
def status(name):
    return next(1024 * int(line.split()[1]) for line in open("/proc/self/status") if line.startswith(name))
rows = np.random.default_rng(1).integers(-127, 128, (int(sys.argv[1]), 16), np.int8)
build(rows[:500], None, threads=2)
before = status("VmRSS")
data = build(rows, None, m=int(sys.argv[2]), ef_construction=12, threads=2)
print(status("VmHWM") - before)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="asks /proc for the memory")
@pytest.mark.skipif("san" in os.environ.get("LD_PRELOAD", ""), reason="sanitizers take much more themselves")
@pytest.mark.parametrize("m", [3, 16])
def test_how_much_memory_a_build_takes_is_known(m):
    count = 100_000
    command = [sys.executable, "-c", MEASURED, str(count), str(m)]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    told = subprocess.run(command, capture_output=True, text=True, check=True, env=environment).stdout
    assert build_bytes(count, m) == pytest.approx(int(told), rel=0.3)


def test_memory_is_in_proportion():
    assert build_bytes(0) < 1000
    assert 9.9 < build_bytes(10_000_000) / build_bytes(1_000_000) < 10.1
    assert build_bytes(1000, 64) > 3 * build_bytes(1000, 16)
    for rows, m in ((MOST_ROWS + 1, 16), (100, 1), (100, 257)):
        with pytest.raises(ValueError, match=f"were {rows} and {m}"):
            build_bytes(rows, m)


# -- what else there is


def test_rows_may_be_apart():
    vectors = uniform(300, 20, 1)
    rows, steps, _ = rows_of(vectors, "int8", "cosine")
    wide = np.full((300, 32), 77, np.int8)
    wide[:, :20] = rows
    assert build(wide[:, :20], steps) == build(rows, steps)
    graph, query = Graph(build(rows, steps)), query_of(vectors[5], "int8")
    assert graph.search(wide[:, :20], steps, *query, 9)[0].tolist() == graph.search(rows, steps, *query, 9)[0].tolist()


def test_rows_that_came_later_are_not_looked_at():
    what = rows_of(uniform(500, 8, 1), "float32", "ip")
    graph = Graph(build(what[0][:400], what[1][:400], metric="ip"))
    query = query_of(what[0][450], "float32")
    assert searched(graph, what, *query, 400)[0].max() < 400


def test_rows_that_are_no_numbers_are_the_last():
    vectors = uniform(200, 8, 1)
    vectors[::3] = np.nan
    ones = np.ones(200, np.float32)
    graph = Graph(build(vectors, ones, metric="ip"))
    rows, values = graph.search(vectors, ones, uniform(1, 8, 2)[0], 1.0, 200, ef=200)
    finite = np.isfinite(values)
    assert finite.sum() == np.isfinite(vectors[:, 0]).sum()
    assert finite[: finite.sum()].all()
    assert (rows[~finite] % 3 == 0).all()


@pytest.mark.parametrize("name", available())
def test_int8_is_the_same_with_all_kernels(name):
    what = rows_of(clustered(600, 33, 1), "int8", "cosine")
    data = build(*what, kernels=name)
    assert data == build(*what, kernels="scalar")
    query = query_of(clustered(1, 33, 2)[0], "int8")
    found = [searched(Graph(data), what, *query, 20, kernels=each) for each in (name, "scalar")]
    assert found[0][0].tolist() == found[1][0].tolist()
    assert found[0][1].tolist() == found[1][1].tolist()


def test_a_build_is_stopped():
    what = rows_of(uniform(30_000, 64, 1), "int8", "cosine")
    stop = np.zeros(1, np.int32)
    raised = threading.Timer(0.05, lambda: stop.__setitem__(0, 1))
    raised.start()
    assert build(*what, stop=stop, threads=2) is None
    raised.join()
    assert build(*what, stop=np.ones(1, np.int32)) is None
    assert build(what[0][:9], what[1][:9], stop=np.zeros(1, np.int32)) is not None


def test_threads_build_and_search_at_the_same_time():
    what = rows_of(uniform(2000, 16, 1), "int8", "cosine")
    data = build(*what)
    graph = Graph(data)
    queries = [query_of(vector, "int8") for vector in uniform(64, 16, 2)]
    wanted = [searched(graph, what, *query, 10)[0].tolist() for query in queries]
    with ThreadPoolExecutor(4) as threads:
        same = [threads.submit(build, *what) for _ in range(2)]
        other = threads.submit(build, *what, threads=4)
        for _ in range(5):
            found = list(threads.map(lambda query: searched(graph, what, *query, 10)[0].tolist(), queries))
            assert found == wanted
        assert [each.result() == data for each in same] == [True, True]
        assert Graph(other.result()).verify() == 0


def test_a_graph_is_searched_in_its_file(tmp_path):
    what = rows_of(uniform(1000, 16, 1), "float16", "cosine")
    path = tmp_path / "graph"
    path.write_bytes(build(*what))
    with path.open("rb") as file:
        mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    graph = Graph(mapped)
    query = query_of(what[0][77].astype(np.float32), "float16")
    assert searched(graph, what, *query, 1)[0].tolist() == [77]
    with pytest.raises(BufferError):
        mapped.close()  # it is held
    del graph
    mapped.close()


ROWS, STEPS = np.ones((70, 4), np.int8), np.ones(70, np.float32)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"metric": "l1"}, "metric must be one of cosine, l2, ip, was 'l1'"),
        ({"metric": "l2"}, "wants the squared lengths"),
        ({"steps": STEPS[:9]}, "as many as the 70 rows"),
        ({"squares": STEPS[:9]}, "as many as the 70 rows"),
        ({"m": 1}, "m must be from 2 to 256"),
        ({"m": 257}, "m must be from 2 to 256"),
        ({"ef_construction": 0}, "ef_construction from 1 to"),
        ({"threads": 0}, "threads must be from 1 to 256, was 0"),
        ({"threads": 257}, "threads must be from 1 to 256, was 257"),
        ({"stop": np.zeros(2, np.int32)}, "stop is one number, had 2"),
        ({"rows": ROWS[:, ::2]}, "one beside the other"),
        ({"rows": ROWS[::-1]}, "must not overlap"),
        ({"rows": np.ones((70, 0), np.int8)}, "1 to 65536 numbers"),
        ({"kernels": "abacus"}, "there are no kernels 'abacus'"),
        ({"wanted": np.ones(1, np.uint64)}, "wanted must have 2 words for 70 rows, had 1"),
        ({"share": 0.0}, "share must be above 0 and at most 1, was 0.0"),
        ({"share": 1.5}, "share must be above 0 and at most 1, was 1.5"),
        ({"share": float("nan")}, "share must be above 0 and at most 1, was nan"),
        ({"rows": np.empty((MOST_ROWS + 1, 1), np.int8), "steps": None}, "16777216 rows at most, there were 16777217"),
        ({"base": {"rows": np.ones((71, 4), np.int8)}}, "a graph of 71 rows cannot be extended to 70"),
        ({"base": {"m": 9}}, "this one has m 9, not 16$"),
        ({"base": {"metric": "ip"}}, "this one has metric ip, not cosine$"),
        ({"base": {"rows": ROWS[:, :3]}}, "this one has dimension 3, not 4$"),
        ({"base": {"rows": ROWS.astype(np.float16)}}, "this one has dtype float16, not int8$"),
        ({"base": {"m": 9, "metric": "ip"}}, "this one has m 9, not 16 and metric ip, not cosine$"),
    ],
)
def test_a_build_of_what_does_not_fit_is_refused(change, says):
    if "base" in change:
        change = {"base": Graph(build(**{"rows": ROWS, "steps": None} | change["base"]))}
    with pytest.raises(ValueError, match=says):
        build(**{"rows": ROWS, "steps": STEPS} | change)


@pytest.mark.parametrize("rows", [np.ones((70, 4)), np.ones(70, np.int8), [[1]]])
def test_a_build_of_other_types_is_refused(rows):
    with pytest.raises(TypeError, match="rows are an array of int8, float16 or float32"):
        build(rows, STEPS)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"rows": ROWS[:69]}, "the graph is of 70 rows of 4 numbers of int8, there were 69 of 4 of int8"),
        ({"rows": np.ones((70, 5), np.int8), "query": np.ones(5, np.int8)}, "there were 70 of 5 of int8"),
        ({"rows": np.ones((70, 4), np.float32), "query": np.ones(4, np.float32)}, "there were 70 of 4 of float32"),
        ({"steps": STEPS[:69]}, "as many as the 70 rows"),
        ({"squares": STEPS}, "only for it, this is cosine"),
        ({"allowed": np.ones(1, np.uint64)}, "must have 2 words for 70 rows, had 1"),
        ({"k": 0}, "k must be 1 or more"),
        ({"rows": np.ones((70, 8), np.int8)[:, ::2]}, "one beside the other"),
        ({"kernels": "abacus"}, "there are no kernels 'abacus'"),
    ],
)
def test_a_search_of_what_does_not_fit_is_refused(change, says):
    graph = Graph(build(ROWS, STEPS))
    what = {"rows": ROWS, "steps": STEPS, "query": np.ones(4, np.int8), "query_step": 1.0, "k": 1} | change
    with pytest.raises(ValueError, match=says):
        graph.search(**what)
