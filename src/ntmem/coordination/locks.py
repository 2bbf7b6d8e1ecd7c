"""A lock as Python knows them, over the leases of a :class:`~ntmem.coordination.protocols.LockManager`.

**Invariants**

- A lock gives back the lease that it was granted, and no other: who was late does not release the next holder's.
- A lock that is left after it was lost raises, unless the block has raised already.
"""

from __future__ import annotations

import heapq
import os
import sys
import threading
import time
import weakref
from collections.abc import Callable
from typing import Any, Self, TypeVar

from ..errors import CorruptionError, LockLost, LockTimeout, StoreClosed
from ..instants import NS, Duration, duration_ns, require_bool, seconds_of
from ..records import Fence
from ..tiers.events import log
from .protocols import Grant, LockManager
from .tokens import LockToken, encode_resource

T = TypeVar("T")

_BEATS = 3  # so often in its time a lease is renewed


class Lock:
    """A lock on `resource`, between all threads and processes of a store. Made by :meth:`ntmem.MemorySystem.lock`.

    It has the methods of :class:`threading.Lock`; reentrant, those of :class:`threading.RLock`. Use ``with lock:`` or
    ``async with lock:``; both raise :class:`ntmem.LockTimeout` if it is not granted in `timeout`, and
    :class:`ntmem.LockLost` when it is left after its time has passed.

    A **fence protects writes to the store, and nothing else**: a call to a broker that is under way when the lease ends
    is not called back. Look at :meth:`remaining` before such a call, bound its duration, and give orders client ids.

    Notes
    -----
    **Thread safety**: any thread; each acquires for itself. As of a :class:`threading.Lock`, any may release what
    another has acquired through the same object; who does so for one that was late ends the lease of whoever has it
    then. An interrupt (Ctrl-C) between the grant and the next line leaves a lease that ends when its time has passed.
    """

    def __init__(
        self,
        locks: LockManager,
        resource: str,
        *,
        timeout: Duration | None = None,
        ttl: Duration = 30.0,
        reentrant: bool = False,
        renew: bool = False,
    ) -> None:
        encode_resource(resource)
        require_bool(reentrant, "reentrant")
        require_bool(renew, "renew")
        self.resource = resource
        self._locks = locks
        self._ttl = duration_ns(ttl, "ttl")
        self._timeout = seconds_of(timeout)
        self._reentrant = reentrant
        self._renew = renew
        self._grant: Grant | None = None  # of who acquired it last through this object
        self._owner: object = None
        self._depth = 0
        self._displaced: dict[object, Grant] = {}  # of who lost it to another through this object, and does not know
        self._fence: tuple[Grant | None, Fence | None] = None, None  # the one that was asked for last

    # -- getting it

    def acquire(self, blocking: bool = True, timeout: Duration | None = None) -> bool:
        """Acquire it; return whether it was granted.

        Parameters
        ----------
        blocking : bool
            False: only if it can be had at once.
        timeout : float or timedelta, optional
            Seconds to wait, -1: for ever; by default the lock's own.

        Raises
        ------
        LockLost
            It is reentrant and held by this thread, and its time has passed.
        LockTimeout
            A process is stopped in the middle of a write under the lease before; it has to be continued or ended first.
        """
        seconds = self._timeout if blocking is True and timeout is None else self._wait_of(blocking, timeout)
        if self._reentrant and self._again():
            return True
        grant = self._locks.grant(self.resource, self._ttl, seconds)
        if grant is None:
            return False
        self._took(grant)
        return True

    async def aacquire(self, timeout: Duration | None = None) -> bool:
        """Do :meth:`acquire` without holding up the event loop: it looks every 4 ms whether it is granted."""
        seconds = self._wait_of(True, timeout)
        if self._reentrant and self._again():
            return True
        grant = await self._locks.agrant(self.resource, self._ttl, seconds)
        if grant is None:
            return False
        self._took(grant)
        return True

    def _wait_of(self, blocking: bool, timeout: Duration | None) -> float | None:
        if not blocking:
            if timeout is not None and timeout != -1:
                raise ValueError("can't specify a timeout for a non-blocking call")
            return 0.0
        if timeout is None:
            return self._timeout
        return None if timeout == -1 else seconds_of(timeout)

    def _again(self) -> bool:
        if self._grant is None or self._owner != _me():
            return False
        if not self._grant.is_current:
            raise self._lost(self._grant)
        self._depth += 1
        return True

    def _took(self, grant: Grant) -> None:
        me = _me()
        if self._displaced:
            self._displaced.pop(me, None)  # who acquires it again knows that what it had was lost
        if self._grant is not None and self._owner != me:
            self._displaced[self._owner] = self._grant
        self._grant, self._owner, self._depth = grant, me, 1
        if self._renew:
            try:
                _renewals.add(self, grant, self._ttl)
            except BaseException:  # no thread could be started
                self._give_back(grant)
                raise

    # -- giving it back

    def release(self) -> None:
        """Give it back.

        Raises
        ------
        RuntimeError
            It is not held; or it is reentrant and held by another thread.
        LockLost
            Its time had passed: another may have had it meanwhile.
        """
        grant = self._grant
        if self._displaced and (mine := self._displaced.get(_me())) is not None:
            self._give_back(mine)
            return
        if grant is None:
            raise RuntimeError("release unlocked lock")
        if self._reentrant:
            if self._owner != _me():
                raise RuntimeError("cannot release un-acquired lock")
            self._depth -= 1
            if self._depth:
                return
        self._give_back(grant)

    def _give_back(self, grant: Grant) -> None:
        current = asked(grant.release)  # before it is forgotten: if this cannot be done, it can be tried again
        if self._grant is grant:  # else it was lost, and this object's by another thread since
            self._grant = self._owner = None
        for owner, displaced in [*self._displaced.items()]:
            if displaced is grant:
                self._displaced.pop(owner, None)
        if not current:
            raise self._lost(grant)

    def _lost(self, grant: Grant) -> LockLost:
        log.warning("the lock of %r (fence %d) was lost", self.resource, grant.number)
        return LockLost(
            f"the lock of {self.resource!r} (fence {grant.number}) was lost: its {self._ttl / NS:g} s had passed, it "
            "was given back by its token, or the store was closed; what was written under its fence in time is there, "
            "anything else done under it may have met another holder"
        )

    # -- with

    def __enter__(self) -> Self:
        if not self.acquire():
            raise self.timed_out()
        return self

    async def __aenter__(self) -> Self:
        if not await self.aacquire():
            raise self.timed_out()
        return self

    def __exit__(self, kind: type[BaseException] | None, *exc: object) -> None:
        try:
            self.release()
        except (LockLost, RuntimeError):
            if kind is None:  # else there is an error on its way that says more
                raise

    async def __aexit__(self, kind: type[BaseException] | None, *exc: object) -> None:
        self.__exit__(kind, *exc)

    def timed_out(self) -> LockTimeout:
        """Return the error of who was not granted it in time."""
        return LockTimeout(f"the lock of {self.resource!r} was not granted in {self._timeout or 0:g} s")

    # -- what it is

    @property
    def fence(self) -> Fence | None:
        """What ``fence=`` of a write takes, as does the lock itself; None: it is not held through this object."""
        grant = self._mine()
        if grant is None:
            return None
        named, fence = self._fence
        if named is not grant:
            fence = Fence(self.resource, grant.number)
            self._fence = grant, fence
        return fence

    @property
    def token(self) -> LockToken | None:
        """By which :meth:`ntmem.MemorySystem.release_lock` gives it back, in any process; None: it is not held."""
        fence = self.fence
        return None if fence is None else LockToken(fence)

    @property
    def lost(self) -> bool:
        """Whether it was acquired, and its time has passed before it was given back."""
        grant = self._mine()
        return grant is not None and not asked(lambda: grant.is_current)

    def remaining(self) -> float:
        """Return the seconds until it is over; 0.0: it is, or it is not held through this object."""
        grant = self._mine()
        return 0.0 if grant is None else asked(grant.remaining)

    def renew(self, ttl: Duration | None = None) -> None:
        """Let it end `ttl` seconds from now, by default its own; raise :class:`LockLost` if it is over."""
        grant = self._mine()
        if grant is None:
            raise RuntimeError("renew of a lock that is not held")
        ns = self._ttl if ttl is None else duration_ns(ttl, "ttl")
        if not asked(lambda: grant.renew(ns)):
            raise self._lost(grant)

    def locked(self) -> bool:
        """Whether anybody holds it, in any process."""
        return self._locks.is_locked(self.resource)

    def _mine(self) -> Grant | None:
        return (self._displaced.get(_me()) if self._displaced else None) or self._grant

    def __repr__(self) -> str:
        try:
            state = "locked" if self.locked() else "unlocked"
        except StoreClosed:
            state = "closed"
        return f"<{state} ntmem.Lock of {self.resource!r} object at {id(self):#x}>"

    # -- as threading.RLock, for Condition

    def _is_owned(self) -> bool:
        return self._grant is not None and (not self._reentrant or self._owner == _me())

    def _recursion_count(self) -> int:
        return self._depth if self._is_owned() else 0

    def _release_save(self) -> tuple[int, Any]:
        if not self._is_owned():
            raise RuntimeError("cannot release un-acquired lock")
        depth, self._depth = self._depth, 1
        owner = self._owner
        self.release()
        return depth, owner

    def _acquire_restore(self, state: tuple[int, Any]) -> None:
        self.acquire(timeout=-1)
        self._depth, self._owner = state


