"""Readers of a store that stop or die at each point of the hot table, while others write: nothing old is served."""

from __future__ import annotations

import os
import select
import signal
import time
from contextlib import contextmanager

import pytest
from hashes import hash_of
from hostile import HANG
from logs import build_with_failpoints

import ntmem
from ntmem.tiers.layout import encode_labels

pytestmark = [
    pytest.mark.crash,
    pytest.mark.slow,
    pytest.mark.usefixtures("engine"),
    pytest.mark.only("shared"),
]

SMALL = 1 << 15
LOOKS = ("limit_taken", "head_taken", "half_copied", "copied")
HOT = ("hot_locked", "hot_unlinked", "hot_raised", "hot_moved", "hot_reclaimed", "hot_written", "hot_linked")
COPIES = ("hot_found", "hot_copied")

READER = """
from ntmem._core.failpoints import arm, failpoints
from ntmem._core.hot import HotTable
memory = ntmem.open(sys.argv[1], log_bytes=1 << 15, flush_interval=float(sys.argv[2]))
say("open")
for line in sys.stdin:
    point, action, nth, keys = eval(line)
    if point: arm(point, action, nth)
    try: found = [memory.get("desk", key) for key in keys]
    finally:
        if point: arm(point, "pass")
    say(repr(found))
"""


@pytest.fixture(scope="module")
def tree(root, tmp_path_factory):
    return build_with_failpoints(root, tmp_path_factory.mktemp("failpoints"))


class Reader:
    """A process of its own that reads keys, and may stop or die at a point meanwhile."""

    def __init__(self, start, tree, place, interval=0.001):
        path = os.pathsep.join([str(tree), *__import__("sys").path])
        self.child = start(READER, place, interval, env={"PYTHONPATH": path})
        assert self.child.line() == "open"

    def read(self, *keys, point="", action="stop", nth=1):
        """Read; return the values, or "stopped" or "killed"."""
        self.child.tell(repr((point, action, nth, keys)))
        return self.wait()

    def wait(self):
        deadline = time.monotonic() + HANG
        while time.monotonic() < deadline:
            pid, status = os.waitpid(self.child.pid, os.WUNTRACED | os.WNOHANG)
            if pid and os.WIFSTOPPED(status):
                return "stopped"
            if pid:
                self.child.process.returncode = os.waitstatus_to_exitcode(status)
            if select.select([self.child.process.stdout], [], [], 0.001)[0]:
                line = self.child.process.stdout.readline()
                if line:
                    return eval(line)
                assert self.child.process.wait() == -signal.SIGKILL, self.child.complaint()
                return "killed"
        raise AssertionError("the reader hangs")

    def go_on(self):
        self.child.signal(signal.SIGCONT)
        return self.wait()


@contextmanager
def opened(ram, **options):
    options = {"log_bytes": SMALL, "flush_interval": 0.001, "cache_config": ntmem.CacheConfig(max_entries=64)} | options
    with ntmem.open(ram / "store", **options) as memory:
        yield memory


def turn(memory, laps=2):
    log = memory._live.log
    until, number = log.committed + laps * log.capacity, 0
    while log.committed < until:
        memory.put("other", f"{number % 50}", b"x" * 200)
        number += 1
    memory.flush()


def put_past(memory, value):
    with memory.transaction() as t:
        t.put("desk", "k", value)
        for n in range(100):
            t.put("large", f"{n}", b"x" * 300)


def delete_all(memory, value):
    memory.delete_namespace("desk")


CHANGES = {
    "put": lambda memory, value: memory.put("desk", "k", value),
    "delete": lambda memory, value: memory.delete("desk", "k"),
    "past the log": put_past,
    "delete_namespace": delete_all,
    "put, and the log turns": lambda memory, value: (memory.put("desk", "k", value), turn(memory)),
}


def twin_of(namespace, key):
    """Another key of the same slot of the log's index."""
    space, mask = encode_labels((namespace,)), SMALL // 64 - 1
    wanted = hash_of(space, key.encode()) & mask
    return next(f"{n}" for n in range(100_000) if hash_of(space, b"%d" % n) & mask == wanted)


TWIN = twin_of("desk", "k")


@pytest.mark.parametrize("source", ["log", "disk", "false alarm"])
@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("interval", [0.001, 3600])
def test_what_was_looked_for_before_a_change_is_not_served_after_it(ram, start, tree, source, change, interval):
    """A reader stops at each point of its look and its promotion, and something is changed meanwhile."""
    stopped, keys = set(), ["k"] * (40 if source == "log" else 1)  # of those in the log not each is promoted
    with opened(ram, flush_interval=interval) as memory:
        reader = Reader(start, tree, ram / "store", interval)
        for number, point in enumerate((*LOOKS, "hot_locked", "hot_raised", "hot_written", "hot_linked") * 4):
            memory.put("desk", "k", b"old %d" % number)
            if source != "log":
                turn(memory)
            if source == "false alarm":  # it is in the table, and another key of its slot has been written since
                memory.get("desk", "k")
                memory.put("desk", TWIN, b"v")
            found = reader.read(*keys, point=point)
            if found == "stopped":
                stopped.add(point)
                CHANGES[change](memory, b"new %d" % number)
                expected = memory.get("desk", "k")
                assert expected == (None if change.startswith("delete") else b"new %d" % number)
                found = reader.go_on()
                assert found == sorted(found, key=lambda value: value == expected)
                assert {*found} <= {b"old %d" % number, expected}
                for _ in range(2):  # while the log has the change, and when it has not
                    for _ in range(4):
                        assert memory.get("desk", "k") == expected
                        assert reader.read("k") == [expected]
                    turn(memory)
            else:
                assert {*found} == {b"old %d" % number}
    assert stopped >= {"limit_taken", "head_taken"}
    assert stopped >= {"half_copied", "copied"} or source != "log"
    assert stopped >= {"hot_locked", "hot_written", "hot_linked"} or source != "disk"
    assert "hot_locked" in stopped or source != "false alarm"


