"""What was committed in the log gets into the data file: a prefix, in order, and known to who waits."""

from __future__ import annotations

import contextlib
import errno
import gc
import os
import subprocess
import sys
import threading
import time

import pytest
from flushing import REGION_ID, START, Stock, delete, make_stock, put
from hostile import ram_directory

from ntmem._core.flusher import CODES, Flusher, trouble_text
from ntmem._core.logrecords import Trouble

FULL, NO_ROOM, BROKEN = 1, 2, 3
MAP_FULL = -30792
LONG = 30.0  # seconds; only so that a hang fails


@pytest.fixture
def ram():
    with ram_directory() as path:
        yield path


@pytest.fixture
def stock(ram):
    return make_stock(ram)


@pytest.fixture
def flusher(stock):
    flusher = stock.flusher()
    yield flusher
    flusher.stop()


def until(condition, what):
    end = time.monotonic() + LONG
    while not condition():
        assert time.monotonic() < end, f"{what} does not come"
        time.sleep(0.001)


def flush(log, position=None):
    position = log.committed if position is None else position
    log.want_flushed(position)
    assert log.wait_flushed(position, LONG)


# ---- what it does ------------------------------------------------------------------------------------------------


def test_what_is_committed_is_soon_in_the_data_file(stock, flusher):
    flusher.start()
    version = stock.log.append([put(b"a", b"1"), put(b"b", b"2")])
    assert stock.log.wait_flushed(stock.log.committed, LONG)  # nobody says that they want it
    assert stock.values() == {b"a": b"1", b"b": b"2"}
    assert stock.position == stock.log.flushed == stock.log.committed
    assert stock.log.flushed_sequence == stock.head.position == (version + 1) & (1 << 44) - 1
    assert stock.log.lag == 0.0
    stock.append(delete(b"a"), put(b"b", b"3"))
    flush(stock.log)
    assert stock.values() == {b"b": b"3"}


def test_who_waits_is_not_made_to_wait_for_the_interval(ram):
    stock = make_stock(ram)
    flusher = stock.flusher(interval=3600)
    flusher.start()
    for number in range(20):
        stock.append(put(b"k", b"%d" % number))
        flush(stock.log)
    assert flusher.counts()["passes"] == flusher.counts()["groups"] == 20
    stock.append(put(b"k", b"nobody waits"))
    assert not stock.log.wait_flushed(stock.log.committed, 0.2)
    flusher.stop()


def test_a_quarter_of_the_ring_is_not_left_to_the_interval(ram):
    stock = make_stock(ram, capacity=1 << 16)
    flusher = stock.flusher(interval=3600)
    flusher.start()
    end = stock.append(put(b"a", bytes(1 << 13)), put(b"b", bytes(1 << 13)))
    assert stock.log.wait_flushed(end, LONG)
    flusher.stop()


def test_a_writer_without_room_wakes_the_flusher(ram):
    stock = make_stock(ram, capacity=1 << 13)
    flusher = stock.flusher(interval=3600)
    flusher.start()
    for number in range(300):
        stock.append(put(b"%d" % number, bytes(700)))
    flusher.drain(LONG)
    assert len(stock.values()) == 300
    flusher.stop()


def test_many_groups_and_laps_keep_their_order(ram):
    stock = make_stock(ram, capacity=1 << 14, history=True)
    with_flusher(stock, lambda: [stock.append(put(b"k", b"%d" % n * 9, START + n)) for n in range(2000)])
    versions = stock.versions(b"k")
    assert versions == list(range(versions[0], versions[0] + 2000))
    assert stock.values() == {b"k": b"1999" * 9}


def with_flusher(stock, work):
    flusher = stock.flusher(interval=0.001)
    flusher.start()
    work()
    flush(stock.log)
    flusher.stop()
    return flusher


