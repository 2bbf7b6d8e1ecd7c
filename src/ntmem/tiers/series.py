"""How series of observations stand in the store: pure functions between Python values and bytes.

**Layout**

================ ======================================= =========================================================
namespace        key                                     value
================ ======================================= =========================================================
ntmem/series     labels, NUL, symbol                     :class:`SeriesRow`, as MessagePack
ntmem/rows       series (8 digits), number (12 digits)   ``_HEAD``, eight bytes for each field, metadata
ntmem/blocks     series (8 digits), block (12 digits)    :class:`Block`, as MessagePack
ntmem/embeddings as of rows                               float32, little-endian
================ ======================================= =========================================================

Digits are hexadecimal. A row stands either under its key or in a block; where blocks cover its number, what stands
under its key is left over and means nothing. **The format numbers never change meaning.**
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec
import numpy as np

from .. import delta
from ..errors import CorruptionError
from .guards import BLOCKS, ROWS, SERIES, VECTORS

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["BLOCKS", "ROWS", "SERIES", "VECTORS"]

FORMAT = 1
BLOCK_ROWS = 16_384
MOST_LAYOUTS = 4096
MOST_FIELDS = 1024
RESERVED = ("ts_event", "ts_known", "row", "metadata", "embedding")
"""Names of columns that every row has, or may have."""

HAS_METADATA, HAS_EMBEDDING = 1, 2  # flags of a row
JUMP = 0xFFFF
"""Instead of a layout: so many rows from here on stand in blocks; ts_event says how many."""

DROPPING = 2
"""Format of a series of which rows were dropped: what does not know `DROPPED` is not to read it."""

SORTED, BEST, BULK, SWEPT, DROPPED = 1, 2, 4, 8, 16
"""Flags of a block: by ts_event; not to be coded again; its rows never stood alone; none is left over under its key;
there is no block, for its rows were dropped, and its bounds hold no instant."""
ENTRY = np.dtype(
    [
        ("first", "<u8"),
        ("rows", "<u4"),
        ("flags", "<u4"),
        ("id", "<u8"),
        ("event_min", "<i8"),
        ("event_max", "<i8"),
        ("known_min", "<i8"),
        ("known_max", "<i8"),
        ("size", "<u8"),
    ]
)
"""What a series knows of a block without reading it."""

_HEAD = struct.Struct("<HHIqq")  # layout flags bytes_behind_the_fields ts_event ts_known
_HEAD_FIELDS = [("layout", "<u2"), ("flags", "<u2"), ("extra", "<u4"), ("ts_event", "<i8"), ("ts_known", "<i8")]
TIMES = [("ts_event", "<i8"), ("ts_known", "<i8")]
"""What every row begins with, as its readers see it."""
_TYPES = {"f": "<f8", "i": "<i8"}
EXACT = 1 << 53
"""Up to there a float64 is every whole number."""


class Layout(NamedTuple):
    """The fields of a row, in order, each float64 ("f") or int64 ("i"); `earliest`: no row of it was known before."""

    names: tuple[str, ...]
    kinds: str
    earliest: int

    @property
    def dtype(self) -> np.dtype[Any]:
        """Of the part of a row that has a fixed size; the fields are called 0, 1, ..."""
        return _fixed(self.kinds)

    @property
    def named(self) -> np.dtype[Any]:
        """Of a row as its readers see it."""
        return _named(self.names, self.kinds)


@lru_cache(1024)
def _fixed(kinds: str) -> np.dtype[Any]:
    return np.dtype(_HEAD_FIELDS + [(str(i), _TYPES[kind]) for i, kind in enumerate(kinds)])


@lru_cache(1024)
def _named(names: tuple[str, ...], kinds: str) -> np.dtype[Any]:
    return np.dtype(TIMES + [(name, _TYPES[kind]) for name, kind in zip(names, kinds, strict=True)])


class Pending(NamedTuple):
    """Blocks that are being written and belong to no series yet, since an instant."""

    first: int
    blocks: int
    since: int


class SeriesRow(msgspec.Struct, array_like=True, frozen=True):
    """What the store knows of a series."""

    id: int
    layouts: tuple[Layout, ...] = ()
    blocks: bytes = b""
    """Array of ``ENTRY``, by first row; they do not overlap."""
    next_block: int = 0
    garbage: tuple[int, ...] = ()
    """Blocks that belong to it no more, and may still be there."""
    pending: tuple[Pending, ...] = ()
    format: int = FORMAT

    @property
    def entries(self) -> NDArray[Any]:
        """Its blocks."""
        return np.frombuffer(self.blocks, ENTRY)

    def layout_of(self, names: tuple[str, ...], kinds: str, known: int) -> int | None:
        """Return the number of a layout for rows that are known at `known`.

        One of other rows that were known by then may have the fields in another order. One that came later may not: of
        its order there is to be no sign.
        """
        wanted = dict(zip(names, kinds, strict=True))
        for number, it in enumerate(self.layouts):
            same = dict(zip(it.names, it.kinds, strict=True)) == wanted
            if same and (it.earliest <= known or it.names == names):
                return number
        return None

    def with_layout(self, names: tuple[str, ...], kinds: str, known: int) -> tuple[SeriesRow, int]:
        """Return the same with a layout of which a row was known at `known`, and the layout's number."""
        number = self.layout_of(names, kinds, known)
        layouts = list(self.layouts)
        if number is None:
            if len(layouts) == MOST_LAYOUTS:
                raise ValueError(
                    f"a series has rows of at most {MOST_LAYOUTS} different sets of fields; use several symbols"
                )
            number = len(layouts)
            layouts.append(Layout(names, kinds, known))
        elif known < layouts[number].earliest:
            layouts[number] = layouts[number]._replace(earliest=known)
        return msgspec.structs.replace(self, layouts=tuple(layouts)), number

    def with_blocks(self, added: NDArray[Any], removed: Iterable[int] = ()) -> SeriesRow:
        """Return the same with blocks instead of others, which become garbage."""
        gone = sorted(removed)
        kept = self.entries[~np.isin(self.entries["id"], np.array(gone, np.uint64))]
        entries = np.concatenate((kept, added))
        entries = entries[np.argsort(entries["first"], kind="stable")]
        return msgspec.structs.replace(self, blocks=entries.tobytes(), garbage=(*self.garbage, *gone))


