"""Rows in the log natively: which are appended without Python, which are refused to it, and how they are followed."""

from __future__ import annotations

import os
import struct
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from logs import new_log, open_log

from ntmem._core.log import Log
from ntmem._core.logrecords import KIND_DELETE, KIND_PUT
from ntmem._core.rows import RowLayout, RowLog, Tail

SPACE, OTHER = b"rows", b"series"
FLOATS = RowLayout(("x", "y"), b"ff", 0, 0)
MIXED = RowLayout(("x", "n"), b"fi", 1, 0)


@pytest.fixture
def log() -> Iterator[Log]:
    with new_log(1 << 14) as log:
        yield log


@pytest.fixture
def rows(log: Log) -> RowLog:
    return opened(log)


def opened(log: Log, *, writes: bool = True, max_lag: float = 0) -> RowLog:
    return RowLog(log, SPACE, b"w", writes=writes, max_lag=max_lag)


def tail_at(log: Log, number: int = 0, series: int = 7, layouts: tuple[RowLayout, ...] = (FLOATS, MIXED)) -> Tail:
    tail = Tail(series)
    tail.settle(number, log.committed, log.epoch, list(layouts))
    return tail


def put(log: Log, key: bytes, value: bytes = b"", space: bytes = SPACE, kind: int = KIND_PUT) -> None:
    log.append([(kind, 0, space, key, b"w", value, 0, 0, 0)])


def followed(rows: RowLog, *where: int) -> list[bytes]:
    return rows.follow(*where)[0]


def row_key(number: int, series: int = 7) -> bytes:
    return b"%08x%012x" % (series, number)


# -- appending


def test_a_row_has_the_bytes_of_the_specification(log: Log, rows: RowLog) -> None:
    tail = tail_at(log, 0xABC)
    assert rows.append(tail, 5, 6, {"x": 1.5, "n": -2}) == 0xABC
    assert tail.next == 0xABD
    record = log.get(SPACE, b"00000007" + b"000000000abc")
    assert record.value == struct.pack("<HHIqqdq", 1, 0, 0, 5, 6, 1.5, -2)
    assert (record.kind, record.flags, record.writer) == (KIND_PUT, 0, b"w")


def test_numbers_follow_each_other(log: Log, rows: RowLog) -> None:
    tail = tail_at(log, 3)
    assert [rows.append(tail, 1, 1, {"x": 1.0, "y": 2.0}) for _ in range(5)] == [3, 4, 5, 6, 7]
    other = tail_at(log, 0, series=8)
    assert rows.append(other, 1, 1, {"x": 1.0, "y": 2.0}) == 0
    assert len(followed(rows, 7, 3, 100)) == 5


def test_now_is_the_time_of_the_log(log: Log, rows: RowLog) -> None:
    before = log.now()
    rows.append(tail_at(log), 1, None, {"x": 1.0, "y": 2.0})
    [value] = followed(rows, 7, 0, 9)
    assert before <= struct.unpack_from("<q", value, 16)[0] <= log.now()


@pytest.mark.parametrize(
    ("fields", "layout"),
    [
        ({"x": 1.0, "y": 2.0}, 0),
        ({"y": 2.0, "x": 1.0}, 0),
        ({"x": 1, "y": 2**53}, 0),
        ({"x": -(2**53), "y": float("nan")}, 0),
        ({"x": 1.0, "n": 2**63 - 1}, 1),
        ({"n": -(2**63), "x": 0}, 1),
    ],
)
def test_fields_that_fit(log: Log, rows: RowLog, fields: dict[str, float], layout: int) -> None:
    assert rows.append(tail_at(log), 1, 1, fields) == 0
    [value] = followed(rows, 7, 0, 9)
    assert struct.unpack_from("<H", value)[0] == layout
    names = (FLOATS, MIXED)[layout].names
    kinds = "dd" if layout == 0 else "dq"
    expected = struct.pack("<" + kinds, *(fields[name] for name in names))
    assert value[24:] == expected


@pytest.mark.parametrize(
    ("event", "known", "fields"),
    [
        (1, 1, {"x": 1.0}),
        (1, 1, {"x": 1.0, "y": 1.0, "z": 1.0}),
        (1, 1, {"x": 1.0, "z": 1.0}),
        (1, 1, {}),
        (1, 1, {"x": 2**53 + 1, "y": 1.0}),
        (1, 1, {"x": -(2**53) - 1, "y": 1.0}),
        (1, 1, {"x": 1.0, "n": 1.0}),
        (1, 1, {"x": 1.0, "n": 2**63}),
        (1, 1, {"x": 1.0, "n": True}),
        (1, 1, {"x": "1", "y": 1.0}),
        (1, 1, {"x": None, "y": 1.0}),
        (1, 1, {0: 1.0, 1: 1.0}),
        (-1, 1, {"x": 1.0, "y": 1.0}),
        (2**63, 1, {"x": 1.0, "y": 1.0}),
        (-(2**70), 1, {"x": 1.0, "y": 1.0}),
        (1, -1, {"x": 1.0, "y": 1.0}),
        (1, 2**63, {"x": 1.0, "y": 1.0}),
        (1, 1.0, {"x": 1.0, "y": 1.0}),
        (1.0, 1, {"x": 1.0, "y": 1.0}),
        (True, 1, {"x": 1.0, "y": 1.0}),
        (None, 1, {"x": 1.0, "y": 1.0}),
    ],
)
def test_what_python_has_to_look_at(log: Log, rows: RowLog, event: Any, known: Any, fields: Any) -> None:
    tail, committed = tail_at(log), log.committed
    assert rows.append(tail, event, known, fields) == -1
    assert (tail.next, log.committed, followed(rows, 7, 0, 9)) == (0, committed, [])


