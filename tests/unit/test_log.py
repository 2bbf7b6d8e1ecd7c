"""The commit log in one process: bytes, chains, conditions, room, and random operations against a dict."""

from __future__ import annotations

import os
import struct
import threading
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from logs import new_log, open_log, put, unflushed

from ntmem._core import failpoints
from ntmem._core import log as log_module
from ntmem._core.log import (
    Conflict,
    Log,
    LogDamaged,
    LogFull,
    LookAgain,
    Overwritten,
    ValueTooLarge,
    crc32c,
)
from ntmem._core.logrecords import KIND_DELETE
from ntmem._core.region import Region

GENERATION = 1 << 44


@pytest.fixture
def log():
    with new_log() as log:
        yield log


def ring_offset(log: Log) -> int:
    index, _ = log.region.sections
    return 8192 + -(-index[1] // 4096) * 4096


def flush(log: Log) -> None:
    log.advance_flushed(log.committed)


# ---- bytes ----


def test_checksum_is_crc32c_both_ways():
    assert crc32c(b"123456789") == crc32c(b"123456789", portable=True) == 0xE3069283


@given(st.binary(max_size=300))
def test_both_checksums_agree(data):
    assert crc32c(data) == crc32c(data, portable=True)


def test_a_group_has_the_bytes_of_the_specification(log):
    log.append([(7, 9, b"desk", b"AAPL", b"me", memoryview(b"42"), -1, 2**62, 5)], now=77)
    raw = os.pread(log.region.fileno(), log.committed, ring_offset(log))
    magic, crc, position, version, _, now, size, records, pid = struct.unpack_from("<IIQQQqIII", raw)
    assert (magic, position, version, now, size, records, pid) == (
        0x50524721, 0, GENERATION | 1, 77, log.committed, 1, os.getpid(),
    )  # fmt: skip
    assert crc == crc32c(raw[8:size])
    fields = struct.unpack_from("<IIHHBBHQqqqQII", raw, 64)
    assert fields[:11] == (4, 2, 4, 2, 7, 9, 0, GENERATION | 1, -1, 2**62, 5)
    assert fields[12:] == (0, 0)
    assert raw[128:] == b"deskAAPLme42".ljust(16, b"\0")


def test_all_fields_come_back(log):
    log.append([(7, 9, b"", b"k", b"", bytearray(b"42"), -1, 2**62, 5)])
    found = log.get(b"", b"k")
    assert (found.kind, found.flags, found.writer, found.value) == (7, 9, b"", b"42")
    assert (found.ts_event, found.ts_known, found.expires_at, found.version) == (-1, 2**62, 5, GENERATION | 1)


def test_a_key_is_namespace_and_key_not_their_sum(log):
    log.append([put(b"bc", b"1", namespace=b"a"), put(b"c", b"2", namespace=b"ab")])
    assert log.get(b"a", b"bc").value == b"1"
    assert log.get(b"ab", b"c").value == b"2"
    assert log.get(b"", b"abc") is None


def test_keys_of_64_kib():
    with new_log(1 << 20) as log:
        log.append([put(b"k" * 65536, b"v", namespace=b"n" * 65535)])
        assert log.get(b"n" * 65535, b"k" * 65536).value == b"v"
        with pytest.raises(ValueError, match="65536 bytes, had 65537"):
            log.append([put(b"k" * 65537, b"v")])


@pytest.mark.parametrize(
    ("record", "error"),
    [
        ((1, 0, b"n", b"k", b"w", "text", 0, 0, 0), TypeError),
        ((1, 0, "n", b"k", b"w", b"v", 0, 0, 0), TypeError),
        ((1, 0, b"n", None, b"w", b"v", 0, 0, 0), TypeError),
        ((1, 0, b"n", b"k", b"w", b"v", 0, 0), ValueError),
        ((256, 0, b"n", b"k", b"w", b"v", 0, 0, 0), OverflowError),
        ((1, 0, b"n", b"k", b"w", b"v", 2**63, 0, 0), OverflowError),
    ],
)
def test_what_is_no_record_is_refused_and_nothing_written(log, record, error):
    with pytest.raises(error):
        log.append([put(b"a", b"1"), record])
    with pytest.raises(ValueError, match="at least one record"):
        log.append([])
    assert log.committed == 0


# ---- the ring ----


def test_the_ring_wraps_many_times(log):
    for number in range(5_000):
        value = b"%d " % number * (number % 40)
        assert log.append([put(b"k%d" % (number % 7), value)]) == GENERATION | number + 1
        assert log.get(b"ns", b"k%d" % (number % 7)).value == value
        [[record]] = unflushed(log)
        assert record.value == value
        flush(log)
    assert log.committed > 50 * log.capacity


def test_too_large_is_an_error_that_says_so(log):
    log.append([put(b"k", bytes(log.capacity // 8))])
    with pytest.raises(ValueTooLarge, match="2049 bytes, over an eighth of the log's 16384"):
        log.append([put(b"k", bytes(log.capacity // 8 + 1))])
    with pytest.raises(ValueTooLarge, match="over half of the log's 16384"):
        log.append([put(b"k", bytes(2000))] * 4)


def test_no_room_is_an_error_and_room_comes_with_the_flusher(log):
    with pytest.raises(LogFull, match=r"of 16384 are not on disk yet"):
        while True:
            log.append([put(b"k", bytes(1000))], timeout=0)
    assert log.committed > log.capacity - 1200
    before, [first, *_] = log.committed, unflushed(log)
    with pytest.raises(LogFull):
        log.append([put(b"k", bytes(1000))], timeout=0.01)
    assert (log.committed, unflushed(log)[0][0].version) == (before, first[0].version)
    done = []
    waiting = threading.Thread(target=lambda: done.append(log.append([put(b"late", bytes(1000))], timeout=60)))
    waiting.start()
    _, position = log.read_groups(log.flushed, 1)
    log.advance_flushed(position)
    waiting.join()
    assert done == [log.get(b"ns", b"late").version]


def test_waiting_for_commit_and_flush(log):
    assert log.wait_committed(0, 0) == 0
    assert not log.wait_flushed(1, 0.001)
    seen = []
    threads = [
        threading.Thread(target=lambda: seen.append(log.wait_committed(0, 60))),
        threading.Thread(target=lambda: seen.append(log.wait_flushed(64, 60))),
    ]
    for thread in threads:
        thread.start()
    log.append([put(b"k", b"v")])
    flush(log)
    for thread in threads:
        thread.join()
    assert sorted(seen) == [True, log.committed]


def test_flushed_moves_forward_by_whole_groups(log):
    log.append([put(b"a", b"1")])
    first = log.committed
    log.append([put(b"b", b"2")])
    for position, why in [(16, "no group ends there"), (first + 1, "no group ends"), (1 << 20, "committed is at")]:
        with pytest.raises(ValueError, match=why):
            log.advance_flushed(position)
    log.advance_flushed(first)
    with pytest.raises(ValueError, match="flushed is at"):
        log.advance_flushed(0)
    assert [[record.key for record in group] for group in unflushed(log)] == [[b"b"]]


def test_read_groups_refuses_what_is_gone_and_what_is_damaged(log):
    for _ in range(100):
        log.append([put(b"k", bytes(500))])
        flush(log)
    with pytest.raises(Overwritten, match="not to 0"):
        log.read_groups(0)
    log.append([put(b"k", b"good")])
    log.append([put(b"k", b"good")])
    place = ring_offset(log) + log.flushed % log.capacity
    for offset in range(144):  # header, names and value; the rest is padding, and checked as well
        byte = os.pread(log.region.fileno(), 1, place + offset)
        os.pwrite(log.region.fileno(), bytes([byte[0] ^ 4]), place + offset)
        with pytest.raises(LogDamaged, match="no sound group begins at"):
            log.read_groups(log.flushed)
        os.pwrite(log.region.fileno(), byte, place + offset)
    assert len(unflushed(log)) == 2


def test_read_groups_stops_near_the_limit_but_gives_one_group(log):
    for _ in range(5):
        log.append([put(b"k", bytes(1000))])
    groups, position = log.read_groups(0, 1)
    assert len(groups) == 1
    groups, position = log.read_groups(position, 2500)
    assert len(groups) == 2
    groups, position = log.read_groups(position)
    assert (len(groups), position) == (2, log.committed)
    with pytest.raises(LogDamaged):
        log.read_groups(position + 16)


def test_a_group_larger_than_the_buffer_is_read(log):
    log.append([put(b"%d" % i, bytes(1500)) for i in range(5)])
    [[*records]] = log.read_groups(0, 1)[0]
    assert len(records) == 5


def test_append_each_makes_groups_of_their_own(log):
    assert log.append_each([put(b"k%d" % i, b"v") for i in range(20)]) == GENERATION | 1
    assert [[r.version & 255 for r in group] for group in unflushed(log)] == [[i] for i in range(1, 21)]
    with pytest.raises(LogFull):
        log.append_each([put(b"k", bytes(1000))] * 100, timeout=0)


# ---- conditions ----


def test_conditions(log):
    first = log.append([put(b"k", b"1", 0, 0)])
    with pytest.raises(Conflict) as caught:
        log.append([put(b"x", b"2"), put(b"k", b"2", 0, 0)])
    assert (caught.value.index, caught.value.version) == (1, first)
    assert log.get(b"ns", b"x") is None
    second = log.append([put(b"k", b"2", first, 0)])
    log.append([put(b"k", b"", second, 0, kind=KIND_DELETE)])
    log.append([put(b"k", b"3", 0, second)])
    assert log.get(b"ns", b"k").value == b"3"
    log.append([put(b"never", b"", None, 0)])


def test_a_stored_version_counts_when_the_log_knows_nothing(log):
    log.append([put(b"k", b"1", 77, 77)])
    with pytest.raises(Conflict):
        log.append([put(b"other", b"1", 77, 78)])


def test_an_expired_record_is_absent_in_conditions(log):
    log.append([(1, 0, b"ns", b"k", b"w", b"v", 0, 0, 100)])
    with pytest.raises(Conflict):
        log.append([put(b"k", b"", 0, 0)], now=99)
    log.append([put(b"k", b"", 0, 0)], now=100)


def test_a_snapshot_from_before_what_the_log_still_has_cannot_tell(log):
    log.append([put(b"k", b"changed")])
    flush(log)
    snapshot = 0  # begun before that change reached the disk
    while log.begin <= snapshot:
        log.append([put(b"other", bytes(500))])
        flush(log)
    with pytest.raises(LookAgain):
        log.append([put(b"k", b"1", 0, 0)], snapshot=snapshot)
    with pytest.raises(LookAgain):
        log.get_many([(b"ns", b"k")], snapshot=snapshot)
    assert log.get_many([(b"ns", b"k")], snapshot=log.flushed) == [None]
    log.append([put(b"k", b"1", 0, 0)], snapshot=log.flushed)


# ---- the oracle ----

KEYS = st.sampled_from([b"a", b"b", b"cc", b"ddd", b"e" * 40])
RECORDS = st.lists(st.tuples(KEYS, st.binary(max_size=300)), min_size=1, max_size=25)
STEPS = st.lists(st.one_of(RECORDS, st.floats(0, 1)), max_size=60)


@given(STEPS, st.sampled_from([1, 2, 64]))
def test_get_finds_exactly_what_is_not_flushed(steps, slots):
    with new_log(1 << 14, slots) as log:
        other = open_log(log.region.path)
        groups: list[tuple[int, list[tuple[bytes, bytes]]]] = []  # where it ends, what it is
        stored: dict[bytes, bytes] = {}
        flushed = version = 0
        for step in steps:
            if isinstance(step, float):
                count = flushed + int(step * (len(groups) - flushed))
            else:
                with_room = sum(176 + len(value) for _, value in step) + 64 < log.capacity // 2
                if not with_room:
                    continue
                try:
                    first = log.append([put(key, value) for key, value in step], timeout=0)
                except LogFull:
                    count = len(groups)
                else:
                    assert first == GENERATION | version + 1
                    version += len(step)
                    groups.append((log.committed, step))
                    count = flushed
            for end, group in groups[flushed:count]:
                stored.update(group)
                log.advance_flushed(end)
            flushed = count
            state = stored.copy()
            for _, group in groups[flushed:]:
                state.update(group)
            waiting = {key for _, group in groups[flushed:] for key, _ in group}
            keys = [b"a", b"b", b"cc", b"ddd", b"e" * 40, b"none"]
            found = other.get_many([(b"ns", key) for key in keys], snapshot=log.flushed)
            for key, record in zip(keys, found, strict=True):
                single = log.get(b"ns", key)
                assert (record is not None) == (key in waiting)
                if record is not None or single is not None:
                    assert single.value == state[key]
                    assert record is None or record.version == single.version
            assert [[(r.key, r.value) for r in group] for group in unflushed(other)] == [
                group for _, group in groups[flushed:]
            ]


def test_one_busy_key_does_not_make_its_slot_slow():
    """Counted by the bytes a miss needs: if it walked the busy key's records it would meet the damaged one."""
    with new_log(1 << 16, 1) as log:
        log.append([put(b"quiet", b"1")])
        for _ in range(50):
            log.append([put(b"busy", b"2")])
        middle = ring_offset(log) + log.committed // 2 // 128 * 128
        os.pwrite(log.region.fileno(), b"\xff" * 512, middle)
        assert log.get(b"ns", b"quiet").value == b"1"
        assert log.get(b"ns", b"none") is None


# ---- this build ----


def test_this_build_has_no_failpoints():
    assert failpoints.failpoints() == ()
    with pytest.raises(RuntimeError, match="NTMEM_FAILPOINTS=1"):
        failpoints.arm("locked", "kill")
    binary = Path(log_module.__file__).read_bytes()
    assert b"half_written" not in binary
    assert b"half_copied" not in binary


def test_a_forked_child_is_told_to_open_again(log):
    pid = os.fork()
    if pid == 0:
        refused = 0
        for use in (lambda: log.get(b"", b""), lambda: log.append([put(b"k", b"v")]), lambda: log.committed):
            try:
                use()
            except RuntimeError as error:
                refused += "open it again" in str(error)
        mine = open_log(log.region.path)
        mine.append([put(b"child", b"v")])
        os._exit(refused)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 3
    assert log.get(b"ns", b"child").value == b"v"


def test_a_private_log_needs_no_name():
    region = Region.create(None, identity=b"", generation=5, sections=Log.sections(4096, 1))
    log = Log.create(region)
    with pytest.raises(ValueError, match="already"):
        Log.create(region)
    assert log.append([put(b"k", b"v")]) == 5 << 44 | 1
    with pytest.raises(ValueError, match="stays private"):
        region.publish()
