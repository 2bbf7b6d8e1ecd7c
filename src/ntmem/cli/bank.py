"""``ntmem bank``: what agents tried, and how good it was."""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import msgspec

import ntmem
from ntmem._core.text import iso
from ntmem.instants import NS
from ntmem.values import CODECS

from .interchange import export_jsonl, export_sqlite, forget, import_jsonl, import_sqlite
from .learning import as_of_option, consolidate, distill, explain, patterns, report
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
from .runs import runs

if TYPE_CHECKING:
    from ..reasoningbank import PendingOutcome

_MOST = 10_000

_LS = (
    """
\b
Columns:
  id            by which 'ntmem bank show' shows all of it
  agent, task   whose it is, and what it is about
  begun         when it happened, UTC
  status        open, complete or failed
  actions       how many there are
  pending       how many of them have no outcome
  verdict, sure how it was judged last, and with which confidence
\b
Columns of --pending, a row an action, the oldest first:
  id, action    by which its outcome names it
  agent, task
  type          of the action
  predicted     what is expected: a level if there is a reference, else a reward
  reference     the price level from which returns are counted
  known         since when the action is known
  due           when its outcome was expected
\b
Examples:
  ntmem bank ls --agent agent_1 --verdict very_wrong
  ntmem bank ls --pending
"""
    + EXIT_CODES
)

_SHOW = (
    """
\b
Columns:
  happened, known
                when it was so, and when that became known, UTC
  step          begin, observation, action, outcome, complete or verdict
  what          what was seen, done and expected, what came, how it was judged
"""
    + EXIT_CODES
)


@click.group(epilog=EXIT_CODES)
def bank() -> None:
    """Show what agents tried, how good it was, and what is learnt from it.

    Only distill, consolidate, forget and the imports change it.
    """


for command in (patterns, explain, distill, consolidate, report, runs):
    bank.add_command(command)
for command in (export_sqlite, import_sqlite, export_jsonl, import_jsonl, forget):
    bank.add_command(command)


@bank.command(epilog=_LS)
@click.option("--agent", help="Only those of this agent.")
@click.option("--task", help="Only those with this task.")
@click.option(
    "--verdict",
    type=click.Choice(["correct", "incorrect", "very_wrong", "insufficient"]),
    help="Only those that were judged so last.",
)
@click.option("--status", type=click.Choice(["open", "complete", "failed"]), help="Only those with this status.")
@click.option("--pending", is_flag=True, help="The actions that wait for their outcome, instead.")
@as_of_option
@click.option("--limit", type=click.IntRange(1, _MOST), default=20, show_default=True, help="At most so many.")
@click.option("--cursor", help="Where to go on: what the page before has said.")
@store_option
@json_option
@verb
def ls(
    agent: str | None,
    task: str | None,
    verdict: str | None,
    status: str | None,
    pending: bool,
    as_of: int | None,
    limit: int,
    cursor: str | None,
    store: Path,
    as_json: bool,
) -> None:
    """List the trajectories of a store, the one begun last first."""
    if pending and (verdict, status, cursor) != (None, None, None):
        raise click.UsageError("--pending takes --agent, --task, --as-of and --limit")
    with existing(store) as memory:
        if pending:
            waiting = memory.bank.pending(agent_id=agent, as_of=as_of)
            if task is not None and memory.scrubber is not None:
                task = memory.scrubber(task)  # as it is kept
            _print_pending([it for it in waiting if task in (None, it.task)], limit, as_json)
            return
        page = memory.trajectories.find(
            agent_id=agent, task=task, verdict=verdict, status=status, as_of=as_of, limit=limit, cursor=cursor
        )
        found = [_summary(it) for it in page.trajectories]
    if as_json:
        print_json({"trajectories": found, "cursor": page.cursor})
        return
    print_found(
        found,
        as_json,
        "there are no trajectories" if cursor is None else "there are no more trajectories",
        ("id", "agent", "task", "begun", "status", "actions", "pending", "verdict", "sure"),
        [
            (
                it["id"],
                plain(it["agent"]),
                plain(it["task"]) or "-",
                iso(it["begun"]),
                it["status"],
                str(it["actions"]),
                str(it["pending"]),
                it["verdict"] or "-",
                _share(it["confidence"]),
            )
            for it in found
        ],
        right=(5, 6, 8),
    )
    if page.cursor is not None:
        click.echo(f"there are more: --cursor {page.cursor}")


def _summary(it: ntmem.Trajectory) -> dict[str, Any]:
    last = it.verdicts[-1] if it.verdicts else None
    return {
        "id": it.id,
        "agent": it.agent_id,
        "task": it.task,
        "begun": it.start,
        "ended": it.end,
        "status": it.status,
        "actions": len(it.actions),
        "pending": len(it.unresolved),
        "verdict": None if last is None else last.verdict,
        "confidence": None if last is None else last.confidence,
    }


