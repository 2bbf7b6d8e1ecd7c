from collections.abc import Sequence
from typing import Any, TypeVar, final

import numpy as np
from numpy.typing import NDArray

from ntmem._core.graph import Graph
from ntmem._core.vectors import VectorTail

_H = TypeVar("_H", bound=tuple[Any, ...])

@final
class Search:
    def __init__(
        self,
        tail: VectorTail,
        k: int,
        count: int,
        bits: NDArray[np.uint64] | None,
        graphs: Sequence[tuple[int, Graph]],
        ef: int,
    ) -> None: ...

def search(
    tail: VectorTail,
    queries: NDArray[np.float32],
    k: int,
    count: int,
    bits: NDArray[np.uint64] | None = None,
    *,
    graphs: Sequence[tuple[int, Graph]] = (),
    ef: int = 0,
) -> tuple[NDArray[np.uint32], NDArray[np.float32]]: ...
def hits(
    tail: VectorTail,
    make: type[_H],
    queries: NDArray[np.float32],
    k: int,
    count: int,
    bits: NDArray[np.uint64] | None = None,
    *,
    least: float = ...,
    graphs: Sequence[tuple[int, Graph]] = (),
    ef: int = 0,
) -> list[list[_H]]: ...
def ids(tail: VectorTail, slots: NDArray[np.uint32], scores: NDArray[np.float32]) -> NDArray[np.object_]: ...
