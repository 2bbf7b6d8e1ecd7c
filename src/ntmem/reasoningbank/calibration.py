"""Whether confidence is what it says: of what was said with 70 % confidence, 70 % should be so."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from .._core.text import html_rows
from ..instants import require_int
from .checks import require_number

_Z = 1.959963984540054  # the normal quantile of a two-sided 95 %


def wilson(hits: float, count: int, z: float = _Z) -> tuple[float, float]:
    """Return the interval of a share by Wilson's score; of nothing: (0, 1).

    ``(p + z²/2n ± z sqrt(p(1-p)/n + z²/4n²)) / (1 + z²/n)``: E. B. Wilson, "Probable inference, the law of succession,
    and statistical inference", Journal of the American Statistical Association 22 (1927).

    Examples
    --------
    >>> [round(bound, 4) for bound in wilson(9, 10)]
    [0.5958, 0.9821]
    """
    if not count:
        return 0.0, 1.0
    share, square = hits / count, z * z / count
    middle = share + square / 2
    spread = z * math.sqrt(share * (1 - share) / count + square / (4 * count))
    return max(0.0, (middle - spread) / (1 + square)), min(1.0, (middle + spread) / (1 + square))


@dataclass(frozen=True)
class Bin:
    """Some of what was said with about the same confidence.

    Attributes
    ----------
    low, high : float
        Confidence from `low` to below `high`; in the last bin up to 1.
    count : int
    confidence, share : float
        The mean of what was said, and the share of it that was so.
    interval : tuple of float
        Wilson's, of the share, 95 %.
    """

    low: float
    high: float
    count: int
    confidence: float
    share: float
    interval: tuple[float, float]


@dataclass(frozen=True)
class CalibrationReport:
    """How far confidence can be trusted. Made by :func:`calibrate`.

    Attributes
    ----------
    count : int
    brier : float
        The mean of ``(confidence - was_so)²``: 0 is perfect, 0.25 what a coin gets by always saying 0.5 (G. W. Brier,
        "Verification of forecasts expressed in terms of probability", Monthly Weather Review 78, 1950).
    expected_calibration_error : float
        The mean of ``|share - confidence|`` of the bins, by their counts (Naeini, Cooper, Hauskrecht, "Obtaining well
        calibrated probabilities using Bayesian binning", AAAI 2015).
    bins : tuple of Bin
        The reliability curve; bins of nothing are left out.
    """

    count: int
    brier: float
    expected_calibration_error: float
    bins: tuple[Bin, ...]

    def _repr_html_(self) -> str:
        rows = [
            (
                f"{each.low:.2f} to {each.high:.2f}",
                str(each.count),
                f"{each.confidence:.3f}",
                f"{each.share:.3f}",
                f"{each.interval[0]:.3f} to {each.interval[1]:.3f}",
            )
            for each in self.bins
        ]
        caption = f"{self.count} judged, Brier {self.brier:.4f}, ECE {self.expected_calibration_error:.4f}"
        return html_rows(caption, ("said", "count", "mean", "was so", "95 %"), rows)

    def plot(self, axes: Any = None) -> Any:
        """Draw the reliability curve with its intervals and return the axes; needs matplotlib (extra ``plots``)."""
        if axes is None:
            try:
                figures = import_module("matplotlib.figure")  # of its own: pyplot would keep it, and choose a window
            except ModuleNotFoundError as error:
                if (error.name or "").partition(".")[0] != "matplotlib":
                    raise
                raise ModuleNotFoundError(
                    "a picture needs matplotlib: pip install 'ntmem[plots]'", name="matplotlib"
                ) from None
            axes = figures.Figure(figsize=(4, 4), layout="constrained").subplots()
        said, found = [each.confidence for each in self.bins], [each.share for each in self.bins]
        below = [max(each.share - each.interval[0], 0.0) for each in self.bins]
        above = [max(each.interval[1] - each.share, 0.0) for each in self.bins]
        axes.plot([0, 1], [0, 1], color="0.6", linewidth=1, linestyle="--")
        axes.errorbar(said, found, yerr=[below, above], marker="o", capsize=3)
        axes.set(xlim=(0, 1), ylim=(0, 1), xlabel="confidence", ylabel="share that was so", aspect="equal")
        axes.set_title(f"Brier {self.brier:.3f}, ECE {self.expected_calibration_error:.3f}, n {self.count}")
        return axes


def calibrate(confidence: Sequence[float], was_so: Sequence[bool], *, bins: int = 10) -> CalibrationReport:
    """Return how well confidence agrees with what was so.

    Parameters
    ----------
    confidence : sequence of float
        From 0 to 1, such as the confidence of verdicts, or a predicted probability.
    was_so : sequence of bool
        Whether it was so, such as whether a verdict still held when all outcomes were known.
    bins : int
        Of equal width.

    Examples
    --------
    >>> report = calibrate([0.9, 0.9, 0.1, 0.1], [True, False, False, False], bins=2)
    >>> round(report.brier, 4), round(report.expected_calibration_error, 4)
    (0.21, 0.25)
    """
    require_int(bins, "bins", 1, 1_000_000)
    if len(confidence) != len(was_so) or not len(confidence):
        raise ValueError(f"needs as many outcomes as confidences, and some; were {len(confidence)} and {len(was_so)}")
    said = [require_number(each, "confidence", least=0, most=1) for each in confidence]
    so = [float(bool(each)) for each in was_so]
    groups: dict[int, list[tuple[float, float]]] = {}
    for each in zip(said, so, strict=True):
        groups.setdefault(min(int(each[0] * bins), bins - 1), []).append(each)
    made = []
    for place, group in sorted(groups.items()):
        hits, size = math.fsum(was for _, was in group), len(group)
        mean = math.fsum(each for each, _ in group) / size
        made.append(Bin(place / bins, (place + 1) / bins, size, mean, hits / size, wilson(hits, size)))
    count = len(said)
    brier = math.fsum((each - was) ** 2 for each, was in zip(said, so, strict=True)) / count
    error = math.fsum(abs(each.share - each.confidence) * each.count for each in made) / count
    return CalibrationReport(count, brier, error, tuple(made))
