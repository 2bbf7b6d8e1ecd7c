"""Numbers as people read them: rates, times, bytes, in few characters."""

from __future__ import annotations

_UNITS = ((1_000_000_000, "s"), (1_000_000, "ms"), (1_000, "µs"))
_SIZES = ((1 << 40, "TB"), (1 << 30, "GB"), (1 << 20, "MB"), (1 << 10, "kB"))


def cut(text: str, width: int) -> str:
    """Return text that is no longer than `width`."""
    return text if len(text) <= width else text[: width - 1] + "…"


def number(value: float) -> str:
    """Return a rate, in at most 7 characters."""
    for least, unit in ((1e9, "G"), (1e6, "M"), (1e5, "k")):
        if value >= least:
            return f"{value / (1e3 if unit == 'k' else least):.1f}{unit}"
    return f"{value:,.0f}" if value >= 100 or value == 0 else f"{value:.1f}"


def duration(ns: float | None) -> str:
    """Return a time in the unit that people read it in."""
    if ns is None:
        return "-"
    for least, unit in _UNITS:
        if ns >= least:
            return f"{_three(ns / least)} {unit}"
    return f"{ns:.0f} ns"


def size(count: int) -> str:
    """Return bytes in the unit that people read them in."""
    for least, unit in _SIZES:
        if count >= least:
            return f"{_three(count / least)} {unit}"
    return f"{count} B"


def _three(value: float) -> str:
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}"
