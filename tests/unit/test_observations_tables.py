"""Tables of observations in every form that users have them, and what is said of those that are none."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pytest
from observed import HOW, LAST, SECOND, START, Plain, check, check_same

import ntmem
from ntmem import LATEST

MARKET = ("market", "A")


@pytest.fixture(params=HOW)
def o(request: pytest.FixtureRequest) -> Iterator[Any]:
    clock = ntmem.SimulatedClock(START)
    with ntmem.open(clock=clock, enable_compression=False, **HOW[request.param]) as memory:
        yield memory.observations


@pytest.fixture
def plain_o() -> Iterator[Any]:
    """For what is decided before anything is written: one engine says it all."""
    with ntmem.open(clock=ntmem.SimulatedClock(START), enable_compression=False) as memory:
        yield memory.observations


def all_of(o: Any, fields: Any = None) -> np.ndarray:
    found: np.ndarray = o.recent(*MARKET, 10**6, fields=fields, as_of=LATEST)
    return found


def events(count: int) -> np.ndarray:
    return START + np.arange(count, dtype=np.int64) * SECOND


# -- how many


@pytest.mark.parametrize("count", [1, 1023, 1024, 1025, 40_000])
def test_few_and_many(o: Any, count: int) -> None:
    """Up to 1,023 rows are live; of more blocks are made, of one size nearly."""
    plain = Plain()
    chance = np.random.default_rng(count)
    event = START + chance.integers(0, 10 * count, count)
    columns = {"ts_event": event, "ts_known": event + 7, "x": chance.normal(size=count), "n": np.arange(count)}
    o.append(*MARKET, START, {"x": -1.0, "n": -1})
    assert o.extend(*MARKET, columns) == count
    o.append(*MARKET, START, {"x": 1.0, "n": -2})
    facts = o.info(*MARKET)
    assert facts.rows == count + 2
    assert facts.blocks == (0 if count < 1024 else -(-count // 16_384))
    if count <= 1025:
        plain.append(START, {"x": -1.0, "n": -1}, START)
        plain.extend(columns)
        plain.append(START, {"x": 1.0, "n": -2}, START)
        check(o, plain)
    found = all_of(o, ["n", "x"])
    order = np.argsort(event, kind="stable")
    mine = found[found["n"] >= 0]
    assert mine["n"].tolist() == order.tolist()
    assert mine["x"].tobytes() == columns["x"][order].tobytes()
    o.distill()
    check_same(all_of(o, ["n", "x"]), found)
    assert o.info(*MARKET).live_rows == 0


def test_none(o: Any) -> None:
    for columns in ({"ts_event": [], "x": []}, {"ts_event": np.empty(0, "M8[s]"), "x": np.empty(0, np.uint64)}):
        assert o.extend(*MARKET, columns, known_after=60) == 0
    assert o.info(*MARKET) is None
    assert o.append(*MARKET, START, {"x": 1.0}) == 0


def test_rows_beside_blocks(o: Any) -> None:
    """Appended before, between and after; numbers are those of the order of calls."""
    plain = Plain()
    for times in range(3):
        for number in range(3):
            plain.append(START + number, {"x": number, "m": 1.0}, START, "m")
            o.append(*MARKET, START + number, {"x": number, "m": 1.0}, metadata="m")
        columns = {"ts_event": events(1100) + times, "ts_known": events(1100), "x": np.arange(1100.0)}
        plain.extend(columns)
        o.extend(*MARKET, columns)
        columns = {name: values[:5] for name, values in columns.items()}
        plain.extend(columns)
        o.extend(*MARKET, columns)
    check(o, plain)
    o.distill()
    check(o, plain)


@pytest.mark.parametrize("count", [5, 1500])
@pytest.mark.parametrize("distilled", [False, True])
def test_rows_of_one_table_are_known_one_by_one(o: Any, count: int, distilled: bool) -> None:
    """Its fields since the earliest, be that the last of the rows."""
    event = START - np.arange(count)
    o.extend(*MARKET, {"ts_event": event, "ts_known": START + np.arange(count)[::-1], "x": np.arange(count)})
    if distilled:
        o.distill()
    for later in (0, 1, count // 2, count - 1):
        found = o.recent(*MARKET, count, as_of=START + later)
        assert found["x"].tolist() == list(range(count - 1, count - 2 - later, -1))
        assert o.recent(*MARKET, 2, as_of=START + later)["x"].tolist() == found["x"].tolist()[-2:]
    assert o.recent(*MARKET, 1, as_of=START - 1).dtype.names == ("ts_event", "ts_known")


# -- what tables are like


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        ([1.5, 2.5], "<f8"),
        ([1, 2], "<i8"),
        ([True, False], "<i8"),
        (np.array([0.1, 0.2], np.float32), "<f8"),
        (np.array([0.5, 0.25], np.float16), "<f8"),
        (np.array([0.5, 0.25], ">f8"), "<f8"),
        (np.array([-1, 2], ">i4"), "<i8"),
        (np.array([1, 2], np.uint8), "<i8"),
        (np.array([1, 2**63 - 1], np.uint64), "<i8"),
        (np.arange(8.0)[::-4], "<f8"),
        (np.array([-(2**63), 2**63 - 1]), "<i8"),
    ],
)
def test_columns_of_numbers(plain_o: Any, values: Any, kind: str) -> None:
    for count in (1, 1000):
        repeated = {"ts_event": np.repeat(events(2), count), "x": np.repeat(np.asarray(values), count)}
        assert plain_o.extend(*MARKET, repeated, known_after=0) == 2 * count
    found = all_of(plain_o)
    assert found.dtype["x"].str == kind
    assert found["x"][[0, -1]].tolist() == [np.asarray(values)[i].item() for i in (0, 1)]


@pytest.mark.parametrize("unit", ["ns", "us", "ms", "s", "m", "D"])
def test_columns_of_instants(plain_o: Any, unit: str) -> None:
    event = np.array(["2024-01-01", "2024-01-02"], f"M8[{unit}]")
    plain_o.extend(*MARKET, {"ts_event": event, "ts_known": event + np.timedelta64(1, "D"), "x": [1, 2]})
    found = all_of(plain_o)
    first = 1_704_067_200 * SECOND
    assert found["ts_event"].tolist() == [first, first + 86_400 * SECOND]
    assert found["ts_known"].tolist() == [first + 86_400 * SECOND, first + 2 * 86_400 * SECOND]


@pytest.mark.parametrize(
    ("after", "ns"), [(0, 0), (60, 60 * SECOND), (0.5, SECOND // 2), (timedelta(minutes=1), 60 * SECOND)]
)
def test_known_after(plain_o: Any, after: Any, ns: int) -> None:
    plain_o.extend(*MARKET, {"ts_event": events(2), "x": [1, 2]}, known_after=after)
    found = all_of(plain_o)
    assert (found["ts_known"] - found["ts_event"]).tolist() == [ns, ns]
    assert len(plain_o.recent(*MARKET, 9, as_of=START + ns - 1)) == 0
    assert plain_o.recent(*MARKET, 9, as_of=START + ns)["x"].tolist() == [1]


@pytest.mark.parametrize(
    ("columns", "after", "error", "says"),
    [
        (
            None,
            0,
            TypeError,
            "columns must be a mapping of names to arrays, a DataFrame or an Arrow table, was NoneType",
        ),
        ([1, 2], 0, TypeError, "was list"),
        ({}, 0, ValueError, "there must be a column 'ts_event', were none"),
        ({"x": [1], "y": [1]}, 0, ValueError, "there must be a column 'ts_event', were 'x', 'y'"),
        ({"ts_event": [1]}, 0, ValueError, "there must be a column beside the times"),
        ({"ts_event": [1], "x": [1]}, None, ValueError, "were neither; now would hide all of it from as_of"),
        ({"ts_event": [1], "ts_known": [1], "x": [1]}, 1, ValueError, "not by both"),
        ({"ts_event": [1, 2], "x": [1]}, 0, ValueError, "'ts_event' has 2 rows, 'x' has 1"),
        ({"ts_event": [1], "ts_known": [1, 2], "x": [1]}, None, ValueError, "'ts_event' has 1 rows, 'ts_known' has 2"),
        (
            {"ts_event": [[1]], "x": [1]},
            0,
            ValueError,
            r"column 'ts_event' must have one dimension, had shape \(1, 1\)",
        ),
        ({"ts_event": [1], "x": 5}, 0, ValueError, "column 'x' must have one dimension"),
        ({"ts_event": [1.0], "x": [1]}, 0, TypeError, "column 'ts_event' must be int64 nanoseconds UTC or datetime64"),
        ({"ts_event": ["a"], "x": [1]}, 0, TypeError, "column 'ts_event' must be int64"),
        ({"ts_event": [-1], "x": [1]}, 0, ValueError, "column 'ts_event' must lie between 1970 and 2262"),
        ({"ts_event": np.array([2**63], np.uint64), "x": [1]}, 0, ValueError, "between 1970 and 2262"),
        (
            {"ts_event": np.array(["NaT"], "M8[ns]"), "x": [1]},
            0,
            ValueError,
            r"column 'ts_event' has .* missing \(NaT\)",
        ),
        ({"ts_event": np.array(["9999"], "M8[Y]"), "x": [1]}, 0, ValueError, "cannot hold"),
        ({"ts_event": np.array(["1969"], "M8[Y]"), "x": [1]}, 0, ValueError, "between 1970"),
        ({"ts_event": [1], "ts_known": [-1], "x": [1]}, None, ValueError, "column 'ts_known' must lie between"),
        ({"ts_event": [LAST], "x": [1]}, 1, ValueError, "ts_event and known_after lie beyond 2262"),
        ({"ts_event": [1], "x": ["a"]}, 0, TypeError, "column 'x' must be of floats, whole numbers or bool, was <U1"),
        ({"ts_event": [1], "x": [None]}, 0, TypeError, "column 'x' must be of floats, .* was object"),
        ({"ts_event": [1], "x": [1j]}, 0, TypeError, "was complex128"),
        ({"ts_event": [1], "x": np.ones(1, np.longdouble)}, 0, TypeError, "column 'x' must be of floats"),
        (
            {"ts_event": [1], "x": np.array([2**63], np.uint64)},
            0,
            ValueError,
            r"whole numbers are int64, up to 2\*\*63 - 1",
        ),
        ({"ts_event": [1], "row": [1]}, 0, ValueError, "'row' is a column that every row has"),
        ({"ts_event": [1], "metadata": [1]}, 0, ValueError, "'metadata'"),
        ({"ts_event": [1], "": [1]}, 0, ValueError, "is not empty and holds no NUL"),
        ({"ts_event": [1], 5: [1]}, 0, TypeError, "names of fields are str, one was int"),
        ({"ts_event": [1]} | {f"{n}": [1] for n in range(1025)}, 0, ValueError, "at most 1024 fields, had 1025"),
        ({"ts_event": [1], "x": [1]}, -1, ValueError, "known_after"),
        ({"ts_event": [1], "x": [1]}, "1", TypeError, "known_after"),
    ],
)
def test_tables_that_are_none(plain_o: Any, columns: Any, after: Any, error: type[Exception], says: str) -> None:
    with pytest.raises(error, match=says):
        plain_o.extend(*MARKET, columns, known_after=after)
    assert plain_o.info(*MARKET) is None


def test_too_many_different_sets_of_fields(plain_o: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ntmem.tiers.series, "MOST_LAYOUTS", 3)
    for name in "abc":
        plain_o.append(*MARKET, START, {name: 1})
    with pytest.raises(ValueError, match="at most 3 different sets of fields; use several symbols"):
        plain_o.append(*MARKET, START, {"d": 1})
    for count in (1, 2000):
        with pytest.raises(ValueError, match="at most 3 different sets"):
            plain_o.extend(*MARKET, {"ts_event": events(count), "d": np.ones(count)}, known_after=0)
    assert plain_o.append(*MARKET, START, {"a": 1}) == 3
    assert plain_o.info(*MARKET).rows == 4


# -- DataFrames

FIRST = int(datetime(2024, 1, 1, tzinfo=UTC).timestamp()) * SECOND
HOURS = [FIRST + n * 3600 * SECOND for n in range(3)]


def check_bars(o: Any, ints: str = "i") -> None:
    found = all_of(o)
    assert found["ts_event"].tolist() == HOURS
    assert found["ts_known"].tolist() == [each + 3600 * SECOND for each in HOURS]
    assert found["close"].tolist() == [1.5, 2.5, 3.5]
    assert found["volume"].tolist() == [10, 20, 30]
    assert found.dtype["volume"].kind == ints


@pytest.mark.parametrize("zone", [None, "UTC", "America/New_York", "Asia/Kolkata"])
@pytest.mark.parametrize("unit", ["ns", "us", "s"])
def test_pandas(plain_o: Any, zone: str | None, unit: str) -> None:
    pd = pytest.importorskip("pandas")
    times = pd.Series(pd.to_datetime(HOURS, utc=True)).dt.as_unit(unit)
    times = times.dt.tz_localize(None) if zone is None else times.dt.tz_convert(zone)
    frame = pd.DataFrame({"ts_event": times, "close": [1.5, 2.5, 3.5], "volume": [10, 20, 30]})
    assert plain_o.extend(*MARKET, frame, known_after=3600) == 3
    check_bars(plain_o)


def test_pandas_of_any_kind(plain_o: Any) -> None:
    pd = pytest.importorskip("pandas")
    frame = pd.DataFrame(
        {"volume": pd.array([10, 20, 30], "Int64"), "close": pd.array([1.5, 2.5, 3.5], "Float64"), "ts_event": HOURS},
        index=[7, 7, 1],
    )
    frame["ts_known"] = frame["ts_event"] + 3600 * SECOND
    plain_o.extend(*MARKET, frame)
    check_bars(plain_o)


def test_pandas_with_what_is_missing(plain_o: Any) -> None:
    pd = pytest.importorskip("pandas")
    good = {"ts_event": pd.to_datetime(HOURS), "close": [1.5, None, 3.5]}
    plain_o.extend(*MARKET, pd.DataFrame(good), known_after=0)
    np.testing.assert_array_equal(all_of(plain_o)["close"], [1.5, np.nan, 3.5])
    for name, values, error, says in (
        ("ts_event", pd.to_datetime([HOURS[0], None, HOURS[2]]), ValueError, r"column 'ts_event' has .* \(NaT\)"),
        ("ts_event", pd.to_datetime([HOURS[0], None, HOURS[2]], utc=True), ValueError, r"column 'ts_event' .* \(NaT\)"),
        ("volume", ["a", "b", "c"], TypeError, "column 'volume' must be of floats"),
    ):
        with pytest.raises(error, match=says):
            plain_o.extend(*MARKET, pd.DataFrame(good | {name: values}), known_after=0)
    assert len(all_of(plain_o)) == 3
    plain_o.extend("market", "B", pd.DataFrame(good | {"volume": pd.array([10, None, 30], "Int64")}), known_after=0)
    np.testing.assert_array_equal(plain_o.recent("market", "B", 3, as_of=LATEST)["volume"], [10, np.nan, 30])


@pytest.mark.parametrize("zone", [None, "UTC", "America/New_York"])
@pytest.mark.parametrize("unit", ["ns", "us", "ms"])
def test_polars(plain_o: Any, zone: str | None, unit: str) -> None:
    pl = pytest.importorskip("polars")
    times = pl.Series(HOURS).cast(pl.Datetime("ns", "UTC")).cast(pl.Datetime(unit, "UTC"))
    times = times.dt.replace_time_zone(None) if zone is None else times.dt.convert_time_zone(zone)
    frame = pl.DataFrame({"ts_event": times, "close": [1.5, 2.5, 3.5], "volume": [10, 20, 30]})
    assert plain_o.extend(*MARKET, frame, known_after=3600) == 3
    check_bars(plain_o)


def test_polars_with_what_is_missing(plain_o: Any) -> None:
    pl = pytest.importorskip("polars")
    times = pl.Series(HOURS).cast(pl.Datetime("ns", "UTC"))
    frame = pl.DataFrame({"ts_event": times, "volume": [10, None, 30], "close": [1.5, None, 3.5]})
    plain_o.extend(*MARKET, frame, known_after=0)
    np.testing.assert_array_equal(all_of(plain_o)["close"], [1.5, np.nan, 3.5])
    np.testing.assert_array_equal(all_of(plain_o)["volume"], [10, np.nan, 30])
    with pytest.raises(ValueError, match="NaT"):
        plain_o.extend(
            *MARKET,
            frame.with_columns(ts_event=pl.Series([HOURS[0], None, HOURS[2]]).cast(pl.Datetime("ns"))),
            known_after=0,
        )


@pytest.mark.parametrize("zone", [None, "UTC", "America/New_York"])
@pytest.mark.parametrize("what", ["table", "batch", "pieces"])
def test_arrow(plain_o: Any, zone: str | None, what: str) -> None:
    pa = pytest.importorskip("pyarrow")
    columns = {
        "ts_event": pa.array(HOURS, pa.timestamp("ns", zone)),
        "close": pa.array([1.5, 2.5, 3.5]),
        "volume": pa.array([10, 20, 30], pa.int32()),
    }
    table: Any = pa.RecordBatch.from_pydict(columns) if what == "batch" else pa.table(columns)
    if what == "pieces":
        table = pa.concat_tables([table.slice(0, 1), table.slice(1)])
    assert plain_o.extend(*MARKET, table, known_after=3600) == 3
    check_bars(plain_o)


def test_arrow_with_what_is_missing(plain_o: Any) -> None:
    pa = pytest.importorskip("pyarrow")
    table = pa.table(
        {"ts_event": pa.array(HOURS), "close": pa.array([1.5, None, 3.5]), "b": pa.array([True, False, True])}
    )
    plain_o.extend(*MARKET, table, known_after=0)
    np.testing.assert_array_equal(all_of(plain_o)["close"], [1.5, np.nan, 3.5])
    assert all_of(plain_o)["b"].tolist() == [1, 0, 1]
    for missing in (pa.array([HOURS[0], None, HOURS[2]], pa.timestamp("ns")), pa.array([HOURS[0], None, HOURS[2]])):
        with pytest.raises((ValueError, TypeError), match="ts_event"):
            plain_o.extend(*MARKET, table.set_column(0, "ts_event", missing), known_after=0)
    with pytest.raises(TypeError, match="column 'close' must be of floats"):
        plain_o.extend(*MARKET, table.set_column(1, "close", pa.array(["1", "2", "3"])), known_after=0)
