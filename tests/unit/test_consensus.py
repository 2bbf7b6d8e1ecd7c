"""Voters, proposals, votes, decisions: what they do, and what is refused with which words."""

from __future__ import annotations

import asyncio
import pickle
import threading
import uuid
from collections.abc import Iterator
from datetime import timedelta
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
from hostile import HANG

import ntmem
from ntmem import ConsensusError, ConsensusResult, NotOwner, Proposal, ReadOnlyError, SerializationError, Vote
from ntmem.coordination import Ballot, Consensus, consensus, polls

pytestmark = pytest.mark.usefixtures("engine")

SECOND = 1_000_000_000
SPACES = ["voters", "proposals", "tallies", "votes", "outcomes", "decisions"]


@pytest.fixture
def memory() -> Iterator[ntmem.MemorySystem]:
    with ntmem.open() as memory:
        yield memory


@pytest.fixture
def votes(memory: ntmem.MemorySystem) -> Consensus:
    """The votes of a store with three voters."""
    votes = memory.consensus
    for voter in ("a", "b", "c"):
        votes.register(voter)
    return votes


class Wall:
    """The wall clock, as tests set it."""

    def __init__(self) -> None:
        self.now = 1_700_000_000 * SECOND

    def __call__(self) -> int:
        return self.now


@pytest.fixture
def wall(monkeypatch: pytest.MonkeyPatch) -> Wall:
    wall = Wall()
    monkeypatch.setattr(consensus, "wall_ns", wall)
    monkeypatch.setattr(polls, "wall_ns", wall)
    return wall


def submit(votes: Ballot, quorum: Any = 0.67, **more: Any) -> str:
    return votes.submit_proposal(Proposal("a", b"data", quorum, **more))


# ---- counting ----


def test_the_seeds_example(memory: ntmem.MemorySystem) -> None:
    engine: ntmem.ConsensusEngine = memory.consensus
    for voter in ("agent_1", "agent_2", "agent_3"):
        engine.register(voter)
    proposal = Proposal(id="", proposer="agent_1", data={"action": "rebalance"}, quorum=0.67)
    proposal_id = engine.submit_proposal(proposal)
    result = engine.vote(Vote(proposal_id=proposal_id, voter="agent_2", approve=True, weight=1.0))
    assert (result.status, result.votes_needed) == ("pending", 1)
    assert engine.vote(Vote(proposal_id, "agent_3", True, 1.0)).status == "approved"
    assert engine.proposal(proposal_id).data == {"action": "rebalance"}


def test_two_of_three(votes: Consensus, wall: Wall) -> None:
    name = submit(votes)
    assert votes.result(name) == ConsensusResult("pending", 0.0, 2, None, None, name)
    assert votes.vote(Vote(name, "a", True)) == ConsensusResult("pending", 1 / 3, 1, None, None, name)
    wall.now += 5
    expected = ConsensusResult("approved", 2 / 3, 0, wall.now, 1, name)
    assert votes.vote(Vote(name, "b", True)) == expected
    wall.now += 5
    assert votes.result(name) == votes.wait(name) == expected
    assert votes.decisions() == [expected]


def test_a_rejection(votes: Consensus) -> None:
    name = submit(votes)
    assert votes.vote(Vote(name, "a", True)).status == "pending"
    assert votes.vote(Vote(name, "b", False)) == ConsensusResult("pending", 1 / 3, 1, None, None, name)
    result = votes.vote(Vote(name, "c", False))
    assert (result.status, result.approval_rate, result.votes_needed, result.seq) == ("rejected", 1 / 3, 0, 1)


def test_a_tie_never_approves(votes: Consensus) -> None:
    votes.unregister("c")
    name = submit(votes, quorum=0.5)
    assert votes.vote(Vote(name, "a", True)).status == "pending"
    assert votes.vote(Vote(name, "b", False)).status == "rejected"


@pytest.mark.parametrize("quorum", [0.67, Fraction(2, 3), Decimal("0.67")])
def test_67_of_100(memory: ntmem.MemorySystem, quorum: Any) -> None:
    votes = memory.consensus
    for number in range(100):
        votes.register(f"{number}")
    name = submit(votes, quorum)
    for number in range(66):
        assert votes.vote(Vote(name, f"{number}", True)).votes_needed == 67 - number - 1
    assert votes.vote(Vote(name, "66", True)).status == "approved"


