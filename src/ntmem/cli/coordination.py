"""``ntmem locks`` and ``ntmem agents``: who holds what, and who is there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

import ntmem
from ntmem._core.text import iso

from .output import examples, existing, json_option, jsonable, plain, print_found, store_option, verb

_LOCKS = """
\b
Columns:
  resource      what is locked
  state         held; over: its time has passed, and whoever asks next has it;
                dead: its process is gone, the same; free: given back, and
                somebody waits
  fence         number of the lease that was granted last
  owner, pid    who holds it
  remaining     seconds until it is over
  held          seconds since it was granted
  waiting       how many wait for it in order
  waits, longest wait
                how often it was granted after a wait, and the longest, in s
""" + examples("ntmem locks", "ntmem locks --store ./desk --json")

_AGENTS = """
\b
Columns:
  agent         its id
  status        alive; silent: its process lives, but its heart has not beaten
                in time; dead: its process is gone
  pid           of its process
  registered    when, by the store's clock
  remaining     seconds in which its heart has to beat again
  capabilities  what it says it can do
""" + examples("ntmem agents", "ntmem agents --capability momentum")


@click.command(epilog=_LOCKS)
@store_option
@json_option
@verb
def locks(store: Path, as_json: bool) -> None:
    """List the locks of a store that are held or waited for. It changes nothing."""
    with existing(store) as memory:
        found = [_lock(info) for info in memory.locks.list()]
    print_found(
        found,
        as_json,
        "nothing is locked",
        ("resource", "state", "fence", "owner", "pid", "remaining", "held", "waiting", "waits", "longest wait"),
        (
            (
                plain(lock["resource"]),
                lock["state"],
                *("-" if lock[name] is None else plain(str(lock[name])) for name in ("fence", "owner", "pid")),
                *("-" if lock[name] is None else f"{lock[name]:.3f}" for name in ("remaining", "held")),
                str(lock["waiting"]),
                str(lock["waits"]),
                f"{lock['longest_wait']:.3f}",
            )
            for lock in found
        ),
        right=(2, 4, 5, 6, 7, 8, 9),
    )


def _lock(info: ntmem.LockInfo) -> dict[str, Any]:
    """Return a lock for JSON; what is known of its holder is None when nobody has it."""
    is_free = info.fence is None
    holder = {
        "fence": None if info.fence is None else info.fence.number,
        "owner": info.owner,
        "pid": info.pid,
        "remaining": info.remaining,
        "held": info.held,
    }
    return {
        "resource": info.resource,
        "state": "free" if is_free else "held" if info.is_current else "over" if info.is_alive else "dead",
        **(dict.fromkeys(holder) if is_free else holder),
        "waiting": info.waiting,
        "grants": info.grants,
        "waits": info.waits,
        "waited": info.waited,
        "longest_wait": info.longest_wait,
    }


@click.command(epilog=_AGENTS)
@click.option("--capability", help="Only those that can do this.")
@store_option
@json_option
@verb
def agents(capability: str | None, store: Path, as_json: bool) -> None:
    """List the agents of a store, and whether they live. It changes nothing."""
    with existing(store) as memory:
        found = memory.agents.list(capability=capability)
    print_found(
        [_agent(agent) for agent in found],
        as_json,
        "there are no agents",
        ("agent", "status", "pid", "registered", "remaining", "capabilities"),
        (
            (
                plain(agent.agent_id),
                agent.status,
                str(agent.pid),
                iso(agent.registered_at),
                f"{agent.remaining:.3f}",
                plain(", ".join(agent.capabilities)) or "-",
            )
            for agent in found
        ),
        right=(2, 4),
    )


def _agent(agent: ntmem.AgentInfo) -> dict[str, Any]:
    return {
        "agent": agent.agent_id,
        "status": agent.status,
        "pid": agent.pid,
        "registered_at": agent.registered_at,
        "remaining": agent.remaining,
        "fence": agent.fence.number,
        "capabilities": list(agent.capabilities),
        "info": jsonable(agent.info),
    }
