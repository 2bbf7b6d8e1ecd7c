"""Messages in event loops: none is lost by being cancelled, one thread waits for all, and no loop is ever held up."""

from __future__ import annotations

import asyncio
import gc
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hostile import HANG, Start
from polling import auntil, until
from watchdog import Watchdog

import ntmem
from ntmem.coordination import pubsub

KINDS = [False, True]


@pytest.fixture
def memory() -> Iterator[ntmem.MemorySystem]:
    with ntmem.open(engine="shared", agent_id="me") as memory:
        yield memory


@pytest.fixture
def watchdog(monkeypatch: pytest.MonkeyPatch) -> Iterator[Watchdog]:
    watchdog = Watchdog()
    watchdog.watch(monkeypatch)
    gc.disable()  # what is thrown away may belong to anybody
    yield watchdog
    gc.enable()


def waiters() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "ntmem-bus"]


async def held_up(messages: Any) -> bytes:
    message = await messages.arecv(HANG)
    assert message is not None, "it did not come"
    payload: bytes = message.payload
    return payload


@pytest.mark.parametrize("durable", KINDS)
def test_what_is_there_and_what_comes(memory: ntmem.MemorySystem, durable: bool) -> None:
    async def main() -> None:
        with memory.subscribe("a", durable=durable) as messages:
            assert await messages.arecv(0) is None
            assert await messages.arecv(0.01) is None
            memory.publish("a", b"there", durable=durable)
            assert await held_up(messages) == b"there"
            task = asyncio.create_task(held_up(messages))
            await asyncio.sleep(0.01)
            memory.publish("a", b"comes", durable=durable)
            assert await task == b"comes"
            for number in range(3):
                memory.publish("a", b"%d" % number, durable=durable)
            seen = []
            async for message in messages:
                seen.append(message.payload)
                if len(seen) == 3:
                    messages.close()
            assert seen == [b"0", b"1", b"2"]
            for wrong in (-1, "1"):
                with pytest.raises((ValueError, TypeError), match="timeout must be"):
                    await messages.arecv(wrong)  # type: ignore[arg-type]

    asyncio.run(main())


def test_another_process_wakes_a_loop(ram: Path, start: Start) -> None:
    code = """
with ntmem.open(sys.argv[1], engine="shared") as memory, memory.subscribe("ping") as pings:
    say("ready")
    for message in pings:
        memory.publish("pong", message.payload)
        memory.publish("kept", message.payload, durable=True)
"""
    with ntmem.open(ram / "s", engine="shared") as memory:
        assert start(code, ram / "s").line() == "ready"

        async def main() -> None:
            with memory.subscribe("pong") as pongs, memory.subscribe("kept", durable=True) as kept:
                for number in range(30):
                    memory.publish("ping", b"%d" % number)
                    assert await held_up(pongs) == b"%d" % number
                    assert await held_up(kept) == b"%d" % number

        asyncio.run(main())


@pytest.mark.parametrize("durable", KINDS)
def test_who_is_cancelled_loses_nothing(memory: ntmem.MemorySystem, durable: bool) -> None:
    async def main() -> list[int]:
        got: list[int] = []
        with memory.subscribe("a", durable=durable) as messages:

            async def receive() -> None:
                while True:
                    message = await messages.arecv()
                    got.append(int(message.payload))

            for number in range(200):
                task = asyncio.create_task(receive())
                for _ in range(number % 7):
                    await asyncio.sleep(0)
                memory.publish("a", b"%d" % number, durable=durable)
                for _ in range(number % 5):
                    await asyncio.sleep(0)
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)
            task = asyncio.create_task(receive())
            await auntil(lambda: len(got) >= 200)
            task.cancel()
        return got

    assert asyncio.run(main()) == list(range(200))


