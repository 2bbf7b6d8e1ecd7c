"""How long those who go on wait when one of them is killed, and how much of that is the machine's doing."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping, Sequence
from typing import Any

from journal import WAITS_FOR_DISK, Operation

AROUND = 5_000_000  # ns: how long after a kill a call may begin and still belong to it
EXCESS = 10_000_000


def look_at_waits(journals: Mapping[int, Sequence[Operation]], kills: Sequence[int]) -> dict[str, Any]:
    """Return for every kill and every writer that lived on its longest wait, in ns, and what is to be explained.

    An excess is explained if during it processes of the store, this one or one it may have waited for, stood in the
    queue for a processor for at least half as long.
    """
    longest: list[int] = []
    excesses = explained = 0
    kept = {writer: [o for o in journal if o.end] for writer, journal in journals.items()}
    begins = {writer: [o.begin for o in operations] for writer, operations in kept.items()}

    def around(writer: int, start: int, end: int) -> list[Operation]:
        first = max(bisect_left(begins[writer], start) - 1, 0)
        last = bisect_left(begins[writer], end)
        return [o for o in kept[writer][first:last] if o.end >= start]

    for at in kills:
        for writer in kept:
            found = [o for o in around(writer, at, at + AROUND) if o.kind not in WAITS_FOR_DISK]
            if not found or found[0].begin > at:  # it was not there yet
                continue
            worst = max(found, key=lambda o: o.end - o.begin)
            wait = worst.end - worst.begin
            longest.append(wait)
            if wait <= EXCESS:
                continue
            excesses += 1
            queued = sum(o.delay for other in kept for o in around(other, worst.begin, worst.end))
            explained += queued >= wait // 2
    return {"longest": longest, "excesses": excesses, "explained": explained}
