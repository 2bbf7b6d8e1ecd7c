"""The native binding of LMDB against py-lmdb: same operations, same answers, same files, same exceptions."""

from __future__ import annotations

import errno
import gc
import os
import random
import shutil
import subprocess
import sys
import threading

import lmdb
import pytest
from hostile import ram_directory

from ntmem._core import mdb

SIZE = 1 << 24


def open_ours(path, **more):
    return mdb.Environment(path, map_size=SIZE, **more)


def open_theirs(path, **more):
    return lmdb.open(str(path), map_size=SIZE, max_dbs=16, max_readers=1022, max_spare_txns=0, lib_version=0, **more)


@pytest.fixture
def ram():
    with ram_directory() as path:
        yield path


@pytest.fixture
def env(ram):
    env = open_ours(ram / "env")
    yield env
    env.close()


@pytest.fixture
def table(env):
    return env.open_db(b"table")


def run_child(code, *arguments):
    """Run Python text in a process of its own: some things can be done to a process once."""
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def answer_of(function, *arguments, **named):
    """The result, or the class and the code of the exception."""
    try:
        result = function(*arguments, **named)
    except lmdb.Error as error:
        return type(error), error.code
    return bytes(result) if isinstance(result, memoryview) else result


# ---- the same as py-lmdb ----


class Pair:
    """One environment of each kind, and the same operation in both."""

    def __init__(self, directory):
        self.envs = [open_ours(directory / "ours"), open_theirs(directory / "theirs")]
        self.dbs = [env.open_db(b"table") for env in self.envs]
        self.txns = []
        self.cursors = []

    def begin(self, write):
        self.txns = [env.begin(write=write, buffers=True) for env in self.envs]
        self.cursors = []

    def on_txns(self, method, *arguments, **named):
        answers = [
            answer_of(getattr(txn, method), *arguments, db=db, **named)
            for txn, db in zip(self.txns, self.dbs, strict=True)
        ]
        assert answers[0] == answers[1], (method, arguments, named)
        return answers[0]

    def on_cursors(self, method, *arguments):
        if not self.cursors:
            self.cursors = [txn.cursor(db) for txn, db in zip(self.txns, self.dbs, strict=True)]
        answers = [answer_of(getattr(cursor, method), *arguments) for cursor in self.cursors]
        assert answers[0] == answers[1], (method, arguments)
        return answers[0]

    def contents(self):
        both = []
        for env, db in zip(self.envs, self.dbs, strict=True):
            with env.begin(buffers=False) as txn:
                both.append((list(txn.cursor(db)), txn.stat(db)))
        assert both[0] == both[1]
        return both[0][0]

    def close(self):
        for env in self.envs:
            env.close()


@pytest.mark.parametrize("seed", range(8))
def test_random_operations_have_the_same_answers(ram, seed):
    rng = random.Random(seed)
    pair = Pair(ram)

    def key():
        return b"k%03d" % rng.randrange(150) + b"x" * rng.choice([0, 0, 300, 507])

    def value():
        return rng.randbytes(rng.choice([0, 1, 100, 3000, 5000, 70_000]))

    def change(where=None):
        kind = rng.randrange(4)
        where = where or key()
        if kind == 0:
            pair.on_txns("delete", where)
        else:
            pair.on_txns("put", where, value(), overwrite=kind > 1, append=rng.random() < 0.05)

    def look():
        pair.on_txns("get", key())
        pair.on_txns("get", key(), b"nothing")

    def walk(may_delete):
        pair.on_cursors(*rng.choice([("first",), ("last",), ("set_range", key())]))
        for _ in range(rng.randrange(10)):
            here = pair.on_cursors("key")
            pair.on_cursors("value")
            if may_delete and rng.random() < 0.3 and here:  # beside the cursor, perhaps the row under it
                change(rng.choice([here, key()]))
                if not pair.on_cursors("key"):
                    break
                pair.on_cursors("value")
            if may_delete and rng.random() < 0.3:
                pair.on_cursors("delete")
            else:
                pair.on_cursors(rng.choice(["next", "prev"]))

    for _ in range(25):
        write = rng.random() < 0.7
        pair.begin(write)
        for _ in range(rng.randrange(40)):
            rng.choice([look, lambda write=write: walk(write), *[change] * 2 * write])()
        ending = rng.choice(["commit", "commit", "abort"])
        assert len({answer_of(getattr(txn, ending)) for txn in pair.txns}) == 1
        pair.contents()
    assert pair.contents()
    pair.close()


