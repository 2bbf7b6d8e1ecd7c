"""The paper's files (arXiv 2509.25140): a line of JSON for each task, and one for each embedding.

- ``{task_id, query, think_list, action_list, status, memory_items, template_id}`` is kept as it came, to the byte. Its
  items, objects or Markdown, are memories that are recalled by the embedding whose `id` is the `task_id`.
- ``{id, text, embedding}`` is kept as it came, with the numbers as float32, each written in the shortest form that is
  no other's.
- What the paper has no place for stands under ``ntmem`` in lines of memories that are from elsewhere: their rows.
"""

from __future__ import annotations

import base64
import os
import re
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, BinaryIO, NamedTuple

import msgspec
from msgspec.structs import replace

from ..errors import SerializationError, StorageError
from ..tiers.guards import INTERCHANGE
from . import native
from .agentic import BadRow
from .events import hashed, made_id
from .memories import Memories
from .memory import FAILURE, LINE, REASONING, SUCCESS, Memory
from .native import floats, is_own, sayable
from .sqlitein import check_vector, made_memory
from .sqliteout import made_whole, rows_of
from .taking import (
    BankExport,
    BankImport,
    Embedded,
    Known,
    Line,
    OnError,
    Problems,
    Taker,
    check_options,
    count,
    decode,
    kept,
    scrubbed_json,
)

if TYPE_CHECKING:
    from ..scrubbing import Scrubber
    from .ledger import Ledger
    from .shelf import Shelf
    from .tracker import TrajectoryTracker
    from .trajectory import Trajectory

_MOST_LINE = 1 << 30
_MOST_ID = 4096
_ROW = ("id", "type", "pattern_data", "confidence", "usage_count", "created_at", "last_used", "model", "embedded_at")
_ITEM = re.compile(r"^#[ \t]*Memory Item.*$", re.MULTILINE | re.IGNORECASE)
_PART = re.compile(r"^##[ \t]*(Title|Description|Content)\b[ \t]*:?", re.MULTILINE | re.IGNORECASE)
_SUCCEEDED = {"success", "succeeded", "successful", "correct", "pass", "passed", "true", "1", "1.0"}


class Item(NamedTuple):
    """A memory item."""

    title: str
    description: str
    content: str


def items_of(found: Any) -> list[Item]:
    """Return the memory items of a line, which are objects, Markdown, or one text of several in Markdown."""
    made = []
    for each in found if isinstance(found, list) else [found]:
        if isinstance(each, dict):
            made.append(Item(*(_text(each.get(name)) for name in Item._fields)))
        elif isinstance(each, str) and each.strip():
            made += [_item(part) for part in _ITEM.split(each) if part.strip()]
    return made


def _item(text: str) -> Item:
    pieces = _PART.split(text)
    if len(pieces) == 1:
        whole = text.strip()
        return Item(whole.splitlines()[0].lstrip("# "), "", whole)
    parts = {name.lower(): said.strip() for name, said in zip(pieces[1::2], pieces[2::2], strict=True)}
    return Item(*(parts.get(name, "") for name in Item._fields))


def _text(value: Any) -> str:
    return value if isinstance(value, str) else "" if value is None else msgspec.json.encode(value).decode()


# -- from files


class _Read(NamedTuple):
    """A line that was read: its number and text, with what it is."""

    where: str
    text: str
    said: dict[str, Any]


