"""``make mutants``: break one rule after the other on purpose; the crash harness has to notice each time.

    python tests/crash/mutants/run.py [--seconds 60] [NAME ...]

A mutant is a patch beside this file, in the form of `git diff`. The lines before the patch say which rule it breaks and
with which arguments the harness is run. Each is applied to a copy of the tree, which is built with failpoints. The exit
code is 1 if any survives; first the copy is run without a patch, which has to find nothing.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

HERE = Path(__file__).parent
ROOT = HERE.parents[2]
COPIED = ("src", "tests", "_build", "_deps")
FILES = ("setup.py", "pyproject.toml", "LICENSE-MIT", "LICENSE-APACHE", "README.md")
NATIVE = (".h", ".pyx", ".pxd")


class Mutant(NamedTuple):
    name: str
    path: Path
    rule: str
    arguments: list[str]

    @property
    def is_native(self) -> bool:
        return any(line.startswith("+++ ") and line.rstrip().endswith(NATIVE) for line in self.path.open())


def read_mutant(path: Path) -> Mutant:
    said = dict(line.split(": ", 1) for line in path.read_text().splitlines() if line.startswith(("Rule: ", "Run: ")))
    return Mutant(path.stem, path, said["Rule"], said["Run"].split())


def copy_tree(place: Path) -> None:
    for name in COPIED:
        shutil.copytree(ROOT / name, place / name, ignore=shutil.ignore_patterns("*.so", "__pycache__", "*.egg-info"))
    for name in FILES:
        if (ROOT / name).exists():
            shutil.copy(ROOT / name, place)


def build(place: Path) -> None:
    clean = {name: value for name, value in os.environ.items() if not name.startswith("NTMEM_")}
    done = subprocess.run(
        [sys.executable, "setup.py", "-q", "build_ext", "--inplace"],
        cwd=place,
        env=clean | {"NTMEM_FAILPOINTS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise SystemExit(f"the tree does not build: {done.stderr[-3000:]}")


def patch(place: Path, mutant: Mutant, *options: str) -> None:
    subprocess.run(["git", "apply", *options, mutant.path.resolve()], cwd=place, check=True)


def run_harness(place: Path, seconds: float, arguments: list[str]) -> tuple[bool, str]:
    """Return whether it has found something, and the first sentence of what."""
    done = subprocess.run(
        [sys.executable, "tests/crash/harness", "--seconds", str(seconds), "--stop-at-fault", *arguments],
        cwd=place,
        env=os.environ | {"PYTHONPATH": str(place / "src"), "NTMEM_ENGINE": "shared"},
        capture_output=True,
        text=True,
        check=False,
    )
    for line in done.stdout.splitlines():  # what it keeps of a store is of no use: the fault was made on purpose
        if "(kept in " in line:
            shutil.rmtree(Path(line.partition("(kept in ")[2].rstrip("):")), ignore_errors=True)
    faults = [line.strip() for line in done.stdout.splitlines() if line.startswith("    ")]
    said = [line for line in faults if re.match(r"[\w.]*(Error|Wrong|Torn|Hang|Conflict): ", line)]
    return done.returncode == 1, (said or faults or [done.stderr[-300:]])[0][:150]


def main() -> int:
    parser = argparse.ArgumentParser(prog="mutants")
    parser.add_argument("names", nargs="*")
    parser.add_argument("--seconds", type=float, default=60, help="after which a mutant counts as survivor")
    options = parser.parse_args()
    mutants = [read_mutant(path) for path in sorted(HERE.glob("*.patch"))]
    chosen = [mutant for mutant in mutants if not options.names or mutant.name in options.names]
    survivors = []
    with tempfile.TemporaryDirectory(prefix="ntmem-mutants-") as name:
        place = Path(name)
        copy_tree(place)
        build(place)
        found, what = run_harness(place, 20, [])
        if found:
            print(f"without a mutant: {what}")
            return 1
        is_built = True  # without a mutant
        for mutant in chosen:
            patch(place, mutant)
            if mutant.is_native or not is_built:
                build(place)
                is_built = not mutant.is_native
            begun = time.monotonic()
            found, what = run_harness(place, options.seconds, mutant.arguments)
            spent = time.monotonic() - begun
            print(f"{mutant.name:36} {'caught' if found else 'SURVIVED':9}{spent:5.0f} s  {what}", flush=True)
            survivors += [mutant.name] * (not found)
            patch(place, mutant, "-R")
    print(f"{len(chosen)} mutants, {len(survivors)} survived: {', '.join(survivors) or 'none'}")
    return int(bool(survivors))


if __name__ == "__main__":
    sys.exit(main())
