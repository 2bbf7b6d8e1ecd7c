"""Recall: which patterns speak of a situation, and which action they let one try.

- Score: 0.65 cosine + 0.15 recency + 0.20 reliability; recency is 0.5^(age / 45 days) of the latest outcome, and
  reliability the confidence.
- **MMR** (Carbonell and Goldstein, SIGIR 1998): after the best, each is chosen by its score less what the chosen say
  already, that is the cosine to the most similar chosen pattern of the same action; another action is another matter.
  Below a floor of similarity nothing is chosen, however different it is.
- **Choice**: what each action earns in the nearest kinds of situations is drawn from its distribution there and
  weighted by how probable the kind is, whose likelihood is that of a spherical normal distribution; the action that
  drew most is taken (Thompson 1933). Deviations are multiplied by `EXPLORES`: below 1 it pays where the number of
  decisions is not endless.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, TypeVar

import numpy as np
from msgspec import Struct

from .._core.text import html_rows
from ..instants import LATEST, MAX_INSTANT, NS
from ..tiers.guards import PATTERNS, Situations
from .clusters import normalised
from .events import Advice
from .patterns import RecalledPattern, facts_of, metadata_of, pattern_id
from .shelf import Cell, Cluster, Shelf

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ..filters import Where

COSINE, RECENCY, RELIABILITY = 0.65, 0.15, 0.20
HALF_LIFE = 45 * 86_400 * NS
_DIVERSE = 0.3  # what MMR counts against what was chosen
CANDIDATES = 4  # clusters that are looked at first, beside one for each pattern that is asked for
MOST = 4096
NEAR = 8  # kinds of situations that a choice weighs
EXPLORES = 0.45


R = TypeVar("R", bound="Recallable")


class Criteria(NamedTuple):
    """Which patterns may be recalled."""

    agent_id: str | None
    where: Where | None
    floor: float
    least: int
    with_quarantined: bool
    with_memories: bool = True

    def let_pass(self, cluster: Cluster, cell: Cell) -> bool:
        """Whether a pattern may be recalled; its similarity is not looked at."""
        if cell.support < self.least or (cell.quarantined and not self.with_quarantined):
            return False
        if self.agent_id is not None and self.agent_id not in cell.agents:
            return False
        return self.where is None or self.where.matches(self._facts(cluster, cell))

    @staticmethod
    def _facts(cluster: Cluster, cell: Cell) -> dict[str, Any]:
        facts = {
            "action": cell.action,
            "pattern_type": "success" if cell.measure.effect >= 0 else "failure",
            "support": cell.support,
            "strength": cell.measure.strength,
            "confidence": cell.confidence,
            "outcome_mean": cell.measure.mean,
        }
        return metadata_of(cluster, cell) | facts


class Candidate(NamedTuple):
    """A pattern that may be recalled."""

    cluster: Cluster
    cell: Cell
    similarity: float
    recency: float
    score: float

    @property
    def place(self) -> str:
        return self.cluster.id

    @property
    def centroid(self) -> bytes:
        return self.cluster.centroid

    @property
    def action(self) -> str:
        return self.cell.action

    @property
    def advice(self) -> Advice:
        return Advice(
            pattern_id(self.cluster.id, self.cell.action),
            self.cluster.known,
            self.score,
            self.similarity,
            self.recency,
            self.cell.confidence,
        )

    def public(self) -> RecalledPattern:
        facts = facts_of(self.cluster, self.cell)
        return RecalledPattern(**facts, score=self.score, similarity=self.similarity)


class Recallable(Protocol):
    """What may be recalled: a :class:`Candidate`, or a memory (:mod:`ntmem.reasoningbank.remembering`)."""

    @property
    def place(self) -> str: ...
    @property
    def centroid(self) -> bytes: ...
    @property
    def action(self) -> str: ...
    @property
    def score(self) -> float: ...
    @property
    def advice(self) -> Advice: ...
    def public(self) -> RecalledPattern: ...


class Near(NamedTuple):
    """Clusters by their similarity to a situation, the nearest first."""

    clusters: list[Cluster]
    similarities: list[float]
    is_all: bool
    """Whether there are no others."""

    def of_one_unit(self) -> Near:
        """Return those that have to do with rewards, or with returns, as the nearest has."""
        pairs = [
            (each, cosine)
            for each, cosine in zip(self.clusters, self.similarities, strict=True)
            if each.is_return == self.clusters[0].is_return
        ]
        return Near([each for each, _ in pairs], [cosine for _, cosine in pairs], self.is_all)


def near(
    shelf: Shelf, query: NDArray[np.float64], count: int, limit: int, *, is_now: bool, task: str | None = None
) -> Near:
    """Return the clusters that are nearest to a situation of length 1, as they were known by an instant."""
    numbers = query.astype(np.float32)
    hits = shelf.vectors().search(
        Situations(len(query), PATTERNS),
        numbers,
        count,
        where=None if task is None else {"task": task},
        as_of=None if is_now else limit if limit < MAX_INSTANT else LATEST,
    )
    found = list(shelf.seen([hit.id for hit in hits], limit).values())
    if not found:
        return Near([], [], len(hits) < count)
    centres = np.frombuffer(b"".join([each.centroid for each in found]), "<f4").reshape(len(found), -1)
    cosines = (centres @ numbers).tolist()
    pairs = sorted(zip(cosines, found, strict=True), key=_nearest_first)
    return Near([each for _, each in pairs], [cosine for cosine, _ in pairs], len(hits) < count)


def _nearest_first(it: tuple[float, Cluster]) -> tuple[float, str]:
    return -it[0], it[1].id


def candidates(found: Near, criteria: Criteria, now: int) -> list[Candidate]:
    """Return the patterns of clusters that pass, with their scores."""
    made = []
    for cluster, similarity in zip(found.clusters, found.similarities, strict=True):
        if similarity < criteria.floor:
            break
        for cell in cluster.cells:
            if criteria.let_pass(cluster, cell):
                recency = 0.5 ** (max(now - cell.last, 0) / HALF_LIFE)
                score = COSINE * similarity + RECENCY * recency + RELIABILITY * cell.confidence
                made.append(Candidate(cluster, cell, similarity, recency, score))
    return made


def diverse(found: Sequence[R], k: int) -> list[R]:
    """Return `k` of the candidates at most, the best first, that do not all say the same."""
    left = sorted(found, key=_by_score)
    if len(left) <= 1 or k == 1:
        return left[:k]
    places = {it.place: it.centroid for it in left}
    rows = np.frombuffer(b"".join(places.values()), "<f4").reshape(len(places), -1)
    said = dict(zip(places, (np.maximum(rows @ rows.T, 0.0) * _DIVERSE).tolist(), strict=True))
    numbers = {name: number for number, name in enumerate(places)}
    by_action: dict[str, list[int]] = {}
    for number, it in enumerate(left):
        by_action.setdefault(it.action, []).append(number)
    where = [numbers[it.place] for it in left]
    again = [0.0] * len(left)
    worth = [it.score for it in left]
    chosen: list[R] = []
    while len(chosen) < min(k, len(left)):
        best = worth.index(max(worth))
        taken = left[best]
        chosen.append(taken)
        says = said[taken.place]
        for number in by_action[taken.action]:
            again[number] = max(again[number], says[where[number]])
            worth[number] = left[number].score - again[number]
        by_action[taken.action].remove(best)
        worth[best] = -math.inf
    return chosen


def _by_score(it: Recallable) -> tuple[float, str, str]:
    return -it.score, it.place, it.action


def recall(
    shelf: Shelf, query: NDArray[np.float64], k: int, criteria: Criteria, limit: int, now: int, *, is_now: bool
) -> list[Candidate]:
    """Return patterns that speak of a situation, all that may be among the best `k`."""
    count = CANDIDATES + k
    while True:
        nearest = near(shelf, query, count, limit, is_now=is_now)
        found = candidates(nearest, criteria, now)
        is_all = nearest.is_all or (len(nearest.clusters) > 0 and nearest.similarities[-1] < criteria.floor)
        if len(found) >= k or is_all or count >= MOST:
            return found
        count = min(4 * count, MOST)


# -- choosing


class Option(Struct, frozen=True):
    """What an action is expected to earn in a situation.

    Attributes
    ----------
    action : str
    mean, deviation : float
        Of what it earns in the mean, over the kinds of situations that this may be one of.
    sampled : float
        What was drawn.
    support : float
        How many outcomes that rests on, weighted by how probable their kinds are.
    """

    action: str
    mean: float
    deviation: float
    sampled: float
    support: float


class Choice(Struct, frozen=True):
    """An action that was chosen by what is known.

    Attributes
    ----------
    action : str
    is_known : bool
        Whether anything was known in this task; if not, the action is one of all, by chance.
    options : tuple of Option
        In the order of the actions that were given; empty if nothing was known.
    patterns : tuple of RecalledPattern
        Those that speak of the action, the best first.
    """

    action: str
    is_known: bool
    options: tuple[Option, ...]
    patterns: tuple[RecalledPattern, ...]

    def _repr_html_(self) -> str:
        table = [
            (it.action, *(f"{each:.6g}" for each in (it.mean, it.deviation, it.sampled, it.support)))
            for it in self.options
        ]
        header = ("action", "mean", "deviation", "sampled", "support")
        known = f"by {len(self.patterns)} patterns" if self.is_known else "by chance: nothing was known"
        return html_rows(f"{self.action}, {known}", header, table)


def weights(found: Near) -> list[float]:
    """Return how probable it is that a situation is of each kind."""
    likely = [
        cluster.length * cosine / cluster.spread
        for cluster, cosine in zip(found.clusters, found.similarities, strict=True)
    ]
    best = max(likely)
    raw = [math.exp(max(each - best, -700.0)) for each in likely]
    whole = math.fsum(raw)
    return [each / whole for each in raw]


def options(found: Near, actions: Sequence[str], chance: np.random.Generator) -> list[Option]:
    """Draw what each action earns in a situation, in the order of the actions."""
    shares = weights(found)
    drawn = chance.standard_normal((len(found.clusters), len(actions)))
    made = []
    for number, action in enumerate(actions):
        mean = square = sampled = support = 0.0
        for share, cluster, row in zip(shares, found.clusters, drawn, strict=True):
            cell = cluster.cell(action)
            expected, deviation, count = _expected(cluster, cell)
            mean += share * expected
            square += (share * deviation) ** 2
            sampled += share * (expected + EXPLORES * deviation * float(row[number]))
            support += share * count
        made.append(Option(action, mean, math.sqrt(square), sampled, support))
    return made


def _expected(cluster: Cluster, cell: Cell | None) -> tuple[float, float, float]:
    """Return mean and deviation of what an action earns, and how many outcomes say so."""
    found = cluster.untried if cell is None else cell.measure
    return (0.0, 1.0, 0.0) if found is None else (found.expected, found.uncertainty, found.weight)


def direction_of(query: Any) -> NDArray[np.float64]:
    """Return a situation as a direction of length 1."""
    numbers = np.asarray(query)
    if numbers.dtype.kind not in "fiu":
        raise TypeError(f"query must be text or an array of numbers, was of {numbers.dtype}")
    if numbers.ndim != 1 or not len(numbers):
        raise ValueError(f"query must be one embedding of shape (n,), was of shape {numbers.shape}")
    if not np.isfinite(numbers).all():
        raise ValueError("query must have finite numbers only, one was NaN or infinite")
    if not numbers.any():
        raise ValueError("query must not be all zero: situations are compared by their direction")
    return normalised(numbers)
