"""The targets by name. A target takes bytes, and returns whatever they are; what it raises is a finding.

A target names the errors that its parser promises (:func:`promised`), and where it can says more: what decodes encodes
to the same, two readers agree, what was refused has changed nothing.
"""

from __future__ import annotations

import contextlib
import importlib
import struct
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

MODULES = ("of_series", "of_rows", "of_values", "of_text", "of_wire", "of_files", "of_regions")


class Target(NamedTuple):
    """`seeds` makes inputs that are right: where coverage begins."""

    name: str
    run: Callable[[bytes], None]
    seeds: Callable[[], Iterable[bytes]]
    says: str


_TARGETS: dict[str, Target] = {}


def target(seeds: Callable[[], Iterable[bytes]]) -> Callable[[Callable[[bytes], None]], Callable[[bytes], None]]:
    """Enter a function as a target of its own name."""

    def enter(run: Callable[[bytes], None]) -> Callable[[bytes], None]:
        name = run.__name__
        assert name not in _TARGETS
        assert run.__doc__
        _TARGETS[name] = Target(name, run, seeds, run.__doc__.splitlines()[0])
        return run

    return enter


def targets() -> dict[str, Target]:
    """Return all targets, in the order of their modules."""
    for module in MODULES:
        importlib.import_module(module)
    return _TARGETS


class Refused(Exception):
    """The input was refused by an error that was promised; the target ends."""


@contextlib.contextmanager
def promised(*errors: type[Exception]) -> Iterator[None]:
    """End the target well at one of these errors, which has to say something."""
    try:
        yield
    except errors as error:
        if not str(error):
            raise AssertionError(f"{type(error).__name__} says nothing") from error
        raise Refused from error


@contextlib.contextmanager
def maybe(*errors: type[Exception]) -> Iterator[None]:
    """Leave the block at one of these errors, which has to say something; the target goes on."""
    with contextlib.suppress(Refused), promised(*errors):
        yield


def tried(run: Callable[[bytes], None], data: bytes) -> bool:
    """Run a target; return whether its input was taken."""
    try:
        run(data)
    except Refused:
        return False
    return True


def patched(original: bytes, data: bytes) -> bytes:
    """Return what has been changed where `data` says: where (4 bytes), how many (1), with what.

    Coverage cannot find its way through an input of which all but some bytes have to stay as they are.
    """
    copy = bytearray(original)
    at = 0
    while at + 5 <= len(data) and copy:
        where, size = struct.unpack_from("<IB", data, at)
        piece = data[at + 5 : at + 5 + size]
        where %= len(copy) + 1
        if size == 0:
            del copy[where:]
        copy[where : where + len(piece)] = piece
        at += 5 + size
    return bytes(copy)


def patch(where: int, piece: bytes) -> bytes:
    """Return what :func:`patched` takes."""
    return struct.pack("<IB", where, len(piece)) + piece


CORPUS = Path(__file__).parent / "corpus"
