"""What a wheel is refused for: of each rule, a wheel that breaks only that one."""

import importlib.util
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
INFO = "ntmem-1.dist-info"
NAME = "ntmem-1-cp311-cp311-manylinux_2_28_x86_64.whl"


@pytest.fixture(scope="module")
def check():
    spec = importlib.util.spec_from_file_location("check_wheel", ROOT / "_build/check_wheel.py")
    module = importlib.util.module_from_spec(spec)
    before = list(sys.path)
    spec.loader.exec_module(module)
    sys.path[:] = before
    return module


@pytest.fixture
def files(check):
    """What a wheel of this tree has to hold, with nothing in it."""
    names = [
        path.relative_to(check.SOURCE).as_posix()
        for path in check.SOURCE.rglob("*.py*")
        if path.suffix in (".py", ".pyi")
    ]
    names += [path.relative_to(check.SOURCE).as_posix() for path in check.SOURCE.glob("ntmem/*/data/*")]
    names += ["ntmem/py.typed", "ntmem/include/ntmem.h", "ntmem/integrations/grafana.json"]
    files = dict.fromkeys(names, "")
    files |= {f"ntmem/_core/{name}.cpython-311-x86_64-linux-gnu.so": "" for name in check.native()}
    licences = ["LICENSE-MIT", "LICENSE-APACHE", "_deps/lmdb-3.0.0/LICENSE", "_deps/lmdb-3.0.0/COPYRIGHT"]
    licences += ["_deps/hnswlib-0.8.0/LICENSE", "src/ntmem/replay/data/NOTICE"]
    files |= {f"{INFO}/licenses/{name}": "as you like" for name in licences}
    said = [f"License-File: {name}" for name in licences]
    return files | {
        f"{INFO}/METADATA": "\n".join(["License-Expression: MIT AND OLDAP-2.8 AND Apache-2.0", *said, "", ""])
    }


@pytest.fixture
def faults(check, tmp_path):
    def faults(files, name=NAME):
        with zipfile.ZipFile(tmp_path / name, "w") as archive:
            for file, text in files.items():
                archive.writestr(file, text)
        return list(check.faults_of(tmp_path / name))

    return faults


def test_a_good_wheel_has_no_faults(files, faults):
    assert faults(files) == []


@pytest.mark.parametrize(
    ("file", "text", "said"),
    [
        ("tests/unit/test_facade.py", "", "tests/unit/test_facade.py has no business in it"),
        ("ntmem/_core/hot.pyx", "", "ntmem/_core/hot.pyx has no business in it"),
        ("ntmem/_core/hot.h", "", "ntmem/_core/hot.h has no business in it"),
        ("ntmem.libs/libstdc++-1.so", "", "ntmem.libs/libstdc++-1.so is a library of others"),
        ("ntmem/_core/failpointed.so", "", "ntmem/_core/failpointed.so is a library of others"),
        (f"{INFO}/licenses/_deps/lmdb-3.0.0/LICENSE", " ", "the licence _deps/lmdb-3.0.0/LICENSE is not in it"),
        (f"{INFO}/METADATA", "License-Expression: MIT\n\n", "its License-Expression does not tell of LMDB's: MIT"),
    ],
)
def test_what_should_not_be_there_is_found(files, faults, file, text, said):
    assert any(fault.startswith(said) for fault in faults(files | {file: text}))


@pytest.mark.parametrize(
    ("file", "said"),
    [
        ("ntmem/py.typed", "ntmem/py.typed is not in it"),
        ("ntmem/system.py", "ntmem/system.py is not in it"),
        ("ntmem/_core/hot.pyi", "ntmem/_core/hot.pyi is not in it"),
        ("ntmem/include/ntmem.h", "ntmem/include/ntmem.h is not in it"),
        ("ntmem/replay/data/NOTICE", "ntmem/replay/data/NOTICE is not in it"),
        ("ntmem/_core/hnsw.cpython-311-x86_64-linux-gnu.so", "the module ntmem._core.hnsw is not in it"),
        (f"{INFO}/licenses/_deps/hnswlib-0.8.0/LICENSE", "the licence _deps/hnswlib-0.8.0/LICENSE is not in it"),
    ],
)
def test_what_is_left_out_is_found(files, faults, file, said):
    del files[file]
    assert faults(files) == [said]


def test_a_wheel_for_one_machine_is_none_for_others(files, faults):
    (fault,) = faults(files, NAME.replace("manylinux_2_28", "linux"))
    assert fault.startswith("its tag is linux_x86_64")


def test_a_large_wheel_is_refused(files, faults, check, monkeypatch):
    monkeypatch.setattr(check, "MOST_BYTES", 10_000)
    (fault,) = faults(files)
    assert fault.endswith("which is more than 10,000")


def test_nothing_to_look_at_is_a_failure(check):
    assert check.look([]) == 1
