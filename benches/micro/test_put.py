"""The facade on the log, flusher running: what an acknowledged put costs, what a durable one, what a get."""

import statistics
import time

import pytest

import ntmem

VALUE = b"v" * 64
KEYS = [f"key-{number}" for number in range(1000)]
IN_FLIGHT = 128
PAUSE = 0.002  # between batches: half a million puts a second, which the flusher keeps up with on one shared core


@pytest.fixture
def memory(tmp_path):
    with ntmem.open(tmp_path / "store", engine="shared") as memory:
        memory.put_many("desk", dict.fromkeys(KEYS, VALUE))
        yield memory


def test_put_to_dict_store(ratio_to, benchmark, memory):
    """Also the percentiles of the native part, timed one by one."""
    store = {}

    def ours():
        for key in KEYS:
            memory.put("desk", key, VALUE)

    def theirs():
        for key in KEYS:
            store[f"desk/{key}"] = VALUE

    native, batches = [], []
    for _ in range(300):
        native += memory._engine().direct.time_puts("desk", KEYS, VALUE)
        time.sleep(PAUSE)
        start = time.perf_counter_ns()
        ours()
        batches.append((time.perf_counter_ns() - start) / len(KEYS))
        time.sleep(PAUSE)
    native.sort()
    for name, share in (("p50", 0.5), ("p99", 0.99), ("p99.9", 0.999)):
        benchmark.extra_info[f"native {name} ns"] = native[int(len(native) * share)]
    benchmark.extra_info["native mean ns"] = statistics.mean(native)
    benchmark.extra_info["mean ns of 300 batches"] = statistics.mean(batches)
    print(f"\nput of 64 bytes from Python, mean of batches: {statistics.mean(batches):.0f} ns")
    print("native part:", ", ".join(f"{name} {value:.0f}" for name, value in benchmark.extra_info.items()))
    ratio_to(ours, theirs, rounds=30, repeats=1)


def test_get_to_dict_get(ratio_to, memory):
    store = {f"desk/{key}": VALUE for key in KEYS}

    def ours():
        for key in KEYS:
            found = memory.get("desk", key)
        return found

    def theirs():
        for key in KEYS:
            found = store.get(f"desk/{key}")
        return found

    assert ratio_to(ours, theirs) == theirs()


def test_durable_one_by_one_to_many_in_flight(ratio_to, memory):
    def one_by_one():
        for key in KEYS[:IN_FLIGHT]:
            memory.put("desk", key, VALUE, durable=True)

    def in_flight():
        for key in KEYS[:IN_FLIGHT]:
            version = memory.put("desk", key, VALUE)
        memory.wait_durable(version)

    ratio_to(one_by_one, in_flight, rounds=20, repeats=1)
