"""What symbols mean to the position book: digits, multiplier, currency; and numbers that are kept exactly."""

from __future__ import annotations

from collections.abc import Iterable
from decimal import Context, Decimal, Inexact, InvalidOperation
from functools import reduce
from typing import Any, NamedTuple

from .._core.position import check_names
from .bookrows import CURRENCY, MOST_PRECISION

Number = int | float | Decimal | str

_PRECISION = 8  # of an instrument that was not defined: what the exchanges of crypto currencies use at most
_MULTIPLIER_PRECISION = 9
NOTHING = Decimal(0)
_EXACT = Context(prec=200, traps=[Inexact])


class Instrument(NamedTuple):
    """What a symbol means: digits of its prices and quantities, units in a contract, currency of its money."""

    symbol: str
    price_precision: int = _PRECISION
    quantity_precision: int = _PRECISION
    multiplier: Decimal = Decimal(1)
    currency: str = ""


def total(numbers: Iterable[Decimal]) -> Decimal:
    """Return a sum exactly: the caller's context may have few digits."""
    return reduce(_EXACT.add, numbers, NOTHING)


def decimal_of(number: Any, what: str) -> Decimal:
    """Return a number exactly, a float by its shortest digits."""
    if isinstance(number, bool) or not isinstance(number, int | float | Decimal | str):
        raise TypeError(f"{what} must be an int, float, Decimal or str, was {type(number).__name__}")
    try:
        found = Decimal(str(number))
    except InvalidOperation:
        found = Decimal("nan")
    if not found.is_finite():
        raise ValueError(f"{what} must be a finite number, was {number!r}")
    return found


def precision_of(digits: int | None, name: str) -> int:
    """Return how many digits are kept behind the point; raise what is wrong with what was said."""
    if digits is None:
        return _PRECISION
    if type(digits) is not int or not 0 <= digits <= MOST_PRECISION:
        raise ValueError(f"{name} must be an int from 0 to {MOST_PRECISION}, was {digits!r}")
    return digits


def definition_of(said: Instrument) -> tuple[int, int, int, int, bytes]:
    """Return an instrument as the native book has it: both precisions, multiplier and its digits, currency."""
    sign, _, exponent = said.multiplier.normalize().as_tuple()
    places = -int(exponent) if int(exponent) < 0 else 0
    mantissa = int(said.multiplier.scaleb(places)) if said.multiplier.is_finite() else 0
    if sign or mantissa <= 0 or places > _MULTIPLIER_PRECISION or mantissa >= 2**63:
        raise ValueError(
            f"multiplier must be above 0 with at most {_MULTIPLIER_PRECISION} digits behind the point, was "
            f"{said.multiplier}"
        )
    currency = said.currency.encode()
    if len(currency) > CURRENCY or b"\0" in currency:
        raise ValueError(f"currency has at most {CURRENCY} bytes, was {said.currency!r}")
    return said.price_precision, said.quantity_precision, mantissa, places, currency


def check_instrument(symbol: Any, price: int, quantity: int, multiplier: str, currency: Any) -> None:
    """Raise ``TypeError`` or ``ValueError`` unless `define` of the book could have said this."""
    check_names(symbol)
    if not isinstance(currency, str):
        raise TypeError(f"currency must be a str, was {type(currency).__name__}")
    definition_of(Instrument(symbol, price, quantity, decimal_of(multiplier, "multiplier"), currency))


def booked_with(record: bytes) -> tuple[int, int, int, int]:
    """Return what the record of a position was booked with, as of :func:`definition_of`."""
    return record[1], record[2], int.from_bytes(record[8:16], "little", signed=True), record[3]
