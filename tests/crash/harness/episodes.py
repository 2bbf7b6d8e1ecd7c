"""What is done to a family of processes, and what must be true of their store afterwards.

Each function runs one episode on a new store and returns counts; what does not fit is in ``family.faults``.
"""

from __future__ import annotations

import os
import signal
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

from judge import Judge
from nursery import Family, Words
from waits import look_at_waits
from worker import open_store

import ntmem
from ntmem.tiers.region import region_path

WORKERS = 4
SMALL_LOGS = (1 << 16, 1 << 18, 1 << 18, 1 << 20)
LARGE_LOG = 1 << 23


def judge(family: Family, *, waits: list[int] | None = None, **options: Any) -> dict[str, Any]:
    """Open the store in a new process, compare it with the journals; return what that says of them."""

    def look() -> dict[str, Any]:
        judge = Judge(family.files)
        judge.judge_order()
        with open_store(family.setting, "judge") as memory:
            judge.judge_store(memory)
        if options.get("verify"):
            report = ntmem.verify(family.store)
            if not report.ok:
                judge.fault(f"verify: {report}")
        return {
            "faults": judge.faults,
            "acknowledged": judge.acknowledged,
            "waits": None if waits is None else look_at_waits(judge.journals, waits),
        }

    found = family.call(look)
    if found is None:
        return {"acknowledged": 0}
    family.faults += found["faults"]
    return found


def finish(family: Family, how: str) -> None:
    """End the family: killed, or asked to; then nothing may be left outside of the data file."""
    if how == "kill":
        family.kill_all()
        return
    if family.end_all() and not family.faults and family.words() is not None:
        family.faults.append("all have closed the store, and the region is still there")


# ---- killed at random ----


def killed_at_random(family: Family, kills: int, counts: Counter[str]) -> dict[str, Any]:
    """Kill one of the workers again and again."""
    chance = family.chance
    times: list[int] = []
    while len(times) < kills and not family.faults:
        while len(family.workers) < WORKERS:
            family.start()
        time.sleep(chance.choice((0.0005, 0.002, 0.006, 0.012, 0.02)) * chance.random())
        family.poll()
        words = family.words()
        victim = _choose(family, words)
        if victim is None:
            continue
        counts["leaders"] += words is not None and words.leader == victim
        counts["in a pass"] += words is not None and words.flusher == victim
        counts["holding the log"] += words is not None and words.writer == victim
        times.append(time.monotonic_ns())
        family.kill(victim)
        counts["kills"] += 1
    finish(family, "kill" if chance.random() < 0.6 else "end")
    return judge(family, waits=times, verify=chance.random() < 0.1)


def _choose(family: Family, words: Words | None) -> int | None:
    """Return a victim: any of them, often the leader, then often in the middle of a pass."""
    chance, workers = family.chance, family.workers
    if words is not None and chance.random() < 0.4:
        until = time.monotonic() + 0.02
        inside = chance.random() < 0.7
        while inside and words.flusher not in workers and time.monotonic() < until:
            pass
        if words.flusher in workers:
            for _ in range(chance.randrange(3000)):
                pass
            flusher, leader = words.flusher, words.leader  # read once: a word that is 0 by then names all of the lane
            return flusher if flusher in workers else leader if leader in workers else None
        leader = words.leader
        if leader in workers:
            return leader
    return chance.choice(list(workers)) if workers else None


# ---- at a failpoint ----

REPAIRED = ("sealed", "linked", "numbered", "half_written", "committed", "locked")
LONG = 0.15  # seconds: how long one is stopped at most
READERS = ("limit_taken", "head_taken", "half_copied", "copied", "hot_found", "hot_copied")
HOT_OWNERS = ("hot_locked", "hot_unlinked", "hot_raised", "hot_reclaimed", "hot_written", "hot_linked")
SMALL_CACHES = (1, 1 << 15, 1 << 20)


