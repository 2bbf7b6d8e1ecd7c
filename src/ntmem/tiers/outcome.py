"""What a change comes to, whichever engine decides it: its outcome, its expiry, ``if_version``, ``incr``."""

from __future__ import annotations

from typing import NamedTuple

from ..errors import SerializationError, VersionConflict
from ..instants import MAX_INSTANT
from ..records import Change
from .layout import Stored


class Outcome(NamedTuple):
    """What became of a change: its version (0: it had no effect), and the new number after an ``incr``."""

    version: int
    number: int = 0


def expiry_of(change: Change, known: int, now: int) -> int:
    """Return when a change's value stops being served; 0: never."""
    if change.expires_at is not None:
        return change.expires_at
    return 0 if change.ttl_ns is None else min(max(now, known) + change.ttl_ns, MAX_INSTANT)


class OwnConflict(VersionConflict):
    """What a part of the store has based a change of its own on has changed; it tries again."""


def check_version(change: Change, live: Stored | None) -> None:
    """Raise :class:`VersionConflict` if ``if_version`` is not the version that is served."""
    expected, found = change.if_version or 0, 0 if live is None else live.version
    if expected != found:
        what = f"has version {found}" if found else "does not exist"
        raise (OwnConflict if change.own else VersionConflict)(
            f"{change.key.decode()!r} {what}, if_version was {expected}; read it again and decide anew",
            expected=expected,
            found=found,
        )


def incremented(change: Change, live: Stored | None) -> int:
    """Return the new number of an ``incr``; raise :class:`SerializationError` if there is none."""
    text = b"0" if live is None else live.value
    name = change.key.decode()
    try:
        number = int(text) if len(text) <= 20 else 0
    except ValueError:
        number = 0
    if text != b"%d" % number:
        raise SerializationError(f"{name!r} holds {text[:32]!r}, not a number in decimal digits; incr cannot add to it")
    number += change.delta
    if not -(2**63) <= number < 2**63:
        raise SerializationError(f"{name!r} would become {number}, outside of 64 bits")
    return number
