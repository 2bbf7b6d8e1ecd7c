"""What can be told of a log that dead processes left, beyond the checksums of its groups."""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest
from hostile import Start
from logs import new_log, put

from ntmem._core.examine import examine, settle
from ntmem._core.log import Log, LogDamaged

LINE = 64
WRITER, COMMITTED, RESERVED, SEQUENCE, FLUSHER, CLOCK = (4096 + LINE * line for line in (1, 2, 3, 4, 8, 15))


@pytest.fixture
def log() -> Iterator[Log]:
    """Three groups; the first is on disk."""
    with new_log(4096, 8) as log:
        for key in (b"x", b"a", b"b"):
            log.append([put(key, key * 20)], now=7)
            if key == b"x":
                log.advance_flushed(log.committed)
        yield log


def poke(log: Log, at: int, value: int, size: str = "Q") -> None:
    os.pwrite(log.region.fileno(), struct.pack("<" + size, value), at)


def test_a_log_that_is_as_the_dead_left_it(log: Log) -> None:
    assert examine(log) == examine(log, index=True) == 7
    log.advance_flushed(log.committed)
    assert examine(log) is None


def test_words_set_back_do_not_hide_what_was_committed(log: Log) -> None:
    for word in (COMMITTED, RESERVED):
        poke(log, word, log.flushed)
    with pytest.raises(LogDamaged, match="a whole group stands behind the last one"):
        examine(log)


def test_a_sequence_set_back_would_give_versions_twice(log: Log) -> None:
    poke(log, SEQUENCE, log.next_sequence - 1)
    with pytest.raises(LogDamaged, match="versions do not rise"):
        examine(log)


@pytest.mark.parametrize("mutex", [WRITER, FLUSHER])
@pytest.mark.parametrize("word", [1, 1 << 31, 1 << 30 | 77])
def test_a_mutex_that_nobody_holds_and_nobody_died_with(log: Log, mutex: int, word: int) -> None:
    poke(log, mutex, word, "I")
    with pytest.raises(LogDamaged, match="held, and by nobody"):
        examine(log)


def test_a_writer_who_died_with_the_mutex_is_no_damage(log: Log, start: Start) -> None:
    code = "from logs import open_log; log = open_log(sys.argv[1]); log.lock(1); os.kill(os.getpid(), 9)"
    child = start(code, log.region.path)
    assert child.process.wait() == -9
    assert examine(log) == 7
    log.lock(1)
    log.unlock()
    assert examine(log) == 7


def test_a_group_that_is_damaged(log: Log) -> None:
    ring = Path(log.region.path).stat().st_size - log.capacity
    poke(log, ring + log.flushed + 150, 99, "B")
    with pytest.raises(LogDamaged, match=f"no sound group begins at {log.flushed}"):
        examine(log)


def test_an_index_that_leads_nowhere_is_looked_at_for_readers(log: Log) -> None:
    for slot in range(8):
        poke(log, 8192 + 8 * slot, 0)
    assert examine(log) == 7
    with pytest.raises(LogDamaged, match="index does not lead"):
        examine(log, index=True)


def test_a_time_that_was_told_to_nobody_is_taken_back() -> None:
    with new_log() as log:
        log.set_clock(1000)
        poke(log, CLOCK, 5000, "q")  # as a setter leaves it who dies half-way, or a flipped bit
        examine(log)
        settle(log, 0)
        assert log.clock == (False, 1000)
        poke(log, CLOCK, 5000, "q")
        settle(log, 2000)
        assert log.clock == (False, 2000)
        poke(log, CLOCK, 10, "q")
        with pytest.raises(LogDamaged, match="clock"):
            examine(log)


def test_readers_are_sent_to_the_disk_for_what_is_there(log: Log) -> None:
    assert log.get(b"ns", b"x") is not None
    settle(log, 0)
    assert log.get(b"ns", b"x") is None
    assert log.get(b"ns", b"b") is not None
