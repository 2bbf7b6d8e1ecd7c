"""Dropping rows of observations: old blocks, old live rows, or all of a series.

What is dropped is covered by entries of the series' row that have no block and whose bounds hold no instant: numbers
stay given, no reader looks there, and what stood under the keys of rows is left over, as after distillation.

**Invariants**

- What is left is read as it was: rows, numbers, order, types.
- One group drops; who dies behind it leaves blocks and rows that mean nothing to the next sweep.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec
import numpy as np

from ..errors import StorageError
from ..instants import MAX_INSTANT
from .bounds import Bound
from .distilling import sweep
from .liverows import Gone, LivePart
from .series import BULK, DROPPED, DROPPING, ENTRY, SWEPT, SeriesRow
from .seriesstate import Changed, Series

if TYPE_CHECKING:
    from numpy.typing import NDArray

_ATTEMPTS = 1000
_NEVER = -(2**63)
_MOST_ROWS = 2**32 - 1  # of an entry


class DropReport(NamedTuple):
    """What was dropped: rows, blocks among them, and what they took in the store."""

    rows: int = 0
    blocks: int = 0
    bytes: int = 0

    def plus(self, other: DropReport) -> DropReport:
        """Return the sum of both."""
        return DropReport(*(a + b for a, b in zip(self, other, strict=True)))


Choice = Callable[["NDArray[Any]"], "NDArray[np.bool_]"]


def drop(series: Series, now: int, choose: Choice, until: int | None) -> DropReport:
    """Drop the blocks whose entries are chosen, and the live rows known before `until` (None: none)."""
    for _ in range(_ATTEMPTS):
        try:
            with series.working():
                row, parts = series.live()
                if row is None:
                    return DropReport()
                live, size = _live_before(parts, until)
            entries = row.entries
            gone = entries[choose(entries) & (entries["flags"] & DROPPED == 0)]
            if not len(gone) and not len(live):
                sweep(series, now)  # what another has left
                return DropReport()
            new = _without(row, gone, live)
            if series.update(lambda current: new if current is row else None):  # noqa: B023
                sweep(series, now)
                rows = int(gone["rows"].sum()) + len(live)
                return DropReport(rows, len(gone), int(gone["size"].sum()) + size)
        except (Changed, Gone):
            continue
    raise StorageError(f"others changed {series.key!r} {_ATTEMPTS} times while rows were dropped; try again")


def _live_before(parts: Sequence[LivePart], until: int | None) -> tuple[NDArray[np.int64], int]:
    """Return the numbers of live rows that are to be dropped, and their bytes."""
    found, size = [np.empty(0, np.int64)], 0
    if until is None:
        return found[0], 0
    for part in parts:
        mask = part.ts_known <= until - 1
        found.append(part.numbers[mask])
        size += int(mask.sum()) * part.layout.dtype.itemsize
    return np.sort(np.concatenate(found)), size


def _without(row: SeriesRow, gone: NDArray[Any], live: NDArray[np.int64]) -> SeriesRow:
    """Return a series of which these blocks and live rows are dropped."""
    number = row.next_block
    added = []
    for entry in gone:
        added.append((int(entry["first"]), int(entry["rows"]), int(entry["flags"]) & BULK))
    for run in np.split(live, np.flatnonzero(np.diff(live) != 1) + 1) if len(live) else ():
        added.append((int(run[0]), len(run), 0))
    merged, old = _merged(row.entries)
    table = [
        (first, rows, DROPPED | flags, number + place, MAX_INSTANT, _NEVER, MAX_INSTANT, _NEVER, 0)
        for place, (first, rows, flags) in enumerate([*added, *merged])
    ]
    removed = gone["id"].tolist()
    made = row.with_blocks(np.array(table, ENTRY), [*removed, *old])
    garbage = tuple(each for each in made.garbage if each not in set(old))  # these were no blocks
    next_block = number + len(table)
    return msgspec.structs.replace(made, next_block=next_block, garbage=garbage, format=DROPPING)


def _merged(entries: NDArray[Any]) -> tuple[list[tuple[int, int, int]], list[int]]:
    """Return entries instead of those of dropped rows of which nothing is left, where they follow each other."""
    swept = entries[entries["flags"] & (DROPPED | SWEPT) == DROPPED | SWEPT]
    runs: list[tuple[int, int, int]] = []
    for first, rows in zip(swept["first"].tolist(), swept["rows"].tolist(), strict=True):
        if runs and runs[-1][0] + runs[-1][1] == first and runs[-1][1] + rows <= _MOST_ROWS:
            runs[-1] = (runs[-1][0], runs[-1][1] + rows, SWEPT)
        else:
            runs.append((first, rows, SWEPT))
    return runs, swept["id"].tolist()


def enforce(series: Sequence[Series], bound: Bound, now: int, step: Callable[[], None]) -> DropReport:
    """Drop what is over the bound of a namespace: blocks and live rows that are too old, then the oldest blocks.

    A block goes when all its rows may go.
    """
    report = DropReport()
    if bound.max_age is not None:
        cutoff = now - bound.max_age
        for each in series:
            step()
            report = report.plus(drop(each, now, lambda entries: entries["known_max"] < cutoff, cutoff))
    if bound.max_bytes is None and bound.max_entries is None:
        return report
    rows = size = 0
    blocks: list[tuple[int, int, int, int, int]] = []  # known_max, series, block, rows, bytes
    for place, each in enumerate(series):
        step()
        with each.working():
            row, parts = each.live()
        if row is None:
            continue
        rows += sum(part.count for part in parts)
        size += sum(part.count * part.layout.dtype.itemsize for part in parts)
        for entry in row.entries[row.entries["flags"] & DROPPED == 0]:
            rows, size = rows + int(entry["rows"]), size + int(entry["size"])
            blocks.append((int(entry["known_max"]), place, int(entry["id"]), int(entry["rows"]), int(entry["size"])))
    chosen: dict[int, list[int]] = {}
    for _, place, block, count, each_size in sorted(blocks):
        over_bytes = bound.max_bytes is not None and size > bound.max_bytes
        if not over_bytes and (bound.max_entries is None or rows - count < bound.max_entries):
            break
        chosen.setdefault(place, []).append(block)
        rows, size = rows - count, size - each_size
    for place, ids in chosen.items():
        step()
        gone = np.array(ids, np.uint64)
        report = report.plus(drop(series[place], now, lambda entries: np.isin(entries["id"], gone), None))  # noqa: B023
    return report
