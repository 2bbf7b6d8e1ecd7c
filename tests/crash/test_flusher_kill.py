"""Flushers that die or stop at every step: nothing is lost, nothing is applied twice, and another one takes over."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import random
import signal
import time

import pytest
from flushing import START, Stock, make_stock, put
from hostile import HANG, ram_directory

from ntmem._core.flusher import trouble_text
from ntmem._core.logrecords import Trouble

pytestmark = pytest.mark.crash

OUTSIDE = ["flush_led"]  # nobody is kept from taking over
INSIDE = ["flush_begun", "flush_read", "flush_applied", "flush_noted", "flush_synced", "flush_advanced"]
STEPS = [(name, nth) for name in OUTSIDE + INSIDE for nth in ((1, 4) if name in INSIDE[1:3] else (1,))]
GROUPS = 10
LEAD = """
from flushing import *
import time
stock = Stock({directory!r})
flusher = stock.flusher(interval={interval})
{armed}
flusher.start()
while True:
    time.sleep(600)
"""


@pytest.fixture
def stock():
    with ram_directory() as directory:
        yield make_stock(directory, capacity=1 << 20, slots=1 << 10, history=True)


@contextlib.contextmanager
def leader(nursery, stock, armed="", interval=3600):
    """Give a function that tells how a process with a flusher ended or that it stopped; until then it leads."""
    order = LEAD.format(directory=str(stock.directory), interval=interval, armed=armed)
    nursery.child.tell(json.dumps({"code": order}))  # who waits for it takes it from the system at once when it dies
    fates = []

    def fate():
        if not fates:
            fates.append(json.loads(nursery.child.line()))
        return tuple(fates[0])

    until(lambda: stock.log.leader != 0)
    pid = stock.log.leader
    try:
        yield pid, fate
    finally:
        gone = False
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            gone = True
        if fate()[0] == "stopped" and not gone:
            nursery.kill(pid)


def until(condition):
    end = time.monotonic() + HANG
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.0005)


def write(stock, count, start=0):
    for number in range(start, start + count):
        stock.append(put(b"k", b"%d" % number, START + number))
    return stock.log.committed


def flush(stock):
    """Wait for the disk; return the seconds that took."""
    begun = time.monotonic()
    stock.log.want_flushed(stock.log.committed)
    assert stock.log.wait_flushed(stock.log.committed, HANG)
    return time.monotonic() - begun


def check_whole(stock, count):
    """Every version once, in order, and the words say the same as the data file."""
    versions = stock.versions(b"k")
    assert versions == list(range((1 << 44) + 1, (1 << 44) + 1 + count))
    assert stock.values() == {b"k": b"%d" % (count - 1)}
    assert stock.position == stock.log.flushed == stock.log.committed
    assert stock.log.flushed_sequence == stock.head.position == count


@pytest.mark.parametrize(("name", "nth"), STEPS)
def test_a_flusher_killed_while_another_stands_by(nursery, stock, name, nth):
    flusher = stock.flusher(interval=3600)
    with leader(nursery, stock, f"arm({name!r}, 'kill', {nth})") as (pid, fate):
        flusher.start()
        write(stock, GROUPS)
        flush(stock)
        assert fate() == ("killed", pid)
        until(lambda: stock.log.leader == os.getpid())
        check_whole(stock, GROUPS)
    write(stock, GROUPS, GROUPS)
    flush(stock)
    check_whole(stock, 2 * GROUPS)
    flusher.stop()


@pytest.mark.parametrize(("name", "nth"), STEPS)
def test_a_flusher_killed_and_a_new_opener_alone(nursery, stock, name, nth):
    with leader(nursery, stock, f"arm({name!r}, 'kill', {nth})") as (pid, fate):
        if name != "flush_led":
            write(stock, GROUPS)
            stock.log.want_flushed(stock.log.committed)
        assert fate() == ("killed", pid)
    directory = stock.directory
    stock.env.close()
    again = Stock(directory)
    if name == "flush_led":
        write(again, GROUPS)
    again.flusher().drain(HANG)
    check_whole(again, GROUPS)


def test_a_flusher_stopped_outside_of_a_pass_is_replaced_and_steps_back(nursery, stock):
    flusher = stock.flusher(interval=3600)
    with leader(nursery, stock, "arm('flush_led', 'stop')") as (pid, fate):
        assert fate() == ("stopped", pid)
        flusher.start()
        write(stock, GROUPS)
        flush(stock)
        assert stock.log.leader == os.getpid()
        os.kill(pid, signal.SIGCONT)
        for number in range(GROUPS, 3 * GROUPS):
            write(stock, 1, number)
            flush(stock)
        assert stock.log.leader == os.getpid()
        check_whole(stock, 3 * GROUPS)
    flusher.stop()


@pytest.mark.parametrize("name", INSIDE)
def test_a_flusher_stopped_in_a_pass_delays_the_disk_only(nursery, stock, name):
    flusher = stock.flusher(interval=3600)
    with leader(nursery, stock, f"arm({name!r}, 'stop')") as (pid, fate):
        flusher.start()
        write(stock, GROUPS)
        stock.log.want_flushed(stock.log.committed)
        assert fate() == ("stopped", pid)
        before = stock.log.flushed
        assert flusher.holder == pid
        with pytest.raises(TimeoutError, match=f"process {pid} has been writing to the data file"):
            flusher.drain(0.15)
        write(stock, 5 * GROUPS, GROUPS)
        assert stock.log.get(b"\x02ns", b"k").value == b"%d" % (6 * GROUPS - 1)
        assert stock.log.flushed == before
        os.kill(pid, signal.SIGCONT)
        flush(stock)
        check_whole(stock, 6 * GROUPS)
    flusher.stop()


@pytest.mark.parametrize("name", INSIDE)
def test_a_flusher_stopped_in_a_pass_and_then_killed(nursery, stock, name):
    flusher = stock.flusher(interval=3600)
    with leader(nursery, stock, f"arm({name!r}, 'stop')") as (pid, fate):
        flusher.start()
        write(stock, GROUPS)
        stock.log.want_flushed(stock.log.committed)
        assert fate() == ("stopped", pid)
        assert nursery.kill(pid) == ("killed", pid)
        flush(stock)
        until(lambda: stock.log.leader == os.getpid())
        check_whole(stock, GROUPS)
    flusher.stop()


def test_a_commit_that_does_not_end_delays_no_writer_and_no_reader(nursery):
    with ram_directory() as directory:
        stock = make_stock(directory, capacity=1 << 22, slots=1 << 14)
        with leader(nursery, stock, "arm('flush_noted', 'stop')", interval=0) as (pid, fate):
            write(stock, 1)
            assert fate() == ("stopped", pid)
            for number in range(10_000):
                stock.append(put(b"k", b"%d" % number), timeout=0)
                assert stock.log.get(b"\x02ns", b"k").value == b"%d" % number
            assert stock.log.flushed == 0
            assert stock.log.lag > 0


def test_many_writes_go_on_during_each_slow_commit(nursery, stock):
    with leader(nursery, stock, "arm('flush_noted', 'drag')", interval=0):
        ends, number = [0], 0  # how many writes there were when a pass ended
        flushed = stock.log.flushed
        while len(ends) < 4:
            if number < ends[-1] + 1000:  # more would fill the ring
                write(stock, 1, number)
                number += 1
            if stock.log.flushed != flushed:
                flushed = stock.log.flushed
                ends.append(number)
        assert all(later - earlier > 100 for earlier, later in itertools.pairwise(ends))
        flush(stock)
        check_whole(stock, number)


def test_two_flushers_contend(nursery, stock):
    flusher = stock.flusher(interval=0)
    flusher.start()
    until(lambda: stock.log.leader)
    pids = []
    for _ in range(2):
        code = LEAD.format(directory=str(stock.directory), interval=0, armed="")
        pids.append(nursery.run(code.replace("time.sleep(600)", "flusher.drain(60)"), wait=False)[1])
    number, end = 0, time.monotonic() + HANG
    while number < 3000 or flusher.counts()["groups"] == number:  # until others have had a part in it
        assert time.monotonic() < end
        write(stock, 100, number)
        number += 100
        flush(stock)
    assert flusher.counts()["groups"] > 0
    for pid in pids:
        assert nursery.kill(pid) == ("killed", pid)
    write(stock, 100, number)
    flush(stock)
    check_whole(stock, number + 100)
    flusher.stop()


def test_leaders_killed_at_random_while_writers_go_on(nursery, stock):
    """Some of the kills hit a writer of the log, too: those groups are there or not, but in order and once."""
    rng = random.Random(1)
    code = LEAD.format(directory=str(stock.directory), interval=0.001, armed="")
    count = 0
    for _ in range(40):
        pid = nursery.run(code, wait=False)[1]
        until(lambda pid=pid: stock.log.leader == pid)
        for _ in range(rng.randrange(1, 200)):
            write(stock, 1, count)
            count += 1
        assert nursery.kill(pid) == ("killed", pid)
    stock.flusher().drain(HANG)
    check_whole(stock, count)


def test_everybody_killed_and_drained_by_a_new_opener(nursery, stock):
    rng = random.Random(2)
    directory, count = stock.directory, 0
    stock.env.close()
    steps = [(name, rng.randrange(1, 100 if name in INSIDE[1:3] else 4)) for name in INSIDE * 2]
    for name, nth in [*steps, ("sealed", 50), ("numbered", 50)]:  # the last two of a writer, in the middle of a group
        code = f"""
