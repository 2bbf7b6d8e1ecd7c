"""A mapping of objects that several may change at once, on top of versions."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import MutableMapping
from contextlib import suppress
from typing import Any

from .errors import VersionConflict
from .namespace import encode_key


class SharedMapping(MutableMapping[str, Any]):
    """What :class:`MutableMapping` has, where another thread or process may come between a look and a change."""

    @abstractmethod
    def _versioned(self, key: str) -> tuple[Any, int] | None:
        """Return the object under a key and its version; None: there is none, or can be none."""

    @abstractmethod
    def _add(self, key: str, value: Any) -> bool:
        """Set a key that does not exist; return whether it did not."""

    @abstractmethod
    def _remove(self, key: str, version: int) -> None:
        """Delete a key; raise :class:`VersionConflict` if it has another version."""

    def setdefault(self, key: str, default: Any = None) -> Any:
        """Return the value of a key, set to `default` if it does not exist; of several callers one sets it."""
        while True:
            with suppress(KeyError):
                return self[key]
            if self._add(key, default):
                return default

    def pop(self, key: str, *default: Any) -> Any:
        """Delete a key and return the value that was deleted; of a missing one `default`, or raise ``KeyError``."""
        if len(default) > 1:
            raise TypeError(f"pop takes a key and a default, got {1 + len(default)} arguments")
        while True:
            found = self._versioned(key)
            if found is None:
                if default:
                    return default[0]
                raise KeyError(key)
            value, version = found
            with suppress(VersionConflict):  # somebody has changed it: that is another value to return
                self._remove(key, version)
                return value

    def popitem(self) -> tuple[str, Any]:
        """Delete the first key and return it with its value; raise ``KeyError`` if there is none."""
        while True:
            key = next(iter(self), None)
            if key is None:
                raise KeyError("there is no key")
            with suppress(KeyError):
                return key, self.pop(key)


def is_possible(key: str) -> bool:
    """Whether there can be such a key; a mapping that is asked for another just does not have it."""
    try:
        encode_key(key)
    except ValueError:
        return False
    return True
