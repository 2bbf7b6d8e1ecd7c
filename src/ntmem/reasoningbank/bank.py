"""The bank: trajectories, and what is made of them."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from typing import TYPE_CHECKING

from ..instants import AsOf, Duration, Instant
from .events import Judged
from .state import State
from .tracker import PendingOutcome, TrajectoryTracker
from .trajectory import Trajectory
from .verdict import Case, Judge, Pair, VerdictResult, judge_name, require_judge, run_judge

if TYPE_CHECKING:
    from collections.abc import Callable

    from ..tiers.engine import LmdbEngine


class ReasoningBank:
    """What the agents of a store have tried, and how good it was. ``memory.bank``.

    Notes
    -----
    **Thread safety**: any thread, of any process that has the store open.

    Examples
    --------
    >>> import ntmem
    >>> with ntmem.open() as memory:
    ...     bank = memory.bank
    ...     with bank.begin("agent_1", "breakout") as t:
    ...         _ = t.add_action("buy", {"quantity": 10}, predicted_outcome=110.0, reference=100.0)
    ...     len(bank.pending())
    ...     bank.resolve(t.id, 109.5)
    ...     bank.judge(t.id).verdict
    1
    <Verdict.CORRECT: 'correct'>
    """

    def __init__(
        self, trajectories: TrajectoryTracker, engine: Callable[[], LmdbEngine], judge: Callable[[], Judge]
    ) -> None:
        self.trajectories = trajectories
        self._engine = engine
        self._default = judge

    def begin(
        self, agent_id: str, task: str = "", *, ts_event: Instant | None = None, ts_known: Instant | None = None
    ) -> Trajectory:
        """Begin a trajectory; what is added to it is kept at once, and leaving it as a context completes it."""
        return self.trajectories.begin(agent_id, task, ts_event=ts_event, ts_known=ts_known)

    def resolve(
        self,
        trajectory_id: str,
        outcome: float,
        *,
        action_id: str | None = None,
        ts_event: Instant | None = None,
        ts_known: Instant | None = None,
    ) -> None:
        """Say what came of an action, as late as it may be; see :meth:`Trajectory.add_outcome`.

        Raises
        ------
        KeyError
            There is no such trajectory.
        """
        found = self._get(trajectory_id, None)
        found.add_outcome(outcome, action_id=action_id, ts_event=ts_event, ts_known=ts_known)

    def pending(
        self, *, agent_id: str | None = None, older_than: Duration | None = None, as_of: AsOf = None
    ) -> list[PendingOutcome]:
        """Return the actions whose outcome is not known, the oldest first; see :meth:`TrajectoryTracker.pending`."""
        return self.trajectories.pending(agent_id=agent_id, older_than=older_than, as_of=as_of)

    def judge(
        self, trajectory_id: str, *, judge: Judge | None = None, as_of: AsOf = None, record: bool | None = None
    ) -> VerdictResult:
        """Judge a trajectory by what is known of it.

        Parameters
        ----------
        judge : callable, optional
            By default ``memory.judge``, a :class:`ScaledJudge` unless another was set; see
            :data:`ntmem.reasoningbank.Judge`.
        as_of : instant, optional
            By what was known then. Such a verdict is not kept.
        record : bool, optional
            Whether to keep the verdict, so that trajectories are found by it; by default if the store can be written to
            and there is no `as_of`. One that is as the last is not kept again.

        Raises
        ------
        KeyError
            There is no such trajectory, or it was not known then.
        """
        return self._judge(self._get(trajectory_id, as_of), self._chosen(judge), self._records(as_of, record))

    def judge_many(
        self,
        trajectory_ids: Iterable[str],
        *,
        judge: Judge | None = None,
        as_of: AsOf = None,
        record: bool | None = None,
    ) -> list[VerdictResult]:
        """Judge trajectories, one after the other as by :meth:`judge`; all are read before the first is judged."""
        chosen, records = self._chosen(judge), self._records(as_of, record)
        ids = trajectory_ids if isinstance(trajectory_ids, str) else list(trajectory_ids)
        found = self.trajectories.get_many(ids, as_of=as_of)
        return [self._judge(_there(each, name), chosen, records) for name, each in zip(ids, found, strict=True)]

    def case(self, trajectory: Trajectory) -> Case:
        """Return what a judge would judge of a trajectory, as it is seen."""
        came, pairs = trajectory.latest_outcomes(), []
        for action in trajectory.actions:
            outcome = came.get(action.id)
            if outcome is not None:
                pairs.append(Pair(action, outcome, self.trajectories.past(trajectory, action)))
        return Case(trajectory.id, trajectory.agent_id, trajectory.task, tuple(pairs))

    def _chosen(self, judge: Judge | None) -> Judge:
        return self._default() if judge is None else require_judge(judge)

    def _judge(self, trajectory: Trajectory, judge: Judge, records: bool) -> VerdictResult:
        result = run_judge(judge, self.case(trajectory))
        said = (
            judge_name(judge), result.verdict.value, result.error, result.accuracy, result.confidence, result.feedback
        )  # fmt: skip

        def make(state: State, now: int) -> Judged:
            last = next((it.event for it in reversed(state.steps) if isinstance(it.event, Judged)), None)
            if last is not None and _said(last) == said:
                raise _IsKept
            return Judged(now, now, *said)

        if records:
            with suppress(_IsKept):
                trajectory.add(make)
        return result

    def _records(self, as_of: AsOf, record: bool | None) -> bool:
        if record is None:
            return as_of is None and not self._engine().read_only
        if not isinstance(record, bool):
            raise TypeError(f"record must be a bool or None, was {type(record).__name__}")
        if record and as_of is not None:
            raise ValueError("a verdict as of an instant is not kept: it was not known then; leave record out")
        return record

    def _get(self, trajectory_id: str, as_of: AsOf) -> Trajectory:
        return _there(self.trajectories.get(trajectory_id, as_of=as_of), trajectory_id)


class _IsKept(Exception):
    """It was judged so last."""


def _there(found: Trajectory | None, trajectory_id: str) -> Trajectory:
    if found is None:
        raise KeyError(f"there is no trajectory {trajectory_id!r} in this store, or it was not known then")
    return found


def _said(event: Judged) -> tuple[object, ...]:
    return (event.judge, event.verdict, event.error, event.accuracy, event.confidence, event.feedback)
