"""Verbs of ``ntmem bank`` about what is learnt: patterns, why a decision was taken, distilling, the report."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import msgspec

from ntmem._core.text import iso
from ntmem.instants import MAX_INSTANT

from .output import (
    EXIT_CODES,
    EXIT_FAILED,
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

if TYPE_CHECKING:
    from ..reasoningbank import DistilledPattern, Explanation

_MOST, _SHOWN = 100_000, 20

_COLUMNS = """
\b
Columns:
  strength      the evidence that it is real; 0.5 and below: none
  confidence    how far to trust it, moved by what came of its advice
  support       outcomes that it was learnt from
  mean, low, high
                what the action earns there, as reward or return, with 95 %
  uses, right, wrong
                decisions that it advised and that something came of
  id, title     the pattern, and what it says
"""

_PATTERNS = (
    _COLUMNS
    + """
\b
Examples:
  ntmem bank patterns --min-strength 0.5
  ntmem bank patterns --task breakout --json
"""
    + EXIT_CODES
)

_DISTILL = (
    """
Settings are those a program starts with: directions of returns, how many outcomes a pattern has at least. Agents that
use others distil by themselves.
"""
    + _COLUMNS
    + EXIT_CODES
)

_EXPLAIN = (
    """
\b
Columns:
  score         0.65 similarity + 0.15 recency + 0.20 reliability
  was           right or wrong, by what came of its action; -: nothing came yet
  recalled      when, UTC
  id, pattern   as it was then
"""
    + EXIT_CODES
)

_REPORT = (
    """
