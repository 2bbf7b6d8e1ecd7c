"""The store's clock when the machine's is set, suspended, rebooted; and the simulated one.

The machine's clock is never touched. A test puts its own in the place of :mod:`ntmem.clock`'s three functions; but the
boot clock of a store in shared memory is read by native code, so there a time namespace of Linux moves it.
"""

from __future__ import annotations

import pickle
import random
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from hostile import HANG, Start

import ntmem
import ntmem.clock
import ntmem.tiers.engine
import ntmem.tiers.logreads

pytestmark = pytest.mark.usefixtures("engine")

SECOND = 1_000_000_000
HOUR = 3600 * SECOND
START = 1_700_000_000 * SECOND


class Machine:
    """A machine whose clocks a test moves."""

    def __init__(self) -> None:
        self.wall = START
        self.boot = 500 * SECOND
        self.id = b"first boot"

    def run(self, ns: int) -> None:
        """Let time pass (suspended or not: the boot clock counts both)."""
        self.wall += ns
        self.boot += ns

    def reboot(self, wall: int) -> None:
        """Start again, the wall clock at `wall`."""
        self.wall, self.boot, self.id = wall, 3 * SECOND, self.id + b"'"


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    machine = Machine()
    monkeypatch.setattr(ntmem.clock, "wall_ns", lambda: machine.wall)
    monkeypatch.setattr(ntmem.tiers.engine, "wall_ns", lambda: machine.wall)
    monkeypatch.setattr(ntmem.clock, "boot_ns", lambda: machine.boot)
    monkeypatch.setattr(ntmem.clock, "boot_id", lambda: machine.id)
    return machine


def known(memory: ntmem.MemorySystem, key: str = "k") -> int:
    record = memory.get_record("a", key)
    assert record is not None
    return record.ts_known


@pytest.mark.only("lmdb")  # below with the real boot clock
def test_wall_clock_set_back(machine: Machine, ram: Path) -> None:
    with ntmem.open(ram / "store") as memory:
        memory.put("a", "k", b"v", ttl=60)
        memory.put("a", "stays", b"v")
        before = known(memory, "stays")
        machine.wall -= HOUR
        machine.run(59 * SECOND)
        assert memory.get("a", "k") == b"v"
        with ntmem.open(ram / "store") as second:  # opening looks at the wall clock: it must not follow it back
            assert second.now() == memory.now()
            machine.run(SECOND)
            assert memory.get("a", "k") is None
            assert second.get("a", "k") is None
            second.put("a", "stays", b"w")
            assert known(second, "stays") == before + 60 * SECOND
        stats = memory.stats()
        assert stats.clock_ahead == HOUR


@pytest.mark.only("lmdb")  # below with the real boot clock
def test_wall_clock_set_forward_is_followed_at_the_next_opening(machine: Machine, ram: Path) -> None:
    with ntmem.open(ram / "store") as memory:
        memory.put("a", "k", b"v", ttl=1800)
        machine.wall += HOUR
        assert memory.now() == START
        assert memory.get("a", "k") == b"v"
        ntmem.open(ram / "store").close()  # shares the environment: the store's clock moves for all
        assert memory.now() == START + HOUR
        assert memory.get("a", "k") is None


@pytest.mark.only("lmdb")  # below with the real boot clock
def test_expired_stays_expired_when_the_wall_clock_goes_back_and_the_store_is_reopened(
    machine: Machine, ram: Path
) -> None:
    with ntmem.open(ram / "store") as memory:
        memory.put("a", "k", b"v", ttl=60)
        machine.run(61 * SECOND)
        assert memory.get("a", "k") is None
    machine.wall -= HOUR
    for read_only in (False, True):
        with ntmem.open(ram / "store", read_only=read_only) as memory:
            assert memory.get("a", "k") is None


