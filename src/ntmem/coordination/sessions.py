"""Sessions: what somebody is in the middle of, under a name, to go on with in whichever process.

**Invariants** (``docs/design/sessions.md``)

- One holder at a time, and everything that is written to a session is written under its lease: what a holder that was
  late writes is refused.
- What a session is stands in the store alone: the next holder has every acknowledged write of the one before.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable
from contextlib import suppress
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Protocol, Self

from ..errors import (
    CoordinationError,
    LockLost,
    ReadOnlyError,
    StaleFence,
    StorageError,
    StoreClosed,
)
from ..instants import Duration, seconds_of
from ..namespace import encode_key, labels_of
from ..reasoningbank.ledger import Ledger
from ..reasoningbank.tracker import TrajectoryTracker
from ..records import Change, Fence
from ..tiers.engine import LmdbEngine
from ..tiers.guards import CURSORS, SESSION_DATA, SESSIONS
from ..tiers.log import LogEngine
from ..values import Codec
from .accounting import NOTHING, ProfitAndLoss, figures, of_one, since
from .locks import Lock
from .sessionkeys import BEFORE, LOCK, TASKS, check_name, cursor_of, stem_of
from .sessionlist import PLAIN, SessionInfo, holder_of, listed
from .sessionparts import SessionMapping, SessionMessages, SessionPositions, SessionTransaction
from .shared import SharedLocks
from .stream import Numbers
from .topics import pattern_of

if TYPE_CHECKING:
    from ..reasoningbank import Trajectory
    from ..tiers.positions import Positions


class Store(Protocol):
    """What a session asks of a store handle."""

    agent_id: str | None

    @property
    def positions(self) -> Positions: ...
    @property
    def locks(self) -> SharedLocks: ...
    @property
    def trajectories(self) -> TrajectoryTracker: ...
    def transaction(self, fence: Any = None) -> Any: ...


class _Hold:
    """Under which lease a session is held. Trajectories have this, not the session: who drops that drops its lock."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.fence: Fence | None = None

    def __call__(self) -> Fence:
        if self.fence is None:
            raise CoordinationError(
                f"session {self.name!r} is not held, so nothing is written to it; write within "
                f"'with memory.session({self.name!r}) as s:'"
            )
        return self.fence


