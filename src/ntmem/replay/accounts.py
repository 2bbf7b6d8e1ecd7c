"""The accounts at the end of a replay: everything is read back from the store and computed again."""

from __future__ import annotations

import contextlib
import hashlib
import os
import time
from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np

from .._core.fill import Fill
from .._core.text import exact
from ..errors import LockTimeout
from ..instants import NS
from ..system import MemorySystem
from .agent import SWARM
from .book import check, recompute
from .intervals import BIPS, compare_errors
from .judging import account_for_judging
from .killing import KillCard
from .market import JUMP, MarketFile
from .observing import account_for_observations
from .polls import account_for_polls
from .recalling import recalled_wrongly
from .report import Report
from .steps import Step
from .swarm import AgentFailed
from .tape import Tape
from .wire import Begin
from .zombie import ZombieCard

DAY = 86_400 * NS
_FLUSH = 5.0


class Durations:
    """Durations of operations, 8 bytes each."""

    def __init__(self) -> None:
        self._ns: dict[str, array[int]] = {}

    def add(self, ns: Mapping[str, Sequence[int]]) -> None:
        """Take in durations by operation."""
        for operation, values in ns.items():
            self._ns.setdefault(operation, array("q")).extend(values)

    def table(self) -> dict[str, dict[str, float]]:
        """Return count, p50 and p99 in microseconds by operation."""
        return {
            operation: {
                "count": len(values),
                "p50_us": float(np.quantile(values, 0.5)) / 1e3,
                "p99_us": float(np.quantile(values, 0.99)) / 1e3,
            }
            for operation, values in sorted(self._ns.items())
        }


@dataclass(frozen=True, slots=True)
class Run:
    """What the supervisor knows of a run that has ended."""

    memory: MemorySystem
    symbol: str
    files: Sequence[MarketFile]
    steps: Sequence[Step]
    tape: Tape
    begins: Sequence[Begin]
    fed: int
    complete: bool
    interrupted: bool
    failure: AgentFailed | None
    kill: bool
    card: KillCard | None
    zombie: ZombieCard | None
    durations: Durations
    process_memory: dict[str, dict[str, int]]
    seed: int
    kept: bool


def account_for(run: Run, began: float) -> Report:
    """Return the report of a run; `began` is when it did, on the monotonic clock."""
    problems = []
    if run.failure is not None:
        problems.append(str(run.failure))
    if run.card is not None:
        gone = [*run.card.lost, *run.card.lost_trajectories]
        problems += [f"acknowledged by {run.card.agent}, lost by the kill: {lost}" for lost in gone]
    if run.zombie is not None:
        problems += run.zombie.problems
    agents, errors = [], []
    for begin in run.begins:
        account, error = _agent(run, begin)
        agents.append(account)
        errors.append(error)
        problems += [f"{begin.name}: {problem}" for problem in account["problems"]]
    fills = {agent["name"]: agent.pop("booked") for agent in agents}
    polls, wrong = account_for_polls(run.memory, min((agent["steps"] for agent in agents), default=0), fills)
    problems += wrong
    observations, wrong = account_for_observations(run.memory, run.symbol, run.tape, run.steps, run.fed)
    problems += wrong
    judging, wrong = account_for_judging(run.memory, SWARM, agents, run.steps, run.fed)
    problems += wrong
    with contextlib.suppress(LockTimeout):  # what was distilled should not be counted as rows, too
        run.memory.flush(_FLUSH)
    stats = run.memory.stats()
    return Report(
        market=_market(run),
        replay={
            "symbol": run.symbol,
            "agents": len(run.begins),
            "steps_fed": run.fed,
            "steps": len(run.steps),
            "from": run.steps[0].ts,
            "to": run.steps[max(0, run.fed - 1)].ts,
            "complete": run.complete,
            "interrupted": run.interrupted,
            "seed": run.seed,
            "seconds": time.monotonic() - began,
        },
        operations=run.durations.table(),
        kill=None if run.card is None else run.card.to_dict(),
        zombie=None if run.zombie is None else run.zombie.to_dict(),
        locks={
            "engine": stats.engine,
            "grants": stats.lock_grants,
            "waits": stats.lock_waits,
            "taken": stats.lock_taken,
        },
        polls=polls,
        observations=observations,
        judging=judging,
        agents=agents,
        prediction=_prediction(errors, max(agent["horizon"] for agent in agents), run.seed),
        memory={
            "processes": run.process_memory,
            "total_pss": sum(one["pss"] for one in run.process_memory.values()),
        },
        disk={
            "path": str(run.memory.path) if run.kept else None,
            "bytes": directory_bytes(run.memory.path),
            "records": stats.l3_entries,
            "last_version": stats.last_version,
        },
        problems=problems,
        notes=_notes(run),
        error=run.failure.details or None if run.failure is not None else None,
    )


