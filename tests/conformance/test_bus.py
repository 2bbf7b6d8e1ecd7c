"""What every :class:`~ntmem.coordination.protocols.Bus` has to do, whatever it is made of."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest
from hostile import HANG
from polling import until

import ntmem
from ntmem.coordination.protocols import Incoming

KINDS = [False, True]


def receive(messages: Incoming, count: int) -> list[Any]:
    """The next messages, which come."""
    found: list[Any] = []
    while len(found) < count:
        message = messages.recv(HANG)
        assert message is not None, f"after {len(found)} nothing comes"
        found.append(message)
    return found


def payloads(messages: Incoming, count: int) -> list[bytes]:
    return [message.payload for message in receive(messages, count)]


def nothing_more(backend: Any, messages: Incoming, topic: Any, durable: bool) -> None:
    """What is published now is the next that comes."""
    backend.bus.publish(topic, b"the next", durable=durable)
    assert payloads(messages, 1) == [b"the next"]


@pytest.mark.parametrize("durable", KINDS)
def test_every_subscription_gets_every_message_in_the_same_order(backend: Any, durable: bool) -> None:
    connections = [backend.here, backend.connect("another"), backend.connect("a third")]
    subscriptions = [each.bus.subscribe(">", durable=durable) for each in connections]
    numbers: list[list[int]] = [[] for _ in connections]

    def publish(row: int) -> None:
        for number in range(50):
            numbers[row].append(connections[row].bus.publish(f"of/{row}", b"%d" % number, durable=durable))

    threads = [threading.Thread(target=publish, args=(row,)) for row in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(HANG)
    first, *others = [receive(each, 150) for each in subscriptions]
    assert all([(m.seq, m.payload) for m in each] == [(m.seq, m.payload) for m in first] for each in others)
    for row in range(3):
        mine = [m for m in first if m.topic == f"of/{row}"]
        assert [int(m.payload) for m in mine] == list(range(50))
        if durable:
            assert [m.seq for m in mine] == numbers[row]
    assert all(each == sorted({*each}) for each in numbers)
    if durable:
        assert [m.seq for m in first] == list(range(1, 151))
    assert [each.lagged for each in subscriptions] == [0, 0, 0]


@pytest.mark.parametrize("durable", KINDS)
@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("px/BTC", [0]),
        ("px/*", [0, 1, 4]),
        ("px/>", [0, 1, 2, 4]),
        ("*/BTC", [0, 3]),
        (("px", "B/C"), [4]),
        (">", [0, 1, 2, 3, 4]),
    ],
)
def test_patterns(backend: Any, durable: bool, pattern: Any, expected: list[int]) -> None:
    topics = ("px/BTC", "px/ETH", "px/BTC/bid", "fx/BTC", ("px", "B/C"))
    messages = backend.bus.subscribe(pattern, durable=durable)
    for number, topic in enumerate(topics):
        backend.bus.publish(topic, b"%d" % number, durable=durable)
    found = receive(messages, len(expected))
    assert [int(message.payload) for message in found] == expected
    wanted = [topics[number] for number in expected]
    assert [m.levels for m in found] == [tuple(t.split("/")) if isinstance(t, str) else t for t in wanted]
    nothing_more(backend, messages, wanted[0], durable)


@pytest.mark.parametrize("topic", ["", "a//b", "a/", "*", "a/>", (), "a\0b"])
def test_topics_that_are_none(backend: Any, topic: Any) -> None:
    for durable in KINDS:
        with pytest.raises(ValueError, match=r"level|NUL|subscribe"):
            backend.bus.publish(topic, b"", durable=durable)
    with pytest.raises(ValueError, match="only as the last level"):
        backend.bus.subscribe("a/>/b")


@pytest.mark.parametrize("durable", KINDS)
def test_only_from_now_on_or_behind_a_number(backend: Any, durable: bool) -> None:
    bus = backend.bus
    numbers = [bus.publish("a", b"%d" % number, durable=durable) for number in range(3)]
    now = bus.subscribe("a", durable=durable)
    behind = bus.subscribe("a", durable=durable, since=numbers[0])
    everything = bus.subscribe("a", durable=durable, since=0)
    bus.publish("a", b"3", durable=durable)
    assert payloads(now, 1) == [b"3"]
    assert payloads(behind, 2) == [b"1", b"2"]
    assert payloads(bus.subscribe("a", durable=durable, since=behind.resume_from), 1) == [b"3"]
    assert payloads(everything, 4) == [b"0", b"1", b"2", b"3"]


def test_many_at_once(backend: Any) -> None:
    messages = backend.bus.subscribe("a")
    last = backend.bus.publish_many("a", [b"%d" % number for number in range(100)])
    found = receive(messages, 100)
    assert [int(m.payload) for m in found] == list(range(100))
    assert found[-1].seq == last
    backend.bus.publish_many("a", [b"x"] * 10)
    assert len(messages.recv_many(4, HANG)) == 4
    assert len(messages.recv_many(100, HANG)) == 6


@pytest.mark.parametrize("durable", KINDS)
def test_other_processes(backend: Any, durable: bool) -> None:
    messages = backend.bus.subscribe("pong", durable=durable)
    child = backend.elsewhere(
        """
