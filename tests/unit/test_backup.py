"""Backups are whole, hot, refused where something is there, and restored as stores that go on above their originals."""

from __future__ import annotations

import asyncio
import json
import os
import resource
import shutil
import signal
from pathlib import Path

import pytest
from hostile import Start, remove_regions

import ntmem
from ntmem.tiers.region import region_path

pytestmark = pytest.mark.usefixtures("engine")

shared = pytest.mark.only("shared")


def contents(path: Path) -> dict[str, bytes]:
    with ntmem.open(path, read_only=True) as memory:
        return dict(memory.scan("desk"))


def test_a_backup_has_all_that_was_acknowledged(ram: Path) -> None:
    with ntmem.open(ram / "desk") as memory:
        memory.put_many("desk", {f"key {i}": b"%d" % i for i in range(500)})
        version = memory.put("desk", "last", b"x" * 5000)
        report = memory.backup(ram / "backup")
        memory.put("desk", "later", b"")
    assert (report.path, report.last_version, report.records) == (str(ram / "backup"), version, 501)
    assert report.bytes == (ram / "backup" / "data.mdb").stat().st_size
    assert sorted(os.listdir(ram / "backup")) == ["data.mdb", "manifest.json"]
    made = ntmem.restore(ram / "backup", ram / "again")
    assert (made.records, made.last_version, made.notices) == (501, version, ())
    assert contents(ram / "again") == {f"key {i}": b"%d" % i for i in range(500)} | {"last": b"x" * 5000}
    assert sorted(os.listdir(ram)) == ["again", "backup", "desk"]
    assert ntmem.verify(ram / "again").ok


def test_what_is_there_is_never_replaced(ram: Path) -> None:
    with ntmem.open(ram / "desk") as memory:
        memory.backup(ram / "backup")
        for name in ("backup", "desk", "file"):
            if name == "file":
                (ram / name).touch()
            with pytest.raises(ntmem.StorageError, match=f"{ram / name} is there already"):
                memory.backup(ram / name)
        with pytest.raises(ntmem.StorageError, match="there is no directory"):
            memory.backup(ram / "nowhere" / "backup")
    with pytest.raises(ntmem.StorageError, match="there is a store in"):
        ntmem.restore(ram / "backup", ram / "desk")
    (ram / "other").mkdir()
    (ram / "other" / "notes").touch()
    with pytest.raises(ntmem.StorageError, match="not an empty directory"):
        ntmem.restore(ram / "backup", ram / "other")
    with pytest.raises(ntmem.StorageError, match="there is no backup in"):
        ntmem.restore(ram / "other", ram / "new")
    (ram / "empty").mkdir()
    assert ntmem.restore(ram / "backup", ram / "empty").records == 0


def test_a_private_store_and_a_reader_can_be_backed_up(ram: Path) -> None:
    with ntmem.open() as memory:
        memory.put("desk", "target", b"3")
        memory.backup(ram / "private")
    ntmem.restore(ram / "private", ram / "desk")
    with ntmem.open(ram / "desk") as memory:
        memory.put("desk", "more", b"4")
    with ntmem.open(ram / "desk", read_only=True) as memory:
        memory.backup(ram / "of a reader")
    ntmem.restore(ram / "of a reader", ram / "again")
    assert contents(ram / "again") == {"target": b"3", "more": b"4"}


@shared
def test_a_reader_beside_a_writer_waits_for_the_disk(ram: Path, start: Start) -> None:
    writer = start(
        """
memory = ntmem.open(sys.argv[1], flush_interval=10)
for i in range(100):
    memory.put("desk", str(i), b"")
say("ready")
hear()
""",
        ram / "desk",
    )
    writer.line()
    with ntmem.open(ram / "desk", read_only=True) as memory:
        assert memory.backup(ram / "backup").records == 100
        writer.process.send_signal(signal.SIGKILL)
        writer.process.wait()
    writer = start(
        """
memory = ntmem.open(sys.argv[1], flush_interval=60)
memory.put("desk", "left", b"")
os.kill(os.getpid(), 9)
""",
        ram / "desk",
    )
    writer.process.wait()
    with (
        ntmem.open(ram / "desk", read_only=True) as memory,
        pytest.raises(ntmem.StorageError, match=r"have left changes .*doctor --flush"),
    ):
        memory.backup(ram / "second")
    assert sorted(os.listdir(ram)) == ["backup", "desk"]