def _market(run: Run) -> dict[str, Any]:
    return {
        "files": [
            {
                "name": file.name,
                "kind": file.kind,
                "rows": file.rows,
                "bad": dict(file.bad),
                "bad_rows": [bad._asdict() for bad in file.bad_rows],
                "late": file.late,
                "late_by": file.late_by / NS,
                "other_symbols": file.other_symbols,
            }
            for file in run.files
        ],
        "rows": sum(file.rows for file in run.files),
        "bad": sum(file.bad.total() for file in run.files),
        "late": sum(file.late for file in run.files),
    }


def _notes(run: Run) -> list[str]:
    notes = [
        f"{file.name}: {file.late:,} of {file.rows:,} rows are late, by up to {file.late_by / DAY:,.0f} days; "
        "is the time of a row before them damaged?"
        for file in run.files
        if file.late_by > JUMP
    ]
    if run.kill and run.card is None:
        notes.append("no agent was killed: the replay ended before")
    elif run.kill and run.zombie is None and run.failure is None:
        notes.append("no agent was stopped while it held its lock: the replay ended before")
    return notes


# -- agents


def _agent(run: Run, begin: Begin) -> tuple[dict[str, Any], dict[int, tuple[float, float]]]:
    """Return the account of an agent, and its errors with and without memory by step."""
    own = run.memory.namespace(SWARM, begin.name)
    state = own.get("state")
    done = 0 if state is None else state["cursor"] + 1
    problems = []
    if run.failure is None and not run.interrupted and done != run.fed:
        problems.append(f"has done {done} steps of {run.fed}")
    counted = int(run.memory.get((SWARM, begin.name), "steps", b"0"))
    if counted != done:
        problems.append(f"counted {counted} steps, its cursor says {done}: a step was lost or done twice")
    fills = _fills(run, begin.name)
    book = _book(run, begin.name, done, fills)
    errors = _errors(run.memory, begin.name)
    window, horizon = (begin.window, begin.horizon) if state is None else (state["window"], state["horizon"])
    recalls = 0
    if state is not None:
        recalls, wrong = recalled_wrongly(run.memory, (SWARM, begin.name), horizon, state["neighbours"])
        problems += wrong
    with_memory, without = (
        (float(np.mean(column)) * BIPS for column in zip(*errors.values(), strict=True)) if errors else (None, None)
    )
    account = {
        "name": begin.name,
        "window": window,  # an agent may have its own
        "horizon": horizon,
        "steps": done,
        "booked": [(int(fill.id), fill.quantity_decimal) for fill in fills],
        "book": book,
        "predictions": len(errors),
        "recalls_checked": recalls,
        "error_with": with_memory,
        "error_without": without,
        "state_digest": state_digest(run.memory, begin.name, run.symbol),
        "problems": problems + book["differences"],
    }
    return account, errors


def _fills(run: Run, name: str) -> list[Fill]:
    """Return an agent's fills, in the order of booking."""
    book = run.memory.positions.view(strategy=name)
    ids = book.fills(run.symbol)["trade_id"].tolist()
    return [fill for trade_id in ids if (fill := book.fill(run.symbol, trade_id)) is not None]


