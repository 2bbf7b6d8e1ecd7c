"""What does not fit together is found by ``verify``, each planted where no checksum tells; writers cause no alarm."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from hostile import Start

import ntmem
from ntmem.tiers import bookrows
from ntmem.tiers.cold import ColdStore
from ntmem.tiers.guards import (
    BLOCKS,
    COLLECTIONS,
    ENTRIES,
    POINTS,
    POSITIONS,
    ROWS,
    SERIES,
    TRAJECTORIES,
    TRAJECTORY_INDEX,
)
from ntmem.tiers.guards import VECTORS as EMBEDDINGS
from ntmem.tiers.layout import Stored, expiry_key, id_prefix, record_key
from ntmem.tiers.points import decode_point
from ntmem.tiers.series import decode_series, encode_series
from ntmem.tiers.tables import Tables
from ntmem.tiers.verification import verify_store

pytestmark = [pytest.mark.usefixtures("engine"), pytest.mark.only("shared")]

FILL = """
def fill(memory, n):
    memory.put("desk", str(n % 50), b"x", ttl=1e-3 if n % 3 == 0 else 1e6)
    memory.put("px", str(n % 5), b"%d" % n, ttl=1e6)
    if n % 7 == 0:
        memory.delete("px", str(n % 5))
    o, v, p = memory.observations, memory.vectors, memory.positions
    o.append("market", "BTC", n, {"bid": n + 0.5})
    o.append("market", "ETH", n, {"bid": n}, metadata={"n": n}, embedding=[n, 1.0])
    if n % 200 == 5:
        o.extend("market", "BTC", {"ts_event": [n] * 1100, "bid": [1.0] * 1100}, known_after=0)
    if n % 40 == 7:
        o.distill()
    v.add("setups", str(n % 9), [n, 1.0])
    v.delete("setups", str(n % 4))
    p.apply_fill("ES", 7 - n % 15 or 1, f"{100 + n % 13}.25", trade_id=str(n), fee="0.01", account=str(n % 2))
    p.apply_cash("ES", n, cash_id=str(n))
    t = ntmem.Trajectory("agent_1", task="t")
    t.add_observation({"x": n}, embedding=[1.0, n])
    t.add_action("buy", {}, predicted_outcome=1.0)
    memory.track_trajectory(t)
    t.add_outcome(1.0)
