"""What is exported and imported again is the same: every kind of data, in every format, once."""

from __future__ import annotations

import asyncio
import gzip
import importlib.util
import json
import os
import struct
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hostile import Start

import ntmem

SECOND = 10**9
NOW = 1_700_000_000 * SECOND

pytestmark = [pytest.mark.usefixtures("engine"), pytest.mark.only("shared")]

HAS_ARROW = importlib.util.find_spec("pyarrow") is not None
FORMATS = (".jsonl", ".jsonl.gz", *[".parquet"] * HAS_ARROW)
ODD = struct.unpack("<d", (0x7FF8_0000_0000_0123).to_bytes(8, "little"))[0]


def fill_store(memory: ntmem.MemorySystem, clock: ntmem.SimulatedClock) -> None:
    memory.put("desk", "target", b"3", ts_event=5)
    memory.put("desk", "binary", b"\xff\x00", ttl=3600)
    memory.put("desk", "short", b"", ttl=1)
    memory.put(("desk", "a b", "ü"), "x" * 700, b"y" * 70_000)
    memory.retain("px", history=True, max_age=10**6)
    for step in range(6):
        clock.set(NOW + step * SECOND)
        if step == 3:
            memory.delete("px", "BTC")
        else:
            memory.put("px", "BTC", b"%d" % step, ttl=1.5 if step == 1 else None)
        memory.put("px", "ETH", b"twice")
    memory.put("px", "early", b"1", ttl=3)
    clock.set(memory.now() + SECOND)
    memory.delete("px", "early")  # before it expires; when it is imported it has
    clock.set(memory.now() + 5 * SECOND)
    memory.put("px", "ahead", b"later", ts_known=NOW + 10**6 * SECOND)
    memory.put("px", "gone", b"1")
    memory.delete("px", "gone")
    o = memory.observations
    for i in range(20):
        o.append("market", "BTC", NOW + i, {"bid": i + 0.5, "n": i}, ts_known=NOW + i % 3)
    o.append("market", "BTC", NOW, {"bid": float("nan")}, metadata={"why": b"\xff"})
    o.append("market", "BTC", NOW, {"bid": -0.0}, embedding=[0.1, 0.2], metadata={"a": 1.0})
    o.append("market", "BTC", NOW, {"bid": ODD, "n": 2**50})
    stamps = np.arange(NOW, NOW + 3000)
    o.extend("market", "bulk", {"ts_event": stamps, "p": np.sqrt(np.arange(3000.0))}, known_after=1e-9)
    o.extend("market", "bulk", {"ts_event": stamps[:1500], "p": np.arange(1500)}, known_after=1e-9)
    v = memory.vectors
    v.create("setups", 3, metric="l2", dtype="float32", m=8)
    for i in range(10):
        v.add("setups", f"id {i % 7}", [0.1 * i, 1 / 3, -1], {"i": i}, ts_event=i, ts_known=NOW + i)
    v.delete("setups", "id 6", ts_known=NOW + 100)
    v.add("setups", "odd", [1, 2, 3], {"raw": b"\x00\xff"})
    p = memory.positions
    p.define("ES", price_precision=2, quantity_precision=0, multiplier="12.5", currency="USD")
    p.apply_fill("ES", 3, "5000.25", trade_id="1", fee="1.1", ts_event=NOW)
    p.apply_fill("ES", -5, "5001.75", trade_id="2")
    p.apply_cash("ES", "-7.5", cash_id="1")
    p.apply_fill("BTCUSDT", "0.12345678", "61800.3", trade_id="1", account="a", strategy="s", position_id="p")
    p.apply_fill("BTCUSDT", "-0.12345678", "61800.4", trade_id="2", account="a", strategy="s", position_id="p")
    p.upsert(p.from_ccxt({"symbol": "SOL", "contracts": 5, "side": "short", "entryPrice": 100.5}))
    memory.publish("orders", b"1", durable=True)
    t = ntmem.Trajectory("agent_1", task="t")
    t.add_observation({"x": 1}, embedding=[1.0, 0.0])
    t.add_outcome(1.0)
    memory.track_trajectory(t)
    memory.consensus.register("one")


