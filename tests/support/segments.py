"""Stores whose collections stand in segments too, and what is asked of them: the same with segments and without."""

from __future__ import annotations

import shutil
import struct
from pathlib import Path
from typing import Any

import numpy as np
from vectors import LAST, SECOND, START, Plain, check_get

SLOTS = 4096
PARTS = 12
SQUARES = 2  # the part that is empty unless the metric is l2
HEADER = struct.Struct("<QIIQQQQQQQQIIIIii")
_PART = struct.Struct("<QQII")
MIDDLE = START - 500 * SECOND
QUERIES = np.random.default_rng(99).normal(size=(3, 3)).astype("f4")
WHERES: list[dict[str, Any]] = [
    {"n": {"$gte": 0}},
    {"n": {"$lt": 300}},
    {"x": {"$gt": 0.25}},
    {"t": "text 7"},
    {"t": {"$in": ["text 1", "none such"]}},
    {"flag": True},
    {"any": [1, 2]},
    {"any": None},
    {"w3": {"$gte": 0}},
    {"w79": {"$gte": 0}},
    {"late": {"$gte": 0}},
    {"later": "b"},
]


def metadata_of(number: int) -> dict[str, Any]:
    """Return metadata with values of all kinds, and of more names than there are columns."""
    if number % 7 == 0:
        return {}
    found: dict[str, Any] = {
        "n": number,
        "t": f"text {number % 40}",
        "era": f"era {number // 1000}",
        f"w{number % 80}": number,
    }
    if number % 3 == 0:
        found |= {"x": number % 100 / 100, "flag": number % 2 == 0}
    if number % 11 == 0:
        found["any"] = [None, [1, 2], {"a": 1}, b"raw", 2**63, float(number)][number % 6]
    if number > SLOTS + 1000:
        found["late"] = number
    return found | ({"later": "ab"[number % 2]} if number % 5000 > 4000 else {})


def fill(v: Any, plain: Plain, count: int, name: str = "n", ids: int = 2500) -> None:
    """Make so many changes: what was there is replaced and deleted, and some was known before what is there."""
    done = len(plain.rows)
    chance = np.random.default_rng(done)
    deletions = min(count // 40, 60)
    adds = count - deletions - deletions // 2
    names = [f"{number}" for number in chance.integers(0, ids, adds)]
    rows = chance.normal(size=(adds, 3)).astype("f4")
    extras = [metadata_of(number) for number in range(done, done + adds)]
    knowns = (START - chance.integers(0, 1000, adds) * SECOND).tolist()
    v.add_many(name, names, rows, extras, ts_event=START, ts_known=knowns)
    for each in zip(names, rows, extras, knowns, strict=True):
        plain.add(each[0], each[1], each[2], START, each[3])
    for number in range(deletions):
        gone = f"new {done} {number}" if number % 2 else names[number]
        known = int(START - number * SECOND)
        if number % 2:  # so that it is there
            v.add(name, gone, [1, 2, 3], ts_event=START, ts_known=START - 100 * SECOND)
            plain.add(gone, [1, 2, 3], None, START, START - 100 * SECOND)
        if v.delete(name, gone, ts_known=known):
            plain.delete(gone, known)
    left = count - (len(plain.rows) - done)
    for number in range(left):
        v.add(name, f"last {number}", [3, 2, 1], ts_event=START, ts_known=START)
        plain.add(f"last {number}", [3, 2, 1], None, START, START)
    assert len(plain.rows) == done + count


def best(hits: Any, plain: Plain, there: list[Any]) -> None:
    """See that hits are the best of those that are there."""
    query, rows = QUERIES[0], {row.id: row for row in there}
    exact = np.array([row.vector for row in there], np.float64) @ query.astype(np.float64)
    if plain.metric == "cosine":
        exact /= np.linalg.norm([row.vector for row in there], axis=1) * np.linalg.norm(query)
    elif plain.metric == "l2":
        exact = -((np.array([row.vector for row in there]) - query.astype(np.float64)) ** 2).sum(axis=1)
    assert len({hit.id for hit in hits}) == len(hits) == min(20, len(there))
    for hit in hits:
        row = rows[hit.id]
        assert (hit.metadata, hit.ts_event, hit.ts_known) == (row.metadata, row.ts_event, row.ts_known)
        assert abs(hit.score - plain.score(query, row)) <= plain.error(query, row)
    for place in np.flatnonzero(exact > hits[-1].score):
        row = there[place]
        assert row.id in {hit.id for hit in hits} or exact[place] <= hits[-1].score + plain.error(query, row)


def agree(v: Any, plain: Plain, name: str = "n", wheres: Any = WHERES) -> None:
    """See that a collection is what the list of its changes says, as of now and before."""
    for as_of in (LAST, MIDDLE):
        there = plain.served(as_of)
        assert v.count(name, as_of=as_of) == len(there)
        best(v.search(name, QUERIES[0], 20, as_of=as_of), plain, there)
        newest = {row.id: row for row in there}
        for id in [row.id for row in plain.rows[:: len(plain.rows) // 25 + 1]] + ["nobody"]:
            check_get(v.get(name, id, as_of=as_of), newest.get(id))
        for where in wheres if as_of == LAST else wheres[::4]:
            assert v.count(name, as_of=as_of, where=where) == len(plain.served(as_of, where)), where
    info = v.info(name)
    assert info.changes == len(plain.rows)


def answers(v: Any, name: str = "n") -> list[Any]:
    """Return what is said to many questions, to the bit."""
    found: list[Any] = []
    for as_of in (LAST, MIDDLE):
        names, scores = v.search_arrays(name, QUERIES, 40, as_of=as_of)
        found += [v.count(name, as_of=as_of), names.tolist(), scores.tobytes()]
    found += [v.count(name, where=where) for where in WHERES if "w79" not in where]
    found += [[hit.metadata for hit in v.search(name, QUERIES[0], 9, where={"t": "text 3"})]]
    return [*found, v.info(name).changes]


def segments(store: Path) -> list[str]:
    """Return the names of all files beside the data that have to do with segments, also of unfinished ones."""
    return sorted(path.name for path in (store / "vectors").glob("*") if ".graph" not in path.name)


def segment(store: Path, first: int, collection: int = 1) -> Path:
    """Return the file of a segment."""
    return store / "vectors" / f"{collection:08x}-{first:012x}.segment"


def chain(store: Path, collection: int = 1) -> list[tuple[int, int]]:
    """Return where the segments begin and end."""
    found = []
    for path in sorted((store / "vectors").glob(f"{collection:08x}-*.segment")):
        facts = HEADER.unpack_from(path.read_bytes())
        found.append((facts[5], facts[6]))
    return found


def parts(path: Path) -> list[tuple[int, int]]:
    """Return where the parts of a segment are in its file, and their sizes."""
    data = path.read_bytes()
    return [_PART.unpack_from(data, HEADER.size + _PART.size * part)[:2] for part in range(PARTS)]


def change(path: Path, at: int, mask: int = 0xFF) -> None:
    """Flip bits of a byte."""
    with open(path, "r+b") as file:
        file.seek(at)
        byte = file.read(1)[0]
        file.seek(at)
        file.write(bytes([byte ^ mask]))


def copied(store: Path, to: Path) -> Path:
    """Copy a closed store."""
    shutil.rmtree(to, ignore_errors=True)
    shutil.copytree(store, to)
    return to
