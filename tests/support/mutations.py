"""Stores of killed processes, mutated in a thousand ways, and what becomes of those who open them.

Run by a child (:func:`hostile.children`): it prepares its stores and keeps their bytes. For each line it is told, a
store and a seed, it puts the bytes back in place, changes some of them, and forks a process that opens the store, reads
everything, writes, flushes, closes, opens and reads again. What that process died of, or said, is the answer.

A mutation that forges a checksum of its own, or that puts everything back to an earlier state, is not among them:
nothing could tell.
"""

from __future__ import annotations

import json
import os
import pickle
import random
import shutil
import signal
import struct
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lmdb
import lmdb.verify  # imported here rather than by each fork

import ntmem
from ntmem.tiers import verification
from ntmem.tiers.region import region_path

PAGE = 4096
LINE = 64
RING = 1 << 15
RING_KIND = 1  # of the section, in the region's header
CACHE = ntmem.CacheConfig(max_entries=1000, max_bytes=1 << 20)
"""Small: else nearly all bytes of a region would be those of an empty hot table."""
HANG = 20
STORES = ("laps", "fresh", "held", "simulated")
KEYS = {("plain",): 60, ("past",): 12, ("lives",): 8, ("swarm", "agent"): 10}
REMEDIES = (
    "restore a backup",
    "ntmem doctor",
    "ntmem verify",
    "delete and rewrite",
    "upgrade",
    "migrate",
    "open it",
    "close it",
    "check the",
)

# Where the words of the control page stand: _core/log.h, a line each.
WORDS = (
    *("constants", "writer", "committed", "reserved", "next_sequence", "flushed", "commit_news", "flush_news"),
    *(
        "flusher",
        "flushed_sequence",
        "oldest",
        "wanted",
        "wanted_news",
        "barrier",
        "epoch",
        "clock",
        "leader",
        "trouble",
    ),
)
AT = {name: PAGE + LINE * line for line, name in enumerate(WORDS)}
GROUP = struct.Struct("<IIQQQqIII")  # magic crc position first_version time now bytes records pid
GROUP_MAGIC = 0x50524721

Expected = dict[tuple[tuple[str, ...], str], list[tuple[bytes | None, int]]]
"""Of each key all values that it ever had with their versions, None for a deletion."""


# ---- stores whose processes were killed -------------------------------------------------------------------------


class Writer:
    """Writes at random and keeps what was acknowledged."""

    def __init__(self, memory: ntmem.MemorySystem, chance: random.Random) -> None:
        self.memory, self.chance, self.told = memory, chance, {}

    def note(self, ns: tuple[str, ...], key: str, value: bytes | None, version: int) -> None:
        self.told.setdefault((ns, key), []).append((value, version))

    def value(self) -> bytes:
        return self.chance.randbytes(self.chance.choice([0, 9, 40, 40, 150, 400]))

    def change(self) -> None:
        """Make one change of some kind."""
        ns = self.chance.choice(list(KEYS))
        key = f"k{self.chance.randrange(KEYS[ns])}"
        kind = self.chance.randrange(12)
        ttl = 1e7 if ns == ("lives",) else None
        if kind == 0:
            if self.memory.delete(ns, key):
                self.note(ns, key, None, 0)
        elif kind == 1:
            pairs = {f"k{n}": self.value() for n in self.chance.sample(range(KEYS[ns]), 3)}
            last = self.memory.put_many(ns, pairs, ttl=ttl)
            for place, (name, value) in enumerate(pairs.items()):
                self.note(ns, name, value, last - 2 + place)
        elif kind == 2:
            with self.memory.transaction() as changes:
                changes.put(("plain",), "of two", value := self.value())
                changes.put(("swarm", "agent"), "of two", value)
            for where in (("plain",), ("swarm", "agent")):
                self.note(where, "of two", value, self.memory.get_record(where, "of two").version)
        elif kind == 3:
            number = self.memory.incr(("plain",), "count")
            self.note(("plain",), "count", b"%d" % number, self.memory.get_record(("plain",), "count").version)
        elif kind == 4:
            self.put(ns, "l" * 600 + key, self.value(), ttl)
        else:
            self.put(ns, key, self.value(), ttl)

    def put(self, ns: tuple[str, ...], key: str, value: bytes, ttl: float | None = None) -> None:
        self.note(ns, key, value, self.memory.put(ns, key, value, ttl=ttl))


