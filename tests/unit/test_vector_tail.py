"""The memory of a collection by itself: slots, links and indexes, what is staged, what the dead and what damage leave.

``NTMEM_VECTOR_DAMAGE`` says how many damaged files are looked at.
"""

from __future__ import annotations

import os
import struct
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from hostile import Start
from vectors import DTYPES, LAST, attach_tail, check_search, locked, new_tail, put, search, slots_of

from ntmem._core.region import Region, RegionDamaged, RegionMismatch
from ntmem._core.vectors import FIELDS, NAME_BYTES, Over, VectorTail, WriterBusy, is_alive, sections, sizes, slot_bytes
from ntmem.tiers.points import Point, decode_point

DAMAGED = int(os.environ.get("NTMEM_VECTOR_DAMAGE", "120"))
encode = msgspec.msgpack.encode


def served(tail: VectorTail, limit: int = LAST, count: int | None = None) -> list[int]:
    bits, left = tail.served(tail.count if count is None else count, limit)
    assert left == len(slots_of(bits))
    return slots_of(bits)


def best(
    tail: VectorTail, query: Any, k: int = 10, limit: int = LAST, count: int | None = None, bits: Any = None
) -> list[int]:
    slots, scores = search(tail, np.array([query], np.float32), k, tail.count if count is None else count, limit, bits)
    return [int(slot) for slot, score in zip(slots[0], scores[0], strict=True) if not np.isnan(score)]


# -- slots


@pytest.mark.parametrize("path", [True, False])
def test_a_slot(ram: Path, path: bool) -> None:
    tail = new_tail(path=ram / "v" if path else None)
    assert (tail.count, tail.capacity, tail.is_over, served(tail)) == (0, 4096, False, [])
    assert tail.find("a", LAST) == -1
    assert put(tail, "a", [1, 2, 3, 4], 7, encode({"x": 1}), 5) == 0
    for each in (tail, attach_tail(ram / "v")) if path else (tail,):
        found = each.found(0)
        assert (found.id, found.ts_event, found.ts_known) == ("a", 5, 7)
        assert msgspec.msgpack.decode(found.metadata) == {"x": 1}
        assert (each.count, each.find("a", LAST), each.find("a", 7), each.find("a", 6)) == (1, 0, 0, -1)
        assert each.find("b", LAST) == -1
        assert (served(each), served(each, 6), best(each, [1, 0, 0, 0])) == ([0], [], [0])
        assert each.nbytes > 0


def test_chains() -> None:
    """Whatever the order in which it was known."""
    chance = np.random.default_rng(0)
    for _ in range(30):
        tail, rows = new_tail(), []
        for slot in range(40):
            name, known, is_deletion = f"{chance.integers(5)}", int(chance.integers(1, 12)), chance.integers(4) == 0
            put(tail, name, None if is_deletion else [1, slot, 0, 0], known)
            rows.append((name, known, is_deletion))
        for count in (0, 1, 20, 40):
            for limit in (0, 1, 5, 11, LAST):
                newest: dict[str, int] = {}
                for slot, (name, known, _) in enumerate(rows[:count]):
                    if known <= limit:
                        newest[name] = slot
                right = sorted(slot for slot in newest.values() if not rows[slot][2])
                assert served(tail, limit, count) == right
                assert sorted(best(tail, [0, 1, 0, 0], 99, limit, count)) == right
                if count == 40:
                    for name in "01234x":
                        slot = newest.get(name, -1)
                        assert tail.find(name, limit) == (-1 if slot < 0 or rows[slot][2] else slot)


def test_who_has_counted_fewer_sees_as_many() -> None:
    tail = new_tail()
    put(tail, "a", [1, 0, 0, 0])
    put(tail, "a", [0, 1, 0, 0])
    put(tail, "a", None)
    assert [served(tail, count=count) for count in range(4)] == [[], [0], [1], []]
    assert [best(tail, [1, 1, 0, 0], count=count) for count in range(4)] == [[], [0], [1], []]


def test_bits_of_a_filter() -> None:
    tail = new_tail()
    for slot in range(200):
        put(tail, str(slot % 150), [1, slot, 0, 0])
    bits = np.zeros(4, np.uint64)
    bits[0], bits[2] = 0b1010, 2**63 + 1
    given = bits.copy()
    kept, left = tail.served(200, LAST, bits)
    assert (slots_of(kept), left) == ([128, 191], 2)
    assert sorted(best(tail, [0, 1, 0, 0], 9, bits=bits)) == [128, 191]
    assert bits.tolist() == given.tolist()
    for wrong in (np.zeros(3, np.uint64), np.zeros(5, np.uint64)):
        with pytest.raises(ValueError, match="are 4 words"):
            tail.served(200, LAST, wrong)
        with pytest.raises(ValueError, match="are 4 words"):
            search(tail, np.ones((1, 4), np.float32), 1, 200, LAST, wrong)


