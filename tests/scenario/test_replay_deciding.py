"""Decisions with memory and without, and a future that nobody may know of."""

import csv
import gzip
import io
import json
import math
import re
import sys
from decimal import Decimal
from functools import partial
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from rich.console import Console

from ntmem.cli.replay import replay
from ntmem.errors import StorageError
from ntmem.instants import MAX_INSTANT
from ntmem.reasoningbank.bank import ReasoningBank
from ntmem.reasoningbank.ledger import Ledger
from ntmem.reasoningbank.shelf import Shelf
from ntmem.replay import ReplayOptions, deciding, poison, run, scenes
from ntmem.replay.cards import print_report
from ntmem.replay.deciding import account_for_deciding, differences, play, summary
from ntmem.replay.intervals import compare_rewards
from ntmem.replay.market import MarketFile
from ntmem.replay.scenes import ACTIONS, FLAT, market, shipped_scenes, simulator, sp500, ticks
from ntmem.replay.steps import Steps

SMALL = 120
DATA = Path(scenes.__file__).parent / "data"


@pytest.fixture(scope="module")
def days():
    """The daily bars, as steps."""
    return list(Steps([MarketFile(DATA / "sp500-daily.csv.gz", known_after=86_400)], 0))


# -- scenes


def test_shipped_scenes_are_in_order():
    found = shipped_scenes()
    assert [scene.name for scene in found] == ["simulator", "sp500", "ticks"]
    for scene in found:
        count = len(scene.ts)
        assert count >= 500
        assert (np.diff(scene.ts) > 0).all()
        assert (np.diff(scene.ts_known) > 0).all()
        assert (scene.ts_known > scene.ts).all()
        assert scene.situations.dtype == np.float32
        assert np.isfinite(scene.situations).all()
        assert scene.situations.any(axis=1).all()
        assert scene.rewards.shape == (count, 3)
        assert not scene.rewards[:, FLAT].any()


def test_a_day_earns_what_the_file_says():
    with gzip.open(DATA / "sp500-daily.csv.gz", "rt") as lines:
        rows = [(int(row["ts_event"]), Decimal(row["close"])) for row in csv.DictReader(lines)]
    scene = sp500()
    day = 86_400 * 10**9
    last = rows[-len(scene.ts) - 1 :]
    assert [ts + day for ts, _ in last] == [*scene.ts, scene.ts_known[-1]]  # a bar is known when its day is over
    assert (scene.ts_known[:-1] == scene.ts[1:]).all()
    for number, ((_, one), (_, other)) in enumerate(pairwise(last)):
        moved = float((other / one - 1) * 10_000)
        assert scene.rewards[number].tolist() == pytest.approx([moved - 1, 0, -moved - 1], abs=1e-6)


def test_a_tick_earns_what_the_quotes_say():
    with gzip.open(DATA / "btcusdt-perp-quotes.csv.gz", "rt") as lines:
        rows = [(int(row["ts_known"]), float(row["bid"]), float(row["ask"])) for row in csv.DictReader(lines)]
    scene = ticks()
    times = [row[0] for row in rows]
    for number in range(0, len(scene.ts), 50):
        (_, bid, ask), (_, bid_then, ask_then) = (
            rows[np.searchsorted(times, instant, "right") - 1] for instant in (scene.ts[number], scene.ts_known[number])
        )
        middle = (bid + ask) / 2
        moved = ((bid_then + ask_then) / 2 / middle - 1) * 1e4
        cost = (ask - bid) / 2 / middle * 1e4
        assert scene.rewards[number].tolist() == pytest.approx([moved - cost, 0, -moved - cost], abs=1e-6)


