"""The engine on the commit log: a change is acknowledged when its group is in shared memory; LMDB follows.

What is asked of it is what is asked of :class:`~ntmem.tiers.engine.LmdbEngine`, and what ends up in LMDB is the same:
the flusher applies the log there. Reads look into the log first and then into LMDB. A write decides by what it has
read, and the log refuses it if that has changed meanwhile; then it reads again.

**Invariants** (numbered as in the design)

- I1: a change is visible with its commit in the log; what changes the rules (`retain`, `delete_namespace`, more than
  half a log at once) is done in LMDB while the log is locked and empty, and then raises barrier and epoch.
- I4: LMDB is asked after the log, with a snapshot begun after that look.
- I5: no read takes a lock of another process.
"""

from __future__ import annotations

import heapq
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import lru_cache
from itertools import chain, groupby
from operator import itemgetter
from time import perf_counter_ns
from typing import Any, NamedTuple, NoReturn, TypeVar
from zlib import crc32

from .._core import meters
from .._core.bulk import gather
from .._core.direct import Direct
from .._core.hot import HotTable
from .._core.leases import LeaseTable
from .._core.log import (
    Conflict,
    LogDamaged,
    LogFull,
    LogShut,
    LookAgain,
    NewRules,
    Trouble,
    ValueTooLarge,
    WriterStalled,
)
from .._core.logrecords import KIND_DELETE, KIND_NOTICE, KIND_PUT, Claim, StaleLease
from .._core.logrecords import Record as LogRecord
from .._core.unflushed import collect, versions
from ..clock import wall_ns
from ..errors import CorruptionError, LockTimeout, NtmemError, ReadOnlyError, StaleFence, StorageError, StoreClosed
from ..namespace import labels_of
from ..records import Change, Fence, Policy, Record
from ..stats import percentiles
from .engine import PAGE_ENTRIES, SWEEP, Entry, LmdbEngine
from .faults import trouble_error
from .guards import OWN, POSITIONS, check_guard, check_own, check_owner
from .layout import (
    AHEAD,
    DELETED,
    FENCED,
    NamespaceRow,
    Stored,
    decode_labels,
    encode_labels,
    join_writer,
    record_key,
)
from .operations import Operation, operations_of
from .outcome import Outcome, check_version, expiry_of, incremented
from .retention import check_known, known_at, served_at
from .shared import STAGED, LoggedStore, SharedStore
from .tables import SIMULATED, Tables

T = TypeVar("T")

STAGED_VALUE = 8
"""Flag of a record in the log: its value stands in ``staged``; in its place are id, size and CRC-32."""
_STUB_BYTES = 20
_ROW_BYTES = 64  # of a record on disk, beside key and value
_LOOKS = 100  # for a value that others may have moved or replaced
_ATTEMPTS = 8  # before a writer locks the log instead of trying again
_SLICE = 0.05
_NOBODY = ("\0",)  # no namespace that anybody can follow
_PAST_LIMIT = (1, 0)  # trouble with which the flusher goes on

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

    def __init__(self, engine: LogEngine, txn: Any, epoch: int) -> None:
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


class Draft:
    """A group of records on its way into the log, and what its writer has read for it."""

    def __init__(self, engine: LogEngine, rules: Rules, fence: Fence | None) -> None:
        self.rules = rules
        self.fence = fence
        self.writer = join_writer(engine.writer, fence)
        self.snapshot = engine.log.flushed  # before anything is read: what was flushed by now is in every snapshot
        self.now = engine.log.now()
        self.records: list[tuple[Any, ...]] = []
        self.known: dict[tuple[bytes, bytes], Stored | None] = {}  # newest of each key, this group included
        self.staged: list[bytes] = []


