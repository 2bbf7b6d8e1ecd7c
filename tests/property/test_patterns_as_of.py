"""Whatever is asked of patterns as of an instant is what it was when that was now, to the last bit."""

from __future__ import annotations

import contextlib
import itertools
import random
from typing import Any

import numpy as np
import pytest
from patterns import check_learnt

import ntmem
from ntmem.reasoningbank import tracker
from ntmem.tiers.guards import PATTERNS, Situations

START = 10**18
DAY = 86_400 * 10**9
CENTRES = [[1.0, 0.0, 0.0], [0.0, 1.0, 0.3], [-1.0, 0.2, 1.0]]
QUERIES = [*CENTRES, [0.5, 0.5, 0.5], [-1.0, 0.0, 0.0]]
TYPES = ["buy", "sell", "hold", "never"]
FILTERS: list[dict[str, Any]] = [
    {},
    {"agent_id": "b"},
    {"where": {"action": "buy"}},
    {"where": {"task": "t", "support": {"$gte": 2}}, "min_similarity": -1.0},
    {"with_quarantined": True, "min_support": 0},
]


def decided(memory: Any, chance: random.Random, vector: Any, earned: float, **known: Any) -> Any:
    """Return a decision that what is known may have advised, with an outcome."""
    made = memory.bank.begin(chance.choice("ab"), chance.choice(["t", "u"]), **known)
    made.add_observation(None, vector, **known)
    if chance.random() < 0.5:
        memory.bank.choose(vector, TYPES[:3], trajectory_id=made.id, seed=1)
    elif chance.random() < 0.5:
        memory.bank.recall(vector, trajectory_id=made.id)
    kind, level = chance.choice(TYPES[:3]), chance.choice([None, 100.0])
    made.add_action(kind, reference=level, **known)
    made.add_outcome(earned if level is None else level + earned, **known)
    return made


def work(memory: Any, chance: random.Random, numbers: Any, clock: ntmem.SimulatedClock) -> list[Any]:
    """Let agents decide and learn for a while; return their decisions."""
    made = []
    for _ in range(chance.randrange(15, 40)):
        place = chance.randrange(len(CENTRES))
        earned = numbers.normal() + (2.0 if place == 0 else -2.0)
        made.append(decided(memory, chance, numbers.normal(CENTRES[place], 0.1), earned))
        clock.set(clock.now() + chance.choice([0, 1, 3600 * 10**9]))
    learn(memory, chance)
    return made


def learn(memory: Any, chance: random.Random) -> None:
    bank = memory.bank
    for kind in chance.sample(["distil", "feedback", "consolidate"], 3):
        if kind == "distil":
            bank.distill()
        elif kind == "consolidate":
            bank.consolidate()
        for each in [*bank.patterns(min_support=0)][:3] if kind == "feedback" else []:
            bank.feedback(each.id, chance.uniform(-1, 1))


def facts(pattern: Any) -> dict[str, Any]:
    """Return all of a pattern, so that it can be compared to the last bit."""
    found = {name: getattr(pattern, name) for name in pattern.__struct_fields__}
    return found | {"centroid": pattern.centroid.tobytes()}


def answers(memory: Any, as_of: Any, names: list[str]) -> dict[str, Any]:
    """Everything that can be asked of patterns."""
    bank, found = memory.bank, dict[str, Any]()
    for asked in ({"min_support": 0}, {}, {"min_strength": 0.5}, {"where": {"unit": "return"}, "min_support": 1}):
        found[f"patterns {asked}"] = [facts(it) for it in bank.patterns(**asked, as_of=as_of)]
    for query in QUERIES:
        for asked in FILTERS:
            for k in (1, 3, 50):
                recalled = bank.recall(query, k, **asked, as_of=as_of)
                found[f"recall {query} {k} {asked}"] = [facts(it) for it in recalled]
        for task in (None, "t", "u"):
            made = bank.choose(query, TYPES, task=task, as_of=as_of, seed=7)
            found[f"choose {query} {task}"] = (made.action, made.is_known, made.options, [*map(facts, made.patterns)])
        hits = memory.vectors.search(Situations(3, PATTERNS), query, 100, as_of=as_of)
        found[f"search {query}"] = sorted((hit.id, hit.score, hit.metadata) for hit in hits)
    known = memory.trajectories.get_many(names, as_of=as_of)
    for name in [name for name, it in zip(names, known, strict=True) if it is not None]:
        told = bank.explain(name, as_of=as_of)
        used = [
            [None if it.pattern is None else facts(it.pattern)]
            + [getattr(it, each) for each in it.__struct_fields__ if each != "pattern"]
            for it in told.patterns
        ]
        found[f"explain {name}"] = (told.text, told.actions, told.outcomes, told.was_asked, used)
    return found


