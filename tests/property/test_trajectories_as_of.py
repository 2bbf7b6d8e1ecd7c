"""An answer as of an instant is that of a store which never got anything that was known later."""

from __future__ import annotations

import contextlib
import random
from typing import Any

import numpy as np
import pytest
from trajectories import LAST, as_seen, check_kept, first_embedding, sinces, unresolved

import ntmem
from ntmem import RelativeErrorJudge, ScaledJudge, Verdict, VerdictResult
from ntmem.reasoningbank import tracker
from ntmem.reasoningbank.events import Begun, Completed, Event, Judged

START = 10**18
AGENTS, TASKS, TYPES = "ab", ["", "t"], ["buy", "sell"]
SHIFTS = [None] * 8 + [-9, -4, -1, 0, 1, 3, 6, 12]
VECTORS = [[1.0, 0.0], [0.6, 0.8], [0.0, 1.0], [-0.6, 0.8], [1.0, 0.0, 0.0], [0.0, 1.0, 1.0]]


ASKED: list[dict[str, Any]] = [
    {},
    *({"agent_id": it} for it in "abc"),
    *({"task": it} for it in (*TASKS, "other")),
    *({"verdict": it} for it in Verdict),
    *({"status": it} for it in ("open", "complete", "failed")),
    {"agent_id": "a", "task": "t"},
    {"agent_id": "b", "status": "open"},
    {"task": "t", "verdict": Verdict.CORRECT},
]
RANGES: list[dict[str, Any]] = [
    {"start": START + 5},
    {"end": START + 9},
    {"start": START + 3, "end": START + 20, "agent_id": "a"},
]


class Work:
    """Agents at random, on several handles of one store, each with objects that may know less than the store."""

    def __init__(self, handles: list[Any], clock: ntmem.SimulatedClock, chance: random.Random) -> None:
        self.handles, self.clock, self.chance = handles, clock, chance
        self.names: list[str] = []
        self.live: dict[tuple[int, str], ntmem.Trajectory] = {}

    def known(self) -> dict[str, int]:
        shift = self.chance.choice(SHIFTS)
        return {} if shift is None else {"ts_known": self.clock.now() + shift}

    def begin(self, memory: Any) -> None:
        chance, known = self.chance, self.known()
        if chance.random() < 0.6:
            made = memory.bank.begin(chance.choice(AGENTS), chance.choice(TASKS), **known)
        else:
            made = ntmem.Trajectory(chance.choice(AGENTS), chance.choice(TASKS), **known)
            for _ in range(chance.randrange(8)):
                self.step(made)
            memory.track_trajectory(made)
        self.names.append(made.id)

    def step(self, it: ntmem.Trajectory) -> None:
        chance = self.chance
        kind = chance.choice(["see", "embed", "act", "act", "resolve", "resolve", "resolve"])
        value = float(chance.choice([-1, 0, 0.5, 1, 2]))
        if kind == "see":
            it.add_observation(value, **self.known())
        elif kind == "embed":
            it.add_observation(value, chance.choice(VECTORS), **self.known())
        elif kind == "act":
            expected, level = chance.choice([None, value]), chance.choice([None, 1.0])
            it.add_action(chance.choice(TYPES), value, expected, reference=level, horizon=4e-9, **self.known())
        elif it.actions:
            it.add_outcome(value, action_id=chance.choice(it.actions).id, **self.known())
        else:
            it.add_outcome(value, **self.known())

    def go(self) -> None:
        chance = self.chance
        place = chance.randrange(len(self.handles))
        memory = self.handles[place]
        kind = chance.choice(["begin"] + ["step"] * 7 + ["judge", "tick"])
        if kind == "tick":
            self.clock.set(self.clock.now() + chance.choice([1, 1, 2, 5]))
        elif kind == "begin" or not self.names:
            self.begin(memory)
        else:
            name = chance.choice(self.names)
            it = self.live.get((place, name)) or memory.trajectories.get(name)
            if it is None:  # it is not known yet
                return
            self.live[place, name] = it
            if kind == "judge":
                judge = chance.choice([None, RelativeErrorJudge(), lambda _: chance.choice([*Verdict])])
                memory.bank.judge(name, judge=judge)
            elif it.status != "open" or chance.random() < 0.04:
                it.complete(chance.choice(["complete", "failed"]))
            else:
                try:
                    self.step(it)
                except ValueError as error:
                    if "outcome" not in str(error):  # what it is of is not clear, or another has completed it
                        raise


