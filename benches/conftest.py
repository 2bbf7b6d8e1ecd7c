"""Benchmarks print figures; they pass and fail with results, never with times."""

import statistics
import time

import pytest


def time_call(function, repeats):
    start = time.perf_counter_ns()
    for _ in range(repeats):
        function()
    return (time.perf_counter_ns() - start) / repeats


@pytest.fixture
def ratio_to(benchmark):
    """Time `ours` for the table, and its ratio to `theirs` in turns, so that both see the same machine."""

    def run(ours, theirs, *, rounds=50, repeats=4):
        pairs = [(time_call(ours, repeats), time_call(theirs, repeats)) for _ in range(rounds)]
        ratio = statistics.median(mine / other for mine, other in pairs)
        benchmark.extra_info["ratio"] = ratio
        benchmark.name += f" = {ratio:.2f}x"
        return benchmark(ours)

    return run
