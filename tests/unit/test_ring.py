"""The ring of messages: topics, sizes, what a reader gets and what it is told to have missed."""

from __future__ import annotations

import os
import pickle
import random
import struct
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rings import HEADER, LEAST, TAIL, drain, follow, new_ring, whole

from ntmem._core.region import Region
from ntmem._core.ring import Message, Pattern, Ring


@pytest.fixture
def ring() -> Ring:
    return new_ring()


# ---- topics -----------------------------------------------------------------------------------------------------


def oracle(pattern: list[bytes], topic: list[bytes]) -> bool:
    if pattern[-1] == b">":
        return len(topic) >= len(pattern) and oracle([*pattern[:-1], b"*"], topic[: len(pattern)])
    return len(pattern) == len(topic) and all(p in (b"*", t) for p, t in zip(pattern, topic, strict=True))


LEVELS = st.lists(st.sampled_from([b"a", b"b", b"ab", b"*", b"*a", b">>", "é".encode()]), min_size=1, max_size=5)
TOPICS = st.lists(st.sampled_from([b"a", b"b", b"ab", b"aa", b"*a", b">>", "é".encode()]), min_size=1, max_size=5)


@given(LEVELS, st.booleans(), TOPICS)
def test_a_pattern_matches_what_the_oracle_says(levels, more, topic):
    levels = levels + [b">"] * more
    pattern = Pattern(b"\0".join(levels))
    assert pattern.matches(b"\0".join(topic)) is oracle(levels, topic)
    assert pattern.exact is not bool({b"*", b">"} & {*levels})
    assert pattern.exact is False or pattern.matches(pattern.encoded)


@given(st.lists(st.tuples(LEVELS, st.booleans()), min_size=1, max_size=4), st.lists(TOPICS, max_size=40))
def test_readers_get_what_their_patterns_match(patterns, topics):
    ring = new_ring()
    spelled = [levels + [b">"] * more for levels, more in patterns]
    readers = [follow(ring, b"\0".join(levels)) for levels in spelled]
    for number, topic in enumerate(topics):
        assert ring.publish(b"\0".join(topic), b"%d" % number, b"me") == number + 1
    for levels, reader in zip(spelled, readers, strict=True):
        wanted = [(n, topic) for n, topic in enumerate(topics) if oracle(levels, topic)]
        assert reader.ready() is bool(wanted)
        found = drain(reader, 3)
        assert [(int(m.payload), [*m.levels]) for m in found] == [(n, [t.decode() for t in w]) for n, w in wanted]
        assert [m.seq for m in found] == [n + 1 for n, _ in wanted]
        assert (reader.lagged, reader.position) == (0, len(topics))


@pytest.mark.parametrize("wrong", [b"", b"a\0", b"\0a", b"a\0\0b", b">\0a", b"a\0>\0b", b"a" * 4097])
def test_what_is_no_pattern(wrong):
    with pytest.raises(ValueError, match=r"level|at most 4096"):
        Pattern(wrong)


# ---- messages ---------------------------------------------------------------------------------------------------


def test_a_message_is_what_was_published(ring):
    reader = follow(ring)
    before = time.time_ns()
    assert ring.publish(b"px\0BTC/USDT", b"42", "désk".encode(), 1) == 1
    (message,) = reader.read()
    assert (message.topic, message.levels) == ("px/BTC/USDT", ("px", "BTC/USDT"))
    assert (message.payload, message.seq, message.sender, message.lagged, message.durable) == (
        b"42",
        1,
        "désk",
        0,
        True,
    )
    assert before <= message.ts <= time.time_ns()
    assert repr(message) == "<Message 'px/BTC/USDT' seq=1 from 'désk', 2 bytes>"
    assert message.topic is message.topic
    assert message.levels is message.levels
    assert reader.read() == []


def test_topics_are_shared_between_messages(ring):
    reader = follow(ring)
    for _ in range(3):
        ring.publish(b"a\0b", b"", b"me")
    first, *rest = reader.read()
    assert all(m.topic is first.topic and m.sender is first.sender for m in rest)


