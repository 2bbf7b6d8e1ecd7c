"""Sessions: they go on where they stopped, one holder at a time, and what they earned adds up."""

from __future__ import annotations

import asyncio
import gc
import threading
import weakref
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import ntmem
from ntmem.tiers.guards import SESSION_DATA, SESSIONS

pytestmark = [pytest.mark.usefixtures("engine"), pytest.mark.only("shared", "tiny")]


@pytest.fixture
def memory(ram: Path) -> Iterator[ntmem.MemorySystem]:
    with ntmem.open(ram / "desk", agent_id="alice") as memory:
        yield memory


# -- the mapping


OPS = st.lists(
    st.tuples(
        st.sampled_from(["put", "del", "incr", "pop", "setdefault", "enter", "group"]), st.integers(0, 3), st.integers()
    )
    | st.tuples(st.just("popitem"), st.just(0), st.just(0)),
    max_size=25,
)


@settings(max_examples=40)
@given(OPS)
@pytest.mark.only("shared")
def test_it_is_a_dict_whoever_enters_it(steps: list[tuple[str, int, int]]) -> None:
    model: dict[str, Any] = {}
    with ntmem.open() as memory:
        with memory.session("other") as other:
            other["k0"] = "of another"
        s = memory.session("s")
        s.__enter__()
        for kind, number, value in steps:
            key = f"k{number}"
            if kind == "put":
                s[key] = model[key] = value
            elif kind == "incr" and abs(value) < 2**62 and abs(model.get(key, 0)) < 2**62:
                model[key] = model.get(key, 0) + value
                assert s.incr(key, value) == model[key]
            elif kind == "del":
                assert (model.pop(key, None) is None) is not (key in s)
                s.pop(key, None)
            elif kind == "pop":
                assert s.pop(key, "none") == model.pop(key, "none")
            elif kind == "setdefault":
                assert s.setdefault(key, value) == model.setdefault(key, value)
            elif kind == "popitem" and model:
                first = min(model)
                assert s.popitem() == (first, model.pop(first))
            elif kind == "group":
                with s.transaction() as t:
                    t[key] = value
                    del t["k3"]
                model[key] = value
                model.pop("k3", None)
            elif kind == "enter":
                s.__exit__(None, None, None)
                s = memory.session("s")
                s.__enter__()
            assert dict(s) == model
            assert len(s) == len(model)
        s.__exit__(None, None, None)
        assert dict(memory.session("s")) == model  # not held
        assert dict(memory.session("other")) == {"k0": "of another"}


def test_what_a_key_and_a_value_may_be(memory: ntmem.MemorySystem) -> None:
    with memory.session("a") as s, memory.session("a\x1fb") as t:
        s["\0x"], s["x/y"], t["x"] = Decimal("1.50"), (1, {"a": None}), b"bytes"
        assert dict(s) == {"\0x": Decimal("1.50"), "x/y": (1, {"a": None})}
        assert dict(t) == {"x": b"bytes"}
        assert "" not in s
        assert s.get("") is None
        with pytest.raises(KeyError):
            del s["nothing"]
        with pytest.raises(ValueError, match="at most"):
            s["k" * 65_536] = 1
        with pytest.raises(ntmem.SerializationError, match="not an int"):
            s.incr("\0x")
        s["flag"] = True
        with pytest.raises(ntmem.SerializationError, match="holds bool"):
            s.incr("flag")
        with pytest.raises(TypeError, match="delta must be an int"):
            s.incr("n", 1.5)  # type: ignore[arg-type]
        s.clear()
        assert dict(s) == {}


def test_a_namespace_below_it_is_another_mapping(memory: ntmem.MemorySystem) -> None:
    with memory.session("a") as s:
        quotes, below = s.namespace("quotes"), s.namespace("quotes", "deep")
        quotes["BTC"], below["BTC"], s["quotes"] = 1, 2, 3
        assert quotes.incr("BTC") == 2
        assert (dict(quotes), dict(below), dict(s)) == ({"BTC": 2}, {"BTC": 2}, {"quotes": 3})
        assert dict(s.namespace("quotes/deep")) == {"BTC": 2}
    assert dict(memory.session("a").namespace("quotes")) == {"BTC": 2}


