"""Verdicts of the bank deserve the confidence they have, where the expectation of every outcome is known."""

import calibration
from market import LEVELS, make

from ntmem import ScaledJudge

SEEDS = (10, 11, 12)


def test_confidence_holds():
    """In the first hours too, when little is known; ``benches/scenario/calibration.py`` judges whole markets."""
    parts = [
        calibration.judged(make(seed, level), ScaledJudge(), 1500) for seed, level in zip(SEEDS, LEVELS, strict=True)
    ]
    found = calibration.merged(parts)
    report = found.report()
    assert report.count > 4400
    assert report.expected_calibration_error < 0.05
    share = sum(found.right) / report.count
    assert report.brier < 0.8 * share * (1 - share)  # of who says the same of all
    assert len(report.bins) >= 8
