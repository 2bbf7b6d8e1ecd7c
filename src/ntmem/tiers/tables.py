"""The five databases of a store as typed rows, within one transaction. See :mod:`ntmem.tiers.layout`.

Nothing here decides anything: a :class:`Tables` lives as long as its transaction and belongs to its thread.

**Layout** of the ``meta`` database: ``schema`` (u64), ``identity`` (device and inode of the data file), ``head``
(generation, position, next namespace id, latest time of a commit), ``clock`` (kind, time or offset, boot id), ``log``
(id of the shared region, and the position in its log before which everything is here), ``fences`` (up to which number
leases may have been granted, and in which generation); the last four behind a CRC.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Any, NamedTuple
from zlib import crc32

from .. import clock as clocks
from .._core.bulk import page
from .._core.mdb import Transaction
from ..errors import CorruptionError
from .cold import ColdStore, Txn
from .layout import (
    NamespaceRow,
    Stored,
    decode_namespace,
    decode_record,
    encode_namespace,
    encode_record,
    history_key,
    history_prefix,
    id_prefix,
    namespace_head,
    namespace_key,
    record_key,
    split_expiry_key,
)

SYSTEM, SIMULATED = 0, 1
OVER = 2**64 - 1
"""Position of a log that was drained to its end, for good."""

_HEAD = struct.Struct("<QQQq")
_CLOCK = struct.Struct("<Bq")
_LOG = struct.Struct("<16sQ")
_FENCES = struct.Struct("<QQ")
_FENCE_BLOCK = 1 << 20
_GENERATION_SHIFT = 44


class Head(NamedTuple):
    """Where the store stands. `latest` is the newest time at which something was committed."""

    generation: int
    position: int
    next_namespace: int
    latest: int

    @property
    def version(self) -> int:
        """The version of the newest change."""
        return self.generation << _GENERATION_SHIFT | self.position


class ClockRow(NamedTuple):
    """The store's clock: simulated, `at` is the time; system, `at` is added to the boot clock of `boot`."""

    kind: int
    at: int
    boot: bytes

    def now(self) -> int:
        """Return the time, int ns UTC."""
        return self.at if self.kind == SIMULATED else clocks.boot_ns() + self.at


class LogRow(NamedTuple):
    """How far the log of a shared region has come to the disk."""

    region_id: bytes
    position: int

    @property
    def is_over(self) -> bool:
        """Whether all of it has come, and the region was removed or is to be."""
        return self.position == OVER


