"""Times as market data files write them, turned into integer nanoseconds UTC without a rounding step.

A number counts seconds, milliseconds, microseconds or nanoseconds since the Unix epoch; which of them is told by
its magnitude unless the user says. Text is ISO 8601 with a zone; a plain date is midnight UTC.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta, timezone, tzinfo
from decimal import Decimal

from ..instants import NS

UNITS = {"ns": 1, "us": 1_000, "ms": 1_000_000, "s": NS}
LAST = 7_258_118_400 * NS
"""Times from 2200 on are refused: they are damage, and the grid of steps stays far from the end of int64."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_ISO = re.compile(
    r"(\d{4})-(\d\d)-(\d\d)(?:[T ](\d\d):(\d\d)(?::(\d\d)(?:[.,](\d{1,9})0*)?)?)?\s*(Z|z|UTC|[+-]\d\d(?::?\d\d)?)?",
    re.ASCII,
)
NUMBER = re.compile(r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d{1,3})?", re.ASCII)
_COMPACT_DATE = re.compile(r"(?:19|20)\d{6}", re.ASCII)


class BadValue(ValueError):
    """A field that does not hold what its column promises; the message is the reason it is counted under."""


class NaiveTime(BadValue):
    """A text time without a zone."""


def detect_unit(texts: Iterable[str]) -> str | None:
    """Return the unit that most numeric times of a sample are in; None if there is no numeric time."""
    units = Counter(unit for unit in map(_unit_of, texts) if unit is not None)
    return units.most_common(1)[0][0] if units else None


def _unit_of(text: str) -> str | None:
    if _COMPACT_DATE.fullmatch(text) or not NUMBER.fullmatch(text) or len(text) > 40:
        return None
    size = abs(Decimal(text))
    return next((unit for unit, end in (("s", 11), ("ms", 14), ("us", 17)) if size < Decimal(10) ** end), "ns")


class TimeReader:
    """Reads the times of one column.

    Parameters
    ----------
    unit : str or None
        Key of :data:`UNITS` for numeric times; None refuses them.
    zone : tzinfo, optional
        The zone of text times that name none; without it they are refused.
    compact_dates : bool
        Take eight digits as YYYYMMDD.
    """

    def __init__(self, unit: str | None, zone: tzinfo | None = None, *, compact_dates: bool = True) -> None:
        self._scale = None if unit is None else UNITS[unit]
        self._zone = zone
        self._compact_dates = compact_dates

    def __call__(self, text: str) -> int:
        """Return nanoseconds UTC, or raise :class:`BadValue`."""
        if self._compact_dates and len(text) == 8 and _COMPACT_DATE.fullmatch(text):
            ns = self._iso(f"{text[:4]}-{text[4:6]}-{text[6:]}")
        elif text.isdigit() and text.isascii() and len(text) < 40 and self._scale is not None:
            ns = int(text) * self._scale
        elif len(text) <= 40 and NUMBER.fullmatch(text):
            ns = self._decimal(text)
        else:
            ns = self._iso(text)
        if not 0 <= ns < LAST:
            raise BadValue("time out of range")
        return ns

    def _decimal(self, text: str) -> int:
        if self._scale is None:
            raise BadValue("time is not readable")
        sign, digits, exponent = Decimal(text).as_tuple()
        value = int("".join(map(str, digits))) * self._scale * (-1 if sign else 1)
        power: int = 10 ** abs(int(exponent))
        if int(exponent) >= 0:
            return value * power
        ns, rest = divmod(value, power)
        if rest:
            raise BadValue("time is finer than a nanosecond")
        return ns

    def _iso(self, text: str) -> int:
        match = _ISO.fullmatch(text)
        if match is None:
            raise BadValue("time is not readable")
        year, month, day, hour, minute, second, fraction, offset = match.groups()
        zone = UTC if hour is None and offset is None else self._zone_of(offset)
        try:
            moment = datetime(
                int(year), int(month), int(day), int(hour or 0), int(minute or 0), int(second or 0), tzinfo=zone
            )
            passed = moment - _EPOCH
        except (ValueError, OverflowError) as error:
            raise BadValue("time is not readable") from error
        return (passed.days * 86_400 + passed.seconds) * NS + int((fraction or "").ljust(9, "0"))

    def _zone_of(self, offset: str | None) -> tzinfo:
        if offset is None:
            if self._zone is None:
                raise NaiveTime("time without a zone")
            return self._zone
        if offset in ("Z", "z", "UTC"):
            return UTC
        digits = offset[1:].replace(":", "").ljust(4, "0")
        minutes = int(digits[:2]) * 60 + int(digits[2:])
        if minutes >= 24 * 60:
            raise BadValue("time is not readable")
        return timezone(timedelta(minutes=-minutes if offset[0] == "-" else minutes))


def seconds_ns(value: float | Decimal | str, name: str) -> int:
    """Return a duration given in seconds, 0 or more, as nanoseconds; a float stands for its shortest digits."""
    try:
        seconds = Decimal(str(value))
    except ArithmeticError:
        raise ValueError(f"{name} must be a number of seconds, was {value!r}") from None
    if not seconds.is_finite() or not 0 <= seconds < 10**9:
        raise ValueError(f"{name} must be seconds, 0 or more and less than 10**9, was {value}")
    return round(seconds * NS)
