"""Vectors, ids, metadata, instants, namespaces and filters that are refused, and what collections are."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import msgspec
import numpy as np
import pytest
from vectors import DTYPES, METRICS, clustered, ids

import ntmem
from ntmem import LATEST, VectorError

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