@pytest.mark.parametrize("name", ["", "x" * 248, "a\0b", "\ud800"])
def test_names_that_cannot_be(memory: ntmem.MemorySystem, name: str) -> None:
    with pytest.raises(ValueError, match=r"bytes of UTF-8|encodable"):
        memory.session(name)


# -- holding it


def test_one_holder_at_a_time_and_the_other_is_told_who(memory: ntmem.MemorySystem) -> None:
    with memory.session("a") as s:
        with pytest.raises(ntmem.LockTimeout, match=r"'a' is held by process \d+ \(alice\)"):
            memory.session("a", timeout=0.01).__enter__()
        with pytest.raises(RuntimeError, match="entered already"):
            s.__enter__()
        assert memory.locks.is_locked("session/a")
    assert not memory.locks.is_locked("session/a")
    with memory.session("a", timeout=0), pytest.raises(ntmem.LockTimeout), memory.session("a", timeout=0):
        pass


def test_who_does_not_hold_it_reads(memory: ntmem.MemorySystem) -> None:
    with memory.session("a") as s:
        s["x"] = 1
        other = memory.session("a")
        assert other["x"] == 1
        for write in (
            lambda: other.__setitem__("x", 2),
            lambda: other.incr("x"),
            lambda: other.pop("x"),
            lambda: other.begin("task"),
            other.transaction,
            lambda: other.subscribe("a/>"),
            lambda: other.positions.apply_fill("BTC", 1, 1, trade_id="t"),
            other.end,
        ):
            with pytest.raises(ntmem.CoordinationError, match=r"write within 'with memory.session\('a'\) as s:'"):
                write()
        with pytest.raises(ntmem.StaleFence, match="is not held"):
            memory.put("desk", "k", b"", fence=other)
    with pytest.raises(ntmem.CoordinationError, match="not held"):
        s["x"] = 3
    assert dict(s) == {"x": 1}
    assert memory.positions.quantity("BTC", strategy="a") == 0


def test_a_reader_of_the_store_reads_it(memory: ntmem.MemorySystem, ram: Path) -> None:
    with memory.session("a") as s:
        s["x"] = 1
        t = s.begin("task")
        s.positions.apply_fill("BTC", 1, 100, trade_id="1")
    memory.close()
    with ntmem.open(ram / "desk", read_only=True) as reader:
        seen = reader.session("a")
        assert (dict(seen), seen.resumed, [it.id for it in seen.open_trajectories()]) == ({"x": 1}, 0, [t.id])
        assert seen.realized_pnl == 0
        assert [each.name for each in reader.sessions()] == ["a"]
        with pytest.raises(ntmem.ReadOnlyError):
            seen.__enter__()


def test_facts_and_listing(ram: Path) -> None:
    clock = ntmem.SimulatedClock(1_000)
    with ntmem.open(ram / "past", clock=clock) as memory:
        assert memory.sessions() == []
        assert (memory.session("a").started, memory.session("a").resumed, memory.session("a").info()) == (None, 0, None)
        with memory.session("a", agent_id="bob", account="main") as s:
            clock.set(2_000)
            s["x"] = 1
            s.namespace("n")["y"] = 1
            s.begin()
            assert (s.started, s.resumed, s.last_seen, s.agent_id) == (1_000, 0, 2_000, "bob")
            (info,) = memory.sessions()
            assert (info.held, info.alive, info.left, info.keys, info.open_trajectories) == (True, True, False, 2, 1)
        clock.set(3_000)
        with memory.session("ab") as other:
            other.publish = None  # type: ignore[attr-defined]
            memory.publish("t", b"", durable=True)
            messages = other.subscribe("t")
            assert messages.recv(0) is not None
            clock.set(4_000)
            messages.ack()
            assert other.last_seen == 4_000
        with memory.session("a"):
            pass
        first, second = memory.sessions()
        assert (first.name, first.agent_id, first.account, first.strategy) == ("a", "bob", "main", "a")
        assert (first.resumed, first.started, first.last_seen, first.left, first.pid) == (1, 1_000, 4_000, True, None)
        assert second.name == "ab"


