"""A build that is not right fails; it never yields a package that is slower or has less in it."""

import contextlib
import ctypes
import importlib.metadata
import importlib.util
import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import pytest

HINTED = """
cdef void touch() nogil:
    pass

def touch_all():
    with nogil:
        touch()
"""
BROKEN = """
cdef extern from *:
    '''
    #error this compiler will not do
    '''
"""


@pytest.fixture
def build(root, tmp_path):
    """Builds a copy of the tree whose only native module has the given source."""

    def run(source, *, module="tiny", sources=True, **environment):
        shutil.copytree(root / "src", tmp_path / "src", ignore=shutil.ignore_patterns("*.pyx", f"{module}.pxd", "*.so"))
        for name in ("setup.py", "pyproject.toml", "LICENSE-MIT", "LICENSE-APACHE"):
            shutil.copy(root / name, tmp_path)
        for name in ("_build", *["_deps"] * sources):
            shutil.copytree(root / name, tmp_path / name)
        (tmp_path / "README.md").touch()
        (tmp_path / "src/ntmem/_core" / f"{module}.pyx").write_text(source)
        clean = {name: value for name, value in os.environ.items() if not name.startswith("NTMEM_")}
        return subprocess.run(
            [sys.executable, "setup.py", "build_ext", "--build-lib", "built"],
            cwd=tmp_path,
            env=clean | environment,
            capture_output=True,
            text=True,
            check=False,
        )

    return run


def test_a_plain_module_builds(build, tmp_path):
    result = build("def answer():\n    return 42\n", NTMEM_DEBUG="1", NTMEM_WERROR="1")
    assert result.returncode == 0, result.stderr
    assert list((tmp_path / "built").rglob("tiny.*.so"))
    assert not list((tmp_path / "src").rglob("tiny.c")), "generated C belongs into the build directory"


def test_a_performance_hint_fails_the_build(build, tmp_path):
    result = build(HINTED)
    assert result.returncode != 0
    assert "performance hint: src/ntmem/_core/tiny.pyx:2" in result.stderr
    assert "resolve it, e.g. with `noexcept`" in result.stderr
    assert not list(tmp_path.rglob("*.so"))


def test_a_compiler_error_fails_the_build(build):
    result = build(BROKEN)
    assert result.returncode != 0
    assert "this compiler will not do" in result.stdout + result.stderr


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("NTMEM_DEBUG", "yes", "NTMEM_DEBUG must be 0 or 1, was 'yes'"),
        ("NTMEM_SANITIZE", "adress", "NTMEM_SANITIZE must be address, undefined or both, or thread"),
        ("NTMEM_SANITIZE", "address,thread", "NTMEM_SANITIZE must be address, undefined or both, or thread"),
    ],
)
def test_an_unknown_switch_is_refused(build, name, value, message):
    result = build("", **{name: value})
    assert result.returncode != 0
    assert message in result.stderr


def test_the_wheel_carries_types_and_no_sources():
    names = [str(file) for file in importlib.metadata.files("ntmem") or ()]
    assert "ntmem/py.typed" in names
    assert "ntmem/_core/vectors.pyi" in names
    sources = [name for name in names if name.endswith((".pyx", ".c", ".cpp", ".h"))]
    assert sources == ["ntmem/include/ntmem.h"]  # which is for readers outside of Python


# ---- the sources of others ----


