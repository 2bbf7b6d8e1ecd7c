"""The position book: what is held, readable by every thread and process in tens of nanoseconds, never torn.

Layout
------
Section 6: ``head`` (how many slots) | slots: sequence, hash, key, two copies of a position. ``fixed.h`` is arithmetic,
``book.h`` what a fill makes of a position, ``book_table.h`` slots; ``docs/design/positions.md`` has the why.

Invariants
----------
1. A slot has what the newest record of its key in the log has: it is published while the log's mutex is held that the
   record was committed under, and by repair if its writer died in between (I1, I2).
2. A reader takes no lock and waits for nobody; what may have been overwritten while it copied is copied again (I5).
3. Quantities, prices and money are integers. A change that would overflow, or round what was given exactly, is refused
   whole.
"""

import time
from decimal import Context, Decimal, Inexact
from operator import itemgetter

cimport cython
from cpython.bytearray cimport PyByteArray_AS_STRING
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.dict cimport PyDict_GetItem
from cpython.exc cimport PyErr_CheckSignals
from cpython.object cimport PyObject
from cpython.unicode cimport PyUnicode_DecodeASCII
from libc.stdint cimport int64_t, uint64_t
from libc.string cimport memcpy, memset

from ntmem._core.failpoints cimport failpoints_join, failpoints_table
from ntmem._core.keyhash cimport keyhash
from ntmem._core.log cimport Log
from ntmem._core.logformat cimport *
from ntmem._core.logrecords cimport Claim, key_fill
from ntmem._core.mdb cimport MDB_dbi, MDB_txn, Environment, mdb_calls_t
from ntmem._core.positions cimport *

from ntmem._core.logrecords import LogDamaged, WriterStalled

failpoints_join(failpoints_table())


cdef extern from "cold.h" nogil:
    enum cold_outcome:
        COLD_FOUND
        COLD_ABSENT

    ctypedef struct cold_found_t:
        const unsigned char *value
        size_t value_size

    cold_outcome cold_space(
        const mdb_calls_t *calls, MDB_txn *txn, MDB_dbi namespaces, const unsigned char *labels, size_t size,
        uint64_t *id
    ) noexcept
    cold_outcome cold_find(
        const mdb_calls_t *calls, MDB_txn *txn, MDB_dbi records, uint64_t id, const unsigned char *key, size_t size,
        cold_found_t *found
    ) noexcept

cdef extern from "Python.h":
    const char *PyUnicode_AsUTF8AndSize(object text, Py_ssize_t *size) except NULL

cdef enum:
    SECTION_BOOK = 6
    SLICE_NS = 50_000_000
    MOST_ID = 128

cdef bytes POSITIONS = b"\5ntmem\tpositions"  # labels of namespaces, each behind its length
cdef bytes ENTRIES = b"\5ntmem\5fills"
cdef str EMPTY = ""
cdef bytes CASH = b"\x1e"

_EXACT = Context(prec=120, traps=[Inexact])
_AVERAGE = Context(prec=34)
_WIDE = Context(prec=400)  # of any float's digits


_first = itemgetter(0)


class BookFull(RuntimeError):
    """All slots are taken."""


class Conflicting(ValueError):
    """An id was used for something else."""


class TooOld(ValueError):
    """Ids of that time are not kept any more."""


# ---- making a book ----------------------------------------------------------------------------------------------


def sections(uint64_t slots):
    """Return the section a region needs for a book of so many keys, a power of two."""
    if slots == 0 or slots & (slots - 1) or slots > 1 << 20:
        raise ValueError(f"slots must be a power of two up to 2**20, was {slots}")
    return [(SECTION_BOOK, sizeof(book_table_t) + slots * sizeof(book_slot_t), 0)]


def create(Log log not None, rows):
    """Make the book of a region that is not published yet.

    Parameters
    ----------
    rows : iterable of (bytes, bytes, int)
        Key, value and version of the records of positions that are on disk.
    """
    cdef uint64_t size = 0
    cdef bytes name, value
    cdef uint64_t version
    cdef book_table_t *table = <book_table_t *>log.region.section(SECTION_BOOK, &size)
    if table.magic != 0:
        raise ValueError("there is a book in this region already")
    table.slot_count = (size - sizeof(book_table_t)) // sizeof(book_slot_t)
    for name, value, version in rows:
        if len(value) != sizeof(book_position_t) or <unsigned char>value[0] != BOOK_FORMAT:
            raise LogDamaged(f"the position {name!r} on disk is none of this version's")
        if not book_project_locked(table, <const unsigned char *>PyBytes_AS_STRING(name), PyBytes_GET_SIZE(name),
                                   hash_of(name), PyBytes_AS_STRING(value), version):
            raise BookFull(f"the store has more positions than the {table.slot_count * 3 // 4} there is room for")
    table.magic = BOOK_MAGIC
    log.log.book = <void *>table


# ---- numbers in, numbers out ------------------------------------------------------------------------------------


