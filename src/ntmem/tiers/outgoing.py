"""A store as documents, from one snapshot: what has a public form, and the count of what has none.

``docs/design/backup.md`` has the order of the documents. Whole numbers and floats are told apart by the point; floats
that JSON has not are their bits, as text (``"0x7ff8000000000000"``).

**Invariants**

- All is read from one snapshot, which has everything that was acknowledged before.
- What is not exported is named, with how many there are.
"""

from __future__ import annotations

import base64
import math
import os
import struct
import time
from collections import Counter
from collections.abc import Callable, Iterator
from decimal import Context, Decimal
from typing import TYPE_CHECKING, Any

import msgspec

from .. import clock as clocks
from ..errors import StorageError
from ..namespace import labels_of
from . import bookrows
from .backup import full_disk, package_version, settle
from .engine import LmdbEngine
from .exporting import beyond_json
from .guards import (
    COLLECTIONS,
    DISTILLING,
    ENTRIES,
    IMPORTS,
    INSTRUMENTS,
    MEMORIES,
    OWN,
    POINTS,
    POSITIONS,
    SITUATIONS,
    TRAJECTORIES,
    TRAJECTORY_INDEX,
)
from .layout import DELETED, NamespaceRow, Stored, id_prefix, record_key
from .lines import Document, Writer, format_of
from .segments import replaced_whole
from .tables import Tables

if TYPE_CHECKING:
    import numpy as np

    from .series import SeriesRow

FORMAT = 1
HEADER = "ntmem-export"
ROWS_AT_ONCE, _ROWS_BYTES = 1024, 1 << 17
_SILENT = (IMPORTS, TRAJECTORY_INDEX, DISTILLING)
"""Namespaces of the store's own that hold nothing by itself."""
_FIRST_STEP = b"000000"  # what the key of a trajectory's first event ends with
_BOOK = (POSITIONS, ENTRIES, INSTRUMENTS)
_CODEC = msgspec.msgpack
_EXACT = Context(prec=200)  # the caller's may have few digits


class ExportReport(msgspec.Struct, frozen=True):
    """What :meth:`ntmem.MemorySystem.export` has written."""

    path: str
    bytes: int
    counts: dict[str, int]
    """By kind: records (versions of the past are records), rows of observations, vectors, fills, ..."""
    not_exported: dict[str, int]
    """What has no form outside of the store yet, by what it is, and how many there are."""
    seconds: float


def export(
    engine: LmdbEngine,
    path: str | os.PathLike[str],
    namespace: str | tuple[str, ...] | None = None,
    progress: Callable[[int], None] | None = None,
) -> ExportReport:
    """Do :meth:`ntmem.MemorySystem.export`."""
    began = time.monotonic()
    target = os.path.abspath(os.fsdecode(path))
    suffix = format_of(target)
    if os.path.isdir(target):
        raise StorageError(f"{target} is a directory; choose the name of a file")
    below = () if namespace is None else labels_of(namespace)
    engine.check_process()
    settle(engine)
    taken: Outgoing | None = None

    def write(descriptor: int) -> None:
        def look(txn: Any) -> Outgoing:
            found = Outgoing(Tables(engine.store, txn), below)
            with Writer(descriptor, suffix) as writer:
                for document in found.documents():
                    writer.write(document)
                    if progress is not None and writer.count % 256 == 0:
                        progress(writer.count)
                writer.write({"kind": "end", "lines": writer.count + 1})
            return found

        nonlocal taken
        taken = engine.store.read(look)
        os.fsync(descriptor)

    with full_disk(target):
        replaced_whole(target, write, 0o666)
    assert taken is not None
    missed = dict(taken.missed)
    held = engine.lock_facts().get("lock_held", 0)
    if held and not below:
        missed["locks"] = held
    return ExportReport(target, os.path.getsize(target), dict(taken.counts), missed, time.monotonic() - began)


