"""Namespaces: tuples of labels, and the keys within them.

A namespace argument is a tuple of labels or a string that is split at ``/``. Labels are never joined again on
the way to disk, so no two namespaces that differ on screen meet there. The standard form for a team of agents is
``swarm/[agent-id]/[key]``.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from typing import Any, Self

from .errors import InvalidNamespace

MAX_LABEL_BYTES = 255
MAX_LABELS = 64
MAX_KEY_BYTES = 64 * 1024

_SWARM = "swarm"


class Namespace(tuple[str, ...]):
    """A validated namespace: a tuple of labels that prints as ``a/b/c``.

    Wherever a namespace is expected, a plain tuple or string does as well.

    Examples
    --------
    >>> Namespace.build("agent_1", "positions")
    Namespace('swarm/agent_1/positions')
    >>> Namespace.parse("swarm/agent_1/positions").belongs_to("agent_1")
    True
    >>> Namespace.agents(["swarm/b/x", "swarm/a/y", "desk"])
    ['a', 'b']
    """

    __slots__ = ()

    def __new__(cls, labels: str | Iterable[str]) -> Self:
        return super().__new__(cls, labels_of(labels if isinstance(labels, str) else tuple(labels)))

    @classmethod
    def parse(cls, text: str) -> Self:
        """Split `text` at ``/`` and check every label; raise :class:`InvalidNamespace`."""
        return super().__new__(cls, labels_of(text))

    @classmethod
    def build(cls, agent_id: str, *rest: str) -> Self:
        """Return the standard form ``swarm/[agent-id]/...``."""
        return cls((_SWARM, agent_id, *rest))

    @classmethod
    def validate(cls, namespace: Any) -> Self:
        """Return `namespace` as a :class:`Namespace`, or raise :class:`InvalidNamespace` naming what is wrong."""
        return super().__new__(cls, labels_of(namespace))

    @staticmethod
    def agents(namespaces: Iterable[Any]) -> list[str]:
        """Return the sorted agent ids that appear in namespaces of the standard form."""
        found = {Namespace.validate(namespace).agent_id for namespace in namespaces}
        return sorted(agent for agent in found if agent is not None)

    @property
    def agent_id(self) -> str | None:
        """The agent of a namespace of the standard form, else None."""
        return self[1] if len(self) >= 2 and self[0] == _SWARM else None

    def belongs_to(self, agent_id: str) -> bool:
        """Whether this is ``swarm/[agent_id]`` or lies below it."""
        return self.agent_id == agent_id

    def __str__(self) -> str:
        return "/".join(self)

    def __repr__(self) -> str:
        return f"Namespace({str(self)!r})"

    def __getnewargs__(self) -> tuple[tuple[str, ...]]:
        return (tuple(self),)


@lru_cache(maxsize=8192)
def _checked(labels: tuple[str, ...]) -> tuple[str, ...]:
    if not labels:
        raise InvalidNamespace("a namespace needs at least one label, was empty; write e.g. 'desk' or ('desk', 'risk')")
    if len(labels) > MAX_LABELS:
        raise InvalidNamespace(f"a namespace has at most {MAX_LABELS} labels, had {len(labels)}")
    for label in labels:
        if not isinstance(label, str):
            raise TypeError(f"labels must be str, was {type(label).__name__} in {labels!r}")
        if not label:
            raise InvalidNamespace(f"labels must not be empty, was {labels!r}; check for a doubled or trailing '/'")
        if "/" in label or "\0" in label:
            raise InvalidNamespace(f"a label holds neither '/' nor NUL, was {label!r}; pass its parts as labels")
        try:
            size = len(label.encode())
        except UnicodeEncodeError as error:
            raise InvalidNamespace(f"labels must be encodable as UTF-8, was {label!r}") from error
        if size > MAX_LABEL_BYTES:
            raise InvalidNamespace(
                f"a label has at most {MAX_LABEL_BYTES} bytes of UTF-8, had {size}: {label[:40]!r}..."
            )
    return tuple(str(label) for label in labels)


def labels_of(namespace: Any) -> tuple[str, ...]:
    """Return the checked labels of a namespace argument.

    Raises
    ------
    InvalidNamespace
        An empty namespace, an empty or over-long label, a label with ``/`` or NUL, too many labels.
    TypeError
        Neither a string nor a tuple of strings.
    """
    if isinstance(namespace, str):
        return _checked(tuple(namespace.split("/")) if namespace else ())
    if isinstance(namespace, tuple):
        try:
            return _checked(tuple(namespace))
        except TypeError as error:
            raise TypeError(f"a namespace is a string or a tuple of labels (str), was {namespace!r}") from error
    raise TypeError(f"a namespace is a string or a tuple of labels (str), was {type(namespace).__name__}")


def encode_key(key: Any) -> bytes:
    """Return the UTF-8 bytes of a key; `key` must be a non-empty str of at most 64 KiB."""
    if not isinstance(key, str):
        raise TypeError(f"a key is a str, was {type(key).__name__}; use str(key) or key.decode()")
    try:
        raw = key.encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"a key must be encodable as UTF-8, was {key!r}") from error
    if not 0 < len(raw) <= MAX_KEY_BYTES:
        raise ValueError(f"a key has 1 to {MAX_KEY_BYTES} bytes of UTF-8, had {len(raw)}")
    return raw
