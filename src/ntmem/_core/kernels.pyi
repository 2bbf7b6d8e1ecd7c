from typing import Any, final

import numpy as np
from numpy.typing import NDArray

MOST_DIMENSIONS: int

def available() -> tuple[str, ...]: ...
def quantize(vectors: NDArray[np.float32]) -> tuple[NDArray[np.int8], NDArray[np.float32]]: ...
def pair_of(a: object, b: object) -> np.dtype[Any]: ...

@final
class Kernels:
    def __init__(self, name: str | None = None) -> None: ...
    @property
    def name(self) -> str: ...
    def dot(self, a: NDArray[Any], b: NDArray[Any]) -> float: ...
    def squared(self, a: NDArray[Any], b: NDArray[Any]) -> float: ...
    def scan(
        self,
        rows: NDArray[np.int8],
        steps: NDArray[np.float32],
        query: NDArray[np.int8],
        query_step: float,
        k: int,
        *,
        squares: NDArray[np.float32] | None = None,
        allowed: NDArray[np.uint64] | None = None,
    ) -> tuple[NDArray[np.uint32], NDArray[np.float32]]: ...
