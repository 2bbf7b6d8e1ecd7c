"""Observations, as users of a store have them: what is kept of a row, what is read as of when, what is refused."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pytest
from observed import HOW, SECOND, START, Plain, check, check_same

import ntmem
from ntmem import LATEST, NotOwner
from ntmem.tiers import distilling, liverows, seriesstate

MARKET = ("market", "A")


@pytest.fixture(params=HOW)
def how(request: pytest.FixtureRequest) -> dict[str, Any]:
    return HOW[request.param]


@pytest.fixture
def memory(clock: ntmem.SimulatedClock, how: dict[str, Any]) -> Iterator[ntmem.MemorySystem]:
    with ntmem.open(clock=clock, agent_id="agent_1", enable_compression=False, **how) as memory:
        yield memory


@pytest.fixture
def o(memory: ntmem.MemorySystem) -> Any:
    return memory.observations


def all_of(o: Any, fields: Any = None, symbol: str = "A") -> np.ndarray:
    found: np.ndarray = o.recent("market", symbol, 10**6, fields=fields, as_of=LATEST)
    return found


# -- a row


def test_a_row_comes_back_as_it_was(o: Any) -> None:
    assert o.append(*MARKET, START, {"bid": 1.5, "size": 3}) == 0
    [row] = o.recent(*MARKET, 1)
    assert row.dtype.names == ("ts_event", "ts_known", "bid", "size")
    assert [row.dtype[i].str for i in range(4)] == ["<i8", "<i8", "<f8", "<i8"]
    assert row.tolist() == (START, START, 1.5, 3)


def test_rows_are_numbered_as_they_come(o: Any) -> None:
    for number in range(30):
        assert o.append(*MARKET, START + number % 3, {"x": number}) == number
        assert o.append("market", "B", START, {"x": number}) == number
        assert o.append(("market", "sub"), "A", START, {"x": number}) == number
    assert o.extend(*MARKET, {"ts_event": [START] * 5, "x": [1] * 5}, known_after=0) == 5
    assert o.append(*MARKET, START, {"x": 1}) == 35
    assert sorted(all_of(o, ["row"])["row"]) == list(range(36))
    assert len(all_of(o, symbol="B")) == 30


def test_every_bit_of_a_float_comes_back(o: Any) -> None:
    bits = [
        0,
        1 << 63,
        0x7FF8000000000001,
        0xFFF8000000000007,
        0x7FF0000000000000,
        1,
        (1 << 64) - 1,
        0x7FEFFFFFFFFFFFFF,
    ]
    for number in bits:
        o.append(*MARKET, START, {"x": struct.unpack("<d", struct.pack("<Q", number))[0]})
    for distilled in (False, True):
        assert all_of(o)["x"].view(np.uint64).tolist() == bits
        if not distilled:
            o.distill()


def test_whole_numbers_of_all_sizes(o: Any) -> None:
    numbers = [0, -1, 2**53 + 1, 2**63 - 1, -(2**63)]
    for number in numbers:
        o.append(*MARKET, START, {"x": number})
    o.distill()
    o.append(*MARKET, START, {"x": np.int32(7)})
    o.append(*MARKET, START, {"x": True})
    assert all_of(o)["x"].tolist() == [*numbers, 7, 1]
    assert all_of(o).dtype["x"] == np.int64
    for wrong in (2**63, -(2**63) - 1):
        with pytest.raises(ValueError, match="field 'x' must be an int64 or a float, was an int of 64 bits"):
            o.append(*MARKET, START, {"x": wrong})


def test_a_field_that_gets_a_float_is_float_from_then_on(o: Any) -> None:
    o.append(*MARKET, START, {"x": 1})
    assert all_of(o).dtype["x"] == np.int64
    o.append(*MARKET, START, {"x": 0.5})
    o.append(*MARKET, START, {"x": 2})
    o.append(*MARKET, START, {"x": np.float32(0.25)})
    for _ in range(2):
        assert all_of(o).dtype["x"] == np.float64
        assert all_of(o)["x"].tolist() == [1.0, 0.5, 2.0, 0.25]
        o.distill()


def test_a_field_that_is_missing_is_nan(o: Any) -> None:
    o.append(*MARKET, START, {"x": 1, "y": 2})
    o.append(*MARKET, START, {"y": 3})
    o.append(*MARKET, START, {"z": 4, "y": 5})
    for _ in range(2):
        found = all_of(o)
        assert found.dtype.names == ("ts_event", "ts_known", "x", "y", "z")
        assert (found.dtype["x"], found.dtype["y"], found.dtype["z"]) == (np.float64, np.int64, np.float64)
        np.testing.assert_array_equal(found["x"], [1, np.nan, np.nan])
        np.testing.assert_array_equal(found["z"], [np.nan, np.nan, 4])
        assert found["y"].tolist() == [2, 3, 5]
        o.distill()


@pytest.mark.parametrize("other", [{"x": 0.5}, {"y": 1}])
def test_a_whole_number_that_no_float_is_refuses_to_become_one(o: Any, other: dict[str, Any]) -> None:
    o.append(*MARKET, START, {"x": 2**53 + 1})
    o.append(*MARKET, START + 1, other)
    for _ in range(2):
        with pytest.raises(ValueError, match=r"field 'x' is of whole numbers .* beyond 2\*\*53, .* leave it out"):
            all_of(o)
        assert len(all_of(o, [])) == 2
        assert len(o.range(*MARKET, START + 1, START + 2)) == 1  # it is not asked for
        o.distill()


def test_the_order_of_fields_in_a_row_does_not_matter(o: Any) -> None:
    o.append(*MARKET, START, {"x": 1, "y": 2.0})
    o.append(*MARKET, START, {"y": 4.0, "x": 3})
    assert [row.tolist()[2:] for row in all_of(o)] == [(1, 2.0), (3, 4.0)]
    assert len(o._of(*MARKET).row().layouts) == 1


def test_metadata_and_embeddings_come_if_named(o: Any) -> None:
    given = [None, "text", {"k": [1, None, 2.5]}, b"\0", 0, "", False, ["text"]]
    vectors = [None, [1, 2], np.arange(300, dtype=np.float64), None, [0.1], [-0.0], None, [2**20]]
    for extra, vector in zip(given, vectors, strict=True):
        o.append(*MARKET, START, {"x": 1.0}, metadata=extra, embedding=vector)
    for _ in range(2):
        assert all_of(o).dtype.names == ("ts_event", "ts_known", "x")
        found = all_of(o, ["embedding", "row", "metadata", "metadata", "ts_known"])
        assert found.dtype.names == ("ts_event", "ts_known", "embedding", "row", "metadata")
        assert found["metadata"].tolist() == given
        assert found["row"].tolist() == list(range(8))
        for mine, other in zip(found["embedding"], vectors, strict=True):
            assert (mine is None) == (other is None)
            if other is not None:
                assert mine.dtype == np.float32
                np.testing.assert_array_equal(mine, np.array(other, np.float32))
                mine[0] = 7  # it is the caller's own
        assert o.distill().blocks == (_ == 0)


def test_rows_that_are_too_large_for_the_log(o: Any) -> None:
    """Metadata and fields of any size; neighbours in the log and past it are numbered and read alike."""
    plain = Plain()
    wide = {f"field {number}": float(number) for number in range(1024)}
    for number in range(12):
        fields = wide if number % 4 == 1 else {"x": number}
        extra = "m" * 30_000 if number % 3 == 2 else None
        known = plain.append(START + number % 5, fields, START, extra)
        assert o.append(*MARKET, START + number % 5, fields, metadata=extra) == known
    check(o, plain)
    o.distill()
    check(o, plain)


# -- times


def test_nothing_is_merged_by_ts_event(o: Any) -> None:
    for number in range(50):
        o.append(*MARKET, START, {"x": number})
    o.extend(*MARKET, {"ts_event": np.full(2000, START), "x": np.arange(2000)}, known_after=0)
    o.append(*MARKET, START, {"x": -1})
    for _ in range(2):
        assert all_of(o)["x"].tolist() == [*range(50), *range(2000), -1]
        assert o.recent(*MARKET, 3)["x"].tolist() == [1998, 1999, -1]
        o.distill()


def test_rows_come_by_ts_event_however_they_came(o: Any) -> None:
    events = [5, 3, 9, 3, 0, 7, 9, 1]
    for number, event in enumerate(events):
        o.append(*MARKET, event, {"x": number}, ts_known=START)
        assert all_of(o)["ts_event"].tolist() == sorted(events[: number + 1])
    for _ in range(2):
        assert all_of(o)["x"].tolist() == [4, 7, 1, 3, 0, 5, 2, 6]
        assert o.range(*MARKET, 3, 9)["x"].tolist() == [1, 3, 0, 5]
        assert o.range(*MARKET, 3, 3)["x"].tolist() == []
        assert [o.recent(*MARKET, n)["x"].tolist() for n in (1, 2, 4)] == [[6], [2, 6], [0, 5, 2, 6]]
        o.distill()


def test_instants_in_every_form(o: Any) -> None:
    forms = [START, datetime.fromtimestamp(START // SECOND, UTC), np.datetime64(START, "ns"), np.int64(START)]
    for event in forms:
        for known in forms:
            o.append(*MARKET, event, {"x": 1.0}, ts_known=known)
    found = all_of(o)
    assert found["ts_event"].tolist() == found["ts_known"].tolist() == [START] * 16
    assert all(len(o.range(*MARKET, it, it)) == 0 for it in forms)
    assert all(len(o.recent(*MARKET, 99, as_of=it)) == 16 for it in forms)


def test_only_what_was_known(o: Any, clock: ntmem.SimulatedClock) -> None:
    """Known before it happened (clocks differ), with it, later, and ahead of the clock."""
    for event, known in ((10, 5), (11, 11), (12, 40), (13, START + SECOND)):
        o.append(*MARKET, event, {"x": event}, ts_known=known)
    for _ in range(2):
        for as_of, expected in ((4, []), (5, [10]), (10, [10]), (11, [10, 11]), (39, [10, 11]), (40, [10, 11, 12])):
            assert o.range(*MARKET, 0, 100, as_of=as_of, fields=["x"])["x"].tolist() == expected
            assert o.recent(*MARKET, 2, as_of=as_of, fields=["x"])["x"].tolist() == expected[-2:]
        assert o.recent(*MARKET, 9)["x"].tolist() == [10, 11, 12]
        assert o.recent(*MARKET, 9, as_of=LATEST)["x"].tolist() == [10, 11, 12, 13]
        o.distill()
    clock.set(START + SECOND)
    assert o.recent(*MARKET, 9)["x"].tolist() == [10, 11, 12, 13]
    o.append(*MARKET, 14, {"x": 14})
    assert o.recent(*MARKET, 1)["ts_known"].tolist() == [START + SECOND]


def test_fields_of_the_future_are_not_there(o: Any) -> None:
    """Neither a field, nor its being a float, nor the order of fields tells of rows that were not known."""
    o.append(*MARKET, 1, {"b": 0.5, "a": 1.5, "secret": 1.0}, ts_known=100)
    o.append(*MARKET, 1, {"b": 0.5, "a": 1}, ts_known=90)
    o.append(*MARKET, 2, {"a": 1, "b": 2}, ts_known=10)
    o.append(*MARKET, 3, {"b": 1, "a": 1}, ts_known=80)
    for _ in range(2):
        found = o.recent(*MARKET, 9, as_of=50)
        assert found.dtype == [("ts_event", "<i8"), ("ts_known", "<i8"), ("a", "<i8"), ("b", "<i8")]
        assert found.tolist() == [(2, 10, 1, 2)]
        with pytest.raises(KeyError, match="there is no field 'secret'; there are a, b"):
            o.recent(*MARKET, 9, fields=["secret"], as_of=50)
        assert len(o.recent(*MARKET, 9, fields=["secret"], as_of=5)) == 0
        found = o.recent(*MARKET, 9, as_of=100)
        assert found.dtype.names[2:] == ("a", "b", "secret")
        assert [found.dtype[name].kind for name in ("a", "b", "secret")] == ["f", "f", "f"]
        o.distill()


def test_a_layout_is_known_since_its_earliest_row(o: Any) -> None:
    """The row that lowers it is of a layout that this handle knows from later rows."""
    for known in (100, 101, 10, 50, 9):
        o.append(*MARKET, 1, {"x": float(known)}, ts_known=known)
        assert o.recent(*MARKET, 1, as_of=known).dtype.names[2:] == ("x",)
    assert o.recent(*MARKET, 5, as_of=10)["x"].tolist() == [10, 9]
    assert o.recent(*MARKET, 5, as_of=8).dtype.names[2:] == ()


# -- what there is not


def test_a_series_that_does_not_exist(o: Any) -> None:
    for found in (o.recent(*MARKET, 5), o.range(*MARKET, 0, START)):
        assert (len(found), found.dtype.names) == (0, ("ts_event", "ts_known"))
    found = o.recent(*MARKET, 5, fields=["x", "row", "metadata"])
    assert found.dtype == [("ts_event", "<i8"), ("ts_known", "<i8"), ("x", "<f8"), ("row", "<i8"), ("metadata", "O")]
    assert o.info(*MARKET) is None
    assert o.symbols("market") == []
    assert o.distill() == o.distill(symbol="A", namespace="market") == distilling.DistillReport()


def test_an_unknown_field(o: Any) -> None:
    o.append(*MARKET, START, {"x": 1.0})
    with pytest.raises(KeyError, match="there is no field 'y'; there are x"):
        o.recent(*MARKET, 1, fields=["x", "y"])
    with pytest.raises(TypeError, match=r"fields must be a sequence of names, was the string 'x'; pass \['x'\]"):
        o.recent(*MARKET, 1, fields="x")


def test_symbols(o: Any) -> None:
    for namespace, symbol in (("a", "é"), ("a", "B"), ("a", "B/C"), ("a/b", "X"), ("ab", "Y")):
        o.append(namespace, symbol, START, {"x": 1.0})
    assert o.symbols("a") == ["B", "B/C", "é"]
    assert (o.symbols(("a", "b")), o.symbols("b")) == (["X"], [])
    assert o.distill(namespace="a").series == 3
    assert o.distill().series == 2


# -- what is refused


@pytest.mark.parametrize(
    ("fields", "error", "says"),
    [
        ({}, ValueError, "a row has 1 to 1024 fields, had 0"),
        ({f"{n}": 1 for n in range(1025)}, ValueError, "a row has 1 to 1024 fields, had 1025"),
        ([("x", 1)], TypeError, "fields must be a mapping of names to numbers, was list"),
        (None, TypeError, "fields must be a mapping"),
        ({1: 1}, TypeError, "names of fields are str, one was int"),
        ({"": 1}, ValueError, "is not empty and holds no NUL"),
        ({"a\0": 1}, ValueError, "holds no NUL"),
        ({"x": "1"}, TypeError, "field 'x' must be a float or an int, was str"),
        ({"x": None}, TypeError, "field 'x' must be a float or an int, was NoneType"),
        ({"x": 1j}, TypeError, "was complex"),
        ({"ts_event": 1}, ValueError, "'ts_event' is a column that every row has"),
        ({"ts_known": 1}, ValueError, "call the field something else"),
        ({"row": 1}, ValueError, "'row'"),
        ({"metadata": 1}, ValueError, "'metadata'"),
        ({"embedding": 1}, ValueError, "'embedding'"),
    ],
)
def test_fields_that_are_none(o: Any, fields: Any, error: type[Exception], says: str) -> None:
    for exists in range(2):
        with pytest.raises(error, match=says):
            o.append(*MARKET, START, fields)
        assert len(all_of(o)) == exists
        o.append(*MARKET, START, {"x": 1})


@pytest.mark.parametrize(
    ("options", "error", "says"),
    [
        ({"ts_event": -1}, ValueError, "ts_event must lie between 1970 and 2262"),
        ({"ts_event": 2**63}, ValueError, "ts_event must lie between"),
        ({"ts_event": 1.5}, TypeError, "ts_event must be int nanoseconds"),
        ({"ts_event": None}, TypeError, "ts_event must be"),
        ({"ts_event": datetime(2024, 1, 1)}, ValueError, "time zone"),
        ({"ts_known": -1}, ValueError, "ts_known must lie between"),
        ({"ts_known": 2**63}, ValueError, "ts_known must lie between"),
        ({"ts_known": "now"}, TypeError, "ts_known must be"),
        ({"embedding": 1.0}, ValueError, "array of numbers of one dimension"),
        ({"embedding": []}, ValueError, "one dimension"),
        ({"embedding": [[1.0]]}, ValueError, "one dimension"),
        ({"embedding": ["a"]}, ValueError, "array of numbers"),
        ({"embedding": [float("nan")]}, ValueError, "finite numbers that float32 can hold"),
        ({"embedding": [1e39]}, ValueError, "finite numbers that float32 can hold"),
        ({"metadata": object()}, TypeError, "metadata must be what MessagePack can hold"),
        ({"metadata": 2**64}, TypeError, "MessagePack"),
    ],
)
def test_what_a_row_cannot_have(o: Any, options: dict[str, Any], error: type[Exception], says: str) -> None:
    for exists in range(2):
        with pytest.raises(error, match=says):
            o.append(*MARKET, **{"ts_event": START, "fields": {"x": 1.0}} | options)
        assert len(all_of(o)) == exists
        o.append(*MARKET, START, {"x": 1.0})


def test_questions_that_are_none(o: Any) -> None:
    o.append(*MARKET, START, {"x": 1.0})
    for n, error in ((0, ValueError), (-1, ValueError), (1.0, TypeError), (True, TypeError)):
        with pytest.raises(error, match="n must be"):
            o.recent(*MARKET, n)
    with pytest.raises(ValueError, match="end must not lie before start, was 1 and 2"):
        o.range(*MARKET, 2, 1)
    for call in (lambda it: o.range(*MARKET, it, START), lambda it: o.recent(*MARKET, 1, as_of=it)):
        with pytest.raises(TypeError, match="must be int nanoseconds"):
            call("yesterday")
        with pytest.raises(ValueError, match="1970"):
            call(-1)
    for namespace, symbol in (("", "A"), ("a//b", "A"), ("a", "")):
        for ask in (lambda n, s: o.append(n, s, START, {"x": 1}), lambda n, s: o.recent(n, s, 1), o.info):
            with pytest.raises((ntmem.InvalidNamespace, ValueError)):
                ask(namespace, symbol)
    with pytest.raises(ValueError, match="a symbol is one of a namespace; pass both"):
        o.distill(symbol="A")
    for older_than, error in ((-1, ValueError), ("1", TypeError), (float("nan"), ValueError)):
        with pytest.raises(error, match="older_than"):
            o.distill(older_than)


def test_its_namespaces_are_its_own(memory: ntmem.MemorySystem, o: Any) -> None:
    o.append(*MARKET, START, {"x": 1.0}, embedding=[1.0])
    for name in ("series", "rows", "blocks", "embeddings"):
        with pytest.raises(NotOwner, match=f"ntmem/{name} belongs to the observations; change it by memory.obs"):
            memory.put(("ntmem", name), "k", b"")
        for namespace in (("ntmem", name), "ntmem"):
            with pytest.raises(NotOwner):
                memory.delete_namespace(namespace)
    assert len(all_of(o)) == 1


# -- distilling


def test_a_report_and_what_is_left(o: Any, clock: ntmem.SimulatedClock) -> None:
    plain = Plain()
    for number in range(600):
        fields = {"x": number * 0.5, "n": number}
        plain.append(START + number, fields, START + number)
        o.append(*MARKET, START + number, fields, ts_known=START + number)
    clock.set(START + SECOND)
    before = o.info(*MARKET)
    assert (before.fields, before.rows, before.live_rows, before.blocks) == (("x", "n"), 600, 600, 0)
    assert (before.block_bytes, before.raw_bytes) == (0, 600 * 32)
    report = o.distill()
    assert report[:3] == (1, 600, 1)
    after = o.info(*MARKET)
    assert (after.rows, after.live_rows, after.blocks, after.live_bytes) == (600, 0, 1, 0)
    assert (report.bytes_after, report.raw_bytes) == (after.block_bytes, before.raw_bytes)
    assert report.ratio == before.raw_bytes / after.block_bytes > 4
    assert report.bytes_before > before.live_bytes
    assert o.distill() == distilling.DistillReport()
    assert o.distill().ratio == 1.0
    check(o, plain)


def test_only_what_is_older(o: Any, clock: ntmem.SimulatedClock) -> None:
    for number in range(10):
        o.append(*MARKET, START, {"x": number}, ts_known=START + number * SECOND)
    clock.set(START + 9 * SECOND)
    o.append(*MARKET, START, {"x": 10}, ts_known=START + 99 * SECOND)
    for older_than, live in ((6, 6), (timedelta(seconds=2.5), 3), (0, 0)):
        o.distill(older_than)
        assert o.info(*MARKET).live_rows == live
        assert all_of(o)["x"].tolist() == list(range(11))


@pytest.mark.parametrize("live", [0, 300])
def test_what_means_nothing_any_more_is_removed(memory: ntmem.MemorySystem, o: Any, live: int) -> None:
    for times in range(3):
        for number in range(live):
            o.append(*MARKET, START, {"x": number}, embedding=[1.0] if number == 7 else None)
        o.extend(*MARKET, {"ts_event": np.full(1500, START), "x": np.arange(1500)}, known_after=0)
        o.distill()
        engine = memory._engine()
        assert len([*engine.entries_of(("ntmem", "rows"), b"")]) == 0
        assert len([*engine.entries_of(("ntmem", "blocks"), b"")]) == o.info(*MARKET).blocks == 1
        assert len([*engine.entries_of(("ntmem", "embeddings"), b"")]) == (times + 1 if live else 0)
        assert o._of(*MARKET).row().garbage == ()


def test_live_rows_that_were_given_up_are_fetched_again(o: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(liverows, "PART_ROWS", 16)
    monkeypatch.setattr(seriesstate, "_FOLLOWED", 10)
    plain = Plain()
    o._budget.most = 1500
    for number in range(200):
        fields = {"x": float(number)}
        plain.append(START + number % 50, fields, START + number % 7, "m" if number % 5 == 0 else None)
        o.append(*MARKET, START + number % 50, fields, ts_known=START + number % 7, metadata=plain.rows[-1].metadata)
        if number % 20 == 0:
            check(o, plain)
    parts = o._of(*MARKET).live()[1]
    assert sum(part.nbytes > 0 for part in parts) < len(parts) // 2
    check_same(o.recent(*MARKET, 9, as_of=START + 3), plain.recent(9, as_of=START + 3))
    o.distill()
    check(o, plain)
