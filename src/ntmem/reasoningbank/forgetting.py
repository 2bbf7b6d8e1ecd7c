"""Letting a memory go: what is left of it says only that it is gone, and what it must not say to come back.

**Invariants**

- It goes in one group, on the condition of the shelf: its record, its standing, and the line of JSON that it came in.
- What it was stays as of then, unless its past goes with it.
- Its vector goes after its record: who finds one without a record passes over it. Who is killed in between forgets it
  again.
"""

from __future__ import annotations

from typing import Any

import msgspec
from msgspec.structs import replace

from ..instants import require_bool
from ..tiers.guards import INTERCHANGE, MEMORIES, Situations
from .events import hashed
from .memories import Memories, put_gone, put_head, put_memory, put_past
from .memory import Kept, Memory
from .shelf import Shelf, Update, is_pattern
from .taking import Line, decode

_TASK = 33  # how much of a line's key is of its task


def forget(memories: Memories, shelf: Shelf, memory_id: Any, *, past: bool) -> bool:
    """Do :meth:`ntmem.ReasoningBank.forget`."""
    if not isinstance(memory_id, str):
        raise TypeError(f"memory_id must be a str, was {type(memory_id).__name__}")
    if is_pattern(memory_id):
        raise ValueError(f"memory_id must be the id of a memory, {memory_id!r} is that of a pattern")
    require_bool(past, "past")
    name, went = hashed(memory_id), False

    def change(update: Update) -> list[Memory]:
        nonlocal went
        kept = memories.latest([name]).get(name)
        if kept is not None:
            let_go(update, memories, shelf, kept, past=past)
        elif past:
            for key in memories.past(name):
                update.delete(MEMORIES, key)
        went = bool(update.changes)
        return []

    memories.change(change)
    let_vectors_go(memories, shelf, name)
    return went


def let_go(update: Update, memories: Memories, shelf: Shelf, kept: Kept, *, past: bool) -> None:
    """Put it into an update that a memory goes, with its past or without."""
    it, name = kept.memory, hashed(kept.memory.id)
    known = max(shelf.engine().now(), kept.known)
    head = memories.head()
    head.memories -= 1
    head.gone += 1
    put_head(update, head)
    update.delete(MEMORIES, f"m{name}".encode())
    put_gone(update, name, Memory("", known, it.place, 0, "", "", None, None, None, None, gone=it.spoken))
    if kept.standing is not None:
        update.delete(MEMORIES, f"s{name}".encode())
    if past:
        for key in memories.past(name):
            update.delete(MEMORIES, key)
    else:
        put_past(update, name, it, known)
        if kept.standing is not None:
            put_past(update, name, kept.standing, known)
    if it.line:
        _let_line_go(update, memories, shelf, it)


def let_vectors_go(memories: Memories, shelf: Shelf, name: str) -> None:
    """Let a memory that is gone, by hash(id), not be found; one that has come back meanwhile is found again."""
    vectors = shelf.vectors()
    if memories.gone([name]):
        for labels in vectors.collections():
            if labels[:2] == MEMORIES:
                vectors.delete(Situations(int(labels[2]), MEMORIES), name)
        memories.place([each.memory for each in memories.latest([name]).values()])


def _let_line_go(update: Update, memories: Memories, shelf: Shelf, it: Memory) -> None:
    """Let the line of JSON go that a memory is an item of; its other items are memories by themselves from now on.

    The embedding of its task goes with the last line of it.
    """
    from .jsonlines import memories_of

    engine = shelf.engine()
    value = engine.get(INTERCHANGE, it.line.encode())
    if value is None:
        return
    update.delete(INTERCHANGE, it.line.encode())
    items = memories_of(it.line, msgspec.json.decode(decode(value, Line).text), None)
    for other in memories.latest([hashed(each.id) for each in items if each.id != it.id]).values():
        put_memory(update, replace(other.memory, line=""), None)
    task = it.line[:_TASK]
    if all(key == it.line for key, _ in engine.scan(INTERCHANGE, task.encode(), b"", None)):
        embedded = f"e{task[1:]}".encode()
        if engine.get(INTERCHANGE, embedded) is not None:
            update.delete(INTERCHANGE, embedded)
