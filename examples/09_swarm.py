"""Work for a swarm: tasks are handed out as messages, and a worker that dies loses none.

Durable messages are in the store before `publish` returns. A worker receives them under a name; what it has not
acknowledged when it dies comes again to the next one of that name: at least once. Writing a result with `add` makes
of that exactly once. Prices are ordinary messages: who is slow gets the newest one and is told how many it missed.

    python examples/09_swarm.py [DIRECTORY]

Prints::

    first worker ended with -9
    done by then: 3
    second worker ended with 0
    6 of 6 tasks done, sum 55
    came twice: 1
    newest price 61899.9, 999 missed before it
"""

import multiprocessing
import os
import signal
import sys
import tempfile

import ntmem


def work(memory: ntmem.MemorySystem, dies_at: int) -> None:
    """A worker's process. When it is killed nothing is tidied up."""
    with memory, memory.subscribe("swarm/tasks/>", durable="workers") as tasks:
        while (task := tasks.recv(timeout=0)) is not None:
            result = str(int(task.payload) ** 2).encode()
            if not memory.add(("swarm", "results"), task.topic, result):
                memory.incr("swarm", "came twice")
            if task.seq == dies_at:
                os.kill(os.getpid(), signal.SIGKILL)  # has done it, has not said so
            tasks.ack(task)


def run(memory: ntmem.MemorySystem, dies_at: int) -> int | None:
    process = multiprocessing.get_context("spawn").Process(target=work, args=(memory, dies_at))
    process.start()
    process.join()
    return process.exitcode


def main(directory: str) -> None:
    with ntmem.open(directory) as memory:
        for number in range(6):
            last = memory.publish(f"swarm/tasks/{number}", str(number).encode(), durable=True)
        print("first worker ended with", run(memory, dies_at=last - 3))
        print("done by then:", sum(1 for _ in memory.scan("swarm/results")))
        print("second worker ended with", run(memory, dies_at=0))
        results = dict(memory.scan("swarm/results"))
        print(f"{len(results)} of 6 tasks done, sum {sum(map(int, results.values()))}")
        print("came twice:", int(memory.get("swarm", "came twice")))

        with memory.subscribe("px/*", capacity=1) as prices:
            for tick in range(1000):
                memory.publish("px/BTCUSDT", f"{61_800 + tick / 10:.1f}".encode())
            newest = prices.recv(timeout=1)
            print(f"newest price {newest.payload.decode()}, {newest.lagged} missed before it")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as scratch:
        main(sys.argv[1] if len(sys.argv) > 1 else scratch)
