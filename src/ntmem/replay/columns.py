"""Which column of a file holds what.

Known names are compared without case and punctuation, so ``Best Bid`` is ``best_bid``. Of several candidates the
one that stands first in :data:`SYNONYMS` is taken.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

_SYNONYMS = """
ts_event: timestamp ts time datetime open_time event_time transact_time transaction_time trade_time
    exchange_timestamp exchange_time unix unix_timestamp unixtime date_time gmt_time date
ts_known: local_timestamp local_time ts_local local_ts ts_recv recv_ts recv_time receive_time received_at
    receive_timestamp received_time received arrival_time ts_init known_at
bid: bid_price best_bid best_bid_price bidprice bid_px bid_px_00 bids_0_price
ask: ask_price best_ask best_ask_price askprice ask_px ask_px_00 asks_0_price
bid_size: bid_qty bid_quantity bid_amount bid_volume best_bid_qty best_bid_size best_bid_quantity bidsize bid_sz
    bid_sz_00 bids_0_amount
ask_size: ask_qty ask_quantity ask_amount ask_volume best_ask_qty best_ask_size best_ask_quantity asksize ask_sz
    ask_sz_00 asks_0_amount
price: px last last_price trade_price
quantity: qty size amount trade_size last_size last_qty trade_quantity volume vol base_volume volume_btc
open: open_price o
high: high_price h
low: low_price l
close: close_price c
symbol: ticker instrument instrument_id pair
"""
SYNONYMS: dict[str, tuple[str, ...]] = {}
for _line in re.sub(r"\n +", " ", _SYNONYMS).split("\n"):
    if _line:
        _name, _others = _line.split(":")
        SYNONYMS[_name] = (_name, *_others.split())

EXAMPLES = "quotes have bid and ask, trades have price (and quantity), bars have open, high, low and close"


class MarketError(ValueError):
    """A market data file that cannot be replayed; the message says what was found and what to do."""


@dataclass(frozen=True, slots=True)
class Layout:
    """Where a file's fields stand.

    Attributes
    ----------
    kind : str
        "quotes", "trades" or "bars".
    positions : dict
        Number of the column, from 0, by the package's name for it.
    width : int or None
        How many fields a row has; None: as most rows do.
    has_header : bool
        Whether the first line is names.
    names : tuple of str
        The names as the file has them, or as ``--columns`` gave them.
    """

    kind: str
    positions: dict[str, int]
    width: int | None
    has_header: bool
    names: tuple[str, ...]


def normal(name: str) -> str:
    """Return a column's name without case and punctuation."""
    return re.sub(r"[^a-z0-9]+", "_", name.lower()).strip("_")


def recognise(first: Sequence[str], columns: str | None, where: str) -> Layout:
    """Return the layout of a file from its first line and the user's ``--columns``.

    Parameters
    ----------
    first : sequence of str
        Fields of the first line.
    columns : str, optional
        Comma-separated names by position (``_`` ignores a column) for a file without names, or ``name=Header``
        to say which of the file's columns is meant.
    where : str
        Name of the file, for errors.
    """
    items = [item.strip() for item in columns.split(",")] if columns is not None else []
    renames = {}
    for item in items:
        name, equals, header = item.partition("=")
        if equals:
            renames[_known(name.strip())] = header.strip()
    if items and not renames:
        return _by_position(first, items, where)
    if len(renames) != len(items):
        raise MarketError("--columns takes either names by position or name=Header items, not both; or a name twice")
    if _is_data(first):
        raise MarketError(
            f"{where}: the first line holds values, not column names ({','.join(first)[:60]}); name them in order, "
            "e.g. --columns ts_event,open,high,low,close,volume with _ for a column to ignore"
        )
    return _by_name(first, renames, where)


def _known(name: str) -> str:
    wanted = normal(name)
    for canonical, synonyms in SYNONYMS.items():
        if wanted in synonyms:
            return canonical
    raise MarketError(f"--columns names {name!r}, which is none of {', '.join(SYNONYMS)}; use _ to ignore a column")


def _is_data(first: Sequence[str]) -> bool:
    return all(not field or field[0].isdigit() or field[0] in "+-." for field in map(str.strip, first))


def _by_position(first: Sequence[str], items: list[str], where: str) -> Layout:
    positions: dict[str, int] = {}
    for number, item in enumerate(items):
        if item == "_":
            continue
        name = _known(item)
        if name in positions:
            raise MarketError(f"--columns names {name} twice, as columns {positions[name] + 1} and {number + 1}")
        positions[name] = number
    if len(items) > len(first):
        raise MarketError(f"{where}: --columns names {len(items)} columns, the first line has {len(first)}")
    used = [first[number].strip() for number in positions.values()]
    has_header = not any(field[:1].isdigit() for field in used)
    return Layout(_kind(positions, items, where), positions, None, has_header, tuple(items))


def _by_name(first: Sequence[str], renames: dict[str, str], where: str) -> Layout:
    by_name: dict[str, int] = {}
    for number, field in enumerate(first):
        by_name.setdefault(normal(field), number)
    positions = {}
    for canonical, synonyms in SYNONYMS.items():
        if canonical in renames:
            header = normal(renames[canonical])
            if header not in by_name:
                raise MarketError(f"{where}: there is no column {renames[canonical]!r}; it has {', '.join(first)}")
            positions[canonical] = by_name[header]
            continue
        # A column given another meaning by the user has only that one.
        taken = {normal(header) for header in renames.values()}
        found = next((by_name[name] for name in synonyms if name in by_name and name not in taken), None)
        if found is not None:
            positions[canonical] = found
    return Layout(_kind(positions, first, where), positions, len(first), True, tuple(first))


def _kind(positions: dict[str, int], names: Sequence[str], where: str) -> str:
    has = positions.keys()
    if not {"ts_event", "ts_known"} & has:
        raise MarketError(
            f"{where}: no column holds a time among {', '.join(names)}; say which, e.g. --columns ts_event=NAME"
        )
    if {"bid", "ask"} <= has:
        return "quotes"
    if {"open", "high", "low", "close"} <= has:
        return "bars"
    if "price" in has:
        return "trades"
    if "close" in has:  # a series of closes alone
        positions["price"] = positions.pop("close")
        return "trades"
    raise MarketError(
        f"{where}: columns {', '.join(names)} are neither quotes, trades nor bars ({EXAMPLES}); "
        "say which is which, e.g. --columns price=NAME"
    )