def test_the_namespaces_of_sessions_are_their_own(memory: ntmem.MemorySystem) -> None:
    for space in (SESSIONS, SESSION_DATA):
        with pytest.raises(ntmem.NotOwner, match=r"memory.session"):
            memory.put(space, "k", b"")
        with pytest.raises(ntmem.NotOwner, match=r"end\(\) removes"):
            memory.delete_namespace(space)


@pytest.mark.only("lmdb")
def test_without_shared_memory_there_are_none_to_enter(tmp_path: Path) -> None:
    with ntmem.open(tmp_path / "desk") as memory:
        assert dict(memory.session("a")) == {}
        assert memory.sessions() == []
        with pytest.raises(ntmem.StorageError, match="engine='shared'"):
            memory.session("a").__enter__()


def test_in_an_event_loop(memory: ntmem.MemorySystem) -> None:
    async def hold(number: int) -> int:
        async with memory.session("a") as s:
            found = s.get("n", 0)
            await asyncio.sleep(0.001)
            s["n"] = found + 1
            return number

    async def both() -> None:
        await asyncio.gather(*map(hold, range(4)))
        async with memory.session("a"):
            with pytest.raises(ntmem.LockTimeout, match="held by"):
                async with memory.session("a", timeout=0.01):
                    pass

    asyncio.run(both())
    assert memory.session("a")["n"] == 4


def test_a_holder_who_was_late_writes_nothing(memory: ntmem.MemorySystem) -> None:
    with pytest.raises(ntmem.LockLost), memory.session("a") as s:
        s["x"] = 1
        messages = s.subscribe("t")
        memory.publish("t", b"", durable=True)
        assert messages.recv(0) is not None
        t = s.begin("task")
        assert memory.release_lock(str(s.lock.token))  # as if its time had passed
        with memory.session("a") as next_one:
            for write in (
                lambda: s.__setitem__("x", 2),
                lambda: s.incr("n"),
                s.clear,
                messages.ack,
                lambda: t.add_action("buy"),
                lambda: s.begin("more"),
                lambda: s.positions.apply_fill("BTC", 1, 1, trade_id="t"),
                lambda: s.positions.apply_cash("BTC", 1, cash_id="t"),
                s.end,
                lambda: memory.put("desk", "k", b"", fence=s),
            ):
                with pytest.raises(ntmem.StaleFence):
                    write()
            with pytest.raises(ntmem.StaleFence), s.transaction() as group:
                group["x"] = 2
                group.apply_fill("BTC", 1, 1, trade_id="t")
            assert dict(next_one) == {"x": 1}
            assert next_one.subscribe("t").recv(0) is not None  # was not acknowledged
            assert [len(it.actions) for it in next_one.open_trajectories()] == [0]
            assert memory.positions.get("BTC", strategy="a") is None
    assert memory.trajectories.count() == 1


def test_an_error_in_the_block_is_not_replaced(memory: ntmem.MemorySystem) -> None:
    with pytest.raises(KeyError, match="mine"), memory.session("a") as s:
        memory.release_lock(str(s.lock.token))
        raise KeyError("mine")
    with pytest.raises(ntmem.StoreClosed), memory.session("a") as s:
        memory.close()
        s["x"] = 1


# -- transactions, messages, trajectories


