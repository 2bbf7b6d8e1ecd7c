"""The report on the screen, with rich (the extra ``cli``)."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

from .report import Report

_MIB = 1 << 20
_VERDICTS = ("correct", "incorrect", "very_wrong")


def print_report(report: Report, console: Console) -> None:
    """Print the cards of a report."""
    console.print()
    _print_market(report, console)
    console.print(_operations(report))
    if report.kill is not None:
        console.print(_kill(report.kill))
    if report.zombie is not None:
        console.print(_zombie(report.zombie))
    console.print(_agents(report))
    if report.observations.get("series"):
        console.print(_observations(report.observations))
    if report.judging.get("trajectories"):
        console.print(_judging(report.judging))
    if report.deciding.get("scenes"):
        console.print(_deciding(report.deciding))
    _print_lines(report, console)


def _table(title: str, *columns: str, left: int = 1) -> Table:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    table = Table(
        title=title, title_justify="left", title_style="bold", box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1)
    )
    for number, column in enumerate(columns):
        table.add_column(column, justify="left" if number < left else "right")
    return table


def _print_market(report: Report, console: Console) -> None:
    replay = report.replay
    for file in report.market["files"]:
        notes = [f"{file['rows']:,} {file['kind']} rows"]
        if file["bad"]:
            notes.append(f"{sum(file['bad'].values()):,} bad rows skipped")
        if file["late"]:
            notes.append(
                f"{file['late']:,} late rows, by up to {timedelta(seconds=file['late_by'])} "
                "(known before an earlier row; shown no earlier than that one)"
            )
        if file["other_symbols"]:
            notes.append(f"{file['other_symbols']:,} rows of other symbols left out")
        _say(console, f"{file['name']}: {', '.join(notes)}")
        for reason, count in file["bad"].items():
            _say(console, f"  {count:,} x {reason}", "yellow")
        for bad in file["bad_rows"]:
            _say(console, f"  line {bad['line']}: {bad['reason']}: {bad['text']}", "yellow")
    ended = "" if replay["complete"] else ", interrupted" if replay["interrupted"] else ", then stopped"
    _say(
        console,
        f"{replay['symbol']}: {replay['steps_fed']:,} of {replay['steps']:,} steps, {replay['agents']} agents, "
        f"{replay['seconds']:.1f} s{ended}",
    )


def _operations(report: Report) -> Table:
    table = _table("Operations of the store (us)", "operation", "count", "p50", "p99")
    for name, figures in report.operations.items():
        table.add_row(name, f"{figures['count']:,}", f"{figures['p50_us']:,.1f}", f"{figures['p99_us']:,.1f}")
    return table


def _kill(kill: dict[str, Any]) -> Table:
    table = _table(f"Kill card: kill -9 of {kill['agent']} in step {kill['step']}", "", "", left=1)
    table.show_header = False
    lost = len(kill["lost"])
    table.add_row(
        "acknowledged before the kill", f"{kill['acknowledged']:,} keys in {kill['acknowledged_steps']:,} steps"
    )
    table.add_row(
        "recovered", f"{kill['recovered']:,}" + (f"  [bold red]{lost} lost[/]" if lost else "  [green]all[/]")
    )
    gone = len(kill["lost_trajectories"])
    table.add_row(
        "trajectories acknowledged, recovered",
        f"{kill['trajectories']:,}" + (f"  [bold red]{gone} lost[/]" if gone else "  [green]all[/]"),
    )
    table.add_row("waiting for their outcome, found by its successor", f"{kill['pending']:,}")
    table.add_row("the step that was running", kill["in_flight"])
    if kill["fence"]:
        table.add_row("it held the lock of its book", f"fence {kill['fence']}, seen as {kill['seen_as']}")
    if kill["granted"] is not None:
        table.add_row(
            "kill to the lock granted to its successor",
            f"fence {kill['successor_fence']}, {kill['granted'] * 1e3:,.0f} ms",
        )
        table.add_row("of which waiting for the lock", f"{kill['lock_wait'] * 1e3:,.1f} ms")
    if kill["resume"] is None:
        table.add_row("time to resume", "the replay ended before")
        return table
    table.add_row("kill to the first new acknowledgement", f"{kill['resume'] * 1e3:,.0f} ms")
    for name, what in (
        ("process_start", "of which waking the process that stood by"),
        ("open_and_read", "of which opening the store and reading the state"),
        ("check", "of which reading acknowledged keys back"),
    ):
        table.add_row(what, f"{kill[name] * 1e3:,.0f} ms")
    return table


def _zombie(zombie: dict[str, Any]) -> Table:
    from rich.markup import escape

    table = _table(
        f"Zombie card: {zombie['agent']} stopped in step {zombie['step']}, its orders not written yet", "", ""
    )
    table.show_header = False
    table.columns[1].justify = "left"
    table.add_row("stopped (SIGSTOP) while it held", f"{zombie['lock']}, fence {zombie['fence']}")
    table.add_row("seen as", zombie["seen_as"])
    table.add_row("its lease ended", f"{zombie['lease'] * 1e3:,.0f} ms later")
    table.add_row(
        "lock granted to its successor",
        f"fence {zombie['successor_fence']}, {zombie['granted'] * 1e3:,.1f} ms after the end of the lease",
    )
    table.add_row("its successor wrote the step", f"version {zombie['version']:,}")
    table.add_row("continued (SIGCONT)", f"{zombie['stopped'] * 1e3:,.0f} ms after it was stopped")
    refused = zombie["refused"] is not None
    said = "[green]refused[/], StaleFence" if refused else f"[bold red]not refused: {escape(zombie['word'])}[/]"
    table.add_row("it wrote what it had decided", f"fence {zombie['fence']}: {said}")
    unchanged = "[green]unchanged[/]" if zombie["unchanged"] else "[bold red]changed[/]"
    table.add_row("what its successor had written", unchanged)
    return table


def _agents(report: Report) -> Table:
    table = _table(
        "Agents (mean absolute error in bp, with memory and without)",
        *("agent", "fills", "quantity", "average", "P&L", "book", "with", "without"),
    )
    for column in table.columns:
        column.no_wrap, column.overflow = True, "fold"  # a cut number is worse than a wide line
    for agent in report.agents:
        book = agent["book"]
        table.add_row(
            agent["name"],
            str(book["fills"]),
            f"{float(book['quantity']):g}",
            f"{float(book['average_price']):,.7g}",
            f"{float(book['total_pnl']):+,.6g}",
            "[bold red]differs[/]" if book["differences"] else "[green]exact[/]",
            *("-" if agent[name] is None else f"{agent[name]:.3f}" for name in ("error_with", "error_without")),
        )
    return table


def _observations(observations: dict[str, Any]) -> Table:
    table = _table(
        "Observations (bytes: in arrays, on disk row by row, on disk distilled)",
        *("market", "rows", "arrays", "rows on disk", "distilled", "ratio", "read back"),
    )
    for column in table.columns:
        column.no_wrap, column.overflow = True, "fold"
    for one in [*observations["series"], {**observations, "name": "all"}]:
        table.add_row(
            one["name"],
            *(f"{one[name]:,}" for name in ("rows", "array_bytes", "live_bytes", "distilled_bytes")),
            "-" if one["ratio"] is None else f"{one['ratio']:.1f}",
            "[green]exact[/]" if one["exact"] else "[bold red]differs[/]",
        )
    return table


def _judging(judging: dict[str, Any]) -> Table:
    table = _table(
        f"Trajectories (predictions of every {judging['every']}th step; error in what such outcomes vary by)",
        *("task", "kept", "judged", "correct", "incorrect", "very wrong", "error", "sure"),
    )
    for task in judging["tasks"]:
        table.add_row(
            task["name"],
            *(f"{task[name]:,}" for name in ("trajectories", "judged")),
            *(f"{task['shares'][name]:.0%}" if task["judged"] else "-" for name in _VERDICTS),
            "-" if task["error"] is None else f"{task['error']:.2f}",
            "-" if task["confidence"] is None else f"{task['confidence']:.0%}",
        )
    return table


def _deciding(deciding: dict[str, Any]) -> Table:
    scenes = deciding["scenes"]
    names = (one["name"] + f" ({one['unit']})" * bool(one["unit"]) for one in scenes)
    table = _table("Decisions (what one earns: with memory, by chance, and always in one way)", "", *names)
    rows: dict[str, list[str]] = {
        "decisions": [f"{one['decisions']:,}" for one in scenes],
        "with memory": [f"{one['with_memory']:+.3f}" for one in scenes],
        "by chance": [f"{one['by_chance']:+.3f}" for one in scenes],
        **{f"always {way}": [f"{one['always'][way]:+.3f}" for one in scenes] for way in ("long", "flat", "short")},
        "gain": [f"{one['against_chance']['difference']:+.3f}" for one in scenes],
        "  95 %": [_interval(one["against_chance"]["interval"]) for one in scenes],
        "best": ["-" if one["best"] is None else f"{one['best']['share']:.0%}" for one in scenes],
        "poison": ["[green]no effect[/]" if one["exact"] else "[bold red]differs[/]" for one in scenes],
    }
    for name, cells in rows.items():
        table.add_row(name, *cells)
    return table


def _interval(interval: Sequence[float] | None) -> str:
    return "-" if interval is None else f"{interval[0]:+.3f} to {interval[1]:+.3f}"


def _print_lines(report: Report, console: Console) -> None:
    observed, polls, judging = report.observations, report.polls, report.judging
    if observed.get("series") and observed["exact"]:
        _say(
            console,
            f"As of half-time {observed['rows_at_half_time']:,} of {observed['rows']:,} observations were known, and "
            "these are read, before and after distilling.",
        )
    checked = sum(agent["recalls_checked"] for agent in report.agents)
    if checked:
        _say(console, f"Recall: {checked:,} predictions were recalled again by float64, over all known by then.")
    if judging.get("trajectories"):
        _say(
            console,
            f"Bank: {judging['trajectories']:,} trajectories, {judging['judged']:,} judged, {judging['pending']:,} "
            "waiting for their outcome at the end."
            + (
                f" As of half-time {judging['outcomes_at_half_time']:,} outcomes were known, and these are read."
                * judging["exact"]
            ),
        )
    if polls.get("proposals"):
        proposed, approved = polls["proposals"], polls["approved"]
        _say(console, f"Votes: that all go flat was proposed {proposed} times, and approved {approved} times.")
    _say(console, report.prediction["conclusion"])
    deciding = report.deciding
    for one in deciding.get("scenes", []):
        _say(console, one["conclusion"])
    if deciding.get("exact"):
        _say(
            console,
            f"Poisoned future: with {deciding['poison']} trajectories and {deciding['corrected']} corrections in the "
            "store of which the outcomes are known after the end, all decisions were the same bit for bit, and so was "
            f"what is known as of {deciding['instants']} instants, asked then, at the end, and when more had come.",
        )
    processes = report.memory["processes"]
    workers = [figures for name, figures in processes.items() if name != "feeder"]
    if workers:
        pss, rss = (max(one[name] for one in workers) / _MIB for name in ("pss", "rss"))
        _say(
            console,
            f"Memory: {report.memory['total_pss'] / _MIB:,.0f} MiB in all (shared pages once), an agent at most "
            f"{pss:,.0f} MiB ({rss:,.0f} resident). Disk: {report.disk['bytes'] / _MIB:,.1f} MiB, "
            f"{report.disk['records']:,} records.",
        )
    if report.disk["path"] is not None:
        _say(console, f"The store is kept: ntmem ls --store {shlex.quote(report.disk['path'])}")
    for note in report.notes:
        _say(console, f"NOTE: {note}", "bold yellow")
    if report.error:
        _say(console, report.error.rstrip(), "red")
    for problem in report.problems:
        _say(console, f"FAILED: {problem}", "bold red")


def _say(console: Console, text: str, style: str = "") -> None:
    """Print text as it is: a file's content must not be taken for markup."""
    whole = not console.is_terminal  # on one, lines are broken between words
    console.print(text, style=style or None, markup=False, highlight=False, soft_wrap=whole)
