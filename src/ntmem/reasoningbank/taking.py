"""What comes from other programs into the store: in groups, each all or nothing, and again without harm.

=================== ============================= ==================================================================
namespace           key                           value (format number, MessagePack)
=================== ============================= ==================================================================
ntmem/interchange   ``r`` table ``/`` hash(key)   a :class:`Row` of a table that is kept as it came
same                ``l`` hash(task) hash(line)   a :class:`Line`
same                ``e`` hash(id)                an :class:`Embedded`
=================== ============================= ==================================================================

**Invariants**

- All is looked at before anything is written; what is wrong is named.
- What is there as it comes is left as it is: to import again changes nothing, and goes on where somebody was killed.
- A memory that was let go stays away as long as it says what it said then.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, TypeVar

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from .._core.text import html_facts
from ..errors import SerializationError
from ..tiers.guards import INTERCHANGE, MEMORIES
from .agentic import TABLES, BadRow
from .events import FORMAT, decoded, hashed
from .memories import Memories, put_head, put_memory, put_past, put_standing
from .memory import Head, Kept, Memory, Standing
from .shelf import Shelf, Update

if TYPE_CHECKING:
    from ..scrubbing import Scrubber

Known: TypeAlias = Literal["now", "created"]
OnError: TypeAlias = Literal["raise", "skip"]
T = TypeVar("T", bound="Row | Line | Embedded")

_MOST, _MOST_BYTES = 128, 512 << 10  # of a group
_NAMED = 5  # bad rows that an error names
_FORGOTTEN = "memories forgotten here"
_TEXTS = {  # columns of what people and models wrote; a run of ours has its task as task_id
    "task_trajectories": {"query", "trajectory_json", "judge_reasons"},
    "matts_runs": {"task_id", "summary"},
}


class Row(Struct, array_like=True):
    """A row that is kept as it came; cells in the order of the columns, None: it says nothing."""

    place: int
    known: int
    table: str
    cells: list[Any]


class Line(Struct, array_like=True):
    """A line of JSON of the paper's, as it came."""

    place: int
    known: int
    text: str


class Embedded(Struct, array_like=True):
    """A line with an embedding: its JSON with null in its place, and the numbers as float32."""

    place: int
    known: int
    text: str
    vector: bytes


class BankImport(Struct, frozen=True):
    """What an import into the bank has done.

    Attributes
    ----------
    path : str
    counts : dict
        What was written, by kind.
    unchanged : int
        How much was there already, as it came.
    left_out : dict
        What was not taken, by why: what this store has exported itself, memories that were forgotten here.
    ignored : tuple of str
        Tables and columns that the format has not.
    skipped : tuple of str
        Rows or lines that were refused, and why.
    seconds : float
    """

    path: str
    counts: dict[str, int]
    unchanged: int
    left_out: dict[str, int]
    ignored: tuple[str, ...]
    skipped: tuple[str, ...]
    seconds: float

    def _repr_html_(self) -> str:
        return html_facts((name, getattr(self, name)) for name in self.__struct_fields__)


class BankExport(Struct, frozen=True):
    """What an export of the bank has written.

    Attributes
    ----------
    path : str
    bytes : int
        Of all files.
    counts : dict
        What was written, by kind.
    left_out : dict
        What was imported and has no form in these files, by kind.
    seconds : float
    """

    path: str
    bytes: int
    counts: dict[str, int]
    left_out: dict[str, int]
    seconds: float

    def _repr_html_(self) -> str:
        return html_facts((name, getattr(self, name)) for name in self.__struct_fields__)


_encode = msgspec.msgpack.Encoder().encode
_DECODERS: dict[type, Any] = {kind: msgspec.msgpack.Decoder(kind) for kind in (Row, Line, Embedded)}


def decode(value: bytes, kind: type[T]) -> T:
    """Return what stands in the store so."""
    found: T = decoded(value, _DECODERS[kind], "what was imported")
    return found


