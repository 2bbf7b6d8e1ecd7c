"""Locks, fences and owners, as users of a store have them."""

from __future__ import annotations

import asyncio
import gc
import pickle
import threading
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from fenced import both, steps
from hostile import HANG, Start
from polling import auntil, until

import ntmem
from ntmem import Fence, LockLost, LockTimeout, LockToken, NotOwner, StaleFence

pytestmark = pytest.mark.usefixtures("engine")
shared = pytest.mark.only("shared")
cached = pytest.mark.only("shared", "tiny")

START = 1_700_000_000_000_000_000
SECOND = 1_000_000_000
SHORT = 0.02
ELSEWHERE = "memory = ntmem.open(sys.argv[1], agent_id='elsewhere')\n"


@pytest.fixture
def clock() -> ntmem.SimulatedClock:
    return ntmem.SimulatedClock(START)


@pytest.fixture
def memory(clock: ntmem.SimulatedClock) -> Iterator[ntmem.MemorySystem]:
    with ntmem.open(clock=clock, agent_id="agent_1") as memory:
        yield memory


def expired(lock: ntmem.Lock) -> None:
    """Return when a lock is lost."""
    until(lambda: lock.lost)


def waiting(memory: ntmem.MemorySystem, resource: str = "BTCUSDT") -> int:
    return sum(info.waiting for info in memory.locks.list(resource))


def in_thread(function: Callable[[], Any]) -> Any:
    """Call it in another thread; return what it returns, or the exception that it raises."""
    told: list[Any] = []

    def run() -> None:
        try:
            told.append(function())
        except Exception as error:
            told.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join(HANG)
    return told[0]


# ---- with ----


@shared
def test_a_block_under_a_lock(memory: ntmem.MemorySystem) -> None:
    lock = memory.lock("BTCUSDT")
    assert (lock.fence, lock.token, lock.lost, lock.remaining(), lock.locked()) == (None, None, False, 0.0, False)
    with lock as entered:
        assert entered is lock
        assert lock.fence is not None
        assert lock.fence.resource == lock.resource == "BTCUSDT"
        assert (lock.token, lock.lost, lock.locked()) == (LockToken(lock.fence), False, True)
        assert 29 < lock.remaining() <= 30
        assert not memory.lock("BTCUSDT").acquire(blocking=False)
        assert memory.lock("ETHUSDT").acquire(blocking=False)
        assert "<locked ntmem.Lock of 'BTCUSDT'" in repr(lock)
    assert (lock.fence, lock.token, lock.lost, lock.remaining(), lock.locked()) == (None, None, False, 0.0, False)
    assert not memory.locks.is_locked("BTCUSDT")
    assert "<unlocked" in repr(lock)


@shared
def test_a_block_is_left_by_its_exception(memory: ntmem.MemorySystem) -> None:
    with pytest.raises(RuntimeError, match="boom"), memory.lock("BTCUSDT"):
        raise RuntimeError("boom")
    assert not memory.locks.is_locked("BTCUSDT")


@shared
def test_async_with(memory: ntmem.MemorySystem) -> None:
    async def main() -> None:
        lock = memory.lock("BTCUSDT", timeout=0.01)
        async with lock as entered:
            assert entered is lock
            assert lock.fence is not None
            with pytest.raises(LockTimeout, match=r"'BTCUSDT' was not granted in 0.01 s"):
                async with memory.lock("BTCUSDT", timeout=0.01):
                    pass
            task = asyncio.create_task(memory.aacquire_lock("BTCUSDT"))
            await auntil(lambda: waiting(memory) == 1)
        token = await task
        assert memory.locks.is_current(token)
        assert memory.release_lock(token)
        with pytest.raises(RuntimeError, match="boom"):
            async with lock:
                raise RuntimeError("boom")
        assert not lock.locked()

    asyncio.run(main())


@shared
def test_tasks_of_a_loop_share_a_lock_object(memory: ntmem.MemorySystem) -> None:
    """They run in one thread, and exclude each other all the same."""
    lock, inside, numbers = memory.lock("BTCUSDT"), 0, []

    async def work() -> None:
        nonlocal inside
        async with lock:
            inside += 1
            assert inside == 1
            await asyncio.sleep(0)
            assert lock.fence is not None
            numbers.append(lock.fence.number)
            inside -= 1

    async def main() -> None:
        await asyncio.gather(*(work() for _ in range(20)))

    asyncio.run(main())
    assert len(set(numbers)) == 20
    assert not lock.locked()


