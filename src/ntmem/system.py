"""The facade: checks the form of arguments, opens and wires; what the store does is in the tiers."""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Self

from msgspec.structs import replace

from ._core.direct import DirectCalls
from ._core.fill import Fill
from .clock import SimulatedClock
from .config import Durability, MemoryConfig
from .coordination.agents import Agents, Registered
from .coordination.bus import BusState, SharedBus, Topic, TypedTopic
from .coordination.consensus import Consensus
from .coordination.locks import Lock
from .coordination.protocols import ConsensusResult
from .coordination.pubsub import Callback, Messages, Overflow
from .coordination.shared import SharedLocks
from .coordination.stream import DurableMessages
from .coordination.tokens import LockToken
from .coordination.topics import topic_of
from .errors import ReadOnlyError, StorageError, StoreClosed
from .gauges import Gauges, gauges_of
from .instants import LATEST, NS, AsOf, Duration, Instant, duration_ns, instant_ns, require_bool, require_int
from .namespace import encode_key, labels_of
from .records import Change, Fence, FenceLike, Policy, Record, fence_of
from .stats import MemoryStats, VerifyReport
from .tiers.bounds import Bound, bound_key, set_bound
from .tiers.budget import accounts, plan
from .tiers.cold import ColdStore
from .tiers.engine import LmdbEngine
from .tiers.engines import open_engine
from .tiers.fills import Order, commit_fills
from .tiers.guards import check_free
from .tiers.log import LogEngine
from .tiers.opening import ClockChoice
from .tiers.outcome import Outcome
from .tiers.positions import Positions
from .tiers.reader import QuietEngine
from .tiers.sharing import detach
from .tiers.storecache import StoreCache
from .tiers.upkeep import Tasks, Upkeep, UpkeepReport
from .tiers.verification import verify_directory, verify_store
from .transaction import Transaction, make_change
from .twins import twin
from .values import Codec, codec_named
from .view import NamespaceView
from .watching import Changes

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

    from .agentdb.remote import RemoteVectors
    from .coordination.sessionlist import SessionInfo
    from .coordination.sessions import Session
    from .embedding import EmbeddingProvider
    from .reasoningbank import Distiller, Judge, ReasoningBank, Trajectory, TrajectoryTracker
    from .scrubbing import Scrubber
    from .tiers.backup import BackupReport
    from .tiers.compacting import CompactReport
    from .tiers.incoming import ImportReport
    from .tiers.observations import Observations
    from .tiers.outgoing import ExportReport
    from .tiers.vectors import VectorStore

AnyNamespace = str | tuple[str, ...]


