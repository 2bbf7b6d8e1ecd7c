"""Random filters over random rows: bitmaps over columns, row by row, and a naive reading of the same tree agree."""

from __future__ import annotations

import math
from datetime import UTC, datetime, timedelta, timezone
from fractions import Fraction
from typing import Any

import pytest
from columnar import RowColumns, bits_to_rows
from hypothesis import given
from hypothesis import strategies as st
from msgspec import msgpack

from ntmem.filters import compile_where

FIELDS = ["a", "b", "never"]
EDGES = [
    *(0, 1, -1, 2, 3, 2**53, 2**53 + 1, 2**53 - 1, -(2**53) - 1, 2**63 - 1, -(2**63), 2**63, 2**64 - 1, 2**62 + 1),
    *(0.0, -0.0, 1.0, 2.5, -2.5, 0.5, math.inf, -math.inf, math.nan, 5e-324, 1.7976931348623157e308),
    *(2.0**53, 2.0**63, -(2.0**63), 2.0**64, 9223372036854774784.0, 2.0**53 + 2, 18446744073709549568.0),
]
BEYOND = [2**64, 10**400, -(10**400), -(2**63) - 1, 2**1024, 2**1024 - 2**970, 2**1024 - 2**970 - 1]
START = datetime(2024, 5, 6, 7, 8, 9, 10, UTC)

numbers = st.sampled_from(EDGES) | st.integers(-(2**63), 2**64 - 1) | st.floats()
texts = st.sampled_from(["", "a", "ab", "abc", "b", "ü", "\uffff", "\U0001f600", "1", "a\0"]) | st.text(max_size=3)
instants = st.sampled_from([START, START + timedelta(microseconds=1), START - timedelta(days=1)])
zones = st.sampled_from([UTC, timezone(timedelta(hours=2)), timezone(-timedelta(minutes=90))])
scalars = st.one_of(numbers, texts, st.booleans(), st.none(), instants, st.sampled_from([b"", b"a", b"ab"]))
containers = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["x", "y", "$x", 1, True]), inner),
    max_leaves=4,
)
values = scalars | containers
rows = st.dictionaries(st.sampled_from(FIELDS[:2]), values, max_size=2)


@st.composite
def operands(draw: Any) -> Any:
    """Also in other zones, with tuples for lists, and out of what rows can have."""
    moved = st.builds(datetime.astimezone, instants, zones)
    return draw(values | moved | st.sampled_from(BEYOND) | st.lists(scalars, max_size=2).map(tuple))


@st.composite
def operations(draw: Any) -> tuple[str, Any]:
    plain, ordered = operands(), numbers | texts | instants | st.sampled_from(BEYOND)
    many = st.lists(plain, max_size=4).map(lambda some: [*some, *range(100, 170)])  # more than are compared one by one
    operand = {
        **dict.fromkeys(["$eq", "$ne"], plain),
        **dict.fromkeys(["$gt", "$gte", "$lt", "$lte"], ordered),
        **dict.fromkeys(["$in", "$nin"], st.lists(plain, max_size=4) | many),
        "$exists": st.booleans(),
        "$prefix": texts,
        "$contains": plain | texts,
    }
    operator = draw(st.sampled_from(sorted(operand)))
    return operator, draw(operand[operator])


@st.composite
def leaves(draw: Any) -> dict[str, Any]:
    tests = st.lists(operations(), min_size=1, max_size=3).map(dict)
    bare = operands().filter(lambda value: not (isinstance(value, dict) and any(str(key)[:1] == "$" for key in value)))
    negated = tests.map(lambda inner: {"$not": inner})
    return draw(st.dictionaries(st.sampled_from(FIELDS), tests | negated | bare, min_size=1, max_size=2))


filters = st.recursive(
    leaves(),
    lambda inner: st.one_of(
        st.tuples(st.sampled_from(["$and", "$or"]), st.lists(inner, min_size=1, max_size=3)).map(
            lambda p: {p[0]: p[1]}
        ),
        inner.map(lambda part: {"$not": part}),
    ),
    max_leaves=4,
)


# ---- a naive reading


def number(value: Any) -> bool:
    return type(value) in (int, float) and value == value


