"""What is to be seen of a book of positions."""

from __future__ import annotations

from decimal import Decimal as D
from typing import Any


def image(book: Any) -> tuple[Any, ...]:
    """All that is to be seen of a book."""
    symbols = sorted({*book.snapshot()["symbol"].tolist()})
    return book.snapshot().tobytes(), [book.fills(symbol).tobytes() for symbol in symbols]


def numbers(position: Any) -> tuple[D, ...]:
    """Return its sums."""
    return position.quantity_decimal, position.cost_decimal, position.realized_pnl_decimal
