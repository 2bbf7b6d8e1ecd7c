"""The position book of a store, as its users see it: instruments, fills, cash, marks, reservations, reports.

What is held stands in shared memory and is read there without a lock (``_core/positions``); every fill, with the
position that follows from it, is one group of the log. ``docs/design/positions.md`` has the formulas.

**Invariants**

- An id is booked once for each key: again, it changes nothing and says so; with other content it raises.
- A fill that is refused has changed nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from decimal import Decimal
from html import escape
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

from .._core.fill import Fill, entry_key, entry_of
from .._core.log import Log
from .._core.position import Position, check_names
from .._core.positions import Book, BookFull, Conflicting, PositionRef, TooOld, create
from .._core.positions import sections as native_sections
from .._core.region import Region
from .._core.text import exact, html_of_positions
from ..errors import (
    FillConflict,
    FillTooOld,
    NtmemError,
    PositionError,
    ReadOnlyError,
    VersionConflict,
)
from ..instants import MAX_INSTANT, Duration, Instant, duration_ns, instant_ns
from ..records import Change, FenceLike, fence_of
from ..twins import twin
from ..values import CODECS
from .guards import ENTRIES, INSTRUMENTS, POSITIONS
from .instruments import Instrument, Number, booked_with, decimal_of, definition_of, precision_of, total
from .log import LogEngine
from .positionview import PositionView
from .reader import QuietEngine
from .reconciling import ReconcileReport, by_symbol, check_linear, compared, of_ccxt
from .region import POSITION_SLOTS
from .reservations import Reservation, reserve, reserved, use_up
from .shared import positions_on_disk
from .tables import Tables

if TYPE_CHECKING:
    import numpy as np

T = TypeVar("T")
Key = tuple[str, str, str, str]

_CODEC = CODECS["msgpack"]
_CASH = "\x1e"  # what ids of cash begin with in a key


def still_log(engine: QuietEngine) -> Log:
    """Return a log of this process alone, beside which stands the book as it is on disk: nobody writes to the store."""
    sections = [*Log.sections(1 << 12, 1), *native_sections(POSITION_SLOTS)]
    log = Log.create(Region.create(None, identity=b"a book", generation=0, sections=sections))
    create(log, engine.store.read(lambda txn: positions_on_disk(Tables(engine.store, txn))))
    return log


class Positions(Book):
    """The position book of a store. ``memory.positions``.

    A position is kept under (symbol, account, strategy, position_id); a position id gives hedged mode. Quantities,
    prices and money are whole numbers of the instrument's smallest units: Decimal, str and int are taken exactly or
    refused, floats are rounded to the instrument's digits. Money: average cost, and what is closed of a position takes
    its share of the cost with it, rounded half to even in units of 10^-(price + quantity digits).

    Notes
    -----
    **Thread safety**: any thread, of any process that has the store open. **Complexity**: O(1) a call, unless noted.

    Examples
    --------
    >>> import ntmem
    >>> with ntmem.open() as memory:
    ...     p = memory.positions
    ...     first = p.apply_fill("BTCUSDT", 2, 61800.3, side="buy", trade_id="t1")
    ...     again = p.apply_fill("BTCUSDT", 2, 61800.3, side="buy", trade_id="t1")
    ...     p.quantity("BTCUSDT"), again.applied
    (2.0, False)
    """

    def __init__(self, engine: LogEngine | QuietEngine, handle: Callable[[], Any]) -> None:
        log = engine.log if isinstance(engine, LogEngine) else still_log(engine)
        super().__init__(log, engine.store.env, engine.store.databases, engine.writer, engine.max_lag)
        self.plain = isinstance(engine, LogEngine) and not engine.read_only and not engine.waits_for_disk
        self.handle = handle  # raises if the handle is closed
        self._engine = engine
        self._instruments: dict[str, tuple[int, tuple[Any, ...]]] = {}  # by symbol, as of an epoch
        self._columns: tuple[int, tuple[np.ndarray, ...]] | None = None

    # -- instruments

    def define(
        self,
        symbol: str,
        *,
        price_precision: int | None = None,
        quantity_precision: int | None = None,
        multiplier: Number = 1,
        currency: str = "",
    ) -> Instrument:
        """Say what a symbol means, before anything of it is booked.

        Parameters
        ----------
        price_precision, quantity_precision : int, optional
            Digits behind the point, 0 to 18; by default 8. Together they bound money: 10^-(both) is its smallest unit.
        multiplier : number
            Units of the underlying in one contract; at most nine digits behind the point.
        currency : str
            Of prices and money, at most 12 bytes; a name of 3 to 12 letters as a rule.

        Raises
        ------
        PositionError
            Something of it was booked with other digits or another multiplier.
        """
        check_names(symbol)
        given = Instrument(
            symbol,
            precision_of(price_precision, "price_precision"),
            precision_of(quantity_precision, "quantity_precision"),
            decimal_of(multiplier, "multiplier"),
            currency,
        )
        definition = definition_of(given)
        for _, stored in self._live().entries_of(POSITIONS, symbol.encode() + b"\x1f"):  # those that were purged, too
            booked = booked_with(stored.value)
            if booked != definition[:4]:
                raise PositionError(
                    f"{symbol!r} was booked with {booked[0]} and {booked[1]} digits and multiplier "
                    f"{exact(Decimal(booked[2]).scaleb(-booked[3]))}; define it before its first fill"
                )
        said = {"price": definition[0], "quantity": definition[1], "multiplier": str(given.multiplier)}
        value = _CODEC.encode({**said, "currency": currency})
        change = Change("put", INSTRUMENTS, symbol.encode(), value, own=True)
        self._commit([change])
        self._instruments.pop(symbol, None)
        return given

    def instrument(self, symbol: str) -> Instrument:
        """Return what a symbol means; one that was not defined has eight digits and multiplier 1."""
        data = self._live().get(INSTRUMENTS, symbol.encode())
        if data is None:
            return Instrument(symbol)
        said = _CODEC.decode(data)
        return Instrument(symbol, said["price"], said["quantity"], Decimal(said["multiplier"]), said["currency"])

    def _define(self, symbol: str) -> tuple[Any, ...]:
        return definition_of(self.instrument(symbol))

    # -- booking

    # `apply_fill` is the native book's, which comes here with what is not plain.

    def _apply_fill(
        self,
        names: Key,
        trade_id: str,
        quantity: Number,
        price: Number,
        fee: Number,
        sign: int,
        ts_event: Instant | None,
        fence: FenceLike | None,
        durable: bool | None,
        reservation: Reservation | None,
    ) -> Fill:
        return self._book(
            *(names, trade_id, quantity, price, fee, sign, ts_event, fence, durable, False), reservation=reservation
        )

    def apply_cash(
        self,
        symbol: str,
        amount: Number,
        *,
        cash_id: str,
        kind: str = "funding",
        ts_event: Instant | None = None,
        account: str = "",
        strategy: str = "",
        position_id: str = "",
        fence: FenceLike | None = None,
        durable: bool | None = None,
    ) -> Fill:
        """Book cash that a position brought (above zero) or cost, such as funding, once for each `cash_id`."""
        if kind != "funding":
            raise ValueError(f"kind must be 'funding', was {kind!r}")
        names = (symbol, account, strategy, position_id)
        return self._book(names, cash_id, 0, 0, amount, 0, ts_event, fence, durable, True)

    def _book(
        self,
        names: Key,
        entry_id: str,
        quantity: Number,
        price: Number,
        amount: Number,
        sign: int,
        ts_event: Instant | None,
        fence: FenceLike | None,
        durable: bool | None,
        cash: bool,
        *,
        reservation: Reservation | None = None,
    ) -> Fill:
        engine = self._writable()
        happened = None if ts_event is None else instant_ns(ts_event, "ts_event")
        claim, _, writer = (None, None, None) if fence is None else engine.admit(fence_of(fence))
        try:
            made = self.book(
                names, self._define, entry_id, quantity, price, amount, sign, happened, cash, claim, writer
            )
        except Exception as error:
            self._raise(error)
        if reservation is not None and made.applied:
            use_up(engine, reservation, made.quantity_decimal.copy_abs())
        if made.applied and (engine.waits_for_disk if durable is None else durable):
            engine.wait_durable(made.version, None)
        return made

    def _raise(self, error: Exception) -> NoReturn:
        """Raise an error of the native book as users know it."""
        if isinstance(error, BookFull):
            raise PositionError(str(error)) from error
        if isinstance(error, Conflicting):
            raise FillConflict(str(error)) from error
        if isinstance(error, TooOld):
            raise FillTooOld(str(error)) from error
        if isinstance(self._engine, LogEngine):
            self._engine.raise_translated(error)
        raise error

    def _translated(self, action: Callable[[], T]) -> T:
        self._live()
        try:
            return action()
        except Exception as error:
            self._raise(error)

    def _stored(self, name: bytes) -> tuple[bytes, int] | None:
        record = self._live().get_record(POSITIONS, name, None)
        return None if record is None or record.value is None else (record.value, record.version)

    def entry(self, key: bytes) -> bytes | None:
        """Return what was booked under the key of an id."""
        return self._live().get(ENTRIES, key)

    def draft_fill(
        self,
        names: Key,
        trade_id: str,
        quantity: Number,
        price: Number,
        fee: Number,
        sign: int,
        ts_event: int | None,
        *,
        booked: bytes | None,
        before: Position | None,
    ) -> tuple[Fill, bytes, bytes]:
        """Return what :meth:`apply_fill` would do, without doing it; see :meth:`Book.draft`."""
        self._writable()
        return self._translated(
            lambda: self.draft(names, self._define, trade_id, quantity, price, fee, sign, ts_event, booked, before)
        )

    def catch_up(self) -> None:
        """Return when the book shows what is committed: who writes is waited for, who has died is made up for."""
        self._writable().catch_up()

    def _commit(self, changes: list[Change], fence: FenceLike | None = None) -> None:
        self._writable().commit(changes, fence=None if fence is None else fence_of(fence))

    def _live(self) -> LogEngine | QuietEngine:
        self.handle()
        return self._engine

    def _writable(self) -> LogEngine:
        engine = self._live()
        if engine.read_only or not isinstance(engine, LogEngine):
            raise ReadOnlyError("this store was opened with read_only=True; open it for writing")
        return engine

    def mark(self, symbol: str, price: Number, ts_event: Instant | None = None) -> int:
        """Value all positions of a symbol at a price; return how many there are.

        A mark earlier than the one before is ignored. Marks are seen by every process at once, and written down with
        the next fill. O(positions of the symbol).
        """
        engine = self._writable()
        ts = engine.now() if ts_event is None else instant_ns(ts_event, "ts_event")
        refs = self.of_symbol(symbol)
        for ref in refs:
            self._translated(lambda: self.mark_one(ref, price, ts))  # noqa: B023
        return len(refs)

    def upsert(self, position: Position, *, if_version: int | None = None, fence: FenceLike | None = None) -> Position:
        """Make a position what a broker or another book says it is; what was booked under it before stays known.

        Parameters
        ----------
        position : Position
            As :meth:`from_ccxt` makes one, or another book gives it out.
        if_version : int, optional
            Only if the position here has this version; 0: only if nothing was ever held.
        """
        engine = self._writable()
        claim, writer = None, None
        if fence is not None:
            claim, _, writer = engine.admit(fence_of(fence))
        try:
            made: Position = self._translated(
                lambda: self.set(position, if_version=if_version, claim=claim, writer=writer)
            )
        except FillConflict as error:
            held = self.get(*position.key)
            found = 0 if held is None else held.version
            if if_version is None or if_version == found:
                raise PositionError(str(error)) from error
            raise VersionConflict(str(error), expected=if_version, found=found) from error
        return made

    # -- reading

    def ref(self, symbol: str, account: str = "", strategy: str = "", position_id: str = "") -> PositionRef:
        """Return a live reference to what is held under a key; a key is made if there is none yet.

        A handle that was opened with ``read_only=True`` makes none: then :class:`ReadOnlyError`.
        """
        if self._live().read_only and self.get(symbol, account, strategy, position_id) is None:
            self._writable()
        return self._translated(lambda: super(Positions, self).ref(symbol, account, strategy, position_id))

    def net(self, symbol: str, *, account: str | None = None, strategy: str | None = None) -> float:
        """Return what is held of a symbol over all accounts and strategies, or those named, position ids summed up."""
        return float(self.net_decimal(symbol, account=account, strategy=strategy))

    def net_decimal(self, symbol: str, *, account: str | None = None, strategy: str | None = None) -> Decimal:
        """Return :meth:`net` exactly."""
        return total(p.quantity_decimal for p in self._of(symbol, account, strategy))

    def _of(self, symbol: str, account: str | None, strategy: str | None) -> Iterable[Position]:
        self._live()
        for ref in self.of_symbol(symbol):
            if (account is None or ref.key[1] == account) and (strategy is None or ref.key[2] == strategy):
                position = ref.position
                if position is not None:
                    yield position

    def view(self, *, account: str = "", strategy: str = "") -> PositionView:
        """Return the same calls, bound to an account and a strategy."""
        return PositionView(self, account, strategy)

    def open_positions(
        self, *, symbol: str | None = None, account: str | None = None, strategy: str | None = None
    ) -> list[Position]:
        """Return the positions that are not flat, by key."""
        self._live()
        wanted = (symbol, account, strategy)
        found = [
            p
            for p in self.each()
            if p.is_open and all(want is None or want == have for want, have in zip(wanted, p.key, strict=False))
        ]
        return sorted(found, key=lambda p: p.key)

    aopen_positions = twin(open_positions)

    def _repr_html_(self) -> str:
        try:
            return html_of_positions(self.open_positions())
        except NtmemError as error:  # a notebook shows it again after the store was closed
            return f"<p>{escape(str(error))}</p>"

    def fills(
        self,
        symbol: str,
        start: Instant | None = None,
        end: Instant | None = None,
        *,
        account: str = "",
        strategy: str = "",
        position_id: str = "",
    ) -> np.ndarray:
        """Return what was booked under a key, in the order of booking.

        Parameters
        ----------
        start, end : instant, optional
            Only what happened in ``[start, end)``.

        Returns
        -------
        numpy structured array
            Of ``trade_id`` (str), ``quantity``, ``price``, ``fee``, ``realized_pnl`` (float64), ``ts_event`` (int64, ns
            UTC), ``version`` (uint64). O(fills of the key).
        """
        import numpy as np

        engine = self._live()
        first = 0 if start is None else instant_ns(start, "start")
        last = MAX_INSTANT if end is None else instant_ns(end, "end")
        position = self.get(symbol, account, strategy, position_id)
        rows = []
        if position is not None:
            stem = "\x1f".join((symbol, account, strategy, position_id)).encode() + b"\x1f"
            for key, stored in engine.entries_of(ENTRIES, stem):
                name = key[len(stem) :].decode()
                fill = entry_of(name, stored.value, position)
                if first <= fill.ts_event < last and not name.startswith(_CASH):
                    money = fill.realized_pnl
                    rows.append((stored.version, name, fill.quantity, fill.price, fill.fee, money, fill.ts_event))
        rows.sort()
        width = max((len(row[1]) for row in rows), default=1)
        kind = [("trade_id", f"U{width}"), *((name, "f8") for name in ("quantity", "price", "fee", "realized_pnl"))]
        return np.array([(*row[1:], row[0]) for row in rows], dtype=[*kind, ("ts_event", "i8"), ("version", "u8")])

    afills = twin(fills)

    def fill(
        self, symbol: str, trade_id: str, account: str = "", strategy: str = "", position_id: str = ""
    ) -> Fill | None:
        """Return what was booked under a trade id, and what is held now; None: nothing was."""
        names = (symbol, account, strategy, position_id)
        booked = self.entry(entry_key(names, trade_id))
        position = self.get(*names)
        return None if booked is None or position is None else entry_of(trade_id, booked, position)

    def snapshot(self) -> np.ndarray:
        """Return all positions as a numpy structured array, one row for each key; each row as of one moment.

        The fields are those of :class:`Position`, floats; times are int64 ns UTC, 0: none; ``mark_price`` is NaN where
        there is none. O(slots of the book), without Python for each row.
        """
        import numpy as np

        self._live()
        count = self.used
        if self._columns is None or self._columns[0] != count:
            keys = self.keys()
            self._columns = count, tuple(np.array(column) for column in zip(*keys, strict=True)) if keys else ()
        numbers = np.frombuffer(self.numbers(count), dtype=_NUMBERS)
        names = self._columns[1] or (np.empty(0, "U1"),) * len(_NAMES)
        kinds = [(name, column.dtype) for name, column in zip(_NAMES, names, strict=True)]
        table = np.empty(len(numbers), dtype=[*kinds, *_NUMBERS[1:]])
        for name, column in zip(_NAMES, names, strict=True):
            table[name] = column[numbers["row"]]
        for name, _ in _NUMBERS[1:]:
            table[name] = numbers[name]
        return table

    asnapshot = twin(snapshot)

    # -- reservations

    def reserve(
        self,
        symbol: str,
        quantity: Number,
        *,
        limit: Number,
        ttl: Duration = 30.0,
        owner: str | None = None,
        account: str = "",
        strategy: str = "",
        fence: FenceLike | None = None,
    ) -> Reservation:
        """Announce a trade so that all agents together stay within a limit.

        Parameters
        ----------
        quantity : number
            Signed: what is to be bought, or sold.
        limit : number
            What the position and all that is reserved on its side may come to, without a sign.
        ttl : float or timedelta
            Seconds by the store's clock, after which it does not count any more.

        Raises
        ------
        LimitExceeded
            There is no room for it.
        """
        engine = self._writable()
        check_names(symbol, account, strategy)
        wanted, most = decimal_of(quantity, "quantity"), decimal_of(limit, "limit")
        if not wanted or most < 0:
            raise ValueError(f"quantity must be a number but 0 and limit one from 0, were {quantity!r} and {limit!r}")
        lasts, where = duration_ns(ttl, "ttl"), (symbol, account, strategy)
        return reserve(
            *(engine, where, wanted, most, lasts, owner, fence),
            lambda: self.net_decimal(symbol, account=account, strategy=strategy),
        )

    def release(self, reservation: Reservation) -> bool:
        """Take a reservation back; return whether it was there."""
        return use_up(self._live(), reservation, reservation.quantity.copy_abs())

    def reservations(self, symbol: str, *, account: str = "", strategy: str = "") -> list[Reservation]:
        """Return what is reserved and not over."""
        _, kept = reserved(self._live(), (symbol, account, strategy))
        return [
            Reservation(name, symbol, account, strategy, amount, owner, expires)
            for name, (amount, expires, owner) in kept.items()
        ]

    # -- brokers

    def reconcile(self, broker: Mapping[str, Number] | list[Any], *, account: str = "") -> ReconcileReport:
        """Compare the book with what a broker says; nothing is changed.

        Parameters
        ----------
        broker : mapping of symbol to signed quantity, or list of Position or of ccxt's positions
        account : str
            Of the book, all its strategies and position ids summed up.
        """
        if isinstance(broker, Mapping):
            theirs = {symbol: decimal_of(quantity, f"quantity of {symbol}") for symbol, quantity in broker.items()}
        else:
            theirs = by_symbol(each if isinstance(each, Position) else self.from_ccxt(each) for each in broker)
        self._live()
        ours = by_symbol(position for position in self.each() if position.account == account)
        return compared(account, ours, theirs)

    areconcile = twin(reconcile)

    def from_ccxt(self, position: Mapping[str, Any], *, account: str = "", strategy: str = "") -> Position:
        """Return what a ccxt position (``fetch_positions``) says, by the instrument's digits; for :meth:`upsert`.

        Raises :class:`PositionError` for inverse contracts, whose money is not a price times a quantity.
        """
        check_linear(position)
        return of_ccxt(position, self._define(position["symbol"]), account, strategy)

    @staticmethod
    def to_dict(position: Position) -> dict[str, Any]:
        """Return a position as plain values; numbers as Decimal."""
        names = ("symbol", "account", "strategy", "position_id", "side", "currency", "version", "fills")
        exact = ("quantity", "average_price", "realized_pnl", "unrealized_pnl", "fees", "funding", "mark_price")
        times = ("ts_opened", "ts_last", "ts_closed", "ts_mark")
        return {name: getattr(position, name) for name in (*names, *times)} | {
            name: getattr(position, f"{name}_decimal") for name in (*exact, "peak_quantity", "multiplier")
        }

    # -- keeping it small

    def purge_closed(self, older_than: Duration) -> int:
        """Delete the fills of positions that were closed longer ago than `older_than` seconds; return of how many.

        What is left of each says how far back its ids are known, so a fill of before raises rather than counts. Once
        all processes have closed the store, they are not listed any more and leave their places to other keys; what is
        booked to one later goes on from what it was. O(their fills).
        """
        engine = self._writable()
        until = engine.now() - duration_ns(older_than, "older_than")
        purged = 0
        for position in self.each():
            closed = position.ts_closed
            if closed is None or closed >= until or position.is_open:
                continue
            if not self._translated(lambda: self.forget(position, until)):  # noqa: B023
                continue  # it was opened again
            stem = "\x1f".join(position.key).encode() + b"\x1f"
            entries = engine.entries_of(ENTRIES, stem)
            keys = [key for key, stored in entries if entry_of("", stored.value, position).ts_event < until]
            for first in range(0, len(keys), 1000):
                self._commit([Change("delete", ENTRIES, key, own=True) for key in keys[first : first + 1000]])
            purged += 1
        return purged

    apurge_closed = twin(purge_closed)


_NAMES = ("symbol", "account", "strategy", "position_id")
_NUMBERS = [
    ("row", "u8"),
    *((name, "f8") for name in ("quantity", "average_price", "realized_pnl", "unrealized_pnl", "fees", "funding")),
    *((name, "f8") for name in ("mark_price", "peak_quantity", "multiplier")),
    *((name, "i8") for name in ("ts_opened", "ts_last", "ts_closed", "ts_mark")),
    *((name, "u8") for name in ("version", "fills")),
]
