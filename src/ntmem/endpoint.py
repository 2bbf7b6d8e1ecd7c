"""Where another server is, and what it wants to know of who asks: checked when a store is configured, used much later.

**Invariant**: a secret is shown nowhere. Its ``repr`` is ``'***'``, in configurations and errors that hold it as well.
"""

from __future__ import annotations

from typing import Any
from urllib.parse import urlsplit


class Secret(str):
    """A str that is not shown; ``str.__str__`` gives what it is."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "'***'"

    def __str__(self) -> str:
        return "***"

    def __format__(self, how: str) -> str:
        return format("***", how)


def require_url(url: Any, name: str) -> None:
    """Raise ``TypeError`` or ``ValueError`` unless it is the URL of a server, with a path or without."""
    if not isinstance(url, str):
        raise TypeError(f"{name} must be a str such as 'http://127.0.0.1:8780' or None, was {type(url).__name__}")
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:
        raise ValueError(f"{name} must be a URL such as 'http://127.0.0.1:8780', and cannot be read as one") from None
    if parts.username is not None or parts.password is not None:
        raise ValueError(f"{name} must hold no user and no password (they would be shown); pass agentdb_token")
    if parts.scheme not in ("http", "https") or not host or port == 0:
        raise ValueError(f"{name} must begin with http:// or https:// and a host, was {url!r}")
    if parts.query or parts.fragment or not url.isascii() or not url.isprintable() or " " in url:
        raise ValueError(f"{name} ends with its path and is of printable ASCII, percent-encoded; was {url!r}")


def secret_of(token: Any, name: str) -> Secret:
    """Return a token that is not shown; raise ``TypeError`` or ``ValueError`` if no header can carry it."""
    if not isinstance(token, str):
        raise TypeError(f"{name} must be a str or None, was {type(token).__name__}")
    plain = str.__str__(token)
    if not plain or not plain.isascii() or not plain.isprintable() or " " in plain:
        raise ValueError(f"{name} must be of printable ASCII without spaces, as a header carries no other; was not")
    return Secret(plain)