def test_messages_are_values(ring):
    reader = follow(ring)
    ring.publish(b"a\0b", b"xyz", b"me")
    (message,) = reader.read()
    made = Message(("a", "b"), b"xyz", seq=1, sender="me", ts=message.ts)
    assert message == made
    assert hash(message) == hash(made)
    assert pickle.loads(pickle.dumps(message)) == message
    others = [
        Message(("a/b",), b"xyz", 1, "me", message.ts),
        Message(("a", "b"), b"xy", 1, "me", message.ts),
        Message(("a", "b"), b"xyz", 2, "me", message.ts),
        Message(("a", "b"), b"xyz", 1, "you", message.ts),
        Message(("a", "b"), b"xyz", 1, "me", message.ts + 1),
        Message(("a", "b"), b"xyz", 1, "me", message.ts, 1),
        Message(("a", "b"), b"xyz", 1, "me", message.ts, 0, True),
    ]
    assert message not in others
    assert message != "a"
    assert all(pickle.loads(pickle.dumps(other)) == other for other in others)
    assert "lagged=1" in repr(others[5])
    for name in ("seq", "topic", "payload", "ts", "lagged", "sender", "durable", "other"):
        with pytest.raises(AttributeError):
            setattr(message, name, 1)
    with pytest.raises(TypeError, match="cannot be changed"):
        message.__init__(("a",), b"", 1, "me", 0)
    assert not hasattr(message, "__dict__")
    blank = Message.__new__(Message)
    for use in (repr, hash, pickle.dumps, lambda m: m.topic, lambda m: m.sender, lambda m: m.payload):
        with pytest.raises(TypeError, match="never made"):
            use(blank)
    for levels in ("ab", [1], (b"a",)):
        with pytest.raises(TypeError, match="sequence of str"):
            Message(levels, b"", 1, "me", 0)


def test_bytes_that_are_no_text_are_shown(ring):
    reader = follow(ring)
    ring.publish(b"\xff\0b", b"", b"\xff")
    (message,) = reader.read()
    assert (message.levels, message.sender) == (("\ufffd", "b"), "\ufffd")


def test_payloads_are_any_contiguous_bytes(ring):
    reader = follow(ring)
    given = [b"abc", bytearray(b"abc"), memoryview(b"xabcx")[1:4], memoryview(struct.pack("3B", *b"abc")).cast("B")]
    for payload in given:
        ring.publish(b"t", payload, b"")
    assert ring.publish_many(b"t", iter(given), b"") == 8
    assert [m.payload for m in reader.read()] == [b"abc"] * 8
    for wrong in (memoryview(b"abcdef")[::2], "abc", None, 5):
        with pytest.raises((TypeError, BufferError)):
            ring.publish(b"t", wrong, b"")
        with pytest.raises((TypeError, BufferError)):
            ring.publish_many(b"t", [b"abc", wrong], b"")
    assert ring.last == 8


# ---- sizes ------------------------------------------------------------------------------------------------------


def test_the_largest_message_and_one_more(ring):
    reader = follow(ring)
    assert ring.limit == LEAST // 4 - HEADER - TAIL
    for size in (0, 1, 7, 8, 9, ring.limit - 2):
        for _ in range(9):  # it goes round
            ring.publish(b"t", os.urandom(1) * size, b"s")
            (message,) = reader.read()
            assert len(message.payload) == size
            assert len({*message.payload}) <= 1
    last = ring.last
    for publish in (lambda p: ring.publish(b"t", p, b"s"), lambda p: ring.publish_many(b"t", [b"", p], b"s")):
        with pytest.raises(
            ValueError, match=rf"message of {ring.limit - 1} bytes, with 2 .* the {ring.limit} .*bus_bytes"
        ):
            publish(bytes(ring.limit - 1))
    with pytest.raises(ValueError, match="bus_bytes"):  # all are looked at before the first is published
        ring.publish_many(b"t", [b"x" * 100] * 1000 + [bytes(ring.limit)], b"s")
    assert ring.last == last
    for topic, sender in ((b"", b""), (b"t" * 4097, b""), (b"t", b"s" * 256)):
        with pytest.raises(ValueError, match=r"has (1 to 4096|at most 255) bytes"):
            ring.publish(topic, b"", sender)
    assert ring.publish(b"t" * 4096, b"", b"s" * 255) == last + 1
    assert [(len(m.topic), len(m.sender)) for m in reader.read()] == [(4096, 255)]
    with pytest.raises(TypeError):
        ring.publish("t", b"", b"s")


