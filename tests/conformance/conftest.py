"""Backends of locks, agents, votes and messages. One more is one more parameter: the tests know only what is here."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hostile import Child, Start

import ntmem
from ntmem.coordination import AgentRegistry, Ballot, LockManager
from ntmem.coordination.protocols import Bus


class Backend:
    """A backend, as this process has it and as others do.

    Parameters
    ----------
    connect : callable
        Opens it once more in this process; it is closed with the test. What it returns has `locks`, `agents`,
        `consensus` and `bus`.
    code : str or None
        Python that sets `memory`, which has the same, in another process; None: it is of one process only.
    start : callable
        Starts such a process.
    """

    def __init__(self, connect: Callable[[str], Any], code: str | None, start: Start) -> None:
        self._connect = connect
        self._code = code
        self._start = start
        self.here = self.connect("here")

    @property
    def locks(self) -> LockManager:
        """The locks, through the first connection."""
        locks: LockManager = self.here.locks
        return locks

    @property
    def agents(self) -> AgentRegistry:
        """The agents, through the first connection."""
        agents: AgentRegistry = self.here.agents
        return agents

    @property
    def votes(self) -> Ballot:
        """The votes, through the first connection."""
        votes: Ballot = self.here.consensus
        return votes

    @property
    def bus(self) -> Bus:
        """The messages, through the first connection."""
        bus: Bus = self.here.bus
        return bus

    def connect(self, owner: str) -> Any:
        """Open it once more, in this process and as `owner`."""
        return self._connect(owner)

    def elsewhere(self, code: str, *args: object) -> Child:
        """Run `code` in another process, with its `locks`, `agents`, `votes`, `bus` and `memory`, which closes them."""
        if self._code is None:
            pytest.skip("this backend is of one process only")
        parts = "locks, agents, votes = memory.locks, memory.agents, memory.consensus\nbus = memory.bus"
        return self._start(f"{self._code}\n{parts}\n{code}", *args)

    def restart(self) -> None:
        """Close everything in this process, and open it again."""
        if self._code is None:
            pytest.skip("this backend ends with its process")
        self.here.close()
        self.here = self.connect("here")


@pytest.fixture(params=["directory", "private"])
def backend(request: pytest.FixtureRequest, start: Start) -> Iterator[Backend]:
    """A backend that nobody has used yet."""
    with contextlib.ExitStack() as stack:
        yield BACKENDS[request.param](request, stack, start)


def directory(request: pytest.FixtureRequest, stack: contextlib.ExitStack, start: Start) -> Backend:
    """The leases in the shared memory of a store in a directory."""
    path: Path = request.getfixturevalue("ram") / "store"

    def connect(owner: str) -> Any:
        return stack.enter_context(ntmem.open(path, engine="shared", agent_id=owner))

    code = f"memory = ntmem.open({str(path)!r}, engine='shared', agent_id='elsewhere')"
    return Backend(connect, code, start)


def private(request: pytest.FixtureRequest, stack: contextlib.ExitStack, start: Start) -> Backend:
    """The leases of a store that ends with its process: there is only one connection, which all share."""
    memory = stack.enter_context(ntmem.open(engine="shared", agent_id="here"))
    return Backend(lambda owner: memory, None, start)


@pytest.fixture(params=["directory", "private", "synced"])
def ballot(request: pytest.FixtureRequest, start: Start) -> Iterator[Backend]:
    """A backend of votes, in which nobody has voted yet."""
    with contextlib.ExitStack() as stack:
        yield BALLOTS[request.param](request, stack, start)


def synced(request: pytest.FixtureRequest, stack: contextlib.ExitStack, start: Start) -> Backend:
    """A store in a directory, of the engine without shared memory."""
    path: Path = request.getfixturevalue("ram") / "store"

    def connect(owner: str) -> Any:
        return stack.enter_context(ntmem.open(path, engine="lmdb", agent_id=owner))

    return Backend(connect, f"memory = ntmem.open({str(path)!r}, engine='lmdb', agent_id='elsewhere')", start)


BACKENDS = {"directory": directory, "private": private}
BALLOTS = BACKENDS | {"synced": synced}
