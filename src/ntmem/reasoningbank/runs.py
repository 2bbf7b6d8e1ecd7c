"""How runs of several attempts at one task stand in the store: structs, keys, bytes.

============ ============================== ============================================================
namespace    key                            value (format number, MessagePack)
============ ============================== ============================================================
ntmem/runs   ``r`` run (26)                 a :class:`Run`, as it is
same         ``a`` run, attempt (4 hex)     the trajectory's id, 26 bytes; never changes
same         ``l`` run, hash                a :class:`Taught`: what was learnt of the run and an action
============ ============================== ============================================================

**Invariants**

- An attempt is begun in one group with the run that has counted it, on the condition that the run is the one that was
  read: there are never more than k, whoever begins them, and each has its number.
- A run says what it was at an instant: it is running from when it is known until it ended, and has ended since.
"""

from __future__ import annotations

import hashlib
import math
from typing import Any

import msgspec
from msgspec import Struct

from ..errors import CorruptionError
from .events import FORMAT, ID_SIZE, decoded

MOST_ATTEMPTS = 1000


class Run(Struct, array_like=True, frozen=True):
    """A run; `ended` 0: it has not, `summary` is the JSON of its contrast."""

    agent_id: str
    task: str
    mode: str
    k: int
    created: int
    begun: int = 0
    status: str = "running"
    ended: int = 0
    summary: str = ""


class Taught(Struct, array_like=True):
    """What a run has taught of an action: one outcome, kept as that of a step of the first trajectory it was of.

    `values` has what came of each attempt, by its trajectory: the number of the attempt, and what was earned.
    """

    trajectory: str
    step: int
    known: int
    values: dict[str, tuple[int, float]]

    def value(self, mode: str) -> float:
        """Return the outcome of all of them: their mean, or of attempts one after the other the first.

        What is tried again is tried again because of what came: the first is the only one that says nothing of that.
        """
        if mode == "sequential":
            return min(self.values.values())[1]
        found = [value for _, value in self.values.values()]
        if min(found) == max(found):  # which the quotient may miss by its last digit
            return found[0]
        return math.fsum(each / len(found) for each in found)


_encode = msgspec.msgpack.Encoder().encode
_DECODERS: dict[type, Any] = {kind: msgspec.msgpack.Decoder(kind) for kind in (Run, Taught)}


def encode(what: Struct) -> bytes:
    """Return it as it stands in the store."""
    return FORMAT + _encode(what)


def decode(value: bytes, kind: type, name: str) -> Any:
    """Return what stands in the store so; `name` is for the error."""
    return decoded(value, _DECODERS[kind], name)


def decode_id(value: bytes, name: str) -> str:
    """Return the id of an attempt."""
    if len(value) != ID_SIZE:
        raise CorruptionError(f"{name} has an id of {len(value)} bytes, not {ID_SIZE}; restore a backup")
    return value.decode()


def run_key(run_id: str) -> bytes:
    """Return the key of a run."""
    return f"r{run_id}".encode()


def attempt_key(run_id: str, attempt: int) -> bytes:
    """Return the key of an attempt."""
    return f"a{run_id}{attempt:04x}".encode()


def taught_key(run_id: str, scope: str, action: str, turn: int) -> bytes:
    """Return the key of what a run has taught of the `turn`-th action of a type in each of its attempts."""
    name = hashlib.blake2b(f"{scope}\0{turn}\0{action}".encode(), digest_size=16).hexdigest()
    return f"l{run_id}{name}".encode()
