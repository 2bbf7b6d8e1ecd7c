"""Who has values of a store at hand, or its hot table: other keys, epochs, stores, sizes; closed handles, forks."""

from __future__ import annotations

import random
import threading

import pytest
from hostile import regions

import ntmem
from ntmem.tiers import logreads
from ntmem.tiers.log import LogEngine

pytestmark = [pytest.mark.usefixtures("engine"), pytest.mark.only("shared")]


def table_of(memory):
    return memory._live.store.hot


def heat(memory, namespace="desk", key="k", reads=200):
    """Read until the value is at hand; return it."""
    values = {memory.get(namespace, key) for _ in range(reads)}
    assert len(values) == 1
    return values.pop()


# -- at hand


def test_equal_keys_are_one_key_whatever_objects_they_are(ram):
    with ntmem.open(ram / "store") as memory:
        parts = "desk", "k"
        memory.put(*parts, b"old")
        heat(memory)
        for namespace in ("desk", "".join(["de", "sk"]), ("desk",)):
            for key in ("k", "".join(["", "k"]), b"k".decode(), type("Own", (str,), {})("k")):
                assert heat(memory, namespace, key) == b"old"
        memory.put("desk", b"k".decode(), b"new")
        for namespace in ("desk", "".join(["de", "sk"]), ("desk",)):
            for key in ("k", "".join(["", "k"]), b"k".decode(), type("Own", (str,), {})("k")):
                assert memory.get(namespace, key) == b"new"


def test_a_key_is_another_one_in_another_namespace(ram):
    key = "the same object"
    spaces = ["a", "b", ("a", "b"), "a/b", ("b",), "c"]
    with ntmem.open(ram / "store") as memory:
        for number, space in enumerate(("a", "b", "a/b")):
            memory.put(space, key, b"%d" % number)
        expected = [b"0", b"1", b"2", b"2", b"1", None]
        for _ in range(300):
            assert [memory.get(space, key) for space in spaces] == expected
        for space in spaces:
            heat(memory, space, key)
        assert [memory.get(space, key) for space in spaces] == expected
        memory.put("b", key, b"new")
        assert [memory.get(space, key) for space in spaces] == [b"0", b"new", b"2", b"2", b"new", None]


def test_keys_that_come_and_go(ram):
    """Objects are made where others have just ended: an address says nothing."""
    chance = random.Random(1)
    with ntmem.open(ram / "store") as memory:
        for number in range(200):
            memory.put("desk", f"{number}", b"%d" % number)
        for _ in range(30_000):
            number = chance.randrange(200)
            assert memory.get("desk", f"{number}") == b"%d" % number
            if chance.random() < 0.01:
                memory.put("desk", f"{number}", b"%d" % number)


def test_epochs(ram):
    with ntmem.open(ram / "store") as memory, ntmem.open(ram / "store") as other:
        for number in range(30):
            memory.put("desk", "k", b"%d" % number)
            heat(memory)
            if number % 3 == 0:
                other.retain("another", history=number % 2 == 0)
            elif number % 3 == 1:
                other.delete_namespace("another")
            else:
                other.delete_namespace("desk")
                assert heat(memory) is None
                memory.put("desk", "k", b"%d" % number)
            assert heat(memory) == b"%d" % number
            other.put("desk", "k", b"new")
            assert memory.get("desk", "k") == b"new"


def test_two_stores_of_one_process(ram):
    key = "k"
    with ntmem.open(ram / "one") as one, ntmem.open(ram / "two") as two, ntmem.open() as private:
        stores = one, two, private
        for number, memory in enumerate(stores):
            memory.put("desk", key, b"%d" % number)
        for _ in range(300):
            assert [memory.get("desk", key) for memory in stores] == [b"0", b"1", b"2"]
        two.delete("desk", key)
        assert [memory.get("desk", key) for memory in stores] == [b"0", None, b"2"]


def test_values_are_as_immutable_as_bytes(ram):
    with ntmem.open(ram / "store") as memory:
        value = b"v" * 100
        memory.put("desk", "k", value)
        heat(memory)
        found = memory.get("desk", "k")
        assert (type(found), found, found is value) == (bytes, value, False)


