"""How trajectories stand in the store: pure functions between Python values and bytes.

**Layout**. A value is a format number (one byte) and MessagePack. ``inv`` is the instant's distance from the end of
time, 16 hexadecimal digits, so that keys sort newest first; ``hash`` is BLAKE2b of a text, 32 hexadecimal digits.

====================== ========================================= ======================================================
namespace              key                                       value
====================== ========================================= ======================================================
ntmem/trajectories     id (26), step (6 hexadecimal digits)      an event: one of the structs below; never changes
ntmem/trajectory_index ``n`` inv(begin) id                       empty: every trajectory
same                   ``a`` hash(agent) inv(begin) id           empty
same                   ``t`` hash(task) inv(begin) id            empty
same                   ``v`` hash(verdict) inv(begin) id         empty: has, or had, this verdict
same                   ``o`` inv(begin) id                       empty: has an action without any outcome
same                   ``r`` inv(outcome) id inv(step)           empty: an outcome became known
same                   ``p`` hash(agent task type unit)          the outcome and the prediction as returns or rewards,
                       inv(outcome) id inv(step)                 and the action's id
same                   ``d`` outcome (16) id step              empty: an outcome that nothing was learnt from yet
same                   ``c`` who counts                          how many trajectories this handle has begun
====================== ========================================= ======================================================

All instants in keys are those from which on something was known. Vectors of embeddings stand in the collection
``ntmem/trajectories/<dimension>``, under the id of the trajectory and a hash of the embedding.

**The format number never changes meaning.**
"""

from __future__ import annotations

import hashlib
import os
from functools import lru_cache
from typing import Any, NamedTuple, TypeAlias

import msgspec
from msgspec import Struct

from ..errors import CorruptionError
from ..instants import MAX_INSTANT

FORMAT = b"\x01"
ID_SIZE = 26
STEP_SIZE = 6
MOST_STEPS = 16**STEP_SIZE
TAIL_SIZE = 16 + ID_SIZE
_ALPHABET = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"  # Crockford's base 32, as in ULID
_PAIRS = [high + low for high in _ALPHABET for low in _ALPHABET]


class Begun(Struct, frozen=True, array_like=True, tag_field="kind", tag="begin"):
    """A trajectory was begun; `run_id` and `attempt`, from 1, if it is one of a run (else "" and 0)."""

    ts_event: int
    ts_known: int
    agent_id: str
    task: str
    run_id: str = ""  # these two are missing in what was written before there were runs
    attempt: int = 0


class Seen(Struct, frozen=True, array_like=True, tag_field="kind", tag="observation"):
    """Something was seen; `data` is of the msgpack codec, `embedding` float32 in little-endian order."""

    ts_event: int
    ts_known: int
    data: bytes
    embedding: bytes | None


class Acted(Struct, frozen=True, array_like=True, tag_field="kind", tag="action"):
    """Something was done; `parameters` are of the msgpack codec, `horizon` is in nanoseconds."""

    ts_event: int
    ts_known: int
    id: str
    type: str
    parameters: bytes
    predicted_outcome: float | None
    reference: float | None
    horizon: int | None


class Resolved(Struct, frozen=True, array_like=True, tag_field="kind", tag="outcome"):
    """What came of an action (None: of the whole)."""

    ts_event: int
    ts_known: int
    value: float
    action_id: str | None


class Completed(Struct, frozen=True, array_like=True, tag_field="kind", tag="complete"):
    """Nothing more will be seen or done."""

    ts_event: int
    ts_known: int
    status: str


class Judged(Struct, frozen=True, array_like=True, tag_field="kind", tag="verdict"):
    """It was judged."""

    ts_event: int
    ts_known: int
    judge: str
    verdict: str
    error: float | None
    accuracy: float | None
    confidence: float
    feedback: str


class Advice(Struct, frozen=True, array_like=True):
    """A pattern that advised a decision: which version of it, and what it scored by."""

    pattern_id: str
    known: int
    score: float
    similarity: float
    recency: float
    reliability: float


class Advised(Struct, frozen=True, array_like=True, tag_field="kind", tag="advice"):
    """Patterns were recalled, the best first; none: nothing was known."""

    ts_event: int
    ts_known: int
    patterns: tuple[Advice, ...]


class Past(NamedTuple):
    """An earlier outcome, and what was expected (None: nothing), both as returns or both as rewards."""

    actual: float
    predicted: float | None


