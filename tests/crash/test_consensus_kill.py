"""Processes that die or stop at every step of a vote: it is cast or it is not, and nothing is decided twice.

``NTMEM_VOTE_KILLS`` says how many random kills there are.
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import time
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hostile import ram_directory
from logs import Nursery

import ntmem
from ntmem import ConsensusError, Proposal, Vote

pytestmark = pytest.mark.crash

KILLS = int(os.environ.get("NTMEM_VOTE_KILLS", "20"))
BEFORE = ["locked", "checked", "reserved", "half_written", "written"]  # nothing of it is left
BETWEEN = ["sealed", "linked", "numbered"]  # finished by the next owner of the mutex
AFTER = ["committed", "announced"]
POINTS = BEFORE + BETWEEN + AFTER
VOTERS = ["a", "b", "c"]

DYING = """
import ntmem
c = (memory := ntmem.open({path!r}, log_bytes=65536, flush_interval={interval})).consensus
from ntmem import Proposal, Vote
{lines}
"""


@contextlib.contextmanager
def opened(directory: Path) -> Iterator[Any]:
    with ntmem.open(directory / "s", log_bytes=1 << 16, flush_interval=3600.0) as memory:
        yield memory


def script(directory: Path, *lines: str, interval: float = 3600.0) -> str:
    return DYING.format(path=str(directory / "s"), interval=interval, lines="\n".join(lines))


def begin(memory: Any) -> None:
    """Two proposals: "before" is decided, and on "x" one has voted."""
    votes = memory.consensus
    for voter in VOTERS:
        votes.register(voter)
    for name in ("before", "x"):
        votes.submit_proposal(Proposal("a", b"", id=name))
        votes.vote(Vote(name, "a", True))
    votes.vote(Vote("before", "b", True))


def votes_in(memory: Any) -> dict[str, dict[str, bool]]:
    """Return the votes as they are written down, by proposal and voter."""
    found: dict[str, dict[str, bool]] = defaultdict(dict)
    for key, (approve, _) in memory.namespace("ntmem", "votes").items():
        name, voter = key.split("\x1f")
        found[name][voter] = approve
    return found


def votes_on(memory: Any, name: str) -> dict[str, bool]:
    return votes_in(memory)[name]


def check(memory: Any, names: list[str]) -> None:
    """What is decided follows from the votes that are there; decisions are 1, 2, 3, ..., each proposal's at most one.

    Three voters of one weight, two thirds: every decision is in the votes themselves.
    """
    votes = memory.consensus
    decisions = votes.decisions()
    assert [each.seq for each in decisions] == [*range(1, len(decisions) + 1)]
    decided = {each.proposal_id: each for each in decisions}
    assert len(decided) == len(decisions)
    waiting = {each.id for each in votes.pending()}
    written = votes_in(memory)
    for name in names:
        cast = written[name]
        result = votes.result(name)
        approving = sum(cast.values())
        refusing = len(cast) - approving
        expected = "approved" if approving >= 2 else "rejected" if refusing >= 2 else "pending"
        assert (result.status, result.approval_rate) == (expected, approving / 3)
        assert decided.get(name, result) == result
        assert (name in decided, name in waiting) == (expected != "pending", expected == "pending")


CALLS = {
    "a vote": "c.vote(Vote('x', 'b', False))",
    "a deciding vote": "c.vote(Vote('x', 'b', True))",
    "a proposal": "c.submit_proposal(Proposal('b', {'y': 1}, id='y'))",
    "a registration": "c.register('d', 2)",
}


def is_done(memory: Any, call: str) -> bool:
    votes = memory.consensus
    if call == "a vote":
        return "b" in votes_on(memory, "x")
    if call == "a deciding vote":
        return bool(votes.result("x").seq == 2)
    return "y" in [each.id for each in votes.pending()] if call == "a proposal" else "d" in votes.voters()


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("point", POINTS)
def test_who_is_killed_in_a_call(nursery: Nursery, ram: Path, point: str, call: str) -> None:
    with opened(ram) as memory:
        begin(memory)
        code = CALLS[call]
        assert nursery.run(script(ram, f"arm({point!r}, 'kill')", code, "os._exit(7)"))[0] == "killed"
        check(memory, ["before", "x"])
        memory.put("desk", "k", b"takes the mutex from the dead")
        done = point not in BEFORE
        assert is_done(memory, call) is done
        check(memory, ["before", "x"])
        finish(memory, call)
    with opened(ram) as memory:
        assert is_done(memory, call)
        check(memory, ["before", "x"])


def finish(memory: Any, call: str) -> None:
    """Do it again, whether it was done or not: as anybody would who was told nothing."""
    votes = memory.consensus
    if call == "a proposal":
        with contextlib.suppress(ConsensusError):
            votes.submit_proposal(Proposal("b", {"y": 1}, id="y"))
    elif call == "a registration":
        votes.register("d", 2)
    else:
        votes.vote(Vote("x", "b", call == "a deciding vote"))
        with pytest.raises(ConsensusError):
            votes.vote(Vote("x", "b", call != "a deciding vote"))
    assert is_done(memory, call)


@pytest.mark.parametrize("point", POINTS)
def test_all_die(nursery: Nursery, point: str) -> None:
    """The only process dies: who opens the store then has what the region says."""
    with ram_directory() as place:
        with opened(place) as memory:
            begin(memory)
        lines = ("c.vote(Vote('x', 'c', False))", f"arm({point!r}, 'kill')", "c.vote(Vote('x', 'b', True))")
        assert nursery.run(script(place, *lines, "os._exit(7)"))[0] == "killed"
        for _ in range(2):
            with opened(place) as memory:
                assert votes_on(memory, "x")["c"] is False  # it was told so
                assert is_done(memory, "a deciding vote") is (point not in BEFORE)
                check(memory, ["before", "x"])


@pytest.mark.parametrize("point", ["sealed", "committed"])
def test_who_is_killed_while_it_settles_a_timeout(nursery: Nursery, ram: Path, point: str) -> None:
    """A proposal that is over is rejected once, by whoever looks next."""
    with opened(ram) as memory:
        begin(memory)
        memory.consensus.submit_proposal(Proposal("a", b"", id="over", timeout=1e-9))
        for each in (point, "half_written"):
            ended, _ = nursery.run(script(ram, f"arm({each!r}, 'kill')", "c.result('over')", "os._exit(7)"))
            assert ended in ("killed", 7)
        result = memory.consensus.result("over")
        assert (result.status, result.seq) == ("rejected", 2)
        assert memory.consensus.decisions(1) == [result]


WORK = """
chance = __import__("random").Random({seed})
with open({told!r}, "ab", 0) as told:
    for n in range({begin}, {begin} + 1000):
        name = f"p{{n}}"
        c.submit_proposal(Proposal("a", b"", id=name))
        told.write(f"{{name}} submitted\\n".encode())
        for voter in chance.sample("abc", 3):
            for other in (name, chance.choice([each.id for each in c.pending()] or [name])):
                approve = chance.random() < 0.5
                try:
                    before = c.result(other).seq
                    c.vote(Vote(other, voter, approve))
                except ntmem.ConsensusError:
                    continue
                if before is None:
                    told.write(f"{{other}} {{voter}} {{approve:d}} {{c.result(other).seq or 0}}\\n".encode())