def test_threads_share_what_is_at_hand(ram):
    """One thread writes, and each reads what was acknowledged or newer."""
    acknowledged, done, faults = {f"{n}": 0 for n in range(20)}, threading.Event(), []

    def read(seed):
        chance, reads = random.Random(seed), 0
        while not done.is_set() or reads < 1000:
            key = f"{chance.randrange(20)}"
            least = acknowledged[key]
            found = int(memory.get("desk", key))
            reads += 1
            if found < least:
                faults.append((key, found, least))

    with ntmem.open(ram / "store", log_bytes=1 << 15) as memory:
        for key in acknowledged:
            memory.put("desk", key, b"0")
        threads = [threading.Thread(target=read, args=(seed,)) for seed in range(3)]
        for thread in threads:
            thread.start()
        chance = random.Random(7)
        for number in range(1, 4000):
            key = f"{chance.randrange(20)}"
            memory.put("desk", key, b"%d" % number)
            acknowledged[key] = number
        done.set()
        for thread in threads:
            thread.join()
    assert not faults


# -- who is gone


def test_a_closed_handle_gives_nothing_out(ram):
    with ntmem.open(ram / "store") as other:
        memory = ntmem.open(ram / "store")
        memory.put("desk", "k", b"v")
        assert heat(memory) == heat(other) == b"v"
        memory.close()
        for _ in range(3):
            with pytest.raises(ntmem.StoreClosed):
                memory.get("desk", "k")
        assert heat(other) == b"v"
    with pytest.raises(ntmem.StoreClosed):
        other.get("desk", "k")


def test_after_the_last_has_closed_the_next_begins_anew(ram):
    for number in range(5):
        with ntmem.open(ram / "store") as memory:
            assert memory.get("desk", "k") == (b"%d" % (number - 1) if number else None)
            memory.put("desk", "k", b"%d" % number)
            assert heat(memory) == b"%d" % number
            assert len(table_of(memory)) <= 1
    assert regions(ram) == []


FORK = """
memory = ntmem.open(sys.argv[1])
memory.put("desk", "k", b"v")
for _ in range(200): memory.get("desk", "k"); memory.get("desk", "not there"); memory.get_many("desk", ["k"])
table = memory._live.store.hot
uses = [
    lambda: memory.get("desk", "k"), lambda: memory.get("desk", "not there"), lambda: memory.put("desk", "k", b"w"),
    lambda: memory.get_many("desk", ["k"]), lambda: memory.put_many("desk", {"k": b"w"}), memory.stats,
    lambda: memory.get("other", "k"), lambda: memory.get(("desk",), "k"), lambda: memory.delete("desk", "k"),
]
tables = [
    lambda: table.get(b"a", b"b"), lambda: table.put(b"a", b"b", b"c"), lambda: table.promote(b"a", b"b", b"c", 1),
    lambda: table.forget(b"a", b"b"), table.clear, lambda: len(table), table.counts, table.times, table.evictions,
    lambda: table.live_bytes, lambda: table.memory_bytes, lambda: table.raise_floor(1),
    lambda: table.newest(b"a", b"b"),
]
for number, use in enumerate([*uses, *tables]):
    if (pid := os.fork()) == 0:
        try: use()
        except ntmem.StoreClosed as error: os._exit(7 if "open it again in the child" in str(error) else 8)
        except Exception as error: os._exit(7 if number >= len(uses) else 9)
        os._exit(10)
    assert os.waitpid(pid, 0)[1] == 7 << 8, number
say(memory.get("desk", "k"))
memory.close()
"""


def test_a_forked_child_has_no_memory_of_it_to_touch(ram, start):
    child = start("import warnings; warnings.simplefilter('ignore', DeprecationWarning)\n" + FORK, ram / "store")
    assert child.line() == "b'v'"
    child.end()


# -- other sizes


