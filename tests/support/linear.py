"""Is a recorded history of several processes linearizable? Wing and Gong's question, with Lowe's answers.

:func:`check` takes the operations of all processes on all keys and returns None or a :class:`Violation` that a person
can read. Keys are checked one by one, since linearizability is compositional; that versions are unique and follow
real time is checked across all of them. An operation without an end is *pending*: its process died, it may have taken
effect at any time after its beginning, or never.

**Model of a key**: absent, or a value with a version. A put returns its version, which is above every version before.
What `add` and pending writes write has a version too, but nobody was told: it is above the last one that was, and
fixed by the first who sees it. :func:`step` is that model; the two searches below share it.

- :func:`reference`: depth first over all orders, remembering (operations done, state). Obviously right, exponential.
- :func:`_first_unexplained`: forward through time with the set of all *possibilities* (state, open operations done).
  Operations are done as late as possible: when one returns and is not done in a possibility, every order of open
  operations that ends with it is tried. What keeps the set small:

  1. a read is done as soon as a state answers it, since that changes nothing and waiting cannot help;
  2. acknowledged puts are done in the order of their versions;
  3. of two possibilities that differ only in pending writes used, the one that used fewer can do all the other can;
  4. a pending write is not used when nothing sees it before it is overwritten;
  5. pending writes that nobody ever saw are interchangeable.

G. Lowe, "Testing for linearizability", 2017; J. Wing, C. Gong, "Testing and verifying concurrent objects", 1993.
"""

from __future__ import annotations

import heapq
from collections.abc import Collection, Hashable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

Kind = Literal["get", "get_record", "put", "add", "delete"]


class Conflict(NamedTuple):
    """What ``put(if_version=...)`` found instead; 0: the key does not exist."""

    found: int


class Operation(NamedTuple):
    """One call and what it returned.

    The result of get is a value or None, of get_record (value, version) or None, of put a version or a
    :class:`Conflict`, of add and delete a bool. The times are of one clock; without an end there is no result.
    """

    process: Hashable
    kind: Kind
    key: Hashable
    begin: int
    end: int | None
    value: Hashable = None
    if_version: int | None = None
    result: Any = None

    def __str__(self) -> str:
        given = [repr(argument) for argument in (self.key, self.value) if argument is not None]
        if self.if_version is not None:
            given.append(f"if_version={self.if_version}")
        result = "pending: its process died" if self.end is None else repr(self.result)
        return f"{self.kind}({', '.join(given)}) -> {result}"


@dataclass(frozen=True)
class Violation:
    """Why a history is not linearizable.

    `window` suffices for the contradiction, whatever was before it; `culprit` is the first operation in time whose
    result no order explains.
    """

    reason: str
    culprit: Operation
    window: list[Operation]

    def __str__(self) -> str:
        start = min(operation.begin for operation in self.window)
        lines = [f"not linearizable: {self.reason}"]
        for operation in self.window:
            end = "        ..." if operation.end is None else f"{(operation.end - start) / 1e3:11.3f}"
            mark = ">" if operation is self.culprit else " "
            lines.append(f"{mark} {(operation.begin - start) / 1e3:11.3f} {end} us  {operation.process}: {operation}")
        return "\n".join(lines)


class Undecided(Exception):
    """A history with more possibilities than can be followed."""


def check(history: Iterable[Operation]) -> Violation | None:
    """Return what is wrong with a history in which at first no key exists, or None."""
    operations = list(history)
    keys: dict[Hashable, list[Operation]] = {}
    for operation in operations:
        keys.setdefault(operation.key, []).append(operation)
    return check_versions(operations) or next(filter(None, map(_check_key, keys.values())), None)


