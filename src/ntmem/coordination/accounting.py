"""Realised P&L of an account and strategy since a moment: what the book says now, less what it said then.

**Invariants**

- The book's own numbers are added up, exactly; nothing is counted beside them, so nothing can be counted twice.
- Money of different currencies is never added up.
"""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Context, Decimal, Inexact
from typing import NamedTuple

from .._core.position import of_record
from ..errors import CorruptionError, PositionError
from ..tiers.engine import LmdbEngine
from ..tiers.guards import POSITIONS

_EXACT = Context(prec=200, traps=[Inexact])
_NONE = Decimal(0)

Key = tuple[str, str, str, str]


class ProfitAndLoss(NamedTuple):
    """What trading brought, in one currency.

    Attributes
    ----------
    realized_pnl : Decimal
        Of what was closed, at average cost; fees and funding are not in it.
    fees : Decimal
        Paid: above zero.
    funding : Decimal
        Received: above zero.
    currency : str
        Empty if none was defined.
    """

    realized_pnl: Decimal
    fees: Decimal
    funding: Decimal
    currency: str = ""

    @property
    def net(self) -> Decimal:
        """What is left of it: realised, less fees, plus funding."""
        return _EXACT.add(_EXACT.subtract(self.realized_pnl, self.fees), self.funding)


NOTHING = ProfitAndLoss(_NONE, _NONE, _NONE)


def figures(engine: LmdbEngine, account: str, strategy: str) -> dict[Key, ProfitAndLoss]:
    """Return what was booked to each position of an account and strategy. O(positions of the store).

    By the records: those of positions that were purged have no slot in the book any more.
    """
    found: dict[Key, ProfitAndLoss] = {}
    for name, stored in engine.entries_of(POSITIONS, b""):
        symbol, of_account, of_strategy, position_id = name.decode().split("\x1f")
        if (of_account, of_strategy) != (account, strategy):
            continue
        key = (symbol, account, strategy, position_id)
        try:
            each = of_record(key, stored.value)
        except ValueError as error:
            raise CorruptionError(f"{error}; see 'ntmem verify'") from error
        found[key] = ProfitAndLoss(each.realized_pnl_decimal, each.fees_decimal, each.funding_decimal, each.currency)
    return found


def since(now: Mapping[Key, ProfitAndLoss], then: Mapping[Key, ProfitAndLoss]) -> dict[str, ProfitAndLoss]:
    """Return by currency what came of all positions between two moments."""
    total: dict[str, ProfitAndLoss] = {}
    for key, after in now.items():
        before = then.get(key, NOTHING)
        so_far = total.get(after.currency, NOTHING)
        sums = [
            _EXACT.add(sofar, _EXACT.subtract(amount, less))
            for sofar, amount, less in zip(so_far[:3], after[:3], before[:3], strict=True)
        ]
        total[after.currency] = ProfitAndLoss(sums[0], sums[1], sums[2], after.currency)
    return total


def of_one(total: Mapping[str, ProfitAndLoss], whose: str) -> ProfitAndLoss:
    """Return the only one; raise :class:`PositionError` if there are several currencies."""
    if len(total) > 1:
        names = ", ".join(repr(name) for name in sorted(total))
        raise PositionError(f"{whose} has money in {len(total)} currencies ({names}); pnl() has each of them")
    return next(iter(total.values()), NOTHING)