def test_a_situation_knows_nothing_of_what_comes_later(days):
    whole = market("days", days[:800], window=60, horizon=5)
    wild = [step._replace(bid=step.bid * 3, ask=step.ask * 5, volume=step.volume * 7) for step in days[500:800]]
    for later in (wild, [], wild[::-1][:100]):
        other = market("days", [*days[:500], *later], window=60, horizon=5)
        same = 500 - 60 - 5 if not later else 500 - 60
        assert other.situations[:same].tobytes() == whole.situations[:same].tobytes()
        assert (other.rewards[: same - 5] == whole.rewards[: same - 5]).all()
        if later:
            assert (other.situations[same] != whole.situations[same]).any()


def test_a_situation_is_made_of_the_past_as_said(days):
    window, place = 60, 100
    scene = market("days", days[:400], window=window, horizon=5)
    logs = [math.log(step.mid) for step in days]
    volumes = [math.log1p(float(step.volume)) for step in days]
    at = place + window
    returns = [b - a for a, b in pairwise(logs)][at - window : at]
    usual = np.std(returns)
    expected = [(logs[at] - logs[at - span]) / usual / math.sqrt(span) for span in (1, 2, 5, 10, 20)]
    expected.append(math.log(np.std(returns[-20:]) / usual))
    past = logs[at - window : at + 1]
    expected += [(logs[at] - each) / usual / math.sqrt(window) for each in (np.mean(past), max(past))]
    seen = volumes[at - window : at + 1]
    expected += [(volumes[at] - np.mean(seen)) / np.std(seen), 0, 0, 1]  # bars have no spread, and no sizes
    assert scene.situations[place].tolist() == pytest.approx([max(-3, min(each, 3)) for each in expected], abs=1e-4)


@pytest.mark.parametrize("count", [0, 1, 21, 114])
def test_of_a_short_market_there_is_no_scene(days, count):
    assert market("days", days[:count], window=60, horizon=5) is None
    assert len(market("days", days[: 60 + 5 + 50], window=60, horizon=5).ts) == 50


def test_of_one_price_there_is_no_scene(days):
    assert market("days", [step._replace(bid=step.last, ask=step.last) for step in days[:1]] * 300) is None


@pytest.mark.parametrize(
    ("options", "said"), [({"window": 20}, "window must be more than 20, was 20"), ({"horizon": 0}, "horizon")]
)
def test_a_scene_of_no_window_or_horizon_is_refused(days, options, said):
    with pytest.raises(ValueError, match=said):
        market("days", days[:200], **options)


def test_the_simulator_is_as_its_formulas_say():
    scene, again, other = simulator(4000, 3), simulator(4000, 3), simulator(4000, 4)
    assert scene.situations.tobytes() == again.situations.tobytes() != other.situations.tobytes()
    assert scene.rewards.tobytes() == again.rewards.tobytes()
    assert {tuple(row) for row in scene.expected.round(6).tolist()} == {(0.8, 0, -1.2), (-1.2, 0, 0.8), (-0.2, 0, -0.2)}
    noise = (scene.rewards - scene.expected)[:, 0]
    assert (scene.rewards - scene.expected)[:, 2].tolist() == pytest.approx((-noise).tolist(), abs=1e-9)
    assert noise.std() == pytest.approx(scenes.NOISE, rel=0.05)
    assert abs(noise.mean()) < 4 * scenes.NOISE / math.sqrt(4000)
    best = scene.expected.argmax(axis=1)
    rows = scene.situations / np.linalg.norm(scene.situations, axis=1, keepdims=True)
    for half in (slice(2000), slice(2000, None)):  # who has seen the half knows what pays in the nearest situations
        first, second = rows[half][::2], rows[half][1::2]
        assert (best[half][::2][(second @ first.T).argmax(axis=1)] == best[half][1::2]).mean() > 0.8
    first, second = rows[:2000], rows[2000:]
    assert (best[:2000][(second @ first.T).argmax(axis=1)] == best[2000:]).mean() < 0.65  # half of the regimes changed


# -- deciding


def test_on_the_simulator_memory_earns_more_than_chance():
    scene = simulator(800)
    found = summary(scene, play(scene, 0, is_poisoned=False), 0)
    low, high = found["against_chance"]["interval"]
    assert 0 < low < found["against_chance"]["difference"] < high
    assert found["best"]["share"] > 0.45
    assert "more than by chance" in found["conclusion"]


