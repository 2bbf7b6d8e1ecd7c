from collections.abc import Callable
from typing import Any, TypeVar, final, overload

from _typeshed import ReadableBuffer

from ntmem._core.log import Log
from ntmem.instants import Duration, Instant
from ntmem.records import Fence

_D = TypeVar("_D")

@final
class Direct:
    def __init__(
        self,
        log: Log,
        writer: bytes,
        look: Callable[[Any], tuple[bytes, bool, int]],
        *,
        writes: bool,
        max_lag: float,
    ) -> None: ...
    def time_puts(self, namespace: str, keys: list[str], value: bytes) -> list[int]: ...

class DirectCalls:
    def _use(self, direct: Direct | None) -> None: ...
    def put(
        self,
        namespace: str | tuple[str, ...],
        key: str,
        value: ReadableBuffer,
        *,
        ttl: Duration | None = None,
        if_version: int | None = None,
        fence: Fence | None = None,
        ts_event: Instant | None = None,
        ts_known: Instant | None = None,
        durable: bool | None = None,
    ) -> int: ...
    @overload
    def get(self, namespace: str | tuple[str, ...], key: str, default: None = None) -> bytes | None: ...
    @overload
    def get(self, namespace: str | tuple[str, ...], key: str, default: _D) -> bytes | _D: ...