class MemorySystem(DirectCalls):
    """A store, shared by every thread and process that opens the same directory.

    Made by :func:`ntmem.open` or from a :class:`MemoryConfig`; a context manager. Opening a directory twice in a
    process is fine: both share one engine. After ``fork`` the child opens the store again; pickled, a store is its
    path and configuration, so it travels to other processes as an argument.

    Parameters
    ----------
    config : MemoryConfig, optional
        By default the store in ``./data/memory``.
    clock : SimulatedClock or "system", optional
        The clock of a new store; of an existing one, what it must have. None takes the one it has.
    agent_id : str, optional
        Who writes: kept with every record. By default ``pid-N``.
    read_only : bool
        Refuse all writes; the store must exist.
    embedder : EmbeddingProvider, optional
        Makes vectors of text that is given to ``memory.vectors`` in place of one; it does not travel with the store.

    Raises
    ------
    StorageError
        The directory cannot be used; the clock is another one.
    CorruptionError
        The data file is damaged.
    SchemaError
        The store was written by a newer version of ntmem.

    Notes
    -----
    **Thread safety**: all methods may be called from any thread, at the same time. **Complexity**: O(1) a key that is
    in shared memory, O(log n) of n any other. With the engine ``lmdb`` a write is one synced transaction, a read one
    snapshot.
    """

    def __init__(
        self,
        config: MemoryConfig | None = None,
        *,
        clock: ClockChoice = None,
        agent_id: str | None = None,
        read_only: bool = False,
        embedder: EmbeddingProvider | None = None,
    ) -> None:
        config = MemoryConfig() if config is None else config
        if not isinstance(config, MemoryConfig):
            raise TypeError(f"config must be a MemoryConfig, was {type(config).__name__}")
        if not (clock is None or clock == "system" or isinstance(clock, SimulatedClock)):
            raise TypeError(f"clock must be a SimulatedClock, 'system' or None, was {clock!r}")
        if embedder is not None:
            from .embedding import EmbeddingProvider

            if not isinstance(embedder, EmbeddingProvider):
                raise TypeError(
                    f"embedder must have dimension, embed() and embed_batch(), was {type(embedder).__name__}; see "
                    "ntmem.FunctionEmbedder"
                )
        path = None if config.storage_path is None else os.path.abspath(config.storage_path)
        if path is None and read_only:
            raise ValueError("a private store (path=None) starts empty, so read_only makes no sense; pass a path")
        self.config = replace(config, storage_path=path)
        self.agent_id = agent_id
        self.read_only = read_only
        writer = _writer(agent_id)
        self._plan = plan(self.config)
        engine = open_engine(self.config, self._plan, clock, writer, read_only=read_only)
        unbind = clock.attach(engine) if isinstance(clock, SimulatedClock) else None
        self._live: LmdbEngine | None = engine
        self._use(engine.direct)
        self._release = weakref.finalize(self, _release, engine.store, unbind)
        self._writer = writer
        self._registered = Registered()
        self._bus = BusState()
        self._seen: Observations | None = None
        self._vectors: VectorStore | None = None
        self._remote: RemoteVectors | None = None
        self._trajectories: TrajectoryTracker | None = None
        self._bank: ReasoningBank | None = None
        self._judge: Judge | None = None
        self._scrubber: Scrubber | bool = config.scrub
        self._making = threading.Lock()
        self.embedder = embedder
        self._upkeep = _upkeep_of(self)

    # -- life

    @property
    def path(self) -> str | None:
        """The directory of the store; None for a private one."""
        return None if self.config.storage_path is None else os.fspath(self.config.storage_path)

    @property
    def closed(self) -> bool:
        """Whether :meth:`close` was called."""
        return self._live is None

    def close(self) -> None:
        """Flush and close; running calls of other threads end first. Closing twice is fine."""
        if self._bank is not None:
            self._bank.stop()
        live, self._live = self._live, None
        self._use(None)
        if live is not None:
            live.forget()
        self._upkeep.close()
        self._bus.forget()
        if self._seen is not None:
            self._seen.close()
            self._seen = None
        if self._vectors is not None:
            self._vectors.close()
            self._vectors = None
        if self._remote is not None:
            self._remote.close()
            self._remote = None
        self._release()

    aclose = twin(close)

    def __enter__(self) -> Self:
        self._engine()
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def __reduce__(self) -> tuple[Any, ...]:
        if self.path is None:
            raise TypeError("a private store (path=None) cannot be pickled: it lives in one process; give it a path")
        return _reopen, (self.config, self.agent_id, self.read_only)

    def __repr__(self) -> str:
        where = "private" if self.path is None else self.path
        return f"<MemorySystem {where}{' closed' if self.closed else ''}>"

    def _engine(self) -> LmdbEngine:
        if self._live is None:
            raise StoreClosed("this store was closed; open it again")
        engine = self._live.current()
        if engine is not self._live:  # a reader, since somebody writes
            self._use(engine.direct)
        return engine

    # -- one key

    # `put` and `get` are those of DirectCalls, which come here with what is not plain.

    def _put(
        self,
        namespace: AnyNamespace,
        key: str,
        value: bytes,
        ttl: Duration | None,
        if_version: int | None,
        fence: FenceLike | None,
        ts_event: Instant | None,
        ts_known: Instant | None,
        durable: bool | None,
    ) -> int:
        lease = _fence(fence)
        plain = ttl is None and if_version is None and ts_event is None and ts_known is None and durable is None
        if plain and lease is not None and (version := self._put_fenced(namespace, key, value, lease)):
            return version
        change = make_change(
            "put", namespace, key, value, ttl=ttl, if_version=if_version, ts_event=ts_event, ts_known=ts_known
        )
        return self._engine().commit([change], self._durable(durable), lease)[0].version

    def _get(self, namespace: AnyNamespace, key: str, default: Any) -> Any:
        value = self._engine().get(labels_of(namespace), encode_key(key))
        return default if value is None else value

    def add(
        self,
        namespace: AnyNamespace,
        key: str,
        value: bytes,
        *,
        ttl: Duration | None = None,
        fence: FenceLike | None = None,
        ts_event: Instant | None = None,
        ts_known: Instant | None = None,
        durable: bool | None = None,
    ) -> bool:
        """Set the value of a key that does not exist; return whether it did not. Arguments as of :meth:`put`."""
        change = make_change("add", namespace, key, value, ttl=ttl, ts_event=ts_event, ts_known=ts_known)
        return self._engine().commit([change], self._durable(durable), _fence(fence))[0].version > 0

    def incr(self, namespace: AnyNamespace, key: str, delta: int = 1, *, fence: FenceLike | None = None) -> int:
        """Add `delta` to a number kept as decimal digits (missing: 0) and return it; its time to live stays.

        Raises
        ------
        SerializationError
            The value is not a number, or would leave 64 bits.
        """
        change = make_change("incr", namespace, key, delta=delta)
        return self._engine().commit([change], self._durable(None), _fence(fence))[0].number

    def delete(
        self, namespace: AnyNamespace, key: str, *, if_version: int | None = None, fence: FenceLike | None = None
    ) -> bool:
        """Delete a key; return whether it existed. In a namespace with history its past is kept."""
        change = make_change("delete", namespace, key, if_version=if_version)
        return self._engine().commit([change], self._durable(None), _fence(fence))[0].version > 0

    def exists(self, namespace: AnyNamespace, key: str) -> bool:
        """Whether a key exists and is not expired."""
        return self._engine().get(labels_of(namespace), encode_key(key)) is not None

    def get_record(self, namespace: AnyNamespace, key: str, *, as_of: AsOf = None) -> Record | None:
        """Return a value with its version, times and writer; None if there is none.

        Parameters
        ----------
        as_of : instant, optional
            What was known and not expired at that time: needs a namespace with ``retain(history=True)``. None means now
            by the store's clock; :data:`ntmem.LATEST` the newest version, known yet or not.

        Raises
        ------
        HistoryNotRetained
            What was known at `as_of` is not kept.
        """
        labels, raw = labels_of(namespace), encode_key(key)
        if as_of is LATEST:
            return self._engine().get_latest(labels, raw)
        return self._engine().get_record(labels, raw, None if as_of is None else instant_ns(as_of, "as_of"))

    def history(self, namespace: AnyNamespace, key: str, *, limit: int = 20) -> list[Record]:
        """Return the versions of a key known by now, newest first; a deletion has the value None.

        Raises :class:`HistoryNotRetained` unless ``retain(namespace, history=True)`` was called before.
        """
        require_int(limit, "limit", 1)
        return self._engine().history(labels_of(namespace), encode_key(key), limit)

    # -- many keys

    def get_many(self, namespace: AnyNamespace, keys: Iterable[str]) -> dict[str, bytes]:
        """Return the values of the keys that exist, all as of one moment."""
        if isinstance(keys, str):
            raise TypeError("keys must be an iterable of str, was one str; use get(), or [key]")
        return self._engine().get_many(labels_of(namespace), [(key, encode_key(key)) for key in keys])

    aget_many = twin(get_many)

    def put_many(
        self,
        namespace: AnyNamespace,
        mapping: Mapping[str, bytes],
        *,
        ttl: Duration | None = None,
        fence: FenceLike | None = None,
        durable: bool | None = None,
    ) -> int:
        """Set many keys, all or nothing; return the version of the last (of the store, if there are none)."""
        durably = self._durable(durable)
        if not isinstance(mapping, Mapping):
            raise TypeError(f"mapping must be a mapping of str to bytes, was {type(mapping).__name__}; use dict(...)")
        if ttl is None and durable is None and fence is None and (version := self._put_plain(namespace, mapping)):
            return version
        changes = [make_change("put", namespace, key, value, ttl=ttl) for key, value in mapping.items()]
        if not changes:
            labels_of(namespace)
            return self._engine().last_version()
        return self._engine().commit(changes, durably, _fence(fence))[-1].version

    def transaction(self, fence: FenceLike | None = None) -> Transaction:
        """Return a context in which changes are collected; leaving it commits all of them or none.

        With a `fence` they are committed only if that lease is current then.

        Examples
        --------
        >>> with ntmem.open() as memory:
        ...     with memory.transaction() as t:
        ...         t.put("desk", "target", b"3")
        ...         t.delete("desk", "draft")
        ...     memory.get("desk", "target")
        b'3'
        """
        self._engine()
        return Transaction(self, _fence(fence))

    def scan(
        self, namespace: AnyNamespace, *, prefix: str = "", start: str | None = None, limit: int | None = None
    ) -> Iterator[tuple[str, bytes]]:
        """Yield (key, value) sorted by key, each key at most once; children namespaces are not entered.

        Not a snapshot: every value is as new as the start of the scan or newer. Keys sort by their UTF-8 bytes,
        which is how Python sorts str.

        Parameters
        ----------
        prefix : str
            Only keys that begin with it.
        start : str, optional
            Only keys at or behind it.
        limit : int, optional
            At most so many.
        """
        labels = labels_of(namespace)
        if limit is not None:
            require_int(limit, "limit", 0)
        first = b"" if start is None or start == "" else encode_key(start)
        stem = b"" if prefix == "" else encode_key(prefix)
        self._engine()
        return self._scan(labels, stem, first, limit)

    def _scan(
        self, labels: tuple[str, ...], prefix: bytes, start: bytes, limit: int | None
    ) -> Iterator[tuple[str, bytes]]:
        # A generator of the handle's, so that a scan keeps the handle, and with it the store, open.
        if limit != 0:
            yield from self._engine().scan(labels, prefix, start, limit)

    def watch(self, namespace: AnyNamespace, *, since: int | None = None, children: bool = True) -> Changes:
        """Follow the changes that every process commits in a namespace, this one's own included.

        To keep a copy of a namespace up to date, watch it first and read it then: nothing falls in between, and what
        comes twice has a version that the copy has already.

        Parameters
        ----------
        since : int, optional
            Begin behind this version instead of with the next change. If the log does not go back that far any more
            (it is a ring of ``log_bytes``), a change of kind ``"lagged"`` says so, and the oldest it has follow.
        children : bool
            Whether namespaces below it are followed as well; every change has its own namespace.

        Returns
        -------
        Subscription
            Of :class:`~ntmem.watching.WatchedChange`, in the order of their commits, each at most once.

        Raises
        ------
        StorageError
            The store is open with the engine "lmdb", which keeps no log.
        ValueError
            `since` was not handed out yet.

        Notes
        -----
        A change whose `ts_known` is ahead of the store's clock is withheld until the clock is there. What was loaded
        ahead at or before `since` (without it: before this call) and becomes known later is not delivered;
        :attr:`Subscription.resume_from` takes that into account.
        **Thread safety**: any thread. **Complexity**: O(1).

        Examples
        --------
        >>> with ntmem.open() as memory:
        ...     version = memory.put("desk", "target", b"3")
        ...     with memory.watch("desk", since=version) as changes:
        ...         memory.delete("desk", "target"), changes.recv().kind
        (True, 'delete')
        """
        labels = labels_of(namespace)
        require_bool(children, "children")
        if since is not None:
            require_int(since, "since", 0, 2**64 - 1)
        return Changes(self._engine, labels, since=since, children=children)

    def commit(self, changes: Sequence[Change], fence: Fence | None = None) -> list[Outcome]:
        """Apply checked changes, all or none. Called by transactions."""
        return self._engine().commit(changes, self._durable(None), fence)

    def commit_fills(
        self, changes: list[Change], orders: Sequence[Order], fence: Fence | None
    ) -> tuple[list[Outcome], list[Fill]]:
        """Apply checked changes and book fills, all or none. Called by transactions."""
        return commit_fills(self.positions, orders, changes, lambda group: self.commit(group, fence))

    def _durable(self, durable: bool | None) -> bool:
        if durable is None:
            return self.config.durability == "disk"
        require_bool(durable, "durable")
        return durable

    # -- namespaces

    def namespace(self, *labels: str, codec: str | Codec = "msgpack") -> NamespaceView:
        """Return a mapping of one namespace whose values are plain objects.

        Parameters
        ----------
        *labels : str
            ``namespace("swarm", "agent_1")``; a single string is split at ``/``.
        codec : str or Codec
            ``"msgpack"`` (what went in comes back, or is refused; never pickle), ``"bytes"``, or an object with
            ``encode`` and ``decode``.
        """
        namespace = labels_of(labels[0] if len(labels) == 1 else labels)
        self._engine()
        return NamespaceView(self, namespace, codec_named(codec))

    def namespaces(self, prefix: AnyNamespace = ()) -> list[tuple[str, ...]]:
        """Return the namespaces at or below `prefix` that have keys, sorted. O(namespaces below)."""
        return self._engine().namespaces(labels_of(prefix) if prefix else ())

    def delete_namespace(self, namespace: AnyNamespace) -> int:
        """Delete all keys of a namespace and its children, with their history; return how many there were."""
        labels = labels_of(namespace)
        check_free(labels)
        return self._engine().delete_namespace(labels)

    adelete_namespace = twin(delete_namespace)

    def retain(
        self,
        namespace: AnyNamespace,
        *,
        history: bool = False,
        max_age: Duration | None = None,
        max_bytes: int | None = None,
        max_entries: int | None = None,
    ) -> None:
        """Set what is kept of a namespace (of this one, not of its children); each call says all of it anew.

        Parameters
        ----------
        history : bool
            Keep superseded and deleted versions from now on. False drops those that were kept.
        max_age : float or timedelta, optional
            With history: drop a key's versions once they were superseded longer ago; looked at when the key is written.
            Without: upkeep deletes keys whose value was known longer ago, and drops such observations.
        max_bytes : int, optional
            With history: bound the namespace's history; past it the oldest versions are dropped. Without: bound its
            keys and values, and its observations; past it upkeep deletes those written first.
        max_entries : int, optional
            Bound the number of keys, and of rows of observations; without history.

        Notes
        -----
        Bounds without history are enforced by upkeep (:meth:`upkeep`), in the background, not by reads and writes. What
        was written under a lock is not deleted by them.
        """
        labels = labels_of(namespace)
        check_free(labels)
        require_bool(history, "history")
        if max_bytes is not None:
            require_int(max_bytes, "max_bytes", 1)
        if max_entries is not None:
            require_int(max_entries, "max_entries", 1)
            if history:
                raise ValueError("max_entries bounds keys, not their history; pass max_age or max_bytes")
        age = None if max_age is None else duration_ns(max_age, "max_age")
        engine = self._engine()
        engine.retain(labels, Policy(history, *((age, max_bytes) if history else ())))
        set_bound(engine, bound_key(labels), Bound() if history else Bound(age, max_bytes, max_entries))

    def upkeep(self) -> UpkeepReport:
        """Do one round of upkeep now, without rests, and return what it did; it goes on by itself in the background.

        It gives back the space of what has expired, enforces bounds (:meth:`retain`), trims durable messages
        (``memory.bus.retain``), compresses observations, and consolidates patterns once a day. O(what there is).

        Examples
        --------
        >>> with ntmem.open() as memory:
        ...     for number in range(5):
        ...         _ = memory.put("ticks", f"t{number}", b"1")
        ...     memory.retain("ticks", max_entries=3)
        ...     memory.upkeep().records, [key for key, _ in memory.scan("ticks")]
        (2, ['t2', 't3', 't4'])
        """
        if self._engine().read_only:
            raise ReadOnlyError("this store was opened with read_only=True; open it for writing")
        return self._upkeep.now()

    # -- messages

    @property
    def bus(self) -> SharedBus:
        """The bus of the store; :meth:`publish` and :meth:`subscribe` are its calls."""
        return SharedBus(self._engine, self._bus, waits_for_disk=self.config.durability == "disk")

    def publish(self, topic: Topic, payload: bytes, *, durable: bool = False, fence: FenceLike | None = None) -> int:
        """Publish a message to all threads and processes that have subscribed to its topic; return its sequence.

        Parameters
        ----------
        topic : str or tuple of str
            Levels, as a str separated by ``/``: ``"px/BTC-USDT"``, ``("px", "BTC/USDT")``.
        payload : bytes-like
            At most a quarter of ``bus_bytes``.
        durable : bool
            Write it to the store as well: subscriptions with ``durable=`` get it even if they come later, and whoever
            dies. What is returned is its number there; others may miss it, as any message.
        fence : Lock, LockToken or Fence, optional
            Publish only while this lease is current. For a durable message that is certain; of others it is looked at
            before.

        Raises
        ------
        ValueError
            The topic is none, or the payload is too large.
        StaleFence
            The lease is over.
        CoordinationError
            A publisher was stopped in the middle of a message, or there is no shared memory.

        Notes
        -----
        **Complexity**: O(bytes), and a call of the system if somebody waits. Subscribers do not delay it.

        Examples
        --------
        >>> with ntmem.open() as memory, memory.subscribe("px/*") as prices:
        ...     _ = memory.publish("px/BTCUSDT", b"61800.3")
        ...     message = prices.recv(timeout=1)
        ...     message.topic, message.payload
        ('px/BTCUSDT', b'61800.3')
        """
        known = self._bus.publisher
        if durable or fence is not None or known is None or known.engine is not self._live:
            return self.bus.publish(topic, payload, durable=durable, fence=_fence(fence))
        return known.publish(topic_of(topic), payload)

    def publish_many(self, topic: Topic, payloads: Iterable[bytes]) -> int:
        """Publish messages of one topic, in order; return the sequence of the last. Faster than one by one."""
        return self.bus.publish_many(topic, payloads)

    def subscribe(
        self,
        pattern: Topic,
        *,
        since: int | None = None,
        overflow: Overflow = "drop_oldest",
        capacity: int | None = None,
        callback: Callback | None = None,
        durable: bool | str = False,
    ) -> Messages | DurableMessages:
        """Follow the messages of topics, from now on.

        Parameters
        ----------
        pattern : str or tuple of str
            A topic; in it ``*`` is any one level, and ``>`` as the last one any one or more.
        since : int, optional
            Begin behind this sequence, as far back as the ring goes. Of durable messages: behind this number, 0: all.
        overflow : {"drop_oldest", "error"}
            What becomes of who is so slow that messages were overwritten: the next one says how many were missed
            (``lagged``), or that is raised first (:class:`Lagged`).
        capacity : int, optional
            Drop the oldest when more messages than that wait; by default what the ring holds.
        callback : callable, optional
            Called with each message, in a thread of its own.
        durable : bool or str
            True: only durable messages, none of which is missed. A name: begin behind what was acknowledged under it
            (``ack``), the first time with the oldest message; each comes at least once.

        Returns
        -------
        Subscription
            Of :class:`Message`: ``recv(timeout)``, ``recv_many``, iteration, ``arecv`` and asynchronous iteration.
        """
        return self.bus.subscribe(
            pattern, since=since, overflow=overflow, capacity=capacity, callback=callback, durable=durable
        )

    def topic(self, name: Topic, *, codec: str | Codec = "msgpack") -> TypedTopic:
        """Return a topic whose payloads are plain objects."""
        return TypedTopic(self.bus, name, codec_named(codec))

    # -- coordination

    @property
    def locks(self) -> SharedLocks:
        """The locks of the store: who holds what, until when."""
        return SharedLocks(self._engine, self._writer)  # made anew: kept, it would keep this handle alive

    @property
    def agents(self) -> Agents:
        """The agents of the store, and whether they live."""
        return Agents(self, self.locks, self._engine, self._registered)

    @property
    def consensus(self) -> Consensus:
        """The votes of the store: who may vote, what is proposed, what was decided. Keep it at hand to vote often."""
        return Consensus(self._engine, self.watch, self._announce, durable=self._durable(None))

    def _announce(self, result: ConsensusResult) -> None:
        """Publish a decision under ``ntmem/decisions``, where there is a bus."""
        if isinstance(self._engine(), LogEngine):
            self.publish(("ntmem", "decisions"), codec_named("msgpack").encode(result._asdict()))

    def lock(
        self,
        resource: str,
        *,
        timeout: Duration | None = None,
        ttl: Duration = 30.0,
        reentrant: bool = False,
        renew: bool = False,
    ) -> Lock:
        """Return a lock on `resource`, between all threads and processes that have the store open; not acquired yet.

        Parameters
        ----------
        resource : str
            Any name, at most 255 bytes of UTF-8.
        timeout : float or timedelta, optional
            Seconds that ``with`` waits for it; None: for ever.
        ttl : float or timedelta
            Seconds after which it ends by itself: whoever is late has lost it, and what it writes under it is refused.
        reentrant : bool
            Whether who has it may acquire it again.
        renew : bool
            Let a thread renew it as long as it is held: then it ends with its process, or when that is stopped.

        Examples
        --------
        >>> with ntmem.open() as memory, memory.lock("BTCUSDT", timeout=0.5) as lock:
        ...     version = memory.put("desk", "target", b"3", fence=lock)
        ...     memory.get_record("desk", "target").fence
        Fence(resource='BTCUSDT', number=1)
        """
        return Lock(self.locks, resource, timeout=timeout, ttl=ttl, reentrant=reentrant, renew=renew)

    def acquire_lock(self, resource: str, timeout: Duration | None = None, *, ttl: Duration = 30.0) -> LockToken:
        """Acquire a lock and return the token by which :meth:`release_lock` ends it, in any process.

        Raises :class:`LockTimeout` if it is not granted in `timeout` seconds (None: waits for ever).
        """
        lock = self.lock(resource, timeout=timeout, ttl=ttl)
        if lock.acquire() and (token := lock.token) is not None:
            return token
        raise lock.timed_out()

    async def aacquire_lock(self, resource: str, timeout: Duration | None = None, *, ttl: Duration = 30.0) -> LockToken:
        """Do what :meth:`acquire_lock` does without holding up the event loop."""
        lock = self.lock(resource, timeout=timeout, ttl=ttl)
        if await lock.aacquire() and (token := lock.token) is not None:
            return token
        raise lock.timed_out()

    def release_lock(self, token: str) -> bool:
        """End the lease of a token; return whether it was current. A stale token ends nothing."""
        return self.locks.release(token)

    # -- sessions

    def session(
        self,
        name: str,
        *,
        agent_id: str | None = None,
        account: str | None = None,
        strategy: str | None = None,
        timeout: Duration | None = None,
        ttl: Duration = 10.0,
        codec: str | Codec = "msgpack",
    ) -> Session:
        """Return the session of a name: what it holds can be read; ``with`` it is held, by one at a time, and written.

        Parameters
        ----------
        name : str
            At most 247 bytes of UTF-8.
        agent_id : str, optional
            Whose it is; by default that of this handle.
        account, strategy : str, optional
            Under which it trades, from its start on; by default ``""`` and its name.
        timeout : float or timedelta, optional
            Seconds that ``with`` waits while another holds it; None: for ever.
        ttl : float or timedelta
            Seconds after which a holder that was stopped has lost it; one that died has lost it at once.
        codec : str or Codec
            As of :meth:`namespace`.
        """
        from .coordination.sessions import Session

        return Session(
            *(self, self._engine, self._bus.numbers, name),
            agent_id=agent_id,
            account=account,
            strategy=strategy,
            timeout=timeout,
            ttl=ttl,
            codec=codec_named(codec),
            durable=self._durable(None),
        )

    def sessions(self) -> list[SessionInfo]:
        """Return the sessions of the store by name: who holds them, when they were seen last. O(keys of all)."""
        from .coordination.sessionlist import list_sessions

        return list_sessions(self._engine(), self.locks)

    # -- positions

    @property
    def positions(self) -> Positions:
        """The position book of the store; keep it at hand: ``p = memory.positions``."""
        engine = self._engine()
        if not isinstance(engine, LogEngine | QuietEngine):
            raise StorageError(
                f"the position book is in shared memory, which this store does not have (engine={engine.name!r}); "
                "open it with engine='shared'"
            )
        return Positions(engine, self._engine)

    # -- observations

    @property
    def observations(self) -> Observations:
        """What was seen, by namespace and symbol; keep it at hand: ``o = memory.observations``."""
        from .tiers.observations import Observations

        engine = self._engine()
        if self._seen is None:
            distills, most = self.config.enable_compression, self._plan.columns
            self._seen = Observations(engine, self._engine, distills=distills, max_bytes=most)
        return self._seen

    # -- vectors

    @property
    def vectors(self) -> VectorStore:
        """Collections of vectors, searched by similarity and metadata; keep it at hand: ``v = memory.vectors``.

        With ``agentdb_url`` they are those of that server, a :class:`RemoteVectors`.
        """
        if self.config.agentdb_url is None:
            return self._own_vectors()
        engine, found = self._engine(), self._remote
        if found is None:
            from .agentdb.remote import remote_of

            with self._making:
                found = self._remote = self._remote or remote_of(self.config, engine, self._engine, self.embedder)
        return found

    def _own_vectors(self) -> VectorStore:
        """Return the vectors that are in the store."""
        from .tiers.collection import Limits
        from .tiers.vectors import VectorStore

        engine = self._engine()
        found = self._vectors
        if found is None:
            limits = Limits(self._plan.vectors, self.config.graph_share)
            with self._making:
                found = self._vectors = self._vectors or VectorStore(
                    engine, self._engine, limits=limits, embedder=self.embedder
                )
        return found

    def search_similar(
        self, namespace: AnyNamespace, query_embedding: ArrayLike | str, top_k: int
    ) -> list[tuple[str, float]]:
        """Return (id, score) of the vectors of a namespace that are nearest to a query, the best first.

        `top_k` at most, fewer if there are fewer; see :meth:`VectorStore.search` for filters and metadata.
        """
        return self.vectors.search_similar(namespace, query_embedding, top_k)

    asearch_similar = twin(search_similar)

    # -- trajectories

    @property
    def trajectories(self) -> TrajectoryTracker:
        """What agents saw, did and expected, and what came of it; keep it at hand: ``t = memory.trajectories``."""
        self._engine()
        found = self._trajectories
        if found is None:
            from .reasoningbank import TrajectoryTracker

            with self._making:
                found = self._trajectories = self._trajectories or TrajectoryTracker(
                    self._engine, self._own_vectors, durable=self._durable(None), scrubber=lambda: self.scrubber
                )
        return found

    @property
    def bank(self) -> ReasoningBank:
        """Trajectories and what is made of them; keep it at hand: ``b = memory.bank``."""
        trajectories, found = self.trajectories, self._bank
        if found is None:
            from .reasoningbank import ReasoningBank

            with self._making:
                found = self._bank = self._bank or ReasoningBank(
                    trajectories, self._engine, self._own_vectors, lambda: self.judge, lambda: self.embedder
                )
        return found

    @property
    def distiller(self) -> Distiller:
        """What makes patterns of trajectories: its settings, and distilling in the background."""
        return self.bank.distiller

    @property
    def judge(self) -> Judge:
        """What judges trajectories where no other is given, by default a :class:`ScaledJudge`; of this handle alone."""
        if self._judge is None:
            from .reasoningbank import ScaledJudge

            self._judge = ScaledJudge()
        return self._judge

    @judge.setter
    def judge(self, judge: Judge) -> None:
        from .reasoningbank.verdict import require_judge

        self._judge = require_judge(judge)

    @property
    def scrubber(self) -> Scrubber | None:
        """What takes personal data and secrets out of text that the ReasoningBank keeps; None: nothing does.

        By default a :class:`Scrubber`, without one if the store was opened with ``scrub=False``; of this handle alone.
        """
        found = self._scrubber
        if isinstance(found, bool):
            if not found:
                return None
            from .scrubbing import Scrubber

            with self._making:  # nobody's is replaced
                if self._scrubber is True:
                    self._scrubber = Scrubber()
            return self.scrubber
        return found

    @scrubber.setter
    def scrubber(self, scrubber: Scrubber | None) -> None:
        from .scrubbing import Scrubber

        if scrubber is not None and not isinstance(scrubber, Scrubber):
            raise TypeError(f"scrubber must be a Scrubber or None, was {type(scrubber).__name__}")
        with self._making:
            self._scrubber = False if scrubber is None else scrubber

    def track_trajectory(self, trajectory: Trajectory) -> str:
        """Keep a trajectory, and what is added to it from now on; return its id. All of it is kept, or nothing."""
        return self.trajectories.track(trajectory)

    # -- durability, facts

    def flush(self, timeout: float | None = None) -> None:
        """Return when every change acknowledged so far, by any process, is on disk.

        Raises
        ------
        LockTimeout
            It is not after `timeout` seconds.
        DiskFull, MapFull, StorageError
            The disk does not take it. Nothing is lost: it is kept in shared memory, and tried again.
        """
        self._engine().flush(timeout)

    aflush = twin(flush)

    def wait_durable(self, version: int, timeout: float | None = None) -> None:
        """Return when the change with this version is on disk, and with it all before. Errors as of :meth:`flush`.

        Many changes may be on their way at once: put, put, ..., and wait for the last. Raises ``ValueError`` for a
        version that was not handed out yet.
        """
        require_int(version, "version", 0)
        self._engine().wait_durable(version, timeout)

    await_durable = twin(wait_durable)

    def now(self) -> int:
        """Return the store's time, int ns UTC."""
        return self._engine().now()

    @property
    def cache(self) -> StoreCache:
        """The hot tier: what it has, how well it does, and room for values that are in no store."""
        return StoreCache.of(self._engine().store, self._plan.cache)

    def stats(self) -> MemoryStats:
        """Return a snapshot of the store's accounts."""
        engine = self._engine()
        engine.look()
        sizes = engine.store.sizes()
        columns = 0 if self._seen is None else self._seen.nbytes
        own = self._own_vectors()
        vectors, graphs = own.nbytes, own.graph_bytes
        kind, now, ahead = engine.clock_facts()
        return MemoryStats(
            **engine.hot_facts(),
            **engine.lock_facts(),
            operations={name: found.facts() for name, found in engine.operations().items()},
            observation_bytes=columns,
            vector_bytes=vectors,
            graph_bytes=graphs,
            memory=accounts(engine, self._plan, columns=columns, vectors=vectors, graphs=graphs),
            memory_limit=self._plan.total,
            l3_size_bytes=sizes["file"],
            total_trajectories=self.trajectories.count(),
            engine=engine.name,
            l3_entries=sizes["records"],
            l3_history_entries=sizes["history"],
            l3_map_bytes=sizes["map"],
            namespaces=sizes["namespaces"],
            last_version=engine.last_version(),
            flush_lag=engine.flush_lag,
            clock=kind,
            now=now,
            clock_ahead=ahead,
        )

    astats = twin(stats)

    # -- keeping

    def backup(self, path: str | os.PathLike[str]) -> BackupReport:
        """Copy the store, as it is at one moment, into a new directory, while everybody goes on.

        All that was acknowledged before the call, by any process, is in it. :func:`ntmem.restore` makes a store of it.

        Parameters
        ----------
        path : path
            Must not exist; the directory it is in must. It appears when it is whole and on disk.

        Raises
        ------
        StorageError
            There is something of that name already, or it cannot be written.
        DiskFull
            There is no room for it. Nothing is left of it.

        Notes
        -----
        Not in it is what is in shared memory alone: locks, messages that are not durable. While it runs the data file
        may grow by what is written, as pages that it has yet to read are not used again. **Thread safety**: any thread;
        handles with ``read_only=True`` and private stores as well. **Complexity**: O(size of the store).

        Examples
        --------
        >>> with ntmem.open("desk") as memory:
        ...     version = memory.put("desk", "target", b"3")
        ...     memory.backup("desk-monday").last_version == version
        True
        """
        from .tiers.backup import backup

        return backup(self._engine(), path)

    abackup = twin(backup)

    def compact(self) -> CompactReport:
        """Give back what is over, while everybody goes on: expired records, graphs of vectors, live rows.

        Expired records go in small transactions; all collections of vectors are compacted, observations are distilled
        (unless the store was opened with ``enable_compression=False``). Pages become free inside the data file, for
        what is written next; :func:`ntmem.compact` gives them back to the disk, when nobody has the store open.

        Notes
        -----
        **Thread safety**: any thread. **Complexity**: O(expired records), and that of ``vectors.compact`` and
        ``observations.distill``.

        Examples
        --------
        >>> with ntmem.open() as memory:
        ...     version = memory.put("desk", "draft", b"3", ttl=1e-9)
        ...     memory.compact().expired
        1
        """
        from .tiers.compacting import compact_online

        engine = self._engine()
        seen = self.observations if self.config.enable_compression else None
        return compact_online(engine, seen, self._own_vectors())

    def export(
        self,
        path: str | os.PathLike[str],
        *,
        namespace: AnyNamespace | None = None,
        progress: Callable[[int], None] | None = None,
    ) -> ExportReport:
        """Write what the store has, as of one moment, to a file that other programs and :meth:`import_` read.

        Plain records with their past, observations, vectors with theirs, instruments, fills and positions are in it,
        without loss. What has no public form yet is counted in the report's ``not_exported``.

        Parameters
        ----------
        path : path
            Ends in ``.jsonl``, ``.jsonl.gz`` or ``.parquet`` (which needs the extra ``arrow``). A file of that name is
            replaced when the new one is whole and on disk.
        namespace : tuple of str or str, optional
            Only what is in it and below it; then without positions.
        progress : callable, optional
            Called now and then with the number of documents that are written. Not to use the store: it is being read.

        Raises
        ------
        ValueError
            The name ends in something else.
        DiskFull, StorageError
            The file cannot be written. What was there of that name is there still.

        Notes
        -----
        Writers go on; meanwhile the data file may grow by what they write. **Thread safety**: any thread.
        **Complexity**: O(size of the store), in memory for a block of observations and the ids of one position's fills.

        Examples
        --------
        >>> with ntmem.open() as memory:
        ...     version = memory.put("desk", "target", b"3")
        ...     memory.export("desk.jsonl").counts
        {'namespaces': 1, 'records': 1}
        """
        from .tiers.outgoing import export

        return export(self._engine(), path, namespace, progress)

    def import_(
        self, path: str | os.PathLike[str], *, progress: Callable[[int, int], None] | None = None
    ) -> ImportReport:
        """Bring what :meth:`export` has written into this store.

        Keys get the values of the file; histories and vectors that are empty here get all their past, so ``as_of``
        answers the same; rows are added behind those of their series; fills that are booked here already have no
        effect. What was imported before, even in part, is not imported twice: after an error, run it again.

        Parameters
        ----------
        progress : callable, optional
            Called with the bytes that are read, and of how many.

        Raises
        ------
        SerializationError
            A line is damaged, or none of an export; the message has its number. What stands before its batch is kept.
        ValueError
            The name of the file ends in none of those that :meth:`export` writes.
        FillConflict
            An id is booked here with another content, or an instrument defined in another way.

        Notes
        -----
        A batch is written whole or not at all. While it runs, nobody else is to append to the series and collections
        that it brings rows and vectors for (what is missing after an error is found by counting), or to book to the
        positions that it brings.
        **Complexity**: O(size of the file), in memory for a batch.

        Examples
        --------
        >>> with ntmem.open() as memory:
        ...     version = memory.put("desk", "target", b"3")
        ...     report = memory.export("desk.jsonl")
        >>> with ntmem.open() as memory:
        ...     memory.import_("desk.jsonl").counts, memory.get("desk", "target")
        ({'namespaces': 1, 'records': 1}, b'3')
        """
        from .tiers.incoming import Parts, import_file

        engine = self._engine()
        if self.read_only:
            raise ReadOnlyError("this store was opened with read_only=True; open it for writing")
        parts = Parts(lambda: self.observations, self._own_vectors, lambda: self.positions)
        return import_file(engine, parts, path, progress)

    aexport = twin(export)

    aimport = twin(import_)

    def gauges(self) -> Gauges:
        """Return what the store and all its processes are doing: what ``ntmem top`` and metrics are made of."""
        return gauges_of(self._engine())

    def verify(self) -> VerifyReport:
        """Check the structure of the data file and every checksum, in a process of its own; O(size of the store).

        And whether what is said twice is the same: versions and the newest, records and the index of what expires,
        positions and their fills, series and their rows and blocks, collections and their vectors, trajectories and
        their index. Writers may go on. A private store has no file: its structure is not checked, and all else in this
        process. For a store that cannot be opened there is :func:`ntmem.verify`.
        """
        engine = self._engine()
        return verify_store(engine.store) if self.path is None else verify_directory(self.path)

    averify = twin(verify)


