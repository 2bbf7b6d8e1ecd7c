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
import math
import operator
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cached_property
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

from msgspec import msgpack

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Words: TypeAlias = NDArray[np.uint64]

MAX_DEPTH = 32
"""How deep filters, and values in them, may be nested."""

OPERATORS = (
    *("$eq", "$ne", "$gt", "$gte", "$lt", "$lte", "$in", "$nin", "$exists", "$contains", "$prefix"),
    *("$and", "$or", "$not"),
)
_LEAST, _MOST = -(2**63), 2**63 - 1
_MOST_UNSIGNED = 2**64 - 1
_MOST_BITS = 10_000
_ORDERS: dict[str, Callable[[Any, Any], bool]] = {
    "$gt": operator.gt,
    "$gte": operator.ge,
    "$lt": operator.lt,
    "$lte": operator.le,
}

# First bytes of MessagePack, by which most interned values are told apart without decoding them.
_STRINGS = frozenset([*range(0xA0, 0xC0), 0xD9, 0xDA, 0xDB])
_LISTS = frozenset([*range(0x90, 0xA0), 0xDC, 0xDD])
_DICTS = frozenset([*range(0x80, 0x90), 0xDE, 0xDF])
_EXTENSIONS = frozenset([*range(0xD4, 0xD9), 0xC7, 0xC8, 0xC9])  # a datetime is one
_LARGE_INTS = frozenset([0xCF])


class NoColumn(LookupError):
    """A field has no column; ask :meth:`Where.matches` of the rows instead."""


class Columns(Protocol):
    """What :meth:`Where.bits` reads: the values of all rows, field by field.

    A row's kind is 0 where the field is missing, 1 for an int of 64 bits (the word has its bits), 2 for a float (the
    word has its bits) and 3 for every other value: the word is the number of a distinct value, interned for the field.
    Interned are the bytes of ``msgspec.msgpack.encode``.
    """

    def column(self, name: str) -> tuple[NDArray[np.uint8], Words] | None:
        """Return kinds and words, or None if no row has the field; raise :class:`NoColumn` if that is not known."""

    def interned(self, name: str) -> Iterable[tuple[int, bytes]]:
        """Return numbers and bytes of the field's interned values."""

    def intern_number(self, name: str, data: bytes) -> int:
        """Return the number of these bytes in the field, or -1."""


# ---- values


def _canonical(value: Any, depth: int = 0) -> Any:
    """Return something hashable that is equal for equal values only; numbers and str stand for themselves."""
    if value is None or isinstance(value, str | bytes):
        return value
    if isinstance(value, bool):
        return bool, value
    if isinstance(value, int | float):
        return value if value == value else object()  # NaN: equal to nothing
    if isinstance(value, datetime) and value.tzinfo is not None:
        return value.astimezone(UTC)
    if depth < MAX_DEPTH:  # deeper ones equal no operand
        if isinstance(value, list | tuple):
            return list, tuple(_canonical(member, depth + 1) for member in value)
        if isinstance(value, Mapping):
            return dict, frozenset((_canonical(key), _canonical(value[key], depth + 1)) for key in value)
    return object()


def _order_type(value: Any) -> type | None:
    """Return the type among whose values there is an order, or None."""
    if isinstance(value, int | float):
        return None if isinstance(value, bool) else float
    if isinstance(value, datetime):
        return None if value.tzinfo is None else datetime
    return str if isinstance(value, str) else None


def _as_int(number: Any) -> int | None:
    """Return the int that equals a number, if there is one."""
    if isinstance(number, float):
        return int(number) if number.is_integer() else None
    return int(number)


def _near_float(number: float) -> float:
    try:
        return float(number)
    except OverflowError:
        return math.inf if number > 0 else -math.inf


