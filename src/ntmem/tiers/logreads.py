"""What the log and LMDB together hold, for who reads and who decides: the engine on the log, without its writing.

Reads look into the log first and then into LMDB; a read of several keys, or as of a time, takes its snapshot first, and
the log adds what lies behind it (``docs/design/shared.md``).

**Invariants** (numbered as in the design)

- I4: LMDB is asked after the log, with a snapshot begun after that look.
- I5: no read takes a lock of another process.
"""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from itertools import chain, groupby
from operator import itemgetter
from typing import Any, NamedTuple, TypeVar
from zlib import crc32

from .._core.bulk import gather
from .._core.hot import HotTable
from .._core.leases import LeaseTable
from .._core.log import LogDamaged, LookAgain
from .._core.logrecords import KIND_DELETE
from .._core.logrecords import Record as LogRecord
from .._core.unflushed import collect, versions
from ..clock import wall_ns
from ..errors import CorruptionError, StoreClosed
from ..records import Change, Record
from ..stats import percentiles
from .engine import PAGE_ENTRIES, Entry, LmdbEngine
from .layout import AHEAD, DELETED, FENCED, NamespaceRow, Stored, decode_labels, encode_labels, record_key
from .operations import Operation, operations_of
from .retention import known_at, served_at
from .shared import STAGED, LoggedStore
from .tables import Tables

T = TypeVar("T")

STAGED_VALUE = 8
"""Flag of a record in the log: its value stands in ``staged``; in its place are id, size and CRC-32."""
_LOOKS = 100  # for a value that others may have moved or replaced

encoded = lru_cache(65_536)(encode_labels)


class SpaceRules(NamedTuple):
    """What writers have to know of a namespace."""

    history: bool
    is_guarded: bool
    owner: str


_NO_RULES = SpaceRules(False, False, "")


class Rules(NamedTuple):
    """What writers have to know of namespaces, as of one epoch of the log."""

    epoch: int
    spaces: dict[bytes, SpaceRules]


class LiveTables(Tables):
    """The rows of a snapshot, and with them what the log has beyond it."""

    __slots__ = ("_engine", "_epoch", "_snapshot", "names")

    def __init__(self, engine: LogReads, txn: Any, epoch: int) -> None:
        super().__init__(engine.store, txn)
        self._engine = engine
        self._epoch = epoch
        self.names: dict[int, bytes] = {}
        """Namespaces that were asked for, by id."""
        self._snapshot: int | None = None

    @property
    def txn(self) -> Any:
        """The transaction of the snapshot."""
        return self._txn

    @property
    def snapshot(self) -> int:
        """The position in the log before which everything is here."""
        if self._snapshot is None:
            row = self.log_row()
            self._snapshot = 0 if row is None else row.position
        return self._snapshot

    def check_epoch(self) -> None:
        """Raise :class:`LookAgain` if LMDB was written past the log since the snapshot; after a look into the log."""
        if self._engine.log.epoch != self._epoch:
            raise LookAgain("the epoch has changed")

    def namespace(self, labels: tuple[str, ...]) -> NamespaceRow | None:
        row = super().namespace(labels)
        if row is not None:
            self.names[row.id] = encoded(labels)
        return row

    def versions(self, namespace_id: int, key: bytes) -> Iterator[Stored]:
        newer = versions(self._engine.log, self.names[namespace_id], key, snapshot=self.snapshot)
        self.check_epoch()
        return chain(map(self._engine.stored, newer), super().versions(namespace_id, key))


