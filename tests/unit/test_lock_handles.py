"""Locks by several handles: those that only read, closed ones, forked ones; who owns a namespace; agents."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hostile import HANG, Start
from locked import in_thread, waiting
from polling import until

import ntmem
from ntmem import LockLost, NotOwner, StaleFence

pytestmark = pytest.mark.usefixtures("engine")
shared = pytest.mark.only("shared")

START = 1_700_000_000_000_000_000
ELSEWHERE = "memory = ntmem.open(sys.argv[1], agent_id='elsewhere')\n"


# ---- handles ----


@shared
def test_read_only_handles_look_and_lock_nothing(ram: Path) -> None:
    with ntmem.open(ram / "store") as memory:
        token = memory.acquire_lock("BTCUSDT")
        with ntmem.open(ram / "store", read_only=True) as reader:
            calls: list[Callable[[], Any]] = [
                lambda: reader.lock("ETHUSDT").acquire(),
                lambda: reader.acquire_lock("ETHUSDT"),
                lambda: asyncio.run(reader.aacquire_lock("ETHUSDT")),
                lambda: reader.release_lock(token),
                lambda: reader.locks.renew(token, 1),
                lambda: reader.agents.register("agent"),
                lambda: reader.agents.own("desk", "me"),
                lambda: reader.put("desk", "target", b"1", fence=token),
            ]
            for call in calls:
                with pytest.raises(ntmem.ReadOnlyError, match="open it for writing"):
                    call()
            assert reader.locks.is_locked("BTCUSDT")
            assert reader.locks.is_current(token)
            assert reader.lock("BTCUSDT").locked()
            assert [info.resource for info in reader.locks.list()] == ["BTCUSDT"]
            assert reader.agents.list() == []
        assert memory.locks.is_current(token)
    with ntmem.open(ram / "store", read_only=True) as reader:  # nobody writes, so there is nobody to hold anything
        assert reader.locks.list() == []
        assert not reader.locks.is_locked("BTCUSDT")
        assert not reader.locks.is_current(token)
        with pytest.raises(ntmem.ReadOnlyError):
            reader.lock("BTCUSDT").acquire()


@shared
def test_closed_stores(ram: Path) -> None:
    memory = ntmem.open(ram / "store")
    held, free = memory.lock("BTCUSDT"), memory.lock("ETHUSDT")
    held.acquire()
    token, locks, agents = held.token, memory.locks, memory.agents
    agents.register("agent")
    memory.close()
    calls: list[Callable[[], Any]] = [
        free.acquire,
        lambda: asyncio.run(free.aacquire()),
        lambda: memory.acquire_lock("x"),
        lambda: memory.release_lock(str(token)),
        lambda: locks.renew(str(token), 1),
        lambda: locks.is_current(str(token)),
        locks.list,
        lambda: locks.is_locked("BTCUSDT"),
        free.locked,
        lambda: memory.put("desk", "target", b"1", fence=token),
        lambda: agents.register("another"),
        agents.list,
        lambda: agents.own("desk", "me"),
    ]
    for call in calls:
        with pytest.raises(ntmem.StoreClosed, match="open it again"):
            call()
    assert held.lost
    assert held.remaining() == 0.0
    with pytest.raises(LockLost):
        held.release()
    assert "ETHUSDT" in repr(free)
    with ntmem.open(ram / "store") as memory:
        assert memory.locks.list() == []


@shared
def test_who_waits_when_the_store_is_closed(ram: Path) -> None:
    memory = ntmem.open(ram / "store")
    memory.acquire_lock("BTCUSDT")
    told: list[Any] = []
    threads = [
        threading.Thread(target=lambda: told.append(in_thread(lambda: memory.acquire_lock("BTCUSDT")))),
        threading.Thread(target=lambda: told.append(in_thread(lambda: asyncio.run(memory.aacquire_lock("BTCUSDT"))))),
    ]
    for thread in threads:
        thread.start()
    until(lambda: waiting(memory) == 2)
    memory.close()
    for thread in threads:
        thread.join(HANG)
    assert [type(each) for each in told] == [ntmem.StoreClosed, ntmem.StoreClosed]


@shared
def test_two_handles_of_a_process_exclude_each_other(ram: Path) -> None:
    with ntmem.open(ram / "store", agent_id="a") as one, ntmem.open(ram / "store", agent_id="b") as two:
        with one.lock("BTCUSDT") as lock:
            assert not two.lock("BTCUSDT").acquire(blocking=False)
            assert two.locks.list()[0].owner == "a"
            two.put("desk", "target", b"1", fence=lock.fence)  # as it is known which lease is meant
        with two.lock("BTCUSDT") as lock:
            assert one.locks.list()[0].owner == "b"


@shared
def test_a_forked_child_holds_nothing(ram: Path, start: Start) -> None:
    child = start(
        """
