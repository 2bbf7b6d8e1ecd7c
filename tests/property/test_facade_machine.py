"""The whole facade against the oracle: random calls, from one process and from two in turn.

``NTMEM_EXAMPLES`` says how many histories are made of each kind; `make machines` makes a thousand.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test
from oracle import Oracle
from remote import Remote, call, remote

import ntmem

pytestmark = pytest.mark.usefixtures("engine")

START = 1_700_000_000_000_000_000
LOG_BYTES = 1 << 18  # quickly made, and too small for some of the groups
LONG = "k" * 479
NAMESPACES = [("a",), ("a", "b"), ("ab",), ("a", "b", "c"), ("é" * 127, "x" * 255, "y"), ("é" * 127, "x" * 255, "z")]
KEYS = ["k", "kk", "k\0", "z", "ключ", "💹", LONG + "1234567890abcde", LONG + "1234567890abcdef", LONG + "x" * 60_000]

namespaces = st.sampled_from(NAMESPACES)
keys = st.integers(0, len(KEYS) - 1).map(lambda number: KEYS[number])  # sampled_from would print 60,000 letters
values = st.one_of(st.sampled_from([b"", b"0", b"7", b"12"]), st.binary(max_size=40))
seconds = st.none() | st.sampled_from([1e-9, 1.0, 60.0])
offsets = st.none() | st.sampled_from([-10_000_000_000, -1, 0, 1, 10_000_000_000])
which_version = st.sampled_from(["any", "any", "absent", "current", "wrong"])
writes = st.tuples(st.sampled_from(["put", "put", "add", "incr", "delete"]), namespaces, keys, values, which_version)


def directory_on_ram() -> str:
    shm = Path("/dev/shm")
    return tempfile.mkdtemp(prefix="ntmem-test-", dir=shm if shm.is_dir() else None)


def outcome(function: Any, *args: Any, **kwargs: Any) -> tuple[str, Any]:
    try:
        result = function(*args, **kwargs)
    except (ntmem.NtmemError, ValueError) as error:
        return "raised", type(error)
    return "returned", list(result) if isinstance(result, Iterator) else result


def plain(record: Any) -> Any:
    """A record of the store, or of the oracle, in one form."""
    if record is None:
        return None
    return (record.value, record.version, record.ts_event, record.ts_known, record.expires_at)


class FacadeMachine(RuleBasedStateMachine):
    """Every rule does the same to the store and to the oracle and compares what both say."""

    other: Remote | None = None  # set by the test: a process that takes some of the calls

    @initialize()
    def start(self) -> None:
        self.directory = directory_on_ram()
        self.oracle = Oracle(START)
        self.clock = ntmem.SimulatedClock(START)
        self.memory = ntmem.open(self.directory, clock=self.clock, log_bytes=LOG_BYTES)
        if self.other is not None:
            self.other.call("open", self.directory, log_bytes=LOG_BYTES)

    def teardown(self) -> None:
        if hasattr(self, "memory"):
            self.memory.close()
            if self.other is not None:
                self.other.call("close")
            shutil.rmtree(self.directory)

    def both(self, there: bool, name: str, *args: Any, **kwargs: Any) -> None:
        expected = outcome(getattr(self.oracle, name.removeprefix("run_")), *args, **kwargs)
        if there and self.other is not None:
            found = outcome(self.other.call, name, *args, **kwargs)
        else:
            found = outcome(call, self.memory, name, args, kwargs)
        if name in ("get_record", "history") and found[0] == expected[0] == "returned":
            form = (lambda records: [plain(r) for r in records]) if name == "history" else plain
            assert form(found[1]) == form(expected[1])
        else:
            assert found == expected, (name, args, kwargs)

    def look(self, there: bool, ns: tuple[str, ...], key: str) -> None:
        """Compare all that can be read of a key: what a write left behind is seen at once, by either process."""
        self.both(there, "get", ns, key)
        self.both(there, "scan", ns)
        self.both(there, "history", ns, key)
        for as_of in (None, ntmem.LATEST, self.oracle.now - 1, self.oracle.now, self.oracle.now + 10**10):
            self.both(there, "get_record", ns, key, as_of=as_of)

    def version(self, which: str, ns: tuple[str, ...], key: str) -> dict[str, int]:
        if which == "any":
            return {}
        live = self.oracle.get_record(ns, key, ntmem.LATEST)
        return {"if_version": {"absent": 0, "current": live.version if live else 0, "wrong": 10**9}[which]}

    @rule(there=st.booleans(), ns=namespaces, key=keys, value=values, ttl=seconds, which=which_version, known=offsets)
    def put(self, there: bool, ns: Any, key: str, value: bytes, ttl: Any, which: str, known: int | None) -> None:
        options = {"ttl": ttl, **self.version(which, ns, key)}
        if known is not None:
            options |= {"ts_known": self.oracle.now + known, "ts_event": 5}
        self.both(there, "put", ns, key, value, **options)
        self.look(not there, ns, key)

    @rule(there=st.booleans(), ns=namespaces, key=keys, value=values, ttl=seconds)
    def add(self, there: bool, ns: Any, key: str, value: bytes, ttl: Any) -> None:
        self.both(there, "add", ns, key, value, ttl=ttl)
        self.look(not there, ns, key)

    @rule(there=st.booleans(), ns=namespaces, key=keys, delta=st.integers(0, 5))
    def incr(self, there: bool, ns: Any, key: str, delta: int) -> None:
        self.both(there, "incr", ns, key, delta)
        self.look(not there, ns, key)

    @rule(there=st.booleans(), ns=namespaces, key=keys, which=which_version)
    def delete(self, there: bool, ns: Any, key: str, which: str) -> None:
        self.both(there, "delete", ns, key, **self.version(which, ns, key))
        self.look(not there, ns, key)

    @rule(there=st.booleans(), ns=namespaces, mapping=st.dictionaries(keys, values, max_size=5), ttl=seconds)
    def put_many(self, there: bool, ns: Any, mapping: dict[str, bytes], ttl: Any) -> None:
        self.both(there, "put_many", ns, mapping, ttl=ttl)

    @rule(there=st.booleans(), operations=st.lists(writes, max_size=6))
    def transaction(self, there: bool, operations: list[Any]) -> None:
        complete = []
        for kind, ns, key, value, which in operations:
            options = self.version(which, ns, key) if kind in ("put", "delete") else {}
            complete.append((kind, ns, key, 1 if kind == "incr" else value, options))
        self.both(there, "run_transaction", complete)
        for _, ns, key, _, _ in complete:
            self.look(not there, ns, key)

    @rule(there=st.booleans(), ns=namespaces)
    def delete_namespace(self, there: bool, ns: Any) -> None:
        self.both(there, "delete_namespace", ns)

    @rule(there=st.booleans(), ns=namespaces, history=st.sampled_from([True, True, True, False]))
    def retain(self, there: bool, ns: Any, history: bool) -> None:
        self.both(there, "retain", ns, history=history)

    @rule(step=st.sampled_from([0, 1, 1_000_000_000, 60_000_000_000]))
    def advance(self, step: int) -> None:
        self.oracle.now += step
        self.clock.set(self.oracle.now)

    @rule(there=st.booleans(), early=st.sampled_from([0, 0, 1]))
    def advance_to_an_expiry(self, there: bool, early: int) -> None:
        coming = [
            (version.expires_at, ns, key)
            for ns, space in self.oracle.spaces.items()
            for key, versions in space.keys.items()
            for version in versions[-1:]
            if version.expires_at is not None and version.expires_at > self.oracle.now
        ]
        if coming:
            expires_at, ns, key = min(coming)
            self.advance(expires_at - early - self.oracle.now)
            self.look(there, ns, key)
            self.both(there, "add", ns, key, b"again")
            self.advance(1)
            self.look(there, ns, key)

    @rule(there=st.booleans(), ns=namespaces, key=keys, name=st.sampled_from(["get", "exists"]))
    def read(self, there: bool, ns: Any, key: str, name: str) -> None:
        self.both(there, name, ns, key)

    @rule(there=st.booleans(), ns=namespaces, key=keys, at=st.none() | st.just(ntmem.LATEST) | st.integers(-70, 20))
    def get_record(self, there: bool, ns: Any, key: str, at: Any) -> None:
        as_of = self.oracle.now + at * 1_000_000_000 if isinstance(at, int) else at
        self.both(there, "get_record", ns, key, as_of=as_of)

    @rule(there=st.booleans(), ns=namespaces, key=keys, limit=st.integers(1, 4))
    def history(self, there: bool, ns: Any, key: str, limit: int) -> None:
        self.both(there, "history", ns, key, limit=limit)

    @rule(there=st.booleans(), ns=namespaces, some=st.lists(keys, max_size=5))
    def get_many(self, there: bool, ns: Any, some: list[str]) -> None:
        self.both(there, "get_many", ns, some)

    @rule(
        there=st.booleans(),
        ns=namespaces,
        prefix=st.sampled_from(["", "", "k", LONG, LONG + "1"]),
        start=st.none() | keys,
        limit=st.none() | st.integers(0, 4),
    )
    def scan(self, there: bool, ns: Any, prefix: str, start: str | None, limit: int | None) -> None:
        self.both(there, "scan", ns, prefix=prefix, start=start, limit=limit)

    @rule(there=st.booleans(), prefix=st.just(()) | namespaces)
    def list_namespaces(self, there: bool, prefix: Any) -> None:
        self.both(there, "namespaces", prefix)

    @rule()
    def reopen(self) -> None:
        self.memory.close()
        self.clock = ntmem.SimulatedClock(START)
        self.memory = ntmem.open(self.directory, clock=self.clock, log_bytes=LOG_BYTES)
        assert self.clock.now() == self.oracle.now

    @invariant()
    def same_position(self) -> None:
        """A transaction past the log wastes a version or more; else the store numbers as the oracle does."""
        if hasattr(self, "memory"):
            found = self.memory.stats().last_version
            wasted = 10 if self.memory.stats().engine == "shared" else 0
            assert self.oracle.position <= found <= self.oracle.position + wasted
            self.oracle.position = found


SETTINGS = settings(
    max_examples=int(os.environ.get("NTMEM_EXAMPLES", "50")),
    stateful_step_count=50,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)


def test_one_process_agrees_with_the_oracle() -> None:
    run_state_machine_as_test(FacadeMachine, settings=SETTINGS)


def test_two_processes_agree_with_the_oracle() -> None:
    with remote() as other:
        machine = type("TwoProcessMachine", (FacadeMachine,), {"other": other})
        run_state_machine_as_test(machine, settings=SETTINGS)
