"""The replay: the clock, the feeding, the kill, the zombie, and the accounts at the end.

In lockstep: the feeder sets the store's clock, writes what is known by then, tells every agent to do the step, and
waits until all have acknowledged. So the result depends on data and seed alone, not on who was faster, nor on
whether an agent was killed or replaced on the way.
"""

from __future__ import annotations

import random
import shutil
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any, TypeVar

import numpy as np

from ..clock import SimulatedClock
from ..errors import StorageError
from ..system import MemorySystem
from ..system import open as open_store
from ..values import codec_named
from .accounts import Durations, Run, account_for, process_memory
from .agent import MARKET, step_key
from .deciding import account_for_deciding
from .desk import book_lock
from .killing import Acknowledged, KillCard
from .loading import load_agent
from .market import MarketError, MarketFile
from .observing import Observing
from .polls import propose
from .report import Report
from .scenes import market, shipped_scenes, simulator
from .steps import Step, Steps, shipped, symbol_label, symbol_of
from .swarm import AgentFailed, Swarm
from .tape import Tape
from .times import seconds_ns
from .wire import Ack, Begin
from .zombie import Zombie, ZombieCard

T = TypeVar("T")

WINDOWS, HORIZONS = (8, 16, 32), (5, 10, 20)
MAX_AGENTS = 100
MAX_SEED = 2**63 - 1
_MSGPACK = codec_named("msgpack")


@dataclass(frozen=True, slots=True)
class ReplayOptions:
    """What to replay, and how; see ``ntmem replay --help``.

    Parameters
    ----------
    file : Path, optional
        Market data; by default the ticks that ship with the package.
    agents : int
        How many agents, each a process.
    store : Path, optional
        Directory to keep the store in; by default a temporary one, removed at the end.
    seconds : float, optional
        Stop feeding after so many seconds of real time.
    steps : int, optional
        Stop feeding after so many steps.
    agent : str, optional
        ``module:Class`` of a subclass of :class:`ntmem.replay.Agent`.
    columns, unit, known_after, zone, symbol, strict
        See :class:`ntmem.replay.market.MarketFile`.
    step : float, optional
        Seconds from one decision to the next; 0: every row. See :class:`ntmem.replay.steps.Steps`.
    seed : int
        Of everything that is left to chance, 0 to 2**63 - 1.
    kill : bool
        Kill an agent in the middle, and after three quarters stop another one while it holds its lock; the report has a
        note if the replay ended before.
    kill_delay : float, optional
        Seconds into the step at which; by default a random moment of a usual step.
    timeout : float
        Seconds an agent may take for a step.
    decide : bool
        Play scenes afterwards, of `file` or of what ships with the package; see :mod:`ntmem.replay.deciding`. It takes
        some 20 seconds; ``ntmem replay`` does it.
    """

    file: Path | None = None
    agents: int = 4
    store: Path | None = None
    seconds: float | None = None
    steps: int | None = None
    agent: str | None = None
    columns: str | None = None
    unit: str | None = None
    known_after: float | str | None = None
    zone: str | None = None
    symbol: str | None = None
    step: float | str | None = None
    seed: int = 0
    strict: bool = False
    kill: bool = True
    kill_delay: float | None = None
    timeout: float = 60.0
    decide: bool = False

    def __post_init__(self) -> None:
        if not 1 <= self.agents <= MAX_AGENTS:
            raise ValueError(f"--agents must be 1 to {MAX_AGENTS}, was {self.agents}")
        if self.seconds is not None and not self.seconds > 0:
            raise ValueError(f"--seconds must be more than 0, was {self.seconds}")
        if self.steps is not None and self.steps < 1:
            raise ValueError(f"--steps must be 1 or more, was {self.steps}")
        if not 0 <= self.seed <= MAX_SEED:
            raise ValueError(f"--seed must be 0 to {MAX_SEED}, was {self.seed}")


Progress = Callable[[str, int, int], None]
"""Called with what is going on, how many steps are done, and how many there are."""


