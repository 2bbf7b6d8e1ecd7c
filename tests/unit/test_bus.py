"""Publishing and subscribing: what is delivered, to whom, in which order, and what is said when it cannot be."""

from __future__ import annotations

import array
import gc
import itertools
import os
import pickle
import signal
import threading
import weakref
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from hostile import HANG, Start, regions
from polling import until

import ntmem
from ntmem import Lagged, PubSubBroker
from ntmem._core.ring import Message, PublisherStalled, RingDamaged

LEAST = 1 << 16
QUARTER = LEAST // 4


@pytest.fixture
def memory() -> Iterator[ntmem.MemorySystem]:
    with ntmem.open(engine="shared", agent_id="me", bus_bytes=LEAST) as memory:
        yield memory


@pytest.fixture
def reported(monkeypatch: pytest.MonkeyPatch) -> list[BaseException]:
    """What threads have reported."""
    found: list[Any] = []
    monkeypatch.setattr(threading, "excepthook", lambda args: found.append(args.exc_value))
    return found


def received(messages: Any, limit: int = 1 << 20) -> list[bytes]:
    """The payloads of what is there by now."""
    return [message.payload for message in messages.recv_many(limit, 0)]


def in_thread(function: Callable[[], Any]) -> Callable[[], Any]:
    """Call it in a thread; return what waits for what it returns, or raises."""
    outcome: list[Any] = []

    def run() -> None:
        try:
            outcome.append(function())
        except Exception as error:
            outcome.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()

    def result() -> Any:
        thread.join(HANG)
        assert outcome, "it does not return"
        return outcome[0]

    return result


# ---- topics ----


def test_a_message_has_all_that_is_known_of_it(memory: ntmem.MemorySystem) -> None:
    with memory.subscribe("px/BTC") as prices:
        seq = memory.publish("px/BTC", b"61800.3")
        message = prices.recv()
    assert isinstance(message, Message)
    assert (message.topic, message.levels, message.payload) == ("px/BTC", ("px", "BTC"), b"61800.3")
    assert (message.seq, message.sender, message.lagged, message.durable) == (seq, "me", 0, False)
    assert message.ts > 1_600_000_000_000_000_000


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("px", ["px"]),
        ("px/BTC", ["px/BTC"]),
        ("*", ["px", "fx"]),
        ("px/*", ["px/BTC", "px/ETH", "px/B/C|"]),
        ("px/>", ["px/BTC", "px/ETH", "px/BTC/bid", "px/B/C|"]),
        (">", ["px", "fx", "px/BTC", "px/ETH", "px/BTC/bid", "fx/BTC", "px/B/C|"]),
        ("*/BTC", ["px/BTC", "fx/BTC"]),
        ("*/*/>", ["px/BTC/bid"]),
        ("*/BTC/*", ["px/BTC/bid"]),
        (("px", "B/C"), ["px/B/C|"]),
        (("*", "B/C"), ["px/B/C|"]),
        ("px/B/C", []),
        ("px/BT", []),
    ],
)
def test_patterns(memory: ntmem.MemorySystem, pattern: Any, expected: list[str]) -> None:
    """What ends with | has a slash within a level."""
    with memory.subscribe(pattern) as messages:
        for topic in ("px", "fx", "px/BTC", "px/ETH", "px/BTC/bid", "fx/BTC", ("px", "B/C")):
            memory.publish(topic, b"")
        found = messages.recv_many(timeout=0)
    assert [m.topic + "|" * ("B/C" in m.levels) for m in found] == expected


