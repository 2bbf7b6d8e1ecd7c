"""ntmem: the shared memory of a team of trading agents.

>>> import ntmem
>>> with ntmem.open() as memory:          # a path instead of nothing: durable, and shared between processes
...     _ = memory.put("desk", "target", b"3")
...     memory.get("desk", "target")
b'3'
"""

from __future__ import annotations

from .clock import SimulatedClock
from .config import CacheConfig, MemoryConfig
from .coordination import AgentInfo, Lock, LockInfo, LockToken
from .coordination import Lock as DistributedLock
from .errors import (
    CacheError,
    ConsensusError,
    CoordinationError,
    CorruptionError,
    DiskFull,
    FillConflict,
    FillTooOld,
    HistoryNotRetained,
    InvalidNamespace,
    LimitExceeded,
    LockLost,
    LockTimeout,
    MapFull,
    NotOwner,
    NtmemError,
    PositionError,
    ReadOnlyError,
    SchemaError,
    SerializationError,
    StaleFence,
    StorageError,
    StoreClosed,
    VectorError,
    VersionConflict,
)
from .instants import LATEST
from .namespace import Namespace
from .records import Fence, Record
from .stats import MemoryStats, VerifyReport
from .system import MemorySystem, open, verify
from .tiers.hot import CacheEntry, CacheStats, HotCache
from .transaction import Transaction
from .values import Codec
from .view import NamespaceView
from .watching import Subscription, WatchedChange

__version__ = "0.1.0"

__all__ = [
    "LATEST",
    "AgentInfo",
    "CacheConfig",
    "CacheEntry",
    "CacheError",
    "CacheStats",
    "Codec",
    "ConsensusError",
    "CoordinationError",
    "CorruptionError",
    "DiskFull",
    "DistributedLock",
    "Fence",
    "FillConflict",
    "FillTooOld",
    "HistoryNotRetained",
    "HotCache",
    "InvalidNamespace",
    "LimitExceeded",
    "Lock",
    "LockInfo",
    "LockLost",
    "LockTimeout",
    "LockToken",
    "MapFull",
    "MemoryConfig",
    "MemoryStats",
    "MemorySystem",
    "Namespace",
    "NamespaceView",
    "NotOwner",
    "NtmemError",
    "PositionError",
    "ReadOnlyError",
    "Record",
    "SchemaError",
    "SerializationError",
    "SimulatedClock",
    "StaleFence",
    "StorageError",
    "StoreClosed",
    "Subscription",
    "Transaction",
    "VectorError",
    "VerifyReport",
    "VersionConflict",
    "WatchedChange",
    "open",
    "verify",
]
