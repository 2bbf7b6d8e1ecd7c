"""Processes that die or stop at every step of appending, loading and distilling: each row is there once, or never was.

``NTMEM_OBSERVATION_KILLS`` says how many random kills there are.
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hostile import ram_directory
from logs import Nursery
from observed import START, Plain, check, check_same, table

import ntmem
from ntmem.tiers import distilling
from ntmem.tiers.guards import BLOCKS, ROWS, SERIES, VECTORS
from ntmem.tiers.logreads import encoded

pytestmark = pytest.mark.crash

KILLS = int(os.environ.get("NTMEM_OBSERVATION_KILLS", "15"))
BEFORE = ["locked", "checked", "reserved", "half_written", "written"]  # nothing of it is left
BETWEEN = ["sealed", "linked", "numbered"]  # finished by the next owner of the mutex
AFTER = ["committed", "announced"]
POINTS = BEFORE + BETWEEN + AFTER

DYING = """
import ntmem
from ntmem.tiers import distilling, loading, observations
from observed import table
loading.FEW = observations.FEW = 64
loading.BLOCK_ROWS, loading._GROUP_BYTES, distilling._SWEPT = 100, 2000, 10
memory = ntmem.open({path!r}, log_bytes=65536, flush_interval={interval}, enable_compression=False)
o = memory.observations
{lines}
"""


@contextlib.contextmanager
def opened(directory: Path) -> Iterator[Any]:
    with ntmem.open(directory / "s", log_bytes=1 << 16, flush_interval=3600.0, enable_compression=False) as memory:
        yield memory


def script(directory: Path, *lines: str, interval: float = 3600.0) -> str:
    return DYING.format(path=str(directory / "s"), interval=interval, lines="\n".join(lines))


def append(o: Any, plain: Plain, x: float = 1.0) -> None:
    assert o.append("market", "A", START, {"x": x}, ts_known=START) == plain.append(START, {"x": x}, START)


def begin(memory: Any, plain: Plain) -> None:
    """A block, and live rows behind it."""
    for _ in range(30):
        append(memory.observations, plain)
    memory.observations.distill()
    for _ in range(30):
        append(memory.observations, plain)


ROW = f"o.append('market', 'A', {START}, {{'x': 2.0}}, ts_known={START})"
CALLS = {
    "a row": (ROW, lambda plain: plain.append(START, {"x": 2.0}, START)),
    "a row of other fields": (
        f"o.append('market', 'A', {START}, {{'x': 2.0, f'y {{n}}': 1}}, ts_known={START})",
        lambda plain: plain.append(START, {"x": 2.0, f"y {len(plain.rows)}": 1}, START),
    ),
    "an embedding": (
        f"o.append('market', 'A', {START}, {{'x': 2.0}}, ts_known={START}, embedding=[1.0], metadata='m')",
        lambda plain: plain.append(START, {"x": 2.0}, START, "m", np.array([1.0], "f4")),
    ),
    "some rows": ("o.extend('market', 'A', table(50))", lambda plain: plain.extend(table(50))),
    "more than half a log": ("o.extend('market', 'A', table(60) | {f'{n}': [n] * 60 for n in range(80)})", None),
    "blocks": ("o.extend('market', 'A', table(350))", lambda plain: plain.extend(table(350))),
    "distilling": ("o.distill()", lambda plain: None),
    "dropping": ("o.drop('market')", lambda plain: plain.keep(set())),
}
WIDE = table(60) | {f"{n}": np.array([n] * 60) for n in range(80)}


def settle(o: Any, plain: Plain, call: str) -> bool:
    """See that the call was done or was not, note it, and return which."""
    act = CALLS[call][1] or (lambda plain: plain.extend(WIDE))
    facts, before = o.info("market", "A"), len(plain.rows)
    done = facts is not None and (0 == facts.rows < before if call == "dropping" else facts.rows > before)
    if done:
        act(plain)
    elif facts is not None:  # fields are noted before their first row is: they may stay without any
        for layout in o._of("market", "A").row().layouts:
            plain.sets.setdefault((layout.names, layout.kinds), layout.earliest)
    check(o, plain)
    return done


def check_swept(memory: Any, plain: Plain, monkeypatch: pytest.MonkeyPatch) -> None:
    """Distilling goes on, and nothing is left of what the dead began."""
    o, engine = memory.observations, memory._engine()
    with monkeypatch.context() as patch:
        patch.setattr(distilling, "_GIVEN_UP", 0)
        o.distill()
        o.distill()
    check(o, plain)
    row = o._of("market", "A").row()
    assert (o.info("market", "A").live_rows, row.pending, row.garbage) == (0, (), ())
    assert len([*engine.entries_of(ROWS, b"")]) == 0
    assert len([*engine.entries_of(BLOCKS, b"")]) == o.info("market", "A").blocks
    assert len([*engine.entries_of(VECTORS, b"")]) == sum(each.embedding is not None for each in plain.rows)


@pytest.mark.parametrize(
    ("point", "call", "beside"),
    [
        *(
            (point, call, beside)
            for point in POINTS
            for call in CALLS
            for beside in (True, False)
            if call != "dropping"
        ),
        *((point, "dropping", point == "committed") for point in ("written", "committed")),
    ],
)
def test_who_is_killed_in_a_call(
    nursery: Nursery, ram: Path, point: str, call: str, beside: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At each group that the call commits, until it comes through; in a store that others have open, or nobody."""
    plain = Plain()
    with opened(ram) as memory:
        begin(memory, plain)
    with contextlib.ExitStack() as stack:
        if beside:
            memory = stack.enter_context(opened(ram))
            check(memory.observations, plain)
        for nth in (*range(1, 20), *range(20, 200, 9)):  # one point is come to with each record
            rows_before = len(plain.rows)
            code = f"n = {rows_before}", f"arm({point!r}, 'kill', {nth})", CALLS[call][0], "os._exit(7)"
            fate, _ = nursery.run(script(ram, *code))
            assert fate in ("killed", 7)
            with contextlib.nullcontext(memory) if beside else opened(ram) as now:
                is_there = now.observations.info("market", "A").rows - rows_before
                now.put("desk", "k", b"takes the mutex from the dead, and finishes what they had sealed")
                done = settle(now.observations, plain, call)
                assert is_there in (0, len(plain.rows) - rows_before)
                assert fate == "killed" or done or call == "distilling"
                if call in ("a row", "some rows") and fate == "killed":
                    assert done is (point not in BEFORE)
                append(now.observations, plain)
                check(now.observations, plain)
            if fate == 7:
                break
        else:
            raise AssertionError("it never came through")
        assert nth >= {"blocks": 4, "distilling": 4}.get(call, 2)
    with opened(ram) as memory:
        check(memory.observations, plain)
        check_swept(memory, plain, monkeypatch)


