"""Reasoning memories: what others have learnt, in words, as it stands in the store, and as of an instant.

=================== ============================= ==================================================================
namespace           key                           value (format number, MessagePack)
=================== ============================= ==================================================================
ntmem/memories      ``h``                         a :class:`Head`
same                ``m`` hash(id)                a :class:`Memory`, the latest
same                ``p`` hash(id) inv(known)     one that another has replaced
same                ``s`` hash(id)                a :class:`Standing`; none: nothing has moved its numbers here
same                ``t`` hash(id) inv(known)     one that another has replaced
same                ``g`` hash(id)                instead of ``m``: a :class:`Memory` that says it was let go
=================== ============================= ==================================================================

The direction of an embedding stands in the collection ``ntmem/memories/<dimension>``, too, under hash(id); as with
clusters (:mod:`ntmem.reasoningbank.shelf`) what is there says where to look, and the record says what is so. The
embedding itself, as it came, is in the record.

**Invariants**

- Whatever changes a memory is a change of the shelf, whose head is its condition: all such changes are in one order.
- I7: a memory says from when on it is known; one that is replaced stays as of then.
- What came is kept as it came, to the byte; what use and credits make of its numbers stands beside it.
- A memory has ``m`` or ``g``, never both; the head has the numbers of either (:mod:`ntmem.reasoningbank.forgetting`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec
from msgspec import Struct, field
from msgspec.structs import replace

from ..errors import StorageError, VersionConflict
from ..instants import MAX_INSTANT, instant_ns
from ..tiers.guards import MEMORIES, Situations
from .events import FORMAT, decoded, hashed, newest_first
from .ledger import mark_of
from .shelf import Shelf, Update, is_pattern
from .state import Mark

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
_ATTEMPTS = 100
_PAGE = 256
_HEAD = b"h"


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
_encode = msgspec.msgpack.Encoder().encode
_DECODERS: dict[type, Any] = {kind: msgspec.msgpack.Decoder(kind) for kind in (Memory, Standing, Head)}


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


# -- in the store


class Memories:
    """The memories of a store, as they are kept."""

    def __init__(self, shelf: Shelf) -> None:
        self._shelf = shelf
        self._looked: tuple[Mark, bytes | None, bool] = (None, None, False)

    def are_any(self) -> bool:
        """Whether there are memories, or were; little is read if the store, or the shelf, is as it was."""
        mark = mark_of(self._shelf.engine())
        was, state, are_any = self._looked
        if mark is None or mark != was:
            now = self._shelf.state()
            if now != state:
                head = self.head()
                are_any = head.memories + head.gone > 0
            self._looked = mark, now, are_any
        return are_any

    def head(self) -> Head:
        """Return what all have in common."""
        value = self._shelf.engine().get(MEMORIES, _HEAD)
        return Head() if value is None else decode(value, Head, "the head of the memories")

    def has(self, memory_id: Any) -> bool:
        """Whether there is a memory of this id."""
        is_text = isinstance(memory_id, str) and not is_pattern(memory_id)
        return is_text and bool(self.latest([hashed(memory_id)]))

    def latest(self, names: Iterable[str]) -> dict[str, Kept]:
        """Return memories as they are, by hash(id)."""
        keys = [((kind, name), f"{kind}{name}".encode()) for name in names for kind in "ms"]
        found = self._shelf.engine().fetch(MEMORIES, keys)
        made = {}
        for (kind, name), value in found.items():
            if kind == "m":
                stood = found.get(("s", name))
                made[name] = Kept(_memory(value), None if stood is None else _standing(stood))
        return made

    def seen(self, names: Iterable[str], limit: int) -> dict[str, Kept]:
        """Return memories as they were known by an instant, but those that were not."""
        names = list(names)
        latest, found = self.latest(names), {}
        missing = [name for name in names if name not in latest]
        gone = self.gone(missing) if missing else {}
        for name in names:
            if name in latest:
                it = self._as_of(latest[name], name, limit)
            else:
                it = self._until(gone[name], name, limit) if name in gone else None
            if it is not None:
                found[name] = it
        return found

    def gone(self, names: Iterable[str]) -> dict[str, Memory]:
        """Return what is left of memories that were let go, by hash(id)."""
        found = self._shelf.engine().fetch(MEMORIES, [(name, f"g{name}".encode()) for name in names])
        return {name: _memory(value) for name, value in found.items()}

    def all(self, limit: int) -> Iterator[Kept]:
        """Yield the memories as they were known by an instant, in the order in which they came."""
        places = []
        for key, value in self._shelf.engine().scan(MEMORIES, b"m", b"", None):
            places.append((_memory(value).place, key[1:]))
        for key, value in self._shelf.engine().scan(MEMORIES, b"g", b"", None):
            gone = _memory(value)
            if gone.known > limit:
                places.append((gone.place, key[1:]))
        names = [name for _, name in sorted(places)]
        for first in range(0, len(names), _PAGE):
            yield from self.seen(names[first : first + _PAGE], limit).values()

    def _as_of(self, it: Kept, name: str, limit: int) -> Kept | None:
        memory, standing = it
        if memory.known > limit:
            value = self._before("p", name, limit)
            if value is None:
                return None
            memory = _memory(value)
            if memory.gone:
                return None
        if standing is not None and standing.known > limit:
            standing = self._stood(name, limit)
        return Kept(memory, standing)

    def _until(self, gone: Memory, name: str, limit: int) -> Kept | None:
        """Return what a memory was before it was let go."""
        value = self._before("p", name, limit) if gone.known > limit else None
        memory = None if value is None else _memory(value)
        return None if memory is None or memory.gone else Kept(memory, self._stood(name, limit))

    def _stood(self, name: str, limit: int) -> Standing | None:
        value = self._before("t", name, limit)
        return None if value is None else _standing(value)

    def past(self, name: str) -> list[bytes]:
        """Return where the past versions of a memory stand, by hash(id)."""
        engine = self._shelf.engine()
        found = (engine.scan(MEMORIES, f"{kind}{name}".encode(), b"", None) for kind in "pt")
        return [key.encode() for each in found for key, _ in each]

    def _before(self, kind: str, name: str, limit: int) -> bytes | None:
        stem = f"{kind}{name}"
        start = stem + newest_first(limit)
        found = self._shelf.engine().scan(MEMORIES, stem.encode(), start.encode(), 1, page=1)
        return next((value for _, value in found), None)

    # -- changing

    def change(self, change: Callable[[Update], list[Memory]]) -> None:
        """Commit what `change` puts into an update, on what there is by then; it returns what is to be found anew."""
        for _ in range(_ATTEMPTS):
            update = self._shelf.update(0)  # what is learnt of the past is known from the past on, still
            moved = change(update)
            if not update.changes:
                return
            self.place(moved)
            try:
                self._shelf.commit(update)
            except VersionConflict:
                continue
            return
        raise StorageError(f"others changed the memories {_ATTEMPTS} times meanwhile; try again")

    def place(self, memories: Sequence[Memory]) -> None:
        """Let memories be found where they are now, before they are there."""
        import numpy as np

        from .clusters import normalised

        by_dimension: dict[int, dict[str, Memory]] = {}
        for each in memories:
            if each.vector.strip(b"\0\x80"):  # zero has no direction
                by_dimension.setdefault(each.dimension, {})[hashed(each.id)] = each
        for dimension, named in by_dimension.items():
            rows = np.stack([np.frombuffer(each.vector, "<f4") for each in named.values()])
            known = [each.known for each in named.values()]
            labels = Situations(dimension, MEMORIES)
            directions = normalised(rows).astype(np.float32)
            self._shelf.vectors().add_many(labels, [*named], directions, ts_event=known, ts_known=known)

    def count_use(self, names: Sequence[str]) -> None:
        """Count that memories, by hash(id), were recalled for a decision."""

        def count(update: Update) -> list[Memory]:
            now = self._shelf.engine().now()
            for name, it in self.latest(names).items():
                standing = it.moved(now)
                standing.usage_count = min(standing.usage_count + 1, MAX_INSTANT)  # of int64, as SQLite has it
                standing.last_used = text_of(now)
                put_standing(update, name, it, standing)
            return []

        self.change(count)

    def credit(self, update: Update, said: Sequence[tuple[str, float]], known: int) -> None:
        """Move the confidence of memories by what they were worth, by id, from -1 to 1.

        One that was contradicted again and again is in quarantine, until it is not any more.
        """
        from .learning import CONTRADICTED, credit

        found = self.latest([hashed(name) for name, _ in said])
        standings = {name: it.moved(known) for name, it in found.items()}
        for name, worth in said:
            standing = standings.get(hashed(name))
            if standing is not None:
                standing.uses += 1
                credit(standing, worth, known)
                if standing.recent.count("-") < CONTRADICTED:
                    standing.quarantined = 0
        for name, standing in standings.items():
            put_standing(update, name, found[name], standing)

    def let_past_go(self, before: int) -> int:
        """Let past versions go that were replaced before an instant; return how many."""
        keys, engine = [], self._shelf.engine()
        for kind, past in (("m", "p"), ("g", "p"), ("s", "t"), ("g", "t")):
            for key, value in engine.scan(MEMORIES, kind.encode(), b"", None):
                newer = (_standing if kind == "s" else _memory)(value).known
                for old, _ in engine.scan(MEMORIES, f"{past}{key[1:]}".encode(), b"", None):
                    if newer < before:
                        keys.append(old.encode())
                    newer = MAX_INSTANT - int(old[-16:], 16)
        if keys:
            engine.drop(MEMORIES, keys)
        return len(keys)


def put_head(update: Update, head: Head) -> None:
    update.put(MEMORIES, _HEAD, FORMAT + _encode(head))


def put_memory(update: Update, memory: Memory, old: Memory | None) -> None:
    """Replace a memory; the old one can still be seen as of then."""
    name = hashed(memory.id)
    if old is not None:
        put_past(update, name, old, memory.known)
    update.put(MEMORIES, f"m{name}".encode(), FORMAT + _encode(memory))


def put_standing(update: Update, name: str, old: Kept, standing: Standing) -> None:
    """Replace what has become of a memory's numbers, by hash(id)."""
    if old.standing is not None:
        put_past(update, name, old.standing, standing.known)
    update.put(MEMORIES, f"s{name}".encode(), FORMAT + _encode(standing))


def put_gone(update: Update, name: str, gone: Memory) -> None:
    """Say that a memory, by hash(id), was let go."""
    update.put(MEMORIES, f"g{name}".encode(), FORMAT + _encode(gone))


def put_past(update: Update, name: str, old: Memory | Standing, until: int) -> None:
    """Let something of a memory, by hash(id), be seen as of an instant before `until`."""
    if old.known < until:
        kind = "p" if isinstance(old, Memory) else "t"
        update.put(MEMORIES, f"{kind}{name}{newest_first(old.known)}".encode(), FORMAT + _encode(old))


def decode(value: bytes, kind: type, name: str) -> Any:
    """Return what stands in the store so; `name` is for the error."""
    return decoded(value, _DECODERS[kind], name)


def _memory(value: bytes) -> Memory:
    found: Memory = decode(value, Memory, "a memory")
    return found


def _standing(value: bytes) -> Standing:
    found: Standing = decode(value, Standing, "what has become of a memory")
    return found
