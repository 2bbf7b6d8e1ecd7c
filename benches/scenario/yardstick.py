"""Decisions with and without memory: how much regret agents gather on the market of market.py.

``python benches/scenario/yardstick.py`` prints tables in Markdown. Agents are names of `AGENTS`, or `module:Class` for
any other (a module beside this one, in the working directory, or installed). docs/design/yardstick.md says what is
measured.

Seeds are those of `TRAINING`, which everybody may look at. ``--judge`` takes others, for judging only: who tunes
anything on them has spoilt them. The baselines want MABWiser.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib
import json
import os
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import market as markets
import numpy as np
from agents import Decision
from market import ACTIONS, DIMENSIONS, LEVELS, Market

Array = np.ndarray[Any, Any]

TRAINING = tuple(range(20))
BASELINES = {"k-NN": "agents:NearestNeighbours", "LinUCB": "agents:LinUCB", "LinTS": "agents:LinTS"}
AGENTS = {
    "no memory": "agents:NoMemory",
    "hold": "agents:AlwaysHold",
    **BASELINES,
    "clusters": "bounds:Clusters",
    "looks": "bounds:Looks",
    "rules": "bounds:Rules",
}
WINDOW = 100
"""Decisions over which regret is averaged to see whether an agent has recovered."""
BEFORE, AFTER = 500, 400
"""Decisions before the change that say what was reached, and after the recovery that confirm it."""
REGAINED = 0.8
"""Share of the lead over no memory that is to be won back."""
RESAMPLES = 2000


def judging(count: int = 20) -> tuple[int, ...]:
    """Return seeds that are for judging only."""
    texts = (f"ntmem yardstick, for judging only: {number}" for number in range(count))
    return tuple(int.from_bytes(hashlib.sha256(text.encode()).digest()[:6]) for text in texts)


class Run(NamedTuple):
    """An agent at a level. Regrets are (seeds, decisions)."""

    agent: str
    level: str
    regrets: Array
    random: Array  # what the mean of all actions regrets: no memory, but for its luck
    seconds: float  # of one seed, in the mean


class Estimate(NamedTuple):
    """A mean over seeds, and what it lies between with 95 %."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.3f} ({self.low:.3f} to {self.high:.3f})"


# --- playing ------------------------------------------------------------------------------------


def agent_class(name: str) -> type[Any]:
    """Return the class that a name of `AGENTS`, or ``module:Class``, means."""
    module, colon, attribute = AGENTS.get(name, name).partition(":")
    if not colon:
        raise SystemExit(f"{name} is neither module:Class nor one of {', '.join(AGENTS)}")
    found: type[Any] = getattr(importlib.import_module(module), attribute)
    return found


def agent_of(kind: type[Any], market: Market, **settings: Any) -> Any:
    """Return a fresh agent. Its seed is another one than the market's, but follows from it."""
    seed = int.from_bytes(hashlib.sha256(f"agent {market.seed}".encode()).digest()[:4])
    told = importlib.import_module("bounds").Told
    if issubclass(kind, told):
        return kind(market, seed, **settings)
    return kind(ACTIONS, DIMENSIONS, seed, **settings)


def play(agent: Any, market: Market) -> tuple[list[Decision], Array]:
    """Let an agent decide all of a market. Return its decisions, and their rewards, float64 (n,).

    Before each decision it is told the outcomes that are known by then, in the order of `ts_known`. It gets copies, so
    no array leads to the market's.
    """
    coming = np.argsort(market.ts_known, kind="stable").tolist()
    taken: list[Decision] = []
    due, count = 0, len(market.ts)
    for number in range(count):
        now = int(market.ts[number])
        while market.ts_known[coming[due]] <= now:
            past = taken[coming[due]]
            agent.learn(past, float(market.rewards[past.number, past.action]), now)
            due += 1
        situation = market.situations[number].copy()
        situation.flags.writeable = False
        action = agent.decide(situation, now)
        taken.append(Decision(number, now, int(market.ts_known[number]), situation, action))
    if hasattr(agent, "close"):
        agent.close()
    return taken, market.rewards[np.arange(count), [decision.action for decision in taken]]


def run(name: str, level: str, seeds: Iterable[int], **settings: Any) -> Run:
    """Let an agent play the markets of some seeds."""
    kind, regrets, random = agent_class(name), [], []
    began = time.perf_counter()
    for seed in seeds:
        market = markets.make(seed, level)
        taken, _ = play(agent_of(kind, market, **settings), market)
        regrets.append(market.regrets[np.arange(len(taken)), [decision.action for decision in taken]])
        random.append(market.regrets.mean(axis=1))
    seconds = (time.perf_counter() - began) / len(regrets)
    return Run(name, level, np.array(regrets), np.array(random), seconds)


# --- measures -----------------------------------------------------------------------------------


