"""What every wheel has to pass, built by `make wheels` or by cibuildwheel: docs/design/packaging.md.

    python _build/check_wheel.py look WHEEL ...    what is in it; needs nothing but Python
    python _build/check_wheel.py use [imports]     what it does, in the environment that it is installed in

Failures are all said, and the exit code is 1.
"""

import email
import importlib
import importlib.metadata
import os
import subprocess
import sys
import sysconfig
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))
import thirdparty

ROOT = Path(__file__).resolve().parents[1]
SOURCE = ROOT / "src"
MOST_BYTES = 5_000_000
PORTABLE = ("manylinux", "musllinux")
DATA = ("*/py.typed", "*/include/*.h", "*/integrations/*.json", "*/replay/data/*")
"""What is in it and is not code."""

SLICE = (
    "tests/unit/test_facade.py",  # all engines: shared memory, LMDB, the log, the flusher
    "tests/format",  # stores and codes that other builds have written, to the byte
    "tests/unit/test_hnsw.py::test_few_rows",  # the run-time library of C++
    "tests/unit/test_kernels.py",  # instructions of this processor, and of any
    "tests/unit/test_columns.py",
    "tests/unit/test_region.py",  # system calls that a C library may not have
    "tests/unit/test_metrics.py",  # a file that is not code
    "tests/unit/test_cli.py",  # the command
)
"""What a wheel can have wrong that the sources have right: linking, instructions, system calls, files left out."""


def native() -> set[str]:
    return {path.stem for path in (SOURCE / "ntmem" / "_core").glob("*.pyx")}


# ---- what is in it ----


def faults_of(wheel: Path) -> Iterator[str]:
    if wheel.stat().st_size > MOST_BYTES:
        yield f"it has {wheel.stat().st_size:,} bytes, which is more than {MOST_BYTES:,}"
    tag = wheel.stem.split("-")[-1]
    if not all(part.startswith(PORTABLE) for part in tag.split(".")):
        yield f"its tag is {tag}: it runs where it was built, and maybe elsewhere; repair it with auditwheel"
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if not name.endswith("/")}
        (info,) = {name.split("/")[0] for name in names if name.split("/")[0].endswith(".dist-info")}
        yield from _wrong_files({name for name in names if not name.startswith(f"{info}/")})
        yield from _wrong_licences(archive, info, names)


def _wrong_files(names: set[str]) -> Iterator[str]:
    wanted = {
        path.relative_to(SOURCE).as_posix() for pattern in DATA for path in SOURCE.glob(pattern) if path.is_file()
    }
    wanted |= {path.relative_to(SOURCE).as_posix() for suffix in ("py", "pyi") for path in SOURCE.rglob(f"*.{suffix}")}
    modules = {name for name in names if name.endswith(".so")}
    built = {Path(name).name.split(".")[0] for name in modules if name.startswith("ntmem/_core/")}
    for name in sorted(wanted - names):
        yield f"{name} is not in it"
    for name in sorted(names - wanted - modules):
        yield f"{name} has no business in it"
    for name in sorted(native() - built):
        yield f"the module ntmem._core.{name} is not in it"
    for name in sorted(modules):
        if not name.startswith("ntmem/_core/") or Path(name).name.split(".")[0] not in native():
            yield f"{name} is a library of others: its licence would have to be there, and its bugs be watched"


def _wrong_licences(archive: zipfile.ZipFile, info: str, names: set[str]) -> Iterator[str]:
    metadata = email.message_from_bytes(archive.read(f"{info}/METADATA"))
    said = set(metadata.get_all("License-File", []))
    wanted = {"LICENSE-MIT", "LICENSE-APACHE", "src/ntmem/replay/data/NOTICE"}
    for source in thirdparty.SOURCES:
        kept = f"_deps/{source.directory.name}"
        wanted |= {f"{kept}/LICENSE"} | (
            {f"{kept}/COPYRIGHT"} if any(file.endswith(".c") for file in source.files) else set()
        )
    for name in sorted(wanted):
        file = f"{info}/licenses/{name}"
        if file not in names or name not in said or not archive.read(file).strip():
            yield f"the licence {name} is not in it"
    if "OLDAP-2.8" not in (metadata.get("License-Expression") or ""):
        yield f"its License-Expression does not tell of LMDB's: {metadata.get('License-Expression')}"


def look(wheels: list[Path]) -> int:
    found = 0
    for wheel in wheels:
        faults = list(faults_of(wheel))
        found += len(faults)
        print(f"{wheel.name}: {wheel.stat().st_size:,} bytes", *faults, sep="\n  ")
    return bool(found) or not wheels


# ---- what it does ----


def import_all() -> None:
    """Import every module, native ones by their list: one that is not there is not to be a slower twin."""
    import ntmem

    where = Path(ntmem.__file__).resolve()
    if where.is_relative_to(SOURCE):
        raise SystemExit(f"ntmem was imported from {where.parent}, which is not a wheel")
    if ntmem.__version__ != importlib.metadata.version("ntmem"):
        raise SystemExit(
            f"ntmem says that it is {ntmem.__version__}, its metadata {importlib.metadata.version('ntmem')}"
        )
    for name in sorted(native()):
        file = importlib.import_module(f"ntmem._core.{name}").__file__
        if file is None or not file.endswith(sysconfig.get_config_var("EXT_SUFFIX")):
            raise SystemExit(f"ntmem._core.{name} is {file}, not a native module of this Python")
    python = f"{sys.version.split()[0]}, {sysconfig.get_platform()}"
    print(f"ntmem {ntmem.__version__}, {len(native())} native modules, {python}")


def keep_something() -> None:
    """Write with each engine, and read it after closing."""
    import ntmem

    for engine in ("shared", "lmdb"):
        with tempfile.TemporaryDirectory() as directory:
            with ntmem.open(f"{directory}/desk", engine=engine) as memory:
                memory.put("desk", "key", b"value")
            with ntmem.open(f"{directory}/desk", engine=engine) as memory:
                if memory.get("desk", "key") != b"value":
                    raise SystemExit(f"engine {engine} lost what was written")


def use(*, tests: bool) -> int:
    import_all()
    keep_something()
    if not tests:
        return 0
    nothing = {"PATH": str(Path(sys.executable).parent), "CC": "false", "CXX": "false"}  # no compiler is to be missed
    kept = {name: os.environ[name] for name in ("HOME", "TMPDIR", "LANG", "NTMEM_KERNELS") if name in os.environ}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-c", ROOT / "pyproject.toml"]
    command += ["--rootdir", ROOT, "-m", "not slow", *(f"{ROOT}/{path}" for path in SLICE)]
    with tempfile.TemporaryDirectory() as elsewhere:  # not in the tree, whose directory would be on the path
        return subprocess.run(command, cwd=elsewhere, env=kept | nothing, check=False).returncode


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["look", *wheels]:
            sys.exit(look([Path(wheel) for wheel in wheels]))
        case ["use", *what] if what in ([], ["imports"]):
            sys.exit(use(tests=not what))
    sys.exit(__doc__)
