"""Market data files: what is read, what is refused, and that nothing is visible before it was known."""

import gzip
from decimal import Decimal
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ntmem.replay.columns import SYNONYMS
from ntmem.replay.market import NAMED, MarketError, MarketFile
from ntmem.replay.steps import Steps, shipped, symbol_of
from ntmem.replay.times import LAST, TimeReader, seconds_ns

S = 1_000_000_000
T0 = 1_700_000_000


@pytest.fixture
def write(tmp_path):
    """Writes lines to a file and returns its path."""

    def make(*lines, name="BTCUSDT-1m.csv", end="\n"):
        path = tmp_path / name
        text = end.join(lines) + end
        data = text.encode()
        path.write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
        return path

    return make


def read(path, **options):
    file = MarketFile(path, **options)
    return list(file), file


def refused(path, **options):
    with pytest.raises(MarketError) as error:
        read(path, **options)
    return str(error.value)


# -- kinds and columns


def test_quotes(write):
    path = write("ts_event,ts_known,bid,ask,bid_size,ask_size", f"{T0},{T0 + 1},1.10,1.20,3,4.50")
    (row,), file = read(path)
    assert file.kind == "quotes"
    assert row == ((T0 + 1) * S, T0 * S, "1.10", "1.20", "", "3", "4.50", "", "", "", "")


def test_trades(write):
    (row,), file = read(write("ts_event,ts_known,price,qty", f"{T0},{T0},1.10,7"))
    assert file.kind == "trades"
    assert (row.last, row.quantity, row.bid) == ("1.10", "7", "")


def test_bars_are_known_only_after_their_close(write):
    path = write("open_time,open,high,low,close,volume", f"{T0},1,4,0.5,2,9")
    (row,), file = read(path, known_after=60)
    assert file.kind == "bars"
    assert (row.ts_event, row.ts_known, row.last, row.quantity) == (T0 * S, (T0 + 60) * S, "2", "9")


def test_a_series_of_closes_alone(write):
    (row,), _ = read(write("Date,Close", "2020-01-02,3.5"), known_after=86_400)
    assert row.last == "3.5"


@pytest.mark.parametrize(
    ("header", "kind"),
    [
        ("exchange,symbol,timestamp,local_timestamp,ask_amount,ask_price,bid_price,bid_amount", "quotes"),
        ("update_id,best_bid_price,best_bid_qty,best_ask_price,best_ask_qty,transaction_time,event_time", "quotes"),
        ("agg_trade_id,price,quantity,first_trade_id,last_trade_id,transact_time,is_buyer_maker", "trades"),
        ("ts_recv,ts_event,action,side,price,size,bid_px_00,ask_px_00,bid_sz_00,ask_sz_00", "quotes"),
        ("Timestamp,Open,High,Low,Close,Volume_(BTC),Volume_(Currency),Weighted_Price", "bars"),
        ("Date,Open,High,Low,Close,Adj Close,Volume", "bars"),
        ('"Open Time","OPEN","High ","Low","Close","Volume"', "bars"),
        ("Time;Bid;Ask", "quotes"),
        ("Time\tPrice", "trades"),
    ],
)
def test_headers_that_are_found_in_the_wild(write, header, kind):
    known = None if "local_timestamp" in header or "ts_recv" in header else 0
    assert MarketFile(write(header, ""), known_after=known).kind == kind


def test_names_by_position_for_a_file_without_a_header(write):
    line = f"{T0}000,1,4,0.5,2,9,{T0}999,123,5"
    columns = "ts_event,open,high,low,close,volume,ts_known,_"
    for lines in ([line], ["Open time,o,h,l,c,v,Close time,q,n", line]):  # newer files of the same kind have one
        (row,), file = read(write(*lines), columns=columns)
        assert (row.ts_event, row.ts_known, row.last) == (T0 * S, T0 * S + 999_000_000, "2")
        assert not file.bad