def answers(memory: ntmem.MemorySystem) -> dict[str, Any]:
    """All that users can ask for, without versions and writers."""
    found: dict[str, Any] = {}
    for name in (("desk",), ("desk", "a b", "ü")):
        for key, value in memory.scan(name):
            record = memory.get_record(name, key)
            assert record is not None
            found[f"{name} {key}"] = (value, record.ts_event, record.ts_known, record.expires_at)
    for key in ("BTC", "ETH", "early", "ahead", "gone", "never"):
        past = memory.history("px", key)
        found[f"px {key}"] = [(it.value, it.ts_event, it.ts_known, it.expires_at) for it in past]
        for half in range(-4, 24):
            at = NOW + half * SECOND // 2
            try:
                record = memory.get_record("px", key, as_of=at)
                found[f"px {key} {half}"] = record and record.value
            except ntmem.HistoryNotRetained:
                found[f"px {key} {half}"] = "not retained"
        latest = memory.get_record("px", key, as_of=ntmem.LATEST)
        found[f"px {key} latest"] = latest and latest.value
    o = memory.observations
    for symbol in ("BTC", "bulk"):
        for as_of in (NOW, NOW + 1, ntmem.LATEST):
            rows = o.range("market", symbol, 0, 2 * NOW, as_of=as_of)
            found[f"{symbol} {as_of}"] = (rows.dtype.names, rows.tobytes())
    rows = o.range("market", "BTC", NOW, NOW + 1, fields=["row", "metadata", "embedding"])
    found["beside"] = [repr(row) for row in rows.tolist()]
    v = memory.vectors
    for at in (NOW, NOW + 5, NOW + 99, NOW + 100, None):
        hits = v.search("setups", [0.5, 0.3, -1], 20, as_of=at)
        found[f"vectors {at}"] = sorted((it.id, it.score, repr(it.metadata), it.ts_event, it.ts_known) for it in hits)
    info = v.info("setups")
    assert info is not None
    found["collection"] = (info.dimension, info.metric, info.dtype, info.changes)
    p = memory.positions
    for key in (("ES",), ("BTCUSDT", "a", "s", "p"), ("SOL",)):
        position = p.get(*key)
        assert position is not None
        found[f"position {key}"] = {k: v for k, v in p.to_dict(position).items() if k != "version"}
        found[f"cost {key}"] = position.cost_decimal
        names = dict(zip(("account", "strategy", "position_id"), key[1:], strict=False))
        fills = p.fills(key[0], **names)
        found[f"fills {key}"] = [row[:-1] for row in fills.tolist()]
        found[f"instrument {key}"] = p.instrument(key[0])
    return found


@pytest.fixture
def clock() -> ntmem.SimulatedClock:
    return ntmem.SimulatedClock(NOW)


@pytest.fixture
def memory(clock: ntmem.SimulatedClock) -> Iterator[ntmem.MemorySystem]:
    with ntmem.open(clock=clock) as memory:
        fill_store(memory, clock)
        yield memory


def twin(memory: ntmem.MemorySystem) -> ntmem.MemorySystem:
    return ntmem.open(clock=ntmem.SimulatedClock(memory.now()))


