"""Build the native modules; everything that is not code is in pyproject.toml.

Environment switches, each 0 (default) or 1 unless said otherwise:
NTMEM_DEBUG       bounds checks, asserts, -O0 -g
NTMEM_LINETRACE   line tracing of .pyx files and gcov's counters of C, for coverage; with -O1
NTMEM_SANITIZE    comma-separated set of address, undefined, thread, fuzzer (clang: coverage for `make fuzz`, with -O1)
NTMEM_FAILPOINTS  compile the failpoints in (the macro NTMEM_FAILPOINTS), with -O1: it is built for tests
NTMEM_WERROR      warnings of Cython and of the C compiler are errors
"""

import contextlib
import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

sys.path.insert(0, "_build")
from thirdparty import HNSWLIB, LMDB

SOURCE = Path("src")
CORE = SOURCE / "ntmem" / "_core"
FOREIGN = {"ntmem._core.mdb": [LMDB.directory / "mdb.c", LMDB.directory / "midl.c"]}
"""C sources of others that a module holds in itself: not ours to make free of warnings."""
CXX = {"ntmem._core.hnsw": [CORE / "hnsw_build.cpp"]}
"""C++ of ours that a module holds in itself, behind functions of C; modules themselves are C."""


def switch(name: str) -> bool:
    value = os.environ.get(name) or "0"
    if value not in ("0", "1"):
        raise SystemExit(f"{name} must be 0 or 1, was {value!r}")
    return value == "1"


DEBUG, LINETRACE, FAILPOINTS, WERROR = map(
    switch, ("NTMEM_DEBUG", "NTMEM_LINETRACE", "NTMEM_FAILPOINTS", "NTMEM_WERROR")
)
SANITIZE = sorted(filter(None, os.environ.get("NTMEM_SANITIZE", "").split(",")))
if not {*SANITIZE} <= {"address", "undefined", "thread", "fuzzer"} or {"address", "thread"} <= {*SANITIZE}:
    raise SystemExit(f"NTMEM_SANITIZE must be address, undefined or both, or thread, and fuzzer or not, was {SANITIZE}")

DIRECTIVES = {
    "language_level": 3,
    "boundscheck": DEBUG,
    "initializedcheck": DEBUG,
    "nonecheck": DEBUG,
    "wraparound": False,
    "cdivision": True,
    "embedsignature": True,
    "embedsignature.format": "python",
    "auto_pickle": False,
    "autotestdict": False,
    "linetrace": LINETRACE,
    # freethreading_compatible is a promise: each module makes it for itself, after its tests
}

# No -march: a wheel must run on machines other than the one that built it.
FLAGS = [
    "-fvisibility=hidden",
    "-Wall",
    "-Wextra",
    "-Wno-unused-parameter",
    "-Wno-missing-field-initializers",
]
OPTIMIZED = "-O1" if FAILPOINTS or LINETRACE or "fuzzer" in SANITIZE else "-O3"
FLAGS += ["-O0", "-g", "-UNDEBUG", "-U_FORTIFY_SOURCE"] if DEBUG else [OPTIMIZED, "-g0"]
FLAGS += ["-Werror"] * WERROR
LINK = []
if SANITIZE:
    LINK = [f"-fsanitize={','.join(SANITIZE).replace('fuzzer', 'fuzzer-no-link')}"]
    FLAGS += [*LINK, "-fno-sanitize-recover=all", "-fno-omit-frame-pointer", "-g", "-U_FORTIFY_SOURCE"]
# LMDB's asserts stay in, as in py-lmdb: rather end the process than write what a damaged page led to.
FOREIGN_FLAGS = [flag for flag in FLAGS if not flag.startswith("-W")] + ["-w", "-pthread", "-UNDEBUG"]
# LMDB reads numbers where they stand, aligned or not, and some of its flags while others of them are written.
FOREIGN_FLAGS += ["-fno-sanitize=undefined,thread"] * bool(SANITIZE)
if LINETRACE:  # after the flags of others' sources: they are not measured
    LINK += ["--coverage"]
    FLAGS += ["--coverage", "-fprofile-update=atomic"]
