"""Which agents there are, and whether they live.

A registration is a lease on the agent's name, so an agent is registered once, and a record in the namespace
``ntmem/agents``, written under that lease: what it says of itself outlives it.
"""

from __future__ import annotations

import builtins
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal, NamedTuple, Protocol

from .._core.leases import started
from ..errors import CoordinationError, LockLost, NotOwner
from ..instants import NS, Duration, duration_ns
from ..namespace import labels_of
from ..records import Fence
from ..tiers.engine import LmdbEngine
from ..values import CODECS
from .locks import asked
from .protocols import Grant, LockInfo
from .shared import SharedLocks
from .tokens import RESERVED, encode_resource

AGENTS = ("ntmem", "agents")
"""The namespace of what agents say of themselves."""

_PREFIX = RESERVED + "agent:"
_MOST_BYTES = 240
_TELLING = 10 * NS  # a lease for as long as it takes to write down what an agent says of itself

Status = Literal["alive", "silent", "dead"]


class AgentInfo(NamedTuple):
    """An agent at one moment.

    Attributes
    ----------
    agent_id : str
    status : {"alive", "silent", "dead"}
        Its heart has beaten in time; it has not, though its process lives; its process is gone.
    capabilities : tuple of str
        What it says it can do.
    info : dict
        What else it says of itself.
    pid : int
        Of its process.
    registered_at : int
        By the store's clock, ns UTC.
    remaining : float
        Seconds in which its heart has to beat again; 0.0: it is late.
    fence : Fence
        Of its registration.
    """

    agent_id: str
    status: Status
    capabilities: tuple[str, ...]
    info: dict[str, Any]
    pid: int
    registered_at: int
    remaining: float
    fence: Fence


class Store(Protocol):
    """What the registry asks of a store."""

    agent_id: str | None

    def now(self) -> int: ...
    def get(self, namespace: Any, key: str) -> Any: ...
    def put(self, namespace: Any, key: str, value: bytes, *, fence: Any) -> int: ...
    def delete(self, namespace: Any, key: str, *, fence: Any) -> bool: ...
    def scan(self, namespace: Any) -> Iterator[tuple[str, bytes]]: ...


class Registered(dict[str, tuple[Grant, int, bytes]]):
    """Agents of a store handle: their leases, for how many ns each is renewed, and what it says of itself."""

    def __init__(self) -> None:
        self.mutex = threading.RLock()


