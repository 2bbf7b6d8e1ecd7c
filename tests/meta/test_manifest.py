"""MANIFEST.in names all that is in the repository: an sdist is to be built, tested and measured as well."""

import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
OF_GIT = {".gitignore", ".editorconfig"}
ALWAYS = {"MANIFEST.in", "pyproject.toml", "setup.py", "README.md", "LICENSE-MIT", "LICENSE-APACHE"}


def test_nothing_is_left_out(monkeypatch):
    filelist = pytest.importorskip("setuptools._distutils.filelist", reason="wants setuptools")
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False)
    if listed.returncode != 0:
        pytest.skip("not a git repository")
    kept = set(listed.stdout.split("\n")) - {""}
    monkeypatch.chdir(ROOT)
    found = filelist.FileList()
    found.set_allfiles(sorted(name for name in kept if Path(name).exists()))
    for line in (ROOT / "MANIFEST.in").read_text().splitlines():
        if not line.startswith("graft _deps"):  # which git does not know
            found.process_template_line(line)
    modules = {name for name in kept if name.startswith("src/") and name.endswith(".py")}  # of the packages
    assert kept - set(found.files) - ALWAYS - OF_GIT - modules == set()
