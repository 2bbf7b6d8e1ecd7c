"""Votes against a small exact model: the rule word for word, in Fractions, over sets of names."""

from __future__ import annotations

import os
import shutil
import tempfile
from decimal import Decimal
from fractions import Fraction
from itertools import accumulate
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

import ntmem
from ntmem import ConsensusError, ConsensusResult, Proposal, Vote
from ntmem.coordination import consensus, polls

SECOND = 1_000_000_000
voters = st.sampled_from(["a", "b", "c", "d", "é"])
weights = st.sampled_from([0, 1, 1, 1, 2, 3, 0.1, 0.2, 0.3, Decimal("0.5"), Fraction(1, 3), Fraction(2, 3), 10**25])
quorums = st.sampled_from(
    [0.67, 0.67, 0.5, 0.51, 1, 0.01, Decimal("0.75"), Fraction(2, 3), Fraction(1, 2), Fraction(1)]
)
timeouts = st.sampled_from([None, None, 1, 10.5])
numbers = st.integers(0, 100)


def value(number: Any) -> Fraction:
    return Fraction(str(number)) if isinstance(number, float) else Fraction(number)


class Plain:
    """A proposal as anybody would count it by hand."""

    def __init__(self, weights: dict[str, Fraction], quorum: Any, end: int | None) -> None:
        self.weights = weights
        self.least = quorum if isinstance(quorum, Fraction) else value(quorum) - Fraction(5, 1000)
        self.end = end
        self.votes: dict[str, bool] = {}
        self.decision: ConsensusResult | None = None

    def share(self, names: Any) -> Fraction:
        return sum((self.weights[name] for name in names), Fraction(0)) / sum(self.weights.values())

    def approves(self, share: Fraction) -> bool:
        return share >= self.least and share > Fraction(1, 2)

    @property
    def rate(self) -> Fraction:
        return self.share(name for name, vote in self.votes.items() if vote)

    def needed(self) -> int | None:
        """How many votes more approve it; None: nothing can."""
        missing = sorted((self.share([name]) for name in self.weights.keys() - self.votes.keys()), reverse=True)
        found = (count for count, more in enumerate(accumulate(missing, initial=self.rate)) if self.approves(more))
        return next(found, None)


