"""Why a decision was taken: the patterns that were recalled for it, as they were then, and what came of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from msgspec import Struct

from .._core.text import html_facts, html_rows
from .events import Advice, hashed
from .learning import earned, worth, worth_of_words
from .patterns import DistilledPattern, distilled
from .shelf import Shelf, cluster_of, is_pattern
from .trajectory import Action, Outcome, Trajectory

_CAME = {None: "-", True: "right", False: "wrong"}


class Used(Struct, frozen=True, eq=False):
    """A pattern that advised a decision.

    Attributes
    ----------
    pattern : DistilledPattern or None
        As it was known when it was recalled; None: its past was pruned.
    pattern_id : str
    ts : int
        When it was recalled, ns UTC.
    score, similarity, recency, reliability : float
        score = 0.65 similarity + 0.15 recency + 0.20 reliability.
    was_right : bool or None
        Whether what came was on the side of the base rate that the pattern says, of a memory whether something was
        earned; None: nothing came of its action yet.
    """

    pattern: DistilledPattern | None
    pattern_id: str
    ts: int
    score: float
    similarity: float
    recency: float
    reliability: float
    was_right: bool | None


class Explanation(Struct, frozen=True, eq=False):
    """Why a decision was taken.

    Attributes
    ----------
    trajectory_id, agent_id, task : str
    actions : tuple of Action
    outcomes : dict
        By the id of the action; those that are not known yet are missing.
    patterns : tuple of Used
        In the order in which they were recalled, the best first.
    was_asked : bool
        Whether anything was recalled for it; if so, without patterns, nothing was known.
    text : str
        All that in words.
    """

    trajectory_id: str
    agent_id: str
    task: str
    actions: tuple[Action, ...]
    outcomes: dict[str, Outcome]
    patterns: tuple[Used, ...]
    was_asked: bool
    text: str

    def __repr__(self) -> str:
        return f"<Explanation {self.trajectory_id} patterns={len(self.patterns)}>"

    def _repr_html_(self) -> str:
        shown = {"trajectory_id": self.trajectory_id, "agent_id": self.agent_id, "task": self.task}
        did = {
            f"{it.id}, {it.type}": f"{self.outcomes[it.id].value:.6g}" if it.id in self.outcomes else "-"
            for it in self.actions
        }
        table = [
            (
                it.pattern_id if it.pattern is None else it.pattern.title,
                *(f"{each:.3f}" for each in (it.score, it.similarity, it.recency, it.reliability)),
                _CAME[it.was_right],
            )
            for it in self.patterns
        ]
        header = ("pattern", "score", "similarity", "recency", "reliability", "was")
        caption = "recalled" if table else "nothing was known" if self.was_asked else "no memory was asked"
        return html_facts((shown | did).items()) + html_rows(caption, header, table)


def explain(shelf: Shelf, trajectory: Trajectory, direction: Mapping[str, float]) -> Explanation:
    """Return why a decision was taken, by what is seen of its trajectory; `direction` as of :class:`Settings`."""
    actions = trajectory.actions
    came = {name: it for name, it in trajectory.latest_outcomes().items() if name is not None}
    advised = trajectory.advice
    used = []
    earnings = [
        earned(came[each.id].value, each.type, each.reference, direction) for each in actions if each.id in came
    ]
    for asked in advised:
        for it in asked.patterns:
            if not is_pattern(it.pattern_id):
                used.append(_used_memory(shelf, asked.ts_known, it, earnings))
                continue
            cluster_id, action = cluster_of(it.pattern_id)
            cluster = shelf.seen([cluster_id], it.known).get(cluster_id)
            cell = None if cluster is None else cluster.cell(action)
            right = None
            if cluster is None or cell is None:
                pattern = None
            else:
                pattern = distilled(cluster, cell)
                for each in actions:
                    if each.id in came and each.type == action:
                        value = earned(came[each.id].value, each.type, each.reference, direction)
                        moved = worth(cell, each.type, value)
                        right = moved > 0 if moved else right
            ts, scores = asked.ts_known, (it.score, it.similarity, it.recency, it.reliability)
            used.append(Used(pattern, it.pattern_id, ts, *scores, right))
    found = (trajectory.id, trajectory.agent_id, trajectory.task, actions, came, tuple(used), bool(advised))
    return Explanation(*found, _text(trajectory, actions, came, used, was_asked=bool(advised)))


def _used_memory(shelf: Shelf, ts: int, it: Advice, earnings: Sequence[float]) -> Used:
    """Return a memory that advised a decision; it was right if what was done last earned something."""
    from .memories import Memories
    from .remembering import as_pattern

    name = hashed(it.pattern_id)
    kept = Memories(shelf).seen([name], it.known).get(name)
    moved = [worth_of_words(value) for value in earnings]
    right = next((each > 0 for each in reversed(moved) if each), None)
    pattern = None if kept is None else as_pattern(kept)
    return Used(pattern, it.pattern_id, ts, it.score, it.similarity, it.recency, it.reliability, right)


def _text(
    trajectory: Trajectory, actions: tuple[Action, ...], came: dict[str, Outcome], used: list[Used], *, was_asked: bool
) -> str:
    did = [
        f"{it.type}: {came[it.id].value:.6g} came of it" if it.id in came else f"{it.type}: nothing came of it yet"
        for it in actions
    ]
    lines = [f"{trajectory.agent_id} in {trajectory.task or 'no task'} did {'; '.join(did) or 'nothing'}."]
    if not was_asked:
        lines.append("No memory was asked.")
    elif not used:
        lines.append("Memory was asked, and knew nothing of such situations.")
    for it in used:
        what = it.pattern_id if it.pattern is None else it.pattern.title
        parts = f"similarity {it.similarity:.2f}, recency {it.recency:.2f}, reliability {it.reliability:.2f}"
        ended = {None: "", True: " It was right.", False: " It was wrong."}[it.was_right]
        lines.append(f"{what}: score {it.score:.3f} ({parts}).{ended}")
    return "\n".join(lines)
