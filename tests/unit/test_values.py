"""The msgpack codec: what goes in comes back, type for type, or is refused by name."""

from __future__ import annotations

import collections
import contextlib
import enum
import io
import math
import struct
import uuid
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta, timezone, tzinfo
from decimal import Decimal
from fractions import Fraction
from typing import Any, NamedTuple
from zoneinfo import ZoneInfo

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import ntmem
from ntmem.values import CODECS, as_bytes, codec_named

codec = CODECS["msgpack"]


def same(left: Any, right: Any) -> bool:
    """Equal in type and value all the way down; NaN equals NaN, -0.0 is not 0.0."""
    if type(left) is not type(right):
        return False
    if isinstance(left, np.ndarray):
        return left.dtype == right.dtype and left.shape == right.shape and left.tobytes() == right.tobytes()
    if isinstance(left, np.generic):
        return left.dtype == right.dtype and left.tobytes() == right.tobytes()
    if isinstance(left, float):
        return (math.isnan(left) and math.isnan(right)) or (
            left == right and math.copysign(1, left) == math.copysign(1, right)
        )
    if isinstance(left, Decimal):
        return left.as_tuple() == right.as_tuple()
    if isinstance(left, datetime | time):
        return repr(left) == repr(right) and left.fold == right.fold
    if isinstance(left, list | tuple):
        return len(left) == len(right) and all(map(same, left, right))
    if isinstance(left, dict):
        return len(left) == len(right) and all(same(a, b) for a, b in zip(left.items(), right.items(), strict=True))
    if isinstance(left, complex):
        return same([left.real, left.imag], [right.real, right.imag])
    return bool(left == right)


zones = (
    st.none()
    | st.just(UTC)
    | st.just(timezone(timedelta(hours=-3, minutes=30)))
    | st.just(ZoneInfo("America/New_York"))
)
hashable = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(allow_nan=False),
    st.text(),
    st.binary(),
    st.decimals(allow_nan=False),
    st.dates(),
    st.uuids(),
    st.timedeltas(),
)
scalars = st.one_of(
    hashable,
    st.floats(),
    st.decimals(),
    st.datetimes(timezones=zones),
    st.times(),
    st.fractions(),
    st.complex_numbers(),
    st.binary().map(bytearray),
    st.frozensets(hashable),
    hnp.arrays(
        hnp.scalar_dtypes() | hnp.byte_string_dtypes(min_len=1) | hnp.unicode_string_dtypes(min_len=1),
        hnp.array_shapes(min_dims=0),
    ),
    hnp.from_dtype(np.dtype("<M8[ns]")),
    hnp.from_dtype(np.dtype("float32")),
)
values = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner)
        | st.lists(inner).map(tuple)
        | st.dictionaries(st.text(), inner)
        | st.dictionaries(hashable, inner)
    ),
    max_leaves=12,
)


@given(values)
def test_what_goes_in_comes_back(value: Any) -> None:
    assert same(codec.decode(codec.encode(value)), value)


def test_arrays_keep_order_structure_and_are_writable() -> None:
    book = np.zeros(3, dtype=[("price", "<f8"), ("size", ">i4"), ("flags", "u1", (2,))])
    fortran = np.asfortranarray(np.arange(6.0).reshape(2, 3))
    for array in (book, fortran, np.arange(10)[::3], np.array(3.0)):
        back = codec.decode(codec.encode(array))
        assert back.dtype == array.dtype
        assert back.shape == array.shape
        assert (back == array).all()
        assert back.flags.writeable
    assert codec.decode(codec.encode(fortran)).flags.f_contiguous


class Colour(enum.Enum):
    RED = 1


class Level(enum.IntEnum):
    LOW = 1


class Name(str):
    __slots__ = ()


class Point(NamedTuple):
    x: int


@dataclass
class Order:
    size: int


class Struct(msgspec.Struct):
    size: int


class OddZone(tzinfo):
    def utcoffset(self, when: datetime | None) -> timedelta:
        return timedelta(hours=1)


@pytest.mark.parametrize(
    "value",
    [
        Colour.RED,
        Level.LOW,
        Name("x"),
        Point(1),
        Order(1),
        Struct(1),
        collections.OrderedDict(a=1),
        collections.defaultdict(int),
        collections.deque([1]),
        object(),
        print,
        int,
        datetime(2024, 1, 1, tzinfo=OddZone()),
        datetime(2024, 1, 1, tzinfo=timezone(timedelta(hours=1), "CET")),
        np.array([object()]),
        np.ma.masked_array([1.0], [True]),
        "\ud800",
        memoryview(b"x"),
        range(3),
    ],
    ids=lambda value: type(value).__name__,  # a repr may hold an address, and xdist wants the same ids everywhere
)
def test_what_would_not_come_back_is_refused(value: Any) -> None:
    for nested in (value, [value], {"a": {"b": (value,)}}, {1: value}):
        with pytest.raises(ntmem.SerializationError, match=r"would not|would come back|cannot be stored"):
            codec.encode(nested)


