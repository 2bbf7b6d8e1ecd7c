"""The verb `top`: frames, what is between them, and the terminal that it gives back."""

from __future__ import annotations

import json
import os
import pty
import select
import signal
import subprocess
import sys
import termios
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from hostile import HANG, Child, Start
from msgspec import structs

import ntmem
from ntmem.cli.commands import cli
from ntmem.cli.readable import duration, number, size
from ntmem.cli.top import document, frame, hit_rate
from ntmem.gauges import GaugeReader, Gauges, MemoryUse
from ntmem.tiers.operations import Operation
from ntmem.tiers.region import region_path

EVIL = "\x1b[31m[red]al\nice"
TRADER = """
memory = ntmem.open(sys.argv[1], engine="shared")
memory.agents.register(sys.argv[2], ttl=60)
lock = memory.lock("BTC" + sys.argv[2], ttl=60)
lock.acquire()
say("open")
hear()
memory.close()
"""
TOP = """
import signal
from ntmem.cli import main
signal.signal(signal.SIGINT, signal.default_int_handler)
sys.argv = ["ntmem", "top", "--interval", "0.1", "--store", *sys.argv[1:]]
main()
"""


def trader(start: Start, store: Path, name: str = EVIL) -> Child:
    child = start(TRADER, store, name)
    assert child.line() == "open"
    return child


def look(watcher: Child) -> Any:
    return json.loads(watcher.line())


@pytest.fixture
def memory(store: Path) -> Iterator[ntmem.MemorySystem]:
    with ntmem.open(store, engine="shared") as memory:
        memory.agents.register(EVIL, ttl=60)
        with memory.lock("BTC" + EVIL, ttl=60):
            yield memory


def use(memory: ntmem.MemorySystem) -> None:
    for n in range(100):
        memory.put("desk", f"k{n}", b"v")
        memory.get("desk", f"k{n}")


def test_rates_are_of_the_time_between_two_looks(memory: ntmem.MemorySystem, store: Path) -> None:
    reader = GaugeReader(store)
    use(memory)
    before = reader.read()
    use(memory)
    now = reader.read()
    found = document(now, before)
    assert found["operations"]["put"]["calls"] >= 200  # the agent is one, too
    assert found["operations"]["put"]["per_second"] == pytest.approx(100 / found["interval"])
    assert found["hit_rate"] == 1.0
    assert document(now, None)["operations"]["put"]["per_second"] is None
    assert [agent["agent_id"] for agent in found["agents"]] == [EVIL]
    (lock,) = found["locks"]
    assert (lock["resource"], lock["pid"]) == ("BTC" + EVIL, os.getpid())
    assert 0 < found["memory"]["hot"]["used"] <= found["memory"]["hot"]["limit"]


def test_a_frame_fits_the_terminal_and_says_nothing_to_it(memory: ntmem.MemorySystem, store: Path) -> None:
    reader = GaugeReader(store)
    use(memory)
    before = reader.read()
    now = structs.replace(reader.read(), problems=("a process is stopped; " * 20,))
    for width, height in [(80, 24), (40, 10), (200, 60), (57, 3)]:
        made = frame(now, before, width, height).plain
        lines = made.split("\n")
        assert len(lines) <= height
        assert max(map(len, lines)) <= width
        assert made.replace("\n", "").isprintable()
        if height >= 24:
            assert "[red]al" in made
            assert "lock_wait" in made


def test_figures_are_those_that_people_read() -> None:
    assert [duration(ns) for ns in (None, 0, 999, 1000, 81_900, 2_100_000, 3e9)] == (
        ["-", "0 ns", "999 ns", "1.0 µs", "81.9 µs", "2.1 ms", "3.0 s"]
    )
    sizes = (0, 1023, 1024, 10 << 20, 3 << 40)
    assert [size(count) for count in sizes] == ["0 B", "1023 B", "1.0 kB", "10.0 MB", "3.0 TB"]
    rates = (0, 0.25, 99, 12_345, 123_456, 2.5e6)
    assert [number(rate) for rate in rates] == ["0", "0.2", "99.0", "12,345", "123.5k", "2.5M"]


def test_another_region_begins_anew() -> None:
    def gauges(region: str, calls: int, hits: int) -> Gauges:
        reads = {"hot": hits, "log": 0, "disk": hits, "absent": 0, "left": 0}
        operations = {"get": Operation(calls)}
        return Gauges(at=float(calls), directory=None, region=region, operations=operations, reads=reads)

    assert document(gauges("a", 7, 3), gauges("a", 5, 2))["operations"]["get"]["per_second"] == 1.0
    assert document(gauges("b", 7, 3), gauges("a", 5, 2))["operations"]["get"]["per_second"] is None
    assert hit_rate(gauges("b", 7, 3), gauges("a", 5, 300)) == 0.5
    assert hit_rate(gauges("a", 7, 3), gauges("a", 7, 3)) is None