def open(  # the name is the interface: ntmem.open
    path: str | os.PathLike[str] | None = None,
    *,
    durability: Durability = "process",
    flush_interval: float = 0.05,
    clock: ClockChoice = None,
    embedder: EmbeddingProvider | None = None,
    agent_id: str | None = None,
    read_only: bool = False,
    **config: Any,
) -> MemorySystem:
    """Open the store in directory `path`, made when missing; None: a private store that ends with the process.

    Parameters
    ----------
    path : path, optional
        Any number of processes may open the same directory, each as often as it likes.
    durability, flush_interval, **config
        See :class:`MemoryConfig`.
    clock, agent_id, read_only, embedder
        See :class:`MemorySystem`.

    Examples
    --------
    >>> import ntmem
    >>> with ntmem.open() as memory:
    ...     memory.incr("desk", "orders")
    1
    """
    known = {*MemoryConfig.__struct_fields__} - {"storage_path"}
    if not config.keys() <= known:
        unknown = ", ".join(sorted(config.keys() - known))
        raise TypeError(f"open() has no option {unknown}; it has {', '.join(sorted(known))}")
    settings = MemoryConfig(storage_path=path, durability=durability, flush_interval=flush_interval, **config)
    return MemorySystem(settings, clock=clock, agent_id=agent_id, read_only=read_only, embedder=embedder)