@shared
def test_threads_share_a_lock_object(memory: ntmem.MemorySystem) -> None:
    lock, inside = memory.lock("BTCUSDT"), 0

    def work() -> None:
        nonlocal inside
        for _ in range(50):
            with lock:
                inside += 1
                assert inside == 1
                memory.incr("desk", "n", fence=lock)
                inside -= 1

    assert [in_thread(work) for _ in range(2)] == [None, None]
    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(HANG)
    assert memory.get("desk", "n") == b"300"


# ---- reentrant ----


@shared
def test_reentrant(memory: ntmem.MemorySystem) -> None:
    lock = memory.lock("BTCUSDT", reentrant=True)
    with lock:
        fence = lock.fence
        with lock:
            assert lock.acquire(timeout=0)
            lock.release()
            assert lock.fence == fence
            assert in_thread(lambda: lock.acquire(blocking=False)) is False
            assert "un-acquired" in str(in_thread(lock.release))
        assert memory.locks.is_locked("BTCUSDT")
    assert not memory.locks.is_locked("BTCUSDT")


@shared
def test_reentrant_belongs_to_the_task(memory: ntmem.MemorySystem) -> None:
    async def main() -> None:
        lock = memory.lock("BTCUSDT", reentrant=True)

        async def other() -> bool:
            return await lock.aacquire(0)

        async with lock, lock:
            assert await asyncio.create_task(other()) is False
            with lock:
                assert lock.locked()
        assert not lock.locked()

    asyncio.run(main())


@shared
def test_a_lost_reentrant_lock_is_not_acquired_again(memory: ntmem.MemorySystem) -> None:
    lock = memory.lock("BTCUSDT", reentrant=True, ttl=SHORT)
    lock.acquire()
    expired(lock)
    with pytest.raises(LockLost):
        lock.acquire()
    with pytest.raises(LockLost):
        lock.release()
    assert lock.acquire()


@shared
def test_what_another_thread_asks_changes_nothing(memory: ntmem.MemorySystem) -> None:
    lock = memory.lock("BTCUSDT", reentrant=True)
    for _ in range(3):
        lock.acquire()
    for call in (lock.release, lock._release_save):
        assert isinstance(in_thread(call), RuntimeError)
    for _ in range(3):
        assert lock.locked()
        lock.release()
    assert not lock.locked()


# ---- time, loss ----


@shared
def test_leaving_a_lost_lock_says_so(memory: ntmem.MemorySystem) -> None:
    with pytest.raises(LockLost, match=r"'BTCUSDT' \(fence \d+\) was lost"), memory.lock("BTCUSDT", ttl=SHORT) as lock:
        expired(lock)
        assert lock.remaining() == 0.0
        assert lock.fence is not None
    assert (lock.lost, lock.fence) == (False, None)


@shared
def test_the_exception_of_the_block_is_not_masked(memory: ntmem.MemorySystem) -> None:
    lock = memory.lock("BTCUSDT", ttl=SHORT)
    with pytest.raises(RuntimeError, match="boom"), lock:
        expired(lock)
        raise RuntimeError("boom")

    async def main() -> None:
        async with lock:
            await auntil(lambda: lock.lost)
            raise RuntimeError("boom")

    with pytest.raises(RuntimeError, match="boom"):
        asyncio.run(main())
    with lock:
        assert not lock.lost


@shared
def test_who_was_late_does_not_give_back_the_next_holders(memory: ntmem.MemorySystem) -> None:
    lock, other = memory.lock("BTCUSDT", ttl=SHORT), memory.lock("BTCUSDT")
    with pytest.raises(LockLost), lock:
        assert other.acquire()
    assert not other.lost
    assert memory.locks.is_locked("BTCUSDT")
    other.release()


@shared
def test_who_was_late_does_not_give_back_the_next_holders_through_one_object(memory: ntmem.MemorySystem) -> None:
    lock = memory.lock("BTCUSDT", ttl=SHORT)
    entered, leave = threading.Event(), threading.Event()

    def next_one() -> bool:
        lock._ttl = 60 * SECOND
        with lock:
            entered.set()
            assert leave.wait(HANG)
            return lock.lost

    with pytest.raises(LockLost), lock:
        mine = lock.fence
        thread = threading.Thread(target=next_one)
        thread.start()
        assert entered.wait(HANG)
        assert lock.lost
        assert lock.fence == mine
    assert memory.locks.is_locked("BTCUSDT")
    leave.set()
    thread.join(HANG)
    assert not memory.locks.is_locked("BTCUSDT")


