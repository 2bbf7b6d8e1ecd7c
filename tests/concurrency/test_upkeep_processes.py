"""Processes that are killed within rounds of upkeep: nothing is lost but what was to go, and others go on."""

from __future__ import annotations

import random
import signal
from pathlib import Path

import pytest
from holders import until
from hostile import Start

import ntmem

pytestmark = [pytest.mark.crash, pytest.mark.usefixtures("engine"), pytest.mark.only("shared", "lmdb")]

ROUNDS = """
memory = ntmem.open(sys.argv[1], upkeep_interval=0)
say("ready")
while True:
    report = memory.upkeep()
    say(report.expired, report.records, report.rows)
"""


def test_who_is_killed_in_a_round_has_lost_nothing_else(ram: Path, start: Start) -> None:
    chance = random.Random(3)
    with ntmem.open(ram / "desk", upkeep_interval=0, enable_compression=False) as memory:
        memory.retain("few", max_entries=50)
        memory.retain("rows", max_entries=50)
        memory.put_many("other", {f"k{number}": b"%d" % number for number in range(100)})
        other = dict(memory.scan("other"))
        rows = 0
        for attempt in range(3):
            child = start(ROUNDS, ram / "desk")
            child.line()
            for part in range(10):
                memory.put_many("few", {f"{attempt}-{part}-{number:03d}": b"x" for number in range(100)})
                memory.put_many("short", {f"{attempt}-{part}-{number}": b"x" for number in range(100)}, ttl=0.001)
            times = {"ts_event": range(rows, rows + 100), "ts_known": [0] * 100, "x": range(rows, rows + 100)}
            memory.observations.extend("rows", "A", times)
            memory.observations.distill()
            rows += 100
            for _ in range(chance.randrange(3)):
                child.line()
            child.signal(signal.SIGKILL)
            child.process.wait()
            assert dict(memory.scan("other")) == other
            few = [key for key, _ in memory.scan("few")]
            assert few[-50:] == [f"{attempt}-9-{number:03d}" for number in range(50, 100)]
            left = memory.observations.range("rows", "A", 0, 10**18)["x"].tolist()
            assert left == list(range(rows - len(left), rows))
            assert len(left) >= 50
        memory.upkeep()
        assert len(list(memory.scan("few"))) == 50
        assert list(memory.scan("short")) == []
        memory.flush()  # what had expired before it was on disk is swept from there
        memory.upkeep()
        assert memory.upkeep().expired == 0
        assert memory.observations.info("rows", "A").rows < 50 + 300  # type: ignore[union-attr]


BACKGROUND = """
memory = ntmem.open(sys.argv[1], upkeep_interval=0.02, upkeep_share=1.0)
say("ready")
hear()
say("closing")
memory.close()
"""


def test_another_takes_over(ram: Path, start: Start) -> None:
    with ntmem.open(ram / "desk", upkeep_interval=0) as memory:
        memory.retain("few", max_entries=1)
        one, two = start(BACKGROUND, ram / "desk"), start(BACKGROUND, ram / "desk")
        for child in (one, two):
            child.line()
        memory.put_many("few", {"a": b"", "b": b""})
        until(lambda: memory.get("few", "a") is None)
        one.signal(signal.SIGKILL)
        memory.put_many("few", {"c": b"", "d": b""})
        until(lambda: memory.get("few", "c") is None)
        two.tell()
        assert two.line() == "closing"
        two.end()


FORKS = """
import os
from ntmem.tiers import upkeep
memory = ntmem.open(sys.argv[1], upkeep_interval=0.01, upkeep_share=1e-6)
memory.retain("few", max_entries=1)
memory.put_many("few", {str(number): b"" for number in range(5000)})
while not upkeep._turns: time.sleep(0.001)
if (pid := os.fork()) == 0:
    assert not upkeep._turns and not upkeep._keeper._kept
    memory.close()  # the thread that is at work is the parent's
    with ntmem.open(sys.argv[1], upkeep_interval=0) as again:
        again.upkeep()
    os._exit(5)
say(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
memory.close()
"""


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_forked_child_has_no_part_in_it(ram: Path, start: Start) -> None:
    child = start(FORKS, ram / "desk")
    assert child.line() == "5"
    child.end()
