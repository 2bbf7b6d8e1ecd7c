"""``make crash``: kills processes for so many seconds and looks whether their store has kept its promises.

    python tests/crash/harness [--seconds 600] [--seed N] [--only KIND ...] [--points NAME ...] [--episode LANE/KIND/N]

The build of ntmem that is imported must have failpoints (NTMEM_FAILPOINTS=1). Ends with a table; the exit code is 1 if
anything did not fit. A seed gives the same choices again, though not the same instants.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import selectors
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(1, str(Path(__file__).parents[2] / "support"))

import history  # noqa: F401  (imported once, for all that are forked)
import linear  # noqa: F401
from plan import WANTED, Lane
from table import Totals

import ntmem
from ntmem._core.failpoints import failpoints

PROGRESS = 30.0
GRACE = 120.0  # for the last episode of each lane


def main() -> int:
    options = _options()
    if not failpoints():
        print(f"the build in {ntmem.__path__[0]} has no failpoints; build with NTMEM_FAILPOINTS=1", file=sys.stderr)
        return 2
    ntmem.open().close()  # imports what opening imports
    wanted = {kind: number / options.lanes for kind, number in WANTED.items() if kind in options.only}
    shm = Path("/dev/shm")
    place = Path(tempfile.mkdtemp(prefix="ntmem-crash-", dir=shm if shm.is_dir() else None))
    if options.episode:
        name, kind, number = options.episode.split("/")
        report = Lane(name, options.seed, wanted, place, print, options.points).run_one(kind, int(number))
        print(json.dumps(report | {"waits": None}, indent=1))
        return int(bool(report["faults"]))
    print(
        f"seed {options.seed}, {options.seconds:g} s, {options.lanes} lanes, load {os.getloadavg()[0]:.1f}", flush=True
    )
    totals = Totals(failpoints())
    _run_lanes(options, wanted, place, totals)
    print(totals.table(list(wanted)))
    print(f"seed {options.seed}; load {os.getloadavg()[0]:.1f}")
    if not totals.faults:
        shutil.rmtree(place)
    return int(bool(totals.faults) or not totals.episodes)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="crash")
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(1 << 32))
    parser.add_argument("--lanes", type=int, default=max(2, (os.cpu_count() or 2) // 2))
    parser.add_argument("--only", nargs="*", choices=list(WANTED), default=list(WANTED))
    parser.add_argument("--episode", help="run this one alone: lane/kind/number, as a fault names it")
    parser.add_argument("--points", nargs="*", choices=failpoints(), default=failpoints())
    parser.add_argument("--stop-at-fault", action="store_true")
    return parser.parse_args()


def _run_lanes(options: argparse.Namespace, wanted: dict[str, float], place: Path, totals: Totals) -> None:
    until = time.monotonic() + options.seconds
    selector = selectors.DefaultSelector()
    lanes: dict[int, int] = {}  # its end of the pipe: pid
    for number in range(options.lanes):
        reading, writing = os.pipe()
        pid = os.fork()
        if pid == 0:
            os.setpgid(0, 0)
            with open(writing, "w") as out:

                def tell(report: dict[str, Any], out: Any = out) -> None:
                    print(json.dumps(report), file=out, flush=True)

                Lane(str(number), options.seed, wanted, place, tell, options.points).run(until)
            os._exit(0)
        os.close(writing)
        lanes[reading] = pid
        selector.register(reading, selectors.EVENT_READ, os.fdopen(reading, closefd=False))
    shown = time.monotonic()
    try:
        while lanes and time.monotonic() < until + GRACE:
            for key, _ in selector.select(timeout=1):
                line = key.data.readline()
                if line:
                    totals.add(json.loads(line))
                    continue
                selector.unregister(key.fd)
                status = os.waitpid(lanes.pop(key.fd), 0)[1]
                if status:
                    totals.fault(f"a lane ended before its time, with status {status}")
            if time.monotonic() > shown + PROGRESS:
                shown = time.monotonic()
                print(totals.line(), flush=True)
            if totals.faults and options.stop_at_fault:
                return
        if lanes:
            totals.fault(f"{len(lanes)} lanes hang")
    finally:
        for pid in lanes.values():
            with contextlib.suppress(ProcessLookupError):
                os.killpg(pid, signal.SIGKILL)


if __name__ == "__main__":
    sys.exit(main())