def run(options: ReplayOptions, progress: Progress = lambda what, done, total: None) -> Report:
    """Replay market data through a team of agents and return the report.

    Raises
    ------
    MarketError, ValueError
        The input or an option cannot be used; nothing was started.
    StorageError
        The store cannot be used.

    Notes
    -----
    All steps are held in memory, about a kilobyte each, and the numbers of all rows, eight bytes each.

    Examples
    --------
    >>> report = run(ReplayOptions(agents=2, steps=20))
    >>> report.ok, report.kill["lost"]
    (True, [])
    """
    began = time.monotonic()
    load_agent(options.agent)
    progress("reading the market data", 0, 0)
    files, steps, tape = read_market(options)
    directory = _directory(options.store, steps[0].ts)
    try:
        with open_store(
            directory,
            clock=(clock := SimulatedClock(steps[0].ts)),
            agent_id="feeder",
            enable_compression=False,  # it distills at the end, to report what that gains
        ) as memory:
            replay = _Replay(options, memory, clock, files, steps, tape, progress)
            replay.feed()
            report = replay.report(began)
    finally:
        if options.store is None:
            shutil.rmtree(directory, ignore_errors=True)
    if not options.decide or replay.interrupted or replay.failure is not None:
        return report
    return _decide(options, report, steps, began, progress)


def _decide(options: ReplayOptions, report: Report, steps: Sequence[Step], began: float, progress: Progress) -> Report:
    """Play scenes; return the report with what came of it."""
    notes = list(report.notes)
    figures, problems = dict[str, Any](), list[str]()
    try:
        progress("reading the scenes", 0, 0)
        if options.file is None:
            scenes = shipped_scenes(options.seed)
        else:
            scenes = [simulator(seed=options.seed)]
            found = market(report.replay["symbol"], steps)
            if found is None:
                notes.append(f"no decisions were made on {report.replay['symbol']}: it has too few steps, or one price")
            else:
                scenes.append(found)
        figures, problems = account_for_deciding(scenes, options.seed, progress)
    except KeyboardInterrupt:
        report.replay["interrupted"] = True
    except StorageError as error:  # the replay has been done all the same
        problems = [f"no decisions were made: {error}"]
    report.replay["seconds"] = time.monotonic() - began
    return replace(report, deciding=figures, problems=[*report.problems, *problems], notes=notes)


def read_market(options: ReplayOptions) -> tuple[list[MarketFile], list[Step], Tape]:
    """Read the files of a replay; return them with their counts, the steps, and the rows as numbers."""
    paths = shipped() if options.file is None else [options.file]
    files = [
        MarketFile(
            path,
            columns=options.columns,
            unit=options.unit,
            known_after=options.known_after,
            zone=options.zone,
            symbol=options.symbol,
            strict=options.strict,
        )
        for path in paths
    ]
    source = Steps(files, None if options.step is None else seconds_ns(options.step, "--step"))
    steps = list(source)
    if not steps:  # MarketFile refuses a file without rows, so this takes several files that do not overlap
        raise MarketError(f"{', '.join(file.name for file in files)} give no step together")
    return files, steps[: options.steps], source.tape


def _directory(store: Path | None, first: int) -> Path:
    if store is None:
        return Path(tempfile.mkdtemp(prefix="ntmem-replay-"))
    if (store / "data.mdb").exists():
        with open_store(store, read_only=True) as memory:
            entries = memory.stats().l3_entries
            now = memory.now()
        if entries:
            raise ValueError(
                f"{store} holds a store with {entries} records; a replay begins with an empty one: "
                "choose another directory or delete this one"
            )
        if now > first:
            raise ValueError(
                f"the clock of {store} is at {_iso(now)}, the replay begins at {_iso(first)}, and a clock never goes "
                "back: choose another directory"
            )
    elif store.is_dir() and any(store.iterdir()):
        raise ValueError(f"{store} is not empty and no store; choose another directory")
    return store


def _iso(ns: int) -> str:
    return f"{np.datetime64(ns, 'ns')}Z"


