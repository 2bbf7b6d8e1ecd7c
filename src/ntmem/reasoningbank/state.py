"""How the events of a trajectory add up: what the next one may be, and what is seen as of an instant.

**Invariant** I7: nothing is seen as of an instant before it was known, nor before its trajectory, nor an outcome before
its action.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias, cast

from msgspec import Struct

from ..errors import CorruptionError
from ..instants import MAX_INSTANT
from .events import MOST_STEPS, Acted, Begun, Completed, Event, Resolved, Seen

Mark: TypeAlias = "tuple[int, int] | None"
"""Position and epoch of the log of a store, where there is one."""


class Step(Struct, gc=False):
    """An event, and from when on it is seen."""

    event: Event
    since: int


class State:
    """The events of a trajectory so far, and what the next one depends on."""

    def __init__(self) -> None:
        self.steps: list[Step] = []
        self.actions: dict[str, Step] = {}
        self.unresolved: dict[str, None] = {}  # in the order of the actions
        self.embedded_since = MAX_INSTANT + 1  # from when on an embedding is seen
        self.mark: Mark = None
        self.status = "open"

    @property
    def begun(self) -> Begun:
        """Its first event."""
        return cast("Begun", self.steps[0].event)

    def since(self, event: Event) -> int:
        """Return from when on an event would be seen, if it were the next."""
        since = event.ts_known
        if self.steps and since < self.steps[0].since:
            since = self.steps[0].since
        if isinstance(event, Resolved) and event.action_id is not None:
            action = self.actions.get(event.action_id)
            if action is None:
                raise CorruptionError(f"an outcome names the action {event.action_id!r}, which is missing")
            since = max(since, action.since)
        return since

    def apply(self, event: Event) -> None:
        """Take an event as the next."""
        step = Step(event, self.since(event))
        self.steps.append(step)
        if isinstance(event, Acted):
            self.actions[event.id] = step
            self.unresolved[event.id] = None
        elif isinstance(event, Resolved):
            self.unresolved.pop(event.action_id or "", None)
        elif isinstance(event, Seen):
            if event.embedding is not None:
                self.embedded_since = min(self.embedded_since, step.since)
        elif isinstance(event, Completed):
            self.status = event.status

    def embedding(self, limit: int) -> bytes | None:
        """Return the first embedding that is seen as of an instant."""
        seen = (it.event for it in self.steps if it.since <= limit and isinstance(it.event, Seen))
        return next((event.embedding for event in seen if event.embedding is not None), None)

    def seen(self, limit: int) -> State | None:
        """Return what is seen as of an instant, itself if that is all; None: nothing."""
        if self.steps[0].since > limit:
            return None
        seen = [step.event for step in self.steps if step.since <= limit]
        if len(seen) == len(self.steps):
            return self
        found = State()
        for event in seen:
            found.apply(event)
        return found

    def require_open(self) -> None:
        """Raise unless something may be seen or done yet."""
        if self.status != "open":
            raise ValueError(f"this trajectory is {self.status}: it takes outcomes only; begin another one")
        if len(self.steps) >= MOST_STEPS - 1:
            raise ValueError(f"a trajectory has {MOST_STEPS} steps at most; begin another one")

    def linked(self, action_id: Any) -> str | None:
        """Return the id of the action that an outcome is of, None: the whole."""
        if action_id is not None:
            if not isinstance(action_id, str):
                raise TypeError(f"action_id must be a str, was {type(action_id).__name__}")
            if action_id not in self.actions:
                raise ValueError(f"there is no action {action_id!r}; there are {', '.join(self.actions) or 'none'}")
            return action_id
        if len(self.unresolved) == 1:
            return next(iter(self.unresolved))
        if not self.actions:
            return None
        if not self.unresolved:
            raise ValueError("every action has an outcome; pass action_id to correct that of one")
        raise ValueError(
            f"the actions {', '.join(self.unresolved)} have no outcome yet; pass action_id to say whose it is"
        )


Make = Callable[[State, int], Event]
"""Returns the next event, by what there is and the store's time."""
