"""``ntmem backup | restore | verify | compact | export | import``: keeping a store whole, small and elsewhere."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click
import msgspec

import ntmem

from .output import EXIT_CODES, EXIT_FAILED, EXIT_MISSING, existing, fail, json_option, print_json, store_option, verb

_EXAMPLES = """
\b
Examples:
"""


def _epilog(*examples: str) -> str:
    return EXIT_CODES + _EXAMPLES + "\n".join(f"  {example}" for example in examples)


@contextmanager
def progress(what: str) -> Iterator[Callable[[int, int | None], None]]:
    """Show on a terminal that something goes on, while it does; yield what to tell how far it has come, and of what."""
    if not sys.stderr.isatty():
        yield lambda done, total: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, SpinnerColumn, TaskProgressColumn, TextColumn, TimeElapsedColumn

    columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), TaskProgressColumn())
    with Progress(*columns, TimeElapsedColumn(), console=Console(stderr=True), transient=True) as shown:
        task = shown.add_task(what, total=None)
        yield lambda done, total: shown.update(task, completed=done, total=total)


@contextmanager
def _pyarrow() -> Iterator[None]:
    """Say in one line what has to be installed."""
    try:
        yield
    except ModuleNotFoundError as error:
        if error.name != "pyarrow":
            raise
        fail(str(error), EXIT_FAILED)


def _print(report: Any, as_json: bool, line: str) -> None:
    if as_json:
        print_json(msgspec.structs.asdict(report))
    else:
        click.echo(line)


def _size(count: int) -> str:
    """Return bytes as people read them."""
    number, unit = float(count), "B"
    for unit in ("B", "KiB", "MiB", "GiB", "TiB"):
        if number < 1024 or unit == "TiB":
            break
        number /= 1024
    return f"{count} B" if unit == "B" else f"{number:.1f} {unit}"


def _counts(counts: dict[str, int]) -> str:
    return ", ".join(f"{count} {what}" for what, count in counts.items()) or "nothing"


@click.command(epilog=_epilog("ntmem backup /backups/desk-monday --store ./desk"))
@click.argument("path", type=click.Path(path_type=Path))
@store_option
@json_option
@verb
def backup(path: Path, store: Path, as_json: bool) -> None:
    """Copy a store, as it is now, into the new directory PATH, while everybody goes on.

    All that was acknowledged by now is in it. Vectors' graphs are not; they are made again.
    """
    with existing(store) as memory, progress("copying"):
        report = memory.backup(path)
    _print(
        report,
        as_json,
        f"{report.path}: {report.records} records in {_size(report.bytes)}, up to version {report.last_version}, "
        f"in {report.seconds:.1f} s",
    )


@click.command(epilog=_epilog("ntmem restore /backups/desk-monday ./desk"))
@click.argument("source", type=click.Path(path_type=Path))
@click.argument("target", type=click.Path(path_type=Path))
@json_option
@verb
def restore(source: Path, target: Path, as_json: bool) -> None:
    """Make the store TARGET, which must not be there, of the backup SOURCE.

    The copy is compared with what was backed up, and checked. Its versions and fences go on above the original's.
    """
    if not (source / "data.mdb").exists():
        fail(f"there is no backup in {source}; give the directory that 'ntmem backup' made", EXIT_MISSING)
    with progress("copying and checking") as tell:
        report = ntmem.restore(source, target, progress=tell)
    for notice in report.notices:
        click.echo(f"ntmem: {notice}", err=True)
    _print(
        report,
        as_json,
        f"{report.path}: {report.records} records in {_size(report.bytes)}, up to version {report.last_version}; new "
        f"versions are above {report.next_generation << 44}",
    )


@click.command(epilog=_epilog("ntmem verify --store ./desk", "ntmem verify --store /backups/desk-monday --json"))
@store_option
@json_option
@verb
def verify(store: Path, as_json: bool) -> None:
    """Check a store's structure, every checksum, and whether what is said twice is the same.

    Such as positions and their fills, records and the index of what expires, series and their blocks. Others may go on
    writing. A backup is a store, too.
    """
    if not (store / "data.mdb").exists():
        fail(f"there is no store in {store}; give its directory with --store", EXIT_MISSING)
    with progress("checking"):
        report = ntmem.verify(store)
    if as_json:
        print_json({"ok": report.ok, **msgspec.structs.asdict(report)})
    else:
        for problem in report.problems:
            click.echo(problem)
        click.echo(f"{'ok' if report.ok else 'damaged'}: {report.records} records, {report.history} past versions")
    if not report.ok:
        sys.exit(EXIT_FAILED)


@click.command(
    epilog=_epilog(
        "ntmem compact --store ./desk             write the file anew, when nobody has the store open",
        "ntmem compact --store ./desk --online    give back what is over while others go on",
    )
)
@click.option("--online", is_flag=True, help="While others have it open: free space inside the file only.")
@store_option
@json_option
@verb
def compact(online: bool, store: Path, as_json: bool) -> None:
    """Give back the space of what is over: to the disk, or with --online inside the data file."""
    if not (store / "data.mdb").exists():
        fail(f"there is no store in {store}; give its directory with --store", EXIT_MISSING)
    with progress("compacting"):
        if online:
            with existing(store, read_only=False) as memory:
                report = memory.compact()
        else:
            report = ntmem.compact(store)
    before, after = ((_size(size), _size(free)) for size, free in _sizes(report))
    gained = f"{report.expired} expired records, {report.rows} rows, {report.collections} graphs; " if online else ""
    _print(
        report,
        as_json,
        f"{store}: {gained}{before[0]} with {before[1]} free before, {after[0]} with {after[1]} free now",
    )


def _sizes(report: ntmem.CompactReport) -> tuple[tuple[int, int], tuple[int, int]]:
    return (report.bytes_before, report.free_before), (report.bytes_after, report.free_after)


@click.command(
    "export",
    epilog=_epilog(
        "ntmem export desk.jsonl.gz --store ./desk",
        "ntmem export px.parquet --namespace market/px --store ./desk",
    ),
)
@click.argument("path", type=click.Path(path_type=Path))
@click.option("--namespace", help="Only what is in it and below it; then without positions.")
@store_option
@json_option
@verb
def export(path: Path, namespace: str | None, store: Path, as_json: bool) -> None:
    """Write what a store has to PATH, which ends in .jsonl, .jsonl.gz or .parquet; a file of that name is replaced.

    Records with their past, observations, vectors, instruments, fills, positions. What has no form yet is counted.
    """
    with _pyarrow(), existing(store) as memory, progress("writing") as tell:
        report = memory.export(path, namespace=namespace, progress=lambda count: tell(count, None))
    line = f"{report.path}: {_counts(report.counts)} in {_size(report.bytes)}"
    if report.not_exported:
        line += f"\nnot exported: {_counts(report.not_exported)}"
    _print(report, as_json, line)


@click.command(
    "import",
    epilog=_epilog("ntmem import desk.jsonl.gz --store ./desk-again", "ntmem import px.parquet --store ./desk"),
)
@click.argument("path", type=click.Path(path_type=Path))
@store_option
@json_option
@verb
def import_(path: Path, store: Path, as_json: bool) -> None:
    """Bring what 'ntmem export' has written into a store, made when missing.

    What is there is replaced key by key. After an error run it again: what was brought is not brought twice.
    """
    if not path.exists():
        fail(f"there is no file {path}", EXIT_MISSING)
    with _pyarrow(), ntmem.open(store, agent_id="ntmem-cli") as memory, progress("reading") as tell:
        report = memory.import_(path, progress=tell)
    line = f"{store}: {_counts(report.counts)}; {report.unchanged} were there already"
    if report.left_out:
        line += f"\nleft out: {_counts(report.left_out)}"
    _print(report, as_json, line)


COMMANDS = (backup, restore, verify, compact, export, import_)
