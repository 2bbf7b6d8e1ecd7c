"""Codecs: between Python objects and the bytes that the store keeps.

The ``msgpack`` codec rests on msgspec, which by itself turns several types into another one without a word (tuples
into lists, Decimal and dates into strings). Here a value comes back as it went in, type for type, or is refused.
Nothing is ever pickled.

**Layout**: MessagePack with these extension codes, whose meaning never changes.

==== ===================== ======================================
code type                  content
==== ===================== ======================================
1    tuple                 MessagePack of the list
2    decimal.Decimal       text
3    datetime.datetime     MessagePack of [text, fold, zone]
4    datetime.date         ISO text
5    datetime.time         MessagePack of [text, fold, zone]
6    datetime.timedelta    MessagePack of [days, seconds, us]
7    int beyond 64 bits    decimal text
8    numpy array           MessagePack of [dtype, Fortran order,
                           shape, bytes]
9    numpy scalar          the same, of a 0-d array
10   complex               MessagePack of [real, imaginary]
11   set                   MessagePack of the list
12   frozenset             MessagePack of the list
13   bytearray             the bytes
14   uuid.UUID             the 16 bytes
15   fractions.Fraction    text
16   dict with keys that   MessagePack of the list of [key, value]
     are not all str
==== ===================== ======================================
"""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import Callable
from datetime import UTC, date, datetime, time, timedelta, timezone, tzinfo
from decimal import Decimal
from typing import Any, Protocol, runtime_checkable

from msgspec.msgpack import Decoder, Encoder, Ext

from .errors import SerializationError

_encode = Encoder().encode
_MAX_DEPTH = 128


@runtime_checkable
class Codec(Protocol):
    """Turns objects into bytes and back. `decode(encode(value))` must equal `value`."""

    def encode(self, value: Any) -> bytes:
        """Return the bytes that stand for `value`; raise :class:`SerializationError` if it would not come back."""

    def decode(self, data: bytes) -> Any:
        """Return the value that `data` stands for; raise :class:`SerializationError` if it stands for none."""


def _zone(zone: tzinfo | None) -> str | int | None:
    """Return None, the key of a ZoneInfo, or the microseconds of a fixed offset."""
    if zone is None:
        return None
    if type(zone).__module__ == "zoneinfo" and getattr(zone, "key", None) is not None:
        from zoneinfo import ZoneInfo  # 3 ms to import; who has such a zone has paid them

        key = str(zone.key)  # type: ignore[attr-defined]
        with contextlib.suppress(KeyError, ValueError):  # a zone made from a file may have any name
            if type(zone) is ZoneInfo and ZoneInfo(key) is zone:
                return key
    if type(zone) is timezone and zone.tzname(None) == timezone(zone.utcoffset(None)).tzname(None):
        return zone.utcoffset(None) // timedelta(microseconds=1)
    raise SerializationError(
        f"the time zone {zone!r} would not come back; use datetime.UTC, a fixed offset or ZoneInfo"
    )


def _unzone(zone: str | int | None) -> tzinfo | None:
    if zone is None:
        return None
    if isinstance(zone, str):
        from zoneinfo import ZoneInfo

        return ZoneInfo(zone)
    return UTC if zone == 0 else timezone(timedelta(microseconds=zone))


def _pack_datetime(value: datetime) -> bytes:
    return _encode([value.replace(tzinfo=None).isoformat(), value.fold, _zone(value.tzinfo)])


def _unpack_datetime(data: bytes) -> datetime:
    text, fold, zone = _decode(data)
    return datetime.fromisoformat(text).replace(fold=fold, tzinfo=_unzone(zone))


def _pack_time(value: time) -> bytes:
    return _encode([value.replace(tzinfo=None).isoformat(), value.fold, _zone(value.tzinfo)])


def _unpack_time(data: bytes) -> time:
    text, fold, zone = _decode(data)
    return time.fromisoformat(text).replace(fold=fold, tzinfo=_unzone(zone))


