"""What is found of vectors as of when, by which metadata, and by text."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pytest
from vectors import LAST, SECOND, START, Plain, check, check_search, ids

import ntmem
from ntmem import LATEST

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
