"""Observations of a store, as its users see them: appending, loading, reading as of an instant, distilling.

``docs/design/observations.md`` has the reasons. A series is all that was observed under a namespace and a symbol.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from operator import index
from time import perf_counter_ns
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

import msgspec
import numpy as np

from .._core import meters
from .._core.rows import RowLog, Tail
from ..errors import ReadOnlyError
from ..instants import LATEST, MAX_INSTANT, AsOf, Duration, Instant, duration_ns, instant_ns, require_int
from ..namespace import encode_key, labels_of
from ..twins import twin
from .bounds import Bound
from .distilling import Background, DistillReport, distill
from .dropping import DropReport, drop, enforce
from .engine import LmdbEngine
from .liverows import Budget
from .loading import FEW, drafts_of, load
from .log import LogEngine
from .logreads import encoded
from .selection import Query
from .series import (
    BLOCK_ROWS,
    DROPPED,
    EXACT,
    HAS_EMBEDDING,
    HAS_METADATA,
    MOST_FIELDS,
    MOST_METADATA,
    ROWS,
    SERIES,
    SeriesRow,
    encode_row,
    series_stem,
)
from .seriesstate import Draft, Series
from .tablesin import check_field, rows_of

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

AnyNamespace: TypeAlias = "str | tuple[str, ...]"

_SERIES = 65_536
_ENCODER = msgspec.msgpack.Encoder()


class SeriesInfo(NamedTuple):
    """What there is of a series.

    Attributes
    ----------
    fields : tuple of str
        Names of all fields that any row has.
    rows, live_rows, blocks : int
        All rows; those that stand alone; blocks that the others are in.
    block_bytes, live_bytes, raw_bytes : int
        What blocks and live rows take on disk; what all rows take in arrays, eight bytes a number, times included.
    """

    fields: tuple[str, ...]
    rows: int
    live_rows: int
    blocks: int
    block_bytes: int
    live_bytes: int
    raw_bytes: int


class Observations:
    """What agents have seen, by namespace and symbol. ``memory.observations``; keep it at hand.

    A row has the instant it is about (`ts_event`), the instant from which on it was known (`ts_known`), and fields:
    float64, or int64 where all values are whole numbers. Rows are never merged, whatever their times, which may lie in
    any order; reads return them by `ts_event`, and those of one `ts_event` as they came. Rows that are old, or many,
    stand in compressed blocks, which changes nothing of what is read.

    Notes
    -----
    **Thread safety**: any thread, of any process that has the store open. **Complexity**: appending is O(fields);
    reading O(rows of the blocks that are touched).

    Examples
    --------
    >>> import ntmem
    >>> with ntmem.open() as memory:
    ...     o = memory.observations
    ...     for second in range(3):
    ...         row = o.append("market", "BTCUSDT", second * 10**9, {"bid": 61800.1 + second, "size": 3})
    ...     found = o.range("market", "BTCUSDT", 10**9, 3 * 10**9, fields=["bid"])
    ...     row, found["bid"].tolist()
    (2, [61801.1, 61802.1])
    """

    def __init__(self, engine: LmdbEngine, handle: Callable[[], LmdbEngine], *, distills: bool, max_bytes: int) -> None:
        self._handle = handle
        self._max_bytes = max_bytes
        self._use(engine)
        self._background = Background(self._distill_live) if distills and not engine.read_only else None

    def _use(self, engine: LmdbEngine) -> None:
        rows = None
        if isinstance(engine, LogEngine):
            writes = not engine.read_only and not engine.waits_for_disk
            rows = RowLog(engine.log, encoded(ROWS), engine.writer, writes=writes, max_lag=engine.max_lag)
        self._rows, self._source = rows, (engine, rows)
        self._forget()

    def _forget(self) -> None:
        self._budget = Budget(self._max_bytes)
        self._series: dict[tuple[tuple[str, ...], bytes], Series] = {}
        self._tails: dict[Any, tuple[Tail, Series]] = {}  # by namespace and symbol as users write them

    @property
    def engine(self) -> LmdbEngine:
        """Through which the store is read and written."""
        return self._source[0]

    def close(self) -> None:
        """Let a step of distillation that is being done end, and take no more rows without looking at the handle."""
        self._tails = {}
        if self._background is not None:
            self._background.close()

    @property
    def nbytes(self) -> int:
        """Bytes of live rows that are kept in arrays."""
        return self._budget.nbytes

    def __reduce__(self) -> tuple[Any, ...]:
        raise TypeError("observations cannot be pickled; pass the store, whose they are")

    def __repr__(self) -> str:
        return f"<Observations of {self.engine.store.directory or 'a private store'}>"

    # -- writing

    def append(
        self,
        namespace: AnyNamespace,
        symbol: str,
        ts_event: Instant,
        fields: Mapping[str, float | int],
        *,
        embedding: ArrayLike | None = None,
        metadata: Any = None,
        ts_known: Instant | None = None,
    ) -> int:
        """Add a row and return its number in the series, from 0 on.

        Parameters
        ----------
        ts_event : instant
            What the row is about.
        fields : mapping of str to float or int
            At least one. A field that was of whole numbers and gets a float is float64 from then on.
        embedding : array of float32, optional
            Kept beside the row; read it by ``fields=["embedding"]``.
        metadata : optional
            What MessagePack can hold, in 32 KiB at most; read it by ``fields=["metadata"]``.
        ts_known : instant, optional
            From when on it was known; by default now. May lie before `ts_event` (clocks differ), and ahead.

        Raises
        ------
        TypeError, ValueError
            A field is no number, or a name is one of ts_event, ts_known, row, metadata, embedding.
        ReadOnlyError, StoreClosed, MapFull, DiskFull, StorageError
            The store cannot take it; nothing was kept, unless it says so.

        Notes
        -----
        **Complexity**: O(fields): a microsecond or two for plain rows of the fields of the row before; some ten times
        that with metadata or an embedding.
        """
        if embedding is None and metadata is None and type(fields) is dict and self._rows is not None:
            known = self._tails.get((namespace, symbol))
            if known is not None:
                number = self._rows.append(known[0], ts_event, ts_known, fields)
                if number >= 0:
                    if number % BLOCK_ROWS == BLOCK_ROWS - 1:
                        self._distill_soon(known[1])
                    return number
        return self._append(namespace, symbol, ts_event, fields, embedding, metadata, ts_known)

    def _append(
        self,
        namespace: AnyNamespace,
        symbol: str,
        ts_event: Instant,
        fields: Mapping[str, float | int],
        embedding: ArrayLike | None,
        metadata: Any,
        ts_known: Instant | None,
    ) -> int:
        begun = perf_counter_ns()
        engine = self._writable()
        event = instant_ns(ts_event, "ts_event")
        known = engine.now() if ts_known is None else instant_ns(ts_known, "ts_known")
        names, values = _checked(fields)
        given = dict(zip(names, values, strict=True))
        vector = None if embedding is None else _vector(embedding)
        extra = b"" if metadata is None else _metadata(metadata)
        flags = HAS_METADATA * bool(extra) | HAS_EMBEDDING * (vector is not None)
        series = self._of(namespace, symbol)

        def draft(row: SeriesRow) -> list[Draft]:
            row, number = series.layout(*_fitting(row, names, values, known), known)
            layout = row.layouts[number]
            ordered = [given[name] for name in layout.names]
            return [Draft(encode_row(number, flags, event, known, layout.kinds, ordered, extra), vector)]

        number = series.write(draft)
        if series.tail is not None:
            if len(self._tails) >= _SERIES:
                self._tails = {}
            self._tails[namespace, symbol] = series.tail, series
        engine.store.meters.since(meters.APPEND, begun)
        if number % BLOCK_ROWS == BLOCK_ROWS - 1:
            self._distill_soon(series)
        return number

    def extend(self, namespace: AnyNamespace, symbol: str, columns: Any, *, known_after: Duration | None = None) -> int:
        """Add rows in bulk, all or none, and return how many.

        Parameters
        ----------
        columns : mapping of str to array, DataFrame or Arrow table
            A column ``ts_event`` (int64 nanoseconds UTC or datetime64, without a zone in UTC), fields (floats, whole
            numbers or bool; kept as float64 and int64), and either a column ``ts_known`` or `known_after`.
        known_after : float or timedelta, optional
            Seconds from `ts_event` to `ts_known`: bars stamped at their open are known when they close.

        Raises
        ------
        TypeError, ValueError
            It is no table, columns differ in length or are no numbers, or nothing says when the rows were known.

        Notes
        -----
        **Complexity**: O(numbers): from 1,024 rows on they are compressed, on two threads without the GIL. Other
        writers may write meanwhile, and readers see all the rows or none.
        """
        begun = perf_counter_ns()
        engine = self._writable()
        after = None if known_after is None else 0 if known_after == 0 else duration_ns(known_after, "known_after")
        rows, names, kinds = rows_of(columns, after)
        series = self._of(namespace, symbol)
        count = len(rows.ts_event)
        if count == 0:
            return 0
        if count >= FEW:
            load(series, rows, names, kinds)
        else:
            known = int(rows.ts_known.min())

            def drafts(row: SeriesRow) -> list[Draft]:
                row, number = series.layout(names, kinds, known)
                return drafts_of(rows, row.layouts[number], number)

            series.write(drafts)
        engine.store.meters.since(meters.EXTEND, begun)
        self._distill_soon(series)
        return count

    aextend = twin(extend)

    def write(
        self,
        namespace: AnyNamespace,
        symbol: str,
        events: Sequence[int],
        knowns: Sequence[int],
        columns: Mapping[str, Sequence[float | int]],
        *,
        metadata: Sequence[bytes] | None = None,
        embeddings: Sequence[Sequence[float] | None] | None = None,
    ) -> None:
        """Add rows that another store had, all or none; metadata are MessagePack. For ``memory.import_``."""
        rows, names, kinds = rows_of({"ts_event": events, "ts_known": knowns, **columns}, None)
        self._writable()
        series = self._of(namespace, symbol)
        known = int(rows.ts_known.min())
        vectors = [None if it is None else _vector(it) for it in embeddings or [None] * len(events)]
        extras = metadata or [b""] * len(events)

        def drafts(row: SeriesRow) -> list[Draft]:
            row, number = series.layout(names, kinds, known)
            layout = row.layouts[number]
            ordered = zip(*(columns[name] for name in layout.names), strict=True)
            return [
                Draft(
                    encode_row(
                        number,
                        HAS_METADATA * bool(extra) | HAS_EMBEDDING * (vector is not None),
                        *(event, at, layout.kinds, values, extra),
                    ),
                    vector,
                )
                for event, at, values, extra, vector in zip(events, knowns, ordered, extras, vectors, strict=True)
            ]

        series.write(drafts)
        self._distill_soon(series)

    # -- reading

    def recent(
        self,
        namespace: AnyNamespace,
        symbol: str,
        n: int,
        *,
        fields: Sequence[str] | None = None,
        as_of: AsOf = None,
    ) -> NDArray[Any]:
        """Return the last `n` rows by `ts_event`, oldest first.

        Parameters
        ----------
        fields : sequence of str, optional
            Which fields; all if not said. ``row`` (its number), ``metadata`` and ``embedding`` come only if named.
        as_of : instant, optional
            Only rows known by then; None: by now, :data:`ntmem.LATEST`: any.

        Returns
        -------
        numpy structured array
            ``ts_event``, ``ts_known`` (int64 nanoseconds UTC) and the fields; float64 with NaN for a field that some
            row lacks. Of a series that does not exist: empty.

        Raises
        ------
        KeyError
            There is no such field.
        ValueError
            A field is of whole numbers beyond 2**53 in some rows and of floats, or missing, in others.
        """
        require_int(n, "n", 1)
        begun = perf_counter_ns()
        found = self._query(namespace, symbol, fields, as_of).recent(n)
        self.engine.store.meters.since(meters.RECENT, begun)
        return found

    arecent = twin(recent)

    def range(
        self,
        namespace: AnyNamespace,
        symbol: str,
        start: Instant,
        end: Instant,
        *,
        fields: Sequence[str] | None = None,
        as_of: AsOf = None,
    ) -> NDArray[Any]:
        """Return the rows with start <= `ts_event` < end, by `ts_event`. All else as of :meth:`recent`."""
        begun = perf_counter_ns()
        first, behind = instant_ns(start, "start"), instant_ns(end, "end")
        if behind < first:
            raise ValueError(f"end must not lie before start, was {behind} and {first}")
        found = self._query(namespace, symbol, fields, as_of).range(first, behind)
        self.engine.store.meters.since(meters.RANGE, begun)
        return found

    arange = twin(range)

    def _query(self, namespace: AnyNamespace, symbol: str, fields: Sequence[str] | None, as_of: AsOf) -> Query:
        engine = self._open()
        if isinstance(fields, str):
            raise TypeError(f"fields must be a sequence of names, was the string {fields!r}; pass [{fields!r}]")
        series = self._of(namespace, symbol)
        limit = MAX_INSTANT if as_of is LATEST else None if as_of is None else instant_ns(as_of, "as_of")
        return Query(series, engine.now() if limit is None else limit, None if fields is None else tuple(fields))

    def symbols(self, namespace: AnyNamespace) -> list[str]:
        """Return the symbols of which there are series in a namespace, sorted; one may be without rows."""
        stem = series_stem(labels_of(namespace))
        return [key[len(stem) :].decode() for key, _ in self._open().entries_of(SERIES, stem)]

    def info(self, namespace: AnyNamespace, symbol: str) -> SeriesInfo | None:
        """Return what there is of a series, and what it takes; None: there is none."""
        self._open()
        series = self._of(namespace, symbol)
        with series.working():
            row, parts = series.live()
            if row is None:
                return None
            live = sum(part.count for part in parts)
            size = sum(part.count * part.layout.dtype.itemsize for part in parts)
            numbers = sum(part.count * (2 + len(part.layout.names)) for part in parts)
        names = tuple(dict.fromkeys(name for layout in row.layouts for name in layout.names))
        entries = row.entries[row.entries["flags"] & DROPPED == 0]
        blocked = int(entries["rows"].sum())
        return SeriesInfo(
            names,
            blocked + live,
            live,
            len(entries),
            int(entries["size"].sum()),
            size,
            8 * (numbers + blocked * (2 + len(names))),
        )

    # -- distilling

    def distill(
        self, older_than: Duration = 0, *, namespace: AnyNamespace | None = None, symbol: str | None = None
    ) -> DistillReport:
        """Compress rows now, all or those of a namespace or a series, and return what that gained.

        It goes on by itself in the background whenever a block's worth of rows has come (unless the store was opened
        with ``enable_compression=False``); this does it for what is left, and for what came in bulk.

        Parameters
        ----------
        older_than : float or timedelta
            Leave rows that became known within so many seconds; 0: none. (Those known only in future are not left.)
        """
        engine = self._writable()
        now = engine.now()
        horizon = now - (0 if older_than == 0 else duration_ns(older_than, "older_than"))
        report = DistillReport()
        for series in self._chosen(engine, namespace, symbol):
            report = report.plus(distill(series, horizon, now))
        return report

    adistill = twin(distill)

    # -- dropping

    def drop(self, namespace: AnyNamespace, symbol: str | None = None) -> DropReport:
        """Drop all rows that a series has now, or all series of a namespace; return what that was.

        The series stays, without rows; the numbers of the rows are not given again. Rows that others add meanwhile
        stay. Bounds of a namespace (:meth:`ntmem.MemorySystem.retain`) drop the oldest by themselves.
        """
        engine = self._writable()
        now, report = engine.now(), DropReport()
        for series in self._chosen(engine, namespace, symbol):
            report = report.plus(drop(series, now, lambda entries: entries["rows"] > 0, MAX_INSTANT + 1))
        return report

    def bound(self, labels: tuple[str, ...], bound: Bound, step: Callable[[], None]) -> DropReport:
        """Drop what is over the bound of a namespace. Called by upkeep."""
        engine = self._writable()
        return enforce(self._chosen(engine, labels, None), bound, engine.now(), step)

    def distill_whole(self, step: Callable[[], None]) -> int:
        """Compress rows where they make a whole block; return how many. Called by upkeep."""
        engine, rows = self._writable(), 0
        for series in self._chosen(engine, None, None):

            def stopped() -> bool:
                step()  # raises if it is to stop
                return False

            now = engine.now()
            rows += distill(series, now, now, least=BLOCK_ROWS, stopped=stopped).rows
        return rows

    def _chosen(self, engine: LmdbEngine, namespace: AnyNamespace | None, symbol: str | None) -> list[Series]:
        if symbol is not None:
            if namespace is None:
                raise ValueError("a symbol is one of a namespace; pass both")
            return [self._of(namespace, symbol)]
        stem = b"" if namespace is None else series_stem(labels_of(namespace))
        found = [key.partition(b"\0") for key, _ in engine.entries_of(SERIES, stem)]
        return [self._of(tuple(labels.decode().split("/")), name.decode()) for labels, _, name in found if labels]

    def _distill_soon(self, series: Series) -> None:
        if self._background is not None:
            self._background.wake(series)

    def _distill_live(self, series: Series, stopped: Callable[[], bool]) -> None:
        engine = self._writable()
        now = engine.now()
        distill(series, now, now, least=BLOCK_ROWS, stopped=stopped)

    # -- which series

    def _open(self) -> LmdbEngine:
        engine = self._handle()
        if engine is not self.engine:  # this one only reads, and somebody writes now
            self._use(engine)
        if isinstance(engine, LogEngine):
            engine.check_open()
        return engine

    def _writable(self) -> LmdbEngine:
        engine = self._open()
        if engine.read_only:
            raise ReadOnlyError("this store was opened with read_only=True; open it for writing")
        return engine

    def _of(self, namespace: AnyNamespace, symbol: str) -> Series:
        labels, name = labels_of(namespace), encode_key(symbol)
        known = self._series  # before the source is looked at: what is made of it goes nowhere else
        series = known.get((labels, name))
        if series is None:
            if len(known) >= _SERIES:
                self._forget()
                known = self._series
            series = known.setdefault((labels, name), Series(*self._source, labels, name, self._budget))
        if series.is_interrupted:
            return Series(*self._source, labels, name, Budget(self._max_bytes))
        return series


def _checked(fields: Mapping[str, float | int]) -> tuple[tuple[str, ...], list[float | int]]:
    """Return names and values of a row's fields, as float or int."""
    if not isinstance(fields, Mapping):
        raise TypeError(f"fields must be a mapping of names to numbers, was {type(fields).__name__}")
    if not 0 < len(fields) <= MOST_FIELDS:
        raise ValueError(f"a row has 1 to {MOST_FIELDS} fields, had {len(fields)}")
    return tuple(map(check_field, fields)), [_number(name, value) for name, value in fields.items()]


