"""A reasoning memory: what came, what has become of it here, and what its users see of it.

**Invariant**: what came is kept as it came, to the byte; what use and credits make of its numbers stands beside it.
"""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec
from msgspec import Struct, field
from msgspec.structs import replace

from ..instants import instant_ns

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

REASONING = "reasoning_memory"
"""The type of memories that are recalled."""
LINE = "jsonl"
"""The model of memories that are items of a line of JSON: the embedding is that of their task."""
SUCCESS, FAILURE = 0.75, 0.60
"""Confidence of what was learnt from a success, or a failure, where nobody says another."""
_USUAL = 0.5  # confidence of a row that says none


class Memory(Struct, array_like=True, gc=False):
    """A memory as it came: a row of ``patterns`` with that of ``pattern_embeddings``; None: it says nothing."""

    id: str
    known: int
    place: int  # in the order in which they came
    created: int  # `created_at`, ns UTC; of one that says none, when it was first known
    type: str
    data: str
    confidence: float | None
    usage_count: int | None
    created_at: str | None
    last_used: str | None
    model: str | None = None  # None: without embedding
    vector: bytes = b""
    embedded_at: str | None = None
    line: str = ""  # hash of the line of JSON that it is an item of
    gone: str = ""  # of one that was let go, which has nothing else but `known` and `place`: hash of what it said

    @property
    def content(self) -> tuple[object, ...]:
        """What another version of it may differ in."""
        return (
            *(self.type, self.data, self.confidence, self.usage_count, self.created_at, self.last_used),
            *(self.model, self.vector, self.embedded_at),
        )

    @property
    def dimension(self) -> int:
        return len(self.vector) // 4

    @property
    def spoken(self) -> str:
        """Hash of what it says; its numbers and its embedding are no part of it."""
        return hashlib.blake2b(f"{self.type}\0{self.data}".encode(), digest_size=16).hexdigest()


class Standing(Struct, array_like=True, gc=False):
    """What use and credits have made of a memory's numbers; named as those of a cell, which is credited likewise."""

    known: int
    confidence: float
    usage_count: int
    last_used: str | None
    moved: float = 0.0
    uses: int = 0
    right: int = 0
    wrong: int = 0
    recent: str = ""
    quarantined: int = 0
    support: int = 0
    support_then: int = 0
    contradicts: dict[str, float] = field(default_factory=dict)  # memories by id, with their cosines; is not changed


class Head(Struct, array_like=True):
    """What all have in common."""

    memories: int = 0
    places: int = 0
    gone: int = 0


class Source(Struct):
    """Where a memory is from."""

    task_id: str | None = None
    agent_id: str | None = None
    outcome: str | None = None
    evidence: list[Any] | None = None


class Said(Struct):
    """What is read of ``pattern_data``; whatever else is in it is kept as it is."""

    title: str | None = None
    description: str | None = None
    content: str | None = None
    source: Source | None = None
    tags: list[Any] | None = None
    domain: str | None = None


_SAID = msgspec.json.Decoder(Said)
_NOTHING = Said()