@pytest.mark.parametrize("count", [1, 63, 64, 65, 127, 128, 129])
def test_counts_around_a_word_of_bits(count: int) -> None:
    tail = new_tail()
    for slot in range(130):
        put(tail, str(slot), [1, 0, 0, 0])
    assert served(tail, count=count) == [*range(count)] == best(tail, [1, 0, 0, 0], 200, count=count)
    put(tail, "0", None)
    assert served(tail, count=count) == [*range(count)] == best(tail, [1, 0, 0, 0], 200, count=count)
    assert served(tail) == [*range(1, 130)]


# -- texts and memory


class Control:
    """The words of a tail's control page, to be changed as a test wants them."""

    def __init__(self, tail: VectorTail, facts: tuple[int, int, int, int]) -> None:
        self.file = tail.region.fileno()
        words = struct.unpack("<512Q", os.pread(self.file, 4096, 4096))
        [self.count] = [at for at in range(508) if words[at : at + 4] == facts]  # count, newest, specials, arena_used

    def set(self, place: int, word: int) -> None:
        """Set the word that is so many behind the count."""
        os.pwrite(self.file, struct.pack("<Q", word), 4096 + 8 * (self.count + place))

    def set_arena(self, used: int) -> None:
        """Say that so much of the arena is used, and all of it has memory."""
        self.set(3, used)
        self.set(17 + 10, 1 << 38)


def test_texts_at_most() -> None:
    tail = new_tail()
    extras = [encode({"t": b"x" * (size - 6)}) for size in (32_768, 65_535, 65_536)]
    texts = [("i" * 512, b""), ("i" * 511 + "j", extras[0]), ("k" * 1023, extras[1]), ("", b"\x80")]
    for slot, (name, metadata) in enumerate(texts):
        assert put(tail, name, [1, 0, 0, 0], metadata=metadata) == slot
    for name, metadata in (("k" * 1024, b""), ("k", extras[2])):
        with pytest.raises(OSError, match="Invalid argument"):
            put(tail, name, [1, 0, 0, 0], metadata=metadata)
    assert tail.count == len(texts)
    for slot, (name, metadata) in enumerate(texts):
        found = tail.found(slot)
        assert (found.id, found.metadata, tail.find(name, LAST)) == (name, metadata, slot)


def test_the_end_of_the_largest_arena() -> None:
    """It is full there: no text begins anew."""
    tail = new_tail(capacity=1 << 29)
    assert {kind: size for kind, size, _ in tail.region.sections}[10] == 1 << 38
    put(tail, "first", [1, 0, 0, 0], 7, encode({"n": 1}))
    control = Control(tail, (1, 7, 0, 5 + len(encode({"n": 1}))))
    metadata = encode({"text": "x" * 20})
    control.set_arena((1 << 38) - len(metadata) - 23 - len(encode("x" * 20)))
    assert put(tail, "i" * 22, [1, 0, 0, 0], 7, metadata) == 1
    for name in ("ab", "i" * 512):
        with pytest.raises(OSError, match="No space"):
            put(tail, name, [1, 0, 0, 0], 7)
    assert put(tail, "a", [1, 0, 0, 0], 7) == 2
    for _ in range(2):
        with pytest.raises(OSError, match="No space"):
            put(tail, "b", [1, 0, 0, 0], 7)
    found = [tail.found(slot) for slot in range(tail.count)]
    assert [(each.id, each.metadata) for each in found] == [
        ("first", encode({"n": 1})),
        ("i" * 22, metadata),
        ("a", b""),
    ]
    assert [tail.find(each.id, LAST) for each in found] == [0, 1, 2]
    assert dict(tail.interned("text")) == {0: encode("x" * 20)}


