"""Processes to be hostile with, and directories that vanish.

A child is Python text run by this interpreter with this process's import path. It and the test take turns by lines:
what the child prints the test waits for, what the test tells the child reads. Nothing sleeps to be right; every
time-out is only there so that a hang fails instead of hanging the suite.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from ntmem.tiers.region import region_path, remove_tails

HANG = 60.0
NOBODY = 65534

_HELPERS = """
import os, signal, sys, threading, time
import ntmem
signal.signal(signal.SIGHUP, signal.SIG_DFL)  # under nohup it is ignored, which children inherit
def say(*words):
    print(*words, flush=True)
def hear():
    return sys.stdin.readline().strip()
def outcome(function, *args, **kwargs):
    try:
        return repr(function(*args, **kwargs))
    except ntmem.NtmemError as error:
        return f"{type(error).__name__}: {error}"
def become_nobody():
    import ntmem.tiers.walking, subprocess, tempfile  # what is imported later may lie where nobody may read
    ntmem.open().close(); ntmem.open(engine="lmdb").close()  # and what opening imports
    if os.getuid() == 0:
        os.setgroups([])
        os.setresgid(65534, 65534, 65534)
        os.setresuid(65534, 65534, 65534)
"""


class Child:
    """A Python process that runs `code`; ``sys.argv[1:]`` are `args`. `under` is a command that becomes it."""

    def __init__(self, code: str, *args: object, env: dict[str, str] | None = None, under: Sequence[str] = ()) -> None:
        self._errors = tempfile.TemporaryFile("w+")  # noqa: SIM115 (closed by kill)
        self._hung = False
        self._is_over = False
        self.process = subprocess.Popen(
            [*under, sys.executable, "-c", _HELPERS + code, *map(str, args)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
            start_new_session=True,  # what it forks ends with it
            env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)} | (env or {}),
        )
        self.pid = self.process.pid

    def line(self) -> str:
        """Return the next line it prints; fail when it ends instead, or hangs."""
        assert self.process.stdout is not None
        with self._watched():
            line = self.process.stdout.readline()
        if not line:
            self._kill_all()
            raise AssertionError(f"the child ended ({self.process.wait()}): {self.complaint()}")
        return line.strip()

    def tell(self, line: str = "") -> None:
        """Give it a line."""
        assert self.process.stdin is not None
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()

    def signal(self, number: signal.Signals) -> None:
        """Send it a signal."""
        self.process.send_signal(number)

    def stop(self) -> None:
        """Stop it and return when it is stopped."""
        self.signal(signal.SIGSTOP)
        _, status = os.waitpid(self.pid, os.WUNTRACED)
        assert os.WIFSTOPPED(status)

    def end(self) -> str:
        """Wait until it has ended well; return the rest of what it printed."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.close()
        with self._watched():
            rest = self.process.stdout.read()  # communicate() would pass over what line() has read ahead
            self.process.wait()
        try:
            os.killpg(self.pid, 0)
        except ProcessLookupError:
            self._is_over = True
        assert self.process.returncode == 0, f"the child ended with {self.process.returncode}: {self.complaint()}"
        return rest.strip()

    def kill(self) -> None:
        """End it by force, stopped or not."""
        self._kill_all()
        self.process.wait()
        self._is_over = True
        for pipe in (self.process.stdin, self.process.stdout, self._errors):
            if pipe is not None:
                with contextlib.suppress(BrokenPipeError):
                    pipe.close()

    def _kill_all(self) -> None:
        if not self._is_over:  # else its number may be another's by now, who would die of this
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.pid, signal.SIGKILL)

    def complaint(self) -> str:
        """Return what it wrote to its standard error."""
        self._errors.seek(0)
        return ("it hung; " if self._hung else "") + self._errors.read()

    @contextlib.contextmanager
    def _watched(self) -> Iterator[None]:
        """Kill it when the block takes too long."""

        def end() -> None:
            self._hung = True
            self._kill_all()

        watch = threading.Timer(HANG, end)
        watch.start()
        try:
            yield
        finally:
            watch.cancel()


Start = Callable[..., Child]


@contextlib.contextmanager
def children() -> Iterator[Start]:
    """Give a function that starts children; all are gone when the block ends."""
    started: list[Child] = []

    def start(code: str, *args: object, env: dict[str, str] | None = None, under: Sequence[str] = ()) -> Child:
        started.append(Child(code, *args, env=env, under=under))
        return started[-1]

    try:
        yield start
    finally:
        for child in started:
            child.kill()


@contextlib.contextmanager
def ram_directory() -> Iterator[Path]:
    """Give a directory on a RAM disk where there is one: thousands of synced writes take no time there.

    What killed processes left of its stores in shared memory goes with it.
    """
    shm = Path("/dev/shm")
    path = Path(tempfile.mkdtemp(prefix="test-", dir=shm if shm.is_dir() else None))
    path.chmod(0o755)
    try:
        yield path
    finally:
        remove_regions(path)
        for store in _stores(path):
            remove_tails(region_path(str(store)))
        shutil.rmtree(path)


def regions(path: Path) -> list[Path]:
    """Return the regions in shared memory of the stores below `path`."""
    names = {Path(region_path(str(store))) for store in _stores(path)}
    return sorted(name for name in names if name.exists())


def _stores(path: Path) -> set[Path]:
    return {file.parent for file in path.rglob("data.mdb") if file.is_file()}


def remove_regions(path: Path) -> None:
    """Remove them: their stores are about to be removed, too."""
    for region in regions(path):
        region.unlink()