def arms_of(point: str, action: str, chance: Random) -> list[tuple[str, str, int]]:
    if point.startswith("repair"):
        return [
            (point, action, chance.randrange(1, 4) if point == "repair_linked" else 1),
            (chance.choice(REPAIRED[:3] if point not in ("repair_begun", "repaired") else REPAIRED), "kill",
             chance.randrange(1, 40)),
        ]  # fmt: skip
    if point == "flush_led":
        return [(point, action, 1)]
    if point == "hot_emptied":  # by who finds a lock whose owner has died
        return [(point, action, 1), (chance.choice(HOT_OWNERS), "kill", chance.randrange(1, 20))]
    if point.startswith("hot"):
        return [(point, action, chance.randrange(1, 12))]
    most = 60 if point in ("flush_read", "flush_applied") else 3 if point.startswith("flush") else 50
    return [(point, action, chance.randrange(1, most))]


def at_a_failpoint(family: Family, point: str, kills: int, stops: int, counts: Counter[str]) -> dict[str, Any]:
    """Let workers die at a failpoint, or stop there, to be continued or killed later."""
    chance, until = family.chance, time.monotonic() + 20
    wanted = {"kill": kills, "stop": stops}
    resume: dict[int, tuple[float, int]] = {}  # stopped: when to go on, and how far the log must be by then
    armed: dict[int, str] = {}

    def start() -> None:
        actions = [action for action in wanted for _ in range(max(wanted[action], 0))]
        if not actions or (chance.random() < 0.2 and not family.workers.keys() - armed.keys()):
            family.start()
            return
        action = chance.choice(actions)
        armed[family.start(arms_of(point, action, chance))] = action

    while (any(wanted[a] > 0 for a in wanted) or resume) and not family.faults and time.monotonic() < until:
        while len(family.workers) < WORKERS:
            start()
        event = family.poll()
        if event is None:
            time.sleep(0.0003)
        elif os.WIFSTOPPED(event[1]):
            wanted["stop"] -= 1
            counts["stops"] += 1
            resume[event[0]] = _resume_at(family, point, chance)
        elif event[1] == signal.SIGKILL and armed.get(event[0]) == "kill":
            wanted["kill"] -= 1
            counts["kills"] += 1
        words = family.words() if resume else None
        for pid, (at, position) in list(resume.items()):
            if time.monotonic() >= at and (
                words is None or words.committed >= position or time.monotonic() > at + LONG
            ):
                del resume[pid]
                if chance.random() < (0.8 if point in READERS else 0.5):
                    family.resume(pid)
                    counts["continued"] += 1
                else:
                    family.kill(pid)
    for pid in resume:
        family.resume(pid)
    finish(family, "kill" if chance.random() < 0.5 else "end")
    return judge(family)


def _resume_at(family: Family, point: str, chance: Random) -> tuple[float, int]:
    """A reader is left alone until the ring has turned, a flusher now and then until it is full."""
    words, size = family.words(), family.setting.log_bytes
    if point in READERS and words is not None:
        return time.monotonic(), words.committed + int(size * chance.choice((0, 1, 1.2, 2)))
    if point.startswith("flush") and words is not None and chance.random() < 0.4:
        return time.monotonic(), words.flushed + size - 4096
    return time.monotonic() + chance.choice((0, 0.005, 0.03)), 0


# ---- all of them ----


def killed_all_at_once(family: Family, rounds: int, counts: Counter[str]) -> dict[str, Any]:
    """Kill all again and again, and let a new process open what is left, which may be killed as well."""
    chance, found = family.chance, {"acknowledged": 0}
    for _ in range(rounds):
        for _ in range(WORKERS):
            family.start()
        family.wait_for_work(chance.choice((0, 1, 1, 3)))
        time.sleep(chance.random() * 0.06)
        family.poll()
        family.kill_all()
        counts["kills of all"] += 1
        counts["with a region left"] += family.words() is not None
        if chance.random() < 0.2:
            counts["damaged groups"] += damaged_and_refused(family)
        while chance.random() < 0.3:
            family.call(lambda: open_store(family.setting, "opener").close(), kill_after=chance.random() * 0.02)
            counts["openers killed"] += 1
        found = judge(family)
        if family.faults:
            break
    return found