The page needs no network and no program but one that shows HTML. It is written whole or not at all; if it cannot be,
the exit code is 1.
"""
    + EXIT_CODES
)

as_of_option = click.option(
    "--as-of", type=click.IntRange(0, MAX_INSTANT), help="As it was known at this time, ns UTC."
)


@click.command(epilog=_EXPLAIN)
@click.argument("trajectory_id", metavar="ID")
@as_of_option
@store_option
@json_option
@verb
def explain(trajectory_id: str, as_of: int | None, store: Path, as_json: bool) -> None:
    """Say which patterns were recalled for the trajectory ID, as they were then, and whether they were right."""
    from ..reasoningbank.events import is_id

    with existing(store) as memory:
        found = None
        if is_id(trajectory_id) and memory.trajectories.get(trajectory_id, as_of=as_of) is not None:
            found = memory.bank.explain(trajectory_id, as_of=as_of)
    if found is None:
        then = "" if as_of is None else ", or it was not known then"
        fail(f"there is no trajectory {trajectory_id!r}{then}; 'ntmem bank ls' lists those there are", EXIT_MISSING)
    if as_json:
        print_json(_explained(found))
        return
    print_columns([("id", found.trajectory_id), ("agent", plain(found.agent_id)), ("task", plain(found.task) or "-")])
    for action in found.actions:
        came = found.outcomes.get(action.id)
        said = "nothing came of it yet" if came is None else f"{came.value:.9g} came of it"
        click.echo(f"{action.id}: {plain(action.type)}, {said}")
    click.echo()
    if not found.patterns:
        asked = "memory was asked, and knew nothing of such situations"
        click.echo(asked if found.was_asked else "no memory was asked")
        return
    rows = [
        (
            f"{it.score:.3f}",
            f"{it.similarity:.3f}",
            f"{it.recency:.3f}",
            f"{it.reliability:.3f}",
            {None: "-", True: "right", False: "wrong"}[it.was_right],
            iso(it.ts),
            plain(it.pattern_id),
            "-" if it.pattern is None else plain(it.pattern.title),
        )
        for it in found.patterns
    ]
    header = ("score", "similarity", "recency", "reliability", "was", "recalled", "id", "pattern")
    print_columns([header, *rows], right=(0, 1, 2, 3))


def _explained(found: Explanation) -> dict[str, Any]:
    scores = ("pattern_id", "ts", "score", "similarity", "recency", "reliability", "was_right")
    return {
        "id": found.trajectory_id,
        "agent": found.agent_id,
        "task": found.task,
        "actions": [jsonable(msgspec.structs.asdict(it)) for it in found.actions],
        "outcomes": {name: it.value for name, it in found.outcomes.items()},
        "was_asked": found.was_asked,
        "patterns": [
            {name: getattr(it, name) for name in scores}
            | {"pattern": None if it.pattern is None else _document(it.pattern)}
            for it in found.patterns
        ],
        "text": found.text,
    }


@click.command(epilog=_PATTERNS)
@click.option("--min-strength", type=click.FloatRange(0, 1), default=0.0, help="Above 0.5 what is more than chance.")
@click.option("--task", help="Only what was learnt in this task.")
@as_of_option
@click.option("--limit", type=click.IntRange(1, _MOST), default=_SHOWN, show_default=True, help="At most so many.")
@store_option
@json_option
@verb
def patterns(min_strength: float, task: str | None, as_of: int | None, limit: int, store: Path, as_json: bool) -> None:
    """List what was learnt, the strongest first."""
    where = None if task is None else {"task": task}
    with existing(store) as memory:
        found = list(memory.bank.patterns(min_strength=min_strength, where=where, as_of=as_of))
    _print_patterns(sorted(found, key=lambda it: (-it.strength, it.id)), as_json, "there are no such patterns", limit)


@click.command(epilog=_DISTILL)
@store_option
@json_option
@verb
def distill(store: Path, as_json: bool) -> None:
    """Learn from the outcomes that nothing was learnt from yet; list the patterns that have changed."""
    with existing(store, read_only=False) as memory:
        found = memory.bank.distill()
    _print_patterns(found, as_json, "no pattern has changed", _MOST if as_json else _SHOWN)


@click.command(epilog=EXIT_CODES)
@store_option
@json_option
@verb
def consolidate(store: Path, as_json: bool) -> None:
    """Merge what is one, mark what contradicts itself, let go of what is old; say what was done."""
    with existing(store, read_only=False) as memory:
        found = msgspec.structs.asdict(memory.bank.consolidate())
    if as_json:
        print_json(found)
    else:
        print_columns(((name, str(count)) for name, count in found.items()), right=(1,))


@click.command(epilog=_REPORT)
@click.argument("file", type=click.Path(path_type=Path))
@as_of_option
@store_option
@json_option
@verb
def report(file: Path, as_of: int | None, store: Path, as_json: bool) -> None:
    """Write what is known as one page of HTML, with pictures, to FILE; --json prints its figures."""
    with existing(store) as memory:
        try:
            written = memory.bank.report(file, as_of=as_of)
        except OSError as error:
            fail(str(error), EXIT_FAILED)
    if as_json:
        print_json(written.to_dict())
        return
    totals = written.figures.totals
    counts = ", ".join(f"{totals[name]} {name}" for name in ("trajectories", "decisions", "patterns"))
    click.echo(f"{counts}: {written.path}")


def _print_patterns(found: Sequence[DistilledPattern], as_json: bool, nothing: str, limit: int) -> None:
    shown = found[:limit]
    print_found(
        [_document(it) for it in shown],
        as_json,
        nothing,
        ("strength", "confidence", "support", "mean", "low", "high", "uses", "right", "wrong", "id", "title"),
        [
            (
                f"{it.strength:.3f}",
                f"{it.confidence:.3f}",
                str(it.support),
                *(f"{each:.4g}" for each in (it.outcome_mean, *it.outcome_interval)),
                *(str(it.metadata[name]) for name in ("uses", "right", "wrong")),
                plain(it.id),
                plain(it.title) + " (quarantined)" * it.metadata["quarantined"],
            )
            for it in shown
        ],
        right=range(9),
    )
    if len(found) > len(shown) and not as_json:
        click.echo(f"{len(found) - len(shown)} more: ntmem bank patterns --limit {min(len(found), _MOST)}")


def _document(it: DistilledPattern) -> dict[str, Any]:
    """Return a pattern as JSON has it, without the middle of its situations."""
    return {name: getattr(it, name) for name in it.__struct_fields__ if name != "centroid"}
