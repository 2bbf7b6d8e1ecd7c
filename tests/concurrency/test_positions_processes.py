"""Processes that book into the same positions at once: each id counts once, sums are exact, no reader sees half a fill.

``NTMEM_BOOK_FILLS`` says how many fills each of four processes books, ``NTMEM_BOOK_READS`` how many reads are made;
``make positions`` (BOOK_READS=) has 20 million.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
from hostile import Start

import ntmem

pytestmark = [pytest.mark.usefixtures("engine"), pytest.mark.only("shared")]

FILLS = int(os.environ.get("NTMEM_BOOK_FILLS", "3000"))
READS = int(os.environ.get("NTMEM_BOOK_READS", "150000"))
ROUND = 500_000  # reads of a store; what two write meanwhile has to have room
WORKERS = 4

BOOKS = """
row, fills = int(sys.argv[2]), int(sys.argv[3])
with ntmem.open(sys.argv[1], log_bytes=1 << 18) as memory:
    p = memory.positions
    say("ready")
    hear()
    applied = {"own": 0, "same": 0, "alone": 0}
    for n in range(fills):
        sign = -1 if n % 3 == 2 else 1
        applied["own"] += p.apply_fill("own ids", sign * (n % 7 + 1), n % 11, fee="0.01", trade_id=f"{row}-{n}").applied
        applied["same"] += p.apply_fill("same ids", sign, n % 11, fee=1, trade_id=f"{n}").applied
        applied["alone"] += p.apply_fill("alone", 1, 1, account=str(row), trade_id=f"{n}").applied
    say(applied["own"], applied["same"], applied["alone"])
"""


def test_each_id_counts_once(ram: Path, start: Start) -> None:
    store = ram / "s"
    with ntmem.open(store, log_bytes=1 << 18) as memory:
        book = memory.positions
        workers = [start(BOOKS, store, row, FILLS) for row in range(WORKERS)]
        for worker in workers:
            assert worker.line() == "ready"
        for worker in workers:
            worker.tell()
        applied = [tuple(map(int, worker.line().split())) for worker in workers]
        for worker in workers:
            worker.end()
        own, same, alone = (sum(column) for column in zip(*applied, strict=True))
        assert (own, same, alone) == (FILLS * WORKERS, FILLS, FILLS * WORKERS)
        check(book)
    with ntmem.open(store, log_bytes=1 << 18) as memory:
        check(memory.positions)


def check(book: ntmem.tiers.positions.Positions) -> None:
    signs = [-1 if n % 3 == 2 else 1 for n in range(FILLS)]
    for symbol, quantity, fills in (
        ("own ids", WORKERS * sum(sign * (n % 7 + 1) for n, sign in enumerate(signs)), FILLS * WORKERS),
        ("same ids", sum(signs), FILLS),
    ):
        position, rows = book.get(symbol), book.fills(symbol)
        assert (position.quantity, position.fills, len({*rows["trade_id"]})) == (quantity, fills, fills)
        assert rows["quantity"].sum() == quantity
        assert position.fees == pytest.approx(fills * (1 if symbol == "same ids" else 0.01), abs=1e-12)
        paid = sum(int(row["quantity"]) * int(row["price"]) for row in rows)
        assert position.cost_decimal - position.realized_pnl_decimal == paid  # whatever the order
    for row in range(WORKERS):
        assert (book.quantity("alone", str(row)), len(book.fills("alone", account=str(row)))) == (FILLS, FILLS)
    assert book.net("alone") == FILLS * WORKERS


FULL_SPEED = """
with ntmem.open(sys.argv[1]) as memory:
    p, n, row = memory.positions, 0, sys.argv[2]
    stop = threading.Event()
    threading.Thread(target=lambda: (hear(), stop.set()), daemon=True).start()
    p.apply_fill("A", 1, 1, fee=1, trade_id="first " + row)
    say("books")
    while not stop.is_set():
        p.apply_fill("A", 1, 1, fee=1, trade_id=f"{row}-{n}")
        n += 1
    say(n + 1)
"""


def test_no_reader_sees_half_a_fill(ram: Path, start: Start) -> None:
    """Each fill buys 1 at 1 and pays 1: quantity, cost, fees, fills, peak are always the same number."""
    for left in range(READS, 0, -ROUND):
        read_beside_writers(ram / "s", start, min(left, ROUND))
        shutil.rmtree(ram / "s")


def read_beside_writers(store: Path, start: Start, wanted: int) -> None:
    with ntmem.open(store) as memory:
        book = memory.positions
        book.define("A", price_precision=0, quantity_precision=0)  # numbers that floats have exactly
        writers = [start(FULL_SPEED, store, row) for row in range(2)]
        for writer in writers:
            assert writer.line() == "books"
        ref, get, snapshot = book.ref("A"), book.get, book.snapshot
        last, torn, states, reads = 0.0, 0, 0, 0
        while reads < wanted or states < 100:
            position = get("A") if reads % 2 else ref.position
            held = position.quantity
            torn += not (held == position.fees == position.fills == position.peak_quantity)
            torn += position.cost_decimal != held or position.realized_pnl != 0 or held < last
            states += held != last
            last = held
            reads += 1
            if reads % 200 == 0:
                row = snapshot()[0]
                torn += not (row["quantity"] == row["fees"] == row["fills"] == row["peak_quantity"] >= last)
                torn += row["average_price"] != 1.0
        assert torn == 0
        for writer in writers:
            writer.tell()
        assert book.quantity("A") <= sum(int(writer.line()) for writer in writers)
        for writer in writers:
            writer.end()
        assert book.get("A").fills == book.quantity("A")
        assert READS > ROUND or len(book.fills("A")) == book.quantity("A")  # millions to look at in a long run
