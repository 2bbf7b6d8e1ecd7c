"""The sources of others that are compiled in: where they come from, and how they get to ``_deps``.

Each is a source distribution on the package index, taken by its hash; only the files that are compiled, and the
licence, are kept. ``docs/design/build.md`` has the why.
"""

import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]
DEPENDENCIES = ROOT / "_deps"
_ORIGIN = "ORIGIN"  # what a directory was made from; one made from something else is made anew


class Source(NamedTuple):
    """One source distribution and what is kept of it."""

    name: str
    version: str
    sha256: str
    files: tuple[str, ...]
    patches: tuple[str, ...] = ()  # applied to `files` in this order
    # pip runs its setup.py to download it, which is to do as little as it can:
    stubs: tuple[tuple[str, str], ...] = ()  # stand-ins for modules that it imports, and their text
    settings: tuple[tuple[str, str], ...] = ()  # environment variables
    variable: str = ""  # see `override`

    @property
    def directory(self) -> Path:
        """Where the files are for the build, all on one level."""
        return DEPENDENCIES / f"{self.name}-{self.version}"

    @property
    def override(self) -> str:
        """The environment variable that names an unpacked source distribution to take instead."""
        return self.variable or f"NTMEM_{self.name.upper()}_SOURCE"


LMDB = Source(
    name="lmdb",
    version="3.0.0",
    sha256="06dda0723545e14d56ac7dcd6f582d9922c2ed5e16f1c3f8d0e670a96ec2ee65",
    files=("LICENSE", "lib/lmdb.h", "lib/mdb.c", "lib/midl.c", "lib/midl.h"),
    patches=tuple(  # all that py-lmdb applies to its build for other systems than Windows, in its order
        f"lib/py-lmdb/{name}.patch"
        for name in (
            "env-copy-txn",
            "cursor-next-prev-uninitialized",
            "cve-2019-16224-validate-db-flags",
            "cve-2019-16225-reject-dirty-pages",
            "cve-2019-16226-validate-node-del-size",
            "cve-2019-16227-guard-xcursor-null",
            "cve-2019-16228-validate-psize",
            "validate-page-bounds",
            "validate-node-read-size",
            "validate-subpage-bounds",
            "validate-xcursor-nodedsz",
            "validate-leaf2-keysize",
            "guard-xcursor-null-d3d4",
            "validate-nodedsz-page-split",
            "validate-node-shrink-delta",
            "validate-overflow-pages",
            "validate-nodedsz-cursor-put",
            "validate-md-depth",
            "validate-md-root",
            "win32-sparse-file",  # the line numbers of later ones count on it
            "fix-large-write",
            "fix-overflow-page-size-mul",
            "validate-md-pad",
            "validate-ovpage-free",
            "validate-freedb-record",
        )
    ),
    settings=(("LMDB_FORCE_SYSTEM", "1"),),  # else it patches two copies of LMDB, with a program named patch
)
_NO_INCLUDES = "def get_include(*_):\n    return ''\n"
HNSWLIB = Source(
    name="hnswlib",
    version="0.8.0",
    sha256="cb6d037eedebb34a7134e7dc78966441dfd04c9cf5ee93911be911ced951c44c",
    files=(
        "LICENSE",
        "hnswlib/bruteforce.h",
        "hnswlib/hnswalg.h",
        "hnswlib/hnswlib.h",
        "hnswlib/space_ip.h",
        "hnswlib/space_l2.h",
        "hnswlib/stop_condition.h",
        "hnswlib/visited_list_pool.h",
    ),
    # What its module is built with, and we only take headers.
    stubs=(("numpy", _NO_INCLUDES), ("pybind11", _NO_INCLUDES)),
    variable="NTMEM_HNSWLIB_INCLUDE",
)
SOURCES = (LMDB, HNSWLIB)


def requirements() -> list[str]:
    """Return what the build needs besides what pyproject.toml says: pip, if something is to be fetched."""
    absent = any(not os.environ.get(source.override) and not _is_there(source) for source in SOURCES)
    return ["pip>=23"] * absent


def provide() -> None:
    """Make the directories of all sources, of those that are not there yet."""
    for source in SOURCES:
        given = os.environ.get(source.override)
        if given:
            _keep(source, Path(given), origin=f"{source.override}\n")
        elif not _is_there(source):
            with tempfile.TemporaryDirectory() as scratch:
                _keep(source, _unpacked(_downloaded(source, Path(scratch)), source), origin=_origin(source))


def _origin(source: Source) -> str:
    return "\n".join((source.sha256, *source.files, *source.patches, ""))


def _is_there(source: Source) -> bool:
    try:
        return (source.directory / _ORIGIN).read_text() == _origin(source)
    except OSError:
        return False


