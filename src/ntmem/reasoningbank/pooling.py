"""What the attempts of a run teach together: of each action one outcome, whatever their number.

They see one situation and one market, so what comes of them is not independent: counted one by one, k attempts of which
all go well because the market went that way would look like k proofs. docs/design/matts.md has the reckoning.

**Invariants**

- A run teaches at most as many outcomes of an action as the attempt with most of them has: the first action of a type
  in each attempt is one, the second another.
- Which outcome is learnt at first, and what is put in its place as others become known, is in the group that learns it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..tiers.guards import RUNS
from .learning import Lesson, situation
from .runs import Run, Taught, decode, encode, run_key, taught_key
from .shelf import scope_id

if TYPE_CHECKING:
    from ..tiers.engine import LmdbEngine
    from .ledger import Ledger
    from .shelf import Update


def pooled(lessons: list[Lesson], update: Update, engine: LmdbEngine, ledger: Ledger) -> list[Lesson]:
    """Return lessons in which those of one run and action are one, or correct the one that was learnt before.

    What was learnt of runs is written by `update`.
    """
    keys = {place: _key(it) for place, it in enumerate(lessons) if it.run and it.situation is not None}
    if not keys:
        return lessons
    names = {it.run for it in lessons if it.run}
    runs = {
        name: decode(value, Run, f"the run {name}")
        for name, value in engine.fetch(RUNS, [(name, run_key(name)) for name in names]).items()
    }
    there = engine.fetch(RUNS, [(key, key) for key in set(keys.values())])
    taught: dict[bytes, Taught] = {key: decode(value, Taught, "what a run taught") for key, value in there.items()}
    latest: dict[bytes, int] = {}
    first: dict[bytes, Lesson] = {}
    for place, key in keys.items():
        it = lessons[place]
        if key not in taught:
            if it.is_correction:  # what it corrects was passed over
                continue
            taught[key] = Taught(it.trajectory, it.step, it.known, {})
            first[key] = it
        taught[key].known = max(taught[key].known, it.known)
        taught[key].values[it.trajectory] = it.attempt, it.value
        latest[key] = place
    olds = [taught[key].trajectory for key in latest if key not in first]
    states = dict(ledger.load(list(dict.fromkeys(olds)))) if olds else {}
    found = []
    for place, it in enumerate(lessons):
        key = keys.get(place, b"")
        if key not in latest:
            found.append(it)
        elif latest[key] == place:
            whole = taught[key]
            update.put(RUNS, key, encode(whole))
            run = runs.get(it.run)
            value = whole.value("parallel" if run is None else run.mode)
            if key in first:
                found.append(first[key]._replace(value=value, known=whole.known))
            else:
                seen = situation(states[whole.trajectory], whole.step)
                old = it._replace(trajectory=whole.trajectory, step=whole.step, situation=seen, advice=())
                found.append(old._replace(value=value, known=whole.known, is_correction=True))
    return found


def _key(it: Lesson) -> bytes:
    assert it.situation is not None
    scope = scope_id(it.task, len(it.situation), is_return=it.is_return)
    return taught_key(it.run, scope, it.action, it.turn)
