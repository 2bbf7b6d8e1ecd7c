"""How verbs speak: JSON for programs, text for people, one exit code for each kind of failure."""

from __future__ import annotations

import base64
import functools
import os
import signal
import sys
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

import click
import msgspec

import ntmem
from ntmem.values import CODECS

EXIT_FAILED, EXIT_USAGE, EXIT_MISSING, EXIT_REFUSED = 1, 2, 3, 4

EXIT_CODES = """
\b
Exit codes:
  0  done
  1  the store could not be used, or a check failed
  2  wrong usage
  3  no such key, or no store there
  4  refused: the key has another version or was written under a lock, or the
     namespace belongs to another agent
NTMEM_TRACEBACK=1 shows where an error comes from.
"""


def examples(*lines: str) -> str:
    """Return what stands at the end of a verb's help: examples, then the exit codes."""
    return "\n".join(["\b", "Examples:", *(f"  {line}" for line in lines)]) + "\n" + EXIT_CODES


store_option = click.option(
    "--store",
    "store",
    type=click.Path(path_type=Path),
    default=Path("./data/memory"),
    envvar="NTMEM_STORE",
    show_default=True,
    show_envvar=True,
    help="Directory of the store.",
)
json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")


def verb(function: Callable[..., None]) -> Callable[..., None]:
    """Turn errors of the store into a message and the documented exit code."""

    @functools.wraps(function)
    def run(*args: Any, **kwargs: Any) -> None:
        try:
            function(*args, **kwargs)
        except (ntmem.VersionConflict, ntmem.StaleFence, ntmem.NotOwner) as error:
            fail(str(error), EXIT_REFUSED)
        except ntmem.InvalidNamespace as error:
            fail(str(error), EXIT_USAGE)
        except ntmem.NtmemError as error:
            fail(str(error), EXIT_FAILED)
        except (ValueError, TypeError) as error:
            if os.environ.get("NTMEM_TRACEBACK"):  # to tell a bug of ours from a wrong argument
                raise
            fail(str(error), EXIT_USAGE)

    return run


def fail(message: str, code: int) -> NoReturn:
    """Print `message` on standard error and exit."""
    click.echo(f"ntmem: {message}", err=True)
    sys.exit(code)


def existing(store: Path, *, read_only: bool = True) -> ntmem.MemorySystem:
    """Open a store that must be there."""
    if not (store / "data.mdb").exists():
        fail(f"there is no store in {store}; give its directory with --store", EXIT_MISSING)
    return ntmem.open(store, read_only=read_only, agent_id="ntmem-cli")


@contextmanager
def until_interrupted() -> Iterator[None]:
    """End well at Ctrl-C, and alike when told to end: a live table has to give the cursor back."""
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        for number, handler in before.items():
            if handler != signal.SIG_IGN:  # nohup
                signal.signal(number, signal.default_int_handler)
        yield
    except KeyboardInterrupt:
        pass
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def print_json(document: Any) -> None:
    """Print one JSON document."""
    click.echo(msgspec.json.format(msgspec.json.encode(document), indent=2))


def jsonable(value: Any) -> Any:
    """Return an object of a user as JSON can say it: what JSON does not have by its text."""
    if isinstance(value, dict):
        return {key if isinstance(key, str) else repr(key): jsonable(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [jsonable(each) for each in value]
    return value if value is None or isinstance(value, bool | int | float | str) else str(value)


def print_found(
    documents: Sequence[Any],
    as_json: bool,
    nothing: str,
    header: Sequence[str],
    rows: Iterable[Sequence[str]],
    right: Collection[int] = (),
) -> None:
    """Print what a verb has found: `documents` as JSON, or `rows` in columns; or that there is `nothing`."""
    if as_json:
        print_json(documents)
    elif not documents:
        click.echo(nothing)
    else:
        print_columns([header, *rows], right)


def print_columns(rows: Iterable[Sequence[str]], right: Collection[int] = ()) -> None:
    """Print rows below each other, as wide as they are; the columns in `right` end at the same place."""
    table = list(rows)
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    for row in table:
        print_row(row, widths, right)


def print_row(row: Sequence[str], widths: Sequence[int], right: Collection[int] = ()) -> None:
    """Print one row whose columns have these widths."""
    cells = [
        cell.rjust(width) if number in right else cell.ljust(width)
        for number, (cell, width) in enumerate(zip(row, widths, strict=True))
    ]
    click.echo("  ".join(cells).rstrip())


def plain(text: str) -> str:
    """Return text that does nothing to a terminal."""
    return text if text.isprintable() else ascii(text)


def value_fields(value: bytes) -> dict[str, Any]:
    """Return a value as JSON fields: as text where it is text, else in base 64."""
    fields: dict[str, Any] = {"size": len(value)}
    try:
        fields["text"] = value.decode()
    except UnicodeDecodeError:
        fields["base64"] = base64.b64encode(value).decode()
    return fields


def readable(value: bytes) -> str:
    """Return a value for a person: text as it is, a view's object by its repr, other bytes by theirs."""
    try:
        text = value.decode()
    except UnicodeDecodeError:
        text = ""
    if text and all(letter.isprintable() or letter.isspace() for letter in text):
        return text
    try:
        return repr(CODECS["msgpack"].decode(value))
    except ntmem.SerializationError:
        return repr(value)
