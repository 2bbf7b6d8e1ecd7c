"""Filters of metadata: what each operator means, what is refused, and what columns are asked."""

import math
from datetime import UTC, datetime, timedelta, timezone

import numpy as np
import pytest
from columnar import RowColumns, bits_to_rows
from msgspec import msgpack

from ntmem.conditions import NoColumn
from ntmem.filters import OPERATORS, Where, compile_where

NOON = datetime(2024, 5, 6, 12, tzinfo=UTC)
MISSING = object()


def found(test, *values):
    """Which of some values of a field pass a test; by row and by column, which must agree."""
    rows = [{} if value is MISSING else {"f": value} for value in values]
    where = compile_where({"f": test})
    by_row = [where.matches(row) for row in rows]
    assert bits_to_rows(where.bits(RowColumns(rows), len(rows)), len(rows)) == by_row
    return [value for value, passes in zip(values, by_row, strict=True) if passes]


# ---- equality


def test_numbers_are_equal_by_value_and_bools_are_none():
    assert found(1, 1, 1.0, True, "1", 2, b"1", [1], None, MISSING) == [1, 1.0]
    assert found(True, 1, 1.0, True, False, "True") == [True]
    assert found(0.0, 0, 0.0, -0.0, False, None, "") == [0, 0.0, -0.0]
    assert found(-0.0, 0, 0.0, 5e-324) == [0, 0.0]
    assert found(2.5, 2, 2.5, 3) == [2.5]


@pytest.mark.parametrize("number", [2**53 + 1, 2**62 + 1, 2**63 - 1, -(2**63), 2**63 + 1, 2**64 - 1])
def test_large_ints_are_equal_to_themselves_alone(number):
    near = float(number)
    others = [number - 1 if number > 0 else number + 1, near, math.nextafter(near, 0)]
    assert found(number, number, *others) == [number] + [near] * (near == number)


def test_a_float_beyond_64_bits_equals_an_int_there():
    assert found(2.0**63, 2**63, 2**63 - 1, 2.0**63) == [2**63, 2.0**63]
    assert found(2**63, 2**63 + 1, 2.0**63) == [2.0**63]
    assert found(10**400, 2**64 - 1, math.inf, 1e308) == []


def test_nan_equals_nothing():
    values = [math.nan, 0.0, math.inf, [math.nan], {"x": math.nan}]
    assert found(math.nan, *values) == []
    assert found({"$in": [math.nan, 0.0]}, *values) == [0.0]
    assert found([math.nan], *values) == []
    assert found({"$contains": math.nan}, *values) == []
    assert len(found({"$ne": math.nan}, *values, MISSING)) == 6
    assert found({"$eq": math.inf}, *values) == [math.inf]


def test_none_is_a_value_and_missing_is_not():
    values = [None, MISSING, 0, "", False, []]
    assert found(None, *values) == [None]
    assert found({"$exists": True}, *values, math.nan)[:-1] == [None, 0, "", False, []]
    assert found({"$exists": False}, *values) == [MISSING]
    assert found({"$ne": None}, *values) == [MISSING, 0, "", False, []]
    assert found({"$not": {"$exists": True}}, *values) == [MISSING]


def test_text_and_bytes_are_two():
    assert found("a", "a", "A", "ab", b"a", ["a"], "a\0") == ["a"]
    assert found(b"a", "a", b"a", b"") == [b"a"]


def test_lists_and_mappings_are_equal_by_their_members():
    assert found([1, 2], [1, 2], [1.0, 2.0], [2, 1], [1], [1, 2, 3], [True, 2], [[1, 2]]) == [[1, 2], [1.0, 2.0]]
    assert found((1, 2), [1, 2]) == [[1, 2]]
    assert found({"x": 1, "y": 2}, {"y": 2.0, "x": 1}, {"x": 1}, {"x": 1, "y": 2, "z": 3}, []) == [{"y": 2.0, "x": 1}]
    assert found({}, {}, [], None, {"x": 1}) == [{}]
    assert found([], {}, [], "") == [[]]
    assert found({"$eq": {"$gt": 1}}, {"$gt": 1}, 2) == [{"$gt": 1}]
    assert found({1: "x"}, {1: "x"}, {"1": "x"}, {True: "x"}) == [{1: "x"}]
    assert found({"$in": [[1], {"x": [None]}]}, [1], {"x": [None]}, {"x": []}, 1) == [[1], {"x": [None]}]


