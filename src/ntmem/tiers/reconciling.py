"""What a broker says is held, beside what the book says."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

from .._core.position import Position, scaled
from ..errors import PositionError
from .instruments import NOTHING, total


@dataclass(frozen=True)
class Difference:
    """A symbol of which the broker says something else than the book."""

    symbol: str
    account: str
    book: Decimal
    broker: Decimal


@dataclass(frozen=True)
class ReconcileReport:
    """What :meth:`~ntmem.tiers.positions.Positions.reconcile` found."""

    account: str
    matched: int
    differences: tuple[Difference, ...] = field(default=())

    @property
    def ok(self) -> bool:
        """Whether book and broker agree."""
        return not self.differences


def by_symbol(positions: Iterable[Position]) -> dict[str, Decimal]:
    """Return what is held of each symbol, summed up exactly."""
    found: dict[str, Decimal] = {}
    for each in positions:
        found[each.symbol] = total((found.get(each.symbol, NOTHING), each.quantity_decimal))
    return found


def compared(account: str, ours: Mapping[str, Decimal], theirs: Mapping[str, Decimal]) -> ReconcileReport:
    """Return where quantities of the book and of the broker differ; a symbol that one does not name is flat there."""
    symbols = sorted(ours.keys() | theirs.keys())
    different = tuple(
        Difference(symbol, account, ours.get(symbol, NOTHING), theirs.get(symbol, NOTHING))
        for symbol in symbols
        if ours.get(symbol, NOTHING) != theirs.get(symbol, NOTHING)
    )
    return ReconcileReport(account, len(symbols) - len(different), different)


def check_linear(position: Mapping[str, Any]) -> None:
    """Raise :class:`PositionError` for a ccxt position of an inverse contract."""
    if position.get("inverse") or (position.get("linear") is False):
        raise PositionError(f"{position['symbol']!r} is an inverse contract, which the book would compute wrongly")


def of_ccxt(position: Mapping[str, Any], definition: tuple[Any, ...], account: str, strategy: str) -> Position:
    """Return what a ccxt position says, in the digits of its instrument."""
    size = Decimal(str(position["contracts"] or 0))
    signed = -size if position.get("side") == "short" else size
    hedged = position.get("hedged")
    return scaled(
        (position["symbol"], account, strategy, str(position.get("side") or "") if hedged else ""),
        definition,
        quantity=signed,
        average_price=position.get("entryPrice") or 0,
        mark=position.get("markPrice"),
        ts=_ms(position.get("timestamp")),
    )


def _ms(timestamp: Any) -> int | None:
    return None if timestamp is None else int(timestamp) * 1_000_000
