"""One namespace as a mapping of plain objects."""

from __future__ import annotations

from collections.abc import ItemsView, Iterator, MutableMapping
from typing import TYPE_CHECKING, Any

from .instants import Duration
from .records import Fence
from .values import Codec

if TYPE_CHECKING:
    from .system import MemorySystem


class NamespaceView(MutableMapping[str, Any]):
    """A namespace as a ``MutableMapping[str, object]``, made by :meth:`ntmem.MemorySystem.namespace`.

    Keys are str; children namespaces are not part of it. Iteration is sorted and not a snapshot; ``len`` counts in
    O(n). **Thread safety**: as of the store.

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
        fence: Fence | None = None,
    ) -> int:
        """Set a key and return its version. Arguments as of :meth:`ntmem.MemorySystem.put`."""
        return self._memory.put(
            self.labels, key, self._codec.encode(value), ttl=ttl, if_version=if_version, fence=fence
        )

    def add(self, key: str, value: Any, *, ttl: Duration | None = None, fence: Fence | None = None) -> bool:
        """Set a key that does not exist; return whether it did not."""
        return self._memory.add(self.labels, key, self._codec.encode(value), ttl=ttl, fence=fence)

    def scan(
        self, *, prefix: str = "", start: str | None = None, limit: int | None = None
    ) -> Iterator[tuple[str, Any]]:
        """Yield (key, value). Arguments as of :meth:`ntmem.MemorySystem.scan`."""
        for key, data in self._memory.scan(self.labels, prefix=prefix, start=start, limit=limit):
            yield key, self._codec.decode(data)

    def __getitem__(self, key: str) -> Any:
        data = self._memory.get(self.labels, key)
        if data is None:
            raise KeyError(key)
        return self._codec.decode(data)

    def __setitem__(self, key: str, value: Any) -> None:
        self.put(key, value)

    def __delitem__(self, key: str) -> None:
        if not self._memory.delete(self.labels, key):
            raise KeyError(key)

    def __contains__(self, key: object) -> bool:
        return isinstance(key, str) and key != "" and self._memory.exists(self.labels, key)

    def __iter__(self) -> Iterator[str]:
        return (key for key, _ in self._memory.scan(self.labels))

    def __len__(self) -> int:
        return sum(1 for _ in self._memory.scan(self.labels))

    def items(self) -> ItemsView[str, Any]:
        """Return (key, value) pairs, read page by page."""
        return _Items(self)

    def clear(self) -> None:
        """Delete every key that is there now, all or nothing."""
        with self._memory.transaction() as transaction:
            for key in self:
                transaction.delete(self.labels, key)

    def __repr__(self) -> str:
        return f"<NamespaceView {'/'.join(self.labels)} of {self._memory!r}>"


class _Items(ItemsView[str, Any]):
    def __init__(self, view: NamespaceView) -> None:
        super().__init__(view)
        self._view = view

    def __iter__(self) -> Iterator[tuple[str, Any]]:
        return self._view.scan()
