"""``ntmem top``: what a store and all its processes are doing, again and again."""

from __future__ import annotations

import os
import select
import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import click
import msgspec

import ntmem
from ntmem.gauges import GaugeReader, Gauges
from ntmem.tiers.operations import SIZES, Operation

from .output import EXIT_CODES, EXIT_MISSING, fail, json_option, plain, store_option, until_interrupted, verb
from .readable import cut, duration, number, size

if TYPE_CHECKING:
    from rich.text import Text

_INTERVAL = 1.0
_BAR = 10
_NAME = 14
_LATE = 0.5  # of the log
_WIDE = 80
_LEAST_WIDTH = 40
_WHY = {
    "none": "nobody has it open; everything is on disk",
    "stale": "nobody has it open; everything is on disk (shared memory was left: 'ntmem doctor --clean')",
    "left behind": "nobody has it open, and not everything is on disk: 'ntmem doctor'",
    "damaged": "its shared memory is damaged: 'ntmem doctor'",
    "foreign": "its shared memory is not this store's, or of another container: 'ntmem doctor'",
    "in use": "somebody is just opening or leaving it",
}

_EPILOG = (
    """
\b
What it shows, of all processes together:
  operation     what is called; docs/guide/operations.md says what each is
  per s         calls a second since the frame before
  p50, p99      of those; of quick calls one in 61 is measured
  hit rate      gets that memory answered: the hot tier, or the log
  flush lag     acknowledged changes that power loss would take
  memory        hot tier, log (what is not on disk), messages, vectors;
                of what it may become at most
  agents        a dot is alive; with the seconds until the heart has to beat
  locks         who holds what, and for how long yet
Keys: q ends it, and so does Ctrl-C. It looks at shared memory only, and is no
user of the store: others open and leave it as if nobody was there.
With --json each frame is one line; rates are missing from the first.

\b
Examples:
  ntmem top --store ./desk
  ntmem top --store ./desk --interval 5
  ntmem top --store ./desk --once --json
"""
    + EXIT_CODES
)


@click.command(epilog=_EPILOG)
@click.option("--once", is_flag=True, help="Print one frame, of one interval, and end.")
@click.option(
    "--interval",
    type=click.FloatRange(0.1, 86_400),
    default=_INTERVAL,
    show_default=True,
    help="Seconds between two frames.",
)
@store_option
@json_option
@verb
def top(once: bool, interval: float, store: Path, as_json: bool) -> None:
    """Show what a store and all its processes are doing, live. It changes nothing."""
    if not (store / "data.mdb").exists():
        fail(f"there is no store in {store}; give its directory with --store", EXIT_MISSING)
    reader = GaugeReader(store)
    with until_interrupted():
        if as_json:
            _print_documents(reader, interval, once)
        elif once or not (sys.stdout.isatty() and sys.stdin.isatty()):
            _print_frames(reader, interval, once)
        else:
            _show(reader, interval)


def _look(reader: GaugeReader) -> Gauges:
    """Look; a store that was deleted meanwhile is none that anybody has open."""
    try:
        return reader.read()
    except ntmem.StorageError as error:
        reader.close()
        return Gauges(at=time.monotonic(), directory=reader.directory, problems=(str(error),))


# ---- a frame ----------------------------------------------------------------------------------------------------


class Rate(NamedTuple):
    """An operation between two looks."""

    name: str
    per_second: float | None
    of_interval: Operation
    calls: int


def rates(now: Gauges, before: Gauges | None) -> list[Rate]:
    """Return what was called, by name, and how it went since the look before; without one, since the beginning."""
    same = before if before is not None and before.region == now.region else None
    found = []
    for name, operation in now.operations.items():
        if name in SIZES:
            continue
        earlier = None if same is None else same.operations.get(name)
        since = operation.since(earlier)
        seconds = None if same is None else max(now.at - same.at, 1e-9)
        found.append(Rate(name, None if seconds is None else since.calls / seconds, since, operation.calls))
    return found


def hit_rate(now: Gauges, before: Gauges | None) -> float | None:
    """Return which part of the gets memory answered since the look before; None: there were none."""
    same = before if before is not None and before.region == now.region else None
    reads = {name: count - (0 if same is None else same.reads.get(name, 0)) for name, count in now.reads.items()}
    total = sum(reads.values())
    return (reads["hot"] + reads["log"]) / total if total > 0 else None