def test_who_opens_first_decides_the_sizes(ram, start):
    with ntmem.open(ram / "store", cache_config=ntmem.CacheConfig(max_entries=100, max_bytes=1 << 20)) as memory:
        memory.put("desk", "k", b"v")
        heat(memory)
        child = start(
            """
memory = ntmem.open(sys.argv[1], cache_config=ntmem.CacheConfig(max_entries=7, max_bytes=1, ttl=1))
assert {memory.get("desk", "k") for _ in range(100)} == {b"v"}
memory.put("desk", "k", b"new")
say(*memory._live.store.hot.limits[:2], memory._live.store.hot.counts()["hot"])
hear()
""",
            ram / "store",
        )
        size, entries, hits = map(int, child.line().split())
        assert (size, entries) == table_of(memory).limits[:2]
        assert hits > 200
        assert heat(memory) == b"new"
        child.tell()
        child.end()


@pytest.mark.parametrize("where", ["environment", "configuration"])
def test_a_cache_of_a_byte_is_next_to_none(ram, monkeypatch, where):
    config = ntmem.CacheConfig()
    if where == "environment":
        monkeypatch.setenv("NTMEM_CACHE_BYTES", "1")
    else:
        config = ntmem.CacheConfig(max_bytes=1, max_entries=1)
    with ntmem.open(ram / "store", cache_config=config, log_bytes=1 << 15) as memory:
        oracle = {}
        for number in range(3000):
            oracle[f"{number % 40}"] = b"%d" % number * (number % 30)
            memory.put("desk", f"{number % 40}", oracle[f"{number % 40}"])
            for key in ("0", "1", f"{number % 40}"):
                assert memory.get("desk", key) == oracle.get(key)
        assert table_of(memory).limits[0] <= 8192
        assert table_of(memory).memory_bytes < 1 << 20
        assert table_of(memory).limits[2] == 1


def test_a_life_in_the_table_is_none_of_the_store(ram):
    with ntmem.open(ram / "store", cache_config=ntmem.CacheConfig(ttl=0.01), log_bytes=1 << 15) as memory:
        memory.put("desk", "k", b"v")
        heat(memory)
        while table_of(memory).get(b"\x04desk", b"k") is not None:
            pass
        assert heat(memory) == b"v"


# -- read only


def test_a_reader_reads_through_the_table_of_the_writers(ram, start):
    with ntmem.open(ram / "store") as memory:
        memory.put("desk", "k", b"old")
        child = start(
            """
memory = ntmem.open(sys.argv[1], read_only=True)
say({memory.get("desk", "k") for _ in range(200)})
while hear():
    say(memory.get("desk", "k"), memory.get_many("desk", ["k"]).get("k"))
""",
            ram / "store",
        )
        assert child.line() == "{b'old'}"
        for number in range(50):
            memory.put("desk", "k", b"%d" % number)
            child.tell("go on")
            assert child.line() == f"{b'%d' % number!r} {b'%d' % number!r}"
        memory.delete_namespace("desk")
        child.tell("go on")
        assert child.line() == "None None"
        child.tell()
        child.end()


def test_the_reads_of_a_reader_are_answered_by_the_table(ram, start):
    with ntmem.open(ram / "store") as memory:
        memory.put("desk", "k", b"v")
        start(
            """
memory = ntmem.open(sys.argv[1], read_only=True)
for _ in range(200): memory.get("desk", "k")
""",
            ram / "store",
        ).end()
        assert table_of(memory).counts()["hot"] > 150


def test_a_reader_before_and_after_the_writers(ram, start):
    with ntmem.open(ram / "store") as memory:
        memory.put("desk", "k", b"0")
    child = start(
        """
memory = ntmem.open(sys.argv[1], read_only=True)
say("open")
while hear(): say({memory.get("desk", "k") for _ in range(100)})
""",
        ram / "store",
    )
    assert child.line() == "open"
    for number in range(4):
        child.tell("without")
        assert child.line() == f"{{{b'%d' % number!r}}}"
        with ntmem.open(ram / "store") as memory:
            memory.put("desk", "k", b"%d" % (number + 1))
            child.tell("with")
            assert child.line() == f"{{{b'%d' % (number + 1)!r}}}"
    child.tell()
    child.end()