@pytest.mark.parametrize("suffix", FORMATS)
def test_what_is_imported_answers_the_same_and_once(memory: ntmem.MemorySystem, tmp_path: Path, suffix: str) -> None:
    expected = answers(memory)
    path = tmp_path / f"all{suffix}"
    told: list[int] = []
    report = memory.export(path, progress=told.append)
    assert report.path == str(path)
    assert report.bytes == path.stat().st_size
    assert report.counts == {
        **{"namespaces": 3, "records": 3 + 17, "instruments": 1, "fills": 5, "positions": 3},
        **{"series": 2, "rows": 4523, "collections": 1, "vectors": 12},
    }
    assert report.not_exported == {"messages": 1, "trajectories": 1, "vectors of trajectories": 1, "voters": 1}
    assert os.listdir(tmp_path) == [path.name]
    with twin(memory) as other:
        done = other.import_(path, progress=lambda done, total: told.append(total))
        assert answers(other) == expected
        assert done.counts == {kind: count for kind, count in report.counts.items() if kind != "series"}
        assert (done.unchanged, done.left_out) == (0, {})
        again = other.import_(path)
        assert (again.counts, again.left_out) == ({"namespaces": 3, "collections": 1}, {})
        assert answers(other) == expected
        second = other.export(tmp_path / f"second{suffix}")
        assert second.counts == report.counts
        assert second.not_exported == {}
        assert other.verify().ok
    assert told or suffix == ".parquet"


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_wrong_line_is_named_and_running_it_again_goes_on(memory: ntmem.MemorySystem, tmp_path: Path) -> None:
    expected = answers(memory)
    path, damaged = tmp_path / "all.jsonl", tmp_path / "damaged.jsonl"
    memory.export(path)
    whole = path.read_bytes().splitlines(keepends=True)
    kinds = [document["kind"] for document in lines(path)]
    with twin(memory) as other:
        at = kinds.index("rows")
        rest = b"".join([*whole[:at], *whole[at + 1 :]])
        damaged.write_bytes(rest)
        with pytest.raises(ntmem.SerializationError, match=r"line \d+ .* rows before it are missing"):
            other.import_(damaged)
    with twin(memory) as other:
        for kind in ("record", "history", "fill", "position", "rows", "collection", "vector", "end"):
            at = len(kinds) - 1 - kinds[::-1].index(kind)
            for wrong in (b"{\n", b'{"kind":"nonsense"}\n', b'{"kind":"%s"}\n' % kind.encode(), b"[]\n", b"\xff\n"):
                damaged.write_bytes(b"".join([*whole[:at], wrong, *whole[at + 1 :]]))
                with pytest.raises(ntmem.SerializationError, match=rf"line {at + 1}\b"):
                    other.import_(damaged)
        with pytest.raises(ntmem.SerializationError, match="ends before its export does"):
            damaged.write_bytes(b"".join(whole[:-1]))
            other.import_(damaged)
        other.import_(path)
        assert answers(other) == expected
    damaged.write_bytes(b"".join(whole[1:]))
    with ntmem.open() as other, pytest.raises(ntmem.SerializationError, match=r"line 1 .*first line of an export"):
        other.import_(damaged)
    packed = tmp_path / "cut.jsonl.gz"
    packed.write_bytes(gzip.compress(b"".join(whole))[:-2000])
    with ntmem.open() as other, pytest.raises(ntmem.SerializationError, match="cut short"):
        other.import_(packed)
    if HAS_ARROW:
        (tmp_path / "foreign.parquet").write_bytes(b"PAR1" * 10)
        with ntmem.open() as other, pytest.raises(ntmem.SerializationError, match="no export of ntmem"):
            other.import_(tmp_path / "foreign.parquet")
    with ntmem.open() as other, pytest.raises(ntmem.StorageError, match="cannot read"):
        other.import_(tmp_path / "none.jsonl")
    for name in ("x.csv", "x"):
        with pytest.raises(ValueError, match=r"must end in \.jsonl"):
            memory.export(tmp_path / name)
        with pytest.raises(ValueError, match=r"must end in \.jsonl"):
            memory.import_(tmp_path / name)


def test_killed_in_the_middle_it_goes_on(memory: ntmem.MemorySystem, ram: Path, start: Start) -> None:
    expected, path = answers(memory), ram / "all.jsonl"
    memory.export(path)
    code = """
path, store, now, at = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
lines = 0
def progress(done, total):
    global lines
    lines += 1
    if lines == at:
        os.kill(os.getpid(), 9)
ntmem.open(store, clock=ntmem.SimulatedClock(now)).import_(path, progress=progress)
"""
    kinds = [document["kind"] for document in lines(path)]
    for kind in ("history", "position", "rows", "vector"):  # in the middle of it, or of what stands before
        at = (kinds.index(kind) + len(kinds) - kinds[::-1].index(kind)) // 2
        child = start(code, path, ram / "new", memory.now(), at)
        assert child.process.wait() == -9
    with ntmem.open(ram / "new", clock=ntmem.SimulatedClock(memory.now())) as other:
        other.import_(path)
        assert answers(other) == expected
        assert other.verify().ok


