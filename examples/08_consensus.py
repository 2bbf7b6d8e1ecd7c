"""A decision that several agents take together, and that is carried out once.

Each agent votes by its own view of the risk. A proposal is decided once and for ever, the same for all processes;
decisions have one order and numbers without gaps. So whoever carries them out keeps the number of the last one it
did, in the same transaction as what it did: not one is done twice, or left out, whenever it is killed.

    python examples/08_consensus.py [DIRECTORY]

Prints::

    1: hold 4 rejected with 0%
    2: hold 2.5 approved with 75%
    3: hold 5 rejected with 0%
    held: 2.5
    who was not registered when it was submitted has no vote
"""

import sys
import tempfile
from fractions import Fraction

import ntmem

AGENTS = {"risk": 2, "trend": 1, "carry": 1}
MOST = {"risk": 3.0, "trend": 6.0, "carry": 4.5}  # what each would hold at most
PROPOSALS = [("hold 4", 4.0, Fraction(1, 2)), ("hold 2.5", 2.5, Fraction(2, 3)), ("hold 5", 5.0, Fraction(1, 2))]


def vote(memory: ntmem.MemorySystem, agent: str) -> None:
    """Vote on all that is not decided yet."""
    votes = memory.consensus
    for proposal in votes.pending():
        votes.vote(ntmem.Vote(proposal.id, agent, approve=proposal.data["quantity"] <= MOST[agent]))


def carry_out(memory: ntmem.MemorySystem) -> None:
    """Do what was decided since the last time, each exactly once."""
    done = int(memory.get("executor", "done", b"0"))
    for decision in memory.consensus.decisions(since=done):
        proposal = memory.consensus.proposal(decision.proposal_id)
        with memory.transaction() as t:
            change = proposal.data["quantity"] - memory.positions.quantity("BTCUSDT")
            if decision.status == "approved" and change:
                t.apply_fill("BTCUSDT", change, 61_800, trade_id=f"decision-{decision.seq}")
            t.put("executor", "done", str(decision.seq).encode())
        print(f"{decision.seq}: {proposal.data['name']} {decision.status} with {decision.approval_rate:.0%}")


def main(directory: str) -> None:
    with ntmem.open(directory) as memory:
        votes = memory.consensus
        for agent, weight in AGENTS.items():
            votes.register(agent, weight)
        for name, quantity, quorum in PROPOSALS:
            data = {"name": name, "quantity": quantity}
            proposal_id = votes.submit_proposal(ntmem.Proposal("trend", data, quorum, timeout=30))
            for agent in AGENTS:  # in life each in its own process
                vote(memory, agent)
            votes.wait(proposal_id, timeout=30)
        carry_out(memory)
        carry_out(memory)  # nothing is new
        print("held:", memory.positions.quantity("BTCUSDT"))
        try:
            votes.vote(ntmem.Vote(proposal_id, "stranger", approve=True))
        except ntmem.ConsensusError:
            print("who was not registered when it was submitted has no vote")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as scratch:
        main(sys.argv[1] if len(sys.argv) > 1 else scratch)
