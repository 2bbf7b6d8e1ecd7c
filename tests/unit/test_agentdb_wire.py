"""AgentDB's wire: ids, names, filters and numbers go there and come back, or are refused with what is wrong."""

from __future__ import annotations

import random
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

import ntmem
from ntmem.agentdb import wire
from ntmem.agentdb.wirefilters import Filters, filter_of, where_of
from ntmem.filters import compile_where
from ntmem.namespace import MAX_LABEL_BYTES

# ---- ids

marked = st.builds(
    lambda times, rest: ("bytes:" * times + rest).encode(),
    st.integers(0, 3),
    st.binary(min_size=1, max_size=3).map(bytes.hex) | st.sampled_from(["fF", "f", "", "6869", "ff\n"]),
)
raws = (st.binary(min_size=1, max_size=8) | marked).filter(bool)


@given(raws)
def test_all_bytes_are_an_id_and_come_back(raw: bytes) -> None:
    name = wire.id_of(raw.hex())
    name.encode()  # what a store takes
    assert wire.hex_of(name) == raw.hex()
    assert wire.id_of(raw.hex().upper()) == name


@given(raws)
def test_all_ids_are_bytes_and_come_back(raw: bytes) -> None:
    name = raw.decode(errors="replace")
    assert wire.id_of(wire.hex_of(name)) == name
    if "bytes:" not in name:
        assert wire.hex_of(name) == name.encode().hex()  # nothing but hexadecimal, as others have it


@pytest.mark.parametrize("hexid", ["", "f", "fg", " ff", "f f", "0xff", "ff\n", "\u0661\u0661", "6869é"])
def test_an_id_that_is_not_hexadecimal_is_refused(hexid: str) -> None:
    with pytest.raises(ntmem.VectorError, match="an id"):
        wire.id_of(hexid)


# ---- names

label = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="/\0"), min_size=1, max_size=8)
label = label | st.sampled_from([".", "..", "a%2Fb", "%", "a b", "?", "#", "+", "ntmem", "ü", "\n"])


@given(st.lists(label.filter(lambda it: len(it.encode()) <= MAX_LABEL_BYTES), min_size=1, max_size=3).map(tuple))
def test_a_namespace_is_one_segment_and_comes_back(labels: tuple[str, ...]) -> None:
    if labels[0] == "ntmem" or labels in ((".",), ("..",)):
        for refused in (wire.name_of, wire.segment_of):
            with pytest.raises(ntmem.VectorError):
                refused(labels)
        return
    segment = wire.segment_of(labels)
    assert not set(segment) & set("/?#&+ \n")
    assert segment.isascii()
    assert wire.labels_of_segment(segment) == wire.labels_of_name(wire.name_of(labels)) == labels


@pytest.mark.parametrize(
    "segment",
    [
        "ntmem%2Fvectors",
        "ntmem",
        "%6etmem%2Fcollections",
        "..",
        "%2e%2E",
        ".",
        "a%2F%2Fb",
        "%2Fa",
        "a%2F",
        "%00",
        "%ff",
    ],
)
def test_a_segment_that_names_no_collection_is_refused(segment: str) -> None:
    with pytest.raises((ntmem.VectorError, ntmem.InvalidNamespace)):
        wire.labels_of_segment(segment)


# ---- filters

numbers = st.sampled_from([0, 1, -1, 2**53, 2**53 + 1, -(2**63), 2**64 - 1, 0.0, -0.0, 1.0, 2.5, 5e-324, 1e308])
scalars = st.one_of(numbers, st.booleans(), st.none(), st.sampled_from(["", "a", "ab", "ü", "$x"]))
values = scalars | st.lists(scalars, max_size=2) | st.dictionaries(st.sampled_from(["x", "y"]), scalars, max_size=2)
rows = st.dictionaries(st.sampled_from(["a", "b"]), values, max_size=2)


@st.composite
def operations(draw: Any) -> tuple[str, Any]:
    operand = {
        **dict.fromkeys(["$eq", "$ne"], values),
        **dict.fromkeys(["$gt", "$gte", "$lt", "$lte"], numbers | st.sampled_from(["a", "ab"])),
        **dict.fromkeys(["$in", "$nin"], st.lists(values, max_size=3)),
        "$exists": st.booleans(),
        "$prefix": st.sampled_from(["", "a"]),
        "$contains": scalars,
    }
    name = draw(st.sampled_from(sorted(operand)))
    return name, draw(operand[name])