def test_a_value_that_contains_itself_is_refused() -> None:
    endless: list[Any] = []
    endless.append(endless)
    with pytest.raises(ntmem.SerializationError, match="nested"):
        codec.encode(endless)


@given(st.binary(max_size=60))
def test_foreign_bytes_are_an_error_or_a_value_never_a_crash(data: bytes) -> None:
    with contextlib.suppress(ntmem.SerializationError):
        codec.decode(data)


@pytest.mark.parametrize("code", range(-128, 128))
def test_damaged_extensions_are_errors(code: int) -> None:
    for content in (b"", b"\xff", b"nonsense", b"\x93NUMPY\x09", codec.encode([1, 2, 3, 4])):
        data = msgspec.msgpack.encode(msgspec.msgpack.Ext(code, content))
        with contextlib.suppress(ntmem.SerializationError):
            codec.decode(data)


def test_the_format_never_changes() -> None:
    fixture = {
        "tuple": (1, Decimal("1.50")),
        "when": datetime(2024, 8, 8, 23, 54, 15, 88169, tzinfo=UTC),
        "day": date(2024, 8, 8),
        "lag": timedelta(milliseconds=1200),
        "id": uuid.UUID(int=7),
        "half": Fraction(1, 2),
        "big": 2**70,
    }
    written = bytes.fromhex(
        "87a57475706c65d7019201d602312e3530a47768656ec71e0393ba323032342d30382d30385432333a35343a31352e30"
        "38383136390000a3646179c70a04323032342d30382d3038a36c6167d706930001ce00030d40a26964d80e0000000000"
        "0000000000000000000007a468616c66c7030f312f32a3626967c7160731313830353931363230373137343131333033"
        "343234"
    )
    assert same(codec.decode(written), fixture)
    assert codec.encode(fixture) == written


@pytest.mark.parametrize("value", [b"x", bytearray(b"x"), memoryview(b"x"), np.frombuffer(b"x", np.uint8)])
def test_bytes_like_values_become_bytes(value: Any) -> None:
    assert as_bytes(value) == b"x"


@pytest.mark.parametrize("value", ["x", 1, None, [1], 1.0])
def test_other_values_are_refused_with_a_hint(value: Any) -> None:
    with pytest.raises(TypeError, match=r"encode\(\)|namespace"):
        as_bytes(value)


def test_codecs_are_found_by_name_or_given() -> None:
    assert codec_named("bytes").decode(codec_named("bytes").encode(b"x")) == b"x"
    with pytest.raises(ValueError, match="msgpack"):
        codec_named("pickle")
    with pytest.raises(TypeError, match="encode and decode"):
        codec_named(3)  # type: ignore[arg-type]


def test_numpy_corner_cases() -> None:
    wide = np.zeros(2, [(f"field_{number}_€", "f4") for number in range(600)])
    for value in (np.zeros((0, 3)), np.zeros(3, "S0"), np.zeros(2, "V5"), np.void(b"abc"), np.float32(1.5), wide):
        assert same(codec.decode(codec.encode(value)), value)
    aligned = np.zeros(1, np.dtype([("a", "i1"), ("b", "f8")], align=True))
    labelled = np.zeros(1, np.dtype("f8", metadata={"unit": "USD"}))
    record = np.rec.array([(1, 2.0)], dtype=[("a", "i4"), ("b", "f8")])
    for value in (np.str_("abc\0"), np.bytes_(b"ab\0"), aligned, labelled, record, record[0]):
        with pytest.raises(ntmem.SerializationError):
            codec.encode(value)


def test_a_zone_that_only_has_a_name_is_refused() -> None:
    content = (
        b"TZif" + b"2" + b"\0" * 15 + struct.pack(">6l", 0, 0, 0, 0, 1, 4) + struct.pack(">lbb", 0, 0, 0) + b"UTC\0"
    )
    odd = ZoneInfo.from_file(io.BytesIO(content[:4] + b"\0" + content[5:]), key="My/Zone")
    with pytest.raises(ntmem.SerializationError, match="time zone"):
        codec.encode(datetime(2024, 1, 1, tzinfo=odd))
