"""Writers, repairers and readers that die or stop at every step of the log; what was acknowledged is there."""

from __future__ import annotations

import json
import os
import random
import signal
import struct
import time

import pytest
from hostile import children
from logs import Nursery, new_log, put, unflushed

from ntmem._core.log import LogFull, WriterStalled

pytestmark = pytest.mark.crash

BEFORE = ["locked", "checked", "reserved", "half_written", "written"]  # nothing of it is left
BETWEEN = ["sealed", "linked", "numbered"]  # invisible, and finished by the next owner
AFTER = ["committed", "announced"]  # it is done
REPAIR = ["repair_begun", "repair_linked", "repair_numbered", "repair_committed", "repaired"]
READER = ["limit_taken", "head_taken", "half_copied", "copied"]
STEPS = [
    (name, nth)
    for name in BEFORE + BETWEEN + AFTER
    for nth in ((1, 2, 4) if name in ("linked", "half_written") else (1,))
]

OLD = {b"a": b"old a", b"b": b"old b", b"c": None}
NEW = {b"a": b"newest a", b"b": b"new b", b"c": b"new c"}
GROUP = [(b"a", b"new a"), (b"b", b"new b"), (b"a", b"newest a"), (b"c", b"new c")]
CHANGE = f"log.append([put(key, value) for key, value in {GROUP}], timeout=60)"


@pytest.fixture(params=[1, 64], ids=["one slot", "64 slots"])
def log(request):
    """A log of some laps with two unflushed records."""
    with new_log(1 << 13, request.param) as log:
        for number in range(60):
            log.append([put(b"filler", b"x" * (number * 7))])
            log.advance_flushed(log.committed)
        log.append([put(b"a", b"old a"), put(b"b", b"old b")])
        yield log


def state(log):
    """What readers see, after checking that each of them sees the same."""
    keys = [(b"ns", key) for key in OLD]
    many = log.get_many(keys, snapshot=log.flushed)
    single = [log.get(*key) for key in keys]
    assert [r and r.version for r in many] == [r and r.version for r in single]
    return {key: record and record.value for (_, key), record in zip(keys, many, strict=True)}


def check_whole(log, present):
    """The independent look: groups in order, and the index says the same as they do."""
    groups = unflushed(log)
    versions = [record.version for group in groups for record in group]
    assert versions == list(range(versions[0], versions[0] + len(versions)))
    assert log.next_sequence == (versions[-1] & (1 << 44) - 1) + 1
    content = [[(record.key, record.value) for record in group] for group in groups]
    assert content.count(GROUP) == present
    assert all(group == GROUP or len(group) < 3 for group in content)
    newest = {record.key: record.version for group in groups for record in group}
    for key, version in newest.items():
        assert log.get(b"ns", key).version == version


def code(log, *lines):
    return "\n".join([f"log = open_log({log.region.path!r})", *lines])


OTHERS = ("flush_", "hot_", "fence_", "lease_", "book_", "ring_", "vectors_")


def test_the_failpoints_are_those_of_the_design(nursery, root):
    script = "from ntmem._core.failpoints import failpoints\nsay(json.dumps(failpoints()))"
    nursery.child.tell(json.dumps({"code": script}))
    names = json.loads(nursery.child.line())
    assert json.loads(nursery.child.line())[0] == "done"
    own = [name for name in names if not name.startswith(OTHERS)]
    assert own == BEFORE + BETWEEN + AFTER + REPAIR + READER
    pages = ("log", "flusher", "hot", "locks", "positions", "bus", "vectors")
    page = "".join((root / f"docs/design/{name}.md").read_text() for name in pages)
    assert [name for name in names if f"`{name}`" not in page and f"`{name}_k`" not in page] == []


@pytest.mark.parametrize(("name", "nth"), STEPS)
def test_a_writer_killed(nursery, log, name, nth):
    for again in range(3):
        before = state(log)
        fate, _ = nursery.run(code(log, f"arm({name!r}, 'kill', {nth})", CHANGE))
        assert fate == "killed"
        assert state(log) == (NEW if name in AFTER else before)
        log.append([put(b"next", b"n")], timeout=0)
        done = name not in BEFORE
        assert state(log) == (NEW if done else before)
        check_whole(log, (again + 1) * done)


