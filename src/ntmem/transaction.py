"""Transactions: changes are collected, then committed as one record group."""

from __future__ import annotations

from decimal import Decimal
from typing import TYPE_CHECKING, Any, Self

from ._core.fill import Fill, sign_of
from ._core.position import check_names
from .instants import Duration, Instant, duration_ns, instant_ns, require_int
from .namespace import encode_key, labels_of
from .records import Change, Fence, Kind
from .tiers.fills import Order
from .values import as_bytes

if TYPE_CHECKING:
    from .system import MemorySystem

MAX_VALUE_BYTES = 2**31 - 1


def make_change(
    kind: Kind,
    namespace: Any,
    key: str,
    value: Any = b"",
    *,
    delta: int = 0,
    ttl: Duration | None = None,
    if_version: int | None = None,
    ts_event: Instant | None = None,
    ts_known: Instant | None = None,
) -> Change:
    """Return a checked change; raise ``TypeError`` or ``ValueError`` that names the argument."""
    data = as_bytes(value)
    if len(data) > MAX_VALUE_BYTES:
        raise ValueError(f"a value has at most {MAX_VALUE_BYTES} bytes, had {len(data)}; split it")
    require_int(delta, "delta", -(2**63))
    if if_version is not None:
        require_int(if_version, "if_version (a version; 0: must not exist)", 0)
    return Change(
        kind,
        labels_of(namespace),
        encode_key(key),
        data,
        delta,
        None if ttl is None else duration_ns(ttl, "ttl"),
        if_version,
        None if ts_event is None else instant_ns(ts_event, "ts_event"),
        None if ts_known is None else instant_ns(ts_known, "ts_known"),
    )


class Transaction:
    """Changes that are committed together when the ``with`` block ends, and dropped when it raises.

    The changes are applied in order, and each sees those before it; reads of the store in the block do not. An
    ``if_version`` that does not hold raises :class:`ntmem.VersionConflict` at the end of the block, and nothing of
    the transaction is kept. Use it from one thread.
    """

    def __init__(self, memory: MemorySystem, fence: Fence | None = None) -> None:
        self._memory = memory
        self._fence = fence
        self._changes: list[Change] | None = None
        self._ended = False
        self.version: int | None = None
        """The version of the last change, once committed; None if there was no effect."""
        self._orders: list[Order] = []
        self.fills: list[Fill] = []
        """Of :meth:`apply_fill`, in order, once committed."""

    def put(
        self,
        namespace: str | tuple[str, ...],
        key: str,
        value: bytes,
        *,
        ttl: Duration | None = None,
        if_version: int | None = None,
        ts_event: Instant | None = None,
        ts_known: Instant | None = None,
    ) -> None:
        """Set the value of a key. Arguments as of :meth:`ntmem.MemorySystem.put`."""
        self.collect(
            make_change(
                "put", namespace, key, value, ttl=ttl, if_version=if_version, ts_event=ts_event, ts_known=ts_known
            )
        )

    def add(self, namespace: str | tuple[str, ...], key: str, value: bytes, *, ttl: Duration | None = None) -> None:
        """Set the value of a key unless it exists."""
        self.collect(make_change("add", namespace, key, value, ttl=ttl))

    def incr(self, namespace: str | tuple[str, ...], key: str, delta: int = 1) -> None:
        """Add `delta` to a number kept as decimal digits."""
        self.collect(make_change("incr", namespace, key, delta=delta))

    def delete(self, namespace: str | tuple[str, ...], key: str, *, if_version: int | None = None) -> None:
        """Delete a key if it exists."""
        self.collect(make_change("delete", namespace, key, if_version=if_version))

    def apply_fill(
        self,
        symbol: str,
        quantity: int | float | Decimal | str,
        price: int | float | Decimal | str,
        *,
        side: str | None = None,
        trade_id: str,
        ts_event: Instant | None = None,
        fee: int | float | Decimal | str = 0,
        account: str = "",
        strategy: str = "",
        position_id: str = "",
    ) -> None:
        """Book a fill with the rest, once for each `trade_id`; :attr:`fills` has what came of it.

        Arguments as of :meth:`ntmem.tiers.positions.Positions.apply_fill`, and so are the errors, which the end of the
        block raises. A fill that was booked before changes nothing, and the rest of the transaction is done.
        """
        check_names(symbol, account, strategy, position_id)
        happened = None if ts_event is None else instant_ns(ts_event, "ts_event")
        self._check_open()
        self._orders.append(
            Order((symbol, account, strategy, position_id), trade_id, quantity, price, fee, sign_of(side), happened)
        )

    def collect(self, change: Change) -> None:
        """Add a change that was checked. Called by the parts of the store."""
        self._check_open().append(change)

    def _check_open(self) -> list[Change]:
        if self._changes is None:
            state = "has ended; begin another" if self._ended else "is used by 'with memory.transaction() as t:'"
            raise RuntimeError(f"this transaction {state}")
        return self._changes

    def __enter__(self) -> Self:
        if self._changes is not None or self._ended:
            raise RuntimeError("a transaction is entered once; begin another")
        self._changes = []
        return self

    def __exit__(self, kind: type[BaseException] | None, *exc: object) -> None:
        changes, self._changes, self._ended = self._changes, None, True
        if kind is not None or (not changes and not self._orders):
            return
        if self._orders:
            outcomes, self.fills = self._memory.commit_fills(changes or [], self._orders, self._fence)
        else:
            outcomes = self._memory.commit(changes or [], self._fence)
        versions = [outcome.version for outcome in outcomes] + [fill.version for fill in self.fills]
        self.version = max(versions, default=0) or None
