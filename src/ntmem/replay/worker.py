"""The process around one agent: ``python -m ntmem.replay.worker CONTROL REPLY AGENT``, with two inherited pipe ends.

It does what the control pipe says and acknowledges on the reply pipe, so whatever an agent prints disturbs nothing.
When the control pipe closes the process ends, in the midst of a step if need be: nothing here needs a shutdown.
"""

from __future__ import annotations

import os
import select
import sys
import threading
import time
import traceback
from collections.abc import Iterator

from ..system import open as open_store
from .loading import load_agent
from .wire import Ack, Begin, Failed, Frames, Go, Ready, ToAgent, send, to_agent

_CHUNK = 1 << 16


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
        with open_store(begin.store, agent_id=begin.name) as memory:
            agent.begin(
                memory,
                begin.name,
                begin.symbol,
                window=begin.window,
                horizon=begin.horizon,
                seed=begin.seed,
            )
            durations = dict(agent.take_durations())
            send(reply, Ready(agent.cursor, begun_at, time.monotonic_ns(), durations))
            for message in messages:
                if not isinstance(message, Go):
                    return
                step = message.step
                writes, durations = agent.step(step)
                send(reply, Ack(step, writes, durations))
    except BrokenPipeError:
        return
    except BaseException:  # also SystemExit: an agent that leaves has failed, whatever it wanted to say by that
        send(reply, Failed(step, traceback.format_exc()))
        sys.exit(1)


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
