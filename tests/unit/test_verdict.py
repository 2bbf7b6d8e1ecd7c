"""Judges and calibration by cases worked out by hand."""

from __future__ import annotations

import math
import sys
from decimal import Decimal
from fractions import Fraction
from itertools import product
from statistics import NormalDist
from typing import Any

import numpy as np
import pytest

import ntmem
from ntmem import RelativeErrorJudge, ScaledJudge, Verdict, VerdictResult
from ntmem.reasoningbank import Action, Case, Outcome, Pair, Past, calibrate
from ntmem.reasoningbank.calibration import wilson
from ntmem.reasoningbank.judges import most_of
from ntmem.reasoningbank.verdict import relative

SECOND = 1_000_000_000


def pair(predicted: float | None, actual: float, reference: float | None = None, past: Any = ()) -> Pair:
    action = Action("a1", "buy", None, predicted, reference, None, 0, 0)
    known = tuple(each if isinstance(each, Past) else Past(each, None) for each in past)
    return Pair(action, Outcome(actual, "a1", 0, 0), known)


def case(*pairs: Pair) -> Case:
    return Case("01", "agent", "task", pairs)


# ---- the original's rule ----


@pytest.mark.parametrize(
    ("predicted", "actual", "error", "verdict"),
    [
        (110.0, 105.0, 5 / 105, Verdict.CORRECT),  # the seeds' example
        (105.0, 100.0, 0.05, Verdict.CORRECT),  # the bound belongs to it
        (106.0, 100.0, 0.06, Verdict.INCORRECT),
        (125.0, 100.0, 0.25, Verdict.VERY_WRONG),
        (-100.0, 100.0, 2.0, Verdict.VERY_WRONG),
        (-95.0, -100.0, 0.05, Verdict.CORRECT),
        (0.0, 0.0, 0.0, Verdict.CORRECT),
        (1.0, 0.0, 1e10, Verdict.VERY_WRONG),
        (1e308, -1e308, 2.0, Verdict.VERY_WRONG),
        (1e308, 1e-308, 1e300, Verdict.VERY_WRONG),  # what would be infinite is not
    ],
)
def test_relative(predicted: float, actual: float, error: float, verdict: Verdict) -> None:
    result = RelativeErrorJudge()(case(pair(predicted, actual)))
    assert (result.verdict, result.confidence) == (verdict, 0.1)
    assert result.error == pytest.approx(error)
    assert result.accuracy == pytest.approx(1 - min(error, 1))


def test_relative_over_several() -> None:
    pairs = [pair(110.0, 100.0), pair(None, 1.0), pair(100.0, 100.0)]
    result = RelativeErrorJudge()(case(*pairs))
    assert (result.verdict, result.confidence) == (Verdict.CORRECT, 0.2)
    assert result.error == pytest.approx(0.05)
    assert result.feedback == "correct: off by 5.00% of the outcome, over 2 actions; 1 without a prediction"
    assert RelativeErrorJudge()(case(*[pair(1.0, 1.0)] * 20)).confidence == 1.0


@pytest.mark.parametrize("judge", [RelativeErrorJudge(), ScaledJudge()])
def test_nothing_to_judge(judge: Any) -> None:
    for each in (case(), case(pair(None, 1.0))):
        result = judge(each)
        assert (result.verdict, result.error, result.accuracy) == (Verdict.INSUFFICIENT, None, None)
        assert result.confidence == 0.0


# ---- the scaled rule ----


def test_unit_of_a_pair() -> None:
    # P = 0.1, A = 0.05, no past: s² = (0.01 + 0.0025) / 2, e = 0.05 / s
    alone = ScaledJudge()(case(pair(110.0, 105.0, 100.0)))
    assert alone.error == pytest.approx(0.05 / math.sqrt(0.00625))
    assert alone.error == pytest.approx(0.632455532)
    assert (alone.verdict, alone.accuracy) == (Verdict.CORRECT, pytest.approx(math.exp(-0.2)))
    assert alone.feedback == "correct: off by 0.632 units of volatility, direction right in 100%"
    # 15 past returns of ±20 %: s² = (15 * 0.04 + 5 * 0.00625) / 20
    within = ScaledJudge()(case(pair(110.0, 105.0, 100.0, [0.2, -0.2, 0.2] * 5)))
    assert within.error == pytest.approx(0.05 / math.sqrt((0.6 + 0.03125) / 20))


