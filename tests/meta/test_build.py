"""A build that is not right fails; it never yields a package that is slower or has less in it."""

import importlib.metadata
import os
import shutil
import subprocess
import sys

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

    def run(source, **environment):
        shutil.copytree(root / "src", tmp_path / "src", ignore=shutil.ignore_patterns("*.pyx", "*.so"))
        for name in ("setup.py", "pyproject.toml", "LICENSE-MIT", "LICENSE-APACHE"):
            shutil.copy(root / name, tmp_path)
        (tmp_path / "README.md").touch()
        (tmp_path / "src/ntmem/_core/tiny.pyx").write_text(source)
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
    assert "ntmem/_core/distance.pyi" in names
    assert not [name for name in names if name.endswith((".pyx", ".c", ".cpp"))]