cdef int128_t mantissa_of(object number, int precision, str what) except? -1:
    """A number as users write it, as a whole number of 10^-precision."""
    cdef int128_t found = 0
    cdef fixed_outcome outcome = FIXED_NONE
    cdef Py_ssize_t size = 0
    cdef const char *text
    cdef object decimal
    if type(number) is float:
        outcome = fixed_from_double(number, precision, &found)
        if outcome == FIXED_DONE:
            return found
    elif type(number) is int:
        if -(1 << 63) < number < 1 << 63:
            outcome = fixed_from_int(number, precision, &found)
        else:
            outcome = FIXED_OVERFLOW
    elif isinstance(number, (str, Decimal)):
        decimal = str(number)
        text = PyUnicode_AsUTF8AndSize(decimal, &size)
        outcome = fixed_parse(text, size, precision, &found)
    elif isinstance(number, float):
        return mantissa_of(float(number), precision, what)
    elif not isinstance(number, bool) and hasattr(number, "__index__"):
        return mantissa_of(number.__index__(), precision, what)
    else:
        raise TypeError(f"{what} must be an int, float, Decimal or str, was {type(number).__name__}")
    if outcome == FIXED_UNSURE:  # its shortest digits decide, half to even
        decimal = str(Decimal(repr(number)).quantize(Decimal(f"1E-{precision}"), context=_WIDE))
        text = PyUnicode_AsUTF8AndSize(decimal, &size)
        outcome = fixed_parse(text, size, precision, &found)
    if outcome == FIXED_DONE:
        return found
    if outcome == FIXED_EXCESS:
        raise ValueError(f"{what} has at most {precision} digits behind the point for this instrument, was {number!s}")
    if outcome == FIXED_OVERFLOW:
        raise OverflowError(
            f"{what} is too large for {precision} digits behind the point, was {number!s}; define the instrument with "
            "fewer"
        )
    raise ValueError(f"{what} must be a finite number, was {number!r}")


cdef object decimal_of(int128_t mantissa, int precision):
    """Exactly: no context rounds what is made from text."""
    cdef char[64] digits
    cdef size_t size = fixed_text(mantissa, digits)
    return Decimal(f"{PyUnicode_DecodeASCII(digits, size, NULL)}E-{precision}")


cdef object instant_or_none(int64_t ns):
    return None if ns == 0 else ns


# ---- what is given out ------------------------------------------------------------------------------------------


@cython.final
@cython.freelist(64)
cdef class Position:
    """What is held under one key, at one moment. Immutable.

    Floats are views of what is kept exactly; each has an exact twin, ``quantity_decimal`` and so on. Money is in the
    instrument's currency, the multiplier included.

    Attributes
    ----------
    symbol, account, strategy, position_id : str
        The key.
    """

    cdef book_position_t body
    cdef tuple names

    def __init__(self):
        raise TypeError("positions come from a position book")

    cdef inline int money_precision(self) noexcept:
        return self.body.price_precision + self.body.quantity_precision

    cdef object money(self, int128_t amount):
        cdef double number = fixed_double(amount, self.money_precision())
        if self.body.multiplier == 1 and self.body.multiplier_precision == 0:
            return number
        return number * fixed_double(self.body.multiplier, self.body.multiplier_precision)

    cdef object money_decimal(self, int128_t amount):
        cdef object number = decimal_of(amount, self.money_precision())
        if self.body.multiplier == 1 and self.body.multiplier_precision == 0:
            return number
        return _EXACT.multiply(number, decimal_of(self.body.multiplier, self.body.multiplier_precision))

    @property
    def symbol(self):
        """What is held."""
        return self.names[0]

    @property
    def account(self):
        """In whose account."""
        return self.names[1]

    @property
    def strategy(self):
        """By which strategy."""
        return self.names[2]

    @property
    def position_id(self):
        """Of a position in hedged mode."""
        return self.names[3]

    @property
    def quantity(self):
        """Signed: below zero is short."""
        return fixed_double(self.body.quantity, self.body.quantity_precision)

    @property
    def quantity_decimal(self):
        """Signed: below zero is short."""
        return decimal_of(self.body.quantity, self.body.quantity_precision)

    @property
    def peak_quantity(self):
        """The largest it was since it was opened, without a sign."""
        return fixed_double(self.body.peak, self.body.quantity_precision)

    @property
    def peak_quantity_decimal(self):
        """The largest it was since it was opened, without a sign."""
        return decimal_of(self.body.peak, self.body.quantity_precision)

    @property
    def average_price(self):
        """What a unit of it cost on average; 0.0 when flat."""
        return book_average(&self.body)

    @property
    def average_price_decimal(self):
        """What a unit of it cost on average, to 34 digits; 0 when flat."""
        if self.body.quantity == 0:
            return Decimal(0)
        return _AVERAGE.divide(decimal_of(self.body.cost, self.body.price_precision), Decimal(self.body.quantity))

    @property
    def cost_decimal(self):
        """What is held cost, signed like the quantity, without the multiplier."""
        return decimal_of(self.body.cost, self.money_precision())

    @property
    def realized_pnl(self):
        """Profit and loss of what was closed, by average cost, without fees and funding."""
        return self.money(self.body.realized)

    @property
    def realized_pnl_decimal(self):
        """Profit and loss of what was closed, by average cost, without fees and funding."""
        return self.money_decimal(self.body.realized)

    @property
    def unrealized_pnl(self):
        """Profit and loss of what is held, at the mark; 0.0 without one."""
        return self.money(book_unrealized(&self.body))

    @property
    def unrealized_pnl_decimal(self):
        """Profit and loss of what is held, at the mark; 0 without one."""
        return self.money_decimal(book_unrealized(&self.body))

    @property
    def fees(self):
        """Fees that were paid."""
        return fixed_double(self.body.fees, self.money_precision())

    @property
    def fees_decimal(self):
        """Fees that were paid."""
        return decimal_of(self.body.fees, self.money_precision())

    @property
    def funding(self):
        """Funding and other cash that was received; below zero: paid."""
        return fixed_double(self.body.funding, self.money_precision())

    @property
    def funding_decimal(self):
        """Funding and other cash that was received; below zero: paid."""
        return decimal_of(self.body.funding, self.money_precision())

    @property
    def mark_price(self):
        """The price by which it was marked last; None: it never was."""
        return None if self.body.ts_mark == 0 else fixed_double(self.body.mark, self.body.price_precision)

    @property
    def mark_price_decimal(self):
        """The price by which it was marked last; None: it never was."""
        return None if self.body.ts_mark == 0 else decimal_of(self.body.mark, self.body.price_precision)

    @property
    def multiplier(self):
        """Units of the underlying in one contract."""
        return fixed_double(self.body.multiplier, self.body.multiplier_precision)

    @property
    def multiplier_decimal(self):
        """Units of the underlying in one contract."""
        return decimal_of(self.body.multiplier, self.body.multiplier_precision)

    @property
    def currency(self):
        """Of prices and money; empty: not said."""
        return self.body.currency[:BOOK_CURRENCY].rstrip(b"\0").decode()

    @property
    def price_precision(self):
        """Digits of prices behind the point."""
        return self.body.price_precision

    @property
    def quantity_precision(self):
        """Digits of quantities behind the point."""
        return self.body.quantity_precision

    @property
    def fills(self):
        """How many fills made it."""
        return self.body.fills

    @property
    def ts_opened(self):
        """When it was opened last, ns UTC by its fills; None: never."""
        return instant_or_none(self.body.ts_opened)

    @property
    def ts_last(self):
        """Of the latest fill or cash, ns UTC; None: there was none."""
        return instant_or_none(self.body.ts_last)

    @property
    def ts_closed(self):
        """When it became flat, ns UTC; None: it is open, or never was."""
        return instant_or_none(self.body.ts_closed)

    @property
    def ts_mark(self):
        """When it was marked last, ns UTC; None: it never was."""
        return instant_or_none(self.body.ts_mark)

    @property
    def version(self):
        """Of the change that made it."""
        return self.body.version

    @property
    def side(self):
        """"long", "short" or "flat"."""
        return "long" if self.body.quantity > 0 else "short" if self.body.quantity < 0 else "flat"

    @property
    def is_open(self):
        """Whether something is held."""
        return self.body.quantity != 0

    @property
    def is_long(self):
        """Whether more was bought than sold."""
        return self.body.quantity > 0

    @property
    def is_short(self):
        """Whether more was sold than bought."""
        return self.body.quantity < 0

    @property
    def key(self):
        """(symbol, account, strategy, position_id)."""
        return self.names

    def __repr__(self):
        return (
            f"<Position {'/'.join(filter(None, self.names))} {self.quantity:g} @ {self.average_price:g} "
            f"realized {self.realized_pnl:g}>"
        )


