"""Rings of messages for tests, and their bytes as anybody may change them."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

from hostile import ram_directory

from ntmem._core.region import Region
from ntmem._core.ring import Message, Pattern, Ring, RingReader

IDENTITY = b"a test"
LEAST = 1 << 16
HEADER, TAIL = 40, 4
WORDS, MESSAGES = 7, 8
"""Kinds of the sections."""


def new_ring(size: int = LEAST, first: int = 1, path: os.PathLike[str] | None = None) -> Ring:
    """Make a ring for this process alone, or publish it under a path."""
    region = Region.create(path, identity=IDENTITY, generation=1, sections=Ring.sections(size))
    ring = Ring.create(region, first)
    if path is not None:
        region.publish()
    return ring


@contextlib.contextmanager
def published_ring(size: int = LEAST) -> Iterator[Ring]:
    """Give a ring that other processes may open; its region is gone after the block."""
    with ram_directory() as place:
        yield new_ring(size, path=place / "region")


def follow(ring: Ring, pattern: bytes = b">", **how: int | None) -> RingReader:
    return RingReader(ring, Pattern(pattern), **how)


def drain(reader: RingReader, limit: int = 256) -> list[Message]:
    """Read until there is no more."""
    found = []
    while taken := reader.read(limit):
        found += taken
    return found


def whole(names: int, payload: int) -> int:
    """Return the bytes that a message takes."""
    return (HEADER + names + payload + TAIL + 7) // 8 * 8


class RingBytes:
    """The file of a ring."""

    def __init__(self, ring: Ring) -> None:
        self.file = ring.region.fileno()
        at, self.offsets = 8192, {}
        for kind, size, _ in ring.region.sections:
            self.offsets[kind] = at
            at += (size + 4095) // 4096 * 4096

    def read(self, kind: int, at: int, size: int) -> bytes:
        return os.pread(self.file, size, self.offsets[kind] + at)

    def write(self, kind: int, at: int, data: bytes) -> None:
        os.pwrite(self.file, data, self.offsets[kind] + at)