def test_squares_take_no_memory_unless_they_are_used() -> None:
    sizes = {}
    for metric in ("ip", "cosine", "l2"):
        tail = new_tail(metric=metric)
        for slot in range(1, 3000):
            put(tail, str(slot), [1, slot, 0, 0])
        rows, steps, squares = tail.arrays(0, 2999)
        assert (squares is None) is (metric != "l2")
        if squares is not None:
            numbers = rows.astype(np.float64) * steps[:, np.newaxis]
            assert np.allclose(squares, (numbers**2).sum(axis=1))
        sizes[metric] = tail.nbytes
    assert sizes["ip"] == sizes["cosine"] <= sizes["l2"] - 3 * 4096


@pytest.mark.parametrize("at_once", [False, True])
def test_memory_of_a_vector(at_once: bool) -> None:
    """What is taken beyond what is used is little, whether it was known how much there would be or not."""
    tail, count = new_tail(384, capacity=1 << 20), 20_000
    extras = [encode({"rank": n, "symbol": f"S{n % 100}USDT"}) for n in range(count)]
    vector = np.ones(384, np.float32)

    def fill() -> None:
        for first in range(0, count, 4000):
            if at_once:
                tail.reserve(4000, sum(map(len, extras[first : first + 4000])) + 4000 * 11, ["rank", "symbol"], 8000)
            for number in range(first, first + 4000):
                tail.stage(f"id-{number:08}", vector, 0, 0, extras[number])
                tail.publish()

    locked(tail, fill)
    used = 384 + 4 + 8 + 8 + 8 + 8 + 2 + 16 + 11 + np.mean([len(each) for each in extras])
    assert used < tail.nbytes / count < used + 70


# -- indexes


@pytest.mark.parametrize("count", [1, 300, 512, 513, 1500])
def test_an_index_with_room_for_more_than_come(count: int) -> None:
    """Levels are left out then; what was there is found in those before."""
    tail, ids = new_tail(capacity=1 << 14), [str(number) for number in range(count)]
    for number in range(count):
        put(tail, ids[number], [1, 0, 0, 0], metadata=encode({"t": f"text {number}"}))
    for more in (3000, 3000, 6000):
        locked(tail, lambda: tail.reserve(more, 0, ["t"], more))  # noqa: B023
        ids += [f"more {len(ids)}", ids[0]]
        for name in ids[-2:]:
            put(tail, name, [1, 0, 0, 0], metadata=encode({"t": f"text {len(ids)}"}))
        newest = {name: slot for slot, name in enumerate(ids)}
        assert {name: tail.find(name, LAST) for name in newest} == newest
        assert tail.find("nobody", LAST) == -1
        for number, data in tail.interned("t"):
            assert tail.intern_number("t", data) == number


@pytest.mark.parametrize("replaced", [False, True])
def test_an_index_that_grows_over_several_levels(ram: Path, replaced: bool) -> None:
    tail, other = new_tail(capacity=16384, path=ram / "v"), attach_tail(ram / "v")
    ids = [str(slot % 700 if replaced else slot) for slot in range(9000)]
    for slot, name in enumerate(ids):
        put(tail, name, [1, slot, 0, 0], metadata=encode({"t": f"text {slot}" if slot % 2 else "same"}))
        if slot in (0, 511, 512, 513, 1023, 1024, 1025, 4095, 4096, 8191, 8999):
            newest = {name: number for number, name in enumerate(ids[: slot + 1])}
            for each in (tail, other):
                assert {name: each.find(name, LAST) for name in newest} == newest
                assert each.find("nobody", LAST) == -1
                texts = dict(each.interned("t"))
                assert len(texts) == (slot + 1) // 2 + 1
                for number, data in texts.items():
                    assert each.intern_number("t", data) == number
                assert each.intern_number("t", encode("none such")) == -1
    with pytest.raises(OSError, match="No space"):
        for slot in range(9000, 16385):
            put(tail, str(slot), [1, 0, 0, 0])
    assert tail.count == tail.capacity == 16384
    assert tail.find("16383", LAST) == 16383
    assert len(best(tail, [1, 0, 0, 0], 99999)) == len({*ids}) + 16384 - 9000


# -- fields and values