@pytest.mark.only("shared", "lmdb")
def test_backups_under_writers_are_snapshots_of_one_moment(ram: Path, start: Start) -> None:
    code = """
memory = ntmem.open(sys.argv[1], agent_id=sys.argv[2])
value = os.urandom(1000)
say("ready")
n = 0
while n < 100_000:
    with memory.transaction() as t:
        t.put("desk", f"{sys.argv[2]} a", b"%d" % n)
        t.put("desk", f"{sys.argv[2]} b", b"%d" % n)
        t.put("rows", f"{sys.argv[2]} {n % 500}", value)
    n += 1
"""
    with ntmem.open(ram / "desk") as memory:
        for name in ("one", "two"):
            start(code, ram / "desk", name).line()
        for number in range(2):
            memory.put("desk", "mine", b"%d" % number)
            before = {name: int(memory.get("desk", f"{name} a", b"0")) for name in ("one", "two")}
            report = memory.backup(ram / f"backup {number}")
            ntmem.restore(ram / f"backup {number}", ram / f"again {number}")  # which verifies
            with ntmem.open(ram / f"again {number}", read_only=True) as again:
                assert again.get("desk", "mine") == b"%d" % number
                for name in ("one", "two"):
                    a, b = (int(again.get("desk", f"{name} {which}", b"0")) for which in "ab")
                    assert before[name] <= a == b
                assert again.stats().last_version == report.last_version + ((1 << 10) << 44)


@shared
def test_a_large_value_on_its_way_is_whole_or_absent(ram: Path, start: Start) -> None:
    code = """
memory = ntmem.open(sys.argv[1], log_bytes=1 << 16)
say("ready")
for n in range(100_000):
    memory.put("desk", f"large {n % 3}", b"%06d" % n * 10_000)
"""
    with ntmem.open(ram / "desk", log_bytes=1 << 16) as memory:
        writer = start(code, ram / "desk")
        writer.line()
        for number in range(2):
            memory.put("desk", "mine", b"%d" % number * 30_000)
            memory.backup(ram / str(number))
    writer.kill()
    for number in range(2):
        ntmem.restore(ram / str(number), ram / f"again {number}")
        found = contents(ram / f"again {number}")
        assert found.pop("mine") == b"%d" % number * 30_000
        for value in found.values():
            assert len(value) == 60_000
            assert value == value[:6] * 10_000


def raised(path: Path) -> tuple[int, int]:
    """The next version and the next fence of a store, as its users get them."""
    with ntmem.open(path) as memory:
        lock = memory.acquire_lock("desk")
        assert lock.fence is not None
        version = memory.put("desk", "target", b"", fence=lock)
        memory.release_lock(lock)
        return version, lock.fence.number


@shared
def test_versions_and_fences_of_a_restored_store_are_above_the_original_s(ram: Path) -> None:
    with ntmem.open(ram / "desk") as memory:
        with memory.lock("desk") as lock:
            memory.put("desk", "target", b"", fence=lock)
        memory.backup(ram / "backup")
        for _ in range(100):  # after the backup
            with memory.lock("desk") as lock:
                last = memory.put("desk", "target", b"", fence=lock), lock.fence.number
    originals = [last]
    for _ in range(3):  # the original loses its region, and goes on
        with ntmem.open(ram / "desk") as memory:
            os.unlink(region_path(str(ram / "desk")))
            memory.put("desk", "x", b"")
        (ram / "desk" / "closed").unlink()
        originals.append(raised(ram / "desk"))
    assert originals == sorted(originals)
    ntmem.restore(ram / "backup", ram / "again")
    restored = [raised(ram / "again")]
    for _ in range(3):  # as it does afterwards
        (ram / "desk" / "closed").unlink()
        originals.append(raised(ram / "desk"))
    restored.append(raised(ram / "again"))
    assert max(version for version, _ in originals) < min(version for version, _ in restored)
    assert max(fence for _, fence in originals) < min(fence for _, fence in restored)
    assert restored == sorted(restored)
    with ntmem.open(ram / "again") as memory:
        memory.backup(ram / "second")
    ntmem.restore(ram / "second", ram / "third")
    version, fence = raised(ram / "third")
    assert version > max(it for it, _ in restored)
    assert fence > max(it for _, it in restored)


@shared
def test_generations_do_not_run_out_by_restoring(ram: Path) -> None:
    from ntmem.tiers.cold import ColdStore
    from ntmem.tiers.tables import Tables

    ntmem.open(ram / "desk").close()
    store = ColdStore(str(ram / "desk"), read_only=False, max_bytes=1 << 30)
    store.write(lambda txn: Tables(store, txn).put_head(Tables(store, txn).head()._replace(generation=(1 << 20) - 100)))
    store.close()
    made = ntmem.restore(ram / "desk", ram / "again")
    assert (1 << 20) - 100 < made.next_generation < (1 << 20) - 40
    assert raised(ram / "again")[0] < 1 << 64


