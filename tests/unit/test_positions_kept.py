"""What a position book keeps of what is over, of who only looks, and of sums."""

from __future__ import annotations

from collections.abc import Iterator
from decimal import localcontext
from typing import Any

import pytest

import ntmem
from ntmem import FillTooOld, LimitExceeded, PositionError, ReadOnlyError

pytestmark = [pytest.mark.usefixtures("engine"), pytest.mark.only("shared")]

START = 1_700_000_000_000_000_000
SECOND = 1_000_000_000


@pytest.fixture
def memory() -> Iterator[ntmem.MemorySystem]:
    with ntmem.open() as memory:
        yield memory


@pytest.fixture
def book(memory: ntmem.MemorySystem) -> Any:
    return memory.positions


def test_purged_positions_leave_their_places(tmp_path: Any) -> None:
    with ntmem.open(tmp_path, clock=(clock := ntmem.SimulatedClock(START))) as memory:
        book = memory.positions
        for number in range(20):
            book.apply_fill(f"S{number}", 2, 10, trade_id="1", ts_event=START)
            book.apply_fill(f"S{number}", -2, 11, trade_id="2", ts_event=START)
        book.apply_fill("kept", 1, 1, trade_id="1")
        clock.set(START + 100 * SECOND)
        assert book.purge_closed(10) == 20
        assert book.used == 21
    with ntmem.open(tmp_path) as memory:
        book = memory.positions
        assert (book.used, book.get("S1")) == (1, None)
        with pytest.raises(FillTooOld):
            book.apply_fill("S1", 2, 10, trade_id="1", ts_event=START)
        fill = book.apply_fill("S1", 1, 10, trade_id="3", ts_event=START + 100 * SECOND)
        assert (fill.position.realized_pnl, fill.position.fills, book.used) == (2.0, 3, 2)
        assert book.ref("S2").realized_pnl == 2.0
        with memory.transaction() as t:
            t.apply_fill("S3", 1, 10, trade_id="3", ts_event=START + 100 * SECOND)
        assert (book.get("S3").realized_pnl, book.get("S3").quantity) == (2.0, 1.0)
        assert book.upsert(book.from_ccxt({"symbol": "S4", "contracts": 3, "side": "long"})).fills == 2


def test_sums_do_not_take_their_digits_from_the_caller(book: Any) -> None:
    book.apply_fill("A", "123457.78", 1, trade_id="1", strategy="x")
    book.apply_fill("A", "0.01", 1, trade_id="1")
    with localcontext() as context:
        context.prec = 3
        assert str(book.net_decimal("A")) == "123457.79000000"
        assert book.reconcile({"A": "123457.79"}).ok
        assert not book.reconcile({"A": "123457.8"}).ok
        with pytest.raises(LimitExceeded):
            book.reserve("A", "0.01", limit="123457.785", strategy="x")


def test_a_position_from_elsewhere_keeps_when_something_happened_last(book: Any) -> None:
    last = book.apply_fill("A", 1, 10, trade_id="1").position.ts_last
    assert book.upsert(book.from_ccxt({"symbol": "A", "contracts": 3, "side": "long"})).ts_last == last


def test_a_reader_makes_no_keys(tmp_path: Any) -> None:
    with ntmem.open(tmp_path) as memory, ntmem.open(tmp_path, read_only=True) as reader:
        memory.positions.apply_fill("A", 1, 1, trade_id="1")
        assert reader.positions.ref("A").quantity == 1.0
        with pytest.raises(ReadOnlyError):
            reader.positions.ref("B")
        assert memory.positions.used == 1


def test_what_is_defined_is_what_purged_ones_were_booked_with(tmp_path: Any) -> None:
    with ntmem.open(tmp_path, clock=(clock := ntmem.SimulatedClock(START))) as memory:
        book = memory.positions
        book.define("A", price_precision=2, quantity_precision=0, multiplier=10)
        for number, quantity in enumerate((1, -1)):
            book.apply_fill("A", quantity, 10, trade_id=f"{number}", ts_event=START)
        clock.set(START + 100 * SECOND)
        assert book.purge_closed(10) == 1
    with ntmem.open(tmp_path) as memory:
        with pytest.raises(PositionError, match="2 and 0 digits and multiplier 10"):
            memory.positions.define("A", price_precision=4, quantity_precision=2)
        memory.positions.define("A", price_precision=2, quantity_precision=0, multiplier=10, currency="USD")


def test_what_is_kept_of_a_purged_position_is_listed(tmp_path: Any) -> None:
    """Cash that came later, and what was opened again and set to nothing."""
    with ntmem.open(tmp_path, clock=(clock := ntmem.SimulatedClock(START))) as memory:
        book = memory.positions
        for symbol in ("A", "B"):
            for number, quantity in enumerate((1, -1)):
                book.apply_fill(symbol, quantity, 10, trade_id=f"{number}", ts_event=START)
        later = START + 95 * SECOND
        book.apply_cash("A", 3, cash_id="late", ts_event=later)
        clock.set(START + 100 * SECOND)
        assert book.purge_closed(10) == 2
        book.apply_fill("B", 1, 10, trade_id="9", ts_event=later)
        book.upsert(book.from_ccxt({"symbol": "B", "contracts": 0}))
    with ntmem.open(tmp_path) as memory:
        assert memory.positions.get("A").funding == 3.0
        assert memory.positions.fill("B", "9") is not None


def test_an_id_is_unknown_as_soon_as_it_is_purged(tmp_path: Any) -> None:
    with ntmem.open(tmp_path, clock=(clock := ntmem.SimulatedClock(START)), flush_interval=3600.0) as memory:
        book = memory.positions
        for number, quantity in enumerate((1, -1)):
            book.apply_fill("A", quantity, 10, trade_id=f"{number}", ts_event=START)
        memory.flush()
        clock.set(START + 100 * SECOND)
        assert book.purge_closed(10) == 1
        with pytest.raises(FillTooOld):
            book.apply_fill("A", 5, 10, trade_id="0", ts_event=START)
        assert book.apply_fill("A", 5, 10, trade_id="0", ts_event=START + 99 * SECOND).applied
