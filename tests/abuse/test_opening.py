"""Opening and closing, when others do so too, when something is in the way, and when it is not our store."""

from __future__ import annotations

import fcntl
import gc
import os
import signal
import struct
import threading
from pathlib import Path
from typing import Any

import lmdb
import pytest
from hostile import Start

import ntmem
from ntmem.tiers import opening, sharing

pytestmark = pytest.mark.usefixtures("engine")

COUNT_UP = """
path, times = sys.argv[1], int(sys.argv[2])
say("ready"); hear()
with ntmem.open(path) as memory:
    for _ in range(times):
        memory.incr("count", "n")
"""


def file_bytes(store: Path) -> bytes:
    return (store / "data.mdb").read_bytes()


# -- at once


@pytest.mark.parametrize("processes", [2, 8])
def test_many_processes_open_a_new_directory_at_once(processes: int, ram: Path, start: Start) -> None:
    path = ram / "deep" / "er" / "store"
    all_of_them = [start(COUNT_UP, path, 25) for _ in range(processes)]
    for child in all_of_them:
        assert child.line() == "ready"
    for child in all_of_them:
        child.tell("go")
    for child in all_of_them:
        child.end()
    with ntmem.open(path) as memory:
        assert memory.get("count", "n") == b"%d" % (25 * processes)
        record = memory.get_record("count", "n")
        assert record is not None
        assert record.version == 25 * processes  # one history from one beginning
    assert ntmem.verify(path).ok


def test_opened_and_closed_all_the_time_beside_a_writer(ram: Path, start: Start) -> None:
    """What is looked at before the file is mapped changes under the look; that must not read as damage."""
    path = ram / "store"
    writer = start(
        """
with ntmem.open(sys.argv[1]) as memory:
    say("ready")
    n, done = 0, threading.Thread(target=hear)
    done.start()
    while done.is_alive():
        memory.put("a", str(n % 300), os.urandom(n % 5000)); n += 1
    say(n)
""",
        path,
    )
    assert writer.line() == "ready"
    for _ in range(300):
        ntmem.open(path).close()
    writer.tell("done")
    assert int(writer.line()) > 0
    writer.end()


def test_threads_open_and_close_one_directory(ram: Path) -> None:
    errors: list[BaseException] = []

    def work() -> None:
        try:
            for _ in range(50):
                with ntmem.open(ram / "store", log_bytes=1 << 20) as memory:
                    memory.incr("count", "n")
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
    with ntmem.open(ram / "store") as memory:
        assert memory.get("count", "n") == b"400"


# -- twice in one process


def test_closing_one_handle_leaves_the_other_working(ram: Path) -> None:
    first, second = ntmem.open(ram / "store"), ntmem.open(ram / "store")
    first.put("a", "k", b"1")
    first.close()
    assert second.get("a", "k") == b"1"
    second.put("a", "k", b"2")
    with pytest.raises(ntmem.StoreClosed):
        first.get("a", "k")
    second.close()
    with ntmem.open(ram / "store") as third:
        assert third.get("a", "k") == b"2"


