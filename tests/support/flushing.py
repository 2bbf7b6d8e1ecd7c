"""A log and the data file that it is flushed to: all of a store that a flusher knows."""

from __future__ import annotations

import os
import struct
from pathlib import Path
from types import SimpleNamespace

from ntmem._core.flusher import Flusher
from ntmem._core.log import Log
from ntmem._core.logrecords import KIND_DELETE, KIND_PUT
from ntmem._core.mdb import Environment
from ntmem._core.region import Region
from ntmem.records import Policy
from ntmem.tiers.layout import NamespaceRow, encode_labels
from ntmem.tiers.tables import SIMULATED, ClockRow, Head, LogRow, Tables

DATABASES = ("meta", "namespaces", "records", "history", "expiry", "staged")
IDENTITY = b"a test"
REGION_ID = b"sixteen bytes id"
LABELS = ("ns",)
SPACE = encode_labels(LABELS)
MAP = 64 << 20
START = 1_000_000


def put(key: bytes, value: bytes, time: int = START) -> tuple:
    """Make a record for ``Log.append``."""
    return (KIND_PUT, 0, SPACE, key, b"w", value, time, time, 0)


def delete(key: bytes, time: int = START) -> tuple:
    """Make a deletion for ``Log.append``."""
    return (KIND_DELETE, 0, SPACE, key, b"w", b"", time, time, 0)


class Stock:
    """The log and the data file in a directory, as one process has them open."""

    def __init__(self, directory: str | os.PathLike[str], map_size: int = MAP) -> None:
        self.directory = Path(directory)
        self.log = Log(Region.attach(self.directory / "region", identity=IDENTITY))
        self.env = Environment(directory, map_size=map_size)
        self.dbs = {name: self.env.open_db(name.encode()) for name in DATABASES}

    def flusher(self, interval: float = 0.02, limit: int = 1 << 40, region_id: bytes = REGION_ID) -> Flusher:
        """Make a flusher that does not run yet."""
        return Flusher(self.log, self.env, self.dbs, region_id, interval=interval, limit=limit)

    def tables(self, txn: object) -> Tables:
        """Give the rows of a transaction."""
        return Tables(SimpleNamespace(databases=self.dbs, boot=b"", clock=None), txn)

    def append(self, *records: tuple, timeout: float = 60) -> int:
        """Commit a group; return where it ends. For who is the only writer."""
        self.log.append(records, timeout, now=records[-1][7])
        return self.log.committed

    def values(self) -> dict[bytes, bytes]:
        """Read all records that are on disk."""
        with self.env.begin() as txn:
            rows = self.tables(txn)
            space = rows.namespace(LABELS)
            if space is None:
                return {}
            stem = struct.pack(">Q", space.id)
            return {key[8:]: stored.value for key, stored in rows.records_from(stem, stem)}

    def versions(self, key: bytes) -> list[int]:
        """Read the versions of a key that are on disk, oldest first; the namespace keeps history."""
        with self.env.begin() as txn:
            rows = self.tables(txn)
            return [stored.version for stored in rows.versions(rows.namespace(LABELS).id, key)][::-1]

    @property
    def position(self) -> int:
        """How far the data file says it is."""
        with self.env.begin() as txn:
            return self.tables(txn).log_row().position

    @property
    def head(self) -> Head:
        """The newest version on disk, and what stands with it."""
        with self.env.begin() as txn:
            return self.tables(txn).head()

    @property
    def clock(self) -> int:
        """The time on disk."""
        with self.env.begin() as txn:
            return self.tables(txn).clock().at


def make_stock(
    directory: str | os.PathLike[str],
    *,
    capacity: int = 1 << 16,
    slots: int = 256,
    map_size: int = MAP,
    history: bool = False,
) -> Stock:
    """Make the files, with a simulated clock, and open them."""
    path = Path(directory) / "region"
    region = Region.create(path, identity=IDENTITY, generation=1, sections=Log.sections(capacity, slots))
    Log.create(region, clock=START, simulated=True)
    region.publish()
    stock = Stock(directory, map_size)
    with stock.env.begin(write=True) as txn:
        rows = stock.tables(txn)
        rows.put_head(Head(0, 0, 2 if history else 1, 0))
        rows.put_clock(ClockRow(SIMULATED, START, b""))
        rows.put_log_row(LogRow(REGION_ID, 0))
        if history:
            rows.put_namespace(NamespaceRow(1, LABELS, Policy(True, None, None), 0, 0))
    return stock
