"""Disks that are full, limits that are reached, maps that grow under others, and disks that fail."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import pytest
from hostile import HANG, Child, Start, remove_regions

import ntmem
from ntmem.tiers import cold

pytestmark = pytest.mark.usefixtures("engine")

MIB = 1 << 20
LOG = 1 << 18  # of the stores here: how much may be acknowledged before it is on disk

T = TypeVar("T")


def when_there_is_room(action: Callable[[], T]) -> T:
    """Do it again until it is not refused for want of room: a store in shared memory notices new room by itself."""
    deadline = time.monotonic() + HANG
    while True:
        try:
            return action()
        except (ntmem.DiskFull, ntmem.MapFull):
            if time.monotonic() > deadline:
                raise
            time.sleep(0.005)


def contents(memory: ntmem.MemorySystem, namespace: str = "a") -> dict[str, bytes]:
    return dict(memory.scan(namespace))


def fill(memory: ntmem.MemorySystem, error: type[Exception], size: int, written: dict[str, bytes]) -> None:
    """Put values into `written` too, until `error`; the refused one must not be there."""
    for n in range(len(written), 1_000_000):
        key, value = f"k{n}", os.urandom(8) + bytes(size - 8)
        try:
            memory.put("a", key, value)
        except error:
            assert memory.get("a", key) is None
            return
        written[key] = value
    raise AssertionError("it never got full")


# -- a full disk


@pytest.fixture
def small_disk(ram: Path) -> Iterator[Path]:
    """A file system of 8 MiB."""
    if os.getuid() != 0:
        pytest.skip("mounting a file system needs root")
    path = ram / "disk"
    path.mkdir()
    if subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", path], capture_output=True, check=False
    ).returncode:
        pytest.skip("mount is not allowed here")
    try:
        yield path
    finally:
        remove_regions(path)
        subprocess.run(["umount", "-l", path], check=True)


def occupy(disk: Path, leave: int = 0) -> Path:
    """Fill the disk up with a file."""
    with (disk / "ballast").open("wb", buffering=0) as file:
        try:
            while file.write(bytes(65536)):
                pass
        except OSError:
            pass
        file.truncate(max(0, file.tell() - leave))
    return disk / "ballast"


@pytest.mark.parametrize("size", [100, 5000, 300_000])
def test_full_disk(size: int, small_disk: Path) -> None:
    """What was acknowledged is there, what was refused is not, and new room is enough to go on."""
    written: dict[str, bytes] = {}
    (small_disk / "ballast").write_bytes(bytes(5 * MIB))
    with ntmem.open(small_disk / "store", log_bytes=LOG) as memory:
        fill(memory, ntmem.DiskFull, size, written)
        assert contents(memory) == written
        with pytest.raises(ntmem.DiskFull, match=r"disk is full.*free some space"), memory.transaction() as t:
            t.delete("a", "k0")
            t.put("a", "k1", b"half of a transaction")
            t.put("a", "huge", os.urandom(MIB))
        assert contents(memory) == written
        with ntmem.open(small_disk / "store", read_only=True) as second:
            assert contents(second) == written
        (small_disk / "ballast").unlink()
        when_there_is_room(lambda: memory.put("a", "after", b"v", durable=True))
        assert contents(memory) == written | {"after": b"v"}
    with ntmem.open(small_disk / "store", log_bytes=LOG) as memory:
        assert contents(memory) == written | {"after": b"v"}
    assert ntmem.verify(small_disk / "store").ok


@pytest.mark.parametrize("size", [100, 5000, 300_000])
@pytest.mark.only("lmdb")
def test_deleting_on_a_full_disk(size: int, small_disk: Path) -> None:
    written: dict[str, bytes] = {}
    with ntmem.open(small_disk / "store") as memory:
        fill(memory, ntmem.DiskFull, size, written)
        assert contents(memory) == written
        assert memory.delete("a", "k1")
        memory.put("a", "k1", written["k1"][:50])
        memory.put("a", "k1", written["k1"][:60])
        written["k1"] = written["k1"][:60]
        with pytest.raises(ntmem.DiskFull, match=r"disk is full.*free some space"), memory.transaction() as t:
            t.delete("a", "k0")
            t.put("a", "k1", b"half of a transaction")
            t.put("a", "huge", os.urandom(MIB))
        assert contents(memory) == written
        with ntmem.open(small_disk / "store", read_only=True) as second:
            assert contents(second) == written


def test_full_disk_and_another_process(small_disk: Path, start: Start) -> None:
    """Opens, reads and is refused there as well, and goes on when there is room."""
    written: dict[str, bytes] = {}
    (small_disk / "ballast").write_bytes(bytes(5 * MIB))
    with ntmem.open(small_disk / "store", log_bytes=LOG) as memory:
        fill(memory, ntmem.DiskFull, 3000, written)
        other = start(
            """
