"""``python -m ntmem``: the command line."""

from .cli import main

main()
