"""What is said on AgentDB's wire: requests and answers as JSON, ids, names of collections.

================================================ ==================== ==============================================
path                                             request              answers
================================================ ==================== ==============================================
GET /health                                                           200 :class:`Health`
POST /collections                                :class:`Create`      201 :class:`Created`; 409: there is one
POST /collections/{c}/insert                     :class:`Insert`      201 :class:`Inserted`
POST /collections/{c}/batch_insert               :class:`BatchInsert` 200 :class:`BatchInserted`
POST /collections/{c}/search                     :class:`Search`      200 :class:`SearchAnswer`
POST /collections/{c}/query                      :class:`Query`       200 :class:`QueryAnswer`
GET /collections/{c}/documents/{hexid}                                200 a document; 404
DELETE /collections/{c}/documents/{hexid}                             204; 404
================================================ ==================== ==============================================

``{c}`` is :func:`segment_of` a namespace, ``{hexid}`` is :func:`hex_of` an id. Everything else is :class:`Failure`.

**Forms of a document.** By default it is the metadata's fields at top level, as given, with ``id`` (hexadecimal) and,
in a search, ``score`` where the metadata have no such field: the form that callers of the original decode into types
of theirs. Where ``"form": "nested"`` (``?form=nested`` in a GET) asks for it, it is a :class:`Document`, in which
nothing of the one hides anything of the other; an answer to a search or a query then says ``"form": "nested"`` too.

**Invariants**

1. Requests are decoded strictly: a field of another type, or one that is not known, is refused. (A filter whose name is
   misspelt would else be none.) Answers are read leniently: what another server adds is ignored.
2. Ids and their bytes are one to one, in both directions (:func:`id_of`, :func:`hex_of`), as are namespaces and names.
3. A float32 goes through JSON bit for bit: it is written as the float64 that equals it, with the digits that name it.

:mod:`ntmem.agentdb.wirefilters` has the filters.
"""

from __future__ import annotations

import re
from binascii import unhexlify
from collections.abc import Mapping
from typing import Annotated, Any, Literal, TypeAlias
from urllib.parse import quote, unquote_to_bytes

from msgspec import UNSET, Meta, Struct, UnsetType

from ..errors import InvalidNamespace, VectorError
from ..namespace import labels_of
from .wirefilters import Filters

MOST_DIMENSIONS = 65_536
MOST_K = 4_096
MOST_LIMIT = 10_000
MOST_BATCH = 4_096
INTERNAL = "ntmem"
"""The first label of the store's own namespaces, which are no collections here."""
FORM: Literal["nested"] = "nested"

# ---- requests

Embedding: TypeAlias = Annotated[list[float], Meta(min_length=1, max_length=MOST_DIMENSIONS)]
Nanoseconds: TypeAlias = Annotated[int, Meta(ge=0, le=2**63 - 1)]


class _Request(Struct, forbid_unknown_fields=True, omit_defaults=True, frozen=True, kw_only=True):
    pass


class Create(_Request, frozen=True, kw_only=True):
    """Make a collection. `metric` is ntmem's: of the original, all are by the cosine. With `exact`, also ntmem's, one
    that is there and has another dimension or metric is refused (400), not just said to be there (409).

    `metadata_schema` is taken and ignored: metadata are what JSON can say.
    """

    name: Annotated[str, Meta(min_length=1)]
    dimension: Annotated[int, Meta(ge=1, le=MOST_DIMENSIONS)]
    index_type: Literal["hnsw", "flat"] = "hnsw"
    metadata_schema: Any = None
    metric: Literal["cosine", "l2", "ip"] = "cosine"
    exact: bool = False


class Insert(_Request, frozen=True, kw_only=True):
    """Add a document, in the place of the one of its id. The times are ntmem's, in nanoseconds UTC; by default now."""

    id: Annotated[str, Meta(min_length=2)]
    embedding: Embedding
    metadata: dict[str, Any] | None = None
    ts_event: Nanoseconds | None = None
    ts_known: Nanoseconds | None = None


class BatchInsert(_Request, frozen=True, kw_only=True):
    """Add documents, all or none."""

    documents: Annotated[list[Insert], Meta(max_length=MOST_BATCH)]


class Search(_Request, frozen=True, kw_only=True):
    """Find the `k` documents that are nearest to an embedding. `collection` is the name, if said: that of the path."""

    embedding: Embedding
    k: Annotated[int, Meta(ge=1, le=MOST_K)]
    collection: str | None = None
    filters: Filters = None
    min_score: float | None = None
    form: Literal["nested"] | None = None


class Sort(Struct, forbid_unknown_fields=True, omit_defaults=True, frozen=True):
    """By which field documents are sorted."""

    field: str
    order: Literal["asc", "desc"] = "asc"


class Query(_Request, frozen=True, kw_only=True):
    """Find documents by their metadata. `sort_by`: "field", "-field" (descending), a :class:`Sort`, or several."""

    collection: str | None = None
    filters: Filters = None
    limit: Annotated[int, Meta(ge=0, le=MOST_LIMIT)] | None = None
    sort_by: str | Sort | list[str | Sort] | None = None
    form: Literal["nested"] | None = None


# ---- answers


class Health(Struct, frozen=True):
    """The server is there."""

    status: str
    version: str


class Created(Struct, frozen=True):
    """The collection was made."""

    name: str
    dimension: int
    index_type: str


