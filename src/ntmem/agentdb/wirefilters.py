"""Filters on AgentDB's wire: what they look like there, and to and from those of :mod:`ntmem.filters`.

**Invariant**: a filter means the same on both sides, for missing fields too, or is refused with the operator's name.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeAlias

from msgspec import UNSET, Struct, UnsetType

from ..errors import VectorError
from ..filters import compile_where

_LEAST_INT, _MOST_INT = -(2**63), 2**64 - 1


class _Test(Struct, tag_field="op", forbid_unknown_fields=True, frozen=True):
    field: str
    value: Any


class Eq(_Test, tag="eq", frozen=True):
    """The field equals the value."""


class Ne(_Test, tag="ne", frozen=True):
    """The field does not equal the value, or is missing."""


class Gt(_Test, tag="gt", frozen=True):
    """The field is of the value's type, and above it."""


class Gte(_Test, tag="gte", frozen=True):
    """The field is of the value's type, and not below it."""


class Lt(_Test, tag="lt", frozen=True):
    """The field is of the value's type, and below it."""


class Lte(_Test, tag="lte", frozen=True):
    """The field is of the value's type, and not above it."""


class In(Struct, tag_field="op", tag="in", forbid_unknown_fields=True, omit_defaults=True, frozen=True):
    """The field equals one of `values`, which may be called `value` as well."""

    field: str
    values: list[Any] | UnsetType = UNSET
    value: list[Any] | UnsetType = UNSET


class _Several(Struct, tag_field="op", forbid_unknown_fields=True, omit_defaults=True, frozen=True):
    filters: list[Filter] | UnsetType = UNSET
    conditions: list[Filter] | UnsetType = UNSET


class And(_Several, tag="and", frozen=True):
    """All of `filters` hold, which may be called `conditions` as well."""


class Or(_Several, tag="or", frozen=True):
    """One of `filters` holds, which may be called `conditions` as well."""


Filter: TypeAlias = Eq | Ne | Gt | Gte | Lt | Lte | In | And | Or
Filters: TypeAlias = Filter | list[Filter] | None
"""One, or several which all hold, or none."""


# ---- filters, to and from those of ntmem.filters

_TESTS: dict[str, Callable[[str, Any], Filter]] = {"$eq": Eq, "$ne": Ne, "$gt": Gt, "$gte": Gte, "$lt": Lt, "$lte": Lte}
_NAMES: dict[type, str] = {Eq: "$eq", Ne: "$ne", Gt: "$gt", Gte: "$gte", Lt: "$lt", Lte: "$lte"}
_OPPOSITE = {"$eq": "$ne", "$ne": "$eq", "$in": "$nin", "$nin": "$in", "$and": "$or", "$or": "$and"}


def where_of(filters: Filters) -> dict[str, Any] | None:
    """Return filters of the wire as a ``where`` of :mod:`ntmem.filters`; None if there are none.

    Raises
    ------
    VectorError
        A field is named "" or "$...", or `in`, `and` or `or` have no list, or two. (Values, and how deep filters are
        nested, are checked by who compiles it.)
    """
    if filters is None:
        return None
    if not isinstance(filters, list):
        return _where(filters)
    return {"$and": [_where(each) for each in filters]} if filters else None


def _where(filter: Filter) -> dict[str, Any]:
    if isinstance(filter, And | Or):
        name = "$and" if isinstance(filter, And) else "$or"
        return {
            name: [_where(each) for each in _either(name[1:], filters=filter.filters, conditions=filter.conditions)]
        }
    if not filter.field or filter.field.startswith("$"):
        raise VectorError(f"the field of a filter is a name that does not begin with '$', was {filter.field!r}")
    if isinstance(filter, In):
        return {filter.field: {"$in": _either("in", values=filter.values, value=filter.value)}}
    return {filter.field: {_NAMES[type(filter)]: filter.value}}


def _either(op: str, **lists: list[Any] | UnsetType) -> list[Any]:
    given = [each for each in lists.values() if not isinstance(each, UnsetType)]
    if len(given) != 1:
        raise VectorError(f"a filter with op {op!r} has one list, {' or '.join(lists)}; this one has {len(given)}")
    return given[0]


