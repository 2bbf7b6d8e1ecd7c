"""What the logger `ntmem` tells operators, and that it is silent unless a program wants to hear it."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from click.testing import CliRunner
from hostile import Start

import ntmem
from ntmem.cli.commands import cli
from ntmem.tiers.events import Events

DYING = """
memory = ntmem.open(sys.argv[1], engine="shared", flush_interval=1000)
memory.put("desk", "k", b"v" * 5000)
say("open")
hear()
"""
LEADER = """
memory = ntmem.open(sys.argv[1], engine="shared")
memory.put("desk", "k", b"v")
memory.flush()
say("open")
hear()
"""


def told(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [f"{record.levelname} {record.getMessage()}" for record in caplog.records if record.name == "ntmem"]


@pytest.fixture(autouse=True)
def heard(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="ntmem")


@pytest.mark.usefixtures("engine")
def test_opening_and_closing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "desk"
    with ntmem.open(path), ntmem.open(path):  # one store, however many handles
        pass
    ntmem.open(path, read_only=True).close()
    ntmem.open().close()
    assert told(caplog) == [
        *(f"INFO {path}: opened", f"INFO {path}: closed"),
        *(f"INFO {path}: opened for reading", f"INFO {path}: closed"),
    ]


def test_what_the_dead_left_is_told(tmp_path: Path, start: Start, caplog: pytest.LogCaptureFixture) -> None:
    child = start(DYING, tmp_path / "desk")
    child.line()
    child.kill()
    with ntmem.open(tmp_path / "desk", engine="shared") as memory:
        assert memory.get("desk", "k") == b"v" * 5000
    (line,) = (line for line in told(caplog) if line.startswith("WARNING"))
    assert "its processes have died" in line
    assert int(line.split(" bytes")[0].split()[-1]) > 5000


def test_another_process_that_flushes_is_told(tmp_path: Path, start: Start, caplog: pytest.LogCaptureFixture) -> None:
    child = start(LEADER, tmp_path / "desk")
    child.line()
    with ntmem.open(tmp_path / "desk", engine="shared") as memory:
        memory.stats()
        child.kill()
        memory.put("desk", "k2", b"v")
        memory.flush()
        assert f"process {os.getpid()} brings changes to disk now, after {child.pid}" in "\n".join(told(caplog))
        before = len(told(caplog))
        memory.stats()
        assert len(told(caplog)) == before  # once


def test_a_full_store_is_told_once_and_when_it_is_over(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with ntmem.open(tmp_path / "desk", engine="shared", max_storage_bytes=1 << 20) as memory:
        with pytest.raises(ntmem.MapFull):
            for number in range(1000):
                memory.put("desk", f"k{number}", b"v" * 10_000)
                memory.flush()
        with pytest.raises(ntmem.MapFull):
            memory.put("desk", "another", b"v" * 10_000, ttl=60)
        refused = [line for line in told(caplog) if "writes are refused" in line]
        assert len(refused) == 1
        assert refused[0].startswith("ERROR")
        memory.delete_namespace("desk")
        memory.flush()
        while not any("takes writes again" in line for line in told(caplog)):
            memory.stats()


def test_a_slow_flush_is_told_when_there_was_none_as_slow(caplog: pytest.LogCaptureFixture) -> None:
    class Shared:
        trouble = None
        leader = 1

    class Slow:
        seconds = 0.5

        def counts(self) -> dict[str, float]:
            return {"longest_pass": self.seconds}

    flusher = Slow()
    events = Events("desk", Shared(), flusher)  # type: ignore[arg-type]
    for seconds in (0.5, 2.0, 2.0, 3.0):
        flusher.seconds = seconds
        events.look()
    assert [line.split("took ")[1][:5] for line in told(caplog)] == ["2.0 s", "3.0 s"]


def test_a_lock_that_was_lost_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with ntmem.open(tmp_path / "desk", engine="shared") as memory:
        lock = memory.lock("BTC", ttl=60)
        lock.acquire()
        memory.release_lock(lock.token or "")
        with pytest.raises(ntmem.LockLost):
            lock.release()
    assert "WARNING the lock of 'BTC' (fence 1) was lost" in told(caplog)


def test_a_graph_that_was_made_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    import numpy as np

    with ntmem.open(tmp_path / "desk", engine="shared") as memory:
        rows = np.random.default_rng(1).normal(size=(600, 8)).astype(np.float32)
        memory.vectors.add_many("v", [str(number) for number in range(len(rows))], rows)
        assert memory.vectors.compact("v")
    assert any("a graph of" in line and "was made" in line for line in told(caplog))


def test_nobody_who_has_not_asked_hears_anything(tmp_path: Path) -> None:
    code = "import ntmem, logging, sys; logging.getLogger('ntmem').warning('x'); ntmem.open(sys.argv[1]).close()"
    env = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    run = subprocess.run([sys.executable, "-c", code, tmp_path], env=env, capture_output=True, check=True)
    assert (run.stdout, run.stderr) == (b"", b"")


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_is_for_this_program(shell: str) -> None:
    run = CliRunner().invoke(cli, ["completion", shell])
    assert run.exit_code == 0
    assert f"_NTMEM_COMPLETE={shell}_complete" in run.stdout
    code = "from ntmem.cli import main; main()"
    env = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "_NTMEM_COMPLETE": "bash_complete"}
    env |= {"COMP_WORDS": "ntmem serve-", "COMP_CWORD": "1"}
    if shell == "bash":  # what that script calls
        said = subprocess.run([sys.executable, "-c", f"import sys; sys.argv = ['ntmem']; {code}"], env=env, text=True,
                              capture_output=True, check=False)  # fmt: skip
        assert "serve-metrics" in said.stdout


def test_a_handler_may_open_stores_itself(tmp_path: Path) -> None:
    """One that keeps messages in a store, while another thread opens one: neither waits for the other's lock."""
    inside, opened = threading.Event(), threading.Event()

    class Keeping(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if record.getMessage().endswith("first: opened") and not inside.is_set():
                inside.set()
                assert opened.wait(30)

    handler = Keeping()
    logger = logging.getLogger("ntmem")
    logger.addHandler(handler)
    try:
        thread = threading.Thread(target=lambda: ntmem.open(tmp_path / "first").close())
        thread.start()
        assert inside.wait(30)
        other = threading.Thread(target=ntmem.open, args=(tmp_path / "second",), daemon=True)
        logger.removeHandler(handler)  # only the registry is in question here
        other.start()
        other.join(20)
        was_held_up = other.is_alive()
        opened.set()
        thread.join()
    finally:
        logger.removeHandler(handler)
    assert not was_held_up
