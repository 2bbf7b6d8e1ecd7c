"""The stubs of the native modules say what the modules really offer; there is no allowlist."""

import pkgutil
import subprocess
import sys

import ntmem._core


def native_modules():
    return sorted(m.name for m in pkgutil.walk_packages(ntmem._core.__path__, "ntmem._core.") if not m.ispkg)


def test_every_native_module_matches_its_stub(root):
    modules = native_modules()
    assert "ntmem._core.vectors" in modules
    command = [sys.executable, "-m", "mypy.stubtest", "--ignore-disjoint-bases", *modules]
    result = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
