"""The hot table alone, of 64 to 4,096 stripes."""

import tempfile
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest
from loops import draws_of, gets, in_slices
from partner import partner, slowdown

from ntmem._core.hot import HotTable
from ntmem._core.region import Region

FEWEST = 64
ENTRIES = 100_000
LIMITS = 64 << 20, 2 * ENTRIES  # bytes, entries
KEYS = [b"key-%08d" % number for number in range(ENTRIES)]
VALUE = b"v" * 64
CALLS = 1_000
DRAWN = draws_of("uniform", KEYS, 200 * CALLS)

every_number = pytest.mark.parametrize("stripes", [64, 128, 256, 1024, 4096])


def made(path, stripes):
    """Make a table in a file, full of what is drawn."""
    region = Region.create(path, identity=b"", generation=0, sections=HotTable.sections(*LIMITS, stripes=stripes))
    table = HotTable.create(region, *LIMITS, stripes=stripes)
    region.publish()
    for key in KEYS:
        table.put(b"desk", key, VALUE)
    return table


@pytest.fixture
def ram():
    with tempfile.TemporaryDirectory(dir="/dev/shm") as directory:
        yield Path(directory)


def table_puts(table, slices):
    def run():
        for key in next(slices):
            table.put(b"desk", key, VALUE)

    return run


@every_number
@pytest.mark.parametrize("action", ["get", "put"])
def test_alone_to_64_stripes(ratio_to, ram, stripes, action):
    sides = []
    for name, number in (("ours", stripes), ("theirs", FEWEST)):
        table = made(ram / name, number)
        slices = in_slices(DRAWN, CALLS)
        sides.append(gets(table.get, slices, b"desk") if action == "get" else table_puts(table, slices))
    ratio_to(*sides, rounds=100, repeats=1, calls=CALLS)


@contextmanager
def writing(path):
    """Wait for the table, then put into what is read."""
    puts = None

    def work():
        nonlocal puts
        puts = puts or table_puts(HotTable(Region.attach(path, identity=b"")), in_slices(DRAWN, 10))
        puts()

    yield work


@every_number
def test_get_beside_a_writer_to_a_quiet_one(benchmark, ram, stripes):
    with partner(partial(writing, ram / "region")) as writer:
        table = made(ram / "region", stripes)
        run = gets(table.get, in_slices(DRAWN, CALLS), b"desk")
        slowdown(benchmark, run, writer, calls=CALLS, settle=lambda: None)
