"""How many bytes Gorilla takes, counted exactly and not written: Pelkonen et al., VLDB 2015, section 4.1.

Its values are float64, each XORed with the one before; its times are differences of differences. Whole numbers are
counted both ways, and the shorter counts. The paper's times are seconds: where 32 bits do not hold a difference of
differences, as with nanoseconds, 64 are counted. The package gorillacompression, which is in Python and too slow to
compare, makes as many bits of float64 values.
"""

from __future__ import annotations

import numpy as np

_TIMES = ((-63, 64, 2 + 7), (-255, 256, 3 + 9), (-2047, 2048, 4 + 12), (-(2**31), 2**31 - 1, 4 + 32))
_WIDEST = 4 + 64


def size(array: np.ndarray) -> int:
    """Return the bytes of a series of one dimension."""
    if array.dtype.kind == "f":
        bits = value_bits(array.astype(np.float64))
    else:
        whole = array.astype(np.int64)
        values = whole.astype(np.float64)
        bits = time_bits(whole)
        if (values.astype(np.int64) == whole).all():
            bits = min(bits, value_bits(values))
    return -(-bits // 8)


def value_bits(values: np.ndarray) -> int:
    """Return the bits of float64 values: the first as it is, the others by XOR."""
    if not len(values):
        return 0
    patterns = values.view(np.uint64)
    changes = patterns[1:] ^ patterns[:-1]
    changed = changes[changes != 0].tolist()
    bits = 64 + len(changes) + len(changed)  # one that stays is a bit, one that changes has a second
    before = after = 64  # zeros around the meaningful bits of the last one that said so; none yet
    for change in changed:
        leading = min(64 - change.bit_length(), 31)
        trailing = (change & -change).bit_length() - 1
        if before + after > 64 or leading < before or trailing < after:
            before, after = leading, trailing
            bits += 5 + 6
        bits += 64 - before - after
    return bits


def time_bits(times: np.ndarray) -> int:
    """Return the bits of int64 times: the first and the first difference in 64 bits each."""
    turns = np.diff(times, 2)
    costs = np.full(len(turns), _WIDEST)
    for least, most, bits in reversed(_TIMES):
        costs[(turns >= least) & (turns <= most)] = bits
    costs[turns == 0] = 1
    return 64 * min(len(times), 2) + int(costs.sum())
