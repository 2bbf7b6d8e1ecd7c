"""Value at risk of what is held, computed by one agent and used by all, for as long as it is good.

Returns are observations, with the instant from which on each was known; the figure takes what was known at its own
time, and its history shows what the desk believed when. It ends by itself after an hour (`ttl`): a trader that finds
no figure does not trade. Room under the limit is reserved before an order goes out, so that two agents cannot use it
both.

    python examples/06_risk.py [DIRECTORY]

Prints::

    a trader finds b'2884'
      known from noon + 1.0 h: 2884
      known from noon + 0.5 h: 2835
      known from noon + 0.0 h: 2835
    an hour later None and does not trade
    refused: 'BTCUSDT': 2.00000000 is held, 1 reserved, 0.5 more would be 3.50000000; the limit is 3
    after release: 0.5
"""

import sys
import tempfile

import numpy as np

import ntmem

HOUR = 3600 * 10**9
NOON = 500 * HOUR


def value_at_risk(memory: ntmem.MemorySystem, prices: dict[str, float]) -> float:
    """99 % of hours lose less than this, by the last 400 hours that are known."""
    earned = np.zeros(400)
    for held in memory.positions.open_positions():
        returns = memory.observations.recent("returns/1h", held.symbol, 400, fields=["return"])["return"]
        earned += held.quantity * prices[held.symbol] * returns
    return float(-np.quantile(earned, 0.01))


def main(directory: str) -> None:
    chance, clock = np.random.default_rng(11), ntmem.SimulatedClock(NOON)
    prices = {"BTCUSDT": 61_800.3, "ETHUSDT": 2_405.1}
    with ntmem.open(directory, clock=clock, agent_id="risk") as memory:
        memory.retain("risk", history=True)
        opens = np.arange(505) * HOUR
        common = chance.standard_t(4, 505)
        for symbol, wild in (("BTCUSDT", 0.004), ("ETHUSDT", 0.006)):
            returns = wild * (0.8 * common + 0.6 * chance.standard_t(4, 505))
            returns[500] = -10 * wild  # of the hour after noon, so nobody knows it at noon
            memory.observations.extend("returns/1h", symbol, {"ts_event": opens, "return": returns}, known_after=3600)

        p = memory.positions
        p.apply_fill("BTCUSDT", 2, prices["BTCUSDT"], side="buy", trade_id="t1")
        p.apply_fill("ETHUSDT", 30, prices["ETHUSDT"], side="buy", trade_id="t1")
        for _ in range(3):
            figure = value_at_risk(memory, prices)
            memory.put("risk", "var_calculation", f"{figure:.0f}".encode(), ttl=3600)
            clock.set(clock.now() + HOUR // 2)
        print("a trader finds", memory.get("risk", "var_calculation"))
        for record in memory.history("risk", "var_calculation"):
            print(f"  known from noon + {(record.ts_known - NOON) / HOUR:.1f} h: {record.value.decode()}")
        clock.set(clock.now() + HOUR)
        print("an hour later", memory.get("risk", "var_calculation"), "and does not trade")

        first = p.reserve("BTCUSDT", 1, limit=3, owner="trend", ttl=60)
        try:
            p.reserve("BTCUSDT", "0.5", limit=3, owner="carry", ttl=60)
        except ntmem.LimitExceeded as error:
            print("refused:", error)
        p.release(first)
        print("after release:", p.reserve("BTCUSDT", "0.5", limit=3, owner="carry", ttl=60).quantity)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as scratch:
        main(sys.argv[1] if len(sys.argv) > 1 else scratch)
