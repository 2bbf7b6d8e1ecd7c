"""Observations: what a row costs to append, history to load, a range to read, and what a million rows take."""

import os
import sqlite3
import struct
import subprocess
import sys
import time
from itertools import count, cycle

import numpy as np
import pytest
from figures import percentile, untimed

import ntmem

SECOND = 10**9
ROWS = 1_000_000
FIELDS = ("bid", "ask", "last", "bid_size", "ask_size", "volume", "trades", "imbalance")
ROW = {
    "bid": 61800.1,
    "ask": 61800.2,
    "last": 61800.1,
    "bid_size": 1.5,
    "ask_size": 0.25,
    "volume": 12.25,
    "trades": 31,
}
ROW["imbalance"] = 0.7143


def history():
    """A market of 11 days and a half, a row a second: prices in ticks of 0.1, sizes in thousandths, a ratio of them."""
    chance = np.random.default_rng(1)
    bid = np.round(60_000 + np.cumsum(chance.choice([-0.1, 0, 0, 0.1], ROWS)), 1)
    sizes = np.round(chance.lognormal(0, 1, (3, ROWS)), 3)
    return {
        "ts_event": np.arange(ROWS) * SECOND + 1_700_000_000 * SECOND,
        "bid": bid,
        "ask": np.round(bid + 0.1, 1),
        "last": np.round(bid + chance.choice([0, 0.1], ROWS), 1),
        "bid_size": sizes[0],
        "ask_size": sizes[1],
        "volume": sizes[2],
        "trades": chance.poisson(5, ROWS),
        "imbalance": np.round(sizes[0] / (sizes[0] + sizes[1]), 4),
    }


@pytest.fixture(scope="module")
def columns():
    return history()


@pytest.fixture(scope="module")
def loaded(columns, tmp_path_factory):
    """A store with the history, distilled."""
    path = tmp_path_factory.mktemp("observations") / "store"
    with ntmem.open(path, engine="shared") as memory:
        memory.observations.extend("market", "BTCUSDT", columns, known_after=0)
        memory.observations.distill()
        memory.flush()
        yield memory


@pytest.fixture
def observations(tmp_path):
    with ntmem.open(tmp_path / "store", engine="shared") as memory:
        yield memory.observations


def test_append_to_put(ratio_to, tmp_path):
    """To packing the row with struct and putting the bytes under a key of its own: what one would do without it."""
    pack = struct.Struct("<qq8d").pack
    with ntmem.open(tmp_path / "store", engine="shared") as memory:
        append, put, values = memory.observations.append, memory.put, tuple(map(float, ROW.values()))

        def ours():
            for second in range(100):
                append("market", "BTCUSDT", second * SECOND, ROW)

        def theirs():
            for second in range(100):
                put("rows", f"BTCUSDT/{second}", pack(second * SECOND, time.time_ns(), *values))

        ours()
        ratio_to(ours, theirs, calls=100)


def test_append(benchmark, observations):
    """Percentiles of single calls, the clock included; a block is distilled in the background meanwhile, twice."""
    taken = []
    for second in range(40_000):
        begun = time.perf_counter_ns()
        observations.append("market", "BTCUSDT", second * SECOND, ROW)
        taken.append(time.perf_counter_ns() - begun)
    benchmark.extra_info.update({f"p{share} ns": percentile(taken, share / 100) for share in (50, 99, 99.9)})
    untimed(benchmark)


def test_recent(benchmark, observations):
    """The last 100 rows, one of them new each time."""
    for second in range(5_000):
        observations.append("market", "BTCUSDT", second * SECOND, ROW)
    clock = count(5_000)

    def one():
        observations.append("market", "BTCUSDT", next(clock) * SECOND, ROW)
        return observations.recent("market", "BTCUSDT", 100)

    assert len(benchmark(one)) == 100


def test_extend(benchmark, columns, tmp_path):
    """Rows a second, of eight fields; each round into a store of its own, without distillation beside it."""

    def load(path):
        with ntmem.open(path, engine="shared", enable_compression=False) as memory:
            begun = time.perf_counter()
            memory.observations.extend("market", "BTCUSDT", columns, known_after=0)
            return ROWS / (time.perf_counter() - begun)

    speeds = sorted(load(tmp_path / str(number)) for number in range(7))
    benchmark.extra_info["million rows a second, least, median, most"] = [
        round(it / 1e6, 2) for it in (speeds[0], speeds[3], speeds[-1])
    ]
    untimed(benchmark)


@pytest.mark.parametrize(("name", "seconds"), [("hour", 3_600), ("day", 86_400)])
def test_range_to_sqlite(ratio_to, loaded, columns, tmp_path_factory, name, seconds):
    """To a table of SQLite with the time as its primary key, made an array of."""
    database = sqlite3.connect(tmp_path_factory.mktemp("sqlite") / "db")
    names = ", ".join(FIELDS)
    database.execute(f"CREATE TABLE rows (ts INTEGER PRIMARY KEY, {names})")
    held = zip(*(column.tolist() for column in columns.values()), strict=True)
    database.executemany(f"INSERT INTO rows VALUES ({', '.join('?' * 9)})", held)
    database.commit()
    chance, first = np.random.default_rng(2), int(columns["ts_event"][0])
    starts = [first + int(start) * SECOND for start in chance.integers(0, ROWS - seconds, 1000)]
    mine, others, taken = cycle(starts), cycle(starts), []

    def ours():
        start = next(mine)
        begun = time.perf_counter_ns()
        found = loaded.observations.range("market", "BTCUSDT", start, start + seconds * SECOND)
        taken.append(time.perf_counter_ns() - begun)
        assert len(found) == seconds

    def theirs():
        start = next(others)
        query = f"SELECT ts, {names} FROM rows WHERE ts >= ? AND ts < ? ORDER BY ts"
        found = database.execute(query, (start, start + seconds * SECOND)).fetchall()
        assert np.array(found).shape == (seconds, 9)

    ratio_to(ours, theirs, calls=1)
    taken.sort()
    print(f"\n{name}: {taken[len(taken) // 2] / 1e6:.2f} ms, p99 {percentile(taken, 0.99) / 1e6:.2f} ms")


RESIDENT = """
import resource, sys, ntmem
def resident(): return int(open("/proc/self/statm").read().split()[1]) * resource.getpagesize()
with ntmem.open(sys.argv[1], read_only=True) as memory:
    o = memory.observations
    o.recent("market", "none", 1)
    before = resident()
    o.range("market", "BTCUSDT", 1_700_000_000 * 10**9, 1_700_003_600 * 10**9)
    print(resident() - before)
"""


def test_bytes(benchmark, loaded, columns):
    """What a million rows take: as arrays, on disk, and in a process that has read an hour of them."""
    info = loaded.observations.info("market", "BTCUSDT")
    assert info is not None
    size = os.path.getsize(os.path.join(loaded.path, "data.mdb"))
    said = subprocess.run([sys.executable, "-c", RESIDENT, loaded.path], check=True, capture_output=True, text=True)
    benchmark.extra_info.update(
        {
            "arrays": info.raw_bytes,
            "blocks": info.block_bytes,
            "data file": size,
            "resident of a reader": int(said.stdout),
        }
    )
    untimed(benchmark)
