"""A position: what is held under one key at one moment, and its numbers as Python knows them.

Invariants
----------
1. Quantities, prices and money are integers (``fixed.h``, ``book.h``). What would overflow, or round what was given
   exactly, is refused.
"""

from decimal import Context, Decimal, Inexact

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from cpython.unicode cimport PyUnicode_DecodeASCII
from libc.stdint cimport int64_t
from libc.string cimport memcpy, memset

from ntmem._core.bookformat cimport *

from ntmem._core.text import html_of_position


cdef extern from "Python.h":
    const char *PyUnicode_AsUTF8AndSize(object text, Py_ssize_t *size) except NULL

_EXACT = Context(prec=120, traps=[Inexact])
_AVERAGE = Context(prec=34)
_WIDE = Context(prec=400)  # of any float's digits


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

    def __init__(self):
        raise TypeError("positions come from a position book")

    cdef int money_precision(self) noexcept:
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

    def _repr_html_(self):
        return html_of_position(self)

    def __repr__(self):
        return (
            f"<Position {'/'.join(filter(None, self.names))} {self.quantity:g} @ {self.average_price:g} "
            f"realized {self.realized_pnl:g}>"
        )


# ---- from arguments ---------------------------------------------------------------------------------------------


cdef int64_t small(int128_t mantissa, str what, object number) except? -1:
    if not fixed_is_small(mantissa):
        raise OverflowError(
            f"{what} is too large for this instrument's digits behind the point, was {number!s}; define it with fewer"
        )
    return <int64_t>mantissa


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


def check_names(symbol, account="", strategy="", position_id=""):
    """Raise what is to be raised of names that are none."""
    name_of((symbol, account, strategy, position_id))


cdef int begin(book_position_t *position, tuple definition) except -1:
    """A position of which nothing was booked yet."""
    cdef bytes currency
    memset(position, 0, sizeof(position[0]))
    position.format = BOOK_FORMAT
    position.price_precision, position.quantity_precision = definition[0], definition[1]
    position.multiplier, position.multiplier_precision, currency = definition[2], definition[3], definition[4]
    memcpy(position.currency, PyBytes_AS_STRING(currency), min(PyBytes_GET_SIZE(currency), BOOK_CURRENCY))
    return 0


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


def of_record(tuple names not None, bytes value not None):
    """Return the position that a record of the book says; raise ``ValueError`` if it is none of this version's."""
    cdef Position made = Position.__new__(Position)
    if len(value) == sizeof(book_position_t):
        memcpy(&made.body, PyBytes_AS_STRING(value), sizeof(book_position_t))
    if len(value) != sizeof(book_position_t) or not book_is_sound(&made.body):
        name = "/".join(filter(None, names))
        raise ValueError(f"the record of position {name} is none of this version's, or damaged")
    made.names = names
    return made
