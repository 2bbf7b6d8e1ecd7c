"""What came of decisions, those that patterns advised and those that none did.

A decision is a trajectory with an outcome. What it earned is the mean over its actions of one unit. It was advised if
patterns were recalled for it before an outcome of one of them: so credits have it. Formulas:

- The interval of a mean is Student's; its quantile is the expansion of Fisher and Cornish (Abramowitz and Stegun
  26.7.5), right to 0.03 from four values on. That of a difference of means is Welch's.
- Intervals of shares are Wilson's.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, NamedTuple

from .calibration import wilson
from .events import Acted, Advised, Begun, Event, Judged, Resolved
from .figures import Facet, Group, Mean, Period, Share
from .learning import earned, worth
from .shelf import Cluster, cluster_of, is_pattern
from .verdict import Verdict

if TYPE_CHECKING:
    from .tracker import TrajectoryTracker
    from .trajectory import Trajectory

_PAGE = 1000
_Z = 1.959963984540054  # the normal quantile of a two-sided 95 %
_PERIODS, _EACH = 12, 10  # a period has so many decisions at least, if there are as many
_FEWEST = 3  # values that a mean has an interval from


class Decision(NamedTuple):
    """What came of a trajectory in one unit; `verdict` is its last, None: none, or that it cannot be judged."""

    ts: int
    value: float
    was_advised: bool
    verdict: str | None


def latest(tracker: TrajectoryTracker, limit: int, most: int) -> Iterator[Trajectory]:
    """Yield the latest trajectories, as they were seen at an instant."""
    cursor: str | None = None
    while most > 0:
        page = tracker.find(as_of=limit, limit=min(_PAGE, most), cursor=cursor)
        yield from page.trajectories
        most -= len(page.trajectories)
        cursor = page.cursor
        if cursor is None:
            return


class Reading:
    """What trajectories add up to; `version` returns a kind of situation as it was known from an instant on."""

    def __init__(self, direction: Mapping[str, float], version: Callable[[str, int], Cluster | None]) -> None:
        names = ("trajectories", "actions", "outcomes", "asked", "advised", "decisions")
        self.totals = dict.fromkeys([*names, *(each.value for each in Verdict)], 0)
        self.agents: set[str] = set()
        self.tasks: set[str] = set()
        self.decisions: dict[tuple[str, str], list[Decision]] = {}
        self.advice: list[tuple[float, bool]] = []
        self.verdicts: list[tuple[float, bool]] = []
        self._direction = direction
        self._version = version

    def take(self, it: Trajectory) -> None:
        events = list(it.events())
        begun = events[0]
        assert isinstance(begun, Begun)
        actions = {each.id: each for each in events if isinstance(each, Acted)}
        latest = it.latest_outcomes()
        came = {
            name: earned(latest[name].value, each.type, each.reference, self._direction)
            for name, each in actions.items()
            if name in latest
        }
        judged = [each for each in events if isinstance(each, Judged)]
        asked = [each for each in events if isinstance(each, Advised)]
        self.agents.add(it.agent_id)
        self.tasks.add(it.task)
        totals = self.totals
        totals["trajectories"] += 1
        totals["actions"] += len(actions)
        totals["outcomes"] += len(came)
        totals["asked"] += len(asked) > 0
        totals["advised"] += any(each.patterns for each in asked)
        totals["decisions"] += len(came) > 0
        if judged:
            totals[judged[-1].verdict] += 1
        self.verdicts += _held(judged)
        if not came:
            return
        verdict = judged[-1].verdict if judged and judged[-1].verdict != Verdict.INSUFFICIENT else None
        first = _first_outcomes(events)
        advised_at = [place for place, each in enumerate(events) if isinstance(each, Advised) and each.patterns]
        values: dict[str, list[tuple[float, bool]]] = {}
        for name, value in came.items():
            was_advised = any(place < first[name] for place in advised_at)
            unit = "reward" if actions[name].reference is None else "return"
            values.setdefault(unit, []).append((value, was_advised))
        for unit, its in values.items():
            mean = math.fsum(value / len(its) for value, _ in its)
            decision = Decision(begun.ts_known, mean, any(was for _, was in its), verdict)
            self.decisions.setdefault((it.task, unit), []).append(decision)
        self._credit(events, actions, came, first)

    def _credit(
        self,
        events: Sequence[Event],
        actions: Mapping[str, Acted],
        came: Mapping[str, float],
        first: Mapping[str, int],
    ) -> None:
        """Take how sure patterns were before the outcome, and whether they were right; each once, as said last."""
        found = {}
        for place, advised in enumerate(events):
            if not isinstance(advised, Advised):
                continue
            for said in advised.patterns:
                if not is_pattern(said.pattern_id):
                    continue  # a memory, which claims nothing of an action
                cluster_id, action = cluster_of(said.pattern_id)
                cluster = self._version(cluster_id, said.known)
                cell = None if cluster is None else cluster.cell(action)
                if cell is None:  # its past was pruned
                    continue
                for name, value in came.items():
                    moved = worth(cell, actions[name].type, value) if place < first[name] else 0.0
                    if moved:
                        found[said.pattern_id] = said.reliability, moved > 0
        self.advice += found.values()


def _first_outcomes(events: Sequence[Event]) -> dict[str, int]:
    """Return the step of the first outcome of each action."""
    found: dict[str, int] = {}
    for place, each in enumerate(events):
        if isinstance(each, Resolved) and each.action_id is not None:
            found.setdefault(each.action_id, place)
    return found


def _held(judged: Sequence[Judged]) -> Iterator[tuple[float, bool]]:
    """Yield the confidence of each verdict that its judge has replaced, and whether the last one says the same."""
    last = {each.judge: each for each in judged}
    for each in judged:
        if each is not last[each.judge] and each.verdict != Verdict.INSUFFICIENT:
            yield each.confidence, each.verdict == last[each.judge].verdict


def facet(task: str, unit: str, decisions: Sequence[Decision]) -> Facet:
    """Return what decisions of one task earned, all in one unit."""
    mean = mean_of([it.value for it in decisions]).mean
    in_order = sorted(decisions, key=lambda it: it.ts)
    advised, others = ([it for it in in_order if it.was_advised is which] for which in (True, False))
    difference = interval = None
    if advised and others:
        difference, interval = welch([it.value for it in advised], [it.value for it in others])
    groups = [_group(part, mean) if part else None for part in (advised, others)]
    return Facet(task, unit, len(decisions), mean, groups[0], groups[1], difference, interval)


def _group(decisions: Sequence[Decision], mean: float) -> Group:
    count = max(1, min(_PERIODS, len(decisions) // _EACH))
    bounds = [len(decisions) * place // count for place in range(count + 1)]
    periods = []
    for first, last in pairwise(bounds):
        part = decisions[first:last]
        ts = sum(it.ts for it in part) // len(part)
        periods.append(Period(ts, part[0].ts, part[-1].ts, *_of(part, mean)))
    return Group(*_of(decisions, mean), tuple(periods))


def _of(decisions: Sequence[Decision], mean: float) -> tuple[Mean, Share, Share | None]:
    values = [it.value for it in decisions]
    judged = [it.verdict == Verdict.CORRECT for it in decisions if it.verdict is not None]
    return mean_of(values), share_of([value > mean for value in values]), share_of(judged) if judged else None


def share_of(which: Sequence[bool]) -> Share:
    """Return how many are so."""
    return Share(len(which), sum(which) / len(which), wilson(sum(which), len(which)))


def mean_of(values: Sequence[float]) -> Mean:
    """Return the mean of values."""
    mean, error = _spread(values)
    if error is None:
        return Mean(len(values), mean, None)
    reach = student(len(values) - 1) * error
    return Mean(len(values), mean, (mean - reach, mean + reach))


def welch(one: Sequence[float], other: Sequence[float]) -> tuple[float, tuple[float, float] | None]:
    """Return the difference of two means, and what it lies between."""
    (mine, error), (theirs, another) = _spread(one), _spread(other)
    difference = mine - theirs
    if error is None or another is None:
        return difference, None
    both = math.hypot(error, another)
    if not both:
        return difference, (difference, difference)
    a, b = error / both, another / both
    freedom = 1 / (a**4 / (len(one) - 1) + b**4 / (len(other) - 1))
    reach = student(freedom) * both
    return difference, (difference - reach, difference + reach)


def _spread(values: Sequence[float]) -> tuple[float, float | None]:
    """Return the mean of values and its standard error (None: they are too few)."""
    unit = max(map(abs, values)) or 1.0  # else squares of large numbers are infinite
    count = len(values)
    mean = math.fsum(value / unit for value in values) / count
    if count < _FEWEST:
        return unit * mean, None
    square = math.fsum((value / unit - mean) ** 2 for value in values) / (count - 1)
    return unit * mean, unit * math.sqrt(square / count)


def student(freedom: float) -> float:
    """Return the quantile of a two-sided 95 % of Student's t."""
    z, n = _Z, freedom
    first, second = (z**3 + z) / 4, (5 * z**5 + 16 * z**3 + 3 * z) / 96
    return z + first / n + second / n**2 + (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384 / n**3
