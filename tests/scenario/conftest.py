"""What replays are given."""

import os
import tempfile
from itertools import accumulate
from pathlib import Path
from random import Random

import pytest

BARS = 60


@pytest.fixture
def folder():
    """A directory in memory where there is one: these tests are about processes, not about a disk."""
    shm = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=shm if os.access(shm, os.W_OK) else None) as name:
        yield Path(name)


@pytest.fixture
def bars(folder):
    """A random walk of 60 bars, for what needs no real market."""
    random = Random(7)
    path = folder / "WALK-1m.csv"
    closes = accumulate((random.gauss(0, 1) for _ in range(BARS)), initial=500.0)
    rows = [f"{1_700_000_000 + 60 * i},{close:.2f}" for i, close in enumerate(closes)]
    path.write_text("\n".join(["ts_known,close", *rows[:BARS]]))
    return path
