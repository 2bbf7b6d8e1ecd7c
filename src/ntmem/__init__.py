"""ntmem: the shared memory of a team of trading agents.

>>> import ntmem
>>> with ntmem.open() as memory:          # a path instead of nothing: durable, and shared between processes
...     _ = memory.put("desk", "target", b"3")
...     memory.get("desk", "target")
b'3'
"""

from __future__ import annotations

import logging
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ._core.ring import Message
from .broker import PubSubBroker
from .clock import SimulatedClock
from .config import CacheConfig, MemoryConfig
from .coordination import AgentInfo, ConsensusResult, Lock, LockInfo, LockToken, Proposal, Vote
from .coordination import Consensus as ConsensusEngine
from .coordination import Lock as DistributedLock
from .errors import (
    BadAnswer,
    CacheError,
    ConsensusError,
    CoordinationError,
    CorruptionError,
    DiskFull,
    FillConflict,
    FillTooOld,
    HistoryNotRetained,
    InvalidNamespace,
    Lagged,
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
    ServerUnavailable,
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
from .subscription import Subscription
from .system import MemorySystem, open, verify
from .tiers.hot import CacheEntry, CacheStats, HotCache
from .transaction import Transaction
from .values import Codec
from .view import NamespaceView
from .watching import WatchedChange

if TYPE_CHECKING:  # else by __getattr__ below
    from .agentdb.remote import RemoteVectors as RemoteVectors
    from .coordination.accounting import ProfitAndLoss as ProfitAndLoss
    from .coordination.sessionlist import SessionInfo as SessionInfo
    from .coordination.sessions import Session as Session
    from .embedding import CachedEmbedder as CachedEmbedder
    from .embedding import EmbeddingProvider as EmbeddingProvider
    from .embedding import FunctionEmbedder as FunctionEmbedder
    from .embedding import HashedTextEmbedder as HashedTextEmbedder
    from .embedding import MarketWindowEmbedder as MarketWindowEmbedder
    from .reasoningbank import CalibrationReport as CalibrationReport
    from .reasoningbank import Choice as Choice
    from .reasoningbank import DistilledPattern as DistilledPattern
    from .reasoningbank import Distiller as Distiller
    from .reasoningbank import Explanation as Explanation
    from .reasoningbank import MattsContrast as MattsContrast
    from .reasoningbank import MattsRun as MattsRun
    from .reasoningbank import ReasoningBank as ReasoningBank
    from .reasoningbank import RecalledPattern as RecalledPattern
    from .reasoningbank import RelativeErrorJudge as RelativeErrorJudge
    from .reasoningbank import ScaledJudge as ScaledJudge
    from .reasoningbank import Trajectory as Trajectory
    from .reasoningbank import TrajectoryTracker as TrajectoryTracker
    from .reasoningbank import Verdict as Verdict
    from .reasoningbank import VerdictResult as VerdictResult
    from .scrubbing import Scrubber as Scrubber
    from .tiers.backup import BackupReport as BackupReport
    from .tiers.backup import RestoreReport as RestoreReport
    from .tiers.backup import restore as restore
    from .tiers.compacting import CompactReport as CompactReport
    from .tiers.compacting import compact as compact
    from .tiers.hits import SearchHit as SearchHit
    from .tiers.incoming import ImportReport as ImportReport
    from .tiers.outgoing import ExportReport as ExportReport
    from .tiers.vectors import VectorStore as VectorStore

__version__ = "0.1.0"


_LATER = {  # what needs numpy, or time to be imported
    "RemoteVectors": "agentdb.remote",
    **dict.fromkeys(("EmbeddingProvider", "HashedTextEmbedder", "MarketWindowEmbedder"), "embedding"),
    **dict.fromkeys(("CachedEmbedder", "FunctionEmbedder"), "embedding"),
    **dict.fromkeys(("BackupReport", "RestoreReport", "restore"), "tiers.backup"),
    **dict.fromkeys(("CompactReport", "compact"), "tiers.compacting"),
    **{"ExportReport": "tiers.outgoing", "ImportReport": "tiers.incoming"},
    "Session": "coordination.sessions",
    "SessionInfo": "coordination.sessionlist",
    "ProfitAndLoss": "coordination.accounting",
    "Scrubber": "scrubbing",
    **{"SearchHit": "tiers.hits", "VectorStore": "tiers.vectors"},
    **dict.fromkeys(("CalibrationReport", "ReasoningBank", "RelativeErrorJudge", "ScaledJudge"), "reasoningbank"),
    **dict.fromkeys(("Choice", "DistilledPattern", "Distiller", "Explanation", "RecalledPattern"), "reasoningbank"),
    **dict.fromkeys(("MattsContrast", "MattsRun", "Trajectory", "TrajectoryTracker"), "reasoningbank"),
    **dict.fromkeys(("Verdict", "VerdictResult"), "reasoningbank"),
}

logging.getLogger("ntmem").addHandler(logging.NullHandler())  # silent, unless the program says otherwise


def __getattr__(name: str) -> Any:
    if name == "delta":
        return import_module(".delta", __name__)
    if name in _LATER:
        return getattr(import_module(f".{_LATER[name]}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def get_include() -> str:
    """Return the directory of ``ntmem.h``, for compilers: C programs read positions by it."""
    return str(Path(__file__).parent / "include")


__all__ = [
    "LATEST",
    "AgentInfo",
    "BackupReport",
    "BadAnswer",
    "CacheConfig",
    "CacheEntry",
    "CacheError",
    "CacheStats",
    "CachedEmbedder",
    "CalibrationReport",
    "Choice",
    "Codec",
    "CompactReport",
    "ConsensusEngine",
    "ConsensusError",
    "ConsensusResult",
    "CoordinationError",
    "CorruptionError",
    "DiskFull",
    "DistilledPattern",
    "Distiller",
    "DistributedLock",
    "EmbeddingProvider",
    "Explanation",
    "ExportReport",
    "Fence",
    "FillConflict",
    "FillTooOld",
    "FunctionEmbedder",
    "HashedTextEmbedder",
    "HistoryNotRetained",
    "HotCache",
    "ImportReport",
    "InvalidNamespace",
    "Lagged",
    "LimitExceeded",
    "Lock",
    "LockInfo",
    "LockLost",
    "LockTimeout",
    "LockToken",
    "MapFull",
    "MarketWindowEmbedder",
    "MattsContrast",
    "MattsRun",
    "MemoryConfig",
    "MemoryStats",
    "MemorySystem",
    "Message",
    "Namespace",
    "NamespaceView",
    "NotOwner",
    "NtmemError",
    "PositionError",
    "ProfitAndLoss",
    "Proposal",
    "PubSubBroker",
    "ReadOnlyError",
    "ReasoningBank",
    "RecalledPattern",
    "Record",
    "RelativeErrorJudge",
    "RemoteVectors",
    "RestoreReport",
    "ScaledJudge",
    "SchemaError",
    "Scrubber",
    "SearchHit",
    "SerializationError",
    "ServerUnavailable",
    "Session",
    "SessionInfo",
    "SimulatedClock",
    "StaleFence",
    "StorageError",
    "StoreClosed",
    "Subscription",
    "Trajectory",
    "TrajectoryTracker",
    "Transaction",
    "VectorError",
    "VectorStore",
    "Verdict",
    "VerdictResult",
    "VerifyReport",
    "VersionConflict",
    "Vote",
    "WatchedChange",
    "compact",
    "get_include",
    "open",
    "restore",
    "verify",
]
