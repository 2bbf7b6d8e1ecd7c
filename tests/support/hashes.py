"""The hash of a whole key as keyhash.h makes it, and where it leads in a hot table; to find keys that collide."""

from __future__ import annotations

from collections.abc import Iterator

_SECRET, _SEED = 0xA0761D6478BD642F, 0xE7037ED1A0B428DB
_ALL = (1 << 64) - 1


def _fold(a: int, b: int) -> int:
    product = (a & _ALL) * (b & _ALL)
    return (product ^ product >> 64) & _ALL


def _word(data: bytes, at: int, size: int) -> int:
    return int.from_bytes(data[at : at + size], "little")


def hash_bytes(data: bytes, seed: int) -> int:
    """Return the hash of some bytes."""
    size, a, b = len(data), 0, 0
    if size > 16:
        at = 0
        while size - at > 16:
            seed = _fold(_word(data, at, 8) ^ _SECRET, _word(data, at + 8, 8) ^ seed)
            at += 16
        a, b = _word(data, size - 16, 8), _word(data, size - 8, 8)
    elif size >= 4:
        inner = size >> 3 << 2
        a = _word(data, 0, 4) << 32 | _word(data, inner, 4)
        b = _word(data, size - 4, 4) << 32 | _word(data, size - 4 - inner, 4)
    elif size:
        a = data[0] << 16 | data[size >> 1] << 8 | data[-1]
    return _fold(_SECRET ^ size, _fold(a ^ _SECRET, b ^ seed))


def hash_of(namespace: bytes, key: bytes) -> int:
    """Return the hash of a whole key."""
    return hash_bytes(key, hash_bytes(namespace, _SEED))


def keys_alike(namespace: bytes, mask: int) -> Iterator[bytes]:
    """Yield keys that all have the same bits of the hash as the first one."""
    wanted = hash_of(namespace, b"0") & mask
    number = 0
    while True:
        key = b"%d" % number
        if hash_of(namespace, key) & mask == wanted:
            yield key
        number += 1
