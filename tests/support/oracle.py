"""The facade's semantics over plain dicts: slow, in one piece, obviously right. The tests compare the store with it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import ntmem

MAX_INSTANT = 2**63 - 1


@dataclass
class Version:
    value: bytes | None  # None: deleted
    version: int
    ts_event: int
    ts_known: int
    expires_at: int | None = None

    def served(self, at: int) -> bool:
        return self.value is not None and (self.expires_at is None or self.expires_at > at)


@dataclass
class Space:
    keeps_history: bool = False
    since: int = 0
    keys: dict[str, list[Version]] = field(default_factory=dict)  # every version, oldest first; plain: the newest


class Oracle:
    """What a store must answer. Times in ns; the clock is set, never read."""

    def __init__(self, now: int) -> None:
        self.now = now
        self.position = 0
        self.spaces: dict[tuple[str, ...], Space] = {}

    # -- reads

    def _newest(self, ns: tuple[str, ...], key: str, at: int) -> Version | None:
        versions = self.spaces.get(ns, Space()).keys.get(key, [])
        return next((v for v in reversed(versions) if v.ts_known <= at), None)

    def _served(self, ns: tuple[str, ...], key: str) -> Version | None:
        found = self._newest(ns, key, self.now)
        return found if found is not None and found.served(self.now) else None

    def get(self, ns: tuple[str, ...], key: str, default: Any = None) -> Any:
        found = self._served(ns, key)
        return default if found is None else found.value

    def exists(self, ns: tuple[str, ...], key: str) -> bool:
        return self._served(ns, key) is not None

    def get_record(self, ns: tuple[str, ...], key: str, as_of: Any = None) -> Version | None:
        space = self.spaces.get(ns, Space())
        if as_of is None:
            return self._served(ns, key)
        if as_of is ntmem.LATEST:
            found = self._newest(ns, key, MAX_INSTANT)
            return found if found is not None and found.served(self.now) else None
        if not space.keeps_history:
            raise ntmem.HistoryNotRetained
        found = self._newest(ns, key, as_of)
        if found is None and as_of < space.since:
            raise ntmem.HistoryNotRetained
        return found if found is not None and found.served(as_of) else None

    def history(self, ns: tuple[str, ...], key: str, limit: int = 20) -> list[Version]:
        space = self.spaces.get(ns, Space())
        if not space.keeps_history:
            raise ntmem.HistoryNotRetained
        return [v for v in reversed(space.keys.get(key, [])) if v.ts_known <= self.now][:limit]

    def get_many(self, ns: tuple[str, ...], keys: list[str]) -> dict[str, bytes]:
        return {key: self.get(ns, key) for key in keys if self.exists(ns, key)}

    def scan(
        self, ns: tuple[str, ...], prefix: str = "", start: str | None = None, limit: int | None = None
    ) -> list[tuple[str, bytes]]:
        keys = sorted(self.spaces.get(ns, Space()).keys)
        found = [(key, self.get(ns, key)) for key in keys if self.exists(ns, key)]
        return [(key, value) for key, value in found if key.startswith(prefix) and key >= (start or "")][:limit]

    def namespaces(self, prefix: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
        return sorted(ns for ns in self.spaces if ns[: len(prefix)] == prefix and self.scan(ns))

    # -- writes

    def put(self, ns: tuple[str, ...], key: str, value: bytes, **options: Any) -> int:
        return self._write([("put", ns, key, value, options)])[0]

    def add(self, ns: tuple[str, ...], key: str, value: bytes, **options: Any) -> bool:
        return self._write([("add", ns, key, value, options)])[0] > 0

    def incr(self, ns: tuple[str, ...], key: str, delta: int = 1) -> int:
        self._write([("incr", ns, key, delta, {})])
        return int(self.spaces[ns].keys[key][-1].value or b"")

    def delete(self, ns: tuple[str, ...], key: str, **options: Any) -> bool:
        return self._write([("delete", ns, key, None, options)])[0] > 0

    def put_many(self, ns: tuple[str, ...], mapping: dict[str, bytes], **options: Any) -> int:
        return [*self._write([("put", ns, key, value, options) for key, value in mapping.items()]), self.position][
            len(mapping) - 1 if mapping else 0
        ]

    def transaction(self, operations: list[tuple[Any, ...]]) -> None:
        self._write(operations)

    def _write(self, operations: list[tuple[Any, ...]]) -> list[int]:
        import copy

        before = copy.deepcopy((self.position, self.spaces))
        try:
            return [self._apply(*operation) for operation in operations]
        except Exception:
            self.position, self.spaces = before
            raise

    def _apply(self, kind: str, ns: tuple[str, ...], key: str, value: Any, options: dict[str, Any]) -> int:
        space = self.spaces.setdefault(ns, Space())
        versions = space.keys.get(key, [])
        newest = versions[-1] if versions else None
        live = self._served(ns, key)
        if_version = options.get("if_version")
        if if_version is not None and if_version != (live.version if live else 0):
            raise ntmem.VersionConflict("", expected=if_version, found=0)
        if (kind == "delete" and live is None) or (kind == "add" and live is not None):
            return 0
        known = options.get("ts_known")
        known = self.now if known is None or kind == "delete" else known
        if not space.keeps_history and known > self.now:
            raise ValueError("future")
        if space.keeps_history and newest is not None and known < newest.ts_known:
            raise ValueError("falls")
        ttl = options.get("ttl")
        expires_at = None if ttl is None else max(self.now, known) + round(ttl * 1e9)
        if kind == "incr":
            text = live.value if live is not None and live.value is not None else b"0"
            if not text.isdigit() or str(int(text)).encode() != text:  # the tests' numbers are not negative
                raise ntmem.SerializationError
            value = str(int(text) + value).encode()
            expires_at = live.expires_at if live is not None else None
        if not space.keeps_history:
            versions = []
        self.position += 1
        if kind == "delete":
            value = None
            space.keys.pop(key, None)
        event = options.get("ts_event")
        version = Version(value, self.position, known if event is None else event, known, expires_at)
        if value is not None or space.keeps_history:
            space.keys[key] = [*versions, version]
        return self.position

    def delete_namespace(self, ns: tuple[str, ...]) -> int:
        below = [known for known in self.spaces if known[: len(ns)] == ns]
        count = sum(len(self.scan(known)) for known in below)
        for known in below:
            self.spaces[known].keys.clear()
            if self.spaces[known].keeps_history:
                self.spaces[known].since = self.now
        self.position += count > 0
        return count

    def retain(self, ns: tuple[str, ...], history: bool) -> None:
        space = self.spaces.setdefault(ns, Space())
        if not history and any(versions[-1].ts_known > self.now for versions in space.keys.values()):
            raise ValueError("ahead")
        if history and not space.keeps_history:
            space.since = self.now
            space.keys = {key: versions for key, versions in space.keys.items() if versions[-1].served(self.now)}
        if not history:
            for key, versions in list(space.keys.items()):
                if versions and versions[-1].value is None:
                    del space.keys[key]
                else:
                    space.keys[key] = versions[-1:]
        space.keeps_history = history
