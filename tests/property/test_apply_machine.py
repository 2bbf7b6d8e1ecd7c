"""Random changes through the LMDB engine and, as groups of the log, through the C code: the rows are the same."""

from __future__ import annotations

import contextlib
import os
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule, run_state_machine_as_test
from twin import SECOND, twin

import ntmem
from ntmem.records import Change, Policy

LONG = b"k" * 479
NAMESPACES = [("a",), ("b",), ("a", "b"), ("n" * 255, "x" * 243), ("n" * 255, "x" * 242), ("n" * 255, "x" * 255, "y")]
KEYS = [b"k", b"kk", b"k\0", b"z" * 494, LONG + b"1" * 16, LONG + b"2" * 16, LONG + b"x" * 60_000]

namespaces = st.sampled_from(NAMESPACES)
keys = st.integers(0, len(KEYS) - 1).map(lambda number: KEYS[number])
values = st.one_of(
    st.sampled_from([b"", b"0", b"7"]), st.binary(max_size=40), st.integers(1, 12_000).map(lambda size: b"v" * size)
)
ttls = st.none() | st.sampled_from([1, SECOND, 60 * SECOND])
offsets = st.none() | st.sampled_from([-SECOND, 0, SECOND, 10 * SECOND])
kinds = st.sampled_from(["put", "put", "put", "add", "incr", "delete"])
policies = st.builds(
    Policy,
    history=st.just(True),
    max_age_ns=st.sampled_from([None, SECOND, 30 * SECOND]),
    max_bytes=st.sampled_from([None, 1, 400, 4_000]),
)
changes = st.tuples(kinds, namespaces, keys, values, ttls, offsets)


class ApplyMachine(RuleBasedStateMachine):
    @initialize(kept=st.dictionaries(namespaces, policies, max_size=3))
    def start(self, kept: dict[Any, Policy]) -> None:
        self.stack = contextlib.ExitStack()
        self.twin = self.stack.enter_context(twin())
        for namespace, policy in kept.items():
            self.twin.elsewhere(lambda engine, n=namespace, p=policy: engine.retain(n, p))

    def teardown(self) -> None:
        if hasattr(self, "stack"):
            self.stack.close()

    def change(self, kind: str, namespace: Any, key: bytes, value: bytes, ttl: Any, offset: Any) -> Change:
        if kind == "delete":
            return Change("delete", namespace, key)
        if kind == "incr":
            return Change("incr", namespace, key, delta=3)
        known = None if offset is None else self.twin.now + offset
        return Change(kind, namespace, key, value, ttl_ns=ttl, ts_known=known, ts_event=5 if known else None)

    @rule(made=st.lists(changes, min_size=1, max_size=6), stage=st.booleans(), flush=st.booleans())
    def commit(self, made: list[Any], stage: bool, flush: bool) -> None:
        with contextlib.suppress(ValueError, ntmem.NtmemError):  # refused: nothing of it is in the log
            self.twin.commit(*[self.change(*each) for each in made], stage=stage)
        if flush:
            self.twin.flush()

    @rule(namespace=namespaces, key=keys, made=st.lists(st.tuples(values, ttls), min_size=2, max_size=8))
    def write_again_and_again(self, namespace: Any, key: bytes, made: list[Any]) -> None:
        for value, ttl in made:
            with contextlib.suppress(ValueError):
                self.twin.commit(Change("put", namespace, key, value, ttl_ns=ttl))
            self.twin.wait(SECOND)
        self.twin.flush()

    @rule(namespace=namespaces, count=st.integers(15, 40))
    def write_many_that_expire(self, namespace: Any, count: int) -> None:
        with contextlib.suppress(ValueError):
            self.twin.commit(*[Change("put", namespace, b"x%d" % i, b"v", ttl_ns=SECOND) for i in range(count)])

    @rule(seconds=st.sampled_from([1, 5, 100]))
    def wait(self, seconds: int) -> None:
        self.twin.wait(seconds * SECOND)

    @rule(namespace=namespaces, policy=st.just(Policy()) | policies)
    def retain(self, namespace: Any, policy: Policy) -> None:
        with contextlib.suppress(ValueError):
            self.twin.elsewhere(lambda engine: engine.retain(namespace, policy))

    @rule(namespace=namespaces)
    def delete_namespace(self, namespace: Any) -> None:
        self.twin.elsewhere(lambda engine: engine.delete_namespace(namespace))

    @rule()
    def flush(self) -> None:
        self.twin.flush()


def test_the_rows_are_those_of_the_engine():
    run_state_machine_as_test(
        ApplyMachine,
        settings=settings(
            max_examples=int(os.environ.get("NTMEM_EXAMPLES", "50")),
            stateful_step_count=40,
            deadline=None,
            suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
        ),
    )