def test_a_group_is_all_or_nothing(memory: ntmem.MemorySystem) -> None:
    with memory.session("a", account="main") as s:
        with pytest.raises(ntmem.VersionConflict), s.transaction() as t:
            t["x"] = 1
            t.put("desk", "k", b"v", if_version=7)
        assert "x" not in s
        memory.publish("t", b"1", durable=True)
        memory.publish("t", b"2", durable=True)
        messages = s.subscribe("t")
        message = messages.recv(0)
        with pytest.raises(ValueError, match="was not received"), s.transaction() as t:
            t.ack(messages, 2)
        assert messages.recv(0) is not None
        with s.transaction() as t:
            t["x"] = 1
            t.put("desk", "k", b"v")
            t.ack(messages)
            t.ack(messages, message)
            t.ack(messages, 0)
            t.apply_fill("BTC", 2, 100, trade_id="1")
        assert [fill.applied for fill in t.fills] == [True]
        assert memory.get_record("desk", "k").fence.resource == "session/a"  # type: ignore[union-attr]
        assert memory.positions.quantity("BTC", "main", "a") == 2
        assert s.subscribe("t").recv(0) is None
        with pytest.raises(TypeError, match=r"session.subscribe"), s.transaction() as t:
            t.ack(memory.subscribe("t", durable="mine"))


def test_cursors_are_the_session_s(memory: ntmem.MemorySystem) -> None:
    for number in range(4):
        memory.publish(f"px/{number % 2}", b"%d" % number, durable=True)
    with memory.session("a") as s:
        every, one = s.subscribe("px/*"), s.subscribe("px/1", name="mine")
        assert [it.payload for it in every.recv_many(10, 0)] == [b"0", b"1", b"2", b"3"]
        every.ack(2)
        assert one.recv(0).payload == b"1"  # type: ignore[union-attr]
        one.ack()
        assert (every.name, one.name) == ("px/*", "mine")
    with pytest.raises(ntmem.StoreClosed):
        every.recv(0)  # closed with the session
    with memory.session("a") as s:
        assert s.subscribe("px/*").recv(0).payload == b"2"  # type: ignore[union-attr]
        assert s.subscribe("px/>", name="mine").recv(0).payload == b"2"  # type: ignore[union-attr]
        assert s.subscribe("px/*", since=0).recv(0).payload == b"0"  # type: ignore[union-attr]
        with pytest.raises(ValueError, match="NUL"):
            s.subscribe("px/*", name="a\0b")
    with memory.session("b") as s:
        assert s.subscribe("px/*").recv(0).payload == b"0"  # type: ignore[union-attr]
    assert memory.subscribe("px/*", durable="px/*").recv(0).payload == b"0"  # type: ignore[union-attr]


def test_it_remembers_trajectories_while_they_are_open(memory: ntmem.MemorySystem) -> None:
    with memory.session("a", agent_id="bob") as s:
        first, second = s.begin("one"), s.begin("two")
        first.add_observation({"x": 1}, [1.0, 0.0])
        action = first.add_action("buy", reference=100.0)
        second.complete()
        assert [it.id for it in s.open_trajectories()] == [first.id]
    memory.bank.resolve(first.id, 105.0)  # by anybody
    (seen,) = memory.session("a").open_trajectories()
    with pytest.raises(ValueError, match="as it was seen"):
        seen.add_action("sell")
    with memory.session("a") as s:
        (found,) = s.open_trajectories()
        assert (found.id, found.agent_id, found.task) == (first.id, "bob", "one")
        assert found.outcome_of(action).value == 105.0  # type: ignore[union-attr]
        found.add_action("sell")
        assert memory.sessions()[0].open_trajectories == 1  # the other was forgotten
        found.complete()
        assert s.open_trajectories() == []
    assert memory.trajectories.find(agent_id="bob").trajectories[-1].status == "complete"
    assert memory.trajectories.similar([1.0, 0.0])[0][0].id == first.id


