"""Patterns: what was learnt of an action in one kind of situation, as its users see it, and in words."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

from msgspec import Struct

from .._core.text import html_facts, iso
from .checks import check_text
from .events import ID_SIZE
from .shelf import Cell, Cluster

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

PROVEN = 0.5
"""Strength above which a pattern is more than chance."""
_SIGMAS = 1.959964  # of 95 %
_MOST_TITLE, _MOST_TEXT = 255, 65_536
_NUMBER = re.compile(r"(?:(?<!\w)[-\u2212])?\d+(?:[.,]\d+)*")


class Item(NamedTuple):
    """A pattern in words."""

    title: str
    description: str
    content: str


class DistilledPattern(Struct, frozen=True, eq=False):
    """What outcomes say of an action in one kind of situation.

    Attributes
    ----------
    id : str
        Of the kind of situation and the action; a later version has the same.
    pattern_type : str
        "success" if the action earns more there than others do, else "failure".
    action : str
        The type of the action.
    centroid : ndarray of float32, shape (n,)
        The middle of the situations, of length 1.
    trajectory_ids : tuple of str
        The latest that it was learnt from, 16 at most.
    support : int
        How many outcomes it was learnt from.
    strength : float
        The evidence that it is real, from 0 to 1; 0.5 and below: none. See :mod:`ntmem.reasoningbank.evidence`.
    confidence : float
        How far to trust it, from 0 to 1: at first the probability that the effect has the sign it shows, then moved
        by what came of decisions that it advised.
    outcome_mean : float
        What the action earns there, as reward or return, shrunk towards what other actions earn.
    outcome_interval : tuple of float
        What `outcome_mean` lies between with 95 %.
    title, description, content : str
    metadata : dict
        `task`, `agents`, `unit` ("reward" or "return"), `base` (what other actions earn there), `effect`, `count` (how
        many outcomes of equal weight say as much), `regime` (changes that were noticed there), `regime_since`, `uses`,
        `right`, `wrong`, `quarantined`, `contradicts` (ids), `ts_first`, `ts_last`, `ts_known`; instants in ns UTC.
    """

    id: str
    pattern_type: str
    action: str
    centroid: NDArray[np.float32]
    trajectory_ids: tuple[str, ...]
    support: int
    strength: float
    confidence: float
    outcome_mean: float
    outcome_interval: tuple[float, float]
    title: str
    description: str
    content: str
    metadata: dict[str, Any]

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.title!r} strength={self.strength:.2f} confidence={self.confidence:.2f}>"

    def _repr_html_(self) -> str:
        facts = {name: getattr(self, name) for name in self.__struct_fields__ if name not in ("centroid", "metadata")}
        low, high = self.outcome_interval
        own = {"outcome_interval": f"{low:.6g} to {high:.6g}", "trajectory_ids": len(self.trajectory_ids)}
        return html_facts((name, _shown(name, fact)) for name, fact in (facts | own | self.metadata).items())


class RecalledPattern(DistilledPattern, frozen=True, eq=False):
    """A pattern that was recalled.

    Attributes
    ----------
    score : float
        0.65 cosine + 0.15 recency + 0.20 reliability.
    similarity : float
        The cosine.
    """

    score: float
    similarity: float


Rewrite: TypeAlias = Callable[[DistilledPattern], "Item | tuple[str, str, str]"]
"""Returns the title, description and content of a pattern in other words."""


def _shown(name: str, fact: Any) -> object:
    """Return a fact of a pattern as people read it."""
    if name.startswith("ts_") or name == "regime_since":
        return iso(fact) if fact else "-"
    if isinstance(fact, list):
        return ", ".join(fact) or "-"
    return f"{fact:.6g}" if isinstance(fact, float) else fact


def facts_of(cluster: Cluster, cell: Cell) -> dict[str, Any]:
    """Return what a pattern is made of, by the names of :class:`DistilledPattern`."""
    import numpy as np

    found = cell.measure
    reach = _SIGMAS * found.deviation
    title, description, content = cell.text or item_of(cluster, cell)
    return {
        "id": pattern_id(cluster.id, cell.action),
        "pattern_type": "success" if found.effect >= 0 else "failure",
        "action": cell.action,
        "centroid": np.frombuffer(cluster.centroid, "<f4"),
        "trajectory_ids": tuple(cell.evidence[each : each + ID_SIZE] for each in range(0, len(cell.evidence), ID_SIZE)),
        "support": cell.support,
        "strength": found.strength,
        "confidence": cell.confidence,
        "outcome_mean": found.mean,
        "outcome_interval": (found.mean - reach, found.mean + reach),
        "title": title,
        "description": description,
        "content": content,
        "metadata": metadata_of(cluster, cell),
    }


def metadata_of(cluster: Cluster, cell: Cell) -> dict[str, Any]:
    """Return what filters of patterns look at, beside their other facts."""
    return {
        "task": cluster.task,
        "agents": list(cell.agents),
        "unit": "return" if cluster.is_return else "reward",
        "base": cell.measure.base,
        "effect": cell.measure.effect,
        "count": cell.measure.count,
        "regime": cluster.drifts,
        "regime_since": cluster.regime_since,
        "uses": cell.uses,
        "right": cell.right,
        "wrong": cell.wrong,
        "quarantined": cell.quarantined > 0,
        "contradicts": list(cell.contradicts),
        "ts_first": cell.first,
        "ts_last": cell.last,
        "ts_known": cluster.known,
    }


def pattern_id(cluster_id: str, action: str) -> str:
    """Return the id of a pattern."""
    return f"{cluster_id}:{action}"


def created_of(cell: Cell) -> int:
    """Return when a pattern was made, as other programs would say it: when its first outcome was known, ns UTC."""
    return cell.first


def distilled(cluster: Cluster, cell: Cell) -> DistilledPattern:
    """Return a pattern as its users see it."""
    return DistilledPattern(**facts_of(cluster, cell))


# -- words


def item_of(cluster: Cluster, cell: Cell) -> Item:
    """Return a pattern in words, made of its numbers."""
    found, action = cell.measure, cell.action
    where = f"{cluster.task or 'such situations'}, kind {cluster.number}"
    mean, base, effect = (_amount(each, cluster) for each in (found.mean, found.base, found.effect))
    reach = _SIGMAS * found.deviation
    low, high = _amount(found.mean - reach, cluster), _amount(found.mean + reach, cluster)
    better = found.effect >= 0
    claim = f"{action} pays" if better else f"avoid {action}"
    title = f"{claim} ({where})" if found.strength > PROVEN else f"unproven: {claim} ({where})"
    verb = "more" if better else "less"
    description = f"{action} earned {mean} a time where other actions earned {base}: {effect} {verb} than they did"
    seen = f"{cell.support} outcome{'s' if cell.support != 1 else ''}"
    proof = (
        f"strength {found.strength:.2f}: more than chance"
        if found.strength > PROVEN
        else f"strength {found.strength:.2f}: not more than chance could do"
    )
    lesson = (
        f"In situations like these, prefer {action} to what else was tried."
        if better
        else f"In situations like these, {action} was worse than what else was tried; prefer another action."
    )
    times = "once" if cluster.drifts == 1 else f"{cluster.drifts} times"
    change = f" What pays here has changed {times}; older outcomes count little." if cluster.drifts else ""
    content = f"{lesson} From {seen}, mean between {low} and {high} with 95 %, {proof}.{change}"
    return Item(title, description, content)


def _amount(value: float, cluster: Cluster) -> str:
    return f"{value:+.4%}" if cluster.is_return else f"{value:+.4g}"


def rewritten(pattern: DistilledPattern, rewrite: Rewrite) -> Item:
    """Return what `rewrite` makes of the words of a pattern.

    Raises
    ------
    ValueError
        It has numbers that the pattern's words do not have: words may change, numbers not.
    """
    made: Any = rewrite(pattern)
    if not isinstance(made, tuple) or len(made) != len(Item._fields):
        raise TypeError(f"rewrite must return (title, description, content), returned {type(made).__name__}")
    item = Item(*made)
    for name, text, most in zip(Item._fields, item, (_MOST_TITLE, _MOST_TEXT, _MOST_TEXT), strict=True):
        check_text(text, f"the {name} that rewrite returned", most)
    given = f"{pattern.title} {pattern.description} {pattern.content}"
    numbers = set(_NUMBER.findall(given))
    new = set(_NUMBER.findall(" ".join(item))) - numbers - {each.lstrip("-") for each in numbers}
    if new:
        raise ValueError(
            f"rewrite must keep to the numbers of a pattern; {', '.join(sorted(new)[:5])} is in its words and not in "
            f"those of {pattern.id!r}"
        )
    return item
