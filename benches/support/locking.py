"""Locks of others, and processes that hold, wait and take turns."""

import contextlib
import fcntl
import mmap
import multiprocessing
import os
import select
import shutil
import signal
import struct
import subprocess
import threading
import time

import pytest

import ntmem

FORK = multiprocessing.get_context("fork")
NAME = "BTCUSDT"
LONG = 1000.0

# ---- locks: each is opened in every process, and gives a pair (acquire, release) ---------------------------------


@contextlib.contextmanager
def ours(directory):
    with ntmem.open(directory / "store", engine="shared") as memory:
        lock = memory.lock(NAME)
        yield lock.acquire, lock.release


@contextlib.contextmanager
def of_threading(directory):
    lock = threading.Lock()
    yield lock.acquire, lock.release


def of_multiprocessing():
    """Made before the processes fork."""
    lock = FORK.Lock()

    @contextlib.contextmanager
    def opened(directory):
        yield lock.acquire, lock.release

    return opened


@contextlib.contextmanager
def of_flock(directory):
    with open(directory / "flock", "w") as file:
        number, exclusive, free = file.fileno(), fcntl.LOCK_EX, fcntl.LOCK_UN
        yield (lambda: fcntl.flock(number, exclusive)), (lambda: fcntl.flock(number, free))


@contextlib.contextmanager
def of_fcntl(directory):
    """Locks of an open file description, which threads and processes respect alike."""
    with open(directory / "fcntl", "w") as file:
        number, wait = file.fileno(), 38  # F_OFD_SETLKW
        take, give = (struct.pack("hhqqi4x", kind, 0, 0, 1, 0) for kind in (fcntl.F_WRLCK, fcntl.F_UNLCK))
        yield (lambda: fcntl.fcntl(number, wait, take)), (lambda: fcntl.fcntl(number, wait, give))


GIVE_BACK = "if redis.call('get', KEYS[1]) == ARGV[1] then return redis.call('del', KEYS[1]) else return 0 end"


@contextlib.contextmanager
def of_redis(directory):
    """The recipe of Redis' manual for one server: SET NX PX, and a script that deletes one's own."""
    import redis

    with redis.Redis(unix_socket_path=str(directory / "redis.sock")) as client:
        script = client.register_script(GIVE_BACK)
        mine = os.urandom(16)

        def acquire():
            while not client.set(NAME, mine, nx=True, px=30_000):
                time.sleep(0.001)

        yield acquire, lambda: script(keys=[NAME], args=[mine])


@contextlib.contextmanager
def redis_server(directory):
    """Run a server at a socket in `directory`, or skip."""
    pytest.importorskip("redis")
    program = os.environ.get("REDIS_SERVER") or shutil.which("redis-server")
    if program is None:
        pytest.skip("no redis-server: apt-get install redis-server, or set REDIS_SERVER")
    socket = directory / "redis.sock"
    options = ["--port", "0", "--unixsocket", str(socket), "--save", "", "--appendonly", "no"]
    process = subprocess.Popen([program, *options], cwd=directory, stdout=subprocess.DEVNULL)
    try:
        while not socket.exists():
            assert process.poll() is None
            time.sleep(0.01)
        yield
    finally:
        process.terminate()
        process.wait()


@contextlib.contextmanager
def lock_of(kind, directory):
    """Give what opens a lock of a kind in a process."""
    if kind == "redis":
        with redis_server(directory):
            yield of_redis
    else:
        yield of_multiprocessing() if kind == "multiprocessing" else KINDS[kind]


KINDS = {"ours": ours, "threading": of_threading, "flock": of_flock, "OFD": of_fcntl}
PEERS = ["threading", "multiprocessing", "flock", "OFD", "redis"]
BETWEEN_PROCESSES = ["ours", "multiprocessing", "flock", "OFD", "redis"]


# ---- processes ----------------------------------------------------------------------------------------------------


def words(count):
    """Return words that forked processes share."""
    return memoryview(mmap.mmap(-1, 8 * count)).cast("q")


def spin_until(word, wanted):
    while word[0] != wanted:
        pass


def take_turns(opened, directory, word, mine, count, times):
    """Acquire and release whenever it is this process's turn; the other one has had the lock in between."""
    with opened(directory) as (acquire, release):
        for number in range(count):
            spin_until(word, mine)
            start = time.perf_counter_ns()
            acquire()
            release()
            times[number] = time.perf_counter_ns() - start
            word[0] = 1 - mine


def contend(opened, directory, word, seconds, facts):
    """Acquire and release until told to end: how often, how long it waited in all, and at most."""
    count = waited = longest = 0
    with opened(directory) as (acquire, release):
        acquire()
        release()
        facts[3] = 1
        spin_until(word, 1)
        end = time.perf_counter_ns() + int(seconds * 1e9)
        while (start := time.perf_counter_ns()) < end:
            acquire()
            wait = time.perf_counter_ns() - start
            count, waited, longest = count + 1, waited + wait, max(longest, wait)
            release()
        facts[0], facts[1], facts[2] = count, waited, longest


def boot_ns():
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME)


def kill(process):
    """Kill a process; return when it was told to, and when it was dead."""
    end = os.pidfd_open(process)
    start = boot_ns()
    os.kill(process, signal.SIGKILL)
    select.select([end], [], [])
    died = boot_ns()
    os.close(end)
    return start, died


class Nursery:
    """A process that has no store open, and forks those that hold a lock: so they are at hand quickly."""

    def __init__(self, directory):
        self.pipe, other = FORK.Pipe()
        self.process = FORK.Process(target=self._serve, args=(other, directory))
        self.process.start()

    def hold(self, ttl):
        """Return the id of a process that holds the lock."""
        self.pipe.send(ttl)
        return self.pipe.recv()

    def end(self):
        self.pipe.send(None)
        self.process.join(60)

    @staticmethod
    def _serve(pipe, directory):
        reading, writing = os.pipe()
        children = []
        while (ttl := pipe.recv()) is not None:
            child = os.fork()
            if child == 0:
                memory = ntmem.open(directory / "store", engine="shared")
                memory.acquire_lock(NAME, ttl=ttl)
                os.write(writing, b"h")
                time.sleep(LONG)
            children.append(child)
            os.read(reading, 1)
            pipe.send(child)
        for child in children:  # only now: a process that nobody has waited for is dead all the same
            os.waitpid(child, 0)


def answer_grants(directory, pipe):
    """Acquire whenever told to, and say when that was granted."""
    with ntmem.open(directory / "store", engine="shared") as memory:
        lock = memory.lock(NAME, ttl=LONG)
        pipe.send("ready")
        while pipe.recv():
            pipe.send("waits")
            lock.acquire()
            now = boot_ns()
            lock.release()
            pipe.send(now)