class Session(SessionMapping):
    """What somebody is in the middle of, under a name. Made by :meth:`ntmem.MemorySystem.session`.

    As a context manager (``with`` or ``async with``) it is held: by one at a time, until the block ends or the process
    dies. It is a ``MutableMapping[str, object]``; whoever holds it next goes on where it stopped. Not held it can be
    read.

    Raises
    ------
    LockTimeout
        On entering: another has it, who is named.
    CoordinationError
        On writing: it is not held.
    StaleFence
        On writing: it was held, and is another's by now. Nothing of the change was kept.
    LockLost
        On leaving: the same.

    Notes
    -----
    **Thread safety**: whoever enters it holds it for all threads that use this object. **Complexity**: a write is one
    group of the log, some ten microseconds.

    Examples
    --------
    >>> import ntmem
    >>> memory = ntmem.open()
    >>> with memory.session("momentum-1") as s:
    ...     s["target"] = {"BTCUSDT": 3}
    ...     s.incr("orders")
    1
    >>> with memory.session("momentum-1") as s:
    ...     s["target"], s.incr("orders"), s.resumed
    ({'BTCUSDT': 3}, 2, 1)
    >>> memory.close()
    """

    def __init__(
        self,
        memory: Store,
        engine: Callable[[], LmdbEngine],
        numbers: Numbers,
        name: str,
        *,
        agent_id: str | None,
        account: str | None,
        strategy: str | None,
        timeout: Duration | None,
        ttl: Duration,
        codec: Codec,
        durable: bool,
    ) -> None:
        check_name(name)
        seconds_of(timeout)
        self.name = name
        self.codec = codec
        self.engine = engine
        self.numbers = numbers
        super().__init__(self, ())
        self._memory = memory
        self._agent_id = agent_id
        self._account = account
        self._strategy = strategy
        self._lock = Lock(memory.locks, LOCK + name, timeout=timeout, ttl=ttl, renew=True)
        self._timeout = timeout
        self._durable = durable
        self._hold = _Hold(name)
        self._open: weakref.WeakSet[SessionMessages] = weakref.WeakSet()
        self._kept: Ledger | None = None

    # -- holding it

    def __enter__(self) -> Self:
        self._check_can_hold()
        if not self._lock.acquire():
            raise self._timed_out()
        return self._begun()

    async def __aenter__(self) -> Self:
        self._check_can_hold()
        if not await self._lock.aacquire():
            raise self._timed_out()
        return self._begun()

    def __exit__(self, kind: type[BaseException] | None, *exc: object) -> None:
        if self._hold.fence is None:  # ended
            return
        try:
            self._leave()
        finally:
            self._lock.__exit__(kind, *exc)

    async def __aexit__(self, kind: type[BaseException] | None, *exc: object) -> None:
        self.__exit__(kind, *exc)

    def _check_can_hold(self) -> None:
        engine = self.engine()
        if engine.read_only:
            raise ReadOnlyError("this store was opened with read_only=True; open it for writing to enter a session")
        if not isinstance(engine, LogEngine):
            raise StorageError(
                f"a session is held by a lock, which this store does not have (engine={engine.name!r}); open it with "
                "engine='shared'"
            )
        if self._hold.fence is not None:
            raise RuntimeError(f"session {self.name!r} was entered already, through this object; make another one")

    def _timed_out(self) -> Exception:
        error = self._lock.timed_out()
        holder = holder_of(self._memory.locks, self.name)
        if holder is None or not holder.is_current:
            return error
        return type(error)(
            f"session {self.name!r} is held by process {holder.pid} ({holder.owner}), for {holder.held:.3f} s; wait "
            f"longer than {seconds_of(self._timeout) or 0:g} s, or let it leave"
        )

    def _begun(self) -> Self:
        fence = self._lock.fence
        assert fence is not None
        self._hold.fence = fence
        try:
            self._resume()
        except BaseException:
            self._hold.fence = None
            with suppress(LockLost):
                self._lock.release()
            raise
        return self

    def _resume(self) -> None:
        """Go on with what there is, or begin; one group."""
        said = self._said()
        if said is None:
            strategy = self.name if self._strategy is None else self._strategy
            account = self._account or ""
            before = figures(self.engine(), account, strategy)
            said = {"account": account, "strategy": strategy, "started": self.engine().now(), "resumed": 0}
            value = PLAIN.encode([(key, *each) for key, each in before.items() if each[:3] != NOTHING[:3]])
            changes = [*self._removed(), Change("put", SESSION_DATA, stem_of(self.name, BEFORE), value)]
        else:
            for name, given in (("account", self._account), ("strategy", self._strategy)):
                if given is not None and given != said[name]:
                    raise ValueError(
                        f"session {self.name!r} was started with {name} {said[name]!r}, not {given!r}; leave it out, "
                        "take another name, or end() the session first"
                    )
            said["resumed"] += 1
            changes = [
                Change("delete", SESSION_DATA, stem_of(self.name, TASKS) + name.encode())
                for name in self._tasks()
                if (found := self._memory.trajectories.get(name)) is None or found.status != "open"
            ]
        said["agent"] = self._agent_id or self._memory.agent_id or said.get("agent") or self.name
        self.write([*changes, self._header(said, is_left=False)])

    def _leave(self) -> None:
        """Keep what there is, and write nothing any more."""
        for each in list(self._open):
            each.close()
        try:
            with suppress(StaleFence, StoreClosed):  # giving the lock back says so
                said = self._said()
                if said is not None:
                    self.write([self._header(said, is_left=True)])
        finally:
            self._hold.fence = None

    def end(self) -> None:
        """End it for good: all that it holds is deleted, cursors too, or nothing is. Fills and trajectories stay.

        Within the block, of which nothing can be written after that.
        """
        self.held_fence()
        for each in list(self._open):
            each.close()
        self.write([*self._removed(), Change("delete", SESSIONS, self.name.encode())])
        self._lock.release()
        self._hold.fence = None

    def _removed(self) -> list[Change]:
        engine = self.engine()
        spaces = ((SESSION_DATA, stem_of(self.name, "")), (CURSORS, cursor_of(self.name, "").encode()))
        return [
            Change("delete", space, key.encode())
            for space, stem in spaces
            for key, _ in engine.scan(space, stem, stem, None)
        ]

    # -- writing

    def held_fence(self) -> Fence:
        """Return the fence under which everything is written; raise :class:`CoordinationError` if it is not held."""
        return self._hold()

    @property
    def fence(self) -> Fence | None:
        """What ``fence=`` of a write takes, as does the session itself; None: it is not held."""
        return self._hold.fence

    @property
    def _session(self) -> Session:
        return self

    @property
    def lock(self) -> Lock:
        """The lock by which it is held: ``s.lock.remaining()``, ``s.lock.lost``."""
        return self._lock

    def write(self, changes: Iterable[Change]) -> list[int]:
        """Commit changes of the session's own, all or none; return their versions. Called by its parts."""
        fence = self.held_fence()
        group = [Change(it.kind, it.namespace, it.key, it.value, if_version=it.if_version, own=True) for it in changes]
        return [outcome.version for outcome in self.engine().commit(group, self._durable, fence)] if group else []

    def transaction(self) -> SessionTransaction:
        """Return a context whose changes, of the session and of the store, are committed together under its fence.

        Examples
        --------
        >>> import ntmem
        >>> with ntmem.open() as memory, memory.session("momentum-1") as s:
        ...     with s.transaction() as t:
        ...         t["state"] = "long"
        ...         t.apply_fill("BTCUSDT", 2, 100, side="buy", trade_id="t1")
        ...     s["state"], s.positions.quantity("BTCUSDT")
        ('long', 2.0)
        """
        return SessionTransaction(self, self._memory.transaction(self.held_fence()))

    def namespace(self, *labels: str) -> SessionMapping:
        """Return a mapping of its own below the session: ``s.namespace("quotes")``; a single str is split at ``/``."""
        return SessionMapping(self, labels_of(labels[0] if len(labels) == 1 else labels))

    # -- messages

    def subscribe(
        self, pattern: str | tuple[str, ...], *, name: str | None = None, since: int | None = None
    ) -> SessionMessages:
        """Follow the durable messages of topics behind what this session has acknowledged, the first time all of them.

        Parameters
        ----------
        pattern : str or tuple of str
            As of :meth:`ntmem.MemorySystem.subscribe`.
        name : str, optional
            By which the session knows the subscription; by default the pattern.
        since : int, optional
            Begin behind this number instead.
        """
        self.held_fence()
        encoded = pattern_of(pattern)
        cursor = encoded.decode().replace("\0", "/") if name is None else name
        if "\0" in encode_key(cursor).decode():
            raise ValueError(f"the name of a subscription holds no NUL, was {cursor!r}")
        made = SessionMessages(self, encoded, cursor, since)
        self._open.add(made)
        return made

    # -- trajectories

    def begin(self, task: str = "") -> Trajectory:
        """Begin a trajectory, which the session remembers as long as it is open; its steps are written under the fence.

        As :meth:`ntmem.reasoningbank.ReasoningBank.begin`; what comes of it may be told by anybody (``bank.resolve``).
        """
        from ..reasoningbank.events import new_id
        from ..reasoningbank.trajectory import Trajectory

        made = Trajectory(self.agent_id, task)
        name = new_id(self.engine().now())
        self.write([Change("put", SESSION_DATA, stem_of(self.name, TASKS) + name.encode())])
        made.track(self._ledger(), name)
        return made

    def open_trajectories(self) -> list[Trajectory]:
        """Return the trajectories it has begun that are not complete, the oldest first.

        They can be added to while the session is held; not held they are as they were seen now.
        """
        from ..reasoningbank.state import State
        from ..reasoningbank.trajectory import Trajectory

        found: list[Trajectory | None] = []
        now = None if self._hold.fence is not None else self.engine().now()
        for name in self._tasks():
            if now is not None:
                found.append(self._memory.trajectories.get(name, as_of=now))
                continue
            state = State()
            self._ledger().refresh(name, state)
            found.append(Trajectory.of(name, state, self._ledger(), None) if state.steps else None)
        return [each for each in found if each is not None and each.status == "open"]

    def _tasks(self) -> list[str]:
        stem = stem_of(self.name, TASKS)
        rows = self.engine().scan(SESSION_DATA, stem, stem, None)
        return [key.encode()[len(stem) :].decode() for key, _ in rows]

    def _ledger(self) -> Ledger:
        if self._kept is None:
            ledger = self._memory.trajectories.ledger
            self._kept = Ledger(ledger.engine, ledger.vectors, durable=ledger.durable, fence=self._hold)
        return self._kept

    # -- positions

    @property
    def positions(self) -> SessionPositions:
        """The position book, bound to the session's account and strategy; fills are booked under its fence."""
        return SessionPositions(self, self._memory.positions)

    def pnl(self) -> dict[str, ProfitAndLoss]:
        """Return by currency what was realised, paid and received since the session was started. O(positions).

        Of all positions under its account and strategy, whoever booked their fills.
        """
        kept = self.engine().get(SESSION_DATA, stem_of(self.name, BEFORE))
        rows = [] if kept is None else PLAIN.decode(kept)
        before = {tuple(key): ProfitAndLoss(*each) for key, *each in rows}
        if self._said() is None:
            return {}
        return since(figures(self.engine(), self.account, self.strategy), before)

    def _all(self) -> ProfitAndLoss:
        return of_one(self.pnl(), f"session {self.name!r}")

    @property
    def realized_pnl(self) -> float:
        """What was closed since the session was started brought, at average cost, without fees and funding."""
        return float(self.realized_pnl_decimal)

    @property
    def realized_pnl_decimal(self) -> Decimal:
        """The same, exactly."""
        return self._all().realized_pnl

    @property
    def net_pnl(self) -> float:
        """Realised P&L, less fees, plus funding."""
        return float(self.net_pnl_decimal)

    @property
    def net_pnl_decimal(self) -> Decimal:
        """The same, exactly."""
        return self._all().net

    # -- what it is

    def _said(self) -> dict[str, Any] | None:
        data = self.engine().get(SESSIONS, self.name.encode())
        said: dict[str, Any] | None = None if data is None else PLAIN.decode(data)
        return said

    def _header(self, said: dict[str, Any], *, is_left: bool) -> Change:
        return Change("put", SESSIONS, self.name.encode(), PLAIN.encode({**said, "left": is_left}))

    def _fact(self, name: str) -> Any:
        said = self._said()
        return None if said is None else said[name]

    @property
    def agent_id(self) -> str:
        """Whose it is: as given, or as of the store handle that entered it last, or its name."""
        return self._fact("agent") or self._agent_id or self._memory.agent_id or self.name

    @property
    def account(self) -> str:
        """Under which it trades."""
        said: str | None = self._fact("account")
        return (self._account or "") if said is None else said

    @property
    def strategy(self) -> str:
        """Under which it trades; by default its name."""
        said: str | None = self._fact("strategy")
        return (self.name if self._strategy is None else self._strategy) if said is None else said

    @property
    def started(self) -> int | None:
        """When it was entered first, by the store's clock, ns UTC; None: never, or it was ended."""
        found: int | None = self._fact("started")
        return found

    @property
    def resumed(self) -> int:
        """How often it was entered again."""
        return self._fact("resumed") or 0

    @property
    def last_seen(self) -> int | None:
        """When it was written to last, be it on entering or leaving, by the store's clock, ns UTC. O(keys)."""
        found = listed(self.engine(), self._memory.locks, self.name)
        return found[0].last_seen if found else None

    def info(self) -> SessionInfo | None:
        """Return what is known of it; None: it was never entered, or was ended. O(keys)."""
        found = listed(self.engine(), self._memory.locks, self.name)
        return found[0] if found else None

    def __reduce__(self) -> tuple[Any, ...]:
        raise TypeError("a session cannot be pickled; pass its name and the store, and enter it there")

    def __repr__(self) -> str:
        return f"<Session {self.name!r}{' held' if self._hold.fence is not None else ''}>"
