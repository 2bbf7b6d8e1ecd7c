"""Personal data and secrets are taken out of text before it is stored: the scrubber.

**Invariants**

- What stands in the place of something, such as ``[EMAIL]``, is never looked into, and splits what is looked at; each
  piece is looked at again until nothing is found in it. So scrubbing twice is scrubbing once.
- A text that nothing is found in is returned itself, as is every value that no text was changed in.
- Numbers, instants, bytes and arrays are not text, and are never touched.
"""

from __future__ import annotations

import re
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any, TypeAlias

from .errors import SerializationError
from .scrubrules import KINDS, SAFE_NAME, SHORTEST, is_harmless, suspected

Finder: TypeAlias = "Callable[[str], Iterable[tuple[int, int]]]"
"""Returns where something is in a text, as (start, end)."""

Found: TypeAlias = tuple[str, int, int]

_MOST_DEPTH = 128  # as the msgpack codec takes
_ROUNDS = 8  # after which a text that yields ever more is hidden as a whole
_KIND = re.compile(r"[A-Z][A-Z0-9_]{0,31}")
_WALKED = (dict, list, tuple, set, frozenset)
_NUMBERS = frozenset({int, float, bool, type(None), bytes})
_NAMED = {  # what fields with such names hold
    **dict.fromkeys(("password", "passwd", "pwd", "passphrase", "secret", "credentials", "authorization"), "REDACTED"),
    **dict.fromkeys(("api_key", "apikey", "x_api_key", "api_secret", "api_token", "access_token"), "API_KEY"),
    **dict.fromkeys(("auth_token", "refresh_token", "bearer_token", "client_secret", "secret_key"), "API_KEY"),
    **dict.fromkeys(("aws_secret_access_key", "aws_session_token", "secret_access_key"), "AWS_KEY"),
    **dict.fromkeys(("private_key",), "PRIVATE_KEY"),
    **dict.fromkeys(("ssn", "social_security_number"), "SSN"),
}
_NAMED |= {name.replace("_", ""): kind for name, kind in _NAMED.items()}  # camel case, in small letters


