"""What is asked of a cache, as arrays of key numbers: seeded, so that a hit ratio is the same in every run."""

import numpy as np

SEED = 20261121
KEYS = 100_000
CAPACITY = KEYS // 10
LENGTH = 1_000_000


def zipf_draws(count, keys, a, seed=SEED):
    """Draw key numbers whose popularity falls with the power `a` of their rank; numbers are not in order of rank."""
    chance = np.random.default_rng(seed)
    cumulative = np.cumsum(np.arange(1, keys + 1) ** -float(a))
    ranks = np.searchsorted(cumulative, chance.random(count) * cumulative[-1])
    return chance.permutation(keys)[ranks]


def zipf(a):
    return zipf_draws(LENGTH, KEYS, a)


def one_hit(a, share=0.3):
    """Zipf, and a share of the accesses is to keys that are asked for this once."""
    trace = zipf(a)
    once = np.random.default_rng(SEED + 1).random(LENGTH) < share
    trace[once] = KEYS + np.arange(once.sum())
    return trace


def scan_bursts(a):
    """Zipf, and after every two capacities of it a scan reads the next capacity of the same keys in order."""
    trace = zipf(a)
    scanned = np.arange(LENGTH) // CAPACITY % 3 == 2
    trace[scanned] = np.arange(scanned.sum()) % KEYS
    return trace


def loop():
    """The same keys over and over, a fifth more of them than fit."""
    return np.arange(LENGTH) % (CAPACITY * 6 // 5)


def shifting():
    """A working set that fits and moves on by a key every ten accesses; a tenth of the accesses go anywhere."""
    chance = np.random.default_rng(SEED)
    trace = (np.arange(LENGTH) // 10 + chance.integers(CAPACITY * 4 // 5, size=LENGTH)) % KEYS
    anywhere = chance.random(LENGTH) < 0.1
    trace[anywhere] = chance.integers(KEYS, size=anywhere.sum())
    return trace


EXPONENTS = (0.7, 0.99, 1.2)
TRACES = {
    **{f"Zipf {a}": (zipf, a) for a in EXPONENTS},
    **{f"Zipf {a}, 30 % one-hit keys": (one_hit, a) for a in EXPONENTS},
    **{f"Zipf {a}, scan bursts": (scan_bursts, a) for a in EXPONENTS},
    "loop of 1.2 capacities": (loop,),
    "shifting working set": (shifting,),
}


def trace_of(name):
    """Return the trace of this name in TRACES."""
    function, *arguments = TRACES[name]
    return function(*arguments)
