"""What a store is opened with. Both classes check themselves and are immutable."""

from __future__ import annotations

import os
from datetime import timedelta
from typing import Any, Literal, get_args

from msgspec import Struct, field
from msgspec.structs import force_setattr

from .endpoint import require_url, secret_of
from .instants import Duration, duration_ns, require_bool, require_int

Durability = Literal["process", "disk"]
EngineName = Literal["shared", "lmdb"]


class CacheConfig(Struct, frozen=True):
    """Limits of a cache: of a store's hot tier (L1), or of a :class:`ntmem.HotCache`.

    Parameters
    ----------
    max_entries : int
        Entries at most.
    max_bytes : int
        Bytes of values, in a store's hot tier of whole records, at most; the index comes on top.
    ttl : float or timedelta
        Seconds that an entry stays at most. Of a store it bounds residence in L1 only, never the life of data.
    track_access : bool
        Whether a ``HotCache`` counts the reads of each entry; a store's hot tier always knows what was read lately.

    Notes
    -----
    Who opens a store first decides the limits of its hot tier. The LMDB engine has none.
    """

    max_entries: int = 100_000
    max_bytes: int = 64 << 20
    ttl: Duration = 3600.0
    track_access: bool = True

    def __post_init__(self) -> None:
        require_int(self.max_entries, "max_entries", 1)
        require_int(self.max_bytes, "max_bytes", 1)
        duration_ns(self.ttl, "ttl")
        require_bool(self.track_access, "track_access")


