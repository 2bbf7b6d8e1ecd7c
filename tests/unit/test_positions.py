"""The position book, as users of a store have it: what is booked, under which keys and ids, and what is purged."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from decimal import Decimal as D
from pathlib import Path
from typing import Any

import pytest
from booked import image, numbers
from hostile import Start

import ntmem
from ntmem import (
    FillConflict,
    FillTooOld,
    LimitExceeded,
)

pytestmark = [pytest.mark.usefixtures("engine"), pytest.mark.only("shared")]

START = 1_700_000_000_000_000_000
SECOND = 1_000_000_000
RING = 65536
TRADES = int(os.environ.get("NTMEM_BOOK_TRADES", "3000"))


# -- fills


def test_nothing_is_held(book: Any) -> None:
    assert book.get("BTCUSDT") is None
    assert (book.quantity("BTCUSDT"), book.net("BTCUSDT"), book.open_positions(), book.keys()) == (0.0, 0.0, [], [])
    assert len(book.snapshot()) == len(book.fills("BTCUSDT")) == book.mark("BTCUSDT", 1) == 0
    assert book.purge_closed(1) == 0


def test_side_and_sign_agree(book: Any) -> None:
    for symbol, sign in (("A", 1), ("B", -1)):
        made = book.apply_fill(symbol, 2 * sign, 10, trade_id="1")
        other = book.apply_fill(symbol + "2", 2, 10, side="buy" if sign > 0 else "sell", trade_id="1")
        assert numbers(made.position) == numbers(other.position) == (2 * sign, 20 * sign, 0)
        assert made.quantity == other.quantity == 2.0 * sign
        again = book.apply_fill(symbol, 2, 10, side="buy" if sign > 0 else "sell", trade_id="1")
        assert not again.applied


@pytest.mark.parametrize(("quantity", "side"), [(-1, "buy"), (-1, "sell"), (-0.5, "buy"), ("-1", "sell"), (1, "BUY")])
def test_a_side_with_a_sign_is_refused(book: Any, quantity: Any, side: str) -> None:
    with pytest.raises(ValueError, match=r"quantity|side"):
        book.apply_fill("A", quantity, 1, side=side, trade_id="1")
    assert book.get("A") is None


def test_adding_reducing_closing_flipping(book: Any) -> None:
    def fill(quantity: Any, price: Any) -> tuple[D, ...]:
        made = book.apply_fill("A", quantity, price, trade_id=f"{book.get('A') and book.get('A').fills}", ts_event=at())
        assert made.realized_pnl_decimal == made.position.realized_pnl_decimal - before[0]
        before[0] = made.position.realized_pnl_decimal
        return numbers(made.position)

    before, times = [D(0)], iter(range(START, START + 100))
    at: Callable[[], int] = lambda: next(times)  # noqa: E731
    assert fill(1, 100) == (1, 100, 0)
    assert fill(3, 200) == (4, 700, 0)
    assert book.get("A").average_price_decimal == 175
    assert fill(-1, 275) == (3, 525, 100)
    position = book.get("A")
    assert (position.side, position.is_open, position.is_long, position.is_short) == ("long", True, True, False)
    assert (position.peak_quantity, position.ts_opened, position.ts_closed) == (4.0, START, None)
    assert fill(-5, 200) == (-2, -400, 175)  # 75 for what was held; two are short at 200
    position = book.get("A")
    assert (position.side, position.ts_opened, position.peak_quantity) == ("short", START + 3, 2.0)
    assert position.average_price == 200.0
    assert fill(2, 150) == (0, 0, 275)
    position = book.get("A")
    assert (position.side, position.ts_closed, position.average_price, position.fills) == ("flat", START + 4, 0.0, 5)
    assert fill(-1, -5) == (-1, 5, 275)  # a price below zero
    assert book.get("A").ts_closed is None
    assert book.quantity("A") == book.ref("A").quantity == -1.0


def test_a_share_of_the_cost_is_rounded_half_to_even_and_nothing_is_lost(book: Any) -> None:
    book.define("A", price_precision=0, quantity_precision=0)
    for number, (quantity, price) in enumerate([(1, 0), (1, 1)]):  # two cost 1
        book.apply_fill("A", quantity, price, trade_id=f"{number}")
    made = book.apply_fill("A", -1, 0, trade_id="half")
    assert numbers(made.position) == (1, 1, 0)  # half of 1: the even one is 0
    made = book.apply_fill("A", -1, 0, trade_id="rest")
    assert numbers(made.position) == (0, 0, -1)


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize(
    ("parts", "costs"),
    [
        ((1, 1, 1), (3, 1, 0)),  # 5/3 is 2; 3/2 is 2, half to even; all that is left
        ((1, 2), (3, 0)),
        ((2, 1), (2, 0)),  # 10/3 is 3
        ((3,), (0,)),
        ((4,), (7,)),  # flipped: one at 7
    ],
)
def test_what_is_closed_in_parts_costs_what_was_paid(
    book: Any, sign: int, parts: tuple[int, ...], costs: tuple[int, ...]
) -> None:
    book.define("A", price_precision=0, quantity_precision=0)
    for number, price in enumerate((1, 2, 2)):  # three cost 5
        book.apply_fill("A", sign, price, trade_id=f"{number}")
    held, realized, before = 3, 0, 5
    for part, cost in zip(parts, costs, strict=True):
        made = book.apply_fill("A", -sign * part, 7, trade_id=f"part {held}")
        closed = min(part, held)
        assert made.realized_pnl_decimal == sign * (7 * closed - (before - (cost if part <= held else 0)))
        realized += made.realized_pnl_decimal
        held, before = held - part, cost
        assert numbers(made.position) == (sign * held, -sign * cost if held < 0 else sign * cost, realized)


def test_fees_rebates_funding(book: Any) -> None:
    made = book.apply_fill("A", 1, 100, trade_id="1", fee="0.1")
    assert (made.fee_decimal, made.position.fees_decimal, made.position.realized_pnl_decimal) == (D("0.1"), D("0.1"), 0)
    assert book.apply_fill("A", 1, 100, trade_id="2", fee=-0.3).position.fees_decimal == D("-0.2")
    cash = book.apply_cash("A", "1.5", cash_id="1")
    assert (cash.applied, cash.position.funding_decimal, cash.position.fills) == (True, D("1.5"), 2)
    assert not book.apply_cash("A", 1.5, cash_id="1").applied
    assert book.apply_cash("A", -2, cash_id="2").position.funding == -0.5
    with pytest.raises(FillConflict):
        book.apply_cash("A", 1, cash_id="1")
    with pytest.raises(ValueError, match="kind"):
        book.apply_cash("A", 1, cash_id="3", kind="gift")
    assert list(book.fills("A")["trade_id"]) == ["1", "2"]
    only_cash = book.apply_cash("B", 1, cash_id="1").position
    assert (only_cash.quantity, only_cash.funding, only_cash.ts_opened) == (0.0, 1.0, None)


def test_what_is_booked_late_is_not_the_last(book: Any) -> None:
    book.apply_fill("A", 1, 10, trade_id="1", ts_event=START + 5)
    assert book.apply_fill("A", 1, 10, trade_id="2", ts_event=START + 3).position.ts_last == START + 5
    assert book.apply_cash("A", 1, cash_id="1", ts_event=START + 4).position.ts_last == START + 5
    assert book.apply_cash("A", 1, cash_id="2", ts_event=START + 6).position.ts_last == START + 6
    assert (book.get("A").ts_opened, book.get("A").ts_closed) == (START + 5, None)


def test_cash_and_a_fill_may_have_the_same_id(book: Any) -> None:
    assert book.apply_fill("A", 1, 1, trade_id="7").applied
    assert book.apply_cash("A", 1, cash_id="7").applied


def test_a_fill_is_listed_whatever_its_id(book: Any) -> None:
    """BUG 5: fills() tells cash by the id, not by its kind."""
    book.apply_fill("A", 1, 1, trade_id="cash:7")
    assert len(book.fills("A")) == book.get("A").fills == 1


# -- keys


def test_keys_are_apart(book: Any) -> None:
    keys = [("A", account, strategy, pid) for account in ("", "x") for strategy in ("", "y") for pid in ("", "L", "S")]
    for number, (symbol, account, strategy, pid) in enumerate(keys, 1):
        how = {"account": account, "strategy": strategy, "position_id": pid}
        assert book.apply_fill(symbol, number, 1, trade_id="same", **how).applied
    for number, key in enumerate(keys, 1):
        assert book.quantity(*key) == number
        assert book.get(*key).key == key
        assert list(book.fills("A", account=key[1], strategy=key[2], position_id=key[3])["quantity"]) == [number]
    assert book.net("A") == book.net_decimal("A") == 78
    assert book.net("A", account="x") == sum(range(7, 13))
    assert book.net("A", account="", strategy="y") == 4 + 5 + 6
    assert [p.key for p in book.open_positions()] == sorted(keys)
    assert len(book.open_positions(account="x", strategy="y")) == 3
    assert book.open_positions(symbol="B") == []
    assert sorted(book.keys()) == sorted(keys)


def test_hedged_mode(book: Any) -> None:
    book.apply_fill("A", 5, 10, trade_id="1", position_id="long")
    book.apply_fill("A", -3, 12, trade_id="2", position_id="short")
    assert [p.quantity for p in book.open_positions(symbol="A")] == [5.0, -3.0]
    assert (book.net("A"), book.get("A")) == (2.0, None)
    assert book.get("A", position_id="short").average_price == 12.0


def test_a_view_is_the_book_of_an_account(book: Any) -> None:
    view = book.view(account="x", strategy="y")
    view.apply_fill("A", 2, 10, trade_id="1")
    view.apply_cash("A", 1, cash_id="1")
    assert view.get("A").key == ("A", "x", "y", "")
    assert (view.quantity("A"), view.net("A"), view.ref("A").funding, book.quantity("A")) == (2.0, 2.0, 1.0, 0.0)
    assert len(view.fills("A")) == len(view.open_positions()) == 1
    assert view.reserve("A", 1, limit=3).strategy == "y"
    with pytest.raises(LimitExceeded):
        view.reserve("A", 1, limit=3)


@pytest.mark.parametrize("key", [("",), ("a\x1f",), ("a", "\0"), ("a" * 238,), ("ü" * 119,), ("a", "b" * 237)])
def test_names_that_are_none(book: Any, key: tuple[str, ...]) -> None:
    how = dict(zip(("account", "strategy"), key[1:], strict=False))
    for call in (
        lambda: book.apply_fill(key[0], 1, 1, trade_id="1", **how),
        lambda: book.get(*key),
        lambda: book.ref(*key),
    ):
        with pytest.raises(ValueError, match=r"symbol|account"):
            call()
    assert book.keys() == []


def test_long_names_and_ids(book: Any) -> None:
    symbol, trade_id = "a" * 237, "i" * 128
    assert book.apply_fill(symbol, 1, 1, trade_id=trade_id).applied
    assert not book.apply_fill(symbol, 1, 1, trade_id=trade_id).applied
    assert book.fills(symbol)["trade_id"][0] == trade_id
    for bad in ("", "i" * 129, "ü" * 65, "a\0b", "a\x1fb"):
        with pytest.raises(ValueError, match="id"):
            book.apply_fill(symbol, 1, 1, trade_id=bad)
    with pytest.raises(TypeError):
        book.apply_fill(symbol, 1, 1, trade_id=5)
    with pytest.raises(TypeError, match="symbol"):
        book.get(5)


# -- the same id again


def test_another_content_under_an_id_conflicts(book: Any) -> None:
    book.apply_fill("A", 1, 10, trade_id="1", fee=1, ts_event=START)
    book.apply_fill("A", 1, 10, trade_id="2", fee=1)
    before = image(book)
    for content in ((2, 10, 1), (-1, 10, 1), (1, 11, 1), (1, 10, 0)):
        for trade_id in ("1", "2"):
            with pytest.raises(FillConflict, match=f"'{trade_id}' of A was booked with quantity 1, price 10,"):
                book.apply_fill("A", content[0], content[1], fee=content[2], trade_id=trade_id)
    with pytest.raises(FillConflict):
        book.apply_fill("A", 1, 10, fee=1, trade_id="1", ts_event=START + 1)
    for how in ({}, {"ts_event": START}):
        again = book.apply_fill("A", "1.0", 10.0, trade_id="1", fee=D(1), **how)
        assert (again.applied, again.version, again.ts_event, again.position.quantity) == (False, 0, START, 2.0)
    assert not book.apply_fill("A", 1, 10, fee=1, trade_id="2", ts_event=START + 77).applied  # that one said no time
    assert image(book) == before


def test_ids_are_known_wherever_they_are(ram: Path) -> None:
    def again() -> list[bool]:
        for number in range(0, TRADES, 97):
            with pytest.raises(FillConflict):
                book.apply_fill("A", 2, 1, trade_id=f"{number}")
        return [book.apply_fill("A", 1, 1, trade_id=f"{number}").applied for number in range(0, TRADES, 31)]

    with ntmem.open(ram / "s", log_bytes=RING) as memory:
        book = memory.positions
        for number in range(TRADES):  # the ring turns some ten times
            assert book.apply_fill("A", 1, 1, trade_id=f"{number}").applied
            if number % 500 == 0:
                assert not book.apply_fill("A", 1, 1, trade_id=f"{number // 2}").applied
        assert not any(again())
        memory.flush()
        assert not any(again())
        rows = book.fills("A")
        assert list(rows["trade_id"]) == [f"{number}" for number in range(TRADES)]
        before = image(book)
    with ntmem.open(ram / "s", log_bytes=RING) as memory:
        book = memory.positions
        assert image(book) == before
        assert not any(again())
        assert numbers(book.get("A")) == (TRADES, TRADES, 0)
        assert book.get("A").fills == TRADES
        assert book.apply_fill("A", -TRADES, 2, trade_id="close").position.realized_pnl == TRADES


def test_an_id_that_went_from_the_log_to_the_disk_meanwhile(ram: Path, start: Start) -> None:
    """A fill waits for the mutex, its id being unknown; until it has it, that is booked, flushed, and left the ring."""
    holder = start(
        "memory = ntmem.open(sys.argv[1], log_bytes=65536)\n"
        "with memory._live._exclusive(changes_values=False):\n"
        "    say('has it'); hear()\n"
        "say('gave it'); hear(); memory.close()",
        ram / "s",
    )
    assert holder.line() == "has it"
    how = {"log_bytes": RING, "max_flush_lag": 60.0}
    with ntmem.open(ram / "s", **how) as memory, ntmem.open(ram / "s", **how) as other:
        book, here, steps = memory.positions, sys._getframe().f_code, []
        instrument = book.instrument

        def defined(symbol: str) -> Any:  # behind it nothing is Python's any more until the mutex is waited for
            steps.append("defined")
            return instrument(symbol)

        def meanwhile(_: int, frame: Any) -> None:
            if steps != ["defined"] or frame.f_code is not here:
                return
            steps.append("waits")
            signal.setitimer(signal.ITIMER_REAL, 0)
            holder.tell()
            assert holder.line() == "gave it"
            assert other.positions.apply_fill("A", 1, 1, trade_id="t").applied
            for number in range(400):  # the ring turns twice
                other.positions.apply_fill("B", 1, 1, trade_id=f"{number}")
            other.flush()

        book.instrument = defined
        before = signal.signal(signal.SIGALRM, meanwhile)
        try:
            signal.setitimer(signal.ITIMER_REAL, 0.01, 0.01)
            made = book.apply_fill("A", 1, 1, trade_id="t")
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, before)
        assert steps[:2] == ["defined", "waits"]
        assert (made.applied, book.quantity("A"), len(book.fills("A"))) == (False, 1.0, 1)
    holder.end()


# -- purging


def trade_and_close(book: Any, clock: Any, symbol: str = "A") -> None:
    book.apply_fill(symbol, 1, 10, trade_id="open", ts_event=START)
    book.apply_fill(symbol, -1, 11, trade_id="close", ts_event=START + SECOND)


@pytest.mark.parametrize("flushed", [False, True])
def test_what_was_purged_is_too_old(memory: Any, book: Any, clock: Any, flushed: bool) -> None:
    trade_and_close(book, clock)
    book.apply_fill("B", 1, 10, trade_id="open", ts_event=START)
    assert book.purge_closed(10) == 0
    clock.set(START + 20 * SECOND)
    assert book.purge_closed(10) == 1
    if flushed:
        memory.flush()
    before = book.get("A")
    assert (before.realized_pnl, before.quantity, len(book.fills("A")), len(book.fills("B"))) == (1.0, 0.0, 0, 1)
    memory.flush()
    for trade_id in ("open", "new"):
        with pytest.raises(FillTooOld, match=f"{START}"):
            book.apply_fill("A", 1, 10, trade_id=trade_id, ts_event=START)
    assert book.get("A").version == before.version
    with pytest.raises(FillTooOld, match="ts_event"):  # without a time it may be one of those
        book.apply_fill("A", 3, 10, trade_id="new")
    assert book.apply_fill("A", 3, 10, trade_id="new", ts_event=START + 20 * SECOND).applied
    assert book.purge_closed(1) == 0


def test_what_happened_after_the_purged_time_is_still_known(book: Any, clock: Any) -> None:
    """BUG 2: entries that no 'too old' protects are deleted, too."""
    trade_and_close(book, clock)
    late = START + 15 * SECOND
    assert book.apply_cash("A", 5, cash_id="late", ts_event=late).applied
    clock.set(START + 20 * SECOND)
    assert book.purge_closed(10) == 1  # of before START + 10 s
    assert not book.apply_cash("A", 5, cash_id="late", ts_event=late).applied
    assert book.get("A").funding == 5.0


def test_a_fill_without_a_time_is_not_counted_again_after_it_was_purged(book: Any, clock: Any) -> None:
    """BUG 3: sent again without a time it happens now, which is never too old."""
    book.apply_fill("A", 1, 10, trade_id="open")
    book.apply_fill("A", -1, 10, trade_id="close")
    clock.set(START + 20 * SECOND)
    assert book.purge_closed(10) == 1
    with pytest.raises(FillTooOld):
        book.apply_fill("A", 1, 10, trade_id="open")
    assert book.quantity("A") == 0


def test_what_happened_at_the_purged_time_is_still_known(book: Any, clock: Any) -> None:
    """Ids are deleted and refused up to the same time: none is deleted that would be counted again."""
    trade_and_close(book, clock)
    at = START + 10 * SECOND
    for number, ts in enumerate((at - 1, at, at + 1)):
        book.apply_cash("A", 5, cash_id=f"{number}", ts_event=ts)
    clock.set(START + 20 * SECOND)
    assert book.purge_closed(10) == 1
    with pytest.raises(FillTooOld):
        book.apply_cash("A", 5, cash_id="0", ts_event=at - 1)
    assert not book.apply_cash("A", 5, cash_id="1", ts_event=at).applied
    assert not book.apply_cash("A", 5, cash_id="2", ts_event=at + 1).applied
    assert book.apply_cash("A", 5, cash_id="new", ts_event=at).applied
    assert book.get("A").funding == 20.0


def test_what_is_opened_again_is_not_purged(book: Any, clock: Any) -> None:
    trade_and_close(book, clock)
    clock.set(START + 20 * SECOND)
    forget = book.forget

    def meanwhile(*args: Any) -> bool:
        book.apply_fill("A", 5, 10, trade_id="again", ts_event=START + 20 * SECOND)
        return forget(*args)

    book.forget = meanwhile
    assert book.purge_closed(10) == 0
    assert (book.quantity("A"), book.get("A").fills, len(book.fills("A"))) == (5.0, 3, 3)
    assert not book.apply_fill("A", 1, 10, trade_id="open", ts_event=START).applied


def test_what_was_purged_is_too_old_for_who_sets_the_position_too(book: Any, clock: Any) -> None:
    trade_and_close(book, clock)
    clock.set(START + 20 * SECOND)
    other = book.get("A")  # from before
    assert book.purge_closed(10) == 1
    book.upsert(other)
    with pytest.raises(FillTooOld):
        book.apply_fill("A", 1, 10, trade_id="open", ts_event=START)
