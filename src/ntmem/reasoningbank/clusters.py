"""Kinds of situations: which a situation is nearest to, and when one kind is really several.

Situations are directions: rows of length 1, compared by their cosine.

A cluster is divided if several centres describe its situations better than one, *others than those they were made of*:
its situations are dealt into two halves, k-means is fitted to one, and the likelihood of the other under k spherical
normal distributions of one variance is compared with that under a single one; then the other way round. No number of
clusters is given: of 2, 4, 8, ... it is the smallest whose gain is nearly the best, and centres that are alike become
one again. No parameters are counted: a centre that was fitted to noise does not help with what it was not made of.
After X-means (Pelleg and Moore, ICML 2000), with held-out situations in the place of their information criterion.
k-means begins with the greedy k-means++ (Arthur and Vassilvitskii, SODA 2007), from always the same random numbers.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Rows = NDArray[np.floating]

FEWEST = 16
"""Situations that a cluster has at least before it is divided."""
_EACH = 4  # situations that each part has at least
_PER_CENTRE = 8  # situations for each centre that is tried
_MOST_CENTRES = 64
_GAIN, _ONCE = 0.1, 2.0  # nats of likelihood that a division gains at least, for each situation and in all
_NEARLY = 0.9  # of the best gain
_STEPS, _DRAWN, _SEED = 6, 3, 384


class Means(NamedTuple):
    """Parts of rows: which part each is in, and the centres, shape (parts, d)."""

    places: NDArray[np.int64]
    centres: Rows


def normalised(rows: Rows) -> NDArray[np.float64]:
    """Return rows of length 1, as float64; the shape (n, d) or (d,). Rows of zeros stay."""
    wide = np.asarray(rows, np.float64)
    with np.errstate(over="ignore"):
        square = float(wide @ wide) if wide.ndim == 1 else 0.0
    if 1e-200 < square < 1e200:
        return wide / math.sqrt(square)
    largest = np.abs(wide).max(axis=-1, keepdims=True)
    wide = wide / np.where(largest > 0, largest, 1.0)  # else squares of large numbers are infinite
    length = np.sqrt((wide * wide).sum(axis=-1, keepdims=True))
    return wide / np.where(length > 0, length, 1.0)


def divide(rows: Rows, alike: float) -> NDArray[np.int64] | None:
    """Return how a cluster of such situations is to be divided, as the number of the part of each; None: it is one.

    Parameters
    ----------
    rows : ndarray of float, shape (n, d)
        Of length 1, in the order in which they were seen.
    alike : float
        What has centres of at least this cosine is one part.
    """
    most = min(len(rows) // _PER_CENTRE, _MOST_CENTRES)
    if len(rows) < FEWEST:
        return None
    gains = {count: gain(rows, count) for count in (2, 8) if count <= most}
    if max(gains.values()) <= _GAIN * len(rows) + _ONCE:
        return None
    for count in (4, 16, 32, 64):
        if count <= most and (count < 16 or gains.get(count // 2, -np.inf) >= max(gains.values())):
            gains[count] = gain(rows, count)
    count = min(count for count, each in gains.items() if each >= _NEARLY * max(gains.values()))
    places = _joined(means(rows, count), alike)
    return places if places.max() > 0 else None


def gain(rows: Rows, count: int) -> float:
    """Return by how many nats so many centres describe rows better than one does, each half by what fits the other."""
    whole = 0.0
    rows = rows[np.argsort(np.random.Generator(np.random.PCG64(_SEED)).random(len(rows)))]  # kinds may take turns
    for first in (0, 1):
        fitted, held = rows[first::2], rows[1 - first :: 2]
        parts = means(fitted, count)
        shares = np.bincount(parts.places, minlength=len(parts.centres)) + 0.5
        middle = fitted.mean(axis=0)
        alone = 1.0 - float(held.mean(axis=0) @ middle) * 2 + float(middle @ middle)
        near = _nearness(held, parts.centres)
        together = 1.0 - float(near.max(axis=1).mean())
        said = np.log(shares / shares.sum())[near.argmax(axis=1)]
        better = math.log(max(alone, 1e-12) / max(together, 1e-12))
        whole += len(held) * rows.shape[1] / 2 * better + float(said.sum())
    return whole


def means(rows: Rows, count: int) -> Means:
    """Return k-means of rows of length 1, of `count` parts at most."""
    chance = np.random.Generator(np.random.PCG64(_SEED))
    chosen = [rows[0]]
    left = np.maximum(2 - 2 * (rows @ rows[0]), 0.0)  # squared distances to the nearest that was chosen
    while len(chosen) < count and (whole := float(left.sum())) > 1e-6 * len(rows):
        drawn = np.minimum(np.searchsorted(np.cumsum(left), chance.random(_DRAWN) * whole), len(rows) - 1)
        after = np.minimum(left, np.maximum(2 - 2 * (rows[drawn] @ rows.T), 0.0))
        best = int(after.sum(axis=1).argmin())
        left = after[best]
        chosen.append(rows[drawn[best]])
    places = _nearness(rows, np.stack(chosen)).argmax(axis=1)
    for _ in range(_STEPS):
        centres, places = centres_of(rows, places)
        moved = _nearness(rows, centres).argmax(axis=1)
        if (moved == places).all():
            return Means(places, centres)
        places = moved
    centres, places = centres_of(rows, places)
    return Means(places, centres)


def centres_of(rows: Rows, places: NDArray[np.int64]) -> tuple[Rows, NDArray[np.int64]]:
    """Return the means of parts, without those that are empty, and the parts numbered so."""
    counts = np.bincount(places)
    there = np.flatnonzero(counts)
    if len(there) < len(counts):
        places, counts = np.searchsorted(there, places), counts[there]
    parts = np.zeros((len(counts), len(rows)), rows.dtype)
    parts[places, np.arange(len(rows))] = 1
    centres: Rows = parts @ rows
    centres /= counts[:, np.newaxis]
    return centres, places


def _nearness(rows: Rows, centres: Rows) -> Rows:
    """Return 1 less squared distances, shape (rows, centres); rows have length 1."""
    found: Rows = 2 * (rows @ centres.T)
    found -= (centres * centres).sum(axis=1)
    return found


def _joined(found: Means, alike: float) -> NDArray[np.int64]:
    """Return the parts, those that are alike in one, and in the nearest those that are too small."""
    places = found.places.copy()
    sums = found.centres * np.bincount(places)[:, np.newaxis]
    counts = np.bincount(places).astype(float)
    left = list(range(len(sums)))
    while len(left) > 1:
        directions = normalised(sums[left])
        cosines = directions @ directions.T
        np.fill_diagonal(cosines, -2.0)
        smallest = int(np.argmin(counts[left]))
        if counts[left[smallest]] < _EACH:
            one, other = smallest, int(np.argmax(cosines[smallest]))
        else:
            one, other = divmod(int(np.argmax(cosines)), len(left))
            if cosines[one, other] < alike:
                break
        into, gone = left[other], left[one]
        sums[into] += sums[gone]
        counts[into] += counts[gone]
        places[places == gone] = into
        left.remove(gone)
    numbered: NDArray[np.int64] = np.unique(places, return_inverse=True)[1].astype(np.int64)
    return numbered


def spread(total: NDArray[np.float64], count: float) -> float:
    """Return the variance of a cluster's situations in each dimension, of their sum; they have length 1."""
    centre = total / count
    return max(float(1.0 - centre @ centre), 1e-9) / len(total)