def test_confidence_of_a_pair() -> None:
    # no past: D² = s² = 0.00625, so the expectation is around 0.075 with a variance of 0.00625 / 4 * 5 / 3, and it is
    # correct from 0, as losses are the other direction (0.1 - s is 0.021), to 0.1 + s
    unit = math.sqrt(0.00625)
    expected = NormalDist(0.075, math.sqrt(0.00625 / 4 * 5 / 3))
    alone = ScaledJudge()(case(pair(110.0, 105.0, 100.0)))
    assert alone.confidence == pytest.approx(expected.cdf(0.1 + unit) - expected.cdf(0.1 - unit))
    # 10 past outcomes of 0.3, of which 6 were expected to be 0.1: s² = (10 * 0.09 + 5 * 0.0325) / 15 = 0.0708,
    # D² = (6 * 0.04 + 5 * 0.0325) / 11 = 0.0366; P = 0.25, A = -0.05: 0.3 off is more than a unit
    past = [Past(0.3, 0.1)] * 6 + [Past(0.3, None)] * 4
    missed = ScaledJudge()(case(pair(0.25, -0.05, None, past)))
    own = (0.25**2 + 0.05**2) / 2
    unit = math.sqrt((0.9 + 5 * own) / 15)
    expected = NormalDist(0.1, math.sqrt((0.24 + 5 * own) / 11 / 4 * 11 / 9))
    assert missed.verdict is Verdict.INCORRECT
    assert missed.confidence == pytest.approx(1 - (expected.cdf(0.25 + unit) - expected.cdf(0.0)))
    assert missed.confidence < 0.5  # an agent whose predictions were good had bad luck
    # all is luck: the expectation is the prediction
    lucky = ScaledJudge(luck=1)(case(pair(1.0, -1.0)))
    assert (lucky.verdict, lucky.confidence) == (Verdict.VERY_WRONG, 0.0)
    known = ScaledJudge(luck=0)(case(pair(1.0, -1.0)))
    assert (known.verdict, known.confidence) == (Verdict.VERY_WRONG, 1.0)


def test_chance_of_most() -> None:
    for chances in ([0.3], [0.9, 0.2], [0.9, 0.8, 0.3], [0.5, 0.1, 0.99, 0.7, 0.2], [1.0, 0.0, 1.0]):
        expected = sum(
            math.prod(chance if happens else 1 - chance for chance, happens in zip(chances, each, strict=True))
            for each in product([False, True], repeat=len(chances))
            if sum(each) > len(chances) / 2
        )
        assert most_of(chances) == pytest.approx(expected)
    many = [0.5 + number % 7 / 100 - 0.03 for number in range(1000)]
    assert most_of([*many, 0.5]) == pytest.approx(most_of([*many[:-1], 0.5]), abs=0.02)  # approximated, exact
    assert most_of([1.0] * 2000) == 1.0
    assert most_of([0.0] * 2000) == 0.0


@pytest.mark.parametrize(
    ("predicted", "actual", "error", "verdict"),
    [
        (1.0, 1.0, 0.0, Verdict.CORRECT),
        (0.0, 0.0, 0.0, Verdict.CORRECT),
        (1.0, -1.0, 2.0, Verdict.VERY_WRONG),  # the sign has changed: the most without a past
        (-1.0, 1.0, 2.0, Verdict.VERY_WRONG),
        (1.0, -0.1, 1.1 / math.sqrt(0.505), Verdict.VERY_WRONG),
        (1.0, 0.0, math.sqrt(2), Verdict.INCORRECT),  # nothing came: wrong, but not the opposite
        (0.0, 1e-12, math.sqrt(2), Verdict.INCORRECT),  # near 0 nothing explodes
        (1.0, 3.0, 2 / math.sqrt(5), Verdict.CORRECT),
        (1.0, 9.0, 8 / math.sqrt(41), Verdict.INCORRECT),
        (1e308, -1e308, 2.0, Verdict.VERY_WRONG),
        (5e-324, -5e-324, None, Verdict.VERY_WRONG),
    ],
)
def test_rewards_without_a_past(predicted: float, actual: float, error: float | None, verdict: Verdict) -> None:
    result = ScaledJudge()(case(pair(predicted, actual)))
    assert result.verdict is verdict
    assert error is None or result.error == pytest.approx(error)
    assert 0 <= result.confidence <= 1


