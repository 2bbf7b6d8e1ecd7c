"""Which engine a store runs on, and opening it."""

from __future__ import annotations

import os
from typing import get_args

from ..config import EngineName, MemoryConfig
from ..errors import StorageError
from ..instants import duration_ns
from .budget import Plan
from .cold import ColdStore
from .engine import LmdbEngine
from .log import LogEngine
from .opening import ClockChoice, agree_on_clock, check_schema, prepare
from .reader import QuietEngine, ReaderStore
from .region import HAS_LOCKS, AttachLock, is_supported, may_attach, region_path
from .shared import SharedStore
from .sharing import attach, detach
from .tables import Tables

_SECOND = 1_000_000_000


def open_engine(
    config: MemoryConfig, limits: Plan, clock: ClockChoice, writer: bytes, *, read_only: bool
) -> LmdbEngine:
    """Open the store of a configuration, or take part in this process's open one. Give back by :func:`close_engine`."""
    path = None if config.storage_path is None else os.fspath(config.storage_path)
    shared = _name_of(config) == "shared"
    max_lag = duration_ns(config.max_flush_lag, "max_flush_lag") / _SECOND

    def make() -> ColdStore:
        if shared and read_only and path is not None and may_attach(path):
            return ReaderStore(path, max_bytes=config.max_storage_bytes)
        if not shared or read_only:
            return ColdStore(path, read_only=read_only, max_bytes=config.max_storage_bytes)
        return SharedStore(
            path,
            max_bytes=config.max_storage_bytes,
            log_bytes=limits.log,
            bus_bytes=limits.bus,
            flush_interval=duration_ns(config.flush_interval, "flush_interval") / _SECOND,
            cache=limits.cache,
        )

    def prepared(store: ColdStore) -> None:
        if isinstance(store, SharedStore):
            store.join(clock)
        elif isinstance(store, ReaderStore):
            check_schema(store)
            store.find_log(is_opening=True)
        else:
            _join_alone(store)
            prepare(store)

    store = attach(path, read_only=read_only, max_bytes=config.max_storage_bytes, make=make, prepare=prepared)
    try:
        if config.engine is not None and not read_only and isinstance(store, SharedStore) != shared:
            raise StorageError(
                f"{path} is open in this process with another engine than {config.engine!r}; close that first"
            )
        if isinstance(store, SharedStore):
            store.agree_on_clock(clock, read_only=read_only)
            quick = config.durability == "process"
            return LogEngine(store, writer, read_only=read_only, max_lag=max_lag, quick_writes=quick)
        if isinstance(store, ReaderStore):
            if store.find_log():
                store.agree_on_clock(clock, read_only=True)
            else:
                agree_on_clock(store, clock, read_only=True)
            return QuietEngine(store, writer, max_lag=max_lag)
        agree_on_clock(store, clock, read_only=read_only)
        return LmdbEngine(store, writer, read_only=read_only)
    except BaseException:
        detach(store)
        raise


def _name_of(config: MemoryConfig) -> EngineName:
    wanted = config.engine or os.environ.get("NTMEM_ENGINE")
    if wanted and wanted not in get_args(EngineName):
        raise ValueError(f"NTMEM_ENGINE must be 'shared' or 'lmdb', was {wanted!r}")
    if wanted == "shared" and not is_supported():
        raise StorageError("engine 'shared' needs Linux with a writable /dev/shm; use engine='lmdb'")
    return "lmdb" if wanted == "lmdb" or not is_supported() else "shared"


def _join_alone(store: ColdStore) -> None:
    """See that no process writes through a log into what this one is about to write straight into."""
    if store.directory is None or store.read_only or not HAS_LOCKS:
        return
    store.attached = AttachLock(store.directory)
    store.attached.join(log=False)
    path = region_path(store.directory)
    if os.path.exists(path):
        if store.read(lambda txn: Tables(store, txn).get_meta(b"schema")) is None:
            os.unlink(path)  # of a store that was deleted, whose file had the number that this new one has
            return
        row = store.read(lambda txn: Tables(store, txn).log_row())
        if row is not None and row.is_over:
            os.unlink(path)  # drained to its end by who died before its name was taken away
            return
        raise StorageError(
            f"{path} holds changes of {store.directory} that are not on disk yet; open it once with engine='shared', "
            "which brings them there"
        )
