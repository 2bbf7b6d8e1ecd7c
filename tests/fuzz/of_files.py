"""Files of others: exports of ntmem, lines and databases of other banks, market data, the manifest of a backup."""

from __future__ import annotations

import contextlib
import gzip
import os
import sqlite3
import tempfile
from collections.abc import Iterator
from pathlib import Path

import agentic
from registry import promised, target

import ntmem
from ntmem.errors import CorruptionError, NtmemError, SchemaError, SerializationError, StorageError
from ntmem.replay.market import MarketError, MarketFile
from ntmem.tiers.backup import MANIFEST, _manifest_of
from ntmem.tiers.datafile import DATA_FILE, find_damage
from ntmem.tiers.lines import read_documents

AT = 1_800_000_000_000_000_000
_SMALL = {"max_memory_bytes": 64 << 20, "log_bytes": 1 << 16, "bus_bytes": 1 << 16, "upkeep_interval": 0}


@contextlib.contextmanager
def _directory() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="ntmem-fuzz-", dir="/dev/shm") as directory:
        yield Path(directory)


@contextlib.contextmanager
def _store(engine: str = "lmdb") -> Iterator[ntmem.MemorySystem]:
    with ntmem.open(clock=ntmem.SimulatedClock(AT), engine=engine, graph_share=0, **_SMALL) as memory:
        yield memory


def _exported() -> bytes:
    with _store("shared") as memory, _directory() as directory:
        memory.put("desk", "a", b"1", ttl=50)
        memory.retain("past", history=True)
        for number in range(3):
            memory.put("past", "k", b"\xff%d" % number)
        memory.delete("past", "k")
        memory.positions.define("BTC", price_precision=2, quantity_precision=3)
        memory.positions.apply_fill("BTC", 2, 100.5, trade_id="t1", fee=0.25, ts_event=5)
        memory.positions.apply_cash("BTC", -1, cash_id="c1")
        memory.observations.extend(
            "desk", "BTC", {"ts_event": [1, 2], "bid": [1.5, float("nan")], "n": [1, 2]}, known_after=1
        )
        memory.vectors.add("desk", "v", [1.0, 2.0], {"side": "buy"})
        memory.export(directory / "it.jsonl")
        return (directory / "it.jsonl").read_bytes()


def _export_seeds() -> Iterator[bytes]:
    found = _exported()
    head, *lines, end = found.splitlines(keepends=True)
    yield found
    for line in lines:  # small ones, which go through the one part
        yield head + line + end.replace(b'"lines":%d' % (len(lines) + 2), b'"lines":3')


@target(_export_seeds)
def export(data: bytes) -> None:
    """What an export says is in the store, or an error of ntmem's; so is what is exported of it."""
    with _directory() as directory, _store("shared") as memory:
        (directory / "it.jsonl").write_bytes(data)
        with promised(NtmemError):
            memory.import_(directory / "it.jsonl")
        memory.export(directory / "again.jsonl")
        report = memory.import_(directory / "again.jsonl")
        assert not {"records", "positions", "fills"} & report.counts.keys(), report  # others are added again


def _packed_seeds() -> Iterator[bytes]:
    yield gzip.compress(b'{"kind": "ntmem"}\n{"kind": "end", "lines": 2}\n', mtime=0)
    yield gzip.compress(b'{"a": [[[]]]}', mtime=0) + gzip.compress(b"[]", mtime=0)


@target(_packed_seeds)
def packed(data: bytes) -> None:
    """Documents of a deflated file, numbered from 1, or what is promised."""
    with _directory() as directory:
        (directory / "it.jsonl.gz").write_bytes(data)
        with promised(SerializationError, StorageError):
            for place, (number, document) in enumerate(read_documents(str(directory / "it.jsonl.gz")), 1):
                assert number == place
                assert isinstance(document, dict)


def _line_seeds() -> Iterator[bytes]:
    yield (
        b'{"task_id": "t", "query": "q", "think_list": ["a"], "action_list": ["b"], "status": "success",'
        b' "memory_items": [{"title": "T", "description": "D", "content": "C"}], "template_id": 3}\n'
        b'{"id": "t", "text": "x", "embedding": [1, 0.5]}\n'
    )
    yield b'{"task_id": 7, "status": "fail", "memory_items": "# Memory Item 1\\n## Title A\\n## Content: it"}\n'
    yield (
        b'{"task_id": "m", "memory_items": [], "ntmem": {"row": {"id": "m", "type": "reasoning_memory",'
        b' "pattern_data": "{\\"title\\": \\"x\\"}", "confidence": 0.5, "usage_count": 1,'
        b' "created_at": "2026-01-02 03:04:05", "last_used": null, "model": "x", "embedded_at": null,'
        b' "vector": "AACAPwAAAAA="}}}\n'
    )


@target(_line_seeds)
def bank_lines(data: bytes) -> None:
    """Memories, or an error of ntmem's, scrubbed or not; to import them again changes nothing."""
    with _directory() as directory, _store() as memory:
        (directory / "it.jsonl").write_bytes(data)
        with promised(NtmemError):
            memory.bank.import_jsonl(directory / "it.jsonl", on_error="skip", scrub=len(data) % 2 == 0)
        with promised(NtmemError):
            memory.bank.import_jsonl(directory / "it.jsonl")
        assert not memory.bank.import_jsonl(directory / "it.jsonl").counts
        memory.bank.export_jsonl(directory / "out.jsonl")