@pytest.mark.parametrize(
    ("topic", "error", "says"),
    [
        (5, TypeError, "must be a str, split at '/', or a tuple of its levels, was int"),
        (b"px", TypeError, "was bytes"),
        (["px"], TypeError, "was list"),
        (("px", 5), TypeError, "must be str, was int"),
        (("px", ["a"]), TypeError, "must be str, was list"),
        ("", ValueError, "must not be empty"),
        ("px//a", ValueError, "doubled or trailing"),
        ("px/", ValueError, "doubled or trailing"),
        ("/px", ValueError, "must not be empty"),
        ((), ValueError, "1 to 64 levels, had 0"),
        ("/".join("a" * 65), ValueError, "1 to 64 levels, had 65"),
        ("a\0b", ValueError, "no NUL"),
        ("\xe4" * 128, ValueError, "255 bytes of UTF-8"),
        (("x" * 200,) * 21, ValueError, "at most 4096 bytes of UTF-8, had 4220"),
        ("a\ud800", ValueError, "encodable as UTF-8"),
    ],
)
def test_topics_that_are_none(memory: ntmem.MemorySystem, topic: Any, error: type[Exception], says: str) -> None:
    calls: list[Callable[[], Any]] = [
        lambda: memory.publish(topic, b""),
        lambda: memory.publish(topic, b"", durable=True),
        lambda: memory.publish_many(topic, []),
        lambda: memory.subscribe(topic),
        lambda: memory.subscribe(topic, durable=True),
        lambda: memory.topic(topic),
    ]
    for call in calls:
        with pytest.raises(error, match=says):
            call()


@pytest.mark.parametrize("topic", ["*", ">", "px/*", "px/>", "*/BTC", ("px", "*")])
def test_wildcards_are_for_patterns(memory: ntmem.MemorySystem, topic: Any) -> None:
    for durable in (False, True):
        with pytest.raises(ValueError, match="is for patterns of subscribe"):
            memory.publish(topic, b"", durable=durable)
    memory.subscribe(topic).close()


def test_the_rest_is_the_last_level(memory: ntmem.MemorySystem) -> None:
    with pytest.raises(ValueError, match="only as the last level"):
        memory.subscribe("px/>/bid")
    with memory.subscribe("px/a*") as stars:  # within a level it is no wildcard
        memory.publish("px/a*", b"")
        memory.publish("px/ab", b"")
        assert [m.topic for m in stars.recv_many()] == ["px/a*"]


def test_the_longest_topic_and_thousands(memory: ntmem.MemorySystem) -> None:
    longest = ("x" * 255,) * 16
    with memory.subscribe(longest) as one, memory.subscribe("many/*") as all_of_them:
        memory.publish(longest, b"1")
        assert one.recv(0).levels == longest  # type: ignore[union-attr]
        each = [memory.subscribe(f"many/{number}") for number in range(3000)]
        got = 0
        for number in range(3000):
            memory.publish(f"many/{number}", b"%d" % number)
            got += len(received(all_of_them))
        assert got == 3000
        assert [received(messages) for messages in each[-100:]] == [[b"%d" % number] for number in range(2900, 3000)]


# ---- publishing ----


@pytest.mark.parametrize("payload", [b"", b"abc", bytearray(b"abc"), memoryview(b"abc"), array.array("b", b"abc")])
def test_payloads_are_bytes_like(memory: ntmem.MemorySystem, payload: Any) -> None:
    with memory.subscribe("a") as messages, memory.subscribe("a", durable=True) as kept:
        memory.publish("a", payload)
        memory.publish_many("a", [payload])
        memory.publish("a", payload, durable=True)
        assert received(messages) == [bytes(payload)] * 3
        assert received(kept) == [bytes(payload)]


@pytest.mark.parametrize("payload", ["abc", None, 5, ["abc"], {"a": 1}])
def test_payloads_that_are_none(memory: ntmem.MemorySystem, payload: Any) -> None:
    with memory.subscribe(">") as messages:
        for call in (
            lambda: memory.publish("a", payload),
            lambda: memory.publish("a", payload, durable=True),
            lambda: memory.publish_many("a", [b"fine", payload]),
        ):
            with pytest.raises(TypeError, match="bytes-like"):
                call()
        assert received(messages) == []
        assert memory.publish("a", b"", durable=True) == 1


@pytest.mark.parametrize("payloads", [b"", b"abc", bytearray(b"abc"), memoryview(b"abc"), "abc", ""])
def test_one_payload_is_not_many(memory: ntmem.MemorySystem, payloads: Any) -> None:
    with pytest.raises(TypeError, match=r"was one; use publish\(\)"):
        memory.publish_many("a", payloads)


def test_many_are_in_order_and_none_are_none(memory: ntmem.MemorySystem) -> None:
    with memory.subscribe("a") as messages:
        last = memory.publish_many("a", (b"%d" % number for number in range(500)))
        assert memory.publish_many("a", []) == 0
        found = messages.recv_many()
    assert [m.payload for m in found] == [b"%d" % number for number in range(500)]
    assert [m.seq for m in found] == list(range(last - 499, last + 1))


