"""An order at a broker: what was expected, what the broker reported, and what came of it.

Each step of the order is in the store when the call returns, so a process that dies in the middle knows on its next
start what it waits for (`pending`). Brokers deliver reports twice; a fill counts once by its trade id. At the end the
execution is judged, and the book is compared with what the broker says.

    python examples/03_broker.py [DIRECTORY]

Prints::

    accepted
    partial   f-1 booked: True, held: 0.8
    partial   f-1 booked: False, held: 0.8
    filled    f-2 booked: True, held: 2.0
    expected 61801.00, paid 61801.98: correct
    still open: []
    the broker agrees: True
"""

import sys
import tempfile

import ntmem

SECOND = 10**9
REPORTS = [  # as they came: the second one was delivered twice
    {"status": "accepted"},
    {"status": "partial", "trade_id": "f-1", "quantity": "0.8", "price": "61800.3"},
    {"status": "partial", "trade_id": "f-1", "quantity": "0.8", "price": "61800.3"},
    {"status": "filled", "trade_id": "f-2", "quantity": "1.2", "price": "61803.1"},
]


def send_order(memory: ntmem.MemorySystem) -> None:
    """Write down what is going to be done, and what is expected of it, before it is done."""
    order = ntmem.Trajectory("broker_agent", "execute")
    order.add_observation({"bid": 61800.1, "ask": 61800.2, "depth": 14.5})
    order.add_action("buy", {"quantity": "2"}, predicted_outcome=61801.0, reference=61800.2, horizon=30)
    memory.track_trajectory(order)


def follow(memory: ntmem.MemorySystem, clock: ntmem.SimulatedClock) -> None:
    """Book what the broker reports."""
    p = memory.positions
    for report in REPORTS:
        clock.set(clock.now() + SECOND)
        if "trade_id" in report:
            fill = p.apply_fill(
                "BTCUSDT", report["quantity"], report["price"], side="buy", trade_id=report["trade_id"], account="main"
            )
            print(f"{report['status']:9} {report['trade_id']} booked: {fill.applied}, held: {fill.position.quantity}")
        else:
            print(report["status"])


def main(directory: str) -> None:
    clock = ntmem.SimulatedClock(1_700_000_000 * SECOND)
    with ntmem.open(directory, clock=clock, agent_id="broker_agent") as memory:
        send_order(memory)
        follow(memory, clock)

    with ntmem.open(directory, clock=clock, agent_id="broker_agent") as memory:  # started again: what is open?
        bank, p = memory.bank, memory.positions
        for open_order in bank.pending(agent_id="broker_agent"):
            held = p.get("BTCUSDT", account="main")
            bank.resolve(open_order.trajectory_id, held.average_price)
            verdict = bank.judge(open_order.trajectory_id, judge=ntmem.RelativeErrorJudge())
            expected = open_order.action.predicted_outcome
            print(f"expected {expected:.2f}, paid {held.average_price:.2f}: {verdict.verdict.value}")
        print("still open:", bank.pending(agent_id="broker_agent"))
        report = p.reconcile({"BTCUSDT": "2"}, account="main")
        print("the broker agrees:", report.ok)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as scratch:
        main(sys.argv[1] if len(sys.argv) > 1 else scratch)