def test_a_row_from_before_its_layout_was_known(log: Log, rows: RowLog) -> None:
    tail = tail_at(log, layouts=(RowLayout(("x",), b"f", 0, 100), RowLayout(("n",), b"i", 1, 10)))
    assert rows.append(tail, 1, 99, {"x": 1.0}) == -1
    assert rows.append(tail, 1, 100, {"x": 1.0}) == 0
    assert rows.append(tail, 1, 99, {"n": 1}) == 1


def test_the_layout_of_the_row_before_comes_first(log: Log, rows: RowLog) -> None:
    """Both hold whole numbers; a row stays with those before it."""
    whole, real = RowLayout(("x",), b"i", 0, 0), RowLayout(("x",), b"f", 1, 0)
    tail = tail_at(log, layouts=(whole, real))
    for value in (1, 2, 0.5, 3, 2**60, 4):
        rows.append(tail, 1, 1, {"x": value})
    assert [struct.unpack_from("<H", row)[0] for row in followed(rows, 7, 0, 9)] == [0, 0, 1, 1, 0, 0]


def test_who_may_not_append(log: Log) -> None:
    fields = {"x": 1.0, "y": 1.0}
    assert opened(log, writes=False).append(tail_at(log), 1, 1, fields) == -1
    assert opened(log).append(Tail(7), 1, 1, fields) == -1  # it was never settled
    assert opened(log).append(tail_at(log), 1, 1, fields) == 0


def test_many_fields(rows: RowLog, log: Log) -> None:
    for count, expected in ((128, 0), (129, -1)):
        names = tuple(f"{n}" for n in range(count))
        tail = tail_at(log, series=count, layouts=(RowLayout(names, b"f" * count, 0, 0),))
        assert rows.append(tail, 1, 1, dict.fromkeys(names, 0.5)) == expected
    with new_log(4096) as small:  # and those that are too large for a log
        names = tuple(f"{n}" for n in range(70))
        tail = tail_at(small, layouts=(RowLayout(names, b"f" * 70, 0, 0),))
        assert opened(small).append(tail, 1, 1, dict.fromkeys(names, 0.5)) == -1


def test_layouts_that_are_none() -> None:
    with pytest.raises(ValueError, match="2 fields, 1 kinds"):
        RowLayout(("x", "y"), b"f", 0, 0)
    for wrong in ((["x"], b"f"), (("x",), "f"), (None, b"")):
        with pytest.raises(TypeError):
            RowLayout(*wrong, 0, 0)  # type: ignore[arg-type]


# -- two who append


def test_a_number_is_given_once(log: Log) -> None:
    """Two have the same end of a series; the log decides, and the other has to look."""
    fields = {"x": 1.0, "y": 1.0}
    with_other = open_log(log.region.path)
    one, two = opened(log), opened(with_other)
    first, second = tail_at(log), tail_at(with_other)
    assert one.append(first, 1, 1, fields) == 0
    assert two.append(second, 2, 2, fields) == -1
    assert second.next == 0
    second.settle(1, with_other.committed, with_other.epoch, [FLOATS])
    assert two.append(second, 2, 2, fields) == 1
    assert one.append(first, 3, 3, fields) == -1
    assert [struct.unpack_from("<q", row, 8)[0] for row in followed(one, 7, 0, 9)] == [1, 2]


@pytest.mark.parametrize("what", ["put", "delete"])
def test_a_number_that_was_taken_and_is_deleted_is_taken(log: Log, rows: RowLog, what: str) -> None:
    tail = tail_at(log)
    put(log, row_key(0), bytes(24))
    if what == "delete":
        put(log, row_key(0), kind=KIND_DELETE)
    assert rows.append(tail, 1, 1, {"x": 1.0, "y": 1.0}) == -1


def test_the_log_has_to_reach_back(log: Log, rows: RowLog) -> None:
    """What may have been written and overwritten meanwhile is not known to be absent; nor what is past the log."""
    fields = {"x": 1.0, "y": 1.0}
    tail = tail_at(log)
    position, epoch = log.committed, log.epoch
    assert rows.reaches(position, epoch)
    for number in range(40):
        put(log, b"%d" % number, bytes(400), space=OTHER)
        log.advance_flushed(log.committed)
    assert not rows.reaches(position, epoch)
    assert rows.append(tail, 1, 1, fields) == -1
    assert rows.reaches(log.committed, log.epoch)
    tail = tail_at(log)
    position, epoch = log.committed, log.epoch
    log.lock(60)
    log.raise_barrier()  # who writes past the log does this; the log is empty, and its end where it was
    log.raise_epoch()
    log.unlock()
    assert not rows.reaches(position, epoch)
    assert rows.reaches(position, log.epoch)
    assert rows.append(tail, 1, 1, fields) == -1
    assert rows.append(tail_at(log), 1, 1, fields) == 0


