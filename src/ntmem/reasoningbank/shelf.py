"""How patterns stand in the store: structs, keys, and what is read of them as of an instant.

A **cluster** is one kind of situation, with a **cell** for each action that was tried in it; a cell is a pattern.

=================== ============================= ==================================================================
namespace           key                           value (format number, MessagePack)
=================== ============================= ==================================================================
ntmem/patterns      ``k`` cluster                 a :class:`Cluster`, the latest
same                ``v`` cluster inv(known)      one that another has replaced
ntmem/distilling    ``h``                         a :class:`Head`
same                ``s`` scope                   a :class:`Scope`
same                ``w`` cluster                 a :class:`Working`
same                ``f`` trajectory hash         empty: somebody said what a pattern was worth to a trajectory
=================== ============================= ==================================================================

A scope is what outcomes can be compared in: a task, a number of dimensions, rewards or returns. The centre of a cluster
stands in the collection ``ntmem/patterns/<dimension>``, too, where it is found by similarity; what is there says where
to look, and the record says what is so.

**Invariants**

- Whatever changes a cluster changes the head with it, in one group, on the condition that the head is the one that was
  read: all changes are in one order, and each is made by who has seen the one before.
- I7: a cluster says from when on it is known, and nothing that was learnt later is in it. What it replaces stays.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import msgspec
from msgspec import Struct, field
from msgspec.structs import replace

from ..errors import ReadOnlyError, VersionConflict
from ..records import Change
from ..tiers.engine import LmdbEngine
from ..tiers.guards import DISTILLING, PATTERNS, Situations
from .events import FORMAT, decoded, hashed, newest_first
from .evidence import Measure, Totals

if TYPE_CHECKING:
    from ..tiers.vectors import VectorStore

SCOPE_SIZE, NUMBER_SIZE = 12, 8
CLUSTER_SIZE = SCOPE_SIZE + NUMBER_SIZE
_HEAD = b"h"
_AWAY = 0.04  # by which centres, of length 1, are apart that are in one place


class Cell(Struct, array_like=True, gc=False):
    """What was learnt of an action in one kind of situation; instants are those from which something was known."""

    action: str
    measure: Measure
    support: int = 0
    first: int = 0
    last: int = 0
    claims: int = 0  # the sign that `confidence` is about
    confidence: float = 0.5
    moved: float = 0.0  # by how much credits have moved it
    uses: int = 0
    right: int = 0
    wrong: int = 0
    recent: str = ""  # of the last credits, the latest last: "+" or "-"
    quarantined: int = 0  # since when
    support_then: int = 0  # when it was quarantined
    evidence: str = ""  # ids of trajectories, one behind the other
    agents: list[str] = field(default_factory=list)
    contradicts: list[str] = field(default_factory=list)
    text: tuple[str, str, str] | None = None


class Cluster(Struct, array_like=True, gc=False):
    """One kind of situation: where it is, and what was learnt of actions there."""

    id: str
    task: str
    is_return: bool
    known: int
    count: int  # situations
    spread: float  # variance in each dimension
    length: float  # of the mean of its situations
    centroid: bytes  # of length 1, float32
    cells: list[Cell]
    untried: Measure | None = None  # what is to be expected of any other action
    drifts: int = 0
    regime_since: int = 0
    into: str = ""  # the cluster it has become part of
    is_gone: bool = False

    @property
    def number(self) -> int:
        """Its number within its scope."""
        return int(self.id[SCOPE_SIZE:], 16)

    @property
    def dimension(self) -> int:
        return len(self.centroid) // 4

    def cell(self, action: str) -> Cell | None:
        return next((each for each in self.cells if each.action == action), None)


class Working(Struct, array_like=True):
    """What learning goes on from, beside the cluster itself: the last outcomes (`learning.OUTCOME`)."""

    tested: int = 0  # situations when it was last seen whether it is to be divided
    outcomes: bytes = b""
    drifted: int = 0  # when the latest drift was noticed
    away: float = 1.0  # how far it is, at most, from where it is among the vectors


class Scope(Struct, array_like=True):
    """What outcomes are compared in."""

    id: str
    task: str
    dimension: int
    is_return: bool
    usual: Totals
    clusters: int = 0  # that there were, which number the next
    tested: int = 0  # cells that there are


class Head(Struct, array_like=True):
    """What all have in common."""

    changes: int = 0
    cells: int = 0
    clusters: int = 0
    known: int = 0  # instant of the last change
    since: int = 0  # outcomes known before it are passed over


_encode = msgspec.msgpack.Encoder().encode
_DECODERS: dict[type, Any] = {kind: msgspec.msgpack.Decoder(kind) for kind in (Cluster, Working, Scope, Head)}


def scope_id(task: str, dimension: int, *, is_return: bool) -> str:
    """Return the id of a scope."""
    return hashed(f"{task}\0{dimension}\0{'return' if is_return else 'reward'}")[:SCOPE_SIZE]


def cluster_id(scope: str, number: int) -> str:
    """Return the id of a cluster of a scope."""
    return f"{scope}{number:0{NUMBER_SIZE}x}"


def is_pattern(pattern_id: str) -> bool:
    """Whether an id is one that a pattern has; memories have others."""
    cluster, _, action = pattern_id.partition(":")
    return bool(action) and len(cluster) == CLUSTER_SIZE and not set(cluster) - set("0123456789abcdef")


def cluster_of(pattern_id: Any) -> tuple[str, str]:
    """Return the cluster and the action that a pattern is of."""
    if not isinstance(pattern_id, str):
        raise TypeError(f"pattern_id must be a str, was {type(pattern_id).__name__}")
    cluster, _, action = pattern_id.partition(":")
    if not is_pattern(pattern_id):
        raise ValueError(f"pattern_id must be an id that a pattern has, was {pattern_id[:64]!r}")
    return cluster, action


def encode(what: Struct) -> bytes:
    """Return it as it stands in the store."""
    return FORMAT + _encode(what)


def decode(value: bytes, kind: type, name: str) -> Any:
    """Return what stands in the store so; `name` is for the error."""
    return decoded(value, _DECODERS[kind], name)


class Update:
    """What one change of the shelf writes, all or nothing."""

    def __init__(self, head: Head, version: int, known: int) -> None:
        self.head = head
        self.version = version
        self.known = max(known, head.known)
        """From when on what is written is known: never before what was written earlier."""
        self.changes: list[Change] = []
        self.scopes: dict[str, Scope] = {}
        self.moved: list[Cluster] = []
        self.gone: list[Cluster] = []

    def put(self, namespace: tuple[str, ...], key: bytes, value: bytes, *, is_new: bool = False) -> None:
        self.changes.append(Change("put", namespace, key, value, if_version=0 if is_new else None, own=True))

    def delete(self, namespace: tuple[str, ...], key: bytes) -> None:
        self.changes.append(Change("delete", namespace, key, own=True))

    def cluster(self, new: Cluster, old: Cluster | None, working: Working | None) -> None:
        """Replace a cluster; the old one can still be seen as of then."""
        new.known = self.known
        if old is not None:
            if old.known < new.known:
                self.put(PATTERNS, past_key(old.id, old.known), encode(old))
            self.head.cells -= len(old.cells)
            self.head.clusters -= not old.is_gone
        self.head.cells += len(new.cells)
        self.head.clusters += not new.is_gone
        self.put(PATTERNS, _key("k", new.id), encode(new))
        if new.is_gone:
            self.delete(DISTILLING, _key("w", new.id))
            self.gone.append(new)
        elif working is not None:
            if working.away > _AWAY:
                working.away = 0.0
                self.moved.append(new)
            self.put(DISTILLING, _key("w", new.id), encode(working))

    def scope(self, scope: Scope) -> None:
        self.scopes[scope.id] = scope
        self.put(DISTILLING, _key("s", scope.id), encode(scope))


class Shelf:
    """The patterns of a store, as they are kept."""

    def __init__(self, engine: Callable[[], LmdbEngine], vectors: Callable[[], VectorStore], *, durable: bool) -> None:
        self.engine = engine
        self.vectors = vectors
        self._durable = durable

    # -- changing

    def update(self, known: int | None = None) -> Update:
        """Begin a change: nothing is written before :meth:`commit`."""
        engine = self.engine()
        if engine.read_only:
            raise ReadOnlyError("this store was opened with read_only=True; open it for writing")
        record = engine.get_latest(DISTILLING, _HEAD)
        head, version = Head(), 0
        if record is not None and record.value is not None:
            head, version = decode(record.value, Head, "the head of the patterns"), record.version
        return Update(head, version, engine.now() if known is None else known)

    def commit(self, update: Update) -> int:
        """Write a change; return its number.

        Raises
        ------
        VersionConflict
            Somebody has changed the patterns since it was begun. Nothing was written.
        """
        head = update.head
        head.changes += 1
        head.known = update.known
        first = Change("put", DISTILLING, _HEAD, encode(head), if_version=update.version, own=True)
        self._place(update.moved, update.known)
        try:
            outcomes = self.engine().commit([first, *update.changes], self._durable)
        except VersionConflict:  # nor are clusters where they were to be
            latest = self.latest([each.id for each in update.moved]).values()
            self._place([each for each in latest if not each.is_gone], update.known)
            raise
        for each in update.gone:
            self.vectors().delete(Situations(each.dimension, PATTERNS), each.id, ts_known=update.known)
        return outcomes[0].version

    def _place(self, clusters: Sequence[Cluster], known: int) -> None:
        """Let clusters be found where they are now, before they are there: who finds one looks at its record."""
        import numpy as np

        by_dimension: dict[int, dict[str, Cluster]] = {}
        for each in clusters:
            by_dimension.setdefault(each.dimension, {})[each.id] = each
        vectors = self.vectors()
        for dimension, named in by_dimension.items():
            centres = np.stack([np.frombuffer(each.centroid, "<f4") for each in named.values()])
            facts = [{"task": each.task} for each in named.values()]
            labels = Situations(dimension, PATTERNS)
            vectors.add_many(labels, [*named], centres, facts, ts_event=known, ts_known=known)

    # -- reading

    def state(self) -> bytes | None:
        """Return what is another one after each change."""
        return self.engine().get(DISTILLING, _HEAD)

    def head(self) -> Head:
        """Return what all have in common."""
        value = self.state()
        return Head() if value is None else decode(value, Head, "the head of the patterns")

    def scope(self, scope: str) -> Scope | None:
        value = self.engine().get(DISTILLING, _key("s", scope))
        return None if value is None else decode(value, Scope, f"the scope {scope}")

    def working(self, clusters: Sequence[str]) -> dict[str, Working]:
        """Return what learning goes on from, of clusters that are there."""
        keys = [(each, _key("w", each)) for each in clusters]
        found = self.engine().fetch(DISTILLING, keys)
        return {each: decode(value, Working, f"what cluster {each} learns from") for each, value in found.items()}

    def worked(self, clusters: Sequence[str]) -> dict[str, Working]:
        """Return what learning goes on from, of clusters that were there when they were read.

        Raises
        ------
        VersionConflict
            One has gone since.
        """
        found = self.working(clusters)
        if len(found) < len(clusters):
            raise VersionConflict("others changed the patterns meanwhile", expected=len(clusters), found=len(found))
        return found

    def latest(self, clusters: Iterable[str]) -> dict[str, Cluster]:
        """Return clusters as they are; some may be gone."""
        found = self.engine().fetch(PATTERNS, [(each, _key("k", each)) for each in clusters])
        return {each: decode(value, Cluster, f"cluster {each}") for each, value in found.items()}

    def seen(self, clusters: Iterable[str], limit: int) -> dict[str, Cluster]:
        """Return clusters as they were known by an instant, but those that were not, or gone."""
        found = {}
        for name, latest in self.latest(clusters).items():
            each = latest if latest.known <= limit else self._before(name, limit)
            if each is not None and not each.is_gone:
                found[name] = each
        return found

    def all(self, limit: int, scope: str = "") -> Iterator[Cluster]:
        """Yield the clusters of a scope ("": of all), as they were known by an instant, in the order of their ids."""
        for key, value in self.engine().scan(PATTERNS, _key("k", scope), b"", None):
            latest: Cluster | None = decode(value, Cluster, f"cluster {key[1:]}")
            assert latest is not None
            each = latest if latest.known <= limit else self._before(latest.id, limit)
            if each is not None and not each.is_gone:
                yield each

    def everything(self) -> Iterator[Cluster]:
        """Yield all clusters as they are, those that are gone, too."""
        for key, value in self.engine().scan(PATTERNS, b"k", b"", None):
            yield decode(value, Cluster, f"cluster {key[1:]}")

    def history(self, cluster: str) -> Iterator[Cluster]:
        """Yield what a cluster was before, the latest first."""
        for _, value in self.engine().scan(PATTERNS, _key("v", cluster), b"", None):
            yield decode(value, Cluster, f"cluster {cluster}")

    def _before(self, cluster: str, limit: int) -> Cluster | None:
        stem = _key("v", cluster)
        for _, value in self.engine().scan(PATTERNS, stem, stem + newest_first(limit).encode(), 1, page=1):
            found: Cluster = decode(value, Cluster, f"cluster {cluster}")
            return found
        return None


def copied(cluster: Cluster) -> Cluster:
    """Return a cluster that may be changed."""
    return replace(cluster, cells=[replace(each) for each in cluster.cells])


def feedback_key(trajectory_id: str, pattern_id: str) -> bytes:
    """Return where it stands that somebody said what a pattern was worth to a trajectory."""
    return f"f{trajectory_id}{hashed(pattern_id)}".encode()


def _key(kind: str, name: str) -> bytes:
    return f"{kind}{name}".encode()


def past_key(cluster: str, known: int) -> bytes:
    """Return where a cluster stands that another has replaced."""
    return f"v{cluster}{newest_first(known)}".encode()
