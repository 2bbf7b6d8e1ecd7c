"""The trajectories of a store: found by agent, task, verdict, time and similarity, as of any instant."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Any, NamedTuple

from msgspec import Struct

from ..errors import CorruptionError
from ..instants import LATEST, MAX_INSTANT, AsOf, Duration, Instant, duration_ns, instant_ns, require_int
from ..tiers.engine import LmdbEngine
from ..tiers.guards import Situations
from ..twins import twin
from .events import ID_SIZE, TAIL_SIZE, Acted, Begun, Past, hashed, is_id, new_id, newest_first, past_stem, situation
from .ledger import Ledger
from .scrubbed import as_kept, no_scrubber, scrubbed
from .state import State
from .trajectory import Action, Trajectory, begun, public_action
from .verdict import Verdict

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

    from ..scrubbing import Scrubber
    from ..tiers.vectors import VectorStore

_PAGE = 100
_MOST_PAGE = 10_000
_FEW = 8  # outcomes are seldom known before they are known
_MOST_PAST = 100  # outcomes that others are measured by


class TrajectoryPage(NamedTuple):
    """Some trajectories, the one begun last first, and where to go on (None: there are no more)."""

    trajectories: tuple[Trajectory, ...]
    cursor: str | None


class PendingOutcome(Struct, frozen=True):
    """An action without an outcome; `due` is when one was expected, ns UTC, or None."""

    trajectory_id: str
    agent_id: str
    task: str
    action: Action
    due: int | None


class TrajectoryTracker:
    """The trajectories of a store. ``memory.trajectories``; keep it at hand.

    Notes
    -----
    **Thread safety**: any thread, of any process that has the store open. **Complexity**: a step is one group of at
    most five records; a page is O(page) beside any number of trajectories, if most of them have what else is asked for.

    Examples
    --------
    >>> import ntmem
    >>> with ntmem.open() as memory:
    ...     with memory.bank.begin("agent_1", "breakout") as t:
    ...         action = t.add_action("buy", predicted_outcome=110.0, reference=100.0)
    ...     memory.bank.resolve(t.id, 105.0)
    ...     [found] = memory.trajectories.find(agent_id="agent_1").trajectories
    ...     found.status, found.outcome_of(action).value
    ('complete', 105.0)
    """

    def __init__(
        self,
        engine: Callable[[], LmdbEngine],
        vectors: Callable[[], VectorStore],
        *,
        durable: bool,
        scrubber: Callable[[], Scrubber | None] = no_scrubber,
    ) -> None:
        self.ledger = Ledger(engine, vectors, durable=durable, scrubber=scrubber)

    def __repr__(self) -> str:
        return f"<TrajectoryTracker of {self.ledger.engine().store.directory or 'a private store'}>"

    def now(self) -> int:
        """Return the store's time, int ns UTC."""
        return self.ledger.now()

    # -- writing

    def track(self, trajectory: Trajectory) -> str:
        """Keep a trajectory, all of it or nothing, and what is added to it from now on; return its id.

        Again: nothing.
        """
        if not isinstance(trajectory, Trajectory):
            raise TypeError(f"trajectory must be a Trajectory, was {type(trajectory).__name__}")
        self.ledger.writable()
        return trajectory.track(self.ledger, new_id(self.now()))

    def begin(
        self, agent_id: str, task: str = "", *, ts_event: Instant | None = None, ts_known: Instant | None = None
    ) -> Trajectory:
        """Begin a trajectory that is kept from its first step on."""
        now, state = self.ledger.writable().now(), State()
        state.apply(scrubbed(begun(agent_id, task, ts_event, ts_known, now), self.ledger.scrubber()))
        name = new_id(now)
        self.ledger.extend(name, state)
        return Trajectory.of(name, state, self.ledger, None)

    # -- reading

    def get(self, trajectory_id: str, *, as_of: AsOf = None) -> Trajectory | None:
        """Return a trajectory; None: there is none, or it was not known then.

        With `as_of` it is as it was seen at that instant, and takes nothing. Without, it is the one that is kept: what
        is added to it is kept, and what others add is seen by who gets it again.
        """
        _check_id(trajectory_id)
        limit = self._limit(as_of)
        state = State()
        self.ledger.refresh(trajectory_id, state)
        return self._shown(trajectory_id, state, limit, as_of) if state.steps else None

    def get_many(self, trajectory_ids: Iterable[str], *, as_of: AsOf = None) -> list[Trajectory | None]:
        """Return what :meth:`get` returns, for each of several ids."""
        if isinstance(trajectory_ids, str):
            raise TypeError("trajectory_ids must be an iterable of str, was one str; use get()")
        ids = list(trajectory_ids)
        for each in ids:
            _check_id(each)
        limit = self._limit(as_of)
        states = self.ledger.load(ids)
        return [self._shown(name, state, limit, as_of) if state.steps else None for name, state in states]

    aget_many = twin(get_many)

    def _shown(self, name: str, state: State, limit: int, as_of: AsOf) -> Trajectory | None:
        if as_of is None:
            return Trajectory.of(name, state, self.ledger, None) if state.steps[0].since <= limit else None
        seen = state.seen(limit)
        return None if seen is None else Trajectory.of(name, seen, None, limit)

    def find(
        self,
        *,
        agent_id: str | None = None,
        task: str | None = None,
        verdict: Verdict | str | None = None,
        status: str | None = None,
        start: Instant | None = None,
        end: Instant | None = None,
        as_of: AsOf = None,
        limit: int = _PAGE,
        cursor: str | None = None,
    ) -> TrajectoryPage:
        """Return a page of trajectories, the one begun last first; those begun at the same instant in no order.

        Parameters
        ----------
        agent_id, task : str, optional
        verdict : Verdict, optional
            The latest one as of then.
        status : {"open", "complete", "failed"}, optional
        start, end : instant, optional
            When it was known that it began: from `start` to before `end`.
        as_of : instant, optional
            As was known then.
        limit : int
            At most so many.
        cursor : str, optional
            Of the page before. What was begun meanwhile is on none of the pages that follow; the last one may be empty.
        """
        require_int(limit, "limit", 1, _MOST_PAGE)
        if status is not None and status not in ("open", "complete", "failed"):
            raise ValueError(f"status must be 'open', 'complete' or 'failed', was {status!r}")
        wanted = None if verdict is None else _verdict(verdict)
        if task is not None:
            task = as_kept(_text(task, "task"), self.ledger.scrubber())
        if agent_id is not None:
            stem = "a" + hashed(_text(agent_id, "agent_id"))
        elif task is not None:
            stem = "t" + hashed(task)
        else:
            stem = "n" if wanted is None else "v" + hashed(wanted)
        most = self._limit(as_of)
        latest = most if end is None else min(most, instant_ns(end, "end") - 1)
        earliest = 0 if start is None else instant_ns(start, "start")
        if latest < earliest:
            return TrajectoryPage((), None)
        behind = _checked_cursor(cursor)

        def passes(it: Trajectory) -> bool:
            return (
                (agent_id is None or it.agent_id == agent_id)
                and (task is None or it.task == task)
                and (wanted is None or (bool(it.verdicts) and it.verdicts[-1].verdict == wanted))
                and (status is None or it.status == status)
            )

        found: list[Trajectory] = []
        tails = self.ledger.tails(stem, max(newest_first(latest), behind), newest_first(earliest), limit + 1)
        last = ""
        while len(found) < limit and (names := list(islice(tails, limit - len(found)))):
            last = names[-1]
            for it in self._shown_all([name[16:] for name in names], most, as_of):
                if it is not None and passes(it):
                    found.append(it)
        more = len(found) >= limit and next(tails, None) is not None
        return TrajectoryPage(tuple(found), last if more else None)

    afind = twin(find)

    def _shown_all(self, names: Sequence[str], limit: int, as_of: AsOf) -> Iterator[Trajectory | None]:
        for name, state in self.ledger.load(names):
            if not state.steps:
                raise CorruptionError(f"trajectory {name} is in the index and nowhere else; restore a backup")
            yield self._shown(name, state, limit, as_of)

    def similar(
        self,
        query: ArrayLike,
        k: int = 10,
        *,
        agent_id: str | None = None,
        task: str | None = None,
        verdict: Verdict | str | None = None,
        as_of: AsOf = None,
        min_score: float | None = None,
    ) -> list[tuple[Trajectory, float]]:
        """Return trajectories whose first embedding is nearest to `query`, with its cosine, the nearest first.

        The first as of then. Trajectories with embeddings of other dimensions are not found.
        """
        import numpy as np

        require_int(k, "k", 1, _MOST_PAGE)
        numbers = np.asarray(query)
        if numbers.ndim != 1 or not len(numbers):
            raise ValueError(f"query must be one embedding of shape (n,), was of shape {numbers.shape}")
        if agent_id is not None:
            _text(agent_id, "agent_id")
        if task is not None:
            task = as_kept(_text(task, "task"), self.ledger.scrubber())
        wanted = None if verdict is None else _verdict(verdict)
        where = {name: value for name, value in (("agent_id", agent_id), ("task", task)) if value is not None}
        limit, asked = self._limit(as_of), k
        while True:
            hits = self.ledger.vectors().search(
                Situations(len(numbers)), numbers, asked, where=where or None, as_of=limit, min_score=min_score
            )
            found = []
            for (name, state), hit in zip(self.ledger.load([hit.id[:ID_SIZE] for hit in hits]), hits, strict=True):
                first = state.embedding(limit)  # None: who added the vector died, or has not added its event yet
                if first is None or situation(name, first) != hit.id:
                    continue
                it = self._shown(name, state, limit, as_of)
                if it is not None and (wanted is None or (bool(it.verdicts) and it.verdicts[-1].verdict == wanted)):
                    found.append((it, hit.score))
            if len(found) >= k or len(hits) < asked:
                return found[:k]
            asked *= 4

    asimilar = twin(similar)

    def pending(
        self, *, agent_id: str | None = None, older_than: Duration | None = None, as_of: AsOf = None
    ) -> list[PendingOutcome]:
        """Return the actions whose outcome was not known, the oldest first.

        Parameters
        ----------
        older_than : float or timedelta, optional
            Only those that were known for so many seconds.

        Notes
        -----
        **Complexity**: O(pending, and those whose outcome became known after `as_of`).
        """
        most = self._limit(as_of)
        if agent_id is not None:
            _text(agent_id, "agent_id")
        youngest = MAX_INSTANT
        if older_than is not None:
            youngest = (self.now() if as_of is LATEST else most) - duration_ns(older_than, "older_than")
        names = {tail[16:]: None for tail in self.ledger.tails("o", newest_first(most), newest_first(0))}
        for tail in self.ledger.tails("r", "", newest_first(min(most + 1, MAX_INSTANT)), _FEW):
            names[tail[16 : 16 + ID_SIZE]] = None
        found = []
        for name, state in self.ledger.load(list(names)):
            seen = state.seen(most) if state.steps else None
            if seen is None or (agent_id is not None and seen.begun.agent_id != agent_id):
                continue
            for each in seen.unresolved:
                step = seen.actions[each]
                if step.since <= youngest and isinstance(step.event, Acted):
                    found.append((step.since, _pending(name, seen.begun, step.event)))
        return [it for _, it in sorted(found, key=lambda each: (each[0], each[1].trajectory_id, each[1].action.id))]

    apending = twin(pending)

    def past(self, trajectory: Trajectory, action: Action) -> tuple[Past, ...]:
        """Return the latest outcomes of such actions that were known when this one was, the latest first.

        100 at most, of other actions of its type by this agent in this task.
        """
        is_return = action.reference is not None
        stem = past_stem(trajectory.agent_id, trajectory.task, action.type, is_return=is_return)
        return self.ledger.past(stem, action.ts_known, _MOST_PAST, (trajectory.id, action.id))

    def count(self) -> int:
        """Return how many trajectories there are. O(handles of the store that have begun one)."""
        return self.ledger.count()

    __len__ = count

    def __bool__(self) -> bool:
        return True

    def _limit(self, as_of: AsOf) -> int:
        if as_of is None:
            return self.now()
        return MAX_INSTANT if as_of is LATEST else instant_ns(as_of, "as_of")


