"""State of several markets, changed by several processes under one lock.

Each venue's process reads the shared state, adds its own and writes it back, so two at a time would lose one's
change. The lock is a lease: should its holder die or be late, another goes on after it, and what the late one writes
then is refused by its fence.

    python examples/07_multi_market.py [DIRECTORY]

Prints::

    3 processes, 150 updates, none lost
    buy on binance, sell on coinbase: 3.8 apart
    the next holder's fence is higher: True
    the late write is refused
    released again by its token: False
"""

import multiprocessing
import sys
import tempfile

import ntmem

QUOTES = {"binance": (61_800.1, 61_800.2), "coinbase": (61_804.0, 61_806.5), "kraken": (61_799.0, 61_802.0)}
UPDATES = 50


def feed(memory: ntmem.MemorySystem, venue: str) -> None:
    """One venue's process: the store that came as an argument was opened again here."""
    with memory:
        markets = memory.namespace("markets")
        for number in range(UPDATES):
            with memory.lock("market_sync", timeout=10, ttl=5) as lock:
                state = markets.get("BTC", {"updates": 0, "quotes": {}})
                bid, ask = QUOTES[venue]
                state["quotes"][venue] = {"bid": bid + number, "ask": ask + number}
                state["updates"] += 1
                markets.put("BTC", state, fence=lock)


def main(directory: str) -> None:
    with ntmem.open(directory) as memory:
        spawn = multiprocessing.get_context("spawn")
        feeds = [spawn.Process(target=feed, args=(memory, venue)) for venue in QUOTES]
        for process in feeds:
            process.start()
        for process in feeds:
            process.join()
        state = memory.namespace("markets")["BTC"]
        print(f"{len(feeds)} processes, {state['updates']} updates, none lost")
        highest = max(state["quotes"], key=lambda venue: state["quotes"][venue]["bid"])
        lowest = min(state["quotes"], key=lambda venue: state["quotes"][venue]["ask"])
        edge = state["quotes"][highest]["bid"] - state["quotes"][lowest]["ask"]
        print(f"buy on {lowest}, sell on {highest}: {edge:.1f} apart")

        late = memory.acquire_lock("market_sync", timeout=1, ttl=0.05)  # a holder that is stopped for longer
        with memory.lock("market_sync", timeout=5) as lock:  # granted when that lease is over
            print("the next holder's fence is higher:", lock.fence.number > late.fence.number)
            try:
                memory.namespace("markets").put("BTC", {"quotes": {}}, fence=late)
            except ntmem.StaleFence:
                print("the late write is refused")
        print("released again by its token:", memory.release_lock(late))


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as scratch:
        main(sys.argv[1] if len(sys.argv) > 1 else scratch)