def frame(now: Gauges, before: Gauges | None, width: int, height: int | None = None) -> Text:
    """Return one frame as lines, none of which is wider than `width`, and `height` of them at most."""
    from rich.text import Text

    lines = [_title(now, width)]
    lines += [Text(f"! {plain(problem)}", style="bold red") for problem in now.problems]
    if now.region is None:
        lines += [Text(), Text(_WHY.get(now.state, now.state))]
        if now.unflushed:
            lines.append(Text(f"{size(now.unflushed)} of changes are not on disk", style="yellow"))
    else:
        lines += [*_summary(now, before, width), Text(), *_operations(now, before, width)]
        tail = [Text(), *_memory(now, width), *_agents(now, width), *_locks(now, width)]
        room = len(tail) if height is None else max(height - len(lines), 0)
        lines += tail[:room]
    for line in lines:
        line.truncate(width, overflow="ellipsis")
    return Text("\n").join(lines[:height])


def _title(now: Gauges, width: int) -> Text:
    from rich.text import Text

    clock = time.strftime("%H:%M:%S")
    name = plain(now.directory or "a private store")
    room = max(width - len("ntmem  ") - len(clock) - 2, 8)
    name = name if len(name) <= room else "…" + name[1 - room :]
    return Text.assemble(("ntmem", "bold"), "  ", name.ljust(room), "  ", (clock, "dim"))


def _summary(now: Gauges, before: Gauges | None, width: int) -> Iterator[Text]:
    """Names and figures in places that stay: a figure ends where its cell does."""
    from rich.text import Text

    rate = hit_rate(now, before)
    cells = (
        ("hit rate", "-" if rate is None else f"{rate:.1%}", 18, ""),
        ("flush lag", f"{now.flush_lag:.2f} s", 20, "yellow" if now.flush_lag > 1 else ""),
        ("not on disk", size(now.unflushed), 21, ""),
        ("file", size(now.file_bytes), 15, ""),
        ("processes", f"{len(now.attached)}", 18, ""),
        ("positions", f"{now.open_positions:,} open", 20, ""),
        ("messages", f"{now.messages:,}", 21, ""),
        ("locks", f"{sum(lock.is_current for lock in now.locks):,}", 15, ""),
    )
    columns = 4 if width >= _WIDE else 2
    for first in range(0, len(cells), columns):
        line = Text()
        for name, figure, room, style in cells[first : first + columns]:
            line.append("  " if line else "").append(name, style="dim")
            line.append(figure.rjust(room - len(name)), style=style)
        yield line


def _operations(now: Gauges, before: Gauges | None, width: int) -> Iterator[Text]:
    from rich.text import Text

    cells = [(f"{'operation':<{_NAME}}{'per s':>8}{'p50':>8}{'p99':>8}", "dim")]
    for rate in rates(now, before):
        found = rate.of_interval.percentiles()
        per_second = "-" if rate.per_second is None else number(rate.per_second)
        times = "".join(f"{duration(found.get(name)):>8}" for name in ("p50", "p99"))
        cells.append((f"{rate.name:<{_NAME}}{per_second:>8}{times}", "" if rate.of_interval.calls else "dim"))
    if len(cells) == 1:
        yield Text("nothing was called yet", style="dim")
    elif width < _WIDE:
        yield from (Text(cell, style) for cell, style in cells)
    else:
        header, rest = cells[0], cells[1:]
        half = (len(rest) + 1) // 2
        left, right = [header, *rest[:half]], [header, *rest[half:]] if rest[half:] else []
        for row, cell in enumerate(left):
            yield Text.assemble(cell, "  ", right[row] if row < len(right) else "")


def _memory(now: Gauges, width: int) -> Iterator[Text]:
    from rich.text import Text

    cells = []
    for name, part in now.memory.items():
        full = min(part.used / part.limit, 1.0) if part.limit else 0.0
        filled = round(full * _BAR)
        bar = "█" * filled + "░" * (_BAR - filled) if part.limit else " " * _BAR
        late = name == "log" and full > _LATE  # a full cache is none too many, a full log is
        of = f" of {size(part.limit)}" if part.limit else ""
        cells.append(
            Text.assemble(
                (f"{name:<9}", "dim"), (bar, "red" if late else "green"), f" {size(part.used):>7}", (f"{of:<11}", "dim")
            )
        )
    columns = 2 if width >= _WIDE else 1
    for first in range(0, len(cells), columns):
        yield Text("  ").join(cells[first : first + columns])