def test_weights(memory: ntmem.MemorySystem) -> None:
    votes = memory.consensus
    given = {"a": 0.5, "b": Decimal("0.1"), "c": Fraction(1, 5), "d": 0.2, "e": 0}
    for voter, weight in given.items():
        votes.register(voter, weight)
    assert votes.voters() == given
    assert [type(weight) for weight in votes.voters().values()] == [type(weight) for weight in given.values()]
    name = submit(votes, Fraction(6, 10))
    assert votes.proposal(name).electorate == {
        "a": Fraction(1, 2),
        "b": Fraction(1, 10),
        "c": Fraction(1, 5),
        "d": Fraction(1, 5),
        "e": 0,
    }
    assert votes.vote(Vote(name, "e", True, 0)).votes_needed == 2
    assert votes.vote(Vote(name, "c", True, 0.2)).approval_rate == 0.2
    assert votes.vote(Vote(name, "b", False, Fraction(1, 10))).votes_needed == 1
    assert votes.vote(Vote(name, "a", True, Decimal("0.50"))).status == "approved"


# ---- who votes ----


def test_the_electorate_is_that_of_the_submission(votes: Consensus) -> None:
    name = submit(votes)
    assert votes.unregister("a")
    votes.register("b", 100)
    votes.register("d")
    with pytest.raises(ConsensusError, match=r"'d' has no vote on '.*': it was not registered when that was submitted"):
        votes.vote(Vote(name, "d", True))
    with pytest.raises(ConsensusError, match=r"'b' votes on '.*' with the weight 1,.* weight was 100, leave it out"):
        votes.vote(Vote(name, "b", True, 100))
    assert votes.vote(Vote(name, "a", True)).status == "pending"
    assert votes.vote(Vote(name, "b", True, 1)).status == "approved"
    assert votes.voters() == {"b": 100, "c": 1, "d": 1}
    other = submit(votes)
    assert votes.vote(Vote(other, "b", True)).status == "approved"
    with pytest.raises(ConsensusError, match="no vote"):
        votes.vote(Vote(other, "a", True))


def test_unregister_of_who_is_not(votes: Consensus) -> None:
    assert not votes.unregister("d")
    assert votes.unregister("c")
    assert not votes.unregister("c")
    assert [*votes.voters()] == ["a", "b"]


def test_again(votes: Consensus) -> None:
    name = submit(votes)
    first = votes.vote(Vote(name, "a", True))
    assert votes.vote(Vote(name, "a", True)) == first
    with pytest.raises(ConsensusError, match=r"'a' has approved '.*' before, and a vote cannot be changed"):
        votes.vote(Vote(name, "a", False))
    assert votes.result(name) == first
    decided = votes.vote(Vote(name, "b", True))
    for voter in ("a", "b", "a"):
        assert votes.vote(Vote(name, voter, True)) == decided
        with pytest.raises(ConsensusError, match="cannot be changed"):
            votes.vote(Vote(name, voter, False))
    assert votes.vote(Vote(name, "c", False)) == decided  # too late: not counted
    assert votes.vote(Vote(name, "c", True)) == decided
    assert votes.result(name) == decided
    assert votes.decisions() == [decided]


def test_a_refusal_cannot_be_changed(votes: Consensus) -> None:
    name = submit(votes)
    votes.vote(Vote(name, "a", False))
    with pytest.raises(ConsensusError, match="'a' has refused"):
        votes.vote(Vote(name, "a", True))


# ---- time ----


def test_a_timeout_rejects(votes: Consensus, wall: Wall) -> None:
    name, forever = submit(votes, timeout=10), submit(votes)
    assert votes.proposal(name).expires_at == wall.now + 10 * SECOND
    votes.vote(Vote(name, "a", True))
    wall.now += 10 * SECOND - 1
    assert votes.result(name).status == "pending"
    wall.now += 1
    expected = ConsensusResult("rejected", 1 / 3, 0, wall.now, 1, name)
    assert votes.result(name) == expected
    wall.now += 1
    assert votes.vote(Vote(name, "b", True)) == votes.result(name) == expected
    assert votes.result(forever).status == "pending"
    assert votes.decisions() == [expected]


