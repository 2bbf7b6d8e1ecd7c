"""What an outcome teaches a cluster: pure functions over its records, which neither read the store nor write to it."""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from msgspec import Struct
from msgspec.structs import replace

from ..instants import NS
from .clusters import spread
from .events import ID_SIZE, Acted, Advice, Advised, Resolved, Seen, due_key
from .evidence import Measure, Totals, fold, measure, sure
from .shelf import Cell, Cluster, Scope, Working
from .state import State
from .verdict import relative

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from .memory import Standing

OUTCOME = np.dtype(
    [("known", "<i8"), ("order", "<u8"), ("value", "<f8"), ("step", "<u4"), ("action", "<u2"), ("trajectory", "S26")]
)
"""An outcome that a cluster has learnt: step and cell of the action, what came, from when on it was known."""
ETA, PRAISE, BLAME = 0.05, 1.0, 0.5
"""Confidence moves by eta for a credit of +1, and by half of it for one of -1."""
_CREDITS, CONTRADICTED = 10, 8  # so many of the last credits against it: quarantine
_AGAIN = 10  # outcomes after which one that has strength comes back
_AGES = 180 * 86_400 * NS  # after which half of the confidence is lost
_EVIDENCE, _AGENTS = 16, 16
_SHARE = 8  # of the window, that is kept of each action
SAMPLE = 1024
"""Situations by which it is seen whether a cluster is to be divided; once it was, what is measured is enough."""
_MOST = 1e100
_FORGETS = 0.998  # what an outcome counts, in what is usual, after the next


class Settings(Struct, frozen=True, kw_only=True):
    """How patterns are learnt.

    Attributes
    ----------
    min_trajectories : int
        Outcomes that a pattern has at least.
    similarity_threshold : float
        Kinds of situations whose centres have this cosine, or a higher one, are one kind.
    keeps : float
        What an outcome counts after each later one in its kind of situation, at most 1.
    window : int
        How many of the last outcomes of a kind are learnt from, once 1,024 have shown that it is one.
    max_patterns : int
        Beyond it the least useful go.
    direction : mapping
        By what the return of an action is multiplied, by its type: who sells earns what the price loses. 1 if it is
        not in it; rewards are as they are.
    """

    min_trajectories: int = 3
    similarity_threshold: float = 0.8
    keeps: float = 0.985
    window: int = 256
    max_patterns: int = 100_000
    direction: Mapping[str, float] = MappingProxyType({"sell": -1.0, "short": -1.0})

    def __post_init__(self) -> None:
        from ..instants import require_int
        from .checks import require_number

        require_int(self.min_trajectories, "min_trajectories", 1, 1_000_000)
        require_number(self.similarity_threshold, "similarity_threshold", above=0, most=1)
        require_number(self.keeps, "keeps", above=0, most=1)
        require_int(self.window, "window", 16, 65_536)
        require_int(self.max_patterns, "max_patterns", 1, 10_000_000)
        if not isinstance(self.direction, Mapping):
            raise TypeError(f"direction must be a mapping, was {type(self.direction).__name__}")
        for each in self.direction.values():
            require_number(each, "a direction")


class Lesson(NamedTuple):
    """An outcome, with all that was known of it by then."""

    trajectory: str
    step: int  # of the action
    action: str
    value: float
    known: int
    agent: str
    task: str
    is_return: bool
    situation: NDArray[np.float32] | None
    advice: tuple[Advice, ...]
    is_correction: bool
    order: tuple[int, int, int, str]  # instants, the agent
    content: bytes  # equal for what is equal
    run: str = ""  # that its trajectory is an attempt of
    attempt: int = 0
    turn: int = 0  # how many actions of its type were before it


def earned(value: float, action: str, reference: float | None, direction: Mapping[str, float]) -> float:
    """Return what an action earned, as patterns count it; beyond 1e100 it is that: its square is a number, too."""
    found = relative(value, reference)
    assert found is not None
    if reference is not None:
        found *= direction.get(action, 1.0)
    return max(-_MOST, min(found, _MOST))


