"""How calls grow with what there is: a point of a curve each, in turns with a peer's; ``benches/page.py`` draws them.

A curve is named by what is asked (``of``) and what grows (``by``); each benchmark notes its place on it (``at``).
"""

import queue
from contextlib import contextmanager
from functools import partial

import numpy as np
import pytest
from crowd import processes, threads
from figures import note_ratio, untimed
from loops import NS, composed_gets, composed_puts, draws_of, gets, in_slices, puts
from stock import open_stock

import ntmem
from ntmem import Proposal, Vote

ENTRIES = [1_000, 10_000, 100_000, pytest.param(1_000_000, marks=pytest.mark.large)]
SIZES = [16, 64, 256, 1 << 10, 4 << 10, 16 << 10, 64 << 10]
CROWDS = [1, 2, 4, 8]
VECTORS = [1_000, 10_000, 100_000, pytest.param(1_000_000, marks=pytest.mark.large)]
TOPICS = [1, 10, 100, 1_000, 10_000]
AGENTS = [2, 10, 100, 1_000]
DIMENSION = 64
BATCH = 1_000
ROUNDS = 40


@pytest.fixture
def at(benchmark):
    """Note a place on a curve; `unit` is of what is noted as ours and theirs."""

    def place(of, by, where, peer, unit="ns"):
        benchmark.extra_info["curve"] = {"of": of, "by": by, "at": where, "peer": peer, "unit": unit}

    return place


def sides(stock, size):
    """Return slices of uniform draws for both, all asked for before."""
    drawn = draws_of("uniform", stock.keys, 40 * size)
    for _ in range(2):
        for key in drawn:
            stock.memory.get(NS, key)
    return in_slices(drawn, size), in_slices(drawn, size, offset=20)


@pytest.mark.parametrize("entries", ENTRIES)
def test_get_by_entries(ratio_to, at, tmp_path, entries):
    at("get, uniform, 64 bytes", "entries", entries, "dict")
    with open_stock(tmp_path / "store", entries, 64) as stock:
        mine, other = sides(stock, BATCH)
        ours, theirs = gets(stock.memory.get, mine), composed_gets(stock.store.get, other)
        ratio_to(ours, theirs, rounds=ROUNDS, repeats=1, calls=BATCH)


@pytest.mark.parametrize("size", SIZES)
def test_get_by_size(ratio_to, at, tmp_path, size):
    at("get, uniform, 1,000 entries", "bytes of a value", size, "dict")
    with open_stock(tmp_path / "store", 1_000, size) as stock:
        mine, other = sides(stock, 200)
        ours, theirs = gets(stock.memory.get, mine), composed_gets(stock.store.get, other)
        ratio_to(ours, theirs, rounds=ROUNDS, repeats=1, calls=200)


@pytest.mark.parametrize("size", SIZES)
def test_put_by_size(ratio_to, at, tmp_path, size):
    """The dict keeps the object it is given; `bytes(bytearray)` copies it, as a store has to."""
    at("put, 1,000 entries", "bytes of a value", size, "dict of copies")
    with open_stock(tmp_path / "store", 1_000, size) as stock:
        mine, other = (in_slices(draws_of("uniform", stock.keys, 40 * 100), 100, offset=each) for each in (0, 20))
        value, source = b"p" * size, bytearray(b"p" * size)

        def theirs(store=stock.store):
            for key in next(other):
                store[f"{NS}/{key}"] = bytes(source)

        ours = puts(stock.memory.put, mine, value)
        ratio_to(ours, theirs, rounds=ROUNDS, repeats=1, calls=100, settle=stock.memory.flush)


def rates(benchmark, crowd, peer):
    """Note calls a second of crowds in turns, and the ratio; a ratio above 1 is in our favour."""
    pairs = [(crowd(), peer()) if number % 2 else (peer(), crowd())[::-1] for number in range(10)]
    note_ratio(benchmark, *zip(*pairs, strict=True))
    untimed(benchmark)


KEYS = [f"key-{number:08d}" for number in range(1_000)]


@contextmanager
def reading(path):
    with ntmem.open(path, engine="shared") as memory:
        yield gets(memory.get, in_slices(draws_of("uniform", KEYS, 40 * 100), 100))


@contextmanager
def of_dict():
    yield composed_gets(
        {f"{NS}/{key}": b"v" * 64 for key in KEYS}.get, in_slices(draws_of("uniform", KEYS, 4_000), 100)
    )


@contextmanager
def writing(path):
    with ntmem.open(path, engine="shared") as memory:
        yield puts(memory.put, in_slices(draws_of("uniform", KEYS, 40 * 100), 100), b"v" * 64)


@contextmanager
def into_dict():
    yield composed_puts({}, in_slices(draws_of("uniform", KEYS, 4_000), 100), b"v" * 64)


@contextmanager
def searching(path):
    rows = np.random.default_rng(1).standard_normal((20_000, DIMENSION)).astype(np.float32)
    with ntmem.open(path, engine="shared", graph_share=0) as memory:
        memory.vectors.add_many("n", [str(number) for number in range(len(rows))], rows)
        yield lambda: memory.vectors.search("n", rows[0])


@contextmanager
def multiplying():
    rows = np.random.default_rng(1).standard_normal((20_000, DIMENSION)).astype(np.float32)
    yield lambda: np.argpartition(rows @ rows[0], 10)


def stocked(path):
    with ntmem.open(path, engine="shared") as memory:
        memory.put_many(NS, dict.fromkeys(KEYS, b"v" * 64))


