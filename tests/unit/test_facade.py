"""The facade call by call: what arguments mean, and what is said of wrong ones."""

from __future__ import annotations

import asyncio
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import ntmem

pytestmark = pytest.mark.usefixtures("engine")

START = 1_700_000_000_000_000_000
SECOND = 1_000_000_000


def test_a_record_carries_its_times_and_writer(memory: ntmem.MemorySystem) -> None:
    version = memory.put("desk", "target", b"3", ttl=60, ts_event=5)
    record = memory.get_record("desk", "target")
    assert record == ntmem.Record(b"3", version, 5, START, START + 60 * SECOND, None, "agent_1")
    assert "version" in repr(record)


@pytest.mark.parametrize(
    "instant",
    [
        START - SECOND,
        datetime.fromtimestamp(START // SECOND - 1, UTC),
        datetime.fromtimestamp(START // SECOND - 1, UTC).astimezone(),
        np.datetime64(START - SECOND, "ns"),
        np.datetime64(START // SECOND - 1, "s"),
        np.int64(START - SECOND),
    ],
)
def test_instants_in_every_form(memory: ntmem.MemorySystem, instant: Any) -> None:
    memory.put("desk", "x", b"", ts_known=instant)
    record = memory.get_record("desk", "x")
    assert record is not None
    assert record.ts_known == START - SECOND


@pytest.mark.parametrize("ttl", [1.5, timedelta(seconds=1.5), timedelta(milliseconds=1500)])
def test_durations_in_every_form(memory: ntmem.MemorySystem, clock: ntmem.SimulatedClock, ttl: Any) -> None:
    memory.put("desk", "x", b"1", ttl=ttl)
    clock.set(START + 1_499_999_999)
    assert memory.get("desk", "x") == b"1"
    clock.set(START + 1_500_000_000)
    assert memory.get("desk", "x") is None
    assert not memory.exists("desk", "x")
    assert list(memory.scan("desk")) == []


@pytest.mark.parametrize(
    ("options", "error", "says"),
    [
        ({"ttl": 0}, ValueError, "more than 0 seconds"),
        ({"ttl": -1}, ValueError, "more than 0"),
        ({"ttl": float("nan")}, ValueError, "finite"),
        ({"ttl": float("inf")}, ValueError, "finite"),
        ({"ttl": "1"}, TypeError, "seconds"),
        ({"ttl": True}, TypeError, "seconds"),
        ({"ts_known": datetime(2024, 1, 1)}, ValueError, "time zone"),
        ({"ts_known": 1.5}, TypeError, "nanoseconds"),
        ({"ts_known": -1}, ValueError, "1970"),
        ({"ts_known": np.datetime64("NaT", "ns")}, ValueError, "NaT"),
        ({"ts_known": np.datetime64("9999-01-01", "s")}, ValueError, "2262"),
        ({"ts_known": np.float64(1)}, TypeError, "nanoseconds"),
        ({"ts_known": START + 1}, ValueError, "what is known"),
        ({"if_version": -1}, ValueError, "must not exist"),
        ({"if_version": "1"}, TypeError, "int"),
        ({"durable": 1}, TypeError, "bool"),
        ({"fence": ntmem.Fence("BTCUSDT", 3)}, ntmem.StaleFence, "not current"),
    ],
)
def test_wrong_options_say_what_is_wrong(
    memory: ntmem.MemorySystem, options: dict[str, Any], error: type[Exception], says: str
) -> None:
    with pytest.raises(error, match=says):
        memory.put("desk", "x", b"1", **options)
    assert memory.get("desk", "x") is None


@pytest.mark.parametrize(
    ("namespace", "error"),
    [
        ("", ntmem.InvalidNamespace),
        ((), ntmem.InvalidNamespace),
        ("a//b", ntmem.InvalidNamespace),
        ("a/", ntmem.InvalidNamespace),
        (("a/b", "c"), ntmem.InvalidNamespace),
        (("a\0",), ntmem.InvalidNamespace),
        (("x" * 256,), ntmem.InvalidNamespace),
        (("é" * 128,), ntmem.InvalidNamespace),
        (("a",) * 65, ntmem.InvalidNamespace),
        (("\ud800",), ntmem.InvalidNamespace),
        ((1,), TypeError),
        (["a"], TypeError),
        (None, TypeError),
        (b"a", TypeError),
    ],
)
def test_wrong_namespaces_are_refused_by_name(
    memory: ntmem.MemorySystem, namespace: Any, error: type[Exception]
) -> None:
    for call in (memory.get, memory.exists, memory.delete, memory.get_record, memory.incr):
        with pytest.raises(error):
            call(namespace, "k")
    with pytest.raises(error):
        memory.put(namespace, "k", b"")
    with pytest.raises(error):
        list(memory.scan(namespace))


@pytest.mark.parametrize(
    ("key", "error"),
    [("", ValueError), ("x" * 65_537, ValueError), ("\ud800", ValueError), (b"k", TypeError), (1, TypeError)],
)
def test_wrong_keys_are_refused(memory: ntmem.MemorySystem, key: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match="key"):
        memory.put("desk", key, b"")
    with pytest.raises(error, match="key"):
        memory.get("desk", key)


def test_labels_that_differ_on_screen_never_meet(memory: ntmem.MemorySystem) -> None:
    memory.put(("a", "b"), "c", b"1")
    memory.put(("a",), "b/c", b"2")
    memory.put("ab", "c", b"3")
    assert [memory.get("a/b", "c"), memory.get("a", "b/c"), memory.get("ab", "c")] == [b"1", b"2", b"3"]
    assert memory.namespaces() == [("a",), ("a", "b"), ("ab",)]
    assert memory.namespaces("a") == [("a",), ("a", "b")]


def test_compare_and_set_says_what_it_found(memory: ntmem.MemorySystem) -> None:
    version = memory.put("desk", "x", b"1", if_version=0)
    with pytest.raises(ntmem.VersionConflict, match="if_version was 0") as caught:
        memory.put("desk", "x", b"2", if_version=0)
    assert (caught.value.expected, caught.value.found) == (0, version)
    with pytest.raises(ntmem.VersionConflict, match="does not exist"):
        memory.delete("desk", "y", if_version=version)
    assert memory.delete("desk", "x", if_version=version)
    assert memory.put("desk", "x", b"3", if_version=0) > version


def test_incr_counts_across_threads(memory: ntmem.MemorySystem) -> None:
    threads = [threading.Thread(target=lambda: [memory.incr("desk", "n", 2) for _ in range(50)]) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert memory.get("desk", "n") == b"400"
    assert memory.incr("desk", "n", -500) == -100
    assert memory.incr("desk", "n", 0) == -100


@pytest.mark.parametrize("value", [b"", b"x", b"01", b"1.5", b"+1", b" 1", b"1_0", b"\xd9\xa1", b"9" * 30])
def test_incr_adds_to_numbers_only(memory: ntmem.MemorySystem, value: bytes) -> None:
    memory.put("desk", "n", value)
    with pytest.raises(ntmem.SerializationError, match="not a number"):
        memory.incr("desk", "n")
    assert memory.get("desk", "n") == value


def test_incr_stays_within_64_bits(memory: ntmem.MemorySystem) -> None:
    assert memory.incr("desk", "n", 2**63 - 1) == 2**63 - 1
    with pytest.raises(ntmem.SerializationError, match="64 bits"):
        memory.incr("desk", "n")
    with pytest.raises(TypeError, match="delta"):
        memory.incr("desk", "n", 1.5)  # type: ignore[arg-type]


def test_a_transaction_is_whole_or_nothing(memory: ntmem.MemorySystem) -> None:
    memory.put("desk", "a", b"1")
    with pytest.raises(ntmem.VersionConflict), memory.transaction() as t:
        t.put("desk", "a", b"2")
        t.delete("desk", "a")
        t.incr("desk", "n")
        t.put("desk", "b", b"2", if_version=12345)
    assert memory.get_many("desk", ["a", "b", "n"]) == {"a": b"1"}
    with pytest.raises(RuntimeError, match="boom"), memory.transaction() as t:
        t.put("desk", "a", b"2")
        raise RuntimeError("boom")
    assert memory.get("desk", "a") == b"1"
    with memory.transaction() as t:
        t.put("desk", "a", b"2")
        t.add("desk", "a", b"3")
        t.incr("desk", "n")
        assert memory.get("desk", "a") == b"1"
    record = memory.get_record("desk", "n")
    assert record is not None
    assert t.version == record.version
    assert memory.get("desk", "a") == b"2"


def test_a_transaction_is_used_once_and_inside_its_block(memory: ntmem.MemorySystem) -> None:
    transaction = memory.transaction()
    with pytest.raises(RuntimeError, match="is used by"):
        transaction.put("desk", "a", b"")
    with transaction, pytest.raises(RuntimeError, match="once"):
        transaction.__enter__()
    with pytest.raises(RuntimeError, match="has ended"):
        transaction.delete("desk", "a")
    with pytest.raises(RuntimeError, match="once"), transaction:
        pass


def test_a_store_may_be_used_within_a_transaction_block(memory: ntmem.MemorySystem) -> None:
    with memory.transaction() as t:
        t.put("desk", "a", b"1")
        memory.put("desk", "b", b"2")
        with memory.transaction() as inner:
            inner.put("desk", "c", b"3")
    assert memory.get_many("desk", ["a", "b", "c"]) == {"a": b"1", "b": b"2", "c": b"3"}


def test_put_many_is_whole_or_nothing(memory: ntmem.MemorySystem) -> None:
    with pytest.raises(TypeError):
        memory.put_many("desk", {"a": b"1", "b": "2"})  # type: ignore[dict-item]
    assert memory.get_many("desk", ["a", "b"]) == {}
    last = memory.put_many("desk", {"a": b"1", "b": b"2"})
    record = memory.get_record("desk", "b")
    assert record is not None
    assert record.version == last
    assert memory.put_many("desk", {}) == last
    with pytest.raises(TypeError, match="one str"):
        memory.get_many("desk", "ab")


def test_scan_pages_through_much_and_sees_changes(memory: ntmem.MemorySystem) -> None:
    names = [f"{number:04d}" for number in range(1_000)]
    memory.put_many("desk", {name: name.encode() for name in names})
    seen = []
    for key, value in memory.scan("desk"):
        seen.append(key)
        assert value in (key.encode(), b"new")
        if key == "0000":
            memory.put("desk", "0000", b"new")  # behind the scan
            memory.put("desk", "0998", b"new")
            memory.delete("desk", "0999")
            memory.put("desk", "5", b"5")
    # What was there at its start, each key once; of what came meanwhile it may see any part.
    assert seen in ([*names, "5"], [*names[:-1], "5"], names, names[:-1])
    assert list(memory.scan("desk", start="0997")) == [("0997", b"0997"), ("0998", b"new"), ("5", b"5")]
    assert [key for key, _ in memory.scan("desk", prefix="00", start="0098", limit=3)] == ["0098", "0099"]
    with pytest.raises(ValueError, match="limit"):
        memory.scan("desk", limit=-1)


def test_large_and_empty_values(memory: ntmem.MemorySystem) -> None:
    for value in (b"", b"x" * 100_000_000):
        memory.put("desk", "v", value)
        assert memory.get("desk", "v") == value
    memory.put("desk", "k" * 65_536, b"long key")
    assert memory.get("desk", "k" * 65_536) == b"long key"


def test_history_is_bounded_by_age(memory: ntmem.MemorySystem, clock: ntmem.SimulatedClock) -> None:
    memory.retain("px", history=True, max_age=10)
    for second in range(30):
        clock.set(START + second * SECOND)
        memory.put("px", "BTC", b"%d" % second)
    memory.flush()  # the past is bounded on the disk
    kept = [record.value for record in memory.history("px", "BTC", limit=100)]
    assert kept == [b"%d" % second for second in range(29, 17, -1)]  # 18 was superseded 10 s ago: not longer
    found = memory.get_record("px", "BTC", as_of=START + 20 * SECOND + 1)
    assert found is not None
    assert found.value == b"20"
    with pytest.raises(ntmem.HistoryNotRetained, match="complete from"):
        memory.get_record("px", "BTC", as_of=START + 5 * SECOND)


def test_history_is_bounded_by_bytes(memory: ntmem.MemorySystem, clock: ntmem.SimulatedClock) -> None:
    memory.retain("px", history=True, max_bytes=20_000)
    for number in range(300):
        clock.set(START + number)
        memory.put("px", f"k{number % 3}", b"v" * 100)
    memory.flush()
    kept = [record for key in ("k0", "k1", "k2") for record in memory.history("px", key, limit=1000)]
    assert 90 < len(kept) < 120  # some 185 bytes each, times and names included
    assert sorted(record.version for record in kept) == list(range(301 - len(kept), 301))
    for record in kept:
        assert memory.get_record("px", f"k{(record.version - 1) % 3}", as_of=record.ts_known) == record
    with pytest.raises(ntmem.HistoryNotRetained):
        memory.get_record("px", "k0", as_of=START + 1)
    memory.delete("px", "k0")
    assert memory.history("px", "k0")[0].value is None


def test_a_dropped_version_is_refused_not_guessed(memory: ntmem.MemorySystem, clock: ntmem.SimulatedClock) -> None:
    memory.retain("px", history=True, max_bytes=1)
    memory.put("px", "k", b"old")
    clock.set(START + 10)
    memory.put("px", "k", b"new")
    memory.flush()
    assert [record.value for record in memory.history("px", "k")] == [b"new"]
    with pytest.raises(ntmem.HistoryNotRetained):
        memory.get_record("px", "k", as_of=START + 5)
    record = memory.get_record("px", "k", as_of=START + 10)
    assert record is not None
    assert record.value == b"new"


def test_bounds_without_history_keep_no_past(memory: ntmem.MemorySystem) -> None:
    memory.retain("desk", max_age=60, max_bytes=1000, max_entries=3)
    memory.put("desk", "k", b"1")
    with pytest.raises(ntmem.HistoryNotRetained):
        memory.history("desk", "k")
    with pytest.raises(ValueError, match="max_entries bounds keys"):
        memory.retain("desk", history=True, max_entries=3)
    for wrong in ({"max_entries": 0}, {"max_bytes": 0}, {"max_age": 0}):
        with pytest.raises(ValueError, match=r"max_"):
            memory.retain("desk", **wrong)  # type: ignore[arg-type]


def test_expired_records_give_their_space_back(memory: ntmem.MemorySystem, clock: ntmem.SimulatedClock) -> None:
    for number in range(100):
        memory.put("desk", f"{number}", b"x", ttl=1)
    clock.set(START + SECOND)
    for _ in range(10):
        memory.put("desk", "other", b"")
    memory.flush()
    assert memory.stats().l3_entries == 1


def test_delete_namespace_takes_the_children(memory: ntmem.MemorySystem) -> None:
    memory.retain("a", history=True)
    for namespace in ("a", "a/b", "a/b/c", "ab"):
        memory.put_many(namespace, {"1": b"", "2": b""})
    memory.put("a", "1", b"again")
    assert memory.delete_namespace("a") == 6
    assert memory.namespaces() == [("ab",)]
    assert memory.history("a", "1") == []
    assert memory.delete_namespace("a") == 0
    memory.put("a", "1", b"new")
    assert [record.value for record in memory.history("a", "1")] == [b"new"]


def test_a_view_is_a_mapping(memory: ntmem.MemorySystem) -> None:
    view = memory.namespace("swarm", "agent_1")
    view["b"] = {"x": (1, 2)}
    view["a"] = 1.5
    assert dict(view) == {"a": 1.5, "b": {"x": (1, 2)}}
    assert list(view) == ["a", "b"]
    assert len(view) == 2
    assert "a" in view
    assert "" not in view
    assert 1 not in view
    assert view.get("z", 7) == 7
    assert view == {"a": 1.5, "b": {"x": (1, 2)}}
    assert view.setdefault("a", 3) == 1.5
    assert view.pop("a") == 1.5
    with pytest.raises(KeyError):
        del view["a"]
    with pytest.raises(KeyError):
        view["a"]
    version = view.put("a", [1], if_version=0)
    with pytest.raises(ntmem.VersionConflict):
        view.put("a", [2], if_version=version + 1)
    assert not view.add("a", 1)
    assert list(view.scan(prefix="a")) == [("a", [1])]
    view.clear()
    assert len(view) == 0
    assert "swarm/agent_1" in repr(view)


def test_views_by_string_and_codec(memory: ntmem.MemorySystem) -> None:
    raw = memory.namespace("swarm/agent_1", codec="bytes")
    assert raw.labels == ("swarm", "agent_1")
    raw["x"] = b"\xc1"
    assert memory.get(("swarm", "agent_1"), "x") == b"\xc1"
    with pytest.raises(TypeError, match="bytes-like"):
        raw["x"] = 3
    with pytest.raises(ntmem.SerializationError, match="another codec"):
        memory.namespace("swarm/agent_1")["x"]


def test_namespace_helpers() -> None:
    built = ntmem.Namespace.build("agent_1", "positions")
    assert built == ("swarm", "agent_1", "positions")
    assert str(built) == "swarm/agent_1/positions"
    assert ntmem.Namespace.parse(str(built)) == ntmem.Namespace.validate(built) == built
    assert built.belongs_to("agent_1")
    assert not built.belongs_to("agent_2")
    assert not ntmem.Namespace.parse("swarm").belongs_to("swarm")
    assert ntmem.Namespace.agents(["swarm/b/x", ("swarm", "a"), "desk/x"]) == ["a", "b"]
    with pytest.raises(ntmem.InvalidNamespace):
        ntmem.Namespace.validate("a//b")


def test_stats_and_waiting(memory: ntmem.MemorySystem, engine: str) -> None:
    version = memory.put("desk", "x", b"1")
    memory.flush()
    asyncio.run(memory.aflush())
    memory.wait_durable(version)
    with pytest.raises(ValueError, match="not handed out"):
        memory.wait_durable(version + 1)
    stats = memory.stats()
    assert (stats.l3_entries, stats.last_version, stats.engine, stats.clock) == (1, version, engine, "simulated")
    assert stats.flush_lag == 0.0
    assert stats.l3_size_bytes > 0
    assert "<table>" in stats._repr_html_()
    assert memory.verify().ok


def test_two_handles_of_a_process_share_a_store(tmp_path: Path) -> None:
    with ntmem.open(tmp_path / "desk", agent_id="a") as first, ntmem.open(tmp_path / "desk", agent_id="b") as second:
        first.put("desk", "x", b"1")
        second.put("desk", "y", b"2")
        assert first.get("desk", "y") == b"2"
        records = [memory.get_record("desk", key) for memory, key in ((second, "x"), (first, "y"))]
        assert [record.writer for record in records if record] == ["a", "b"]


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"durability": "none"}, ValueError),
        ({"flush_interval": 0}, ValueError),
        ({"max_memory_bytes": 1}, ValueError),
        ({"max_storage_bytes": "1"}, TypeError),
        ({"agentdb_url": "localhost:3000"}, ValueError),
        ({"agentdb_timeout": 0}, ValueError),
        ({"cache_config": {}}, TypeError),
        ({"map_size": 1}, TypeError),
        ({"storage_path": "x"}, TypeError),
        ({"clock": 5}, TypeError),
        ({"agent_id": ""}, ValueError),
        ({"agent_id": 5}, TypeError),
        ({"read_only": True}, ValueError),
    ],
)
def test_wrong_configurations_are_refused(options: dict[str, Any], error: type[Exception]) -> None:
    with pytest.raises(error):
        ntmem.open(**options)