@shared
def test_who_lost_it_to_another_thread_may_acquire_it_again(memory: ntmem.MemorySystem) -> None:
    """Without having given back the lease that was lost: as by then there is nothing to give back."""
    lock = memory.lock("BTCUSDT", ttl=SHORT)
    lock.acquire()
    lock._ttl = 60 * SECOND

    def take_and_give() -> None:
        with lock:
            pass

    assert in_thread(take_and_give) is None
    assert lock.acquire()
    assert not lock.lost
    assert memory.locks.is_current(lock.fence)  # type: ignore[arg-type]
    lock.release()
    assert not memory.locks.is_locked("BTCUSDT")


@shared
def test_a_lock_given_back_within_its_block_is_lost(memory: ntmem.MemorySystem) -> None:
    lock = memory.lock("BTCUSDT")
    with pytest.raises(LockLost), lock:
        assert lock.token is not None
        assert memory.release_lock(lock.token)
        assert lock.lost


@shared
def test_release_of_what_is_not_held(memory: ntmem.MemorySystem) -> None:
    lock = memory.lock("BTCUSDT")
    with pytest.raises(RuntimeError, match="release unlocked lock"):
        lock.release()
    with pytest.raises(RuntimeError, match="not held"):
        lock.renew()
    lock.acquire()
    lock.release()
    with pytest.raises(RuntimeError, match="release unlocked lock"):
        lock.release()


@shared
def test_renew_by_hand(memory: ntmem.MemorySystem) -> None:
    with memory.lock("BTCUSDT", ttl=timedelta(seconds=30)) as lock:
        lock.renew(60)
        assert 30 < lock.remaining() <= 60
        lock.renew(timedelta(minutes=10))
        assert 60 < lock.remaining() <= 600
        lock.renew()
        assert lock.remaining() <= 30
        with pytest.raises(ValueError, match="ttl must be"):
            lock.renew(0)
    lock = memory.lock("BTCUSDT", ttl=SHORT)
    lock.acquire()
    expired(lock)
    with pytest.raises(LockLost):
        lock.renew()


TTL = 0.5


def kept(memory: ntmem.MemorySystem, lock: ntmem.Lock, ttl: float = TTL) -> bool:
    """Whether it is held over several of its times; skip the test if the machine stands still."""
    end = last = time.monotonic()
    end += 3 * ttl
    while (now := time.monotonic()) < end:
        if now - last > ttl / 2:
            pytest.skip("this process was not run for too long to renew in time")
        last = now
        if lock.lost or not memory.locks.is_locked("BTCUSDT"):
            return False
        time.sleep(0.01)
    return True


def ends(memory: ntmem.MemorySystem) -> None:
    until(lambda: not memory.locks.is_locked("BTCUSDT"))


@shared
def test_a_renewed_lock_is_held_over_several_of_its_times(memory: ntmem.MemorySystem) -> None:
    with memory.lock("BTCUSDT", ttl=TTL, renew=True) as lock:
        fence = lock.fence
        assert kept(memory, lock)
        assert lock.fence == fence
    assert not memory.locks.is_locked("BTCUSDT")


@shared
def test_renewal_ends_with_what_is_renewed(memory: ntmem.MemorySystem) -> None:
    lock = memory.lock("BTCUSDT", ttl=0.1, renew=True)
    lock.acquire()
    lock.release()
    other = memory.lock("BTCUSDT", ttl=0.1)
    other.acquire()  # by the object's past renewals, this one is not renewed
    expired(other)
    lock.acquire()
    del lock  # nobody has it in hand any more
    gc.collect()
    ends(memory)
    token = memory.acquire_lock("BTCUSDT", ttl=0.1)
    until(lambda: not memory.locks.is_current(token))


@shared
def test_renewal_ends_with_the_store() -> None:
    memory = ntmem.open()
    lock = memory.lock("BTCUSDT", ttl=0.06, renew=True)
    lock.acquire()
    memory.close()
    with ntmem.open() as another, another.lock("BTCUSDT", ttl=TTL, renew=True) as other:  # the thread goes on
        assert kept(another, other)
    assert lock.lost


@shared
def test_renewal_within_a_loop(memory: ntmem.MemorySystem) -> None:
    async def main() -> None:
        async with memory.lock("BTCUSDT", ttl=TTL, renew=True) as lock:
            assert await asyncio.to_thread(kept, memory, lock)

    asyncio.run(main())