@pytest.mark.parametrize("durable", [False, True])
def test_the_largest_message_and_one_more(memory: ntmem.MemorySystem, durable: bool) -> None:
    """One that is refused leaves nothing, in the ring or in the store."""
    with memory.subscribe("a") as messages, memory.subscribe("a", durable=True) as kept:
        most = memory.bus._publisher().ring.limit - len("a") - len("me")
        with pytest.raises(ValueError, match="bus_bytes"):
            memory.publish("a", bytes(most + 1), durable=durable)
        memory.publish("a", bytes(most), durable=durable)
        assert QUARTER - 100 < most < QUARTER
        assert [len(payload) for payload in received(messages)] == [most]
        assert [len(payload) for payload in received(kept)] == [most] * durable
    with pytest.raises(ValueError, match="quarter"):
        memory.publish("a" * 100, bytes(most), durable=durable)


@pytest.mark.parametrize("durable", [False, True])
def test_fences(memory: ntmem.MemorySystem, durable: bool) -> None:
    with memory.subscribe("a") as messages:
        with memory.lock("desk") as lock:
            token = lock.token
            fences: list[Any] = [lock, lock.fence, token]
            for fence in fences:
                memory.publish("a", b"held", fence=fence, durable=durable)
                memory.bus.publish("a", b"held", fence=fence, durable=durable)
            memory.topic("a", codec="bytes").publish(b"held", fence=lock, durable=durable)
        for fence in (fences[1], token, ntmem.Fence("desk", 10**6), lock):
            with pytest.raises(ntmem.StaleFence):
                memory.publish("a", b"late", fence=fence, durable=durable)
        assert received(messages) == [b"held"] * 7
    with pytest.raises(TypeError, match="fence must be"):
        memory.publish("a", b"", fence=5, durable=durable)  # type: ignore[arg-type]
    assert memory.bus._stream().last == 7 * durable


def test_what_durable_may_be(memory: ntmem.MemorySystem) -> None:
    with pytest.raises(TypeError, match="durable must be a bool"):
        memory.publish("a", b"", durable="yes")  # type: ignore[arg-type]
    for wrong in (None, 1, b"name"):
        with pytest.raises(TypeError, match="durable must be a bool or the name of a subscription"):
            memory.subscribe("a", durable=wrong)  # type: ignore[arg-type]
    for name, says in (("", "1 to 65536 bytes"), ("a\0b", "no NUL"), ("\ud800", "UTF-8"), ("x" * 70_000, "had 70000")):
        with pytest.raises(ValueError, match=says):
            memory.subscribe("a", durable=name)


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (PublisherStalled(7, 5.0), ntmem.CoordinationError),
        (OSError(28, "no room"), ntmem.DiskFull),
        (RingDamaged("damaged"), ntmem.CorruptionError),
    ],
)
def test_what_a_ring_may_say(memory: ntmem.MemorySystem, error: Exception, expected: type[Exception]) -> None:
    class Broken:
        limit = 1000

        def publish(self, *_: object) -> int:
            raise error

        publish_many = publish

    memory.publish("a", b"")
    publisher = memory.bus._publisher()
    publisher.ring = Broken()  # type: ignore[assignment]
    with pytest.raises(expected, match=str(error)[:10]):
        memory.publish("a", b"x")
    with pytest.raises(expected, match=str(error)[:10]):
        memory.publish_many("a", [b"x"])
    with memory.subscribe("a", durable=True) as kept:  # who is told that it failed would publish it again
        assert memory.publish("a", b"kept", durable=True) == 1
        assert received(kept) == [b"kept"]


# ---- receiving ----


def test_only_what_comes_after_it(memory: ntmem.MemorySystem) -> None:
    memory.publish("a", b"before")
    with memory.subscribe("a") as messages:
        assert messages.recv(timeout=0) is None
        assert messages.recv(timedelta(milliseconds=1)) is None
        assert messages.recv_many(5, 0) == []
        memory.publish("a", b"after")
        assert received(messages) == [b"after"]
        for wrong, error in ((-1, ValueError), (float("nan"), ValueError), ("1", TypeError), (True, TypeError)):
            with pytest.raises(error, match="timeout must be"):
                messages.recv(wrong)  # type: ignore[arg-type]
        with pytest.raises(ValueError, match="limit"):
            messages.recv_many(0)