def check_versions(operations: Sequence[Operation]) -> Violation | None:
    """Versions are given once, and whoever begins to write when a version is known to anyone gets a higher one."""
    given: dict[int, Operation] = {}
    for operation in operations:
        if isinstance(operation.result, int) and operation.kind == "put":
            other = given.setdefault(operation.result, operation)
            if other is not operation:
                reason = f"version {operation.result} was given twice"
                return Violation(reason, operation, sorted([other, operation], key=_begin))
    seen = dict(given)
    known = [(operation.end, version, n) for n, operation in enumerate(operations) if (version := _told(operation))]
    for _, version, n in known:
        other = seen.setdefault(version, operations[n])
        if other.key != operations[n].key:
            reason = f"version {version} belongs to two keys"
            return Violation(reason, operations[n], sorted([other, operations[n]], key=_begin))
    heapq.heapify(known)  # by the end: what is known at a time
    newest, witness = 0, 0
    for version, operation in sorted(given.items(), key=lambda item: item[1].begin):
        while known and known[0][0] < operation.begin:
            newest, witness = max((newest, witness), heapq.heappop(known)[1:])
        if newest >= version:
            reason = f"version {version} was given after {newest} was known: versions do not follow real time"
            return Violation(reason, operation, [operations[witness], operation])
    return None


def _told(operation: Operation) -> int:
    """The version that an operation told its caller."""
    if operation.kind == "put":
        return operation.result.found if isinstance(operation.result, Conflict) else operation.result or 0
    return operation.result[1] if operation.kind == "get_record" and operation.result else 0


def _begin(operation: Operation) -> int:
    return operation.begin


# -- the model


class _Mark:
    def __init__(self, name: str) -> None:
        self.name = name

    def __repr__(self) -> str:
        return self.name


ABSENT, SOME, ANY = _Mark("absent"), _Mark("some value"), _Mark("a value or absent")
UNSEEN = _Mark("a value that nobody saw")

State = tuple[Any, int | None, int]
"""A value or a mark, its version (None: nobody was told yet), the highest version known to have been given."""

EMPTY: State = (ABSENT, 0, 0)
UNKNOWN: State = (ANY, None, -1)

SEES_VALUE, SEES_ABSENT, SEES_PRESENT, SEES_VERSION, SEES_RECORD, NEVER, PUT, PUT_IF, PUT_ABSENT, DELETE = range(10)


class _Op:
    """An operation as what it sees and what it does. `sees` is a version seen, `gives` the one given, if told."""

    __slots__ = ("bit", "code", "gives", "operation", "sees", "value")

    def __init__(self, operation: Operation) -> None:
        self.operation = operation
        self.bit = self.sees = 0
        self.gives: int | None = None
        self.value = operation.value
        self.code = self._understand(operation)

    def _understand(self, operation: Operation) -> int:
        kind, result, pending = operation.kind, operation.result, operation.end is None
        if kind in ("get", "get_record"):
            if result is None:
                return SEES_ABSENT
            self.value, self.sees = (result, 0) if kind == "get" else result
            return SEES_VALUE if kind == "get" else SEES_RECORD
        if kind == "add":
            return PUT_ABSENT if pending or result else SEES_PRESENT
        if kind == "delete":
            return DELETE if pending or result else SEES_ABSENT
        expected = operation.if_version
        if isinstance(result, Conflict):
            self.sees = result.found
            if result.found == expected or expected is None:
                return NEVER
            return SEES_VERSION if result.found else SEES_ABSENT
        self.gives, self.sees = result, expected or 0
        return PUT if expected is None else PUT_IF if expected else PUT_ABSENT


def step(state: State, op: _Op) -> State | None:
    """Return the state after an operation, None if its result could not be; `state` itself if nothing changes."""
    value, version, newest = state
    code = op.code
    if code == SEES_VALUE:
        if value == op.value:
            return state
        return (op.value, version, newest) if value is SOME or value is ANY else None
    if code == PUT:
        return _written(op, newest)
    if code in (SEES_ABSENT, PUT_ABSENT):
        if value is not ABSENT and value is not ANY:
            return None
        if code == PUT_ABSENT:
            return _written(op, newest)
        return state if value is ABSENT else (ABSENT, 0, newest)
    if code in (SEES_PRESENT, DELETE):
        if value is ABSENT:
            return None
        if code == DELETE:
            return (ABSENT, 0, newest)
        return (SOME, version, newest) if value is ANY else state
    if value is ABSENT or code == NEVER:
        return None
    if version != op.sees:
        if version is not None or op.sees <= newest:
            return None
        version = newest = op.sees
        state = (SOME if value is ANY else value, version, newest)
    if code == SEES_RECORD and value != op.value:
        return (op.value, version, newest) if value is SOME or value is ANY else None
    return _written(op, newest) if code == PUT_IF else state