def test_columns() -> None:
    tail = new_tail()
    values: list[Any] = [1, -1, 2**63 - 1, 2**63, 0.5, float("nan"), True, None, "x", "x", b"x", [1], {"a": 1}]
    for slot, value in enumerate(values):
        put(tail, str(slot), [1, 0, 0, 0], metadata=encode({"v": value, f"own {slot}": slot}))
    put(tail, "none", [1, 0, 0, 0])
    put(tail, "0", None)
    found = tail.column("v")
    assert found is not None
    kinds, words = found
    assert kinds.tolist() == [1, 1, 1, 3, 2, 2, *[3] * 7, 0, 0]
    assert words[:3].view(np.int64).tolist() == values[:3]
    assert words[4:5].view(np.float64)[0] == 0.5
    interned = dict(tail.interned("v"))
    assert [msgspec.msgpack.decode(interned[int(word)]) for word in words[[3, *range(6, 13)]]] == [2**63, *values[6:]]
    assert words[8] == words[9] != words[10]
    assert tail.column("nobody") is None
    assert tail.interned("nobody") == []
    assert tail.intern_number("nobody", b"x") == -1
    own = tail.column("own 3")
    assert own is not None
    assert own[0].tolist() == [0, 0, 0, 1, *[0] * 11]


def test_fields_at_most() -> None:
    tail = new_tail()
    put(tail, "a", [1, 0, 0, 0], metadata=encode({"n" * NAME_BYTES: 1, "n" * (NAME_BYTES + 1): 2}))
    found = tail.column("n" * NAME_BYTES)
    assert found is not None
    assert found[0].tolist() == [1]
    with pytest.raises(KeyError):
        tail.column("n" * (NAME_BYTES + 1))
    put(tail, "b", [1, 0, 0, 0], metadata=encode({f"f{n}": n for n in range(FIELDS + 10)}))
    for name in (f"f{FIELDS - 1}", "nobody"):
        with pytest.raises(KeyError):
            tail.column(name)
    for n in range(FIELDS - 1):
        found = tail.column(f"f{n}")
        assert found is not None
        assert (found[0].tolist(), found[1][1]) == ([0, 1], n)


def test_a_field_that_comes_late_is_missing_before() -> None:
    tail = new_tail(capacity=16384)
    for slot in range(9000):
        put(tail, str(slot), [1, 0, 0, 0], metadata=encode({f"f{slot // 1500}": slot}))
    for field in range(6):
        found = tail.column(f"f{field}")
        assert found is not None
        assert np.flatnonzero(found[0]).tolist() == [*range(field * 1500, (field + 1) * 1500)]
        assert found[1][field * 1500 : (field + 1) * 1500].tolist() == [*range(field * 1500, (field + 1) * 1500)]


# -- staged and published


def test_what_is_staged_and_never_published(ram: Path) -> None:
    tail, other = new_tail(path=ram / "v"), attach_tail(ram / "v")
    put(tail, "a", [1, 0, 0, 0], metadata=encode({"x": 1}))
    for vector in (None, [9, 9, 9, 9]):
        numbers = None if vector is None else np.array(vector, np.float32)
        locked(tail, lambda: tail.stage("a", numbers, 1, 1, encode({"x": "text", "new": 5})))  # noqa: B023
        for each in (tail, other):
            assert (each.count, served(each), each.find("a", LAST)) == (1, [0], 0)
            assert best(each, [1, 0, 0, 0]) == [0]
    put(other, "b", [1, 1, 0, 0])
    for each in (tail, other):
        assert served(each) == [0, 1]
        assert each.found(1).id == "b"
        for name in ("x", "new"):
            column = each.column(name)
            assert column is not None
            assert column[0].tolist()[1] == 0
        assert each.find("a", LAST) == 0


def test_staging_is_for_who_has_it_locked(ram: Path) -> None:
    tail, other = new_tail(path=ram / "v"), attach_tail(ram / "v")
    vector = np.ones(4, np.float32)
    uses = [lambda: tail.stage("a", vector, 1, 1, b""), tail.publish, tail.end, lambda: tail.settle(1, 1)]
    for use in uses:
        with pytest.raises(RuntimeError, match="lock it first"):
            use()
    tail.lock(1.0)
    with pytest.raises(WriterBusy, match=f"process {os.getpid()}") as caught:
        other.lock(0.01)
    assert caught.value.pid == os.getpid()
    other.unlock()  # nothing, as it has it not
    with pytest.raises(WriterBusy):
        other.lock(0.0)
    with pytest.raises(ValueError, match="has 4 dimensions here, had 3"):
        tail.stage("a", np.ones(3, np.float32), 1, 1, b"")
    tail.unlock()
    tail.unlock()
    assert tail.count == 0
    with pytest.raises(ValueError, match="has 4 dimensions here, had 3"):
        put(other, "a", [1, 2, 3])
    assert put(other, "a", [1, 2, 3, 4]) == 0


