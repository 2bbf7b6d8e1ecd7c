"""Print the JSON of pytest-benchmark as tables for BENCHMARKING.md: `python benches/report.py FILE`."""

import json
import sys
from datetime import datetime

from support.figures import median_interval

KNOWN = {"ours_ns", "theirs_ns", "ratio", "ratio_interval", "calls", "untimed"}


def time_text(nanoseconds):
    """Return a time with three digits, in the unit that suits it."""
    for unit, size in (("s", 1e9), ("ms", 1e6), ("us", 1e3)):
        if nanoseconds >= size:
            return f"{nanoseconds / size:#.3g}".rstrip(".") + f" {unit}"
    return f"{nanoseconds:#.3g}".rstrip(".") + " ns"


def ratio_text(value):
    return f"{value:.2f}" if value < 10 else f"{value:.0f}"


def interval_text(figures, text=time_text):
    """Return a median, and in brackets what it lies between."""
    median, low, high = map(text, figures)
    return f"{median} ({low} to {high})"


def notes_text(info):
    """Return what a benchmark noted beside its ratio."""
    notes = ((name.replace("_", " "), value) for name, value in info.items() if name not in KNOWN)
    return ", ".join(f"{name} {value:,.2f}" if isinstance(value, float) else f"{name} {value}" for name, value in notes)


def name_of(benchmark):
    """Return file, function and parameters; what the terminal shows after the name is a figure."""
    path, _, test = benchmark["fullname"].partition("::")
    function, _, parameters = test.partition("[")
    return path, function, parameters.rstrip("]")


def row_of(benchmark):
    info = benchmark["extra_info"]
    if "ours_ns" in info:
        ratio = interval_text([info["ratio"], *info["ratio_interval"]], ratio_text)
        times = [interval_text(info["ours_ns"]), interval_text(info["theirs_ns"]), ratio]
    elif info.get("untimed"):  # all it has to say is in its notes
        times = ["", "", ""]
    else:
        figures = median_interval(benchmark["stats"]["data"])
        times = [interval_text([1e9 * seconds / info.get("calls", 1) for seconds in figures]), "", ""]
    return [name_of(benchmark)[2], *times, notes_text(info)]


def hit_rows(benchmarks):
    """Return a row for each trace: ours with the LRU of as many entries in brackets, then the others."""
    rows = {}
    for benchmark in benchmarks:
        info = benchmark["extra_info"]
        row = rows.setdefault(info["trace"], {"trace": info["trace"]})
        row |= {name: f"{hit:.1f}" for name, hit in info["hit_percent"].items()}
        row[info["policy"]] += f" ({info['reference']:.1f})"
    last = ["LRU", "moka-py", "theine", "Belady"]
    names = [name for name in dict.fromkeys(name for row in rows.values() for name in row) if name not in last] + last
    return [names, *([row.get(name, "") for name in names] for row in rows.values())]


def table(rows):
    """Return rows as Markdown, the first as its header, without columns that are empty in all the others."""
    used = [column for column in range(len(rows[0])) if any(row[column] for row in rows[1:])]
    lines = [[str(row[column]).replace("|", "\\|") for column in used] for row in rows]
    lines.insert(1, ["---"] * len(used))
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def machine_text(data):
    machine, when = data["machine_info"], datetime.fromisoformat(data["datetime"])
    cpu, commit = machine["cpu"], data["commit_info"]
    versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items())
    return (
        f"{cpu['count']} cores of {cpu['brand_raw']}, {machine['memory_bytes'] / (1 << 30):.0f} GiB, "
        f"{machine['system']} {machine['release']}, {machine['python_compiler']}, {versions}; "
        f"{when.day} {when:%B %Y}, commit {commit['id'][:7]}{' and changes' * commit['dirty']}."
    )


def main(path):
    with open(path) as file:
        data = json.load(file)
    files = dict.fromkeys(name_of(benchmark)[0] for benchmark in data["benchmarks"])
    print(f"Machine: {machine_text(data)}\n")
    print('Repeat with `make bench BENCHES="' + " ".join(f"benches/{file}" for file in files) + '"`.')
    print("Medians; in brackets what they lie between with 95 %. Times are of one call.")
    pages = {}
    for benchmark in data["benchmarks"]:
        pages.setdefault(name_of(benchmark)[:2], []).append(benchmark)
    for (file, function), benchmarks in pages.items():
        print(f"\n`benches/{file}` {function.removeprefix('test_').replace('_', ' ')}\n")
        if "hit_percent" in benchmarks[0]["extra_info"]:
            print("Percent of the second half; in brackets an LRU of as many entries as ours was found to hold.\n")
            print(table(hit_rows(benchmarks)))
        else:
            print(table([["", "ours", "theirs", "ratio", "also"], *map(row_of, benchmarks)]))


if __name__ == "__main__":
    main(sys.argv[1])
