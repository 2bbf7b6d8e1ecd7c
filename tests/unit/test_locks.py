"""Locks, as users of a store have them: with, reentrant, lost, waited for, as tokens."""

from __future__ import annotations

import asyncio
import gc
import pickle
import threading
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from hostile import HANG, Start
from locked import expired, in_thread, waiting
from polling import auntil, until

import ntmem
from ntmem import LockLost, LockTimeout, LockToken

pytestmark = pytest.mark.usefixtures("engine")
shared = pytest.mark.only("shared")

START = 1_700_000_000_000_000_000
SECOND = 1_000_000_000
SHORT = 0.02
ELSEWHERE = "memory = ntmem.open(sys.argv[1], agent_id='elsewhere')\n"


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
