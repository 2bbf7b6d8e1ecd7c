"""Decisions by weighted vote, between all threads and processes of a store, as Python knows them.

What is kept, and why every call is as if it were alone, is in :mod:`ntmem.coordination.polls`; how votes are counted in
:mod:`ntmem.coordination.counting`.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from time import perf_counter_ns
from typing import Any, Protocol

from .._core import meters
from ..clock import wall_ns
from ..errors import ConsensusError, ReadOnlyError, StorageError
from ..instants import NS, Duration, duration_ns, require_bool, require_int, seconds_of, shown
from ..tiers.engine import LmdbEngine
from ..tiers.guards import DECISIONS
from ..values import CODECS
from .counting import Electorate, Number, exact_quorum, exact_weight
from .polls import SEPARATOR, Poll, Polls
from .protocols import ConsensusResult, Proposal, Vote

_CODEC = CODECS["msgpack"]
_MOST_NAME_BYTES = 255
_SLICE = 1.0  # the wall clock may be set while somebody waits
_PAUSE = 0.02  # where nothing tells of changes


class Changes(Protocol):
    """What tells of changes, such as a :class:`ntmem.Subscription`."""

    def recv(self, timeout: float) -> object: ...
    async def arecv(self, timeout: float) -> object: ...
    def close(self) -> None: ...


class Consensus:
    """The votes of a store. ``memory.consensus``; the seeds' name of it is ``ConsensusEngine``.

    Voters are registered with a weight. A proposal is decided by those that are registered when it is submitted:
    approved as soon as at least its quorum, and more than half, of their weight approves; rejected as soon as that
    cannot happen any more, or at its timeout. A decision is final, and has a number: all processes see the same ones.

    Notes
    -----
    **Thread safety**: any thread, of any process that has the store open. **Complexity**: a vote is one transaction of
    two changes (of five, if it decides) and O(voters).

    Examples
    --------
    >>> import ntmem
    >>> with ntmem.open() as memory:
    ...     c = memory.consensus
    ...     for agent in ("agent_1", "agent_2", "agent_3"):
    ...         c.register(agent)
    ...     name = c.submit_proposal(ntmem.Proposal("agent_1", {"action": "rebalance"}, quorum=0.67))
    ...     c.vote(ntmem.Vote(name, "agent_1", True))
    ...     c.vote(ntmem.Vote(name, "agent_2", True))
    <ConsensusResult pending approval_rate=0.3333 votes_needed=1>
    <ConsensusResult approved approval_rate=0.6667 seq=1>
    """

    def __init__(
        self,
        engine: Callable[[], LmdbEngine],
        watch: Callable[[tuple[str, ...]], Changes],
        announce: Callable[[ConsensusResult], None],
        *,
        durable: bool,
    ) -> None:
        self._engine = engine
        self._watch = watch
        self._announce = announce  # a decision that a call has brought about; it is committed
        self._polls = Polls(engine, durable=durable)

    # -- voters

    def register(self, voter: str, weight: Number = 1) -> None:
        """Let a voter take part in what is submitted from now on; again: with another weight.

        Parameters
        ----------
        voter : str
            At most 255 bytes of UTF-8.
        weight : int, float, Decimal or Fraction
            0 or more, taken exactly; a float by its shortest digits, so that 0.1 and 0.2 are as heavy as 0.3.

        Raises
        ------
        ConsensusError
            Others change the voters faster than this call can. So may all calls that change something.
        """
        self._check_writable()
        _check_name(voter, "voter")
        exact_weight(weight)
        self._polls.enrol(voter, _plain(weight))

    def unregister(self, voter: str) -> bool:
        """Let a voter take no part in what is submitted from now on; return whether it was registered.

        What was submitted before it still votes on.
        """
        self._check_writable()
        _check_name(voter, "voter")
        return self._polls.enrol(voter, None)

    def voters(self) -> dict[str, Number]:
        """Return the registered voters and their weights as they were given, by name."""
        return dict(sorted(self._polls.roll().items()))

    # -- proposals

    def submit_proposal(self, proposal: Proposal) -> str:
        """Let the voters that are registered now decide on a proposal; return its id.

        Raises
        ------
        ConsensusError
            No voter with a weight above 0 is registered; or there is a proposal of that id.
        SerializationError
            Its data would not come back as it is.
        """
        self._check_writable()
        if not isinstance(proposal, Proposal):
            raise TypeError(f"proposal must be a Proposal, was {type(proposal).__name__}")
        _check_name(proposal.proposer, "proposer")
        if proposal.id != "":
            _check_name(proposal.id, "id")
        quorum = exact_quorum(proposal.quorum)
        lasts = None if proposal.timeout is None else duration_ns(proposal.timeout, "timeout")
        data = _CODEC.encode(proposal.data)
        said = {"proposer": proposal.proposer, "data": data, "quorum": _plain(proposal.quorum), "lasts": lasts}
        name = proposal.id or uuid.uuid4().hex
        self._polls.submit(name, said, quorum, lasts)
        return name

    def proposal(self, proposal_id: str) -> Proposal:
        """Return a proposal as it was submitted, with its electorate.

        Raises
        ------
        ConsensusError
            There is none of that id.
        """
        _check_name(proposal_id, "proposal_id")
        said = self._polls.said(proposal_id)
        lasts = said["lasts"]
        return Proposal(
            said["proposer"],
            _CODEC.decode(said["data"]),
            said["quorum"],
            None if lasts is None else lasts / NS,
            proposal_id,
            said["at"],
            said["end"],
            Electorate(*said["electorate"]).weights(),
        )

    def pending(self) -> list[Proposal]:
        """Return what is not decided, in the order of submission. O(pending)."""
        found = [self.proposal(name) for name in self._undecided()]
        return sorted(found, key=lambda it: (it.submitted_at or 0, it.id))

    # -- votes

    def vote(self, vote: Vote) -> ConsensusResult:
        """Cast a vote and return what the proposal has come to.

        The same vote again changes nothing. A vote that comes after the decision is not counted, and returns it.

        Raises
        ------
        ConsensusError
            There is no such proposal; the voter was not registered when it was submitted, or with another weight; or
            has voted otherwise before.
        """
        begun = perf_counter_ns()
        self._check_writable()
        if not isinstance(vote, Vote):
            raise TypeError(f"vote must be a Vote, was {type(vote).__name__}")
        require_bool(vote.approve, "approve")
        poll = self._poll(vote.proposal_id)
        _check_voter(poll, vote)
        result, is_decision, is_counted = self._polls.cast(poll, vote)
        if is_decision:
            self._announce(result)
        if not is_counted and self._polls.voted(vote) is (not vote.approve):
            raise ConsensusError(
                f"{vote.voter!r} has {'refused' if vote.approve else 'approved'} {vote.proposal_id!r} before, and a "
                "vote cannot be changed; submit another proposal"
            )
        self._engine().store.meters.since(meters.VOTE, begun)
        return result

    def _poll(self, proposal_id: str) -> Poll:
        _check_name(proposal_id, "proposal_id")
        return self._polls.poll(proposal_id)

    # -- decisions

    def result(self, proposal_id: str) -> ConsensusResult:
        """Return what a proposal has come to. If its time has passed, this rejects it.

        Through a store that was opened with ``read_only=True`` it stays pending until somebody else looks.
        """
        result, is_decision = self._polls.look(self._poll(proposal_id))
        if is_decision:
            self._announce(result)
        return result

    def decisions(self, since: int = 0) -> list[ConsensusResult]:
        """Return the decisions behind the number `since`, in order. O(pending and returned)."""
        require_int(since, "since", 0)
        self._undecided()
        return self._polls.decisions(since)

    def _undecided(self) -> list[str]:
        """Reject what is over; return the others."""
        rows = self._polls.undecided()
        return [name for name, end in rows if not self._polls.is_over(end) or self.result(name).seq is None]

    # -- waiting

    def wait(self, proposal_id: str, timeout: Duration | None = None) -> ConsensusResult:
        """Return what a proposal has come to when it is decided, or after `timeout` seconds (None: wait for ever)."""
        until = _deadline(timeout)
        with self._following() as changes:  # before the first look: nothing falls between them
            while True:
                result = self.result(proposal_id)
                left = self._left(result, until)
                if left is None:
                    return result
                changes.recv(left)

    async def await_decision(self, proposal_id: str, timeout: Duration | None = None) -> ConsensusResult:
        """Do what :meth:`wait` does without holding up the event loop."""
        until = _deadline(timeout)
        with self._following() as changes:
            while True:
                result = self.result(proposal_id)
                left = self._left(result, until)
                if left is None:
                    return result
                await changes.arecv(left)

    @contextmanager
    def _following(self) -> Iterator[Changes]:
        try:
            changes = self._watch(DECISIONS)
        except StorageError:  # this engine keeps no log
            changes = _Pauses()
        try:
            yield changes
        finally:
            changes.close()

    def _left(self, result: ConsensusResult, until: float | None) -> float | None:
        """Return for how long to wait before looking again; None: no more."""
        if result.seq is not None:
            return None
        left = _SLICE if until is None else min(_SLICE, until - time.monotonic())
        if left <= 0:
            return None
        end = self._poll(result.proposal_id).end
        if end is not None and not self._engine().read_only:
            left = min(left, max((end - wall_ns()) / NS, 0.0))
        return left

    def _check_writable(self) -> None:
        if self._engine().read_only:
            raise ReadOnlyError("this store was opened with read_only=True; open it for writing")


class _Pauses:
    """Waits a little, where nothing tells of changes."""

    def recv(self, timeout: float) -> None:
        time.sleep(min(timeout, _PAUSE))

    async def arecv(self, timeout: float) -> None:
        import asyncio

        await asyncio.sleep(min(timeout, _PAUSE))

    def close(self) -> None: ...


def _plain(number: Number) -> Number:
    """Return a number of a type that is stored as it is: numpy's float64 is a float."""
    return float(number) if isinstance(number, float) else number


