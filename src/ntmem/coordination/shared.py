"""Locks between all threads and processes that have a store open: the leases in its shared memory."""

from __future__ import annotations

import builtins
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from .._core.leases import Lease, LeasesFull, LeaseTable, NumbersUsedUp
from .._core.log import LogDamaged, LogShut, WriterStalled
from ..errors import CoordinationError, CorruptionError, LockTimeout, ReadOnlyError, StoreClosed
from ..instants import Duration, duration_ns
from ..records import Fence
from ..tiers.engine import LmdbEngine
from ..tiers.log import LogEngine
from ..tiers.shared import SharedStore
from .protocols import LockInfo
from .tokens import RESERVED, encode_resource, fence_of_token, is_possible

_SECOND = 1_000_000_000
_PAUSES = (0.0, 0.001, 0.001, 0.001, 0.002)
_PAUSE = 0.004  # of who waits in an event loop; who does not look for 20 ms is passed over


class SharedLocks:
    """The locks of a store: who holds what, until when. ``memory.locks``.

    A lock is a **lease**: it ends by itself after its time, so that nobody waits for ever for who is stuck, and it is
    taken from a process that died. Each has a number that is higher than all before, the **fence**: what is written
    with ``fence=`` is refused once the lease is over.

    Notes
    -----
    **Thread safety**: any thread, of any process that has the store open. **Complexity**: O(1), under a microsecond if
    nobody else wants it; :meth:`list` O(locks).
    """

    def __init__(self, engine: Callable[[], LmdbEngine], owner: bytes) -> None:
        self._engine = engine
        self._owner = owner
        self._known: tuple[LmdbEngine | None, LeaseTable | None] = None, None

    def _table(self) -> LeaseTable:
        engine = self._engine()
        known, table = self._known
        if engine is known and table is not None:
            return table
        table = self._table_of(engine)
        self._known = engine, table
        return table

    @staticmethod
    def _table_of(engine: LmdbEngine) -> LeaseTable:
        if engine.read_only:
            raise ReadOnlyError("this store was opened with read_only=True; open it for writing to lock something")
        if isinstance(engine, LogEngine) and engine.leases is not None:
            return engine.leases
        raise CoordinationError(
            f"locks are in shared memory, which this store does not have (engine={engine.name!r}); open it with "
            "engine='shared'"
        )

    def _seen(self) -> LeaseTable | None:
        """The table for who only looks: a reader without a region sees that nothing is locked."""
        engine = self._engine()
        engine.check_process()
        return engine.leases if isinstance(engine, LogEngine) else None

    # -- what a Lock is made of

    def grant(self, resource: str, ttl: int, timeout: float | None) -> Lease | None:
        """Return a lease; see :class:`~ntmem.coordination.protocols.LockManager`."""
        name = encode_resource(resource)
        try:
            return self._table().acquire(name, self._owner, ttl, -1.0 if timeout is None else timeout)
        except RuntimeError:  # there is something to be done first, or to be explained
            return self.grant_named(name, ttl, timeout)
        except (LogDamaged, LogShut, WriterStalled) as error:
            raise _translated(error) from error

    def grant_named(self, name: bytes, ttl: int, timeout: float | None) -> Lease | None:
        """Do :meth:`grant` with a name that was checked, or is no user's."""
        table = self._table()
        self._engine().check_process()
        while True:
            try:
                return table.acquire(name, self._owner, ttl, -1.0 if timeout is None else timeout)
            except NumbersUsedUp:
                self._reserve()
            except (LeasesFull, LogDamaged, LogShut, WriterStalled) as error:
                raise _translated(error) from error

    async def agrant(self, resource: str, ttl: int, timeout: float | None) -> Lease | None:
        """Return a lease; see :class:`~ntmem.coordination.protocols.LockManager`."""
        import asyncio

        until = None if timeout is None else time.monotonic() + timeout
        pauses: Iterator[float] = iter(_PAUSES)
        place = self._table().queue(encode_resource(resource), self._owner)
        try:
            while True:
                try:
                    with _errors():
                        lease = place.look(ttl)
                except _Reserve:
                    await asyncio.to_thread(self._reserve)
                    continue
                if lease is not None or (until is not None and time.monotonic() >= until):
                    return lease
                await asyncio.sleep(next(pauses, _PAUSE))
                self._engine()  # it may have been closed
        finally:
            place.leave()

    def _reserve(self) -> None:
        store = self._engine().store
        assert isinstance(store, SharedStore)
        store.reserve_fences()

    # -- by token

    def release(self, token: str | Fence) -> bool:
        """End the lease of a token; return whether it was current. A stale token ends nothing."""
        fence, table = fence_of_token(token), self._table()
        self._engine().check_process()
        with _errors():
            return is_possible(fence) and table.release(encode_resource(fence.resource), fence.number)

    def renew(self, token: str | Fence, ttl: Duration) -> bool:
        """Let the lease of a token end `ttl` seconds from now; return whether it was current."""
        fence, table, ns = fence_of_token(token), self._table(), duration_ns(ttl, "ttl")
        self._engine().check_process()
        with _errors():
            return is_possible(fence) and table.renew(encode_resource(fence.resource), fence.number, ns)

    def is_current(self, token: str | Fence) -> bool:
        """Whether the lease of a token is current: what is written under it now would be accepted."""
        fence, table = fence_of_token(token), self._seen()
        if table is None or not is_possible(fence):
            return False
        claim = table.claim(encode_resource(fence.resource, reserved=True), fence.number)
        return claim is not None and claim.is_current

    # -- looking

    def is_locked(self, resource: str) -> bool:
        """Whether somebody holds a lock: its time has not passed and its process lives."""
        return any(info.is_current for info, _ in self.rows(encode_resource(resource)))

    def list(self, resource: str | None = None) -> builtins.list[LockInfo]:
        """Return the locks that are held or waited for (or that of one resource), by name.

        One whose time has passed is on the list until another takes it.
        """
        return [info for info, name in self.rows(None if resource is None else encode_resource(resource)) if name]

    def rows(self, name: bytes | None = None) -> builtins.list[tuple[LockInfo, bool]]:
        """Return all leases, and whether each is a lock of a user's."""
        table = self._seen()
        if table is None:
            return []
        with _errors():
            rows = sorted(table.list(name))
        return [(lock_info(*row), not row[0].startswith(RESERVED.encode())) for row in rows]


