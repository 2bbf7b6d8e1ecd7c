"""What `ntmem doctor` says of a machine and of where a store is: made to be wrong, one thing at a time."""

from __future__ import annotations

import json
import os
import resource
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from click.testing import CliRunner

import ntmem
from ntmem.cli.commands import cli
from ntmem.tiers import machine
from ntmem.tiers.machine import Finding, examine_directory, examine_machine, kind_of, region_bytes, worst
from ntmem.tiers.region import region_path


def of(name: str, findings: list[Finding]) -> Finding:
    (found,) = (finding for finding in findings if finding.name == name)
    assert bool(found.remedy) == (found.level != "ok"), found
    return found


def disk(free: int) -> Any:
    return lambda path: SimpleNamespace(f_bavail=free // 4096, f_frsize=4096, f_blocks=1 << 20)


def test_what_a_region_takes_is_what_is_said(tmp_path: Path) -> None:
    at_once, most = region_bytes(ntmem.MemoryConfig(cache_config=ntmem.CacheConfig()))
    with ntmem.open(tmp_path, engine="shared"):
        stat = os.stat(region_path(str(tmp_path)))
        assert most <= stat.st_size <= most + (1 << 20)
        assert at_once <= stat.st_blocks * 512 <= at_once + (1 << 20)


@pytest.mark.parametrize(("free", "level"), [(1 << 20, "problem"), (40 << 20, "warning"), (1 << 30, "ok")])
def test_shared_memory(free: int, level: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NTMEM_CACHE_BYTES", raising=False)
    monkeypatch.setattr(os, "statvfs", disk(free))
    assert of("shared memory", examine_machine()).level == level


def test_no_shared_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "is_supported", lambda: False)
    assert "engine='lmdb'" in of("shared memory", examine_machine()).remedy


@pytest.mark.parametrize(
    ("limit", "name", "value", "level"),
    [
        ("RLIMIT_NOFILE", "open files", 32, "problem"),
        ("RLIMIT_NOFILE", "open files", 128, "warning"),
        ("RLIMIT_NOFILE", "open files", 1024, "ok"),
        ("RLIMIT_NOFILE", "open files", resource.RLIM_INFINITY, "ok"),
        ("RLIMIT_AS", "address space", 1 << 32, "warning"),
        ("RLIMIT_FSIZE", "file size", 1 << 20, "warning"),
    ],
)
def test_limits(limit: str, name: str, value: int, level: str, monkeypatch: pytest.MonkeyPatch) -> None:
    real = resource.getrlimit
    wanted = getattr(resource, limit)
    monkeypatch.setattr(resource, "getrlimit", lambda which: (value, value) if which == wanted else real(which))
    assert of(name, examine_machine()).level == level


@pytest.mark.parametrize(
    ("file", "content", "name", "level"),
    [
        ("/proc/sys/vm/overcommit_memory", "2", "overcommit", "warning"),
        ("/proc/sys/vm/overcommit_memory", "1", "overcommit", "ok"),
        ("clocksource0/current_clocksource", "tsc", "clock", "ok"),
        ("clocksource0/current_clocksource", "hpet", "clock", "warning"),
    ],
)
def test_kernel(file: str, content: str, name: str, level: str, monkeypatch: pytest.MonkeyPatch) -> None:
    real = machine._read
    monkeypatch.setattr(machine, "_read", lambda path: content if path.endswith(file) else real(path))
    monkeypatch.setattr(machine, "_SLOW_CLOCK", 0)  # whatever this one takes
    assert of(name, examine_machine()).level == level


def test_a_processor_without_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    assert of("processor", examine_machine()).found
    monkeypatch.setattr(machine.kernels, "Kernels", lambda: SimpleNamespace(name="scalar"))
    assert of("processor", examine_machine()).level == "warning"


MOUNTS = r"""
1 0 8:1 / / rw - ext4 /dev/sda rw
2 1 0:9 / /mnt/nas rw - nfs4 nas:/x rw
3 1 0:10 / /mnt/nas/fast rw - xfs /dev/sdb rw
4 1 0:11 / /run rw - tmpfs tmpfs rw
5 1 0:12 / /mnt/with\040space rw - cifs //x rw
6 1 0:13 / /mnt/nas/fast rw - btrfs /dev/sdc rw
""".strip().splitlines()


@pytest.mark.parametrize(
    ("path", "kind", "level"),
    [
        ("/home/x", "ext4", "ok"),
        ("/mnt/nas/desk", "nfs4", "problem"),
        ("/mnt/nasty", "ext4", "ok"),
        ("/mnt/nas/fast/desk", "btrfs", "ok"),
        ("/run", "tmpfs", "warning"),
        ("/mnt/with space/desk", "cifs", "problem"),
    ],
)
def test_file_systems(path: str, kind: str, level: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os.path, "realpath", lambda path: path)
    assert kind_of(path, MOUNTS) == kind
    monkeypatch.setattr(machine, "_read", lambda _: "\n".join(MOUNTS))
    assert machine._file_system(path).level == level


@pytest.mark.parametrize(("free", "level"), [(1 << 20, "problem"), (200 << 20, "warning"), (2 << 30, "ok")])
def test_room_on_the_disk(tmp_path: Path, free: int, level: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "statvfs", disk(free))
    assert of("disk", examine_directory(tmp_path)).level == level


def test_rights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ntmem.open(tmp_path).close()
    assert of("rights", examine_directory(tmp_path)).level == "ok"
    real = os.access
    monkeypatch.setattr(os, "access", lambda path, mode: not str(path).endswith("lock.mdb") and real(path, mode))
    assert "chmod u+rw " in of("rights", examine_directory(tmp_path)).remedy
    monkeypatch.setattr(os, "getuid", lambda: 12345)
    assert "chown -R 12345" in of("rights", examine_directory(tmp_path)).remedy


def test_the_exit_code_is_that_of_the_worst(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ok, warning, problem = (Finding("x", level, "found", "do") for level in machine.LEVELS)
    assert [worst([]), worst([ok, warning]), worst([problem, ok])] == ["ok", "warning", "problem"]
    ntmem.open(tmp_path / "desk").close()

    def run(*findings: Finding, options: tuple[str, ...] = ()) -> tuple[int, str]:
        monkeypatch.setattr(machine, "examine_machine", lambda: [*findings])
        monkeypatch.setattr(machine, "examine_directory", lambda path: [])
        result = CliRunner().invoke(cli, ["doctor", str(tmp_path / "desk"), *options])
        return result.exit_code, result.stdout

    assert run(ok)[0] == 0
    assert run(warning)[0] == 0
    assert run(warning, options=("--strict",))[0] == 1
    code, said = run(ok, problem)
    assert (code, "what to do" in said, "do" in said) == (1, True, True)
    found = json.loads(run(ok, problem, options=("--json",))[1])
    assert [each["level"] for each in found["machine"]] == ["ok", "problem"]
    assert found["regions"][0]["state"] == "none"
