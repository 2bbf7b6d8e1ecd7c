"""The position book of the replay: a plain record per agent, until the store has a position book of its own.

:class:`Position` is what agents keep, in Decimal, fill by fill. :func:`recompute` comes to the same figures from the
list of fills in another way, in fractions, and :func:`check` compares the two.

**Invariants**

1. ``quantity`` and ``cash`` are exact: an operation that would round raises. So the total profit and loss,
   ``cash + quantity * price``, is exact as well.
2. ``cost`` is that of the average-cost method. It is rounded, to 120 digits, only from where a position that was
   built at several prices is partly closed; at zero quantity it is zero and ``realized_pnl`` is ``cash``, exact.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from decimal import (
    ROUND_HALF_EVEN,
    Context,
    Decimal,
    DivisionByZero,
    Inexact,
    InvalidOperation,
    Overflow,
)
from fractions import Fraction
from typing import Any, NamedTuple, Self

_FATAL = [InvalidOperation, DivisionByZero, Overflow]
_ROUNDING = Context(prec=120, rounding=ROUND_HALF_EVEN, traps=_FATAL)
_EXACT = Context(prec=120, rounding=ROUND_HALF_EVEN, traps=[*_FATAL, Inexact])
_PLACES = Decimal(1).scaleb(-20)
_ZERO = Decimal(0)


@dataclass(frozen=True, slots=True)
class Position:
    """What an agent holds of one symbol.

    Attributes
    ----------
    quantity : Decimal
        Signed: below zero is short.
    cost : Decimal
        What the held quantity cost, signed like it.
    cash : Decimal
        What all fills so far brought in, less what they cost.
    """

    quantity: Decimal = _ZERO
    cost: Decimal = _ZERO
    cash: Decimal = _ZERO

    @property
    def average_price(self) -> Decimal:
        """Average price of the held quantity; 0 when flat."""
        return _ROUNDING.divide(self.cost, self.quantity) if self.quantity else _ZERO

    @property
    def realized_pnl(self) -> Decimal:
        """Profit and loss of what was closed."""
        return _ROUNDING.add(self.cash, self.cost)

    def total_pnl(self, price: Decimal) -> Decimal:
        """Return realized and unrealized profit and loss at a price; exact."""
        return _EXACT.add(self.cash, _EXACT.multiply(self.quantity, price))

    def fill(self, quantity: Decimal, price: Decimal) -> Position:
        """Return the position after a fill of a signed quantity."""
        value = _EXACT.multiply(quantity, price)
        after = _EXACT.add(self.quantity, quantity)
        cash = _EXACT.subtract(self.cash, value)
        if self.quantity * quantity >= 0:  # opened or added to
            return Position(after, _ROUNDING.add(self.cost, value), cash)
        if after == 0:
            return Position(_ZERO, _ZERO, cash)
        if (after > 0) != (self.quantity > 0):  # flipped: what is left was bought at this price
            return Position(after, _EXACT.multiply(after, price), cash)
        left = _ROUNDING.divide(_ROUNDING.multiply(self.cost, after), self.quantity)
        return Position(after, left, cash)

    def to_record(self) -> dict[str, str]:
        """Return the position as it is stored: decimal text."""
        return {
            "quantity": str(self.quantity),
            "average_price": str(self.average_price),
            "realized_pnl": str(self.realized_pnl),
            "cost": str(self.cost),
            "cash": str(self.cash),
        }

    @classmethod
    def from_record(cls, record: Mapping[str, str]) -> Self:
        """Return the position that :meth:`to_record` described."""
        return cls(*(_ROUNDING.create_decimal(record[name]) for name in ("quantity", "cost", "cash")))


class Recomputed(NamedTuple):
    """The book as the fills alone have it."""

    quantity: Fraction
    realized_pnl: Fraction
    total_pnl: Fraction
    fills: int


def recompute(fills: Iterable[Mapping[str, Any]], price: Decimal) -> Recomputed:
    """Return quantity and profit and loss of fills, in fractions and lot by lot.

    A lot is one entry fill with the part of it that is still held. An exit takes the same share of every lot, which
    is what the average-cost method means; its profit is summed over the lots it took from. The total is the plain
    sum over all fills of what they would bring if undone at `price`.

    Complexity: O(fills) while positions go flat now and then, quadratic if they never do.
    """
    lots: list[tuple[Fraction, Fraction]] = []  # (signed quantity, price), all of one sign
    realized = total = Fraction(0)
    count = 0
    for fill in fills:
        count += 1
        sign = {"buy": 1, "sell": -1}[fill["side"]]
        quantity, paid = sign * Fraction(fill["quantity"]), Fraction(fill["price"])
        total += quantity * (Fraction(price) - paid)
        held = sum((lot for lot, _ in lots), Fraction(0))
        if held * quantity < 0:
            share = min(Fraction(1), -quantity / held)
            realized += sum((share * lot * (paid - entry) for lot, entry in lots), Fraction(0))
            lots = [(lot * (1 - share), entry) for lot, entry in lots] if share < 1 else []
            quantity += share * held
        if quantity:
            lots.append((quantity, paid))
    return Recomputed(sum((lot for lot, _ in lots), Fraction(0)), realized, total, count)


def check(position: Position, recomputed: Recomputed, price: Decimal) -> list[str]:
    """Return how a kept position differs from the recomputed book; nothing, if it does not.

    Quantity and total profit and loss must be equal as fractions, the realized part to 20 decimals (it may hold a
    rounded average price).
    """
    differences = []
    if Fraction(position.quantity) != recomputed.quantity:
        differences.append(f"quantity is {position.quantity}, the fills make {recomputed.quantity}")
    if Fraction(position.total_pnl(price)) != recomputed.total_pnl:
        differences.append(f"total P&L is {position.total_pnl(price)}, the fills make {float(recomputed.total_pnl)}")
    realized = recomputed.realized_pnl
    expected = _ROUNDING.divide(Decimal(realized.numerator), Decimal(realized.denominator))
    if _ROUNDING.quantize(position.realized_pnl, _PLACES) != _ROUNDING.quantize(expected, _PLACES):
        differences.append(f"realized P&L is {position.realized_pnl}, the fills make {expected:.20f}")
    return differences