@pytest.mark.only("lmdb")  # below with a time namespace
def test_suspend(machine: Machine, ram: Path) -> None:
    with ntmem.open(ram / "store") as memory:
        memory.put("a", "k", b"v", ttl=60)
        machine.run(10 * HOUR)
        assert memory.get("a", "k") is None
        assert memory.now() == START + 10 * HOUR


@pytest.mark.only("lmdb")  # below with a time namespace
def test_reboot(machine: Machine, ram: Path) -> None:
    with ntmem.open(ram / "store") as memory:
        memory.put("a", "k", b"v", ttl=60)
        memory.put("a", "long", b"v", ttl=7200)
    machine.reboot(wall=START + HOUR)
    with ntmem.open(ram / "store") as memory:
        assert memory.now() == START + HOUR
        assert memory.get("a", "k") is None
        assert memory.get("a", "long") == b"v"
        machine.run(HOUR)
        assert memory.get("a", "long") is None


@pytest.mark.only("lmdb")  # below with a time namespace
def test_reboot_with_a_wall_clock_before_the_newest_commit(machine: Machine, ram: Path) -> None:
    machine.run(HOUR)
    with ntmem.open(ram / "store") as memory:
        memory.retain("a", history=True)
        memory.put("a", "k", b"v", ttl=60)
        machine.run(61 * SECOND)
        memory.put("a", "other", b"v")
        newest = known(memory, "other")
        assert memory.get("a", "k") is None
    machine.reboot(wall=START)  # no battery: it wakes in the past
    for _ in range(3):
        with ntmem.open(ram / "store") as memory:
            assert memory.now() >= newest
            assert memory.get("a", "k") is None
            memory.put("a", "other", b"w")
            assert known(memory, "other") >= newest
            newest = known(memory, "other")
        machine.reboot(wall=START - HOUR)


@pytest.mark.only("lmdb")  # below with a time namespace
def test_a_kernel_without_a_boot_id(machine: Machine, ram: Path) -> None:
    machine.id = b""
    machine.boot = 1000 * HOUR
    with ntmem.open(ram / "store") as memory:
        memory.put("a", "k", b"v")
        before = known(memory)
    machine.wall, machine.boot = START - HOUR, SECOND  # rebooted, and nothing says so
    with ntmem.open(ram / "store") as memory:
        assert memory.now() >= before
        memory.put("a", "k", b"w")
        assert known(memory) >= before


@pytest.mark.only("lmdb")  # below with a time namespace
def test_ts_known_never_falls(machine: Machine, ram: Path) -> None:
    """Whatever is done to the machine's clock between writes."""
    chance = random.Random(1)
    last = 0
    for _ in range(60):
        with ntmem.open(ram / "store") as memory:
            for _ in range(3):
                memory.put("a", "k", b"v")
                assert known(memory) >= last
                last = known(memory)
                machine.run(chance.randrange(SECOND))
        kind = chance.randrange(4)
        if kind == 0:
            machine.wall += chance.randrange(-HOUR, HOUR)
        elif kind == 1:
            machine.reboot(machine.wall + chance.randrange(-HOUR, HOUR))
        elif kind == 2:
            machine.run(chance.randrange(HOUR))


# -- the real boot clock, and a wall clock that is set


class Wall:
    """The wall clock, set to another time by `shift` ns."""

    shift = 0


@pytest.fixture
def wall(monkeypatch: pytest.MonkeyPatch) -> Wall:
    wall = Wall()
    for module in (ntmem.clock, ntmem.tiers.engine, ntmem.tiers.logreads):
        monkeypatch.setattr(module, "wall_ns", lambda: time.time_ns() + wall.shift)
    return wall


