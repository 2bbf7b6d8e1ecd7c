"""Positions as people read them: exact numbers without idle zeros, times, rows of a table, HTML.

Plain Python, and down here because a native :class:`~ntmem._core.position.Position` shows itself by it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from decimal import Context, Decimal
from html import escape
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ntmem._core.position import Position

HEADER = (
    *("symbol", "account", "strategy", "position_id", "side", "quantity", "average price", "mark price"),
    *("realized", "unrealized", "fees", "funding", "last change"),
)
POSITION_ID = HEADER.index("position_id")
NUMBERS = HEADER[HEADER.index("quantity") : HEADER.index("last change")]

_MORE_DIGITS = 2  # of an average than of the prices it is made of
_WIDE = Context(prec=60)
_SECONDS = len("2026-11-21T19:44:26")
_NAMES = HEADER[: POSITION_ID + 1]
_FACTS = (
    *("quantity", "average_price", "mark_price", "realized_pnl", "unrealized_pnl", "fees", "funding"),
    *("peak_quantity", "multiplier"),
)


def iso(ns: int) -> str:
    """Return an instant as ISO 8601 with nanoseconds."""
    seconds, rest = divmod(ns, 1_000_000_000)
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S") + f".{rest:09d}Z"


def exact(number: Decimal) -> str:
    """Return all digits of a number, but no exponent and no zeros at the end that say nothing."""
    digits = format(number, "f")
    return digits.rstrip("0").rstrip(".") if "." in digits else digits


def average(position: Position) -> str:
    """Return an average price, which may have no end, to two digits more than prices have."""
    places = Decimal(1).scaleb(-position.price_precision - _MORE_DIGITS, context=_WIDE)
    return exact(position.average_price_decimal.quantize(places, context=_WIDE))


def row(position: Position) -> tuple[str, ...]:
    """Return what stands below :data:`HEADER`; nothing where there is nothing to say."""
    mark = position.mark_price_decimal
    return (
        *position.key,
        position.side,
        exact(position.quantity_decimal),
        average(position) if position.is_open else "",
        "" if mark is None else exact(mark),
        exact(position.realized_pnl_decimal),
        "" if mark is None else exact(position.unrealized_pnl_decimal),
        exact(position.fees_decimal),
        exact(position.funding_decimal),
        "" if position.ts_last is None else iso(position.ts_last)[:_SECONDS] + "Z",
    )


def rows(positions: Sequence[Position]) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """Return a header and a row for each position, without position ids where none has one."""
    if any(position.position_id for position in positions):
        return HEADER, [row(position) for position in positions]

    def without(cells: tuple[str, ...]) -> tuple[str, ...]:
        return cells[:POSITION_ID] + cells[POSITION_ID + 1 :]

    return without(HEADER), [without(row(position)) for position in positions]


def html_facts(facts: Iterable[tuple[str, object]]) -> str:
    """Return names and what is said of them as an HTML table."""
    body = "".join(f"<tr><th>{escape(name)}</th><td>{escape(str(fact))}</td></tr>" for name, fact in facts)
    return f"<table>{body}</table>"


def html_rows(caption: str, header: Sequence[str], table: Iterable[Sequence[str]]) -> str:
    """Return rows as an HTML table."""
    head = "".join(f"<th>{escape(cell)}</th>" for cell in header)
    body = "".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in cells) + "</tr>" for cells in table)
    return f"<table><caption>{escape(caption)}</caption><tr>{head}</tr>{body}</table>"


def html_of_position(position: Position) -> str:
    """Return a position as an HTML table of its fields; those that say nothing are left out."""
    names = ((name, getattr(position, name)) for name in _NAMES)
    facts: list[tuple[str, object]] = [(name, said) for name, said in names if said]
    facts.append(("side", position.side))
    for name in _FACTS:
        number = getattr(position, f"{name}_decimal")
        if number is not None:
            facts.append((name, average(position) if name == "average_price" else exact(number)))
    if position.currency:
        facts.append(("currency", position.currency))
    times = ((name, getattr(position, name)) for name in ("ts_opened", "ts_last", "ts_closed", "ts_mark"))
    facts += [(name, iso(ns)) for name, ns in times if ns is not None]
    return html_facts([*facts, ("fills", position.fills), ("version", position.version)])


def html_of_positions(positions: Sequence[Position], most: int = 50) -> str:
    """Return open positions as an HTML table of `most` rows at most, and how many there are."""
    count = f"{len(positions)} open position" + "s" * (len(positions) != 1)
    caption = count if len(positions) <= most else f"{count}, the first {most}"
    return html_rows(caption, *rows(positions[:most])) if positions else f"<p>{count}</p>"
