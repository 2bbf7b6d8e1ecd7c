"""The steps of trajectories in a store: written one after the other, read again, and found by what leads to them.

:mod:`ntmem.reasoningbank.events` has the layout.

**Invariants**

- An event and its entries in the index are one group, on the condition that nobody has its step: an index never lies.
- The index has more than is asked for (a verdict that was replaced, an action that has an outcome by now): what is
  found in it is looked at as of the instant, and left out if it is not so.
- A state has the mark of the log from before its last step was looked for, or written: so whatever the log does not
  have behind the mark, nobody has written.
- The vector of an embedding is there before the event that says so: no trajectory is missed by similarity.
"""

from __future__ import annotations

import threading
import uuid
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

from .._core.logrecords import ValueTooLarge
from ..errors import CorruptionError, ReadOnlyError, StorageError, VersionConflict
from ..records import Change, Fence
from ..tiers.engine import LmdbEngine
from ..tiers.guards import TRAJECTORIES, TRAJECTORY_INDEX, Situations
from ..tiers.log import LogEngine
from .events import (
    ID_SIZE,
    MOST_STEPS,
    Acted,
    Event,
    Judged,
    Past,
    Resolved,
    Seen,
    decode_count,
    decode_event,
    decode_past,
    due_key,
    encode_count,
    encode_event,
    encode_past,
    event_key,
    hashed,
    newest_first,
    past_stem,
    situation,
)
from .scrubbed import no_scrubber
from .state import Make, Mark, State
from .verdict import relative

if TYPE_CHECKING:
    from ..scrubbing import Scrubber
    from ..tiers.vectors import VectorStore

_ATTEMPTS = 1000
_FIRST_STEPS = 8  # of each of many trajectories that are asked for at first
_PAGE = 256  # keys of the index that are read at once
_QUICK = 64  # records of a group that is put at once, without a look at each

Values = list[tuple[tuple[str, ...], bytes, bytes]]


