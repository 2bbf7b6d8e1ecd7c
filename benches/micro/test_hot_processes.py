"""Readers of the hot table while a second process puts into the same stripes, at full speed."""

from contextlib import contextmanager, nullcontext
from functools import partial

import pytest
from loops import NS, composed_gets, draws_of, gets, in_slices, puts
from partner import partner, slowdown

import ntmem

VALUE = b"v" * 64
KEYS = [f"key-{number:08d}" for number in range(1_000)]
OTHERS = [f"other-{number:08d}" for number in range(1_000)]
CALLS = 1_000


def opened(path):
    config = ntmem.CacheConfig(max_entries=10 * len(KEYS), max_bytes=16 << 20)
    return ntmem.open(path, engine="shared", cache_config=config)


@contextmanager
def writing(path, keys):
    with opened(path) as memory:
        yield puts(memory.put, in_slices(draws_of("uniform", keys, 40 * CALLS), 10), VALUE)


def spinning(path):
    return nullcontext(lambda: sum(range(400)))


BUSY = {
    "spins": spinning,
    "puts other keys": partial(writing, keys=OTHERS),
    "puts the same keys": partial(writing, keys=KEYS),
}


@pytest.mark.parametrize("reader", ["get", "get_new_strings", "dict"])
@pytest.mark.parametrize("other", BUSY)
def test_reader_beside_a_busy_process_to_a_quiet_one(benchmark, tmp_path, reader, other):
    """A process that spins, and a dict beside one that puts, say what of it the machine does.

    A thousand keys, read or put, are in all of the 64 stripes. Of the same keys, many have just been put when they are
    asked for, and have to be found in the log.
    """
    with (
        partner(partial(BUSY[other], tmp_path / "store")) as busy,
        opened(tmp_path / "store") as memory,
    ):
        memory.put_many(NS, dict.fromkeys(KEYS, VALUE))
        store = {f"{NS}/{key}": VALUE for key in KEYS}
        drawn = draws_of("uniform_new_strings" if reader == "get_new_strings" else "uniform", KEYS, 40 * CALLS)
        slices = in_slices(drawn, CALLS)
        run = composed_gets(store.get, slices) if reader == "dict" else gets(memory.get, slices)
        slowdown(benchmark, run, busy, calls=CALLS, settle=memory.flush)
        assert memory.get_many(NS, KEYS) == dict.fromkeys(KEYS, VALUE)