tests = st.lists(operations(), min_size=1, max_size=2).map(dict)
leaves = st.dictionaries(
    st.sampled_from(["a", "b", "c"]), tests | tests.map(lambda it: {"$not": it}) | values, min_size=1, max_size=2
)
wheres = st.recursive(
    leaves,
    lambda inner: (
        st.tuples(st.sampled_from(["$and", "$or"]), st.lists(inner, min_size=1, max_size=3)).map(lambda it: dict([it]))
        | inner.map(lambda it: {"$not": it})
    ),
    max_leaves=4,
)
_REFUSED = ("$exists", "$prefix", "$contains", "$not", "$nin")


@given(wheres, st.lists(rows, max_size=5))
@example({"a": {"$not": {"$nin": [1, None]}}}, [{}, {"a": 1}, {"a": None}, {"b": 1}])
@example({"a": {"$not": {"$eq": 1, "$ne": 2}}}, [{"a": 1}, {"a": 2}, {"a": 3}])
@example({"$not": {"$or": [{"a": 1, "b": {"$ne": 2}}, {"$not": {"b": {"$gt": 1, "$lte": 3}}}]}}, [{}, {"b": 2}])
def test_a_filter_means_the_same_there_or_is_refused(where: dict[str, Any], found: list[dict[str, Any]]) -> None:
    try:
        sent = msgspec.json.encode(wire.Query(filters=filter_of(where)))
    except ntmem.VectorError:
        assert any(name in repr(where) for name in _REFUSED)
        return
    arrived = where_of(msgspec.json.decode(sent, type=wire.Query).filters)
    here, there = compile_where(where), compile_where(arrived)
    assert here is not None
    assert there is not None
    for row in [{}, *found]:
        assert there.matches(row) == here.matches(row), (row, arrived)


@given(leaves)
def test_what_the_wire_has_words_for_is_not_refused(where: dict[str, Any]) -> None:
    if not any(name in repr(where) for name in _REFUSED):
        assert filter_of(where) is not None
        assert filter_of({"$not": {"$not": where}}) is not None


@pytest.mark.parametrize(
    ("where", "said"),
    [
        ({"a": {"$exists": True}}, r"\$exists"),
        ({"a": {"$contains": 1}}, r"\$contains"),
        ({"$or": [{"a": {"$prefix": "x"}}]}, r"\$prefix"),
        ({"a": {"$not": {"$gt": 1}}}, r"\$not about \$gt"),
        ({"$not": {"a": {"$exists": False}}}, r"\$not about \$exists"),
        ({"a": {"$nin": []}}, r"\$nin of nothing"),
        ({"a": float("inf")}, "inf"),
        ({"a": {"$in": [1, float("nan")]}}, "nan"),
        ({"a": 2**64}, "64 bits"),
        ({"a": b"x"}, "bytes"),
        ({"a": {"$eq": {1: 2}}}, "key 1"),
    ],
)
def test_what_the_wire_cannot_say_is_named(where: dict[str, Any], said: str) -> None:
    with pytest.raises(ntmem.VectorError, match=said):
        filter_of(where)


def test_no_filter_is_none() -> None:
    assert filter_of(None) is filter_of({}) is where_of(None) is where_of([]) is None
    with pytest.raises(ValueError, match="unknown operator"):
        filter_of({"a": {"$near": 1}})


@pytest.mark.parametrize(
    ("said", "where"),
    [
        ('{"op":"eq","field":"symbol","value":"BTC"}', {"symbol": {"$eq": "BTC"}}),
        ('[{"op":"gte","field":"t","value":5},{"op":"ne","field":"s","value":null}]', None),
        ('{"op":"in","field":"s","values":["a","b"]}', {"s": {"$in": ["a", "b"]}}),
        ('{"op":"in","field":"s","value":["a","b"]}', {"s": {"$in": ["a", "b"]}}),
        ('{"op":"and","filters":[{"op":"lt","field":"a","value":1}]}', {"$and": [{"a": {"$lt": 1}}]}),
        ('{"op":"or","conditions":[{"op":"lte","field":"a","value":1}]}', {"$or": [{"a": {"$lte": 1}}]}),
    ],
)
def test_filters_as_the_original_says_them(said: str, where: dict[str, Any] | None) -> None:
    found = where_of(msgspec.json.decode(said, type=Filters))
    assert found == (where or {"$and": [{"t": {"$gte": 5}}, {"s": {"$ne": None}}]})
    compile_where(found)