class Ledger:
    """The steps of the trajectories of a store; what is written here is written under `fence`, if there is one."""

    def __init__(
        self,
        engine: Callable[[], LmdbEngine],
        vectors: Callable[[], VectorStore],
        *,
        durable: bool,
        fence: Callable[[], Fence] | None = None,
        scrubber: Callable[[], Scrubber | None] = no_scrubber,
    ) -> None:
        self.engine = engine
        self.vectors = vectors
        self.durable = durable
        self._fence = fence
        self.scrubber = scrubber
        self._lock = threading.RLock()
        self._count = 0
        self._count_key = _new_count_key()

    def now(self) -> int:
        """Return the store's time, int ns UTC."""
        return self.engine().now()

    def writable(self) -> LmdbEngine:
        """Return the engine; raise :class:`ReadOnlyError` if it takes nothing."""
        engine = self.engine()
        if engine.read_only:
            raise ReadOnlyError("this store was opened with read_only=True; open it for writing")
        return engine

    # -- writing

    def append(self, trajectory_id: str, state: State, make: Make) -> Event:
        """Add an event to a trajectory, of which `state` is what is known; return it."""
        for _ in range(_ATTEMPTS):
            engine = self.writable()
            mark = mark_of(engine)
            step = len(state.steps)
            try:
                event = make(state, engine.now())
            except ValueError:  # others may have added what makes it right
                self.refresh(trajectory_id, state)
                if len(state.steps) == step:
                    raise
                continue
            values: Values = [(TRAJECTORIES, event_key(trajectory_id, step), encode_event(event))]
            drops = _index(trajectory_id, state, step, event, values)
            self._embed(trajectory_id, state, event)
            if self._put(engine, values, drops, state.mark):
                state.mark = mark
                state.apply(event)
                return event
            self.refresh(trajectory_id, state)
        raise StorageError(f"others added to trajectory {trajectory_id} {_ATTEMPTS} times meanwhile; try again")

    def extend(self, trajectory_id: str, state: State, also: Sequence[Change] = ()) -> None:
        """Keep a trajectory that the store does not have, and what else is to change with it, all of it or nothing.

        Raises
        ------
        VersionConflict
            A condition of `also` does not hold any more.
        """
        begun = state.begun
        tail = newest_first(state.steps[0].since, trajectory_id)
        values: Values = [(TRAJECTORIES, event_key(trajectory_id, 0), encode_event(begun))]
        for stem in ("n", "a" + hashed(begun.agent_id), "t" + hashed(begun.task)):
            values.append((TRAJECTORY_INDEX, (stem + tail).encode(), b""))
        engine = self.writable()
        so_far, drops = State(), set[bytes]()
        so_far.apply(begun)
        for step, event in enumerate([each.event for each in state.steps[1:]], 1):
            values.append((TRAJECTORIES, event_key(trajectory_id, step), encode_event(event)))
            drops.update(_index(trajectory_id, so_far, step, event, values))
            self._embed(trajectory_id, so_far, event)
            so_far.apply(event)
        if drops and not state.unresolved:  # what was open for a while is not any more
            values = [each for each in values if each[1] not in drops]
        with self._lock:  # what is counted last is kept last
            values.append((TRAJECTORY_INDEX, self._count_key, encode_count(self._count + 1)))
            state.mark = mark_of(engine)  # nobody has this id, nor will have before this is written
            try:
                done = self._put(engine, values, (), state.mark, also)
            except VersionConflict:
                raise
            except BaseException:  # it may be there, and counted, or not: count on in another place
                self._count, self._count_key = 0, _new_count_key()
                raise
            if not done:
                raise StorageError(f"there is a trajectory {trajectory_id} already, by chance or by a clock; try again")
            self._count += 1

    def _put(
        self, engine: LmdbEngine, values: Values, drops: Sequence[bytes], mark: Mark, also: Sequence[Change] = ()
    ) -> bool:
        """Write a group; return False, having written nothing, if the key of the first is taken."""
        fence = None if self._fence is None else self._fence()
        if not also and fence is None and isinstance(engine, LogEngine) and mark is not None and len(values) < _QUICK:
            try:
                if engine.put_new(values, mark, [(TRAJECTORY_INDEX, key) for key in drops]):
                    return True
            except ValueTooLarge:
                pass  # the other way puts it elsewhere
        changes = [
            Change("put", space, key, value, if_version=None if place else 0, own=True)
            for place, (space, key, value) in enumerate(values)
        ]
        changes += [Change("delete", TRAJECTORY_INDEX, key, own=True) for key in drops]
        try:
            engine.commit([*changes, *also], self.durable, fence)
        except VersionConflict:
            if also:  # ids are taken by chance in 2**80; conditions fail
                raise
            return False
        return True

    def _embed(self, trajectory_id: str, state: State, event: Event) -> None:
        """Let a trajectory be found by an embedding, if it is ever the first that is seen; again: nothing new."""
        if not isinstance(event, Seen) or event.embedding is None or state.since(event) >= state.embedded_since:
            return
        import numpy as np

        numbers = np.frombuffer(event.embedding, "<f4")
        facts = {"agent_id": state.begun.agent_id, "task": state.begun.task}
        self.vectors().add(
            Situations(len(numbers)),
            situation(trajectory_id, event.embedding),
            numbers,
            facts,
            ts_event=event.ts_event,
            ts_known=state.since(event),
        )

    # -- reading

    def refresh(self, trajectory_id: str, state: State) -> None:
        """Take what others have added."""
        self._follow([(trajectory_id, state)])

    def load(self, ids: Sequence[str]) -> list[tuple[str, State]]:
        """Return trajectories as they are kept; such as there are none of have no steps."""
        states = [(name, State()) for name in ids]
        self._follow(states)
        return states

    def _follow(self, left: Sequence[tuple[str, State]]) -> None:
        """Bring trajectories to what the store has of them."""
        engine, count = self.engine(), _FIRST_STEPS
        mark = mark_of(engine)
        while left:
            keys = []
            for place, (name, state) in enumerate(left):
                stem, first = name.encode(), len(state.steps)
                keys += [((place, step), stem + b"%06x" % step) for step in range(first, first + count)]
            found, more = engine.fetch(TRAJECTORIES, keys), []
            for place, (name, state) in enumerate(left):
                first = len(state.steps)
                for step in range(first, first + count):
                    value = found.pop((place, step), None)
                    if value is None:
                        break
                    state.apply(decode_event(value, name, step))
                else:
                    more.append((name, state))
                state.mark = mark
            for place, _ in found:  # behind a gap
                name, state = left[place]
                raise CorruptionError(f"step {len(state.steps)} of trajectory {name} is missing; restore a backup")
            left, count = more, 4 * count

    def tails(self, stem: str, first: str, last: str, page: int = _PAGE) -> Iterator[str]:
        """Yield what stands behind `stem` in keys of the index from `first` to the instant `last`.

        They are read in pages of about so many.
        """
        size = len(stem)
        for key, _ in self.engine().scan(TRAJECTORY_INDEX, stem.encode(), (stem + first).encode(), None, page=page):
            tail = key[size:]
            if tail[:16] > last:
                return
            yield tail

    def due(self, limit: int, most: int, at_once: int) -> list[tuple[bytes, str, int]]:
        """Return the outcomes known by an instant that nothing was learnt from yet, as key, trajectory and step.

        `most` of them, the first known first, and what was known at the same instant as the last of these, but not more
        than `at_once`: which of one instant come first is chance.
        """
        found: list[tuple[bytes, str, int]] = []
        last = ""
        for key, _ in self.engine().scan(TRAJECTORY_INDEX, b"d", b"", at_once, page=most + 1):
            known = key[1:17]
            if int(known, 16) > limit or (len(found) >= most and known != last):
                break
            last = known
            found.append((key.encode(), key[17 : 17 + ID_SIZE], int(key[17 + ID_SIZE :], 16)))
        return found

    def past(self, stem: str, as_of: int, most: int, but: tuple[str, str]) -> tuple[Past, ...]:
        """Return the latest outcomes under a stem that were known by an instant, the latest first.

        Of an action that has several, the one that was known then; of `but`, a trajectory and its action, none.
        """
        first = (stem + newest_first(as_of)).encode()
        rows = self.engine().scan(TRAJECTORY_INDEX, stem.encode(), first, None, page=most + 1)
        found: dict[tuple[str, str], Past] = {}
        for key, data in rows:
            past, action_id = decode_past(data)
            whose = key[len(stem) + 16 : -6], action_id
            if whose != but:
                found.setdefault(whose, past)
            if len(found) == most:
                break
        return tuple(found.values())

    def count(self) -> int:
        """Return how many trajectories there are. O(handles of the store that have begun one)."""
        return sum(decode_count(value) for _, value in self.engine().scan(TRAJECTORY_INDEX, b"c", b"", None))


