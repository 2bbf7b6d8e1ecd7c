"""The figures of the report: intervals, durations, cards."""

import io
import json

import numpy as np
import pytest

from ntmem.replay.accounts import Durations, process_memory
from ntmem.replay.cards import print_report
from ntmem.replay.intervals import compare_errors
from ntmem.replay.report import Report


@pytest.fixture
def errors():
    return np.abs(np.random.default_rng(1).normal(0, 1e-4, 1_000))


def test_a_better_memory_is_seen(errors):
    result = compare_errors(errors * 0.8, errors, overlap=10, seed=0)
    low, high = result["difference_interval"]
    assert low < result["difference"] < high < 0
    assert result["difference"] == pytest.approx(result["error_with"] - result["error_without"])
    assert "the error is smaller" in result["conclusion"]


def test_a_misleading_memory_is_seen(errors):
    assert "what was recalled misled" in compare_errors(errors * 1.2, errors, overlap=10, seed=0)["conclusion"]


def test_no_effect_is_said_to_be_none(errors):
    shuffled = np.random.default_rng(2).permutation(errors)
    result = compare_errors(shuffled, errors, overlap=10, seed=0)
    assert "No effect of memory on the error is shown" in result["conclusion"]
    assert "includes 0" in result["conclusion"]


def test_the_interval_knows_of_overlap():
    """Errors that come in runs carry less information than as many independent ones."""
    random = np.random.default_rng(3)
    independent = random.normal(0, 1, 1_000)
    runs = np.repeat(random.normal(0, 1, 50), 20)

    def width(values):
        low, high = compare_errors(values, np.zeros(1_000), overlap=20, seed=0)["difference_interval"]
        return high - low

    assert width(runs) > 2.5 * width(independent)


@pytest.mark.parametrize("count", [0, 1, 30])
def test_too_little_data_is_said_to_be_too_little(errors, count):
    result = compare_errors(errors[:count], errors[:count], overlap=10, seed=0)
    assert result["difference_interval"] is None
    assert "Not enough data" in result["conclusion"]


def test_the_same_seed_gives_the_same_interval(errors):
    first, again, other = (compare_errors(errors * 0.9, errors, overlap=5, seed=seed) for seed in (4, 4, 5))
    assert first == again
    assert first["difference_interval"] != other["difference_interval"]


def test_durations():
    durations = Durations()
    durations.add({"put": list(range(1_000, 101_000, 1_000))})
    durations.add({"get": [500], "put": []})
    assert durations.table() == {
        "get": {"count": 1, "p50_us": 0.5, "p99_us": 0.5},
        "put": {"count": 100, "p50_us": 50.5, "p99_us": pytest.approx(99.01)},
    }


def test_memory_of_a_process_that_is_gone_is_0():
    found = process_memory({"gone": 2**22 + 1})
    assert found["gone"] == {"rss": 0, "pss": 0}
    assert found["feeder"].keys() == {"rss", "pss"}


def make_report(**changes):
    fields = {
        "market": {
            "files": [
                {
                    "name": "x.csv",
                    "kind": "bars",
                    "rows": 7,
                    "bad": {"time is not readable": 1},
                    "bad_rows": [{"file": "x.csv", "line": 3, "reason": "time is not readable", "text": "[red]1"}],
                    "late": 2,
                    "late_by": 3.5,
                    "other_symbols": 4,
                }
            ]
        },
        "replay": {
            "symbol": "X",
            "steps_fed": 5,
            "steps": 7,
            "agents": 1,
            "seconds": 1.0,
            "complete": False,
            "interrupted": True,
        },
        "operations": {"put": {"count": 3, "p50_us": 1.0, "p99_us": 2.0}},
        "kill": None,
        "agents": [],
        "prediction": {"conclusion": "Not enough data."},
        "memory": {"processes": {}, "total_pss": 0},
        "disk": {"path": "a b", "bytes": 0, "records": 0},
    }
    return Report(**{**fields, **changes})


def test_cards_show_what_is_in_the_file_as_it_is():
    rich = pytest.importorskip("rich.console")
    out = io.StringIO()
    report = make_report(problems=["agent_1: [bold]quantity"], notes=["no agent [was] killed"], error="Traceback ...")
    print_report(report, rich.Console(file=out, width=80))
    text = out.getvalue()
    for part in (
        "line 3: time is not readable: [red]1",
        "2 late rows, by up to 0:00:03.5",
        "NOTE: no agent [was] killed",
        "4 rows of other symbols",
        "5 of 7 steps, 1 agents, 1.0 s, interrupted",
        "ntmem ls --store 'a b'",
        "FAILED: agent_1: [bold]quantity",
    ):
        assert part in text


def test_a_report_is_one_json_document():
    document = json.loads(json.dumps(make_report(problems=["x"]).to_dict()))
    assert document["format"] == 1
    assert document["ok"] is False
    assert make_report().ok
