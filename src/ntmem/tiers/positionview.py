"""The position book of one account and strategy."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .._core.fill import Fill
from .._core.position import Position
from .._core.positions import PositionRef
from ..instants import Instant
from .instruments import Number
from .reservations import Reservation

if TYPE_CHECKING:
    import numpy as np

    from .positions import Positions


class PositionView:
    """The calls of a position book, bound to an account and a strategy.

    Made by :meth:`~ntmem.tiers.positions.Positions.view`.
    """

    def __init__(self, book: Positions, account: str, strategy: str) -> None:
        self._book = book
        self._bound: dict[str, Any] = {"account": account, "strategy": strategy}

    def get(self, symbol: str, position_id: str = "") -> Position | None:
        """Return :meth:`~ntmem.tiers.positions.Positions.get`."""
        return self._book.get(symbol, self._bound["account"], self._bound["strategy"], position_id)

    def quantity(self, symbol: str, position_id: str = "") -> float:
        """Return :meth:`~ntmem.tiers.positions.Positions.quantity`."""
        return self._book.quantity(symbol, self._bound["account"], self._bound["strategy"], position_id)

    def ref(self, symbol: str, position_id: str = "") -> PositionRef:
        """Return :meth:`~ntmem.tiers.positions.Positions.ref`."""
        return self._book.ref(symbol, self._bound["account"], self._bound["strategy"], position_id)

    def net(self, symbol: str) -> float:
        """Return what is held of a symbol here, position ids summed up."""
        return self._book.net(symbol, **self._bound)

    def apply_fill(self, symbol: str, quantity: Number, price: Number, **how: Any) -> Fill:
        """Do :meth:`~ntmem.tiers.positions.Positions.apply_fill`."""
        return self._book.apply_fill(symbol, quantity, price, **self._bound, **how)

    def apply_cash(self, symbol: str, amount: Number, **how: Any) -> Fill:
        """Do :meth:`~ntmem.tiers.positions.Positions.apply_cash`."""
        return self._book.apply_cash(symbol, amount, **self._bound, **how)

    def fills(self, symbol: str, start: Instant | None = None, end: Instant | None = None, **how: Any) -> np.ndarray:
        """Return :meth:`~ntmem.tiers.positions.Positions.fills`."""
        return self._book.fills(symbol, start, end, **self._bound, **how)

    def fill(self, symbol: str, trade_id: str, position_id: str = "") -> Fill | None:
        """Return :meth:`~ntmem.tiers.positions.Positions.fill`."""
        return self._book.fill(symbol, trade_id, self._bound["account"], self._bound["strategy"], position_id)

    def reserve(self, symbol: str, quantity: Number, **how: Any) -> Reservation:
        """Do :meth:`~ntmem.tiers.positions.Positions.reserve`."""
        return self._book.reserve(symbol, quantity, **self._bound, **how)

    def open_positions(self) -> list[Position]:
        """Return the positions here that are not flat."""
        return self._book.open_positions(**self._bound)