def test_a_log_that_is_nearly_full_is_red() -> None:
    now = Gauges(at=0.0, directory="x", region="a", memory={"log": MemoryUse(9, 10), "hot": MemoryUse(9, 10)})
    styles = [span.style for span in frame(now, None, 80).spans]
    assert styles.count("red") == 1


def test_it_keeps_nobody_from_leaving_and_finds_who_comes_again(store: Path, start: Start) -> None:
    watcher = start(TOP, store, "--json")
    assert look(watcher)["state"] == "none"
    child = trader(start, store, "alice")
    while not (seen := look(watcher))["agents"]:
        pass
    assert (seen["state"], seen["agents"][0]["status"]) == ("in use", "alive")
    assert [process["pid"] for process in seen["processes"]] == [child.pid]
    child.tell("")
    child.end()
    assert not os.path.exists(region_path(str(store)))  # the last who left took it away
    while look(watcher)["state"] != "none":
        pass
    with ntmem.open(store, engine="shared") as memory:
        use(memory)
        while "put" not in (seen := look(watcher))["operations"]:
            pass
    assert seen["operations"]["put"]["calls"] <= 100
    watcher.signal(signal.SIGTERM)
    watcher.end()


def test_of_the_dead_there_are_no_figures(store: Path, start: Start) -> None:
    reader = GaugeReader(store)
    child = trader(start, store, "alice")
    assert [agent.agent_id for agent in reader.read().agents] == ["alice"]
    child.kill()
    found = reader.read()
    assert found.state in ("stale", "left behind")
    assert (found.region, found.agents, found.operations) == (None, (), {})
    assert "nobody has it open" in frame(found, None, 80).plain


def test_a_store_that_was_opened_anew_between_two_looks(store: Path) -> None:
    reader = GaugeReader(store)
    seen = []
    for count in (10, 20):
        with ntmem.open(store, engine="shared") as memory:
            for n in range(count):
                memory.put("desk", f"k{n}", b"v")
            seen.append(reader.read())
    assert [gauges.operations["put"].calls for gauges in seen] == [10, 20]
    assert seen[0].region != seen[1].region


def test_one_frame(store: Path) -> None:
    run = CliRunner().invoke(cli, ["top", "--once", "--store", str(store)])
    assert run.exit_code == 0
    assert "nobody has it open" in run.stdout
    with ntmem.open(store, engine="shared") as memory:
        memory.get("desk", "k")
        run = CliRunner().invoke(cli, ["top", "--once", "--interval", "0.1", "--store", str(store)])
        assert run.exit_code == 0
        assert "hit rate" in run.stdout
        assert (
            json.loads(
                CliRunner().invoke(cli, ["top", "--once", "--json", "--interval", "0.1", "--store", str(store)]).stdout
            )["operations"]["get"]["per_second"]
            == 0
        )
    assert CliRunner().invoke(cli, ["top", "--store", str(store / "none")]).exit_code == 3


@pytest.mark.parametrize("ending", [b"q", signal.SIGINT])
def test_the_terminal_is_given_back(store: Path, ending: bytes | signal.Signals) -> None:
    master, slave = pty.openpty()
    termios.tcsetwinsize(slave, (24, 80))
    before = termios.tcgetattr(slave)
    env = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "TERM": "xterm"}
    code = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); import ntmem.cli; ntmem.cli.main()"
    arguments = [sys.executable, "-c", code, "top", "--store", str(store), "--interval", "0.1"]
    top = subprocess.Popen(arguments, stdin=slave, stdout=slave, stderr=slave, env=env, start_new_session=True)
    try:
        seen = b""
        while seen.count(b"nobody has it open") < 2:
            assert select.select([master], [], [], HANG)[0], seen
            seen += os.read(master, 65536)
        assert b"\x1b[?1049h" in seen  # the alternate screen
        if isinstance(ending, bytes):
            os.write(master, ending)
        else:
            top.send_signal(ending)
        while b"\x1b[?1049l" not in seen or b"\x1b[?25h" not in seen[seen.index(b"\x1b[?1049h") :]:
            assert select.select([master], [], [], HANG)[0], seen[-200:]
            seen += os.read(master, 65536)
        assert top.wait(HANG) == 0
        assert termios.tcgetattr(slave) == before
    finally:
        top.kill()
        top.wait()
        os.close(master)
        os.close(slave)
