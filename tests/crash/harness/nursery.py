"""A process that has everything imported and no store open; it forks the processes of one store and ends them."""

from __future__ import annotations

import contextlib
import faulthandler
import json
import mmap
import os
import random
import shutil
import signal
import struct
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from worker import ENDED, Setting, prepare, run_worker

from ntmem.tiers.region import region_path

HANG = 60.0
_CONTROL = 4096  # the second page of a region; the words' places are those of log_control_t
_WRITER_HOLDER, _COMMITTED, _FLUSHED, _FLUSHER_HOLDER, _LEADER = 104, 128, 320, 552, 1032
_GROUP_MAGIC = 0x50524721


class Hang(Exception):
    """Something did not end in time."""


class Words:
    """The control words of a region, looked at from outside."""

    def __init__(self, directory: str) -> None:
        with open(region_path(directory), "rb") as file:
            self.map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)

    def _word(self, at: int, form: str) -> int:
        return int(struct.unpack_from(form, self.map, _CONTROL + at)[0])

    @property
    def leader(self) -> int:
        return self._word(_LEADER, "=I")

    @property
    def flusher(self) -> int:
        """The process that is in the middle of a pass."""
        return self._word(_FLUSHER_HOLDER, "=I")

    @property
    def writer(self) -> int:
        """The process that holds the log's mutex."""
        return self._word(_WRITER_HOLDER, "=I")

    @property
    def committed(self) -> int:
        return self._word(_COMMITTED, "=Q")

    @property
    def flushed(self) -> int:
        return self._word(_FLUSHED, "=Q")

    def find_group(self, position: int, end: int) -> int | None:
        """Return where in the file the group at a position stands; None if there is none before `end`."""
        magic = struct.pack("<I", _GROUP_MAGIC)
        at = self.map.find(magic) if position < end else -1
        while at >= 0 and struct.unpack_from("<Q", self.map, at + 8)[0] != position:
            at = self.map.find(magic, at + 1)
        return None if at < 0 else at