def test_many_tasks_have_one_thread(memory: ntmem.MemorySystem, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pubsub, "_IDLE", 0.05)
    until(lambda: not waiters())  # those of other tests

    async def main() -> None:
        subscriptions = [memory.subscribe(f"a/{number}") for number in range(200)]
        tasks = [asyncio.create_task(held_up(messages)) for messages in subscriptions]
        await auntil(lambda: len(memory.bus._waiter()._waiting) == 200)
        assert len(waiters()) == 1
        for number in range(200):
            memory.publish(f"a/{number}", b"%d" % number)
        assert await asyncio.gather(*tasks) == [b"%d" % number for number in range(200)]
        assert memory.bus._waiter()._waiting == {}

    for _ in range(2):  # the thread is gone when nobody waits, and there again
        asyncio.run(main())
        until(lambda: not waiters())


def test_tasks_share_a_subscription(memory: ntmem.MemorySystem) -> None:
    async def main() -> None:
        got: list[bytes] = []
        with memory.subscribe("a") as messages:

            async def receive() -> None:
                got.append(await held_up(messages))

            tasks = [asyncio.create_task(receive()) for _ in range(50)]
            await asyncio.sleep(0.01)
            memory.publish_many("a", [b"%d" % number for number in range(50)])
            await asyncio.gather(*tasks)
        assert sorted(map(int, got)) == list(range(50))

    asyncio.run(main())


def test_the_thread_ends_while_others_come(memory: ntmem.MemorySystem, monkeypatch: pytest.MonkeyPatch) -> None:
    """It ends as soon as nobody waits, which is all the time: who comes then has another one."""
    monkeypatch.setattr(pubsub, "_IDLE", 0.0)

    async def main() -> None:
        with memory.subscribe("a") as messages:
            for number in range(300):
                task = asyncio.create_task(held_up(messages))
                for _ in range(number % 4):
                    await asyncio.sleep(0)
                memory.publish("a", b"%d" % number)
                assert await task == b"%d" % number

    asyncio.run(main())
    until(lambda: not waiters())


@pytest.mark.parametrize("durable", KINDS)
def test_closing_while_it_is_awaited(ram: Path, durable: bool) -> None:
    async def main() -> None:
        memory = ntmem.open(ram / "s", engine="shared")
        messages = [memory.subscribe("a", durable=durable) for _ in range(3)]

        async def iterate() -> list[Any]:
            return [message async for message in messages[1]]

        waiting = [asyncio.create_task(each.arecv()) for each in messages]
        iterating = asyncio.create_task(iterate())
        await asyncio.sleep(0.01)
        messages[0].close()
        messages[1].close()
        with pytest.raises(ntmem.StoreClosed, match="subscription was closed"):
            await waiting[0]
        with pytest.raises(ntmem.StoreClosed, match="subscription was closed"):
            await waiting[1]
        assert await iterating == []
        memory.close()
        with pytest.raises(ntmem.StoreClosed, match="store was closed"):
            await waiting[2]
        with pytest.raises(ntmem.StoreClosed):
            await messages[2].arecv(0)

    asyncio.run(main())


@pytest.mark.parametrize("durable", KINDS)
def test_loops_in_threads(memory: ntmem.MemorySystem, durable: bool) -> None:
    found: list[list[int]] = []

    def run() -> None:
        async def main() -> None:
            with memory.subscribe("a", durable=durable, since=0) as messages:
                found.append([int(await held_up(messages)) for _ in range(100)])

        asyncio.run(main())

    threads = [threading.Thread(target=run, daemon=True) for _ in range(4)]
    for thread in threads:
        thread.start()
    for number in range(100):
        memory.publish("a", b"%d" % number, durable=durable)
    for thread in threads:
        thread.join(HANG)
    assert found == [list(range(100))] * 4


def test_a_loop_that_ended_while_a_task_waited(memory: ntmem.MemorySystem) -> None:
    with memory.subscribe("a") as messages:

        async def forgotten() -> None:
            task = asyncio.create_task(messages.arecv())
            await asyncio.sleep(0.001)
            assert not task.done()

        asyncio.run(forgotten())
        memory.publish("a", b"x")

        async def main() -> bytes:
            return await held_up(messages)

        assert asyncio.run(main()) == b"x"