durable = sys.argv[1] == "True"
pings = bus.subscribe("ping", durable=durable)
say("ready")
for ping in pings:
    bus.publish("pong", ping.payload + b" of " + ping.sender.encode(), durable=durable)
""",
        durable,
    )
    assert child.line() == "ready"
    for number in range(20):
        backend.bus.publish("ping", b"%d" % number, durable=durable)
        (pong,) = receive(messages, 1)
        assert (pong.payload, pong.sender) == (b"%d of here" % number, "elsewhere")


def test_who_is_slow_misses_and_is_told(backend: Any) -> None:
    """However much is kept: what was received and what was missed is what was published."""
    messages, count = backend.bus.subscribe(">"), 5000
    for number in range(count // 50):
        backend.bus.publish_many("a", [b"%08d" % (50 * number + part) + bytes(5000) for part in range(50)])
    got = []
    while not got or got[-1] < count - 1:
        got.append(int(receive(messages, 1)[0].payload[:8]))
    assert got == sorted({*got})
    assert len(got) + messages.lagged == count


@pytest.mark.parametrize("durable", KINDS)
def test_fences(backend: Any, durable: bool) -> None:
    messages = backend.bus.subscribe("a", durable=durable)
    grant = backend.locks.grant("desk", 60 * 10**9, HANG)
    assert grant is not None
    fence = ntmem.Fence("desk", grant.number)
    backend.bus.publish("a", b"held", durable=durable, fence=fence)
    grant.release()
    with pytest.raises(ntmem.StaleFence):
        backend.bus.publish("a", b"late", durable=durable, fence=fence)
    assert payloads(messages, 1) == [b"held"]
    nothing_more(backend, messages, "a", durable)


@pytest.mark.parametrize("durable", KINDS)
def test_close_ends_it(backend: Any, durable: bool) -> None:
    messages = backend.bus.subscribe("a", durable=durable)
    found: list[Any] = []
    thread = threading.Thread(target=lambda: found.extend(messages), daemon=True)
    thread.start()
    backend.bus.publish("a", b"x", durable=durable)
    until(lambda: found)
    messages.close()
    thread.join(HANG)
    assert not thread.is_alive()
    with pytest.raises(ntmem.StoreClosed):
        messages.recv(0)
    backend.bus.publish("a", b"y", durable=durable)
    assert [m.payload for m in found] == [b"x"]


@pytest.mark.parametrize("durable", KINDS)
def test_callbacks(backend: Any, durable: bool) -> None:
    got: list[bytes] = []
    messages = backend.bus.subscribe("a", callback=lambda m: got.append(m.payload), durable=durable)
    for number in range(5):
        backend.bus.publish("a", b"%d" % number, durable=durable)
    until(lambda: got == [b"%d" % number for number in range(5)])
    messages.close()


@pytest.mark.parametrize("durable", KINDS)
def test_event_loops(backend: Any, durable: bool) -> None:
    messages = backend.bus.subscribe("a", durable=durable)

    async def main() -> None:
        assert await messages.arecv(0) is None
        got: list[bytes] = []

        async def iterate() -> None:
            async for message in messages:
                got.append(message.payload)

        for number in range(10):
            task = asyncio.create_task(iterate())
            await asyncio.sleep(0)
            backend.bus.publish("a", b"%d" % number, durable=durable)
            await asyncio.sleep(0.0005 * (number % 3))
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        while len(got) < 10:
            message = await messages.arecv(HANG)
            assert message is not None
            got.append(message.payload)
        assert got == [b"%d" % number for number in range(10)]

    asyncio.run(main())


# ---- durable ones ----


def test_numbers_have_no_gaps_over_a_restart(backend: Any) -> None:
    assert [backend.bus.publish("a", b"%d" % number, durable=True) for number in range(3)] == [1, 2, 3]
    backend.restart()
    assert backend.bus.publish("b", b"3", durable=True) == 4
    found = receive(backend.bus.subscribe(">", durable=True, since=0), 4)
    assert [(m.seq, m.topic, m.payload) for m in found] == [
        (1, "a", b"0"),
        (2, "a", b"1"),
        (3, "a", b"2"),
        (4, "b", b"3"),
    ]


def test_a_name_goes_on_where_it_has_acknowledged(backend: Any) -> None:
    for number in range(5):
        backend.bus.publish("a", b"%d" % number, durable=True)
    messages = backend.bus.subscribe("a", durable="risk")
    found = receive(messages, 4)
    messages.ack(found[1])
    messages.close()
    another = backend.connect("another").bus.subscribe("a", durable="risk")
    assert payloads(another, 3) == [b"2", b"3", b"4"]
    another.ack()
    another.close()
    assert payloads(backend.bus.subscribe("a", durable="another name"), 5)[0] == b"0"
    backend.bus.publish("a", b"5", durable=True)
    assert payloads(backend.bus.subscribe("a", durable="risk"), 1) == [b"5"]


def test_a_name_outlives_a_restart(backend: Any) -> None:
    for number in range(3):
        backend.bus.publish("a", b"%d" % number, durable=True)
    messages = backend.bus.subscribe("a", durable="risk")
    receive(messages, 2)
    messages.ack()
    backend.restart()
    assert payloads(backend.bus.subscribe("a", durable="risk"), 1) == [b"2"]


def test_at_least_once_whoever_dies(backend: Any) -> None:
    backend.bus.publish("a", b"0", durable=True)
    backend.bus.publish("a", b"1", durable=True)
    code = """
