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
    """Supervisor: do this step."""

    step: int


class Stop(msgspec.Struct, frozen=True, tag="stop"):
    """Supervisor: end."""


class Ready(msgspec.Struct, frozen=True, tag="ready"):
    """Agent: the store is open, my state is read.

    Times are those of the machine's monotonic clock, in ns, which all processes share.
    """

    cursor: int
    begun_at: int
    ready_at: int
    ns: dict[str, list[int]]


class Ack(msgspec.Struct, frozen=True, tag="ack"):
    """Agent: this step is committed.

    `writes` has (namespace below the agent's, key, version, digest of the value) of every write, where the version
    is that of its transaction; `ns` has the durations of operations by name.
    """

    step: int
    writes: list[tuple[str, str, int, bytes]]
    ns: dict[str, list[int]]


class Failed(msgspec.Struct, frozen=True, tag="failed"):
    """Agent: an exception ended me."""

    step: int | None
    traceback: str


ToAgent: TypeAlias = Begin | Go | Stop
FromAgent: TypeAlias = Ready | Ack | Failed

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