@pytest.mark.parametrize("look", ["vote", "same vote", "changed vote", "wait", "pending", "decisions"])
def test_whoever_looks_settles_it(votes: Consensus, wall: Wall, look: str, memory: ntmem.MemorySystem) -> None:
    name = submit(votes, timeout=timedelta(seconds=1))
    votes.vote(Vote(name, "a", True))
    wall.now += 2 * SECOND
    if look == "vote":
        assert votes.vote(Vote(name, "b", True)).status == "rejected"
    elif look == "same vote":
        assert votes.vote(Vote(name, "a", True)).status == "rejected"
    elif look == "changed vote":
        with pytest.raises(ConsensusError):
            votes.vote(Vote(name, "a", False))
    elif look == "wait":
        assert votes.wait(name).status == "rejected"
    elif look == "pending":
        assert votes.pending() == []
    else:
        assert [each.proposal_id for each in votes.decisions()] == [name]
    wall.now = 0
    assert memory.consensus.result(name).seq == 1


def test_the_stores_clock_is_another_matter(tmp_path: Path, wall: Wall) -> None:
    clock = ntmem.SimulatedClock(1)
    with ntmem.open(tmp_path, clock=clock) as memory:
        memory.consensus.register("a")
        name = submit(memory.consensus, timeout=10)
        clock.set(10**18)
        assert memory.consensus.result(name).status == "pending"
        wall.now += 11 * SECOND
        assert memory.consensus.result(name).decided_at == wall.now


def test_a_timeout_outlives_the_store(tmp_path: Path, wall: Wall) -> None:
    with ntmem.open(tmp_path) as memory:
        memory.consensus.register("a")
        name = submit(memory.consensus, timeout=10)
    wall.now += 10 * SECOND
    with ntmem.open(tmp_path) as memory:
        assert memory.consensus.result(name).status == "rejected"


# ---- looking ----


def test_proposals_come_back(votes: Consensus, wall: Wall) -> None:
    for data in (b"", b"\0x", None, "é", {"deep": [(1, 2.5), Decimal("1.50")]}, 2**100, uuid.uuid4()):
        given = Proposal("Ünkel", data, 0.75, timeout=2.5)
        found = votes.proposal(votes.submit_proposal(given))
        assert found[:4] == given[:4]
        assert type(found.data) is type(data)
        assert (found.submitted_at, found.expires_at) == (wall.now, wall.now + 2_500_000_000)
        assert found.electorate == {"a": 1, "b": 1, "c": 1}
    for quorum in (1, 0.5, Decimal("0.10"), Fraction(1, 3)):
        found = votes.proposal(submit(votes, quorum))
        assert (found.quorum, type(found.quorum), found.timeout) == (quorum, type(quorum), None)


def test_data_is_that_of_the_submission(votes: Consensus) -> None:
    data = {"legs": [1]}
    name = votes.submit_proposal(Proposal("a", data))
    data["legs"].append(2)
    assert votes.proposal(name).data == {"legs": [1]}


def test_pending_and_decisions(votes: Consensus, wall: Wall) -> None:
    names = []
    for _ in range(5):
        names.append(submit(votes))
        wall.now += 1
    assert [each.id for each in votes.pending()] == names
    for name in (names[3], names[1]):
        votes.vote(Vote(name, "a", True))
        votes.vote(Vote(name, "b", True))
    votes.vote(Vote(names[0], "a", True))
    assert [each.id for each in votes.pending()] == [names[0], names[2], names[4]]
    assert [(each.seq, each.proposal_id) for each in votes.decisions()] == [(1, names[3]), (2, names[1])]
    assert [each.seq for each in votes.decisions(since=1)] == [2]
    assert votes.decisions(2) == votes.decisions(since=10**18) == []


