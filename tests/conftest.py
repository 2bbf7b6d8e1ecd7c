"""Tests run against the installed wheel: that is what users get."""

import gc
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest
from hostile import Start, children, ram_directory

import ntmem

ROOT = Path(__file__).parents[1]
ENGINES = ("shared", "tiny", "lmdb")
"""Tiny is shared with a hot table that next to nothing fits into: whatever is right with it alone is wrong."""

# Timing never decides a test, so neither does hypothesis' clock.
hypothesis.settings.register_profile(
    "ntmem",
    deadline=None,
    print_blob=True,
    suppress_health_check=[hypothesis.HealthCheck.too_slow],
    **({"max_examples": 10} if "NTMEM_COVERAGE_ROOT" in os.environ else {}),  # lines are run by few as by many
)
hypothesis.settings.load_profile("ntmem")


def pytest_sessionstart() -> None:
    origin = Path(ntmem.__file__).resolve()
    if origin.is_relative_to(ROOT / "src") and os.environ.get("NTMEM_TEST_SOURCE") != "1":
        pytest.exit(
            f"ntmem was imported from {origin.parent}, not from an installed wheel; "
            "run `make test`, or set NTMEM_TEST_SOURCE=1 if the source tree is meant",
            returncode=4,
        )


def pytest_collection_finish() -> None:
    """Let no collection of garbage look again at what the collected tests are made of, some 300,000 objects."""
    gc.collect()
    gc.freeze()


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "engine" in metafunc.fixturenames:
        only = metafunc.definition.get_closest_marker("only")
        metafunc.parametrize("engine", only.args if only else ENGINES, indirect=True)


@pytest.fixture
def engine(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """The engine of every store that the test and its children open; tests of the facade run once on each."""
    name: str = request.param
    if name == "tiny":
        monkeypatch.setenv("NTMEM_CACHE_BYTES", "1")
        name = "shared"
    monkeypatch.setenv("NTMEM_ENGINE", name)
    return name


@pytest.fixture(scope="session")
def root() -> Path:
    """The checked-out repository."""
    return ROOT


@pytest.fixture
def ram() -> Iterator[Path]:
    """A directory on a RAM disk, gone after the test."""
    with ram_directory() as path:
        yield path


@pytest.fixture
def store(ram: Path) -> Path:
    """A store that was opened once, in a directory on a RAM disk."""
    ntmem.open(ram / "desk", engine="shared").close()
    return ram / "desk"


@pytest.fixture
def small_shm(ram: Path, request: pytest.FixtureRequest) -> Iterator[Path]:
    """A file system of so many MiB (the parameter), to take the place of /dev/shm."""
    if os.getuid() != 0:
        pytest.skip("mounting a file system needs root")
    path = ram / "shm"
    path.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={request.param}m", "tmpfs", path]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("mount is not allowed here")
    try:
        yield path
    finally:
        subprocess.run(["umount", path], check=True)


@pytest.fixture
def start() -> Iterator[Start]:
    """Starts child processes; those that still run are killed after the test."""
    with children() as start:
        yield start
