"""The mutex of processes where the C library has a timed lock by the steady clock, and where it has none."""

import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
STRICT = [
    "-std=gnu11",
    "-O2",
    "-Wall",
    "-Wextra",
    "-Werror",
    "-Wno-unused-parameter",
    "-Wno-unused-function",
    "-pthread",
]


@pytest.mark.skipif(shutil.which("gcc") is None, reason="there is no C compiler")
@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ([], "waits"),
        (["-Dpthread_mutex_clocklock=of_another_c_library"], "polls"),  # found by nobody: as glibc 2.28 and musl
    ],
)
def test_outcomes_are_the_same(tmp_path, flags, said):
    proof = tmp_path / "proof"
    source = ROOT / "tests/support/mutex_proof.c"
    made = ["gcc", *STRICT, *flags, "-I", ROOT / "src/ntmem/_core", source, "-o", proof]
    done = subprocess.run(made, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    done = subprocess.run([proof], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout.strip()) == (0, said)
