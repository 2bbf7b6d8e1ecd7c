"""Make a store with every kind of data in it, as the versions to come must be able to read it for ever.

``python tests/format/make_store.py`` writes ``stores/schema-N.mdb.gz`` of the schema N that this version writes. Run it
once when a schema is released, and never for one that was: what stands there is what users have.
"""

from __future__ import annotations

import gzip
import tempfile
from pathlib import Path

import numpy as np

import ntmem
from ntmem.tiers.opening import SCHEMA

STORES = Path(__file__).parent / "stores"
SECOND = 10**9
START = 1_700_000_000 * SECOND


def make(path: Path) -> None:
    """Make the store in a directory."""
    clock = ntmem.SimulatedClock(START)
    with ntmem.open(path, clock=clock, agent_id="agent_1", graph_share=0) as memory:
        records(memory, clock)
        positions(memory)
        observations(memory)
        vectors(memory)
        trajectories(memory, clock)
        coordination(memory)
    ntmem.compact(path)


def records(memory: ntmem.MemorySystem, clock: ntmem.SimulatedClock) -> None:
    """Plain ones, with a time to live, of long keys and names, under a lease; a namespace with history."""
    memory.put("desk", "target", b"3", ts_event=5)
    memory.put("desk", "binary", b"\xff\x00")
    memory.put("desk", "expired", b"x", ttl=1)
    memory.put("desk", "lives", b"y", ttl=10**6)
    memory.put(("desk", "ü" * 100, "ü" * 127, "ü" * 100), "k" * 5000, b"long")
    memory.put("desk", "large", b"0123456789" * 3000)
    with memory.lock("BTCUSDT") as lock:
        memory.put("desk", "fenced", b"1", fence=lock)
    memory.retain("px", history=True, max_age=10**9)
    for price in range(5):
        memory.put("px", "BTC", b"%d" % price, ttl=None if price else 1)
        clock.set(memory.now() + 10 * SECOND)
    memory.delete("px", "BTC")
    memory.put("px", "ahead", b"1", ts_known=START + 10**6 * SECOND)


def positions(memory: ntmem.MemorySystem) -> None:
    """Instruments, fills, cash, one that was set, one in hedged mode, a reservation."""
    p = memory.positions
    p.define("ES", price_precision=2, quantity_precision=0, multiplier="12.5", currency="USD")
    p.apply_fill("ES", 3, "5000.25", trade_id="1", fee="1.1", ts_event=START)
    p.apply_fill("ES", -5, "5001.75", trade_id="2", ts_event=START + 1)
    p.apply_cash("ES", "-7.5", cash_id="1")
    p.apply_fill("BTCUSDT", "0.12345678", "61800.3", trade_id="1", account="a", strategy="s", position_id="p")
    p.upsert(p.from_ccxt({"symbol": "SOL", "contracts": 5, "side": "short", "entryPrice": 100.5}))
    p.reserve("ES", 2, limit=10, ttl=10**6)


def observations(memory: ntmem.MemorySystem) -> None:
    """Live rows of several layouts, with metadata and embeddings; blocks."""
    o = memory.observations
    stamps = START + np.arange(2000)
    o.extend("market", "BTC", {"ts_event": stamps, "p": np.arange(2000) / 8, "n": np.arange(2000)}, known_after=0)
    o.append("market", "ETH", START, {"bid": 1.5})
    o.append("market", "ETH", START + 1, {"bid": 2, "ask": -0.0}, metadata={"why": [1, "two"]})
    o.append("market", "ETH", START + 2, {"bid": float("inf")}, embedding=[0.5, 0.25])


def vectors(memory: ntmem.MemorySystem) -> None:
    """A collection of each type, one with a past."""
    v = memory.vectors
    for dtype in ("int8", "float16", "float32"):
        v.create(("setups", dtype), 2, metric="l2", dtype=dtype)
        for number in range(5):
            v.add(("setups", dtype), str(number), [number, 1], {"number": number}, ts_event=number)
        v.add(("setups", dtype), "0", [9, 1], {"number": 9})
        v.delete(("setups", dtype), "1")


def trajectories(memory: ntmem.MemorySystem, clock: ntmem.SimulatedClock) -> None:
    """Enough of them for a pattern to be learnt, verdicts, one that is open."""
    bank = memory.bank
    for number in range(12):
        with bank.begin("agent_1", "trade the breakout") as trajectory:
            trajectory.add_observation({"n": number}, embedding=[1.0, 0.01 * number])
            trajectory.add_action("buy", {"quantity": 1}, predicted_outcome=1.0)
            trajectory.add_outcome(1.0 + 0.01 * number)
        bank.judge(trajectory.id)
        clock.set(memory.now() + SECOND)
    bank.distill()
    bank.begin("agent_2", "watch")


def coordination(memory: ntmem.MemorySystem) -> None:
    """Durable messages and a cursor; voters, a decision, an open proposal."""
    for number in range(3):
        memory.publish("orders", b"%d" % number, durable=True)
    with memory.subscribe("orders", durable="books", since=0) as subscription:
        message = subscription.recv(timeout=10)
        assert message is not None
        subscription.ack(message)
    c = memory.consensus
    for voter in ("a", "b", "c"):
        c.register(voter)
    decided = c.submit_proposal(ntmem.Proposal("a", {"do": "flat"}))
    for voter in ("a", "b", "c"):
        if c.result(decided).status == "pending":
            c.vote(ntmem.Vote(decided, voter, True))
    c.submit_proposal(ntmem.Proposal("b", {"do": "wait"}))


def main() -> None:
    target = STORES / f"schema-{SCHEMA}.mdb.gz"
    if target.exists():
        raise SystemExit(f"{target} is there: it is what users have, and stays")
    with tempfile.TemporaryDirectory() as directory:
        make(Path(directory) / "desk")
        data = (Path(directory) / "desk" / "data.mdb").read_bytes()
    STORES.mkdir(exist_ok=True)
    target.write_bytes(gzip.compress(data, mtime=0))
    print(f"{target}: {target.stat().st_size} bytes, of {len(data)}")


if __name__ == "__main__":
    main()
