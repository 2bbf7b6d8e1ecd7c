"""Trajectories against plain lists of what was said, and when it was known."""

from __future__ import annotations

import os
import shutil
import tempfile
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

import ntmem

START = 10**18
numbers = st.integers(0, 100)
shifts = st.sampled_from([None, None, None, -3, 0, 2, 5])
values = st.sampled_from([-1.0, 0.0, 0.5, 1.0, 2.0])


class Plain:
    """A trajectory as lists: (what, known)."""

    def __init__(self, agent: str, task: str, known: int) -> None:
        self.agent, self.task, self.known = agent, task, known
        self.seen: list[tuple[Any, int]] = []
        self.actions: list[tuple[str, int]] = []
        self.outcomes: list[tuple[tuple[str | None, float], int]] = []
        self.ended: list[tuple[str, int]] = []

    def unresolved(self) -> list[str]:
        resolved = {name for (name, _), _ in self.outcomes}
        return [name for name, _ in self.actions if name not in resolved]

    def as_of(self, when: int) -> tuple[Any, ...] | None:
        if self.known > when:
            return None
        actions = [name for name, known in self.actions if known <= when]
        outcomes = [it for it, known in self.outcomes if known <= when and it[0] in [None, *actions]]
        ended = [it for it, known in self.ended if known <= when]
        return self.agent, self.task, [it for it, known in self.seen if known <= when], actions, outcomes, ended

    def pending(self, when: int) -> list[str]:
        found = self.as_of(when)
        return [] if found is None else [it for it in found[3] if it not in [name for name, _ in found[4]]]


