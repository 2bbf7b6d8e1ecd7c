"""Rebalancing by vote: now and then the agents decide together whether all of them go flat.

The feeder proposes it before a step, each agent votes in that step, and at the next step who finds it approved goes
flat. Votes depend on what an agent holds alone, and all have voted when a step is over; so a run has the same decisions
whoever is killed or stopped in it.
"""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal
from typing import Any

from ..coordination import Proposal
from ..system import MemorySystem

EVERY = 15
"""Steps from one proposal to the next."""


def poll_at(number: int) -> str | None:
    """Return the id of the proposal that is voted on in a step; None: there is none."""
    return f"flat at {number}" if number > 0 and number % EVERY == 0 else None


def propose(memory: MemorySystem, number: int) -> None:
    """Submit the proposal of a step, if it has one."""
    name = poll_at(number)
    if name is not None:
        memory.consensus.submit_proposal(Proposal("feeder", {"action": "go flat"}, id=name))


def is_to_go_flat(memory: MemorySystem, number: int) -> bool:
    """Whether the agents have decided, in the step before, to hold nothing in this one."""
    name = poll_at(number - 1)
    return name is not None and memory.consensus.result(name).status == "approved"


def account_for_polls(
    memory: MemorySystem, fed: int, fills: dict[str, Sequence[tuple[int, Decimal]]]
) -> tuple[dict[str, Any], list[str]]:
    """Return what was decided, and what is wrong with it.

    Parameters
    ----------
    fed : int
        How many steps all agents have done.
    fills : dict of sequences
        Of each agent: step and signed quantity.
    """
    decisions = {each.proposal_id: each for each in memory.consensus.decisions()}
    problems = []
    if sorted(each.seq or 0 for each in decisions.values()) != list(range(1, len(decisions) + 1)):
        problems.append("the numbers of the decisions have gaps")
    approved = sum(each.status == "approved" for each in decisions.values())
    for number in range(fed):
        name = poll_at(number)
        if name is None:
            continue
        found = decisions.get(name)
        if found is None:
            problems.append(f"{name!r} was never decided")
        elif found.status == "approved":
            for agent, booked in fills.items():
                held = sum((quantity for step, quantity in booked if step <= number + 1), Decimal(0))
                if held and number + 1 < fed:
                    problems.append(f"{name!r} was approved, and {agent} held {held} in the next step")
    return {"proposals": len(decisions), "approved": approved, "rejected": len(decisions) - approved}, problems