@pytest.mark.parametrize("count", CROWDS)
def test_gets_by_processes(benchmark, at, tmp_path, count):
    at("gets a second of all", "processes", count, "a dict in each", "a second")
    stocked(tmp_path / "store")
    with (
        processes(count, partial(reading, tmp_path / "store"), 100) as ours,
        processes(count, of_dict, 100) as theirs,
    ):
        rates(benchmark, ours, theirs)


@pytest.mark.parametrize("count", CROWDS)
def test_puts_by_processes(benchmark, at, tmp_path, count):
    at("puts a second of all", "processes", count, "a dict in each", "a second")
    stocked(tmp_path / "store")
    with (
        processes(count, partial(writing, tmp_path / "store"), 100) as ours,
        processes(count, into_dict, 100) as theirs,
    ):
        rates(benchmark, ours, theirs)


@pytest.mark.parametrize("count", CROWDS)
def test_gets_by_threads(benchmark, at, tmp_path, count):
    at("gets a second of all", "threads", count, "dict", "a second")
    stocked(tmp_path / "store")
    with threads(count, partial(reading, tmp_path / "store"), 100) as ours, threads(count, of_dict, 100) as theirs:
        rates(benchmark, ours, theirs)


@pytest.mark.parametrize("count", CROWDS)
def test_searches_by_threads(benchmark, at, tmp_path, count):
    """Both let go of the interpreter while they scan."""
    at("searches a second of all, 20,000 x 64", "threads", count, "numpy", "a second")
    with threads(count, partial(searching, tmp_path / "store"), 1) as ours, threads(count, multiplying, 1) as theirs:
        rates(benchmark, ours, theirs)


@pytest.mark.parametrize("count", VECTORS)
def test_search_by_vectors(ratio_to, at, tmp_path, count):
    """Where graphs are worth it there is one, of all."""
    at(f"search, k 10, {DIMENSION} dimensions", "vectors", count, "numpy, exact")
    chance = np.random.default_rng(2)
    centres = chance.standard_normal((256, DIMENSION))
    rows = (
        centres[chance.integers(0, 256, count + 50)] + 0.7 * chance.standard_normal((count + 50, DIMENSION))
    ).astype(np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    rows, asked = rows[:count], rows[count:]
    budget = 2 << 30
    with ntmem.open(tmp_path / "store", engine="shared", graph_share=0, max_memory_bytes=budget) as memory:
        vectors = memory.vectors
        vectors.create("n", dimension=DIMENSION)
        vectors.add_many("n", [str(number) for number in range(count)], rows)
        vectors.compact("n")

        def ours():
            for query in asked:
                vectors.search("n", query)

        def theirs():
            for query in asked:
                products = rows @ query
                best = np.argpartition(products, -10)[-10:]
                best[np.argsort(-products[best])]

        ratio_to(ours, theirs, rounds=10, repeats=1, calls=len(asked))


@pytest.mark.parametrize("count", TOPICS)
def test_message_by_topics(ratio_to, at, tmp_path, count):
    """One message to one of so many topics, each with a subscription, and its receipt."""
    at("publish and recv, one process", "topics, each subscribed to", count, "dict of queue.SimpleQueue")
    with ntmem.open(tmp_path / "store", engine="shared") as memory:
        names = [f"px/{number}" for number in range(count)]
        subscriptions = [memory.subscribe(name, capacity=64) for name in names]
        queues = {name: queue.SimpleQueue() for name in names}
        chosen = np.random.default_rng(3).integers(0, count, 200).tolist()

        def ours(payload=bytes(64)):
            for number in chosen:
                memory.publish(names[number], payload)
                subscriptions[number].recv(timeout=1)

        def theirs(payload=bytes(64)):
            for number in chosen:
                queues[names[number]].put(payload)
                queues[names[number]].get(timeout=1)

        ratio_to(ours, theirs, rounds=ROUNDS, repeats=1, calls=200)


@pytest.mark.parametrize("count", AGENTS)
def test_vote_by_agents(ratio_to, at, tmp_path, count):
    """A later vote on a proposal, beside a transaction of two puts."""
    at("a vote", "agents who may vote", count, "two puts in a transaction")
    with ntmem.open(tmp_path / "store", engine="shared") as memory:
        votes = memory.consensus
        for number in range(count):
            votes.register(str(number))
        cast = []

        def settle():
            memory.flush()
            cast[:] = [votes.submit_proposal(Proposal("0", b"data")) for _ in range(100)]

        def ours():
            for name in cast:
                votes.vote(Vote(name, "1", count > 2))

        def theirs():
            for name in cast:
                with memory.transaction() as transaction:
                    transaction.put("votes", name, b"v" * 12)
                    transaction.put("tallies", "tally", b"t" * 12)

        ratio_to(ours, theirs, rounds=20, repeats=1, calls=100, settle=settle)


@pytest.mark.parametrize("count", AGENTS)
def test_agents_by_agents(ratio_to, at, tmp_path, count):
    """Who is there: a list of all agents, to reading as many records."""
    at("memory.agents.list, per agent", "agents", count, "get_many, per key")
    with ntmem.open(tmp_path / "store", engine="shared") as memory:
        for number in range(count):
            memory.agents.register(f"agent-{number}", capabilities=["trade"])
            memory.put(NS, f"agent-{number}", b"v" * 64)
        names = [f"agent-{number}" for number in range(count)]
        ratio_to(memory.agents.list, lambda: memory.get_many(NS, names), rounds=ROUNDS, repeats=1, calls=count)
