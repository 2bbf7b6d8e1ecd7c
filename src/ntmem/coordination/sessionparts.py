"""What a session gives out: mappings, subscriptions, positions and transactions, all written under its fence."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Self

from .._core.ring import Message
from ..errors import SerializationError, VersionConflict
from ..mapping import SharedMapping, is_possible
from ..namespace import MAX_KEY_BYTES, encode_key
from ..records import Change
from ..tiers.guards import CURSORS, SESSION_DATA
from ..tiers.positionview import PositionView
from .sessionkeys import KEYS, cursor_of, stem_of
from .stream import DurableMessages, Stream

if TYPE_CHECKING:
    from ..tiers.positions import Positions
    from .sessions import Session


class SessionMapping(SharedMapping):
    """Keys of a session: its own, or those of a namespace of it. Made by :class:`Session`.

    Iteration is sorted and not a snapshot; ``len`` counts in O(n). ``setdefault``, ``pop`` and ``popitem`` are atomic.
    """

    def __init__(self, session: Session, labels: tuple[str, ...]) -> None:
        self._of = None if session is self else session  # itself it would keep alive, and with it its lock
        self._stem = stem_of(session.name, KEYS) + "".join(label + "\0" for label in labels).encode() + b"\0"

    @property
    def _session(self) -> Session:
        assert self._of is not None
        return self._of

    def _raw(self, key: str) -> bytes:
        raw = self._stem + encode_key(key)
        if len(raw) > MAX_KEY_BYTES:
            raise ValueError(f"a key of a session has at most {MAX_KEY_BYTES - len(self._stem)} bytes, had {len(key)}")
        return raw

    def _put(self, kind: Any, key: str, value: Any, if_version: int | None = None) -> int:
        change = Change(kind, SESSION_DATA, self._raw(key), self._session.codec.encode(value), if_version=if_version)
        return self._session.write([change])[0]

    def _delete(self, key: str, if_version: int | None = None) -> bool:
        change = Change("delete", SESSION_DATA, self._raw(key), if_version=if_version)
        return self._session.write([change])[0] > 0

    def _add(self, key: str, value: Any) -> bool:
        return bool(self._put("add", key, value))

    def _remove(self, key: str, version: int) -> None:
        self._delete(key, version)

    def _versioned(self, key: str) -> tuple[Any, int] | None:
        record = None
        if is_possible(key):
            record = self._session.engine().get_record(SESSION_DATA, self._raw(key), None)
        return None if record is None or record.value is None else (self._decoded(record.value), record.version)

    def _decoded(self, data: bytes) -> Any:
        return self._session.codec.decode(data)

    def __getitem__(self, key: str) -> Any:
        found = self._versioned(key)
        if found is None:
            raise KeyError(key)
        return found[0]

    def __setitem__(self, key: str, value: Any) -> None:
        self._put("put", key, value)

    def __delitem__(self, key: str) -> None:
        if not (is_possible(key) and self._delete(key)):
            raise KeyError(key)

    def __contains__(self, key: object) -> bool:
        if not isinstance(key, str) or not is_possible(key):
            return False
        return self._session.engine().get(SESSION_DATA, self._raw(key)) is not None

    def _pairs(self) -> Iterator[tuple[str, bytes]]:
        for key, value in self._session.engine().scan(SESSION_DATA, self._stem, self._stem, None):
            yield key.encode()[len(self._stem) :].decode(), value

    def __iter__(self) -> Iterator[str]:
        return (key for key, _ in self._pairs())

    def __len__(self) -> int:
        return sum(1 for _ in self._pairs())

    def incr(self, key: str, delta: int = 1) -> int:
        """Add `delta` to the int under a key (missing: 0) and return it.

        Raises
        ------
        SerializationError
            What is there is no int.
        """
        if isinstance(delta, bool) or not isinstance(delta, int):
            raise TypeError(f"delta must be an int, was {type(delta).__name__}")
        while True:
            number, version = self._versioned(key) or (0, 0)
            if isinstance(number, bool) or not isinstance(number, int):
                raise SerializationError(f"{key!r} holds {type(number).__name__}, not an int; incr cannot add to it")
            with suppress(VersionConflict):  # another thread was faster
                self._put("put", key, number + delta, version)
                return number + delta

    def clear(self) -> None:
        """Delete every key that is there now, all or nothing."""
        self._session.write([Change("delete", SESSION_DATA, self._raw(key)) for key in self])

    def __repr__(self) -> str:
        return f"<SessionMapping of {self._session!r}>"


class SessionMessages(DurableMessages):
    """A durable subscription whose cursor is a session's: :meth:`ack` moves it under the session's fence."""

    def __init__(self, session: Session, pattern: bytes, cursor: str, since: int | None) -> None:
        stream = _FencedStream(session)
        super().__init__(session.engine, stream, pattern, name=cursor_of(session.name, cursor), since=since)
        self.cursor = cursor
        """What the session knows it by."""

    @property
    def name(self) -> str:
        """What the session knows it by."""
        return self.cursor

    def due(self, message: Message | int | None) -> Change | None:
        """Return the change that acknowledges a message; None: it is acknowledged. Called by transactions."""
        number = self._seen if message is None else message if isinstance(message, int) else message.seq
        if number > self._seen:
            raise ValueError(f"message {number} was not received by this subscription yet, {self._seen} was")
        assert self._name is not None
        key = self._name.encode()
        record = self._engine().get_record(CURSORS, key, None)
        noted, version = (0, 0) if record is None else (int(record.value or 0), record.version)
        return Change("put", CURSORS, key, b"%d" % number, if_version=version, own=True) if number > noted else None


class _FencedStream(Stream):
    """The stream of a session's subscriptions."""

    def __init__(self, session: Session) -> None:
        super().__init__(session.engine, session.numbers)
        self._session = session

    def _write(self, key: bytes, number: int, version: int, changes: list[Change]) -> bool:
        try:
            self._session.write([Change("put", CURSORS, key, b"%d" % number, if_version=version), *changes])
        except VersionConflict:
            return False
        return True