def test_at_most_so_many(memory: ntmem.MemorySystem) -> None:
    with memory.subscribe("a") as messages:
        memory.publish_many("a", [b"%d" % number for number in range(600)])
        assert [len(received(messages, limit)) for limit in (1, 299, 1, 1000)] == [1, 299, 1, 299]


def test_a_message_wakes_who_waits(memory: ntmem.MemorySystem) -> None:
    with memory.subscribe("a") as messages:
        for number in range(50):
            result = in_thread(lambda: messages.recv(HANG))
            memory.publish("a", b"%d" % number)
            assert result().payload == b"%d" % number


def test_threads_share_a_subscription(memory: ntmem.MemorySystem) -> None:
    """Each message comes to one of them, and to each of them in order."""
    with memory.subscribe("a") as messages:
        together: list[int] = []

        def receive() -> list[int]:
            mine = []
            for message in messages:
                mine.append(int(message.payload))
                together.append(mine[-1])
            return mine

        threads = [in_thread(receive) for _ in range(4)]
        for number in range(100):
            memory.publish_many("a", [b"%d" % (30 * number + part) for part in range(30)])
            until(lambda n=number: len(together) > 30 * n)
        until(lambda: len(together) == 3000)
        messages.close()
        found = [result() for result in threads]
    assert sorted(itertools.chain(*found)) == list(range(3000))
    assert all(each == sorted(each) for each in found)


def test_close_releases_who_waits_and_ends_iteration(memory: ntmem.MemorySystem) -> None:
    messages = memory.subscribe("a")
    waiting = in_thread(messages.recv)
    iterating = in_thread(lambda: list(messages))
    messages.close()
    messages.close()
    assert isinstance(waiting(), ntmem.StoreClosed)
    assert iterating() == []
    assert messages.closed
    assert repr(messages) == "<Subscription a closed>"
    for call in (messages.recv, messages.recv_many, lambda: messages.recv(0)):
        with pytest.raises(ntmem.StoreClosed, match=r"subscribe\(\) again, with since=resume_from"):
            call()


@pytest.mark.parametrize("durable", [False, True])
def test_close_means_no_more(memory: ntmem.MemorySystem, durable: bool) -> None:
    """Also of what was there already: a loop that closes what it iterates over ends."""
    messages = memory.subscribe("a", durable=durable)
    for number in range(10):
        memory.publish("a", b"%d" % number, durable=durable)
    seen = []
    for message in messages:
        seen.append(message.payload)
        messages.close()
    assert seen == [b"0"]
    with pytest.raises(ntmem.StoreClosed):
        messages.recv()


@pytest.mark.parametrize("durable", [False, True])
def test_a_closed_store(ram: Path, durable: bool) -> None:
    memory = ntmem.open(ram / "s", engine="shared")
    messages = memory.subscribe("a", durable=durable)
    waiting = in_thread(messages.recv)
    memory.close()
    assert isinstance(waiting(), ntmem.StoreClosed)
    calls: list[Callable[[], Any]] = [
        lambda: messages.recv(0),
        lambda: next(messages),
        lambda: memory.publish("a", b"", durable=durable),
        lambda: memory.publish_many("a", [b""]),
        lambda: memory.subscribe("a", durable=durable),
        lambda: memory.bus.trim(0),
        lambda: memory.topic("a").publish(1),
    ]
    for call in calls:
        with pytest.raises(ntmem.StoreClosed, match="this store was closed"):
            call()
    messages.close()


def test_a_signal_handler_may_receive_and_close(memory: ntmem.MemorySystem) -> None:
    messages = memory.subscribe("a")

    def handle(*_: object) -> None:
        messages.close()

    before = signal.signal(signal.SIGUSR1, handle)
    try:
        in_thread(lambda: os.kill(os.getpid(), signal.SIGUSR1))
        with pytest.raises(ntmem.StoreClosed):
            messages.recv()
    finally:
        signal.signal(signal.SIGUSR1, before)


