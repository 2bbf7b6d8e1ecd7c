"""Messages from process to process: how long they take, how many there can be, and against what else there is."""

import os
import signal
import time
from array import array
from contextlib import ExitStack

import pytest
from figures import percentile, untimed
from transports import END, WAYS, child, stamped

import ntmem

PACED = 4_000
HOT = 20_000
BULK_SECONDS = 10
BULK_RATE = 1_000_000
BATCH = 1_000
NEEDS = {"pyzmq ipc PUB/SUB": "zmq", "iceoryx2, polled": "iceoryx2"}


def note(benchmark, name, times, **more):
    benchmark.extra_info.update({f"p{share} us": round(percentile(times, share / 100) / 1e3, 1) for share in (50, 99)})
    benchmark.extra_info.update(more, load=round(os.getloadavg()[0], 1))
    untimed(benchmark)


def paced(send, count=PACED, rate=1_000):
    begun = time.monotonic()
    for number in range(count):
        time.sleep(max(0.0, begun + number / rate - time.monotonic()))
        send(stamped())
    send(END)


@pytest.mark.parametrize("way", WAYS)
def test_one_way_at_1000_a_second(benchmark, tmp_path, way):
    """The receiver waits."""
    pytest.importorskip(NEEDS.get(way, "ntmem"))
    with child("listen", way, tmp_path) as listener, WAYS[way](tmp_path, False) as (send, _):
        paced(send)
        times = array("q", listener.stdout.read())
    note(benchmark, f"one way, {way}", times, missed=PACED - len(times))


@pytest.mark.parametrize("way", WAYS)
def test_half_a_round_trip(benchmark, tmp_path, way):
    pytest.importorskip(NEEDS.get(way, "ntmem"))
    times = []
    with child("echo", way, tmp_path), WAYS[way](tmp_path, False) as (send, receive):
        for _ in range(HOT):
            begun = time.monotonic_ns()
            send(stamped())
            receive()
            times.append((time.monotonic_ns() - begun) / 2)
        send(END)
    note(benchmark, f"half a round trip, {way}", times)


@pytest.mark.parametrize("receivers", [1, 4, 16])
def test_fan_out(benchmark, tmp_path, receivers):
    """Delivery to all of them, at 200 a second."""
    with ExitStack() as stack:
        listeners = [stack.enter_context(child("listen", "ntmem", tmp_path)) for _ in range(receivers)]
        send, _ = stack.enter_context(WAYS["ntmem"](tmp_path, False))
        paced(send, 1_000, 200)
        times = [taken for listener in listeners for taken in array("q", listener.stdout.read())]
    assert len(times) == 1_000 * receivers
    note(benchmark, f"to {receivers} receivers", times)


def test_publish_beside_a_stopped_subscriber_to_nobody(ratio_to, tmp_path):
    """In turns, into two stores."""
    with ExitStack() as stack:
        alone, followed = (stack.enter_context(ntmem.open(tmp_path / name)) for name in ("alone", "followed/store"))
        stopped = stack.enter_context(child("drain", tmp_path / "followed"))
        stopped.send_signal(signal.SIGSTOP)

        def publishing(publish, payload=bytes(64)):
            def run():
                for _ in range(1_000):
                    publish("bulk", payload)

            return run

        ratio_to(publishing(followed.publish), publishing(alone.publish), calls=1_000)


def test_bulk(benchmark, tmp_path):
    """So many a second for seconds, in batches: what was received and what was missed is what was published."""
    with child("drain", tmp_path) as drain, ntmem.open(tmp_path / "store") as memory:
        payloads = [b"%020d%020d" % (number, number) + bytes(24) for number in range(BATCH)]
        begun, published = time.monotonic(), 0
        while (passed := time.monotonic() - begun) < BULK_SECONDS:
            if published < BULK_RATE * passed:
                memory.publish_many("bulk", payloads)
                published += BATCH
            else:
                time.sleep(0.0002)
        seconds = time.monotonic() - begun
        memory.publish("bulk", END)
        got, lagged, torn = map(int, drain.stdout.read().split())
    assert (got + lagged, torn) == (published, 0)
    benchmark.extra_info.update(
        {"published a second": round(published / seconds), "received a second": round(got / seconds), "missed": lagged}
    )
    untimed(benchmark)