@pytest.mark.parametrize(("writer", "reader"), [(open_ours, open_theirs), (open_theirs, open_ours)])
def test_one_reads_what_the_other_wrote(ram, writer, reader):
    env = writer(ram / "env")
    table = env.open_db(b"table")
    rows = {b"%05d" % number: random.Random(number).randbytes(number % 5000) for number in range(2000)}
    with env.begin(write=True) as txn:
        for key, value in rows.items():
            txn.put(key, value, db=table)
    env.close()
    env = reader(ram / "env", readonly=True)
    table = env.open_db(b"table", create=False)
    with env.begin(buffers=False) as txn:
        assert dict(txn.cursor(table)) == rows
        assert [name for name, _ in txn.cursor()] == [b"table"]
    env.close()


def test_two_processes_share_a_file(ram, env, table):
    code = """if True:
        import lmdb, sys
        env = lmdb.open(sys.argv[1], map_size=1 << 24, max_dbs=4, lib_version=0)
        table = env.open_db(b"table")
        with env.begin(write=True) as txn:
            txn.put(b"from", b"py-lmdb", db=table)
        print(env.info()["last_txnid"])
    """
    said = run_child(code, ram / "env")
    assert env.info()["last_txnid"] == int(said)
    with env.begin(buffers=False) as txn:
        assert txn.get(b"from", db=table) == b"py-lmdb"


def test_figures_are_those_of_py_lmdb(ram):
    pair = Pair(ram)
    pair.begin(write=True)
    for number in range(3000):
        pair.on_txns("put", b"%06d" % number, b"v" * (number % 200))
    for txn in pair.txns:
        txn.commit()
    ours, theirs = pair.envs
    assert ours.stat() == theirs.stat()
    told = ours.info()
    assert told == {name: value for name, value in theirs.info().items() if name != "map_addr"}
    assert told["map_size"] == SIZE
    assert ours.path == str(ram / "ours")
    assert ours.reader_check() == 0
    pair.close()


def test_free_pages_are_counted(env, table):
    assert env.free_pages() >= 0
    for _ in range(3):
        with env.begin(write=True) as txn:
            for number in range(500):
                txn.put(b"%d" % number, b"v" * 1000, db=table)
    before = env.free_pages()
    with env.begin(write=True) as txn:
        for number in range(500):
            txn.delete(b"%d" % number, db=table)
    used = (env.info()["last_pgno"] + 1) - env.free_pages()
    assert env.free_pages() > before + 100
    with env.begin() as txn:
        assert 2 < used < 30, "meta pages, the list itself, and an empty table"
        assert txn.stat(table)["entries"] == 0


# ---- what is got stays what it was ----


@pytest.mark.parametrize("size", [10, 5000, 1 << 20])
def test_a_value_outlives_page_transaction_and_environment(ram, size):
    env = open_ours(ram / "env")
    with env.begin(write=True) as txn:
        txn.put(b"key", b"1" * size)
        dirty = txn.get(b"key")
        txn.put(b"key", b"2" * size)
    with env.begin() as txn:
        clean = txn.get(b"key")
        cursor = txn.cursor()
        cursor.first()
        key, value = cursor.key(), cursor.value()
    for round_ in range(5):
        with env.begin(write=True) as txn:
            txn.put(b"key", b"%d" % round_ * size)
    env.close()
    shutil.rmtree(ram / "env")
    assert isinstance(clean, memoryview)
    assert clean.readonly
    assert bytes(dirty) == b"1" * size
    assert bytes(clean) == bytes(value) == b"2" * size
    assert bytes(key) == b"key"


