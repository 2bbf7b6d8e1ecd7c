"""Reading market data: a CSV file, plain or gzipped, into rows of quotes, trades or bars.

**Invariants**

1. Rows come out in the order in which they were known: :attr:`Row.ts_known` never falls. A row that claims to have
   been known before an earlier row of its file (it is *late*) is handed out at that row's time, never earlier.
2. A physical line is a row: a stray quote cannot swallow the lines behind it, and every line number is right.
3. What is not a row is counted under its reason and skipped, or refused in strict mode; nothing is repaired.
4. One damaged time does not make all rows behind it late: a row that was known more than :data:`JUMP` after every
   row before it, and more than :data:`JUMP` after the next one too, is bad.
"""

from __future__ import annotations

import csv
import gzip
import io
import itertools
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, NamedTuple
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from ..instants import NS
from .columns import MarketError, recognise
from .times import NUMBER, UNITS, BadValue, NaiveTime, TimeReader, detect_unit, seconds_ns

__all__ = ["BadRow", "MarketError", "MarketFile", "Row"]

SAMPLE = 1_000
"""Lines looked at to tell the unit of times and the number of fields."""
NAMED = 20
"""Bad rows that are named; the rest is only counted."""
JUMP_DAYS = 30
JUMP = JUMP_DAYS * 86_400 * NS
"""How far a time may be ahead of the rows before and behind it."""
_GZIP, _ZIP, _XZ, _ZSTD = b"\x1f\x8b", b"PK\x03\x04", b"\xfd7zXZ", b"\x28\xb5\x2f\xfd"
_MAX_LINE = 1 << 20
_BELOW, _ABOVE = 1 - 1e-6, 1 + 1e-6  # prices adjusted for dividends are rounded one by one


class Row(NamedTuple):
    """One row of market data; prices and sizes as the file has them, empty where it has none."""

    ts_known: int
    ts_event: int
    bid: str
    ask: str
    last: str
    bid_size: str
    ask_size: str
    quantity: str
    open: str = ""
    high: str = ""
    low: str = ""


class BadRow(NamedTuple):
    """A line that was skipped."""

    file: str
    line: int
    reason: str
    text: str


