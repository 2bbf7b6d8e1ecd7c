"""What goes wrong around observations: full stores, interrupted readers, threads that do not start, lost loaders."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from observed import START, Plain, check, fill, table

import ntmem
from ntmem import LATEST, MapFull
from ntmem.tiers import distilling, loading, seriesstate
from ntmem.tiers.guards import BLOCKS
from ntmem.tiers.liverows import LivePart

MARKET = ("market", "A")
SECOND = 10**9


@pytest.fixture(params=["shared", "lmdb"])
def memory(request: pytest.FixtureRequest, ram: Path) -> Iterator[Any]:
    with ntmem.open(ram / "s", engine=request.param, enable_compression=False) as memory:
        yield memory


@pytest.fixture
def plain() -> Plain:
    return Plain()


def numbers(found: Any) -> list[int]:
    return sorted(found["row"].tolist())


# -- a row is written once


def test_a_row_that_is_distilled_before_its_writer_hears_of_it(
    memory: Any, ram: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is in the store from the commit on: another may code it before the call returns."""
    with ntmem.open(ram / "s", enable_compression=False) as other:
        o, engine = memory.observations, memory._engine()
        for name in ("put_new", "commit"):
            if hasattr(engine, name):

                def slowly(whole: Any, *args: Any, **more: Any) -> Any:
                    done = whole(*args, **more)
                    other.observations.distill()
                    return done

                monkeypatch.setattr(engine, name, partial(slowly, getattr(engine, name)))
        for number in range(3):
            assert o.append(*MARKET, START, {"x": float(number)}, embedding=[float(number)]) == number
        found = o.recent(*MARKET, 10, fields=["x", "row", "embedding"])
        assert numbers(found) == [0, 1, 2]
        assert [it.tolist() for it in found["embedding"]] == [[0.0], [1.0], [2.0]]


# -- loaders that are taken for dead, or fail


