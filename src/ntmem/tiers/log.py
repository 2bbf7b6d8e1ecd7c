"""The engine on the commit log: a change is acknowledged when its group is in shared memory; LMDB follows.

What is asked of it is what is asked of :class:`~ntmem.tiers.engine.LmdbEngine`, and what ends up in LMDB is the same:
the flusher applies the log there. This is how it writes; :mod:`ntmem.tiers.logreads` is how it reads. A write decides
by what it has read (:mod:`ntmem.tiers.draft`), and the log refuses it if that has changed meanwhile; then it reads
again.

**Invariant** (numbered as in the design)

- I1: a change is visible with its commit in the log; what changes the rules (`retain`, `delete_namespace`, more than
  half a log at once) is done in LMDB while the log is locked and empty, and then raises barrier and epoch.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from time import perf_counter_ns
from typing import Any, NoReturn, TypeVar

from .._core import meters
from .._core.direct import Direct
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
from ..errors import CorruptionError, LockTimeout, NtmemError, ReadOnlyError, StaleFence, StorageError, StoreClosed
from ..namespace import labels_of
from ..records import Change, Fence, Policy
from .change import SWEEP
from .draft import Draft
from .faults import trouble_error
from .guards import OWN, POSITIONS
from .layout import join_writer
from .logreads import LogReads, encoded
from .outcome import Outcome
from .shared import LoggedStore, SharedStore
from .tables import SIMULATED, Tables

T = TypeVar("T")

_ROW_BYTES = 64  # of a record on disk, beside key and value
_ATTEMPTS = 8  # before a writer locks the log instead of trying again
_SLICE = 0.05
_NOBODY = ("\0",)  # no namespace that anybody can follow
_PAST_LIMIT = (1, 0)  # trouble with which the flusher goes on


class LogEngine(LogReads):
    """The store's semantics over one :class:`~ntmem.tiers.shared.LoggedStore`.

    **Thread safety**: all methods may be called from any thread. **Complexity**: O(1) a key that the log has or that
    is written blindly, O(log n) any other.
    """

    def __init__(
        self, store: LoggedStore, writer: bytes, *, read_only: bool, max_lag: float, quick_writes: bool = False
    ) -> None:
        super().__init__(store, writer, read_only=read_only)
        self.waits_for_disk = not quick_writes
        self.max_lag = max_lag
        self.direct = Direct(
            *(store.log, store.hot, store.env, store.databases, writer, self._look, self.admit),
            writes=quick_writes and not read_only,
            max_lag=max_lag,
        )

    def _look(self, namespace: Any) -> tuple[bytes, bool, bool, bool, int]:
        """Say of a namespace what :class:`~ntmem._core.direct.Direct` has to know."""
        labels, rules = labels_of(namespace), self.rules_now()
        space = encoded(labels)
        found = self.rules_of(rules, space, labels)
        ours = labels not in OWN and (not found.owner or found.owner.encode() == self.writer)
        return space, found.history, ours, found.is_guarded, rules.epoch

    def admit(self, fence: Fence) -> tuple[Claim, bytes, bytes]:
        """Say of a lease what native writers have to know: the claim on it, its resource, how to sign under it."""
        return self._claim(fence), fence.resource.encode(), join_writer(self.writer, fence)

    def set_time(self, ns: int) -> None:
        self._check_writable()
        simulated, at = self.log.clock
        if not simulated:
            raise StorageError("this store runs on the system clock; it cannot be set")
        if not self.log.set_clock(ns):
            raise ValueError(f"a clock never goes back: ts was {ns}, the store is at {at}")

    def _check_writable(self) -> None:
        self.check_open()
        if self.read_only:
            raise ReadOnlyError("this store was opened with read_only=True; open it for writing")

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
                draft = Draft(self, self.rules_now(), None)
                if self.rules_of(draft.rules, space, labels).history:
                    return 0
                records: list[tuple[Any, ...]] = []
                for key, version in items:
                    newest, condition = draft.newest(Change("delete", labels, key), False)
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
            if not self.rules_of(self.rules_now(), encoded(labels), labels).is_guarded:
                with self._exclusive(changes_values=False):
                    super().guard(labels)

    def _try(self, changes: Sequence[Change], fence: Fence | None, *, locked: bool) -> list[Outcome]:
        draft = Draft(self, self.rules_now(), fence)
        try:
            outcomes = [draft.add(change) for change in changes]
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
            draft.unstage()
            raise
        return [Outcome(o.version and first + o.version - 1, o.number) for o in outcomes]

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
