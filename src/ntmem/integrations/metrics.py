"""Metrics of a store for Prometheus. Needs the extra ``metrics`` (prometheus-client).

Everything is read when it is scraped, from counters that the store keeps anyway: nothing is added to any call.
``docs/guide/operations.md`` says what each metric means, and what is worth an alert.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from importlib import resources
from typing import TYPE_CHECKING, Any, Protocol

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.registry import Collector, CollectorRegistry

from ..errors import NtmemError
from ..gauges import GaugeReader, Gauges
from ..tiers.operations import SIZES, Operation

if TYPE_CHECKING:
    from prometheus_client.metrics_core import Metric

    from ..system import MemorySystem

BOUNDS = tuple(1 << power for power in range(6, 36))
"""Upper bounds of the histograms, in ns: 64 ns to 34 s. Each is where a bucket of the store's ends."""
_STATUSES = ("alive", "silent", "dead")


class Source(Protocol):
    """What is asked for gauges at each scrape."""

    def read(self) -> Gauges: ...


class NtmemCollector(Collector):
    """Gives a store's figures to a registry of ``prometheus_client`` whenever that is scraped.

    Parameters
    ----------
    memory : MemorySystem or GaugeReader
        A store that this process has open, or one that others have: then it is only looked at.

    Notes
    -----
    A scrape takes some milliseconds. When the store is closed, or its directory gone, ``ntmem_up`` is 0 and all else
    is missing; with a reader it goes on when somebody opens the store again. **Thread safety**: one scrape at a time
    of a reader, any number of a store.

    Examples
    --------
    >>> import ntmem
    >>> from prometheus_client import CollectorRegistry
    >>> registry = CollectorRegistry()
    >>> with ntmem.open() as memory:
    ...     registry.register(NtmemCollector(memory))
    ...     version = memory.put("desk", "target", b"3")
    ...     registry.get_sample_value("ntmem_operations_total", {"store": "private", "op": "put"})
    1.0
    """

    def __init__(self, memory: MemorySystem | GaugeReader) -> None:
        path = memory.directory if isinstance(memory, GaugeReader) else memory.path
        self._read = memory.read if isinstance(memory, GaugeReader) else memory.gauges
        self._store = "private" if path is None else os.path.abspath(path)

    def describe(self) -> Iterable[Metric]:
        """Return nothing, so that registering does not look at the store."""
        return ()

    def collect(self) -> Iterator[Metric]:
        """Look at the store, and yield what it is doing."""
        try:
            found: Gauges | None = self._read()
        except NtmemError:
            found = None
        up = found is not None and (found.state == "in use" or bool(found.operations))
        yield self._gauge("up", "Whether a process has the store open.", up)
        if found is not None:
            yield from self._of_disk(found)
            if up:
                yield from self._of_calls(found)
                yield from self._of_memory(found)
                yield from self._of_team(found)

    # -- families

    def _gauge(self, name: str, help: str, value: float) -> Metric:
        family = GaugeMetricFamily(f"ntmem_{name}", help, labels=["store"])
        family.add_metric([self._store], float(value))
        return family

    def _counter(self, name: str, help: str, value: float) -> Metric:
        family = CounterMetricFamily(f"ntmem_{name}", help, labels=["store"])
        family.add_metric([self._store], float(value))
        return family

    def _by(self, kind: Any, name: str, help: str, label: str, values: Iterable[tuple[str, float]]) -> Metric:
        family: Metric = kind(f"ntmem_{name}", help, labels=["store", label])
        for said, value in values:
            family.add_metric([self._store, said], float(value))  # type: ignore[attr-defined]
        return family

    def _of_disk(self, found: Gauges) -> Iterator[Metric]:
        yield self._gauge("flush_lag_seconds", "Seconds of acknowledged changes that are not on disk.", found.flush_lag)
        yield self._gauge("unflushed_bytes", "Bytes of acknowledged changes that are not on disk.", found.unflushed)
        yield self._gauge("file_bytes", "Size of the data file.", found.file_bytes)
        yield self._gauge("problems", "How many things ntmem doctor would say are wrong.", len(found.problems))
        yield self._gauge("processes", "Processes that have the store open.", len(found.attached))

    def _of_calls(self, found: Gauges) -> Iterator[Metric]:
        operations = found.operations
        times = {name: it for name, it in operations.items() if name not in SIZES}
        calls = ((name, it.calls) for name, it in times.items())
        yield self._by(CounterMetricFamily, "operations", "Calls that did not fail.", "op", calls)
        family = HistogramMetricFamily(
            "ntmem_operation_seconds", "How long calls took; of quick ones one in 61.", labels=["store", "op"]
        )
        for name, it in times.items():
            family.add_metric([self._store, name], buckets=_cumulative(it), sum_value=it.total / 1e9)
        yield family
        flushed = {name: operations.get(name, Operation()).total for name in SIZES}
        yield self._counter("flushed_groups", "Groups of changes brought to disk.", flushed["flush_groups"])
        yield self._counter("flushed_bytes", "Bytes of the log brought to disk.", flushed["flush_bytes"])
        reads = {name: found.reads.get(name, 0) for name in ("hot", "log", "disk", "absent")}
        yield self._counter("hot_hits", "Gets that the hot tier answered.", reads["hot"])
        yield self._counter("log_hits", "Gets that the log answered.", reads["log"])
        yield self._counter("disk_reads", "Gets that LMDB answered.", reads["disk"])
        yield self._counter("absent_reads", "Gets of keys that did not exist.", reads["absent"])
        evictions = found.evictions.items()
        yield self._by(CounterMetricFamily, "hot_evictions", "Entries that left the hot tier.", "cause", evictions)

    def _of_memory(self, found: Gauges) -> Iterator[Metric]:
        parts = found.memory
        used = ((name, it.used) for name, it in parts.items())
        limits = ((name, it.limit) for name, it in parts.items() if it.limit)
        yield self._by(GaugeMetricFamily, "memory_bytes", "Shared memory in use, by part.", "part", used)
        yield self._by(GaugeMetricFamily, "memory_limit_bytes", "Shared memory that a part may use.", "part", limits)

    def _of_team(self, found: Gauges) -> Iterator[Metric]:
        counts = found.lock_counts
        yield self._gauge("locks_held", "Leases of locks that are current.", sum(it.is_current for it in found.locks))
        waiting = sum(it.waiting for it in found.locks)
        yield self._gauge("lock_waiters", "Calls that wait for a lock, in order.", waiting)
        yield self._counter("lock_grants", "Leases of locks and agents that were granted.", counts.get("grants", 0))
        yield self._counter("lock_waits", "Leases that were granted after a wait.", counts.get("waits", 0))
        yield self._counter("lock_taken", "Leases that were taken from who was dead or late.", counts.get("taken", 0))
        agents = ((status, sum(it.status == status for it in found.agents)) for status in _STATUSES)
        yield self._by(GaugeMetricFamily, "agents", "Registered agents.", "status", agents)
        yield self._counter("messages", "Messages that were published.", found.messages)
        yield self._gauge("positions_open", "Positions that are not flat.", found.open_positions)


def _cumulative(operation: Operation) -> list[tuple[str, float]]:
    """Return the histogram as Prometheus has it: upper bound in seconds, and how many were below."""
    found, seen = [], 0
    buckets = iter(operation.buckets)
    bucket = next(buckets, None)
    for bound in BOUNDS:
        while bucket is not None and bucket[0] < bound:
            seen += bucket[1]
            bucket = next(buckets, None)
        found.append((repr(bound / 1e9), float(seen)))
    return [*found, ("+Inf", float(operation.measured))]


def registry_of(directory: str | os.PathLike[str]) -> CollectorRegistry:
    """Return a registry of one store that others have open."""
    registry = CollectorRegistry()
    registry.register(NtmemCollector(GaugeReader(directory)))
    return registry


def dashboard() -> str:
    """Return a dashboard of these metrics for Grafana, as JSON."""
    return resources.files(__package__).joinpath("grafana.json").read_text(encoding="utf-8")
