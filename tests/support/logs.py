"""Logs on a RAM disk for tests, and processes that die or stop at a failpoint."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from hostile import Child, Start, ram_directory

import ntmem
from ntmem._core.failpoints import failpoints
from ntmem._core.log import Log
from ntmem._core.logrecords import KIND_PUT, Record
from ntmem._core.region import Region

IDENTITY = b"a test"


def put(key: bytes, value: bytes, *condition: int, namespace: bytes = b"ns", kind: int = KIND_PUT) -> tuple:
    """Make a record for ``Log.append``."""
    return (kind, 0, namespace, key, b"w", value, 1, 2, 0, *condition, *[False] * bool(condition))


@contextlib.contextmanager
def new_log(capacity: int = 1 << 14, slots: int = 64) -> Iterator[Log]:
    """Give a published log; its region is gone after the block."""
    with ram_directory() as directory:
        region = Region.create(
            directory / "region", identity=IDENTITY, generation=1, sections=Log.sections(capacity, slots)
        )
        log = Log.create(region)
        region.publish()
        yield log


def open_log(path: str | os.PathLike[str]) -> Log:
    """Attach like another process does."""
    return Log(Region.attach(path, identity=IDENTITY))


def unflushed(log: Log) -> list[list[Record]]:
    """Read all groups that are not on disk."""
    position, found = log.flushed, []
    while position < log.committed:
        groups, position = log.read_groups(position)
        found += groups
    return found


def build_with_failpoints(root: Path, place: Path) -> Path:
    """Return what goes onto the import path for native parts with failpoints.

    They are built once for all processes of a test session, beside `place`, which is a directory of that session. In a
    virtual environment whose ntmem has failpoints it is that.
    """
    if failpoints():
        return Path(ntmem.__file__).parents[1]
    session = place.parent.parent if "PYTEST_XDIST_WORKER" in os.environ else place.parent
    tree = session / "tree-with-failpoints"
    with open(session / "tree-with-failpoints.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (tree / "built").exists():
            _build_tree(root, tree)
            (tree / "built").touch()
    return tree / "src"


def _build_tree(root: Path, tree: Path) -> None:
    for name in ("src", "_build", "_deps"):
        ignored = shutil.ignore_patterns("*.so", "__pycache__", "*.egg-info")
        shutil.copytree(root / name, tree / name, ignore=ignored, dirs_exist_ok=True)
    core = tree / "src" / "ntmem" / "_core"
    for source in core.glob("*.pyx"):  # a module without failpoints is the one that is installed: half of the work
        if "failpoints" not in source.read_text():
            [built] = (Path(ntmem.__file__).parent / "_core").glob(f"{source.stem}.*.so")
            shutil.copy(built, core)
            source.unlink()
    for name in ("setup.py", "pyproject.toml", "LICENSE-MIT", "LICENSE-APACHE"):
        shutil.copy(root / name, tree)
    (tree / "README.md").touch()
    clean = {name: value for name, value in os.environ.items() if not name.startswith("NTMEM_")}
    subprocess.run(
        [sys.executable, "setup.py", "-q", "build_ext", "--inplace"],
        cwd=tree,
        env=clean | {"NTMEM_FAILPOINTS": "1"},
        check=True,
        capture_output=True,
        text=True,
    )


_NURSERY = """
import json
from ntmem._core.failpoints import *
from ntmem._core.log import *
from ntmem._core.logrecords import KIND_PUT
from ntmem._core.region import Region
def open_log(path):
    return Log(Region.attach(path, identity=b"a test"))
def put(key, value, *condition):
    return (KIND_PUT, 0, b"ns", key, b"w", value, 1, 2, 0, *condition, *[False] * bool(condition))
for line in sys.stdin:
    order = json.loads(line)
    if "code" in order:
        pid = os.fork()
        if pid == 0:
            exec(order["code"], globals())
            os._exit(0)
    elif "end" in order:
        os.kill(order["end"], signal.SIGKILL)
        pid = order["end"]
    else:
        pid = order["continue"]
        os.kill(pid, signal.SIGCONT)
    if order.get("wait", True):
        _, status = os.waitpid(pid, os.WUNTRACED)
        if os.WIFSTOPPED(status):
            say(json.dumps(["stopped", pid]))
        else:
            say(json.dumps([{0: "done", -9: "killed"}.get(code := os.waitstatus_to_exitcode(status), code), pid]))
    else:
        say(json.dumps(["started", pid]))
"""


class Nursery:
    """One process with everything imported that forks others: a process to kill costs a millisecond.

    `first` is run before: imports that would take each of the others longer than what it does.
    """

    def __init__(self, start: Start, path: Path | None = None, first: str = "") -> None:
        environment = {} if path is None else {"PYTHONPATH": os.pathsep.join([str(path), *sys.path])}
        self.child: Child = start(first + _NURSERY, env=environment)

    def _ask(self, **order: object) -> tuple[str | int, int]:
        self.child.tell(json.dumps(order))
        fate, pid = json.loads(self.child.line())
        return fate, pid

    def run(self, code: str, *, wait: bool = True) -> tuple[str | int, int]:
        """Run code in a process of its own; return how that ended or whether it stopped, and its pid."""
        return self._ask(code=code, wait=wait)

    def resume(self, pid: int) -> tuple[str | int, int]:
        """Let a stopped one go on."""
        return self._ask(**{"continue": pid})

    def kill(self, pid: int) -> tuple[str | int, int]:
        """End one by force and wait until it is gone."""
        return self._ask(end=pid)
