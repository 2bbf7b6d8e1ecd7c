"""What happens to a store when it is opened: made or migrated, told from its copies, its clock agreed on.

**Invariants**

- A data file that turns up under another device or inode, or changed since it was last closed, may be a copy or a
  restored backup. It gets a new generation, so a version handed out by one of the two never means another change in
  the other. (A process that is killed closes nothing, so a new generation follows; there are a million.)
- The store's clock never goes back, not when the wall clock is set back and not across boots. A wall clock that was
  set forward is followed at the next opening.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Callable
from typing import Literal

from .. import clock as clocks
from ..clock import SimulatedClock
from ..errors import CorruptionError, SchemaError, StorageError
from .cold import ColdStore
from .datafile import DATA_FILE
from .tables import SIMULATED, SYSTEM, ClockRow, Head, Tables

SCHEMA = 1
MIGRATIONS: dict[int, Callable[[Tables], None]] = {}
"""Migration `n` turns schema `n` into `n + 1`, within the transaction that opens the store."""

ClockChoice = SimulatedClock | Literal["system"] | None

_SCHEMA = struct.Struct("<Q")
_IDENTITY = struct.Struct("<QQ")
_STEP_TOLERANCE = 10_000_000
"""A wall clock ahead by less than this has not been set but is only read at another moment."""


def prepare(store: ColdStore) -> None:
    """Make a new store, migrate an old one, notice a copied one."""
    if store.read_only:
        check_schema(store)
    else:
        store.write(lambda txn: prepare_rows(store, Tables(store, txn)))


def prepare_rows(store: ColdStore, tables: Tables) -> None:
    """Do what :func:`prepare` does, within a transaction."""
    found = tables.get_meta(b"schema")
    if found is None:
        if tables.get_meta(b"head") is not None:
            raise CorruptionError("the store's schema row is missing; restore a backup of the store's directory")
        tables.put_meta(b"schema", _SCHEMA.pack(SCHEMA))
        tables.put_head(Head(0, 0, 1, 0))
    else:
        _migrate(tables, _schema_of(found))
    if store.directory is not None:
        _identify(store, tables)


def check_schema(store: ColdStore) -> None:
    found = store.read(lambda txn: Tables(store, txn).get_meta(b"schema"))
    schema = 0 if found is None else _schema_of(found)
    if schema != SCHEMA:
        raise SchemaError(
            f"the store has schema {schema}, this version of ntmem reads {SCHEMA}; "
            + ("upgrade ntmem" if schema > SCHEMA else "open it for writing once to migrate it")
        )


def _schema_of(row: bytes) -> int:
    if len(row) != _SCHEMA.size:
        raise CorruptionError("the store's schema row is damaged; restore a backup of the store's directory")
    return int(_SCHEMA.unpack(row)[0])


def _migrate(tables: Tables, found: int) -> None:
    if found > SCHEMA:
        raise SchemaError(f"the store has schema {found}, this version of ntmem knows up to {SCHEMA}; upgrade ntmem")
    for schema in range(found, SCHEMA):
        if schema not in MIGRATIONS:
            raise SchemaError(f"the store has schema {found}, which this version of ntmem can no longer migrate")
        MIGRATIONS[schema](tables)
        tables.put_meta(b"schema", _SCHEMA.pack(schema + 1))


def _identify(store: ColdStore, tables: Tables) -> None:
    assert store.directory is not None
    stat = os.stat(os.path.join(store.directory, DATA_FILE))
    identity = _IDENTITY.pack(stat.st_dev & (2**64 - 1), stat.st_ino)
    found = tables.get_meta(b"identity")
    if found != identity or store.was_touched:
        tables.put_meta(b"identity", identity)
        if found is not None:
            head = tables.head()
            tables.put_head(head._replace(generation=head.generation + 1))


def agree_on_clock(store: ColdStore, choice: ClockChoice, *, read_only: bool) -> None:
    """Give a new store its clock, or see that the opener's choice is the one the store has.

    None takes the clock the store has, the system's for a new one.
    """
    start = choice.now() if isinstance(choice, SimulatedClock) else None  # asked outside of the transaction
    if read_only:  # of this handle: another of the process may write through the same store
        store.read(lambda txn: check_agreed(Tables(store, txn).clock(), choice))
    else:
        store.write(lambda txn: agree_on_row(Tables(store, txn), choice, start))


def agree_on_row(tables: Tables, choice: ClockChoice, start: int | None) -> None:
    """Do what :func:`agree_on_clock` does, within a transaction; `start` is the time of a simulated choice."""
    if tables.get_meta(b"clock") is None:
        new = _system_clock(tables, None) if start is None else ClockRow(SIMULATED, start, b"")
        tables.put_clock(new)
        return
    found = tables.clock()
    check_agreed(found, choice)
    row = _system_clock(tables, found) if found.kind == SYSTEM else found._replace(at=max(found.at, start or 0))
    if row != found:
        tables.put_clock(row)


def followed_offset(found: int) -> int:
    """Return what is to be added to the boot clock: `found`, or more if the wall clock was set forward since."""
    offset = clocks.wall_ns() - clocks.boot_ns()
    return offset if offset > found + _STEP_TOLERANCE else found


def check_agreed(row: ClockRow, choice: ClockChoice) -> None:
    """Raise :class:`StorageError` if the opener's choice is not the clock that the store has."""
    if row.kind == SYSTEM and isinstance(choice, SimulatedClock):
        raise StorageError("this store runs on the system clock; open it without clock=, or use another directory")
    if row.kind == SIMULATED and choice == "system":
        raise StorageError("this store runs on a simulated clock; open it without clock=, or use another directory")


def _system_clock(tables: Tables, row: ClockRow | None) -> ClockRow:
    boot = clocks.boot_id()
    offset = clocks.wall_ns() - clocks.boot_ns()
    if row is None:
        return ClockRow(SYSTEM, offset, boot)
    if row.boot == boot != b"":
        return row._replace(at=followed_offset(row.at))
    least = tables.head().latest - clocks.boot_ns()
    if not boot:  # it may be the same boot or another: then the old offset tells too early a time, which is no harm
        least = max(least, row.at)
    return ClockRow(SYSTEM, max(offset, least), boot)