def prepare(name: str, directory: Path, keep: Path) -> None:
    """Fill a store, keep copies of its files and what was acknowledged, and die."""
    clock = ntmem.SimulatedClock(10**18) if name == "simulated" else None
    memory = ntmem.open(directory, flush_interval=3600, log_bytes=RING, cache_config=CACHE, clock=clock)
    writer = Writer(memory, random.Random(name))
    memory.retain("past", history=True)
    log = memory._engine().log

    def copy(to: str) -> None:
        shutil.copy(directory / "data.mdb", keep / f"{to}.mdb")
        shutil.copy(region_path(str(directory)), keep / f"{to}.region")

    if name != "fresh":
        for _ in range(150):
            writer.change()
        copy("older")
        while log.committed < 3 * RING:
            writer.change()
        writer.put(("plain",), "large", writer.chance.randbytes(6000))
        memory.flush()
    flushed = log.flushed
    copy("old")
    writer.put(("plain",), "unflushed large", writer.chance.randbytes(5000))
    while log.committed - flushed < RING // 4 - 1500:
        if clock is not None:
            clock.set(clock.now() + 1000)
        writer.change()
    assert log.flushed == flushed, "flushed too early"
    if name == "held":
        log.lock(1)
    (keep / "told").write_bytes(pickle.dumps((writer.told, flushed, log.committed)))
    copy("now")
    os.kill(os.getpid(), signal.SIGKILL)


class Prepared:
    """The bytes of such a store, and the place where they are put back."""

    def __init__(self, name: str, directory: Path) -> None:
        self.name, self.directory, keep = name, directory / name, directory / f"{name}-kept"
        keep.mkdir()
        if (pid := os.fork()) == 0:
            try:
                prepare(name, self.directory, keep)
            finally:
                traceback.print_exc()
                os._exit(1)
        assert os.waitpid(pid, 0)[1] == signal.SIGKILL
        self.region = Path(region_path(str(self.directory)))
        self.data = self.directory / "data.mdb"
        self.told, self.flushed, self.committed = pickle.loads((keep / "told").read_bytes())
        self.region_bytes = self.region.read_bytes()
        self.data_bytes = self.data.read_bytes()
        older = "old" if name == "fresh" else "older"
        self.old_region = (keep / "old.region").read_bytes()
        self.older_region = (keep / f"{older}.region").read_bytes()
        self.older_data = (keep / f"{older}.mdb").read_bytes()
        self.ring_at = next(
            offset
            for kind, offset in (struct.unpack_from("<I4xQ", self.region_bytes, 296 + 24 * n) for n in range(16))
            if kind == RING_KIND
        )
        for word, value in (("committed", self.committed), ("flushed", self.flushed)):  # so AT is right
            assert struct.unpack_from("<Q", self.region_bytes, AT[word]) == (value,)
        self.ends = self._ends()

    def _ends(self) -> list[int]:
        ends, at = [self.flushed], self.flushed
        lap = self.region_bytes[self.ring_at : self.ring_at + RING]
        laps = lap + lap
        while at < self.committed:
            head = GROUP.unpack_from(laps, at % RING)
            assert head[0] == GROUP_MAGIC
            at += head[6]
            ends.append(at)
        return ends

    def put_back(self, region: bytes | None, data: bytes | None) -> None:
        """Put the files back in place; None: as it is. The data file keeps its inode, as its region knows it."""
        (self.directory / "lock.mdb").unlink(missing_ok=True)
        if data is not None:
            with open(self.data, "r+b") as file:
                file.write(data)
                file.truncate()
        if region is not None:
            self.region.unlink(missing_ok=True)
            with open(os.open(self.region, os.O_CREAT | os.O_WRONLY, 0o600), "wb") as file:
                file.write(region)


# ---- mutations --------------------------------------------------------------------------------------------------


def flip(data: bytearray, chance: random.Random, start: int, end: int, count: int = 1) -> None:
    for _ in range(count):
        data[chance.randrange(start, end)] ^= 1 << chance.randrange(8)