class VoteMachine(RuleBasedStateMachine):
    @initialize(engine=st.sampled_from(["shared", "shared", "lmdb"]))
    def start(self, engine: str) -> None:
        self.directory = tempfile.mkdtemp(dir="/dev/shm" if os.path.isdir("/dev/shm") else None)
        self.engine = engine
        self.now = 10**18
        self.clocks = consensus.wall_ns, polls.wall_ns
        consensus.wall_ns = polls.wall_ns = lambda: self.now
        self.registered: dict[str, Any] = {}
        self.plain: dict[str, Plain] = {}
        self.decided: list[str] = []
        self.connect()

    def connect(self) -> None:
        self.memory = ntmem.open(self.directory, engine=self.engine, log_bytes=1 << 16)
        self.votes = self.memory.consensus

    def teardown(self) -> None:
        if hasattr(self, "memory"):
            consensus.wall_ns, polls.wall_ns = self.clocks
            self.memory.close()
            shutil.rmtree(self.directory)

    # -- the model

    def chosen(self, number: int) -> str | None:
        """One of the latest, mostly: the others are decided."""
        names = [*self.plain][-6:] if number % 4 else [*self.plain]
        return names[number % len(names)] if names else None

    def settle(self, name: str) -> None:
        """Decide a proposal if it is to be, and check that the store says the same."""
        plain = self.plain[name]
        needed = plain.needed()
        over = plain.end is not None and self.now >= plain.end
        if plain.decision is None and (over or not needed):
            status: Any = "approved" if needed == 0 else "rejected"
            self.decided.append(name)
            plain.decision = ConsensusResult(status, float(plain.rate), 0, self.now, len(self.decided), name)

    def expected(self, name: str) -> ConsensusResult:
        plain = self.plain[name]
        if plain.decision is not None:
            return plain.decision
        needed = plain.needed()
        assert needed is not None
        return ConsensusResult("pending", float(plain.rate), needed, None, None, name)

    # -- calls

    @rule(voter=voters, weight=weights)
    def register(self, voter: str, weight: Any) -> None:
        self.votes.register(voter, weight)
        self.registered[voter] = weight

    @rule(voter=voters)
    def unregister(self, voter: str) -> None:
        assert self.votes.unregister(voter) is (self.registered.pop(voter, None) is not None)

    @rule(quorum=quorums, timeout=timeouts)
    def submit(self, quorum: Any, timeout: Any) -> None:
        proposal = Proposal("a", ["data", len(self.plain)], quorum, timeout, id=f"{len(self.plain):03}")
        exact = {name: value(weight) for name, weight in self.registered.items()}
        if not sum(exact.values()):
            with pytest.raises(ConsensusError, match="no voter"):
                self.votes.submit_proposal(proposal)
            return
        name = self.votes.submit_proposal(proposal)
        end = None if timeout is None else self.now + int(timeout * SECOND)
        self.plain[name] = Plain(exact, quorum, end)

    @rule(number=numbers, voter=voters, approve=st.booleans(), weight=st.sampled_from([None, None, "right", "wrong"]))
    def vote(self, number: int, voter: str, approve: bool, weight: str | None) -> None:
        name = self.chosen(number)
        if name is None:
            return
        plain, given = self.plain[name], None
        known = plain.weights.get(voter)
        if weight is not None:
            given = (known or 0) + (weight == "wrong")
        if known is None or weight == "wrong":
            with pytest.raises(ConsensusError, match="no vote" if known is None else "weight"):
                self.votes.vote(Vote(name, voter, approve, given))
            return
        self.settle(name)
        is_late = plain.decision is not None
        if plain.votes.get(voter, approve) is not approve:
            with pytest.raises(ConsensusError, match="cannot be changed"):
                self.votes.vote(Vote(name, voter, approve, given))
            return
        if not is_late:
            plain.votes[voter] = approve
            self.settle(name)
        assert self.votes.vote(Vote(name, voter, approve, given)) == self.expected(name)

    @rule(number=numbers, approve=st.booleans())
    def all_vote(self, number: int, approve: bool) -> None:
        name = self.chosen(number)
        for voter in [] if name is None else self.plain[name].weights:
            self.vote(number, voter, approve, None)

    @rule(number=numbers)
    def look(self, number: int) -> None:
        name = self.chosen(number)
        if name is not None:
            self.settle(name)
            assert self.votes.result(name) == self.votes.wait(name, 0) == self.expected(name)

    @rule(seconds=st.sampled_from([0, 1, 1, 5, 20]))
    def tick(self, seconds: int) -> None:
        self.now += seconds * SECOND

    @rule(since=st.integers(0, 10))
    def look_at_all(self, since: int) -> None:
        for name in sorted(self.plain):  # the store looks in the order of ids
            if self.plain[name].end is not None:
                self.settle(name)
        found = self.votes.decisions(since)
        assert found == [self.expected(name) for name in self.decided[since:]]
        pending = [name for name, plain in self.plain.items() if plain.decision is None]
        assert [each.id for each in self.votes.pending()] == pending

    @rule()
    def restart(self) -> None:
        self.memory.close()
        self.connect()

    @rule()
    def look_anew(self) -> None:
        self.votes = self.memory.consensus

    @invariant()
    def voters_are_known(self) -> None:
        if hasattr(self, "votes"):
            assert self.votes.voters() == self.registered


def test_votes_come_to_what_is_counted_by_hand() -> None:
    run_state_machine_as_test(VoteMachine, settings=settings(max_examples=60, stateful_step_count=50))
