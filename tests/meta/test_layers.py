"""Imports go down only: the layers of docs/design, read from the source by its syntax tree."""

import ast
import re
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[2] / "src"
LAYERS = [  # top to bottom; a module may import from its own layer and from lower ones
    {"cli", "integrations", "replay"},
    {"__init__"},  # the public names
    {"broker"},
    {"system", "gauges", "transaction", "view", "watching"},
    {"reasoningbank", "coordination", "agentdb", "remote"},
    {"tiers", "embedding"},
    {"config", "errors", "clock", "instants", "namespace", "values", "records", "filters", "stats", "subscription"}
    | {"conditions", "delta", "endpoint", "twins", "scrubbing", "scrubrules", "mapping"},
    {"_core"},
]
HEIGHT = {name: -depth for depth, layer in enumerate(LAYERS) for name in layer}
FILES = sorted(path for suffix in ("py", "pyi", "pyx", "pxd") for path in SOURCE.rglob(f"*.{suffix}"))


def imported_modules(path):
    """Dotted names of the ntmem modules that a file imports, wherever in the file that is."""
    text = path.read_text(encoding="utf-8")
    if path.suffix in (".pyx", ".pxd"):  # Cython: no tree to be had, but imports stand on lines
        yield from re.findall(r"^\s*(?:from|import|cimport)\s+(ntmem[\w.]*)", text, re.MULTILINE)
        return
    package = path.relative_to(SOURCE).with_suffix("").parts[:-1]
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.split(".")[0] == "ntmem")
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else ()
            base = ".".join([*above, *filter(None, [node.module])])
            if base == "ntmem":  # `from ntmem import clock` is an import of ntmem.clock
                yield from (f"ntmem.{alias.name}" for alias in node.names)
            elif base.startswith("ntmem."):
                yield base


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(SOURCE)))
def test_imports_go_down(path):
    own = path.relative_to(SOURCE / "ntmem").with_suffix("").parts[0]
    if own == "__main__":
        return  # the door: it calls the command line
    assert own in HEIGHT, f"ntmem.{own} has no layer yet: add it to LAYERS in {Path(__file__).name}"
    for name in imported_modules(path):
        target = name.split(".")[1] if "." in name else "__init__"
        height = HEIGHT.get(target, HEIGHT["__init__"])  # not a module: a public name
        assert height <= HEIGHT[own], f"{path} imports {name}, which is above ntmem.{own}"


def test_the_rule_can_fail(tmp_path, monkeypatch):
    monkeypatch.setitem(globals(), "SOURCE", tmp_path)
    for number, line in enumerate(["from ntmem.cli import main", "import ntmem", "from ..system import open"]):
        path = tmp_path / "ntmem" / "tiers" / f"case_{number}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"def late():\n    {line}\n")
        with pytest.raises(AssertionError, match=r"is above ntmem\.tiers"):
            test_imports_go_down(path)