def test_an_end() -> None:
    tail = new_tail()
    put(tail, "a", [1, 0, 0, 0])
    locked(tail, tail.end)
    assert tail.is_over
    for _ in range(2):
        with pytest.raises(Over):
            tail.lock(1.0)
    assert served(tail) == [0]


def test_counts_that_are_not_there() -> None:
    tail = new_tail()
    put(tail, "a", [1, 0, 0, 0])
    for use in (
        lambda: tail.found(1),
        lambda: tail.served(2, LAST),
        lambda: search(tail, np.ones((1, 4), np.float32), 1, 2, LAST),
        lambda: tail.found(2**63),
    ):
        with pytest.raises((ValueError, OverflowError)):
            use()
    with pytest.raises(ValueError, match="4 dimensions"):
        search(tail, np.ones((1, 3), np.float32), 1, 1, LAST)
    assert [each.shape for each in search(tail, np.ones((0, 4), np.float32), 3, 1, LAST)] == [(0, 1)] * 2
    assert [each.shape for each in search(tail, np.ones((2, 4), np.float32), 3, 0, LAST)] == [(2, 0)] * 2


def test_sizes_of_vectors() -> None:
    assert sizes(np.array([[1, -3], [0, 0.5]], np.float32)) == (0.5, 3.0)
    assert sizes(np.zeros((2, 2), np.float32)) == (0.0, 0.0)
    for wrong in ([1, np.nan], [np.nan, 1]):
        assert np.isnan(sizes(np.array([[5, 5], wrong], np.float32))[1])
    assert sizes(np.array([[1, -np.inf]], np.float32))[1] == np.inf


@pytest.mark.parametrize("place", [6, 7])
def test_levels_that_cannot_be(place: int) -> None:
    tail = new_tail()
    put(tail, "a", [1, 0, 0, 0], 7, encode({"t": "text"}))
    control = Control(tail, (1, 7, 0, 1 + len(encode({"t": "text"})) + len(encode("text"))))
    room = (4 if place == 6 else 16) * tail.capacity  # entries that a section has
    for wrong in (room, 2 * room, 1 << 40, 1 << 63, (1 << 64) - 1):
        control.set(place, wrong)
        assert tail.find("a", LAST) == 0
        assert tail.find("b", LAST) == tail.intern_number("t", encode("none such")) == -1
        with pytest.raises(RegionDamaged, match="beyond its memory"):
            put(tail, "b", [1, 0, 0, 0])
    control.set(place, 1 << 10)
    assert put(tail, "b", [1, 0, 0, 0]) == 1


# -- records


def apply_plainly(tail: VectorTail, record: bytes) -> None:
    """Do what :meth:`VectorTail.apply` does, by way of Python's objects."""
    point = decode_point(record)
    tail.stage(*point)
    tail.publish()


def follow(tail: VectorTail, record: bytes) -> None:
    """Apply a record as a collection does."""
    if not tail.apply(record):
        apply_plainly(tail, record)


def outcome(tail: VectorTail, do: Any, record: bytes) -> Any:
    """Return what becomes of applying a record: an error as its type and words, or the change as it is then there."""
    try:
        locked(tail, lambda: do(tail, record))
    except Exception as error:
        return type(error), str(error)
    slot = tail.count - 1
    found = tail.found(slot)
    row = [each if each is None else each.tobytes() for each in tail.arrays(slot, slot + 1)]
    columns = [tail.column(name) for name in ("n", "t", "x")]
    return (
        (found.id, found.metadata, found.ts_event, found.ts_known),
        row if slot in served(tail) else None,
        [None if each is None else (each[0][slot], each[1][slot] * (each[0][slot] > 0)) for each in columns],
        tail.find(found.id, LAST),
    )


