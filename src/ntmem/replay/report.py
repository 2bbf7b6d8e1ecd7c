"""What a replay reports: plain figures, for JSON and for the cards on the screen."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

FORMAT = 1
"""Raised when a field of the JSON document changes its meaning or goes; new fields do not raise it."""


@dataclass(frozen=True, slots=True)
class Report:
    """The outcome of a replay.

    Attributes
    ----------
    problems : list of str
        What failed: an acknowledged write that was lost, a book that does not add up, an agent that raised. Empty
        when all is well.
    notes : list of str
        What a reader should know though nothing failed: that no agent was killed, that rows are very late.
    error : str or None
        The traceback of an agent that raised.
    market : dict
        Files with rows, bad rows by reason, named bad rows, late rows, the largest lateness in seconds.
    replay : dict
        Steps fed and there were, agents, seconds, whether it was complete or interrupted.
    operations : dict
        By name: count, p50 and p99 in microseconds.
    kill : dict or None
        See :class:`ntmem.replay.killing.KillCard`.
    zombie : dict or None
        See :class:`ntmem.replay.zombie.ZombieCard`.
    locks : dict
        The engine, and how often one was granted, waited for, and taken from the dead or late.
    polls : dict
        How often going flat was proposed, approved and rejected by vote.
    observations : dict
        See :func:`ntmem.replay.observing.account_for_observations`. Bytes are those of
        all rows as arrays, on disk as rows that stand alone, and distilled.
    judging : dict
        See :func:`ntmem.replay.judging.account_for_judging`. Errors are in units of what such outcomes vary by.
    deciding : dict
        See :func:`ntmem.replay.deciding.account_for_deciding`; empty if no scene was played.
    agents : list of dict
        Per agent: steps, book, its check, prediction errors, a digest of all it has in the store.
    prediction : dict
        See :func:`ntmem.replay.intervals.compare_errors`.
    memory, disk : dict
        Bytes by process, and of the store's directory, whose path is None if it was a temporary one.
    """

    market: dict[str, Any]
    replay: dict[str, Any]
    operations: dict[str, dict[str, float]]
    kill: dict[str, Any] | None
    agents: list[dict[str, Any]]
    prediction: dict[str, Any]
    memory: dict[str, Any]
    disk: dict[str, Any]
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    error: str | None = None
    zombie: dict[str, Any] | None = None
    locks: dict[str, Any] = field(default_factory=dict)
    polls: dict[str, Any] = field(default_factory=dict)
    observations: dict[str, Any] = field(default_factory=dict)
    judging: dict[str, Any] = field(default_factory=dict)
    deciding: dict[str, Any] = field(default_factory=dict)

    @property
    def ok(self) -> bool:
        """Whether every check passed."""
        return not self.problems

    def to_dict(self) -> dict[str, Any]:
        """Return the report as one JSON document."""
        return {"format": FORMAT, "ok": self.ok, **asdict(self)}
