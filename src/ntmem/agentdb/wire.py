"""What is said on AgentDB's wire: requests and answers as JSON, ids, names of collections, filters.

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
4. A filter means the same on both sides, for missing fields too, or is refused with the operator's name.
"""

from __future__ import annotations

import math
import re
from binascii import unhexlify
from collections.abc import Callable, Iterable, Mapping
from typing import Annotated, Any, Literal, TypeAlias
from urllib.parse import quote, unquote_to_bytes

from msgspec import UNSET, Meta, Struct, UnsetType

from ..errors import InvalidNamespace, VectorError
from ..filters import compile_where
from ..namespace import labels_of

MOST_DIMENSIONS = 65_536
MOST_K = 4_096
MOST_LIMIT = 10_000
MOST_BATCH = 4_096
INTERNAL = "ntmem"
"""The first label of the store's own namespaces, which are no collections here."""
FORM: Literal["nested"] = "nested"

_LEAST_INT, _MOST_INT = -(2**63), 2**64 - 1

# ---- filters


class _Test(Struct, tag_field="op", forbid_unknown_fields=True, frozen=True):
    field: str
    value: Any


class Eq(_Test, tag="eq", frozen=True):
    """The field equals the value."""


class Ne(_Test, tag="ne", frozen=True):
    """The field does not equal the value, or is missing."""


class Gt(_Test, tag="gt", frozen=True):
    """The field is of the value's type, and above it."""


class Gte(_Test, tag="gte", frozen=True):
    """The field is of the value's type, and not below it."""


class Lt(_Test, tag="lt", frozen=True):
    """The field is of the value's type, and below it."""


class Lte(_Test, tag="lte", frozen=True):
    """The field is of the value's type, and not above it."""


class In(Struct, tag_field="op", tag="in", forbid_unknown_fields=True, omit_defaults=True, frozen=True):
    """The field equals one of `values`, which may be called `value` as well."""

    field: str
    values: list[Any] | UnsetType = UNSET
    value: list[Any] | UnsetType = UNSET


class _Several(Struct, tag_field="op", forbid_unknown_fields=True, omit_defaults=True, frozen=True):
    filters: list[Filter] | UnsetType = UNSET
    conditions: list[Filter] | UnsetType = UNSET


class And(_Several, tag="and", frozen=True):
    """All of `filters` hold, which may be called `conditions` as well."""


class Or(_Several, tag="or", frozen=True):
    """One of `filters` holds, which may be called `conditions` as well."""


Filter: TypeAlias = Eq | Ne | Gt | Gte | Lt | Lte | In | And | Or
Filters: TypeAlias = Filter | list[Filter] | None
"""One, or several which all hold, or none."""

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


# ---- filters, to and from those of ntmem.filters

_TESTS: dict[str, Callable[[str, Any], Filter]] = {"$eq": Eq, "$ne": Ne, "$gt": Gt, "$gte": Gte, "$lt": Lt, "$lte": Lte}
_NAMES: dict[type, str] = {Eq: "$eq", Ne: "$ne", Gt: "$gt", Gte: "$gte", Lt: "$lt", Lte: "$lte"}
_OPPOSITE = {"$eq": "$ne", "$ne": "$eq", "$in": "$nin", "$nin": "$in", "$and": "$or", "$or": "$and"}


def where_of(filters: Filters) -> dict[str, Any] | None:
    """Return filters of the wire as a ``where`` of :mod:`ntmem.filters`; None if there are none.

    Raises
    ------
    VectorError
        A field is named "" or "$...", or `in`, `and` or `or` have no list, or two. (Values, and how deep filters are
        nested, are checked by who compiles it.)
    """
    if filters is None:
        return None
    if not isinstance(filters, list):
        return _where(filters)
    return {"$and": [_where(each) for each in filters]} if filters else None


def _where(filter: Filter) -> dict[str, Any]:
    if isinstance(filter, And | Or):
        name = "$and" if isinstance(filter, And) else "$or"
        return {
            name: [_where(each) for each in _either(name[1:], filters=filter.filters, conditions=filter.conditions)]
        }
    if not filter.field or filter.field.startswith("$"):
        raise VectorError(f"the field of a filter is a name that does not begin with '$', was {filter.field!r}")
    if isinstance(filter, In):
        return {filter.field: {"$in": _either("in", values=filter.values, value=filter.value)}}
    return {filter.field: {_NAMES[type(filter)]: filter.value}}