def test_a_table_that_is_added_while_it_is_being_given_up(
    memory: Any, ram: Path, plain: Plain, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The sweeper has read that blocks are pending; by the time it gives them up they belong to the series."""
    o = memory.observations
    fill(o, plain, 1)
    with ntmem.open(ram / "s", enable_compression=False) as other:
        theirs = other.observations._of(*MARKET)
        whole = theirs.update

        def update(*args: Any, **more: Any) -> Any:
            released.set()
            added.wait(60)
            return whole(*args, **more)

        released, added = threading.Event(), threading.Event()
        monkeypatch.setattr(distilling, "_GIVEN_UP", -(2**62))

        def sweep() -> None:
            with monkeypatch.context() as patch:
                patch.setattr(theirs, "update", update)
                distilling.sweep(theirs, other.now())

        thread = threading.Thread(target=sweep)

        def meanwhile(*args: Any, whole_added: Any = loading._added) -> Any:
            thread.start()
            assert released.wait(60)
            done = whole_added(*args)
            added.set()
            thread.join()
            return done

        monkeypatch.setattr(loading, "_added", meanwhile)
        assert o.extend(*MARKET, table(2000)) == plain.extend(table(2000))
        for each in (memory, other):
            check(each.observations, plain)


def test_a_loader_that_was_given_up_leaves_nothing(memory: Any, plain: Plain, monkeypatch: pytest.MonkeyPatch) -> None:
    o, lost = memory.observations, []

    def added(series: Any, *args: Any, whole: Any = loading._added) -> Any:
        if not lost:
            lost.append(series.update(lambda row: seriesstate.without_pending(row, row.pending[0].first)))
        return whole(series, *args)

    monkeypatch.setattr(loading, "_added", added)
    assert o.extend(*MARKET, table(2000)) == plain.extend(table(2000))
    assert lost
    check(o, plain)
    row = o._of(*MARKET).row()
    assert len([*memory._engine().entries_of(BLOCKS, b"")]) == len(row.entries) == 1


@pytest.mark.parametrize("error", [MapFull("full"), KeyboardInterrupt()])
def test_a_load_that_fails_leaves_nothing(
    memory: Any, plain: Plain, error: BaseException, monkeypatch: pytest.MonkeyPatch
) -> None:
    o = memory.observations
    fill(o, plain, 1)

    def fails(*args: Any) -> Any:
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(loading, "_added", fails)
        with pytest.raises(type(error)):
            o.extend(*MARKET, table(2000))
    check(o, plain)
    assert not o._of(*MARKET).row().pending
    assert not [*memory._engine().entries_of(BLOCKS, b"")] or o.info(*MARKET).blocks
    assert o.extend(*MARKET, table(2000)) == plain.extend(table(2000))
    check(o, plain)


def test_a_table_that_is_kept_is_not_taken_back(memory: Any, plain: Plain, monkeypatch: pytest.MonkeyPatch) -> None:
    """What fails after the group that adds it, such as waiting for the disk, takes nothing away."""
    o = memory.observations

    def fails_late(*args: Any, whole: Any = loading._added) -> Any:
        whole(*args)
        raise ntmem.StorageError("kept, but not on disk yet")

    with monkeypatch.context() as patch:
        patch.setattr(loading, "_added", fails_late)
        with pytest.raises(ntmem.StorageError, match="kept"):
            o.extend(*MARKET, table(2000))
    plain.extend(table(2000))
    check(o, plain)


def test_a_full_store_takes_a_load_back(ram: Path) -> None:
    chance = np.random.default_rng(1)
    count = 400_000
    columns = {"ts_event": np.arange(count) * SECOND, "x": chance.random(count), "y": chance.random(count)}
    with ntmem.open(ram / "s", engine="lmdb", max_storage_bytes=4 << 20, enable_compression=False) as memory:
        memory.put("desk", "k", b"v")
        with pytest.raises((MapFull, ntmem.StorageError)):
            memory.observations.extend(*MARKET, columns, known_after=0)
        row = memory.observations._of(*MARKET).row()
        assert not len(row.entries)
        assert not [*memory._engine().entries_of(BLOCKS, b"")]


# -- distilling


def test_distilling_takes_what_there_is_when_it_begins(memory: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who appends all the while does not keep it busy for ever."""
    o = memory.observations
    for number in range(50):
        o.append(*MARKET, START, {"x": float(number)}, ts_known=START)

    def step(*args: Any, whole: Any = distilling._step) -> Any:
        o.append(*MARKET, START, {"x": -1.0})
        return whole(*args)

    monkeypatch.setattr(distilling, "_step", step)
    assert o.distill().rows == 50
    assert o.info(*MARKET).live_rows == 1


def test_distilling_stops_between_steps(memory: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(distilling, "BLOCK_ROWS", 10)
    o = memory.observations
    for number in range(50):
        o.append(*MARKET, START, {"x": float(number)}, ts_known=START)
    asked = iter([False, False, True, True])
    report = distilling.distill(o._of(*MARKET), START, memory.now(), stopped=lambda: next(asked))
    assert (report.rows, o.info(*MARKET).live_rows) == (20, 30)
    assert numbers(o.recent(*MARKET, 100, fields=["row"])) == list(range(50))


def test_a_gap_is_swept_once(memory: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A row that stays live at the front does not make each sweep look at all behind it."""
    monkeypatch.setattr(distilling, "BLOCK_ROWS", 10)
    o = memory.observations
    o.append(*MARKET, START, {"x": 0.0})
    looked: list[int] = []
    series = o._of(*MARKET)
    left = distilling._left_over
    monkeypatch.setattr(
        distilling, "_left_over", lambda entries: [looked.extend(some) or some for some in left(entries)]
    )
    for _ in range(5):
        for _ in range(20):
            o.append(*MARKET, START, {"x": 1.0}, ts_known=START)
        distilling.distill(series, START, memory.now())
    assert len(looked) < 2 * 5 * 20
    assert numbers(o.recent(*MARKET, 1000, fields=["row"])) == list(range(101))


def test_a_background_without_a_thread(ram: Path, monkeypatch: pytest.MonkeyPatch, plain: Plain) -> None:
    def start(self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with ntmem.open(ram / "s") as memory:
        with monkeypatch.context() as patch:
            patch.setattr(threading.Thread, "start", start)
            assert memory.observations.extend(*MARKET, table(20)) == plain.extend(table(20))
        check(memory.observations, plain)
        assert memory.observations.extend(*MARKET, table(20)) == plain.extend(table(20))
        check(memory.observations, plain)


def test_a_background_that_fails_goes_on(ram: Path, monkeypatch: pytest.MonkeyPatch, caplog: Any) -> None:
    done = threading.Event()

    def work(*args: Any, **more: Any) -> None:
        if not caplog.records:
            raise MemoryError("no memory")
        done.set()

    monkeypatch.setattr("ntmem.tiers.observations.distill", work)
    with ntmem.open(ram / "s") as memory:
        memory.observations.extend(*MARKET, table(20))
        for _ in range(600):
            if caplog.records:
                break
            done.wait(0.1)
        memory.observations.extend(*MARKET, table(20))
        assert done.wait(60)
    assert "could not be distilled" in caplog.text


def test_loading_without_new_threads(memory: Any, monkeypatch: pytest.MonkeyPatch, plain: Plain) -> None:
    """As at the end of the interpreter, where executors take nothing any more."""
    monkeypatch.setattr(loading, "BLOCK_ROWS", 1000)
    coders = loading._coders()
    coders.shutdown()
    try:
        assert memory.observations.extend(*MARKET, table(3000)) == plain.extend(table(3000))
    finally:
        loading._coders.cache_clear()
    check(memory.observations, plain)


# -- readers that are interrupted


def test_a_signal_handler_reads_in_the_midst_of_a_read(memory: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    o, seen, raised = memory.observations, [], []
    for number in range(20):
        o.append(*MARKET, START + number, {"x": float(number)})

    def handler(*args: Any) -> None:
        seen.append(numbers(o.recent(*MARKET, 100, fields=["row"])))

    def add(self: LivePart, *args: Any, whole: Any = LivePart.add) -> None:
        whole(self, *args)
        if not raised:
            raised.append(True)
            signal.raise_signal(signal.SIGUSR1)

    before = signal.signal(signal.SIGUSR1, handler)
    try:
        monkeypatch.setattr(LivePart, "add", add)
        assert numbers(o.recent(*MARKET, 100, fields=["row"])) == list(range(20))
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert seen == [list(range(20))]
    assert numbers(o.recent(*MARKET, 100, fields=["row"])) == list(range(20))


@pytest.mark.parametrize("place", ["add", "keep", "_whole"])
def test_a_reader_that_is_interrupted(memory: Any, place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    o, done = memory.observations, []
    for number in range(20):
        o.append(*MARKET, START + number, {"x": float(number)}, ts_known=START)
    if place == "keep":
        o.recent(*MARKET, 1)
        series, now = o._of(*MARKET), memory.now()
        monkeypatch.setattr(distilling, "BLOCK_ROWS", 7)

    whole = getattr(LivePart, place)

    def interrupted(self: LivePart, *args: Any) -> Any:
        found = whole(self, *args)
        if not done:
            done.append(place)
            raise KeyboardInterrupt
        return found

    monkeypatch.setattr(LivePart, place, interrupted)
    asked = iter([False] + [True] * 9)
    with pytest.raises(KeyboardInterrupt):
        if place == "keep":
            distilling.distill(series, START, now, stopped=lambda: next(asked))
            o.recent(*MARKET, 100)
        else:
            o.recent(*MARKET, 100)
    assert done
    assert numbers(o.recent(*MARKET, 100, fields=["row"])) == list(range(20))


@pytest.mark.parametrize("error", [KeyboardInterrupt, MemoryError])
def test_a_reader_that_fails_as_it_takes_over_what_was_distilled(
    memory: Any, ram: Path, error: type[BaseException], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It knows the new row of the series by then, and not yet what that covers, or has not cut its live rows."""
    with ntmem.open(ram / "s", enable_compression=False) as other:
        o = other.observations
        for place in ("keep", "has"):
            where = LivePart if place == "keep" else seriesstate.Cover
            for number in range(20):
                known = START if number < 10 else memory.now()
                memory.observations.append(*MARKET, START, {"x": float(number)}, ts_known=known)
            before = numbers(o.recent(*MARKET, 1000, fields=["row"]))
            memory.observations.distill(3600)

            def fails(*args: Any) -> Any:
                raise error

            with monkeypatch.context() as patch:
                patch.setattr(where, place, fails)
                with pytest.raises(error):
                    o.recent(*MARKET, 1000)
            assert numbers(o.recent(*MARKET, 1000, fields=["row"])) == before


# -- only what is in the answer is looked at


def test_what_is_not_in_the_answer_raises_nothing(memory: Any) -> None:
    """A number that float64 does not have is no matter where its row is not asked for."""
    o = memory.observations
    o.append(*MARKET, 10, {"a": 2**60 + 1}, ts_known=1)
    o.append(*MARKET, 20, {"a": 1.5}, ts_known=1)
    o.append(*MARKET, 30, {"a": 2**61 + 1}, ts_known=90)
    for _ in range(2):
        assert o.recent(*MARKET, 1, as_of=50)["a"].tolist() == [1.5]
        assert o.range(*MARKET, 15, 25, as_of=LATEST)["a"].tolist() == [1.5]
        with pytest.raises(ValueError, match="beyond 2\\*\\*53"):
            o.recent(*MARKET, 2, as_of=50)
        o.distill()


def test_metadata_has_a_limit(memory: Any) -> None:
    o = memory.observations
    assert o.append(*MARKET, START, {"x": 1.0}, metadata="m" * 32_000) == 0
    with pytest.raises(ValueError, match="32768 bytes at most, had 40003"):
        o.append(*MARKET, START, {"x": 1.0}, metadata="m" * 40_000)


def test_columns_in_any_order_are_one_set_of_fields(memory: Any) -> None:
    o = memory.observations
    for names in ("ab", "ba"):
        o.append(*MARKET, START, dict.fromkeys(names, 1.0))
        o.extend(*MARKET, {"ts_event": [START], **{name: [2.0] for name in names}}, known_after=0)
    assert len(o._of(*MARKET).row().layouts) == 1
    assert o.recent(*MARKET, 9, as_of=LATEST)[["a", "b"]].tolist() == [(1, 1), (2, 2), (1, 1), (2, 2)]


@pytest.mark.parametrize(
    ("column", "says"),
    [([2**60 + 1, 0.5], "float64 does not have"), (np.ma.masked_array([1.0, 2.0], [True, False]), "masked")],
)
def test_numbers_that_would_be_lost_are_refused(memory: Any, column: Any, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        memory.observations.extend(*MARKET, {"ts_event": [1, 2], "x": column}, known_after=0)
