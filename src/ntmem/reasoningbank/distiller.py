"""The distiller: reads outcomes that nothing was learnt from yet, and lets clusters learn from them.

**Invariants**

- An outcome waits in the index from the group that brings it to the group in which everything it teaches is written:
  it is learnt from once, whoever dies in between, and whoever distils beside (the head is the condition).
- I7: what is learnt by an instant is learnt from what was known by then, and known from then on.
- Outcomes of one instant are learnt in an order that does not depend on their trajectories' random ids, unless nothing
  else tells them apart.
"""

from __future__ import annotations

import threading
from collections import ChainMap
from collections.abc import Iterable, Sequence
from contextlib import suppress
from time import perf_counter_ns
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from .._core import meters
from ..errors import CorruptionError, StorageError, StoreClosed, VersionConflict
from ..instants import LATEST, AsOf, Instant, instant_ns
from ..tiers.guards import DISTILLING, PATTERNS, TRAJECTORY_INDEX, Situations
from . import learning
from .checks import require_number
from .clusters import FEWEST, divide, normalised
from .consolidation import ConsolidationReport, bound, consolidate
from .events import Resolved, due_key
from .evidence import Totals
from .learning import Draft, Lesson, Settings
from .ledger import Ledger
from .memories import Memories
from .memory import Memory
from .patterns import PROVEN, DistilledPattern, Item, Rewrite, distilled, rewritten
from .pooling import pooled
from .shelf import (
    Cluster,
    Scope,
    Shelf,
    Update,
    Working,
    cluster_id,
    cluster_of,
    copied,
    feedback_key,
    is_pattern,
    scope_id,
)
from .state import State

if TYPE_CHECKING:
    from numpy.typing import NDArray

_BATCH = 1024  # outcomes that one group learns from
_AT_ONCE = 16_384  # of one instant that are put into an order: beyond it their ids, which are chance, decide
_ATTEMPTS = 100
_COMPARED = 2048  # clusters of a scope up to which each is compared
_LOOKED = 64  # clusters of a scope in which an outcome that is corrected is looked for
_FEW = 4  # hits among which the nearest cluster of a scope is looked for
_GROWN, _FIRMLY = 1.3, 1.6  # after which it is seen again whether a small, a large cluster is to be divided
_LARGE = 512
_MOST_ROWS = 16 << 20  # bytes of situations that are kept at hand, and of those from before
_REWRITES = 32  # patterns that are put into other words after one distillation


class Places(NamedTuple):
    """Where the clusters of a scope are."""

    names: list[str]
    centres: NDArray[np.float32]  # (clusters, d), of length 1


