"""The hot calls, run under valgrind by ``count.py``: ``python calls.py DIRECTORY [MARKS.so]``.

Each loop makes ``N`` calls. All is seeded; what differs from run to run is threads in the background, which are counted
apart, and a little of the allocator's.
"""

from __future__ import annotations

import ctypes
import gc
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np

import ntmem

N = 200
"""Calls of each loop that are counted; as many before them warm up."""
NS = "desk"
VALUE = b"v" * 64
KEYS = [f"key-{number:08d}" for number in range(1000)]
HOT = 2 * KEYS[:100]
DIMENSION = 64
ROWS = 1000
START = 1_700_000_000_000_000_000

Loop = Callable[[], object]


def fill(memory: ntmem.MemorySystem) -> None:
    memory.put_many(NS, dict.fromkeys(KEYS, VALUE))
    for key in KEYS:
        memory.get(NS, key)
        memory.get(NS, key)
    for symbol in KEYS[:100]:
        memory.positions.apply_fill(symbol, 2, 61800.3, trade_id="first")
    rows = np.random.default_rng(7).standard_normal((len(KEYS), DIMENSION)).astype(np.float32)
    memory.vectors.add_many("n", KEYS, rows)
    memory.flush()


def of_keys(memory: ntmem.MemorySystem) -> dict[str, Loop]:
    def get() -> None:
        for key in HOT:
            memory.get(NS, key)

    def get_new_strings() -> None:
        for key in [key[:1] + key[1:] for key in HOT]:
            memory.get(NS, key)

    def get_many() -> None:
        memory.get_many(NS, HOT)

    def put() -> None:
        for key in HOT:
            memory.put(NS, key, VALUE)

    def two_puts() -> None:
        for key in HOT:
            with memory.transaction() as transaction:
                transaction.put(NS, key, VALUE)
                transaction.put(NS, KEYS[500], VALUE)

    return {
        "get, the same strings": get,
        "get, new strings": get_new_strings,
        "get_many of 200, a key": get_many,
        "put of 64 bytes": put,
        "transaction of two puts": two_puts,
    }


def of_positions(memory: ntmem.MemorySystem) -> dict[str, Loop]:
    book, numbers = memory.positions, iter(range(1_000_000))
    ref = book.ref(KEYS[0])

    def get() -> None:
        for symbol in HOT:
            book.get(symbol)

    def quantity() -> None:
        for symbol in HOT:
            book.quantity(symbol)

    def look() -> None:
        for _ in HOT:
            ref.quantity  # noqa: B018

    def apply_fill() -> None:
        for symbol in HOT:
            book.apply_fill(symbol, 1, 61800.3, trade_id=f"{next(numbers):8d}")

    return {
        "positions.get": get,
        "positions.quantity": quantity,
        "ref.quantity": look,
        "positions.apply_fill": apply_fill,
    }


def of_agents(memory: ntmem.MemorySystem) -> dict[str, Loop]:
    messages, lock = memory.subscribe("px/*"), memory.lock("BTCUSDT", ttl=1000)

    def publish() -> None:
        for _ in HOT:
            memory.publish("px/BTCUSDT", VALUE)

    def receive() -> None:
        for _ in HOT:
            assert messages.recv(timeout=0) is not None

    def acquire_release() -> None:
        for _ in HOT:
            lock.acquire()
            lock.release()

    return {"publish": publish, "recv of what is there": receive, "acquire and release": acquire_release}


def of_numbers(memory: ntmem.MemorySystem) -> dict[str, Loop]:
    chance = np.random.default_rng(8)
    queries = chance.standard_normal((N, DIMENSION)).astype(np.float32)
    series = (61800 + np.cumsum(chance.integers(-3, 4, ROWS))).astype(np.float64) / 10
    coded = ntmem.delta.encode(series)
    vectors, observations = memory.vectors, memory.observations
    times, numbers = iter(range(START, START + (1 << 40), 1_000_000)), iter(range(1_000_000))

    def search() -> None:
        for query in queries:
            vectors.search("n", query)

    def add() -> None:
        for query in queries:
            vectors.add("added", f"{next(numbers):8d}", query)

    def append() -> None:
        for _ in HOT:
            observations.append(NS, "BTCUSDT", next(times), {"bid": 61800.2, "ask": 61800.3})

    def encode() -> None:
        for _ in HOT:
            ntmem.delta.encode(series)

    def decode() -> None:
        for _ in HOT:
            ntmem.delta.decode(coded)

    return {
        f"vectors.search among {len(KEYS):,} x {DIMENSION}": search,
        "vectors.add": add,
        "observations.append": append,
        f"delta.encode of {ROWS:,} prices": encode,
        f"delta.decode of {ROWS:,} prices": decode,
    }


def main(directory: str, marks: str | None = None) -> None:
    mark = None if marks is None else ctypes.CDLL(marks)  # None: the calls are made, and nothing counts them

    def empty() -> None:
        for _ in HOT:
            pass

    limits = {"max_storage_bytes": 1 << 30}  # valgrind has less address space than the store takes else
    with ntmem.open(Path(directory) / "store", engine="shared", graph_share=0, **limits) as memory:
        fill(memory)
        loops: dict[str, Loop] = {"empty": empty}
        for some in (of_keys, of_positions, of_agents, of_numbers):
            loops |= some(memory)
        gc.disable()
        for name, loop in loops.items():
            loop()
            memory.flush()
            if mark is not None:
                mark.mark_begin()
            loop()
            if mark is not None:
                mark.mark_end(name.encode())


if __name__ == "__main__":
    main(*sys.argv[1:])