FLOOD = """
memory = ntmem.open(sys.argv[1], engine="shared")
import select
say("ready")
number = 0
while not select.select([sys.stdin], [], [], 0)[0]:
    number += 1
    memory.publish_many("flood", [bytes(50)] * 50)
    if number % 20 == 0:
        memory.publish("px/BTC", b"%d" % number)
        time.sleep(0.001)
"""


def test_a_flood_holds_up_nobody(ram: Path, start: Start, watchdog: Watchdog) -> None:
    """One process floods the bus; tasks follow the flood, a part of it, or nothing of it, and are cancelled."""
    with ntmem.open(ram / "s", engine="shared") as memory:
        flood = start(FLOOD, ram / "s")
        assert flood.line() == "ready"
        ticks = 0

        async def tick() -> None:
            nonlocal ticks
            while True:
                ticks += 1
                await asyncio.sleep(0.001)

        async def follow(pattern: str, got: list[int]) -> None:
            with memory.subscribe(pattern) as messages:
                async for _ in messages:  # never waits for anything else
                    got[0] += 1

        async def late() -> None:
            with memory.subscribe("nothing/*") as messages:
                while True:
                    assert await messages.arecv(0.002) is None

        async def main() -> None:
            counts = [[0] for _ in range(6)]
            tasks = [asyncio.create_task(tick())]
            tasks += [asyncio.create_task(follow("px/*", counts[number])) for number in range(5)]
            tasks += [asyncio.create_task(follow("flood", counts[5]))]
            tasks += [asyncio.create_task(late()) for _ in range(5)]
            await auntil(lambda: ticks > 200 and min(counts)[0] > 100)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

        asyncio.run(main())
        flood.tell()
        flood.end()
    assert watchdog.callbacks > 1000
    # The GIL may have been the other thread's; who waited for messages would do so in each callback.
    assert len(watchdog.blocked) < watchdog.callbacks / 4, watchdog.blocked[:5]


def test_a_flood_that_nobody_awaits_is_not_looked_at_all_the_time(
    ram: Path, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The waiting thread would have the GIL most of the time. A pause is never shorter than it was meant to be."""
    looks, look = [0], pubsub.Waiter._wake

    def counted(self: Any, **how: bool) -> bool:
        looks[0] += 1
        return look(self, **how)

    monkeypatch.setattr(pubsub.Waiter, "_wake", counted)
    with ntmem.open(ram / "s", engine="shared") as memory, memory.subscribe("nothing/*") as messages:
        flood = start(FLOOD, ram / "s")
        assert flood.line() == "ready"

        async def main() -> float:
            begun = time.monotonic()
            waiting = asyncio.create_task(messages.arecv())
            await auntil(lambda: looks[0] > 500)
            took = time.monotonic() - begun
            waiting.cancel()
            return took

        took = asyncio.run(main())
        assert looks[0] <= 2 * took / pubsub._PAUSE + 2
        flood.tell()
        flood.end()


def test_waiting_blocks_nothing(ram: Path, watchdog: Watchdog) -> None:
    """While nothing comes at all, there is nobody to share the GIL with."""
    with ntmem.open(ram / "s", engine="shared") as memory:

        async def main() -> None:
            subscriptions = [memory.subscribe(f"a/{number}") for number in range(50)]
            tasks = [asyncio.create_task(messages.arecv()) for messages in subscriptions]
            late = [asyncio.create_task(messages.arecv(0.05)) for messages in subscriptions]
            assert await asyncio.gather(*late) == [None] * 50
            for task in tasks[:25]:
                task.cancel()
            memory.publish("a/30", b"x")
            assert (await asyncio.wait_for(tasks[30], HANG)).payload == b"x"  # type: ignore[union-attr]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

        asyncio.run(main())
    assert watchdog.callbacks > 200
    assert len(watchdog.blocked) < 20, watchdog.blocked
