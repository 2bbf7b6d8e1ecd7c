"""Stores that released versions have written open for ever, with every kind of data that is in them."""

from __future__ import annotations

import gzip
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path

import numpy as np
import pytest

import ntmem
from ntmem.tiers.opening import SCHEMA

STORES = Path(__file__).parent / "stores"
SECOND = 10**9
START = 1_700_000_000 * SECOND
NAMES = sorted(path.name.removesuffix(".mdb.gz") for path in STORES.glob("schema-*.mdb.gz"))


@pytest.fixture(params=NAMES)
def store(request: pytest.FixtureRequest, ram: Path) -> Path:
    (ram / "desk").mkdir()
    (ram / "desk" / "data.mdb").write_bytes(gzip.decompress((STORES / f"{request.param}.mdb.gz").read_bytes()))
    return ram / "desk"


@pytest.fixture(params=["writing", "reading"])
def memory(request: pytest.FixtureRequest, store: Path) -> Iterator[ntmem.MemorySystem]:
    with ntmem.open(store, engine="shared", read_only=request.param == "reading", graph_share=0) as memory:
        yield memory


def test_there_is_one_of_each_schema() -> None:
    assert [f"schema-{number}" for number in range(1, SCHEMA + 1)] == NAMES, "python tests/format/make_store.py"
    assert all((STORES / f"{name}.mdb.gz").stat().st_size < 200_000 for name in NAMES)


def test_it_is_sound_before_and_after_it_is_opened(store: Path) -> None:
    assert ntmem.verify(store).problems == ()
    for engine in ("lmdb", "shared"):
        with ntmem.open(store, engine=engine) as memory:  # type: ignore[arg-type]
            before = memory.stats().last_version
            assert memory.put("desk", engine, b"") > before
    assert ntmem.verify(store).problems == ()


def test_records_and_their_past(memory: ntmem.MemorySystem) -> None:
    record = memory.get_record("desk", "target")
    assert record is not None
    assert (record.value, record.ts_event, record.ts_known, record.writer) == (b"3", 5, START, "agent_1")
    assert memory.get("desk", "binary") == b"\xff\x00"
    assert memory.get("desk", "large") == b"0123456789" * 3000
    assert memory.get(("desk", "ü" * 100, "ü" * 127, "ü" * 100), "k" * 5000) == b"long"
    assert memory.get("desk", "expired") is None
    lives = memory.get_record("desk", "lives")
    assert lives is not None
    assert lives.expires_at == START + 10**6 * SECOND
    fenced = memory.get_record("desk", "fenced")
    assert fenced is not None
    assert fenced.fence == ntmem.Fence("BTCUSDT", 1)
    assert [it.value for it in memory.history("px", "BTC")] == [None, b"4", b"3", b"2", b"1", b"0"]
    for after, value in ((0, b"0"), (5, None), (10, b"1"), (49, b"4"), (50, None)):
        found = memory.get_record("px", "BTC", as_of=START + after * SECOND)
        assert (found and found.value) == value
    assert memory.get("px", "ahead") is None
    ahead = memory.get_record("px", "ahead", as_of=ntmem.LATEST)
    assert ahead is not None
    with pytest.raises(ntmem.HistoryNotRetained):
        memory.get_record("px", "BTC", as_of=START - 1)


def test_positions(memory: ntmem.MemorySystem) -> None:
    p = memory.positions
    es = p.get("ES")
    assert es is not None
    assert (es.quantity, es.average_price, es.funding_decimal, es.fees_decimal) == (
        *(-2.0, 5001.75, Decimal("-7.5"), Decimal("1.1")),
    )
    assert es.realized_pnl_decimal == 3 * Decimal("1.5") * Decimal("12.5")
    assert p.fills("ES")["trade_id"].tolist()[:2] == ["1", "2"]
    assert p.instrument("ES") == ("ES", 2, 0, Decimal("12.5"), "USD")
    assert p.quantity("BTCUSDT", "a", "s", "p") == 0.12345678
    assert p.quantity("SOL") == -5.0
    assert [it.quantity for it in p.reservations("ES")] == [2]
    if not memory.read_only:
        assert not p.apply_fill("ES", 3, "5000.25", trade_id="1", fee="1.1", ts_event=START).applied


def test_observations(memory: ntmem.MemorySystem) -> None:
    o = memory.observations
    rows = o.range("market", "BTC", 0, 2 * START)
    assert np.array_equal(rows["ts_event"], START + np.arange(2000))
    assert np.array_equal(rows["p"], np.arange(2000) / 8)
    assert np.array_equal(rows["n"], np.arange(2000))
    rows = o.recent("market", "ETH", 9, fields=["bid", "ask", "metadata", "embedding"])
    assert rows["bid"].tolist() == [1.5, 2.0, float("inf")]
    assert str(rows["ask"].tolist()) == "[nan, -0.0, nan]"
    assert rows["metadata"].tolist() == [None, {"why": [1, "two"]}, None]
    assert rows["embedding"][2].tolist() == [0.5, 0.25]
    assert rows["embedding"][0] is None


def test_vectors(memory: ntmem.MemorySystem) -> None:
    for dtype in ("int8", "float16", "float32"):
        hits = memory.vectors.search(("setups", dtype), [9, 1], 10)
        assert [hit.id for hit in hits] == ["0", "4", "3", "2"]
        assert hits[0].metadata == {"number": 9}
        assert hits[1].ts_event == 4


def test_trajectories_and_patterns(memory: ntmem.MemorySystem) -> None:
    assert memory.stats().total_trajectories == 13
    bank = memory.bank
    assert len(memory.trajectories.find(agent_id="agent_1", limit=20).trajectories) == 12
    assert len(memory.trajectories.find(verdict="correct", limit=20).trajectories) == 12
    (pending,) = memory.trajectories.find(agent_id="agent_2").trajectories
    assert (pending.task, pending.status) == ("watch", "open")
    recalled = bank.recall([1.0, 0.05], 3)
    assert recalled
    assert recalled[0].action == "buy"
    assert recalled[0].support >= 10
    if not memory.read_only:
        assert bank.begin("agent_1", "more").id


def test_messages_and_decisions(memory: ntmem.MemorySystem) -> None:
    with memory.subscribe("orders", durable=True, since=0) as every:
        found = [every.recv(timeout=10) for _ in range(3)]
    assert [it.payload for it in found if it is not None] == [b"0", b"1", b"2"]
    if not memory.read_only:
        with memory.subscribe("orders", durable="books") as books:
            message = books.recv(timeout=10)
        assert message is not None
        assert message.payload == b"1"
    c = memory.consensus
    (decided,) = c.decisions()
    assert decided.status == "approved"
    (pending,) = c.pending()
    assert c.proposal(pending if isinstance(pending, str) else pending.id).data == {"do": "wait"}
