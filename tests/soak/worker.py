"""One of the processes of a soak: does a little of everything, as fast as its share, and says in its diary what it did.

python tests/soak/worker.py STORE DIARY NUMBER WORKERS BUDGET
"""

from __future__ import annotations

import contextlib
import random
import struct
import sys
import time
import zlib
from pathlib import Path
from typing import Any

import numpy as np

import ntmem

sys.path.insert(1, str(Path(__file__).parent))

from diary import KEYS, KIND, PAUSE, STOP, VECTORS, Diary, bucket

PAUSE_S = 0.004  # between two rounds
DIMENSION = 64
RESOURCE = "soak"


def value_of(seq: int) -> bytes:
    """Return the value that goes with a number: the number, something of a length that is its own, a checksum."""
    body = struct.pack("<Q", seq) + random.Random(seq).randbytes(16 + seq * 7919 % 900)
    return body + zlib.crc32(body).to_bytes(4, "little")


def number_of(value: bytes) -> int:
    """Return the number of a value; raise ``ValueError`` if it is not whole."""
    number = int(struct.unpack_from("<Q", value)[0])
    if value != value_of(number):
        raise ValueError(f"the value of {number} is torn")
    return number


def situation(number: int) -> Any:
    """Return an embedding: one of eight kinds, and some noise."""
    noise = np.random.default_rng(number).normal(size=16) * 0.1
    noise[number % 8] += 1.0
    return noise.astype(np.float32)