def test_direction_and_costs() -> None:
    quiet, judge = [0.1] * 95, ScaledJudge(cost=0.01)
    right, opposite = pair(101.5, 102.0, 100.0, quiet), pair(101.5, 98.0, 100.0, quiet)
    no_trade = pair(101.5, 100.5, 100.0, quiet)  # + 0.5 %, which costs take

    def direction(it: Pair) -> str:
        return judge(case(it)).feedback.rpartition(" ")[2]

    assert [direction(it) for it in (right, opposite, no_trade)] == ["100%", "0%", "50%"]
    assert direction(pair(100.5, 99.5, 100.0)) == "100%"  # neither was worth it
    assert direction(pair(0.005, 0.004)) == "100%"  # rewards are after costs
    assert direction(pair(0.005, -0.004)) == "0%"
    assert [judge(case(it)).verdict for it in (right, no_trade)] == [Verdict.CORRECT] * 2
    assert judge(case(opposite)).verdict is Verdict.INCORRECT  # a small error in the wrong direction


def test_costs_in_the_chance() -> None:
    """Where the direction is what decides, the bound is a return of the costs to the other side."""
    judge, past = ScaledJudge(cost=0.25), [Past(8.0, 8.5)] * 95
    own = (0.5**2 + 1.0**2) / 2
    spread = math.sqrt((95 * 0.25 + 5 * own) / 100 / 4 * 100 / 98)
    unit = math.sqrt((95 * 64 + 5 * own) / 100)
    for sign in (1, -1):
        result = judge(case(pair(1 + 0.5 * sign, 1 - 1.0 * sign, 1.0, past)))
        expected = NormalDist(-0.25, spread)  # half way from 0.5 to -1
        assert result.verdict is Verdict.INCORRECT
        assert result.confidence == pytest.approx(1 - (expected.cdf(0.5 + unit) - expected.cdf(-0.25)))


def test_bounds_belong_to_it() -> None:
    judge = ScaledJudge(cost=0.5)
    assert judge(case(pair(1.5, 0.75, 1.0))).feedback.endswith(
        "direction right in 100%"
    )  # of costs: none, as the other
    assert judge(case(pair(1.5, 0.25, 1.0))).feedback.endswith("direction right in 50%")
    far = judge(case(pair(1.0, 9.0, None, [1.0] * 95)))
    assert far.error is not None
    assert far.error > judge.very_wrong
    assert far.verdict is Verdict.INCORRECT  # as it is of the right direction
    exact = 0.5 - NormalDist().cdf(0) + (1 - NormalDist(550.0, math.sqrt(1100 / 4)).cdf(550.5))
    assert most_of([0.5] * 1100) == pytest.approx(exact)


def test_most_of_several_actions_decide() -> None:
    right, wrong, missed = pair(1.0, 1.0), pair(1.0, -1.0), pair(1.0, 0.0)
    judge = ScaledJudge()
    for pairs, verdict in (
        ((right, right, wrong), Verdict.CORRECT),
        ((right, wrong), Verdict.INCORRECT),
        ((right, wrong, wrong), Verdict.VERY_WRONG),
        ((right, wrong, missed), Verdict.INCORRECT),
    ):
        assert judge(case(*pairs)).verdict is verdict
    mixed = judge(case(right, pair(None, 7.0), right, wrong))
    assert mixed.error == pytest.approx(2 / 3)
    assert mixed.feedback.endswith("over 3 actions, direction right in 67%; 1 without a prediction")
    one = [judge(case(it)).confidence for it in (right, wrong)]
    assert mixed.confidence == pytest.approx(most_of([one[0], one[0], 1 - one[1]]))
    assert judge(case(*[right] * 9)).confidence > judge(case(right)).confidence


