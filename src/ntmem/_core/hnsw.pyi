from typing import Any, final

import numpy as np
from numpy.typing import NDArray

from .graph import Graph

METRICS: dict[str, int]
KINDS: dict[np.dtype[Any], int]
MOST_DIMENSIONS: int
MOST_ROWS: int
MOST_M: int
MOST_EF: int

def check_rows(rows: object, steps: object, squares: object, metric: object) -> None: ...
def check_job(m: int, ef_construction: int, threads: int, stop: NDArray[np.int32] | None) -> None: ...
def check_part(rows: object, m: int, metric: str, wanted: NDArray[np.uint64] | None, base: Graph | None) -> None: ...
def build(
    rows: NDArray[Any],
    steps: NDArray[np.float32] | None,
    squares: NDArray[np.float32] | None = None,
    *,
    metric: str = "cosine",
    m: int = 16,
    ef_construction: int = 200,
    threads: int = 1,
    seed: int = 100,
    stop: NDArray[np.int32] | None = None,
    kernels: str | None = None,
    wanted: NDArray[np.uint64] | None = None,
    base: Graph | None = None,
    share: float = 1.0,
    background: bool = False,
) -> bytes | None: ...
def build_bytes(rows: int, m: int = 16) -> int: ...

@final
class Rows:
    def __init__(
        self,
        rows: NDArray[Any],
        steps: NDArray[np.float32] | None,
        squares: NDArray[np.float32] | None,
        *,
        metric: str = "cosine",
        kernels: str | None = None,
    ) -> None: ...

@final
class Built:
    def __init__(
        self,
        rows: NDArray[Any],
        steps: NDArray[np.float32] | None,
        squares: NDArray[np.float32] | None = None,
        *,
        metric: str = "cosine",
        m: int = 16,
        ef_construction: int = 200,
        threads: int = 1,
        seed: int = 100,
        plain: bool = False,
        kernels: str | None = None,
    ) -> None: ...
    @property
    def graph(self) -> bytes: ...
    @property
    def mended(self) -> int: ...
    def search(
        self,
        query: NDArray[Any],
        query_step: float,
        k: int,
        *,
        ef: int = 100,
        allowed: NDArray[np.uint64] | None = None,
    ) -> tuple[NDArray[np.uint32], NDArray[np.float32]]: ...