class Scrubber:
    """Puts ``[EMAIL]``, ``[API_KEY]`` and the like in the place of personal data and secrets in text.

    A store has one, ``memory.scrubber``, through which goes whatever text the ReasoningBank keeps. It finds by form:
    names of people, addresses and what somebody has spelt out stay.

    Parameters
    ----------
    kinds : iterable of str, optional
        What to look for, by default all of PRIVATE_KEY, REDACTED (passwords, and secrets in URLs), AWS_KEY, JWT,
        API_KEY, EMAIL, SSN, CREDIT_CARD, IP and PHONE.
    extra : mapping, optional
        More kinds, by names of capitals, digits and underscores: a regular expression (its group ``value``, if it has
        one, is what goes), or a function that returns (start, end) for each place in a text. They come first. How long
        they take is theirs, and what is put in their place is not looked into again.

    Raises
    ------
    ValueError
        A kind is not known, or its name taken; a regular expression is none.

    Attributes
    ----------
    kinds : tuple of str
        What is looked for.

    Notes
    -----
    **Thread safety**: any thread. **Complexity**: O(len(text)) for any text; the kinds' own expressions cannot be made
    to take longer.

    Examples
    --------
    >>> import ntmem
    >>> scrubber = ntmem.Scrubber(extra={"DESK": r"desk-[0-9]+"})
    >>> scrubber("mail ann@example.com of desk-17: sold 1,250 BTC-USDT at 61,800.10")
    'mail [EMAIL] of [DESK]: sold 1,250 BTC-USDT at 61,800.10'
    >>> scrubber.scan("card 4111 1111 1111 1111")
    [('CREDIT_CARD', 5, 24)]
    """

    def __init__(
        self, kinds: Iterable[str] | None = None, *, extra: Mapping[str, str | re.Pattern[str] | Finder] | None = None
    ) -> None:
        if isinstance(kinds, str):
            raise TypeError("kinds must be an iterable of str, was one str")
        wanted = set(KINDS if kinds is None else kinds)
        if not wanted <= set(KINDS):
            unknown = ", ".join(sorted(map(repr, wanted - set(KINDS))))
            raise ValueError(f"kinds are {', '.join(KINDS)}, not {unknown}; others are given as extra")
        given = extra or {}
        self._extra: list[tuple[str, Finder]] = [(_checked_kind(name), _finder(name, given[name])) for name in given]
        self.kinds = (*(name for name, _ in self._extra), *(each for each in KINDS if each in wanted))
        self._wanted = wanted
        self._tags = re.compile(rf"\[(?:{'|'.join({*KINDS, *self.kinds})})\]")
        self._counts: Counter[str] = Counter()
        self._lock = threading.Lock()

    def __repr__(self) -> str:
        return f"<Scrubber {', '.join(self.kinds)}>"

    @property
    def counts(self) -> dict[str, int]:
        """How much of each kind was taken out so far."""
        with self._lock:
            return dict(self._counts)

    def __call__(self, text: str) -> str:
        """Return a text without what is looked for; itself if there is none."""
        found = self.scan(text)
        if not found:
            return text
        parts: list[str] = []
        at = 0
        for kind, start, end in found:
            parts += (text[at:start], f"[{kind}]")
            at = end
        self._count(kind for kind, _, _ in found)
        return "".join([*parts, text[at:]])

    def scan(self, text: str) -> list[Found]:
        """Return what is found in a text, as (kind, start, end), in order."""
        if not isinstance(text, str):
            raise TypeError(f"text must be a str, was {type(text).__name__}; nested() takes other values")
        if not self._extra and is_harmless(text):
            return []
        rules = suspected(text)
        if not rules and not self._extra:
            return []
        finders = self._extra + [(it.kind, it.find) for it in rules if it.kind in self._wanted]
        return self._found(text, finders) if finders else []

    def nested(self, value: Any) -> Any:
        """Return a value with every text in it scrubbed; itself if there is nothing to scrub.

        Dicts (their keys as well), lists, tuples and sets are walked through. A text whose key says what it is, such as
        ``"password"``, goes as a whole. Keys that become equal are told apart by a number; equal members of a set are
        one. Other values, numbers and arrays among them, are not touched.

        Raises
        ------
        SerializationError
            It is nested more than 128 deep, or contains itself.
        """
        return self._nested(value, 0)

    # -- finding

    def _found(self, text: str, finders: list[tuple[str, Finder]]) -> list[Found]:
        """Return what finders find: each in what those before it have left, until there is no more."""
        pieces, at = [], 0
        if "[" in text:
            for tag in self._tags.finditer(text):
                pieces.append((at, text[at : tag.start()]))
                at = tag.end()
        pieces.append((at, text[at:] if at else text))
        least = 1 if self._extra else SHORTEST
        pieces = [each for each in pieces if len(each[1]) >= least]
        found: list[Found] = []
        for _ in range(_ROUNDS):
            before = len(found)
            for kind, find in finders:
                left: list[tuple[int, str]] = []
                for offset, piece in pieces:
                    at = 0
                    for start, end in find(piece):
                        found.append((kind, offset + start, offset + end))
                        left.append((offset + at, piece[at:start]))
                        at = end
                    left.append((offset + at, piece[at:]) if at else (offset, piece))
                pieces = [each for each in left if len(each[1]) >= least]
            if len(found) == before:
                return sorted(found, key=lambda it: it[1])
        return [("REDACTED", 0, len(text))]

    def _count(self, kinds: Iterable[str]) -> None:
        with self._lock:
            self._counts.update(kinds)

    # -- values

    def _nested(self, value: Any, depth: int) -> Any:
        kind = type(value)
        if kind is str and not self._extra and is_harmless(value):
            return value  # most are names of fields
        if kind in _NUMBERS:
            return value
        if isinstance(value, str):
            return self(value)
        if not isinstance(value, _WALKED):
            return value
        if depth > _MOST_DEPTH:
            raise SerializationError(
                f"a value may be nested {_MOST_DEPTH} deep, this one is deeper (or contains itself)"
            )
        if isinstance(value, dict):
            return self._dict(value, depth + 1)
        made = [self._nested(each, depth + 1) for each in value]
        if all(map(_is, made, value)):
            return value
        return next(each for each in _WALKED if isinstance(value, each))(made)

    def _dict(self, value: dict[Any, Any], depth: int) -> Any:
        made, is_same, is_plain = [], True, not self._extra
        for key, old in value.items():
            new, each = key, old
            if not (is_plain and type(key) is str and len(key) < SAFE_NAME and key.isidentifier()):
                new = self._nested(key, depth)
            if type(old) not in _NUMBERS:
                each = self._field(key, old, depth)
            is_same = is_same and new is key and each is old
            made.append((key, new, each))
        if is_same:
            return value
        taken, numbers = {key for key, new, _ in made if key is new}, dict[Any, int]()
        found: dict[Any, Any] = {}
        for key, new, each in made:
            name = key if key is new else _another(new, taken, numbers)
            taken.add(name)
            found[name] = each
        return found

    def _field(self, key: Any, value: Any, depth: int) -> Any:
        """Return the value of a field, which its name may say to be a secret, or several."""
        if type(key) is str and isinstance(value, str | list | tuple):
            kind = _NAMED.get(key) or _NAMED.get(key.lower().replace("-", "_").replace("_", ""))
            if kind in self._wanted:
                return self._hidden(kind, value, depth)
        return self._nested(value, depth)

    def _hidden(self, kind: str, value: Any, depth: int) -> Any:
        """Return a value without the texts in it, whatever they are."""
        if isinstance(value, str):
            if not value or self._tags.fullmatch(value):
                return value
            self._count([kind])
            return f"[{kind}]"
        if not isinstance(value, list | tuple) or depth > _MOST_DEPTH:
            return self._nested(value, depth)  # which refuses what is too deep
        made = [self._hidden(kind, each, depth + 1) for each in value]
        return value if all(map(_is, made, value)) else (list if isinstance(value, list) else tuple)(made)


