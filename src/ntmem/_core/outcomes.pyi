import numpy as np
from numpy.typing import NDArray

Sums = tuple[float, float, float, float]

def fold(
    actions: NDArray[np.uint16], values: NDArray[np.float64], kinds: int, keeps: float
) -> tuple[list[Sums], list[Sums], list[int]]: ...
