"""The market of a replay among the observations of its store."""

from random import Random

import pytest

import ntmem
from ntmem.replay import ReplayOptions, run
from ntmem.tiers.observations import Observations


def test_the_market_is_kept_as_observations(folder):
    """Bars of which a few have the same time, stamped at their open and known when they close."""
    random = Random(3)
    rows = []
    for number in range(50):
        prices = [round(random.uniform(99, 101), 3) for _ in range(4)]
        rows.append((1_700_000_000 + 60 * (number - number % 7 // 6), prices[0], max(prices), min(prices), prices[3]))
    path = folder / "WALK-1m.csv"
    path.write_text("\n".join(["time,open,high,low,close", *(",".join(map(str, row)) for row in rows)]))
    report = run(ReplayOptions(file=path, known_after=60, agents=1, steps=40, store=folder / "s"))
    assert report.problems == []
    found = report.observations
    assert [(one["name"], one["rows"], one["exact"]) for one in found["series"]] == [
        ("bars", 40, True),
        ("steps", 40, True),
    ]
    assert found["array_bytes"] == 8 * 40 * (2 + 4) + 8 * 40 * (2 + 6)
    assert 0 < found["distilled_bytes"] < found["array_bytes"] < found["live_bytes"]
    assert found["half_time"] == (rows[19][0] + 60) * 10**9
    assert found["rows_at_half_time"] == 2 * 21  # two bars of the same time
    with ntmem.open(folder / "s", read_only=True) as memory:
        seen = memory.observations.recent(("market", "bars"), "WALK", 99)
        assert seen[["open", "high", "low", "close"]].tolist() == [row[1:] for row in rows[:40]]
        assert (seen["ts_event"] // 10**9).tolist() == [row[0] for row in rows[:40]]
        assert set(seen["ts_known"] - seen["ts_event"]) == {60 * 10**9}
        assert memory.observations.info(("market", "bars"), "WALK").live_rows == 0
        for number in (0, 7, 25):
            known = memory.get_record(("market", "WALK"), f"{number:010d}").ts_known
            bars, steps = (
                memory.observations.recent(("market", kind), "WALK", 99, as_of=known) for kind in ("bars", "steps")
            )
            assert len(bars) == len(steps) == sum(row[0] <= rows[number][0] for row in rows)


def test_ticks_keep_when_they_were_received(folder):
    report = run(ReplayOptions(steps=3, agents=1, store=folder / "s", kill=False))
    assert report.problems == []
    assert [one["name"] for one in report.observations["series"]] == ["quotes", "trades", "steps"]
    with ntmem.open(folder / "s", read_only=True) as memory:
        quotes, trades, steps = (
            memory.observations.recent(("market", kind), "BTCUSDT", 10**6) for kind in ("quotes", "trades", "steps")
        )
    assert quotes.dtype.names == ("ts_event", "ts_known", "bid", "ask", "bid_size", "ask_size")
    assert trades.dtype.names == ("ts_event", "ts_known", "price", "quantity", "received")
    assert (trades["received"] <= trades["ts_known"]).all()
    assert set(trades["ts_known"].tolist()) <= set(steps["ts_known"].tolist())
    assert len(quotes) + len(trades) + len(steps) == report.observations["rows"]


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda row, more: {"ts_known": more["ts_known"] - (row == 40) * 30 * 60 * 10**9}, "are not those that were"),
        (lambda row, more: {"fields": more["fields"] | {"close": 1.0}} if row == 9 else {}, "are not those that were"),
        (lambda row, more: None if row == 9 else {}, "of 60 bars that were appended, 59 are"),
    ],
    ids=["early", "wrong", "lost"],
)
def test_observations_that_are_not_the_market_are_found_out(bars, monkeypatch, change, problem):
    bars.write_text("\n".join(f"{1_700_000_000 + 60 * i},{i + 1},{i + 3},{i + 1},{i + 2}" for i in range(60)))
    append = Observations.append

    def careless(self, namespace, symbol, ts_event, fields, *, ts_known):
        more = {"fields": fields, "ts_known": ts_known}
        if namespace[1] == "bars":
            changed = change((ts_event // 10**9 - 1_700_000_000) // 60, more)
            if changed is None:
                return 0
            more |= changed
        return append(self, namespace, symbol, ts_event, **more)

    monkeypatch.setattr(Observations, "append", careless)
    report = run(ReplayOptions(file=bars, columns="ts_known,open,high,low,close", agents=1, kill=False))
    assert problem in " ".join(report.problems)
    assert not report.observations["exact"]


def test_a_look_ahead_and_a_change_by_distilling_are_found_out(bars, monkeypatch):
    read, distill = Observations.range, Observations.distill
    with monkeypatch.context() as patched:
        patched.setattr(Observations, "range", lambda self, *told, as_of: read(self, *told, as_of=ntmem.LATEST))
        report = run(ReplayOptions(file=bars, steps=20, agents=1, kill=False))
    assert report.problems == [
        f"as of half-time the {kind} among the observations are not those known by then" for kind in ("trades", "steps")
    ]

    def spoil(self, *, namespace, symbol):
        self.append(namespace, symbol, 1, {"price": 1.0})
        return distill(self, namespace=namespace, symbol=symbol)

    monkeypatch.setattr(Observations, "distill", spoil)
    report = run(ReplayOptions(file=bars, steps=20, agents=1, kill=False))
    assert report.problems == [
        f"distilling changed what is read of the {kind} among the observations" for kind in ("trades", "steps")
    ]
