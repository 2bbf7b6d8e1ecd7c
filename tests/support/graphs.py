"""Collections whose graphs are made of a few hundred vectors, and what has to be right of them."""

from __future__ import annotations

import contextlib
import glob
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np

from ntmem._core.hnsw import build
from ntmem.tiers import graphs
from ntmem.tiers.collection import Collection
from ntmem.tiers.vectors import VectorStore

DIMENSION, WORTH = 16, 256

EARLY = """
import random
import numpy as np
from ntmem.tiers import graphs, segments
graphs.worth, graphs.is_sooner = lambda *_: 256, lambda parts, *_: parts > 0
graphs.MERGED, graphs.SMALL, graphs.EAGER = 16, 0, 1
graphs.build = lambda *given, build=graphs.build, **how: build(*given, **how | dict(background=False))
def rows(count, *seed):
    return np.random.default_rng(seed).standard_normal((count, 16)).astype(np.float32)
"""
"""What a child does first. Graphs are not made at lowest priority: where others work, that takes minutes."""


def rows(count: int, *seed: int) -> Any:
    """Return distinct vectors, the same for the same seed."""
    return np.random.default_rng(seed).standard_normal((count, DIMENSION)).astype(np.float32)


def built(*given: Any, **how: Any) -> Any:
    """Make a graph, not at lowest priority."""
    return build(*given, **how | {"background": False})


@contextlib.contextmanager
def early(*, asked: bool = True) -> Iterator[None]:
    """Graphs are made of a few hundred vectors, and asked, or never."""
    with (
        patch.object(graphs, "build", built),
        patch.object(graphs, "worth", lambda *_: WORTH),
        patch.multiple(graphs, MERGED=16, SMALL=0, EAGER=1),
        patch.object(graphs, "is_sooner", lambda parts, *_: asked and parts > 0),
    ):
        yield


def collection_of(v: VectorStore) -> Collection:
    """Return the collection `n`."""
    found = v._of(("n",))
    assert found is not None
    return found


def spans(v: VectorStore) -> list[tuple[int, int]]:
    """Return of which slots there are graphs that are used; each is whole."""
    collection = collection_of(v)
    parts = collection.graphs.parts(collection.tail())
    assert [part.graph.verify() for part in parts] == [0] * len(parts)
    return [part[:2] for part in parts]


def grow(v: VectorStore) -> bool:
    """Make the graphs that there are to be; return whether any was."""
    collection, done = collection_of(v), False
    while collection.graphs.grow(collection.tail(), 1.0):
        done = True
    return done


def files(store: Path) -> list[tuple[int, int]]:
    """Return of which slots there are files."""
    names = [Path(path).name.split("-") for path in glob.glob(f"{store}/vectors/*.graph")]
    return sorted((int(name[1], 16), int(name[2], 16)) for name in names)


def leftovers(store: Path) -> list[str]:
    """Return the files that somebody has not finished."""
    return glob.glob(f"{store}/vectors/*.graph.*")


def lost(v: VectorStore, vectors: dict[str, Any]) -> list[str]:
    """Return the ids of vectors that are not the nearest to themselves, by graphs or by a scan."""
    found = set()
    for asked in (True, False) if vectors else ():
        with early(asked=asked):
            hits = v.search_many("n", np.stack(list(vectors.values())), 1, ef=1000)
        found |= {id for id, best in zip(vectors, hits, strict=True) if [hit.id for hit in best] != [id]}
    return sorted(found)