@pytest.mark.parametrize("point", POINTS)
def test_the_first_row_of_a_series(nursery: Nursery, ram: Path, point: str) -> None:
    plain = Plain()
    with opened(ram) as memory:
        for nth in range(1, 10):
            fate, _ = nursery.run(script(ram, f"arm({point!r}, 'kill', {nth})", ROW, "os._exit(7)"))
            memory.put("desk", "k", b"")
            settle(memory.observations, plain, "a row")
            if fate == 7:
                break
        assert nth > 1
        append(memory.observations, plain)
        check(memory.observations, plain)
    with opened(ram) as memory:
        check(memory.observations, plain)


@pytest.mark.parametrize("point", POINTS)
def test_who_is_killed_in_a_row_that_it_writes_natively(nursery: Nursery, ram: Path, point: str) -> None:
    plain = Plain()
    with opened(ram) as memory:
        begin(memory, plain)
        for each in range(2):
            fate, _ = nursery.run(script(ram, ROW, ROW, f"arm({point!r}, 'kill')", ROW, "os._exit(7)"))
            assert fate == "killed"
            for _ in range(2 + (point not in BEFORE)):
                plain.append(START, {"x": 2.0}, START)
            if each:
                memory.put("desk", "k", b"")
            else:
                append(memory.observations, plain)
            check(memory.observations, plain)


# ---- who stops, and is taken for dead --------------------------------------------------------------------------------

STOPS = """
added, commit, stopped = loading._added, memory._engine().commit, []
def stop(at):
    if at == {at!r} and not stopped:
        stopped.append(at)
        os.kill(os.getpid(), signal.SIGSTOP)
def slow_added(*args):
    stop("written")
    return added(*args)
def slow_commit(changes, *args):
    done = commit(changes, *args)
    if any(each.namespace[-1] == "blocks" for each in changes): stop("writing")
    return done
loading._added, memory._engine().commit = slow_added, slow_commit
assert o.extend("market", "A", table(350)) == 350
os._exit(7)
"""


