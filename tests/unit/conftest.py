"""What tests of one part have in common: a place in memory, and a private store at an instant of the module's own."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hostile import ram_directory

import ntmem
from ntmem.reasoningbank import ReasoningBank, tracker


@pytest.fixture
def tmp_path() -> Iterator[Path]:
    """A directory on a RAM disk here, too, and not the one of `ram`: a synced commit on a disk takes some 15 ms.

    What wants a disk is in tests/abuse and tests/concurrency.
    """
    with ram_directory() as path:
        yield path


@pytest.fixture
def clock(request: pytest.FixtureRequest) -> ntmem.SimulatedClock:
    """A clock that stands at the module's `START`."""
    return ntmem.SimulatedClock(request.module.START)


@pytest.fixture
def memory(clock: ntmem.SimulatedClock) -> Iterator[ntmem.MemorySystem]:
    """A private store with that clock."""
    with ntmem.open(clock=clock, agent_id="agent_1") as memory:
        yield memory


@pytest.fixture
def bank(memory: ntmem.MemorySystem) -> ReasoningBank:
    """The bank of that store."""
    return memory.bank


@pytest.fixture
def book(memory: ntmem.MemorySystem) -> Any:
    """The positions of that store."""
    return memory.positions


@pytest.fixture
def in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let ids rise: outcomes of one instant are learnt in the order of nothing else."""
    numbers = itertools.count(1)
    monkeypatch.setattr(tracker, "new_id", lambda _: f"{next(numbers):026d}")