class MarketFile:
    """One file of market data; iterate to get its rows, once. The counts are complete when that has ended.

    Parameters
    ----------
    path : Path
        CSV, plain or gzipped; told by its content, not by its name.
    columns : str, optional
        See :func:`ntmem.replay.columns.recognise`.
    unit : {"ns", "us", "ms", "s"}, optional
        Of numeric times; by default told by their magnitude.
    known_after : float, optional
        Seconds after `ts_event` at which a row was known; needed where the file does not say when that was.
    zone : str, optional
        Zone of text times that name none, e.g. ``"UTC"`` or ``"America/New_York"``.
    symbol : str, optional
        Rows of other symbols are left out (and counted); needs a column that says which symbol a row is of.
    strict : bool
        Refuse a bad row instead of skipping it.

    Raises
    ------
    MarketError
        The file cannot be replayed.
    """

    def __init__(
        self,
        path: Path,
        *,
        columns: str | None = None,
        unit: str | None = None,
        known_after: float | str | None = None,
        zone: str | None = None,
        symbol: str | None = None,
        strict: bool = False,
    ) -> None:
        if unit is not None and unit not in UNITS:
            raise MarketError(f"--unit must be one of {', '.join(UNITS)}, was {unit!r}")
        self.path = path
        self.name = path.name
        self.strict = strict
        self.symbol = symbol
        self._chosen = symbol is not None
        self.rows = self.late = self.late_by = self.other_symbols = 0
        self._newest = self._naive = 0
        self.bad: Counter[str] = Counter()
        self.bad_rows: list[BadRow] = []
        self._lines = self._numbered(_open(path))
        sample = list(itertools.islice(self._lines, SAMPLE + 1))
        if not sample:
            raise MarketError(f"{self.name} is empty")
        self._delimiter = max(",;\t", key=sample[0][1].count)
        self.layout = recognise(self._split(sample[0][1]), columns, self.name)
        if symbol is not None and "symbol" not in self.layout.positions:
            raise MarketError(
                f"{self.name} has no symbol column, so rows of {symbol} cannot be told from others: leave --symbol out"
            )
        self._pending = sample[1:] if self.layout.has_header else sample
        fields = [self._split(text) for _, text in self._pending]
        widths = Counter(map(len, fields))
        self._width = self.layout.width or max(widths, key=widths.__getitem__, default=0)
        self._delay = self._known_delay(known_after)
        self._zone = _zone_named(zone)
        self._readers = {
            name: TimeReader(
                unit or detect_unit(row[at].strip() for row in fields if len(row) > at),
                self._zone,
                compact_dates=unit is None,
            )
            for name, at in self.layout.positions.items()
            if name in ("ts_event", "ts_known")
        }

    @property
    def kind(self) -> str:
        """Either "quotes", "trades" or "bars"."""
        return self.layout.kind

    def _known_delay(self, known_after: float | str | None) -> int | None:
        if "ts_known" in self.layout.positions:
            if known_after is not None:
                known = self.layout.names[self.layout.positions["ts_known"]]
                raise MarketError(f"{self.name} says itself when rows were known ({known}); leave --known-after out")
            return None
        if known_after is None:
            close = next((name for name in self.layout.names if "close" in name.lower() and "time" in name.lower()), "")
            raise MarketError(
                f"{self.name} does not say when a row was known, only when it happened; say how many seconds later, "
                "e.g. --known-after 60 for one-minute bars stamped at their open, --known-after 0 if at once"
                + (f", or --columns ts_known={close}" if close else "")
            )
        return seconds_ns(known_after, "--known-after")

    # -- lines

    def _numbered(self, stream: IO[bytes]) -> Iterator[tuple[int, str]]:
        """Yield (number, text) of the lines that are not blank."""
        number = 0
        try:
            with stream, io.TextIOWrapper(stream, "utf-8-sig", "replace", newline=None) as text:
                while line := text.readline(_MAX_LINE):
                    number += 1
                    if len(line) == _MAX_LINE:
                        raise MarketError(f"{self.name}: line {number} is longer than {_MAX_LINE} characters: no CSV?")
                    if not line.isspace():
                        yield number, line.rstrip("\n")
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            raise MarketError(f"{self.name} is damaged behind line {number}: {error}; fetch it again") from error
        except OSError as error:
            raise MarketError(f"{self.name} cannot be read: {error.strerror or error}") from error

    def _split(self, text: str) -> list[str]:
        if '"' not in text:
            return text.split(self._delimiter)
        try:
            return next(csv.reader([text], delimiter=self._delimiter, strict=True))
        except csv.Error:
            return [text]

    # -- rows

    def __iter__(self) -> Iterator[Row]:
        held: tuple[int, str, Row] | None = None  # it jumps ahead: the next row tells whether to believe it
        for line, text, row in self._parsed():
            if held is not None:
                if held[2].ts_known - row.ts_known > JUMP:
                    self._refuse(held[0], f"time jumps ahead by more than {JUMP_DAYS} days", held[1])
                else:
                    yield self._in_order(held[2])
                held = None
            if self.rows and row.ts_known - self._newest > JUMP:
                held = (line, text, row)
            else:
                yield self._in_order(row)
        if held is not None:
            yield self._in_order(held[2])
        self._check_whole()

    def _parsed(self) -> Iterator[tuple[int, str, Row]]:
        parse = getattr(self, f"_{self.kind}")
        for line, text in itertools.chain(self._pending, self._lines):
            try:
                row = self._row(self._split(text), parse)
            except BadValue as error:
                self._naive += isinstance(error, NaiveTime)
                self._refuse(line, str(error), text)
                continue
            if row is not None:
                yield line, text, row

    def _in_order(self, row: Row) -> Row:
        """Count a row and return it as it is shown: no earlier than those before it."""
        self.rows += 1
        if row.ts_known < self._newest:
            self.late += 1
            self.late_by = max(self.late_by, self._newest - row.ts_known)
            return row._replace(ts_known=self._newest)
        self._newest = row.ts_known
        return row

    def _row(self, fields: list[str], parse: Callable[[dict[str, str]], tuple[str, ...]]) -> Row | None:
        if len(fields) != self._width:
            raise BadValue("wrong number of fields")
        values = {name: fields[at].strip() for name, at in self.layout.positions.items()}
        symbol = values.get("symbol")
        if symbol is not None and self._is_other(symbol):
            self.other_symbols += 1
            return None
        times = {name: read(values[name]) for name, read in self._readers.items()}
        event = times.get("ts_event", times.get("ts_known", 0))
        known = times["ts_known"] if self._delay is None else event + self._delay
        return Row(known, event, *parse(values))

    def _is_other(self, symbol: str) -> bool:
        if self.symbol is None:
            self.symbol = symbol
        elif symbol.casefold() != self.symbol.casefold():
            if self._chosen:
                return True
            raise MarketError(f"{self.name} holds several symbols ({self.symbol}, {symbol}); choose one with --symbol")
        return False

    @staticmethod
    def _quotes(values: dict[str, str]) -> tuple[str, ...]:
        bid, ask = values["bid"], values["ask"]
        if positive(bid) > positive(ask):
            raise BadValue("bid above ask")
        sizes = (values.get("bid_size", ""), values.get("ask_size", ""))
        for size in sizes:
            check_size(size)
        last = values.get("price", "")
        if last:
            positive(last)
        return bid, ask, last, *sizes, ""

    @staticmethod
    def _trades(values: dict[str, str]) -> tuple[str, ...]:
        positive(values["price"])
        quantity = values.get("quantity", "")
        check_size(quantity)
        return "", "", values["price"], "", "", quantity

    @staticmethod
    def _bars(values: dict[str, str]) -> tuple[str, ...]:
        opened, high, low, close = (positive(values[name]) for name in ("open", "high", "low", "close"))
        if not low * _BELOW <= min(opened, close) <= max(opened, close) <= high * _ABOVE:
            raise BadValue("open or close outside of low to high")
        volume = values.get("quantity", "")
        check_size(volume)
        return "", "", values["close"], "", "", volume, values["open"], values["high"], values["low"]

    def _refuse(self, line: int, reason: str, text: str) -> None:
        if self.strict:
            raise MarketError(f"{self.name}, line {line}: {reason}: {text[:80]!r} (refused with --strict)")
        self.bad[reason] += 1
        if len(self.bad_rows) < NAMED:
            self.bad_rows.append(BadRow(self.name, line, reason, text[:80]))

    def _check_whole(self) -> None:
        if self.rows == 0:
            if self.other_symbols:
                raise MarketError(f"{self.name} has no row of symbol {self.symbol}")
            if self._naive:
                raise MarketError(
                    f"{self.name}, line {self.bad_rows[0].line}: the times name no zone ({self.bad_rows[0].text!r}); "
                    "say which one is meant, e.g. --zone UTC or --zone America/New_York"
                )
            found = "; ".join(f"line {bad.line}: {bad.reason}: {bad.text!r}" for bad in self.bad_rows[:3])
            raise MarketError(f"{self.name} has no usable row" + (f" ({found})" if found else ", only column names"))
        if self.late * 2 > self.rows:
            raise MarketError(
                f"{self.name} runs backwards: {self.late} of {self.rows} rows were known before an earlier row; "
                "sort the file by the time its rows were known"
            )