@given(st.lists(st.integers(0, 16_000), min_size=1, max_size=60), st.booleans())
def test_many_are_published_as_one_by_one(sizes, at_once):
    ring = new_ring()
    reader = follow(ring)
    payloads = [bytes([n % 256]) * size for n, size in enumerate(sizes)]
    if at_once:
        assert ring.publish_many(b"t", payloads, b"s") == len(sizes)
    else:
        for payload in payloads:
            last = ring.publish(b"t", payload, b"s")
        assert last == len(sizes)
    found = drain(reader)
    assert [m.payload for m in found] == [payloads[m.seq - 1] for m in found]
    assert len(found) + reader.lagged == len(sizes)
    assert [m.seq for m in found] == [*range(len(sizes) - len(found) + 1, len(sizes) + 1)]


def test_many_of_none(ring):
    assert ring.publish_many(b"t", [], b"s") == 0
    assert ring.last == 0


@pytest.mark.parametrize("size", [0, 1, 4096, LEAST - 1, LEAST + 4096, 3 * LEAST, 1 << 33])
def test_sizes_that_cannot_be(size):
    with pytest.raises(ValueError, match="bus_bytes must be a power of two from 65536"):
        Ring.sections(size)


def test_numbers_of_one_ring_are_above_those_of_the_ring_before():
    first = Ring.create(Region.create(None, identity=b"", generation=1, sections=Ring.sections(LEAST)))
    last = first.publish_many(b"t", [b""] * 10_000, b"s")
    second = Ring.create(Region.create(None, identity=b"", generation=1, sections=Ring.sections(LEAST)))
    assert second.first > last == first.first + 9_999
    reader = follow(second, since=last)
    second.publish(b"t", b"new", b"s")
    assert [(m.payload, m.lagged) for m in reader.read()] == [(b"new", 0)]


# ---- overwritten ------------------------------------------------------------------------------------------------


