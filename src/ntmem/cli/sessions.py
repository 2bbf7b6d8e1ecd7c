"""``ntmem sessions``: who is in the middle of what."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

import ntmem
from ntmem._core.text import exact, iso

from .output import (
    EXIT_CODES,
    EXIT_MISSING,
    existing,
    fail,
    json_option,
    jsonable,
    plain,
    print_columns,
    print_found,
    print_json,
    store_option,
    verb,
)

_LIST = (
    """
\b
Columns:
  session       its name
  agent         who has entered it, or did last
  state         held; left; died: its holder's process is gone; late: it lives,
                but its time has passed
  pid           of the process that entered it and has not left it
  started, last seen
                by the store's clock; the latter is its last write
  resumed       how often it was entered again
  keys          of its mapping and its namespaces
  open          trajectories that are not complete
\b
Examples:
  ntmem sessions
  ntmem sessions show momentum-1 --json
"""
    + EXIT_CODES
)


@click.group(invoke_without_command=True, epilog=_LIST)
@store_option
@json_option
@click.pass_context
def sessions(context: click.Context, store: Path, as_json: bool) -> None:
    """List the sessions of a store, or show one. It changes nothing."""
    if context.invoked_subcommand is None:
        _list(store, as_json)
    elif any(context.get_parameter_source(name) is ParameterSource.COMMANDLINE for name in ("store", "as_json")):
        raise click.UsageError(f"give options behind {context.invoked_subcommand!r}")


@verb
def _list(store: Path, as_json: bool) -> None:
    with existing(store) as memory:
        found = memory.sessions()
    print_found(
        [_fields(info) for info in found],
        as_json,
        "there are no sessions",
        ("session", "agent", "state", "pid", "started", "last seen", "resumed", "keys", "open"),
        (
            (
                plain(info.name),
                plain(info.agent_id),
                _state(info),
                "-" if info.pid is None else str(info.pid),
                iso(info.started),
                iso(info.last_seen),
                *map(str, (info.resumed, info.keys, info.open_trajectories)),
            )
            for info in found
        ),
        right=(3, 6, 7, 8),
    )


@sessions.command(epilog=EXIT_CODES)
@click.argument("name")
@store_option
@json_option
@verb
def show(name: str, store: Path, as_json: bool) -> None:
    """Show what the session NAME holds: its keys, its open trajectories, what it earned."""
    with existing(store) as memory:
        session = memory.session(name)
        info = session.info()
        if info is None:
            fail(f"there is no session {name!r} in {store}", EXIT_MISSING)
        keys = {key: jsonable(value) for key, value in session.items()}
        tasks = [{"id": each.id, "task": each.task} for each in session.open_trajectories()]
        try:
            earned = session.pnl()
        except ntmem.StorageError:  # without shared memory there is no book
            earned = {}
    profits = [
        {
            "currency": currency,
            "realized_pnl": exact(each.realized_pnl),
            "fees": exact(each.fees),
            "funding": exact(each.funding),
            "net": exact(each.net),
        }
        for currency, each in earned.items()
    ]
    if as_json:
        print_json({**_fields(info), "values": keys, "trajectories": tasks, "pnl": profits})
        return
    facts = {**_fields(info), "started": iso(info.started), "last_seen": iso(info.last_seen)}
    print_columns((key, plain("-" if fact is None else str(fact))) for key, fact in facts.items())
    for each in profits:
        currency = f" {each.pop('currency')}".rstrip()
        print_columns((f"{what}{currency}", number) for what, number in each.items())
    for task in tasks:
        print_columns([("trajectory", task["id"], plain(task["task"]))])
    for key, value in keys.items():
        print_columns([(plain(key), plain(repr(value)))])


def _state(info: ntmem.SessionInfo) -> str:
    if info.held or info.left:
        return "held" if info.held else "left"
    return "late" if info.alive else "died"


def _fields(info: ntmem.SessionInfo) -> dict[str, Any]:
    """Return a session for JSON."""
    return {
        "session": info.name,
        "agent": info.agent_id,
        "account": info.account,
        "strategy": info.strategy,
        "state": _state(info),
        "pid": info.pid,
        "started": info.started,
        "last_seen": info.last_seen,
        "resumed": info.resumed,
        "keys": info.keys,
        "open_trajectories": info.open_trajectories,
    }
