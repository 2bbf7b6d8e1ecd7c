"""A fill: what was booked under an id, and an entry of the book as it is made of arguments."""

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING
from libc.stdint cimport uint64_t
from libc.string cimport memcpy, memset

from ntmem._core.bookformat cimport *
from ntmem._core.position cimport Position, decimal_of, mantissa_of, name_of, small


cdef enum:
    MOST_ID = 128

cdef bytes CASH = b"\x1e"


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


def settled(Fill fill not None, uint64_t version):
    """Return a drafted fill as it was booked."""
    cdef Fill made = make_fill(fill.position.names, fill.id, &fill.body, &fill.position.body, version)
    made.position.body.version = version
    return made


def entry_key(tuple names not None, str id not None):
    """Return the key under which a fill is kept."""
    return name_of(names) + b"\x1f" + id_bytes(id, False)


def entry_of(str id not None, bytes data not None, Position position not None):
    """Return a fill from the bytes that are kept of it."""
    cdef book_entry_t entry
    if len(data) != sizeof(book_entry_t):
        raise ValueError(f"an entry has {sizeof(book_entry_t)} bytes, had {len(data)}")
    memcpy(&entry, PyBytes_AS_STRING(data), sizeof(entry))
    return make_fill(position.names, id, &entry, &position.body, 0)


cpdef int sign_of(side) except? -2:
    """Return 1 for a side that buys, -1 for one that sells, 0 for None: the quantity is signed."""
    if side is None:
        return 0
    if side not in ("buy", "sell"):
        raise ValueError(f"side must be 'buy', 'sell' or None (then quantity is signed), was {side!r}")
    return 1 if side == "buy" else -1


cdef bytes id_bytes(str id, bint cash):
    """The bytes of an id as they end a key; those of cash are told from trade ids by what they begin with."""
    cdef bytes raw = id.encode()
    if not 0 < len(raw) <= MOST_ID or b"\x1f" in raw or b"\x1e" in raw or b"\0" in raw:
        raise ValueError(f"an id has 1 to {MOST_ID} bytes of UTF-8 and no control characters, was {id!r}")
    return CASH + raw if cash else raw


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
