"""``ntmem positions``: what is held."""

from __future__ import annotations

import time
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import msgspec

import ntmem
from ntmem._core.text import NUMBERS, exact, iso, rows
from ntmem.tiers.positions import Positions

from .output import (
    examples,
    existing,
    json_option,
    plain,
    print_columns,
    print_found,
    store_option,
    until_interrupted,
    verb,
)

if TYPE_CHECKING:
    from rich.table import Table

    from .._core.position import Position

_INTERVAL = 1.0
_EMPTY = ("account", "strategy", "fees", "funding")  # are left out where nobody has one
_LEAST = ("funding", "fees", "side", "last change", "strategy", "account", "mark price", "unrealized")

_EPILOG = """
\b
Columns:
  symbol, account, strategy
                what is held, where, by whom
  position_id   of hedged positions; only if one of them has one
  side          long, short or flat
  quantity      signed: below zero is short
  average price what a unit cost, to two digits more than prices have
  mark price    by which it was valued last
  realized      profit and loss of what was closed, without fees and funding
  unrealized    profit and loss of what is held, at the mark
  fees, funding what was paid, and what was received
  last change   time of the latest fill or cash, UTC
On a terminal --watch leaves out what nobody has, and what does not fit.
Numbers are exact; with --json they are text, and averages have 34 digits.
With --watch --json each look is one line: {"now": ..., "positions": [...]}.
Ctrl-C ends --watch with 0.
""" + examples("ntmem positions --symbol BTCUSDT", "ntmem positions --watch --interval 0.5")


@click.command(epilog=_EPILOG)
@click.option("--account", help="Only those in this account; '' is the one without a name.")
@click.option("--strategy", help="Only those of this strategy; '' is the one without a name.")
@click.option("--symbol", help="Only those of this symbol.")
@click.option("--all", "closed_too", is_flag=True, help="Closed ones, too.")
@click.option("--watch", is_flag=True, help="Look again and again, until Ctrl-C.")
@click.option(
    "--interval",
    type=click.FloatRange(0.01, 86_400),
    help=f"Seconds between two looks of --watch.  [default: {_INTERVAL:g}]",
)
@store_option
@json_option
@verb
def positions(
    account: str | None,
    strategy: str | None,
    symbol: str | None,
    closed_too: bool,
    watch: bool,
    interval: float | None,
    store: Path,
    as_json: bool,
) -> None:
    """List the positions of a store, beside those who trade or without them. It changes nothing."""
    if interval is not None and not watch:
        raise click.UsageError("--interval is for --watch")
    wanted = (symbol, account, strategy)

    def look(memory: ntmem.MemorySystem) -> list[Position]:
        book = memory.positions  # anew each time: a writer may have come
        found = (position for position in book.each() if position.is_open or closed_too)
        return sorted(
            (p for p in found if all(want in (None, have) for want, have in zip(wanted, p.key, strict=False))),
            key=lambda p: p.key,
        )

    if watch:
        with until_interrupted(), existing(store) as memory:
            _watch(memory, look, _INTERVAL if interval is None else interval, as_json)
    else:
        with existing(store) as memory:
            found = look(memory)
        header, table = _cells(found)
        nothing = "nothing is held" if not closed_too else "there are no positions"
        print_found([_document(p) for p in found], as_json, nothing, header, table, right=_right(header))


def _watch(
    memory: ntmem.MemorySystem, look: Callable[[ntmem.MemorySystem], list[Position]], interval: float, as_json: bool
) -> None:
    """Show what is held until the end: one line of JSON a look, a live table, or columns where nothing is live."""
    if as_json:
        while True:
            found = [_document(position) for position in look(memory)]
            click.echo(msgspec.json.encode({"now": memory.now(), "positions": found}))
            time.sleep(interval)

    from rich.console import Console
    from rich.live import Live

    console = Console()
    if not console.is_terminal:
        while True:
            header, table = _cells(look(memory))
            print_columns([header, *table], _right(header))
            click.echo()
            time.sleep(interval)
    with Live(console=console, auto_refresh=False) as live:
        while True:
            live.update(_live_table(look(memory), console.width, iso(memory.now())), refresh=True)
            time.sleep(interval)


def _live_table(found: list[Position], width: int, now: str) -> Table:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    header, table, left_out = fitting(*_cells(found), width, now)
    caption = f"{now[:19]}Z  {len(found)} positions" + (f", no room for {', '.join(left_out)}" if left_out else "")
    made = Table(box=SIMPLE_HEAD, show_edge=False, padding=(0, 1, 0, 0), caption=caption, caption_justify="left")
    made.caption_style = ""
    for name in header:
        made.add_column(name, justify="right" if name in NUMBERS else "left", overflow="fold")  # all digits are shown
    for cells in table:
        made.add_row(*map(Text, cells))  # a symbol is no markup
    return made


def fitting(
    header: tuple[str, ...], table: list[tuple[str, ...]], width: int, now: str
) -> tuple[tuple[str, ...], list[tuple[str, ...]], list[str]]:
    """Return the columns that fit a terminal of so many places, and the names of those that were left out for it.

    First go those that say nothing, and the date of today; then those that matter least.
    """
    day = now[: now.index("T") + 1]
    columns = {
        name: [cell.removeprefix(day) if name == "last change" else cell for cell in cells]
        for name, *cells in zip(header, *table, strict=True)
    }
    for name in _EMPTY:
        if table and all(cell in ("-", "0") for cell in columns.get(name, "x")):
            del columns[name]
    left_out = []
    for name in _LEAST:
        if sum(max(map(len, (it, *cells))) + 2 for it, cells in columns.items()) - 2 <= width:
            break
        if columns.pop(name, None) is not None:
            left_out.append(name)
    return tuple(columns), list(zip(*columns.values(), strict=True)), left_out


def _cells(found: list[Position]) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    header, table = rows(found)
    return header, [tuple(plain(cell) or "-" for cell in cells) for cells in table]


def _right(header: tuple[str, ...]) -> list[int]:
    return [number for number, name in enumerate(header) if name in NUMBERS]


def _document(position: Position) -> dict[str, Any]:
    """Return a position for JSON: exact numbers as text, times as ns UTC."""
    fields = Positions.to_dict(position)
    return {name: exact(said) if isinstance(said, Decimal) else said for name, said in fields.items()}
