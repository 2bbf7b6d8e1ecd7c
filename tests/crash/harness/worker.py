"""A process that writes and reads until it is killed, stopped at a failpoint, told to end, or has done enough.

It checks at once what can be checked alone: nothing torn, its own writes, transactions whole, versions rising. What it
did is in its journal; :mod:`judge` compares all of them with the store.
"""

from __future__ import annotations

import os
import random
import traceback
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import journal as j
from journal import Journal, origin_of, value_of

import ntmem

PRIVATE, HISTORY, SHARED, WHOLE, RULED = "private", "history", "shared", "whole", "ruled"
PRIVATE_KEYS, HISTORY_KEYS, SHARED_KEYS = 5, 3, 3
WHOLE_KEYS = ("a", "b", "c")
BOTH = ("x", "y")
"""Keys with history that every transaction puts."""
PAST_BYTES = 3000
OFTEN = 70
"""So many reads of a key that the cache has bring its value to hand."""
FAILED, ENDED = 7, 0
LIFE = 2048  # operations


class Setting(NamedTuple):
    """How the processes of one store open it and what they do."""

    directory: str
    files: str
    log_bytes: int = 1 << 18
    flush_interval: float = 0.005
    past: int = 1
    """How often is written to disk past the log; 0: never."""
    flushes: int = 1
    reads: int = 1
    durability: str = "process"
    cache_bytes: int = 1 << 20


class Wrong(AssertionError):
    """The store broke a promise."""


def open_store(setting: Setting, writer: str) -> ntmem.MemorySystem:
    return ntmem.open(
        setting.directory,
        agent_id=writer,
        log_bytes=setting.log_bytes,
        flush_interval=setting.flush_interval,
        durability=setting.durability,
        max_flush_lag=30.0,
        cache_config=ntmem.CacheConfig(max_bytes=setting.cache_bytes, max_entries=40),
    )


def prepare(setting: Setting) -> None:
    """Make a store that the workers can work with."""
    with open_store(setting, "first") as memory:
        memory.retain(HISTORY, history=True)