class SessionPositions(PositionView):
    """The position book, bound to a session's account and strategy; what is booked is booked under its fence."""

    def __init__(self, session: Session, book: Positions) -> None:
        super().__init__(book, session.account, session.strategy)
        self._session = session

    def apply_fill(self, symbol: str, quantity: Any, price: Any, **how: Any) -> Any:
        """Do :meth:`Positions.apply_fill`."""
        return super().apply_fill(symbol, quantity, price, **{"fence": self._session.held_fence(), **how})

    def apply_cash(self, symbol: str, amount: Any, **how: Any) -> Any:
        """Do :meth:`Positions.apply_cash`."""
        return super().apply_cash(symbol, amount, **{"fence": self._session.held_fence(), **how})

    def reserve(self, symbol: str, quantity: Any, **how: Any) -> Any:
        """Do :meth:`Positions.reserve`."""
        return super().reserve(symbol, quantity, **{"fence": self._session.held_fence(), **how})


class SessionTransaction:
    """Changes of a session and of the store that are committed together, under the session's fence. A context manager.

    ``t[key] = value`` and ``del t[key]`` are of the session, :meth:`ack` moves a cursor of it; ``t.put``, ``t.add``,
    ``t.incr``, ``t.delete`` and ``t.fills`` are those of :class:`ntmem.Transaction`.
    """

    def __init__(self, session: Session, transaction: Any) -> None:
        self._session = session
        self._transaction = transaction
        self._acknowledged: dict[bytes, Change] = {}  # by cursor: the last one

    def __enter__(self) -> Self:
        self._transaction.__enter__()
        return self

    def __exit__(self, kind: type[BaseException] | None, *exc: object) -> None:
        for change in self._acknowledged.values():
            self._transaction.collect(change)
        self._transaction.__exit__(kind, *exc)

    def __setitem__(self, key: str, value: Any) -> None:
        data = self._session.codec.encode(value)
        self._transaction.collect(Change("put", SESSION_DATA, self._session._raw(key), data, own=True))

    def __delitem__(self, key: str) -> None:
        self._transaction.collect(Change("delete", SESSION_DATA, self._session._raw(key), own=True))

    def ack(self, messages: SessionMessages, message: Message | int | None = None) -> None:
        """Acknowledge a message, by default the last one received: what it led to is kept with it, or neither is."""
        if not isinstance(messages, SessionMessages):
            raise TypeError(f"ack takes what session.subscribe() returned, was {type(messages).__name__}")
        change = messages.due(message)
        if change is not None:
            before = self._acknowledged.setdefault(change.key, change)
            self._acknowledged[change.key] = max(before, change, key=lambda each: int(each.value))

    def apply_fill(self, symbol: str, quantity: Any, price: Any, **how: Any) -> None:
        """Do :meth:`ntmem.Transaction.apply_fill` under the session's account and strategy."""
        bound = {"account": self._session.account, "strategy": self._session.strategy}
        self._transaction.apply_fill(symbol, quantity, price, **bound, **how)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transaction, name)