def _int_range(order: str, number: float) -> tuple[int, int] | None:
    """Return the ints of 64 bits that match, as a closed range."""
    if math.isinf(_near_float(number)):
        return (_LEAST, _MOST) if _ORDERS[order](0, number) else None
    if order in ("$gt", "$gte"):
        low, high = math.floor(number) + 1 if order == "$gt" else math.ceil(number), _MOST
    else:
        low, high = _LEAST, math.ceil(number) - 1 if order == "$lt" else math.floor(number)
    low, high = max(low, _LEAST), min(high, _MOST)
    return (low, high) if low <= high else None


def _float_range(order: str, number: float) -> tuple[float, float] | None:
    """Return the floats that match, as a closed range: one end is the first float, in its direction, that does."""
    matches, away = _ORDERS[order], math.inf if order in ("$gt", "$gte") else -math.inf
    end = _near_float(number)
    if not matches(end, number):  # the nearest float may lie on the wrong side, or be the number itself
        end = math.nextafter(end, away)
    if not matches(end, number):
        return None
    return (end, math.inf) if away > 0 else (-math.inf, end)


def _common(ranges: Iterable[tuple[Any, Any] | None]) -> tuple[Any, Any] | None:
    """Return the range that is in all of some, which may be empty (its ends the wrong way round), or None."""
    found = list(ranges)
    if not all(found):
        return None
    return max(each[0] for each in found if each), min(each[1] for each in found if each)


# ---- bitmaps


def _without_rest(bits: Words, count: int) -> Words:
    """Clear the bits beyond the last row, in place."""
    import numpy as np

    if count % 64:
        bits[-1] &= np.uint64((1 << count % 64) - 1)
    return bits


