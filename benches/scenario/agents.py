"""Agents that learn from their own outcomes, and two that do not: what a memory is compared with.

Each is made anew for every seed, `Agent(actions, dimensions, seed)`, and is told nothing but what `Agent` says.
Settings are the defaults of their constructors; how they were chosen is in docs/design/yardstick.md.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np

Array = np.ndarray[Any, Any]


class Decision(NamedTuple):
    number: int
    ts: int  # ns UTC
    ts_known: int  # ns UTC, when its outcome was known
    situation: Array  # float64 (dimensions,), read-only
    action: int


class Agent(Protocol):
    """What the yardstick asks of an agent; it calls `close()` too, where there is one.

    Actions are numbers, places in the list of their names. `now` is in ns UTC and never falls.
    """

    def __init__(self, actions: Sequence[str], dimensions: int, seed: int): ...

    def decide(self, situation: Array, now: int) -> int:
        """Return the action to take in a situation, float64 (dimensions,), read-only."""

    def learn(self, decision: Decision, reward: float, now: int) -> None:
        """Take the outcome of one of its decisions, known by now. Outcomes come in the order of `ts_known`."""


class NoMemory:
    """Takes each action with the same probability."""

    def __init__(self, actions: Sequence[str], dimensions: int, seed: int):
        self._actions = len(actions)
        self._chance = np.random.default_rng(seed)

    def decide(self, situation: Array, now: int) -> int:
        return int(self._chance.integers(self._actions))

    def learn(self, decision: Decision, reward: float, now: int) -> None:
        pass


class AlwaysHold:
    """Does nothing, which costs nothing."""

    def __init__(self, actions: Sequence[str], dimensions: int, seed: int):
        self._hold = actions.index("hold")

    def decide(self, situation: Array, now: int) -> int:
        return self._hold

    def learn(self, decision: Decision, reward: float, now: int) -> None:
        pass


class NearestNeighbours:
    """Takes the action with the highest upper bound among the `k` nearest of the last `window` outcomes.

    Distances are Euclidean and all are computed. Of an action with n of these outcomes, whose rewards add up to s, the
    bound is s / (n + 1) + width / sqrt(n + 1): after the k-NN UCB of Reeve, Mellor and Brown (ALT 2018).
    """

    def __init__(
        self, actions: Sequence[str], dimensions: int, seed: int, k: int = 30, width: float = 0.125, window: int = 1500
    ):
        self._actions, self._k, self._width, self._window = len(actions), k, width, window
        self._situations = np.zeros((window, dimensions))
        self._rewards = np.zeros(window)
        self._taken = np.zeros(window, np.int64)
        self._count = 0

    def decide(self, situation: Array, now: int) -> int:
        found, sums = self.neighbours(situation)
        counts = found + 1
        return int(np.argmax(sums / counts + self._width / np.sqrt(counts)))

    def neighbours(self, situation: Array) -> tuple[Array, Array]:
        """Return how many of the nearest outcomes are of each action, and the sums of their rewards."""
        count = min(self._count, self._window)
        held = self._situations[:count]
        near: Any = slice(count)
        if count > self._k:
            distances = np.einsum("ij,ij->i", held, held) - held @ (2 * situation)
            near = np.argpartition(distances, self._k)[: self._k]
        taken = self._taken[near]
        sums = np.bincount(taken, self._rewards[near], self._actions)
        return np.bincount(taken, minlength=self._actions), sums

    def learn(self, decision: Decision, reward: float, now: int) -> None:
        place = self._count % self._window
        self._situations[place], self._rewards[place], self._taken[place] = decision.situation, reward, decision.action
        self._count += 1


class Linear:
    """A linear model of each action by MABWiser, with a constant, fitted whenever `batch` outcomes have come.

    With a `window` it is fitted anew to so many of the last outcomes, otherwise to all there were. Until the first fit
    actions are random.
    """

    def __init__(self, actions: Sequence[str], seed: int, policy: Any, window: int | None, batch: int):
        from mabwiser.mab import MAB

        self._model = MAB(list(range(len(actions))), policy, seed=seed)
        self._chance = np.random.default_rng(seed)
        self._actions, self._window, self._batch = len(actions), window, batch
        self._last: deque[tuple[int, float, Array]] = deque(maxlen=window or batch)
        self._count = 0

    def decide(self, situation: Array, now: int) -> int:
        if self._count < self._batch:
            return int(self._chance.integers(self._actions))
        return int(self._model.predict(np.append(situation, 1.0)[np.newaxis]))

    def learn(self, decision: Decision, reward: float, now: int) -> None:
        self._last.append((decision.action, reward, np.append(decision.situation, 1.0)))
        self._count += 1
        if self._count % self._batch == 0:
            goes_on = self._window is None and self._count > self._batch
            fit = self._model.partial_fit if goes_on else self._model.fit
            fit(*(np.array(column) for column in zip(*self._last, strict=True)))


class LinUCB(Linear):
    """The highest upper bound of linear models (Li et al., WWW 2010)."""

    def __init__(
        self,
        actions: Sequence[str],
        dimensions: int,
        seed: int,
        alpha: float = 0.03,
        ridge: float = 1.0,
        window: int | None = 1500,
        batch: int = 20,
    ):
        from mabwiser.mab import LearningPolicy

        super().__init__(actions, seed, LearningPolicy.LinUCB(alpha=alpha, l2_lambda=ridge), window, batch)


class LinTS(Linear):
    """Thompson sampling of linear models (Agrawal and Goyal, ICML 2013)."""

    def __init__(
        self,
        actions: Sequence[str],
        dimensions: int,
        seed: int,
        alpha: float = 0.3,
        ridge: float = 1.0,
        window: int | None = 1500,
        batch: int = 20,
    ):
        from mabwiser.mab import LearningPolicy

        super().__init__(actions, seed, LearningPolicy.LinTS(alpha=alpha, l2_lambda=ridge), window, batch)
