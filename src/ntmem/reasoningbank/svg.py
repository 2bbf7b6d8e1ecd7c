"""Pictures as SVG that stands in a page: lines with bands over two axes, dots, bars.

Nothing is loaded from elsewhere and nothing runs. Names come from whoever wrote to the store: all text goes through
:func:`said`. A picture is as large as what it is given; who calls bounds that.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from html import escape
from typing import NamedTuple

WITH, WITHOUT, LINES = "#0072b2", "#d55e00", ("#0072b2", "#d55e00", "#009e73", "#cc79a7")
"""Colours that the colour-blind tell apart (Okabe and Ito)."""
GREY = "#8a8a8a"
_WIDTH, _HEIGHT = 460, 250
_LEFT, _RIGHT, _TOP, _BOTTOM = 64, 24, 52, 30
_EDGE = 24  # between the outermost dots and the rim
_ROW, _ROWS = 11.0, 4  # pixels between labels of dots; half rows by which one goes down where another is
_TICKS = 5
_MOST_MARKED = 60  # points of a line up to which each has a dot
_NAME, _SHORT, _TITLE, _LETTER = 26, 18, 60, 6.3  # letters of names in a picture and of its title; pixels of one
_SECOND, _DAY = 10**9, 86_400 * 10**9
_STEPS = (
    *(10**power for power in range(9)),
    *(each * _SECOND for each in (1, 5, 15, 30, 60, 300, 900, 1800, 3600, 10_800, 21_600, 43_200)),
    *(each * _DAY for each in (1, 2, 4, 7, 14, 30, 61, 122, 365, 730, 1825, 3650, 18_250, 36_500)),
)
"""Distances of marks on an axis of time, ns."""


class Point(NamedTuple):
    """Where a line goes through, and what `y` lies between (None: that is not known)."""

    x: float
    y: float
    low: float | None = None
    high: float | None = None


class Line(NamedTuple):
    """Points from left to right."""

    name: str
    color: str
    points: Sequence[Point]


class Dot(NamedTuple):
    """A dot of `size` pixels, moved by `shift` pixels; a `label` is beside it, a `hint` where the mouse is on it."""

    x: float
    y: float
    size: float
    color: str
    opacity: float
    label: str = ""
    hint: str = ""
    shift: tuple[float, float] = (0.0, 0.0)


class Bar(NamedTuple):
    """Parts of a bar, one behind the other, as colour and length."""

    name: str
    hint: str
    parts: Sequence[tuple[str, float]]


class _Scale(NamedTuple):
    """Where values of an axis are."""

    low: float
    high: float
    start: float
    end: float

    def at(self, value: float) -> float:
        share = (value - self.low) / (self.high - self.low)
        return self.start + max(-1.0, min(share, 2.0)) * (self.end - self.start)


def shown(text: str, most: int = 300) -> str:
    """Return text without what is not to be seen, or turns the direction of what is, of so many letters."""
    seen = "".join(letter if letter.isprintable() else "\ufffd" for letter in text[:most])
    return seen if len(text) <= most else seen[: most - 1] + "…"


def said(text: str, most: int = 300) -> str:
    """Return text as it may stand in a page: as :func:`shown`, and escaped."""
    return escape(shown(text, most))


def amount_of(unit: str) -> Callable[[float], str]:
    """Return how amounts of a unit are written: "return" or "share" in per cent, "reward" as they are."""
    if unit == "reward":
        return lambda value: f"{value:.4g}"
    return lambda value: f"{100 * value:.4g} %"


def chart(
    title: str,
    lines: Sequence[Line],
    amount: Callable[[float], str],
    *,
    is_time: bool = True,
    bounds: tuple[float, float] | None = None,
    marks: Sequence[float] = (),
    diagonal: bool = False,
) -> str:
    """Draw lines with their bands over an axis of time (int ns), or of numbers as those of `amount`.

    Parameters
    ----------
    bounds : tuple of float, optional
        Of the upright axis, and of the other one, too, if that is not time; else as the points need.
    marks : sequence of float
        Upright lines.
    diagonal : bool
        Where both are equal.
    """
    points = [point for line in lines for point in line.points]
    first = min((point.x for point in points), default=0) if is_time else 0
    xs = [point.x - first for point in points]  # ns of this century have no place in a float
    ys = [end for point in points for end in (point.y, point.low, point.high) if end is not None]
    if is_time and not any(xs):
        xs = [-_DAY, _DAY]  # of one instant
    across = _scale(xs, None if is_time else bounds, _LEFT, _WIDTH - _RIGHT)
    up = _scale(ys, bounds, _HEIGHT - _BOTTOM, _TOP)
    drawn = [_upright_axis(up, amount)]
    labels = _times(across, int(first)) if is_time else [(at, amount(at)) for at in ticks(across.low, across.high)]
    drawn += [_across_label(across.at(at), text) for at, text in labels]
    if diagonal:
        drawn.append(
            f'<line x1="{across.start}" y1="{up.start}" x2="{across.end}" y2="{up.end}" stroke="{GREY}"'
            ' stroke-dasharray="4 3"/>'
        )
    for mark in marks:
        if across.low <= mark - first <= across.high:
            x = f"{across.at(mark - first):.1f}"
            drawn.append(
                f'<line x1="{x}" x2="{x}" y1="{_TOP}" y2="{_HEIGHT - _BOTTOM}" stroke="{GREY}" stroke-dasharray="3 3"/>'
            )
    for line in lines:
        drawn += _line(line, across, up, first)
    return _picture(title, _HEIGHT, drawn + _legend([(line.name, line.color) for line in lines]))


def scatter(title: str, dots: Sequence[Dot], legend: Sequence[tuple[str, str]] = ()) -> str:
    """Draw dots, a step across as long as one upwards; where they are says only which are near each other."""
    height = 420
    width_left, height_left = _WIDTH - 2 * _EDGE, height - _TOP - 2 * _EDGE
    low_x, high_x = _widened([dot.x for dot in dots])
    low_y, high_y = _widened([dot.y for dot in dots])
    unit = max((high_x - low_x) / width_left, (high_y - low_y) / height_left)
    middle_x, middle_y = (low_x + high_x) / 2, (low_y + high_y) / 2
    drawn, names = [], []
    for dot in sorted(dots, key=lambda it: -it.size):  # the small ones stay to be seen
        x = _WIDTH / 2 + (dot.x - middle_x) / unit + dot.shift[0]
        y = _TOP + _EDGE + height_left / 2 - (dot.y - middle_y) / unit + dot.shift[1]
        drawn.append(
            f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{dot.size:.1f}" fill="{dot.color}" fill-opacity="{dot.opacity:.2f}"'
            f' stroke="{dot.color}"><title>{said(dot.hint, 500)}</title></circle>'
        )
        if dot.label:
            names.append((x, y + 3.5, dot))
    return _picture(title, height, drawn + _beside(names) + _legend(legend))


def bars(title: str, rows: Sequence[Bar], legend: Sequence[tuple[str, str]] = ()) -> str:
    """Draw bars below each other, with what they add up to."""
    step, left, right = 20, 190, 46
    most = max((sum(length for _, length in row.parts) for row in rows), default=0) or 1.0
    drawn = []
    for place, row in enumerate(rows):
        y, x = _TOP + step * place, float(left)
        drawn.append(f"<g><title>{said(row.hint, 500)}</title>")
        drawn.append(f'<text x="{left - 6}" y="{y + 12}" text-anchor="end">{said(row.name, _NAME)}</text>')
        for color, length in row.parts:
            wide = (_WIDTH - left - right) * length / most
            drawn.append(f'<rect x="{x:.1f}" y="{y}" width="{wide:.1f}" height="{step - 5}" fill="{color}"/>')
            x += wide
        whole = sum(length for _, length in row.parts)
        drawn.append(f'<text x="{x + 5:.1f}" y="{y + 12}">{whole:.6g}</text></g>')
    return _picture(title, _TOP + step * len(rows) + 8, drawn + _legend(legend))


def _beside(names: Sequence[tuple[float, float, Dot]]) -> list[str]:
    """Draw labels of dots, a little lower where another one is; where many are, some are left out."""
    drawn, taken = [], list[tuple[float, float, float]]()
    for x, y, dot in sorted(names, key=lambda it: it[1]):
        wide = _LETTER * min(len(dot.label), _SHORT)
        left, right = x - dot.size - 3 - wide, x + dot.size + 3
        is_left = left >= 0 and (dot.shift[0] < 0 or right + wide > _WIDTH)  # away from those that it was moved from
        side, start = ("end", left) if is_left else ("start", right)
        for row in range(_ROWS + 1):
            at = y + row * _ROW / 2
            if all(abs(at - other) >= _ROW or start > high or start + wide < low for low, high, other in taken):
                taken.append((start, start + wide, at))
                edge = start if side == "start" else start + wide
                drawn.append(f'<text x="{edge:.1f}" y="{at:.1f}" text-anchor="{side}">{said(dot.label, _SHORT)}</text>')
                break
    return drawn


def ticks(low: float, high: float) -> list[float]:
    """Return round numbers from `low` to `high`, about five."""
    rough = (high - low) / _TICKS
    power = 10.0 ** math.floor(math.log10(rough))
    step = next((each * power for each in (1, 2, 5) if each * power >= rough), 10 * power)
    return [step * place for place in range(math.ceil(low / step), math.floor(high / step) + 1)]


def _times(across: _Scale, first: int) -> list[tuple[float, str]]:
    """Return where an axis of time is marked, and how."""
    rough = (across.high - across.low) / _TICKS
    step = next((each for each in _STEPS if each >= rough), _STEPS[-1])
    form = "%Y-%m-%d" if step >= _DAY else "%m-%d %H:%M" if step >= 60 * _SECOND else "%H:%M:%S"
    low, high = first + math.ceil(across.low), first + math.floor(across.high)
    found = []
    for at in range(-(-max(low, 0) // step) * step, high + 1, step):
        seconds, rest = divmod(at, _SECOND)
        text = datetime.fromtimestamp(seconds, UTC).strftime(form)
        found.append((float(at - first), text if step >= _SECOND else f"{text}.{rest:09d}"))
    return found


def _widened(values: Sequence[float]) -> tuple[float, float]:
    """Return the least and the greatest, apart from each other."""
    low, high = min(values, default=0.0), max(values, default=1.0)
    largest = max(abs(low), abs(high))
    if high - low > max(1e-9 * largest, 1e-200):
        return low, high
    aside = 0.1 * largest if largest > 1e-200 else 1.0
    return low - aside, high + aside


def _scale(values: Sequence[float], bounds: tuple[float, float] | None, start: float, end: float) -> _Scale:
    return _Scale(*(bounds or _widened(values)), start, end)


def _upright_axis(up: _Scale, amount: Callable[[float], str]) -> str:
    drawn = []
    for at in ticks(up.low, up.high):
        y = up.at(at)
        drawn.append(
            f'<line x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}" stroke="{GREY}"'
            ' stroke-opacity="0.3"/>'
            f'<text x="{_LEFT - 6}" y="{y + 3.5:.1f}" text-anchor="end">{escape(amount(at))}</text>'
        )
    return "".join(drawn)


def _across_label(x: float, text: str) -> str:
    return f'<text x="{x:.1f}" y="{_HEIGHT - _BOTTOM + 17}" text-anchor="middle">{escape(text)}</text>'


def _line(line: Line, across: _Scale, up: _Scale, first: float) -> list[str]:
    """Draw a line: its band or, of a single point, its interval, then itself."""
    drawn = []
    places = [(across.at(point.x - first), point) for point in line.points]
    sure = [(x, up.at(it.low), up.at(it.high)) for x, it in places if it.low is not None and it.high is not None]
    if len(sure) > 1:
        corners = [(x, high) for x, _, high in sure] + [(x, low) for x, low, _ in reversed(sure)]
        drawn.append(f'<path d="{_path(corners)}Z" fill="{line.color}" fill-opacity="0.15"/>')
    else:
        drawn += [f'<path d="{_path([(x, low), (x, high)])}" stroke="{line.color}"/>' for x, low, high in sure]
    if len(places) > 1:
        way = _path([(x, up.at(point.y)) for x, point in places])
        drawn.append(f'<path d="{way}" fill="none" stroke="{line.color}" stroke-width="1.6"/>')
    if len(places) <= _MOST_MARKED:
        drawn += [
            f'<circle cx="{x:.1f}" cy="{up.at(point.y):.1f}" r="2.4" fill="{line.color}"/>' for x, point in places
        ]
    return drawn


def _path(corners: Sequence[tuple[float, float]]) -> str:
    return "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in corners)


def _legend(names: Sequence[tuple[str, str]]) -> list[str]:
    x, drawn = 8.0, []
    for name, color in names:
        drawn.append(f'<rect x="{x:.1f}" y="27" width="10" height="10" fill="{color}"/>')
        drawn.append(f'<text x="{x + 14:.1f}" y="36">{said(name, _NAME)}</text>')
        x += 26 + _LETTER * min(len(name), _NAME)
    return drawn


def _picture(title: str, height: float, drawn: Sequence[str]) -> str:
    name = said(title, _TITLE)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height:.0f}" width="{_WIDTH}"'
        f' height="{height:.0f}" role="img" aria-label="{name}" font-family="sans-serif" font-size="11"'
        f' fill="currentColor"><text x="8" y="17" font-size="13" font-weight="bold">{name}</text>{"".join(drawn)}</svg>'
    )
