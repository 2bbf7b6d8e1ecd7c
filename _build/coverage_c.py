"""Report which lines of our C the tests ran: gcov's counters of all modules that include a header, added up.

usage: coverage_c.py OBJECTS
"""

import argparse
import json
import subprocess
import sys
from collections import Counter, defaultdict
from pathlib import Path

BELOW = "src/ntmem/"


def counts(objects: Path) -> dict[str, Counter[int]]:
    """Return how often each line of each file ran."""
    found: dict[str, Counter[int]] = defaultdict(Counter)
    for notes in sorted(objects.rglob("*.gcno")):  # those without counters were never loaded: all 0
        command = ["gcov", "--json-format", "--stdout", notes]
        told = subprocess.run(command, capture_output=True, check=True, cwd=notes.parent)
        for text in filter(None, told.stdout.splitlines()):
            for file in json.loads(text)["files"]:
                _, ours, name = file["file"].rpartition(BELOW)
                if not ours or not name.endswith((".h", ".cpp")):
                    continue  # what Cython made, and headers of others
                for line in file["lines"]:
                    found[BELOW + name][line["line_number"]] += line["count"]
    return found


def ranges(numbers: list[int]) -> str:
    """Return sorted numbers as text, neighbours as ranges."""
    spans: list[list[int]] = []
    for number in numbers:
        if spans and number == spans[-1][1] + 1:
            spans[-1][1] = number
        else:
            spans.append([number, number])
    return ", ".join(f"{first}-{last}" if last > first else f"{first}" for first, last in spans)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("objects", type=Path)
    arguments = parser.parse_args()
    rows = []
    for name, lines in counts(arguments.objects).items():
        rows.append((len(lines), sorted(number for number, count in lines.items() if not count), name))
    rows.sort(key=lambda row: (-len(row[1]) / row[0], row[2]), reverse=True)
    everything, missing = sum(row[0] for row in rows), sum(len(row[1]) for row in rows)
    if not everything:
        sys.exit(f"there are no counters of C below {arguments.objects}")
    for total, missed, name in rows:
        if missed:
            print(f"{name:40} {total:5} {len(missed):4} {100 - 100 * len(missed) / total:6.1f}%  {ranges(missed)}")
    print(f"{'TOTAL':40} {everything:5} {missing:4} {100 - 100 * missing / everything:6.1f}%")


if __name__ == "__main__":
    main()
