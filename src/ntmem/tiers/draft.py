"""A group of changes on its way into the log: what its writer has read for it, and the records that follow.

Nothing is locked meanwhile. Each record says on which version its writer has based it, and the log refuses the group if
that is no longer the newest.
"""

from __future__ import annotations

from typing import Any
from zlib import crc32

from .._core.log import LookAgain
from .._core.logrecords import KIND_DELETE, KIND_PUT
from ..errors import CorruptionError
from ..records import Change, Fence
from .guards import check_guard, check_own, check_owner
from .layout import AHEAD, DELETED, FENCED, Stored, join_writer
from .logreads import STAGED_VALUE, LogReads, Rules, encoded
from .outcome import Outcome, check_version, expiry_of, incremented
from .retention import check_known, served_at
from .shared import SharedStore
from .tables import Tables

_UNREADABLE = Stored(DELETED, 0, 0, 0, 0, b"", b"", b"")


class Draft:
    """A group of records on its way into the log, and what its writer has read for it."""

    def __init__(self, engine: LogReads, rules: Rules, fence: Fence | None) -> None:
        self._engine = engine
        self.rules = rules
        self.fence = fence
        self.writer = join_writer(engine.writer, fence)
        self.snapshot = engine.log.flushed  # before anything is read: what was flushed by now is in every snapshot
        self.now = engine.log.now()
        self.records: list[tuple[Any, ...]] = []
        self.known: dict[tuple[bytes, bytes], Stored | None] = {}  # newest of each key, this group included
        self.staged: list[bytes] = []

    def add(self, change: Change) -> Outcome:
        """Add a change to the group if it has an effect; an outcome's version is 1 + its index there."""
        space = encoded(change.namespace)
        rules = self._engine.rules_of(self.rules, space, change.namespace)
        if not change.own:
            check_own(change.namespace)
        check_owner(rules.owner, self._engine.writer, change.namespace)
        history = rules.history
        where = (space, change.key)
        known = self.now if change.ts_known is None else change.ts_known
        condition: tuple[Any, ...] = ()
        newest: Stored | None = None
        live: Stored | None = None
        if history or rules.is_guarded or change.if_version is not None or change.kind != "put":
            if where in self.known:
                newest = self.known[where]
            else:
                newest, condition = self.newest(change, history)
            if not change.own:
                check_guard(change, newest, self.fence, self.now)
            live = self._live(change, newest)
        if change.if_version is not None:
            check_version(change, live)
        if (change.kind == "delete" and live is None and newest is not _UNREADABLE and not change.past) or (
            change.kind == "add" and live is not None
        ):
            self.known.setdefault(where, newest)
            return Outcome(0)
        if history and newest is not None and newest.ts_known > self.now and not newest.flags & AHEAD:
            raise LookAgain("another process has written it since this one read the clock")
        check_known(history, None if newest is _UNREADABLE else newest, known, self.now)
        value, number, expires_at = change.value, 0, expiry_of(change, known, self.now)
        if change.kind == "incr":
            number = incremented(change, live)
            value, expires_at = b"%d" % number, 0 if live is None else live.expires_at
        fenced = FENCED * (self.fence is not None)
        flags = AHEAD * (known > self.now) | fenced
        event = known if change.ts_event is None else change.ts_event
        deletes = change.kind == "delete"
        self.known[where] = Stored(
            (DELETED | fenced) if deletes else flags,
            *(-len(self.records) - 1, event, known, expires_at, self.writer, b"", value),
        )
        if len(value) > self._engine.log.value_limit:
            value, flags = self._stage(value), flags | STAGED_VALUE
        kind = KIND_DELETE if deletes else KIND_PUT
        self.records.append((kind, flags, space, change.key, self.writer, value, event, known, expires_at, *condition))
        return Outcome(len(self.records), number)

    def newest(self, change: Change, history: bool) -> tuple[Stored | None, tuple[Any, ...]]:
        """Return the newest version of a key, be it a deletion or expired, and the condition that it still is."""
        engine = self._engine
        record = engine.unflushed(change.namespace, change.key)
        if record is not None:
            return engine.stored(record), (record.version, 0, True)
        try:
            stored = engine.store.read(lambda txn: engine.newest_on_disk(Tables(engine.store, txn), change, history))
        except CorruptionError:
            if change.if_version is not None or change.kind not in ("put", "delete"):
                raise
            return _UNREADABLE, ()  # put and delete are how to be rid of it
        version = 0 if stored is None else stored.version
        return stored, (version, version, True)

    def _live(self, change: Change, newest: Stored | None) -> Stored | None:
        """Return what is served of the newest version and those before it."""
        if newest is None or newest is _UNREADABLE:
            return None
        if newest.flags & AHEAD and newest.ts_known > self.now:
            return self._engine.known_now(change.namespace, change.key)
        return served_at(newest, self.now)

    def _stage(self, value: bytes) -> bytes:
        staged = self._writable().stage(value)
        self.staged.append(staged)
        return b"".join((staged, len(value).to_bytes(8, "little"), crc32(value).to_bytes(4, "little")))

    def unstage(self) -> None:
        """Give back the room of the values that wait for a group which did not become one."""
        for staged in self.staged:
            self._writable().unstage(staged)

    def _writable(self) -> SharedStore:
        assert isinstance(self._engine.store, SharedStore)
        return self._engine.store
