"""``ntmem tail``: messages as they come."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
import msgspec

from .. import Message
from .._core.text import iso
from .output import examples, existing, plain, readable, store_option, until_interrupted, value_fields, verb

_EPILOG = """
\b
Columns:
  time          of publication, UTC
  sequence      by which --since goes on; of durable messages, their number
  sender        agent id of who published it, or pid-N
  topic, payload
A line of its own says how many messages were missed where the bus was faster
than this. With --json each message is a line: {"topic": ..., "seq": ...}.
Ctrl-C ends it with 0.
""" + examples("ntmem tail", "ntmem tail 'px/*' --count 10", "ntmem tail fills --durable --since 0")


@click.command(epilog=_EPILOG)
@click.argument("pattern", default=">")
@click.option("--since", type=click.IntRange(0), help="Begin behind this sequence, as far back as it is kept.")
@click.option("--durable", is_flag=True, help="Durable messages only, none of which is missed; --since 0: all.")
@click.option("--count", type=click.IntRange(1), help="End after so many messages.")
@click.option("--timeout", type=click.FloatRange(0), help="End after so many seconds without one.")
@click.option("--json", "as_json", is_flag=True, help="Print a line of JSON a message.")
@store_option
@verb
def tail(
    pattern: str,
    since: int | None,
    durable: bool,
    count: int | None,
    timeout: float | None,
    as_json: bool,
    store: Path,
) -> None:
    """Show the messages of PATTERN: '*' is any one level of a topic, '>' the rest. It changes nothing."""
    shown = 0
    with (
        until_interrupted(),
        existing(store) as memory,
        memory.subscribe(pattern, since=since, durable=durable) as messages,
    ):
        while count is None or shown < count:
            message = messages.recv(timeout)
            if message is None:
                return
            click.echo(msgspec.json.encode(_document(message)) if as_json else _line(message))
            shown += 1


def _line(message: Message) -> str:
    lagged = f"({message.lagged:,} missed)\n" if message.lagged else ""
    where = "  ".join(map(plain, (message.sender, message.topic)))
    return f"{lagged}{iso(message.ts)}  {message.seq}  {where}  {plain(readable(message.payload))}"


def _document(message: Message) -> dict[str, Any]:
    return {
        "topic": message.topic,
        "levels": message.levels,
        "seq": message.seq,
        "sender": message.sender,
        "ts": message.ts,
        "lagged": message.lagged,
        "durable": message.durable,
        **value_fields(message.payload),
    }
