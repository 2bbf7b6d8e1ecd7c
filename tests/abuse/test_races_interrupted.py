"""Ctrl-C in the moments that matter: with the log's mutex, a group that is committed, a store that is half closed."""

from __future__ import annotations

import time
from pathlib import Path
from signal import SIGUSR1
from typing import Any

import pytest
from hostile import HANG, Child, Start

import ntmem
from ntmem.tiers import shared
from ntmem.tiers.shared import SharedStore

pytestmark = [pytest.mark.only("shared"), pytest.mark.usefixtures("engine")]

LARGE = b"x" * 300_000  # more than an eighth of the log
LOG = 1 << 20


def sleeps(child: Child) -> bool:
    """Whether the child waits in the kernel."""
    stat = Path(f"/proc/{child.pid}/stat").read_text()
    return stat.rpartition(")")[2].split()[0] == "S"


@pytest.mark.parametrize("deed", ['retain("b", history=True)', 'delete_namespace("a")', 'put("a", "k" * 60000, b"")'])
def test_interrupted_while_waiting_for_the_log(deed: str, ram: Path, start: Start) -> None:
    """Whoever is interrupted as the log is given to him does not keep it."""
    path = ram / "store"
    with ntmem.open(path, log_bytes=1 << 16) as memory:
        memory.put("a", "k", b"1")
        log: Any = memory._live.log  # type: ignore[attr-defined]
        child = start(
            f"""
def handler(*_): raise KeyboardInterrupt
signal.signal(signal.SIGUSR1, handler)
memory = ntmem.open(sys.argv[1], log_bytes=1 << 16)
say("open")
while hear():
    say("waiting")
    try:
        memory.{deed}
        say("done")
    except KeyboardInterrupt:
        say("interrupted")
""",
            path,
        )
        assert child.line() == "open"
        for _ in range(5):
            log.lock(HANG)
            child.tell("go")
            assert child.line() == "waiting"
            until = time.monotonic() + HANG
            while not sleeps(child) and time.monotonic() < until:
                time.sleep(0.001)
            child.signal(SIGUSR1)
            log.unlock()
            assert child.line() in ("interrupted", "done")
            log.lock(2.0)  # WriterStalled: it has kept it
            log.unlock()
            memory.put("a", "k", b"2")
        child.tell()
        child.end()


class Interrupted:
    """A log whose `append` is interrupted when it is done."""

    def __init__(self, log: Any) -> None:
        self._log = log

    def __getattr__(self, name: str) -> Any:
        return getattr(self._log, name)

    def append(self, *args: Any, **kwargs: Any) -> int:
        self._log.append(*args, **kwargs)
        raise KeyboardInterrupt


def test_interrupted_when_a_large_value_is_committed(ram: Path) -> None:
    """Its value is not thrown away: the record that refers to it is in the log."""
    with ntmem.open(ram / "store", log_bytes=LOG) as memory:
        engine: Any = memory._live  # type: ignore[attr-defined]
        log = engine.log
        engine.log = Interrupted(log)
        with pytest.raises(KeyboardInterrupt):
            memory.put("a", "large", LARGE)
        engine.log = log
        memory.put("a", "small", b"1")
        memory.flush(HANG)
        assert memory.get("a", "large") == LARGE
    with ntmem.open(ram / "store", log_bytes=LOG) as memory:
        assert memory.get("a", "large") == LARGE


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("step", ["_leave", "_drain", "_remove_if_alone", "_note_log", "remove_region"])
def test_interrupted_while_closing(step: str, after: bool, ram: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever an interrupted close has left behind, the next opening goes on from."""
    where: Any = shared if step == "remove_region" else SharedStore
    do = getattr(where, step)

    def interrupted(*args: Any, **kwargs: Any) -> None:
        if after:
            do(*args, **kwargs)
        raise KeyboardInterrupt

    memory = ntmem.open(ram / "store", log_bytes=LOG, flush_interval=60.0)
    version = memory.put("a", "k", b"1")
    with monkeypatch.context() as patch:
        patch.setattr(where, step, interrupted)
        with pytest.raises(KeyboardInterrupt):
            memory.close()
    for n in range(2):
        with ntmem.open(ram / "store", log_bytes=LOG) as memory:
            assert memory.get("a", "k") == b"1"
            assert memory.put("a", f"next{n}", b"2") > version
    assert ntmem.verify(ram / "store").ok


@pytest.mark.parametrize("step", ["_drain", "_note_log", "remove_region"])
def test_killed_while_closing(step: str, ram: Path, start: Start) -> None:
    """Right before a step, that is: what the steps before it have left is whole."""
    where = "shared" if step == "remove_region" else "shared.SharedStore"
    child = start(
        f"""
from ntmem.tiers import shared
memory = ntmem.open(sys.argv[1], flush_interval=60.0)
say(memory.put("a", "k", b"1"))
{where}.{step} = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
memory.close()
""",
        ram / "store",
    )
    version = int(child.line())
    child.process.wait(HANG)
    with ntmem.open(ram / "store") as memory:
        assert memory.get("a", "k") == b"1"
        assert memory.put("a", "next", b"2") > version
    assert ntmem.verify(ram / "store").ok
