"""A trajectory: what an agent saw, did and expected, and what came of it.

**Invariants**

- What is added to a trajectory that the store has is in the store when the call returns. Each step is taken on the
  condition that nobody has it, and decided anew if somebody has: all see one order.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Protocol, Self

from msgspec import Struct

from .._core.text import html_facts
from ..instants import MAX_INSTANT, NS, Duration, Instant, duration_ns, instant_ns
from ..values import CODECS
from .checks import check_text, encode_embedding, require_number
from .events import Acted, Advised, Begun, Completed, Event, Judged, Resolved, Seen
from .scrubbed import scrubbed
from .state import Make, State

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import ArrayLike, NDArray

    from ..scrubbing import Scrubber

_CODEC = CODECS["msgpack"]
_MOST_NAME, _MOST_TASK = 255, 4096


class Observation(Struct, frozen=True):
    """What was seen. `embedding` is an array of float32, or None."""

    data: Any
    embedding: NDArray[np.float32] | None
    ts_event: int
    ts_known: int


class Action(Struct, frozen=True):
    """What was done, and what was expected of it.

    Attributes
    ----------
    id : str
        Within its trajectory.
    type : str
    parameters
    predicted_outcome : float or None
    reference : float or None
        A price level: prediction and outcome are levels, too, and are judged as returns from it. None: they are
        rewards.
    horizon : float or None
        Seconds after which the outcome was expected.
    ts_event, ts_known : int
        Nanoseconds UTC.
    """

    id: str
    type: str
    parameters: Any
    predicted_outcome: float | None
    reference: float | None
    horizon: float | None
    ts_event: int
    ts_known: int


class Outcome(Struct, frozen=True):
    """What came of an action; `action_id` None: of the whole."""

    value: float
    action_id: str | None
    ts_event: int
    ts_known: int


class Keeper(Protocol):
    """What keeps trajectories, such as a :class:`~ntmem.reasoningbank.ledger.Ledger`."""

    @property
    def scrubber(self) -> Callable[[], Scrubber | None]: ...
    def now(self) -> int: ...
    def append(self, trajectory_id: str, state: State, make: Make) -> Event: ...
    def extend(self, trajectory_id: str, state: State) -> None: ...


class Trajectory:
    """What an agent saw, did and expected, and what came of it.

    Made on its own it is kept when it is given to ``memory.track_trajectory``; made by ``memory.bank.begin``, got from
    the store, or once tracked, everything that is added is in the store when the call returns. As a context manager it
    is completed at the end: as failed, if that is an exception.

    Parameters
    ----------
    agent_id : str
        At most 255 bytes of UTF-8.
    task : str
        What it is about, at most 4096 bytes.
    ts_event, ts_known : instant, optional
        When it began, and when that was known; by default when it is tracked. What is added takes the store's time for
        both as well, unless it says otherwise: who loads the past says for each thing when it was known.

    Notes
    -----
    **Thread safety**: any thread; two objects, or processes, may add to one trajectory. **Complexity**: adding is one
    group of at most five records.

    Examples
    --------
    >>> import ntmem
    >>> with ntmem.open() as memory:
    ...     t = ntmem.Trajectory("agent_1")
    ...     t.add_observation({"price": 100.0})
    ...     _ = t.add_action("buy", {"quantity": 10}, predicted_outcome=110.0, reference=100.0)
    ...     t.add_outcome(105.0)
    ...     _ = memory.track_trajectory(t)
    ...     memory.bank.judge(t.id, judge=ntmem.RelativeErrorJudge()).verdict
    <Verdict.CORRECT: 'correct'>
    """

    def __init__(
        self, agent_id: str, task: str = "", *, ts_event: Instant | None = None, ts_known: Instant | None = None
    ) -> None:
        self._lock = threading.RLock()
        self._state = State()
        self._id = ""
        self._keeper: Keeper | None = None
        self._as_of: int | None = None
        self._state.apply(begun(agent_id, task, ts_event, ts_known, _UNSAID))

    @classmethod
    def of(cls, trajectory_id: str, state: State, keeper: Keeper | None, as_of: int | None) -> Self:
        """Return the trajectory of a store; without a keeper as it was seen `as_of` an instant. Called by the store."""
        made = cls.__new__(cls)
        made._lock = threading.RLock()
        made._state, made._id, made._keeper, made._as_of = state, trajectory_id, keeper, as_of
        return made

    # -- adding

    def add(self, make: Make) -> Event:
        """Add the event that `make` returns, as often as it takes. Called by the parts of the bank."""
        with self._lock:
            if self._as_of is not None:
                raise ValueError(
                    f"trajectory {self._id} is as it was seen at {self._as_of}; get it without as_of to add"
                )
            if self._keeper is not None:
                return self._keeper.append(self._id, self._state, make)
            event = make(self._state, _UNSAID)
            self._state.apply(event)
            return event

    def track(self, keeper: Keeper, trajectory_id: str) -> str:
        """Let a store keep it from now on; return its id. Called by ``memory.track_trajectory``."""
        with self._lock:
            if self._keeper is keeper:
                return self._id
            if self._id:
                raise ValueError(f"this trajectory is kept already, as {self._id}; make another one")
            now, state, scrubber = keeper.now(), State(), keeper.scrubber()
            for step in self._state.steps:
                state.apply(scrubbed(_said(step.event, now), scrubber))
            keeper.extend(trajectory_id, state)
            self._state, self._id, self._keeper = state, trajectory_id, keeper
            return self._id

    def _encoded(self, value: Any) -> bytes:
        """Return a value as it stands in the store; the caller holds the lock, so nobody tracks it meanwhile."""
        scrubber = None if self._keeper is None else self._keeper.scrubber()
        return _CODEC.encode(value if scrubber is None else scrubber.nested(value))

    def add_observation(
        self,
        data: Any,
        embedding: ArrayLike | None = None,
        *,
        ts_event: Instant | None = None,
        ts_known: Instant | None = None,
    ) -> None:
        """Add what was seen.

        Parameters
        ----------
        data : object
            Anything that the msgpack codec takes.
        embedding : array of float, shape (n,), optional
            Finite and not all zero. The first one of a trajectory is what ``similar()`` finds it by.

        Raises
        ------
        SerializationError
            `data` would not come back as it is.
        ValueError
            The trajectory is complete; the embedding has NaN or infinity, or is zero.
        """
        numbers = None if embedding is None else encode_embedding(embedding)

        def make(state: State, now: int) -> Event:
            state.require_open()
            return Seen(_instant(ts_event, now), _instant(ts_known, now), encoded, numbers)

        with self._lock:
            encoded = self._encoded(data)
            self.add(make)

    def add_action(
        self,
        type: str,
        parameters: Any = None,
        predicted_outcome: float | None = None,
        *,
        reference: float | None = None,
        horizon: Duration | None = None,
        ts_event: Instant | None = None,
        ts_known: Instant | None = None,
    ) -> str:
        """Add what was done; return the id of the action, by which its outcome names it.

        Parameters
        ----------
        predicted_outcome : float, optional
            What is expected: a price level if there is a `reference`, else a reward.
        reference : float, optional
            The price level from which returns are counted; more than 0.
        horizon : float or timedelta, optional
            Seconds after which the outcome is expected.
        """
        check_text(type, "type", _MOST_NAME)
        predicted = None if predicted_outcome is None else require_number(predicted_outcome, "predicted_outcome")
        level = None if reference is None else require_number(reference, "reference", above=0)
        ahead = None if horizon is None else duration_ns(horizon, "horizon")

        def make(state: State, now: int) -> Event:
            state.require_open()
            name = f"a{len(state.actions) + 1}"
            return Acted(_instant(ts_event, now), _instant(ts_known, now), name, type, encoded, predicted, level, ahead)

        with self._lock:
            encoded = self._encoded(parameters)
            event = self.add(make)
        assert isinstance(event, Acted)
        return event.id

    def add_outcome(
        self,
        outcome: float,
        *,
        action_id: str | None = None,
        ts_event: Instant | None = None,
        ts_known: Instant | None = None,
    ) -> None:
        """Add what came of an action, as late as it may be.

        Parameters
        ----------
        outcome : float
            Finite: a price level if the action has a reference, else a reward.
        action_id : str, optional
            None: the only action without an outcome; of a trajectory without actions, the whole. A second outcome of
            an action, which must name it, corrects the first from when it is known.
        ts_known : instant, optional
            By default now. Who asks as of before it does not see it.

        Raises
        ------
        ValueError
            It is not clear of which action it is, or there is none of that id; the outcome is NaN or infinite.
        """
        value = require_number(outcome, "outcome")

        def make(state: State, now: int) -> Event:
            return Resolved(_instant(ts_event, now), _instant(ts_known, now), value, state.linked(action_id))

        self.add(make)

    def complete(
        self, status: str = "complete", *, ts_event: Instant | None = None, ts_known: Instant | None = None
    ) -> None:
        """Say that nothing more will be seen or done: "complete", or "failed". Outcomes may still come.

        Twice is fine; the first says how.
        """
        if status not in ("complete", "failed"):
            raise ValueError(f"status must be 'complete' or 'failed', was {status!r}")

        def make(state: State, now: int) -> Event:
            if state.status != "open":
                raise _IsComplete
            return Completed(_instant(ts_event, now), _instant(ts_known, now), status)

        with suppress(_IsComplete):
            self.add(make)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, *exc: object) -> None:
        self.complete("complete" if kind is None else "failed")

    # -- reading

    @property
    def id(self) -> str:
        """Its id, a ULID; empty before it is tracked."""
        return self._id

    @property
    def agent_id(self) -> str:
        """Whose it is."""
        return self._state.begun.agent_id

    @property
    def task(self) -> str:
        """What it is about."""
        return self._state.begun.task

    @property
    def run_id(self) -> str:
        """The run that it is an attempt of (see :meth:`ReasoningBank.matts`); empty: of none."""
        return self._state.begun.run_id

    @property
    def attempt(self) -> int:
        """Which attempt of its run it is, from 1; 0: of none."""
        return self._state.begun.attempt

    @property
    def status(self) -> str:
        """What it has come to: "open", "complete" or "failed"."""
        return next((event.status for event in self.events() if isinstance(event, Completed)), "open")

    @property
    def start(self) -> int | None:
        """When it began, ns UTC; None before it is tracked, unless that was said."""
        return _shown(self._state.begun.ts_event)

    @property
    def end(self) -> int | None:
        """When it was completed, ns UTC; None: it is open."""
        found = (event.ts_event for event in self.events() if isinstance(event, Completed))
        return next(map(_shown, found), None)

    @property
    def observations(self) -> tuple[Observation, ...]:
        """What was seen, in order."""
        return tuple(
            Observation(_CODEC.decode(it.data), _embedding(it.embedding), it.ts_event, it.ts_known)
            for it in self.events()
            if isinstance(it, Seen)
        )

    @property
    def actions(self) -> tuple[Action, ...]:
        """What was done, in order."""
        return tuple(public_action(it) for it in self.events() if isinstance(it, Acted))

    @property
    def outcomes(self) -> tuple[Outcome, ...]:
        """What came of it, in the order of recording; what comes later of an action corrects what came before."""
        return tuple(
            Outcome(it.value, it.action_id, it.ts_event, it.ts_known)
            for it in self.events()
            if isinstance(it, Resolved)
        )

    @property
    def verdicts(self) -> tuple[Judged, ...]:
        """How it was judged, in order."""
        return tuple(it for it in self.events() if isinstance(it, Judged))

    @property
    def advice(self) -> tuple[Advised, ...]:
        """What was recalled for it, in order."""
        return tuple(it for it in self.events() if isinstance(it, Advised))

    def outcome_of(self, action_id: str) -> Outcome | None:
        """Return what came of an action, as known latest; None: it is pending."""
        return self.latest_outcomes().get(action_id)

    def latest_outcomes(self) -> dict[str | None, Outcome]:
        """Return what came of each action, by its id, as known latest (of several the one recorded last).

        None: of the whole.
        """
        found: dict[str | None, tuple[int, Outcome]] = {}
        limit = self._limit()
        for step in [*self._state.steps]:
            it, since = step.event, step.since
            if since <= limit and isinstance(it, Resolved) and since >= found.get(it.action_id, (-1, None))[0]:
                found[it.action_id] = since, Outcome(it.value, it.action_id, it.ts_event, it.ts_known)
        return {name: outcome for name, (_, outcome) in found.items()}

    @property
    def unresolved(self) -> tuple[Action, ...]:
        """The actions that nothing has come of yet."""
        known = {it.action_id for it in self.events() if isinstance(it, Resolved)}
        return tuple(it for it in self.actions if it.id not in known)

    def events(self) -> Iterator[Event]:
        """Yield what is seen of it, in order."""
        limit = self._limit()
        return iter([step.event for step in self._state.steps if step.since <= limit])

    def _limit(self) -> int:
        if self._as_of is not None:
            return self._as_of
        return MAX_INSTANT if self._keeper is None else self._keeper.now()

    def __reduce__(self) -> tuple[Any, ...]:
        raise TypeError("a trajectory cannot be pickled; pass its id, and get it from the store there")

    def __repr__(self) -> str:
        name = self._id or "not tracked"
        return f"<Trajectory {name} {self.agent_id!r} {self.status} actions={len(self.actions)}>"

    def _repr_html_(self) -> str:
        facts = {name: getattr(self, name) for name in ("id", "agent_id", "task", "status", "start", "end")}
        counts = {name: len(getattr(self, name)) for name in ("observations", "actions", "outcomes", "unresolved")}
        return html_facts((facts | counts).items())


_UNSAID = -1  # the time of what is not kept yet


class _IsComplete(Exception):
    """There is nothing to do."""


def _embedding(data: bytes | None) -> NDArray[np.float32] | None:
    if data is None:
        return None
    import numpy as np

    return np.frombuffer(data, "<f4")


def public_action(event: Acted) -> Action:
    """Return an action as its users see it."""
    return Action(
        event.id,
        event.type,
        _CODEC.decode(event.parameters),
        event.predicted_outcome,
        event.reference,
        None if event.horizon is None else event.horizon / NS,
        event.ts_event,
        event.ts_known,
    )


def begun(agent_id: Any, task: Any, ts_event: Instant | None, ts_known: Instant | None, now: int) -> Begun:
    """Return the first event of a trajectory, its arguments checked; `now` is the time of what says none."""
    check_text(agent_id, "agent_id", _MOST_NAME)
    check_text(task, "task", _MOST_TASK, least=0)
    return Begun(_instant(ts_event, now), _instant(ts_known, now), agent_id, task)


def _instant(given: Instant | None, now: int) -> int:
    return now if given is None else instant_ns(given, "ts_event or ts_known")


def _shown(ns: int) -> int | None:
    return None if ns == _UNSAID else ns


def _said(event: Event, now: int) -> Event:
    """Return an event with the times that were left open."""
    if event.ts_event != _UNSAID and event.ts_known != _UNSAID:
        return event
    from msgspec.structs import replace

    event_at = now if event.ts_event == _UNSAID else event.ts_event
    return replace(event, ts_event=event_at, ts_known=now if event.ts_known == _UNSAID else event.ts_known)
