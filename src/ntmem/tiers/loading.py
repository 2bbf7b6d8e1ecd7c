"""History in bulk: a table becomes blocks at once, coded quickly; distillation codes them well later.

The blocks are written as pending, in groups that leave others room to write in between. One last group adds all of them
to the series, so a table is seen whole or not at all.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import StorageError
from ..records import Change
from .series import (
    BLOCK_ROWS,
    BLOCKS,
    BULK,
    ROWS,
    Layout,
    Rows,
    SeriesRow,
    block_entry,
    encode_block,
    encode_jump,
    row_key,
)
from .seriesstate import Changed, Draft, Series, without_pending

if TYPE_CHECKING:
    from numpy.typing import NDArray

FEW = 1024
"""Fewer rows are not worth a block: they are written as live ones."""

_GROUP_BYTES = 1 << 20
_ATTEMPTS = 100
_LOST = 10_000


@lru_cache(1)
def _coders() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(2, thread_name_prefix="ntmem-code")


os.register_at_fork(after_in_child=_coders.cache_clear)  # a child has none of its parent's threads


def drafts_of(rows: Rows, layout: Layout, number: int) -> list[Draft]:
    """Return rows as they stand alone."""
    dtype = layout.dtype
    table = np.zeros(len(rows.ts_event), dtype)
    table["layout"], table["ts_event"], table["ts_known"] = number, rows.ts_event, rows.ts_known
    for place, (name, kind) in enumerate(zip(layout.names, layout.kinds, strict=True)):
        table[str(place)] = rows.columns[kind + name].values
    data, size = table.tobytes(), dtype.itemsize
    return [Draft(data[begin : begin + size]) for begin in range(0, len(data), size)]


def load(series: Series, rows: Rows, names: tuple[str, ...], kinds: str) -> None:
    """Add rows to a series in blocks: all of them or none."""
    known = int(rows.ts_known.min())
    series.ensure().with_layout(names, kinds, known)  # before anything is written: there may be too many
    count = -(-len(rows.ts_event) // BLOCK_ROWS)
    for _ in range(_ATTEMPTS):
        base = series.reserve_blocks(count, series.engine.now())
        try:
            entries = _written(series, rows, count, base)
            done = _added(series, entries, base, names, kinds, known)
        except BaseException:
            series.abandon_blocks(base, count)
            raise
        if done:
            return
        series.abandon_blocks(base, count)  # this process was taken for dead, and begins again
    raise StorageError(f"rows could not be added to {series.key!r}: their blocks were taken away {_ATTEMPTS} times")


def _written(series: Series, rows: Rows, count: int, base: int) -> NDArray[Any]:
    """Write the blocks; return what the series is to know of them, as if the first row had number 0."""
    row, entries = series.ensure(), []
    waiting: list[Change] = []
    for number, (data, entry) in enumerate(_coded(rows, count), base):
        entry["id"] = number
        entries.append(entry)
        waiting.append(Change("put", BLOCKS, row_key(row.id, number), data, own=True))
        if sum(len(change.value) for change in waiting) >= _GROUP_BYTES:
            series.engine.commit(waiting)
            waiting = []
    if waiting:
        series.engine.commit(waiting)
    return np.concatenate(entries)


def _coded(rows: Rows, count: int) -> Iterator[tuple[bytes, NDArray[Any]]]:
    """Yield blocks and what the series is to know of them; coded on two threads if there are several."""
    total = len(rows.ts_event)
    cuts = [total * place // count for place in range(count + 1)]

    def code(first: int, end: int) -> tuple[bytes, NDArray[Any]]:
        part = rows.part(first, end)
        data = encode_block(part, "fast")
        return data, block_entry(part, first, 0, len(data), BULK)

    if count > 1:
        with suppress(RuntimeError):  # the interpreter is going away and starts no more threads
            return _coders().map(code, cuts[:-1], cuts[1:])
    return map(code, cuts[:-1], cuts[1:])


def _added(series: Series, entries: NDArray[Any], base: int, names: tuple[str, ...], kinds: str, known: int) -> bool:
    """Add blocks that were written to the series; False: they were given up for lost meanwhile."""
    total = int(entries["rows"].sum())
    first = 0

    def add(row: SeriesRow) -> SeriesRow | None:
        nonlocal first
        ours = without_pending(row, base)
        if ours is None:
            return None
        first, _ = series.end()
        placed = entries.copy()
        placed["first"] += np.uint64(first)
        return ours.with_layout(names, kinds, known)[0].with_blocks(placed)

    def jump(row: SeriesRow) -> list[Change]:
        return [Change("put", ROWS, row_key(row.id, first), encode_jump(total), if_version=0, own=True)]

    for _ in range(_LOST):
        try:
            return series.update(add, jump, durable=True)
        except Changed:  # somebody has just written a row where the first was to be
            continue
    raise StorageError(f"others wrote to {series.key!r} {_LOST} times while rows were to be added to it; try again")
