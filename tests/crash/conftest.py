from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from hostile import Start, children, ram_directory


@pytest.fixture
def ram() -> Iterator[Path]:
    """A directory on a RAM disk, gone after the test."""
    with ram_directory() as path:
        yield path


@pytest.fixture
def start() -> Iterator[Start]:
    """Starts child processes; those that still run are killed after the test."""
    with children() as start:
        yield start