@cython.final
cdef class PositionRef:
    """A position that is looked at again and again: each attribute is as of now.

    Notes
    -----
    **Thread safety**: any thread. **Complexity**: O(1), no lock.
    """

    cdef Book book
    cdef book_slot_t *slot
    cdef bytes name
    cdef readonly tuple key
    """(symbol, account, strategy, position_id)."""

    def __init__(self):
        raise TypeError("references come from a position book")

    cdef inline uint64_t read(self, book_position_t *body) except? 0:
        self.book.check()
        return book_read(self.slot, body)

    cdef Position now(self):
        cdef Position found = Position.__new__(Position)
        if self.read(&found.body) == 0:
            return None
        found.names = self.key
        return found

    @property
    def position(self):
        """All of it, as of one moment; None: nothing was ever held."""
        return self.now()

    @property
    def quantity(self):
        """Signed: below zero is short; 0.0 when flat or unknown."""
        cdef book_position_t body
        if self.read(&body) == 0:
            return 0.0
        return fixed_double(body.quantity, body.quantity_precision)

    def __getattr__(self, name):
        position = self.now()
        if position is None:
            raise AttributeError(f"nothing was ever held under {self.key}, so it has no {name}")
        return getattr(position, name)

    def __repr__(self):
        return f"<PositionRef {'/'.join(filter(None, self.key))}>"


cdef bytes name_of(tuple names):
    """The key of a position in the log; raises what is to be raised of names that are none."""
    cdef bytes raw
    for what, part in zip(("symbol", "account", "strategy", "position_id"), names, strict=True):
        if not isinstance(part, str):
            raise TypeError(f"{what} must be a str, was {type(part).__name__}")
        if "\x1f" in part or "\0" in part:
            raise ValueError(f"{what} has no control characters, was {part!r}")
    if not names[0]:
        raise ValueError("symbol must not be empty")
    raw = "\x1f".join(names).encode()
    if len(raw) > BOOK_NAME:
        raise ValueError(
            f"symbol, account, strategy and position_id have at most {BOOK_NAME - 3} bytes together, had {len(raw) - 3}"
        )
    return raw