def test_keys_and_values_may_be_any_buffer(env):
    with env.begin(write=True, buffers=False) as txn:
        assert txn.put(bytearray(b"key"), memoryview(b"xvaluex")[1:-1])
        assert txn.get(memoryview(b"key")) == b"value"
        large = bytearray(b"l" * (1 << 17))
        assert txn.put(b"large", large)
        large.clear()  # no export is left behind
        assert txn.cursor().set_range(bytearray(b"l"))
        assert txn.delete(bytearray(b"key"))
        for wrong in ("text", 1, None):
            with pytest.raises(TypeError):
                txn.get(wrong)
            with pytest.raises(TypeError):
                txn.put(b"key", wrong)


# ---- cursors ----


def test_delete_moves_to_the_next_row(env, table):
    with env.begin(write=True, buffers=False) as txn:
        for number in range(1000):
            txn.put(b"%04d" % number, b"v" * 50, db=table)
        cursor = txn.cursor(table)
        assert cursor.set_range(b"0100")
        for number in range(100, 900):
            assert cursor.key() == b"%04d" % number
            assert cursor.delete()
        assert cursor.key() == b"0900"
        assert cursor.last()
        assert cursor.delete()
        assert (cursor.key(), cursor.value()) == (b"", b"")
        assert not cursor.delete()
        assert list(txn.cursor(table).iternext(values=False)) == [
            b"%04d" % number for number in [*range(100), *range(900, 999)]
        ]


def test_an_empty_database_has_no_places(env, table):
    with env.begin(write=True, buffers=False) as txn:
        cursor = txn.cursor(table)
        for found in (cursor.first(), cursor.last(), cursor.next(), cursor.prev(), cursor.set_range(b"a")):
            assert found is False
        assert cursor.set_range(b"") is False
        assert cursor.key() == b""
        assert not cursor.delete()
        assert list(cursor) == []


def test_set_range_past_the_end_and_back(env, table):
    with env.begin(write=True, buffers=False) as txn:
        for key in (b"a", b"b", b"c"):
            txn.put(key, key.upper(), db=table)
        cursor = txn.cursor(table)
        assert not cursor.set_range(b"d")
        assert cursor.key() == b""
        assert cursor.set_range(b"")
        assert cursor.key() == b"a"
        assert cursor.set_range(b"aa")
        assert cursor.prev()
        assert cursor.key() == b"a"
        assert not cursor.prev()
        assert list(cursor.iternext()) == [(b"a", b"A"), (b"b", b"B"), (b"c", b"C")]
        assert cursor.set_range(b"b")
        assert list(cursor.iternext(keys=False)) == [b"B", b"C"]
        cursor.first()
        txn.put(b"0", b"new", db=table)
        assert cursor.key() == b"a"


# ---- transactions ----


def test_a_transaction_ends_once(env):
    with env.begin(write=True) as txn:
        txn.put(b"key", b"value")
        cursor = txn.cursor()
        iterator = iter(cursor)
        next(iterator)
    for use in (
        lambda: txn.get(b"key"),
        lambda: txn.put(b"key", b"value"),
        lambda: txn.delete(b"key"),
        txn.commit,
        txn.cursor,
        txn.id,
        txn.stat,
        cursor.first,
        cursor.key,
        cursor.delete,
        cursor.iternext,
        lambda: next(iterator),
        lambda: cursor.set_range(b"k"),
    ):
        with pytest.raises(lmdb.Error, match="closed"):
            use()
    txn.abort()


def test_an_exception_aborts(env):
    def fail():
        with env.begin(write=True) as txn:
            txn.put(b"key", b"value")
            raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        fail()
    with env.begin() as txn:
        assert txn.get(b"key") is None


def test_what_is_left_open_is_aborted(env):
    txn = env.begin(write=True)
    txn.put(b"key", b"value")
    cursor = txn.cursor()
    reading = env.begin()
    with pytest.raises(RuntimeError, match="2 open transactions"):
        env.close()
    del txn, cursor, reading
    gc.collect()
    with env.begin(write=True) as txn:
        assert txn.get(b"key") is None
        assert txn.id() == env.info()["last_txnid"] + 1


