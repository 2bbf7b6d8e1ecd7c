"""Adds up the reports of episodes and prints what they amount to."""

from __future__ import annotations

import time
from collections import Counter, defaultdict
from typing import Any

from plan import FAILPOINT


class Totals:
    """What all episodes together have done and found."""

    def __init__(self, points: tuple[str, ...]) -> None:
        self.begun = time.monotonic()
        self.episodes: Counter[str] = Counter()
        self.seconds: Counter[str] = Counter()
        self.counts: dict[str, Counter[str]] = defaultdict(Counter)
        self.points: dict[str, Counter[str]] = {point: Counter() for point in points}
        self.faults: list[str] = []
        self.failed: Counter[str] = Counter()
        self.waits: list[int] = []
        self.excesses = self.explained = 0

    def add(self, report: dict[str, Any]) -> None:
        kind = report["kind"]
        self.episodes[kind] += 1
        self.seconds[kind] += report["seconds"]
        self.counts[kind].update(report["counts"])
        self.counts[kind]["on a disk"] += report["on disk"]
        if "point" in report:
            self.points[report["point"]].update(report["counts"])
        waits = report.get("waits")
        if waits is not None:
            self.waits += waits["longest"]
            self.excesses += waits["excesses"]
            self.explained += waits["explained"]
        if report["faults"]:
            self.failed[kind] += 1
            text = "\n    ".join(report["faults"])
            self.fault(f"{report['episode']} (kept in {report['place']}):\n    {text}")

    def fault(self, what: str) -> None:
        self.faults.append(what)
        print(f"FAULT: {what}", flush=True)

    def line(self) -> str:
        done = ", ".join(f"{kind} {number}" for kind, number in self.episodes.items())
        kills = sum(counts["kills"] for counts in self.counts.values())
        return f"{time.monotonic() - self.begun:5.0f} s: {kills} kills; episodes: {done}; faults {len(self.faults)}"

    def table(self, kinds: list[str]) -> str:
        lines = [f"{'':14}{'episodes':>9}{'seconds':>9}{'failed':>8}  what was done"]
        for kind in kinds:
            counts = ", ".join(f"{name} {number:,}" for name, number in sorted(self.counts[kind].items()))
            lines.append(f"{kind:14}{self.episodes[kind]:9}{self.seconds[kind]:9.0f}{self.failed[kind]:8}  {counts}")
        if FAILPOINT in kinds:
            lines.append("failpoints: kills + stops")
            cells = [f"{name} {count['kills']}+{count['stops']}" for name, count in self.points.items()]
            lines += ["  " + "".join(f"{cell:26}" for cell in cells[at : at + 4]) for at in range(0, len(cells), 4)]
        if self.waits:
            waits = sorted(self.waits)
            p50, p99 = (waits[int(len(waits) * share)] / 1e6 for share in (0.5, 0.99))
            lines.append(
                f"longest wait of each survivor at each kill: {len(waits):,}; ms: p50 {p50:.2f}, p99 {p99:.2f}, max "
                f"{waits[-1] / 1e6:.1f}; above 10 ms: {self.excesses}, of them {self.explained} in the queue for a "
                "processor"
            )
        lines.append("FAILED" if self.faults else "nothing acknowledged was lost, nothing was torn")
        return "\n".join(lines)
