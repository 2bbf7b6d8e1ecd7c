"""Instructions of the hot calls, and whether they have become more: ``make gate BASE=REVISION``.

``python benches/gate/count.py [--base PYTHON] [--json FILE]``. Both interpreters run the same ``calls.py`` under
``valgrind --tool=callgrind``, each with the ntmem that is installed in it, so compiler, libraries and machine are the
same; only instructions of the calling thread count. With ``--base`` the program fails if a call takes more than 5 %
more than with that one. Instructions are no times: they know nothing of caches, clocks and waiting. But they hardly
vary, which times on a shared machine do.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

from calls import N

HERE = Path(__file__).parent
MORE = 0.05
"""A larger share of instructions more than the base's fails."""
SLACK = 2
"""Instructions a call that are no difference."""


def counted(python: str) -> dict[str, float]:
    """Return the instructions of one call of each kind, with the ntmem of an interpreter."""
    with tempfile.TemporaryDirectory() as directory:
        marks = Path(directory) / "marks.so"
        subprocess.run(["gcc", "-O2", "-shared", "-fPIC", "-o", marks, HERE / "marks.c"], check=True)
        tool = [
            *("valgrind", "--quiet", "--tool=callgrind", "--separate-threads=yes", "--fair-sched=yes"),
            f"--callgrind-out-file={directory}/counts",
        ]
        subprocess.run(
            [*tool, python, HERE / "calls.py", directory, marks],
            check=True,
            env=os.environ | {"PYTHONHASHSEED": "0", "OPENBLAS_NUM_THREADS": "1", "PYTHONMALLOC": "pymalloc"},
        )
        found = dict(_of_dump(path.read_text()) for path in Path(directory).glob("counts.*-01"))  # of the first thread
    empty = found.pop("empty")
    return {name: (found[name] - empty) / N for name in sorted(found)}


def _of_dump(text: str) -> tuple[str, int]:
    """Return the name of a mark, and how many instructions came before it."""
    name = re.search(r"^desc: Trigger: Client Request: (.*)$", text, re.MULTILINE)
    count = re.search(r"^summary: (\d+)", text, re.MULTILINE)
    if name is None or count is None:
        raise SystemExit(f"callgrind wrote something else than was expected: {text[:500]}")
    return name[1], int(count[1])


def worse(ours: dict[str, float], theirs: dict[str, float]) -> list[str]:
    """Return which calls take too many instructions more than theirs."""
    return [
        name
        for name, count in ours.items()
        if name in theirs and count > (1 + MORE) * theirs[name] and count - theirs[name] > SLACK
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--base", metavar="PYTHON", help="has the ntmem to compare with")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the counts there")
    arguments = parser.parse_args()
    ours = counted(sys.executable)
    theirs = counted(arguments.base) if arguments.base else {}
    failed = worse(ours, theirs)
    print(f"{'instructions a call':40}{'now':>10}" + (f"{'base':>10}{'change':>10}" if theirs else ""))
    for name, count in ours.items():
        line = f"{name:40}{count:10,.0f}"
        if name in theirs:
            line += f"{theirs[name]:10,.0f}{count / theirs[name] - 1:+10.1%}" + "  worse" * (name in failed)
        print(line)
    if arguments.json:
        arguments.json.write_text(json.dumps({name: round(count, 1) for name, count in ours.items()}, indent=1) + "\n")
    if failed:
        sys.exit(f"{len(failed)} calls take over {MORE:.0%} more instructions than with the base: {', '.join(failed)}")


if __name__ == "__main__":
    main()
