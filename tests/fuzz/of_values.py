"""Values of users: the msgpack codec, filters of metadata, what is scrubbed."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, time
from decimal import Decimal
from fractions import Fraction
from uuid import UUID

import numpy as np
from columnar import RowColumns, bits_to_rows
from msgspec import json, msgpack
from registry import promised, target

from ntmem.errors import SerializationError
from ntmem.filters import compile_where
from ntmem.scrubbing import KINDS, Scrubber
from ntmem.values import CODECS

_CODEC = CODECS["msgpack"]


def _value_seeds() -> Iterator[bytes]:
    for value in (
        {"fill": (Decimal("1.50"), 3), "at": datetime(2026, 1, 2, tzinfo=UTC), "t": time(1, 2, 3)},
        [2**70, {1, 2}, frozenset(["a"]), bytearray(b"x"), 1 + 2j, UUID(int=7), Fraction(1, 3), {1: 2}],
        [np.arange(3), np.float64(1.5), np.zeros((2, 2), order="F"), np.array(["a", "bc"]), np.datetime64(5, "ns")],
        [datetime(2026, 1, 2, 3), datetime(2026, 1, 2).date(), None, True, -5, "é", b"\xff", 1e300],
    ):
        yield _CODEC.encode(value)
        if isinstance(value, list):
            yield from map(_CODEC.encode, value)


@target(_value_seeds)
def value(data: bytes) -> None:
    """A value or a SerializationError; a value encodes to what is the same value, or is refused."""
    with promised(SerializationError):
        found = _CODEC.decode(data)
    with promised(SerializationError):
        again = _CODEC.encode(found)
    assert _CODEC.encode(_CODEC.decode(again)) == again or "NaN" in repr(found) or _has_set(found)


def _has_set(found: object) -> bool:
    return "{" in repr(found)  # the order of sets is none


def _filter_seeds() -> Iterator[bytes]:
    rows = [{"a": 1, "b": "xy", "c": [1, "x"]}, {"a": 2.5, "c": {"d": None}}, {"a": True, "t": 2**63}, {}]
    for where in (
        {"a": 1},
        {"a": {"$gt": 1, "$lte": 2.5}, "b": {"$prefix": "x"}},
        {"$or": [{"a": {"$in": [1, "xy", None]}}, {"$not": {"c": {"$contains": "x"}}}]},
        {"c": {"$ne": {"d": None}}, "t": {"$exists": True}},
        {"a": {"$nin": [True, 2.5]}, "$and": [{"t": {"$gte": 9e18}}]},
    ):
        yield msgpack.encode([where, rows])


@target(_filter_seeds)
def where(data: bytes) -> None:
    """A filter or a TypeError or ValueError; columns are matched as rows are."""
    try:
        said, rows = msgpack.decode(data, type=tuple[object, list[dict[str, object]]])
    except Exception:  # that is msgspec's
        return
    if len(data) > 4000:
        return
    with promised(TypeError, ValueError):
        compiled = compile_where(said)  # type: ignore[arg-type]
    if compiled is None:
        return
    expected = [compiled.matches(row) for row in rows]
    assert bits_to_rows(compiled.bits(RowColumns(rows), len(rows)), len(rows)) == expected
    assert compile_where(said) == compiled or "nan" in repr(said)  # type: ignore[arg-type]
    repr(compiled), hash(compiled)


def _scrubbed_seeds() -> Iterator[bytes]:
    for text in (
        "mail ada@example.com or call +44 20 7946 0958, card 4111 1111 1111 1111",
        'api_key = "sk-abcdefghijklmnopqrstuvwxyz123456" password: hunter22',
        "[EMAIL] of 10.1.2.3 and fe80::1%eth0, SSN 078-05-1120",
        "Bearer eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.abc-def_ghi AKIAIOSFODNN7EXAMPLE",
        '{"password": ["a", "b"], "x": {"mail": "a@b.co"}}',
    ):
        yield text.encode()


@target(_scrubbed_seeds)
def scrubbed(data: bytes) -> None:
    """Whatever a text is: spans in order and apart, and nothing is found in what is left."""
    text = data.decode(errors="surrogateescape")
    scrubber = Scrubber()
    at = 0
    for kind, start, end in scrubber.scan(text):
        assert kind in (*KINDS, "REDACTED")
        assert at <= start < end <= len(text)
        at = end
    once = scrubber(text)
    assert scrubber(once) == once
    try:
        said = json.decode(data)
    except Exception:  # that is msgspec's
        return
    with promised(SerializationError):
        found = scrubber.nested(said)
    assert scrubber.nested(found) == found or "nan" in repr(found)
