"""Observations against a plain list of rows: appended, loaded, distilled in any order, asked as of any instant.

Blocks of 8 rows and loads from 5 rows on, so that all that happens to millions of rows happens to a hundred. The second
half is about look-ahead: an answer as of an instant is, bit for bit, that of a store which never got a later row.
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
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test
from observed import EXACT, HOW, LAST, SECOND, START, Plain, check, check_same, replay

import ntmem
from ntmem.tiers import distilling, liverows, loading, observations, seriesstate

SMALL = {
    loading: {"FEW": 5, "BLOCK_ROWS": 8},
    observations: {"FEW": 5, "BLOCK_ROWS": 8},
    distilling: {"BLOCK_ROWS": 8, "_SWEPT_AT_ONCE": 3, "_LOOKED": 7},
    seriesstate: {"_FOLLOWED": 3, "_PROBES": 2},
    liverows: {"PART_ROWS": 6, "_FIRST_ROOM": 2},
}


@pytest.fixture(autouse=True, scope="module")
def small() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        for module, constants in SMALL.items():
            for name, value in constants.items():
                patch.setattr(module, name, value)
        yield


instants = st.integers(0, 12).map(lambda n: START + n * SECOND)
floats = st.one_of(
    st.sampled_from([0.0, -0.0, 0.1, 1.0, float("inf"), float("nan"), 5e-324, 1e300]), st.floats(width=32)
)
wholes = st.one_of(st.integers(-3, 3), st.sampled_from([EXACT, -EXACT]))
FIELDS = ["a", "b", "ü"]
rows = st.lists(st.sampled_from(FIELDS), min_size=1, max_size=3, unique=True).flatmap(
    lambda names: st.fixed_dictionaries({name: st.one_of(floats, wholes) for name in names})
)
metadata = st.sampled_from([None, None, None, "x", {"k": [1, 2.5]}, b"raw", 0, ""])
embeddings = st.sampled_from([None, None, None, [1.0], [0.5, -0.0]])
wanted = st.one_of(
    st.none(), st.lists(st.sampled_from([*FIELDS, "row", "metadata", "embedding", "ts_event"]), max_size=5)
)


@st.composite
def tables(draw: st.DrawFn) -> dict[str, np.ndarray]:
    """Rows in bulk: of one kind each, few or many."""
    count = draw(st.sampled_from([0, 1, 4, 5, 8, 9, 20]))
    event = np.array(draw(st.lists(instants, min_size=count, max_size=count)), np.int64)
    if draw(st.booleans()):
        event.sort()
    later = draw(st.sampled_from([None, 0, 5]))
    known = event + later * SECOND if later is not None else np.roll(event, 1)
    columns = {"ts_event": event, "ts_known": known}
    for name in draw(st.lists(st.sampled_from(FIELDS), min_size=1, max_size=3, unique=True)):
        numbers = draw(st.lists(draw(st.sampled_from([floats, wholes])), min_size=count, max_size=count))
        whole = all(isinstance(number, int) for number in numbers)
        columns[name] = np.array(numbers, np.int64 if whole else np.float64)
    return columns


def embedded(vector: list[float] | None) -> Any:
    return None if vector is None else np.array(vector, np.float32)


class ObservationMachine(RuleBasedStateMachine):
    @initialize(how=st.sampled_from(["shared", "shared", "tiny", "lmdb"]), background=st.booleans())
    def start(self, how: str, background: bool) -> None:
        self.directory = tempfile.mkdtemp(dir="/dev/shm" if os.path.isdir("/dev/shm") else None)
        self.how: Any = {"enable_compression": background, **HOW[how]}
        self.clock = ntmem.SimulatedClock(START + 6 * SECOND)
        self.plain = {"A": Plain(), "B": Plain()}
        self.stores = [self.connect()]

    def connect(self) -> Any:
        return ntmem.open(self.directory, clock=self.clock, **self.how)

    def teardown(self) -> None:
        if hasattr(self, "stores"):
            for store in self.stores:
                store.close()
            shutil.rmtree(self.directory)

    def one(self, number: int) -> Any:
        return self.stores[number % len(self.stores)].observations

    # -- writing

    @rule(
        *[],
        by=st.integers(0, 1),
        symbol=st.sampled_from("AAAB"),
        event=instants,
        known=st.one_of(st.none(), instants),
        fields=rows,
        extra=metadata,
        vector=embeddings,
    )
    def append(self, by: int, symbol: str, event: int, known: Any, fields: Any, extra: Any, vector: Any) -> None:
        vector = embedded(vector)
        number = self.one(by).append(
            *("market", symbol, event, fields), ts_known=known, metadata=extra, embedding=vector
        )
        now = self.clock.now() if known is None else known
        assert number == self.plain[symbol].append(event, fields, now, extra, vector)

    @rule(by=st.integers(0, 1), symbol=st.sampled_from("AAAB"), event=instants, number=st.integers(1, 20))
    def append_many(self, by: int, symbol: str, event: int, number: int) -> None:
        for each in range(number):
            fields = {"a": float(each)} if each % 7 else {"a": each, "b": 0.5}
            at = event + each % 3 * SECOND
            assert self.one(by).append("market", symbol, at, fields) == self.plain[symbol].append(
                at, fields, self.clock.now()
            )

    @rule(by=st.integers(0, 1), symbol=st.sampled_from("AAAB"), columns=tables())
    def extend(self, by: int, symbol: str, columns: Any) -> None:
        assert self.one(by).extend("market", symbol, columns) == self.plain[symbol].extend(columns)

    # -- what changes nothing

    @rule(by=st.integers(0, 1), older_than=st.sampled_from([0, 0, 1, 3, 100]), symbol=st.sampled_from([None, "A"]))
    def distill(self, by: int, older_than: int, symbol: str | None) -> None:
        report = self.one(by).distill(older_than, namespace=None if symbol is None else "market", symbol=symbol)
        assert report.rows >= report.blocks >= (report.series > 0)

    # -- what drops rows

    @rule(by=st.integers(0, 1), symbol=st.sampled_from([None, "A"]))
    def drop(self, by: int, symbol: str | None) -> None:
        report = self.one(by).drop("market", symbol)
        chosen = [self.plain[it] for it in ("AB" if symbol is None else symbol)]
        assert report.rows == sum(len(plain.rows) for plain in chosen)
        for plain in chosen:
            plain.keep(set())

    @rule(by=st.integers(0, 1), age=st.integers(1, 8))
    def bound_age(self, by: int, age: int) -> None:
        store = self.stores[by % len(self.stores)]
        store.retain("market", max_age=age)
        report = store.upkeep()
        store.retain("market")
        cutoff, gone = self.clock.now() - age * SECOND, 0
        for symbol, plain in self.plain.items():
            left, blocks = self.left(by, symbol)
            gone += len(plain.rows) - len(left)
            assert all(row.ts_known < cutoff for row in plain.rows if row.number not in left)
            plain.keep(left)
            together = [
                number for first, end, known_max in blocks if known_max >= cutoff for number in range(first, end)
            ]
            assert {row.number for row in plain.rows if row.ts_known < cutoff} <= set(together)
        assert report.rows == gone

    @rule(by=st.integers(0, 1), most=st.integers(1, 20))
    def bound_rows(self, by: int, most: int) -> None:
        store = self.stores[by % len(self.stores)]
        before = {it: self.left(by, it)[1] for it in self.plain}
        rows = sum(len(plain.rows) for plain in self.plain.values())
        store.retain("market", max_entries=most)
        store.upkeep()
        store.retain("market")
        for symbol, plain in self.plain.items():
            plain.keep(self.left(by, symbol)[0])
        total = sum(len(plain.rows) for plain in self.plain.values())
        assert total >= min(rows, most)
        if self.how["enable_compression"]:
            return  # blocks may have been put together meanwhile
        after = {it: self.left(by, it)[1] for it in self.plain}
        dropped = [block for it, blocks in before.items() for block in blocks if block not in after[it]]
        kept = [block for blocks in after.values() for block in blocks]
        assert all(old[2] <= young[2] for old in dropped for young in kept)
        if kept:
            oldest = min(kept, key=lambda it: it[2])[2]
            assert any(total - (end - first) < most for first, end, known_max in kept if known_max == oldest)

    def left(self, by: int, symbol: str) -> tuple[set[int], list[tuple[int, int, int]]]:
        """Return the numbers of the rows that are there, and the blocks: first row, the one behind the last, known."""
        o = self.one(by)
        numbers = o.range("market", symbol, 0, LAST, fields=["row"], as_of=LAST)["row"].tolist()
        row = o._of("market", symbol).row()
        entries = [] if row is None else [it for it in row.entries if it["known_max"] >= 0]
        blocks = [(int(it["first"]), int(it["first"]) + int(it["rows"]), int(it["known_max"])) for it in entries]
        return set(numbers), blocks

    @rule(seconds=st.sampled_from([1, 1, 4000]))
    def tick(self, seconds: int) -> None:
        self.clock.set(self.clock.now() + seconds * SECOND)

    @rule()
    def another(self) -> None:
        if len(self.stores) < 2:
            self.stores.append(self.connect())

    @rule(by=st.integers(0, 1))
    def restart(self, by: int) -> None:
        self.stores.pop(by % len(self.stores)).close()
        if not self.stores:
            self.stores.append(self.connect())

    @rule(by=st.integers(0, 1))
    def forget_bytes(self, by: int) -> None:
        """Live rows are given up as if there were too many; they are fetched again."""
        budget = self.one(by)._budget
        budget.most = 0
        budget.shrink()
        budget.most = 1 << 20

    # -- reading

    @rule(
        by=st.integers(0, 1),
        symbol=st.sampled_from("AAAB"),
        n=st.integers(1, 30),
        as_of=st.one_of(st.none(), st.just(LAST), instants),
        names=wanted,
    )
    def recent(self, by: int, symbol: str, n: int, as_of: Any, names: Any) -> None:
        self.ask(by, symbol, "recent", (n,), as_of, names)

    @rule(
        by=st.integers(0, 1),
        symbol=st.sampled_from("AAAB"),
        ends=st.tuples(instants, instants),
        as_of=st.one_of(st.none(), st.just(LAST), instants),
        names=wanted,
    )
    def range(self, by: int, symbol: str, ends: Any, as_of: Any, names: Any) -> None:
        self.ask(by, symbol, "range", sorted(ends), as_of, names)

    def ask(self, by: int, symbol: str, what: str, args: Any, as_of: Any, names: Any) -> None:
        limit = self.clock.now() if as_of is None else as_of
        plain = self.plain[symbol]
        asked = getattr(self.one(by), what)
        kinds = plain.kinds(limit)
        missing = [] if not kinds else [name for name in names or () if name in FIELDS and name not in kinds]
        if missing:
            with pytest.raises(KeyError, match=missing[0]):
                asked("market", symbol, *args, fields=names, as_of=as_of)
            return
        expected = getattr(plain, what)(*args, fields=names, as_of=limit)
        check_same(asked("market", symbol, *args, fields=names, as_of=as_of), expected)

    @invariant()
    def every_handle_has_every_row(self) -> None:
        for store in getattr(self, "stores", ()):
            for symbol, plain in self.plain.items():
                facts = store.observations.info("market", symbol)
                assert (0 if facts is None else facts.rows) == len(plain.rows)

    @rule()
    def compare(self) -> None:
        for store in self.stores:
            for symbol, plain in self.plain.items():
                check(store.observations, plain, symbol=symbol)


def test_rows_are_those_of_a_list() -> None:
    run_state_machine_as_test(ObservationMachine, settings=settings(max_examples=80, stateful_step_count=40))


# ---- look-ahead ------------------------------------------------------------------------------------------------------

calls = st.lists(
    st.one_of(st.tuples(instants, rows, instants, metadata, embeddings), tables()), min_size=1, max_size=12
)


def done(steps: list[Any]) -> Plain:
    plain = Plain()
    for step in steps:
        if isinstance(step, dict):
            plain.extend(step)
        else:
            event, fields, known, extra, vector = step
            plain.append(event, fields, known, extra, embedded(vector))
    return plain


@settings(max_examples=120)
@given(calls, st.sampled_from(["live", "distilled", "mixed"]), st.lists(instants, min_size=1, max_size=4))
def test_as_of_is_what_a_store_says_that_never_got_later_rows(steps: list[Any], state: str, ends: list[int]) -> None:
    plain = done(steps)
    with ntmem.open(clock=ntmem.SimulatedClock(START), enable_compression=False) as memory:
        whole = memory.observations
        replay(whole, plain)
        if state == "distilled":
            whole.distill()
        elif state == "mixed":
            whole.distill()
            more = done(steps[: len(steps) // 2])
            replay(whole, more)
            plain = done(steps + steps[: len(steps) // 2])
        for as_of in ends:
            with ntmem.open(clock=ntmem.SimulatedClock(START), enable_compression=False) as other:
                replay(other.observations, plain.known_by(as_of))
                for names in (None, ["metadata", "embedding"]):
                    for what, args in (("recent", (2,)), ("recent", (100,)), ("range", (0, LAST))):
                        answers = [
                            getattr(each, what)("market", "A", *args, fields=names, as_of=as_of)
                            for each in (whole, other.observations)
                        ]
                        check_same(*answers)
                plain_one = plain.known_by(as_of)
                check_same(answers[0], plain_one.range(0, LAST, fields=names))