def test_a_reader_sees_one_state_and_its_slot_is_used_again(env):
    with env.begin() as before:
        with env.begin(write=True) as txn:
            txn.put(b"key", b"value")
        with env.begin() as after:
            assert (before.get(b"key"), bytes(after.get(b"key"))) == (None, b"value")
            assert after.id() == before.id() + 1
    for _ in range(3000):  # more than there are slots
        env.begin().abort()
    assert env.info()["num_readers"] == 2


def test_a_thread_has_one_write_transaction_and_ends_it_itself(env):
    txn = env.begin(write=True)
    with pytest.raises(lmdb.Error, match="has a write transaction already") as caught:
        env.begin(write=True)
    assert caught.value.code == errno.EBUSY
    said = []

    def use_it():
        for use in (txn.commit, txn.abort, txn.id, lambda: txn.put(b"key", b"value"), lambda: txn.get(b"key")):
            try:
                use()
            except RuntimeError as error:
                said.append(str(error))

    thread = threading.Thread(target=use_it)
    thread.start()
    thread.join()
    assert said == ["a write transaction belongs to the thread that began it; begin one in each thread"] * 5
    txn.commit()


@pytest.mark.skipif("tsan" in os.environ.get("LD_PRELOAD", ""), reason="it reports the misuse that is tested")
def test_a_write_transaction_dropped_by_another_thread_keeps_its_file_mapped(ram):
    code = """if True:
        import sys, threading
        from ntmem._core import mdb
        env = mdb.Environment(sys.argv[1], map_size=1 << 24)
        held = []
        begun, drop, dropped = threading.Event(), threading.Event(), threading.Event()
        def begin():
            held.append(env.begin(write=True))
            held[0].put(b"key", b"value")
            begun.set()
            dropped.wait()
            try:
                env.begin(write=True)
            except Exception as error:
                print(error)
        thread = threading.Thread(target=begin)
        thread.start()
        begun.wait()
        held.clear()
        try:
            env.close()
        except RuntimeError as error:
            print(str(error).split(" has ")[1])
        dropped.set()
        thread.join()
        with env.begin(write=True) as txn:  # the mutex of a thread that ended is free
            print(txn.get(b"key"))
    """
    busy = f"This thread has a write transaction already: {os.strerror(errno.EBUSY)}"
    assert run_child(code, ram / "env").splitlines() == [
        "1 open transactions or native users; end them first",
        busy,
        "None",
    ]


