"""Judges: pure functions from what was expected and what came to a verdict. None of them looks into a store."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from .checks import require_number
from .verdict import LARGEST, Case, Pair, Verdict, VerdictResult, insufficient

_EXACT = 1000  # pairs up to which a sum of chances is computed, not approximated


class RelativeErrorJudge:
    """The rule of the original: by how much of the outcome the prediction was off.

    Of predictions p and outcomes a that belong together: error = mean of ``|p - a| / max(|a|, 1e-10)``; ``CORRECT`` if
    it is 0.05 or less, ``VERY_WRONG`` if 0.25 or more, else ``INCORRECT``; accuracy = ``1 - min(error, 1)``,
    confidence = ``min(n / 10, 1)`` of n pairs. Near an outcome of 0 the error is huge, whatever the prediction:
    :class:`ScaledJudge` does not have that.
    """

    def __init__(self, correct: float = 0.05, very_wrong: float = 0.25) -> None:
        self.correct = require_number(correct, "correct", least=0)
        self.very_wrong = require_number(very_wrong, "very_wrong", least=0)
        _check_order(self.correct, self.very_wrong)

    def __call__(self, case: Case) -> VerdictResult:
        """Judge a case."""
        errors = []
        for pair in case.predicted:
            expected, came = pair.action.predicted_outcome, pair.outcome.value
            assert expected is not None
            off, size = abs(expected - came), max(abs(came), 1e-10)
            errors.append(_bounded(off / size if off < math.inf else abs(expected / size - came / size)))
        if not errors:
            return insufficient(case)
        error = _mean(errors)
        if error <= self.correct:
            verdict = Verdict.CORRECT
        elif error >= self.very_wrong:
            verdict = Verdict.VERY_WRONG
        else:
            verdict = Verdict.INCORRECT
        count = len(errors)
        feedback = f"{verdict.value}: off by {error:.2%} of the outcome{_over(count)}"
        return VerdictResult(
            case.trajectory_id, verdict, error, 1 - min(error, 1.0), min(count / 10, 1.0), feedback + _left_out(case)
        )


class _Judged(NamedTuple):
    """A pair as :class:`ScaledJudge` sees it."""

    error: float
    direction: float
    is_correct: bool
    is_very_wrong: bool
    chance: float  # that it is correct, but for the luck of its outcome


class ScaledJudge:
    """The default: errors in units of what outcomes vary by anyway, the direction, costs, and luck.

    With a reference level L, prediction and outcome are returns from it, ``P = p/L - 1`` and ``A = a/L - 1``; without,
    they are rewards as they are. The past are the outcomes of such actions known before (:class:`Pair`).

    A pair is judged by

    - its unit s: ``s² = (sum of A_i² + m (P² + A²)/2) / (n + m)`` over the n past outcomes A_i, where m is `prior`: the
      posterior scale of a normal variance around 0 under a scaled inverse chi-squared prior with m degrees of freedom
      at the pair's own size (Gelman et al., "Bayesian Data Analysis", 3rd edition, section 2.6). So it is defined
      without a past, and is 0 only if all is;
    - its error: ``e = |P - A| / s``, 0 if both are 0. Without a past it is 2 at most;
    - its direction: 1 if P and A have the same sign or none, 0 if opposite ones, 1/2 if one of them has none. A return
      of at most `cost` has none: what it earns is not worth trading.

    It is correct if the error is at most `correct` and the direction not opposite, very wrong if the error is at least
    `very_wrong` and the direction opposite. A trajectory is ``CORRECT`` if more than half of its pairs are, else
    ``VERY_WRONG`` if more than half are very wrong, else ``INCORRECT``. Error and accuracy are means over the pairs, of
    e and of ``exp(-e²/2)``: how likely such an error is, compared with none, if errors are normal with that unit.

    **Confidence** is the probability that the trajectory is on its side of ``CORRECT`` but for luck: that it would be
    if each outcome had been its expectation. Of what predictions were off by, ``D² = (sum of (P_i - A_i)² +
    m (P² + A²)/2) / (k + m)`` over the k past outcomes with a prediction, the share `luck` is noise of outcomes, the
    rest the predictions' own error. So the expectation is normal with mean ``P + (1 - luck) (A - P)`` and variance
    ``luck (1 - luck) D²``, times ``(k + m) / (k + m - 2)`` as D² is only estimated (that is Student's); this gives the
    chance of each pair to be correct, and their sum, by the Poisson binomial distribution, the chance of more than
    half. How well this is calibrated on a market whose expectations are known is in ``BENCHMARKING.md``; pairs whose
    outcomes are of the same hours are taken for independent, and are not.

    Parameters
    ----------
    cost : float
        Of a round trip, as a return; not applied to rewards, which are what is left after costs.
    correct, very_wrong : float
        Bounds of the error, in units.
    prior : float
        As how many past outcomes a pair's own size counts; more than 2.
    luck : float
        Between 0 and 1.
    """

    def __init__(
        self,
        *,
        cost: float = 0.0,
        correct: float = 1.0,
        very_wrong: float = 1.5,
        prior: float = 5.0,
        luck: float = 0.5,
    ) -> None:
        self.cost = require_number(cost, "cost", least=0)
        self.correct = require_number(correct, "correct", least=0)
        self.very_wrong = require_number(very_wrong, "very_wrong", least=0)
        self.prior = require_number(prior, "prior", above=2)
        self.luck = require_number(luck, "luck", least=0, most=1)
        _check_order(self.correct, self.very_wrong)

    def __call__(self, case: Case) -> VerdictResult:
        """Judge a case."""
        judged = [self._judged(pair) for pair in case.predicted]
        if not judged:
            return insufficient(case)
        count = len(judged)
        is_correct = 2 * sum(each.is_correct for each in judged) > count
        if is_correct:
            verdict = Verdict.CORRECT
        elif 2 * sum(each.is_very_wrong for each in judged) > count:
            verdict = Verdict.VERY_WRONG
        else:
            verdict = Verdict.INCORRECT
        error = _mean([each.error for each in judged])
        accuracy = _mean([math.exp(-(min(each.error, 100.0) ** 2) / 2) for each in judged])
        right = sum(each.direction for each in judged) / count
        chance = most_of([each.chance for each in judged])
        feedback = (
            f"{verdict.value}: off by {error:.3g} units of volatility{_over(count)}, direction right in {right:.0%}"
        )
        confidence = chance if is_correct else 1 - chance
        return VerdictResult(case.trajectory_id, verdict, error, accuracy, confidence, feedback + _left_out(case))

    def _judged(self, pair: Pair) -> _Judged:
        predicted, actual = pair.predicted, pair.actual
        assert predicted is not None
        own = math.hypot(predicted, actual) / math.sqrt(2)
        unit = self._scale(own, [past.actual for past in pair.past])
        error = _bounded(abs(predicted - actual) / unit) if unit and predicted != actual else 0.0
        cost = self.cost if pair.is_return else 0.0
        expected = _sign(predicted, cost)
        direction = 1 - abs(expected - _sign(actual, cost)) / 2
        off = [past.predicted - past.actual for past in pair.past if past.predicted is not None]
        share = 1 - self.luck
        spread = self._scale(own, off) * math.sqrt(self.luck * share * (1 + 2 / (len(off) + self.prior - 2)))
        low, high = predicted - self.correct * unit, predicted + self.correct * unit
        if expected > 0:
            low = max(low, -cost)
        elif expected < 0:
            high = min(high, cost)
        chance = _between(low, high, predicted + share * (actual - predicted), spread)
        is_right = direction > 0
        return _Judged(
            error, direction, error <= self.correct and is_right, error >= self.very_wrong and not is_right, chance
        )

    def _scale(self, own: float, past: Sequence[float]) -> float:
        """Return the root of the mean square of `past` and, `prior` times, of `own`."""
        count = len(past) + self.prior  # no square of one alone, which might be too large or too small for a float
        return math.hypot(math.hypot(*past) / math.sqrt(count), own * math.sqrt(self.prior / count))


def most_of(chances: Sequence[float]) -> float:
    """Return the probability that more than half of independent events happen, given that of each.

    By the recursion of the Poisson binomial distribution, O(n²); of more than 1,000 by the normal approximation with a
    correction for continuity.

    Examples
    --------
    >>> most_of([0.9]), round(most_of([0.5, 0.5]), 4), round(most_of([0.9, 0.8, 0.7]), 4)
    (0.9, 0.25, 0.902)
    """
    least = len(chances) // 2 + 1
    if len(chances) > _EXACT:
        spread = math.sqrt(math.fsum(chance * (1 - chance) for chance in chances))
        return _between(least - 0.5, math.inf, math.fsum(chances), spread)
    happened = [1.0]  # the probability of each number of those so far
    for chance in chances:
        happened = [
            more * chance + same * (1 - chance) for more, same in zip([0.0, *happened], [*happened, 0.0], strict=True)
        ]
    return min(1.0, math.fsum(happened[least:]))


def _between(low: float, high: float, mean: float, spread: float) -> float:
    """Return the probability that a normal deviate is from `low` to `high`."""
    if not spread:
        return float(low <= mean <= high)
    below, above = ((bound - mean) / spread / math.sqrt(2) for bound in (low, high))
    return max(0.0, (math.erf(above) - math.erf(below)) / 2)


def _check_order(correct: float, very_wrong: float) -> None:
    if not correct < very_wrong:
        raise ValueError(f"correct must be below very_wrong, was {correct} and {very_wrong}")


def _mean(numbers: Sequence[float]) -> float:
    return math.fsum(number / len(numbers) for number in numbers)


def _bounded(number: float) -> float:
    """Return a number that may have become infinite as the largest there is."""
    return min(number, LARGEST)


def _sign(number: float, cost: float) -> int:
    return 0 if abs(number) <= cost else 1 if number > 0 else -1


def _over(count: int) -> str:
    return "" if count == 1 else f", over {count} actions"


def _left_out(case: Case) -> str:
    left = len(case.pairs) - len(case.predicted)
    return f"; {left} without a prediction" if left else ""