def kept(shelf: Shelf, stem: str, kind: type[T]) -> Iterator[T]:
    """Yield what was imported, whose keys begin with `stem`, in the order in which it came."""
    engine = shelf.engine()
    scanned = engine.scan(INTERCHANGE, stem.encode(), b"", None)
    places = sorted((decode(value, kind).place, key) for key, value in scanned)
    for _, key in places:
        value = engine.get(INTERCHANGE, key.encode())
        if value is not None:
            yield decode(value, kind)


def count(shelf: Shelf, stem: str) -> dict[str, int]:
    """Return how much was imported, whose keys begin with `stem`, by kind; nothing of which there is none."""
    found = Counter[str]()
    for key, _ in shelf.engine().scan(INTERCHANGE, stem.encode(), b"", None):
        found[{"l": "lines", "e": "embeddings"}.get(key[0]) or key[1:].partition("/")[0]] += 1
    return dict(found)


def row_key(table: str, cells: Sequence[Any]) -> str:
    """Return where a row stands, by the cells of its key."""
    return f"r{table}/{hashed(_encode(list(cells)).hex())}"


def check_options(known: Any, on_error: Any) -> None:
    """Raise unless the options of an import are such."""
    for name, value, choices in (("known", known, ("now", "created")), ("on_error", on_error, ("raise", "skip"))):
        if value not in choices:
            raise ValueError(f"{name} must be {choices[0]!r} or {choices[1]!r}, was {value!r}")


class Problems:
    """What is wrong with rows or lines, of which an import names all."""

    def __init__(self) -> None:
        self.found: list[str] = []

    def note(self, where: str, error: BadRow) -> None:
        self.found.append(f"{where}: {error}")

    def check(self, path: str, on_error: OnError) -> None:
        """Raise :class:`SerializationError` if something is wrong, and is not to be skipped."""
        if self.found and on_error == "raise":
            more = len(self.found) - _NAMED
            named = "; ".join(self.found[:_NAMED]) + (f"; and {more} more" if more > 0 else "")
            raise SerializationError(
                f"{path} cannot be imported, and nothing of it was: {named}. on_error='skip' leaves these out"
            )


