"""A plugin for coverage.py that knows the lines of .pyx and .pxd files; `make coverage` lays it beside coverage.py.

Cython's own plugin looks for the C that a line came from when the line runs, next to the source, below the directory
that the process happens to be in. Ours are elsewhere: tests run the installed wheel, and children run anywhere. So this
one looks at names while tests run (a child reads no C), and at C when it reports. A .pxd file is part of several
modules, each of which has in its C what it uses of it: its lines are those of all.

NTMEM_COVERAGE_ROOT is the directory of setup.py, NTMEM_COVERAGE_C that of the C files.
"""

import functools
import os
from pathlib import Path

import Cython.Coverage
from coverage.plugin import FileReporter, FileTracer

BELOW = "/src/ntmem/_core/"


def source(filename: str) -> str | None:
    """Return where the file is that a traced function says it is of, if it is one of ours."""
    name = filename.rpartition(BELOW)[2]
    if BELOW not in filename or not name.endswith((".pyx", ".pxd")):
        return None
    return os.environ["NTMEM_COVERAGE_ROOT"] + BELOW + name


class Tracer(FileTracer):
    def __init__(self, path: str) -> None:
        self.path = path

    def source_filename(self) -> str:
        return self.path


class Reporter(FileReporter):
    def __init__(self, path: str, lines: set[int], excluded: set[int]) -> None:
        super().__init__(path)
        self._lines = lines
        self._excluded = excluded

    def lines(self) -> set[int]:
        return self._lines | self._excluded

    def excluded_lines(self) -> set[int]:
        return self._excluded


class Plugin(Cython.Coverage.Plugin):
    def file_tracer(self, filename: str) -> Tracer | None:
        path = source(filename)
        return None if path is None else Tracer(path)

    def file_reporter(self, filename: str) -> Reporter:
        lines, excluded = self._of_all()
        name = os.path.basename(filename)
        return Reporter(filename, lines.get(name, set()), excluded.get(name, set()))

    def find_executable_files(self, src_dir: str) -> list[str]:
        if src_dir != os.environ["NTMEM_COVERAGE_ROOT"] + "/src/ntmem":
            return []
        return [str(path) for ending in ("pyx", "pxd") for path in Path(src_dir, "_core").glob(f"*.{ending}")]

    @functools.cache  # noqa: B019 (coverage.py makes one plugin)
    def _of_all(self) -> tuple[dict[str, set[int]], dict[str, set[int]]]:
        lines: dict[str, set[int]] = {}
        for c in sorted(Path(os.environ["NTMEM_COVERAGE_C"]).glob("*.c")):
            for path, code in self._parse_cfile_lines(c).items():
                lines.setdefault(os.path.basename(path), set()).update(code)
        excluded: dict[str, set[int]] = {}
        for path, numbers in (self._excluded_lines_map or {}).items():
            excluded.setdefault(os.path.basename(path), set()).update(numbers)
        return lines, excluded


def coverage_init(reg, options):
    plugin = Plugin()
    reg.add_configurer(plugin)
    reg.add_file_tracer(plugin)
