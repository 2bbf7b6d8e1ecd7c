"""What the events of trajectories say, computed anew: the index that there has to be, and every answer.

Nothing of the bank's own reading is used but its bytes: events are decoded, all else is worked out from them.
"""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np

import ntmem
from ntmem.reasoningbank.events import Acted, Begun, Event, Judged, Resolved, Seen, decode_event, decode_past
from ntmem.tiers.guards import TRAJECTORIES, TRAJECTORY_INDEX

LAST = 2**63 - 1


def events_of(memory: Any) -> dict[str, list[Event]]:
    """Return the events of each trajectory, in order, after checking that none is missing."""
    found: dict[str, list[Event]] = {}
    for key, stored in memory._engine().entries_of(TRAJECTORIES, b""):
        name, step = key[:26].decode(), int(key[26:], 16)
        events = found.setdefault(name, [])
        assert len(key) == 32
        assert step == len(events), f"step {len(events)} of {name} is missing"
        events.append(decode_event(stored.value, name, step))
    return found


def sinces(events: list[Event]) -> list[int]:
    """Return from when on each event is seen: from when all that it is about is."""
    actions: dict[str | None, int] = {}
    found = []
    for event in events:
        since = max(event.ts_known, events[0].ts_known)
        if isinstance(event, Resolved) and event.action_id is not None:
            since = max(since, actions[event.action_id])
        if isinstance(event, Acted):
            actions[event.id] = since
        found.append(since)
    return found


def as_seen(events: list[Event], limit: int = LAST) -> list[Event]:
    """Return the events that are seen as of an instant."""
    return [event for event, since in zip(events, sinces(events), strict=True) if since <= limit]


def unresolved(events: list[Event]) -> list[str]:
    """Return the ids of the actions that nothing has come of."""
    resolved = {it.action_id for it in events if isinstance(it, Resolved)}
    return [it.id for it in events if isinstance(it, Acted) and it.id not in resolved]


def first_embedding(events: list[Event]) -> np.ndarray | None:
    """Return the first embedding among events."""
    found = (it.embedding for it in events if isinstance(it, Seen) and it.embedding is not None)
    return next((np.frombuffer(it, "<f4") for it in found), None)


def _hash(*texts: str) -> str:
    return hashlib.blake2b("\0".join(texts).encode(), digest_size=16).hexdigest()


def index_of(name: str, events: list[Event]) -> dict[str, tuple[float, float | None, str] | None]:
    """Return the keys that stand in the index for a trajectory, with what they hold (None: nothing)."""
    begun = events[0]
    assert isinstance(begun, Begun)
    tail = f"{LAST - begun.ts_known:016x}{name}"
    found: dict[str, tuple[float, float | None, str] | None] = dict.fromkeys(
        [f"n{tail}", f"a{_hash(begun.agent_id)}{tail}", f"t{_hash(begun.task)}{tail}"]
    )
    if unresolved(events):
        found[f"o{tail}"] = None
    actions = {it.id: it for it in events if isinstance(it, Acted)}
    for step, (event, since) in enumerate(zip(events, sinces(events), strict=True)):
        if isinstance(event, Judged):
            found[f"v{_hash(event.verdict)}{tail}"] = None
        elif isinstance(event, Resolved) and event.action_id is not None:
            place = f"{LAST - since:016x}{name}{16**6 - 1 - step:06x}"
            found[f"r{place}"] = None
            found[f"d{since:016x}{name}{step:06x}"] = None  # nothing was learnt from it yet
            action = actions[event.action_id]
            level, expected = action.reference, action.predicted_outcome
            stem = _hash(begun.agent_id, begun.task, action.type, "reward" if level is None else "return")
            found[f"p{stem}{place}"] = (
                event.value if level is None else (event.value - level) / level,
                expected if level is None or expected is None else (expected - level) / level,
                event.action_id,
            )
    return found


def check_kept(memory: Any) -> dict[str, list[Event]]:
    """Check all of the index against all events, and what is found by it; return the events."""
    kept, events = memory.trajectories, events_of(memory)
    rows = {key.decode(): stored.value for key, stored in memory._engine().entries_of(TRAJECTORY_INDEX, b"")}
    expected: dict[str, Any] = {}
    for name, its in events.items():
        expected |= index_of(name, its)
    found = {key: value for key, value in rows.items() if not key.startswith("c")}
    assert sorted(found) == sorted(expected)
    for key, value in found.items():
        past = expected[key]
        if past is None:
            assert value == b""
        else:
            [*numbers], action_id = decode_past(value)
            assert (*numbers, action_id) == past, key
    assert kept.count() == len(kept) == len(events)

    page = kept.find(as_of=ntmem.LATEST, limit=10_000)
    assert page.cursor is None
    assert sorted(it.id for it in page.trajectories) == sorted(events)
    for it in page.trajectories:
        assert list(it.events()) == events[it.id]
    pending = [(it.trajectory_id, it.action.id) for it in kept.pending(as_of=ntmem.LATEST)]
    assert sorted(pending) == sorted((name, action) for name, its in events.items() for action in unresolved(its))

    firsts = {name: first_embedding(its) for name, its in events.items()}
    for size in {len(it) for it in firsts.values() if it is not None}:
        query = np.eye(size)[0]
        hits = {it.id: score for it, score in kept.similar(query, 10_000, as_of=ntmem.LATEST)}
        with_it = {name: it for name, it in firsts.items() if it is not None and len(it) == size}
        assert sorted(hits) == sorted(with_it)
        for name, it in with_it.items():
            assert abs(hits[name] - it[0] / np.linalg.norm(it)) < 0.02
    return events
