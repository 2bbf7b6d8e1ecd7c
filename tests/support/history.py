"""What several processes did to a store, recorded so that ``kill -9`` at any instruction loses nothing.

Each process has a file of its own, mapped as shared memory, which outlives it. An operation is a slot of 64 bytes in
two halves: the first says what was begun and is written before the call, the second what it returned and is written
after it. ``pack_into`` writes the fields in their order, so the last of a half says that the half is whole.

A recorded operation costs a microsecond more than the operation.
"""

from __future__ import annotations

import mmap
import os
import struct
from pathlib import Path
from time import monotonic_ns
from typing import Any, Final

from linear import Conflict, Operation

import ntmem

NAMESPACE: Final = "linear"
GET, GET_RECORD, PUT, ADD, DELETE = 1, 2, 3, 4, 5
_KINDS: Final = (None, "get", "get_record", "put", "add", "delete")

# Native integers: they are stored whole, where those of a fixed byte order are written byte by byte.
_BEGUN = struct.Struct("@4q")  # begin, value, if_version (-1: none), kind << 32 | key
_RETURNED = struct.Struct("@4q")  # result, version, whether it was a conflict, end
_SLOT = struct.Struct("@8q")
_WORD = struct.Struct("@q")

TORN: Final = -1
"""Stands for bytes that nobody can have written."""


def value_of(number: int) -> bytes:
    """Return the bytes that stand for a number above 0: 16 to 808 of them, the same eight over and over."""
    return number.to_bytes(8, "little") * (2 + number % 100 if number % 5 == 0 else 2)


def number_of(value: bytes | None) -> int:
    """Return the number that a value stands for; 0 for None, :data:`TORN` for one that stands for none."""
    if value is None:
        return 0
    number = int.from_bytes(value[:8], "little")
    return number if 0 < number < 1 << 63 and value == value_of(number) else TORN


class Recorder:
    """A store handle whose operations are recorded in the file `path`, at most `capacity` of them.

    Keys and values are numbers. ``if_version`` is None or a version.
    """

    def __init__(self, memory: Any, path: str | os.PathLike[str], capacity: int) -> None:
        self.memory = memory
        self.left = capacity
        self._at = 0
        with open(path, "x+b") as file:
            file.truncate(capacity * _SLOT.size)
            self._map = mmap.mmap(file.fileno(), capacity * _SLOT.size)

    def _begin(self, kind: int, key: int, value: int = 0, if_version: int = -1) -> None:
        _BEGUN.pack_into(self._map, self._at, monotonic_ns(), value, if_version, kind << 32 | key)

    def _return(self, result: int, version: int = 0, conflict: bool = False) -> None:
        _RETURNED.pack_into(self._map, self._at + 32, result, version, conflict, monotonic_ns())
        self._at += 64
        self.left -= 1

    def get(self, key: int) -> int:
        """Return the number under a key, 0 if there is none."""
        self._begin(GET, key)
        value = number_of(self.memory.get(NAMESPACE, f"k{key}"))
        self._return(value)
        return value

    def get_record(self, key: int) -> tuple[int, int]:
        """Return (number, version), zeros if there is none."""
        self._begin(GET_RECORD, key)
        record = self.memory.get_record(NAMESPACE, f"k{key}")
        found = (0, 0) if record is None else (number_of(record.value), record.version)
        self._return(*found)
        return found

    def put(self, key: int, number: int, if_version: int | None = None) -> int:
        """Return the version; 0 after a conflict."""
        self._begin(PUT, key, number, -1 if if_version is None else if_version)
        try:
            version = self.memory.put(NAMESPACE, f"k{key}", value_of(number), if_version=if_version)
        except ntmem.VersionConflict as conflict:
            self._return(0, conflict.found, True)
            return 0
        self._return(0, version)
        return version

    def add(self, key: int, number: int) -> bool:
        """Return whether the key did not exist."""
        self._begin(ADD, key, number)
        added = self.memory.add(NAMESPACE, f"k{key}", value_of(number))
        self._return(added)
        return added

    def delete(self, key: int) -> bool:
        """Return whether the key existed."""
        self._begin(DELETE, key)
        deleted = self.memory.delete(NAMESPACE, f"k{key}")
        self._return(deleted)
        return deleted


class Progress:
    """How far the recorder of a file is, seen from another process."""

    def __init__(self, path: Path, capacity: int) -> None:
        self._path = path
        self._size = capacity * _SLOT.size
        self._map: mmap.mmap | None = None

    def has_begun(self, count: int) -> bool:
        """Whether it has begun `count` operations."""
        if self._map is None:
            if not self._path.exists() or self._path.stat().st_size < self._size:
                return False
            with open(self._path, "rb") as file:
                self._map = mmap.mmap(file.fileno(), self._size, access=mmap.ACCESS_READ)
        return count == 0 or _WORD.unpack_from(self._map, (count - 1) * 64 + 24) != (0,)


def read_history(directory: Path) -> list[Operation]:
    """Return what all recorders with a file in `directory` did; the process of an operation is the file's name."""
    return [operation for path in sorted(directory.iterdir()) for operation in read_file(path)]


def read_file(path: Path) -> list[Operation]:
    """Return what one recorder did, in order."""
    operations = []
    raw = path.read_bytes()
    for slot in _SLOT.iter_unpack(raw[: len(raw) // 64 * 64]):  # a recorder may die before its file has its size
        begin, value, if_version, what, *returned = slot
        kind, key = what >> 32, what & 0xFFFFFFFF
        if not kind:
            break
        end = returned[3]
        operations.append(
            Operation(
                path.name,
                _KINDS[kind],  # type: ignore[arg-type]
                f"k{key}",
                begin,
                end or None,
                value or None,
                if_version if if_version >= 0 else None,
                _result(kind, *returned[:3]) if end else None,
            )
        )
    return operations


def _result(kind: int, result: int, version: int, conflict: int) -> Any:
    if kind == GET:
        return result or None
    if kind == GET_RECORD:
        return (result, version) if result else None
    if kind == PUT:
        return Conflict(version) if conflict else version
    return bool(result)
