"""Connections of urllib3 whose answers are bounded: in time as a whole, not read by read, and in bytes."""

from __future__ import annotations

import http.client
import io
import socket
from time import monotonic
from typing import Any

from urllib3 import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.exceptions import ConnectTimeoutError, NameResolutionError, NewConnectionError
from urllib3.util.connection import create_connection

from ..errors import BadAnswer

MOST_ANSWER = 64 << 20


class _Bounded(io.RawIOBase):
    """What comes from a socket until its time-out has passed once, `MOST_ANSWER` bytes at most."""

    def __init__(self, raw: Any, sock: Any) -> None:
        self._raw = raw
        self._sock = sock
        self._until = monotonic() + sock.gettimeout()
        self._left = MOST_ANSWER

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> Any:
        left = self._until - monotonic()
        if left <= 0:
            raise TimeoutError("timed out")
        self._sock.settimeout(left)
        count = self._raw.readinto(buffer)
        self._left -= count or 0
        if self._left < 0:
            raise too_large()
        return count

    def close(self) -> None:
        self._raw.close()
        super().close()


class _Response(http.client.HTTPResponse):
    def __init__(self, sock: Any, *args: Any, **kwargs: Any) -> None:
        super().__init__(sock, *args, **kwargs)
        self.fp = io.BufferedReader(_Bounded(self.fp.detach(), sock))


class _Connection(HTTPConnection):
    response_class = _Response

    def _new_conn(self) -> socket.socket:
        """Connect to the first address that takes it; the time-out is that of all of them together."""
        assert isinstance(self.timeout, int | float)
        until = monotonic() + self.timeout
        try:
            found = socket.getaddrinfo(self._dns_host, self.port, type=socket.SOCK_STREAM)
        except socket.gaierror as error:
            raise NameResolutionError(self.host, self, error) from error
        failed: OSError | None = None
        for *_, address in found:
            left = until - monotonic()
            if left <= 0:
                break
            try:
                return create_connection((str(address[0]), self.port), left, socket_options=self.socket_options)
            except OSError as error:
                failed = error
        if failed is None or isinstance(failed, TimeoutError):
            raise ConnectTimeoutError(self, f"no connection to {self.host} within {self.timeout:.3g} s") from failed
        raise NewConnectionError(self, f"no connection: {failed}") from failed


class _SecureConnection(_Connection, HTTPSConnection):
    pass


class Pool(HTTPConnectionPool):
    """Of http."""

    ConnectionCls = _Connection


class SecurePool(HTTPSConnectionPool):
    """Of https."""

    ConnectionCls = _SecureConnection


def too_large() -> BadAnswer:
    """Return the error about an answer with too many bytes."""
    return BadAnswer(f"the server's answer has more than {MOST_ANSWER} bytes; ask for less, or check agentdb_url")
