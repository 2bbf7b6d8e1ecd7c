"""Who may write what: records that were written under a lease, namespaces that have an owner.

**Invariants**

- A record that was written under a lease is replaced or deleted only under that lease or a later one of the same
  resource, until it is deleted or has expired (I8: later ones have higher numbers).
- Whether the lease of a write is current is not looked at here: the log does that where it cannot change any more
  (``_core/log_write.h``).
"""

from __future__ import annotations

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


BOOK = frozenset({("ntmem", name) for name in ("positions", "fills", "instruments", "reservations")})
"""Namespaces of the position book, which alone writes to them."""


def check_book(labels: tuple[str, ...]) -> None:
    """Raise :class:`NotOwner` if a namespace is the position book's."""
    if labels in BOOK:
        raise NotOwner(f"{'/'.join(labels)} belongs to the position book; change it by memory.positions")


def check_free(labels: tuple[str, ...]) -> None:
    """Raise :class:`NotOwner` if the position book has a namespace at or below `labels`."""
    if any(each[: len(labels)] == labels for each in BOOK):
        raise NotOwner(
            f"{'/'.join(labels)} belongs to the position book; change it by memory.positions (purge_closed() makes it "
            "small)"
        )


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
