"""The one tree of errors under :class:`NtmemError`.

Wrong types raise ``TypeError`` and arguments that could never be right raise ``ValueError``; everything a
correct program may meet at run time is below. The builtin ``MemoryError`` is never shadowed.
"""

from __future__ import annotations


class NtmemError(Exception):
    """Base of everything ntmem raises at run time."""


class CacheError(NtmemError):
    """The hot tier could not do what was asked."""


class VectorError(NtmemError):
    """A vector or a collection of vectors was refused."""


class ServerUnavailable(VectorError, ConnectionError):
    """A server of vectors cannot be reached, does not answer in time, or says that it cannot now: ask it later."""


class BadAnswer(VectorError):
    """A server of vectors answered what makes no sense: it is another one, or is broken."""


class StorageError(NtmemError):
    """The store on disk could not be opened, read or written."""


class CoordinationError(NtmemError):
    """A lock, a message or a vote could not be handled."""


class SerializationError(NtmemError):
    """A value cannot be stored so that it comes back as it went in, or stored bytes cannot be decoded."""


class Lagged(CoordinationError):
    """Messages were overwritten before a subscription with ``overflow="error"`` looked at them."""


class LockTimeout(CoordinationError, TimeoutError):
    """A lock, or a wait, was not granted in time."""


class ConsensusError(CoordinationError):
    """A proposal or a vote was refused."""


class InvalidNamespace(NtmemError, ValueError):
    """A namespace or one of its labels is not allowed."""


class VersionConflict(NtmemError):
    """``if_version`` named another version than the one the key has.

    Attributes
    ----------
    expected : int
        What the caller asked for; 0 means "must not exist".
    found : int
        The version the key has now; 0 when it does not exist.
    """

    def __init__(self, message: str, *, expected: int, found: int) -> None:
        super().__init__(message)
        self.expected = expected
        self.found = found

    def __reduce__(self) -> tuple[object, ...]:
        return _rebuild_conflict, (self.args[0], self.expected, self.found)


def _rebuild_conflict(message: str, expected: int, found: int) -> VersionConflict:
    return VersionConflict(message, expected=expected, found=found)


class StaleFence(CoordinationError):
    """The fence of a write is not that of a current, unexpired lease."""


class LockLost(CoordinationError):
    """A lock was over, as its time had passed, before it was given back; what was done under it may be undone."""


class NotOwner(CoordinationError):
    """A namespace belongs to another agent."""


class PositionError(NtmemError):
    """The position book cannot take it."""


class FillConflict(PositionError):
    """An id was used for another fill; or a position has another version than ``if_version``."""


class FillTooOld(PositionError):
    """Ids of that time are not kept any more, so whether it was booked cannot be told."""


class LimitExceeded(PositionError):
    """A reservation would go over the limit."""


class MapFull(StorageError):
    """The store reached ``max_storage_bytes``; nothing of the refused change was kept."""


class DiskFull(StorageError):
    """The disk has no room for the change; nothing of it was kept and the store stays usable."""


class CorruptionError(StorageError):
    """Stored data is damaged. What was found and what to do is in the message."""


class SchemaError(StorageError):
    """The store was written by another version of ntmem and cannot be opened by this one."""


class HistoryNotRetained(StorageError):
    """``as_of`` or ``history`` reached for the past of a key whose past is not kept."""


class ReadOnlyError(StorageError):
    """A write was tried through a store opened with ``read_only=True``."""


class StoreClosed(NtmemError):
    """The store was closed, or belongs to the parent of a forked process."""
