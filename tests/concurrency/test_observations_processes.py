"""Processes that append, load and distill one series at once: a reader sees each acknowledged row, once, in order.

``NTMEM_OBSERVATION_ROWS`` says how many calls each of three writers makes.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hostile import Start

import ntmem

CALLS = int(os.environ.get("NTMEM_OBSERVATION_ROWS", "1500"))
FIELDS = ["row", "writer", "n", "metadata", "embedding"]

WRITES = """
import numpy as np
from ntmem.tiers import distilling, loading, observations
loading.FEW = observations.FEW = 64
loading.BLOCK_ROWS, loading._GROUP_BYTES = 100, 2000
distilling.BLOCK_ROWS = observations.BLOCK_ROWS = 256
path, writer, calls, log_bytes = sys.argv[1], *map(int, sys.argv[2:])
chance = __import__("random").Random(writer)
with ntmem.open(path, log_bytes=log_bytes, enable_compression=writer == 0) as memory:
    o, n = memory.observations, 0
    say("ready"); hear()
    for call in range(calls):
        kind, event = chance.randrange(60), chance.randrange(10**6)
        if kind < 2:
            count = (30, 250)[kind]
            numbers = np.arange(n, n + count)
            o.extend("market", "A", {"ts_event": np.full(count, event), "writer": np.full(count, writer), "n": numbers},
                     known_after=0)
            n += count
        elif kind == 2:
            o.append("market", "A", event, {"writer": writer, "n": n}, metadata=[writer, n], embedding=[n])
            n += 1
        elif kind == 3:
            o.append("market", "A", event, {"n": n, "writer": writer, "more": 0.5})
            n += 1
        else:
            o.append("market", "A", event, {"writer": writer, "n": n})
            n += 1
        if call % 10 == 0:
            memory.put("told", str(writer), b"%d" % n)
    memory.put("told", str(writer), b"%d" % n)
    say(n)
"""
DISTILS = """
from ntmem.tiers import distilling
distilling.BLOCK_ROWS, distilling._SWEPT, distilling._LOOKED = 512, 20, 100
stop, steps = threading.Event(), 0
threading.Thread(target=lambda: (hear(), stop.set()), daemon=True).start()
with ntmem.open(sys.argv[1], log_bytes=int(sys.argv[2]), enable_compression=False) as memory:
    say("ready")
    while not stop.is_set():
        steps += memory.observations.distill().blocks
    say(steps)
"""


@pytest.mark.parametrize("log_bytes", [1 << 14, 1 << 20], ids=["small log", "log"])
def test_every_row_once(ram: Path, start: Start, log_bytes: int) -> None:
    """Three write, two distill all the time, two handles of this process read."""
    store, writers = ram / "s", range(3)
    with ntmem.open(store, log_bytes=log_bytes, enable_compression=False) as memory:
        children = [start(WRITES, store, writer, CALLS, log_bytes) for writer in writers]
        distillers = [start(DISTILS, store, log_bytes) for _ in range(2)]
        for child in (*children, *distillers):
            assert child.line() == "ready"
        for child in children:
            child.tell()
        with ntmem.open(store, log_bytes=log_bytes, enable_compression=False) as other:
            seen, looks = 0, 0
            while not all(child.process.poll() is not None for child in children) and looks < 10**6:
                least = told(memory)
                o = (memory, other)[looks % 2].observations
                seen = check(o, least, seen)
                looks += 1
            ends = [int(child.line()) for child in children]
            for child in children:
                child.end()
            for child in distillers:
                child.tell()
                assert int(child.line()) > 0
                child.end()
            assert told(memory) == ends
            for each in (memory, other):
                assert check(each.observations, ends, seen) == sum(ends)
            memory.observations.distill()
            assert check(other.observations, ends, seen) == sum(ends)
    with ntmem.open(store, log_bytes=log_bytes) as memory:
        assert check(memory.observations, ends, seen) == sum(ends)
        assert memory.observations.info("market", "A").live_rows == 0
    assert ntmem.verify(store).ok


def told(memory: Any) -> list[int]:
    return [int(memory.get("told", str(writer)) or 0) for writer in range(3)]


def check(o: Any, least: list[int], seen: int) -> int:
    """See that numbers have no gaps, and that of each writer the first `least` rows and more are there, in order."""
    found = o.recent("market", "A", 10**6, fields=FIELDS if sum(least) else ["row"], as_of=ntmem.LATEST)
    if not sum(least):
        return len(found)
    assert len(found) >= max(seen, sum(least))
    event, row = found["ts_event"], found["row"]
    assert (np.lexsort((row, event)) == np.arange(len(found))).all()
    by_row = found[np.argsort(row)]
    assert np.array_equal(by_row["row"], np.arange(len(found)))
    for writer, count in enumerate(least):
        mine = by_row[by_row["writer"] == writer]
        assert np.array_equal(mine["n"], np.arange(len(mine)))
        assert len(mine) >= count
    for one in found[[it is not None for it in found["metadata"]]]:
        assert one["metadata"] == [one["writer"], one["n"]]
        assert one["embedding"].tolist() == [one["n"]]
    last = o.recent("market", "A", 5, fields=["row"], as_of=ntmem.LATEST)
    assert len(last) == 5
    assert (np.diff(last["ts_event"]) >= 0).all()
    return len(found)
