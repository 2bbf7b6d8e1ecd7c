"""Processes that die or stop at every step of booking: a fill is there wholly and once, or not at all.

``NTMEM_BOOK_KILLS`` says how many random kills there are.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import random
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hostile import ram_directory, regions
from logs import Nursery

import ntmem
from ntmem import StorageError

pytestmark = pytest.mark.crash

KILLS = int(os.environ.get("NTMEM_BOOK_KILLS", "40"))
BEFORE = ["locked", "checked", "reserved", "half_written", "written"]  # nothing of it is left
BETWEEN = ["sealed", "linked", "numbered"]  # finished by the next owner of the mutex
AFTER = ["committed", "announced", "book_committed", "book_copied", "book_published"]  # it is committed
POINTS = BEFORE + BETWEEN + AFTER
RING = 1 << 16

BOOKING = """
import ntmem
p = (memory := ntmem.open({path!r}, log_bytes=65536, flush_interval={interval})).positions
{first}
"""
FILL = "p.apply_fill('A', 2, 3, trade_id='dying', fee=1)"


@contextlib.contextmanager
def opened(directory: Path, **how: Any) -> Iterator[Any]:
    with ntmem.open(directory / "s", log_bytes=RING, flush_interval=3600.0, **how) as memory:
        yield memory


def script(directory: Path, *lines: str, first: str = "", interval: float = 3600.0) -> str:
    return BOOKING.format(path=str(directory / "s"), interval=interval, first=first) + "\n".join(lines)


def check(book: Any, symbol: str = "A") -> list[str]:
    """What is held is the sum of the fills that are there; return their ids. Every one buys, and pays 1 for it."""
    rows, position = book.fills(symbol), book.get(symbol)
    if position is None:
        assert len(rows) == 0
        return []
    ids = rows["trade_id"].tolist()
    assert len({*ids}) == len(ids)
    assert position.fills == len(ids)
    assert position.quantity == rows["quantity"].sum()
    assert float(position.cost_decimal) == (rows["quantity"] * rows["price"]).sum()
    assert int(position.fees_decimal) == rows["fee"].sum() == len(ids)
    assert (position.realized_pnl, position.version) == (0.0, rows["version"].max() + 1)
    snapshot = book.snapshot()
    assert snapshot["quantity"][snapshot["symbol"] == symbol].tolist() == [position.quantity]
    assert book.ref(symbol).fills == position.fills
    return ids


def begin(memory: Any, held: int) -> None:
    for number in range(held):
        memory.positions.apply_fill("A", 1, 1, trade_id=f"{number}", fee=1)
    memory.put("desk", "k", b"v")


def take_over(memory: Any) -> None:
    """Take the mutex from the dead, with something that is no fill."""
    memory.put("desk", "k", b"after")


@pytest.mark.parametrize("held", [0, 2])
@pytest.mark.parametrize("point", POINTS)
def test_who_is_killed_while_it_books(nursery: Nursery, ram: Path, point: str, held: int) -> None:
    with opened(ram) as memory:
        begin(memory, held)
        book = memory.positions
        before = check(book)
        ended, _ = nursery.run(script(ram, f"arm({point!r}, 'kill')", FILL, "os._exit(7)"))
        assert ended == "killed"
        # Nobody has the mutex yet: a reader has what is before it, or after it, never something else.
        assert book.quantity("A") in ((held + 2,) if point == "book_published" else (held,))
        take_over(memory)
        done = point not in BEFORE
        assert check(book) == before + ["dying"] * done
        assert book.quantity("A") == held + 2 * done
        again = book.apply_fill("A", 2, 3, trade_id="dying", fee=1)
        assert again.applied is not done
        assert check(book) == [*before, "dying"]
    with opened(ram) as memory:
        assert check(memory.positions) == [*before, "dying"]


@pytest.mark.parametrize("point", POINTS)
def test_all_die(nursery: Nursery, point: str) -> None:
    """The only process dies: who opens the store then has what the region says, and what it was told is there."""
    with ram_directory() as place:
        booked = [f"p.apply_fill('A', 1, 1, trade_id='{number}', fee=1)" for number in range(3)]
        for lines, expected in ((booked, [0, 1, 2]), ([], [0, 1, 2])):
            ended, _ = nursery.run(script(place, *lines, f"arm({point!r}, 'kill')", FILL, "os._exit(7)"))
            if ended == 7:
                assert not lines  # the second time it was known
                break
            assert ended == "killed"
            for _ in range(2):
                with opened(place) as memory:
                    ids = check(memory.positions)
                    assert ids[:3] == [f"{number}" for number in expected]
                    assert (ids[3:] == ["dying"]) is (point not in BEFORE)
        with opened(place) as memory:
            assert memory.positions.apply_fill("A", 2, 3, trade_id="dying", fee=1).applied is (point in BEFORE)
            assert check(memory.positions) == ["0", "1", "2", "dying"]


@pytest.mark.parametrize("point", POINTS)
def test_transactions_go_on_from_what_the_dead_have_committed(nursery: Nursery, ram: Path, point: str) -> None:
    """Until somebody has the mutex, the log may be ahead of what the book shows."""
    with opened(ram) as memory:
        begin(memory, 1)
        assert nursery.run(script(ram, f"arm({point!r}, 'kill')", FILL))[0] == "killed"
        with memory.transaction() as t:
            t.apply_fill("A", 1, 1, trade_id="next", fee=1)
        assert t.fills[0].applied
        assert sorted(check(memory.positions)) == sorted(["0", "next"] + ["dying"] * (point not in BEFORE))


@pytest.mark.parametrize("how", ["native", "transaction"])
def test_who_wakes_a_purged_position_dies_over_it(nursery: Nursery, ram: Path, how: str) -> None:
    with opened(ram) as memory:
        book = memory.positions
        book.apply_fill("A", 1, 10, trade_id="0", fee=1, ts_event=1000)
        book.apply_fill("A", -1, 15, trade_id="1", fee=1, ts_event=1000)
        assert book.purge_closed(1) == 1
    with opened(ram) as memory:
        book = memory.positions
        assert book.get("A") is None
        assert nursery.run(script(ram, "arm('book_copied', 'kill')", "p.ref('A')"))[0] == "killed"
        with pytest.raises(ntmem.FillTooOld):
            book.apply_fill("A", 1, 10, trade_id="0", fee=1, ts_event=1000)
        if how == "native":
            book.apply_fill("A", 1, 10, trade_id="2", ts_event=memory.now())
        else:
            with memory.transaction() as t:
                t.apply_fill("A", 1, 10, trade_id="2", ts_event=memory.now())
        assert (book.get("A").realized_pnl, book.get("A").fees, book.quantity("A")) == (5.0, 2.0, 1.0)


@pytest.mark.parametrize("end_by", ["continued", "killed"])
@pytest.mark.parametrize("point", POINTS)
def test_who_is_stopped_while_it_books(nursery: Nursery, ram: Path, point: str, end_by: str) -> None:
    """It has the mutex: nobody books meanwhile, everybody reads, and an older copy is nobody's business."""
    with opened(ram) as memory, opened(ram, max_flush_lag=0.02) as hasty:  # which alone has no patience
        begin(memory, 2)
        book = memory.positions
        ended, pid = nursery.run(script(ram, f"arm({point!r}, 'stop')", FILL))
        assert ended == "stopped"
        for _ in range(3):
            assert book.quantity("A") == (4.0 if point == "book_published" else 2.0)
            assert book.get("A").fees == (3.0 if point == "book_published" else 2.0)
        with pytest.raises((StorageError, ntmem.LockTimeout)):
            hasty.positions.apply_fill("A", 1, 1, trade_id="waits", fee=1)
        assert book.quantity("A") == (4.0 if point == "book_published" else 2.0)
        if end_by == "continued":
            assert nursery.resume(pid)[0] == "done"
        else:
            assert nursery.kill(pid)[0] == "killed"
        done = end_by == "continued" or point not in BEFORE
        take_over(memory)
        assert check(book) == ["0", "1"] + ["dying"] * done
        assert book.apply_fill("A", 1, 1, trade_id="waits", fee=1).applied
        assert book.apply_fill("A", 2, 3, trade_id="dying", fee=1).applied is not done
        assert sorted(check(book)) == ["0", "1", "dying", "waits"]


