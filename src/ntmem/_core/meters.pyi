from typing import final

from ntmem._core.region import Region

NAMES: tuple[str, ...]
SCAN: int
COMMIT: int
APPLY_FILL: int
APPEND: int
EXTEND: int
RECENT: int
RANGE: int
VECTOR_ADD: int
VECTOR_SEARCH: int
PUBLISH: int
DELIVER: int
LOCK_WAIT: int
LOCK_HOLD: int
VOTE: int
FLUSH: int
FLUSH_GROUPS: int
FLUSH_BYTES: int
RECALL: int
CHOOSE: int
JUDGE: int
DISTILL: int

@final
class Meters:
    def __new__(cls, region: Region | None = None) -> Meters: ...
    @staticmethod
    def sections() -> list[tuple[int, int, int]]: ...
    @staticmethod
    def create(region: Region) -> Meters: ...
    @property
    def is_shared(self) -> bool: ...
    def record(self, op: int, value: int) -> None: ...
    def since(self, op: int, begun: int) -> None: ...
    def read(self) -> dict[str, tuple[int, int, list[tuple[int, int]]]]: ...
