"""The verbs. Each is a thin shell around one call of the facade."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any, BinaryIO

import click

import ntmem
from ntmem._core.text import iso
from ntmem.values import CODECS

from . import keeping
from .agentdb import serve_agentdb
from .bank import bank
from .completion import completion
from .coordination import agents, locks
from .doctor import doctor
from .metrics import serve_metrics
from .output import (
    EXIT_CODES,
    EXIT_MISSING,
    examples,
    existing,
    fail,
    json_option,
    plain,
    print_columns,
    print_json,
    print_row,
    readable,
    store_option,
    value_fields,
    verb,
)
from .positions import positions
from .replay import replay
from .search import search
from .sessions import sessions
from .tail import tail
from .top import top


@click.group(epilog=EXIT_CODES)
@click.version_option(ntmem.__version__, package_name="ntmem")
def cli() -> None:
    """The shared memory of a team of trading agents."""


@cli.command(
    epilog=examples(
        "ntmem get desk target",
        "ntmem get swarm/agent_1 state --object",
        "ntmem get desk plan --as-of 1767225600000000000",
    )
)
@click.argument("namespace")
@click.argument("key")
@click.option("--raw", is_flag=True, help="Print the bytes of the value and nothing else.")
@click.option("--object", "as_object", is_flag=True, help="The value was written by a namespace view: decode it.")
@click.option("--as-of", type=int, help="What was known at this time, ns UTC; needs a namespace with history.")
@store_option
@json_option
@verb
def get(namespace: str, key: str, raw: bool, as_object: bool, as_of: int | None, store: Path, as_json: bool) -> None:
    """Print the value of KEY in NAMESPACE (labels joined by '/').

    A value that is text is printed as text, another as the object that a namespace view wrote, or as bytes.
    """
    if raw + as_object + as_json > 1:
        raise click.UsageError("choose one of --raw, --object and --json")
    with existing(store) as memory:
        record = memory.get_record(namespace, key, as_of=as_of)
    if record is None or record.value is None:
        fail(f"there is no key {key!r} in {namespace}", EXIT_MISSING)
    if raw:
        sys.stdout.buffer.write(record.value)
    elif as_object:
        click.echo(repr(CODECS["msgpack"].decode(record.value)))
    elif as_json:
        print_json({"namespace": namespace, "key": key, **value_fields(record.value), **_about(record)})
    else:
        click.echo(readable(record.value))


def _about(record: ntmem.Record) -> dict[str, Any]:
    return {
        "version": record.version,
        "ts_event": record.ts_event,
        "ts_known": record.ts_known,
        "expires_at": record.expires_at,
        "writer": record.writer,
    }


@cli.command(
    epilog=examples(
        "ntmem put desk target 3", "ntmem put desk draft later --ttl 60", "ntmem put desk model --file weights.bin"
    ),
    context_settings={"ignore_unknown_options": True},  # for values such as -5
)
@click.argument("namespace")
@click.argument("key")
@click.argument("value", required=False)
@click.option("--file", "file", type=click.File("rb"), help="Read the value from a file, '-' for standard input.")
@click.option("--ttl", type=float, help="Seconds after which it is no longer served.")
@click.option("--if-version", type=int, help="Write only if the key has this version; 0: only if it does not exist.")
@store_option
@json_option
@verb
def put(
    namespace: str,
    key: str,
    value: str | None,
    file: BinaryIO | None,
    ttl: float | None,
    if_version: int | None,
    store: Path,
    as_json: bool,
) -> None:
    """Set KEY in NAMESPACE to the text VALUE, or to the content of a file; make the store when missing."""
    if (value is None) == (file is None):
        raise click.UsageError("give either VALUE or --file")
    data = file.read() if file is not None else (value or "").encode()
    with ntmem.open(store, agent_id="ntmem-cli") as memory:
        version = memory.put(namespace, key, data, ttl=ttl, if_version=if_version)
    if as_json:
        print_json({"namespace": namespace, "key": key, "version": version})
    else:
        click.echo(f"version {version}")


@cli.command(epilog=examples("ntmem rm desk draft", "ntmem rm swarm/agent_1 --all"))
@click.argument("namespace")
@click.argument("key", required=False)
@click.option("--all", "everything", is_flag=True, help="Delete the whole namespace, its children and their history.")
@click.option("--if-version", type=int, help="Delete only if the key has this version.")
@store_option
@json_option
@verb
def rm(namespace: str, key: str | None, everything: bool, if_version: int | None, store: Path, as_json: bool) -> None:
    """Delete KEY in NAMESPACE, or with --all the namespace."""
    if (key is None) != everything:
        raise click.UsageError("give either KEY or --all")
    with existing(store, read_only=False) as memory:
        if key is None:
            count = memory.delete_namespace(namespace)
        else:
            count = int(memory.delete(namespace, key, if_version=if_version))
    if as_json:
        print_json({"namespace": namespace, "deleted": count})
    elif count or everything:
        click.echo(f"deleted {count}")
    if not count and not everything:
        fail(f"there is no key {key!r} in {namespace}", EXIT_MISSING)


@cli.command(epilog=examples("ntmem ls", "ntmem ls desk --prefix order- --limit 20"))
@click.argument("namespace", required=False)
@click.option("--prefix", default="", help="Only keys that begin with it.")
@click.option("--limit", type=click.IntRange(1), help="At most so many.")
@store_option
@json_option
@verb
def ls(namespace: str | None, prefix: str, limit: int | None, store: Path, as_json: bool) -> None:
    """List the namespaces of a store, or the keys of NAMESPACE with the size of their values."""
    with existing(store) as memory:
        if namespace is None:
            names = ["/".join(labels) for labels in memory.namespaces()][:limit]
            if as_json:
                print_json(names)
            for name in [] if as_json else names:
                click.echo(name)
            return
        keys = ((key, len(value)) for key, value in memory.scan(namespace, prefix=prefix, limit=limit))
        if as_json:
            print_json([{"key": key, "size": size} for key, size in keys])
            return
        for key, size in keys:
            print_row((str(size), plain(key)), (10, 0), right=(0,))  # at once: there may be many


@cli.command(epilog=examples("ntmem info --store ./desk", "ntmem info --json"))
@store_option
@json_option
@verb
def info(store: Path, as_json: bool) -> None:
    """Print what a store says about itself."""
    with existing(store) as memory:
        facts = {"path": str(memory.path), **memory.stats().to_dict()}
    if as_json:
        print_json(facts)
        return
    facts["now"] = iso(int(facts["now"]))
    facts["memory"] = ", ".join(f"{name} {part['used']}" for name, part in facts["memory"].items())
    facts["operations"] = ", ".join(f"{name} {found['count']}" for name, found in facts["operations"].items())
    print_columns((name, str(fact)) for name, fact in facts.items())


OTHERS = (
    *(locks, agents, sessions, positions, search, tail, top, bank, doctor, completion, replay),
    *(serve_metrics, serve_agentdb),
)
for command in (*OTHERS, *keeping.COMMANDS):
    cli.add_command(command)
for name, said in {  # whose first sentence is too long for a line of `ntmem --help`
    "backup": "Copy a store into a new directory.",
    "bank": "Show what agents tried, and what is to be learnt.",
    "compact": "Give back the space of what is over.",
    "completion": "Print a script that completes verbs and options.",
    "doctor": "Check this machine, a store and its shared memory.",
    "export": "Write what a store has to a file.",
    "get": "Print the value of a key.",
    "import": "Bring an export into a store.",
    "ls": "List namespaces, or the keys of one.",
    "positions": "List the positions of a store, also live.",
    "put": "Set a key to a text, or to a file's content.",
    "replay": "Replay market data through a team of agents.",
    "restore": "Make a store of a backup.",
    "search": "Print the vectors that are nearest to one.",
    "tail": "Show messages as they come.",
    "verify": "Check all that is in a store's data file.",
}.items():
    cli.commands[name].short_help = said
