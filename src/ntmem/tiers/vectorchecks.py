"""What a collection of vectors does not take, and why."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from .._core.vectors import sizes
from ..errors import VectorError
from ..instants import require_int
from .points import MOST_DIMENSIONS, MOST_ID, CollectionRow

if TYPE_CHECKING:
    from numpy.typing import NDArray

_LARGEST, _LARGEST_HALF = float(np.finfo(np.float32).max), 65_504.0


def checked_id(id: Any) -> str:
    """Return the id of a vector; raise ``TypeError`` or ``ValueError`` that says what is wrong with it."""
    if not isinstance(id, str):
        raise TypeError(f"id must be a str, was {type(id).__name__}")
    try:
        size = len(id.encode())
    except UnicodeEncodeError:
        raise ValueError("an id holds no lone surrogates") from None
    if not 0 < size <= MOST_ID:
        raise ValueError(f"an id has 1 to {MOST_ID} bytes of UTF-8, had {size}")
    return id


def check_vectors(row: CollectionRow | None, vectors: NDArray[np.float32], what: str) -> None:
    """Raise :class:`VectorError` for vectors that a collection cannot have; row None: it is made for them."""
    dimension = vectors.shape[1]
    if row is not None and dimension != row.dimension:
        raise VectorError(f"{what} has {dimension} dimensions, the collection {row.dimension}")
    least, most = check_numbers(vectors, what)
    if (row is None or row.metric == "cosine") and least == 0.0:
        raise VectorError(f"{what} is zero, which has no direction; a collection by 'l2' or 'ip' takes it")
    if row is not None and row.metric != "cosine" and most * most * dimension > _LARGEST:
        raise VectorError(f"{what} has numbers as large as {most:.3g}, whose squares float32 cannot add up")
    if row is not None and row.dtype == "float16" and row.metric != "cosine" and most > _LARGEST_HALF:
        raise VectorError(f"{what} has numbers beyond {_LARGEST_HALF:.0f}, the largest of float16")


def check_numbers(vectors: NDArray[np.float32], what: str) -> tuple[float, float]:
    """Raise :class:`VectorError` for vectors that no collection can have; return their least and largest size."""
    dimension = vectors.shape[1]
    if not 0 < dimension <= MOST_DIMENSIONS:
        raise VectorError(f"{what} has {dimension} dimensions, a collection has 1 to {MOST_DIMENSIONS}")
    least, most = sizes(vectors)
    if not most <= _LARGEST:
        raise VectorError(f"{what} has NaN or infinity, or numbers beyond float32")
    return least, most


def check_counts(k: int, ef: int | None, rerank: int | None) -> None:
    """Raise for counts of a search that are none."""
    require_int(k, "k", 1)
    for name, value in (("ef", ef), ("rerank", rerank)):
        if value is not None:
            require_int(value, name, 1)
