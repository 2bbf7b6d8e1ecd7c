"""Vectors against a plain list of changes: added, replaced, deleted, dropped in any order, asked as of any instant.

Indexes that begin with few changes and groups of five, so that what happens to thousands happens to dozens.
``NTMEM_VECTOR_EXAMPLES`` says how many examples there are of each.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule, run_state_machine_as_test
from vectors import DTYPES, LAST, METRICS, SECOND, START, Plain, check, check_get, check_search

import ntmem
from ntmem import LATEST
from ntmem.tiers import collection
from ntmem.tiers import vectors as stores

HOW: dict[str, dict[str, Any]] = {
    "shared": {"engine": "shared"},
    "tiny": {"engine": "shared", "log_bytes": 4096},
    "lmdb": {"engine": "lmdb"},
}
EXAMPLES = int(os.environ.get("NTMEM_VECTOR_EXAMPLES", "20"))
SMALL = {collection: {"_GROUP": 5, "_FOLLOWED": 3, "_ROOM_CHECKED": 2}, stores: {"_DROPPED_AT_ONCE": 4}}


@pytest.fixture(autouse=True, scope="module")
def small() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        for module, constants in SMALL.items():
            for name, value in constants.items():
                patch.setattr(module, name, value)
        yield


instants = st.integers(0, 12).map(lambda n: START + n * SECOND)
known = st.one_of(st.none(), st.none(), instants)
names = st.sampled_from([*"abcdefgh", "ü" * 200])
numbers = st.one_of(st.integers(-3, 3).map(float), st.floats(-2, 2, width=32))
rows = st.lists(numbers, min_size=3, max_size=3).filter(lambda row: max(map(abs, row)) > 1e-3)
values = st.sampled_from([None, True, 0, 1, 2, 1.0, 0.5, -0.0, "x", "xy", "", b"x", [1], {"k": 1}, 2**63, float("nan")])
metadata = st.one_of(st.none(), st.dictionaries(st.sampled_from(["p", "q", "r", "long " * 20]), values, max_size=3))
wheres = st.one_of(
    st.none(),
    st.none(),
    st.builds(
        lambda name, op, value: {name: {op: value}},
        st.sampled_from(["p", "q", "r", "long " * 20, "nobody"]),
        st.sampled_from(["$eq", "$ne", "$contains"]),
        values,
    ),
    st.builds(
        lambda name, op, value: {name: {op: value}},
        st.sampled_from("pqr"),
        st.sampled_from(["$gt", "$lte"]),
        st.sampled_from([0, 1, "x"]),
    ),
    st.builds(lambda name, there: {name: {"$exists": there}}, st.sampled_from(["p", "long " * 20]), st.booleans()),
)
as_ofs = st.one_of(st.none(), st.just(LATEST), instants)
by = st.integers(0, 2)
spaces = st.sampled_from(["n", "n", "n", "m"])


class VectorMachine(RuleBasedStateMachine):
    @initialize(
        how=st.sampled_from(["shared", "shared", "tiny", "lmdb"]),
        metric=st.sampled_from(METRICS),
        dtype=st.sampled_from(DTYPES),
    )
    def start(self, how: str, metric: str, dtype: str) -> None:
        self.directory = tempfile.mkdtemp(dir="/dev/shm" if os.path.isdir("/dev/shm") else None)
        self.how, self.made = HOW[how], (metric, dtype)
        self.clock = ntmem.SimulatedClock(START + 6 * SECOND)
        self.stores = [self.connect()]
        self.plain: dict[str, Plain] = {}
        self.stores[0].vectors.create("n", 3, metric=metric, dtype=dtype)
        self.plain["n"] = Plain(metric, dtype)

    def connect(self) -> Any:
        return ntmem.open(self.directory, clock=self.clock, **self.how)

    def teardown(self) -> None:
        if hasattr(self, "stores"):
            for store in self.stores:
                store.close()
            shutil.rmtree(self.directory)

    def one(self, number: int) -> Any:
        return self.stores[number % len(self.stores)].vectors

    def of(self, space: str) -> Plain:
        return self.plain.setdefault(space, Plain())

    def instant(self, at: int | None) -> int:
        return self.clock.now() if at is None else at

    # -- changing

    @rule(by=by, space=spaces, name=names, row=rows, extra=metadata, at=known, event=known)
    def add(self, by: int, space: str, name: str, row: Any, extra: Any, at: Any, event: Any) -> None:
        self.one(by).add(space, name, row, extra, ts_known=at, ts_event=event)
        self.of(space).add(name, row, extra, self.instant(event), self.instant(at))

    @rule(by=by, space=spaces, many=st.lists(st.tuples(names, rows, metadata, instants), max_size=14))
    def add_many(self, by: int, space: str, many: Any) -> None:
        each = [*zip(*many, strict=True)] or [[]] * 4
        assert self.one(by).add_many(space, each[0], [*each[1]], each[2], ts_known=[*each[3]], ts_event=START) == len(
            many
        )
        for name, row, extra, at in many:
            self.of(space).add(name, row, extra, START, at)

    @rule(by=by, space=spaces, count=st.integers(1, 80), first=st.integers(0, 1000))
    def add_others(self, by: int, space: str, count: int, first: int) -> None:
        for number in range(first, first + count):
            self.one(number).add(space, f"other {number}", [1, number % 7, number % 3], {"p": number})
            self.of(space).add(
                f"other {number}", [1, number % 7, number % 3], {"p": number}, self.clock.now(), self.clock.now()
            )

    @rule(by=by, space=spaces, name=names, at=known)
    def delete(self, by: int, space: str, name: str, at: Any) -> None:
        is_there = space in self.plain and self.plain[space].get(name, self.clock.now()) is not None
        assert self.one(by).delete(space, name, ts_known=at) == is_there
        if is_there:
            self.plain[space].delete(name, self.instant(at))

    @rule(by=by, space=spaces, where=wheres, at=known)
    def delete_where(self, by: int, space: str, where: Any, at: Any) -> None:
        if where is None:
            return
        gone = self.plain[space].served(self.clock.now(), where) if space in self.plain else []
        assert self.one(by).delete(space, where=where, ts_known=at) == len(gone)
        for row in gone:
            self.plain[space].delete(row.id, self.instant(at))

    @rule(by=by, space=spaces)
    def drop(self, by: int, space: str) -> None:
        assert self.one(by).drop(space) == (space in self.plain)
        self.plain.pop(space, None)

    # -- what changes nothing

    @rule(seconds=st.integers(1, 3))
    def tick(self, seconds: int) -> None:
        self.clock.set(self.clock.now() + seconds * SECOND)

    @rule()
    def another(self) -> None:
        if len(self.stores) < 3:
            self.stores.append(self.connect())

    @rule(by=by)
    def restart(self, by: int) -> None:
        self.stores.pop(by % len(self.stores)).close()
        if not self.stores:
            self.stores.append(self.connect())

    @rule(by=by)
    def flush(self, by: int) -> None:
        self.stores[by % len(self.stores)].flush()

    # -- reading

    @rule(by=by, space=spaces, query=rows, k=st.integers(1, 12), where=wheres, as_of=as_ofs)
    def search(self, by: int, space: str, query: Any, k: int, where: Any, as_of: Any) -> None:
        found = self.one(by).search(space, query, k, where=where, as_of=as_of)
        check_hits(found, self.plain.get(space, Plain()), query, k, self.limit(as_of), where)
        assert self.one(by).count(space, where=where, as_of=as_of) == len(
            self.plain.get(space, Plain()).served(self.limit(as_of), where)
        )

    @rule(by=by, space=spaces, name=names, as_of=as_ofs)
    def get(self, by: int, space: str, name: str, as_of: Any) -> None:
        row = self.plain.get(space, Plain()).get(name, self.limit(as_of))
        found = self.one(by).get(space, name, as_of=as_of)
        assert repr(found and found.metadata) == repr(row and row.metadata)
        if row is not None and repr(row.metadata).count("nan") == 0:
            check_get(found, row)

    def limit(self, as_of: Any) -> int:
        return LAST if as_of is LATEST else self.instant(as_of)

    @rule()
    def compare(self) -> None:
        for store in self.stores:
            assert store.vectors.collections() == sorted((space,) for space in self.plain)
            for space, plain in self.plain.items():
                facts = store.vectors.info(space)
                assert (facts.changes, facts.count) == (len(plain.rows), len(plain.served(self.clock.now())))
                hits = store.vectors.search(space, [1, 0, 0], 10_000, as_of=LATEST)
                check_hits(hits, plain, [1, 0, 0], 10_000, LAST, None)


def check_hits(hits: Any, plain: Plain, query: Any, k: int, as_of: int, where: Any) -> None:
    """As ``check_search``, where metadata may have a NaN, which is equal to nothing."""
    there = {row.id: row for row in plain.served(as_of, where)}
    for hit in hits:
        assert repr(hit.metadata) == repr(there[hit.id].metadata)
    same = [hit._replace(metadata=there[hit.id].metadata) for hit in hits]
    check_search(same, plain, query, k, as_of, where)


def test_answers_are_those_of_a_list() -> None:
    run_state_machine_as_test(VectorMachine, settings=settings(max_examples=EXAMPLES, stateful_step_count=40))


# ---- look-ahead ------------------------------------------------------------------------------------------------------

changes = st.lists(
    st.tuples(
        st.sampled_from("abc"),
        st.one_of(st.none(), rows),
        st.dictionaries(st.sampled_from("pq"), st.integers(0, 2), max_size=2),
        instants,
    ),
    min_size=1,
    max_size=25,
)


def done(v: Any, steps: list[Any]) -> Plain:
    plain = Plain()
    v.create("n", 3)
    for name, row, extra, at in steps:
        if row is not None:
            v.add("n", name, row, extra, ts_known=at, ts_event=START)
            plain.add(name, row, extra, START, at)
        elif v.delete("n", name, ts_known=at):
            plain.delete(name, at)
    return plain


@settings(max_examples=EXAMPLES)
@given(changes, st.lists(instants, min_size=1, max_size=4), rows)
def test_as_of_is_what_a_store_says_that_never_got_later_changes(
    steps: list[Any], ends: list[int], query: list[float]
) -> None:
    with ntmem.open(clock=ntmem.SimulatedClock(START + 20 * SECOND)) as memory:
        v = memory.vectors
        plain = done(v, steps)
        for as_of in ends:
            with ntmem.open(clock=ntmem.SimulatedClock(START + 20 * SECOND)) as other:
                w = other.vectors
                w.create("n", 3)
                for row in plain.rows:
                    if row.ts_known <= as_of and row.vector is not None:
                        w.add("n", row.id, row.vector, row.metadata, ts_known=row.ts_known, ts_event=START)
                    elif row.ts_known <= as_of:
                        w.add("n", row.id, [1, 1, 1], ts_known=row.ts_known, ts_event=START)
                        w.delete("n", row.id, ts_known=row.ts_known)
                for where in (None, {"p": {"$gte": 1}}):
                    for k in (1, 2, 30):
                        mine = v.search("n", query, k, as_of=as_of, where=where)
                        theirs = w.search("n", query, k, as_of=as_of, where=where)
                        assert mine == theirs == w.search("n", query, k, where=where)
                    arrays = [each.search_arrays("n", np.array([query], "f4"), 3, as_of=as_of) for each in (v, w)]
                    assert arrays[0][0].tolist() == arrays[1][0].tolist()
            check(v, plain, as_of=as_of, queries=[query], dimension=3)