class TrajectoryMachine(RuleBasedStateMachine):
    @initialize(engine=st.sampled_from(["shared", "shared", "lmdb"]))
    def start(self, engine: str) -> None:
        self.directory = tempfile.mkdtemp(dir="/dev/shm" if os.path.isdir("/dev/shm") else None)
        self.engine = engine
        self.clock = ntmem.SimulatedClock(START)
        self.now = START
        self.plain: dict[str, Plain] = {}
        self.live: dict[str, ntmem.Trajectory] = {}
        self.connect()

    def connect(self) -> None:
        self.memory = ntmem.open(self.directory, engine=self.engine, log_bytes=1 << 16, clock=self.clock)
        self.kept = self.memory.trajectories
        self.live.clear()

    def teardown(self) -> None:
        if hasattr(self, "memory"):
            self.memory.close()
            shutil.rmtree(self.directory)

    def chosen(self, number: int) -> tuple[ntmem.Trajectory, Plain] | None:
        """A trajectory: by an object that may know less than the store, or a new one."""
        if not self.plain:
            return None
        name = [*self.plain][number % len(self.plain)]
        if name not in self.live or number % 3 == 0:
            found = self.kept.get(name, as_of=ntmem.LATEST)
            assert found is not None
            again = self.kept.get(name)
            if again is None:  # it is not known yet
                return None
            self.live[name] = again
        return self.live[name], self.plain[name]

    @rule(agent=st.sampled_from("ab"), task=st.sampled_from(["", "t"]), shift=shifts)
    def begin(self, agent: str, task: str, shift: int | None) -> None:
        known = self.now if shift is None else self.now + shift
        made = self.memory.bank.begin(agent, task, ts_known=None if shift is None else known)
        self.plain[made.id] = Plain(agent, task, known)

    @rule(agent=st.sampled_from("ab"), shift=shifts, value=values)
    def track(self, agent: str, shift: int | None, value: float) -> None:
        known = self.now if shift is None else self.now + shift
        made = ntmem.Trajectory(agent)
        made.add_observation(value)
        action = made.add_action("buy", None, value)
        made.add_outcome(value, ts_known=None if shift is None else known)
        self.memory.track_trajectory(made)
        plain = self.plain[made.id] = Plain(agent, "", self.now)
        plain.seen.append((value, self.now))
        plain.actions.append((action, self.now))
        plain.outcomes.append(((action, value), known))

    @rule(number=numbers, value=values, shift=shifts)
    def observe(self, number: int, value: float, shift: int | None) -> None:
        found = self.chosen(number)
        if found is None:
            return
        trajectory, plain = found
        known = self.now if shift is None else self.now + shift
        if plain.ended:
            with pytest.raises(ValueError, match="outcomes only"):
                trajectory.add_observation(value)
            return
        trajectory.add_observation(value, ts_known=None if shift is None else known)
        plain.seen.append((value, known))

    @rule(number=numbers, value=values, shift=shifts)
    def act(self, number: int, value: float, shift: int | None) -> None:
        found = self.chosen(number)
        if found is None or found[1].ended:
            return
        known = self.now if shift is None else self.now + shift
        name = found[0].add_action("buy", None, value, ts_known=None if shift is None else known)
        assert name == f"a{len(found[1].actions) + 1}"
        found[1].actions.append((name, known))

    @rule(number=numbers, value=values, shift=shifts, names_it=st.booleans())
    def resolve(self, number: int, value: float, shift: int | None, names_it: bool) -> None:
        found = self.chosen(number)
        if found is None:
            return
        trajectory, plain = found
        known, name = self.now if shift is None else self.now + shift, None
        given = None if shift is None else known
        left = plain.unresolved()
        if names_it and plain.actions:
            name = plain.actions[number % len(plain.actions)][0]
            trajectory.add_outcome(value, action_id=name, ts_known=given)
        elif plain.actions and len(left) != 1:
            with pytest.raises(ValueError, match="pass action_id"):
                trajectory.add_outcome(value, ts_known=given)
            return
        else:
            name = left[0] if left else None
            self.memory.bank.resolve(trajectory.id, value, ts_known=given)
        plain.outcomes.append(((name, value), known))

    @rule(number=numbers)
    def complete(self, number: int) -> None:
        found = self.chosen(number)
        if found is not None:
            found[0].complete()
            found[1].ended = found[1].ended or [("complete", self.now)]

    @rule(by=st.sampled_from([0, 1, 1, 4]))
    def tick(self, by: int) -> None:
        self.now += by
        self.clock.set(self.now)

    @rule()
    def restart(self) -> None:
        self.memory.close()
        self.connect()

    @rule(back=st.sampled_from([None, 0, 1, 3, 10, -3]), agent=st.sampled_from([None, "a"]), size=st.integers(1, 4))
    def look(self, back: int | None, agent: str | None, size: int) -> None:
        when = self.now if back is None else self.now - back
        given = None if back is None else when
        names = [it for it in self.plain if agent in (None, self.plain[it].agent) and self.plain[it].known <= when]
        names.sort(key=lambda it: (-self.plain[it].known, it))
        found, cursor = [], None
        while True:
            page = self.kept.find(agent_id=agent, as_of=given, limit=size, cursor=cursor)
            found += page.trajectories
            cursor = page.cursor
            if cursor is None:
                break
        assert [it.id for it in found] == names
        for it, again in zip(found, self.kept.get_many(names, as_of=given), strict=True):
            assert again is not None
            for each in (it, again):
                outcomes = [(outcome.action_id, outcome.value) for outcome in each.outcomes]
                assert self.plain[it.id].as_of(when) == (
                    each.agent_id,
                    each.task,
                    [seen.data for seen in each.observations],
                    [action.id for action in each.actions],
                    outcomes,
                    [] if each.end is None else [each.status],
                )
        pending = [(it.trajectory_id, it.action.id) for it in self.kept.pending(agent_id=agent, as_of=given)]
        assert sorted(pending) == sorted((it, action) for it in names for action in self.plain[it].pending(when))

    @invariant()
    def all_are_counted(self) -> None:
        if hasattr(self, "kept"):
            assert self.kept.count() == len(self.plain)


def test_trajectories_are_lists_as_of_an_instant() -> None:
    run_state_machine_as_test(TrajectoryMachine, settings=settings(max_examples=25, stateful_step_count=30))
