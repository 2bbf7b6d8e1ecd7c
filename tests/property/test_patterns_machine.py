"""Every outcome is learnt from once, whatever is done in which order, by whom, and in the midst of what.

``NTMEM_PATTERN_HISTORIES`` says how many random histories there are on each engine.
"""

from __future__ import annotations

import contextlib
import os
import random
from typing import Any

import numpy as np
import pytest
from patterns import Kept, check_learnt, check_measures

import ntmem

HISTORIES = int(os.environ.get("NTMEM_PATTERN_HISTORIES", "2"))
START = 10**18
DAY = 86_400 * 10**9
CENTRES = {2: [[1.0, 0.0], [0.0, 1.0], [-1.0, 0.2]], 3: [[1.0, 1.0, 0.0], [0.0, -1.0, 1.0]]}
TYPES = ["buy", "sell", "hold"]
SHIFTS = [None] * 6 + [-40, -9, -1, 0, 2, 15]
POINTS = ["update", "latest", "working", "scope", "commit", "all", "_place"]
"""What others may come before in the midst of a change, in one handle's shelf."""


class History:
    """Agents at random on several handles of one store, some of them in the midst of what another does."""

    def __init__(self, handles: list[Any], clock: ntmem.SimulatedClock, seed: int) -> None:
        self.handles, self.clock = handles, clock
        self.chance, self.numbers = random.Random(seed), np.random.default_rng(seed)
        self.names: list[str] = []
        self.lost = self.meddled = 0

    def known(self) -> dict[str, int]:
        shift = self.chance.choice(SHIFTS)
        return {} if shift is None else {"ts_known": self.clock.now() + shift}

    def decide(self, memory: Any) -> None:
        """One decision, of one action or more, most of which have an outcome at once."""
        chance = self.chance
        made = memory.bank.begin(chance.choice("ab"), chance.choice(["", "t"]), **self.known())
        self.names.append(made.id)
        dimension = chance.choice([2, 2, 2, 3])
        centre = chance.choice(CENTRES[dimension])
        vector = self.numbers.normal(centre, 0.15) * chance.choice([1, 50])
        if chance.random() < 0.9:
            made.add_observation(None, vector, **self.known())
        if chance.random() < 0.4:
            with contextlib.suppress(KeyError):  # it is not known yet
                memory.bank.recall(vector, trajectory_id=made.id, min_support=0)
        for _ in range(chance.choice([1, 1, 1, 2, 3])):
            kind = chance.choice(TYPES)
            earned = (1.0 if (kind == "buy") == (centre == CENTRES[dimension][0]) else -1.0) + self.numbers.normal()
            level = chance.choice([None, None, 100.0])
            action = made.add_action(kind, reference=level, **self.known())
            if chance.random() < 0.8:
                made.add_outcome(earned if level is None else level + earned, action_id=action, **self.known())

    def outcome(self, memory: Any) -> None:
        """An outcome that is late, or of an action that has one."""
        found = memory.trajectories.get(self.chance.choice(self.names)) if self.names else None
        if found is not None and found.actions:
            action = self.chance.choice(found.actions)
            level = action.reference or 0.0
            found.add_outcome(level + self.numbers.normal(), action_id=action.id, **self.known())

    def feedback(self, memory: Any) -> None:
        patterns = [*memory.bank.patterns(min_support=0)]
        if patterns:
            chance = self.chance
            name = chance.choice([None, *self.names[-9:]])
            try:
                memory.bank.feedback(chance.choice(patterns).id, chance.uniform(-1, 1), trajectory_id=name)
            except KeyError as error:  # it went meanwhile, or the trajectory is not known yet
                if "there is no" not in str(error):
                    raise

    def distil(self, memory: Any) -> None:
        back = self.chance.choice([None, None, 0, 3, 30])
        memory.bank.distill(as_of=None if back is None else self.clock.now() - back)

    def consolidate(self, memory: Any) -> None:
        """What goes is known only afterwards: that nothing else is lost is what `alone` looks at."""
        memory.bank.consolidate()

    def change(self, memory: Any) -> None:
        """Something that changes patterns, or what they are made of."""
        self.chance.choice([self.distil, self.distil, self.feedback, self.consolidate, self.outcome])(memory)

    def meddle(self, memory: Any) -> contextlib.ExitStack:
        """Let another handle do something in the midst of what this one does next."""
        shelf, stack = memory.distiller.shelf, contextlib.ExitStack()
        point, left = self.chance.choice(POINTS), self.chance.randrange(4)
        others = [it for it in self.handles if it is not memory]
        method = getattr(shelf, point)

        def first(*args: Any, **more: Any) -> Any:
            nonlocal left
            left -= 1
            if left == -1:
                self.meddled += 1
                self.change(self.chance.choice(others))
            return method(*args, **more)

        setattr(shelf, point, first)
        stack.callback(delattr, shelf, point)
        return stack

    def go(self) -> None:
        chance = self.chance
        memory = chance.choice(self.handles)
        kind = chance.choices(["decide", "outcome", "tick", "change", "meddled", "leap"], [60, 12, 12, 7, 7, 0.5])[0]
        if kind == "tick":
            self.clock.set(self.clock.now() + chance.choice([1, 2, 5]))
        elif kind == "leap":
            self.clock.set(self.clock.now() + 100 * DAY)
        elif kind in ("decide", "outcome"):
            getattr(self, kind)(memory)
        else:
            before = Kept(memory)
            with self.meddle(memory) if kind == "meddled" else contextlib.nullcontext():
                self.change(memory)
            self.look(memory, before)

    def look(self, memory: Any, before: Kept) -> None:
        """Check all, and that patterns that went, which are those without an outcome for long, are all that is lost."""
        after = Kept(memory)
        cells = {(it.id, cell.action): cell for it in before.live.values() for cell in it.cells}
        left = {(it.id, cell.action) for it in after.live.values() for cell in it.cells}
        merged = {name for name, it in after.clusters.items() if it.into}
        now = self.clock.now()
        self.lost += sum(
            cell.support
            for (name, action), cell in cells.items()
            if (name, action) not in left and name not in merged and now - cell.last > 180 * DAY
        )
        check_learnt(memory, lost=self.lost)


@pytest.mark.parametrize("seed", range(HISTORIES))
def test_every_outcome_is_learnt_from_once(engine: str, ram: Any, seed: int) -> None:
    clock = ntmem.SimulatedClock(START)
    with contextlib.ExitStack() as stack:
        handles = [stack.enter_context(ntmem.open(ram / "s", clock=clock, log_bytes=1 << 16)) for _ in range(2)]
        history = History(handles, clock, seed)
        for _ in range(350):
            history.go()
        clock.set(clock.now() + 100)
        before = Kept(handles[0])
        handles[0].bank.distill()
        kept = check_learnt(handles[1], lost=history.lost)
        assert not kept.due
        assert handles[1].bank.distill() == []
        if kept.head.changes == before.head.changes + 1:
            for name, working in kept.working.items():
                if name not in before.working or working.outcomes != before.working[name].outcomes:
                    check_measures(kept, name)
        assert history.meddled
        assert len(kept.scopes) == 8  # two tasks, two dimensions, rewards and returns
        assert len(kept.live) > len(kept.scopes), "no kind was ever divided"