def test_a_wall_clock_set_back_is_not_followed(wall: Wall, ram: Path) -> None:
    with ntmem.open(ram / "store") as memory:
        memory.put("a", "k", b"v")
        before = known(memory)
        wall.shift = -HOUR
        with ntmem.open(ram / "store") as second:
            second.put("a", "k", b"w")
            assert before <= known(second) <= memory.now()
        assert memory.stats().clock_ahead > HOUR // 2
        before = memory.now()
    with ntmem.open(ram / "store") as memory:
        assert before <= memory.now() < before + HOUR // 2
        memory.put("a", "k", b"x")
        assert known(memory) >= before


def test_a_wall_clock_set_forward_is_followed_by_opening(wall: Wall, ram: Path, start: Start) -> None:
    with ntmem.open(ram / "store") as memory:
        memory.put("a", "k", b"v", ttl=1800)
        memory.put("a", "next", b"v", ttl=5400)
        other = start(
            """
with ntmem.open(sys.argv[1]) as memory:
    say(memory.get("a", "k")); hear(); say(memory.get("a", "k"), memory.now())
""",
            ram / "store",
        )
        assert other.line() == "b'v'"
        before = known(memory)
        wall.shift = HOUR
        assert memory.get("a", "k") == b"v"
        assert memory.now() < before + HOUR // 2
        ntmem.open(ram / "store").close()
        assert memory.get("a", "k") is None
        other.tell()
        value, now = other.line().split()
        assert value == "None"  # the clock is the store's
        assert before + HOUR <= int(now) <= memory.now()
        other.end()
    wall.shift = -HOUR  # what has expired stays so
    with ntmem.open(ram / "store") as memory:
        assert memory.get("a", "k") is None
        assert memory.get("a", "next") == b"v"
        assert memory.now() >= before + HOUR


# -- the boot clock moved by a time namespace

ELSEWHEN = """
import ntmem.clock
store, shift, boot_id = sys.argv[1], int(sys.argv[2]), sys.argv[3].encode()
ntmem.clock.wall_ns = lambda: time.time_ns() + shift
if boot_id != b"same": ntmem.clock.boot_id = lambda: boot_id.removeprefix(b"none")
with ntmem.open(store) as memory:
    earliest = memory.now()
    say(*(memory.get("a", key) for key in ("short", "long")), earliest)
    memory.put("a", "short", b"v", ttl=60); memory.put("a", "long", b"v", ttl=7200); memory.put("a", "k", b"v")
    record = memory.get_record("a", "k")
    assert record.ts_known >= earliest
    say(record.ts_known)
"""

Elsewhen = Callable[..., tuple[list[str], int, int]]


def anew() -> int:
    """How far ahead the boot clock of a machine is that starts now: not at all."""
    return 1 - time.clock_gettime_ns(time.CLOCK_BOOTTIME) // SECOND


@pytest.fixture
def elsewhen(ram: Path, start: Start) -> Elsewhen:
    """Opens the store on a machine whose clocks are ahead of this one's by seconds.

    Returns what it has of "short" and "long", its time at opening, and the ``ts_known`` of a write. Writes "short",
    with a minute to live, and "long", with two hours.
    """

    def under(boot: int) -> list[str]:
        return ["unshare", "--time", "--boottime", str(boot)]

    try:
        allowed = subprocess.run([*under(1), "true"], capture_output=True, check=False, timeout=HANG).returncode == 0
    except OSError:
        allowed = False
    if not allowed:
        pytest.skip("making a time namespace is not allowed here")

    def run(boot: int = 0, wall: int | None = None, boot_id: str = "same") -> tuple[list[str], int, int]:
        child = start(ELSEWHEN, ram / "store", (boot if wall is None else wall) * SECOND, boot_id, under=under(boot))
        *found, earliest = child.line().split()
        at = int(child.line())
        child.end()
        return found, int(earliest), at

    return run


def test_suspended(elsewhen: Elsewhen) -> None:
    _, _, first = elsewhen()
    found, now, _ = elsewhen(boot=3600)  # the boot clock counts it
    assert found == ["None", "b'v'"]
    assert now >= first + HOUR
    found, now, _ = elsewhen(boot=3 * 3600, wall=0)  # also when the wall clock did not
    assert found == ["None", "None"]
    assert now >= first + 3 * HOUR


