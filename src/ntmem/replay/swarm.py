"""The processes of a replay: started, told what to do, listened to, killed, stopped, and started again.

**Invariants**

1. An acknowledgement counts once it has arrived, also from an agent that has been killed since: pipes are read to
   their end.
2. No process outlives the supervisor: their control pipes close with it, and that ends them (see `worker`). One that
   is stopped then is continued by the kernel, as it does with process groups that nobody is left for.
3. An agent that raises, ends by itself or is silent for too long is an :class:`AgentFailed`, never a wait for ever.
"""

from __future__ import annotations

import contextlib
import os
import selectors
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from .wire import Ack, Begin, Decided, Failed, Frames, FromAgent, Go, Ready, Refused, Stop, from_agent, send

_CHUNK = 1 << 16
_GRACE = 5.0
_START_TIMEOUT = 60.0
_POLL = 0.25
"""Seconds after which a wait looks up, so that Ctrl-C and time-outs are noticed."""


class AgentFailed(Exception):
    """An agent ended that should not have.

    Attributes
    ----------
    name : str
        The agent.
    details : str
        Its traceback, or empty.
    """

    def __init__(self, name: str, message: str, details: str = "") -> None:
        super().__init__(f"{name} {message}")
        self.name = name
        self.details = details


@dataclass
class Process:
    """A process that waits to be told which agent it is, and the supervisor's ends of its pipes."""

    process: subprocess.Popen[bytes]
    control: int
    reply: int

    def close(self) -> None:
        """End it."""
        self.process.kill()
        self.process.wait()
        os.close(self.control)
        os.close(self.reply)


@dataclass
class Worker:
    """One agent's process and the supervisor's ends of its pipes."""

    begin: Begin
    process: subprocess.Popen[bytes]
    control: int
    reply: int
    started_at: int
    frames: Frames = field(default_factory=Frames)
    ready: Ready | None = None
    decided: int = -1
    """The step that it has decided, and pauses in."""
    is_aside: bool = False
    """It was stopped, and is not the agent any more."""
    word: Refused | Ack | Failed | None = None
    """What it has said since."""
    ended: bool = False

    @property
    def name(self) -> str:
        """The agent's name."""
        return self.begin.name