def answers(memory: Any, as_of: Any, names: list[str]) -> dict[str, Any]:
    """Everything that can be asked of trajectories."""
    kept, bank = memory.trajectories, memory.bank
    cases: list[Any] = []

    def watching(case: Any) -> VerdictResult:
        cases.append(case)
        return ScaledJudge(cost=0.1)(case)

    found: dict[str, Any] = {}
    for name, it in zip(names, kept.get_many(names, as_of=as_of), strict=True):
        one = kept.get(name, as_of=as_of)
        assert (it is None) == (one is None)
        for each in (it, one):
            found.setdefault(f"get {name}", []).append(
                each
                and (
                    [*each.events()],
                    (each.agent_id, each.task, each.status, each.start, each.end, each.actions, each.outcomes),
                    [
                        (seen.data, None if seen.embedding is None else seen.embedding.tolist())
                        for seen in each.observations
                    ],
                    (each.unresolved, each.latest_outcomes(), each.verdicts),
                )
            )
        for judge in (watching, RelativeErrorJudge()):
            try:
                result: Any = bank.judge(name, judge=judge, as_of=as_of, record=False)
            except KeyError:
                result = "not known"
            found.setdefault(f"judge {name}", []).append(result)
    found["cases"] = cases
    known = [name for name in names if found[f"get {name}"][0] is not None]
    found["judge_many"] = bank.judge_many(known, as_of=as_of, record=False)
    for each in (*ASKED, *RANGES):
        pages, cursor = [], None
        while not pages or cursor:
            page = kept.find(**each, as_of=as_of, limit=3, cursor=cursor)
            pages += [it.id for it in page.trajectories]
            cursor = page.cursor
            if not page.trajectories:
                break
        assert pages == [it.id for it in kept.find(**each, as_of=as_of, limit=1000).trajectories]
        found[f"find {each}"] = pages
    for agent in (None, "a", "c"):
        found[f"pending {agent}"] = kept.pending(agent_id=agent, as_of=as_of)
        if as_of is not ntmem.LATEST:
            found[f"old {agent}"] = bank.pending(agent_id=agent, older_than=4e-9, as_of=as_of)
    for vector in VECTORS:
        for more in ({}, {"agent_id": "a"}, {"task": "t"}, {"verdict": "correct"}, {"min_score": 0.5}):
            hits = kept.similar(vector, 100, as_of=as_of, **more)
            found[f"similar {vector} {more}"] = sorted((it.id, score) for it, score in hits)
            if more != {"verdict": "correct"}:
                assert [score for _, score in kept.similar(vector, 2, as_of=as_of, **more)] == [
                    score for _, score in hits[:2]
                ]
    return found


def check_plain(events: dict[str, list[Event]], found: dict[str, Any], when: int) -> None:
    """Hold answers against what the events say themselves."""
    shown = {}
    for name in sorted(events, key=lambda it: (-events[it][0].ts_known, it)):
        seen = as_seen(events[name], when)
        assert [each and each[0] for each in found[f"get {name}"]] == [seen or None] * 2
        if seen:
            begun = seen[0]
            assert isinstance(begun, Begun)
            shown[name] = {
                "agent_id": begun.agent_id,
                "task": begun.task,
                "verdict": next((it.verdict for it in reversed(seen) if isinstance(it, Judged)), None),
                "status": next((it.status for it in seen if isinstance(it, Completed)), "open"),
            }

    def passing(asked: dict[str, Any]) -> list[str]:
        return [name for name, facts in shown.items() if all(facts[it] == value for it, value in asked.items())]

    for asked in ASKED:
        assert found[f"find {asked}"] == passing(
            asked | {"verdict": asked["verdict"].value} if "verdict" in asked else asked
        )
    for agent in (None, "a", "c"):
        names = passing({} if agent is None else {"agent_id": agent})
        pending = [(name, action) for name in names for action in unresolved(as_seen(events[name], when))]
        assert sorted((it.trajectory_id, it.action.id) for it in found[f"pending {agent}"]) == sorted(pending)
    for vector in VECTORS:
        for more in ({}, {"agent_id": "a"}, {"task": "t"}, {"verdict": "correct"}):
            firsts = {name: first_embedding(as_seen(events[name], when)) for name in passing(more)}
            expected = {name: it for name, it in firsts.items() if it is not None and len(it) == len(vector)}
            hits = dict(found[f"similar {vector} {more}"])
            assert hits.keys() == expected.keys()
            for name, it in expected.items():
                cosine = np.dot(it, vector) / np.linalg.norm(it) / np.linalg.norm(vector)
                assert hits[name] == pytest.approx(cosine, abs=0.02)


def copy_of(events: dict[str, list[Event]], when: int, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Return a store that was given only what was known by then."""
    memory = ntmem.open(clock=ntmem.SimulatedClock(when))
    for name, its in events.items():
        seen = as_seen(its, when)
        if seen:
            begun = seen[0]
            assert isinstance(begun, Begun)
            with monkeypatch.context() as patch:
                patch.setattr(tracker, "new_id", lambda _, name=name: name)
                made = memory.bank.begin(begun.agent_id, begun.task, ts_event=begun.ts_event, ts_known=begun.ts_known)
            for event in seen[1:]:
                made.add(lambda _, now, event=event: event)
    return memory


@pytest.mark.parametrize("seed", range(4))
def test_as_of_is_as_if_nothing_was_known_later(
    engine: str, ram: Any, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    chance, clock = random.Random(seed), ntmem.SimulatedClock(START)
    with contextlib.ExitStack() as stack:
        handles = [stack.enter_context(ntmem.open(ram / "s", clock=clock, log_bytes=1 << 16)) for _ in range(3)]
        work = Work(handles, clock, chance)
        for _ in range(75):
            work.go()
        halfway = clock.now()
        for _ in range(75):
            work.go()
        events = check_kept(handles[1])
        spread = sorted({since for its in events.values() for since in sinces(its)})
        assert spread[0] < START + 5 < clock.now() < spread[-1]
        for when in {*chance.sample(spread, 3), halfway, clock.now()}:
            found = answers(handles[when % 3], when, work.names)
            check_plain(events, found, when)
            with copy_of(events, when, monkeypatch) as memory:
                assert check_kept(memory).keys() == {name for name, its in events.items() if as_seen(its, when)}
                for as_of in (None, when, ntmem.LATEST):
                    for question, answer in answers(memory, as_of, work.names).items():
                        assert found[question] == answer, (question, as_of, when)
        assert answers(handles[0], None, work.names) == answers(handles[1], clock.now(), work.names)
        check_plain(events, answers(handles[2], ntmem.LATEST, work.names), LAST)
