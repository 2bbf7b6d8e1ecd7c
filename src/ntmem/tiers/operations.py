"""What the calls of all processes of a store came to, and how long they took: from counters in shared memory.

``docs/design/meters.md`` says what is counted where.
"""

from __future__ import annotations

from msgspec import Struct

from .._core.hot import HotTable
from .._core.meters import Meters
from ..stats import percentiles

SIZES = ("flush_groups", "flush_bytes")
"""Operations whose measure is no time."""

_READS = ("hot", "log", "disk", "absent", "left")


class Operation(Struct, frozen=True):
    """Calls of one operation, since the store was last opened by the first of its processes.

    Attributes
    ----------
    calls : int
        That were made, and did not fail.
    total : int
        Sum of what was measured: ns, groups or bytes.
    buckets : tuple of (int, int)
        The least of a bucket, and how many calls were measured in it. Four buckets to each doubling; of calls shorter
        than some microseconds one in 61 is measured.
    """

    calls: int = 0
    total: int = 0
    buckets: tuple[tuple[int, int], ...] = ()

    @property
    def measured(self) -> int:
        """How many calls were measured."""
        return sum(count for _, count in self.buckets)

    @property
    def mean(self) -> float:
        """Of what was measured; 0.0: nothing was."""
        return self.total / self.measured if self.measured else 0.0

    def since(self, before: Operation | None) -> Operation:
        """Return what came between an earlier look and this one; all of it if there was none, or another region."""
        if before is None or before.calls > self.calls:
            return self
        counts = dict(before.buckets)
        left = ((least, count - counts.get(least, 0)) for least, count in self.buckets)
        return Operation(
            self.calls - before.calls,
            max(self.total - before.total, 0),
            tuple((least, count) for least, count in left if count > 0),
        )

    def percentiles(self) -> dict[str, int]:
        """Return p50, p99 and p99.9 of what was measured: the least of the bucket they fall into."""
        return percentiles(list(self.buckets))

    def facts(self) -> dict[str, int | float]:
        """Return calls, mean and percentiles by name, ns where it is a time."""
        return {"count": self.calls, "mean": round(self.mean, 1), **self.percentiles()}


def operations_of(meters: Meters, hot: HotTable | None) -> dict[str, Operation]:
    """Return what was called by name: gets and puts as the hot table counts them, and all else."""
    found = {}
    if hot is not None:
        counts, times = hot.counts(), hot.times()
        calls = {"get": sum(counts[name] for name in _READS), "put": counts["put"]}
        for name, number in calls.items():
            if number:
                buckets = tuple(times[name])
                found[name] = Operation(number, round(sum(_middle(*bucket) for bucket in buckets)), buckets)
    for name, (number, total, made) in meters.read().items():
        found[name] = Operation(number, total, tuple(made))
    return found


def _middle(least: int, count: int) -> float:
    """About what the calls of a bucket took together: of gets and puts no sum is kept."""
    return count * (least if least < 4 else least + (1 << least.bit_length() - 3) / 2)