def asked(action: Callable[[], T]) -> T:
    """Ask a grant something, and raise what is to be raised of it."""
    try:
        return action()
    except TimeoutError as error:
        raise LockTimeout(f"the table of locks was not to be had: {error}; try again") from error
    except RuntimeError as error:  # in a child of the process that acquired it
        raise StoreClosed(str(error)) from error
    except ValueError as error:
        raise CorruptionError(str(error)) from error


def _me() -> object:
    """Who is running: the task of an event loop, or the thread."""
    asyncio = sys.modules.get("asyncio")  # who has not imported it runs no event loop, and need not pay for it
    if asyncio is not None and (loop := asyncio._get_running_loop()) is not None:
        return asyncio.current_task(loop) or threading.get_ident()
    return threading.get_ident()


class _Renewals:
    """A thread that renews leases while their locks are held."""

    def __init__(self) -> None:
        self._due: list[tuple[float, int, Any, Grant, int]] = []
        self._count = 0
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None

    def add(self, lock: Lock, grant: Grant, ttl: int) -> None:
        with self._changed:
            self._push(weakref.ref(lock), grant, ttl)
            if self._thread is None or not self._thread.is_alive():
                self._thread = threading.Thread(target=self._run, name="ntmem-renewals", daemon=True)
                self._thread.start()
            self._changed.notify()

    def _push(self, lock: Any, grant: Grant, ttl: int) -> None:
        self._count += 1
        heapq.heappush(self._due, (time.monotonic() + ttl / NS / _BEATS, self._count, lock, grant, ttl))

    def _run(self) -> None:
        while True:
            with self._changed:
                while not self._due or self._due[0][0] > time.monotonic():
                    if (
                        not self._changed.wait(self._due[0][0] - time.monotonic() if self._due else 10.0)
                        and not self._due
                    ):
                        self._thread = None
                        return
                _, _, lock, grant, ttl = heapq.heappop(self._due)
            held = lock()
            if held is None or held._grant is not grant:
                continue  # given back, or nobody has it in hand any more: then it ends by itself
            resource = held.resource
            del held
            try:
                renewed = grant.renew(ttl)
            except Exception:  # the store was closed, or this is not the moment: the lease tells its holder
                renewed = grant.is_current
            if renewed:
                with self._changed:
                    self._push(lock, grant, ttl)
            else:
                log.warning("the lock of %r (fence %d) could not be renewed: it was lost", resource, grant.number)


_renewals = _Renewals()
os.register_at_fork(after_in_child=_renewals.__init__)  # type: ignore[misc]
