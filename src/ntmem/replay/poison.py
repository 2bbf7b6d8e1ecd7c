"""A poisoned future: trajectories that a store has and nobody may learn from yet, as their outcomes are not known.

Each of them is like a real decision (the same agent and task, a situation near a real one) and its outcome is huge and
opposite to what is so: the action that would have earned most loses, the one that would have earned least gains. All
outcomes are known after the end of the scene. Of every other trajectory nothing is known before, of the others what was
seen and done is known at once. The outcomes of the latest real decisions are corrected so, too, some of them before
they have one.

Whoever let them count before their time would decide otherwise.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from ..instants import NS
from ..reasoningbank import Trajectory
from ..system import MemorySystem
from .scenes import ACTIONS, Scene

if TYPE_CHECKING:
    from numpy.typing import NDArray

AGENT = "agent_1"
DOSES = 3
"""How often it is written: before the first decision, and in the middle."""
DOSE = 60
"""Trajectories each time."""
CORRECTED = 20
"""Real decisions that get a huge outcome each time."""
_HUGE = 1_000.0
"""Rewards, in deviations of real ones."""
_NEAR = 0.01


def times(decisions: int) -> list[int]:
    """Return the numbers of the decisions before which a dose is written."""
    return [decisions * number // DOSES for number in range(DOSES)]


def known_at(scene: Scene) -> int:
    """Return when the last poisoned outcome is known, ns UTC."""
    return int(scene.ts_known[-1]) + (DOSES * DOSE + 1) * NS


def write(memory: MemorySystem, scene: Scene, dose: int, seed: int, made: Sequence[tuple[str, str]]) -> None:
    """Write a dose into a store.

    Parameters
    ----------
    dose : int
        Its number, from 0.
    made : sequence of (str, str)
        Real decisions so far: trajectories and their actions.
    """
    random = np.random.default_rng([seed, 2, dose])
    scale = _HUGE * max(float(scene.rewards.std()), 1e-12)
    now, end = memory.now(), int(scene.ts_known[-1])
    for number, place in enumerate(random.integers(len(scene.ts), size=DOSE).tolist()):
        known = end + (dose * DOSE + number + 1) * NS  # no two at once: what is learnt has an order
        begun = known if number % 2 else now
        noise = _NEAR * random.standard_normal(scene.situations.shape[1])
        action, reward = _opposite(scene.rewards[place], number)
        trajectory = Trajectory(AGENT, scene.name, ts_event=begun, ts_known=begun)
        trajectory.add_observation(
            {}, (scene.situations[place] + noise).astype(np.float32), ts_event=begun, ts_known=begun
        )
        trajectory.add_action(ACTIONS[action], ts_event=begun, ts_known=begun)
        trajectory.add_outcome(reward * scale, ts_event=known, ts_known=known)
        memory.track_trajectory(trajectory)
    for number, (name, action_id) in enumerate(made[-CORRECTED:]):
        known = end + (dose * DOSE + number + 1) * NS + NS // 2
        memory.bank.resolve(name, scale * (-1) ** number, action_id=action_id, ts_event=known, ts_known=known)


def _opposite(rewards: NDArray[np.float64], number: int) -> tuple[int, float]:
    best, worst = int(rewards.argmax()), int(rewards.argmin())
    return (best, -1.0) if number // 2 % 2 else (worst, 1.0)
