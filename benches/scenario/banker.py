"""An agent whose only memory is the ReasoningBank of a store: what a user would write."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from agents import Decision

import ntmem

Array = np.ndarray[Any, Any]


class Banker:
    """Chooses by what the bank knows of such situations, tells it what came, and distils every so many outcomes."""

    def __init__(self, actions: Sequence[str], dimensions: int, seed: int, every: int = 10):
        self._actions, self._every = list(actions), every
        self._chance = np.random.default_rng(seed)
        self._clock: ntmem.SimulatedClock | None = None
        self._waiting: dict[int, str] = {}
        self._learnt = 0

    def decide(self, situation: Array, now: int) -> int:
        """Return the action to take in a situation."""
        if self._clock is None:
            self._clock = ntmem.SimulatedClock(now)
            self.memory = ntmem.open(clock=self._clock)
        self._clock.set(now)
        if self._learnt >= self._every:
            self.memory.bank.distill()
            self._learnt = 0
        decision = self.memory.bank.begin("agent", "trade")
        decision.add_observation({}, situation)
        choice = self.memory.bank.choose(situation, self._actions, trajectory_id=decision.id, seed=self._chance)
        decision.add_action(choice.action)
        self._waiting[now] = decision.id
        return self._actions.index(choice.action)

    def learn(self, decision: Decision, reward: float, now: int) -> None:
        """Take the outcome of a decision."""
        assert self._clock is not None
        self._clock.set(now)
        self.memory.bank.resolve(self._waiting.pop(decision.ts), reward, ts_known=decision.ts_known)
        self._learnt += 1

    def close(self) -> None:
        """Close its store."""
        self.memory.close()
