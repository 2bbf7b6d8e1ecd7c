"""The position book: what looking at a position costs, and what booking a fill."""

import subprocess
import time
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from itertools import count
from multiprocessing import shared_memory

import numpy as np
import pytest
from figures import percentile, untimed
from partner import partner, slowdown

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


def test_get_to_nautilus_trader(ratio_to, book):
    """Its cache by a string, of which it makes an id; in one process, where ours is shared by all."""
    pytest.importorskip("nautilus_trader")
    from nautilus_trader.cache.cache import Cache
    from nautilus_trader.model.enums import OmsType
    from nautilus_trader.model.identifiers import PositionId
    from nautilus_trader.model.position import Position
    from nautilus_trader.test_kit.providers import TestInstrumentProvider
    from nautilus_trader.test_kit.stubs.events import TestEventStubs
    from nautilus_trader.test_kit.stubs.execution import TestExecStubs

    instrument, cache = TestInstrumentProvider.default_fx_ccy("AUD/USD"), Cache()
    cache.add_instrument(instrument)
    for symbol in SYMBOLS:
        order = TestExecStubs.limit_order(instrument=instrument)
        fill = TestEventStubs.order_filled(order, instrument=instrument, position_id=PositionId(symbol))
        cache.add_position(Position(instrument=instrument, fill=fill), OmsType.HEDGING)

    def ours(get=book.get):
        for symbol in SYMBOLS:
            found = get(symbol)
        return found

    def theirs(get=cache.position):
        for symbol in SYMBOLS:
            found = get(PositionId(symbol))
        return found

    assert theirs() is not None
    ratio_to(ours, theirs, calls=CALLS)


NATIVE = """
#include <ntmem.h>
#include <time.h>
static long now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1000000000L + t.tv_nsec;
}
static int less(const void *a, const void *b) { return (*(long *)a > *(long *)b) - (*(long *)a < *(long *)b); }
enum { CALLS = 2000000 };
static long looks[CALLS], empty[CALLS];
int main(int count, char **args)
{
    ntmem_book_t book;
    ntmem_position_t position;
    long long sum = 0;
    if (count < 2 || ntmem_open(args[1], &book) != 0) return 1;
    for (int i = 0; i < CALLS; i++) {
        char symbol[16];
        snprintf(symbol, sizeof symbol, "SYMBOL%d", i % 100);
        long begun = now();
        const ntmem_slot_t *slot = ntmem_find(&book, symbol, "", "", "");
        if (slot == NULL || !ntmem_read(slot, &position)) return 2;
        looks[i] = now() - begun;
        sum += position.quantity;
        begun = now();
        empty[i] = now() - begun;
    }
    qsort(looks, CALLS, sizeof looks[0], less);
    qsort(empty, CALLS, sizeof empty[0], less);
    printf("%ld %ld %ld %ld\\n", looks[CALLS / 2], looks[CALLS / 100 * 99], empty[CALLS / 2], empty[CALLS / 100 * 99]);
    return sum == 0;
}
"""


def test_native_get(benchmark, book, tmp_path):
    """Percentiles of single lookups by name with a copy, from C, each timed by the clock, and of the clock alone."""
    (tmp_path / "time.c").write_text("#include <stdio.h>\n#include <stdlib.h>\n" + NATIVE)
    flags = ["-O2", "-D_GNU_SOURCE", f"-I{ntmem.get_include()}"]
    subprocess.run(["gcc", *flags, "-o", tmp_path / "time", tmp_path / "time.c"], check=True)
    said = subprocess.run([tmp_path / "time", tmp_path / "store"], check=True, capture_output=True, text=True).stdout
    benchmark.extra_info.update(
        zip(("p50 ns", "p99 ns", "clock p50 ns", "clock p99 ns"), map(int, said.split()), strict=True)
    )
    untimed(benchmark)


@contextmanager
def booking(path):
    with ntmem.open(path, engine="shared") as memory:
        book, numbers = memory.positions, count()

        def fill():
            for symbol in SYMBOLS:
                book.apply_fill(symbol, 1, 61800.3, trade_id=f"busy {next(numbers)}")

        yield fill


def spinning(path):
    return nullcontext(lambda: sum(range(400)))


@pytest.mark.parametrize("other", ["spins", "books fills of the same keys"])
def test_get_beside_a_busy_process_to_a_quiet_one(benchmark, tmp_path, other):
    with (
        partner(partial(spinning if other == "spins" else booking, tmp_path / "store")) as busy,
        ntmem.open(tmp_path / "store", engine="shared") as memory,
    ):
        book = memory.positions
        for symbol in SYMBOLS:
            book.apply_fill(symbol, 2, 61800.3, trade_id="first")

        def run(get=book.get):
            for symbol in SYMBOLS:
                found = get(symbol)
            return found

        slowdown(benchmark, run, busy, calls=CALLS, settle=memory.flush)


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

    benchmark.extra_info["calls"] = len(refs)
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
    untimed(benchmark)


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
    untimed(benchmark)