class MemoryConfig(Struct, frozen=True):
    """Configuration of a store.

    Parameters
    ----------
    storage_path : str or os.PathLike, optional
        The directory of the store, made when missing; None for a private store that ends with the process.
    cache_config : CacheConfig
        Limits of the hot tier.
    agentdb_url : str, optional
        An AgentDB server, such as ``ntmem serve-agentdb``: then ``memory.vectors`` asks it instead of this store. It is
        first asked when vectors are, so a store opens without it. "http://127.0.0.1:8780", "https://host/some/path".
        Needs the extra ``agentdb``.
    enable_compression : bool
        Whether observations are distilled in the background; `memory.observations.distill()` does it either way.
    max_memory_bytes : int
        Of everything that the store keeps in memory: log, messages, positions, locks, the hot tier, vectors, and a
        handle's own arrays of observations. docs/design/budget.md says what each part gets, and what it does when it
        has no more; ``stats().memory`` what it has taken. Graphs of vectors and the data file are files, whose pages
        the kernel keeps as it likes.
    engine : {"shared", "lmdb"}, optional
        "shared": a commit log in shared memory before LMDB, for every process of this machine. "lmdb": every write is
        a synced LMDB transaction; slow, and needs no shared memory. By default what the environment variable
        ``NTMEM_ENGINE`` says, else "shared" where the machine has what it needs. All processes use the same one.
    durability : {"process", "disk"}
        What an acknowledged change survives: "process" = ``kill -9``, "disk" = power loss as well. The LMDB engine
        syncs every write, so with it both mean "disk".
    flush_interval : float or timedelta
        How much may be lost at power loss under "process", in seconds, beside one commit. The LMDB engine loses
        nothing.
    max_flush_lag : float or timedelta
        How far the disk may fall behind, in seconds: past it writers wait as long again, then raise
        :class:`ntmem.StorageError`.
    max_storage_bytes : int
        Limit of the data file; a write past it raises :class:`ntmem.MapFull` and keeps nothing of itself.
    log_bytes : int, optional
        Size of the commit log in shared memory, a power of two: how much may be acknowledged before it is on disk. By
        default a sixteenth of `max_memory_bytes` and 16 MiB at most.
    bus_bytes : int, optional
        Size of the ring of messages in shared memory, a power of two: how far a subscriber may fall behind before it
        misses some. A message is at most a quarter of it. The memory is taken by the first who publishes. By default a
        32nd of `max_memory_bytes` and 8 MiB at most.
    graph_share : float
        Of one core, at lowest priority, for graphs of large collections of vectors, which a process that writes to them
        makes in the background; 0: only ``memory.vectors.compact()`` makes graphs.
    upkeep_interval : float or timedelta
        Seconds between rounds of upkeep in the background, and before the first; 0: only ``memory.upkeep()`` does them.
    upkeep_share : float
        Of one core, for such a round; 0: only ``memory.upkeep()`` does them.
    scrub : bool
        Whether personal data and secrets are taken out of what the ReasoningBank keeps; ``memory.scrubber`` does it.
    agentdb_token : str, optional
        What the server of `agentdb_url` wants to be told by who asks; by default what the environment variable
        ``NTMEM_AGENTDB_TOKEN`` says. No ``repr`` shows it, but it goes with the configuration to other processes.
    agentdb_timeout : float or timedelta
        Seconds until a request to that server has succeeded, all tries together, or raises
        :class:`ntmem.ServerUnavailable`.
    """

    storage_path: str | os.PathLike[str] | None = "./data/memory"
    cache_config: CacheConfig = field(default_factory=CacheConfig)
    agentdb_url: str | None = None
    engine: EngineName | None = None
    enable_compression: bool = True
    max_memory_bytes: int = 1 << 30
    durability: Durability = "process"
    flush_interval: float | timedelta = 0.05
    max_flush_lag: float | timedelta = 5.0
    max_storage_bytes: int = 1 << 40
    log_bytes: int | None = None
    bus_bytes: int | None = None
    graph_share: float = 0.5
    upkeep_interval: float | timedelta = 30.0
    upkeep_share: float = 0.05
    scrub: bool = True
    agentdb_token: str | None = None
    agentdb_timeout: Duration = 5.0

    def __post_init__(self) -> None:
        if self.storage_path is not None and not isinstance(self.storage_path, str | os.PathLike):
            raise TypeError(f"storage_path must be a path or None, was {type(self.storage_path).__name__}")
        if self.storage_path is not None and "\0" in os.fspath(self.storage_path):
            raise ValueError("storage_path must not hold NUL")
        if self.storage_path is not None and not os.fspath(self.storage_path):
            raise ValueError("storage_path must not be empty; pass None for a private store in memory")
        if not isinstance(self.cache_config, CacheConfig):
            raise TypeError(f"cache_config must be a CacheConfig, was {type(self.cache_config).__name__}")
        if self.agentdb_url is not None:
            require_url(self.agentdb_url, "agentdb_url")
        if self.agentdb_token is not None:
            force_setattr(self, "agentdb_token", secret_of(self.agentdb_token, "agentdb_token"))
        duration_ns(self.agentdb_timeout, "agentdb_timeout")
        if self.durability not in get_args(Durability):
            raise ValueError(f"durability must be 'process' or 'disk', was {self.durability!r}")
        require_int(self.max_memory_bytes, "max_memory_bytes", 1 << 20)
        require_int(self.max_storage_bytes, "max_storage_bytes", 1 << 20)
        duration_ns(self.flush_interval, "flush_interval")
        duration_ns(self.max_flush_lag, "max_flush_lag")
        _require_power(self.log_bytes, "log_bytes", 4096)
        _require_power(self.bus_bytes, "bus_bytes", 1 << 16)
        if self.engine is not None and self.engine not in get_args(EngineName):
            raise ValueError(f"engine must be 'shared', 'lmdb' or None, was {self.engine!r}")
        require_bool(self.enable_compression, "enable_compression")
        require_bool(self.scrub, "scrub")
        if self.upkeep_interval != 0:
            duration_ns(self.upkeep_interval, "upkeep_interval")
        require_share(self.upkeep_share, "upkeep_share")
        require_share(self.graph_share, "graph_share")


def require_share(value: Any, name: str) -> None:
    """Raise ``TypeError`` or ``ValueError`` unless it is a number from 0 to 1."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{name} must be a number from 0 to 1, was {type(value).__name__}")
    if not 0 <= value <= 1:
        raise ValueError(f"{name} must be a number from 0 to 1, was {value}")


def _require_power(size: int | None, name: str, least: int) -> None:
    if size is not None:
        require_int(size, name, least)
        if size & (size - 1) or size > 1 << 32:
            raise ValueError(f"{name} must be a power of two from {least} to 2**32, was {size}")
