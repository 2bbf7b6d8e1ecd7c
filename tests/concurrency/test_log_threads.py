"""One log, many threads of one process without the GIL: what the thread sanitizer can see of the log and its flusher.

Processes have memory of their own, and two mappings of a region have different addresses: conflicts between those are
invisible to it. So here all threads share one :class:`Log`. `make tsan` runs this; by itself it is a short stress test.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from flushing import SPACE, START, Stock, delete, make_stock, put

from ntmem._core.logrecords import LookAgain
from ntmem._core.unflushed import collect, versions

ROUNDS = 12
KEYS = [b"key %d" % n for n in range(6)]


def together(*jobs: Callable[[], None]) -> None:
    """Run jobs at once; raise what one of them raised."""
    failures: list[BaseException] = []
    barrier = threading.Barrier(len(jobs))

    def run(job: Callable[[], None]) -> None:
        try:
            barrier.wait()
            job()
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=run, args=(job,)) for job in jobs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]


def writer(stock: Stock, name: int, tail: int = 40) -> Callable[[], None]:
    def write() -> None:
        for turn in range(ROUNDS):
            value = b"%d %d " % (name, turn)
            # GIL-free throughout; then several records as one group, which releases it when it has to wait
            stock.log.append_each([put(key, value + key + b"." * tail) for key in KEYS for _ in range(8)], 60)
            stock.log.append([put(KEYS[0], value + KEYS[0]), delete(KEYS[1])], 60)

    return write


def reader(stock: Stock, done: threading.Event) -> Callable[[], None]:
    def read() -> None:
        while not done.is_set():
            for key in KEYS:
                record = stock.log.get(SPACE, key)
                assert record is None or record.value == b"" or key in record.value
            for found in collect(stock.log, SPACE).values():
                assert all(key in record.value or record.value == b"" for key, record in found.items())
            assert stock.log.lag >= 0
            assert stock.log.now() >= START

    return read


def test_writers_readers_and_a_flusher_share_one_log(ram: Path) -> None:
    stock = make_stock(ram, capacity=1 << 14, slots=16)  # some dozen laps
    flusher = stock.flusher(interval=0.001)
    flusher.start()
    done = threading.Event()

    def all_written(*writers: Callable[[], None]) -> Callable[[], None]:
        def write() -> None:
            try:
                together(*writers)
            finally:
                done.set()

        return write

    def follow() -> None:
        position = stock.log.flushed
        while not done.is_set():
            position = stock.log.wait_committed(position, 0.01)
            stock.log.want_flushed(position)
            stock.log.wait_flushed(position, 0.05)
            assert stock.log.trouble is None
            assert flusher.counts()

    def tick() -> None:
        for step in range(1, 2000):
            assert stock.log.set_clock(START + step)
            if done.is_set():
                break

    together(
        all_written(writer(stock, 0), writer(stock, 1), writer(stock, 2, 400)),
        reader(stock, done),
        reader(stock, done),
        follow,
        tick,
    )
    flusher.drain(60)
    flusher.stop()
    assert stock.log.flushed == stock.log.committed > 4 * stock.log.capacity
    assert set(stock.values()) | {KEYS[1]} == set(KEYS)


def test_flushers_come_and_go_beside_writers(ram: Path) -> None:
    stock = make_stock(ram, capacity=1 << 14, slots=16)
    flushers = [stock.flusher(interval=0.001) for _ in range(2)]
    done = threading.Event()

    def come_and_go(which: int) -> Callable[[], None]:
        def turns() -> None:
            while not done.is_set():
                flushers[which].start()
                stock.log.want_flushed(stock.log.committed)
                stock.log.wait_flushed(stock.log.committed, 0.02)
                flushers[which].stop()

        return turns

    def lock() -> None:
        while not done.is_set():
            stock.log.lock(60)
            stock.log.raise_epoch()
            stock.log.skip_sequences(1)
            stock.log.unlock()
            with suppress(LookAgain):  # the ring may turn at any moment
                versions(stock.log, SPACE, KEYS[0], snapshot=stock.log.begin)

    def write() -> None:
        try:
            together(writer(stock, 0), writer(stock, 1))
        finally:
            done.set()

    together(write, come_and_go(0), come_and_go(1), lock)
    flushers[0].drain(60)
    assert stock.log.flushed == stock.log.committed