@pytest.mark.parametrize("seed", range(2))
def test_nothing_later_is_in_what_was_known(engine: str, ram: Any, seed: int) -> None:
    chance, numbers, clock = random.Random(seed), np.random.default_rng(seed), ntmem.SimulatedClock(START)
    with contextlib.ExitStack() as stack:
        handles = [stack.enter_context(ntmem.open(ram / "s", clock=clock, log_bytes=1 << 16)) for _ in range(2)]
        then: dict[int, tuple[dict[str, Any], list[str]]] = {}
        names: list[str] = []
        for number in range(4):
            made = work(handles[number % 2], chance, numbers, clock)
            names += [it.id for it in made[:2]]
            when = clock.now()
            then[when] = answers(handles[0], None, names), [*names]
            clock.set(when + chance.choice([1, DAY]))
            # what was decided before, and is known only now
            for it in made[:3]:
                memory = handles[(number + 1) % 2]
                memory.bank.resolve(it.id, 1e6, action_id="a1")
                again = decided(memory, chance, CENTRES[number % 3], -1e6, ts_event=START - DAY)
                again.add_outcome(1e9, action_id="a1", ts_event=START - DAY)
        assert any(answer for question, answer in then[when][0].items() if question.startswith("recall"))
        learn(handles[1], chance)
        clock.set(clock.now() + 60 * DAY)
        learn(handles[0], chance)
        check_learnt(handles[1])
        for when, (answered, asked) in then.items():
            for memory in handles:
                for question, answer in answers(memory, when, asked).items():
                    assert answer == answered[question], (question, when)
        empty = answers(handles[0], START - 1, [])
        assert not any(answer for question, answer in empty.items() if not question.startswith("choose"))
        assert not any(answer[1] for question, answer in empty.items() if question.startswith("choose"))


def test_what_is_known_later_teaches_nothing(engine: str, ram: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A store in which all decisions were corrected already, from tomorrow on, is as one in which none was."""
    given: list[dict[str, Any]] = []
    for poison in (False, True):
        chance, numbers, clock = random.Random(5), np.random.default_rng(5), ntmem.SimulatedClock(START)
        counter = itertools.count(10**12)
        monkeypatch.setattr(tracker, "new_id", lambda _, counter=counter: f"01{next(counter):024d}")
        with ntmem.open(ram / str(poison), clock=clock) as memory:
            for number in range(60):
                place = number % 3
                vector = numbers.normal(CENTRES[place], 0.1)
                made = decided(memory, chance, vector, numbers.normal() + (2.0 if place == 0 else -2.0))
                if poison:
                    made.add_outcome(-1e6, action_id="a1", ts_known=START + DAY)
                    made.add_observation(None, [-1.0, -1.0, -1.0], ts_known=START + DAY)
                    late = ntmem.Trajectory("a", "t", ts_known=START + DAY)
                    late.add_observation(None, vector)
                    late.add_outcome(1e6, action_id=late.add_action("never"))
                    with monkeypatch.context() as patch:
                        patch.setattr(tracker, "new_id", lambda _, number=number: f"02{number:024d}")
                        memory.track_trajectory(late)
                if number % 7 == 6:
                    clock.set(clock.now() + 1)
                    memory.bank.distill()
                    memory.bank.feedback(next(memory.bank.patterns(min_support=0)).id, 0.5)
            memory.bank.consolidate()
            names = [it.id for it in memory.trajectories.find(limit=100).trajectories]
            assert len(names) == 60
            for as_of in (None, START + 3, START + 5):
                given.append(answers(memory, as_of, names))
            clock.set(START + DAY)
            memory.bank.distill()
            check_learnt(memory)
            learnt_tomorrow = [it.support for it in memory.bank.patterns(where={"action": "never"})]
            assert sum(learnt_tomorrow) == 60 * poison
            for as_of in (START + 3, START + 5):
                assert answers(memory, as_of, names) == given[-2 if as_of == START + 3 else -1]
    for clean, poisoned in zip(given[:3], given[3:], strict=True):
        for question, answer in clean.items():
            assert poisoned[question] == answer, question