RECORDS = [
    Point("a", np.array([1, -2, 3, 0.5], np.float32), 5, 7, encode({"n": 1, "t": "text"})).encode(),
    Point("a", None, 6, 8, b"").encode(),
    Point("\u00e4" * 256, np.array([1, 0, 0, 0], np.float32), -1, 9, encode({"x": 0.5, "n": 2**63})).encode(),
    Point("b", np.array([0, 1, 0, 0], np.float32), 0, 0, b"").encode(),
    Point("a", np.array([0, 0, 0, 1], np.float32), 2**62, 1, encode({})).encode(),
]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("metric", ["ip", "cosine", "l2"])
def test_records(dtype: str, metric: str) -> None:
    one, other = new_tail(4, dtype, metric), new_tail(4, dtype, metric)
    for record in RECORDS:
        assert locked(one, lambda: one.apply(record)) is True  # noqa: B023
        locked(other, lambda: apply_plainly(other, record))  # noqa: B023
        assert served(one) == served(other)
    for slot in range(len(RECORDS)):
        (a, b) = (each.found(slot) for each in (one, other))
        assert (a.id, a.metadata, a.ts_event, a.ts_known) == (b.id, b.metadata, b.ts_event, b.ts_known)
    for a, b in zip(one.arrays(2, 5), other.arrays(2, 5), strict=True):
        assert (a is None) is (b is None) is False or metric != "l2"
        assert a is None or a.tobytes() == b.tobytes()
    assert one.find("a", LAST) == 4
    with pytest.raises(RuntimeError, match="lock it first"):
        one.apply(RECORDS[0])
    with pytest.raises(TypeError):
        locked(one, lambda: one.apply(bytearray(RECORDS[0])))  # type: ignore[arg-type]


def test_damaged_records() -> None:
    """They are refused in the same words, or say something else to both."""
    one, other = new_tail(capacity=1 << 14), new_tail(capacity=1 << 14)
    chance, told = np.random.default_rng(7), Counter[str]()
    for turn in range(4000):
        record = bytearray(RECORDS[turn % len(RECORDS)])
        style, at = turn // len(RECORDS) % 4, int(chance.integers(len(record)))
        if style == 0:
            record[at % 24] = int(chance.choice([0, 1, 2, 255, record[at % 24] ^ 1 << int(chance.integers(8))]))
        elif style == 1:
            del record[at:]
        elif style == 2:
            record[at] ^= 1 << int(chance.integers(8))
        else:
            struct.pack_into("<HI", record, 2, *map(int, chance.choice([0, 1, 4, 24, 65_535], 2)))
        first, second = (outcome(tail, do, bytes(record)) for tail, do in ((one, follow), (other, apply_plainly)))
        assert first == second, (turn, bytes(record))
        assert one.count == other.count
        told[first[0].__name__ if isinstance(first[0], type) else "applied"] += 1
    assert told["CorruptionError"] > 1000
    assert told["applied"] > 1000
    assert {"ValueError", "DecodeError"} <= {*told}


# -- files of others


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_file_of_other_vectors(ram: Path, dtype: str) -> None:
    new_tail(40, dtype, path=ram / "v")
    attach_tail(ram / "v", 40, dtype)
    others = [(each, 40) for each in DTYPES if each != dtype] + [(dtype, 200), (dtype, 1)]
    for other, dimension in others:
        if slot_bytes(dimension, other) != slot_bytes(40, dtype):
            with pytest.raises(RegionDamaged, match=f"not of vectors of {dimension} dimensions as {other}"):
                attach_tail(ram / "v", dimension, other)
    with pytest.raises(RegionMismatch):
        Region.attach(ram / "v", identity=b"another")


def test_regions_that_are_none_of_vectors() -> None:
    all_of = sections(4, "int8", 4096)
    for number in range(len(all_of)):
        less = all_of[:number] + all_of[number + 1 :]
        other = [(kind, size + 8 * (place == number), flags) for place, (kind, size, flags) in enumerate(all_of)]
        for each in (less, other):
            region = Region.create(None, identity=b"v", generation=0, sections=each)
            with pytest.raises(RegionDamaged):
                VectorTail(region, 4, "int8", "ip", is_new=True)
    region = Region.create(None, identity=b"v", generation=0, sections=all_of)
    with pytest.raises(RegionDamaged, match="its lock is none"):
        VectorTail(region, 4, "int8", "ip")
    with pytest.raises(ValueError, match="no kernels 'none such'"):
        VectorTail(region, 4, "int8", "ip", "none such", is_new=True)


def test_a_forked_child(ram: Path, start: Start) -> None:
    child = start(
        """
from vectors import *
tail = new_tail(path=sys.argv[1])
put(tail, "a", [1, 0, 0, 0])
pid = os.fork()
if pid == 0:
    refused = 0
    for use in (lambda: tail.lock(0), lambda: tail.find("a", 1), lambda: tail.found(0), lambda: tail.served(1, 1),
                lambda: search(tail, np.ones((1, 4), np.float32), 1, 1, 1), lambda: tail.column("x"),
                lambda: tail.interned("x"), lambda: tail.intern_number("x", b""), lambda: tail.count,
                lambda: tail.is_over):
        try:
            use()
        except RuntimeError:
            refused += 1
    attach_tail(sys.argv[1]).find("a", 1)
    os._exit(refused)
_, status = os.waitpid(pid, 0)
say(os.waitstatus_to_exitcode(status), tail.count)
""",
        ram / "v",
    )
    assert child.line() == "10 1"
    child.end()


