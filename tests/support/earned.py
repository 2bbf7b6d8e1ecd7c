"""What outcomes of actions say, worked out slowly: each with its weight at the end, and probabilities by integration.

Nothing here is shared with :mod:`ntmem.reasoningbank.evidence` but what its docstring promises.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple


class Weighted(NamedTuple):
    """An outcome, and what it counts."""

    value: float
    weight: float


def mean(rows: Sequence[Weighted]) -> float:
    """Return the weighted mean; of nothing 0."""
    weight = math.fsum(it.weight for it in rows)
    return math.fsum(it.weight * it.value for it in rows) / weight if weight else 0.0


def weight(rows: Sequence[Weighted]) -> float:
    return math.fsum(it.weight for it in rows)


def scatter(rows: Sequence[Weighted]) -> float:
    """Return the weighted sum of squared distances from the mean."""
    middle = mean(rows)
    return math.fsum(it.weight * (it.value - middle) ** 2 for it in rows)


def kish(rows: Sequence[Weighted]) -> float:
    """Return how many outcomes of equal weight say as much."""
    squares = math.fsum(it.weight**2 for it in rows)
    return weight(rows) ** 2 / squares if squares else 0.0


class Rows(NamedTuple):
    """The outcomes of each action: forgotten with every later one, and with every later one of the same action."""

    now: list[list[Weighted]]
    ever: list[list[Weighted]]
    drifts: list[int]


def folded(actions: Sequence[int], values: Sequence[float], kinds: int, keeps: float) -> Rows:
    """Return the outcomes of each action with what they count at the end, and where drifts were noticed."""
    now: list[list[Weighted]] = [[] for _ in range(kinds)]
    ever: list[list[Weighted]] = [[] for _ in range(kinds)]
    since: list[list[float]] = [[] for _ in range(kinds)]  # deviations of an action since its sums began
    drifts = []
    for place, (action, value) in enumerate(zip(actions, values, strict=True)):
        own = now[action]
        if weight(own) >= 16:
            everything = math.fsum(weight(each) for each in now)
            deviation = max(math.sqrt(math.fsum(scatter(each) for each in now) / everything), 1e-12)
            since[action].append(max(-3.0, min((value - mean(own)) / deviation, 3.0)))
            if page(since[action]) > 6 or page([-each for each in since[action]]) > 6:
                drifts.append(place)
                now, ever = [kept(each, 0.1) for each in now], [kept(each, 0.1) for each in ever]
                now[action], ever[action] = [], []
                since = [[] for _ in range(kinds)]
        now = [kept(each, keeps) for each in now]
        ever[action] = kept(ever[action], keeps)
        now[action].append(Weighted(value, 1.0))
        ever[action].append(Weighted(value, 1.0))
    return Rows(now, ever, drifts)


def kept(rows: Sequence[Weighted], share: float) -> list[Weighted]:
    """Return outcomes that count so much of what they did."""
    return [Weighted(it.value, it.weight * share) for it in rows]


def page(away: Sequence[float]) -> float:
    """Return Page's sum: the largest sum of deviations less 1/2 of any run that ends here, or 0."""
    runs = (math.fsum(away[first:]) - 0.5 * (len(away) - first) for first in range(len(away)))
    return max([0.0, *runs])


def measured(rows: Rows, usual_mean: float, usual_variance: float, tested: int) -> list[dict[str, float]]:
    """Return what each action earns, by the names of ``Measure``."""
    found = []
    for place in range(len(rows.now)):
        expected, uncertainty, counted = earned(rows.now, place, 8.0, usual_mean, usual_variance)
        facts = {"expected": expected, "uncertainty": uncertainty, "weight": counted}
        shrunk, deviation, count = earned(rows.ever, place, 1.0, usual_mean, usual_variance)
        own, others = rows.ever[place], besides(rows.ever, place)
        base = mean([*others, Weighted(usual_mean, 1.0)])
        facts |= {"mean": shrunk, "deviation": deviation, "count": count, "base": base}
        if not own:
            found.append(facts | {"effect": 0.0, "error": deviation, "strength": 0.0})
            continue
        firm = (scatter(own) + 4 * usual_variance) / (weight(own) + 4)
        apart = scatter([*others, Weighted(usual_mean, 1.0)])
        rest, theirs = (apart + 4 * usual_variance) / (weight(others) + 4), kish(others) + 1
        error = math.sqrt(max(firm / count + rest / theirs, 1e-300))
        effect = mean(own) - base
        size, freedom = count * theirs / (count + theirs), max(count + theirs - 2, 1.0)
        factor = bayes_factor(effect / error, size, freedom)
        found.append(facts | {"effect": effect, "error": error, "strength": factor / (factor + 300 * max(tested, 1))})
    return found


def besides(rows: Sequence[Sequence[Weighted]], place: int) -> list[Weighted]:
    """Return the outcomes of all other actions."""
    return [it for other, each in enumerate(rows) if other != place for it in each]


def earned(
    rows: Sequence[Sequence[Weighted]], place: int, prior: float, usual_mean: float, usual_variance: float
) -> tuple[float, float, float]:
    """Return the shrunk mean of an action, its deviation, and how many outcomes of equal weight say so."""
    own = rows[place]
    base = mean([*besides(rows, place), Weighted(usual_mean, prior)])
    count = kish(own)
    deviation = math.sqrt((scatter(own) + usual_variance) / (weight(own) + 1) / (count + 1))
    return mean([*own, Weighted(base, 1.0)]), deviation, count


def bayes_factor(t: float, size: float, freedom: float) -> float:
    """Return how much more probable a t statistic is if the effect, in deviations, is normal with variance 1, than
    without: the densities of Student's t with scales sqrt(1 + size) and 1."""
    scale = 1 + size
    return math.exp(
        -math.log(scale) / 2 - (freedom + 1) / 2 * math.log((1 + t * t / (freedom * scale)) / (1 + t * t / freedom))
    )


def integrated_bayes_factor(t: float, size: float, freedom: float, steps: int = 240) -> float:
    """Return the same by integrating over the effect, and over the deviation that was estimated."""
    root, chi = math.sqrt(size), [8.0 * (each + 0.5) / steps for each in range(steps)]
    weights = [math.exp((freedom - 1) * math.log(s) - freedom * s * s / 2 + freedom / 2) for s in chi]  # of chi / root

    def density(shift: float) -> float:  # of the statistic, but for a factor
        return math.fsum(w * s * math.exp(-((t * s - shift) ** 2) / 2) for s, w in zip(chi, weights, strict=True))

    deltas = [-8 + 16 * (each + 0.5) / steps for each in range(steps)]
    prior = [math.exp(-delta * delta / 2) / math.sqrt(2 * math.pi) * 16 / steps for delta in deltas]
    return math.fsum(p * density(delta * root) for p, delta in zip(prior, deltas, strict=True)) / density(0.0)
