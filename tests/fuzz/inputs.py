"""The corpus in git: a text file for each target, an input a line in base 64; and directories of them for libFuzzer.

A line may say behind its input why it is there; those that do are past findings, and stay.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable
from pathlib import Path

from registry import CORPUS


def read(name: str) -> list[bytes]:
    """Return the inputs of a target."""
    return [base64.b64decode(line.split(" ", 1)[0]) for line in _lines(name)]


def findings(name: str) -> list[bytes]:
    """Return the inputs of a target that were findings."""
    return [base64.b64decode(line.split(" ", 1)[0]) for line in _lines(name) if " " in line]


def _lines(name: str) -> list[str]:
    path = CORPUS / f"{name}.txt"
    return path.read_text().split("\n")[:-1] if path.exists() else []


def write(name: str, inputs: Iterable[bytes], most: int) -> None:
    """Keep inputs, short ones first and `most` bytes of them at most; past findings stay as they are."""
    stays = [line for line in _lines(name) if " " in line]
    lines, left = [], most
    for data in sorted(set(inputs), key=lambda it: (len(it), it)):
        line = base64.b64encode(data).decode()
        left -= len(line)
        if left < 0:
            break
        lines.append(line)
    CORPUS.mkdir(exist_ok=True)
    (CORPUS / f"{name}.txt").write_text("".join(line + "\n" for line in [*stays, *lines]))


def note(name: str, data: bytes, why: str) -> None:
    """Add a finding."""
    lines = [f"{base64.b64encode(data).decode()} {why}", *_lines(name)]
    (CORPUS / f"{name}.txt").write_text("".join(line + "\n" for line in lines))


def unpack(name: str, directory: Path) -> None:
    """Put the inputs into files."""
    directory.mkdir(parents=True, exist_ok=True)
    for data in read(name):
        (directory / hashlib.sha1(data).hexdigest()).write_bytes(data)