def test_who_dies_with_the_lock(ram: Path, start: Start) -> None:
    tail = new_tail(path=ram / "v")
    for turn in range(2):
        child = start(
            """
from vectors import *
tail = attach_tail(sys.argv[1])
tail.lock(1.0)
if sys.argv[2] != "0":
    tail.stage("staged", np.ones(4, np.float32), 1, 1, b"")
say("locked"); hear()
""",
            ram / "v",
            turn % 2,
        )
        assert child.line() == "locked"
        with pytest.raises(WriterBusy) as caught:
            tail.lock(0.0)
        assert caught.value.pid == child.pid
        child.kill()
        assert put(tail, str(turn), [1, 0, 0, 0]) == turn
        assert served(tail) == [*range(turn + 1)]
        assert tail.find("staged", LAST) == -1


# -- damage

DAMAGE = """
import random, resource, shutil, struct
from vectors import *
from ntmem._core.region import RegionDamaged
from ntmem._core.vectors import Over, WriterBusy
import msgspec
path, first, last, writes = sys.argv[1], *map(int, sys.argv[2:])
DIMENSION = 12
def fresh():
    if os.path.exists(path): os.unlink(path)
    return new_tail(DIMENSION, *how, capacity=1024, path=path)
how = ("int8", "float16", "float32")[first % 3], ("ip", "l2", "cosine")[first % 2]
tail = fresh()
chance = np.random.default_rng(1)
for n in range(700):
    metadata = {"n": n, "t": f"text {n % 90}", f"f{n % 20}": [n], "x": 0.5 * n}
    vector = None if n % 17 == 5 else chance.normal(size=DIMENSION)
    put(tail, str(n % 500), vector, 1 + n % 11, msgspec.msgpack.encode(metadata), n)
offsets, page = {0: (4096, 4096)}, 8192
header_sections = tail.region.sections
at = 8192
for kind, size, _ in header_sections:
    offsets[kind] = (at, size)
    at += (size + 4095) // 4096 * 4096
assert at == os.stat(path).st_size, (at, os.stat(path).st_size)
pristine = {}
with open(path, "rb") as file:
    hole = at
    position = 0
    while True:
        try:
            position = os.lseek(file.fileno(), position, os.SEEK_DATA)
        except OSError:
            break
        end = os.lseek(file.fileno(), position, os.SEEK_HOLE)
        pristine[position] = os.pread(file.fileno(), end - position, position)
        position = end
del tail
WORDS = [0, 1, 2, 7, 63, 64, 65, 511, 1023, 1024, 1025, 4096, 2**16, 2**31 - 1, 2**31, 2**32 - 1, 2**32, 2**40, 2**62,
         2**63 - 1, 2**63, 2**64 - 1, 2**64 - 8]
def damage(seed):
    rng = random.Random(seed)
    with open(path, "r+b") as file:
        for position, data in pristine.items():
            os.pwrite(file.fileno(), data, position)
        told = []
        for _ in range(rng.choice([1, 1, 2, 5])):
            kind = rng.choice([0, 0, 0, *offsets])
            begin, size = offsets[kind]
            used = min(size, rng.choice([256, 4096, 1 << 16]))
            place = rng.randrange(0, used)
            style = rng.randrange(4)
            if style == 0:
                data = rng.randbytes(min(used - place, rng.choice([1, 4, 8, 64, 5000])))
            elif style == 1:
                place = place // 8 * 8
                data = struct.pack("<Q", rng.choice(WORDS))
            elif style == 2:
                place = place // 4 * 4
                data = struct.pack("<I", rng.choice(WORDS) % 2**32)
            else:
                data = b"\\xff" * min(used - place, 300)
            if kind == 0 and place < 64 and rng.random() < 0.7:
                place = 64 + place
            data = data[: size - place]
            os.pwrite(file.fileno(), data, begin + place)
            told.append((kind, place, len(data), style))
    return told
REFUSED = (RegionDamaged, ValueError, KeyError, OSError, Over, WriterBusy, MemoryError, msgspec.MsgspecError, TypeError,
           AttributeError, OverflowError)
def attempt(use):
    try:
        return use()
    except REFUSED:
        return None
query = np.ones((2, DIMENSION), np.float32)
def look():
    tail = attempt(lambda: attach_tail(path, DIMENSION, *how))
    if tail is None:
        return
    count = tail.count
    for limit in (0, 5, 11, 2**63 - 1):
        for n in (count, 700, 65, 1):
            attempt(lambda: search(tail, query, 5, n, limit))
            attempt(lambda: tail.served(n, limit))
        for name in ("0", "3", "499", "nobody"):
            attempt(lambda: tail.find(name, limit))
    for slot in (0, 5, 640, 699, 700, count - 1, 1023):
        if slot >= 0:
            attempt(lambda: tail.found(slot))
    for name in ("n", "t", "f3", "x", "nobody"):
        attempt(lambda: [each.sum() for each in tail.column(name)])
        attempt(lambda: tail.interned(name))
        attempt(lambda: tail.intern_number(name, msgspec.msgpack.encode("text 5")))
    attempt(lambda: tail.nbytes)
    if writes:
        def write():
            tail.lock(0.0)
            try:
                for name in ("0", "new"):
                    tail.stage(name, query[0], 1, 1, msgspec.msgpack.encode({"t": "text 5", "u": "v", "w": 1.5}))
                    tail.publish()
            finally:
                tail.unlock()
        attempt(write)
for seed in range(first, last):
    told = damage(seed)
    pid = os.fork()
    if pid == 0:
        signal.alarm(20)
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        try:
            look()
        except BaseException as error:
            import traceback; traceback.print_exc()
            os._exit(9)
        os._exit(0)
    _, status = os.waitpid(pid, 0)
    if status:
        say("seed", seed, "status", os.waitstatus_to_exitcode(status), told)
say("done")
"""


