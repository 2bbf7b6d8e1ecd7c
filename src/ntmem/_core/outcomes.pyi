import numpy as np
from numpy.typing import NDArray

def fold(
    actions: NDArray[np.uint16], values: NDArray[np.float64], kinds: int, keeps: float
) -> tuple[list[tuple[float, float, float, float]], list[tuple[float, float, float, float]], list[int]]: ...
