"""Documents of another store into this one: in batches, each all or nothing, and again without harm.

**Invariants**

- A batch is parsed before anything of it is written; a wrong line names itself.
- Running an import again changes nothing that is there: versions and fills are compared, rows and vectors are counted
  from the place that is noted (``ntmem/imports``) before the first of them is written.
"""

from __future__ import annotations

import base64
import os
import struct
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from decimal import Context, Decimal
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

import msgspec

from .._core.position import of_record
from ..errors import FillConflict, NtmemError, SerializationError
from ..namespace import encode_key, labels_of
from ..records import Change, Policy
from . import bookrows
from .backup import Progress
from .engine import LmdbEngine
from .guards import ENTRIES, IMPORTS, INSTRUMENTS, OWN, POSITIONS
from .instruments import check_instrument
from .layout import DELETED, Stored
from .lines import Document, read_documents
from .outgoing import FORMAT, HEADER

if TYPE_CHECKING:
    from .observations import Observations
    from .points import Point
    from .positions import Positions
    from .vectors import VectorStore

_BATCH, _BATCH_BYTES = 512, 1 << 20
_CODEC = msgspec.msgpack
_EXACT = Context(prec=200)
_NAMES = ("symbol", "account", "strategy", "position_id")
_MOST_NUMBER = 1 << 125

_WRONG = (
    *(KeyError, AttributeError, TypeError, ValueError, ArithmeticError, RecursionError, struct.error),
    msgspec.MsgspecError,
)
"""What anything raises of a line that says something else than an export does."""

Labels: TypeAlias = tuple[str, ...]


class ImportReport(msgspec.Struct, frozen=True):
    """What :meth:`ntmem.MemorySystem.import_` has done."""

    path: str
    counts: dict[str, int]
    """What was written, by kind."""
    unchanged: int
    """How many documents were there already."""
    left_out: dict[str, int]
    """What was not written, by why."""
    seconds: float


class Parts(NamedTuple):
    """Of the store that is written to; each is made when it is asked for."""

    observations: Callable[[], Observations]
    vectors: Callable[[], VectorStore]
    positions: Callable[[], Positions]


def import_file(
    engine: LmdbEngine, parts: Parts, path: str | os.PathLike[str], progress: Progress | None = None
) -> ImportReport:
    """Do :meth:`ntmem.MemorySystem.import_`."""
    began = time.monotonic()
    source = os.path.abspath(os.fsdecode(path))
    importer = Incoming(engine, parts, source)
    for number, document in read_documents(source, progress):
        with _line(source, number):
            importer.take(number, document)
    importer.finish()
    return ImportReport(
        *(source, dict(importer.counts), importer.unchanged, dict(importer.left_out), time.monotonic() - began)
    )


@contextmanager
def _line(path: str, number: int) -> Iterator[None]:
    """Say of an error at which line it came."""
    try:
        yield
    except NtmemError as error:
        error.args = (f"{error} (at line {number} of {path}; import it again to go on from there)", *error.args[1:])
        raise
    except _WRONG as error:
        what = f"has no {error}" if isinstance(error, KeyError) else f"cannot be imported: {error}"
        raise SerializationError(f"{path}: line {number} {what}; nothing of its batch was kept") from error


class _Chain(NamedTuple):
    """The versions of a key of a namespace with history that are there, oldest first."""

    labels: Labels
    key: bytes
    found: list[Stored]


