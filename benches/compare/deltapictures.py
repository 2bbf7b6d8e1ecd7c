"""Two pictures of a comparison: ratios by table, and speed of decoding against ratio. They want matplotlib."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

_COLOURS = {"columns": "#073763", "best": "#3d85c6", "fast": "#9fc5e8"}
_OTHERS = ("#b45f06", "#e69138", "#38761d", "#93c47d", "#a64d79", "#666666")


class Point(NamedTuple):
    ratio: float
    decode: float | None  # MB/s


Points = Mapping[str, Mapping[str, Point]]  # by table, then by codec


def draw(points: Points, directory: Path) -> list[Path]:
    """Draw ``delta-ratios.svg`` and ``delta-speeds.svg`` into a directory, and return their paths.

    "columns" is ours at its best with columns that know each other.
    """
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": "ntmem", "font.size": 9})
    directory.mkdir(parents=True, exist_ok=True)
    paths = []
    for name, picture in (("delta-ratios.svg", _ratios(points)), ("delta-speeds.svg", _speeds(points))):
        paths.append(directory / name)
        picture.savefig(paths[-1], metadata={"Date": None}, bbox_inches="tight")
    return paths


def _names(points: Points) -> list[str]:
    return list(next(iter(points.values())))


def _colour(names: list[str], name: str) -> str:
    others = [one for one in names if one not in _COLOURS]
    return _COLOURS.get(name) or _OTHERS[others.index(name) % len(_OTHERS)]


def _ratios(points: Points) -> Any:
    from matplotlib.figure import Figure

    names, tables = _names(points), list(points)
    figure = Figure(figsize=(9, 4))
    axes = figure.add_subplot()
    width = 0.86 / len(names)
    for place, name in enumerate(names):
        at = np.arange(len(tables)) + (place - (len(names) - 1) / 2) * width
        axes.bar(at, [points[table][name].ratio for table in tables], width, label=name, color=_colour(names, name))
    axes.set_xticks(range(len(tables)), [table.replace("-", "\n") for table in tables])
    axes.set_yscale("log")
    axes.set_yticks([1, 2, 4, 8, 16, 32], ["1", "2", "4", "8", "16", "32"])
    axes.minorticks_off()
    axes.set_ylabel("bytes in arrays for one coded")
    axes.grid(axis="y", alpha=0.3)
    axes.set_axisbelow(True)
    axes.legend(ncols=len(names), loc="lower center", bbox_to_anchor=(0.5, 1), frameon=False, columnspacing=1)
    return figure


def _speeds(points: Points) -> Any:
    """Draw each codec's mean (geometric) over the tables."""
    from matplotlib.figure import Figure

    names = _names(points)
    figure = Figure(figsize=(7, 4.5))
    axes = figure.add_subplot()
    for name in names:
        colour = _colour(names, name)
        found = [points[table][name] for table in points]
        ratio = float(np.exp(np.mean(np.log([one.ratio for one in found]))))
        speeds = [one.decode for one in found if one.decode is not None]
        if not speeds:
            axes.axhline(ratio, color=colour, linestyle="--", linewidth=1)
            axes.annotate(f"{name} (size only)", (0.01, ratio), (0, 3), ("axes fraction", "data"), "offset points")
            continue
        speed = float(np.exp(np.mean(np.log(speeds))))
        axes.scatter([speed], [ratio], 70, colour, label=name)
    axes.set_xlim(left=0)
    axes.set_ylim(bottom=0)
    axes.set_xlabel("decoding, MB/s of one thread; means of the tables, as is the ratio")
    axes.set_ylabel("bytes in arrays for one coded")
    axes.grid(alpha=0.3)
    axes.set_axisbelow(True)
    axes.legend(loc="upper left", bbox_to_anchor=(1, 1), frameon=False)
    return figure