def test_a_list_that_is_deeper_than_any_operand():
    deep = []
    for _ in range(200):
        deep = [deep]
    assert found([[]], deep, [[]]) == [[[]]]
    for _ in range(100_000):  # beyond what the interpreter's stack would hold
        deep = [deep]
    assert not compile_where({"f": [[]]}).matches({"f": deep})
    while deep:  # neither does it like to free them all at once
        deep = deep.pop()


@pytest.mark.parametrize("size", [15, 16, 31, 32, 255, 256, 65_535, 65_536])
def test_values_of_every_length(size):
    """MessagePack has several forms of each type, by length."""
    text, numbers, mapping = "x" * size, list(range(size)), {str(number): number for number in range(size)}
    values = [text, numbers, mapping, text.encode(), 1]
    assert found({"$prefix": "x"}, *values) == [text]
    assert found({"$gt": "x"}, *values) == [text]
    assert found(text, *values) == [text]
    assert found(numbers, *values) == [numbers]
    assert found({"$contains": size - 1}, *values) == [numbers]
    assert found(mapping, *values) == [mapping]
    assert found(text.encode(), *values) == [text.encode()]


def test_instants_of_every_length():
    values = [
        NOON,
        NOON + timedelta(microseconds=5),
        datetime.min.replace(tzinfo=UTC),
        datetime.max.replace(tzinfo=UTC),
    ]
    assert {len(msgpack.encode(value)) for value in values} == {6, 10, 15}
    for value in values:
        assert found(value, *values, "x") == [value]
        assert found({"$gte": value, "$lte": value}, *values, "x") == [value]
        assert found({"$in": [value, [value]]}, *values, [value]) == [value, [value]]


def test_instants_are_equal_wherever_their_clock_stands():
    there = NOON.astimezone(timezone(timedelta(hours=9)))
    assert found(there, NOON, NOON + timedelta(microseconds=1), NOON.isoformat()) == [NOON]
    assert found({"$contains": there}, [NOON], [1]) == [[NOON]]
    assert compile_where({"f": NOON}).matches({"f": there})
    assert not compile_where({"f": {"$gt": NOON}}).matches({"f": there})
    assert not compile_where({"f": {"$lte": NOON}}).matches({"f": NOON.replace(tzinfo=None)})


# ---- order


def test_order_is_among_numbers_text_or_instants():
    values = [1, 2, 2.5, 3, 3.5, True, "2", "3", None, MISSING, [3], b"3", NOON, math.nan]
    assert found({"$gt": 2}, *values) == [2.5, 3, 3.5]
    assert found({"$gte": 2}, *values) == [2, 2.5, 3, 3.5]
    assert found({"$lt": 2.5}, *values) == [1, 2]
    assert found({"$lte": 2.5}, *values) == [1, 2, 2.5]
    assert found({"$gt": "2"}, *values) == ["3"]
    assert found({"$lte": "2"}, *values) == ["2"]
    assert found({"$lt": NOON + timedelta(1)}, *values) == [NOON]
    assert found({"$gt": 1, "$lt": 3.5}, *values) == [2, 2.5, 3]
    assert found({"$gt": 1, "$ne": 2.5, "$lt": 3.5}, *values) == [2, 3]
    assert found({"$gt": 3, "$lt": 2}, *values) == []
    assert found({"$gt": 1, "$lt": "3"}, *values) == []
    assert found({"$gt": math.nan}, *values) == found({"$lte": math.nan}, *values) == []
    assert len(found({"$not": {"$gt": math.nan}}, *values)) == len(values)


def test_text_is_in_the_order_of_its_code_points():
    values = ["", "Z", "a", "ä", "\uffff", "\U00010000"]
    assert found({"$gt": "Z"}, *values) == values[2:]
    assert found({"$lt": "\U00010000"}, *values) == values[:-1]