def import_jsonl(
    paths: Sequence[str | os.PathLike[str]],
    ledger: Ledger,
    shelf: Shelf,
    memories: Memories,
    *,
    known: Known,
    on_error: OnError,
    scrubber: Scrubber | None,
) -> BankImport:
    """Do :meth:`ntmem.ReasoningBank.import_jsonl`."""
    began = time.monotonic()
    check_options(known, on_error)
    shelf.update(0)  # that it may be written to
    sources = [os.path.abspath(os.fsdecode(each)) for each in paths]
    taker, problems = Taker(memories, shelf, known), Problems()
    for it in _lines(sources, scrubber, problems.note):
        with _noting(it.where, problems.note):
            _checked(it.said, scrubber)
    problems.check(" and ".join(sources), on_error)
    bad = {each.partition(": ")[0] for each in problems.found}

    def known_bad(where: str, error: BadRow) -> None:
        if where not in bad:
            raise SerializationError(
                f"{where} was changed while it was imported ({error}); import it again when nobody writes to it"
            )

    for wanted in (True, False):  # embeddings first: who takes an item looks for its own
        times: Counter[str] = Counter()
        for it in _lines(sources, scrubber, known_bad):
            with _noting(it.where, known_bad):
                if wanted == ("embedding" in it.said):
                    _take(it, times, taker, ledger, shelf, scrubber)
        taker.flush()
    return BankImport(
        sources[0],
        dict(taker.counts),
        taker.unchanged,
        dict(taker.left_out),
        (),
        tuple(problems.found),
        time.monotonic() - began,
    )


@contextmanager
def _noting(where: str, note: Callable[[str, BadRow], None]) -> Iterator[None]:
    """Note a :class:`BadRow`, and go on."""
    try:
        yield
    except BadRow as error:
        note(where, error)


def _lines(paths: Sequence[str], scrubber: Scrubber | None, note: Callable[[str, BadRow], None]) -> Iterator[_Read]:
    for path in paths:
        if os.path.exists(path) and not os.path.isfile(path):
            raise StorageError(f"cannot read {path}: it is read more than once; write a pipe to a file first")
        try:
            with open(path, "rb") as file:
                number = 0
                while data := file.readline(_MOST_LINE):
                    number += 1
                    where = f"line {number} of {os.path.basename(path)}"
                    if data.strip():
                        with _noting(where, note):
                            read = _parsed(where, data, scrubber)
                            yield read
        except OSError as error:
            raise StorageError(f"cannot read {path}: {error.strerror or error}") from error


def _parsed(where: str, data: bytes, scrubber: Scrubber | None) -> _Read:
    try:
        text = data.decode().strip()
        if scrubber is not None:
            text = scrubbed_json(text, scrubber)
        said = msgspec.json.decode(text)
    except (UnicodeDecodeError, msgspec.MsgspecError, RecursionError) as error:
        raise BadRow(f"it is no JSON: {error}") from None
    if not isinstance(said, dict):
        raise BadRow("it is no object of JSON")
    return _Read(where, text, said)


def _name(said: dict[str, Any], key: str) -> str:
    name = said[key]
    if isinstance(name, int) and not isinstance(name, bool):
        return str(name)  # as some benchmarks number their tasks
    if not isinstance(name, str) or not 0 < len(name.encode(errors="replace")) <= _MOST_ID:
        raise BadRow(f"{key} must be a text of 1 to {_MOST_ID} bytes, is {str(name)[:64]!r}")
    try:
        name.encode()
    except UnicodeEncodeError:
        raise BadRow(f"{key} has half of a surrogate pair") from None
    return name


def _checked(said: dict[str, Any], scrubber: Scrubber | None) -> Memory | bytes | None:
    """Return the row that a line has, or its embedding; raise :class:`BadRow` if it is neither kind of line."""
    if "embedding" in said and "id" in said:
        _name(said, "id")
        return _vector(said["embedding"])
    if "task_id" not in said:
        raise BadRow("it has neither task_id, nor id and embedding")
    _name(said, "task_id")
    ours = said.get("ntmem")
    row = ours.get("row") if isinstance(ours, dict) else None
    if row is None:
        return None
    found = _row(row)
    return found if scrubber is None else replace(found, data=scrubbed_json(found.data, scrubber))


def _vector(numbers: Any) -> bytes:
    import numpy as np

    if not isinstance(numbers, list) or not all(type(each) in (int, float) for each in numbers):
        raise BadRow("embedding must be a list of numbers")
    try:
        with np.errstate(over="ignore"):
            found: bytes = np.array(numbers, np.float64).astype("<f4").tobytes()
    except OverflowError:
        raise BadRow("embedding has a number beyond float32") from None
    check_vector(len(numbers), found)
    return found