class Outgoing:
    """The documents of a snapshot, of all namespaces or those below one."""

    def __init__(self, tables: Tables, below: tuple[str, ...]) -> None:
        self.counts: Counter[str] = Counter()
        self.missed: Counter[str] = Counter()
        self._tables = tables
        self._below = below
        self._rows = {row.labels: row for row in tables.namespaces_below(())}

    def _has(self, labels: tuple[str, ...]) -> bool:
        return labels[: len(self._below)] == self._below

    def documents(self) -> Iterator[Document]:
        """Yield all of them."""
        yield {
            "kind": HEADER,
            "format": FORMAT,
            "ntmem": package_version(),
            "id": os.urandom(16).hex(),
            "taken_at": clocks.wall_ns(),
            "namespace": list(self._below),
        }
        for labels, row in self._rows.items():
            if labels not in OWN and self._has(labels):
                yield from self._namespace(row)
        yield from self._positions()
        yield from self._series()
        yield from self._collections()
        self._count_missed()

    def _of(self, labels: tuple[str, ...], stem: bytes = b"") -> Iterator[tuple[bytes, Stored]]:
        """Yield the records of one of the store's own namespaces, by key."""
        row = self._rows.get(labels)
        if row is not None:
            head = id_prefix(row.id)
            for where, stored in self._tables.records_from(head + stem, head + stem):
                yield stored.key or where[8:], stored

    # -- plain records

    def _namespace(self, row: NamespaceRow) -> Iterator[Document]:
        tables, head, history = self._tables, id_prefix(row.id), row.policy.history
        names = list(row.labels)
        first = next(tables.records_from(head, head), None) or next(tables.past(row.id), None)
        if first is None and not history:
            return
        if row.owner:
            self.missed["owners of namespaces"] += 1
        policy = {"history": history, "max_age_ns": row.policy.max_age_ns, "max_bytes": row.policy.max_bytes}
        yield {"kind": "namespace", "namespace": names, **policy}
        self.counts["namespaces"] += 1
        now, key = tables.now(), None
        for _, stored in tables.past(row.id):
            if key is not None and key != stored.key:
                yield from self._newest(row, key)
            key = stored.key
            yield self._record(row, key, stored)
        if key is not None:
            yield from self._newest(row, key)
        for where, stored in tables.records_from(head, head):
            key = stored.key or where[8:]
            if history:
                if next(tables.past(row.id, key), None) is None:
                    yield self._record(row, key, stored)
            elif not stored.expired(now):
                yield self._record(row, key, stored)
        if history:
            yield {"kind": "history", "namespace": names, **policy, "since": row.history_since}

    def _newest(self, row: NamespaceRow, key: bytes) -> Iterator[Document]:
        stored = self._tables.record(record_key(row.id, key))
        if stored is not None:
            yield self._record(row, key, stored)

    def _record(self, row: NamespaceRow, key: bytes, stored: Stored) -> Document:
        public = stored.public()
        document: Document = {"kind": "record", "namespace": list(row.labels), "key": key.decode()}
        if stored.flags & DELETED:
            document["deleted"] = True
        else:
            document |= _value(stored.value)
        document |= {"ts_event": public.ts_event, "ts_known": public.ts_known, "expires_at": public.expires_at}
        document |= {"version": public.version, "writer": public.writer}
        if public.fence is not None:
            document["fence"] = list(public.fence)
        self.counts["records"] += 1
        return document

    # -- positions

    def _positions(self) -> Iterator[Document]:
        if self._below:
            for labels, what in ((INSTRUMENTS, "instruments"), (ENTRIES, "fills"), (POSITIONS, "positions")):
                self.missed[what] += sum(1 for _ in self._of(labels))
            return
        for key, stored in self._of(INSTRUMENTS):
            said = _CODEC.decode(stored.value)
            self.counts["instruments"] += 1
            yield {
                "kind": "instrument",
                "symbol": key.decode(),
                "price_precision": said["price"],
                "quantity_precision": said["quantity"],
                "multiplier": said["multiplier"],
                "currency": said["currency"],
            }
        for key, stored in self._of(POSITIONS):
            names = dict(zip(("symbol", "account", "strategy", "position_id"), key.decode().split("\x1f"), strict=True))
            stem = key + bookrows.SEPARATOR
            booked = sorted((stored.version, entry) for entry, stored in self._of(ENTRIES, stem))
            row = self._rows.get(ENTRIES)
            for _, entry in booked:  # in the order of booking; their keys alone are kept
                assert row is not None
                found = self._tables.record(record_key(row.id, entry))
                assert found is not None
                self.counts["fills"] += 1
                yield _fill(names, entry[len(stem) :], found)
            self.counts["positions"] += 1
            yield _held(names, bookrows.decode_held(stored.value))

    # -- observations

    def _series(self) -> Iterator[Document]:
        if not any(labels in self._rows for labels in _series_spaces()):
            return
        from .series import SERIES, decode_series

        for key, stored in self._of(SERIES):
            names, separator, symbol = key.partition(b"\0")
            labels = tuple(names.decode().split("/"))
            if not separator or not names or not self._has(labels):
                continue  # numbers of series are counted beside them
            self.counts["series"] += 1
            yield from self._rows_of(list(labels), symbol.decode(), decode_series(stored.value))

    def _rows_of(self, names: list[str], symbol: str, row: SeriesRow) -> Iterator[Document]:
        """Yield a series in tables of rows that have the same fields, by the rows' numbers."""
        first, table = 0, None
        for event, known, fields, metadata, embedding in self._each_row(row):
            if table is not None and (
                table.names != tuple(fields)
                or table.kinds != [type(value) for value in fields.values()]
                or len(table.events) >= ROWS_AT_ONCE
                or table.size >= _ROWS_BYTES
            ):
                yield table.document(names, symbol, first)
                first += len(table.events)
                table = None
            if table is None:
                table = _Table(fields)
            table.add(event, known, fields, metadata, embedding)
            self.counts["rows"] += 1
        if table is not None:
            yield table.document(names, symbol, first)

    def _each_row(self, row: SeriesRow) -> Iterator[tuple[int, int, dict[str, Any], bytes, bytes | None]]:
        """Yield ts_event, ts_known, fields, metadata and embedding of the rows of a series, by their numbers."""
        import numpy as np

        from .series import BLOCKS, HAS_EMBEDDING, JUMP, ROWS, StoredBlock, layout_number, metadata_of, row_key

        blocks = {int(entry["first"]): (int(entry["rows"]), int(entry["id"])) for entry in row.entries}
        live = self._of(ROWS, row_key(row.id, 0)[:8])
        waiting = next(live, None)
        number = 0
        while True:
            if number in blocks:
                count, block = blocks[number]
                data = self._own(BLOCKS, row_key(row.id, block))
                stored = StoredBlock(data)
                columns = stored.columns(stored.names)
                lists = {name: column.values.tolist() for name, column in columns.items()}
                present = {
                    name: None if column.present is None else column.present.tolist()
                    for name, column in columns.items()
                }
                metadata, embedded = stored.metadata(), stored.embedded
                events, knowns = stored.ts_event.tolist(), stored.ts_known.tolist()
                for i in range(count):
                    fields = {
                        name[1:]: values[i]
                        for name, values in lists.items()
                        if (there := present[name]) is None or there[i]
                    }
                    vector = None
                    if embedded is not None and embedded[i]:
                        vector = self._vector(row.id, number + i)
                    yield events[i], knowns[i], fields, b"" if metadata is None else metadata[i], vector
                number += count
                continue
            wanted = row_key(row.id, number)
            while waiting is not None and waiting[0] < wanted:  # left over under a block
                waiting = next(live, None)
            if waiting is None or waiting[0] != wanted or layout_number(waiting[1].value) == JUMP:
                return
            value = waiting[1].value
            layout = row.layouts[layout_number(value)]
            parsed = np.frombuffer(value[: layout.dtype.itemsize], layout.dtype)[0]
            fields = {name: parsed[str(place)].item() for place, name in enumerate(layout.names)}
            vector = self._vector(row.id, number) if int(parsed["flags"]) & HAS_EMBEDDING else None
            yield int(parsed["ts_event"]), int(parsed["ts_known"]), fields, metadata_of(value), vector
            number += 1

    def _vector(self, series: int, number: int) -> bytes:
        from .series import VECTORS, row_key

        return self._own(VECTORS, row_key(series, number))

    def _own(self, labels: tuple[str, ...], key: bytes) -> bytes:
        row = self._rows[labels]
        stored = self._tables.record(record_key(row.id, key))
        if stored is None:
            raise StorageError(f"{'/'.join(labels)} has no {key.decode()!r}, which a series names; run 'ntmem verify'")
        return stored.value

    # -- vectors

    def _collections(self) -> Iterator[Document]:
        if COLLECTIONS not in self._rows:
            return
        from .points import decode_collection, decode_point, point_key

        for key, stored in self._of(COLLECTIONS):
            if key.startswith(b"\0"):
                continue  # their numbers are counted beside them
            labels, row = tuple(key.decode().split("/")), decode_collection(stored.value)
            if row.is_dropped or not self._has(labels):
                continue
            if labels[:2] in SITUATIONS:
                self.missed[f"vectors of {labels[1]}"] += sum(1 for _ in self._of(POINTS, point_key(row.number, 0)[:8]))
                continue
            names = list(labels)
            self.counts["collections"] += 1
            yield {
                "kind": "collection",
                "namespace": names,
                **{name: getattr(row, name) for name in ("dimension", "metric", "dtype", "m", "ef_construction")},
            }
            for number, (_, change) in enumerate(self._of(POINTS, point_key(row.number, 0)[:8])):
                point = decode_point(change.value)
                document: Document = {"kind": "vector", "namespace": names, "number": number, "id": point.id}
                document |= {"ts_event": point.ts_event, "ts_known": point.ts_known}
                if point.vector is None:
                    document["deleted"] = True
                else:
                    document["vector"] = point.vector.tolist()
                    document |= _metadata(point.metadata)
                self.counts["vectors"] += 1
                yield document

    def _count_missed(self) -> None:
        if self._below:
            return
        exported = (*_BOOK, *_series_spaces(), COLLECTIONS, POINTS, *_SILENT)
        for labels in OWN:
            if labels not in exported:
                begins = b"m" if labels == MEMORIES else b""  # not what they were before
                ends = _FIRST_STEP if labels == TRAJECTORIES else b""
                found = (key for key, _ in self._of(labels, begins))
                self.missed[labels[-1]] += sum(key[0] >= 32 and key.endswith(ends) for key in found)
        self.missed = +self.missed  # without those of which there are none