def _written(op: _Op, newest: int) -> State | None:
    if op.gives is None:
        return (op.value, None, newest)
    return (op.value, op.gives, op.gives) if op.gives > newest else None


# -- the searches


def _understood(operations: Iterable[Operation]) -> list[_Op]:
    """Without pending reads: they neither changed nor told anything."""
    return [_Op(it) for it in operations if it.end is not None or it.kind not in ("get", "get_record")]


def reference(operations: Iterable[Operation]) -> bool:
    """Whether the history of one key is linearizable, by trying every order. For histories of some ten operations."""
    ops = _understood(operations)
    must = sum(1 << n for n, op in enumerate(ops) if op.operation.end is not None)
    stack = [(0, EMPTY)]
    seen = {(0, EMPTY)}
    while stack:
        done, state = stack.pop()
        if done & must == must:
            return True
        ends = (op.operation.end for n, op in enumerate(ops) if must & ~done & 1 << n)
        first_end = min(end for end in ends if end is not None)
        for n, op in enumerate(ops):
            if not done & 1 << n and op.operation.begin <= first_end:
                after = step(state, op)
                if after is not None and (there := (done | 1 << n, after)) not in seen:
                    seen.add(there)
                    stack.append(there)
    return False


class _Search:
    """The possibilities at one moment of a key's history. Nobody knows whether `free` operations took effect."""

    MOST = 50_000

    def __init__(self, ops: Sequence[_Op], initial: State, free: Collection[_Op] = ()) -> None:
        self.ops = ops
        self.free = free
        self.possible: list[tuple[State, int]] = [(initial, 0)]  # and which open operations it has done, by their bits
        self.open: list[_Op] = []
        self.pending: dict[tuple[int, int, Any], list[_Op]] = {}  # interchangeable ones together
        self.pending_bits = 0
        self.seen = {op.value for op in ops if op.code in (SEES_VALUE, SEES_RECORD)}

    def run(self, until: _Op | None = None) -> _Op | None:
        """Return the first operation in time that no possibility explains."""
        events = [(op.operation.begin, 0, n) for n, op in enumerate(self.ops)]
        events += [(op.operation.end, 1, n) for n, op in enumerate(self.ops) if op.operation.end is not None]
        events.sort()  # what ends when another begins is concurrent with it
        unused: list[int] = []
        bits = 0
        for _, ends, n in events:
            op = self.ops[n]
            if not ends:
                if not unused:
                    unused.append(1 << bits)
                    bits += 1
                op.bit = unused.pop()
                self._begin(op)
            else:
                self._return(op)
                if not self.possible:
                    return op
                if op is until:
                    return None
                unused.append(op.bit)
        return None

    def _begin(self, op: _Op) -> None:
        if op.operation.end is None:
            self._forget_pending()
            self.pending_bits |= op.bit
            if op.value not in self.seen:
                op.value = UNSEEN
            self.pending.setdefault((op.code, op.sees, op.value), []).append(op)
            return
        self.open.append(op)
        if op.code < NEVER:
            bit = op.bit
            self.possible = [(state, done | bit if step(state, op) is state else done) for state, done in self.possible]

    def _forget_pending(self) -> None:
        """Forget pending writes that are used, or from a version that is history, in every possibility."""
        oldest = min(state[2] for state, _ in self.possible)
        used = self.pending_bits
        for _, done in self.possible:
            used &= done
        for group, ops in list(self.pending.items()):
            ops[:] = [op for op in ops if not op.bit & used]
            if not ops or (group[0] == PUT_IF and group[1] < oldest):
                del self.pending[group]

    def _return(self, op: _Op) -> None:
        bit = op.bit
        after: list[tuple[State, int]] = []
        for state, done in self.possible:
            if done & bit:
                after.append((state, done ^ bit))
            else:
                if op in self.free:
                    after.append((state, done))
                after += self._orders(state, done, op)
        self.open.remove(op)
        self.possible = after if len(after) < 2 else self._best(after)
        if len(self.possible) > self.MOST:
            raise Undecided(f"more than {self.MOST} possibilities at {op.operation}")

    def _best(self, possible: list[tuple[State, int]]) -> list[tuple[State, int]]:
        best: dict[tuple[State, int], list[int]] = {}
        for state, done in possible:
            self._is_better(best, state, done)
        return [(state, done | used) for (state, done), kept in best.items() for used in kept]

    def _orders(self, state: State, done: int, target: _Op) -> list[tuple[State, int]]:
        """Return what is possible after `target` is done, with any open operations before it."""
        if target.code == PUT and not any(not done & op.bit for op in self.open if op is not target):
            after = step(state, target)
            return [] if after is None else [(after, done)]
        found: list[tuple[State, int]] = []
        known: dict[tuple[State, int], list[int]] = {}
        levels: list[list[tuple[State, int, State | None]]] = [[(state, done, None)]]  # by pending writes used here
        for level in levels:
            while level:
                # `unseen`: the state before a pending write that nothing has seen yet.
                state, done, unseen = level.pop()
                for op in self._candidates(done):
                    pending = op.operation.end is None
                    after = step(state, op)
                    if after is None or (unseen is not None and after == (unseen if pending else step(unseen, op))):
                        continue
                    if op.gives is not None and self._comes_too_early(op, done):
                        continue
                    if pending and not self._is_noticed(state, after, done | op.bit):
                        continue
                    answered = done | op.bit
                    for read in self.open:
                        if read.code < NEVER and not answered & read.bit and step(after, read) is after:
                            answered |= read.bit
                    if not self._is_better(known, after, answered):
                        continue
                    if answered & target.bit:
                        found.append((after, answered ^ target.bit))
                    elif pending:
                        if level is levels[-1]:
                            levels.append([])
                        levels[-1].append((after, answered, state if answered == done | op.bit else None))
                    else:
                        level.append((after, answered, None))
        return found

    def _is_noticed(self, state: State, after: State, done: int) -> bool:
        """Whether the next operation can go otherwise `after` a pending write than it would in the `state` before."""
        for op in self._candidates(done):
            then = step(after, op)
            if then is not None and then != step(state, op):
                if op.operation.end is not None:
                    return True
                if then != state and self._is_noticed(after, then, done | op.bit):
                    return True
        return False

    def _is_better(self, known: dict[tuple[State, int], list[int]], state: State, done: int) -> bool:
        """Keep a possibility in `known` unless one is there that used no pending write that it did not."""
        used = done & self.pending_bits
        kept = known.setdefault((state, done ^ used), [])
        if any(other & used == other for other in kept):
            return False
        kept[:] = [other for other in kept if used & other != used] + [used]
        return True

    def _candidates(self, done: int) -> list[_Op]:
        candidates = [op for op in self.open if not done & op.bit]
        for group in self.pending.values():
            for op in group:
                if not done & op.bit:
                    candidates.append(op)
                    break
        return candidates

    def _comes_too_early(self, op: _Op, done: int) -> bool:
        """Whether an open put with a lower version is still to be done."""
        for other in self.open:
            if other.gives is not None and other.gives < op.gives and not done & other.bit and other not in self.free:
                return True
        return False