def test_subscriptions_and_buses_are_not_pickled(memory: ntmem.MemorySystem) -> None:
    message = Message(("a",), b"x", 7, "me", 0)
    assert pickle.loads(pickle.dumps(message)) == message
    with memory.subscribe("a") as messages, memory.subscribe("a", durable="me") as kept:
        for each in (messages, kept):
            with pytest.raises(TypeError, match="pass the store, and subscribe there"):
                pickle.dumps(each)
    for each in (memory.bus, memory.topic("a")):
        with pytest.raises(TypeError, match="pass the store"):
            pickle.dumps(each)


# ---- since, capacity, lag ----


def test_since_goes_on_behind_a_message(memory: ntmem.MemorySystem) -> None:
    seqs = [memory.publish("a", b"%d" % number) for number in range(5)]
    with memory.subscribe("a", since=seqs[1]) as messages:
        assert messages.resume_from == 0
        assert messages.recv(0).payload == b"2"  # type: ignore[union-attr]
        assert messages.resume_from == seqs[2]
        with memory.subscribe("a", since=messages.resume_from) as rest:
            assert received(rest) == [b"3", b"4"]
    with memory.subscribe("a", since=0) as everything:
        assert received(everything) == [b"%d" % number for number in range(5)]
        assert everything.lagged == 0
    with pytest.raises(ValueError, match="was given out"):
        memory.subscribe("a", since=seqs[-1] + 1)
    for wrong, error in ((-1, ValueError), (1.5, TypeError), (2**64, ValueError), (True, TypeError)):
        with pytest.raises(error, match="since"):
            memory.subscribe("a", since=wrong)  # type: ignore[arg-type]


def test_received_and_lagged_are_what_was_published(memory: ntmem.MemorySystem) -> None:
    count = 5000
    with memory.subscribe(">") as slow, memory.subscribe(">", since=0) as quick:
        got = 0
        for number in range(count):
            memory.publish("a/b", b"%06d" % number)
            got += quick.recv(0) is not None
        assert (got, quick.lagged) == (count, 0)
        first, *rest = slow.recv_many(count)
        assert first.lagged == slow.lagged > 0
        assert not any(message.lagged for message in rest)
        lagged = slow.lagged
        assert 1 + len(rest) + lagged == count
        assert [int(m.payload) for m in (first, *rest)] == list(range(slow.lagged, count))
        assert repr(slow) == f"<Subscription > lagged={slow.lagged}>"
    assert slow.lagged == lagged  # which is closed


@pytest.mark.parametrize("capacity", [1, 2, 10, 300])
def test_of_what_waits_the_newest_are_kept(memory: ntmem.MemorySystem, capacity: int) -> None:
    """Whatever was received before: nothing older waits anywhere."""
    with memory.subscribe("a", capacity=capacity) as messages:
        published = 0
        got: list[int] = []
        for burst in (400, 1, 300, 299):
            memory.publish_many("a", [b"%d" % (published + number) for number in range(burst)])
            published += burst
            first = messages.recv(0)
            assert first is not None
            assert int(first.payload) == max(published - capacity, got[-1] + 1 if got else 0)
            got.append(int(first.payload))
        got += map(int, received(messages))
        assert got[-1] == published - 1
        assert len(got) + messages.lagged == published
    for wrong, error in ((0, ValueError), (1.0, TypeError)):
        with pytest.raises(error, match="capacity"):
            memory.subscribe("a", capacity=wrong)  # type: ignore[arg-type]


def test_overflow_that_is_an_error(memory: ntmem.MemorySystem) -> None:
    """It is raised in front of the message, once; and nothing that was received in the same call is lost by it."""
    with memory.subscribe("a", overflow="error", capacity=3) as messages:
        memory.publish_many("a", [b"0", b"1"])
        assert received(messages) == [b"0", b"1"]
        memory.publish_many("a", [b"%d" % number for number in range(2, 10)])
        with pytest.raises(Lagged, match="5 messages were overwritten"):
            messages.recv()
        assert messages.recv().lagged == 5  # type: ignore[union-attr]
        assert received(messages) == [b"8", b"9"]
    with memory.subscribe("a", overflow="error") as messages:
        memory.publish("a", b"first")
        assert messages.recv() is not None
        lagged = Message(("a",), b"lagged", 12, "me", 0, lagged=3)
        messages._ready.extend([Message(("a",), b"good", 11, "me", 0), lagged])
        assert received(messages) == [b"good"]
        with pytest.raises(Lagged, match="3 messages"):
            messages.recv_many()
        assert received(messages) == [b"lagged"]
    for wrong in ("drop", None):
        with pytest.raises(ValueError, match="overflow must be"):
            memory.subscribe("a", overflow=wrong)  # type: ignore[arg-type]
    for more in ({"capacity": 1}, {"overflow": "error"}):
        with pytest.raises(ValueError, match="nothing is dropped"):
            memory.subscribe("a", durable=True, **more)  # type: ignore[arg-type]


