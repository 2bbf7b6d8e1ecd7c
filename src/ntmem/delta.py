"""Numeric series in few bytes, lossless: time stamps, prices, sizes, flags.

>>> import numpy as np
>>> from ntmem import delta
>>> prices = np.array([61800.2, 61800.3, 61800.2, float("nan"), 61800.1] * 1000)
>>> data = delta.encode(prices)
>>> len(data) < prices.nbytes / 20, np.array_equal(delta.decode(data), prices, equal_nan=True)
(True, True)

Every bit comes back: payloads of NaN, -0.0, infinities. How it works and what the bytes mean is in
docs/design/delta.md.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np

from ._core import delta as _core
from .errors import CorruptionError

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer
    from numpy.typing import NDArray

__all__ = ["LIMIT", "decode", "decode_columns", "encode", "encode_columns"]

LIMIT = 1 << 32
"""Bytes that one call of :func:`decode` makes at most unless told otherwise: a constant takes next to nothing."""

_NAMES = ("bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64", "float32", "float64")
_TYPES = {np.dtype(name): number for number, name in enumerate(_NAMES, 1)}
_DTYPES = {number: dtype for dtype, number in _TYPES.items()}
_LEVELS = {"fast": 0, "best": 1}
Level = Literal["fast", "best"]


def _prepared(array: object, name: str) -> NDArray[Any]:
    """`array` as contiguous little-endian numbers of a type that is known."""
    if not isinstance(array, np.ndarray):
        raise TypeError(f"{name} must be a numpy array, was {type(array).__name__}")
    if array.dtype not in _TYPES:
        raise TypeError(f"{name} must be little-endian and of {', '.join(_NAMES)}, was of {array.dtype}")
    if array.ndim != 1:
        raise ValueError(f"{name} must have one dimension, had shape {array.shape}")
    return np.require(array, requirements=["C", "A"])


def _raw(array: NDArray[Any]) -> Any:
    """Its bytes. (To type checkers arrays are no buffers before Python 3.12.)"""
    return array.view(np.uint8)


def _level(level: str) -> int:
    if level not in _LEVELS:
        raise ValueError(f"level must be 'fast' or 'best', was {level!r}")
    return _LEVELS[level]


def encode(array: NDArray[Any], *, level: Level = "best") -> bytes:
    """Code a series.

    Parameters
    ----------
    array : numpy array of one dimension
        Of bool, int8 to int64, uint8 to uint64, float32 or float64, little-endian; may be empty.
    level : "best" or "fast"
        "fast" is about twice as fast and makes some percent more bytes. Both decode alike.

    Returns
    -------
    bytes
        At most the bytes of the array, 9 for each 65,536 numbers, and 24.

    Raises
    ------
    TypeError
        No array, or of another type.
    ValueError
        Not of one dimension, or an unknown level.

    Notes
    -----
    **Thread safety**: the GIL is released; nobody may write to the array meanwhile.

    **Complexity**: O(n) time; some 8 MB of memory beside the result, which a thread keeps after calls of up to 16,384
    numbers.
    """
    array = _prepared(array, "array")
    return _core.encode(_raw(array), _TYPES[array.dtype], _level(level))


def decode(data: ReadableBuffer, *, start: int = 0, stop: int | None = None, limit: int = LIMIT) -> NDArray[Any]:
    """Decode a series, or the part of it from `start` to before `stop`, as slices count.

    Parameters
    ----------
    data : bytes or another buffer of bytes
        What :func:`encode` made.
    start, stop : int
        Only the blocks of 65,536 numbers that these touch are read.
    limit : int
        Bytes that the result may have.

    Returns
    -------
    numpy array
        Of the type that was coded, and owned by the caller.

    Raises
    ------
    CorruptionError
        The data is damaged, or no series.
    ValueError
        The result would have more than `limit` bytes.

    Notes
    -----
    **Thread safety**: the GIL is released. Data that others write to meanwhile is found to be damaged.

    **Complexity**: O(numbers decoded + blocks) time; some 3 MB of memory beside the result, kept as by :func:`encode`.
    """
    return _decode(_bytes_of(data), start, stop, limit)


def _bytes_of(data: ReadableBuffer) -> memoryview:
    try:
        view = memoryview(data)
    except TypeError:
        raise TypeError(f"data must be bytes or another buffer, was {type(data).__name__}") from None
    if not view.c_contiguous:
        raise ValueError("data must be contiguous")
    return view.cast("B")


def _described(data: memoryview) -> tuple[np.dtype[Any], int, int]:
    try:
        number, _, count, block = _core.describe(data)
    except _core.Damaged as error:
        raise CorruptionError(f"{error}; restore it from where it came from") from None
    return _DTYPES[number], count, block


def _decode(
    data: memoryview, start: int, stop: int | None, limit: int, guess: tuple[Any, ...] = (0, None, None)
) -> NDArray[Any]:
    dtype, count, block = _described(data)
    start, stop, _ = slice(start, stop).indices(count)
    stop = max(start, stop)
    first = start // block if stop > start else 0
    begin = first * block
    end = min(count, -(-stop // block) * block) if stop > start else begin
    if (end - begin) * dtype.itemsize > limit:
        raise ValueError(
            f"the result would have {(end - begin) * dtype.itemsize} bytes, more than the limit of {limit}; "
            "pass a larger limit, or start and stop"
        )
    numbers = np.empty(end - begin, dtype)
    try:
        _core.decode(data, _raw(numbers), first, *guess)
    except _core.Damaged as error:
        raise CorruptionError(f"{error}; restore it from where it came from") from None
    if (start, stop) == (begin, end):
        return numbers
    return numbers[start - begin : stop - begin].copy()


# ---- columns that know each other ------------------------------------------------------------------------------------

_MAGIC = b"NTC1"
_HEAD = struct.Struct("<4sIII")  # magic, columns, bytes of the index, crc
_ENTRY = struct.Struct("<HBBHHQ")  # bytes of the name, guess, rows it lags, columns it is made of, bytes of the series
_DEPTH = 8  # how many columns may have to be decoded for one
_NEAR = 8  # columns to either side that are looked at
_KINDS = (0, 1, 2, 3)  # none, the column, the greater of two, the lesser of two


class _Guess(NamedTuple):
    kind: int = 0
    lag: int = 0
    left: int = 0
    right: int = 0

    def parents(self) -> tuple[int, ...]:
        return () if self.kind == 0 else (self.left,) if self.kind == 1 else (self.left, self.right)

    def buffers(self, arrays: Mapping[int, NDArray[Any]]) -> tuple[Any, ...]:
        """What the core takes: its kind and the numbers it is made of."""
        shifted = [_raw(self._shifted(arrays[parent])) for parent in self.parents()]
        return (self.kind, *shifted, *[None] * (2 - len(shifted)))

    def _shifted(self, array: NDArray[Any]) -> NDArray[Any]:
        return np.concatenate((array[:1], array[: -self.lag])) if self.lag and len(array) else array


def _near(arrays: list[NDArray[Any]], child: int) -> list[int]:
    """Columns whose numbers are close to those of `child`: others need no estimate."""
    own = arrays[child]
    if len(own) < 64 or own.dtype.kind not in "if":
        return []
    rows = slice(None, None, max(1, len(own) // 256))
    with np.errstate(all="ignore"):
        mine = np.nan_to_num(own[rows].astype(np.float64))
        found = []
        for other in range(max(0, child - _NEAR), min(len(arrays), child + _NEAR + 1)):
            column = arrays[other]
            if other == child or column.dtype != own.dtype or len(column) != len(own):
                continue
            apart = np.abs(mine - np.nan_to_num(column[rows].astype(np.float64)))
            if np.median(apart) <= 0.05 * np.median(np.abs(mine)):
                found.append(other)
    return found


def _candidates(arrays: list[NDArray[Any]], child: int) -> list[tuple[float, int, _Guess]]:
    """Guesses at a column that save at least two parts in a hundred, with the bits that they save."""
    near = _near(arrays, child)
    if not near:
        return []
    own = arrays[child]
    known = dict(enumerate(arrays))
    number = _TYPES[own.dtype]
    alone = _core.estimate(_raw(own), number)

    def saving(guess: _Guess) -> float:
        return alone - _core.estimate(_raw(own), number, *guess.buffers(known))

    single = [(saving(guess), child, guess) for other in near for guess in (_Guess(1, 0, other), _Guess(1, 1, other))]
    single.sort(reverse=True)
    best = list(dict.fromkeys(guess.left for _, _, guess in single))[:4]
    pairs = [_Guess(kind, 0, a, b) for i, a in enumerate(best) for b in best[i + 1 :] for kind in (2, 3)]
    found = single + [(saving(guess), child, guess) for guess in pairs]
    return [one for one in found if one[0] > 0.02 * alone + 256]


def _guesses(arrays: list[NDArray[Any]]) -> list[_Guess]:
    """For each column what it is guessed by: the best first, never in a circle."""
    chosen = [_Guess()] * len(arrays)

    def depth(column: int, target: int) -> int:
        """Steps from a column to those that stand alone; more than allowed, if `target` is among them."""
        if column == target:
            return _DEPTH
        return 1 + max((depth(parent, target) for parent in chosen[column].parents()), default=0)

    def height(column: int) -> int:
        """Steps to a column from what is guessed by it."""
        return 1 + max((height(i) for i, guess in enumerate(chosen) if column in guess.parents()), default=0)

    candidates = [one for child in range(len(arrays)) for one in _candidates(arrays, child)]
    for _, child, guess in sorted(candidates, reverse=True):
        if chosen[child].kind:
            continue
        below = max(depth(parent, child) for parent in guess.parents())
        if below < _DEPTH and below + height(child) <= _DEPTH:
            chosen[child] = guess
    return chosen


def encode_columns(columns: Mapping[str, NDArray[Any]], *, level: Level = "best") -> bytes:
    """Code the columns of a table, each alone or by what others have in the same row or the one before.

    Ask and bid, open, high, low and close are close to each other: what is left is much shorter.

    Parameters
    ----------
    columns : mapping of str to numpy array
        Arrays as :func:`encode` takes them; they need not be of one length. At most 65,535.
    level : "best" or "fast"
        "fast" codes each column alone.

    Raises
    ------
    TypeError, ValueError
        As of :func:`encode`; a name that is no string, or is longer than 65,535 bytes.

    Notes
    -----
    **Thread safety**: as :func:`encode`.

    **Complexity**: O(numbers) time, and for each column some 20 estimates by samples.

    Examples
    --------
    >>> import numpy as np
    >>> bid = np.round(100 + np.cumsum(np.random.default_rng(1).choice([-0.01, 0, 0.01], 5000)), 2)
    >>> data = encode_columns({"bid": bid, "ask": np.round(bid + 0.01, 2)})
    >>> sorted(decode_columns(data)), len(data) < len(encode(bid)) + 200
    (['ask', 'bid'], True)
    """
    if len(columns) > 0xFFFF:
        raise ValueError(f"there may be 65535 columns at most, were {len(columns)}")
    names = []
    for name in columns:
        if not isinstance(name, str):
            raise TypeError(f"names of columns must be str, one was {type(name).__name__}")
        names.append(name.encode())
        if len(names[-1]) > 0xFFFF:
            raise ValueError(f"the name of a column may have 65535 bytes, one had {len(names[-1])}")
    arrays = [_prepared(array, f"column {name!r}") for name, array in columns.items()]
    number = _level(level)
    guesses = _guesses(arrays) if number else [_Guess()] * len(arrays)
    known = dict(enumerate(arrays))
    index, series = [], []
    for title, array, guess in zip(names, arrays, guesses, strict=True):
        series.append(_core.encode(_raw(array), _TYPES[array.dtype], number, *guess.buffers(known)))
        entry = _ENTRY.pack(len(title), guess.kind, guess.lag, guess.left, guess.right, len(series[-1]))
        index.append(entry + title)
    entries = b"".join(index)
    crc = _core.crc(_HEAD.pack(_MAGIC, len(arrays), len(entries), 0) + entries)
    return b"".join((_HEAD.pack(_MAGIC, len(arrays), len(entries), crc), entries, *series))


class _Column(NamedTuple):
    guess: _Guess
    data: memoryview


def _table(data: memoryview) -> tuple[list[str], list[_Column]]:
    """The columns of a table, its index checked against itself and against the data."""
    damaged = CorruptionError("this is no table of columns, or it is damaged; restore it from where it came from")
    if len(data) < _HEAD.size:
        raise damaged
    magic, count, size, crc = _HEAD.unpack_from(data)
    end = _HEAD.size + size
    if magic != _MAGIC or end > len(data) or count * _ENTRY.size > size:
        raise damaged
    if crc != _core.crc(_HEAD.pack(magic, count, size, 0) + bytes(data[_HEAD.size : end])):
        raise damaged
    names, columns = [], []
    at, begin = _HEAD.size, end
    for _ in range(count):
        if at + _ENTRY.size > end:
            raise damaged
        length, kind, lag, left, right, stored = _ENTRY.unpack_from(data, at)
        at += _ENTRY.size
        if length > end - at or kind not in _KINDS or lag > 1 or max(left, right) >= count:
            raise damaged
        if stored > len(data) - begin:
            raise damaged
        try:
            names.append(str(data[at : at + length], "utf-8"))
        except UnicodeDecodeError:
            raise damaged from None
        columns.append(_Column(_Guess(kind, lag, left, right), data[begin : begin + stored]))
        at += length
        begin += stored
    if at != end or begin != len(data) or len(set(names)) != count:
        raise damaged
    return names, columns


def decode_columns(
    data: ReadableBuffer, columns: Iterable[str] | None = None, *, limit: int = LIMIT
) -> dict[str, NDArray[Any]]:
    """Decode all or some columns of a table.

    Parameters
    ----------
    data : bytes or another buffer of bytes
        What :func:`encode_columns` made.
    columns : iterable of str, optional
        Which to decode; all, in the order of the table, if not said. Those that they were coded by are read as well.
    limit : int
        Bytes that a column may have.

    Raises
    ------
    CorruptionError
        The data is damaged, or no table.
    KeyError
        A column is not in the table.
    ValueError
        A column would have more than `limit` bytes.

    Notes
    -----
    **Thread safety**: as :func:`decode`.

    **Complexity**: O(numbers of the columns, and of those they were coded by).
    """
    names, table = _table(_bytes_of(data))
    places = {name: place for place, name in enumerate(names)}
    done: dict[int, NDArray[Any]] = {}

    def column(place: int, depth: int) -> NDArray[Any]:
        if place in done:
            return done[place]
        guess, series = table[place]
        if depth > _DEPTH:
            raise CorruptionError("columns are coded by each other in a circle; restore the table")
        dtype, count, _ = _described(series)
        for parent in guess.parents():
            other = column(parent, depth + 1)
            if other.dtype != dtype or len(other) != count:
                raise CorruptionError(f"column {names[place]!r} does not fit those it is coded by; restore the table")
        done[place] = _decode(series, 0, None, limit, guess.buffers(done))
        return done[place]

    wanted = names if columns is None else list(columns)
    for name in wanted:
        if name not in places:
            raise KeyError(f"there is no column {name!r}; there are {', '.join(names) or 'none'}")
    return {name: column(places[name], 1) for name in wanted}
