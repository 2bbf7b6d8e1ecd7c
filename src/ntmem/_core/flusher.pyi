from typing import Final, final

from ntmem._core.log import Log
from ntmem._core.mdb import Database, Environment

CODES: Final[dict[int, str]]

def trouble_text(kind: int, code: int) -> str: ...

@final
class Flusher:
    log: Log
    environment: Environment
    def __new__(
        cls,
        log: Log,
        environment: Environment,
        databases: dict[str, Database],
        region_id: bytes,
        *,
        interval: float,
        limit: int,
    ) -> Flusher: ...
    def start(self) -> None: ...
    def stop(self, timeout: float = 30.0) -> None: ...
    def drain(self, timeout: float, *, anew: bool = False) -> None: ...
    @property
    def running(self) -> bool: ...
    @property
    def leads(self) -> bool: ...
    @property
    def holder(self) -> int: ...
    @property
    def last_failure(self) -> int: ...
    def counts(self) -> dict[str, int | float]: ...
