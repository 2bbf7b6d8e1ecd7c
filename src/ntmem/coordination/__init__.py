"""Who may do what when several agents share a store: locks that end by themselves, agents that are known to live."""

from .agents import AgentInfo, Agents
from .locks import Lock
from .protocols import AgentRegistry, Grant, LockInfo, LockManager
from .tokens import LockToken

__all__ = ["AgentInfo", "AgentRegistry", "Agents", "Grant", "Lock", "LockInfo", "LockManager", "LockToken"]
