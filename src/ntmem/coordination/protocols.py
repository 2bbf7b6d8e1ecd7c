"""What a backend of locks and of agents has to do; ``tests/conformance`` says the same as tests.

There is one backend, the leases in a store's shared memory (:mod:`ntmem.coordination.shared`). One for several machines
has to promise the same: numbers rise, at most one lease of a resource is current, the dead and the late lose theirs.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

from ..instants import Duration
from ..records import Fence


class LockInfo(NamedTuple):
    """A lock that is held or waited for, at one moment.

    Attributes
    ----------
    resource : str
    fence : Fence or None
        Of the lease that was granted last; None: it was given back, and somebody waits.
    owner : str
        The ``agent_id`` of the store handle, or ``pid-N``; 127 bytes of it are kept.
    pid : int
        The process that holds it.
    is_current : bool
        Whether it is held: its time has not passed, and its process lives.
    is_alive : bool
        Whether the process lives.
    remaining : float
        Seconds until it is over.
    held : float
        Seconds since it was granted.
    waiting : int
        How many wait for it in order.
    grants, waits : int
        How often it was granted, and of these after a wait.
    waited, longest_wait : float
        Seconds of all those waits together, and of the longest.
    """

    resource: str
    fence: Fence | None
    owner: str
    pid: int
    is_current: bool
    is_alive: bool
    remaining: float
    held: float
    waiting: int
    grants: int
    waits: int
    waited: float
    longest_wait: float


class Grant(Protocol):
    """A lease that was granted to this process."""

    @property
    def number(self) -> int:
        """Of its fence."""

    @property
    def is_current(self) -> bool:
        """Whether its time has not passed, and it was not given back."""

    def remaining(self) -> float:
        """Return the seconds until it is over; 0.0: it is."""

    def renew(self, ttl: int, /) -> bool:
        """Let it end `ttl` ns from now; return whether it was current."""

    def release(self) -> bool:
        """Give it back; return whether it was current."""


class LockManager(Protocol):
    """Grants leases of resources, one at a time."""

    def grant(self, resource: str, ttl: int, timeout: float | None) -> Grant | None:
        """Return a lease of `ttl` ns as soon as nobody has one; None: not in `timeout` seconds (None: for ever)."""

    async def agrant(self, resource: str, ttl: int, timeout: float | None) -> Grant | None:
        """Do the same without holding up the event loop; cancelled, it leaves no lease behind."""

    def release(self, token: str | Fence) -> bool:
        """End the lease of a token; return whether it was current. A stale one ends nothing."""

    def renew(self, token: str | Fence, ttl: Duration) -> bool:
        """Let the lease of a token end `ttl` seconds from now; return whether it was current."""

    def is_locked(self, resource: str) -> bool:
        """Whether somebody has a current lease."""

    def is_current(self, token: str | Fence) -> bool:
        """Whether the lease of a token is current."""

    def list(self) -> list[LockInfo]:
        """Return what is held or waited for, by name."""


class AgentRegistry(Protocol):
    """Knows the agents of a store, and whether they live."""

    def register(self, agent_id: str, *, capabilities: Sequence[str] = (), ttl: Duration = 30.0, **info: Any) -> Fence:
        """Announce an agent, whose heart has to beat every `ttl` seconds; return the fence of its registration."""

    def unregister(self, agent_id: str | None = None) -> None:
        """Take an agent of this process (None: all of them) off the list."""

    def heartbeat(self, agent_id: str | None = None) -> None:
        """Say that an agent of this process (None: all of them) is alive."""

    def list(self, *, capability: str | None = None) -> list[Any]:
        """Return the agents, by name."""
