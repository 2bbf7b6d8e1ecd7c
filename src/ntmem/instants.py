"""Instants and durations as users write them, turned into integer nanoseconds.

Instants are int nanoseconds since the Unix epoch (UTC), ``datetime`` with a zone, or ``numpy.datetime64``.
Durations are seconds (int or float) or ``timedelta``. Both conversions are exact for every type but float.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from threading import TIMEOUT_MAX
from typing import TYPE_CHECKING, Any, TypeAlias

if TYPE_CHECKING:
    import numpy as np

Instant: TypeAlias = "int | datetime | np.datetime64"
Duration: TypeAlias = "float | timedelta"

NS = 1_000_000_000
MAX_INSTANT = 2**63 - 1
"""The last instant a store can hold: 2262-04-11, the end of an int64 of nanoseconds."""

_EPOCH = datetime(1970, 1, 1)


class _Latest:
    """The type of :data:`LATEST`."""

    def __repr__(self) -> str:
        return "ntmem.LATEST"

    def __reduce__(self) -> str:
        return "LATEST"


LATEST = _Latest()
"""Pass it as ``as_of`` to lift the limit "as of now": the newest version, known yet or not."""

AsOf: TypeAlias = "Instant | _Latest | None"


def shown(value: Any) -> str:
    """Return a value for a message; an int may have more digits than the interpreter prints."""
    try:
        return repr(value)
    except ValueError:
        return f"an int of {value.bit_length()} bits"


def require_int(value: Any, name: str, least: int, most: int = MAX_INSTANT) -> int:
    """Return `value` if it is an int in [least, most]; `name` is the argument's name for the error."""
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(f"{name} must be an int, was {type(value).__name__}")
    if not least <= value <= most:
        raise ValueError(f"{name} must be from {least} to {most}, was {shown(value)}")
    return value


def require_bool(value: Any, name: str) -> None:
    """Raise unless `value` is a bool."""
    if not isinstance(value, bool):
        raise TypeError(f"{name} must be a bool, was {type(value).__name__}")


def _delta_ns(delta: timedelta) -> int:
    nanoseconds = getattr(delta, "nanoseconds", 0)  # of a pandas Timedelta
    return (delta.days * 86_400 + delta.seconds) * NS + delta.microseconds * 1_000 + nanoseconds


def instant_ns(value: Any, name: str) -> int:
    """Return an instant as int nanoseconds UTC; `name` is the argument's name for the error."""
    if type(value) is int:
        ns = value
    elif isinstance(value, datetime):
        if value.utcoffset() is None:
            raise ValueError(f"{name} must carry a time zone, was the naive {value!r}; add tzinfo=datetime.UTC")
        # A pandas Timestamp is a datetime with nanoseconds of its own, which datetime's arithmetic drops.
        ns = _delta_ns(value.astimezone(UTC).replace(tzinfo=None) - _EPOCH) + getattr(value, "nanosecond", 0)
    elif type(value).__module__ == "numpy":
        ns = _numpy_instant_ns(value, name)
    else:
        raise TypeError(
            f"{name} must be int nanoseconds UTC, a datetime with zone or numpy.datetime64, was {type(value).__name__}"
        )
    if not 0 <= ns <= MAX_INSTANT:
        raise ValueError(f"{name} must lie between 1970 and 2262 in nanoseconds, was {shown(ns)}")
    return ns


def _numpy_instant_ns(value: Any, name: str) -> int:
    import numpy as np

    if isinstance(value, np.integer):
        return int(value)
    if not isinstance(value, np.datetime64):
        raise TypeError(f"{name} must be int nanoseconds UTC or numpy.datetime64, was numpy.{type(value).__name__}")
    if np.isnat(value):
        raise ValueError(f"{name} must be an instant, was NaT")
    try:
        ns = value.astype("datetime64[ns]")
        exact = ns.astype(value.dtype) == value  # when nanoseconds overflow, older numpy wraps silently
    except OverflowError:  # and newer numpy raises
        exact = False
    if not exact:
        raise ValueError(f"{name} must lie between 1970 and 2262 in whole nanoseconds, was {value}")
    return int(ns.astype("int64"))


def duration_ns(value: Any, name: str) -> int:
    """Return a duration as int nanoseconds; it must be positive and finite."""
    if isinstance(value, timedelta):
        ns = _delta_ns(value)
    elif isinstance(value, int | float) and not isinstance(value, bool):
        if not value < MAX_INSTANT / NS:  # also refuses NaN and infinity
            raise ValueError(f"{name} must be a finite number of seconds below {MAX_INSTANT // NS}, was {shown(value)}")
        ns = round(value * NS)
    else:
        raise TypeError(f"{name} must be seconds (int or float) or a timedelta, was {type(value).__name__}")
    if not 0 < ns <= MAX_INSTANT:
        raise ValueError(f"{name} must be more than 0 seconds and less than 292 years, was {shown(value)}")
    return ns


def seconds_of(timeout: Duration | None) -> float | None:
    """Return a time-out in seconds, 0 or more; None: none."""
    if timeout is None:
        return None
    if isinstance(timeout, timedelta):
        timeout = timeout.total_seconds()
    if isinstance(timeout, bool) or not isinstance(timeout, int | float):
        raise TypeError(f"timeout must be seconds, a timedelta or None, was {type(timeout).__name__}")
    if not timeout >= 0:
        raise ValueError(f"timeout must be 0 or more seconds, was {timeout}; None waits for ever")
    if timeout > TIMEOUT_MAX:
        raise OverflowError(f"timeout must be at most {TIMEOUT_MAX} seconds, was {timeout}; None waits for ever")
    return float(timeout)
