"""The report of the bank: its figures computed anew, nothing of later, one page that names cannot do anything to."""

from __future__ import annotations

import json
import os
import re
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import ntmem
from ntmem.reasoningbank import Verdict, VerdictResult, svg
from ntmem.reasoningbank.decisions import mean_of, student, welch
from ntmem.reasoningbank.overview import figures, projected
from ntmem.reasoningbank.report import body

pytestmark = pytest.mark.only("shared")

SECOND = 1_000_000_000
START = 1_700_000_000 * SECOND
EVIL = "<script>alert('&amp;')</script>\x1b\u202e"
CLOCKS: WeakKeyDictionary[Any, ntmem.SimulatedClock] = WeakKeyDictionary()
T_TABLE = {2: 4.302653, 3: 3.182446, 5: 2.570582, 9: 2.262157, 30: 2.042272, 1000: 1.962339}


class Page(HTMLParser):
    """Every tag and attribute there is, and the text; each tag is closed where it has to be."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: set[str] = set()
        self.attributes: set[str] = set()
        self.text = ""
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.open.append(tag)
        self.handle_startendtag(tag, attrs)

    def handle_startendtag(self, tag: str, attrs: Any) -> None:
        self.tags.add(tag)
        self.attributes |= {name for name, _ in attrs}

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.fixture
def memory(engine: str, tmp_path: Path) -> Iterator[Any]:
    clock = ntmem.SimulatedClock(START)
    with ntmem.open(tmp_path / "desk", clock=clock) as memory:
        CLOCKS[memory] = clock
        yield memory


def now(memory: Any) -> int:
    return int(memory.trajectories.now())


def tick(memory: Any, seconds: float = 60) -> None:
    CLOCKS[memory].set(now(memory) + int(seconds * SECOND))


def decide(memory: Any, task: str, action: str, outcome: float | None, **more: Any) -> tuple[str, list[Any]]:
    """Keep a decision, begun a minute after the one before; return its id and what was recalled for it."""
    tick(memory)
    agent, situation, reference = more.get("agent", "agent_1"), more.get("situation"), more.get("reference")
    t = memory.bank.begin(agent, task)
    recalled = []
    if situation is not None:
        t.add_observation({}, embedding=situation)
        if more.get("asks"):
            recalled = memory.bank.recall(situation, 3, trajectory_id=t.id)
    t.add_action(action, predicted_outcome=more.get("predicted"), reference=reference)
    if outcome is not None:
        tick(memory, 1)
        memory.bank.resolve(t.id, outcome)
    return t.id, recalled


def played(memory: Any, count: int = 240, task: str = "market", seed: int = 1) -> list[dict[str, Any]]:
    """Let an agent decide in two kinds of situations, in one of which "buy" pays, and ask memory every other time.

    Return what came, as it was meant: what memory is said to have said is taken from what it returned then.
    """
    chance, kept = np.random.default_rng(seed), []
    for number in range(count):
        kind = int(chance.integers(2))
        situation = np.array([[1.0, 0.0, 0.1], [0.0, 1.0, 0.1]])[kind] + chance.normal(size=3) * 0.05
        action = ("buy", "hold")[int(chance.integers(2))]
        value = float(0.7 + (kind * 2 - 1) * (action == "buy") + chance.normal() * 0.8)
        asks = number >= count // 3 and number % 2 == 0
        name, recalled = decide(memory, task, action, value, situation=situation, asks=asks)
        right = [
            (it.confidence, (value > it.metadata["base"]) == (it.pattern_type == "success"))
            for it in recalled
            if it.action == action
        ]
        ts = memory.trajectories.get(name).start
        kept.append({"id": name, "ts": ts, "value": value, "advised": bool(recalled), "right": right})
        if number % 20 == 19:
            memory.bank.distill()
    return kept


def report_of(memory: Any, tmp_path: Path, **more: Any) -> dict[str, Any]:
    found: dict[str, Any] = memory.bank.report(tmp_path / "page.html", **more).to_dict()
    del found["path"]
    return found


# -- figures


def test_decisions_with_memory_and_without(memory: Any, tmp_path: Path) -> None:
    kept = played(memory)
    found = report_of(memory, tmp_path)
    [facet] = found["facets"]
    values = np.array([it["value"] for it in kept])
    assert (facet["task"], facet["unit"], facet["count"]) == ("market", "reward", len(kept))
    assert facet["mean"] == pytest.approx(values.mean())
    groups = {"advised": [it for it in kept if it["advised"]], "unadvised": [it for it in kept if not it["advised"]]}
    assert min(map(len, groups.values())) > 50
    for name, its in groups.items():
        check_group(facet[name], its, values.mean())
        assert facet[name]["correct"] is None
    one, other = (np.array([it["value"] for it in its]) for its in groups.values())
    assert facet["difference"] == pytest.approx(one.mean() - other.mean())
    both = np.sqrt(one.var(ddof=1) / len(one) + other.var(ddof=1) / len(other))
    low, high = facet["difference_interval"]
    assert low + high == pytest.approx(2 * facet["difference"])
    assert 1.959964 * both < (high - low) / 2 < 2.02 * both
    assert found["totals"]["advised"] == len(one)
    assert found["totals"]["decisions"] == found["totals"]["outcomes"] == len(kept)


def check_group(group: Any, its: list[dict[str, Any]], mean: float) -> None:
    values = np.array([it["value"] for it in its])
    check_mean(group["outcome"], values)
    assert group["above"]["share"] == pytest.approx((values > mean).mean())
    sizes = [period["outcome"]["count"] for period in group["periods"]]
    assert len(sizes) == min(12, len(its) // 10)
    assert max(sizes) - min(sizes) <= 1
    at = 0
    for period in group["periods"]:
        part = its[at : at + period["outcome"]["count"]]
        check_mean(period["outcome"], np.array([it["value"] for it in part]))
        assert (period["first"], period["last"]) == (part[0]["ts"], part[-1]["ts"])
        assert period["ts"] == sum(it["ts"] for it in part) // len(part)
        at += len(part)
        hits, count = sum(it["value"] > mean for it in part), len(part)
        low, high = period["above"]["interval"]
        for bound in {low, high} - {0.0, 1.0}:  # where the score test has just 95 %: Wilson's own definition
            assert (hits / count - bound) ** 2 == pytest.approx(1.959964**2 * bound * (1 - bound) / count, rel=1e-4)
    assert at == len(its)


def check_mean(found: Any, values: np.ndarray) -> None:
    assert found["count"] == len(values)
    assert found["mean"] == pytest.approx(values.mean())
    if len(values) < 3:
        assert found["interval"] is None
        return
    low, high = found["interval"]
    error = values.std(ddof=1) / np.sqrt(len(values))
    assert low + high == pytest.approx(2 * values.mean())
    assert (high - low) / 2 / error == pytest.approx(student(len(values) - 1), rel=1e-6)


@pytest.mark.parametrize(("freedom", "quantile"), T_TABLE.items())
def test_students_quantile(freedom: int, quantile: float) -> None:
    assert student(freedom) == pytest.approx(quantile, abs=0.03 if freedom > 2 else 0.15)


def test_means_of_a_few_and_of_huge_values() -> None:
    assert mean_of([1.0, 3.0]).interval is None
    assert mean_of([2.0] * 5).interval == (2.0, 2.0)
    huge = mean_of([1e300, -1e300, 1e300, 1e300])
    assert huge.mean == pytest.approx(0.5e300)
    assert huge.interval is not None
    assert np.isfinite(huge.interval).all()
    assert welch([1.0, 1.0, 1.0], [0.0, 0.0, 0.0]) == (1.0, (1.0, 1.0))
    assert welch([1.0, 2.0], [0.0, 0.0, 0.0]) == (1.5, None)


def test_rewards_and_returns_are_never_mixed(memory: Any, tmp_path: Path) -> None:
    decide(memory, "market", "buy", 2.0)
    decide(memory, "market", "buy", 110.0, reference=100.0)
    decide(memory, "market", "sell", 110.0, reference=100.0)
    tick(memory)
    both = memory.bank.begin("agent_2", "market")
    for reference in (None, 50.0):
        both.add_action("hold", reference=reference)
    for action, outcome in (("a1", -4.0), ("a2", 45.0)):
        both.add_outcome(outcome, action_id=action)
    found = {it["unit"]: it for it in report_of(memory, tmp_path)["facets"]}
    rewards, returns = found["reward"], found["return"]
    assert (rewards["count"], rewards["mean"]) == (2, -1.0)
    assert returns["count"] == 3
    assert returns["mean"] == pytest.approx((0.1 - 0.1 - 0.1) / 3)  # who sells loses what the price gains
    assert returns["advised"] is None
    assert returns["difference"] is None


def test_tasks_beyond_four_are_counted_only(memory: Any, tmp_path: Path) -> None:
    for number in range(6):
        for _ in range(number + 1):
            decide(memory, f"task_{number}", "buy", 1.0)
    report = memory.bank.report(tmp_path / "page.html")
    assert [it.task for it in report.figures.facets] == ["task_5", "task_4", "task_3", "task_2"]
    assert report.figures.totals["facets"] == 6
    assert "2 more, of fewer decisions" in report.path.read_text()


def test_who_is_advised_after_the_outcome_was_not(memory: Any, tmp_path: Path) -> None:
    played(memory, 60)
    before = report_of(memory, tmp_path)
    name, _ = decide(memory, "late", "buy", 5.0, situation=[1.0, 0.0, 0.1])
    assert memory.bank.recall([1.0, 0.0, 0.1], trajectory_id=name)
    twice, _ = decide(memory, "twice", "buy", None, situation=[0.0, 1.0, 0.1])
    for _ in range(2):
        memory.bank.recall([0.0, 1.0, 0.1], trajectory_id=twice)
    memory.bank.resolve(twice, 1.0)
    found = report_of(memory, tmp_path)
    facets = {it["task"]: it for it in found["facets"]}
    assert facets["late"]["advised"] is None
    assert facets["twice"]["unadvised"] is None
    mine = [it for it in memory.bank.explain(twice).patterns if it.was_right is not None]
    assert found["patterns"]["count"] - before["patterns"]["count"] == len({it.pattern_id for it in mine}) > 0


def test_whether_confidence_of_patterns_holds(memory: Any, tmp_path: Path) -> None:
    said = [each for it in played(memory) for each in it["right"]]
    found = report_of(memory, tmp_path)["patterns"]
    assert found["count"] == len(said) > 50
    assert found["brier"] == pytest.approx(np.mean([(confidence - was) ** 2 for confidence, was in said]))
    share = sum(each["count"] * each["share"] for each in found["bins"]) / len(said)
    assert share == pytest.approx(np.mean([was for _, was in said]))


def test_who_sells_is_right_when_the_price_falls(memory: Any, tmp_path: Path) -> None:
    for number in range(60):
        action, mean = (("sell", 98.0), ("hold", 100.0))[number % 2]
        decide(memory, "market", action, mean + 0.1 * (number % 3), situation=[1.0, 0.2], reference=100.0)
    memory.bank.distill()
    for level in (98.0, 98.1, 103.0):
        decide(memory, "market", "sell", level, situation=[1.0, 0.2], reference=100.0, asks=True)
    memory.bank.distill()
    [sell] = [it for it in memory.bank.patterns() if it.action == "sell"]
    assert (sell.metadata["right"], sell.metadata["wrong"]) == (2, 1)
    found = report_of(memory, tmp_path)["patterns"]
    assert sum(each["count"] for each in found["bins"]) == 3
    assert sum(each["count"] * each["share"] for each in found["bins"]) == pytest.approx(2)


def test_verdicts_that_held_and_their_share(memory: Any, tmp_path: Path) -> None:
    says: list[VerdictResult] = []

    def mine(case: Any) -> VerdictResult:
        verdict, confidence = says.pop(0)
        return VerdictResult(case.trajectory_id, verdict, None, None, confidence, "")

    names = [decide(memory, "market", "buy", float(number), predicted=1.0)[0] for number in range(4)]
    for name, verdicts in zip(
        names,
        (
            [(Verdict.CORRECT, 0.9), (Verdict.CORRECT, 0.8)],
            [(Verdict.CORRECT, 0.7), (Verdict.VERY_WRONG, 0.6), (Verdict.INCORRECT, 0.5)],
            [(Verdict.INSUFFICIENT, 0.0), (Verdict.INCORRECT, 0.4)],
            [(Verdict.INSUFFICIENT, 0.0)],
        ),
        strict=True,
    ):
        says[:] = verdicts
        while says:
            memory.bank.judge(name, judge=mine)
    memory.bank.judge(names[0], judge=lambda case: Verdict.INCORRECT)  # another judge replaces nothing
    found = report_of(memory, tmp_path)
    assert found["verdicts"]["count"] == 3
    assert found["verdicts"]["brier"] == pytest.approx(((0.9 - 1) ** 2 + 0.7**2 + 0.6**2) / 3)
    [facet] = found["facets"]
    assert (facet["unadvised"]["correct"]["count"], facet["unadvised"]["correct"]["share"]) == (3, 0.0)
    assert {name: found["totals"][name] for name in ("correct", "incorrect", "insufficient")} == {
        "correct": 0,
        "incorrect": 3,
        "insufficient": 1,
    }


def test_patterns_are_where_their_situations_are(memory: Any, tmp_path: Path) -> None:
    played(memory)
    decide(memory, "market", "seldom", 1.0, situation=[1.0, 0.0, 0.1])
    memory.bank.distill()
    found = report_of(memory, tmp_path)
    patterns = {it.id: it for it in memory.bank.patterns()}
    [plan] = found["maps"]
    assert {it["id"] for it in plan["places"]} == set(patterns)
    assert plan["dimension"] == 3
    for it in plan["places"]:
        same = patterns[it["id"]]
        assert (it["action"], it["strength"], it["support"]) == (same.action, same.strength, same.support)
        assert it["effect"] == same.metadata["effect"]
    strongest = sorted(patterns.values(), key=lambda it: -it.strength)
    assert [it["strength"] for it in found["strongest"]] == [it.strength for it in strongest]
    first, same = found["strongest"][0], strongest[0]
    assert (first["title"], first["description"], first["support"]) == (same.title, same.description, same.support)
    assert (first["confidence"], first["outcome_mean"]) == (same.confidence, same.outcome_mean)
    assert first["outcome_interval"] == pytest.approx(same.outcome_interval, rel=1e-6)
    used = {it.id: it.metadata for it in patterns.values() if it.metadata["uses"]}
    assert [it["uses"] for it in found["used"]] == sorted((it["uses"] for it in used.values()), reverse=True)
    for it in found["used"]:
        assert (it["right"], it["wrong"]) == (used[it["id"]]["right"], used[it["id"]]["wrong"])
    bars = re.findall(r"(\d+) uses, [^<]*</title>.*?>(\d+)</text></g>", (tmp_path / "page.html").read_text())
    assert [(said, drawn) for said, drawn in bars] == [(str(it["uses"]), str(it["uses"])) for it in found["used"]]
    totals = found["totals"]
    assert totals["patterns"] == len(patterns)
    assert totals["proven"] == sum(it.strength > 0.5 for it in strongest) > 0
    assert totals["quarantined"] == sum(it.metadata["quarantined"] for it in strongest)


def test_the_plane_keeps_most_of_the_variance() -> None:
    chance = np.random.default_rng(3)
    rows = (chance.normal(size=(40, 6)) * [5, 3, 1, 0.1, 0.1, 0.1]).astype(np.float32)
    points, explained = projected(rows)
    values, vectors = np.linalg.eigh(np.cov(rows.T.astype(np.float64)))
    expected = (rows - rows.mean(axis=0)) @ vectors[:, [-1, -2]]
    np.testing.assert_allclose(np.abs(points), np.abs(expected), atol=1e-4)
    np.testing.assert_allclose(explained, values[[-1, -2]] / values.sum(), rtol=1e-4)
    farthest = np.abs(points).argmax(axis=0)
    assert (points[farthest, [0, 1]] > 0).all()
    for few in (rows[:1], rows[:2], np.ones((5, 3), np.float32), np.ones((2, 1), np.float32)):
        points, explained = projected(few)
        assert points.shape == (len(few), 2)
        assert np.isfinite(points).all()
        assert 0 <= sum(explained) <= 1 + 1e-6
    assert explained == (0.0, 0.0)


def test_what_pays_has_changed(memory: Any, tmp_path: Path) -> None:
    chance, early, middle, seen_then = np.random.default_rng(5), 0, 0, {}
    for number in range(160):
        better = 1.0 if number < 80 else -2.0
        for action, mean in (("buy", better), ("hold", 0.0)):
            decide(memory, "market", action, float(mean + chance.normal() * 0.3), situation=[1.0, 0.2])
        if number % 10 == 9:
            memory.bank.distill()
        if number == 79:
            early = now(memory)
        if number == 119:
            middle, seen_then = now(memory), report_of(memory, tmp_path)
    assert report_of(memory, tmp_path, as_of=early)["drifting"] == []
    assert report_of(memory, tmp_path, as_of=middle) == seen_then
    assert seen_then["drifting"]
    [drift] = report_of(memory, tmp_path)["drifting"]
    [buy] = [it for it in memory.bank.patterns() if it.action == "buy"]
    assert drift["drifts"] == buy.metadata["regime"] >= 1
    assert drift["regime_since"] == buy.metadata["regime_since"] == drift["changes"][-1]
    assert drift["changes"][0] > early
    versions = drift["actions"]["buy"]
    assert [it["ts"] for it in versions] == sorted({it["ts"] for it in versions})
    assert versions[-1]["mean"] == buy.outcome_mean
    for it in versions:
        [then] = [each for each in memory.bank.patterns(as_of=it["ts"]) if each.action == "buy"]
        assert it["mean"] == then.outcome_mean
        assert it["interval"] == pytest.approx(then.outcome_interval, rel=1e-6)
    assert versions[0]["mean"] > 0 > versions[-1]["mean"]
    assert "changed once" in (tmp_path / "page.html").read_text()


# -- as of then


def test_nothing_of_later_is_in_it(memory: Any, tmp_path: Path) -> None:
    played(memory, 120)
    memory.bank.judge_many([it.id for it in memory.trajectories.find().trajectories])
    open_one, _ = decide(memory, "market", "buy", None, situation=[1.0, 0.0, 0.1], asks=True)
    then = now(memory)
    report = memory.bank.report(tmp_path / "then.html")
    before = report.path.read_bytes()
    poison = memory.bank.begin("poison", "market", ts_known=then + 5)
    poison.add_action("buy")
    poison.add_outcome(1e9)
    tick(memory)
    memory.bank.resolve(open_one, 3.0)
    for it in memory.trajectories.find(limit=50).trajectories:
        it.add_outcome(-1e6, action_id="a1")
    played(memory, 60, seed=2)
    played(memory, 40, "another", seed=3)
    memory.bank.feedback(next(iter(memory.bank.patterns())).id, -1.0)
    memory.bank.judge_many([it.id for it in memory.trajectories.find().trajectories])
    memory.bank.consolidate()
    again = memory.bank.report(tmp_path / "again.html", as_of=then)
    assert again.figures == report.figures
    assert again.path.read_bytes() == before
    assert report_of(memory, tmp_path) != report_of(memory, tmp_path, as_of=then)
    assert memory.bank.report(tmp_path / "all.html", as_of=ntmem.LATEST).figures.totals["tasks"] == 2
    assert report_of(memory, tmp_path, as_of=START)["totals"]["trajectories"] == 0


def test_only_the_latest_are_looked_at(memory: Any, tmp_path: Path) -> None:
    for number in range(8):
        decide(memory, "market", "buy", float(number))
    bank = memory.bank

    def latest(most: int) -> Any:
        return figures(memory.trajectories, bank._shelf, bank.distiller.settings, now(memory), most)

    found = latest(3)
    assert found.was_cut
    assert found.totals["trajectories"] == 3
    assert found.facets[0].mean == 6.0
    assert "only the latest 3" in Page(body(found)).text
    assert not latest(8).was_cut
    assert "only the latest" not in Page(body(latest(8))).text


# -- the page


def test_the_page_needs_nothing_else(memory: Any, tmp_path: Path) -> None:
    played(memory)
    memory.bank.judge_many([decide(memory, "market", "buy", 1.0, predicted=1.0)[0] for _ in range(20)])
    text = memory.bank.report(tmp_path / "page.html").path.read_text(encoding="utf-8")
    page = Page(text)
    ET.fromstring(text.partition("\n")[2])
    assert page.tags.isdisjoint({"script", "link", "img", "iframe", "object", "embed", "use", "image", "a", "base"})
    assert page.attributes.isdisjoint({"src", "href", "xlink:href", "style", "srcset", "data"})
    assert not [name for name in page.attributes if name.startswith("on")]
    assert not re.search(r"url\(|@import", text)
    assert set(re.findall(r"https?://[^\"]*", text)) == {"http://www.w3.org/2000/svg"}
    assert "default-src 'none'" in text
    for title in ("With memory and without", "Whether confidence holds", "Where patterns are", "Use", "Change"):
        assert title in page.text
    assert text.count("<svg") >= 6


def test_names_do_nothing_to_the_page(memory: Any, tmp_path: Path) -> None:
    memory.distiller.rewrite = lambda it: (EVIL, it.description + EVIL, it.content)
    chance = np.random.default_rng(1)
    for number in range(60):
        action = (EVIL, f"x{EVIL}")[number % 2]
        value = float((number % 2) + chance.normal() * 0.1)
        name, _ = decide(memory, EVIL, action, value, situation=[1.0, 0.0], asks=True, agent=EVIL, predicted=value)
        memory.bank.judge(name)
        if number % 20 == 19:
            memory.bank.distill()
    assert not memory.distiller.rewrite_errors
    report = memory.bank.report(tmp_path / f"{EVIL.replace('/', '')}.html")
    text = report.path.read_text(encoding="utf-8")
    page = Page(text)
    ET.fromstring(text.partition("\n")[2])
    assert "script" not in page.tags | Page(report._repr_html_()).tags
    assert "<script>alert('&amp;')</script>\ufffd\ufffd" in page.text
    assert not {"\x1b", "\u202e"} & set(text)
    assert EVIL in json.loads(json.dumps(report.to_dict()))["facets"][0]["task"]


def test_an_empty_bank_knows_nothing(memory: Any, tmp_path: Path) -> None:
    report = memory.bank.report(tmp_path / "page.html")
    page = Page(report.path.read_text())
    assert "Nothing is known yet" in page.text
    assert "svg" not in page.tags
    found = report.to_dict()
    assert set(found["totals"].values()) == {0}
    assert (found["facets"], found["patterns"], found["maps"], found["drifting"]) == ([], None, [], [])
    decide(memory, "market", "buy", None)
    page = Page(memory.bank.report(str(tmp_path / "page.html")).path.read_text())
    assert "No decision has an outcome yet" in page.text
    assert "No patterns were found yet" in page.text


def test_a_single_decision_and_extreme_numbers(memory: Any, tmp_path: Path) -> None:
    for values in ((1.0,), (1e100, -1e100, 5e-324), (0.0, 0.0, 0.0, 0.0), (1e308, -1e308)):
        for value in values:
            decide(memory, "market", "buy", value, situation=[1e-30, 1e30], asks=True)
        if max(values) < 1e308:
            memory.bank.distill()
        report = memory.bank.report(tmp_path / "page.html")
        text = report.path.read_text()
        ET.fromstring(text.partition("\n")[2])
        assert not re.search(r'="-?(nan|inf)', text)
        json.dumps(report.to_dict(), allow_nan=False)


# -- the file


def test_a_page_is_written_whole_or_not_at_all(memory: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "pages"
    folder.mkdir()
    target = folder / "page.html"
    target.write_text("as it was")

    def fail(*arguments: Any) -> None:
        raise OSError(28, "no space left")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fail)
        with pytest.raises(OSError, match="no space left"):
            memory.bank.report(target)
    assert target.read_text() == "as it was"
    assert os.listdir(folder) == ["page.html"]
    link = folder / "link.html"
    link.symlink_to(target)
    before = os.umask(0o027)
    try:
        assert memory.bank.report(link).path == target
    finally:
        os.umask(before)
    assert link.is_symlink()
    assert target.read_text().startswith("<!DOCTYPE html>")
    assert target.stat().st_mode & 0o777 == 0o640
    assert sorted(os.listdir(folder)) == ["link.html", "page.html"]


@pytest.mark.parametrize(
    ("path", "error", "message"),
    [
        ("", ValueError, "path must name a file, was empty"),
        (".", ValueError, "is something else"),
        ("none/page.html", FileNotFoundError, "there is no directory"),
        (3, TypeError, "path must be a str or a Path, was int"),
        (b"page.html", TypeError, "path must be a str or a Path, was bytes"),
    ],
)
def test_where_no_page_can_be(
    memory: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, path: Any, error: type, message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(error, match=message):
        memory.bank.report(path)


def test_of_a_store_that_is_only_read(engine: str, tmp_path: Path) -> None:
    clock = ntmem.SimulatedClock(START)
    with ntmem.open(tmp_path / "desk", clock=clock) as memory:
        CLOCKS[memory] = clock
        played(memory, 60)
        expected = report_of(memory, tmp_path)
    with ntmem.open(tmp_path / "desk", clock=clock, read_only=True) as memory:
        assert report_of(memory, tmp_path) == expected
    with pytest.raises(ntmem.StoreClosed):
        memory.bank.report(tmp_path / "closed.html")
    assert not (tmp_path / "closed.html").exists()


# -- in a notebook


def test_what_notebooks_show(memory: Any, tmp_path: Path) -> None:
    chance = np.random.default_rng(1)
    for number in range(40):
        decide(memory, EVIL, (EVIL, "hold")[number % 2], float(chance.normal()), situation=[1.0, 0.0], agent=EVIL)
    nothing = memory.bank.choose([0.0, 1.0], ["hold"], seed=1)
    assert "nothing was known" in Page(nothing._repr_html_()).text
    memory.bank.distill()
    name, [recalled, *_] = decide(memory, EVIL, EVIL, 1.0, situation=[1.0, 0.0], asks=True)
    choice = memory.bank.choose([1.0, 0.0], [EVIL, "hold"], seed=1)
    explained = memory.bank.explain(name)
    for it in (recalled, next(iter(memory.bank.patterns())), choice, explained, memory.bank.consolidate()):
        page = Page(it._repr_html_())
        assert page.tags <= {"table", "caption", "tr", "th", "td"}
    text = Page(recalled._repr_html_()).text
    assert "score" in text
    assert "2023-11-14T22:" in text
    assert "similarity" in Page(explained._repr_html_()).text
    assert ("right" in Page(explained._repr_html_()).text) or ("wrong" in Page(explained._repr_html_()).text)
    unasked, _ = decide(memory, "market", "buy", None)
    assert "no memory was asked" in Page(memory.bank.explain(unasked)._repr_html_()).text
    report = memory.bank.report(tmp_path / "page.html")
    assert "svg" in Page(report._repr_html_()).tags
    assert repr(report).startswith("<BankReport ")


# -- pictures


@given(st.floats(-1e300, 1e300), st.floats(-1e300, 1e300))
def test_marks_of_an_axis_are_few_and_round(one: float, other: float) -> None:
    low, high = svg._widened([one, other])
    assert low <= min(one, other) <= max(one, other) <= high
    found = svg.ticks(low, high)
    assert 1 <= len(found) <= 7
    slack = 1e-6 * (high - low)
    assert all(low - slack <= each <= high + slack for each in found)
    assert found == sorted(set(found))


def test_marks_are_steps_of_one_two_or_five() -> None:
    assert svg.ticks(0, 1) == pytest.approx([0, 0.2, 0.4, 0.6, 0.8, 1])
    assert svg.ticks(-3, 4) == [-2, 0, 2, 4]
    assert svg.ticks(1, 13e6) == [5e6, 10e6]


@given(
    st.lists(
        st.tuples(st.integers(0, 2**63 - 1), st.floats(-1e300, 1e300), st.floats(0, 1e300)), min_size=1, max_size=8
    )
)
def test_lines_stay_within_their_picture(points: list[tuple[int, float, float]]) -> None:
    line = svg.Line("a", svg.WITH, [svg.Point(x, y, y - reach, y + reach) for x, y, reach in sorted(points)])
    drawn = ET.fromstring(svg.chart("x", [line], svg.amount_of("reward"), marks=[points[0][0]]))
    _, _, width, height = map(float, drawn.attrib["viewBox"].split())
    for it in drawn.iter():
        for path in re.findall(r"-?[\d.]+ -?[\d.]+", it.attrib.get("d", "")):
            x, y = map(float, path.split())
            assert 0 <= x <= width
            assert 0 <= y <= height
    assert len([it for it in drawn.iter() if it.tag.endswith("circle")]) == len(points)


def test_times_are_said_as_far_as_they_differ() -> None:
    def labels(span: int) -> list[str]:
        line = svg.Line("a", svg.WITH, [svg.Point(START, 1.0), svg.Point(START + span, 2.0)])
        drawn = ET.fromstring(svg.chart("x", [line], svg.amount_of("share")))
        return [it.text or "" for it in drawn.iter() if it.attrib.get("text-anchor") == "middle"]

    assert labels(10 * 86_400 * SECOND) == ["2023-11-15", "2023-11-17", "2023-11-19", "2023-11-21", "2023-11-23"]
    assert labels(3600 * SECOND) == ["11-14 22:15", "11-14 22:30", "11-14 22:45", "11-14 23:00"]
    assert labels(5 * SECOND)[0] == "22:13:20"
    assert labels(5)[0] == "22:13:20.000000000"
    assert labels(0) == ["11-14 00:00", "11-14 12:00", "11-15 00:00", "11-15 12:00"]


def test_bars_are_as_long_as_what_they_say() -> None:
    rows = [svg.Bar("<a>", "h", [("red", 3.0), ("blue", 1.0)]), svg.Bar("b", "h", [("red", 2.0)])]
    drawn = ET.fromstring(svg.bars("x", rows))
    wide = [float(it.attrib["width"]) for it in drawn.iter() if it.tag.endswith("rect")]
    assert wide[0] == pytest.approx(3 * wide[1], rel=0.01)
    assert wide[2] == pytest.approx(2 * wide[1], rel=0.01)
    ET.fromstring(svg.bars("x", []))
    ET.fromstring(svg.scatter("x", []))


def test_labels_stand_away_from_the_dots_of_their_place_and_inside() -> None:
    aside = [svg.Dot(x, 0, 9, svg.WITH, 1, f"{x} {way}", shift=(way, 0)) for x in (0, 1, 9, 10) for way in (-10, 10)]
    drawn = svg.scatter("dots", aside)
    found = {
        name: (float(x), anchor)
        for x, anchor, name in re.findall(r'<text x="([\d.]+)" y="[\d.]+" text-anchor="(\w+)">(\d+ -?\d+)<', drawn)
    }
    assert {name: anchor for name, (_, anchor) in found.items() if name in ("1 -10", "1 10", "9 -10")} == {
        "1 -10": "end",
        "1 10": "start",
        "9 -10": "end",
    }
    assert found["10 10"][1] == "end"  # there is no room to the right of it
    for name, (x, anchor) in found.items():
        wide = 6.3 * len(name)
        assert x - wide * (anchor == "end") >= 0
        assert x + wide * (anchor == "start") <= 460