def test_an_id_of_ones_own(votes: Consensus) -> None:
    assert submit(votes, id="rebalance 7") == "rebalance 7"
    with pytest.raises(ConsensusError, match="there is a proposal 'rebalance 7' already; choose another id"):
        submit(votes, id="rebalance 7")
    assert submit(votes, id="last") == "last"
    for name in ("last", "rebalance 7"):
        for voter in ("a", "b"):
            votes.vote(Vote(name, voter, True))
    assert [each.proposal_id for each in votes.decisions()] == ["last", "rebalance 7"]
    with pytest.raises(ConsensusError, match="already"):
        submit(votes, id="last")


def test_what_calls_return_is_short_and_fixed(votes: Consensus) -> None:
    name = submit(votes, id="x")
    result = votes.result(name)
    assert repr(result) == "<ConsensusResult pending approval_rate=0 votes_needed=2>"
    votes.vote(Vote(name, "a", True))
    assert repr(votes.vote(Vote(name, "b", True))) == "<ConsensusResult approved approval_rate=0.6667 seq=1>"
    assert repr(votes.proposal(name)) == "<Proposal 'x' by 'a' quorum=0.67>"
    assert repr(Proposal("a", 1)) == "<Proposal by 'a' quorum=0.67>"
    with pytest.raises(AttributeError):
        result.status = "approved"  # type: ignore[misc]
    for each in (result, votes.proposal(name), Vote(name, "a", True)):
        assert pickle.loads(pickle.dumps(each)) == each


# ---- waiting ----


def test_wait_comes_to_its_end(votes: Consensus) -> None:
    name = submit(votes)
    assert votes.wait(name, 0).status == votes.wait(name, timedelta(milliseconds=5)).status == "pending"
    for wrong, error in ((-1, ValueError), ("1", TypeError), (True, TypeError)):
        with pytest.raises(error, match="timeout"):
            votes.wait(name, wrong)  # type: ignore[arg-type]
    with pytest.raises(ConsensusError, match="there is no proposal 'x'"):
        votes.wait("x")


@pytest.mark.parametrize("last", ["approve", "refuse", "timeout"])
def test_wait_is_released(memory: ntmem.MemorySystem, votes: Consensus, last: str) -> None:
    name = submit(votes, timeout=0.05 if last == "timeout" else None)
    found: list[ConsensusResult] = []
    waiter = threading.Thread(target=lambda: found.append(memory.consensus.wait(name, HANG)), daemon=True)
    waiter.start()
    if last != "timeout":
        other = submit(votes)
        for each in (other, name):
            for voter in ("a", "b"):
                votes.vote(Vote(each, voter, last == "approve"))
    waiter.join(HANG)
    assert found == [votes.result(name)]
    assert found[0].status == ("approved" if last == "approve" else "rejected")


def test_await_decision(memory: ntmem.MemorySystem, votes: Consensus) -> None:
    async def main() -> None:
        name, over = submit(votes), submit(votes, timeout=0.05)
        waiting = asyncio.create_task(memory.consensus.await_decision(name))
        assert (await votes.await_decision(name, 0.0)).status == "pending"
        assert (await votes.await_decision(over, HANG)).status == "rejected"
        for voter in ("a", "b"):
            votes.vote(Vote(name, voter, True))
        assert await asyncio.wait_for(waiting, HANG) == votes.result(name)
        cancelled = asyncio.create_task(votes.await_decision(submit(votes)))
        await asyncio.sleep(0)
        cancelled.cancel()
        with pytest.raises(asyncio.CancelledError):
            await cancelled

    asyncio.run(main())


def test_a_decision_is_told_once_by_who_made_it(memory: ntmem.MemorySystem, wall: Wall) -> None:
    told: list[ConsensusResult] = []

    def announce(result: ConsensusResult) -> None:
        assert memory.consensus.result(result.proposal_id) == result
        told.append(result)

    votes = Consensus(memory._engine, memory.watch, announce, durable=False)
    votes.register("a")
    names = [submit(votes), *(submit(votes, timeout=1) for _ in range(3))]
    for _ in range(2):
        votes.vote(Vote(names[0], "a", True))
    wall.now += SECOND
    for _ in range(2):
        votes.result(names[1])
        votes.vote(Vote(names[2], "a", True))
        votes.decisions()
    assert told == votes.decisions()
    assert len(told) == 4


