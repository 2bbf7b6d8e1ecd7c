"""How memory is divided among the parts of a store, and whether what they say of it is what the kernel says."""

from __future__ import annotations

import gc
import re
from pathlib import Path

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest
from hostile import regions

import ntmem
from ntmem.tiers.budget import plan

MIB = 1 << 20
powers = st.none() | st.integers(16, 24).map(lambda bits: 1 << bits)


@hypothesis.given(
    total=st.integers(MIB, 1 << 34),
    log=powers,
    bus=powers,
    entries=st.integers(1, 1 << 24),
    size=st.integers(1, 1 << 34),
    path=st.sampled_from([None, "somewhere"]),
)
def test_the_limits_add_up_and_nobody_gets_nothing(
    total: int, log: int | None, bus: int | None, entries: int, size: int, path: str | None
) -> None:
    cache = ntmem.CacheConfig(max_entries=entries, max_bytes=size)
    config = ntmem.MemoryConfig(
        storage_path=path, max_memory_bytes=total, log_bytes=log, bus_bytes=bus, cache_config=cache
    )
    try:
        found = plan(config)
    except ValueError as error:
        least = int(re.findall(r"at least (\d+)", str(error))[0])
        assert least > total
        return
    assert found.fixed + found.hot + found.columns + found.vectors == total
    assert min(found.hot, found.columns, found.vectors) > 0
    assert found.vectors >= MIB
    assert found.bus == (bus or found.bus)
    assert found.log == (min(log or found.log, 4 * MIB) if path is None else log or found.log)
    assert found.cache.max_entries <= entries
    assert found.cache.max_bytes <= size


@pytest.mark.parametrize(("log", "bus"), [(None, None), (1 << 24, 1 << 16), (1 << 16, 1 << 24)])
def test_too_little_is_refused_with_what_is_enough(ram: Path, log: int | None, bus: int | None) -> None:
    with pytest.raises(ValueError, match="max_memory_bytes=2097152 is too little") as caught:
        ntmem.open(ram / "s", max_memory_bytes=2 * MIB, log_bytes=log, bus_bytes=bus)
    assert not (ram / "s").exists()
    least = int(re.findall(r"at least (\d+)", str(caught.value))[0])
    ntmem.open(ram / "s", engine="shared", max_memory_bytes=least + MIB, log_bytes=log, bus_bytes=bus).close()


def test_what_is_not_asked_for_goes_by_the_whole() -> None:
    small, large = (plan(ntmem.MemoryConfig(max_memory_bytes=size)) for size in (32 * MIB, 1 << 30))
    assert (large.log, large.bus) == (16 * MIB, 8 * MIB)
    assert (small.log, small.bus) == (2 * MIB, MIB)
    assert small.cache.max_entries < large.cache.max_entries == 100_000


@pytest.mark.only("shared")
def test_the_accounts_are_those_of_the_kernel(ram: Path, engine: str) -> None:
    """Within 5 %, at each step; what nobody uses has no memory."""
    with ntmem.open(ram / "s", max_memory_bytes=128 * MIB) as memory:
        (region,) = regions(ram)

        def check() -> dict[str, int]:
            stats = memory.stats()
            files = [region, *region.parent.glob(f"{region.name}-v*")]
            kernel = sum(path.stat().st_blocks * 512 for path in files)
            shared = sum(part.used for part in stats.memory.values() if part.where == "shared")
            assert abs(shared - kernel) < kernel / 20
            assert stats.memory_limit == 128 * MIB
            assert stats.memory_bytes == shared + stats.memory["columns"].used <= 128 * MIB
            for name, part in stats.memory.items():
                assert part.used <= part.limit or part.where == "file", name
            return {name: part.used for name, part in stats.memory.items()}

        fresh = check()
        assert fresh["bus"] == 8192
        assert fresh["vectors"] == fresh["columns"] == fresh["graphs"] == 0
        memory.publish("prices", b"61800")
        assert check()["bus"] > 1 << 20
        memory.put_many("desk", {str(n): bytes(1000) for n in range(20_000)})
        for number in range(20_000):
            memory.get("desk", str(number))
        assert check()["hot"] > 15 * MIB
        memory.vectors.add_many("seen", [str(n) for n in range(5000)], np.ones((5000, 256), np.float32))
        assert check()["vectors"] > 5000 * 256
        for number in range(3000):
            memory.observations.append("market", "BTCUSDT", number, {"price": number / 7})
        memory.observations.range("market", "BTCUSDT", 0, 10**6)
        assert check()["columns"] > 3000 * 24


def test_arrays_of_observations_stay_within_their_part(ram: Path) -> None:
    how = {"engine": "shared", "max_memory_bytes": 12 * MIB, "enable_compression": False}
    row = {f"f{n}": n / 7 for n in range(20)}
    with ntmem.open(ram / "s", **how) as memory:  # type: ignore[arg-type]
        most = memory.stats().memory["columns"].limit
        for number in range(12_000):
            memory.observations.append("m", f"S{number % 2}", number, row)
        for symbol in ("S0", "S1") * 2:  # each needs what the other had
            assert len(memory.observations.range("m", symbol, 0, 10**6)) == 6000
            assert 0 < memory.stats().memory["columns"].used <= most < 12_000 * 160


def test_facts_of_memory_are_plain() -> None:
    with ntmem.open(engine="shared") as memory:
        facts = memory.stats().to_dict()
    assert facts["memory"]["log"] == {"used": facts["memory"]["log"]["limit"], "limit": 4464640, "where": "process"}
    assert facts["memory_bytes"] < facts["memory_limit"] == 1 << 30


@pytest.mark.only("lmdb")
def test_the_lmdb_engine_has_no_region(engine: str) -> None:
    with ntmem.open() as memory:
        assert set(memory.stats().memory) == {"vectors", "columns", "graphs"}


def test_a_closed_store_has_no_shared_memory_left_mapped(ram: Path) -> None:
    """Not only when the garbage collector has come by: where /dev/shm is small the next opening needs the room."""

    def mapped() -> int:
        return Path("/proc/self/maps").read_text().count("/dev/shm/#")

    gc.collect()
    before = mapped()
    gc.disable()
    try:
        memory = ntmem.open(ram / "s", engine="shared")
        memory.put("desk", "target", b"4")
        assert memory.get("desk", "target") == b"4"
        assert mapped() > before
        memory.close()
        assert mapped() == before
    finally:
        gc.enable()
