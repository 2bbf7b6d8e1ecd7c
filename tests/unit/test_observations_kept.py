"""Observations that several handles, threads and processes share, that outlive them, and that nobody may write to."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest
from hostile import HANG, Start, remove_regions
from observed import HOW, LAST, START, Plain, check, fill, table

import ntmem
from ntmem import LATEST, ReadOnlyError, StoreClosed
from ntmem.tiers import observations, series, seriesstate

MARKET = ("market", "A")


@pytest.fixture(params=HOW)
def how(request: pytest.FixtureRequest) -> dict[str, Any]:
    return {"enable_compression": False, **HOW[request.param]}


def all_of(o: Any, fields: Any = None) -> np.ndarray:
    found: np.ndarray = o.recent(*MARKET, 10**6, fields=fields, as_of=LATEST)
    return found


# -- time and again


def test_a_restart_changes_nothing(ram: Path, how: dict[str, Any]) -> None:
    plain = Plain()
    for _ in range(3):
        with ntmem.open(ram / "s", **how) as memory:
            check(memory.observations, plain)
            fill(memory.observations, plain)
            check(memory.observations, plain)
    with ntmem.open(ram / "s", **how) as memory:
        check(memory.observations, plain)
        memory.observations.distill()
    with ntmem.open(ram / "s", **how) as memory:
        check(memory.observations, plain)
        assert memory.observations.info(*MARKET).live_rows == 0


def test_the_region_is_lost(ram: Path, start: Start) -> None:
    """As after a reboot: what was flushed is there."""
    with ntmem.open(ram / "s", enable_compression=False) as memory:
        plain = Plain()
        fill(memory.observations, plain)
    for _ in range(2):
        child = start(
            "memory = ntmem.open(sys.argv[1], enable_compression=False)\n"
            f"memory.observations.append('market', 'A', {START}, {{'x': 7.5}}, ts_known={START})\n"
            "memory.flush(); say('flushed'); hear()",
            ram / "s",
        )
        assert child.line() == "flushed"
        plain.append(START, {"x": 7.5}, START)
        child.kill()
        remove_regions(ram)
        with ntmem.open(ram / "s", enable_compression=False) as memory:
            check(memory.observations, plain)
            fill(memory.observations, plain, 1)
            check(memory.observations, plain)


def test_on_disk_when_the_call_returns(ram: Path) -> None:
    how: Any = {"durability": "disk", "flush_interval": 3600.0, "enable_compression": False}
    with ntmem.open(ram / "s", engine="shared", **how) as memory:
        o = memory.observations
        for act in (
            lambda: o.append(*MARKET, START, {"x": 1.0}),
            lambda: o.append(*MARKET, START, {"x": 1.0}, metadata="m", embedding=[1.0]),
            lambda: o.extend(*MARKET, table(10)),
            lambda: o.extend(*MARKET, table(2000)),
            lambda: o.append(*MARKET, START, {"x": 1.0}),
        ):
            act()
            assert memory.stats().flush_lag == 0
        assert o.info(*MARKET).rows == 2013


# -- who may what


WRITES = """
from observed import Plain, fill
with ntmem.open(sys.argv[1], **eval(sys.argv[2])) as memory:
    say("open")
    while hear() == "fill":
        fill(memory.observations, Plain())
        say("filled")
    memory.observations.distill()
    say("distilled"); hear()
"""


def test_who_only_reads(ram: Path, start: Start, how: dict[str, Any]) -> None:
    plain, nobody = Plain(), Mock()
    with ntmem.open(ram / "s", **how) as memory:
        fill(memory.observations, plain)
    with ntmem.open(ram / "s", read_only=True, **how) as reading:
        o = reading.observations
        check(o, plain)  # alone
        refused(o)
        for _ in range(2):
            writer = start(WRITES, ram / "s", how | {"flush_interval": 3600.0})
            assert writer.line() == "open"
            writer.tell("fill")
            assert writer.line() == "filled"
            fill(nobody, plain)
            check(o, plain)
            check(reading.observations, plain)
            refused(o)
            writer.tell("distill")
            assert writer.line() == "distilled"
            check(o, plain)
            writer.end()
            check(o, plain)


def refused(o: Any) -> None:
    for act in (
        lambda: o.append(*MARKET, START, {"x": 1.0}),
        lambda: o.append("market", "new", START, {"x": 1.0}),
        lambda: o.extend(*MARKET, table(5)),
        lambda: o.extend(*MARKET, table(2000)),
        o.distill,
    ):
        with pytest.raises(ReadOnlyError):
            act()
    assert o.symbols("market") == ["A"]


def test_a_closed_handle(ram: Path, how: dict[str, Any]) -> None:
    memory = ntmem.open(ram / "s", **how)
    o = memory.observations
    o.append(*MARKET, START, {"x": 1.0})
    o.append(*MARKET, START, {"x": 1.0})
    with ntmem.open(ram / "s", **how) as other:
        memory.close()
        for act in (
            lambda: o.append(*MARKET, START, {"x": 1.0}),
            lambda: o.append(*MARKET, START, {"x": 1.0}, metadata="m"),
            lambda: o.extend(*MARKET, table(5)),
            lambda: o.recent(*MARKET, 1),
            lambda: o.range(*MARKET, 0, LAST),
            lambda: o.info(*MARKET),
            lambda: o.symbols("market"),
            o.distill,
            lambda: memory.observations,
        ):
            with pytest.raises(StoreClosed):
                act()
        assert len(all_of(other.observations)) == 2
    with pytest.raises(TypeError, match="observations cannot be pickled; pass the store"):
        o.__reduce__()
    assert repr(o).startswith("<Observations of ")


def test_a_forked_child(ram: Path, start: Start) -> None:
    code = f"""
