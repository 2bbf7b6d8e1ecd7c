from typing import Any, final

import numpy as np
from numpy.typing import NDArray

__pyx_capi__: dict[str, Any]
MOST_DIMENSIONS: int
KINDS: dict[np.dtype[Any], int]

def available() -> tuple[str, ...]: ...
def quantize(vectors: NDArray[np.float32]) -> tuple[NDArray[np.int8], NDArray[np.float32]]: ...
def pair_of(a: object, b: object) -> np.dtype[Any]: ...
def check_scan(rows: object, query: object, k: int, base: int) -> None: ...

@final
class Kernels:
    def __init__(self, name: str | None = None) -> None: ...
    @property
    def name(self) -> str: ...
    def dot(self, a: NDArray[Any], b: NDArray[Any]) -> float: ...
    def squared(self, a: NDArray[Any], b: NDArray[Any]) -> float: ...
    def scan(
        self,
        rows: NDArray[Any],
        steps: NDArray[np.float32] | None,
        query: NDArray[Any],
        query_step: float,
        k: int,
        *,
        squares: NDArray[np.float32] | None = None,
        allowed: NDArray[np.uint64] | None = None,
        base: int = 0,
        found: tuple[NDArray[np.uint32], NDArray[np.float32]] | None = None,
    ) -> tuple[NDArray[np.uint32], NDArray[np.float32]]: ...