def test_on_noise_memory_earns_nothing():
    scene = simulator(800, 5)
    shuffled = np.random.default_rng(1).permutation(len(scene.ts))
    scene = scene._replace(rewards=scene.rewards[shuffled], expected=scene.expected[shuffled])
    found = summary(scene, play(scene, 0, is_poisoned=False), 0)
    low, high = found["against_flat"]["interval"]
    assert low < 0  # nothing can be learnt, and what is done costs
    assert found["best"]["share"] < 0.45
    assert high < 0.2


def test_figures_are_those_of_the_actions_that_were_taken():
    scene = simulator(SMALL)
    played = play(scene, 1, is_poisoned=False)
    found = summary(scene, played, 1)
    earned = [scene.rewards[number][action] for number, action in enumerate(played.actions)]
    assert found["decisions"] == SMALL
    assert found["with_memory"] == pytest.approx(math.fsum(earned) / SMALL)
    assert found["by_chance"] == pytest.approx(math.fsum(map(math.fsum, scene.rewards)) / SMALL / 3)
    assert found["always"]["flat"] == 0
    assert found["against_chance"]["difference"] == pytest.approx(found["with_memory"] - found["by_chance"])
    assert found["against_flat"]["difference"] == pytest.approx(found["with_memory"])
    right = sum(each[action] == max(each) for each, action in zip(scene.expected, played.actions, strict=True))
    assert found["best"]["share"] == right / SMALL
    for number, name in enumerate(ACTIONS):
        assert found["chosen"][name] == list(played.actions).count(number) / SMALL
    json.dumps(found)


def test_an_outcome_is_told_when_it_is_known_and_of_the_action_alone(monkeypatch):
    told = []
    resolve = ReasoningBank.resolve

    def heard(bank, trajectory_id, outcome, *, ts_known, **more):
        told.append((bank.trajectories.now(), ts_known, outcome))
        resolve(bank, trajectory_id, outcome, ts_known=ts_known, **more)

    monkeypatch.setattr(ReasoningBank, "resolve", heard)
    monkeypatch.setattr(poison, "write", lambda *given: None)
    scene = simulator(SMALL)
    played = play(scene, 0, is_poisoned=False)
    assert [now >= known for now, known, _ in told] == [True] * SMALL
    assert [known for _, known, _ in told] == scene.ts_known.tolist()
    assert [reward for *_, reward in told] == scene.rewards[np.arange(SMALL), played.actions].tolist()


def test_the_same_seed_decides_the_same_way():
    scene = simulator(SMALL)
    one, same, other = (play(scene, seed, is_poisoned=False) for seed in (7, 7, 8))
    assert one.actions.tolist() == same.actions.tolist() != other.actions.tolist()
    assert one[1:] == same[1:]
    assert one.decided != other.decided
    assert len(set(one.asked["then"])) == deciding.INSTANTS  # something else is known each time


def test_the_interval_is_that_of_means_of_blocks():
    count, overlap = 512, 8
    random = np.random.default_rng(3)
    noise = np.convolve(random.standard_normal(count + overlap - 1), np.ones(overlap), "valid")
    without = random.standard_normal(count)
    found = compare_rewards(without + noise + 0.5, without, overlap, 0)
    block = found["block"]
    assert count % block == 0
    means = [float(np.mean(noise[first : first + block])) + 0.5 for first in range(count - block + 1)]
    deviation = np.std(means) / math.sqrt(count / block)
    low, high = found["interval"]
    assert found["difference"] == pytest.approx(float(noise.mean()) + 0.5)
    assert (low, high) == pytest.approx(
        (np.mean(means) - 1.96 * deviation, np.mean(means) + 1.96 * deviation), abs=0.15 * deviation
    )
    assert high - low > 1.5 * 2 * 1.96 * noise.std() / math.sqrt(count)  # steps are not independent
    assert compare_rewards(noise[:59], without[:59], overlap, 0)["interval"] is None
    assert compare_rewards(noise[:0], without[:0], overlap, 0)["difference"] is None


