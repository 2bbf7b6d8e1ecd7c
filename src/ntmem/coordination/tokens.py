"""What says which lease is meant: a token, a fence, a lock that is held."""

from __future__ import annotations

from functools import lru_cache
from typing import Any, Self

from ..instants import shown
from ..records import Fence, fence_of

MOST_RESOURCE_BYTES = 255
RESERVED = "ntmem:"
"""What names of ntmem's own leases begin with."""
_MOST = 2**63


class LockToken(str):
    """Names one lease: ``resource#number``. Whoever has it can give the lease back or renew it, in any process."""

    fence: Fence

    def __new__(cls, fence: Fence) -> Self:
        token = super().__new__(cls, f"{fence.resource}#{fence.number}")
        token.fence = fence
        return token

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.fence,)


def encode_resource(resource: Any, *, reserved: bool = False) -> bytes:
    """Return the bytes of a resource's name; raise ``TypeError`` or ``ValueError`` that says what is wrong with it.

    `reserved`: it may be one of ntmem's own.
    """
    if not isinstance(resource, str):
        raise TypeError(f"resource must be a str, was {type(resource).__name__}")
    return _encoded(resource, reserved)


@lru_cache(4096)
def _encoded(resource: str, reserved: bool) -> bytes:
    try:
        raw = resource.encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"resource must be encodable as UTF-8, was {resource!r}") from error
    if not 0 < len(raw) <= MOST_RESOURCE_BYTES or b"\0" in raw:
        raise ValueError(
            f"resource has 1 to {MOST_RESOURCE_BYTES} bytes of UTF-8 and no NUL, was {shown(resource[:64])} "
            f"of {len(raw)} bytes"
        )
    if not reserved and resource.startswith(RESERVED):
        raise ValueError(f"names that begin with {RESERVED!r} are ntmem's own, was {resource!r}; choose another")
    return raw


def fence_of_token(token: Any) -> Fence:
    """Return the fence that a token names, be it one that was copied as text."""
    if isinstance(token, Fence | LockToken) or not isinstance(token, str):
        return fence_of(token)
    resource, _, number = token.rpartition("#")
    if not resource or not (number.isascii() and number.isdigit()) or int(number) >= _MOST:
        raise ValueError(f"a token is what acquire_lock() returned, 'resource#number', was {shown(token[:64])}")
    return Fence(resource, int(number))


def is_possible(fence: Fence) -> bool:
    """Whether a lease can have this number at all."""
    return 0 < fence.number < _MOST