@pytest.mark.parametrize("point", ["repair_begun", "repair_linked", "repair_numbered", "repair_committed", "repaired"])
def test_who_repairs_dies_too(nursery: Nursery, ram: Path, point: str) -> None:
    with opened(ram) as memory:
        begin(memory, 1)
        assert nursery.run(script(ram, "arm('linked', 'kill')", FILL))[0] == "killed"
        other = "p.apply_fill('A', 1, 1, trade_id='other', fee=1)"
        ended, _ = nursery.run(script(ram, f"arm({point!r}, 'kill')", other))
        assert ended == "killed"
        take_over(memory)
        assert check(memory.positions) == ["0", "dying"]


@pytest.mark.parametrize("point", ["book_copied", "book_committed"])
def test_who_repairs_dies_publishing(nursery: Nursery, ram: Path, point: str) -> None:
    with opened(ram) as memory:
        begin(memory, 1)
        assert nursery.run(script(ram, "arm('book_committed', 'kill')", FILL))[0] == "killed"
        for _ in range(2):
            ended, _ = nursery.run(script(ram, f"arm({point!r}, 'kill')", "memory.put('desk', 'k', b'x')"))
            assert ended in ("killed", "done")
        take_over(memory)
        assert check(memory.positions) == ["0", "dying"]