messages = bus.subscribe("a", durable="risk")
say(messages.recv().payload.decode())
if sys.argv[1] == "acknowledges":
    messages.ack()
    say("acknowledged")
hear()
"""
    for does, expected in (("dies", "0"), ("acknowledges", "0"), ("dies", "1"), ("acknowledges", "1")):
        child = backend.elsewhere(code, does)
        assert child.line() == expected
        if does == "acknowledges":
            assert child.line() == "acknowledged"
        child.kill()
    messages = backend.bus.subscribe("a", durable="risk")
    nothing_more(backend, messages, "a", True)


def test_a_publisher_dies(backend: Any) -> None:
    """What it was told a number of is there."""
    messages = backend.bus.subscribe("a", durable=True)
    publisher = backend.elsewhere("while True: say(bus.publish('a', b'x', durable=True))")
    told = [int(publisher.line()) for _ in range(50)]
    publisher.kill()
    assert told == list(range(1, 51))
    assert [m.seq for m in receive(messages, 50)] == told


def test_trimming(backend: Any) -> None:
    messages = backend.bus.subscribe("a", durable="risk")
    for number in range(5):
        backend.bus.publish("a", b"%d" % number, durable=True)
    assert backend.bus.trim(3600) == 0
    assert backend.bus.trim(1e-9) == 5
    assert backend.bus.publish("a", b"5", durable=True) == 6
    (message,) = receive(messages, 1)
    assert (message.payload, message.lagged, messages.lagged) == (b"5", 5, 5)