def filter_of(where: Mapping[str, Any] | None) -> Filter | None:
    """Return a ``where`` of :mod:`ntmem.filters` as a filter of the wire; None if it is None or empty.

    What the wire has no operator for is written by others if they mean exactly the same: ``$nin`` by ``ne``, ``$not``
    by the opposite of what it turns around.

    Raises
    ------
    VectorError
        It has an operator that the wire cannot say ($exists, $contains, $prefix; $not about an order), or a value that
        JSON has not; names it.
    TypeError, ValueError
        It is no filter.

    Examples
    --------
    >>> filter_of({"symbol": "BTC", "side": {"$nin": ["buy"]}})
    And(filters=[Eq(field='symbol', value='BTC'), Ne(field='side', value='buy')], conditions=UNSET)
    """
    if compile_where(where) is None:
        return None
    assert where is not None
    return _all_or_any("$and", _parts(where, False))


def _parts(where: Mapping[str, Any], negated: bool) -> list[Filter]:
    return [_part(key, value, negated) for key, value in where.items()]


def _part(key: str, value: Any, negated: bool) -> Filter:
    """Return a pair of a mapping of filters, which was compiled, or the opposite of it."""
    if key == "$not":
        return _whole(value, not negated)
    if key in ("$and", "$or"):
        name = _OPPOSITE[key] if negated else key
        return _all_or_any(name, [_whole(each, negated) for each in value])
    if not isinstance(value, Mapping) or not any(isinstance(each, str) and each.startswith("$") for each in value):
        return _test(key, "$eq", value, negated)
    tests = [_test(key, name, operand, negated) for name, operand in value.items()]
    return _all_or_any("$or" if negated else "$and", tests)


def _whole(where: Mapping[str, Any], negated: bool) -> Filter:
    return _all_or_any("$or" if negated else "$and", _parts(where, negated))


def _test(field: str, name: str, operand: Any, negated: bool) -> Filter:
    if name == "$not":
        return _part(field, operand, not negated)
    if negated:
        if name not in _OPPOSITE:
            raise VectorError(
                f"AgentDB's wire has no $not about {name}, which also matches what is missing or of another type; "
                f"asked of {field!r}"
            )
        name = _OPPOSITE[name]
    if name in _TESTS:
        _check_value(operand, field)
        return _TESTS[name](field, operand)
    if name == "$in":
        values = list(operand)
        _check_value(values, field)
        return In(field, values)
    if name == "$nin":
        if not operand:
            raise VectorError(f"AgentDB's wire has no $nin of nothing, which everything passes; asked of {field!r}")
        return _all_or_any("$and", [_test(field, "$ne", each, False) for each in operand])
    raise VectorError(
        f"AgentDB's wire has no operator {name}, asked of {field!r}; it has eq ne gt gte lt lte in and or"
    )


def _all_or_any(name: str, filters: Iterable[Filter]) -> Filter:
    found = list(filters)
    if len(found) == 1:
        return found[0]
    return And(found) if name == "$and" else Or(found)


def _check_value(value: Any, field: str) -> None:
    """Raise :class:`VectorError` for what would not come back from JSON as it is."""
    if isinstance(value, float) and not math.isfinite(value):
        raise VectorError(f"JSON has no {value}, which a filter asks of {field!r}")
    if isinstance(value, int) and not _LEAST_INT <= value <= _MOST_INT:
        raise VectorError(
            f"AgentDB's wire has ints of 64 bits; a filter asks {field!r} for one of {value.bit_length()}"
        )
    if isinstance(value, list | tuple):
        for each in value:
            _check_value(each, field)
    elif isinstance(value, Mapping):
        for key, each in value.items():
            if not isinstance(key, str):
                raise VectorError(f"names in JSON are str; a filter asks {field!r} for a mapping with the key {key!r}")
            _check_value(each, field)
    elif value is not None and not isinstance(value, bool | int | float | str):
        raise VectorError(f"JSON has no {type(value).__name__}, for which a filter asks {field!r}")