def test_comparisons_are_exact_where_floats_are_not():
    edge = 2**53
    values = [edge - 1, edge, edge + 1, edge + 2, float(edge), float(edge + 2), 2**63, 2**64 - 1]
    assert found({"$gt": edge + 1}, *values) == [edge + 2, float(edge + 2), 2**63, 2**64 - 1]
    assert found({"$gte": edge + 1}, *values) == [edge + 1, edge + 2, float(edge + 2), 2**63, 2**64 - 1]
    assert found({"$lt": edge + 1}, *values) == [edge - 1, edge, float(edge)]
    assert found({"$gt": float(edge)}, *values) == [edge + 1, edge + 2, float(edge + 2), 2**63, 2**64 - 1]
    assert found({"$lt": 2**63}, *values) == values[:-2]
    assert found({"$gt": 2**63}, *values) == [2**64 - 1]
    assert found({"$gte": 2.0**63}, *values) == [2**63, 2**64 - 1]


def test_infinities_and_ints_that_no_float_reaches():
    largest = 1.7976931348623157e308
    values = [-math.inf, -largest, -(2**63), 0, 2**63 - 1, 2**64 - 1, largest, math.inf]
    assert found({"$gt": 10**400}, *values) == [math.inf]
    assert found({"$lt": 10**400}, *values) == values[:-1]
    assert found({"$gt": -(10**400)}, *values) == values[1:]
    assert found({"$lte": -(10**400)}, *values) == values[:1]
    assert found({"$gt": math.inf}, *values) == found({"$lt": -math.inf}, *values) == []
    assert found({"$gte": math.inf}, *values) == [math.inf]
    assert found({"$lte": math.inf}, *values) == found({"$gte": -math.inf}, *values) == values
    assert found({"$lt": math.inf}, *values) == values[:-1]
    assert found({"$gt": 2**64}, *values) == [largest, math.inf]


def test_zero_has_no_sign():
    assert found({"$gte": 0.0}, -0.0, 0.0, 0, 5e-324, -5e-324) == [-0.0, 0.0, 0, 5e-324]
    assert found({"$lt": -0.0}, -0.0, 0.0, 0, 5e-324, -5e-324) == [-5e-324]
    assert found({"$gt": -0.0}, -0.0, 0.0, 0, 5e-324, -5e-324) == [5e-324]


# ---- the other operators


def test_in_and_its_complement():
    values = ["a", "b", "", 1, 1.5, None, True, [1], MISSING]
    assert found({"$in": ["a", 1.0, None, [1]]}, *values) == ["a", 1, None, [1]]
    assert found({"$nin": ["a", 1.0, None, [1]]}, *values) == ["b", "", 1.5, True, MISSING]
    assert found({"$in": []}, *values) == []
    assert found({"$nin": ()}, *values) == values
    assert found({"$in": {"b", 1.5}}, *values) == ["b", 1.5]


def test_in_many():
    values = [*range(300), *map(float, range(300)), *map(str, range(300))]
    some = [*range(50, 200), *(each + 0.5 for each in range(100)), *map(str, range(10, 250))]
    assert found({"$in": some}, *values) == [
        *range(50, 200),
        *map(float, range(50, 200)),
        *map(str, range(10, 250)),
    ]


def test_contains():
    values = ["abc", "bc", "", ["b", "bc"], [1, [2]], [1.0], ["abc"], b"bc", {"bc": 1}, 1, MISSING, [True]]
    assert found({"$contains": "bc"}, *values) == ["abc", "bc", ["b", "bc"]]
    assert found({"$contains": 1}, *values) == [[1, [2]], [1.0]]
    assert found({"$contains": [2]}, *values) == [[1, [2]]]
    assert found({"$contains": ""}, *values) == ["abc", "bc", ""]


def test_prefix():
    values = ["BTC-USD", "BTC", "XBTC", "btc", b"BTC", ["BTC"], None, MISSING, ""]
    assert found({"$prefix": "BTC"}, *values) == ["BTC-USD", "BTC"]
    assert found({"$prefix": ""}, *values) == ["BTC-USD", "BTC", "XBTC", "btc", ""]