def compare(one: Any, other: Any) -> int | None:
    """-1, 0 or 1, or None for what has no order; exact, by fractions."""
    if number(one) and number(other):
        if math.inf in (one, -one, other, -other):
            one, other = (value if value in (math.inf, -math.inf) else 0 for value in (one, other))
        else:
            one, other = Fraction(one), Fraction(other)
    elif type(one) is str and type(other) is str:
        one, other = [ord(char) for char in one], [ord(char) for char in other]
    elif type(one) is datetime and type(other) is datetime:
        one, other = ((each - START) // timedelta(microseconds=1) for each in (one, other))
    else:
        return None
    return (one > other) - (one < other)


def equal(one: Any, other: Any) -> bool:
    if compare(one, other) is not None:
        return compare(one, other) == 0
    if isinstance(one, list | tuple) and isinstance(other, list | tuple):
        return len(one) == len(other) and all(equal(*pair) for pair in zip(one, other, strict=True))
    if isinstance(one, dict) and isinstance(other, dict):
        return len(one) == len(other) and all(
            any(equal(key, its) and equal(one[key], other[its]) for its in other) for key in one
        )
    if type(one) is not type(other) or type(one) not in (bool, bytes, type(None)):
        return False
    return bool(one == other)


def holds(operator: str, operand: Any, value: Any, there: bool) -> bool:
    if operator == "$not":
        return not all(holds(*each, value, there) for each in operand.items())
    if operator == "$exists":
        return bool(there == operand)
    if operator in ("$ne", "$nin"):
        return not holds({"$ne": "$eq", "$nin": "$in"}[operator], operand, value, there)
    if not there:
        return False
    if operator == "$eq":
        return equal(value, operand)
    if operator == "$in":
        return any(equal(value, each) for each in operand)
    if operator == "$prefix":
        return type(value) is str and value[: len(operand)] == operand
    if operator == "$contains":
        if type(value) is str:
            return type(operand) is str and value.find(operand) >= 0
        return type(value) is list and any(equal(each, operand) for each in value)
    wanted = {"$gt": (1,), "$gte": (0, 1), "$lt": (-1,), "$lte": (-1, 0)}[operator]
    return compare(value, operand) in wanted


def passes(where: dict[str, Any], row: dict[str, Any]) -> bool:
    for key, inner in where.items():
        if key == "$not":
            found = not passes(inner, row)
        elif key in ("$and", "$or"):
            found = {"$and": all, "$or": any}[key]([passes(part, row) for part in inner])
        elif isinstance(inner, dict) and any(str(name)[:1] == "$" for name in inner):
            found = all(holds(*each, row.get(key), key in row) for each in inner.items())
        else:
            found = holds("$eq", inner, row.get(key), key in row)
        if not found:
            return False
    return True


# ---- the tests


def check(where: dict[str, Any], metadata: list[dict[str, Any] | None]) -> None:
    back = [None if row is None else msgpack.decode(msgpack.encode(row)) for row in metadata]
    compiled = compile_where(where)
    assert compiled is not None
    expected = [passes(where, row or {}) for row in back]
    assert [compiled.matches(row) for row in back] == expected
    assert bits_to_rows(compiled.bits(RowColumns(back), len(back)), len(back)) == expected


@given(where=filters, metadata=st.lists(rows | st.none(), max_size=80))
def test_columns_rows_and_a_naive_reading_agree(where: dict[str, Any], metadata: list[Any]) -> None:
    check(where, metadata)


ORDERS = ["$eq", "$ne", "$gt", "$gte", "$lt", "$lte"]


@pytest.mark.parametrize("operator", ORDERS)
def test_every_edge_with_every_other(operator: str) -> None:
    for operand in EDGES + BEYOND:
        check({"a": {operator: operand}}, [{"a": value} for value in EDGES])


@given(operator=st.sampled_from(ORDERS), operand=numbers)
def test_numbers_and_their_neighbours(operator: str, operand: Any) -> None:
    near: list[Any] = [operand]
    if math.isfinite(operand):
        least, most = math.floor(operand), math.ceil(operand)
        near += [each for each in (least - 1, least, most, most + 1) if -(2**63) <= each < 2**64]
        middle = float(operand)
        near += [middle, math.nextafter(middle, math.inf), math.nextafter(middle, -math.inf)]
    check({"a": {operator: operand}}, [{"a": value} for value in [*near, True, None, "1"]])


@given(inner=filters, metadata=st.lists(rows, min_size=1, max_size=70))
def test_not_is_the_complement(inner: dict[str, Any], metadata: list[Any]) -> None:
    columns = RowColumns(metadata)
    some, others = compile_where(inner), compile_where({"$not": inner})
    assert some is not None
    assert others is not None
    found = bits_to_rows(some.bits(columns, len(metadata)), len(metadata))
    assert bits_to_rows(others.bits(columns, len(metadata)), len(metadata)) == [not each for each in found]


@given(filters)
def test_a_filter_is_its_content(where: dict[str, Any]) -> None:
    one, other = compile_where(where), compile_where(dict(where))
    if "nan" not in repr(where):  # NaN equals nothing, in a filter as elsewhere
        assert one == other
        assert hash(one) == hash(other)
    assert repr(one) == repr(other)