@cython.final
cdef class Fill:
    """What was booked under an id: a fill, or cash. Immutable.

    Attributes
    ----------
    id : str
        Trade id, or cash id.
    applied : bool
        False: the id was known, and nothing was changed.
    position : Position
        After it; where it was known, as of now.
    version : int
        Of the change; 0: it was known.
    """

    cdef book_entry_t body
    cdef readonly str id
    cdef readonly Position position
    cdef readonly uint64_t version

    def __init__(self):
        raise TypeError("fills come from a position book")

    @property
    def applied(self):
        """Whether it was booked by this call."""
        return self.version != 0

    @property
    def quantity(self):
        """Signed: below zero was sold."""
        return fixed_double(self.body.quantity, self.body.quantity_precision)

    @property
    def quantity_decimal(self):
        """Signed: below zero was sold."""
        return decimal_of(self.body.quantity, self.body.quantity_precision)

    @property
    def price(self):
        """Of a unit."""
        return fixed_double(self.body.price, self.body.price_precision)

    @property
    def price_decimal(self):
        """Of a unit."""
        return decimal_of(self.body.price, self.body.price_precision)

    @property
    def fee(self):
        """Fee that was paid; of cash, what was received."""
        return fixed_double(self.body.fee, self.body.price_precision + self.body.quantity_precision)

    @property
    def fee_decimal(self):
        """Fee that was paid; of cash, what was received."""
        return decimal_of(self.body.fee, self.body.price_precision + self.body.quantity_precision)

    @property
    def realized_pnl(self):
        """Profit and loss of what it closed, by average cost, without its fee."""
        return self.position.money(self.body.realized)

    @property
    def realized_pnl_decimal(self):
        """Profit and loss of what it closed, by average cost, without its fee."""
        return self.position.money_decimal(self.body.realized)

    @property
    def ts_event(self):
        """When it happened, ns UTC."""
        return self.body.ts_event

    def __repr__(self):
        return f"<Fill {self.id!r} {self.quantity:g} @ {self.price:g}{'' if self.applied else ', known'}>"


cdef Fill make_fill(
    tuple names, str id, const book_entry_t *entry, const book_position_t *position, uint64_t version
):
    cdef Fill made = Fill.__new__(Fill)
    cdef Position after = Position.__new__(Position)
    after.body = position[0]
    after.names = names
    made.body = entry[0]
    made.id = id
    made.position = after
    made.version = version
    return made


def scaled(
    tuple names not None, tuple definition not None, *, quantity, average_price=0, realized_pnl=0, fees=0, funding=0,
    mark=None, ts=None
):
    """Return a position that no book has, from what somebody else says of it; averages are rounded to its digits."""
    cdef Position made = Position.__new__(Position)
    cdef book_position_t *body = &made.body
    cdef int money
    name_of(names)
    begin(body, definition)
    money = body.price_precision + body.quantity_precision
    made.names = names
    body.quantity = small(mantissa_of(quantity, body.quantity_precision, "quantity"), "quantity", quantity)
    cost = _WIDE.multiply(Decimal(str(quantity)), Decimal(str(average_price)))
    body.cost = mantissa_of(cost.quantize(Decimal(f"1E-{money}"), context=_WIDE), money, "average_price")
    body.realized = mantissa_of(realized_pnl, money, "realized_pnl")
    body.fees = mantissa_of(fees, money, "fees")
    body.funding = mantissa_of(funding, money, "funding")
    body.peak = abs(body.quantity)
    if ts is not None:
        body.ts_last = ts
        if body.quantity != 0:
            body.ts_opened = ts
    if mark is not None:
        body.mark = small(mantissa_of(mark, body.price_precision, "mark"), "mark", mark)
        body.ts_mark = 1 if ts is None else ts
    return made


def check_names(symbol, account="", strategy="", position_id=""):
    """Raise what is to be raised of names that are none."""
    name_of((symbol, account, strategy, position_id))


def entry_of(str id not None, bytes data not None, Position position not None):
    """Return a fill from the bytes that are kept of it."""
    cdef book_entry_t entry
    if len(data) != sizeof(book_entry_t):
        raise ValueError(f"an entry has {sizeof(book_entry_t)} bytes, had {len(data)}")
    memcpy(&entry, PyBytes_AS_STRING(data), sizeof(entry))
    return make_fill(position.names, id, &entry, &position.body, 0)


# ---- from arguments ---------------------------------------------------------------------------------------------


cdef int64_t small(int128_t mantissa, str what, object number) except? -1:
    if not fixed_is_small(mantissa):
        raise OverflowError(
            f"{what} is too large for this instrument's digits behind the point, was {number!s}; define it with fewer"
        )
    return <int64_t>mantissa


cdef bytes id_bytes(str id, bint cash):
    """The bytes of an id as they end a key; those of cash are told from trade ids by what they begin with."""
    cdef bytes raw = id.encode()
    if not 0 < len(raw) <= MOST_ID or b"\x1f" in raw or b"\x1e" in raw or b"\0" in raw:
        raise ValueError(f"an id has 1 to {MOST_ID} bytes of UTF-8 and no control characters, was {id!r}")
    return CASH + raw if cash else raw


cdef int begin(book_position_t *position, tuple definition) except -1:
    """A position of which nothing was booked yet."""
    cdef bytes currency
    memset(position, 0, sizeof(position[0]))
    position.format = BOOK_FORMAT
    position.price_precision, position.quantity_precision = definition[0], definition[1]
    position.multiplier, position.multiplier_precision, currency = definition[2], definition[3], definition[4]
    memcpy(position.currency, PyBytes_AS_STRING(currency), min(PyBytes_GET_SIZE(currency), BOOK_CURRENCY))
    return 0


