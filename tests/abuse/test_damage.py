"""Damaged files: a clear error or the right data, never a wrong value, and never the death of who asks ``verify``.

A store of mixed records is damaged in many ways. A forked child opens each, reads everything and says how that went;
it may die of damage that only a deep check finds, and then ``verify`` must say so.
"""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import lmdb
import pytest
from hostile import Start, children, ram_directory

import ntmem

# What is damaged is read from disk with every hot table, so one of the two is enough.
pytestmark = [pytest.mark.usefixtures("engine"), pytest.mark.only("shared", "lmdb")]

PAGE = os.sysconf("SC_PAGE_SIZE")
META_BYTES = 16 + 136  # a page's head and MDB_meta

FILL = """
import random
chance, scale = random.Random(1), int(sys.argv[2])
with ntmem.open(sys.argv[1]) as memory:
    memory.retain("past", history=True)
    for _ in range(3):
        memory.put_many("past", {f"p{n}": chance.randbytes(40) for n in range(30)})
    memory.put_many("lives", {f"t{n}": b"%d" % n for n in range(5)}, ttl=1e7)
    for start in range(0, 100 * scale, 100):
        memory.put_many("a", {f"k{n:05}": chance.randbytes(chance.choice([0, 10, 100, 300, 900]))
                              for n in range(start, start + 100)})
    memory.put_many("big", {f"b{n}": chance.randbytes(9000 + 3000 * n) for n in range(scale)})
    memory.put_many(("swarm", "agent"), {"l" * 600 + str(n): b"%d" % n for n in range(20)})
    for n in range(0, 100 * scale, 7):
        memory.delete("a", f"k{n:05}")
"""

READ = """
import json, shutil
from pathlib import Path
pristine, work, walked = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
from ntmem.tiers import datafile
if walked >= 0:
    datafile.WALKED_BYTES = walked
import lmdb.verify
NAMESPACES = [("a",), ("big",), ("past",), ("lives",), ("swarm", "agent")]
ntmem.open().close(), ntmem.open(engine="lmdb").close()  # what opening imports, not by each that is forked
with ntmem.open(pristine, read_only=True) as memory:
    right = {(ns, key): value for ns in NAMESPACES for key, value in memory.scan(ns)}
    past = {key: [r.value for r in memory.history("past", key)] for ns, key in right if ns == ("past",)}
sound = (pristine / "data.mdb").read_bytes()

def damaged(kind, *how):
    data = bytearray(sound)
    if kind == "cut": del data[how[0]:]
    elif kind == "grow": data += how[0] * b"\\0" if how[1] == "zeros" else os.urandom(how[0])
    elif kind == "zero": data[how[0] : how[0] + how[1]] = bytes(min(how[1], len(data) - how[0]))
    elif kind == "flip":
        for place in how[:-1]: data[place] ^= how[-1]
    elif kind == "noise": data[how[0] : how[0] + how[1]] = os.urandom(how[1])
    return data

def look():
    errors, missing = [], 0
    try:
        memory = ntmem.open(work, log_bytes=1 << 20)
    except ntmem.NtmemError as error:
        return "error at open", str(error)
    def attempt(function, *args):
        nonlocal missing
        try:
            return function(*args)
        except ntmem.NtmemError as error:
            errors.append(str(error))
            return None
    for (ns, key), value in right.items():
        before = len(errors)
        found = attempt(memory.get, ns, key)
        if len(errors) == before and found != value:
            if found is not None: return "stale", f"{ns} {key}"
            missing += 1
    for key, values in past.items():
        before = len(errors)
        found = attempt(memory.history, "past", key)
        if len(errors) == before and [r.value for r in found] != values:
            if any(r.value not in values for r in found): return "stale", f"history of {key}"
            missing += 1
    for ns in NAMESPACES:
        found = attempt(lambda: list(memory.scan(ns)))
        if found is not None and found != sorted((k, v) for (n, k), v in right.items() if n == ns):
            if any(right.get((ns, key)) != value for key, value in found): return "stale", f"scan of {ns}"
            missing += 1
    if missing: return "missing", f"{missing} missing"
    if errors: return "error at read", errors[0]
    # Damage to what LMDB knows of its free pages shows when it writes.
    try:
        memory.put_many("new", {f"n{n}": b"x" * 700 for n in range(30)})
        for n in range(10):
            memory.put("new", f"n{n}", b"y" * 5000)
        seen = {(ns, key): value for ns in NAMESPACES for key, value in memory.scan(ns)}
    except ntmem.NtmemError as error:
        return "error at write", str(error)
    if seen != right: return "stale", "after a few writes"
    try:
        memory.close()
    except ntmem.CorruptionError as error:
        return "error at write", str(error)
    report = memory_report(work)
    return ("all right", "") if report.ok else ("all right, verify says not ok", str(report.problems[:2]))

def memory_report(path):
    from ntmem.tiers import verification
    return verification._check(str(path)).report()

def outcome_of(function):
    reading, writing = os.pipe()
    if (pid := os.fork()) == 0:
        try:
            os.close(reading)
            signal.alarm(30)
            sys.stderr = open(os.devnull, "w")
            os.write(writing, json.dumps(function()).encode())
        except BaseException as error:
            os.write(writing, json.dumps(("SURPRISE", repr(error))).encode())
        finally:
            os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as pipe: told = pipe.read()
    _, status = os.waitpid(pid, 0)
    return ["died", f"signal {os.WTERMSIG(status)}"] if os.WIFSIGNALED(status) else json.loads(told)

say("ready")
for line in sys.stdin:
    how = json.loads(line)
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir()
    (work / "data.mdb").write_bytes(damaged(*how))
    what, detail = outcome_of(look)
    if what in ("died", "missing", "stale"):
        (work / "data.mdb").write_bytes(damaged(*how))  # a dead opener may have written
        (work / "lock.mdb").unlink(missing_ok=True)
        report = ntmem.verify(work)
        what = f"{what}, verify says {'OK' if report.ok else 'not ok'}"
    say(json.dumps([what, detail]))
"""

