"""The attempts of a run compared: what each earned, and what those that went well did that others did not."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from msgspec import Struct

from .._core.text import html_facts, html_rows
from .trajectory import Trajectory


class AttemptOutcome(Struct, frozen=True):
    """What came of an attempt: as of :class:`MattsContrast`."""

    number: int
    trajectory_id: str
    status: str
    outcome: float | None
    verdict: str | None


class ActionContrast(Struct, frozen=True):
    """What an action earned within a run.

    Attributes
    ----------
    action : str
    count : int
        Outcomes of it that are known.
    mean, difference : float
        What they earned, and by how much that is more than the run's mean.
    in_successes, in_failures : int
        Attempts with a known outcome that did it.
    """

    action: str
    count: int
    mean: float
    difference: float
    in_successes: int
    in_failures: int


class MattsContrast(Struct, frozen=True):
    """A run's attempts compared: those whose outcomes are known.

    Rewards are as they are, levels are returns from their reference, turned around for who sells, as patterns count
    them. An attempt earned the mean of its actions, and is a success if that is more than 0.

    Attributes
    ----------
    run_id : str
    attempts : tuple of AttemptOutcome
        All that were begun, in order.
    known : int
        How many of them have an outcome.
    mean, success_rate : float or None
        Over these; None: there are none.
    best, worst : int or None
        Their numbers; of equal ones the first.
    actions : tuple of ActionContrast
        What earned most first.
    only_successes, only_failures : tuple of str
        Actions that all of those did, or some, and none of the others.
    """

    run_id: str
    attempts: tuple[AttemptOutcome, ...]
    known: int
    mean: float | None
    success_rate: float | None
    best: int | None
    worst: int | None
    actions: tuple[ActionContrast, ...]
    only_successes: tuple[str, ...]
    only_failures: tuple[str, ...]

    def __repr__(self) -> str:
        rate = "-" if self.success_rate is None else f"{self.success_rate:.0%}"
        return f"<MattsContrast {self.run_id} known={self.known} of {len(self.attempts)} success_rate={rate}>"

    def _repr_html_(self) -> str:
        shown = ("run_id", "known", "mean", "success_rate", "best", "worst", "only_successes", "only_failures")
        facts = html_facts((name, getattr(self, name)) for name in shown)
        table = [[f"{getattr(it, name)}" for name in ActionContrast.__struct_fields__] for it in self.actions]
        return facts + html_rows("actions", ActionContrast.__struct_fields__, table)


def outcome_of(trajectory: Trajectory, direction: Mapping[str, float]) -> float | None:
    """Return what a trajectory earned: the mean over its actions, without any what came of the whole; None: nothing."""
    came = trajectory.latest_outcomes()
    found = [value for _, value in _earned(trajectory, direction)]
    if found:
        return sum(found) / len(found)
    return came[None].value if None in came else None


def _earned(trajectory: Trajectory, direction: Mapping[str, float]) -> list[tuple[str, float]]:
    """Return what each action with a known outcome earned."""
    from .learning import earned

    came = trajectory.latest_outcomes()
    return [
        (it.type, earned(came[it.id].value, it.type, it.reference, direction))
        for it in trajectory.actions
        if it.id in came
    ]


def contrast(run_id: str, attempts: Sequence[Trajectory], direction: Mapping[str, float]) -> MattsContrast:
    """Compare the attempts of a run, as they are seen; `direction` as of :class:`Settings`."""
    shown = [
        AttemptOutcome(
            it.attempt, it.id, it.status, outcome_of(it, direction), it.verdicts[-1].verdict if it.verdicts else None
        )
        for it in attempts
    ]
    known = {it.number: it.outcome for it in shown if it.outcome is not None}
    mean = sum(known.values()) / len(known) if known else None
    did: dict[str, list[float]] = {}
    who: dict[bool, dict[str, int]] = {True: {}, False: {}}
    for it in attempts:
        earned = _earned(it, direction)
        for action, value in earned:
            did.setdefault(action, []).append(value)
        if it.attempt in known:
            counts = who[known[it.attempt] > 0]
            for action in dict.fromkeys(action for action, _ in earned):
                counts[action] = counts.get(action, 0) + 1
    actions = [
        ActionContrast(
            action,
            len(values),
            sum(values) / len(values),
            sum(values) / len(values) - (mean or 0.0),
            who[True].get(action, 0),
            who[False].get(action, 0),
        )
        for action, values in did.items()
    ]
    return MattsContrast(
        run_id,
        tuple(shown),
        len(known),
        mean,
        sum(value > 0 for value in known.values()) / len(known) if known else None,
        max(known, key=lambda number: known[number]) if known else None,
        min(known, key=lambda number: known[number]) if known else None,
        tuple(sorted(actions, key=lambda it: (-it.mean, it.action))),
        tuple(sorted(who[True].keys() - who[False].keys())),
        tuple(sorted(who[False].keys() - who[True].keys())),
    )