@shared
def test_renewal_after_a_fork(ram: Path, start: Start) -> None:
    """The thread that renews is not there in the child, which starts one of its own."""
    child = start(
        """
import warnings
warnings.simplefilter("ignore", DeprecationWarning)
path = sys.argv[1]
memory = ntmem.open(path)
lock = memory.lock("parent", ttl=0.2, renew=True); lock.acquire()
if (pid := os.fork()) == 0:
    own = ntmem.open(path)
    mine = own.lock("child", ttl=0.2, renew=True); mine.acquire()
    say("child"); hear()
    print(mine.lost, outcome(mine.release), own.locks.is_locked("parent"), flush=True)
    own.close()
    os._exit(0)
os.waitpid(pid, 0)
say("parent", lock.lost, outcome(lock.release))
""",
        ram / "store",
    )
    assert child.line() == "child"
    with ntmem.open(ram / "store") as memory:
        last, end = time.monotonic(), time.monotonic() + 1
        while time.monotonic() < end:
            for name in ("parent", "child"):
                assert memory.locks.is_locked(name) or time.monotonic() - last > 0.1, name
            last = time.monotonic()
            time.sleep(0.01)
        child.tell()
        assert child.line() == "False None True"
        assert child.line() == "parent False None"


# ---- timeouts ----


@shared
@pytest.mark.parametrize("timeout", [0.02, timedelta(milliseconds=20)])
def test_timeouts(memory: ntmem.MemorySystem, timeout: Any) -> None:
    memory.acquire_lock("BTCUSDT")
    for call in (lambda: memory.lock("BTCUSDT", timeout=timeout).__enter__(), lambda: take(memory, timeout)):
        began = time.monotonic()
        with pytest.raises(LockTimeout, match=r"'BTCUSDT' was not granted in 0.02 s"):
            call()
        assert time.monotonic() - began >= 0.02
    lock = memory.lock("BTCUSDT", timeout=timeout)
    assert not lock.acquire()
    assert not lock.acquire(timeout=0)
    assert not lock.acquire(True, timeout)
    assert not asyncio.run(lock.aacquire())
    with pytest.raises(LockTimeout, match="not granted"):
        asyncio.run(memory.aacquire_lock("BTCUSDT", timeout))
    assert issubclass(LockTimeout, TimeoutError)
    assert waiting(memory) == 0


def take(memory: ntmem.MemorySystem, timeout: Any) -> LockToken:
    return memory.acquire_lock("BTCUSDT", timeout)


@shared
@pytest.mark.parametrize(
    ("options", "error", "says"),
    [
        ({"ttl": 0}, ValueError, "ttl must be more than 0"),
        ({"ttl": "1"}, TypeError, "ttl must be seconds"),
        ({"ttl": True}, TypeError, "ttl must be seconds"),
        ({"ttl": float("nan")}, ValueError, "finite"),
        ({"timeout": -1}, ValueError, "None waits for ever"),
        ({"timeout": float("nan")}, ValueError, "timeout must be 0 or more"),
        ({"timeout": "1"}, TypeError, "timeout must be seconds"),
        ({"timeout": True}, TypeError, "timeout must be seconds"),
        ({"timeout": 1e100}, OverflowError, "None waits for ever"),
        ({"reentrant": 1}, TypeError, "reentrant must be a bool"),
        ({"renew": "yes"}, TypeError, "renew must be a bool"),
    ],
)
def test_wrong_options(memory: ntmem.MemorySystem, options: dict[str, Any], error: type[Exception], says: str) -> None:
    with pytest.raises(error, match=says):
        memory.lock("BTCUSDT", **options)
    if options.keys() <= {"ttl", "timeout"}:
        with pytest.raises(error, match=says):
            memory.acquire_lock("BTCUSDT", **options)
        with pytest.raises(error, match=says):
            asyncio.run(memory.aacquire_lock("BTCUSDT", **options))


# ---- tokens ----


@shared
def test_a_token_is_given_back_by_another_process(ram: Path, start: Start) -> None:
    with ntmem.open(ram / "store") as memory:
        child = start(ELSEWHERE + "while token := hear(): say(memory.release_lock(token))", ram / "store")
        token = memory.acquire_lock("BTCUSDT")
        assert (token.fence.resource, str(token)) == ("BTCUSDT", f"BTCUSDT#{token.fence.number}")
        child.tell(token)
        assert child.line() == "True"
        assert not memory.release_lock(token)
        again = memory.acquire_lock("BTCUSDT", 0)
        child.tell(token)
        assert child.line() == "False"
        assert memory.locks.is_current(again)
        assert memory.locks.is_current(pickle.loads(pickle.dumps(again)))


