"""A machine, or a container, whose /dev/shm is small: 64 MiB is what many have."""

from __future__ import annotations

from pathlib import Path

import pytest
from hostile import Start

MIB = 1 << 20


SMALL = """
from ntmem.tiers import region
import gc
region.SHARED_MEMORY, store = sys.argv[1], sys.argv[2]
def attempt(use):
    try:
        use()
        return "done"
    except ntmem.NtmemError as error:
        return f"{type(error).__name__}: {error}"
"""

NONE = (
    SMALL
    + """
try:
    ntmem.open(store)
except ntmem.DiskFull as error:
    say(str(error))
say(os.listdir(region.SHARED_MEMORY))
with ntmem.open(store, max_memory_bytes=12 << 20, log_bytes=1 << 16) as memory:
    memory.put("desk", "target", b"3")
    say(memory.get("desk", "target"))
"""
)


@pytest.mark.parametrize("small_shm", [8], indirect=True)
def test_no_room_for_a_store_says_what_to_do(ram: Path, small_shm: Path, start: Start) -> None:
    child = start(NONE, small_shm, ram / "s")
    said = child.line()
    assert f"{small_shm} has no room for a log of 16777216 bytes" in said
    assert "smaller log_bytes" in said
    assert "engine='lmdb'" in said
    assert child.line() == "[]"  # nothing is left half made
    assert child.line() == "b'3'"  # and with less it opens
    child.end()


USED = (
    SMALL
    + """
kept, sizes = {}, {}
with ntmem.open(store) as memory:
    for number in range(30_000):
        key, value = str(number), bytes(2000) + b"%d" % number
        if attempt(lambda: memory.put("desk", key, value)) == "done":
            kept[key] = value
        if number > 3000:
            memory.get("desk", str(number - 3000))
    say(len(kept))
    say(attempt(lambda: memory.publish("prices", b"61800")))
    fill = attempt(lambda: memory.positions.apply_fill("BTCUSDT", 2, 61800, trade_id="t1"))
    say(fill)
    say(attempt(lambda: memory.vectors.add("seen", "a", [1.0, 0.0])))
    for key in list(kept)[::97]:
        assert memory.get("desk", key) == kept[key], key
gc.collect()  # handles of positions and collections are in cycles
with ntmem.open(store) as memory:
    assert memory.get_many("desk", list(kept)) == kept
    say(memory.positions.quantity("BTCUSDT"))
    say(memory.verify().ok)
"""
)


@pytest.mark.parametrize("small_shm", [32], indirect=True)
def test_where_the_hot_tier_finds_no_room_it_stays_small(ram: Path, small_shm: Path, start: Start) -> None:
    """The log is there, all else is refused or done without; nobody dies, and nothing acknowledged is lost."""
    child = start(USED, small_shm, ram / "s")
    assert child.line() == "30000"
    published = child.line()
    assert published == "done" or ("DiskFull" in published and "bus_bytes" in published), published
    assert child.line() == "done"  # positions have their memory from the beginning
    added = child.line()
    assert added == "done" or "DiskFull" in added, added
    assert child.line() == "2.0"
    assert child.line() == "True"
    child.end()