@pytest.mark.parametrize("given_up", [True, False])
@pytest.mark.parametrize("at", ["written", "writing"])
def test_a_loader_that_stops(
    nursery: Nursery, ram: Path, at: str, given_up: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Others take its blocks away after an hour; it goes on as if it had just begun."""
    plain = Plain()
    with opened(ram) as memory:
        begin(memory, plain)
        o = memory.observations
        fate, pid = nursery.run(script(ram, STOPS.format(at=at)))
        assert fate == "stopped"
        check(o, plain)
        [pending] = o._of("market", "A").row().pending
        for _ in range(2):
            with monkeypatch.context() as patch:
                if given_up:
                    patch.setattr(distilling, "_GIVEN_UP", 0)
                o.distill()
            append(o, plain)
        check(o, plain)
        row = o._of("market", "A").row()
        assert row.pending == (() if given_up else (pending,))
        assert nursery.resume(pid)[0] == 7
        plain.extend(table(350))
        check(o, plain)
        assert (o._of("market", "A").row().next_block > row.next_block) is given_up
        check_swept(memory, plain, monkeypatch)


@pytest.mark.parametrize("point", ["sealed", "linked", "numbered", "committed"])
def test_a_writer_that_stops_in_a_group(nursery: Nursery, ram: Path, point: str) -> None:
    """What it has linked and not committed is not remembered as what the store says of the series."""
    plain = Plain()
    with opened(ram) as memory:
        begin(memory, plain)
        o = memory.observations
        check(o, plain)
        other = f"o.append('market', 'A', {START}, {{'y': 1.0}}, ts_known={START})"
        fate, pid = nursery.run(script(ram, f"arm({point!r}, 'stop')", other, "os._exit(7)"))
        assert fate == "stopped"
        key = o._of("market", "A").key
        assert (o._rows.newest(encoded(SERIES), key) is None) is (point in ("linked", "numbered"))
        fields = ["x", "row"]
        for _ in range(2):
            check_same(o.recent("market", "A", 99, fields=fields), plain.recent(99, fields=fields))
        assert nursery.resume(pid)[0] == 7
        plain.append(START, {"y": 1.0}, START)
        check(o, plain)


# ---- at any time -----------------------------------------------------------------------------------------------------

WORK = """
chance = __import__("random").Random({seed})
import numpy as np
told = os.open({told!r}, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
for call in range({begin}, {begin} + 1000):
    kind, rows = chance.choice(["row"] * 8 + ["metadata", "embedding", "few", "many", "distill"]), 1
    row = {{"call": call, "place": 0, "of": 1}}
    event = chance.randrange(10**6)
    if kind == "distill":
        o.distill()
        continue
    if kind in ("few", "many"):
        rows = 30 if kind == "few" else 300
        o.extend("market", "A", {{"ts_event": np.full(rows, event), "call": np.full(rows, call),
                                  "place": np.arange(rows), "of": np.full(rows, rows)}}, known_after=0)
    elif kind == "row":
        o.append("market", "A", event, row)
    else:
        o.append("market", "A", event, row, **({{"metadata": call}} if kind == "metadata" else {{"embedding": [call]}}))
    os.write(told, f"{{call}} {{kind}} {{rows}}\\n".encode())
"""


def test_random_kills(nursery: Nursery, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two append, load and distill, and are killed at any time: what was acknowledged is there, nothing by halves."""
    seed = random.randrange(1 << 32)
    random.seed(seed)
    with ram_directory() as place:
        for number in range(KILLS):
            pids = []
            for row in range(2):
                begins = (2 * number + row) * 1000
                code = WORK.format(seed=random.randrange(1 << 32), told=str(place / "told"), begin=begins)
                fate, pid = nursery.run(script(place, code, interval=0.002), wait=False)
                assert fate == "started"
                pids.append(pid)
            time.sleep(random.uniform(0.02, 0.2))
            for pid in random.sample(pids, 2):
                os.kill(pid, signal.SIGKILL)
                if random.random() < 0.5:
                    time.sleep(random.uniform(0, 0.01))
            for pid in pids:
                nursery.kill(pid)
            if number % 3 == 0 or number == KILLS - 1:
                with opened(place) as memory:
                    try:
                        look(memory.observations, place / "told")
                        if number % 2 == 0:
                            with monkeypatch.context() as patch:
                                patch.setattr(distilling, "_GIVEN_UP", 0)
                                memory.observations.distill()
                            look(memory.observations, place / "told")
                    except BaseException as error:
                        error.add_note(f"seed {seed}")
                        raise


def look(o: Any, told: Path) -> None:
    fields = ["call", "place", "of", "row", "metadata", "embedding"]
    found = o.recent("market", "A", 10**6, fields=fields, as_of=ntmem.LATEST)
    assert np.array_equal(np.sort(found["row"]), np.arange(len(found)))
    assert (found["ts_event"][1:] >= found["ts_event"][:-1]).all()
    by_row = found[np.argsort(found["row"])]
    calls, counts = np.unique(by_row["call"], return_counts=True)
    for call, count in zip(calls.tolist(), counts.tolist(), strict=True):
        rows = by_row[by_row["call"] == call] if count > 1 else by_row[by_row["call"] == call][:1]
        assert (rows["of"] == count).all(), f"{count} rows of call {call}, which has {rows['of'][0]}"
        assert rows["place"].tolist() == list(range(count))
        assert (np.diff(rows["row"]) == 1).all()
        [first, *_] = rows
        assert first["metadata"] in (None, call)
        assert first["embedding"] is None or first["embedding"].tolist() == [call]
    lines = [line.split() for line in told.read_text().split("\n")[:-1]] if told.exists() else []
    of = dict(zip(calls.tolist(), counts.tolist(), strict=True))
    for call, kind, rows in lines:
        assert of.get(int(call)) == int(rows), f"call {call} ({kind}) is lost"
        if kind in ("metadata", "embedding"):
            assert by_row[by_row["call"] == int(call)][kind][0] is not None
