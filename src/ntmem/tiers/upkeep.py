"""Upkeep: what nobody waits for and somebody has to do. Space of the expired, bounds of namespaces, distillation.

A round is a walk over what there may be to do, in steps of a millisecond or so; between them it rests, so that a round
takes a share of one core, and whoever writes waits for one small group of the log at most. One thread of a process does
it for all stores that are open there; of several processes that have a store open, one at a time.

**Invariants**

- Nothing depends on it: what expired is not served anyway, and who dies in the middle of a round leaves some of it
  undone.
- It keeps no store alive that was dropped, and begins nothing after :meth:`Upkeep.close`.
"""

from __future__ import annotations

import fcntl
import logging
import os
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from msgspec import Struct

from ..errors import StoreClosed
from ..instants import NS
from ..records import Change
from .bounds import bounds, enforce, sweep
from .engine import LmdbEngine
from .guards import PATTERNS, RETENTION, SERIES

_log = logging.getLogger("ntmem")

TOPICS = b"\0topics"
"""Under what the bound of durable messages is kept."""
_CONSOLIDATED = b"\0consolidated"
_DAY = 86_400 * NS
_WORTH = 16_384  # changes of the store after which there may be something to distil
_REST = 0.005  # seconds: shorter rests are put together
_IDLE = 10.0  # seconds after which a thread ends that has no store


class UpkeepReport(Struct, frozen=True):
    """What a round of upkeep did.

    Attributes
    ----------
    expired : int
        Records past their time to live whose space was given back.
    records, record_bytes : int
        Records that bounds deleted, and the bytes of their keys and values.
    guarded : int
        Records in bounded namespaces that were written under locks, and so left alone.
    rows, blocks, block_bytes : int
        Rows of observations that bounds dropped, and the blocks and bytes among them.
    messages : int
        Durable messages that were trimmed.
    distilled : int
        Rows of observations that were compressed.
    consolidated : bool
        Whether patterns were consolidated, which is done once a day.
    seconds : float
        How long it took, rests included.
    """

    expired: int = 0
    records: int = 0
    record_bytes: int = 0
    guarded: int = 0
    rows: int = 0
    blocks: int = 0
    block_bytes: int = 0
    messages: int = 0
    distilled: int = 0
    consolidated: bool = False
    seconds: float = 0.0


class Tasks(Struct, frozen=True):
    """What a round calls that is not of this layer; each raises :class:`StoreClosed` if the store handle is gone."""

    engine: Callable[[], LmdbEngine]
    observations: Callable[[], Any]
    trim: Callable[[int], int]
    """Delete durable messages older than so many ns that every subscription has acknowledged."""
    consolidate: Callable[[], object]
    distills: bool


class Stopped(Exception):
    """The round is to end."""


def run(tasks: Tasks, step: Callable[[], None], since: dict[str, int] | None = None) -> UpkeepReport:
    """Do one round; `step` is called between small steps. `since` is what the round before knew; it is changed."""
    began = time.monotonic()
    engine = tasks.engine()
    engine.look()
    known = {} if since is None else since
    expired = sweep(engine, step)
    records = record_bytes = guarded = rows = blocks = block_bytes = messages = distilled = 0
    has_series = next(engine.scan(SERIES, b"", b"", 1), None) is not None
    for key, bound in bounds(engine).items():
        if key == TOPICS and bound.max_age is not None:
            step()
            messages = tasks.trim(bound.max_age)
        if key.startswith(b"\0"):
            continue
        labels = tuple(key.decode().split("/"))
        done = enforce(engine, labels, bound, step)
        records, record_bytes, guarded = records + done.records, record_bytes + done.bytes, guarded + done.guarded
        if has_series:
            dropped = tasks.observations().bound(labels, bound, step)
            rows, blocks, block_bytes = rows + dropped.rows, blocks + dropped.blocks, block_bytes + dropped.bytes
    written = engine.last_version()
    if has_series and tasks.distills and written - known.get("distilled", 0) >= _WORTH:
        distilled = tasks.observations().distill_whole(step)
        known["distilled"] = written
    return UpkeepReport(
        *(expired, records, record_bytes, guarded, rows, blocks, block_bytes, messages, distilled),
        # By a simulated clock decisions have to come out the same each time, whenever this round comes.
        (since is None or engine.clock_facts()[0] == "system") and _consolidated(tasks, engine, step),
        time.monotonic() - began,
    )


def _consolidated(tasks: Tasks, engine: LmdbEngine, step: Callable[[], None]) -> bool:
    """Consolidate patterns if there are any and it was not done today."""
    step()
    if next(engine.scan(PATTERNS, b"", b"", 1), None) is None:
        return False
    kept, now = engine.get(RETENTION, _CONSOLIDATED), engine.now()
    if kept is not None and int(kept) > now - _DAY:
        return False
    engine.commit([Change("put", RETENTION, _CONSOLIDATED, b"%d" % now, own=True)])
    tasks.consolidate()
    return True