from flushing import *
stock = Stock({str(directory)!r})
flusher = stock.flusher(interval=0.0005)
arm({name!r}, 'kill', {nth})
flusher.start()
for number in range({count}, {count} + 100000):
    stock.append(put(b"k", b"%d" % number, START + number))
"""
        assert nursery.run(code)[0] == "killed"
        again = Stock(directory)
        again.log.lock(HANG)  # as the next writer does: it finishes the group that a dead one has sealed
        again.log.unlock()
        again.flusher().drain(HANG)
        count = again.log.next_sequence - 1
        check_whole(again, count)
        again.env.close()
    assert count > 1000


def test_a_broken_store_is_broken_for_all(nursery, stock):
    with stock.env.begin(write=True) as txn:
        rows = stock.tables(txn)
        rows.put_log_row(rows.log_row()._replace(region_id=b"another region's"))
    flusher = stock.flusher(interval=0)
    with leader(nursery, stock):
        write(stock, 1)
        stock.log.want_flushed(stock.log.committed)
        until(lambda: stock.log.trouble)
        assert "does not belong to this shared memory" in trouble_text(*stock.log.trouble)
        flusher.start()
        with pytest.raises(Trouble):
            flusher.drain(HANG)
        assert not flusher.leads
        assert stock.log.flushed == 0
    flusher.stop()
