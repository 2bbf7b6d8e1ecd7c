"""Twins do what their calls do, and no event loop is held up meanwhile: had it been, nobody could let them go on."""

from __future__ import annotations

import asyncio
import inspect
import re
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hostile import HANG
from polling import auntil

import ntmem
from ntmem.coordination.bus import SharedBus
from ntmem.tiers.observations import Observations
from ntmem.tiers.positions import Positions

GUIDE = Path(__file__).parents[2] / "docs/guide/asyncio.md"
PARTS = {
    ntmem.MemorySystem: lambda memory: memory,
    ntmem.VectorStore: lambda memory: memory.vectors,
    Observations: lambda memory: memory.observations,
    Positions: lambda memory: memory.positions,
    ntmem.ReasoningBank: lambda memory: memory.bank,
    ntmem.TrajectoryTracker: lambda memory: memory.trajectories,
    SharedBus: lambda memory: memory.bus,
}
OTHERS = {"arecv", "aacquire", "aacquire_lock", "await_decision"}  # which wait for others, and take no thread
TWINS = [
    pytest.param(owner, name, id=f"{owner.__name__}.{name}")
    for owner in PARTS
    for name, value in vars(owner).items()
    if inspect.iscoroutinefunction(value) and hasattr(value, "__wrapped__")
]


class Gate:
    """Something that waits, in whichever thread, until it is let go on."""

    def __init__(self) -> None:
        self.begun, self.go = threading.Event(), threading.Event()

    def wait(self) -> None:
        self.begun.set()
        assert self.go.wait(HANG), "nobody let it go on"


class SlowEmbedder:
    """Waits at a gate before each text."""

    dimension = 2

    def __init__(self) -> None:
        self.gate = Gate()

    def embed(self, what: Any) -> np.ndarray:
        self.gate.wait()
        return np.array([1, 0], np.float32)

    def embed_batch(self, these: Sequence[Any]) -> np.ndarray:
        return np.stack([self.embed(each) for each in these])


@pytest.fixture(scope="module")
def memory() -> Iterator[ntmem.MemorySystem]:
    with ntmem.open(engine="shared") as memory:
        yield memory


@pytest.mark.parametrize(("owner", "name"), TWINS)
def test_the_loop_goes_on_while_a_twin_waits(
    memory: ntmem.MemorySystem, owner: type, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate, one = Gate(), PARTS[owner](memory)

    def blocking(self: object, *args: object, **kwargs: object) -> object:
        gate.wait()
        return self, args, kwargs

    twin = getattr(one, name)
    call = "import_" if name == "aimport" else name[1:]
    assert twin.__name__ == name
    assert f":meth:`{call}`" in twin.__doc__
    assert inspect.signature(twin) == inspect.signature(getattr(one, call))
    monkeypatch.setattr(owner, call, blocking)

    async def main() -> object:
        task = asyncio.create_task(twin(1, two=2))
        await auntil(gate.begun.is_set)
        gate.go.set()
        return await task

    assert asyncio.run(main()) == (one, (1,), {"two": 2})


def test_a_twin_finds_what_its_call_finds(tmp_path: Path) -> None:
    async def both(call: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        twin = getattr(call.__self__, f"a{call.__name__}")  # type: ignore[attr-defined]
        found = await twin(*args, **kwargs)
        assert repr(found) == repr(call(*args, **kwargs))
        return found

    async def main() -> None:
        memory = ntmem.open(tmp_path / "desk", clock=ntmem.SimulatedClock(10**9))
        version = memory.put("desk", "target", b"3")
        assert await both(memory.get_many, "desk", ["target", "none"]) == {"target": b"3"}
        assert await both(memory.wait_durable, version, timeout=HANG) is None
        with pytest.raises(ValueError, match="not handed out yet"):
            await memory.await_durable(10**9)
        assert await memory.vectors.aadd_many("setups", ["a", "b"], [[1, 0], [0, 1]]) == 2
        assert await both(memory.vectors.count, "setups") == 2
        assert [hit.id for hit in await both(memory.vectors.search, "setups", [1, 0.1], k=1)] == ["a"]
        with pytest.raises(ntmem.VectorError, match="dimension"):
            await memory.vectors.asearch("setups", [1, 2, 3])
        rows = {"ts_event": np.arange(5), "close": np.arange(5) / 2}
        assert await memory.observations.aextend("bars", "BTCUSDT", rows, known_after=0.1) == 5
        assert len(await both(memory.observations.range, "bars", "BTCUSDT", 1, 4)) == 3
        memory.positions.apply_fill("BTCUSDT", 2, 61800.3, trade_id="t1")
        assert len(await both(memory.positions.snapshot)) == 1
        with memory.bank.begin("agent_1", "breakout") as t:
            t.add_action("buy", predicted_outcome=1.0)
        assert [each.trajectory_id for each in await both(memory.trajectories.pending)] == [t.id]
        memory.bank.resolve(t.id, 1.0)
        assert (await both(memory.bank.judge, t.id, record=False)).verdict is ntmem.Verdict.CORRECT
        assert await memory.adelete_namespace("desk") == 1
        await memory.aclose()
        assert memory.closed

    asyncio.run(main())


def test_who_is_cancelled_stops_waiting_and_the_call_ends_by_itself() -> None:
    embedder = SlowEmbedder()

    async def main(memory: ntmem.MemorySystem) -> None:
        task = asyncio.create_task(memory.vectors.aadd_many("notes", ["n1"], ["funding flips"]))
        await auntil(embedder.gate.begun.is_set)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert memory.vectors.count("notes") == 0
        embedder.gate.go.set()
        await auntil(lambda: memory.vectors.count("notes") == 1)

    with ntmem.open(embedder=embedder) as memory:
        asyncio.run(main(memory))


def test_who_is_cancelled_before_its_turn_did_nothing() -> None:
    embedder = SlowEmbedder()

    async def main(memory: ntmem.MemorySystem) -> None:
        asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(1))
        first = asyncio.create_task(memory.vectors.asearch("notes", "why?"))
        await auntil(embedder.gate.begun.is_set)
        second = asyncio.create_task(memory.adelete_namespace("desk"))
        await asyncio.sleep(0)  # it is in the queue
        second.cancel()
        embedder.gate.go.set()
        assert await first == []
        with pytest.raises(asyncio.CancelledError):
            await second
        assert await memory.aget_many("desk", ["target"]) == {"target": b"3"}  # behind whatever was in the queue

    with ntmem.open(embedder=embedder) as memory:
        memory.vectors.create("notes", 2)
        memory.put("desk", "target", b"3")
        asyncio.run(main(memory))


def test_a_subclass_has_its_own() -> None:
    class Desk(ntmem.MemorySystem):
        def flush(self, timeout: float | None = None) -> None:
            flushed.append(timeout)

    flushed: list[float | None] = []
    with Desk(ntmem.MemoryConfig(storage_path=None)) as memory:
        asyncio.run(memory.aflush(3.0))
    assert flushed == [3.0]


def test_the_guide_lists_all_and_none_that_is_not() -> None:
    listed = set(re.findall(r"\b(a[a-z_]+)\(", GUIDE.read_text())) - {"asyncio", "append"}
    owners = [*PARTS, ntmem.MattsRun, ntmem.Subscription, ntmem.Lock, ntmem.ConsensusEngine]
    there = {name for owner in owners for name in dir(owner) if inspect.iscoroutinefunction(getattr(owner, name))}
    assert {param.values[1] for param in TWINS} | OTHERS <= listed <= there