@shared
@pytest.mark.parametrize("token", [None, 5, b"BTCUSDT#1", ("BTCUSDT", 1)])
def test_what_is_no_token(memory: ntmem.MemorySystem, token: Any) -> None:
    for call in (memory.release_lock, memory.locks.is_current, lambda it: memory.locks.renew(it, 1)):
        with pytest.raises(TypeError, match="token"):
            call(token)


# ---- what is written under a fence ----


def writes(memory: ntmem.MemorySystem, fence: Any) -> dict[str, Callable[[], Any]]:
    """Every way to write under a fence, each of it to the key of its name."""

    def transact() -> None:
        with memory.transaction(fence) as t:
            t.put("desk", "transaction", b"1")
            t.incr("desk", "transacted")

    view = memory.namespace("desk")
    return {
        "put": lambda: memory.put("desk", "put", b"1", fence=fence),
        "put ttl": lambda: memory.put("desk", "put ttl", b"1", ttl=60, fence=fence),
        "put durable": lambda: memory.put("desk", "put durable", b"1", durable=True, fence=fence),
        "add": lambda: memory.add("desk", "add", b"1", fence=fence),
        "incr": lambda: memory.incr("desk", "incr", fence=fence),
        "put_many": lambda: memory.put_many("desk", {"put_many": b"1", "other": b"2"}, fence=fence),
        "transaction": transact,
        "view put": lambda: view.put("view put", 1, fence=fence),
        "view add": lambda: view.add("view add", 1, fence=fence),
    }


@cached
@pytest.mark.parametrize("form", ["lock", "token", "fence", "pickled"])
def test_every_write_keeps_its_fence(memory: ntmem.MemorySystem, form: str) -> None:
    with memory.lock("BTCUSDT") as lock:
        fence, token = lock.fence, lock.token
        given = {"lock": lock, "token": token, "fence": fence, "pickled": pickle.loads(pickle.dumps(token))}[form]
        for flush in (lambda: None, memory.flush):
            for name, write in writes(memory, given).items():
                write()
                flush()
                record = memory.get_record("desk", name)
                assert record is not None, name
                assert (record.fence, record.writer) == (fence, "agent_1"), name
                assert memory.delete("desk", name, fence=given)
                assert not memory.exists("desk", name)
                assert not memory.delete("desk", name, fence=given)


STALE = {
    "not held": lambda memory: memory.lock("BTCUSDT"),
    "never granted": lambda memory: Fence("BTCUSDT", 12345),
    "zero": lambda memory: Fence("BTCUSDT", 0),
    "negative": lambda memory: Fence("BTCUSDT", -1),
    "huge": lambda memory: Fence("BTCUSDT", 2**64),
    "nobody's": lambda memory: Fence("x" * 300, 1),
    "of another": lambda memory: Fence("ETHUSDT", memory.acquire_lock("BTCUSDT").fence.number),
}


@shared
@pytest.mark.parametrize("kind", STALE)
def test_stale_fences_write_nothing(memory: ntmem.MemorySystem, kind: str) -> None:
    stale = STALE[kind](memory)
    for name, write in writes(memory, stale).items():
        with pytest.raises(StaleFence, match=r"not held|not current"):
            write()
        assert not memory.exists("desk", name)
    with pytest.raises(StaleFence):
        memory.delete("desk", "put", fence=stale)
    assert list(memory.scan("desk")) == []


@shared
def test_what_was_given_back_or_is_over_writes_nothing(memory: ntmem.MemorySystem) -> None:
    given_back = memory.acquire_lock("BTCUSDT")
    memory.release_lock(given_back)
    late = memory.lock("BTCUSDT", ttl=SHORT)
    late.acquire()
    expired(late)
    for stale in (given_back, late):
        for name, write in writes(memory, stale).items():
            with pytest.raises(StaleFence, match="acquire it again"):
                write()
            assert not memory.exists("desk", name)


@pytest.mark.parametrize("wrong", ["BTCUSDT#1", b"x", 5, True, ("BTCUSDT", 1), object(), Fence(1, 2), Fence("x", "1")])
def test_what_is_no_fence(memory: ntmem.MemorySystem, wrong: Any) -> None:
    for name, write in writes(memory, wrong).items():
        with pytest.raises(TypeError, match=r"[fF]ence"):
            write()
        assert not memory.exists("desk", name)