def test_large_and_tiny_groups(ram):
    stock = make_stock(ram, capacity=1 << 25, slots=1 << 10, map_size=1 << 28)
    flusher = stock.flusher(interval=3600)
    sizes = [0, 1, 1 << 20, 2, 1 << 22, 3, 1 << 22, 1 << 10, 1 << 22, 1 << 22]
    for number, size in enumerate(sizes):
        stock.append(put(b"%d" % number, b"v" * size))
    stock.append(*[put(b"many %d" % number, b"m") for number in range(5000)])
    flusher.drain(LONG)
    assert [len(stock.values()[b"%d" % number]) for number in range(len(sizes))] == sizes
    assert flusher.counts()["passes"] > 1, "one transaction takes everything, so all wait for all"
    assert stock.position == stock.log.flushed == stock.log.committed


def test_the_clock_on_disk_is_not_behind_the_records(stock, flusher):
    flusher.start()
    for number in range(1, 50):
        stock.log.set_clock(START + number * 1000)
        stock.append(put(b"k", b"%d" % number, START + number * 1000))
        flush(stock.log)
        assert stock.clock == START + number * 1000 == stock.head.latest


def test_counts(stock, flusher):
    flusher.drain(LONG)
    assert flusher.counts()["passes"] == 0
    end = stock.append(put(b"a", b"1"))
    stock.append(put(b"b", b"2"))
    flusher.drain(LONG)
    counts = flusher.counts()
    assert counts["passes"] == 1
    assert counts["groups"] == 2
    assert counts["bytes"] == stock.log.committed > end
    assert 0 < counts["seconds_in_commit"] <= counts["longest_pass"]
    assert flusher.last_failure == counts["failures"] == 0


# ---- where it goes on ---------------------------------------------------------------------------------------------


def test_a_data_file_ahead_of_the_word_is_believed(ram):
    """A flusher that died between its commit and the word: here its work is done by hand."""
    stock = make_stock(ram)
    stock.append(put(b"a", b"in the log"))
    with stock.env.begin(write=True) as txn:
        rows = stock.tables(txn)
        rows.put_log_row(rows.log_row()._replace(position=stock.log.committed))
        rows.put_head(rows.head()._replace(generation=1, position=1))
    flusher = stock.flusher()
    flusher.drain(LONG)
    assert stock.log.flushed == stock.log.committed
    assert stock.log.flushed_sequence == 1
    assert stock.values() == {}, "it was applied again"
    stock.append(put(b"b", b"later"))
    flusher.drain(LONG)
    assert stock.values() == {b"b": b"later"}


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lambda row, log: row._replace(region_id=b"another region's"), "does not belong to this shared memory"),
        (lambda row, log: row._replace(position=log.committed + 1600), "more than was ever committed"),
        (lambda row, log: row._replace(position=0), "less than it had before"),
    ],
    ids=["stranger", "ahead", "behind"],
)
def test_a_data_file_of_something_else_is_refused(stock, change, text):
    flusher = stock.flusher()
    stock.append(put(b"a", b"1"))
    flusher.drain(LONG)
    end = stock.append(put(b"b", b"2"))
    with stock.env.begin(write=True) as txn:
        rows = stock.tables(txn)
        rows.put_log_row(change(rows.log_row(), stock.log))
    with pytest.raises(Trouble) as caught:
        flusher.drain(LONG)
    assert caught.value.kind == BROKEN
    assert text in trouble_text(caught.value.kind, caught.value.code)
    assert stock.log.trouble == (BROKEN, caught.value.code) == (BROKEN, flusher.last_failure)
    with pytest.raises(Trouble):
        stock.log.append([delete(b"a")])
    assert stock.log.get(b"\x02ns", b"b").value == b"2"
    assert stock.log.flushed < end
    assert stock.values() == {b"a": b"1"}


def test_a_data_file_without_a_position_is_refused(stock):
    with stock.env.begin(write=True) as txn:
        txn.delete(b"log", db=stock.dbs["meta"])
    stock.append(put(b"a", b"1"))
    with pytest.raises(Trouble) as caught:
        stock.flusher().drain(LONG)
    assert "does not belong" in trouble_text(caught.value.kind, caught.value.code)