def _series_spaces() -> tuple[tuple[str, ...], ...]:
    return ("ntmem", "series"), ("ntmem", "rows"), ("ntmem", "blocks"), ("ntmem", "embeddings")


class _Table:
    """Rows that have the same fields."""

    def __init__(self, fields: dict[str, Any]) -> None:
        self.names = tuple(fields)
        self.kinds = [type(value) for value in fields.values()]
        self.events: list[int] = []
        self.knowns: list[int] = []
        self.columns: list[list[Any]] = [[] for _ in fields]
        self.metadata: list[Document | None] = []
        self.embeddings: list[list[float] | None] = []
        self.size = 0

    def add(self, event: int, known: int, fields: dict[str, Any], metadata: bytes, embedding: bytes | None) -> None:
        self.events.append(event)
        self.knowns.append(known)
        for column, value in zip(self.columns, fields.values(), strict=True):
            column.append(_number(value))
        self.metadata.append(_metadata(metadata) if metadata else None)
        self.embeddings.append(None if embedding is None else _floats(embedding))
        self.size += len(metadata) + 2 * len(embedding or b"") + 16 * (2 + len(fields))

    def document(self, names: list[str], symbol: str, first: int) -> Document:
        found: Document = {"kind": "rows", "namespace": names, "symbol": symbol, "first": first}
        found |= {"ts_event": self.events, "ts_known": self.knowns}
        found["fields"] = dict(zip(self.names, self.columns, strict=True))
        if any(it is not None for it in self.metadata):
            found["metadata"] = self.metadata
        if any(it is not None for it in self.embeddings):
            found["embeddings"] = self.embeddings
        return found


