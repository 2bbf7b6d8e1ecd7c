"""Processes that want one lock, and die, stop, are late while they hold it: no update is lost, nobody waits for ever.

``NTMEM_LOCK_STEPS`` says how many increments each of four processes makes, ``NTMEM_LOCK_ATTEMPTS`` how many writes are
tried under leases that are over; ``make locks`` (LOCK_STEPS=, LOCK_ATTEMPTS=) has 100,000 and a million.
"""

from __future__ import annotations

import os
import random
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from holders import COUNT, ENTERED, INTENT, NUMBER, REFUSED, Claims, Zygote, until, words_of
from hostile import HANG, Child, Start, children
from logs import build_with_failpoints

import ntmem
from ntmem import Fence

pytestmark = [pytest.mark.crash, pytest.mark.usefixtures("engine"), pytest.mark.only("shared")]

STEPS = int(os.environ.get("NTMEM_LOCK_STEPS", "2000"))
ATTEMPTS = int(os.environ.get("NTMEM_LOCK_ATTEMPTS", "20000"))
WORKERS = 4
KILLS = max(40, STEPS // 500)


# -- no update is lost

INCREMENTS = """
claims = Claims(Path(files) / "claims", workers)
acknowledged = words_of(Path(files) / "acknowledged", 0)
claims.set(row, PID, os.getpid())
claims.set(row, NUMBER, 0)
with ntmem.open(store) as memory:
    lock = memory.lock("counter", ttl=30)
    while claims.get(row, COUNT) < steps:
        lock.acquire()
        claims.enter(row, lock)
        value = int(memory.get("desk", "counter") or 0) + 1
        if value % 50 == 0:  # so that more are killed while they hold it
            until = boot_ns() + 2_000_000
            while boot_ns() < until: pass
        claims.set(row, INTENT, value)
        memory.put("desk", "counter", b"%d" % value, fence=lock)
        assert acknowledged[value] == 0, f"a lost update: {value} twice"
        acknowledged[value] = number
        claims.set(row, INTENT, 0)
        claims.set(row, COUNT, claims.get(row, COUNT) + 1)
        claims.leave(row)
        lock.release()
"""


def test_no_update_is_lost(ram: Path, start: Start) -> None:
    """Each counts to STEPS, under one lock; they are killed in the middle of it, and others go on in their place."""
    store, files = ram / "store", ram
    chance = random.Random(1)
    with ntmem.open(store) as memory:
        memory.put("desk", "other", b"")
    claims = Claims(files / "claims", WORKERS)
    total = WORKERS * STEPS
    acknowledged = words_of(files / "acknowledged", total + 64 * KILLS)
    zygote = Zygote(start)
    names = {"store": str(store), "files": str(files), "workers": WORKERS, "steps": STEPS}
    intents: set[int] = set()  # of those who were killed
    killed = holders = number = 0
    running: dict[int, int] = {}

    def begin(row: int) -> None:
        nonlocal number
        number += 1
        running[row] = zygote.fork(INCREMENTS, row=row, number=number, **names)

    def done() -> int:
        return sum(claims.get(row, COUNT) for row in range(WORKERS))

    for row in range(WORKERS):
        begin(row)
    while done() < total:
        goal = min(total, (killed + 1) * total // (KILLS + 1))
        until(lambda goal=goal: done() >= goal or claims.faults())
        assert claims.faults() == []
        if done() >= total or killed >= KILLS:
            continue
        holding = claims.holders()
        victim = chance.choice(holding if holding and chance.random() < 0.7 else [*running])
        for _ in range(chance.randrange(2000)):  # the instant is random
            pass
        os.kill(running[victim], signal.SIGKILL)
        if zygote.check(running.pop(victim), -9, 0) == -9:
            killed += 1
            holders += claims.get(victim, NUMBER) != 0
            intents.add(claims.get(victim, INTENT))
            claims.set(victim, INTENT, 0)
            claims.set(victim, NUMBER, 0)
        begin(victim)
    for pid in running.values():
        zygote.check(pid, 0)
    with ntmem.open(store) as memory:
        last = int(memory.get("desk", "counter") or b"0")
        record = memory.get_record("desk", "counter")
    assert claims.faults() == []
    assert [value for value in range(1, last + 1) if not acknowledged[value] and value not in intents] == []
    assert not any(acknowledged[last + 1 :])
    assert total <= last <= total + killed
    assert record is not None
    assert record.fence is not None
    assert record.fence.number >= last
    assert killed >= KILLS // 4  # else it tested nothing
    print(f"{last} increments, {killed} kills, {holders} of them of who held it")


# -- nobody starves

CONTENDS = """
claims = Claims(Path(files) / "claims", workers)
claims.set(row, PID, os.getpid())
with ntmem.open(store) as memory:
    lock = memory.lock("contended", ttl=30)
    while not os.path.exists(files + "/stop"):
        with lock:
            claims.enter(row, lock)
            claims.leave(row)
"""


def test_none_of_four_starves(ram: Path, start: Start) -> None:
    """Each is granted it again and again while the others want it all the time."""
    with ntmem.open(ram / "store") as memory:
        claims = Claims(ram / "claims", WORKERS)
        zygote = Zygote(start)
        names = {"store": str(ram / "store"), "files": str(ram), "workers": WORKERS}
        pids = [zygote.fork(CONTENDS, row=row, **names) for row in range(WORKERS)]
        for goal in (1, 100, 500):
            until(lambda goal=goal: min(claims.get(row, ENTERED) for row in range(WORKERS)) >= goal or claims.faults())
        counts = [claims.get(row, ENTERED) for row in range(WORKERS)]
        until(lambda: memory.locks.list("contended"))  # between two of them nobody may have it
        found = memory.locks.list("contended")
        (ram / "stop").touch()
        for pid in pids:
            zygote.check(pid, 0)
        assert claims.faults() == []
        [] = memory.locks.list("contended")
    print(f"acquired {counts}, " + "".join(f"longest wait {i.longest_wait:.4f} s of {i.waits} waits" for i in found))


# -- what is written under a lease that is over

WRITES: dict[str, Callable[[ntmem.MemorySystem, int, Any], object]] = {
    "put": lambda m, n, f: m.put("desk", f"k{n % 7}", b"bad", fence=f),
    "put of a new key": lambda m, n, f: m.put("desk", f"new{n}", b"bad", fence=f),
    "put with a life": lambda m, n, f: m.put("desk", f"k{n % 7}", b"bad", ttl=0.001, fence=f),
    "put under a version": lambda m, n, f: m.put("desk", "k1", b"bad", if_version=version_of(m, "k1"), fence=f),
    "put_many": lambda m, n, f: m.put_many("desk", {"k1": b"bad", f"new{n}": b"bad"}, fence=f),
    "transaction": lambda m, n, f: transact(m, n, f, 3),
    "delete": lambda m, n, f: m.delete("desk", f"k{n % 7}", fence=f),
    "delete of nothing": lambda m, n, f: m.delete("desk", "none", fence=f),
    "add of a new key": lambda m, n, f: m.add("desk", f"new{n}", b"bad", fence=f),
    "add of what is there": lambda m, n, f: m.add("desk", "k1", b"bad", fence=f),
    "incr": lambda m, n, f: m.incr("desk", "count", fence=f),
    "put in another namespace": lambda m, n, f: m.put(f"space{n % 3}", "k", b"bad", fence=f),
    "put in history": lambda m, n, f: m.put("past", "k", b"bad", fence=f),
    "delete in history": lambda m, n, f: m.delete("past", "k", fence=f),
    "put, durable": lambda m, n, f: m.put("desk", "k1", b"bad", durable=True, fence=f),
    "put of much": lambda m, n, f: m.put("desk", "k1", b"b" * 20_000, fence=f),
    "large transaction": lambda m, n, f: transact(m, n, f, 200),
}


def version_of(memory: ntmem.MemorySystem, key: str) -> int:
    record = memory.get_record("desk", key)
    assert record is not None
    return record.version


def transact(memory: ntmem.MemorySystem, number: int, fence: Fence, count: int) -> None:
    with memory.transaction(fence=fence) as t:
        for n in range(count):
            t.put("desk", f"k{n}", b"b" * 300)
        t.delete("desk", "k1")


@pytest.fixture
def written(ram: Path) -> Iterator[ntmem.MemorySystem]:
    """A store in which everything was written under a lease of "lock", which is over; and with what nobody guards."""
    with ntmem.open(ram / "store", log_bytes=1 << 16) as memory:
        memory.retain("past", history=True)
        with memory.lock("lock") as lock:
            for n in range(0, 7, 2):
                memory.put("desk", f"k{n}", b"guarded", fence=lock)
            memory.put("past", "k", b"guarded", fence=lock)
        for n in range(1, 7, 2):
            memory.put("desk", f"k{n}", b"free")
        memory.put("desk", "count", b"3")
        yield memory


def picture(memory: ntmem.MemorySystem) -> list[object]:
    found: list[object] = []
    for space in ("desk", "past", "space0", "space1", "space2"):
        found += [(space, key, memory.get_record(space, key)) for key, _ in memory.scan(space)]
    return [*found, memory.history("past", "k"), memory.stats().last_version]


def over(memory: ntmem.MemorySystem) -> dict[str, Fence]:
    """Leases that were given back, whose time has passed, that were taken over; and what was never one."""
    given = memory.acquire_lock("lock")
    memory.release_lock(given)
    late = memory.acquire_lock("lock")
    memory.locks.renew(late, 1e-9)
    taken = memory.acquire_lock("lock", timeout=HANG)
    memory.locks.renew(taken, 1e-9)
    current = memory.acquire_lock("lock", timeout=HANG)
    expired = memory.acquire_lock("expired")
    memory.locks.renew(expired, 1e-9)
    fences = {"given back": given.fence, "taken over": late.fence, "taken over too": taken.fence}
    fences |= {"expired": expired.fence, "of no resource": Fence("none", current.fence.number)}
    number = current.fence.number
    for name, invented in {"0": 0, "next": number + 1, "next but one": number + 2, "most": 2**63 - 1, "-1": -1}.items():
        fences["invented " + name] = Fence("lock", invented)
    fences |= {"too large": Fence("lock", 2**64 + number), "swapped": Fence("expired", number)}
    return fences


def test_nothing_is_accepted_under_a_lease_that_is_over(written: ntmem.MemorySystem) -> None:
    fences = list(over(written).values())
    refused = dict.fromkeys(WRITES, 0)
    rare = {"put, durable", "put of much", "large transaction"}
    often = [name for name in WRITES if name not in rare]
    before = picture(written)
    chance = random.Random(2)
    for n in range(ATTEMPTS):
        kind = chance.choice([*rare]) if n % 50 == 0 else often[n % len(often)]
        with pytest.raises(ntmem.StaleFence):
            WRITES[kind](written, n, fences[chance.randrange(len(fences))])
        refused[kind] += 1
        if n % 1000 == 0:
            assert picture(written) == before
    for kind, write in WRITES.items():
        for fence in fences:
            with pytest.raises(ntmem.StaleFence):
                write(written, 1, fence)
            refused[kind] += 1
    assert picture(written) == before
    written.flush()
    assert picture(written) == before
    assert min(refused.values()) > 0
    print(f"{sum(refused.values())} refused, 0 accepted")


@pytest.mark.parametrize("kind", WRITES)
def test_what_was_written_under_a_later_lease_is_not_overwritten(written: ntmem.MemorySystem, kind: str) -> None:
    """By who has no lease, or one of another resource; be it in the log or on disk."""
    if "new" in kind or "nothing" in kind or "another" in kind:
        pytest.skip("it replaces nothing")
    with written.lock("lock") as lock:
        for n in range(7):
            written.put("desk", f"k{n}", b"guarded", fence=lock)
        written.put("desk", "count", b"3", fence=lock)
        written.put("past", "k", b"guarded", fence=lock)
    with written.lock("another") as other:
        for _ in range(2):
            before = picture(written)[:-1]
            for fence in (None, other.fence):
                with pytest.raises(ntmem.StaleFence):
                    WRITES[kind](written, 1, fence)
            assert picture(written)[:-1] == before
            written.flush()
    with written.lock("lock") as lock:  # a later one
        if kind != "add of what is there":
            WRITES[kind](written, 1, lock.fence)
            assert picture(written)[:-1] != before


LATE = """
claims = Claims(Path(files) / "claims", 3)
chance = __import__("random").Random(row)
with ntmem.open(store) as memory:
    while not os.path.exists(files + "/stop"):
        token = memory.acquire_lock("lock", ttl=chance.choice([0.0, 1e-6, 1e-5, 1e-4, 1e-3]) or 1e-9)
        for n in range(3):
            try:
                begun = boot_ns()
                value = b"%d" % token.fence.number
                if n == 1: memory.put_many("desk", {"a": value, "b": value}, fence=token)
                else: memory.put("desk", "a", value, fence=token); memory.put("desk", "b", value, fence=token)
                claims.set(row, COUNT, claims.get(row, COUNT) + 1)
            except ntmem.StaleFence:
                claims.set(row, REFUSED, claims.get(row, REFUSED) + 1)
        if chance.random() < 0.5: memory.release_lock(token)
"""


def test_leases_that_end_in_the_middle_of_writes(ram: Path, start: Start) -> None:
    """Three whose time passes at any instant: what is there is never older than what was there before."""
    with ntmem.open(ram / "store") as memory:
        claims = Claims(ram / "claims", 3)
        zygote = Zygote(start)
        pids = [zygote.fork(LATE, row=row, store=str(ram / "store"), files=str(ram)) for row in range(3)]
        newest: dict[str, tuple[int, int]] = {"a": (0, 0), "b": (0, 0)}
        looks = 0

        def look() -> bool:
            nonlocal looks
            for key, known in newest.items():
                record = memory.get_record("desk", key)
                if record is not None:
                    found = (record.version, int(record.value))
                    assert record.fence == Fence("lock", found[1])
                    assert found == known or (found[0] > known[0] and found[1] >= known[1]), f"{found} after {known}"
                    newest[key] = found
                    looks += 1
            done = [min(claims.get(row, what) for row in range(3)) for what in (COUNT, REFUSED)]
            return min(done) >= 300

        until(look)
        (ram / "stop").touch()
        for pid in pids:
            zygote.check(pid, 0)
        assert looks > 100


# -- who is stopped

HOLDER = """
memory = ntmem.open(sys.argv[1])
lock = memory.lock("lock", ttl=float(sys.argv[2]))
assert lock.acquire()
memory.put("desk", "k", b"first", fence=lock)
say(lock.token)
for line in sys.stdin:
    what = line.strip()
    if what == "put": say(outcome(memory.put, "desk", "k", b"late", fence=lock))
    elif what == "put past the log":
        def write():
            with memory.transaction(fence=lock) as t:
                t.put("desk", "k", b"late")
                for n in range(200): t.put("desk", f"n{n}", b"x" * 300)
        say(outcome(write))
    elif what == "release": say(outcome(lock.release))
    elif what == "remaining": say(lock.remaining(), lock.lost)
    elif what.startswith("arm"):
        from ntmem._core.failpoints import arm
        arm(what.split()[1], "stop")
    elif what == "stop in the transaction":
        engine = memory._engine()
        inner = engine._write_all
        def outer(*args):
            os.kill(os.getpid(), signal.SIGSTOP)
            return inner(*args)
        engine._write_all = outer
    elif what == "stop behind the transaction":
        engine = memory._engine()
        inner = engine._notice
        def outer(*args):
            os.kill(os.getpid(), signal.SIGSTOP)
            return inner(*args)
        engine._notice = outer
"""


def test_who_was_stopped_past_its_time_is_refused(ram: Path, start: Start) -> None:
    with ntmem.open(ram / "store", log_bytes=1 << 16) as memory:
        for write in ("put", "put past the log"):
            # A second is enough for it to begin; if it is not, it says so.
            holder = start(HOLDER, ram / "store", 5)
            number = int(holder.line().rpartition("#")[2])
            holder.stop()
            memory.locks.renew(Fence("lock", number), 0.02)  # rather than waiting for the rest of it
            lock = memory.lock("lock", timeout=HANG)
            with lock:
                assert lock.fence is not None
                assert lock.fence.number > number
                version = memory.put("desk", "k", b"mine", fence=lock)
                holder.signal(signal.SIGCONT)
                holder.tell(write)
                assert holder.line().startswith("StaleFence")
                record = memory.get_record("desk", "k")
                assert record is not None
                assert (record.version, record.value) == (version, b"mine")
            holder.tell(write)
            assert holder.line().startswith("StaleFence")
            holder.tell("remaining")
            assert holder.line() == "0.0 True"
            holder.tell("release")
            assert holder.line().startswith("LockLost")
            assert memory.get("desk", "k") == b"mine"
            holder.kill()


WAITER = """
memory = ntmem.open(sys.argv[1])
lock = memory.lock("lock", ttl=30)
say("waits")
while True:
    try:
        if lock.acquire(timeout=60): break
    except ntmem.LockTimeout: pass
value = memory.get("desk", "k")
version = memory.put("desk", "k", b"next", fence=lock)
say(repr(value))
hear()
"""


@pytest.fixture(scope="module")
def tree(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_with_failpoints(root, tmp_path_factory.mktemp("failpoints"))


@pytest.mark.parametrize("fate", ["continued", "killed"])
@pytest.mark.parametrize("point", ["fence_marked", "fence_checked", "written", "sealed", "committed"])
def test_who_is_stopped_in_its_write_is_waited_for(ram: Path, start: Start, tree: Path, point: str, fate: str) -> None:
    with ntmem.open(ram / "store") as memory:
        path = {"PYTHONPATH": os.pathsep.join([str(tree), *sys.path])}
        holder = start(HOLDER, ram / "store", 600, env=path)
        number = int(holder.line().rpartition("#")[2])
        holder.tell(f"arm {point}")
        holder.tell("put")
        written, kept = point != "fence_marked", point in ("sealed", "committed")
        check_next_holder(memory, holder, number, fate, written=written, kept=kept)


def check_next_holder(
    memory: ntmem.MemorySystem, holder: Child, number: int, fate: str, *, written: bool, kept: bool
) -> None:
    """The holder stops in its write, and its lease ends: the next one is granted when that is there, or cannot be."""
    _, status = os.waitpid(holder.pid, os.WUNTRACED)
    assert os.WIFSTOPPED(status)
    assert memory.locks.renew(Fence("lock", number), 1e-9)
    with children() as start:
        waiter = start(WAITER, memory.path)
        assert waiter.line() == "waits"
        for _ in range(3):
            said = ""
            try:
                granted = memory.lock("lock").acquire(blocking=False)
            except ntmem.LockTimeout as error:
                granted, said = False, str(error)
            assert not granted
            assert f"process {holder.pid} is stopped" in said or not said  # the waiter has it, and waits itself
        if fate == "continued":
            holder.signal(signal.SIGCONT)
            said = holder.line()
            assert said.isdigit() or said == "None" if written else said.startswith("StaleFence"), said
            expected = b"late" if written else b"first"
        else:
            holder.kill()
            expected = b"late" if kept else b"first"
        assert waiter.line() == repr(expected)
        assert memory.get("desk", "k") == b"next"
        if fate == "continued":
            holder.tell("put")
            assert holder.line().startswith("StaleFence")
        assert memory.get("desk", "k") == b"next"


@pytest.mark.parametrize("fate", ["continued", "killed"])
@pytest.mark.parametrize("where", ["in", "behind"])
def test_who_is_stopped_in_a_large_transaction_is_waited_for(ram: Path, start: Start, where: str, fate: str) -> None:
    """It is past the log, in the data file: not begun yet, or committed there."""
    with ntmem.open(ram / "store", log_bytes=1 << 16) as memory:
        holder = start(HOLDER, ram / "store", 600)
        number = int(holder.line().rpartition("#")[2])
        holder.tell(f"stop {where} the transaction")
        holder.tell("put past the log")
        check_next_holder(memory, holder, number, fate, written=True, kept=where == "behind")