def test_a_damaged_group_is_not_applied_nor_what_goes_with_it(ram):
    stock = make_stock(ram)
    sound = stock.append(put(b"a", b"1"))
    flusher = stock.flusher()
    flusher.drain(LONG)
    stock.append(put(b"sound", b"in the same transaction"))
    stock.append(put(b"b", b"a value to find"))
    with open(ram / "region", "r+b") as file:
        data = file.read()
        file.seek(data.index(b"a value to find"))
        file.write(b"A")
    flusher.start()
    until(lambda: stock.log.trouble, "trouble")
    assert "the commit log is damaged" in trouble_text(*stock.log.trouble)
    assert stock.log.flushed == stock.position == sound
    assert stock.values() == {b"a": b"1"}
    flusher.stop()


# ---- trouble --------------------------------------------------------------------------------------------------------


def fill(stock, value=b"v" * 4000, timeout=LONG):
    """Write until the store does not take any more; return how many there were."""
    for number in range(1 << 20):
        try:
            stock.append(put(b"%d" % number, value + b"%d" % number), timeout=timeout)
        except Trouble as trouble:
            return number, trouble
    raise AssertionError("the store never gets full")


def test_at_its_limit_the_store_takes_deletions_only_and_goes_on_when_they_made_room(ram):
    stock = make_stock(ram, map_size=32 << 20)
    flusher = stock.flusher(interval=0.001, limit=4 << 20)
    flusher.start()
    count, trouble = fill(stock)
    assert (trouble.kind, trouble.code) == (FULL, 0) == stock.log.trouble
    assert 500 < count < 1100
    flusher.drain(LONG)
    assert len(stock.values()) == count, "what was acknowledged has found room"
    used = stock.env.info()["last_pgno"] * 4096
    assert used < 5 << 20
    for number in range(0, count, 2):
        stock.append(delete(b"%d" % number))
    until(lambda: stock.log.trouble is None, "the end of the trouble")
    stock.append(put(b"again", b"there is room"))
    flush(stock.log)
    assert stock.values()[b"again"] == b"there is room"
    flusher.stop()


def test_room_that_others_made_is_found_without_a_write(ram):
    stock = make_stock(ram, map_size=32 << 20)
    flusher = stock.flusher(interval=0.001, limit=4 << 20)
    flusher.start()
    fill(stock)
    flusher.drain(LONG)  # after it there is no pass that could look
    with stock.env.begin(write=True) as txn:
        stock.tables(txn).delete_rows("records")
    until(lambda: stock.log.trouble is None, "the end of the trouble")
    flusher.stop()


def test_a_map_that_is_full_loses_nothing(ram):
    """The caller gave a limit beyond the map: what should not happen."""
    stock = make_stock(ram, map_size=1 << 20)
    flusher = stock.flusher(interval=0.001)
    flusher.start()
    count, trouble = fill(stock)
    assert (trouble.kind, trouble.code) == (FULL, MAP_FULL)
    assert "reached the size of its map" in trouble_text(trouble.kind, trouble.code)
    assert stock.log.flushed < stock.log.committed
    with pytest.raises(Trouble):
        flusher.drain(LONG)
    flusher.stop()
    before = stock.position
    del flusher
    stock.env.close()
    larger = Stock(ram)
    flusher = larger.flusher()
    flusher.drain(LONG)
    assert larger.position > before
    assert larger.log.trouble is None
    assert len(larger.values()) == count


