from typing import Any, TypeVar

from ntmem._core.hot import HotTable
from ntmem._core.log import Log

_Stored = TypeVar("_Stored")

def gather(
    log: Log, hot: HotTable | None, tables: Any, databases: dict[str, Any], space: bytes, keys: list[tuple[str, bytes]]
) -> dict[str, bytes] | None: ...
def page(
    txn: Any,
    records: Any,
    stem: bytes,
    begin: bytes,
    resume: bytes | None,
    most: int,
    most_bytes: int,
    make: type[_Stored],
) -> tuple[list[tuple[bytes, _Stored]], bytes | None] | None: ...
