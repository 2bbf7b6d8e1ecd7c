"""How a request is answered, and what it is allowed: rules, refusals, JSON of what was found.

**Invariant**: an answer has `_MOST_ANSWER` bytes at most, and is JSON whatever metadata the store holds.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import msgspec
from starlette.responses import Response

from . import wire

MAX_BODY = 16 << 20
PATIENCE = 30.0
_MOST_ANSWER = 32 << 20

encode = msgspec.json.Encoder().encode

_WORDS = {
    400: "bad_request",
    401: "unauthorized",
    403: "read_only",
    404: "not_found",
    405: "method_not_allowed",
    408: "timeout",
    409: "exists",
    413: "too_large",
    415: "unsupported_media_type",
    421: "misdirected",
    500: "internal",
    503: "unavailable",
}


class Refused(Exception):
    """A request is not answered with what it asked for."""

    def __init__(self, status: int, detail: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(detail)
        self.status = status
        self.detail = detail
        self.headers = headers


class Rules(NamedTuple):
    """What requests are allowed.

    Attributes
    ----------
    token : str or None
        What they have to know; None: nothing.
    read_only : bool
        Whether they may only look.
    max_body : int
        Bytes of one.
    patience : float
        Seconds until its body is there.
    is_local : bool
        Whether this is for programs of this machine: then a browser that was led here by another's name is refused.
    access_log : bool
        Whether each is logged, by ``ntmem``.
    """

    token: str | None = None
    read_only: bool = False
    max_body: int = MAX_BODY
    patience: float = PATIENCE
    is_local: bool = False
    access_log: bool = False


def answer(status: int, what: Any, headers: Mapping[str, str] | None = None) -> Response:
    return Response(encoded(what), status, headers, "application/json")


def failure(refused: Refused) -> Response:
    what = wire.Failure(_WORDS[refused.status], refused.detail)
    return answer(refused.status, what, refused.headers)


def encoded(what: Any) -> bytes:
    try:
        return encode(what)
    except TypeError:  # metadata of this machine's programs, which have more than JSON
        return encode(_sayable(msgspec.to_builtins(what, builtin_types=(bytes,), enc_hook=repr)))


def bounded(parts: Iterable[Any]) -> list[Any]:
    """Return the parts of an answer, encoded; refuse what would be too large."""
    found, size = [], 0
    for each in parts:
        data = encoded(each)
        size += len(data)
        if size > _MOST_ANSWER:
            raise Refused(
                413, f"the answer would have over {_MOST_ANSWER} bytes; ask for less, or narrow it by filters"
            )
        found.append(msgspec.Raw(data))
    return found


def _sayable(value: Any) -> Any:
    """Return a value with the names JSON does not have by their text."""
    if isinstance(value, Mapping):
        return {key if isinstance(key, str) else str(key): _sayable(each) for key, each in value.items()}
    return [_sayable(each) for each in value] if isinstance(value, list | tuple) else value