@cached
@pytest.mark.parametrize("flushed", [False, True])
def test_what_was_written_under_a_lock_is_changed_under_it(memory: ntmem.MemorySystem, flushed: bool) -> None:
    with memory.lock("BTCUSDT") as first:
        version = memory.put("desk", "target", b"1", fence=first)
    if flushed:
        memory.flush()
    without: list[Callable[[], Any]] = [
        lambda: memory.put("desk", "target", b"2"),
        lambda: memory.put("desk", "target", b"2", if_version=version),
        lambda: memory.put("desk", "target", b"2", ttl=5),
        lambda: memory.incr("desk", "target"),
        lambda: memory.delete("desk", "target"),
        lambda: memory.put_many("desk", {"other": b"1", "target": b"2"}),
        lambda: run(memory, None),
        lambda: memory.namespace("desk", codec="bytes").put("target", b"2"),
        lambda: memory.namespace("desk").pop("target"),
        lambda: memory.namespace("desk").clear(),
    ]
    for write in without:
        with pytest.raises(StaleFence, match=r"'target' was written under the lock of 'BTCUSDT'"):
            write()
    assert not memory.exists("desk", "other")
    with memory.lock("ETHUSDT") as other:
        for write in (
            lambda: memory.put("desk", "target", b"2", fence=other),
            lambda: memory.delete("desk", "target", fence=other),
            lambda: run(memory, other),
        ):
            with pytest.raises(StaleFence, match=r"'BTCUSDT', the fence is one of 'ETHUSDT'"):
                write()
    assert memory.get("desk", "target") == b"1"
    with memory.lock("BTCUSDT") as later:
        assert memory.put("desk", "target", b"2", fence=later) > version
    assert memory.get("desk", "target") == b"2"


def run(memory: ntmem.MemorySystem, fence: Any) -> None:
    with memory.transaction(fence) as t:
        t.put("desk", "before", b"1")
        t.put("desk", "target", b"3")


@cached
@pytest.mark.parametrize("flushed", [False, True])
def test_a_guard_ends_with_its_record(memory: ntmem.MemorySystem, clock: ntmem.SimulatedClock, flushed: bool) -> None:
    settle: Callable[[], None] = memory.flush if flushed else (lambda: None)
    with memory.lock("BTCUSDT") as lock:
        memory.put("desk", "deleted", b"1", fence=lock)
        memory.put("desk", "expired", b"1", ttl=60, fence=lock)
        memory.put("desk", "transacted", b"1", fence=lock)
        settle()
        memory.delete("desk", "deleted", fence=lock)
        with memory.transaction(lock) as t:
            t.delete("desk", "transacted")
    settle()
    clock.set(START + 60 * SECOND - 1)
    with pytest.raises(StaleFence):
        memory.put("desk", "expired", b"2")
    clock.set(START + 60 * SECOND)
    for key in ("deleted", "expired", "transacted"):
        memory.put("desk", key, b"2")
        settle()
        assert memory.get("desk", key) == b"2"
        record = memory.get_record("desk", key)
        assert record is not None
        assert record.fence is None
        with memory.lock("ETHUSDT") as other:  # and the next lock may take it
            memory.put("desk", key, b"3", fence=other)


@cached
def test_a_lower_number_is_refused(memory: ntmem.MemorySystem) -> None:
    """Two leases of one lock are never current at once; the record is asked all the same."""
    with memory.lock("BTCUSDT") as first:
        pass
    with memory.lock("BTCUSDT") as second:
        memory.put("desk", "target", b"2", fence=second)
        assert first.fence is None
        assert second.fence is not None
        with pytest.raises(StaleFence):
            memory.put("desk", "target", b"1", fence=second.fence._replace(number=second.fence.number - 1))
    assert memory.get("desk", "target") == b"2"


@cached
def test_other_namespaces_and_children_are_free(memory: ntmem.MemorySystem) -> None:
    with memory.lock("BTCUSDT") as lock:
        memory.put("desk", "target", b"1", fence=lock)
        memory.put("desk", "plain", b"1")
    memory.put("desk", "plain", b"2")
    memory.put("desk/child", "target", b"2")
    memory.put("other", "target", b"2")
    assert memory.delete_namespace("desk") == 3  # administration asks no fence
    memory.put("desk", "target", b"2")