def in_child(use):
    if not os.fork():
        say(outcome(use)); os._exit(0)
    os.wait()
memory = ntmem.open(sys.argv[1])
o = memory.observations
add = lambda: o.append("market", "A", {START}, {{"x": 1.0}})
add(); add()
for use in (add, lambda: o.recent("market", "A", 1), o.distill, lambda: o.info("market", "A"),
            lambda: o.extend("market", "A", {{"ts_event": [1], "x": [1.0]}}, known_after=0),
            lambda: o._rows.append(o._tails["market", "A"][0], 1, 1, {{"x": 1.0}})):
    in_child(use)
def anew():
    with ntmem.open(sys.argv[1]) as own:
        return own.observations.append("market", "A", {START}, {{"x": 1.0}})
in_child(anew)
say(add())
"""
    child = start(code, ram / "s")
    lines = [child.line() for _ in range(8)]
    child.end()
    assert all(line.startswith("StoreClosed: ") for line in lines[:5])
    assert lines[5:] == ["-1", "2", "3"]


def test_observations_are_kept_at_hand(ram: Path) -> None:
    with ntmem.open(ram / "s") as memory:
        assert memory.observations is memory.observations


# -- several


def test_two_handles_take_turns(ram: Path, how: dict[str, Any]) -> None:
    plain = Plain()
    with ntmem.open(ram / "s", **how) as one, ntmem.open(ram / "s", **how) as two:
        handles = [one.observations, two.observations]
        for turn in range(40):
            o = handles[turn % 2]
            fields: Any = {"x": turn * 0.5} if turn % 3 else {"x": turn}
            assert o.append(*MARKET, START, fields, ts_known=START) == plain.append(START, fields, START)
            assert max(all_of(handles[turn % 2 - 1], ["row"])["row"]) == len(plain.rows) - 1
            if turn % 10 == 9:
                handles[turn // 10 % 2].extend(*MARKET, table(1100))
                plain.extend(table(1100))
            if turn % 13 == 12:
                handles[turn // 13 % 2].distill()
            for each in handles:
                assert each.info(*MARKET).rows == len(plain.rows)
        for each in handles:
            check(each, plain)


def test_threads_of_two_handles(ram: Path) -> None:
    """Numbers are 0, 1, 2, ...: each once, and each the row of whom it was told."""
    with ntmem.open(ram / "s", engine="shared") as one, ntmem.open(ram / "s", engine="shared") as two:
        told: list[list[int]] = [[] for _ in range(4)]
        loaded = []

        def work(row: int) -> None:
            o = (one, two)[row % 2].observations
            for number in range(300):
                told[row].append(o.append(*MARKET, START + number, {"x": row * 1000.0 + number}))
                if number % 100 == 50:
                    loaded.append(o.extend(*MARKET, table(2000 if row == 1 else 5, 10_000)))
                if number % 60 == 30 and row == 2:
                    o.distill()

        threads = [threading.Thread(target=work, args=(row,)) for row in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(HANG)
        for o in (one.observations, two.observations):
            found = all_of(o, ["row", "x"])
            assert sorted(found["row"]) == list(range(1200 + sum(loaded)))
            by_row = found[np.argsort(found["row"])]
            for row, numbers in enumerate(told):
                assert by_row["x"][numbers].tolist() == [row * 1000.0 + number for number in range(300)]
        assert sum(loaded) == 6000 + 9 * 5


def test_a_row_past_the_log_is_seen_and_its_number_kept(ram: Path) -> None:
    """It is in the log of nobody: who knows where the series ended looks again, though the log has not moved."""
    how: Any = {"engine": "shared", "log_bytes": 1 << 14, "enable_compression": False}
    plain = Plain()
    with ntmem.open(ram / "s", **how) as one, ntmem.open(ram / "s", **how) as two:
        for turn in range(6):
            o, other = (one.observations, two.observations)[:: 1 if turn % 2 else -1]
            for each in (o, other):
                each.append(*MARKET, START, {"x": 1.0}, ts_known=START)
                plain.append(START, {"x": 1.0}, START)
                check(o, plain)
                check(other, plain)
            one.flush()
            o.extend(*MARKET, table(300))
            plain.extend(table(300))
            check(other, plain) if turn % 3 else None
            for each in (other, o):
                assert each.append(*MARKET, START, {"x": 2.0}, ts_known=START) == plain.append(START, {"x": 2.0}, START)
            check(o, plain)
            check(other, plain)


APPENDS = f"""
with ntmem.open(sys.argv[1], log_bytes=1 << 16) as memory:
    o, row = memory.observations, int(sys.argv[2])
    say("ready"); hear()
    say(*[o.append("market", "A", {START}, {{"x": float(row)}}) for n in range(400)])
