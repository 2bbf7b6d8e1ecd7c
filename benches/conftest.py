"""Benchmarks print figures; they pass and fail with results, never with times."""

import gc
import os
import time

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # numpy's, which is imported later: threads of its own are no peer

import pytest
from figures import note_ratio


def pytest_addoption(parser):
    parser.addoption("--large", action="store_true", help="also a million entries and more: minutes and gigabytes")


def pytest_collection_modifyitems(config, items):
    for item in items:
        if "large" in item.keywords and not config.getoption("large"):
            item.add_marker(pytest.mark.skip(reason="wants --large"))


@pytest.fixture(autouse=True)
def pace(benchmark):
    """Note how fast the machine was: ns that Python takes for a thousand additions, afterwards, at best."""
    yield
    benchmark.extra_info["pace"] = min(time_call(lambda: sum(range(1000)), 1) for _ in range(50))


def time_call(function, repeats):
    start = time.perf_counter_ns()
    for _ in range(repeats):
        function()
    return (time.perf_counter_ns() - start) / repeats


def time_pair(ours, theirs, repeats, *, ours_first):
    if ours_first:
        mine = time_call(ours, repeats)
        return mine, time_call(theirs, repeats)
    other = time_call(theirs, repeats)
    return time_call(ours, repeats), other


@pytest.fixture
def ratio_to(benchmark):
    """Time `ours` for the table, and its ratio to `theirs` in turns, so that both see the same machine.

    `calls` is how many calls of what is measured one call of each makes, `settle` runs before each round.
    """

    def run(ours, theirs, *, rounds=50, repeats=4, calls=1, settle=None):
        pairs = []
        gc.collect()
        gc.disable()
        try:
            for number in range(rounds):
                if settle:
                    settle()
                pairs.append(time_pair(ours, theirs, repeats, ours_first=number % 2 == 0))
        finally:
            gc.enable()
        note_ratio(benchmark, *([time / calls for time in side] for side in zip(*pairs, strict=True)))
        return benchmark.pedantic(ours, setup=settle, rounds=rounds, iterations=repeats)

    return run