class Incoming:
    """Takes documents in the order in which :class:`ntmem.tiers.outgoing.Outgoing` gives them."""

    def __init__(self, engine: LmdbEngine, parts: Parts, path: str) -> None:
        self.counts: Counter[str] = Counter()
        self.left_out: Counter[str] = Counter()
        self.unchanged = 0
        self._engine = engine
        self._parts = parts
        self._path = path
        self._id = ""
        self._ended = False
        self._changes: list[Change] = []
        self._entries: list[Change] = []  # fills
        self._size = 0
        self._history = False
        self._fresh = False
        self._chain: _Chain | None = None
        self._at = 0  # in the chain
        self._points: list[Point] = []
        self._collection: tuple[Labels, int, int] | None = None  # with changes of this import, and its dimension
        self._series: tuple[Labels, str, int] | None = None  # and how many rows were there before it
        self._fills: tuple[bytes, bool] | None = None  # of which position, and whether it is there

    def take(self, number: int, document: Document) -> None:
        """Take one more document."""
        kind = document["kind"]
        if number == 1:
            self._begin(document)
            return
        if self._ended:
            raise ValueError("something stands behind the end of the export")
        take = _TAKERS.get(kind)
        if take is None:
            raise ValueError(f"it is of the unknown kind {kind!r}; upgrade ntmem")
        if kind != "record":
            self._flush_changes()
            self._chain = None
        if kind != "fill":
            self._flush_entries()
        if kind != "vector":
            self._flush_points()
        if kind == "end":
            self._ended = document["lines"] == number
            if not self._ended:
                raise ValueError(f"there are {number} lines, the export had {document['lines']}")
            return
        take(self, document)

    def finish(self) -> None:
        """See that the file was whole."""
        if not self._ended:
            raise SerializationError(
                f"{self._path} ends before its export does; what is there was imported: get the whole file, and go on"
            )

    def _begin(self, document: Document) -> None:
        if document["kind"] != HEADER:
            raise ValueError("it is not the first line of an export of ntmem")
        if document["format"] != FORMAT:
            raise ValueError(f"the export has format {document['format']}, this version reads {FORMAT}; upgrade ntmem")
        self._id = str(document["id"])

    def _noted(self, what: str, now: int) -> int:
        """Return what was noted the first time that this export came by here; now: `now`."""
        key = f"{self._id}\0{what}".encode()
        if len(key) > 1024:
            from hashlib import blake2b

            key = key[:512] + blake2b(key, digest_size=16).hexdigest().encode()
        self._engine.commit([Change("add", IMPORTS, key, b"%d" % now, own=True)])
        return int(self._engine.get(IMPORTS, key) or b"0")

    def _flush_changes(self) -> None:
        if self._changes:
            waiting, self._changes, self._size = self._changes, [], 0
            self._engine.commit(waiting)
            self.counts["records"] += len(waiting)

    # -- plain records

    def _take_namespace(self, document: Document) -> None:
        labels = _labels(document)
        row = self._engine.namespace_row(labels)
        self._history = bool(document["history"])
        is_empty = row is None or not row.policy.history
        self._fresh = bool(self._noted("n" + "/".join(labels), int(is_empty and self._is_empty(labels))))
        if self._history and (row is None or not row.policy.history):
            self._engine.retain(labels, Policy(True))
        self.counts["namespaces"] += 1

    def _is_empty(self, labels: Labels) -> bool:
        return next(self._engine.scan(labels, b"", b"", 1), None) is None

    def _take_history(self, document: Document) -> None:
        """Set what the namespace is to keep, behind its versions: it could drop some that are to come."""
        labels = _labels(document)
        row = self._engine.namespace_row(labels)
        wanted = Policy(True, document["max_age_ns"], document["max_bytes"])
        since = _whole(document, "since")
        if self._fresh and (row is None or row.policy != wanted or row.history_since > since):
            self._engine.adopt_history(labels, wanted, since)

    def _take_record(self, document: Document) -> None:
        labels, key = _labels(document), encode_key(document["key"])
        deleted = document.get("deleted", False)
        event, known = _whole(document, "ts_event"), _whole(document, "ts_known")
        expires = 0 if document.get("expires_at") is None else _whole(document, "expires_at")
        change = Change(
            "delete" if deleted else "put",
            *(labels, key, b"" if deleted else _value(document)),
            ts_event=event,
            ts_known=known,
            past=self._history,
            expires_at=expires,
        )
        now = self._engine.now()
        if known > now and (deleted or not self._history):
            raise ValueError(f"it was known at {known}, and the store's clock is at {now}; set the clock first")
        if not self._history and 0 < expires <= now:
            self.left_out["records that have expired"] += 1
        elif self._is_news(change):
            self._changes.append(change)
            self._size += len(key) + len(change.value) + 256
            if len(self._changes) >= _BATCH or self._size >= _BATCH_BYTES:
                self._flush_changes()

    def _is_news(self, change: Change) -> bool:
        """Whether a version is to be written; count it if not."""
        if not self._history:
            found = self._engine.get_latest(change.namespace, change.key)
            same = found is not None and (
                (found.value, found.ts_event, found.ts_known, found.expires_at or 0)
                == (change.value, change.ts_event, change.ts_known, change.expires_at)
            )
            self.unchanged += same
            return not same
        chain = self._chain
        if chain is None or (chain.labels, chain.key) != (change.namespace, change.key):
            found_versions = self._engine.versions_of(change.namespace, change.key)[::-1]
            chain = self._chain = _Chain(change.namespace, change.key, found_versions)
            self._at = 0
        at, self._at = self._at, self._at + 1
        if at >= len(chain.found):
            return True
        if _same(change, chain.found[at]):
            self.unchanged += 1
            return False
        if (change.ts_known or 0) < chain.found[-1].ts_known:  # another past: within a key it never falls
            self.left_out["versions of keys that have another past here"] += 1
            return False
        chain.found.clear()  # what follows comes behind it
        return True

    # -- positions

    def _take_instrument(self, document: Document) -> None:
        said = {
            "price": _digits(document, "price"),
            "quantity": _digits(document, "quantity"),
            "multiplier": str(document["multiplier"]),
            "currency": document["currency"],
        }
        check_instrument(document["symbol"], *said.values())
        key, value = document["symbol"].encode(), _CODEC.encode(said)
        there = self._engine.get(INSTRUMENTS, key)
        if there is not None:
            if _CODEC.decode(there) != said:
                raise FillConflict(f"{document['symbol']!r} is defined here in another way than in the export")
            self.unchanged += 1
            return
        self._engine.commit([Change("put", INSTRUMENTS, key, value, own=True)])
        self.counts["instruments"] += 1

    def _take_fill(self, document: Document) -> None:
        name = _position_name(document)
        cash = document["type"] == "funding"
        entry_key = name + bookrows.SEPARATOR + (bookrows.CASH if cash else b"") + document["trade_id"].encode()
        entry = _entry(document)
        there = self._engine.get(ENTRIES, entry_key)
        if there is not None:
            if not bookrows.is_same(bookrows.decode_entry(there), entry):
                raise FillConflict(f"{document['trade_id']!r} was booked here with another content")
            self.unchanged += 1
            return
        if self._fills is None or self._fills[0] != name:
            self._fills = (name, self._engine.get(POSITIONS, name) is not None)
        if not self._fills[1]:  # the position follows as it was; until then its fills are known, and not counted
            value = bookrows.encode_entry(entry)
            self._entries.append(Change("put", ENTRIES, entry_key, value, own=True, ts_event=entry.ts_event))
            if len(self._entries) >= _BATCH:
                self._flush_entries()
        else:
            book, names = self._parts.positions(), {it: document[it] for it in _NAMES}
            event = entry.ts_event if entry.has_time else None
            symbol = names.pop("symbol")
            if cash:
                amount = Decimal(document["amount"])
                book.apply_cash(symbol, amount, cash_id=document["trade_id"], ts_event=event, **names)
            else:
                numbers = (Decimal(document[it]) for it in ("quantity", "price"))
                fee = Decimal(document["fee"])
                book.apply_fill(symbol, *numbers, trade_id=document["trade_id"], fee=fee, ts_event=event, **names)
            self.counts["fills"] += 1

    def _flush_entries(self) -> None:
        if self._entries:
            waiting, self._entries = self._entries, []
            self._engine.commit(waiting)
            self.counts["fills"] += len(waiting)

    def _take_position(self, document: Document) -> None:
        name = _position_name(document)
        there = self._engine.get(POSITIONS, name)
        if there is None:
            value = bookrows.encode_held(_held(document))
            of_record(tuple(document[it] for it in _NAMES), value)  # refuses what nobody could reckon with
            self._engine.commit(
                [Change("put", POSITIONS, name, value, if_version=0, own=True, ts_event=document["ts_last"])]
            )
            self.counts["positions"] += 1
            return
        wanted, have = _held(document), bookrows.decode_held(there)
        if wanted._replace(version=0, mark=0, ts_mark=0) == have._replace(version=0, mark=0, ts_mark=0):
            self.unchanged += 1
        else:
            self.left_out["positions that are another one here; their missing fills were booked"] += 1
        self._fills = None

    # -- observations

    def _take_rows(self, document: Document) -> None:
        labels, symbol = _labels(document), document["symbol"]
        events, knowns = document["ts_event"], document["ts_known"]
        columns = {name: [_number(it) for it in column] for name, column in document["fields"].items()}
        metadata, embeddings = document.get("metadata"), document.get("embeddings")
        first, count = _whole(document, "first"), len(events)
        if count == 0 or any(
            len(it) != count for it in (knowns, *columns.values(), metadata or events, embeddings or events)
        ):
            raise ValueError("its columns are empty, or of different lengths")
        observations = self._parts.observations()
        info = observations.info(labels, symbol)
        rows = 0 if info is None else info.rows
        if self._series is None or self._series[:2] != (labels, symbol):
            self._series = (labels, symbol, self._noted("s" + "/".join(labels) + "\0" + symbol, rows))
        done = rows - self._series[2] - first
        if done < 0:
            raise ValueError(f"{-done} rows before it are missing; import the whole file")
        begin = min(done, count)
        self.unchanged += begin
        if begin == count:
            return
        cut = slice(begin, None)
        observations.write(
            *(labels, symbol, events[cut], knowns[cut], {name: it[cut] for name, it in columns.items()}),
            metadata=None if metadata is None else [_metadata(it) if it else b"" for it in metadata[cut]],
            embeddings=None if embeddings is None else embeddings[cut],
        )
        self.counts["rows"] += count - begin

    # -- vectors

    def _take_collection(self, document: Document) -> None:
        labels, vectors = _labels(document), self._parts.vectors()
        shape = {name: document[name] for name in ("metric", "dtype", "m", "ef_construction")}
        vectors.create(labels, document["dimension"], **shape)
        info = vectors.info(labels)
        changes = 0 if info is None else info.changes
        done = changes - self._noted("v" + "/".join(labels), changes)
        self._collection = (labels, done, document["dimension"])
        self.counts["collections"] += 1

    def _take_vector(self, document: Document) -> None:
        import numpy as np

        from .points import Point

        labels = _labels(document)
        if self._collection is None or self._collection[0] != labels:
            raise ValueError("its collection does not stand before it")
        if _whole(document, "number") < self._collection[1]:
            self.unchanged += 1
            return
        vector = None if document.get("deleted") else np.array(document["vector"], np.float32)
        if vector is not None and vector.shape != (self._collection[2],):
            raise ValueError(f"it has the shape {vector.shape}, its collection {self._collection[2]} dimensions")
        point = Point(
            document["id"],
            vector,
            _whole(document, "ts_event"),
            _whole(document, "ts_known"),
            _metadata(document),
        )
        self._points.append(point)
        self._size += 512 + len(point.metadata) + (0 if vector is None else vector.nbytes)
        if len(self._points) >= _BATCH or self._size >= _BATCH_BYTES:
            self._flush_points()

    def _flush_points(self) -> None:
        if self._points:
            assert self._collection is not None
            waiting, self._points, self._size = self._points, [], 0
            self._parts.vectors().write(self._collection[0], waiting)
            self.counts["vectors"] += len(waiting)

    def _take_end(self, document: Document) -> None:
        """Nothing is to be done: :meth:`take` compares the count."""