def test_names_by_header(write):
    path = write("when,px_last,price,close_time", f"{T0},1,2,{T0 + 9}")
    (row,), _ = read(path, columns="ts_event=when, price=px_last, ts_known=close_time")
    assert (row.last, row.ts_known) == ("1", (T0 + 9) * S)


def test_a_first_row_that_begins_with_a_blank_is_no_header(write):
    path = write(*(f" {T0 + i}, {100 + i}.5, {i}" for i in range(3)))
    rows, _ = read(path, columns="ts_known,price,quantity")
    assert [row.last for row in rows] == ["100.5", "101.5", "102.5"]
    assert "the first line holds values, not column names" in refused(path)


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ("ts_event,colour", "names 'colour', which is none of ts_event, ts_known, bid"),
        ("ts_event,price,timestamp", "names ts_event twice, as columns 1 and 3"),
        ("ts_event,price=x", "either names by position or name=Header"),
        ("ts_event,price,_,_,_", "names 5 columns, the first line has 3"),
        ("price=nothing", "there is no column 'nothing'; it has time, price, size"),
        ("_,price", "no column holds a time"),
    ],
)
def test_wrong_columns_are_explained(write, columns, message):
    assert message in refused(write("time,price,size", f"{T0},1,2"), columns=columns, known_after=0)


def test_other_mistakes_are_explained(write, tmp_path):
    assert "is empty" in refused(write(""))
    assert "has no usable row, only column names" in refused(write("ts_known,price"))
    assert "neither quotes, trades nor bars" in refused(write("time,colour", f"{T0},red"), known_after=0)
    assert "no column holds a time among price" in refused(write("price", "1"))
    assert "the first line holds values, not column names" in refused(write(f"{T0},1,2"))
    assert "holds several symbols (A, B); choose one with --symbol" in refused(
        write("ts_known,symbol,price", f"{T0},A,1", f"{T0},B,1")
    )
    assert "cannot be read: No such file" in refused(tmp_path / "nowhere.csv")
    assert "runs backwards" in refused(write("ts_known,price", *(f"{T0 - i},1" for i in range(9))))
    assert "--zone must be a time zone" in refused(write("ts_known,price", f"{T0},1"), zone="Mars/Olympus")


def test_a_file_must_say_when_rows_were_known(write):
    path = write("open_time,open,high,low,close,close_time", f"{T0},1,1,1,1,{T0 + 60}")
    message = refused(path)
    assert "--known-after 60 for one-minute bars stamped at their open" in message
    assert "--columns ts_known=close_time" in message
    known = write("ts_event,ts_known,price", f"{T0},{T0},1")
    assert "says itself when rows were known (ts_known); leave --known-after out" in refused(known, known_after=1)
    with pytest.raises(ValueError, match="--known-after must be seconds, 0 or more"):
        seconds_ns(-1, "--known-after")


def test_one_symbol_of_several(write):
    path = write("ts_known,symbol,price", f"{T0},A,1", f"{T0},B,2", f"{T0},b,3")
    rows, file = read(path, symbol="B")
    assert [row.last for row in rows] == ["2", "3"]
    assert file.other_symbols == 1


def test_a_symbol_cannot_be_chosen_without_a_symbol_column(write):
    path = write("ts_known,price", f"{T0},1")
    assert "has no symbol column, so rows of ETHUSDT cannot be told" in refused(path, symbol="ETHUSDT")
    assert "leave --symbol out" in refused(path, symbol="ETHUSDT")


# -- content


def test_gzip_is_told_by_content(write, tmp_path):
    path = write("ts_known,price", f"{T0},1", name="x.csv.gz")
    renamed = path.rename(tmp_path / "x.csv")
    assert len(read(renamed)[0]) == 1


def test_damaged_and_foreign_files_are_refused(write, tmp_path):
    lines = [f"{T0 + i},{i + 1}" for i in range(50_000)]
    path = write("ts_known,price", *lines, name="x.csv.gz")
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    assert "is damaged behind line" in refused(path)
    path.write_bytes(b"PK\x03\x04 something")
    assert "is a zip archive; unpack it first" in refused(path)