class Tables:
    """The rows of a store, seen and changed within one transaction."""

    __slots__ = ("_boot", "_clock", "_dbs", "_txn")

    def __init__(self, store: ColdStore, txn: Txn) -> None:
        self._txn = txn
        self._dbs = store.databases
        self._boot = store.boot
        self._clock = store.clock

    # -- meta

    def get_meta(self, name: bytes) -> bytes | None:
        """Return a row of ``meta``."""
        data = self._txn.get(name, db=self._dbs["meta"])
        return None if data is None else bytes(data)

    def put_meta(self, name: bytes, data: bytes) -> None:
        """Set a row of ``meta``."""
        self._txn.put(name, data, db=self._dbs["meta"])

    def head(self) -> Head:
        """Return where the store stands."""
        return Head(*_HEAD.unpack(self._needed(b"head", _HEAD.size)))

    def put_head(self, head: Head) -> None:
        """Set where the store stands."""
        self._put_checked(b"head", _HEAD.pack(*head))

    def next_version(self, now: int) -> int:
        """Take the next version; it is lost with the transaction."""
        head = self.head()
        head = head._replace(position=head.position + 1, latest=max(head.latest, now))
        self.put_head(head)
        return head.version

    def clock(self) -> ClockRow:
        """Return the store's clock."""
        data = self._needed(b"clock", _CLOCK.size)
        kind, at = _CLOCK.unpack_from(data)
        return ClockRow(kind, at, data[_CLOCK.size :])

    def put_clock(self, row: ClockRow) -> None:
        """Set the store's clock."""
        self._put_checked(b"clock", _CLOCK.pack(row.kind, row.at) + row.boot)

    def now(self) -> int:
        """Return the store's time, int ns UTC."""
        if self._clock is not None:
            return self._clock()
        row = self.clock()
        if row.kind == SYSTEM and row.boot != self._boot:
            # Only read-only openers have come since the machine was booted, and they cannot set the row anew.
            return max(clocks.wall_ns(), self.head().latest)
        return row.now()

    def log_row(self) -> LogRow | None:
        """Return how far a log has come to the disk; None: no region was ever made for this store."""
        if self.get_meta(b"log") is None:
            return None
        return LogRow(*_LOG.unpack(self._needed(b"log", _LOG.size)))

    def put_log_row(self, row: LogRow) -> None:
        """Set how far a log has come to the disk."""
        self._put_checked(b"log", _LOG.pack(*row))

    def reserve_fences(self, *, is_new: bool = False) -> tuple[int, int]:
        """Reserve numbers for leases; return the first and the last of them. They are above all that were ever granted.

        `is_new`: the store is being made in this transaction.

        A new generation says that this may be an older state of the store, which does not know the latest numbers: then
        they go on at the nanoseconds of the wall clock, which are ahead of any that were granted one by one, and of any
        that were reserved: opening a store takes longer than a block is wide.
        """
        limit, generation = 0 if is_new else clocks.wall_ns(), self.head().generation
        if self.get_meta(b"fences") is not None:
            limit, before = _FENCES.unpack(self._needed(b"fences", _FENCES.size))
            if before != generation:
                limit = max(limit, clocks.wall_ns())
        self._put_checked(b"fences", _FENCES.pack(limit + _FENCE_BLOCK, generation))
        return limit + 1, limit + _FENCE_BLOCK

    def leap_fences(self, step: int) -> None:
        """Let the next numbers for leases be above what another state of the store reserves from now on."""
        limit, generation = clocks.wall_ns(), self.head().generation
        if self.get_meta(b"fences") is not None:
            limit = max(limit, _FENCES.unpack(self._needed(b"fences", _FENCES.size))[0])
        self._put_checked(b"fences", _FENCES.pack(limit + step, generation))

    def _needed(self, name: bytes, size: int) -> bytes:
        data = self.get_meta(name)
        if data is None or len(data) < size + 4 or crc32(data[4:], crc32(name)).to_bytes(4, "little") != data[:4]:
            raise CorruptionError(
                f"the store's {name.decode()} row is missing or damaged; restore a backup of the store's directory"
            )
        return data[4:]

    def _put_checked(self, name: bytes, data: bytes) -> None:
        self.put_meta(name, crc32(data, crc32(name)).to_bytes(4, "little") + data)

    # -- namespaces

    def namespace(self, labels: tuple[str, ...]) -> NamespaceRow | None:
        """Return the row of a namespace."""
        return self.namespace_at(namespace_key(labels))

    def namespace_at(self, key: bytes) -> NamespaceRow | None:
        """Return the row of a namespace by its database key."""
        data = self._txn.get(key, db=self._dbs["namespaces"])
        return None if data is None else decode_namespace(bytes(data))

    def put_namespace(self, row: NamespaceRow) -> NamespaceRow:
        """Set the row of a namespace and return it."""
        self._txn.put(namespace_key(row.labels), encode_namespace(row), db=self._dbs["namespaces"])
        return row

    def namespaces_below(self, prefix: tuple[str, ...]) -> Iterator[NamespaceRow]:
        """Yield the rows of `prefix` and all its children."""
        for _, data in self._starting_with("namespaces", namespace_head(prefix)):
            row = decode_namespace(bytes(data))
            if row.labels[: len(prefix)] == prefix:
                yield row

    # -- records

    def record(self, database_key: bytes) -> Stored | None:
        """Return the current record under a key."""
        data = self._txn.get(database_key, db=self._dbs["records"])
        return None if data is None else decode_record(database_key, data)

    def put_record(self, database_key: bytes, stored: Stored) -> None:
        """Set the current record under a key."""
        self._txn.put(database_key, encode_record(database_key, stored), db=self._dbs["records"])

    def delete_record(self, database_key: bytes) -> None:
        """Delete the current record under a key."""
        self._txn.delete(database_key, db=self._dbs["records"])

    def records_from(self, start: bytes, stem: bytes) -> Iterator[tuple[bytes, Stored]]:
        """Yield the records whose database keys begin with `stem`, from `start` on."""
        for key, data in self._starting_with("records", stem, start):
            yield key, decode_record(key, data)

    def page(
        self, stem: bytes, begin: bytes, resume: bytes | None, most: int, most_bytes: int
    ) -> tuple[list[tuple[bytes, Stored]], bytes | None] | None:
        """Return keys and records in order, as :func:`ntmem._core.bulk.page` does; None: they are not all plain."""
        txn: Any = self._txn
        if not isinstance(txn, Transaction):  # the engine lmdb has another
            return None
        return page(txn, self._dbs["records"], stem, begin, resume, most, most_bytes, Stored)

    # -- history

    def versions(self, namespace_id: int, key: bytes) -> Iterator[Stored]:
        """Yield all retained versions of a key, newest first."""
        current = self.record(record_key(namespace_id, key))
        if current is not None:
            yield current
        prefix = history_prefix(namespace_id, key)
        cursor = self._txn.cursor(self._dbs["history"])
        found = cursor.prev() if cursor.set_range(prefix + b"\xff" * 8) else cursor.last()
        while found and bytes(cursor.key()).startswith(prefix):
            yield decode_record(bytes(cursor.key()), cursor.value())
            found = cursor.prev()

    def past(self, namespace_id: int, key: bytes | None = None) -> Iterator[tuple[bytes, Stored]]:
        """Yield the past versions of a key, oldest first, or those of a whole namespace, key by key."""
        prefix = id_prefix(namespace_id) if key is None else history_prefix(namespace_id, key)
        for where, data in self._starting_with("history", prefix):
            yield where, decode_record(where, data)

    def put_past(self, namespace_id: int, stored: Stored) -> int:
        """Add a past version (its `key` must be set); return the bytes it takes."""
        where = history_key(namespace_id, stored.key, stored.version)
        data = encode_record(where, stored)
        self._txn.put(where, data, db=self._dbs["history"])
        return len(where) + len(data)

    def delete_past(self, where: bytes) -> int:
        """Delete a past version; return the bytes it took."""
        size = len(where) + len(self._txn.get(where, db=self._dbs["history"]) or b"")
        self._txn.delete(where, db=self._dbs["history"])
        return size

    # -- expiry

    def put_expiry(self, index_key: bytes, namespace: bytes) -> None:
        """Enter a record in the expiry index."""
        self._txn.put(index_key, namespace, db=self._dbs["expiry"])

    def delete_expiry(self, index_key: bytes) -> None:
        """Take a record out of the expiry index."""
        self._txn.delete(index_key, db=self._dbs["expiry"])

    def expiry(self, index_key: bytes) -> bytes | None:
        """Return the namespace key that the expiry index has under a key."""
        data = self._txn.get(index_key, db=self._dbs["expiry"])
        return None if data is None else bytes(data)

    def expiries(self) -> Iterator[tuple[bytes, bytes]]:
        """Yield all (index key, namespace key) of the expiry index, by time."""
        for index_key, data in self._starting_with("expiry", b""):
            yield index_key, bytes(data)

    def first_expiry(self) -> tuple[bytes, bytes] | None:
        """Return the (index key, namespace key) that expires first."""
        cursor = self._txn.cursor(self._dbs["expiry"])
        return (bytes(cursor.key()), bytes(cursor.value())) if cursor.first() else None

    def expired(self, now: int, most: int) -> int:
        """Return how many entries of the index have expired by `now`, `most` at most."""
        cursor, count = self._txn.cursor(self._dbs["expiry"]), 0
        found = cursor.first()
        while found and count < most and split_expiry_key(bytes(cursor.key()))[0] <= now:
            count += 1
            found = cursor.next()
        return count

    # -- ranges

    def delete_all(self, database: str, namespace_id: int) -> None:
        """Delete all rows of a namespace from ``records`` or ``history``."""
        head = id_prefix(namespace_id)
        cursor = self._txn.cursor(self._dbs[database])
        found = cursor.set_range(head)
        while found and bytes(cursor.key()).startswith(head):
            cursor.delete()  # moves on to the next row
            found = bool(cursor.key())

    def delete_rows(self, database: str) -> None:
        """Delete all rows of a database."""
        cursor = self._txn.cursor(self._dbs[database])
        found = cursor.first()
        while found:
            cursor.delete()
            found = bool(cursor.key())

    def _starting_with(self, database: str, stem: bytes, start: bytes = b"") -> Iterator[tuple[bytes, memoryview]]:
        cursor = self._txn.cursor(self._dbs[database])
        found = cursor.set_range(max(start, stem)) if start or stem else cursor.first()
        while found:
            key = bytes(cursor.key())
            if not key.startswith(stem):
                return
            yield key, cursor.value()
            found = cursor.next()
