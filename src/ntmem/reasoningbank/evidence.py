"""What outcomes of actions in one kind of situation say: how much each earns there, and how sure that is.

Statistics are a pure function of the last outcomes of a cluster, in the order in which they were learnt, so nothing can
be counted twice. Formulas:

- **For choosing** an outcome counts ``keeps`` as much after each later one of its cluster: with 0.985 the last 65 count
  most, and what was not tried for long becomes uncertain again. **For claims** it counts so much after each later one
  of the *same action*: that something is done all the time is no reason to forget what else there was.
- **Drift**: each action has two sums of Page's (1954), of how far its outcomes lie above and below its mean in units of
  their deviation, less 1/2, each outcome 3 at most, once the mean rests on 16. Where one passes 6, what earlier
  outcomes of the cluster said counts a tenth from then on, and of this action nothing.
- **Shrinkage**: what an action earns is (sum + base) / (n + 1): one outcome at the base rate is in it from the start,
  and one at the usual variance.
- **Base rate**: the mean of all other actions' outcomes in the cluster, with some at the mean of the scope: 8 for
  choosing, 1 for claims.
- **Effect**: the mean of an action less its base rate. Deviations are those of the two, each shrunk to the scope's
  (Welch's t).
- **Strength** is the probability that the effect is real, B / (B + `SCEPTICISM` m). B is the Bayes factor of the two
  sample t test with a normal prior of variance 1 on the effect in deviations (Gonen, Johnson, Lu and Westfall, The
  American Statistician 2005), m the number of effects that are looked at in the scope: so many chances to be wrong.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from msgspec import Struct

from .._core import outcomes

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

SCEPTICISM = 300.0
"""Odds against any pattern of a scope being real, before its outcomes are looked at."""
_PRIOR = 1.0  # outcomes at the base rate that each action begins with
_USUAL, _CLAIMED = 8.0, 1.0  # outcomes at the scope's mean in the base rate of a cluster: for choosing, for claims
_FIRM = 4.0  # outcomes that the scope's variance counts for


class Totals(Struct, array_like=True):
    """What outcomes add up to, each with its weight; no outcomes at first."""

    weight: float = 0.0
    weights: float = 0.0  # sum of the squares
    total: float = 0.0
    squares: float = 0.0

    def add(self, value: float) -> None:
        self.weight += 1.0
        self.weights += 1.0
        self.total += value
        self.squares += value * value

    def keep(self, share: float) -> None:
        self.weight *= share
        self.weights *= share * share
        self.total *= share
        self.squares *= share

    @property
    def mean(self) -> float:
        return self.total / self.weight if self.weight else 0.0

    @property
    def scatter(self) -> float:
        """The weighted sum of squared distances from the mean."""
        return max(self.squares - self.total * self.mean, 0.0)

    @property
    def count(self) -> float:
        """How many outcomes of equal weight say as much (Kish 1965)."""
        return self.weight * self.weight / self.weights if self.weights else 0.0

    @property
    def variance(self) -> float:
        """The mean of squared distances from the mean."""
        return self.scatter / max(self.weight, 1.0)

    def less(self, other: Totals) -> Totals:
        """Return what is left without a part."""
        if other.weight >= self.weight:
            return Totals()
        return Totals(
            self.weight - other.weight,
            self.weights - other.weights,
            self.total - other.total,
            self.squares - other.squares,
        )

    def plus(self, other: Totals) -> Totals:
        return Totals(
            self.weight + other.weight,
            self.weights + other.weights,
            self.total + other.total,
            self.squares + other.squares,
        )


class Folded(NamedTuple):
    """The outcomes of a cluster, by the number of their action; `drifts` are places in their order."""

    now: list[Totals]
    ever: list[Totals]
    drifts: list[int]


def fold(actions: NDArray[np.uint16], values: NDArray[np.float64], kinds: int, keeps: float) -> Folded:
    """Add up the outcomes of a cluster, the first one first. O(outcomes x actions)."""
    now, ever, drifts = outcomes.fold(actions, values, kinds, keeps)
    return Folded([Totals(*each) for each in now], [Totals(*each) for each in ever], drifts)


class Measure(Struct, array_like=True, gc=False, frozen=True):
    """What an action earns in a cluster.

    `expected` and its `uncertainty` are for choosing, `weight` is how many outcomes say so; the rest is for claims:
    shrunk mean and its deviation, by `count` outcomes, the base rate, the effect and its standard error.
    """

    expected: float = 0.0
    uncertainty: float = 1.0
    weight: float = 0.0
    mean: float = 0.0
    deviation: float = 1.0
    count: float = 0.0
    base: float = 0.0
    effect: float = 0.0
    error: float = 1.0
    strength: float = 0.0


def measure(folded: Folded, usual: Totals, tested: int) -> list[Measure]:
    """Return what each action earns in a cluster, beside what is usual in its scope, of `tested` effects there."""
    now, ever = _whole(folded.now), _whole(folded.ever)
    return [
        Measure(*_earned(own, now.less(own), usual, _USUAL), *_claimed(past, ever.less(past), usual, tested))
        for own, past in zip(folded.now, folded.ever, strict=True)
    ]


def _whole(totals: Sequence[Totals]) -> Totals:
    found = Totals()
    for each in totals:
        found = found.plus(each)
    return found


def _earned(own: Totals, others: Totals, usual: Totals, prior: float) -> tuple[float, float, float]:
    """Return what an action earns, how uncertain that is, and how many outcomes say so."""
    base = (others.total + prior * usual.mean) / (others.weight + prior)
    mean = (own.total + _PRIOR * base) / (own.weight + _PRIOR)
    variance = (own.scatter + _PRIOR * usual.variance) / (own.weight + _PRIOR)
    return mean, math.sqrt(variance / (own.count + _PRIOR)), own.count


def _claimed(own: Totals, others: Totals, usual: Totals, tested: int) -> tuple[float, ...]:
    """Return the rest of a :class:`Measure`."""
    mean, deviation, count = _earned(own, others, usual, _CLAIMED)
    base = (others.total + _CLAIMED * usual.mean) / (others.weight + _CLAIMED)
    if count < 1e-9:
        return mean, deviation, 0.0, base, 0.0, deviation, 0.0
    effect = own.mean - base
    mine = (own.scatter + _FIRM * usual.variance) / (own.weight + _FIRM) / count
    theirs = others.count + _CLAIMED
    apart = _CLAIMED * others.weight / (others.weight + _CLAIMED) * (others.mean - usual.mean) ** 2
    rest = (others.scatter + apart + _FIRM * usual.variance) / (others.weight + _FIRM) / theirs
    error = math.sqrt(max(mine + rest, 1e-300))
    freedom, size = max(count + theirs - 2.0, 1.0), count * theirs / (count + theirs)
    return mean, deviation, count, base, effect, error, strength(effect / error, size, freedom, tested)


def strength(t: float, size: float, freedom: float, tested: int) -> float:
    """Return the probability that an effect is real, by its t statistic; `tested` effects were looked at."""
    t = max(-1e100, min(t, 1e100))  # its square is finite
    spread = 1.0 + size
    square = t * t / freedom
    log_factor = -0.5 * math.log(spread) + (freedom + 1) / 2 * (math.log1p(square) - math.log1p(square / spread))
    return 1.0 / (1.0 + math.exp(min(math.log(SCEPTICISM * max(tested, 1)) - log_factor, 700.0)))


def sure(effect: float, error: float) -> float:
    """Return the probability that an effect has the sign that was seen, given its standard error."""
    return 0.5 * (1.0 + math.erf(abs(effect) / error / math.sqrt(2.0))) if error > 0 else 0.5
