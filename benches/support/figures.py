"""Medians and how sure they are."""

import math
import statistics


def median_interval(values):
    """Return the median and the two values between which it lies with 95 %, whatever the distribution."""
    values = sorted(values)
    count = len(values)
    reach = 0.98 * math.sqrt(count)  # 1.96 standard deviations of how many of them lie below the median
    low = max(math.floor(count / 2 - reach), 1)
    high = min(math.ceil(count / 2 + reach) + 1, count)
    return statistics.median(values), values[low - 1], values[high - 1]


def percentile(values, share):
    """Return the value that this share of them does not exceed."""
    return sorted(values)[min(int(len(values) * share), len(values) - 1)]


def note_ratio(benchmark, ours, theirs):
    """Note the medians of both sides, of ns per call, and of their ratio pair by pair."""
    ratio = median_interval([mine / other for mine, other in zip(ours, theirs, strict=True)])
    benchmark.extra_info.update(ratio=ratio[0], ratio_interval=ratio[1:])
    benchmark.extra_info.update(ours_ns=median_interval(ours), theirs_ns=median_interval(theirs))
    benchmark.name += f" = {ratio[0]:.2f}x"


def untimed(benchmark):
    """Print what was noted; there is nothing that the plugin could time."""
    print(f"\n{benchmark.name}:", ", ".join(f"{name} {value}" for name, value in benchmark.extra_info.items()))
    benchmark.extra_info["untimed"] = True
    benchmark.pedantic(lambda: None, rounds=1)


def note_times(benchmark, **nanoseconds):
    """Note percentiles of single times, in us."""
    for what, times in nanoseconds.items():
        for name, share in (("p50", 0.5), ("p99", 0.99), ("max", 1.0)):
            benchmark.extra_info[f"{what} {name} us"] = round(percentile(times, share) / 1e3, 1)
        benchmark.extra_info["count"] = len(times)
    untimed(benchmark)