def test_rebooted(elsewhen: Elsewhen) -> None:
    _, _, first = elsewhen()
    found, now, second = elsewhen(boot=anew(), wall=3600, boot_id="another")
    assert found == ["None", "b'v'"]
    assert first + HOUR <= now < first + 2 * HOUR
    for boot in ("third", "fourth"):  # no battery: it wakes in the past
        found, now, last = elsewhen(boot=anew(), wall=-3600, boot_id=boot)
        assert found[1] == "b'v'"
        assert last >= now >= second
        second = last


def test_rebooted_by_a_kernel_that_does_not_say_so(elsewhen: Elsewhen) -> None:
    _, _, first = elsewhen(boot=1000 * 3600, wall=0, boot_id="none")
    _, now, _ = elsewhen(boot=anew(), wall=-3600, boot_id="none")
    assert now >= first


def test_ts_known_never_falls_whatever_the_clocks_do(elsewhen: Elsewhen) -> None:
    chance = random.Random(1)
    boot, boot_id, last = 0, "first", 0
    for _ in range(8):
        _, now, at = elsewhen(boot, chance.randrange(-7200, 7200), boot_id)
        assert last <= now <= at
        last = at
        if chance.random() < 0.4:
            boot, boot_id = anew(), boot_id + "'"
        else:
            boot += chance.randrange(3600)


# -- simulated


def test_it_never_goes_back(ram: Path) -> None:
    clock = ntmem.SimulatedClock(START)
    with ntmem.open(ram / "store", clock=clock) as memory:
        clock.set(START + 5)
        for earlier in (START + 4, START, 0):
            with pytest.raises(ValueError, match="never goes back"):
                clock.set(earlier)
        clock.set(START + 5)
        assert memory.now() == clock.now() == START + 5
    late = ntmem.SimulatedClock(START + 1)  # a new start, but the store is later
    with ntmem.open(ram / "store", clock=late) as memory:
        assert late.now() == memory.now() == START + 5
        with pytest.raises(ValueError, match="never goes back"):
            late.set(START + 2)


def test_expires_at_the_exact_boundary(ram: Path) -> None:
    clock = ntmem.SimulatedClock(START)
    with ntmem.open(ram / "store", clock=clock) as memory:
        memory.put("a", "k", b"v", ttl=1e-6)
        clock.set(START + 999)
        assert memory.get("a", "k") == b"v"
        assert dict(memory.scan("a")) == {"k": b"v"}
        clock.set(START + 1000)
        assert memory.get("a", "k") is None
        assert not memory.exists("a", "k")
        assert memory.get_record("a", "k") is None
        assert memory.get_many("a", ["k"]) == {}
        assert dict(memory.scan("a")) == {}
        assert memory.namespaces() == []
        assert not memory.delete("a", "k")
        assert memory.add("a", "k", b"again")


def test_openers_that_disagree_are_refused(ram: Path) -> None:
    with ntmem.open(ram / "simulated", clock=ntmem.SimulatedClock(START)) as memory:
        for _ in range(2):
            with pytest.raises(ntmem.StorageError, match="simulated clock; open it without clock="):
                ntmem.open(ram / "simulated", clock="system")
        assert memory.get("a", "k") is None  # the refused opener took nothing with it
        with ntmem.open(ram / "simulated", clock=None) as same:
            assert same.now() == START
    with ntmem.open(ram / "system") as memory:
        for _ in range(2):
            with pytest.raises(ntmem.StorageError, match="system clock; open it without clock="):
                ntmem.open(ram / "system", clock=ntmem.SimulatedClock(START))
        assert memory.now() != START
    with pytest.raises(ntmem.StorageError, match="system clock"):
        ntmem.open(ram / "system", clock=ntmem.SimulatedClock(START), read_only=True)


