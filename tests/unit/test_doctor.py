"""Regions that were left behind, damaged or are in use: what the doctor says of them, and what it does."""

from __future__ import annotations

import json
import os
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from hostile import Child, Start

import ntmem
from ntmem._core.region import Region
from ntmem.cli.commands import cli
from ntmem.tiers import doctor
from ntmem.tiers.region import region_path

USER = """
memory = ntmem.open(sys.argv[1], engine="shared", flush_interval=float(sys.argv[2]))
for number in range(100):
    memory.put("desk", f"k{number}", b"v" * 100)
say("open")
hear()
memory.close()
"""
KEPT = 100


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Path]:
    """A directory, whose region does not outlive the test."""
    path = tmp_path / "desk"
    names = []
    yield path
    if (path / "data.mdb").exists():
        names.append(region_path(str(path)))
    for name in names:
        Path(name).unlink(missing_ok=True)


def open_in_a_process(start: Start, store: Path, flush_interval: float = 1000.0) -> Child:
    child = start(USER, store, flush_interval)
    assert child.line() == "open"
    return child


def left_behind(start: Start, store: Path) -> str:
    """Kill a store's only process before anything is on disk; return the name of its region."""
    open_in_a_process(start, store).kill()
    return region_path(str(store))


def run(*arguments: object, code: int = 0) -> Result:
    result = CliRunner().invoke(cli, ["doctor", *map(str, arguments)])
    assert result.exit_code == code, result.output
    return result


def document(*arguments: object, code: int = 0) -> Any:
    found = json.loads(run(*arguments, "--json", code=code).stdout)
    return found["regions"] if isinstance(found, dict) and "machine" in found else found


def check_all_is_there(store: Path) -> None:
    with ntmem.open(store, engine="shared") as memory:
        assert len(dict(memory.scan("desk"))) == KEPT


def test_a_store_at_rest_has_no_region(store: Path) -> None:
    ntmem.open(store, engine="shared").close()
    (report,) = document(store)
    assert (report["ok"], report["path"], report["state"], report["directory"]) == (True, None, "none", str(store))
    assert "everything is on disk" in run(store).stdout
    assert "no store" in run(store / "none", code=3).stderr


def test_a_living_store_is_described_with_its_processes(store: Path, start: Start) -> None:
    users = [open_in_a_process(start, store), open_in_a_process(start, store)]
    (report,) = document(store)
    assert (report["ok"], report["state"], report["path"]) == (True, "in use", region_path(str(store)))
    assert [process["pid"] for process in report["attached"]] == sorted(user.pid for user in users)
    assert report["leader"] in (0, *(user.pid for user in users))
    assert report["committed"] >= report["unflushed"] > 0
    assert report["size"] == os.stat(report["path"]).st_size
    assert all("python" in process["command"] for process in report["attached"])
    found = {report.path: report for report in doctor.survey()}  # other stores of this machine are as they are
    assert found[report["path"]].directory == str(store)  # found by its living processes
    assert document("--clean", store) == []
    assert os.path.exists(report["path"])
    assert "in use by" in run("--set-aside", report["path"], store, code=1).stderr
    for user in users:
        user.tell()
        user.end()
    check_all_is_there(store)


def test_a_store_of_this_process_is_in_use(store: Path) -> None:
    with ntmem.open(store, engine="shared"):
        report = next(report for report in doctor.survey() if report.path == region_path(str(store)))
        assert (report.state, report.directory) == ("in use", str(store))
        assert doctor.clean([store]) == []
        with pytest.raises(ntmem.StorageError, match="in use"):
            doctor.set_aside(region_path(str(store)))


def test_what_killed_processes_left_is_found_and_flushed(store: Path, start: Start) -> None:
    path = left_behind(start, store)
    (report,) = document(store, code=1)
    assert (report["ok"], report["state"], report["attached"]) == (False, "left behind", [])
    assert report["unflushed"] > KEPT * 100
    assert f"--flush {store}" in report["advice"][0]
    assert "not on disk" in run(store, code=1).stdout
    assert document("--clean", store) == []
    assert os.path.exists(path)
    assert "all is on disk" in run("--flush", store).stdout
    assert not os.path.exists(path)
    check_all_is_there(store)


def test_flush_brings_a_living_stores_changes_to_disk(store: Path, start: Start) -> None:
    user = open_in_a_process(start, store)
    assert document(store)[0]["unflushed"] > 0
    assert document("--flush", store)[0]["unflushed"] > 0
    assert document(store)[0]["unflushed"] == 0
    user.tell()
    user.end()


def test_what_is_all_on_disk_is_cleaned(store: Path, start: Start) -> None:
    user = open_in_a_process(start, store)
    run("--flush", store)
    user.kill()
    (report,) = document(store)
    assert (report["ok"], report["state"], report["unflushed"]) == (True, "stale", 0)
    assert report["path"] in run("--clean", store).stdout
    assert not os.path.exists(report["path"])
    check_all_is_there(store)


def test_a_stopped_process_is_named_and_not_waited_for(store: Path, start: Start) -> None:
    user = open_in_a_process(start, store)
    user.stop()
    (report,) = document(store, code=1)
    assert report["state"] == "in use"
    assert report["attached"] == [
        {"pid": user.pid, "command": report["attached"][0]["command"], "stopped": True},
    ]
    assert f"kill -CONT {user.pid}" in " ".join(report["advice"])
    assert "is stopped" in run(store, code=1).stdout
    user.signal(signal.SIGCONT)
    user.tell()
    user.end()