def collection(worker: str, number: int) -> tuple[str, ...]:
    """Return where a vector goes: a new collection for every so many."""
    return "soak", "seen", worker, str(number // VECTORS)


class Worker:
    """What one process does; every method is one kind, named in its diary."""

    def __init__(self, memory: ntmem.MemorySystem, diary: Diary, number: int, workers: int) -> None:
        self.memory, self.diary, self.number, self.workers = memory, diary, number, workers
        self.chance = random.Random(time.monotonic_ns())
        self.me = f"worker_{number}"
        self.orders: Any = memory.subscribe("soak/orders/*", durable=self.me)
        self.prices: Any = memory.subscribe("soak/prices/>")
        self.consensus = memory.consensus
        self.consensus.register(self.me)
        rates = {"put": 6, "get": 10, "pair": 2, "count": 2, "guarded": 1, "fill": 3, "append": 4, "recent": 1}
        rates |= {"vector": 1, "search": 1, "tell": 4, "order": 1, "heard": 2, "passing": 2}
        rare = {"begin": 1, "resolve": 1, "recall": 1, "vote": 0.3, "session": 0.3}
        self.names = [*rates, *rare]
        self.weights = [10 * rate for rate in rates.values()] + [2 * rate for rate in rare.values()]

    def step(self) -> None:
        """Do one thing, and note what it took."""
        name = self.chance.choices(self.names, self.weights)[0]
        kind = KIND[name]
        number = int(self.diary.begun[kind]) + 1
        self.diary.begun[kind] = number
        since = time.perf_counter_ns()
        counts = getattr(self, name)(number)
        self.diary.times[kind, bucket(time.perf_counter_ns() - since)] += 1
        if counts is not False:
            self.diary.last[kind] = number
            self.diary.done[kind] += 1

    # -- the kinds

    def put(self, number: int) -> None:
        key = number % KEYS
        self.diary.keys_begun[key] = number
        self.memory.put(("soak", self.me), str(key), value_of(number))
        self.diary.keys_acked[key] = number

    def get(self, number: int) -> None:
        key = self.chance.randrange(KEYS)
        least = int(self.diary.keys_acked[key])
        value = self.memory.get(("soak", self.me), str(key))
        found = 0 if value is None else number_of(value)
        if not least <= found <= int(self.diary.keys_begun[key]):
            raise AssertionError(f"key {key} is at {found}, {least} was acknowledged")

    def pair(self, number: int) -> None:
        with self.memory.transaction() as t:
            t.put(("soak", "pairs"), f"{self.me}-a", value_of(number))
            t.put(("soak", "pairs"), f"{self.me}-b", value_of(number))

    def count(self, number: int) -> None:
        self.memory.incr(("soak", "counts"), self.me)

    def guarded(self, number: int) -> bool:
        try:
            with self.memory.lock(RESOURCE, timeout=5.0, ttl=10.0) as lock:
                found = self.memory.get(("soak", "guarded"), "sum")
                self.memory.put(("soak", "guarded"), "sum", b"%d" % (int(found or b"0") + 1), fence=lock)
        except ntmem.LockTimeout:
            return False
        return True

    def fill(self, number: int) -> None:
        side = "buy" if number % 3 else "sell"
        self.memory.positions.apply_fill(
            f"SOAK{self.number}", number % 5 + 1, 100 + number % 7, side=side, trade_id=f"{self.me}-{number}"
        )

    def append(self, number: int) -> None:
        at = self.memory.now()
        price = 61800 + self.chance.random()
        self.memory.observations.append(("soak", "ticks"), self.me, at, {"price": price, "size": number % 9 + 1})

    def recent(self, number: int) -> None:
        rows = self.memory.observations.recent(("soak", "ticks"), self.me, 100)
        if len(rows) < min(100, int(self.diary.done[KIND["append"]])):
            raise AssertionError(f"{len(rows)} recent rows")

    def vector(self, number: int) -> None:
        where = np.random.default_rng(number).normal(size=DIMENSION).astype(np.float32)
        name = str(number % (VECTORS // 2))  # each comes twice
        self.memory.vectors.add(collection(self.me, number), name, where, {"number": number})
        if number % 100 == 0 and number > VECTORS:  # what was replaced goes with its collection only
            self.memory.vectors.drop(collection(self.me, number - 2 * VECTORS))

    def search(self, number: int) -> None:
        where = np.random.default_rng(number).normal(size=DIMENSION).astype(np.float32)
        least = int(self.diary.last[KIND["vector"]])
        filters = {"number": {"$lte": least}} if number % 2 else None
        self.memory.vectors.search(collection(self.me, least), where, 5, where=filters)

    def tell(self, number: int) -> None:
        self.memory.publish(f"soak/prices/{self.me}", b"%d" % number)
        self.prices.recv_many(timeout=0)

    def order(self, number: int) -> None:
        following = int(self.diary.done[KIND["order"]]) + 1  # again, if nobody knows whether it was told
        self.memory.publish(f"soak/orders/{self.number}", b"%d" % following, durable=True)

    def heard(self, number: int) -> bool:
        message = None
        for _ in range(50):
            following = self.orders.recv(timeout=0)
            if following is None:
                break
            message = following
            publisher, it = int(message.topic.rsplit("/")[-1]), int(message.payload)
            if it > int(self.diary.heard[publisher]) + 1:
                raise AssertionError(f"order {it} of {publisher} came behind {int(self.diary.heard[publisher])}")
            self.diary.heard[publisher] = max(it, int(self.diary.heard[publisher]))
        if message is not None:
            self.orders.ack(message)
        return message is not None

    def begin(self, number: int) -> None:
        with self.memory.bank.begin(self.me, "soak") as decision:
            decision.add_observation({"number": number}, situation(number))
            decision.add_action(("buy", "wait")[number % 2])

    def resolve(self, number: int) -> bool:
        waiting = self.memory.trajectories.find(agent_id=self.me, limit=20).trajectories
        for it in waiting:
            if it.actions and it.outcome_of(it.actions[0].id) is None:
                earned = float(it.observations[0].data["number"] % 8 < 4) - 0.5
                self.memory.bank.resolve(it.id, earned)
                return True
        return False

    def recall(self, number: int) -> None:
        self.memory.bank.recall(situation(number), 3)

    def vote(self, number: int) -> None:
        for it in self.consensus.pending()[:8]:
            if self.me in (it.electorate or ()):
                self.consensus.vote(ntmem.Vote(it.id, self.me, approve=int(it.data["number"]) % 7 != 0))
        self.consensus.submit_proposal(ntmem.Proposal(self.me, {"number": number}, timeout=5.0))

    def passing(self, number: int) -> None:
        self.memory.put(("soak", "passing"), f"{self.me}-{number}", value_of(number), ttl=2.0)

    def session(self, number: int) -> None:
        with self.memory.session(f"soak-{self.number}", timeout=30.0) as s:
            s["last"] = number
            s.incr("entered")


def main() -> None:
    """Work until the diary says stop."""
    store, path, number, workers, budget = sys.argv[1:]
    diary = Diary(Path(path))
    with ntmem.open(store, max_memory_bytes=int(budget), agent_id=f"worker_{number}") as memory:
        worker = Worker(memory, diary, int(number), int(workers))
        learns = False
        while (command := diary.word("command")) != STOP:
            if command == PAUSE:
                memory.distiller.stop()
                learns = False
                diary.set_word("answer", PAUSE)
                time.sleep(0.01)
                continue
            diary.set_word("answer", 0)
            if number == "0" and not learns:
                memory.distiller.start(every=5.0)
                learns = True
            for _ in range(10):
                worker.step()
            time.sleep(PAUSE_S)
    diary.set_word("answer", STOP)


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        main()
