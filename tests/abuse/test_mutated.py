"""Regions and data files that were changed behind the store's back: an error that says so, or everything is there.

``make test`` runs some 200 mutations, ``make damage`` 10,000 (``NTMEM_MUTATIONS``); support/mutations.py makes them.
A seed that failed is run again with ``NTMEM_MUTATION="store seed"``.
"""

from __future__ import annotations

import json
import os
from collections import Counter, defaultdict
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hostile import Child, Start
from mutations import KINDS, STORES

COUNT = int(os.environ.get("NTMEM_MUTATIONS", "120"))
ONLY = os.environ.get("NTMEM_MUTATION")
JOBS = 2 if COUNT > 1000 else 1

MUTATE = "from mutations import main; main(sys.argv[1])"


@pytest.fixture
def mutators(ram: Path, start: Start) -> list[Child]:
    """Processes that mutate, ready, each with stores of its own."""
    ready = []
    for number in range(JOBS):
        place = ram / str(number)
        place.mkdir()
        ready.append(start(MUTATE, place))
    for mutator in ready:
        for _ in range(2 * len(STORES)):
            name, what, said = json.loads(mutator.line())
            assert what == "whole", (name, what, said)
    return ready


@pytest.mark.slow
def test_mutated_stores_are_refused_or_whole(mutators: list[Child]) -> None:
    # Each kind and each store comes by; 7919 is a prime, so that few seeds do not mean the same few mutations.
    cases = [
        (STORES[(n // len(KINDS) + n) % len(STORES)], n % len(KINDS) + len(KINDS) * 7919 * n) for n in range(COUNT)
    ]
    if ONLY:
        name, seed = ONLY.split()
        cases = [(name, int(seed))]

    def work(mutator: Child, mine: list[tuple[str, int]]) -> list[tuple[str, int, str, str, str]]:
        found = []
        for name, seed in mine:
            mutator.tell(f"{name} {seed}")
            found.append((name, seed, *json.loads(mutator.line())))
            if found[-1][3].startswith("SURPRISE"):
                print(*found[-1], flush=True)  # at once: there may be many to wait for
        return found

    with ThreadPoolExecutor(len(mutators)) as pool:
        shares = [cases[n :: len(mutators)] for n in range(len(mutators))]
        outcomes = [outcome for share in pool.map(work, mutators, shares) for outcome in share]

    table: dict[str, Counter[str]] = defaultdict(Counter)
    for _, _, kind, what, _ in outcomes:
        table[kind][what] += 1
    for kind in sorted(table):
        print(f"{kind:34}", ", ".join(f"{count} {what}" for what, count in table[kind].most_common()))
    print(f"{'all':34}", ", ".join(f"{n} {what}" for what, n in Counter(o[3] for o in outcomes).most_common()))
    surprises = [outcome for outcome in outcomes if outcome[3].startswith("SURPRISE")]
    assert not surprises
    if ONLY:
        print(*outcomes[0])
