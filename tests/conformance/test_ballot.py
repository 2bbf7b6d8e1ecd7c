"""What every :class:`~ntmem.coordination.protocols.Ballot` has to do, whatever it is made of."""

from __future__ import annotations

import asyncio
import threading
from collections import Counter
from decimal import Decimal
from fractions import Fraction
from typing import Any

import pytest
from hostile import HANG

from ntmem import ConsensusError, ConsensusResult, Proposal, Vote


def submit(backend: Any, weights: dict[str, Any] | None = None, quorum: Any = 0.67, **more: Any) -> str:
    """Register voters and put something to them."""
    for voter, weight in ({"a": 1, "b": 1, "c": 1} if weights is None else weights).items():
        backend.votes.register(voter, weight)
    name: str = backend.votes.submit_proposal(Proposal("a", {"action": "rebalance"}, quorum, **more))
    return name


def cast(backend: Any, name: str, **votes: bool) -> ConsensusResult:
    """Cast votes, and return what the last one has come to."""
    results = [backend.votes.vote(Vote(name, voter, approve)) for voter, approve in votes.items()]
    return results[-1]


# ---- what votes come to ----


@pytest.mark.parametrize(
    ("weights", "quorum", "votes", "expected"),
    [
        ({"a": 1, "b": 1, "c": 1}, 0.67, {"a": True}, ("pending", 1 / 3, 1)),
        ({"a": 1, "b": 1, "c": 1}, 0.67, {"a": True, "b": True}, ("approved", 2 / 3, 0)),
        ({"a": 1, "b": 1, "c": 1}, Fraction(2, 3), {"a": True, "b": True}, ("approved", 2 / 3, 0)),
        ({"a": 1, "b": 1, "c": 1}, Fraction(67, 100), {"a": True, "b": True}, ("pending", 2 / 3, 1)),
        ({"a": 1, "b": 1, "c": 1}, 0.67, {"a": False}, ("pending", 0.0, 2)),
        ({"a": 1, "b": 1, "c": 1}, 0.67, {"a": False, "b": False}, ("rejected", 0.0, 0)),
        ({"a": 1, "b": 1}, 0.5, {"a": True}, ("pending", 0.5, 1)),
        ({"a": 1, "b": 1}, 0.5, {"a": True, "b": False}, ("rejected", 0.5, 0)),
        ({"a": 0.1, "b": 0.2, "c": 0.3}, 0.5, {"a": True, "b": True}, ("pending", 0.5, 1)),
        ({"a": 0.1, "b": 0.2, "c": Decimal("0.3")}, 0.5, {"c": True, "a": True}, ("approved", 2 / 3, 0)),
        ({"a": 10**30, "b": 10**30 + 1}, 0.5, {"b": True}, ("approved", 0.5, 0)),
        ({"a": 10**30, "b": 10**30 + 1}, 0.5, {"a": True}, ("pending", 0.5, 1)),
        ({"a": 0, "b": 1}, 1, {"a": True}, ("pending", 0.0, 1)),
        ({"a": 5, "b": 1, "c": 1}, Fraction(1), {"b": True}, ("pending", 1 / 7, 2)),
    ],
)
def test_what_votes_come_to(
    ballot: Any, weights: dict[str, Any], quorum: Any, votes: dict[str, bool], expected: tuple[Any, ...]
) -> None:
    name = submit(ballot, weights, quorum)
    result = cast(ballot, name, **votes)
    assert result[:3] == expected
    assert ballot.votes.result(name) == result
    assert (result.seq, result.proposal_id) == (None if expected[0] == "pending" else 1, name)
    assert (result.decided_at is None) is (expected[0] == "pending")


def test_voters(ballot: Any) -> None:
    votes = ballot.votes
    assert votes.voters() == {}
    votes.register("b", 2.5)
    votes.register("a")
    votes.register("b", Fraction(1, 3))
    assert [*votes.voters().items()] == [("a", 1), ("b", Fraction(1, 3))]
    assert votes.unregister("a")
    assert not votes.unregister("a")
    assert votes.voters() == {"b": Fraction(1, 3)}


def test_who_decides_is_fixed(ballot: Any) -> None:
    name = submit(ballot)
    ballot.votes.unregister("a")
    ballot.votes.register("b", 7)
    ballot.votes.register("d", 7)
    assert ballot.votes.proposal(name).electorate == {"a": 1, "b": 1, "c": 1}
    for stranger in ("d", "x"):
        with pytest.raises(ConsensusError, match=f"'{stranger}' has no vote"):
            cast(ballot, name, **{stranger: True})
    with pytest.raises(ConsensusError, match="with the weight 1"):
        ballot.votes.vote(Vote(name, "b", True, 7))
    assert ballot.votes.vote(Vote(name, "b", True, 1)).status == "pending"
    assert cast(ballot, name, a=True).status == "approved"


def test_a_decision_is_final(ballot: Any) -> None:
    name = submit(ballot)
    decided = cast(ballot, name, a=True, b=True)
    assert cast(ballot, name, a=True) == cast(ballot, name, c=False) == cast(ballot, name, c=True) == decided
    with pytest.raises(ConsensusError, match="cannot be changed"):
        cast(ballot, name, a=False)
    assert ballot.votes.result(name) == decided
    assert ballot.votes.decisions() == [decided]