def test_what_was_received_before_trouble_is_not_lost(memory: ntmem.MemorySystem, monkeypatch: Any) -> None:
    with memory.subscribe("a") as messages:
        memory.publish("a", b"good")
        look, looks = messages._look, iter([True, False, False])

        def broken(end: float) -> None:
            if not next(looks):
                raise ntmem.CorruptionError("damaged")
            look(end)

        monkeypatch.setattr(messages, "_look", broken)
        assert received(messages) == [b"good"]
        with pytest.raises(ntmem.CorruptionError, match="damaged"):
            messages.recv_many()


# ---- callbacks ----


def test_callbacks(memory: ntmem.MemorySystem, reported: list[BaseException]) -> None:
    got: list[bytes] = []

    def callback(message: Message) -> None:
        got.append(message.payload)
        if message.payload == b"bad":
            raise KeyError("what it raises")

    messages = memory.subscribe("a", callback=callback)
    thread = next(t for t in threading.enumerate() if t.name == "ntmem-callback")
    for payload in (b"1", b"bad", b"2"):
        memory.publish("a", payload)
    until(lambda: got == [b"1", b"bad", b"2"])
    assert [type(error) for error in reported] == [KeyError]
    messages.close()
    thread.join(HANG)
    assert not thread.is_alive()
    memory.publish("a", b"late")
    assert got == [b"1", b"bad", b"2"]
    with pytest.raises(TypeError, match="callback must be callable, was int"):
        memory.subscribe("a", callback=5)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="callback must be callable, was int"):
        memory.topic("a").subscribe(callback=5)  # type: ignore[arg-type]


def test_a_callback_needs_nobody_to_keep_it(ram: Path) -> None:
    """It is called until its store is closed; then nothing is left of it."""
    got: list[bytes] = []
    memory = ntmem.open(ram / "s", engine="shared")
    kept = weakref.ref(memory.subscribe("a", callback=lambda message: got.append(message.payload)))
    for number in range(3):
        gc.collect()
        memory.publish("a", b"%d" % number)
        until(lambda n=number: len(got) == n + 1)
    thread = next(t for t in threading.enumerate() if t.name == "ntmem-callback")
    memory.close()
    thread.join(HANG)
    assert not thread.is_alive()
    del thread
    gc.collect()
    assert kept() is None


def test_lag_and_damage_are_reported(memory: ntmem.MemorySystem, reported: list[BaseException]) -> None:
    """The first once; the second ends it, instead of being reported for ever."""
    got: list[bytes] = []
    hold = threading.Event()

    def callback(message: Message) -> None:
        got.append(message.payload)
        hold.wait(HANG)

    messages = memory.subscribe("a", callback=callback, overflow="error", capacity=1)
    thread = next(t for t in threading.enumerate() if t.name == "ntmem-callback")
    memory.publish("a", b"first")
    until(lambda: got)
    memory.publish_many("a", [b"missed", b"last"])
    hold.set()
    until(lambda: len(got) == 2)
    assert got == [b"first", b"last"]
    assert [type(error) for error in reported] == [Lagged]

    def damaged(end: float) -> None:
        raise ntmem.CorruptionError("damaged")

    messages._look = damaged  # type: ignore[method-assign]
    thread.join(HANG)
    assert not thread.is_alive()
    assert [type(error) for error in reported] == [Lagged, ntmem.CorruptionError]


# ---- what is kept alive ----


