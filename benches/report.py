"""Print figures as tables: ``python benches/report.py FILE [--keep FILE]``; also keep them for BENCHMARKING.md.

FILE is pytest-benchmark's JSON, or one of ``benches/results``.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent / "support"))

from results import Figures, Interval, Run, keep, load

HIT_LAST = ["LRU", "moka-py", "theine", "Belady"]


def time_text(nanoseconds: float) -> str:
    """Return a time with three digits, in the unit that suits it."""
    for unit, size in (("s", 1e9), ("ms", 1e6), ("us", 1e3)):
        if nanoseconds >= size:
            return f"{nanoseconds / size:#.3g}".rstrip(".") + f" {unit}"
    return f"{nanoseconds:#.3g}".rstrip(".") + " ns"


def rate_text(each: float) -> str:
    """Return calls a second with three digits."""
    return f"{float(f'{each:.3g}'):,.0f}/s"


def ratio_text(value: float) -> str:
    return f"{value:.2f}" if value < 10 else f"{value:.0f}"


def interval_text(figures: Interval | None, text: Any = time_text) -> str:
    """Return a median, and in brackets what it lies between."""
    if figures is None:
        return ""
    median, low, high = map(text, figures)
    return f"{median} ({low} to {high})"


def notes_text(notes: dict[str, Any]) -> str:
    """Return what a benchmark noted beside its ratio."""
    said = ((name.replace("_", " "), value) for name, value in notes.items())
    return ", ".join(
        f"{name} {float(f'{value:.4g}'):,}" if isinstance(value, float) else f"{name} {value}" for name, value in said
    )


def row_of(one: Figures, again: Figures | None = None) -> list[str]:
    """Return what a benchmark found, and its ratio in another run."""
    text = rate_text if one.curve is not None and one.curve["unit"] == "a second" else time_text
    times = [interval_text(one.ours, text), interval_text(one.theirs, text), interval_text(one.ratio, ratio_text)]
    second = "" if again is None else interval_text(again.ratio, ratio_text)
    return [one.parts[2], *times, second, notes_text(dict(one.notes))]


def hit_rows(found: Iterable[Figures]) -> list[list[str]]:
    """Return a row for each trace: ours with the LRU of as many entries in brackets, then the others."""
    rows: dict[str, dict[str, str]] = {}
    for one in found:
        notes = one.notes
        row = rows.setdefault(notes["trace"], {"trace": notes["trace"]})
        row |= {name: f"{hit:.1f}" for name, hit in notes["hit_percent"].items()}
        row[notes["policy"]] += f" ({notes['reference']:.1f})"
    first = [name for name in dict.fromkeys(name for row in rows.values() for name in row) if name not in HIT_LAST]
    names = first + HIT_LAST
    return [names, *([row.get(name, "") for name in names] for row in rows.values())]


def table(rows: list[list[str]]) -> str:
    """Return rows as Markdown, the first as its header, without columns that are empty in all the others."""
    used = [column for column in range(len(rows[0])) if any(row[column] for row in rows[1:])]
    lines = [[str(row[column]).replace("|", "\\|") for column in used] for row in rows]
    lines.insert(1, ["---"] * len(used))
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def table_of(found: list[Figures], again: dict[str, Figures]) -> str:
    """Return the table of the benchmarks of one function."""
    if "hit_percent" in found[0].notes:
        return table(hit_rows(found))
    header = ["", "ours", "theirs", "ratio", "again", "also"]
    return table([header, *(row_of(one, again.get(one.name)) for one in found)])


def by_function(run: Run) -> dict[tuple[str, str], list[Figures]]:
    pages: dict[tuple[str, str], list[Figures]] = {}
    for one in run.figures.values():
        pages.setdefault(one.parts[:2], []).append(one)
    return pages


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("file", type=Path)
    parser.add_argument("--keep", type=Path, metavar="FILE", help="put the figures there, too")
    arguments = parser.parse_args()
    run = load(arguments.file)
    print(f"Machine: {run.machine}\n\nMedians; in brackets what they lie between with 95 %. Times are of one call.")
    for (file, function), found in by_function(run).items():
        print(f"\n`benches/{file}` {function.removeprefix('test_').replace('_', ' ')}\n\n{table_of(found, {})}")
    if arguments.keep:
        keep(arguments.keep, run)


if __name__ == "__main__":
    main()
