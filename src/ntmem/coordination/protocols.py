"""What a backend of locks, agents, votes or messages has to do; ``tests/conformance`` says the same as tests.

There is one backend each: the leases in a store's shared memory (:mod:`ntmem.coordination.shared`), the store's
transactions (:mod:`ntmem.coordination.consensus`), the ring and the stream (:mod:`ntmem.coordination.bus`). One for
several machines has to promise the same: numbers rise, at most one lease of a resource is current, the dead and the
late lose theirs; a decision is one, final, and in one order; messages are in one order, and what is missed is counted.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping, Sequence
from fractions import Fraction
from typing import Any, NamedTuple, Protocol

from .._core.ring import Message
from ..instants import Duration
from ..records import Fence, FenceLike
from .counting import Number, Status


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


class Proposal(NamedTuple):
    """Something to be decided by vote.

    Attributes
    ----------
    proposer : str
    data : object
        What it is about: bytes, or anything that the msgpack codec takes. It comes back equal.
    quorum : int, float, Decimal or Fraction
        The share of the electorate's weight that has to approve, above 0 and at most 1. A Fraction is taken exactly,
        anything else less 0.005: 0.67 means two thirds. More than half has to approve in any case.
    timeout : float or timedelta, optional
        Seconds of the wall clock after which it is rejected.
    id : str
        "": one is made up. Another one is taken as it is, and refused if there is such a proposal.
    submitted_at, expires_at : int or None
        By the wall clock, ns UTC. Like `electorate` these are told, and ignored in a submission.
    electorate : mapping of str to Fraction, or None
        Who decides, and their weights.
    """

    proposer: str
    data: Any
    quorum: Number = 0.67
    timeout: Duration | None = None
    id: str = ""
    submitted_at: int | None = None
    expires_at: int | None = None
    electorate: Mapping[str, Fraction] | None = None

    def __repr__(self) -> str:
        name = f" {self.id!r}" if self.id else ""
        return f"<Proposal{name} by {self.proposer!r} quorum={self.quorum}>"


class Vote(NamedTuple):
    """One voter's vote on a proposal. `weight` is the registered one; None: whatever that is."""

    proposal_id: str
    voter: str
    approve: bool
    weight: Number | None = None


class ConsensusResult(NamedTuple):
    """What has become of a proposal.

    Attributes
    ----------
    status : {"approved", "rejected", "pending"}
    approval_rate : float
        The share of the electorate's weight that approves.
    votes_needed : int
        How many votes more could approve it, at least; 0: it is decided.
    decided_at : int or None
        By the wall clock, ns UTC; None: it is pending.
    seq : int or None
        1, 2, 3, ...: its place in the order of decisions; None: it is pending.
    proposal_id : str
    """

    status: Status
    approval_rate: float
    votes_needed: int
    decided_at: int | None
    seq: int | None
    proposal_id: str

    def __repr__(self) -> str:
        more = f"votes_needed={self.votes_needed}" if self.seq is None else f"seq={self.seq}"
        return f"<ConsensusResult {self.status} approval_rate={self.approval_rate:.4g} {more}>"


class Ballot(Protocol):
    """Lets registered voters decide on proposals, each once and for ever."""

    def register(self, voter: str, weight: Number = 1) -> None:
        """Let a voter take part in what is submitted from now on; again: with another weight."""

    def unregister(self, voter: str) -> bool:
        """Let a voter take no part in what is submitted from now on; return whether it was registered."""

    def voters(self) -> dict[str, Number]:
        """Return the registered voters and their weights, by name."""

    def submit_proposal(self, proposal: Proposal) -> str:
        """Let the voters that are registered now decide on a proposal; return its id."""

    def vote(self, vote: Vote) -> ConsensusResult:
        """Cast a vote and return what the proposal has come to; the same vote again changes nothing."""

    def result(self, proposal_id: str) -> ConsensusResult:
        """Return what a proposal has come to."""

    def wait(self, proposal_id: str, timeout: Duration | None = None) -> ConsensusResult:
        """Return what a proposal has come to when it is decided, or after `timeout` seconds."""

    async def await_decision(self, proposal_id: str, timeout: Duration | None = None) -> ConsensusResult:
        """Do the same without holding up the event loop."""

    def proposal(self, proposal_id: str) -> Proposal:
        """Return a proposal as it was submitted, with its electorate."""

    def pending(self) -> list[Proposal]:
        """Return what is not decided, in the order of submission."""

    def decisions(self, since: int = 0) -> list[ConsensusResult]:
        """Return the decisions behind the number `since`, in order."""


class Incoming(Protocol):
    """A subscription: messages in the order in which they were published, the same for all subscriptions."""

    @property
    def lagged(self) -> int:
        """How many messages it has missed, or more."""

    @property
    def resume_from(self) -> int:
        """The number of the last message received."""

    def recv(self, timeout: float | None = None) -> Message | None:
        """Return what comes next; None: nothing does in `timeout` seconds."""

    def recv_many(self, limit: int = 1000, timeout: float | None = None) -> list[Message]:
        """Return what is there."""

    async def arecv(self, timeout: float | None = None) -> Message | None:
        """Do what :meth:`recv` does without holding up the event loop; cancelled, it loses nothing."""

    def __iter__(self) -> Iterator[Message]: ...

    def __aiter__(self) -> AsyncIterator[Message]: ...

    def close(self) -> None:
        """End it, and release who waits."""


class Acknowledging(Incoming, Protocol):
    """A durable subscription: it misses nothing."""

    def ack(self, message: Message | int | None = None) -> None:
        """Acknowledge a message and all before: of its name they do not come again."""


class Bus(Protocol):
    """Carries messages from whoever publishes to all who have subscribed to their topics."""

    def publish(
        self, topic: str | tuple[str, ...], payload: bytes, *, durable: bool = False, fence: FenceLike | None = None
    ) -> int:
        """Publish a message and return its number, waiting for no subscriber; a durable one is kept from then on.

        Numbers rise; those of durable messages are 1, 2, 3, ...
        """

    def publish_many(self, topic: str | tuple[str, ...], payloads: Iterable[bytes]) -> int:
        """Publish messages of a topic in order; return the number of the last."""

    def subscribe(
        self,
        pattern: str | tuple[str, ...],
        *,
        since: int | None = None,
        callback: Callable[[Message], Any] | None = None,
        durable: bool | str = False,
    ) -> Incoming:
        """Follow topics, from now on, or behind number `since`; ``durable=``: see :class:`Acknowledging`."""

    def trim(self, older_than: Duration) -> int:
        """Delete durable messages that are older; who has not received them counts them as missed."""
