"""Whether a store has what was acknowledged to its workers, and nothing that none of them began; and what it holds."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence

import numpy as np
from diary import KEYS, KIND, Diary
from worker import number_of

import ntmem


def faults(memory: ntmem.MemorySystem, before: Sequence[Diary], after: Sequence[Diary]) -> Iterator[str]:
    """Yield what is wrong with a store, of a moment between two looks at the diaries."""
    for number, (least, most) in enumerate(zip(before, after, strict=True)):
        me = f"worker_{number}"

        def within(
            what: str, kind: str, found: int, least: Diary = least, most: Diary = most, me: str = me
        ) -> Iterator[str]:
            done, begun = int(least.done[KIND[kind]]), int(most.begun[KIND[kind]])
            if not done <= found <= begun:
                yield f"{me}: {found} {what}; {done} were acknowledged, {begun} begun"

        for key in range(KEYS):
            value = memory.get(("soak", me), str(key))
            found = 0 if value is None else number_of(value)
            if not int(least.keys_acked[key]) <= found <= int(most.keys_begun[key]):
                yield f"{me}: key {key} is at {found}, {least.keys_acked[key]} was acknowledged"
        pair = [memory.get(("soak", "pairs"), f"{me}-{name}") for name in "ab"]
        found = 0 if pair[0] is None else number_of(pair[0])
        if pair[0] != pair[1] or not int(least.last[KIND["pair"]]) <= found <= int(most.begun[KIND["pair"]]):
            yield f"{me}: the pair is at {found}, {least.last[KIND['pair']]} was acknowledged"
        yield from within("counted", "count", int(memory.get(("soak", "counts"), me) or b"0"))
        fills = memory.positions.fills(f"SOAK{number}")
        yield from within("fills", "fill", len(fills))
        if len(fills) and float(fills["quantity"].sum()) != memory.positions.quantity(f"SOAK{number}"):
            yield f"{me}: the position is not the sum of its fills"
        if len(set(fills["trade_id"].tolist())) != len(fills):
            yield f"{me}: a fill was counted twice"
        info = memory.observations.info(("soak", "ticks"), me)
        yield from within("observations", "append", 0 if info is None else info.rows)
        session = memory.session(f"soak-{number}")
        yield from within("times in its session", "session", int(session.get("entered", 0)))
        begun = sum(1 for _ in memory.scan(("soak", "passing"), prefix=f"{me}-"))
        if begun > int(most.begun[KIND["passing"]]):
            yield f"{me}: {begun} keys that pass"
    for what, kind, found in (
        ("guarded", "guarded", int(memory.get(("soak", "guarded"), "sum") or b"0")),
        ("trajectories", "begin", memory.trajectories.count()),
    ):
        done, begun = (
            sum(int(getattr(it, name)[KIND[kind]]) for it in of) for name, of in (("done", before), ("begun", after))
        )
        if not done <= found <= begun:
            yield f"{found} {what}; {done} were acknowledged, {begun} begun"
    yield from _orders(memory, before)
    seen = [result.seq for result in memory.consensus.decisions()]
    if seen != list(range(1, len(seen) + 1)):
        yield f"decisions are numbered {seen[:20]}"


def _orders(memory: ntmem.MemorySystem, before: Sequence[Diary]) -> Iterator[str]:
    last = [0] * len(before)
    with memory.subscribe("soak/orders/*", durable=True, since=0) as messages:
        while (message := messages.recv(timeout=0)) is not None:
            publisher, number = int(message.topic.rsplit("/")[-1]), int(message.payload)
            if number not in (last[publisher], last[publisher] + 1):
                yield f"order {number} of worker {publisher} came behind {last[publisher]}"
            last[publisher] = number
    for number, diary in enumerate(before):
        if last[number] < int(diary.done[KIND["order"]]):
            yield f"worker {number}: the last order is {last[number]}, {diary.done[KIND['order']]} was acknowledged"


def digest(memory: ntmem.MemorySystem) -> str:
    """Return a digest of what a store serves, whose writers are at rest; what expires by the clock is left out."""
    found = hashlib.blake2b()

    def add(*parts: object) -> None:
        found.update(repr(parts).encode())

    for labels in memory.namespaces():
        if labels[0] == "ntmem" or labels == ("soak", "passing"):
            continue
        for key, value in memory.scan(labels):
            record = memory.get_record(labels, key)
            assert record is not None
            add(labels, key, value, record.version, record.ts_event, record.ts_known, record.fence)
    for position in sorted(memory.positions.open_positions(), key=lambda it: it.symbol):
        add(memory.positions.to_dict(position))
        add(memory.positions.fills(position.symbol).tobytes())
    for number in range(16):
        me = f"worker_{number}"
        if memory.observations.info(("soak", "ticks"), me) is not None:
            add(me, memory.observations.range(("soak", "ticks"), me, 0, 2**62, as_of=ntmem.LATEST).tobytes())
    queries = np.random.default_rng(5).normal(size=(3, 64)).astype(np.float32)
    for labels in sorted(labels for labels in memory.vectors.collections() if labels[0] == "soak"):
        add(labels, memory.vectors.count(labels))
        for query in queries:
            exact = memory.vectors.search(labels, query, 20, as_of=ntmem.LATEST)
            add([(hit.id, hit.score, hit.metadata) for hit in exact])
    cursor = None
    while True:
        page = memory.trajectories.find(limit=100, cursor=cursor)
        add([(it.id, it.status, it.actions, it.outcomes) for it in page.trajectories])
        if (cursor := page.cursor) is None:
            break
    patterns = sorted(memory.bank.patterns(), key=lambda it: it.id)
    add([(it.id, it.action, it.support, it.outcome_mean) for it in patterns])
    for it in memory.sessions():
        add(it.name, sorted(memory.session(it.name).items()))
    add([result._asdict() for result in memory.consensus.decisions()])
    with memory.subscribe("soak/orders/*", durable=True, since=0) as messages:
        while (message := messages.recv(timeout=0)) is not None:
            add(message.topic, message.payload, message.seq)
    return found.hexdigest()
