"""Stores of all kinds that vectors are kept in: every test that asks for `v` or `memory` runs once in each."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from vectors import START

import ntmem

HOW: dict[str, dict[str, Any]] = {
    "shared": {"engine": "shared"},
    "tiny": {"engine": "shared", "log_bytes": 4096},
    "lmdb": {"engine": "lmdb"},
    "private": {},
}


@pytest.fixture
def clock() -> ntmem.SimulatedClock:
    """A clock that stands at the `START` of the oracle of vectors."""
    return ntmem.SimulatedClock(START)


@pytest.fixture(params=HOW)
def how(request: pytest.FixtureRequest) -> str:
    """Which kind the store is of."""
    return request.param


@pytest.fixture
def memory(clock: ntmem.SimulatedClock, how: str, ram: Path) -> Iterator[ntmem.MemorySystem]:
    """A store of that kind."""
    with ntmem.open(None if how == "private" else ram / "s", clock=clock, **HOW[how]) as memory:
        yield memory


@pytest.fixture
def v(memory: ntmem.MemorySystem) -> Any:
    """Its vectors."""
    return memory.vectors