def test_who_dies_between_the_two_words_of_a_new_slot(ram: Path) -> None:
    """BUG 11: the slot is found by its hash, and `used` does not count it: two keys have the same place then."""
    with opened(ram) as memory:
        book = memory.positions
        for symbol in ("A", "B"):
            book.apply_fill(symbol, 1, 1, trade_id="1", fee=1)
        (region,) = regions(ram)
        book.ref("C")
        with open(region, "r+b") as file, mmap.mmap(file.fileno(), 0) as words:
            words[words.find(b"ntbook01") + 16] -= 1
        book.apply_fill("D", 4, 1, trade_id="1", fee=1)
        book.apply_fill("E", 5, 1, trade_id="1", fee=1)
        found = {row["symbol"]: row["quantity"] for row in book.snapshot()}
        assert found == {"A": 1.0, "B": 1.0, "D": 4.0, "E": 5.0}


def test_a_mark_dies(nursery: Nursery, ram: Path) -> None:
    with opened(ram) as memory:
        begin(memory, 1)
        for point in ("book_copied", "book_published"):
            assert nursery.run(script(ram, f"arm({point!r}, 'kill')", "p.mark('A', 7)"))[0] == "killed"
            assert memory.positions.get("A").mark_price == (7.0 if point == "book_published" else None)
            take_over(memory)
            assert check(memory.positions) == ["0"]


def test_a_mark_outlives_a_repair(nursery: Nursery, ram: Path) -> None:
    """Repair publishes what is not published; the mark is newer than the group of its position."""
    with opened(ram) as memory:
        book = memory.positions
        for number in range(2):
            book.apply_fill("A", 1, 1, trade_id=f"{number}", fee=1)
            book.mark("A", 7 + number)
            assert nursery.run(script(ram, "arm('locked', 'kill')", FILL))[0] == "killed"
            take_over(memory)
            assert (book.get("A").mark_price, len(check(book))) == (7.0 + number, number + 1)


WORK = """
n = int({begin})
with open({told!r}, "ab", 0) as told:
    while True:
        for symbol in ("A", "B"):
            p.apply_fill(symbol, 1, 1, trade_id=f"{{n}}", fee=1)
            told.write(b"%s %d\\n" % (symbol.encode(), n))
        n += 1
"""


def test_random_kills(nursery: Nursery) -> None:
    """Two book, one of whom is killed at any time; what either was told is there once."""
    seed = random.randrange(1 << 32)
    random.seed(seed)
    with ram_directory() as place:
        with opened(place) as memory:
            begin(memory, 0)
        told = place / "told"
        for number in range(KILLS):
            lines = [
                WORK.format(begin=(2 * number + row) * 1_000_000, told=str(told)) for row in range(2)
            ]  # ids of their own
            pids = []
            for line in lines:
                fate, pid = nursery.run(script(place, line, interval=0.002), wait=False)
                assert fate == "started"
                pids.append(pid)
            time.sleep(random.uniform(0.01, 0.06))
            for pid in random.sample(pids, 2):
                os.kill(pid, signal.SIGKILL)
                if random.random() < 0.5:
                    time.sleep(random.uniform(0, 0.01))
            for pid in pids:
                nursery.kill(pid)
            if number % 4 == 0:
                with opened(place) as memory:
                    look(memory.positions, told, seed)
        with opened(place) as memory:
            look(memory.positions, told, seed)
            for symbol in ("A", "B"):
                for row in memory.positions.fills(symbol)["trade_id"][-50:]:
                    assert not memory.positions.apply_fill(symbol, 1, 1, trade_id=str(row), fee=1).applied
            look(memory.positions, told, seed)


def look(book: Any, told: Path, seed: int) -> None:
    lines = told.read_text().split("\n")[:-1] if told.exists() else []
    for symbol in ("A", "B"):
        ids = check(book, symbol)
        missing = {line[2:] for line in lines if line.startswith(symbol)} - {*ids}
        assert not missing, f"seed {seed}: acknowledged and lost: {sorted(missing)[:5]}"
