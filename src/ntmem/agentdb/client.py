"""Asks an AgentDB server: connections that are kept, time-outs, tries, and what a refusal says. Needs ``agentdb``.

**Invariants**

1. A request takes `timeout` seconds at most, all its tries and waits together. Beyond that is only the system's looking
   up of a host's name.
2. What goes out may be done twice with the same end: nothing else is asked here, so everything is tried again that may
   not have arrived, or was not taken (429, 502, 503, 504).
3. The token is in the headers and nowhere else, and goes to this server only: redirects are not followed.
4. An answer is JSON of a known shape and size, or a :class:`ntmem.BadAnswer`.
"""

from __future__ import annotations

import http.client
import os
import random
import re
import time
from time import monotonic
from typing import NamedTuple, TypeVar
from urllib.parse import urlsplit

import msgspec
from urllib3.exceptions import (
    ConnectTimeoutError,
    HTTPError,
    InvalidHeader,
    NewConnectionError,
    ProtocolError,
    ReadTimeoutError,
    SSLError,
)
from urllib3.response import BaseHTTPResponse
from urllib3.util import Retry, Timeout

from ..endpoint import Secret
from ..errors import BadAnswer, ServerUnavailable, VectorError
from . import wire
from .connections import MOST_ANSWER, Pool, SecurePool, too_large

T = TypeVar("T")

_TRIES = 4
_FIRST_WAIT, _MOST_WAIT = 0.05, 1.0  # seconds
_CONNECTIONS = 256  # that are kept; urllib3 warns of each beyond
_MOST_DETAIL = 400  # letters of a refusal that are shown
_NOT_TAKEN = (429, 503)
_NOT_NOW = (*_NOT_TAKEN, 502, 504)
_JSON = re.compile(r"application/([a-z.+-]+\+)?json *(;.*)?", re.IGNORECASE)
_HEALTH = msgspec.json.Decoder(wire.Health)
_NEVER_SENT = (ConnectTimeoutError, NewConnectionError)


class Answer(NamedTuple):
    """What a server answered.

    Attributes
    ----------
    status : int
    body : bytes
    kind : str
        Its Content-Type, "" if it has none.
    is_unsure : bool
        Whether an earlier try of the same request may have been carried out.
    """

    status: int
    body: bytes
    kind: str
    is_unsure: bool