def test_nothing_of_a_damaged_batch_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "all.jsonl"
    with ntmem.open() as memory:
        memory.put_many("desk", {f"{i:05}": b"" for i in range(1500)})
        memory.export(path)
    text = path.read_text().splitlines(keepends=True)
    at = next(i for i, line in enumerate(text) if '"01200"' in line)
    path.write_text("".join([*text[:at], "?\n", *text[at + 1 :]]))
    with ntmem.open() as other:
        with pytest.raises(ntmem.SerializationError, match=f"line {at + 1} "):
            other.import_(path)
        assert len(dict(other.scan("desk"))) == 1024
        path.write_text("".join(text))
        report = other.import_(path)
        assert (report.counts["records"], report.unchanged) == (476, 1024)


def test_into_a_store_that_has_data(tmp_path: Path) -> None:
    path = tmp_path / "all.jsonl"
    with ntmem.open() as memory:
        memory.put("desk", "target", b"3")
        memory.retain("px", history=True)
        memory.put("px", "BTC", b"old", ts_known=1000)
        memory.put("px", "BTC", b"new", ts_known=2000)
        memory.observations.append("market", "BTC", 7, {"bid": 1.0})
        memory.vectors.add("setups", "one", [1.0, 0.0])
        memory.positions.apply_fill("ES", 2, 100, trade_id="1", ts_event=1)
        memory.positions.apply_fill("ES", 2, 101, trade_id="2", ts_event=2)
        memory.export(path)
    with ntmem.open() as other:
        other.put("desk", "target", b"4")
        other.put("desk", "mine", b"5")
        other.retain("px", history=True)
        other.put("px", "BTC", b"mine", ts_known=1500)
        other.observations.append("market", "BTC", 6, {"bid": 0.0})
        other.vectors.add("setups", "mine", [0.0, 1.0])
        other.positions.apply_fill("ES", 5, 100, trade_id="9")
        other.positions.apply_fill("ES", 2, 100, trade_id="1")  # booked here, too, at a time that nobody said
        for _ in range(2):
            report = other.import_(path)
        assert dict(other.scan("desk")) == {"target": b"3", "mine": b"5"}
        assert [it.value for it in other.history("px", "BTC")] == [b"new", b"mine"]
        assert other.observations.recent("market", "BTC", 9)["bid"].tolist() == [0.0, 1.0]
        assert sorted(it.id for it in other.vectors.search("setups", [1, 0], 9)) == ["mine", "one"]
        assert other.positions.quantity("ES") == 9.0
        assert report.left_out == {
            "versions of keys that have another past here": 1,
            "positions that are another one here; their missing fills were booked": 1,
        }
        other.positions.apply_fill("EU", 1, 1, trade_id="1")
    with ntmem.open() as third:
        third.positions.apply_fill("ES", 3, 100, trade_id="1", ts_event=1)
        with pytest.raises(ntmem.FillConflict, match="'1' was booked here with another content"):
            third.import_(path)


def test_a_namespace_and_those_below_it(memory: ntmem.MemorySystem, tmp_path: Path) -> None:
    report = memory.export(tmp_path / "desk.jsonl", namespace="desk")
    assert report.counts == {"namespaces": 2, "records": 3}
    assert report.not_exported == {"instruments": 1, "fills": 5, "positions": 3}
    assert memory.export(tmp_path / "market.jsonl", namespace="market").counts["rows"] == 4523
    assert memory.export(tmp_path / "setups.jsonl", namespace=("setups",)).counts["vectors"] == 12


def test_a_clock_that_is_behind_is_named(memory: ntmem.MemorySystem, tmp_path: Path) -> None:
    memory.export(tmp_path / "all.jsonl")
    with (
        ntmem.open(clock=ntmem.SimulatedClock(1)) as other,
        pytest.raises(ntmem.SerializationError, match=r"line 4 .*set the clock first"),
    ):
        other.import_(tmp_path / "all.jsonl")


