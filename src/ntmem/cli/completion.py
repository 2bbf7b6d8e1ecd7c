"""``ntmem completion``: what a shell needs to complete verbs and options."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class

_EPILOG = """
\b
Examples:
  eval "$(ntmem completion bash)"                           in ~/.bashrc
  eval "$(ntmem completion zsh)"                            in ~/.zshrc
  ntmem completion fish > ~/.config/fish/completions/ntmem.fish
"""


@click.command(epilog=_EPILOG)
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def completion(ctx: click.Context, shell: str) -> None:
    """Print a script for SHELL that completes verbs and options of ntmem."""
    made = get_completion_class(shell)
    assert made is not None  # click has these three
    click.echo(made(ctx.find_root().command, {}, "ntmem", "_NTMEM_COMPLETE").source())