def verify(path: str | os.PathLike[str]) -> VerifyReport:
    """Check a store that need not be open, or cannot be: structure and every checksum, in a process of its own."""
    return verify_directory(os.path.abspath(path))


def _reopen(config: MemoryConfig, agent_id: str | None, read_only: bool) -> MemorySystem:
    return MemorySystem(config, agent_id=agent_id, read_only=read_only)


def _upkeep_of(memory: MemorySystem) -> Upkeep:
    """Return the upkeep of a handle, which does not keep the handle alive."""
    ref, config = weakref.ref(memory), memory.config

    def handle() -> MemorySystem:
        found = ref()
        if found is None:
            raise StoreClosed("this store was dropped; open it again")
        return found

    def trim(age: int) -> int:
        return handle().bus.trim_acknowledged(age)

    def consolidate() -> None:
        handle().bank.consolidate(memories=False)

    tasks = Tasks(
        lambda: handle()._engine(), lambda: handle().observations, trim, consolidate, config.enable_compression
    )
    seconds = 0.0 if memory.read_only or not config.upkeep_interval else duration_ns(config.upkeep_interval, "") / NS
    return Upkeep(tasks, interval=seconds, share=config.upkeep_share)


def _release(store: ColdStore, unbind: Callable[[], None] | None) -> None:
    if unbind is not None:
        unbind()
    detach(store)


def _writer(agent_id: str | None) -> bytes:
    if agent_id is None:
        return b"pid-%d" % os.getpid()
    if not isinstance(agent_id, str):
        raise TypeError(f"agent_id must be a str, was {type(agent_id).__name__}")
    try:
        raw = agent_id.encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"agent_id must be encodable as UTF-8, was {agent_id!r}") from error
    if not 0 < len(raw) <= 255:
        raise ValueError(f"agent_id has 1 to 255 bytes of UTF-8, had {len(raw)}")
    return raw


def _fence(fence: FenceLike | None) -> Fence | None:
    return None if fence is None else fence_of(fence)
