"""One history of changes, applied twice: by the LMDB engine, and as groups of the log by the C code."""

from __future__ import annotations

import contextlib
import struct
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from hostile import ram_directory

import ntmem.tiers.engine as engine_module
from ntmem._core.apply import Applier
from ntmem._core.log import crc32c
from ntmem._core.mdb import Environment
from ntmem.clock import SimulatedClock
from ntmem.records import Change
from ntmem.tiers.cold import ColdStore
from ntmem.tiers.engine import LmdbEngine
from ntmem.tiers.layout import encode_labels
from ntmem.tiers.opening import agree_on_clock, prepare
from ntmem.tiers.tables import Tables

START = 1_700_000_000_000_000_000
SECOND = 1_000_000_000
PUT, DELETE, NOTICE = 1, 2, 3
AHEAD, STAGED = 2, 8
REGION = bytes(range(16))
DATABASES = ("meta", "namespaces", "records", "history", "expiry")
WRITER = b"a writer"

_RECORD = struct.Struct("<IIHHBBHQqqqQII")
_GROUP = struct.Struct("<IIQQQqIII12x")
_MAGIC = 0x50524721

Rows = dict[str, dict[bytes, bytes]]


def record(
    kind: int,
    version: int,
    namespace: bytes,
    key: bytes,
    value: bytes = b"",
    *,
    flags: int = 0,
    ts_event: int = START,
    ts_known: int = START,
    expires_at: int = 0,
    writer: bytes = WRITER,
) -> bytes:
    """Return a record as it stands in the log."""
    sizes = len(key), len(value), len(namespace), len(writer)
    head = _RECORD.pack(*sizes, kind, flags, 0, version, ts_event, ts_known, expires_at, 0, 0, 0)
    data = head + namespace + key + writer + value
    return data + bytes(-len(data) % 16)


def group(records: Sequence[bytes], *, now: int = START, position: int = 0, first_version: int | None = None) -> bytes:
    """Return a sealed group as it stands in the log."""
    if first_version is None:
        first_version = _RECORD.unpack_from(records[0])[7]
    body = b"".join(records)
    size = _GROUP.size + len(body)
    head = _GROUP.pack(_MAGIC, 0, position, first_version, 0, now, size, len(records), 1)
    return head[:4] + crc32c(head[8:] + body).to_bytes(4, "little") + head[8:] + body


def stub(staging_id: int, value: bytes) -> bytes:
    """Return what stands in the log for a staged value."""
    return struct.pack(">Q", staging_id) + struct.pack("<QI", len(value), zlib.crc32(value))


def logged(position: int) -> bytes:
    """Return the row of ``meta`` that says how far a log is on disk."""
    data = struct.pack("<16sQ", REGION, position)
    return zlib.crc32(data, zlib.crc32(b"log")).to_bytes(4, "little") + data


class _Recording(Tables):
    """Keeps what the engine puts, in order: so the log says exactly that."""

    __slots__ = ()
    puts: list[Any] = []  # noqa: RUF012

    def put_record(self, database_key: bytes, stored: Any) -> None:
        self.puts.append(stored)
        super().put_record(database_key, stored)


class Native:
    """A store's databases under the C code."""

    def __init__(self, directory: Path, *, map_size: int = 1 << 28, staged: bool = True) -> None:
        self.directory = directory
        self.env = Environment(directory, map_size=map_size)
        self.databases = {name: self.env.open_db(name.encode()) for name in (*DATABASES, *["staged"] * staged)}
        self.applier = Applier(self.env, self.databases, REGION)

    def close(self) -> None:
        """Close the environment."""
        self.applier.close()
        self.env.close()

    def rows(self, *names: str) -> Rows:
        """Return all rows of the databases, by default of all."""
        with self.env.begin(buffers=False) as txn:
            return {name: dict(txn.cursor(self.databases[name])) for name in names or self.databases}

    def change(self, change: Callable[[Any, dict[str, Any]], None]) -> None:
        """Run a transaction of somebody else's."""
        with self.env.begin(write=True, buffers=False) as txn:
            change(txn, self.databases)

    def make(self, wanted: Rows) -> None:
        """Make the databases hold exactly these rows."""
        found = self.rows(*wanted)

        def set_all(txn: Any, databases: dict[str, Any]) -> None:
            for name, rows in wanted.items():
                for key in found[name].keys() - rows.keys():
                    txn.delete(key, db=databases[name])
                for key, value in rows.items():
                    if found[name].get(key) != value:
                        txn.put(key, value, db=databases[name])

        self.change(set_all)