class Upkeep:
    """Rounds of upkeep of one store handle.

    **Thread safety**: any thread.
    """

    def __init__(self, tasks: Tasks, *, interval: float, share: float) -> None:
        self._tasks = tasks
        self._interval = interval
        self._share = share
        self._stop = threading.Event()
        self._busy = threading.RLock()  # a finalizer may close a store in the thread that is at work
        self._known: dict[str, int] = {}
        self._used = 0.0
        self.due = time.monotonic() + interval
        self.last: UpkeepReport | None = None
        """Of the last round that this process did in the background."""
        if interval > 0 and share > 0:
            _keeper.add(self)

    def now(self) -> UpkeepReport:
        """Do one round without rests."""
        return run(self._tasks, lambda: None)

    def close(self) -> None:
        """Begin nothing any more, and return when what is being done has ended: one step."""
        self._stop.set()
        _keeper.drop(self)
        with self._busy:
            pass

    def work(self) -> None:
        """Do one round with rests, unless another process does, or has just done it. Called by the thread."""
        with self._busy:
            self.due = time.monotonic() + self._interval
            try:
                if self._stop.is_set():
                    return
                with _turn(self._tasks.engine().store.directory, self._interval) as is_ours:
                    if is_ours:
                        self._used = time.thread_time()
                        self.last = run(self._tasks, self._step, self._known)
            except (Stopped, StoreClosed):
                _keeper.drop(self)
            except Exception:  # the thread is that of other stores, too
                _log.warning("upkeep could not be done; it is tried again in %g s", self._interval, exc_info=True)

    def _step(self) -> None:
        """Rest, so that a round takes its share of a core."""
        if self._stop.is_set():
            raise Stopped
        rest = (time.thread_time() - self._used) * (1 - self._share) / self._share
        if rest >= _REST:
            if self._stop.wait(rest):
                raise Stopped
            self._used = time.thread_time()


# ---- one process at a time -------------------------------------------------------------------------------------------


_turns: set[int] = set()


@contextmanager
def _turn(directory: str | None, interval: float) -> Iterator[bool]:
    """Say whether it is this process's turn, and keep others from it; the kernel ends that with the process."""
    if directory is None:
        yield True
        return
    file = os.open(os.path.join(directory, "upkeep.lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    _turns.add(file)
    try:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
            return
        now = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
        said = os.pread(file, 32, 0)
        last = int(said) if said.strip().isdigit() else 0
        if last <= now < last + interval * NS // 2:
            yield False
            return
        try:
            yield True
        finally:
            os.pwrite(file, b"%020d\n" % time.clock_gettime_ns(time.CLOCK_BOOTTIME), 0)
    finally:
        _turns.discard(file)
        os.close(file)


# ---- one thread of a process -----------------------------------------------------------------------------------------


class _Keeper:
    """The thread that does the rounds of all stores that are open in this process."""

    def __init__(self) -> None:
        self._kept: weakref.WeakSet[Upkeep] = weakref.WeakSet()
        self._changed = threading.Condition(threading.RLock())
        self._thread: threading.Thread | None = None

    def add(self, upkeep: Upkeep) -> None:
        with self._changed:
            self._kept.add(upkeep)
            if self._thread is None or not self._thread.is_alive():
                thread = threading.Thread(target=self._run, name="ntmem-upkeep", daemon=True)
                try:
                    thread.start()
                except RuntimeError:  # there are too many threads, or the interpreter ends
                    _log.warning("there is no upkeep: no thread could be started", exc_info=True)
                    return
                self._thread = thread
            self._changed.notify()

    def drop(self, upkeep: Upkeep) -> None:
        with self._changed:
            self._kept.discard(upkeep)

    def _run(self) -> None:
        while True:
            with self._changed:
                due = min(((each.due, id(each)) for each in self._kept), default=None)
                if due is None:
                    if not self._changed.wait(_IDLE) and not self._kept:
                        self._thread = None
                        return
                    continue
                if (rest := due[0] - time.monotonic()) > 0:
                    self._changed.wait(min(rest, _IDLE))
                    continue
                next_one = next((each for each in self._kept if id(each) == due[1]), None)
            if next_one is not None:
                next_one.work()
            del next_one


_keeper = _Keeper()


def _after_fork_in_child() -> None:
    for upkeep in _keeper._kept:  # the thread is the parent's, and may have been at work
        upkeep._busy, upkeep._stop = threading.RLock(), threading.Event()
    _keeper.__init__()  # type: ignore[misc]
    for file in _turns:  # the lock is the parent's as long as nobody has this open
        os.close(file)
    _turns.clear()


os.register_at_fork(after_in_child=_after_fork_in_child)
