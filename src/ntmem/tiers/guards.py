"""Who may write what: records that were written under a lease, namespaces that have an owner or are the store's own.

**Invariants**

- A record that was written under a lease is replaced or deleted only under that lease or a later one of the same
  resource, until it is deleted or has expired (I8: later ones have higher numbers).
- Whether the lease of a write is current is not looked at here: the log does that where it cannot change any more
  (``_core/log_write.h``).
"""

from __future__ import annotations

from typing import NamedTuple

from ..errors import NotOwner, StaleFence
from ..records import Change, Fence
from .layout import DELETED, FENCED, NamespaceRow, Stored


def check_guard(change: Change, newest: Stored | None, fence: Fence | None, now: int) -> None:
    """Raise :class:`StaleFence` if the newest version of a key was written under a lease that `fence` does not follow.

    `now` is the store's: what has expired guards nothing.
    """
    if newest is None or not newest.flags & FENCED or newest.flags & DELETED or newest.expired(now):
        return
    guard = newest.fence
    assert guard is not None
    name = change.key.decode()
    if fence is None:
        raise StaleFence(
            f"{name!r} was written under the lock of {guard.resource!r}: change it under that lock (fence=), or delete "
            "it under it first"
        )
    if fence.resource != guard.resource:
        raise StaleFence(
            f"{name!r} was written under the lock of {guard.resource!r}, the fence is one of {fence.resource!r}: "
            "change it under the lock that guards it"
        )
    if fence.number < guard.number:
        raise StaleFence(f"{name!r} was written under the later lease {guard.number}, the fence is {fence.number}")


class Part(NamedTuple):
    """A part of the store that has namespaces of its own."""

    whose: str
    by: str
    remedy: str = ""
    """For who wants to be rid of what is there."""


POSITIONS, ENTRIES = ("ntmem", "positions"), ("ntmem", "fills")
INSTRUMENTS, RESERVATIONS = ("ntmem", "instruments"), ("ntmem", "reservations")
VOTERS, PROPOSALS, TALLIES = ("ntmem", "voters"), ("ntmem", "proposals"), ("ntmem", "tallies")
VOTES, OUTCOMES, DECISIONS = ("ntmem", "votes"), ("ntmem", "outcomes"), ("ntmem", "decisions")

MESSAGES, CURSORS = ("ntmem", "messages"), ("ntmem", "cursors")
SERIES, ROWS = ("ntmem", "series"), ("ntmem", "rows")
BLOCKS, VECTORS = ("ntmem", "blocks"), ("ntmem", "embeddings")
COLLECTIONS, POINTS = ("ntmem", "collections"), ("ntmem", "vectors")
TRAJECTORIES, TRAJECTORY_INDEX = ("ntmem", "trajectories"), ("ntmem", "trajectory_index")
SESSIONS, SESSION_DATA = ("ntmem", "sessions"), ("ntmem", "session_data")
RETENTION = ("ntmem", "retention")
RUNS = ("ntmem", "runs")
PATTERNS, DISTILLING = ("ntmem", "patterns"), ("ntmem", "distilling")
MEMORIES, INTERCHANGE = ("ntmem", "memories"), ("ntmem", "interchange")
IMPORTS = ("ntmem", "imports")
_BOOK = Part("the position book", "memory.positions", " (purge_closed() makes it small)")
_CONSENSUS = Part("consensus", "memory.consensus")
_BUS = Part("the bus", "memory.publish", " (memory.bus.trim() makes it small)")
_OBSERVATIONS = Part("the observations", "memory.observations")
_BANK = Part("the trajectories", "memory.bank")
_DISTILLER = Part("the patterns", "memory.bank")
_MEMORIES = Part("the reasoning memories", "memory.bank")
_SESSIONS = Part("the sessions", "memory.session", " (end() removes a session)")
_VECTORS = Part("the vectors", "memory.vectors", " (drop() removes a collection)")
OWN: dict[tuple[str, ...], Part] = {
    **dict.fromkeys((POSITIONS, ENTRIES, INSTRUMENTS, RESERVATIONS), _BOOK),
    **dict.fromkeys((VOTERS, PROPOSALS, TALLIES, VOTES, OUTCOMES, DECISIONS), _CONSENSUS),
    **dict.fromkeys((MESSAGES, CURSORS), _BUS),
    **dict.fromkeys((SERIES, ROWS, BLOCKS, VECTORS), _OBSERVATIONS),
    **dict.fromkeys((COLLECTIONS, POINTS), _VECTORS),
    **dict.fromkeys((TRAJECTORIES, TRAJECTORY_INDEX, RUNS), _BANK),
    **dict.fromkeys((PATTERNS, DISTILLING), _DISTILLER),
    **dict.fromkeys((MEMORIES, INTERCHANGE), _MEMORIES),
    IMPORTS: Part("imports", "memory.import_"),
    RETENTION: Part("retention", "memory.retain"),
    **dict.fromkeys((SESSIONS, SESSION_DATA), _SESSIONS),
}
"""Namespaces of the store's own parts, each of which alone writes to them."""


SITUATIONS = (TRAJECTORIES, PATTERNS, MEMORIES)
"""Namespaces below which there are collections of the bank's."""


class Situations(tuple[str, ...]):
    """Labels of a collection of the bank's, of vectors of so many numbers, as only the bank gives them."""

    __slots__ = ()

    def __new__(cls, dimension: int, below: tuple[str, ...] = TRAJECTORIES) -> Situations:
        """Return those of a dimension; `below` says what they are of."""
        return super().__new__(cls, (*below, str(dimension)))


def check_situations(namespace: object, labels: tuple[str, ...]) -> None:
    """Raise :class:`NotOwner` if a collection is the bank's, and it is not the bank that gives its name."""
    part = OWN.get(labels[:2]) if labels[:2] in SITUATIONS else None
    if part is not None and not isinstance(namespace, Situations):
        raise NotOwner(f"the vectors of {'/'.join(labels)} belong to {part.whose}; they are added by {part.by}")


def check_own(labels: tuple[str, ...]) -> None:
    """Raise :class:`NotOwner` if a namespace is that of a part of the store."""
    part = OWN.get(labels)
    if part is not None:
        raise NotOwner(f"{'/'.join(labels)} belongs to {part.whose}; change it by {part.by}")


def check_free(labels: tuple[str, ...]) -> None:
    """Raise :class:`NotOwner` if a part of the store has a namespace at or below `labels`."""
    for each, part in OWN.items():
        if each[: len(labels)] == labels:
            raise NotOwner(f"{'/'.join(each)} belongs to {part.whose}; change it by {part.by}{part.remedy}")


def check_owner(owner: str, writer: bytes, labels: tuple[str, ...]) -> None:
    """Raise :class:`NotOwner` unless a namespace has no owner, or this one."""
    if owner and owner.encode() != writer:
        raise NotOwner(
            f"{'/'.join(labels)} belongs to {owner!r}, this store was opened by {writer.decode()!r}; open it with "
            f"agent_id={owner!r}, or let the owner disown it"
        )


def new_owner(row: NamespaceRow, owner: str, writer: bytes) -> NamespaceRow:
    """Return the row of a namespace that is given to `owner` ("": to nobody) by `writer`."""
    check_owner(row.owner, writer, row.labels)
    return row._replace(owner=owner)
