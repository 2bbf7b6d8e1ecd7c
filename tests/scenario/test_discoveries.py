"""A bank finds patterns in a market, and none in its shuffled twin, in which there are none.

``NTMEM_DISCOVERY_SEEDS`` says how many twins there are.
"""

import os

import market as markets
import numpy as np
import pytest
import yardstick

import ntmem

SEEDS = int(os.environ.get("NTMEM_DISCOVERY_SEEDS", "3"))
DECISIONS = 2000
STEPS = 4
FIRST = 100  # seeds that nothing was tuned on


def found(seed, level, *, twin):
    """Return the patterns that are more than chance, each time that a bank has distilled what a random agent saw."""
    market = markets.make(seed, level, decisions=DECISIONS)
    history = yardstick.history(markets.shuffle(market) if twin else market)
    clock, after = ntmem.SimulatedClock(int(history.ts[0])), []
    with ntmem.open(clock=clock) as memory:
        for part in np.array_split(np.arange(DECISIONS), STEPS):
            for number in part:
                known = {"ts_known": int(history.ts[number])}
                made = ntmem.Trajectory("agent", "trade", **known)
                made.add_observation(None, history.situations[number], **known)
                made.add_action(markets.ACTIONS[history.actions[number]], **known)
                made.add_outcome(float(history.rewards[number]), ts_known=int(history.ts_known[number]))
                memory.track_trajectory(made)
            clock.set(int(history.ts_known[: part[-1] + 1].max()))
            memory.bank.distill()
            after.append([*memory.bank.patterns(min_strength=0.5000001)])
        assert sum(it.support for it in memory.bank.patterns(min_support=0)) == DECISIONS
    return after


@pytest.mark.parametrize("seed", range(FIRST, FIRST + SEEDS))
def test_nothing_is_found_in_a_twin(seed):
    level = list(markets.LEVELS)[seed % len(markets.LEVELS)]
    assert [len(each) for each in found(seed, level, twin=True)] == [0] * STEPS


def test_something_is_found_in_a_market():
    after = found(FIRST, "usual", twin=False)
    assert len(after[-1]) >= 4
    assert {it.pattern_type for it in after[-1]} == {"success", "failure"}
    effects = [(it.metadata["effect"], it.pattern_type) for it in after[-1]]
    assert all((effect > 0) == (kind == "success") for effect, kind in effects)
    assert all("more than chance" in it.content and not it.title.startswith("unproven") for it in after[-1])