class LogEngine(LmdbEngine):
    """The store's semantics over one :class:`~ntmem.tiers.shared.LoggedStore`.

    **Thread safety**: all methods may be called from any thread. **Complexity**: O(1) a key that the log has or that
    is written blindly, O(log n) any other.
    """

    name = "shared"
    store: LoggedStore

    def __init__(
        self, store: LoggedStore, writer: bytes, *, read_only: bool, max_lag: float, quick_writes: bool = False
    ) -> None:
        super().__init__(store, writer, read_only=read_only)
        self.log = store.log
        self.waits_for_disk = not quick_writes
        self.max_lag = max_lag
        self._rules = Rules(-1, {})
        self._gone: Counter[int] = Counter()  # values that were looked for in vain, by version
        self.direct = Direct(
            *(store.log, store.hot, store.env, store.databases, writer, self._look, self.admit),
            writes=quick_writes and not read_only,
            max_lag=max_lag,
        )

    def _look(self, namespace: Any) -> tuple[bytes, bool, bool, bool, int]:
        """Say of a namespace what :class:`~ntmem._core.direct.Direct` has to know."""
        labels, rules = labels_of(namespace), self._rules_now()
        space = encoded(labels)
        found = self._rules_of(rules, space, labels)
        ours = labels not in OWN and (not found.owner or found.owner.encode() == self.writer)
        return space, found.history, ours, found.is_guarded, rules.epoch

    def admit(self, fence: Fence) -> tuple[Claim, bytes, bytes]:
        """Say of a lease what native writers have to know: the claim on it, its resource, how to sign under it."""
        return self._claim(fence), fence.resource.encode(), join_writer(self.writer, fence)

    @property
    def leases(self) -> LeaseTable | None:
        """The leases of the region; None: it has none, or they are those of the dead."""
        return self.store.leases

    # -- clock and facts

    def now(self) -> int:
        self.check_open()
        return self.log.now()

    def set_time(self, ns: int) -> None:
        self._check_writable()
        simulated, at = self.log.clock
        if not simulated:
            raise StorageError("this store runs on the system clock; it cannot be set")
        if not self.log.set_clock(ns):
            raise ValueError(f"a clock never goes back: ts was {ns}, the store is at {at}")

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

    def _check_writable(self) -> None:
        self.check_open()
        if self.read_only:
            raise ReadOnlyError("this store was opened with read_only=True; open it for writing")

    def _writable(self) -> SharedStore:
        assert isinstance(self.store, SharedStore)
        return self.store

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

    def _unflushed(self, labels: tuple[str, ...], key: bytes) -> LogRecord | None:
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
            return self._read(lambda tables: self._known_now(tables, labels, record.key))
        return None if record.kind == KIND_DELETE else served_at(self.stored(record), self.log.now())

    def _known_now(self, tables: LiveTables, labels: tuple[str, ...], key: bytes) -> Stored | None:
        row, now = tables.namespace(labels), tables.now()
        return None if row is None else served_at(known_at(tables, row.id, key, now), now)

    def _find(self, labels: tuple[str, ...], key: bytes) -> Stored | None:
        while True:
            try:
                record = self._unflushed(labels, key)
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
                record = self._unflushed(labels, key)
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
        self._rules_of(self._rules_now(), space, labels)

        def look(tables: LiveTables) -> dict[Any, bytes]:
            rules = self._rules_now().spaces.get(space)
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

    # -- writing

    def commit(self, changes: Sequence[Change], durable: bool = False, fence: Fence | None = None) -> list[Outcome]:
        begun = perf_counter_ns()
        self._check_writable()
        outcomes = self._translated(lambda: self._commit(changes, fence))
        if durable:
            self._wait_for_kept(max(outcome.version for outcome in outcomes))
        self.store.meters.since(meters.COMMIT, begun)
        return outcomes

    def _wait_for_kept(self, version: int) -> None:
        try:
            self.wait_durable(version, None)
        except StorageError as error:
            kept = f"version {version} is acknowledged and kept, but not on disk yet"
            raise type(error)(f"{error} ({kept})") from error

    @property
    def mark(self) -> tuple[int, int]:
        """Position and epoch of the log: what was looked for afterwards, in vain, was not there before."""
        return self.log.committed, self.log.epoch

    def put_new(
        self,
        values: Sequence[tuple[tuple[str, ...], bytes, bytes]],
        absent_at: tuple[int, int],
        drops: Sequence[tuple[tuple[str, ...], bytes]] = (),
    ) -> bool:
        """Put keys into namespaces of the store's own, as one group, unless the first is there; return whether it was
        done. `drops` are deleted with it.

        The first was not there at this mark. It is not done, either, if the log does not go back to the mark or
        somebody has written past it since; :class:`ValueTooLarge` is raised for what does not fit it.
        """
        self._check_writable()
        now = self.log.now()
        records: list[tuple[Any, ...]] = [
            (KIND_PUT, 0, encoded(labels), key, self.writer, value, now, now, 0) for labels, key, value in values
        ]
        records[0] += (0, 0, True)
        records += [(KIND_DELETE, 0, encoded(labels), key, self.writer, b"", now, now, 0) for labels, key in drops]

        def put() -> int:
            try:
                return self.log.append(
                    records, self.max_lag, snapshot=absent_at[0], epoch=absent_at[1], now=now, max_lag=self.max_lag
                )
            except (Conflict, LookAgain, NewRules):
                return 0

        version = self._translated(put)
        if version and self.waits_for_disk:
            self._wait_for_kept(version + len(records) - 1)
        return version > 0

    def drop(self, labels: tuple[str, ...], keys: Sequence[bytes]) -> None:
        """Delete keys of a namespace of the store's own, whatever they hold, in as many groups as it takes."""
        self._check_writable()
        now, space = self.log.now(), encoded(labels)
        records = [(KIND_DELETE, 0, space, key, self.writer, b"", now, now, 0) for key in keys]
        try:
            self._translated(lambda: self.log.append(records, self.max_lag, now=now))
        except ValueTooLarge:
            half = len(keys) // 2
            self.drop(labels, keys[:half])
            self.drop(labels, keys[half:])

    def expire(self, labels: tuple[str, ...], items: Sequence[tuple[bytes, int]]) -> int:
        self._check_writable()
        space = encoded(labels)

        def delete() -> int:
            for _ in range(_ATTEMPTS):
                draft = Draft(self, self._rules_now(), None)
                if self._rules_of(draft.rules, space, labels).history:
                    return 0
                records: list[tuple[Any, ...]] = []
                for key, version in items:
                    newest, condition = self._newest(draft, Change("delete", labels, key), False)
                    if newest is not None and newest.version == version:
                        now = draft.now
                        records.append((KIND_DELETE, 0, space, key, self.writer, b"", now, now, 0, *condition))
                try:
                    if records:
                        how: dict[str, Any] = {"snapshot": draft.snapshot, "now": draft.now, "epoch": draft.rules.epoch}
                        self.log.append(records, self.max_lag, max_lag=self.max_lag, **how)
                    return len(records)
                except (Conflict, LookAgain, NewRules):
                    continue
                except ValueTooLarge:
                    half = len(items) // 2
                    return self.expire(labels, items[:half]) + self.expire(labels, items[half:])
            return 0  # it is written all the time: the next round looks again

        return self._translated(delete)

    def sweep(self) -> int:
        self._check_writable()
        due, now = self._due(), self.log.now()

        def note() -> int:
            notice = (KIND_NOTICE, 0, encoded(_NOBODY), b"", self.writer, b"", now, now, 0)
            for _ in range(0, due, SWEEP):  # with each group that the flusher brings to disk it sweeps some
                self.log.append([notice], self.max_lag, now=now, max_lag=self.max_lag)
            self._wait_flushed(self.log.committed, self.max_lag)
            return due

        return self._translated(note) if due else 0

    def _claim(self, fence: Fence) -> Claim:
        self.check_open()
        claim = None
        if self.leases is not None and 0 < fence.number < 2**63:
            claim = self.leases.claim(fence.resource.encode(errors="replace"), fence.number)
        if claim is None or not claim.is_current:
            raise StaleFence(
                f"the lease {fence.number} of {fence.resource!r} is not current: the lock was given back, its time has "
                "passed, or another has it by now; acquire it again, and read again what was read under it"
            )
        return claim

    def _commit(self, changes: Sequence[Change], fence: Fence | None) -> list[Outcome]:
        if fence is not None:
            self._claim(fence)  # before anything is done for it
            self._guard_all({change.namespace for change in changes if not change.own})
        for _ in range(_ATTEMPTS):
            try:
                return self._try(changes, fence, locked=False)
            except (Conflict, LookAgain, NewRules):
                continue
            except _MustLock:
                break
            except ValueTooLarge:
                return self._commit_past_the_log(changes, fence)
        until = time.monotonic() + self.max_lag
        while True:
            position = self.log.committed
            with self._locked():
                try:
                    return self._try(changes, fence, locked=True)
                except ValueTooLarge:
                    break
                except (LookAgain, LogFull):
                    if time.monotonic() > until:
                        raise
            self._wait_flushed(position, self.max_lag)  # room; and by then a clock that was behind is not
        return self._commit_past_the_log(changes, fence)

    def _guard_all(self, namespaces: set[tuple[str, ...]]) -> None:
        """Let writers to these namespaces look, from now on, under which lease it was written what they replace."""
        for labels in namespaces:
            if not self._rules_of(self._rules_now(), encoded(labels), labels).is_guarded:
                with self._exclusive(changes_values=False):
                    super().guard(labels)

    def _try(self, changes: Sequence[Change], fence: Fence | None, *, locked: bool) -> list[Outcome]:
        draft = Draft(self, self._rules_now(), fence)
        try:
            outcomes = [self._draft(draft, change) for change in changes]
            if not draft.records:
                return outcomes
            if not locked and len(draft.records) < len(changes) and len(changes) > 1:
                raise _MustLock  # the log checks what records are based on, and some changes have none
            first = self.log.append(
                draft.records,
                self.max_lag,
                snapshot=draft.snapshot,
                now=draft.now,
                epoch=draft.rules.epoch,
                max_lag=self.max_lag,
                locked=locked,
                fence=None if fence is None else self._claim(fence),
                shows=any(change.own and change.namespace == POSITIONS for change in changes),
            )
        except _REFUSALS:  # of anything else it is not known whether the group was committed
            for staged in draft.staged:
                self._writable().unstage(staged)
            raise
        return [Outcome(o.version and first + o.version - 1, o.number) for o in outcomes]

    def _draft(self, draft: Draft, change: Change) -> Outcome:
        """Add a change to the group if it has an effect; an outcome's version is 1 + its index there."""
        space = encoded(change.namespace)
        rules = self._rules_of(draft.rules, space, change.namespace)
        if not change.own:
            check_own(change.namespace)
        check_owner(rules.owner, self.writer, change.namespace)
        history = rules.history
        where = (space, change.key)
        known = draft.now if change.ts_known is None else change.ts_known
        condition: tuple[Any, ...] = ()
        newest: Stored | None = None
        live: Stored | None = None
        if history or rules.is_guarded or change.if_version is not None or change.kind != "put":
            if where in draft.known:
                newest = draft.known[where]
            else:
                newest, condition = self._newest(draft, change, history)
            if not change.own:
                check_guard(change, newest, draft.fence, draft.now)
            live = self._live(draft, change, newest)
        if change.if_version is not None:
            check_version(change, live)
        if (change.kind == "delete" and live is None and newest is not _UNREADABLE and not change.past) or (
            change.kind == "add" and live is not None
        ):
            draft.known.setdefault(where, newest)
            return Outcome(0)
        if history and newest is not None and newest.ts_known > draft.now and not newest.flags & AHEAD:
            raise LookAgain("another process has written it since this one read the clock")
        check_known(history, None if newest is _UNREADABLE else newest, known, draft.now)
        value, number, expires_at = change.value, 0, expiry_of(change, known, draft.now)
        if change.kind == "incr":
            number = incremented(change, live)
            value, expires_at = b"%d" % number, 0 if live is None else live.expires_at
        fenced = FENCED * (draft.fence is not None)
        flags = AHEAD * (known > draft.now) | fenced
        event = known if change.ts_event is None else change.ts_event
        deletes = change.kind == "delete"
        draft.known[where] = Stored(
            (DELETED | fenced) if deletes else flags,
            *(-len(draft.records) - 1, event, known, expires_at, draft.writer, b"", value),
        )
        if len(value) > self.log.value_limit:
            value, flags = self._stage(draft, value), flags | STAGED_VALUE
        kind = KIND_DELETE if deletes else KIND_PUT
        draft.records.append(
            (kind, flags, space, change.key, draft.writer, value, event, known, expires_at, *condition)
        )
        return Outcome(len(draft.records), number)

    def _newest(self, draft: Draft, change: Change, history: bool) -> tuple[Stored | None, tuple[Any, ...]]:
        """Return the newest version of a key, be it a deletion or expired, and the condition that it still is."""
        record = self._unflushed(change.namespace, change.key)
        if record is not None:
            return self.stored(record), (record.version, 0, True)
        try:
            stored = self.store.read(lambda txn: self._newest_on_disk(Tables(self.store, txn), change, history))
        except CorruptionError:
            if change.if_version is not None or change.kind not in ("put", "delete"):
                raise
            return _UNREADABLE, ()  # put and delete are how to be rid of it
        version = 0 if stored is None else stored.version
        return stored, (version, version, True)

    def _newest_on_disk(self, tables: Tables, change: Change, history: bool) -> Stored | None:
        namespace_id = self._id(tables, change.namespace)
        if namespace_id is None:
            return None
        if history:
            return next(tables.versions(namespace_id, change.key), None)
        return tables.record(record_key(namespace_id, change.key))

    def _live(self, draft: Draft, change: Change, newest: Stored | None) -> Stored | None:
        """Return what is served of the newest version and those before it."""
        if newest is None or newest is _UNREADABLE:
            return None
        if newest.flags & AHEAD and newest.ts_known > draft.now:
            return self._read(lambda tables: self._known_now(tables, change.namespace, change.key))
        return served_at(newest, draft.now)

    def _stage(self, draft: Draft, value: bytes) -> bytes:
        staged = self._writable().stage(value)
        draft.staged.append(staged)
        return b"".join((staged, len(value).to_bytes(8, "little"), crc32(value).to_bytes(4, "little")))

    def _rules_now(self) -> Rules:
        epoch = self.log.epoch
        rules = self._rules
        if rules.epoch != epoch:
            rules = self._rules = Rules(epoch, {})
        return rules

    def _rules_of(self, rules: Rules, space: bytes, labels: tuple[str, ...]) -> SpaceRules:
        found = rules.spaces.get(space)
        if found is None:
            row = self.store.read(lambda txn: Tables(self.store, txn).namespace(labels))
            found = _NO_RULES if row is None else SpaceRules(row.policy.history, row.is_guarded, row.owner)
            rules.spaces[space] = found
        return found

    # -- what changes the rules, or is too much for the log

    @contextmanager
    def _locked(self) -> Iterator[None]:
        try:  # from here on: Ctrl-C may come between the lock and the next line
            self.log.lock(self.max_lag)
            yield
        finally:
            self.log.unlock()

    def catch_up(self) -> None:
        """Take the log's mutex once: what its last owner did not come to is done then."""

        def take() -> None:
            with self._locked():
                pass

        self._translated(take)

    @contextmanager
    def _exclusive(self, *, changes_values: bool = True) -> Iterator[None]:
        """Keep other writers out, everything in LMDB and readers there, while a block writes there itself."""
        with self._locked():
            self._wait_flushed(self.log.committed, self.max_lag)
            self.log.raise_barrier()
            if changes_values:  # what was read until the next commit is not to be served afterwards
                self.log.raise_floor()
            try:
                yield
            finally:
                self.log.raise_epoch()

    def _commit_past_the_log(self, changes: Sequence[Change], fence: Fence | None) -> list[Outcome]:
        if any(change.namespace == POSITIONS for change in changes):  # it is the log that shows them
            raise ValueError(
                f"a transaction with fills has to go through the log, and this one has over half of its "
                f"{self.log.capacity} bytes; leave something out, or open the store with larger log_bytes"
            )
        with self._exclusive():
            if fence is not None:
                self.log.admit(self._claim(fence))
            needs = sum(len(it.key) + len(it.value) + _ROW_BYTES for it in changes if it.kind != "delete")
            trouble = self.log.trouble
            if needs and trouble is not None:
                raise Trouble(*trouble)
            if needs:
                self.store.require_room(needs)
            first = self.log.skip_sequences(len(changes))

            def begin(tables: Tables) -> None:
                tables.put_head(tables.head()._replace(position=first - 1))

            try:
                outcomes = self._write_all(changes, fence, begin)
            finally:
                self.log.note_sequence(first + len(changes) - 1)  # on disk, or never to be
            self._notice(())
        return outcomes

    def _write(self, action: Callable[[Tables], T], *, needs: int = 0, deletes: bool = False) -> T:
        """Write to LMDB past the log; what is on disk is never ahead of the clock on disk."""

        def act(tables: Tables) -> T:
            clock, (simulated, at) = tables.clock(), self.log.clock
            if (clock.kind == SIMULATED) == simulated and clock.at < at:
                tables.put_clock(clock._replace(at=at))
            return action(tables)

        return super()._write(act, needs=needs, deletes=deletes)

    def delete_namespace(self, labels: tuple[str, ...]) -> int:
        self._check_writable()

        def delete() -> int:
            with self._exclusive():
                count = super(LogEngine, self).delete_namespace(labels)
                self._notice(labels if count else _NOBODY)  # the hot table wants the log to move on
            return count

        return self._translated(delete)

    def retain(self, labels: tuple[str, ...], policy: Policy) -> None:
        self._check_writable()

        def retain() -> None:
            with self._exclusive(changes_values=False):
                super(LogEngine, self).retain(labels, policy)

        self._translated(retain)

    def adopt_history(self, labels: tuple[str, ...], policy: Policy, since: int) -> None:
        self._check_writable()

        def adopt() -> None:
            with self._exclusive(changes_values=False):
                super(LogEngine, self).adopt_history(labels, policy, since)

        self._translated(adopt)

    def own(self, labels: tuple[str, ...], owner: str) -> None:
        self._check_writable()

        def own() -> None:
            with self._exclusive(changes_values=False):
                super(LogEngine, self).own(labels, owner)

        self._translated(own)

    def _notice(self, labels: tuple[str, ...]) -> None:
        """Tell those who follow the log that something was done past it, in or below a namespace. It is done, so this
        does not raise: the log is empty, and has room."""
        now = self.log.now()
        notice = (KIND_NOTICE, 0, encoded(labels), b"", self.writer, b"", now, now, 0)
        with suppress(LogFull, Trouble):
            self.log.append([notice], now=now, locked=True)

    # -- the disk

    def look(self) -> None:
        self.check_open()
        self._tell()

    def _tell(self) -> None:
        if isinstance(self.store, SharedStore):
            self.store.events.look()

    @property
    def flush_lag(self) -> float:
        self.check_open()
        return self.log.lag

    def flush(self, timeout: float | None) -> None:
        """Return when everything acknowledged by now is on disk."""
        self.check_open()
        self._translated(lambda: self._wait_flushed(self.log.committed, timeout))
        self._tell()

    def wait_durable(self, version: int, timeout: float | None) -> None:
        """Return when the change with this version is on disk."""
        self.check_open()
        if version > self.last_version():
            raise ValueError(f"version {version} was not handed out yet, the newest is {self.last_version()}")
        if version >= self._version(0):
            sequence = version - self._version(0)
            if self.log.flushed_sequence < sequence:
                self.log.want_flushed(self.log.committed)
            self._translated(lambda: self._wait(lambda s: self.log.wait_sequence(sequence, s), timeout))

    def _wait_flushed(self, position: int, timeout: float | None) -> None:
        self.log.want_flushed(position)
        self._wait(lambda seconds: self.log.wait_flushed(position, seconds), timeout)

    def _wait(self, reached: Callable[[float], bool], timeout: float | None) -> None:
        waited = 0.0
        while not reached(_SLICE if timeout is None else min(_SLICE, max(timeout - waited, 0))):
            waited += _SLICE
            self.check_open()
            trouble = self.log.trouble
            if trouble is not None and trouble != _PAST_LIMIT:
                raise Trouble(*trouble)
            if timeout is not None and waited >= timeout:
                raise LockTimeout(
                    f"not on disk in {timeout:g} s: {self.log.committed - self.log.flushed} bytes of the log are to be "
                    f"flushed, by process {self.log.leader or 'none'}; it may be stopped, or the disk slow"
                )

    def raise_translated(self, error: Exception) -> NoReturn:
        """Raise an error of the log as the store's."""

        def again() -> NoReturn:
            raise error

        self._translated(again)

    def _translated(self, action: Callable[[], T]) -> T:
        try:
            return action()
        except Trouble as error:
            self._tell()
            raise trouble_error(error) from error
        except (WriterStalled, LogFull) as error:
            trouble = self.log.trouble
            if isinstance(error, LogFull) and trouble is not None:
                self._tell()
                raise trouble_error(Trouble(*trouble)) from error
            raise StorageError(str(error)) from error
        except LogDamaged as error:
            raise CorruptionError(str(error)) from error
        except LogShut as error:
            raise StoreClosed("the store is closed; open it again") from error
        except StaleLease as error:
            raise StaleFence(
                f"the lock's time has passed, or another has it by now ({error}); nothing was written"
            ) from error
        except LookAgain as error:
            raise StorageError(f"the store changed faster than it could be read ({error}); try again") from error


class _MustLock(Exception):
    """A group cannot be checked by its records alone."""


_REFUSALS = (
    *(
        Conflict,
        LookAgain,
        NewRules,
        StaleLease,
        Trouble,
        WriterStalled,
        LogFull,
        LogShut,
        ValueTooLarge,
        LogDamaged,
        _MustLock,
    ),
    *(NtmemError, ValueError, OverflowError),
)

_UNREADABLE = Stored(DELETED, 0, 0, 0, 0, b"", b"", b"")