class Client:
    """An AgentDB server, and the connections to it.

    Notes
    -----
    **Thread safety**: any thread; each has a connection of its own while it asks. A forked child makes new ones.
    """

    def __init__(self, url: str, token: Secret | None, timeout: float) -> None:
        self.url = url.rstrip("/")
        self._parts = urlsplit(self.url)
        self._token = token
        self._timeout = timeout
        self._headers = {"Accept": "application/json", "Accept-Encoding": "identity", "User-Agent": "ntmem"}
        if token is not None:
            self._headers["Authorization"] = "Bearer " + str.__str__(token)
        self._is_known = False
        self._pid, self._pool = os.getpid(), self._new_pool()

    def __repr__(self) -> str:
        return f"<Client of {self.url}>"

    def close(self) -> None:
        """Close all connections."""
        self._pool.close()

    def _new_pool(self) -> Pool | SecurePool:
        host = self._parts.hostname
        assert host is not None
        kind = SecurePool if self._parts.scheme == "https" else Pool
        return kind(host, self._parts.port, maxsize=_CONNECTIONS)

    def ask(
        self, method: str, path: str, body: bytes | None = None, *, fine: tuple[int, ...], until: float | None = None
    ) -> Answer:
        """Return the answer to a request; its status is one of those that are `fine`.

        Parameters
        ----------
        until : float, optional
            The instant of ``time.monotonic`` that it is to be done by; by default `timeout` seconds from now.

        Raises
        ------
        ServerUnavailable
            It cannot be reached, is not done in time, or says that it cannot.
        VectorError
            It refuses this; BadAnswer: its answer is none.
        """
        begun = monotonic()
        until = begun + self._timeout if until is None else until
        is_unsure = False
        for number in range(1, _TRIES + 1):
            wait = min(_MOST_WAIT, _FIRST_WAIT * 2 ** (number - 1)) * random.uniform(0.5, 1.0)
            cause: HTTPError | None = None
            try:
                response, data = self._try(method, path, body, until - monotonic())
            except HTTPError as error:
                cause, found = error, self._failed(error)
                is_unsure |= not isinstance(error, _NEVER_SENT)
            else:
                if response.status in fine:
                    return Answer(response.status, data, response.headers.get("Content-Type", ""), is_unsure)
                if response.status not in _NOT_NOW:
                    raise self._refusal(method, path, response, data)
                found = f"answers {response.status}{self._detail(data)}"
                is_unsure |= response.status not in _NOT_TAKEN
                wait = max(wait, _retry_after(response))
            if number == _TRIES or monotonic() + wait >= until or isinstance(cause, SSLError):
                break
            time.sleep(wait)
        took = f"{number} {'try' if number == 1 else 'tries'} in {monotonic() - begun:.1f} s"
        raise ServerUnavailable(
            f"{self.url} {found} ({took}, agentdb_timeout={self._timeout:g}); see that it is up, and ask again"
        ) from cause

    def read(self, answer: Answer, decoder: msgspec.json.Decoder[T]) -> T:
        """Return what an answer says; raise :class:`BadAnswer` if that is something else."""
        if answer.kind and not _JSON.fullmatch(answer.kind):
            shown = self._shown(answer.body)
            raise BadAnswer(
                f"{self.url} answered {answer.kind[:80]!r}, which is no JSON: {shown!r}; is agentdb_url that of an "
                "AgentDB server?"
            )
        try:
            return decoder.decode(answer.body)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            raise BadAnswer(
                f"{self.url} answered what AgentDB does not, {self._shown(answer.body)!r}: {error}; is agentdb_url "
                "that of an AgentDB server?"
            ) from None

    def confirm(self, until: float | None = None) -> None:
        """Raise unless this is an AgentDB server: then only does a 404 mean that there is none of what was asked."""
        if not self._is_known:
            answer = self.ask("GET", "/health", fine=(200, 404), until=until)
            if answer.status == 404:
                raise BadAnswer(f"{self.url} has no /health, as AgentDB has; is the path in agentdb_url right?")
            self.read(answer, _HEALTH)
            self._is_known = True

    def _try(self, method: str, path: str, body: bytes | None, left: float) -> tuple[BaseHTTPResponse, bytes]:
        if self._pid != os.getpid():  # those connections are the parent's
            self._pid, self._pool = os.getpid(), self._new_pool()
        left = max(left, 0.001)
        headers = self._headers if body is None else self._headers | {"Content-Type": "application/json"}
        response = self._pool.urlopen(
            method,
            self._parts.path + path,
            body=body,
            headers=headers,
            retries=False,
            redirect=False,
            preload_content=False,
            decode_content=False,
            timeout=Timeout(total=left, connect=left / 2),  # sending may take the other half
        )
        try:
            coding = response.headers.get("Content-Encoding", "identity")
            if coding.lower() != "identity":
                raise BadAnswer(f"{self.url} answered in Content-Encoding {coding[:40]!r}, which was not asked for")
            length = response.headers.get("Content-Length", "")
            if length.isdecimal() and int(length) > MOST_ANSWER:  # as much memory would be taken for it
                raise too_large()
            data = response.read()
        except BaseException:
            response.close()  # what is left of it is no other's
            raise
        return response, data

    # -- what is said of it

    def _failed(self, error: HTTPError) -> str:
        cause = error.args[1] if isinstance(error, ProtocolError) and len(error.args) > 1 else None
        if isinstance(cause, http.client.BadStatusLine) and not isinstance(cause, ConnectionError):
            raise BadAnswer(f"{self.url} answered what is no HTTP; is agentdb_url an AgentDB server's?") from error
        if isinstance(error, ConnectTimeoutError | NewConnectionError):
            return f"cannot be reached: {_reason(error)}"
        if isinstance(error, ReadTimeoutError) or isinstance(cause, TimeoutError):
            return "has not answered in time"
        if isinstance(error, SSLError):
            return f"cannot be trusted, or speaks no TLS: {error}"
        return f"broke off: {cause or error}"

    def _refusal(self, method: str, path: str, response: BaseHTTPResponse, data: bytes) -> VectorError:
        status, detail = response.status, self._detail(data)
        if status in (401, 403):
            what = "wants a token" if self._token is None else "refuses this token"
            return VectorError(
                f"{self.url} {what if status == 401 else 'does not allow it'}: {status}{detail}; agentdb_token is what "
                "it is told, or NTMEM_AGENTDB_TOKEN of the environment"
            )
        if 300 <= status < 400:
            place = self._shown(response.headers.get("Location", "").partition("?")[0].encode())
            return VectorError(f"{self.url} answers {status}, a redirect to {place!r}; set agentdb_url to that")
        if 400 <= status < 500:
            return VectorError(f"{self.url} refuses it: {status}{detail} ({method} {path[:200]})")
        if status >= 500:
            return ServerUnavailable(f"{self.url} failed: {status}{detail}; its log may say more")
        return BadAnswer(f"{self.url} answered {status} to {method} {path[:200]}, which AgentDB does not")

    def _detail(self, data: bytes) -> str:
        try:
            failure = msgspec.json.decode(data, type=wire.Failure)
            text = ": ".join(filter(None, (failure.error, failure.detail))).encode()
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            text = data
        return f", {self._shown(text)!r}" if text else ""

    def _shown(self, data: bytes) -> str:
        """Return the beginning of what a server said, which may be what it was told."""
        text = data[: 16 * _MOST_DETAIL].decode(errors="replace")
        if self._token is not None:
            text = text.replace(str.__str__(self._token), "***")
        return text if len(text) <= _MOST_DETAIL else text[:_MOST_DETAIL] + "..."


def _retry_after(response: BaseHTTPResponse) -> float:
    """Return for how many seconds a server wants to be left alone."""
    try:
        return Retry(respect_retry_after_header=True).get_retry_after(response) or 0.0
    except (InvalidHeader, OverflowError, ValueError):
        return 0.0


def _reason(error: HTTPError) -> str:
    return str(error.__cause__ or error)
