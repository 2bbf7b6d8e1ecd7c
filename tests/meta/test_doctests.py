"""The examples in docstrings are true; those of native modules doctest cannot find by itself."""

import doctest
import importlib
import pkgutil

import pytest

import ntmem
import ntmem._core

PYTHON_MODULES = sorted(
    module.name
    for module in pkgutil.walk_packages(ntmem.__path__, "ntmem.")
    if not module.name.startswith("ntmem._core.") and not module.name.endswith("__main__")
)
MODULES = sorted(m.name for m in pkgutil.walk_packages(ntmem._core.__path__, "ntmem._core.") if not m.ispkg)


def docstrings(owner, prefix):
    """Names and docstrings of public functions and classes, and of what the classes define."""
    for name, value in vars(owner).items():
        if name.startswith("_") or getattr(value, "__module__", owner.__name__) != prefix:
            continue
        yield f"{prefix}.{name}", value.__doc__ or ""
        if isinstance(value, type):
            yield from (
                (f"{prefix}.{name}.{member}", getattr(attribute, "__doc__", None) or "")
                for member, attribute in vars(value).items()
                if not member.startswith("_")
            )


@pytest.mark.parametrize("module_name", MODULES)
def test_examples_are_true(module_name):
    module = importlib.import_module(module_name)
    parser, runner = doctest.DocTestParser(), doctest.DocTestRunner()
    for name, text in docstrings(module, module_name):
        runner.run(parser.get_doctest(text, dict(vars(module)), name, module.__file__, 0))
    assert runner.failures == 0


@pytest.mark.parametrize("module_name", ["ntmem", *PYTHON_MODULES])
def test_examples_of_python_modules_are_true(module_name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert doctest.testmod(importlib.import_module(module_name), extraglobs={"ntmem": ntmem}).failed == 0


def test_the_finder_finds():
    found = dict(docstrings(importlib.import_module("ntmem._core.region"), "ntmem._core.region"))
    assert ">>> region = Region.create(" in found["ntmem._core.region.Region"]