with ntmem.open(sys.argv[1]) as memory:
    say(len(list(memory.scan("a"))))
    say(outcome(memory.put, "a", "other", bytes(3000)).split(":")[0])
    hear()
    say(outcome(lambda: memory.put("a", "other", bytes(3000)) > 0))
""",
            small_disk / "store",
        )
        assert other.line() == str(len(written))
        assert other.line() == "DiskFull"
        (small_disk / "ballast").unlink()
        when_there_is_room(lambda: memory.put("a", "k0", b"new"))
        other.tell()
        assert other.line() == "True"
        other.end()
        assert contents(memory) == written | {"other": bytes(3000), "k0": b"new"}
    assert ntmem.verify(small_disk / "store").ok


def test_full_disk_that_is_freed(small_disk: Path) -> None:
    written: dict[str, bytes] = {}
    with ntmem.open(small_disk / "store", log_bytes=LOG) as memory:
        memory.put("a", "before", b"v", durable=True)
        ballast = occupy(small_disk)
        refused = 0
        for n in range(300):
            try:
                memory.put("a", f"k{n}", bytes(4000))
                written[f"k{n}"] = bytes(4000)
            except ntmem.DiskFull:
                refused += 1
        assert refused > 200
        assert contents(memory) == written | {"before": b"v"}
        ballast.unlink()
        when_there_is_room(lambda: memory.put("a", "after", bytes(MIB)))
        assert contents(memory) == written | {"before": b"v", "after": bytes(MIB)}
    assert ntmem.verify(small_disk / "store").ok


def test_reading_on_a_full_disk(small_disk: Path, start: Start) -> None:
    """More readers than a page of the lock file holds: its pages must be there already, or they die of SIGBUS."""
    child = start(
        """
memory = ntmem.open(sys.argv[1])
memory.put("a", "k", b"v", durable=True)
say("open"); hear()
inside = threading.Barrier(200)
def read():
    memory._engine().store.read(lambda txn: inside.wait())
threads = [threading.Thread(target=read) for _ in range(200)]
for thread in threads: thread.start()
for thread in threads: thread.join()
say(memory.get("a", "k"))
memory.close()
""",
        small_disk / "store",
    )
    assert child.line() == "open"
    occupy(small_disk)
    child.tell()
    assert child.line() == "b'v'"
    child.end()


def test_opening_on_a_full_disk(engine: str, small_disk: Path) -> None:
    with ntmem.open(small_disk / "store") as memory:
        memory.put("a", "k", b"v")
    ballast = occupy(small_disk)
    if engine == "shared":  # it has to write down which region is its own: pages that were freed may do
        with contextlib.suppress(ntmem.DiskFull):
            ntmem.open(small_disk / "store").close()
        ballast.unlink()
    with ntmem.open(small_disk / "store") as memory:
        assert contents(memory) == {"k": b"v"}


@pytest.mark.parametrize("leave", [0, 1, 2, 10, 16, 17, 18, 19, 20, 21, 23, 26, 30])
def test_a_new_store_on_a_full_disk(leave: int, small_disk: Path) -> None:
    """Too little room for all of it: an error, and a directory that works once there is room."""
    ballast = occupy(small_disk, leave * 4096)
    with contextlib.suppress(ntmem.DiskFull):  # which of these sizes are too small is LMDB's affair
        ntmem.open(small_disk / "store").close()
    ballast.unlink()
    with ntmem.open(small_disk / "store") as memory:
        memory.put("a", "k", b"v")
        assert memory.get("a", "k") == b"v"
    assert ntmem.verify(small_disk / "store").ok


def test_a_process_that_may_write_only_so_much(ram: Path, start: Start) -> None:
    """ulimit -f: the same as a full disk."""
    child = start(
        f"""
