"""What a namespace keeps of the past: moving versions into history, dropping the oldest, reading as of then.

**Invariants**

- In a namespace with history, ``ts_known`` never falls from one version of a key to the next. So the newest version
  known at `t` is the last one with ``ts_known <= t``, and nothing known later can influence the answer (I7).
- Versions of a key are dropped oldest first, and ``history_since`` of the namespace rises to the moment at which a
  dropped version was superseded: an answer from before it is either found exactly or refused.
"""

from __future__ import annotations

from ..errors import HistoryNotRetained
from ..records import Policy
from .layout import AHEAD, DELETED, NamespaceRow, Stored, expiry_key, id_prefix, record_key
from .tables import Tables


def known_at(tables: Tables, namespace_id: int, key: bytes, limit: int) -> Stored | None:
    """Return the newest version of a key with ``ts_known <= limit``, be it a deletion or expired."""
    return next((stored for stored in tables.versions(namespace_id, key) if stored.ts_known <= limit), None)


def served_at(stored: Stored | None, at: int) -> Stored | None:
    """Return `stored` if a reader at `at` is served it: neither a deletion nor expired."""
    return None if stored is None or stored.flags & DELETED or stored.expired(at) else stored


def served_now(tables: Tables, namespace_id: int, database_key: bytes, stored: Stored) -> Stored | None:
    """Return `stored` if it is served now, the version before if it is not known yet, None if it is expired."""
    if not stored.flags & AHEAD and not stored.expires_at:
        return stored
    now = tables.now()
    if stored.ts_known > now:
        return served_at(known_at(tables, namespace_id, stored.key or database_key[8:], now), now)
    return served_at(stored, now)


def not_retained(labels: tuple[str, ...]) -> HistoryNotRetained:
    """Return the error for a question about the past of a namespace that keeps none."""
    return HistoryNotRetained(
        f"{'/'.join(labels)} keeps no history, so the past of its keys cannot be read; "
        "call retain(namespace, history=True) before writing what is to be kept"
    )


def read_as_of(tables: Tables, row: NamespaceRow, key: bytes, limit: int) -> Stored | None:
    """Return what a reader at `limit` was served; raise :class:`HistoryNotRetained` if that is not known any more."""
    newest = known_at(tables, row.id, key, limit)
    if newest is None and limit < row.history_since:
        raise HistoryNotRetained(
            f"the history of {'/'.join(row.labels)} is complete from {row.history_since} on; as_of was {limit}, "
            "which is earlier: what was known then is not retained"
        )
    return served_at(newest, limit)


def check_known(history: bool, newest: Stored | None, known: int, now: int) -> None:
    """Refuse a ``ts_known`` that would let a later reader see the future or the past wrongly.

    `newest` is the newest version of the key, needed only where `history` is kept.
    """
    if not history:
        if known > now:
            raise ValueError(
                f"ts_known was {known}, {known - now} ns after the store's now: a plain key holds only what is "
                "known; set the clock first, or retain(namespace, history=True)"
            )
        return
    if newest is None or known >= newest.ts_known:
        return
    if newest.ts_known > now:
        raise ValueError(
            f"the key has a version loaded ahead, known only at {newest.ts_known}; it can be written again when the "
            "store's clock is there, or with a ts_known at or after that"
        )
    raise ValueError(
        f"ts_known was {known}, but the key has a version known at {newest.ts_known}: within a key with history, "
        "ts_known never falls"
    )


def keep(tables: Tables, row: NamespaceRow, key: bytes, stored: Stored, superseded: int, now: int) -> NamespaceRow:
    """Move a version that another supersedes into history if the namespace keeps one; return the namespace's row."""
    if not row.policy.history:
        return row
    size = tables.put_past(row.id, stored._replace(key=key))
    row = row._replace(history_bytes=row.history_bytes + size)
    row = _drop_aged(tables, row, key, now)
    return tables.put_namespace(_drop_to_budget(tables, row, stored.version, superseded, now))