def test_a_file_is_replaced_only_by_a_whole_one(
    memory: ntmem.MemorySystem, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "all.jsonl"
    path.write_text("old")
    from ntmem.tiers import outgoing

    def fail(*arguments: object) -> Iterator[Any]:
        raise OSError(28, "No space left on device")
        yield

    with monkeypatch.context() as patch:
        patch.setattr(outgoing.Outgoing, "_collections", fail)
        with pytest.raises(ntmem.DiskFull, match="no room for"):
            memory.export(path)
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["all.jsonl"]
    memory.export(path)
    assert lines(path)[0]["kind"] == "ntmem-export"


def test_without_pyarrow_parquet_says_what_to_install(
    memory: ntmem.MemorySystem, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
    with pytest.raises(ModuleNotFoundError, match=r"ntmem\[arrow\]"):
        memory.export(tmp_path / "all.parquet")


@pytest.mark.only("lmdb")
def test_the_engine_lmdb_and_readers_export_and_import(tmp_path: Path) -> None:
    with ntmem.open(tmp_path / "desk", clock=ntmem.SimulatedClock(NOW)) as memory:
        memory.retain("px", history=True)
        memory.put("px", "BTC", b"1", ts_known=NOW - 10, ttl=1e-9)
        memory.put("px", "BTC", b"2", ts_known=NOW - 5)
        memory.delete("px", "BTC")
        memory.observations.append("market", "BTC", 7, {"bid": 1.0})
    with ntmem.open(tmp_path / "desk", read_only=True) as reader:
        asyncio.run(reader.aexport(tmp_path / "all.jsonl"))
        expected = [(it.value, it.ts_known, it.expires_at) for it in reader.history("px", "BTC")]
        with pytest.raises(ntmem.ReadOnlyError):
            reader.import_(tmp_path / "all.jsonl")
    with ntmem.open(clock=ntmem.SimulatedClock(NOW)) as other:
        report = asyncio.run(other.aimport(tmp_path / "all.jsonl"))
        assert report.counts["records"] == 3
        assert [(it.value, it.ts_known, it.expires_at) for it in other.history("px", "BTC")] == expected
        assert other.verify().ok


def test_positions_of_a_shared_store_go_into_one_of_the_engine_lmdb_and_back(
    memory: ntmem.MemorySystem, tmp_path: Path
) -> None:
    memory.export(tmp_path / "all.jsonl")
    with ntmem.open(engine="lmdb", clock=ntmem.SimulatedClock(memory.now())) as other:
        other.import_(tmp_path / "all.jsonl")
        other.export(tmp_path / "back.jsonl")
    with twin(memory) as other:
        other.import_(tmp_path / "back.jsonl")
        assert answers(other) == answers(memory)
        assert other.positions.net_decimal("ES") == Decimal(-2)


@pytest.mark.parametrize(
    ("kind", "what", "value", "says"),
    [
        ("position", "price_precision", 25, "price_precision must be from 0 to 18"),
        ("position", "quantity", "-9223372036854.775808", "none of this version's, or damaged"),
        ("position", "currency", "x" * 13, "currency has at most 12 bytes"),
        ("fill", "quantity_precision", 19, "quantity_precision must be from 0 to 18"),
        ("fill", "has_time", 300, "has_time must be true or false"),
        ("instrument", "price_precision", 40, "price_precision must be from 0 to 18"),
        ("instrument", "multiplier", "-1", "multiplier must be above 0"),
        ("instrument", "symbol", 5, "line 2 "),
    ],
)
def test_what_nobody_could_reckon_with_is_not_booked(
    tmp_path: Path, kind: str, what: str, value: Any, says: str
) -> None:
    """A precision beyond 10**18 was read behind the table of powers."""
    path = tmp_path / "it.jsonl"
    with ntmem.open(engine="shared") as memory:
        memory.positions.define("BTC", price_precision=6, quantity_precision=6)
        memory.positions.apply_fill("BTC", -1, 100, trade_id="t")
        memory.export(path)
    head, *found, end = lines(path)
    said = [line | {what: value} for line in found if line["kind"] == kind][:1]
    path.write_text("".join(json.dumps(line) + "\n" for line in [head, *said, end | {"lines": 3}]))
    with ntmem.open(engine="shared") as memory:
        with pytest.raises(ntmem.SerializationError, match=says):
            memory.import_(path)
        assert not memory.positions.open_positions()