import resource
resource.setrlimit(resource.RLIMIT_FSIZE, ({6 * MIB}, -1))  # the shared region has to fit
memory = ntmem.open(sys.argv[1], log_bytes={LOG}, bus_bytes=1 << 16)
n = 0
while True:
    try: memory.put("a", f"k{{n}}", bytes(20_000), durable=True); n += 1
    except ntmem.NtmemError as error: refusal = error; break
say(type(refusal).__name__ if "disk is full" in str(refusal) else refusal, n > 50)
there = len(list(memory.scan("a")))  # the last one may be kept in memory
if os.environ["NTMEM_ENGINE"] == "lmdb":
    say(memory.delete("a", "k0"), memory.put("a", "k0", b"v") > 0, there == n)
else:  # others would flush for it
    resource.setrlimit(resource.RLIMIT_FSIZE, (-1, -1))
    while "DiskFull" in outcome(memory.put, "a", "k0", b"v"): time.sleep(0.005)
    say(memory.delete("a", "k0"), len(list(memory.scan("a"))) == there - 1, there in (n, n + 1))
memory.close()
""",
        ram / "store",
    )
    assert child.line() == "DiskFull True"
    assert child.line() == "True True True"
    child.end()


# -- max_storage_bytes


@pytest.mark.parametrize("size", [50, 900, 5000, 100_000])
def test_storage_limit(size: int, ram: Path) -> None:
    limit = 2 * MIB
    written: dict[str, bytes] = {}
    with ntmem.open(ram / "store", max_storage_bytes=limit, log_bytes=LOG) as memory:
        fill(memory, ntmem.MapFull, size, written)
        assert sum(map(len, written.values())) > limit // 4 or size < 100
        assert contents(memory) == written
        with pytest.raises(ntmem.MapFull, match="delete something or raise"):
            memory.put_many("a", {f"new{n}": bytes(size) for n in range(2 * MIB // size)})
        assert contents(memory) == written
        assert memory.delete("a", "k0")
        del written["k0"]
        for key in list(written)[: len(written) // 2]:
            assert memory.delete("a", key)
            del written[key]
        when_there_is_room(lambda: memory.put("a", "k0", bytes(size)))
        written["k0"] = bytes(size)
        assert contents(memory) == written
    with ntmem.open(ram / "store", max_storage_bytes=limit, log_bytes=LOG) as memory:
        assert contents(memory) == written
        when_there_is_room(lambda: memory.put("a", "again", b"v"))
    assert ntmem.verify(ram / "store").ok


def test_a_full_store_can_be_emptied_again_and_again(ram: Path) -> None:
    """Room that deleting needs must not be taken by the puts that follow."""
    written: dict[str, bytes] = {}
    for round_ in range(6):
        with ntmem.open(ram / "store", max_storage_bytes=MIB, log_bytes=LOG) as memory:
            for _ in range(4):
                fill(memory, ntmem.MapFull, 3000 if round_ % 2 else 200, written)
                for key in list(written)[-3:]:
                    assert memory.delete("a", key)
                    del written[key]
            assert contents(memory) == written
            assert (ram / "store" / "data.mdb").stat().st_size < 4 * MIB  # what deletions and the log may need
    with ntmem.open(ram / "store", max_storage_bytes=MIB, log_bytes=LOG) as memory:
        assert memory.delete_namespace("a") == len(written)
        when_there_is_room(lambda: memory.put("a", "k", bytes(100_000)))


def test_a_raised_limit_is_followed(ram: Path) -> None:
    written: dict[str, bytes] = {}
    with ntmem.open(ram / "store", max_storage_bytes=MIB, log_bytes=LOG) as memory:
        fill(memory, ntmem.MapFull, 5000, written)
    with ntmem.open(ram / "store", max_storage_bytes=4 * MIB, log_bytes=LOG) as memory:
        for n in range(200):
            when_there_is_room(lambda key=f"k{n}": memory.put("b", key, bytes(5000)))
        assert contents(memory) == written
    with ntmem.open(ram / "store", max_storage_bytes=MIB, log_bytes=LOG) as memory:  # now it is past its limit
        assert contents(memory) == written
        with pytest.raises(ntmem.MapFull):
            memory.put("c", "k", bytes(2 * MIB))
        assert memory.delete_namespace("b") == 200


# -- growing


GROW = """
from ntmem.tiers import cold
cold.FIRST_MAP = 1 << 18
path, who, count = sys.argv[1], sys.argv[2], int(sys.argv[3])
with ntmem.open(path) as memory:
    say("ready"); hear()
    for n in range(count):
        memory.put("a", f"{who}/{n}", f"{who}/{n}".encode() * 300)
        if n % 50 == 0:
            assert memory.get("a", f"{who}/{n // 2}") is not None
    say("written"); hear()
    seen = dict(memory.scan("a"))
    say(len(seen), all(value == key.encode() * 300 for key, value in seen.items()))