def resampled(seeds: int) -> Array:
    """Return numbers of seeds drawn with replacement, (`RESAMPLES`, seeds); the same ones for every agent."""
    return np.random.default_rng(384).integers(0, seeds, (RESAMPLES, seeds))


def estimate(value: Callable[[Array], float], seeds: int) -> Estimate:
    """Return a value of all seeds with its bootstrap interval (Efron 1979, percentiles).

    It is given numbers of seeds, some of them more than once.
    """
    values = [value(numbers) for numbers in resampled(seeds)]
    low, high = np.quantile(values, [0.025, 0.975], method="inverted_cdf")  # no means: a value may be infinite
    return Estimate(value(np.arange(seeds)), float(low), float(high))


def ratio(one: Run, decisions: int | None = None) -> Estimate:
    """Return the cumulative regret after so many decisions to that of no memory."""
    mine, other = (part[:, :decisions].sum(axis=1) for part in (one.regrets, one.random))
    return estimate(lambda numbers: mine[numbers].sum() / other[numbers].sum(), len(mine))


def lead(one: Run, other: Run) -> Estimate:
    """Return by how much the ratio of one agent is above another's, seed by seed: below 0 it is better."""
    difference = (one.regrets - other.regrets).sum(axis=1)
    random = one.random.sum(axis=1)
    return estimate(lambda numbers: difference[numbers].sum() / random[numbers].sum(), len(random))


def reached(one: Run, change: int = markets.CHANGE) -> float:
    """Return the regret to that of no memory over the last decisions before the change."""
    last = slice(change - BEFORE, change)
    return float(one.regrets[:, last].sum() / one.random[:, last].sum())


def recovery(one: Run, change: int = markets.CHANGE) -> Estimate:
    """Return after how many decisions from the change an agent is what it was, infinite if it never is.

    With b its regret to that of no memory before the change, it has recovered when, in the mean of all seeds, the last
    `WINDOW` decisions are at or below b + (1 - `REGAINED`) (1 - b), and so are the `AFTER` that follow together.
    """
    first = change - BEFORE
    mine, other = (np.cumsum(part[:, first:], axis=1) for part in (one.regrets, one.random))

    def decisions(numbers: Array) -> float:
        sums = np.stack([mine[numbers].sum(axis=0), other[numbers].sum(axis=0)])
        before = np.divide(*sums[:, BEFORE - 1])
        limit = before + (1 - REGAINED) * (1 - before)
        ends = np.arange(BEFORE + WINDOW - 1, sums.shape[1] - AFTER)
        last = np.divide(*(sums[:, ends] - sums[:, ends - WINDOW]))
        following = np.divide(*(sums[:, ends + AFTER] - sums[:, ends]))
        found = np.flatnonzero((last <= limit) & (following <= limit))
        return float(ends[found[0]] + 1 - BEFORE) if len(found) else np.inf

    return estimate(decisions, len(mine))


def curve(one: Run, every: int = 50) -> tuple[Array, Array, Array, Array]:
    """Return numbers of decisions, and the mean cumulative regret and its interval after so many."""
    ends = np.arange(every, one.regrets.shape[1] + 1, every)
    sums = np.cumsum(one.regrets, axis=1)[:, ends - 1]
    means = sums[resampled(len(sums))].mean(axis=1)
    low, high = np.quantile(means, [0.025, 0.975], axis=0)
    return ends, sums.mean(axis=0), low, high


# --- discoveries --------------------------------------------------------------------------------


class History(NamedTuple):
    """What somebody who acted at random has seen, by decision."""

    ts: Array  # int64 (n,)
    ts_known: Array  # int64 (n,)
    situations: Array  # float64 (n, 16)
    actions: Array  # int64 (n,)
    rewards: Array  # float64 (n,)


class Discoveries(NamedTuple):
    counts: tuple[int, ...]  # patterns that were found, by seed

    @property
    def rate(self) -> Estimate:
        """Share of the seeds with any pattern, and its interval by Wilson (1927)."""
        seeds, share, z = len(self.counts), float(np.mean(np.array(self.counts) > 0)), 1.96
        middle = (share + z**2 / (2 * seeds)) / (1 + z**2 / seeds)
        reach = z * np.sqrt(share * (1 - share) / seeds + z**2 / (4 * seeds**2)) / (1 + z**2 / seeds)
        return Estimate(share, max(middle - reach, 0.0), min(middle + reach, 1.0))


def history(market: Market) -> History:
    """Return what a random agent sees of a market."""
    taken, rewards = play(agent_of(agent_class("no memory"), market), market)
    actions = np.array([decision.action for decision in taken])
    return History(market.ts, market.ts_known, market.situations.copy(), actions, rewards)