def test_a_full_log(log: Log, rows: RowLog) -> None:
    tail = tail_at(log)
    count = 0
    while rows.append(tail, 1, 1, {"x": 1.0, "y": 1.0}) >= 0:
        count += 1
    assert tail.next == count > 50
    log.advance_flushed(log.committed)
    assert rows.append(tail, 1, 1, {"x": 1.0, "y": 1.0}) == count


def test_threads(log: Log) -> None:
    """Whoever is refused looks where the series ends; every number is somebody's."""
    fields, told = {"x": 1.0, "y": 1.0}, list[int]()

    def work() -> None:
        rows, mine = opened(log), 0
        tail = tail_at(log)
        while mine < 10:
            number = rows.append(tail, 1, 1, fields)
            if number < 0:
                mark = log.committed, log.epoch
                tail.settle(tail.next + len(followed(rows, 7, tail.next, 100)), *mark, [FLOATS])
                continue
            told.append(number)
            mine += 1

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(told) == list(range(40))


# -- following


def test_following(log: Log, rows: RowLog) -> None:
    assert followed(rows, 7, 0, 9) == []
    for number in range(10):
        put(log, row_key(number), b"%d" % number)
    assert followed(rows, 7, 0, 100) == [b"%d" % number for number in range(10)]
    assert followed(rows, 7, 3, 4) == [b"3", b"4", b"5", b"6"]
    assert (followed(rows, 7, 10, 4), followed(rows, 8, 0, 4), followed(rows, 7, 0, 0)) == ([], [], [])
    put(log, row_key(4), kind=KIND_DELETE)
    assert followed(rows, 7, 0, 100) == [b"0", b"1", b"2", b"3"]
    put(log, row_key(2), b"anew")
    assert followed(rows, 7, 2, 1) == [b"anew"]
    assert rows.follow(7, 10, 4) == ([], True)  # the log has nothing of it
    assert rows.follow(7, 4, 4) == ([], False)  # it has: that it is deleted


def test_what_is_not_plain_ends_it(log: Log, rows: RowLog) -> None:
    put(log, row_key(0), b"0")
    log.append([(KIND_PUT, 8, SPACE, row_key(1), b"w", bytes(24), 0, 0, 0)])  # its value is elsewhere
    put(log, row_key(2), b"2")
    assert rows.follow(7, 0, 9) == ([b"0"], False)
    assert followed(rows, 7, 2, 9) == [b"2"]


def test_what_the_log_has_no_more_is_not_followed(log: Log, rows: RowLog) -> None:
    for number in range(200):
        put(log, row_key(number), b"%d" % number)
        log.advance_flushed(log.committed)
    assert followed(rows, 7, 0, 500) == []
    last = [number for number in range(200) if followed(rows, 7, number, 1)]
    assert last == list(range(last[0], 200))
    assert 0 < last[0] < 199


# -- what is newest


def test_newest_changes_when_the_key_is_written(log: Log, rows: RowLog) -> None:
    seen = {rows.newest(OTHER, b"k")}
    for _ in range(5):
        put(log, b"k", space=OTHER)
        assert rows.newest(OTHER, b"k") not in seen
        assert rows.newest(OTHER, b"k") == rows.newest(OTHER, b"k")
        seen.add(rows.newest(OTHER, b"k"))
    put(log, b"k", kind=KIND_DELETE, space=OTHER)
    assert rows.newest(OTHER, b"k") not in seen


@pytest.mark.parametrize("raised", ["raise_floor", "raise_epoch"])
def test_newest_changes_when_somebody_writes_past_the_log(log: Log, rows: RowLog, raised: str) -> None:
    before = rows.newest(OTHER, b"k")
    log.lock(60)
    getattr(log, raised)()
    log.unlock()
    assert rows.newest(OTHER, b"k") != before


# -- where it is nobody's any more


def test_a_log_that_was_shut(log: Log, rows: RowLog) -> None:
    tail = tail_at(log)
    assert rows.append(tail, 1, 1, {"x": 1.0, "y": 1.0}) == 0
    log.shut()
    assert rows.append(tail, 1, 1, {"x": 1.0, "y": 1.0}) == -1


def test_a_forked_child(log: Log, rows: RowLog) -> None:
    tail = tail_at(log)
    assert rows.append(tail, 1, 1, {"x": 1.0, "y": 1.0}) == 0
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            refused = rows.append(tail, 1, 1, {"x": 1.0, "y": 1.0}) == -1
            for call in (
                lambda: followed(rows, 7, 0, 1),
                lambda: rows.newest(SPACE, b"k"),
                lambda: rows.reaches(0, 0),
            ):
                try:
                    call()
                    refused = False
                except RuntimeError:
                    pass
            status = 0 if refused else 2
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert rows.append(tail, 1, 1, {"x": 1.0, "y": 1.0}) == 1