def test_levels_become_returns() -> None:
    assert relative(105.0, 100.0) == pytest.approx(0.05)
    assert relative(105.0, None) == 105.0
    assert relative(None, 100.0) is None
    assert relative(1e308, 1e-300) == relative(1e308, None) == 1e300


def test_parameters_are_checked() -> None:
    for wrong in ({"cost": -1}, {"prior": 2}, {"correct": float("nan")}, {"correct": 2.0}, {"luck": 1.5}):
        with pytest.raises(ValueError, match=r"cost|prior|correct|luck"):
            ScaledJudge(**wrong)
    with pytest.raises(ValueError, match="correct must be below very_wrong"):
        RelativeErrorJudge(0.3)


def test_wilson() -> None:
    assert wilson(0, 0) == (0.0, 1.0)
    assert wilson(0, 10) == (0.0, pytest.approx(0.2775, abs=1e-4))
    assert wilson(5, 10) == (pytest.approx(0.2366, abs=1e-4), pytest.approx(0.7634, abs=1e-4))


# ---- in a bank ----


def test_outcomes_are_measured_by_those_known_before() -> None:
    clock = ntmem.SimulatedClock(1_700_000_000 * SECOND)
    seen: list[Case] = []

    def watching(asked: Case) -> Verdict:
        seen.append(asked)
        return Verdict.CORRECT

    with ntmem.open(clock=clock) as memory:
        bank = memory.bank
        for number, level in enumerate([110.0, 90.0, 100.0, 120.0]):
            clock.set(clock.now() + SECOND)
            trajectory = bank.begin("a", "t")
            trajectory.add_action("buy", None, 95.0, reference=100.0)
            later = clock.now() + (10 * SECOND if number == 2 else 0)
            trajectory.add_outcome(level, ts_known=later)
            bank.begin("a", "other").add_outcome(5.0)
            sold = bank.begin("a", "t")
            sold.add_action("sell", None, 95.0, reference=100.0)
            sold.add_outcome(130.0)
        assert bank.judge(trajectory.id, judge=watching) == VerdictResult(
            trajectory.id, Verdict.CORRECT, None, None, 0.0, "correct"
        )
        past = seen[0].pairs[0].past
        assert [it.actual for it in past] == pytest.approx([-0.1, 0.1])
        assert [it.predicted for it in past] == pytest.approx([-0.05, -0.05])
        assert trajectory.verdicts == ()  # of another object, until it is got again
        found = memory.trajectories.get(trajectory.id)
        assert found is not None
        assert found.verdicts[0].judge == "watching"
        for wrong, words in (
            (lambda _: "good", "must return"),
            (lambda _: VerdictResult("x", *[None] * 5), "speaks of"),
        ):
            with pytest.raises((TypeError, ValueError), match=words):
                bank.judge(trajectory.id, judge=wrong)
        with pytest.raises(TypeError, match="judge must be callable"):
            bank.judge(trajectory.id, judge="good")  # type: ignore[arg-type]
        bad = VerdictResult(trajectory.id, Verdict.CORRECT, float("nan"), None, 0.0, "")
        with pytest.raises(ValueError, match="error must be finite"):
            bank.judge(trajectory.id, judge=lambda _: bad)
    assert "correct" in bad._repr_html_()