cdef int fill(
    book_entry_t *entry, const book_position_t *position, object quantity, object price, object amount, int sign,
    bint cash
) except -1:
    """An entry, in the units of its position."""
    cdef int precision = position.price_precision + position.quantity_precision
    memset(entry, 0, sizeof(entry[0]))
    entry.format = BOOK_FORMAT
    entry.price_precision = position.price_precision
    entry.quantity_precision = position.quantity_precision
    entry.kind = BOOK_FUNDING if cash else BOOK_FILL
    entry.fee = mantissa_of(amount, precision, "amount" if cash else "fee")
    if not cash:
        entry.quantity = small(mantissa_of(quantity, position.quantity_precision, "quantity"), "quantity", quantity)
        if sign != 0:
            if entry.quantity < 0:
                raise ValueError(f"quantity is above 0 where a side is given, was {quantity!s}; leave side out")
            entry.quantity *= sign
        entry.price = small(mantissa_of(price, position.price_precision, "price"), "price", price)
        if entry.quantity == 0:
            raise ValueError(
                f"quantity is 0 with this instrument's {position.quantity_precision} digits, was {quantity!s}"
            )
    return 0


cdef inline uint64_t hash_of(bytes name) noexcept:
    return keyhash(
        <const unsigned char *>PyBytes_AS_STRING(POSITIONS), PyBytes_GET_SIZE(POSITIONS),
        <const unsigned char *>PyBytes_AS_STRING(name), PyBytes_GET_SIZE(name),
    )


# ---- the book ---------------------------------------------------------------------------------------------------


