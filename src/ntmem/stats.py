"""What a store says about itself."""

from __future__ import annotations

from msgspec import Struct
from msgspec.structs import asdict


class MemoryStats(Struct, frozen=True):
    """A snapshot of a store's accounts; sizes in bytes, times in nanoseconds unless named otherwise.

    The first four are the names of the original crate. The LMDB engine has no hot tier, so `l1_entries` and
    `l1_hit_rate` are 0; no trajectories can be recorded yet, so `total_trajectories` is 0.
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

    def to_dict(self) -> dict[str, int | float | str]:
        """Return the figures by name."""
        return asdict(self)

    def _repr_html_(self) -> str:
        from html import escape

        rows = "".join(f"<tr><th>{escape(k)}</th><td>{escape(str(v))}</td></tr>" for k, v in self.to_dict().items())
        return f"<table>{rows}</table>"


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
