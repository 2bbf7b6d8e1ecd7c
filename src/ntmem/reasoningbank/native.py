"""What a bank has learnt itself, as rows of agentic-flow's tables, and how it is told from what came from others.

A pattern's numbers stand in ``pattern_data`` under ``ntmem``, beside what agentic-flow reads. A row is this store's own
if the trajectories that are its evidence are in it: their ids are random.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import msgspec
from msgspec import Struct

from .._core.text import iso
from ..instants import NS
from ..tiers.guards import RUNS
from ..values import CODECS
from .events import Acted, Advised, Begun, Completed, Event, Judged, Resolved, Seen, is_id, made_id
from .memory import REASONING, Memory, text_of
from .patterns import DistilledPattern, created_of, distilled
from .runs import run_key
from .shelf import Cell, Cluster, Shelf
from .trajectory import Trajectory
from .verdict import Verdict

if TYPE_CHECKING:
    from .ledger import Ledger
    from .tracker import TrajectoryTracker

_PAGE = 256
_JUDGED = {Verdict.CORRECT: "Success", Verdict.INCORRECT: "Failure", Verdict.VERY_WRONG: "Failure"}


class _Ours(Struct):
    """What is read of the key ``ntmem``."""

    pattern: str | None = None
    evidence: list[str] | None = None
    trajectory: str | None = None


class _Marked(Struct):
    ntmem: _Ours | None = None


_MARKED = msgspec.json.Decoder(_Marked)


# -- patterns


def patterns_of(shelf: Shelf, limit: int, least: int) -> Iterator[tuple[Memory, list[str]]]:
    """Yield the patterns of so many outcomes as rows, with the ids of the rows that contradict them."""
    names: dict[str, str] = {}
    contradicted = []
    for cluster in shelf.all(limit):
        for cell in cluster.cells:
            if cell.support >= least:
                pattern = distilled(cluster, cell)
                row = _row_of(cluster, cell, pattern)
                names[pattern.id] = row.id
                if cell.contradicts:
                    contradicted.append((row, cell.contradicts))
                else:
                    yield row, []
    for row, others in contradicted:
        yield row, [names[each] for each in others if each in names]


def _row_of(cluster: Cluster, cell: Cell, pattern: DistilledPattern) -> Memory:
    created = created_of(cell)
    outcome = pattern.pattern_type.capitalize()
    last = pattern.trajectory_ids[-1] if pattern.trajectory_ids else ""
    data = {
        "title": pattern.title,
        "description": pattern.description,
        "content": pattern.content,
        "source": {
            "task_id": last,
            "agent_id": cell.agents[0] if cell.agents else "",
            "outcome": outcome,
            "evidence": list(pattern.trajectory_ids),
        },
        "tags": [pattern.action],
        "domain": cluster.task,
        "created_at": iso(created)[:-7] + "Z",
        "confidence": cell.confidence,
        "n_uses": cell.uses,
        "ntmem": {
            "pattern": pattern.id,
            "evidence": list(pattern.trajectory_ids),
            "action": pattern.action,
            "support": pattern.support,
            "strength": pattern.strength,
            "outcome_mean": pattern.outcome_mean,
            "outcome_interval": list(pattern.outcome_interval),
            "metadata": pattern.metadata,
        },
    }
    return Memory(
        id=made_id(created, f"{pattern.id}\0{created}"),
        known=cluster.known,
        place=0,
        created=created,
        type=REASONING,
        data=_json(data),
        confidence=cell.confidence,
        usage_count=cell.uses,
        created_at=text_of(created),
        last_used=None,
        model=f"distill-{pattern.pattern_type}",
        vector=cluster.centroid,
        embedded_at=text_of(cluster.known),
    )


def is_own(ledger: Ledger, data: str) -> bool:
    """Whether this store has written ``pattern_data``, or the JSON of a trajectory."""
    if '"ntmem"' not in data:
        return False
    try:
        ours = _MARKED.decode(data).ntmem
    except (msgspec.MsgspecError, RecursionError):
        return False
    if ours is None:
        return False
    names = [ours.trajectory] if ours.trajectory is not None else ours.evidence or []
    return any(bool(state.steps) for _, state in ledger.load([each for each in names if is_id(each)]))


# -- trajectories


def trajectories_of(tracker: TrajectoryTracker) -> Iterator[Trajectory]:
    """Yield the trajectories of a store, the one begun last first."""
    cursor = None
    while True:
        page = tracker.find(limit=_PAGE, cursor=cursor)
        yield from page.trajectories
        cursor = page.cursor
        if cursor is None:
            return


def cells_of(it: Trajectory) -> list[Any]:
    """Return a trajectory as a row of ``task_trajectories``."""
    judged = it.verdicts[-1] if it.verdicts else None
    label = None if judged is None else _JUDGED.get(Verdict(judged.verdict))
    begun = next(iter(it.events()))
    return [
        it.id,
        it.agent_id,
        it.task,
        _json({"steps": [_step(each) for each in it.events()], "ntmem": {"trajectory": it.id}}),
        None if it.start is None else iso(it.start),
        None if it.end is None else iso(it.end),
        label,
        judged.confidence if judged is not None and label is not None else None,
        _json([judged.feedback]) if judged is not None and label is not None else None,
        run_of(it),
        text_of(begun.ts_known),
    ]


def run_of(it: Trajectory) -> str | None:
    """Return the id of the MaTTS run that a trajectory is one of; None: it is of none."""
    return it.run_id or None


def runs_of(tracker: TrajectoryTracker) -> Iterator[list[Any]]:
    """Yield the MaTTS runs of this store as rows of ``matts_runs``."""
    from .matts import run_rows

    for it in run_rows(tracker.ledger):
        yield [*it[:-1], text_of(it.created_at)]


def is_own_run(ledger: Ledger, run_id: str) -> bool:
    """Whether a MaTTS run is one of this store's."""
    return is_id(run_id) and ledger.engine().get(RUNS, run_key(run_id)) is not None