@pytest.mark.parametrize(("name", "nth"), [(name, 1) for name in REPAIR] + [("repair_linked", 3)])
def test_a_repairer_killed(nursery, log, name, nth):
    assert nursery.run(code(log, "arm('linked', 'kill', 2)", CHANGE))[0] == "killed"
    for _ in range(3):
        fate, _ = nursery.run(code(log, f"arm({name!r}, 'kill', {nth})", "log.append([put(b'd', b'')])"))
        assert fate == "killed" or name in ("repair_committed", "repaired")
        if name != "repair_committed" and name != "repaired":
            assert state(log) == OLD
    log.append([put(b"next", b"n")], timeout=0)
    assert state(log) == NEW
    check_whole(log, 1)


@pytest.mark.parametrize("name", ["repair_begun", "repaired"])
def test_a_repairer_killed_over_half_a_group(nursery, log, name):
    assert nursery.run(code(log, "arm('half_written', 'kill', 2)", CHANGE))[0] == "killed"
    assert nursery.run(code(log, f"arm({name!r}, 'kill')", "log.append([put(b'd', b'')])"))[0] == "killed"
    assert state(log) == OLD
    log.append([put(b"next", b"n")], timeout=0)
    assert state(log) == OLD
    check_whole(log, 0)


@pytest.mark.parametrize(("name", "nth"), STEPS)
def test_a_writer_stopped_stops_writers_only(nursery, log, name, nth):
    fate, pid = nursery.run(code(log, f"arm({name!r}, 'stop', {nth})", CHANGE))
    assert fate == "stopped"
    assert state(log) == (NEW if name in AFTER else OLD)
    with pytest.raises(WriterStalled, match=f"process {pid} has kept the log locked") as caught:
        log.append([put(b"next", b"n")], timeout=0.01)
    assert caught.value.pid == pid
    assert nursery.resume(pid) == ("done", pid)
    assert state(log) == NEW
    log.append([put(b"next", b"n")], timeout=0)
    check_whole(log, 1)


@pytest.mark.parametrize("name", REPAIR)
def test_a_repairer_stopped(nursery, log, name):
    assert nursery.run(code(log, "arm('linked', 'kill', 3)", CHANGE))[0] == "killed"
    fate, pid = nursery.run(code(log, f"arm({name!r}, 'stop')", "log.append([put(b'd', b'')])"))
    assert fate == "stopped"
    assert state(log) == (NEW if name in ("repair_committed", "repaired") else OLD)
    with pytest.raises(WriterStalled):
        log.append([put(b"next", b"n")], timeout=0.01)
    assert nursery.resume(pid) == ("done", pid)
    assert log.get(b"ns", b"d").value == b""
    check_whole(log, 1)


def test_a_delay_delays_and_goes_on(nursery, log):
    assert (
        nursery.run(code(log, "arm('written', 'delay')", "arm('sealed', 'kill')", "arm('sealed', 'pass')", CHANGE))[0]
        == "done"
    )
    assert state(log) == NEW


# ---- readers ----

READ = "record = log.get(b'ns', b'a')\nsay(json.dumps(record and [record.value.decode(), record.version]))"


@pytest.mark.parametrize("laps", [0, 1, 3])
@pytest.mark.parametrize("size", [1, 40, 400])
@pytest.mark.parametrize("name", READER)
def test_a_reader_paused_while_the_ring_turns(nursery, log, name, size, laps):
    value = "s" * size + "e" * size
    version = log.append([put(b"a", value.encode())])
    fate, pid = nursery.run(code(log, f"arm({name!r}, 'stop', {2 if 'cop' in name else 1})", READ))
    assert fate == "stopped"
    target = log.committed + laps * log.capacity
    while log.committed < target:
        log.append([put(b"other", b"z" * random.randrange(900)), put(b"a", b"x" * random.randrange(100))])
        log.advance_flushed(log.committed)
    nursery.child.tell(json.dumps({"continue": pid}))
    said = json.loads(nursery.child.line())
    assert json.loads(nursery.child.line()) == ["done", pid]
    assert said == (None if laps else [value, version])


def test_what_is_being_overwritten_is_not_returned(nursery):
    """The writer stops when the bytes are overwritten and nothing is committed yet: only `reserved` tells."""
    with new_log(1 << 13, 16) as log:
        value = b"s" * 100 + b"e" * 100
        log.append([put(b"a", value)])
        fate, reader = nursery.run(code(log, "arm('half_copied', 'stop', 2)", READ))
        assert fate == "stopped"
        size = log.committed
        while log.committed + size <= log.capacity:
            log.append([put(b"z", b"z" * 200)])
        log.advance_flushed(log.committed)
        fate, writer = nursery.run(code(log, "arm('written', 'stop')", "log.append([put(b'z', b'y' * 500)])"))
        assert fate == "stopped"
        nursery.child.tell(json.dumps({"continue": reader}))
        assert json.loads(nursery.child.line()) is None
        assert json.loads(nursery.child.line())[0] == "done"
        assert nursery.resume(writer) == ("done", writer)