def _number(value: float) -> float | str:
    """Return a number as JSON has it, or the bits of one that it has not."""
    if not math.isfinite(value):
        return f"0x{int.from_bytes(struct.pack('>d', value), 'big'):016x}"
    return value


def _floats(data: bytes) -> list[float]:
    import numpy as np

    vector: np.ndarray[Any, Any] = np.frombuffer(data, "<f4")
    found: list[float] = vector.tolist()
    return found


def _value(value: bytes) -> Document:
    try:
        return {"text": value.decode()}
    except UnicodeDecodeError:
        return {"base64": base64.b64encode(value).decode()}


def _metadata(data: bytes) -> Document:
    """Return metadata as JSON where it has all that they are, else as MessagePack in base 64."""
    if not data:
        return {}
    found = _CODEC.decode(data)
    if beyond_json(found, "") is None and msgspec.msgpack.encode(found) == data:
        return {"metadata": found}
    return {"metadata_base64": base64.b64encode(data).decode()}


def _fill(names: Document, entry_id: bytes, stored: Stored) -> Document:
    entry = bookrows.decode_entry(stored.value)
    cash = entry.kind == bookrows.FUNDING
    money = entry.price_precision + entry.quantity_precision
    return {
        "kind": "fill",
        **names,
        "trade_id": entry_id.removeprefix(bookrows.CASH).decode(),
        "type": "funding" if cash else "fill",
        "quantity": _decimal(entry.quantity, entry.quantity_precision),
        "price": _decimal(entry.price, entry.price_precision),
        "amount" if cash else "fee": _decimal(entry.fee, money),
        "realized": _decimal(entry.realized, money),
        "ts_event": entry.ts_event,
        "has_time": bool(entry.has_time),
        "price_precision": entry.price_precision,
        "quantity_precision": entry.quantity_precision,
        "version": stored.version,
        "writer": stored.public().writer,
    }


def _held(names: Document, held: bookrows.Held) -> Document:
    money = held.price_precision + held.quantity_precision
    return {
        "kind": "position",
        **names,
        "price_precision": held.price_precision,
        "quantity_precision": held.quantity_precision,
        "multiplier": _decimal(held.multiplier, held.multiplier_precision),
        "multiplier_precision": held.multiplier_precision,
        "currency": held.currency.decode(),
        "was_set": bool(held.was_set),
        "fills": held.fills,
        **{name: _decimal(getattr(held, name), held.quantity_precision) for name in ("quantity", "peak")},
        **{name: getattr(held, name) for name in ("ts_opened", "ts_last", "ts_closed", "fills_since", "ts_mark")},
        "mark": _decimal(held.mark, held.price_precision),
        **{name: _decimal(getattr(held, name), money) for name in ("cost", "realized", "fees", "funding")},
    }


def _decimal(mantissa: int, precision: int) -> str:
    return format(_EXACT.scaleb(Decimal(mantissa), -precision), "f")
