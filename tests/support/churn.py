"""A collection that several change at once, each its own row of ids, so that anybody can say what is to be there.

What a call does follows from its row and its number alone. Of each call a word is written when it begins and one when
it was acknowledged, so of each process that is killed only its last call is in doubt.
"""

from __future__ import annotations

import os
import random
import time
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

DIMENSION, INNER = 16, 8
MOST = 64  # vectors of a call
GROUPS = 251
_DONE = 1 << 31
_WEIGHTS = np.random.default_rng(5).standard_normal((INNER, DIMENSION))


class Call(NamedTuple):
    """What a call does: `kind` is "add", "delete", or "where", which deletes a group."""

    kind: str
    numbers: list[int]


def call_of(row: int, call: int, ids: int) -> Call:
    """Return what a call does in a row of so many ids."""
    chance = random.Random(row << 40 | call)
    kind = chance.choices(["many", "one", "delete", "where"], [30, 8, 6, 1])[0]
    if kind == "many":
        return Call("add", [chance.randrange(ids) for _ in range(chance.randrange(2, MOST))])
    if kind == "where":
        return Call("where", [chance.randrange(GROUPS)])
    return Call("add" if kind == "one" else "delete", [chance.randrange(ids)])


def vectors_of(row: int, calls: Any, places: Any) -> Any:
    """Return the vectors that calls of a row add at their places, the same bits whoever asks for how many."""
    words = np.uint64(row << 56) + (np.asarray(calls, np.uint64) << np.uint64(8)) + np.asarray(places, np.uint64)
    found = np.zeros((len(words), DIMENSION))
    for inner in range(INNER):
        numbers = _mixed(words * np.uint64(INNER) + np.uint64(inner)) / 2.0**63 - 1
        found += numbers[:, None] * _WEIGHTS[inner]
    return found.astype(np.float32)


def _mixed(words: Any) -> Any:
    """Splitmix64."""
    with np.errstate(over="ignore"):
        words = words * np.uint64(0x9E3779B97F4A7C15)
        words = (words ^ (words >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        words = (words ^ (words >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return words ^ (words >> np.uint64(31))


def work(memory: Any, row: int, begin: int, ids: int, told: str, behind: int) -> None:
    """Make calls, on and on; wait a little while more than `behind` changes have no graph."""
    v, file = memory.vectors, os.open(told, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    for call in range(begin, _DONE):
        kind, numbers = call_of(row, call, ids)
        os.write(file, call.to_bytes(4, "little"))
        if kind == "where":
            v.delete("n", where={"row": row, "group": numbers[0]})
        elif kind == "delete":
            v.delete("n", f"{row}-{numbers[0]}")
        else:
            names = [f"{row}-{n}" for n in numbers]
            extras = [
                {"row": row, "group": n % GROUPS, "call": call, "place": place} for place, n in enumerate(numbers)
            ]
            vectors = vectors_of(row, [call] * len(numbers), range(len(numbers)))
            v.add_many("n", names, vectors, extras)
        os.write(file, (call | _DONE).to_bytes(4, "little"))
        facts = v.info("n")
        if facts.changes - facts.graphed > behind:
            time.sleep(0.5)  # making graphs is to come after


class Told:
    """What there is to be of a row, by what was told: for each id the call and the place in it that added it."""

    def __init__(self, row: int, ids: int, told: Path) -> None:
        self.row, self.ids = row, ids
        self.there: dict[int, tuple[int, int]] = {}
        self.doubts: dict[int, set[tuple[int, int] | None]] = {}
        """What else there may be of an id."""
        words = words_of(told)
        for word, next in zip(words, [*words[1:], 0], strict=True):
            if not word & _DONE:
                self._apply(word, is_certain=next == word | _DONE)

    def _apply(self, call: int, *, is_certain: bool) -> None:
        kind, numbers = call_of(self.row, call, self.ids)
        if kind == "where":
            numbers = list(range(numbers[0], self.ids, GROUPS))
        for place, number in enumerate(numbers):
            value = (call, place) if kind == "add" else None
            if not is_certain:
                self.doubts.setdefault(number, set()).add(value)
                continue
            self.doubts.pop(number, None)
            self.there.pop(number, None)
            if value is not None:
                self.there[number] = value

    def may_be(self, number: int, value: tuple[int, int] | None) -> bool:
        """Whether this may be what is there of an id."""
        return value == self.there.get(number) or value in self.doubts.get(number, ())


def words_of(told: Path) -> list[int]:
    """Return the calls that were begun, and with a bit those that were acknowledged, in order."""
    found: list[int] = np.fromfile(told, "<u4").tolist() if told.exists() else []
    return found


def next_call(told: Path) -> int:
    """Return the call with which who comes next begins."""
    last = words_of(told)[-1:]
    return (last[0] & ~_DONE) + 1 if last else 0
