"""Figures that are kept: of pytest-benchmark's JSON what the page needs, merged into a file in git.

A file is of one process for each benchmark: ``{"machine": text, "figures": {name: figures}}``. A name is
``file::function[parameters]`` as pytest has it, or the file of a program in ``compare/``. Parts may be made one after
the other; each figure has its day. A run is a file ``1.json`` and those of more processes, ``1-2.json``, ``1-3.json``.
"""

from __future__ import annotations

import contextlib
import json
import os
import platform
import statistics
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

from figures import median_interval

PEERS = (
    *("lmdb", "msgspec", "numpy", "cachebox", "cachetools", "lru-dict", "moka-py", "theine", "diskcache", "redis"),
    *("nautilus_trader", "pyzmq", "iceoryx2", "hnswlib", "faiss-cpu", "usearch", "pcodec", "zstandard", "blosc2"),
)
KNOWN = {"ours_ns", "theirs_ns", "ratio", "ratio_interval", "calls", "untimed", "curve", "pace"}

Interval = tuple[float, float, float]
"""A median, and the two values between which it lies with 95 %."""


class Figures(NamedTuple):
    """What one benchmark found."""

    name: str
    day: str
    ours: Interval | None = None  # ns a call, unless `curve` has another unit
    theirs: Interval | None = None
    ratio: Interval | None = None
    notes: Mapping[str, Any] = {}  # nobody changes it
    curve: Mapping[str, Any] | None = None
    pace: float | None = None
    """ns that Python took for a thousand additions, at that time."""

    @property
    def parts(self) -> tuple[str, str, str]:
        """Return file, function and parameters."""
        path, _, test = self.name.partition("::")
        function, _, parameters = test.partition("[")
        return path, function, parameters.removesuffix("]")


class Run(NamedTuple):
    machine: str
    figures: dict[str, Figures]


def versions() -> dict[str, str]:
    """Return the versions of the interpreter and of what is compared with."""
    found = {"CPython": platform.python_version()}
    for name in PEERS:
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    return found


def machine_text(processor: str) -> str:
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / (1 << 30)
    rest = ", ".join(f"{name} {version}" for name, version in versions().items())
    return (
        f"{os.cpu_count()} cores of {processor}, {memory:.0f} GiB, {platform.system()} {platform.release()}, "
        f"{platform.python_compiler()}, {rest}"
    )


def processor_name() -> str:
    with open("/proc/cpuinfo") as file:
        return next(line.partition(":")[2].strip() for line in file if line.startswith("model name"))


def of_benchmarks(data: Mapping[str, Any]) -> Run:
    """Return the figures of pytest-benchmark's JSON."""
    day = data["datetime"][:10]
    found = {}
    for benchmark in data["benchmarks"]:
        name, info = benchmark["fullname"], benchmark["extra_info"]
        ratio = (info["ratio"], *info["ratio_interval"]) if "ratio" in info else None
        ours = tuple(info["ours_ns"]) if "ours_ns" in info else None
        if ours is None and not info.get("untimed"):
            ours = tuple(1e9 * each / info.get("calls", 1) for each in median_interval(benchmark["stats"]["data"]))
        notes = {name: value for name, value in info.items() if name not in KNOWN}
        theirs = tuple(info["theirs_ns"]) if "theirs_ns" in info else None
        found[name] = Figures(name, day, ours, theirs, ratio, notes, info.get("curve"), info.get("pace"))
    return Run(machine_text(processor_name()), found)


def load(path: Path) -> Run:
    """Return the figures of a file: pytest-benchmark's, a program's in ``compare/``, or one of those kept."""
    data = json.loads(path.read_text())
    if "benchmarks" in data:
        return of_benchmarks(data)
    if "program" in data:
        found = Figures(data["program"], datetime.now(UTC).date().isoformat(), notes=data["notes"])
        return Run(machine_text(processor_name()), {found.name: found})
    figures = {}
    for name, one in data["figures"].items():
        intervals = {key: tuple(one[key]) for key in ("ours", "theirs", "ratio") if key in one}
        rest = {"notes": one.get("notes", {}), "curve": one.get("curve"), "pace": one.get("pace")}
        figures[name] = Figures(name, one["day"], **intervals, **rest)
    return Run(data["machine"], figures)


def load_run(directory: Path, number: int) -> Run | None:
    """Return what the processes of a run found together; None if there was none."""
    paths = [*directory.glob(f"{number}.json"), *sorted(directory.glob(f"{number}-*.json"))]
    runs = [load(path) for path in paths]
    if not runs:
        return None
    names = dict.fromkeys(name for run in runs for name in run.figures)
    found = {name: together([run.figures[name] for run in runs if name in run.figures]) for name in names}
    return Run(runs[0].machine, dict(sorted(found.items())))


def together(each: list[Figures]) -> Figures:
    """Return what several processes found: the median of their medians, and all that their intervals cover.

    What a process finds depends on where it was given memory, which its own rounds do not tell.
    """
    intervals = {name: _covered(getattr(one, name) for one in each) for name in ("ours", "theirs", "ratio")}
    return each[0]._replace(**intervals)


def _covered(found: Iterable[Interval | None]) -> Interval | None:
    intervals = [one for one in found if one is not None]
    if not intervals:
        return None
    medians, lows, highs = zip(*intervals, strict=True)
    return statistics.median(medians), min(lows), max(highs)


def keep(path: Path, run: Run) -> None:
    """Put figures into a file, in the place of those of the same names."""
    kept = load(path).figures if path.exists() else {}
    kept |= run.figures
    figures = {name: _shortened(kept[name]) for name in sorted(kept)}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"machine": run.machine, "figures": figures}, indent=1) + "\n")


def _shortened(one: Figures) -> dict[str, Any]:
    """Return what JSON has of it: numbers of four digits, nothing that is empty."""
    fields = {"ours": one.ours, "theirs": one.theirs, "ratio": one.ratio}
    short = {name: [_short(value) for value in found] for name, found in fields.items() if found is not None}
    notes = {name: _short(value) for name, value in one.notes.items()}
    rest = {"notes": notes, "curve": one.curve, "pace": _short(one.pace)}
    return {"day": one.day, **short, **{name: found for name, found in rest.items() if found}}


def _short(value: Any) -> Any:
    return float(f"{value:.4g}") if isinstance(value, float) else value