def damaged_and_refused(family: Family) -> bool:
    """Flip a bit of the oldest group that is not on disk: it must not get there. Then flip it back."""
    words = family.words()
    if words is None:
        return False
    place = words.find_group(words.flushed, words.committed)
    if place is None:
        return False
    path, at = Path(region_path(str(family.store))), place + 4 + family.chance.randrange(4)  # in its checksum

    def write(byte: int) -> None:
        with open(path, "r+b") as file:
            file.seek(at)
            file.write(bytes([byte]))

    def attempt() -> str:
        try:
            open_store(family.setting, "refused").close()
        except ntmem.NtmemError:
            return "refused"
        return "taken"

    before = path.read_bytes()[at]
    write(before ^ 1 << family.chance.randrange(8))
    if family.call(attempt) != "refused":
        family.faults.append("a group whose checksum is wrong was taken")
        return True
    write(before)
    return True


# ---- one order ----


def linearizable(family: Family, kills: int, counts: Counter[str]) -> dict[str, Any]:
    """Let workers work on three keys, kill them, and look for an order that explains what all of them saw."""
    from history import Progress, Recorder, read_history
    from linear import check

    chance, life, keys = family.chance, 3000, 3
    files = family.place / "linear"
    files.mkdir()

    def work(number: int) -> Callable[[], None]:
        def run() -> None:
            with open_store(family.setting, f"worker {number}") as memory:
                recorder = Recorder(memory, files / str(number), life)
                _hammer(recorder, number, keys)

        return run

    running: dict[int, Progress] = {}
    begun = done = 0
    while done < kills:
        while len(running) < WORKERS:
            begun += 1
            running[family.fork(work(begun))] = Progress(files / str(begun), life)
        victim = chance.choice(list(running))
        least, until = chance.choice((0, 1, 20, 300, 1000)), time.monotonic() + 1
        while not running[victim].has_begun(least) and time.monotonic() < until:
            time.sleep(0.0002)
        for pid in list(running) if chance.random() < 0.1 else [victim]:
            os.kill(pid, signal.SIGKILL)
            status = os.waitpid(pid, 0)[1]
            del running[pid]
            done += 1
            if status not in (0, signal.SIGKILL):
                family.collect_errors(f"a worker ended with status {status}")
    for pid in running:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)

    def look() -> dict[str, Any]:
        with open_store(family.setting, "last") as memory:
            recorder = Recorder(memory, files / "last", keys)
            for key in range(keys):
                recorder.get_record(key)
        history = read_history(Path(files))
        why = check(history)
        return {"faults": [] if why is None else [str(why)], "acknowledged": len(history)}

    found = family.call(look, most=180) or {"faults": [], "acknowledged": 0}
    family.faults += found["faults"]
    counts["kills"] += done
    counts["histories"] += 1
    return found


def _hammer(recorder: Any, number: int, keys: int) -> None:
    chance, versions = Random(number), [0] * keys
    while recorder.left > 2:
        key, value = chance.randrange(keys), number << 32 | recorder.left
        kind = chance.choice(("get", "get", "record", "put", "if", "if", "old", "add", "add", "delete"))
        if kind == "get":
            recorder.get(key)
        elif kind == "record":
            versions[key] = recorder.get_record(key)[1]
        elif kind == "put":
            versions[key] = recorder.put(key, value)
        elif kind == "if":
            recorder.put(key, value, recorder.get_record(key)[1])
        elif kind == "old":
            recorder.put(key, value, versions[key])
        elif kind == "add":
            recorder.add(key, value)
        else:
            recorder.delete(key)
