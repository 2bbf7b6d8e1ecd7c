"""The bus of a store: publishing and subscribing, through the ring or the durable stream."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from contextlib import suppress
from datetime import timedelta
from typing import Any, NamedTuple, Self

from .._core.ring import Message
from ..errors import NtmemError, ReadOnlyError
from ..instants import NS, Duration, duration_ns, require_bool
from ..namespace import encode_key
from ..records import FenceLike, fence_of
from ..tiers.bounds import Bound, set_bound
from ..tiers.engine import LmdbEngine
from ..tiers.upkeep import TOPICS
from ..twins import twin
from ..values import Codec, as_bytes
from .pubsub import Callback, Messages, Overflow, Publisher, Waiter, call_back, check_callback
from .stream import DURABLE, DurableMessages, Numbers, Stream
from .topics import pattern_of, topic_of

Topic = str | tuple[str, ...]


class BusState:
    """What a handle of a store keeps of its bus."""

    def __init__(self) -> None:
        self.numbers = Numbers()
        self.publisher: Publisher | None = None
        self.waiter: Waiter | None = None

    def forget(self) -> None:
        """Let go of the store, which was closed: its shared memory would stay mapped."""
        self.publisher = self.waiter = None


class SharedBus:
    """Messages between all threads and processes that have a store open. ``memory.bus``.

    Notes
    -----
    **Thread safety**: any thread, of any process. **Complexity**: a message is published in well under a microsecond
    and O(bytes); durable ones are written to the store.
    """

    def __init__(self, engine: Callable[[], LmdbEngine], state: BusState, *, waits_for_disk: bool) -> None:
        self._engine = engine
        self._state = state
        self._waits = waits_for_disk

    def __reduce__(self) -> tuple[Any, ...]:
        raise TypeError("a bus cannot be pickled; pass the store, whose bus it is")

    def publish(self, topic: Topic, payload: Any, *, durable: bool = False, fence: FenceLike | None = None) -> int:
        """Publish a message; see :meth:`ntmem.MemorySystem.publish`."""
        name, publisher = topic_of(topic), self._publisher()
        lease = None if fence is None else fence_of(fence)
        require_bool(durable, "durable")
        if not durable:
            if lease is not None:
                publisher.admit(lease)
            return publisher.publish(name, payload)
        content = as_bytes(payload)
        publisher.check(name, content)
        number = self._stream().publish(name, content, fence=lease, durable=self._waits)
        with suppress(NtmemError):  # it is published: who reads the stream finds it without being told
            publisher.publish(name, content, DURABLE)
        return number

    def publish_many(self, topic: Topic, payloads: Iterable[Any]) -> int:
        """Publish messages of a topic, in order; see :meth:`ntmem.MemorySystem.publish_many`."""
        if isinstance(payloads, bytes | bytearray | memoryview | str):
            raise TypeError("payloads must be an iterable of bytes-like objects, was one; use publish(), or [payload]")
        return self._publisher().publish_many(topic_of(topic), payloads)

    def subscribe(
        self,
        pattern: Topic,
        *,
        since: int | None = None,
        overflow: Overflow = "drop_oldest",
        capacity: int | None = None,
        callback: Callback | None = None,
        durable: bool | str = False,
    ) -> Messages | DurableMessages:
        """Return a subscription; see :meth:`ntmem.MemorySystem.subscribe`."""
        name = pattern_of(pattern)
        if not isinstance(durable, bool | str):
            raise TypeError(f"durable must be a bool or the name of a subscription, was {type(durable).__name__}")
        check_callback(callback)
        made: Messages | DurableMessages
        if durable is False:
            made = Messages(self._engine, name, since=since, overflow=overflow, capacity=capacity, waiter=self._waiter)
        else:
            if capacity is not None or overflow != "drop_oldest":
                raise ValueError("of durable messages nothing is dropped: capacity and overflow are for others")
            cursor = durable if isinstance(durable, str) else None
            if cursor is not None and b"\0" in encode_key(cursor):
                raise ValueError(f"the name of a subscription holds no NUL, was {cursor!r}")
            made = DurableMessages(self._engine, self._stream(), name, name=cursor, since=since)
        if callback is not None:
            call_back(made.recv, callback)
        return made

    def trim(self, older_than: Duration) -> int:
        """Delete durable messages that were published longer ago than `older_than` seconds; return how many.

        Whether somebody has not acknowledged them yet is not looked at: such a subscription counts them as lag.
        """
        if self._engine().read_only:
            raise ReadOnlyError("this store was opened with read_only=True; open it for writing to trim")
        return self._stream().trim(older_than)

    atrim = twin(trim)

    def retain(self, max_age: Duration | None) -> None:
        """Let upkeep trim durable messages older than `max_age` seconds that every subscription has acknowledged.

        A subscription with a name (and one of a session) counts from its first acknowledgement on. None: trim nothing.
        """
        engine = self._engine()
        if engine.read_only:
            raise ReadOnlyError("this store was opened with read_only=True; open it for writing to retain")
        set_bound(engine, TOPICS, Bound(None if max_age is None else duration_ns(max_age, "max_age")))

    def trim_acknowledged(self, age_ns: int) -> int:
        """Delete durable messages older than so many ns that nobody needs. Called by upkeep."""
        stream = self._stream()
        return stream.trim(age_ns / NS, stream.needed())

    def _stream(self) -> Stream:
        return Stream(self._engine, self._state.numbers)

    def _publisher(self) -> Publisher:
        engine, known = self._engine(), self._state.publisher
        if known is None or known.engine is not engine:
            known = self._state.publisher = Publisher(engine)
        return known

    def _waiter(self) -> Waiter:
        engine, known = self._engine(), self._state.waiter
        if known is None or known.engine.current() is not engine:
            known = self._state.waiter = Waiter(engine)
        return known


class Received(NamedTuple):
    """A message of a :class:`TypedTopic`, decoded."""

    value: Any
    message: Message


class TypedTopic:
    """A topic whose payloads are plain objects. Made by :meth:`ntmem.MemorySystem.topic`.

    Examples
    --------
    >>> with ntmem.open() as memory:
    ...     orders = memory.topic("orders/BTCUSDT")
    ...     with orders.subscribe() as received:
    ...         _ = orders.publish({"side": "buy", "quantity": 2})
    ...         received.recv(timeout=1).value
    {'side': 'buy', 'quantity': 2}
    """

    def __init__(self, bus: SharedBus, name: Topic, codec: Codec) -> None:
        pattern_of(name)
        self._bus = bus
        self.name = name
        self._codec = codec

    def publish(self, value: Any, *, durable: bool = False, fence: FenceLike | None = None) -> int:
        """Publish an object; return its sequence."""
        return self._bus.publish(self.name, self._codec.encode(value), durable=durable, fence=fence)

    def publish_many(self, values: Iterable[Any]) -> int:
        """Publish objects in order; return the sequence of the last."""
        return self._bus.publish_many(self.name, [self._codec.encode(value) for value in values])

    def subscribe(self, *, callback: Callable[[Received], Any] | None = None, **how: Any) -> Decoded:
        """Return a subscription to the objects; arguments as of :meth:`ntmem.MemorySystem.subscribe`."""
        check_callback(callback)
        made = Decoded(self._bus.subscribe(self.name, **how), self._codec)
        if callback is not None:
            call_back(made.recv, callback)
        return made

    def __repr__(self) -> str:
        return f"<TypedTopic {self.name if isinstance(self.name, str) else '/'.join(self.name)}>"


class Decoded:
    """A subscription whose messages come as :class:`Received`; all else is the subscription's own."""

    def __init__(self, messages: Messages | DurableMessages, codec: Codec) -> None:
        self._messages = messages
        self._codec = codec

    def __getattr__(self, name: str) -> Any:
        return getattr(self._messages, name)

    def _decoded(self, message: Message | None) -> Received | None:
        return None if message is None else Received(self._codec.decode(message.payload), message)

    def recv(self, timeout: float | timedelta | None = None) -> Received | None:
        """Do what :meth:`ntmem.Subscription.recv` does."""
        return self._decoded(self._messages.recv(timeout))

    def recv_many(self, limit: int = 1000, timeout: float | timedelta | None = None) -> list[Received]:
        """Do what :meth:`ntmem.Subscription.recv_many` does."""
        found = self._messages.recv_many(limit, timeout)
        return [Received(self._codec.decode(message.payload), message) for message in found]

    async def arecv(self, timeout: float | timedelta | None = None) -> Received | None:
        """Do what :meth:`ntmem.Subscription.arecv` does."""
        return self._decoded(await self._messages.arecv(timeout))

    def __iter__(self) -> Iterator[Received]:
        return (Received(self._codec.decode(message.payload), message) for message in self._messages)

    async def __aiter__(self) -> AsyncIterator[Received]:
        async for message in self._messages:
            yield Received(self._codec.decode(message.payload), message)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self._messages.close()
