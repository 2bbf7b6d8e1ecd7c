"""All figures of a bank as of an instant: what came of decisions, where patterns are, which are used, what has changed.

Kinds of situations are drawn along the two directions in which their centres vary most (principal components).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from itertools import islice
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import numpy as np

from .calibration import calibrate
from .decisions import Reading, facet, latest
from .figures import Drift, Figures, Known, Map, Place, Version
from .learning import Settings
from .patterns import PROVEN, item_of, pattern_id
from .shelf import Cell, Cluster, Shelf

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from .tracker import TrajectoryTracker

MOST_READ = 20_000
"""Trajectories that a report looks at, the latest."""
_Z = 1.959963984540054  # the normal quantile of a two-sided 95 %
_KEPT = 512  # versions of kinds at hand: decisions of one time had the same
_FACETS, _MAPS = 4, 4
_DRAWN, _NAMED, _USED, _DRIFTED = 400, 20, 15, 6  # patterns drawn, in the table, by use; kinds that drifted
_VERSIONS, _SHOWN, _ACTIONS = 2000, 60, 4  # of a kind that drifted: read, kept, actions

_T = TypeVar("_T")


def figures(
    tracker: TrajectoryTracker,
    shelf: Shelf,
    settings: Settings,
    limit: int,
    most: int = MOST_READ,
) -> Figures:
    """Return the figures of what is known by an instant."""

    @lru_cache(maxsize=_KEPT)
    def version(name: str, known: int) -> Cluster | None:
        return shelf.seen([name], known).get(name)

    read = Reading(settings.direction, version)
    was_cut = False
    for it in latest(tracker, limit, most + 1):
        if read.totals["trajectories"] == most:
            was_cut = True
            break
        read.take(it)
    facets = sorted(read.decisions.items(), key=lambda it: (-len(it[1]), it[0]))
    seen = _Patterns(settings.min_trajectories)
    for cluster in shelf.all(limit):
        seen.take(cluster)
    totals = read.totals | {"agents": len(read.agents), "tasks": len(read.tasks), "facets": len(facets)}
    return Figures(
        limit,
        totals | seen.totals,
        was_cut,
        tuple(facet(task, unit, its) for (task, unit), its in facets[:_FACETS]),
        calibrate(*zip(*read.advice, strict=True)) if read.advice else None,
        calibrate(*zip(*read.verdicts, strict=True)) if read.verdicts else None,
        _maps(seen.strongest.best()),
        tuple(_known(*it) for it in seen.strongest.best()[:_NAMED]),
        tuple(_known(*it) for it in seen.used.best()),
        tuple(_drift(shelf, it) for it in seen.drifting.best()),
    )


class _Best(Generic[_T]):
    """The first of many in an order, so many."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._kept: list[tuple[tuple[Any, ...], _T]] = []

    def add(self, order: tuple[Any, ...], it: _T) -> None:
        self._kept.append((order, it))
        if len(self._kept) > 4 * self._most:
            self._cut()

    def best(self) -> list[_T]:
        self._cut()
        return [it for _, it in self._kept]

    def _cut(self) -> None:
        self._kept = sorted(self._kept, key=lambda it: it[0])[: self._most]


class _Patterns:
    """What kinds of situations add up to; `least` is the support of what is a pattern."""

    def __init__(self, least: int) -> None:
        self.totals = dict.fromkeys(("kinds", "patterns", "proven", "quarantined", "contradicting", "drifted"), 0)
        self.strongest: _Best[tuple[Cluster, Cell]] = _Best(_DRAWN)
        self.used: _Best[tuple[Cluster, Cell]] = _Best(_USED)
        self.drifting: _Best[Cluster] = _Best(_DRIFTED)
        self._least = least

    def take(self, cluster: Cluster) -> None:
        totals = self.totals
        totals["kinds"] += 1
        if cluster.drifts:
            totals["drifted"] += 1
            self.drifting.add((-cluster.regime_since, -cluster.drifts, cluster.id), cluster)
        for cell in cluster.cells:
            if cell.support < self._least:
                continue
            strength = cell.measure.strength
            totals["patterns"] += 1
            totals["proven"] += strength > PROVEN
            totals["quarantined"] += cell.quarantined > 0
            totals["contradicting"] += len(cell.contradicts) > 0
            self.strongest.add((-strength, -cell.support, cluster.id, cell.action), (cluster, cell))
            if cell.uses:
                self.used.add((-cell.uses, -strength, cluster.id, cell.action), (cluster, cell))