class LogReads(LmdbEngine):
    """The reading half of :class:`~ntmem.tiers.log.LogEngine`, and what its writing half has to know."""

    name = "shared"
    store: LoggedStore

    def __init__(self, store: LoggedStore, writer: bytes, *, read_only: bool) -> None:
        super().__init__(store, writer, read_only=read_only)
        self.log = store.log
        self._rules = Rules(-1, {})
        self._gone: Counter[int] = Counter()  # values that were looked for in vain, by version

    # -- clock and facts

    @property
    def leases(self) -> LeaseTable | None:
        """The leases of the region; None: it has none, or they are those of the dead."""
        return self.store.leases

    def now(self) -> int:
        self.check_open()
        return self.log.now()

    def clock_facts(self) -> tuple[str, int, int]:
        self.check_open()
        now = self.log.now()
        return ("simulated", now, 0) if self.log.clock[0] else ("system", now, max(0, now - wall_ns()))

    def hot_facts(self) -> dict[str, Any]:
        hot = self.store.hot
        if hot is None:
            return super().hot_facts()
        counts, times = hot.counts(), hot.times()
        memory = counts["hot"] + counts["log"]
        reads = memory + counts["disk"] + counts["absent"] + counts["left"]
        return {
            "l1_entries": len(hot),
            "l1_hit_rate": memory / reads if reads else 0.0,
            "l1_bytes": hot.live_bytes,
            "l1_memory_bytes": hot.memory_bytes,
            "l1_max_bytes": hot.limits[0],
            "l1_hits": counts["hot"],
            "log_hits": counts["log"],
            "disk_reads": counts["disk"],
            "absent_reads": counts["absent"],
            "l1_evictions": hot.evictions(),
            "get_ns": percentiles(times["get"]),
            "put_ns": percentiles(times["put"]),
        }

    def operations(self) -> dict[str, Operation]:
        return operations_of(self.store.meters, self.store.hot)

    def lock_facts(self) -> dict[str, Any]:
        counts = {} if self.leases is None else self.leases.counts
        return {f"lock_{name}": count for name, count in counts.items()}

    def last_version(self) -> int:
        self.check_open()
        return self._version(self.log.next_sequence - 1)

    def _version(self, sequence: int) -> int:
        return self.log.region.generation << 44 | sequence

    def check_open(self) -> None:
        """Raise :class:`StoreClosed` if nothing can be read or written any more."""
        if self.store.closed:
            self.store.refuse()
        if self.log.is_gone:
            raise StoreClosed("the store is being closed; open it again")

    @property
    def mark(self) -> tuple[int, int]:
        """Position and epoch of the log: what was looked for afterwards, in vain, was not there before."""
        return self.log.committed, self.log.epoch

    # -- what is known of namespaces

    def rules_now(self) -> Rules:
        """Return what is known of namespaces in this epoch of the log."""
        epoch = self.log.epoch
        rules = self._rules
        if rules.epoch != epoch:
            rules = self._rules = Rules(epoch, {})
        return rules

    def rules_of(self, rules: Rules, space: bytes, labels: tuple[str, ...]) -> SpaceRules:
        """Return what writers have to know of a namespace, and remember it with the others of its epoch."""
        found = rules.spaces.get(space)
        if found is None:
            row = self.store.read(lambda txn: Tables(self.store, txn).namespace(labels))
            found = _NO_RULES if row is None else SpaceRules(row.policy.history, row.is_guarded, row.owner)
            rules.spaces[space] = found
        return found

    # -- reading

    def _read(self, action: Callable[[Any], T]) -> T:
        while True:
            try:
                epoch = self.log.epoch  # before the snapshot is taken
                return self.store.read(lambda txn: action(LiveTables(self, txn, epoch)))  # noqa: B023
            except LookAgain:
                continue
            except LogDamaged as error:
                raise CorruptionError(str(error)) from error

    def _id(self, tables: Tables, labels: tuple[str, ...]) -> int | None:
        namespace_id = super()._id(tables, labels)
        if namespace_id is not None and isinstance(tables, LiveTables):
            tables.names[namespace_id] = encoded(labels)
        return namespace_id

    def unflushed(self, labels: tuple[str, ...], key: bytes) -> LogRecord | None:
        """Return the newest record of a key that the log has."""
        self.check_open()
        try:
            return self.log.get(encoded(labels), key)
        except LogDamaged as error:
            raise CorruptionError(str(error)) from error

    def stored(self, record: LogRecord) -> Stored:
        """Return a record of the log as it will stand in LMDB."""
        flags = record.flags & FENCED | (DELETED if record.kind == KIND_DELETE else record.flags & AHEAD)
        value = self._staged(record) if record.flags & STAGED_VALUE else record.value
        return Stored(
            flags, record.version, record.ts_event, record.ts_known, record.expires_at, record.writer, record.key, value
        )

    def _staged(self, record: LogRecord) -> bytes:
        """Return a large value: where it waits, or from the record into which the flusher has moved it."""
        size, crc = int.from_bytes(record.value[8:16], "little"), int.from_bytes(record.value[16:], "little")

        def look(txn: Any) -> bytes | None:
            staged = txn.get(record.value[:8], db=self.store.databases[STAGED])
            if staged is not None:
                value = bytes(staged)
                if len(value) != size or crc32(value) != crc:
                    raise self._staged_damage(record, "is damaged")
                return value
            tables = Tables(self.store, txn)
            row = tables.namespace(decode_labels(record.namespace))
            if row is None:
                return None
            found = (stored.value for stored in tables.versions(row.id, record.key) if stored.version == record.version)
            return next(found, None)

        value = self.store.read(look)
        if value is not None:
            return value
        if 0 < record.expires_at <= self.log.now():  # and was swept: nobody is served it
            return b""
        self._gone[record.version] += 1  # it was replaced since the record was found: not for ever
        if self._gone[record.version] > _LOOKS:
            self._gone.clear()
            raise self._staged_damage(record, "is gone")
        raise LookAgain(f"the value of version {record.version} is gone")

    def _staged_damage(self, record: LogRecord, what: str) -> CorruptionError:
        return CorruptionError(
            f"the value of {record.key!r}, version {record.version}, on its way into its record in "
            f"{self.store.directory}, {what}; restore a backup of the store's directory, or delete and rewrite this key"
        )

    def _served_of_log(self, labels: tuple[str, ...], record: LogRecord) -> Stored | None:
        """Return what is served of a key whose newest version is in the log."""
        if record.flags & AHEAD and record.ts_known > self.log.now():
            return self.known_now(labels, record.key)
        return None if record.kind == KIND_DELETE else served_at(self.stored(record), self.log.now())

    def known_now(self, labels: tuple[str, ...], key: bytes) -> Stored | None:
        """Return what is served of a key that was loaded ahead of its time."""
        return self._read(lambda tables: self._known_now(tables, labels, key))

    def _known_now(self, tables: LiveTables, labels: tuple[str, ...], key: bytes) -> Stored | None:
        row, now = tables.namespace(labels), tables.now()
        return None if row is None else served_at(known_at(tables, row.id, key, now), now)

    def _find(self, labels: tuple[str, ...], key: bytes) -> Stored | None:
        while True:
            try:
                record = self.unflushed(labels, key)
                if record is None:
                    return self.store.read(lambda txn: self._current(Tables(self.store, txn), labels, key))
                return self._served_of_log(labels, record)
            except LookAgain:
                continue

    def get(self, labels: tuple[str, ...], key: bytes) -> bytes | None:
        stored = self._find(labels, key)
        return None if stored is None else stored.value

    def get_record(self, labels: tuple[str, ...], key: bytes, as_of: int | None) -> Record | None:
        if as_of is not None:
            return super().get_record(labels, key, as_of)
        stored = self._find(labels, key)
        return None if stored is None else stored.public()

    def get_latest(self, labels: tuple[str, ...], key: bytes) -> Record | None:
        while True:
            try:
                record = self.unflushed(labels, key)
                if record is None:
                    return super().get_latest(labels, key)
                stored = served_at(self.stored(record), self.log.now())
                return None if stored is None else stored.public()
            except LookAgain:
                continue

    def get_many(self, labels: tuple[str, ...], keys: Sequence[tuple[str, bytes]]) -> dict[str, bytes]:
        return self._gathered(labels, keys, self.store.hot)

    def fetch(self, labels: tuple[str, ...], keys: Sequence[tuple[Any, bytes]]) -> dict[Any, bytes]:
        return self._gathered(labels, keys, None)

    def _gathered(
        self, labels: tuple[str, ...], keys: Sequence[tuple[Any, bytes]], hot: HotTable | None
    ) -> dict[Any, bytes]:
        """Return the values of those keys that have one, as of one moment; what is found goes into `hot`."""
        space = encoded(labels)
        wanted = [(space, key) for _, key in keys]
        self.check_open()
        self.rules_of(self.rules_now(), space, labels)

        def look(tables: LiveTables) -> dict[Any, bytes]:
            rules = self.rules_now().spaces.get(space)
            if rules is not None and not rules.history:
                gathered = gather(self.log, hot, tables, self.store.databases, space, list(keys))
                if gathered is not None:
                    return gathered
            found = {}
            newer = self.log.get_many(wanted, snapshot=tables.snapshot)
            tables.check_epoch()
            for (name, key), record in zip(keys, newer, strict=True):
                if record is None:
                    stored = self._current(tables, labels, key)
                elif record.flags & AHEAD and record.ts_known > tables.now():
                    stored = self._known_now(tables, labels, key)
                else:
                    stored = served_at(self.stored(record), tables.now())
                if stored is not None:
                    found[name] = stored.value
            return found

        return self._read(look)

    def _collected(self, stem: bytes, prefix: bytes = b"", start: bytes = b"") -> dict[bytes, dict[bytes, LogRecord]]:
        try:
            return collect(self.log, stem, prefix, start)
        except LogDamaged as error:
            raise CorruptionError(str(error)) from error

    def _entries(
        self, labels: tuple[str, ...], prefix: bytes, start: bytes, page: int = PAGE_ENTRIES
    ) -> Iterator[Entry]:
        space = encoded(labels)
        self.check_open()
        unflushed = self._collected(space, prefix, start).get(space, {})
        served = super()._entries(labels, prefix, start, page)
        if not unflushed:
            yield from served
            return
        both = heapq.merge(((key, None) for key in sorted(unflushed)), served, key=itemgetter(0))
        for key, group in groupby(both, itemgetter(0)):
            found = next((stored for _, stored in group if stored is not None), None)
            newer = unflushed.get(key)
            if newer is not None and (found is None or newer.version > found.version):
                found = self._of_scan(labels, newer)
            if found is not None:
                yield key, found

    def _of_scan(self, labels: tuple[str, ...], record: LogRecord) -> Stored | None:
        try:
            return self._served_of_log(labels, record)
        except LookAgain:
            return self._find(labels, record.key)

    def namespaces(self, prefix: tuple[str, ...]) -> list[tuple[str, ...]]:
        self.check_open()
        unflushed = self._collected(encoded(prefix))

        def look(tables: Tables) -> list[tuple[str, ...]]:
            rows = {encoded(row.labels): row for row in tables.namespaces_below(prefix)}
            found = []
            for space in rows.keys() | unflushed.keys():
                labels = decode_labels(space)
                newer = unflushed.get(space, {})
                if any(self._of_scan(labels, record) is not None for record in newer.values()) or (
                    space in rows and self._serves(tables, rows[space].id, newer)
                ):
                    found.append(labels)
            return sorted(found)

        return self.store.read(lambda txn: look(Tables(self.store, txn)))

    def newest_on_disk(self, tables: Tables, change: Change, history: bool) -> Stored | None:
        """Return the newest version that LMDB has of a change's key, be it a deletion or expired."""
        namespace_id = self._id(tables, change.namespace)
        if namespace_id is None:
            return None
        if history:
            return next(tables.versions(namespace_id, change.key), None)
        return tables.record(record_key(namespace_id, change.key))