@pytest.mark.parametrize(
    "said",
    [
        '{"op":"in","field":"s"}',
        '{"op":"in","field":"s","value":[1],"values":[1]}',
        '{"op":"and"}',
        '{"op":"or","filters":[],"conditions":[]}',
        '{"op":"eq","field":"","value":1}',
        '{"op":"eq","field":"$and","value":[]}',
        '{"op":"and","filters":[]}',
    ],
)
def test_filters_that_say_nothing_or_too_much_are_refused(said: str) -> None:
    with pytest.raises((ntmem.VectorError, ValueError)):
        compile_where(where_of(msgspec.json.decode(said, type=Filters)))


@pytest.mark.parametrize(
    ("type", "said"),
    [
        (wire.Search, '{"embedding":[1],"k":1,"filter":[]}'),  # a misspelt filter would be none
        (wire.Search, '{"embedding":[1],"k":0}'),
        (wire.Search, '{"embedding":[1],"k":true}'),
        (wire.Search, '{"embedding":[],"k":1}'),
        (wire.Search, '{"embedding":[NaN],"k":1}'),
        (wire.Search, '{"embedding":[1e999],"k":1}'),
        (wire.Search, '{"embedding":["1"],"k":1}'),
        (wire.Search, '{"embedding":[1],"k":1,"form":"flat"}'),
        (wire.Search, '{"embedding":[1],"k":1,"filters":{"op":"like","field":"a","value":1}}'),
        (wire.Search, '{"embedding":[1],"k":1,"filters":{"op":"eq","field":"a"}}'),
        (wire.Query, f'{{"limit":{wire.MOST_LIMIT + 1}}}'),
        (wire.Query, '{"sort_by":{"field":"a","order":"up"}}'),
        (wire.Create, '{"name":"a","dimension":0}'),
        (wire.Create, '{"name":"a","dimension":1,"index_type":"ivf"}'),
        (wire.Insert, '{"id":"ff","embedding":[1],"metadata":[1]}'),
        (wire.Insert, '{"id":"ff","embedding":[1],"ts_known":-1}'),
    ],
)
def test_requests_are_decoded_strictly(type: Any, said: str) -> None:
    with pytest.raises(msgspec.DecodeError):
        msgspec.json.decode(said, type=type)


def test_what_is_not_said_is_not_sent() -> None:
    assert msgspec.json.encode(wire.Search(embedding=[1.0], k=2)) == b'{"embedding":[1.0],"k":2}'
    assert msgspec.json.encode(wire.Create(name="a", dimension=3)) == b'{"name":"a","dimension":3}'
    assert msgspec.json.encode(wire.SearchAnswer([])) == b'{"results":[]}'
    nulls = '{"embedding":[1],"k":1,"collection":null,"filters":null,"min_score":null}'
    assert msgspec.json.decode(nulls, type=wire.Search) == wire.Search(embedding=[1.0], k=1)


def test_sort_by_in_all_its_forms() -> None:
    for said, found in (
        (None, []),
        ("a", [("a", False)]),
        ("-a", [("a", True)]),
        (wire.Sort("-a", "desc"), [("-a", True)]),
        (["b", wire.Sort("a")], [("b", False), ("a", False)]),
    ):
        assert wire.sorts_of(said) == found
    for empty in ("", "-", wire.Sort(""), ["a", ""]):
        with pytest.raises(ntmem.VectorError, match="sort_by"):
            wire.sorts_of(empty)


def test_metadata_of_the_default_form_hide_what_is_added() -> None:
    assert wire.flat({"a": 1}, "ff") == {"id": "ff", "a": 1}
    assert wire.flat({"a": 1}, "ff", 0.5) == {"id": "ff", "score": 0.5, "a": 1}
    assert wire.flat({"id": "own", "score": None}, "ff", 0.5) == {"id": "own", "score": None}


def test_float32_survive_bit_for_bit() -> None:
    bits = np.array([random.Random(7).getrandbits(32) for _ in range(100_000)], np.uint32)
    edges = np.array([0, 1 << 31, 1, 0x7F7FFFFF, 0x00800000, 0x007FFFFF, 0x3DCCCCCD], np.uint32)
    numbers = np.concatenate((edges, bits)).view(np.float32)
    numbers = numbers[np.isfinite(numbers)][:65_536]
    sent = msgspec.json.encode(wire.Search(embedding=numbers.tolist(), k=1))
    arrived = np.array(msgspec.json.decode(sent, type=wire.Search).embedding, np.float32)
    assert (arrived.view(np.uint32) == numbers.view(np.uint32)).all()