"""


def test_processes_grow_the_map_at_once(ram: Path, start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cold, "FIRST_MAP", 1 << 18)
    with ntmem.open(ram / "store") as idle:  # opened before all of them, reads what they wrote
        idle.put("a", "idle", b"idle" * 300)
        writers = [start(GROW, ram / "store", f"w{n}", 1000) for n in range(4)]
        for step, said in ((None, "ready"), ("go", "written"), ("read", "4001 True")):
            for writer in writers:
                if step:
                    writer.tell(step)
            for writer in writers:
                assert writer.line() == said
        for writer in writers:
            writer.end()
        assert len(contents(idle)) == 4001
        assert idle.stats().l3_map_bytes > 4 * MIB
        idle.put("a", "more", b"v")
    assert ntmem.verify(ram / "store").ok


def test_past_the_first_map_as_it_is(ram: Path, start: Start) -> None:
    with ntmem.open(ram / "store") as memory:
        memory.put("a", "k", b"v")
        child = start(
            """
with ntmem.open(sys.argv[1]) as memory:
    for n in range(10): memory.put("big", f"b{n}", b"%d" % n * (8 << 20))
    memory.put("huge", "h", bytes(100 << 20))
""",
            ram / "store",
        )
        child.end()
        assert memory.get("a", "k") == b"v"
        assert memory.get("big", "b7") == b"7" * (8 << 20)
        assert len(memory.get("huge", "h", b"")) == 100 << 20
        memory.put("a", "k", b"w")


def test_growing_while_threads_scan(ram: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cold, "FIRST_MAP", 1 << 18)
    errors: list[BaseException] = []
    done = threading.Event()
    with ntmem.open(ram / "store") as memory:
        memory.put_many("a", {f"k{n:03}": b"%d" % n * 100 for n in range(400)})

        def scan() -> None:
            try:
                while not done.is_set():
                    seen = [(key, value) for key, value in memory.scan("a")]
                    assert seen == [(f"k{n:03}", b"%d" % n * 100) for n in range(400)]
            except BaseException as error:
                errors.append(error)

        def write(number: int) -> None:
            try:
                for n in range(12):
                    memory.put("b", f"{number}/{n}", bytes(300_000))
            except BaseException as error:
                errors.append(error)

        scanners = [threading.Thread(target=scan) for _ in range(2)]
        writers = [threading.Thread(target=write, args=(number,)) for number in range(3)]
        for thread in scanners + writers:
            thread.start()
        for thread in writers:
            thread.join()
        done.set()
        for thread in scanners:
            thread.join()
        assert not errors
        assert len(contents(memory, "b")) == 36


def test_killed_readers_do_not_keep_old_pages_for_ever(ram: Path, start: Start) -> None:
    with ntmem.open(ram / "store", max_storage_bytes=4 * MIB) as memory:
        memory.put("a", "k", bytes(1000))
        for _ in range(5):
            reader = start(
                """
