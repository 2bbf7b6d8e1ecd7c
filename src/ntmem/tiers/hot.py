"""The cache that is usable alone, and the face that it shares with a store's cache: callbacks, memoize, figures."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, MutableMapping
from collections.abc import ItemsView as BaseItemsView
from collections.abc import ValuesView as BaseValuesView
from itertools import islice
from reprlib import recursive_repr
from typing import Any, Generic, Protocol, TypeVar, overload

from msgspec import Struct
from msgspec.structs import asdict

from .._core.objects import ObjectTable
from ..config import CacheConfig
from ..instants import Duration, duration_ns
from .evictions import Evicted, EvictingTable, Reporter
from .memoize import MISSING, Results, memoized, object_key, object_name

K = TypeVar("K")
V = TypeVar("V")
F = TypeVar("F", bound=Callable[..., Any])

_SHOWN = 1000  # entries in a repr; a dict would show all


class CacheEntry(Struct, frozen=True, weakref=True):
    """What :meth:`HotCache.entry` says of a key: its value, and when it was put, ends and was read; ns UTC.

    With ``track_access=False`` reads are not counted and `last_access` is when it was put.
    """

    value: Any
    created_at: int
    expires_at: int | None
    last_access: int
    access_count: int


class CacheStats(Struct, frozen=True):
    """What a cache has counted since it was made.

    `evictions` are by cause: "entries", "bytes" (of the budget), "expired", "too_large" (for the whole budget).
    `unreported` evictions came too fast for the callbacks of ``on_evict``.
    """

    entries: int
    bytes: int
    hits: int
    misses: int
    hit_rate: float
    puts: int
    evictions: dict[str, int]
    unreported: int = 0

    def to_dict(self) -> dict[str, Any]:
        """Return the figures by name."""
        return asdict(self)


class CacheTable(EvictingTable, Protocol):
    """What a class brings to be a cache with :class:`CacheFace`."""

    def get(self, key: Any, default: Any = None) -> Any:
        """Return the value of a key, or `default`; counts as a read."""

    def put(self, key: Any, value: Any, ttl: Duration | None = None) -> None:
        """Set a key."""

    def delete(self, key: Any) -> bool:
        """Delete a key; return whether it existed."""

    def counters(self) -> dict[str, Any]:
        """Return the fields of :class:`CacheStats` by name, without `hit_rate`."""


class CacheFace:
    """What every cache offers, over the methods of :class:`CacheTable`; a mixin without state of its own.

    A class that mixes it in has the attribute `_reporter`, None to begin with, can be referred to weakly, and may
    override :meth:`_results`.
    """

    __slots__ = ()
    _reporter: Reporter | None

    def hit_rate(self: Any) -> float:
        """Return which part of the reads found something; 0.0 before the first."""
        counted = self.counters()
        reads = counted["hits"] + counted["misses"]
        return float(counted["hits"] / reads) if reads else 0.0

    def stats(self: Any) -> CacheStats:
        """Return the cache's figures."""
        counted = self.counters()
        reads = counted["hits"] + counted["misses"]
        return CacheStats(hit_rate=counted["hits"] / reads if reads else 0.0, **counted)

    def on_evict(self: Any, callback: Evicted) -> Callable[[], None]:
        """Call ``callback(key, value, cause)`` for what is evicted from now on; return a function that ends it.

        Causes are those of :class:`CacheStats`. What is deleted, replaced or cleared was not evicted. A thread of the
        cache makes the calls, some time after the eviction, in its order; it ends when the cache is closed or
        collected. An exception is logged (logger ``ntmem``). When callbacks are slower than evictions, some of these
        are never reported, and counted as `unreported`.
        """
        if self._reporter is None:
            self._reporter = Reporter(self)
        ending: Callable[[], None] = self._reporter.add(callback)
        return ending

    def flush_evictions(self, timeout: float | None = None) -> bool:
        """Wait until what was evicted before this call has been reported; return whether it was, in `timeout` s."""
        return self._reporter is None or self._reporter.flush(timeout)

    def close(self) -> None:
        """Report what was evicted and end the thread of :meth:`on_evict`; the cache goes on without reports."""
        if self._reporter is not None:
            self._reporter.close()

    @overload
    def memoize(self, function: F, /) -> F: ...
    @overload
    def memoize(
        self,
        function: None = None,
        /,
        *,
        ttl: Duration | None = None,
        key: Callable[..., Any] | None = None,
        name: str | None = None,
        single_flight: bool = False,
    ) -> Callable[[F], F]: ...
    def memoize(
        self,
        function: Any = None,
        /,
        *,
        ttl: Duration | None = None,
        key: Callable[..., Any] | None = None,
        name: str | None = None,
        single_flight: bool = False,
    ) -> Any:
        """Keep the results of a function in this cache, as ``@cache.memoize`` or ``@cache.memoize(ttl=5)``.

        All spellings of a call share one result; 1, 1.0 and True are different arguments. None is a result like any
        other; exceptions are not kept. Of a method, `self` is one of the arguments: it has to be hashable, and lives as
        long as its results. A coroutine function becomes one whose awaited result is kept; generators are refused.

        Parameters
        ----------
        ttl : float or timedelta, optional
            How long results are kept.
        key : callable, optional
            Called with the arguments, it returns what distinguishes the calls of this function.
        name : str, optional
            What results are kept under where other processes see them; by default the function's module (of a program,
            its file) and name. A closure, a method of an object or a partial needs one.
        single_flight : bool
            Of several threads (or tasks of a loop) that miss the same key one computes, and the others wait for its
            result or its exception. A computation that waits for itself raises :class:`ntmem.CacheError`.

        Returns
        -------
        callable
            The function, with ``invalidate(*args)`` (forgets one result), ``cache_clear()`` (forgets all) and
            ``__wrapped__``.
        """
        if ttl is not None:
            duration_ns(ttl, "ttl")

        def decorate(function: Any) -> Any:
            return memoized(function, self._results(ttl, name), key=key, single_flight=single_flight)

        return decorate if function is None else decorate(function)

    def _results(self: Any, ttl: Duration | None, name: str | None) -> Results:
        """Return where :meth:`memoize` keeps results; this one wants keys and values that are any objects."""
        return Results(
            key=object_key,
            name=object_name,
            read=lambda key: self.get(key, MISSING),
            write=lambda key, value: self.put(key, value, ttl),
            forget=self.delete,
            forget_all=self._forget_all,
        )

    def _forget_all(self: Any, name: Any) -> None:
        for key in list(self.iterate("keys")):
            if type(key) is tuple and key and key[0] is name:
                self.delete(key)


