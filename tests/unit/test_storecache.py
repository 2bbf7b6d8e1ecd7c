"""``memory.cache``: one for all processes, and what it says of itself."""

from decimal import Decimal

import pytest
from hostile import Start

import ntmem

pytestmark = pytest.mark.usefixtures("engine")
shared = pytest.mark.only("shared")


def heat(memory, namespace, key, times=100):
    return [memory.get(namespace, key) for _ in range(times)][-1]


def test_values_of_its_own(ram):
    with ntmem.open(ram / "store") as memory:
        cache = memory.cache
        assert cache.get("k") is None
        assert cache.get("k", 7) == 7
        cache.put("k", b"v")
        cache.put("e", bytearray(b""))
        assert (cache.get("k"), cache.get("e"), len(cache)) == (b"v", b"", 2)
        cache.put("k", b"w")
        assert cache.get("k") == b"w"
        assert cache.delete("k")
        assert not cache.delete("k")
        assert cache.get("k") is None
        cache.clear()
        assert (cache.get("e"), len(cache)) == (None, 0)
        assert memory.cache is cache


def test_what_is_put_there_is_in_no_store(ram):
    with ntmem.open(ram / "store") as memory:
        memory.cache.put("k", b"v")
        assert memory.get("k", "k") is None
        assert memory.namespaces() == []
        assert memory.stats().l3_entries == 0


@pytest.mark.parametrize(
    ("key", "value", "error"), [(7, b"v", TypeError), ("k", "v", TypeError), ("", b"v", ValueError)]
)
def test_what_it_takes_is_text_and_bytes(ram, key, value, error):
    with ntmem.open(ram / "store") as memory, pytest.raises(error):
        memory.cache.put(key, value)


def test_a_life_of_its_own(ram):
    with ntmem.open(ram / "store") as memory:
        memory.cache.put("short", b"v", ttl=1e-9)
        memory.cache.put("long", b"v", ttl=1000)
        for _ in range(1000):  # the coarse clock ticks every 4 ms
            if memory.cache.get("short") is None:
                break
            ntmem.open().close()
        assert memory.cache.get("short") is None
        assert memory.cache.get("long") == b"v"


@shared
def test_every_process_sees_it(ram, start: Start):
    with ntmem.open(ram / "store") as memory:
        memory.cache.put("k", b"v")
        child = start(
            """
memory = ntmem.open(sys.argv[1])
say(memory.cache.get("k"))
memory.cache.put("k", b"of the child")
memory.cache.delete("gone")
""",
            ram / "store",
        )
        assert child.line() == "b'v'"
        child.end()
        assert memory.cache.get("k") == b"of the child"


@shared
def test_its_figures_are_those_of_the_store(ram):
    with ntmem.open(ram / "store") as memory:
        before = memory.cache.stats()
        assert (before.hit_rate, memory.cache.hit_rate(), memory.stats().l1_hit_rate) == (0, 0, 0)
        memory.put("desk", "k", b"v")
        heat(memory, "desk", "k")
        assert memory.get("desk", "absent") is None
        memory.get_many("desk", ["k", "absent"])
        stats, cache = memory.stats(), memory.cache.stats()
        assert (stats.l1_entries, stats.absent_reads, cache.entries) == (1, 2, 1)
        assert stats.l1_hits + stats.log_hits == cache.hits == 101
        assert stats.l1_hit_rate == cache.hit_rate == memory.cache.hit_rate() == pytest.approx(101 / 103)
        assert 0 < stats.l1_bytes < stats.l1_memory_bytes < stats.l1_max_bytes
        assert set(stats.get_ns) == {"p50", "p99", "p99.9"}
        assert 0 < stats.get_ns["p50"] <= stats.get_ns["p99.9"] < 1e9
        assert memory.cache.stats().to_dict()["evictions"] == dict.fromkeys(("entries", "bytes", "collision", "age"), 0)