@pytest.mark.parametrize("damage", ["header", "truncated", "words"])
def test_a_damaged_region_is_set_aside_and_the_store_opens(store: Path, start: Start, damage: str) -> None:
    path = left_behind(start, store)
    with open(path, "r+b") as file:
        if damage == "header":
            file.seek(100)
            file.write(b"\xff" * 8)
        elif damage == "truncated":
            file.truncate(10_000)
        else:
            file.seek(4096 + 128)  # committed
            file.write(b"\xff" * 8)
    content = Path(path).read_bytes()
    with pytest.raises(ntmem.CorruptionError, match="ntmem doctor"):
        ntmem.open(store, engine="shared")
    (report,) = document(store, code=1)
    assert (report["state"], report["unflushed"]) == ("damaged", None)
    assert f"--set-aside {path} {store}" in report["advice"][0]
    assert document("--clean", store) == []
    copy = document("--set-aside", path, store)["copy"]
    assert not os.path.exists(path)
    assert Path(copy).parent == store
    assert Path(copy).read_bytes() == content
    with ntmem.open(store, engine="shared") as memory:  # what was in the region alone is in the copy alone
        memory.put("desk", "k", b"")


def test_a_region_of_another_state_of_the_data_file_is_set_aside(store: Path, start: Start) -> None:
    ntmem.open(store, engine="shared").close()
    backup = (store / "data.mdb").read_bytes()
    path = left_behind(start, store)
    (store / "data.mdb").write_bytes(backup)  # put back in place: same inode, older state
    with pytest.raises(ntmem.StorageError, match="ntmem doctor"):
        ntmem.open(store, engine="shared")
    copy = document("--set-aside", path, store)["copy"]
    assert os.path.getsize(copy) > KEPT * 100
    ntmem.open(store, engine="shared").close()


def test_a_sound_region_is_not_set_aside_but_brought_to_disk(store: Path, start: Start) -> None:
    path = left_behind(start, store)
    assert "is sound" in run("--set-aside", path, store, code=1).stderr
    assert not os.path.exists(path)
    check_all_is_there(store)


def test_the_region_of_a_store_that_was_deleted(store: Path, start: Start, tmp_path: Path) -> None:
    path = left_behind(start, store)
    with open(store / "data.mdb", "rb"):  # else a new store may get its inode, and with it the region
        shutil.rmtree(store)
        report = next(report for report in doctor.survey() if report.path == path)
        assert (report.state, report.directory) == ("left behind", None)
        assert any("--set-aside" in advice for advice in report.advice)
        assert "give the directory" in run("--set-aside", path, code=1).stderr
        copy = document("--set-aside", path, tmp_path)["copy"]
        assert not os.path.exists(path)
    assert os.path.getsize(copy) == report.size


def test_what_is_not_a_region_of_this_user_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mine, other = f"ntmem-{os.getuid()}-{'0' * 16}", f"ntmem-{os.getuid() + 1}-{'0' * 16}"
    monkeypatch.setattr("ntmem.tiers.region.SHARED_MEMORY", str(tmp_path))
    (tmp_path / other).write_bytes(b"theirs")
    (tmp_path / "ntmem-private").mkdir()
    (tmp_path / f"{mine}x").write_bytes(b"")
    assert doctor.survey() == []
    assert doctor.clean() == []
    for name in (other, f"{mine}x"):
        with pytest.raises(ntmem.StorageError, match="no shared region of this user"):
            doctor.set_aside(str(tmp_path / name), tmp_path)
    (tmp_path / mine).symlink_to(tmp_path / other)
    (report,) = doctor.survey()
    assert report.state == "damaged"
    assert "no regular file" in report.problems[0]
    with pytest.raises(ntmem.StorageError, match="is a link"):
        doctor.set_aside(str(tmp_path / mine), tmp_path)
    assert (tmp_path / other).read_bytes() == b"theirs"


def test_a_region_of_another_boot_or_container_is_foreign(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ntmem.tiers.region.SHARED_MEMORY", str(tmp_path))
    identity = doctor._IDENTITY.pack(b"another boot", 1, 2, 3, b"id")
    region = Region.create(
        tmp_path / f"ntmem-{os.getuid()}-{'1' * 16}", identity=identity, generation=1, sections=[(9, 4096, False)]
    )
    region.publish()
    (report,) = doctor.survey()
    assert (report.state, report.directory) == ("foreign", None)
    assert len(report.problems) == 2
    assert doctor.clean() == []


def test_a_simulated_clock_of_an_unknown_store_is_kept(store: Path, start: Start, tmp_path: Path) -> None:
    code = """
clock = ntmem.SimulatedClock(1_000)
memory = ntmem.open(sys.argv[1], engine="shared", clock=clock)
memory.put("desk", "k", b"")
memory.flush()
clock.set(2_000)
say("open")
hear()
"""
    user = start(code, store)
    user.line()
    user.kill()
    path = region_path(str(store))
    report = doctor._describe(path, [], {})
    assert (report.state, report.simulated_clock, report.directory) == ("stale", True, None)
    assert "simulated clock" in report.advice[0]
    assert [report.path for report in doctor.clean([store])] == [path]
    with ntmem.open(store, engine="shared") as memory:
        assert memory.now() == 2_000


def test_usage(store: Path) -> None:
    ntmem.open(store, engine="shared").close()
    run("--flush", code=2)
    run("--flush", "--clean", store, code=2)
    run("--set-aside", "/dev/shm/ntmem-x", store, store, code=2)
    assert "no shared region" in run("--set-aside", "/dev/shm/ntmem-x", store, code=1).stderr
    assert "Exit codes" in run("--help").stdout
