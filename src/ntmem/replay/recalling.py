"""What an agent recalls: its own situations as vectors, found again as of any step.

The collection ``swarm/NAME`` has a vector for each situation whose outcome is known: the window of returns, by
distance, with the step and the outcome as metadata, known from the step that resolved it.

**Invariants**

1. No look-ahead: a step recalls what was resolved before it, and nothing that another store than the one of that time
   would have had.
2. A vector is added before the step that resolves it is committed. A step that is done again adds it again, in the
   place of itself.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from ..system import MemorySystem

if TYPE_CHECKING:
    from numpy.typing import NDArray

_CHECKED = 64
"""Predictions of an agent that are recalled again at the end."""
_NEAR = 1e-5
"""Distances are this close to what float64 makes of them, of 1 and the distance itself."""


class Recalled(NamedTuple):
    """A situation of the past that resembles the present one."""

    step: int
    similarity: float
    """In (0, 1]; 1 is equal."""
    outcome: float
    """The log return that followed."""


class Situations:
    """The situations of one agent whose outcome is known."""

    def __init__(self, memory: MemorySystem, namespace: tuple[str, ...], window: int) -> None:
        self._vectors = memory.vectors
        self._namespace = namespace
        self._window = window
        self._vectors.create(namespace, window, metric="l2", dtype="float32")

    def add(self, step: int, situation: NDArray[np.float32], outcome: float, *, resolved: int, ts_known: int) -> None:
        """Add a situation, which the step `resolved` has found the outcome of."""
        metadata = {"step": step, "outcome": outcome, "resolved": resolved}
        self._vectors.add(self._namespace, f"{step:010d}", situation, metadata, ts_known=ts_known)

    def recall(self, situation: NDArray[np.float32], k: int, *, step: int, as_of: int) -> list[Recalled]:
        """Return the most similar situations that were resolved before a step, most similar first."""
        where = {"resolved": {"$lt": step}}  # what was resolved in it has its time, too
        found = self._vectors.search(self._namespace, situation, k, where=where, as_of=as_of)
        size = 2 * self._window
        return [Recalled(it.metadata["step"], math.exp(it.score / size), it.metadata["outcome"]) for it in found]


# -- the end


def recalled_wrongly(memory: MemorySystem, namespace: tuple[str, ...], horizon: int, k: int) -> tuple[int, list[str]]:
    """Compare what predictions say was recalled with the nearest of all records; return how many, and what is wrong.

    A sample of steps, by float64 over what was known before each.
    """
    situations = numbered(memory, namespace, "situations")
    predictions = numbered(memory, namespace, "predictions")
    chosen = sorted(predictions)[:: max(1, len(predictions) // _CHECKED)]
    steps = np.array(sorted(situations))
    windows = np.array([situations[step] for step in steps.tolist()], np.float64)
    problems = []
    for step in chosen:
        known = windows[steps + horizon < step]
        distances = ((known - np.asarray(situations[step], np.float64)) ** 2).sum(axis=1)
        recalled = predictions[step]["recalled"]
        places = np.searchsorted(steps, recalled)
        if len(recalled) != min(k, len(known)) or (places >= len(known)).any() or len(set(recalled)) < len(recalled):
            problems.append(f"step {step} recalled {recalled}, of {len(known)} situations known by then")
        elif not np.allclose(distances[places], np.sort(distances)[: len(recalled)], rtol=_NEAR, atol=_NEAR):
            problems.append(f"step {step} recalled {recalled}, which are not the nearest known by then")
    return len(chosen), problems


def numbered(memory: MemorySystem, namespace: tuple[str, ...], below: str) -> dict[int, Any]:
    """Return what an agent keeps of steps, by their numbers."""
    return {int(key): value for key, value in memory.namespace(*namespace, below).scan()}
