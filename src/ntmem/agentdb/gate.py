"""Who may ask, with which path: what stands before everything else that a request meets.

**Invariants**

1. A path is matched as it came, percent-encoded: what one segment holds reaches no other path and no other collection.
2. Who may not ask learns nothing: a token is looked at before path and body are, in constant time.
3. Whatever is raised behind it is answered, with the status that it says, or 500 and a line in the log.
"""

from __future__ import annotations

import asyncio
import hmac
import ipaddress
import logging
import re
import time
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from .answers import Refused, Rules, failure

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

_DROPPED = 2.0  # seconds for what is left of a body that was refused

_log = logging.getLogger("ntmem")


class Gate:
    """Lets those through who may ask, with the path as it came; answers what is refused."""

    def __init__(self, app: ASGIApp, rules: Rules) -> None:
        self._app = app
        self._rules = rules
        self._token = None if rules.token is None else rules.token.encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        scope["path"] = scope["raw_path"].decode("latin-1")
        scope["app"] = self  # then a path or method that there is not is raised, not answered
        begun, said = time.perf_counter(), _Said(receive, send)
        try:
            self._check(scope)
            await self._app(scope, said.receive, said.send)
        except Refused as refused:
            await self._refuse(scope, said, refused)
        except HTTPException as error:
            await self._refuse(scope, said, _of_router(error))
        except ClientDisconnect:
            return
        except Exception:
            _log.exception("a request of AgentDB's wire met a bug of ntmem's: %s %r", scope["method"], scope["path"])
            if said.status:
                raise
            await self._refuse(scope, said, Refused(500, "this is a bug of ntmem's; its log has more"))
        if self._rules.access_log:
            took = 1e3 * (time.perf_counter() - begun)
            _log.info("%s %r %d %.1f ms", scope["method"], scope["path"], said.status, took)

    def _check(self, scope: Scope) -> None:
        if scope["path"] == "/health":
            return
        if self._token is not None:
            if not any(hmac.compare_digest(self._token, given) for given in _tokens(scope["headers"])):
                detail = "say the server's token: Authorization: Bearer ..., or X-API-Key: ..."
                raise Refused(401, detail, {"WWW-Authenticate": "Bearer"})
        elif self._rules.is_local:
            host = next((value for name, value in scope["headers"] if name == b"host"), b"")
            if not _is_local_name(host.decode("latin-1")):
                raise Refused(421, "this server is for this machine; ask it as 127.0.0.1, or start it with a token")

    async def _refuse(self, scope: Scope, said: _Said, refused: Refused) -> None:
        """Answer; what is left of the body is read first, within bounds, as few clients look while they send."""
        is_read = refused.status != 408 and await said.rest(self._rules)
        headers = dict(refused.headers or {}) | ({} if is_read else {"Connection": "close"})
        answer = failure(Refused(refused.status, refused.detail, headers))
        await answer(scope, said.receive, said.send)


class _Said:
    """What was received and sent of a request so far."""

    def __init__(self, receive: Receive, send: Send) -> None:
        self._receive = receive
        self._send = send
        self._more = True
        self.status = 0

    async def receive(self) -> Message:
        message = await self._receive()
        self._more = message["type"] == "http.request" and message.get("more_body", False)
        return message

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
        await self._send(message)

    async def rest(self, rules: Rules) -> bool:
        """Drop what is left of the body, within bounds; return whether that was all."""
        most = rules.max_body
        try:
            async with asyncio.timeout(min(_DROPPED, rules.patience)):
                while self._more and most >= 0:
                    most -= len((await self.receive()).get("body", b""))
        except TimeoutError:
            pass
        return not self._more


def _tokens(headers: Iterable[tuple[bytes, bytes]]) -> Iterator[bytes]:
    for name, value in headers:
        if name == b"x-api-key":
            yield value.strip()
        elif name == b"authorization":
            scheme, _, token = value.strip().partition(b" ")
            if scheme.lower() == b"bearer":
                yield token.strip()


def _is_local_name(host: str) -> bool:
    """Whether a Host header is one that no other machine's name server gives: an address, or localhost."""
    found = re.fullmatch(r"(?:\[([0-9A-Fa-f:.]+)\]|([^:\[\]]*))(?::\d+)?", host)
    if found is None:
        return False
    name = found[1] or found[2]
    if not name or name.lower() == "localhost" or name.lower().endswith(".localhost"):
        return True
    try:
        return bool(ipaddress.ip_address(name))
    except ValueError:
        return False


def _of_router(error: HTTPException) -> Refused:
    if error.status_code == 405:
        headers = error.headers or {}
        return Refused(405, f"that path takes {headers.get('Allow')}", headers)
    return Refused(404, "there is no such path; /openapi.json has those there are")
