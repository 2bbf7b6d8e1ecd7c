"""Metrics for Prometheus: what a scrape says, that it disturbs nobody, and the dashboard that is made of it."""

from __future__ import annotations

import json
import os
import re
import signal
import urllib.request
from pathlib import Path

import pytest
from click.testing import CliRunner
from hostile import Start
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

import ntmem
from ntmem.cli.commands import cli
from ntmem.gauges import GaugeReader
from ntmem.integrations.metrics import BOUNDS, NtmemCollector, _cumulative, dashboard, registry_of
from ntmem.tiers.operations import Operation
from ntmem.tiers.region import region_path

SERVER = """
import signal
from ntmem.cli import main
signal.signal(signal.SIGINT, signal.default_int_handler)
sys.argv = ["ntmem", "serve-metrics", "--port", "0", "--store", *sys.argv[1:]]
main()
"""


def scraped(registry: CollectorRegistry) -> dict[str, dict[tuple[tuple[str, str], ...], float]]:
    """Return the samples by name and labels, the store's left out."""
    found: dict[str, dict[tuple[tuple[str, str], ...], float]] = {}
    for family in text_string_to_metric_families(generate_latest(registry).decode()):
        for sample in family.samples:
            labels = tuple(sorted((k, v) for k, v in sample.labels.items() if k != "store"))
            found.setdefault(sample.name, {})[labels] = sample.value
    return found


def use(memory: ntmem.MemorySystem) -> None:
    for number in range(128):
        memory.put("desk", f"k{number}", b"v" * 100)
        memory.get("desk", f"k{number}")
    memory.get("desk", "none")
    memory.positions.apply_fill("BTC", 1, 2, trade_id="1")
    memory.publish("px/a", b"1")
    memory.agents.register("alice", ttl=60)
    memory.flush()


def test_a_scrape_says_what_was_done(store: Path) -> None:
    with ntmem.open(store, engine="shared") as memory, memory.lock("BTC"):
        use(memory)
        registry = registry_of(store)
        found = scraped(registry)
        stats = memory.stats()
        assert found["ntmem_up"] == {(): 1}
        assert found["ntmem_operations_total"][(("op", "put"),)] == stats.operations["put"]["count"]
        answers = {name: found[f"ntmem_{name}_total"][()] for name in ("hot_hits", "log_hits", "absent_reads")}
        assert answers == {"hot_hits": stats.l1_hits, "log_hits": stats.log_hits, "absent_reads": stats.absent_reads}
        assert found["ntmem_agents"][(("status", "alive"),)] == 1
        assert (found["ntmem_locks_held"][()], found["ntmem_positions_open"][()]) == (1, 1)
        assert (found["ntmem_messages_total"][()], found["ntmem_problems"][()]) == (1, 0)
        assert found["ntmem_flushed_bytes_total"][()] > 128 * 100
        assert found["ntmem_memory_bytes"][(("part", "hot"),)] == stats.l1_memory_bytes
        assert found["ntmem_file_bytes"][()] == os.path.getsize(store / "data.mdb")
        before = found["ntmem_operations_total"][(("op", "put"),)]
        memory.put("desk", "k", b"v")
        assert scraped(registry)["ntmem_operations_total"][(("op", "put"),)] == before + 1


def test_histograms_are_cumulative_and_end_where_the_count_is(store: Path) -> None:
    with ntmem.open(store, engine="shared") as memory:
        use(memory)
        operations = memory.gauges().operations
        found = scraped(registry_of(store))
        for name in ("apply_fill", "publish", "flush", "lock_wait"):
            buckets = {
                float(dict(labels)["le"]): count
                for labels, count in found["ntmem_operation_seconds_bucket"].items()
                if ("op", name) in labels
            }
            assert list(buckets.values()) == sorted(buckets.values())
            assert len(buckets) == len(BOUNDS) + 1
            count = found["ntmem_operation_seconds_count"][(("op", name),)]
            assert buckets[float("inf")] == count == operations[name].measured > 0
            for bound in BOUNDS:
                assert buckets[bound / 1e9] == sum(n for least, n in operations[name].buckets if least < bound)
            total = found["ntmem_operation_seconds_sum"][(("op", name),)]
            assert total == pytest.approx(operations[name].total / 1e9)


