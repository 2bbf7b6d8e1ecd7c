"""So many processes, or threads, that do the same as fast as they can, and how often they did in all."""

import multiprocessing
import threading
import time
from contextlib import contextmanager

FORK = multiprocessing.get_context("fork")
ROUND = 0.2  # seconds


def counted(work, calls, seconds=ROUND):
    """Return how many calls were made in a second, by a work that makes so many at once."""
    done, start = 0, time.perf_counter()
    while (passed := time.perf_counter() - start) < seconds:
        work()
        done += calls
    return done / passed


def serve(pipe, opened, calls):
    with opened() as work:
        pipe.send(None)
        while pipe.recv():
            pipe.send(counted(work, calls))


@contextmanager
def processes(count, opened, calls):
    """Fork processes that enter the context `opened()`; give what has them all work once and returns their rate.

    To be entered before this process has a store open.
    """
    pairs = [FORK.Pipe() for _ in range(count)]
    children = [FORK.Process(target=serve, args=(other, opened, calls), daemon=True) for _, other in pairs]
    for child in children:
        child.start()
    own = [mine for mine, _ in pairs]

    def told(message):
        for pipe in own:
            pipe.send(message)

    def once():
        told(True)
        return sum(pipe.recv() for pipe in own)

    try:
        for pipe in own:
            assert pipe.poll(60)
            pipe.recv()
        yield once
    finally:
        told(False)
        for child in children:
            child.join(60)


@contextmanager
def threads(count, opened, calls):
    """Do the same with threads of this process, which share what `opened()` gives."""
    with opened() as work:

        def once():
            rates, barrier = [], threading.Barrier(count)

            def run():
                barrier.wait()
                rates.append(counted(work, calls))

            running = [threading.Thread(target=run) for _ in range(count)]
            for thread in running:
                thread.start()
            for thread in running:
                thread.join()
            return sum(rates)

        yield once
