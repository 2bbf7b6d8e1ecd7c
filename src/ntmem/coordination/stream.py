"""Durable messages: in the log and on disk, numbered without gaps, so that a subscriber misses none.

One stream for all topics of a store. Message n is a record of its own, written with the note which is the last, on the
condition that the note is the one it was counted from. So numbers have no gaps and are given once, also where
messages were trimmed, and who follows looks for the next number alone.

**Invariants**

- What was acknowledged to a publisher is delivered to every subscription that has not acknowledged it, whoever dies.
- Subscriptions receive in the order of the numbers.
- Nothing is dropped but by :meth:`Stream.trim`, and that is counted as lag.
"""

from __future__ import annotations

import struct
import threading
import time
from collections.abc import Callable

from .._core.ring import Message, Pattern, RingReader
from ..errors import StorageError, StoreClosed, VersionConflict
from ..instants import Duration, duration_ns, require_int
from ..records import Change, Fence
from ..subscription import SLICE, Subscription
from ..tiers.engine import LmdbEngine
from ..tiers.guards import CURSORS, MESSAGES
from ..tiers.log import LogEngine
from .pubsub import damage_told, ring_of
from .topics import levels_of

DURABLE = 1
"""Flag of a message in the ring that is in the stream as well."""
_HEAD = struct.Struct("<qH")  # wall clock, bytes of the topic
_LAST, _FIRST = b"\0last", b"\0first"
_ATTEMPTS = 10_000
_BATCH = 256
_TRIMMED = 1000


def _key(number: int) -> bytes:
    return b"%020d" % number


class Numbers:
    """What a handle of a store knows of the numbers of its stream."""

    def __init__(self) -> None:
        self.lock = threading.RLock()  # of one publisher of this handle; those of others are met with conditions
        self.last: tuple[int, int] | None = None  # number of the newest message, and version of the note of it


class Stream:
    """The durable messages of a store."""

    def __init__(self, engine: Callable[[], LmdbEngine], numbers: Numbers) -> None:
        self._engine = engine
        self._numbers = numbers

    # -- writing

    def publish(self, topic: bytes, payload: bytes, *, fence: Fence | None, durable: bool) -> int:
        """Append a message; return its number."""
        engine = self._engine()
        body = _HEAD.pack(time.time_ns(), len(topic)) + topic + payload
        number, version = self._append(engine, body, fence)
        if durable:  # not under the lock: many wait for one disk
            engine.wait_durable(version, None)
        return number

    def _append(self, engine: LmdbEngine, body: bytes, fence: Fence | None) -> tuple[int, int]:
        with self._numbers.lock:
            for _ in range(_ATTEMPTS):
                last, version = self._numbers.last or self._note(_LAST)
                changes = [
                    Change("put", MESSAGES, _key(last + 1), body, own=True),
                    Change("put", CURSORS, _LAST, b"%d" % (last + 1), if_version=version, own=True),
                ]
                try:
                    outcomes = engine.commit(changes, False, fence)
                except VersionConflict:
                    self._numbers.last = None
                    continue
                written = self._numbers.last = last + 1, outcomes[-1].version
                return written
        raise StorageError(f"others published {_ATTEMPTS} times while this message was; try again")

    def trim(self, older_than: Duration, upto: int | None = None) -> int:
        """Delete messages that were published longer ago than `older_than` seconds; return how many.

        None behind the number `upto`.
        """
        until = time.time_ns() - duration_ns(older_than, "older_than")
        trimmed, most = 0, self.last if upto is None else upto
        while True:
            noted, version = self._note(_FIRST)
            begin = end = noted or 1
            while (
                end < begin + _TRIMMED
                and end <= most
                and (message := self.read(end)) is not None
                and message.ts < until
            ):
                end += 1
            if end == begin:
                return trimmed
            deleted = [Change("delete", MESSAGES, _key(number), own=True) for number in range(begin, end)]
            trimmed += len(deleted) * self._write(_FIRST, end, version, deleted)

    def acknowledge(self, name: str, number: int) -> None:
        """Note that a subscription needs nothing up to `number` any more."""
        key = name.encode()
        while True:
            noted, version = self._note(key)
            if noted >= number or self._write(key, number, version, []):
                return

    def _write(self, key: bytes, number: int, version: int, changes: list[Change]) -> bool:
        """Note a number, with `changes`; return False if another process was faster."""
        note = Change("put", CURSORS, key, b"%d" % number, if_version=version, own=True)
        try:
            self._engine().commit([note, *changes], False, None)
        except VersionConflict:
            return False
        return True

    def needed(self) -> int | None:
        """Return up to which number every subscription with a cursor has acknowledged; None: there is none."""
        cursors = self._engine().scan(CURSORS, b"", b"", None)
        return min((int(value) for key, value in cursors if key.encode() not in (_LAST, _FIRST)), default=None)

    # -- reading

    def _note(self, key: bytes) -> tuple[int, int]:
        """Return a number that was noted, and the version of the note; zeros: there is none."""
        record = self._engine().get_record(CURSORS, key, None)
        return (0, 0) if record is None else (int(record.value or 0), record.version)

    @property
    def last(self) -> int:
        """The number of the newest message; 0: there never was one."""
        return self._note(_LAST)[0]

    @property
    def first(self) -> int:
        """The number of the oldest message that was not trimmed."""
        return self._note(_FIRST)[0] or 1

    def acknowledged(self, name: str) -> int:
        """Return up to which number a subscription has acknowledged; 0: nothing."""
        return self._note(name.encode())[0]

    def read(self, number: int, lagged: int = 0) -> Message | None:
        """Return a message; None: there is none of that number, yet or any more."""
        record = self._engine().get_record(MESSAGES, _key(number), None)
        if record is None or record.value is None:
            return None
        ts, size = _HEAD.unpack_from(record.value)
        topic = record.value[_HEAD.size : _HEAD.size + size]
        payload = record.value[_HEAD.size + size :]
        return Message(levels_of(topic), payload, number, record.writer, ts, lagged, True)