def _is(one: object, other: object) -> bool:
    return one is other


def _another(key: Any, taken: set[Any], numbers: dict[Any, int]) -> Any:
    """Return a key that is not taken, the one that is wanted if it is not; `numbers` has how far each was counted."""
    found, number = key, numbers.get(key, 1)
    while found in taken:
        number += 1
        said = f"#{number}"
        found = f"{key} {said}" if isinstance(key, str) else type(key)([*key, said])
    numbers[key] = number
    return found


def _checked_kind(name: Any) -> str:
    if not isinstance(name, str) or not _KIND.fullmatch(name):
        raise ValueError(f"a kind has a name of capitals, digits and underscores, such as DESK, was {name!r}")
    if name in KINDS:
        raise ValueError(f"{name} is a kind already; leave it out of kinds and name yours otherwise")
    return name


def _finder(name: str, given: Any) -> Finder:
    if callable(given):
        return partial(_checked, name, given)
    try:
        pattern = re.compile(given)
    except (re.error, TypeError) as error:
        raise ValueError(f"{name} must be a regular expression for str, or a function: {error}") from error
    if isinstance(pattern.pattern, bytes):
        raise ValueError(f"{name} must be a regular expression for str, was one for bytes")
    group = "value" if "value" in pattern.groupindex else 0
    return partial(_checked, name, lambda text: [it.span(group) for it in pattern.finditer(text)])


def _checked(name: str, find: Finder, text: str) -> list[tuple[int, int]]:
    """Return what a user's finder finds, in order and without what overlaps or is empty."""
    found: list[tuple[int, int]] = []
    for start, end in sorted(find(text)):
        if not 0 <= start <= end <= len(text):
            raise ValueError(f"{name} found something at {start} to {end} of a text of {len(text)} characters")
        if start < end and (not found or start >= found[-1][1]):
            found.append((start, end))
    return found