# hnswlib's own kernels are left out: they would be of the building machine, and ours are taken.
CXX_FLAGS = [*FLAGS, "-std=c++17", "-pthread", "-DNO_MANUAL_VECTORIZATION", "-isystem", str(HNSWLIB.directory)]
CXX_FLAGS += ["-fno-sanitize=vptr,function"] * ("fuzzer" in SANITIZE)  # not in atheris' library
CXX_LINK = ["-lstdc++", "-pthread"]
MACROS = [("CYTHON_WITHOUT_ASSERTIONS", "1")] * (not DEBUG) + [("NTMEM_FAILPOINTS", "1")] * FAILPOINTS
if LINETRACE:  # from 3.12 on Cython would trace through sys.monitoring, which coverage cannot follow
    MACROS += [("CYTHON_TRACE", "1"), ("CYTHON_TRACE_NOGIL", "1"), ("CYTHON_USE_SYS_MONITORING", "0")]


@contextlib.contextmanager
def said_by_all() -> Iterator[list[str]]:
    """Keep what this process and its children write to the standard error, and write it there at the end."""
    said: list[str] = []
    sys.stderr.flush()
    with tempfile.TemporaryFile() as file:
        before = os.dup(2)
        os.dup2(file.fileno(), 2)
        try:
            yield said
        finally:
            sys.stderr.flush()
            os.dup2(before, 2)
            os.close(before)
            file.seek(0)
            said.append(file.read().decode(errors="replace"))
            sys.stderr.write(said[0])


class StrictBuild(build_ext):
    """Run Cython here, not at import: egg_info instantiates this command without building anything."""

    def finalize_options(self) -> None:
        super().finalize_options()
        self.parallel = self.parallel or len(os.sched_getaffinity(0))

    def run(self) -> None:
        from Cython.Build import cythonize
        from Cython.Compiler import Options

        Options.warning_errors = WERROR
        with said_by_all() as said:  # forced, so that every hint of every module passes through here
            modules = cythonize(
                self.extensions,
                build_dir=str(Path(self.build_temp, "cython")),
                compiler_directives=DIRECTIVES,
                force=True,
                nthreads=self.parallel if sys.platform == "linux" else 0,  # they are processes, and forked
            )
        if "performance hint:" in "".join(said):  # e.g. a GIL check after every call; not a -Werror matter
            raise SystemExit("Cython gave a performance hint (above); resolve it, e.g. with `noexcept`")
        for extension, module in zip(self.extensions, modules, strict=True):
            vars(extension).update(vars(module))  # keeps what setuptools has noted on its own object
        super().run()

    def build_extension(self, ext: Extension) -> None:
        for path in FOREIGN.get(ext.name, []):
            self.compile_into(ext, path, FOREIGN_FLAGS, wanted=path)
        for path in CXX.get(ext.name, []):
            self.compile_into(ext, path, CXX_FLAGS, wanted=HNSWLIB.directory / "hnswlib.h")
            ext.extra_link_args = [*ext.extra_link_args, *CXX_LINK]
        super().build_extension(ext)

    def compile_into(self, ext: Extension, path: Path, flags: list[str], *, wanted: Path) -> None:
        if not wanted.exists():
            raise SystemExit(f"{wanted} is missing; build with pip, which fetches it, or see docs/design/build.md")
        name = os.path.relpath(path)  # an absolute one would lead out of the build directory
        ext.extra_objects += self.compiler.compile([name], self.build_temp, extra_postargs=flags)


setup(
    cmdclass={"build_ext": StrictBuild},
    ext_modules=[
        Extension(
            ".".join(path.relative_to(SOURCE).with_suffix("").parts),
            [str(path)],
            include_dirs=[str(CORE), str(LMDB.directory)],
            define_macros=MACROS,
            extra_compile_args=FLAGS,
            extra_link_args=LINK,
        )
        for path in sorted(CORE.rglob("*.pyx"))
    ],
)