def discoveries(
    discover: Callable[[History], Sequence[Any]],
    level: str = "usual",
    seeds: Iterable[int] = range(100),
    twin: bool = True,
) -> Discoveries:
    """Count the patterns that a function finds in the shuffled twins of markets, where there are none.

    A pattern is anything that says of situations which action is better or worse in them. With `twin=False` the markets
    are as they are: whoever finds nothing there has found nothing false either, so ask for both.
    """
    found = []
    for seed in seeds:
        market = markets.make(seed, level)
        found.append(len(discover(history(markets.shuffle(market) if twin else market))))
    return Discoveries(tuple(found))


# --- tables and pictures ------------------------------------------------------------------------


def decisions_text(value: float) -> str:
    return "never" if np.isinf(value) else f"{value:.0f}"


def recovery_text(one: Run) -> str:
    found = recovery(one)
    if reached(one) > 0.95:
        return "nothing to regain"
    return f"{decisions_text(found.value)} ({decisions_text(found.low)} to {decisions_text(found.high)})"


def print_table(level: str, runs: Sequence[Run]) -> None:
    """Print what the agents did at a level."""
    rivals = {one.agent: one for one in runs if one.agent in BASELINES}
    best = min(rivals.values(), key=lambda one: ratio(one).value, default=None)
    beside = f"to {best.agent}, seed by seed" if best else ""
    print(f"\n{level}, {len(runs[0].regrets)} seeds\n")
    print(f"| agent | regret to no memory | in the last {BEFORE} before the change | recovered after | {beside} | s |")
    print("|---|---|---|---|---|---|")
    for one in runs:
        difference = "" if best is None or best is one else str(lead(one, best))
        cells = (one.agent, ratio(one), f"{reached(one):.3f}", recovery_text(one), difference, f"{one.seconds:.1f}")
        print("| " + " | ".join(map(str, cells)) + " |", flush=True)


def draw(runs: Sequence[Run], path: Path) -> None:
    """Draw the curves of cumulative regret with their intervals, a field for each level. It wants matplotlib."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib.figure import Figure

    levels = list(dict.fromkeys(one.level for one in runs))
    names = list(dict.fromkeys(one.agent for one in runs))
    figure = Figure(figsize=(4 * len(levels), 3.6), layout="constrained")
    for axes, level in zip(np.atleast_1d(figure.subplots(1, len(levels), sharey=True)), levels, strict=True):
        for one in (one for one in runs if one.level == level):
            ends, mean, low, high = curve(one)
            colour = f"C{names.index(one.agent)}"
            axes.plot(ends, mean, color=colour, linewidth=1.2, label=one.agent)
            axes.fill_between(ends, low, high, color=colour, alpha=0.2, linewidth=0)
        axes.axvline(markets.CHANGE, color="black", linewidth=0.6, linestyle=":")
        axes.set_title(level, fontsize=10)
        axes.set_xlabel("decisions")
        axes.grid(alpha=0.3)
    figure.axes[0].set_ylabel("cumulative regret")
    figure.axes[0].legend(frameon=False, fontsize=8)
    figure.savefig(path, dpi=90)


def as_json(runs: Sequence[Run]) -> list[dict[str, Any]]:
    """Return what was measured as plain objects. Infinite is null."""
    rows = []
    for one in runs:
        ends, mean, low, high = (part.tolist() for part in curve(one))
        found = [None if np.isinf(value) else value for value in recovery(one)]
        sums = one.regrets.sum(axis=1) / one.random.sum(axis=1)
        row = {"agent": one.agent, "level": one.level, "ratio": ratio(one), "ratios": sums.tolist(), "recovery": found}
        rows.append(row | {"decisions": ends, "regret": mean, "low": low, "high": high, "seconds": one.seconds})
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=20, help="how many of them")
    parser.add_argument("--levels", default=",".join(LEVELS))
    parser.add_argument("--agents", default=",".join(AGENTS), help="names, or module:Class")
    parser.add_argument("--judge", action="store_true", help="seeds that are for judging only")
    parser.add_argument("--plot", type=Path, metavar="FILE.png")
    parser.add_argument("--json", type=Path, metavar="FILE")
    arguments = parser.parse_args()
    if not arguments.judge and arguments.seeds > len(TRAINING):
        parser.error(f"there are {len(TRAINING)} seeds for training, {arguments.seeds} were asked for")
    seeds = judging(arguments.seeds) if arguments.judge else TRAINING[: arguments.seeds]
    sys.path.append(os.getcwd())
    runs: list[Run] = []
    for level in arguments.levels.split(","):
        runs += [run(name, level, seeds) for name in arguments.agents.split(",")]
        print_table(level, [one for one in runs if one.level == level])
    if arguments.plot:
        draw(runs, arguments.plot)
    if arguments.json:
        arguments.json.write_text(json.dumps(as_json(runs)))


if __name__ == "__main__":
    main()