cdef class Book:
    """The position book of a store, as one handle of it sees and changes it.

    Parameters
    ----------
    log : Log
        Whose region has a book.
    env : Environment
    databases : dict
        Where the log is flushed to.
    writer : bytes
        Kept with every record.
    max_lag : float
        Seconds to wait for the mutex and for room, and that the oldest change may not be on disk.
    """

    cdef Log log
    cdef Environment env
    cdef MDB_dbi namespaces
    cdef MDB_dbi records
    cdef uint64_t fills_id          # in LMDB; 0: there was no fill yet
    cdef book_table_t *table
    cdef bytes writer
    cdef double patience
    cdef public bint plain          # booking is this object's, not the engine's
    cdef public object handle       # raises if the handle is closed
    cdef uint64_t max_lag
    cdef dict refs                  # PositionRef by key, and by symbol alone where that says all
    cdef uint64_t surveyed          # of so many keys it is known what follows:
    cdef list order
    cdef dict symbols               # references by symbol

    def __init__(self, Log log not None, Environment env not None, dict databases not None, bytes writer not None,
                 double max_lag):
        self.log = log
        self.table = <book_table_t *>log.log.book
        if self.table == NULL:
            raise LogDamaged(f"{log.region.path} has no position book")
        self.env = env
        self.namespaces = env.number_of(databases["namespaces"])
        self.records = env.number_of(databases["records"])
        self.writer = writer
        self.patience = max_lag
        self.max_lag = <uint64_t>(max_lag * 1e9) if 0 < max_lag < 1e9 else 0
        self.refs = {}
        self.order = []
        self.symbols = {}

    # ---- reading ----

    cdef PositionRef checked_find(self, tuple names):
        self.check()
        return self.find(names)

    cdef int check(self) except -1:
        """See that the memory is there, and the store open."""
        self.log.check_process()
        if self.log.is_shut and self.handle is not None:
            self.handle()
        return 0

    cdef PositionRef find(self, tuple names):
        """What is held under a key, or None."""
        cdef bytes name
        self.check()
        cdef book_slot_t *slot
        cdef book_slot_t *room = NULL
        cdef PositionRef ref = self.refs.get(names)
        if ref is not None:
            return ref
        name = name_of(names)
        slot = book_find(self.table, <const unsigned char *>PyBytes_AS_STRING(name), PyBytes_GET_SIZE(name),
                         hash_of(name), &room)
        if slot == NULL:
            return None
        return self.keep(names, slot)

    cdef PositionRef keep(self, tuple names, book_slot_t *slot):
        cdef PositionRef ref = PositionRef.__new__(PositionRef)
        ref.book = self
        ref.slot = slot
        ref.name = PyBytes_FromStringAndSize(<char *>slot.name, slot.name_size)
        ref.key = names
        self.refs[names] = ref
        if names[1] == names[2] == names[3] == "":
            self.refs[names[0]] = ref
        return ref

    cdef inline PositionRef aim(self, object symbol, object account, object strategy, object position_id):
        cdef PyObject *known
        if account is EMPTY and strategy is EMPTY and position_id is EMPTY:
            known = PyDict_GetItem(self.refs, symbol)
            if known != NULL:
                return <PositionRef>known
        return self.find((symbol, account, strategy, position_id))

    @cython.binding(False)
    def get(self, symbol, account="", strategy="", position_id=""):
        """Return what is held under a key, flat or not; None: nothing ever was.

        Notes
        -----
        **Complexity**: O(1), no lock; every process sees what any has booked.
        """
        cdef PositionRef ref = self.aim(symbol, account, strategy, position_id)
        return None if ref is None else ref.now()

    @cython.binding(False)
    def quantity(self, symbol, account="", strategy="", position_id=""):
        """Return what is held under a key, signed; 0.0 when flat or unknown."""
        cdef PositionRef ref = self.aim(symbol, account, strategy, position_id)
        return 0.0 if ref is None else ref.quantity

    @cython.binding(False)
    def ref(self, symbol, account="", strategy="", position_id=""):
        """Return a live reference to what is held under a key; made if there is none yet."""
        cdef PositionRef ref = self.aim(symbol, account, strategy, position_id)
        return self.made((symbol, account, strategy, position_id)) if ref is None else ref

    cdef PositionRef made(self, tuple names):
        cdef bytes name = name_of(names)
        cdef book_slot_t *slot
        self.take()
        slot = book_make_locked(self.table, <const unsigned char *>PyBytes_AS_STRING(name), PyBytes_GET_SIZE(name),
                                hash_of(name))
        log_release(&self.log.log)
        if slot == NULL:
            raise self.full()
        return self.keep(names, slot)

    cdef object full(self):
        return BookFull(f"the position book has its {self.table.used} keys; purge closed ones and open the store anew")

    cdef int take(self) except -1:
        """Take the log's mutex."""
        cdef log_append_outcome outcome
        self.check()
        self.log.check_not_shut()
        outcome = log_take(&self.log.log, 0)
        if outcome == APPEND_BUSY:
            with nogil:
                outcome = log_take(&self.log.log, <uint64_t>(self.patience * 1e9))
        if outcome == APPEND_BUSY:
            raise WriterStalled(mutex_holder(&self.log.log.control.writer), self.patience)
        if outcome != APPEND_DONE:
            raise self.log.damage("a writer found its words or its mutex unusable")
        return 0

    @property
    def used(self):
        """How many keys there are."""
        self.check()
        return word_acquire(&self.table.used)

    def keys(self):
        """Return all keys, in the order in which they came."""
        self.survey()
        return list(self.order)

    cdef int survey(self) except -1:
        """Know every key there is."""
        cdef uint64_t i, used
        cdef book_slot_t *slot
        cdef dict symbols = {}
        cdef list found = []
        cdef PositionRef ref
        self.check()
        used = word_acquire(&self.table.used)
        if used == self.surveyed:
            return 0
        for i in range(self.table.slot_count):
            slot = &self.table.slots[i]
            if word_acquire(&slot.hash) == 0 or slot.order >= used:
                continue
            names = tuple(PyBytes_FromStringAndSize(<char *>slot.name, slot.name_size).decode().split("\x1f"))
            ref = self.refs.get(names)
            found.append((slot.order, self.keep(names, slot) if ref is None else ref))
        found.sort(key=_first)
        for _, ref in found:
            symbols.setdefault(ref.key[0], []).append(ref)
        self.order = [ref.key for _, ref in found]
        self.symbols = symbols
        self.surveyed = used
        return 0

    def of_symbol(self, str symbol not None):
        """Return references to all positions of a symbol."""
        self.survey()
        return list(self.symbols.get(symbol, ()))

    def numbers(self, uint64_t count):
        """Return the numbers of the first `count` keys as packed rows: the key's place, ten floats, six integers."""
        cdef uint64_t i
        cdef book_slot_t *slot
        cdef bytearray rows = bytearray(count * sizeof(book_row_t))
        cdef book_row_t *row = <book_row_t *>PyByteArray_AS_STRING(rows)
        cdef book_position_t body
        cdef uint64_t made = 0
        self.log.check_process()
        with nogil:
            for i in range(self.table.slot_count):
                slot = &self.table.slots[i]
                if (made < count and word_acquire(&slot.hash) != 0 and slot.order < count
                        and book_read(slot, &body) != 0):
                    book_row(&row[made], slot.order, &body)
                    made += 1
        return bytes(memoryview(rows)[:made * sizeof(book_row_t)])

    def each(self):
        """Return all positions that were ever published, in no order."""
        cdef uint64_t i
        cdef book_slot_t *slot
        cdef Position found
        cdef list all_of = []
        self.check()
        for i in range(self.table.slot_count):
            slot = &self.table.slots[i]
            if word_acquire(&slot.hash) == 0:
                continue
            found = Position.__new__(Position)
            if book_read(slot, &found.body) == 0:
                continue
            found.names = tuple(
                PyBytes_FromStringAndSize(<char *>slot.name, slot.name_size).decode().split("\x1f")
            )
            all_of.append(found)
        return all_of

    # ---- booking ----

    @cython.binding(False)
    def apply_fill(
        self, symbol, quantity, price, *, side=None, trade_id, ts_event=None, fee=0, account="", strategy="",
        position_id="", reservation=None, fence=None, durable=None
    ):
        """Book a fill once: the same `trade_id` of the same key again changes nothing, and says so (``applied``).

        Parameters
        ----------
        quantity : number
            With `side` above zero, without it signed.
        price : number
            Of one unit, in the instrument's currency; may be below zero.
        side : {"buy", "sell"}, optional
        trade_id : str
            The broker's id of the fill, at most 128 bytes.
        ts_event : instant, optional
            When it happened; by default now.
        fee : number
            What was paid for it; below zero: a rebate.
        reservation : Reservation, optional
            What was reserved for it; so much less is reserved then.
        fence : Lock, LockToken or Fence, optional
            Book it only while this lease is current.
        durable : bool, optional
            Whether to return only when it is on disk; None: as the store's `durability` says.

        Raises
        ------
        FillConflict, FillTooOld
            The id was used for another fill; ids of that time are not kept any more.
        ValueError, OverflowError, TypeError
            A number is none, has too many digits or is too large.
        StaleFence, StorageError
            The lease is over; the store cannot take it.
        """
        cdef int sign = 0
        cdef tuple names = (symbol, account, strategy, position_id)
        if side is not None:
            if side not in ("buy", "sell"):
                raise ValueError(f"side must be 'buy', 'sell' or None (then quantity is signed), was {side!r}")
            sign = 1 if side == "buy" else -1
        if (not self.plain or ts_event is not None or reservation is not None or fence is not None
                or durable is not None):
            return self._apply_fill(
                names, trade_id, quantity, price, fee, sign, ts_event, fence, durable, reservation
            )
        self.handle()
        try:
            return self.book(names, self._define, trade_id, quantity, price, fee, sign, None, False, None, None)
        except Exception as error:
            self._raise(error)

    def book(
        self, tuple names not None, define not None, str id not None, quantity, price, amount, int sign=0,
        ts_event=None, bint cash=False, Claim claim=None, bytes writer=None
    ):
        """Book a fill, or cash, under an id: one group of the log, or nothing.

        Parameters
        ----------
        names : tuple of str
            The key.
        define : callable
            Asked for a symbol whose position is new: returns ``(price_precision, quantity_precision, multiplier,
            multiplier_precision, currency)``; `multiplier` is a mantissa, `currency` bytes.
        id : str
            Of what is booked once for each key.
        quantity, price : number
            Both 0 for cash.
        sign : int
            1 or -1: of a quantity that has none; 0: the quantity is signed.
        amount : number
            The fee that was paid, or the cash that was received.
        ts_event : int or None
            When it happened, ns UTC; None: now, and another time under the same id is no conflict.
        claim, writer
            The lease under which it is booked, and how the writer signs then.

        Returns
        -------
        Fill

        Raises
        ------
        Conflicting
            The id was used for something else.
        TooOld
            Ids of that time are not kept any more.
        ValueError, OverflowError, TypeError
            A number is none, has too many digits or is too large. Nothing was changed.
        BookFull, WriterStalled, LogFull, Trouble, StaleLease, LogDamaged, LogShut
            The log cannot take it. Nothing was changed.

        Notes
        -----
        **Complexity**: O(1), and a look into LMDB for the id. The GIL is kept, unless there is something to wait for.
        """
        cdef book_request_t request
        cdef book_request_outcome outcome
        cdef PositionRef ref = self.checked_find(names)
        cdef bytes name = name_of(names) if ref is None else ref.name
        cdef bytes key = name + b"\x1f" + id_bytes(id, cash)
        cdef int64_t now = log_now(&self.log.log)
        cdef bint again = True
        writer = self.prepare(&request, name, now, claim, writer)
        key_fill(&request.entry_key, ENTRIES, key)
        while again:
            if ref is None or book_read(ref.slot, &request.position) == 0:
                if request.fresh.format == 0:
                    begin(&request.fresh, define(names[0]))
                request.position = request.fresh
            fill(&request.entry, &request.position, quantity, price, amount, sign, cash)
            request.entry.has_time = ts_event is not None
            request.entry.ts_event = now if ts_event is None else ts_event
            self.log.check_process()
            self.log.check_not_shut()
            request.snapshot = word_acquire(&self.log.log.control.flushed.word)
            outcome = REQUEST_KNOWN if self.is_on_disk(&request) else self.run(&request, False)
            again = outcome == REQUEST_LOOK_AGAIN or outcome == REQUEST_PRECISION
            if outcome == REQUEST_PRECISION:
                ref = self.find(names)  # another process has made it meanwhile
        if outcome == REQUEST_KNOWN:
            return self.known(names, id, &request, quantity, price, amount, sign, cash, ts_event)
        if outcome != REQUEST_DONE:
            raise self.refusal(outcome, &request, f"id {id!r} of {'/'.join(filter(None, names))}")
        if ref is None:
            ref = self.keep(names, request.slot)
        return make_fill(names, id, &request.entry, &request.position, request.version)

    cdef bytes prepare(self, book_request_t *request, bytes name, int64_t now, Claim claim, bytes writer):
        """What all requests have; return the writer, to whose bytes it points, as it does to those of `name`."""
        memset(request, 0, sizeof(request[0]))
        key_fill(&request.position_key, POSITIONS, name)
        if writer is None:
            writer = self.writer
        request.writer = <const unsigned char *>PyBytes_AS_STRING(writer)
        request.writer_size = PyBytes_GET_SIZE(writer)
        if claim is not None:
            request.fence, request.fence_number, request.fencing = claim.word, claim.number, claim.mark
        request.max_lag = self.max_lag
        request.now = now
        request.if_version = BOOK_ANY_VERSION
        return writer

    cdef book_request_outcome run(self, book_request_t *request, bint sets) except *:
        """One request, after waiting for the mutex and for room."""
        cdef book_request_outcome outcome
        cdef book_position_t wanted = request.position
        cdef object deadline = None
        self.log.check_process()
        self.log.check_not_shut()
        outcome = request_run(&self.log.log, request, sets, 0)
        while outcome == REQUEST_LOG and (request.append == APPEND_BUSY or request.append == APPEND_NO_ROOM):
            PyErr_CheckSignals()
            if deadline is None:
                deadline = time.monotonic() + self.patience
            elif time.monotonic() >= deadline:
                break
            self.log.check_not_shut()
            if sets:
                request.position = wanted
            self.log.appending += 1
            with nogil:
                outcome = request_run(&self.log.log, request, sets, SLICE_NS)
            self.log.appending -= 1
        return outcome

    cdef Position set_to(
        self, tuple names, const book_position_t *body, object if_version, Claim claim, bytes writer
    ):
        cdef bytes name = name_of(names)
        cdef int64_t now
        cdef book_request_t request
        cdef book_request_outcome outcome
        cdef Position made
        self.check()
        now = log_now(&self.log.log)
        writer = self.prepare(&request, name, now, claim, writer)
        request.position = body[0]
        request.entry.ts_event = now
        if if_version is not None:
            request.if_version = if_version
        outcome = self.run(&request, True)
        if outcome != REQUEST_DONE:
            raise self.refusal(outcome, &request, f"the position {'/'.join(filter(None, names))}")
        if self.find(names) is None:
            self.keep(names, request.slot)
        made = Position.__new__(Position)
        made.body = request.position
        made.names = names
        return made

    def set(self, Position position not None, *, if_version=None, Claim claim=None, bytes writer=None):
        """Make what is held under a key what `position` says; return it as it is then.

        Raises :class:`Conflicting` if it has another version than `if_version`, or other precisions.
        """
        return self.set_to(position.names, &position.body, if_version, claim, writer)

    def forget(self, Position position not None, int64_t until):
        """Note that ids from before `until` are not kept any more; False: the position has changed meanwhile."""
        cdef book_position_t body = position.body
        body.fills_since = max(body.fills_since, until)
        try:
            self.set_to(position.names, &body, position.body.version, None, None)
        except Conflicting:
            return False
        return True

    cdef bint is_on_disk(self, book_request_t *request) except -1:
        """Whether the id is on disk; then the entry is what is there."""
        cdef cold_found_t found
        cdef cold_outcome outcome = COLD_FOUND
        cdef MDB_txn *txn = self.env.take_reader()
        if txn == NULL:
            raise LogDamaged(f"the data file beside {self.log.region.path} cannot be read")
        if self.fills_id == 0:
            outcome = cold_space(
                self.env.calls, txn, self.namespaces, <const unsigned char *>PyBytes_AS_STRING(ENTRIES),
                PyBytes_GET_SIZE(ENTRIES), &self.fills_id
            )
        if outcome == COLD_FOUND:
            outcome = cold_find(
                self.env.calls, txn, self.records, self.fills_id, request.entry_key.key, request.entry_key.key_size,
                &found
            )
        if outcome == COLD_FOUND and found.value_size == sizeof(book_entry_t):
            memcpy(&request.entry, found.value, sizeof(book_entry_t))
        self.env.give_reader(txn)
        if outcome != COLD_FOUND and outcome != COLD_ABSENT:
            raise LogDamaged(f"the record of an id in {self.log.region.path}'s data file is damaged; 'ntmem verify'")
        return outcome == COLD_FOUND

    cdef object known(
        self, tuple names, str id, const book_request_t *request, quantity, price, amount, int sign, bint cash,
        ts_event
    ):
        """What was booked under an id that is used again."""
        cdef book_entry_t said
        cdef const book_entry_t *was = &request.entry
        cdef PositionRef ref = self.find(names)
        cdef book_position_t body
        if ref is None or book_read(ref.slot, &body) == 0:
            body = request.fresh
        fill(&said, &body, quantity, price, amount, sign, cash)
        if (said.kind != was.kind or said.quantity != was.quantity or said.price != was.price or said.fee != was.fee
                or said.price_precision != was.price_precision or said.quantity_precision != was.quantity_precision
                or (ts_event is not None and was.has_time and ts_event != was.ts_event)):
            precision = was.price_precision + was.quantity_precision
            raise Conflicting(
                f"id {id!r} of {'/'.join(filter(None, names))} was booked with quantity "
                f"{decimal_of(was.quantity, was.quantity_precision)}, price "
                f"{decimal_of(was.price, was.price_precision)}, amount {decimal_of(was.fee, precision)} at "
                f"{was.ts_event}; the same id now means something else"
            )
        return make_fill(names, id, was, &body, 0)

    cdef object refusal(self, book_request_outcome outcome, const book_request_t *request, str what):
        cdef log_append_t append
        if outcome == REQUEST_CONFLICT:
            return Conflicting(f"{what} has another version than if_version; look at it again")
        if outcome == REQUEST_PRECISION:
            return Conflicting(f"{what} has other digits behind the point than were given")
        if outcome == REQUEST_FULL:
            return BookFull(f"the position book has its {self.table.used} keys; purge closed ones")
        if outcome == REQUEST_OVERFLOW:
            return OverflowError(f"{what} would make the position too large for its digits; nothing was changed")
        if outcome == REQUEST_OLD:
            return TooOld(
                f"{what} happened at {request.entry.ts_event if request.entry.has_time else 'a time not said'}, "
                f"ids from before {request.position.fills_since} are not kept any more: whether it was booked cannot "
                "be told unless ts_event= says that it happened since"
            )
        memset(&append, 0, sizeof(append))
        append.bytes = 2 * sizeof(book_position_t)
        append.fence_number = request.fence_number
        return self.log.refusal(request.append, &append, self.patience)

    def mark_one(self, PositionRef ref not None, price, int64_t ts):
        """Value a position at a price, unless it was marked later already."""
        cdef book_position_t body
        cdef int64_t mantissa
        cdef log_append_outcome outcome
        if ref.read(&body) == 0:
            return
        mantissa = small(mantissa_of(price, body.price_precision, "price"), "price", price)
        self.log.check_not_shut()
        outcome = book_mark(&self.log.log, ref.slot, mantissa, ts, 0)
        if outcome == APPEND_BUSY:
            with nogil:
                outcome = book_mark(&self.log.log, ref.slot, mantissa, ts, <uint64_t>(self.patience * 1e9))
        if outcome == APPEND_BUSY:
            raise WriterStalled(mutex_holder(&self.log.log.control.writer), self.patience)
        if outcome != APPEND_DONE:
            raise self.log.damage("a writer found its words or its mutex unusable")
