"""fork, spawn, forkserver, pickle: what a store is in another process.

Everything runs in a child of the test, so that neither the test's threads nor its warnings take part.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from hostile import Start

import ntmem

pytestmark = pytest.mark.usefixtures("engine")

PRELUDE = """
import warnings
warnings.simplefilter("ignore", DeprecationWarning)  # newer Pythons warn of fork beside threads, which is the point
def in_child(function):
    reading, writing = os.pipe()
    if (pid := os.fork()) == 0:
        signal.alarm(20)
        try:
            os.write(writing, outcome(function).encode())
        except BaseException as error:
            os.write(writing, f"SURPRISE {error!r}".encode())
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as pipe: told = pipe.read()
    _, status = os.waitpid(pid, 0)
    assert status == 0, f"the forked child ended with {status}"
    return told
"""


def test_fork_of_an_idle_store(ram: Path, start: Start) -> None:
    child = start(
        PRELUDE
        + """
path = sys.argv[1]
memory, second, private = ntmem.open(path), ntmem.open(path), ntmem.open()
view, scan, transaction = memory.namespace("a"), memory.scan("a"), memory.transaction()
memory.put("a", "k", b"v"); private.put("a", "k", b"v")
def transact():
    with transaction as t: t.put("a", "k", b"w")
for use in (lambda: memory.get("a", "k"), lambda: memory.put("a", "k", b"w"), lambda: second.get("a", "k"),
            lambda: private.get("a", "k"), lambda: view.put("k", 1), lambda: list(scan), transact, memory.stats,
            memory.flush, memory.now):
    told = in_child(use)
    assert told.startswith("StoreClosed: ") and "open it again in the child" in told, told
def anew():
    with ntmem.open(path) as own:
        own.put("a", "child", b"c")
        memory.close(); second.close(); private.close()  # the parent's: closing them harms nobody
        return own.get("a", "k")
for _ in range(3): assert in_child(anew) == "b'v'"
def anew_in_a_thread():
    told = []
    thread = threading.Thread(target=lambda: told.append(anew()))
    thread.start(); thread.join()
    return told
assert in_child(anew_in_a_thread) == "[b'v']"
assert memory.get("a", "child") == b"c"
memory.put("a", "k", b"after"); assert second.get("a", "k") == b"after"; assert private.get("a", "k") == b"v"
memory.close(); second.close(); private.close()
with ntmem.open(path) as memory: assert memory.get("a", "k") == b"after"
say("done")
""",
        ram / "store",
    )
    assert child.line() == "done"
    child.end()
    assert ntmem.verify(ram / "store").ok


def test_fork_of_a_busy_store(ram: Path, start: Start) -> None:
    """Other threads put, read, scan, open and close all the time; 20 forks; nobody hangs, nothing is lost."""
    child = start(
        PRELUDE
        + """
path = sys.argv[1]
memory = ntmem.open(path)
busy, errors, done = True, [], {}
def put(number):
    n = 0
    while busy:
        memory.put("a", f"{number}/{n % 2000}", b"%d" % n); n += 1
        done[number] = n
def read(number):
    while busy:
        memory.get("a", "0/0"); list(memory.scan("a", limit=300))
def reopen(number):
    while busy:
        ntmem.open(path).close(); ntmem.open().close()
def run(function, number):
    try: function(number)
    except BaseException as error: errors.append(repr(error))
threads = [threading.Thread(target=run, args=(f, n)) for n, f in enumerate((put, put, read, reopen))]
for thread in threads: thread.start()
def again():
    try: memory.get("a", "0/0")
    except ntmem.StoreClosed as error: assert "open it again" in str(error)
    else: raise AssertionError("the parent's handle works in the child")
    with ntmem.open(path) as own: return own.incr("count", "n")
for n in range(20):
    assert in_child(again) == str(n + 1)
before = dict(done)
while not all(done[n] > before.get(n, 0) for n in (0, 1)): time.sleep(0.001)  # the parent goes on
busy = False
for thread in threads: thread.join()
assert not errors, errors
for number, count in done.items():
    expected = {f"{number}/{n % 2000}": b"%d" % n for n in range(max(0, count - 2000), count)}
    assert dict(memory.scan("a", prefix=f"{number}/")) == expected
memory.close()
say("done")
""",
        ram / "store",
    )
    assert child.line() == "done"
    child.end()
    assert ntmem.verify(ram / "store").ok


def test_threads_fork_at_once(ram: Path, start: Start) -> None:
    child = start(
        PRELUDE
        + """
memory = ntmem.open(sys.argv[1])
def work():
    for _ in range(10):
        memory.incr("count", "n")
        if (pid := os.fork()) == 0: os._exit(0)
        assert os.waitpid(pid, 0)[1] == 0
threads = [threading.Thread(target=work) for _ in range(6)]
for thread in threads: thread.start()
for thread in threads: thread.join()
say(memory.get("count", "n"))
memory.close()
""",
        ram / "store",
    )
    assert child.line() == "b'60'"
    child.end()


def test_a_forked_child_that_ends_normally_harms_nothing(ram: Path, start: Start) -> None:
    """It runs finalizers and atexit over the handles it inherited, while the parent has readers and writers."""
    child = start(
        PRELUDE
        + """
memory = ntmem.open(sys.argv[1])
scan = iter(memory.scan("a"))
for n in range(10):
    memory.put("a", f"k{n}", b"v")
    if os.fork() == 0: sys.exit(0)
    assert os.wait()[1] == 0
