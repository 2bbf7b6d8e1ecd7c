"""A process's part in a store that is shared through a region: LMDB, the log, the flusher; coming and going.

**Invariants** (numbered as in the design)

1. I2: who leaves last, and who comes alone, brings everything the log has to LMDB before the region goes.
2. One process at a time comes or goes (`open.lock`).
3. After :meth:`SharedStore.close` has looked at the log for the last time nothing of this process is appended to it.
"""

from __future__ import annotations

import os
import time
from contextlib import suppress
from logging import WARNING
from typing import Any

import lmdb

from .._core.examine import settle
from .._core.flusher import Flusher
from .._core.hot import HotTable
from .._core.leases import LeaseTable
from .._core.log import Log, LogDamaged
from .._core.logrecords import Trouble
from .._core.mdb import Environment
from .._core.meters import Meters
from ..clock import SimulatedClock
from ..errors import CorruptionError, DiskFull, MapFull, NtmemError, StorageError
from .cold import ColdStore
from .events import Events, tell_later
from .faults import open_error, trouble_error
from .layout import id_prefix
from .opening import ClockChoice, agree_on_row, check_agreed, followed_offset, prepare_rows
from .region import (
    REGION_ID_BYTES,
    SHARED_MEMORY,
    AttachLock,
    Cache,
    create_region,
    examine_region,
    hot_table,
    lease_table,
    map_region,
    region_path,
    remove_region,
)
from .sharing import opening
from .tables import OVER, SIMULATED, SYSTEM, ClockRow, LogRow, Tables

STAGED = "staged"
"""Database of large values on their way: by a random id, until the flusher has moved them into ``records``."""

_DELETE_RESERVE = 16 << 20
_DRAIN_TIMEOUT = 60.0
_GOING_TIMEOUT = 10.0


POSITIONS = ("ntmem", "positions")


def positions_on_disk(tables: Tables) -> list[tuple[bytes, bytes, int]]:
    """Return key, value and version of each position's newest record."""
    row = tables.namespace(POSITIONS)
    if row is None:
        return []
    head = id_prefix(row.id)
    return [
        (stored.key or where[8:], stored.value, stored.version) for where, stored in tables.records_from(head, head)
    ]


def examine_log(store: ColdStore, log: Log, *, index: bool = False) -> int:
    """Do :func:`examine_region` with what the data file says."""
    row, head, clock = store.read(
        lambda txn: (Tables(store, txn).log_row(), Tables(store, txn).head(), Tables(store, txn).clock())
    )
    return examine_region(
        log,
        position=0 if row is None else row.position,
        newest=(head.generation, head.position),
        clock=(clock.kind == SIMULATED, clock.at),
        index=index,
    )


class LoggedStore(ColdStore):
    """An open environment behind a log; LMDB itself is compiled in, and maps the file as large as it may become."""

    log: Log
    hot: HotTable | None
    leases: LeaseTable | None
    env: Environment

    def __init__(self, directory: str | None, *, read_only: bool, max_bytes: int, reserve: int) -> None:
        self._reserve = reserve
        super().__init__(directory, read_only=read_only, max_bytes=max_bytes)

    def _environment(self, directory: str, size: int) -> Any:
        map_size = max(self.max_bytes, size) + self._reserve
        return Environment(directory, map_size=map_size, readonly=self.read_only, create=not self.read_only)

    def _must_shrink(self, size: int) -> bool:
        return False

    def _grow(self, seen: int, needs: int, deletes: bool) -> None:
        if seen < 0:  # another process has a larger map, and uses it
            raise StorageError(
                f"the data file has outgrown max_storage_bytes={self.max_bytes} of this process; open it with as much "
                "as the other processes do"
            )
        raise MapFull(f"the store holds its {self.max_bytes} bytes; delete something or raise max_storage_bytes")

    def _reopen(self, env: Any, error: Exception) -> None:
        raise self._translated(error, write=True) from error  # the flusher has it in use: all processes are to close it

    def use_log(self, log: Log, *, vouched: bool = True) -> None:
        """Let the log tell the time, and find large values on their way into it.

        What the dead have left in the hot table, and what they held, is not used: nobody has vouched for it.
        """
        self.log = log
        self.hot = hot_table(log) if vouched else None
        self.leases = lease_table(log) if vouched else None
        self.meters = Meters(log.region)
        self.clock = log.now
        self._open_staged()

    def settle_log(self, log: Log, *, index: bool = False) -> None:
        """See that what dead processes left is whole and goes with the data file; for who is alone.

        Who only reads finishes what a writer died over, too.
        """
        examine_log(self, log)
        try:
            log.lock(_DRAIN_TIMEOUT)  # repairs
        except LogDamaged as error:
            raise CorruptionError(f"{error}; 'ntmem doctor' shows it, and sets it aside") from error
        log.unlock()
        settle(log, examine_log(self, log, index=index))

    def mapped_log(self) -> Log:
        """Map the region that other processes use."""
        assert self.directory is not None
        row = self.read(lambda txn: Tables(self, txn).log_row())
        if row is None or row.is_over:
            raise FileNotFoundError(f"the data file of {self.directory} knows no shared region")
        self.region_id = row.region_id
        return map_region(self.directory, row.region_id)

    def agree_on_clock(self, choice: ClockChoice, *, read_only: bool) -> None:
        """See that a handle's choice is the clock that the store has, and follow one that was set forward."""
        simulated, at = self.log.clock
        check_agreed(ClockRow(SIMULATED if simulated else SYSTEM, at, b""), choice)
        if not read_only:
            start = choice.now() if isinstance(choice, SimulatedClock) else at
            self.log.set_clock(start if simulated else followed_offset(at))

    def require_room(self, needs: int) -> None:
        """Raise :class:`MapFull` if what is written past the log would exceed ``max_storage_bytes``."""
        used = self._used()
        if used + needs > self.max_bytes:
            used -= self.env.free_pages() * self.env.stat()["psize"]
            if used + needs > self.max_bytes:
                self._grow(0, 0, False)

    def _open_staged(self) -> None:
        if STAGED in self.databases:
            return
        try:
            self.databases[STAGED] = self.env.open_db(STAGED.encode(), create=not self.read_only)
        except (lmdb.Error, OSError) as error:
            raise open_error(self.directory or SHARED_MEMORY, error) from error

    def _close_in_child(self) -> None:
        pass  # its finalizers leave everything alone in a child