def test_another_judge_for_all() -> None:
    with ntmem.open() as memory:
        assert isinstance(memory.judge, ScaledJudge)
        trajectory = memory.bank.begin("a")
        trajectory.add_action("buy", None, 110.0)
        trajectory.add_outcome(105.0)
        assert memory.bank.judge(trajectory.id, record=False).confidence > 0.8
        memory.judge = RelativeErrorJudge()
        assert memory.bank.judge(trajectory.id).confidence == 0.1
        with pytest.raises(TypeError, match="judge must be callable with a Case, was str"):
            memory.judge = "good"  # type: ignore[assignment]
        [found] = memory.trajectories.find(verdict="correct").trajectories
        assert found.verdicts[0].judge == "RelativeErrorJudge"
        assert found.verdicts[0].verdict == Verdict.CORRECT
        memory.bank.judge_many([trajectory.id, trajectory.id], judge=ScaledJudge())
        judges = [it.judge for it in memory.trajectories.get(trajectory.id).verdicts]  # type: ignore[union-attr]
        assert judges == ["RelativeErrorJudge", "ScaledJudge"]


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"feedback": 5}, "feedback must be a str"),
        ({"feedback": "\ud800"}, "feedback must be encodable"),
        ({"feedback": "x" * 65_537}, "feedback has 0 to 65536 bytes"),
        ({"verdict": "correct"}, "must be a Verdict"),
        ({"error": -1.0}, "error must be at least 0"),
        ({"accuracy": 1.5}, "accuracy must be at most 1"),
        ({"confidence": None}, "confidence must be a number"),
        ({"confidence": True}, "confidence must be a number"),
    ],
)
def test_what_a_judge_may_not_say(wrong: Any, words: str) -> None:
    with ntmem.open() as memory:
        trajectory = memory.bank.begin("a")
        said: Any = {"verdict": Verdict.CORRECT, "error": 0.0, "accuracy": 1.0, "confidence": 1.0, "feedback": ""}
        with pytest.raises((TypeError, ValueError), match=words):
            memory.bank.judge(trajectory.id, judge=lambda it: VerdictResult(it.trajectory_id, **said | wrong))
        assert memory.trajectories.get(trajectory.id).verdicts == ()  # type: ignore[union-attr]


def test_numbers_of_a_judge_are_kept_as_floats() -> None:
    class Judge:
        __name__ = 5  # type: ignore[assignment]

        def __call__(self, it: Case) -> VerdictResult:
            numbers: Any = Decimal("0.5"), np.float32(0.25), Fraction(1, 8)
            return VerdictResult(it.trajectory_id, Verdict.INCORRECT, *numbers, "said")

    with ntmem.open() as memory:
        trajectory = memory.bank.begin("a")
        result = memory.bank.judge(trajectory.id, judge=Judge())
        assert [type(it) for it in (result.error, result.accuracy, result.confidence)] == [float] * 3
        [kept] = memory.trajectories.get(trajectory.id).verdicts  # type: ignore[union-attr]
        assert (kept.judge, kept.error, kept.accuracy, kept.confidence) == ("Judge", 0.5, 0.25, 0.125)


# ---- calibration ----


def test_calibration_by_hand() -> None:
    report = calibrate([0.95, 0.95, 0.95, 0.95, 0.15, 0.15, 1.0, 0.0], [1, 1, 1, 0, 0, 1, 1, 0], bins=10)
    assert [(it.low, it.count, it.share) for it in report.bins] == [(0.0, 1, 0.0), (0.1, 2, 0.5), (0.9, 5, 0.8)]
    assert report.brier == pytest.approx((3 * 0.0025 + 0.9025 + 0.0225 + 0.7225) / 8)
    assert report.expected_calibration_error == pytest.approx((2 * 0.35 + 5 * abs(0.8 - 0.96)) / 8)
    assert report.bins[2].interval == wilson(4, 5)
    assert "Brier 0.2069" in report._repr_html_()


def test_calibration_of_the_calibrated() -> None:
    rng = np.random.default_rng(1)
    said = rng.random(20_000)
    report = calibrate(said.tolist(), (rng.random(20_000) < said).tolist())
    assert report.expected_calibration_error < 0.02
    assert report.brier == pytest.approx(1 / 6, abs=0.01)


def test_calibration_is_checked() -> None:
    for said, so in (([], []), ([0.5], []), ([1.5], [True]), ([float("nan")], [True])):
        with pytest.raises(ValueError, match=r"confidence"):
            calibrate(said, so)


def test_a_picture_without_the_library(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.delitem(sys.modules, "matplotlib.figure", raising=False)
    with pytest.raises(ModuleNotFoundError, match=r"a picture needs matplotlib: pip install 'ntmem\[plots\]'"):
        calibrate([0.2], [False]).plot()


def test_a_picture(tmp_path: Any) -> None:
    pytest.importorskip("matplotlib")
    axes = calibrate([0.2, 0.9], [False, True]).plot()
    assert axes.get_xlabel() == "confidence"
    axes.figure.savefig(tmp_path / "curve.png")
    assert (tmp_path / "curve.png").stat().st_size > 1000