def _pack_numpy(value: Any) -> bytes:
    """Return an array (a scalar is one of no dimensions) as [dtype, Fortran order, shape, bytes]."""
    import numpy as np

    array = np.asanyarray(value)
    dtype = array.dtype
    described = None
    if not dtype.hasobject and dtype.metadata is None and dtype == value.dtype:
        described = np.lib.format.dtype_to_descr(dtype)
        back = np.lib.format.descr_to_dtype(described)
        if (back, back.type, back.isalignedstruct) != (dtype, dtype.type, dtype.isalignedstruct):
            described = None
        if isinstance(value, str | bytes) and array[()] != value:  # numpy cuts NULs off the end
            described = None
    if described is None:
        raise SerializationError(f"a numpy {value.dtype} would not come back as it is; convert it, e.g. with astype")
    fortran = array.flags.f_contiguous and not array.flags.c_contiguous
    return _encode([_plain(described), fortran, array.shape, array.tobytes("F" if fortran else "C")])


def _unpack_numpy(data: bytes) -> Any:
    import numpy as np

    described, fortran, shape, content = _decode(data)
    dtype = np.lib.format.descr_to_dtype(described)
    array = np.empty(tuple(shape), dtype, order="F" if fortran else "C")
    if array.nbytes != len(content):
        raise SerializationError(f"an array of {array.nbytes} bytes is stored in {len(content)}; the value is damaged")
    array.reshape(-1, order="A").view(np.uint8)[:] = np.frombuffer(content, np.uint8) if content else 0
    return array


def _unpack_fraction(data: bytes) -> Any:
    from fractions import Fraction

    return Fraction(data.decode())


# By exact type: a subclass would come back as its base. Encoders get (value, plain) where `plain` converts members.
_Plain = Callable[[Any], Any]
_PACK: dict[type, tuple[int, Callable[[Any, _Plain], bytes]]] = {
    tuple: (1, lambda value, plain: _encode([plain(member) for member in value])),
    Decimal: (2, lambda value, plain: str(value).encode()),
    datetime: (3, lambda value, plain: _pack_datetime(value)),
    date: (4, lambda value, plain: value.isoformat().encode()),
    time: (5, lambda value, plain: _pack_time(value)),
    timedelta: (6, lambda value, plain: _encode([value.days, value.seconds, value.microseconds])),
    complex: (10, lambda value, plain: _encode([value.real, value.imag])),
    set: (11, lambda value, plain: _encode([plain(member) for member in value])),
    frozenset: (12, lambda value, plain: _encode([plain(member) for member in value])),
    bytearray: (13, lambda value, plain: bytes(value)),
    uuid.UUID: (14, lambda value, plain: value.bytes),
}
_BIG_INT, _ARRAY, _SCALAR, _FRACTION, _DICT = 7, 8, 9, 15, 16
_UNPACK: dict[int, Callable[[bytes], Any]] = {
    1: lambda data: tuple(_decode(data)),
    2: lambda data: Decimal(data.decode()),
    3: _unpack_datetime,
    4: lambda data: date.fromisoformat(data.decode()),
    5: _unpack_time,
    6: lambda data: timedelta(*_decode(data)),
    _BIG_INT: lambda data: int(data.decode()),
    _ARRAY: _unpack_numpy,
    _SCALAR: lambda data: _unpack_numpy(data)[()],
    10: lambda data: complex(*_decode(data)),
    11: lambda data: set(_decode(data)),
    12: lambda data: frozenset(_decode(data)),
    13: bytearray,
    14: lambda data: uuid.UUID(bytes=data),
    _FRACTION: _unpack_fraction,
    _DICT: lambda data: dict(_decode(data)),
}


def _unpack(code: int, data: memoryview) -> Any:
    unpack = _UNPACK.get(code)
    if unpack is None:
        raise SerializationError(
            f"the value has extension code {code}, which this version does not know; upgrade ntmem"
        )
    return unpack(bytes(data))


_decode: Callable[[bytes], Any] = Decoder(ext_hook=_unpack).decode
_SAFE = frozenset({type(None), bool, float, str, bytes})


