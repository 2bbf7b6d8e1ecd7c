"""From a put in one process to recv in another, against a pipe between them, in turns."""

import multiprocessing
import statistics
import time

import pytest

import ntmem

COUNT = 200
FORK = multiprocessing.get_context("fork")


def echo_changes(path, ready):
    with ntmem.open(path, engine="shared") as memory, memory.watch("there") as changes:
        ready.set()
        while (change := changes.recv()).key != "stop":
            memory.put("back", "k", change.value)


def echo_pipe(pipe):
    while message := pipe.recv_bytes():
        pipe.send_bytes(message)


def round_trips(send, receive):
    """Half of each round trip, in us."""
    times = []
    for number in range(COUNT):
        message = b"%064d" % number
        start = time.perf_counter_ns()
        send(message)
        assert receive() == message
        times.append((time.perf_counter_ns() - start) / 2e3)
        time.sleep(0.0005)  # the other one waits again
    return times


def start(function, *arguments):
    """Start a forked process, which is to open the store before this one does; a spawned one cannot import this."""
    process = FORK.Process(target=function, args=arguments, daemon=True)
    process.start()
    return process


@pytest.fixture
def partner(tmp_path):
    """Ways to a process that answers: through the store, and through a pipe."""
    ready = FORK.Event()
    own, other = FORK.Pipe()
    processes = [start(echo_changes, str(tmp_path), ready), start(echo_pipe, other)]
    assert ready.wait(30)
    with ntmem.open(tmp_path, engine="shared") as memory, memory.watch("back") as changes:
        yield (
            (lambda message: memory.put("there", "k", message), lambda: changes.recv(30).value),
            (own.send_bytes, own.recv_bytes),
        )
        memory.put("there", "stop", b"")
        own.send_bytes(b"")
        for process in processes:
            process.join(30)


def test_put_to_recv_to_a_pipe(benchmark, partner):
    store, pipe = partner
    round_trips(*store), round_trips(*pipe)
    ours, theirs = [], []
    for _ in range(5):
        ours += round_trips(*store)
        theirs += round_trips(*pipe)
    for name, times in (("watch", ours), ("pipe", theirs)):
        cuts = statistics.quantiles(times, n=100)
        benchmark.extra_info[f"{name}_us"] = {"p50": round(cuts[49], 1), "p99": round(cuts[98], 1)}
    benchmark.name += f" {benchmark.extra_info}"
    benchmark.pedantic(round_trips, store, rounds=1)


@pytest.mark.parametrize("beside", [False, True], ids=["alone", "beside_a_subscriber"])
def test_put_beside_a_subscriber_of_another_namespace(benchmark, tmp_path, beside):
    """What a waiting subscriber costs the writers of other namespaces."""
    if beside:
        ready = FORK.Event()
        process = start(echo_changes, str(tmp_path), ready)
        assert ready.wait(30)
    with ntmem.open(tmp_path, engine="shared") as memory:

        def puts():
            for _ in range(100_000):
                memory.put("noise", "k", b"v" * 64)

        benchmark.pedantic(puts, rounds=20)
        if beside:
            memory.put("there", "stop", b"")
            process.join(30)
