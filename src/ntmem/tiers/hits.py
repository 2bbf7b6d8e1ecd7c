"""What is said of vectors: hits, vectors as they were given, collections."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from .._core.text import html_facts
from .._core.vectors import VectorTail
from .points import decode_metadata, decode_point

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


class SearchHit(NamedTuple):
    """A vector that was found.

    Attributes
    ----------
    id : str
    score : float
        Higher is better: the cosine, the product, or the negative squared distance.
    metadata : dict
    ts_event, ts_known : int
        Nanoseconds UTC.
    """

    id: str
    score: float
    metadata: dict[str, Any]
    ts_event: int
    ts_known: int

    def _repr_html_(self) -> str:
        return html_facts(self._asdict().items())


class StoredVector(NamedTuple):
    """A vector with its metadata, as it was given."""

    id: str
    vector: NDArray[np.float32]
    metadata: dict[str, Any]
    ts_event: int
    ts_known: int


class Entry(NamedTuple):
    """What is kept of a vector beside its numbers."""

    id: str
    metadata: dict[str, Any]
    ts_event: int
    ts_known: int


class CollectionInfo(msgspec.Struct, frozen=True):
    """What there is of a collection.

    Attributes
    ----------
    dimension : int
    metric, dtype : str
    count : int
        Vectors that are served now.
    changes : int
        All that was ever added or deleted: what searches look at.
    memory_bytes : int
        That it takes, of all processes together, without graphs.
    graphs, graphed, graph_bytes : int
        Graphs there are, of how many changes they are, and their bytes, in files that all processes map.
    """

    dimension: int
    metric: str
    dtype: str
    count: int
    changes: int
    memory_bytes: int
    graphs: int
    graphed: int
    graph_bytes: int


def stored_vector(record: bytes) -> StoredVector:
    """Return the vector of a record of the store."""
    point = decode_point(record)
    assert point.vector is not None
    return StoredVector(point.id, point.vector, decode_metadata(point.metadata), point.ts_event, point.ts_known)


def hit_of(tail: VectorTail, slot: int, score: float) -> SearchHit:
    """Return a slot that was found."""
    found = tail.found(slot)
    return SearchHit(found.id, score, decode_metadata(found.metadata), found.ts_event, found.ts_known)


def entry_of(tail: VectorTail, slot: int) -> Entry:
    """Return what is kept of a slot beside its numbers."""
    found = tail.found(slot)
    return Entry(found.id, decode_metadata(found.metadata), found.ts_event, found.ts_known)