class Inserted(Struct, frozen=True):
    """The store has the document."""

    id: str
    success: bool


class BatchInserted(Struct, frozen=True):
    """The store has so many documents; `failed` is 0 where it is all or none."""

    inserted: int
    failed: int = 0


class Document(Struct, omit_defaults=True, frozen=True, kw_only=True):
    """A document in the nested form; the embedding is in the answer to a GET only."""

    id: str
    metadata: dict[str, Any]
    ts_event: int
    ts_known: int
    embedding: list[float] | UnsetType = UNSET


class Result(Struct, frozen=True):
    """A document that a search found, in either form, and its score: higher is better."""

    document: Any
    score: float


class SearchAnswer(Struct, omit_defaults=True, frozen=True):
    """What a search found, the best first."""

    results: list[Result]
    form: str | None = None


class QueryAnswer(Struct, omit_defaults=True, frozen=True):
    """What a query found, in its order."""

    documents: list[Any]
    form: str | None = None


class Failure(Struct, frozen=True):
    """Why a request was refused: a word, and what was found and what to do."""

    error: str
    detail: str = ""


def flat(metadata: Mapping[str, Any], hexid: str, score: float | None = None) -> dict[str, Any]:
    """Return a document in the default form."""
    own = {"id": hexid} if score is None else {"id": hexid, "score": score}
    return own | dict(metadata)


def sorts_of(sort_by: str | Sort | list[str | Sort] | None) -> list[tuple[str, bool]]:
    """Return by which fields documents are sorted, the first first, and whether descending."""
    if sort_by is None:
        return []
    found = []
    for each in sort_by if isinstance(sort_by, list) else [sort_by]:
        if isinstance(each, Sort):
            name, descending = each.field, each.order == "desc"
        else:
            name, descending = each.removeprefix("-"), each.startswith("-")
        if not name:
            raise VectorError("sort_by names an empty field; say 'field', '-field' or {field, order}")
        found.append((name, descending))
    return found


# ---- ids

_MARK = "bytes:"
_MARKED = re.compile(f"(?:{_MARK})+((?:[0-9a-f]{{2}})+)", re.ASCII)


def _text(raw: bytes) -> str | None:
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return None


def _is_marked(id: str) -> bool:
    found = _MARKED.fullmatch(id) if id.startswith(_MARK) else None
    return found is not None and _text(bytes.fromhex(found[1])) is None


def id_of(hexid: str) -> str:
    """Return the id that hexadecimal digits stand for.

    Bytes which are UTF-8 are the id's. Others, as the original's client may send them, are ``"bytes:"`` and their
    hexadecimal digits; an id that looks like one of these gets one more ``"bytes:"``. So every sequence of bytes is one
    id, and every id one sequence of bytes.

    Raises
    ------
    VectorError
        These are no hexadecimal digits, two for each byte, or there are none.

    Examples
    --------
    >>> id_of("6869"), id_of("ff00"), id_of(hex_of("bytes:ff00"))
    ('hi', 'bytes:ff00', 'bytes:ff00')
    """
    try:
        raw = unhexlify(hexid)
    except ValueError as error:
        raise VectorError(f"an id is the hexadecimal digits of its bytes, was {hexid[:80]!r}: {error}") from None
    if not raw:
        raise VectorError("an id has one byte at least, was empty")
    text = _text(raw)
    if text is None:
        return _MARK + raw.hex()
    return _MARK + text if _is_marked(text) else text


def hex_of(id: str) -> str:
    """Return the hexadecimal digits of an id's bytes: what :func:`id_of` returns the id of."""
    if not _is_marked(id):
        return id.encode().hex()
    rest = id[len(_MARK) :]
    return rest.encode().hex() if _is_marked(rest) else rest


# ---- collections


def name_of(namespace: str | tuple[str, ...]) -> str:
    """Return the name of a namespace's collection: its labels, joined by "/".

    Raises
    ------
    VectorError
        It is a namespace of the store's own, or "." or "..", which would not arrive in a path.
    InvalidNamespace
        It is none.
    """
    return "/".join(_checked(labels_of(namespace)))


def labels_of_name(name: str) -> tuple[str, ...]:
    """Return the namespace whose collection has a name; raises what :func:`name_of` does."""
    return _checked(labels_of(name))


def segment_of(namespace: str | tuple[str, ...]) -> str:
    """Return the name of a collection as one segment of a path: percent-encoded, "/" too; raises as :func:`name_of`.

    Examples
    --------
    >>> segment_of(("desk", "50% off"))
    'desk%2F50%25%20off'
    """
    return quote(name_of(namespace), safe="")


def labels_of_segment(segment: str | bytes) -> tuple[str, ...]:
    """Return the namespace of a segment of a path, as it came (not decoded); raises as :func:`name_of`."""
    name = _text(unquote_to_bytes(segment))
    if name is None:
        raise InvalidNamespace(f"the name of a collection is percent-encoded UTF-8, was {segment!r}")
    return labels_of_name(name)


def _checked(labels: tuple[str, ...]) -> tuple[str, ...]:
    if labels[0] == INTERNAL:
        raise VectorError(f"{'/'.join(labels)!r} is a namespace of the store's own; no collection of AgentDB is there")
    if labels in ((".",), ("..",)):
        raise VectorError(f"a collection cannot be called {labels[0]!r}: it would not arrive in a path; name another")
    return labels