def test_filters_combine():
    rows = [{"a": a, "b": b} for a in (1, 2, 3) for b in ("x", "y")] + [{"a": 1}, {}, None]

    def chosen(where):
        compiled = compile_where(where)
        by_row = [number for number, row in enumerate(rows) if compiled.matches(row)]
        bits = bits_to_rows(compiled.bits(RowColumns(rows), len(rows)), len(rows))
        assert [number for number, each in enumerate(bits) if each] == by_row
        return by_row

    assert chosen({"a": 1, "b": "x"}) == [0]
    assert chosen({"$and": [{"a": {"$gte": 2}}, {"b": "y"}]}) == [3, 5]
    assert chosen({"$or": [{"a": 3}, {"b": "x"}]}) == [0, 2, 4, 5]
    assert chosen({"$not": {"a": 1, "b": "x"}}) == [1, 2, 3, 4, 5, 6, 7, 8]
    assert chosen({"a": {"$not": {"$gt": 1}}}) == [0, 1, 6, 7, 8]
    assert chosen({"a": {"$not": {"$not": {"$gt": 1}}}}) == [2, 3, 4, 5]
    assert chosen({"a": {"$gt": 1, "$ne": 3}}) == [2, 3]
    assert chosen({"$or": [{"a": 1}, {"$not": {"b": {"$exists": True}}}], "b": "y"}) == [1]
    assert chosen({"c": {"$exists": False}}) == list(range(9))


# ---- columns


def test_everything_matches_without_a_filter():
    assert compile_where(None) is None
    assert compile_where({}) is None


def test_no_rows():
    for where in ({"f": 1}, {"f": {"$ne": 1}}, {"$not": {"f": {"$gt": "x"}}}):
        assert compile_where(where).bits(RowColumns([]), 0).shape == (0,)


@pytest.mark.parametrize("count", [1, 63, 64, 65, 130])
def test_a_field_that_no_row_has(count):
    columns = RowColumns([{}] * count)
    assert not compile_where({"f": None}).bits(columns, count).any()
    assert bits_to_rows(compile_where({"f": {"$ne": 1}}).bits(columns, count), count) == [True] * count


def test_fewer_rows_than_the_columns_hold():
    columns = RowColumns([{"f": number} for number in range(100)])
    for count in (0, 1, 64, 70):
        assert bits_to_rows(compile_where({"f": {"$ne": 3}}).bits(columns, count), count) == [
            number != 3 for number in range(count)
        ]


@pytest.mark.parametrize(
    "where", [{"g": 1}, {"f": 99, "g": 1}, {"$or": [{"f": 1}, {"g": 1}]}, {"$not": {"g": 1}}, {"g": {"$exists": True}}]
)
def test_a_field_without_a_column(where):
    """Whatever the other fields leave over."""
    with pytest.raises(NoColumn):
        compile_where(where).bits(RowColumns([{"f": 1, "g": 1}], without=["g"]), 1)


def test_scalars_are_looked_up_and_not_compared(monkeypatch):
    columns = RowColumns([{"f": value} for value in ("a", "b", None, True, NOON, 2**63, b"x")])
    monkeypatch.setattr(columns, "interned", None)
    values = ["a", None, True, NOON, 2**63, b"x"]
    for value in values:
        assert compile_where({"f": value}).bits(columns, 7).any()
    assert columns.asked == [("f", msgpack.encode(value)) for value in values]
    assert not compile_where({"f": "c"}).bits(columns, 7).any()
    assert not compile_where({"f": False}).bits(columns, 7).any()


def test_a_distinct_value_is_looked_at_once(monkeypatch):
    columns = RowColumns([{"f": f"{number % 3}"} for number in range(300)])
    decoded = []
    real = msgpack.decode
    monkeypatch.setattr(msgpack, "decode", lambda data: decoded.append(data) or real(data))
    assert np.bitwise_count(compile_where({"f": {"$prefix": "1"}}).bits(columns, 300)).sum() == 100
    assert len(decoded) == 3


