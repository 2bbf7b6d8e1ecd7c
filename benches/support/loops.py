"""What is timed: plain loops over prepared keys. At 40 ns a call, anything more would be what is measured.

Each function made here goes on to the next slice of draws whenever it is called: a slice that is asked for again at
once is in the processor's caches, wherever its keys were drawn from.
"""

from itertools import cycle

import numpy as np
from traces import SEED, zipf_draws

NS = "desk"
HOT_KEYS = 100
"""What one agent asks for all the time."""


DRAWS = ["hot", "hot_new_strings", "zipf", "uniform"]


def draws_of(kind, keys, count):
    """Draw from a list of keys: "hot" (a hundred of them, again and again), "zipf" (power 0.99) or "uniform".

    "_new_strings" makes each draw an object of its own, as keys are that a program builds when it asks: what is found
    by the identity of a key has to be told from what is found by its text.
    """
    chance = np.random.default_rng(SEED)
    distribution = kind.removesuffix("_new_strings")
    if distribution == "zipf":
        numbers = zipf_draws(count, len(keys), 0.99)
    elif distribution == "uniform":
        numbers = chance.integers(len(keys), size=count)
    else:
        numbers = chance.choice(chance.choice(len(keys), HOT_KEYS, replace=False), count)
    drawn = [keys[number] for number in numbers.tolist()]
    return drawn if kind == distribution else [key[:1] + key[1:] for key in drawn]


def in_slices(draws, size, *, offset=0):
    """Return endless slices of the draws; a peer begins at another one, so that none warms the keys of the other."""
    slices = [draws[at : at + size] for at in range(0, len(draws), size)]
    return cycle(slices[offset:] + slices[:offset])


def gets(get, slices, ns=NS):
    def run():
        for key in next(slices):
            get(ns, key)

    return run


def composed_gets(get, slices, ns=NS):
    def run():
        for key in next(slices):
            get(f"{ns}/{key}")

    return run


def plain_gets(get, slices):
    def run():
        for key in next(slices):
            get(key)

    return run


def puts(put, slices, value, ns=NS):
    def run():
        for key in next(slices):
            put(ns, key, value)

    return run


def composed_puts(cache, slices, value, ns=NS):
    """Use the cache's own way: an assignment to an item, or its `set`."""

    def assign():
        for key in next(slices):
            cache[f"{ns}/{key}"] = value

    def call():
        for key in next(slices):
            put(f"{ns}/{key}", value)

    if hasattr(cache, "__setitem__"):
        return assign
    put = cache.set
    return call


def plain_puts(put, slices, value):
    def run():
        for key in next(slices):
            put(key, value)

    return run


def cache_puts(cache, slices, value):
    """Use the cache's own way, as `composed_puts` does."""

    def assign():
        for key in next(slices):
            cache[key] = value

    return assign if hasattr(cache, "__setitem__") else plain_puts(cache.set, slices, value)
