"""How collections of vectors stand in the store: pure functions between Python values and bytes.

**Layout**

================= ========================================== ======================================================
namespace         key                                        value
================= ========================================== ======================================================
ntmem/collections labels                                     :class:`CollectionRow`, as MessagePack
ntmem/vectors     collection (8 digits), number (12 digits)  ``_HEAD``, id, float32 numbers, metadata as MessagePack
================= ========================================== ======================================================

Digits are hexadecimal, all else is little-endian. A record is a change: a vector that comes in the place of the one of
its id, or its deletion. Numbers have no gaps. **The format numbers never change meaning.**
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec
import numpy as np

from ..errors import CorruptionError
from .guards import COLLECTIONS, POINTS

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["COLLECTIONS", "POINTS"]

FORMAT = 1
_HEAD = struct.Struct("<BBHIqq")  # format flags id_bytes dimension ts_event ts_known
_DELETION = 1
MOST_ID = 512
MOST_METADATA = 32_768
MOST_DEPTH = 32
MOST_DIMENSIONS = 65_536
_ENCODER = msgspec.msgpack.Encoder()
_DECODER = msgspec.msgpack.Decoder(dict[str, Any])
_NESTED = (dict, list)


class CollectionRow(msgspec.Struct, array_like=True, frozen=True):
    """What the store knows of a collection."""

    number: int
    dimension: int
    metric: str
    dtype: str
    m: int
    ef_construction: int
    is_dropped: bool = False
    """Its vectors are being removed; it is no collection any more."""
    format: int = FORMAT


class Point(NamedTuple):
    """A change to a collection; `vector` None: a deletion. Metadata as MessagePack, or empty."""

    id: str
    vector: NDArray[np.float32] | None
    ts_event: int
    ts_known: int
    metadata: bytes

    def encode(self) -> bytes:
        """Return it as it stands in the store."""
        name = self.id.encode()
        if self.vector is None:
            return _HEAD.pack(FORMAT, _DELETION, len(name), 0, self.ts_event, self.ts_known) + name
        head = _HEAD.pack(FORMAT, 0, len(name), len(self.vector), self.ts_event, self.ts_known)
        return b"".join((head, name, self.vector.astype("<f4", copy=False).tobytes(), self.metadata))


def decode_point(value: bytes) -> Point:
    """Return the change that stands in the store so."""
    try:
        form, flags, id_size, dimension, event, known = _HEAD.unpack_from(value)
        at = _HEAD.size + id_size
        name = value[_HEAD.size : at].decode()
        end = at + 4 * dimension
    except (struct.error, UnicodeDecodeError) as error:
        raise CorruptionError(f"the record of a vector cannot be read: {error}; restore a backup") from error
    if form != FORMAT or len(value) < end or (flags == _DELETION) != (dimension == 0):
        raise CorruptionError(
            f"the record of a vector says format {form}, flags {flags}, {dimension} dimensions, in {len(value)} bytes; "
            "restore a backup"
        )
    vector = None if flags == _DELETION else np.frombuffer(value[at:end], "<f4")  # a copy, aligned
    return Point(name, vector, event, known, value[end:])


def point_key(collection: int, number: int) -> bytes:
    """Return the key of a change."""
    return b"%08x%012x" % (collection, number)


def collection_key(labels: tuple[str, ...]) -> bytes:
    """Return the key of a collection."""
    return "/".join(labels).encode()


def encode_collection(row: CollectionRow) -> bytes:
    """Return it as it stands in the store."""
    return _ENCODER.encode(row)


def decode_collection(value: bytes) -> CollectionRow:
    """Return the collection that stands in the store so."""
    try:
        return msgspec.msgpack.decode(value, type=CollectionRow)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise CorruptionError(f"the record of a collection cannot be read: {error}; restore a backup") from error


def encode_metadata(metadata: Any) -> bytes:
    """Return the metadata of a vector as MessagePack.

    Raises
    ------
    TypeError
        It is no mapping of str to what MessagePack holds.
    ValueError
        It is too large, or a name begins with "$", which no filter could say.
    """
    if not isinstance(metadata, Mapping):
        raise TypeError(f"metadata must be a mapping, was {type(metadata).__name__}")
    try:
        data = _ENCODER.encode(metadata)
        found = decode_metadata(data)
        depth = _depth(found)
    except (TypeError, ValueError, OverflowError, RecursionError, msgspec.MsgspecError) as error:
        raise TypeError(f"metadata must be a mapping of str to what MessagePack can hold: {error}") from None
    if depth > MOST_DEPTH:
        raise ValueError(f"metadata are nested {MOST_DEPTH} deep at most; put what is deeper under a key of its own")
    if len(data) > MOST_METADATA:
        raise ValueError(
            f"metadata of a vector have {MOST_METADATA} bytes at most, had {len(data)}; put what is large under a key "
            "of its own, and the key here"
        )
    for name in found:
        if not name or name[0] == "$":
            raise ValueError(f"names of metadata are non-empty str that do not begin with '$', one was {name!r}")
    return data


def decode_metadata(data: bytes) -> dict[str, Any]:
    """Return metadata as they were given; of none, nothing."""
    if not data:
        return {}
    return _DECODER.decode(data)


def _depth(value: Any) -> int:
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    deep = [each for each in inner if isinstance(each, _NESTED)]
    return 1 + max(map(_depth, deep), default=0) if isinstance(value, _NESTED) else 0