@cached
def test_adding_what_is_guarded_is_refused_or_does_nothing(memory: ntmem.MemorySystem) -> None:
    with memory.lock("BTCUSDT") as lock:
        memory.put("desk", "target", b"1", fence=lock)
        assert not memory.add("desk", "target", b"2", fence=lock)
    with pytest.raises(StaleFence):
        memory.add("desk", "target", b"2")
    assert memory.get("desk", "target") == b"1"


@cached
@pytest.mark.parametrize("size", [0, 100, 9_000, 300_000])
def test_values_of_any_size_keep_their_fence(ram: Path, size: int) -> None:
    """The log is 64 KiB: over an eighth of that they are staged."""
    with ntmem.open(ram / "store", log_bytes=65536) as memory:
        with memory.lock("BTCUSDT") as lock:
            for _ in range(3):
                memory.put("desk", "target", bytes(size), fence=lock)
                fence = lock.fence
                record = memory.get_record("desk", "target")
                assert record is not None
                assert (record.value, record.fence) == (bytes(size), fence)
        with pytest.raises(StaleFence):
            memory.put("desk", "target", b"x" * size, fence=lock.fence or fence)
        for value in (b"", bytes(300_000)):
            with pytest.raises(StaleFence):
                memory.put("desk", "target", value)
    with ntmem.open(ram / "store") as memory:
        record = memory.get_record("desk", "target")
        assert record is not None
        assert (record.value, record.fence) == (bytes(size), fence)
        with pytest.raises(StaleFence):
            memory.put("desk", "target", b"1")
        with memory.lock("BTCUSDT") as lock:
            memory.delete("desk", "target", fence=lock)


@cached
@pytest.mark.parametrize("keys", [3, 3_000])
def test_transactions_of_any_size_keep_their_fence(ram: Path, keys: int) -> None:
    """The log is 64 KiB: three thousand keys go past it."""
    mapping = {f"key {number}": b"x" * 40 for number in range(keys)}
    with ntmem.open(ram / "store", log_bytes=65536, agent_id="agent_1") as memory:
        with memory.lock("BTCUSDT") as lock:
            fence = lock.fence
            memory.put_many("desk", mapping, fence=lock)
            with memory.transaction(lock) as t:
                for key in mapping:
                    t.incr("count", key)
        for stale in (None, fence):
            with pytest.raises(StaleFence):
                memory.put_many("desk", dict.fromkeys(mapping, b"y"), fence=stale)
        assert memory.get_many("desk", mapping) == mapping
    with ntmem.open(ram / "store") as memory:
        for key in mapping:
            for namespace in ("desk", "count"):
                record = memory.get_record(namespace, key)
                assert record is not None
                assert (record.fence, record.writer) == (fence, "agent_1")


@cached
def test_history_keeps_fences(memory: ntmem.MemorySystem, clock: ntmem.SimulatedClock) -> None:
    memory.retain("desk", history=True)
    memory.put("desk", "target", b"1")
    fences: list[Fence | None] = [None]
    for number in range(3):
        clock.set(START + (number + 1) * SECOND)
        with memory.lock("BTCUSDT") as lock:
            if number == 1:
                memory.delete("desk", "target", fence=lock)
            else:
                memory.put("desk", "target", b"%d" % number, fence=lock)
            fences.append(lock.fence)
        if number == 1:
            memory.flush()
        else:
            with pytest.raises(StaleFence):
                memory.put("desk", "target", b"x")
    memory.put("desk", "free", b"1")
    for _ in range(2):
        history = memory.history("desk", "target")
        assert [record.fence for record in reversed(history)] == fences
        assert {record.writer for record in history} == {"agent_1"}
        assert [record.value for record in reversed(history)] == [b"1", b"0", None, b"2"]
        past = memory.get_record("desk", "target", as_of=START + SECOND)
        assert past is not None
        assert (past.value, past.fence) == (b"0", fences[1])
        latest = memory.get_record("desk", "target", as_of=ntmem.LATEST)
        assert latest is not None
        assert latest.fence == fences[3]
        memory.flush()


@cached
def test_fences_are_kept_over_reopening(ram: Path) -> None:
    with ntmem.open(ram / "store") as memory:
        memory.retain("past", history=True)
        with memory.lock("BTCUSDT") as lock:
            fence = lock.fence
            for namespace in ("desk", "past"):
                memory.put(namespace, "target", b"1", fence=lock)
    for read_only in (True, False):
        with ntmem.open(ram / "store", read_only=read_only) as memory:
            record = memory.get_record("desk", "target")
            assert record is not None
            assert record.fence == memory.history("past", "target")[0].fence == fence
    with ntmem.open(ram / "store") as memory:
        for stale in (fence, None):
            with pytest.raises(StaleFence):
                memory.put("desk", "target", b"2", fence=stale)
        with memory.lock("BTCUSDT") as lock:
            assert lock.fence is not None
            assert fence is not None
            assert lock.fence.number > fence.number
            memory.put("desk", "target", b"2", fence=lock)


