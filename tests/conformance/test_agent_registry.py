"""What every :class:`~ntmem.coordination.protocols.AgentRegistry` has to do, whatever it is made of."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from typing import Any

import pytest
from polling import until

from ntmem import CoordinationError, Fence, LockLost, SerializationError

SHORT = 0.25  # longer than a sync of the disk takes: what is registered late is late at once


def names(backend: Any, **only: Any) -> list[str]:
    return [info.agent_id for info in backend.agents.list(**only)]


def status_of(backend: Any, agent_id: str) -> str:
    [info] = [info for info in backend.agents.list() if info.agent_id == agent_id]
    return str(info.status)


def test_register_list_unregister(backend: Any) -> None:
    agents = backend.agents
    assert agents.list() == []
    fence = agents.register("agent_2", capabilities=["trade", "hedge"], ttl=30, venue="binance")
    other = agents.register("agent_1", capabilities=("trade",))
    assert isinstance(fence, Fence)
    assert other.number > fence.number
    first, second = agents.list()
    assert (first.agent_id, first.capabilities, first.info) == ("agent_1", ("trade",), {})
    assert (second.agent_id, second.capabilities, second.info) == (
        "agent_2",
        ("trade", "hedge"),
        {"venue": "binance"},
    )
    assert (second.status, second.pid, second.fence) == ("alive", os.getpid(), fence)
    assert 0 < second.remaining <= 30
    assert second.registered_at <= first.registered_at
    agents.unregister("agent_2")
    assert names(backend) == ["agent_1"]
    agents.register("agent_3")
    agents.unregister()
    assert agents.list() == []


def test_who_can_do_something(backend: Any) -> None:
    agents = backend.agents
    for agent_id, capabilities in {"a": ["x"], "b": ["x", "y"], "c": []}.items():
        agents.register(agent_id, capabilities=capabilities)
    assert names(backend, capability="x") == ["a", "b"]
    assert names(backend, capability="y") == ["b"]
    assert names(backend, capability="xy") == []


@pytest.mark.parametrize(
    "info",
    [
        {"nothing": None, "yes": True, "number": -(2**63), "real": 1.5, "text": "é\0", "bytes": b"\xff"},
        {"deep": {"list": [1, [2, {"3": []}]], "": ""}},
        {"capabilities_": ["x"], "pid": 1, "at": 2, "start": 3, "info": {"info": {}}},
        {"large": "x" * 100_000, "tuple": (1, (2,)), "set": {1, 2}},
    ],
)
def test_what_it_says_of_itself_comes_back_as_it_went_in(backend: Any, info: dict[str, Any]) -> None:
    backend.agents.register("agent", **info)
    [found] = backend.agents.list()
    assert found.info == info
    assert [type(value) for value in found.info.values()] == [type(value) for value in info.values()]
    assert (found.pid, found.status) == (os.getpid(), "alive")


def test_again_is_with_other_words(backend: Any) -> None:
    agents = backend.agents
    first = agents.register("agent", capabilities=["x"], size=1)
    second = agents.register("agent", capabilities=["y"], colour="red", ttl=60)
    assert second.number >= first.number
    [info] = agents.list()
    assert (info.capabilities, info.info, info.status) == (("y",), {"colour": "red"}, "alive")
    assert info.remaining > 30


def test_a_heart_that_beats_keeps_it_alive(backend: Any) -> None:
    agents = backend.agents
    agents.register("agent", ttl=0.5)
    fence = agents.list()[0].fence
    end = time.monotonic() + 1.2
    while time.monotonic() < end:
        began = time.monotonic()
        agents.heartbeat("agent")
        time.sleep(0.01)
        if time.monotonic() - began > 0.25:
            pytest.skip("this process was not run for too long to beat in time")
    [info] = agents.list()
    assert (info.status, info.fence) == ("alive", fence)


def test_who_is_late_is_silent_and_comes_back(backend: Any) -> None:
    agents = backend.agents
    first = agents.register("agent", ttl=SHORT, size=1)
    until(lambda: status_of(backend, "agent") == "silent")
    assert agents.list()[0].remaining == 0.0
    while status_of(backend, "agent") != "alive":
        agents.heartbeat()
    info = agents.list()[0]
    assert info.fence.number > first.number
    assert info.info == {"size": 1}
    until(lambda: status_of(backend, "agent") == "silent")
    agents.register("agent", ttl=30)
    assert status_of(backend, "agent") == "alive"


def test_who_is_late_can_be_taken_off_the_list(backend: Any) -> None:
    backend.agents.register("agent", ttl=SHORT)
    until(lambda: status_of(backend, "agent") == "silent")
    backend.agents.unregister("agent")
    assert backend.agents.list() == []


def test_double_registration_is_refused(backend: Any) -> None:
    other = backend.connect("another")
    if other is backend.here:
        pytest.skip("this backend has one connection only")
    backend.agents.register("agent", size=1)
    with pytest.raises(CoordinationError, match=rf"'agent' is alive in process {os.getpid()}.*another name"):
        other.agents.register("agent", size=2)
    [info] = other.agents.list()
    assert info.info == {"size": 1}
    backend.agents.unregister("agent")
    other.agents.register("agent", size=2)
    assert backend.agents.list()[0].info == {"size": 2}


def test_who_was_replaced_is_told(backend: Any) -> None:
    other = backend.connect("another")
    if other is backend.here:
        pytest.skip("this backend has one connection only")
    backend.agents.register("agent", ttl=SHORT, size=1)
    until(lambda: status_of(backend, "agent") == "silent")
    other.agents.register("agent", size=2)
    with pytest.raises(LockLost, match=r"'agent' was late by its 0.25 s"):
        backend.agents.heartbeat()
    with pytest.raises(CoordinationError, match="register it first"):
        backend.agents.heartbeat("agent")
    [info] = backend.agents.list()
    assert (info.status, info.info) == ("alive", {"size": 2})


def test_unregister_of_who_was_replaced_leaves_the_other(backend: Any) -> None:
    other = backend.connect("another")
    if other is backend.here:
        pytest.skip("this backend has one connection only")
    backend.agents.register("agent", ttl=SHORT, size=1)
    until(lambda: status_of(backend, "agent") == "silent")
    other.agents.register("agent", size=2)
    backend.agents.unregister("agent")
    [info] = backend.agents.list()
    assert (info.status, info.info) == ("alive", {"size": 2})


# ---- other processes ----

LIVE = """
agents.register("agent", capabilities=["x"], ttl=float(sys.argv[1]), size=1)
say("ready")
while (word := hear()) != "end":
    say(outcome(getattr(agents, word)))
