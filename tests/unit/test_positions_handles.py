"""The position book under leases, on disk, and by handles that are closed, only read, or are forked."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from booked import image
from hostile import Start

import ntmem
from ntmem import (
    StaleFence,
    StorageError,
    StoreClosed,
)

pytestmark = [pytest.mark.usefixtures("engine"), pytest.mark.only("shared")]

START = 1_700_000_000_000_000_000


def test_under_a_lease(memory: Any, book: Any) -> None:
    lock = memory.lock("A")
    with lock:
        assert book.apply_fill("A", 1, 10, trade_id="1", fence=lock).applied
        assert book.apply_cash("A", 1, cash_id="1", fence=lock.fence).applied
        stale = lock.fence
        book.upsert(book.get("A"), fence=lock)
        book.reserve("A", 1, limit=10, fence=lock)
    before = image(book)
    for symbol in ("A", "new"):
        for call in (
            lambda symbol=symbol: book.apply_fill(symbol, 1, 10, trade_id="2", fence=stale),
            lambda symbol=symbol: book.apply_cash(symbol, 1, cash_id="2", fence=stale),
            lambda symbol=symbol: book.reserve(symbol, 1, limit=10, fence=stale),
            lambda: book.upsert(book.get("A"), fence=stale),
        ):
            with pytest.raises(StaleFence):
                call()
    assert image(book) == before
    assert book.apply_fill("A", 1, 10, trade_id="2").applied


def test_records_say_under_which_lease_they_were_written(memory: Any, book: Any) -> None:
    with memory.lock("A") as lock:
        book.apply_fill("A", 1, 10, trade_id="1", fence=lock)
        book.apply_fill("B", 1, 10, trade_id="1")
        fences = {"A": lock.fence, "B": None}
    for flushed in (False, True):
        for symbol, fence in fences.items():
            for space, end in (("ntmem/fills", "\x1f1"), ("ntmem/positions", "")):
                record = memory.get_record(space, f"{symbol}\x1f\x1f\x1f{end}")
                assert (record.fence, record.writer) == (fence, "agent_1"), (flushed, space, symbol)
        memory.flush()


def test_a_lease_that_ends_meanwhile(memory: Any, book: Any) -> None:
    """It was current when the call began, and is not when the mutex is held."""
    instrument = book.instrument
    for call in (
        lambda fence: book.apply_fill("A", 1, 10, trade_id="1", fence=fence),
        lambda fence: book.apply_cash("A", 1, cash_id="1", fence=fence),
    ):
        lock = memory.lock("A")
        lock.acquire()

        def meanwhile(symbol: str, lock: Any = lock) -> Any:
            lock.release()
            return instrument(symbol)

        book.instrument = meanwhile
        with pytest.raises(StaleFence):
            call(lock.fence)
        book.instrument = instrument
        assert (book.get("A"), len(book.snapshot()), len(book.fills("A"))) == (None, 0, 0)
    assert book.apply_fill("A", 1, 10, trade_id="1").applied
    assert book.apply_cash("A", 1, cash_id="1").applied


def test_durable(ram: Path) -> None:
    with ntmem.open(ram / "s", flush_interval=3600) as memory:
        assert memory.positions.apply_fill("A", 1, 10, trade_id="1", durable=True).applied
        log = memory._live.log
        assert log.flushed == log.committed


def test_a_closed_store(ram: Path) -> None:
    with ntmem.open(ram / "s") as memory:
        book = memory.positions
        book.apply_fill("A", 1, 10, trade_id="1")
        held, view = book.get("A"), book.view()
    for call in (
        lambda: memory.positions,
        lambda: book.apply_fill("A", 1, 10, trade_id="1"),
        lambda: view.apply_fill("A", 1, 10, trade_id="2"),
        lambda: book.apply_cash("A", 1, cash_id="1"),
        lambda: book.mark("A", 1),
        lambda: book.fills("A"),
        lambda: book.net("A"),
        book.snapshot,
        book.open_positions,
        lambda: book.define("B"),
        lambda: book.reserve("A", 1, limit=5),
        lambda: book.reconcile({}),
        lambda: book.purge_closed(1),
        lambda: book.upsert(held),
    ):
        with pytest.raises(StoreClosed):
            call()
    assert held.quantity == 1.0


def test_a_reference_of_a_closed_store_is_not_made(ram: Path) -> None:
    """BUG 8: an internal error, ntmem._core.logrecords.LogShut, comes through."""
    with ntmem.open(ram / "s") as memory:
        book = memory.positions
    with pytest.raises(StoreClosed):
        book.ref("new")


def test_a_reader(ram: Path, start: Start) -> None:
    writer = start(
        "memory = ntmem.open(sys.argv[1])\np = memory.positions\np.apply_fill('A', 1, 10, trade_id='1')\n"
        "say('ready')\nhear()\np.apply_fill('A', 1, 10, trade_id='2'); say('more'); hear()\nmemory.close()",
        ram / "s",
    )
    assert writer.line() == "ready"
    with ntmem.open(ram / "s", read_only=True) as memory:
        book = memory.positions
        ref = book.ref("A")
        assert (book.quantity("A"), len(book.fills("A")), len(book.snapshot())) == (1.0, 1, 1)
        for call in (
            lambda: book.apply_fill("A", 1, 10, trade_id="1"),
            lambda: book.apply_cash("A", 1, cash_id="1"),
            lambda: book.define("B"),
            lambda: book.reserve("A", 1, limit=5),
            lambda: book.mark("A", 1),
            lambda: book.upsert(book.get("A")),
        ):
            with pytest.raises(StorageError):
                call()
        writer.tell()
        assert writer.line() == "more"
        assert ref.quantity == 2.0
    writer.tell()
    writer.end()


def test_a_store_without_shared_memory() -> None:
    with ntmem.open(engine="lmdb") as memory, pytest.raises(StorageError, match="engine='shared'"):
        memory.positions  # noqa: B018


@pytest.mark.parametrize("name", ["positions", "fills", "instruments", "reservations"])
def test_the_books_namespaces_are_its_own(memory: Any, book: Any, name: str) -> None:
    book.apply_fill("A", 1, 10, trade_id="1")
    space = f"ntmem/{name}"

    def transact() -> None:
        with memory.transaction() as t:
            t.put("desk", "k", b"v")
            t.put(space, "k", b"v")

    for call in (
        lambda: memory.put(space, "k", b"v"),
        lambda: memory.delete(space, "A\x1f\x1f\x1f"),
        lambda: memory.put_many(space, {"k": b"v"}),
        lambda: memory.delete_namespace(space),
        lambda: memory.delete_namespace("ntmem"),
        lambda: memory.retain(space, history=True),
        lambda: memory.incr(space, "k"),
        transact,
    ):
        with pytest.raises(ntmem.NotOwner, match="position book"):
            call()
    assert memory.get("desk", "k") is None
    assert book.quantity("A") == 1.0


def test_two_handles(ram: Path) -> None:
    with ntmem.open(ram / "s") as one, ntmem.open(ram / "s") as two:
        ref = two.positions.ref("A")
        assert ref.position is None
        with pytest.raises(AttributeError, match="nothing was ever held"):
            ref.average_price  # noqa: B018
        one.positions.apply_fill("A", 1, 10, trade_id="1")
        assert (ref.quantity, ref.average_price, ref.symbol, two.positions.quantity("A")) == (1.0, 10.0, "A", 1.0)
        assert not two.positions.apply_fill("A", 1, 10, trade_id="1").applied
        two.positions.apply_fill("A", 1, 20, trade_id="2")
        assert (one.positions.quantity("A"), ref.average_price) == (2.0, 15.0)
        held = one.positions.get("A")
        one.positions.apply_fill("A", 1, 20, trade_id="3")
        assert (held.quantity, ref.quantity, ref.key) == (2.0, 3.0, ("A", "", "", ""))
    with pytest.raises(TypeError):
        type(held)()


def test_a_forked_child_has_no_book(ram: Path, start: Start) -> None:
    child = start(
        """
memory = ntmem.open(sys.argv[1])
p = memory.positions
p.apply_fill("A", 1, 10, trade_id="1")
ref = p.ref("A")
calls = [lambda: p.get("A"), lambda: p.quantity("A"), lambda: ref.quantity, lambda: p.snapshot(), lambda: p.keys(),
         lambda: p.apply_fill("A", 1, 10, trade_id="2"), lambda: p.mark("A", 1), lambda: p.ref("B"), lambda: p.net("A")]
pid = os.fork()
if pid == 0:
    for call in calls:
        try:
            say("answered", call(), call.__code__.co_firstlineno)
        except Exception as error:
            say(type(error).__name__, "fork" in str(error) or "process" in str(error))
    os._exit(0)
os.waitpid(pid, 0)
say(p.quantity("A"))
""",
        ram / "s",
    )
    lines = child.end().split("\n")
    assert lines[-1] == "1.0"
    assert len(lines) == 10
    assert [line for line in lines[:-1] if not line.endswith(" True")] == []