@shared
def test_evictions_are_reported_with_their_cause(ram):
    told = []
    config = ntmem.CacheConfig(max_entries=10)
    with ntmem.open(ram / "store", cache_config=config) as memory:
        end = memory.cache.on_evict(lambda key, value, cause: told.append((key, value, cause)))
        for number in range(30):
            memory.cache.put(f"own {number}", b"%d" % number)
        memory.put("desk/fx", "k", b"v")
        heat(memory, "desk/fx", "k")
        for number in range(30, 60):
            memory.cache.put(f"own {number}", b"%d" % number)
        assert memory.cache.flush_evictions(60)
        assert sum(memory.stats().l1_evictions.values()) == len(told) >= 50
        assert {cause for _, _, cause in told} == {"entries"}
        own = [(key, value) for key, value, _ in told if isinstance(key, str)]
        assert all(key == f"own {value.decode()}" for key, value in own)
        assert {key for key, _, _ in told if not isinstance(key, str)} <= {(("desk", "fx"), "k")}
        assert len(memory.cache) <= 10
        end()


def test_memoize_keeps_results_for_all(ram):
    with ntmem.open(ram / "store") as memory:
        calls = []

        @memory.cache.memoize(ttl=60, name="spread", single_flight=True)
        def spread(symbol, *, depth=1):
            calls.append(symbol)
            return {"symbol": symbol, "spread": Decimal("0.5") * depth}

        assert spread("BTCUSDT") == spread("BTCUSDT", depth=1) == {"symbol": "BTCUSDT", "spread": Decimal("0.5")}
        assert spread("BTCUSDT", depth=2)["spread"] == 1
        assert calls == ["BTCUSDT", "BTCUSDT"]
        spread.cache_clear()
        spread("BTCUSDT")
        assert len(calls) == 3


def test_functions_that_a_name_does_not_tell_apart_need_another(ram):
    def scaled(factor):
        def price(x):
            return factor * x

        return price

    with ntmem.open(ram / "store") as memory:
        for face in (memory.cache, memory.namespace("results")):
            with pytest.raises(TypeError, match="name="):
                face.memoize(scaled(2))
            with pytest.raises(TypeError, match="name="):
                face.memoize([].append)
            assert face.memoize(name="twice")(scaled(2))(21) == 42
            assert face.memoize(name="thrice")(scaled(3))(21) == 63


def test_what_is_computed_from_what_was_forgotten_is_not_kept(ram):
    with ntmem.open(ram / "store") as memory:
        data = {"x": 1}

        @memory.cache.memoize(name="of data")
        def of_data(key):
            found = data[key]
            if found == 1:
                data[key] = 2
                of_data.invalidate(key)
            return found

        assert (of_data("x"), of_data("x")) == (1, 2)
        other = memory.cache.memoize(name="other")(lambda x: x)
        assert other("x") == "x"
        of_data.cache_clear()
        assert len(memory.cache) == 1


@shared
def test_two_handles_have_one_cache(ram):
    told = ([], [])
    config = ntmem.CacheConfig(max_entries=10)
    with ntmem.open(ram / "store", cache_config=config) as one:
        with ntmem.open(ram / "store") as two:
            one.cache.on_evict(lambda *what: told[0].append(what))
            two.cache.on_evict(lambda *what: told[1].append(what))
            for number in range(50):
                two.cache.put(str(number), b"v")
            assert one.cache.flush_evictions(60)
        for number in range(50, 100):
            one.cache.put(str(number), b"v")
        assert one.cache.flush_evictions(60)
        assert len(told[0]) == 90
        kept = one.cache
    with pytest.raises(ntmem.StoreClosed):
        kept.put("k", b"v")


def test_after_closing(ram):
    memory = ntmem.open(ram / "store")
    memory.cache.put("k", b"v")
    memory.close()
    with pytest.raises(ntmem.StoreClosed):
        _ = memory.cache