def mapped(region: int) -> int:
    """How often the region with this inode is mapped."""
    with open("/proc/self/maps") as maps:
        return sum(line.split()[4] == str(region) for line in maps)


def test_a_closed_subscription_keeps_nothing_of_a_closed_store(ram: Path) -> None:
    memory = ntmem.open(ram / "s", engine="shared", bus_bytes=LEAST)
    region = regions(ram)[0].stat().st_ino
    messages = [memory.subscribe("a", durable=durable) for durable in (False, True)]
    assert mapped(region) > 0
    memory.close()
    for each in messages:
        each.close()
    gc.collect()
    assert mapped(region) == 0


def test_thousands_of_subscriptions_that_are_forgotten(memory: ntmem.MemorySystem) -> None:
    threads = threading.active_count()
    kept = [weakref.ref(memory.subscribe(f"a/{number}")) for number in range(5000)]
    kept += [weakref.ref(memory.subscribe("a/*", durable=True)) for _ in range(100)]
    assert not any(each() for each in kept)
    assert threading.active_count() == threads
    memory.publish("a/1", b"")


def test_a_subscription_keeps_its_store_open(ram: Path) -> None:
    memory = ntmem.open(ram / "s", engine="shared")
    bus, messages = memory.bus, memory.subscribe("a")
    del memory
    gc.collect()
    bus.publish("a", b"x")
    assert received(messages) == [b"x"]
    kept = weakref.ref(messages._engine.__self__)  # type: ignore[attr-defined]
    del bus, messages
    gc.collect()
    assert kept() is None


# ---- who has which store ----

WRITER = """
with ntmem.open(sys.argv[1], engine="shared", agent_id="writer") as memory:
    say("open")
    while word := hear():
        say(memory.publish("a", word.encode()))
"""


@pytest.mark.parametrize("end_by", ["close", "kill"])
def test_a_reader_that_was_there_before_any_writer(ram: Path, start: Start, end_by: str) -> None:
    """It gets all that is published after it came, by whichever writer, and stays quiet between them."""
    ntmem.open(ram / "s", engine="shared").close()
    with ntmem.open(ram / "s", engine="shared", read_only=True) as memory, memory.subscribe("a") as messages:
        assert messages.recv(0.01) is None
        assert messages.lagged == 0
        expected = []
        for number in range(3):
            writer = start(WRITER, ram / "s")
            assert writer.line() == "open"
            for part in range(3):
                writer.tell(f"{number}.{part}")
                writer.line()
                expected.append(b"%d.%d" % (number, part))
            if number == 0 or number == 2:
                assert messages.recv(HANG).payload == expected[-3]  # type: ignore[union-attr]
                assert received(messages) == expected[-2:]
            if end_by == "close":
                writer.tell()
                writer.end()
            else:
                writer.kill()
            if number == 1:
                assert received(messages) == expected[-3:]
            assert messages.recv(0) is None
        assert messages.lagged == 0


def test_a_handle_that_only_reads(ram: Path, start: Start) -> None:
    writer = start(WRITER, ram / "s")
    assert writer.line() == "open"
    with ntmem.open(ram / "s", engine="shared", read_only=True) as memory:
        messages = memory.subscribe("a")
        writer.tell("x")
        seq = int(writer.line())
        message = messages.recv(HANG)
        assert message is not None
        assert (message.payload, message.seq, message.sender) == (b"x", seq, "writer")
        with memory.subscribe("a", since=seq - 1) as again:
            assert received(again) == [b"x"]
        calls: list[Callable[[], Any]] = [
            lambda: memory.publish("a", b""),
            lambda: memory.publish("a", b"", durable=True),
            lambda: memory.publish_many("a", []),
            lambda: memory.bus.trim(0),
            lambda: memory.topic("a").publish(1),
        ]
        for call in calls:
            with pytest.raises(ntmem.ReadOnlyError, match="read_only=True; open it for writing to"):
                call()


def test_a_since_of_yesterday(ram: Path) -> None:
    """A ring begins with higher numbers than any before it had."""
    with ntmem.open(ram / "s", engine="shared") as memory:
        seq = memory.publish("a", b"yesterday")
    with ntmem.open(ram / "s", engine="shared") as memory, memory.subscribe("a", since=seq) as messages:
        assert memory.publish("a", b"today") > seq
        assert received(messages) == [b"today"]