def _pending(name: str, begun: Begun, event: Acted) -> PendingOutcome:
    due = None if event.horizon is None else min(event.ts_event + event.horizon, MAX_INSTANT)
    return PendingOutcome(name, begun.agent_id, begun.task, public_action(event), due)


def _check_id(trajectory_id: Any) -> None:
    if not isinstance(trajectory_id, str):
        raise TypeError(f"trajectory_id must be a str, was {type(trajectory_id).__name__}")
    if not is_id(trajectory_id):
        raise ValueError(f"trajectory_id must be an id that a trajectory has, was {trajectory_id[:64]!r}")


def _checked_cursor(cursor: str | None) -> str:
    """Return what no key up to the cursor is, and all behind it are."""
    if cursor is None:
        return ""
    if not isinstance(cursor, str):
        raise TypeError(f"cursor must be a str, was {type(cursor).__name__}")
    if len(cursor) != TAIL_SIZE or not is_id(cursor[16:]) or set(cursor[:16]) - set("0123456789abcdef"):
        raise ValueError(f"cursor must be that of a page, was {cursor[:64]!r}")
    return cursor + "\0"


def _verdict(verdict: Verdict | str) -> str:
    try:
        return Verdict(verdict).value
    except ValueError:
        known = ", ".join(each.value for each in Verdict)
        raise ValueError(f"verdict must be one of {known}, was {verdict!r}") from None


def _text(text: Any, name: str) -> str:
    if not isinstance(text, str):
        raise TypeError(f"{name} must be a str, was {type(text).__name__}")
    return text