def positive(text: str) -> float:
    """Return a price; raise :class:`BadValue` unless it is a plain positive number."""
    if len(text) > 40 or NUMBER.fullmatch(text) is None:
        raise BadValue("price is not a finite number")
    value = float(text)
    if value <= 0:
        raise BadValue("price is not positive")
    if not 1e-18 <= value < 1e18:
        raise BadValue("number out of range")
    return value


def check_size(text: str) -> None:
    """Raise :class:`BadValue` unless a size is empty, zero or a plain positive number."""
    if not text:
        return
    if len(text) > 40 or NUMBER.fullmatch(text) is None:
        raise BadValue("size is not a finite number")
    value = float(text)
    if value < 0:
        raise BadValue("size is negative")
    if value >= 1e18 or 0 < value < 1e-18:
        raise BadValue("number out of range")


def _open(path: Path) -> IO[bytes]:
    try:
        stream = path.open("rb")
        head = stream.read(5)
        stream.seek(0)
    except OSError as error:
        raise MarketError(f"{path} cannot be read: {error.strerror or error}") from error
    for magic, what in ((_ZIP, "a zip archive"), (_XZ, "compressed with xz"), (_ZSTD, "compressed with zstd")):
        if head.startswith(magic):
            stream.close()
            raise MarketError(f"{path.name} is {what}; unpack it first (gzip is read as it is)")
    if not head.startswith(_GZIP):
        return stream
    stream.close()
    return gzip.open(path)  # type: ignore[return-value]  # typeshed: GzipFile is no IO[bytes]


def _zone_named(zone: str | None) -> ZoneInfo | None:
    try:
        return None if zone is None else ZoneInfo(zone)
    except (ZoneInfoNotFoundError, ValueError, OSError) as error:
        raise MarketError(f"--zone must be a time zone such as UTC or Europe/Berlin, was {zone!r}") from error
