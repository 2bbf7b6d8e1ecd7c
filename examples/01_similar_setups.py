"""Which situations of the past looked like this one, and what came of them?

Every four minutes a window of closes becomes a vector (`ntmem.MarketWindowEmbedder`: its shape, not its price) and is
kept with what the next five minutes earned. That was not known when the window ended, so it is written with the
instant at which it was: a search as of two o'clock finds only what had come true by two o'clock.

    python examples/01_similar_setups.py [DIRECTORY]

Prints::

    at 03:20 41 setups of 70 are known
    ended at  cosine  next 5 minutes
    01:20       0.97        +18.0 bp
    02:00       0.95        +28.3 bp
    00:40       0.91        +27.1 bp
    00:36       0.89        +19.7 bp
    of those that rose at their end: 01:20, 02:00
    4 of 4 rose, by +23.3 bp; now came +21.4 bp
"""

import sys
import tempfile

import numpy as np

import ntmem

MINUTE = 60 * 10**9
WINDOW, HORIZON = 32, 5
SETUPS = ("setups", "BTCUSDT")


def closes() -> np.ndarray:
    """A market that swings with a period of about 40 minutes, and noise."""
    chance = np.random.default_rng(5)
    swing = 0.004 * np.sin(np.arange(320) / 6.5)
    return np.round(61_800 * np.exp(swing + np.cumsum(chance.normal(0, 0.0003, 320))), 1)


def main(directory: str) -> None:
    prices, embedder = closes(), ntmem.MarketWindowEmbedder()
    with ntmem.open(directory, clock=ntmem.SimulatedClock(320 * MINUTE)) as memory:
        setups = memory.vectors
        for end in range(WINDOW, 312, 4):
            window = prices[end - WINDOW : end]
            earned = (prices[end - 1 + HORIZON] / prices[end - 1] - 1) * 1e4
            setups.add(
                SETUPS,
                f"{end // 60:02}:{end % 60:02}",
                embedder.embed(window),
                {"earned": round(float(earned), 1), "rising": bool(window[-1] > window[-4])},
                ts_event=end * MINUTE,
                ts_known=(end + HORIZON) * MINUTE,
            )

        now = 200
        query = embedder.embed(prices[now - WINDOW : now])
        known = setups.count(SETUPS, as_of=now * MINUTE)
        print(f"at 03:20 {known} setups of {setups.count(SETUPS)} are known")
        hits = setups.search(SETUPS, query, k=4, as_of=now * MINUTE)
        print("ended at  cosine  next 5 minutes")
        for hit in hits:
            print(f"{hit.id:8}{hit.score:8.2f}{hit.metadata['earned']:+13.1f} bp")
        rising = setups.search(SETUPS, query, k=2, as_of=now * MINUTE, where={"rising": True})
        print("of those that rose at their end:", ", ".join(hit.id for hit in rising))
        earned = [hit.metadata["earned"] for hit in hits]
        came = (prices[now - 1 + HORIZON] / prices[now - 1] - 1) * 1e4
        print(
            f"{sum(e > 0 for e in earned)} of {len(hits)} rose, by {np.mean(earned):+.1f} bp; now came {came:+.1f} bp"
        )


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as scratch:
        main(sys.argv[1] if len(sys.argv) > 1 else scratch)