"""


def test_random_kills(nursery: Nursery) -> None:
    """Two vote on what both submit, and are killed at any time; what either was told is so for ever."""
    seed = random.randrange(1 << 32)
    random.seed(seed)
    with ram_directory() as place:
        with opened(place) as memory:
            begin(memory)
        for number in range(KILLS):
            pids = []
            for row in range(2):
                begins = (2 * number + row) * 1000
                code = WORK.format(seed=random.randrange(1 << 32), told=str(place / "told"), begin=begins)
                fate, pid = nursery.run(script(place, code, interval=0.002), wait=False)
                assert fate == "started"
                pids.append(pid)
            time.sleep(random.uniform(0.01, 0.1))
            for pid in random.sample(pids, 2):
                os.kill(pid, signal.SIGKILL)
                if random.random() < 0.5:
                    time.sleep(random.uniform(0, 0.01))
            for pid in pids:
                nursery.kill(pid)
            if number % 4 == 0 or number == KILLS - 1:
                with opened(place) as memory:
                    try:
                        look(memory, place / "told")
                    except BaseException as error:
                        error.add_note(f"seed {seed}")
                        raise


def look(memory: Any, told: Path) -> None:
    lines = [line.split() for line in told.read_text().split("\n")[:-1]] if told.exists() else []
    check(memory, [name for name, what, *_ in lines if what == "submitted"])
    cast = votes_in(memory)
    for name, voter, *rest in lines:
        if rest:
            seq = memory.consensus.result(name).seq
            counted = cast[name].get(voter)
            if int(rest[1]) == 0:  # it was not decided yet when the vote was acknowledged
                assert counted is (rest[0] == "1"), f"{voter}'s vote on {name} is lost"
            else:
                assert seq == int(rest[1]), f"{name} was decided as {rest[1]}, and is as {seq}"
                assert counted in (None, rest[0] == "1")