class Family:
    """The processes of one store in `place`; all are gone when the block ends."""

    def __init__(self, place: Path, chance: random.Random, **options: Any) -> None:
        self.place, self.chance = place, chance
        self.files, self.store = place / "files", place / "store"
        self.files.mkdir(parents=True)
        self.setting = Setting(str(self.store), str(self.files), **options)
        self.workers: dict[int, int] = {}  # pid: its number
        self.others: set[int] = set()
        self.stopped: set[int] = set()
        self.dying: dict[int, int] = {}
        self.started = 0
        self.faults: list[str] = []
        self.call(lambda: prepare(self.setting))

    def __enter__(self) -> Family:
        return self

    def __exit__(self, *exc: object) -> None:
        self.kill_all()
        with contextlib.suppress(OSError):
            os.unlink(region_path(str(self.store)))
        if not self.faults and exc[0] is None:
            shutil.rmtree(self.place)

    # -- births

    def fork(self, run: Callable[[], None]) -> int:
        pid = os.fork()
        if pid == 0:
            try:
                stacks = os.open(self.place / f"stacks {os.getpid()}", os.O_WRONLY | os.O_CREAT)
                faulthandler.register(signal.SIGUSR1, stacks, all_threads=True)
                run()
                os._exit(0)
            except BaseException:
                (self.place / f"error {os.getpid()}").write_text(traceback.format_exc())
            finally:
                os._exit(1)
        return pid

    def start(self, arms: list[tuple[str, str, int]] | None = None) -> int:
        """Start a worker; return its pid."""
        self.started += 1
        number = self.started
        pid = self.fork(lambda: run_worker(self.setting, number, arms or []))
        self.workers[pid] = number
        return pid

    def call(self, run: Callable[[], Any], most: float = HANG, *, kill_after: float | None = None) -> Any:
        """Run in a process of its own; return what it returned, None if it was killed or failed (a fault)."""
        answer = self.place / "answer"
        answer.unlink(missing_ok=True)

        def write() -> None:
            answer.write_text(json.dumps(run()))

        pid = self.fork(write)
        self.others.add(pid)
        if kill_after is not None:
            time.sleep(kill_after)
            os.kill(pid, signal.SIGKILL)
        status = self.wait(pid, most)
        self.others.discard(pid)
        if kill_after is not None and status == signal.SIGKILL:
            return None
        if status != 0:
            self.collect_errors(f"a call ended with status {status}")
            return None
        return json.loads(answer.read_text())

    def wait_for_work(self, count: int) -> None:
        """Return when so many of the workers have begun to work; not after too long."""
        until = time.monotonic() + 2
        while time.monotonic() < until:
            if sum((self.files / str(number)).exists() for number in self.workers.values()) >= count:
                return
            time.sleep(0.001)

    # -- deaths

    def wait(self, pid: int, most: float = HANG) -> int:
        until = time.monotonic() + most
        while time.monotonic() < until:
            found, status = os.waitpid(pid, os.WNOHANG)
            if found:
                return status
            time.sleep(0.0003)
        self.dump_stacks()
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        raise Hang(f"process {pid} did not end in {most:.0f} s; stacks are in {self.place}")

    def poll(self) -> tuple[int, int] | None:
        """Return (pid, status) of a worker that has died or stopped since; None if none has."""
        for pid in list(self.dying):
            if os.waitpid(pid, os.WNOHANG)[0]:
                del self.dying[pid]
        for pid in list(self.workers):
            if pid in self.stopped:
                continue
            found, status = os.waitpid(pid, os.WNOHANG | os.WUNTRACED)
            if found and os.WIFSTOPPED(status):
                self.stopped.add(pid)
                return pid, status
            if found:
                self.gone(pid, status)
                return pid, status
        return None

    def gone(self, pid: int, status: int) -> None:
        number = self.workers.pop(pid)
        self.stopped.discard(pid)
        if status not in (ENDED, signal.SIGKILL):
            self.collect_errors(f"worker {number} ended with status {status}")

    def kill(self, pid: int) -> None:
        """Kill one; nobody waits until it is gone."""
        number = self.workers.pop(pid)  # who is none of ours is not killed
        os.kill(pid, signal.SIGKILL)
        self.dying[pid] = number
        self.stopped.discard(pid)

    def resume(self, pid: int) -> None:
        """Let a stopped one go on."""
        self.stopped.discard(pid)
        os.kill(pid, signal.SIGCONT)

    def kill_all(self) -> None:
        """Kill all at once, in an order by chance."""
        pids = list(self.workers)
        self.chance.shuffle(pids)
        for pid in [*pids, *self.others]:
            os.kill(pid, signal.SIGKILL)
        for pid in pids:
            self.gone(pid, os.waitpid(pid, 0)[1])
        for pid in [*self.others, *self.dying]:
            os.waitpid(pid, 0)
        self.others.clear()
        self.dying.clear()

    def end_all(self) -> bool:
        """Ask all to end and wait until they have; return whether none of them died of a failpoint instead."""
        for pid in self.dying:
            self.wait(pid)
        self.dying.clear()
        all_ended = True
        (self.place / "stop").touch()
        for pid in list(self.stopped):
            self.resume(pid)
        until = time.monotonic() + HANG
        while self.workers:
            event = self.poll()
            if event is None:
                time.sleep(0.0003)
            elif os.WIFSTOPPED(event[1]):  # on its way out it has come to its failpoint
                self.resume(event[0])
            else:
                all_ended &= event[1] == ENDED
            if time.monotonic() > until:
                self.dump_stacks()
                raise Hang(f"processes {list(self.workers)} do not end; stacks are in {self.place}")
        (self.place / "stop").unlink()
        return all_ended

    # -- what went wrong

    def collect_errors(self, what: str) -> None:
        texts = [path.read_text()[-1500:] for path in self.place.glob("error *")]
        for path in self.place.glob("error *"):
            path.unlink()
        self.faults.append(f"{what}: {' | '.join(texts) or 'it said nothing'}")

    def dump_stacks(self) -> None:
        for pid in [*self.workers, *self.others]:
            with contextlib.suppress(OSError):
                os.kill(pid, signal.SIGUSR1)
        time.sleep(0.2)

    def words(self) -> Words | None:
        """The control words, if there is a region by now."""
        try:
            return Words(str(self.store))
        except (OSError, ValueError):
            return None