class Distiller:
    """Makes patterns of trajectories. ``memory.distiller``; ``memory.bank.distill()`` runs it.

    Notes
    -----
    **Thread safety**: any thread, of any process that has the store open; they take turns. **Complexity**: O(log
    clusters) a situation, and what is learnt beside it is bounded by the window.
    """

    def __init__(self, ledger: Ledger, shelf: Shelf) -> None:
        self._ledger = ledger
        self.shelf = shelf
        self._memories = Memories(shelf)
        self._lock = threading.RLock()
        self._places: dict[str, Places] = {}
        self._changes = -1  # of the head, that `_places` belong to
        self._rows: dict[tuple[str, int], NDArray[np.float32]] = {}
        self._older_rows: dict[tuple[str, int], NDArray[np.float32]] = {}
        self._rows_bytes = 0
        self._waiting: list[_Due] = []  # read, and not learnt from; what came meanwhile is not in it
        self._thread: threading.Thread | None = None
        self._stop = threading.Event()
        self.settings = Settings()
        self.rewrite: Rewrite | None = None
        """Puts patterns into other words; see :data:`ntmem.reasoningbank.Rewrite`."""
        self.rewrite_errors: list[str] = []
        """What went wrong when it was asked, the latest last: learning goes on without."""
        self.error: BaseException | None = None
        """What ended the distilling in the background, if something did."""

    def __repr__(self) -> str:
        head = self.shelf.head()
        return f"<Distiller patterns={head.cells} clusters={head.clusters}>"

    def configure(self, **settings: Any) -> None:
        """Change settings, by their names in :class:`Settings`, of this handle."""
        kept = {name: getattr(self.settings, name) for name in Settings.__struct_fields__}
        self.settings = Settings(**(kept | settings))

    # -- running

    def distill(self, *, since: Instant | None = None, as_of: AsOf = None) -> list[DistilledPattern]:
        """Learn from the outcomes that nothing was learnt from yet; return the patterns that have changed.

        Parameters
        ----------
        since : instant, optional
            Pass over outcomes known before it, for good.
        as_of : instant, optional
            Learn from what was known then; what is learnt is known from then on. By default now.

        Returns
        -------
        list of DistilledPattern
            Those with enough outcomes, the strongest first.

        Raises
        ------
        ValueError
            `as_of` is in the future.

        Notes
        -----
        Every group of outcomes is learnt from whole or not at all: who is interrupted goes on where it was.
        """
        begun = perf_counter_ns()
        limit = self._limit(as_of)
        first = 0 if since is None else instant_ns(since, "since")
        touched: dict[str, None] = {}
        while names := self._learn(limit, first):
            touched.update(dict.fromkeys(names.clusters))
        bound(self.shelf, self.settings, self._ledger.now())
        found = self.shelf.latest(touched)
        if self.rewrite is not None:
            self._rewrite(self.rewrite, found.values())
            found = self.shelf.latest(touched)
        least = self.settings.min_trajectories
        cells = ((each, cell) for each in found.values() if not each.is_gone for cell in each.cells)
        made = [distilled(each, cell) for each, cell in cells if cell.support >= least]
        learnt = sorted(made, key=lambda it: (-it.strength, it.id))
        self._ledger.engine().store.meters.since(meters.DISTILL, begun)
        return learnt

    def start(self, every: float = 60.0) -> None:
        """Distil in the background every so many seconds, until :meth:`stop` or the store is closed. Twice: once."""
        every = require_number(every, "every", above=0, most=threading.TIMEOUT_MAX)
        with self._lock:
            if self._thread is not None and self._thread.is_alive():
                return
            self._stop.clear()
            self.error = None
            self._thread = threading.Thread(target=self._run, args=(every,), name="ntmem-distiller", daemon=True)
            self._thread.start()

    def stop(self) -> None:
        """Stop distilling in the background; return when it has."""
        self._stop.set()
        thread = self._thread
        if thread is not None and thread is not threading.current_thread():
            thread.join()

    def _run(self, every: float) -> None:
        try:
            while not self._stop.wait(every):
                self.distill()
        except StoreClosed:
            pass
        except Exception as error:  # the thread ends; who asks finds out why
            self.error = error

    def _limit(self, as_of: AsOf) -> int:
        now = self._ledger.now()
        if as_of is None:
            return now
        if as_of is LATEST:
            raise ValueError("patterns are made of what is known; as_of=LATEST would look ahead")
        limit = instant_ns(as_of, "as_of")
        if limit > now:
            raise ValueError(f"as_of must not be in the future, was {limit} at {now}")
        return limit

    # -- learning

    def _learn(self, limit: int, first: int) -> _Learnt | None:
        """Learn from a group of outcomes; None: there are none."""
        for _ in range(_ATTEMPTS):
            with self._lock:
                try:
                    return self._attempt(limit, first)
                except VersionConflict:
                    self._changes = -1
        raise StorageError(f"others changed the patterns {_ATTEMPTS} times meanwhile; try again")

    def _attempt(self, limit: int, first: int) -> _Learnt | None:
        update = self.shelf.update(limit)
        if update.head.changes != self._changes:
            self._places.clear()
            self._waiting.clear()
        if not self._waiting or self._waiting[-1].known > limit:
            self._waiting = self._read(limit)
        now, later = self._waiting[:_BATCH], self._waiting[_BATCH:]
        if not now and first <= update.head.since:
            return None
        update.head.since = max(update.head.since, first)
        self._waiting = []
        lessons = [it.lesson for it in now if it.lesson is not None and it.known >= update.head.since]
        lessons = pooled(lessons, update, self.shelf.engine(), self._ledger)
        drafts: dict[str, Draft] = {}
        scopes: dict[str, Scope] = {}
        by_scope: dict[str, list[Lesson]] = {}
        for it in lessons:
            if it.situation is not None:
                name = scope_id(it.task, len(it.situation), is_return=it.is_return)
                by_scope.setdefault(name, []).append(it)
        for name, each in by_scope.items():
            scopes[name] = self._learn_scope(update, name, each, drafts)
        self._credit(update, lessons, drafts)
        for draft in drafts.values():
            update.cluster(draft.cluster, draft.old, draft.working())
        for scope in scopes.values():
            update.scope(scope)
        for due in now:
            for key in due.keys:
                update.delete(TRAJECTORY_INDEX, key)
        self.shelf.commit(update)
        self._keep_places(update.head.changes, scopes, drafts)
        self._waiting = later
        return _Learnt(list(drafts))

    def _read(self, limit: int) -> list[_Due]:
        """Return what is to be learnt from, an action at a time, in the order in which it is learnt."""
        due = self._ledger.due(limit, _BATCH, _AT_ONCE)
        states = dict(self._ledger.load(list(dict.fromkeys(name for _, name, _ in due))))
        by_action: dict[tuple[str, str], dict[int, bytes]] = {}
        for key, name, step in due:
            event = states[name].steps[step].event if step < len(states[name].steps) else None
            if not isinstance(event, Resolved) or event.action_id is None:
                raise CorruptionError(f"step {step} of trajectory {name} should be an outcome; restore a backup")
            by_action.setdefault((name, event.action_id), {})[step] = key
        found = []
        for (name, action_id), keys in by_action.items():
            state = states[name]
            all_steps = learning.outcomes_of(state, action_id)
            learnt = [each for each in all_steps if each not in keys and self._is_learnt(name, state, each)]
            latest = [each for each in all_steps if each in keys or each in learnt][-1]
            taught, direction = None, self.settings.direction
            if latest not in learnt:
                taught = learning.lesson(name, state, latest, direction, is_correction=bool(learnt))
            found.append(_Due(state.steps[latest].since, list(keys.values()), taught))
        places = {id(it): place for place, it in enumerate(learning.ordered(it.lesson for it in found if it.lesson))}
        return sorted(found, key=lambda it: (it.known, places.get(id(it.lesson), -1)))

    def _is_learnt(self, name: str, state: State, step: int) -> bool:
        key = due_key(state.steps[step].since, name, step)
        return self.shelf.engine().get(TRAJECTORY_INDEX, key) is None

    def _learn_scope(self, update: Update, name: str, lessons: Sequence[Lesson], drafts: dict[str, Draft]) -> Scope:
        """Let the clusters of a scope learn; put them among `drafts`."""
        first = lessons[0]
        assert first.situation is not None
        scope = self.shelf.scope(name) or Scope(name, first.task, len(first.situation), first.is_return, Totals())
        directions = normalised(np.stack([it.situation for it in lessons if it.situation is not None]))
        nearest = self._nearest(scope, directions)
        names = sorted(set(nearest))
        there, working = self.shelf.latest(names), self.shelf.working(names)
        mine: dict[str, Draft] = {}
        for each in names:
            if each in there and each in working and not there[each].is_gone:
                mine[each] = Draft(copied(there[each]), working[each], there[each])
            else:
                mine[each] = self._first(scope, each, there.get(each))
        learning.learn_usual(scope.usual, [it.value for it in lessons if not (it.run and it.is_correction)])
        number = update.head.changes * _BATCH
        for place, (it, direction, each) in enumerate(zip(lessons, directions, nearest, strict=True)):
            self._remember(it.trajectory, it.step, it.situation)
            if it.is_correction:
                self._correct(it, mine, scope)
            else:
                mine[each].learn(it, direction, number + place + 1)
        mine = {each: draft for each, draft in mine.items() if draft.cluster.count}  # some were only to be corrected
        left = list(mine.values())
        while left:
            left += self._divided(scope, left.pop(), mine)
        scope.tested += sum(len(each.cluster.cells) - each.cells_before for each in mine.values())
        for draft in mine.values():
            draft.finish(scope, self.settings, update.known)
        drafts.update(mine)
        return scope

    def _correct(self, it: Lesson, mine: dict[str, Draft], scope: Scope) -> None:
        """Put an outcome in the place of the earlier one of its action, wherever that is by now.

        One that no cluster has among its last outcomes counts for nothing any more, nor does what corrects it.
        """
        if any(draft.correct(it) for draft in mine.values()):
            return
        near = [each for each in self._near(scope, it) if each not in mine]
        there, working = self.shelf.latest(near), self.shelf.working(near)
        for each in near:
            if each in there and each in working and not there[each].is_gone:
                draft = Draft(copied(there[each]), working[each], there[each])
                if draft.correct(it):
                    mine[each] = draft
                    return

    def _first(self, scope: Scope, name: str, old: Cluster | None) -> Draft:
        nowhere = np.zeros(scope.dimension, "<f4").tobytes()
        scope.clusters = max(scope.clusters, int(name[-8:], 16) + 1)
        cluster = Cluster(name, scope.task, scope.is_return, 0, 0, 0.0, 0.0, nowhere, [])
        return Draft(cluster, Working(), old)

    def _divided(self, scope: Scope, draft: Draft, mine: dict[str, Draft]) -> list[Draft]:
        """Divide a cluster if it is several kinds of situations; return what may be divided further."""
        count = draft.cluster.count
        grown = _GROWN if count < _LARGE else _FIRMLY
        if count < FEWEST or count < grown * draft.tested:
            return []
        draft.gather()
        draft.outcomes = draft.outcomes[-learning.SAMPLE :]
        draft.tested = count
        rows = self._situations(draft.outcomes, scope.dimension)
        places = divide(rows.astype(np.float32), self.settings.similarity_threshold)
        if places is None:
            return []

        def new_name() -> str:
            scope.clusters += 1
            return cluster_id(scope.id, scope.clusters - 1)

        parts = draft.divided(places, rows, new_name)
        mine.update((each.cluster.id, each) for each in parts)
        return parts

    # -- credits

    def _credit(self, update: Update, lessons: Iterable[Lesson], drafts: dict[str, Draft]) -> None:
        """Say of patterns what came of the decisions that they advised."""
        advised = [(it, each.pattern_id) for it in lessons if not it.is_correction for each in it.advice]
        if not advised:
            return
        keys = [((it.trajectory, pattern), feedback_key(it.trajectory, pattern)) for it, pattern in advised]
        said = self.shelf.engine().fetch(DISTILLING, list(dict(keys).items()))
        memories = [
            (pattern, learning.worth_of_words(it.value))
            for it, pattern in advised
            if not is_pattern(pattern) and (it.trajectory, pattern) not in said
        ]
        if memories:
            self._memories.credit(update, memories, update.known)
        for it, pattern in advised:
            if not is_pattern(pattern):
                continue
            draft = None if (it.trajectory, pattern) in said else self._draft(cluster_of(pattern)[0], drafts)
            cell = None if draft is None else draft.cluster.cell(cluster_of(pattern)[1])
            if cell is not None:
                cell.uses += 1
                was = cell if draft is None or draft.old is None else draft.old.cell(cell.action) or cell
                if was.claims == cell.claims:  # else what was advised is not claimed any more
                    learning.credit(cell, learning.worth(was, it.action, it.value), update.known)

    def _draft(self, name: str, drafts: dict[str, Draft]) -> Draft | None:
        """Return the draft of a cluster, or of what it has become part of."""
        while name:
            if name in drafts:
                return drafts[name]
            found = self.shelf.latest([name]).get(name)
            if found is None:
                return None
            if not found.is_gone:
                working = self.shelf.worked([name])[name]
                drafts[name] = Draft(copied(found), working, found)
                return drafts[name]
            name = found.into
        return None

    def feedback(self, pattern_id: str, reward: float, trajectory_id: str | None = None) -> bool:
        """See :meth:`ReasoningBank.feedback`."""
        if self._memories.has(pattern_id):
            return self._feedback_of_memory(pattern_id, reward, trajectory_id)
        name, action = cluster_of(pattern_id)
        for _ in range(_ATTEMPTS):
            with self._lock:
                update, drafts = self.shelf.update(), dict[str, Draft]()
                try:
                    draft = self._draft(name, drafts)
                except VersionConflict:
                    continue
                cell = None if draft is None else draft.cluster.cell(action)
                if draft is None or cell is None:
                    raise KeyError(f"there is no pattern {pattern_id!r} in this store, or it was pruned")
                if trajectory_id is not None:
                    if self._is_credited(trajectory_id, pattern_id):
                        return False
                    update.put(DISTILLING, feedback_key(trajectory_id, pattern_id), b"", is_new=True)
                cell.uses += 1
                learning.credit(cell, reward, update.known)
                update.cluster(draft.cluster, draft.old, draft.working())
                try:
                    self.shelf.commit(update)
                except VersionConflict:
                    continue
                if self._changes == update.head.changes - 1:
                    self._changes += 1  # no cluster has moved
                return True
        raise StorageError(f"others changed the patterns {_ATTEMPTS} times meanwhile; try again")

    def _feedback_of_memory(self, memory_id: str, reward: float, trajectory_id: str | None) -> bool:
        counts = True

        def change(update: Update) -> list[Memory]:
            nonlocal counts
            counts = trajectory_id is None or not self._is_credited(trajectory_id, memory_id)
            if counts:
                self._memories.credit(update, [(memory_id, reward)], self.shelf.engine().now())
                if trajectory_id is not None:
                    update.put(DISTILLING, feedback_key(trajectory_id, memory_id), b"", is_new=True)
            return []

        self._memories.change(change)
        return counts

    def _is_credited(self, trajectory_id: str, pattern_id: str) -> bool:
        """Whether it was said what a pattern was worth to a trajectory, or follows from an outcome already."""
        engine = self.shelf.engine()
        if engine.get(DISTILLING, feedback_key(trajectory_id, pattern_id)) is not None:
            return True
        [(_, state)] = self._ledger.load([trajectory_id])
        if not state.steps:
            raise KeyError(f"there is no trajectory {trajectory_id!r} in this store")
        return learning.is_learnt(
            state, pattern_id, lambda key: engine.get(TRAJECTORY_INDEX, key) is None, trajectory_id
        )

    # -- places

    def _nearest(self, scope: Scope, directions: NDArray[np.float64]) -> list[str]:
        """Return the names of the clusters that situations are nearest to; of a scope without any, of its first."""
        if not scope.clusters:
            return [cluster_id(scope.id, 0)] * len(directions)
        places = self._places_of(scope)
        if places is not None and places.names:
            best = np.argmax(directions @ places.centres.T.astype(np.float64), axis=1)
            return [places.names[each] for each in best]
        names = [each[0] if each else "" for each in self._found(scope, directions)]
        lost = cluster_id(scope.id, scope.clusters)
        return [each or lost for each in names]

    def _near(self, scope: Scope, it: Lesson) -> list[str]:
        assert it.situation is not None
        places = self._places_of(scope)
        if places is not None:
            order = np.argsort(-(places.centres @ normalised(it.situation)), kind="stable")
            return [places.names[each] for each in order[:_LOOKED]]
        return self._found(scope, normalised(it.situation)[np.newaxis])[0]

    def _places_of(self, scope: Scope) -> Places | None:
        """Return where the clusters of a scope are; None: they are too many to be compared one by one."""
        if scope.clusters > _COMPARED:
            return None
        found = self._places.get(scope.id)
        if found is None:
            clusters = list(self.shelf.all(2**63 - 1, scope.id))
            centres = [np.frombuffer(each.centroid, "<f4") for each in clusters]
            table = np.stack(centres) if centres else np.empty((0, scope.dimension), np.float32)
            found = self._places[scope.id] = Places([each.id for each in clusters], table)
        return found

    def _found(self, scope: Scope, directions: NDArray[np.float64]) -> list[list[str]]:
        """Return the nearest clusters of a scope by similarity, through the vectors."""
        labels = Situations(scope.dimension, PATTERNS)
        ids, _ = self.shelf.vectors().search_arrays(
            labels, directions.astype(np.float32), _FEW, where={"task": scope.task}, as_of=LATEST
        )
        return [[each for each in row if each is not None and each.startswith(scope.id)] for row in ids.tolist()]

    def _keep_places(self, changes: int, scopes: dict[str, Scope], drafts: dict[str, Draft]) -> None:
        for name in scopes:
            was = self._places.get(name)
            if was is not None:
                new = {each: it.cluster for each, it in drafts.items() if each.startswith(name)}
                if not new:
                    continue
                table = dict(zip(was.names, was.centres, strict=True))
                table.update({each: np.frombuffer(it.centroid, "<f4") for each, it in new.items()})
                names = sorted(table)
                self._places[name] = Places(names, np.stack([table[each] for each in names]))
        self._changes = changes

    # -- situations

    def _remember(self, trajectory: str, step: int, row: NDArray[np.float32] | None) -> None:
        if row is not None:
            self._rows[trajectory, step] = row
            self._rows_bytes += row.nbytes
            if self._rows_bytes > _MOST_ROWS:
                self._rows, self._older_rows, self._rows_bytes = {}, self._rows, 0

    def _situations(self, outcomes: NDArray[Any], dimension: int) -> NDArray[np.float64]:
        """Return the situations of outcomes, of length 1."""
        wanted = [
            (each.decode(), int(step)) for each, step in zip(outcomes["trajectory"], outcomes["step"], strict=True)
        ]
        held = ChainMap(self._rows, self._older_rows)
        missing = list(dict.fromkeys(name for name, step in wanted if (name, step) not in held))
        found = dict(self._ledger.load(missing)) if missing else {}
        rows = [
            learning.situation(found[name], step) if name in found else held.get((name, step)) for name, step in wanted
        ]
        for (name, step), row in zip(wanted, rows, strict=True):
            if row is None or len(row) != dimension:
                raise CorruptionError(
                    f"trajectory {name} has no situation before step {step} any more; restore a backup"
                )
            if name in found:
                self._remember(name, step, row)
        return normalised(np.stack([row for row in rows if row is not None]))

    # -- after learning

    def _rewrite(self, rewrite: Rewrite, clusters: Iterable[Cluster]) -> None:
        """Put the words of the strongest patterns that have only their own into other words."""
        least, scrubber = self.settings.min_trajectories, self._ledger.scrubber()
        found = [
            (each.id, distilled(each, cell))
            for each in clusters
            if not each.is_gone
            for cell in each.cells
            if cell.text is None and cell.support >= least and cell.measure.strength > PROVEN
        ]
        for name, pattern in sorted(found, key=lambda it: (-it[1].strength, it[1].id))[:_REWRITES]:
            try:
                item = rewritten(pattern, rewrite)
                if scrubber is not None:
                    item = Item(*map(scrubber, item))
            except Exception as error:  # somebody's model: learning does not hang on it
                self.rewrite_errors = [*self.rewrite_errors, f"{pattern.id}: {error}"][-_REWRITES:]
                continue
            with self._lock, suppress(VersionConflict):
                update = self.shelf.update()
                old = self.shelf.latest([name])[name]
                new = copied(old)
                cell = new.cell(pattern.action)
                if cell is not None and old.known == pattern.metadata["ts_known"] and not old.is_gone:
                    cell.text = (item.title, item.description, item.content)
                    update.cluster(new, old, None)
                    self.shelf.commit(update)

    def consolidate(self, *, memories: bool = True) -> ConsolidationReport:
        """Merge kinds of situations that are one, mark contradictions, let go of what is old; return what was done.

        - Kinds whose centres are as similar as `similarity_threshold` are one, unless they claim the opposite of an
          action, both with more than chance: such patterns say so in ``metadata["contradicts"]``.
        - Confidence falls towards 0.5, by half in 180 days without an outcome.
        - Patterns without an outcome for 180 days that advised nobody and are not more than chance go, as do the least
          useful of more than `max_patterns`, and versions that were replaced more than 90 days ago.
        - Of two imported memories with a cosine of 0.87 and more and the same outcome one goes, its uses to the other;
          with 0.60 and more and opposite outcomes they contradict each other; those that nobody used, of a confidence
          below 0.3 and more than 180 days old, go. See :meth:`ReasoningBank.forget` for what that means.

        Parameters
        ----------
        memories : bool
            Whether imported memories are looked at, too. Upkeep in the background leaves them as they came.

        Notes
        -----
        **Complexity**: one search by similarity for each kind of situations, two for each memory. Each change is a
        group of its own.
        """
        with self._lock:
            self._changes = -1
            return consolidate(self.shelf, self.settings, self._ledger.now(), with_memories=memories)


class _Due(NamedTuple):
    """Outcomes of an action that nothing was learnt from yet, and what they teach; None: nothing new."""

    known: int
    keys: list[bytes]
    lesson: Lesson | None


class _Learnt(NamedTuple):
    """What a group of outcomes has changed."""

    clusters: list[str]
