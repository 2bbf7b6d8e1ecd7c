"""``memory.cache``: the hot tier of a store as its users see it, with room for values that are in no store."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from .._core.hot import HotBusy, HotTable
from .._core.region import Region
from ..errors import CacheError
from ..instants import Duration, duration_ns
from ..namespace import encode_key
from ..values import codec_named
from .cold import ColdStore
from .evictions import Reporter
from .hot import CacheFace
from .layout import decode_labels
from .memoize import MISSING, Results, text_key, text_name
from .region import Cache

_OWN = b""  # no namespace of a store has this name


class StoreCache(CacheFace):
    """What a store has in its hot table: values that were read lately, and those that were put here alone.

    Made by :attr:`ntmem.MemorySystem.cache`. The table is one for all processes that have the store open, and so are
    its figures. Reads of the store fill it by themselves. What :meth:`put` puts here is in no store, may be forgotten
    at any moment, and every process sees it.

    Notes
    -----
    **Thread safety**: all methods may be called from any thread. **Complexity**: O(1) and the bytes of a value.

    Examples
    --------
    >>> import ntmem
    >>> with ntmem.open() as memory:
    ...     memory.cache.put("spread", b"0.3", ttl=5)
    ...     memory.cache.get("spread"), memory.cache.get("other"), len(memory.cache)
    (b'0.3', None, 1)
    """

    def __init__(self, store: ColdStore, limits: Cache) -> None:
        self._store = store
        self._reporter: Reporter | None = None
        found = getattr(store, "hot", None)
        if found is None:  # a cache of this process alone
            sections = HotTable.sections(limits.max_bytes, limits.max_entries)
            region = Region.create(None, identity=b"a cache", generation=0, sections=sections)
            found = HotTable.create(region, limits.max_bytes, limits.max_entries, ttl=limits.ttl)
        self._of_store: HotTable = found

    @classmethod
    def of(cls, store: ColdStore, limits: Cache) -> StoreCache:
        """Return the one that this process has of a store; another one when the store has got a hot table since."""
        face = store.face
        if not isinstance(face, StoreCache) or getattr(store, "hot", None) not in (None, face._of_store):
            face = store.face = cls(store, limits)
        return face

    @property
    def _table(self) -> HotTable:
        self._store.refuse()
        return self._of_store

    def get(self, key: str, default: Any = None) -> Any:
        """Return the bytes that were put here, or `default`."""
        value = self._table.get(_OWN, encode_key(key))
        return default if value is None else value

    def put(self, key: str, value: bytes, ttl: Duration | None = None) -> None:
        """Set a key, for `ttl` seconds at most.

        A value too large for the table is not kept, and what the key had is gone. Raises :class:`ntmem.CacheError` when
        a stopped process has the lock; nothing was changed then.
        """
        data = bytes(memoryview(value))
        self._locked(
            lambda: self._table.put(_OWN, encode_key(key), data, 0 if ttl is None else duration_ns(ttl, "ttl"))
        )

    def delete(self, key: str) -> bool:
        """Forget a key; return whether it was here."""
        return bool(self._locked(lambda: self._table.forget(_OWN, encode_key(key))))

    def clear(self) -> None:
        """Forget everything; values of the store are read from the log and the disk again."""
        self._locked(self._table.clear)

    def __len__(self) -> int:
        return len(self._table)

    def __repr__(self) -> str:
        if self._store.closed:
            return "<StoreCache closed>"
        size, entries, _ = self._table.limits
        return f"<StoreCache {len(self)} of {entries} entries, {self._table.live_bytes} of {size} bytes>"

    def counters(self) -> dict[str, Any]:
        """Return the fields of :class:`ntmem.CacheStats`, of all processes.

        A hit was answered from shared memory, by the table or by the log; a miss by the disk, or by nothing.
        """
        counts = self._table.counts()
        return {
            "entries": len(self._table),
            "bytes": self._table.live_bytes,
            "hits": counts["hot"] + counts["log"],
            "misses": counts["disk"] + counts["absent"] + counts["left"],
            "puts": counts["promoted"],
            "evictions": self._table.evictions(),
            "unreported": self._table.dropped,
        }

    def collect_evicted(self, wake: Callable[[], object] | None) -> None:
        """Keep what this process evicts for :meth:`take_evicted`; see :class:`ntmem.tiers.evictions.EvictingTable`."""
        self._of_store.listen(wake)

    def take_evicted(self) -> list[tuple[Any, Any, str]]:
        """Return (key, value, cause); the key of a value of the store is (labels, key)."""
        return [
            (key.decode() if space == _OWN else (decode_labels(space), key.decode()), value, cause)
            for space, key, value, cause in self._of_store.take_evicted()
        ]

    def _results(self, ttl: Duration | None, name: str | None) -> Results:
        codec = codec_named("msgpack")

        def read(key: str) -> Any:
            data = self.get(key)
            return MISSING if data is None else codec.decode(data)

        return Results(
            key=text_key,
            name=lambda function: text_name(function, name),
            read=read,
            write=lambda key, value: self.put(key, codec.encode(value), ttl),
            forget=self.delete,
            forget_all=lambda name: self._locked(lambda: self._table.forget_all(_OWN, f"{name}:".encode())),
        )

    def _locked(self, action: Callable[[], Any]) -> Any:
        try:
            return action()
        except HotBusy as error:
            raise CacheError(str(error)) from error
