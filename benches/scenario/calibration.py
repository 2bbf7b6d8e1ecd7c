"""Whether verdicts deserve the confidence they have: judged by the bank on markets whose expectations are known.

``python benches/scenario/calibration.py [--seeds 10] [--plot FILE.png]`` prints a table in Markdown. A k-NN agent
decides and says what it expects, one trajectory a decision; an outcome becomes known minutes later, and then the
trajectory is judged by :class:`ntmem.ScaledJudge`. A verdict is right if the judge would say the same of what the
action earns in the mean, which only the market knows; the same, that is on which side of ``CORRECT`` it is.

The judge's settings are round numbers that suited the seeds 0 to 3; those of the table are the last for training.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any, NamedTuple

import market as markets
import numpy as np
from agents import NearestNeighbours
from market import ACTIONS, LEVELS, Market
from msgspec.structs import replace
from yardstick import TRAINING, agent_of, play

import ntmem
from ntmem import CalibrationReport, ScaledJudge, Verdict
from ntmem.reasoningbank import Case, Pair, calibrate

CHOSEN_ON = 4
"""So many of the first seeds are not for the table."""


class Expecting(NearestNeighbours):
    """k-NN that says what it expects: the mean reward of its action among the neighbours, 0 if there was none."""

    def __init__(self, *args: Any, **settings: Any):
        super().__init__(*args, **settings)
        self.expected: list[float] = []

    def decide(self, situation: Any, now: int) -> int:
        action = super().decide(situation, now)
        counts, sums = self.neighbours(situation)
        self.expected.append(float(sums[action] / max(counts[action], 1)))
        return action


class Judged(NamedTuple):
    """Verdicts, by trajectory: how sure the judge was, and whether it was right."""

    confidence: list[float]
    right: list[bool]

    def report(self) -> CalibrationReport:
        return calibrate(self.confidence, self.right)


def judged(market: Market, judge: ScaledJudge, decisions: int = markets.DECISIONS) -> Judged:
    """Let an agent decide, and a bank judge it as outcomes become known."""
    agent = agent_of(Expecting, market)
    taken, rewards = play(agent, market)
    found, waiting = Judged([], []), dict[int, str]()
    order = np.argsort(market.ts_known[:decisions], kind="stable").tolist()
    known = 0
    with ntmem.open() as memory:
        bank = memory.bank
        for decision in taken[:decisions]:
            while market.ts_known[order[known]] <= decision.ts:
                number = order[known]
                known += 1
                name, then = waiting.pop(number), int(market.ts_known[number])
                bank.resolve(name, float(rewards[number]), ts_known=then)
                trajectory = memory.trajectories.get(name)
                assert trajectory is not None
                case = bank.case(trajectory)
                [pair] = case.pairs
                mean = float(market.expected[number, taken[number].action])
                result = judge(case)
                found.confidence.append(result.confidence)
                found.right.append(_side(result.verdict) == _side(judge(_instead(case, pair, mean)).verdict))
            then = decision.ts
            trajectory = bank.begin("k-NN", "yardstick", ts_event=then, ts_known=then)
            name, expected = ACTIONS[decision.action], agent.expected[decision.number]
            trajectory.add_action(name, None, expected, ts_event=then, ts_known=then)
            waiting[decision.number] = trajectory.id
    return found


def _side(verdict: Verdict) -> bool:
    return verdict is Verdict.CORRECT


def _instead(case: Case, pair: Pair, value: float) -> Case:
    return replace(case, pairs=(replace(pair, outcome=replace(pair.outcome, value=value)),))


def merged(parts: list[Judged]) -> Judged:
    """Return the verdicts of several markets as one."""
    return Judged(*([one for part in each for one in part] for each in zip(*parts, strict=True)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=10, help="how many of the last ones for training")
    parser.add_argument("--plot", type=Path, metavar="FILE.png")
    arguments = parser.parse_args()
    if not 0 < arguments.seeds <= len(TRAINING) - CHOSEN_ON:
        parser.error(f"there are {len(TRAINING) - CHOSEN_ON} seeds, {arguments.seeds} were asked for")
    print("| level | verdicts | right | Brier | expected calibration error |\n|---|---|---|---|---|")
    every = []
    for level in LEVELS:
        every.append(
            merged([judged(markets.make(seed, level), ScaledJudge()) for seed in TRAINING[-arguments.seeds :]])
        )
        _print_row(level, every[-1])
    total = merged(every)
    _print_row("all", total)
    if arguments.plot:
        total.report().plot().figure.savefig(arguments.plot, dpi=90)


def _print_row(name: str, found: Judged) -> None:
    report, right = found.report(), np.mean(found.right)
    error = report.expected_calibration_error
    print(f"| {name} | {report.count:,} | {right:.3f} | {report.brier:.4f} | {error:.4f} |", flush=True)


if __name__ == "__main__":
    main()
