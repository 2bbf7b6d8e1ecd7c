"""Who may do what when several agents share a store: locks that end by themselves, agents known to live, votes."""

from .agents import AgentInfo, Agents
from .consensus import Consensus
from .locks import Lock
from .protocols import AgentRegistry, Ballot, ConsensusResult, Grant, LockInfo, LockManager, Proposal, Vote
from .tokens import LockToken

__all__ = [
    "AgentInfo",
    "AgentRegistry",
    "Agents",
    "Ballot",
    "Consensus",
    "ConsensusResult",
    "Grant",
    "Lock",
    "LockInfo",
    "LockManager",
    "LockToken",
    "Proposal",
    "Vote",
]
