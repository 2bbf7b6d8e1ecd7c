"""Locks: what one costs that nobody else wants, what several processes get of it, how fast it changes hands."""

import asyncio
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from figures import note_times, percentile, untimed
from locking import (
    BETWEEN_PROCESSES,
    FORK,
    LONG,
    NAME,
    PEERS,
    Nursery,
    answer_grants,
    boot_ns,
    contend,
    kill,
    lock_of,
    ours,
    take_turns,
    words,
)

import ntmem

CALLS = 1_000
KILLS, STOPS, RELEASES = 200, 100, 300
SOURCE = Path(ntmem.__file__).parent / "_core"
PROGRAM = Path(__file__).parents[1] / "support" / "native_locks.c"


# ---- nobody else wants it ----


@pytest.mark.parametrize("peer", PEERS)
@pytest.mark.parametrize("way", ["acquire, release", "with"])
def test_uncontended_to(ratio_to, tmp_path, way, peer):
    with lock_of(peer, tmp_path) as opened, opened(tmp_path) as (acquire, release), ours(tmp_path) as (take, give):
        lock = take.__self__

        def by_calls():
            for _ in range(CALLS):
                take()
                give()

        def by_with():
            for _ in range(CALLS):
                with lock:
                    pass

        def theirs():
            for _ in range(CALLS):
                acquire()
                release()

        ratio_to(by_with if way == "with" else by_calls, theirs, calls=CALLS, repeats=1)


def test_means_of_64(benchmark, tmp_path):
    """Percentiles of means of 64 calls of acquire and release, from Python, the loop included."""
    times = []
    with ours(tmp_path) as (take, give):
        for _ in range(10_000):
            start = time.perf_counter_ns()
            for _ in range(64):
                take()
                give()
            times.append((time.perf_counter_ns() - start) / 64)
    for name, share in (("p50", 0.5), ("p99", 0.99)):
        benchmark.extra_info[f"{name} ns"] = round(percentile(times, share))
    untimed(benchmark)


def test_native(benchmark, tmp_path):
    """The same without Python, one by one: the clock's 30 ns are in it; `batch` is a call of a thousand."""
    source = SOURCE if (SOURCE / "leases.h").exists() else Path(__file__).parents[2] / "src" / "ntmem" / "_core"
    program = tmp_path / "native"
    subprocess.run(["gcc", "-O3", "-w", f"-I{source}", str(PROGRAM), "-o", str(program), "-lpthread"], check=True)
    figures = json.loads(subprocess.run([program, "300", "1000"], check=True, capture_output=True).stdout)
    for name, times in figures.items():
        benchmark.extra_info[name] = "/".join(f"{value:.0f}" for value in times.values()) + " ns"
    benchmark.extra_info["these are"] = "median of batches/p50/p99/p99.9"
    untimed(benchmark)


