"""L1 from Python: get, get_many and put of what is in the hot table, against a dict with a composed key, and others.

All entries fit; what is measured is how they are found. "hot" asks for a hundred of them, "zipf" and "uniform" for all.
"""

import time
from contextlib import contextmanager

import pytest
from figures import note_ratio, percentile
from loops import DRAWS, NS, composed_gets, composed_puts, draws_of, gets, in_slices, puts
from peers import IN_MEMORY, ON_DISK, fill
from stock import open_stock, sized

SLICES = 40
BATCH = 64
MANY = 100
PAUSE = 0.002  # between rounds of 1,000 puts, which the flusher keeps up with on one shared core

COMMON = sized(100_000, 64)
LARGE = [sized(entries, 64, pytest.mark.large) for entries in (1_000_000, 10_000_000)]
VALUES = [sized(10_000, 16), sized(10_000, 1024), sized(1_000, 1 << 16)]

every_stock = pytest.mark.parametrize("stock", [sized(1_000, 64), COMMON, *LARGE, *VALUES], indirect=True)
common_stock = pytest.mark.parametrize("stock", [COMMON], indirect=True)
every_draws = pytest.mark.parametrize("draws", DRAWS)


@pytest.fixture(scope="module")
def stock(request, tmp_path_factory):
    with open_stock(tmp_path_factory.mktemp("stock") / "store", *request.param) as stock:
        yield stock


def drawn_from(stock, draws):
    """Return draws that were asked for twice: the first time brings them into the hot table."""
    drawn = draws_of(draws, stock.keys, SLICES * stock.slice_size)
    for key in drawn:
        stock.memory.get(NS, key)
    for key in drawn:
        assert stock.memory.get(NS, key) == stock.store[f"{NS}/{key}"]
    return drawn


@contextmanager
def hits_noted(benchmark, stock):
    """Note how many percent of the gets in here the hot table answered."""
    before = stock.hot.counts()
    yield
    counts = {name: count - before[name] for name, count in stock.hot.counts().items()}
    asked = counts["hot"] + counts["log"] + counts["disk"]
    benchmark.extra_info["hot_percent"] = 100 * counts["hot"] / asked


def slices_for_both(drawn, size):
    return in_slices(drawn, size), in_slices(drawn, size, offset=len(drawn) // size // 2)


@every_stock
@every_draws
def test_get_to_dict(ratio_to, benchmark, stock, draws):
    calls = stock.slice_size
    mine, other = slices_for_both(drawn_from(stock, draws), calls)
    sides = gets(stock.memory.get, mine), composed_gets(stock.store.get, other)
    with hits_noted(benchmark, stock):
        ratio_to(*sides, rounds=100, repeats=1, calls=calls)


@common_stock
@every_draws
def test_native_get(benchmark, stock, draws):
    """Each call is timed by itself, without Python around it; the clock's own 20 ns are included."""
    slices = in_slices(drawn_from(stock, draws), stock.slice_size)
    time_gets = stock.memory._engine().direct.time_gets
    with hits_noted(benchmark, stock):
        taken = [nanoseconds for _ in range(SLICES) for nanoseconds in time_gets(NS, next(slices))]
    for share in (0.5, 0.99, 0.999):
        benchmark.extra_info[f"native p{100 * share:g} ns"] = percentile(taken, share)
    benchmark.extra_info["calls"] = stock.slice_size
    benchmark.pedantic(gets(stock.memory.get, slices), rounds=SLICES)


@common_stock
@every_draws
def test_tail_of_means_of_64_to_dict(benchmark, stock, draws):
    """The figures are the 99th percentiles of the means of 64 calls, in 30 blocks of 500 of each side."""
    mine, other = slices_for_both(drawn_from(stock, draws), BATCH)
    sides = gets(stock.memory.get, mine), composed_gets(stock.store.get, other)

    def tails():
        times = [], []
        for _ in range(500):
            for run, means in zip(sides, times, strict=True):
                start = time.perf_counter_ns()
                run()
                means.append((time.perf_counter_ns() - start) / BATCH)
        return [percentile(means, 0.99) for means in times]

    ours, theirs = zip(*(tails() for _ in range(30)), strict=True)
    note_ratio(benchmark, ours, theirs)
    benchmark.pedantic(tails, rounds=1)


@common_stock
@every_draws
def test_get_many_to_dict(ratio_to, stock, draws):
    """A hundred keys in one call."""
    mine, other = slices_for_both(drawn_from(stock, draws), MANY)
    memory, store = stock.memory, stock.store

    def ours():
        return memory.get_many(NS, next(mine))

    def theirs():
        return {key: store[f"{NS}/{key}"] for key in next(other)}

    found = ratio_to(ours, theirs, rounds=100, repeats=20, calls=MANY)
    assert found == {key: store[f"{NS}/{key}"] for key in found}


@common_stock
@pytest.mark.parametrize("peer", [*IN_MEMORY, *ON_DISK])
def test_get_to_peer(ratio_to, stock, tmp_path, peer):
    """Zipf draws; the peers have composed keys, as the dict has."""
    drawn = drawn_from(stock, "zipf")
    size = stock.slice_size if peer in IN_MEMORY else stock.slice_size // 10
    mine, other = slices_for_both(drawn, size)
    with (IN_MEMORY | ON_DISK)[peer](2 * len(stock.keys), tmp_path) as cache:
        fill(cache, stock.store.items())
        ratio_to(gets(stock.memory.get, mine), composed_gets(cache.get, other), rounds=60, repeats=1, calls=size)


@common_stock
@every_draws
def test_put_to_dict(ratio_to, stock, draws):
    put_to(ratio_to, stock, draws, dict(stock.store))


@common_stock
@pytest.mark.parametrize("peer", IN_MEMORY)
def test_put_to_peer(ratio_to, stock, tmp_path, peer):
    with IN_MEMORY[peer](2 * len(stock.keys), tmp_path) as cache:
        fill(cache, stock.store.items())
        put_to(ratio_to, stock, "zipf", cache)


def put_to(ratio_to, stock, draws, cache):
    """Time puts of new values for keys that are there; those of the stock come back."""
    drawn = draws_of(draws, stock.keys, SLICES * 1_000)
    mine, other = slices_for_both(drawn, 1_000)
    ratio_to(
        puts(stock.memory.put, mine, b"p" * stock.size),
        composed_puts(cache, other, b"p" * stock.size),
        rounds=100,
        repeats=1,
        calls=1_000,
        settle=lambda: time.sleep(PAUSE),
    )
    stock.memory.put_many(NS, {key: stock.store[f"{NS}/{key}"] for key in drawn})
