"""What the agents of a replay expect, as trajectories of its store that are judged at the end."""

import csv
import os
from itertools import count

import pytest

import ntmem
from ntmem.reasoningbank import TrajectoryTracker
from ntmem.replay import ReplayOptions, run
from ntmem.replay.judging import EVERY, TASKS, lost_trajectories

SECOND = 10**9
WINDOW, HORIZON = 8, 5
JUDGED = [20, 30, 40, 50]
"""Steps of 60 at which something is recalled."""
WITH, WITHOUT = TASKS
NUMBERS = count()


@pytest.fixture
def agent(folder, monkeypatch):
    """Writes an agent with this body into the current directory and returns its name."""
    monkeypatch.chdir(folder)

    def write(body):
        name = f"judging_{os.getpid()}_{next(NUMBERS)}"
        (folder / f"{name}.py").write_text(f"from ntmem.replay import Agent\nclass Its(Agent):\n{body}\n")
        return f"{name}:Its"

    return write


def test_what_is_expected_is_kept_resolved_and_judged(bars, folder):
    report = run(ReplayOptions(file=bars, agents=1, store=folder / "s"))
    assert report.problems == []
    with bars.open() as lines:
        rows = [(int(row["ts_known"]) * SECOND, float(row["close"])) for row in csv.DictReader(lines)]
    judging = report.judging
    assert [step for step in range(60) if step % EVERY == 0 and step > WINDOW + HORIZON] == JUDGED
    assert (judging["trajectories"], judging["judged"], judging["pending"]) == (8, 8, 0)
    assert (judging["half_time"], judging["outcomes_at_half_time"], judging["exact"]) == (rows[29][0], 2, True)
    for task in judging["tasks"]:
        assert (task["trajectories"], task["judged"]) == (4, 4)
        assert sum(task["shares"].values()) == 1
        assert task["shares"]["insufficient"] == 0
        assert task["error"] > 0
        assert 0 < task["confidence"] < 1
    with ntmem.open(folder / "s", read_only=True) as memory:
        made = {int(step): each for step, each in memory.namespace("swarm", "agent_1", "predictions").scan()}
        for task, field in TASKS.items():
            found = memory.trajectories.find(agent_id="agent_1", task=task).trajectories
            assert [it.observations[0].data["step"] for it in found] == JUDGED[::-1]
            for it in found:
                step = it.observations[0].data["step"]
                (action,), (outcome,), (verdict,) = it.actions, it.outcomes, it.verdicts
                assert (it.status, action.type, action.parameters) == ("complete", "predict", {"step": step})
                assert (action.ts_known, action.reference, action.horizon) == (*rows[step], 60.0 * HORIZON)
                assert action.predicted_outcome / action.reference - 1 == pytest.approx(made[step][field], rel=1e-2)
                assert (outcome.ts_known, outcome.value) == rows[step + HORIZON]
                assert verdict.ts_known == report.replay["to"] == rows[-1][0]
                (seen,) = it.observations
                assert (seen.embedding is None) is (task == WITHOUT)
                before = memory.trajectories.get(it.id, as_of=outcome.ts_known - 1)
                assert before.outcomes == ()
                assert [one.id for one in before.unresolved] == [action.id]
                if seen.embedding is not None:
                    (nearest, cosine), *_ = memory.trajectories.similar(seen.embedding, 1)
                    assert (nearest.id, round(cosine, 2)) == (it.id, 1)


def test_what_is_still_expected_at_the_end_is_pending(bars, folder):
    report = run(ReplayOptions(file=bars, agents=1, steps=54, kill=False, store=folder / "s"))
    assert report.problems == []
    horizon = report.agents[0]["horizon"]
    assert report.judging["pending"] == 2 * sum(step + horizon >= 54 for step in JUDGED) == 2
    with ntmem.open(folder / "s", read_only=True) as memory:
        waiting = memory.bank.pending(agent_id="agent_1")
        assert {(it.task, it.action.parameters["step"]) for it in waiting} == {(WITH, 50), (WITHOUT, 50)}


def test_an_agent_that_is_killed_keeps_its_trajectories(folder):
    undisturbed = run(ReplayOptions(steps=60, agents=2, store=folder / "a", kill=False))
    killed = run(ReplayOptions(steps=60, agents=2, store=folder / "b"))
    assert undisturbed.problems == killed.problems == []
    assert killed.judging == undisturbed.judging
    assert killed.kill["trajectories"] in (2, 4)  # of step 20, and of the one that was running
    assert killed.kill["lost_trajectories"] == []
    assert killed.kill["pending"] in (0, 2)


