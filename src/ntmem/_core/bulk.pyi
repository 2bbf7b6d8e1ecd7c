from typing import Any

from ntmem._core.hot import HotTable
from ntmem._core.log import Log

def gather(
    log: Log, hot: HotTable | None, tables: Any, databases: dict[str, Any], space: bytes, keys: list[tuple[str, bytes]]
) -> dict[str, bytes] | None: ...
