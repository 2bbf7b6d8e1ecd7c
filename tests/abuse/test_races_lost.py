"""A region that is lost with power, or that has lost its name: what is on disk goes on, and nothing old is served."""

from __future__ import annotations

from pathlib import Path

import pytest
from hostile import HANG, Start, remove_regions

import ntmem
from ntmem.tiers.region import region_path

pytestmark = [pytest.mark.only("shared"), pytest.mark.usefixtures("engine")]

PUT_AND_DIE = """
memory = ntmem.open(sys.argv[1], flush_interval=60.0)
say("open"); hear()
say(memory.put("a", "first", b"2"))
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_the_clock_on_disk_is_not_behind_what_was_written_past_the_log(ram: Path, start: Start) -> None:
    path = ram / "store"
    child = start(
        """
clock = ntmem.SimulatedClock(1000)
memory = ntmem.open(sys.argv[1], clock=clock, log_bytes=1 << 16)
memory.retain("a", history=True)
memory.put("a", "old", b"1"); memory.flush()
clock.set(5000)
with memory.transaction() as txn:
    for n in range(200): txn.put("a", f"k{n}", b"x" * 300)
say("written"); hear()
""",
        path,
    )
    assert child.line() == "written"
    child.kill()
    remove_regions(ram)  # power loss
    clock = ntmem.SimulatedClock(1000)
    with ntmem.open(path, clock=clock, log_bytes=1 << 16) as memory:
        record = memory.get_record("a", "k0")
        assert record is not None
        assert record.ts_known <= memory.now()
        assert memory.put("a", "k0", b"y") > record.version  # not behind a version from the future


@pytest.mark.parametrize("reader", [False, True])
def test_no_version_is_given_twice_after_a_loss(reader: bool, ram: Path, start: Start) -> None:
    path = ram / "store"
    with ntmem.open(path) as memory:
        memory.put("a", "k", b"1")
    first = start(PUT_AND_DIE, path)
    assert first.line() == "open"
    first.tell()
    version = int(first.line())
    first.process.wait(HANG)
    remove_regions(ram)  # power loss
    if reader:
        child = start('memory = ntmem.open(sys.argv[1], read_only=True); say(memory.get("a", "k")); hear()', path)
        assert child.line() == "b'1'"
    with ntmem.open(path) as memory:
        assert memory.get("a", "first") is None
        assert memory.put("a", "second", b"3") > version


def test_no_version_is_given_twice_after_a_loss_that_began_with_two(ram: Path, start: Start) -> None:
    """Who made the region has left it drained, and then the other one writes and is lost with it."""
    path = ram / "store"
    with ntmem.open(path) as memory:
        memory.put("a", "k", b"1")
        memory.flush()
        other = start(PUT_AND_DIE, path)
        assert other.line() == "open"
    other.tell()
    version = int(other.line())
    other.process.wait(HANG)
    remove_regions(ram)
    with ntmem.open(path) as memory:
        assert memory.put("a", "second", b"3") > version


@pytest.mark.parametrize("by_process", [True, False])
def test_a_reader_serves_nothing_old_when_the_region_has_no_name(by_process: bool, ram: Path, start: Start) -> None:
    """It finds the region through those who have it; and when it cannot, it says so."""
    path = ram / "store"
    memory = ntmem.open(path, flush_interval=60.0)
    memory.put("a", "k", b"old")
    memory.flush()
    Path(region_path(str(path))).unlink()
    memory.put("a", "k", b"new")
    blind = (
        ""
        if by_process
        else "from ntmem.tiers import region\ndef none(*_): raise FileNotFoundError\nregion._map_unnamed = none\n"
    )
    reader = start(
        blind
        + """
say(outcome(lambda: ntmem.open(sys.argv[1], read_only=True).get("a", "k")))
""",
        path,
    )
    found = reader.end()
    assert found == "b'new'" if by_process else found.startswith("StorageError: ")
    memory.close()