"""
_made: dict[str, Any] = {"ntmem": ntmem}
exec(FILL, _made)
fill: Callable[[ntmem.MemorySystem, int], None] = _made["fill"]


@pytest.fixture
def store(ram: Path) -> Path:
    with ntmem.open(ram / "desk", graph_share=0) as memory:
        memory.retain("px", history=True)
        for n in range(1, 19):
            fill(memory, n)
        memory.positions.upsert(memory.positions.from_ccxt({"symbol": "SET", "contracts": 5, "side": "long"}))
        memory.positions.apply_fill("SET", 2, 1, trade_id="1")
    assert ntmem.verify(ram / "desk").problems == ()
    return ram / "desk"


Act = Callable[["Planter"], object]


class Planter:
    """Changes rows as somebody who knows the format, checksums and all."""

    def __init__(self, tables: Tables) -> None:
        self.tables = tables

    def id_of(self, *labels: str) -> int:
        row = self.tables.namespace(labels)
        assert row is not None
        return row.id

    def first(self, labels: tuple[str, ...], stem: bytes = b"") -> tuple[bytes, Stored]:
        head = id_prefix(self.id_of(*labels))
        return next(it for it in self.tables.records_from(head, head) if it[0][8:].startswith(stem) and it[0][8] >= 32)

    def drop(self, labels: tuple[str, ...], key: bytes) -> None:
        self.tables.delete_record(record_key(self.id_of(*labels), key))

    def change(self, labels: tuple[str, ...], value: Callable[[bytes], bytes], stem: bytes = b"") -> None:
        where, stored = self.first(labels, stem)
        self.tables.put_record(where, stored._replace(value=value(stored.value)))

    def copy(self, labels: tuple[str, ...], key: bytes) -> None:
        _, stored = self.first(labels)
        self.tables.put_record(record_key(self.id_of(*labels), key), stored)


def plant(path: Path, act: Act) -> tuple[str, ...]:
    store = ColdStore(str(path), read_only=False, max_bytes=1 << 30)
    try:
        store.write(lambda txn: act(Planter(Tables(store, txn))))
        return verify_store(store).problems
    finally:
        store.close()


def future_record(p: Planter) -> None:
    where, stored = p.first(("desk",))
    p.tables.put_record(where, stored._replace(version=stored.version + (1 << 30)))


def past_of(p: Planter) -> tuple[bytes, Stored]:
    return next(p.tables.past(p.id_of("px")))


def future_past(p: Planter) -> None:
    where, stored = past_of(p)
    p.tables.delete_past(where)
    p.tables.put_past(p.id_of("px"), stored._replace(version=1 << 62))


def past_ahead_of_current(p: Planter) -> None:
    stored = next(s for _, s in p.tables.past(p.id_of("px")) if s.key == b"1")
    current = p.tables.record(record_key(p.id_of("px"), stored.key))
    assert current is not None
    p.tables.put_record(record_key(p.id_of("px"), stored.key), current._replace(version=stored.version))


def lost_past(p: Planter) -> None:
    p.tables.delete_past(past_of(p)[0])


def unindexed(p: Planter) -> None:
    where, stored = next((w, s) for w, s in p.tables.records_from(b"", b"") if s.expires_at)
    p.tables.delete_expiry(expiry_key(stored.expires_at, where))


def dangling_index(p: Planter) -> None:
    where, stored = next((w, s) for w, s in p.tables.records_from(b"", b"") if s.expires_at)
    p.tables.put_expiry(expiry_key(stored.expires_at + 5, where), b"\x02px")


def other_quantity(p: Planter) -> None:
    def more(value: bytes) -> bytes:
        held = bookrows.decode_held(value)
        return bookrows.encode_held(held._replace(quantity=held.quantity + 1))

    p.change(POSITIONS, more, b"ES")


def lost_fill(p: Planter) -> None:
    p.drop(ENTRIES, p.first(ENTRIES, b"ES")[0][8:])


def lost_block(p: Planter) -> None:
    p.drop(BLOCKS, p.first(BLOCKS)[0][8:])


def other_block(p: Planter) -> None:
    def wrong(value: bytes) -> bytes:
        row = decode_series(value)
        entries = row.entries.copy()
        entries["event_max"] += 1
        return encode_series(msgspec.structs.replace(row, blocks=entries.tobytes()))

    p.change(SERIES, wrong, b"market\0BTC")


def rows_of(p: Planter) -> list[bytes]:
    head = id_prefix(p.id_of(*ROWS))
    return [where[8:] for where, _ in p.tables.records_from(head, head)]


def lost_row(p: Planter) -> None:
    keys = rows_of(p)
    p.drop(ROWS, next(key for key, after in pairwise(keys) if int(after, 16) == int(key, 16) + 1))


def short_row(p: Planter) -> None:
    where = record_key(p.id_of(*ROWS), rows_of(p)[-1])
    stored = p.tables.record(where)
    assert stored is not None
    p.tables.put_record(where, stored._replace(value=stored.value[:-1]))


def lost_embedding(p: Planter) -> None:
    head = id_prefix(p.id_of(*EMBEDDINGS))
    last = [where for where, _ in p.tables.records_from(head, head)][-1]
    p.tables.delete_record(last)


def row_of_nobody(p: Planter) -> None:
    p.copy(ROWS, b"%08x%012x" % (99, 0))


def lost_vector(p: Planter) -> None:
    p.drop(POINTS, b"%08x%012x" % (int(p.first(POINTS)[0][8:16], 16), 3))


def other_dimension(p: Planter) -> None:
    p.change(POINTS, lambda value: decode_point(value)._replace(vector=np.ones(5, np.float32)).encode())


def lost_collection(p: Planter) -> None:
    p.drop(COLLECTIONS, b"setups")


def lost_step(p: Planter) -> None:
    p.drop(TRAJECTORIES, p.first(TRAJECTORIES)[0][8:-6] + b"000001")


def lost_trajectory(p: Planter) -> None:
    stem = p.first(TRAJECTORIES)[0][8:-6]
    for step in range(4):
        p.drop(TRAJECTORIES, stem + b"%06x" % step)


def unindexed_trajectory(p: Planter) -> None:
    p.drop(TRAJECTORY_INDEX, p.first(TRAJECTORY_INDEX, b"n")[0][8:])


PLANTED: list[tuple[Any, str]] = [
    (future_record, r"records: .* has version \d+, the newest change has"),
    (future_past, r"history: .* has version \d+, the newest change has"),
    (past_ahead_of_current, r"history: .* the current one of its key"),
    (lost_past, "history: that of px takes"),
    (unindexed, "which the index does not say"),
    (dangling_index, "where no record expires then"),
    (other_quantity, r"positions: \['ES'.* those kept come to"),
    (lost_fill, r"positions: \['ES'.* those kept come to"),
    (lost_block, "observations: block .* is missing"),
    (other_block, "is not what its series says"),
    (lost_row, "has no rows"),
    (short_row, "which its layout has not"),
    (lost_embedding, "the embedding of row .* is missing"),
    (row_of_nobody, "rows of series 99"),
    (lost_vector, "has no changes 3 to 4"),
    (other_dimension, "has 5 dimensions"),
    (lost_collection, "which there is not"),
    (lost_step, "has no steps 1 to 2"),
    (lost_trajectory, "the index has"),
    (unindexed_trajectory, "trajectories: there are 18, the index has 17"),
]


def test_what_does_not_fit_together_is_found(store: Path, ram: Path) -> None:
    for number, (act, expected) in enumerate(PLANTED):
        path = ram / f"planted {number}"
        shutil.copytree(store, path)
        problems = plant(path, act)
        assert any(re.search(expected, problem) for problem in problems), (act.__name__, problems)
        assert len(problems) <= 6, (act.__name__, problems)


def test_writers_cause_no_alarm(store: Path, start: Start) -> None:
    code = (
        FILL
        + """
