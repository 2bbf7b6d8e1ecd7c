from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any, TypeAlias, TypeVar, final, overload

import numpy as np
from _typeshed import ReadableBuffer

from ntmem._core.hot import HotTable
from ntmem._core.log import Log
from ntmem._core.logrecords import Claim
from ntmem._core.mdb import Database, Environment

_D = TypeVar("_D")
_Duration: TypeAlias = float | timedelta
_Instant: TypeAlias = int | datetime | np.datetime64

@final
class Space: ...

@final
class Lent: ...

@final
class Direct:
    def __init__(
        self,
        log: Log,
        hot: HotTable | None,
        env: Environment,
        databases: dict[str, Database],
        writer: bytes,
        look: Callable[[Any], tuple[bytes, bool, bool, bool, int]],
        admit: Callable[[Any], tuple[Claim, bytes, bytes]],
        *,
        writes: bool,
        max_lag: float,
    ) -> None: ...
    def put_fenced(self, namespace: Any, key: Any, value: Any, fence: tuple[str, int]) -> int: ...
    def put_many(self, namespace: Any, mapping: dict[str, bytes]) -> int: ...
    def time_puts(self, namespace: str, keys: list[str], value: bytes) -> list[int]: ...
    def time_gets(self, namespace: Any, keys: list[str]) -> list[int]: ...

class DirectCalls:
    def _use(self, direct: Direct | None) -> None: ...
    def _put_fenced(self, namespace: Any, key: Any, value: Any, fence: tuple[str, int]) -> int: ...
    def _put_plain(self, namespace: Any, mapping: Any) -> int: ...
    def put(
        self,
        namespace: str | tuple[str, ...],
        key: str,
        value: ReadableBuffer,
        *,
        ttl: _Duration | None = None,
        if_version: int | None = None,
        fence: Any = None,
        ts_event: _Instant | None = None,
        ts_known: _Instant | None = None,
        durable: bool | None = None,
    ) -> int: ...
    @overload
    def get(self, namespace: str | tuple[str, ...], key: str, default: None = None) -> bytes | None: ...
    @overload
    def get(self, namespace: str | tuple[str, ...], key: str, default: _D) -> bytes | _D: ...
