"""Processes that die while they import: groups are whole, and who imports again goes on to the end."""

from __future__ import annotations

from pathlib import Path

import agentic
import pytest
from hostile import Start

import ntmem
from ntmem.tiers.guards import MEMORIES, Situations

pytestmark = [pytest.mark.crash, pytest.mark.usefixtures("engine")]

COUNT = 300
IMPORT = """
from ntmem.reasoningbank import memories
from ntmem.reasoningbank.shelf import Shelf
at, groups = sys.argv[3], 0
place, commit = memories.Memories.place, Shelf.commit
def die():
    say("dies")
    os.kill(os.getpid(), signal.SIGKILL)
def placed(self, found):
    place(self, found)
    if at == "placed" and groups == 1: die()
def committed(self, update):
    global groups
    commit(self, update)
    groups += 1
    if at == "committed" and groups == 2: die()
memories.Memories.place, Shelf.commit = placed, committed
with ntmem.open(sys.argv[1]) as memory:
    memory.bank.import_sqlite(sys.argv[2])
"""


@pytest.mark.only("shared", "lmdb")
@pytest.mark.parametrize(("at", "groups"), [("placed", 1), ("committed", 2)])
def test_who_is_killed_in_the_middle(start: Start, ram: Path, at: str, groups: int) -> None:
    agentic.varied(ram / "a.db", COUNT)
    child = start(IMPORT, ram / "s", ram / "a.db", at)
    assert child.line() == "dies"
    child.process.wait()
    with ntmem.open(ram / "s") as memory:
        bank = memory.bank
        there = [it.id for it in bank.memories()]
        assert len(there) == 128 * groups, "groups of 128, whole"
        whole = [row[0] for row in agentic.content(ram / "a.db")["patterns"]]
        assert there == whole[: len(there)]
        assert {it.id for it in bank.recall([1.0] * 6, 1000, min_similarity=-1)} <= set(there)
        report = bank.import_sqlite(ram / "a.db")
        assert report.counts["memories"] == len(whole) - len(there)
        assert report.unchanged == len(there)
        assert bank.import_sqlite(ram / "a.db").counts == {}
        bank.export_sqlite(ram / "b.db")
        assert agentic.content(ram / "b.db") == agentic.content(ram / "a.db")
        placed = sum(memory.vectors.count(Situations(dimension, MEMORIES)) for dimension in (3, 6))
        assert placed == COUNT + 1
        assert memory.verify().ok


@pytest.mark.only("shared")
def test_two_import_at_once(start: Start, ram: Path) -> None:
    agentic.varied(ram / "a.db", COUNT)
    others = [start(IMPORT, ram / "s", ram / "a.db", "") for _ in range(2)]
    for child in others:
        child.end()
    with ntmem.open(ram / "s") as memory:
        assert memory.bank.import_sqlite(ram / "a.db").counts == {}
        memory.bank.export_sqlite(ram / "b.db")
        assert agentic.content(ram / "b.db") == agentic.content(ram / "a.db")
        assert memory.verify().ok