memory = ntmem.open(sys.argv[1], graph_share=0.1)
say("ready")
for n in range(int(sys.argv[2]), 1_000_000, 2):
    fill(memory, n)
    time.sleep(0.02)  # there are others on this machine
"""
    )
    writers = [start(code, store, first) for first in (1000, 1001)]
    for writer in writers:
        writer.line()
    for _ in range(2):
        assert ntmem.verify(store).problems == ()
    for writer in writers:
        writer.kill()
    with ntmem.open(store) as memory:
        memory.compact()
        assert memory.verify().problems == ()
        memory.positions.purge_closed(1e-9)
        memory.vectors.drop("setups")
        memory.delete_namespace("px")
        assert memory.verify().problems == ()


def test_the_fold_is_the_book(ram: Path) -> None:
    rng = np.random.default_rng(3)
    with ntmem.open(ram / "desk") as memory:
        p = memory.positions
        for n in range(400):
            quantity = int(rng.integers(-9, 10)) or 1
            p.apply_fill(
                "ES", quantity, f"{rng.integers(1, 999)}.{rng.integers(0, 99):02}", trade_id=str(n), fee="-0.5"
            )
        memory.flush()
        assert memory.verify().ok


def test_numpy_is_not_imported_for_a_store_without_arrays(ram: Path, start: Start) -> None:
    """It takes longer than to look through a small store, and each verification is a process."""
    with ntmem.open(ram / "desk") as memory:
        memory.put("desk", "target", b"3")
    code = "from ntmem.tiers.verification import _check\nsay(_check(sys.argv[1]).problems, 'numpy' in sys.modules)"
    assert start(code, ram / "desk").end() == "[] False"
