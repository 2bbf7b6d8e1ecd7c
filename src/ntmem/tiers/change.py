"""What a change does to the rows of a store, inside a transaction: the twin of ``_core/change.h``.

**Invariants**

- What does not fit what the store holds raises, and whoever has begun the transaction abandons it.
- A record that is replaced or deleted goes into history, where that is kept, with the same transaction.
"""

from __future__ import annotations

from ..errors import CorruptionError
from ..records import Change, Fence, Policy
from .guards import check_guard, check_owner
from .layout import (
    AHEAD,
    DELETED,
    FENCED,
    NamespaceRow,
    Stored,
    expiry_key,
    holds_key,
    join_writer,
    namespace_key,
    record_key,
    split_expiry_key,
)
from .outcome import Outcome, check_version, expiry_of, incremented
from .retention import check_known, keep, served_now
from .tables import Tables

SWEEP = 16
"""Expired records whose space one write gives back at most."""


class Applying:
    """A transaction in which changes are applied: as of `now`, signed by `writer`, under `fence` if there is one."""

    def __init__(self, tables: Tables, writer: bytes, fence: Fence | None, now: int) -> None:
        self._tables = tables
        self._writer = writer
        self._fence = fence
        self._now = now

    def apply(self, change: Change) -> Outcome:
        """Apply a change; raise what :meth:`~ntmem.tiers.engine.LmdbEngine.commit` does. Return what became of it."""
        tables = self._tables
        row = tables.namespace(change.namespace)
        if row is not None:
            check_owner(row.owner, self._writer, row.labels)
        try:
            current = None if row is None else tables.record(record_key(row.id, change.key))
        except CorruptionError:
            if row is None or change.if_version is not None or change.kind not in ("put", "delete"):
                raise
            return self._replace_damaged(row, change)
        live = None
        if row is not None and current is not None:
            live = served_now(tables, row.id, record_key(row.id, change.key), current)
        if not change.own:
            check_guard(change, current, self._fence, self._now)
        if change.if_version is not None:
            check_version(change, live)
        if change.kind == "delete":
            if row is None or (live is None and not change.past):
                return Outcome(0)
            return self.delete(row, change, current)
        if change.kind == "add" and live is not None:
            return Outcome(0)
        row = row or make_namespace(tables, change.namespace)
        if self._fence is not None and not row.is_guarded:
            row = tables.put_namespace(row._replace(is_guarded=True))
        return self._put(row, change, current, live)

    def _put(self, row: NamespaceRow, change: Change, current: Stored | None, live: Stored | None) -> Outcome:
        tables, now = self._tables, self._now
        known = now if change.ts_known is None else change.ts_known
        check_known(row.policy.history, _newest_kept(tables, row, change.key), known, now)
        expires_at = expiry_of(change, known, now)
        value, number = change.value, 0
        if change.kind == "incr":
            number = incremented(change, live)
            value, expires_at = b"%d" % number, 0 if live is None else live.expires_at
        database_key = record_key(row.id, change.key)
        if current is not None:
            row = _retire(tables, row, change.key, current, known, now)
        stored = Stored(
            flags=AHEAD * (known > now) | FENCED * (self._fence is not None),
            version=tables.next_version(now),
            ts_event=known if change.ts_event is None else change.ts_event,
            ts_known=known,
            expires_at=expires_at,
            writer=join_writer(self._writer, self._fence),
            key=b"" if holds_key(database_key) else change.key,
            value=value,
        )
        tables.put_record(database_key, stored)
        if expires_at:
            tables.put_expiry(expiry_key(expires_at, database_key), namespace_key(row.labels))
        return Outcome(stored.version, number)

    def _replace_damaged(self, row: NamespaceRow, change: Change) -> Outcome:
        """Put or delete without looking at what is there: it cannot be read, and this is how to be rid of it."""
        self._tables.delete_record(record_key(row.id, change.key))
        if change.kind == "put":
            return self._put(row, change, None, None)
        return self._bury(row, change.key, self._now)

    def delete(self, row: NamespaceRow, change: Change, current: Stored | None) -> Outcome:
        """Delete a key, of which `current` is the record that is there."""
        tables, now = self._tables, self._now
        key, known = change.key, now if change.ts_known is None else change.ts_known
        check_known(row.policy.history, _newest_kept(tables, row, key), known, now)
        if current is not None:
            row = _retire(tables, row, key, current, known, now)
            tables.delete_record(record_key(row.id, key))
        return self._bury(row, key, known)

    def _bury(self, row: NamespaceRow, key: bytes, known: int) -> Outcome:
        tables, now, fence = self._tables, self._now, self._fence
        version, flags = tables.next_version(now), DELETED | FENCED * (fence is not None)
        buried = Stored(flags, version, known, known, 0, join_writer(self._writer, fence), key, b"")
        keep(tables, row, key, buried, known, now)
        return Outcome(version)


def make_namespace(tables: Tables, labels: tuple[str, ...]) -> NamespaceRow:
    """Make a namespace that keeps no history; return its row."""
    head = tables.head()
    tables.put_head(head._replace(next_namespace=head.next_namespace + 1))
    return tables.put_namespace(NamespaceRow(head.next_namespace, labels, Policy(), 0, 0))


def _retire(tables: Tables, row: NamespaceRow, key: bytes, current: Stored, superseded: int, now: int) -> NamespaceRow:
    """Take the current record out of the expiry index and, where the past is kept, into history."""
    if current.expires_at:
        tables.delete_expiry(expiry_key(current.expires_at, record_key(row.id, key)))
    return keep(tables, row, key, current, superseded, now)


def sweep(tables: Tables, now: int, most: int = SWEEP) -> int:
    """Give back the space of a few expired records; history keeps what was served. Return how many there were."""
    for count in range(most):
        first = tables.first_expiry()
        if first is None:
            return count
        expires_at, database_key = split_expiry_key(first[0])
        if expires_at > now:
            return count
        tables.delete_expiry(first[0])
        try:
            row, stored = tables.namespace_at(first[1]), tables.record(database_key)
        except CorruptionError:
            continue  # of no concern to this commit: it is not served, and `verify` finds it
        if row is not None and stored is not None and stored.expires_at == expires_at:
            keep(tables, row, stored.key or database_key[8:], stored, now, now)
            tables.delete_record(database_key)
    return most


def _newest_kept(tables: Tables, row: NamespaceRow, key: bytes) -> Stored | None:
    return next(tables.versions(row.id, key), None) if row.policy.history else None