def test_configurations_are_values() -> None:
    config = ntmem.MemoryConfig(storage_path=None, cache_config=ntmem.CacheConfig(max_entries=5))
    assert config == ntmem.MemoryConfig(storage_path=None, cache_config=ntmem.CacheConfig(max_entries=5))
    with pytest.raises(AttributeError):
        config.durability = "disk"  # type: ignore[misc]
    with pytest.raises(ValueError, match="max_entries"):
        ntmem.CacheConfig(max_entries=0)
    with ntmem.MemorySystem(config) as memory:
        assert memory.put("desk", "x", b"1", durable=True) == 1


def test_the_error_tree() -> None:
    assert issubclass(ntmem.LockTimeout, TimeoutError)
    assert issubclass(ntmem.InvalidNamespace, ValueError)
    assert not hasattr(ntmem, "MemoryError")
    for name in ntmem.__all__:
        thing = getattr(ntmem, name)
        if isinstance(thing, type) and issubclass(thing, Exception):
            assert issubclass(thing, ntmem.NtmemError)


# -- versions loaded ahead of the clock


@pytest.fixture
def ahead(memory: ntmem.MemorySystem, clock: ntmem.SimulatedClock) -> ntmem.MemorySystem:
    memory.retain("px", history=True)
    memory.put("px", "k", b"now")
    memory.put("px", "k", b"later", ts_known=START + 100)
    return memory


