"""The LMDB engine: the store's semantics, every write one synced transaction.

It is the simplest honest engine: the oracle for every faster one, and the mode for platforms without shared
memory. :mod:`ntmem.system` checks the form of arguments; here they meet what the store holds.

**Invariants** (numbered as in the design)

- I1: an acknowledged write is in LMDB, where every process's next read begins; a transaction is one LMDB one.
- I3: acknowledged is synced.
- I7: what is asked as of `t` is answered from records with ``ts_known <= t`` alone: a plain key refuses a
  ``ts_known`` ahead of the clock, and for a namespace with history see :mod:`ntmem.tiers.retention`.
- Versions are ``generation << 44 | position`` and only rise (see :mod:`ntmem.tiers.opening` for generations).
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterator, Sequence
from itertools import islice
from time import perf_counter_ns
from typing import Any, TypeVar

from .._core import meters
from .._core.direct import Direct
from ..clock import wall_ns
from ..errors import (
    ReadOnlyError,
    StaleFence,
    StorageError,
)
from ..records import Change, Fence, Policy, Record
from .change import Applying, make_namespace, sweep
from .cold import ColdStore
from .guards import check_own, check_owner, new_owner
from .layout import (
    KEY_HEAD,
    NamespaceRow,
    Stored,
    expiry_key,
    id_prefix,
    record_key,
)
from .operations import Operation, operations_of
from .outcome import Outcome
from .retention import not_retained, read_as_of, served_at, served_now, set_policy
from .tables import SIMULATED, Tables

T = TypeVar("T")

SWEPT = 1024
"""Those whose space a step of upkeep gives back at most."""
PAGE_ENTRIES = 256
_PAGE_BYTES = 1 << 20
_KNOWN_NAMESPACES = 65_536

Entry = tuple[bytes, Stored]
Page = tuple[list[Entry], bytes | None]


class LmdbEngine:
    """The store's semantics over one :class:`~ntmem.tiers.cold.ColdStore`.

    **Thread safety**: all methods may be called from any thread. **Complexity**: O(log n) a key.
    """

    name = "lmdb"
    direct: Direct | None = None

    def __init__(self, store: ColdStore, writer: bytes, *, read_only: bool) -> None:
        self.store = store
        self.writer = writer
        self.read_only = read_only  # of this handle; another of the process may write through the same store
        self._ids: dict[tuple[str, ...], int] = {}  # of committed namespaces; they never change

    def current(self) -> LmdbEngine:
        """Return the engine to be asked now."""
        return self

    def forget(self) -> None:
        """Be done: let go of what refers to this, so that its memory goes with the last who has it in use."""
        self.direct = None

    def check_process(self) -> None:
        """Raise :class:`StoreClosed` in a child of the process that opened the store."""
        if self.store.closed:
            self.store.refuse()

    def _read(self, action: Callable[[Tables], T]) -> T:
        return self.store.read(lambda txn: action(Tables(self.store, txn)))

    def _write(self, action: Callable[[Tables], T], *, needs: int = 0, deletes: bool = False) -> T:
        if self.read_only:
            raise ReadOnlyError("this store was opened with read_only=True; open it for writing")
        return self.store.write(lambda txn: action(Tables(self.store, txn)), needs=needs, deletes=deletes)

    @property
    def closed(self) -> bool:
        """Whether nothing can be asked of it any more."""
        return self.store.closed

    # -- clock and facts

    def now(self) -> int:
        """Return the store's time, int ns UTC."""
        return self._read(Tables.now)

    def set_time(self, ns: int) -> None:
        """Move a simulated clock to `ns`."""

        def move(tables: Tables) -> None:
            row = tables.clock()
            if row.kind != SIMULATED:
                raise StorageError("this store runs on the system clock; it cannot be set")
            if ns < row.at:
                raise ValueError(f"a clock never goes back: ts was {ns}, the store is at {row.at}")
            tables.put_clock(row._replace(at=ns))

        self._write(move)

    def hot_facts(self) -> dict[str, Any]:
        """Return what :class:`ntmem.MemoryStats` says of L1 and of who answers reads."""
        return {"l1_entries": 0, "l1_hit_rate": 0.0}

    def look(self) -> None:
        """Tell the logger what has happened: called where some microseconds are of no matter."""

    def operations(self) -> dict[str, Operation]:
        """Return what was called how often, and how long it took."""
        return operations_of(self.store.meters, None)

    def lock_facts(self) -> dict[str, Any]:
        """Return what :class:`ntmem.MemoryStats` says of locks."""
        return {}

    def clock_facts(self) -> tuple[str, int, int]:
        """Return the kind of clock, its time, and by how many ns it runs ahead of the machine's wall clock."""
        row, now = self._read(lambda tables: (tables.clock(), tables.now()))
        return ("simulated", now, 0) if row.kind == SIMULATED else ("system", now, max(0, now - wall_ns()))

    def last_version(self) -> int:
        """Return the version of the newest change."""
        return self._read(Tables.head).version

    # -- reading

    def namespace_row(self, labels: tuple[str, ...]) -> NamespaceRow | None:
        """Return what is known of a namespace."""
        return self._read(lambda tables: tables.namespace(labels))

    def versions_of(self, labels: tuple[str, ...], key: bytes) -> list[Stored]:
        """Return all versions of a key that are kept, newest first."""

        def look(tables: Tables) -> list[Stored]:
            row = tables.namespace(labels)
            return [] if row is None else list(tables.versions(row.id, key))

        return self._read(look)

    def get(self, labels: tuple[str, ...], key: bytes) -> bytes | None:
        """Return the value served now, None if there is none."""
        stored = self._read(lambda tables: self._current(tables, labels, key))
        return None if stored is None else stored.value

    def get_many(self, labels: tuple[str, ...], keys: Sequence[tuple[str, bytes]]) -> dict[str, bytes]:
        """Return the values of those keys that have one, all from one snapshot."""

        def look(tables: Tables) -> dict[str, bytes]:
            found = ((name, self._current(tables, labels, key)) for name, key in keys)
            return {name: stored.value for name, stored in found if stored is not None}

        return self._read(look)

    def fetch(self, labels: tuple[str, ...], keys: Sequence[tuple[Any, bytes]]) -> dict[Any, bytes]:
        """Do what :meth:`get_many` does, for a part of the store that keeps what it needs itself; names are any."""
        return self.get_many(labels, keys)

    def get_record(self, labels: tuple[str, ...], key: bytes, as_of: int | None) -> Record | None:
        """Return the record served now (None), or the one a reader at `as_of` was served."""

        def look(tables: Tables) -> Stored | None:
            if as_of is None:
                return self._current(tables, labels, key)
            row = tables.namespace(labels)
            if row is None or not row.policy.history:
                raise not_retained(labels)
            return read_as_of(tables, row, key, as_of)

        stored = self._read(look)
        return None if stored is None else stored.public()

    def get_latest(self, labels: tuple[str, ...], key: bytes) -> Record | None:
        """Return the newest record, known yet or not, unless it is expired."""

        def look(tables: Tables) -> Stored | None:
            namespace_id = self._id(tables, labels)
            if namespace_id is None:
                return None
            return served_at(tables.record(record_key(namespace_id, key)), tables.now())

        stored = self._read(look)
        return None if stored is None else stored.public()

    def history(self, labels: tuple[str, ...], key: bytes, limit: int) -> list[Record]:
        """Return the versions of a key that are known now, newest first, deletions included."""

        def look(tables: Tables) -> list[Record]:
            row = tables.namespace(labels)
            if row is None or not row.policy.history:
                raise not_retained(labels)
            now = tables.now()
            found: list[Record] = []
            for stored in tables.versions(row.id, key):
                if len(found) == limit:
                    break
                if stored.ts_known <= now:
                    found.append(stored.public())
            return found

        return self._read(look)

    def scan(
        self, labels: tuple[str, ...], prefix: bytes, start: bytes, limit: int | None, *, page: int = PAGE_ENTRIES
    ) -> Iterator[tuple[str, bytes]]:
        """Yield (key, value) in order of the keys' bytes, page by page, each page from a snapshot of its own.

        `page` says how many somebody wants at once who may want more then; larger ones than usual are not read.
        """
        for key, stored in islice(self._entries(labels, prefix, start, page), limit):
            yield key.decode(), stored.value

    def entries_of(self, labels: tuple[str, ...], stem: bytes) -> Iterator[Entry]:
        """Yield the records of a namespace whose keys begin with `stem`, by key."""
        return self._entries(labels, stem, stem)

    def _entries(
        self, labels: tuple[str, ...], prefix: bytes, start: bytes, page: int = PAGE_ENTRIES
    ) -> Iterator[Entry]:
        resume: bytes | None = None
        most = min(page, PAGE_ENTRIES)
        while True:
            last = resume
            begun = perf_counter_ns()
            found, resume = self._read(lambda tables: self._scan_page(tables, labels, prefix, start, last, most))  # noqa: B023
            self.store.meters.since(meters.SCAN, begun)
            yield from found
            if resume is None:
                return

    def _scan_page(
        self, tables: Tables, labels: tuple[str, ...], prefix: bytes, start: bytes, resume: bytes | None, most: int
    ) -> Page:
        """Return served entries behind the database key `resume`, and where to go on (None: at the end)."""
        namespace_id = self._id(tables, labels)
        if namespace_id is None:
            return [], None
        head = id_prefix(namespace_id)
        if len(prefix) < KEY_HEAD and len(start) < KEY_HEAD:
            plain = tables.page(head + prefix, resume or head + max(prefix, start), resume, most, _PAGE_BYTES)
            if plain is not None:
                return plain
        page: list[Entry] = []
        group: list[Entry] = []  # keys that share the head of a long key: ordered by the whole
        group_head = b""
        size = 0
        last = resume
        begin = resume or head + max(prefix, start)[:KEY_HEAD]
        for database_key, stored in tables.records_from(begin, head + prefix[:KEY_HEAD]):
            if database_key == resume:
                continue
            key_head = database_key[8 : 8 + KEY_HEAD]
            if key_head != group_head or len(key_head) < KEY_HEAD:
                page += sorted(group)
                group, group_head = [], key_head
                if len(page) >= most or size > _PAGE_BYTES:
                    return page, last
            last = database_key
            served = served_now(tables, namespace_id, database_key, stored)
            key = stored.key or database_key[8:]
            if served is not None and key >= start and key.startswith(prefix):
                group.append((key, served))
                size += len(served.value)
        return page + sorted(group), None

    def flush(self, timeout: float | None) -> None:
        """Return when everything acknowledged by now is on disk: at once."""
        self.last_version()

    def wait_durable(self, version: int, timeout: float | None) -> None:
        """Return when the change with this version is on disk: at once."""
        last = self.last_version()
        if version > last:
            raise ValueError(f"version {version} was not handed out yet, the newest is {last}")

    @property
    def flush_lag(self) -> float:
        """Seconds of acknowledged changes that are not on disk."""
        return 0.0

    def namespaces(self, prefix: tuple[str, ...]) -> list[tuple[str, ...]]:
        """Return the namespaces at or below `prefix` that serve at least one key now, sorted."""

        def look(tables: Tables) -> list[tuple[str, ...]]:
            return sorted(row.labels for row in tables.namespaces_below(prefix) if self._serves(tables, row.id))

        return self._read(look)

    def _serves(self, tables: Tables, namespace_id: int, beside: Container[bytes] = ()) -> bool:
        """Whether a namespace serves a key that is none of those `beside`."""
        head = id_prefix(namespace_id)
        records = tables.records_from(head, head)
        return any(
            served_now(tables, namespace_id, key, stored) is not None
            for key, stored in records
            if (stored.key or key[8:]) not in beside
        )

    def _id(self, tables: Tables, labels: tuple[str, ...]) -> int | None:
        """Return a namespace's id. Only for reads: a write must not remember what it may yet roll back."""
        known = self._ids.get(labels)
        if known is None:
            row = tables.namespace(labels)
            if row is None:
                return None
            if len(self._ids) >= _KNOWN_NAMESPACES:
                self._ids.clear()
            known = self._ids[labels] = row.id
        return known

    def _current(self, tables: Tables, labels: tuple[str, ...], key: bytes) -> Stored | None:
        """Return what is served now under a key."""
        namespace_id = self._id(tables, labels)
        if namespace_id is None:
            return None
        database_key = record_key(namespace_id, key)
        stored = tables.record(database_key)
        return None if stored is None else served_now(tables, namespace_id, database_key, stored)

    # -- writing

    def commit(self, changes: Sequence[Change], durable: bool = False, fence: Fence | None = None) -> list[Outcome]:
        """Apply all changes, in order, or none; return what became of each. They are on disk then, asked for or not.

        Raises
        ------
        VersionConflict, SerializationError, ValueError, StaleFence, NotOwner
            One of the changes does not fit what the store holds. Nothing of any change was kept.
        """
        for change in changes:
            if not change.own:
                check_own(change.namespace)
        if fence is not None:
            raise StaleFence(
                f"the lease {fence.number} of {fence.resource!r} is not current: leases are in shared memory; open the "
                "store with engine='shared'"
            )
        begun = perf_counter_ns()
        outcomes = self._write_all(changes, None, lambda tables: None)
        self.store.meters.since(meters.COMMIT, begun)
        return outcomes

    def drop(self, labels: tuple[str, ...], keys: Sequence[bytes]) -> None:
        """Delete keys of a namespace of the store's own, whatever they hold."""
        self.commit([Change("delete", labels, key, own=True) for key in keys])

    def expire(self, labels: tuple[str, ...], items: Sequence[tuple[bytes, int]]) -> int:
        """Delete those of these keys that still have these versions, for upkeep: whoever's the namespace is.

        Return how many. Nothing of a namespace with history is deleted.
        """

        def apply(tables: Tables) -> int:
            row, now, count = tables.namespace(labels), tables.now(), 0
            if row is None or row.policy.history:
                return 0
            applying = Applying(tables, self.writer, None, now)
            for key, version in items:
                current = tables.record(record_key(row.id, key))
                if current is not None and current.version == version:
                    applying.delete(row, Change("delete", labels, key), current)
                    count += 1
            return count

        return self._write(apply, deletes=True)

    def sweep(self) -> int:
        """Give back the space of some expired records, for upkeep; return about how many: 0 if there are none."""
        return self._write(lambda tables: sweep(tables, tables.now(), SWEPT), deletes=True) if self._due() else 0

    def _due(self) -> int:
        """Return how many records have expired and are there still, at most :data:`SWEPT`."""
        return self._read(lambda tables: tables.expired(tables.now(), SWEPT))

    def _write_all(
        self, changes: Sequence[Change], fence: Fence | None, first: Callable[[Tables], None]
    ) -> list[Outcome]:
        """Apply all changes in one transaction that begins with `first`."""

        def apply(tables: Tables) -> list[Outcome]:
            first(tables)
            now = tables.now()
            sweep(tables, now)
            applying = Applying(tables, self.writer, fence, now)
            return [applying.apply(change) for change in changes]

        needs = sum(len(change.value) + 2 * len(change.key) + 256 for change in changes)
        deletes = all(change.kind == "delete" for change in changes)
        return self._write(apply, needs=needs, deletes=deletes)

    def delete_namespace(self, labels: tuple[str, ...]) -> int:
        """Delete all keys at or below `labels`, their history too; return how many were served."""

        def apply(tables: Tables) -> int:
            now = tables.now()
            count = 0
            rows = list(tables.namespaces_below(labels))
            for row in rows:
                check_owner(row.owner, self.writer, row.labels)
            for row in rows:
                head = id_prefix(row.id)
                for database_key, stored in tables.records_from(head, head):
                    if stored.expires_at:
                        tables.delete_expiry(expiry_key(stored.expires_at, database_key))
                    count += served_now(tables, row.id, database_key, stored) is not None
                tables.delete_all("records", row.id)
                tables.delete_all("history", row.id)
                since = now if row.policy.history else 0
                tables.put_namespace(row._replace(history_bytes=0, history_since=since))
            if count:
                tables.next_version(now)
            return count

        return self._write(apply, deletes=True)

    def retain(self, labels: tuple[str, ...], policy: Policy) -> None:
        """Set what is kept of a namespace's past; without ``history`` what was kept is dropped."""

        def apply(tables: Tables) -> None:
            row = tables.namespace(labels) or make_namespace(tables, labels)
            check_owner(row.owner, self.writer, labels)
            set_policy(tables, row, policy, tables.now())

        self._write(apply)

    def adopt_history(self, labels: tuple[str, ...], policy: Policy, since: int) -> None:
        """Set what is kept of a past that was brought from another store, where it is complete from `since` on."""

        def apply(tables: Tables) -> None:
            row = tables.namespace(labels) or make_namespace(tables, labels)
            check_owner(row.owner, self.writer, labels)
            since_then = min(row.history_since, since) if row.policy.history else since
            set_policy(tables, row._replace(history_since=since_then), policy, tables.now())

        self._write(apply)

    def own(self, labels: tuple[str, ...], owner: str) -> None:
        """Let only `owner` write to a namespace ("": anybody), until it says otherwise."""

        def apply(tables: Tables) -> None:
            row = tables.namespace(labels) or make_namespace(tables, labels)
            tables.put_namespace(new_owner(row, owner, self.writer))

        self._write(apply)

    def guard(self, labels: tuple[str, ...]) -> None:
        """Note that a namespace has records that were written under leases, or is about to."""

        def apply(tables: Tables) -> None:
            row = tables.namespace(labels) or make_namespace(tables, labels)
            tables.put_namespace(row._replace(is_guarded=True))

        self._write(apply)
