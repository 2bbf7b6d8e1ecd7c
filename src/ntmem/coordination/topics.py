"""Names of topics, and patterns of them."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from ..namespace import MAX_LABEL_BYTES, MAX_LABELS

ANY, REST = "*", ">"
MAX_TOPIC_BYTES = 4096


def topic_of(topic: Any) -> bytes:
    """Return a topic as it stands in a message: its levels, NUL between them.

    Raises
    ------
    ValueError
        No levels or too many, an empty or over-long one, one with NUL, or a wildcard.
    TypeError
        Neither a str nor a tuple of str.
    """
    return _known(topic, False)


def pattern_of(pattern: Any) -> bytes:
    """Return a pattern of topics: ``*`` is any one level, ``>`` as the last one any one or more. Raises the same."""
    return _known(pattern, True)


def levels_of(encoded: bytes) -> tuple[str, ...]:
    """Return the levels of a topic."""
    return tuple(encoded.decode().split("\0"))


def _known(topic: Any, is_pattern: bool) -> bytes:
    try:
        return _encoded(topic, is_pattern)
    except TypeError:  # perhaps it cannot be hashed; what is wrong with it is said all the same
        return _encoded.__wrapped__(topic, is_pattern)


@lru_cache(8192)
def _encoded(topic: Any, is_pattern: bool) -> bytes:
    what = "a pattern" if is_pattern else "a topic"
    if not isinstance(topic, str | tuple):
        raise TypeError(f"{what} must be a str, split at '/', or a tuple of its levels, was {type(topic).__name__}")
    levels = tuple(topic.split("/")) if isinstance(topic, str) else topic
    if not 0 < len(levels) <= MAX_LABELS:
        raise ValueError(f"{what} has 1 to {MAX_LABELS} levels, had {len(levels)}")
    for number, level in enumerate(levels):
        if not isinstance(level, str):
            raise TypeError(f"levels of {what} must be str, was {type(level).__name__} in {levels!r}")
        if not level:
            raise ValueError(f"levels of {what} must not be empty, was {topic!r}; check for a doubled or trailing '/'")
        if "\0" in level:
            raise ValueError(f"a level holds no NUL, was {level!r}")
        if len(level.encode(errors="replace")) > MAX_LABEL_BYTES:
            raise ValueError(f"a level has at most {MAX_LABEL_BYTES} bytes of UTF-8, was {level[:40]!r}...")
        if level in (ANY, REST) and not is_pattern:
            raise ValueError(f"{level!r} is for patterns of subscribe(), was in the topic {topic!r}")
        if level == REST and number < len(levels) - 1:
            raise ValueError(f"{REST!r} stands for the rest, so only as the last level, was {topic!r}")
    try:
        encoded = "\0".join(levels).encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"levels must be encodable as UTF-8, was {topic!r}") from error
    if len(encoded) > MAX_TOPIC_BYTES:
        raise ValueError(f"{what} has at most {MAX_TOPIC_BYTES} bytes of UTF-8, had {len(encoded)}")
    return encoded
