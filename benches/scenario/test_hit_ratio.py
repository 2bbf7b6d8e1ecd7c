"""Hit ratios at a tenth of the keys, of traces that are the same in every run, so that they may be asserted."""

import pytest
from policies import OURS, PEERS, belady, lru, played
from traces import CAPACITY, TRACES, trace_of

FIVE_POINTS = {"Zipf 0.7", "Zipf 0.7, 30 % one-hit keys", "Zipf 0.99, scan bursts"}
"""Where five points above LRU are promised."""

SHORT = {("shifting working set", "hot table"): 1.5, ("shifting working set", "hot table, by bytes"): 0.5}
"""Points below LRU that are known, and are not to become more: docs/design/hot.md."""


@pytest.fixture(scope="module", params=TRACES)
def trace(request):
    return request.param, trace_of(request.param)


@pytest.fixture(scope="module")
def peers(trace):
    """Return the ratios of the others, of those that are installed."""
    keys = trace[1]
    caches = {name: make(CAPACITY) for name, make in PEERS.items()}
    ratios = {name: played(keys, *cache) for name, cache in caches.items() if cache}
    return ratios | {"Belady": belady(keys, CAPACITY)}


@pytest.mark.parametrize("policy", OURS)
def test_hit_ratio(benchmark, trace, peers, policy):
    """Ours is compared with an LRU of as many entries as ours was found to hold: a budget is kept per stripe and with
    slack, and one in bytes has to leave room to move records."""
    name, keys = trace
    get, put, held = OURS[policy](CAPACITY)
    ours = benchmark.pedantic(played, (keys, get, put), rounds=1)
    reference = played(keys, *lru(held()))
    benchmark.extra_info.update(trace=name, policy=policy, held=held(), reference=reference)
    benchmark.extra_info["hit_percent"] = {policy: ours} | peers
    benchmark.name += f" = {ours:.1f} %"
    least = reference + 5 * (name in FIVE_POINTS) - SHORT.get((name, policy), 0)
    assert ours >= least, f"{held():,} entries held; LRU {reference:.2f}: {peers}"
