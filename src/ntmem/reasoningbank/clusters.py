"""Kinds of situations: which a situation is nearest to, and when one kind is really two.

Situations are directions: rows of length 1, compared by their cosine.

A cluster is divided if two centres describe its situations better than one, *others than those they were made of*: its
latest situations are dealt into two halves, 2-means is fitted to one, and the likelihood of the other under two
spherical normal distributions, which has to pay for saying which of the two each situation belongs to, is compared with
that under one; then the other way round. No number of clusters is given, and none of parameters counted: a direction
that is noise does not help with what it was not made of. What is meant is after X-means (Pelleg and Moore, ICML 2000),
with held-out situations in the place of their information criterion.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

FEWEST = 16
"""Situations that a cluster has at least before it is divided."""
_EACH = 4  # situations that each half has at least
_GAIN, _ONCE = 0.1, 2.0  # nats of likelihood that a division gains at least, for each situation and in all
_POWER, _STEPS = 8, 6


class Halves(NamedTuple):
    """A division: which half each row is in, 0 or 1, and the centres, shape (2, d)."""

    places: NDArray[np.int64]
    centres: NDArray[np.float64]


def normalised(rows: NDArray[np.floating]) -> NDArray[np.float64]:
    """Return rows of length 1, as float64; the shape (n, d) or (d,). Rows of zeros stay."""
    wide = np.asarray(rows, np.float64)
    largest = np.abs(wide).max(axis=-1, keepdims=True)
    wide = wide / np.where(largest > 0, largest, 1.0)  # else squares of large numbers are infinite
    length = np.sqrt((wide * wide).sum(axis=-1, keepdims=True))
    return wide / np.where(length > 0, length, 1.0)


def divide(rows: NDArray[np.float64], alike: float) -> Halves | None:
    """Return how a cluster of such situations is to be divided; None: it is one.

    Parameters
    ----------
    rows : ndarray of float64, shape (n, d)
        Of length 1, in the order in which they were seen.
    alike : float
        What has centres of at least this cosine is one.
    """
    if len(rows) < FEWEST:
        return None
    found = halves(rows)
    if found is None or np.bincount(found.places, minlength=2).min() < _EACH:
        return None
    one, other = normalised(found.centres)
    if one @ other >= alike:
        return None
    gain = 0.0
    for first in (0, 1):
        fitted, held = rows[first::2], rows[1 - first :: 2]
        parts = halves(fitted)
        if parts is None:
            return None
        alone = _squares(held, fitted.mean(axis=0)[np.newaxis]).mean()
        together = _squares(held, parts.centres).min(axis=1).mean()
        share = parts.places.mean()
        said = -(share * np.log(share) + (1 - share) * np.log(1 - share))
        gain += len(held) * (rows.shape[1] / 2 * np.log(max(alone, 1e-12) / max(together, 1e-12)) - said)
    return found if gain > _GAIN * len(rows) + _ONCE else None


def halves(rows: NDArray[np.float64]) -> Halves | None:
    """Return 2-means of rows, begun along the direction in which they vary most; None: they are all equal."""
    centred = rows - rows.mean(axis=0)
    lengths = (centred * centred).sum(axis=1)
    direction = centred[int(np.argmax(lengths))]
    for _ in range(_POWER):
        direction = (centred @ direction) @ centred
        length = np.sqrt(direction @ direction)
        if not length > 0:
            return None
        direction = direction / length
    places = (centred @ direction > 0).astype(np.int64)
    for _ in range(_STEPS):
        if places.min() == places.max():
            return None
        centres = np.stack([rows[places == half].mean(axis=0) for half in (0, 1)])
        moved = np.argmin(_squares(rows, centres), axis=1)
        if (moved == places).all():
            return Halves(places, centres)
        places = moved
    if places.min() == places.max():
        return None
    return Halves(places, np.stack([rows[places == half].mean(axis=0) for half in (0, 1)]))


def _squares(rows: NDArray[np.float64], centres: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return squared distances, shape (rows, centres)."""
    found: NDArray[np.float64] = (
        (rows * rows).sum(axis=1)[:, np.newaxis] - 2 * rows @ centres.T + (centres * centres).sum(axis=1)
    )
    return np.maximum(found, 0.0)


def spread(total: NDArray[np.float64], count: float) -> float:
    """Return the variance of a cluster's situations in each dimension, of their sum; they have length 1."""
    centre = total / count
    return max(float(1.0 - centre @ centre), 1e-9) / len(total)
