"""What can be reached: agents that are told how the market works, and a sketch of one that is not.

Those of class `Told` get the market itself, so they are no rivals: they say how much of the regret is left to whom.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from agents import Decision
from market import ACTIONS, COSTS, DRIVEN, LASTS, MEMORY, REGIMES, Market, expected_rewards, magnitudes

Array = np.ndarray[Any, Any]

STAYS = np.full((REGIMES, REGIMES), 1 / LASTS / (REGIMES - 1))
np.fill_diagonal(STAYS, 1 - 1 / LASTS)


class Told:
    """Knows how regimes look and how they follow each other, and so how probable each is, from all situations so far.

    The forward recursion of a hidden Markov model (Rabiner 1989), with noise that remembers: what is seen has the
    density of e_i - 0.5 e_{i-1}, given this regime and the last.
    """

    def __init__(self, market: Market, seed: int):
        self._market = market
        self._chance = np.random.default_rng(seed)
        self._probable = np.full(REGIMES, 1 / REGIMES)
        self._noise: Array | None = None

    def probable(self, situation: Array) -> Array:
        """Return the probability of each regime, float64 (8,)."""
        noise = situation[:DRIVEN] - self._market.centres
        if self._noise is None:
            likely = ((noise**2).sum(axis=1) / -2)[np.newaxis]
        else:
            fresh = noise - MEMORY * self._noise[:, np.newaxis]
            likely = (fresh**2).sum(axis=2) / (-2 * (1 - MEMORY**2))
        joint = self._probable[:, np.newaxis] * STAYS * np.exp(likely - likely.max())
        self._noise, self._probable = noise, joint.sum(axis=0) / joint.sum()
        return self._probable


class Rules(Told):
    """Knows the rewards too, and when they change: all but the regime itself."""

    def decide(self, situation: Array, now: int) -> int:
        later = int(now >= self._market.ts[self._market.change])
        earned = expected_rewards(self._market.kinds[later], np.tile(situation, (REGIMES, 1)))
        return int(np.argmax(self.probable(situation) @ earned))

    def learn(self, decision: Decision, reward: float, now: int) -> None:
        pass


class Looks(Told):
    """Has to learn what each action earns in each regime, and to forget it.

    Thompson sampling: normal with the mean s / (n + 1) and the deviation `width` / sqrt(n + 1), for each regime and
    action. What was learnt of a regime counts `keeps` as much after each of its outcomes.
    """

    def __init__(self, market: Market, seed: int, width: float = 0.5, keeps: float = 0.98):
        super().__init__(market, seed)
        self._width, self._keeps = width, keeps
        self._counts, self._sums = np.zeros((2, REGIMES, len(ACTIONS)))
        self._seen: dict[int, tuple[int, float]] = {}

    def decide(self, situation: Array, now: int) -> int:
        probable, magnitude = self.probable(situation), float(magnitudes(situation))
        self._seen[now] = int(np.argmax(probable)), magnitude
        counts = self._counts + 1
        sampled = self._sums / counts + self._width / np.sqrt(counts) * self._chance.standard_normal(counts.shape)
        return int(np.argmax(probable @ sampled * magnitude - COSTS))

    def learn(self, decision: Decision, reward: float, now: int) -> None:
        (regime, magnitude), action = self._seen.pop(decision.ts), decision.action
        self._counts[regime] *= self._keeps
        self._sums[regime] *= self._keeps
        self._counts[regime, action] += magnitude**2
        self._sums[regime, action] += magnitude * (reward + COSTS[action])


class Clusters:
    """Is told nothing: k-means of all situations so far, and for each cluster upper bounds of what actions earn.

    Every `every` situations the centres are moved and the outcomes counted anew. What was learnt of a cluster counts
    `keeps` as much after each of its outcomes.
    """

    def __init__(
        self,
        actions: Sequence[str],
        dimensions: int,
        seed: int,
        clusters: int = 12,
        width: float = 0.5,
        keeps: float = 0.98,
        first: int = 100,
        every: int = 250,
    ):
        self._actions, self._clusters, self._width, self._keeps = len(actions), clusters, width, keeps
        self._first, self._every = first, every
        self._chance = np.random.default_rng(seed)
        self._situations: list[Array] = []
        self._outcomes: list[tuple[Decision, float]] = []
        self._centres: Array | None = None

    def decide(self, situation: Array, now: int) -> int:
        self._situations.append(situation)
        count = len(self._situations)
        if count == self._first or (count > self._first and count % self._every == 0):
            self._distil()
        if self._centres is None:
            return int(self._chance.integers(self._actions))
        cluster = nearest(self._centres, situation[np.newaxis])[0]
        counts = self._counts[cluster] + 1
        return int(np.argmax(self._sums[cluster] / counts + self._width / np.sqrt(counts)))

    def learn(self, decision: Decision, reward: float, now: int) -> None:
        self._outcomes.append((decision, reward))
        if self._centres is not None:
            self._count(nearest(self._centres, decision.situation[np.newaxis])[0], decision.action, reward)

    def _count(self, cluster: int, action: int, reward: float) -> None:
        self._counts[cluster] *= self._keeps
        self._sums[cluster] *= self._keeps
        self._counts[cluster, action] += 1
        self._sums[cluster, action] += reward

    def _distil(self) -> None:
        rows = np.array(self._situations)
        centres = spread(rows, self._clusters, self._chance) if self._centres is None else self._centres
        self._centres = settled(rows, centres)
        self._counts, self._sums = np.zeros((2, self._clusters, self._actions))
        if self._outcomes:
            places = nearest(self._centres, np.array([decision.situation for decision, _ in self._outcomes]))
            for cluster, (decision, reward) in zip(places, self._outcomes, strict=True):
                self._count(cluster, decision.action, reward)


def nearest(centres: Array, rows: Array) -> Array:
    """Return the number of the centre that is nearest to each row, int64 (n,)."""
    numbers: Array = np.argmin((centres**2).sum(axis=1) - 2 * rows @ centres.T, axis=1)
    return numbers


def spread(rows: Array, count: int, chance: np.random.Generator) -> Array:
    """Return rows to begin with, far from each other: k-means++ (Arthur and Vassilvitskii, SODA 2007)."""
    centres = [rows[0]]
    while len(centres) < count:
        distances = np.min([((rows - centre) ** 2).sum(axis=1) for centre in centres], axis=0)
        centres.append(rows[chance.choice(len(rows), p=distances / distances.sum())])
    return np.array(centres)


def settled(rows: Array, centres: Array, steps: int = 10) -> Array:
    """Return centres that Lloyd's algorithm has moved."""
    centres = centres.copy()
    for _ in range(steps):
        places = nearest(centres, rows)
        for number in np.unique(places):
            centres[number] = rows[places == number].mean(axis=0)
    return centres