def _unit(cluster: Cluster) -> str:
    return "return" if cluster.is_return else "reward"


def _known(cluster: Cluster, cell: Cell) -> Known:
    found = cell.measure
    title, description, _ = cell.text or item_of(cluster, cell)
    reach = _Z * found.deviation
    return Known(
        pattern_id(cluster.id, cell.action),
        cluster.task,
        cell.action,
        _unit(cluster),
        title,
        description,
        cell.support,
        found.strength,
        cell.confidence,
        found.mean,
        (found.mean - reach, found.mean + reach),
        cell.uses,
        cell.right,
        cell.wrong,
        cell.quarantined > 0,
    )


def _maps(found: Sequence[tuple[Cluster, Cell]]) -> tuple[Map, ...]:
    """Return where patterns are, a map for each number of dimensions, that of most patterns first."""
    by_dimension: dict[int, list[tuple[Cluster, Cell]]] = {}
    for it in found:
        by_dimension.setdefault(it[0].dimension, []).append(it)
    made = []
    for dimension, its in sorted(by_dimension.items(), key=lambda it: (-len(it[1]), it[0]))[:_MAPS]:
        clusters = {cluster.id: cluster for cluster, _ in its}
        rows = np.stack([np.frombuffer(each.centroid, "<f4") for each in clusters.values()])
        points, explained = projected(rows)
        where = dict(zip(clusters, points.tolist(), strict=True))
        places = []
        for cluster, cell in its:
            name, measure = pattern_id(cluster.id, cell.action), cell.measure
            x, y = where[cluster.id]
            facts = (measure.effect, measure.strength, cell.support)
            places.append(Place(name, cluster.task, cell.action, x, y, *facts))
        made.append(Map(dimension, explained, tuple(places)))
    return tuple(made)


def projected(rows: NDArray[np.float32]) -> tuple[NDArray[np.float64], tuple[float, float]]:
    """Return rows along their first two principal components, shape (n, 2), and what share of the variance each has.

    Of the two signs that a component may have, it has the one in which the row farthest out is positive.
    """
    centred = rows - rows.mean(axis=0)
    left, sizes, _ = np.linalg.svd(centred, full_matrices=False)
    points = np.zeros((len(rows), 2))
    shares = [0.0, 0.0]
    whole = float(sizes @ sizes)
    for axis in range(min(2, len(sizes))):
        column = left[:, axis].astype(np.float64) * float(sizes[axis])
        points[:, axis] = column if column[int(np.argmax(np.abs(column)))] >= 0 else -column
        shares[axis] = float(sizes[axis]) ** 2 / whole if whole > 0 else 0.0
    return points, (shares[0], shares[1])


def _drift(shelf: Shelf, cluster: Cluster) -> Drift:
    """Return how a kind of situation has changed."""
    earlier = islice((it for it in shelf.history(cluster.id) if it.known < cluster.known), _VERSIONS)
    versions = [cluster, *earlier][::-1]
    changes = sorted({it.regime_since for it in versions if it.drifts})
    steps = min(len(versions), _SHOWN) - 1
    shown = [versions[place * (len(versions) - 1) // max(steps, 1)] for place in range(steps)] + [cluster]
    actions = {}
    for cell in sorted(cluster.cells, key=lambda it: (-it.support, it.action))[:_ACTIONS]:
        said = []
        for it in shown:
            own = it.cell(cell.action)
            if own is not None:
                reach = _Z * own.measure.deviation
                mean = own.measure.mean
                said.append(Version(it.known, mean, (mean - reach, mean + reach)))
        actions[cell.action] = tuple(said)
    facts = (cluster.id, cluster.task, cluster.number, _unit(cluster), cluster.drifts, cluster.regime_since)
    return Drift(*facts, tuple(changes), actions)