_series_encoder, _series_decoder = msgspec.msgpack.Encoder(), msgspec.msgpack.Decoder(SeriesRow)


def encode_series(row: SeriesRow) -> bytes:
    """Return the bytes of a series."""
    return _series_encoder.encode(row)


def decode_series(data: bytes) -> SeriesRow:
    """Return a series; raise :class:`CorruptionError` if it is damaged, or of a later format."""
    try:
        row = _series_decoder.decode(data)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise CorruptionError(f"the row of a series of observations is damaged ({error}); restore a backup") from error
    if row.format not in (FORMAT, DROPPING):
        raise CorruptionError(f"a series of observations has format {row.format}, this version reads {DROPPING}")
    return row


def series_stem(labels: tuple[str, ...]) -> bytes:
    """Return what the keys of the series of a namespace begin with."""
    return "/".join(labels).encode() + b"\0"


def series_key(labels: tuple[str, ...], symbol: bytes) -> bytes:
    """Return the key of a series. (A label holds neither "/" nor NUL.)"""
    return series_stem(labels) + symbol


def row_key(series: int, number: int) -> bytes:
    """Return the key of a row, of its embedding, or of a block."""
    return b"%08x%012x" % (series, number)


# ---- rows ------------------------------------------------------------------------------------------------------------


def encode_row(
    layout: int, flags: int, ts_event: int, ts_known: int, kinds: str, values: Sequence[float], metadata: bytes
) -> bytes:
    """Return the bytes of a row."""
    fields = struct.pack("<" + "".join("d" if kind == "f" else "q" for kind in kinds), *values)
    return _HEAD.pack(layout, flags, len(metadata), ts_event, ts_known) + fields + metadata


def encode_jump(rows: int) -> bytes:
    """Return what stands under the key of the first of so many rows in blocks."""
    return _HEAD.pack(JUMP, 0, 0, rows, 0)


