"""Which episodes are run, in which order, and with which choices: all follow from one seed.

A lane is a process that runs one episode after the other. The next one is of the kind that is furthest behind what is
wanted, so that any time box gives each kind its share.
"""

from __future__ import annotations

import shutil
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any, Final

import episodes as e
from nursery import Family
from powerloss import power_lost

from ntmem._core.failpoints import failpoints

RANDOM, FAILPOINT, ALL, POWER, LINEAR = "random", "failpoints", "all-at-once", "power-loss", "one-order"
WANTED: Final = {RANDOM: 100, FAILPOINT: 4 * len(failpoints()), ALL: 20, POWER: 30, LINEAR: 10}
"""Episodes of a full run."""
KILLS, POINT_KILLS, POINT_STOPS, ROUNDS, COPIES, LINEAR_KILLS = 100, 50, 13, 10, 10, 24


class Lane:
    """Runs its share of the episodes; `tell` is given a report of each."""

    def __init__(
        self,
        name: str,
        seed: int,
        wanted: dict[str, float],
        place: Path,
        tell: Callable[[dict[str, Any]], None],
        points: tuple[str, ...],
    ) -> None:
        self.name, self.seed, self.wanted, self.place, self.tell, self.points = name, seed, wanted, place, tell, points
        self.done: Counter[str] = Counter()
        self.first = Random(f"{seed}/{name}").randrange(len(points))

    def run(self, until: float) -> None:
        while time.monotonic() < until:
            kind = min(self.wanted, key=lambda kind: self.done[kind] / self.wanted[kind])
            self.tell(self.run_one(kind, self.done[kind]))
            self.done[kind] += 1

    def run_one(self, kind: str, number: int) -> dict[str, Any]:
        """Run an episode; return its report."""
        episode = f"{self.name}/{kind}/{number}"
        chance = Random(f"{self.seed}/{episode}")
        on_disk = chance.random() < 0.05
        place = Path(tempfile.mkdtemp(prefix="crash-", dir=None if on_disk else self.place))
        counts: Counter[str] = Counter()
        report: dict[str, Any] = {"episode": episode, "kind": kind, "place": str(place), "faults": []}
        begun = time.monotonic()
        try:
            with Family(place / "it", chance, **options_of(kind, chance)) as family:
                found = self._act(kind, number, family, counts, report)
                report |= {"faults": family.faults, "waits": found.get("waits")}
                counts["acknowledged"] = found["acknowledged"]
        except Exception:
            report["faults"] = [*report["faults"], traceback.format_exc()]
        if not report["faults"]:
            shutil.rmtree(place)
        return report | {"counts": counts, "seconds": time.monotonic() - begun, "on disk": on_disk}

    def _act(
        self, kind: str, number: int, family: Family, counts: Counter[str], report: dict[str, Any]
    ) -> dict[str, Any]:
        report["faults"] = family.faults
        if kind == RANDOM:
            return e.killed_at_random(family, KILLS, counts)
        if kind == FAILPOINT:
            report["point"] = point = self.points[(number + self.first) % len(self.points)]
            return e.at_a_failpoint(family, point, POINT_KILLS, POINT_STOPS, counts)
        if kind == ALL:
            return e.killed_all_at_once(family, ROUNDS, counts)
        if kind == POWER:
            return power_lost(family, COPIES, counts)
        return e.linearizable(family, LINEAR_KILLS, counts)


def options_of(kind: str, chance: Random) -> dict[str, Any]:
    """Choose how the store of an episode is opened and what its workers do."""
    options: dict[str, Any] = {
        "log_bytes": chance.choice(e.SMALL_LOGS),
        "flush_interval": chance.choice((0.0002, 0.001, 0.005, 0.05)),
        "reads": chance.choice((0, 1, 1, 3)),
        "cache_bytes": chance.choice(e.SMALL_CACHES),
    }
    if kind == RANDOM and chance.random() < 0.4:  # nobody waits for room, so waits tell something
        options |= {"log_bytes": e.LARGE_LOG, "past": 0, "flushes": 0}
    if kind == POWER:  # commits are those of the flusher alone
        options |= {"past": 0, "flushes": 4}
    if kind == FAILPOINT:
        options |= {"reads": 3}
    return options