def account(gain, interval, **always):
    """What a scene earned, with 1 a decision by memory."""
    chance = {"difference": gain, "interval": interval}
    return {"name": "scene", "unit": "bp", "with_memory": 1.0, "always": always, "against_chance": chance}


@pytest.mark.parametrize(
    ("found", "said"),
    [
        (account(2, None), "not enough decisions"),
        (account(2, [-1, 4]), "no effect of memory on what decisions earn is shown: +2.000 bp a decision"),
        (account(2, [1, 4], long=0.5, flat=0), "more than by chance: .* excludes 0\\.$"),
        (account(2, [1, 4], long=1.5, flat=0), "more than by chance: .*, but always long would have earned \\+1.500"),
        (account(-2, [-4, -1]), "less than by chance: .* misled"),
    ],
)
def test_a_conclusion_claims_no_more_than_is_shown(found, said):
    assert re.search(said.replace("+2", "\\+2"), deciding._conclusion(found))


def test_a_scene_of_few_decisions_is_refused():
    with pytest.raises(ValueError, match="must have 50 decisions or more, simulator has 49"):
        play(simulator(49), 0, is_poisoned=False)


# -- the poisoned future


@pytest.mark.parametrize(
    "make", [partial(simulator, SMALL), lambda: sp500().first(SMALL), lambda: ticks().first(SMALL)]
)
def test_a_poisoned_future_changes_nothing(make):
    figures, problems = account_for_deciding([make()], 2)
    assert problems == []
    assert figures["exact"]
    assert figures["scenes"][0]["exact"]
    assert figures["poison"] == 180


def test_poison_bites_when_it_is_known():
    scene = simulator(SMALL)
    assert play(scene, 0, is_poisoned=True).poisoned > 0


UNLIMITED = {
    "outcomes to learn from": (Ledger, "due", 0, "changed"),
    "outcomes to be judged by": (Ledger, "past", 1, "asked then"),
    "patterns": (Shelf, "all", 0, "asked at the end"),
    "patterns that are recalled": (Shelf, "seen", 1, "asked when later data had come"),
}
"""Methods, and the place of their limit among the arguments, where a limit that is not kept is to be noticed."""


@pytest.mark.parametrize(("owner", "name", "place", "said"), UNLIMITED.values(), ids=UNLIMITED)
def test_a_limit_that_is_not_kept_is_noticed(monkeypatch, owner, name, place, said):
    kept = getattr(owner, name)

    def unlimited(self, *given, **more):
        changed = list(given)
        changed[place] = MAX_INSTANT
        return kept(self, *changed, **more)

    monkeypatch.setattr(owner, name, unlimited)
    figures, problems = account_for_deciding([simulator(SMALL)])
    assert not figures["exact"]
    assert not figures["scenes"][0]["exact"]
    assert any(said in each for each in problems), problems


def test_poison_that_does_nothing_is_noticed(monkeypatch):
    monkeypatch.setattr(poison, "write", lambda *given: None)
    _, problems = account_for_deciding([simulator(SMALL)])
    assert [each.split(",")[0] for each in problems] == [
        "simulator: nothing was learnt from later data",
        "simulator: nothing was learnt from later data with a poisoned future",
    ]


def test_differences_are_told():
    scene = simulator(SMALL)
    one, other = (play(scene, seed, is_poisoned=False) for seed in (0, 1))
    assert differences(one, one) == []
    (decisions, *known) = differences(one, other)
    assert "of 120 decisions, the first is number " in decisions
    assert known[0] == "as of 5 of 5 instants something else was known with a poisoned future, asked then"


# -- in the report