class Worker:
    def __init__(self, memory: Any, setting: Setting, number: int) -> None:
        self.memory, self.setting, self.name = memory, setting, number
        self.chance = random.Random(number * 7919 + setting.log_bytes)
        self.journal = Journal(Path(setting.files, str(number)), LIFE)
        self.keys: dict[int, int | None] = {}  # private key: the number of the operation that wrote it
        self.versions = dict.fromkeys(range(PRIVATE_KEYS), 0)
        self.count = 0
        self.last = 0  # version
        past, reads = setting.past, setting.reads
        weights = {
            self.put: 20, self.delete: 6, self.incr: 4, self.add: 4, self.cas: 8, self.ttl: 4, self.briefly: 1,
            self.history: 24, self.transaction: 12, self.shared: 8, self.shared_delete: 2, self.shared_cas: 6,
            self.counter: 6, self.read_history: 20 * reads, self.read_whole: 16 * reads, self.read_private: 8 * reads,
            self.scan: reads, self.large: past, self.history_large: past, self.group: 0.3 * past,
            self.past: 0.3 * past, self.rules: past, self.ruled: 12 * past, self.flush: setting.flushes,
        }  # fmt: skip
        self.actions, self.weights = list(weights), list(weights.values())

    def run(self, stop: Path) -> None:
        """Work until the journal is full or the file `stop` is there."""
        while not self.journal.is_full:
            if self.journal.number % 16 == 0 and stop.exists():
                return
            self.chance.choices(self.actions, self.weights)[0]()

    def told(self, version: int) -> None:
        if version:
            if version <= self.last:
                raise Wrong(f"version {version} after {self.last}")
            self.last = version
        self.journal.end(version)

    def size(self) -> int:
        return self.chance.choice((16, 40, 200, 200, 900, 2500))

    # -- keys of this worker alone

    def private(self, key: int) -> str:
        return f"{self.name}.{key}"

    def put(self, kind: int = j.PUT, size: int = 0, **options: Any) -> None:
        key, size = self.chance.randrange(PRIVATE_KEYS), size or self.size()
        number = self.journal.begin(kind, key, size)
        if kind == j.CAS:
            options["if_version"] = self.versions[key]
        version = self.memory.put(PRIVATE, self.private(key), value_of(self.name, number, size), **options)
        self.told(version)
        self.keys[key], self.versions[key] = number, version

    def cas(self) -> None:
        self.put(j.CAS)

    def ttl(self) -> None:
        self.put(j.TTL, ttl=3600)

    def large(self) -> None:
        self.put(j.LARGE, self.setting.log_bytes // 8 + self.chance.randrange(1, 50_000))

    def delete(self) -> None:
        key = self.chance.randrange(PRIVATE_KEYS)
        self.journal.begin(j.DELETE, key)
        existed = self.memory.delete(PRIVATE, self.private(key))
        self.journal.end(existed)
        if existed != (self.keys.get(key) is not None):
            raise Wrong(f"delete of private key {key} says {existed}")
        self.keys[key], self.versions[key] = None, 0

    def add(self) -> None:
        key = self.chance.randrange(PRIVATE_KEYS)
        number = self.journal.begin(j.ADD, key, size := self.size())
        added = self.memory.add(PRIVATE, self.private(key), value_of(self.name, number, size))
        self.journal.end(added)
        if added != (self.keys.get(key) is None):
            raise Wrong(f"add of private key {key} says {added}")
        if added:
            record = self.memory.get_record(PRIVATE, self.private(key))
            self.keys[key], self.versions[key] = number, record.version

    def incr(self) -> None:
        self.journal.begin(j.INCR)
        number = self.memory.incr(PRIVATE, f"{self.name}.n")
        self.journal.end(number)
        self.count += 1
        if number != self.count:
            raise Wrong(f"incr says {number} for the {self.count}th time")

    def briefly(self) -> None:
        number = self.journal.begin(j.BRIEFLY)
        self.memory.put(PRIVATE, f"{self.name}.t", value_of(self.name, number, 100), ttl=1e-6)
        self.journal.end()

    def read_private(self) -> None:
        key = self.chance.randrange(PRIVATE_KEYS)
        self.journal.begin(j.READ_PRIVATE, key)
        for _ in range(self.chance.choice((1, 1, 1, 4, OFTEN))):
            value = self.memory.get(PRIVATE, self.private(key))
        self.journal.end()
        expected = self.keys.get(key)
        if (value is None) != (expected is None) or (value and origin_of(value) != (self.name, expected)):
            found = None if value is None else origin_of(value)
            raise Wrong(f"private key {key} reads {found}, was written by operation {expected}")

    def group(self) -> None:
        """Fill a namespace and delete it whole."""
        space = f"group/{self.name}"
        number = self.journal.begin(j.GROUP)
        for key in WHOLE_KEYS:
            self.memory.put(space, key, value_of(self.name, number, 64))
        for _ in range(self.chance.choice((0, 6, OFTEN))):
            self.memory.get(space, "a")
        deleted = self.memory.delete_namespace(space)
        left = self.memory.get_many(space, WHOLE_KEYS) or self.memory.get(space, "a") or list(self.memory.scan(space))
        self.journal.end(deleted)
        if deleted != len(WHOLE_KEYS) or left:
            raise Wrong(f"delete_namespace says {deleted}, and {left} is left")

    # -- keys of all

    def history(self, kind: int = j.HISTORY, size: int = 0) -> None:
        key = self.chance.randrange(HISTORY_KEYS)
        number = self.journal.begin(kind, key, size := size or self.size())
        self.told(self.memory.put(HISTORY, f"h{key}", value_of(self.name, number, size)))

    def history_large(self) -> None:
        self.history(j.HISTORY_LARGE, self.setting.log_bytes // 8 + self.chance.randrange(1, 20_000))

    def transaction(self) -> None:
        number = self.journal.begin(j.TRANSACTION, 0, size := self.chance.choice((16, 100, 700)))
        value = value_of(self.name, number, size)
        with self.memory.transaction() as t:
            for key in BOTH:
                t.put(HISTORY, key, value)
            for key in WHOLE_KEYS:
                t.put(WHOLE, key, value)
        self.told(t.version)

    def past(self) -> None:
        """A transaction of more than the log takes: it goes to disk past it."""
        number = self.journal.begin(j.PAST)
        with self.memory.transaction() as t:
            for key in range(self.setting.log_bytes // 2 // PAST_BYTES + 2):
                t.put(PRIVATE, f"{self.name}.p{key}", value_of(self.name, number, PAST_BYTES))
            for key in WHOLE_KEYS:
                t.put(WHOLE, key, value_of(self.name, number, 100))
            for key in BOTH:
                t.put(HISTORY, key, value_of(self.name, number, 100))
        self.told(t.version)

    def shared(self) -> None:
        key = self.chance.randrange(SHARED_KEYS)
        number = self.journal.begin(j.SHARED, key, size := self.size())
        self.told(self.memory.put(SHARED, f"s{key}", value_of(self.name, number, size)))

    def shared_delete(self) -> None:
        self.journal.begin(j.SHARED_DELETE, key := self.chance.randrange(SHARED_KEYS))
        self.journal.end(self.memory.delete(SHARED, f"s{key}"))

    def shared_cas(self) -> None:
        key = self.chance.randrange(SHARED_KEYS)
        record = self.memory.get_record(SHARED, f"s{key}")
        if record is not None:
            origin_of(record.value)
        number = self.journal.begin(j.SHARED_CAS, key, size := self.size())
        value = value_of(self.name, number, size)
        try:
            version = self.memory.put(SHARED, f"s{key}", value, if_version=record.version if record else 0)
        except ntmem.VersionConflict:
            version = 0
        self.told(version)

    def counter(self) -> None:
        self.journal.begin(j.COUNT)
        self.journal.end(self.memory.incr(SHARED, "count"))

    def read_history(self) -> None:
        """Read a key that is only ever put: what is read may not be older than what was acknowledged before."""
        key = self.chance.randrange(HISTORY_KEYS)
        with_version = self.chance.random() < 0.5
        self.journal.begin(j.READ_HISTORY, key)
        if with_version:
            record = self.memory.get_record(HISTORY, f"h{key}")
            value, version = (None, 0) if record is None else (record.value, record.version)
        else:
            value, version = self.memory.get(HISTORY, f"h{key}"), 0
        writer, number = (0, 0) if value is None else origin_of(value)
        self.journal.end(version, writer << 32 | number)

    def read_whole(self) -> None:
        how, key = self.chance.random(), self.chance.choice(WHOLE_KEYS)
        for _ in range(self.chance.choice((0, 0, 4, OFTEN)) if how < 0.6 else 0):
            self.memory.get(WHOLE, key)
        self.journal.begin(j.READ_TRANSACTION)
        if how < 0.6:  # through the hot table
            value = self.memory.get(WHOLE, key)
            found = set() if value is None else {origin_of(value)}
        elif how < 0.7:  # which goes another way, and is one key at a time
            found = {origin_of(value) for key, value in self.memory.scan(WHOLE) if key == WHOLE_KEYS[0]}
        else:
            found = {origin_of(value) for value in self.memory.get_many(WHOLE, WHOLE_KEYS).values()}
        writer, number = next(iter(found), (0, 0))
        self.journal.end(len(found), writer << 32 | number)
        if len(found) > 1:
            raise Wrong(f"a transaction seen in parts: {found}")

    def scan(self) -> None:
        self.journal.begin(j.SCAN)
        found = dict(self.memory.scan(PRIVATE, prefix=f"{self.name}."))
        self.journal.end()
        for key in range(PRIVATE_KEYS):
            value, expected = found.get(self.private(key)), self.keys.get(key)
            if (None if value is None else origin_of(value)[1]) != expected:
                raise Wrong(f"scan has {value and origin_of(value)} under private key {key}, written by {expected}")

    def ruled(self) -> None:
        """Put a key of the namespace whose rules change."""
        number = self.journal.begin(j.RULED)
        self.told(self.memory.put(RULED, "k", value_of(self.name, number, 40)))

    def rules(self) -> None:
        """Let a namespace keep its history for a while; within it no version was known before an older one."""
        number = self.journal.begin(j.RULES)
        self.memory.retain(RULED, history=True)
        self.memory.put(RULED, "k", value_of(self.name, number, 40))
        with suppress(ntmem.HistoryNotRetained):  # another worker has ended it
            known = [record.ts_known for record in self.memory.history(RULED, "k", limit=1000)]
            if known != sorted(known, reverse=True):
                raise Wrong(f"known at {known}, newest first")
            self.memory.retain(RULED, history=self.chance.random() < 0.5)
        self.journal.end()

    def flush(self) -> None:
        self.journal.begin(j.FLUSH)
        if self.last and self.chance.random() < 0.5:
            self.memory.wait_durable(self.last, timeout=30)
        else:
            self.memory.flush(timeout=30)
        self.journal.end()


def run_worker(setting: Setting, number: int, arms: list[tuple[str, str, int]]) -> None:
    """Be worker `number`; never returns."""
    status = FAILED
    try:
        if arms:
            from ntmem._core.failpoints import arm

            for arms_of in arms:
                arm(*arms_of)
        stop = Path(setting.files).parent / "stop"
        with open_store(setting, f"writer {number}") as memory:
            Worker(memory, setting, number).run(stop)
        status = ENDED
    except BaseException:
        error = traceback.format_exc()
        Path(setting.files).parent.joinpath(f"error {number}").write_text(error)
    finally:
        os._exit(status)
