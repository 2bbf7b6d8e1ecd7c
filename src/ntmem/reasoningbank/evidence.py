"""What outcomes of actions in one kind of situation say: how much each earns there, and how sure that is.

Statistics are a pure function of the last outcomes of a cluster, in the order in which they were learnt, so nothing can
be counted twice. Formulas:

- An outcome counts ``keeps`` as much after each later one of its cluster: with 0.985 the last 65 count most.
- **Drift**: each action has two sums of Page's (1954), of how far its outcomes lie above and below its mean in units of
  their deviation, less 1/2, each outcome 3 at most. Where one passes 8, what earlier outcomes of the cluster said
  counts a tenth from then on, and of this action nothing.
- **Shrinkage**: what an action earns is (sum + base) / (n + 1): one outcome at the base rate is in it from the start,
  and one at the usual variance.
- **Effect**: its mean less the cluster's base rate, that is of all other actions' outcomes there, with `_USUAL` ones at
  the mean of the scope. Deviations are those of the two, each shrunk to the scope's (Welch's t).
- **Strength** is the probability that the effect is real, B / (B + `SCEPTICISM` m). B is the Bayes factor of the two
  sample t test with a normal prior of variance 1 on the effect in deviations (Gonen, Johnson, Lu and Westfall, The
  American Statistician 2005), m the number of effects that are looked at in the scope: so many chances to be wrong.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from msgspec import Struct

if TYPE_CHECKING:
    pass

SCEPTICISM = 300.0
"""Odds against any pattern of a scope being real, before its outcomes are looked at."""
_PRIOR = 1.0  # outcomes at the base rate that each action begins with
_USUAL = 8.0  # outcomes at the scope's mean in the base rate of a cluster
_FIRM = 4.0  # outcomes that the scope's variance counts for
_SLACK, _DRIFTED, _LARGEST = 0.5, 8.0, 3.0
_ENOUGH = 4.0  # outcomes that a mean needs before others can drift from it
_FORGETS = 0.1


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

    def plus(self, other: Totals) -> Totals:
        return Totals(
            self.weight + other.weight,
            self.weights + other.weights,
            self.total + other.total,
            self.squares + other.squares,
        )


class Folded(Struct):
    """The outcomes of a cluster, by the number of their action; `drifts` are places in their order."""

    totals: list[Totals]
    drifts: list[int]


def fold(actions: Sequence[int], values: Sequence[float], kinds: int, keeps: float) -> Folded:
    """Add up the outcomes of a cluster, the first one first. O(outcomes x actions)."""
    totals = [Totals() for _ in range(kinds)]
    above, below = [0.0] * kinds, [0.0] * kinds
    drifts = []
    for place, (action, value) in enumerate(zip(actions, values, strict=True)):
        own = totals[action]
        if own.weight >= _ENOUGH:
            away = max(-_LARGEST, min((value - own.mean) / _deviation(totals), _LARGEST))
            above[action] = max(0.0, above[action] + away - _SLACK)
            below[action] = max(0.0, below[action] - away - _SLACK)
            if above[action] > _DRIFTED or below[action] > _DRIFTED:
                drifts.append(place)
                for each in totals:
                    each.keep(_FORGETS)
                totals[action] = own = Totals()
                above, below = [0.0] * kinds, [0.0] * kinds
        for each in totals:
            each.keep(keeps)
        own.add(value)
    return Folded(totals, drifts)


def _deviation(totals: Sequence[Totals]) -> float:
    weight = math.fsum(each.weight for each in totals)
    return max(math.sqrt(math.fsum(each.scatter for each in totals) / weight), 1e-12)


class Measure(Struct, array_like=True, gc=False, frozen=True):
    """What an action earns in a cluster: shrunk mean, its deviation, and the effect against the base rate."""

    count: float
    mean: float
    deviation: float
    base: float
    effect: float
    error: float
    strength: float


def measure(totals: Sequence[Totals], usual: Totals, tested: int) -> list[Measure]:
    """Return what each action earns in a cluster, beside what is usual in its scope, of `tested` effects there."""
    usual_variance = usual.scatter / max(usual.weight, 1.0)
    usual_mean = usual.mean
    everything = Totals()
    for each in totals:
        everything = everything.plus(each)
    found = []
    for own in totals:
        others = Totals(
            everything.weight - own.weight,
            everything.weights - own.weights,
            everything.total - own.total,
            everything.squares - own.squares,
        )
        base = (others.total + _USUAL * usual_mean) / (others.weight + _USUAL)
        mine, theirs = own.count, others.count + _USUAL
        mean = (own.total + _PRIOR * base) / (own.weight + _PRIOR)
        variance = (own.scatter + _PRIOR * usual_variance) / (own.weight + _PRIOR)
        deviation = math.sqrt(variance / (mine + _PRIOR))
        if mine < 1e-9:
            found.append(Measure(0.0, mean, deviation, base, 0.0, deviation, 0.0))
            continue
        effect = own.mean - base
        firm = (own.scatter + _FIRM * usual_variance) / (own.weight + _FIRM)
        between = _USUAL * others.weight / (others.weight + _USUAL) * (others.mean - usual_mean) ** 2
        rest = (others.scatter + between + _USUAL * usual_variance) / (others.weight + _USUAL)
        error = math.sqrt(max(firm / mine + rest / theirs, 1e-300))
        freedom = max(mine + theirs - 2.0, 1.0)
        size = mine * theirs / (mine + theirs)
        found.append(
            Measure(mine, mean, deviation, base, effect, error, strength(effect / error, size, freedom, tested))
        )
    return found


def strength(t: float, size: float, freedom: float, tested: int) -> float:
    """Return the probability that an effect is real, by its t statistic; `tested` effects were looked at."""
    spread = 1.0 + size
    square = t * t / freedom
    log_factor = -0.5 * math.log(spread) + (freedom + 1) / 2 * (math.log1p(square) - math.log1p(square / spread))
    return 1.0 / (1.0 + math.exp(min(math.log(SCEPTICISM * max(tested, 1)) - log_factor, 700.0)))


def sure(effect: float, error: float) -> float:
    """Return the probability that an effect has the sign that was seen, given its standard error."""
    return 0.5 * (1.0 + math.erf(abs(effect) / error / math.sqrt(2.0))) if error > 0 else 0.5