@pytest.mark.only("shared")
def test_a_decision_is_published(memory: ntmem.MemorySystem, wall: Wall) -> None:
    votes = memory.consensus
    votes.register("a")
    with memory.topic("ntmem/decisions").subscribe() as decisions:
        votes.vote(Vote(submit(votes), "a", True))
        told = decisions.recv(timeout=HANG)
        assert told is not None
        assert told.value == votes.decisions()[0]._asdict()
        assert decisions.recv(timeout=0) is None


# ---- the store ----


def test_everything_is_kept(tmp_path: Path) -> None:
    with ntmem.open(tmp_path) as memory:
        votes = memory.consensus
        for voter, weight in {"a": 2, "b": Fraction(1, 3), "c": 1}.items():
            votes.register(voter, weight)
        first, second = submit(votes), submit(votes)
        votes.vote(Vote(second, "b", True))
        decided = votes.vote(Vote(first, "a", False))
    with ntmem.open(tmp_path) as memory:
        votes = memory.consensus
        assert votes.voters() == {"a": 2, "b": Fraction(1, 3), "c": 1}
        assert votes.decisions() == [decided] == [votes.result(first)]
        assert [each.id for each in votes.pending()] == [second]
        with pytest.raises(ConsensusError, match="cannot be changed"):
            votes.vote(Vote(second, "b", False))
        assert votes.vote(Vote(second, "a", True)).seq == 2


def test_who_only_reads(tmp_path: Path, wall: Wall) -> None:
    with ntmem.open(tmp_path) as memory:
        memory.consensus.register("a")
        name = submit(memory.consensus, timeout=1)
        decided = memory.consensus.vote(Vote(submit(memory.consensus), "a", True))
        wall.now += 2 * SECOND
        with ntmem.open(tmp_path, read_only=True) as reader:
            look(reader.consensus, name, decided)
    with ntmem.open(tmp_path, read_only=True) as reader:
        look(reader.consensus, name, decided)


def look(votes: Consensus, name: str, decided: ConsensusResult) -> None:
    assert votes.voters() == {"a": 1}
    assert votes.wait(name, 0.0).status == votes.result(name).status == "pending"  # nobody has rejected it
    assert [each.id for each in votes.pending()] == [name]
    assert votes.decisions() == [decided] == [votes.wait(decided.proposal_id)]
    for change in (
        lambda: votes.register("b"),
        lambda: votes.unregister("a"),
        lambda: submit(votes),
        lambda: votes.vote(Vote(name, "a", True)),
    ):
        with pytest.raises(ReadOnlyError, match="read_only=True; open it for writing"):
            change()


@pytest.mark.parametrize("space", SPACES)
def test_its_namespaces_are_closed(memory: ntmem.MemorySystem, votes: Consensus, space: str) -> None:
    for voter in ("a", "b"):
        votes.vote(Vote(submit(votes, id=f"of {voter}"), voter, True))
    submit(votes)
    name = ("ntmem", space)
    key = next((key for key, _ in memory.scan(name)), "k")

    def transact() -> None:
        with memory.transaction() as t:
            t.put("desk", "k", b"")
            t.delete(name, key)

    for call in (
        lambda: memory.put(name, key, b""),
        lambda: memory.put(f"ntmem/{space}", key, b"", if_version=0),
        lambda: memory.put_many(name, {key: b""}),
        lambda: memory.add(name, key, b""),
        lambda: memory.incr(name, key),
        lambda: memory.delete(name, key),
        lambda: memory.delete_namespace(name),
        lambda: memory.delete_namespace("ntmem"),
        lambda: memory.retain(name, history=True),
        lambda: memory.agents.own(name, "me"),
        transact,
    ):
        with pytest.raises(NotOwner):
            call()
    with pytest.raises(NotOwner, match=f"ntmem/{space} belongs to consensus; change it by memory.consensus"):
        memory.put(name, key, b"")
    assert memory.get("desk", "k") is None
    assert votes.vote(Vote("of a", "b", True)).status == "approved"


