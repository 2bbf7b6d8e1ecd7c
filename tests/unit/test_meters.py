"""Counters and histograms in shared memory: what is recorded, and what a death or an older build does."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
import pytest
from hostile import Start
from hypothesis import given
from hypothesis import strategies as st

import ntmem
from ntmem._core import meters
from ntmem._core.meters import Meters
from ntmem._core.region import Region
from ntmem.tiers.operations import Operation, operations_of

RECORDER = """
from ntmem._core import meters
memory = ntmem.open(sys.argv[1])
shared = memory._engine().store.meters
say("open")
hear()
for value in range(int(sys.argv[2])):
    shared.record(meters.VOTE, value)
say("done")
while True:
    shared.record(meters.CHOOSE, 5)
"""


def shared() -> Meters:
    return Meters.create(Region.create(None, identity=b"", generation=1, sections=Meters.sections()))


@given(st.lists(st.integers(0, 2**40), min_size=1, max_size=200))
def test_a_histogram_holds_what_was_recorded(values: list[int]) -> None:
    made = shared()
    for value in values:
        made.record(meters.RECALL, value)
    calls, total, buckets = made.read()["recall"]
    assert (calls, total) == (len(values), sum(values))
    edges = [least for least, _ in buckets]
    assert edges == sorted(edges)
    for (least, count), behind in zip(buckets, [*edges[1:], 2**64], strict=True):
        assert count == sum(least <= value < behind for value in values)
    for least, _ in buckets[:-1]:  # a bucket is a quarter of a doubling: its least is not far below what is in it
        assert all(value < least * 1.26 + 1 for value in values if least <= value < edges[edges.index(least) + 1])


def test_names_and_numbers_belong_together() -> None:
    made = Meters()
    for number, name in enumerate(meters.NAMES):
        assert getattr(meters, name.upper()) == number
        made.record(number, 1)
        assert made.read()[name][0] == 1


def test_what_is_no_operation_of_this_region_is_not_recorded() -> None:
    made = Meters()
    made.record(len(meters.NAMES), 1)
    made.record(2**32 - 1, 1)
    made.record(meters.VOTE, -5)  # a clock that went back
    assert made.read() == {"vote": (1, 0, [(0, 1)])}


def test_threads_lose_no_count() -> None:
    made = shared()

    def record() -> None:
        for _ in range(20_000):
            made.record(meters.VOTE, 7)

    threads = [threading.Thread(target=record) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert made.read()["vote"] == (80_000, 560_000, [(7, 80_000)])


def test_a_region_of_an_older_build_has_none_and_recording_goes_on_alone() -> None:
    without = Region.create(None, identity=b"", generation=1, sections=[(42, 4096, 0)])
    alone = Meters(without)
    alone.record(meters.SCAN, 3)
    assert not alone.is_shared
    assert alone.read() == {"scan": (1, 3, [(3, 1)])}
    assert shared().is_shared


def test_a_section_that_is_no_meters_is_not_used() -> None:
    region = Region.create(None, identity=b"", generation=1, sections=Meters.sections())
    assert not Meters(region).is_shared  # nobody has made them: all of it is zero
    small = Region.create(None, identity=b"", generation=1, sections=[(9, 64, 0)])
    assert not Meters(small).is_shared
    with pytest.raises(ValueError, match="too small"):
        Meters.create(small)


def test_processes_add_up_and_one_that_is_killed_harms_nothing(tmp_path: Path, start: Start) -> None:
    children = [start(RECORDER, tmp_path / "desk", 5000) for _ in range(2)]
    assert [child.line() for child in children] == ["open", "open"]
    with ntmem.open(tmp_path / "desk", engine="shared") as memory:
        for child in children:
            child.tell()
        for child in children:
            assert child.line() == "done"
            child.kill()  # while it records
        found = memory._engine().store.meters.read()  # of the facade only sums are public
        assert found["vote"][:2] == (10_000, 2 * sum(range(5000)))
        calls, total, ((least, count),) = found["choose"]
        assert least == 5
        assert 0 <= calls - count <= 2  # of each that was killed one call may be half counted
        assert abs(5 * calls - total) <= 10
        before = memory.stats().operations.get("commit", {}).get("count", 0)
        memory.put("desk", "k", b"v", ttl=5)
        assert memory.stats().operations["commit"]["count"] == before + 1


@pytest.mark.parametrize("figures", [[1, 2, 3], [10] * 99 + [1000]])
def test_what_came_between_two_looks(figures: list[int]) -> None:
    made = shared()
    made.record(meters.VOTE, 50)
    before = operations_of(made, None)["vote"]
    for value in figures:
        made.record(meters.VOTE, value)
    found = operations_of(made, None)["vote"].since(before)
    assert (found.calls, found.mean) == (len(figures), pytest.approx(np.mean(figures)))
    assert found.percentiles()["p50"] == sorted(figures)[len(figures) // 2 - (len(figures) % 2 == 0)]
    assert operations_of(made, None)["vote"].since(None).calls == len(figures) + 1
    assert Operation(3, 3, ((1, 3),)).since(Operation(5, 5, ((1, 5),))).calls == 3  # of another region


@pytest.mark.usefixtures("engine")
def test_every_operation_is_counted_where_it_is_done(tmp_path: Path) -> None:
    with ntmem.open(tmp_path / "desk") as memory:
        shared_memory = memory.stats().engine == "shared"
        for number in range(3):
            memory.put("desk", f"k{number}", b"v")
        memory.get("desk", "k0")
        memory.incr("desk", "n")
        list(memory.scan("desk"))
        o = memory.observations
        for number in range(3):
            o.append("m", "BTC", number, {"a": 1.0})
        o.extend("m", "BTC", {"ts_event": [5, 6], "ts_known": [5, 6], "a": [1.0, 2.0]})
        o.recent("m", "BTC", 2)
        o.range("m", "BTC", 0, 10)
        memory.vectors.add("v", "a", [1.0, 2.0])
        memory.vectors.search("v", [1.0, 2.0])
        memory.vectors.search_arrays("v", [[1.0, 2.0]])
        c = memory.consensus
        c.register("me")
        c.vote(ntmem.Vote(c.submit_proposal(ntmem.Proposal("me", {})), "me", True))
        t = memory.bank.begin("me")
        t.add_observation({"text": "up"}, embedding=[1.0, 0.0])
        memory.bank.judge(t.id)
        memory.bank.distill()
        memory.bank.recall([1.0, 0.0])
        memory.bank.choose([1.0, 0.0], ["buy", "sell"])
        expected = {"append": 3, "extend": 1, "recent": 1, "range": 1, "vote": 1, "judge": 1}
        expected |= {"distill": 1, "recall": 1, "choose": 1, "vector_search": 4}  # two of them recall and choose
        if shared_memory:
            p = memory.positions
            for trade in ("1", "2", "2"):
                p.apply_fill("BTC", 1, 2, trade_id=trade)
            with memory.subscribe("px/>") as messages:
                for _ in range(3):
                    memory.publish("px/a", b"1")
                memory.bus.publish_many("px/a", [b"1", b"2"])
                while messages.recv(0) is not None:
                    pass
            for _ in range(2):
                with memory.lock("BTC"):
                    pass
            memory.flush()
            expected |= {"apply_fill": 3, "publish": 6, "deliver": 5, "lock_wait": 2, "lock_hold": 2}
        found = memory.stats().operations
        assert {name: found[name]["count"] for name in expected} == expected
        for name in ("commit", "scan", "vector_add"):
            assert found[name]["count"] >= 1
        for facts in found.values():
            assert facts["count"] >= 1
        if shared_memory:
            assert (found["put"]["count"] >= 3, found["get"]["count"] >= 1) == (True, True)
            assert found["flush_bytes"]["mean"] > found["flush_groups"]["mean"] > 0
            assert found["lock_hold"]["p50"] > 0
            gauges = memory.gauges()
            assert gauges.operations["publish"].calls == 6
            assert (gauges.messages, gauges.positions, gauges.open_positions) == (6, 1, 1)


@pytest.mark.usefixtures("engine")
@pytest.mark.only("shared")
def test_of_quick_calls_some_is_measured_and_all_are_counted(tmp_path: Path) -> None:
    with ntmem.open(tmp_path / "desk") as memory:
        for number in range(640):
            memory.positions.apply_fill("BTC", 1, 2, trade_id=str(number))
        found = memory.gauges().operations["apply_fill"]
        assert found.calls == 640
        assert 1 <= found.measured < 640  # the thread may have gone from one processor to another meanwhile
        assert found.total >= found.buckets[0][0]


@pytest.mark.usefixtures("engine")
@pytest.mark.only("shared")
def test_what_was_there_before_a_subscription_is_no_delivery_that_took_long(tmp_path: Path) -> None:
    with ntmem.open(tmp_path / "desk") as memory:
        first = memory.publish("px", b"1")
        memory.publish("px", b"2")
        with memory.subscribe("px", since=first) as messages:
            assert messages.recv(0) is not None
            assert "deliver" not in memory.stats().operations
            memory.publish("px", b"3")
            assert messages.recv(1) is not None
            assert memory.stats().operations["deliver"]["count"] == 1


@pytest.mark.usefixtures("engine")
@pytest.mark.only("shared")
def test_no_rhythm_of_calls_hides_one_of_them(tmp_path: Path) -> None:
    with ntmem.open(tmp_path / "desk") as memory:
        for number in range(2000):  # one put, one get, ...: an even period would measure one of the two alone
            memory.put("desk", "k", b"v")
            memory.get("desk", f"k{number % 2}")
        found = memory.gauges().operations
        assert found["put"].measured > 2
        assert found["get"].measured > 2
