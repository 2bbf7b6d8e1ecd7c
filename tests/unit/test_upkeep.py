"""Upkeep: what bounds delete, what is swept, trimmed and compressed; and that nobody notices."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import ntmem
from ntmem.tiers import bounds, upkeep
from ntmem.tiers.guards import BLOCKS, ROWS, VECTORS

pytestmark = pytest.mark.usefixtures("engine")
SECOND = 10**9


@pytest.fixture
def clock() -> ntmem.SimulatedClock:
    return ntmem.SimulatedClock(1_000 * SECOND)


@pytest.fixture
def memory(ram: Path, clock: ntmem.SimulatedClock) -> Iterator[ntmem.MemorySystem]:
    with ntmem.open(ram / "desk", clock=clock, upkeep_interval=0) as memory:
        yield memory


def keys(memory: ntmem.MemorySystem, space: str = "desk") -> list[str]:
    return [key for key, _ in memory.scan(space)]


def pages(memory: ntmem.MemorySystem) -> int:
    """Pages that the records and the index of what expires are in."""
    store = memory._engine().store

    def count(txn: Any) -> int:
        stats = [txn.stat(store.databases[name]) for name in ("records", "expiry")]
        return sum(it["branch_pages"] + it["leaf_pages"] + it["overflow_pages"] for it in stats)

    return int(store.read(count))


# -- bounds of records

STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("put"), st.integers(0, 9), st.integers(0, 40)),
        st.tuples(st.just("known"), st.integers(0, 9), st.integers(0, 30)),
        st.tuples(st.just("life"), st.integers(0, 9), st.integers(1, 10)),
        st.tuples(st.just("delete"), st.integers(0, 9), st.just(0)),
        st.tuples(st.just("fenced"), st.integers(0, 1), st.integers(0, 40)),
        st.tuples(st.just("pass"), st.integers(1, 9), st.just(0)),
        st.tuples(st.just("upkeep"), st.just(0), st.just(0)),
        st.tuples(st.just("flush"), st.just(0), st.just(0)),
    ),
    max_size=40,
)
BOUND = st.fixed_dictionaries(
    {},
    optional={"max_age": st.integers(1, 25), "max_bytes": st.integers(1, 200), "max_entries": st.integers(1, 8)},
)


@settings(max_examples=60)
@given(STEPS, BOUND)
@pytest.mark.only("shared", "lmdb")
def test_what_is_left_is_what_a_model_leaves(steps: list[tuple[str, int, int]], bound: dict[str, int]) -> None:
    clock = ntmem.SimulatedClock(1_000 * SECOND)
    model: dict[str, tuple[int, int, int, int, bool]] = {}  # order, known, expires, bytes, fenced
    with ntmem.open(clock=clock, upkeep_interval=0) as memory:
        memory.retain("desk", **bound)  # type: ignore[arg-type]
        for order, (kind, number, value) in enumerate([*steps, ("upkeep", 0, 0)]):
            key, now = f"k{number}", clock.now()
            if kind == "put":
                memory.put("desk", key, b"x" * value)
                model[key] = (order, now, 0, 2 + value, False)
            elif kind == "known":
                memory.put("desk", key, b"", ts_known=now - value * SECOND)
                model[key] = (order, now - value * SECOND, 0, 2, False)
            elif kind == "life":
                memory.put("desk", key, b"", ttl=value)
                model[key] = (order, now, now + value * SECOND, 2, False)
            elif kind == "fenced" and memory._engine().name == "shared":
                with memory.lock("l") as lock:
                    memory.put("desk", f"f{number}", b"x" * value, fence=lock)
                model[f"f{number}"] = (order, now, 0, 2 + value, True)
            elif kind == "delete":
                assert memory.delete("desk", key) == (model.pop(key, None) is not None)
            elif kind == "pass":
                clock.set(now + number * SECOND)
            elif kind == "flush":
                memory.flush()
            elif kind == "upkeep":
                before, report = len(model), memory.upkeep()
                oldest = now - bound.get("max_age", 10**6) * SECOND
                model = {k: it for k, it in model.items() if it[4] or it[1] >= oldest}
                for each in sorted(model, key=model.__getitem__):
                    over = len(model) > bound.get("max_entries", 99)
                    over = over or sum(it[3] for it in model.values()) > bound.get("max_bytes", 10**6)
                    if over and not model[each][4]:
                        del model[each]
                assert report.records == before - len(model)
                assert memory.upkeep().records == 0
            model = {k: it for k, it in model.items() if not it[2] or it[2] > clock.now()}
            assert keys(memory) == sorted(model)


def test_more_than_are_remembered_at_once(memory: ntmem.MemorySystem, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bounds, "_MOST", 8)
    order = [number * 37 % 100 for number in range(100)]
    memory.put_many("desk", {f"k{number:03d}": b"x" for number in order})
    memory.put("other", "k", b"")
    memory.retain("desk", max_entries=10)
    assert memory.upkeep().records == 90
    assert keys(memory) == sorted(f"k{number:03d}" for number in order[90:])
    assert keys(memory, "other") == ["k"]


def test_what_is_written_meanwhile_stays(memory: ntmem.MemorySystem, monkeypatch: pytest.MonkeyPatch) -> None:
    memory.put_many("desk", {f"k{number}": b"old" for number in range(4)})
    memory.retain("desk", max_entries=1)
    engine = memory._engine()
    expire = type(engine).expire

    def late(self: Any, labels: Any, items: Any) -> int:
        memory.put("desk", "k0", b"new")
        return expire(self, labels, items)

    with monkeypatch.context() as patch:
        patch.setattr(type(engine), "expire", late)
        assert memory.upkeep().records == 2
    assert keys(memory) == ["k0", "k3"]
    assert memory.get("desk", "k0") == b"new"


def test_each_call_says_all_of_it_anew(memory: ntmem.MemorySystem, clock: ntmem.SimulatedClock) -> None:
    memory.retain("desk", max_entries=1)
    memory.retain("desk", max_age=5)
    memory.put_many("desk", {"a": b"", "b": b""})
    assert memory.upkeep().records == 0
    memory.retain("desk", history=True)
    clock.set(clock.now() + 10 * SECOND)
    assert memory.upkeep().records == 0
    assert keys(memory) == ["a", "b"]
    memory.retain("desk", max_age=5)
    memory.retain("desk")
    assert memory.upkeep().records == 0


def test_bytes_are_those_of_keys_and_values(memory: ntmem.MemorySystem) -> None:
    memory.put_many("desk", {"aa": b"1", "bb": b"1", "cc": b"1"})
    memory.retain("desk", max_bytes=6)
    report = memory.upkeep()
    assert (report.records, report.record_bytes, keys(memory)) == (1, 3, ["bb", "cc"])
    memory.retain("desk", max_bytes=5)
    assert memory.upkeep().records == 1


def test_a_bound_that_meets_history_deletes_nothing(memory: ntmem.MemorySystem) -> None:
    """As if somebody had turned it on between a look at the bounds and the deletion."""
    memory.retain("desk", history=True)
    memory.put_many("desk", {"a": b"", "b": b""})
    memory.flush()
    bounds.set_bound(memory._engine(), b"desk", bounds.Bound(max_entries=1))
    assert memory.upkeep().records == 0
    assert keys(memory) == ["a", "b"]


def test_an_owner_s_namespace_is_kept_small_by_anybody(memory: ntmem.MemorySystem, ram: Path) -> None:
    with ntmem.open(ram / "desk", agent_id="alice") as alice:
        alice.agents.own("mine")
        alice.put_many("mine", {"a": b"", "b": b""})
        alice.retain("mine", max_entries=1)
        with pytest.raises(ntmem.NotOwner):
            memory.retain("mine", max_entries=2)
        assert memory.upkeep().records == 1
        assert keys(alice, "mine") == ["b"]


def test_watchers_are_told(memory: ntmem.MemorySystem) -> None:
    if memory._engine().name == "lmdb":
        return
    memory.put("desk", "a", b"")
    memory.retain("desk", max_entries=1)
    with memory.watch("desk") as changes:
        memory.put("desk", "b", b"")
        memory.upkeep()
        assert [(it.kind, it.key) for it in changes.recv_many(10, 0)] == [("put", "b"), ("delete", "a")]


# -- observations


def numbers(memory: ntmem.MemorySystem) -> list[int]:
    found: list[int] = memory.observations.recent("desk", "A", 100, fields=["row"], as_of=ntmem.LATEST)["row"].tolist()
    return found


def test_rows_go_when_they_are_older_than_that(memory: ntmem.MemorySystem, clock: ntmem.SimulatedClock) -> None:
    o, at = memory.observations, clock.now()
    for later in (0, 100, 0):
        o.append("desk", "A", at, {"x": 1.0}, ts_known=at + later * SECOND)
    memory.retain("desk", max_age=10)
    clock.set(at + 10 * SECOND)
    assert (memory.upkeep().rows, numbers(memory)) == (0, [0, 1, 2])
    clock.set(at + 10 * SECOND + 1)
    assert (memory.upkeep().rows, numbers(memory)) == (2, [1])
    assert o.append("desk", "A", at, {"x": 1.0}, ts_known=at) == 3
    assert (memory.upkeep().rows, numbers(memory)) == (1, [1])
    assert o.info("desk", "A").rows == 1  # type: ignore[union-attr]


def test_nothing_is_left_of_what_was_dropped(memory: ntmem.MemorySystem) -> None:
    o = memory.observations
    for place in range(4):
        o.append("desk", "A", place, {"x": 1.0}, embedding=[1.0, float(place)], metadata="m")
    o.distill()
    o.append("desk", "A", 4, {"x": 1.0}, embedding=[1.0, 2.0])
    o.append("other", "A", 4, {"x": 1.0}, embedding=[1.0, 2.0])
    assert o.drop("desk").rows == 5
    assert (o.drop("desk", "A").rows, numbers(memory)) == (0, [])
    left = {space: len(list(memory._engine().scan(space, b"", b"", None))) for space in (ROWS, BLOCKS, VECTORS)}
    assert left == {ROWS: 1, BLOCKS: 0, VECTORS: 1}
    assert (o.append("desk", "A", 5, {"y": 1}), o.symbols("desk")) == (5, ["A"])


# -- what has expired


def test_space_of_the_expired_returns_without_writes(memory: ntmem.MemorySystem, clock: ntmem.SimulatedClock) -> None:
    empty = pages(memory)
    memory.retain("past", history=True)
    memory.put("past", "k", b"v", ttl=1)
    at = clock.now()
    for first in range(0, 3_000, 1_000):
        memory.put_many("desk", {f"k{number}": b"x" * 100 for number in range(first, first + 1_000)}, ttl=1)
    memory.put("desk", "stays", b"v")
    memory.flush()
    full = pages(memory)
    clock.set(clock.now() + SECOND)
    assert keys(memory) == ["stays"]
    assert memory.upkeep().expired == 3_001
    memory.flush()
    assert pages(memory) < empty + (full - empty) // 10
    assert memory.stats().l3_entries < 20
    assert memory.upkeep().expired == 0
    assert keys(memory) == ["stays"]
    record = memory.get_record("past", "k", as_of=at)
    assert record is not None
    assert [it.value for it in memory.history("past", "k")] == [b"v"]


# -- messages


def test_messages_go_when_everybody_has_them(memory: ntmem.MemorySystem, monkeypatch: pytest.MonkeyPatch) -> None:
    if memory._engine().name == "lmdb":
        return
    for number in range(6):
        memory.publish("t", b"%d" % number, durable=True)
    assert memory.upkeep().messages == 0
    memory.bus.retain(1e-9)
    one, two = memory.subscribe("t", durable="one"), memory.subscribe("t", durable="two")
    one.recv_many(4, 0)
    two.recv_many(2, 0)
    one.ack()  # type: ignore[union-attr]
    two.ack()  # type: ignore[union-attr]
    assert memory.upkeep().messages == 2
    assert memory.subscribe("t", durable=True, since=0).recv(0).payload == b"2"  # type: ignore[union-attr]
    memory.bus.retain(3600)
    two.recv_many(4, 0)
    two.ack()  # type: ignore[union-attr]
    assert memory.upkeep().messages == 0
    memory.bus.retain(None)
    assert memory.upkeep().messages == 0


# -- in the background


def wait(reached: Any) -> None:
    deadline = time.monotonic() + 60
    while not reached():
        assert time.monotonic() < deadline, "it never is"
        time.sleep(0.005)


def test_it_goes_on_by_itself_and_ends_with_close(ram: Path) -> None:
    with ntmem.open(ram / "desk", upkeep_interval=0.02, upkeep_share=1.0) as memory:
        memory.retain("desk", max_entries=2)
        memory.put_many("desk", {f"k{number}": b"" for number in range(9)})
        wait(lambda: keys(memory) == ["k7", "k8"])
        background = memory._upkeep
    done = background.last
    background.work()
    assert background.last is done
    with ntmem.open(ram / "desk", read_only=True) as reader:
        with pytest.raises(ntmem.ReadOnlyError):
            reader.upkeep()
        assert reader._upkeep not in upkeep._keeper._kept


def test_a_round_that_rests_does_not_hold_up_closing(ram: Path) -> None:
    memory = ntmem.open(ram / "desk", upkeep_interval=0.01, upkeep_share=1e-6)
    memory.put_many("desk", {f"k{number}": b"" for number in range(5_000)})
    memory.retain("desk", max_entries=2)
    wait(lambda: not memory._upkeep._busy.acquire(blocking=False) or memory._upkeep._busy.release())
    memory.close()  # within its first rest, which would be of minutes
    assert memory.closed


def test_a_store_that_is_dropped_is_not_kept(ram: Path) -> None:
    import gc
    import weakref

    memory = ntmem.open(ram / "desk", upkeep_interval=0.01, upkeep_share=0.5)
    memory.put("desk", "k", b"")
    dropped, rounds = weakref.ref(memory), weakref.ref(memory._upkeep)
    wait(lambda: rounds().last is not None)  # type: ignore[union-attr]
    del memory
    wait(lambda: gc.collect() >= 0 and dropped() is None and rounds() is None)


def test_of_several_one_at_a_time(ram: Path) -> None:
    directory = str(ram)
    with upkeep._turn(directory, 1e-6) as first:
        assert first
        with upkeep._turn(directory, 1e-6) as second:
            assert not second
    with upkeep._turn(directory, 3600) as just_done:
        assert not just_done
    with upkeep._turn(directory, 1e-6) as again:
        assert again


def test_nothing_begins_at_once(ram: Path) -> None:
    with ntmem.open(ram / "desk") as memory:
        assert memory._upkeep.due > time.monotonic() + 5
        assert not (ram / "desk" / "upkeep.lock").exists()
    assert [it.name for it in threading.enumerate()].count("ntmem-upkeep") <= 1


@pytest.mark.parametrize(
    "how", [{"upkeep_interval": -1}, {"upkeep_share": 2}, {"upkeep_share": "x"}, {"upkeep_share": True}]
)
@pytest.mark.only("shared")
def test_settings_that_cannot_be(how: dict[str, Any]) -> None:
    with pytest.raises((ValueError, TypeError), match="upkeep_"):
        ntmem.MemoryConfig(**how)