def test_a_number_that_was_interned_since_does_not_match():
    """Columns may be ahead of the values that were asked for."""
    columns = RowColumns([{"f": "a"}, {"f": "b"}])
    columns.words["f"][1] = 1_000_000
    assert bits_to_rows(compile_where({"f": {"$in": ["a", "b"]}}).bits(columns, 2), 2) == [True, False]


# ---- the filter as an object


def test_a_filter_has_its_content():
    where = {"a": {"$gt": 1, "$lte": 5.5}, "$or": [{"b": "x"}, {"b": {"$nin": [1, None]}}, {"c": {"$exists": False}}]}
    one, other = compile_where(where), compile_where({**where})
    assert one == other
    assert hash(one) == hash(other)
    assert one.fields == {"a", "b", "c"}
    assert isinstance(one, Where)
    assert one != compile_where({"a": 1})
    assert one != "a"
    assert compile_where({"a": 1}) != compile_where({"a": True})
    assert compile_where({"a": "x"}) != compile_where({"a": b"x"})
    assert compile_where({"a": {"$gt": 1}}) != compile_where({"a": {"$gte": 1}})
    assert repr(one) == (
        "Where({'$and': [{'a': {'$gt': 1, '$lte': 5.5}}, {'$or': [{'b': {'$eq': 'x'}}, "
        "{'$not': {'b': {'$in': [1, None]}}}, {'$not': {'c': {'$exists': True}}}]}]})"
    )
    for test in ({"$contains": [1]}, {"$prefix": "x"}, {"$not": {"$eq": 1}}):
        again = compile_where({"a": test})
        assert compile_where(eval(repr(again)[len("Where(") : -1])) == again


def test_a_filter_does_not_change_with_what_it_was_made_of():
    wanted = [1, 2]
    where = compile_where({"f": {"$in": wanted, "$ne": wanted}})
    wanted.append(3)
    assert not where.matches({"f": 3})
    assert not where.matches({"f": [1, 2]})


def test_subclasses_are_plain_values():
    assert compile_where({"f": np.float64(1.5)}) == compile_where({"f": 1.5})
    assert "np." not in repr(compile_where({"f": [np.float64(1.5), np.str_("x")]}))


# ---- what is refused


