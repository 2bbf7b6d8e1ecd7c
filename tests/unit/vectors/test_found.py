"""Vectors, as users of a store have them: what is added, found, deleted, added many at once."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import numpy as np
import pytest
from vectors import DTYPES, LAST, METRICS, SECOND, START, Plain, check, check_search, clustered, error, ids

import ntmem
from ntmem import VectorError
from ntmem.filters import compile_where

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
