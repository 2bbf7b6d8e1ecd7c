"""What has to stand in a store after learning, worked out anew from its trajectories.

Nothing of the bank's own reading is used but its bytes.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest
from earned import folded, measured
from trajectories import events_of, sinces

import ntmem
from ntmem.reasoningbank.events import Acted, Begun, Event, Resolved, Seen
from ntmem.reasoningbank.learning import OUTCOME
from ntmem.reasoningbank.shelf import Cluster, Head, Scope, Working, decode
from ntmem.tiers.guards import DISTILLING, PATTERNS, TRAJECTORY_INDEX, Situations


class Kept:
    """All that was learnt, as it stands in the store."""

    def __init__(self, memory: Any) -> None:
        engine = memory._engine()
        self.head, self.scopes, self.working = Head(), dict[str, Scope](), dict[str, Working]()
        self.clusters: dict[str, Cluster] = {}
        self.past: dict[str, list[Cluster]] = {}
        self.said = 0
        for key, stored in engine.entries_of(DISTILLING, b""):
            kind, name = key[:1], key[1:].decode()
            if kind == b"h":
                self.head = decode(stored.value, Head, "head")
            elif kind == b"s":
                self.scopes[name] = decode(stored.value, Scope, name)
            elif kind == b"w":
                self.working[name] = decode(stored.value, Working, name)
            else:
                assert kind == b"f"
                self.said += 1
        for key, stored in engine.entries_of(PATTERNS, b""):
            found = decode(stored.value, Cluster, "cluster")
            if key[:1] == b"k":
                assert key[1:].decode() == found.id
                self.clusters[found.id] = found
            else:
                assert key.startswith(f"v{found.id}".encode())
                self.past.setdefault(found.id, []).append(found)
        self.live = {name: it for name, it in self.clusters.items() if not it.is_gone}
        self.due = {key for key, _ in engine.entries_of(TRAJECTORY_INDEX, b"d")}

    def outcomes(self, name: str) -> Any:
        return np.frombuffer(self.working[name].outcomes, OUTCOME)

    @property
    def support(self) -> int:
        return sum(cell.support for it in self.live.values() for cell in it.cells)


def situation_of(events: list[Event], place: int) -> np.ndarray | None:
    """Return the embedding that was seen last before an action."""
    since = sinces(events)
    found = [
        it.embedding
        for it, when in zip(events[:place], since[:place], strict=True)
        if isinstance(it, Seen) and it.embedding is not None and when <= since[place]
    ]
    return np.frombuffer(found[-1], "<f4") if found else None


def learnt(events: dict[str, list[Event]], due: set[bytes]) -> dict[tuple[str, int], tuple[str, float, int]]:
    """Return the actions with a situation that something was learnt of: the step of each, with what it is called, what
    came of it and from when on that was known."""
    directions = {"sell": -1.0, "short": -1.0}
    found: dict[tuple[str, int], tuple[str, float, int]] = {}
    for name, its in events.items():
        since = sinces(its)
        for place, action in enumerate(its):
            if not isinstance(action, Acted) or situation_of(its, place) is None:
                continue
            outcomes = [
                (since[step], step, it.value)
                for step, it in enumerate(its)
                if isinstance(it, Resolved) and it.action_id == action.id
                if f"d{since[step]:016x}{name}{step:06x}".encode() not in due
            ]
            if outcomes:
                known, _, value = max(outcomes)
                if action.reference is not None:
                    value = (value - action.reference) / action.reference * directions.get(action.type, 1.0)
                found[name, place] = action.type, value, known
    return found


def check_learnt(memory: Any, *, lost: int = 0, is_placed: bool = True) -> Kept:
    """Check that every outcome was learnt from once, and that all that was made of them is right; return what is kept.

    `lost` outcomes were in patterns that went. `is_placed`: similarity finds each kind where it is.
    """
    kept, events = Kept(memory), events_of(memory)
    taught = learnt(events, kept.due)

    # what all have in common
    assert kept.head.clusters == len(kept.live)
    assert kept.head.cells == sum(len(it.cells) for it in kept.live.values())
    assert set(kept.working) == set(kept.live)
    assert all(it.is_gone == (not it.cells) for it in kept.clusters.values())
    for scope in kept.scopes.values():
        mine = [it for it in kept.clusters.values() if it.id.startswith(scope.id)]
        assert scope.tested == sum(len(it.cells) for it in mine), "cells that are tested"
        assert scope.clusters > max(it.number for it in mine)
        assert {(it.task, it.is_return, it.dimension) for it in mine} <= {
            (scope.task, scope.is_return, scope.dimension)
        }
    assert {it.id[:12] for it in kept.clusters.values()} == set(kept.scopes)
    for name, its in kept.past.items():
        known = [it.known for it in its]
        assert len(set(known)) == len(known)
        assert max(known) < kept.clusters[name].known
    assert all(it.known <= kept.head.known for it in kept.clusters.values())

    # every outcome once
    assert kept.support == len(taught) - lost, "outcomes that were learnt"
    rows = Counter((row["trajectory"].decode(), int(row["step"])) for name in kept.live for row in kept.outcomes(name))
    assert set(rows.values()) <= {1}, "an outcome is in a window twice"
    assert set(rows) <= set(taught)
    for name, cluster in kept.live.items():
        check_cluster(kept, name, cluster, events, taught)
    if is_placed:
        for name, cluster in kept.live.items():
            stored = memory.vectors.get(Situations(cluster.dimension, PATTERNS), name, as_of=ntmem.LATEST)
            centre = np.frombuffer(cluster.centroid, "<f4")
            assert stored is not None
            assert float(np.asarray(stored.vector) @ centre) > 0.99, "similarity finds it elsewhere"
    return kept


def _direction(events: dict[str, list[Event]], row: Any) -> np.ndarray:
    where = situation_of(events[row["trajectory"].decode()], int(row["step"]))
    assert where is not None
    wide = where.astype(float)
    return wide / np.sqrt(wide @ wide)


def check_cluster(
    kept: Kept,
    name: str,
    cluster: Cluster,
    events: dict[str, list[Event]],
    taught: dict[tuple[str, int], tuple[str, float, int]],
) -> None:
    """Check one kind of situations against its last outcomes."""
    outcomes = kept.outcomes(name)
    assert len({cell.action for cell in cluster.cells}) == len(cluster.cells)
    assert (np.diff(outcomes["order"].astype(np.int64)) > 0).all()
    for row in outcomes:
        who = row["trajectory"].decode()
        action, value, known = taught[who, int(row["step"])]
        assert (cluster.cells[row["action"]].action, row["value"], row["known"]) == (action, value, known)
        begun, where = events[who][0], situation_of(events[who], int(row["step"]))
        assert isinstance(begun, Begun)
        assert where is not None
        assert (begun.task, len(where)) == (cluster.task, cluster.dimension)
    counts = Counter(int(each) for each in outcomes["action"])
    centre = np.frombuffer(cluster.centroid, "<f4").astype(float)
    if cluster.length > 1e-6:
        assert centre @ centre == pytest.approx(1.0, abs=1e-5)
        if len(outcomes) == cluster.count:  # all of its situations are at hand
            whole = np.sum([_direction(events, row) for row in outcomes], axis=0)
            assert centre * cluster.length * cluster.count == pytest.approx(whole, abs=1e-4 * cluster.count)
    for place, cell in enumerate(cluster.cells):
        assert cell.support >= counts[place]
        assert 0 <= cell.confidence <= 1
        assert 0 <= cell.measure.strength <= 1
        latest = [row["trajectory"].decode() for row in outcomes if row["action"] == place]
        named = {cell.evidence[each : each + 26] for each in range(0, len(cell.evidence), 26)}
        assert set(latest[-1:]) <= named
        assert len(cell.evidence) <= 16 * 26
        assert set(cell.recent) <= {"+", "-"}
        assert len(cell.recent) <= 10
        assert cell.right + cell.wrong <= cell.uses
        assert cell.first <= cell.last <= cluster.known


def check_measures(kept: Kept, name: str, *, keeps: float = 0.985) -> None:
    """Check what actions earn, where nothing was learnt in the scope since."""
    cluster, outcomes, scope = kept.live[name], kept.outcomes(name), kept.scopes[name[:12]]
    rows = folded(outcomes["action"].tolist(), outcomes["value"].tolist(), len(cluster.cells) + 1, keeps)
    usual = scope.usual
    *expected, untried = measured(
        rows, usual.mean, usual.scatter / max(usual.weight, 1.0), max(scope.tested, len(cluster.cells))
    )
    assert cluster.untried is not None
    assert cluster.untried.expected == pytest.approx(untried["expected"], rel=1e-6, abs=1e-9)
    assert cluster.untried.uncertainty == pytest.approx(untried["uncertainty"], rel=1e-6, abs=1e-9)
    for cell, facts in zip(cluster.cells, expected, strict=True):
        for fact, value in facts.items():
            assert getattr(cell.measure, fact) == pytest.approx(value, rel=1e-6, abs=1e-9), (cell.action, fact)
