"""Versions of a model's weights: who trained which, what was live when, and back to the one before.

A namespace with history keeps every version. Two trainers that began with the same version cannot overwrite each
other's work: `if_version` lets the second one notice. What was live at an instant is one read with `as_of`.

    python examples/04_model_versions.py [DIRECTORY]

Prints::

    bob is late: what he trained is not the newest any more
    day 3: sharpe  1.4, written by ann
    day 2: sharpe -0.3, written by bob
    day 1: sharpe  1.4, written by ann
    day 0: sharpe  0.0, written by ann
    live at noon of day 2: sharpe -0.3
    live now is what was live on day 1: True
"""

import sys
import tempfile

import msgspec
import numpy as np

import ntmem

DAY = 86_400 * 10**9


class Model(msgspec.Struct):
    """What is kept of a version."""

    sharpe: float
    weights: bytes

    def array(self) -> np.ndarray:
        return np.frombuffer(self.weights, np.float32)


def trained(on: Model, sharpe: float, seed: int) -> bytes:
    """A step of training, so to say."""
    weights = on.array() + np.random.default_rng(seed).normal(0, 0.1, 12)
    return msgspec.msgpack.encode(Model(sharpe, weights.astype(np.float32).tobytes()))


def model_of(record: ntmem.Record) -> Model:
    return msgspec.msgpack.decode(record.value, type=Model)


def main(directory: str) -> None:
    clock = ntmem.SimulatedClock(1_700_000_000 * 10**9)
    with ntmem.open(directory, clock=clock, agent_id="ann") as ann, ntmem.open(directory, agent_id="bob") as bob:
        monday = clock.now()
        ann.retain("models", history=True, max_bytes=64 << 20)
        untrained = Model(0.0, np.zeros(12, np.float32).tobytes())
        ann.put("models", "strategy", msgspec.msgpack.encode(untrained))

        clock.set(monday + DAY)
        base = ann.get_record("models", "strategy")  # both begin with it
        ann.put("models", "strategy", trained(model_of(base), 1.4, seed=1), if_version=base.version)
        try:
            bob.put("models", "strategy", trained(model_of(base), 1.1, seed=2), if_version=base.version)
        except ntmem.VersionConflict:
            print("bob is late: what he trained is not the newest any more")

        clock.set(monday + 2 * DAY)
        base = bob.get_record("models", "strategy")
        bob.put("models", "strategy", trained(model_of(base), -0.3, seed=2), if_version=base.version)

        clock.set(monday + 3 * DAY)
        bad, good, *_ = ann.history("models", "strategy")
        if model_of(bad).sharpe < model_of(good).sharpe:
            ann.put("models", "strategy", good.value, if_version=bad.version)
        for record in ann.history("models", "strategy"):
            day, model = (record.ts_known - monday) // DAY, model_of(record)
            print(f"day {day}: sharpe {model.sharpe:4.1f}, written by {record.writer}")
        live = ann.get_record("models", "strategy", as_of=monday + 5 * DAY // 2)
        print("live at noon of day 2: sharpe", model_of(live).sharpe)
        print("live now is what was live on day 1:", ann.get("models", "strategy") == good.value)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as scratch:
        main(sys.argv[1] if len(sys.argv) > 1 else scratch)