class DurableMessages(Subscription[Message]):
    """The durable messages of topics, each at least once until it is acknowledged.

    Complexity: O(1) a message of the stream, whatever its topic: some microseconds.
    """

    def __init__(
        self, engine: Callable[[], LmdbEngine], stream: Stream, pattern: bytes, *, name: str | None, since: int | None
    ) -> None:
        super().__init__()
        if since is not None:
            require_int(since, "since", 0)
        self._engine = engine
        self._stream = stream
        self._pattern = Pattern(pattern)
        self._name = name
        self._lagged = 0
        self._missed = 0  # of these, what the next message is going to tell
        last = stream.last
        if since is not None and since > last:
            raise ValueError(f"since was {since}, and the newest message is {last}")
        if since is None:
            since = last if name is None else stream.acknowledged(name)
            if name is not None and not since:
                since = stream.first - 1
        self._seen = since
        self._next = since + 1

    @property
    def name(self) -> str | None:
        """Under which it is known what was acknowledged."""
        return self._name

    @property
    def lagged(self) -> int:
        """How many messages, of whatever topic, were trimmed before it looked at them."""
        return self._lagged

    @property
    def resume_from(self) -> int:
        """The number of the last message received, to pass as `since`."""
        return self._seen

    def __repr__(self) -> str:
        topics = self._pattern.encoded.decode().replace("\0", "/")
        return f"<Subscription {topics} durable{' closed' if self._closed else ''}>"

    def ack(self, message: Message | int | None = None) -> None:
        """Acknowledge a message, and with it all before; by default the last one received.

        A subscription of the same name goes on behind it, in whichever process. Without a name this raises ValueError.
        """
        if self._name is None:
            raise ValueError("only a subscription with a name has a cursor; subscribe with durable='name'")
        number = self._seen if message is None else message if isinstance(message, int) else message.seq
        if number > self._seen:
            raise ValueError(f"message {number} was not received by this subscription yet, {self._seen} was")
        self._stream.acknowledge(self._name, number)

    def _open(self) -> LmdbEngine:
        if self._closed:
            raise StoreClosed("this subscription was closed; call subscribe() again")
        engine = self._engine()
        engine.store.refuse()
        return engine

    def _look(self, end: float) -> None:
        with damage_told():
            news = self._news_of(self._open())
            self._read()
            wait = min(end - time.monotonic(), SLICE / 2)
            if self._ready or wait <= 0:
                return
            if news is None:
                time.sleep(wait)
            else:  # whose publisher died before it said so is found without news, after this slice
                news.wait(wait)
            self._read()

    def _read(self) -> None:
        """Bring on what is there, up to the first number that is not."""
        while len(self._ready) < _BATCH and not self._closed:
            message = self._stream.read(self._next, self._missed)
            if message is None:
                first = self._stream.first
                if first <= self._next:
                    return
                self._lagged += first - self._next
                self._missed += first - self._next
                self._next = first
                continue
            self._next += 1
            if self._pattern.matches("\0".join(message.levels).encode()):
                self._ready.append(message)
                self._missed = 0

    def _news_of(self, engine: LmdbEngine) -> RingReader | None:
        """What tells that something was published, made before the look at the stream."""
        if not isinstance(engine, LogEngine):
            return None
        return RingReader(ring_of(engine), self._pattern)

    def _pop(self, *, first: bool = True) -> Message | None:
        message = super()._pop()
        if message is not None:
            self._seen = max(self._seen, message.seq)
        return message