def _agents(now: Gauges, width: int) -> Iterator[Text]:
    from rich.text import Text

    if not now.agents:
        return
    room = min(width - 34, 40)
    marks = {"alive": ("●", "green"), "silent": ("●", "yellow"), "dead": ("●", "red")}
    yield Text()
    yield Text(f"{'agent':<{room}}{'pid':>9}  {'status':<8}{'beats within':>13}", style="dim")
    for agent in now.agents:
        yield Text.assemble(
            marks[agent.status],
            f" {cut(plain(agent.agent_id), room - 3):<{room - 2}}{agent.pid:>9}  {agent.status:<8}",
            f"{agent.remaining:>11.1f} s" if agent.status == "alive" else f"{'-':>13}",
        )


def _locks(now: Gauges, width: int) -> Iterator[Text]:
    from rich.text import Text

    if not now.locks:
        return
    room = min(width - 34, 40)
    yield Text()
    yield Text(f"{'lock':<{room}}{'pid':>9}  {'remaining':>12}{'waiting':>9}", style="dim")
    for lock in now.locks:
        held = lock.fence is not None
        yield Text.assemble(
            f"{cut(plain(lock.resource), room - 1):<{room}}{lock.pid if held else '-':>9}  ",
            (f"{lock.remaining:>10.1f} s", "" if lock.is_current else "red") if held else f"{'free':>12}",
            f"{lock.waiting:>9}",
        )


# ---- again and again --------------------------------------------------------------------------------------------


def document(now: Gauges, before: Gauges | None) -> dict[str, Any]:
    """Return a frame for JSON: times in ns, sizes in bytes."""
    same = before is not None and before.region == now.region
    return {
        "store": now.directory,
        "state": now.state,
        "interval": now.at - before.at if before is not None and same else None,
        "hit_rate": hit_rate(now, before),
        "flush_lag": now.flush_lag,
        "unflushed": now.unflushed,
        "file_bytes": now.file_bytes,
        "operations": {
            rate.name: {"calls": rate.calls, "per_second": rate.per_second, **rate.of_interval.percentiles()}
            for rate in rates(now, before)
        },
        "memory": {name: part._asdict() for name, part in now.memory.items()},
        "positions": {"open": now.open_positions, "known": now.positions},
        "messages": now.messages,
        "agents": [agent._asdict() for agent in now.agents],
        "locks": [
            {
                "resource": it.resource,
                "owner": it.owner,
                "pid": it.pid,
                "remaining": it.remaining,
                "waiting": it.waiting,
            }
            for it in now.locks
        ],
        "processes": [msgspec.to_builtins(process) for process in now.attached],
        "problems": list(now.problems),
    }


def _looks(reader: GaugeReader, interval: float, once: bool) -> Iterator[tuple[Gauges, Gauges | None]]:
    before = None
    while True:
        now = _look(reader)
        if not once or before is not None or now.region is None:
            yield now, before
            if once:
                return
        before = now
        time.sleep(interval)


def _print_documents(reader: GaugeReader, interval: float, once: bool) -> None:
    for now, before in _looks(reader, interval, once):
        click.echo(msgspec.json.encode(document(now, before)))


def _print_frames(reader: GaugeReader, interval: float, once: bool) -> None:
    width = max(shutil.get_terminal_size((80, 24)).columns, _LEAST_WIDTH)
    for now, before in _looks(reader, interval, once):
        click.echo(frame(now, before, width).plain + ("" if once else "\n"))


def _show(reader: GaugeReader, interval: float) -> None:
    from rich.console import Console
    from rich.live import Live

    console = Console()
    before: Gauges | None = None
    with _keys() as pressed, Live(console=console, screen=True, auto_refresh=False) as live:
        while True:
            now = _look(reader)
            width, height = console.size
            live.update(frame(now, before, width, height), refresh=True)
            if pressed(interval):
                return
            before = now


@contextmanager
def _keys() -> Iterator[Any]:
    """Read keys as they are pressed; give a function that waits so many seconds and says whether q was."""
    import termios
    import tty

    file = sys.stdin.fileno()
    before = termios.tcgetattr(file)
    try:
        tty.setcbreak(file)  # Ctrl-C stays a signal

        def pressed(seconds: float) -> bool:
            until = time.monotonic() + seconds
            while (left := until - time.monotonic()) > 0:
                if select.select([file], [], [], left)[0]:
                    read = os.read(file, 64)
                    if not read or b"q" in read.lower():
                        return True
            return False

        yield pressed
    finally:
        with suppress(termios.error):  # the terminal is gone
            termios.tcsetattr(file, termios.TCSADRAIN, before)
