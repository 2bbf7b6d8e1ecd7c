"""Votes: what one costs, as ratio to a plain transaction of two puts, and the times of single ones."""

import shutil
import time

import pytest
from figures import note_times

import ntmem
from ntmem import Proposal, Vote

CALLS = 200
SINGLE = 5_000


def begin(memory, voters):
    votes = memory.consensus
    for number in range(voters):
        votes.register(str(number))
    return votes


def two_puts(memory, name):
    """The same in two plain puts: a vote, and a tally."""
    with memory.transaction() as t:
        t.put("votes", name, b"v" * 12)
        t.put("tallies", "tally", b"t" * 12)


@pytest.mark.parametrize(
    ("what", "voters"),
    [("first vote", 5), ("first vote", 100), ("later vote", 5), ("later vote", 100), ("deciding vote", 3)],
)
def test_vote_to_two_puts(ratio_to, tmp_path, what, voters):
    """The first vote that an object casts on a proposal reads it."""
    with ntmem.open(tmp_path / "store", engine="shared") as memory:
        votes = begin(memory, voters)
        cast = []

        def settle():
            memory.flush()
            cast[:] = [votes.submit_proposal(Proposal("0", b"data")) for _ in range(CALLS)]
            if what != "first vote":
                for name in cast:
                    votes.vote(Vote(name, "0", True))

        def vote():
            for name in cast:
                votes.vote(Vote(name, "1", True))

        def puts():
            for name in cast:
                two_puts(memory, name)

        ratio_to(vote, puts, calls=CALLS, repeats=1, settle=settle)


@pytest.mark.parametrize("voters", [5, 100])
def test_single_votes(benchmark, tmp_path, voters):
    """One by one, with the two plain puts between them."""
    store = tmp_path / "store"
    with ntmem.open(store, engine="shared") as memory:
        votes = begin(memory, voters)
        first, later, plain = [], [], []
        for number in range(SINGLE):
            name = votes.submit_proposal(Proposal("0", b"data"))
            for voter, into in (("0", first), ("1", later)):
                vote = Vote(name, voter, True)
                start = time.perf_counter_ns()
                votes.vote(vote)
                into.append(time.perf_counter_ns() - start)
            start = time.perf_counter_ns()
            two_puts(memory, str(number))
            plain.append(time.perf_counter_ns() - start)
    shutil.rmtree(store)
    note_times(benchmark, first=first, later=later, two_puts=plain)


def test_single_decisions(benchmark, tmp_path):
    with ntmem.open(tmp_path / "store", engine="shared") as memory:
        votes, times = begin(memory, 3), []
        for _ in range(SINGLE):
            name = votes.submit_proposal(Proposal("0", b"data"))
            votes.vote(Vote(name, "0", True))
            last = Vote(name, "1", True)
            start = time.perf_counter_ns()
            votes.vote(last)
            times.append(time.perf_counter_ns() - start)
    note_times(benchmark, decides=times)
