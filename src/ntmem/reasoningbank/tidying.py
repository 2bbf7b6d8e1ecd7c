"""Tidying up memories: those that say the same, those that contradict each other, those that are of no use.

**Invariants**

- Each thing that is done is one group, on the condition of the shelf, and leaves less to do: who is killed goes on, and
  doing it again does nothing.
- Two memories are one, or contradict each other, only if both say what came of what they were learnt from.
- What goes is let go as by :mod:`ntmem.reasoningbank.forgetting`: an import does not bring it back.
- A line of JSON has the embedding of its task, which does not tell its items apart: they are not compared.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import numpy as np

from ..instants import MAX_INSTANT, NS
from ..tiers.guards import MEMORIES, Situations
from .events import hashed
from .forgetting import let_go, let_vectors_go
from .memories import Memories, put_standing
from .memory import LINE, REASONING, Kept, Memory, Source
from .remembering import direction_of_memory
from .shelf import Shelf, Update

SAME = 0.87
"""The lowest cosine of two that are one, if the same came of both."""
OPPOSITE = 0.60
"""The lowest cosine of two that contradict each other, if the opposite came of them."""
_POOR = 0.30
_OLD = 180 * 86_400 * NS
_NEIGHBOURS = 32


class Tidied(NamedTuple):
    """What was tidied up: how many were merged into another, contradict another now, and went unused."""

    duplicates: int
    contradictions: int
    pruned: int


def tidy(memories: Memories, shelf: Shelf, now: int) -> Tidied:
    """Tidy up memories. Two searches of the nearest 32 for each, and one more for each that goes."""
    names = [hashed(it.memory.id) for it in memories.all(MAX_INSTANT)]
    duplicates = pruned = contradictions = 0
    for name in names:
        pruned += len(_changed(memories, shelf, partial(_prune, memories, shelf, name, now)))
    for name in names:
        while _changed(memories, shelf, partial(_merge, memories, shelf, name)):
            duplicates += 1
    for name in names:
        contradictions += len(_changed(memories, shelf, partial(_mark, memories, shelf, name)))
    return Tidied(duplicates, contradictions, pruned)


def _changed(memories: Memories, shelf: Shelf, change: Callable[[Update], list[str]]) -> list[str]:
    """Do a change that says which memories it is about, by hash(id); the vectors of those that are gone go, too."""
    said: list[str] = []

    def run(update: Update) -> list[Memory]:
        said[:] = change(update)
        return []

    memories.change(run)
    for name in said:
        let_vectors_go(memories, shelf, name)
    return said


def outcome(kept: Kept) -> str:
    """Return what came of what a memory was learnt from: "success", "failure", or "" if nobody says."""
    source = kept.said().source or Source()
    for said in (source.outcome, kept.memory.model):
        for each in ("success", "failure"):
            if (said or "").lower() in (each, f"distill-{each}"):
                return each
    return ""


def _prune(memories: Memories, shelf: Shelf, name: str, now: int, update: Update) -> list[str]:
    kept = _reasoning(memories, name)
    if kept is None or kept.confidence >= _POOR or now - kept.memory.created <= _OLD or _uses(kept):
        return []
    let_go(update, memories, shelf, kept, past=False)
    return [name]


def _merge(memories: Memories, shelf: Shelf, name: str, update: Update) -> list[str]:
    """Let one of two that are one go, with its uses to the other; return which."""
    mine = _reasoning(memories, name)
    if mine is None:
        return []
    for other, _ in _near(memories, shelf, mine, SAME):
        if outcome(other) == outcome(mine):
            worse, better = sorted((mine, other), key=_worth)
            let_go(update, memories, shelf, worse, past=False)
            standing = better.moved(shelf.engine().now())
            standing.usage_count = min(standing.usage_count + worse.usage_count, MAX_INSTANT)
            if worse.standing is not None:
                standing.uses += worse.standing.uses
                standing.right += worse.standing.right
                standing.wrong += worse.standing.wrong
            put_standing(update, hashed(better.memory.id), better, standing)
            return [hashed(worse.memory.id)]
    return []


def _mark(memories: Memories, shelf: Shelf, name: str, update: Update) -> list[str]:
    """Say what contradicts a memory; return it if anything does."""
    mine = _reasoning(memories, name)
    if mine is None:
        return []
    against = {
        other.memory.id: cosine
        for other, cosine in _near(memories, shelf, mine, OPPOSITE)
        if outcome(other) != outcome(mine)
    }
    if against != mine.contradicts:
        standing = mine.moved(shelf.engine().now())
        standing.contradicts = against
        put_standing(update, name, mine, standing)
    return [name] if against else []


def _reasoning(memories: Memories, name: str) -> Kept | None:
    """Return a memory, by hash(id), if it is there, and one that is recalled."""
    kept = memories.latest([name]).get(name)
    return None if kept is None or kept.memory.type != REASONING else kept


def _near(memories: Memories, shelf: Shelf, mine: Kept, least: float) -> list[tuple[Kept, float]]:
    """Return the nearest memories of which something came, with their cosines, the most similar first."""
    it = mine.memory
    direction = direction_of_memory(it)
    if it.model == LINE or not outcome(mine) or not direction.any():
        return []
    hits = shelf.vectors().search(Situations(it.dimension, MEMORIES), direction, _NEIGHBOURS)
    there = memories.latest([hit.id for hit in hits])
    for hit in hits:
        if hit.id not in there:
            let_vectors_go(memories, shelf, hit.id)  # of one that is gone, if somebody was killed then
    found = []
    for other in there.values():
        each = other.memory
        if each.id == it.id or each.type != REASONING or each.model == LINE or each.dimension != it.dimension:
            continue
        cosine = float(direction_of_memory(each).astype(np.float64) @ direction.astype(np.float64))
        if cosine >= least and outcome(other):
            found.append((other, cosine))
    return sorted(found, key=lambda found: -found[1])


def _uses(kept: Kept) -> int:
    return kept.usage_count + (0 if kept.standing is None else kept.standing.uses)


def _worth(kept: Kept) -> tuple[int, float, int, int]:
    """Return by what the better of two that are one is told: its uses, its confidence, that it is the earlier."""
    return kept.usage_count, kept.confidence, -kept.memory.created, -kept.memory.place