def test_votes_count_once_and_stay(ballot: Any) -> None:
    name = submit(ballot)
    for _ in range(3):
        assert cast(ballot, name, a=True).approval_rate == 1 / 3
        with pytest.raises(ConsensusError, match="'a' has approved"):
            cast(ballot, name, a=False)


def test_decisions_have_an_order(ballot: Any) -> None:
    names = [submit(ballot) for _ in range(6)]
    for name in (names[4], names[0], names[2]):
        cast(ballot, name, a=name != names[0], b=name != names[0])
    assert [(each.seq, each.proposal_id, each.status) for each in ballot.votes.decisions()] == [
        (1, names[4], "approved"),
        (2, names[0], "rejected"),
        (3, names[2], "approved"),
    ]
    assert [each.seq for each in ballot.votes.decisions(2)] == [3]
    assert [each.id for each in ballot.votes.pending()] == [names[1], names[3], names[5]]


def test_a_timeout(ballot: Any) -> None:
    name = submit(ballot, timeout=0.02)
    cast(ballot, name, a=True)
    result = ballot.votes.wait(name, HANG)
    assert (result.status, result.seq, result.votes_needed) == ("rejected", 1, 0)
    assert cast(ballot, name, b=True) == result
    assert ballot.votes.decisions() == [result]


def test_what_is_unknown_or_impossible(ballot: Any) -> None:
    votes = ballot.votes
    with pytest.raises(ConsensusError, match="no voter"):
        votes.submit_proposal(Proposal("a", b""))
    for call in (
        lambda: votes.result("x"),
        lambda: votes.proposal("x"),
        lambda: votes.wait("x", 0.0),
        lambda: votes.vote(Vote("x", "a", True)),
    ):
        with pytest.raises(ConsensusError, match="no proposal 'x'"):
            call()
    for weight in (-1, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="weight"):
            votes.register("a", weight)
    assert votes.voters() == {}


# ---- waiting, others ----


def test_wait(ballot: Any) -> None:
    name = submit(ballot)
    assert ballot.votes.wait(name, 0.0).status == "pending"
    found: list[ConsensusResult] = []
    waiter = threading.Thread(target=lambda: found.append(ballot.votes.wait(name)), daemon=True)
    waiter.start()
    decided = cast(ballot, name, a=True, b=True)
    waiter.join(HANG)
    assert found == [decided]

    async def main() -> None:
        other = submit(ballot)
        waiting = asyncio.create_task(ballot.votes.await_decision(other))
        await asyncio.sleep(0)
        cast(ballot, other, a=False, b=False)
        assert (await asyncio.wait_for(waiting, HANG)).status == "rejected"

    asyncio.run(main())


VOTES = """
from ntmem import Vote
name = sys.argv[1]
say(votes.vote(Vote(name, sys.argv[2], True)).status)
say(votes.wait(name).seq, *[each.proposal_id for each in votes.decisions()])
memory.close()
"""


def test_other_processes_see_the_same(ballot: Any) -> None:
    name = submit(ballot)
    first, second = (ballot.elsewhere(VOTES, name, voter) for voter in ("a", "b"))
    assert sorted((first.line(), second.line())) == ["approved", "pending"]
    assert first.line() == second.line() == f"1 {name}"
    assert ballot.votes.wait(name).status == "approved"
    for child in (first, second):
        child.end()


def test_it_outlives_its_users(ballot: Any) -> None:
    first, second = submit(ballot), submit(ballot)
    decided = cast(ballot, first, a=False, b=False)
    cast(ballot, second, a=True)
    ballot.restart()
    assert ballot.votes.decisions() == [decided]
    assert [each.id for each in ballot.votes.pending()] == [second]
    with pytest.raises(ConsensusError, match="cannot be changed"):
        cast(ballot, second, a=False)
    assert cast(ballot, second, c=True).seq == 2


def test_threads_at_once(ballot: Any) -> None:
    """Each of eight votes on everything, in an order of its own."""
    voters = [f"voter {number}" for number in range(8)]
    for voter in voters:
        ballot.votes.register(voter)
    names = [ballot.votes.submit_proposal(Proposal("a", number)) for number in range(20)]
    results: Counter[Any] = Counter()

    def vote(row: int) -> None:
        for number in range(len(names)):
            name = names[(number * 7 + row * 3) % len(names)]
            result = ballot.votes.vote(Vote(name, voters[row], names.index(name) % 2 == 0))
            if result.seq is not None:
                results[result] += 1

    threads = [threading.Thread(target=vote, args=(row,)) for row in range(len(voters))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    decisions = ballot.votes.decisions()
    assert [each.seq for each in decisions] == [*range(1, len(names) + 1)]
    assert {each.proposal_id: each.status == "approved" for each in decisions} == {
        name: number % 2 == 0 for number, name in enumerate(names)
    }
    assert {*results} == {*decisions}  # nobody was told anything else