def status_of(it: Trajectory) -> str | None:
    """Return how a trajectory was judged last, as the paper's lines say it."""
    label = _JUDGED.get(Verdict(it.verdicts[-1].verdict)) if it.verdicts else None
    return {None: None, "Success": "success", "Failure": "fail"}[label]


def _step(event: Event) -> dict[str, Any]:
    """Return a step as JSON has it."""
    when = {"ts_event": event.ts_event, "ts_known": event.ts_known}
    match event:
        case Begun():
            return {"type": "begin"} | when
        case Seen():
            vector = {} if event.embedding is None else {"embedding": floats(event.embedding)}
            return {"type": "observation", "data": sayable(CODECS["msgpack"].decode(event.data))} | vector | when
        case Acted():
            said = {
                "type": "action",
                "id": event.id,
                "action": event.type,
                "parameters": sayable(CODECS["msgpack"].decode(event.parameters)),
                "predicted_outcome": event.predicted_outcome,
                "reference": event.reference,
                "horizon": None if event.horizon is None else event.horizon / NS,
            }
            return said | when
        case Resolved():
            return {"type": "outcome", "action_id": event.action_id, "value": event.value} | when
        case Completed():
            return {"type": "complete", "status": event.status} | when
        case Judged():
            names = ("judge", "verdict", "error", "accuracy", "confidence", "feedback")
            return {"type": "verdict"} | {name: getattr(event, name) for name in names} | when
        case Advised():
            return {"type": "advice", "patterns": [msgspec.structs.asdict(each) for each in event.patterns]} | when


def floats(vector: bytes) -> msgspec.Raw:
    """Return float32 numbers as JSON, each in the shortest form that is no other's."""
    import numpy as np

    return msgspec.Raw(f"[{', '.join(map(str, np.frombuffer(vector, '<f4')))}]".encode())


def sayable(value: Any) -> Any:
    """Return an object of a user as JSON can say it: what JSON does not have by its text."""
    if isinstance(value, dict):
        return {key if isinstance(key, str) else repr(key): sayable(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [sayable(each) for each in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value if value is None or isinstance(value, bool | int | float | str) else str(value)


def _json(value: Any) -> str:
    return msgspec.json.encode(value).decode()
