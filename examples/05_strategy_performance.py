"""Running figures of several strategies, kept by whoever books a trade.

Figures of a trade are changed together with the trade, in one transaction: no reader sees a count without its sum,
and a process that dies has booked both or neither. Four threads write to the same figures; `if_version` makes each of
them build on what is there, and try again if another was faster.

    python examples/05_strategy_performance.py [DIRECTORY]

Prints::

    strategy          trades    mean  deviation   worst
    momentum_stats       150    2.56       9.96  -26.28
    carry_stats          150    1.28      10.55  -30.08
    reversal_stats       150   -1.07       9.62  -23.79
    as numpy has it: 2.56 9.96
"""

import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor

import msgspec
import numpy as np

import ntmem


class Figures(msgspec.Struct, frozen=True):
    """Count, mean and sum of squares about it (Welford), best and worst."""

    trades: int = 0
    mean: float = 0.0
    squares: float = 0.0
    worst: float = 0.0

    def with_trade(self, pnl: float) -> "Figures":
        trades = self.trades + 1
        mean = self.mean + (pnl - self.mean) / trades
        return Figures(trades, mean, self.squares + (pnl - self.mean) * (pnl - mean), min(self.worst, pnl))

    @property
    def deviation(self) -> float:
        return (self.squares / max(self.trades - 1, 1)) ** 0.5


def book(memory: ntmem.MemorySystem, strategy: str, trade_id: str, pnl: float) -> None:
    """Keep a trade and change the figures of its strategy, both or neither; a trade that is known changes nothing."""
    key = f"{strategy}_stats"
    while not memory.exists(("strategies", "trades", strategy), trade_id):
        record = memory.get_record("strategies", key)
        figures = Figures() if record is None else msgspec.msgpack.decode(record.value, type=Figures)
        changed = msgspec.msgpack.encode(figures.with_trade(pnl))
        try:
            with memory.transaction() as t:
                t.put("strategies", key, changed, if_version=0 if record is None else record.version)
                t.put(("strategies", "trades", strategy), trade_id, repr(pnl).encode(), if_version=0)
            return
        except ntmem.VersionConflict:
            continue  # another thread has booked since: again, on what it left


def main(directory: str) -> None:
    chance = np.random.default_rng(3)
    trades = [
        (strategy, f"{number:04}", round(float(chance.normal(edge, 10)), 2))
        for number in range(150)
        for strategy, edge in (("momentum", 2.0), ("carry", 0.5), ("reversal", -1.0))
    ]
    with ntmem.open(directory) as memory, ThreadPoolExecutor(4) as threads:
        list(threads.map(lambda trade: book(memory, *trade), trades + trades[:100]))  # some are delivered twice
        found = {key: msgspec.msgpack.decode(value, type=Figures) for key, value in memory.scan("strategies")}
        print(f"{'strategy':16}{'trades':>8}{'mean':>8}{'deviation':>11}{'worst':>8}")
        for key, of in sorted(found.items(), key=lambda each: -each[1].mean):
            print(f"{key:16}{of.trades:8}{of.mean:8.2f}{of.deviation:11.2f}{of.worst:8.2f}")
        momentum = [pnl for strategy, _, pnl in trades if strategy == "momentum"]
        print("as numpy has it:", f"{np.mean(momentum):.2f} {np.std(momentum, ddof=1):.2f}")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as scratch:
        main(sys.argv[1] if len(sys.argv) > 1 else scratch)
