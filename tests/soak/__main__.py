"""``make soak``: processes work with all parts of a store for so long, and are killed every few seconds.

    python tests/soak [--seconds 600] [--workers 4] [--kill-every 3] [--budget 256000000] [--seed N] [--json FILE]

Looks whether memory and latencies stay as they are, whether everything acknowledged is there, whether `verify` finds
nothing, and whether two backups restore to what they were made of: one taken while all write, one while all rest. The
exit code is 1 if anything does not fit. Worker 0 is never killed, so that what it takes can be followed.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(1, str(Path(__file__).parent))
sys.path.insert(1, str(Path(__file__).parents[1] / "support"))

from diary import KINDS, PAUSE, RUN, STOP, Diary, percentile
from hostile import regions, remove_regions
from judge import digest, faults

import ntmem

WORKER = Path(__file__).with_name("worker.py")
SAMPLE_S = 1.0
PATIENCE_S = 60.0
MIB = 1 << 20
MALLOC = {"MALLOC_MMAP_THRESHOLD_": "262144"}  # what the guide advises to processes that live long
SETTLED_S = 120.0  # a shorter run is over before the parts of a store have what they use
GROWTH = 1.10  # of memory from the second fifth of a run to the last one
ALLOWANCE = 4 * MIB  # of what is too small to be told from chance


class Soak:
    """One run: the store, its workers, what was seen of them."""

    def __init__(self, options: argparse.Namespace, place: Path) -> None:
        self.options, self.place = options, place
        self.store = place / "store"
        self.chance = random.Random(options.seed)
        self.faults: list[str] = []
        self.kills = 0
        self.samples: list[dict[str, float]] = []
        self.times: list[Any] = []  # of all workers together, at the end of each tenth
        ntmem.open(self.store, max_memory_bytes=options.budget).close()
        self.diaries = [Diary(place / f"diary-{n}", make=True) for n in range(options.workers)]
        self.processes = [self.start(n) for n in range(options.workers)]

    def start(self, number: int) -> subprocess.Popen[bytes]:
        """Start a worker where its diary ends."""
        arguments = (self.store, self.place / f"diary-{number}", number, self.options.workers, self.options.budget)
        errors = (self.place / f"errors-{number}").open("ab")
        with errors:
            return subprocess.Popen(
                [sys.executable, WORKER, *map(str, arguments)], stderr=errors, env=os.environ | MALLOC
            )

    def run(self) -> None:
        """Work, kill and look until the time is over."""
        began = time.monotonic()
        end, following = began + self.options.seconds, began + self.options.kill_every
        middle, tenth = began + self.options.seconds / 2, 1
        while (now := time.monotonic()) < end:
            time.sleep(SAMPLE_S)
            self.revive()
            self.sample(now - began)
            if now >= following:
                following += self.options.kill_every
                self.kill(self.chance.randrange(1, self.options.workers) if self.options.workers > 1 else 0)
            if now >= began + tenth * self.options.seconds / 10:
                tenth += 1
                self.times.append(sum(np.array(it.times) for it in self.diaries))
            if now >= middle:
                middle = end
                self.back_up()
        self.revive()
        self.command(STOP)
        for number, process in enumerate(self.processes):
            if process.wait(PATIENCE_S) != 0:
                self.failed(number)
        self.times.append(sum(np.array(it.times) for it in self.diaries))
        self.judge_end()

    def kill(self, number: int) -> None:
        """End a worker at whatever it does, and start it anew."""
        self.processes[number].send_signal(signal.SIGKILL)
        self.processes[number].wait()
        self.kills += 1
        self.processes[number] = self.start(number)

    def revive(self) -> None:
        """Start anew who ended by itself, which is a fault."""
        for number, process in enumerate(self.processes):
            if process.poll() is not None:
                self.failed(number)
                self.processes[number] = self.start(number)

    def failed(self, number: int) -> None:
        text = (self.place / f"errors-{number}").read_text(errors="replace").strip()
        self.faults.append(f"worker {number} ended: {text[-1500:] or self.processes[number].returncode}")

    def command(self, word: int) -> None:
        for diary in self.diaries:
            diary.set_word("command", word)

    # -- what is looked at

    def sample(self, at: float) -> None:
        """Note what memory the store and the workers take."""
        files = [path for region in regions(self.place) for path in region.parent.glob(f"{region.name}*")]
        shared = 0
        for path in files:
            try:
                shared += path.stat().st_blocks * 512
            except FileNotFoundError:
                continue
        private = [anonymous(process.pid) for process in self.processes]
        disk = (self.store / "data.mdb").stat().st_blocks * 512
        self.samples.append({"at": at, "shared": shared, "first": private[0], "most": max(private), "disk": disk})

    def back_up(self) -> None:
        """Take a backup while all write, and one while all rest."""
        before = [diary.copy() for diary in self.diaries]
        with ntmem.open(self.store, max_memory_bytes=self.options.budget) as memory:
            memory.backup(self.place / "busy")
        self.check_restored("busy", lambda memory: faults(memory, before, [diary.copy() for diary in self.diaries]))
        self.command(PAUSE)
        until = time.monotonic() + PATIENCE_S
        while any(diary.word("answer") != PAUSE for diary in self.diaries) and time.monotonic() < until:
            self.revive()
            time.sleep(0.01)
        with ntmem.open(self.store, max_memory_bytes=self.options.budget) as memory:
            expected = self.back_up_at_rest(memory)
            found = sum(part.used for part in memory.stats().memory.values() if part.where == "shared")
        self.sample(-1.0)
        kernel = self.samples.pop()["shared"]
        if abs(found - kernel) > kernel / 20:
            self.faults.append(f"stats() says {found} bytes of shared memory, the kernel {kernel}")
        if found > self.options.budget:
            self.faults.append(f"{found} bytes of shared memory are more than the budget")
        self.command(RUN)

        def same(memory: ntmem.MemorySystem) -> list[str]:
            return ["the store that was restored is not the one of the backup"] * (digest(memory) != expected)

        self.check_restored("rest", same)

    def back_up_at_rest(self, memory: ntmem.MemorySystem) -> str:
        """Take a backup of a store in which nothing happens, and return the digest of both.

        Votes end by the clock, and upkeep and learning have to come to their ends: until then it is not at rest.
        """
        until = time.monotonic() + PATIENCE_S
        while memory.consensus.pending() and time.monotonic() < until:
            time.sleep(0.1)
        while True:
            expected = digest(memory)
            memory.backup(self.place / "rest")
            if digest(memory) == expected:
                return expected
            if time.monotonic() > until:
                self.faults.append("the store does not come to rest")
                return expected
            shutil.rmtree(self.place / "rest")

    def check_restored(self, name: str, look: Callable[[ntmem.MemorySystem], Any]) -> None:
        """Restore a backup and look at it."""
        target = self.place / f"{name}-restored"
        ntmem.restore(self.place / name, target)
        with ntmem.open(target, max_memory_bytes=self.options.budget) as memory:
            self.faults += [f"backup '{name}': {fault}" for fault in look(memory)]
        self.check(target)
        shutil.rmtree(self.place / name)
        shutil.rmtree(target)

    def check(self, store: Path) -> None:
        report = ntmem.verify(store)
        self.faults += [f"verify of {store.name}: {problem}" for problem in report.problems]

    def judge_end(self) -> None:
        """Look at the store when all have gone."""
        with ntmem.open(self.store, max_memory_bytes=self.options.budget) as memory:
            self.faults += faults(memory, self.diaries, self.diaries)
        self.check(self.store)

    # -- what is said

    def flatness(self) -> dict[str, tuple[float, float]]:
        """Return what was taken in the second fifth, and in the last, at most."""
        fifth = max(len(self.samples) // 5, 1)
        parts = self.samples[fifth : 2 * fifth] or self.samples, self.samples[-fifth:]
        early, late = ({name: max(it[name] for it in part) for name in ("shared", "first", "most")} for part in parts)
        for name in early:
            if self.options.seconds >= SETTLED_S and late[name] > max(early[name] * GROWTH, early[name] + ALLOWANCE):
                self.faults.append(f"{name}: {early[name] / MIB:.1f} MiB early, {late[name] / MIB:.1f} MiB late")
        return {name: (early[name] / MIB, late[name] / MIB) for name in early}

    def report(self) -> dict[str, Any]:
        """Return the figures of the run, and print them."""
        options = self.options
        print(f"\n{options.seconds:g} s, {options.workers} processes, {self.kills} kills, seed {options.seed}")
        memory = self.flatness()
        for name, (early, late) in memory.items():
            print(f"  {NAMES[name]:44} {early:8.1f} MiB early {late:8.1f} MiB late")
        print(f"  {'data file':44} {self.samples[-1]['disk'] / MIB:8.1f} MiB")
        steps = [after - before for before, after in zip(self.times, self.times[1:], strict=False)] or self.times
        print(f"\n  {'':10} {'done':>9} {'p50 us':>8} {'p99 us':>8}   p99 by tenth of the run")
        figures = {}
        for number, kind in enumerate(KINDS):
            done = sum(int(it.done[number]) for it in self.diaries)
            if not done:
                continue
            whole = self.times[-1][number]
            tenths = [percentile(step[number], 0.99) // 1000 for step in steps]
            figures[kind] = {
                "done": done,
                "p50": percentile(whole, 0.5),
                "p99": percentile(whole, 0.99),
                "tenths": tenths,
            }
            p50, p99 = figures[kind]["p50"] / 1000, figures[kind]["p99"] / 1000
            print(f"  {kind:10} {done:9,} {p50:8.0f} {p99:8.0f}   {' '.join(map(str, tenths))}")
        for fault in self.faults:
            print(f"FAULT {fault}")
        print("no fault" if not self.faults else f"{len(self.faults)} faults")
        return {"memory": memory, "calls": figures, "kills": self.kills, "faults": self.faults, "samples": self.samples}


NAMES = {
    "shared": "shared memory of the store",
    "first": "anonymous memory of the one never killed",
    "most": "anonymous memory of the largest process",
}


def anonymous(pid: int) -> int:
    """Return the bytes of anonymous memory of a process; 0: it is gone."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon:")), 0)


def main() -> int:
    """Run it, and return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=600.0)
    parser.add_argument("--workers", type=int, default=4)
    parser.add_argument("--kill-every", type=float, default=3.0)
    parser.add_argument("--budget", type=int, default=256_000_000)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(1 << 32))
    parser.add_argument("--json", type=Path, help="write the figures and all samples there")
    options = parser.parse_args()
    place = Path(tempfile.mkdtemp(prefix="ntmem-soak-", dir=os.environ.get("SOAK_DIR")))
    soak = None
    try:
        soak = Soak(options, place)
        soak.run()
        found = soak.report()
        if options.json:
            options.json.write_text(json.dumps(found))
        return int(bool(soak.faults))
    finally:
        for process in [] if soak is None else soak.processes:
            process.kill()
            process.wait()
        remove_regions(place)
        shutil.rmtree(place, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main())