@pytest.mark.parametrize("writes", [False, True], ids=["read", "written"])
def test_damaged_files(ram: Path, start: Start, writes: bool) -> None:
    """Whatever stands in the file: an error or an answer, not the end of who looks, and no waiting without an end."""
    bad: list[str] = []
    for part in range(6):
        share = max(DAMAGED // 12, 1)
        child = start(DAMAGE, ram / f"v{part}", part * 1_000_000 + part, part * 1_000_000 + part + share, int(writes))
        while (line := child.line()) != "done":
            bad.append(line)
        child.end()
    assert bad == []


def test_a_chain_of_links_that_is_damaged(ram: Path) -> None:
    """Rings and links to what is not there end."""
    tail = new_tail(path=ram / "v")
    for slot in range(6):
        put(tail, "a", [1, slot, 0, 0], 10 - slot)
    at = 8192
    for kind, size, _ in tail.region.sections:
        if kind == 6:
            break
        at += (size + 4095) // 4096 * 4096
    chance = np.random.default_rng(3)
    with open(ram / "v", "r+b") as file:
        for _ in range(300):
            links = chance.choice([0, 1, 2, 3, 4, 5, 6, 7, 4096, 4097, 2**32 - 1], 12)
            file.seek(at)
            file.write(struct.pack("<12I", *map(int, links)))
            file.flush()
            for limit in (0, 5, 8, LAST):
                assert {*served(tail, limit)} <= {*range(6)}
                assert -1 <= tail.find("a", limit) < 6


def test_scores_as_of_brute_force_through_the_tail() -> None:
    from vectors import Plain

    class Hit:
        def __init__(self, tail: VectorTail, slot: int, score: float) -> None:
            found = tail.found(slot)
            self.id, self.score, self.metadata = found.id, score, {}
            self.ts_event, self.ts_known = found.ts_event, found.ts_known

    for metric in ("cosine", "l2", "ip"):
        for dtype in DTYPES:
            tail, plain = new_tail(7, dtype, metric), Plain(metric, dtype)
            rows = np.random.default_rng(4).normal(size=(100, 7))
            for slot in range(100):
                put(tail, str(slot % 60), rows[slot], 1)
                plain.add(str(slot % 60), rows[slot], None, 0, 1)
            slots, scores = search(tail, rows[:3].astype(np.float32), 20, 100, LAST)
            for n in range(3):
                hits = [Hit(tail, int(s), float(x)) for s, x in zip(slots[n], scores[n], strict=True)]
                check_search(hits, plain, rows[n].astype(np.float32), 20)


def test_what_is_left_of_a_process_is_none() -> None:
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    assert is_alive(child.pid)
    child.kill()
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    assert not is_alive(child.pid)
    child.communicate()
    assert not is_alive(child.pid)
    assert is_alive(os.getpid())
