"""What a store says about itself."""

from __future__ import annotations

from typing import Any

from msgspec import Struct
from msgspec.structs import asdict

from ._core.text import html_facts


class MemoryPart(Struct, frozen=True):
    """What a part of a store has taken of memory, in bytes."""

    used: int
    limit: int
    """0: none, these are pages of files."""
    where: str
    """"shared": once for all processes; "process": in this one alone; "file": mapped, and the kernel's to give up."""


class MemoryStats(Struct, frozen=True):
    """A snapshot of a store's accounts; sizes in bytes, times in nanoseconds unless named otherwise.

    The first four are the names of the original crate. The LMDB engine has no hot tier, so all of `l1` is 0. What is
    counted of the hot tier and of locks is of all processes since the store was last opened by the first of them.
    """

    l1_entries: int
    l1_hit_rate: float
    l3_size_bytes: int
    total_trajectories: int
    engine: str
    l3_entries: int
    l3_history_entries: int
    l3_map_bytes: int
    namespaces: int
    """Namespaces ever written to; the number of an emptied one is kept, about 100 bytes."""
    last_version: int
    flush_lag: float
    """Seconds of acknowledged changes that power loss would take; the LMDB engine syncs each: 0.0."""
    clock: str
    now: int
    clock_ahead: int
    """By how much the store's clock runs ahead of the wall clock, which was set back."""
    l1_bytes: int = 0
    """Of the entries that can be found."""
    l1_memory_bytes: int = 0
    """Of shared memory that the hot tier has taken by now."""
    l1_max_bytes: int = 0
    l1_hits: int = 0
    """Gets that the hot tier answered; `l1_hit_rate` counts those of the log with them, which is memory, too."""
    log_hits: int = 0
    disk_reads: int = 0
    absent_reads: int = 0
    """Gets of keys that did not exist."""
    l1_evictions: dict[str, int] = {}
    """By cause: "entries", "bytes", "collision" (of hashes), "age"."""
    get_ns: dict[str, int] = {}
    """Percentiles of the native part of a get, of one in 61 of those that no value at hand answered."""
    put_ns: dict[str, int] = {}
    operations: dict[str, dict[str, float]] = {}
    """By name what was called, by all processes: `count`, and `mean`, `p50`, `p99` and `p99.9` in ns (of
    ``flush_groups`` and ``flush_bytes``: their number). docs/guide/operations.md says what each is."""

    lock_grants: int = 0
    """Leases of locks and agents that were granted,"""
    lock_waits: int = 0
    """of these after a wait,"""
    lock_taken: int = 0
    """and of these from who was dead or late."""
    lock_held: int = 0
    """Leases that were not given back; some may be over."""

    observation_bytes: int = 0
    """Of observations and their metadata that this handle keeps in arrays, for reads to be fast; 64 MiB and what is in
    use, at most."""
    vector_bytes: int = 0
    """Of memory in which vectors are searched, of all processes together,"""
    graph_bytes: int = 0
    """and of graphs of them, in files that all processes map."""

    memory: dict[str, MemoryPart] = {}
    """What each part has taken of memory: "log", "hot", "locks", "positions", "bus", "vectors", "columns"
    (observations, in arrays of this handle), "counters" (how often and how long, of each process), "graphs"."""
    memory_limit: int = 0
    """``max_memory_bytes`` of this handle."""

    @property
    def memory_bytes(self) -> int:
        """What all parts have taken, without pages of files."""
        return sum(part.used for part in self.memory.values() if part.where != "file")

    def to_dict(self) -> dict[str, Any]:
        """Return the figures by name."""
        facts = asdict(self)
        facts["memory"] = {name: asdict(part) for name, part in self.memory.items()}
        return facts | {"memory_bytes": self.memory_bytes}

    def _repr_html_(self) -> str:
        return html_facts(self.to_dict().items())


def percentiles(histogram: list[tuple[int, int]]) -> dict[str, int]:
    """Return p50, p99 and p99.9 of (least time of a bucket, count) in order: the least of the bucket they fall into."""
    total, found = sum(count for _, count in histogram), {}
    for name, share in (("p50", 0.5), ("p99", 0.99), ("p99.9", 0.999)):
        seen = 0
        for least, count in histogram:
            seen += count
            if seen >= share * total:
                found[name] = least
                break
    return found


class VerifyReport(Struct, frozen=True):
    """What :meth:`ntmem.MemorySystem.verify` found."""

    problems: tuple[str, ...]
    records: int
    history: int
    namespaces: int

    @property
    def ok(self) -> bool:
        """Whether nothing is wrong."""
        return not self.problems
