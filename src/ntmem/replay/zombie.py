"""The zombie: an agent that is stopped while it holds its lock, replaced, and continued with its orders still in hand.

The kill shows that nothing is lost; this shows that nothing is doubled. The agent has decided a step and stands before
its commit when SIGSTOP reaches it. Its lease ends, its successor is granted the lock, does the same step and writes it.
Then SIGCONT: the first one knows of nothing, writes what it had decided, and the store refuses it.
"""

from __future__ import annotations

import contextlib
import time
from dataclasses import asdict, dataclass
from typing import Any

from ..errors import LockTimeout
from ..records import Record
from ..system import MemorySystem
from .agent import SWARM
from .desk import book_lock, resource_of
from .swarm import AgentFailed, Swarm
from .wire import Ack, Begin, Failed, Ready, Refused

LEASE = 0.2
"""Seconds that are left to the stopped agent's lease: it would have a minute, which nobody wants to watch."""
_LOOKS = 0.002
_FLUSH = 5.0


@dataclass
class ZombieCard:
    """What a stopped agent did when it was continued.

    Attributes
    ----------
    agent : str
    step : int
        The step that was running.
    lock : str
        What it held.
    fence : int
        Under which it was to write.
    seen_as : str
        Its status among the agents while it was stopped: "silent".
    lease : float
        Seconds that were left to its lease when it was stopped.
    successor_fence : int
        Under which its successor wrote the step.
    granted : float
        Seconds from the end of the lease until the successor had the lock.
    version : int
        Of the cursor that the successor wrote.
    stopped : float
        Seconds until it was continued.
    refused : str or None
        What the store said to its write; None: it was not refused.
    word : str
        If it was not: what became of it instead.
    unchanged : bool
        Whether the cursor and the fence that guards it were afterwards as the successor had written them.
    """

    agent: str
    step: int
    lock: str
    fence: int
    seen_as: str
    lease: float = LEASE
    successor_fence: int = 0
    granted: float = 0.0
    version: int = 0
    stopped: float = 0.0
    refused: str | None = None
    word: str = ""
    unchanged: bool = False

    @property
    def problems(self) -> list[str]:
        """What should not be: a write that was not refused, or that did something all the same."""
        problems = []
        if self.refused is None:
            problems.append(f"wrote step {self.step} under fence {self.fence}, which was over: {self.word}")
        if not self.unchanged:
            problems.append(f"changed what its successor had written in step {self.step} under {self.successor_fence}")
        if self.successor_fence <= self.fence:
            problems.append(f"had fence {self.fence}, its successor has {self.successor_fence}: fences must rise")
        return [f"{self.agent}, stopped and continued, {problem}" for problem in problems]

    def to_dict(self) -> dict[str, Any]:
        """Return the card for JSON; durations in seconds."""
        return asdict(self)


class Zombie:
    """One agent, stopped in a step; the methods are called in the order in which they stand."""

    def __init__(self, swarm: Swarm, memory: MemorySystem, begin: Begin) -> None:
        self._swarm, self._memory, self._begin = swarm, memory, begin

    def stop(self, step: int) -> None:
        """Let the agent decide a step, stop it there, and let its lease end soon.

        Nobody is to be stopped in the middle of a flush, when the whole store waits for him: so everything is on disk.
        """
        name = self._begin.name
        self._swarm.go([name], step, pause=True)
        self._swarm.wait_decided(name, step)
        with contextlib.suppress(LockTimeout):
            self._memory.flush(_FLUSH)
        self._worker = self._swarm.freeze(name)
        self._stopped_at = time.monotonic_ns()
        lock = book_lock(self._memory, name)
        self._lease_from = time.monotonic_ns()
        if lock is None or lock.fence is None or not self._memory.locks.renew(lock.fence, LEASE):
            raise AgentFailed(name, f"was stopped, and did not hold the lock of {resource_of(name)}")
        self.card = ZombieCard(name, step, lock.resource, lock.fence.number, self._wait_until_silent())

    def _wait_until_silent(self) -> str:
        """Return the agent's status once it is not alive: another one of that name could not register before."""
        while (agent := self._memory.agents.get(self._begin.name)) is not None and agent.status == "alive":
            time.sleep(_LOOKS)
        return "unknown" if agent is None else agent.status

    def replace(self) -> Ready:
        """Start the successor and return what it says when it was granted the lock and has read the state."""
        self._swarm.start(self._begin)
        self._swarm.wait_ready([self._begin.name])
        ready = self._swarm.workers[self._begin.name].ready
        assert ready is not None
        self.card.successor_fence = ready.fence
        self.card.granted = (ready.granted_at - self._lease_from) / 1e9 - LEASE
        return ready

    def resume(self) -> ZombieCard:
        """Let the stopped agent go on, now that its successor has done the step, and see what becomes of its write."""
        written = self._cursor()
        self.card.version = written.version
        self.card.stopped = (time.monotonic_ns() - self._stopped_at) / 1e9
        word = self._swarm.thaw(self._worker, self.card.step)
        if isinstance(word, Refused):
            self.card.refused = word.message
        else:
            self.card.word = _outcome(word)
        self.card.unchanged = self._cursor() == written and self._lock_number() == self.card.successor_fence
        return self.card

    def _cursor(self) -> Record:
        record = self._memory.get_record((SWARM, self._begin.name), "state")
        assert record is not None
        return record

    def _lock_number(self) -> int:
        lock = book_lock(self._memory, self._begin.name)
        return 0 if lock is None or lock.fence is None else lock.fence.number


def _outcome(word: Ack | Failed | None) -> str:
    if word is None:
        return "the process ended without a word"
    return "it was accepted" if isinstance(word, Ack) else f"it raised {word.traceback.strip().splitlines()[-1]}"