def test_what_is_not_known_yet_influences_nothing(ahead: ntmem.MemorySystem, clock: ntmem.SimulatedClock) -> None:
    served = ahead.get_record("px", "k")
    assert served is not None
    assert served.value == b"now"
    for change in (
        lambda: ahead.put("px", "k", b"x", if_version=served.version),
        lambda: ahead.delete("px", "k"),
        lambda: ahead.delete("px", "k", if_version=served.version),
    ):
        with pytest.raises(ValueError, match="loaded ahead"):
            change()
    with pytest.raises(ntmem.VersionConflict) as conflict:
        ahead.put("px", "k", b"x", if_version=served.version + 1)
    assert conflict.value.found == served.version
    assert not ahead.add("px", "k", b"x")
    ahead.put("px", "other", b"later", ts_known=START + 100)
    assert not ahead.exists("px", "other")
    with pytest.raises(ValueError, match="loaded ahead"):
        ahead.add("px", "other", b"x")
    assert not ahead.delete("px", "other")
    clock.set(START + 100)
    assert ahead.get("px", "k") == b"later"
    assert ahead.delete("px", "k")


def test_a_ttl_begins_when_the_value_is_known(ahead: ntmem.MemorySystem, clock: ntmem.SimulatedClock) -> None:
    ahead.put("px", "k", b"short", ttl=1e-8, ts_known=START + 100)
    clock.set(START + 50)
    for _ in range(3):
        ahead.put("desk", "unrelated", b"")
    assert ahead.get("px", "k") == b"now"
    clock.set(START + 109)
    assert ahead.get("px", "k") == b"short"
    clock.set(START + 110)
    assert ahead.get("px", "k") is None