def _database_seeds() -> Iterator[bytes]:
    with _directory() as directory:
        agentic.varied(directory / "it.db")
        with contextlib.closing(sqlite3.connect(directory / "it.db", isolation_level=None)) as database:
            yield "\n".join(database.iterdump()).encode(errors="replace")[:6000]
    yield agentic.SCHEMA.encode() if hasattr(agentic, "SCHEMA") else b"CREATE TABLE patterns (id TEXT PRIMARY KEY)"


_STEPS = 20_000


@target(_database_seeds)
def database(data: bytes) -> None:
    """Rows of a database that these statements make, whatever is in them, or an error of ntmem's."""
    with _directory() as directory, _store() as memory:
        with contextlib.closing(sqlite3.connect(directory / "it.db", isolation_level=None)) as made:
            made.execute("PRAGMA max_page_count = 64")
            made.set_authorizer(_no_other_files)
            made.set_progress_handler(lambda: True, _STEPS)
            for statement in data.decode(errors="replace").split(";\n"):
                with contextlib.suppress(sqlite3.Error, sqlite3.Warning, ValueError):
                    made.execute(statement)
            with contextlib.suppress(sqlite3.Error):
                made.execute("COMMIT")
        with promised(NtmemError):
            memory.bank.import_sqlite(directory / "it.db", on_error="skip", scrub=len(data) % 2 == 0)
        memory.bank.export_sqlite(directory / "out.db")


def _no_other_files(action: int, *_: object) -> int:
    return sqlite3.SQLITE_DENY if action in (sqlite3.SQLITE_ATTACH, sqlite3.SQLITE_PRAGMA) else sqlite3.SQLITE_OK


def _file_seeds() -> Iterator[bytes]:
    with _directory() as directory:
        with contextlib.closing(sqlite3.connect(directory / "it.db", isolation_level=None)) as made:
            made.execute("PRAGMA page_size = 512")
            made.execute("CREATE TABLE patterns (id TEXT PRIMARY KEY, type TEXT, pattern_data TEXT)")
            made.execute("INSERT INTO patterns VALUES ('a', 'reasoning_memory', '{\"title\": \"x\"}')")
        yield (directory / "it.db").read_bytes()


@target(_file_seeds)
def database_file(data: bytes) -> None:
    """A file that is said to be a database: imported, or an error of ntmem's."""
    with _directory() as directory, _store() as memory:
        (directory / "it.db").write_bytes(data)
        with promised(NtmemError):
            memory.bank.import_sqlite(directory / "it.db", on_error="skip")


def _market_seeds() -> Iterator[bytes]:
    yield b"\0timestamp,local_timestamp,bid,ask,bid_size\n1700000000000,1700000000001,1.5,2,3\n1700000001000,5,1.4,1,\n"
    yield b'\1time;price;qty;symbol\n2026-11-21T10:00:00Z;61800.2;0.5;BTC\n2026-11-21T10:00:01Z;"61,3";1;BTC\n'
    yield b"\1date,open,high,low,close,volume\n20261120,1,3,0.5,2,100\n20261121,2,3,1,2.5,\n"
    yield b"\2" + gzip.compress(b"ts,price\n1700000000,1\n1700000001,2\n", mtime=0)


@target(_market_seeds)
def market(data: bytes) -> None:
    """Rows, known in an order that never falls, or a MarketError; strict or not."""
    with _directory() as directory:
        (directory / "it.csv").write_bytes(data[1:])
        kind = data[0] if data else 0
        before = 0
        with promised(MarketError):
            for row in MarketFile(
                directory / "it.csv",
                known_after=1 if kind & 1 else None,
                columns="ts_known=ts" if kind & 2 else None,
                zone="UTC" if kind & 4 else None,
                strict=bool(kind & 8),
                symbol="BTC" if kind & 16 else None,
            ):
                assert before <= row.ts_known < 2**63
                before = row.ts_known


def _manifest_seeds() -> Iterator[bytes]:
    with _directory() as directory:
        with ntmem.open(directory / "s", engine="lmdb", **_SMALL) as memory:
            memory.backup(directory / "b")
        yield (directory / "b" / MANIFEST).read_bytes()


@target(_manifest_seeds)
def manifest(data: bytes) -> None:
    """A manifest, or an error that names the file."""
    with _directory() as directory:
        (directory / MANIFEST).write_bytes(data)
        with promised(CorruptionError, SchemaError):
            _manifest_of(str(directory))


def _head_seeds() -> Iterator[bytes]:
    with _directory() as directory:
        with ntmem.open(directory / "s", engine="lmdb", **_SMALL) as memory:
            memory.put("desk", "k", b"1")
        yield (directory / "s" / DATA_FILE).read_bytes()[:8192]


@target(_head_seeds)
def data_file(data: bytes) -> None:
    """The meta pages of a data file that is not mapped: sound, or in words what is wrong with them."""
    with _directory() as directory:
        (directory / DATA_FILE).write_bytes(data)
        found = find_damage(os.fspath(directory / DATA_FILE))
        assert found is None or found