def test_a_stray_quote_costs_one_line(write):
    rows, file = read(write("ts_known,price", f'{T0},"1', f"{T0},2", f'"{T0}","3"'))
    assert [row.last for row in rows] == ["2", "3"]
    assert [bad.line for bad in file.bad_rows] == [2]


def test_line_ends_blank_lines_and_byte_order_mark(tmp_path):
    path = tmp_path / "x.csv"
    path.write_bytes(f"\ufeffts_known,price\r\n\r\n{T0},1\r\n{T0},x\r\n\r\n".encode())
    rows, file = read(path)
    assert len(rows) == 1
    assert [bad.line for bad in file.bad_rows] == [4]


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ("1,2", "wrong number of fields"),
        ("1,2,3,4,5,6", "wrong number of fields"),
        (f"{T0},nan,2,1,1", "price is not a finite number"),
        (f"{T0},1,inf,1,1", "price is not a finite number"),
        (f"{T0},1_0,20,1,1", "price is not a finite number"),
        (f"{T0},,2,1,1", "price is not a finite number"),
        (f"{T0},0,2,1,1", "price is not positive"),
        (f"{T0},-1,2,1,1", "price is not positive"),
        (f"{T0},1,1e40,1,1", "number out of range"),
        (f"{T0},3,2,1,1", "bid above ask"),
        (f"{T0},1,2,-1,1", "size is negative"),
        (f"{T0},1,2,1,NaN", "size is not a finite number"),
        ("-5,1,2,1,1", "time out of range"),
        ("99999999999,1,2,1,1", "time out of range"),
        ("0.00000000001,1,2,1,1", "time is finer than a nanosecond"),
        ("soon,1,2,1,1", "time is not readable"),
    ],
)
def test_bad_rows_are_counted_named_and_skipped_or_refused(write, fields, reason):
    path = write("ts_known,bid,ask,bid_size,ask_size", f"{T0},1,2,1,1", fields, f"{T0},1,2,,")
    rows, file = read(path)
    assert len(rows) == 2
    assert file.bad == {reason: 1}
    assert file.bad_rows == [("BTCUSDT-1m.csv", 3, reason, fields)]
    assert f"BTCUSDT-1m.csv, line 3: {reason}" in refused(path, strict=True)


def test_bars_must_hold_together(write):
    _, file = read(write("ts_known,open,high,low,close", f"{T0},1,2,1,3", f"{T0},1,3,1,2"))
    assert file.bad == {"open or close outside of low to high": 1}


def test_only_so_many_bad_rows_are_named(write):
    path = write("ts_known,price", f"{T0},1", *["x,1"] * 50)
    _, file = read(path)
    assert file.bad.total() == 50
    assert len(file.bad_rows) == NAMED
    message = refused(write("ts_known,price", "x,1", "y,2"))
    assert "has no usable row (line 2: time is not readable: 'x,1'; line 3:" in message


# -- times


