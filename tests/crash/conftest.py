"""What the tests that kill have in common."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from hostile import children
from logs import Nursery, build_with_failpoints

# Once, and not by each that is forked: what a store imports when it is used, and what tests use it with.
USED = """
import observed, ntmem.reasoningbank
with ntmem.open() as memory:
    memory.vectors, memory.observations, memory.positions, memory.bank, memory.consensus
"""


@pytest.fixture(scope="module")
def nursery(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nursery]:
    """Processes with failpoints; this one has none, and opens the same memory."""
    if shutil.which("cc") is None and shutil.which("gcc") is None:
        pytest.skip("there is no compiler to build the failpoints with")
    with children() as start:
        yield Nursery(start, build_with_failpoints(root, tmp_path_factory.mktemp("failpoints")), USED)
