"""What ``verify`` looks at beside structure and checksums: whether what a store says in two places is the same.

Everything is read from one snapshot, in which groups are whole: so whoever writes meanwhile is no cause for alarm. Only
what can be told for certain is a problem: positions that somebody has set are not what their fills come to, and what a
distillation has left behind is swept later.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import TYPE_CHECKING

import msgspec

from ..errors import NtmemError
from . import bookrows
from .guards import (
    BLOCKS,
    COLLECTIONS,
    ENTRIES,
    MEMORIES,
    POINTS,
    POSITIONS,
    ROWS,
    SERIES,
    TRAJECTORIES,
    TRAJECTORY_INDEX,
    VECTORS,
)
from .layout import NamespaceRow, Stored, expiry_key, id_prefix, namespace_key, record_key, split_expiry_key
from .tables import Tables

if TYPE_CHECKING:
    from .series import SeriesRow

Note = Callable[[str], None]

_FIRST_STEP = b"000000"
_ID_BYTES = 26  # of a trajectory
_HASH_BYTES = 32  # of a memory's id
_TIMES = ("event_min", "event_max", "known_min", "known_max")


class Consistency:
    """The check of one snapshot: is shown each record that is sound, and then looks at the rest."""

    def __init__(self, tables: Tables, note: Note) -> None:
        self._tables = tables
        self._note = note
        self._rows: dict[tuple[str, ...], NamespaceRow] = {}
        self._newest = 2**64
        self._next_id = 2**64
        with suppress(NtmemError):  # it is noted, and then little can be told
            head = tables.head()
            self._newest, self._next_id = head.version, head.next_namespace
            self._rows = {row.labels: row for row in tables.namespaces_below(())}
        self._names = {id_prefix(row.id): namespace_key(row.labels) for row in self._rows.values()}
        self._sizes = dict.fromkeys(self._names, 0)
        self._before = b""
        self._current: Stored | None = None

    def record(self, where: bytes, stored: Stored) -> None:
        """Look at a current record: its version is at most the newest, and if it expires the index says so."""
        if stored.version > self._newest:
            self._note(f"records: {where!r} has version {stored.version}, the newest change has {self._newest}")
        if stored.expires_at:
            index_key = expiry_key(stored.expires_at, where)
            if self._tables.expiry(index_key) != self._names.get(where[:8]):
                self._note(
                    f"expiry: the record under {where!r} expires at {stored.expires_at}, which the index does not say"
                )

    def past(self, where: bytes, stored: Stored, size: int) -> None:
        """Look at a past version: its number is that of its key, and below that of the current one."""
        head, version = where[:8], stored.version
        if head in self._sizes:
            self._sizes[head] += size
        if int.from_bytes(where[-8:], "big") != version:
            self._note(f"history: {where!r} has version {version}, which is not that of its key")
        if version > self._newest:
            self._note(f"history: {where!r} has version {version}, the newest change has {self._newest}")
        if where[:-8] != self._before:
            self._before = where[:-8]
            self._current = None
            with suppress(NtmemError):
                self._current = self._tables.record(record_key(int.from_bytes(head, "big"), stored.key))
        if self._current is not None and version >= self._current.version:
            self._note(f"history: {where!r} has version {version}, the current one of its key {self._current.version}")

    def finish(self) -> None:
        """Look at everything else."""
        for row in self._rows.values():
            name, size = "/".join(row.labels), self._sizes[id_prefix(row.id)]
            if row.id >= self._next_id:
                self._note(f"namespaces: {name} has number {row.id}, the next to be given is {self._next_id}")
            if size != row.history_bytes:
                self._note(f"history: that of {name} takes {size} bytes, its namespace says {row.history_bytes}")
        for check in (_expiry, _positions, _series, _vectors, _trajectories, _memories):
            with suppress(NtmemError):  # noted with the record that is damaged
                check(Snapshot(self._tables, self._rows), self._note)


class Snapshot:
    """The rows of a snapshot, with the namespaces by their labels."""

    def __init__(self, tables: Tables, rows: dict[tuple[str, ...], NamespaceRow]) -> None:
        self.tables = tables
        self.rows = rows

    def of(self, labels: tuple[str, ...], stem: bytes = b"") -> Iterator[tuple[bytes, Stored]]:
        """Yield the records of a namespace whose keys begin with `stem`."""
        row = self.rows.get(labels)
        if row is not None:
            head = id_prefix(row.id) + stem
            for where, stored in self.tables.records_from(head, head):
                yield stored.key or where[8:], stored

    def get(self, labels: tuple[str, ...], key: bytes) -> Stored | None:
        """Return a record of a namespace."""
        row = self.rows.get(labels)
        return None if row is None else self.tables.record(record_key(row.id, key))


def _expiry(found: Snapshot, note: Note) -> None:
    """What stands in the index expires then."""
    for index_key, _ in found.tables.expiries():
        expires_at, where = split_expiry_key(index_key)
        record = found.tables.record(where)
        if record is None or record.expires_at != expires_at:
            note(f"expiry: the index has {where!r} at {expires_at}, where no record expires then")


def _positions(found: Snapshot, note: Note) -> None:
    """A position is what its fills come to, where all of them are kept and nobody has set it."""
    for key, stored in found.of(POSITIONS):
        held = bookrows.decode_held(stored.value)
        if held.was_set or held.fills_since:
            continue
        entries = sorted(
            (entry.version, bookrows.decode_entry(entry.value))
            for _, entry in found.of(ENTRIES, key + bookrows.SEPARATOR)
        )
        told = bookrows.fold(entry for _, entry in entries)
        if told != bookrows.Sum(held.fills, held.quantity, held.cost, held.realized, held.fees, held.funding):
            name = key.decode(errors="replace").split("\x1f")
            note(f"positions: {name} is {held.quantity} after {held.fills} fills, those kept come to {told}")


def _series(found: Snapshot, note: Note) -> None:
    """A series has the blocks that it names, and rows without a gap up to its end."""
    if not any(labels in found.rows for labels in (SERIES, ROWS, BLOCKS, VECTORS)):
        return  # and nothing is imported: numpy takes longer than a small store
    from .series import decode_series

    ids: dict[int, str] = {}
    for key, stored in found.of(SERIES):
        if key.startswith(b"\0"):
            continue
        row, name = decode_series(stored.value), key.decode(errors="replace").replace("\0", " ")
        if row.id in ids:
            note(f"observations: {name} and {ids[row.id]} have the number {row.id}")
        ids[row.id] = name
        _blocks(found, name, row, note)
        _live_rows(found, name, row, note)
    for labels in (ROWS, BLOCKS, VECTORS):
        last = -1
        for key, _ in found.of(labels):
            series = int(key[:8], 16)
            if series != last and series not in ids:
                note(f"observations: there are {labels[-1]} of series {series}, which there is not")
            last = series


def _blocks(found: Snapshot, name: str, row: SeriesRow, note: Note) -> None:
    from .series import StoredBlock, row_key

    behind = 0
    for entry in row.entries:
        first, rows, number = int(entry["first"]), int(entry["rows"]), int(entry["id"])
        if first < behind:
            note(f"observations: {name} has two blocks with row {first}")
        behind = first + rows
        stored = found.get(BLOCKS, row_key(row.id, number))
        if stored is None:
            note(f"observations: block {number} of {name} is missing, with rows {first} to {behind}")
            continue
        block = StoredBlock(stored.value)
        events, knowns = block.ts_event, block.ts_known
        times = [int(it) for it in (events.min(), events.max(), knowns.min(), knowns.max())]
        said = [rows, int(entry["size"]), *(int(entry[it]) for it in _TIMES)]
        if said != [block.rows, len(stored.value), *times]:
            note(f"observations: block {number} of {name} is not what its series says: rows, size and times {said}")


def _live_rows(found: Snapshot, name: str, row: SeriesRow, note: Note) -> None:
    from .series import HAS_EMBEDDING, JUMP, layout_number, metadata_of, row_flags, row_key

    spans = [(int(entry["first"]), int(entry["first"]) + int(entry["rows"])) for entry in row.entries]
    spans.append((1 << 62, 1 << 62))
    place = due = 0  # the first number that is not accounted for

    def reach(number: int) -> None:
        if number > due:
            note(f"observations: {name} has no rows {due} to {number}")

    for key, stored in found.of(ROWS, row_key(row.id, 0)[:8]):
        number, value = int(key[8:], 16), stored.value
        while number >= spans[place][1]:
            reach(spans[place][0])
            due, place = spans[place][1], place + 1
        if number >= spans[place][0]:
            continue  # left over under a block
        layout = layout_number(value)
        if layout == JUMP or layout >= len(row.layouts):
            note(f"observations: row {number} of {name} has the layout {layout}, of {len(row.layouts)}")
        elif len(value) != row.layouts[layout].dtype.itemsize + len(metadata_of(value)):
            note(f"observations: row {number} of {name} has {len(value)} bytes, which its layout has not")
        elif row_flags(value) & HAS_EMBEDDING and found.get(VECTORS, key) is None:
            note(f"observations: the embedding of row {number} of {name} is missing")
        reach(number)
        due = number + 1
    for begin, end in spans[place:-1]:
        reach(begin)
        due = end


def _vectors(found: Snapshot, note: Note) -> None:
    """A change belongs to a collection, has its dimensions, and a number without a gap."""
    if not any(labels in found.rows for labels in (COLLECTIONS, POINTS)):
        return
    from .points import decode_collection, decode_point

    dimensions: dict[int, int] = {}
    for key, stored in found.of(COLLECTIONS):
        if key.startswith(b"\0"):
            continue
        row = decode_collection(stored.value)
        if row.number in dimensions:
            note(f"vectors: {key.decode(errors='replace')} has number {row.number}, as another collection")
        dimensions[row.number] = -1 if row.is_dropped else row.dimension
    collection, due = -1, 0
    for key, stored in found.of(POINTS):
        number, place = int(key[:8], 16), int(key[8:], 16)
        if number != collection:
            collection, due = number, 0
            if number not in dimensions:
                note(f"vectors: there are vectors of collection {number}, which there is not")
        dimension = dimensions.get(number, -1)
        if dimension < 0:
            continue  # it is being removed
        if place != due:
            note(f"vectors: collection {number} has no changes {due} to {place}")
        due = place + 1
        point = decode_point(stored.value)
        if point.vector is not None and len(point.vector) != dimension:
            note(f"vectors: {point.id!r} has {len(point.vector)} dimensions, its collection {number} has {dimension}")


def _trajectories(found: Snapshot, note: Note) -> None:
    """Steps have no gap; every trajectory stands in the index by time once, and nothing else does."""
    begun, last, due = 0, b"", 0
    for key, _ in found.of(TRAJECTORIES):
        name, step = key[:-6], int(key[-6:], 16)
        if name != last:
            last, due = name, 0
            begun += 1
        if step != due:
            note(f"trajectories: {name.decode(errors='replace')} has no steps {due} to {step}")
        due = step + 1
    entered = 0
    for key, _ in found.of(TRAJECTORY_INDEX, b"n"):
        entered += 1
        name = key[-_ID_BYTES:]
        if found.get(TRAJECTORIES, name + _FIRST_STEP) is None:
            note(f"trajectories: the index has {name.decode(errors='replace')}, which there is not")
    if entered != begun:
        note(f"trajectories: there are {begun}, the index has {entered}")


def _memories(found: Snapshot, note: Note) -> None:
    """There are as many as is said, and what was made of one, or replaced by it, is of one that there is."""
    names, gone = ({key[1:] for key, _ in found.of(MEMORIES, kind)} for kind in (b"m", b"g"))
    head = found.get(MEMORIES, b"h")
    told = [0] if head is None else msgspec.msgpack.decode(head.value[1:])
    said, said_gone = told[0], told[2] if len(told) > 2 else 0
    if said != len(names):
        note(f"memories: there are {len(names)}, their head says {said}")
    if said_gone != len(gone):
        note(f"memories: {len(gone)} were let go, their head says {said_gone}")
    for name in names & gone:
        note(f"memories: {name.decode(errors='replace')} was let go, and is there")
    for kind in (b"p", b"s", b"t"):
        for key, _ in found.of(MEMORIES, kind):
            if key[1 : 1 + _HASH_BYTES] not in names and (kind == b"s" or key[1 : 1 + _HASH_BYTES] not in gone):
                note(f"memories: {key.decode(errors='replace')} is of one that there is not")