def set_policy(tables: Tables, row: NamespaceRow, policy: Policy, now: int) -> None:
    """Set what a namespace keeps; without history, what was kept is dropped."""
    if policy.history and not row.policy.history:
        row = row._replace(history_since=now)
        _drop_expired(tables, row, now)
    if not policy.history:
        _refuse_ahead(tables, row, now)
        tables.delete_all("history", row.id)
        row = row._replace(history_since=0, history_bytes=0)
    tables.put_namespace(_drop_to_budget(tables, row._replace(policy=policy), 0, now, now))


def _refuse_ahead(tables: Tables, row: NamespaceRow, now: int) -> None:
    """Without history a key has one version: one that is not known yet would hide the one that is served."""
    head = id_prefix(row.id)
    if any(stored.flags & AHEAD and stored.ts_known > now for _, stored in tables.records_from(head, head)):
        raise ValueError(
            f"{'/'.join(row.labels)} has versions loaded ahead of the store's clock, which need its history; "
            "set the clock, or delete the namespace first"
        )


def _drop_expired(tables: Tables, row: NamespaceRow, now: int) -> None:
    """Let history begin with what is served: what expired before it may or may not have been swept away yet."""
    head = id_prefix(row.id)
    expired = [(key, stored) for key, stored in tables.records_from(head, head) if stored.expired(now)]
    for database_key, stored in expired:
        tables.delete_expiry(expiry_key(stored.expires_at, database_key))
        tables.delete_record(database_key)


def _drop_aged(tables: Tables, row: NamespaceRow, key: bytes, now: int) -> NamespaceRow:
    """Drop the versions of one key that were superseded longer than ``max_age`` ago."""
    if row.policy.max_age_ns is None:
        return row
    oldest = now - row.policy.max_age_ns
    past = tables.past(row.id, key)
    dropped: list[tuple[bytes, int]] = []
    previous = next(past, None)
    for where, stored in past:
        if previous is None or _superseded(previous[1], stored.ts_known) >= oldest:
            break
        dropped.append((previous[0], _superseded(previous[1], stored.ts_known)))
        previous = where, stored
    for where, superseded in dropped:
        row = _drop(tables, row, where, superseded)
    return row


def _drop_to_budget(tables: Tables, row: NamespaceRow, retired: int, superseded_at: int, now: int) -> NamespaceRow:
    """Drop the oldest versions of a namespace once it is over budget, until an eighth of the budget is free.

    A version is dropped only once another is served in its place. `retired` is the version that is just being
    replaced by one known at `superseded_at`, which may lie ahead and is not in the tables yet.
    """
    budget = row.policy.max_bytes
    if budget is None or row.history_bytes <= budget:
        return row
    past = [(stored.version, where, stored) for where, stored in tables.past(row.id)]
    following: dict[bytes, int] = {}  # by key: when the version that comes after was known
    superseded: dict[bytes, int] = {}
    for _, where, stored in reversed(past):
        if stored.key not in following:
            current = tables.record(record_key(row.id, stored.key))
            following[stored.key] = now if current is None else current.ts_known
            if stored.version == retired:
                following[stored.key] = superseded_at
        superseded[where] = _superseded(stored, following[stored.key])
        following[stored.key] = stored.ts_known
    for _, where, _ in sorted(past, key=lambda item: item[0]):
        if row.history_bytes <= budget - budget // 8:
            break
        if superseded[where] <= now:
            row = _drop(tables, row, where, superseded[where])
    return row


def _superseded(stored: Stored, following: int) -> int:
    # Dropping a deletion whose elders are gone loses nothing: before it nothing is known, after it nothing is there.
    return stored.ts_known if stored.flags & DELETED else following


def _drop(tables: Tables, row: NamespaceRow, where: bytes, superseded: int) -> NamespaceRow:
    size = tables.delete_past(where)
    return row._replace(history_bytes=row.history_bytes - size, history_since=max(row.history_since, superseded))