def test_budgets_never_drop_what_is_served(ahead: ntmem.MemorySystem, clock: ntmem.SimulatedClock) -> None:
    ahead.retain("px", history=True, max_bytes=1)
    ahead.put("px", "k", b"last", ts_known=START + 200)
    assert ahead.get("px", "k") == b"now"
    clock.set(START + 100)
    assert ahead.get("px", "k") == b"later"
    clock.set(START + 201)
    ahead.put("px", "k", b"end")
    ahead.flush()
    assert ahead.get("px", "k") == b"end"
    with pytest.raises(ntmem.HistoryNotRetained):
        ahead.get_record("px", "k", as_of=START + 150)


def test_history_is_not_switched_off_under_what_is_ahead(ahead: ntmem.MemorySystem) -> None:
    with pytest.raises(ValueError, match="loaded ahead"):
        ahead.retain("px")
    assert ahead.get("px", "k") == b"now"
    ahead.delete_namespace("px")
    ahead.retain("px")


def test_read_only_belongs_to_the_handle(tmp_path: Path) -> None:
    with ntmem.open(tmp_path, agent_id="a") as writing, ntmem.open(tmp_path, read_only=True) as reading:
        writing.put("desk", "k", b"1")
        assert reading.get("desk", "k") == b"1"
        for change in (lambda: reading.put("desk", "k", b"2"), lambda: reading.retain("desk", history=True)):
            with pytest.raises(ntmem.ReadOnlyError):
                change()
        assert writing.get("desk", "k") == b"1"