class Taker:
    """Writes what comes, in groups."""

    def __init__(self, memories: Memories, shelf: Shelf, known: Known) -> None:
        self.counts: Counter[str] = Counter()
        self.left_out: Counter[str] = Counter()
        self.unchanged = 0
        self._memories = memories
        self._shelf = shelf
        self._known = known
        self._waiting: dict[str, Memory] = {}
        self._others: dict[str, tuple[str, Row | Line | Embedded]] = {}
        self._size = 0

    def memory(self, new: Memory) -> None:
        """Take a memory; when it is known from, and its place, are said here."""
        self._waiting[hashed(new.id)] = new
        self._grown(len(new.data) + len(new.vector))

    def other(self, kind: str, key: str, new: Row | Line | Embedded, size: int) -> None:
        """Take something that is kept as it came."""
        self._others[key] = kind, new
        self._grown(size)

    def is_let_go(self, memories: Sequence[Memory]) -> bool:
        """Whether any of these was let go, and has not come back."""
        return bool(self._memories.gone([hashed(each.id) for each in memories]))

    def _grown(self, size: int) -> None:
        self._size += size + 256
        if len(self._waiting) + len(self._others) >= _MOST or self._size >= _MOST_BYTES:
            self.flush()

    def flush(self) -> None:
        """Write what waits, all or nothing."""
        if not self._waiting and not self._others:
            return
        done: Counter[str] = Counter()

        def change(update: Update) -> list[Memory]:
            done.clear()
            head, now = self._memories.head(), self._shelf.engine().now()
            was = head.places
            moved = self._take_memories(update, head, now, done)
            self._take_others(update, head, now, done)
            if head.places != was:
                put_head(update, head)
            return moved

        self._memories.change(change)
        self.unchanged += done.pop("unchanged", 0)
        self.left_out += Counter({_FORGOTTEN: done.pop(_FORGOTTEN, 0)})
        self.counts += done
        self._waiting, self._others, self._size = {}, {}, 0

    def _take_memories(self, update: Update, head: Head, now: int, done: Counter[str]) -> list[Memory]:
        moved = []
        found = self._memories.latest(self._waiting)
        gone = self._memories.gone([name for name in self._waiting if name not in found])
        for name, new in self._waiting.items():
            old, away = found.get(name), gone.get(name)
            if away is not None and away.gone == new.spoken:
                done[_FORGOTTEN] += 1
                continue
            if old is not None and new.content in (old.memory.content, old.now.content):
                done["unchanged"] += 1
                continue
            if old is None:
                known = new.created if self._known == "created" and new.created_at is not None else now
                if away is not None:
                    known = max(now, away.known)
                made = replace(new, place=head.places, known=known, created=new.created or known)
                head.places += 1
                head.memories += 1
                if away is not None:
                    head.gone -= 1
                    _return(update, name, made, away)
            else:
                made = _changed(new, old, now)
                if old.standing is not None:  # what is said now holds
                    was = old.standing
                    said = Standing(made.known, *_numbers(made), right=was.right, wrong=was.wrong, uses=was.uses)
                    put_standing(update, name, old, said)
            put_memory(update, made, None if old is None else old.memory)
            done["memories"] += 1
            if made.vector and (old is None or old.memory.vector != made.vector):
                moved.append(made)
        return moved

    def _take_others(self, update: Update, head: Head, now: int, done: Counter[str]) -> None:
        there = self._shelf.engine().fetch(INTERCHANGE, [(key, key.encode()) for key in self._others])
        for key, (kind, it) in self._others.items():
            value = there.get(key)
            was = None if value is None else decode(value, type(it))
            it.place, it.known = (head.places, now) if was is None else (was.place, was.known)
            if was is not None and _encode(was) == _encode(it):
                done["unchanged"] += 1
                continue
            it.known = now
            head.places += was is None
            update.put(INTERCHANGE, key.encode(), FORMAT + _encode(it))
            done[kind] += 1


def scrubbed_json(text: str, scrubber: Scrubber) -> str:
    """Return JSON with every text in it scrubbed; itself if there is nothing to scrub.

    Raises :class:`BadRow` if it is nested deeper than a scrubber goes.
    """
    try:
        value = msgspec.json.decode(text)
    except (msgspec.MsgspecError, RecursionError):
        return scrubber(text)
    try:
        found = scrubber.nested(value)
    except SerializationError as error:
        raise BadRow(f"it cannot be scrubbed: {error}") from None
    return text if found is value else msgspec.json.encode(found).decode()


def scrubbed_row(it: Row, scrubber: Scrubber) -> Row:
    """Return a row with what people and models wrote in it scrubbed."""
    columns, texts = TABLES[it.table].names, _TEXTS.get(it.table, set())
    cells = [
        scrubbed_json(cell, scrubber) if name in texts and isinstance(cell, str) else cell
        for name, cell in zip(columns, it.cells, strict=True)
    ]
    return replace(it, cells=cells)


def _return(update: Update, name: str, made: Memory, away: Memory) -> None:
    """Let a memory come back; what it was, and that it was away, is seen as of then."""
    update.delete(MEMORIES, f"g{name}".encode())
    put_past(update, name, away, made.known)
    put_standing(update, name, Kept(made, None), Standing(made.known, *_numbers(made)))  # not those of before


def _changed(new: Memory, old: Kept, now: int) -> Memory:
    """Return what comes in the place of a memory: what was known before stays, whenever this says it was made."""
    it = old.memory
    return replace(
        new,
        place=it.place,
        known=max(now, old.known),
        created=new.created or it.created,
        line=new.line or it.line,
    )


def _numbers(it: Memory) -> tuple[float, int, str | None]:
    confidence = 0.5 if it.confidence is None else it.confidence
    return confidence, it.usage_count or 0, it.last_used
