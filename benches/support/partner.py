"""A second process that works at full speed while it is told to, and what that costs this one."""

import mmap
import multiprocessing
import os
import statistics
import time
from collections.abc import Callable
from contextlib import contextmanager
from typing import NamedTuple

from figures import note_ratio

FORK = multiprocessing.get_context("fork")
TURNS = 20
BATCHES = 1_000
AT_WORK_NS = 20_000
"""So often the partner has to have worked during a batch for that to count as beside it; working takes some 5 us."""


class Partner(NamedTuple):
    """`go()` returns when it works, `stop()` when it no longer does; `done[0]` counts how often it has."""

    go: Callable[[], None]
    stop: Callable[[], None]
    done: memoryview


@contextmanager
def pinned(place):
    """Keep the calling thread, and no other, on one processor: two that share one are never at work at once."""
    everywhere = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {sorted(everywhere)[place]})
    try:
        yield
    finally:
        os.sched_setaffinity(0, everywhere)


def serve(pipe, opened, done):
    """Run in the child: until told to end, work from each "go" to the next message."""
    with opened() as work, pinned(-1):
        pipe.send("ready")
        while (message := pipe.recv()) != "end":
            if message == "go":
                pipe.send("going")
                while not pipe.poll():
                    for _ in range(100):
                        work()
                        done[0] += 1
                pipe.send("stopped")


@contextmanager
def partner(opened):
    """Fork a process that enters the context `opened()` and does what that gives.

    To be entered before this process has a store open.
    """
    own, other = FORK.Pipe()
    done = memoryview(mmap.mmap(-1, 8)).cast("Q")
    process = FORK.Process(target=serve, args=(other, opened, done), daemon=True)
    process.start()
    assert own.poll(60)
    own.recv()

    def tell(message):
        own.send(message)
        own.recv()

    try:
        yield Partner(lambda: tell("go"), lambda: tell("stop"), done)
    finally:
        own.send("end")
        process.join(60)


def slowdown(benchmark, run, other, *, calls, settle):
    """Time `run`, of so many calls, in turns with a quiet partner and a busy one; `settle` is for after the busy.

    A writer waits for the flusher most of the time, so only the runs are taken beside which it has worked. Their ratio
    is of medians: where threads outnumber processors, some runs are interrupted for milliseconds, which says nothing
    about locks. The ratio of means, which has them, is noted too.
    """
    pairs = []
    with pinned(0):
        for _ in range(TURNS):
            quiet = [taken for taken, _ in batches(run, calls, other.done)]
            other.go()
            turn = batches(run, calls, other.done)
            other.stop()
            settle()
            if busy := [taken for taken, worked in turn if worked * AT_WORK_NS >= taken * calls]:
                pairs.append((busy, quiet))
    assert pairs, "the partner was never at work"
    note_ratio(benchmark, *([statistics.median(times) for times in side] for side in zip(*pairs, strict=True)))
    means = [statistics.mean(busy) / statistics.mean(quiet) for busy, quiet in pairs]
    benchmark.extra_info["ratio_of_means"] = statistics.median(means)
    benchmark.extra_info["runs_beside_work"] = sum(len(busy) for busy, _ in pairs)
    benchmark.pedantic(run, rounds=100)


def batches(run, calls, done):
    """Return the time of a call in each batch, and how often the partner worked meanwhile."""
    taken = []
    for _ in range(BATCHES):
        before, start = done[0], time.perf_counter_ns()
        run()
        taken.append(((time.perf_counter_ns() - start) / calls, done[0] - before))
    return taken