def test_a_plain_copy_of_a_closed_store_is_restored_with_a_notice(ram: Path, start: Start) -> None:
    with ntmem.open(ram / "desk") as memory:
        memory.put("desk", "target", b"3")
        with pytest.raises(ntmem.StorageError, match=r"is open|has changes in shared memory"):
            ntmem.restore(ram / "desk", ram / "again")
    shutil.copytree(ram / "desk", ram / "copy")
    report = ntmem.restore(ram / "copy", ram / "again")
    assert "no manifest.json" in report.notices[0]
    assert contents(ram / "again") == {"target": b"3"}
    assert contents(ram / "copy") == {"target": b"3"}
    child = start("memory = ntmem.open(sys.argv[1]); say('open'); hear()", ram / "copy")
    child.line()
    with pytest.raises(ntmem.StorageError, match=r"is open|has changes in shared memory"):
        ntmem.restore(ram / "copy", ram / "third")


@pytest.mark.only("shared")
def test_a_damaged_or_foreign_backup_is_refused_and_leaves_nothing(ram: Path) -> None:
    with ntmem.open(ram / "desk") as memory:
        memory.put_many("desk", {f"key {i}": b"x" * 300 for i in range(1000)})
        memory.backup(ram / "backup")
    data, manifest = ram / "backup" / "data.mdb", ram / "backup" / "manifest.json"
    whole, said = data.read_bytes(), json.loads(manifest.read_bytes())

    def refused(kind: type[ntmem.NtmemError], match: str) -> None:
        with pytest.raises(kind, match=match):
            ntmem.restore(ram / "backup", ram / "again")
        assert sorted(os.listdir(ram)) == ["backup", "desk"]

    at = whole.index(b"x" * 300)
    data.write_bytes(whole[:at] + b"?" + whole[at + 1 :])
    refused(ntmem.CorruptionError, "is not what was backed up")
    manifest.unlink()
    refused(ntmem.CorruptionError, "is damaged")
    data.write_bytes(whole)
    manifest.write_text(json.dumps(said | {"schema": 99}))
    refused(ntmem.SchemaError, "upgrade ntmem")
    manifest.write_text("{")
    refused(ntmem.CorruptionError, "manifest.json is damaged")
    manifest.write_text(json.dumps(said | {"size": "many"}))
    refused(ntmem.CorruptionError, "manifest.json is damaged")
    manifest.write_text(json.dumps(said))
    assert ntmem.restore(ram / "backup", ram / "again").records == 1000


@pytest.mark.only("shared", "lmdb")
def test_a_full_disk_leaves_nothing_and_the_store_goes_on(ram: Path) -> None:
    with ntmem.open(ram / "desk") as memory:
        memory.put_many("desk", {f"key {i}": b"x" * 1000 for i in range(1000)})
        memory.flush()
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, before[1]))
        try:
            with pytest.raises(ntmem.DiskFull, match=r"no room for .*backup"):
                memory.backup(ram / "backup")
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
            signal.signal(signal.SIGXFSZ, ignored)
        assert os.listdir(ram) == ["desk"]
        memory.put("desk", "more", b"")
        assert memory.backup(ram / "backup").records == 1001


@pytest.mark.only("lmdb")
def test_what_a_killed_backup_left_is_removed_by_the_next(ram: Path, start: Start) -> None:
    dead = start("")
    dead.end()
    (ram / f"backup.partial-{dead.pid}-00000000").mkdir()
    mine = ram / f"backup.partial-{os.getpid()}-00000000"
    mine.mkdir()
    with ntmem.open(ram / "desk") as memory:
        memory.backup(ram / "backup")
    assert sorted(os.listdir(ram)) == ["backup", mine.name, "desk"]


@shared
def test_a_region_of_a_file_that_is_gone_is_not_taken_for_the_new_one_s(
    ram: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with ntmem.open(ram / "desk") as memory:
        memory.backup(ram / "backup")
    from ntmem.tiers import backup

    rename = os.rename

    def planted(source: str, target: str) -> None:
        assert not os.path.exists(region_path(source))
        rename(source, target)

    describe = backup.described

    def plant(directory: str) -> backup.Described:
        Path(region_path(directory)).write_bytes(b"?" * 4096)
        return describe(directory)

    monkeypatch.setattr(backup, "described", plant)
    monkeypatch.setattr(os, "rename", planted)
    ntmem.restore(ram / "backup", ram / "again")
    remove_regions(ram)


@pytest.mark.only("lmdb")
def test_the_twin_for_event_loops(ram: Path) -> None:
    async def keep(memory: ntmem.MemorySystem) -> None:
        assert (await memory.abackup(ram / "backup")).records == 1
        assert (await memory.averify()).ok

    with ntmem.open(ram / "desk") as memory:
        memory.put("desk", "target", b"3")
        asyncio.run(keep(memory))
    with pytest.raises(ntmem.StoreClosed):
        memory.backup(ram / "late")