def page_of(data: bytes, chance: random.Random, first: int = 0) -> int:
    return chance.randrange(first, len(data) // PAGE) * PAGE


def set_word(data: bytearray, at: int, value: int) -> None:
    struct.pack_into("<Q", data, at, value % 2**64)


def extreme(store: Prepared, chance: random.Random, at: int) -> int:
    now = struct.unpack_from("<Q", store.region_bytes, at)[0]
    return chance.choice(
        [
            *(0, 1, 2**31 - 1, 2**31, 2**32 - 1, 2**32, 2**44 - 1, 2**44, 2**62, 2**63 - 1, 2**63, 2**64 - 1),
            *(now - 1, now + 1, now - 16, now + 16, now - RING, now + RING, now // 2, now * 2, chance.getrandbits(64)),
            *(store.flushed, store.committed, RING),
        ]
    )


def mutate_region(store: Prepared, kind: str, chance: random.Random) -> bytes:
    data = bytearray(store.region_bytes)
    ring, index = store.ring_at, 2 * PAGE
    used = PAGE + LINE * len(WORDS)
    unflushed = ring + chance.randrange(store.flushed, store.committed) % RING
    match kind:
        case "bit of the header":
            flip(data, chance, 0, chance.choice([400, PAGE]))
        case "bit of the words":
            flip(data, chance, PAGE, used)
        case "bits of the words":
            flip(data, chance, PAGE, used, chance.randrange(2, 30))
        case "bit of the index":
            flip(data, chance, index, ring)
        case "bit of the ring":
            flip(data, chance, ring, len(data))
        case "bit of what is not on disk":
            flip(data, chance, unflushed, unflushed + 1)
        case "bits anywhere":
            flip(data, chance, 0, len(data), chance.randrange(2, 100))
        case "word set to an extreme":
            at = AT[chance.choice(list(AT))] + 8 * chance.choice([0, 0, 0, 1, 2, 3, 4])
            set_word(data, at, extreme(store, chance, at))
        case "words set to extremes":
            for _ in range(chance.randrange(2, 5)):
                at = AT[chance.choice(list(AT))]
                set_word(data, at, extreme(store, chance, at))
        case "word set to where a group ends":
            words = ["committed", "flushed", "reserved", "barrier", "wanted"]
            for name in chance.sample(words, chance.choice([1, 1, 2])):
                set_word(data, AT[name], chance.choice(store.ends))
        case "committed and reserved set back":
            at = chance.choice(store.ends[:-1])
            for name in ("committed", "reserved"):
                set_word(data, AT[name], at)
        case "word of the index":
            at = index + 8 * chance.randrange((ring - index) // 8)
            positions = [chance.randrange(store.committed), chance.choice(store.ends) + 65, store.committed + 16]
            set_word(data, at, chance.choice([*positions, extreme(store, chance, at)]))
        case "word of the ring":
            at = ring + 8 * chance.randrange(RING // 8)
            set_word(data, at, extreme(store, chance, at))
        case "truncated":
            del data[chance.choice([0, 1, PAGE - 1, PAGE, 2 * PAGE, len(data) - 1, chance.randrange(len(data))]) :]
        case "grown":
            data += bytes(chance.choice([1, PAGE, RING, 1 << 20]))
        case "page zeroed":
            at = page_of(data, chance)
            data[at : at + PAGE] = bytes(PAGE)
        case "page of noise":
            at = page_of(data, chance)
            data[at : at + PAGE] = chance.randbytes(PAGE)
        case "pages swapped":
            one, other = page_of(data, chance), page_of(data, chance)
            data[one : one + PAGE], data[other : other + PAGE] = data[other : other + PAGE], data[one : one + PAGE]
        case "page of an older copy":
            at = page_of(data, chance)
            data[at : at + PAGE] = chance.choice([store.old_region, store.older_region])[at : at + PAGE]
        case "older copy" if store.name == "fresh":  # the data file is as old: nothing could tell
            return mutate_region(store, "page of an older copy", chance)
        case "older copy":
            data[:] = store.older_region
        case "mutex":
            at = AT[chance.choice(["writer", "flusher"])]
            word = chance.choice([1, 2**30, 2**30 | 77, 2**31, 2**31 | 2**30, os.getpid(), chance.getrandbits(32)])
            struct.pack_into("<I", data, at, word)
            if chance.random() < 0.3:
                flip(data, chance, at, at + LINE)
        case "clock":
            set_word(data, AT["clock"] + chance.choice([0, 0, 0, 8, 16]), extreme(store, chance, AT["clock"]))
        case _:
            raise ValueError(kind)
    return bytes(data)


REGION_KINDS = (
    *("bit of the header", "bit of the words", "bits of the words", "bit of the index", "bit of the ring"),
    *("bit of what is not on disk", "bits anywhere", "word set to an extreme", "words set to extremes"),
    *("word set to where a group ends", "committed and reserved set back", "word of the index", "word of the ring"),
    *("truncated", "grown", "page zeroed", "page of noise", "pages swapped", "page of an older copy", "older copy"),
    *("mutex", "clock"),
)


def mutate_data(store: Prepared, kind: str, chance: random.Random) -> bytes:
    data = bytearray(store.data_bytes)
    match kind:
        case "data: bit":
            flip(data, chance, 2 * PAGE, len(data))
        case "data: bit of a page head":
            at = page_of(data, chance, 2)
            flip(data, chance, at, at + 64)
        case "data: bit of a meta page":
            at = chance.randrange(2) * PAGE
            flip(data, chance, at, at + 152)
        case "data: truncated":
            del data[chance.randrange(1, len(data)) :]
        case "data: grown":
            data += bytes(chance.choice([1, PAGE, 1 << 20]))
        case "data: page zeroed":
            at = page_of(data, chance)
            data[at : at + PAGE] = bytes(PAGE)
        case "data: page of noise":
            at = page_of(data, chance)
            data[at : at + PAGE] = chance.randbytes(PAGE)
        case "data: pages swapped":
            one, other = page_of(data, chance), page_of(data, chance)
            data[one : one + PAGE], data[other : other + PAGE] = data[other : other + PAGE], data[one : one + PAGE]
        case "data: older copy":
            data[:] = store.older_data
        case "data: bit of a row of meta":
            places = []
            for row in (b"log", b"head", b"clock", b"schema", b"identity"):
                at = data.find(row, 2 * PAGE)
                while at >= 0:
                    places.append((at, at + len(row) + 40))
                    at = data.find(row, at + 1)
            start, end = chance.choice(places)
            flip(data, chance, start, min(end, len(data)))
        case "data: row of meta":
            data[:] = edited(store, chance)
        case _:
            raise ValueError(kind)
    return bytes(data)


DATA_KINDS = (
    *("data: bit", "data: bit of a page head", "data: bit of a meta page", "data: truncated", "data: grown"),
    *("data: page zeroed", "data: page of noise", "data: pages swapped", "data: older copy"),
    *("data: bit of a row of meta", "data: row of meta"),
)
KINDS = (*REGION_KINDS, *DATA_KINDS, "both")


def edited(store: Prepared, chance: random.Random) -> bytes:
    """Change a row through LMDB: deleted, cut short, of noise, or with a bit flipped."""
    place = store.directory.parent / "edited"
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir()
    (place / "data.mdb").write_bytes(store.data_bytes)
    with lmdb.open(str(place), max_dbs=8, map_size=16 << 20, lib_version=0) as env:
        meta = env.open_db(b"meta")
        with env.begin(write=True, db=meta) as txn:
            name = chance.choice([b"log", b"head", b"clock", b"schema", b"identity"])
            row = bytearray(txn.get(name))
            how = chance.randrange(4)
            if how == 0:
                txn.delete(name)
            elif how == 1:
                txn.put(name, bytes(row[: chance.randrange(len(row))]))
            elif how == 2:
                txn.put(name, chance.randbytes(len(row)))
            else:
                flip(row, chance, 0, len(row))
                txn.put(name, bytes(row))
    return (place / "data.mdb").read_bytes()


# ---- what becomes of who opens it -------------------------------------------------------------------------------


class Look:
    """Reads everything, and tells what is wrong from what is missing and what was refused."""

    def __init__(self, told: Expected) -> None:
        self.told = told
        self.errors: list[str] = []
        self.lost: list[str] = []
        self.wrong: list[str] = []

    def attempt(self, function: Callable[[], Any]) -> tuple[bool, Any]:
        try:
            return True, function()
        except ntmem.NtmemError as error:
            self.errors.append(f"{type(error).__name__}: {error}")
            return False, None

    def judge(self, where: tuple[tuple[str, ...], str], value: bytes | None, version: int | None) -> None:
        values = self.told.get(where, [])
        last, number = values[-1] if values else (None, 0)
        if value == last and (version is None or value is None or version == number):
            return
        if value is not None and (value, version) not in values and (version is not None or value not in dict(values)):
            self.wrong.append(f"{where} was {value!r:.60} of version {version}, last {last!r:.60} of {number}")
        else:
            self.lost.append(f"{where} was {value!r:.60} of version {version}, last {last!r:.60} of {number}")

    def everything(self, memory: ntmem.MemorySystem) -> None:
        for where in self.told:
            ns, key = where
            well, record = self.attempt(lambda ns=ns, key=key: memory.get_record(ns, key))
            if well:
                self.judge(where, record and record.value, record and record.version)
            well, value = self.attempt(lambda ns=ns, key=key: memory.get(ns, key))
            if well:
                self.judge(where, value, None)
        for ns in KEYS:
            names = [key for space, key in self.told if space == ns]
            well, found = self.attempt(lambda ns=ns, names=names: memory.get_many(ns, names))
            for key in names if well else ():
                self.judge((ns, key), found.get(key), None)
            well, found = self.attempt(lambda ns=ns: dict(memory.scan(ns)))
            for key in names if well else ():
                self.judge((ns, key), found.pop(key, None), None)
            if well and found:
                self.wrong.append(f"scan of {ns} has {list(found)[:3]}, which were never written")
        for (ns, key), values in self.told.items():
            if ns != ("past",):
                continue
            well, past = self.attempt(lambda key=key: memory.history("past", key, limit=10_000))
            if well:
                kept = [(record.value, record.version) for record in reversed(past)]
                mine = [(value, version) for value, version in values]
                known = {version for value, version in mine if value is not None}
                if any(value is not None and (value, version) not in mine for value, version in kept):
                    self.wrong.append(f"history of {key} has what was never written")
                elif not known <= {version for _, version in kept}:
                    self.lost.append(f"history of {key} has {len(kept)} of {len(mine)} versions")


def write(memory: ntmem.MemorySystem, look: Look) -> dict[tuple[tuple[str, ...], str], list[tuple[bytes | None, int]]]:
    """Write something of every kind; what was acknowledged."""
    newest = max(version for values in look.told.values() for _, version in values)
    mine: Expected = {}

    def note(where: tuple[tuple[str, ...], str], value: bytes, version: int) -> None:
        if version <= newest:
            look.wrong.append(f"version {version} was given out, {newest} had been before")
        mine[where] = [*look.told.get(where, []), (value, version)]

    def put(where: tuple[tuple[str, ...], str], value: bytes) -> None:
        well, version = look.attempt(lambda: memory.put(*where, value))
        if well:
            note(where, value, version)

    for n in range(8):
        put((("plain",), f"new {n}"), b"n" * 300)
    put((("plain",), "k1"), b"put over")
    put((("past",), "k1"), b"put over the past")
    put((("plain",), "new large"), b"L" * 6000)
    well, last = look.attempt(lambda: memory.put_many("swarm/agent", {"k1": b"one", "k2": b"two"}))
    if well:
        note((("swarm", "agent"), "k1"), b"one", last - 1)
        note((("swarm", "agent"), "k2"), b"two", last)
    look.attempt(lambda: memory.flush(10))
    return mine


def opened(store: Prepared, **how: Any) -> ntmem.MemorySystem:
    return ntmem.open(store.directory, log_bytes=RING, cache_config=CACHE, max_flush_lag=3, **how)


def use(store: Prepared, read_first: bool) -> tuple[str, str]:
    """Open, read, write, flush, close, open and read again. The outcome and what was said."""
    look = Look(store.told)
    refusals: list[tuple[str, str]] = []

    def refused(error: ntmem.NtmemError) -> tuple[str, str]:
        text = f"{type(error).__name__}: {error}"
        if str(store.directory) not in text and not any(remedy in text for remedy in REMEDIES):
            return "SURPRISE: a refusal that names no file and no remedy", text
        return "refused", text

    if read_first:
        try:
            with opened(store, read_only=True) as memory:
                look.everything(memory)
        except ntmem.NtmemError as error:
            refusals.append(refused(error))
    reader_errors = [*refusals, *(("", error) for error in look.errors)]
    refusals, look.errors = [], []
    if not (look.wrong or look.lost):
        try:
            with opened(store) as memory:
                look.everything(memory)
                if not look.wrong and not look.lost:
                    look.told = look.told | write(memory, look)
        except ntmem.NtmemError as error:
            refusals.append(refused(error))
        if not refusals and not look.wrong and not look.lost:
            try:
                with opened(store) as memory:
                    look.everything(memory)
            except ntmem.NtmemError as error:
                refusals.append(("refused at the second opening", str(error)))
    if look.wrong:
        return "SURPRISE: wrong", look.wrong[0]
    for what, text in [*reader_errors, *refusals]:
        if what.startswith("SURPRISE"):
            return what, text
    if look.lost:
        errors = [text for _, text in [*reader_errors, *refusals]] + look.errors
        if errors:
            return "lost, with an error", errors[0]
        report = verification._check(str(store.directory)).report()
        return ("SURPRISE: lost, verify says OK" if report.ok else "lost, verify says so"), look.lost[0]
    if refusals:
        return refusals[-1]
    if look.errors:
        return "error at reading or writing", look.errors[0]
    report = verification._check(str(store.directory)).report()
    if reader_errors and report.ok:
        return "refused to a reader, then whole", reader_errors[0][1]
    return ("whole", "") if report.ok else ("whole, verify finds damage", str(report.problems[:2]))


def outcome_of(function: Callable[..., tuple[str, str]], *args: Any) -> tuple[str, str]:
    """Run a function in a fork."""
    reading, writing = os.pipe()
    if (pid := os.fork()) == 0:
        try:
            os.close(reading)
            signal.alarm(HANG)
            os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
            os.write(writing, json.dumps(function(*args)).encode())
        except BaseException as error:
            last = traceback.extract_tb(error.__traceback__)[-1]
            told = f"{type(error).__name__}: {error} at {last.filename}:{last.lineno}"
            os.write(writing, json.dumps(("SURPRISE: outside the tree", told)).encode())
        finally:
            os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as pipe:
        said = pipe.read()
    _, status = os.waitpid(pid, 0)
    if not os.WIFSIGNALED(status):
        what, text = json.loads(said)
        return what, text
    number = os.WTERMSIG(status)
    return ("SURPRISE: hang" if number == signal.SIGALRM else "died"), f"signal {number}"


def verified(store: Prepared) -> tuple[str, str]:
    report = ntmem.verify(store.directory)
    return ("verify says OK" if report.ok else "verify says so"), str(report.problems[:1])


def run(store: Prepared, seed: int) -> tuple[str, str, str]:
    """Make the mutation of a seed; its kind, the outcome, what was said."""
    chance = random.Random(f"{store.name} {seed}")
    kind = KINDS[seed % len(KINDS)]
    region, data = store.region_bytes, store.data_bytes
    if kind in REGION_KINDS or kind == "both":
        region = mutate_region(store, kind if kind != "both" else chance.choice(REGION_KINDS), chance)
    if kind in DATA_KINDS or kind == "both":
        data = mutate_data(store, kind if kind != "both" else chance.choice(DATA_KINDS), chance)
    store.put_back(region, data)
    what, text = outcome_of(use, store, chance.random() < 0.4)
    if what == "died":
        store.put_back(region, data)
        what = f"died, {verified(store)[0]}"
        if kind in REGION_KINDS or what.endswith("OK"):
            what = f"SURPRISE: {what}"
    elif what == "refused" and kind in REGION_KINDS:  # then all is still there, for who gets the region right again
        if not store.region.exists():
            return kind, "SURPRISE: refused, and the region removed", text
        if chance.random() < 0.3:
            store.put_back(store.region_bytes, None)
            again, said = outcome_of(use, store, False)
            if again != "whole":
                return kind, f"SURPRISE: refused, and then with the region as it was: {again}", said
    return kind, what, text


def main(directory: str) -> None:
    """Prepare the stores in a directory, then answer lines of "store seed"."""
    ntmem.open().close()  # what opening imports, not by each that is forked
    stores = {name: Prepared(name, Path(directory)) for name in STORES}
    for store in stores.values():  # the mirror of what is to come: without a mutation all is there
        for read_first in (False, True):
            store.put_back(store.region_bytes, store.data_bytes)
            print(json.dumps([store.name, *outcome_of(use, store, read_first)]), flush=True)
    for line in sys.stdin:
        name, seed = line.split()
        print(json.dumps(run(stores[name], int(seed))), flush=True)