memory = ntmem.open(sys.argv[1])
def stay(txn):
    say("inside"); hear()
memory._engine().store.read(stay)
""",
                ram / "store",
            )
            assert reader.line() == "inside"
            reader.signal(signal.SIGKILL)
            reader.process.wait()
        for n in range(3000):  # 30 MB through 4 MiB
            memory.put("a", f"k{n % 7}", bytes(10_000))
        assert (ram / "store" / "data.mdb").stat().st_size <= 4 * MIB


# -- a disk that fails

SHIM = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <stdio.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>
/* While the file $FAULT holds "<call> <errno>", that call on data.mdb fails so; "meta" is a pwrite below 8192. */
static int faulty(int fd, const char *call) {
    char text[64] = "", name[64] = "", link[64], target[512] = "";
    int code = 0, saved = errno;
    int file = open(getenv("FAULT"), O_RDONLY | O_CLOEXEC);
    if (file < 0) { errno = saved; return 0; }
    if (read(file, text, sizeof text - 1) < 0) text[0] = 0;
    close(file);
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    if (readlink(link, target, sizeof target - 1) < 0 || !strstr(target, "data.mdb")) { errno = saved; return 0; }
    errno = saved;
    return sscanf(text, "%63s %d", name, &code) == 2 && !strcmp(name, call) ? code : 0;
}
#define FAIL(fd, call) do { int code = faulty(fd, call); if (code) { errno = code; return -1; } } while (0)
#define REAL(name) __typeof__(&name) real = (__typeof__(&name))dlsym(RTLD_NEXT, #name)
int fdatasync(int fd) { REAL(fdatasync); FAIL(fd, "sync"); return real(fd); }
int fsync(int fd) { REAL(fsync); FAIL(fd, "sync"); return real(fd); }
ssize_t pwrite(int fd, const void *p, size_t n, off_t at) {
    REAL(pwrite); if (at < 8192) FAIL(fd, "meta"); else FAIL(fd, "pages"); return real(fd, p, n, at); }
ssize_t pwrite64(int fd, const void *p, size_t n, off_t at) {
    REAL(pwrite64); if (at < 8192) FAIL(fd, "meta"); else FAIL(fd, "pages"); return real(fd, p, n, at); }
ssize_t writev(int fd, const struct iovec *v, int n) {
    REAL(writev); FAIL(fd, "pages"); return real(fd, v, n); }
ssize_t pwritev(int fd, const struct iovec *v, int n, off_t at) {
    REAL(pwritev); FAIL(fd, "pages"); return real(fd, v, n, at); }
ssize_t pwritev64(int fd, const struct iovec *v, int n, off_t at) {
    REAL(pwritev64); FAIL(fd, "pages"); return real(fd, v, n, at); }
"""