@cached
def test_what_is_watched_has_its_writer(memory: ntmem.MemorySystem) -> None:
    with memory.watch("desk") as changes, memory.lock("BTCUSDT") as lock:
        for name, write in writes(memory, lock).items():
            write()
            memory.delete("desk", name, fence=lock)
        seen = []
        while (change := changes.recv(timeout=0)) is not None:
            seen.append(change)
    assert {change.writer for change in seen} == {"agent_1"}
    assert {change.key for change in seen if change.kind == "put"} == {*writes(memory, None), "other", "transacted"}
    assert sum(change.kind == "delete" for change in seen) == len(writes(memory, None))


@cached
def test_a_fence_is_about_the_resource_and_not_about_who_holds_it(ram: Path, start: Start) -> None:
    """Whoever has the fence writes under it, in any process: as long as it is current."""
    with ntmem.open(ram / "store", agent_id="agent_1") as memory:
        child = start(
            ELSEWHERE
            + """
while number := hear():
    fence = ntmem.Fence("BTCUSDT", int(number))
    say(outcome(memory.put, "desk", "target", b"child", fence=fence).split(":")[0].rstrip("0123456789"))
""",
            ram / "store",
        )
        with memory.lock("BTCUSDT") as lock:
            memory.put("desk", "target", b"1", fence=lock)
            assert lock.fence is not None
            number = lock.fence.number
            child.tell(str(number))
            assert child.line() == ""
            record = memory.get_record("desk", "target")
            assert record is not None
            assert (record.value, record.fence, record.writer) == (b"child", lock.fence, "elsewhere")
        child.tell(str(number))
        assert child.line() == "StaleFence"


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


# ---- no shared memory ----


@pytest.mark.only("lmdb")
def test_without_shared_memory_locks_are_refused(memory: ntmem.MemorySystem) -> None:
    calls: list[Callable[[], Any]] = [
        lambda: memory.lock("BTCUSDT").acquire(),
        lambda: memory.lock("BTCUSDT").__enter__(),
        lambda: memory.acquire_lock("BTCUSDT", 0),
        lambda: asyncio.run(memory.aacquire_lock("BTCUSDT")),
        lambda: memory.release_lock("BTCUSDT#1"),
        lambda: memory.locks.renew("BTCUSDT#1", 5),
        lambda: memory.agents.register("agent"),
    ]
    for call in calls:
        with pytest.raises(ntmem.CoordinationError, match="engine='shared'"):
            call()
    assert memory.locks.list() == []
    assert not memory.locks.is_locked("BTCUSDT")
    assert not memory.locks.is_current("BTCUSDT#1")
    assert memory.agents.list() == []
    assert "unlocked" in repr(memory.lock("BTCUSDT"))
    for name, write in writes(memory, Fence("BTCUSDT", 1)).items():
        with pytest.raises(StaleFence, match="engine='shared'"):
            write()
        assert not memory.exists("desk", name)


@pytest.mark.only("lmdb")
def test_guards_hold_whatever_opens_the_store(ram: Path) -> None:
    with ntmem.open(ram / "store", engine="shared") as memory, memory.lock("BTCUSDT") as lock:
        fence = lock.fence
        memory.put("desk", "target", b"1", fence=lock)
    with ntmem.open(ram / "store", engine="lmdb") as memory:
        record = memory.get_record("desk", "target")
        assert record is not None
        assert record.fence == fence
        for write in (lambda: memory.put("desk", "target", b"2"), lambda: memory.delete("desk", "target")):
            with pytest.raises(StaleFence, match="'BTCUSDT'"):
                write()
        memory.put("desk", "other", b"2")


# ---- both engines leave the same ----


@shared
@pytest.mark.parametrize("seed", range(6))
def test_both_engines_leave_the_same_on_disk(ram: Path, seed: int) -> None:
    """The engine that writes into LMDB at once, given the fences that were granted, is the oracle of the other."""
    with both(ram, log_bytes=65536) as stores:
        for step in steps(seed, 150):
            stores.do(step)
        stores.compare()
