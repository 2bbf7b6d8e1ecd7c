"""Observations as a plain list has them, to hold a store's against: every bit, every type, every name in its order."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

HOW: dict[str, dict[str, Any]] = {
    "shared": {"engine": "shared"},
    "tiny": {"engine": "shared", "log_bytes": 4096},
    "lmdb": {"engine": "lmdb"},
}
"""Engines. Through a tiny log next to nothing goes: groups go past it, and values are staged."""
START = 1_700_000_000_000_000_000
SECOND = 1_000_000_000
EXACT = 1 << 53
LAST = 2**63 - 1


class Row(NamedTuple):
    """One observation."""

    number: int
    ts_event: int
    ts_known: int
    fields: dict[str, float | int]
    metadata: Any = None
    embedding: Any = None


class Plain:
    """A series in memory, whose every answer is computed from all its rows."""

    def __init__(self) -> None:
        self.rows: list[Row] = []
        self.sets: dict[tuple[tuple[str, ...], str], int] = {}  # of fields, with kinds, since when each is known
        self.calls: list[tuple[Any, ...]] = []
        self.given = 0  # numbers

    def keep(self, numbers: set[int]) -> None:
        """Drop all other rows."""
        self.rows = [row for row in self.rows if row.number in numbers]

    def append(
        self, ts_event: int, fields: dict[str, float | int], ts_known: int, metadata: Any = None, embedding: Any = None
    ) -> int:
        """Add a row; return its number."""
        self.calls.append((ts_event, fields, ts_known, metadata, embedding))
        if not any(since <= ts_known and fits(fields, *it) for it, since in self.sets.items()):
            kinds = "".join("i" if isinstance(value, int) else "f" for value in fields.values())
            self._note((tuple(fields), kinds), ts_known)
        self.rows.append(Row(self.given, ts_event, ts_known, dict(fields), metadata, embedding))
        self.given += 1
        return self.given - 1

    def extend(self, columns: Mapping[str, np.ndarray]) -> int:
        """Add rows, whose times are int64; return how many."""
        self.calls.append((dict(columns),))
        names = [name for name in columns if name not in ("ts_event", "ts_known")]
        events, knowns = columns["ts_event"].tolist(), columns["ts_known"].tolist()
        if events:
            kinds = "".join("f" if columns[name].dtype.kind == "f" else "i" for name in names)
            self._note((tuple(names), kinds), min(knowns))
        for place, (event, known) in enumerate(zip(events, knowns, strict=True)):
            fields = {name: columns[name][place].item() for name in names}
            self.rows.append(Row(self.given, event, known, fields))
            self.given += 1
        return len(events)

    def _note(self, it: tuple[tuple[str, ...], str], known: int) -> None:
        self.sets[it] = min(known, self.sets.get(it, LAST))

    def range(self, start: int, end: int, *, fields: Sequence[str] | None = None, as_of: int = LAST) -> np.ndarray:
        """Return rows with start <= ts_event < end."""
        return self._table([row for row in self._known(as_of) if start <= row.ts_event < end], fields, as_of)

    def recent(self, n: int, *, fields: Sequence[str] | None = None, as_of: int = LAST) -> np.ndarray:
        """Return the last rows."""
        return self._table(self._known(as_of)[-n:], fields, as_of)

    def _known(self, as_of: int) -> list[Row]:
        return sorted((row for row in self.rows if row.ts_known <= as_of), key=lambda row: (row.ts_event, row.number))

    def kinds(self, as_of: int) -> dict[str, str]:
        """Return the fields as of an instant, in order: int64 ("i") are those that every row has as such."""
        sets = sorted((since, *it) for it, since in self.sets.items() if since <= as_of)
        every = [dict(zip(names, kinds, strict=True)) for _, names, kinds in sets]
        names = dict.fromkeys(name for each in every for name in each)
        return {name: "i" if all(each.get(name) == "i" for each in every) else "f" for name in names}

    def _table(self, rows: list[Row], fields: Sequence[str] | None, as_of: int) -> np.ndarray:
        kinds = self.kinds(as_of) | {"row": "i", "metadata": "O", "embedding": "O"}
        names = [*self.kinds(as_of)] if fields is None else [*dict.fromkeys(fields)]
        names = [name for name in names if name not in ("ts_event", "ts_known")]
        types = {"i": "<i8", "f": "<f8", "O": "O"}
        dtype = [("ts_event", "<i8"), ("ts_known", "<i8"), *((name, types[kinds.get(name, "f")]) for name in names)]
        table = np.empty(len(rows), dtype)
        for place, row in enumerate(rows):
            known = row.fields | {"row": row.number, "metadata": row.metadata, "embedding": row.embedding}
            table["ts_event"][place], table["ts_known"][place] = row.ts_event, row.ts_known
            for name in names:
                table[name][place] = known.get(name, np.nan)
        return table

    def known_by(self, as_of: int) -> Plain:
        """Return a series that never got a row known later."""
        found = Plain()
        for call in self.calls:
            if len(call) == 1:
                chosen = call[0]["ts_known"] <= as_of
                if chosen.any():
                    found.extend({name: values[chosen] for name, values in call[0].items()})
            elif call[2] <= as_of:
                found.append(*call)
        return found


def fits(fields: Mapping[str, float | int], names: tuple[str, ...], kinds: str) -> bool:
    """Whether a row may stand among those with these fields."""
    return fields.keys() == set(names) and all(
        isinstance(fields[name], int) if kind == "i" else is_float(fields[name])
        for name, kind in zip(names, kinds, strict=True)
    )


def is_float(value: float | int) -> bool:
    """Whether a float64 has this number."""
    return isinstance(value, float) or -EXACT <= value <= EXACT


def replay(observations: Any, plain: Plain, namespace: str = "market", symbol: str = "A") -> None:
    """Do to a store what was done to `plain`."""
    for call in plain.calls:
        if len(call) == 1:
            observations.extend(namespace, symbol, call[0])
        else:
            event, fields, known, metadata, embedding = call
            observations.append(
                *(namespace, symbol, event, fields), ts_known=known, metadata=metadata, embedding=embedding
            )


def check_same(found: np.ndarray, expected: np.ndarray) -> None:
    """See that two tables have the same names, types, rows and bits."""
    assert found.dtype == expected.dtype
    assert len(found) == len(expected)
    for name in expected.dtype.names or ():
        if expected.dtype[name].kind == "O":
            for mine, other in zip(found[name].tolist(), expected[name].tolist(), strict=True):
                if isinstance(other, np.ndarray):
                    assert mine.dtype == np.float32
                    assert mine.tobytes() == other.tobytes()
                else:
                    assert type(mine) is type(other)
                    assert mine == other
        else:
            assert found[name].tobytes() == expected[name].tobytes(), name


def check(observations: Any, plain: Plain, namespace: str = "market", symbol: str = "A") -> None:
    """See that a store has just these rows, and numbers them from 0 on."""
    names = [*plain.kinds(LAST), "row", "metadata", "embedding"]
    rows = max(1, len(plain.rows) + 1)
    for fields in (names, None):
        check_same(
            observations.recent(namespace, symbol, rows, fields=fields, as_of=LAST), plain.recent(rows, fields=fields)
        )
    facts = observations.info(namespace, symbol)
    assert (0 if facts is None else facts.rows) == len(plain.rows)


_MARKET = ("market", "A")


def table(count: int, first: int = 0) -> dict[str, np.ndarray]:
    """Return so many rows, one a nanosecond, known at once."""
    event = START + np.arange(first, first + count, dtype=np.int64)
    return {"ts_event": event, "ts_known": event, "x": np.arange(first, first + count, dtype=np.float64)}


def fill(o: Any, plain: Plain, rounds: int = 2) -> None:
    """Add rows of every kind to a store and to `plain`; in several rounds those before are distilled."""
    for _ in range(rounds):
        for number in range(20):
            fields = {"x": number * 0.5} if number % 5 else {"x": number, "y": 1}
            extra, vector = ("m" if number % 7 == 0 else None), np.array([1, 2], "f4") if number % 11 == 0 else None
            plain.append(START - number, fields, START, extra, vector)
            o.append(*_MARKET, START - number, fields, ts_known=START, metadata=extra, embedding=vector)
        for count in (30, 1500):
            plain.extend(table(count))
            o.extend(*_MARKET, table(count))
        if rounds > 1:
            o.distill(symbol="A", namespace="market")
    for number in range(20):
        plain.append(START, {"y": number}, START + number)
        o.append(*_MARKET, START, {"y": number}, ts_known=START + number)