class Swarm:
    """All agents of a replay.

    Parameters
    ----------
    on_ack : callable
        Called with the agent's name and its acknowledgement, in order of arrival.
    timeout : float
        Seconds an agent may take for a step.
    """

    def __init__(self, on_ack: Callable[[str, Ack], None], timeout: float) -> None:
        self.workers: dict[str, Worker] = {}
        self._on_ack = on_ack
        self._timeout = timeout
        self._selector = selectors.DefaultSelector()
        self._failures: list[AgentFailed] = []
        self._spares: list[Process] = []
        self._aside: list[Worker] = []

    def stand_by(self, agent: str | None, count: int) -> None:
        """Have processes ready, with everything imported, for the next agents that are started."""
        self._spares += [self._spawn(agent) for _ in range(count)]

    def start(self, begin: Begin) -> None:
        """Start an agent, in a process that stands by if any; it is ready when :meth:`wait_ready` returns."""
        started_at = time.monotonic_ns()
        process = self._spares.pop() if self._spares else self._spawn(begin.agent)
        worker = Worker(begin, process.process, process.control, process.reply, started_at)
        self.workers[begin.name] = worker
        self._selector.register(worker.reply, selectors.EVENT_READ, worker)
        self._tell(worker, begin)

    @staticmethod
    def _spawn(agent: str | None) -> Process:
        control_read, control_write = os.pipe()
        reply_read, reply_write = os.pipe()
        command = [sys.executable, "-P", "-m", "ntmem.replay.worker", str(control_read), str(reply_write), agent or ""]
        try:
            process = subprocess.Popen(
                command,
                pass_fds=(control_read, reply_write),
                stdin=subprocess.DEVNULL,
                stdout=2,  # standard output belongs to the report
                process_group=0,  # Ctrl-C is for the supervisor alone: it ends the agents between two steps
            )
        except BaseException:
            os.close(control_write)
            os.close(reply_read)
            raise
        finally:
            os.close(control_read)
            os.close(reply_write)
        os.set_blocking(reply_read, False)
        return Process(process, control_write, reply_read)

    def wait_ready(self, names: Iterable[str]) -> None:
        """Return when these agents have opened the store and read their state."""
        wanted = list(names)
        self._wait(
            lambda: [name for name in wanted if self.workers[name].ready is None], "become ready", _START_TIMEOUT
        )

    def go(self, names: Iterable[str], step: int, *, pause: bool = False) -> None:
        """Tell agents to do a step, or to decide it and pause."""
        for name in names:
            self._tell(self.workers[name], Go(step, pause))

    def wait_decided(self, name: str, step: int) -> None:
        """Return when an agent that was told to pause does."""
        worker = self.workers[name]
        self._wait(lambda: [name] if worker.decided < step else [], f"decide step {step}", self._timeout)

    def gather(self, pending: set[str], step: int) -> None:
        """Return when every agent in `pending` has acknowledged; `on_ack` takes them out."""
        self._wait(lambda: sorted(pending), f"acknowledge step {step}", self._timeout)

    def listen(self, seconds: float) -> None:
        """Take in what arrives within so many seconds."""
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            self._receive(left)

    def kill(self, name: str) -> int:
        """Send SIGKILL, read what the agent had still acknowledged, and return when it was, monotonic ns.

        Raises :class:`AgentFailed` if the agent had raised or ended by itself before the signal took effect.
        """
        worker = self.workers[name]
        before = len(self._failures)
        running = worker.process.poll() is None
        at = time.monotonic_ns()
        worker.process.send_signal(signal.SIGKILL)
        worker.process.wait()
        self._drain(worker)
        if running and worker.process.returncode == -signal.SIGKILL:  # this end is no failure, an exception is one
            self._failures[before:] = [failure for failure in self._failures[before:] if failure.details]
        self._forget(worker)
        for failure in self._failures:
            if failure.name == name:
                raise failure
        return at

    def freeze(self, name: str) -> Worker:
        """Stop an agent's process with SIGSTOP and set it aside: another one may be started under its name."""
        worker = self.workers[name]
        worker.is_aside = True
        self._aside.append(worker)
        worker.process.send_signal(signal.SIGSTOP)
        os.waitid(os.P_PID, worker.process.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)
        del self.workers[name]
        return worker

    def thaw(self, worker: Worker, step: int) -> Refused | Ack | Failed | None:
        """Continue a process that was stopped while it paused, tell it to go on, and end it when it has.

        Returns what became of its step; None: it ended without saying so.
        """
        self._tell(worker, Go(step))
        worker.process.send_signal(signal.SIGCONT)
        self._wait(
            lambda: [worker.name] if worker.word is None and not worker.ended else [],
            f"say what became of step {step}",
            self._timeout,
        )
        self._end_aside(worker)
        return worker.word

    def _end_aside(self, worker: Worker) -> None:
        self._aside.remove(worker)
        worker.process.kill()  # of a stopped process, too
        worker.process.wait()
        self._forget(worker)

    def stop(self) -> None:
        """Let every agent finish its step and end; kill those that do not."""
        for worker in self.workers.values():
            self._tell(worker, Stop())
        end = time.monotonic() + _GRACE
        for worker in self.workers.values():
            try:
                worker.process.wait(max(0.0, end - time.monotonic()))
            except subprocess.TimeoutExpired:
                worker.process.kill()
                worker.process.wait()
            self._drain(worker)
        self._failures.clear()

    def close(self) -> None:
        """Kill what is left and release everything; safe at any time."""
        for worker in self.workers.values():
            if worker.process.poll() is None:
                worker.process.kill()
        for worker in [*self._aside]:
            self._end_aside(worker)
        for worker in [*self.workers.values()]:
            worker.process.wait()
            self._forget(worker)
        while self._spares:
            self._spares.pop().close()
        self._selector.close()

    # -- pipes

    def _tell(self, worker: Worker, message: Begin | Go | Stop) -> None:
        with contextlib.suppress(BrokenPipeError):  # it has ended; its reply pipe says how
            send(worker.control, message)

    def _wait(self, pending: Callable[[], list[str]], what: str, timeout: float) -> None:
        silent_since = time.monotonic()
        while names := pending():
            if self._receive(_POLL):
                silent_since = time.monotonic()
            elif time.monotonic() - silent_since > timeout:
                raise AgentFailed(names[0], f"did not {what} within {timeout:g} s; is it stuck?")
            else:
                self._look_for_dead()
            if self._failures:
                raise self._failures[0]

    def _receive(self, seconds: float) -> bool:
        """Read what there is, waiting for it so long at most; return whether anything came."""
        events = self._selector.select(seconds)
        for key, _ in events:
            self._read(key.data)
        return bool(events)

    def _read(self, worker: Worker) -> None:
        data = os.read(worker.reply, _CHUNK)
        for body in worker.frames.feed(data):
            self._take(worker, from_agent.decode(body))
        if not data:
            self._end(worker)

    def _drain(self, worker: Worker) -> None:
        """Read what a dead agent has written: up to the end of the pipe, or what is in it if a child holds it open."""
        with contextlib.suppress(BlockingIOError):
            while not worker.ended:
                self._read(worker)

    def _look_for_dead(self) -> None:
        for worker in self.workers.values():
            if not worker.ended and worker.process.poll() is not None:
                self._drain(worker)
                if not worker.ended:
                    self._end(worker)

    def _end(self, worker: Worker) -> None:
        worker.ended = True
        self._selector.unregister(worker.reply)
        if not worker.is_aside:
            self._failures.append(AgentFailed(worker.name, _end_of(worker.process)))

    def _take(self, worker: Worker, message: FromAgent) -> None:
        if isinstance(message, Ready):
            worker.ready = message
        elif isinstance(message, Decided):
            worker.decided = message.step
        elif worker.is_aside or isinstance(message, Refused):
            worker.word = message
        elif isinstance(message, Ack):
            self._on_ack(worker.name, message)
        elif isinstance(message, Failed):
            where = "while it started" if message.step is None else f"in step {message.step}"
            self._failures.append(AgentFailed(worker.name, f"raised {where}", message.traceback))

    def _forget(self, worker: Worker) -> None:
        if not worker.ended:
            self._selector.unregister(worker.reply)
            worker.ended = True
        os.close(worker.control)
        os.close(worker.reply)
        if self.workers.get(worker.name) is worker:
            del self.workers[worker.name]


def _end_of(process: subprocess.Popen[bytes]) -> str:
    try:
        code = process.wait(_GRACE)
    except subprocess.TimeoutExpired:
        return "closed its pipe without a word"
    if code >= 0:
        return f"ended by itself with exit code {code}"
    try:
        return f"was ended by {signal.Signals(-code).name}"
    except ValueError:
        return f"was ended by signal {-code}"
