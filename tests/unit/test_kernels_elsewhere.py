"""Kernels for processors that this machine is not: AVX-512 by SIMDe's emulation, ARM by a compiler and qemu for it.

Needs gcc and, of Debian, libsimde-dev or gcc-aarch64-linux-gnu with libc6-dev-arm64-cross and qemu-user-static.
"""

import platform
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOURCES = ROOT / "src" / "ntmem" / "_core"
PROOF = ROOT / "tests" / "support" / "kernels_proof.c"
STRICT = ["-std=gnu11", "-O2", "-Wall", "-Wextra", "-Werror", "-Wno-unused-function"]


def tool(name):
    return shutil.which(name) or pytest.skip(f"there is no {name}")


def built(compiler, to, *flags):
    made = [compiler, *STRICT, *flags, "-isystem", "/usr/include/simde", "-I", SOURCES, PROOF, "-o", to, "-lm"]
    done = subprocess.run(made, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return to


def said_by(*command):
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout.splitlines()


def test_avx512_by_emulation(tmp_path):
    if platform.machine() != "x86_64" or "avx2" not in Path("/proc/cpuinfo").read_text().split():
        pytest.skip("no AVX2, with which the emulation is compiled")
    if not Path("/usr/include/simde/x86/avx512.h").exists():
        pytest.skip("there is no SIMDe")
    proof = built(tool("gcc"), tmp_path / "proof", "-DPROOF_SIMDE", "-mavx2", "-mfma", "-mf16c")
    assert "avx512vnni is proven" in said_by(proof, "avx512vnni", "avx2")


@pytest.mark.parametrize(
    ("processor", "runs"),
    [
        ("cortex-a57", ["neon runs", "scalar runs"]),
        ("a64fx", ["neon runs", "scalar runs"]),  # ARMv8.2, of which the dot product is not a must
        ("max", ["neondot runs", "neon runs", "scalar runs"]),
    ],
)
def test_arm_by_an_emulator(tmp_path, processor, runs):
    """Without the dot product and with it: the processor is asked which there is."""
    proof = built(tool("aarch64-linux-gnu-gcc"), tmp_path / "proof", "-static")
    sets = [each.removesuffix(" runs") for each in runs]
    said = said_by(tool("qemu-aarch64-static"), "-cpu", processor, proof, *sets)
    assert said == runs + [f"{name} is proven" for name in sets]
