"""An HTTP server on loopback that answers what a test says, reply after reply, and remembers what it was asked."""

from __future__ import annotations

import json
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple


class Asked(NamedTuple):
    """A request that came."""

    method: str
    path: str
    headers: dict[str, str]
    body: Any
    port: int
    """Of the client: a connection has one."""


Reply = Callable[["Handler"], None]


def said(status: int, what: Any = None, *, raw: bytes | None = None, **headers: str) -> Reply:
    """Answer with JSON, or with these bytes; names of headers with "_" for "-"."""
    body = raw if raw is not None else b"" if what is None else json.dumps(what).encode()
    all_headers = {"Content-Type": "application/json", "Content-Length": str(len(body))}
    all_headers |= {name.replace("_", "-"): value for name, value in headers.items()}

    def reply(handler: Handler) -> None:
        handler.send_response(status)
        for name, value in all_headers.items():
            handler.send_header(name, value)
        handler.end_headers()
        handler.wfile.write(body)

    return reply


def reset(handler: Handler) -> None:
    """Break the connection off."""
    handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    handler.rfile.close()
    handler.wfile.close()
    handler.connection.close()
    handler.close_connection = True


def half(handler: Handler) -> None:
    """Say half of what was promised, and close."""
    handler.wfile.write(b'HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 90\r\n\r\n{"resul')
    handler.close_connection = True


def bytes_of(*parts: bytes) -> Reply:
    """Say these bytes, whatever they are, and close."""

    def reply(handler: Handler) -> None:
        for part in parts:
            handler.wfile.write(part)
        handler.close_connection = True

    return reply


class Handler(BaseHTTPRequestHandler):
    """Answers from the script of its server; what is not in it is 599."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: Script

    def _answer(self) -> None:
        raw = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        body = json.loads(raw) if raw else None
        asked = Asked(self.command, self.path, dict(self.headers), body, self.client_address[1])
        with self.server.lock:
            self.server.asked.append(asked)
            reply = self.server.replies.pop(0) if self.server.replies else self.server.otherwise(asked)
        reply(self)

    do_GET = do_POST = do_DELETE = _answer

    def log_message(self, *args: Any) -> None:
        """Be silent."""


class Script(ThreadingHTTPServer):
    """What is to be answered, and what was asked."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.lock = threading.Lock()
        self.replies: list[Reply] = []
        self.asked: list[Asked] = []
        self.connections = 0
        self.otherwise: Callable[[Asked], Reply]
        self.ending = threading.Event()
        self.begin()

    def begin(self) -> None:
        """Forget what was."""
        self.replies, self.asked, self.connections = [], [], 0
        self.otherwise = lambda asked: said(599, {"error": "not in the script"})

    @property
    def url(self) -> str:
        """Where it is."""
        return f"http://127.0.0.1:{self.server_address[1]}"

    def verify_request(self, *args: Any) -> bool:
        """Count connections."""
        self.connections += 1
        return True

    def handle_error(self, *args: Any) -> None:
        """Let clients go away as they like."""


@contextmanager
def scripted() -> Iterator[Script]:
    """Serve until the block ends."""
    with Script() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield server
        finally:
            server.ending.set()
            server.shutdown()
            thread.join()
