"""The verb `positions`: what is held, beside those who trade and without them."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable
from decimal import Decimal as D
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from hostile import Child, Start

import ntmem
from ntmem.cli.commands import cli
from ntmem.cli.positions import fitting

pytestmark = [pytest.mark.usefixtures("engine"), pytest.mark.only("shared", "tiny")]

TRADER = """
with ntmem.open(sys.argv[1]) as memory:
    p = memory.positions
    p.apply_fill("ETH", 1, 10, trade_id="a")
    say("booked")
    while True:
        told = hear()
        if not told:
            break
        p.apply_fill("ETH", told, 10, trade_id=told)
        say("booked")
"""
WATCHER = """
import signal
from ntmem.cli import main
signal.signal(signal.SIGINT, signal.default_int_handler)  # who runs the tests may have ignored them
signal.signal(signal.SIGHUP, signal.SIG_DFL)
sys.argv = ["ntmem", "positions", "--watch", "--interval", "0.01", "--store", *sys.argv[1:]]
main()
"""


@pytest.fixture
def store(tmp_path: Path) -> Path:
    path = tmp_path / "desk"
    with ntmem.open(path) as memory:
        p = memory.positions
        p.apply_fill("BTC", 1, "100.00000001", trade_id="1", fee="0.25", ts_event=1_000_000_000)
        p.apply_fill("BTC", 2, "100.1", trade_id="2", ts_event=2_000_000_000)
        p.apply_fill("BTC", "-0.5", 101, trade_id="3", ts_event=3_000_000_000)
        p.mark("BTC", 102, 3_500_000_000)  # written down with what comes next
        p.apply_cash("BTC", "-0.125", cash_id="f", ts_event=4_000_000_000)
        p.apply_fill("BTC", -3, 100, trade_id="1", account="x", strategy="trend", ts_event=1_000_000_000)
        p.apply_fill("ADA", 1, 2, trade_id="1", account="x", ts_event=1_000_000_000)
        p.apply_fill("ADA", -1, 3, trade_id="2", account="x", ts_event=2_000_000_000)
    return path


def run(store: Path, *arguments: str, code: int = 0) -> Result:
    result = CliRunner().invoke(cli, ["positions", *arguments, "--store", str(store)])
    assert result.exit_code == code, result.output
    return result


def document(store: Path, *arguments: str) -> Any:
    return json.loads(run(store, *arguments, "--json").stdout)


def table(store: Path, *arguments: str) -> list[list[str]]:
    return [line.split() for line in run(store, *arguments).stdout.splitlines()[1:]]


def look_until(watcher: Child, is_right: Callable[[Any], bool]) -> Any:
    """Read what it prints until it is right; a watcher that never is is ended by the time-out of its lines."""
    for _ in range(6_000):
        seen = json.loads(watcher.line())
        if is_right(seen["positions"]):
            return seen
    raise AssertionError("still not so after 6,000 looks")


def test_a_store_without_positions(tmp_path: Path) -> None:
    path = tmp_path / "desk"
    ntmem.open(path).close()
    assert run(path).stdout == "nothing is held\n"
    assert run(path, "--all").stdout == "there are no positions\n"
    assert document(path) == []


def test_wrong_usage_and_no_store_have_their_codes(store: Path, tmp_path: Path) -> None:
    assert "no store" in run(tmp_path / "none", code=3).stderr
    assert "no store" in run(tmp_path / "none", "--watch", code=3).stderr
    assert "--watch" in run(store, "--interval", "1", code=2).stderr
    run(store, "--watch", "--interval", "0", code=2)
    run(store, "too much", code=2)
    assert "Exit codes" in CliRunner().invoke(cli, ["positions", "--help"]).stdout


def test_a_store_without_shared_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NTMEM_ENGINE", "lmdb")
    ntmem.open(tmp_path / "desk").close()
    assert "engine='shared'" in run(tmp_path / "desk", code=1).stderr
    assert "engine='shared'" in run(tmp_path / "desk", "--watch", code=1).stderr


def test_columns(store: Path) -> None:
    header, *_ = run(store).stdout.splitlines()
    assert header.split("  ")[0] == "symbol"
    assert "position_id" not in header
    first, second = table(store)
    assert first[:5] == ["BTC", "-", "-", "long", "2.5"]
    assert first[6] == "102"
    assert first[9:] == ["0.25", "-0.125", "1970-01-01T00:00:04Z"]
    assert second == ["BTC", "x", "trend", "short", "-3", "100", "-", "0", "-", "0", "0", "1970-01-01T00:00:01Z"]


def test_numbers_are_exact(store: Path) -> None:
    with ntmem.open(store, read_only=True) as memory:
        held = memory.positions.get("BTC")
    assert held is not None
    found, _ = document(store)
    for name in ("quantity", "average_price", "realized_pnl", "unrealized_pnl", "fees", "funding", "mark_price"):
        assert D(found[name]) == getattr(held, f"{name}_decimal")
        assert "E" not in found[name]
    (cells, _) = table(store)
    assert D(cells[7]) == held.realized_pnl_decimal
    assert D(cells[8]) == held.unrealized_pnl_decimal
    assert abs(D(cells[5]) - held.average_price_decimal) <= D("1E-10") / 2
    assert (found["ts_last"], found["version"], found["ts_closed"]) == (4_000_000_000, held.version, None)


def test_filters(store: Path) -> None:
    def keys(*arguments: str) -> list[tuple[str, ...]]:
        found = document(store, *arguments)
        return [(each["symbol"], each["account"], each["strategy"], each["side"]) for each in found]

    btc, short, ada = ("BTC", "", "", "long"), ("BTC", "x", "trend", "short"), ("ADA", "x", "", "flat")
    assert keys() == [btc, short]
    assert keys("--all") == [ada, btc, short]
    assert keys("--account", "x") == [short]
    assert keys("--account", "x", "--all") == [ada, short]
    assert keys("--account", "") == [btc]
    assert keys("--strategy", "trend") == [short]
    assert keys("--symbol", "ADA") == []
    assert keys("--symbol", "ADA", "--all", "--strategy", "") == [ada]
    assert table(store, "--symbol", "ADA", "--all")[0][3:9] == ["flat", "0", "-", "-", "1", "-"]


def test_hedged_positions_have_their_column(store: Path) -> None:
    with ntmem.open(store) as memory:
        memory.positions.apply_fill("ETH", -1, 10, trade_id="1", position_id="s")
    assert "position_id" in run(store).stdout
    assert [cells[3] for cells in table(store)] == ["-", "-", "s"]
    assert "position_id" not in run(store, "--symbol", "BTC").stdout


def test_names_do_nothing_to_a_terminal(store: Path) -> None:
    with ntmem.open(store) as memory:
        memory.positions.apply_fill("o\x1b[31mdd", 1, 10, trade_id="1")
    assert table(store)[-1][0] == "'o\\x1b[31mdd'"


def test_beside_a_trader_and_after_it(store: Path, start: Start) -> None:
    trader = start(TRADER, store)
    assert trader.line() == "booked"
    assert document(store, "--symbol", "ETH")[0]["quantity"] == "1"
    trader.tell("2.5")
    assert trader.line() == "booked"
    assert document(store, "--symbol", "ETH")[0]["quantity"] == "3.5"
    trader.kill()
    assert document(store, "--symbol", "ETH")[0]["quantity"] == "3.5"


def test_watching_while_traders_come_and_go(store: Path, start: Start) -> None:
    watcher = start(WATCHER, store, "--json", "--symbol", "ETH")
    first = look_until(watcher, lambda found: found == [])
    trader = start(TRADER, store)
    assert trader.line() == "booked"
    look_until(watcher, lambda found: [each["quantity"] for each in found] == ["1"])
    trader.tell("2")
    assert trader.line() == "booked"
    look_until(watcher, lambda found: found[0]["quantity"] == "3")
    trader.tell()
    trader.end()
    look_until(watcher, lambda found: found[0]["quantity"] == "3")
    trader = start(TRADER, store)
    assert trader.line() == "booked"  # the same id: nothing
    trader.tell("4")
    assert trader.line() == "booked"
    trader.kill()
    last = look_until(watcher, lambda found: found[0]["quantity"] == "7")
    assert last["now"] > first["now"]
    watcher.signal(signal.SIGINT)
    watcher.end()


def test_watching_where_nothing_is_live(store: Path, start: Start) -> None:
    watcher = start(WATCHER, store)
    for _ in range(2):
        assert watcher.line().split()[0] == "symbol"
        assert watcher.line().split()[:5] == ["BTC", "-", "-", "long", "2.5"]
        assert watcher.line().split()[1] == "x"
        assert watcher.line() == ""
    watcher.signal(signal.SIGINT)
    watcher.end()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_watching_on_a_terminal(store: Path, start: Start, number: signal.Signals) -> None:
    with ntmem.open(store) as memory:
        memory.positions.apply_fill("[red]X", 1, 10, trade_id="1")
    watcher = start(WATCHER, store, env={"FORCE_COLOR": "1", "TERM": "xterm", "COLUMNS": "200"})
    seen = ""
    while seen.count("[red]X") < 2:
        seen += watcher.line()
    watcher.signal(number)
    rest = watcher.end()
    assert "\x1b[?25l" in seen  # hides the cursor
    assert rest.endswith("\x1b[?25h")  # and gives it back


def test_a_narrow_terminal_has_what_matters_most() -> None:
    header = ("symbol", "account", "strategy", "side", "quantity", "realized", "fees", "funding", "last change")
    table = [
        ("BTCUSDT", "-", "momentum", "long", "2", "17.25", "0", "0", "2026-11-22T16:43:12Z"),
        ("ES", "-", "-", "short", "-3", "0", "0", "0", "2026-11-21T09:00:00Z"),
    ]
    now = "2026-11-22T16:45:00Z"
    names, rows, left_out = fitting(header, table, 200, now)
    assert names == ("symbol", "strategy", "side", "quantity", "realized", "last change")  # nobody has the others
    assert [row[-1] for row in rows] == ["16:43:12Z", "2026-11-21T09:00:00Z"]
    assert left_out == []
    for width in range(200, 30, -1):
        names, rows, left_out = fitting(header, table, width, now)
        assert sum(max(map(len, column)) + 2 for column in zip(names, *rows, strict=True)) - 2 <= width
        assert {"symbol", "quantity", "realized"} <= set(names)
        assert left_out == ["side", "last change", "strategy"][: len(left_out)]
    assert fitting(header, [], 20, now)[0][0] == "symbol"
