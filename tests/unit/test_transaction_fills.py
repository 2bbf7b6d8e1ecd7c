"""Fills that are part of a transaction: with the rest of it, or not at all."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import pytest

import ntmem
from ntmem import FillConflict, VersionConflict

pytestmark = [pytest.mark.usefixtures("engine"), pytest.mark.only("shared")]


@pytest.fixture
def memory() -> Iterator[ntmem.MemorySystem]:
    with ntmem.open() as memory:
        yield memory


@pytest.fixture
def book(memory: ntmem.MemorySystem) -> Any:
    return memory.positions


def test_a_fill_in_a_transaction_is_booked_with_the_rest(memory: Any, book: Any) -> None:
    with memory.transaction() as t:
        t.put("desk", "why", b"1")
        t.apply_fill("A", 2, "10.5", side="buy", trade_id="1", fee="0.1")
        t.apply_fill("A", -3, 11, trade_id="2")
        t.apply_fill("A", 2, "10.5", trade_id="1", fee="0.1")
        t.apply_fill("B", 1, 1, trade_id="1", account="x")
        assert book.get("A") is None
    assert [fill.applied for fill in t.fills] == [True, True, False, True]
    held = book.get("A")
    assert (held.quantity, held.realized_pnl, held.fees, held.fills) == (-1.0, 1.0, 0.1, 2)
    assert t.fills[1].version == t.fills[1].position.version == held.version
    assert t.version == t.fills[3].version == book.get("B", "x").version
    assert book.fill("A", "2").realized_pnl_decimal == 1
    assert not book.apply_fill("A", 2, "10.5", trade_id="1", fee="0.1").applied
    assert memory.get("desk", "why") == b"1"


def test_a_transaction_whose_fill_is_refused_does_nothing(memory: Any, book: Any) -> None:
    book.apply_fill("A", 1, 10, trade_id="1")
    before = book.get("A").version
    for how, error in (
        ({"trade_id": "1"}, FillConflict),
        ({"trade_id": "2", "fee": "1E-30"}, ValueError),
        ({"trade_id": "2", "fee": 10**40}, OverflowError),
    ):
        with pytest.raises(error), memory.transaction() as t:
            t.put("desk", "why", b"1")
            t.apply_fill("B", 1, 1, trade_id="1")
            t.apply_fill("A", 2, 10, **how)
        assert (memory.get("desk", "why"), book.get("A").version, book.get("B")) == (None, before, None)
    with pytest.raises(ValueError, match="finite"), memory.transaction() as t:
        t.apply_fill("C", "nan", 1, trade_id="1")
    assert book.used == 2
    with pytest.raises(VersionConflict), memory.transaction() as t:
        t.put("desk", "why", b"1", if_version=7)
        t.apply_fill("B", 1, 1, trade_id="1")
    assert book.get("B") is None


def test_a_fill_that_was_booked_does_not_hold_up_a_transaction(memory: Any, book: Any) -> None:
    book.apply_fill("A", 1, 10, trade_id="1")
    with memory.transaction() as t:
        t.apply_fill("A", 1, 10, trade_id="1")
    assert (t.version, [fill.applied for fill in t.fills]) == (None, [False])
    with memory.transaction() as t:
        t.incr("desk", "count")
        t.apply_fill("A", 1, 10, trade_id="1")
    assert (memory.get("desk", "count"), book.quantity("A")) == (b"1", 1.0)


def test_fills_in_transactions_and_beside_them(memory: Any, book: Any) -> None:
    def run(number: int) -> None:
        for step in range(60):
            with memory.transaction() as t:
                t.incr("desk", "count")
                t.apply_fill("A", 1, 10, trade_id=f"{number}/{step}")
                t.apply_fill(f"of {number}", 1, 10, trade_id=f"{step}")
            book.apply_fill("A", -1, 11, trade_id=f"back {number}/{step}")

    threads = [threading.Thread(target=run, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    held = book.get("A")
    assert (held.quantity, held.realized_pnl, held.fills, memory.get("desk", "count")) == (0.0, 180.0, 360, b"180")
    assert [book.quantity(f"of {number}") for number in range(3)] == [60.0] * 3


def test_fills_while_other_threads_read_the_data_file(memory: Any, book: Any) -> None:
    stop = threading.Event()

    def read() -> None:
        while not stop.is_set():
            list(memory.scan("desk"))

    memory.put_many("desk", {f"{number}": b"" for number in range(1000)})
    memory.flush()
    readers = [threading.Thread(target=read) for _ in range(3)]
    for reader in readers:
        reader.start()
    try:
        for number in range(2000):
            book.apply_fill("A", 1, 1, trade_id=f"{number}")
    finally:
        stop.set()
        for reader in readers:
            reader.join()
    assert book.quantity("A") == 2000.0


def test_a_mark_is_kept_by_fills_in_transactions(memory: Any, book: Any) -> None:
    book.apply_fill("A", 1, 10, trade_id="1")
    plan = memory.transaction()
    with plan as t:
        t.apply_fill("A", 1, 10, trade_id="2")
        book.mark("A", 12)
    assert book.get("A").unrealized_pnl == 4.0


def test_fills_do_not_go_past_the_log(tmp_path: Any) -> None:
    with ntmem.open(tmp_path, log_bytes=1 << 16) as memory:
        with pytest.raises(ValueError, match="log_bytes"), memory.transaction() as t:
            t.apply_fill("A", 1, 10, trade_id="1")
            for number in range(60):
                t.put("desk", f"{number}", bytes(1000))
        assert memory.positions.get("A") is None
        assert memory.get("desk", "1") is None


def test_records_of_fills_say_when_those_happened(memory: Any, book: Any) -> None:
    with memory.watch("ntmem") as changes:
        with memory.transaction() as t:
            t.apply_fill("A", 1, 10, trade_id="1", ts_event=1_700_000_000_000_000_000)
        assert {changes.recv(0).ts_event for _ in range(2)} == {1_700_000_000_000_000_000}