def test_a_read_only_handle_moves_no_clock(tmp_path: Path) -> None:
    with (
        ntmem.open(tmp_path, clock=ntmem.SimulatedClock(1_000)) as writing,
        ntmem.open(tmp_path, clock=ntmem.SimulatedClock(9_000), read_only=True),
    ):
        assert writing.now() == 1_000


def test_the_roomiest_limit_of_a_process_counts(tmp_path: Path) -> None:
    with ntmem.open(tmp_path, max_storage_bytes=1 << 20) as small:
        with pytest.raises(ntmem.MapFull, match="max_storage_bytes"):
            small.put("desk", "k", b"x" * (4 << 20))
        with ntmem.open(tmp_path, max_storage_bytes=1 << 30) as large:
            large.put("desk", "k", b"x" * (4 << 20))


def test_one_clock_drives_several_stores(tmp_path: Path) -> None:
    clock = ntmem.SimulatedClock(1_000)
    with ntmem.open(tmp_path / "a", clock=clock):
        clock.set(5_000)
    clock = ntmem.SimulatedClock(1_000)
    with ntmem.open(tmp_path / "b", clock=clock) as b, ntmem.open(tmp_path / "a", clock=clock) as a:
        assert a.now() == b.now() == clock.now() == 5_000
        clock.set(6_000)
        assert a.now() == b.now() == 6_000


