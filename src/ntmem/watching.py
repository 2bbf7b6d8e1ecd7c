"""Following the changes of a namespace: what every process commits, in the order of the commits.

A subscription is a position in the commit log. It takes no lock and leaves nothing behind in shared memory, so it
delays no writer, and one that is slow loses its place and is told so.

**Invariants** (numbered as in the design)

- I1: what is delivered was committed; in commit order, each change at most once, groups whole.
- I5: writers are not waited for and do not wait.
- I6: a batch of records and a bounded number of withheld changes are held, no more.
- I7: a change whose ``ts_known`` is ahead of the store's clock is withheld until the clock is there.
- A change is never missing without a ``"lagged"`` in its place.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from functools import lru_cache
from heapq import heappop, heappush
from typing import Literal, NamedTuple

from ._core.follow import Follower, settled
from ._core.logrecords import KIND_DELETE, KIND_NOTICE, LogDamaged, LookAgain, Overwritten
from ._core.logrecords import Record as LogRecord
from .errors import CorruptionError, StorageError, StoreClosed
from .subscription import SLICE, Subscription
from .tiers.engine import LmdbEngine
from .tiers.layout import AHEAD, decode_labels, encode_labels, split_writer
from .tiers.log import LogEngine
from .tiers.logreads import STAGED_VALUE
from .tiers.reader import QuietEngine

ChangeKind = Literal["put", "delete", "delete_namespace", "lagged"]

_SEQUENCES = (1 << 44) - 1
_WITHHELD = 65_536
"""Changes with a ``ts_known`` ahead of the clock that a subscription keeps at most."""

_labels_from = lru_cache(4096)(decode_labels)


class WatchedChange(NamedTuple):
    """One change, as it was committed.

    Attributes
    ----------
    kind : {"put", "delete", "delete_namespace", "lagged"}
        ``put`` is also what ``add`` and ``incr`` do. ``delete_namespace``: `namespace` and all below it is gone, with
        one change for all its keys. ``lagged``: changes are missing here; read again what you follow.
    namespace : tuple of str
        Of the key; of ``delete_namespace`` the one that was deleted, which may lie above the one that is watched.
    key : str or None
        None for ``delete_namespace`` and ``lagged``.
    value : bytes or None
        None unless it is a ``put``.
    version : int
        As returned by the call that made the change; of ``lagged``, that behind which changes are missing.
    ts_event, ts_known : int
        When it happened and when it was known, ns UTC.
    expires_at : int or None
        When the value stops being served. Expiry itself is no change, and is not delivered.
    writer : str
        The ``agent_id`` of the writing handle; empty for ``lagged``.
    last : bool
        Whether it is the last one of its transaction that this subscription delivers with it.
    """

    kind: ChangeKind
    namespace: tuple[str, ...]
    key: str | None
    value: bytes | None
    version: int
    ts_event: int
    ts_known: int
    expires_at: int | None
    writer: str
    last: bool

    def __repr__(self) -> str:
        where = "/".join(self.namespace) + ("" if self.key is None else f" {self.key!r}")
        size = "" if self.value is None else f" {len(self.value)} bytes"
        return f"<WatchedChange {self.kind} {where}{size} version={self.version} writer={self.writer!r}>"


class Changes(Subscription[WatchedChange]):
    """The changes of a namespace, made by :meth:`ntmem.MemorySystem.watch`.

    Complexity: O(1) a change, and some 30 ns for each group of other namespaces. Waiting costs nothing while nobody
    writes.
    """

    def __init__(
        self,
        engine: Callable[[], LmdbEngine],
        namespace: tuple[str, ...],
        *,
        since: int | None,
        children: bool,
    ) -> None:
        super().__init__()
        self._engine = engine
        self._namespace = namespace
        self._children = children
        self._groups: deque[list[LogRecord]] = deque()
        self._withheld: list[
            tuple[int, int, LogRecord | None]
        ] = []  # a heap by (ts_known, version); None: were too many
        self._delivered = 0
        self._seen = 0  # what came up to this version was looked at before there was a follower
        self._lagged = 0
        self._follower: Follower | None = None
        self._start(since)

    # -- beginning

    def _start(self, since: int | None) -> None:
        engine = self._open()
        if isinstance(engine, LogEngine):
            if since is None:
                position, sequence = settled(engine.log)
                self._delivered = engine.log.region.generation << 44 | sequence
                self._follower = self._follow(engine, position=position)
                return
        elif not isinstance(engine, QuietEngine):
            raise StorageError(
                f"watch needs the commit log of engine 'shared', and this store is open with engine {engine.name!r}, "
                "or from a directory that cannot be written to; open it with engine='shared'"
            )
        newest = engine.last_version()
        if since is not None and since > newest:
            raise ValueError(f"since was {since}, which was not handed out yet; the newest version is {newest}")
        self._delivered = self._seen = newest if since is None else since
        if isinstance(engine, LogEngine):
            self._follower = self._resume(engine)

    def _follow(self, engine: LogEngine, *, position: int = 0, after: int = 0) -> Follower:
        space = encode_labels(self._namespace)
        return Follower(engine.log, space, children=self._children, position=position, after=after)

    def _resume(self, engine: LogEngine) -> Follower:
        """Follow from behind the version that was delivered, or as far back as the log goes."""
        since, log = self._seen, engine.log
        follower = self._follow(engine, after=since)
        first = follower.seek()
        if first is None:  # an empty log; what is committed meanwhile takes this number
            first = log.region.generation << 44 | settled(log)[1] + 1
        behind = (since & _SEQUENCES) + 1
        if since >> 44 == log.region.generation:
            missed = behind < first & _SEQUENCES
        else:  # a new generation goes on where the last one has ended, unless its end was lost
            missed = follower.position > 0 or behind != first & _SEQUENCES
        if missed:
            self._lag(engine, since)
        return follower

    # -- state

    @property
    def lagged(self) -> int:
        """How often changes were missed; each time one of kind ``"lagged"`` stands where they are missing."""
        return self._lagged

    @property
    def resume_from(self) -> int:
        """The version to pass as `since` of a later :meth:`ntmem.MemorySystem.watch`, so that nothing is missed.

        It is that of the last change received, or newer if no change of this namespace has come since; older while
        changes are withheld (see :meth:`ntmem.MemorySystem.watch`), and then some come again.
        """
        seen = self._delivered
        if not self._ready and not self._groups:
            seen = max(seen, self._seen, 0 if self._follower is None else self._follower.version)
        return min([seen, *(version - 1 for _, version, _ in self._withheld)])

    def __repr__(self) -> str:
        state = " closed" if self._closed else f" lagged={self._lagged}" if self._lagged else ""
        return f"<Subscription {'/'.join(self._namespace)}{state}>"

    def _open(self) -> LmdbEngine:
        if self._closed:
            raise StoreClosed("this subscription was closed; call watch() again, with since=resume_from")
        engine = self._engine()
        engine.store.refuse()
        return engine

    def _pop(self, *, first: bool = True) -> WatchedChange | None:
        change = super()._pop()
        if change is not None:
            self._delivered = max(self._delivered, change.version)
        return change

    # -- following

    def _look(self, end: float) -> None:
        """Bring on what is there, or wait a slice for it."""
        engine = self._open()
        wait = max(0.0, min(end - time.monotonic(), SLICE))
        if not isinstance(engine, LogEngine):  # nobody writes, so there is no log
            newest = engine.last_version()
            if newest > self._seen:  # but somebody has come, written, and gone
                self._lag(engine, self._seen)
                self._seen = newest
            else:
                time.sleep(wait)
            return
        if self._follower is None:
            self._follower = self._resume(engine)
        if not self._groups:
            self._release_known(engine)
        if self._ready:
            return
        try:
            if not self._groups and self._follower.wait(self._until_known(engine, wait)):
                self._groups.extend(self._follower.read())
        except Overwritten:
            seen = max(self._delivered, self._seen, self._follower.version)
            first = self._follower.seek(engine.log.capacity // 8)  # at the very end it would be overtaken at once
            if first is not None and first <= seen + 1:  # only what it has seen, or began behind, was overwritten
                return self._look(end)
            self._lag(engine, seen)
        except LogDamaged as error:
            raise CorruptionError(str(error)) from error
        while self._groups:
            self._take(engine, self._groups[0])
            self._groups.popleft()

    def _take(self, engine: LogEngine, group: list[LogRecord]) -> None:
        """Deliver what is known of a group, and withhold the rest of it."""
        self._release_known(engine)  # of a key, nothing is committed behind a version ahead before that is known
        now = engine.log.now()
        known = [record for record in group if not (record.flags & AHEAD and record.ts_known > now)]
        changes = [self._change(engine, record, last=record is known[-1]) for record in known]
        for record in group:
            if record.flags & AHEAD and record.ts_known > now:
                heappush(self._withheld, (record.ts_known, record.version, record))
        if len(self._withheld) > _WITHHELD:
            self._bound_withheld()
        self._lagged += sum(change.kind == "lagged" for change in changes)
        self._ready.extend(changes)

    def _bound_withheld(self) -> None:
        """Forget the later half; say that it is missing when the first and when the last of it would have been due."""
        self._withheld.sort()
        half = _WITHHELD // 2
        later = self._withheld[half:]
        oldest = min(version for _, version, _ in later)
        self._withheld[half:] = [(later[0][0], oldest, None), (later[-1][0], oldest, None)]

    def _release_known(self, engine: LogEngine) -> None:
        if not self._withheld:
            return
        now = engine.log.now()
        while self._withheld and self._withheld[0][0] <= now:
            _, version, record = self._withheld[0]
            change = self._gap(now, version) if record is None else self._change(engine, record, last=True)
            heappop(self._withheld)
            self._lagged += change.kind == "lagged"
            self._ready.append(change)

    def _until_known(self, engine: LogEngine, wait: float) -> float:
        if self._withheld and not engine.log.clock[0]:
            return min(wait, max(0.0, (self._withheld[0][0] - engine.log.now()) / 1e9))
        return wait

    def _lag(self, engine: LmdbEngine, version: int) -> None:
        self._lagged += 1
        self._ready.append(self._gap(engine.now(), version))

    def _gap(self, now: int, version: int) -> WatchedChange:
        return WatchedChange("lagged", self._namespace, None, None, version, now, now, None, "", True)

    def _change(self, engine: LogEngine, record: LogRecord, *, last: bool) -> WatchedChange:
        namespace = _labels_from(record.namespace)
        kind: ChangeKind = "put"
        key: str | None = None
        value: bytes | None = None
        if record.kind == KIND_NOTICE:
            if not namespace:  # a transaction of more than half the log: only LMDB has it
                return self._gap(record.ts_known, record.version)._replace(last=last)
            kind = "delete_namespace"
        else:
            key = record.key.decode()
            kind = "delete" if record.kind == KIND_DELETE else "put"
            if kind == "put":
                try:
                    value = engine.stored(record).value if record.flags & STAGED_VALUE else record.value
                except LookAgain:  # a large value that was replaced meanwhile, and is nowhere any more
                    return self._gap(record.ts_known, record.version)._replace(last=last)
        return WatchedChange(
            kind,
            namespace,
            key,
            value,
            record.version,
            record.ts_event,
            record.ts_known,
            record.expires_at or None,
            split_writer(record.writer, record.flags)[0],
            last,
        )
