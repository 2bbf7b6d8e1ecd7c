"""Outcomes of back-tests: which rules were tried, what came of them, and that none has seen the future.

The market is read as of each step, and bars are known when they are over. So the same tests on a store that already
has absurd prices of later give the same results, bit for bit; a test that peeks would not. Results are kept under the
fingerprint of what they were computed from.

    python examples/10_backtest_results.py [DIRECTORY]

Prints::

    test        trades    earned    worst
    mean-20         10   66.3 bp -13.1 bp
    mean-40          6   20.8 bp -13.1 bp
    mean-05         34   15.9 bp -13.1 bp
    a future that was written already changes nothing: True
"""

import hashlib
import sys
import tempfile

import numpy as np

import ntmem

MINUTE = 60 * 10**9
BARS, LONGEST = 160, 40


def backtest(memory: ntmem.MemorySystem, window: int) -> dict[str, float | int]:
    """Be long while the close is above its mean over `window` bars; returns are in basis points."""
    position, earned, trades, last = 0, [], 0, None
    for step in range(LONGEST, BARS + 1):
        closes = memory.observations.recent("bars/1m", "BTCUSDT", window, as_of=step * MINUTE)["close"]
        if last is not None:
            earned.append(position * (closes[-1] / last - 1) * 1e4)
        target, last = int(closes[-1] > closes.mean()), closes[-1]
        trades, position = trades + (target != position), target
    return {"window": window, "trades": trades, "earned_bp": float(np.sum(earned)), "worst_bp": float(np.min(earned))}


def main(directory: str) -> None:
    steps = np.random.default_rng(8).normal(0, 0.0006, BARS) + 0.0004 * np.sin(np.arange(BARS) / 15)
    bars = {"ts_event": np.arange(BARS) * MINUTE, "close": np.round(61_800 * np.exp(np.cumsum(steps)), 1)}
    with ntmem.open(directory, clock=ntmem.SimulatedClock(2 * BARS * MINUTE)) as memory:
        memory.observations.extend("bars/1m", "BTCUSDT", bars, known_after=60)
        data = hashlib.sha256(bars["close"].tobytes()).hexdigest()[:12]
        tests = memory.namespace("tests", "backtest_results", data)
        tests.update({f"mean-{window:02}": backtest(memory, window) for window in (5, 20, 40)})

        print(f"{'test':10}{'trades':>8}{'earned':>10}{'worst':>9}")
        for name, result in sorted(tests.items(), key=lambda each: -each[1]["earned_bp"]):
            print(f"{name:10}{result['trades']:8}{result['earned_bp']:7.1f} bp{result['worst_bp']:6.1f} bp")

        absurd = {"ts_event": np.arange(BARS) * MINUTE, "close": np.full(BARS, 1e9)}
        absurd["ts_known"] = np.full(BARS, (BARS + 1) * MINUTE)  # of the same minutes, known when the test is over
        memory.observations.extend("bars/1m", "BTCUSDT", absurd)
        again = {name: backtest(memory, result["window"]) for name, result in tests.items()}
        print("a future that was written already changes nothing:", again == dict(tests))


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as scratch:
        main(sys.argv[1] if len(sys.argv) > 1 else scratch)
