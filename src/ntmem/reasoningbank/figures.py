"""The figures of a report, as data: instants in ns UTC, intervals of 95 %."""

from __future__ import annotations

from msgspec import Struct

from .calibration import CalibrationReport


class Mean(Struct, frozen=True):
    """A mean, and what it lies between with 95 % (None: of fewer than three values)."""

    count: int
    mean: float
    interval: tuple[float, float] | None


class Share(Struct, frozen=True):
    """How many of all, and what that lies between with 95 %."""

    count: int
    share: float
    interval: tuple[float, float]


class Period(Struct, frozen=True):
    """Decisions that followed each other; `ts` is the mean of when they were begun, ns UTC."""

    ts: int
    first: int
    last: int
    outcome: Mean
    above: Share
    correct: Share | None


class Group(Struct, frozen=True):
    """Decisions that patterns advised, or that none did.

    Attributes
    ----------
    outcome : Mean
    above : Share
        Of outcomes above the mean of the facet.
    correct : Share or None
        Of verdicts that said so; None: nothing was judged.
    periods : tuple of Period
        As many decisions in each.
    """

    outcome: Mean
    above: Share
    correct: Share | None
    periods: tuple[Period, ...]


class Facet(Struct, frozen=True):
    """What came of decisions of one task, in one unit ("reward" or "return"); `mean` is of all of them.

    `difference` is the mean of those that were advised less that of the others.
    """

    task: str
    unit: str
    count: int
    mean: float
    advised: Group | None
    unadvised: Group | None
    difference: float | None
    difference_interval: tuple[float, float] | None


class Place(Struct, frozen=True):
    """A pattern where its kind of situation is."""

    id: str
    task: str
    action: str
    x: float
    y: float
    effect: float
    strength: float
    support: int


class Map(Struct, frozen=True):
    """The strongest patterns of situations of one number of dimensions; `explained` is what share of the variance of
    their centres the two directions have."""

    dimension: int
    explained: tuple[float, float]
    places: tuple[Place, ...]


class Known(Struct, frozen=True):
    """A pattern."""

    id: str
    task: str
    action: str
    unit: str
    title: str
    description: str
    support: int
    strength: float
    confidence: float
    outcome_mean: float
    outcome_interval: tuple[float, float]
    uses: int
    right: int
    wrong: int
    quarantined: bool


class Version(Struct, frozen=True):
    """What an action earned in a kind of situation, as it was known from `ts` on."""

    ts: int
    mean: float
    interval: tuple[float, float]


class Drift(Struct, frozen=True):
    """A kind of situation in which what pays has changed; `changes` are when, `actions` the versions of each."""

    id: str
    task: str
    number: int
    unit: str
    drifts: int
    regime_since: int
    changes: tuple[int, ...]
    actions: dict[str, tuple[Version, ...]]


class Figures(Struct, frozen=True):
    """All figures of a report.

    Attributes
    ----------
    as_of : int
        ns UTC.
    totals : dict of int
    was_cut : bool
        Whether there are earlier trajectories that were not read.
    facets : tuple of Facet
        The largest, 4 at most; `totals["facets"]` says how many there are.
    patterns, verdicts : CalibrationReport or None
        Confidence of patterns when they advised, against whether they were right; of verdicts, against whether the last
        one of the same judge says the same. None: there is nothing to say it by.
    maps : tuple of Map
    strongest, used : tuple of Known
    drifting : tuple of Drift
        Those that changed last.
    """

    as_of: int
    totals: dict[str, int]
    was_cut: bool
    facets: tuple[Facet, ...]
    patterns: CalibrationReport | None
    verdicts: CalibrationReport | None
    maps: tuple[Map, ...]
    strongest: tuple[Known, ...]
    used: tuple[Known, ...]
    drifting: tuple[Drift, ...]