def test_a_closed_store(memory: ntmem.MemorySystem, votes: Consensus) -> None:
    name = submit(votes)
    memory.close()
    for call in (votes.voters, votes.pending, lambda: votes.result(name), lambda: votes.wait(name)):
        with pytest.raises(ntmem.StoreClosed):
            call()


# ---- what is refused ----


@pytest.mark.parametrize(
    ("name", "error", "says"),
    [
        ("", ValueError, "of 0 bytes"),
        ("x" * 256, ValueError, "of 256 bytes"),
        ("a\0", ValueError, "NUL"),
        ("a\x1fb", ValueError, "1 to 255 bytes"),
        ("\ud800", ValueError, "UTF-8"),
        (b"a", TypeError, "must be a str, was bytes"),
        (None, TypeError, "was NoneType"),
    ],
)
def test_no_names(votes: Consensus, name: Any, error: type[Exception], says: str) -> None:
    for what, call in {
        "voter": lambda: votes.register(name),
        "proposer": lambda: votes.submit_proposal(Proposal(name, b"")),
        "proposal_id": lambda: votes.result(name),
    }.items():
        with pytest.raises(error, match=rf"{what} .*{says}"):
            call()
    for call in (
        lambda: votes.unregister(name),
        lambda: votes.vote(Vote(name, "a", True)),
        lambda: votes.vote(Vote(submit(votes), name, True)),
        lambda: votes.proposal(name),
    ):
        with pytest.raises(error, match=says):
            call()
    if name != "":
        with pytest.raises(error, match=rf"id .*{says}"):
            submit(votes, id=name)


@pytest.mark.parametrize("weight", [-1, float("nan"), float("inf"), Decimal("nan"), "1", True, None])
def test_no_weights(votes: Consensus, weight: Any) -> None:
    name = submit(votes)
    with pytest.raises((TypeError, ValueError), match="weight must be"):
        votes.register("d", weight)
    if weight is not None:
        with pytest.raises((TypeError, ValueError), match="weight must be"):
            votes.vote(Vote(name, "a", True, weight))
    assert [*votes.voters()] == ["a", "b", "c"]
    assert votes.result(name).approval_rate == 0.0


@pytest.mark.parametrize(
    ("proposal", "error", "says"),
    [
        (Proposal("a", b"", 0), ValueError, "quorum must be above 0 and at most 1, was 0"),
        (Proposal("a", b"", 1.5), ValueError, "quorum"),
        (Proposal("a", b"", float("nan")), ValueError, "quorum must be a finite number"),
        (Proposal("a", b"", "0.67"), TypeError, "quorum must be an int, float, Decimal or Fraction, was str"),  # type: ignore[arg-type]
        (Proposal("a", b"", timeout=0), ValueError, "timeout must be more than 0 seconds"),
        (Proposal("a", b"", timeout=-1), ValueError, "timeout"),
        (Proposal("a", b"", timeout="1"), TypeError, "timeout"),  # type: ignore[arg-type]
        (Proposal("a", object()), SerializationError, "object"),
        (("a", b""), TypeError, "proposal must be a Proposal, was tuple"),
        (None, TypeError, "proposal must be a Proposal, was NoneType"),
    ],
)
def test_no_proposals(votes: Consensus, proposal: Any, error: type[Exception], says: str) -> None:
    with pytest.raises(error, match=says):
        votes.submit_proposal(proposal)
    assert votes.pending() == []


def test_no_electorate(memory: ntmem.MemorySystem) -> None:
    votes = memory.consensus
    for weight in (None, 0):
        if weight is not None:
            votes.register("a", weight)
        with pytest.raises(ConsensusError, match="no voter with a weight above 0 is registered"):
            submit(votes)
    assert votes.pending() == []


def test_no_votes(votes: Consensus) -> None:
    name = submit(votes)
    for vote, says in (((name, "a", True), "was tuple"), (Vote(name, "a", 1), "approve must be a bool")):  # type: ignore[arg-type]
        with pytest.raises(TypeError, match=says):
            votes.vote(vote)  # type: ignore[arg-type]
    with pytest.raises(ConsensusError, match="there is no proposal 'y' in this store"):
        votes.vote(Vote("y", "a", True))
    for look in (votes.result, votes.proposal):
        with pytest.raises(ConsensusError, match="there is no proposal 'y'"):
            look("y")
    with pytest.raises(ValueError, match="since"):
        votes.decisions(-1)
    assert votes.result(name).votes_needed == 2