@pytest.fixture
def thirdparty(root, tmp_path, monkeypatch):
    """The module that fetches them, which finds one made-up source in ``tmp_path / "given"``."""
    spec = importlib.util.spec_from_file_location("thirdparty", root / "_build/thirdparty.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.DEPENDENCIES = tmp_path / "deps"
    module.SOURCES = (
        module.Source("tiny", "1.0", "0" * 64, ("LICENSE", "src/tiny.c"), patches=("patches/one.patch",)),
    )
    given = tmp_path / "given"
    for name, text in {
        "LICENSE": "as you like\n",
        "src/tiny.c": "/* Copyright the author */\nint one;\n\nint three;\n/* no notice */\n",
        "patches/one.patch": "--- a/src/tiny.c\n+++ b/src/tiny.c\n@@ -2,3 +2,4 @@\n int one;\n \n-int three;\n"
        "+int two;\n+int three = 3;\n",
    }.items():
        (given / name).parent.mkdir(parents=True, exist_ok=True)
        (given / name).write_text(text)
    monkeypatch.setenv("NTMEM_TINY_SOURCE", str(given))
    return module


def test_a_source_is_patched_and_kept_with_its_notices(thirdparty, tmp_path):
    assert thirdparty.requirements() == []
    thirdparty.provide()
    kept = {path.name: path.read_text() for path in (tmp_path / "deps/tiny-1.0").iterdir()}
    assert kept == {
        "LICENSE": "as you like\n",
        "COPYRIGHT": "/* Copyright the author */\n",
        "ORIGIN": "NTMEM_TINY_SOURCE\n",
        "tiny.c": "/* Copyright the author */\nint one;\n\nint two;\nint three = 3;\n/* no notice */\n",
    }


def test_pip_is_required_only_to_fetch(thirdparty, monkeypatch):
    monkeypatch.delenv("NTMEM_TINY_SOURCE")
    assert thirdparty.requirements() == ["pip>=23"]
    (source,) = thirdparty.SOURCES
    source.directory.mkdir(parents=True)
    (source.directory / "ORIGIN").write_text("NTMEM_TINY_SOURCE\n")
    assert thirdparty.requirements() == ["pip>=23"], "a directory named once is not taken for the real one"


def test_a_source_may_have_a_variable_of_another_name(thirdparty, tmp_path, monkeypatch):
    (source,) = thirdparty.SOURCES
    thirdparty.SOURCES = (source._replace(variable="NTMEM_TINY_INCLUDE", patches=()),)
    monkeypatch.delenv("NTMEM_TINY_SOURCE")
    assert thirdparty.requirements() == ["pip>=23"]
    monkeypatch.setenv("NTMEM_TINY_INCLUDE", str(tmp_path / "given"))
    assert thirdparty.requirements() == []
    thirdparty.provide()
    assert (source.directory / "ORIGIN").read_text() == "NTMEM_TINY_INCLUDE\n"


def test_a_source_without_notices_has_no_file_of_them(thirdparty, tmp_path):
    (source,) = thirdparty.SOURCES
    thirdparty.SOURCES = (source._replace(patches=()),)
    (tmp_path / "given/src/tiny.c").write_text("/* only a comment */\nint one;\n")
    thirdparty.provide()
    assert sorted(path.name for path in source.directory.iterdir()) == ["LICENSE", "ORIGIN", "tiny.c"]


def test_what_pip_is_to_import_is_a_stub(thirdparty, tmp_path, monkeypatch):
    """hnswlib's setup.py asks numpy and pybind11 for directories of headers, to be downloaded."""
    source = thirdparty.HNSWLIB
    called = {}

    def fails(command, *, env, **_):
        stubs = Path(env["PYTHONPATH"].split(os.pathsep)[0])
        called.update({path.stem: path.read_text() for path in stubs.iterdir()}, command=command)
        called["wanted"] = Path(command[command.index("--requirement") + 1]).read_text()
        return subprocess.CompletedProcess(command, 1)

    monkeypatch.delenv("NTMEM_HNSWLIB_INCLUDE", raising=False)
    monkeypatch.setattr(thirdparty.subprocess, "run", fails)
    thirdparty.SOURCES = (source,)
    with pytest.raises(SystemExit, match=r"without an index, set NTMEM_HNSWLIB_INCLUDE to its unpacked source"):
        thirdparty.provide()
    assert called["wanted"] == f"hnswlib==0.8.0 --hash=sha256:{source.sha256}\n"
    assert "--require-hashes" in called["command"]
    for module in ("numpy", "pybind11"):
        names = {}
        exec(called[module], names)
        assert names["get_include"]() == names["get_include"](True) == ""


def test_a_patch_fits_to_the_letter_or_nothing_is_kept(thirdparty, tmp_path):
    (tmp_path / "given/src/tiny.c").write_text("int one;\nint three;\n")
    with pytest.raises(SystemExit, match=r"one.patch does not fit tiny.c at line 2"):
        thirdparty.provide()
    assert not (tmp_path / "deps").exists()


def test_a_directory_that_is_none_is_refused(thirdparty, tmp_path):
    (tmp_path / "given/src/tiny.c").unlink()
    with pytest.raises(SystemExit, match=r"is no source distribution of tiny 1.0: no src/tiny.c"):
        thirdparty.provide()


def test_a_source_is_made_anew_when_it_changed_and_not_otherwise(thirdparty, tmp_path):
    (source,) = thirdparty.SOURCES
    thirdparty.provide()
    made = (source.directory / "tiny.c").stat()
    thirdparty.provide()
    assert (source.directory / "tiny.c").stat().st_ino == made.st_ino
    (tmp_path / "given/LICENSE").write_text("as we like\n")
    thirdparty.provide()
    assert (source.directory / "LICENSE").read_text() == "as we like\n"
    assert [path.name for path in thirdparty.DEPENDENCIES.iterdir()] == ["tiny-1.0"]


def test_builders_pass_each_other(thirdparty):
    threads = [threading.Thread(target=thirdparty.provide) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    (source,) = thirdparty.SOURCES
    assert sorted(path.name for path in source.directory.iterdir()) == ["COPYRIGHT", "LICENSE", "ORIGIN", "tiny.c"]
    assert [path.name for path in thirdparty.DEPENDENCIES.iterdir()] == ["tiny-1.0"]


def test_setup_without_the_sources_says_what_to_do(build):
    result = build("", module="mdb", sources=False)
    assert result.returncode != 0
    assert "mdb.c is missing; build with pip, which fetches it" in result.stderr


def test_setup_without_the_headers_says_what_to_do(build):
    result = build("", module="hnsw", sources=False)
    assert result.returncode != 0
    assert "hnswlib.h is missing; build with pip, which fetches it" in result.stderr


def test_the_wheel_carries_the_notices_of_others():
    texts = {str(file): file.read_text() for file in importlib.metadata.files("ntmem") if "_deps" in str(file)}
    (licence,) = (text for name, text in texts.items() if name.endswith("licenses/_deps/lmdb-3.0.0/LICENSE"))
    (notices,) = (text for name, text in texts.items() if name.endswith("licenses/_deps/lmdb-3.0.0/COPYRIGHT"))
    assert "The OpenLDAP Public License" in licence
    assert "Howard Chu" in notices
    assert "Martin Hedenfalk" in notices
    (licence,) = (text for name, text in texts.items() if name.endswith("licenses/_deps/hnswlib-0.8.0/LICENSE"))
    assert "Apache License" in licence


def test_hnswlib_is_seen_by_nobody_else():
    """Another copy in the process, with other kernels, is not to be taken for this one, nor this one for it."""
    from ntmem._core import hnsw

    exported = subprocess.run(["nm", "-D", "--defined-only", hnsw.__file__], capture_output=True, text=True, check=True)
    names = [line.split()[-1] for line in exported.stdout.splitlines()]
    assert "PyInit_hnsw" in names
    assert [name for name in names if "hnsw" in name and name != "PyInit_hnsw"] == []


def test_lmdb_is_seen_by_nobody_else():
    from ntmem._core import mdb

    library = ctypes.CDLL(mdb.__file__)
    for name in ("mdb_env_open", "mdb_txn_begin", "mdb_midl_alloc"):
        with contextlib.suppress(AttributeError):
            getattr(library, name)
            pytest.fail(f"{name} is exported")
