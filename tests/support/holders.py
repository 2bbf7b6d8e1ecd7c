"""What holders of a lock say of themselves where it survives them, and children that hold locks."""

from __future__ import annotations

import json
import mmap
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hostile import HANG, Child, Start

WORDS = 8
NUMBER, EXPIRES, COUNT, INTENT, REFUSED, FAULT, PID, ENTERED = range(WORDS)


def boot_ns() -> int:
    """Return the time by which leases end."""
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME)


def until(reached: Callable[[], object]) -> None:
    """Return when something is so; fail if it never is."""
    deadline = time.monotonic() + HANG
    while not reached():
        assert time.monotonic() < deadline, "it never is"
        time.sleep(0.0002)


def words_of(path: Path, count: int) -> memoryview:
    """Map a file of words, which is made if there is none; what a process stores there survives it."""
    if not path.exists():
        path.write_bytes(bytes(8 * count))
    with open(path, "r+b") as file:
        return memoryview(mmap.mmap(file.fileno(), 0)).cast("Q")


def is_alive(pid: int) -> bool:
    """Whether a process has not ended, and is not about to: who is exiting (flag 4) runs nothing of its program."""
    try:
        with open(f"/proc/{pid}/stat") as file:
            fields = file.read().rpartition(")")[2].split()
        return fields[0] not in "ZX" and not int(fields[6]) & 4
    except (FileNotFoundError, ProcessLookupError):
        return False


class Claims:
    """One row for each of those who want a lock: what it holds now, as far as it knows.

    Who enters looks at all others: a claim that is there must be of a process that is dead, or of a lease that is over.
    """

    def __init__(self, path: Path, rows: int) -> None:
        self.rows = rows
        self.words = words_of(path, rows * WORDS)

    def get(self, row: int, what: int) -> int:
        return self.words[row * WORDS + what]

    def set(self, row: int, what: int, value: int) -> None:
        self.words[row * WORDS + what] = value

    def enter(self, row: int, lock: Any) -> None:
        """Say that a lock was granted; fail if another has it."""
        read_at = boot_ns()
        self.set(row, EXPIRES, read_at + int(lock.remaining() * 1e9))  # not later than it is
        self.set(row, NUMBER, lock.fence.number)
        for other in range(self.rows):
            number = self.get(other, NUMBER)
            if other == row or not number:
                continue
            expires, pid = self.get(other, EXPIRES), self.get(other, PID)
            now = boot_ns()
            # In this order: the other may have left meanwhile, and be in again under a later lease.
            if now < expires and is_alive(pid) and self.get(other, NUMBER) == number and number < lock.fence.number:
                self.set(row, FAULT, number)
                raise AssertionError(f"two holders: {number} until {expires}, {lock.fence.number} at {now}")
        self.set(row, ENTERED, self.get(row, ENTERED) + 1)

    def leave(self, row: int) -> None:
        """Say that the lock is about to be given back."""
        self.set(row, NUMBER, 0)

    def holders(self) -> list[int]:
        """Return the rows of those who say that they hold it."""
        return [row for row in range(self.rows) if self.get(row, NUMBER)]

    def faults(self) -> list[int]:
        return [row for row in range(self.rows) if self.get(row, FAULT)]


ZYGOTE = """
import json
from pathlib import Path
from holders import *
for line in sys.stdin:
    order = json.loads(line)
    if "reap" in order:
        status = os.waitpid(order["reap"], 0)[1]
        say(os.waitstatus_to_exitcode(status))
        continue
    pid = os.fork()
    if pid:
        say(pid)
        continue
    status = 1
    try:
        exec(order["code"], globals() | order.get("names", {}))
        status = 0
    except BaseException:
        import traceback; traceback.print_exc()
    finally:
        os._exit(status)
"""
"""Opens no store; forks those who do, which costs a millisecond."""


class Zygote:
    """Starts workers and waits for their end."""

    def __init__(self, start: Start) -> None:
        self.child: Child = start(ZYGOTE)

    def _ask(self, **order: object) -> int:
        self.child.tell(json.dumps(order))
        return int(self.child.line())

    def fork(self, code: str, **names: object) -> int:
        """Run code in a new process that knows `names`; return its pid."""
        return self._ask(code=code, names=names)

    def reap(self, pid: int) -> int:
        """Wait until one has ended; return its exit code, -9 if it was killed."""
        return self._ask(reap=pid)

    def check(self, pid: int, *fine: int) -> int:
        """Wait until one has ended; fail with what it printed unless its code is one of `fine`."""
        code = self.reap(pid)
        if code not in fine:
            self.child.signal(signal.SIGKILL)
            self.child.line()  # fails with what was printed
        return code