import warnings
warnings.simplefilter("ignore", DeprecationWarning)
memory = ntmem.open(sys.argv[1])
lock, free = memory.lock("BTCUSDT"), memory.lock("ETHUSDT")
lock.acquire()
token = lock.token
memory.agents.register("agent")
calls = [lock.acquire, lock.release, lock.renew, free.acquire, lock.locked, lambda: memory.release_lock(token),
         memory.locks.list, lambda: memory.locks.is_current(token), memory.agents.list, memory.agents.heartbeat,
         lambda: memory.acquire_lock("x"), lambda: memory.put("desk", "k", b"", fence=token)]
for number, call in enumerate(calls):
    if (pid := os.fork()) == 0:
        signal.alarm(20)
        try:
            print(number, outcome(call), flush=True)
        except BaseException as error:
            print(number, f"SURPRISE {error!r}", flush=True)
        os._exit(0)
    os.waitpid(pid, 0)
if (pid := os.fork()) == 0:
    with ntmem.open(sys.argv[1]) as own:
        print(own.lock("BTCUSDT").acquire(blocking=False), own.release_lock(token), flush=True)
    os._exit(0)
os.waitpid(pid, 0)
say(lock.lost, len(calls))
""",
        ram / "store",
    )
    lines = [child.line() for _ in range(14)]
    for line in lines[:12]:
        assert " StoreClosed: " in line, line
    assert lines[12:] == ["False True", "True 12"]


# ---- who owns a namespace ----


@pytest.fixture
def two(ram: Path) -> Iterator[tuple[ntmem.MemorySystem, ntmem.MemorySystem]]:
    with ntmem.open(ram / "store", agent_id="me") as mine, ntmem.open(ram / "store", agent_id="other") as theirs:
        yield mine, theirs


def changes(memory: ntmem.MemorySystem) -> dict[str, Callable[[], Any]]:
    def transact() -> None:
        with memory.transaction() as t:
            t.put("free", "key", b"1")
            t.put("desk", "key", b"1")

    return {
        "put": lambda: memory.put("desk", "key", b"1"),
        "put ttl": lambda: memory.put("desk", "key", b"1", ttl=5),
        "put_many": lambda: memory.put_many("desk", {"key": b"1"}),
        "add": lambda: memory.add("desk", "new", b"1"),
        "incr": lambda: memory.incr("desk", "number"),
        "delete": lambda: memory.delete("desk", "key"),
        "transaction": transact,
        "view": lambda: memory.namespace("desk").update(key=1),
        "huge": lambda: memory.put_many("desk", {f"key {number}": bytes(100) for number in range(2_000)}),
        "large": lambda: memory.put("desk", "key", bytes(1 << 20)),
        "delete_namespace": lambda: memory.delete_namespace("desk"),
        "retain": lambda: memory.retain("desk", history=True),
        "own": lambda: memory.agents.own("desk"),
        "disown": lambda: memory.agents.disown("desk"),
    }


def test_only_the_owner_writes(two: tuple[ntmem.MemorySystem, ntmem.MemorySystem]) -> None:
    mine, theirs = two
    theirs.put("desk", "key", b"0")
    mine.agents.own("desk")
    for name, change in changes(theirs).items():
        with pytest.raises(NotOwner, match=r"desk belongs to 'me'.*opened by 'other'"):
            change()
        assert theirs.get("desk", "key") == b"0", name
    assert not theirs.exists("free", "key")
    theirs.put("desk/child", "key", b"1")  # not its children
    with pytest.raises(NotOwner):
        theirs.delete_namespace("desk")
    for change in changes(mine).values():
        change()
    theirs.put("desk", "key", b"1")  # the last change was to disown it
    theirs.agents.own("desk")
    with pytest.raises(NotOwner):
        mine.put("desk", "key", b"1")


def test_it_may_be_owned_for_another(two: tuple[ntmem.MemorySystem, ntmem.MemorySystem]) -> None:
    mine, theirs = two
    mine.agents.own(("desk",), "other")
    with pytest.raises(NotOwner):
        mine.put("desk", "key", b"1")
    theirs.put("desk", "key", b"1")


def test_what_is_deleted_above_is_asked_below(two: tuple[ntmem.MemorySystem, ntmem.MemorySystem]) -> None:
    mine, theirs = two
    mine.put("desk/child", "key", b"1")
    theirs.put("desk", "key", b"1")
    mine.agents.own("desk/child")
    with pytest.raises(NotOwner, match="desk/child"):
        theirs.delete_namespace("desk")
    assert theirs.get("desk", "key") == theirs.get("desk/child", "key") == b"1"


def test_an_owner_is_kept_over_reopening(ram: Path) -> None:
    with ntmem.open(ram / "store", agent_id="me") as memory:
        memory.agents.own("desk")
        memory.put("desk", "key", b"1")
    with ntmem.open(ram / "store") as memory, pytest.raises(NotOwner):
        memory.put("desk", "key", b"2")
    with ntmem.open(ram / "store", agent_id="me") as memory:
        memory.put("desk", "key", b"2")


def test_who_owns_has_a_name(ram: Path) -> None:
    with ntmem.open(ram / "store") as memory:
        with pytest.raises(ValueError, match="agent_id="):
            memory.agents.own("desk")
        with pytest.raises(TypeError, match="str"):
            memory.agents.own("desk", 5)  # type: ignore[arg-type]
        with pytest.raises(ntmem.InvalidNamespace):
            memory.agents.own("", "me")
        memory.agents.disown("desk")  # nobody's stays nobody's


def test_an_owner_is_known_to_other_processes_at_once(ram: Path, start: Start) -> None:
    child = start(
        ELSEWHERE + "while hear(): say(outcome(memory.put, 'desk', 'key', b'1').split(':')[0])", ram / "store"
    )
    with ntmem.open(ram / "store", agent_id="me") as memory:
        child.tell("go")
        assert child.line().isdigit()
        memory.agents.own("desk")
        child.tell("go")
        assert child.line() == "NotOwner"
        memory.agents.disown("desk")
        child.tell("go")
        assert child.line().isdigit()


# ---- agents: what the protocol does not say ----


@shared
def test_one_agent(memory: ntmem.MemorySystem) -> None:
    assert memory.agents.get("agent") is None
    fence = memory.agents.register("agent", size=1)
    info = memory.agents.get("agent")
    assert info == memory.agents.list()[0]._replace(remaining=info.remaining if info else 0)
    assert info is not None
    assert (info.fence, info.registered_at) == (fence, START)
    memory.agents.unregister()
    assert memory.agents.get("agent") is None


@shared
def test_the_fence_of_a_registration_is_a_fence(memory: ntmem.MemorySystem) -> None:
    fence = memory.agents.register("agent")
    memory.put("mine", "key", b"1", fence=fence)
    assert memory.locks.is_current(fence)
    memory.agents.unregister("agent")
    with pytest.raises(StaleFence):
        memory.put("mine", "key", b"2", fence=fence)
    assert not memory.locks.is_current(fence)


@shared
def test_counts(memory: ntmem.MemorySystem) -> None:
    with memory.lock("BTCUSDT"):
        assert not memory.lock("BTCUSDT").acquire(timeout=0.001)
        stats = memory.stats()
        assert (stats.lock_grants, stats.lock_held) == (1, 1)
    stats = memory.stats()
    assert (stats.lock_held, stats.lock_taken) == (0, 0)