def lock_info(
    name: bytes,
    owner: bytes,
    number: int,
    pid: int,
    alive: bool,
    left: int,
    held: int,
    waiting: int,
    grants: int,
    waits: int,
    waited: int,
    longest: int,
) -> LockInfo:
    resource = name.decode()
    return LockInfo(
        resource,
        Fence(resource, number) if number else None,
        owner.decode(errors="ignore"),
        pid,
        bool(number and left and alive),
        alive,
        left / _SECOND if number else 0.0,
        held / _SECOND,
        waiting,
        grants,
        waits,
        waited / _SECOND,
        longest / _SECOND,
    )


class _Reserve(Exception):
    """All reserved numbers are used up."""


@contextmanager
def _errors() -> Iterator[None]:
    try:
        yield
    except NumbersUsedUp as error:
        raise _Reserve from error
    except (LeasesFull, LogDamaged, LogShut, WriterStalled) as error:
        raise _translated(error) from error


def _translated(error: Exception) -> Exception:
    if isinstance(error, LeasesFull):
        return CoordinationError(f"{error}; give some back")
    if isinstance(error, WriterStalled):
        return LockTimeout(
            f"process {error.pid or 'unknown'} is stopped or starved in the middle of a change, which has to end "
            "before the lock can be granted; continue or end it"
        )
    if isinstance(error, LogShut):
        return StoreClosed("the store is closed; open it again")
    return CorruptionError(f"{error}; close the store in every process and open it again")
