"""From rows to decision steps: what was known of the market at each moment an agent may act.

**Invariants**

1. A step at clock time `ts` is made of rows with ``ts_known <= ts`` and of nothing else.
2. A step brings something new: a stretch without rows has no steps.
"""

from __future__ import annotations

import heapq
import itertools
import re
from collections.abc import Iterable, Iterator, Sequence
from decimal import Decimal
from pathlib import Path
from statistics import median
from typing import NamedTuple

from ..instants import NS
from .market import SAMPLE, MarketFile, Row
from .tape import Tape

SHIPPED = ("btcusdt-perp-quotes.csv.gz", "btcusdt-perp-trades.csv.gz")
TICK_STEP = NS
"""Files whose rows are less than this apart in the median are sampled, by default at this distance."""


class Step(NamedTuple):
    """The market as known at one moment.

    Attributes
    ----------
    number : int
        From 0.
    ts : int
        The moment, ns UTC on the store's clock.
    ts_event, ts_known : int
        Of the last row that went in.
    bid, ask, last : Decimal
        Exactly as published. Where there are only trades or bars, all three are the last price or close.
    bid_size, ask_size : Decimal or None
    volume : Decimal
        Traded since the step before.
    rows : int
        Rows since the step before.
    """

    number: int
    ts: int
    ts_event: int
    ts_known: int
    bid: Decimal
    ask: Decimal
    last: Decimal
    bid_size: Decimal | None
    ask_size: Decimal | None
    volume: Decimal
    rows: int

    @property
    def mid(self) -> float:
        """Halfway between bid and ask."""
        return (float(self.bid) + float(self.ask)) / 2


def shipped() -> list[Path]:
    """Return the paths of the market data that is part of the package."""
    return [Path(__file__).parent / "data" / name for name in SHIPPED]


def symbol_of(path: Path) -> str:
    """Return the symbol that the name of a file begins with."""
    word = re.split(r"[^0-9A-Za-z]+", path.name.removesuffix(".gz").removesuffix(".csv").lstrip("-_. "))[0]
    return word.upper() or "MARKET"


_SYMBOL_BYTES = 200  # a position has its agent beside it


def symbol_label(symbol: str) -> str:
    """Return a symbol as namespaces and positions take it: ``BTC-USDT`` for ``BTC/USDT``; an over-long one is cut."""
    plain = re.sub(r"[/\0\x1f]", "-", symbol).encode(errors="replace")
    return plain[:_SYMBOL_BYTES].decode(errors="ignore")


class Steps:
    """The decision steps of one or several files of the same symbol; iterate once.

    Parameters
    ----------
    files : sequence of MarketFile
        Merged by the time their rows were known.
    step : int, optional
        Nanoseconds from one step to the next; 0: every row is a step. By default one second for ticks, which are
        rows less than a second apart in the median, and every row for everything slower.

    Attributes
    ----------
    tape : Tape
        The rows that were read.
    """

    def __init__(self, files: Sequence[MarketFile], step: int | None = None) -> None:
        self.files = files
        self.tape = Tape(files)
        self._rows: Iterator[Row] = self.tape.keep(heapq.merge(*files, key=lambda row: row.ts_known))
        if step is None:
            sample = list(itertools.islice(self._rows, SAMPLE))
            gaps = [after.ts_known - before.ts_known for before, after in itertools.pairwise(sample)]
            step = TICK_STEP if gaps and median(gaps) < TICK_STEP else 0
            self._rows = itertools.chain(sample, self._rows)
        self.step = step

    def __iter__(self) -> Iterator[Step]:
        kinds = {file.kind for file in self.files}
        return sample_steps(self._rows, self.step, needs_quotes="quotes" in kinds, needs_last=kinds != {"quotes"})


def sample_steps(rows: Iterable[Row], step: int, *, needs_quotes: bool, needs_last: bool) -> Iterator[Step]:
    """Yield the steps of rows that are sorted by `ts_known`, once each of the needed kinds has been seen.

    Memory O(1), time O(rows).
    """
    bid = ask = last = bid_size = ask_size = ""
    volume = Decimal(0)
    count = number = 0
    for moment, group in _by_moment(rows, step):
        newest = group[0]
        for row in group:
            newest = row
            count += 1
            if row.bid:
                bid, ask, bid_size, ask_size = row.bid, row.ask, row.bid_size, row.ask_size
            last = row.last or last
            if row.quantity:
                volume += Decimal(row.quantity)
        if (needs_quotes and not bid) or (needs_last and not last):
            continue
        price = Decimal(last) if last else (Decimal(bid) + Decimal(ask)) / 2
        yield Step(
            number,
            moment,
            newest.ts_event,
            newest.ts_known,
            Decimal(bid) if bid else price,
            Decimal(ask) if ask else price,
            price,
            Decimal(bid_size) if bid_size else None,
            Decimal(ask_size) if ask_size else None,
            volume,
            count,
        )
        number += 1
        count, volume = 0, Decimal(0)


def _by_moment(rows: Iterable[Row], step: int) -> Iterator[tuple[int, list[Row]]]:
    """Yield (moment, rows that became known since the moment before); a grid when `step` is not 0."""
    if step == 0:
        for row in rows:
            yield row.ts_known, [row]
        return
    for slot, group in itertools.groupby(rows, lambda row: -(-row.ts_known // step)):
        yield slot * step, list(group)
