"""A search of one collection: which slots are asked, by which graphs, and what is best of them."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from .._core import nearest
from .._core.vectors import VectorTail
from ..conditions import NoColumn
from ..filters import Where
from .collection import Collection
from .graphs import Plan
from .points import POINTS, decode_metadata, decode_point, point_key
from .vectorchecks import check_vectors

if TYPE_CHECKING:
    from numpy.typing import NDArray


class Asked(NamedTuple):
    """Of how many slots a search is, of which of them (None: all), and how it is done."""

    slots: int
    bits: NDArray[np.uint64] | None
    plan: Plan


def asked_of(
    collection: Collection,
    tail: VectorTail,
    queries: NDArray[np.float32],
    many: int,
    chosen: Where | None,
    limit: int,
    ef: int | None,
    *,
    is_past: bool,
) -> Asked:
    """Return of how many slots a search is, of which of them, and how it is done.

    `limit` is the last instant at which what is found may have become known; `is_past` says that somebody asked for
    it.
    """
    count = tail.count
    if chosen is None or is_past:
        bits, left = tail.wanted(count, limit)
        if is_past and not left:  # that there is a collection may not be known then
            return Asked(0, None, Plan())
    check_vectors(collection.row, queries, "the query")
    if chosen is not None:
        bits, left = tail.wanted(count, limit, passing_of(collection, tail, count, limit, chosen))
    return Asked(count, bits, collection.graphs.plan(tail, many, count, limit, left, ef))


def best_of(
    collection: Collection,
    tail: VectorTail,
    queries: NDArray[np.float32],
    k: int,
    asked: Asked,
    rerank: int | None,
) -> tuple[NDArray[np.uint32], NDArray[np.float32]]:
    """Return slots and scores of what is best for each query; NaN: nothing is there."""
    count, bits, plan = asked
    slots, scores = nearest.search(tail, queries, max(k, rerank or 0), count, bits, graphs=plan.graphs, ef=plan.ef)
    if rerank is not None:
        slots, scores = _reranked(collection, queries, slots, scores, k)
    return slots, scores


def _reranked(
    collection: Collection,
    queries: NDArray[np.float32],
    slots: NDArray[np.uint32],
    scores: NDArray[np.float32],
    k: int,
) -> tuple[NDArray[np.uint32], NDArray[np.float32]]:
    """Return the best `k` of those that were found, by their float32 numbers."""
    number, metric = collection.row.number, collection.row.metric
    wanted = {int(slot): point_key(number, int(slot)) for slot in np.unique(slots[~np.isnan(scores)])}
    records = collection.engine.fetch(POINTS, list(wanted.items()))
    vectors = {slot: decode_point(value).vector for slot, value in records.items()}
    scores = scores.astype(np.float64)
    for place, slot in np.ndenumerate(slots):
        vector = vectors.get(int(slot))
        if not np.isnan(scores[place]) and vector is not None:
            scores[place] = _score(metric, queries[place[0]], vector)
    order = np.lexsort((slots, -scores))[:, :k]  # NaN sorts last
    return np.take_along_axis(slots, order, 1), np.take_along_axis(scores, order, 1).astype(np.float32)


def passing_of(collection: Collection, tail: VectorTail, count: int, limit: int, where: Where) -> NDArray[np.uint64]:
    """Return a bit for each of the first `count` slots that passes a filter, if it is served; others may have one."""
    try:
        return collection.passing(tail, where, count)
    except NoColumn:
        bits, _ = tail.served(count, limit)
    flags = np.zeros(len(bits) * 64, np.uint8)
    for slot in slots_of(bits):
        flags[slot] = where.matches(decode_metadata(tail.found(slot).metadata))
    return np.packbits(flags, bitorder="little").view("<u8").astype(np.uint64)


def slots_of(bits: NDArray[np.uint64]) -> list[int]:
    """Return the slots that have a bit."""
    return np.flatnonzero(np.unpackbits(bits.astype("<u8").view(np.uint8), bitorder="little")).tolist()


def _score(metric: str, a: NDArray[np.float32], b: NDArray[np.float32]) -> float:
    x, y = a.astype(np.float64), b.astype(np.float64)
    if metric == "l2":
        return -float(((x - y) ** 2).sum())
    product = float(x @ y)
    return product / float(np.linalg.norm(x) * np.linalg.norm(y)) if metric == "cosine" else product