def test_threads_take_turns_to_write(env):
    def add():
        for _ in range(200):
            with env.begin(write=True) as txn:
                txn.put(b"count", b"%d" % (int(bytes(txn.get(b"count", b"0"))) + 1))

    threads = [threading.Thread(target=add) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with env.begin(buffers=False) as txn:
        assert txn.get(b"count") == b"800"


# ---- errors ----


@pytest.mark.parametrize(
    ("name", "action"),
    [
        ("BadValsizeError", lambda env, txn: txn.put(b"", b"value")),
        ("BadValsizeError", lambda env, txn: txn.put(b"k" * 512, b"value")),
        ("BadValsizeError", lambda env, txn: txn.get(b"")),
        ("MapFullError", lambda env, txn: txn.put(b"key", b"v" * 2 * SIZE)),
        ("NotFoundError", lambda env, txn: env.open_db(b"absent", txn, create=False)),
        ("DbsFullError", lambda env, txn: [env.open_db(b"%d" % number, txn) for number in range(17)]),
        ("IncompatibleError", lambda env, txn: (txn.put(b"row", b"data"), env.open_db(b"row", txn))),
    ],
)
def test_errors_are_py_lmdbs(ram, name, action):
    said = []
    for opener in (open_ours, open_theirs):
        env = opener(ram / opener.__name__)
        with pytest.raises(getattr(lmdb, name)) as caught, env.begin(write=True) as txn:
            action(env, txn)
        said.append((type(caught.value), caught.value.code, caught.value.what, caught.value.reason))
        assert str(caught.value).startswith(f"{caught.value.what}: {caught.value.reason}")
        env.close()
    assert said[0] == said[1]


def test_a_file_that_is_no_database_is_refused_as_by_py_lmdb(ram):
    (ram / "env").mkdir()
    (ram / "env/data.mdb").write_bytes(b"not a database" * 1000)
    for opener in (open_ours, open_theirs):
        with pytest.raises(lmdb.InvalidError, match=str(ram / "env")):
            opener(ram / "env")


def test_what_is_not_there(ram):
    for more in ({"readonly": True}, {"create": False}):
        with pytest.raises(lmdb.Error, match="No such file or directory") as caught:
            open_ours(ram / "absent", **more)
        assert caught.value.code == errno.ENOENT
    (ram / "file").touch()
    with pytest.raises(lmdb.Error):
        open_ours(ram / "file")
    assert not (ram / "absent").exists()


def test_a_readonly_environment_does_not_write(ram):
    open_ours(ram / "env").close()
    env = open_ours(ram / "env", readonly=True)
    assert env.readonly
    with pytest.raises(lmdb.ReadonlyError, match="read-only environment"):
        env.begin(write=True)
    with env.begin() as txn, pytest.raises(lmdb.ReadonlyError):
        txn.put(b"key", b"value")
    env.close()


def test_a_full_disk_is_an_error_of_that_kind(ram):
    code = """if True:
        import resource, signal, sys
        from ntmem._core import mdb
        env = mdb.Environment(sys.argv[1], map_size=1 << 24)
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))
        try:
            with env.begin(write=True) as txn:
                txn.put(b"key", b"v" * (1 << 22))
        except Exception as error:
            print(type(error).__name__, error.code, error)
        with env.begin() as txn:
            print(txn.get(b"key"))
    """
    failure, found = run_child(code, ram / "env").splitlines()
    assert failure in (
        f"Error {errno.EFBIG} mdb_txn_commit: {os.strerror(errno.EFBIG)}",
        f"Error {errno.EIO} mdb_txn_commit: {os.strerror(errno.EIO)}",  # a short write
    )
    assert found == "None"


@pytest.mark.skipif("san" in os.environ.get("LD_PRELOAD", ""), reason="sanitizers need address space themselves")
def test_less_address_space_than_wished_for(ram):
    code = """if True:
        import resource, sys
        import lmdb
        from ntmem._core import mdb
        resource.setrlimit(resource.RLIMIT_AS, (4 << 30, 4 << 30))
        env = mdb.Environment(sys.argv[1], map_size=64 << 30)
        with env.begin(write=True) as txn:
            txn.put(b"key", b"value")
        print(env.info()["map_size"])
        env.close()
        resource.setrlimit(resource.RLIMIT_AS, (100 << 20, 4 << 30))
        with open(sys.argv[1] + "/data.mdb", "r+b") as file:
            file.truncate(1 << 30)
        try:
            mdb.Environment(sys.argv[1], map_size=64 << 30)
        except lmdb.MemoryError as error:
            print("refused")
    """
    size, refused = run_child(code, ram / "env").splitlines()
    assert int(size) in (1 << 30, 2 << 30)
    assert refused == "refused", "a map smaller than the file would not do"


# ---- one environment per file and process ----


def test_a_file_is_opened_once(ram, env, table):
    (ram / "link").symlink_to(ram / "env")
    (ram / "hard").mkdir()
    os.link(ram / "env/data.mdb", ram / "hard/data.mdb")
    for path in ("env", "link", "hard"):
        with pytest.raises(lmdb.Error, match="already open in this process"):
            open_ours(ram / path)
    env.close()
    env.close()
    for use in (env.begin, env.info, env.stat, env.sync, env.reader_check, env.free_pages, lambda: env.open_db(b"x")):
        with pytest.raises(lmdb.Error, match="closed"):
            use()
    with pytest.raises(lmdb.Error, match="closed"):
        env.copy(ram)
    again = open_ours(ram / "link")
    with again.begin() as txn, pytest.raises(lmdb.Error, match="belongs to another environment"):
        txn.get(b"key", db=table)
    other = open_ours(ram / "other")
    with other.begin() as txn, pytest.raises(lmdb.Error, match="Transaction belongs to another environment"):
        again.open_db(b"table", txn)
    other.close()
    again.close()


def test_what_is_forgotten_is_closed(ram):
    for _ in range(3):
        env = open_ours(ram / "env")
        with env.begin(write=True) as txn:
            txn.put(b"key", b"value")
        del env, txn


def test_copies_open_by_themselves(ram, env):
    with env.begin(write=True) as txn:
        txn.put(b"key", b"value")
    env.sync()
    for compact in (False, True):
        (ram / f"copy{compact}").mkdir()
        env.copy(ram / f"copy{compact}", compact=compact)
        copy = open_ours(ram / f"copy{compact}")
        with copy.begin(buffers=False) as txn:
            assert txn.get(b"key") == b"value"
        copy.close()
    with pytest.raises(lmdb.Error, match="mdb_env_copy2: File exists"):
        env.copy(ram / "copyTrue")


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_forked_child_opens_it_again(ram):
    code = """if True:
        import gc, os, sys
        from ntmem._core import mdb
        env = mdb.Environment(sys.argv[1], map_size=1 << 24)
        table = env.open_db(b"table")
        reading, writing = env.begin(), env.begin(write=True)
        writing.put(b"key", b"parent", db=table)
        cursor, changing = reading.cursor(table), writing.cursor(table)
        changing.first()
        if os.fork() == 0:
            for use in (
                env.begin, env.info, env.sync, env.stat, env.reader_check, env.free_pages, cursor.first, changing.key,
                changing.delete, reading.abort, reading.commit, writing.commit, reading.cursor, writing.id,
                lambda: env.open_db(b"table"), lambda: reading.get(b"key"), lambda: writing.put(b"key", b"child"),
                reading.__enter__, lambda: env.copy("nowhere"),
            ):
                try:
                    use()
                except RuntimeError as error:
                    assert "opened before this process was forked; open it again" in str(error)
                else:
                    raise AssertionError(use)
            env.close()
            del use, env, reading, writing, cursor, changing, table
            gc.collect()
            env = mdb.Environment(sys.argv[1], map_size=1 << 24)
            with env.begin() as txn:
                print(txn.get(b"table") is not None, flush=True)
            env.close()
            os._exit(0)
        print(os.waitstatus_to_exitcode(os.wait()[1]))
        writing.commit()
        reading.abort()
        with env.begin(buffers=False) as txn:
            print(txn.get(b"key", db=table).decode())
        print(env.reader_check())
        env.close()
    """
    assert run_child(code, ram / "env").splitlines() == ["True", "0", "parent", "0"]


def test_only_the_environment_is_made_by_its_class():
    for kind in (mdb.Transaction, mdb.Cursor, mdb.Database):
        with pytest.raises(TypeError, match=r"use \w+\.\w+\(\)"):
            kind()
    txn, cursor = mdb.Transaction.__new__(mdb.Transaction), mdb.Cursor.__new__(mdb.Cursor)
    for use in (txn.get, cursor.set_range):
        with pytest.raises(TypeError):
            use(b"key")
    for use in (txn.commit, txn.abort, txn.id, txn.cursor, cursor.first, cursor.key, cursor.delete, cursor.iternext):
        with pytest.raises(TypeError, match=r"use \w+\.\w+\(\)"):
            use()


def test_a_change_may_use_many_cursors(env, table):
    with env.begin(write=True) as txn:
        for number in range(20_000):  # LMDB looks at all that are open whenever something changes
            cursor = txn.cursor(table)
            assert not cursor.set_range(b"%06d" % number)
            txn.put(b"%06d" % number, b"value", db=table)
        assert txn.stat(table)["entries"] == 20_000