# -- the explanation


def _check_key(operations: Sequence[Operation]) -> Violation | None:
    ops = _understood(operations)
    culprit = _Search(ops, EMPTY).run()
    if culprit is None:
        return None
    window = sorted(_window(ops, culprit), key=_begin)
    return Violation(_reason(operations, culprit), culprit.operation, window)


def _window(ops: list[_Op], culprit: _Op) -> list[Operation]:
    """Return few operations up to `culprit` that contradict each other whatever the key was before them."""
    last = culprit.operation.end
    assert last is not None
    earlier = sorted((op for op in ops if op.operation.begin <= last), key=lambda op: op.operation.begin)

    def since(count: int) -> tuple[list[_Op], set[_Op]]:
        start = earlier[-count].operation.begin
        inside = [op for op in earlier if op.operation.end is None or op.operation.end >= start]
        # Of what was running then, nobody knows whether it took effect before.
        free = {op for op in inside if op.operation.begin < start}
        return [op for op in inside if op not in free or op.code >= NEVER], free

    def contradicts(inside: list[_Op], free: set[_Op]) -> bool:
        return _Search(inside, UNKNOWN, free).run(culprit) is not None

    count = 1
    while count < len(earlier) and not contradicts(*since(count)):
        count *= 2
    if count >= len(earlier):
        return [op.operation for op in earlier]
    least = count // 2
    while count - least > 1:
        middle = (count + least) // 2
        count, least = (middle, least) if contradicts(*since(middle)) else (count, middle)
    inside, free = since(count)
    for op in inside[:]:
        if op.code < NEVER and op is not culprit and contradicts(rest := [it for it in inside if it is not op], free):
            inside = rest
    # Older pending writes belong to the proof, since none of them explains the culprit, but tell the reader nothing.
    start = earlier[-count].operation.begin
    return [op.operation for op in inside if op.operation.end is not None or op.operation.begin >= start]


