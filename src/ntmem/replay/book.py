"""The positions of the replay, computed again from their fills, in Decimal.

The store's book books fill by fill in fixed point (``docs/design/positions.md``); :func:`recompute` comes to the same
from the list of fills, and :func:`check` compares. Every figure has to be equal, not close.
"""

from __future__ import annotations

from collections.abc import Iterable
from decimal import ROUND_HALF_EVEN, Context, Decimal, DivisionByZero, Inexact, InvalidOperation, Overflow
from typing import NamedTuple, Protocol

_FATAL = [InvalidOperation, DivisionByZero, Overflow]
_EXACT = Context(prec=120, rounding=ROUND_HALF_EVEN, traps=[*_FATAL, Inexact])
_WIDE = Context(prec=120, rounding=ROUND_HALF_EVEN, traps=_FATAL)
_NONE = Decimal(0)


class Booked(Protocol):
    """A fill, as far as it matters here."""

    @property
    def quantity_decimal(self) -> Decimal:
        """Signed."""

    @property
    def price_decimal(self) -> Decimal:
        """Of one."""


class Held(Protocol):
    """A position, as far as it matters here."""

    @property
    def quantity_decimal(self) -> Decimal:
        """Signed."""

    @property
    def cost_decimal(self) -> Decimal:
        """What it cost, signed like it."""

    @property
    def realized_pnl_decimal(self) -> Decimal:
        """Of what was closed."""


class Recomputed(NamedTuple):
    """What fills come to.

    Attributes
    ----------
    quantity : Decimal
        Signed.
    cost : Decimal
        What it cost, by average cost.
    realized_pnl : Decimal
        Of what was closed.
    cash : Decimal
        What all fills brought, less what they cost. ``realized_pnl`` is ``cash + cost``: another way to the same.
    """

    quantity: Decimal = _NONE
    cost: Decimal = _NONE
    realized_pnl: Decimal = _NONE
    cash: Decimal = _NONE

    def total_pnl(self, price: Decimal) -> Decimal:
        """Return realized and unrealized profit and loss at a price: what undoing all of it there would bring."""
        return _EXACT.add(self.cash, _EXACT.multiply(self.quantity, price))


def recompute(fills: Iterable[Booked], unit: Decimal) -> Recomputed:
    """Return what fills come to, in the order in which they were booked.

    Parameters
    ----------
    unit : Decimal
        Of money: the share of the cost that what is closed takes with it is rounded to it, half to even.
    """
    quantity = cost = realized = cash = _NONE
    for fill in fills:
        change, price = fill.quantity_decimal, fill.price_decimal
        value = _EXACT.multiply(change, price)
        after = _EXACT.add(quantity, change)
        cash = _EXACT.subtract(cash, value)
        if quantity * change >= 0:  # opened, or added to
            cost = _EXACT.add(cost, value)
        else:
            closed = min(change.copy_abs(), quantity.copy_abs()).copy_sign(quantity)
            share = _WIDE.divide(_EXACT.multiply(cost, closed), quantity).quantize(unit, context=_WIDE)
            realized = _EXACT.add(realized, _EXACT.subtract(_EXACT.multiply(closed, price), share))
            flips = after * quantity < 0
            cost = _EXACT.multiply(after, price) if flips else _EXACT.subtract(cost, share)
        quantity = after
    return Recomputed(quantity, cost, realized, cash)


def check(position: Held | None, recomputed: Recomputed) -> list[str]:
    """Return how a position differs from what its fills come to; nothing, if it does not."""
    kept = (
        (_NONE, _NONE, _NONE)
        if position is None
        else (position.quantity_decimal, position.cost_decimal, position.realized_pnl_decimal)
    )
    names = ("quantity", "cost", "realized P&L")
    differences = [
        f"{name} is {have}, the fills make {want}"
        for name, have, want in zip(names, kept, recomputed, strict=False)
        if have != want
    ]
    if _EXACT.add(recomputed.cash, recomputed.cost) != recomputed.realized_pnl:
        differences.append(f"the fills realized {recomputed.realized_pnl}, and brought {recomputed.cash}")
    return differences
