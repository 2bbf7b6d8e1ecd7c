"""Reservations: intents to trade that count against a limit, kept for each (symbol, account, strategy).

**Invariant**: all that is reserved under such a key is one value, which is changed by compare-and-set; so nobody's
intent is lost, and of two that do not fit together one is refused.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable
from decimal import Decimal
from typing import NamedTuple

from ..errors import LimitExceeded, StorageError, VersionConflict
from ..records import Change, FenceLike, fence_of
from ..values import CODECS
from .guards import RESERVATIONS
from .instruments import total
from .log import LogEngine
from .reader import QuietEngine

Where = tuple[str, str, str]
Kept = dict[str, tuple[Decimal, int, str]]
"""By id: the quantity, when it is over, whose it is."""

_CODEC = CODECS["msgpack"]
_ATTEMPTS = 100


class Reservation(NamedTuple):
    """An intent to trade that counts against a limit until it is filled, released or over."""

    id: str
    symbol: str
    account: str
    strategy: str
    quantity: Decimal
    owner: str
    expires_at: int
    """By the store's clock, ns UTC."""


def reserved(engine: LogEngine | QuietEngine, where: Where) -> tuple[int, Kept]:
    """Return what is reserved under a key and not over, and the version of that."""
    record = engine.get_record(RESERVATIONS, _key(where), None)
    if record is None or record.value is None:
        return 0, {}
    now, said = engine.now(), _CODEC.decode(record.value)
    return record.version, {
        name: (Decimal(amount), expires, owner) for name, (amount, expires, owner) in said.items() if expires > now
    }


def reserve(
    engine: LogEngine,
    where: Where,
    wanted: Decimal,
    limit: Decimal,
    lasts: int,
    owner: str | None,
    fence: FenceLike | None,
    holds: Callable[[], Decimal],
) -> Reservation:
    """Announce a trade of `wanted` for `lasts` ns, where `holds` says what is held, or raise :class:`LimitExceeded`."""
    symbol = where[0]
    for _ in range(_ATTEMPTS):
        version, kept = reserved(engine, where)
        held = holds()
        side = total(amount for amount, _, _ in kept.values() if (amount > 0) == (wanted > 0))
        after = total((held, side, wanted))
        if after.copy_abs() > limit and (after > 0) == (wanted > 0):
            raise LimitExceeded(
                f"{symbol!r}: {held} is held, {side} reserved, {wanted} more would be {after}; the limit is {limit}"
            )
        name, signed = uuid.uuid4().hex, owner or engine.writer.decode()
        made = Reservation(name, *where, wanted, signed, engine.now() + lasts)
        kept[made.id] = (wanted, made.expires_at, made.owner)
        if _keep(engine, where, version, kept, fence):
            return made
    raise StorageError(f"reservations of {symbol!r} changed {_ATTEMPTS} times while this one was made; try again")


def use_up(engine: LogEngine | QuietEngine, reservation: Reservation, quantity: Decimal) -> bool:
    """Take a quantity, without a sign, off a reservation, which ends with it; return whether it was there."""
    where = (reservation.symbol, reservation.account, reservation.strategy)
    for _ in range(_ATTEMPTS):
        version, kept = reserved(engine, where)
        if reservation.id not in kept:
            return False
        amount, expires, owner = kept.pop(reservation.id)
        left = total((amount.copy_abs(), quantity.copy_negate()))
        if left > 0:
            kept[reservation.id] = (left.copy_sign(amount), expires, owner)
        if _keep(engine, where, version, kept, None):
            return True
    raise StorageError(f"reservations of {reservation.symbol!r} changed {_ATTEMPTS} times; try again")


def _keep(engine: LogEngine | QuietEngine, where: Where, version: int, kept: Kept, fence: FenceLike | None) -> bool:
    data = _CODEC.encode({name: [str(amount), expires, owner] for name, (amount, expires, owner) in kept.items()})
    change = Change("put", RESERVATIONS, _key(where), data, if_version=version, own=True)
    try:
        engine.commit([change], fence=None if fence is None else fence_of(fence))
    except VersionConflict:
        return False
    return True


def _key(where: Where) -> bytes:
    return "\x1f".join(where).encode()