def _reason(operations: Sequence[Operation], culprit: _Op) -> str:
    """Say in words what the contradiction most likely is."""
    it, code = culprit.operation, culprit.code
    assert it.end is not None
    before = [other for other in operations if other.end is not None and other.end < it.begin]
    if code == NEVER:
        return f"{it} reports a conflict with the version it asked for"
    if code in (SEES_VALUE, SEES_RECORD):
        return _reason_of_read(operations, before, culprit)
    if code == PUT_IF:
        rivals = [other for other in operations if other is not it and other.if_version == it.if_version]
        rivals = [other for other in rivals if isinstance(other.result, int)]
        if rivals:
            return f"lost update: {rivals[0]} and {it} both replaced version {it.if_version}"
        return f"{it} replaced version {it.if_version}, which was not the key's version then"
    if code in (SEES_ABSENT, PUT_ABSENT):
        lost = [op for op in before if op.kind in ("put", "add") and op.result and not isinstance(op.result, Conflict)]
        if lost:
            write = max(lost, key=lambda op: op.end or 0)
            return f"lost write: {write} had returned, nothing deleted it, and {it} found no key"
        return f"{it} found no key, though one had been seen and nothing deleted it"
    if code in (SEES_PRESENT, DELETE):
        return f"{it} found a key where none could be: a delete that did not stick, or a value from nowhere"
    if code == SEES_VERSION:
        return f"{it} found a version that the key did not have at any time of the call"
    newer = [op for op in before if _told(op) >= (culprit.gives or 0)]
    return f"{it} got a version that is not above that of {newer[0]}" if newer else f"no order explains {it}"


def _reason_of_read(operations: Sequence[Operation], before: list[Operation], culprit: _Op) -> str:
    it, value = culprit.operation, culprit.value
    writes = [op for op in operations if op.kind in ("put", "add") and op.value == value]
    writes = [op for op in writes if op.result is not False and not isinstance(op.result, Conflict)]
    if not writes:
        return f"value from nowhere: nobody wrote what {it} saw"
    write = min(writes, key=_begin)
    if it.end is not None and write.begin > it.end:
        return f"{it} saw a value before {write} began to write it"
    given = write.result if write.kind == "put" else None
    if culprit.code == SEES_RECORD and given is not None and given != culprit.sees:
        return f"{it} saw a version that is not the one of {write}"
    versions = {op.value: op.result for op in operations if op.kind == "put" and isinstance(op.result, int)}
    for other in reversed(before):
        told = versions.get(other.result, 0) if other.kind == "get" else _told(other)
        newer = told > given if told and given is not None else write.end is not None and other.begin > write.end
        newer = newer or (write.end is None and other.begin > write.begin)
        changed = other.value if other.kind in ("put", "add") else None if other.kind == "delete" else other.result
        if other.kind == "get_record" and other.result is not None:
            changed = other.result[0]
        if newer and changed != value and other.result is not False:
            return f"stale read: {it} saw the value of {write}, but before it began {other} had returned"
    return f"{it} saw the value of {write}, which was not the key's value at any time of the call"
