"""A region of shared memory that dead processes left, with bytes of it changed."""

from __future__ import annotations

import functools
import os
import struct
import tempfile
from collections.abc import Iterator
from pathlib import Path

from logs import IDENTITY, new_log, put
from registry import patch, patched, promised, target

from ntmem._core.examine import examine
from ntmem._core.log import Log, LogDamaged
from ntmem._core.region import Region, RegionDamaged, RegionMismatch
from ntmem._core.unflushed import collect, versions

_PAGE, _LINE = 4096, 64


@functools.cache
def _original() -> bytes:
    with new_log(4096, 8) as log:
        for number, key in enumerate((b"x", b"a", b"b", b"a")):
            log.append([put(key, key * 20), put(b"%d" % number, b"v")], now=7)
            if key == b"x":
                log.advance_flushed(log.committed)
        return Path(os.fspath(log.region.path)).read_bytes()


def _region_seeds() -> Iterator[bytes]:
    yield b""
    original = _original()
    for word in range(18):
        yield patch(_PAGE + _LINE * word, original[_PAGE + _LINE * word : _PAGE + _LINE * word + 8])
    yield patch(8, b"\x01") + patch(2 * _PAGE, bytes(8))
    yield patch(len(original) - 4096 + 150, b"c")
    yield patch(300, struct.pack("<Q", 1 << 40))


@target(_region_seeds)
def region(data: bytes) -> None:
    """Refused, or read within its bounds: what comes is what was written."""
    copy = patched(_original(), data)[: 1 << 20]
    with tempfile.NamedTemporaryFile(prefix="ntmem-fuzz-", dir="/dev/shm") as file:
        os.fchmod(file.fileno(), 0o600)
        file.write(copy)
        file.flush()
        with promised(RegionDamaged, RegionMismatch, LogDamaged, OSError):
            log = Log(Region.attach(file.name, identity=IDENTITY))
        with promised(LogDamaged):
            examine(log, index=True)
        with promised(LogDamaged, RegionDamaged):
            position = log.flushed
            while position < log.committed:
                _, position = log.read_groups(position)
            for key in (b"x", b"a", b"b", b"0", b"nothing"):
                log.get(b"ns", key)
                versions(log, b"ns", key, snapshot=2**63)
            collect(log, b"ns")