@pytest.mark.parametrize("durable", [False, True])
def test_a_forked_child_has_none_of_it(ram: Path, start: Start, durable: bool) -> None:
    code = """
memory = ntmem.open(sys.argv[1], engine="shared")
durable = sys.argv[2] == "True"
topic = memory.topic("a")
messages = memory.subscribe("a", durable=durable)
memory.subscribe("a", callback=print, durable=durable)
if not durable: memory.publish("a", b"0")
if not os.fork():
    for call in (
        lambda: memory.publish("a", b"1", durable=durable), lambda: memory.publish_many("a", [b"1"]),
        lambda: memory.subscribe("a", durable=durable), lambda: messages.recv(0), lambda: topic.publish(1),
    ):
        say(outcome(call).split(",")[0])
    with ntmem.open(sys.argv[1], engine="shared") as again:
        again.publish("a", b"of the child", durable=durable)
    os._exit(0)
os.wait()
say(messages.recv_many()[-1].payload)
"""
    child = start(code, ram / "s", durable)
    lines = [child.line() for _ in range(7 - durable)]
    assert sum("StoreClosed: this store was opened before a fork" in line for line in lines) == 5
    assert child.end().splitlines()[-1] == str(b"of the child")


def test_an_engine_without_shared_memory() -> None:
    with ntmem.open(engine="lmdb") as memory:
        calls: list[Callable[[], Any]] = [
            lambda: memory.publish("a", b""),
            lambda: memory.publish("a", b"", durable=True),
            lambda: memory.publish_many("a", []),
            lambda: memory.subscribe("a"),
            lambda: memory.topic("a").publish(1),
        ]
        for call in calls:
            with pytest.raises(ntmem.CoordinationError, match="open it with engine='shared'"):
                call()


# ---- objects, and the seeds' name ----


def test_objects(memory: ntmem.MemorySystem, reported: list[BaseException]) -> None:
    orders = memory.topic("orders/BTC")
    got: list[Any] = []
    with orders.subscribe() as messages, orders.subscribe(callback=got.append) as called:
        seq = orders.publish({"side": "buy", "quantity": 2})
        found = messages.recv(timeout=1)
        assert found is not None
        assert found.value == {"side": "buy", "quantity": 2}
        assert (found.message.seq, found.message.topic) == (seq, "orders/BTC")
        orders.publish_many([1, (2, None)])
        assert [each.value for each in messages.recv_many()] == [1, (2, None)]
        orders.publish("last")
        assert next(iter(messages)).value == "last"
        assert messages.recv(0) is None
        assert (messages.lagged, messages.resume_from) == (0, seq + 3)
        until(lambda: [each.value for each in got] == [{"side": "buy", "quantity": 2}, 1, (2, None), "last"])
        called.close()
    with pytest.raises(ntmem.SerializationError):
        orders.publish(object())
    assert repr(orders) == "<TypedTopic orders/BTC>"
    with memory.topic(("a", "b/c"), codec="bytes").subscribe() as messages:
        memory.publish(("a", "b/c"), b"x")
        assert messages.recv(0).value == b"x"  # type: ignore[union-attr]


def test_the_seeds_name(ram: Path) -> None:
    broker = PubSubBroker()
    with broker.subscribe("agent/*") as messages:
        broker.publish("agent/1", b"x")
        assert received(messages) == [b"x"]
    with ntmem.open(ram / "s", engine="shared") as memory, memory.subscribe("a") as messages:
        PubSubBroker(memory).publish("a", b"y")
        assert received(messages) == [b"y"]
        assert PubSubBroker(memory).publish("a", b"z", durable=True) == 1


def test_who_receives_while_a_batch_is_there_waits_for_nobody(memory: ntmem.MemorySystem) -> None:
    """A thread that waits holds what looks; others take what it has brought, and time out without it."""
    with memory.subscribe("a") as messages, messages._lock:
        assert in_thread(lambda: messages.recv(0))() is None
        assert in_thread(lambda: messages.recv(0.01))() is None
        assert not in_thread(messages.is_ready)()
        messages._ready.append(Message(("a",), b"x", 1, "me", 0))
        assert in_thread(lambda: messages.recv(0))().payload == b"x"