def test_a_full_disk_loses_nothing_and_goes_on_by_itself(ram):
    """A limit of the process stands for a full disk: writes end in the middle, and with EFBIG."""
    code = """
import resource, sys, time
from flushing import *
from ntmem._core.flusher import trouble_text
from ntmem._core.logrecords import Trouble
stock = make_stock(sys.argv[1])
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]), resource.RLIM_INFINITY))
flusher = stock.flusher(interval=0.001)
flusher.start()
count = 0
try:
    while True:
        stock.append(put(b"%d" % count, b"v" * 4000))
        count += 1
except Trouble as trouble:
    print(trouble.kind, trouble.code, trouble_text(trouble.kind, trouble.code))
stock.append(delete(b"0"))  # may still be written
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
end = time.monotonic() + 30
while stock.log.trouble and time.monotonic() < end:
    time.sleep(0.001)
flusher.drain(30)
flusher.stop()
assert len(stock.values()) == count - 1, (len(stock.values()), count)
assert flusher.counts()["failures"] > 0
"""
    for extra in (0, 1000, 4096 + 100):  # where a write ends: between pages, within one
        place = ram / str(extra)
        place.mkdir()
        done = subprocess.run(
            [sys.executable, "-c", code, str(place), str((2 << 20) + extra)],
            capture_output=True,
            text=True,
            check=False,
            env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
            timeout=60,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        assert done.stdout.startswith(f"{NO_ROOM} "), done.stdout
        assert "nothing is lost: free some space, it goes on by itself" in done.stdout


def test_who_is_alone_may_begin_anew(stock):
    flusher = stock.flusher()
    stock.append(put(b"a", b"1"))
    with stock.env.begin(write=True) as txn:
        rows = stock.tables(txn)
        right = rows.log_row()
        rows.put_log_row(right._replace(region_id=b"another region's"))
    with pytest.raises(Trouble):
        flusher.drain(LONG)
    with stock.env.begin(write=True) as txn:
        stock.tables(txn).put_log_row(right)
    with pytest.raises(Trouble):
        flusher.drain(LONG)  # broken is for good
    flusher.drain(LONG, anew=True)
    assert stock.log.trouble is None
    assert stock.values() == {b"a": b"1"}


def test_every_trouble_has_a_sentence():
    for code in [*CODES, errno.EIO, errno.ENOSPC, errno.EDQUOT, errno.EFBIG, -30000, 0]:
        for kind in (FULL, NO_ROOM, BROKEN):
            assert len(trouble_text(kind, code)) > 40
    assert "check the disk first" in trouble_text(BROKEN, errno.EIO)
    assert "No space left" in trouble_text(NO_ROOM, errno.ENOSPC)
    with pytest.raises(ValueError, match="kind must be 1, 2 or 3, was 0"):
        trouble_text(0, 0)


# ---- the thread -----------------------------------------------------------------------------------------------------


def native_threads():
    """A thread that was joined is listed until the kernel has come to the end of it."""
    names = []
    for task in os.listdir("/proc/self/task"):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError), open(f"/proc/self/task/{task}/comm") as file:
            names.append(file.read().strip())
    return names.count("ntmem-flusher")


def test_start_and_stop_again_and_again(stock):
    flusher = stock.flusher()
    assert not flusher.running
    until(lambda: native_threads() == 0, "no native thread")
    for number in range(20):
        flusher.start()
        flusher.start()
        assert flusher.running
        stock.append(put(b"k", b"%d" % number))
        flush(stock.log)
        assert flusher.leads
        assert stock.log.leader == os.getpid()
        flusher.stop()
        flusher.stop()
        assert not flusher.running
        assert not flusher.leads
        assert stock.log.leader == 0, "a clean stop hands over at once"
        until(lambda: native_threads() == 0, "no native thread")
    assert stock.values() == {b"k": b"19"}


def test_the_environment_is_held_while_the_thread_runs(stock):
    flusher = stock.flusher()
    flusher.start()
    with pytest.raises(RuntimeError, match="native users"):
        stock.env.close()
    flusher.stop()
    flusher.drain(LONG)
    stock.env.close()
    with pytest.raises(Exception, match="closed"):
        flusher.start()
    with pytest.raises(Exception, match="closed"):
        flusher.drain(LONG)


def test_a_forgotten_flusher_ends(stock):
    flusher = stock.flusher()
    flusher.start()
    until(lambda: stock.log.leader, "a leader")
    del flusher
    gc.collect()
    until(lambda: native_threads() == 0, "no native thread")
    assert stock.log.leader == 0
    stock.env.close()


def test_a_flusher_outlives_all_other_references(ram):
    flusher = make_stock(ram).flusher()
    flusher.start()
    gc.collect()
    flusher.log.append([put(b"a", b"1")])
    flush(flusher.log)
    del flusher
    until(lambda: native_threads() == 0, "no native thread")
    assert Stock(ram).values() == {b"a": b"1"}


