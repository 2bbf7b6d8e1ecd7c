"""The report: all figures of a bank on one page of HTML that needs nothing else."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
from msgspec import Struct

from .._core.text import html_facts, html_rows, iso
from ..instants import MAX_INSTANT
from ..tiers.segments import replaced_whole
from .figures import Drift, Facet, Figures, Group, Known, Map, Mean, Share
from .overview import figures
from .patterns import PROVEN
from .svg import GREY, LINES, WITH, WITHOUT, Bar, Dot, Line, Point, amount_of, bars, chart, scatter, shown
from .verdict import Verdict

if TYPE_CHECKING:
    from collections.abc import Callable

    from .calibration import CalibrationReport
    from .learning import Settings
    from .shelf import Shelf
    from .tracker import TrajectoryTracker

RIGHT = "#009e73"
_LABELLED = 14  # patterns of a map that have their action beside them
_SMALLEST, _LARGEST = 3.0, 13.0  # pixels of a dot
_STYLE = (
    ":root{color-scheme:light dark}body{font:15px/1.5 sans-serif;max-width:1160px;margin:2em auto;padding:0 1em;"
    "font-variant-numeric:tabular-nums}svg{max-width:100%;height:auto;margin:0 1em 1em 0}"
    "table{border-collapse:collapse;margin:.6em 0 1.4em;display:block;overflow-x:auto}"
    "caption{text-align:left;font-weight:bold;padding:.3em 0}th,td{text-align:left;vertical-align:top;"
    "padding:.2em .8em .2em 0;border-bottom:1px solid #8886;white-space:nowrap}"
    "td:nth-child(-n+2){overflow-wrap:anywhere;white-space:normal;min-width:7em}h2{margin-top:2em}"
    ".totals tbody{display:block;columns:3 17em;column-gap:3em}"
    ".totals tr{display:flex;justify-content:space-between;break-inside:avoid;border-bottom:1px solid #8886}"
    ".totals :is(th,td){border:0;padding-right:0;font-weight:normal;white-space:normal;min-width:0}"
)
_POLICY = "default-src 'none'; style-src 'unsafe-inline'"
_TITLE = "What the bank knows"
_TOTALS = {
    "asked": "that asked memory",
    "advised": "that patterns advised",
    "decisions": "with an outcome",
    **{each.value: f"judged {each.value.replace('_', ' ')} last" for each in Verdict},
    "facets": "tasks and units with outcomes",
    "kinds": "kinds of situations",
    "proven": "more than chance",
    "contradicting": "contradicting others",
    "drifted": "kinds in which what pays has changed",
}


class BankReport(Struct, frozen=True, eq=False):
    """A report that was written.

    Attributes
    ----------
    path : Path
        The page.
    figures : Figures
        What is on it, as data.
    """

    path: Path
    figures: Figures

    def to_dict(self) -> dict[str, Any]:
        """Return the figures, and the path as `path`, as dicts, lists, texts and numbers, such as JSON has."""
        return {"path": str(self.path), **msgspec.json.decode(msgspec.json.encode(self.figures))}

    def __repr__(self) -> str:
        totals = self.figures.totals
        return f"<BankReport {str(self.path)!r} decisions={totals['decisions']} patterns={totals['patterns']}>"

    def _repr_html_(self) -> str:
        return f"<div>{body(self.figures)}</div>"


def write_report(
    path: str | os.PathLike[str], tracker: TrajectoryTracker, shelf: Shelf, settings: Settings, limit: int
) -> BankReport:
    """Write the report of what is known by an instant, all of it or nothing."""
    target = _checked(path)
    found = figures(tracker, shelf, settings, limit)
    data = page(found).encode()

    def write(file: int) -> None:
        with open(file, "wb", closefd=False) as out:
            out.write(data)
        os.fsync(file)

    replaced_whole(str(target), write, 0o666)
    return BankReport(target, found)


def _checked(path: Any) -> Path:
    """Return where a file can be written; it is looked at before the work is done."""
    if not isinstance(path, str | os.PathLike):
        raise TypeError(f"path must be a str or a Path, was {type(path).__name__}")
    if not os.fspath(path):
        raise ValueError("path must name a file, was empty")
    if os.path.exists(path) and not os.path.isfile(path):
        raise ValueError(f"path must name a file, {os.fspath(path)} is something else")
    target = Path(path).resolve()  # a link goes on leading to the page
    if not target.parent.is_dir():
        raise FileNotFoundError(f"there is no directory {target.parent}; make it first")
    return target


# -- the page


def page(found: Figures) -> str:
    """Return figures as a page of HTML that is well-formed XML, too."""
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"/>'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}"/>'
        '<meta name="viewport" content="width=device-width"/>'
        f"<title>{_TITLE}</title><style>{_STYLE}</style></head><body>{body(found)}</body></html>\n"
    )


def body(found: Figures) -> str:
    """Return what stands on the page."""
    totals = found.totals
    then = iso(found.as_of).replace(".000000000Z", "Z") if found.as_of < MAX_INSTANT else "any time"
    parts = [f"<h1>{_TITLE}</h1><p>As it was known at {then}; nothing that became known later is in it.</p>"]
    if not totals["trajectories"] and not totals["kinds"]:
        parts.append("<p>Nothing is known yet: there are no trajectories and no patterns.</p>")
        return "".join(parts)
    if found.was_cut:
        parts.append(f"<p>There are earlier trajectories: only the latest {totals['trajectories']} are looked at.</p>")
    facts = html_facts((_TOTALS.get(name, name), count) for name, count in totals.items())
    parts.append(f'<div class="totals">{facts}</div>')
    parts += [_memory(found), _calibration(found), _map_section(found), _usage(found), _drifts(found)]
    parts.append("<h2>The strongest patterns</h2>")
    parts.append(_table(found.strongest) if found.strongest else "<p>No patterns were found yet.</p>")
    return "".join(parts)


def _section(title: str, text: str, parts: Iterable[str], nothing: str) -> str:
    drawn = "".join(parts)
    return f"<h2>{title}</h2>" + (f"<p>{text}</p>{drawn}" if drawn else f"<p>{nothing}</p>")


def _memory(found: Figures) -> str:
    text = (
        "Decisions that patterns advised before their outcome, beside those that none did, as memory was not asked or "
        "knew nothing. Bands are 95 %, as if outcomes did not depend on each other. Who was advised was not drawn by "
        "lot: times, agents and situations may differ, too."
    )
    more = found.totals["facets"] - len(found.facets)
    parts = [_facet(each) for each in found.facets]
    if more > 0:
        parts.append(f"<p>{more} more, of fewer decisions, are not shown.</p>")
    return _section("With memory and without", text, parts, "No decision has an outcome yet.")


def _facet(it: Facet) -> str:
    amount = amount_of(it.unit)
    task = shown(it.task or "no task", 24)
    groups = [
        (name, color, group)
        for name, color, group in (("with memory", WITH, it.advised), ("without", WITHOUT, it.unadvised))
        if group is not None
    ]
    rows = [(name, str(group.outcome.count), *_row(group, amount)) for name, _, group in groups]
    caption = f"{shown(it.task or 'no task')}, {it.unit}s: {it.count} decisions, mean {amount(it.mean)}"
    if it.difference is not None:
        caption += f"; with memory less without {amount(it.difference)}{_within(it.difference_interval, amount)}"
    drawn = [html_rows(caption, ("", "decisions", "mean", "above the mean", "verdicts correct"), rows)]
    share = amount_of("share")
    lines = [
        Line(
            name,
            color,
            [Point(each.ts, each.outcome.mean, *(each.outcome.interval or (None, None))) for each in group.periods],
        )
        for name, color, group in groups
    ]
    drawn.append(chart(f"{task}: mean {it.unit}", lines, amount))
    lines = [
        Line(name, color, [Point(each.ts, each.above.share, *each.above.interval) for each in group.periods])
        for name, color, group in groups
    ]
    drawn.append(chart(f"{task}: share above the mean", lines, share, bounds=(0, 1)))
    lines = [
        Line(
            name,
            color,
            [
                Point(each.ts, each.correct.share, *each.correct.interval)
                for each in group.periods
                if each.correct is not None
            ],
        )
        for name, color, group in groups
    ]
    if any(line.points for line in lines):
        drawn.append(chart(f"{task}: share of verdicts that were correct", lines, share, bounds=(0, 1)))
    return "".join(drawn)


def _row(group: Group, amount: Callable[[float], str]) -> tuple[str, str, str]:
    def share(it: Share | None) -> str:
        return "-" if it is None else f"{it.share:.1%}{_within(it.interval, '{:.1%}'.format)} of {it.count}"

    return _mean(group.outcome, amount), share(group.above), share(group.correct)


def _mean(it: Mean, amount: Callable[[float], str]) -> str:
    return f"{amount(it.mean)}{_within(it.interval, amount)}"


def _within(interval: tuple[float, float] | None, amount: Callable[[float], str]) -> str:
    return "" if interval is None else f" ({amount(interval[0])} to {amount(interval[1])})"


def _calibration(found: Figures) -> str:
    text = (
        "Of what was said with 70 % confidence, 70 % should be so: points on the diagonal. A pattern's confidence is "
        "that at the time of its advice, that its effect has the sign it says. It was right if the one outcome of its "
        "action was on that side of the base rate. Where outcomes are mostly noise, even what is surely so is right "
        "little more than half of the time. A verdict held if the last one of the same judge says the same; only those "
        "that were judged again with another result or confidence count."
    )
    parts = []
    for name, report in (("patterns that advised", found.patterns), ("verdicts judged again", found.verdicts)):
        if report is not None:
            parts.append(_curve(name, report))
    nothing = "Nothing has come yet of a decision that a pattern advised, and no verdict was replaced."
    return _section("Whether confidence holds", text, parts, nothing)


def _curve(name: str, report: CalibrationReport) -> str:
    points = [Point(each.confidence, each.share, *each.interval) for each in report.bins]
    drawn = chart(
        f"{name}: {report.count}, Brier {report.brier:.3f}, ECE {report.expected_calibration_error:.3f}",
        [Line("was so", WITH, points)],
        amount_of("share"),
        is_time=False,
        bounds=(0, 1),
        diagonal=True,
    )
    return drawn + report._repr_html_()


def _map_section(found: Figures) -> str:
    text = (
        "Patterns by their kind of situation, along the two directions in which kinds differ most; those of one kind "
        "are around one place. Larger is more outcomes, fuller is stronger."
    )
    return _section("Where patterns are", text, [_map(each) for each in found.maps], "No patterns were found yet.")


def _map(it: Map) -> str:
    most = max((place.support for place in it.places), default=1)
    named = {place.id for place in it.places if place.strength > PROVEN}
    named = {place.id for place in it.places[:_LABELLED] if place.id in named}
    kinds: dict[tuple[float, float], list[str]] = {}
    for place in it.places:
        kinds.setdefault((place.x, place.y), []).append(place.id)
    dots = []
    for place in it.places:
        twins = kinds[place.x, place.y]
        size = _SMALLEST + (_LARGEST - _SMALLEST) * math.sqrt(place.support / most)
        turn, away = 2 * math.pi * twins.index(place.id) / len(twins), 0.8 * _LARGEST * (len(twins) > 1)
        hint = (
            f"{place.action} in {place.task or 'no task'}: effect {place.effect:.4g}, strength {place.strength:.2f}, "
            f"{place.support} outcomes"
        )
        dots.append(
            Dot(
                place.x,
                place.y,
                size,
                WITH if place.effect >= 0 else WITHOUT,
                0.1 + 0.8 * place.strength,
                place.action if place.id in named else "",
                hint,
                (away * math.cos(turn), away * math.sin(turn)),
            )
        )
    one, other = it.explained
    title = f"{len(dots)} patterns, {it.dimension} dimensions; {one:.0%} and {other:.0%} of the variance"
    return scatter(title, dots, [("pays", WITH), ("is worse than others", WITHOUT)])


def _usage(found: Figures) -> str:
    text = (
        "How often patterns advised decisions that an outcome has come of, and were right or wrong then; the rest was "
        "of another action. A quarantined one is recalled again when new outcomes speak for it."
    )
    if not found.used:
        return _section("Use", text, [], "No pattern has advised a decision that something came of yet.")
    rows = [
        Bar(
            ("⚠ " if it.quarantined else "") + it.title,
            f"{it.title}: {it.uses} uses, {it.right} right, {it.wrong} wrong{', in quarantine' * it.quarantined}",
            [(RIGHT, it.right), (WITHOUT, it.wrong), (GREY, max(it.uses - it.right - it.wrong, 0))],
        )
        for it in found.used
    ]
    legend = [("right", RIGHT), ("wrong", WITHOUT), ("another action", GREY), ("⚠ quarantined", "none")]
    return _section("Use", text, [bars("Most used patterns", rows, legend), _table(found.used)], "")


def _drifts(found: Figures) -> str:
    text = (
        "Kinds of situations in which what pays has changed, those that changed last first: what was known of each "
        "action at a time, with 95 %. Dashed: from when on another regime was seen."
    )
    parts = [_drift(each) for each in found.drifting]
    return _section("Change", text, parts, "In no kind of situation a change of what pays was seen.")


def _drift(it: Drift) -> str:
    lines = [
        Line(action, color, [Point(each.ts, each.mean, *each.interval) for each in versions])
        for (action, versions), color in zip(it.actions.items(), LINES, strict=False)
    ]
    times = "once" if it.drifts == 1 else f"{it.drifts} times"
    task = shown(it.task or "no task", 20)
    title = f"{task}, kind {it.number}: changed {times}, last {iso(it.regime_since)[:10]}"
    return chart(title, lines, amount_of(it.unit), marks=it.changes)


def _table(found: Sequence[Known]) -> str:
    header = ("title", "description", "support", "strength", "confidence", "mean", "95 %", "uses", "right", "wrong")
    rows = []
    for it in found:
        amount = amount_of(it.unit)
        low, high = it.outcome_interval
        rows.append(
            (
                shown(it.title) + " (quarantined)" * it.quarantined,
                shown(it.description),
                str(it.support),
                f"{it.strength:.2f}",
                f"{it.confidence:.2f}",
                amount(it.outcome_mean),
                f"{amount(low)} to {amount(high)}",
                str(it.uses),
                str(it.right),
                str(it.wrong),
            )
        )
    return html_rows(f"{len(rows)} patterns", header, rows)
