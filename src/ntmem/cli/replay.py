"""``ntmem replay``: the command around :mod:`ntmem.replay`."""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .output import EXIT_FAILED, fail, json_option, print_json, verb

if TYPE_CHECKING:
    from ..replay.run import Progress

EXIT_INTERRUPTED = 130

_EPILOG = """
\b
Exit codes:
  0  done, every check passed
  1  a check failed (an acknowledged write was lost, the write of an agent that
     had been replaced was not refused, the book does not add up, data that
     were not known yet changed a decision), an agent raised or ended, or the
     store could not be used
  2  wrong usage, or market data that cannot be replayed
  130  interrupted (Ctrl-C, SIGTERM, SIGHUP) and no check failed; the report so
     far is printed, unless no agent had been started yet

\b
Market data is CSV, plain or gzipped, told by its columns (case and
punctuation do not matter):
  quotes   bid, ask, and perhaps bid_size, ask_size
  trades   price, and perhaps quantity
  bars     open, high, low, close, and perhaps volume
with ts_event (or timestamp, time, date, open_time ...), when it happened, and
ts_known (or local_timestamp, recv_time ...), when it became known. Times are
numbers since the epoch or ISO 8601 text with a zone; a plain date is midnight
UTC. A file without ts_known needs --known-after: nothing is shown to an agent
before it was known.

\b
Examples:
  ntmem replay
  ntmem replay bars-1m.csv.gz --known-after 60 --seconds 20 --store ./desk
  ntmem replay BTCUSDT-1m.csv --columns open_time,open,high,low,close,_,ts_known
  ntmem replay ticks.csv --agent my_agents:Momentum
"""


@click.command(epilog=_EPILOG)
@click.argument("file", required=False, type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--agents", default=4, show_default=True, help="How many agents, each a process.")
@click.option(
    "--store",
    type=click.Path(path_type=Path, file_okay=False),
    help="Keep the store in this directory, for a look with `ntmem ls`, `get` and `info`.  [default: a temporary one]",
)
@click.option("--seconds", type=float, help="Stop feeding after so many seconds.")
@click.option("--steps", type=int, help="Stop feeding after so many steps.")
@click.option("--step", help="Seconds from one decision to the next, 0 for every row.  [default: 1 for ticks, else 0]")
@click.option("--agent", metavar="MODULE:CLASS", help="A subclass of ntmem.replay.Agent, also from this directory.")
@click.option(
    "--columns",
    metavar="NAMES",
    help="What the columns hold, in order and separated by commas, _ to ignore one; or NAME=HEADER,...",
)
@click.option(
    "--unit", type=click.Choice(["ns", "us", "ms", "s"]), help="Of numeric times.  [default: by their magnitude]"
)
@click.option("--known-after", metavar="SECONDS", help="How long after ts_event a row was known.")
@click.option("--zone", help="Zone of text times that name none, e.g. UTC.")
@click.option("--symbol", help="Leave other symbols of the symbol column out.  [default: the file's only one]")
@click.option(
    "--seed", type=click.IntRange(0, 2**63 - 1), default=0, show_default=True, help="Of everything left to chance."
)
@click.option("--strict", is_flag=True, help="Refuse a bad row instead of skipping it.")
@click.option("--no-kill", is_flag=True, help="Kill no agent, and stop none.")
@click.option("--no-decide", is_flag=True, help="Play no scenes afterwards: decisions with memory and without.")
@json_option
@verb
def replay(file: Path | None, no_kill: bool, no_decide: bool, as_json: bool, **options: Any) -> None:
    """Replay market data through a team of agents, kill one of them, and stop another while it holds its lock.

    Without FILE it replays six minutes of Binance BTCUSDT quotes and trades that ship with the package. Afterwards it
    shows what decisions earn with memory and without, on a simulated market and on the data.
    """
    from ..replay import ReplayOptions, run

    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) != signal.SIG_IGN:  # nohup
            signal.signal(number, signal.default_int_handler)  # ends like Ctrl-C: with the report so far
    try:
        with _progress() as progress:
            report = run(ReplayOptions(file=file, kill=not no_kill, decide=not no_decide, **options), progress)
    except KeyboardInterrupt:
        fail("interrupted, there is no report", EXIT_INTERRUPTED)
    if as_json:
        print_json(report.to_dict())
    else:
        from rich.console import Console

        from ..replay.cards import print_report

        print_report(report, Console())
    if not report.ok:
        sys.exit(EXIT_FAILED)
    if report.replay["interrupted"]:
        sys.exit(EXIT_INTERRUPTED)


@contextmanager
def _progress() -> Iterator[Progress]:
    """Show progress on standard error, if that is a terminal."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("", total=None)

        def show(what: str, done: int, total: int) -> None:
            bar.update(task, description=what, completed=done, total=total or None)

        yield show
