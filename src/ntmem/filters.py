"""Filters of metadata: the ``where`` of a search, compiled once and asked of rows or of whole columns.

A filter is a mapping. ``{"side": "buy"}`` is ``{"side": {"$eq": "buy"}}``; several fields, and several operators of a
field, hold all. ``{"$and": [...]}`` and ``{"$or": [...]}`` combine filters, ``{"$not": {...}}`` turns one around, and
so does ``{"price": {"$not": {"$gt": 3}}}`` for one field. A mapping without operators is a value like any other.

=================== =============================================== ==================
operator            matches a value that                            matches, if missing
=================== =============================================== ==================
``$eq``             equals the operand                              no
``$ne``             does not: all that ``$eq`` does not match       yes
``$gt`` ``$gte``    is of the operand's type and above it           no
``$lt`` ``$lte``    is of the operand's type and below it           no
``$in``             equals one of a list, tuple or set              no
``$nin``            equals none: all that ``$in`` does not match    yes
``$exists``         is there, be it None; with False: is not        with False
``$contains``       is a list that has the operand, or a str that   no
                    has it as a part
``$prefix``         is a str that begins with the operand           no
``$not``            its operators, or its filter, do not match      if they do not
=================== =============================================== ==================

Metadata are what MessagePack holds: None, bool, int, float, str, bytes, list, dict and datetime with a zone.

- Ints and floats are one type, compared exactly: ``2**53 + 1`` is above ``float(2**53)``. A bool is no number. NaN
  equals nothing and is in no order, wherever in a value it stands.
- Numbers, str (by code points) and datetimes have an order, each among its own; nothing else is above or below.
- Lists are equal in order, dicts in any order. A tuple is a list, as MessagePack has no other.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from .conditions import (
    MAX_DEPTH,
    ORDERS,
    Contains,
    Exists,
    In,
    Node,
    Not,
    Order,
    Prefix,
    Several,
    canonical,
    order_type,
)

if TYPE_CHECKING:
    from .conditions import Columns, Words

OPERATORS = (
    *("$eq", "$ne", "$gt", "$gte", "$lt", "$lte", "$in", "$nin", "$exists", "$contains", "$prefix"),
    *("$and", "$or", "$not"),
)
_MOST_BITS = 10_000


class Where:
    """A compiled filter; made by :func:`compile_where`. Equal filters are equal, hashable, and match the same.

    Notes
    -----
    **Thread safety**: it does not change, and may be used from any thread.
    """

    __slots__ = ("_root", "fields")

    fields: frozenset[str]
    """The names of the fields that it looks at."""

    def __init__(self, root: Node) -> None:
        self._root = root
        self.fields = root.fields

    def matches(self, metadata: Mapping[str, Any] | None) -> bool:
        """Return whether metadata match, as they come from MessagePack; None has no fields.

        Notes
        -----
        **Complexity**: that of the filter, and of the values that are compared.
        """
        return self._root.matches({} if metadata is None else metadata)

    def bits(self, columns: Columns, count: int) -> Words:
        """Return which of the first `count` rows match: a bit each, the lowest first, and 0 for those beyond.

        Returns
        -------
        uint64, shape (count / 64 rounded up,)

        Raises
        ------
        NoColumn
            `columns` has no column of one of the fields; the caller asks :meth:`matches` row by row.

        Notes
        -----
        **Complexity**: a native pass of O(count) for each test of a field, O(count log m) for many members. The order
        of str and datetimes, ``$prefix``, ``$contains`` and equality with lists and dicts also look once at each
        distinct value of the field.
        """
        return self._root.bits(columns, count)

    def __eq__(self, other: object) -> bool:
        return self._root == other._root if isinstance(other, Where) else NotImplemented

    def __hash__(self) -> int:
        return hash(self._root)

    def __repr__(self) -> str:
        return f"Where({self._root.shown()!r})"


# ---- from mappings


def compile_where(where: Mapping[str, Any] | None) -> Where | None:
    """Return a filter in the form that is asked, or None if it is None or empty: everything matches.

    Parameters
    ----------
    where : mapping, optional
        See the module for what it may say.

    Raises
    ------
    TypeError
        Something in it has the wrong type; says what, where and which one it must have.
    ValueError
        An operator is unknown or stands where it means nothing, a list of filters is empty, a field's name begins with
        "$", or filters or values are nested more than 32 deep.

    Notes
    -----
    **Thread safety**: may be called from any thread. **Complexity**: O(size of the filter).

    Examples
    --------
    >>> where = compile_where({"symbol": "BTC", "price": {"$gt": 2.5, "$lte": 4}})
    >>> where.matches({"symbol": "BTC", "price": 3}), where.matches({"symbol": "BTC"})
    (True, False)
    >>> sorted(where.fields)
    ['price', 'symbol']
    """
    if where is None:
        return None
    _require_mapping(where, "where")
    return Where(_filter(where, "where", 1)) if where else None


def _found(value: Any) -> str:
    return type(value).__name__


def _require_mapping(value: Any, path: str) -> None:
    if not isinstance(value, Mapping):
        raise TypeError(f'{path} must be a mapping such as {{"field": value}}, was {_found(value)}')


def _require_depth(depth: int, path: str) -> None:
    if depth > MAX_DEPTH:
        raise ValueError(f"filters, and values in them, may be nested {MAX_DEPTH} deep, and are deeper at {path}")


def _all_of(parts: list[Node]) -> Node:
    return parts[0] if len(parts) == 1 else Several(True, tuple(parts))


def _filter(where: Any, path: str, depth: int) -> Node:
    """Return a mapping of fields and of ``$and``, ``$or`` and ``$not``."""
    _require_mapping(where, path)
    _require_depth(depth, path)
    if not where:
        raise ValueError(f"{path} is empty; leave it out, or name a field")
    return _all_of([_condition(key, value, path, depth) for key, value in where.items()])


def _condition(key: Any, value: Any, path: str, depth: int) -> Node:
    if not isinstance(key, str):
        raise TypeError(f"fields are named by str, {path} has a key of type {_found(key)}")
    if not key:
        raise ValueError(f'the name of a field must not be empty, {path} has ""')
    inner = f"{path}[{key!r}]"
    if not key.startswith("$"):
        return _field(key, value, inner, depth)
    if key == "$not":
        return Not(_filter(value, inner, depth + 1))
    if key not in ("$and", "$or"):
        _require_known(key, path)
        raise ValueError(f'{path} has {key}, which is about one field: {{"field": {{{key!r}: ...}}}}')
    if not isinstance(value, list | tuple):
        raise TypeError(f"{inner} must be a list of filters, was {_found(value)}")
    if not value:
        raise ValueError(f"{inner} is empty; give it filters, or leave it out")
    parts = tuple(_filter(part, f"{inner}[{number}]", depth + 1) for number, part in enumerate(value))
    return Several(key == "$and", parts)


def _require_known(name: str, path: str) -> None:
    if name not in OPERATORS:
        near = difflib.get_close_matches(name, OPERATORS, n=1)
        meant = f"did you mean {near[0]}? " if near else ""
        raise ValueError(f"{path} has the unknown operator {name!r}; {meant}There are {', '.join(OPERATORS)}")


def _field(name: str, value: Any, path: str, depth: int) -> Node:
    """Return the test of a field: operators, or a value that is to be equal."""
    operators = [isinstance(key, str) and key.startswith("$") for key in value] if isinstance(value, Mapping) else []
    if not any(operators):
        return _equal(name, value, path)
    if not all(operators):
        raise ValueError(f'{path} has both operators and keys; for equality with a mapping use {{"$eq": {{...}}}}')
    return _all_of(_merged([_operation(name, key, operand, path, depth) for key, operand in value.items()]))


def _merged(parts: list[Node]) -> list[Node]:
    """Make one test of the two ends of a range: one pass instead of two."""
    orders = [part for part in parts if isinstance(part, Order)]
    if len(orders) < 2 or len({part.type for part in orders}) > 1:
        return parts
    bounds = tuple(bound for part in orders for bound in part.bounds)
    merged: list[Node] = [Order(orders[0].name, orders[0].type, bounds)]
    return merged + [part for part in parts if not isinstance(part, Order)]


def _operation(name: str, key: str, operand: Any, path: str, depth: int) -> Node:
    _require_known(key, path)
    inner = f"{path}[{key!r}]"
    if key in ("$eq", "$ne"):
        found = _equal(name, operand, inner)
        return Not(found) if key == "$ne" else found
    if key in ("$in", "$nin"):
        found = _among(name, operand, inner)
        return Not(found) if key == "$nin" else found
    if key in ORDERS:
        return _ordered(name, key, operand, inner)
    if key == "$exists":
        if not isinstance(operand, bool):
            raise TypeError(f"{inner} must be True or False, was {_found(operand)}")
        return Exists(name) if operand else Not(Exists(name))
    if key == "$contains":
        plain = _value(operand, inner)
        return Contains(name, canonical(plain), plain)
    if key == "$prefix":
        if not isinstance(operand, str):
            raise TypeError(f"{inner} must be a str, was {_found(operand)}")
        return Prefix(name, _value(operand, inner))
    if key == "$not":
        return _negated(name, operand, inner, depth)
    raise ValueError(f"{path} has {key}, which combines filters: {{{key!r}: [{{{name!r}: ...}}, ...]}}")


def _negated(name: str, operand: Any, path: str, depth: int) -> Node:
    _require_depth(depth + 1, path)
    if not isinstance(operand, Mapping):
        raise TypeError(
            f'{path} must be a mapping of operators such as {{"$gt": 3}}, was {_found(operand)}; or use $ne'
        )
    if not any(isinstance(key, str) and key.startswith("$") for key in operand):
        raise ValueError(f'{path} has no operators; give it some, such as {{"$gt": 3}}, or use $ne')
    return Not(_field(name, operand, path, depth + 1))


def _equal(name: str, operand: Any, path: str) -> In:
    plain = _value(operand, path)
    return In(name, frozenset([canonical(plain)]), plain, "$eq")


def _among(name: str, operand: Any, path: str) -> In:
    if not isinstance(operand, list | tuple | set | frozenset):
        raise TypeError(f"{path} must be a list, tuple or set of values, was {_found(operand)}")
    plain = [_value(each, f"{path}[{number}]") for number, each in enumerate(operand)]
    return In(name, frozenset(map(canonical, plain)), plain, "$in")


def _ordered(name: str, key: str, operand: Any, path: str) -> Order:
    plain = _value(operand, path)
    kind = order_type(plain)
    if kind is None:
        raise TypeError(f"{path} must be a number, str or datetime, which have an order; was {_found(operand)}")
    return Order(name, kind, ((key, plain),))


def _value(value: Any, path: str, depth: int = 0) -> Any:
    """Return a value as metadata may have it, of plain types; raise what is wrong with it."""
    if value is None or isinstance(value, bool | bytes):
        return value
    if isinstance(value, int):
        if value.bit_length() > _MOST_BITS:
            raise ValueError(f"{path} is an int of {value.bit_length()} bits; metadata have some of 64")
        return int(value)
    if isinstance(value, float):
        return float(value)
    if isinstance(value, str):
        return _text(value, path)
    if isinstance(value, datetime):
        return _instant(value, path)
    if isinstance(value, list | tuple | Mapping):
        _require_depth(depth + 1, path)
        if not isinstance(value, Mapping):
            return [_value(each, f"{path}[{number}]", depth + 1) for number, each in enumerate(value)]
        return {_key(key, path): _value(value[key], f"{path}[{key!r}]", depth + 1) for key in value}
    raise TypeError(
        f"{path} is of type {_found(value)}, which metadata do not have; they have None, bool, int, float, str, bytes, "
        "list, dict and datetime with a zone"
    )


def _key(key: Any, path: str) -> Any:
    if key is not None and not isinstance(key, bool | int | float | str | bytes):
        raise TypeError(f"{path} has a key of type {_found(key)}; keys are None, bool, int, float, str or bytes")
    return _value(key, path)


def _text(text: str, path: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"{path} is no text that metadata can have: {error.reason}") from error
    return str(text)


def _instant(instant: datetime, path: str) -> datetime:
    if instant.utcoffset() is None:
        raise ValueError(f"{path} must carry a time zone, was the naive {instant!r}; add tzinfo=datetime.UTC")
    try:
        return instant.astimezone(UTC)
    except OverflowError as error:
        raise ValueError(f"{path} is outside of the years 1 to 9999 in UTC: {instant!r}") from error
