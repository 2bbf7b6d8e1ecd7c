"""Trajectories: what a step costs to keep, a page to find beside a million, and what they take."""

import json
import resource
import sqlite3
import time

import numpy as np
import pytest
from figures import percentile, untimed

import ntmem
from ntmem import ScaledJudge

AGENTS, TASKS, DIMENSION = 100, 50, 16
START, MINUTE = 1_700_000_000 * 10**9, 60 * 10**9
SEEN = {"price": 61800.1, "spread": 0.1, "imbalance": 0.7143, "regime": "quiet"}
DONE = {"quantity": 10, "venue": "binance"}


@pytest.fixture
def memory(tmp_path):
    with ntmem.open(tmp_path / "store", engine="shared") as memory:
        yield memory


def table(path):
    """Return a table of SQLite that keeps steps as somebody would: by trajectory, found by agent; never synced."""
    database = sqlite3.connect(path, isolation_level=None)
    database.execute("PRAGMA journal_mode=WAL")
    database.execute("PRAGMA synchronous=OFF")
    database.execute(
        "CREATE TABLE steps (id TEXT, step INTEGER, agent TEXT, ts INTEGER, data TEXT, PRIMARY KEY (id, step))"
    )
    database.execute("CREATE INDEX by_agent ON steps (agent, ts)")
    return database


@pytest.mark.parametrize("kind", ["observation", "action and outcome"])
def test_step_to_sqlite(ratio_to, memory, tmp_path, kind):
    """To a row of JSON in SQLite that is not synced, a transaction each: 100 of them, in a trajectory of their own."""
    insert = table(tmp_path / "db").execute
    numbers = iter(range(10**9))

    def ours():
        trajectory = memory.bank.begin("agent", "task")
        for _ in range(100):
            if kind == "observation":
                trajectory.add_observation(SEEN)
            else:
                trajectory.add_action("buy", DONE, 110.0, reference=100.0)
                trajectory.add_outcome(105.0)

    def theirs():
        name = f"trajectory {next(numbers)}"
        for step in range(100):
            rows = [SEEN] if kind == "observation" else [DONE, {"outcome": 105.0}]
            for part, row in enumerate(rows):
                insert(
                    "INSERT INTO steps VALUES (?, ?, ?, ?, ?)",
                    (name, 2 * step + part, "agent", time.time_ns(), json.dumps(row)),
                )

    ratio_to(ours, theirs, calls=100 if kind == "observation" else 200, repeats=1)


def test_steps(benchmark, memory):
    """Percentiles of single calls, the clock included: each is in the store when it returns."""
    taken = {}

    def timed(name, call):
        begun = time.perf_counter_ns()
        found = call()
        taken.setdefault(name, []).append(time.perf_counter_ns() - begun)
        return found

    for number in range(20_000):
        agent = f"agent {number % AGENTS}"
        t = timed("begin", lambda: memory.bank.begin(agent, "task"))  # noqa: B023
        timed("observation", lambda: t.add_observation(SEEN))  # noqa: B023
        timed("action", lambda: t.add_action("buy", DONE, 110.0, reference=100.0, horizon=60))  # noqa: B023
        timed("outcome", lambda: t.add_outcome(105.0))  # noqa: B023
        timed("complete", t.complete)
        timed("resolve, later", lambda: memory.bank.resolve(t.id, 106.0, action_id="a1"))  # noqa: B023
        if number % 10 == 0:
            timed("judge", lambda: memory.bank.judge(t.id))  # noqa: B023
    for name, times in taken.items():
        benchmark.extra_info[f"{name} us"] = [
            round(percentile(sorted(times), share) / 1000, 1) for share in (0.5, 0.99)
        ]
    untimed(benchmark)


def resident():
    with open("/proc/self/status") as status:
        facts = dict(line.split(":") for line in status)
    return {name: int(facts[name].split()[0]) * 1024 for name in ("RssAnon", "RssShmem", "RssFile")}


@pytest.mark.parametrize("total", [50_000, pytest.param(1_000_000, marks=pytest.mark.large)])
def test_pages(benchmark, tmp_path, total):
    """A page of 100 by each criterion, how it grows with what there is, and what the process takes meanwhile."""
    clock, chance = ntmem.SimulatedClock(START), np.random.default_rng(1)
    with ntmem.open(tmp_path / "store", engine="shared", clock=clock, max_memory_bytes=4 << 30) as memory:
        kept, bank = memory.trajectories, memory.bank
        held, begun = {}, time.perf_counter()
        for number in range(total):
            clock.set(START + number * MINUTE)
            t = ntmem.Trajectory(f"agent {number % AGENTS}", f"task {number % TASKS}")
            t.add_observation(SEEN, chance.standard_normal(DIMENSION))
            t.add_action("buy", DONE, 110.0, reference=100.0, horizon=60)
            if number % 100:
                t.add_outcome(100 + 10 * chance.standard_normal())
            t.complete()
            memory.track_trajectory(t)
            if number % 10 == 1:
                bank.judge(t.id, judge=ScaledJudge())
            if (number + 1) % (total // 5) == 0:
                held[number + 1] = resident()
        print(f"\n{total:,} in {time.perf_counter() - begun:.0f} s; bytes of the process: {held}")
        memory.flush()
        now, middle = clock.now(), START + total // 2 * MINUTE
        asked = {
            "all": kept.find,
            "agent": lambda: kept.find(agent_id=f"agent {chance.integers(AGENTS)}"),
            "task": lambda: kept.find(task=f"task {chance.integers(TASKS)}"),
            "verdict": lambda: kept.find(verdict="incorrect"),
            "time": lambda: kept.find(start=middle, end=middle + 1000 * MINUTE),
            "as of": lambda: kept.find(as_of=int(chance.integers(middle, now))),
            "agent, as of": lambda: kept.find(agent_id="agent 7", as_of=int(chance.integers(middle, now))),
        }
        similar = lambda: kept.similar(chance.standard_normal(DIMENSION), 100)  # noqa: E731
        for name, ask in [*asked.items(), ("similar", similar)]:
            times = []
            for _ in range(100):
                started = time.perf_counter_ns()
                found = ask()
                times.append(time.perf_counter_ns() - started)
                assert len(found if name == "similar" else found.trajectories) == 100
            times.sort()
            benchmark.extra_info[f"{name} ms"] = [round(percentile(times, share) / 1e6, 2) for share in (0.5, 0.95)]
        started = time.perf_counter_ns()
        pending = len(bank.pending(older_than=MINUTE * (total - 1000) / 10**9))
        benchmark.extra_info[f"pending ms, {pending} of {total // 100}"] = round(
            (time.perf_counter_ns() - started) / 1e6, 1
        )
        started = time.perf_counter_ns()
        assert kept.count() == total
        benchmark.extra_info["count ms"] = round((time.perf_counter_ns() - started) / 1e6, 2)
        benchmark.extra_info["file"] = memory.stats().l3_size_bytes
        benchmark.extra_info["most resident"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print("p50, p95:", dict(benchmark.extra_info))
    untimed(benchmark)
