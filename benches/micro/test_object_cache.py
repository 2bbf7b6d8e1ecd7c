"""The cache of objects of one process against others, with the same keys; all entries fit."""

import pytest
from loops import DRAWS, cache_puts, draws_of, in_slices, plain_gets, plain_puts
from peers import IN_MEMORY, fill
from stock import value_of

import ntmem

CALLS = 5_000
KEYS = [f"key-{number:08d}" for number in range(100_000)]
ITEMS = [(key, value_of(number, 64)) for number, key in enumerate(KEYS)]

every_peer = pytest.mark.parametrize("peer", IN_MEMORY)


@pytest.fixture
def cache():
    cache = ntmem.HotCache(ntmem.CacheConfig(max_entries=2 * len(KEYS), max_bytes=1 << 30))
    for key, value in ITEMS:
        cache.put(key, value)
    return cache


@pytest.fixture(params=DRAWS)
def slices(request):
    drawn = draws_of(request.param, KEYS, 40 * CALLS)
    return in_slices(drawn, CALLS), in_slices(drawn, CALLS, offset=20)


@every_peer
def test_get_to_peer(ratio_to, tmp_path, cache, slices, peer):
    mine, other = slices
    with IN_MEMORY[peer](2 * len(KEYS), tmp_path) as theirs:
        fill(theirs, ITEMS)
        assert all(cache.get(key) == value for key, value in ITEMS)
        ratio_to(plain_gets(cache.get, mine), plain_gets(theirs.get, other), rounds=60, repeats=1, calls=CALLS)


@every_peer
def test_put_to_peer(ratio_to, tmp_path, cache, slices, peer):
    """New values for keys that are there."""
    mine, other = slices
    with IN_MEMORY[peer](2 * len(KEYS), tmp_path) as theirs:
        fill(theirs, ITEMS)
        ours = plain_puts(cache.put, mine, b"p" * 64)
        ratio_to(ours, cache_puts(theirs, other, b"p" * 64), rounds=60, repeats=1, calls=CALLS)
