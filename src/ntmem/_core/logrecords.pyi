from typing import Any, Final, final

KIND_PUT: Final = 1
KIND_DELETE: Final = 2
KIND_NOTICE: Final = 3

class LogDamaged(ValueError): ...

class Conflict(Exception):
    index: int
    version: int
    def __init__(self, index: int, version: int) -> None: ...
    def __reduce__(self) -> tuple[Any, ...]: ...

class LookAgain(Exception): ...

class WriterStalled(TimeoutError):
    pid: int
    seconds: float
    def __init__(self, pid: int, seconds: float) -> None: ...
    def __reduce__(self) -> tuple[Any, ...]: ...

class LogFull(TimeoutError): ...

class Trouble(OSError):
    kind: int
    code: int
    def __init__(self, kind: int, code: int) -> None: ...
    def __reduce__(self) -> tuple[Any, ...]: ...

class NewRules(Exception): ...
class LogShut(Exception): ...
class Overwritten(LookupError): ...
class ValueTooLarge(ValueError): ...

@final
class Record:
    namespace: bytes
    key: bytes
    writer: bytes
    value: bytes
    version: int
    ts_event: int
    ts_known: int
    expires_at: int
    kind: int
    flags: int
    def __init__(self, *args: object, **kwargs: object) -> None: ...

@final
class Batch:
    def __new__(cls, records: tuple[tuple[Any, ...], ...]) -> Batch: ...
