"""Processes that vote on the same proposals at once: each is decided once, all agree, the order has no gaps.

``NTMEM_VOTES`` says how many proposals there are.
"""

from __future__ import annotations

import os
from itertools import pairwise
from pathlib import Path

import pytest
from hostile import Start

import ntmem
from ntmem import Proposal, Vote

pytestmark = [pytest.mark.usefixtures("engine"), pytest.mark.only("shared", "lmdb")]

PROPOSALS = int(os.environ.get("NTMEM_VOTES", "150"))
WORKERS = 4
VOTERS = ["a", "b", "c", "d", "e"]

# Every worker votes for every voter on everything: what is the same vote and what is another is told by the store.
VOTES = """
from ntmem import ConsensusError, Proposal, Vote
import random
row, names = int(sys.argv[2]), sys.argv[3].split(",")
chance = random.Random(row)
with ntmem.open(sys.argv[1]) as memory:
    c = memory.consensus
    say("ready")
    hear()
    decided = {}
    for name in chance.sample(names, len(names)):
        for voter in chance.sample("abcde", 5):
            try:
                result = c.vote(Vote(name, voter, chance.random() < 0.55))
            except ConsensusError:
                continue
            if result.seq is not None:
                assert decided.setdefault(name, result) == result
        decided[name] = c.result(name)
    say(";".join(f"{name} {each.seq} {each.status} {each.decided_at}" for name, each in decided.items()))
"""


def test_all_agree(ram: Path, start: Start) -> None:
    store = ram / "s"
    with ntmem.open(store) as memory:
        votes = memory.consensus
        for number, voter in enumerate(VOTERS):
            votes.register(voter, number + 1)
        names = [votes.submit_proposal(Proposal("a", number, 0.6)) for number in range(PROPOSALS)]
        workers = [start(VOTES, store, row, ",".join(names)) for row in range(WORKERS)]
        for worker in workers:
            assert worker.line() == "ready"
        for worker in workers:
            worker.tell()
        told = [worker.line() for worker in workers]
        for worker in workers:
            worker.end()
        decisions = votes.decisions()
        assert [each.seq for each in decisions] == [*range(1, PROPOSALS + 1)]
        assert {each.proposal_id for each in decisions} == {*names}
        assert votes.pending() == []
        expected = {f"{each.proposal_id} {each.seq} {each.status} {each.decided_at}" for each in decisions}
        for rows in told:
            assert {*rows.split(";")} == expected
        check_votes(memory, names)
    with ntmem.open(store) as memory:
        assert memory.consensus.decisions() == decisions


def check_votes(memory: ntmem.MemorySystem, names: list[str]) -> None:
    """The votes that are written down, up to the one that decided, come to what was decided."""
    space = memory.namespace("ntmem", "votes")
    cast: dict[str, dict[str, bool]] = {name: {} for name in names}
    for key in space:
        name, voter = key.split("\x1f")
        cast[name][voter] = space[key][0]
    for name in names:
        result = memory.consensus.result(name)
        approving = sum(VOTERS.index(voter) + 1 for voter, vote in cast[name].items() if vote)
        refusing = sum(VOTERS.index(voter) + 1 for voter in cast[name]) - approving
        assert result.approval_rate == approving / 15
        assert result.status == ("approved" if approving >= 9 else "rejected")  # 0.595 of 15
        assert approving >= 9 or refusing > 6


REGISTERS = """
from ntmem import Proposal
row, count = int(sys.argv[2]), int(sys.argv[3])
with ntmem.open(sys.argv[1]) as memory:
    c = memory.consensus
    say("ready")
    hear()
    for number in range(count):
        c.register(f"{row}-{number}")
        c.submit_proposal(Proposal(str(row), number))
"""


def test_no_registration_is_lost_and_electorates_only_grow(ram: Path, start: Start) -> None:
    store, count = ram / "s", 25
    workers = [start(REGISTERS, store, row, count) for row in range(WORKERS)]
    for worker in workers:
        assert worker.line() == "ready"
    for worker in workers:
        worker.tell()
    for worker in workers:
        worker.end()
    with ntmem.open(store) as memory:
        votes = memory.consensus
        assert {*votes.voters()} == {f"{row}-{number}" for row in range(WORKERS) for number in range(count)}
        proposals = votes.pending()
        assert len(proposals) == WORKERS * count
        for each in proposals:  # who registered before it did, takes part
            assert each.electorate is not None
            assert {f"{each.proposer}-{number}" for number in range(each.data + 1)} <= each.electorate.keys()
        electorates = sorted((set(each.electorate or {}) for each in proposals), key=len)
        assert all(before <= after for before, after in pairwise(electorates))


SETTLES = """
with ntmem.open(sys.argv[1]) as memory:
    c = memory.consensus
    say("ready")
    hear()
    say(*sorted(f"{name}:{c.result(name).seq}" for name in sys.argv[2].split(",")))
"""


def test_what_is_over_is_rejected_once(ram: Path, start: Start) -> None:
    store = ram / "s"
    with ntmem.open(store) as memory:
        votes = memory.consensus
        votes.register("a")
        names = [votes.submit_proposal(Proposal("a", b"", timeout=1e-9)) for _ in range(30)]
        workers = [start(SETTLES, store, ",".join(names)) for _ in range(WORKERS)]
        for worker in workers:
            assert worker.line() == "ready"
        for worker in workers:
            worker.tell()
        told = {worker.line() for worker in workers}
        for worker in workers:
            worker.end()
        decisions = votes.decisions()
        assert told == {" ".join(sorted(f"{each.proposal_id}:{each.seq}" for each in decisions))}
        assert [each.seq for each in decisions] == [*range(1, len(names) + 1)]


def test_the_last_vote_of_another_process_ends_a_wait(ram: Path, start: Start) -> None:
    store = ram / "s"
    with ntmem.open(store) as memory:
        votes = memory.consensus
        votes.register("a")
        name = votes.submit_proposal(Proposal("a", b""))
        waits = "m = ntmem.open(sys.argv[1]); say('waits'); say(m.consensus.wait(sys.argv[2]).status); m.close()"
        child = start(waits, store, name)
        assert child.line() == "waits"
        votes.vote(Vote(name, "a", True))
        assert child.line() == "approved"
        child.end()