ACCEPTED = {
    "error at open",
    "error at read",
    "error at write",
    "all right",
    "all right, verify says not ok",
    "died, verify says not ok",
    "missing, verify says not ok",
}


def filled(scale: int) -> Iterator[Path]:
    with ram_directory() as ram, children() as start:
        start(FILL, ram / "store", scale).end()
        shutil.copytree(ram / "store", ram / "copy")  # by another inode than the one it was made in
        ntmem.open(ram / "copy").close()
        yield ram / "copy"


@pytest.fixture(scope="module")
def pristine() -> Iterator[Path]:
    """A thousand records of mixed sizes; the tests damage copies."""
    yield from filled(12)


@pytest.fixture(scope="module")
def small() -> Iterator[Path]:
    """A few hundred."""
    yield from filled(1)


def judge(
    start: Start, pristine: Path, ram: Path, mutations: list[tuple[Any, ...]], walked: int = -1
) -> list[tuple[tuple[Any, ...], str, str]]:
    """Return each mutation with what became of it; no other outcomes than the accepted, no error without a remedy."""
    reader = start(READ, pristine, ram / "work", walked)
    assert reader.line() == "ready"
    outcomes = []
    for mutation in mutations:
        reader.tell(json.dumps(mutation))
        what, detail = json.loads(reader.line())
        outcomes.append((mutation, what, detail))
    if os.environ.get("NTMEM_TEST_OUTCOMES"):
        print(Counter(what for _, what, _ in outcomes))
    # Each record's checksum proves that it was once written under its key. That it still is can be wrong where a
    # damaged pointer leads to an old page, in a file that is not walked; verify walks it.
    accepted = ACCEPTED | ({"stale, verify says not ok"} if walked == 0 else set())
    bad = [outcome for outcome in outcomes if outcome[1] not in accepted]
    assert not bad
    for _, what, detail in outcomes:
        if what.startswith("error"):
            remedies = ("restore a backup", "upgrade", "migrate", "open it with what wrote it", "check the path")
            assert any(remedy in detail for remedy in remedies), detail
    return outcomes