@pytest.mark.parametrize(
    ("body", "problem"),
    [
        ("judging._horizon = 3", "of 8 trajectories, predict with memory at step 20 is not what was expected and came"),
        ("judging._horizon = 7", "of 8 trajectories, predict with memory at step 20 is not what was expected and came"),
        ("judging._waiting.clear()", "a prediction is there twice"),
    ],
    ids=["early", "late", "forgotten"],
)
@pytest.mark.crash
def test_an_agent_that_resolves_wrongly_or_forgets_is_found_out(bars, agent, body, problem):
    """The kill falls behind the commit of the step 30, which is one of those that are judged, or before it."""
    slow = """
        import os, time
        if self.cursor == 29 and not os.path.exists("slow"):
            self.before_commit = lambda: (open("slow", "x").close(), time.sleep(60))
"""
    name = agent(
        f"    def restore(self):\n        super().restore()\n        self.{body}\n"
        f"    def step(self, number):{slow}        return super().step(number)"
    )
    report = run(ReplayOptions(file=bars, agents=1, agent=name, kill_delay=2.0))
    assert report.kill["in_flight"] == "not committed"
    assert report.kill["pending"] == 2
    assert problem in " ".join(report.problems)
    assert not report.judging["exact"]


@pytest.mark.crash
@pytest.mark.parametrize("method", ["_collect(self, transaction, now)", "step(self, number)"])
def test_a_step_is_expected_once_wherever_the_kill_falls(bars, agent, monkeypatch, method):
    call = method.replace("self, ", "")
    name = agent(
        f"    def {method}:\n        import os, time\n        done = super().{call}\n"
        f"        if self.cursor == {29 if call.startswith('_') else 30} and os.environ.get('SLOW') "
        "and not os.path.exists('slow'):\n"
        "            open('slow', 'x').close()\n            time.sleep(60)\n        return done"
    )
    options = {"file": bars, "agents": 1, "agent": name, "kill_delay": 2.0}
    undisturbed = run(ReplayOptions(**options, kill=False))
    monkeypatch.setenv("SLOW", "1")
    killed = run(ReplayOptions(**options))
    assert undisturbed.problems == killed.problems == []
    assert (killed.kill["trajectories"], killed.kill["pending"]) == (2, 2)
    assert killed.judging == undisturbed.judging


def test_a_bank_that_shows_the_future_is_found_out(bars, monkeypatch):
    get_many, pending = TrajectoryTracker.get_many, TrajectoryTracker.pending
    options = ReplayOptions(file=bars, agents=1, kill=False)
    with monkeypatch.context() as patched:
        patched.setattr(TrajectoryTracker, "get_many", lambda self, ids, as_of=None: get_many(self, ids))
        report = run(options)
    assert report.problems == [
        "agent_1: as of half-time the bank shows other outcomes than were known by then",
        "agent_1: as of half-time the bank shows verdicts of the end",
    ]
    monkeypatch.setattr(TrajectoryTracker, "pending", lambda self, as_of, **more: pending(self, **more)[1:])
    report = run(ReplayOptions(file=bars, agents=1, steps=54, kill=False))
    assert report.problems == [
        "agent_1: what is pending is not what has no outcome",
        "agent_1: as of half-time the bank has something else pending than was by then",
    ]


def test_a_trajectory_that_is_lost_is_named():
    with ntmem.open() as memory:
        names = []
        for _ in range(3):
            with memory.bank.begin("agent_1", WITH) as it:
                it.add_action("predict", {"step": 20}, 1.0, reference=1.0)
            names.append(it.id)
        first, second, third = names
        memory.bank.resolve(first, 2.0)
        assert lost_trajectories(memory, "agent_1", {first: 2.0, second: None, third: None}) == []
        assert lost_trajectories(memory, "agent_1", {first: None}) == []  # the step that was running resolved it
        assert lost_trajectories(memory, "agent_1", {first: 3.0, second: 1.0}) == [
            f"trajectory {first}",
            f"trajectory {second}",
        ]
        gone = first[:-1] + ("1" if first[-1] == "0" else "0")
        assert lost_trajectories(memory, "agent_1", {gone: None, third: None}) == [f"trajectory {gone}"]
        assert lost_trajectories(memory, "agent_2", {third: None}) == [f"trajectory {third}"]  # not pending as its own


@pytest.mark.parametrize("prediction", ["1e6", "-1e6"])
def test_a_flat_market_and_a_wild_prediction(folder, agent, prediction):
    path = folder / "FLAT-1m.csv"
    path.write_text("ts_known,close\n" + "".join(f"{1_700_000_000 + 60 * i},100\n" for i in range(60)))
    name = agent(f"    def predict(self, *_): return {prediction}")
    report = run(ReplayOptions(file=path, agents=1, agent=name, kill=False, store=folder / "s"))
    assert report.problems == []
    with_memory, without = report.judging["tasks"]
    assert with_memory["shares"]["correct"] == 0
    assert (without["shares"]["correct"], without["error"]) == (1, 0)
    with ntmem.open(folder / "s", read_only=True) as memory:
        assert all(it.observations[0].embedding is None for it in memory.trajectories.find(task=WITH).trajectories)
