"""A slice of `make crash`: half a minute of killed and stopped processes, of power that fails, of all that it has."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys

import pytest
from logs import build_with_failpoints

pytestmark = [pytest.mark.crash, pytest.mark.slow]

SECONDS = os.environ.get("CRASH_SLICE_SECONDS", "30")
SEED = os.environ.get("CRASH_SEED")


@pytest.fixture(scope="module")
def tree(root, tmp_path_factory):
    if shutil.which("cc") is None and shutil.which("gcc") is None:
        pytest.skip("there is no compiler to build the failpoints with")
    return build_with_failpoints(root, tmp_path_factory.mktemp("failpoints"))


def run_harness(root, tree, *arguments):
    return subprocess.run(
        [sys.executable, root / "tests/crash/harness", *arguments],
        env=os.environ | {"PYTHONPATH": str(tree), "NTMEM_ENGINE": "shared"},
        capture_output=True,
        text=True,
        check=False,
    )


def test_a_slice_of_the_crash_harness(root, tree):
    done = run_harness(root, tree, "--seconds", SECONDS, *(["--seed", SEED] if SEED else []))
    print(done.stdout)
    assert done.returncode == 0, done.stdout + done.stderr
    for kind in ("random", "failpoints", "all-at-once", "power-loss", "one-order"):
        assert f"\n{kind} " in done.stdout