def test_it_does_not_go_back_either_when_another_process_was_faster(ram: Path) -> None:
    """It looks before it sets; what counts is the look within the transaction."""
    with ntmem.open(ram / "store", clock=ntmem.SimulatedClock(START)) as memory:
        with pytest.raises(ValueError, match="never goes back"):
            memory._engine().set_time(START - 1)
        assert memory.now() == START


def test_a_refused_opener_drives_nothing(ram: Path) -> None:
    ntmem.open(ram / "system").close()
    clock = ntmem.SimulatedClock(START)
    with pytest.raises(ntmem.StorageError):
        ntmem.open(ram / "system", clock=clock)
    clock.set(START + 1)
    with ntmem.open(clock=clock) as memory:
        clock.set(START + 2)
        assert memory.now() == START + 2


def test_two_processes_see_one_time(ram: Path, start: Start) -> None:
    clock = ntmem.SimulatedClock(START)
    with ntmem.open(ram / "store", clock=clock) as memory:
        memory.put("a", "k", b"v", ttl=10)
        other = start(
            """
clock = ntmem.SimulatedClock(int(sys.argv[2]))
with ntmem.open(sys.argv[1], clock=clock) as memory:
    say(memory.now(), clock.now(), memory.get("a", "k"))
    hear()
    say(memory.now(), clock.now(), memory.get("a", "k"))
    clock.set(clock.now() + 7)
    say("set")
    hear()
    say(outcome(lambda: memory.put("a", "now", b"%d" % memory.now())))
""",
            ram / "store",
            START - 100,
        )
        assert other.line() == f"{START} {START} b'v'"
        clock.set(START + 10 * SECOND)
        other.tell()
        assert other.line() == f"{START + 10 * SECOND} {START + 10 * SECOND} None"
        assert other.line() == "set"
        assert memory.now() == clock.now() == START + 10 * SECOND + 7
        with pytest.raises(ValueError, match="never goes back"):
            clock.set(START + 10 * SECOND)
        clock.set(START + 20 * SECOND)
        other.tell()
        other.line()
        other.end()
        assert memory.get("a", "now") == b"%d" % (START + 20 * SECOND)


def test_one_clock_drives_many_stores(ram: Path) -> None:
    clock = ntmem.SimulatedClock(START)
    with (
        ntmem.open(ram / "a", clock=clock) as first,
        ntmem.open(ram / "b", clock=clock) as second,
        ntmem.open(clock=clock) as private,
    ):
        clock.set(START + 9)
        assert [memory.now() for memory in (first, second, private)] == [START + 9] * 3
    clock.set(START + 10)
    with ntmem.open(ram / "a", clock=clock) as first:
        assert first.now() == START + 10


def test_a_pickled_store_keeps_its_clock(ram: Path) -> None:
    clock = ntmem.SimulatedClock(START)
    with ntmem.open(ram / "store", clock=clock) as memory:
        data = pickle.dumps(memory)
        clock.set(START + 3)
    with pickle.loads(data) as memory:
        assert memory.now() == START + 3
        memory.put("a", "k", b"v")
        assert known(memory) == START + 3


def test_a_pickled_system_clock_store_stays_one(ram: Path) -> None:
    with ntmem.open(ram / "store", clock="system") as memory:
        data = pickle.dumps(memory)
        before = memory.now()
    with pickle.loads(data) as memory:
        assert memory.stats().clock == "system"
        assert memory.now() >= before


def test_the_simulated_clock_ignores_the_machine(machine: Machine, ram: Path) -> None:
    with ntmem.open(ram / "store", clock=ntmem.SimulatedClock(START)) as memory:
        memory.put("a", "k", b"v", ttl=1)
        machine.reboot(wall=START + 100 * HOUR)
        ntmem.open(ram / "store").close()
        assert memory.get("a", "k") == b"v"
        assert memory.now() == START