def _either(op: str, **lists: list[Any] | UnsetType) -> list[Any]:
    given = [each for each in lists.values() if not isinstance(each, UnsetType)]
    if len(given) != 1:
        raise VectorError(f"a filter with op {op!r} has one list, {' or '.join(lists)}; this one has {len(given)}")
    return given[0]


def filter_of(where: Mapping[str, Any] | None) -> Filter | None:
    """Return a ``where`` of :mod:`ntmem.filters` as a filter of the wire; None if it is None or empty.

    What the wire has no operator for is written by others if they mean exactly the same: ``$nin`` by ``ne``, ``$not``
    by the opposite of what it turns around.

    Raises
    ------
    VectorError
        It has an operator that the wire cannot say ($exists, $contains, $prefix; $not about an order), or a value that
        JSON has not; names it.
    TypeError, ValueError
        It is no filter.

    Examples
    --------
    >>> filter_of({"symbol": "BTC", "side": {"$nin": ["buy"]}})
    And(filters=[Eq(field='symbol', value='BTC'), Ne(field='side', value='buy')], conditions=UNSET)
    """
    if compile_where(where) is None:
        return None
    assert where is not None
    return _all_or_any("$and", _parts(where, False))


def _parts(where: Mapping[str, Any], negated: bool) -> list[Filter]:
    return [_part(key, value, negated) for key, value in where.items()]


def _part(key: str, value: Any, negated: bool) -> Filter:
    """Return a pair of a mapping of filters, which was compiled, or the opposite of it."""
    if key == "$not":
        return _whole(value, not negated)
    if key in ("$and", "$or"):
        name = _OPPOSITE[key] if negated else key
        return _all_or_any(name, [_whole(each, negated) for each in value])
    if not isinstance(value, Mapping) or not any(isinstance(each, str) and each.startswith("$") for each in value):
        return _test(key, "$eq", value, negated)
    tests = [_test(key, name, operand, negated) for name, operand in value.items()]
    return _all_or_any("$or" if negated else "$and", tests)


def _whole(where: Mapping[str, Any], negated: bool) -> Filter:
    return _all_or_any("$or" if negated else "$and", _parts(where, negated))


def _test(field: str, name: str, operand: Any, negated: bool) -> Filter:
    if name == "$not":
        return _part(field, operand, not negated)
    if negated:
        if name not in _OPPOSITE:
            raise VectorError(
                f"AgentDB's wire has no $not about {name}, which also matches what is missing or of another type; "
                f"asked of {field!r}"
            )
        name = _OPPOSITE[name]
    if name in _TESTS:
        _check_value(operand, field)
        return _TESTS[name](field, operand)
    if name == "$in":
        values = list(operand)
        _check_value(values, field)
        return In(field, values)
    if name == "$nin":
        if not operand:
            raise VectorError(f"AgentDB's wire has no $nin of nothing, which everything passes; asked of {field!r}")
        return _all_or_any("$and", [_test(field, "$ne", each, False) for each in operand])
    raise VectorError(
        f"AgentDB's wire has no operator {name}, asked of {field!r}; it has eq ne gt gte lt lte in and or"
    )


def _all_or_any(name: str, filters: Iterable[Filter]) -> Filter:
    found = list(filters)
    if len(found) == 1:
        return found[0]
    return And(found) if name == "$and" else Or(found)


def _check_value(value: Any, field: str) -> None:
    """Raise :class:`VectorError` for what would not come back from JSON as it is."""
    if isinstance(value, float) and not math.isfinite(value):
        raise VectorError(f"JSON has no {value}, which a filter asks of {field!r}")
    if isinstance(value, int) and not _LEAST_INT <= value <= _MOST_INT:
        raise VectorError(
            f"AgentDB's wire has ints of 64 bits; a filter asks {field!r} for one of {value.bit_length()}"
        )
    if isinstance(value, list | tuple):
        for each in value:
            _check_value(each, field)
    elif isinstance(value, Mapping):
        for key, each in value.items():
            if not isinstance(key, str):
                raise VectorError(f"names in JSON are str; a filter asks {field!r} for a mapping with the key {key!r}")
            _check_value(each, field)
    elif value is not None and not isinstance(value, bool | int | float | str):
        raise VectorError(f"JSON has no {type(value).__name__}, for which a filter asks {field!r}")
