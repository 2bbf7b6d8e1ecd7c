"""Recall as agentic-flow does it on what ``export_sqlite`` writes: the same candidates, scores and order.

- All memories and patterns with a confidence of 0.3 and more, by confidence, then by how often they were used, then in
  the order in which they came, patterns last.
- score = 0.65 cosine + 0.15 exp(-whole days / 45) + 0.20 min(confidence, 1).
- As many as are asked for, or fewer: all, in that order. More: by score, and then each by 0.1 score - 0.9 of its cosine
  to the most similar one that was taken.

agentic-flow has no answer if there are embeddings of another length than the query's; here those are passed over.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from ..instants import NS
from .memories import Memories
from .patterns import created_of
from .recall import COSINE, RECENCY, RELIABILITY, Candidate, Criteria
from .remembering import Remembered, direction_of_memory, let_pass
from .shelf import Shelf

if TYPE_CHECKING:
    from numpy.typing import NDArray

_LEAST_CONFIDENCE = 0.3
_DAY = 86_400 * NS
_MS = 1_000_000
_AGES = 45
_LAMBDA = 0.10


class _Row(NamedTuple):
    """A row of ``patterns`` with its embedding."""

    found: Candidate | Remembered
    confidence: float
    usage_count: int
    vector: NDArray[np.float64]
    created: int


def recall_upstream(
    shelf: Shelf, memories: Memories, query: NDArray[Any], k: int, criteria: Criteria, limit: int, now: int
) -> list[Candidate | Remembered]:
    """Return what agentic-flow would, in its order. O(memories and patterns)."""
    with np.errstate(over="ignore"):
        numbers = query.astype(np.float32).astype(np.float64)
    if not np.isfinite(numbers).all():
        raise ValueError("query must have numbers of float32, one was larger")
    rows = sorted(_rows(shelf, memories, len(query), criteria, limit), key=lambda it: (-it.confidence, -it.usage_count))
    scored = []
    for it in rows:
        similarity = _cosine(numbers, it.vector)
        if similarity < criteria.floor:
            continue
        days = _whole_days(now, it.created)
        recency = float(np.exp(-days / _AGES))
        score = COSINE * similarity + RECENCY * recency + RELIABILITY * min(it.confidence, 1.0)
        found = it.found._replace(similarity=similarity, recency=recency, score=score)
        scored.append(it._replace(found=found))
    return [it.found for it in _mmr(scored, k)]


def _rows(shelf: Shelf, memories: Memories, dimension: int, criteria: Criteria, limit: int) -> list[_Row]:
    rows = []
    for kept in memories.all(limit):
        it = kept.memory
        if it.dimension == dimension and kept.confidence >= _LEAST_CONFIDENCE and let_pass(criteria, kept):
            numbers = np.frombuffer(it.vector, "<f4").astype(np.float64)
            found = Remembered(kept, 0.0, 0.0, 0.0, direction_of_memory(it).tobytes())
            rows.append(_Row(found, kept.confidence, kept.usage_count, numbers, it.created))
    for cluster in shelf.all(limit):
        if cluster.dimension != dimension:
            continue
        numbers = np.frombuffer(cluster.centroid, "<f4").astype(np.float64)
        for cell in cluster.cells:
            if cell.confidence >= _LEAST_CONFIDENCE and criteria.let_pass(cluster, cell):
                pattern = Candidate(cluster, cell, 0.0, 0.0, 0.0)
                rows.append(_Row(pattern, cell.confidence, cell.uses, numbers, created_of(cell)))
    return rows


def _whole_days(now: int, created: int) -> int:
    """Return an age in days as SQLite casts a difference of Julian days, which are of milliseconds: towards zero."""
    age = now // _MS - created // _MS
    days = abs(age) * _MS // _DAY
    return days if age >= 0 else -days


def _cosine(one: NDArray[np.float64], other: NDArray[np.float64]) -> float:
    lengths = float(np.sqrt(one @ one) * np.sqrt(other @ other))
    return float(one @ other) / lengths if lengths else 0.0


def _mmr(rows: Sequence[_Row], k: int) -> Sequence[_Row]:
    if k >= len(rows):
        return rows
    left = sorted(rows, key=lambda it: -it.found.score)
    taken: list[_Row] = []
    said = [0.0] * len(left)  # the highest cosine to those that were taken
    while len(taken) < k:
        worth = [_LAMBDA * it.found.score - (1 - _LAMBDA) * most for it, most in zip(left, said, strict=True)]
        best = worth.index(max(worth))
        chosen = left.pop(best)
        said.pop(best)
        taken.append(chosen)
        said = [max(most, _cosine(it.vector, chosen.vector)) for it, most in zip(left, said, strict=True)]
    return taken