@given(st.randoms(use_true_random=False), st.sampled_from([LEAST, 2 * LEAST]))
def test_received_and_lagged_are_what_was_published(chance, size):
    ring = new_ring(size, first=chance.choice([1, 10**18]))
    readers = [follow(ring) for _ in range(3)]
    received = [[] for _ in readers]
    lags = [0] * len(readers)

    def read(which, limit):
        for message in readers[which].read(limit):
            received[which].append(message.seq)
            lags[which] += message.lagged
            assert len(received[which]) + lags[which] == message.seq - ring.first + 1
            assert message.payload == bytes([message.seq % 251]) * len(message.payload)

    for _ in range(chance.randrange(1, 60)):
        many = chance.randrange(1, 40)
        for _ in range(many):
            length = chance.choice([0, 10, 100, 1000, 9000, size // 4 - 100])
            ring.publish(b"t", bytes([(ring.last + 1) % 251]) * length, b"s")
        for which in range(len(readers)):
            if chance.random() < 0.3:
                read(which, chance.choice([1, 5, 1000]))
    for which, reader in enumerate(readers):
        while reader.ready():
            read(which, 7)
        assert sum(lags[which : which + 1]) == reader.lagged
        assert len(received[which]) + reader.lagged == ring.last - ring.first + 1
        assert received[which] == sorted({*received[which]})
        assert reader.position == ring.last


def test_who_was_overtaken_goes_on_an_eighth_above_the_oldest(ring):
    reader = follow(ring)
    size = whole(2, 100)
    count = 5 * LEAST // size
    ring.publish_many(b"t", [b"x" * 100] * count, b"s")
    (message,) = reader.read(1)
    kept = ring.last - message.seq + 1
    assert message.lagged == reader.lagged == message.seq - 1
    assert LEAST * 7 // 8 - size < kept * size <= LEAST * 7 // 8
    assert [m.lagged for m in drain(reader)] == [0] * (kept - 1)


def test_one_of_many_topics_has_a_lag_of_all(ring):
    reader = follow(ring, b"rare")
    ring.publish(b"rare", b"1", b"s")
    ring.publish_many(b"often", [b"x" * 100] * 2000, b"s")
    ring.publish(b"rare", b"2", b"s")
    (message,) = reader.read()
    assert (message.payload, message.seq) == (b"2", 2002)
    assert 1000 < message.lagged == reader.lagged < 2001


# ---- since ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [0, 1, 10, 400, 5000])
def test_since(count):
    ring = new_ring(first=1000)
    ring.publish_many(b"t", [b"x" * 100] * count, b"s") if count else None
    oldest = ring.last - LEAST // whole(2, 100) + 1
    for since in {0, 999, 1000, 1001, 1000 + count // 2, ring.last - 1, ring.last, oldest - 1, oldest} - {998}:
        if not 0 <= since <= ring.last:
            continue
        reader = follow(ring, since=since)
        start = max(since, 999)
        found = drain(reader)
        assert len(found) + reader.lagged == ring.last - start
        assert [m.seq for m in found] == [*range(ring.last - len(found) + 1, ring.last + 1)]
        assert bool(reader.lagged) is (start + 1 < oldest)
        if found:
            assert found[0].lagged == reader.lagged
    for wrong in (ring.last + 1, 1 << 63, -1):
        with pytest.raises(ValueError, match=f"since must be .*{ring.last} at most, was {wrong}"):
            follow(ring, since=wrong)


def test_a_reader_goes_on_where_another_was(ring):
    chance = random.Random(3)
    seen = []
    position = ring.last
    for _ in range(60):
        for _ in range(chance.randrange(20)):
            ring.publish(chance.choice([b"a", b"b"]), b"x" * chance.randrange(500), b"s")
        reader = follow(ring, b"a", since=position)
        seen += [m.seq for m in reader.read(chance.randrange(1, 30))]
        position = reader.position
        assert reader.lagged == 0
    every = follow(ring, b"a", since=0)
    assert seen[-20:] == [m.seq for m in drain(every) if m.seq <= position][-20:]


# ---- capacity ---------------------------------------------------------------------------------------------------


@given(st.randoms(use_true_random=False), st.integers(1, 20))
def test_of_what_waits_the_newest_are_kept(chance, capacity):
    ring = new_ring()
    reader = follow(ring, b"a", capacity=capacity)
    wait, received, missed = [], [], 0
    for _ in range(chance.randrange(1, 30)):
        for _ in range(chance.randrange(0, 30)):
            topic = chance.choice([b"a", b"b"])
            number = ring.publish(topic, b"x" * chance.randrange(20), b"s")
            wait += [number] * (topic == b"a")
        if chance.random() < 0.3:
            assert reader.ready() is bool(wait)
            missed += max(len(wait) - capacity, 0)
            wait = wait[-capacity:]
        if chance.random() < 0.5:
            dropped = max(len(wait) - capacity, 0)
            wait = wait[-capacity:]
            taken = reader.read(limit := chance.choice([1, 3, 100]))
            assert [m.seq for m in taken] == wait[:limit]
            if taken:
                assert sum(m.lagged for m in taken) == taken[0].lagged == missed + dropped
                missed = 0
            else:
                missed += dropped
            received += taken
            wait = wait[limit:]
    drain(reader)
    assert reader.lagged == sum(m.lagged for m in received) + missed + max(len(wait) - capacity, 0)


def test_capacity_and_the_ring_turns():
    ring = new_ring()
    reader = follow(ring, capacity=100)
    for count in (50, 5000, 120, 3000, 99):
        before = reader.lagged
        ring.publish_many(b"t", [b"x" * 100] * count, b"s")
        found = drain(reader)
        assert len(found) + reader.lagged - before == count
        assert len(found) == min(count, 100)
        assert [m.seq for m in found] == [*range(ring.last - len(found) + 1, ring.last + 1)]
    with pytest.raises(ValueError, match="capacity must be 1 or more, was 0"):
        follow(ring, capacity=0)
