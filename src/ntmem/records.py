"""What the store hands out and takes in: records, fences, changes."""

from __future__ import annotations

from typing import Any, Literal, NamedTuple, Protocol, TypeAlias

from msgspec import Struct

from .errors import StaleFence


class Fence(NamedTuple):
    """The number under which a lease of `resource` was granted; it only rises."""

    resource: str
    number: int


class HoldsFence(Protocol):
    """A lock, or its token."""

    @property
    def fence(self) -> Fence | None:
        """Of the lease it holds."""


FenceLike: TypeAlias = Fence | HoldsFence
"""What ``fence=`` takes."""


def fence_of(what: Any) -> Fence:
    """Return the fence of what users pass as ``fence=``: a lock that is held, its token, or the fence itself."""
    fence = what if isinstance(what, Fence) else getattr(what, "fence", what)
    if fence is None and what is not None:
        raise StaleFence(f"{what!r} is not held; acquire it before writing under it")
    if not isinstance(fence, Fence):
        raise TypeError(f"fence must be a lock that is held, its token or its Fence, was {type(what).__name__}")
    resource: Any = fence.resource
    if not isinstance(resource, str) or type(fence.number) is not int:
        raise TypeError(f"a Fence has a resource (str) and a number (int), was {fence!r}")
    return fence


class Record(NamedTuple):
    """One version of a key.

    Attributes
    ----------
    value : bytes or None
        None marks a deletion (only in :meth:`ntmem.MemorySystem.history`).
    version : int
        Position in the store's one order of changes; it only rises.
    ts_event, ts_known : int
        When it happened and when the store's user knew it, ns UTC.
    expires_at : int or None
        When the value stops being served, ns UTC on the store's clock.
    fence : Fence or None
        The lease under which it was written.
    writer : str
        The ``agent_id`` of the writing store handle, or ``pid-N``.
    """

    value: bytes | None
    version: int
    ts_event: int
    ts_known: int
    expires_at: int | None
    fence: Fence | None
    writer: str

    def __repr__(self) -> str:
        size = "deleted" if self.value is None else f"{len(self.value)} bytes"
        return f"<Record version={self.version} {size} ts_known={self.ts_known} writer={self.writer!r}>"


Kind = Literal["put", "add", "incr", "delete"]


class Change(Struct, frozen=True):
    """One requested change to one key, checked for form but not yet against the store."""

    kind: Kind
    namespace: tuple[str, ...]
    key: bytes
    value: bytes = b""
    delta: int = 0
    ttl_ns: int | None = None
    if_version: int | None = None
    ts_event: int | None = None
    ts_known: int | None = None
    own: bool = False
    """Made by a part of the store that knows what it replaces, in a namespace of its own."""
    past: bool = False
    """A version that another store had: written whatever is served now, a deletion by its `ts_known`."""
    expires_at: int | None = None
    """Instead of `ttl_ns`."""


class Policy(Struct, frozen=True):
    """What :meth:`ntmem.MemorySystem.retain` keeps of a namespace's past."""

    history: bool = False
    max_age_ns: int | None = None
    max_bytes: int | None = None