"""


def test_alive_silent_dead(backend: Any) -> None:
    child = backend.elsewhere(LIVE, 0.3)
    child.line()
    until(lambda: status_of(backend, "agent") == "silent")
    while status_of(backend, "agent") != "alive":
        child.tell("heartbeat")
        assert child.line() == "None"
    child.stop()
    until(lambda: status_of(backend, "agent") == "silent")
    child.signal(signal.SIGCONT)
    while status_of(backend, "agent") != "alive":
        child.tell("heartbeat")
        assert child.line() == "None"
    child.kill()
    assert status_of(backend, "agent") == "dead"
    [info] = backend.agents.list(capability="x")
    assert (info.pid, info.info) == (child.pid, {"size": 1})


def test_a_dead_agents_name_is_free_at_once(backend: Any) -> None:
    child = backend.elsewhere(LIVE, 1000)
    child.line()
    with pytest.raises(CoordinationError, match=rf"alive in process {child.pid} \(elsewhere\)"):
        backend.agents.register("agent")
    child.kill()
    assert status_of(backend, "agent") == "dead"
    backend.agents.register("agent", size=2)
    [info] = backend.agents.list()
    assert (info.status, info.pid, info.info) == ("alive", os.getpid(), {"size": 2})


def test_who_ends_well_is_not_alive(backend: Any) -> None:
    child = backend.elsewhere("agents.register('agent', ttl=1000); memory.close(); say('closed'); hear()")
    child.line()
    assert status_of(backend, "agent") == "silent"  # its process lives, it does not take part any more
    child.tell()
    child.end()
    assert status_of(backend, "agent") == "dead"


# ---- apart from locks ----


def test_agents_are_no_locks(backend: Any) -> None:
    backend.agents.register("agent")
    assert backend.locks.list() == []
    assert not backend.locks.is_locked("agent")
    grant = backend.locks.grant("agent", 10**9, 0.0)
    assert grant is not None
    with pytest.raises(ValueError, match="ntmem's own"):
        backend.locks.grant("ntmem:agent:agent", 10**9, 0.0)
    with pytest.raises(ValueError, match="ntmem's own"):
        asyncio.run(backend.locks.agrant("ntmem:agent:agent", 10**9, 0.0))


# ---- what is refused ----


@pytest.mark.parametrize(
    ("agent_id", "error", "says"),
    [
        ("", ValueError, "0 bytes"),
        ("x" * 241, ValueError, "241"),
        ("a\0b", ValueError, "NUL"),
        ("\ud800", ValueError, "UTF-8"),
        (b"agent", TypeError, "was bytes"),
        (None, TypeError, "was NoneType"),
        ("ntmem:agent", ValueError, "choose another"),
    ],
)
def test_wrong_names(backend: Any, agent_id: Any, error: type[Exception], says: str) -> None:
    with pytest.raises(error, match=says):
        backend.agents.register(agent_id)
    assert backend.agents.list() == []


@pytest.mark.parametrize(
    ("options", "error", "says"),
    [
        ({"capabilities": "trade"}, TypeError, "capabilities must be a sequence of str, was 'trade'"),
        ({"capabilities": [1]}, TypeError, "capabilities"),
        ({"ttl": 0}, ValueError, "ttl"),
        ({"ttl": "1"}, TypeError, "ttl"),
        ({"what": object()}, SerializationError, "object"),
        ({"what": {"deep": [object()]}}, SerializationError, "object"),
    ],
)
def test_what_cannot_be_said(backend: Any, options: dict[str, Any], error: type[Exception], says: str) -> None:
    with pytest.raises(error, match=says):
        backend.agents.register("agent", **options)
    assert backend.agents.list() == []
    backend.agents.register("agent", size=1)  # and nothing of it is in the way


@pytest.mark.parametrize("name", ["heartbeat", "unregister"])
def test_agents_of_others_are_refused(backend: Any, name: str) -> None:
    with pytest.raises(CoordinationError, match=r"'agent' is not registered.*register it first"):
        getattr(backend.agents, name)("agent")
    getattr(backend.agents, name)()  # all of none
