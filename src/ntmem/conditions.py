"""Conditions on metadata: what each says of one row, and of all rows by their columns, with the same answer.

:mod:`ntmem.filters` says what there is to ask, checks it and makes these of it: what a condition compares with is of
plain types by then, and not nested too deep.

**Invariant**: of a row, ``matches`` and the row's bit in ``bits`` are the same, whatever its values are: ints beyond 64
bits, NaN, both zeros, a number that is an int in one row and a float in another.
"""

from __future__ import annotations

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
_LEAST, _MOST = -(2**63), 2**63 - 1
_MOST_UNSIGNED = 2**64 - 1
ORDERS: dict[str, Callable[[Any, Any], bool]] = {
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
    """A field has no column; ask :meth:`ntmem.filters.Where.matches` of the rows instead."""


class Columns(Protocol):
    """What :meth:`ntmem.filters.Where.bits` reads: the values of all rows, field by field.

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


def canonical(value: Any, depth: int = 0) -> Any:
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
            return list, tuple(canonical(member, depth + 1) for member in value)
        if isinstance(value, Mapping):
            return dict, frozenset((canonical(key), canonical(value[key], depth + 1)) for key in value)
    return object()


def order_type(value: Any) -> type | None:
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
        return (_LEAST, _MOST) if ORDERS[order](0, number) else None
    if order in ("$gt", "$gte"):
        low, high = math.floor(number) + 1 if order == "$gt" else math.ceil(number), _MOST
    else:
        low, high = _LEAST, math.ceil(number) - 1 if order == "$lt" else math.floor(number)
    low, high = max(low, _LEAST), min(high, _MOST)
    return (low, high) if low <= high else None


def _float_range(order: str, number: float) -> tuple[float, float] | None:
    """Return the floats that match, as a closed range: one end is the first float, in its direction, that does."""
    matches, away = ORDERS[order], math.inf if order in ("$gt", "$gte") else -math.inf
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
class Exists(_Field):
    def test(self, value: Any) -> bool:
        return True

    def column_bits(self, columns: Columns, kinds: NDArray[np.uint8], words: Words, count: int) -> Words:
        from ._core import columns as native

        return _without_rest(~native.match(kinds, words, count, missing=True), count)

    def shown(self) -> dict[str, Any]:
        return {self.name: {"$exists": True}}


@dataclass(frozen=True)
class In(_Field):
    """``$eq`` and ``$in``."""

    members: frozenset[Any]  # canonical
    operand: Any = field(compare=False)
    operator: str = field(compare=False)

    def test(self, value: Any) -> bool:
        return canonical(value) in self.members

    @cached_property
    def numbers(self) -> tuple[Words, Words]:
        """The words of the ints of 64 bits and of the floats that are equal to a member."""
        import numpy as np

        members = [member for member in self.members if order_type(member) is float]
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
            elif order_type(member) is float:
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
class Order(_Field):
    """Bounds of one type, which all hold."""

    type: type
    bounds: tuple[tuple[str, Any], ...]

    def test(self, value: Any) -> bool:
        return order_type(value) is self.type and all(ORDERS[order](value, bound) for order, bound in self.bounds)

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
class Contains(_Field):
    member: Any  # canonical
    operand: Any = field(compare=False)

    def test(self, value: Any) -> bool:
        if isinstance(value, str):
            return isinstance(self.operand, str) and self.operand in value
        return isinstance(value, list | tuple) and any(canonical(each) == self.member for each in value)

    def column_bits(self, columns: Columns, kinds: NDArray[np.uint8], words: Words, count: int) -> Words:
        from ._core import columns as native

        first_bytes = _LISTS | _STRINGS if isinstance(self.operand, str) else _LISTS
        mask = _mask_of(_interned_where(columns, self.name, first_bytes, self.test))
        return native.match(kinds, words, count, mask=mask)

    def shown(self) -> dict[str, Any]:
        return {self.name: {"$contains": self.operand}}


@dataclass(frozen=True)
class Prefix(_Field):
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
class Not:
    part: Node

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
class Several:
    """``$and``, or ``$or``."""

    all: bool
    parts: tuple[Node, ...]

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


Node: TypeAlias = "Exists | In | Order | Contains | Prefix | Not | Several"
