import numpy as np
from numpy.typing import NDArray

MISSING: int
INT: int
FLOAT: int
INTERNED: int

def available() -> tuple[str, ...]: ...
def match(
    kinds: NDArray[np.uint8],
    words: NDArray[np.uint64],
    count: int,
    *,
    ints: tuple[int, int] | None = None,
    floats: tuple[float, float] | None = None,
    mask: NDArray[np.uint64] | None = None,
    missing: bool = False,
    kernels: str | None = None,
) -> NDArray[np.uint64]: ...
def match_any(
    kinds: NDArray[np.uint8],
    words: NDArray[np.uint64],
    count: int,
    *,
    ints: NDArray[np.uint64] | None = None,
    floats: NDArray[np.uint64] | None = None,
    mask: NDArray[np.uint64] | None = None,
    kernels: str | None = None,
) -> NDArray[np.uint64]: ...
