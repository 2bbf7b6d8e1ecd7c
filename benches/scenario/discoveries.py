"""How often the bank finds patterns where there are none: on the shuffled twins of markets, and on the markets.

``python benches/scenario/discoveries.py [--seeds 100] [--level usual] [--judge]``. What a random agent saw becomes
trajectories, which are distilled ten times on the way, as somebody who keeps looking does. A pattern counts if its
strength is above 0.5 at any of these times. On the markets themselves a tenth as many seeds are taken.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable

import numpy as np
from market import ACTIONS, LEVELS
from yardstick import TRAINING, History, discoveries, judging

import ntmem

LOOKS = 10


class Bank:
    """Returns the patterns that a bank finds in a history, and keeps the highest strengths."""

    def __init__(self) -> None:
        self.strengths: list[float] = []

    def __call__(self, seen: History) -> list[str]:
        """Return the ids of the patterns with a strength above 0.5 at any time."""
        clock = ntmem.SimulatedClock(int(seen.ts[0]))
        found: dict[str, float] = {}
        with ntmem.open(clock=clock) as memory:
            order = np.argsort(seen.ts_known, kind="stable")
            for part in np.array_split(order, LOOKS):
                for number in part.tolist():
                    at, known = int(seen.ts[number]), int(seen.ts_known[number])
                    it = ntmem.Trajectory("agent", "trade", ts_event=at, ts_known=at)
                    it.add_observation({}, seen.situations[number], ts_event=at, ts_known=at)
                    it.add_action(ACTIONS[seen.actions[number]], ts_event=at, ts_known=at)
                    it.add_outcome(float(seen.rewards[number]), ts_event=known, ts_known=known)
                    clock.set(max(clock.now(), known))
                    memory.track_trajectory(it)
                for pattern in memory.bank.distill():
                    found[pattern.id] = max(found.get(pattern.id, 0.0), pattern.strength)
        self.strengths.append(max(found.values(), default=0.0))
        return [name for name, strength in found.items() if strength > 0.5]


def report(level: str, seeds: Iterable[int], *, twin: bool) -> None:
    """Print what is found."""
    bank = Bank()
    found = discoveries(bank, level, seeds, twin=twin)
    what = "shuffled twins" if twin else "markets"
    print(
        f"{level}, {len(found.counts)} {what}: some pattern in {found.rate} of them, {np.mean(found.counts):.1f} in "
        f"the mean, highest strength {max(bank.strengths):.3f}, median of the highest {np.median(bank.strengths):.3f}",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=100)
    parser.add_argument("--level", default="usual", choices=LEVELS)
    parser.add_argument("--judge", action="store_true", help="seeds that are for judging only")
    arguments = parser.parse_args()
    seeds = judging(arguments.seeds) if arguments.judge else tuple(range(arguments.seeds))
    real = judging(max(1, arguments.seeds // 10)) if arguments.judge else TRAINING[: max(1, arguments.seeds // 10)]
    report(arguments.level, seeds, twin=True)
    report(arguments.level, real, twin=False)


if __name__ == "__main__":
    main()
