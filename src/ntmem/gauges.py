"""What a store and all its processes are doing, at one moment: for ``ntmem top``, for metrics, for who watches.

Everything is read from shared memory and from ``/proc``; the data file is not opened.

**Invariants**

1. Who only watches is no user of the store: it keeps nobody from leaving it, and no region from being removed.
2. Looking changes nothing. It waits at most a second, for who is in the middle of granting a lock.
"""

from __future__ import annotations

import os
import time
from glob import escape, glob
from typing import Literal, NamedTuple

from msgspec import Struct

from ._core import positions
from ._core.flusher import trouble_text
from ._core.hot import HotTable
from ._core.leases import LeaseTable
from ._core.log import Log, LogDamaged, WriterStalled
from ._core.meters import Meters
from ._core.region import Region, RegionDamaged, RegionMismatch
from ._core.ring import Ring, RingDamaged
from .coordination.protocols import LockInfo
from .coordination.shared import lock_info
from .coordination.tokens import RESERVED
from .tiers.datafile import DATA_FILE
from .tiers.doctor import Process, RegionReport, survey
from .tiers.engine import LmdbEngine
from .tiers.log import LogEngine
from .tiers.operations import Operation, operations_of
from .tiers.region import hot_table

AgentStatus = Literal["alive", "silent", "dead"]

_AGENT = RESERVED + "agent:"
_UNREADABLE = (RegionDamaged, RegionMismatch, LogDamaged, RingDamaged, OSError, ValueError)


class MemoryUse(NamedTuple):
    """Bytes that a part of a store's shared memory takes, and may take; 0: there is no limit of its own."""

    used: int
    limit: int


class AgentGauge(NamedTuple):
    """An agent: whether it lives, and the seconds in which its heart has to beat again."""

    agent_id: str
    pid: int
    status: AgentStatus
    remaining: float


class Gauges(Struct, frozen=True, kw_only=True):
    """What one look at a store has found.

    Attributes
    ----------
    at : float
        When, by ``time.monotonic()``.
    directory : str or None
        Of the store; None: it is private.
    state : str
        ``in use``, or why there are no figures: ``none`` (nobody has the store open through shared memory), ``left
        behind``, ``stale``, ``damaged``, ``foreign`` (see ``ntmem doctor``).
    region : str or None
        What tells the shared memory from that of an earlier opening: figures begin at 0 with each.
    operations : dict of str to Operation
        By name; see ``docs/guide/operations.md``.
    reads : dict of str to int
        Gets by who answered: ``hot``, ``log``, ``disk``, ``absent`` (no such key), ``left`` (answered by Python).
    evictions : dict of str to int
        Of the hot tier, by cause.
    memory : dict of str to MemoryUse
        Parts of shared memory: ``hot``, ``log`` (used: what is not on disk), ``bus``, ``vectors``.
    flush_lag : float
        Seconds of acknowledged changes that are not on disk,
    unflushed : int
        and their bytes.
    leader : int
        Process that brings changes to disk; 0: none.
    attached : tuple of Process
        That have the store open.
    locks : tuple of LockInfo
        That are held or waited for.
    agents : tuple of AgentGauge
    lock_counts : dict of str to int
        Leases that were granted, waited for, taken from the dead or late; and are held.
    messages : int
        That were published.
    positions, open_positions : int
        That the book has, and that are not flat.
    file_bytes : int
        Of the data file.
    problems : tuple of str
        What is wrong.
    """

    at: float
    directory: str | None
    state: str = "none"
    region: str | None = None
    operations: dict[str, Operation] = {}
    reads: dict[str, int] = {}
    evictions: dict[str, int] = {}
    memory: dict[str, MemoryUse] = {}
    flush_lag: float = 0.0
    unflushed: int = 0
    leader: int = 0
    attached: tuple[Process, ...] = ()
    locks: tuple[LockInfo, ...] = ()
    agents: tuple[AgentGauge, ...] = ()
    lock_counts: dict[str, int] = {}
    messages: int = 0
    positions: int = 0
    open_positions: int = 0
    file_bytes: int = 0
    problems: tuple[str, ...] = ()


def gauges_of(engine: LmdbEngine) -> Gauges:
    """Return what a store that this process has open is doing."""
    engine.look()
    store = engine.store
    reports = [] if store.directory is None else survey([store.directory])
    report = reports[0] if reports else RegionReport(path=None, state="none")
    if not isinstance(engine, LogEngine):
        return _outside(store.directory, report, engine.operations())
    shared = _Shared(engine.log, engine.store.hot, engine.leases, store.meters)
    return _inside(store.directory, report, shared, beside=(os.getpid(),))