@pytest.mark.parametrize("point", [*COPIES, *LOOKS, *HOT])
def test_a_stripe_that_is_overwritten_under_a_reader(ram, start, tree, point, monkeypatch):
    """It stops in its copy, and all of the stripe is overwritten: what it returns is the value of that key."""
    monkeypatch.setenv("NTMEM_CACHE_BYTES", "32768")
    stopped = 0
    with opened(ram) as memory:
        keys = [f"{n}" for n in range(200)]
        value = {key: key.encode() * (50 + 7 * n % 60) for n, key in enumerate(keys)}
        for key in keys:
            memory.put("desk", key, value[key])
        turn(memory)
        reader = Reader(start, tree, ram / "store")
        for lap in range(6):
            mine = keys[lap * 20 : lap * 20 + 20]
            for _ in range(3 if point in COPIES else 0):
                assert [memory.get("desk", key) for key in mine] == [value[key] for key in mine]
            found = reader.read(*mine, point=point, nth=lap % 3 + 1)
            if found == "stopped":
                stopped += 1
                for _ in range(5):
                    for key in keys:
                        assert memory.get("desk", key) == value[key]
                found = reader.go_on()
            assert found == [value[key] for key in mine]
        assert table_is_sound(memory)
    assert stopped or point in ("half_copied", "copied", "hot_moved")


def table_is_sound(memory):
    """It takes what is put into it, and says how many it has."""
    hot = memory._live.store.hot
    hot.clear()
    kept = [key for key in (b"%d" % n for n in range(40)) if hot.put(b"own", key, b"v")]
    return len(hot) == len(kept) > 30 and all(hot.forget(b"own", key) for key in kept) and len(hot) == 0


@pytest.mark.parametrize("point", [*HOT, "hot_emptied", *COPIES])
def test_a_reader_that_dies_leaves_a_table_that_works(ram, start, tree, point, monkeypatch):
    monkeypatch.setenv("NTMEM_CACHE_BYTES", "32768")
    died = 0
    with opened(ram) as memory:
        keys = [f"{n}" for n in range(150)]
        value, thrice = {}, [key for key in keys for _ in range(3)]

        def write(lap):
            for key in keys[lap::3]:
                value[key] = key.encode() * 20 + b"%d" % lap
                memory.put("desk", key, value[key])

        for lap in range(3):
            write(lap)
        turn(memory)
        for lap in range(3):
            reader = Reader(start, tree, ram / "store")
            if point == "hot_emptied":  # who dies first leaves it to be emptied
                other = Reader(start, tree, ram / "store")
                assert other.read(*thrice, point="hot_written", action="kill") == "killed"
            nth = 1 if point == "hot_emptied" else (1, 4, 9)[lap]
            died += reader.read(*thrice, point=point, action="kill", nth=nth) == "killed"
            write(lap)
            for _ in range(3):
                assert [memory.get("desk", key) for key in keys] == [value[key] for key in keys]
        assert table_is_sound(memory)
    assert died >= 2


@pytest.mark.parametrize("end", ["continued", "killed"])
def test_a_reader_that_is_stopped_with_a_lock_stops_nobody(ram, start, tree, end, monkeypatch):
    monkeypatch.setenv("NTMEM_CACHE_BYTES", "1")  # one stripe
    with opened(ram) as memory:
        memory.put("desk", "k", b"old")
        memory.put("desk", "j", b"old")
        turn(memory)
        reader, other = Reader(start, tree, ram / "store"), Reader(start, tree, ram / "store")
        assert reader.read("k", point="hot_written") == "stopped"
        begun = time.monotonic()
        for number in range(300):
            memory.put("desk", "k", b"%d" % number)
            assert memory.get("desk", "k") == b"%d" % number
            assert other.read("k", "j") == [b"%d" % number, b"old"]
        memory.delete_namespace("desk")
        assert memory.get_many("desk", ["k", "j"]) == {}
        assert other.read("k", "j") == [None, None]
        assert time.monotonic() - begun < 30
        if end == "continued":
            assert reader.go_on()[0] == b"old"
            assert reader.read("k", "j") == [None, None]
        else:
            reader.child.kill()
        memory.put("desk", "k", b"last")
        for _ in range(200):
            assert memory.get("desk", "k") == b"last"
            assert memory.get("desk", "j") is None
        assert other.read("k", "j") == [b"last", None]