def _check_voter(poll: Poll, vote: Vote) -> None:
    """Raise unless a voter may vote with the weight that it says it has."""
    _check_name(vote.voter, "voter")
    weight = None if vote.weight is None else exact_weight(vote.weight)
    place, electorate = poll.places.get(vote.voter), poll.electorate
    if place is None:
        raise ConsensusError(
            f"{vote.voter!r} has no vote on {poll.name!r}: it was not registered when that was submitted; register it, "
            "and submit another proposal"
        )
    if weight is not None and weight * electorate.unit != electorate.shares[place]:
        raise ConsensusError(
            f"{vote.voter!r} votes on {poll.name!r} with the weight {electorate.weights()[vote.voter]}, which it had "
            f"when that was submitted; weight was {shown(vote.weight)}, leave it out"
        )


def _check_name(name: Any, what: str) -> None:
    if not isinstance(name, str):
        raise TypeError(f"{what} must be a str, was {type(name).__name__}")
    try:
        size = len(name.encode())
    except UnicodeEncodeError as error:
        raise ValueError(f"{what} must be encodable as UTF-8, was {name!r}") from error
    if not 0 < size <= _MOST_NAME_BYTES or "\0" in name or SEPARATOR in name:
        raise ValueError(
            f"{what} has 1 to {_MOST_NAME_BYTES} bytes of UTF-8, without NUL and {SEPARATOR!r}, was "
            f"{name[:64]!r} of {size} bytes"
        )


def _deadline(timeout: Duration | None) -> float | None:
    seconds = seconds_of(timeout)
    return None if seconds is None else time.monotonic() + seconds
