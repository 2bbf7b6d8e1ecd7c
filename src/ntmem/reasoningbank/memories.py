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
- A memory has ``m`` or ``g``, never both; the head has the numbers of either (:mod:`ntmem.reasoningbank.forgetting`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import msgspec

from ..errors import StorageError, VersionConflict
from ..instants import MAX_INSTANT
from ..tiers.guards import MEMORIES, Situations
from .events import FORMAT, decoded, hashed, newest_first
from .ledger import mark_of
from .memory import Head, Kept, Memory, Standing, text_of
from .shelf import Shelf, Update, is_pattern
from .state import Mark

_ATTEMPTS = 100
_PAGE = 256
_HEAD = b"h"

_encode = msgspec.msgpack.Encoder().encode
_DECODERS: dict[type, Any] = {kind: msgspec.msgpack.Decoder(kind) for kind in (Memory, Standing, Head)}


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
