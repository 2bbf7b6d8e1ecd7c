"""What is asked of numbers, texts and vectors that are kept: functions that return them, or say what is wrong."""

from __future__ import annotations

import math
from decimal import Decimal
from numbers import Real
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

_MOST_DIMENSIONS = 65_536


def require_number(
    value: Any, name: str, *, least: float | None = None, above: float | None = None, most: float | None = None
) -> float:
    """Return a finite number within bounds; `name` is the argument's name for the error."""
    if isinstance(value, bool) or not isinstance(value, Real | Decimal):
        raise TypeError(f"{name} must be a number, was {type(value).__name__}")
    try:
        number = float(value)
    except (OverflowError, ValueError):  # a signalling NaN is a ValueError
        number = math.inf
    if not math.isfinite(number):
        raise ValueError(f"{name} must be finite, was {value if number != math.inf else 'infinite or too large'}")
    if least is not None and number < least:
        raise ValueError(f"{name} must be at least {least}, was {number}")
    if above is not None and not number > above:
        raise ValueError(f"{name} must be more than {above}, was {number}")
    if most is not None and number > most:
        raise ValueError(f"{name} must be at most {most}, was {number}")
    return number


def check_text(text: Any, name: str, most: int, *, least: int = 1) -> None:
    """Raise unless it is a str of so many bytes."""
    if not isinstance(text, str):
        raise TypeError(f"{name} must be a str, was {type(text).__name__}")
    try:
        size = len(text.encode())
    except UnicodeEncodeError as error:
        raise ValueError(f"{name} must be encodable as UTF-8, was {text[:64]!r}") from error
    if not least <= size <= most or "\0" in text:
        raise ValueError(f"{name} has {least} to {most} bytes of UTF-8, without NUL, was {text[:64]!r} of {size} bytes")


def encode_embedding(vector: ArrayLike) -> bytes:
    """Return a vector as float32 in little-endian order."""
    import numpy as np

    array = np.asarray(vector)
    if array.dtype.kind not in "fiu":
        raise TypeError(f"an embedding is an array of numbers, was of {array.dtype}")
    if array.ndim != 1 or not 0 < len(array) <= _MOST_DIMENSIONS:
        raise ValueError(f"an embedding has one dimension of 1 to {_MOST_DIMENSIONS} numbers, was {array.shape}")
    with np.errstate(over="ignore"):
        numbers = array.astype("<f4")
    if not np.isfinite(numbers).all():
        raise ValueError("an embedding has finite numbers only, as float32; one was NaN, infinite or too large")
    if not numbers.any():
        raise ValueError("an embedding must not be all zero: it is compared by its direction")
    return numbers.tobytes()