def _row(row: Any) -> Memory:
    """Return the memory of a row that another store has written."""
    if not isinstance(row, dict):
        raise BadRow("ntmem.row must be an object")
    kinds: dict[str, tuple[type, ...]] = {"confidence": (int, float), "usage_count": (int,)}
    for name in (*_ROW, "vector"):
        value, needed = row.get(name), name in ("id", "type", "pattern_data")
        if (value is None and needed) or not (value is None or isinstance(value, kinds.get(name, (str,)))):
            raise BadRow(f"ntmem.row.{name} is {str(value)[:64]!r}")
    try:
        vector = base64.b64decode(row.get("vector") or "", validate=True)
    except ValueError as error:
        raise BadRow(f"ntmem.row.vector is no base 64: {error}") from None
    check_vector(len(vector) // 4, vector)
    cells: list[Any] = [row.get(name) for name in _ROW]
    *cells, model, embedded_at = cells
    return replace(made_memory(*cells), model=model, vector=vector, embedded_at=embedded_at)


def _take(
    it: _Read, times: Counter[str], taker: Taker, ledger: Ledger, shelf: Shelf, scrubber: Scrubber | None
) -> None:
    said = it.said
    found = _checked(said, scrubber)
    ours = said.get("ntmem") if isinstance(said.get("ntmem"), dict) else None
    if isinstance(found, bytes):
        if ours is not None and "row" in ours:
            return  # the line with the row has it, bit for bit
        name = _name(said, "id")
        # what else is in the line stays, in its order
        made = Embedded(0, 0, msgspec.json.encode(said | {"embedding": None}).decode(), found)
        taker.other("embeddings", f"e{hashed(name)}", made, len(found) + len(it.text))
        for key, line in shelf.engine().scan(INTERCHANGE, f"l{hashed(name)}".encode(), b"", None):
            for memory in memories_of(key, msgspec.json.decode(decode(line, Line).text), found):
                taker.memory(memory)
        return
    if found is not None:
        if is_own(ledger, found.data):
            taker.left_out["patterns of this store"] += 1
        else:
            taker.memory(found)
        return
    if is_own(ledger, it.text):
        taker.left_out["trajectories of this store"] += 1
        return
    name = _name(said, "task_id")
    times[hashed(it.text)] += 1
    key = "l" + hashed(name) + hashed(f"{times[hashed(it.text)]} {it.text}")
    value = shelf.engine().get(INTERCHANGE, f"e{hashed(name)}".encode())
    items = memories_of(key, said, None if value is None else decode(value, Embedded).vector)
    if taker.is_let_go(items):  # the others are no items of a line any more
        items = [replace(each, line="") for each in items]
    else:
        taker.other("lines", key, Line(0, 0, it.text), len(it.text))
    for memory in items:
        taker.memory(memory)


def memories_of(key: str, said: dict[str, Any], vector: bytes | None) -> list[Memory]:
    """Return the items of a line as memories."""
    name, made = _name(said, "task_id"), []
    outcome = _outcome(said.get("status"))
    confidence = {"Success": SUCCESS, "Failure": FAILURE, "": 0.5}[outcome]
    model = None if vector is None else LINE
    for number, item in enumerate(items_of(said.get("memory_items"))):
        source = {"task_id": name, "agent_id": "", "outcome": outcome, "evidence": []}
        data = msgspec.json.encode(item._asdict() | {"source": source, "tags": [], "domain": ""}).decode()
        memory_id = made_id(0, f"{key}\0{number}")
        made.append(
            Memory(memory_id, 0, 0, 0, REASONING, data, confidence, 0, None, None, model, vector or b"", None, line=key)
        )
    return made


def _outcome(status: Any) -> str:
    if status is None or status == "":
        return ""
    return "Success" if str(status).lower() in _SUCCEEDED else "Failure"


# -- to files


def export_jsonl(
    path: str | os.PathLike[str],
    embeddings: str | os.PathLike[str] | None,
    tracker: TrajectoryTracker,
    shelf: Shelf,
    memories: Memories,
    least: int,
) -> BankExport:
    """Do :meth:`ntmem.ReasoningBank.export_jsonl`."""
    began = time.monotonic()
    counts: Counter[str] = Counter()

    def write(which: Callable[[BinaryIO], None]) -> Callable[[str], None]:
        def into(temporary: str) -> None:
            with open(temporary, "xb") as file:
                which(file)

        return into

    def lines(file: BinaryIO) -> None:
        for line in kept(shelf, "l", Line):
            _put(file, line.text.encode())
            counts["lines"] += 1
        for it, _, is_own_pattern in rows_of(shelf, memories, least):
            if not it.line:
                _put(file, msgspec.json.encode(_line_of(it)))
                counts["patterns" if is_own_pattern else "memories"] += 1
        for trajectory in native.trajectories_of(tracker):
            _put(file, msgspec.json.encode(_line_of_trajectory(trajectory)))
            counts["trajectories"] += 1

    def vectors(file: BinaryIO) -> None:
        for it in kept(shelf, "e", Embedded):
            said = msgspec.json.decode(it.text)
            _put(file, msgspec.json.encode(said | {"embedding": floats(it.vector)}))
            counts["embeddings"] += 1
        for row, _, _ in rows_of(shelf, memories, least):
            if row.model is not None and not row.line:
                said = {"id": row.id, "text": _title(row), "embedding": floats(row.vector), "ntmem": {"row": True}}
                _put(file, msgspec.json.encode(said))
                counts["embeddings"] += 1

    def both(file: BinaryIO) -> None:
        lines(file)
        vectors(file)

    if embeddings is None:
        target = made_whole(path, write(both))
        size = os.path.getsize(target)
    else:
        beside = made_whole(embeddings, write(vectors))
        try:
            target = made_whole(path, write(lines))
        except BaseException:
            os.unlink(beside)
            raise
        size = os.path.getsize(target) + os.path.getsize(beside)
    return BankExport(target, size, dict(counts), count(shelf, "r"), time.monotonic() - began)


def _put(file: BinaryIO, line: bytes) -> None:
    file.write(line + b"\n")


def _title(row: Memory) -> str:
    return _text(_said(row).get("title"))


def _said(row: Memory) -> dict[str, Any]:
    try:
        found = msgspec.json.decode(row.data)
    except (msgspec.MsgspecError, RecursionError):  # of another type, whose data may be anything
        return {}
    return found if isinstance(found, dict) else {}


def _line_of(row: Memory) -> dict[str, Any]:
    """Return a row as a line of the paper's."""
    said = _said(row)
    source = said.get("source")
    outcome = source.get("outcome") if isinstance(source, dict) else None
    cells = (row.id, row.type, row.data, row.confidence, row.usage_count, row.created_at, row.last_used, row.model)
    kept_row = dict(zip(_ROW, (*cells, row.embedded_at), strict=True))
    items = [{name: _text(said.get(name)) for name in Item._fields}]
    return {
        "task_id": row.id,
        "query": _title(row),
        "think_list": [],
        "action_list": [],
        "status": {"Success": "success", "Failure": "fail"}.get(str(outcome)),
        "memory_items": items if row.type == REASONING else [],
        "template_id": None,
        "ntmem": {"row": kept_row | {"vector": base64.b64encode(row.vector).decode()}},
    }


def _line_of_trajectory(it: Trajectory) -> dict[str, Any]:
    """Return a trajectory as a line of the paper's: what was seen is what was thought of."""
    thought = [_text(sayable(each.data)) for each in it.observations]
    done = [
        each.type if each.parameters is None else f"{each.type} {_text(sayable(each.parameters))}"
        for each in it.actions
    ]
    return {
        "task_id": it.id,
        "query": it.task,
        "think_list": thought,
        "action_list": done,
        "status": native.status_of(it),
        "memory_items": [],
        "template_id": None,
        "ntmem": {"trajectory": it.id},
    }