class SharedStore(LoggedStore):
    """A process's part in a store that it may write to. Made by :func:`ntmem.tiers.sharing.attach`."""

    flusher: Flusher
    events: Events

    def __init__(
        self,
        directory: str | None,
        *,
        max_bytes: int,
        log_bytes: int,
        bus_bytes: int,
        flush_interval: float,
        cache: Cache,
    ) -> None:
        self._cache = cache
        self.log_bytes = log_bytes
        self.bus_bytes = bus_bytes
        self.flush_interval = flush_interval
        self.is_joined = False
        reserve = _DELETE_RESERVE + 4 * self.log_bytes  # what is acknowledged always finds room
        super().__init__(directory, read_only=False, max_bytes=max_bytes, reserve=reserve)

    # -- coming

    def join(self, choice: ClockChoice) -> None:
        """Find the region of this store or make it; what one was left behind with goes to LMDB first."""
        if self.directory is None:
            self._create(choice)
        else:
            self.attached = AttachLock(self.directory)
            self.attached.join(log=True)
            if not self._map_of_others(self.attached):
                if os.path.exists(region_path(self.directory)):
                    self._take_over(self.directory)
                self._create(choice)
        self.flusher.start()
        self.events = Events(self.directory, self.log, self.flusher)
        self.is_joined = True

    def _map_of_others(self, attached: AttachLock) -> bool:
        """Map the region that others use; return whether there are others.

        One that was killed while it made the region has none, and is there until the kernel is done with it.
        """
        until = time.monotonic() + _GOING_TIMEOUT
        while not attached.is_alone():
            try:
                self.use_log(self.mapped_log())
            except FileNotFoundError as error:
                if time.monotonic() > until:
                    raise StorageError(f"{self.directory} is in use, but {error}; close it in every process") from error
                time.sleep(0.002)
            else:
                self.flusher = self._make_flusher(self.region_id)
                return True
        return False

    def _take_over(self, directory: str) -> None:
        """Bring to LMDB what dead processes have left in the log, and remove their region."""
        row = self.read(lambda txn: Tables(self, txn).log_row())
        path = region_path(directory)
        if row is None and self.read(lambda txn: Tables(self, txn).get_meta(b"schema")) is None:
            os.unlink(path)  # of a store that was deleted, whose file had the number that this new one has
            return
        self.use_log(map_region(directory, b"" if row is None else row.region_id, path), vouched=False)
        if row is not None and row.is_over:  # who drained it died before its name was taken away
            remove_region(self.log)
            return
        self.settle_log(self.log)
        left = self.log.committed - self.log.flushed
        self.flusher = self._make_flusher(row.region_id if row else b"")
        self._drain(anew=True)
        said = "%s: its processes have died; %d bytes of changes that they left were brought to disk"
        tell_later(WARNING, said, directory, left)
        self._note_log()
        self.was_touched = False  # the region proves whose file it is
        remove_region(self.log)

    def _create(self, choice: ClockChoice) -> None:
        region_id = os.urandom(REGION_ID_BYTES)
        fences = (0, 0)
        start = choice.now() if isinstance(choice, SimulatedClock) else None

        def act(tables: Tables) -> None:
            nonlocal fences
            is_new = tables.get_meta(b"schema") is None
            row = tables.log_row()
            before = None if row is None else tables.head().generation
            prepare_rows(self, tables)
            head = tables.head()
            if row is not None and not row.is_over and head.generation == before:
                # That region is lost, and with it perhaps changes whose versions were given out.
                tables.put_head(head._replace(generation=head.generation + 1))
            agree_on_row(tables, choice, start)
            fences = tables.reserve_fences(is_new=is_new)
            tables.put_log_row(LogRow(region_id, 0))
            tables.delete_rows(STAGED)  # of writers who died before they referred to them

        self.clock = None  # that of a log which is gone
        self._open_staged()
        self.write(lambda txn: act(Tables(self, txn)))
        head, clock = self.read(lambda txn: (Tables(self, txn).head(), Tables(self, txn).clock()))
        self.use_log(
            create_region(
                self.directory,
                region_id,
                generation=head.generation,
                first_sequence=head.position + 1,
                clock=(clock.kind == SIMULATED, clock.at),
                size=self.log_bytes,
                bus_bytes=self.bus_bytes,
                cache=self._cache,
                fences=fences,
                held=self.read(lambda txn: positions_on_disk(Tables(self, txn))),
            )
        )
        self.flusher = self._make_flusher(region_id)

    def _make_flusher(self, region_id: bytes) -> Flusher:
        return Flusher(
            self.log,
            self.env,
            self.databases,
            region_id,
            interval=self.flush_interval,
            limit=self.max_bytes,
        )

    # -- going

    def close(self) -> None:
        """Bring everything to LMDB, and remove the region if nobody else uses it; raise if it cannot be brought.

        What could not be brought stays in the region, for the next opening.
        """
        failure: NtmemError | None = None
        try:
            if self.is_joined and not self.closed:
                self.is_joined = False
                failure = self._leave()
        finally:
            try:
                if hasattr(self, "flusher") and not self.closed:
                    with suppress(TimeoutError):  # an exception of a signal handler may have come before it
                        self.flusher.stop()
            finally:
                super().close()
        if failure is not None:
            raise failure

    def _leave(self) -> NtmemError | None:
        self.log.shut()
        if self.leases is not None:
            with suppress(TimeoutError):  # then they end with this process, or when their time has passed
                self.leases.release_all()
        try:
            self.flusher.stop()
        except TimeoutError as error:
            return StorageError(str(error))
        if self.directory is None:
            return None
        try:
            self._drain()
            if not os.path.exists(self.directory):
                self._remove_if_alone()  # somebody has deleted the store
            else:
                with opening(self.directory, read_only=False):
                    self._remove_if_alone()
        except NtmemError as error:
            return error
        return None

    def _remove_if_alone(self) -> None:
        assert self.attached is not None
        if self.attached.is_alone():
            self._drain()  # others may have come, written and gone
            with suppress(
                DiskFull, MapFull
            ):  # everything is on disk, only that this is the end is not: the region stays
                self._note_log()
                remove_region(self.log)
        self.attached.release()  # before anybody else asks: of two who leave, the second is alone

    def _drain(self, *, anew: bool = False) -> None:
        try:
            self.flusher.drain(_DRAIN_TIMEOUT, anew=anew)
        except Trouble as error:
            raise trouble_error(error) from error
        except TimeoutError as error:
            raise StorageError(str(error)) from error

    def _note_log(self) -> None:
        """Write down what LMDB does not know of the log's end: its clock, versions that were taken and wasted, and that
        this is the end."""
        simulated, at = self.log.clock
        last = self.log.next_sequence - 1

        def act(tables: Tables) -> None:
            head, clock = tables.head(), tables.clock()
            if head.position < last:
                tables.put_head(head._replace(position=last))
            if clock.at < at and (clock.kind == SIMULATED) == simulated:
                tables.put_clock(clock._replace(at=at))
            row = tables.log_row()
            if row is not None:
                tables.put_log_row(row._replace(position=OVER))

        self.write(lambda txn: act(Tables(self, txn)))

    # -- numbers of leases

    def reserve_fences(self) -> None:
        """Let more leases be granted."""
        _, last = self.write(lambda txn: Tables(self, txn).reserve_fences())
        assert self.leases is not None
        self.leases.reserve(last)

    # -- large values

    def stage(self, value: bytes) -> bytes:
        """Bring a large value to disk, and return the id under which it waits to be moved into its record."""
        self.require_room(2 * len(value))  # it is moved by copying
        staged = os.urandom(8)
        self.write(lambda txn: txn.put(staged, value, db=self.databases[STAGED]), needs=len(value))
        return staged

    def unstage(self, staged: bytes) -> None:
        """Throw away a staged value that nothing refers to."""
        with suppress(NtmemError):  # else the next opener who is alone does
            self.write(lambda txn: txn.delete(staged, db=self.databases[STAGED]), deletes=True)
