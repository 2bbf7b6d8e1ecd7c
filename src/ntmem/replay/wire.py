"""What the supervisor and its agents say to each other: MessagePack frames over two pipes per agent.

**Layout**: a frame is the length of its body (4 bytes, little-endian) and the body, one message.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import TypeAlias

import msgspec

_LENGTH_BYTES = 4


class Begin(msgspec.Struct, frozen=True, tag="begin"):
    """Supervisor: who you are."""

    store: str
    name: str
    symbol: str
    agent: str | None
    window: int
    horizon: int
    seed: int


class Go(msgspec.Struct, frozen=True, tag="go"):
    """Supervisor: do this step; or with `pause` decide it, say so, and commit it only when told to go again."""

    step: int
    pause: bool = False


class Stop(msgspec.Struct, frozen=True, tag="stop"):
    """Supervisor: end."""


class Ready(msgspec.Struct, frozen=True, tag="ready"):
    """Agent: the store is open, the lock of my book is granted, my state is read.

    Times are those of the machine's monotonic clock, in ns, which all processes share. `fence` is that of the lock; 0:
    the engine has no locks. `pending` is how many of my trajectories wait for their outcome.
    """

    cursor: int
    begun_at: int
    ready_at: int
    ns: dict[str, list[int]]
    fence: int = 0
    asked_at: int = 0
    granted_at: int = 0
    pending: int = 0


class Ack(msgspec.Struct, frozen=True, tag="ack"):
    """Agent: this step is committed.

    `writes` has (namespace below the agent's, key, version, digest of the value) of every write, where the version
    is that of its transaction; `ns` has the durations of operations by name; `kept` has trajectories by their
    id, with the outcome that this step has added, or None of a new one.
    """

    step: int
    writes: list[tuple[str, str, int, bytes]]
    ns: dict[str, list[int]]
    kept: list[tuple[str, float | None]] = []


class Decided(msgspec.Struct, frozen=True, tag="decided"):
    """Agent: this step is decided, nothing of it is written but what I saw, and I hold the lock of my book."""

    step: int


class Refused(msgspec.Struct, frozen=True, tag="refused"):
    """Agent: my lock was over when I came to write this step; the store has refused it."""

    step: int
    message: str


class Failed(msgspec.Struct, frozen=True, tag="failed"):
    """Agent: an exception ended me."""

    step: int | None
    traceback: str


ToAgent: TypeAlias = Begin | Go | Stop
FromAgent: TypeAlias = Ready | Ack | Decided | Refused | Failed

_encode = msgspec.msgpack.Encoder().encode
to_agent = msgspec.msgpack.Decoder(ToAgent)
from_agent = msgspec.msgpack.Decoder(FromAgent)


def send(descriptor: int, message: ToAgent | FromAgent) -> None:
    """Write a frame to a blocking descriptor."""
    body = _encode(message)
    view = memoryview(len(body).to_bytes(_LENGTH_BYTES, "little") + body)
    while view:
        view = view[os.write(descriptor, view) :]


class Frames:
    """Cuts what arrives on a pipe into the bodies of frames."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> Iterator[bytes]:
        """Take in `data` and yield the bodies that are complete now."""
        self._buffer += data
        while len(self._buffer) >= _LENGTH_BYTES:
            end = _LENGTH_BYTES + int.from_bytes(self._buffer[:_LENGTH_BYTES], "little")
            if len(self._buffer) < end:
                return
            body = bytes(self._buffer[_LENGTH_BYTES:end])
            del self._buffer[:end]
            yield body
