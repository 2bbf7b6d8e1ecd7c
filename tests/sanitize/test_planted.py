"""The negative controls of `make asan` and `make tsan`: planted faults, which must end the run with a report.

The whole chain is tested: compiler flags, the preloaded library, its options, and pytest, which swallows reports unless
told otherwise. ``NTMEM_PLANTED`` says what is planted; "nothing" must be silent, through the same code.
"""

from __future__ import annotations

import ctypes
import os
import subprocess
from pathlib import Path

import pytest

PLANTED = os.environ.get("NTMEM_PLANTED", "")

pytestmark = pytest.mark.skipif(not PLANTED, reason="only `make asan` and `make tsan` plant faults")


@pytest.fixture
def library(root: Path, tmp_path: Path) -> ctypes.CDLL:
    """The code of planted.c, instrumented like the modules."""
    built = tmp_path / "planted.so"
    sanitize = os.environ["NTMEM_SANITIZE"]
    flags = [f"-fsanitize={sanitize}", "-fno-sanitize-recover=all", "-g", "-O0", "-shared", "-fPIC", "-pthread"]
    flags.append("-D_GNU_SOURCE")
    if PLANTED == "race":
        flags.append("-DNTMEM_PLANTED_RACE")
    core = root / "src/ntmem/_core"
    clean = {name: value for name, value in os.environ.items() if name != "LD_PRELOAD"}
    source = Path(__file__).with_name("planted.c")
    subprocess.run(["gcc", *flags, f"-I{core}", str(source), "-o", str(built)], check=True, env=clean)
    return ctypes.CDLL(str(built))


def test_a_word_that_two_threads_share(library: ctypes.CDLL) -> None:
    assert library.share_a_word()


def test_bytes_and_numbers(library: ctypes.CDLL) -> None:
    assert library.fill(17 if PLANTED == "overflow" else 16) == 15
    assert library.shift(32 if PLANTED == "shift" else 3)
