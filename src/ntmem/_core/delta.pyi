from _typeshed import ReadableBuffer, WriteableBuffer

class Damaged(ValueError): ...

def encode(
    numbers: ReadableBuffer,
    type: int,
    level: int,
    kind: int = 0,
    left: ReadableBuffer | None = None,
    right: ReadableBuffer | None = None,
) -> bytes: ...
def describe(data: ReadableBuffer) -> tuple[int, int, int, int]: ...
def decode(
    data: ReadableBuffer,
    numbers: WriteableBuffer,
    first_block: int = 0,
    kind: int = 0,
    left: ReadableBuffer | None = None,
    right: ReadableBuffer | None = None,
) -> None: ...
def estimate(
    numbers: ReadableBuffer,
    type: int,
    kind: int = 0,
    left: ReadableBuffer | None = None,
    right: ReadableBuffer | None = None,
) -> float: ...
def use_vectors(wanted: bool) -> None: ...
def crc(data: ReadableBuffer) -> int: ...