def _no_rows(count: int) -> Words:
    import numpy as np

    return np.zeros((count + 63) // 64, np.uint64)


def _mask_of(numbers: Iterable[int]) -> Words | None:
    """Return a bitmap with the bits of some numbers."""
    import numpy as np

    which = np.fromiter(numbers, np.int64)
    if not len(which):
        return None
    flags = np.zeros((int(which.max()) // 64 + 1) * 64, bool)
    flags[which] = True
    return np.packbits(flags, bitorder="little").view(np.uint64)


def _interned_where(
    columns: Columns, name: str, first_bytes: frozenset[int], test: Callable[[Any], bool]
) -> Iterable[int]:
    """Return the numbers of the interned values that pass a test; the place to remember them, if that ever pays."""
    for number, data in columns.interned(name):
        if data[0] in first_bytes and test(msgpack.decode(data)):
            yield number


# ---- tests of one field


@dataclass(frozen=True)
class _Field:
    """A test of the values of one field; a missing one does not pass."""

    name: str

    @property
    def fields(self) -> frozenset[str]:
        return frozenset([self.name])

    def matches(self, metadata: Mapping[str, Any]) -> bool:
        return self.name in metadata and self.test(metadata[self.name])

    def test(self, value: Any) -> bool:
        raise NotImplementedError

    def bits(self, columns: Columns, count: int) -> Words:
        column = columns.column(self.name)
        return _no_rows(count) if column is None else self.column_bits(columns, *column, count)

    def column_bits(self, columns: Columns, kinds: NDArray[np.uint8], words: Words, count: int) -> Words:
        raise NotImplementedError


@dataclass(frozen=True)
class _Exists(_Field):
    def test(self, value: Any) -> bool:
        return True

    def column_bits(self, columns: Columns, kinds: NDArray[np.uint8], words: Words, count: int) -> Words:
        from ._core import columns as native

        return _without_rest(~native.match(kinds, words, count, missing=True), count)

    def shown(self) -> dict[str, Any]:
        return {self.name: {"$exists": True}}


@dataclass(frozen=True)
class _In(_Field):
    """``$eq`` and ``$in``."""

    members: frozenset[Any]  # canonical
    operand: Any = field(compare=False)
    operator: str = field(compare=False)

    def test(self, value: Any) -> bool:
        return _canonical(value) in self.members

    @cached_property
    def numbers(self) -> tuple[Words, Words]:
        """The words of the ints of 64 bits and of the floats that are equal to a member."""
        import numpy as np

        members = [member for member in self.members if _order_type(member) is float]
        ints = [each for each in map(_as_int, members) if each is not None and _LEAST <= each <= _MOST]
        floats = [near for near, member in zip(map(_near_float, members), members, strict=True) if near == member]
        floats += [0.0, -0.0] * (0 in self.members)  # two words
        return np.array(ints, np.int64).view(np.uint64), np.array(floats, np.float64).view(np.uint64)

    @cached_property
    def scalars(self) -> list[bytes]:
        """MessagePack of the members that one look-up finds."""
        found = []
        for member in self.members:
            if member is None or isinstance(member, str | bytes | datetime):
                found.append(msgpack.encode(member))
            elif isinstance(member, tuple) and member[0] is bool:
                found.append(msgpack.encode(member[1]))
            elif _order_type(member) is float:
                large = _as_int(member)
                if large is not None and _MOST < large <= _MOST_UNSIGNED:
                    found.append(msgpack.encode(large))
        return found

    @cached_property
    def first_bytes(self) -> frozenset[int]:
        """Of the members that are to be compared: one has many forms, by the order of keys and the types of numbers."""
        kinds = {member[0] for member in self.members if isinstance(member, tuple)}
        return frozenset().union(_LISTS if list in kinds else (), _DICTS if dict in kinds else ())

    def column_bits(self, columns: Columns, kinds: NDArray[np.uint8], words: Words, count: int) -> Words:
        from ._core import columns as native

        interned = [number for data in self.scalars if (number := columns.intern_number(self.name, data)) >= 0]
        if self.first_bytes:
            interned += _interned_where(columns, self.name, self.first_bytes, self.test)
        ints, floats = self.numbers
        return native.match_any(kinds, words, count, ints=ints, floats=floats, mask=_mask_of(interned))

    def shown(self) -> dict[str, Any]:
        return {self.name: {self.operator: self.operand}}


@dataclass(frozen=True)
class _Order(_Field):
    """Bounds of one type, which all hold."""

    type: type
    bounds: tuple[tuple[str, Any], ...]

    def test(self, value: Any) -> bool:
        return _order_type(value) is self.type and all(_ORDERS[order](value, bound) for order, bound in self.bounds)

    def column_bits(self, columns: Columns, kinds: NDArray[np.uint8], words: Words, count: int) -> Words:
        from ._core import columns as native

        ints = floats = None
        if self.type is float:
            if any(bound != bound for _, bound in self.bounds):
                return _no_rows(count)
            ints = _common(_int_range(order, bound) for order, bound in self.bounds)
            floats = _common(_float_range(order, bound) for order, bound in self.bounds)
        first_bytes = {float: _LARGE_INTS, str: _STRINGS, datetime: _EXTENSIONS}[self.type]
        mask = _mask_of(_interned_where(columns, self.name, first_bytes, self.test))
        return native.match(kinds, words, count, ints=ints, floats=floats, mask=mask)

    def shown(self) -> dict[str, Any]:
        return {self.name: dict(self.bounds)}


@dataclass(frozen=True)
class _Contains(_Field):
    member: Any  # canonical
    operand: Any = field(compare=False)

    def test(self, value: Any) -> bool:
        if isinstance(value, str):
            return isinstance(self.operand, str) and self.operand in value
        return isinstance(value, list | tuple) and any(_canonical(each) == self.member for each in value)

    def column_bits(self, columns: Columns, kinds: NDArray[np.uint8], words: Words, count: int) -> Words:
        from ._core import columns as native

        first_bytes = _LISTS | _STRINGS if isinstance(self.operand, str) else _LISTS
        mask = _mask_of(_interned_where(columns, self.name, first_bytes, self.test))
        return native.match(kinds, words, count, mask=mask)

    def shown(self) -> dict[str, Any]:
        return {self.name: {"$contains": self.operand}}


@dataclass(frozen=True)
class _Prefix(_Field):
    operand: str

    def test(self, value: Any) -> bool:
        return isinstance(value, str) and value.startswith(self.operand)

    def column_bits(self, columns: Columns, kinds: NDArray[np.uint8], words: Words, count: int) -> Words:
        from ._core import columns as native

        mask = _mask_of(_interned_where(columns, self.name, _STRINGS, self.test))
        return native.match(kinds, words, count, mask=mask)

    def shown(self) -> dict[str, Any]:
        return {self.name: {"$prefix": self.operand}}


# ---- combinations


@dataclass(frozen=True)
class _Not:
    part: _Node

    @property
    def fields(self) -> frozenset[str]:
        return self.part.fields

    def matches(self, metadata: Mapping[str, Any]) -> bool:
        return not self.part.matches(metadata)

    def bits(self, columns: Columns, count: int) -> Words:
        return _without_rest(~self.part.bits(columns, count), count)

    def shown(self) -> dict[str, Any]:
        return {"$not": self.part.shown()}


@dataclass(frozen=True)
class _Several:
    """``$and``, or ``$or``."""

    all: bool
    parts: tuple[_Node, ...]

    @property
    def fields(self) -> frozenset[str]:
        return frozenset().union(*(part.fields for part in self.parts))

    def matches(self, metadata: Mapping[str, Any]) -> bool:
        return (all if self.all else any)(part.matches(metadata) for part in self.parts)

    def bits(self, columns: Columns, count: int) -> Words:
        bits = self.parts[0].bits(columns, count)
        for part in self.parts[1:]:  # all of them, though nothing may be left: a NoColumn is not to depend on the rows
            more = part.bits(columns, count)
            if self.all:
                bits &= more
            else:
                bits |= more
        return bits

    def shown(self) -> dict[str, Any]:
        return {"$and" if self.all else "$or": [part.shown() for part in self.parts]}


_Node: TypeAlias = "_Exists | _In | _Order | _Contains | _Prefix | _Not | _Several"


class Where:
    """A compiled filter; made by :func:`compile_where`. Equal filters are equal, hashable, and match the same.

    Notes
    -----
    **Thread safety**: it does not change, and may be used from any thread.
    """

    __slots__ = ("_root", "fields")

    fields: frozenset[str]
    """The names of the fields that it looks at."""

    def __init__(self, root: _Node) -> None:
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


def _all_of(parts: list[_Node]) -> _Node:
    return parts[0] if len(parts) == 1 else _Several(True, tuple(parts))


def _filter(where: Any, path: str, depth: int) -> _Node:
    """Return a mapping of fields and of ``$and``, ``$or`` and ``$not``."""
    _require_mapping(where, path)
    _require_depth(depth, path)
    if not where:
        raise ValueError(f"{path} is empty; leave it out, or name a field")
    return _all_of([_condition(key, value, path, depth) for key, value in where.items()])


def _condition(key: Any, value: Any, path: str, depth: int) -> _Node:
    if not isinstance(key, str):
        raise TypeError(f"fields are named by str, {path} has a key of type {_found(key)}")
    if not key:
        raise ValueError(f'the name of a field must not be empty, {path} has ""')
    inner = f"{path}[{key!r}]"
    if not key.startswith("$"):
        return _field(key, value, inner, depth)
    if key == "$not":
        return _Not(_filter(value, inner, depth + 1))
    if key not in ("$and", "$or"):
        _require_known(key, path)
        raise ValueError(f'{path} has {key}, which is about one field: {{"field": {{{key!r}: ...}}}}')
    if not isinstance(value, list | tuple):
        raise TypeError(f"{inner} must be a list of filters, was {_found(value)}")
    if not value:
        raise ValueError(f"{inner} is empty; give it filters, or leave it out")
    parts = tuple(_filter(part, f"{inner}[{number}]", depth + 1) for number, part in enumerate(value))
    return _Several(key == "$and", parts)


def _require_known(name: str, path: str) -> None:
    if name not in OPERATORS:
        near = difflib.get_close_matches(name, OPERATORS, n=1)
        meant = f"did you mean {near[0]}? " if near else ""
        raise ValueError(f"{path} has the unknown operator {name!r}; {meant}There are {', '.join(OPERATORS)}")


def _field(name: str, value: Any, path: str, depth: int) -> _Node:
    """Return the test of a field: operators, or a value that is to be equal."""
    operators = [isinstance(key, str) and key.startswith("$") for key in value] if isinstance(value, Mapping) else []
    if not any(operators):
        return _equal(name, value, path)
    if not all(operators):
        raise ValueError(f'{path} has both operators and keys; for equality with a mapping use {{"$eq": {{...}}}}')
    return _all_of(_merged([_operation(name, key, operand, path, depth) for key, operand in value.items()]))


def _merged(parts: list[_Node]) -> list[_Node]:
    """Make one test of the two ends of a range: one pass instead of two."""
    orders = [part for part in parts if isinstance(part, _Order)]
    if len(orders) < 2 or len({part.type for part in orders}) > 1:
        return parts
    bounds = tuple(bound for part in orders for bound in part.bounds)
    merged: list[_Node] = [_Order(orders[0].name, orders[0].type, bounds)]
    return merged + [part for part in parts if not isinstance(part, _Order)]


def _operation(name: str, key: str, operand: Any, path: str, depth: int) -> _Node:
    _require_known(key, path)
    inner = f"{path}[{key!r}]"
    if key in ("$eq", "$ne"):
        found = _equal(name, operand, inner)
        return _Not(found) if key == "$ne" else found
    if key in ("$in", "$nin"):
        found = _among(name, operand, inner)
        return _Not(found) if key == "$nin" else found
    if key in _ORDERS:
        return _ordered(name, key, operand, inner)
    if key == "$exists":
        if not isinstance(operand, bool):
            raise TypeError(f"{inner} must be True or False, was {_found(operand)}")
        return _Exists(name) if operand else _Not(_Exists(name))
    if key == "$contains":
        plain = _value(operand, inner)
        return _Contains(name, _canonical(plain), plain)
    if key == "$prefix":
        if not isinstance(operand, str):
            raise TypeError(f"{inner} must be a str, was {_found(operand)}")
        return _Prefix(name, _value(operand, inner))
    if key == "$not":
        return _negated(name, operand, inner, depth)
    raise ValueError(f"{path} has {key}, which combines filters: {{{key!r}: [{{{name!r}: ...}}, ...]}}")


def _negated(name: str, operand: Any, path: str, depth: int) -> _Node:
    _require_depth(depth + 1, path)
    if not isinstance(operand, Mapping):
        raise TypeError(
            f'{path} must be a mapping of operators such as {{"$gt": 3}}, was {_found(operand)}; or use $ne'
        )
    if not any(isinstance(key, str) and key.startswith("$") for key in operand):
        raise ValueError(f'{path} has no operators; give it some, such as {{"$gt": 3}}, or use $ne')
    return _Not(_field(name, operand, path, depth + 1))


def _equal(name: str, operand: Any, path: str) -> _In:
    plain = _value(operand, path)
    return _In(name, frozenset([_canonical(plain)]), plain, "$eq")


def _among(name: str, operand: Any, path: str) -> _In:
    if not isinstance(operand, list | tuple | set | frozenset):
        raise TypeError(f"{path} must be a list, tuple or set of values, was {_found(operand)}")
    plain = [_value(each, f"{path}[{number}]") for number, each in enumerate(operand)]
    return _In(name, frozenset(map(_canonical, plain)), plain, "$in")


def _ordered(name: str, key: str, operand: Any, path: str) -> _Order:
    plain = _value(operand, path)
    kind = _order_type(plain)
    if kind is None:
        raise TypeError(f"{path} must be a number, str or datetime, which have an order; was {_found(operand)}")
    return _Order(name, kind, ((key, plain),))


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