def test_a_view_acts_atomically(memory: ntmem.MemorySystem) -> None:
    view = memory.namespace("desk")
    won: list[Any] = []
    for round_ in range(30):
        barrier = threading.Barrier(2)

        def race(name: str, barrier: threading.Barrier = barrier, key: str = f"{round_}") -> None:
            barrier.wait()
            won.append((key, view.setdefault(key, name)))

        threads = [threading.Thread(target=race, args=(name,)) for name in "ab"]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert all(view[key] == value for key, value in won)
    assert sorted(view.values()) == sorted(dict(won).values())
    assert view.popitem() == ("0", dict(won)["0"])
    for impossible in ("", "x" * 70_000):
        assert view.get(impossible) is None
        assert impossible not in view
        assert view.pop(impossible, 7) == 7
    with pytest.raises(KeyError):
        view.pop("missing")


class Interfering(ntmem.MemorySystem):
    """Another process writes between a look and the deletion."""

    def delete(self, namespace: Any, key: str, **options: Any) -> bool:
        if self.get("desk", key) == b"\x01":
            self.put("desk", key, b"\x02")
        return super().delete(namespace, key, **options)


def test_pop_returns_what_it_deleted() -> None:
    with Interfering(ntmem.MemoryConfig(storage_path=None)) as memory:
        view = memory.namespace("desk")
        view["k"] = 1
        assert view.pop("k") == 2


