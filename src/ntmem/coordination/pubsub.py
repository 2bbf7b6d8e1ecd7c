"""Messages between all threads and processes that have a store open: topics, publishers, subscriptions.

``docs/design/bus.md`` is the specification. What may be missed goes through the ring in shared memory; what may not
(durable topics) is in :mod:`.stream`.

**Invariants**

- A publisher waits for no subscriber, and a subscriber that is stuck delays nobody.
- What a subscription did not see is counted: received and lagged are what was published to all topics it follows.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Literal

from .._core.ring import Message, Pattern, PublisherStalled, Ring, RingDamaged, RingReader
from ..errors import CoordinationError, CorruptionError, DiskFull, Lagged, ReadOnlyError, StoreClosed
from ..instants import require_int, seconds_of
from ..records import Fence
from ..subscription import SLICE, Subscription, deadline_of
from ..tiers.engine import LmdbEngine
from ..tiers.log import LogEngine
from ..tiers.reader import QuietEngine
from ..tiers.region import message_ring

if TYPE_CHECKING:
    import asyncio

Overflow = Literal["drop_oldest", "error"]
Callback = Callable[[Message], Any]

_BATCH = 256
"""Messages that are taken from the ring at once; what was taken is not overwritten any more."""
_EVERYTHING = Pattern(b">")
_IDLE = 1.0  # seconds after which the thread that waits for nobody ends
_LOOK = 10.0  # seconds after which who awaits looks by itself
_PAUSE = 0.001  # after messages that nobody awaits: beside a flood of them an event loop has to get the GIL
_TROUBLE = RingDamaged, PublisherStalled, OSError, RuntimeError  # the last in a forked child


class Publisher:
    """Where a handle of a store publishes."""

    def __init__(self, engine: LmdbEngine) -> None:
        if engine.read_only:
            raise ReadOnlyError("this store was opened with read_only=True; open it for writing to publish")
        engine.store.refuse()
        self.engine = engine
        self.ring = ring_of(engine)

    def check(self, topic: bytes, payload: bytes) -> None:
        """Raise ValueError if a message is too large for the ring."""
        size = len(topic) + len(self.engine.writer) + len(payload)
        if size > self.ring.limit:
            raise ValueError(
                f"a message has at most {self.ring.limit} bytes with its topic and sender, a quarter of the bus, had "
                f"{size}; put it into the store and publish its key, or open the store with larger bus_bytes"
            )

    def admit(self, fence: Fence) -> None:
        """Raise :class:`StaleFence` if a lease is over."""
        if isinstance(self.engine, LogEngine):
            self.engine.admit(fence)

    def publish(self, topic: bytes, payload: Any, flags: int = 0) -> int:
        """Publish a message; return its sequence."""
        try:
            return self.ring.publish(topic, payload, self.engine.writer, flags)
        except _TROUBLE as error:
            raise self._translated(error) from error

    def publish_many(self, topic: bytes, payloads: Iterable[Any]) -> int:
        """Publish messages of a topic; return the sequence of the last."""
        try:
            return self.ring.publish_many(topic, payloads, self.engine.writer)
        except _TROUBLE as error:
            raise self._translated(error) from error

    def _translated(self, error: Exception) -> Exception:
        self.engine.store.refuse()
        if isinstance(error, PublisherStalled):
            return CoordinationError(str(error))
        if isinstance(error, OSError):
            return DiskFull(str(error))
        return CorruptionError(str(error)) if isinstance(error, RingDamaged) else error


def ring_of(engine: LmdbEngine) -> Ring:
    """Return the ring of messages of a store, or raise that it has none."""
    if isinstance(engine, LogEngine):
        return message_ring(engine.log)
    raise CoordinationError(
        f"messages are in shared memory, which this store does not have (engine={engine.name!r}); open it with "
        "engine='shared'"
    )


@contextmanager
def damage_told() -> Iterator[None]:
    """Raise :class:`CorruptionError` where the ring is damaged."""
    try:
        yield
    except RingDamaged as error:
        raise CorruptionError(str(error)) from error


class Messages(Subscription[Message]):
    """The messages of topics, made by :meth:`ntmem.MemorySystem.subscribe`.

    Complexity: O(1) a message, and some 10 ns for each of other topics. Waiting costs nothing while nobody publishes.
    """

    def __init__(
        self,
        engine: Callable[[], LmdbEngine],
        pattern: bytes,
        *,
        since: int | None = None,
        overflow: Overflow = "drop_oldest",
        capacity: int | None = None,
        waiter: Callable[[], Waiter],
    ) -> None:
        super().__init__()
        if overflow not in ("drop_oldest", "error"):
            raise ValueError(f"overflow must be 'drop_oldest' or 'error', was {overflow!r}")
        if capacity is not None:
            require_int(capacity, "capacity", 1)
        if since is not None:
            require_int(since, "since", 0, 2**64 - 1)
        self._engine = engine
        self._pattern = Pattern(pattern)
        self._raises = overflow == "error"
        self._capacity = capacity
        self._batch = _BATCH if capacity is None else 1  # what was taken is not dropped any more
        self._since = since
        self._came_first = False
        self._seen = 0
        self._lagged = 0
        self._told: Message | None = None  # of what it lagged behind was raised
        self._waiter = waiter
        self._reader: RingReader | None = None
        self._came_first = self._attached() is None

    def _open(self) -> LmdbEngine:
        if self._closed:
            raise StoreClosed("this subscription was closed; call subscribe() again, with since=resume_from")
        engine = self._engine()
        engine.store.refuse()
        return engine

    def _attached(self) -> RingReader | None:
        """Return what reads the ring; None: nobody writes to the store, so there is none."""
        engine = self._open()
        if self._reader is None and not isinstance(engine, QuietEngine):
            ring = ring_of(engine)
            since = self._since
            if since is None and self._came_first:
                since = ring.first - 1  # the ring is younger than this subscription
            with damage_told():
                self._reader = RingReader(ring, self._pattern, since, self._capacity)
        return self._reader

    def __repr__(self) -> str:
        state = " closed" if self._closed else f" lagged={self.lagged}" if self.lagged else ""
        return f"<Subscription {self._pattern.encoded.decode().replace(chr(0), '/')}{state}>"

    @property
    def lagged(self) -> int:
        """How many messages, of whatever topic, were overwritten before it looked at them, or dropped by `capacity`."""
        reader = self._reader
        return self._lagged if reader is None else reader.lagged

    def close(self) -> None:
        super().close()
        self._lagged, self._reader = self.lagged, None  # which would keep the shared memory mapped

    @property
    def resume_from(self) -> int:
        """The sequence of the last message received, to pass as `since`; 0: none was."""
        return self._seen

    def _look(self, end: float) -> None:
        reader = self._attached()
        if reader is None:
            time.sleep(max(0.0, min(end - time.monotonic(), SLICE)))
            return
        try:
            found = reader.read(self._batch)
            if not found and reader.wait(max(0.0, min(end - time.monotonic(), SLICE))):
                found = reader.read(self._batch)
        except RingDamaged as error:
            raise CorruptionError(str(error)) from error
        self._ready.extend(found)

    def _pop(self, *, first: bool = True) -> Message | None:
        try:
            message = self._ready.popleft()
        except IndexError:  # another thread was faster
            return None
        if self._raises and message.lagged and message is not self._told:
            self._ready.appendleft(message)
            if not first:
                return None
            self._told = message
            raise Lagged(
                f"{message.lagged} messages were overwritten before this subscription looked at them; it goes on with "
                "the next one. Receive faster, or open the store with larger bus_bytes"
            )
        self._seen = message.seq
        return message

    # -- event loops

    def is_ready(self) -> bool:
        """Whether there is something to receive, or to be raised, which it raises. Never waits."""
        if self._ready:
            return True
        if not self._lock.acquire(blocking=False):  # somebody receives: it is not this one's turn
            return False
        try:
            reader = self._attached()
            return bool(self._ready) or (reader is not None and reader.ready())
        finally:
            self._lock.release()

    async def arecv(self, timeout: float | timedelta | None = None) -> Message | None:
        """Do what :meth:`recv` does without holding up the event loop: one thread waits for all of a store's handle.

        When it is cancelled nothing is lost.
        """
        import asyncio  # who awaits has imported it already

        end = deadline_of(seconds_of(timeout))
        loop = asyncio.get_running_loop()
        while True:
            if not self._ready or self._closed:
                self._fill(0.0)
                if self._ready:
                    await asyncio.sleep(0)  # who is flooded lets others run once a batch
            found = self._pop()
            left = end - time.monotonic()
            if found is not None or left <= 0:
                return found
            news = asyncio.Event()
            with self._waiter().telling(self, loop, news):
                if not self.is_ready():
                    with suppress(TimeoutError):  # wait_for() would swallow a cancellation beside news
                        async with asyncio.timeout(min(left, _LOOK)):
                            await news.wait()


class Waiter:
    """A thread that waits for the messages of a store and wakes event loops; there while one of them waits."""

    def __init__(self, engine: LmdbEngine) -> None:
        self.engine = engine
        self._lock = threading.Condition()
        self._waiting: dict[object, tuple[Messages, asyncio.AbstractEventLoop, asyncio.Event]] = {}
        self._thread: threading.Thread | None = None

    @contextmanager
    def telling(self, subscription: Messages, loop: asyncio.AbstractEventLoop, news: asyncio.Event) -> Iterator[None]:
        """Set `news`, an event of `loop`, when the subscription has something, while the block lasts."""
        key = object()
        with self._lock:
            self._waiting[key] = subscription, loop, news
            self._lock.notify()
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="ntmem-bus", daemon=True)
                self._thread.start()
        try:
            yield
        finally:
            with self._lock:
                self._waiting.pop(key, None)

    def _run(self) -> None:
        while self._is_needed():
            try:
                self.engine.store.refuse()
                engine = self.engine.current()
                # made anew each time: what came before it the subscriptions can see
                reader = RingReader(ring_of(engine), _EVERYTHING) if isinstance(engine, LogEngine) else None
                self._wake()
                if reader is None:
                    time.sleep(SLICE)
                elif reader.wait(SLICE) and not self._wake():
                    time.sleep(_PAUSE)
            except Exception:  # it was closed, or is damaged: who waits looks, and is told
                self._wake(always=True)
                time.sleep(SLICE)

    def _is_needed(self) -> bool:
        with self._lock:
            if not self._lock.wait_for(lambda: self._waiting, _IDLE):
                self._thread = None
            return self._thread is not None

    def _wake(self, *, always: bool = False) -> bool:
        """Wake those who have something; return whether there were any."""
        with self._lock:
            waiting = list(self._waiting.items())
        woken = False
        for key, (subscription, loop, news) in waiting:
            try:
                is_ready = always or subscription.is_ready()
            except Exception:  # it is told the same when it looks
                is_ready = True
            if is_ready:
                woken = True
                with self._lock:
                    self._waiting.pop(key, None)
                with suppress(RuntimeError):  # its loop was closed
                    loop.call_soon_threadsafe(news.set)
        return woken


def check_callback(callback: object) -> None:
    """Raise TypeError unless it may be called."""
    if callback is not None and not callable(callback):
        raise TypeError(f"callback must be callable, was {type(callback).__name__}")


def call_back(receive: Callable[[], Any], callback: Callable[[Any], Any]) -> threading.Thread:
    """Call `callback` with each message, in a thread of its own, until the subscription or its store is closed.

    What it raises is reported (:func:`threading.excepthook`), and the next message is given to it. The thread keeps the
    subscription, which nobody else needs to do.
    """

    def run() -> None:
        while True:
            try:
                message = receive()
            except StoreClosed:
                return
            except Exception as error:
                _report(error)
                if isinstance(error, CorruptionError):  # it does not go away
                    return
                continue
            try:
                callback(message)
            except Exception as error:
                _report(error)

    thread = threading.Thread(target=run, name="ntmem-callback", daemon=True)
    thread.start()
    return thread


def _report(error: Exception) -> None:
    threading.excepthook(
        threading.ExceptHookArgs((type(error), error, error.__traceback__, threading.current_thread()))
    )