@pytest.mark.parametrize(
    ("text", "ns"),
    [
        ("1700000000", T0 * S),
        ("1700000000.5", T0 * S + S // 2),
        ("1700000000123", T0 * S + 123_000_000),
        ("1700000000123456", T0 * S + 123_456_000),
        ("1700000000123456789", T0 * S + 123_456_789),
        ("1.7e9", T0 * S),
        ("1.700000000123456789e18", T0 * S + 123_456_789),
        ("2023-11-14T22:13:20Z", T0 * S),
        ("2023-11-14 22:13:20.123456789+00:00", T0 * S + 123_456_789),
        ("2023-11-14T23:13:20+0100", T0 * S),
        ("2023-11-14 16:43-0530", T0 * S - 20 * S),
        ("2023-11-14", 1_699_920_000 * S),
        ("20231114", 1_699_920_000 * S),
    ],
)
def test_times_are_exact_and_their_unit_is_told_by_magnitude(write, text, ns):
    (row,), _ = read(write("ts_known,price", f"{text},1"))
    assert row.ts_known == row.ts_event == ns


def test_the_unit_is_that_of_most_rows(write):
    rows, file = read(write("ts_known,price", "0,1", *[f"{T0}000,1"] * 5))
    assert [row.ts_known for row in rows] == [0] + [T0 * S] * 5
    assert not file.bad


def test_a_given_unit_is_obeyed(write):
    path = write("ts_known,price", f"{T0},1")
    assert read(path, unit="ms")[0][0].ts_known == T0 * 1_000_000
    assert "--unit must be one of ns, us, ms, s, was 'h'" in refused(path, unit="h")


def test_text_times_without_a_zone(write):
    path = write("ts_known,price", "2024-07-01 10:00:00,1")
    assert "line 2: the times name no zone" in refused(path)
    assert "--zone UTC" in refused(path)
    utc, new_york = (read(path, zone=zone)[0][0].ts_known for zone in ("UTC", "America/New_York"))
    assert new_york - utc == 4 * 3600 * S


@given(st.integers(0, LAST - 1))
def test_a_time_in_nanoseconds_is_itself(ns):
    assert TimeReader("ns", compact_dates=False)(str(ns)) == ns
    assert TimeReader("s")(f"{Decimal(ns).scaleb(-9):f}") == ns


# -- no look-ahead


def test_a_late_row_is_shown_no_earlier_than_those_before_it(write):
    times = [T0, T0 + 5, T0 + 3, T0 + 6]
    rows, file = read(write("ts_known,price", *(f"{t},{i + 1}" for i, t in enumerate(times))))
    assert [row.ts_known // S - T0 for row in rows] == [0, 5, 5, 6]
    assert [row.ts_event // S - T0 for row in rows] == [0, 5, 3, 6]
    assert (file.late, file.late_by) == (1, 2 * S)


DAY = 86_400


@pytest.mark.parametrize(
    ("days", "bad", "late", "late_by"),
    [
        ([0, 1, 60_000, 2, 3], [4], 0, 0),  # a damaged time
        ([0, 60_000, 1, 50_000, 2, 60_000, 3], [3, 5, 7], 0, 0),
        ([0, 90, 91, 200, 201], [], 0, 0),  # stretches without rows
        ([0, 90, 89, 91], [], 1, 1),  # such a stretch, and a late row behind it
        ([0, 29, 1, 2], [], 2, 28),  # not far enough to be damage
        ([0, 1, 60_000], [], 0, 0),  # no row behind it
        ([0, 60_000, 60_000, 1, 60_001], [], 1, 59_999),  # two in a row are believed
    ],
)
def test_a_time_that_jumps_ahead_and_back_is_bad(write, days, bad, late, late_by):
    path = write("ts_known,price", *(f"{T0 + day * DAY},{i + 1}" for i, day in enumerate(days)))
    rows, file = read(path)
    assert len(rows) == file.rows == len(days) - len(bad)
    assert [row.ts_known for row in rows] == sorted(row.ts_known for row in rows)
    assert [one.line for one in file.bad_rows] == bad
    assert set(file.bad) <= {"time jumps ahead by more than 30 days"}
    assert (file.late, file.late_by) == (late, late_by * DAY * S)
    if bad:
        assert f"line {bad[0]}: time jumps ahead by more than 30 days" in refused(path, strict=True)


@given(
    st.lists(st.tuples(st.integers(0, 60), st.integers(0, 9)), min_size=1, max_size=40),
    st.lists(st.integers(0, 60), max_size=20),
    st.sampled_from([None, 0, S, 7 * S]),
)
def test_a_step_is_what_was_known_by_then(tmp_path_factory, quotes, trades, step):
    folder = tmp_path_factory.mktemp("market")
    quotes = sorted(quotes, key=lambda quote: quote[0] - quote[1] / 5)  # nearly in order: some are late
    trades = sorted(trades)
    lines = [f"{T0 + t},{100 + i},{100 + i + width}" for i, (t, width) in enumerate(quotes)]
    (folder / "q.csv").write_text("\n".join(["ts_known,bid,ask", *lines]))
    lines = [f"{T0 + t},{i + 1},2" for i, t in enumerate(trades)]
    (folder / "t.csv").write_text("\n".join(["ts_known,price,quantity", *lines]))
    paths = [folder / "q.csv"] + [folder / "t.csv"] * bool(trades)
    steps = list(Steps([MarketFile(path) for path in paths], step))
    assert [one.number for one in steps] == list(range(len(steps)))
    assert all(before.ts <= after.ts for before, after in pairwise(steps))
    newest, shown = 0, []  # the slow way: when each quote was shown, and of those shown the last
    for t, _ in quotes:
        newest = max(newest, (T0 + t) * S)
        shown.append(newest)
    for position, one in enumerate(steps):
        if one.ts in [other.ts for other in steps[position + 1 :]]:
            continue  # of several steps at one moment the last has seen all
        known = [i for i, at in enumerate(shown) if at <= one.ts]
        assert one.bid == 100 + known[-1]
        assert one.ask - one.bid == quotes[known[-1]][1]
        traded = [i for i, t in enumerate(trades) if (T0 + t) * S <= one.ts]
        if trades:
            assert one.last == traded[-1] + 1
        assert one.ts_known <= one.ts
    if step and steps:
        assert all(one.ts % step == 0 for one in steps)
        assert len({one.ts for one in steps}) == len(steps)
    if steps:
        assert sum(one.rows for one in steps) == len(quotes) + len(trades)


def test_ticks_are_sampled_and_bars_are_not(write):
    ticks = write("ts_known,price", *(f"{T0 + i / 10:.1f},{i + 1}" for i in range(100)))
    bars = write("ts_known,price", *(f"{T0 + i * 60},{i + 1}" for i in range(100)), name="b.csv")
    assert [one.ts // S - T0 for one in Steps([MarketFile(ticks)])] == list(range(11))
    assert len(list(Steps([MarketFile(bars)]))) == 100


def test_a_stretch_without_rows_has_no_steps(write):
    path = write("ts_known,price,size", f"{T0},1,5", f"{T0 + 0.5},2,6", f"{T0 + 100},3,7")
    steps = list(Steps([MarketFile(path)], S))
    assert [(one.ts // S - T0, one.last, one.volume, one.rows) for one in steps] == [
        (0, 1, 5, 1),
        (1, 2, 6, 1),
        (100, 3, 7, 1),
    ]


def test_prices_stay_exact(write):
    path = write("ts_known,bid,ask", f"{T0},0.10000000000000000001,0.3")
    (step,) = Steps([MarketFile(path)])
    assert step.bid == Decimal("0.10000000000000000001")
    assert step.bid_size is None


def test_the_shipped_ticks():
    files = [MarketFile(path, strict=True) for path in shipped()]
    steps = list(Steps(files))
    assert [(file.kind, file.rows, file.late) for file in files] == [("quotes", 66_089, 0), ("trades", 21_313, 0)]
    assert len(steps) == 345
    assert all(step.bid < step.ask for step in steps)


@pytest.mark.parametrize(
    ("name", "symbol"),
    [("BTCUSDT-1m-2024-01.csv", "BTCUSDT"), ("spy.csv.gz", "SPY"), ("-.csv", "MARKET"), ("eth_usd.txt", "ETH")],
)
def test_the_symbol_is_in_the_name(tmp_path, name, symbol):
    assert symbol_of(tmp_path / name) == symbol


def test_no_name_means_two_things():
    names = [name for names in SYNONYMS.values() for name in names]
    assert len(names) == len(set(names))