class Kept(NamedTuple):
    """A memory, and what has become of its numbers."""

    memory: Memory
    standing: Standing | None

    @property
    def confidence(self) -> float:
        if self.standing is not None:
            return self.standing.confidence
        return _USUAL if self.memory.confidence is None else self.memory.confidence

    @property
    def reliability(self) -> float:
        """The confidence, from 0 to 1 whatever came."""
        return max(0.0, min(self.confidence, 1.0))

    @property
    def usage_count(self) -> int:
        return (self.memory.usage_count or 0) if self.standing is None else self.standing.usage_count

    @property
    def last_used(self) -> str | None:
        return self.memory.last_used if self.standing is None else self.standing.last_used

    @property
    def contradicts(self) -> dict[str, float]:
        """Memories that contradict it, by id, with their cosines."""
        return {} if self.standing is None else self.standing.contradicts

    @property
    def known(self) -> int:
        """From when on it is as it is."""
        return max(self.memory.known, 0 if self.standing is None else self.standing.known)

    @property
    def now(self) -> Memory:
        """The row as it would be written now: whatever may not be NULL is said."""
        it = self.memory
        created = text_of(it.created) if it.created_at is None else it.created_at
        embedded = created if it.embedded_at is None and it.model is not None else it.embedded_at
        return replace(
            it,
            confidence=self.confidence,
            usage_count=self.usage_count,
            last_used=self.last_used,
            created_at=created,
            embedded_at=embedded,
        )

    def said(self) -> Said:
        """What it says."""
        return said_of(self.memory.data) if self.memory.type == REASONING else _NOTHING

    def moved(self, known: int) -> Standing:
        """Return a standing that may be changed."""
        if self.standing is not None:
            return replace(self.standing, known=max(known, self.standing.known))
        return Standing(max(known, self.memory.known), self.confidence, self.usage_count, self.last_used)


class ReasoningMemory(Struct, frozen=True, eq=False):
    """What somebody has learnt, in words, as it came from another program.

    Attributes
    ----------
    id, type : str
    title, description, content : str
    task_id, agent_id, outcome : str
        Of the trajectory that it was learnt from; empty if that is not said.
    evidence, tags : tuple
    domain : str
    confidence : float
    usage_count : int
    created_at : int
        When it was made, ns UTC.
    last_used : str
        As the other program writes it.
    model : str
    embedding : ndarray of float32, shape (n,), or None
        As it came, bit for bit.
    pattern_data : str
        All of it as JSON, as it came.
    ts_known : int
    """

    id: str
    type: str
    title: str
    description: str
    content: str
    task_id: str
    agent_id: str
    outcome: str
    evidence: tuple[Any, ...]
    tags: tuple[Any, ...]
    domain: str
    confidence: float
    usage_count: int
    created_at: int
    last_used: str
    model: str
    embedding: NDArray[np.float32] | None
    pattern_data: str
    ts_known: int

    def __repr__(self) -> str:
        return f"<ReasoningMemory {self.title!r} confidence={self.confidence:.2f}>"


def public(kept: Kept) -> ReasoningMemory:
    """Return a memory as its users see it."""
    import numpy as np

    it, said = kept.memory, kept.said()
    source = said.source or Source()
    return ReasoningMemory(
        id=it.id,
        type=it.type,
        title=said.title or "",
        description=said.description or "",
        content=said.content or "",
        task_id=source.task_id or "",
        agent_id=source.agent_id or "",
        outcome=source.outcome or "",
        evidence=tuple(source.evidence or ()),
        tags=tuple(said.tags or ()),
        domain=said.domain or "",
        confidence=kept.confidence,
        usage_count=kept.usage_count,
        created_at=it.created,
        last_used=kept.last_used or "",
        model=it.model or "",
        embedding=None if it.model is None else np.frombuffer(it.vector, "<f4"),
        pattern_data=it.data,
        ts_known=kept.known,
    )


def said_of(data: str) -> Said:
    """Return what is read of ``pattern_data``; raise :class:`msgspec.MsgspecError` if that is nothing of the kind."""
    return _SAID.decode(data)


def instant_of(text: str) -> int:
    """Return a time as other programs write it, ISO 8601 with or without a zone (then UTC), in ns UTC."""
    found = datetime.fromisoformat(text)
    try:
        return instant_ns(found if found.tzinfo is not None else found.replace(tzinfo=UTC), "a time")
    except OverflowError as error:
        raise ValueError(f"a time is from 1970 to 2262, was {text!r}") from error


def text_of(ns: int) -> str:
    """Return an instant as SQLite's CURRENT_TIMESTAMP writes it."""
    return datetime.fromtimestamp(ns // 1_000_000_000, UTC).strftime("%Y-%m-%d %H:%M:%S")
