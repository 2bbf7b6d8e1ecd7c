"""One history of writes under leases, done by both engines: what they leave on disk is the same."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import ntmem
from ntmem.records import Change, Fence, Policy
from ntmem.tiers.layout import Stored, id_prefix
from ntmem.tiers.tables import Tables

START = 1_700_000_000_000_000_000
SECOND = 1_000_000_000
SPACES = [("desk",), ("desk", "child"), ("past",)]
KEYS = [b"a", b"b", b"a long key" * 60]
RESOURCES = ["BTCUSDT", "é" * 100]


class Step(NamedTuple):
    """One call: `what`, and its arguments."""

    what: str
    args: tuple[Any, ...] = ()


def steps(seed: int, count: int) -> Iterator[Step]:
    """Return random steps."""
    chance = random.Random(seed)
    for _ in range(count):
        kind = chance.choices(
            ["commit", "lock", "wait", "flush", "retain", "delete_namespace", "huge"], [70, 12, 10, 5, 2, 1, 1]
        )[0]
        fenced = chance.random() < 0.6
        match kind:
            case "commit":
                changes = tuple(_change(chance) for _ in range(chance.choice([1, 1, 1, 2, 4])))
                yield Step("commit", (changes, chance.choice(RESOURCES) if fenced else None))
            case "huge":
                space = chance.choice(SPACES)
                mapping = tuple(Change("put", space, b"key %d" % number, bytes(90)) for number in range(700))
                yield Step("commit", (mapping, RESOURCES[0] if fenced else None))
            case "lock":
                yield Step("lock", (chance.choice(RESOURCES),))
            case "wait":
                yield Step("wait", (chance.choice([1, SECOND, 60 * SECOND]),))
            case "retain":
                yield Step("retain", (SPACES[2], chance.random() < 0.8))
            case "delete_namespace":
                yield Step("delete_namespace", (chance.choice(SPACES),))
            case _:
                yield Step(kind)


def _change(chance: random.Random) -> Change:
    kind = chance.choice(["put", "put", "put", "add", "incr", "delete"])
    return Change(
        kind,  # type: ignore[arg-type]
        chance.choice(SPACES),
        chance.choice(KEYS),
        b"%d" % chance.randrange(100) if chance.random() < 0.8 else bytes(chance.choice([0, 100, 9_000, 70_000])),
        delta=chance.randrange(-5, 5) if kind == "incr" else 0,
        ttl_ns=chance.choice([None, None, 30 * SECOND]) if kind in ("put", "add") else None,
        if_version=chance.choice([None, None, None, 0]) if kind in ("put", "delete") else None,
        ts_event=chance.choice([None, 5]) if kind != "delete" else None,
    )


class Both:
    """The shared engine, whose locks are real, and the other, which is given the fences that they have."""

    def __init__(self, ours: ntmem.MemorySystem, theirs: ntmem.MemorySystem, clocks: list[ntmem.SimulatedClock]):
        self.ours = ours
        self.theirs = theirs
        self.clocks = clocks
        self.held = {resource: ours.acquire_lock(resource, ttl=3600) for resource in RESOURCES}

    def do(self, step: Step) -> None:
        """Do it to both; what comes of it is the same."""
        if step.what == "lock":
            assert self.ours.release_lock(self.held[step.args[0]])
            self.held[step.args[0]] = self.ours.acquire_lock(step.args[0], ttl=3600)
        elif step.what == "wait":
            for clock in self.clocks:
                clock.set(clock.now() + step.args[0])
        elif step.what == "flush":
            self.ours.flush()
        elif step.what == "commit":
            changes, resource = step.args
            fence = None if resource is None else self.held[resource].fence
            mine = _outcome(lambda: self._commit(changes, fence))
            other = _outcome(
                lambda: [
                    (outcome.version > 0, outcome.number)
                    for outcome in self.theirs._engine()._write_all(changes, fence, lambda tables: None)
                ]
            )
            assert mine == other, step
        else:
            for memory in (self.ours, self.theirs):
                if step.what == "retain":
                    memory._engine().retain(step.args[0], Policy(step.args[1]))
                else:
                    memory.delete_namespace(*step.args)

    def _commit(self, changes: tuple[Change, ...], fence: Fence | None) -> list[tuple[bool, int]]:
        [first, *rest] = changes
        if not rest and first.kind == "put" and (first.ttl_ns, first.if_version, first.ts_event) == (None, None, None):
            version = self.ours.put(first.namespace, first.key.decode(), first.value, fence=fence)  # natively
            return [(version > 0, 0)]
        return [(outcome.version > 0, outcome.number) for outcome in self.ours.commit(changes, fence)]

    def compare(self) -> None:
        """See that everything on disk is the same but for numbers that only have to be in the same order."""
        self.ours.flush()
        ours, theirs = _rows(self.ours), _rows(self.theirs)
        for space, (row, kept) in theirs.items():
            assert ours[space][0][1:] == row[1:], space
            assert ours[space][0][0] >= row[0], space  # noted before it is written, be that refused
            assert ours[space][1] == kept, space


def _outcome(function: Any) -> Any:
    try:
        return function()
    except ntmem.NtmemError as error:
        text = str(error) if isinstance(error, ntmem.StaleFence) else ""
        return type(error).__name__, text


def _rows(memory: ntmem.MemorySystem) -> dict[tuple[str, ...], Any]:
    engine = memory._engine()
    now = memory.now()

    def look(txn: Any) -> dict[tuple[str, ...], Any]:
        tables = Tables(engine.store, txn)
        found = {}
        for labels in SPACES:
            row = tables.namespace(labels)
            if row is None:
                continue
            kept: list[tuple[bytes, Stored]] = [*tables.records_from(id_prefix(row.id), id_prefix(row.id))]
            live = [
                (key[8:], stored) for key, stored in kept if not stored.expired(now)
            ]  # who sweeps, and when, differs
            past = [*tables.past(row.id)]
            versions = sorted({stored.version for _, stored in live} | {stored.version for _, stored in past})
            facts = row.is_guarded, row.owner, row.policy, row.history_bytes, row.history_since
            found[labels] = (
                facts,
                [
                    (key, stored._replace(version=versions.index(stored.version), value=bytes(stored.value)))
                    for key, stored in [*live, *((b"", stored) for _, stored in past)]
                ],
            )
        return found

    return engine.store.read(look)


@contextlib.contextmanager
def both(directory: Path, **config: Any) -> Iterator[Both]:
    """Give a store of each engine."""
    clocks = [ntmem.SimulatedClock(START), ntmem.SimulatedClock(START)]
    with (
        ntmem.open(directory / "ours", engine="shared", clock=clocks[0], agent_id="agent_1", **config) as ours,
        ntmem.open(directory / "theirs", engine="lmdb", clock=clocks[1], agent_id="agent_1", **config) as theirs,
    ):
        yield Both(ours, theirs, clocks)
