"""What another handle does to a series in the midst of a call: every such moment that matters, one by one."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest
from hostile import HANG
from observed import HOW, START, Plain, check, check_same, fill, table

import ntmem
from ntmem import LATEST
from ntmem.records import Change
from ntmem.tiers import distilling, liverows, loading, series

MARKET = ("market", "A")


@pytest.fixture(params=HOW)
def how(request: pytest.FixtureRequest) -> dict[str, Any]:
    return {"enable_compression": False, **HOW[request.param]}


@pytest.fixture
def two(ram: Path, how: dict[str, Any]) -> Iterator[tuple[Any, Any]]:
    with ntmem.open(ram / "s", **how) as one, ntmem.open(ram / "s", **how) as other:
        yield one, other


@pytest.fixture
def plain() -> Plain:
    return Plain()


def add(o: Any, plain: Plain, x: float, vector: Any = None) -> None:
    given = None if vector is None else np.array(vector, "f4")
    expected = plain.append(START, {"x": x}, START, None, given)
    assert o.append(*MARKET, START, {"x": x}, ts_known=START, embedding=given) == expected


def once(
    owner: Any, name: str, meanwhile: Callable[[], object], patch: pytest.MonkeyPatch, *, after: bool = False
) -> list[Any]:
    """Do something else before (or after) the next call; return whether it was done."""
    call, done = getattr(owner, name), list[Any]()

    def beside(*args: Any, **options: Any) -> Any:
        found = call(*args, **options) if after else None
        if not done:
            done.append(name)
            meanwhile()
        return found if after else call(*args, **options)

    patch.setattr(owner, name, beside)
    return done


def check_both(two: tuple[Any, Any], plain: Plain) -> None:
    for _ in range(2):
        for each in two:
            check(each.observations, plain)
        two[1].observations.distill()


# -- writing


@pytest.mark.parametrize("theirs", [None, [9.0]])
@pytest.mark.parametrize("ours", [None, [5.0]])
@pytest.mark.parametrize("count", [1, 3])
def test_rows_were_written_and_distilled_meanwhile(
    two: tuple[Any, Any], plain: Plain, count: int, ours: Any, theirs: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the last look at the end and the write another takes the number, and it is distilled, and swept away."""
    memory, other = two
    o, engine, interrupted = memory.observations, memory._engine(), list[str]()
    o.append(*MARKET, START, {"x": 0.0}, ts_known=START)
    plain.append(START, {"x": 0.0}, START)
    o._tails.clear()  # so that Python writes it

    def beside_another(call: Any) -> Any:
        def interrupted_call(*args: Any) -> Any:
            spaces = [it.namespace if isinstance(it, Change) else it[0] for it in args[0]]
            if not interrupted and series.ROWS in spaces:
                interrupted.append(call.__name__)
                add(other.observations, plain, 1.0, theirs)
                other.observations.distill()
            return call(*args)

        return interrupted_call

    for name in ("commit", "put_new"):
        if hasattr(engine, name):
            setattr(engine, name, beside_another(getattr(engine, name)))
    once(
        engine, "drop", lambda: add(other.observations, plain, 4.0), monkeypatch
    )  # what it takes back, nobody has seen
    if count == 1:
        given = None if ours is None else np.array(ours, "f4")
        number = o.append(*MARKET, START, {"x": 2.0}, ts_known=START, embedding=given)
        assert number == plain.append(START, {"x": 2.0}, START, None, given)
    else:
        assert o.extend(*MARKET, table(count)) == plain.extend(table(count))
    assert interrupted
    add(other.observations, plain, 3.0)
    for _ in range(2):
        for each in (memory, other):
            check(each.observations, plain)
        other.observations.distill()


def test_rows_went_past_the_log_meanwhile(ram: Path, plain: Plain, monkeypatch: pytest.MonkeyPatch) -> None:
    """The log tells nothing of them but by its epoch: its end is where it was."""
    how: Any = {"engine": "shared", "log_bytes": 1 << 14, "enable_compression": False}
    with ntmem.open(ram / "s", **how) as one, ntmem.open(ram / "s", **how) as other:
        o = one.observations
        for each in (one, other):
            each.observations.extend(*MARKET, table(2))
            plain.extend(table(2))
        o._tails.clear()
        one.flush()
        rows = table(300)
        done = once(
            one._engine(),
            "put_new",
            lambda: other.observations.extend(*MARKET, rows) and plain.extend(rows),
            monkeypatch,
        )
        number = o.append(*MARKET, START, {"x": 2.0}, ts_known=START)
        assert done
        assert number == plain.append(START, {"x": 2.0}, START)
        check_both((one, other), plain)


