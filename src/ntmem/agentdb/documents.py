"""Documents as servers answer them: ntmem's own form, and those of others.

================ ====================================================== ==============================================
form             said by                                                what is read of it
================ ====================================================== ==============================================
nested, ntmem's  ``"form": "nested"`` beside it, or its four fields     all
nested           a mapping (or null) ``metadata``, and beside it only   ``id``, ``metadata``; ``embedding`` and times
                 fields that a server has of its own                    if there
flat             everything else                                        ``id`` and ``embedding``; the others, without a
                                                                        ``score`` that is the result's, are metadata
================ ====================================================== ==============================================

Of a server that keeps no times they are 0: it says only what is known now.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import msgspec
import numpy as np

from ..errors import BadAnswer, VectorError
from . import wire

_OWN = {"id", "metadata", "embedding", "score", "ts_event", "ts_known"}


class Read(NamedTuple):
    """What a document says."""

    id: str
    metadata: dict[str, Any]
    ts_event: int
    ts_known: int
    embedding: np.ndarray[Any, np.dtype[np.float32]] | None


def read_document(
    document: Any, *, is_nested: bool = False, hexid: str | None = None, score: float | None = None
) -> Read:
    """Return what a document of an answer says.

    Parameters
    ----------
    is_nested : bool
        Whether the answer says that it is of ntmem's form.
    hexid : str, optional
        The id it was asked by.
    score : float, optional
        That of the result it is in.

    Raises
    ------
    BadAnswer
        It is none, is another than was asked for, or has an id that is not hexadecimal.
    """
    if not isinstance(document, dict):
        raise BadAnswer(f"a document is an object with an id, the server answered {_shown(document)}")
    if is_nested or {"metadata", "ts_event", "ts_known"} <= document.keys() <= _OWN:
        return _nested(document, hexid)
    if "metadata" in document and document.keys() <= _OWN and isinstance(document["metadata"], dict | None):
        return _nested({"ts_event": 0, "ts_known": 0} | document | {"metadata": document["metadata"] or {}}, hexid)
    metadata = {name: value for name, value in document.items() if name != "embedding"}
    if score is not None and metadata.get("score") == score:
        del metadata["score"]
    if hexid is None:
        hexid = metadata.pop("id", None)
        return Read(_id(hexid), metadata, 0, 0, None)
    if metadata.get("id") == hexid:  # else it is one of the metadata's
        del metadata["id"]
    return Read(_id(hexid), metadata, 0, 0, _embedding(document.get("embedding")))


def _nested(document: dict[str, Any], hexid: str | None) -> Read:
    try:
        found = msgspec.convert(document, wire.Document)
    except msgspec.MsgspecError as error:
        raise BadAnswer(f"the server answered {_shown(document)}, which is no document: {error}") from None
    if hexid is not None and found.id.lower() != hexid:
        raise BadAnswer(f"the server was asked for the document {hexid!r} and answered {found.id[:80]!r}")
    embedding = None if isinstance(found.embedding, msgspec.UnsetType) else _embedding(found.embedding)
    return Read(_id(found.id), found.metadata, found.ts_event, found.ts_known, embedding)


def _id(hexid: Any) -> str:
    try:
        if not isinstance(hexid, str):
            raise VectorError(f"an id is a str of hexadecimal digits, was {_shown(hexid)}")
        return wire.id_of(hexid)
    except VectorError as error:
        raise BadAnswer(f"the server answered a document whose id was not given by ntmem: {error}") from None


def _embedding(numbers: Any) -> np.ndarray[Any, np.dtype[np.float32]] | None:
    if numbers is None:
        return None
    try:
        plain = msgspec.convert(numbers, list[float])
    except msgspec.MsgspecError as error:
        raise BadAnswer(f"the server answered an embedding that is none: {error}") from None
    with np.errstate(over="ignore"):
        vector = np.array(plain, np.float32)
    if not len(vector) or not math.isfinite(float(np.abs(vector).max())):
        raise BadAnswer("the server answered an embedding that is empty, or beyond float32")
    return vector


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 200 else text[:200] + "..."