def test_several_keys_are_of_one_moment_however_long_a_reader_pauses(nursery, log):
    keys = [(b"ns", b"a"), (b"ns", b"b")]
    script = f"say(json.dumps([r.value.decode() for r in log.get_many({keys}, snapshot=log.flushed)]))"
    for name, nth in [("limit_taken", 1), ("head_taken", 1), ("head_taken", 2), ("copied", 2), ("half_copied", 4)]:
        expected = [log.get(b"ns", b"a").value.decode(), log.get(b"ns", b"b").value.decode()]
        fate, pid = nursery.run(code(log, f"arm({name!r}, 'stop', {nth})", script))
        assert fate == "stopped"
        for number in range(3):
            log.append([put(b"a", b"a%d" % number), put(b"b", b"b%d" % number)])
        nursery.child.tell(json.dumps({"continue": pid}))
        assert json.loads(nursery.child.line()) == expected
        assert json.loads(nursery.child.line())[0] == "done"


# ---- at random ----

WRITER = """
import zlib
mark = {mark}
journal = os.open({journal!r}, os.O_WRONLY | os.O_APPEND)
number = 0
while True:
    payload = b"%d/%d/" % (mark, number) + b"p" * (number * 37 % 400)
    value = payload + b"/%d" % zlib.crc32(payload)
    count = 1 + number % 4
    first = log.append([put(b"k%d" % (number * 3 % 11 + i), value) for i in range(count)], timeout=60)
    os.write(journal, struct.pack("<QQQ8x", mark, number, first))  # none crosses a page, where a kill may cut it
    number += 1
"""


def test_random_kills_lose_nothing_acknowledged(tmp_path):
    import zlib

    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    chance = random.Random(seed)
    journal = tmp_path / "journal"
    journal.touch()
    groups = []

    def flush(share=1.0):
        position = log.flushed
        while position < log.committed and share:
            found, position = log.read_groups(position, 1 << 14)
            groups.extend(found)
            log.advance_flushed(position)
            share = share if chance.random() < share else 0

    with new_log(1 << 14, 4) as log, children() as start:
        plain = Nursery(start)
        running = []
        for mark in range(250):
            script = "import struct\n" + WRITER.format(mark=mark, journal=str(journal))
            running.append(plain.run(code(log, script), wait=False)[1])
            until = time.monotonic() + chance.random() * 0.006
            while time.monotonic() < until:
                flush(0.5)
            if len(running) > 2:
                victim = running.pop(chance.randrange(len(running)))
                os.kill(victim, signal.SIGKILL)
        for pid in running:
            os.kill(pid, signal.SIGKILL)
        for pid in running:
            plain.kill(pid)
        flush()
        while True:  # the last owner may have died as well
            try:
                last = log.append([put(b"last", b"")], timeout=60)
                break
            except LogFull:
                flush()
        state_now = {key: log.get(b"ns", b"k%d" % key) for key in range(14)}
        waiting = {record.key: record.version for group in unflushed(log) for record in group}
        for key, record in state_now.items():
            name = b"k%d" % key
            assert name not in waiting or record.version == waiting[name]
        flush()

    versions = [record.version for group in groups for record in group]
    assert versions == list(range(versions[0], versions[0] + len(versions)))
    assert versions[-1] == last
    present, newest = {}, {}
    for group in groups[:-1]:
        assert len({record.value for record in group}) == 1, "a group of two halves"
        payload, _, crc = group[0].value.rpartition(b"/")
        assert int(crc) == zlib.crc32(payload), "torn"
        mark, number = map(int, payload.split(b"/")[:2])
        assert len(group) == 1 + number % 4, "not whole"
        assert newest.get(mark, -1) == number - 1, "out of order, or twice"
        newest[mark] = number
        present[mark, number] = group[0].version
    raw = journal.read_bytes()
    acknowledged = list(struct.iter_unpack("<QQQ8x", raw))
    assert len(acknowledged) > 1000
    assert [ack for ack in acknowledged if present.get(ack[:2]) != ack[2]] == []
    assert len(present) - len(acknowledged) <= 250  # what nobody was told of: at most one a kill
