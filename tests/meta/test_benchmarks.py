"""BENCHMARKING.md: made from the results that are kept, of every benchmark, with every target."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[2]
BENCHES = ROOT / "benches"


def module(name: str, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    for path in (BENCHES, BENCHES / "support"):
        monkeypatch.syspath_prepend(str(path))
    return __import__(name)


def test_every_benchmark_is_on_the_page() -> None:
    there = {path.relative_to(BENCHES).as_posix() for path in BENCHES.glob("*/test_*.py")}
    named = set(re.findall(r"^\{\{file (\S+)\}\}$", (BENCHES / "page.md").read_text(), re.MULTILINE))
    assert there - named == {"scaling/test_scaling.py"}  # which is drawn
    assert named <= there


@pytest.fixture
def data() -> dict[str, object]:
    """What pytest-benchmark writes, as far as it is read."""
    info = {
        "ratio": 0.5,
        "ratio_interval": [0.4, 0.6],
        "ours_ns": [10, 9, 12],
        "theirs_ns": [20, 19, 22],
        "hot": 1.23456,
        "pace": 7000.123,
    }
    timed = {"calls": 2}
    return {
        "datetime": "2026-11-22T10:00:00",
        "benchmarks": [
            {"fullname": "micro/test_x.py::test_get[a-1]", "extra_info": info, "stats": {"data": [1.0]}},
            {"fullname": "micro/test_x.py::test_put", "extra_info": timed, "stats": {"data": [1e-6, 3e-6, 2e-6]}},
            {"fullname": "micro/test_x.py::test_tail", "extra_info": {"untimed": True, "p99 ns": 7}, "stats": {}},
        ],
    }


@pytest.fixture
def kept(tmp_path: Path, data: dict[str, object], monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory with what one run found."""
    results = module("results", monkeypatch)
    (tmp_path / "bench.json").write_text(json.dumps(data))
    results.keep(tmp_path / "1.json", results.load(tmp_path / "bench.json"))
    return tmp_path


def test_results_are_kept_and_replaced(kept: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    results = module("results", monkeypatch)
    found = results.load(kept / "1.json").figures
    get, put, tail = (found[f"micro/test_x.py::test_{name}"] for name in ("get[a-1]", "put", "tail"))
    assert get.parts == ("micro/test_x.py", "test_get", "a-1")
    assert (get.ours, get.theirs, get.ratio) == ((10, 9, 12), (20, 19, 22), (0.5, 0.4, 0.6))
    assert (get.notes, get.pace) == ({"hot": 1.235}, 7000)
    assert put.ours == (1000, 500, 1500)
    assert (tail.ours, tail.ratio, tail.notes) == (None, None, {"p99 ns": 7})
    (kept / "program.json").write_text(json.dumps({"program": "compare/x.py", "notes": {"p95": 3.0}}))
    results.keep(kept / "1.json", results.load(kept / "program.json"))
    assert list(results.load(kept / "1.json").figures) == ["compare/x.py", *sorted(found)]


def test_processes_of_a_run_are_one(kept: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    results = module("results", monkeypatch)
    name, first = "micro/test_x.py::test_get[a-1]", results.load(kept / "1.json")
    for number, ratio in ((2, (0.9, 0.5, 0.95)), (3, (0.7, 0.65, 0.75))):
        other = first.figures[name]._replace(ratio=ratio, notes={"hot": 9})
        results.keep(kept / f"1-{number}.json", results.Run("another", {name: other}))
    run = results.load_run(kept, 1)
    assert run.machine == first.machine
    assert run.figures[name] == first.figures[name]._replace(ratio=(0.7, 0.4, 0.95)), "notes are the first one's"
    assert {key: one for key, one in run.figures.items() if key != name} == {
        key: one for key, one in first.figures.items() if key != name
    }
    assert results.load_run(kept, 2) is None


def test_targets_say_by_how_much_they_are_missed(monkeypatch: pytest.MonkeyPatch) -> None:
    targets, results = module("targets", monkeypatch), module("results", monkeypatch)
    target = targets.Target("part", "what", "x", targets.ratio, 0.5, targets.ratio_text, why="because")
    low, high = (results.Figures("x", "day", ratio=(value, 0, 1)) for value in (0.4, 0.6))
    assert target.row([{"x": low}, {"x": low}])[3:] == ["0.40", "0.40", "met", ""]
    assert target.row([{"x": low}, {"x": high}])[3:] == ["0.40", "0.60", "met in one run", "because"]
    assert target.row([{"x": high}, {}])[3:] == ["0.60", "", "missed: 1.20 of it", "because"]
    assert target.row([{}])[3:] == ["", "not measured", "because"]
    assert target._replace(at_least=True).row([{"x": high}])[4] == "met"


def test_intervals_that_overlap(monkeypatch: pytest.MonkeyPatch) -> None:
    page, results = module("page", monkeypatch), module("results", monkeypatch)
    one, other, apart = (
        results.Figures("x", "day", ratio=ratio) for ratio in ((0.5, 0.4, 0.6), (0.7, 0.6, 0.8), (0.9, 0.7, 1.0))
    )
    assert page.overlap(one, other)
    assert not page.overlap(one, apart)
    assert not page.overlap(apart, one)


def test_the_page_asks_for_nothing_that_is_not_there(kept: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = module("page", monkeypatch).Page(kept)
    with pytest.raises(SystemExit, match="make bench"):
        made.text("{{file micro/test_none.py}}")
    with pytest.raises(SystemExit, match="there are"):
        made.text("{{machin}}")
    said = made.text("a\n{{file micro/test_x.py}}\nb")
    assert (
        "| a-1 | 10.0 ns (9.00 ns to 12.0 ns) | 20.0 ns (19.0 ns to 22.0 ns) | 0.50 (0.40 to 0.60) | hot 1.235 |"
        in said
    )


def test_the_page_is_what_is_made_of_the_results() -> None:
    command = [sys.executable, BENCHES / "page.py", "--check"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
