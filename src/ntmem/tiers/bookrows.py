"""Rows of the position book as numbers: pure functions between bytes and whole numbers, and what fills come to.

The layout is that of ``_core/book.h``. Quantities and prices are whole numbers of 10^-precision, money of 10^-(both).
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from typing import NamedTuple

from ..errors import CorruptionError

FORMAT = 1
FILL, FUNDING = 0, 1
MOST_PRECISION = 18
CURRENCY = 12  # bytes
SEPARATOR, CASH = b"\x1f", b"\x1e"

_ENTRY = struct.Struct("<BBBBB3xqqq")  # then fee and realized
_POSITION = struct.Struct("<BBBBB3xq12s4xQQqqqqqqqq")  # then cost, realized, fees, funding
_MONEY = 16


class Entry(NamedTuple):
    """What is kept of a fill, or of cash, under its id."""

    format: int
    price_precision: int
    quantity_precision: int
    kind: int
    has_time: int
    quantity: int
    price: int
    ts_event: int
    fee: int
    """Or the amount of cash."""
    realized: int


class Held(NamedTuple):
    """What is held under a key."""

    format: int
    price_precision: int
    quantity_precision: int
    multiplier_precision: int
    was_set: int
    """To what somebody said it is."""
    multiplier: int
    currency: bytes
    version: int
    fills: int
    quantity: int
    peak: int
    ts_opened: int
    ts_last: int
    ts_closed: int
    fills_since: int
    mark: int
    ts_mark: int
    cost: int
    realized: int
    fees: int
    funding: int


def _money(data: bytes, at: int) -> list[int]:
    return [int.from_bytes(data[i : i + _MONEY], "little", signed=True) for i in range(at, len(data), _MONEY)]


def decode_entry(data: bytes) -> Entry:
    """Return what is kept of a fill."""
    if len(data) != _ENTRY.size + 2 * _MONEY or data[0] != FORMAT:
        raise CorruptionError(f"a fill has {len(data)} bytes of format {data[:1].hex() or 'none'}; restore a backup")
    return Entry(*_ENTRY.unpack_from(data), *_money(data, _ENTRY.size))


def encode_entry(entry: Entry) -> bytes:
    """Return the bytes of a fill."""
    return _ENTRY.pack(*entry[:8]) + b"".join(it.to_bytes(_MONEY, "little", signed=True) for it in entry[8:])


def is_same(a: Entry, b: Entry) -> bool:
    """Whether two entries of one id have the same content: times count where both were given."""
    timed = a.has_time and b.has_time
    return (a[:4], a.quantity, a.price, a.fee) == (b[:4], b.quantity, b.price, b.fee) and (
        not timed or a.ts_event == b.ts_event
    )


def decode_held(data: bytes) -> Held:
    """Return what is held."""
    if len(data) != _POSITION.size + 4 * _MONEY or data[0] != FORMAT:
        found = f"{len(data)} bytes of format {data[:1].hex() or 'none'}"
        raise CorruptionError(f"a position has {found}; restore a backup")
    held = Held(*_POSITION.unpack_from(data), *_money(data, _POSITION.size))
    return held._replace(currency=held.currency.rstrip(b"\0"))


def encode_held(held: Held) -> bytes:
    """Return the bytes of a position."""
    return _POSITION.pack(*held[:17]) + b"".join(it.to_bytes(_MONEY, "little", signed=True) for it in held[17:])


class Sum(NamedTuple):
    """What fills come to."""

    fills: int = 0
    quantity: int = 0
    cost: int = 0
    realized: int = 0
    fees: int = 0
    funding: int = 0


def fold(entries: Iterable[Entry]) -> Sum:
    """Return what fills come to, in the order in which they were booked, by the formulas of the book."""
    fills = quantity = cost = realized = fees = funding = 0
    for it in entries:
        if it.kind == FUNDING:
            funding += it.fee
            continue
        fills, fees = fills + 1, fees + it.fee
        size, held = abs(it.quantity), abs(quantity)
        if quantity == 0 or (quantity < 0) == (it.quantity < 0):
            cost += it.quantity * it.price
        else:
            closed = min(size, held)
            share = _share(cost, closed, held)
            realized += (closed if quantity > 0 else -closed) * it.price - share
            cost = cost - share if size <= held else (quantity + it.quantity) * it.price
        quantity += it.quantity
    return Sum(fills, quantity, cost, realized, fees, funding)


def _share(cost: int, part: int, whole: int) -> int:
    """Return cost * part / whole, rounded half to even."""
    found, rest = divmod(abs(cost) * part, whole)
    found += 2 * rest > whole or (2 * rest == whole and found & 1)
    return -found if cost < 0 else found
