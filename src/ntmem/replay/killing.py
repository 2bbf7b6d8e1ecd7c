"""The kill in the middle: what an agent had acknowledged, and what of it is there after ``kill -9``."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

import msgspec

from ..system import MemorySystem
from .agent import SWARM, digest
from .judging import lost_trajectories
from .wire import Ack

_pack = msgspec.msgpack.Encoder().encode
_unpack = msgspec.msgpack.Decoder(list[tuple[str, str, int, bytes]]).decode


class Acknowledged:
    """What one agent has acknowledged; O(writes) memory, packed.

    Attributes
    ----------
    trajectories : dict
        The outcome of each, or None, by its id.
    """

    def __init__(self, name: str) -> None:
        self._own = (SWARM, name)
        self._packed: list[bytes] = []
        self.trajectories: dict[str, float | None] = {}
        self.last_step = -1

    def add(self, ack: Ack) -> None:
        """Take in the acknowledgement of a step."""
        self._packed.append(_pack(ack.writes))
        self.trajectories.update(ack.kept)
        self.last_step = ack.step

    def recover_trajectories(self, memory: MemorySystem) -> list[str]:
        """Get every acknowledged trajectory again; return which are lost, or have lost their outcome."""
        return lost_trajectories(memory, self._own[1], self.trajectories)

    def recover(self, memory: MemorySystem) -> tuple[int, list[str]]:
        """Read every acknowledged key back; return how many there are and which are lost.

        A key is recovered if it has the value that was acknowledged last, or a newer version: a step that was
        committed but not yet acknowledged may have written it again.
        """
        newest: dict[tuple[str, str], tuple[int, bytes]] = {}
        for packed in self._packed:
            for below, key, version, expected in _unpack(packed):
                newest[below, key] = (version, expected)
        lost = []
        for (below, key), (version, expected) in newest.items():
            labels = (*self._own, below) if below else self._own
            record = memory.get_record(labels, key)
            recovered = (
                record is not None
                and record.value is not None
                and (record.version > version or digest(record.value) == expected)
            )
            if not recovered:
                lost.append(f"{'/'.join(labels)} {key}")
        return len(newest), lost


@dataclass
class KillCard:
    """What the kill did and what it did not.

    Attributes
    ----------
    agent : str
    step : int
        The step that was running.
    signal_delay : float
        Seconds into the step.
    in_flight : str
        What had become of that step: "acknowledged", "committed, not acknowledged" or "not committed".
    acknowledged, recovered : int
        Keys with an acknowledged write, and how many of them were read back right after the kill.
    lost : list of str
        The difference, by name.
    acknowledged_steps : int
        Steps acknowledged before the kill.
    trajectories : int
        Acknowledged ones.
    lost_trajectories : list of str
        Those of them that were not there right after the kill, or lacked an acknowledged outcome.
    pending : int
        Trajectories that its successor found waiting for their outcome.
    fence, successor_fence : int
        Of the lock of its book, which it held when it died, and of the lease that its successor was granted. 0: it held
        none.
    seen_as : str
        Its status among the agents before its successor began: "dead".
    granted : float or None
        Seconds from the signal until its successor had the lock, of which:
    lock_wait : float
        from asking for it.
    resume : float or None
        Seconds from the signal to the first new acknowledgement, of which:
    reap : float
        until the process was gone and its pipe read,
    check : float
        reading back all acknowledged keys, which a restart without a report would not do,
    process_start : float
        until the process that stood by, with everything imported, has begun,
    open_and_read : float
        opening the store, being granted the lock, and reading the state.
    """

    agent: str
    step: int
    signal_delay: float
    in_flight: str
    acknowledged: int
    acknowledged_steps: int
    lost: list[str] = field(default_factory=list)
    trajectories: int = 0
    lost_trajectories: list[str] = field(default_factory=list)
    pending: int = 0
    fence: int = 0
    seen_as: str = ""
    successor_fence: int = 0
    granted: float | None = None
    lock_wait: float = 0.0
    resume: float | None = None
    reap: float = 0.0
    check: float = 0.0
    process_start: float = 0.0
    open_and_read: float = 0.0

    @property
    def recovered(self) -> int:
        """How many acknowledged keys were read back."""
        return self.acknowledged - len(self.lost)

    def to_dict(self) -> dict[str, Any]:
        """Return the card for JSON; durations in seconds."""
        return asdict(self) | {"recovered": self.recovered}
