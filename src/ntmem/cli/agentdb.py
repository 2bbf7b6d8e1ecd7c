"""``ntmem serve-agentdb``: the vectors of a store, for who speaks AgentDB's wire."""

from __future__ import annotations

import logging
import os
from contextlib import closing
from pathlib import Path

import click

import ntmem

from .output import EXIT_CODES, EXIT_FAILED, existing, fail, store_option, until_interrupted, verb

TOKEN = "NTMEM_AGENTDB_TOKEN"
_LEAST_TOKEN = 16

_EPILOG = (
    """
\b
Examples:
  ntmem serve-agentdb --store ./desk
  ntmem serve-agentdb --store ./desk --host 0.0.0.0 --token-file ./token
  curl http://127.0.0.1:8780/openapi.json
A token is 16 letters at least, of ASCII; clients say it as Authorization:
Bearer or X-API-Key. Nothing is encrypted: beyond this machine, put a proxy
with TLS before it. Ctrl-C and SIGTERM end it with 0, after what it is doing.
"""
    + EXIT_CODES
)


@click.command("serve-agentdb", epilog=_EPILOG)
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--port", default=8780, show_default=True, type=click.IntRange(0, 65535), help="0: any free one.")
@click.option(
    "--token-file",
    type=click.Path(path_type=Path, dir_okay=False),
    help=f"File with the token that requests have to say; else it is in {TOKEN}.",
)
@click.option("--no-auth", is_flag=True, help="Listen for others with no token: whoever gets there may ask.")
@click.option("--read-only", is_flag=True, help="Answer reads only; the store must be there.")
@click.option(
    "--max-body",
    default=16 << 20,
    show_default=True,
    type=click.IntRange(1024, 1 << 30),
    help="Bytes that a request may have.",
)
@click.option("--access-log", is_flag=True, help="Log each request on standard error.")
@store_option
@verb
def serve_agentdb(
    host: str,
    port: int,
    token_file: Path | None,
    no_auth: bool,
    read_only: bool,
    max_body: int,
    access_log: bool,
    store: Path,
) -> None:
    """Serve the vectors of a store over HTTP, as AgentDB's wire.

    Another store can use it as its remote tier, and so can AgentDB's clients. The store is made if there is none.
    """
    try:
        from ..agentdb.answers import Rules
        from ..agentdb.server import is_loopback, listening, serve
    except ModuleNotFoundError as error:
        if error.name is None or error.name.split(".")[0] not in ("starlette", "uvicorn"):
            raise
        fail(f"serve-agentdb needs {error.name}: pip install 'ntmem[agentdb-server]'", EXIT_FAILED)
    token = _token(token_file, no_auth)
    try:
        found = listening(host, port)
    except OSError as error:
        fail(f"cannot listen on {host}:{port}: {error.strerror}; choose another --host or --port", EXIT_FAILED)
    with closing(found):
        is_local = is_loopback(found)
        if token is None and not is_local and not no_auth:
            raise click.UsageError(
                f"who is to be reached by others on {host} wants a token: give --token-file, or {TOKEN} in the "
                "environment, or say --no-auth"
            )
        if access_log:
            logging.basicConfig(format="%(asctime)s %(message)s")
            logging.getLogger("ntmem").setLevel(logging.INFO)
        rules = Rules(token, read_only, max_body, is_local=is_local, access_log=access_log)
        with until_interrupted(), existing(store) if read_only else ntmem.open(store, agent_id="agentdb") as memory:
            address, number = found.getsockname()[:2]
            click.echo(f"http://{f'[{address}]' if ':' in address else address}:{number}")
            serve(memory.vectors, found, rules, ntmem.__version__)


def _token(file: Path | None, no_auth: bool) -> str | None:
    """Return the token that requests have to say; None: none."""
    if no_auth:
        if file is not None:
            raise click.UsageError("give either --token-file or --no-auth")
        return None
    if file is None:
        said, where = os.environ.get(TOKEN), TOKEN
    else:
        try:
            said, where = file.read_text(encoding="utf-8").strip(), str(file)
        except (OSError, UnicodeDecodeError) as error:
            raise click.UsageError(f"cannot read the token in {file}: {error}") from None
    if said is None:
        return None
    if len(said) < _LEAST_TOKEN or not said.isascii() or not said.isprintable() or " " in said:
        raise click.UsageError(f"the token in {where} must be {_LEAST_TOKEN} or more letters of ASCII without spaces")
    return said
