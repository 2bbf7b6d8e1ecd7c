"""Compares a store with the journals of those who wrote to it; says in sentences what does not fit.

Versions give the one order of everything. `cut` is the newest version that the store may have: None when it must have
all that was acknowledged; after a loss of power the sequence number that the data file says of itself, and then it must
be exactly the beginning of that order.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterable
from itertools import accumulate
from pathlib import Path
from typing import Any

import journal as j
from journal import Operation, Torn, origin_of, read_journal
from worker import BOTH, HISTORY, HISTORY_KEYS, PRIVATE, SHARED, SHARED_KEYS, WHOLE, WHOLE_KEYS

MOST = 12  # sentences
SEQUENCE = (1 << 44) - 1
"""The part of a version that counts on when a generation begins."""
_NEVER = 1 << 62
_PUTS_OF_HISTORY = {j.HISTORY, j.HISTORY_LARGE}
_WHOLE = {j.TRANSACTION, j.PAST}
Origin = tuple[int, int]


class Judge:
    """The journals of one store."""

    def __init__(self, files: Path) -> None:
        self.faults: list[str] = []
        paths = [path for path in files.iterdir() if path.name.isdigit()]
        self.journals = {int(path.name): list(read_journal(path)) for path in paths}
        self.acknowledged = sum(1 for operation in self.all() if operation.end)

    def all(self) -> Iterable[Operation]:
        return (operation for operations in self.journals.values() for operation in operations)

    def fault(self, sentence: str) -> None:
        if len(self.faults) < MOST:
            self.faults.append(sentence)

    def operation(self, origin: Origin) -> Operation | None:
        operations = self.journals.get(origin[0], [])
        return operations[origin[1] - 1] if 0 < origin[1] <= len(operations) else None

    # -- what the journals say by themselves

    def judge_order(self) -> None:
        """See that versions and numbers are unique and rise with time."""
        versions = [o for o in self.all() if o.end and o.kind in j.VERSIONED and o.result]
        self._rises("version", versions)
        self._rises("count", [o for o in self.all() if o.end and o.kind == j.COUNT])

    def _rises(self, what: str, operations: list[Operation]) -> None:
        known: dict[int, Operation] = {}
        for operation in operations:
            other = known.setdefault(operation.result, operation)
            if other is not operation:
                self.fault(f"{what} given twice: {other}; {operation}")
        ended = sorted(operations, key=lambda o: o.end)
        most, at = 0, 0
        for operation in sorted(operations, key=lambda o: o.begin):
            while at < len(ended) and ended[at].end < operation.begin:
                most = max(most, ended[at].result)
                at += 1
            if operation.result <= most:
                self.fault(f"{what} fell from {most}: {operation}")

    def judge_reads(self, versions: dict[str, dict[Origin, int]]) -> None:
        """See that no read was older than what was known before it began, or of what nobody had begun."""
        floors = {name: _Floor(self._known(name, versions[name])) for name in versions}
        for read in self.all():
            if not read.end or read.kind not in (j.READ_HISTORY, j.READ_TRANSACTION):
                continue
            name = f"h{read.key}" if read.kind == j.READ_HISTORY else BOTH[0]
            origin = (read.seen >> 32, read.seen & 0xFFFFFFFF)
            least = floors[name].before(read.begin)
            if origin == (0, 0):
                if least:
                    self.fault(f"{read} found nothing, and version {least} was known")
                continue
            write = self.operation(origin)
            version = versions[name].get(origin)
            if write is None or version is None or write.begin > read.end:
                self.fault(f"{read} returned what is not there: {origin}, {write}")
            elif version < least:
                self.fault(f"stale: {read} returned version {version} of {write}, and {least} was known")
            elif read.kind == j.READ_HISTORY and read.result and read.result != version:
                self.fault(f"{read} says version {read.result} of {write}, which has {version}")

    def _known(self, name: str, versions: dict[Origin, int]) -> list[tuple[int, int]]:
        """Return when a version of a key was known to be there: written, or read."""
        kinds, reads = (_WHOLE, j.READ_TRANSACTION) if name in BOTH else (_PUTS_OF_HISTORY, j.READ_HISTORY)
        known = []
        for operation in self.all():
            if not operation.end or not (name in BOTH or f"h{operation.key}" == name):
                continue
            origin = (operation.writer, operation.number)
            if operation.kind == reads:
                origin = (operation.seen >> 32, operation.seen & 0xFFFFFFFF)
            elif operation.kind not in kinds:
                continue
            if origin in versions:
                known.append((operation.end, versions[origin]))
        return known

    # -- and the store

    def judge_store(self, memory: Any, cut: int | None = None) -> None:
        """See that the store has what the journals say."""
        try:
            versions = self._judge_history(memory, cut)
            if cut is None:
                self.judge_reads(versions)
            self._judge_whole(memory, versions[BOTH[0]])
            self._judge_shared(memory, cut)
            self._judge_private(memory, cut)
            self._judge_count(memory, cut)
        except Torn as error:
            self.fault(f"torn: {error}")

    def _judge_history(self, memory: Any, cut: int | None) -> dict[str, dict[Origin, int]]:
        found: dict[str, dict[Origin, int]] = {}
        for name in (*(f"h{n}" for n in range(HISTORY_KEYS)), *BOTH):
            present: dict[Origin, int] = {}
            records = memory.history(HISTORY, name, limit=1 << 20)
            if [r.version for r in records] != sorted({r.version for r in records}, reverse=True):
                self.fault(f"the versions of {name} are not in order")
            for record in records:
                origin = origin_of(record.value)
                if origin in present:
                    self.fault(f"{origin} is there twice, as {present[origin]} and {record.version} of {name}")
                present[origin] = record.version
                self._judge_present(name, origin, record.version, cut)
            if records and memory.get(HISTORY, name) != records[0].value:
                self.fault(f"get of {name} is not its newest version")
            found[name] = present
        for operation in self.all():
            names = BOTH if operation.kind in _WHOLE else [f"h{operation.key}"]
            if not operation.end or operation.kind not in _PUTS_OF_HISTORY | _WHOLE:
                continue
            if _is_before(operation, cut):
                for name in names:
                    if (operation.writer, operation.number) not in found[name]:
                        self.fault(f"lost: {operation} of {name}")
        self._judge_unique(found)
        if found[BOTH[0]].keys() != found[BOTH[1]].keys():
            self.fault(f"torn transactions: {dict(found[BOTH[0]].items() ^ found[BOTH[1]].items())}")
        return found

    def _judge_unique(self, found: dict[str, dict[Origin, int]]) -> None:
        """See that no version was given twice, be it to a writer who died before it was told."""
        owners: dict[int, tuple[str, Origin]] = {}
        for name, present in found.items():
            for origin, version in present.items():
                other = owners.setdefault(version, (name, origin))
                if other != (name, origin):
                    self.fault(f"version {version} is that of {origin} under {name} and of {other[1]} under {other[0]}")
        for operation in self.all():
            if operation.end and operation.kind in j.VERSIONED and operation.result in owners:
                name, origin = owners[operation.result]
                if origin != (operation.writer, operation.number):
                    self.fault(f"{operation} has the version of {origin} under {name}")

    def _judge_present(self, name: str, origin: Origin, version: int, cut: int | None) -> None:
        operation = self.operation(origin)
        if operation is None:
            self.fault(f"{name} has version {version} of {origin}, which nobody has begun")
        elif operation.end and operation.kind in _PUTS_OF_HISTORY and version != operation.result:
            self.fault(f"{operation} has version {version} in the store")
        elif cut is not None and version & SEQUENCE > cut:
            self.fault(f"{operation} is there and newer than {cut}")

    def _judge_whole(self, memory: Any, versions: dict[Origin, int]) -> None:
        newest = max(versions, key=lambda origin: versions[origin], default=None)
        singly = {key: memory.get(WHOLE, key) for key in WHOLE_KEYS}
        many = memory.get_many(WHOLE, WHOLE_KEYS)
        scanned = dict(memory.scan(WHOLE))
        for values in (singly, many, scanned):
            origins = {None if values.get(key) is None else origin_of(values[key]) for key in WHOLE_KEYS}
            if origins != {newest}:
                self.fault(f"the keys of all transactions have {origins}, the newest is {newest}")

    def _judge_shared(self, memory: Any, cut: int | None) -> None:
        for key in range(SHARED_KEYS):
            writes = [o for o in self.all() if o.kind in (j.SHARED, j.SHARED_CAS) and o.key == key]
            told = {o.result: o for o in writes if o.end and o.result and _is_before(o, cut)}
            deletes = [o for o in self.all() if o.kind == j.SHARED_DELETE and o.key == key]
            last = told[max(told)] if told else None
            record = memory.get_record(SHARED, f"s{key}")
            if record is None:
                if last is not None and not any(not d.end or d.end > last.begin for d in deletes):
                    self.fault(f"lost: {last}, the last of its key, which nobody has deleted since")
                continue
            origin = origin_of(record.value)
            write = self.operation(origin)
            if write is None or write.key != key or write not in writes:
                self.fault(f"shared key {key} has {origin}, which is {write}")
            elif record.version < max(told, default=0):
                self.fault(f"lost: {last}; its key has the older version {record.version}")
            elif write.end and write.result != record.version:
                self.fault(f"{write} has version {record.version} in the store")
            elif cut is None and any(d.end and d.begin > (write.end or _NEVER) for d in deletes):
                self.fault(f"{write} is there, and was deleted since")

    def _judge_private(self, memory: Any, cut: int | None) -> None:
        state: dict[int, dict[int, int]] = defaultdict(dict)
        for name, value in memory.scan(PRIVATE):
            writer, _, key = name.partition(".")
            if key == "n":
                state[int(writer)][-1] = int(value)
            elif key.isdigit():
                origin = origin_of(value)
                state[int(writer)][int(key)] = origin[1]
                if origin[0] != int(writer):
                    self.fault(f"private key {name} has a value of {origin}")
                if memory.get(PRIVATE, name) != value:
                    self.fault(f"get and scan differ at private key {name}")
        for writer, operations in self.journals.items():
            first, last = _range_of(operations, cut)
            now: dict[int, int] = {}
            states = [dict(now)] if first == 0 else []
            for done, operation in enumerate(operations[:last], 1):
                _apply(now, operation)
                if done >= first:
                    states.append(dict(now))
            if state[writer] not in states:
                self.fault(
                    f"private keys of {writer} are {state[writer]}, expected {states[0]} after {first} operations"
                    f" ... {states[-1]} after {last}; the last: {operations[last - 1] if last else None}"
                )
        for writer in state.keys() - self.journals.keys():
            if state[writer]:
                self.fault(f"keys of {writer}, who never was")

    def _judge_count(self, memory: Any, cut: int | None) -> None:
        number = int(memory.get(SHARED, "count", b"0"))
        counts = [o for o in self.all() if o.kind == j.COUNT]
        if number > len(counts):
            self.fault(f"counted to {number} in {len(counts)} steps")
        for operations in self.journals.values():
            first, last = _range_of(operations, cut)
            for done, operation in enumerate(operations, 1):
                if operation.kind != j.COUNT or not operation.end:
                    continue
                if done <= first and operation.result > number:
                    self.fault(f"lost: {operation}; the count is {number}")
                if done > last and operation.result <= number:
                    self.fault(f"{operation} is there and newer than {cut}; the count is {number}")


class _Floor:
    """The highest version acknowledged before a time."""

    def __init__(self, writes: list[tuple[int, int]]) -> None:
        """Take the times at which writes were acknowledged, and their versions."""
        writes.sort()
        self.ends = [end for end, _ in writes]
        self.most = list(accumulate((version for _, version in writes), max))

    def before(self, time: int) -> int:
        at = bisect_left(self.ends, time)
        return self.most[at - 1] if at else 0


def _is_before(operation: Operation, cut: int | None) -> bool:
    return cut is None or operation.result & SEQUENCE <= cut


def _range_of(operations: list[Operation], cut: int | None) -> tuple[int, int]:
    """Return how many operations of a writer must have been done, and how many may."""
    first = len(operations)
    if first and not operations[-1].end:
        first -= 1
    last = len(operations)
    if cut is not None:
        first = 0
        for done, operation in enumerate(operations, 1):
            if operation.end and operation.result and operation.kind in j.VERSIONED:
                if _is_before(operation, cut):
                    first = done
                else:
                    last = done - 1
                    break
    return first, last


def _apply(state: dict[int, int], operation: Operation) -> None:
    kind, key = operation.kind, operation.key
    if kind in (j.PUT, j.CAS, j.TTL, j.LARGE) or (kind == j.ADD and key not in state):
        state[key] = operation.number
    elif kind == j.DELETE:
        state.pop(key, None)
    elif kind == j.INCR:
        state[-1] = state.get(-1, 0) + 1


def durable_floor(journals: dict[int, list[Operation]], before: int) -> int:
    """Return the highest sequence number that a writer knew to be on disk at a time."""
    floor = 0
    for operations in journals.values():
        last = 0
        for operation in operations:
            if operation.end and operation.kind in j.VERSIONED:
                last = max(last, operation.result & SEQUENCE)
            elif operation.kind == j.FLUSH and operation.end and operation.end < before:
                floor = max(floor, last)
    return floor
