"""What `ntmem.delta` and graphs of neighbours decode. Checksums are made right again: else nothing gets behind them."""

from __future__ import annotations

import struct
from collections.abc import Iterator

import numpy as np
from registry import promised, target

from ntmem import delta
from ntmem._core import delta as core
from ntmem._core.graph import Damaged, Graph
from ntmem._core.hnsw import build
from ntmem.errors import CorruptionError

_MOST = 1 << 20
_SERIES_HEAD, _TABLE_HEAD, _GRAPH_HEAD, _BLOCK = 28, 16, 192, 1 << 16


def _arrays() -> list[np.ndarray]:
    generator = np.random.default_rng(7)
    walk = np.cumsum(generator.integers(-5, 6, 300))
    prices = np.round(walk / 100 + 500, 2)
    prices[::90] = np.nan
    return [
        *(walk, prices, np.zeros(500), np.zeros(0), generator.random(300) < 0.1, prices.astype(np.float32)),
        *(walk.astype(np.int16), np.repeat(walk[:40], 5).astype(np.uint8), np.repeat(prices[:30], 7)),
        *(np.log(generator.integers(1, 90, 200) * 1.25), generator.integers(-(2**63), 2**63 - 1, 60)),
        *(np.arange(300) ** 2, 10**18 + 10**9 * np.arange(90) + generator.integers(-(10**6), 10**6, 90)),
    ]


def _series_seeds() -> Iterator[bytes]:
    for level in ("best", "fast"):
        yield from (delta.encode(array, level=level) for array in _arrays())


def _mended_series(data: bytes) -> bytes:
    """The same with sizes and checksums that fit, taken as one block."""
    if len(data) < _SERIES_HEAD + 4:
        return data
    copy = bytearray(data)
    copy[24:28] = struct.pack("<I", len(copy) - 28)
    copy[-4:] = struct.pack("<I", core.crc(bytes(copy[28:-4])))
    copy[20:24] = bytes(4)
    copy[20:24] = struct.pack("<I", core.crc(bytes(copy[:28])))
    return bytes(copy)


def _decoded(data: bytes, vectors: bool) -> np.ndarray | str:
    core.use_vectors(vectors)
    try:
        return delta.decode(data, limit=_MOST)
    except CorruptionError as error:
        return str(error)
    finally:
        core.use_vectors(True)


@target(_series_seeds)
def series(data: bytes) -> None:
    """Numbers or a CorruptionError; with vectors and without the same numbers; what was decoded can be coded."""
    for copy in (data, _mended_series(data)):
        with promised(ValueError):  # more than the limit
            found, plain = _decoded(copy, True), _decoded(copy, False)
        if isinstance(found, str) or isinstance(plain, str):
            assert type(found) is type(plain), (found, plain)
            continue
        assert found.dtype == plain.dtype
        assert found.tobytes() == plain.tobytes()
        again = delta.decode(delta.encode(found, level="fast"))
        assert again.dtype == found.dtype
        assert again.tobytes() == found.tobytes()
        part = delta.decode(copy, start=1, stop=3, limit=_MOST)
        assert part.tobytes() == found[1:3].tobytes()


def _table_seeds() -> Iterator[bytes]:
    bid = np.round(np.cumsum(np.random.default_rng(3).normal(0, 0.1, 200)) + 100, 1)
    columns = {"bid": bid, "ask": np.round(bid + 0.1, 1), "last": bid + 0.0, "ts": np.arange(200)}
    yield from (delta.encode_columns(columns, level=level) for level in ("best", "fast"))
    yield delta.encode_columns({})
    yield delta.encode_columns({"é": np.zeros(3, np.int8), "": np.zeros(0)})


@target(_table_seeds)
def table(data: bytes) -> None:
    """Columns or a CorruptionError; each alone is what it is among all."""
    if len(data) >= _TABLE_HEAD:
        size = struct.unpack_from("<I", data, 8)[0]
        head = data[:12] + bytes(4) + data[_TABLE_HEAD : _TABLE_HEAD + size]
        data = data[:12] + struct.pack("<I", core.crc(head)) + data[_TABLE_HEAD:]
    with promised(CorruptionError, ValueError):
        found = delta.decode_columns(data, limit=_MOST)
    for name, array in found.items():
        alone = delta.decode_columns(data, [name], limit=_MOST)
        assert alone[name].tobytes() == array.tobytes()
    again = delta.decode_columns(delta.encode_columns(found, level="fast"))
    assert list(again) == list(found)
    assert all(again[name].tobytes() == array.tobytes() for name, array in found.items())


def _rows(count: int, dimension: int, dtype: np.dtype) -> tuple[np.ndarray, np.ndarray | None]:
    rows = np.random.default_rng(1).integers(-9, 10, (count, dimension)).astype(dtype)
    return rows, np.ones(count, np.float32) if dtype == np.int8 else None


def _graph_seeds() -> Iterator[bytes]:
    for count, dimension, dtype, metric in (
        (60, 4, np.int8, "cosine"),
        (20, 3, np.float32, "l2"),
        (1, 2, np.int8, "ip"),
    ):
        rows, steps = _rows(count, dimension, np.dtype(dtype))
        squares = (rows.astype(np.float32) ** 2).sum(axis=1) if metric == "l2" else None
        yield build(rows, steps, squares, metric=metric, m=4)


def _mended_graph(data: bytes) -> bytes:
    if len(data) < _GRAPH_HEAD:
        return data
    rest = len(data) - _GRAPH_HEAD
    copy, body = bytearray(data), rest - 4 * -(-rest // (_BLOCK + 4))
    copy[16:24] = struct.pack("<Q", len(copy))
    for block in range(-(-body // _BLOCK)):
        at, here = _GRAPH_HEAD + _BLOCK * block, _GRAPH_HEAD + body + 4 * block
        copy[here : here + 4] = struct.pack("<I", core.crc(bytes(copy[at : min(at + _BLOCK, _GRAPH_HEAD + body)])))
    copy[12:16] = bytes(4)
    copy[12:16] = struct.pack("<I", core.crc(bytes(copy[:_GRAPH_HEAD])))
    return bytes(copy)


@target(_graph_seeds)
def graph(data: bytes) -> None:
    """Refused, or searched and extended within its bounds, each node found once and the best first."""
    with promised(Damaged):
        found = Graph(_mended_graph(data))
    if found.dimension > 64 or found.count > 4096:  # what the rows are is the caller's to know
        return
    assert 0 <= found.verify() <= found.count
    rows, steps = _rows(found.count, found.dimension, found.dtype)
    squares = np.ones(found.count, np.float32) if found.metric == "l2" else None
    query = rows[0] if len(rows) else np.zeros(found.dimension, found.dtype)
    if found.dtype == np.float16:
        query = query.astype(np.float32)  # as it is asked of such rows
    nodes, values = found.search(rows, steps, query, 1.0, 9, squares=squares)
    assert (nodes < found.count).all()
    assert len(set(nodes.tolist())) == len(nodes) == len(values)
    assert (np.diff(values) <= 0).all()
    for node in range(min(found.count, 8)):
        assert (found.neighbours(node) < found.count).all()
