"""The process around one agent: ``python -m ntmem.replay.worker CONTROL REPLY AGENT``, with two inherited pipe ends.

It does what the control pipe says and acknowledges on the reply pipe, so whatever an agent prints disturbs nothing.
When the control pipe closes the process ends, in the midst of a step if need be: nothing here needs a shutdown.

It is the agent while it holds the lock of the agent's book. Told to pause it stands still where nothing is worse: its
orders are decided, not written, and whoever takes over meanwhile cannot know of them.
"""

from __future__ import annotations

import os
import select
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator

from ..errors import StaleFence
from ..system import open as open_store
from ..tiers import observations  # noqa: F401, or who stands by imports it when it is needed
from .agent import Agent
from .desk import Held, held_book
from .loading import load_agent
from .wire import Ack, Begin, Decided, Failed, Frames, Go, Ready, Refused, ToAgent, send, to_agent

_CHUNK = 1 << 16
_LAST_BEAT = 0.1
"""Seconds after which an agent that pauses counts as silent: less than its lease is going to last."""


class _Ended(Exception):
    """The supervisor wants no more of a step that is paused."""


def main() -> None:
    """Serve the supervisor until it says stop, goes away, or the agent raises."""
    control, reply = int(sys.argv[1]), int(sys.argv[2])
    threading.Thread(target=_end_with, args=(control,), daemon=True).start()
    step: int | None = None
    try:
        make = load_agent(sys.argv[3] or None)  # before it is told to begin: a process may stand by
        messages = _messages(control)
        begin = next(messages, None)
        if begin is None:
            return
        assert isinstance(begin, Begin)
        begun_at = time.monotonic_ns()
        agent = make()
        with (
            open_store(begin.store, agent_id=begin.name) as memory,
            held_book(memory, begin.name, begin.symbol) as held,
        ):
            agent.begin(
                memory,
                begin.name,
                begin.symbol,
                window=begin.window,
                horizon=begin.horizon,
                seed=begin.seed,
                fence=held.fence,
            )
            send(reply, _ready(agent, held, begun_at))
            for message in messages:
                if not isinstance(message, Go):
                    return
                step = message.step
                if message.pause:
                    agent.before_commit = _pause(held, step, messages, reply)
                send(reply, _do(agent, held, step, message.pause))
    except (BrokenPipeError, _Ended):
        return
    except BaseException:  # also SystemExit: an agent that leaves has failed, whatever it wanted to say by that
        send(reply, Failed(step, traceback.format_exc()))
        sys.exit(1)


def _ready(agent: Agent, held: Held, begun_at: int) -> Ready:
    durations = dict(agent.take_durations())
    lock = (held.fence.number, held.asked_at, held.granted_at)
    return Ready(agent.cursor, begun_at, time.monotonic_ns(), durations, *lock, agent.judging.found)


def _do(agent: Agent, held: Held, step: int, paused: bool) -> Ack | Refused:
    """Beat the agent's heart and let it do a step."""
    begun = time.perf_counter_ns()
    held.memory.agents.heartbeat(held.name)
    beat = time.perf_counter_ns() - begun
    try:
        writes, durations = agent.step(step)
    except StaleFence as error:
        if not paused:
            raise
        return Refused(step, str(error))
    return Ack(step, writes, durations | {"heartbeat": [beat]}, agent.judging.take_kept())


def _pause(held: Held, step: int, messages: Iterator[ToAgent], reply: int) -> Callable[[], None]:
    """Return what an agent does before it commits: say that it has decided, and wait."""

    def pause() -> None:
        held.fall_silent(_LAST_BEAT)
        send(reply, Decided(step))
        if not isinstance(next(messages, None), Go):
            raise _Ended

    return pause


def _messages(control: int) -> Iterator[ToAgent]:
    frames = Frames()
    while data := os.read(control, _CHUNK):
        for body in frames.feed(data):
            yield to_agent.decode(body)


def _end_with(control: int) -> None:
    """End this process when the other end of the pipe is closed, even while an agent hangs."""
    poll = select.poll()
    poll.register(control, 0)  # only hang-ups, which need no asking for
    poll.poll()
    os._exit(0)


if __name__ == "__main__":
    main()