def _keep(source: Source, unpacked: Path, *, origin: str) -> None:
    absent = [name for name in (*source.files, *source.patches) if not (unpacked / name).is_file()]
    if absent:
        raise SystemExit(f"{unpacked} is no source distribution of {source.name} {source.version}: no {absent[0]}")
    texts = {Path(name).name: (unpacked / name).read_text(encoding="utf-8") for name in source.files}
    for patch in source.patches:
        patched(texts, (unpacked / patch).read_text(encoding="utf-8"), patch)
    notices = (re.findall(r"/\*.*?\*/", text, re.DOTALL) for name, text in texts.items() if name.endswith(".c"))
    copyrights = [notice for found in notices for notice in found if "Copyright" in notice]
    if copyrights:
        texts["COPYRIGHT"] = "\n".join(copyrights) + "\n"
    texts[_ORIGIN] = origin
    if _is_made_of(source.directory, texts):  # leave it alone: the times of its files say what to compile anew
        return
    DEPENDENCIES.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=DEPENDENCIES, prefix=".") as scratch:
        fresh, old = Path(scratch, "fresh"), Path(scratch, "old")
        fresh.mkdir()
        for name, text in texts.items():
            (fresh / name).write_text(text, encoding="utf-8")
        try:
            os.replace(fresh, source.directory)
        except OSError:  # there is one already
            if not _is_made_of(source.directory, texts):  # nor has another builder just made it
                os.replace(source.directory, old)
                os.replace(fresh, source.directory)


def _is_made_of(directory: Path, texts: dict[str, str]) -> bool:
    try:
        return all((directory / name).read_text(encoding="utf-8") == text for name, text in texts.items())
    except OSError:
        return False


def patched(texts: dict[str, str], patch: str, name: str) -> None:
    """Apply a unified diff to `texts` (by file name): exactly, or not at all."""
    for part in re.split(r"^(?=--- )", patch, flags=re.MULTILINE)[1:]:
        head, *hunks = re.split(r"^(?=@@ )", part, flags=re.MULTILINE)
        file = head.splitlines()[1].split("\t")[0].rsplit("/", 1)[-1].strip()
        lines = texts[file].splitlines(keepends=True)
        for hunk in hunks:
            title, *changes = hunk.split("\n")
            changes = [change or " " for change in changes if not change.startswith(("diff ", "index "))]
            numbers = re.match(r"@@ -\d+(?:,(\d+))? \+(\d+)(?:,(\d+))? @@", title)
            if numbers is None:
                raise SystemExit(f"{name}: what is {title!r}?")
            count, at = int(numbers[1] or 1), int(numbers[2]) - 1
            before, after = [], []
            for change in changes:
                if len(before) == count and len(after) == int(numbers[3] or 1):
                    break
                if change[0] in " -":
                    before.append(change[1:] + "\n")
                if change[0] in " +":
                    after.append(change[1:] + "\n")
            if lines[at : at + count] != before:
                raise SystemExit(f"{name} does not fit {file} at line {at + 1}")
            lines[at : at + count] = after
        texts[file] = "".join(lines)


def _downloaded(source: Source, scratch: Path) -> Path:
    """Let pip fetch the archive: it knows the user's index, proxy and certificates."""
    stubs = scratch / "stubs"
    stubs.mkdir()
    for module, text in source.stubs:
        (stubs / f"{module}.py").write_text(text)
    wanted = scratch / "requirements.txt"
    wanted.write_text(f"{source.name}=={source.version} --hash=sha256:{source.sha256}\n")
    # What this build was told by the pip or the build program around it is not meant for another pip.
    environment = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("_PYPROJECT_HOOKS_", "PEP517_")) and name != "PIP_BUILD_TRACKER"
    }
    environment |= dict(source.settings)
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, (str(stubs), os.environ.get("PYTHONPATH"))))
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--no-build-isolation", "--require-hashes"]
    command += ["--no-binary", source.name, "--dest", str(scratch), "--requirement", str(wanted)]
    command += ["--disable-pip-version-check", "--no-input", "--quiet"]
    if subprocess.run(command, cwd=scratch, env=environment, check=False).returncode != 0:
        raise SystemExit(
            f"cannot fetch {source.name} {source.version}, whose sources are compiled in (pip's message is above); "
            f"without an index, set {source.override} to its unpacked source distribution"
        )
    return next(scratch.glob("*.tar.gz"))


def _unpacked(archive: Path, source: Source) -> Path:
    top = archive.name.removesuffix(".tar.gz")
    into = archive.parent / "unpacked"
    with tarfile.open(archive) as tar:
        for name in (*source.files, *source.patches):
            member = tar.extractfile(f"{top}/{name}")
            if member is None:
                raise SystemExit(f"{archive.name} has no file {name}")
            (into / name).parent.mkdir(parents=True, exist_ok=True)
            with member, open(into / name, "wb") as file:
                shutil.copyfileobj(member, file)
    return into