_TAKERS: dict[str, Callable[[Incoming, Document], None]] = {
    "namespace": Incoming._take_namespace,
    "history": Incoming._take_history,
    "record": Incoming._take_record,
    "instrument": Incoming._take_instrument,
    "fill": Incoming._take_fill,
    "position": Incoming._take_position,
    "rows": Incoming._take_rows,
    "collection": Incoming._take_collection,
    "vector": Incoming._take_vector,
    "end": Incoming._take_end,
}


def _same(change: Change, stored: Stored) -> bool:
    if stored.flags & DELETED:
        return change.kind == "delete" and change.ts_known == stored.ts_known
    return change.kind == "put" and (change.value, change.ts_event, change.ts_known, change.expires_at) == (
        *(stored.value, stored.ts_event, stored.ts_known, stored.expires_at),
    )


def _labels(document: Document) -> Labels:
    labels = labels_of(tuple(document["namespace"]))
    if labels in OWN:
        raise ValueError(f"{'/'.join(labels)} is a namespace of the store's own")
    return labels


def _whole(document: Document, name: str) -> int:
    value = document[name]
    if type(value) is not int or not 0 <= value < 2**63:
        raise ValueError(f"{name} must be a whole number from 0 on, was {value!r}")
    return value


def _flag(document: Document, name: str) -> int:
    if document[name] not in (0, 1):  # False and True are
        raise ValueError(f"{name} must be true or false, was {document[name]!r}")
    return int(document[name])