def test_cut_short(pristine: Path, ram: Path, start: Start) -> None:
    size = (pristine / "data.mdb").stat().st_size
    chance = random.Random(2)
    lengths = {0, 1, 15, 16, 151, 152, 4095, 4096, 4097, 4248, 8191, 8192, 8193, size - 1, size - PAGE, size - 9000}
    lengths |= {chance.randrange(size) for _ in range(30)} | {chance.randrange(size // PAGE) * PAGE for _ in range(30)}
    outcomes = judge(start, pristine, ram, [("cut", length) for length in sorted(lengths)])
    for (_, length), what, _ in outcomes:
        if length == 0:  # an empty file is a new store
            assert what.startswith("missing")
        elif length < size - 64 * PAGE:
            assert what == "error at open"


def test_grown(pristine: Path, ram: Path, start: Start) -> None:
    mutations = [("grow", size, what) for size in (1, 100, 4096, 5000, 1 << 20) for what in ("zeros", "garbage")]
    for _, what, _ in judge(start, pristine, ram, mutations):
        assert what == "all right"  # pages behind the last one are not the database's


def test_zeroed_and_overwritten(pristine: Path, ram: Path, start: Start) -> None:
    size = (pristine / "data.mdb").stat().st_size
    chance = random.Random(3)
    pages = chance.sample(range(2, size // PAGE), 30)
    mutations: list[tuple[Any, ...]] = [
        ("zero", 0, size),
        ("zero", 0, PAGE),
        ("zero", PAGE, PAGE),
        ("zero", 0, 2 * PAGE),
    ]
    heads = judge(start, pristine, ram, [*mutations, ("noise", 0, PAGE), ("noise", PAGE, PAGE)])
    assert {what for _, what, _ in heads} == {"error at open"}
    outcomes = judge(start, pristine, ram, [(kind, page * PAGE, PAGE) for page in pages for kind in ("zero", "noise")])
    assert {what for _, what, _ in outcomes} <= {"error at open", "error at read", "all right"}  # it was walked


@pytest.mark.only("shared")  # looked at before any engine is chosen
def test_every_byte_of_the_meta_pages(small: Path, ram: Path, start: Start) -> None:
    chance = random.Random(4)
    mutations = [
        ("flip", meta * PAGE + at, bits)
        for meta in range(2)
        for at in range(META_BYTES)
        for bits in (chance.choice([0xFF, *(1 << bit for bit in range(8))]),)
    ]
    judge(start, small, ram, mutations)


@pytest.mark.only("shared")  # looked at before any engine is chosen
@pytest.mark.parametrize("walked", [-1, 0])
def test_every_byte_of_the_rows_about_the_store(walked: int, small: Path, ram: Path, start: Start) -> None:
    """What the store knows of itself: its namespaces, clock and versions. Every place, old copies as well."""
    data = (small / "data.mdb").read_bytes()
    places = set()
    for row in (b"\x05swarm\x05agent", b"\x05lives", b"\x04past", b"schema", b"head", b"clock", b"identity"):
        at = data.find(row)
        while at >= 0:
            places |= set(range(at - 8, at + len(row) + 48))
            at = data.find(row, at + 1)
    chance = random.Random(8)
    judge(
        start, small, ram, [("flip", at, 1 << chance.randrange(8)) for at in chance.sample(sorted(places), 80)], walked
    )


def flips(pristine: Path, seed: int, count: int) -> list[tuple[Any, ...]]:
    """Half of them anywhere, half in the heads of pages, where they hurt more."""
    size = (pristine / "data.mdb").stat().st_size
    chance = random.Random(seed)
    anywhere = [("flip", chance.randrange(2 * PAGE, size), 1 << chance.randrange(8)) for _ in range(count // 2)]
    heads = [
        ("flip", chance.randrange(2, size // PAGE) * PAGE + chance.randrange(64), 1 << chance.randrange(8))
        for _ in range(count // 2)
    ]
    return [*anywhere, *heads]


def test_flipped_bits(pristine: Path, ram: Path, start: Start) -> None:
    outcomes = judge(start, pristine, ram, flips(pristine, 5, 120))
    # Small files are walked at opening: nobody dies of them, and nobody goes on with what verify objects to.
    assert not [outcome for outcome in outcomes if outcome[1].startswith(("died", "all right, verify"))]


def test_flipped_bits_of_signposts(pristine: Path, ram: Path, start: Start) -> None:
    """Keys of branch pages lead to other pages: a wrong one is in order and yet leads astray."""
    data = (pristine / "data.mdb").read_bytes()
    chance = random.Random(9)
    mutations = []
    for page in range(2 * PAGE, len(data), PAGE):
        if int.from_bytes(data[page + 10 : page + 12], sys.byteorder) == 0x01:  # flags: a branch
            upper = int.from_bytes(data[page + 14 : page + 16], sys.byteorder)
            ends = [page + upper + n for n in range(PAGE - upper)][-PAGE:]
            mutations += [("flip", chance.choice(ends), 1 << chance.randrange(8)) for _ in range(6)]
    long_key = data.find(b"l" * 479)
    while long_key >= 0:  # their last bytes are digests, in no order that anybody could check
        mutations.append(("flip", long_key + 479 + chance.randrange(16), 1))
        long_key = data.find(b"l" * 479, long_key + 479)
    judge(start, pristine, ram, chance.sample(mutations, min(50, len(mutations))))


def test_flipped_bits_of_transaction_numbers(small: Path, ram: Path, start: Start) -> None:
    """They say which meta page counts. Also in files that are not walked.

    One bit may turn N into N - 2, which is what stood there before N, and one N - 1 into N + 1: the store as of
    N - 1, and nothing to see.
    """
    mutations = [
        ("flip", meta * PAGE + at, 1 << bit) for meta in range(2) for at in range(144, 152) for bit in (0, 1, 6)
    ]
    outcomes = [what for _, what, _ in judge(start, small, ram, mutations, walked=0)]
    assert outcomes.count("error at open") >= len(outcomes) - 2


def test_flipped_bits_in_a_file_too_large_to_be_walked(pristine: Path, ram: Path, start: Start) -> None:
    judge(start, pristine, ram, flips(pristine, 6, 80), walked=0)


def test_flipped_bits_of_values_are_errors(pristine: Path, ram: Path, start: Start) -> None:
    data = (pristine / "data.mdb").read_bytes()
    with ntmem.open(pristine, read_only=True) as memory:
        values = [value for _, value in memory.scan("a") if len(value) >= 100]
    chance = random.Random(7)
    mutations = []
    for value in chance.sample(values, 30):
        # In each copy: LMDB leaves old ones in free pages, how many depends on where transactions began.
        places = [found.start() for found in re.finditer(re.escape(value), data)]
        byte, bit = chance.randrange(len(value)), 1 << chance.randrange(8)
        mutations.append(("flip", *(place + byte for place in places), bit))
    outcomes = judge(start, pristine, ram, mutations)
    assert {what for _, what, _ in outcomes} == {"error at read"}


# -- what stands in place of the file


@pytest.fixture
def store(pristine: Path, ram: Path) -> Path:
    shutil.copytree(pristine, ram / "store")
    return ram / "store"


@pytest.mark.parametrize("content", [b"hello\n", b"x" * 100_000, bytes(100_000), b"\xde\xc0\xef\xbe" * 5000])
def test_replaced_by_another_file(content: bytes, store: Path) -> None:
    (store / "data.mdb").write_bytes(content)
    for read_only in (False, True):
        with pytest.raises(ntmem.CorruptionError, match="restore a backup"):
            ntmem.open(store, read_only=read_only)
    assert not ntmem.verify(store).ok
    assert (store / "data.mdb").read_bytes() == content


def test_replaced_by_a_directory_or_a_device(store: Path) -> None:
    (store / "data.mdb").unlink()
    (store / "data.mdb").mkdir()
    for _ in range(2):
        with pytest.raises(ntmem.CorruptionError, match="not a regular file"):
            ntmem.open(store)
        assert not ntmem.verify(store).ok
        (store / "data.mdb").rmdir() if (store / "data.mdb").is_dir() else None
        if not (store / "data.mdb").exists():
            os.mkfifo(store / "data.mdb")


def test_replaced_by_an_empty_file(store: Path) -> None:
    (store / "data.mdb").write_bytes(b"")
    with pytest.raises(ntmem.StorageError, match="there is no store"):
        ntmem.open(store, read_only=True)
    with ntmem.open(store) as memory:
        assert memory.namespaces() == []
        memory.put("a", "k", b"v")
    assert ntmem.verify(store).ok


def test_the_format_of_lmdb_1_is_refused_by_name(store: Path) -> None:
    versions = [version for version in (1, 2) if _can_make(version, store.parent / f"probe-{version}")]
    if not versions:
        pytest.skip("this build of py-lmdb has only LMDB 0.9")
    shutil.rmtree(store)
    with lmdb.open(str(store), lib_version=versions[0]) as env, env.begin(write=True) as txn:
        txn.put(b"k", b"v")
    before = (store / "data.mdb").read_bytes()
    for read_only in (False, True):
        with pytest.raises(ntmem.SchemaError, match=r"LMDB 0\.9"):
            ntmem.open(store, read_only=read_only)
    assert not ntmem.verify(store).ok
    assert (store / "data.mdb").read_bytes() == before


def _can_make(version: int, path: Path) -> bool:
    try:
        lmdb.open(str(path), lib_version=version).close()
    except Exception:
        return False
    return True


@pytest.mark.parametrize("content", [b"", b"x", b"x" * 65536, bytes(65536), bytes(1 << 20)])
def test_a_damaged_lock_file_is_made_anew(content: bytes, store: Path) -> None:
    (store / "lock.mdb").write_bytes(content)
    with ntmem.open(store) as memory:
        assert len(list(memory.scan("big"))) == 12
        memory.put("a", "k", b"v")
        assert memory.get("a", "k") == b"v"


def test_verify_names_what_it_found(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    report = ntmem.verify(store)
    assert report.ok
    assert report.records > 1000
    assert report.history == 60
    with ntmem.open(store) as memory:
        value = memory.get("big", "b3", b"")
    data = bytearray((store / "data.mdb").read_bytes())
    data[data.index(value) + 5000] ^= 1
    (store / "data.mdb").write_bytes(data)
    report = ntmem.verify(store)
    assert not report.ok
    assert any("b3" in problem and "checksum" in problem for problem in report.problems)
    with ntmem.open(store) as memory:
        with pytest.raises(ntmem.CorruptionError, match="delete and rewrite this key"):
            memory.get("big", "b3")
        assert memory.get("big", "b4") is not None  # the rest is served


def test_a_damaged_value_can_be_deleted_and_rewritten(store: Path) -> None:
    """As its error message says."""
    with ntmem.open(store) as memory:
        value = memory.get("big", "b3", b"")
    data = bytearray((store / "data.mdb").read_bytes())
    data[data.index(value) + 5000] ^= 1
    (store / "data.mdb").write_bytes(data)
    with ntmem.open(store) as memory:
        memory.delete("big", "b3")
        memory.put("big", "b3", b"new")
        assert memory.get("big", "b3") == b"new"
    assert ntmem.verify(store).ok


def test_a_value_shortened_in_its_transaction_is_no_damage(ram: Path) -> None:
    """LMDB leaves it in the pages it had; two changes of a key often share a transaction."""
    with ntmem.open(ram / "store") as memory:
        for n in range(20):
            with memory.transaction() as t:
                t.put("a", f"k{n % 4}", bytes(3000 * n))
                t.put("a", f"k{n % 4}", b"short" * n)
    assert ntmem.verify(ram / "store").problems == ()
    with ntmem.open(ram / "store") as memory:
        assert dict(memory.scan("a")) == {f"k{n % 4}": b"short" * n for n in range(16, 20)}


def test_verify_under_strict_warnings(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONWARNINGS", "error")
    assert ntmem.verify(store).problems == ()