class HotCache(ObjectTable[K, V], CacheFace, MutableMapping[K, V], Generic[K, V]):
    """A cache of Python objects in this process: a mapping with limits of entries, bytes and time.

    Values are kept by reference. What is evicted is chosen by how often and how lately keys were read; a scan of keys
    that are read once evicts little else. The order of iteration is that of insertion.

    Parameters
    ----------
    config : CacheConfig, optional
        The limits; those below override it.
    max_entries, max_bytes, ttl, track_access : optional
        As of :class:`ntmem.CacheConfig`. ``ttl`` counts from the put and on the boot clock, which goes on while the
        machine sleeps.
    size_of : callable, optional
        Returns the bytes of a value; by default the length of what is bytes-like, and else ``sys.getsizeof``. It is
        asked once, at the put. Keys are not counted.

    Notes
    -----
    **Thread safety**: all methods may be called from any thread; ``setdefault``, ``pop`` and ``popitem`` are atomic.
    **Complexity**: O(1); a put drops what it evicts. Beside its key and value an entry takes some 130 bytes.

    Examples
    --------
    >>> cache = HotCache(max_entries=1000, ttl=60)
    >>> cache.put("BTCUSDT", 61800.3)
    >>> cache["BTCUSDT"], cache.get("ETHUSDT"), cache.hit_rate()
    (61800.3, None, 0.5)
    >>> @cache.memoize(single_flight=True)
    ... def square(x):
    ...     return x * x
    >>> square(4), square(x=4), len(cache)
    (16, 16, 2)
    """

    __slots__ = ("__weakref__", "_config", "_reporter", "_size_of")

    def __init__(
        self,
        config: CacheConfig | None = None,
        *,
        max_entries: int | None = None,
        max_bytes: int | None = None,
        ttl: Duration | None = None,
        track_access: bool | None = None,
        size_of: Callable[[V], int] | None = None,
    ) -> None:
        if config is not None and not isinstance(config, CacheConfig):
            raise TypeError(f"config must be a CacheConfig, was {type(config).__name__}")
        if size_of is not None and not callable(size_of):
            raise TypeError(f"size_of must be callable, was {type(size_of).__name__}")
        given = {"max_entries": max_entries, "max_bytes": max_bytes, "ttl": ttl, "track_access": track_access}
        self._config = CacheConfig(
            **{**asdict(config or CacheConfig()), **{k: v for k, v in given.items() if v is not None}}
        )
        self._size_of = size_of
        self._reporter = None
        self.configure(
            self._config.max_entries,
            self._config.max_bytes,
            duration_ns(self._config.ttl, "ttl"),
            self._config.track_access,
            size_of=size_of,
            lifetime_of=_lifetime_of,
        )

    @property
    def config(self) -> CacheConfig:
        """The limits."""
        return self._config

    def entry(self, key: K) -> CacheEntry | None:  # type: ignore[override]
        """Return what is known of a key, or None; not a read."""
        found = super().entry(key)
        return None if found is None else CacheEntry(*found)

    def items(self) -> BaseItemsView[K, V]:
        """Return a view of (key, value); reading through it is not counted."""
        return _Items(self)

    def values(self) -> BaseValuesView[V]:
        """Return a view of the values; reading through it is not counted."""
        return _Values(self)

    def copy(self) -> HotCache[K, V]:
        """Return another cache with the same limits and entries, which end when they end here; nothing is counted."""
        other = self.__class__(self._config, size_of=self._size_of)
        for key in list(self):
            entry = self.entry(key)
            if entry is not None:
                left = None if entry.expires_at is None else max(entry.expires_at - time.time_ns(), 1) / 1e9
                other.put(key, entry.value, left)
        return other

    __copy__ = copy

    @classmethod
    def fromkeys(cls, keys: Iterable[K], value: Any = None) -> HotCache[K, Any]:
        """Return a cache that has `value` at each of `keys`."""
        made = cls()
        for key in keys:
            made[key] = value
        return made

    @recursive_repr("{...}")
    def __repr__(self) -> str:
        shown = [f"{key!r}: {value!r}" for key, value in islice(list(self.iterate("items")), _SHOWN)]
        more = len(self) - _SHOWN
        return "{" + ", ".join(shown) + (f", and {more} more" if more > 0 else "") + "}"


def _lifetime_of(ttl: Duration) -> int:
    return duration_ns(ttl, "ttl")


class _Values(BaseValuesView[V]):
    _mapping: HotCache[Any, V]

    def __iter__(self) -> Iterator[V]:
        return self._mapping.iterate("values")

    def __contains__(self, value: object) -> bool:
        return any(value is other or value == other for other in list(self))


class _Items(BaseItemsView[K, V]):
    _mapping: HotCache[K, V]

    def __iter__(self) -> Iterator[tuple[K, V]]:
        return self._mapping.iterate("items")

    def __contains__(self, item: object) -> bool:
        if not (isinstance(item, tuple) and len(item) == 2):
            return False
        entry = self._mapping.entry(item[0])
        return entry is not None and (entry.value is item[1] or entry.value == item[1])
