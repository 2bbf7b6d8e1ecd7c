"""The verb ``bank``: pages of trajectories, what is pending, one with all its steps; output, JSON, exit codes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

import ntmem
from ntmem.cli.commands import cli

pytestmark = pytest.mark.usefixtures("engine")

SECOND = 1_000_000_000
START = 1_700_000_000 * SECOND


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """Three trajectories, begun a minute apart: one judged twice, one that failed, one that is open."""
    path = tmp_path / "desk"
    clock = ntmem.SimulatedClock(START)
    with ntmem.open(path, clock=clock) as memory:
        bank = memory.bank
        with bank.begin("agent_1", "breakout") as first:
            first.add_observation({"spread": Decimal("0.4")}, embedding=[0.5, 0.25])
            first.add_action("buy", {"quantity": 10}, predicted_outcome=110.0, reference=100.0, horizon=60)
        clock.set(START + 60 * SECOND)
        bank.resolve(first.id, 105.5, ts_event=START + 59 * SECOND)
        bank.judge(first.id, judge=ntmem.RelativeErrorJudge())
        bank.judge(first.id, judge=lambda case: ntmem.Verdict.VERY_WRONG)
        with pytest.raises(RuntimeError), bank.begin("agent_2"):
            raise RuntimeError
        clock.set(START + 120 * SECOND)
        third = bank.begin("agent_1", "odd\x1b")
        for quantity in (1, 2):
            third.add_action("s\x1bell", quantity, predicted_outcome=0.5)
    return path


def run(store: Path, *arguments: str, code: int = 0) -> Result:
    result = CliRunner().invoke(cli, ["bank", *arguments, "--store", str(store)])
    assert result.exit_code == code, result.output
    return result


def page(store: Path, *arguments: str) -> Any:
    return json.loads(run(store, "ls", *arguments, "--json").stdout)


def tasks(store: Path, *arguments: str) -> list[str]:
    return [each["task"] for each in page(store, *arguments)["trajectories"]]


def test_the_one_begun_last_comes_first(store: Path) -> None:
    odd, failed, breakout = page(store)["trajectories"]
    assert (odd["agent"], odd["task"], odd["status"], odd["ended"]) == ("agent_1", "odd\x1b", "open", None)
    assert (odd["actions"], odd["pending"], odd["verdict"], odd["confidence"]) == (2, 2, None, None)
    assert (failed["agent"], failed["task"], failed["status"]) == ("agent_2", "", "failed")
    assert (failed["begun"], failed["ended"]) == (START + 60 * SECOND, START + 60 * SECOND)
    assert (breakout["actions"], breakout["pending"]) == (1, 0)
    assert (breakout["verdict"], breakout["confidence"]) == ("very_wrong", 0.0)


def test_what_is_asked_for_leaves_others_out(store: Path) -> None:
    assert tasks(store, "--agent", "agent_1") == ["odd\x1b", "breakout"]
    assert tasks(store, "--task", "breakout") == ["breakout"]
    assert tasks(store, "--verdict", "very_wrong") == ["breakout"]
    assert tasks(store, "--verdict", "correct") == []
    assert tasks(store, "--status", "failed") == [""]
    assert tasks(store, "--as-of", str(START + 119 * SECOND)) == ["", "breakout"]
    (early,) = page(store, "--as-of", str(START))["trajectories"]
    assert (early["pending"], early["verdict"]) == (1, None)
    assert page(store, "--as-of", str(START - 1)) == {"trajectories": [], "cursor": None}


def test_every_verdict_can_be_asked_for(store: Path) -> None:
    for verdict in ntmem.Verdict:
        run(store, "ls", "--verdict", verdict.value)


def test_a_page_says_how_to_go_on(store: Path) -> None:
    first = page(store, "--limit", "2")
    assert [each["agent"] for each in first["trajectories"]] == ["agent_1", "agent_2"]
    last = page(store, "--limit", "2", "--cursor", first["cursor"])
    assert [each["task"] for each in last["trajectories"]] == ["breakout"]
    assert last["cursor"] is None
    lines = run(store, "ls", "--limit", "2").stdout.splitlines()
    assert lines[-1] == f"there are more: --cursor {first['cursor']}"
    assert len(lines) == 4
    assert "more" not in run(store, "ls", "--limit", "3").stdout


def test_a_table_for_people(store: Path) -> None:
    lines = run(store, "ls").stdout.splitlines()
    assert lines[0].split() == ["id", "agent", "task", "begun", "status", "actions", "pending", "verdict", "sure"]
    assert lines[1].split()[1:] == [
        "agent_1",
        "'odd\\x1b'",
        "2023-11-14T22:15:20.000000000Z",
        "open",
        "2",
        "2",
        "-",
        "-",
    ]
    assert lines[2].split()[2:5] == ["-", "2023-11-14T22:14:20.000000000Z", "failed"]
    assert lines[3].split()[-5:] == ["complete", "1", "0", "very_wrong", "0%"]


def test_what_waits_for_its_outcome(store: Path) -> None:
    first, second = page(store, "--pending")
    assert (first["action"], first["parameters"], second["action"]) == ("a1", 1, "a2")
    assert (first["predicted_outcome"], first["reference"], first["due"]) == (0.5, None, None)
    (early,) = page(store, "--pending", "--as-of", str(START))
    assert (early["task"], early["reference"], early["horizon"]) == ("breakout", 100.0, 60.0)
    assert early["due"] == START + 60 * SECOND
    lines = run(store, "ls", "--pending", "--limit", "1").stdout.splitlines()
    assert lines[0].split() == ["id", "action", "agent", "task", "type", "predicted", "reference", "known", "due"]
    assert lines[1].split()[1:] == (
        ["a1", "agent_1", "'odd\\x1b'", "'s\\x1bell'", "0.5", "-", "2023-11-14T22:15:20.000000000Z", "-"]
    )
    assert lines[2:] == ["1 more wait: --limit 2"]
    assert page(store, "--pending", "--task", "breakout") == page(store, "--pending", "--agent", "agent_2") == []
    assert run(store, "ls", "--pending", "--agent", "agent_2").stdout == "nothing is pending\n"


def test_all_of_a_trajectory(store: Path) -> None:
    name = page(store, "--task", "breakout")["trajectories"][0]["id"]
    facts = json.loads(run(store, "show", name, "--json").stdout)
    steps = facts.pop("steps")
    assert facts == page(store, "--task", "breakout")["trajectories"][0]
    begin, seen, acted, completed, outcome, judged, again = steps
    assert [each["step"] for each in (begin, completed, judged, again)] == ["begin", "complete", "verdict", "verdict"]
    assert (seen["step"], seen["data"], seen["embedding"]) == ("observation", {"spread": "0.4"}, [0.5, 0.25])
    assert (acted["step"], acted["id"], acted["type"], acted["parameters"]) == ("action", "a1", "buy", {"quantity": 10})
    assert (acted["predicted_outcome"], acted["reference"], acted["horizon"]) == (110.0, 100.0, 60.0)
    assert (outcome["step"], outcome["value"], outcome["action_id"]) == ("outcome", 105.5, "a1")
    assert (outcome["ts_event"], outcome["ts_known"]) == (START + 59 * SECOND, START + 60 * SECOND)
    assert (judged["judge"], judged["verdict"]) == ("RelativeErrorJudge", "correct")
    assert judged["feedback"].startswith("correct: off by 4.27% of the outcome")


def test_a_trajectory_for_people(store: Path) -> None:
    name = page(store, "--task", "breakout")["trajectories"][0]["id"]
    lines = run(store, "show", name).stdout.splitlines()
    assert lines[0].split() == ["id", name]
    assert "begun       2023-11-14T22:13:20.000000000Z" in lines
    steps = lines[lines.index("") + 1 :]
    assert steps[0].split() == ["happened", "known", "step", "what"]
    for line, end in zip(
        steps[1:],
        [
            "begin",
            "observation  {'spread': Decimal('0.4')}, with an embedding of 2 numbers",
            "action       a1: buy, {'quantity': 10}, predicted 110.0, reference 100.0, horizon 60 s",
            "complete     complete",
            "outcome      a1: 105.5",
            "verdict      correct: off by 4.27% of the outcome (RelativeErrorJudge, 10% sure)",
            "verdict      very_wrong (<lambda>, 0% sure)",
        ],
        strict=True,
    ):
        assert line.endswith(end)
    assert steps[5].startswith("2023-11-14T22:14:19.000000000Z  2023-11-14T22:14:20.000000000Z")
    odd = page(store)["trajectories"][0]["id"]
    assert "\x1b" not in run(store, "show", odd).stdout


def test_a_trajectory_as_it_was_known(store: Path) -> None:
    name = page(store, "--task", "breakout")["trajectories"][0]["id"]
    early = json.loads(run(store, "show", name, "--as-of", str(START + 60 * SECOND - 1), "--json").stdout)
    assert [each["step"] for each in early["steps"]] == ["begin", "observation", "action", "complete"]
    assert (early["pending"], early["verdict"]) == (1, None)
    assert "or it was not known then" in run(store, "show", name, "--as-of", str(START - 1), code=3).stderr


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (
            ["show", "01KB8Y2F0W7M3C5T9XJ4QZRDNE"],
            3,
            "there is no trajectory '01KB8Y2F0W7M3C5T9XJ4QZRDNE'; 'ntmem bank ls'",
        ),
        (["show", "x\x1b"], 3, r"there is no trajectory 'x\x1b'"),
        (["show"], 2, "Missing argument 'ID'"),
        (["ls", "--cursor", "x"], 2, "cursor must be that of a page"),
        (["ls", "--verdict", "good"], 2, "'good' is not one of"),
        (["ls", "--pending", "--status", "open"], 2, "--pending takes --agent, --task, --as-of and --limit"),
        (["ls", "--limit", "0"], 2, "--limit"),
        (["ls", "--as-of", "-1"], 2, "--as-of"),
        (["explain", "01KB8Y2F0W7M3C5T9XJ4QZRDNE"], 3, "there is no trajectory '01KB8Y2F0W7M3C5T9XJ4QZRDNE'"),
        (["explain", "x\x1b"], 3, r"there is no trajectory 'x\x1b'"),
        (["explain"], 2, "Missing argument 'ID'"),
        (["patterns", "--min-strength", "2"], 2, "--min-strength"),
        (["patterns", "--limit", "0"], 2, "--limit"),
        (["patterns", "--as-of", "x"], 2, "--as-of"),
        (["report"], 2, "Missing argument 'FILE'"),
        (["report", "/none/page.html"], 1, "there is no directory /none"),
        (["report", "/"], 2, "path must name a file"),
    ],
)
def test_what_cannot_be_shown_is_said(store: Path, arguments: list[str], code: int, message: str) -> None:
    assert message in run(store, *arguments, code=code).output


def test_a_store_without_trajectories(tmp_path: Path) -> None:
    path = tmp_path / "empty"
    assert "no store" in run(path, "ls", code=3).stderr
    with ntmem.open(path):
        pass
    assert run(path, "ls").stdout == "there are no trajectories\n"
    assert run(path, "ls", "--pending").stdout == "nothing is pending\n"
    assert page(path) == {"trajectories": [], "cursor": None}
    assert page(path, "--pending") == []
    assert run(path, "patterns").stdout == "there are no such patterns\n"
    assert run(path, "distill").stdout == "no pattern has changed\n"
    assert json.loads(run(path, "distill", "--json").stdout) == []
    assert "0 trajectories, 0 decisions, 0 patterns" in run(path, "report", str(tmp_path / "page.html")).stdout
    assert "Nothing is known yet" in (tmp_path / "page.html").read_text()
    for said in ("ls", "show", "patterns", "explain", "distill", "consolidate", "report"):
        assert "Exit codes" in CliRunner().invoke(cli, ["bank", said, "--help"]).stdout


@pytest.fixture
def desk(tmp_path: Path) -> Path:
    """A store in which "b\x1buy" pays, as the last decision was told; its outcome is known and not learnt from."""
    path = tmp_path / "learnt"
    clock = ntmem.SimulatedClock(START)
    with ntmem.open(path, clock=clock) as memory:

        def decide(action: str, outcome: float | None, asks: bool = False, task: str = "market") -> None:
            t = memory.bank.begin("agent_1", task)
            t.add_observation({}, embedding=[1.0, 0.5])
            if asks:
                memory.bank.recall([1.0, 0.5], trajectory_id=t.id)
            t.add_action(action, {"quantity": 1})
            clock.set(clock.now() + SECOND)
            if outcome is not None:
                memory.bank.resolve(t.id, outcome)

        decide("hold", None, asks=True)
        for number in range(60):
            decide(("b\x1buy", "hold")[number % 2], (number % 2 == 0) + 0.01 * (number % 7))
        memory.bank.distill()
        clock.set(START + 100 * SECOND)
        decide("hold", 0.5, task="another")
        decide("b\x1buy", 1.5, asks=True)
    return path


def learnt(path: Path, *arguments: str) -> Any:
    return json.loads(run(path, "patterns", *arguments, "--json").stdout)


@pytest.mark.only("shared")
def test_what_was_learnt(desk: Path) -> None:
    buy, hold = learnt(desk)
    assert (buy["action"], buy["pattern_type"], buy["support"]) == ("b\x1buy", "success", 30)
    assert (hold["action"], hold["pattern_type"]) == ("hold", "failure")
    assert buy["strength"] >= hold["strength"] > 0.5
    assert (buy["metadata"]["task"], len(buy["outcome_interval"]), "centroid" in buy) == ("market", 2, False)
    with ntmem.open(desk, read_only=True) as memory:
        [same] = [it for it in memory.bank.patterns() if it.id == buy["id"]]
        assert (same.strength, same.title, same.metadata) == (buy["strength"], buy["title"], buy["metadata"])
    assert learnt(desk, "--task", "market") == [buy, hold]
    assert learnt(desk, "--task", "another") == learnt(desk, "--as-of", str(START)) == []
    assert learnt(desk, "--limit", "1") == [buy]
    assert learnt(desk, "--min-strength", str((buy["strength"] + hold["strength"]) / 2)) in ([buy], [buy, hold])
    lines = run(desk, "patterns", "--limit", "1").stdout.splitlines()
    header = ["strength", "confidence", "support", "mean", "low", "high", "uses", "right", "wrong", "id", "title"]
    assert lines[0].split() == header
    assert lines[1].split()[2] == "30"
    assert lines[2:] == ["1 more: ntmem bank patterns --limit 2"]
    assert "\x1b" not in run(desk, "patterns").stdout
    assert run(desk, "patterns", "--task", "another").stdout == "there are no such patterns\n"


@pytest.mark.only("shared")
def test_why_it_was_done(desk: Path) -> None:
    *_, unasked, first = page(desk, "--limit", "100")["trajectories"]
    last, other = page(desk, "--limit", "2")["trajectories"]
    found = json.loads(run(desk, "explain", last["id"], "--json").stdout)
    assert (found["id"], found["agent"], found["task"]) == (last["id"], "agent_1", "market")
    assert (found["outcomes"], found["was_asked"]) == ({"a1": 1.5}, True)
    assert found["actions"][0]["parameters"] == {"quantity": 1}
    advice = {it["pattern"]["action"]: it for it in found["patterns"]}
    assert (advice["b\x1buy"]["was_right"], advice["hold"]["was_right"]) == (True, None)
    assert advice["b\x1buy"]["similarity"] == pytest.approx(1.0, abs=1e-3)
    assert advice["b\x1buy"]["ts"] == START + 101 * SECOND
    lines = run(desk, "explain", last["id"]).stdout.splitlines()
    assert lines[0].split() == ["id", last["id"]]
    assert lines[3] == r"a1: 'b\x1buy', 1.5 came of it"
    assert lines[5].split() == ["score", "similarity", "recency", "reliability", "was", "recalled", "id", "pattern"]
    assert sorted(line.split()[4] for line in lines[6:]) == ["-", "right"]
    assert "\x1b" not in "".join(lines)
    early = json.loads(run(desk, "explain", last["id"], "--as-of", str(START + 101 * SECOND), "--json").stdout)
    assert (early["outcomes"], [it["was_right"] for it in early["patterns"]]) == ({}, [None, None])
    assert "or it was not known then" in run(desk, "explain", last["id"], "--as-of", str(START), code=3).stderr
    assert run(desk, "explain", other["id"]).stdout.splitlines()[-1] == "no memory was asked"
    assert run(desk, "explain", unasked["id"]).stdout.splitlines()[-1] == "no memory was asked"
    assert run(desk, "explain", first["id"]).stdout.splitlines()[-3:] == [
        "a1: hold, nothing came of it yet",
        "",
        "memory was asked, and knew nothing of such situations",
    ]


@pytest.mark.only("shared")
def test_learning_and_tidying_up(desk: Path) -> None:
    changed = json.loads(run(desk, "distill", "--json").stdout)
    assert {it["id"] for it in changed} == {it["id"] for it in learnt(desk)}
    [buy] = [it for it in learnt(desk) if it["action"] == "b\x1buy"]
    assert (buy["support"], buy["metadata"]["uses"], buy["metadata"]["right"]) == (31, 1, 1)
    assert run(desk, "distill").stdout == "no pattern has changed\n"
    done = json.loads(run(desk, "consolidate", "--json").stdout)
    assert (done["merged"], done["patterns"], done["clusters"]) == (0, 3, 2)
    assert "clusters         2" in run(desk, "consolidate").stdout.splitlines()
    with ntmem.open(desk) as memory:
        t = memory.bank.begin("agent_1", "market")
        t.add_observation({}, embedding=[1.0, 0.5])
        t.add_action("hold")
        memory.bank.resolve(t.id, 0.0)
    lines = run(desk, "distill").stdout.splitlines()
    assert lines[0].split()[:3] == ["strength", "confidence", "support"]
    assert len(lines) == 3


@pytest.mark.only("shared")
def test_a_report(desk: Path, tmp_path: Path) -> None:
    target = tmp_path / "page.html"
    said = run(desk, "report", str(target)).stdout
    assert said == f"63 trajectories, 62 decisions, 2 patterns: {target}\n"
    assert target.read_text().startswith("<!DOCTYPE html>")
    figures = json.loads(run(desk, "report", str(target), "--json").stdout)
    assert (figures["path"], figures["totals"]["decisions"]) == (str(target), 62)
    early = json.loads(run(desk, "report", str(target), "--as-of", str(START + SECOND // 2), "--json").stdout)
    assert (early["totals"]["trajectories"], early["totals"]["decisions"]) == (1, 0)


def test_it_does_without_numpy(store: Path) -> None:
    name = page(store, "--task", "breakout")["trajectories"][0]["id"]
    code = (
        "import sys; sys.modules['numpy'] = None; from ntmem.cli.commands import cli\n"
        f"for more in (['ls'], ['ls', '--pending'], ['show', '{name}']): cli(['bank', *more], standalone_mode=False)"
    )
    environment = os.environ | {"NTMEM_STORE": str(store)}
    shown = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert shown.returncode == 0, shown.stderr
    assert "an embedding of 2 numbers" in shown.stdout


def test_runs_are_listed(store: Path) -> None:
    assert "there are no such runs" in run(store, "runs").stdout
    with ntmem.open(store, clock=ntmem.SimulatedClock(START + 200 * SECOND)) as memory:
        with memory.bank.matts("agent_1", "hed\x1bge", k=3) as made, made.begin() as t:
            t.add_action("buy")
            t.add_outcome(2.0)
        waiting = memory.bank.matts("agent_2", k=2, mode="sequential")
    lines = run(store, "runs").stdout.splitlines()
    assert lines[0].split()[-6:] == ["mode", "status", "attempts", "known", "mean", "success"]
    [line] = [each for each in lines if made.id in each]
    assert "\x1b" not in line
    assert line.split()[-8:] == ["parallel", "completed", "1", "of", "3", "1", "2", "100%"]
    found = {it["id"]: it for it in json.loads(run(store, "runs", "--json").stdout)}
    assert found[made.id]["contrast"]["best"] == 1
    assert (found[made.id]["status"], found[waiting.id]["status"], found[waiting.id]["k"]) == (
        "completed",
        "running",
        2,
    )
    assert [it["id"] for it in json.loads(run(store, "runs", "--status", "running", "--json").stdout)] == [waiting.id]
    shown = run(store, "show", t.id).stdout
    assert f"attempt 1 of run {made.id}" in shown


def test_tasks_are_asked_for_as_they_are_kept(store: Path) -> None:
    with ntmem.open(store, clock=ntmem.SimulatedClock(START + 200 * SECOND)) as memory:
        t = memory.bank.begin("agent_1", "for ann@example.com")
        t.add_action("buy")
    for arguments in (("ls",), ("ls", "--pending")):
        shown = run(store, *arguments, "--task", "for ann@example.com").stdout
        assert t.id in shown
        assert "for [EMAIL]" in shown
