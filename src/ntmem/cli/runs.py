"""``ntmem bank runs``: several attempts at one task, and what came of them."""

from __future__ import annotations

from pathlib import Path

import click
import msgspec

from ntmem._core.text import iso

from .learning import as_of_option
from .output import EXIT_CODES, existing, json_option, jsonable, plain, print_found, store_option, verb

_RUNS = (
    """
\b
Columns:
  id           by which attempts name it: 'ntmem bank show' says so
  agent, task  whose it is, and what it is about
  begun        when it was known, UTC
  mode         parallel or sequential
  status       running, completed or failed
  attempts     that were begun, of how many
  known        how many of them have an outcome
  mean         what those earned
  success      share of them that earned more than 0
"""
    + EXIT_CODES
)


@click.command(epilog=_RUNS)
@click.option("--status", type=click.Choice(["running", "completed", "failed"]), help="Only those with this status.")
@as_of_option
@click.option("--limit", type=click.IntRange(1, 10_000), default=20, show_default=True, help="At most so many.")
@store_option
@json_option
@verb
def runs(status: str | None, as_of: int | None, limit: int, store: Path, as_json: bool) -> None:
    """List runs of several attempts, the one begun last first."""
    documents, rows = [], []
    with existing(store) as memory:
        for it in memory.bank.runs(status=status, as_of=as_of, limit=limit):
            found = it.contrast()
            facts = {"id": it.id, "agent": it.agent_id, "task": it.task, "begun": it.created, "ended": it.ended}
            facts |= {"mode": it.mode, "k": it.k, "status": it.status}
            documents.append(jsonable({**facts, "contrast": msgspec.to_builtins(found)}))
            rows.append(
                (
                    it.id,
                    plain(it.agent_id),
                    plain(it.task) or "-",
                    iso(it.created),
                    it.mode,
                    it.status,
                    f"{len(found.attempts)} of {it.k}",
                    str(found.known),
                    "-" if found.mean is None else f"{found.mean:.6g}",
                    "-" if found.success_rate is None else f"{found.success_rate:.0%}",
                )
            )
    header = ("id", "agent", "task", "begun", "mode", "status", "attempts", "known", "mean", "success")
    print_found(documents, as_json, "there are no such runs", header, rows, right=(7, 8, 9))