def _digits(document: Document, name: str) -> int:
    found = _whole(document, f"{name}_precision")
    if found > bookrows.MOST_PRECISION:
        raise ValueError(f"{name}_precision must be from 0 to {bookrows.MOST_PRECISION}, was {found}")
    return found


def _value(document: Document) -> bytes:
    if "text" in document:
        return str(document["text"]).encode()
    return base64.b64decode(document["base64"], validate=True)


def _number(value: Any) -> float | int:
    if isinstance(value, str):
        found: float = struct.unpack(">d", bytes.fromhex(value.removeprefix("0x")))[0]
        return found
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"a field must be a number, one was {value!r}")
    return value


def _metadata(document: Document) -> bytes:
    if "metadata_base64" in document:
        return base64.b64decode(document["metadata_base64"], validate=True)
    return _CODEC.encode(document["metadata"]) if "metadata" in document else b""


def _position_name(document: Document) -> bytes:
    return "\x1f".join(document[it] for it in _NAMES).encode()


def _mantissa(document: Document, name: str, precision: int) -> int:
    number = _EXACT.scaleb(Decimal(document[name]), precision)
    mantissa = int(number)
    if number != mantissa or abs(mantissa) >= _MOST_NUMBER:
        raise ValueError(f"{name} has more than {precision} digits behind the point, or is too large: {document[name]}")
    return mantissa


