"""An event loop in which tasks wait for locks of other processes is never held up.

Time says nothing on a machine that has other work. A thread that waits in the kernel, be it for a futex, a sleep or a
disk, gives up its processor, and the kernel counts that: a callback of the loop during which it happened has blocked.
"""

from __future__ import annotations

import asyncio
import gc
import random
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hostile import HANG, Start
from polling import auntil
from watchdog import Watchdog

import ntmem

WAITERS = 300


@pytest.fixture
def watchdog(monkeypatch: pytest.MonkeyPatch) -> Iterator[Watchdog]:
    watchdog = Watchdog()
    watchdog.watch(monkeypatch)
    gc.disable()  # what is thrown away may belong to anybody
    yield watchdog
    gc.enable()


HOLDER = """
memory = ntmem.open(sys.argv[1], engine="shared")
held = []
while word := hear():
    name, ttl = word.split()
    held.append(memory.acquire_lock(name, ttl=float(ttl)))
    say("held")
"""

TAKER = """
memory = ntmem.open(sys.argv[1], engine="shared")
say("ready")
import select
while not select.select([sys.stdin], [], [], 0)[0]:
    for name in sys.argv[2:]:
        lock = memory.lock(name, timeout=0.01, ttl=0.01)
        if lock.acquire():
            outcome(lock.release)  # it may be late
"""


def test_the_watchdog_sees_who_blocks(watchdog: Watchdog) -> None:
    with ntmem.open(engine="shared") as memory:

        async def main() -> None:
            memory.acquire_lock("BTCUSDT")
            for _ in range(5):
                asyncio.get_running_loop().call_soon(time.sleep, 0.001)
                asyncio.get_running_loop().call_soon(memory.lock("BTCUSDT").acquire, True, 0.001)
                await asyncio.sleep(0.01)

        asyncio.run(main())
    assert sum("sleep" in each for each in watchdog.blocked) == 5
    assert sum("acquire" in each for each in watchdog.blocked) == 5


def test_waiting_for_other_processes_never_blocks(ram: Path, start: Start, watchdog: Watchdog) -> None:
    """With all that may happen to who waits: it is granted, in the end or when a lease expires or its owner is killed,
    it is too late, it is cancelled. A loop that waited in any of them would do so in all."""
    path = ram / "store"
    chance = random.Random(5)
    with ntmem.open(path, engine="shared") as memory:
        holder, stopped, doomed = (start(HOLDER, path) for _ in range(3))
        takers = [start(TAKER, path, "busy", "busier") for _ in range(2)]
        for child, word in ((holder, "held 1000"), (stopped, "expiring 0.5"), (doomed, "orphaned 1000")):
            child.tell(word)
            assert child.line() == "held"
        for taker in takers:
            assert taker.line() == "ready"
        ends = dict.fromkeys(("granted", "late", "cancelled"), 0)
        ticks = 0

        async def wait(name: str, timeout: float | None) -> None:
            try:
                async with memory.lock(name, timeout=timeout, ttl=HANG):
                    ends["granted"] += 1
                    await asyncio.sleep(0)
            except ntmem.LockTimeout:
                ends["late"] += 1
            except asyncio.CancelledError:
                ends["cancelled"] += 1
                raise

        async def tick() -> None:
            nonlocal ticks
            while True:
                ticks += 1
                await asyncio.sleep(0.0005)

        async def main() -> None:
            ticker = asyncio.create_task(tick())
            waiters, cancelled = [], []
            for number in range(WAITERS):
                name = ("held", "expiring", "orphaned", "busy", "busier", "free")[number % 6]
                task = asyncio.create_task(wait(name, 0.05 if name == "held" and number % 4 == 0 else None))
                if chance.random() < 0.3 or (name == "held" and number % 4):
                    cancelled.append(task)
                waiters.append(task)
                if number % 20 == 0:
                    await asyncio.sleep(0.001)
            stopped.stop()
            doomed.kill()
            for task in cancelled:
                await asyncio.sleep(0)
                task.cancel()
            await asyncio.wait_for(asyncio.gather(*waiters, return_exceptions=True), HANG)
            before = ticks
            await auntil(lambda: ticks > before)
            ticker.cancel()

        asyncio.run(main())
        for taker in takers:
            taker.tell()
            taker.end()
        assert ends["granted"] > WAITERS / 4
        assert ends["late"] > 0
        assert ends["cancelled"] > 0
        assert [info.resource for info in memory.locks.list()] == ["held"]  # nobody else has a lease or a place
        assert memory.locks.list()[0].waiting == 0
    assert watchdog.callbacks > 10 * WAITERS
    # The kernel may have made it wait for a page once; who waited for locks would do so hundreds of times.
    assert len(watchdog.blocked) < WAITERS / 20, watchdog.blocked


def test_a_heart_beats_while_tasks_wait(ram: Path, start: Start, watchdog: Watchdog) -> None:
    """A task renews its lease in time, though its loop is full of those who wait."""
    path = ram / "store"
    with ntmem.open(path, engine="shared") as memory:
        holder = start(HOLDER, path)
        holder.tell("held 1000")
        assert holder.line() == "held"

        async def main() -> int:
            waiters = [asyncio.create_task(memory.aacquire_lock("held")) for _ in range(50)]
            await auntil(lambda: sum(info.waiting for info in memory.locks.list("held")) == 50)
            beats = 0
            async with memory.lock("mine", ttl=HANG) as lock:
                while beats < 200:
                    await asyncio.sleep(0.001)
                    lock.renew()
                    beats += 1
            for waiter in waiters:
                waiter.cancel()
            await asyncio.gather(*waiters, return_exceptions=True)
            return sum(info.waiting for info in memory.locks.list("held"))

        assert asyncio.run(main()) == 0
    assert len(watchdog.blocked) < 10, watchdog.blocked