@pytest.mark.parametrize("kind", BETWEEN_PROCESSES)
def test_turns_of_two_processes(benchmark, tmp_path, kind):
    """Nobody waits, but the other process had it last."""
    with lock_of(kind, tmp_path) as opened:
        count = 500 if kind == "redis" else 10_000
        word, times, other = words(1), words(count), words(count)
        processes = [
            FORK.Process(target=take_turns, args=(opened, tmp_path, word, mine, count, into))
            for mine, into in ((0, times), (1, other))
        ]
        for process in processes:
            process.start()
        for process in processes:
            process.join()
            assert process.exitcode == 0
    note_times(benchmark, turn=[*times][count // 10 :])  # at first they run on one processor, or in cold caches


# ---- four processes want it ----


@pytest.mark.parametrize("kind", BETWEEN_PROCESSES)
def test_contended_by_four(benchmark, tmp_path, kind):
    """Acquired and given back as fast as can be; two processors for four processes."""
    seconds = 2.0
    with lock_of(kind, tmp_path) as opened:
        word = words(1)
        facts = [words(4) for _ in range(4)]
        processes = [FORK.Process(target=contend, args=(opened, tmp_path, word, seconds, each)) for each in facts]
        for process in processes:
            process.start()
        while not all(each[3] for each in facts):
            time.sleep(0.001)
        word[0] = 1
        for process in processes:
            process.join()
            assert process.exitcode == 0
    grants = [each[0] for each in facts]
    mean = sum(each[1] for each in facts) / sum(grants)
    longest = max(each[2] for each in facts)
    benchmark.extra_info.update(
        {
            "grants/s": round(sum(grants) / seconds),
            "mean wait us": round(mean / 1e3, 1),
            "longest wait us": round(longest / 1e3),
            "longest to mean": round(longest / mean),
            "most to least grants": round(max(grants) / max(min(grants), 1), 2),
        }
    )
    untimed(benchmark)


# ---- it changes hands ----


class Waiter(threading.Thread):
    """Waits for the lock in a thread; `at` is when it was granted."""

    def __init__(self, memory):
        super().__init__(daemon=True)
        self.lock = memory.lock(NAME, ttl=LONG)
        self.memory = memory
        self.start()
        while not memory.locks.list(NAME)[0].waiting:
            time.sleep(0.0001)
        time.sleep(random.uniform(0, 0.005))  # to be anywhere between two looks

    def run(self):
        self.lock.acquire()
        self.at = boot_ns()

    def granted_at(self):
        self.join(60)
        assert self.lock.fence is not None
        self.lock.release()
        return self.at


@pytest.fixture
def nursery(tmp_path):
    nursery = Nursery(tmp_path)
    yield nursery
    nursery.end()


def test_handover_after_kill(benchmark, nursery, tmp_path):
    """From the call of kill to the grant in a process that waits; and from when the killed one was dead.

    Dying takes a process a while, more if there is other work: it has to run for that.
    """
    killed, dead = [], []
    with ntmem.open(tmp_path / "store", engine="shared") as memory:
        for _ in range(KILLS):
            holder = nursery.hold(LONG)
            waiter = Waiter(memory)
            start, died = kill(holder)
            granted = waiter.granted_at()
            killed.append(granted - start)
            dead.append(max(granted - died, 0))  # its first thread may be gone before the others are
    note_times(benchmark, killed=killed, dead=dead)


def test_handover_after_expiry(benchmark, nursery, tmp_path):
    """From the instant at which the lease of a stopped process is over to the grant."""
    times = []
    with ntmem.open(tmp_path / "store", engine="shared") as memory:
        for _ in range(STOPS):
            holder = nursery.hold(0.1)
            os.kill(holder, signal.SIGSTOP)
            before = boot_ns()
            left = memory._engine().leases.list(NAME.encode())[0][5]
            expiry = (before + boot_ns()) // 2 + left
            assert left > 0
            times.append(Waiter(memory).granted_at() - expiry)
            kill(holder)
    note_times(benchmark, expired=times)


def test_handover_after_release(benchmark, tmp_path):
    """From the call of release to the grant in another process that waits."""
    times = []
    own, other = FORK.Pipe()
    process = FORK.Process(target=answer_grants, args=(tmp_path, other))
    process.start()
    assert own.recv() == "ready"
    with ntmem.open(tmp_path / "store", engine="shared") as memory:
        lock = memory.lock(NAME, ttl=LONG)
        for number in range(RELEASES):
            lock.acquire()
            own.send(True)
            assert own.recv() == "waits"
            while not memory.locks.list(NAME)[0].waiting:
                time.sleep(0.0001)
            time.sleep(0.0001 * (number % 50))
            start = boot_ns()
            lock.release()
            times.append(own.recv() - start)
        own.send(False)
    process.join(60)
    note_times(benchmark, released=times)


RELEASER = """
import sys, time, ntmem
with ntmem.open(sys.argv[1], engine="shared") as memory:
    while line := sys.stdin.readline():
        token = memory.acquire_lock("BTCUSDT", ttl=1000)
        print("held", flush=True); sys.stdin.readline()
        start = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
        memory.release_lock(token)
        print(start, flush=True)
"""


def test_handover_to_a_task(benchmark, tmp_path):
    """The same to a task of an event loop, which looks every 4 ms."""
    times, path = [], str(tmp_path / "store")
    child = subprocess.Popen(
        [sys.executable, "-c", RELEASER, path], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
    )

    async def main(memory):
        for number in range(RELEASES):
            child.stdin.write("\n")
            assert child.stdout.readline() == "held\n"
            task = asyncio.create_task(memory.aacquire_lock(NAME, ttl=LONG))
            while not memory.locks.list(NAME)[0].waiting:
                await asyncio.sleep(0)
            await asyncio.sleep(0.01 + 0.0001 * (number % 40))
            child.stdin.write("\n")
            token = await task
            now = boot_ns()
            times.append(now - int(child.stdout.readline()))
            memory.release_lock(token)

    with ntmem.open(path, engine="shared") as memory:
        asyncio.run(main(memory))
    child.stdin.close()
    child.stdout.close()
    assert child.wait() == 0
    note_times(benchmark, released=times)


# ---- what a fence costs ----


@pytest.mark.parametrize("what", ["lock", "fence"])
def test_fenced_put_to_plain(ratio_to, tmp_path, what):
    keys, value = [f"key-{number}" for number in range(CALLS)], b"v" * 64
    with ntmem.open(tmp_path / "store", engine="shared") as memory, memory.lock(NAME, ttl=LONG) as lock:
        fence = lock if what == "lock" else lock.fence

        def fenced():
            for key in keys:
                memory.put("fenced", key, value, fence=fence)

        def plain():
            for key in keys:
                memory.put("plain", key, value)

        ratio_to(fenced, plain, calls=CALLS, repeats=1, settle=memory.flush)
        assert memory.get_record("fenced", keys[0]).fence == lock.fence