@pytest.mark.usefixtures("engine")
def test_a_store_of_this_process_and_a_private_one(tmp_path: Path) -> None:
    for path, said in ((tmp_path / "desk", str(tmp_path / "desk")), (None, "private")):
        registry = CollectorRegistry()
        with ntmem.open(path) as memory:
            memory.incr("desk", "n")
            registry.register(NtmemCollector(memory))
            labels = {"store": said, "op": "commit"}
            assert registry.get_sample_value("ntmem_operations_total", labels) >= 1
            assert registry.get_sample_value("ntmem_up", {"store": said}) == 1
        assert registry.get_sample_value("ntmem_up", {"store": said}) == 0  # closed: said, not raised
        assert registry.get_sample_value("ntmem_operations_total", labels) is None


def test_the_server_disturbs_nobody_and_outlives_them(store: Path, start: Start) -> None:
    server = start(SERVER, store)
    url = server.line()

    def up() -> float:
        with urllib.request.urlopen(url, timeout=30) as answer:
            families = text_string_to_metric_families(answer.read().decode())
        return next(family.samples[0].value for family in families if family.name == "ntmem_up")

    assert up() == 0
    for _ in range(2):
        with ntmem.open(store, engine="shared") as memory:
            memory.put("desk", "k", b"v")
            assert up() == 1
        assert not os.path.exists(region_path(str(store)))
        assert up() == 0
    for path in store.iterdir():
        path.unlink()
    store.rmdir()
    assert up() == 0  # not even a store
    server.signal(signal.SIGTERM)
    assert server.end() == ""


def test_the_verb(store: Path) -> None:
    run = CliRunner().invoke(cli, ["serve-metrics", "--dashboard", "--store", str(store / "none")])
    assert (run.exit_code, run.stdout) == (0, dashboard())
    assert CliRunner().invoke(cli, ["serve-metrics", "--store", str(store / "none")]).exit_code == 3
    run = CliRunner().invoke(cli, ["serve-metrics", "--host", "192.0.2.1", "--store", str(store)])
    assert run.exit_code == 1
    assert "cannot listen" in run.stderr


def test_the_dashboard_asks_for_nothing_that_there_is_not(store: Path) -> None:
    expressions = [target["expr"] for panel in json.loads(dashboard())["panels"] for target in panel.get("targets", [])]
    with ntmem.open(store, engine="shared") as memory, memory.lock("BTC"):
        use(memory)
        found = scraped(registry_of(store))
        named = {name for expression in expressions for name in re.findall(r"\bntmem_\w+", expression)}
        assert named <= found.keys()
        assert found.keys() - named <= {"ntmem_operation_seconds_count", "ntmem_operation_seconds_sum"}  # all is shown
        operations = {value for expression in expressions for value in re.findall(r'op!?="(\w+)"', expression)}
        assert operations <= {*memory.gauges().operations, "deliver", "lock_hold"}
    ids = [panel["id"] for panel in json.loads(dashboard())["panels"]]
    assert (
        len(set(ids))
        == len(ids)
        == len(expressions) - sum(len(p["targets"]) - 1 for p in json.loads(dashboard())["panels"])
    )


def test_a_bound_is_where_the_bucket_above_begins() -> None:
    found = dict(_cumulative(Operation(6, 0, ((56, 1), (64, 2), (112, 1), (128, 1), (1 << 36, 1)))))
    assert (found["6.4e-08"], found["1.28e-07"], found["2.56e-07"]) == (1, 4, 5)
    assert list(found.values())[-2:] == [5, 6]  # what took longer than the last bound is counted, too


def test_a_reader_says_that_there_is_no_store(tmp_path: Path) -> None:
    with pytest.raises(ntmem.StorageError, match="no store"):
        GaugeReader(tmp_path).read()
