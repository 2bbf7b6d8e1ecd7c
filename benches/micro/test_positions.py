"""The position book: what looking at a position costs, and what booking a fill."""

import time
from dataclasses import dataclass
from multiprocessing import shared_memory

import numpy as np
import pytest
from figures import percentile

import ntmem

SYMBOLS = [f"SYMBOL{number}" for number in range(100)]
CALLS = len(SYMBOLS)
FILLS = 2_000


@dataclass(frozen=True)
class Plain:
    symbol: str
    quantity: float
    average_price: float
    realized_pnl: float


@pytest.fixture
def book(tmp_path):
    with ntmem.open(tmp_path / "store", engine="shared") as memory:
        book = memory.positions
        for symbol in SYMBOLS:
            book.apply_fill(symbol, 2, 61800.3, trade_id="first")
        yield book


def test_get_to_dict_of_dataclasses(ratio_to, book):
    plain = {symbol: Plain(symbol, 2.0, 61800.3, 0.0) for symbol in SYMBOLS}

    def ours(get=book.get):
        for symbol in SYMBOLS:
            found = get(symbol)
        return found

    def theirs(get=plain.get):
        for symbol in SYMBOLS:
            found = get(symbol)
        return found

    ratio_to(ours, theirs, calls=CALLS)


def test_quantity_to_a_row_in_shared_memory(ratio_to, book):
    memory = shared_memory.SharedMemory(create=True, size=CALLS * 24)
    try:
        rows = np.ndarray(CALLS, dtype=[("quantity", "f8"), ("price", "f8"), ("pnl", "f8")], buffer=memory.buf)
        rows["quantity"] = 2.0
        places = {symbol: place for place, symbol in enumerate(SYMBOLS)}

        def ours():
            for symbol in SYMBOLS:
                found = book.quantity(symbol)
            return found

        def theirs(rows=rows):
            for symbol in SYMBOLS:
                found = rows[places[symbol]]["quantity"]
            return found

        ratio_to(ours, theirs, calls=CALLS)
        del rows, theirs
    finally:
        memory.close()
        memory.unlink()


def test_ref_quantity(benchmark, book):
    refs = [book.ref(symbol) for symbol in SYMBOLS]

    def look():
        for ref in refs:
            found = ref.quantity
        return found

    benchmark(look)


def test_means_of_64_gets(benchmark, book):
    """Percentiles of means of 64 calls, the loop included."""
    symbols, times = SYMBOLS[:64], []
    get = book.get
    for _ in range(20_000):
        start = time.perf_counter_ns()
        for symbol in symbols:
            get(symbol)
        times.append((time.perf_counter_ns() - start) / 64)
    for name, share in (("p50", 0.5), ("p99", 0.99)):
        benchmark.extra_info[f"{name} ns"] = round(percentile(times, share), 1)
    print("\nget by string, means of 64 calls:", dict(benchmark.extra_info))
    benchmark.pedantic(lambda: None, rounds=1)


def test_fill(benchmark, book):
    """Times of single calls, the clock's 50 ns included; the flusher runs."""
    times = []
    for number in range(20):
        for place in range(FILLS):
            start = time.perf_counter_ns()
            book.apply_fill("SYMBOL0", 1, 61800.3, trade_id=f"{number} {place}")
            times.append(time.perf_counter_ns() - start)
        time.sleep(0.02)
    for name, share in (("p50", 0.5), ("p99", 0.99), ("p99.9", 0.999)):
        benchmark.extra_info[f"{name} ns"] = percentile(times, share)
    print("\napply_fill:", dict(benchmark.extra_info))
    benchmark.pedantic(lambda: None, rounds=1)