def outcomes_of(state: State, action_id: str) -> list[int]:
    """Return the steps that say what came of an action, what holds last: the latest known, of those the last."""
    steps = enumerate(state.steps)
    found = [n for n, it in steps if isinstance(it.event, Resolved) and it.event.action_id == action_id]
    return sorted(found, key=lambda each: (state.steps[each].since, each))


def lesson(trajectory: str, state: State, step: int, direction: Mapping[str, float], *, is_correction: bool) -> Lesson:
    """Return what an outcome of a trajectory, the event of a step, teaches."""
    outcome, known = state.steps[step].event, state.steps[step].since
    assert isinstance(outcome, Resolved)
    assert outcome.action_id is not None
    taken = state.actions[outcome.action_id]
    place = next(number for number, each in enumerate(state.steps) if each is taken)
    action, begun = taken.event, state.begun
    assert isinstance(action, Acted)
    is_return = action.reference is not None
    value = earned(outcome.value, action.type, action.reference, direction)
    seen = situation(state, place)
    advised = (it.event for it in state.steps[:step] if isinstance(it.event, Advised) and it.since <= known)
    return Lesson(
        trajectory,
        place,
        action.type,
        value,
        known,
        begun.agent_id,
        begun.task,
        is_return,
        seen,
        tuple({each.pattern_id: each for it in advised for each in it.patterns}.values()),
        is_correction,
        (known, taken.since, state.steps[0].since, begun.agent_id),
        _content(begun.task, action.type, value, seen),
        begun.run_id,
        begun.attempt,
        sum(isinstance(it.event, Acted) and it.event.type == action.type for it in state.steps[:place]),
    )


def _content(task: str, action: str, value: float, seen: NDArray[np.float32] | None) -> bytes:
    said = f"{task}\0{action}\0{value!r}\0".encode()
    return hashlib.blake2b(said + (b"" if seen is None else seen.tobytes()), digest_size=16).digest()


def ordered(lessons: Iterable[Lesson]) -> list[Lesson]:
    """Return lessons in the order in which they are learnt.

    Those of one instant are shuffled by what they are: ids are chance, and to sort by what came, or to put equal ones
    side by side, would look like a drift.
    """
    times: Counter[bytes] = Counter()

    def drawn(it: Lesson) -> tuple[int, int, int, str, bytes]:
        times[it.content] += 1
        return (*it.order, hashlib.blake2b(it.content + times[it.content].to_bytes(8), digest_size=16).digest())

    return sorted(lessons, key=drawn)


def situation(state: State, place: int) -> NDArray[np.float32] | None:
    """Return the embedding that was seen last before an action, the event of a step; None: there was none."""
    limit = state.steps[place].since
    for it in reversed(state.steps[:place]):
        if it.since <= limit and isinstance(it.event, Seen) and it.event.embedding is not None:
            return np.frombuffer(it.event.embedding, "<f4")
    return None


def is_learnt(state: State, pattern_id: str, is_done: Callable[[bytes], bool], trajectory: str) -> bool:
    """Whether a trajectory that a pattern advised has an outcome that was learnt from: the pattern got its due then."""
    advised = False
    for step, it in enumerate(state.steps):
        if isinstance(it.event, Advised):
            advised = advised or any(each.pattern_id == pattern_id for each in it.event.patterns)
        elif isinstance(it.event, Resolved) and advised and it.event.action_id is not None:
            due = due_key(it.since, trajectory, step)
            if is_done(due):
                return True
    return False


