"""The seeds' name of the bus."""

from __future__ import annotations

from .coordination.bus import BusState, SharedBus
from .system import MemorySystem
from .system import open as open_store


class PubSubBroker(SharedBus):
    """The bus of a store, or (None) one of this process alone: ``PubSubBroker::new()`` of the seeds.

    Examples
    --------
    >>> broker = PubSubBroker()
    >>> with broker.subscribe("agent_1/updates") as updates:
    ...     _ = broker.publish("agent_1/updates", b"target 3")
    ...     updates.recv(timeout=1).payload
    b'target 3'
    """

    def __init__(self, memory: MemorySystem | None = None) -> None:
        self.memory = open_store(engine="shared") if memory is None else memory
        super().__init__(self.memory._engine, BusState(), waits_for_disk=self.memory.config.durability == "disk")
