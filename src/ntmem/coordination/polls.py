"""The records of votes in a store, and the transactions over them.

**Layout**: namespaces of the store's own; values are of the msgpack codec. US is the byte 0x1f, which is in no name.

=================== ============ ===================================================================
namespace           key          value
=================== ============ ===================================================================
``ntmem/voters``    ``roll``     {voter: weight}: who is registered
``ntmem/proposals`` id           the proposal and its electorate; never changes
``ntmem/tallies``   id           [approving, refusing, bits of who has voted, end]; only while pending
``ntmem/votes``     id US voter  [approve, when]
``ntmem/outcomes``  id           number of its decision
``ntmem/outcomes``  US ``last``  number of the last decision
``ntmem/decisions`` number       [id, status, approval rate, when]
=================== ============ ===================================================================

**Invariants**

- What a call decides by is written in the same group as what it decides, on the condition that it is still what was
  read. So each call is as if it were alone. The log checks the conditions in its critical section, LMDB's engine in its
  transaction.
- A proposal has a tally or an outcome, never both and never none: so it is decided once.
- Decisions have the numbers 1, 2, 3, ... without a gap, in the order of their commits.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from fractions import Fraction
from typing import Any, NamedTuple, TypeVar

from ..clock import wall_ns
from ..errors import ConsensusError, VersionConflict
from ..instants import MAX_INSTANT
from ..records import Change, Kind
from ..tiers.engine import LmdbEngine
from ..tiers.guards import DECISIONS, OUTCOMES, PROPOSALS, TALLIES, VOTERS, VOTES
from ..values import CODECS
from .counting import Electorate, Number, Status, Tally, exact_weight
from .protocols import ConsensusResult, Vote

T = TypeVar("T")

SEPARATOR = "\x1f"
"""Stands in no name."""

_CODEC = CODECS["msgpack"]
_ROLL = b"roll"
_LAST = SEPARATOR.encode() + b"last"
_ATTEMPTS = 1000
_EAGER = 10  # attempts before who is outrun lets others go first
_KNOWN = 256  # proposals that one object remembers


class Poll(NamedTuple):
    """What of a proposal never changes, and votes need."""

    name: str
    electorate: Electorate
    places: dict[str, int]
    end: int | None


class Cast(NamedTuple):
    """What came of a vote."""

    result: ConsensusResult
    is_decision: bool
    """Whether this has decided it."""
    is_counted: bool


class Polls:
    """The records of one store handle. Reads and conditions are its business; the form of arguments is not."""

    def __init__(self, engine: Callable[[], LmdbEngine], *, durable: bool) -> None:
        self.engine = engine
        self._durable = durable
        self._known: dict[str, Poll] = {}

    # -- records

    def _read(self, labels: tuple[str, ...], key: bytes) -> tuple[Any, int]:
        """Return a value and its version; None and 0: there is none."""
        record = self.engine().get_record(labels, key, None)
        if record is None or record.value is None:
            return None, 0
        return _CODEC.decode(record.value), record.version

    def _commit(self, changes: list[Change]) -> None:
        self.engine().commit(changes, self._durable)

    def _tally(self, name: str) -> tuple[Tally | None, int]:
        kept, version = self._read(TALLIES, name.encode())
        if kept is None:
            return None, 0
        approving, refusing, voted, _ = kept
        return Tally(approving, refusing, int.from_bytes(voted, "little")), version

    # -- voters

    def roll(self) -> dict[str, Number]:
        """Return who is registered, with weights as they were given."""
        roll, _ = self._read(VOTERS, _ROLL)
        return roll or {}

    def enrol(self, voter: str, weight: Number | None) -> bool:
        """Register a voter with this weight, or not (None); return whether it was registered."""

        def enrol() -> bool:
            roll, version = self._read(VOTERS, _ROLL)
            roll = roll or {}
            was_there = voter in roll
            if weight is not None:
                roll[voter] = weight
            elif was_there:
                del roll[voter]
            if weight is not None or was_there:
                self._commit([_change("put", VOTERS, _ROLL, roll, version)])
            return was_there

        return retried(enrol, "the voters")

    # -- proposals

    def submit(self, name: str, said: dict[str, Any], quorum: Fraction, lasts: int | None) -> None:
        """Put a proposal to those who are registered."""

        def submit() -> None:
            roll, version = self._read(VOTERS, _ROLL)
            electorate = Electorate.of({voter: exact_weight(it) for voter, it in (roll or {}).items()}, quorum)
            at = wall_ns()
            end = None if lasts is None else min(at + lasts, MAX_INSTANT)
            kept = said | {"at": at, "end": end, "electorate": [*electorate]}
            changes = [
                _change("put", VOTERS, _ROLL, roll, version),  # the same: nobody registers in between
                _change("put", PROPOSALS, name.encode(), kept, 0),
                _change("put", TALLIES, name.encode(), _kept(Tally(0, 0, 0), end), 0),
            ]
            try:
                self._commit(changes)
            except VersionConflict:
                if self._read(PROPOSALS, name.encode())[0] is not None:
                    raise ConsensusError(f"there is a proposal {name!r} already; choose another id, or none") from None
                raise

        retried(submit, "the voters")

    def said(self, name: str) -> dict[str, Any]:
        """Return what was submitted."""
        found: dict[str, Any] | None = self._read(PROPOSALS, name.encode())[0]
        if found is None:
            raise ConsensusError(f"there is no proposal {name!r} in this store")
        return found

    def poll(self, name: str) -> Poll:
        """Return what of a proposal never changes."""
        known = self._known.get(name)
        if known is None:
            said = self.said(name)
            electorate = Electorate(*said["electorate"])
            places = {voter: place for place, voter in enumerate(electorate.names)}
            known = Poll(name, electorate, places, said["end"])
            if len(self._known) >= _KNOWN:
                self._known.clear()
            self._known[name] = known
        return known

    def undecided(self) -> list[tuple[str, int | None]]:
        """Return what has no decision, and when it is over, by id."""
        rows = self.engine().scan(TALLIES, b"", b"", None)
        return [(name, _CODEC.decode(data)[3]) for name, data in rows]

    # -- votes

    def cast(self, poll: Poll, vote: Vote) -> Cast:
        """Cast a vote, or return the decision if there is one."""
        return retried(lambda: self._cast(poll, vote), f"proposal {poll.name!r}")

    def _cast(self, poll: Poll, vote: Vote) -> Cast:
        electorate, place = poll.electorate, poll.places[vote.voter]
        tally, version = self._tally(poll.name)
        if tally is None or self.is_over(poll.end):
            return Cast(*self._settle(poll), False)
        if tally.voted >> place & 1:
            return Cast(_pending(poll, tally), False, False)
        tally, now = tally.cast(electorate, place, vote.approve), wall_ns()
        changes = [_change("put", VOTES, _vote_key(vote), [vote.approve, now], 0)]
        status = tally.status(electorate)
        if status == "pending":
            changes.append(_change("put", TALLIES, poll.name.encode(), _kept(tally, poll.end), version))
            self._commit(changes)
            return Cast(_pending(poll, tally), False, True)
        decision, result = self._decision(poll, version, status, tally, now)
        self._commit(changes + decision)
        return Cast(result, True, True)

    def voted(self, vote: Vote) -> bool | None:
        """Return how this voter has voted on this proposal; None: it has not."""
        kept, _ = self._read(VOTES, _vote_key(vote))
        return None if kept is None else bool(kept[0])

    # -- decisions

    def is_over(self, end: int | None) -> bool:
        """Whether a proposal is to be rejected now. Who only reads cannot, so for it nothing is decided yet."""
        return end is not None and not self.engine().read_only and wall_ns() >= end

    def look(self, poll: Poll) -> tuple[ConsensusResult, bool]:
        """Return what a proposal has come to, and whether this has decided it: because its time has passed."""
        tally, _ = self._tally(poll.name)
        if tally is not None and not self.is_over(poll.end):
            return _pending(poll, tally), False
        return retried(lambda: self._settle(poll), f"proposal {poll.name!r}")

    def _settle(self, poll: Poll) -> tuple[ConsensusResult, bool]:
        """Return the decision on a proposal that is decided or over, and whether it is new."""
        tally, version = self._tally(poll.name)
        if tally is None:
            seq, _ = self._read(OUTCOMES, poll.name.encode())
            return _decided(seq, self._read(DECISIONS, _number(seq).encode())[0]), False
        decision, result = self._decision(poll, version, "rejected", tally, wall_ns())
        self._commit(decision)
        return result, True

    def _decision(
        self, poll: Poll, version: int, status: Status, tally: Tally, now: int
    ) -> tuple[list[Change], ConsensusResult]:
        """Return what is to be written so that a proposal is decided, if its tally still has this version."""
        last, counted = self._read(OUTCOMES, _LAST)
        seq, rate = (last or 0) + 1, tally.rate(poll.electorate)
        changes = [
            _change("delete", TALLIES, poll.name.encode(), None, version),
            _change("put", OUTCOMES, poll.name.encode(), seq, 0),
            _change("put", OUTCOMES, _LAST, seq, counted),
            _change("put", DECISIONS, _number(seq).encode(), [poll.name, status, rate, now], 0),
        ]
        return changes, ConsensusResult(status, rate, 0, now, seq, poll.name)

    def decisions(self, since: int) -> list[ConsensusResult]:
        """Return the decisions behind the number `since`, in order."""
        rows = self.engine().scan(DECISIONS, b"", _number(since + 1).encode(), None)
        return [_decided(int(number), _CODEC.decode(data)) for number, data in rows]


def retried(action: Callable[[], T], what: str) -> T:
    """Do it on the condition that nothing changes of what it reads, until that is so."""
    for number in range(_ATTEMPTS):
        if number > _EAGER:
            import random  # some milliseconds that nobody else pays

            time.sleep(random.uniform(0, 0.001))
        try:
            return action()
        except VersionConflict:
            continue
    raise ConsensusError(f"{what} changed {_ATTEMPTS} times meanwhile; try again")


def _change(kind: Kind, labels: tuple[str, ...], key: bytes, value: Any, version: int) -> Change:
    """Return a change on the condition that the key has this version (0: that there is none)."""
    data = b"" if kind == "delete" else _CODEC.encode(value)
    return Change(kind, labels, key, data, if_version=version, own=True)


def _kept(tally: Tally, end: int | None) -> list[Any]:
    voted = tally.voted.to_bytes((tally.voted.bit_length() + 7) // 8, "little")
    return [tally.approving, tally.refusing, voted, end]


def _vote_key(vote: Vote) -> bytes:
    return f"{vote.proposal_id}{SEPARATOR}{vote.voter}".encode()


def _number(seq: int) -> str:
    return f"{seq:020d}"


def _pending(poll: Poll, tally: Tally) -> ConsensusResult:
    electorate = poll.electorate
    return ConsensusResult("pending", tally.rate(electorate), tally.votes_needed(electorate), None, None, poll.name)


def _decided(seq: int, decision: list[Any]) -> ConsensusResult:
    name, status, rate, at = decision
    return ConsensusResult(status, rate, 0, at, seq, name)