def test_what_a_row_left_that_was_none(two: tuple[Any, Any], plain: Plain, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who wrote a row with an embedding under a number that was distilled dies before it takes it away."""
    (one, other), nothing = two, Mock()
    add(one.observations, plain, 1.0)
    engine = one._engine()

    def meanwhile() -> None:
        add(other.observations, plain, 2.0)
        other.observations.distill()

    with monkeypatch.context() as patch:
        done = once(engine, "put_new" if hasattr(engine, "put_new") else "commit", meanwhile, patch)
        patch.setattr(engine, "drop", Mock(side_effect=InterruptedError))
        try:
            one.observations.append(*MARKET, START, {"x": 3.0}, ts_known=START, embedding=[1.0])
            plain.append(START, {"x": 3.0}, START, None, np.array([1.0], "f4"))
        except InterruptedError:
            nothing()
    assert done
    check_both(two, plain)


@pytest.mark.parametrize("distils", [False, True])
@pytest.mark.parametrize("theirs", [1, 30, 1500])
def test_rows_come_where_a_load_was_to_begin(
    two: tuple[Any, Any], plain: Plain, theirs: int, distils: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, other = two
    fill(one.observations, plain, 1)

    def meanwhile() -> None:
        if theirs == 1:
            add(other.observations, plain, 9.0)
        else:
            other.observations.extend(*MARKET, table(theirs, 7))
            plain.extend(table(theirs, 7))
        if distils:
            other.observations.distill()

    done = once(one.observations._of(*MARKET), "end", meanwhile, monkeypatch, after=True)
    assert one.observations.extend(*MARKET, table(2000)) == plain.extend(table(2000))
    assert done
    check_both(two, plain)


def test_blocks_were_taken_away_meanwhile(two: tuple[Any, Any], plain: Plain, monkeypatch: pytest.MonkeyPatch) -> None:
    one, other = two
    fill(one.observations, plain, 1)

    def meanwhile() -> None:
        with monkeypatch.context() as patch:
            patch.setattr(distilling, "_GIVEN_UP", 0)
            other.observations.distill()

    done = once(loading, "_added", meanwhile, monkeypatch)
    assert one.observations.extend(*MARKET, table(2000)) == plain.extend(table(2000))
    assert done
    check_both(two, plain)


# -- reading


@pytest.mark.parametrize("place", ["_follow", "block", "vectors", "_add"])
def test_a_query_is_that_of_one_moment(
    two: tuple[Any, Any], plain: Plain, place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another distils in the midst of it: it is asked again."""
    one, other = two
    fill(one.observations, plain, 1)
    series = other.observations._of(*MARKET)
    fields = ["x", "row", "metadata", "embedding"]
    for _ in range(3):
        if place == "_add":  # that there is a row which was not followed yet
            add(one.observations, plain, 1.0, [2.0])
        with monkeypatch.context() as patch:
            done = once(series, place, one.observations.distill, patch)
            found = other.observations.recent(*MARKET, 5000, fields=fields, as_of=LATEST)
        check_same(found, plain.recent(5000, fields=fields))
        assert done
        add(one.observations, plain, 1.0, [2.0])
    check_both(two, plain)


@pytest.mark.parametrize("count", [1, 30])
def test_live_rows_are_distilled_before_they_are_followed(
    two: tuple[Any, Any], plain: Plain, count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are under their keys no more, and no block that was known has them: it is looked for once more."""
    one, other = two
    for number in range(count):
        add(one.observations, plain, float(number))
    done = once(other.observations._of(*MARKET), "_follow", one.observations.distill, monkeypatch)
    check(other.observations, plain)
    assert done
    add(one.observations, plain, 1.0)
    check_both(two, plain)


def test_live_rows_are_gone_when_they_are_fetched_again(
    two: tuple[Any, Any], plain: Plain, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(liverows, "PART_ROWS", 8)
    one, other = two
    for number in range(30):
        add(one.observations, plain, float(number))
    check(other.observations, plain)
    other.observations._budget.most = 0
    other.observations._budget.shrink()
    part = other.observations._of(*MARKET)._parts[0]
    done = once(part, "_fetch", one.observations.distill, monkeypatch)
    check(other.observations, plain)
    assert done
    check_both(two, plain)


def test_rows_come_behind_live_ones_that_were_given_up_and_are_gone(
    two: tuple[Any, Any], plain: Plain, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A part that is fetched again as a row is added to it, of which the rows are distilled at that moment."""
    one, other = two
    for number in range(3):
        add(one.observations, plain, float(number))
    assert other.observations.info(*MARKET).live_rows == 3
    other.observations._budget.most = 0
    other.observations._budget.shrink()
    add(one.observations, plain, 3.0)
    part = other.observations._of(*MARKET)._parts[0]
    done = once(part, "_fetch", one.observations.distill, monkeypatch)
    facts = other.observations.info(*MARKET)
    assert done
    assert (facts.rows, facts.live_rows) == (4, 0)
    check_both(two, plain)


def test_some_live_rows_of_those_given_up_are_distilled(
    two: tuple[Any, Any], plain: Plain, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Parts are cut where blocks cover them: what is left keeps its bounds, its order, its metadata."""
    monkeypatch.setattr(liverows, "PART_ROWS", 16)
    one, other = two
    later = one.now() + 3600 * 10**9
    for number in range(40):
        known, event = (START if number % 7 else later - 10**12), START - number % 5 * 10
        fields: Any = {"x": float(number)}
        plain.append(event, fields, known, f"{number}")
        one.observations.append(*MARKET, event, fields, ts_known=known, metadata=f"{number}")
    check(other.observations, plain)
    one.observations.distill(10**8)
    for each in two:
        check(each.observations, plain)
        assert 0 < each.observations.info(*MARKET).live_rows < 40
    for as_of in (START - 1, START, later):
        check_same(other.observations.recent(*MARKET, 7, as_of=as_of), plain.recent(7, as_of=as_of))
    add(one.observations, plain, 1.0)
    check_both(two, plain)
    engine = one._engine()
    assert len([*engine.entries_of(series.ROWS, b"")]) == 0  # also of the numbers that were left at first


def test_threads_of_two_series_share_a_budget() -> None:
    budget = liverows.Budget(0)
    parts = [liverows.LivePart(series.Layout(("x",), "f", 0), lambda numbers: {}, budget) for _ in range(50)]

    def work(part: Any) -> None:
        for _ in range(300):
            budget.touch(part)
            budget.drop(part)
            budget.shrink()

    errors: list[Any] = []
    hook, threading.excepthook = threading.excepthook, errors.append
    try:
        threads = [threading.Thread(target=work, args=(part,)) for part in parts[:8] * 2]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(HANG)
    finally:
        threading.excepthook = hook
    assert errors == []


# -- distilling


@pytest.mark.parametrize("what", ["append", "load", "distill", "other fields", "sweep"])
def test_the_series_changes_while_rows_are_coded(
    two: tuple[Any, Any], plain: Plain, what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, other = two
    fill(one.observations, plain, 1)

    def meanwhile() -> None:
        if what == "append":
            add(other.observations, plain, 5.0)
        elif what == "load":
            other.observations.extend(*MARKET, table(1200))
            plain.extend(table(1200))
        elif what == "distill":
            other.observations.distill()
        elif what == "other fields":
            plain.append(START, {"new": 1}, START)
            other.observations.append(*MARKET, START, {"new": 1}, ts_known=START)

    place = "sweep" if what == "sweep" else "encode_block"
    done = once(distilling, place, meanwhile if what != "sweep" else other.observations.distill, monkeypatch)
    one.observations.distill()
    assert done
    check_both(two, plain)
    row = one.observations._of(*MARKET).row()
    entries = row.entries
    assert int(entries["rows"].sum()) == len(plain.rows)
    assert (entries["first"][1:] == entries["first"][:-1] + entries["rows"][:-1]).all()
    engine = one._engine()
    assert len([*engine.entries_of(series.ROWS, b"")]) == 0
    assert len([*engine.entries_of(series.BLOCKS, b"")]) == len(entries)
    assert (row.garbage, bool((entries["flags"] & series.SWEPT).all())) == ((), True)


def test_rows_that_were_left_are_swept_later(
    two: tuple[Any, Any], plain: Plain, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Distilled past a gap: no covered row is forgotten when the gap is closed, whoever died on the way."""
    one, _ = two
    now = one.now()
    for number in range(50):
        known = now if 10 <= number < 20 else START
        plain.append(START, {"x": float(number)}, known)
        one.observations.append(*MARKET, START, {"x": float(number)}, ts_known=known)
    with monkeypatch.context() as patch:
        patch.setattr(one._engine(), "drop", Mock(side_effect=InterruptedError))
        with pytest.raises(InterruptedError):
            one.observations.distill(3600)
    for each in two:
        check(each.observations, plain)
    one.observations.distill(3600)
    assert one.observations.info(*MARKET).live_rows == 10
    assert (one.observations._of(*MARKET).row().entries["flags"] & series.SWEPT).all()
    for each in two:
        check(each.observations, plain)
    one.observations.distill()
    check_both(two, plain)
    assert len([*one._engine().entries_of(series.ROWS, b"")]) == 0


def test_what_is_absent_as_it_was_distilled_is_no_end(
    two: tuple[Any, Any], plain: Plain, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The rows behind it are live, and the log has none of them any more."""
    one, other = two
    now = one.now()

    def append(numbers: Any, known: int) -> None:
        for number in numbers:
            plain.append(START, {"x": float(number)}, known)
            one.observations.append(*MARKET, START, {"x": float(number)}, ts_known=known)

    def meanwhile() -> None:
        append(range(5, 8), START)
        append(range(8, 10), now)
        one.observations.distill(3600)
        for number in range(300):
            one.put("desk", str(number), bytes(100))
            if number % 10 == 0:
                one.flush()
        one.flush()

    append(range(5), START)
    check(other.observations, plain)
    done = once(other.observations._of(*MARKET), "_mark", meanwhile, monkeypatch)
    check(other.observations, plain)
    assert done
