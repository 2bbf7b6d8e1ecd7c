"""The command line, ``ntmem``. It needs the extra ``cli`` (click and rich); the package itself does not."""

from __future__ import annotations

import sys


def main() -> None:
    """Run the command line and exit with its code."""
    try:
        from .commands import cli
    except ModuleNotFoundError as error:
        if error.name not in ("click", "rich"):
            raise
        sys.exit(f"the ntmem command needs {error.name}: pip install 'ntmem[cli]'")
    cli()
