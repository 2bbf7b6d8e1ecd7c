"""``ntmem search``: what is nearest."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
import msgspec

import ntmem
from ntmem._core.text import iso
from ntmem.instants import MAX_INSTANT

from .output import EXIT_CODES, EXIT_MISSING, existing, fail, json_option, plain, print_found, store_option, verb

_EPILOG = (
    """
\b
Examples:
  ntmem search                                the collections there are
  ntmem search setups --like s17 -k 5         what is nearest to a vector
  ntmem search setups --vector 0.1,0.9        and to numbers
  ntmem search notes --text "funding flips"   to text, as HashedTextEmbedder
  ntmem search setups --like s17 --where '{"spread": {"$gt": 5}}'
"""
    + EXIT_CODES
)


@click.command(epilog=_EPILOG)
@click.argument("namespace", required=False)
@click.option("--like", help="Id of a vector of the collection to search by.")
@click.option("--vector", help="Numbers to search by, separated by commas.")
@click.option("--text", help="Text to search by; for collections of hashed text.")
@click.option("-k", "--count", "k", type=click.IntRange(1), default=10, show_default=True, help="At most so many.")
@click.option("--where", help="Only those whose metadata pass this filter, as JSON.")
@click.option("--as-of", type=click.IntRange(0, MAX_INSTANT), help="As the collection was known at this time, ns UTC.")
@click.option("--min-score", type=float, help="Only those with this score or a higher one.")
@store_option
@json_option
@verb
def search(
    namespace: str | None,
    like: str | None,
    vector: str | None,
    text: str | None,
    k: int,
    where: str | None,
    as_of: int | None,
    min_score: float | None,
    store: Path,
    as_json: bool,
) -> None:
    """Print the vectors of the collection NAMESPACE that are nearest to a query, the best first.

    Without NAMESPACE the collections of the store.
    """
    given = [name for name, value in (("--like", like), ("--vector", vector), ("--text", text)) if value is not None]
    if len(given) != (namespace is not None):
        said = " and ".join(given) or "none"
        raise click.UsageError(f"a NAMESPACE is searched by one of --like, --vector and --text; given: {said}")
    chosen = None if where is None else _json(where)
    with existing(store) as memory:
        if namespace is None:
            _print_collections(memory, as_json)
            return
        info = memory.vectors.info(namespace)
        if info is None:
            fail(f"there is no collection {namespace!r}; 'ntmem search' lists those there are", EXIT_MISSING)
        query: Any
        if like is not None:
            found = memory.vectors.get(namespace, like, as_of=as_of)
            if found is None:
                fail(f"there is no vector {like!r} in {namespace}", EXIT_MISSING)
            query = found.vector
        elif vector is not None:
            query = [float(number) for number in vector.split(",")]
        else:
            query = ntmem.HashedTextEmbedder(info.dimension).embed(text or "")
        hits = memory.vectors.search(namespace, query, k, where=chosen, as_of=as_of, min_score=min_score)
    print_found(
        [hit._asdict() for hit in hits],
        as_json,
        "nothing is found",
        ("score", "id", "known", "metadata"),
        [(f"{hit.score:.4f}", plain(hit.id), iso(hit.ts_known), _shown(hit.metadata)) for hit in hits],
        right=(0,),
    )


def _json(text: str) -> Any:
    try:
        return msgspec.json.decode(text)
    except (msgspec.DecodeError, UnicodeEncodeError, RecursionError) as error:
        raise click.UsageError(f"--where is no JSON: {error}") from None


def _shown(metadata: dict[str, Any]) -> str:
    return plain(", ".join(f"{name}={value!r}" for name, value in metadata.items()))


def _print_collections(memory: ntmem.MemorySystem, as_json: bool) -> None:
    found = []
    for labels in memory.vectors.collections():
        info = memory.vectors.info(labels)
        if info is not None:
            found.append({"namespace": "/".join(labels), **msgspec.structs.asdict(info)})
    print_found(
        found,
        as_json,
        "the store has no collection of vectors",
        ("namespace", "vectors", "dimension", "metric", "dtype", "memory"),
        [
            (
                plain(one["namespace"]),
                f"{one['count']:,}",
                str(one["dimension"]),
                one["metric"],
                one["dtype"],
                f"{one['memory_bytes']:,}",
            )
            for one in found
        ],
        right=(1, 2, 5),
    )