def _plain(value: Any, depth: int = 0) -> Any:
    """Return `value` with everything MessagePack has no type for turned into extensions."""
    kind = type(value)
    if kind in _SAFE:
        return value
    if kind is int:
        if -(2**63) <= value < 2**64:
            return value
        return Ext(_BIG_INT, _int_text(value).encode())
    if depth > _MAX_DEPTH:
        raise SerializationError(f"a value may be nested {_MAX_DEPTH} deep, this one is deeper (or contains itself)")

    def member(inner: Any) -> Any:
        return _plain(inner, depth + 1)

    if kind is dict:
        if all(type(key) is str for key in value):
            return {key: member(inner) for key, inner in value.items()}
        return Ext(_DICT, _encode([[member(key), member(inner)] for key, inner in value.items()]))
    if kind is list:
        return [member(inner) for inner in value]
    packer = _PACK.get(kind)
    if packer is not None:
        return Ext(packer[0], packer[1](value, member))
    if kind.__module__ == "numpy":
        return _plain_numpy(value)
    if (kind.__module__, kind.__qualname__) == ("fractions", "Fraction"):
        return Ext(_FRACTION, str(value).encode())
    raise SerializationError(_refusal(value))


def _plain_numpy(value: Any) -> Ext:
    import numpy as np

    if type(value) is np.ndarray:
        return Ext(_ARRAY, _pack_numpy(value))
    if isinstance(value, np.generic):
        return Ext(_SCALAR, _pack_numpy(value))
    raise SerializationError(_refusal(value))


def _int_text(value: int) -> str:
    try:
        return str(value)
    except ValueError as error:  # the interpreter's limit of digits
        raise SerializationError("an int of that many digits cannot be stored; store its bytes") from error


def _refusal(value: Any) -> str:
    kind = type(value)
    base = next(
        (base for base in kind.__mro__[1:] if base in _SAFE or base in _PACK or base in (int, dict, list)), None
    )
    if base is not None and base is not type(None):
        return f"a {kind.__qualname__} would come back as a plain {base.__name__}; convert it yourself and back"
    return f"a {kind.__module__}.{kind.__qualname__} cannot be stored; turn it into plain values, bytes or numpy arrays"


class MsgpackCodec:
    """MessagePack through msgspec: what goes in comes back, type for type, or is refused.

    Examples
    --------
    >>> from decimal import Decimal
    >>> codec = MsgpackCodec()
    >>> codec.decode(codec.encode({"fill": (Decimal("1.50"), 3)}))
    {'fill': (Decimal('1.50'), 3)}
    """

    def encode(self, value: Any) -> bytes:
        """Return the bytes of `value`; raise :class:`SerializationError` if it would not come back as it is."""
        try:
            return _encode(_plain(value))
        except (UnicodeEncodeError, RecursionError, OverflowError) as error:
            raise SerializationError(f"the value cannot be stored: {error}") from error

    def decode(self, data: bytes) -> Any:
        """Return the value; raise :class:`SerializationError` if `data` is not one of this codec's."""
        try:
            return _decode(data)
        except SerializationError:
            raise
        except Exception as error:  # of whatever the content of an extension makes its type raise
            raise SerializationError(
                f"{len(data)} bytes are not a value of the msgpack codec ({error}); was it written with another codec?"
            ) from error


class BytesCodec:
    """No codec: values are bytes-like and come back as bytes."""

    def encode(self, value: Any) -> bytes:
        """Return `value` as bytes."""
        return as_bytes(value)

    def decode(self, data: bytes) -> bytes:
        """Return `data`."""
        return data


def as_bytes(value: Any) -> bytes:
    """Return a bytes-like value as bytes; raise ``TypeError`` that says what to do with anything else."""
    if type(value) is bytes:
        return value
    if isinstance(value, str):
        raise TypeError("values are bytes-like, was str; use value.encode(), or a namespace view for plain objects")
    try:
        return bytes(memoryview(value))
    except (TypeError, ValueError, BufferError) as error:
        raise TypeError(
            f"values are bytes-like, was {type(value).__name__}; use memory.namespace(...) for plain objects"
        ) from error


CODECS: dict[str, Codec] = {"msgpack": MsgpackCodec(), "bytes": BytesCodec()}


def codec_named(codec: str | Codec) -> Codec:
    """Return a codec by name, or the object itself if it is one."""
    if isinstance(codec, str):
        if codec not in CODECS:
            raise ValueError(
                f"codec must be one of {sorted(CODECS)} or an object with encode and decode, was {codec!r}"
            )
        return CODECS[codec]
    if not isinstance(codec, Codec):
        raise TypeError(f"a codec has encode and decode, {type(codec).__name__} has not")
    return codec
