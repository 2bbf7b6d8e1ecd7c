"""The whole job, with real processes on real ticks."""

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from itertools import count
from pathlib import Path

import pytest

import ntmem
from ntmem.replay import MarketError, ReplayOptions, run
from ntmem.replay.accounts import state_digest

STEPS = 60
NUMBERS = count()


@pytest.fixture
def agents(folder, monkeypatch):
    """Writes a module of agents into the current directory and returns its name."""
    monkeypatch.chdir(folder)

    def write(source):
        name = f"agents_{os.getpid()}_{next(NUMBERS)}"  # imported modules stay: no two may share a name
        (folder / f"{name}.py").write_text("import os, signal, sys, time\nfrom ntmem.replay import Agent\n" + source)
        return name

    return write


def command(*arguments, **options):
    return subprocess.run(
        [sys.executable, "-m", "ntmem", "replay", "--no-decide", *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        **options,
    )


def digests(report):
    return [agent["state_digest"] for agent in report.agents]


@pytest.mark.crash
def test_a_killed_agent_continues_as_if_nothing_had_happened(folder):
    undisturbed = run(ReplayOptions(steps=STEPS, agents=2, store=folder / "a", kill=False))
    killed = run(ReplayOptions(steps=STEPS, agents=2, store=folder / "b"))
    assert undisturbed.problems == killed.problems == []
    assert undisturbed.kill is None
    assert digests(killed) == digests(undisturbed)
    assert killed.agents == undisturbed.agents
    kill = killed.kill
    assert kill["step"] == STEPS // 2
    assert kill["acknowledged_steps"] in (STEPS // 2, STEPS // 2 + 1)
    assert kill["recovered"] == kill["acknowledged"] > STEPS // 2
    assert 0 < kill["process_start"] + kill["open_and_read"] < kill["resume"]
    assert kill["seen_as"] == "dead"
    assert kill["successor_fence"] > kill["fence"] > 0
    assert 0 < kill["lock_wait"] < kill["granted"] < kill["resume"]


@pytest.mark.crash
@pytest.mark.parametrize("agents", [1, 3])
def test_a_zombie_is_refused(folder, agents):
    report = run(ReplayOptions(steps=STEPS, agents=agents, store=folder / "s"))
    assert report.problems == report.notes == []
    zombie = report.zombie
    assert zombie["step"] == 3 * STEPS // 4
    assert zombie["lock"] == f"book/{zombie['agent']}"
    assert (zombie["agent"] == report.kill["agent"]) is (agents == 1)
    assert zombie["seen_as"] == "silent"
    assert zombie["successor_fence"] > zombie["fence"] > 0
    assert f"the lease {zombie['fence']} of " in zombie["refused"]
    assert zombie["unchanged"]
    assert zombie["stopped"] > zombie["lease"] > 0
    assert zombie["granted"] > 0
    with ntmem.open(folder / "s", read_only=True) as memory:
        assert memory.agents.list() == memory.locks.list() == []  # they took leave, and nobody has the store open
        record = memory.get_record(("swarm", zombie["agent"]), "state")
        assert record.fence == (zombie["lock"], zombie["successor_fence"])
        assert record.version > zombie["version"]


@pytest.mark.crash
@pytest.mark.parametrize(
    ("method", "problem"),
    [
        ("pass", "it raised ntmem.errors.VersionConflict"),  # the step was written, and is written once
        ("_put = lambda *a, once=False, put=Agent._put: put(*a)", "it was accepted"),
    ],
)
def test_an_agent_that_writes_without_its_fence_is_found_out(agents, bars, method, problem):
    module = agents(
        f"""
class Careless(Agent):
    def begin(self, *told, fence, **more):
        super().begin(*told, fence=fence, **more)
        self.fence = None
    {method}
"""
    )
    report = run(ReplayOptions(file=bars, agents=1, agent=f"{module}:Careless"))
    assert report.zombie["refused"] is None
    assert problem in report.problems[0]
    assert ("counted 61 steps" in str(report.problems)) is report.problems[0].endswith("it was accepted")


@pytest.mark.parametrize("steps", [1, 2])
def test_a_replay_that_ends_before_an_agent_is_stopped_says_so(bars, steps):
    report = run(ReplayOptions(file=bars, agents=2, steps=steps))
    assert report.ok
    assert report.zombie is None
    assert report.notes == ["no agent was stopped while it held its lock: the replay ended before"]


def test_the_engine_without_a_position_book_is_refused(bars, monkeypatch):
    monkeypatch.setenv("NTMEM_ENGINE", "lmdb")
    without = command(bars, "--agents", 2)
    assert without.returncode != 0
    assert "engine='shared'" in without.stderr


def test_the_cards_show_the_zombie():
    shown = command("--steps", 20, "--agents", 2)
    assert shown.returncode == 0, shown.stderr
    for part in (
        "seen as dead",
        "kill to the lock granted",
        "Zombie card: ",
        "SIGSTOP",
        "refused, StaleFence",
        "unchanged",
        "Observations (bytes",
        "observations were known, and these are read",
        "trajectories acknowledged, recovered",
        "Trajectories (predictions of every 10th step",
        "outcomes were known, and these are read",
    ):
        assert part in shown.stdout


@pytest.mark.crash
@pytest.mark.parametrize(
    ("method", "cursor", "found"),
    [
        ("_collect(self, *step)", STEPS // 2 - 1, "not committed"),
        ("step(self, *step)", STEPS // 2, "committed, not acknowledged"),
    ],
)
def test_a_step_is_done_once_wherever_the_kill_falls(folder, agents, bars, monkeypatch, method, cursor, found):
    """The agent waits for the kill, either just before it commits or just after."""
    module = agents(
        f"""
class Slow(Agent):
    def {method}:
        done = super().{method.replace("self, ", "")}
        if self.cursor == {cursor} and os.environ.get("SLOW") and not os.path.exists("slow"):
            open("slow", "x").close()
            time.sleep(60)
        return done
"""
    )
    options = {"file": bars, "agents": 1, "agent": f"{module}:Slow", "kill_delay": 2.0}
    undisturbed = run(ReplayOptions(**options, kill=False))
    monkeypatch.setenv("SLOW", "1")
    killed = run(ReplayOptions(**options, store=folder / "b"))
    assert killed.problems == []
    assert killed.kill["acknowledged_steps"] == STEPS // 2
    assert killed.kill["in_flight"] == found
    assert digests(killed) == digests(undisturbed)


def test_ten_agents(folder):
    report = run(ReplayOptions(steps=30, agents=10, store=folder / "s"))
    assert report.problems == []
    assert [agent["steps"] for agent in report.agents] == [30] * 10
    assert len(set(digests(report))) == 10
    assert report.memory["processes"].keys() == {"feeder", *(f"agent_{number}" for number in range(1, 11))}
    assert report.operations["transaction"]["count"] in (299, 300)


def test_the_same_seed_gives_the_same_and_another_seed_something_else(bars):
    reports = [run(ReplayOptions(file=bars, agents=1, seed=seed, kill=False)) for seed in (1, 1, 2)]
    first, again, other = map(digests, reports)
    assert first == again != other


def test_the_future_does_not_reach_the_past(folder, agents, bars):
    module = agents("class Fixed(Agent):\n    window, horizon = 6, 4\n")
    stores = {}
    for steps in (40, 60):
        path = folder / str(steps)
        report = run(ReplayOptions(file=bars, steps=steps, agents=1, agent=f"{module}:Fixed", store=path, kill=False))
        assert report.agents[0]["horizon"] == 4
        with ntmem.open(path, read_only=True) as memory:
            stores[steps] = dict(memory.namespace("swarm", "agent_1", "predictions").items())
    assert len(stores[40]) == 40 - 6
    assert stores[40].items() <= stores[60].items()
    for key, made in stores[60].items():
        assert all(recalled + 4 < int(key) for recalled in made["recalled"])
    assert any(made["recalled"] for made in stores[60].values())


def test_a_kept_store_can_be_looked_at_and_is_not_written_over(folder):
    path = folder / "desk"
    report = run(ReplayOptions(steps=20, agents=1, store=path))
    assert report.disk["path"] == str(path)
    with ntmem.open(path, read_only=True) as memory:
        assert memory.now() == report.replay["to"]
        assert len(memory.namespace("market", "BTCUSDT")) == 20
        assert memory.get(("swarm", "agent_1"), "steps") == b"20"
        assert state_digest(memory, "agent_1", report.replay["symbol"]) == report.agents[0]["state_digest"]
        record = memory.get_record(("market", "BTCUSDT"), "0000000007")
        assert record.ts_known < memory.now()
        assert record.writer == "feeder"
    with pytest.raises(ValueError, match="choose another directory or delete this one"):
        run(ReplayOptions(steps=20, agents=1, store=path))
    with pytest.raises(ValueError, match="is not empty and no store"):
        run(ReplayOptions(steps=20, agents=1, store=folder))


def test_an_agent_of_the_user(agents, bars):
    module = agents(
        """
class Long(Agent):
    exploration = 0.0
    def predict(self, situation, recalled):
        print("something on standard output")
        return 1.0
    def target(self, prediction, step, position):
        return 3 if step.number % 2 else 2
"""
    )
    result = command(bars, "--json", "--steps", 30, "--agents", 2, "--agent", f"{module}:Long")
    assert result.returncode == 0, result.stderr
    report = json.loads(result.stdout)
    assert "something on standard output" in result.stderr
    for agent in report["agents"]:
        assert agent["book"]["fills"] == 30
        assert agent["book"]["quantity"] == "0.03"
        assert agent["error_with"] > agent["error_without"]


@pytest.mark.parametrize(
    ("body", "message", "details"),
    [
        ("def predict(self, *_): return 1 / 0", "raised in step", "ZeroDivisionError"),
        ("def predict(self, *_): return float('nan')", "raised in step", "predict() must return a finite number"),
        ("def predict(self, *_): sys.exit(3)", "raised in step", "SystemExit: 3"),
        ("def __init__(self): raise OSError('no licence')", "raised while it started", "no licence"),
        ("def predict(self, *_): os._exit(7)", "ended by itself with exit code 7", ""),
        ("def predict(self, *_): os.kill(os.getpid(), signal.SIGSEGV)", "was ended by SIGSEGV", ""),
        ("def predict(self, *_): os.fork() or time.sleep(9); os._exit(7)", "exit code 7", ""),
        ("def predict(self, *_):\n  while True: time.sleep(1)", "did not acknowledge step", ""),
    ],
)
def test_an_agent_that_fails_is_reported(bars, agents, body, message, details):
    module = agents(f"class Bad(Agent):\n {body}\n")
    timeout = 1.0 if "acknowledge" in message else 60.0  # a slow disk is none of the others' failures
    report = run(ReplayOptions(file=bars, agents=1, agent=f"{module}:Bad", kill=False, timeout=timeout))
    assert not report.ok
    assert message in report.problems[0]
    assert details in (report.error or "")


@pytest.mark.parametrize(
    ("agent", "message"),
    [
        ("nonsense", "named as module:Class"),
        ("no_such_module_here:Agent", "there is no module 'no_such_module_here', neither installed nor in"),
        ("json:Missing", "has no 'Missing'"),
        ("json:JSONDecoder", "must be a subclass of ntmem.replay.Agent"),
    ],
)
def test_a_wrong_agent_is_refused_before_anything_starts(folder, agent, message):
    with pytest.raises(ValueError, match=message):
        run(ReplayOptions(agent=agent, store=folder / "s"))
    assert not (folder / "s").exists()


def test_what_an_agent_raises_in_the_step_of_the_kill_is_reported(agents, bars):
    module = agents(
        f"""
class Bad(Agent):
    def target(self, prediction, step, position):
        if step.number == {STEPS // 2} and not os.path.exists("raised"):
            open("raised", "x").close()
            raise RuntimeError("boom")
        return 1
"""
    )
    report = run(ReplayOptions(file=bars, agents=1, agent=f"{module}:Bad", kill_delay=2.0))
    assert not report.ok
    assert f"agent_1 raised in step {STEPS // 2}" in report.problems[0]
    assert "RuntimeError: boom" in report.error
    assert report.kill is None


def test_a_module_that_prints_or_leaves_while_it_is_imported(agents, bars):
    module = agents("print('hello')\nclass Quiet(Agent):\n    pass\n")
    result = command(bars, "--json", "--steps", 4, "--agents", 1, "--agent", f"{module}:Quiet")
    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout)["ok"] is True
    assert "hello" in result.stderr
    module = agents("sys.exit(0)\n")
    result = command(bars, "--agent", f"{module}:Quiet")
    assert result.returncode == 2
    assert f"module '{module}' leaves the program while it is imported (SystemExit: 0)" in result.stderr


def test_a_module_that_cannot_be_imported_is_shown(agents):
    broken = agents("import nowhere_at_all")
    with pytest.raises(ValueError, match="needs 'nowhere_at_all', which is not installed"):
        run(ReplayOptions(agent=f"{broken}:X"))
    broken = agents("def broken(:")
    with pytest.raises(ValueError, match="SyntaxError"):
        run(ReplayOptions(agent=f"{broken}:X"))


@pytest.mark.parametrize("rows", [1, 2, 5, 15])
def test_short_files(folder, rows):
    path = folder / "SPY.csv"
    path.write_text("date,close\n" + "".join(f"2020-01-{day:02d},{100 + day}\n" for day in range(1, rows + 1)))
    report = run(ReplayOptions(file=path, known_after=86_400, agents=2, store=folder / "s"))
    assert report.problems == []
    assert report.replay["symbol"] == "SPY"
    assert report.replay["steps_fed"] == rows
    assert "Not enough data" in report.prediction["conclusion"]


@pytest.mark.parametrize(("symbol", "label"), [("BTC/USDT", "BTC-USDT"), ("\u20ac" * 200, "\u20ac" * 66)])
def test_any_symbol_becomes_a_label(folder, symbol, label):
    path = folder / "x.csv"
    path.write_text("ts_known,symbol,price\n" + "".join(f"{1_700_000_000 + i},{symbol},{i + 1}\n" for i in range(6)))
    report = run(ReplayOptions(file=path, symbol=symbol, agents=1, step=0, store=folder / "s"))
    assert report.problems == []
    assert report.replay["symbol"] == label
    with ntmem.open(folder / "s", read_only=True) as memory:
        assert len(memory.namespace("market", label)) == 6


def test_a_store_whose_clock_is_later_is_refused(folder, bars):
    path = folder / "s"
    with ntmem.open(path, clock=ntmem.SimulatedClock(1_800_000_000 * 10**9)):
        pass
    with pytest.raises(ValueError, match=r"is at 2027-01-15T08:00:00.*Z, the replay begins at .* another directory"):
        run(ReplayOptions(file=bars, agents=1, store=path))


def test_a_seed_out_of_range_is_wrong_usage():
    result = command("--seed", 10**26)
    assert result.returncode == 2
    assert "Traceback" not in result.stderr
    with pytest.raises(ValueError, match="--seed must be 0 to"):
        ReplayOptions(seed=2**63)


def test_rows_that_are_very_late_are_pointed_at(folder):
    path = folder / "x.csv"
    times = [0, 10**9, 10**9, *range(1, 4), *range(10**9, 10**9 + 4)]
    path.write_text("ts_known,price\n" + "".join(f"{1_700_000_000 + time},1\n" for time in times))
    report = run(ReplayOptions(file=path, agents=1))
    assert report.ok
    assert "x.csv: 3 of 10 rows are late, by up to 11,574 days" in report.notes[0]


def test_bad_input_has_its_exit_code(folder):
    path = folder / "x.csv"
    path.write_text("ts_known,price\n" + "".join(f"{1_700_000_000 + i},{i + 1}\n" for i in range(9)) + "oops,1\n")
    lenient = command(path, "--agents", 1, "--json")
    assert lenient.returncode == 0, lenient.stderr
    market = json.loads(lenient.stdout)["market"]
    assert (market["rows"], market["bad"], market["files"][0]["bad_rows"][0]["line"]) == (9, 1, 11)
    strict = command(path, "--strict")
    assert strict.returncode == 2
    assert "x.csv, line 11: time is not readable" in strict.stderr
    assert strict.stdout == ""
    assert command(path, "--agents", 0).returncode == 2
    assert command(folder / "nowhere.csv").returncode == 2
    with pytest.raises(MarketError):
        run(ReplayOptions(file=path, strict=True))


def test_the_json_document(folder):
    result = command("--json", "--steps", 20, "--agents", 2, "--seed", 3)
    assert result.returncode == 0, result.stderr
    report = json.loads(result.stdout)
    assert report.keys() == {
        *("format", "ok", "market", "replay", "operations", "kill", "agents", "prediction", "memory", "disk"),
        *("problems", "notes", "error", "zombie", "locks", "polls", "observations", "judging", "deciding"),
    }
    assert report["ok"] is True
    assert report["notes"] == []
    assert report["disk"]["path"] is None
    assert report["kill"]["acknowledged"] == report["kill"]["recovered"]
    expected = {"clock.set", "get", "put", "add", "search", "transaction", "heartbeat", "append", "recent"}
    expected |= {"pending", "track", "resolve"}
    assert expected <= report["operations"].keys()
    assert not list(Path(tempfile.gettempdir()).glob(f"ntmem-replay-*/{report['replay']['symbol']}"))


def test_seconds_end_the_feeding_after_a_kill(folder):
    report = run(ReplayOptions(seconds=0.2, agents=1, store=folder / "s"))
    assert report.problems == []
    assert report.kill is not None or report.replay["steps_fed"] < 2


def test_a_replay_that_ends_before_the_kill_says_so(bars):
    options = {"file": bars, "seconds": 1e-9, "agents": 1}
    report = run(ReplayOptions(**options))
    assert report.ok
    assert report.kill is None
    assert report.notes == ["no agent was killed: the replay ended before"]
    assert run(ReplayOptions(**options, kill=False)).notes == []


@pytest.mark.parametrize("interruption", ["SIGINT", "SIGTERM", "SIGHUP"])
def test_an_interruption_ends_with_the_report_so_far(agents, bars, interruption):
    module = agents(
        f"""
class Impatient(Agent):
    def target(self, prediction, step, position):
        if step.number == 7 and self.name == "agent_1":
            os.kill(os.getppid(), signal.{interruption})
            time.sleep(0.2)
        return 1
"""
    )
    result = command(bars, "--json", "--agents", 2, "--agent", f"{module}:Impatient")
    assert result.returncode == 130, result.stderr
    report = json.loads(result.stdout)
    assert report["replay"]["interrupted"] is True
    assert report["replay"]["steps_fed"] < report["replay"]["steps"]
    assert {agent["steps"] for agent in report["agents"]} <= {7, 8}
    assert report["notes"] == ["no agent was killed: the replay ended before"]
    assert "Traceback" not in result.stderr


def test_an_interruption_before_the_first_step_has_its_exit_code(agents, bars):
    module = agents("os.kill(os.getpid(), signal.SIGINT)\ntime.sleep(9)\n")
    result = command(bars, "--agent", f"{module}:Impatient")
    assert (result.returncode, result.stdout) == (130, "")
    assert "interrupted, there is no report" in result.stderr


def alive(pid):
    return state(pid) not in ("Z", None)


def state(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return None


@pytest.mark.crash
@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks at /proc")
def test_no_agent_outlives_the_supervisor(agents, folder, bars):
    module = agents(
        """
class Stuck(Agent):
    def target(self, prediction, step, position):
        open(f"pid_{os.getpid()}", "x").close()
        while True:
            pass
"""
    )
    arguments = ["-m", "ntmem", "replay", str(bars), "--agents", "2", "--agent", f"{module}:Stuck", "--no-kill"]
    with subprocess.Popen([sys.executable, *arguments, "--store", "s"], stderr=subprocess.DEVNULL) as supervisor:
        pids = wait_for(lambda: [int(path.name[4:]) for path in folder.glob("pid_*")], lambda found: len(found) == 2)
        assert all(alive(pid) for pid in pids)
        supervisor.send_signal(signal.SIGKILL)
    wait_for(lambda: [pid for pid in pids if alive(pid)], lambda left: not left)


@pytest.mark.crash
@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks at /proc")
def test_no_stopped_agent_outlives_the_supervisor(agents, folder, bars):
    """The third process, which replaces the stopped one, hangs: then there is one of each kind."""
    module = agents(
        """
class Stuck(Agent):
    def restore(self):
        super().restore()
        open(f"pid_{os.getpid()}", "x").close()
        while self.cursor >= 40:
            time.sleep(1)
"""
    )
    arguments = ["-m", "ntmem", "replay", str(bars), "--agents", "1", "--agent", f"{module}:Stuck", "--store", "s"]
    with subprocess.Popen([sys.executable, *arguments], stderr=subprocess.DEVNULL) as supervisor:
        pids = wait_for(lambda: [int(path.name[4:]) for path in folder.glob("pid_*")], lambda found: len(found) == 3)
        assert sorted(state(pid) == "T" for pid in pids if alive(pid)) == [False, True]
        supervisor.send_signal(signal.SIGKILL)
    wait_for(lambda: [pid for pid in pids if alive(pid)], lambda left: not left)


def wait_for(look, is_right):
    """Look until it is right; the limit is there to end a failing test, not to decide it."""
    for _ in range(600):
        if is_right(found := look()):
            return found
        time.sleep(0.05)
    raise AssertionError(f"still {found} after half a minute")