class _Replay:
    """One run; its methods are called in the order in which they stand."""

    def __init__(
        self,
        options: ReplayOptions,
        memory: MemorySystem,
        clock: SimulatedClock,
        files: Sequence[MarketFile],
        steps: Sequence[Step],
        tape: Tape,
        progress: Progress,
    ) -> None:
        self.options, self.memory, self.clock = options, memory, clock
        self.files, self.steps, self.tape, self.progress = files, steps, tape, progress
        self.symbol = symbol_label(files[0].symbol or symbol_of(files[0].path))
        self.names = [f"agent_{number}" for number in range(1, options.agents + 1)]
        self.random = random.Random(f"{options.seed}/feeder")
        self.victim = self.random.choice(self.names)
        self.acknowledged = Acknowledged(self.victim)
        self.card: KillCard | None = None
        self.sleeper = self.random.choice([name for name in self.names if name != self.victim] or self.names)
        self.zombie: ZombieCard | None = None
        self.book = memory.positions
        prices = (price for step in steps for price in (step.bid, step.ask, step.last))
        self.book.define(self.symbol, price_precision=max(-int(price.as_tuple().exponent) for price in prices))
        self.observing = Observing(memory, self.symbol, tape)
        self.fed = 0
        self.interrupted = False
        self.failure: AgentFailed | None = None
        self.durations = Durations()
        self.process_memory: dict[str, dict[str, int]] = {}
        self._pending: set[str] = set()
        self._killed_at: int | None = None
        self._step_begun = 0.0
        self._step_seconds: list[float] = []

    # -- feeding

    def feed(self) -> None:
        """Feed all steps, or as many as there is time for."""
        swarm = Swarm(self._on_ack, self.options.timeout)
        try:
            try:
                self._start(swarm)
                self._feed(swarm)
            except KeyboardInterrupt:
                self.interrupted = True
            except AgentFailed as failure:
                self.failure = failure
            self.process_memory = process_memory({name: one.process.pid for name, one in swarm.workers.items()})
            if self.failure is None:
                swarm.stop()
        finally:
            swarm.close()

    def _start(self, swarm: Swarm) -> None:
        self.progress("starting agents", 0, len(self.steps))
        for name in self.names:
            self.memory.consensus.register(name)
            swarm.start(self._begin(name))
        swarm.wait_ready(self.names)
        if self.options.kill:
            swarm.stand_by(self.options.agent, 2)

    def _begin(self, name: str) -> Begin:
        number = self.names.index(name)
        total = len(self.steps)
        window = WINDOWS[number % 3]
        horizon = HORIZONS[(number + number // 3) % 3]
        return Begin(
            store=str(self.memory.path),
            name=name,
            symbol=self.symbol,
            agent=self.options.agent,
            window=min(window, max(2, total // 6)),  # of a short file something should remain to predict
            horizon=min(horizon, max(1, total // 12)),
            seed=self.options.seed,
        )

    def _feed(self, swarm: Swarm) -> None:
        began = time.monotonic()
        middle = len(self.steps) // 2
        limit = self.options.seconds
        for step in self.steps:
            passed = time.monotonic() - began
            if limit is not None and passed > limit:
                return
            self._publish(step)
            self._step_begun = time.monotonic()
            share = max(step.number / len(self.steps), passed / limit if limit else 0.0)
            sleeps = self._is_to_sleep(step, share)
            self._go(swarm, [name for name in self.names if not sleeps or name != self.sleeper], step)
            if self.options.kill and self.card is None and (step.number >= middle or share > 0.5):
                self._kill(swarm, step)
            swarm.gather(self._pending, step.number)
            if sleeps:
                self._stop_and_continue(swarm, step)
            self.fed = step.number + 1
            self.progress("feeding", self.fed, len(self.steps))

    def _publish(self, step: Step) -> None:
        self._timed("clock.set", lambda: self.clock.set(step.ts))
        self._timed("mark", lambda: self.book.mark(self.symbol, step.last, step.ts_event))
        self.observing.observe(step, self._timed)
        value = _MSGPACK.encode(step._asdict() | {"mid": step.mid})
        self._timed(
            "put",
            lambda: self.memory.put(
                (MARKET, self.symbol),
                step_key(step.number),
                value,
                ts_event=step.ts_event,
                ts_known=step.ts_known,
            ),
        )
        propose(self.memory, step.number)
        self._timed("publish", lambda: self.memory.publish((MARKET, self.symbol), value))

    def _timed(self, operation: str, call: Callable[[], T]) -> T:
        begun = time.perf_counter_ns()
        result = call()
        self.durations.add({operation: [time.perf_counter_ns() - begun]})
        return result

    def _on_ack(self, name: str, ack: Ack) -> None:
        self._pending.discard(name)
        self.durations.add(ack.ns)
        if name != self.victim:
            return
        self._step_seconds.append(time.monotonic() - self._step_begun)
        if self.card is None:
            self.acknowledged.add(ack)
        elif self.card.resume is None and self._killed_at is not None:
            self.card.resume = (time.monotonic_ns() - self._killed_at) / 1e9

    def _go(self, swarm: Swarm, names: list[str], step: Step) -> None:
        self._pending |= set(names)
        swarm.go(names, step.number)

    # -- the kill

    def _kill(self, swarm: Swarm, step: Step) -> None:
        """Kill an agent within this step, look at what it left, start it again."""
        usual = median(self._step_seconds) if self._step_seconds else 0.01
        delay = self.options.kill_delay
        if delay is None:
            delay = self.random.uniform(0, 1.2 * usual)
        swarm.listen(delay)
        pid = swarm.workers[self.victim].process.pid
        self._killed_at = swarm.kill(self.victim)
        gone_at = time.monotonic_ns()
        lock, agent = book_lock(self.memory, self.victim), self.memory.agents.get(self.victim)
        count, lost = self.acknowledged.recover(self.memory)
        forgotten = self.acknowledged.recover_trajectories(self.memory)
        checked_at = time.monotonic_ns()
        acknowledged = self.acknowledged.last_step == step.number
        swarm.start(self._begin(self.victim))
        # From here on acknowledgements are new ones.
        self.card = KillCard(self.victim, step.number, delay, "", count, self.acknowledged.last_step + 1, lost)
        if lock is not None and lock.fence is not None and lock.pid == pid:
            self.card.fence = lock.fence.number
        self.card.seen_as = agent.status if agent is not None else ""
        self.card.trajectories, self.card.lost_trajectories = len(self.acknowledged.trajectories), forgotten
        swarm.wait_ready([self.victim])
        worker = swarm.workers[self.victim]
        ready = worker.ready
        assert ready is not None
        self.durations.add(ready.ns)
        self.card.successor_fence = ready.fence
        self.card.pending = ready.pending
        self.card.granted = (ready.granted_at - self._killed_at) / 1e9 if ready.fence else None
        self.card.lock_wait = (ready.granted_at - ready.asked_at) / 1e9
        if ready.cursor >= step.number:  # committed: to do it again would count it twice
            self.card.in_flight = "acknowledged" if acknowledged else "committed, not acknowledged"
            self._pending.discard(self.victim)
        else:
            self.card.in_flight = "not committed"
            swarm.go([self.victim], step.number)
        self.card.reap = (gone_at - self._killed_at) / 1e9
        self.card.check = (checked_at - gone_at) / 1e9
        self.card.process_start = (ready.begun_at - worker.started_at) / 1e9
        self.card.open_and_read = (ready.ready_at - ready.begun_at) / 1e9

    # -- the zombie

    def _is_to_sleep(self, step: Step, share: float) -> bool:
        """Whether this is the step in which an agent is stopped while it holds its lock."""
        is_over = not self.options.kill or self.card is None or self.zombie is not None
        is_time = step.number >= 3 * len(self.steps) // 4 or share > 0.75
        return not is_over and is_time

    def _stop_and_continue(self, swarm: Swarm, step: Step) -> None:
        """Stop an agent in its step, let another process do the step as that agent, continue the first."""
        zombie = Zombie(swarm, self.memory, self._begin(self.sleeper))
        zombie.stop(step.number)
        self.durations.add(zombie.replace().ns)
        self._go(swarm, [self.sleeper], step)
        swarm.gather(self._pending, step.number)
        self.zombie = zombie.resume()

    # -- the end

    def report(self, began: float) -> Report:
        """Return the accounts of the run, read from the store."""
        self.progress("checking", self.fed, len(self.steps))
        if self.card is not None:  # nothing may have gone since the restart either
            gone = self.acknowledged.recover(self.memory)[1]
            self.card.lost = sorted({*self.card.lost, *gone})
            forgotten = self.acknowledged.recover_trajectories(self.memory)
            self.card.lost_trajectories = sorted({*self.card.lost_trajectories, *forgotten})
        run = Run(
            memory=self.memory,
            symbol=self.symbol,
            files=self.files,
            steps=self.steps,
            tape=self.tape,
            begins=[self._begin(name) for name in self.names],
            fed=self.fed,
            complete=self.fed == len(self.steps),
            interrupted=self.interrupted,
            failure=self.failure,
            kill=self.options.kill,
            card=self.card,
            zombie=self.zombie,
            durations=self.durations,
            process_memory=self.process_memory,
            seed=self.options.seed,
            kept=self.options.store is not None,
        )
        return account_for(run, began)
