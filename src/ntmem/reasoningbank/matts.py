"""Runs of several attempts at one task (MaTTS, memory-aware test-time scaling, arXiv 2509.25140): side by side, or one
after the other, recorded and compared.

:mod:`ntmem.reasoningbank.runs` has the layout, :mod:`ntmem.reasoningbank.pooling` what the attempts teach together.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import TYPE_CHECKING, Any, NamedTuple, Self

import msgspec
from msgspec.structs import replace

from ..errors import CorruptionError, StorageError, VersionConflict
from ..instants import AsOf, Instant, instant_ns, require_int
from ..records import Change
from ..tiers.guards import RUNS
from ..twins import twin
from .checks import check_text
from .contrast import MattsContrast, contrast, outcome_of
from .events import Begun, is_id, new_id
from .runs import MOST_ATTEMPTS, Run, attempt_key, decode, decode_id, encode, run_key
from .scrubbed import MOST_TASK, as_kept
from .state import State
from .trajectory import Trajectory

if TYPE_CHECKING:
    from .bank import ReasoningBank
    from .ledger import Ledger
    from .verdict import VerdictResult

MODES = ("parallel", "sequential")
_ATTEMPTS = 1000
_MOST_SHOWN = 10_000


class Attempt(NamedTuple):
    """An attempt that was made before, as :meth:`MattsRun.sequential` shows it to the next.

    `verdict` is None if it was not judged, `outcome` what its actions earned on average, None if that is not known, and
    `is_success` whether that is more than 0.
    """

    number: int
    trajectory: Trajectory
    verdict: VerdictResult | None
    outcome: float | None
    is_success: bool


class RunRow(NamedTuple):
    """A run as other programs keep it; `summary` is JSON or None, `created_at` ns UTC, `task_id` the task."""

    run_id: str
    task_id: str
    mode: str
    k: int
    status: str
    summary: str | None
    created_at: int


class MattsRun:
    """Several attempts at one task, side by side ("parallel") or one after the other ("sequential").

    Made by ``memory.bank.matts``, found again, by any process, by ``memory.bank.run``. As a context manager it is
    completed at the end: as failed, if that is an exception. An attempt is a trajectory like any other, whose
    :attr:`Trajectory.run_id` says of which run it is; of what they earn the bank learns as of one.

    Notes
    -----
    **Thread safety**: any thread, of any process that has the store open. **Complexity**: begin, complete and status
    are O(1), the rest O(attempts).

    Examples
    --------
    >>> import ntmem
    >>> with ntmem.open() as memory:
    ...     with memory.bank.matts("agent_1", "hedge", k=3) as run:
    ...         for hedged in (True, False, True):
    ...             with run.begin() as attempt:
    ...                 _ = attempt.add_action("hedge" if hedged else "wait")
    ...                 attempt.add_outcome(1.0 if hedged else -1.0)
    ...     found = memory.bank.run(run.id)
    ...     found.status, round(found.contrast().success_rate, 2), found.contrast().only_successes
    ('completed', 0.67, ('hedge',))
    """

    def __init__(self, bank: ReasoningBank, run_id: str, record: Run, as_of: int | None) -> None:
        self._bank = bank
        self._first = record
        self._as_of = as_of
        self.id = run_id

    def __repr__(self) -> str:
        it = self._seen()
        return f"<MattsRun {self.id} {self.agent_id!r} {it.mode} {it.status} attempts={len(self.attempts)} of {it.k}>"

    # -- what it is

    @property
    def agent_id(self) -> str:
        """Whose it is."""
        return self._first.agent_id

    @property
    def task(self) -> str:
        """What it is about."""
        return self._first.task

    @property
    def mode(self) -> str:
        """How attempts are made: "parallel" or "sequential"."""
        return self._first.mode

    @property
    def k(self) -> int:
        """How many attempts there are at most."""
        return self._first.k

    @property
    def created(self) -> int:
        """When it was begun, ns UTC."""
        return self._first.created

    @property
    def status(self) -> str:
        """What it has come to: "running", "completed" or "failed"."""
        return self._seen().status

    @property
    def ended(self) -> int | None:
        """When it was completed, ns UTC; None: it is running."""
        return self._seen().ended or None

    @property
    def summary(self) -> MattsContrast | None:
        """The contrast as it was when the run was completed; None: it is running."""
        text = self._seen().summary
        return msgspec.json.decode(text, type=MattsContrast) if text else None

    @property
    def attempts(self) -> tuple[Trajectory, ...]:
        """The attempts that were begun, in order."""
        ids = [name for name in self._ids(self._record()[0].begun) if name]
        found = self._bank.trajectories.get_many(ids, as_of=self._as_of)
        return tuple(each for each in found if each is not None)

    # -- attempts

    def begin(self, *, ts_event: Instant | None = None, ts_known: Instant | None = None) -> Trajectory:
        """Begin the next attempt, a trajectory that is kept from its first step on.

        Raises
        ------
        ValueError
            All k were begun, by whichever process; the run has ended; attempts are made one after the other, and the
            last one is open.
        """
        ledger = self._bank.trajectories.ledger
        for _ in range(_ATTEMPTS):
            record, version = self._running()
            if record.begun >= record.k:
                raise ValueError(f"run {self.id} has its {record.k} attempts; begin another run")
            if record.mode == "sequential" and record.begun:
                last = self._attempt(record.begun)
                if last.status == "open":
                    raise ValueError(
                        f"attempt {record.begun} of run {self.id}, {last.id}, is open; complete it first, as failed if "
                        "nobody is at it any more"
                    )
            now, number, state = ledger.writable().now(), record.begun + 1, State()
            happened = now if ts_event is None else instant_ns(ts_event, "ts_event")
            known = now if ts_known is None else instant_ns(ts_known, "ts_known")
            name = new_id(now)
            state.apply(Begun(happened, known, record.agent_id, record.task, self.id, number))
            also = [
                _put(run_key(self.id), encode(replace(record, begun=number)), version),
                _put(attempt_key(self.id, number), name.encode(), 0),
            ]
            with suppress(VersionConflict):  # others began one meanwhile, or ended the run
                ledger.extend(name, state, also)
                return Trajectory.of(name, state, ledger, None)
        raise StorageError(f"others changed run {self.id} {_ATTEMPTS} times meanwhile; try again")

    def parallel(self, make: Callable[[Trajectory], Any]) -> tuple[Trajectory, ...]:
        """Make the attempts that are left, each in a thread of its own; return them when all have ended.

        Parameters
        ----------
        make : callable
            Called with the trajectory of each, which is completed when it returns, as failed if it raises.

        Raises
        ------
        ValueError
            The run's attempts are made one after the other, or it has ended.
        Exception
            What `make` raised first, by number of attempt, once all have ended.
        """
        if self.mode != "parallel":
            raise ValueError(f"run {self.id} is sequential; use sequential()")
        made = self._left()
        if not made:
            return ()

        def run(trajectory: Trajectory) -> None:
            with trajectory:
                make(trajectory)

        with ThreadPoolExecutor(len(made), "ntmem-matts") as threads:
            futures = [threads.submit(run, each) for each in made]
        for future in futures:
            future.result()
        return tuple(made)

    aparallel = twin(parallel)

    def sequential(
        self,
        make: Callable[[Trajectory, tuple[Attempt, ...]], Any],
        *,
        stop: Callable[[Attempt], bool] | None = None,
    ) -> tuple[Attempt, ...]:
        """Make attempts one after the other, each with what came of those before; return them all.

        Parameters
        ----------
        make : callable
            Called with the trajectory of each, and the attempts before it, those of other processes, too. What it
            raises ends this; the attempt is failed.
        stop : callable, optional
            Whether this attempt is the last; by default the first success is. Also asked of the attempt that was the
            last one when this is called, so that a run that was interrupted after a success makes no other.

        Raises
        ------
        ValueError
            The run's attempts are made side by side, or it has ended; an attempt is open.
        """
        if self.mode != "sequential":
            raise ValueError(f"run {self.id} is parallel; use parallel()")
        earlier = tuple(map(self._judged, self.attempts))
        while len(earlier) < self.k:
            latest = earlier[-1] if earlier else None
            is_over = latest is not None and latest.trajectory.status != "open"  # else it is refused below
            if latest is not None and is_over and (latest.is_success if stop is None else stop(latest)):
                break
            with self.begin() as trajectory:
                make(trajectory, earlier)
            earlier += (self._judged(trajectory),)
        return earlier

    asequential = twin(sequential)

    def complete(self, status: str = "completed", *, ts_known: Instant | None = None) -> None:
        """Say that no attempt will be begun any more: "completed", or "failed"; its contrast is kept as its summary.

        Outcomes may still come, and are learnt from. Twice is fine; the first says how.
        """
        if status not in ("completed", "failed"):
            raise ValueError(f"status must be 'completed' or 'failed', was {status!r}")
        engine = self._bank.trajectories.ledger.writable()
        self._require_now()
        known = None if ts_known is None else instant_ns(ts_known, "ts_known")
        for _ in range(_ATTEMPTS):
            record, version = self._record()
            if record.status != "running":
                return
            ended = max(engine.now() if known is None else known, record.created)
            summary = msgspec.json.encode(self.contrast(as_of=ended)).decode()
            new = replace(record, status=status, ended=ended, summary=summary)
            with suppress(VersionConflict):
                engine.commit([_put(run_key(self.id), encode(new), version)], self._bank.trajectories.ledger.durable)
                return
        raise StorageError(f"others changed run {self.id} {_ATTEMPTS} times meanwhile; try again")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, *exc: object) -> None:
        self.complete("completed" if kind is None else "failed")

    def contrast(self, *, as_of: AsOf = None) -> MattsContrast:
        """Compare the attempts whose outcomes are known, by now or as of an instant."""
        asked = self._as_of if as_of is None else as_of
        ids = [name for name in self._ids(self._record()[0].begun) if name]
        found = self._bank.trajectories.get_many(ids, as_of=asked)
        direction = self._bank.distiller.settings.direction
        return contrast(self.id, [each for each in found if each is not None], direction)

    acontrast = twin(contrast)

    # -- reading

    def _record(self) -> tuple[Run, int]:
        """Return it as it is, and the version of that."""
        found = self._bank.trajectories.ledger.engine().get_latest(RUNS, run_key(self.id))
        if found is None or found.value is None:
            raise CorruptionError(f"run {self.id} is missing; restore a backup")
        return decode(found.value, Run, f"run {self.id}"), found.version

    def _seen(self) -> Run:
        """Return it as it was seen."""
        record = self._record()[0]
        limit = self._bank.trajectories.now() if self._as_of is None else self._as_of
        return record if record.ended <= limit else replace(record, status="running", ended=0, summary="")

    def _require_now(self) -> None:
        if self._as_of is not None:
            raise ValueError(f"run {self.id} is as it was seen at {self._as_of}; get it without as_of to change it")

    def _running(self) -> tuple[Run, int]:
        self._require_now()
        record, version = self._record()
        if record.status != "running":
            raise ValueError(f"run {self.id} is {record.status}; begin another one")
        return record, version

    def _ids(self, begun: int) -> list[str]:
        engine = self._bank.trajectories.ledger.engine()
        keys = [(number, attempt_key(self.id, number)) for number in range(1, begun + 1)]
        found = engine.fetch(RUNS, keys)
        for number, _ in keys:
            if number not in found:
                raise CorruptionError(f"attempt {number} of run {self.id} is missing; restore a backup")
        return [decode_id(found[number], f"attempt {number} of run {self.id}") for number, _ in keys]

    def _attempt(self, number: int) -> Trajectory:
        name = self._ids(number)[-1]
        found = self._bank.trajectories.ledger.load([name])[0][1]
        if not found.steps:
            raise CorruptionError(f"attempt {number} of run {self.id}, {name}, is missing; restore a backup")
        return Trajectory.of(name, found, self._bank.trajectories.ledger, None)

    def _left(self) -> list[Trajectory]:
        """Begin all attempts that are left."""
        made: list[Trajectory] = []
        self._running()
        while self._record()[0].begun < self.k:
            try:
                made.append(self.begin())
            except ValueError:  # another process took the last one
                if self._record()[0].begun < self.k:
                    raise
        return made

    def _judged(self, trajectory: Trajectory) -> Attempt:
        verdict = self._bank.judge(trajectory.id) if any(trajectory.latest_outcomes()) else None
        outcome = outcome_of(trajectory, self._bank.distiller.settings.direction)
        return Attempt(trajectory.attempt, trajectory, verdict, outcome, outcome is not None and outcome > 0)


def _put(key: bytes, value: bytes, version: int) -> Change:
    return Change("put", RUNS, key, value, if_version=version, own=True)


# -- of a store


def new_run(
    bank: ReasoningBank, agent_id: str, task: str, k: int, mode: str, ts_known: Instant | None = None
) -> MattsRun:
    """Begin a run; see :meth:`ReasoningBank.matts`."""
    require_int(k, "k", 1, MOST_ATTEMPTS)
    if mode not in MODES:
        raise ValueError(f"mode must be 'parallel' or 'sequential', was {mode!r}")
    ledger = bank.trajectories.ledger
    check_text(agent_id, "agent_id", 255)
    check_text(task, "task", MOST_TASK, least=0)
    task = as_kept(task, ledger.scrubber())
    check_text(task, "task, scrubbed,", MOST_TASK, least=0)
    engine = ledger.writable()
    now = engine.now()
    record = Run(agent_id, task, mode, k, now if ts_known is None else instant_ns(ts_known, "ts_known"))
    name = new_id(now)
    engine.commit([_put(run_key(name), encode(record), 0)], ledger.durable)
    return MattsRun(bank, name, record, None)


def find_run(bank: ReasoningBank, run_id: str, as_of: AsOf) -> MattsRun | None:
    """Return a run; see :meth:`ReasoningBank.run`."""
    if not isinstance(run_id, str):
        raise TypeError(f"run_id must be a str, was {type(run_id).__name__}")
    if not is_id(run_id):
        raise ValueError(f"run_id must be an id that a run has, was {run_id[:64]!r}")
    found = bank.trajectories.ledger.engine().get_latest(RUNS, run_key(run_id))
    if found is None or found.value is None:
        return None
    return _shown(bank, run_id, decode(found.value, Run, f"run {run_id}"), as_of)


def all_runs(bank: ReasoningBank, status: str | None, as_of: AsOf, limit: int) -> list[MattsRun]:
    """Return runs, the one begun last first; see :meth:`ReasoningBank.runs`."""
    require_int(limit, "limit", 1, _MOST_SHOWN)
    if status not in (None, "running", "completed", "failed"):
        raise ValueError(f"status must be 'running', 'completed' or 'failed', was {status!r}")
    rows = [(record.created, name, record) for name, record in _records(bank.trajectories.ledger)]
    found: list[MattsRun] = []
    for _, name, record in sorted(rows, key=lambda it: it[:2], reverse=True):
        it = _shown(bank, name, record, as_of)
        if it is not None and status in (None, it.status):
            found.append(it)
            if len(found) == limit:
                break
    return found


def run_rows(ledger: Ledger) -> Iterator[RunRow]:
    """Yield all runs as rows, in the order of their ids; :attr:`Trajectory.run_id` says which attempts each has."""
    for name, it in _records(ledger):
        yield RunRow(name, it.task, it.mode, it.k, it.status, it.summary or None, it.created)


def _records(ledger: Ledger) -> Iterator[tuple[str, Run]]:
    for key, value in ledger.engine().scan(RUNS, b"r", b"", None):
        yield key[1:], decode(value, Run, f"run {key[1:]}")


def _shown(bank: ReasoningBank, run_id: str, record: Run, as_of: AsOf) -> MattsRun | None:
    limit = bank.limit(as_of)
    return None if record.created > limit else MattsRun(bank, run_id, record, None if as_of is None else limit)
