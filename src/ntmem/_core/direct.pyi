from collections.abc import Callable
from typing import Any, Final, final

from ntmem._core.log import Log

UNDECIDED: Final[Any]

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
    def end(self) -> None: ...
    def put(self, namespace: Any, key: Any, value: Any) -> int: ...
    def time_puts(self, namespace: str, keys: list[str], value: bytes) -> list[int]: ...
    def get(self, namespace: Any, key: Any) -> Any: ...
