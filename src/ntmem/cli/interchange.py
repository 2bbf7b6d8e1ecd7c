"""Verbs of ``ntmem bank`` that bring memories from other programs, and to them, and let them go."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import msgspec

import ntmem

from .output import EXIT_CODES, EXIT_MISSING, existing, fail, json_option, plain, print_json, store_option, verb

if TYPE_CHECKING:
    from ..reasoningbank.taking import BankExport, BankImport, Known, OnError

_FAILS = "\nThe file is written whole or not at all; one that is there stays, and the exit code is 1.\n"
_AGAIN = """
Nothing is written if something is wrong, unless --skip leaves that out; then it is named, and the exit code is 0. To
import again changes nothing that is as it was.
"""

_FORGET = """
--past also removes the past of a memory that is gone already. The exit code is 3 if there is nothing to remove. What is
left of it all the same is told by help(ntmem.ReasoningBank.forget).
"""

_known = click.option(
    "--known",
    type=click.Choice(["now", "created"]),
    default="now",
    show_default=True,
    help="From when on new memories are known: now, or since each says it was made.",
)
_scrub = click.option("--scrub", is_flag=True, help="Take out personal data and secrets.")
_skip = click.option("--skip", is_flag=True, help="Leave out what is wrong, and name it.")


def _examples(*lines: str) -> str:
    return "\n\b\nExamples:\n" + "\n".join(f"  {line}" for line in lines) + "\n"


def _counts(counts: dict[str, int]) -> str:
    return ", ".join(f"{count} {what}" for what, count in counts.items()) or "nothing"


@click.command(
    "export-sqlite", epilog=_FAILS + _examples("ntmem bank export-sqlite memory.db --store ./desk") + EXIT_CODES
)
@click.argument("path", type=click.Path(path_type=Path))
@store_option
@json_option
@verb
def export_sqlite(path: Path, store: Path, as_json: bool) -> None:
    """Write memories, patterns and trajectories to the new database PATH, in agentic-flow's schema."""
    with existing(store) as memory:
        report = memory.bank.export_sqlite(path)
    _print_export(report, as_json)


@click.command(
    "export-jsonl",
    short_help="Write the bank as the paper's lines of JSON.",
    epilog=_FAILS
    + _examples("ntmem bank export-jsonl bank.jsonl --embeddings vectors.jsonl --store ./desk")
    + EXIT_CODES,
)
@click.argument("path", type=click.Path(path_type=Path))
@click.option("--embeddings", type=click.Path(path_type=Path), help="Write lines with embeddings to this file.")
@store_option
@json_option
@verb
def export_jsonl(path: Path, embeddings: Path | None, store: Path, as_json: bool) -> None:
    """Write memories, patterns and trajectories to the new file PATH, as the ReasoningBank paper's lines of JSON."""
    with existing(store) as memory:
        report = memory.bank.export_jsonl(path, embeddings=embeddings)
    _print_export(report, as_json)


@click.command(
    "import-sqlite",
    short_help="Bring a database of agentic-flow's into the bank.",
    epilog=_AGAIN + _examples("ntmem bank import-sqlite .swarm/memory.db") + EXIT_CODES,
)
@click.argument("path", type=click.Path(path_type=Path))
@_known
@_skip
@_scrub
@store_option
@json_option
@verb
def import_sqlite(path: Path, known: Known, skip: bool, scrub: bool, store: Path, as_json: bool) -> None:
    """Bring agentic-flow's database PATH into a store, made when missing; PATH is only read."""
    options: dict[str, Any] = {"known": known, "on_error": _on_error(skip), "scrub": scrub}
    _import(store, [path], as_json, lambda bank: bank.import_sqlite(path, **options))


@click.command(
    "import-jsonl",
    short_help="Bring the paper's lines of JSON into the bank.",
    epilog=_AGAIN + _examples("ntmem bank import-jsonl bank.jsonl --embeddings vectors.jsonl") + EXIT_CODES,
)
@click.argument("path", type=click.Path(path_type=Path))
@click.option("--embeddings", type=click.Path(path_type=Path), help="A file with the lines with embeddings.")
@_known
@_skip
@_scrub
@store_option
@json_option
@verb
def import_jsonl(
    path: Path, embeddings: Path | None, known: Known, skip: bool, scrub: bool, store: Path, as_json: bool
) -> None:
    """Bring the lines of JSON in PATH, as the ReasoningBank paper has them, into a store, made when missing."""
    paths = [path] if embeddings is None else [path, embeddings]
    options: dict[str, Any] = {"embeddings": embeddings, "known": known, "on_error": _on_error(skip), "scrub": scrub}
    _import(store, paths, as_json, lambda bank: bank.import_jsonl(path, **options))


@click.command(short_help="Let a memory that was imported go.", epilog=_FORGET + EXIT_CODES)
@click.argument("memory_id", metavar="ID")
@click.option("--past", is_flag=True, help="Its past goes, too: no time of the past shows it any more.")
@store_option
@json_option
@verb
def forget(memory_id: str, past: bool, store: Path, as_json: bool) -> None:
    """Let the memory ID go: it is not recalled or exported any more, and an import of the same leaves it out."""
    with existing(store, read_only=False) as memory:
        went = memory.bank.forget(memory_id, past=past)
    if not went:
        fail(f"there is no memory {plain(memory_id)} in {store}", EXIT_MISSING)
    if as_json:
        print_json({"id": memory_id, "past": past})
    else:
        click.echo(f"{store}: {plain(memory_id)} is forgotten{', with its past' if past else ''}")


def _on_error(skip: bool) -> OnError:
    return "skip" if skip else "raise"


def _import(store: Path, paths: list[Path], as_json: bool, bring: Callable[[ntmem.ReasoningBank], BankImport]) -> None:
    for path in paths:
        if not path.exists():
            fail(f"there is no file {path}", EXIT_MISSING)
    with ntmem.open(store, agent_id="ntmem-cli") as memory:
        report = bring(memory.bank)
    if as_json:
        print_json(msgspec.structs.asdict(report))
        return
    click.echo(f"{store}: {_counts(report.counts)}; {report.unchanged} were there already")
    if report.left_out:
        click.echo(f"left out: {_counts(report.left_out)}")
    if report.ignored:
        click.echo(f"ignored: {', '.join(map(plain, report.ignored))}")
    for each in report.skipped:
        click.echo(f"skipped: {plain(each)}")


def _print_export(report: BankExport, as_json: bool) -> None:
    if as_json:
        print_json(msgspec.structs.asdict(report))
        return
    click.echo(f"{report.path}: {_counts(report.counts)}")
    if report.left_out:
        click.echo(f"not in it: {_counts(report.left_out)}")