class Draft:
    """A cluster while it learns."""

    def __init__(self, cluster: Cluster, working: Working, old: Cluster | None) -> None:
        self.cluster = cluster
        self.old = old  # as it is in the store
        self.total = np.frombuffer(cluster.centroid, "<f4").astype(np.float64) * (cluster.length * cluster.count)
        self.tested = working.tested
        self.drifted = working.drifted
        self.away = working.away
        self.outcomes = np.frombuffer(working.outcomes, OUTCOME)
        self.new: list[tuple[int, int, float, int, int, str]] = []

    @property
    def cells_before(self) -> int:
        """How many patterns it had."""
        return 0 if self.old is None or self.old.is_gone else len(self.old.cells)

    def learn(self, it: Lesson, direction: NDArray[np.float64], number: int) -> None:
        """Take an outcome; `number` is its place among all."""
        cluster = self.cluster
        cell = cluster.cell(it.action)
        if cell is None:
            cell = Cell(it.action, Measure(), first=it.known)
            cluster.cells.append(cell)
        cell.support += 1
        cell.first, cell.last = min(cell.first, it.known), max(cell.last, it.known)
        cell.evidence = (cell.evidence + it.trajectory)[-_EVIDENCE * ID_SIZE :]
        if it.agent not in cell.agents:
            cell.agents = [*cell.agents, it.agent][-_AGENTS:]
        cluster.count += 1
        self.total += direction
        place = cluster.cells.index(cell)
        self.new.append((it.known, number, it.value, it.step, place, it.trajectory))

    def correct(self, it: Lesson) -> bool:
        """Take an outcome in the place of an earlier one of its action; return whether that is here."""
        self.gather()
        name = it.trajectory.encode()
        found = np.flatnonzero((self.outcomes["trajectory"] == name) & (self.outcomes["step"] == it.step))
        for place in found:
            if self.outcomes["known"][place] <= it.known:
                self.outcomes = self.outcomes.copy()
                self.outcomes["value"][place] = it.value
                self.outcomes["known"][place] = it.known
        return len(found) > 0

    def gather(self) -> None:
        """Put what was learnt behind what there was."""
        if self.new:
            self.outcomes = np.concatenate([self.outcomes, np.array(self.new, OUTCOME)])
            self.new = []

    def finish(self, scope: Scope, settings: Settings, now: int) -> None:
        """Measure what actions earn here by the last outcomes."""
        self.gather()
        cluster = self.cluster
        if self.tested >= SAMPLE:
            self.outcomes = _latest(self.outcomes, settings.window)
        kinds = len(cluster.cells)
        folded = fold(self.outcomes["action"], self.outcomes["value"], kinds + 1, settings.keeps)
        if folded.drifts:
            latest = self.outcomes[folded.drifts[-1]]
            if int(latest["order"]) > self.drifted:
                self.drifted = int(latest["order"])
                cluster.drifts += 1
                cluster.regime_since = int(latest["known"])
        *found, cluster.untried = measure(folded, scope.usual, max(scope.tested, kinds))
        for cell, measured in zip(cluster.cells, found, strict=True):
            cell.measure = measured
            cell.text = None
            claims = 1 if measured.effect >= 0 else -1
            if cell.claims != claims:
                cell.claims, cell.moved, cell.recent, cell.quarantined = claims, 0.0, "", 0
            elif cell.quarantined and measured.strength > 0.5 and cell.support >= cell.support_then + _AGAIN:
                cell.recent, cell.quarantined = "", 0
            cell.confidence = confidence(cell, now)
        length = float(np.sqrt(self.total @ self.total))
        centre = self.total / length if length > 0 else self.total
        self.away += float(np.sqrt(np.square(centre - np.frombuffer(cluster.centroid, "<f4")).sum()))
        cluster.centroid = centre.astype("<f4").tobytes()
        cluster.length = length / cluster.count
        cluster.spread = spread(self.total, cluster.count)

    def working(self) -> Working:
        """Return what learning goes on from."""
        return Working(self.tested, self.outcomes.tobytes(), self.drifted, self.away)

    def divided(self, places: NDArray[np.int64], rows: NDArray[np.float64], new_name: Callable[[], str]) -> list[Draft]:
        """Return a draft for each part, with the outcomes of its situations: the largest goes on as this cluster, and
        only it has what was credited."""
        self.gather()
        largest = int(np.bincount(places).argmax())
        parts: list[Draft] = []
        for part in range(int(places.max()) + 1):
            mine, is_this = self.outcomes[places == part].copy(), part == largest
            cells: list[Cell] = []
            for was in sorted({int(each) for each in mine["action"]}):
                is_own = self.outcomes["action"][places == part] == was
                cells.append(_part_of(self.cluster.cells[was], mine[is_own], is_this=is_this))
                mine["action"][is_own] = len(cells) - 1
            now, name = self.cluster, self.cluster.id if is_this else new_name()
            made = replace(now, id=name, count=len(mine), cells=cells, untried=None, length=0.0)
            part_of = Draft(made, Working(0, mine.tobytes(), self.drifted), self.old if is_this else None)
            part_of.total = rows[places == part].sum(axis=0)
            parts.append(part_of)
        return parts