@pytest.mark.parametrize(
    ("where", "error", "message"),
    [
        ([], TypeError, r"^where must be a mapping such as .*, was list$"),
        ("a", TypeError, r"was str$"),
        ({1: 2}, TypeError, r"^fields are named by str, where has a key of type int$"),
        ({"": 2}, ValueError, r"must not be empty"),
        (
            {"f": {"$gte": 1, "$gtt": 2}},
            ValueError,
            r"where\['f'\] has the unknown operator '\$gtt'; did you mean \$gte?",
        ),
        (
            {"$adn": []},
            ValueError,
            r"^where has the unknown operator '\$adn'; did you mean \$and\? There are \$eq, .*\$not$",
        ),
        ({"f": {"$": 1}}, ValueError, r"unknown operator '\$'; There are"),
        ({"$gt": 3}, ValueError, r"^where has \$gt, which is about one field: \{\"field\": \{'\$gt': \.\.\.\}\}$"),
        ({"f": {"$and": [1]}}, ValueError, r"\['f'\] has \$and, which combines filters: \{'\$and': \[\{'f': \.\.\.\}"),
        ({"$and": []}, ValueError, r"^where\['\$and'\] is empty"),
        ({"$or": ()}, ValueError, r"^where\['\$or'\] is empty"),
        ({"$or": {"f": 1}}, TypeError, r"\['\$or'\] must be a list of filters, was dict"),
        ({"$or": [{"f": 1}, {}]}, ValueError, r"^where\['\$or'\]\[1\] is empty; leave it out"),
        ({"$or": [{"f": 1}, 3]}, TypeError, r"^where\['\$or'\]\[1\] must be a mapping .* was int"),
        ({"$not": {}}, ValueError, r"^where\['\$not'\] is empty"),
        ({"$not": [1]}, TypeError, r"^where\['\$not'\] must be a mapping"),
        ({"f": {"$not": 3}}, TypeError, r"\['f'\]\['\$not'\] must be a mapping of operators .* was int; or use \$ne"),
        ({"f": {"$not": {"x": 3}}}, ValueError, r"\['\$not'\] has no operators"),
        ({"f": {"$not": {}}}, ValueError, r"\['\$not'\] has no operators"),
        ({"f": {"$gt": 3, "x": 1}}, ValueError, r"^where\['f'\] has both operators and keys; .*\$eq"),
        ({"f": {"$gt": True}}, TypeError, r"\['\$gt'\] must be a number, str or datetime, .*; was bool"),
        ({"f": {"$lt": None}}, TypeError, r"was NoneType"),
        ({"f": {"$lte": [1]}}, TypeError, r"was list"),
        ({"f": {"$gte": b"x"}}, TypeError, r"was bytes"),
        ({"f": {"$in": "abc"}}, TypeError, r"\['\$in'\] must be a list, tuple or set of values, was str"),
        ({"f": {"$nin": {"x": 1}}}, TypeError, r"was dict"),
        ({"f": {"$exists": 1}}, TypeError, r"\['\$exists'\] must be True or False, was int"),
        ({"f": {"$prefix": b"x"}}, TypeError, r"\['\$prefix'\] must be a str, was bytes"),
        ({"f": {1, 2}}, TypeError, r"^where\['f'\] is of type set, which metadata do not have; they have None, bool"),
        ({"f": np.int64(3)}, TypeError, r"of type int64"),
        ({"f": {"$in": [1, [object()]]}}, TypeError, r"^where\['f'\]\['\$in'\]\[1\]\[0\] is of type object"),
        ({"f": {"x": {(1,): 2}}}, TypeError, r"\['x'\] has a key of type tuple"),
        ({"f": datetime(2024, 1, 1)}, ValueError, r"must carry a time zone, was the naive .*add tzinfo"),
        ({"f": datetime.min.replace(tzinfo=timezone(timedelta(hours=1)))}, ValueError, r"years 1 to 9999"),
        ({"f": "\ud800"}, ValueError, r"^where\['f'\] is no text"),
        ({"f": 10**5000}, ValueError, r"is an int of 16610 bits"),
    ],
)
def test_what_is_wrong_is_said(where, error, message):
    with pytest.raises(error, match=message):
        compile_where(where)


def test_all_operators_are_named():
    with pytest.raises(ValueError, match="unknown operator") as caught:
        compile_where({"f": {"$regex": "x"}})
    assert all(name in str(caught.value) for name in OPERATORS)
    assert "$exists" in OPERATORS


@pytest.mark.parametrize(
    "wrap", [lambda w: {"$not": w}, lambda w: {"$and": [w]}, lambda w: {"$or": [{"g": 1}, w]}], ids=["not", "and", "or"]
)
def test_filters_may_be_nested_32_deep(wrap):
    where = {"f": 1}
    for _ in range(31):
        where = wrap(where)
    rows = [{"f": 1}, {"f": 2}]
    compiled = compile_where(where)
    assert bits_to_rows(compiled.bits(RowColumns(rows), 2), 2) == [compiled.matches(row) for row in rows]
    assert repr(compiled)
    with pytest.raises(ValueError, match="nested 32 deep"):
        compile_where(wrap(where))


def test_tests_of_a_field_and_values_may_be_nested_32_deep():
    test, value = {"$gt": 1}, []
    for _ in range(31):
        test, value = {"$not": test}, [value]
    assert compile_where({"f": test}).matches({"f": 0})
    assert found(value, value, [value], value[0]) == [value]
    with pytest.raises(ValueError, match="nested 32 deep"):
        compile_where({"f": {"$not": test}})
    with pytest.raises(ValueError, match="nested 32 deep"):
        compile_where({"f": [value]})
    value = []
    value.append(value)
    with pytest.raises(ValueError, match="nested 32 deep"):
        compile_where({"f": {"$contains": value}})
