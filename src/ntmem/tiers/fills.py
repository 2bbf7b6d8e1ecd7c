"""Fills of a transaction: computed from what is held, committed with the rest of it, computed anew if that has changed.

A fill of its own is decided under the log's mutex and never tried again (``_core/book_write.h``). One of a transaction
is part of a group that Python makes, so it is computed before, on the condition that neither its position nor its id is
written meanwhile. The log shows readers the positions of the group in the moment in which it commits it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from .._core.fill import Fill, entry_key, settled
from ..errors import StorageError
from ..records import Change
from .guards import ENTRIES, POSITIONS
from .outcome import Outcome, OwnConflict
from .positions import Key, Positions

_ATTEMPTS = 1000


class Order(NamedTuple):
    """A fill that a transaction is to book, as it was given."""

    key: Key
    trade_id: str
    quantity: Any
    price: Any
    fee: Any
    sign: int
    ts_event: int | None


class _Plan:
    """What orders come to, as of now."""

    def __init__(self, book: Positions, orders: Sequence[Order]) -> None:
        self._book = book
        self._fills: list[tuple[Fill, bool]] = []  # and whether it was known
        self._entries: dict[bytes, tuple[Fill, bytes]] = {}
        self._positions: dict[Key, tuple[Fill, bytes]] = {}  # the last fill of each, and what follows from it
        for order in orders:
            key = entry_key(order.key, order.trade_id)
            booked = self._entries[key][1] if key in self._entries else book.entry(key)
            held = self._positions.get(order.key)
            before = None if held is None else held[0].position
            fill, entry, after = book.draft_fill(*order, booked=booked, before=before)
            self._fills.append((fill, booked is not None))
            if booked is None:
                self._entries[key] = fill, entry
                self._positions[order.key] = fill, after

    def changes(self) -> list[Change]:
        """Return what is to be written, on the condition that it :meth:`holds`."""
        entries = [
            Change("put", ENTRIES, key, entry, if_version=0, ts_event=fill.ts_event, own=True)
            for key, (fill, entry) in self._entries.items()
        ]
        return entries + [
            Change(
                *("put", POSITIONS, "\x1f".join(key).encode(), after),
                if_version=fill.position.version,
                ts_event=fill.ts_event,
                own=True,
            )
            for key, (fill, after) in self._positions.items()
        ]

    def holds(self) -> bool:
        """Whether the positions are what they were, and no id was booked meanwhile."""
        held = {key: self._book.get(*key) for key in self._positions}
        return all(self._book.entry(key) is None for key in self._entries) and all(
            fill.position.version == (0 if (now := held[key]) is None else now.version)
            for key, (fill, _) in self._positions.items()
        )

    def settle(self, outcomes: Sequence[Outcome]) -> list[Fill]:
        """Return the fills as they were booked."""
        versions = dict(zip(self._positions, (it.version for it in outcomes[len(self._entries) :]), strict=True))
        return [fill if was_known else settled(fill, versions[fill.position.key]) for fill, was_known in self._fills]


def commit_fills(
    book: Positions, orders: Sequence[Order], changes: list[Change], commit: Callable[[list[Change]], list[Outcome]]
) -> tuple[list[Outcome], list[Fill]]:
    """Commit changes and fills as one group; return the outcomes of the changes and the fills."""
    for _ in range(_ATTEMPTS):
        plan = _Plan(book, orders)
        group = changes + plan.changes()
        try:
            outcomes = commit(group) if group else []
        except OwnConflict:
            if plan.holds():  # by what the book shows: the writer that is further is just booking, or has died over it
                book.catch_up()
            continue
        return outcomes[: len(changes)], plan.settle(outcomes[len(changes) :])
    raise StorageError(f"what the fills are of changed {_ATTEMPTS} times while they were booked; try again")