def test_who_died_between_remembering_a_trajectory_and_beginning_it(memory: ntmem.MemorySystem) -> None:
    from ntmem.reasoningbank import trajectory

    with memory.session("a") as s:
        with pytest.MonkeyPatch.context() as patch, pytest.raises(ZeroDivisionError):
            patch.setattr(trajectory.Trajectory, "track", lambda *args: 1 // 0)
            s.begin("task")
        assert s.open_trajectories() == []
    with memory.session("a"):
        pass
    assert memory.sessions()[0].open_trajectories == 0


def test_what_is_written_under_it_does_not_guard_what_is_the_store_s(ram: Path) -> None:
    """An outcome that goes past a small log meets the index that the session wrote under its fence."""
    with ntmem.open(ram / "small", log_bytes=4096) as memory:
        with memory.session("a") as s:
            t = s.begin("x" * 1500)
            action = t.add_action("buy", {"note": "y" * 3000})
            memory.positions.apply_fill("BTC", 1, 1, strategy="a", trade_id="1", fence=s)
        memory.bank.resolve(t.id, 1.0, action_id=action)
        memory.positions.apply_fill("BTC", 1, 1, strategy="a", trade_id="2")
        own = memory.trajectories.get(t.id)
        assert own is not None
        own.add_action("sell", {"note": "y" * 3000})
        assert own.outcome_of(action).value == 1.0  # type: ignore[union-attr]


# -- what it earned


def test_realized_pnl_by_hand(memory: ntmem.MemorySystem, ram: Path) -> None:
    p = memory.positions
    p.define("BTC", price_precision=2, quantity_precision=3, multiplier=10)
    p.apply_fill("BTC", 2, "100.00", side="buy", strategy="a", trade_id="0", fee=1)
    p.apply_fill("BTC", 1, "130.00", side="sell", strategy="a", trade_id="1", fee=1)  # 300, before it began
    with memory.session("a") as s:
        assert (s.realized_pnl_decimal, s.net_pnl_decimal) == (0, 0)
        s.positions.apply_fill("BTC", 3, "110.00", side="sell", trade_id="2", fee="0.5")  # flips: 100
        s.positions.apply_fill("BTC", 3, "110.00", side="sell", trade_id="2", fee="0.5")  # again: nothing
    memory.close()
    with ntmem.open(ram / "desk") as memory, memory.session("a") as s:
        s.positions.apply_fill("BTC", 1, "105.00", side="buy", trade_id="3")  # 50
        s.positions.apply_cash("BTC", "-0.3", cash_id="f")
        s.positions.apply_fill("ETH", 1, 1, trade_id="4", position_id="hedge")
        s.positions.apply_fill("ETH", -1, "1.5", trade_id="5", position_id="hedge")  # 0.5
        memory.positions.apply_fill("BTC", 9, 1, trade_id="9", strategy="other")
        memory.positions.apply_fill("BTC", -9, 2, trade_id="10", strategy="other")
        memory.positions.apply_fill("BTC", 9, 1, trade_id="9", strategy="a", account="other")
        assert s.realized_pnl_decimal == Decimal("150.5")
        assert s.realized_pnl == 150.5
        assert s.net_pnl_decimal == Decimal("149.7")
        assert (s.pnl()[""].fees, s.pnl()[""].funding) == (Decimal("0.5"), Decimal("-0.3"))
        assert s.pnl()[""].net == s.net_pnl_decimal
        memory.positions.define("EUR", currency="EUR")
        s.positions.apply_fill("EUR", 1, 1, trade_id="1")
        with pytest.raises(ntmem.PositionError, match="2 currencies"):
            s.realized_pnl  # noqa: B018
        assert s.pnl()["EUR"].realized_pnl == 0


FILLS = st.lists(
    st.tuples(st.sampled_from("AB"), st.integers(-5, 5).filter(bool), st.integers(1, 50), st.integers(-2, 3)),
    max_size=16,
)


@settings(max_examples=10)
@given(FILLS, FILLS, FILLS)
@pytest.mark.only("shared")
def test_realized_pnl_is_the_sum_of_what_its_fills_brought(before: Any, first: Any, second: Any) -> None:
    """By the fills, each of which says what it closed; over leaving, purging and the end of the region."""
    from hostile import ram_directory

    expected = fees = Decimal(0)
    with ram_directory() as path:
        with ntmem.open(path / "desk") as memory:
            for place, (symbol, quantity, price, fee) in enumerate(before):
                memory.positions.apply_fill(symbol, quantity, price, fee=fee, strategy="s", trade_id=f"0-{place}")
            for number, fills in ((1, first), (2, second)):
                with memory.session("s") as s:
                    for place, (symbol, quantity, price, fee) in enumerate(fills):
                        how: dict[str, Any] = {"trade_id": f"{number}-{place}", "ts_event": memory.now()}
                        fill = s.positions.apply_fill(symbol, quantity, price, fee=fee, **how)
                        expected += fill.realized_pnl_decimal
                        fees += fee
                    assert s.realized_pnl_decimal == expected
                    assert s.net_pnl_decimal == expected - fees
                memory.positions.purge_closed(1e-9)
        with ntmem.open(path / "desk") as memory:  # those that were purged have no slot
            assert memory.session("s").realized_pnl_decimal == expected
            assert memory.session("s").net_pnl_decimal == expected - fees


def test_what_it_trades_under_stays(memory: ntmem.MemorySystem) -> None:
    with memory.session("a", account="main", strategy="trend") as s:
        assert (s.account, s.strategy) == ("main", "trend")
    with memory.session("a") as s:
        s.positions.apply_fill("BTC", 1, 1, trade_id="1")
    assert memory.positions.quantity("BTC", "main", "trend") == 1
    with pytest.raises(ValueError, match="was started with strategy 'trend', not 'other'"):
        memory.session("a", strategy="other").__enter__()
    with memory.session("a", account="main", timeout=0) as s:  # and was not left held
        assert s.resumed == 2


# -- the end


def test_ended_for_good(memory: ntmem.MemorySystem) -> None:
    memory.publish("t", b"1", durable=True)
    with memory.session("a") as s, memory.session("ab") as other:
        other["x"] = "other"
        s["x"] = 1
        s.namespace("n")["x"] = 1
        s.begin("task")
        messages = s.subscribe("t")
        assert messages.recv(0) is not None
        messages.ack()
        s.positions.apply_fill("BTC", 1, 1, trade_id="1")
        s.end()
        assert messages.closed
        with pytest.raises(ntmem.CoordinationError, match="not held"):
            s["x"] = 2
    assert [it.name for it in memory.sessions()] == ["ab"]
    assert memory.session("a").info() is None
    assert (dict(memory.session("a")), memory.session("a").open_trajectories()) == ({}, [])
    assert memory.positions.quantity("BTC", strategy="a") == 1
    assert memory.trajectories.count() == 1
    with memory.session("a", strategy="new") as s:
        assert (s.resumed, dict(s), s.strategy) == (0, {}, "new")
        assert s.subscribe("t").recv(0) is not None  # from the first on
    assert dict(memory.session("ab")) == {"x": "other"}


def test_what_a_thread_wrote_while_it_was_ended_is_not_the_next_one_s(memory: ntmem.MemorySystem) -> None:
    from ntmem.records import Change

    with pytest.raises(ntmem.LockLost), memory.session("a") as s:
        s.write([Change("delete", SESSIONS, b"a")])
        s["x"] = 1
        memory.release_lock(str(s.lock.token))
        with memory.session("a") as again:
            assert (again.resumed, dict(again)) == (0, {})


def test_a_session_that_is_dropped_ends_with_its_lease(memory: ntmem.MemorySystem) -> None:
    gc.disable()
    try:
        s = memory.session("a", ttl=0.05).__enter__()
        s.begin("task").complete()
        dropped = weakref.ref(s)
        del s
        assert dropped() is None
    finally:
        gc.enable()
    with memory.session("a", timeout=30) as s:  # nobody renews it
        assert s.resumed == 1


def test_its_lock_is_renewed_while_it_is_held(memory: ntmem.MemorySystem) -> None:
    with memory.session("a", ttl=2) as s:
        before = s.lock.remaining()
        while (now := s.lock.remaining()) <= before:
            assert now > 0
            before = now


def test_threads_of_the_holder_count_together(memory: ntmem.MemorySystem) -> None:
    with memory.session("a") as s:
        threads = [threading.Thread(target=lambda: [s.incr("n") for _ in range(200)]) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert s["n"] == 800
