"""Make BENCHMARKING.md and its pictures: ``python benches/page.py [--check]``.

The text is ``benches/page.md``; what stands there in a line as ``{{...}}`` is put in from ``benches/results``:

- ``{{machine}}``; ``{{targets}}``; ``{{reproduced}}``; ``{{counts}}``, instructions of the hot calls;
- ``{{file FILE}}``, tables of the benchmarks of a file, with the ratios of the second run;
- ``{{curves}}``, a table of what grows with what, whose pictures are drawn with matplotlib.

``--check`` writes nothing, and fails if the page is not what would be written.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE / "support"))

from report import by_function, ratio_text, table, table_of, time_text  # noqa: E402
from results import Figures, Run, load_run  # noqa: E402
from targets import TARGETS  # noqa: E402

RESULTS = HERE / "results"
PAGE = HERE.parent / "BENCHMARKING.md"
ASSETS = HERE.parent / "docs" / "assets"


class Page:
    """What the page is made from."""

    def __init__(self, results: Path) -> None:
        self.runs: list[Run] = [run for number in (1, 2) if (run := load_run(results, number)) is not None]
        self._counts = results / "counts.json"

    def text(self, source: str) -> str:
        """Return the page, given its source."""
        return re.sub(r"^\{\{(\w+)((?: [^}]*)?)\}\}$", self._put, source, flags=re.MULTILINE)

    def _put(self, found: re.Match[str]) -> str:
        kinds: dict[str, Callable[..., str]] = {
            "machine": self.machine,
            "targets": self.targets,
            "reproduced": self.reproduced,
            "counts": self.counts,
            "file": self.file,
            "curves": self.curves,
        }
        if found[1] not in kinds:
            raise SystemExit(f"benches/page.md asks for {found[0]}; there are {', '.join(kinds)}")
        return kinds[found[1]](*found[2].split())

    def machine(self) -> str:
        days = sorted({one.day for run in self.runs for one in run.figures.values()})
        paces = [sorted(one.pace for one in run.figures.values() if one.pace is not None) for run in self.runs]
        said = [
            f"{time_text(each[len(each) // 2])} in run {number} ({time_text(each[0])} to {time_text(each[-1])})"
            for number, each in enumerate(paces, 1)
            if each
        ]
        pace = f" `sum(range(1000))`, beside each benchmark, took {', '.join(said)}." if said else ""
        span = " to ".join(dict.fromkeys((days[0], days[-1])))
        return f"Machine: {self.runs[0].machine}; {span}.{pace}"

    def targets(self) -> str:
        header = ["", "", "wanted", *(f"run {number + 1}" for number in range(len(self.runs))), "", "why"]
        return table([header, *(target.row([run.figures for run in self.runs]) for target in TARGETS)])

    def file(self, file: str) -> str:
        """Return a table for each function of a file."""
        found = [(function, each) for (path, function), each in by_function(self.runs[0]).items() if path == file]
        if not found:
            raise SystemExit(f"benches/page.md asks for {file}, of which {RESULTS} has nothing: make bench BENCHES=")
        return "\n\n".join(
            f"`benches/{file}` {function.removeprefix('test_').replace('_', ' ')}\n\n{table_of(each, self._second())}"
            for function, each in found
        )

    def _second(self) -> Mapping[str, Figures]:
        return self.runs[1].figures if len(self.runs) > 1 else {}

    def reproduced(self) -> str:
        """Return how many ratios of both runs have intervals that overlap, and those that have not."""
        pairs = [
            (one, self._second()[name])
            for name, one in self.runs[0].figures.items()
            if one.ratio is not None and name in self._second() and self._second()[name].ratio is not None
        ]
        apart = [(one, other) for one, other in pairs if not overlap(one, other)]
        text = f"Of {len(pairs)} ratios {len(pairs) - len(apart)} have intervals that overlap in both runs"
        if not apart:
            return text + "."
        rows = [[f"`{one.name}`", *(_ratio(each) for each in pair)] for pair in apart for one in pair[:1]]
        return f"{text}. The others:\n\n{table([['', 'run 1', 'run 2'], *rows])}"

    def counts(self) -> str:
        counts = json.loads(self._counts.read_text())
        return table([["", "instructions"], *([name, f"{count:,.0f}"] for name, count in counts.items())])

    def curves(self) -> str:
        """Return a picture for each thing that grows, and what is in it."""
        return "\n".join(
            f"![{by}: {', '.join(found)}](docs/assets/{file_of(by)})\n" for by, found in self.grown().items()
        )

    def grown(self) -> dict[str, dict[str, list[Figures]]]:
        """Return the points of each curve, by what grows and by what is asked."""
        found: dict[str, dict[str, list[Figures]]] = {}
        for one in self.runs[0].figures.values():
            if one.curve is not None:
                found.setdefault(one.curve["by"], {}).setdefault(one.curve["of"], []).append(one)
        for curves in found.values():
            for points in curves.values():
                points.sort(key=lambda one: one.curve["at"] if one.curve else 0)
        return found


def overlap(one: Figures, other: Figures) -> bool:
    assert one.ratio is not None
    assert other.ratio is not None
    return max(one.ratio[1], other.ratio[1]) <= min(one.ratio[2], other.ratio[2])


def _ratio(one: Figures) -> str:
    assert one.ratio is not None
    median, low, high = map(ratio_text, one.ratio)
    return f"{median} ({low} to {high})"


def file_of(by: str) -> str:
    return f"scaling-{re.sub('[^a-z]+', '-', by.lower()).strip('-')}.svg"


def draw(grown: Mapping[str, Mapping[str, Iterable[Figures]]], directory: Path) -> None:
    """Draw a picture for each thing that grows: ours and the peer's, with their intervals."""
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams["svg.hashsalt"] = "ntmem"
    from matplotlib import pyplot

    for by, curves in grown.items():
        size = (4.6 * len(curves), 3.6)
        figure, all_axes = pyplot.subplots(1, len(curves), figsize=size, layout="constrained", squeeze=False)
        for axes, (of, found) in zip(all_axes[0], curves.items(), strict=True):
            points = [one for one in found if one.curve is not None]
            curve = points[0].curve
            assert curve is not None
            places = [one.curve["at"] for one in points if one.curve is not None]
            for label, sides in (
                ("ntmem", [one.ours for one in points]),
                (curve["peer"], [one.theirs for one in points]),
            ):
                middle, low, high = zip(*(side for side in sides if side is not None), strict=True)
                axes.plot(places, middle, "o-", label=label, markersize=4)
                axes.fill_between(places, low, high, alpha=0.2)
            axes.set(xscale="log", yscale="log", xlabel=by, ylabel=curve["unit"], title=of)
            axes.grid(alpha=0.3)
            axes.legend()
        figure.savefig(directory / file_of(by), metadata={"Date": None})
        pyplot.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="write nothing; fail if the page is another")
    arguments = parser.parse_args()
    page = Page(RESULTS)
    text = page.text((HERE / "page.md").read_text())
    if arguments.check:
        sys.exit(0 if PAGE.read_text() == text else f"{PAGE.name} is not what benches/page.py makes: run it")
    PAGE.write_text(text)
    draw(page.grown(), ASSETS)


if __name__ == "__main__":
    main()