def test_python_need_not_run(stock, flusher):
    """The thread has no GIL: it flushes while this thread keeps the GIL all the time."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(100)
    try:
        flusher.start()
        stock.append(put(b"a", b"1"))
        end = time.monotonic() + LONG
        while stock.log.flushed < stock.log.committed and time.monotonic() < end:
            pass
        assert stock.log.flushed == stock.log.committed
    finally:
        sys.setswitchinterval(interval)


def test_drain_and_thread_side_by_side(ram):
    stock = make_stock(ram, history=True)
    flusher = stock.flusher(interval=0)
    flusher.start()
    done = []

    def drain():
        while not done:
            flusher.drain(LONG)

    drainers = [threading.Thread(target=drain) for _ in range(2)]
    for drainer in drainers:
        drainer.start()
    for number in range(1500):
        stock.append(put(b"k", b"%d" % number, START + number))
    done.append(True)
    for drainer in drainers:
        drainer.join()
    flusher.drain(LONG)
    flusher.stop()
    versions = stock.versions(b"k")
    assert versions == list(range(versions[0], versions[0] + 1500))
    assert flusher.counts()["groups"] == 1500


def test_drain_within_a_write_transaction_is_refused(stock, flusher):
    with (
        stock.env.begin(write=True),
        pytest.raises(RuntimeError, match="this thread has a write transaction open; end it before draining"),
    ):
        flusher.drain(LONG)


def test_stop_and_drain_beside_a_transaction_that_does_not_end(stock):
    flusher = stock.flusher(interval=0)
    begun, end = threading.Event(), threading.Event()

    def write():
        with stock.env.begin(write=True):
            begun.set()
            end.wait(LONG)

    writer = threading.Thread(target=write)
    writer.start()
    begun.wait(LONG)
    flusher.start()
    stock.append(put(b"a", b"1"))
    until(lambda: flusher.holder == os.getpid(), "the pass")
    with pytest.raises(TimeoutError, match=f"process {os.getpid()} has been writing to the data file for 0.1 s"):
        flusher.drain(0.1)
    with pytest.raises(TimeoutError, match=r"has not ended in 0\.1 s"):
        flusher.stop(0.1)
    end.set()
    writer.join()
    flusher.stop()
    assert stock.log.flushed == stock.log.committed, "a pass is not interrupted"


def test_a_forked_child_has_no_flusher(stock, flusher):
    flusher.start()
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            refused = 0
            for call in (flusher.start, flusher.stop, lambda: flusher.drain(1), lambda: flusher.running):
                try:
                    call()
                except RuntimeError as error:
                    refused += "forked" in str(error)
            del call, flusher, stock.log
            gc.collect()
            code = 0 if refused == 4 and native_threads() == 0 else 2
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    stock.append(put(b"a", b"1"))
    flush(stock.log)
    assert flusher.leads


def test_it_takes_no_signals(stock, flusher):
    flusher.start()
    for task in os.listdir("/proc/self/task"):
        with open(f"/proc/self/task/{task}/status") as file:
            status = dict(line.rstrip("\n").split(":\t", 1) for line in file if ":\t" in line)
        if status["Name"] == "ntmem-flusher":
            blocked = int(status["SigBlk"], 16)
            assert all(blocked >> number - 1 & 1 for number in (1, 2, 10, 15, 25))  # HUP INT USR1 TERM XFSZ
            return
    raise AssertionError("no such thread")


@pytest.mark.parametrize(
    ("change", "error", "text"),
    [
        ({"region_id": b"short"}, ValueError, "region_id must have 16 bytes, had 5"),
        ({"interval": -1.0}, ValueError, "interval must be seconds from 0 to 3600, was -1"),
        ({"interval": float("nan")}, ValueError, "interval must be seconds"),
        ({"limit": 0}, ValueError, "limit must be bytes, 1 or more, was 0"),
    ],
)
def test_arguments(stock, change, error, text):
    arguments = {"region_id": REGION_ID, "interval": 0.1, "limit": 1 << 30} | change
    with pytest.raises(error, match=text):
        Flusher(stock.log, stock.env, stock.dbs, **arguments)
