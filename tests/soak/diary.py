"""What a worker began and what was acknowledged to it: words in a shared mapping, which outlive it.

A word is stored whole. ``begun`` is raised before a call, ``done`` and ``last`` (how many calls of a kind were
acknowledged, and which was the last) after it. So of a worker that was killed at any instant the store has at least
what was acknowledged, and at most what was begun.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

KINDS = (
    *("put", "get", "pair", "count", "guarded", "fill", "append", "recent", "vector", "search", "tell", "order"),
    *("heard", "begin", "resolve", "recall", "vote", "passing", "session"),
)
KIND = {name: number for number, name in enumerate(KINDS)}
KEYS, VECTORS, BUCKETS = 256, 1000, 256
RUN, PAUSE, STOP = 0, 1, 2
_WORDS = ("command", "answer", "failures")
_SIZES = {
    "words": len(_WORDS),
    "begun": len(KINDS),
    "done": len(KINDS),
    "last": len(KINDS),
    "keys_begun": KEYS,
    "keys_acked": KEYS,
    "heard": 8,  # numbers of orders, by worker
    "times": len(KINDS) * BUCKETS,
}


class Diary:
    """The words of one worker, under the names of ``_SIZES`` and ``_WORDS``."""

    begun: NDArray[np.uint64]
    done: NDArray[np.uint64]
    last: NDArray[np.uint64]
    keys_begun: NDArray[np.uint64]
    keys_acked: NDArray[np.uint64]
    heard: NDArray[np.uint64]
    times: NDArray[np.uint64]
    words: NDArray[np.uint64]

    def __init__(self, path: Path, *, make: bool = False) -> None:
        total = sum(_SIZES.values())
        words: Any = np.memmap(path, np.uint64, "w+" if make else "r+", shape=(total,))
        at = 0
        for name, size in _SIZES.items():
            setattr(self, name, words[at : at + size])
            at += size
        self.times = self.times.reshape(len(KINDS), BUCKETS)

    def copy(self) -> Diary:
        """Return it as it is now."""
        found = object.__new__(Diary)
        for name in _SIZES:
            setattr(found, name, np.array(getattr(self, name)))
        return found

    def word(self, name: str) -> int:
        return int(self.words[_WORDS.index(name)])

    def set_word(self, name: str, value: int) -> None:
        self.words[_WORDS.index(name)] = value


def bucket(ns: int) -> int:
    """Four to each power of two."""
    power = max(ns.bit_length() - 3, 0)
    return min(power * 4 + (ns >> power) % 4 if power else ns // 2, BUCKETS - 1)


def least(number: int) -> int:
    """The least time of a bucket, ns."""
    power, quarter = divmod(number, 4)
    return (4 + quarter) << power if power else number * 2


def percentile(counts: NDArray[np.uint64], share: float) -> int:
    """Return the least time of the bucket that a percentile falls into; 0: there are none."""
    total = int(counts.sum())
    if not total:
        return 0
    return least(int(np.searchsorted(np.cumsum(counts), share * total)))