def _number(name: str, value: Any) -> float | int:
    if isinstance(value, float | np.floating):
        return float(value)
    try:
        whole = index(value)
    except TypeError:
        raise TypeError(f"field {name!r} must be a float or an int, was {type(value).__name__}") from None
    if not -(2**63) <= whole < 2**63:
        raise ValueError(f"field {name!r} must be an int64 or a float, was an int of {whole.bit_length()} bits")
    return whole


def _fitting(
    row: SeriesRow, names: tuple[str, ...], values: Sequence[float | int], known: int
) -> tuple[tuple[str, ...], str]:
    """Return names and kinds of the newest layout that holds the values, or else of a new one.

    A layout of rows that are known only later is none: who reads as of before them must not be shown a sign of it.
    """
    given = dict(zip(names, values, strict=True))
    for layout in reversed(row.layouts):
        if layout.earliest <= known and given.keys() == set(layout.names):
            kinds = zip(layout.names, layout.kinds, strict=True)
            if all(
                isinstance(given[name], int)
                if kind == "i"
                else isinstance(given[name], float) or -EXACT <= given[name] <= EXACT
                for name, kind in kinds
            ):
                return layout.names, layout.kinds
    return names, "".join("f" if isinstance(value, float) else "i" for value in values)


def _vector(embedding: ArrayLike) -> bytes:
    array = np.asarray(embedding)
    if array.ndim != 1 or not len(array) or array.dtype.kind not in "fiu":
        raise ValueError(f"an embedding is an array of numbers of one dimension, was {array.dtype} of {array.shape}")
    with np.errstate(over="ignore"):
        single = array.astype("<f4")
    if not all(map(math.isfinite, (float(single.min()), float(single.max())))):
        raise ValueError("an embedding holds finite numbers that float32 can hold")
    return single.tobytes()


def _metadata(metadata: Any) -> bytes:
    try:
        data = _ENCODER.encode(metadata)
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        raise TypeError(f"metadata must be what MessagePack can hold: {error}") from None
    if len(data) > MOST_METADATA:
        raise ValueError(
            f"metadata of a row has {MOST_METADATA} bytes at most, had {len(data)}; put what is large under a key of "
            "its own, and the key here"
        )
    return data
