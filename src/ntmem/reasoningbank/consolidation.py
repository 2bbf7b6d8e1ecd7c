"""Tidying up: kinds that are one, claims that contradict each other, what is old, what is too much.

**Invariants**

- Each thing that is done is one group, all or nothing, and leaves less to do: who is killed goes on, and doing it again
  does nothing.
- What two kinds had is in the one that they become, once; the other says what it has become part of.
- What was known before stays visible as of then, until its past is let go.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from msgspec import Struct
from msgspec.structs import replace

from .._core.text import html_facts
from ..errors import StorageError, VersionConflict
from ..instants import MAX_INSTANT, NS
from ..tiers.guards import PATTERNS
from .learning import Draft, Settings, confidence, evidence
from .memories import Memories
from .patterns import PROVEN, pattern_id
from .recall import HALF_LIFE, near
from .shelf import Cell, Cluster, Shelf, Update, copied, past_key
from .tidying import Tidied, tidy

if TYPE_CHECKING:
    from collections.abc import Callable

OLD = 180 * 86_400 * NS
"""What had no outcome for so long, advised nobody and is not more than chance goes."""
_KEPT = 90 * 86_400 * NS
_ATTEMPTS = 100
_NEIGHBOURS = 4
_CHANGED = 0.01  # a confidence that has aged by less is left
_GROUP = 256  # kinds that are changed at once
_SHARE = 20  # one of so many patterns goes at once when they are too many


class ConsolidationReport(Struct, frozen=True):
    """What was tidied up.

    Attributes
    ----------
    merged : int
        Kinds of situations that have become part of another.
    contradictions : int
        Patterns, and memories, that contradict another one of a similar situation, now.
    aged : int
        Kinds of situations with patterns whose confidence has fallen with age.
    pruned : int
        Patterns that went.
    forgotten : int
        Past versions that went, older than 90 days.
    quarantined : int
        Patterns in quarantine, now.
    drifted : int
        Kinds of situations in which what pays has changed at least once.
    patterns, clusters : int
        That there are, now.
    duplicates : int
        Memories that went, as another one says the same; it has their uses.
    memories_pruned : int
        Memories that went, unused, 180 days old, and of a confidence below 0.3.
    """

    merged: int
    contradictions: int
    aged: int
    pruned: int
    forgotten: int
    quarantined: int
    drifted: int
    patterns: int
    clusters: int
    duplicates: int = 0
    memories_pruned: int = 0

    def _repr_html_(self) -> str:
        return html_facts((name, getattr(self, name)) for name in self.__struct_fields__)


def consolidate(shelf: Shelf, settings: Settings, now: int, *, with_memories: bool) -> ConsolidationReport:
    """Tidy up; return what was done."""
    merged = 0
    for name in [each.id for each in shelf.all(MAX_INSTANT)]:
        while _retried(shelf, partial(_merge_nearest, shelf, settings, name)):
            merged += 1
    pruned = aged = 0
    for name in [each.id for each in shelf.all(MAX_INSTANT)]:
        went, has_aged = _retried(shelf, partial(_age, shelf, settings, name, now))
        pruned += went
        aged += has_aged
    pruned += bound(shelf, settings, now)
    memories = Memories(shelf)
    tidied = tidy(memories, shelf, now) if with_memories else Tidied(0, 0, 0)
    forgotten = _forget(shelf, now) + memories.let_past_go(now - _KEPT)
    left = list(shelf.all(MAX_INSTANT))
    cells = [cell for each in left for cell in each.cells]
    return ConsolidationReport(
        merged,
        sum(len(cell.contradicts) > 0 for cell in cells) + tidied.contradictions,
        aged,
        pruned,
        forgotten,
        sum(cell.quarantined > 0 for cell in cells),
        sum(each.drifts > 0 for each in left),
        len(cells),
        len(left),
        tidied.duplicates,
        tidied.pruned,
    )


def _retried(shelf: Shelf, change: Callable[[Update], Any]) -> Any:
    """Do a change on what there is, as often as it takes; one that has nothing to write is not written."""
    for _ in range(_ATTEMPTS):
        update = shelf.update()
        try:
            result = change(update)
            if not update.changes:
                return result
            shelf.commit(update)
        except VersionConflict:
            continue
        return result
    raise StorageError(f"others changed the patterns {_ATTEMPTS} times meanwhile; try again")


# -- kinds that are one


def _merge_nearest(shelf: Shelf, settings: Settings, name: str, update: Update) -> bool:
    """Merge a kind with the nearest one that is the same; mark what contradicts it. Return whether one was merged."""
    mine = shelf.latest([name]).get(name)
    if mine is None or mine.is_gone:
        return False
    query = np.frombuffer(mine.centroid, "<f4").astype(np.float64)
    found = near(shelf, query, _NEIGHBOURS, MAX_INSTANT, is_now=False, task=mine.task)
    against: dict[str, set[str]] = {cell.action: set() for cell in mine.cells}
    for other, cosine in zip(found.clusters, found.similarities, strict=True):
        if other.id == name or other.id[:12] != name[:12] or cosine < settings.similarity_threshold:
            continue
        differing = contradicting(mine, other)
        if not differing:
            first, second = sorted((mine, other), key=lambda each: each.id)
            _merge(shelf, settings, update, first, second)
            return True
        for action in differing:
            against[action].add(pattern_id(other.id, action))
    if any(sorted(against[cell.action]) != cell.contradicts for cell in mine.cells):
        cells = [replace(cell, contradicts=sorted(against[cell.action])) for cell in mine.cells]
        update.cluster(replace(mine, cells=cells), mine, None)
    return False


def contradicting(one: Cluster, other: Cluster) -> list[str]:
    """Return the actions of which two kinds claim the opposite, each with more than chance."""
    found = []
    for cell in one.cells:
        twin = other.cell(cell.action)
        if (
            twin is not None
            and min(cell.measure.strength, twin.measure.strength) > PROVEN
            and cell.claims != twin.claims
        ):
            found.append(cell.action)
    return found


def _merge(shelf: Shelf, settings: Settings, update: Update, first: Cluster, second: Cluster) -> None:
    working = shelf.worked([first.id, second.id])
    one, other = Draft(copied(first), working[first.id], first), Draft(copied(second), working[second.id], second)
    numbers = []
    for cell in other.cluster.cells:
        own = one.cluster.cell(cell.action)
        if own is None:
            one.cluster.cells.append(cell)
            own = cell
        else:
            _add(own, cell)
        numbers.append(one.cluster.cells.index(own))
    theirs = other.outcomes.copy()
    theirs["action"] = [numbers[int(each)] for each in theirs["action"]]
    both = np.concatenate([one.outcomes, theirs])
    one.outcomes = both[np.argsort(both["order"], kind="stable")]
    for place, cell in enumerate(one.cluster.cells):
        cell.evidence = evidence(one.outcomes[one.outcomes["action"] == place]) or cell.evidence
    one.total += other.total
    one.cluster.count += other.cluster.count
    one.cluster.drifts = max(first.drifts, second.drifts)
    one.cluster.regime_since = max(first.regime_since, second.regime_since)
    one.drifted = max(one.drifted, other.drifted)
    scope = shelf.scope(first.id[:12])
    assert scope is not None
    scope.tested += len(one.cluster.cells) - len(first.cells) - len(second.cells)
    one.finish(scope, settings, update.known)
    update.scope(scope)
    update.cluster(one.cluster, first, one.working())
    update.cluster(replace(second, cells=[], into=first.id, is_gone=True), second, None)


def _add(own: Cell, cell: Cell) -> None:
    """Let a pattern have what was counted of its twin."""
    added = min(own.support, cell.support)
    if cell.support > own.support:
        own.moved, own.claims, own.recent = cell.moved, cell.claims, cell.recent
        own.quarantined, own.support_then = cell.quarantined, cell.support_then
    own.support += cell.support
    own.support_then += added if own.quarantined else 0
    own.first, own.last = min(own.first, cell.first), max(own.last, cell.last)
    own.uses, own.right, own.wrong = own.uses + cell.uses, own.right + cell.right, own.wrong + cell.wrong
    own.agents = sorted({*own.agents, *cell.agents})[-16:]


# -- what is old, what is too much


def _age(shelf: Shelf, settings: Settings, name: str, now: int, update: Update) -> tuple[int, bool]:
    """Let the old patterns of a kind go, and the confidence of the others fall; return how many went, and whether."""
    old = shelf.latest([name]).get(name)
    if old is None or old.is_gone:
        return 0, False
    gone = [cell for cell in old.cells if now - cell.last > OLD and not cell.uses and cell.measure.strength <= PROVEN]
    if gone:
        _drop(shelf, settings, update, old, {cell.action for cell in gone})
        return len(gone), False
    aged = [replace(cell, confidence=confidence(cell, now)) for cell in old.cells]
    if all(abs(new.confidence - was.confidence) < _CHANGED for new, was in zip(aged, old.cells, strict=True)):
        return 0, False
    update.cluster(replace(old, cells=aged), old, None)
    return 0, True


def bound(shelf: Shelf, settings: Settings, now: int) -> int:
    """Let the least useful patterns go if there are too many, and some more; return how many."""
    most, went = settings.max_patterns, 0
    while (count := shelf.head().cells) > most:
        ranked = sorted(
            (cell.confidence * 0.5 ** (max(now - cell.last, 0) / HALF_LIFE), cell.support, each.id, cell.action)
            for each in shelf.all(MAX_INSTANT)
            for cell in each.cells
        )
        by_cluster: dict[str, set[str]] = {}
        for _, _, name, action in ranked[: count - most + most // _SHARE]:
            by_cluster.setdefault(name, set()).add(action)
        if not by_cluster:  # pragma: no cover  (the head counts what is there)
            break

        names = list(by_cluster)
        for first in range(0, len(names), _GROUP):
            part = {name: by_cluster[name] for name in names[first : first + _GROUP]}
            went += _retried(shelf, partial(_drop_all, shelf, settings, part))
    return went


def _drop_all(shelf: Shelf, settings: Settings, actions: Mapping[str, set[str]], update: Update) -> int:
    """Let patterns go, by their kinds and actions; return how many there were."""
    went = 0
    for old in shelf.latest(actions).values():
        gone = {cell.action for cell in old.cells} & actions[old.id]
        if gone:
            _drop(shelf, settings, update, old, gone)
            went += len(gone)
    return went


def _drop(shelf: Shelf, settings: Settings, update: Update, old: Cluster, actions: set[str]) -> None:
    """Let patterns of a kind go, with their outcomes; without any it goes, too."""
    scope = update.scopes.get(old.id[:12]) or shelf.scope(old.id[:12])
    assert scope is not None
    kept = [place for place, cell in enumerate(old.cells) if cell.action not in actions]
    scope.tested -= len(old.cells) - len(kept)
    update.scope(scope)
    if not kept:
        update.cluster(replace(old, cells=[], is_gone=True), old, None)
        return
    draft = Draft(copied(old), shelf.worked([old.id])[old.id], old)
    mine = draft.outcomes[np.isin(draft.outcomes["action"], kept)].copy()
    mine["action"] = np.searchsorted(kept, mine["action"])
    draft.cluster.cells = [draft.cluster.cells[place] for place in kept]
    draft.outcomes = mine
    draft.finish(scope, settings, update.known)
    update.cluster(draft.cluster, old, draft.working())


def _forget(shelf: Shelf, now: int) -> int:
    """Let past versions go that were replaced long ago."""
    went = 0
    for each in list(shelf.everything()):
        keys, newer = [], each.known
        for past in shelf.history(each.id):
            if now - newer > _KEPT:
                keys.append(past_key(past.id, past.known))
            newer = past.known
        if keys:
            shelf.engine().drop(PATTERNS, keys)
            went += len(keys)
    return went