def test_who_is_outrun_for_ever_is_told(votes: Consensus, monkeypatch: pytest.MonkeyPatch) -> None:
    def never() -> None:
        raise ntmem.VersionConflict("", expected=0, found=1)

    monkeypatch.setattr(polls, "_ATTEMPTS", 20)
    with pytest.raises(ConsensusError, match="proposal 'x' changed 20 times meanwhile; try again"):
        polls.retried(never, "proposal 'x'")


def test_more_proposals_than_one_object_remembers(votes: Consensus, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(polls, "_KNOWN", 3)
    names = [submit(votes) for _ in range(10)]
    for voter in ("a", "b"):
        for name in names:
            votes.vote(Vote(name, voter, True))
    assert [each.proposal_id for each in votes.decisions()] == names


# ---- what others do in between ----


class Between:
    """The wall clock of a call, which looks at it between reading and committing: then `action` is done, once."""

    def __init__(self, action: Any) -> None:
        self._actions = [action]

    def __call__(self) -> int:
        while self._actions:
            self._actions.pop()()
        return 1_700_000_000 * SECOND


def test_who_registers_in_between_takes_part(
    votes: Consensus, memory: ntmem.MemorySystem, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(polls, "wall_ns", Between(lambda: memory.consensus.register("d")))
    assert [*(votes.proposal(submit(votes)).electorate or ())] == ["a", "b", "c", "d"]


def test_who_registers_in_between_is_registered(
    votes: Consensus, memory: ntmem.MemorySystem, monkeypatch: pytest.MonkeyPatch
) -> None:
    encode, actions = polls._CODEC.encode, [lambda: memory.consensus.register("e")]

    class Codec:
        decode = staticmethod(polls._CODEC.decode)

        def encode(self, value: Any) -> bytes:
            while actions:
                actions.pop()()
            return encode(value)

    monkeypatch.setattr(polls, "_CODEC", Codec())
    votes.register("d")
    assert [*votes.voters()] == ["a", "b", "c", "d", "e"]


@pytest.mark.parametrize("approve", [True, False])
def test_who_votes_in_between_counts(
    votes: Consensus, memory: ntmem.MemorySystem, monkeypatch: pytest.MonkeyPatch, approve: bool
) -> None:
    name = submit(votes)
    other = Between(lambda: memory.consensus.vote(Vote(name, "b", approve)))
    monkeypatch.setattr(polls, "wall_ns", other)
    assert votes.vote(Vote(name, "a", approve)).status == ("approved" if approve else "rejected")
    assert [each.status for each in votes.decisions()] == ["approved" if approve else "rejected"]


def test_the_same_vote_in_between_counts_once(
    votes: Consensus, memory: ntmem.MemorySystem, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = submit(votes)
    monkeypatch.setattr(polls, "wall_ns", Between(lambda: memory.consensus.vote(Vote(name, "a", True))))
    assert votes.vote(Vote(name, "a", True)).votes_needed == 1
    monkeypatch.setattr(polls, "wall_ns", Between(lambda: memory.consensus.vote(Vote(name, "b", True))))
    with pytest.raises(ConsensusError, match="'b' has approved"):
        votes.vote(Vote(name, "b", False))
    assert votes.result(name).seq == 1


def test_a_decision_in_between_takes_the_number(
    votes: Consensus, memory: ntmem.MemorySystem, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = [submit(votes) for _ in range(2)]
    for name in names:
        votes.vote(Vote(name, "a", True))
    number, actions = polls._number, [lambda: memory.consensus.vote(Vote(names[0], "b", True))]

    def between(seq: int) -> str:
        while actions:
            actions.pop()()
        return number(seq)

    monkeypatch.setattr(polls, "_number", between)
    assert votes.vote(Vote(names[1], "b", True)).seq == 2
    assert [each.proposal_id for each in votes.decisions()] == names
