"""Decisions and what came of them, from which a bank learns patterns."""

from __future__ import annotations

from typing import Any

import numpy as np
from patterns import Kept

import ntmem
from ntmem import DistilledPattern
from ntmem.reasoningbank import ReasoningBank

EAST, NORTH = [1.0, 0.0], [0.0, 1.0]


def decide(
    bank: ReasoningBank,
    action: str = "buy",
    outcome: float | None = None,
    where: Any = EAST,
    *,
    agent: str = "a",
    task: str = "t",
    reference: float | None = None,
    **known: Any,
) -> ntmem.Trajectory:
    """Return a decision, with what came of it if that is given."""
    made = bank.begin(agent, task, **known)
    if where is not None:
        made.add_observation(None, where, **known)
    made.add_action(action, reference=reference, **known)
    if outcome is not None:
        made.add_outcome(outcome, action_id="a1", **known)
    return made


def teach(bank: ReasoningBank, times: int = 12, where: Any = EAST, sign: float = 1.0, **more: Any) -> None:
    """Let "buy" earn 1 more than "hold" in a situation, give or take a tenth."""
    for number in range(times):
        noise = number % 3 / 10
        decide(bank, "buy", sign + noise, where, **more)
        decide(bank, "hold", noise, where, **more)


def pattern(bank: ReasoningBank, action: str = "buy", **asked: Any) -> DistilledPattern:
    """Return the only pattern of an action."""
    [found] = bank.patterns(where={"action": action} | asked.pop("where", {}), min_support=0, **asked)
    return found


def two_kinds(memory: ntmem.MemorySystem, sign: float = 1.0, between: float = 0.6) -> None:
    """Teach two kinds of situations that are one by the usual threshold."""
    chance = np.random.default_rng(1)
    memory.distiller.configure(similarity_threshold=0.99)
    for number in range(30):
        for way, earned in ((1, 1.0), (-1, sign)):
            where = chance.normal([1.0, way * between / 2, 0.0], 0.01)
            decide(memory.bank, "buy", earned + number % 3 / 10, where)
            decide(memory.bank, "hold", -earned + number % 3 / 10, where)
    memory.bank.distill()
    assert len(Kept(memory).live) == 2
    memory.distiller.configure(similarity_threshold=0.8)