"""


def test_processes(ram: Path, start: Start) -> None:
    workers = [start(APPENDS, ram / "s", row) for row in range(3)]
    for worker in workers:
        assert worker.line() == "ready"
    for worker in workers:
        worker.tell()
    told = [[int(word) for word in worker.line().split()] for worker in workers]
    for worker in workers:
        worker.end()
    assert sorted(number for numbers in told for number in numbers) == list(range(1200))
    with ntmem.open(ram / "s", log_bytes=1 << 16) as memory:
        found = all_of(memory.observations)["x"]
        for row, numbers in enumerate(told):
            assert set(found[numbers]) == {float(row)}


# -- in the background


def test_a_block_is_made_when_there_are_rows_for_it(ram: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(observations, "BLOCK_ROWS", 64)
    monkeypatch.setattr(ntmem.tiers.distilling, "BLOCK_ROWS", 64)
    plain = Plain()
    with ntmem.open(ram / "s", engine="shared") as memory:
        o = memory.observations
        for number in range(200):
            fields = {"x": float(number)}
            o.append(*MARKET, START, fields, ts_known=START)
            plain.append(START, fields, START)
            if number == 150:
                check(o, plain)
        thread = o._background._thread
        if thread is not None:
            thread.join(HANG)
        assert o.info(*MARKET).blocks == 3
        check(o, plain)
    with ntmem.open(ram / "s", engine="shared", enable_compression=False) as memory:
        o = memory.observations
        for number in range(200):
            o.append(*MARKET, START, {"x": float(number)})
        assert (o._background, o.info(*MARKET).blocks, o.info(*MARKET).rows) == (None, 3, 400)


def test_many_series(monkeypatch: pytest.MonkeyPatch) -> None:
    """More than a handle remembers."""
    monkeypatch.setattr(observations, "_SERIES", 3)
    with ntmem.open(engine="shared") as memory:
        o = memory.observations
        for number in range(5):
            for symbol in "ABCDEFG":
                assert o.append("market", symbol, START, {"x": 1.0}) == number
        assert len(o._series) <= 3
        assert o.distill().rows == 35


def test_a_later_format_is_refused(ram: Path) -> None:
    with ntmem.open(ram / "s", engine="shared") as memory:
        o = memory.observations
        o.append(*MARKET, START, {"x": 1.0})
        row = o._of(*MARKET).row()
        later = ntmem.tiers.series.encode_series(ntmem.tiers.series.msgspec.structs.replace(row, format=3))
        memory._engine().commit([ntmem.records.Change("put", series.SERIES, o._of(*MARKET).key, later, own=True)])
        with pytest.raises(ntmem.CorruptionError, match="has format 3, this version reads 2"):
            o.recent(*MARKET, 1)


def test_the_end_is_found_by_few_looks(ram: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    looks: list[int] = []
    fetch = seriesstate.Series.fetch
    with ntmem.open(ram / "s", engine="shared", enable_compression=False) as memory:
        for number in range(3000):
            memory.observations.append(*MARKET, START, {"x": float(number)}, ts_known=START)
    monkeypatch.setattr(seriesstate.Series, "fetch", lambda self, it: looks.append(len(it)) or fetch(self, it))
    with ntmem.open(ram / "s", engine="shared", enable_compression=False) as memory:
        assert memory.observations.append(*MARKET, START, {"x": 1.0}) == 3000
        assert memory.observations.append(*MARKET, START, {"x": 1.0}) == 3001
    assert len(looks) <= 6
    assert sum(looks) <= 250
