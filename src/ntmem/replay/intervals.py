"""Did memory help? Differences of prediction errors with an interval that respects their dependence.

Outcomes overlap (the one of a step shares all but one return with the next step's), so steps are not independent
and the usual interval would be far too narrow. The moving-block bootstrap (Künsch 1989) draws blocks of consecutive
steps that are longer than the overlap.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

RESAMPLES = 2_000
LEAST_BLOCKS = 5
BIPS = 1e4


def compare_errors(
    with_memory: NDArray[np.float64], without: NDArray[np.float64], overlap: int, seed: int
) -> dict[str, Any]:
    """Compare absolute errors, step by step, of predictions with and without memory.

    Parameters
    ----------
    with_memory, without : ndarray of float64, shape (steps,)
        Absolute errors as log returns, in order of time.
    overlap : int
        Steps over which outcomes overlap: the longest horizon.
    seed : int
        Of the bootstrap.

    Returns
    -------
    dict
        In basis points: ``error_with``, ``error_without``, ``difference`` (below 0: memory helps), each with a 95 %
        ``..._interval`` that is None if there are fewer than five blocks; ``conclusion``, a sentence.
    """
    count = len(with_memory)
    block = overlap + int(np.ceil(count ** (1 / 3)))
    result: dict[str, Any] = {"steps": count, "block": block}
    series = {"error_with": with_memory, "error_without": without, "difference": with_memory - without}
    enough = count >= LEAST_BLOCKS * block
    means = _block_means(np.stack(list(series.values())), block, seed) if enough else None
    for row, (name, values) in enumerate(series.items()):
        result[name] = float(values.mean()) * BIPS if count else None
        if means is None:
            result[name + "_interval"] = None
        else:
            low, high = np.quantile(means[row], (0.025, 0.975)) * BIPS
            result[name + "_interval"] = [float(low), float(high)]
    result["conclusion"] = _conclusion(result)
    return result


def compare_rewards(
    with_memory: NDArray[np.float64], without: NDArray[np.float64], overlap: int, seed: int
) -> dict[str, Any]:
    """Compare what decisions earned with memory and without, decision by decision.

    Parameters
    ----------
    with_memory, without : ndarray of float64, shape (decisions,)
        Rewards, in order of time.
    overlap : int
        Decisions over which outcomes overlap.
    seed : int
        Of the bootstrap.

    Returns
    -------
    dict
        ``difference`` of the means (above 0: memory helps), its 95 % ``interval``, None if there are fewer than five
        blocks, and the length ``block`` of those.
    """
    count = len(with_memory)
    block = overlap + int(np.ceil(count ** (1 / 3)))
    difference = with_memory - without
    interval = None
    if count >= LEAST_BLOCKS * block:
        means = _block_means(difference[np.newaxis], block, seed)[0]
        interval = [float(each) for each in np.quantile(means, (0.025, 0.975))]
    return {"difference": float(difference.mean()) if count else None, "interval": interval, "block": block}


def _block_means(series: NDArray[np.float64], block: int, seed: int) -> NDArray[np.float64]:
    """Return the means of resampled series, shape (series, RESAMPLES); the same blocks for each series."""
    count = series.shape[1]
    blocks = -(-count // block)
    random = np.random.default_rng(seed)
    offsets = np.arange(block)
    means = np.empty((series.shape[0], RESAMPLES))
    for number in range(RESAMPLES):
        starts = random.integers(0, count - block + 1, blocks)
        chosen = (starts[:, None] + offsets).ravel()[:count]
        means[:, number] = series[:, chosen].mean(axis=1)
    return means


def _conclusion(result: dict[str, Any]) -> str:
    interval = result["difference_interval"]
    if interval is None:
        return (
            f"Not enough data to tell whether memory helps: {result['steps']} steps with a resolved prediction, "
            f"{LEAST_BLOCKS * result['block']} are needed."
        )
    low, high = interval
    span = f"{result['difference']:+.3f} bp, 95 % interval {low:+.3f} to {high:+.3f}"
    if low <= 0 <= high:
        return f"No effect of memory on the error is shown: {span} includes 0, over {result['steps']} steps."
    if high < 0:
        return f"With memory the error is smaller: {span} excludes 0."
    return f"With memory the error is larger: {span} excludes 0; what was recalled misled."
