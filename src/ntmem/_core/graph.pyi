from typing import Any, final

import numpy as np
from _typeshed import ReadableBuffer
from numpy.typing import NDArray

METRICS: dict[str, int]
KIND_NAMES: dict[int, str]
KINDS: dict[np.dtype[Any], int]

class Damaged(ValueError): ...

@final
class Graph:
    def __init__(self, buffer: ReadableBuffer) -> None: ...
    @property
    def count(self) -> int: ...
    @property
    def linked(self) -> int: ...
    @property
    def twins(self) -> int: ...
    @property
    def m(self) -> int: ...
    @property
    def levels(self) -> tuple[int, ...]: ...
    @property
    def nbytes(self) -> int: ...
    @property
    def dimension(self) -> int: ...
    @property
    def dtype(self) -> np.dtype[Any]: ...
    @property
    def metric(self) -> str: ...
    def verify(self) -> int: ...
    def neighbours(self, node: int) -> NDArray[np.uint32]: ...
    def search(
        self,
        rows: NDArray[Any],
        steps: NDArray[np.float32] | None,
        query: NDArray[Any],
        query_step: float,
        k: int,
        *,
        ef: int = 100,
        squares: NDArray[np.float32] | None = None,
        allowed: NDArray[np.uint64] | None = None,
        base: int = 0,
        kernels: str | None = None,
    ) -> tuple[NDArray[np.uint32], NDArray[np.float32]]: ...