class Agents:
    """The agents of a store. ``memory.agents``.

    Notes
    -----
    **Thread safety**: any thread. **Complexity**: a heartbeat is some hundred nanoseconds; :meth:`list` O(agents).
    """

    def __init__(
        self, memory: Store, locks: SharedLocks, engine: Callable[[], LmdbEngine], registered: Registered
    ) -> None:
        self._memory = memory
        self._engine = engine
        self._locks = locks
        self._mine = registered

    def register(self, agent_id: str, *, capabilities: Sequence[str] = (), ttl: Duration = 30.0, **info: Any) -> Fence:
        """Announce an agent of this process; again: with other capabilities and info.

        Parameters
        ----------
        agent_id : str
            At most 240 bytes of UTF-8.
        capabilities : sequence of str
            What others may look for with :meth:`list`.
        ttl : float or timedelta
            Seconds in which its heart has to beat (:meth:`heartbeat`) for it to count as alive.
        **info
            Anything that msgpack can say.

        Raises
        ------
        CoordinationError
            Another one of that name is alive.
        """
        name, ns = _name_of(agent_id), duration_ns(ttl, "ttl")
        if isinstance(capabilities, str) or not all(isinstance(each, str) for each in capabilities):
            raise TypeError(f"capabilities must be a sequence of str, was {capabilities!r}")
        said = {"capabilities": list(capabilities), "info": info, "ttl": ns}
        said |= {"pid": os.getpid(), "start": started(os.getpid()), "at": self._memory.now()}
        data = CODECS["msgpack"].encode(said)  # before a lease is granted: it may be refused
        with self._mine.mutex:
            return self._register(agent_id, name, ns, data)

    def _register(self, agent_id: str, name: bytes, ns: int, data: bytes) -> Fence:
        known = self._mine.get(agent_id)
        while_told = max(ns, _TELLING)
        is_same = known is not None and asked(lambda: known[0].renew(while_told))
        grant = known[0] if known is not None and is_same else self._locks.grant_named(name, while_told, 0.0)
        if grant is None:
            other = self._lease_of(name)
            who = "another process" if other is None else f"process {other.pid} ({other.owner})"
            raise CoordinationError(
                f"agent {agent_id!r} is alive in {who}; wait until it is gone, unregister it there (through the store "
                "handle that registered it), or take another name"
            )
        fence = Fence(name.decode(), grant.number)
        try:
            self._memory.put(AGENTS, agent_id, data, fence=fence)
        except BaseException:
            if not is_same:
                asked(grant.release)
            raise
        asked(lambda: grant.renew(ns))
        self._mine[agent_id] = grant, ns, data
        return fence

    def unregister(self, agent_id: str | None = None) -> None:
        """Take an agent of this process (None: all of them) off the list."""
        with self._mine.mutex:
            for each in self._chosen(agent_id):
                self._leave(each, self._mine.pop(each)[0])

    def _leave(self, each: str, grant: Grant) -> None:
        held: Grant | None = grant
        if not asked(lambda: grant.renew(_TELLING)):  # it was late
            held = self._locks.grant_named(_name_of(each), _TELLING, 0.0)
        if held is not None:  # else another process has registered an agent of that name
            self._memory.delete(AGENTS, each, fence=Fence(_name_of(each).decode(), held.number))
            asked(held.release)

    def heartbeat(self, agent_id: str | None = None) -> None:
        """Say that an agent of this process (None: all of them) is alive. One that is late is registered anew.

        Raises
        ------
        LockLost
            It was late, and another process has registered an agent of that name since.
        """
        with self._mine.mutex:
            for each in self._chosen(agent_id):
                self._beat(each)

    def _beat(self, each: str) -> None:
        grant, ns, data = self._mine[each]
        if asked(lambda: grant.renew(ns)):
            return
        again = self._locks.grant_named(_name_of(each), max(ns, _TELLING), 0.0)
        if again is None:
            del self._mine[each]
            raise LockLost(f"agent {each!r} was late by its {ns / NS:g} s, and is registered by another process since")
        self._mine[each] = again, ns, data
        self._memory.put(AGENTS, each, data, fence=Fence(_name_of(each).decode(), again.number))
        asked(lambda: again.renew(ns))

    def _chosen(self, agent_id: str | None) -> builtins.list[str]:
        self._engine().check_process()
        if agent_id is None:
            return [*self._mine]
        if agent_id not in self._mine:
            raise CoordinationError(
                f"agent {agent_id!r} is not registered through this store handle; register it first"
            )
        return [agent_id]

    # -- who is there

    def list(self, *, capability: str | None = None) -> builtins.list[AgentInfo]:
        """Return the agents by name, those that died without :meth:`unregister` too; or those that can do something."""
        leases = {info.resource: info for info, is_lock in self._locks.rows() if not is_lock and info.fence is not None}
        found = []
        for agent_id, data in self._memory.scan(AGENTS):
            said = CODECS["msgpack"].decode(data)
            if capability is None or capability in said["capabilities"]:
                found.append(_agent(agent_id, said, leases.get(_name_of(agent_id).decode())))
        return found

    def get(self, agent_id: str) -> AgentInfo | None:
        """Return one agent; None: there is none of that name."""
        data = self._memory.get(AGENTS, agent_id)
        if data is None:
            return None
        return _agent(agent_id, CODECS["msgpack"].decode(data), self._lease_of(_name_of(agent_id)))

    def _lease_of(self, name: bytes) -> LockInfo | None:
        return next((info for info, _ in self._locks.rows(name)), None)

    # -- who may write where

    def own(self, namespace: str | tuple[str, ...], agent_id: str | None = None) -> None:
        """Let only store handles opened with this ``agent_id`` write to a namespace (not to its children).

        This guards against mistakes: any process of the same user can open the store under any name.

        Parameters
        ----------
        agent_id : str, optional
            By default that of this handle.

        Raises
        ------
        NotOwner
            It belongs to another.
        """
        owner = agent_id or self._memory.agent_id
        if not owner:
            raise ValueError("open the store with agent_id=, or say whose the namespace is to be")
        encode_resource(owner)
        labels = labels_of(namespace)
        if labels[0] == AGENTS[0]:
            raise NotOwner(f"{'/'.join(labels)} is ntmem's own; choose another namespace")
        self._engine().own(labels, owner)

    def disown(self, namespace: str | tuple[str, ...]) -> None:
        """Let anybody write to a namespace again; only its owner can."""
        self._engine().own(labels_of(namespace), "")


def _name_of(agent_id: str) -> bytes:
    raw = encode_resource(agent_id)
    if len(raw) > _MOST_BYTES:
        raise ValueError(f"agent_id has at most {_MOST_BYTES} bytes of UTF-8, had {len(raw)}")
    return _PREFIX.encode() + raw


def _agent(agent_id: str, said: dict[str, Any], lease: LockInfo | None) -> AgentInfo:
    is_mine = lease is not None and lease.fence is not None and lease.pid == said["pid"]
    status: Status = "dead"
    if is_mine and lease is not None and lease.is_current:
        status = "alive"
    elif started(said["pid"]) == said["start"]:
        status = "silent"
    fence = lease.fence if lease is not None and lease.fence is not None else Fence(_name_of(agent_id).decode(), 0)
    return AgentInfo(
        agent_id,
        status,
        tuple(said["capabilities"]),
        said["info"],
        said["pid"],
        said["at"],
        lease.remaining if lease is not None and is_mine else 0.0,
        fence,
    )
