"""Under which keys a session stands in the store."""

from __future__ import annotations

from typing import Any

from ..namespace import encode_key
from .tokens import MOST_RESOURCE_BYTES, encode_resource

LOCK = "session/"
"""What the resource of its lock begins with."""
KEYS, TASKS, BEFORE = "k", "t", "b"
"""Kinds of what it has: of its mapping, open trajectories, P&L of before."""
CURSOR = "\0session\0"
_MOST_NAME = MOST_RESOURCE_BYTES - len(LOCK)


def check_name(name: Any) -> str:
    """Return the name of a session; raise ``TypeError`` or ``ValueError`` that says what is wrong with it."""
    if not isinstance(name, str):
        raise TypeError(f"the name of a session is a str, was {type(name).__name__}")
    encode_key(name)
    if len(name.encode()) > _MOST_NAME or "\0" in name:
        raise ValueError(f"the name of a session has 1 to {_MOST_NAME} bytes of UTF-8 and no NUL, was {name[:64]!r}")
    encode_resource(LOCK + name)
    return name


def stem_of(name: str, kind: str) -> bytes:
    """Return what the keys of a kind begin with."""
    return f"{name}\0{kind}".encode()


def cursor_of(name: str, cursor: str) -> str:
    """Return the name of a durable subscription of a session."""
    return f"{CURSOR}{name}\0{cursor}"