def _entry(document: Document) -> bookrows.Entry:
    price, quantity = (_digits(document, it) for it in ("price", "quantity"))
    cash = document["type"] == "funding"
    if not cash and document["type"] != "fill":
        raise ValueError(f"type must be 'fill' or 'funding', was {document['type']!r}")
    return bookrows.Entry(
        *(bookrows.FORMAT, price, quantity, bookrows.FUNDING if cash else bookrows.FILL, _flag(document, "has_time")),
        _mantissa(document, "quantity", quantity),
        _mantissa(document, "price", price),
        _whole(document, "ts_event"),
        _mantissa(document, "amount" if cash else "fee", price + quantity),
        _mantissa(document, "realized", price + quantity),
    )


def _held(document: Document) -> bookrows.Held:
    price, quantity, places = (_digits(document, it) for it in ("price", "quantity", "multiplier"))
    currency = document["currency"].encode()
    if len(currency) > bookrows.CURRENCY or b"\0" in currency:
        raise ValueError(f"currency has at most {bookrows.CURRENCY} bytes, was {document['currency']!r}")
    times = {name: _whole(document, name) for name in ("ts_opened", "ts_last", "ts_closed", "fills_since", "ts_mark")}
    return bookrows.Held(
        format=bookrows.FORMAT,
        price_precision=price,
        quantity_precision=quantity,
        multiplier_precision=places,
        was_set=_flag(document, "was_set"),
        multiplier=_mantissa(document, "multiplier", places),
        currency=currency,
        version=0,
        fills=_whole(document, "fills"),
        mark=_mantissa(document, "mark", price),
        **{name: _mantissa(document, name, quantity) for name in ("quantity", "peak")},
        **{name: _mantissa(document, name, price + quantity) for name in ("cost", "realized", "fees", "funding")},
        **times,
    )
