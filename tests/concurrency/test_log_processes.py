"""Several processes at one log: nothing torn, versions only rise, transactions seen whole."""

from __future__ import annotations

import os
import signal
from concurrent.futures import ThreadPoolExecutor

import pytest
from hostile import Start, children
from logs import Nursery, new_log, put, unflushed

from ntmem._core.log import LogFull

SEEN = """
import zlib
def payload(writer, number):
    body = b"%d/%d/" % (writer, number) + b"q" * (number * 131 % 700)
    return body + b"/%d" % zlib.crc32(body)
def check(value):
    body, _, crc = value.rpartition(b"/")
    assert int(crc) == zlib.crc32(body), "torn"
    return tuple(map(int, body.split(b"/")[:2]))
"""
WRITER = (
    SEEN
    + """
number = 0
while log.get(b"ns", b"stop") is None:
    value = payload(writer, number)
    log.append([put(b"x%d" % writer, value), put(b"shared", value), put(b"y%d" % writer, value)], timeout=60)
    number += 1
os._exit(0)
"""
)
READER = (
    SEEN
    + """
last, found, whole = {}, 0, 0
while min(found, whole) < 3000:
    for writer in range(writers):
        for key in (b"x%d" % writer, b"shared"):
            record = log.get(b"ns", key)
            if record is not None:
                assert record.version >= last.get(key, 0), "went back"
                last[key] = record.version
                check(record.value)
                found += 1
        try:
            names = [(b"ns", name) for name in (b"x%d" % writer, b"y%d" % writer, b"shared")]
            x, y, shared = log.get_many(names, snapshot=log.flushed)
        except LookAgain:
            continue
        if x is not None and y is not None:
            assert check(x.value) == check(y.value), "half a transaction"
            assert y.version == x.version + 2
            assert shared.version >= x.version + 1
            whole += 1
        else:
            assert x is None and y is None, "half a transaction"
os._exit(0)
"""
)


@pytest.fixture
def start():
    with children() as start:
        yield start


@pytest.mark.parametrize("slots", [1, 256])
def test_readers_see_whole_payloads_while_writers_wrap_the_ring(start: Start, slots: int) -> None:
    with new_log(1 << 15, slots) as log:
        nurseries = [Nursery(start) for _ in range(4)]
        opened = f"log = open_log({log.region.path!r})\nwriters = 2\n"
        for number, nursery in enumerate(nurseries[:2]):
            nursery.child.tell(_order(opened + f"writer = {number}\n" + WRITER))
        with ThreadPoolExecutor() as pool:
            for nursery in nurseries[2:]:
                nursery.child.tell(_order(opened + READER))
            readers = [pool.submit(nursery.child.line) for nursery in nurseries[2:]]
            versions, position = [], 0
            while not all(reader.done() for reader in readers) or position < 10 * log.capacity:
                log.wait_committed(position, 0.1)
                groups, position = log.read_groups(position, 1 << 13)
                versions += [record.version for group in groups for record in group]
                log.advance_flushed(position)
        assert ['"done"' in reader.result() for reader in readers] == [True, True]
        assert versions == list(range(versions[0], versions[0] + len(versions)))
        while True:
            log.advance_flushed(log.committed)
            try:
                log.append([put(b"stop", b"")], timeout=0.1)
                break
            except LogFull:
                pass
        log.advance_flushed(log.committed)  # who still waits for room writes once more, and sees it
        for nursery in nurseries[:2]:
            assert '"done"' in nursery.child.line()


def _order(code: str) -> str:
    import json

    return json.dumps({"code": code})


def test_a_counter_under_conditions_loses_no_step(start: Start) -> None:
    count = """
for _ in range(400):
    while True:
        snapshot = log.flushed
        record = log.get(b"ns", b"n")
        value, version = (int(record.value), record.version) if record is not None else (0, 0)
        try:
            log.append([put(b"n", b"%d" % (value + 1), version, 0)], timeout=60, snapshot=snapshot)
            break
        except Conflict:
            pass
"""
    with new_log(1 << 18, 16) as log:
        nurseries = [Nursery(start) for _ in range(3)]
        for nursery in nurseries:
            nursery.child.tell(_order(f"log = open_log({log.region.path!r})\n" + count))
        for nursery in nurseries:
            assert '"done"' in nursery.child.line()
        assert log.get(b"ns", b"n").value == b"1200"


def test_a_full_log_waits_for_the_flusher_of_another_process(start: Start) -> None:
    with new_log(1 << 13, 16) as log:
        with pytest.raises(LogFull):
            while True:
                log.append([put(b"k", bytes(500))], timeout=0)
        flusher = Nursery(start)
        script = (
            f"log = open_log({log.region.path!r})\n_, at = log.read_groups(log.flushed, 1)\nlog.advance_flushed(at)"
        )
        flusher.child.tell(_order(script))
        version = log.append([put(b"k", b"late")], timeout=60)
        assert unflushed(log)[-1][0].version == version
        assert '"done"' in flusher.child.line()


def test_a_stopped_reader_or_waiter_disturbs_nobody(start: Start) -> None:
    with new_log(1 << 13, 16) as log:
        nursery = Nursery(start)
        _, pid = nursery.run(f"open_log({log.region.path!r}).wait_committed(1 << 40, 600)", wait=False)
        os.kill(pid, signal.SIGSTOP)
        for number in range(500):
            log.append([put(b"k", b"%d" % number)], timeout=0)
            log.advance_flushed(log.committed)
        assert nursery.kill(pid) == ("killed", pid)
        log.append([put(b"k", b"")], timeout=0)
