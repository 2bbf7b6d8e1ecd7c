"""A slice of `make soak`: a quarter of a minute of all parts in use, with kills and backups."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.crash, pytest.mark.slow]

SECONDS = os.environ.get("SOAK_SLICE_SECONDS", "12")


def test_a_slice_of_the_soak(root: Path, ram: Path) -> None:
    done = subprocess.run(
        [sys.executable, root / "tests/soak", "--seconds", SECONDS, "--workers", "3", "--kill-every", "1.5"],
        env=os.environ | {"SOAK_DIR": str(ram), "NTMEM_ENGINE": "shared"},
        capture_output=True,
        text=True,
        check=False,
    )
    print(done.stdout)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "\nno fault" in done.stdout