class GaugeReader:
    """Looks at a store that others have open, again and again, whoever comes and goes meanwhile.

    Parameters
    ----------
    directory : path
        Of a store; that it is one is seen when it is read.

    Notes
    -----
    **Thread safety**: one thread at a time. **Complexity**: O(locks, counters, open files of this user's processes).

    Examples
    --------
    >>> import tempfile
    >>> import ntmem
    >>> with tempfile.TemporaryDirectory() as directory, ntmem.open(directory) as memory:
    ...     version = memory.put("desk", "target", b"3")
    ...     GaugeReader(directory).read().operations["put"].calls
    1
    """

    def __init__(self, directory: str | os.PathLike[str]) -> None:
        self.directory = os.path.abspath(directory)
        self._shared: _Shared | None = None
        self._file: tuple[int, int] | None = None  # of the region that is mapped

    def read(self) -> Gauges:
        """Look now.

        Raises
        ------
        StorageError
            There is no store in the directory.
        """
        (report,) = survey([self.directory])
        shared = self._map(report)
        if shared is None:
            return _outside(self.directory, report, {})
        return _inside(self.directory, report, shared)

    def close(self) -> None:
        """Let go of the memory; the next look maps it again."""
        self._shared = self._file = None

    def _map(self, report: RegionReport) -> _Shared | None:
        try:
            if report.path is None or report.state != "in use":
                self.close()
                return None
            stat = os.stat(report.path)
            if self._shared is None or self._file != (stat.st_dev, stat.st_ino):
                self.close()
                self._shared, self._file = _Shared.mapped(report.path), (stat.st_dev, stat.st_ino)
        except _UNREADABLE:  # it has just gone, or the next look says what is wrong with it
            self.close()
        return self._shared


class _Shared(NamedTuple):
    """What is read of a region."""

    log: Log
    hot: HotTable | None
    leases: LeaseTable | None
    meters: Meters

    @classmethod
    def mapped(cls, path: str) -> _Shared:
        try:
            Region.attach(path, identity=b"not any")
            raise AssertionError("a region that belongs to nothing")
        except RegionMismatch as sound:
            identity = sound.found
        log = Log(Region.attach(path, identity=identity))
        return cls(log, hot_table(log), LeaseTable(log), Meters(log.region))


def _outside(directory: str | None, report: RegionReport, operations: dict[str, Operation]) -> Gauges:
    return Gauges(
        at=time.monotonic(),
        directory=directory,
        state=report.state,
        operations=operations,
        flush_lag=report.lag,
        unflushed=report.unflushed or 0,
        attached=tuple(report.attached),
        file_bytes=_size(directory),
        problems=tuple(report.problems),
    )


def _inside(directory: str | None, report: RegionReport, shared: _Shared, beside: tuple[int, ...] = ()) -> Gauges:
    log, hot, leases = shared.log, shared.hot, shared.leases
    problems = list(report.problems)
    if directory is None and log.trouble is not None:  # else the report says so
        problems.append(trouble_text(*log.trouble))
    rows = []
    if leases is not None:
        try:
            rows = sorted(leases.list())
        except (WriterStalled, LogDamaged) as error:
            problems.append(f"locks cannot be looked at: {error}")
    infos = [lock_info(*row) for row in rows]
    ring, messages = None, 0
    try:
        ring = Ring(log.region)
        messages = ring.last + 1 - ring.first
    except _UNREADABLE as error:
        problems.append(f"messages cannot be looked at: {error}")
    seen, is_open = positions.count(log)
    counts = {} if hot is None else hot.counts()
    known = {process.pid for process in report.attached}
    own = tuple(Process(pid, "this process", False) for pid in beside if pid not in known)
    flushed = log.flushed  # before what it cannot be above
    unflushed = max(log.committed - flushed, 0)
    return Gauges(
        at=time.monotonic(),
        directory=directory,
        state="in use",
        region=log.region.identity[-16:].hex(),
        operations=operations_of(shared.meters, hot),
        reads={name: counts[name] for name in ("hot", "log", "disk", "absent", "left") if counts},
        evictions={} if hot is None else hot.evictions(),
        memory=_memory(log, hot, ring, unflushed),
        flush_lag=log.lag,
        unflushed=unflushed,
        leader=log.leader,
        attached=(*report.attached, *own),
        locks=tuple(info for info in infos if not info.resource.startswith(RESERVED)),
        agents=tuple(_agent(info) for info in infos if info.resource.startswith(_AGENT) and info.fence is not None),
        lock_counts={} if leases is None else leases.counts,
        messages=messages,
        positions=seen,
        open_positions=is_open,
        file_bytes=_size(directory),
        problems=tuple(problems),
    )


def _agent(info: LockInfo) -> AgentGauge:
    status: AgentStatus = "alive" if info.is_current else "silent" if info.is_alive else "dead"
    return AgentGauge(info.resource.removeprefix(_AGENT), info.pid, status, info.remaining)


def _memory(log: Log, hot: HotTable | None, ring: Ring | None, unflushed: int) -> dict[str, MemoryUse]:
    found = {"log": MemoryUse(unflushed, log.capacity)}
    if hot is not None:
        found["hot"] = MemoryUse(hot.memory_bytes, hot.memory_limit)
    if ring is not None:
        found["bus"] = MemoryUse(ring.memory_bytes, ring.capacity)
    if log.region.path is not None:
        found["vectors"] = MemoryUse(sum(map(_taken, glob(f"{escape(log.region.path)}-v*"))), 0)
    return dict(sorted(found.items()))


def _taken(path: str) -> int:
    try:
        return os.stat(path).st_blocks * 512
    except OSError:
        return 0


def _size(directory: str | None) -> int:
    if directory is None:
        return 0
    try:
        return os.stat(os.path.join(directory, DATA_FILE)).st_size
    except OSError:
        return 0
