"""Which sessions there are, and who has them."""

from __future__ import annotations

from typing import NamedTuple

from ..tiers.engine import LmdbEngine
from ..tiers.guards import CURSORS, SESSION_DATA, SESSIONS
from ..values import CODECS
from .protocols import LockInfo
from .sessionkeys import CURSOR, KEYS, LOCK, TASKS, cursor_of, stem_of
from .shared import SharedLocks

PLAIN = CODECS["msgpack"]
"""Of what stands about a session itself."""


class SessionInfo(NamedTuple):
    """A session at one moment.

    Attributes
    ----------
    name : str
    agent_id : str
        Whose it is, or was last.
    account, strategy : str
        Under which it trades.
    held : bool
        Whether somebody has entered it.
    left : bool
        Whether who entered it last has left it; if not, and it is not held, it has died or was late.
    pid : int or None
        The process that entered it last, if it has not left it and this is known.
    alive : bool
        Whether that process lives.
    started, last_seen : int
        By the store's clock, ns UTC; the latter is its last write.
    resumed : int
        How often it was entered again.
    keys : int
        Of its mapping and its namespaces.
    open_trajectories : int
    """

    name: str
    agent_id: str
    account: str
    strategy: str
    held: bool
    left: bool
    pid: int | None
    alive: bool
    started: int
    last_seen: int
    resumed: int
    keys: int
    open_trajectories: int


def list_sessions(engine: LmdbEngine, locks: SharedLocks) -> list[SessionInfo]:
    """Return all sessions of a store, by name. O(keys of all)."""
    return listed(engine, locks, None)


def listed(engine: LmdbEngine, locks: SharedLocks, only: str | None) -> list[SessionInfo]:
    """Return all sessions, or only that of one name."""
    stem = b"" if only is None else only.encode()
    headers = {
        key.decode(): (PLAIN.decode(stored.value), stored.ts_known)
        for key, stored in engine.entries_of(SESSIONS, stem)
        if only is None or key == stem
    }
    keys, tasks = dict.fromkeys(headers, 0), dict.fromkeys(headers, 0)
    seen = {name: known for name, (_, known) in headers.items()}
    for raw, stored in engine.entries_of(SESSION_DATA, b"" if only is None else stem_of(only, "")):
        name, _, rest = raw.decode().partition("\0")
        if name in headers:
            keys[name] += rest.startswith(KEYS)
            tasks[name] += rest.startswith(TASKS)
            seen[name] = max(seen[name], stored.ts_known)
    for raw, stored in engine.entries_of(CURSORS, CURSOR.encode() if only is None else cursor_of(only, "").encode()):
        name = raw.decode()[len(CURSOR) :].partition("\0")[0]
        if name in headers:
            seen[name] = max(seen[name], stored.ts_known)
    found = []
    for name, (said, _) in headers.items():
        holder = None if said["left"] else holder_of(locks, name)
        held = holder is not None and holder.is_current
        pid = None if holder is None else holder.pid
        alive = holder is not None and holder.is_alive
        who = (said["agent"], said["account"], said["strategy"])
        times = (said["started"], seen[name], said["resumed"])
        found.append(SessionInfo(name, *who, held, said["left"], pid, alive, *times, keys[name], tasks[name]))
    return found


def holder_of(locks: SharedLocks, name: str) -> LockInfo | None:
    """Return who has a session; None: nobody has."""
    return next((info for info in locks.list(LOCK + name) if info.fence is not None), None)