def layout_number(row: bytes) -> int:
    """Return the number of a row's layout, or `JUMP`."""
    return int.from_bytes(row[:2], "little")


def row_flags(row: bytes) -> int:
    """Return a row's flags."""
    return int.from_bytes(row[2:4], "little")


def metadata_of(row: bytes) -> bytes:
    """Return the metadata at the end of a row; empty: it has none."""
    extra = _HEAD.unpack_from(row)[2]
    return row[len(row) - extra :] if extra else b""


# ---- tables of rows --------------------------------------------------------------------------------------------------


class Column(NamedTuple):
    """Numbers of a field, and (None: all) in which rows they are."""

    values: NDArray[Any]
    present: NDArray[np.bool_] | None = None


def widened(columns: Mapping[str, Column], rows: int, name: str) -> NDArray[np.float64]:
    """Return a field as float64, NaN where it is missing, from its columns "f..." and "i...".

    Raises
    ------
    ValueError
        A whole number is none that float64 has.
    """
    only = columns.get("f" + name)
    if only is not None and only.present is None:
        return only.values
    found = np.full(rows, np.nan)
    for kind in "fi":
        column = columns.get(kind + name)
        if column is None:
            continue
        where = slice(None) if column.present is None else column.present
        numbers = column.values[where]
        if kind == "i" and len(numbers) and (int(numbers.max()) > EXACT or int(numbers.min()) < -EXACT):
            raise ValueError(
                f"field {name!r} is of whole numbers in some rows and of floats, or missing, in others, and one "
                f"is beyond 2**53, which float64 does not have; leave it out by fields="
            )
        found[where] = numbers
    return found


class Block(msgspec.Struct, array_like=True, frozen=True):
    """Rows in columns."""

    rows: int
    columns: tuple[str, ...]
    """Names in `table`: "e" ts_event, "k" ts_known, "f..." and "i..." fields, "?..." where they are, "m" metadata by
    its place in `metadata` (-1: none), "v" whether there is an embedding."""
    known_after: int | None
    """ts_known less ts_event where that is the same in all rows: then there is no "k"."""
    table: bytes
    metadata: bytes = b""
    """MessagePack, deflated: all different ones."""
    format: int = FORMAT


_block_encoder, _block_decoder = msgspec.msgpack.Encoder(), msgspec.msgpack.Decoder(Block)
MOST_METADATA = 1 << 15
"""Bytes of metadata of a row: a block holds those of all its rows at once."""
_MOST_METADATA = BLOCK_ROWS * (MOST_METADATA + 8)


class Rows(NamedTuple):
    """Rows on their way into a block."""

    ts_event: NDArray[np.int64]
    ts_known: NDArray[np.int64]
    columns: dict[str, Column]
    metadata: list[bytes] | None = None
    embedded: NDArray[np.bool_] | None = None

    def part(self, start: int, stop: int) -> Rows:
        """Return some of them."""
        rows = slice(start, stop)
        columns = {
            name: Column(it.values[rows], None if it.present is None else it.present[rows])
            for name, it in self.columns.items()
        }
        return Rows(
            self.ts_event[rows],
            self.ts_known[rows],
            columns,
            None if self.metadata is None else self.metadata[rows],
            None if self.embedded is None else self.embedded[rows],
        )


def encode_block(rows: Rows, level: delta.Level) -> bytes:
    """Return the bytes of a block."""
    event, known = rows.ts_event, rows.ts_known
    after = int(known[0]) - int(event[0])
    table: dict[str, NDArray[Any]] = {"e": event}
    constant = bool(((known - event) == after).all())
    if not constant:
        table["k"] = known
    for name, column in rows.columns.items():
        table[name] = column.values
        if column.present is not None and not column.present.all():
            table["?" + name] = column.present
    metadata = b""
    if rows.metadata is not None and any(rows.metadata):
        places: dict[bytes, int] = {}
        numbers = [places.setdefault(it, len(places)) if it else -1 for it in rows.metadata]
        table["m"] = np.array(numbers, np.int32)
        metadata = zlib.compress(msgspec.msgpack.encode(list(places)))
    if rows.embedded is not None and rows.embedded.any():
        table["v"] = rows.embedded
    return _block_encoder.encode(
        Block(len(event), tuple(table), after if constant else None, delta.encode_columns(table, level=level), metadata)
    )


