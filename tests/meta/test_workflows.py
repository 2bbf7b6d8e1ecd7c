"""What continuous integration calls is there: workflows run elsewhere, so nobody sees them rot."""

import itertools
import re
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
FILES = sorted((ROOT / ".github/workflows").glob("*.yml"))
MAKEFILE = (ROOT / "Makefile").read_text()
TARGETS = {name for names in re.findall(r"^([a-z][a-z -]*):", MAKEFILE, re.MULTILINE) for name in names.split()}


def workflow(path):
    return yaml.safe_load(path.read_text())


def commands(job):
    """What the job's steps run, for each value of its matrix."""
    matrix = job.get("strategy", {}).get("matrix", {})
    lists = {name: values for name, values in matrix.items() if name != "include"}
    cases = [dict(zip(lists, values, strict=True)) for values in itertools.product(*lists.values())]
    for case in cases + matrix.get("include", []):
        for step in job["steps"]:
            yield re.sub(
                r"\$\{\{ matrix\.(\w+) \}\}", lambda found, case=case: str(case.get(found[1], "")), step.get("run", "")
            )


JOBS = [pytest.param(job, id=f"{path.stem}-{name}") for path in FILES for name, job in workflow(path)["jobs"].items()]


def test_there_are_workflows_and_targets():
    assert {"ci", "bench", "sanitize", "wheels", "deep"} <= {path.stem for path in FILES}
    assert {"test", "lint", "sdist", "wheels"} <= TARGETS


@pytest.mark.parametrize("job", JOBS)
def test_what_a_job_calls_is_there(job):
    for command in commands(job):
        for arguments in re.findall(r"(?<![\w-])make (?!python)([^&|;\n]+)", command):
            for argument in arguments.split():
                name, is_variable, _ = argument.partition("=")
                if is_variable:
                    assert re.search(rf"\$\({name}\)", MAKEFILE), f"{command}: nothing reads {name}"
                else:
                    assert name in TARGETS, f"{command}: the Makefile has no {name}"
        for name in re.findall(r"(?:^|\s)((?:_build|\.ci|tests|benches)/[\w./-]+)", command):
            assert (ROOT / name).is_file(), f"{command}: there is no {name}"


def test_what_our_scripts_name_is_there():
    for script in (ROOT / "_build").glob("*.sh"):
        for name in re.findall(r"(?:_build|tests|benches)/[\w./-]+", script.read_text()):
            assert (ROOT / name).exists(), f"{script.name}: there is no {name}"


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_workflow_may_do_what_it_needs_and_ends(path):
    text = workflow(path)
    assert text["permissions"] == {"contents": "read"}
    assert "concurrency" in text
    for name, job in text["jobs"].items():
        assert "timeout-minutes" in job, name
        assert name == "publish" or "permissions" not in job, f"{name} wants more than to read"


def test_only_what_was_tried_is_published_and_only_by_a_tag():
    jobs = workflow(ROOT / ".github/workflows/wheels.yml")["jobs"]
    publish = jobs["publish"]
    assert set(publish["needs"]) == set(jobs) - {"publish"}
    assert publish["if"] == "startsWith(github.ref, 'refs/tags/v')"
    assert publish["permissions"] == {"id-token": "write"}
    assert "continue-on-error" not in str(jobs)