def test_every_spelling_of_a_path_is_the_same_store(ram: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (ram / "link").symlink_to(ram / "store")
    (ram / "sub").mkdir()
    monkeypatch.chdir(ram)
    with ntmem.open(ram / "store") as memory:
        memory.put("a", "k", b"v")
        for spelling in ("store", "./store/", "sub/../store", ram / "link", str(ram / "store") + "//"):
            with ntmem.open(spelling) as other:
                assert other.get("a", "k") == b"v"
                other.incr("count", "n")
        assert memory.get("count", "n") == b"5"


def test_a_relative_path_means_where_it_was_opened(ram: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (ram / "elsewhere").mkdir()
    monkeypatch.chdir(ram)
    with ntmem.open("store") as memory:
        monkeypatch.chdir(ram / "elsewhere")
        memory.put("a", "k", b"v")
        assert memory.verify().ok
    assert not list((ram / "elsewhere").iterdir())


def test_a_store_that_was_deleted_and_made_anew_is_another_store(ram: Path) -> None:
    old = ntmem.open(ram / "store")
    old.put("a", "k", b"old")
    for file in (ram / "store").iterdir():
        file.unlink()
    with ntmem.open(ram / "store") as new:
        assert new.get("a", "k") is None
        new.put("a", "k", b"new")
        assert old.get("a", "k") == b"old"  # as of a deleted file that is still open
    old.close()


# -- somebody else is stopped


def test_opening_behind_a_stopped_opener_names_it(ram: Path, start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sharing, "_OPEN_TIMEOUT", 0.1)
    child = start(
        """
from ntmem.tiers import opening, shared
def wait(store, tables):
    say("inside"); hear()
opening.prepare_rows = shared.prepare_rows = wait
ntmem.open(sys.argv[1])
""",
        ram / "store",
    )
    assert child.line() == "inside"
    child.stop()
    with pytest.raises(ntmem.StorageError, match=rf"process {child.pid} .*stopped"):
        ntmem.open(ram / "store")
    child.kill()
    ntmem.open(ram / "store").close()  # the kernel gave its lock back


# -- closing


def test_close_while_threads_are_busy(ram: Path) -> None:
    for round_ in range(10):
        acknowledged = close_while_busy(ram / "store", round_)
        with ntmem.open(ram / "store") as again:
            for key in acknowledged:
                assert again.get("a", key) == b"v"


def close_while_busy(path: Path, round_: int) -> list[str]:
    """Close under six threads; each gets its results, then StoreClosed. Return the keys whose put was acknowledged."""
    memory = ntmem.open(path)
    acknowledged: list[str] = []
    surprises: list[BaseException] = []
    begun = threading.Barrier(7)

    def work(number: int) -> None:
        begun.wait()
        try:
            for n in range(1_000_000):
                if number % 3 == 0:
                    memory.put("a", f"{round_}/{number}/{n}", b"v")
                    acknowledged.append(f"{round_}/{number}/{n}")
                elif number % 3 == 1:
                    assert list(memory.scan("a", limit=50)) is not None
                else:
                    memory.get("a", "0/0/0")
        except ntmem.StoreClosed:
            pass
        except BaseException as error:
            surprises.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    begun.wait()
    while not acknowledged:
        pass
    memory.close()
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive()
    assert not surprises
    return acknowledged


def test_close_twice_and_use_after_close(ram: Path) -> None:
    memory = ntmem.open(ram / "store")
    view, scan, transaction = memory.namespace("a"), memory.scan("a"), memory.transaction()
    memory.put("a", "k", b"v")
    memory.close()
    memory.close()
    assert memory.closed
    uses = [
        lambda: memory.get("a", "k"),
        lambda: memory.put("a", "k", b"v"),
        lambda: memory.delete("a", "k"),
        memory.transaction,
        memory.stats,
        memory.flush,
        memory.now,
        memory.verify,
        lambda: list(scan),
        lambda: memory.scan("a"),
        lambda: view["k"],
        memory.__enter__,
    ]
    for use in uses:
        with pytest.raises(ntmem.StoreClosed, match="open it again"):
            use()
    with pytest.raises(ntmem.StoreClosed), transaction as t:
        t.put("a", "k", b"w")


def test_forgotten_handles_close_themselves(ram: Path) -> None:
    before = set(os.listdir("/proc/self/fd")) if Path("/proc/self/fd").is_dir() else set()
    for _ in range(20):
        ntmem.open(ram / "store").put("a", "k", b"v")
        memory: Any = ntmem.open()
        memory.itself = memory
        del memory
    gc.collect()
    ntmem.open(ram / "store").close()
    if before:
        assert len(os.listdir("/proc/self/fd")) <= len(before) + 1


def test_what_a_handle_gave_keeps_it_open(ram: Path) -> None:
    with ntmem.open(ram / "store").transaction() as t:
        t.put("a", "k", b"v")
    assert list(ntmem.open(ram / "store").scan("a")) == [("k", b"v")]


def test_a_refused_change_beside_threads_that_read_all_the_time(ram: Path, start: Start) -> None:
    """Aborting waited in py-lmdb for a moment without readers, with the writers' lock held: for ever."""
    child = start(
        """
import faulthandler
faulthandler.dump_traceback_later(50, exit=True)
memory = ntmem.open(sys.argv[1])
memory.put_many("a", {f"k{n:03}": b"v" * 100 for n in range(400)})
busy, passes = True, [0, 0, 0]
def read(number):
    while busy:
        list(memory.scan("a")); passes[number] += 1
threads = [threading.Thread(target=read, args=(number,)) for number in range(3)]
for thread in threads: thread.start()
for n in range(5):
    assert "VersionConflict" in outcome(memory.put, "a", "k000", b"w", if_version=7)
    memory.put("a", "k", b"%d" % n)
before = list(passes)
while min(now - then for now, then in zip(passes, before)) < 1: time.sleep(0.001)  # readers go on
busy = False
for thread in threads: thread.join()
memory.close()
say("done")
""",
        ram / "store",
    )
    assert child.line() == "done"
    child.end()


# -- signal handlers and finalizers, which come at any moment

INTERRUPTED = """
class Stop(Exception): pass
armed = False
def handler(*_):
    if armed: raise Stop
signal.signal(signal.SIGUSR1, handler)
memory = ntmem.open(sys.argv[1])
memory.put("a", "k", b"v")
def send():
    while stopped < 1500:
        os.kill(os.getpid(), signal.SIGUSR1); time.sleep(0.0001)
stopped = 0
sender = threading.Thread(target=send); sender.start()
while sender.is_alive():
    try:
        armed = True
        while sender.is_alive():
            memory.put("a", "k", b"w"); memory.get("a", "k")
    except Stop:
        stopped += 1
    finally:
        armed = False
memory.close()  # waits for calls that are running: none is
with ntmem.open(sys.argv[1]) as memory:
    say(memory.get("a", "k"))
"""


def test_interrupts_leave_nothing_running(ram: Path, start: Start) -> None:
    """Ctrl-C at any place in a call, 1,500 times; then the store closes at once and opens again."""
    child = start(INTERRUPTED, ram / "store")
    assert child.line() == "b'w'"
    child.end()


HANDLER = """
import faulthandler
faulthandler.dump_traceback_later(50, exit=True)
deed = sys.argv[2]
memory = ntmem.open(sys.argv[1])
memory.put("a", "k", b"v")
hits, refused = 0, set()
def handler(*_):
    global hits
    hits += 1
    try:
        if deed == "close": memory.close()
        elif deed == "put": memory.put("a", "handler", b"w")
        elif deed == "get": assert memory.get("a", "k") is not None
    except ntmem.NtmemError as error:
        refused.add(str(error))
signal.signal(signal.SIGUSR1, handler)
me = threading.main_thread().ident
def send():
    while hits < 100:
        seen = hits
        while hits == seen:  # one that comes just before the main thread falls asleep wakes nobody
            signal.pthread_kill(me, signal.SIGUSR1); time.sleep(0.0002)
sender = threading.Thread(target=send); sender.start()
n = 0
try:
    while sender.is_alive():
        memory.put("a", "k", b"v" * 1000); n += 1
except ntmem.StoreClosed:
    pass
sender.join()
with ntmem.open(sys.argv[1]) as again:
    assert again.get("a", "k")
say(hits, [r for r in refused if "signal handler" not in r])
"""


@pytest.mark.parametrize("deed", ["close", "put", "get"])
def test_a_signal_handler_may_use_the_store(deed: str, ram: Path, start: Start) -> None:
    """It interrupts a write of its own thread: what it cannot do is refused, not waited for without end."""
    child = start(HANDLER, ram / "store", deed)
    assert child.line() == "100 []"
    child.end()


def test_finalizers_in_the_middle_of_transactions(ram: Path, start: Start) -> None:
    """The collector closes forgotten handles wherever it runs: within a transaction, and beside forks."""
    child = start(
        """
import faulthandler, gc
faulthandler.dump_traceback_later(50, exit=True)
gc.set_threshold(20)
memory = ntmem.open(sys.argv[1] + "/a")
def work():
    for n in range(600):
        memory.put("a", "k", b"v")
        other = ntmem.open(sys.argv[1] + "/b")
        other.itself = other
        del other
threads = [threading.Thread(target=work) for _ in range(3)]
for thread in threads: thread.start()
while any(thread.is_alive() for thread in threads):
    if (pid := os.fork()) == 0: os._exit(0)
    os.waitpid(pid, 0)
say("done")
memory.close()
""",
        ram,
    )
    assert child.line() == "done"
    child.end()


# -- read-only


def test_read_only_needs_a_store(ram: Path) -> None:
    for path in (ram / "missing", ram):
        with pytest.raises(ntmem.StorageError, match=r"no store in .*open it for writing"):
            ntmem.open(path, read_only=True)
    assert not list(ram.iterdir())


def every_write(memory: ntmem.MemorySystem) -> list[Any]:
    def transact() -> None:
        with memory.transaction() as t:
            t.put("a", "k", b"w")

    return [
        lambda: memory.put("a", "k", b"w"),
        lambda: memory.add("a", "new", b"w"),
        lambda: memory.incr("a", "n"),
        lambda: memory.delete("a", "k"),
        lambda: memory.put_many("a", {"k": b"w"}),
        lambda: memory.delete_namespace("a"),
        lambda: memory.retain("a", history=True),
        lambda: memory.namespace("a").update(k=1),
        transact,
    ]


def test_read_only_refuses_every_write(ram: Path) -> None:
    with ntmem.open(ram / "store") as memory:
        memory.put("a", "k", b"v")
    before = file_bytes(ram / "store")
    with ntmem.open(ram / "store", read_only=True) as memory:
        for write in every_write(memory):
            with pytest.raises(ntmem.ReadOnlyError, match="open it for writing"):
                write()
        assert memory.get("a", "k") == b"v"
        assert dict(memory.scan("a")) == {"k": b"v"}
        assert memory.verify().ok
    assert file_bytes(ram / "store") == before


def test_read_only_refuses_writes_beside_a_writing_handle(ram: Path) -> None:
    with ntmem.open(ram / "store") as writing, ntmem.open(ram / "store", read_only=True) as reading:
        writing.put("a", "k", b"v")
        for write in every_write(reading):
            with pytest.raises(ntmem.ReadOnlyError, match="open it for writing"):
                write()
        assert dict(writing.scan("a")) == {"k": b"v"}


def test_read_only_reads_while_another_process_writes(ram: Path, start: Start) -> None:
    writer = start(
        """
with ntmem.open(sys.argv[1]) as memory:
    n = 0
    while True:
        with memory.transaction() as t:
            for key in "xyz": t.put("a", key, b"%d" % n + bytes(5000))
        n += 1
        if n == 1: say("ready")
""",
        ram / "store",
    )
    assert writer.line() == "ready"
    with ntmem.open(ram / "store", read_only=True) as memory:
        last = -1
        for _ in range(1000):
            seen = {bytes(value) for value in memory.get_many("a", ["x", "y", "z"]).values()}
            assert len(seen) == 1  # whole transactions
            number = int(seen.pop().rstrip(b"\0"))
            assert number >= last
            last = number
        assert last > 0


def read_as_nobody(path: Path, start: Start) -> str:
    child = start(
        """
become_nobody()
def look():
    with ntmem.open(sys.argv[1], read_only=True) as memory:
        return memory.get("a", "k")
say(outcome(look))
""",
        path,
    )
    return child.line()


@pytest.fixture
def nobodys(ram: Path) -> Path:
    """A store that belongs to an ordinary user: this one, or as root 65534."""
    with ntmem.open(ram / "store") as memory:
        memory.put("a", "k", b"v")
    if os.getuid() == 0:
        for path in (ram / "store", *(ram / "store").iterdir()):
            os.chown(path, 65534, 65534)
    return ram / "store"


def test_read_only_in_a_directory_without_write_permission(nobodys: Path, start: Start) -> None:
    nobodys.chmod(0o500)
    assert read_as_nobody(nobodys, start) == "b'v'"
    (nobodys / "open.lock").chmod(0o400)
    assert read_as_nobody(nobodys, start) == "b'v'"
    nobodys.chmod(0o700)


def test_read_only_on_files_without_write_permission(nobodys: Path, start: Start) -> None:
    """A reader that could not enter its name in lock.mdb would see pages change under it: so it is refused."""
    for file in nobodys.iterdir():
        file.chmod(0o400)
    assert "lock.mdb" in read_as_nobody(nobodys, start)
    (nobodys / "lock.mdb").chmod(0o600)
    assert read_as_nobody(nobodys, start) == "b'v'"


@pytest.mark.skipif(os.getuid() != 0, reason="mounting a file system needs root")
def test_read_only_on_a_read_only_file_system(ram: Path, start: Start) -> None:
    with ntmem.open(ram / "store") as memory:
        memory.put("a", "k", b"v")
    (ram / "mount").mkdir()
    if os.system(f"mount --bind {ram}/store {ram}/mount && mount -o remount,ro,bind {ram}/mount") != 0:
        pytest.skip("mount is not allowed here")
    try:
        child = start(
            """
def look(**how):
    with ntmem.open(sys.argv[1], **how) as memory:
        return memory.get("a", "k")
say(outcome(look, read_only=True))
say(outcome(look))
""",
            ram / "mount",
        )
        assert child.line() == "b'v'"
        assert child.line().startswith("StorageError: ")
        child.end()
    finally:
        os.system(f"umount {ram}/mount")


# -- what stands in the way


@pytest.mark.parametrize("read_only", [False, True])
def test_directory_that_may_not_be_entered(read_only: bool, nobodys: Path, start: Start) -> None:
    code = "become_nobody()\nsay(outcome(ntmem.open, sys.argv[1], read_only=bool(int(sys.argv[2]))))"
    for mode, path in ((0o000, nobodys), (0o600, nobodys)):
        path.chmod(mode)
        error = start(code, path, int(read_only)).line()
        assert error.startswith("StorageError: ")
        assert str(path) in error
        assert "permission" in error.lower()
    nobodys.chmod(0o700)


def test_directory_not_writable(ram: Path, start: Start) -> None:
    (ram / "closed").mkdir(mode=0o555)
    (ram / "closed").chmod(0o555)
    code = "become_nobody()\nsay(outcome(ntmem.open, sys.argv[1]))"
    for path in (ram / "closed", ram / "closed" / "store"):
        error = start(code, path).line()
        assert error.startswith("StorageError: ")
        assert str(path) in error
    assert not list((ram / "closed").iterdir())


def test_paths_that_cannot_be_directories(ram: Path) -> None:
    (ram / "file").write_text("not a store")
    (ram / "loop").symlink_to(ram / "loop")
    (ram / "dangling").symlink_to(ram / "nowhere" / "at" / "all")
    for path in (ram / "file", ram / "file" / "below", ram / "loop", ram / "dangling", Path("/proc/no/such")):
        for read_only in (False, True):
            with pytest.raises(ntmem.StorageError, match=r"check the path|choose another path"):
                ntmem.open(path, read_only=read_only)
    for wrong in ("", b"bytes", 7):
        with pytest.raises((ValueError, TypeError), match="storage_path"):
            ntmem.open(wrong)  # type: ignore[arg-type]
    assert (ram / "file").read_text() == "not a store"


def test_a_missing_parent_is_made(ram: Path) -> None:
    with ntmem.open(ram / "a" / "b" / "c") as memory:
        memory.put("a", "k", b"v")
    assert (ram / "a" / "b" / "c").stat().st_mode & 0o077 == 0  # for nobody else


@pytest.mark.parametrize("shape", ["plain key", "named database", "a key called meta", "a database called meta"])
@pytest.mark.parametrize("read_only", [False, True])
def test_somebody_elses_lmdb_is_left_alone(shape: str, read_only: bool, ram: Path) -> None:
    path = ram / "theirs"
    with lmdb.open(str(path), max_dbs=3, lib_version=0) as env:
        named = (
            env.open_db(b"meta" if shape == "a database called meta" else b"theirs") if "database" in shape else None
        )
        with env.begin(write=True) as txn:
            txn.put(b"meta" if shape == "a key called meta" else b"k", b"v", db=named)
    before = file_bytes(path)
    with pytest.raises(ntmem.StorageError, match=r"no ntmem store.*check the path"):
        ntmem.open(path, read_only=read_only)
    assert file_bytes(path) == before


# -- schemas


def set_schema(path: Path, schema: int) -> None:
    with lmdb.open(str(path), max_dbs=8, lib_version=0) as env, env.begin(write=True) as txn:
        txn.put(b"schema", struct.pack("<Q", schema), db=env.open_db(b"meta", txn=txn))


@pytest.fixture
def written(ram: Path) -> Path:
    with ntmem.open(ram / "store") as memory:
        memory.put_many("a", {f"k{n}": b"%d" % n for n in range(100)})
    return ram / "store"


@pytest.mark.parametrize("read_only", [False, True])
def test_a_newer_schema_is_refused_and_left_alone(read_only: bool, written: Path) -> None:
    set_schema(written, opening.SCHEMA + 1)
    before = file_bytes(written)
    with pytest.raises(ntmem.SchemaError, match=rf"schema {opening.SCHEMA + 1}.*upgrade"):
        ntmem.open(written, read_only=read_only)
    assert file_bytes(written) == before


def test_migration_runs_once_and_first(written: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runs = []

    def migrate(tables: Any) -> None:
        runs.append(tables.head().position)
        tables.put_meta(b"added", b"by the migration")

    old = opening.SCHEMA
    monkeypatch.setattr(opening, "SCHEMA", old + 1)
    monkeypatch.setitem(opening.MIGRATIONS, old, migrate)
    with pytest.raises(ntmem.SchemaError, match="open it for writing once"):
        ntmem.open(written, read_only=True)
    for _ in range(2):
        with ntmem.open(written) as memory:
            assert memory.get("a", "k7") == b"7"
    assert runs == [100]
    ntmem.open(written, read_only=True).close()
    monkeypatch.setattr(opening, "SCHEMA", old)
    with pytest.raises(ntmem.SchemaError, match="upgrade"):
        ntmem.open(written)


def test_a_failing_migration_leaves_the_store_as_it_was(written: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def migrate(tables: Any) -> None:
        tables.put_meta(b"half", b"x" * 100_000)
        raise RuntimeError("the migration failed")

    old = opening.SCHEMA
    before = file_bytes(written)
    with monkeypatch.context() as patch:
        patch.setattr(opening, "SCHEMA", old + 1)
        patch.setitem(opening.MIGRATIONS, old, migrate)
        for _ in range(2):
            with pytest.raises(RuntimeError, match="the migration failed"):
                ntmem.open(written)
    assert file_bytes(written)[: len(before)] == before
    with ntmem.open(written) as memory:  # the old version still reads it
        assert len(dict(memory.scan("a"))) == 100


def test_a_schema_without_its_migration_is_refused(written: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(opening, "SCHEMA", opening.SCHEMA + 1)
    with pytest.raises(ntmem.SchemaError, match="can no longer migrate"):
        ntmem.open(written)


# -- the opening lock


def test_open_lock_is_given_back_after_every_failure(ram: Path) -> None:
    (ram / "store").mkdir()
    (ram / "store" / "data.mdb").write_bytes(b"not a database")
    with pytest.raises(ntmem.CorruptionError):
        ntmem.open(ram / "store")
    with (ram / "store" / "open.lock").open() as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


STEPS = {
    "lmdb": ["lmdb.open", "cold.ColdStore._open_databases", "engines.prepare", "engines.agree_on_clock"],
    "shared": [
        "shared.Environment",
        "cold.ColdStore._open_databases",
        "shared.AttachLock",
        "shared.prepare_rows",
        "shared.agree_on_row",
        "shared.create_region",
        "shared.SharedStore.use_log",  # the region has its name
        "shared.Flusher",
        "engines.LogEngine",
    ],
}


def test_a_killed_opener_leaves_a_usable_directory(engine: str, ram: Path, start: Start) -> None:
    """Killed between the steps of making a store: whatever stands there is gone on with."""
    for step in STEPS[engine]:
        path = ram / step
        child = start(
            """
import lmdb
from ntmem.tiers import cold, engines, shared
def die(*_, **__):
    os.kill(os.getpid(), signal.SIGKILL)
*owner, name = sys.argv[2].split(".")
setattr(eval(".".join(owner)), name, die)
ntmem.open(sys.argv[1])
""",
            path,
            step,
        )
        assert child.process.wait(60) == -signal.SIGKILL
        with ntmem.open(path) as memory:
            assert memory.put("a", "k", b"v") & (1 << 44) - 1 == 1  # the first position
        assert ntmem.verify(path).ok