def block_entry(rows: Rows, first: int, number: int, size: int, flags: int) -> NDArray[Any]:
    """Return what the series is to know of a block, as an array of one."""
    event, known = rows.ts_event, rows.ts_known
    if bool((event[1:] >= event[:-1]).all()):
        flags |= SORTED
        lowest, highest = event[0], event[-1]
    else:
        lowest, highest = event.min(), event.max()
    return np.array([(first, len(event), flags, number, lowest, highest, known.min(), known.max(), size)], ENTRY)


class StoredBlock:
    """A block as it was read; its columns are decoded when they are asked for, once.

    Raises :class:`CorruptionError` if it is damaged.
    """

    def __init__(self, data: bytes) -> None:
        try:
            self._block = _block_decoder.decode(data)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise CorruptionError(f"a block of observations is damaged ({error}); restore a backup") from error
        if self._block.format != FORMAT:
            raise CorruptionError(
                f"a block of observations has format {self._block.format}, this version reads {FORMAT}"
            )
        self._done: dict[str, NDArray[Any]] = {}

    @property
    def rows(self) -> int:
        """How many there are."""
        return self._block.rows

    def decode(self, names: Iterable[str]) -> None:
        """Decode columns at once: those that one is coded by are decoded once then."""
        missing = [name for name in names if name not in self._done and name in self._block.columns]
        if missing:
            try:
                found = delta.decode_columns(self._block.table, missing)
            except KeyError as error:
                raise CorruptionError(f"a block of observations is damaged ({error}); restore a backup") from error
            if any(len(numbers) != self.rows for numbers in found.values()):
                raise CorruptionError(f"a column of a block is not as long as its {self.rows} rows; restore a backup")
            self._done.update(found)

    def array(self, name: str) -> NDArray[Any] | None:
        """Return a column; None: there is none."""
        self.decode((name,))
        return self._done.get(name)

    def _needed(self, name: str) -> NDArray[np.int64]:
        found = self.array(name)
        if found is None:
            raise CorruptionError(f"a block of observations has no column {name!r}; restore a backup")
        return found

    @property
    def ts_event(self) -> NDArray[np.int64]:
        """Of all rows."""
        return self._needed("e")

    @property
    def ts_known(self) -> NDArray[np.int64]:
        """Of all rows."""
        if self._block.known_after is not None:
            return self.ts_event + self._block.known_after
        return self._needed("k")

    def columns(self, names: Iterable[str]) -> dict[str, Column]:
        """Return those columns of fields that there are."""
        wanted = [name for name in names if name in self._block.columns]
        self.decode([*wanted, *("?" + name for name in wanted)])
        return {name: Column(self._done[name], self._done.get("?" + name)) for name in wanted}

    @property
    def names(self) -> tuple[str, ...]:
        """Of the columns of fields, each behind "f" or "i"."""
        return tuple(name for name in self._block.columns if name[0] in "fi")

    def metadata(self) -> list[bytes] | None:
        """Return that of each row (empty: none); None: there is none at all."""
        numbers = self.array("m")
        if numbers is None:
            return None
        try:
            data = zlib.decompressobj().decompress(self._block.metadata, _MOST_METADATA)
            different = msgspec.msgpack.decode(data, type=list[bytes])
            return [different[number] if number >= 0 else b"" for number in numbers.tolist()]
        except (zlib.error, msgspec.DecodeError, IndexError, TypeError) as error:
            raise CorruptionError(f"a block of observations is damaged ({error}); restore a backup") from error

    @property
    def embedded(self) -> NDArray[np.bool_] | None:
        """Which rows have an embedding; None: none has."""
        return self.array("v")

    def whole(self) -> Rows:
        """Return all there is."""
        return Rows(self.ts_event, self.ts_known, self.columns(self.names), self.metadata(), self.embedded)
