"""Vectors, as users of a store have them: what is kept, what is found as of when, what is refused."""

from __future__ import annotations

import glob
import os
import pickle
import random
import subprocess
import sys
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from hostile import Start
from vectors import DTYPES, LAST, METRICS, SECOND, START, Plain, check, check_get, check_search, clustered, error

import ntmem
from ntmem import LATEST, VectorError
from ntmem.filters import compile_where
from ntmem.tiers import collection as collections
from ntmem.tiers.region import tail_path

HOW: dict[str, dict[str, Any]] = {
    "shared": {"engine": "shared"},
    "tiny": {"engine": "shared", "log_bytes": 4096},
    "lmdb": {"engine": "lmdb"},
    "private": {},
}


@pytest.fixture
def clock() -> ntmem.SimulatedClock:
    return ntmem.SimulatedClock(START)


@pytest.fixture(params=HOW)
def how(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def memory(clock: ntmem.SimulatedClock, how: str, ram: Path) -> Iterator[ntmem.MemorySystem]:
    with ntmem.open(None if how == "private" else ram / "s", clock=clock, **HOW[how]) as memory:
        yield memory


@pytest.fixture
def v(memory: ntmem.MemorySystem) -> Any:
    return memory.vectors


def ids(hits: Any) -> list[str]:
    return [hit.id for hit in hits]


# -- adding and finding


def test_a_vector_comes_back_as_it_was(v: Any) -> None:
    metadata = {"symbol": "BTC", "n": 3, "x": 0.5, "deep": {"a": [1, None, True]}, "b": b"raw", "": 1}
    metadata.pop("")
    v.add("n", "a", [3.0, 4.0], metadata, ts_event=START - 5, ts_known=START - 3)
    found = v.get("n", "a")
    assert (found.id, found.metadata, found.ts_event, found.ts_known) == ("a", metadata, START - 5, START - 3)
    assert found.vector.dtype == np.float32
    assert found.vector.tolist() == [3.0, 4.0]
    [hit] = v.search("n", [3, 4])
    assert (hit.id, hit.metadata, hit.ts_event, hit.ts_known) == ("a", metadata, START - 5, START - 3)
    assert hit.score == pytest.approx(1.0, abs=1e-6)
    assert "BTC" in hit._repr_html_()
    assert v.get("n", "b") is None


def test_a_vector_that_was_returned_is_the_callers(v: Any) -> None:
    given = np.array([1, 2], np.float32)
    v.add("n", "a", given, {"k": [1]})
    given[:] = 9
    found = v.get("n", "a")
    assert found.vector.tolist() == [1, 2]
    found.metadata["k"].append(2)
    assert v.get("n", "a").metadata == {"k": [1]}


def test_adding_again_replaces(v: Any) -> None:
    for number in range(5):
        (v.add if number % 2 else v.upsert)("n", "a", [1, number], {"n": number})
    assert v.count("n") == 1
    assert v.get("n", "a").metadata == {"n": 4}
    assert [hit.metadata for hit in v.search("n", [1, 0])] == [{"n": 4}]
    assert v.info("n").changes == 5


def test_kinds_of_arrays_are_taken_as_float32(v: Any) -> None:
    kinds: list[Any] = [
        [1, 2],
        (1.0, 2.0),
        np.array([1, 2], np.int8),
        np.array([1, 2], np.uint64),
        np.array([1.0, 2.0]),
    ]
    kinds += [np.array([1, 2], ">f4"), np.array([1, 0, 2, 0], np.float32)[::2], np.array([1, 2], np.float16)]
    for number, each in enumerate(kinds):
        v.add("n", str(number), each)
    assert all(v.get("n", str(number)).vector.tolist() == [1, 2] for number in range(len(kinds)))
    assert v.add_many("n", ["x", "y"], np.array([[1, 2], [1, 2]], np.float32, order="F")) == 2
    assert v.count("n") == len(kinds) + 2


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("metric", METRICS)
def test_scores_are_those_of_brute_force(v: Any, metric: str, dtype: str) -> None:
    v.create("n", 24, metric=metric, dtype=dtype)
    plain, rows = Plain(metric, dtype), clustered(300, 24) * 3
    for number in range(100):
        v.add("n", f"{number}", rows[number], {"n": number})
        plain.add(f"{number}", rows[number], {"n": number})
    v.add_many("n", [f"{number}" for number in range(100, 300)], rows[100:])
    for number in range(100, 300):
        plain.add(f"{number}", rows[number])
    for query in [*rows[:5], *clustered(5, 24, seed=2)]:
        for k in (1, 10, 300, 1000):
            check_search(v.search("n", query, k), plain, query, k)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("dimension", [1, 3, 31, 32, 33, 384])
def test_a_vector_is_at_its_best_from_itself(dimension: int, metric: str, dtype: str) -> None:
    best = {"cosine": 1.0, "l2": 0.0}
    rows = clustered(70, dimension, clusters=70)
    with ntmem.open() as memory:
        v = memory.vectors
        v.create("n", dimension, metric=metric, dtype=dtype)
        v.add_many("n", [*map(str, range(70))], rows)
        for number in (0, 20, 69):
            hits = v.search("n", rows[number], 70)
            own = next(hit for hit in hits if hit.id == str(number))
            if metric == "ip":
                expected = float(rows[number].astype(float) @ rows[number])
            else:
                expected = best[metric]
                if dimension > 3:
                    assert hits[0] is own
            if metric != "ip":
                scale = 1.0 if metric == "cosine" else float(rows[number] @ rows[number])
                assert own.score == pytest.approx(expected, abs=1e-6 * scale)
            else:
                assert abs(own.score - expected) <= error(metric, dtype, rows[number], rows[number])


def test_the_ten_best_are_nearly_always_found_as_int8() -> None:
    rows, queries = clustered(5000, 64), clustered(50, 64, seed=9)
    with ntmem.open() as memory:
        v = memory.vectors
        v.add_many("n", [*map(str, range(5000))], rows)
        for rerank, least in ((None, 0.95), (50, 0.99)):
            found, _ = v.search_arrays("n", queries, 10, rerank=rerank)
            unit = [x / np.linalg.norm(x, axis=1, keepdims=True) for x in (rows, queries)]
            right = np.argsort(-(unit[1] @ unit[0].T), axis=1)[:, :10]
            recall = np.mean(
                [len({*map(int, mine)} & {*best.tolist()}) / 10 for mine, best in zip(found, right, strict=True)]
            )
            assert recall >= least


def test_rerank_gives_exact_scores(v: Any) -> None:
    for metric in METRICS:
        v.create(metric, 16, metric=metric)
        rows = clustered(100, 16)
        plain = Plain(metric)
        for number, row in enumerate(rows):
            plain.add(str(number), row)
        v.add_many(metric, [*map(str, range(100))], rows)
        for query in clustered(5, 16, seed=3):
            hits = v.search(metric, query, 5, rerank=100)
            right = sorted(plain.served(), key=lambda row: (-plain.score(query, row), row.number))[:5]
            assert ids(hits) == [row.id for row in right]
            assert [hit.score for hit in hits] == pytest.approx([plain.score(query, row) for row in right], rel=1e-6)
            assert len(v.search(metric, query, 5, rerank=1)) == 5
        assert len(v.search(metric, rows[0], 500, rerank=1000)) == 100


def test_equal_scores_come_in_the_order_they_were_added(v: Any) -> None:
    v.add_many("n", [*map(str, range(150))], [[1, 1]] * 150)
    assert ids(v.search("n", [1, 1], 150)) == [*map(str, range(150))]
    assert ids(v.search("n", [1, 1], 7)) == [*map(str, range(7))]
    v.add("n", "3", [1, 1])
    assert ids(v.search("n", [1, 1], 150))[-1] == "3"


def test_fewer_than_asked_for(v: Any) -> None:
    assert v.search("n", [1, 0]) == []
    assert v.search_many("n", [[1, 0], [0, 1]]) == [[], []]
    assert v.search_similar("n", [1, 0], 5) == []
    v.create("n", 2)
    assert v.search("n", [1, 0]) == []
    v.add("n", "a", [1, 0])
    v.add("n", "b", [0, 1])
    assert ids(v.search("n", [1, 0], 10**9)) == ["a", "b"]
    found, scores = v.search_arrays("n", [[1, 0], [0, 1], [1, 1]], 4)
    assert found.tolist() == [["a", "b", None, None], ["b", "a", None, None], ["a", "b", None, None]]
    assert np.isnan(scores).tolist() == [[False, False, True, True]] * 3
    assert scores.dtype == np.float32
    v.delete("n", "a")
    v.delete("n", "b")
    assert v.search("n", [1, 0]) == []
    assert v.search_arrays("n", [[1, 0]], 1)[0].tolist() == [[None]]
    assert v.search_many("n", np.empty((0, 2), np.float32)) == []


def test_only_scores_that_are_high_enough(v: Any) -> None:
    v.add_many("n", ["a", "b", "c"], [[1, 0], [1, 1], [-1, 0]])
    assert ids(v.search("n", [1, 0], min_score=0.5)) == ["a", "b"]
    assert ids(v.search("n", [1, 0], min_score=-2)) == ["a", "b", "c"]
    assert v.search("n", [1, 0], min_score=1.1) == []
    found, scores = v.search_arrays("n", [[1, 0]], 3, min_score=0.5)
    assert found.tolist() == [["a", "b", None]]
    assert np.isnan(scores[0, 2])
    assert ids(v.search("n", [1, 0], min_score=0.5, rerank=3)) == ["a", "b"]


def test_the_ways_to_search_agree(v: Any, memory: Any) -> None:
    rows = clustered(200, 8)
    v.add_many(("n", "sub"), [*map(str, range(200))], rows, [{"even": n % 2 == 0} for n in range(200)])
    where = {"even": True}
    many = v.search_many(("n", "sub"), rows[:6], 7, where=where)
    found, scores = v.search_arrays(("n", "sub"), rows[:6], 7, where=where)
    for row in range(6):
        one = v.search(("n", "sub"), rows[row], 7, where=where)
        assert one == many[row]
        assert ids(one) == found[row].tolist()
        assert np.array([hit.score for hit in one], np.float32).tobytes() == scores[row].tobytes()
    pairs = [(hit.id, hit.score) for hit in v.search(("n", "sub"), rows[0], 7)]
    assert v.search_similar(("n", "sub"), rows[0], 7) == pairs
    assert memory.search_similar(("n", "sub"), rows[0], 7) == pairs
    assert memory.namespace(("n", "sub")).search(rows[0], 7) == v.search(("n", "sub"), rows[0], 7)
    assert memory.namespace(("n", "sub")).search(rows[0], 7, where=where) == v.search(
        ("n", "sub"), rows[0], 7, where=where
    )


# -- deleting


def test_deleting_an_id(v: Any) -> None:
    assert v.delete("n", "a") == 0
    v.add_many("n", ["a", "b"], [[1, 0], [0, 1]])
    assert v.delete("n", "a") == 1
    assert v.delete("n", "a") == 0
    assert v.get("n", "a") is None
    assert ids(v.search("n", [1, 0])) == ["b"]
    v.add("n", "a", [1, 1])
    assert ids(v.search("n", [1, 0])) == ["a", "b"]
    assert v.count("n") == 2
    assert v.info("n").changes == 4


def test_deleting_what_a_filter_lets_pass(v: Any, how: str) -> None:
    many = 1000 if how == "tiny" else 9000
    v.add_many("n", [*map(str, range(many))], np.ones((many, 2)), [{"n": n} for n in range(many)])
    assert v.delete("n", where={"n": {"$gte": 10}}) == many - 10
    assert v.delete("n", where={"n": {"$gte": 10}}) == 0
    assert v.count("n") == 10
    assert v.delete("n", where={"none": 1}) == 0
    assert v.delete("unknown", where={"n": 1}) == 0
    with pytest.raises(ValueError, match=r"would delete all; drop\(\)"):
        v.delete("n", where={})
    assert v.count("n") == 10


def test_everything_deleted_and_filled_again(v: Any) -> None:
    for turn in range(3):
        v.add_many("n", [*map(str, range(100))], clustered(100, 4, seed=turn))
        assert v.count("n") == 100
        for number in range(100):
            assert v.delete("n", str(number)) == 1
        assert (v.count("n"), v.search("n", [1, 0, 0, 0]), v.get("n", "5")) == (0, [], None)


def test_delete_takes_an_id_or_a_filter(v: Any) -> None:
    for wrong in ({}, {"id": "a", "where": {"x": 1}}):
        with pytest.raises(TypeError, match=r"an id or where=; drop\(\)"):
            v.delete("n", **wrong)


# -- many at once


def test_many_are_added_in_order(v: Any) -> None:
    plain = Plain()
    chance = np.random.default_rng(5)
    names = [str(n) for n in chance.integers(0, 40, 500)]
    rows = clustered(500, 5)
    extra = [None if n % 3 == 0 else {"n": n} for n in range(500)]
    events, knowns = START - np.arange(500), START - 1000 + chance.integers(0, 50, 500)
    assert v.add_many("n", names, rows, extra, ts_event=events, ts_known=knowns.tolist()) == 500
    for number in range(500):
        plain.add(names[number], rows[number], extra[number], int(events[number]), int(knowns[number]))
    for as_of in (START - 1001, START - 1000, START - 990, START - 970, LAST):
        check(v, plain, as_of=as_of, queries=rows[:2])


def test_one_instant_for_many(v: Any) -> None:
    at = datetime(2023, 1, 1, tzinfo=UTC)
    instants: list[Any] = [START - 7, at, np.datetime64(START - 7, "ns"), np.int64(START - 7)]
    for number, instant in enumerate(instants):
        v.add_many("n", [f"{number}a", f"{number}b"], [[1, 0], [0, 1]], ts_event=instant, ts_known=instant)
        expected = 1672531200 * SECOND if instant is at else START - 7
        for name in "ab":
            found = v.get("n", f"{number}{name}")
            assert (found.ts_event, found.ts_known) == (expected, expected)


def test_many_are_added_whole_or_not_at_all(v: Any, how: str) -> None:
    rows = clustered(5000, 4)  # a group has 4,096 otherwise
    names = [str(number) for number in range(5000)]
    if how != "tiny":
        assert v.add_many("n", names, rows, whole=True) == v.count("n") == 5000
        return
    v.add_many("n", ["first", "second"], rows[:2], whole=True)
    with pytest.raises(VectorError, match=r"5000 vectors are to be added all or none: .* write fewer"):
        v.add_many("n", names, rows, whole=True)
    assert v.count("n") == 2


def test_what_is_kept_beside_vectors_is_selected(v: Any, clock: ntmem.SimulatedClock) -> None:
    assert "n" not in v
    assert list(v.select("n")) == []
    plain = {str(number): {"n": number % 7} if number % 3 else {} for number in range(200)}
    v.add_many("n", list(plain), clustered(200, 3), list(plain.values()))
    v.delete("n", "5")
    assert ("n" in v, ("n",) in v, "n/x" in v, "other" in v) == (True, True, False, False)
    left = {name: metadata for name, metadata in plain.items() if name != "5"}
    assert [(it.id, it.metadata) for it in v.select("n")] == list(left.items())
    for where in ({"n": 3}, {"n": {"$gte": 5}}, {"n": {"$exists": False}}):
        passes = compile_where(where)
        assert passes is not None
        expected = [name for name, metadata in left.items() if passes.matches(metadata)]
        assert [it.id for it in v.select("n", where=where)] == expected
    assert list(v.select("n", as_of=START - 1)) == []
    clock.set(START + 10)
    v.add("n", "late", [1, 2, 3], {"n": 9}, ts_event=START + 1)
    [late] = v.select("n", where={"n": 9})
    assert late == ("late", {"n": 9}, START + 1, START + 10)
    seen = v.select("n")
    v.delete("n", "0")
    assert len(list(seen)) == 200  # as it was at the call
    v.drop("n")
    assert "n" not in v
    assert list(v.select("n")) == []


def test_none_at_once(v: Any) -> None:
    for nothing in ([], np.empty((0, 7), np.float32)):
        assert v.add_many("n", [], nothing) == 0
    assert v.collections() == []


def test_all_are_checked_before_any_is_kept(v: Any) -> None:
    v.add("n", "first", [1, 0])
    good, rows = ["a", "b"], [[1, 0], [0, 1]]
    wrong: list[tuple[type, tuple[Any, ...], dict[str, Any]]] = [
        (ValueError, (["a", ""], rows), {}),
        (TypeError, (["a", 5], rows), {}),
        (TypeError, ("ab", rows), {}),
        (VectorError, (good, [[1, 0], [0, 0]]), {}),
        (VectorError, (good, [[1, 0], [0, float("nan")]]), {}),
        (VectorError, (good, [[1, 0, 0], [0, 1, 0]]), {}),
        (ValueError, (good, [[1, 0], [0, 1, 2]]), {}),
        (VectorError, (good, [1, 0]), {}),
        (ValueError, (good, rows[:1]), {}),
        (ValueError, (good, rows, [None]), {}),
        (TypeError, (good, rows, {"a": 1}), {}),
        (TypeError, (good, rows, [None, {"a": object()}]), {}),
        (ValueError, (good, rows, [None, {"$a": 1}]), {}),
        (ValueError, (good, rows), {"ts_known": [START]}),
        (ValueError, (good, rows), {"ts_event": [START, -1]}),
        (TypeError, (good, rows), {"ts_event": [START, "x"]}),
    ]
    for kind, args, more in wrong:
        with pytest.raises(kind):
            v.add_many("n", *args, **more)
        assert ids(v.search("n", [1, 0])) == ["first"]
    for each in (["x"], "text", {"a"}, [("a", 1)], 5):
        with pytest.raises(TypeError, match="metadata must be a mapping"):
            v.add_many("n", good, rows, [each, None])
    v.add("n", "last", [1, 0])
    assert v.count("n") == 2


# -- what is refused


@pytest.mark.parametrize("metric", METRICS)
def test_vectors_that_are_refused(v: Any, metric: str) -> None:
    v.create("n", 2, metric=metric)
    for wrong in ([1, float("nan")], [float("inf"), 1], [-float("inf"), 1], [1e39, 1]):
        with pytest.raises(VectorError, match="NaN or infinity"):
            v.add("n", "a", wrong)
        with pytest.raises(VectorError, match="NaN or infinity"):
            v.search("n", wrong)
    for long in ([1], [1, 2, 3]):
        with pytest.raises(VectorError, match=rf"'a' has {len(long)} dimensions, the collection 2"):
            v.add("n", "a", long)
        with pytest.raises(VectorError, match=rf"query has {len(long)} dimensions, the collection 2"):
            v.search("n", long)
    for shape in ([], [[1, 2]], 5):
        with pytest.raises(VectorError):
            v.add("n", "a", shape)
        with pytest.raises(VectorError):
            v.search("n", shape)
    with pytest.raises(VectorError, match="search_many"):
        v.search("n", [[1, 2]])
    for kind in ([True, False], [1j, 2], ["1", "2"], [None, 1], [object()] * 2, b"ab", {"a": 1}, np.array(["x", "y"])):
        with pytest.raises(TypeError):
            v.add("n", "a", kind)
        with pytest.raises(TypeError):
            v.search("n", kind)
    assert (v.count("n"), v.info("n").changes) == (0, 0)


def test_zero_has_no_direction(v: Any) -> None:
    for metric in METRICS:
        v.create(metric, 2, metric=metric)
    for use in (lambda: v.add("cosine", "a", [0, 0]), lambda: v.search("cosine", [0.0, -0.0])):
        with pytest.raises(VectorError, match="is zero, which has no direction"):
            use()
    with pytest.raises(VectorError, match="is zero"):
        v.add("new", "a", [0, 0])
    assert ("new",) not in v.collections()
    for metric in ("l2", "ip"):
        v.add_many(metric, ["zero", "one"], [[0, 0], [1, 0]])
        assert {hit.id: hit.score for hit in v.search(metric, [0, 0])} == {
            "zero": 0,
            "one": -1 if metric == "l2" else 0,
        }
        assert v.get(metric, "zero").vector.tolist() == [0, 0]


def test_numbers_that_no_float16_is(v: Any) -> None:
    for metric in METRICS:
        v.create(metric, 2, metric=metric, dtype="float16")
    v.add("cosine", "a", [1e30, 1])
    assert v.search("cosine", [1, 0])[0].score == pytest.approx(1)
    for metric in ("l2", "ip"):
        v.add(metric, "most", [65504, 0])
        for wrong in ([65505, 0], [0, -1e6]):
            with pytest.raises(VectorError, match="65504, the largest of float16"):
                v.add(metric, "a", wrong)
            with pytest.raises(VectorError, match="65504, the largest of float16"):
                v.search(metric, wrong)
        assert ids(v.search(metric, [65504, 0])) == ["most"]


@pytest.mark.parametrize("dtype", ["int8", "float32"])
@pytest.mark.parametrize("metric", METRICS)
def test_very_large_and_very_small_numbers(v: Any, metric: str, dtype: str) -> None:
    """Each is refused, or found as the best of what is like it."""
    v.create("n", 2, metric=metric, dtype=dtype)
    kept = {}
    for number, size in enumerate([1e-45, 1e-30, 1e-20, 1e-3, 1e3, 1e15, 1e20, 1e30, 3e38]):
        vector = [size, size if number % 2 else 0]
        try:
            v.add("n", str(number), vector)
        except VectorError:
            assert size >= 1e15
            continue
        kept[str(number)] = vector
    assert len(kept) >= 6
    for vector in kept.values():
        hits = v.search("n", vector, 20)
        assert {hit.id for hit in hits} == set(kept)
        assert all(np.isfinite(hit.score) for hit in hits)
        if metric == "cosine":
            assert hits[0].score == pytest.approx(1, abs=1e-3)


def test_ids_that_are_refused(v: Any) -> None:
    v.add("n", "x" * 512, [1, 0])
    v.add("n", "ü" * 256, [1, 0])
    v.add("n", "\0", [1, 0])
    assert v.count("n") == 3
    for name in ("x" * 512, "ü" * 256, "\0"):
        assert v.get("n", name).id == name
    for use in (lambda it: v.add("n", it, [1, 0]), lambda it: v.get("n", it), lambda it: v.delete("n", it)):
        for wrong in ("", "x" * 513, "ü" * 257, "\ud800"):
            with pytest.raises(ValueError, match="an id"):
                use(wrong)
        for other in (5, b"a", ("a",)):
            with pytest.raises(TypeError, match="id must be a str"):
                use(other)


def test_metadata_that_are_refused(v: Any) -> None:
    v.add("n", "most", [1, 0], {"x": "y" * 32_000})
    deep: Any = 1
    for _ in range(990):
        deep = [deep]
    wrong: list[Any] = [{"x": "y" * 33_000}, {"$x": 1}, {"": 1}, {5: 1}, {"x": {1: deep}}, {"x": deep}]
    wrong += [["x"], [], "x", {"x"}, 5, {"x": object()}, {"x": 2**64}, {"x": "\ud800"}, {"x": {"$y": object()}}]
    wrong += [{"x": msgspec.msgpack.Ext(-1, b"x")}, {"x": msgspec.Raw(b"\xc1")}]
    for each in wrong:
        with pytest.raises((TypeError, ValueError)):
            v.add("n", "a", [1, 0], each)
        with pytest.raises((TypeError, ValueError)):
            v.add_many("n", ["a", "b"], [[1, 0], [0, 1]], [None, each])
        with pytest.raises((TypeError, ValueError)):
            v.add_many("new", ["a", "b"], [[1, 0], [0, 1]], [each, None])
    v.add("n", "b", [1, 0], {})
    assert v.get("n", "b").metadata == {}
    assert (v.count("n"), v.collections()) == (2, [("n",)])


def test_instants_that_are_refused(v: Any) -> None:
    v.add("n", "a", [1, 0])
    for wrong in (-1, 2**63, datetime(2024, 1, 1), "2024"):
        for name in ("ts_event", "ts_known"):
            with pytest.raises((TypeError, ValueError), match=name):
                v.add("n", "b", [1, 0], **{name: wrong})
        for use in (lambda w: v.search("n", [1, 0], as_of=w), lambda w: v.get("n", "a", as_of=w)):
            with pytest.raises((TypeError, ValueError), match="as_of"):
                use(wrong)
        with pytest.raises((TypeError, ValueError), match="as_of"):
            v.count("n", as_of=wrong)
        with pytest.raises((TypeError, ValueError), match="ts_known"):
            v.delete("n", "a", ts_known=wrong)
    assert v.count("n") == 1


def test_numbers_of_hits_that_are_refused(v: Any) -> None:
    v.add("n", "a", [1, 0])
    for name in ("k", "ef", "rerank"):
        for wrong in (0, -1, 2**64):
            with pytest.raises(ValueError, match=name):
                v.search("n", [1, 0], **{name: wrong})
        for other in (1.5, "3", True):
            with pytest.raises(TypeError, match=name):
                v.search("n", [1, 0], **{name: other})
    assert ids(v.search("n", [1, 0], 2**63 - 1, ef=5)) == ["a"]


@pytest.mark.parametrize("namespace", ["", "a//b", (), 5, ("a", "")])
def test_namespaces_that_are_refused(v: Any, namespace: Any) -> None:
    uses = [lambda: v.add(namespace, "a", [1, 0]), lambda: v.create(namespace, 2), lambda: v.drop(namespace)]
    uses += [lambda: v.add_many(namespace, ["a"], [[1, 0]])]
    for use in uses:
        with pytest.raises((ntmem.InvalidNamespace, TypeError)):
            use()
    assert v.collections() == []


def test_filters_that_are_refused(v: Any) -> None:
    v.add("n", "a", [1, 0])
    for use in (
        lambda where: v.search("n", [1, 0], where=where),
        lambda where: v.count("n", where=where),
        lambda where: v.delete("n", where=where),
    ):
        with pytest.raises(ValueError, match="unknown operator"):
            use({"a": {"$greater": 1}})
        with pytest.raises(TypeError):
            use(["a"])
    assert v.count("n") == 1


# -- collections


def test_making_collections(v: Any) -> None:
    assert v.info("n") is None
    v.create("n", 3, metric="l2", dtype="float32", m=8, ef_construction=50)
    v.create("n", 3, metric="l2", dtype="float32", m=8, ef_construction=50)
    facts = v.info("n")
    assert (facts.dimension, facts.metric, facts.dtype, facts.count, facts.changes) == (3, "l2", "float32", 0, 0)
    v.add("n", "a", [0, 0, 0])
    assert (v.info("n").count, v.info("n").changes) == (1, 1)
    assert v.info("n").memory_bytes > 0
    for other in ({"dimension": 4}, {"metric": "ip"}, {"dtype": "int8"}, {"m": 9}, {"ef_construction": 51}):
        how = {"dimension": 3, "metric": "l2", "dtype": "float32", "m": 8, "ef_construction": 50} | other
        with pytest.raises(VectorError, match="is there already, with 3 dimensions as float32, by l2"):
            v.create("n", **how)
    v.add("auto", "a", [1, 2])
    v.create("auto", 2)
    assert v.info("auto").dtype == "int8"
    assert v.collections() == [("auto",), ("n",)]


def test_collections_that_are_refused(v: Any) -> None:
    for wrong in ({"metric": "dot"}, {"dtype": "float64"}):
        with pytest.raises(VectorError, match="must be one of"):
            v.create("n", 2, **wrong)
    for how in (
        {"dimension": 0},
        {"dimension": 65_537},
        {"dimension": 2, "m": 1},
        {"dimension": 2, "ef_construction": 0},
    ):
        with pytest.raises(ValueError, match="must be from"):
            v.create("n", **how)
    with pytest.raises(TypeError):
        v.create("n", 2.0)
    with pytest.raises(VectorError, match="1 to 65536"):
        v.add("n", "a", np.ones(65_537))
    assert v.collections() == []


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_largest_dimension(dtype: str) -> None:
    with ntmem.open(log_bytes=1 << 22) as memory:
        v = memory.vectors
        v.create("n", 65_536, dtype=dtype)
        rows = clustered(3, 65_536)
        v.add_many("n", ["a", "b", "c"], rows)
        v.add("n", "d", rows[0])
        assert ids(v.search("n", rows[0], 2)) == ["a", "d"]
        assert v.search("n", rows[0], 1)[0].score == pytest.approx(1, abs=1e-4)
        assert v.get("n", "d").vector.tobytes() == rows[0].tobytes()


def test_dropping(v: Any) -> None:
    assert v.drop("n") is False
    v.add_many("n", [*map(str, range(700))], np.ones((700, 2)))
    v.add("other", "a", [1, 0])
    assert v.drop("n") is True
    assert v.drop("n") is False
    assert (v.count("n"), v.info("n"), v.get("n", "5"), v.search("n", [1, 0])) == (0, None, None, [])
    assert v.search("n", [1, 2, 3]) == []
    assert v.collections() == [("other",)]
    v.create("n", 3, metric="l2")
    assert v.count("n", as_of=LATEST) == 0
    v.add("n", "a", [0, 0, 0])
    assert v.count("n") == 1
    assert v.count("other") == 1


def test_nothing_is_left_of_what_was_dropped(memory: Any, v: Any) -> None:
    from ntmem.tiers.guards import COLLECTIONS, POINTS

    for turn in range(3):
        v.add_many("n", [*map(str, range(600))], np.ones((600, 2 + turn)))
        v.drop("n")
    engine = memory._engine()
    assert [*engine.entries_of(POINTS, b"")] == []
    assert len([*engine.entries_of(COLLECTIONS, b"")]) == 1  # the number of the last one
    assert memory.stats().vector_bytes == 0


def test_the_namespaces_of_vectors_are_the_stores_own(memory: Any, v: Any) -> None:
    v.add("n", "a", [1, 0])
    for name in ("vectors", "collections"):
        with pytest.raises(ntmem.NotOwner, match=r"memory\.vectors"):
            memory.put(("ntmem", name), "k", b"")


def test_collections_are_apart(v: Any) -> None:
    for number, namespace in enumerate(["a", ("a", "b"), ("a", "b", "c"), "b"]):
        v.add(namespace, "x", np.eye(4)[number], {"n": number})
    for number, namespace in enumerate(["a", "a/b", ("a", "b", "c"), "b"]):
        assert v.get(namespace, "x").metadata == {"n": number}
        assert v.count(namespace) == 1
    assert v.collections() == [("a",), ("a", "b"), ("a", "b", "c"), ("b",)]


# -- time


def test_what_is_known_only_later(v: Any, clock: Any) -> None:
    v.add("n", "a", [1, 0], {"v": 1})
    v.add("n", "a", [1, 1], {"v": 2}, ts_known=START + 10)
    v.add("n", "b", [0, 1], ts_known=START + 5)
    assert (v.count("n"), v.get("n", "a").metadata, v.get("n", "b")) == (1, {"v": 1}, None)
    assert ids(v.search("n", [1, 0])) == ["a"]
    assert v.search("n", [1, 0])[0].metadata == {"v": 1}
    assert v.get("n", "a", as_of=LATEST).metadata == {"v": 2}
    assert len(v.search("n", [1, 0], as_of=LATEST)) == 2
    assert v.delete("n", "b") == 0  # not there yet
    clock.set(START + 5)
    assert ids(v.search("n", [0, 1])) == ["b", "a"]
    clock.set(START + 10)
    assert v.get("n", "a").metadata == {"v": 2}
    assert v.get("n", "a", as_of=START + 9).metadata == {"v": 1}
    assert v.count("n", as_of=START - 1) == 0


def test_what_was_known_earlier_and_is_written_later(v: Any) -> None:
    plain = Plain()
    known = [50, 10, 30, 30, 70, 0, 20, 60]
    for number, each in enumerate(known):
        row = [1, number]
        v.add("n", "a", row, {"n": number}, ts_event=0, ts_known=START - 100 + each)
        plain.add("a", row, {"n": number}, 0, START - 100 + each)
    v.add("n", "b", [1, 0], ts_known=START - 60, ts_event=0)
    plain.add("b", [1, 0], None, 0, START - 60)
    assert v.delete("n", "a", ts_known=START - 45) == 1
    plain.delete("a", START - 45)
    for each in range(-1, 75):
        check(v, plain, as_of=START - 100 + each)
    check(v, plain)


def test_a_deletion_of_the_future(v: Any, clock: Any) -> None:
    v.add("n", "a", [1, 0])
    assert v.delete("n", "a", ts_known=START + 10) == 1
    assert v.count("n") == 1
    assert v.get("n", "a", as_of=LATEST) is None
    assert v.delete("n", where={"x": {"$exists": False}}, ts_known=START + 20) == 1
    clock.set(START + 10)
    assert (v.count("n"), v.get("n", "a"), v.search("n", [1, 0])) == (0, None, [])
    assert v.count("n", as_of=START + 9) == 1


def test_instants_of_all_kinds(v: Any) -> None:
    at = datetime(2023, 11, 14, tzinfo=UTC)
    v.add("n", "a", [1, 0], ts_event=at, ts_known=at)
    found = v.get("n", "a")
    assert found.ts_event == found.ts_known == 1699920000 * SECOND
    for as_of in (at, np.datetime64("2023-11-14"), 1699920000 * SECOND):
        assert v.count("n", as_of=as_of) == 1
    for as_of in (at - timedelta(microseconds=1), np.datetime64("2023-11-13T23:59:59"), 0):
        assert v.count("n", as_of=as_of) == 0
        assert v.get("n", "a", as_of=as_of) is None
        assert v.search("n", [1, 0], as_of=as_of) == []
    v.add("n", "b", [1, 0], ts_event=0, ts_known=0)
    v.add("n", "c", [1, 0], ts_event=LAST, ts_known=LAST)
    assert v.count("n", as_of=0) == 1
    assert v.count("n") == 2
    assert v.count("n", as_of=LAST) == v.count("n", as_of=LATEST) == 3


def test_by_the_clock_of_the_system() -> None:
    with ntmem.open() as memory:
        v = memory.vectors
        for number in range(200):
            v.add("n", str(number), [1, number])
            assert v.get("n", str(number)) is not None
            assert len(v.search("n", [1, 0], 1000)) == number + 1


# -- metadata


NAMES = [f"f{n}" for n in range(80)] + ["n" * 56, "n" * 57, "n" * 300, "ü" * 28, "ü" * 29]


@pytest.mark.parametrize("together", [True, False])
def test_more_names_than_columns(v: Any, together: bool) -> None:
    chance = np.random.default_rng(1)
    plain = Plain()
    for number in range(130):
        some = chance.choice(NAMES, 60 if together else 3, replace=False).tolist()
        metadata = {str(name): int(chance.integers(0, 4)) for name in some} | {"number": number}
        v.add("n", str(number % 110), [1, number], metadata)
        plain.add(str(number % 110), [1, number], metadata)
    for name in [*NAMES[::9], *NAMES[-6:], "nobody", "number"]:
        for where in ({name: 2}, {name: {"$exists": False}}, {name: {"$gt": 0, "$lt": 3}}, {"$not": {name: 1}}):
            assert v.count("n", where=where) == len(plain.served(where=where)), where
        both = {name: {"$gte": 2}, "number": {"$lt": 70}}
        check_search(v.search("n", [1, 0], 500, where=both), plain, [1, 0], 500, where=both)
    assert v.delete("n", where={"n" * 57: {"$exists": True}}) == len(plain.served(where={"n" * 57: {"$exists": True}}))


VALUES: list[Any] = [None, True, False, 0, 1, -1, 2**63 - 1, -(2**63), 2**63, 2**64 - 1, 0.0, -0.0, 0.5, 1.0, 1e300]
VALUES += [float("inf"), float("nan"), 2.0**63, "", "x", "xy", "x" * 3000, b"", b"x", [], [1], [1, [2]], {}, {"a": 1}]
VALUES += [{"b": 1, "a": 2}, {"a": 2, "b": 1}, datetime(2024, 1, 1, tzinfo=UTC), datetime(1950, 1, 1, tzinfo=UTC)]


def test_values_of_all_kinds(v: Any) -> None:
    plain = Plain()
    chance = np.random.default_rng(2)
    for number in range(200):
        metadata = {name: VALUES[chance.integers(len(VALUES))] for name in "abc"[: number % 4]}
        v.add("n", str(number), [1, number], metadata)
        plain.add(str(number), [1, number], metadata)
    for value in VALUES:
        wheres: list[Any] = [
            {"a": {"$eq": value}},
            {"b": {"$ne": value}},
            {"c": {"$in": [value, "x"]}},
            {"a": {"$nin": [value]}},
        ]
        wheres += [{"a": {"$contains": value}}]
        if isinstance(value, int | float | str | datetime) and not isinstance(value, bool):
            wheres += [{"a": {order: value}} for order in ("$gt", "$gte", "$lt", "$lte")]
        if isinstance(value, str):
            wheres += [{"a": {"$prefix": value}}]
        for where in wheres:
            assert v.count("n", where=where) == len(plain.served(where=where)), where
    for number in range(200):
        assert repr(v.get("n", str(number)).metadata) == repr(plain.rows[number].metadata)


def test_filters_see_only_what_is_served(v: Any) -> None:
    v.add("n", "a", [1, 0], {"x": 1})
    v.add("n", "a", [1, 0], {"x": 2})
    v.add("n", "b", [1, 0], {"x": 1}, ts_known=START + 5)
    v.add("n", "c", [1, 0], {"x": 1})
    v.delete("n", "c")
    assert v.count("n", where={"x": 1}) == 0
    assert v.search("n", [1, 0], where={"x": 1}) == []
    assert v.count("n", where={"x": 1}, as_of=LATEST) == 1
    assert v.count("n", where={"x": {"$exists": True}}) == 1
    assert v.count("n", where={}) == 1


# -- text


class Letters:
    dimension = 3

    def embed(self, text: Any) -> np.ndarray:
        return np.array([len(text), text.count("a"), 1], np.float32)

    def embed_batch(self, texts: Any) -> np.ndarray:
        return np.stack([self.embed(text) for text in texts])


def test_text_through_an_embedder() -> None:
    with ntmem.open(embedder=Letters()) as memory:
        v = memory.vectors
        v.add("n", "a", "aaa")
        v.add_many("n", ["b", "c"], ["xyz", "a longer text"])
        assert v.get("n", "b").vector.tolist() == [3, 0, 1]
        assert v.search("n", "aaa", 1)[0].id == "a"
        assert [hits[0].id for hits in v.search_many("n", ["xyz", "aaa"], 1)] == ["b", "a"]
        assert v.search_arrays("n", ["xyz"], 1)[0].tolist() == [["b"]]
        assert memory.search_similar("n", "aaa", 1)[0][0] == "a"
        assert memory.namespace("n").search("aaa", 1)[0].id == "a"
    with ntmem.open(embedder=ntmem.HashedTextEmbedder(64)) as memory:
        v = memory.vectors
        v.add_many("n", ["fed", "eth"], ["the fed raised rates again", "ethereum gas is cheap"])
        assert v.search("n", "rates of the fed")[0].id == "fed"


def test_text_without_an_embedder(v: Any) -> None:
    uses = [lambda: v.add("n", "a", "text"), lambda: v.search("n", "text"), lambda: v.search_many("n", ["text"])]
    uses += [lambda: v.add_many("n", ["a"], ["text"])]
    for use in uses:
        with pytest.raises(TypeError, match="text needs an embedder"):
            use()


# -- handles


def test_another_handle_sees_everything_at_once(ram: Path) -> None:
    for engine in ("shared", "lmdb"):
        with ntmem.open(ram / engine, engine=engine) as one, ntmem.open(ram / engine, engine=engine) as other:
            plain, handles = Plain(), (one, other)
            for number in range(80):
                mine, theirs = handles[number % 2].vectors, handles[1 - number % 2].vectors
                name, row = str(number % 30), [1, number]
                if number % 7 == 6:
                    assert mine.delete("n", name) == (plain.get(name) is not None)
                    if plain.get(name) is not None:
                        plain.delete(name, 0)
                else:
                    mine.add("n", name, row, ts_event=0, ts_known=0)
                    plain.add(name, row, None, 0, 0)
                for each in (theirs, mine):
                    check_search(each.search("n", [1, 3], 50), plain, [1, 3], 50)
                    check_get(each.get("n", name), plain.get(name))


def test_a_drop_is_seen_by_other_handles(ram: Path) -> None:
    for engine in ("shared", "lmdb"):
        with ntmem.open(ram / engine, engine=engine) as one, ntmem.open(ram / engine, engine=engine) as other:
            v, w = one.vectors, other.vectors
            for turn in range(4):
                v.add("n", "x", [1] * (turn + 2))
                assert w.count("n") == 1
                if turn % 2:
                    assert w.info("n").dimension == turn + 2
                v.drop("n")
                if turn != 2:
                    assert (w.count("n"), w.search("n", [1, 0]), w.get("n", "x")) == (0, [], None)
            w.add("n", "y", [1, 0])
            assert v.count("n") == 1
            v.drop("n")
            v.add("n", "z", [1, 0, 0])
            assert w.get("n", "z") is not None
            assert w.get("n", "y") is None
            w.add("n", "y", [1, 0, 0])
            assert ids(v.search("n", [1, 0, 0])) == ["z", "y"]


def test_it_is_kept(ram: Path) -> None:
    plain, rows = Plain("l2", "float16"), clustered(300, 6)
    for turn, engine in enumerate(["shared", "lmdb", "shared", "shared"]):
        with ntmem.open(ram / "s", engine=engine) as memory:
            v = memory.vectors
            if turn == 0:
                v.create("n", 6, metric="l2", dtype="float16")
            if turn:
                check(v, plain, queries=rows[:3])
            for number in range(turn, 300, 4):
                v.add("n", str(number % 100), rows[number], {"n": number}, ts_event=0, ts_known=number)
                plain.add(str(number % 100), rows[number], {"n": number}, 0, number)
            assert v.delete("n", str(turn), ts_known=400) == 1
            plain.delete(str(turn), 400)
            check(v, plain, queries=rows[:3])
            check(v, plain, as_of=150)
    assert ntmem.verify(ram / "s").ok
    assert not glob.glob("/dev/shm/" + os.path.basename(tail_path(str(ram / "s"), 1))[:-1] + "*")


WRITER = """
with ntmem.open(sys.argv[1], engine=sys.argv[2]) as memory:
    for number in range(40):
        hear()
        memory.vectors.add("n", str(number), [1, number], ts_event=0, ts_known=0)
        say("added")
    hear(); memory.vectors.drop("n"); say("dropped")
    hear(); memory.vectors.add("n", "new", [1, 2, 3]); say("added")
    hear()
"""


@pytest.mark.parametrize("kind", ["shared", "lmdb"])
def test_a_store_that_is_only_read(ram: Path, start: Start, kind: str) -> None:
    plain = Plain()
    with ntmem.open(ram / "s", engine=kind) as memory:
        memory.vectors.add("n", "a", [1, 0], {"x": 1}, ts_event=0, ts_known=0)
        plain.add("a", [1, 0], {"x": 1}, 0, 0)
    with ntmem.open(ram / "s", engine=kind, read_only=True) as reader:
        r = reader.vectors
        check(r, plain)
        assert r.count("n", where={"x": 1}) == 1
        uses = [lambda: r.add("n", "b", [1, 0]), lambda: r.add_many("n", ["b"], [[1, 0]]), lambda: r.delete("n", "a")]
        uses += [lambda: r.delete("n", where={"x": 1}), lambda: r.drop("n"), lambda: r.create("m", 2)]
        for use in uses:
            with pytest.raises(ntmem.ReadOnlyError, match="read_only=True"):
                use()
        writer = start(WRITER, ram / "s", kind)  # somebody comes who writes
        for number in range(40):
            writer.tell()
            assert writer.line() == "added"
            plain.add(str(number), [1, number], None, 0, 0)
            check_search(r.search("n", [1, 5], 100), plain, [1, 5], 100)
        writer.tell()
        assert writer.line() == "dropped"
        assert (r.count("n"), r.collections()) == (0, [])
        writer.tell()
        assert writer.line() == "added"
        assert r.get("n", "new") is not None
        writer.end()
        assert r.count("n") == 1


def test_a_closed_store(ram: Path) -> None:
    memory = ntmem.open(ram / "s")
    v = memory.vectors
    v.add("n", "a", [1, 0])
    memory.close()
    uses = [
        lambda: v.add("n", "a", [1, 0]),
        lambda: v.search("n", [1, 0]),
        lambda: v.get("n", "a"),
        lambda: v.count("n"),
    ]
    uses += [
        lambda: v.info("n"),
        lambda: v.delete("n", "a"),
        lambda: v.drop("n"),
        v.collections,
        lambda: memory.vectors,
    ]
    uses += [lambda: v.create("n", 2), lambda: v.add_many("n", ["a"], [[1, 0]])]
    for use in uses:
        with pytest.raises(ntmem.StoreClosed):
            use()
    assert "VectorStore" in repr(v)
    with ntmem.open(ram / "s") as memory:
        assert memory.vectors.count("n") == 1


def test_it_is_not_pickled(v: Any) -> None:
    with pytest.raises(TypeError, match="pass the store"):
        pickle.dumps(v)


def test_a_store_that_was_pickled_has_its_vectors(ram: Path) -> None:
    with ntmem.open(ram / "s") as memory:
        memory.vectors.add("n", "a", [1, 0])
        with pickle.loads(pickle.dumps(memory)) as other:
            assert other.vectors.count("n") == 1


@pytest.mark.parametrize("kind", ["shared", "lmdb"])
def test_a_forked_child(ram: Path, start: Start, kind: str) -> None:
    child = start(
        """
memory = ntmem.open(sys.argv[1], engine=sys.argv[2])
v = memory.vectors
v.add("n", "a", [1, 0])
pid = os.fork()
if pid == 0:
    told = 0
    for use in (lambda: v.add("n", "b", [1, 0]), lambda: v.search("n", [1, 0]), lambda: v.get("n", "a"),
                lambda: v.count("n"), lambda: v.info("n"), lambda: v.drop("n"), lambda: v.delete("n", "a"),
                v.collections, lambda: repr(v) and 1 / 0):
        try:
            use()
        except (RuntimeError, ntmem.NtmemError, ZeroDivisionError):
            told += 1
    with ntmem.open(sys.argv[1], engine=sys.argv[2]) as own:
        own.vectors.add("n", "c", [1, 0])
    os._exit(told)
_, status = os.waitpid(pid, 0)
say(os.waitstatus_to_exitcode(status), v.count("n"), v.get("n", "c") is not None)
""",
        ram / "s",
        kind,
    )
    assert child.line() == "9 2 True"
    child.end()


def test_stats_say_what_vectors_take(memory: Any, v: Any) -> None:
    assert memory.stats().vector_bytes == 0
    v.add("n", "a", [1, 0])
    took = memory.stats().vector_bytes
    assert took > 0
    assert v.nbytes == took
    v.add("m", "a", [1, 0])
    assert memory.stats().vector_bytes > took
    v.drop("m")
    assert memory.stats().vector_bytes == took


# -- threads


@pytest.mark.parametrize("path", [True, False])
def test_threads_that_come_first_at_once(ram: Path, path: bool) -> None:
    """They share one collection, also where it is memory of this process alone."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        for turn in range(12):
            with ntmem.open(ram / f"s{turn}" if path else None) as memory:
                together, wrong = threading.Barrier(6), []

                def work(name: str, memory: Any = memory, together: Any = together, wrong: Any = wrong) -> None:
                    together.wait()
                    v = memory.vectors
                    v.add("n", name, [1, 0])
                    if v.get("n", name) is None:
                        wrong.append(name)

                threads = [threading.Thread(target=work, args=(str(n),)) for n in range(6)]
                for thread in threads:
                    thread.start()
                for thread in threads:
                    thread.join()
                assert wrong == []
                assert memory.vectors.count("n") == 6
    finally:
        sys.setswitchinterval(interval)


def test_threads_add_delete_and_search(v: Any) -> None:
    errors: list[BaseException] = []

    def work(which: int) -> None:
        try:
            for number in range(60):
                name = f"{which}-{number % 10}"
                v.add("n", name, [1, number], {"n": number, "of": which})
                assert v.get("n", name).metadata["n"] == number
                hits = v.search("n", [1, 0], 100, where={"of": which})
                assert len({*ids(hits)}) == len(hits) == min(number + 1, 10)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert v.count("n") == 40


# -- memory


def test_a_budget_of_memory(ram: Path) -> None:
    log, most = 1 << 16, 12 << 20
    with ntmem.open(ram / "s", log_bytes=log, max_memory_bytes=most) as memory:
        v, kept = memory.vectors, 0
        with pytest.raises(VectorError, match="max_memory_bytes"):
            for number in range(100):
                v.add_many("n", [f"{number}-{n}" for n in range(500)], clustered(500, 64, seed=number))
                kept += 500
        assert kept > 0
        assert kept <= v.count("n") < kept + 500  # of the last ones, groups
        kept = v.count("n")
        part = memory.stats().memory["vectors"]
        assert part.used <= part.limit
        with pytest.raises(VectorError, match="or drop a collection"):
            v.add("other", "a", [1, 0])
        assert v.count("n") == kept
        v.drop("n")
        v.add("n", "a", np.ones(64))
        assert v.count("n") == 1


def test_one_group_keeps_to_the_budget(ram: Path) -> None:
    """Also a group as large as the budget."""
    with ntmem.open(ram / "s", max_memory_bytes=16 << 20, log_bytes=1 << 16) as memory:
        v = memory.vectors
        v.create("n", 1024, dtype="float32")
        v.add("n", "a", np.ones(1024))
        with pytest.raises((VectorError, ntmem.DiskFull)):
            for turn in range(6):
                v.add_many("n", [f"{turn}-{n}" for n in range(4000)], np.ones((4000, 1024), np.float32))
        part = memory.stats().memory["vectors"]
        assert part.used <= part.limit


@pytest.fixture
def small_shm(ram: Path) -> Iterator[Path]:
    """A file system of 80 MiB in the place of /dev/shm."""
    if os.getuid() != 0:
        pytest.skip("mounting a file system needs root")
    path = ram / "disk"
    path.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=80m", "tmpfs", path]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("mount is not allowed here")
    try:
        yield path
    finally:
        subprocess.run(["umount", path], check=True)


FULL = """
import numpy as np
from ntmem.tiers import region
region.SHARED_MEMORY, what = sys.argv[1], sys.argv[3]
def fill():
    file = os.open(region.SHARED_MEMORY + "/ballast", os.O_CREAT | os.O_WRONLY)
    try:
        while True:
            os.write(file, bytes(4096))
    except OSError:
        os.close(file)
def attempt(use):
    try:
        use()
        return "done"
    except ntmem.DiskFull as error:
        assert "nothing of the change was kept" in str(error), error
        return "full"
memory = ntmem.open(sys.argv[2], log_bytes=1 << 16)
v, one = memory.vectors, [1, 0, 0, 0]
v.create("n", 4)
v.count("n")
if what != "empty":
    v.add("n", "first", one, {"n": 1})
fill()
begun = v.count("n")
assert begun == (what != "empty")
assert (v.get("n", "first") is not None) is (what != "empty")
assert v.get("n", "a") is None
for where in (None, {"n": 1}, {"n": "text"}, {"other": 1}, {"n": {"$prefix": "t"}}, {"n": {"$exists": True}}):
    assert len(v.search("n", one, where=where)) <= 1
    v.count("n", where=where)
assert v.info("n").count == begun
assert attempt(lambda: v.add("m", "a", one)) == "full"
kept = {"first"} if begun else set()
def add(n):
    name = f"{n}"
    fate = attempt(lambda: v.add("n", name, one, {"n": "text" * 100, f"f{n}": n}))
    if fate == "done": kept.add(name)
    return fate
fates = [add(n) for n in range(40)]
assert "full" in fates, fates
assert v.count("n") == len(kept)
for n in range(10):
    names = [f"{n}-{m}" for m in range(700)]
    metadata = [{f"k{n}": f"text{m}"} for m in range(700)] if what == "names" else [{"n": m} for m in range(700)]
    if attempt(lambda: v.add_many("n", names, np.ones((700, 4)), metadata)) == "done":
        kept.update(names)
    assert v.count("n") == len(kept), (n, v.count("n"), len(kept))
os.unlink(region.SHARED_MEMORY + "/ballast")
v.add("n", "last", one)
kept.add("last")
names = [f"again-{m}" for m in range(3000)]
v.add_many("n", names, np.ones((3000, 4)), [{"x": m} for m in range(3000)])
kept.update(names)
with ntmem.open(sys.argv[2], log_bytes=1 << 16) as other:
    for each in (v, other.vectors):
        assert {hit.id for hit in each.search("n", one, 10**6)} == kept
        assert each.count("n") == len(kept)
memory.close()
say("well")
"""


@pytest.mark.parametrize("what", ["empty", "numbers", "names"])
def test_no_shared_memory_left(ram: Path, small_shm: Path, start: Start, what: str) -> None:
    """Nobody dies, reads go on, and what was refused is nowhere."""
    child = start(FULL, small_shm, ram / "s", what)
    assert child.line() == "well"
    child.end()


GROUP = """
import numpy as np
from ntmem.tiers import region
region.SHARED_MEMORY, room = sys.argv[1], int(sys.argv[3])
memory = ntmem.open(sys.argv[2], log_bytes=1 << 22)
v, kept = memory.vectors, {"first"}
v.add("n", "first", [1, 0, 0, 0])
file = os.open(region.SHARED_MEMORY + "/ballast", os.O_CREAT | os.O_WRONLY)
left = os.statvfs(region.SHARED_MEMORY)
os.posix_fallocate(file, 0, left.f_bavail * left.f_bsize - room * 65536)
for n in range(6):
    names = [f"{n}-{m}" for m in range(600)]
    metadata = [{f"k{n}-{m % 5}": f"text{m}" * 4} for m in range(600)]
    try:
        v.add_many("n", names, np.ones((600, 4)), metadata)
        kept.update(names)
    except ntmem.DiskFull:
        pass
    assert v.count("n") == len(kept), (n, v.count("n"), len(kept))
os.ftruncate(file, 0)
v.add("n", "last", [1, 0, 0, 0])
kept.add("last")
assert {hit.id for hit in v.search("n", [1, 0, 0, 0], 10**6)} == kept
with ntmem.open(sys.argv[2], log_bytes=1 << 22) as other:
    assert other.vectors.count("n") == len(kept)
say("well")
"""


def test_a_group_for_which_there_is_nearly_enough_memory(ram: Path, small_shm: Path, start: Start) -> None:
    """It is kept, or refused: whatever is short, it is found out before anything is written."""
    for room in (2, 7, 12, 17, 22):
        child = start(GROUP, small_shm, ram / f"s{room}", room)
        assert child.line() == "well", room
        child.end()
        for left in small_shm.iterdir():
            left.unlink()


# -- where its memory is lost or wrong


def test_its_memory_is_removed_under_its_users(ram: Path) -> None:
    with ntmem.open(ram / "s") as one, ntmem.open(ram / "s") as other:
        v, w, plain = one.vectors, other.vectors, Plain()
        for number in range(30):
            (v, w)[number % 2].add("n", str(number % 20), [1, number], ts_event=0, ts_known=0)
            plain.add(str(number % 20), [1, number], None, 0, 0)
            if number % 5 == 0:
                os.unlink(tail_path(str(ram / "s"), 1))
            check((w, v)[number % 2], plain)


@pytest.mark.parametrize("where", ["header", "control", "grown"])
def test_its_memory_is_damaged(ram: Path, where: str, caplog: pytest.LogCaptureFixture) -> None:
    """Who comes makes it anew."""
    with ntmem.open(ram / "s") as one:
        v, plain = one.vectors, Plain()
        for number in range(30):
            v.add("n", str(number), [1, number], ts_event=0, ts_known=0)
            plain.add(str(number), [1, number], None, 0, 0)
        path = tail_path(str(ram / "s"), 1)
        size = os.stat(path).st_size
        with open(path, "r+b") as file:
            if where == "header":
                file.write(b"\x07" * 64)
            elif where == "control":
                file.seek(4096)
                file.write(b"\x07" * 4096)
            else:
                file.truncate(size + 4096)
        with ntmem.open(ram / "s") as other:
            check(other.vectors, plain)
            assert "made anew" in caplog.text
            v.add("n", "last", [1, 0], ts_event=0, ts_known=0)
            plain.add("last", [1, 0], None, 0, 0)
            check(other.vectors, plain)
            check(v, plain)


def test_somebody_else_holds_it(ram: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(collections, "PATIENCE", 0.05)
    with ntmem.open(ram / "s") as memory, ntmem.open(ram / "s") as other:
        v = memory.vectors
        v.add("n", "a", [1, 0])
        tail = other.vectors._of(("n",)).tail()
        tail.lock(1.0)
        try:
            for use in (
                lambda: v.add("n", "b", [1, 0]),
                lambda: v.add_many("n", ["b"], [[1, 0]]),
                lambda: v.delete("n", "a"),
            ):
                with pytest.raises(ntmem.StorageError, match=f"process {os.getpid()} .* is it stopped"):
                    use()
            assert ids(v.search("n", [1, 0])) == ["a"]
            assert v.get("n", "a") is not None
        finally:
            tail.unlock()
        v.add("n", "b", [1, 0])
        assert v.count("n") == 2


def test_what_goes_past_the_log(ram: Path) -> None:
    """Vectors too large for it, or many at once, with others that are not."""
    with ntmem.open(ram / "s", log_bytes=4096) as one, ntmem.open(ram / "s", log_bytes=4096) as other:
        v, plain, rows = one.vectors, Plain(), clustered(300, 700)
        v.create("n", 700)
        at = 0
        for count in (1, 1, 40, 1, 100, 1, 1):
            names = [str(n % 90) for n in range(at, at + count)]
            (v if count % 3 else other.vectors).add_many("n", names, rows[at : at + count], ts_event=0, ts_known=0)
            for name, row in zip(names, rows[at : at + count], strict=True):
                plain.add(name, row, None, 0, 0)
            at += count
            check(other.vectors, plain)
            check(v, plain)


@pytest.mark.parametrize("durability", ["process", "disk"])
def test_however_durable(ram: Path, durability: Any) -> None:
    with ntmem.open(ram / "s", durability=durability) as memory:
        v = memory.vectors
        v.add("n", "a", [1, 0])
        v.add_many("n", ["b", "c"], [[1, 0], [1, 1]])
        v.delete("n", "c")
        assert ids(v.search("n", [1, 0])) == ["a", "b"]


# -- bits of filters that are kept


def test_what_passes_a_filter_is_the_same_kept_or_not() -> None:
    """Over adding, replacing, deleting, a field that comes late, fewer slots than before, and more filters than fit."""
    chance = random.Random(5)
    filters: list[dict[str, Any]] = [
        *({"a": {"$lt": 5}}, {"a": 3}, {"b": "x1"}, {"b": {"$prefix": "x"}}, {"late": {"$exists": False}}),
        *({"late": {"$gte": 2}}, {"$or": [{"a": 1}, {"late": {"$ne": 3}}]}, {"b": {"$nin": ["x1", "x2"]}}),
        *({"a": {"$gt": number}} for number in range(14)),
    ]
    with ntmem.open() as memory:
        v = memory.vectors
        for step in range(600):
            metadata = {"a": chance.randrange(10), "b": f"x{chance.randrange(4)}"}
            if step > 300:
                metadata["late"] = chance.randrange(5)
            v.add("n", str(chance.randrange(400)), [1, chance.random()], metadata)
            if chance.random() < 0.05:
                v.delete("n", str(chance.randrange(400)))
            where = compile_where(chance.choice(filters))
            assert where is not None
            collection = v._of(("n",))
            assert collection is not None
            tail = collection.tail()
            count = tail.count if chance.random() < 0.7 else chance.randrange(tail.count + 1)
            expected = where.bits(collections.Columns(tail), count)
            assert np.array_equal(collection.passing(tail, where, count), expected), (where, count)


def test_a_drop_that_was_not_come_to_is_done_by_the_next(ram: Path) -> None:
    """Somebody ended the memory and died before the store said so."""
    with ntmem.open(ram / "s") as one, ntmem.open(ram / "s") as other:
        one.vectors.add("n", "a", [1, 0])
        tail = one.vectors._of(("n",)).tail()  # type: ignore[union-attr]
        with tail.held(1):
            tail.end()
        assert other.vectors.drop("n")
        assert other.vectors.collections() == []
        assert one.vectors.get("n", "a") is None
        one.vectors.add("n", "b", [1, 0, 0])
        assert other.vectors.count("n") == 1