@pytest.fixture(scope="module")
def shim(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A library that makes writes and syncs fail on demand."""
    gcc = shutil.which("gcc") or shutil.which("cc")
    if gcc is None or not Path("/proc/self/fd").is_dir():
        pytest.skip("needs a C compiler and Linux, to fail system calls with LD_PRELOAD")
    folder = tmp_path_factory.mktemp("shim")
    (folder / "shim.c").write_text(SHIM)
    subprocess.run([gcc, "-O1", "-shared", "-fPIC", "-o", folder / "shim.so", folder / "shim.c", "-ldl"], check=True)
    return folder / "shim.so"


FAULTY = """
path = sys.argv[1]
memory = ntmem.open(path)
n = 0
while True:
    order = hear().split()
    if order[0] == "put":
        told = outcome(memory.put, "a", f"k{n}", b"%d" % n * 2000)
        if told.isdigit(): n += 1
        say(n, told)
    elif order[0] == "read":
        say([memory.get("a", f"k{i}") == b"%d" % i * 2000 for i in range(n)] == [True] * n,
            len(list(memory.scan("a"))) == n, memory.stats().l3_entries == n)
    elif order[0] == "reopen":
        memory.close(); say(outcome(lambda: globals().update(memory=ntmem.open(path))))
    else:
        memory.close(); break
"""


@pytest.mark.only("lmdb")
@pytest.mark.parametrize("call", ["sync", "pages", "meta"])
def test_io_errors(call: str, shim: Path, ram: Path, start: Start) -> None:
    """EIO: named, writes refused from then on, reads as before, nothing acknowledged lost, fine when reopened."""
    fault = ram / "fault"
    child = start(FAULTY, ram / "store", env={"LD_PRELOAD": str(shim), "FAULT": str(fault)})
    for n in range(1, 6):
        child.tell("put")
        assert child.line().split()[0] == str(n)
    fault.write_text(f"{call} {errno.EIO}")
    child.tell("put")
    told = child.line()
    assert told.startswith("5 StorageError: ")
    assert os.strerror(errno.EIO) in told
    assert "refuses to write" in told
    fault.unlink()
    for _ in range(2):  # the disk is well again, but what it swallowed nobody knows
        child.tell("put")
        told = child.line()
        assert told.startswith("5 StorageError: ")
        assert "closed and opened again" in told
        child.tell("read")
        assert child.line() == "True True True"
    with ntmem.open(ram / "store") as other:  # another process never saw the fault
        assert len(contents(other)) == 5
    child.tell("reopen")
    assert child.line() == "None"
    for n in (6, 7):
        child.tell("put")
        assert child.line().split()[0] == str(n)
    child.tell("read")
    assert child.line() == "True True True"
    child.tell("end")
    child.end()
    with ntmem.open(ram / "store") as memory:
        assert contents(memory) == {f"k{n}": b"%d" % n * 2000 for n in range(7)}
    assert ntmem.verify(ram / "store").ok


@pytest.mark.only("lmdb")
@pytest.mark.parametrize("call", ["sync", "pages", "meta"])
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
def test_no_room_at_any_step_of_a_commit(call: str, code: int, shim: Path, ram: Path, start: Start) -> None:
    """Some file systems tell only when they sync, or when they overwrite: still only this change is refused."""
    fault = ram / "fault"
    child = start(FAULTY, ram / "store", env={"LD_PRELOAD": str(shim), "FAULT": str(fault)})
    for n in range(1, 4):
        child.tell("put")
        assert child.line().split()[0] == str(n)
    for n in (4, 5):
        fault.write_text(f"{call} {code}")
        for _ in range(3):
            child.tell("put")
            assert child.line().startswith(f"{n - 1} DiskFull: the disk is full")
            child.tell("read")
            assert child.line() == "True True True"
        fault.unlink()
        child.tell("put")
        assert child.line().split()[0] == str(n)
    child.tell("end")
    child.end()
    assert ntmem.verify(ram / "store").ok


ASKED = """
path = sys.argv[1]
memory = ntmem.open(path, log_bytes=1 << 18)
def put(n, durable=False): return memory.put("a", f"k{n}", b"%d" % n * 2000, durable=durable) > 0
def read(): return [memory.get("a", f"k{n}") == b"%d" % n * 2000 for n in range(len(list(memory.scan("a"))))]
def reopen(): globals()["memory"] = ntmem.open(path, log_bytes=1 << 18)
while question := hear(): say(outcome(lambda: eval(question)))
"""


def ask(child: Child, question: str) -> str:
    child.tell(question)
    return child.line()


@pytest.mark.only("shared")
@pytest.mark.parametrize(
    ("call", "code"), [("sync", errno.EIO), ("pages", errno.EIO), ("meta", errno.EIO), ("meta", errno.ENOSPC)]
)
def test_a_disk_that_failed(call: str, code: int, shim: Path, ram: Path, start: Start) -> None:
    """Named, writes refused, reads as before; what was acknowledged comes to the disk when the store is reopened."""
    fault = ram / "fault"
    child = start(ASKED, ram / "store", env={"LD_PRELOAD": str(shim), "FAULT": str(fault)})
    for n in range(5):
        assert ask(child, f"put({n}, True)") == "True"
    fault.write_text(f"{call} {code}")
    told = ask(child, "put(5, True)")  # acknowledged in memory, and then it does not come to the disk
    if code == errno.EIO:
        assert told.startswith("StorageError: ")
        assert os.strerror(code) in told
        assert "refuses to write" in told
    while not told.startswith("StorageError: "):  # after no room for a meta page LMDB cannot go on either
        told = ask(child, "memory.flush()")
    fault.unlink()
    for _ in range(2):  # the disk is well again, but what it swallowed nobody knows
        assert ask(child, "put(6)").startswith("StorageError: ")
        if call != "meta":  # else LMDB does not even read any more
            assert ask(child, "read()") == str([True] * 6)
    assert ask(child, "memory.close()").startswith("StorageError: ")
    assert ask(child, "read()").startswith("StoreClosed")
    assert ask(child, "reopen()") == "None"
    assert ask(child, "read()") == str([True] * 6)
    assert ask(child, "put(6, True)") == "True"
    assert ask(child, "memory.close()") == "None"
    with ntmem.open(ram / "store") as memory:
        assert contents(memory) == {f"k{n}": b"%d" % n * 2000 for n in range(7)}
    assert ntmem.verify(ram / "store").ok


@pytest.mark.only("shared")
@pytest.mark.parametrize("call", ["sync", "pages"])
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
def test_a_disk_without_room(call: str, code: int, shim: Path, ram: Path, start: Start) -> None:
    """What was acknowledged waits in memory, and comes to the disk by itself."""
    fault = ram / "fault"
    child = start(ASKED, ram / "store", env={"LD_PRELOAD": str(shim), "FAULT": str(fault)})
    assert ask(child, "put(0, True)") == "True"
    for n in (1, 2):
        fault.write_text(f"{call} {code}")
        for question in (f"put({n}, True)", f"put({n})", "memory.flush()"):
            assert ask(child, question).startswith("DiskFull: the disk is full")
            assert ask(child, "read()") == str([True] * (n + 1))
        fault.unlink()
        deadline = time.monotonic() + HANG
        while (told := ask(child, "memory.flush()")).startswith("DiskFull"):
            assert time.monotonic() < deadline
        assert told == "None"
    assert ask(child, "memory.close()") == "None"
    with ntmem.open(ram / "store") as memory:
        assert contents(memory) == {f"k{n}": b"%d" % n * 2000 for n in range(3)}
    assert ntmem.verify(ram / "store").ok


@pytest.mark.parametrize("call", ["sync", "pages", "meta"])
def test_io_errors_while_opening(call: str, shim: Path, ram: Path, start: Start) -> None:
    fault = ram / "fault"
    for made in (False, True):
        fault.write_text(f"{call} {errno.EIO}")
        child = start(
            "say(outcome(ntmem.open, sys.argv[1]))", ram / "store", env={"LD_PRELOAD": str(shim), "FAULT": str(fault)}
        )
        told = child.line()
        if not made or not told.startswith("<MemorySystem"):  # an existing store may need no write to open
            assert told.startswith("StorageError: ")
            assert os.strerror(errno.EIO) in told
        fault.unlink()
        with ntmem.open(ram / "store") as memory:
            memory.put("a", "k", b"v")
            assert memory.get("a", "k") == b"v"
    assert ntmem.verify(ram / "store").ok
