"""Memories that speak of a situation, beside the patterns that do: the same formula, for what has no outcomes."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from ..instants import LATEST, MAX_INSTANT
from ..tiers.guards import MEMORIES, Situations
from .clusters import normalised
from .events import Advice
from .memories import Memories
from .memory import REASONING, Kept, Memory, Source
from .patterns import DistilledPattern, RecalledPattern
from .recall import CANDIDATES, COSINE, HALF_LIFE, MOST, RECENCY, RELIABILITY, Criteria
from .shelf import Shelf

if TYPE_CHECKING:
    from numpy.typing import NDArray


class Remembered(NamedTuple):
    """A memory that may be recalled: what a :class:`ntmem.reasoningbank.recall.Candidate` is for a pattern."""

    kept: Kept
    similarity: float
    recency: float
    score: float
    centroid: bytes  # of length 1, float32

    @property
    def place(self) -> str:
        return self.kept.memory.id

    @property
    def action(self) -> str:
        return ""

    @property
    def advice(self) -> Advice:
        it = self.kept
        return Advice(it.memory.id, it.known, self.score, self.similarity, self.recency, it.reliability)

    def public(self) -> RecalledPattern:
        return RecalledPattern(**_facts(self.kept, self.centroid), score=self.score, similarity=self.similarity)


def direction_of_memory(memory: Memory) -> NDArray[np.float32]:
    """Return where a memory is, of length 1; zero stays."""
    return normalised(np.frombuffer(memory.vector, "<f4")).astype("<f4")


def as_pattern(kept: Kept) -> DistilledPattern:
    """Return a memory as a pattern, which has no action and no outcomes."""
    return DistilledPattern(**_facts(kept, direction_of_memory(kept.memory).tobytes()))


def _facts(kept: Kept, centroid: bytes) -> dict[str, Any]:
    """Return what a memory is as a pattern, by the names of :class:`ntmem.DistilledPattern`."""
    said = kept.said()
    source = said.source or Source()
    return {
        "id": kept.memory.id,
        **_claims(kept, source),
        "centroid": np.frombuffer(centroid, "<f4"),
        "trajectory_ids": (source.task_id,) if source.task_id else (),
        "outcome_interval": (-math.inf, math.inf),
        "title": said.title or "",
        "description": said.description or "",
        "content": said.content or "",
        "metadata": metadata_of_memory(kept),
    }


def _claims(kept: Kept, source: Source) -> dict[str, Any]:
    """Return what filters look at beside the metadata: of something that has no action, and no outcomes."""
    failed = (source.outcome or kept.memory.model or "").lower().endswith("failure")
    return {
        "action": "",
        "pattern_type": "failure" if failed else "success",
        "support": 0,
        "strength": 0.0,
        "confidence": kept.confidence,
        "outcome_mean": math.nan,
    }


def metadata_of_memory(kept: Kept) -> dict[str, Any]:
    """Return what filters of memories look at, beside their other facts."""
    it, said, standing = kept.memory, kept.said(), kept.standing
    source = said.source or Source()
    return {
        "domain": said.domain or "",
        "tags": list(said.tags or ()),
        "task_id": source.task_id or "",
        "agents": [source.agent_id] if source.agent_id else [],
        "outcome": source.outcome or "",
        "evidence": list(source.evidence or ()),
        "model": it.model or "",
        "usage_count": kept.usage_count,
        "uses": 0 if standing is None else standing.uses,
        "right": 0 if standing is None else standing.right,
        "wrong": 0 if standing is None else standing.wrong,
        "quarantined": standing is not None and standing.quarantined > 0,
        "contradicts": sorted(kept.contradicts),
        "ts_first": it.created,
        "ts_last": it.created,
        "ts_known": kept.known,
    }


def facts_to_filter(kept: Kept) -> dict[str, Any]:
    """Return all that filters of memories look at."""
    return metadata_of_memory(kept) | _claims(kept, kept.said().source or Source())


def let_pass(criteria: Criteria, kept: Kept) -> bool:
    """Whether a memory may be recalled; its similarity is not looked at."""
    if kept.memory.type != REASONING or not criteria.with_memories:
        return False
    standing = kept.standing
    if standing is not None and standing.quarantined and not criteria.with_quarantined:
        return False
    if criteria.agent_id is None and criteria.where is None:
        return True
    facts = facts_to_filter(kept)
    if criteria.agent_id is not None and criteria.agent_id not in facts["agents"]:
        return False
    return criteria.where is None or criteria.where.matches(facts)


def remembered(
    memories: Memories,
    shelf: Shelf,
    query: NDArray[np.float64],
    k: int,
    criteria: Criteria,
    limit: int,
    now: int,
    *,
    is_now: bool,
) -> list[Remembered]:
    """Return the nearest memories that pass, `k` and some more if there are so many, with their scores."""
    numbers, labels, count = query.astype(np.float32), Situations(len(query), MEMORIES), CANDIDATES + k
    as_of = None if is_now else limit if limit < MAX_INSTANT else LATEST
    while True:
        hits = shelf.vectors().search(labels, numbers, count, as_of=as_of)
        found, lowest = [], 1.0
        for kept in memories.seen([hit.id for hit in hits], limit).values():
            if kept.memory.dimension != len(query):
                continue  # it has another embedding by now
            centroid = direction_of_memory(kept.memory)
            similarity = float(centroid @ numbers)
            lowest = min(lowest, similarity)
            if similarity >= criteria.floor and let_pass(criteria, kept):
                recency = 0.5 ** (max(now - kept.memory.created, 0) / HALF_LIFE)
                score = COSINE * similarity + RECENCY * recency + RELIABILITY * kept.reliability
                found.append(Remembered(kept, similarity, recency, score, centroid.tobytes()))
        is_all = len(hits) < count or lowest < criteria.floor
        if len(found) >= k or is_all or count >= MOST:
            return found
        count = min(4 * count, MOST)
