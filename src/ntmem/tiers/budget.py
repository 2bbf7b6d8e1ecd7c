"""How ``max_memory_bytes`` is divided among the parts of a store, and what each has taken of it.

``docs/design/budget.md`` has the table of who gets what, and what happens when it is used up.

**Invariants** (numbered as in the design)

- I6: the limits of a plan add up to ``max_memory_bytes``. What the parts have taken is the memory that the kernel has
  given to them, not what they have filled of it.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, NamedTuple

from .._core.hot import HotTable
from ..config import MemoryConfig
from ..instants import duration_ns
from ..stats import MemoryPart
from .log import LogEngine
from .region import Cache, lasting_sections, message_ring

if TYPE_CHECKING:
    from .._core.region import Region
    from .engine import LmdbEngine

_LOG, _BUS = 16 << 20, 8 << 20  # where there is plenty
_LEAST_LOG, _LEAST_BUS = 1 << 16, 1 << 16
_PRIVATE_LOG = 4 << 20
_COLUMNS = 64 << 20
_LEAST = 4 << 20  # for what is not there from the beginning
_PAGE, _HEADER = 4096, 8192
_MOST_ENTRIES, _MOST_BYTES = 1 << 30, 1 << 40  # of a hot table
_PARTS = {1: "log", 2: "log", 3: "hot", 4: "hot", 5: "locks", 6: "positions", 7: "bus", 8: "bus"}  # by kind of section


class Plan(NamedTuple):
    """Who gets what, in bytes. `fixed` is taken when a store is opened, with `log` and all that is small."""

    total: int
    log: int
    bus: int
    fixed: int
    cache: Cache
    hot: int
    columns: int
    """Of each handle, for observations."""
    vectors: int


def plan(config: MemoryConfig) -> Plan:
    """Divide what a configuration allows; raise :class:`ValueError` if it is too little for what it asks for."""
    total = config.max_memory_bytes
    log = config.log_bytes or max(_LEAST_LOG, min(_LOG, _power(total // 16)))
    if config.storage_path is None:
        log = min(log, _PRIVATE_LOG)
    bus = config.bus_bytes or max(_LEAST_BUS, min(_BUS, _power(total // 32)))
    fixed = sum(size for _, size, _ in lasting_sections(log, bus))
    rest = total - fixed
    if rest < _LEAST:
        raise ValueError(
            f"max_memory_bytes={total} is too little: log_bytes={log}, bus_bytes={bus} and the tables of locks and "
            f"positions take {fixed}, and {_LEAST} are wanted beside; give at least {fixed + _LEAST}, or smaller ones"
        )
    columns = min(_COLUMNS, rest // 8)
    cache = _fitting(cache_limits(config), rest // 2)
    hot = _hot_bytes(cache)
    return Plan(total, log, bus, fixed, cache, hot, columns, rest - hot - columns)


def cache_limits(config: MemoryConfig) -> Cache:
    """Return the limits of the hot table as they were asked for; ``NTMEM_CACHE_BYTES`` bounds them further."""
    limits, bound = config.cache_config, os.environ.get("NTMEM_CACHE_BYTES")
    if bound is not None and not (bound.isascii() and bound.isdigit() and int(bound) > 0):
        raise ValueError(f"NTMEM_CACHE_BYTES must be a number of bytes, was {bound!r}")
    most = min(limits.max_bytes, _MOST_BYTES)
    return Cache(
        max_bytes=most if bound is None else min(most, int(bound)),
        max_entries=min(limits.max_entries, _MOST_ENTRIES),
        ttl=duration_ns(limits.ttl, "ttl"),
    )


def _fitting(cache: Cache, most: int) -> Cache:
    """Return limits whose table, with its index, takes `most` bytes at most: fewer entries of the same size."""
    while (size := _hot_bytes(cache)) > most and (cache.max_bytes, cache.max_entries) != (1, 1):
        fewer = max(1, min(cache.max_entries * most // size, cache.max_entries - 1))
        cache = cache._replace(max_bytes=max(1, cache.max_bytes * most // size), max_entries=fewer)
    return cache


def _hot_bytes(cache: Cache) -> int:
    return sum(size for _, size, _ in HotTable.sections(cache.max_bytes, cache.max_entries))


def _power(number: int) -> int:
    return 1 << max(number.bit_length() - 1, 0)


def accounts(engine: LmdbEngine, limits: Plan, *, columns: int, vectors: int, graphs: int) -> dict[str, MemoryPart]:
    """Return what each part has taken and may take, by name.

    A region has the sizes that its first opener gave it, which are reported, not those of this handle's plan.
    """
    found = _accounts_of_region(engine.log.region, engine) if isinstance(engine, LogEngine) else {}
    is_shared = isinstance(engine, LogEngine) and engine.store.directory is not None
    found["vectors"] = MemoryPart(vectors, limits.vectors, "shared" if is_shared else "process")
    found["columns"] = MemoryPart(columns, limits.columns, "process")
    found["graphs"] = MemoryPart(graphs, 0, "file")
    return found


def _accounts_of_region(region: Region, engine: LogEngine) -> dict[str, MemoryPart]:
    sizes = {"log": _HEADER}
    for kind, size, _ in region.sections:
        name = _PARTS.get(kind, "counters")
        sizes[name] = sizes.get(name, 0) + -(-size // _PAGE) * _PAGE
    taken = dict(sizes)
    if "hot" in sizes:
        taken["hot"] = 0 if engine.store.hot is None else engine.store.hot.memory_bytes
    ring = message_ring(engine.log)
    taken["bus"] -= ring.capacity - ring.memory_bytes
    where = "process" if engine.store.directory is None else "shared"
    return {name: MemoryPart(taken[name], size, where) for name, size in sizes.items()}