class Twin:
    """The engine's store and the C code's, which are to stay the same."""

    def __init__(self, directory: Path) -> None:
        (directory / "engine").mkdir()
        self.store = ColdStore(str(directory / "engine"), read_only=False, max_bytes=1 << 28)
        prepare(self.store)
        agree_on_clock(self.store, SimulatedClock(START), read_only=False)
        self.engine = LmdbEngine(self.store, WRITER, read_only=False)
        (directory / "native").mkdir()
        self.native = Native(directory / "native")
        self.native.make(self.rows())
        self.pending: list[bytes] = []
        self.position = 0
        self.staged = 0
        self.is_swept = False

    def close(self) -> None:
        """Close both."""
        self.native.close()
        self.store.close()

    @property
    def now(self) -> int:
        """The time of both."""
        return self.engine.now()

    def wait(self, ns: int) -> None:
        """Let time pass."""
        self.engine.set_time(self.now + ns)

    def rows(self) -> Rows:
        """Return all rows of the engine's store."""

        def look(txn: Any) -> Rows:
            databases = self.store.databases
            return {
                name: {bytes(key): bytes(value) for key, value in txn.cursor(databases[name])} for name in DATABASES
            }

        return self.store.read(look)

    # -- what goes through the log

    def commit(self, *changes: Change, stage: bool = False) -> list[Any]:
        """Let the engine commit, and keep the group that says the same."""
        now = self.now
        _Recording.puts.clear()
        plain, engine_module.Tables = engine_module.Tables, _Recording  # type: ignore[misc,attr-defined]
        try:
            outcomes = self.engine.commit(changes)
        finally:
            engine_module.Tables = plain  # type: ignore[misc,attr-defined]
        records = []
        for change, outcome in zip(changes, outcomes, strict=True):
            if outcome.version == 0:
                continue
            space = encode_labels(change.namespace)
            if change.kind == "delete":
                made = record(DELETE, outcome.version, space, change.key, ts_event=now, ts_known=now)
            else:
                made = self._put(space, change.key, _Recording.puts.pop(0), stage=stage)
            records.append(made)
        assert not _Recording.puts
        if records:
            self.log(group(records, now=now, position=self.position))
        else:  # nothing for the log, but the engine has swept what expired
            self.is_swept = True
            if not self.pending:
                self.elsewhere(lambda engine: None)
        return outcomes

    def log(self, made: bytes) -> None:
        """Keep a group until the next :meth:`flush`."""
        self.pending.append(made)
        self.position += len(made)

    def _put(self, space: bytes, key: bytes, stored: Any, *, stage: bool) -> bytes:
        flags, value = stored.flags, stored.value
        if stage:
            self.staged += 1
            self.native.change(
                lambda txn, databases: txn.put(struct.pack(">Q", self.staged), value, db=databases["staged"])
            )
            flags, value = flags | STAGED, stub(self.staged, value)
        return record(
            PUT,
            stored.version,
            space,
            key,
            value,
            flags=flags,
            ts_event=stored.ts_event,
            ts_known=stored.ts_known,
            expires_at=stored.expires_at,
            writer=stored.writer,
        )

    def flush(self) -> None:
        """Apply what is pending in one transaction, and compare."""
        if self.pending:
            applied = self.native.applier.apply(b"".join(self.pending), position=self.position, clock=self.now)
            assert applied == len(self.pending)
            self.pending.clear()
            if self.is_swept:  # by a commit that the log knows nothing of, among those that were pending
                self.native.make(self.rows() | {"meta": self.rows()["meta"] | {b"log": logged(self.position)}})
            else:
                self.compare()
            self.is_swept = False

    # -- what goes past it

    def elsewhere(self, change: Callable[[LmdbEngine], Any]) -> None:
        """Change the engine's store by a transaction of its own, which the other store gets as rows."""
        self.flush()
        change(self.engine)
        self.native.make(self.rows() | {"meta": self.rows()["meta"] | {b"log": logged(self.position)}})
        self.is_swept = False

    def compare(self) -> None:
        """See that all rows agree, and that nothing is staged any more."""
        expected, found = self.rows(), self.native.rows()
        assert found.pop("staged") == {}
        assert found["meta"].pop(b"log") == logged(self.position)
        for name in DATABASES:
            assert found[name] == expected[name], name


@contextlib.contextmanager
def twin() -> Iterator[Twin]:
    """Give two stores on a RAM disk that are the same; at the end they are compared once more."""
    with ram_directory() as directory:
        both = Twin(directory)
        try:
            yield both
            both.flush()
        finally:
            both.close()