def test_wrong_types_and_sizes_are_said_so(memory: ntmem.MemorySystem) -> None:
    calls: list[tuple[Any, type[Exception], str]] = [
        (lambda: memory.retain("d", history=True, max_bytes=2.5), TypeError, "max_bytes"),  # type: ignore[arg-type]
        (lambda: memory.retain("d", history=True, max_bytes=10**30), ValueError, "max_bytes"),
        (lambda: memory.retain("d", history=1), TypeError, "history"),  # type: ignore[arg-type]
        (lambda: memory.put_many("d", [("a", b"")]), TypeError, "mapping"),  # type: ignore[arg-type]
        (lambda: memory.history("d", "k", limit=2.5), TypeError, "limit"),  # type: ignore[arg-type]
        (lambda: memory.scan("d", limit="2"), TypeError, "limit"),  # type: ignore[arg-type]
        (lambda: memory.wait_durable(None), TypeError, "version"),  # type: ignore[arg-type]
        (lambda: memory.incr("d", "k", 10**5000), ValueError, "bits"),
        (lambda: memory.put("d", "k", b"", ttl=10**5000), ValueError, "bits"),
        (lambda: memory.put("d", "k", b"", ts_event=10**5000), ValueError, "bits"),
        (lambda: memory.put("d", "k", np.array(["2020"], "M8[s]")), TypeError, "bytes-like"),  # type: ignore[arg-type]
        (lambda: memory.put("d", "k", b"", fence="abc"), TypeError, "Fence"),  # type: ignore[arg-type]
        (lambda: ntmem.open("a\0b"), ValueError, "NUL"),
        (lambda: ntmem.open(agent_id="\ud800"), ValueError, "agent_id"),
        (lambda: ntmem.open(embedder=print), TypeError, "embedder"),  # type: ignore[arg-type]
        (lambda: ntmem.open(enable_compression="no"), TypeError, "enable_compression"),
    ]
    for call, error, says in calls:
        with pytest.raises(error, match=says):
            call()


def test_instants_keep_nanoseconds_beyond_datetime(memory: ntmem.MemorySystem) -> None:
    class Timestamp(datetime):  # as pandas has it
        nanosecond = 789

    memory.put("d", "k", b"", ts_event=Timestamp(2023, 11, 14, 22, 13, 20, 123456, tzinfo=UTC))
    record = memory.get_record("d", "k")
    assert record is not None
    assert record.ts_event == 1_700_000_000_123_456_789


def test_a_namespace_of_one_label() -> None:
    assert ntmem.Namespace("desk") == ("desk",)
    assert ntmem.Namespace("a/b") == ntmem.Namespace(["a", "b"])


def test_scan_sorts_keys_that_only_differ_beyond_what_the_database_holds(memory: ntmem.MemorySystem) -> None:
    keys = [
        head * 479 + f"{number * 7919 % 100:02d}" * width for head in "ab" for number in range(100) for width in (1, 9)
    ]
    memory.put_many("desk", {key: key.encode() for key in keys})
    assert list(memory.scan("desk")) == [(key, key.encode()) for key in sorted(keys)]
    start = sorted(keys)[150]
    assert [key for key, _ in memory.scan("desk", start=start, limit=60)] == sorted(keys)[150:210]
    assert [key for key, _ in memory.scan("desk", prefix="b" * 479 + "42")] == ["b" * 479 + "42", "b" * 479 + "42" * 9]
