"""Numbers of leases only rise, whatever becomes of a store: losses of power, backups put back, copies, restarts.

And what was granted before is never accepted afterwards, be it by who kept the number or who has the old store open.
"""

from __future__ import annotations

import json
import os
import random
import shutil
from pathlib import Path

import pytest
from holders import Zygote
from hostile import Start, regions, remove_regions

import ntmem
from ntmem import Fence

pytestmark = [pytest.mark.crash, pytest.mark.usefixtures("engine"), pytest.mark.only("shared")]

ROUNDS = int(os.environ.get("NTMEM_FENCE_ROUNDS", "100"))

# It opens the store, tries what was granted to others before it, and leaves as it was told to.
USE = """
memory = ntmem.open(store)
found, refused = [], 0
for resource, number in old:
    for write in (
        lambda fence: memory.put("desk", "k", b"bad", fence=fence),
        lambda fence: memory.incr("desk", "count", fence=fence),
    ):
        try: write(ntmem.Fence(resource, number))
        except ntmem.StaleFence: refused += 1
assert refused == 2 * len(old), f"{2 * len(old) - refused} were accepted"
assert memory.get("desk", "k") != b"bad"
for resource in names:
    lock = memory.lock(resource, timeout=60)
    assert lock.acquire()
    found.append((resource, lock.fence.number))
    memory.put("desk", resource, b"%d" % lock.fence.number, fence=lock)
    if len(found) % 2: lock.release()
if flushes: memory.flush()
if copied: os.mkdir(copied); memory._engine().store.env.copy(copied)
if reserves: memory._engine().store.reserve_fences()
with open(files + "/said", "w") as file: file.write(json.dumps(found))
if how == "close": memory.close()
elif how == "kill": os.kill(os.getpid(), signal.SIGKILL)
"""


class World:
    """A store, what was granted in it, and its backups."""

    def __init__(self, ram: Path, start: Start) -> None:
        self.ram = ram
        self.zygote = Zygote(start)
        self.store = ram / "store0"
        self.old: list[tuple[str, int]] = []
        self.newest = 0
        self.backups: list[Path] = []
        self.count = 0
        self.names = ["a", "b", "c"]
        self.did: list[str] = []
        self.left: set[Path] = set()  # regions whose store may have been removed under them

    def use(self, chance: random.Random, how: str, copied: str = "") -> list[tuple[str, int]]:
        """Let a process use the store; return what it was granted."""
        settings: dict[str, object] = {"store": str(self.store), "files": str(self.ram), "how": how, "copied": copied}
        settings |= {"flushes": chance.random() < 0.5, "reserves": chance.random() < 0.2}
        settings["old"] = chance.sample(self.old, min(len(self.old), 8)) + self.old[-3:]
        settings["names"] = chance.sample(self.names, 2)
        pid = self.zygote.fork(USE, **settings)
        self.zygote.check(pid, -9 if how == "kill" else 0)
        granted = [(name, number) for name, number in json.loads((self.ram / "said").read_text())]
        for _, number in granted:
            assert number > self.newest, f"{number} after {self.newest}: {self.did[-20:]}"
            self.newest = number
        self.old += granted
        return granted

    def back_up(self, chance: random.Random, how: str = "") -> None:
        """As a copy of its files, while nobody has it open; or as LMDB copies it, by who then dies or closes it."""
        self.count += 1
        backup = self.ram / f"backup{self.count}"
        if how:
            self.use(chance, how, str(backup))
        else:
            shutil.copytree(self.store, backup)
        self.backups.append(backup)

    def restore(self, chance: random.Random, way: str) -> None:
        backup = chance.choice(self.backups)
        self.left.update(regions(self.ram))
        if way == "in place":
            shutil.copyfile(backup / "data.mdb", self.store / "data.mdb")
        elif way == "anew":
            shutil.rmtree(self.store)
            shutil.copytree(backup, self.store)
        elif way == "as a copy":
            self.count += 1
            self.store = self.ram / f"store{self.count}"
            shutil.copytree(backup, self.store)


WAYS = ("in place", "anew", "as a copy")
BACKUPS = ("backup", "live backup", "live backup, killed")
EVENTS = ("restart", "killed", "loss", *BACKUPS, *WAYS, *(f"killed, {way}" for way in WAYS))


@pytest.mark.parametrize("seed", [1])
def test_numbers_only_rise(ram: Path, start: Start, seed: int) -> None:
    world, chance = World(ram, start), random.Random(seed)
    world.use(chance, "close")
    world.back_up(chance)
    events = [*EVENTS * (ROUNDS // len(EVENTS) + 1)][:ROUNDS]
    chance.shuffle(events)
    for what in events:
        world.did.append(what)
        world.use(chance, "kill" if what.startswith(("killed", "loss")) else "close")
        if what == "loss":
            remove_regions(ram)
        elif "backup" in what:
            how = {"live backup": "close", "live backup, killed": "kill"}.get(what, "")
            world.back_up(chance, how)
        elif what.endswith(WAYS):
            world.restore(chance, what.removeprefix("killed, "))
            try:
                ntmem.open(world.store).close()
            except ntmem.StorageError:  # the region of who was killed is left, and of the state that was replaced
                remove_regions(ram)
        world.use(chance, "close")
    for region in world.left:
        region.unlink(missing_ok=True)
    print(f"{ROUNDS} rounds, {len(world.old)} numbers, the last is {world.newest}")


def test_restarts_in_quick_succession_do_not_outrun_the_clock(ram: Path, start: Start) -> None:
    """Numbers of a store that was restored go on at the clock: its next backup is restored behind many restarts."""
    world, chance = World(ram, start), random.Random(3)
    world.use(chance, "close")
    world.back_up(chance)
    world.restore(chance, "anew")
    world.use(chance, "close")
    world.backups.clear()
    world.back_up(chance)
    for _ in range(30):
        world.use(chance, "close")
    world.restore(chance, "anew")
    world.use(chance, "close")


OLD_HANDLE = """
memory = ntmem.open(sys.argv[1])
lock = memory.lock("a", ttl=3600)
lock.acquire()
memory.put("desk", "a", b"old", fence=lock)
say(lock.fence.number)
hear()
say(outcome(memory.put, "desk", "a", b"from the old handle", fence=lock))
hear()
"""


@pytest.mark.parametrize("way", ["anew", "as a copy"])
def test_who_has_the_old_store_open_changes_nothing_in_the_new_one(ram: Path, start: Start, way: str) -> None:
    world, chance = World(ram, start), random.Random(4)
    world.use(chance, "close")
    world.back_up(chance)
    child = start(OLD_HANDLE, world.store)
    number = int(child.line())
    world.restore(chance, way)
    with ntmem.open(world.store) as memory:
        with memory.lock("a", timeout=60) as lock:
            assert lock.fence is not None
            assert lock.fence.number > number
            with pytest.raises(ntmem.StaleFence):
                memory.put("desk", "a", b"bad", fence=Fence("a", number))
            memory.put("desk", "a", b"new", fence=lock)
        child.tell()  # it writes to what it has open, which is no longer this store
        child.line()
        assert memory.get("desk", "a") == b"new"
    child.kill()
    with ntmem.open(world.store) as memory:
        assert memory.get("desk", "a") == b"new"
