"""Vectors in files that other programs read: an object of JSON in each line, or Parquet.

A row has ``id``, ``vector``, ``metadata``, ``ts_event`` and ``ts_known``. Numbers of JSON are float64 in their shortest
form, so whoever makes float32 of them has the same bits, however it reads them. In Parquet metadata are text: a struct
would need all fields of all vectors before the first is written, with one type for each. Times are int64 as everywhere
else: some readers cut instants of nanoseconds to microseconds.

**Invariants**

- What is read back from the file is what was given; where JSON cannot say that, nothing is written.
- Memory is for one row group, however many vectors there are.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Iterator
from importlib import import_module
from typing import TYPE_CHECKING, Any, BinaryIO

import msgspec
import numpy as np

from ..errors import SerializationError
from .segments import replaced_whole

if TYPE_CHECKING:
    from .hits import StoredVector

_JSON = msgspec.json.Encoder()
_GROUP_BYTES = 16 << 20  # of the rows of a group, in memory
_BESIDE = 512  # bytes of the objects that a row is made of, about


def check_path(path: str | os.PathLike[str]) -> str:
    """Return the name of a file; raise ValueError if it does not say what is to be written."""
    name = os.fsdecode(path)
    if os.path.splitext(name)[1] not in _FORMATS:
        raise ValueError(f"the name of the file must end in {' or '.join(_FORMATS)}, was {name!r}")
    return name


def export_vectors(vectors: Iterable[StoredVector], path: str, dimension: int) -> int:
    """Write vectors to a file, all or nothing, and return how many."""
    rows = _FORMATS[os.path.splitext(path)[1]]

    def write(descriptor: int) -> int:
        with open(descriptor, "wb", closefd=False) as file:
            count = rows(vectors, file, dimension)
            file.flush()
            os.fsync(descriptor)
        return count

    return replaced_whole(path, write, 0o666)


def _json_lines(vectors: Iterable[StoredVector], file: BinaryIO, dimension: int) -> int:
    count = 0
    for it in vectors:
        row = it._asdict() | {"vector": it.vector.tolist(), "metadata": msgspec.Raw(_metadata(it))}
        file.write(_JSON.encode(row) + b"\n")
        count += 1
    return count


def _parquet(vectors: Iterable[StoredVector], file: BinaryIO, dimension: int) -> int:
    arrow, parquet = arrow_module("pyarrow"), arrow_module("pyarrow.parquet")
    schema = arrow.schema(
        {
            "id": arrow.string(),
            "vector": arrow.list_(arrow.float32(), dimension),
            "metadata": arrow.string(),
            "ts_event": arrow.int64(),
            "ts_known": arrow.int64(),
        }
    )
    count = 0
    with parquet.ParquetWriter(file, schema, use_dictionary=["metadata"]) as writer:
        for group in _groups(vectors):
            ids, rows, *others = zip(*group, strict=True)
            numbers = arrow.FixedSizeListArray.from_arrays(arrow.array(np.concatenate(rows)), dimension)
            writer.write_table(arrow.table([ids, numbers, *others], schema))
            count += len(group)
    return count


def _groups(vectors: Iterable[StoredVector]) -> Iterator[list[tuple[Any, ...]]]:
    """Return the rows of one row group after the other."""
    group: list[tuple[Any, ...]] = []
    size = 0
    for it in vectors:
        metadata = _metadata(it)
        group.append((it.id, it.vector, metadata, it.ts_event, it.ts_known))
        size += it.vector.nbytes + len(metadata) + _BESIDE
        if size >= _GROUP_BYTES:
            yield group
            group, size = [], 0
    if group:
        yield group


def arrow_module(module: str) -> Any:
    """Return a module of pyarrow, or raise what is to be installed."""
    try:
        return import_module(module)
    except ModuleNotFoundError as error:
        if error.name != "pyarrow":
            raise
        raise ModuleNotFoundError("a .parquet file needs pyarrow: pip install 'ntmem[arrow]'", name="pyarrow") from None


def _metadata(it: StoredVector) -> bytes:
    """Return the metadata of a vector as JSON."""
    found = beyond_json(it.metadata, "")
    if found is not None:
        raise SerializationError(
            f"metadata of {it.id!r} have {found}, which JSON has not, so nothing was written; add the vector again "
            "with None or text there"
        )
    return _JSON.encode(it.metadata)


def beyond_json(value: Any, at: str) -> str | None:
    """Return what JSON cannot say of a value, and where; None: it can say all."""
    if isinstance(value, dict):
        odd = {type(name).__name__ for name in value if not isinstance(name, str)}
        if odd:
            return f"a name of type {min(odd)} in {at}"
        found = (beyond_json(each, f"{at}.{name}" if at else name) for name, each in value.items())
    elif isinstance(value, list):
        found = (beyond_json(each, f"{at}[{place}]") for place, each in enumerate(value))
    elif isinstance(value, float):
        return None if math.isfinite(value) else f"{value} at {at}"
    else:
        return None if value is None or isinstance(value, str | int) else f"{type(value).__name__} at {at}"
    return next((it for it in found if it is not None), None)


_FORMATS = {".jsonl": _json_lines, ".parquet": _parquet}
