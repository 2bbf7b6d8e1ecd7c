"""A server of AgentDB's wire as a process, and requests to it, byte for byte."""

from __future__ import annotations

import http.client
import json
import socket
from typing import Any, NamedTuple
from urllib.parse import urlsplit

SERVER = """
from ntmem.cli import main
signal.signal(signal.SIGINT, signal.default_int_handler)
sys.argv = ["ntmem", "serve-agentdb", "--port", "0", *sys.argv[1:]]
main()
"""


class Reply(NamedTuple):
    status: int
    document: Any
    """The JSON of the body; None: it is empty."""
    headers: http.client.HTTPMessage

    @property
    def short(self) -> tuple[int, Any]:
        return self.status, self.document


class Asker:
    """Asks a server, over a connection that is kept."""

    def __init__(self, url: str, token: str | None = None) -> None:
        self.address = (urlsplit(url).hostname or "", urlsplit(url).port or 0)
        self.url = url
        self.headers = {} if token is None else {"Authorization": f"Bearer {token}"}
        self._connection = http.client.HTTPConnection(*self.address, timeout=60)

    def __call__(self, method: str, path: str, said: Any = None, headers: dict[str, str] | None = None) -> Reply:
        """Ask; `said` is sent as JSON, or as it is if it is bytes."""
        body = said if said is None or isinstance(said, bytes) else json.dumps(said).encode()
        given = self.headers | ({} if body is None else {"Content-Type": "application/json"}) | (headers or {})
        self._connection.request(method, path, body, given)
        answer = self._connection.getresponse()
        data = answer.read()
        return Reply(answer.status, json.loads(data) if data else None, answer.msg)

    def post(self, path: str, **said: Any) -> tuple[int, Any]:
        return self("POST", path, said).short

    def raw(self, text: bytes) -> bytes:
        """Send bytes over a connection of their own; return what is answered until it is closed."""
        with socket.create_connection(self.address, timeout=60) as found:
            found.sendall(text)
            parts = []
            try:
                while part := found.recv(65536):
                    parts.append(part)
            except ConnectionResetError:
                pass
        return b"".join(parts)

    def close(self) -> None:
        self._connection.close()