def _latest(outcomes: NDArray[Any], window: int) -> NDArray[Any]:
    """Return the last outcomes, and the last of each action."""
    is_kept = np.zeros(len(outcomes), bool)
    is_kept[-window:] = True
    for action in np.unique(outcomes["action"]):
        is_kept[np.flatnonzero(outcomes["action"] == action)[-window // _SHARE :]] = True
    return outcomes[is_kept]


def _part_of(cell: Cell, outcomes: NDArray[Any], *, is_this: bool) -> Cell:
    """Return what a part of a cluster has of an action, by its outcomes."""
    names = evidence(outcomes)
    first, last = int(outcomes["known"].min()), int(outcomes["known"].max())
    if is_this:
        then = cell.support_then + len(outcomes) - cell.support  # what is left of a quarantine is left
        return replace(cell, support=len(outcomes), first=first, last=last, evidence=names, support_then=then)
    return Cell(cell.action, cell.measure, len(outcomes), first, last, evidence=names, agents=[*cell.agents])


def evidence(outcomes: NDArray[Any]) -> str:
    """Return the ids of the latest trajectories among outcomes, one behind the other."""
    return b"".join(outcomes["trajectory"][-_EVIDENCE:]).decode()


def confidence(cell: Cell, now: int) -> float:
    """Return how far a pattern is to be trusted: by its effect, by its credits, and less the older it is."""
    trusted = max(0.0, min(sure(cell.measure.effect, cell.measure.error) + cell.moved, 1.0))
    return 0.5 + (trusted - 0.5) * math.exp2(-max(now - cell.last, 0) / _AGES)


def credit(cell: Cell | Standing, worth: float, now: int) -> None:
    """Move the confidence of a pattern by what it was worth to a decision, from -1 to 1."""
    before = cell.confidence
    step = ETA * worth * (PRAISE if worth > 0 else BLAME)
    after = max(0.0, min(before + step, 1.0))
    cell.moved += after - before
    cell.confidence = after
    if worth > 0:
        cell.right += 1
    elif worth < 0:
        cell.wrong += 1
    if worth:
        cell.recent = (cell.recent + ("+" if worth > 0 else "-"))[-_CREDITS:]
        if not cell.quarantined and cell.recent.count("-") >= CONTRADICTED:
            cell.quarantined, cell.support_then = now, cell.support


def worth(cell: Cell, action: str, value: float) -> float:
    """Return what a pattern was worth to a decision: 1, -1, or 0 if it says nothing of the action that was taken."""
    if action != cell.action or value == cell.measure.base or not cell.claims:
        return 0.0
    return 1.0 if (value > cell.measure.base) == (cell.claims > 0) else -1.0


def worth_of_words(value: float) -> float:
    """Return what a memory was worth to a decision: it claims nothing of an action, so whether that earned anything."""
    return (value > 0.0) - (value < 0.0) + 0.0


def learn_usual(usual: Totals, values: Sequence[float]) -> None:
    """Let outcomes say what is usual in a scope."""
    for each in values:
        usual.keep(_FORGETS)
        usual.add(each)