def _book(run: Run, name: str, done: int, fills: list[Fill]) -> dict[str, Any]:
    """Return an agent's position, checked against its fills, and its fills against the market."""
    position = run.memory.positions.get(run.symbol, "", name)
    instrument = run.memory.positions.instrument(run.symbol)
    mark = run.steps[max(0, done - 1)].last
    unit = Decimal(1).scaleb(-instrument.price_precision - instrument.quantity_precision)
    recomputed = recompute(fills, unit)
    differences = check(position, recomputed)
    state = run.memory.namespace(SWARM, name).get("state")
    held = Decimal(0) if state is None else Decimal(state["held"])
    if recomputed.quantity != held:
        differences.append(f"the fills make {recomputed.quantity}, the agent has decided to hold {held}")
    for fill in fills:
        market = run.steps[int(fill.id)]
        expected = market.ask if fill.quantity > 0 else market.bid
        if (fill.price_decimal, fill.ts_event) != (expected, market.ts_event):
            differences.append(f"fill {fill.id} is at {fill.price_decimal}, the market was at {expected}")
    return {
        "fills": len(fills),
        "quantity": exact(recomputed.quantity),
        "average_price": exact(position.average_price_decimal) if position is not None else "0",
        "realized_pnl": exact(recomputed.realized_pnl),
        "mark_price": exact(mark),
        "total_pnl": exact(recomputed.total_pnl(mark)),
        "differences": differences,
    }


def _errors(memory: MemorySystem, name: str) -> dict[int, tuple[float, float]]:
    outcomes = dict(memory.namespace(SWARM, name, "outcomes").scan())
    return {
        int(key): (abs(made["prediction"] - found["outcome"]), abs(made["baseline"] - found["outcome"]))
        for key, made in memory.namespace(SWARM, name, "predictions").scan()
        if made["recalled"] and (found := outcomes.get(key)) is not None
    }


def _prediction(errors: Sequence[dict[int, tuple[float, float]]], overlap: int, seed: int) -> dict[str, Any]:
    """Compare errors over all agents: the mean of a step's, because agents see the same market."""
    steps = sorted(set().union(*errors))
    means = [np.mean([one[step] for one in errors if step in one], axis=0) for step in steps]
    with_memory, without = np.array(means, dtype=np.float64).reshape(-1, 2).T
    return compare_errors(with_memory, without, overlap, seed)


def state_digest(memory: MemorySystem, name: str, symbol: str) -> str:
    """Return a digest of all that an agent has in the store: equal runs have equal digests."""
    summary = hashlib.blake2b(digest_size=16)
    for fill in memory.positions.fills(symbol, strategy=name).tolist():
        summary.update(repr(fill[:-1]).encode())  # all but the version
    for labels in memory.namespaces((SWARM, name)):
        for key, value in memory.scan(labels):
            for part in ("/".join(labels).encode(), key.encode(), value):
                summary.update(len(part).to_bytes(8, "little") + part)
    return summary.hexdigest()


# -- resources


def process_memory(processes: Mapping[str, int]) -> dict[str, dict[str, int]]:
    """Return resident and proportional set size in bytes of processes, and of this one, where the system tells."""
    return {name: _memory_of(pid) for name, pid in {"feeder": os.getpid(), **processes}.items()}


def _memory_of(pid: int) -> dict[str, int]:
    found = {}
    for file, field, name in (("status", "VmRSS:", "rss"), ("smaps_rollup", "Pss:", "pss")):
        try:
            lines = Path(f"/proc/{pid}/{file}").read_text().splitlines()
        except OSError:
            lines = []
        found[name] = next((int(line.split()[1]) * 1024 for line in lines if line.startswith(field)), 0)
    return found


def directory_bytes(path: str | os.PathLike[str] | None) -> int:
    """Return what the files of a directory occupy on disk; holes do not count."""
    return 0 if path is None else sum(file.stat().st_blocks * 512 for file in Path(path).rglob("*") if file.is_file())
