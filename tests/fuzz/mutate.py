"""Changes of inputs: of bytes, and of what JSON says, which changes of bytes hardly ever leave right."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

import msgspec

_VALUES: list[Any] = [
    *(None, True, False, 0, 1, -1, 255, 256, 300, 2**31, 2**53 + 1, 2**63 - 1, 2**63, -(2**63), 2**64 - 1, 2**70),
    *(0.5, -0.0, 1e308, 1e-320, 4e300, "", "x", "\0", "é", "\ud800", "1e999999", "NaN", "0x7ff8000000000000", "0x00"),
    *("1" * 400, [], {}, [1], {"a": 1}, [[]], [None], [{}], {"": ""}, ["x", 1], "ntmem", ["ntmem", "records"]),
]


def of_bytes(data: bytes, chance: random.Random) -> bytes:
    """Return a copy with some bytes changed, cut off, doubled or moved."""
    copy = bytearray(data)
    for _ in range(chance.choice((1, 1, 2, 4))):
        if not copy:
            return chance.randbytes(chance.randrange(40))
        at, size = chance.randrange(len(copy)), chance.choice((1, 2, 4, 8, 30))
        match chance.randrange(7):
            case 0:
                copy[at] ^= 1 << chance.randrange(8)
            case 1:
                copy[at] = chance.choice(b'\0\1\x7f\x80\xff"[{,0-')
            case 2:
                copy[at : at + 4] = chance.randbytes(4)
            case 3:
                del copy[at:]
            case 4:
                copy[at:at] = copy[at : at + size]
            case 5:
                del copy[at : at + size]
            case 6:
                other = chance.randrange(len(copy))
                copy[other : other + size] = copy[at : at + size]
    return bytes(copy)


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    """Yield every container with every key or index of it."""
    members = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, member in members:
        yield value, key
        yield from _places(member)


def of_json(data: bytes, chance: random.Random) -> bytes:
    """Return a copy in which a value of one line is another one, is gone, or is there twice."""
    prefix, data = (data[:1], data[1:]) if data[:1] != b"{" else (b"", data)  # which of several parsers
    lines = data.splitlines()
    at = chance.randrange(len(lines)) if lines else 0
    whole = prefix + data
    try:
        said = msgspec.json.decode(lines[at])
        places = list(_places(said))
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError, IndexError):
        return of_bytes(whole, chance)
    if not places:
        return of_bytes(whole, chance)
    if chance.random() < 0.05:  # too deep
        lines[at] = lines[at].replace(b"{", b'{"":' + b"[" * 2000, 1)
        return prefix + b"\n".join(lines) + b"\n"
    container, key = chance.choice(places)
    match chance.randrange(8):
        case 0:
            del container[key]
        case 1 if isinstance(container, list):
            container.insert(key, container[key])
        case 2:
            container[key] = [container[key]]
        case 3:
            other, name = chance.choice(places)
            container[key] = msgspec.json.decode(msgspec.json.encode(other[name]))
        case 4:
            lines.insert(at, lines[at])
        case _:
            container[key] = chance.choice(_VALUES)
    try:
        lines[at] = msgspec.json.encode(said)
    except (UnicodeEncodeError, RecursionError, OverflowError):
        return of_bytes(whole, chance)
    return prefix + b"\n".join(lines) + b"\n"


def mutated(data: bytes, chance: random.Random) -> bytes:
    """Return a changed copy."""
    return (of_json if b"{" in data[:2] and chance.random() < 0.7 else of_bytes)(data, chance)