def _new_count_key() -> bytes:
    return b"c" + uuid.uuid4().hex.encode()


def mark_of(engine: LmdbEngine) -> Mark:
    """Return where the log of a store is, if it has one: as long as it stays there nothing is written."""
    return engine.mark if isinstance(engine, LogEngine) else None


def _index(trajectory_id: str, state: State, step: int, event: Event, values: Values) -> list[bytes]:
    """Add what an event puts into the index; return the keys that it removes from there."""
    if isinstance(event, Seen):
        return []
    tail = newest_first(state.steps[0].since, trajectory_id)
    if isinstance(event, Acted) and not state.unresolved:
        values.append((TRAJECTORY_INDEX, ("o" + tail).encode(), b""))
    elif isinstance(event, Judged):
        values.append((TRAJECTORY_INDEX, f"v{hashed(event.verdict)}{tail}".encode(), b""))
    elif isinstance(event, Resolved) and event.action_id is not None:
        place = newest_first(state.since(event), f"{trajectory_id}{MOST_STEPS - 1 - step:06x}")
        values.append((TRAJECTORY_INDEX, ("r" + place).encode(), b""))
        values.append((TRAJECTORY_INDEX, due_key(state.since(event), trajectory_id, step), b""))
        action = state.actions[event.action_id].event
        assert isinstance(action, Acted)
        stem = past_stem(state.begun.agent_id, state.begun.task, action.type, is_return=action.reference is not None)
        expected = relative(action.predicted_outcome, action.reference)
        actual = relative(event.value, action.reference)
        assert actual is not None
        values.append((TRAJECTORY_INDEX, (stem + place).encode(), encode_past(Past(actual, expected), event.action_id)))
        if [*state.unresolved] == [event.action_id]:
            return [("o" + tail).encode()]
    return []