assert len(list(memory.scan("a"))) == 10
with ntmem.open(sys.argv[1]) as second: second.put("a", "last", b"v")
say(len(list(memory.scan("a"))))
memory.close()
""",
        ram / "store",
    )
    assert child.line() == "11"
    child.end()


def test_a_grandchild_opens_for_itself(ram: Path, start: Start) -> None:
    child = start(
        PRELUDE
        + """
path = sys.argv[1]
def open_and_fork():
    with ntmem.open(path) as memory:
        memory.incr("count", "n")
        def below():
            with ntmem.open(path) as own: return own.incr("count", "n")
        told = in_child(below)
        assert in_child(lambda: memory.get("count", "n")).startswith("StoreClosed")
        return told, memory.incr("count", "n")
with ntmem.open(path) as memory:
    assert in_child(open_and_fork) == "('2', 3)", "grandchild"
    say(memory.incr("count", "n"))
""",
        ram / "store",
    )
    assert child.line() == "4"
    child.end()


def test_a_simulated_clock_in_a_child(ram: Path, start: Start) -> None:
    child = start(
        PRELUDE
        + """
path = sys.argv[1]
clock = ntmem.SimulatedClock(1_000)
memory = ntmem.open(path, clock=clock)
def anew():
    with ntmem.open(path) as own:  # the clock is the store's
        before = own.now()
        mine = ntmem.SimulatedClock(1)
        with ntmem.open(path, clock=mine): mine.set(before + 500)
        return before, own.now()
assert in_child(anew) == "(1000, 1500)", in_child(anew)
assert clock.now() == 1_500
clock.set(2_000)
told = in_child(clock.now)
assert told == "2000" or "StoreClosed" in told, told
say(memory.now())
memory.close()
""",
        ram / "store",
    )
    assert child.line() == "2000"
    child.end()


def test_a_child_opens_again_with_the_clock_it_inherited(ram: Path, start: Start) -> None:
    child = start(
        PRELUDE
        + """
clock = ntmem.SimulatedClock(1_000)
memory = ntmem.open(sys.argv[1], clock=clock)
def anew():
    with ntmem.open(sys.argv[1], clock=clock) as own:
        clock.set(3_000)
        return own.now()
say(in_child(anew))
""",
        ram / "store",
    )
    assert child.line() == "3000"


def test_pickles_are_path_and_configuration(ram: Path, start: Start) -> None:
    child = start(
        """
import pickle
memory = ntmem.open(sys.argv[1], agent_id="desk", max_storage_bytes=8 << 20)
memory.put("a", "k", b"v")
with pickle.loads(pickle.dumps(memory)) as copy:
    assert (copy.get("a", "k"), copy.agent_id, copy.config.max_storage_bytes) == (b"v", "desk", 8 << 20)
    copy.put("a", "k", b"w")
    assert copy.get_record("a", "k").writer == "desk"
assert memory.get("a", "k") == b"w"
data = pickle.dumps(memory)
memory.close()
with pickle.loads(data) as copy: assert copy.get("a", "k") == b"w"
with ntmem.open(sys.argv[1], read_only=True) as reading:
    with pickle.loads(pickle.dumps(reading)) as copy: assert "ReadOnlyError" in outcome(copy.put, "a", "k", b"x")
with ntmem.open() as private:
    for what in (private, private.scan("a"), private.transaction()):
        try: pickle.dumps(what)
        except TypeError as error: pass
        else: raise AssertionError("pickled")
say("done")
""",
        ram / "store",
    )
    assert child.line() == "done"
    child.end()


WORKER = """
import multiprocessing, sys
import ntmem

def by_path(path, n):
    with ntmem.open(path) as memory:
        for _ in range(20): memory.incr("count", "n")

def by_argument(memory, n):
    for _ in range(20): memory.incr("count", "n")
    memory.put("who", str(n), b"%d" % memory.now())

def inherited(path, n):
    try: HANDLE.get("count", "n")
    except ntmem.StoreClosed as error: assert "spawn" in str(error)
    else: sys.exit(3)
    by_path(path, n)

if __name__ == "__main__":
    import warnings
    warnings.simplefilter("ignore", DeprecationWarning)
    method, path, simulated = sys.argv[1], sys.argv[2], sys.argv[3] == "True"
    clock = ntmem.SimulatedClock(5_000) if simulated else None
    HANDLE = ntmem.open(path, clock=clock)
    context = multiprocessing.get_context(method)
    target, what = (inherited, path) if method == "fork" else (by_argument, HANDLE)
    workers = [context.Process(target=target, args=(what, n)) for n in range(3)]
    for worker in workers: worker.start()
    for worker in workers: worker.join()
    assert [worker.exitcode for worker in workers] == [0, 0, 0], [worker.exitcode for worker in workers]
    assert HANDLE.get("count", "n") == b"60", HANDLE.get("count", "n")
    if simulated and method != "fork":
        assert set(dict(HANDLE.scan("who")).values()) == {b"5000"}
    with context.Pool(2) as pool:
        pool.starmap(by_path, [(path, n) for n in range(4)])
    assert HANDLE.get("count", "n") == b"140"
    HANDLE.close()
"""


@pytest.mark.parametrize("simulated", [False, True])
@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_multiprocessing(method: str, simulated: bool, ram: Path, start: Start) -> None:
    (ram / "worker.py").write_text(WORKER)
    child = start(
        "import runpy\nsys.argv = sys.argv[1:]\nrunpy.run_path(sys.argv[0], run_name='__main__')"
        if method == "fork"
        else "os.execv(sys.executable, [sys.executable, *sys.argv[1:]])",
        ram / "worker.py",
        method,
        ram / "store",
        simulated,
    )
    child.end()
    assert ntmem.verify(ram / "store").ok
