"""Files of documents, one a line: plain JSON, deflated, or the rows of a Parquet file.

A document is an object of JSON with a ``kind``. In Parquet it stands in the column ``document``; beside it are, for who
looks for some of them, ``kind``, ``namespace``, ``key``, ``ts_event`` and ``ts_known``.

**Invariants**

- A file gets its name when it is whole and on disk.
- Memory is for one row group of Parquet, or one line, however many there are.
"""

from __future__ import annotations

import gzip
import os
import zlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import msgspec

from ..errors import SerializationError, StorageError
from .exporting import arrow_module

Document = dict[str, Any]

_ENCODER, _DECODER = msgspec.json.Encoder(), msgspec.json.Decoder(Document)
_GROUP_BYTES, _GROUP_ROWS = 8 << 20, 16_384
_MOST_LINE = 1 << 31
_SUFFIXES = (".jsonl", ".jsonl.gz", ".parquet")


def format_of(path: str) -> str:
    """Return what a file's name says that it is; raise ValueError if that is nothing known."""
    found = next((suffix for suffix in sorted(_SUFFIXES, key=len, reverse=True) if path.endswith(suffix)), None)
    if found is None:
        raise ValueError(f"the name of the file must end in {', '.join(_SUFFIXES[:-1])} or .parquet, was {path!r}")
    if found == ".parquet":
        arrow_module("pyarrow")
    return found


class Writer:
    """Writes documents into a file that is open. A context manager."""

    def __init__(self, descriptor: int, suffix: str) -> None:
        self.count = 0
        self._stack = ExitStack()
        self._file = self._stack.enter_context(os.fdopen(descriptor, "wb", closefd=False))
        self._out: Any = self._file
        self._group: list[Document] = []
        self._size = 0
        self._table: Any = None
        if suffix == ".jsonl.gz":
            packed = gzip.GzipFile("", "wb", compresslevel=6, fileobj=self._file, mtime=0)
            self._out = self._stack.enter_context(packed)
        elif suffix == ".parquet":
            self._schema = _schema()
            writer = arrow_module("pyarrow.parquet").ParquetWriter
            self._table = self._stack.enter_context(writer(self._file, self._schema))

    def __enter__(self) -> Writer:
        return self

    def __exit__(self, kind: Any, value: Any, traceback: Any) -> None:
        if kind is None and self._group:
            self._write_group()
        self._stack.__exit__(kind, value, traceback)

    def write(self, document: Document) -> None:
        """Write one more."""
        self.count += 1
        data = _ENCODER.encode(document)
        if self._table is None:
            self._out.write(data + b"\n")
            return
        self._group.append(
            {
                "kind": document["kind"],
                "namespace": "/".join(document["namespace"]) if document.get("namespace") else None,
                "key": next((document[name] for name in ("key", "id", "symbol") if name in document), None),
                **{name: _time(document.get(name)) for name in ("ts_event", "ts_known")},
                "document": data.decode(),
            }
        )
        self._size += len(data)
        if self._size >= _GROUP_BYTES or len(self._group) >= _GROUP_ROWS:
            self._write_group()

    def _write_group(self) -> None:
        self._table.write_table(arrow_module("pyarrow").Table.from_pylist(self._group, self._schema))
        self._group, self._size = [], 0


def _schema() -> Any:
    arrow = arrow_module("pyarrow")
    texts = {name: arrow.string() for name in ("kind", "namespace", "key")}
    return arrow.schema(texts | {"ts_event": arrow.int64(), "ts_known": arrow.int64(), "document": arrow.string()})


def _time(value: Any) -> int | None:
    return value if isinstance(value, int) else None


def read_documents(path: str, progress: Callable[[int, int], None] | None = None) -> Iterator[tuple[int, Document]]:
    """Yield documents with their number in the file, from 1 on.

    `progress` is told of the bytes that are read, and how many there are.

    Raises
    ------
    SerializationError
        A line is no document; it says which.
    StorageError
        There is no such file, or it cannot be read.
    """
    suffix = format_of(path)
    number = 0
    try:
        for data in _parquet(path) if suffix == ".parquet" else _lines(path, suffix, progress):
            number += 1
            try:
                document = _DECODER.decode(data)
            except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
                raise SerializationError(
                    f"{path}: line {number} is no object of JSON ({error}); nothing of it was kept"
                ) from error
            yield number, document
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise SerializationError(f"{path}: behind line {number} it is damaged or cut short ({error})") from error
    except OSError as error:
        raise StorageError(f"cannot read {path}: {error.strerror or error}") from error


def _lines(path: str, suffix: str, progress: Callable[[int, int], None] | None) -> Iterator[bytes]:
    with open(path, "rb") as file:
        total = os.fstat(file.fileno()).st_size
        source: Any = gzip.GzipFile(fileobj=file) if suffix == ".jsonl.gz" else file
        while line := source.readline(_MOST_LINE):
            yield line
            if progress is not None:
                progress(file.tell(), total)


def _parquet(path: str) -> Iterator[bytes]:
    arrow, parquet = arrow_module("pyarrow"), arrow_module("pyarrow.parquet")
    try:
        with parquet.ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=1024, columns=["document"]):
                for value in batch.column(0):
                    yield (value.as_py() or "").encode()
    except (arrow.ArrowInvalid, arrow.ArrowKeyError) as error:
        raise SerializationError(f"{path} is no export of ntmem, or damaged ({error})") from error
