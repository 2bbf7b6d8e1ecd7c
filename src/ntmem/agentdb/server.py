"""Answers AgentDB's wire from a store: the paths there are, and the process. Needs ``agentdb-server``.

``docs/design/agentdb.md`` has the reasons, :mod:`ntmem.agentdb.wire` what is said, :mod:`ntmem.agentdb.gate` who may
ask, and :mod:`ntmem.agentdb.service` what is answered.
"""

from __future__ import annotations

import ipaddress
import signal
import socket
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from typing import TYPE_CHECKING

import uvicorn
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route, Router

from .gate import Gate
from .service import Service

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Receive, Scope, Send

    from ..tiers.vectors import VectorStore
    from .answers import Rules

_MOST_CONNECTIONS = 512
_KEPT_ALIVE = 75  # seconds that a connection may idle


def application(vectors: VectorStore, rules: Rules, version: str) -> tuple[ASGIApp, Service]:
    """Return the application, for an ASGI server, and its service, which is to be closed when it has ended."""
    service = Service(vectors, rules, version)
    document = "/collections/{collection}/documents/{id}"
    routes: list[tuple[str, str, Callable[[Request], Awaitable[Response]]]] = [
        ("POST", "/collections/{collection}/search", service.search),
        ("POST", "/collections/{collection}/query", service.query),
        ("POST", "/collections/{collection}/insert", service.insert),
        ("POST", "/collections/{collection}/batch_insert", service.batch_insert),
        ("POST", "/collections", service.create),
        ("GET", "/openapi.json", service.openapi),
        ("GET", "/health", service.health),
    ]
    found = [Route(path, endpoint, methods=[method]) for method, path, endpoint in routes]
    found.append(Route(document, _Methods(GET=service.document, HEAD=service.document, DELETE=service.delete)))
    return Gate(Router(found, redirect_slashes=False), rules), service


class _Methods:
    """An endpoint of several methods, that says all of them where it has none."""

    def __init__(self, **endpoints: Callable[[Request], Awaitable[Response]]) -> None:
        self._endpoints = endpoints

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        endpoint = self._endpoints.get(scope["method"])
        if endpoint is None:
            raise HTTPException(405, headers={"Allow": ", ".join(self._endpoints)})
        answer = await endpoint(Request(scope, receive, send))
        await answer(scope, receive, send)


# ---- the process


class _Server(uvicorn.Server):
    """Ends when it is told to, after what it is doing, and returns."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
        before = {number: signal.getsignal(number) for number in numbers}
        try:
            for number, handler in before.items():
                if handler != signal.SIG_IGN:  # nohup
                    signal.signal(number, self.handle_exit)
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def listening(host: str, port: int) -> socket.socket:
    """Return a socket that listens; `port` 0 is any free one. Raises OSError."""
    family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
    return socket.create_server(address[:2], family=family, backlog=_MOST_CONNECTIONS)


def is_loopback(found: socket.socket) -> bool:
    """Whether only this machine reaches a socket that listens."""
    return ipaddress.ip_address(found.getsockname()[0].partition("%")[0]).is_loopback


def serve(vectors: VectorStore, found: socket.socket, rules: Rules, version: str) -> None:
    """Answer what comes to a socket until this process is told to end (SIGTERM, SIGINT, SIGHUP).

    Requests that have begun are answered before it returns. **Thread safety**: of the main thread.
    """
    app, service = application(vectors, rules, version)
    try:
        run(app, found)
    finally:
        service.close()


def run(app: ASGIApp, found: socket.socket) -> None:
    """Run an application on the quickest parts that are installed, until this process is told to end."""
    config = uvicorn.Config(
        app,
        http="httptools" if find_spec("httptools") else "h11",
        loop="uvloop" if find_spec("uvloop") else "asyncio",
        ws="none",
        lifespan="off",
        interface="asgi3",
        log_config=None,
        log_level="error",
        access_log=False,
        proxy_headers=False,
        server_header=False,
        limit_concurrency=_MOST_CONNECTIONS,
        timeout_keep_alive=_KEPT_ALIVE,
    )
    _Server(config).run(sockets=[found])
