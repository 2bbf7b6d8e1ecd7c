"""The market as observations of the store: every row of the files, and what an agent sees of them at each step.

======================== ============================================================================
series                   a row is
======================== ============================================================================
``market/quotes`` etc.   one of a file (quotes, trades or bars), with the fields that it has
``market/steps``         the market at a step: its number, bid, ask, last, mid, volume
======================== ============================================================================

**Invariants**

1. Nothing is shown before its time: `ts_known` is the time of the step that brings a row, whenever it was received.
2. What is read back is the file, bit for bit; as of any step it is what that step had brought; distilling changes
   neither.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np

from ..instants import LATEST, MAX_INSTANT, AsOf
from ..system import MemorySystem
from .agent import MARKET, STEPS
from .steps import Step
from .tape import Columns, Tape

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray


def step_fields(step: Step) -> dict[str, float | int]:
    """Return what is kept of a step."""
    return {
        "number": step.number,
        "bid": float(step.bid),
        "ask": float(step.ask),
        "last": float(step.last),
        "mid": step.mid,
        "volume": float(step.volume),
    }


class Observing:
    """The feeder's part: what a step brings is appended; `timed` calls for it and takes the time."""

    def __init__(self, memory: MemorySystem, symbol: str, tape: Tape) -> None:
        self._append = memory.observations.append
        self._symbol = symbol
        self._rows = tape.play()

    def observe(self, step: Step, timed: Callable[[str, Callable[[], int]], int]) -> None:
        """Append the rows of a step and the step itself, known from its time on."""
        for kind, event, fields in islice(self._rows, step.rows):
            self._timed_append(timed, kind, event, fields, step.ts)
        self._timed_append(timed, STEPS[1], step.ts, step_fields(step), step.ts)

    def _timed_append(
        self,
        timed: Callable[[str, Callable[[], int]], int],
        kind: str,
        event: int,
        fields: dict[str, float | int],
        known: int,
    ) -> None:
        timed("append", lambda: self._append((MARKET, kind), self._symbol, event, fields, ts_known=known))


# -- the end


def account_for_observations(
    memory: MemorySystem, symbol: str, tape: Tape, steps: Sequence[Step], fed: int
) -> tuple[dict[str, Any], list[str]]:
    """Read the market back, distill it, read it again; return what that gained, and what is wrong.

    Parameters
    ----------
    steps : sequence of Step
        All steps of the replay.
    fed : int
        How many of them all agents have done; of the next one a part may be there.
    """
    least = {kind: len(columns["ts_event"]) for kind, columns in _columns(tape, steps[:fed]).items()}
    half = steps[max(0, fed - 1) // 2].ts
    series, problems = [], []
    for kind, columns in _columns(tape, steps[: fed + 1]).items():
        account, wrong = _account_for_series(memory, symbol, kind, columns, half)
        if account["rows"] < least.get(kind, 0):
            wrong.append(f"of {least[kind]} {kind} that were appended, {account['rows']} are among the observations")
        if account["rows"]:
            series.append(account | {"exact": not wrong})
        problems += wrong
    sums = {name: sum(one[name] for one in series) for name in _SUMMED}
    return {**sums, "ratio": _ratio(sums), "half_time": half, "exact": not problems, "series": series}, problems


_SUMMED = ("rows", "rows_at_half_time", "array_bytes", "live_bytes", "distilled_bytes")


def _account_for_series(
    memory: MemorySystem, symbol: str, kind: str, columns: Columns, half: int
) -> tuple[dict[str, Any], list[str]]:
    """Return the account of a series, and how it differs from the beginning of `columns`, which it has to be."""
    namespace = (MARKET, kind)

    def read(as_of: AsOf) -> NDArray[Any]:
        return memory.observations.range(namespace, symbol, 0, MAX_INSTANT, as_of=as_of)

    whole, early = read(LATEST), read(half)
    problems = []
    kept = {name: column[: len(whole)] for name, column in columns.items()}
    if not _is(whole, kept):
        problems.append(f"the {kind} among the observations are not those that were appended")
    elif not _is(early, {name: column[kept["ts_known"] <= half] for name, column in kept.items()}):
        problems.append(f"as of half-time the {kind} among the observations are not those known by then")
    gained = memory.observations.distill(namespace=namespace, symbol=symbol)
    if read(LATEST).tobytes() != whole.tobytes() or read(half).tobytes() != early.tobytes():
        problems.append(f"distilling changed what is read of the {kind} among the observations")
    counts = (len(whole), len(early), gained.raw_bytes, gained.bytes_before, gained.bytes_after)
    account = dict(zip(_SUMMED, counts, strict=True))
    return {"name": kind, **account, "ratio": _ratio(account)}, problems


def _ratio(account: dict[str, int]) -> float | None:
    return account["array_bytes"] / account["distilled_bytes"] if account["distilled_bytes"] else None


def _columns(tape: Tape, steps: Sequence[Step]) -> dict[str, Columns]:
    """Return what is to be found after these steps, by kind."""
    return {**tape.shown(steps), STEPS[1]: _columns_of(steps)} if steps else {}


def _columns_of(steps: Sequence[Step]) -> Columns:
    times = np.array([step.ts for step in steps], np.int64)
    rows = [step_fields(step) for step in steps]
    fields = {name: np.array([row[name] for row in rows]) for name in rows[0]}
    return {"ts_event": times, **fields, "ts_known": times}


def _is(found: NDArray[Any], expected: Columns) -> bool:
    """Whether an array has these columns, bit for bit, by `ts_event`; a column without a number is none."""
    order = np.argsort(expected["ts_event"], kind="stable")
    wanted = {
        name: column[order].tobytes()
        for name, column in expected.items()
        if name in ("ts_event", "ts_known") or not np.isnan(column).all()
    }
    return {name: found[name].tobytes() for name in found.dtype.names or ()} == wanted