Event: TypeAlias = Begun | Seen | Acted | Resolved | Completed | Judged | Advised

_encode = msgspec.msgpack.Encoder().encode
_DECODER: msgspec.msgpack.Decoder[Event] = msgspec.msgpack.Decoder(Event)
_PAST: msgspec.msgpack.Decoder[tuple[float, float | None, str]] = msgspec.msgpack.Decoder(
    tuple[float, float | None, str]
)
_COUNT: msgspec.msgpack.Decoder[int] = msgspec.msgpack.Decoder(int)


def encode_event(event: Event) -> bytes:
    """Return it as it stands in the store."""
    return FORMAT + _encode(event)


def decode_event(value: bytes, trajectory_id: str, step: int) -> Event:
    """Return the event that stands in the store so."""
    event: Event = decoded(value, _DECODER, "step", step, "of trajectory", trajectory_id)
    if (type(event) is Begun) != (step == 0):
        raise CorruptionError(
            f"step {step} of trajectory {trajectory_id} is a {type(event).__name__}; its first step, and only that, "
            "begins it; restore a backup"
        )
    return event


def encode_past(past: Past, action_id: str) -> bytes:
    """Return an outcome, as later judgements need it, as it stands in the store."""
    return FORMAT + _encode((*past, action_id))


def decode_past(value: bytes) -> tuple[Past, str]:
    """Return the outcome that stands in the store so, and its action."""
    actual, predicted, action_id = decoded(value, _PAST, "the index of outcomes")
    return Past(actual, predicted), action_id


def encode_count(count: int) -> bytes:
    """Return a count as it stands in the store."""
    return FORMAT + _encode(count)


def decode_count(value: bytes) -> int:
    """Return the count that stands in the store so."""
    count: int = decoded(value, _COUNT, "the count of trajectories")
    return count


def decoded(value: bytes, decoder: Any, *what: object) -> Any:
    """Return what stands in the store so; `what` it is, in words, is for the error."""
    if value[:1] != FORMAT:
        raise CorruptionError(f"{_named(what)} has the format {value[:1]!r}, not {FORMAT!r}; restore a backup")
    try:
        return decoder.decode(value[1:])
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise CorruptionError(f"{_named(what)} cannot be read: {error}; restore a backup") from error


def _named(what: tuple[object, ...]) -> str:
    return " ".join(map(str, what))


# -- keys


def new_id(now: int) -> str:
    """Return a ULID: 48 bits of milliseconds of `now`, 80 random ones."""
    return _ulid(now, os.urandom(10))


def made_id(now: int, text: str) -> str:
    """Return a ULID that is the same for the same instant and text."""
    return _ulid(now, hashlib.blake2b(text.encode(), digest_size=10).digest())


def _ulid(now: int, rest: bytes) -> str:
    number = (now // 1_000_000 & (1 << 48) - 1) << 80 | int.from_bytes(rest, "big")
    return "".join([_PAIRS[number >> shift & 1023] for shift in range(120, -1, -10)])


def is_id(text: str) -> bool:
    """Whether a text can be the id of a trajectory."""
    return len(text) == ID_SIZE and set(text) <= set(_ALPHABET)


def event_key(trajectory_id: str, step: int) -> bytes:
    """Return the key of an event."""
    return b"%s%06x" % (trajectory_id.encode(), step)


def situation(trajectory_id: str, embedding: bytes) -> str:
    """Return the id of an embedding among vectors: another embedding never takes its place."""
    return trajectory_id + hashlib.blake2b(embedding, digest_size=8).hexdigest()


@lru_cache(maxsize=4096)
def hashed(text: str) -> str:
    """Return what stands for a text in keys."""
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def due_key(instant: int, trajectory_id: str, step: int) -> bytes:
    """Return where an outcome stands that is to be learnt from, the first known first."""
    return f"d{instant:016x}{trajectory_id}{step:06x}".encode()


def newest_first(instant: int, rest: str = "") -> str:
    """Return what sorts by an instant, the latest first."""
    return f"{MAX_INSTANT - instant:016x}{rest}"


def past_stem(agent_id: str, task: str, action_type: str, *, is_return: bool) -> str:
    """Return how the keys begin under which the outcomes stand that others are measured by."""
    return "p" + hashed(f"{agent_id}\0{task}\0{action_type}\0{'return' if is_return else 'reward'}")