def _share(confidence: float | None) -> str:
    return "-" if confidence is None else f"{confidence:.0%}"


def _number(number: float | None) -> str:
    return "-" if number is None else f"{number:.9g}"


def _instant(ns: int | None) -> str:
    return "-" if ns is None else iso(ns)


def _print_pending(found: Sequence[PendingOutcome], limit: int, as_json: bool) -> None:
    shown = found[:limit]
    print_found(
        [
            {
                "id": it.trajectory_id,
                "action": it.action.id,
                "agent": it.agent_id,
                "task": it.task,
                "type": it.action.type,
                "parameters": jsonable(it.action.parameters),
                "predicted_outcome": it.action.predicted_outcome,
                "reference": it.action.reference,
                "horizon": it.action.horizon,
                "ts_event": it.action.ts_event,
                "ts_known": it.action.ts_known,
                "due": it.due,
            }
            for it in shown
        ],
        as_json,
        "nothing is pending",
        ("id", "action", "agent", "task", "type", "predicted", "reference", "known", "due"),
        [
            (
                it.trajectory_id,
                it.action.id,
                plain(it.agent_id),
                plain(it.task) or "-",
                plain(it.action.type),
                _number(it.action.predicted_outcome),
                _number(it.action.reference),
                iso(it.action.ts_known),
                _instant(it.due),
            )
            for it in shown
        ],
        right=(5, 6),
    )
    if len(found) > len(shown) and not as_json:
        click.echo(f"{len(found) - len(shown)} more wait: --limit {min(len(found), _MOST)}")


@bank.command(epilog=_SHOW)
@click.argument("trajectory_id", metavar="ID")
@as_of_option
@store_option
@json_option
@verb
def show(trajectory_id: str, as_of: int | None, store: Path, as_json: bool) -> None:
    """Print all of the trajectory ID, in the order in which it was recorded."""
    from ..reasoningbank.events import is_id

    with existing(store) as memory:
        found = memory.trajectories.get(trajectory_id, as_of=as_of) if is_id(trajectory_id) else None
        if found is None:
            then = "" if as_of is None else ", or it was not known then"
            fail(f"there is no trajectory {trajectory_id!r}{then}; 'ntmem bank ls' lists those there are", EXIT_MISSING)
        facts, steps = _summary(found), list(_steps(found))
    if as_json:
        print_json({**facts, "steps": jsonable(steps)})
        return
    facts |= {"begun": _instant(facts["begun"]), "ended": _instant(facts["ended"])}
    facts["confidence"] = _share(facts["confidence"])
    print_columns((name, plain("-" if fact in (None, "") else str(fact))) for name, fact in facts.items())
    click.echo()
    rows = [(iso(it["ts_event"]), iso(it["ts_known"]), it["step"], plain(_told(it))) for it in steps]
    print_columns([("happened", "known", "step", "what"), *rows])


def _steps(trajectory: ntmem.Trajectory) -> Iterator[dict[str, Any]]:
    """Yield the steps of a trajectory with their fields; an embedding is a list of float, a horizon in seconds."""
    for event in trajectory.events():
        step = {"step": event.__struct_config__.tag, **msgspec.structs.asdict(event)}
        for name in step.keys() & {"data", "parameters"}:
            step[name] = CODECS["msgpack"].decode(step[name])
        if step.get("embedding") is not None:
            step["embedding"] = [number for (number,) in struct.iter_unpack("<f", step["embedding"])]
        if step.get("horizon") is not None:
            step["horizon"] /= NS
        yield step


def _told(step: dict[str, Any]) -> str:
    """Return a step in words."""
    match step["step"]:
        case "begin":
            return f"attempt {step['attempt']} of run {step['run_id']}" if step["run_id"] else ""
        case "observation":
            vector = step["embedding"]
            return repr(step["data"]) + ("" if vector is None else f", with an embedding of {len(vector)} numbers")
        case "action":
            said = [f"{step['id']}: {step['type']}"]
            if step["parameters"] is not None:
                said.append(repr(step["parameters"]))
            if step["predicted_outcome"] is not None:
                said.append(f"predicted {step['predicted_outcome']!r}")
            if step["reference"] is not None:
                said.append(f"reference {step['reference']!r}")
            if step["horizon"] is not None:
                said.append(f"horizon {step['horizon']:.9g} s")
            return ", ".join(said)
        case "outcome":
            return f"{step['action_id'] or 'of the whole'}: {step['value']!r}"
        case "complete":
            return str(step["status"])
        case _:
            return f"{step['feedback']} ({step['judge']}, {_share(step['confidence'])} sure)"
