from collections.abc import Callable, Iterable
from decimal import Decimal
from typing import Any, final

from ntmem._core.fill import Fill
from ntmem._core.log import Log
from ntmem._core.logrecords import Claim
from ntmem._core.mdb import Database, Environment
from ntmem._core.position import Position

_Key = tuple[str, str, str, str]
_Number = int | float | Decimal | str
_Definition = tuple[int, int, int, int, bytes]

class BookFull(RuntimeError): ...
class Conflicting(ValueError): ...
class TooOld(ValueError): ...

def sections(slots: int) -> list[tuple[int, int, int]]: ...
def create(log: Log, rows: Iterable[tuple[bytes, bytes, int]]) -> None: ...
def count(log: Log) -> tuple[int, int]: ...

@final
class PositionRef:
    key: _Key
    def __init__(self, *args: object, **kwargs: object) -> None: ...
    @property
    def position(self) -> Position | None: ...
    @property
    def quantity(self) -> float: ...
    def __getattr__(self, name: str) -> Any: ...

class Book:
    plain: bool
    handle: Callable[[], Any]
    def apply_fill(
        self,
        symbol: str,
        quantity: _Number,
        price: _Number,
        *,
        side: str | None = None,
        trade_id: str,
        ts_event: Any = None,
        fee: _Number = 0,
        account: str = "",
        strategy: str = "",
        position_id: str = "",
        reservation: Any = None,
        fence: Any = None,
        durable: bool | None = None,
    ) -> Fill: ...
    def __init__(
        self, log: Log, env: Environment, databases: dict[str, Database], writer: bytes, max_lag: float
    ) -> None: ...
    def get(self, symbol: str, account: str = "", strategy: str = "", position_id: str = "") -> Position | None: ...
    def quantity(self, symbol: str, account: str = "", strategy: str = "", position_id: str = "") -> float: ...
    def ref(self, symbol: str, account: str = "", strategy: str = "", position_id: str = "") -> PositionRef: ...
    @property
    def used(self) -> int: ...
    def keys(self) -> list[_Key]: ...
    def of_symbol(self, symbol: str) -> list[PositionRef]: ...
    def numbers(self, count: int) -> bytes: ...
    def each(self) -> list[Position]: ...
    def book(
        self,
        names: _Key,
        define: Callable[[str], _Definition],
        id: str,
        quantity: _Number,
        price: _Number,
        amount: _Number,
        sign: int = 0,
        ts_event: int | None = None,
        cash: bool = False,
        claim: Claim | None = None,
        writer: bytes | None = None,
    ) -> Fill: ...
    def draft(
        self,
        names: _Key,
        define: Callable[[str], _Definition],
        id: str,
        quantity: _Number,
        price: _Number,
        amount: _Number,
        sign: int,
        ts_event: int | None,
        booked: bytes | None,
        before: Position | None,
    ) -> tuple[Fill, bytes, bytes]: ...
    def set(
        self,
        position: Position,
        *,
        if_version: int | None = None,
        claim: Claim | None = None,
        writer: bytes | None = None,
    ) -> Position: ...
    def forget(self, position: Position, until: int) -> bool: ...
    def mark_one(self, ref: PositionRef, price: _Number, ts: int) -> None: ...
