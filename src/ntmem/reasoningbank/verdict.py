"""What judges are given and what they say."""

from __future__ import annotations

from collections.abc import Callable
from enum import StrEnum
from typing import Any, TypeAlias, cast

from msgspec import Struct

from .._core.text import html_facts
from .checks import check_text, require_number
from .events import Past
from .trajectory import Action, Outcome

_MOST_FEEDBACK = 65_536

LARGEST = 1e300
"""What may have become infinite is this."""


class Verdict(StrEnum):
    """How good what was expected has turned out to be."""

    CORRECT = "correct"
    INCORRECT = "incorrect"
    VERY_WRONG = "very_wrong"
    INSUFFICIENT = "insufficient"
    """There is no action with both a prediction and an outcome."""


class VerdictResult(Struct, frozen=True):
    """What a judge says of a trajectory.

    Attributes
    ----------
    trajectory_id : str
    verdict : Verdict
    error, accuracy : float or None
        By the judge's own rule; None with ``INSUFFICIENT``. Accuracy is from 0 to 1.
    confidence : float
        How much the verdict rests on, from 0 to 1.
    feedback : str
        The verdict in words.
    """

    trajectory_id: str
    verdict: Verdict
    error: float | None
    accuracy: float | None
    confidence: float
    feedback: str

    def _repr_html_(self) -> str:
        facts = {name: getattr(self, name) for name in self.__struct_fields__}
        return html_facts((facts | {"verdict": self.verdict.value}).items())


class Pair(Struct, frozen=True):
    """An action, what came of it, and how such things came out before.

    Attributes
    ----------
    past : tuple of Past
        Earlier outcomes of actions of this type by this agent in this task that were known when the action was, in the
        same unit (returns if the action has a reference, else rewards), the latest first, 100 at most.
    """

    action: Action
    outcome: Outcome
    past: tuple[Past, ...] = ()

    @property
    def is_return(self) -> bool:
        """Whether it is judged as a return from a price level."""
        return self.action.reference is not None

    @property
    def predicted(self) -> float | None:
        """What was expected, as a return or reward."""
        return relative(self.action.predicted_outcome, self.action.reference)

    @property
    def actual(self) -> float:
        """What came, as a return or reward."""
        found = relative(self.outcome.value, self.action.reference)
        assert found is not None
        return found


class Case(Struct, frozen=True):
    """What a judge judges: the actions of a trajectory that have an outcome, each with its latest one."""

    trajectory_id: str
    agent_id: str
    task: str
    pairs: tuple[Pair, ...]

    @property
    def predicted(self) -> tuple[Pair, ...]:
        """The pairs with a prediction."""
        return tuple(pair for pair in self.pairs if pair.action.predicted_outcome is not None)


Judge: TypeAlias = Callable[[Case], "VerdictResult | Verdict"]
"""Whatever is called with a :class:`Case` and returns a :class:`VerdictResult`, or a :class:`Verdict` alone."""


def relative(value: float | None, reference: float | None) -> float | None:
    """Return a value as its return from a price level; without a level it is a reward and stays.

    Beyond 1e300 it is that: so differences and squares of such numbers can be formed.
    """
    if value is None:
        return None
    found = value if reference is None else (value - reference) / reference
    return max(-LARGEST, min(found, LARGEST))


def insufficient(case: Case) -> VerdictResult:
    """Return the verdict on what cannot be judged."""
    feedback = "insufficient: no action has both a prediction and an outcome"
    return VerdictResult(case.trajectory_id, Verdict.INSUFFICIENT, None, None, 0.0, feedback)


def run_judge(judge: Judge, case: Case) -> VerdictResult:
    """Return what a judge says, checked, as it may be anybody's."""
    found = judge(case)
    if isinstance(found, Verdict):
        found = VerdictResult(case.trajectory_id, found, None, None, 0.0, found.value)
    if not isinstance(found, VerdictResult):
        raise TypeError(f"a judge must return a VerdictResult or a Verdict, was {type(found).__name__}")
    if found.trajectory_id != case.trajectory_id:
        raise ValueError(f"the judge was asked of {case.trajectory_id!r} and speaks of {found.trajectory_id!r}")
    if not isinstance(found.verdict, Verdict):
        raise TypeError(f"a verdict must be a Verdict, was {type(found.verdict).__name__}")
    check_text(found.feedback, "a verdict's feedback", _MOST_FEEDBACK, least=0)
    error, accuracy = found.error, found.accuracy
    return VerdictResult(  # with floats: what a judge computes by may be another kind of number
        found.trajectory_id,
        found.verdict,
        None if error is None else require_number(error, "a verdict's error", least=0),
        None if accuracy is None else require_number(accuracy, "a verdict's accuracy", least=0, most=1),
        require_number(found.confidence, "a verdict's confidence", least=0, most=1),
        str(found.feedback),
    )


def require_judge(judge: Any) -> Judge:
    """Return what can judge; raise TypeError if it cannot be called."""
    if not callable(judge):
        raise TypeError(f"judge must be callable with a Case, was {type(judge).__name__}")
    return cast("Judge", judge)


def judge_name(judge: Judge) -> str:
    """Return by which name the verdicts of a judge are kept."""
    name = getattr(judge, "__name__", None)
    return name if isinstance(name, str) and name else type(judge).__name__