@pytest.fixture
def small(monkeypatch):
    """Replays with a small simulator."""
    module = sys.modules["ntmem.replay.run"]  # the package has a function of that name
    monkeypatch.setattr(module, "simulator", lambda seed: simulator(SMALL, seed))
    monkeypatch.setattr(module, "shipped_scenes", lambda seed: [simulator(SMALL, seed)])


def printed(report):
    text = io.StringIO()
    print_report(report, Console(file=text, width=160))
    return text.getvalue()


def test_a_replay_reports_decisions(small, folder):
    seen = []
    report = run(ReplayOptions(steps=20, agents=1, kill=False, decide=True), lambda *told: seen.append(told))
    assert report.problems == []
    assert json.loads(json.dumps(report.to_dict()))["deciding"]["scenes"][0]["decisions"] == SMALL
    assert seen[-1] == ("deciding", 2 * SMALL, 2 * SMALL)
    text = printed(report)
    assert "simulator" in text
    assert "no effect" in text
    assert "Poisoned future" in text


def test_a_replay_decides_on_the_file_it_was_given(small, days, folder):
    path = folder / "DAYS-1d.csv"
    rows = [f"{step.ts // 10**9},{step.last}" for step in days[:200]]
    path.write_text("\n".join(["ts_known,close", *rows]))
    report = run(ReplayOptions(file=path, agents=1, kill=False, decide=True))
    assert report.problems == report.notes == []
    assert [scene["name"] for scene in report.deciding["scenes"]] == ["simulator", "DAYS"]
    assert report.deciding["scenes"][1]["decisions"] == 200 - 60 - 20


def test_a_file_that_is_too_short_to_decide_on_is_named(small, bars):
    report = run(ReplayOptions(file=bars, agents=1, kill=False, decide=True))
    assert report.notes == ["no decisions were made on WALK: it has too few steps, or one price"]
    assert [scene["name"] for scene in report.deciding["scenes"]] == ["simulator"]


def test_a_replay_with_a_poisoned_decision_has_failed(small, bars, monkeypatch):
    due = Ledger.due
    monkeypatch.setattr(Ledger, "due", lambda self, limit, most, at_once: due(self, MAX_INSTANT, most, at_once))
    report = run(ReplayOptions(file=bars, agents=1, kill=False, decide=True))
    assert not report.ok
    assert "simulator: a poisoned future changed" in report.problems[0]
    text = printed(report)
    assert "differs" in text
    assert "FAILED: simulator" in text
    assert "Poisoned future" not in text


def test_an_interruption_while_scenes_are_played_leaves_the_report(small, bars):
    def progress(what, done, total):
        if (what, done) == ("deciding", 5):
            raise KeyboardInterrupt

    report = run(ReplayOptions(file=bars, agents=1, kill=False, decide=True), progress)
    assert report.replay["interrupted"]
    assert report.replay["steps_fed"] == 60
    assert report.deciding == {}
    assert "WALK" in printed(report)


def test_a_store_that_fails_while_scenes_are_played_leaves_the_report(small, bars, monkeypatch):
    def full(*given, **more):
        raise StorageError("no room is left")

    monkeypatch.setattr(deciding, "open_store", full)
    report = run(ReplayOptions(file=bars, agents=1, kill=False, decide=True))
    assert report.problems == ["no decisions were made: no room is left"]
    assert report.replay["steps_fed"] == 60


@pytest.mark.parametrize(("arguments", "decide"), [([], True), (["--no-decide"], False)])
def test_the_command_plays_scenes_unless_told_not_to(monkeypatch, arguments, decide):
    asked = []

    def heard(options, progress):
        asked.append(options.decide)
        raise KeyboardInterrupt

    monkeypatch.setattr("ntmem.replay.run", heard)
    result = CliRunner().invoke(replay, arguments)
    assert (result.exit_code, asked) == (130, [decide])


def test_no_scene_is_played_unless_it_is_asked_for(bars):
    report = run(ReplayOptions(file=bars, agents=1, kill=False))
    assert report.deciding == {}
    assert "Decisions" not in printed(report)