# -- many at once


def test_what_many_at_once_promote_was_looked_for_before(ram, monkeypatch):
    """A namespace is deleted past the log between the snapshot of get_many and its look at the log: what the snapshot
    has may be returned, as it was asked for before the deletion was acknowledged, but not served to others after it."""
    begun, noticed, looked = threading.Event(), threading.Event(), threading.Event()
    gather, notice = logreads.gather, LogEngine._notice

    def gather_late(*arguments):
        if not begun.is_set():
            begun.set()
            assert noticed.wait(60)
        try:
            return gather(*arguments)
        finally:
            looked.set()

    def notice_early(self, labels):
        notice(self, labels)
        noticed.set()
        assert looked.wait(60)

    with ntmem.open(ram / "store", log_bytes=1 << 15) as memory:
        memory.put("desk", "k", b"old")
        memory.put("desk", "j", b"old")
        memory.flush()
        monkeypatch.setattr(logreads, "gather", gather_late)
        monkeypatch.setattr(LogEngine, "_notice", notice_early)
        reader = threading.Thread(target=lambda: memory.get_many("desk", ["k", "j"]))
        reader.start()
        assert begun.wait(60)
        memory.delete_namespace("desk")
        reader.join()
        assert [memory.get("desk", key) for key in ("k", "j")] == [None, None]
        assert memory.get_many("desk", ["k", "j"]) == {}


def test_while_a_namespace_is_deleted_nobody_goes_back(ram, monkeypatch):
    """It is gone from the disk, and not told to anybody yet: who finds that does not find the value again at hand."""
    deleted, done = threading.Event(), threading.Event()
    notice = LogEngine._notice

    def notice_late(self, labels):
        deleted.set()
        assert done.wait(60)
        notice(self, labels)

    with ntmem.open(ram / "store") as memory, ntmem.open(ram / "store") as other:
        memory.put("desk", "k", b"old")
        memory.flush()
        assert heat(memory) == b"old"
        monkeypatch.setattr(LogEngine, "_notice", notice_late)
        deleter = threading.Thread(target=lambda: other.delete_namespace("desk"))
        deleter.start()
        assert deleted.wait(60)
        found = [other.get_record("desk", "k"), memory.get("desk", "k"), other.get("desk", "k")]
        done.set()
        deleter.join()
        assert found == [None, None, None]


def test_many_at_once_fill_the_table_and_are_served_from_it(ram):
    keys = [f"{n}" for n in range(100)]
    with ntmem.open(ram / "store", log_bytes=1 << 15) as memory:
        memory.put_many("desk", {key: key.encode() for key in keys})
        expected = {key: key.encode() for key in keys}
        for _ in range(3):
            assert memory.get_many("desk", [*keys, "absent"]) == expected
        before = table_of(memory).counts()
        assert memory.get_many("desk", keys) == expected
        assert table_of(memory).counts()["hot"] == before["hot"] + 100
        memory.put("desk", "5", b"new")
        memory.delete("desk", "6")
        expected |= {"5": b"new"}
        del expected["6"]
        assert memory.get_many("desk", keys) == expected
        for key in keys:
            assert memory.get("desk", key) == expected.get(key)


def test_counters_of_the_dead_go_to_who_comes_next(ram, start):
    """65 processes one after the other: each has a block of counters, and what they counted is kept."""
    with ntmem.open(ram / "store") as memory:
        memory.put("desk", "k", b"v")
        before = sum(table_of(memory).counts().values())
        child = start(
            """
for _ in range(70):
    if os.fork() == 0:
        memory = ntmem.open(sys.argv[1])
        for _ in range(100): assert memory.get("desk", "k") == b"v"
        memory.close()
        os._exit(0)
    assert os.wait()[1] == 0
say("done")
""",
            ram / "store",
        )
        assert child.line() == "done"
        counts = table_of(memory).counts()
        assert sum(counts.values()) - before - counts["promoted"] >= 7000
