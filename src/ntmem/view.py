"""One namespace as a mapping of plain objects."""

from __future__ import annotations

from collections.abc import Callable, ItemsView, Iterator, ValuesView
from typing import TYPE_CHECKING, Any, TypeVar, overload

from .instants import Duration, duration_ns
from .mapping import SharedMapping, is_possible
from .records import FenceLike
from .tiers.memoize import MISSING, Results, memoized, text_key, text_name
from .values import Codec

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

    from .system import MemorySystem
    from .tiers.hits import SearchHit

F = TypeVar("F", bound=Callable[..., Any])


class NamespaceView(SharedMapping):
    """A namespace as a ``MutableMapping[str, object]``, made by :meth:`ntmem.MemorySystem.namespace`.

    Keys are str; children namespaces are not part of it. Iteration is sorted and not a snapshot; ``len`` counts in
    O(n). Keep a namespace to one way of writing: what ``put`` or ``incr`` of the store wrote are bytes, not objects
    of this codec. **Thread safety**: as of the store; ``setdefault``, ``pop`` and ``popitem`` are atomic.

    Examples
    --------
    >>> import ntmem
    >>> from decimal import Decimal
    >>> with ntmem.open() as memory:
    ...     desk = memory.namespace("desk")
    ...     desk["limits"] = {"BTCUSDT": Decimal("2.5")}
    ...     desk["limits"], list(desk)
    ({'BTCUSDT': Decimal('2.5')}, ['limits'])
    """

    def __init__(self, memory: MemorySystem, labels: tuple[str, ...], codec: Codec) -> None:
        self._memory = memory
        self._codec = codec
        self.labels = labels
        """The namespace."""

    def put(
        self,
        key: str,
        value: Any,
        *,
        ttl: Duration | None = None,
        if_version: int | None = None,
        fence: FenceLike | None = None,
    ) -> int:
        """Set a key and return its version. Arguments as of :meth:`ntmem.MemorySystem.put`."""
        return self._memory.put(
            self.labels, key, self._codec.encode(value), ttl=ttl, if_version=if_version, fence=fence
        )

    def add(self, key: str, value: Any, *, ttl: Duration | None = None, fence: FenceLike | None = None) -> bool:
        """Set a key that does not exist; return whether it did not."""
        return self._memory.add(self.labels, key, self._codec.encode(value), ttl=ttl, fence=fence)

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
        """Keep the results of a function in this namespace, as ``@view.memoize`` or ``@view.memoize(ttl=5)``.

        As :meth:`ntmem.HotCache.memoize`, but results outlive the process and are shared with others: a key is the
        function's module and name and a digest of the arguments, which the msgpack codec must be able to store. Who
        changes what a function computes calls its ``cache_clear()``, or gives it another name. `single_flight` is about
        the threads of one process.
        """
        if ttl is not None:
            duration_ns(ttl, "ttl")
        results = Results(
            key=text_key,
            name=lambda function: text_name(function, name),
            read=lambda key: self.get(key, MISSING),
            write=lambda key, value: self.put(key, value, ttl=ttl),
            forget=lambda key: self._memory.delete(self.labels, key),
            forget_all=self._forget_all,
        )

        def decorate(function: Any) -> Any:
            return memoized(function, results, key=key, single_flight=single_flight)

        return decorate if function is None else decorate(function)

    def _forget_all(self, name: str) -> None:
        for key, _ in self._memory.scan(self.labels, prefix=f"{name}:"):
            self._memory.delete(self.labels, key)

    def scan(
        self, *, prefix: str = "", start: str | None = None, limit: int | None = None
    ) -> Iterator[tuple[str, Any]]:
        """Yield (key, value). Arguments as of :meth:`ntmem.MemorySystem.scan`."""
        for key, data in self._memory.scan(self.labels, prefix=prefix, start=start, limit=limit):
            yield key, self._codec.decode(data)

    def search(self, query: ArrayLike | str, k: int = 10, **how: Any) -> list[SearchHit]:
        """Return the vectors of this namespace that are nearest to a query; see :meth:`VectorStore.search`."""
        return self._memory.vectors.search(self.labels, query, k, **how)

    def __getitem__(self, key: str) -> Any:
        data = self._memory.get(self.labels, key) if is_possible(key) else None
        if data is None:
            raise KeyError(key)
        return self._codec.decode(data)

    def __setitem__(self, key: str, value: Any) -> None:
        self.put(key, value)

    def __delitem__(self, key: str) -> None:
        if not (is_possible(key) and self._memory.delete(self.labels, key)):
            raise KeyError(key)

    def __contains__(self, key: object) -> bool:
        return isinstance(key, str) and is_possible(key) and self._memory.exists(self.labels, key)

    def __iter__(self) -> Iterator[str]:
        return (key for key, _ in self._memory.scan(self.labels))

    def __len__(self) -> int:
        return sum(1 for _ in self._memory.scan(self.labels))

    def items(self) -> ItemsView[str, Any]:
        """Return (key, value) pairs, read page by page."""
        return _Items(self)

    def values(self) -> ValuesView[Any]:
        """Return the values in order of their keys, read page by page."""
        return _Values(self)

    def _add(self, key: str, value: Any) -> bool:
        return self.add(key, value)

    def _versioned(self, key: str) -> tuple[Any, int] | None:
        record = self._memory.get_record(self.labels, key) if is_possible(key) else None
        return None if record is None or record.value is None else (self._codec.decode(record.value), record.version)

    def _remove(self, key: str, version: int) -> None:
        self._memory.delete(self.labels, key, if_version=version)

    def clear(self) -> None:
        """Delete every key that is there now, all or nothing."""
        with self._memory.transaction() as transaction:
            for key in self:
                transaction.delete(self.labels, key)

    def __repr__(self) -> str:
        return f"<NamespaceView {'/'.join(self.labels)} of {self._memory!r}>"


class _Values(ValuesView[Any]):
    def __init__(self, view: NamespaceView) -> None:
        super().__init__(view)
        self._view = view

    def __iter__(self) -> Iterator[Any]:
        return (value for _, value in self._view.scan())

    def __contains__(self, value: object) -> bool:
        return any(value is other or value == other for other in self)


class _Items(ItemsView[str, Any]):
    def __init__(self, view: NamespaceView) -> None:
        super().__init__(view)
        self._view = view

    def __iter__(self) -> Iterator[tuple[str, Any]]:
        return self._view.scan()
